"""Log integrals over the effects of each level of one grouping factor, by adaptive Gauss-Hermite quadrature (`quadrature`)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.dense import lower_inverse
from bayeslmm.exact.laplace import Observed
from bayeslmm.exact.quadrature import Nodes, level_curvature
from bayeslmm.exact.zeros import zeroed_slopes

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class Integrals(NamedTuple):
    """log ∫ exp(Σ ℓ(η) − ½b'b) db/(2π)^{k/2} of every level, and of every row's level without that row, and with it twice."""

    levels: Array
    without: Array
    twice: Array


@kernel
def log_sum(f: Array) -> float:
    """log Σ exp f."""
    top = f.max()
    return top + math.log(np.exp(f - top).sum())


@kernel
def without(base: Array, f: Array, own: Array, i: int) -> Array:
    """f = base + Σ own without row i; summed anew at nodes whose means that row cannot have, where it is −∞."""
    out = f - own[i]
    for j in range(f.size):
        if own[i, j] == -np.inf:
            out[j] = base[j]
            for other in range(own.shape[0]):
                out[j] += own[other, j] if other != i else 0.0
    return out


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
    wide: bool,
) -> Integrals:
    """By nodes laid around b (levels, k) by the rows' curvature, the same for every integral of a level.

    If `wide`, by the curvature without the level's heaviest row, so that they reach as far as the integral without it. Where
    a level's curvature is not positive definite, that of its rows' absolute weights lays them.
    """
    out = Integrals(np.empty(start.size - 1), np.empty(fixed.size), np.empty(fixed.size))
    f, base = np.empty(nodes.x.shape[0]), np.empty(nodes.x.shape[0])
    for level in range(out.levels.size):
        rows = order[start[level] : start[level + 1]]
        z = columns[rows]
        zl = np.dot(z, lam)
        w = weight[rows]
        if wide and rows.size > 0:
            w[np.argmax(w * np.sum(zl * zl, axis=1))] = 0.0
        L = level_curvature(z, w, lam)[1]
        if not np.isfinite(L[0, 0]):
            L = level_curvature(z, np.abs(w), lam)[1]
        own = np.empty((rows.size, f.size))
        spread = math.sqrt(2.0) * lower_inverse(L).T.copy()
        for j in range(f.size):
            at = b[level] + np.dot(spread, nodes.x[j])
            base[j] = nodes.log_weight[j] - 0.5 * np.dot(at, at)
            f[j] = base[j]
            for i in range(rows.size):
                row = rows[i]
                eta = fixed[row]
                for e in range(at.size):
                    eta += zl[i, e] * at[e]
                whole = a + d.aux_rows[row]
                here = zeroed_slopes(d.zeros, d.family, d.link, d.y[row], d.trials[row], eta, whole, d.zeta[row])
                own[i, j] = d.weights[row] * here.value
                f[j] += own[i, j]
        volume = np.log(np.diag(L)).sum()
        out.levels[level] = log_sum(f) - volume
        for i in range(rows.size):
            out.without[rows[i]] = log_sum(without(base, f, own, i)) - volume
            out.twice[rows[i]] = log_sum(f + own[i]) - volume
    return out
