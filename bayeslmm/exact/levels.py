"""Log integrals over the effects of each level of one grouping factor, by adaptive Gauss-Hermite quadrature (`quadrature`)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.dense import lower_inverse
from bayeslmm.exact.laplace import Observed
from bayeslmm.exact.quadrature import Nodes, level_curvature
from bayeslmm.exact.zeros import zeroed_slopes

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@kernel
def log_integrals(
    d: Observed,
    columns: Array,
    order: Index,
    start: Index,
    lam: Array,
    fixed: Array,
    b: Array,
    weight: Array,
    a: float,
    nodes: Nodes,
) -> Array:
    """log ∫ exp(Σ ℓ(η) − ½b'b) db/(2π)^{k/2} of every level, nodes laid around b (levels, k) by the rows' curvature.

    Where a level's curvature is not positive definite, that of its rows' absolute weights lays them.
    """
    out = np.empty(start.size - 1)
    f = np.empty(nodes.x.shape[0])
    for level in range(out.size):
        rows = order[start[level] : start[level + 1]]
        z = columns[rows]
        zl = np.dot(z, lam)
        L = level_curvature(z, weight[rows], lam)[1]
        if not np.isfinite(L[0, 0]):
            L = level_curvature(z, np.abs(weight[rows]), lam)[1]
        spread = math.sqrt(2.0) * lower_inverse(L).T.copy()
        for j in range(f.size):
            at = b[level] + np.dot(spread, nodes.x[j])
            f[j] = nodes.log_weight[j] - 0.5 * np.dot(at, at)
            for i in range(rows.size):
                row = rows[i]
                eta = fixed[row]
                for e in range(at.size):
                    eta += zl[i, e] * at[e]
                whole = a + d.aux_rows[row]
                here = zeroed_slopes(d.zeros, d.family, d.link, d.y[row], d.trials[row], eta, whole, d.zeta[row])
                f[j] += d.weights[row] * here.value
        top = f.max()
        out[level] = top + math.log(np.exp(f - top).sum()) - np.log(np.diag(L)).sum()
    return out
