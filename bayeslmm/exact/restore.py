"""Draws of (β, u) given draws of (sd, correlations, σ), exactly: what the collapsed sampler left out.

β_Q ~ N(m̃, P⁻¹), then u = Λ(M⁻¹Λ'(b_y − B_xβ_Q) + σ L⁻ᵀz), LL' = M.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.dense import backward
from bayeslmm.exact.density import Layout, lam_of, natural
from bayeslmm.exact.factor import System, back_solve, times_lambda
from bayeslmm.exact.gaussian import INTEGRATED, level, marginal

Array = NDArray[np.float64]


@kernel
def restore(s: System, layout: Layout, draws: Array, z: Array, beta: Array, u: Array) -> None:
    """Fill β_Q (m, p) and scaled u (m, Q) for m draws of the coordinates, from standard normals z (m, p + Q)."""
    p = s.C.shape[0] - 1
    Q = s.B.shape[0]
    for m in range(draws.shape[0]):
        at = natural(layout, draws[m])
        lam = lam_of(layout, at, s.lam_at[-1] if s.lam_at.size else 0)
        where = marginal(s, lam)
        sigma = at.sigma / layout.y_scale
        if layout.beta_code.size == 0:
            found = level(where.S, where.logdet, layout.nobs, sigma, layout.T, layout.t, INTEGRATED)
            step = z[m, :p].copy()
            backward(found.P, step)
            beta[m] = found.beta + step
        else:
            beta[m] = at.beta
        if Q == 0:
            continue
        Y = where.factor.Y
        mixed = np.empty((Q, 1))
        for i in range(Q):
            total = Y[i, p] + sigma * z[m, p + i]
            for j in range(p):
                total -= Y[i, j] * beta[m, j]
            mixed[i, 0] = total
        u[m] = times_lambda(s, lam, back_solve(s, where.factor, mixed))[:, 0]
