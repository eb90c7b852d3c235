"""Standard deviations at or near 0, correlations at ±1: where a point, a mean and an interval part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from bayeslmm.disagreement import NOTABLE, Reason, Setting, called, listing, shown
from bayeslmm.estimates import EDGE, Estimates, variance_names
from bayeslmm.result import PointFit

Array = NDArray[np.float64]
FALL = 2.71  # 5 % point of the deviance's fall to a variance of 0: an even mixture of χ²₀ and χ²₁
FAR = 0.35  # uncertainty/sd below which the deviance rises by more than that at 0
PILED = 0.25  # density near 0 over the highest one; a normal two sds away from 0 has it


def boundary(setting: Setting) -> list[Reason]:
    """Standard deviations at or near 0, correlations at ±1."""
    names = dict.fromkeys(name for column in setting.columns for name in variance_names(column.result.model))
    found = [_at_zero(setting, name) for name in names if name.startswith("sd_")]
    found += [_at_one(setting, name) for name in names if name.startswith("corr_")]
    return [reason for reason in found if reason is not None]


def _at_zero(setting: Setting, name: str) -> Reason | None:
    columns = [column for column in setting.columns if name in column.names]
    zero = [column for column in columns if column.draws is None and column.estimate[column.at(name)] == 0]
    above = [column for column in columns if column not in zero]
    if zero:
        labels = tuple(column.label for column in columns)
        verb = "puts" if len(zero) == 1 else "put"
        text = f"{name} is at its boundary: {listing(c.label for c in zero)} {verb} it at exactly 0"
        text += ", with no standard error and no interval." + "".join(_away_from_zero(column, name) for column in above)
        return Reason("boundary", text, labels, (name,), {column.label: 0.0 for column in zero})
    if not any(abs(setting.gap(column, name)) >= NOTABLE for column in columns):
        return None
    return _near_zero(columns, name)


def _away_from_zero(column: Estimates, name: str) -> str:
    at = column.at(name)
    value, scale = column.estimate[at], column.uncertainty[at]
    if column.draws is None:
        return f" {column.label} has {shown(value, scale)}."
    interval = f"{shown(column.lower[at], scale)} to {shown(column.upper[at], scale)}"
    return (
        f" The mean of {called(column.label)}, {shown(value, scale)}, is above 0 because it averages over all values "
        f"that the data leave possible: read its interval, {interval}, rather than either number."
    )


def _near_zero(columns: Sequence[Estimates], name: str) -> Reason | None:
    fits = {c.label: c.result for c in columns if isinstance(c.result, PointFit) and _close(c, name)}
    rises = {label: rise for label, fit in fits.items() if (rise := rise_at_zero(fit, name)) < FALL}
    piles = {c.label: density_at_zero(c.draws[..., c.at(name)]) for c in columns if c.draws is not None}
    piles = {label: share for label, share in piles.items() if share > PILED}
    if not rises and not piles:
        return None
    said = [f"without it {label}'s deviance rises by {rise:.2f} (5 % point {FALL})" for label, rise in rises.items()]
    said += [f"at 0 {called(label)} still has {share:.0%} of its highest density" for label, share in piles.items()]
    text = f"{name} is close to its boundary: {listing(said)}. Mode, mean and symmetric intervals part there."
    return Reason("boundary", text, tuple(column.label for column in columns), (name,), rises | piles)


def _close(column: Estimates, name: str) -> bool:
    fit, at = column.result, column.at(name)
    usable = (
        isinstance(fit, PointFit) and fit.method in ("REML", "ML") and fit.model.family == "gaussian" and not fit.fixed
    )
    return usable and not column.uncertainty[at] / column.estimate[at] < FAR


def _at_one(setting: Setting, name: str) -> Reason | None:
    columns = [column for column in setting.columns if name in column.names]
    one = [column for column in columns if column.draws is None and abs(column.estimate[column.at(name)]) > 1 - EDGE]
    if not one:
        return None
    evidence = {column.label: float(np.sign(column.estimate[column.at(name)])) for column in one}
    text = (
        f"{name} is at its boundary: {listing(evidence)} {'puts' if len(one) == 1 else 'put'} it at "
        f"{evidence[one[0].label]:.0f}, so one of the two effects is a multiple of the other; the data support one."
    )
    return Reason("boundary", text, tuple(column.label for column in columns), (name,), evidence)


def rise_at_zero(fit: PointFit, name: str) -> float:
    """How much the deviance rises when one sd is 0 and the others adapt.

    Parameters
    ----------
    fit : PointFit
        By REML or ML.
    name : str
        ``sd_Subject[Days]``.

    Returns
    -------
    float
    """
    model, reml = fit.model, fit.method == "REML"
    gone, diagonal = [], []
    for term in model.terms:
        rows = term.covariance.pattern[0]
        gone += [f"sd_{term.group}[{term.effects[row]}]" == name for row in rows]
        diagonal += list(term.covariance.is_diagonal)
    kept = ~np.array(gone)
    theta = np.where(kept, fit.theta, 0.0)
    if not kept.any():
        return model.gaussian.deviance(theta, reml) - fit.deviance
    unit = (1.0 / model.products.theta_scale)[kept]

    def objective(part: Array) -> tuple[float, Array]:
        theta[kept] = part * unit
        value, gradient = model.gaussian.deviance_gradient(theta, reml)
        return value, gradient[kept] * unit

    bounds = [(0.0 if d else None, None) for d in np.array(diagonal)[kept]]
    return float(minimize(objective, theta[kept] / unit, jac=True, method="L-BFGS-B", bounds=bounds).fun) - fit.deviance


def density_at_zero(draws: Array) -> float:
    """Density of nonnegative draws below their 5 % point over that in the densest tenth of them."""
    values = np.sort(draws.ravel())
    tenth = max(2, len(values) // 10)
    densest = np.min(values[tenth - 1 :] - values[: len(values) - tenth + 1]) / 0.1
    return float(densest * 0.05 / max(np.quantile(values, 0.05), np.finfo(float).tiny))
