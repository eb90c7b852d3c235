"""What is known of effects and coefficients given θ and σ: conditional modes and covariances, from the products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.factor import back_solve, times_lambda
from bayeslmm.exact.gaussian import marginal
from bayeslmm.exact.inverse import selected_inverse
from bayeslmm.model import Model

Array = NDArray[np.float64]


def conditional_modes(model: Model, theta: Array, beta: Array) -> dict[str, Array]:
    """E(u | y, β, θ) = ΛM⁻¹Λ'Z'W(y − Xβ), by group."""
    products = model.products
    if not model.groups:
        return {}
    lam = products.lam(theta)
    factor = marginal(products.system, lam).factor
    U = times_lambda(products.system, lam, back_solve(products.system, factor, factor.Y))
    scaled = products.R @ (beta - products.beta_ols) / products.y_scale
    return by_group(model, U[:, -1] - U[:, :-1] @ scaled)


def by_group(model: Model, scaled: Array) -> dict[str, Array]:
    """A scaled solution (Q,) → effects (levels, k) by group, effects in the formula's order."""
    factors = model.products.structure.factors
    found = {factor.group: model.products.ranef(scaled, f) for f, factor in enumerate(factors)}
    return {group: found[group] for group in model.groups}


def conditional_covariances(model: Model, theta: Array, sigma: float) -> dict[str, Array]:
    """σ² ΛM⁻¹Λ' in each level's k × k block, by group."""
    products = model.products
    s, lam = products.system, products.lam(theta)
    inverse = selected_inverse(s, marginal(s, lam).factor)
    found = {}
    for f, factor in enumerate(products.structure.factors):
        k = factor.width
        if f == 0:
            blocks = inverse.I11
        else:
            diagonal = np.flatnonzero((s.rest_row == s.rest_col) & (s.rest_row_factor == f))
            row = {int(s.rest_row[b]): int(s.rest_at[b]) for b in diagonal}
            first = products.structure.rows(f) - s.A11.shape[0] * s.A11.shape[1]
            at = np.array([row[int(r)] for r in first])
            blocks = inverse.I22[at[:, None] + np.arange(k * k)].reshape(-1, k, k)
        own = lam[s.lam_at[f] : s.lam_at[f + 1]].reshape(k, k) / products.effect_scale[f][:, None]
        found[factor.group] = sigma**2 * own @ blocks @ own.T
    return {group: found[group] for group in model.groups}


def coefficient_root(model: Model, S: Array, sigma: float, P0: Array | None = None) -> Array:
    """K (p, p) with K'K = (Sxx/σ² + P0)⁻¹ in the scale of the coefficients."""
    products, p = model.products, model.products.n_fixed
    if not p:
        return np.empty((0, 0))
    tau = (products.y_scale / sigma) ** 2
    P = S[:p, :p] * tau + (0.0 if P0 is None else P0)
    back = np.linalg.inv(products.R) * products.y_scale
    return np.asarray(np.linalg.solve(np.linalg.cholesky(P), back.T))
