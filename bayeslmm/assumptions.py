"""What a linear mixed model assumes of its residuals and random effects, each assumption as one number.

Residuals and predicted effects are divided by their own standard deviations first: given (θ, σ) the conditional residuals
have covariance σ²(V⁻¹ − V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹), the effects Var û = Σ − Var(û − u) with β̂ estimated, both smaller than
those of e and u (Nobre & Singer 2007, Biometrical Journal 49, 863–875).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bayeslmm.conditional import by_group, conditional_covariances
from bayeslmm.deletion import RowInverse
from bayeslmm.exact.factor import back_solve, times_lambda
from bayeslmm.exact.gaussian import marginal
from bayeslmm.influence import cooks_distance, standardised
from bayeslmm.model import Model
from bayeslmm.result import PointFit

Array = NDArray[np.float64]
Codes = NDArray[np.integer]
# Share of an effect's variance, beyond rounding, from which its prediction varies at all.
VARIES = 1e-9


@dataclass(frozen=True, eq=False)
class Standardised:
    """Residuals and effects of a fit with variance 1 under the model, and what each row and level weighs.

    Parameters
    ----------
    fitted : ndarray (n,)
        Fitted values with the random effects.
    residual : ndarray (n,)
        Conditional residuals over their standard deviations.
    leverage : ndarray (n,)
    cooks_rows : ndarray (n,)
        Cook's distances of the rows.
    cooks_levels : mapping of group to ndarray (levels,)
        Cook's distances of the levels.
    effects : mapping of group to ndarray (levels, k)
        Predicted effects over their standard deviations; NaN where they do not vary.
    distance : mapping of group to ndarray (levels,)
        û'(Var û)⁻¹û, χ² with as many degrees of freedom as the effects have dimensions.
    """

    fitted: Array
    residual: Array
    leverage: Array
    cooks_rows: Array
    cooks_levels: Mapping[str, Array]
    effects: Mapping[str, Array]
    distance: Mapping[str, Array]


def standardise(fit: PointFit) -> Standardised:
    """Residuals, effects and influence of a fit on scales that compare."""
    rows, model = RowInverse(fit), fit.model
    codes = level_codes(model)
    levels = {group: cooks_distance(rows.by_level(codes[group], len(model.levels(group)))) for group in model.groups}
    scaled = {
        group: scaled_effects(fit.group_ranef[group] / fit.sigma, variance)
        for group, variance in effects_variance(fit).items()
    }
    return Standardised(
        fitted=fit.fitted.to_numpy(),
        residual=standardised(rows, rows.residual),
        leverage=rows.leverage,
        cooks_rows=cooks_distance(rows.by_row()),
        cooks_levels=levels,
        effects={group: values for group, (values, _) in scaled.items()},
        distance={group: distance for group, (_, distance) in scaled.items()},
    )


def level_codes(model: Model) -> dict[str, NDArray[np.intp]]:
    """The level of each row, by group."""
    return {term.group: np.asarray(term.codes, np.intp) for term in model.design.random}


def effects_variance(fit: PointFit) -> dict[str, Array]:
    """Var û / σ² of each level's predicted effects (levels, k, k), by group: that of Σ − Var(û − u)."""
    model = fit.model
    products, p = model.products, model.products.n_fixed
    if not model.groups:
        return {}
    s, lam = products.system, products.lam(fit.theta)
    factor = marginal(s, lam).factor
    solution = times_lambda(s, lam, back_solve(s, factor, factor.Y))[:, :p]
    slopes = by_group(model, np.ascontiguousarray(solution.T)) if p else {}
    conditional = conditional_covariances(model, fit.theta, 1.0)
    found = {}
    for group, absolute in fit.group_sd.items():
        sd = absolute / fit.sigma
        variance = sd[:, None] * fit.group_corr[group] * sd - conditional[group]
        if p:
            by_beta = np.einsum(
                "plk,pj->lkj", slopes[group] / products.y_scale, products.R @ fit.beta_root.T / fit.sigma
            )
            variance = variance - by_beta @ np.swapaxes(by_beta, 1, 2)
        found[group] = np.where((sd[:, None] * sd)[None] > 0, variance, 0.0)
    return found


def scaled_effects(effects: Array, variance: Array) -> tuple[Array, Array]:
    """Effects over their standard deviations (levels, k), and their squared distances from 0 (levels,)."""
    diagonal = np.diagonal(variance, axis1=1, axis2=2)
    varies = diagonal > VARIES * diagonal.max(axis=0)
    sd = np.sqrt(np.where(varies, diagonal, 1.0))
    scaled = np.where(varies, effects / sd, 0.0)
    corr = np.where(varies[:, :, None] & varies[:, None, :], variance / (sd[:, :, None] * sd[:, None, :]), 0.0)
    size, axes = np.linalg.eigh(corr)
    along = np.einsum("lk,lkc->lc", scaled, axes)
    distance = np.sum(np.where(size > VARIES, along**2 / np.where(size > VARIES, size, 1.0), 0.0), axis=1)
    return np.where(varies, scaled, np.nan), distance


def largest(values: Array) -> float:
    """Largest absolute value; NaN where there is none."""
    return float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else float("nan")


def normal_scores(count: int) -> Array:
    """Quantiles of the normal distribution at (i − ½)/n."""
    return np.asarray(ndtri((np.arange(count) + 0.5) / count))


def quantile_correlation(values: Array) -> float:
    """Correlation of sorted values with normal quantiles: 1 for a normal sample (Filliben 1975)."""
    known = np.sort(values[np.isfinite(values)])
    return correlation(known, normal_scores(len(known))) if len(known) > 2 else float("nan")


def correlation(x: Array, y: Array) -> float:
    """Correlation of two variables; NaN where one does not vary."""
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return float("nan")
    x, y = x[known] - x[known].mean(), y[known] - y[known].mean()
    size = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / size) if size > 0 else float("nan")


def levene(residual: Array, codes: Codes) -> float:
    """F of the absolute residuals between the levels (Levene 1960)."""
    known = np.isfinite(residual)
    size, codes = np.abs(residual[known]), codes[known]
    count = np.bincount(codes)
    used = int(np.count_nonzero(count))
    mean = np.bincount(codes, size) / np.maximum(count, 1)
    within = float(np.sum((size - mean[codes]) ** 2))
    between = float(np.sum(count * (mean - size.mean()) ** 2))
    return between / (used - 1) / (within / (len(size) - used)) if within > 0 and len(size) > used > 1 else float("nan")


def autocorrelation(residual: Array, codes: Codes) -> float:
    """Correlation of each residual with the one before it in the same level, in the order of the rows."""
    order = np.argsort(codes, kind="stable")
    same = codes[order][1:] == codes[order][:-1]
    r = residual[order]
    return correlation(r[1:][same], r[:-1][same])


def curvature(residual: Array, x: Array) -> float:
    """Share of the residuals' variation along x that a cubic explains beyond a straight line."""
    known = np.isfinite(residual)
    x, r = x[known], residual[known] - residual[known].mean()
    spread = x.std()
    degree = min(3, len(np.unique(x)) - 1)
    if degree < 2 or not spread > 0:
        return float("nan")
    basis, _ = np.linalg.qr(((x - x.mean()) / spread)[:, None] ** np.arange(degree + 1))
    return float(np.sum((basis[:, 2:].T @ r) ** 2) / (r @ r))


def spread_trend(residual: Array, along: Array) -> float:
    """Correlation of the residuals' absolute values with the ranks of another variable."""
    ranks = np.empty(len(along))
    ranks[np.argsort(along, kind="stable")] = np.arange(len(along))
    return correlation(np.abs(residual), np.where(np.isfinite(along), ranks, np.nan))
