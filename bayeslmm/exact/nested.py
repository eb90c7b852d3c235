"""The log-likelihood of each outermost group, random effects integrated out, where groups are nested or single.

Given (β, θ, σ) the rows of different outermost groups are independent: with e = y − Xβ,

    ℓ_g = −½[log|M_g| − Σ log w + n_g log 2πσ² + (e'We − ‖L⁻¹Λ'Z'We‖²)_g / σ²]

and every pivot of L and every row of L⁻¹Λ'Z'We belongs to one group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.density import Layout, lam_of, natural
from bayeslmm.exact.factor import System, factorise
from bayeslmm.exact.gaussian import LOG_2PI

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@kernel
def group_log_likelihood(
    s: System, layout: Layout, draws: Array, beta: Array, level_group: Index, row_group: Index, C: Array, count: Array
) -> Array:
    """Log-likelihoods (m, groups) at m draws of the coordinates and of β_Q.

    `level_group` is the group of each level of the first factor, `row_group` that of each row of the remainder; C
    (groups, p + 1, p + 1) are the groups' shares of the products and `count` their rows. In the scale of the products,
    without Σ log w.
    """
    groups, p = C.shape[0], C.shape[1] - 1
    q, k = s.A11.shape[0], s.A11.shape[1]
    out = np.empty((draws.shape[0], groups))
    contrast = np.ones(p + 1)
    for m in range(draws.shape[0]):
        at = natural(layout, draws[m])
        fac = factorise(s, lam_of(layout, at, s.lam_at[-1] if s.lam_at.size else 0))
        sigma = at.sigma / layout.y_scale
        contrast[:p] = -beta[m]
        logdet, rss = np.zeros(groups), np.zeros(groups)
        for g in range(groups):
            rss[g] = np.dot(contrast, np.dot(C[g], contrast))
        for row in range(s.B.shape[0]):
            first = row < q * k
            g = level_group[row // k] if first else row_group[row - q * k]
            value = np.dot(fac.Y[row], contrast)
            rss[g] -= value * value
            if first:
                pivot = fac.L11[row // k, row % k, row % k]
            elif s.sparse:
                pivot = fac.L22[0, s.L_ptr[row - q * k]]
            else:
                pivot = fac.L22[row - q * k, row - q * k]
            logdet[g] += 2.0 * np.log(pivot)
        for g in range(groups):
            out[m, g] = -0.5 * (logdet[g] + count[g] * (LOG_2PI + 2.0 * np.log(sigma)) + rss[g] / (sigma * sigma))
    return out
