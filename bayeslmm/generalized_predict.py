"""Predictions of a generalized fit: on the link scale, as means given the effects, and averaged over the groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bayeslmm.approximation import Laplace, Point
from bayeslmm.averaging import averaged, whole
from bayeslmm.errors import MethodError
from bayeslmm.exact.densities import mean_slopes, means
from bayeslmm.exact.factor import Factor, back_solve, factorise, half_solve, times_lambda, times_lambda_transposed
from bayeslmm.exact.laplace import curve
from bayeslmm.exact.leverage import leverage
from bayeslmm.exact.rows import times, transposed_times, weigh
from bayeslmm.exact.zeros import HURDLE
from bayeslmm.family import LINKS, family_of, linked
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.population import STEP, parameter_root
from bayeslmm.result import Result
from bayeslmm.thresholds import by_thresholds

Array = NDArray[np.float64]


class Uncertain(NamedTuple):
    """How far η of rows may be off: the variance of z'(û − u) given the parameters, and dη/dψ (rows, P), û moving with ψ.

    ψ holds all parameters: θ, β, log φ where it is one number, coefficients for φ and for zeros, thresholds.
    """

    effects: Array
    slopes: Array


def uncertainty(fit: GeneralizedFit, X: Array, columns: list[Array], codes: list[NDArray[np.intp]]) -> Uncertain:
    """z'ΛM⁻¹Λ'z and dη/dψ of rows; levels of code -1 contribute nothing."""
    approximation = Laplace(fit.model, fit.information)
    s, lam = approximation.system, approximation.lam(fit.theta)
    moved, factor = _mode_slopes(approximation, fit.point)
    start = fit.model.n_theta
    slopes, place, scaled = np.zeros((len(X), moved.shape[1])), [], []
    slopes[:, start : start + X.shape[1]] = X
    for f, block in enumerate(fit.model.structure.factors if columns else ()):
        z, k = columns[f] / approximation.effect_scale[f], block.width
        known = codes[f] >= 0
        first = fit.model.structure.rows(f)[codes[f]]
        for i in range(k):
            slopes += np.where(known, z[:, i], 0.0)[:, None] * moved[first + i]
        place.append(np.where(known, first, -1))
        scaled.append(np.where(known[:, None], z, 0.0) @ lam[s.lam_at[f] : s.lam_at[f + 1]].reshape(k, k))
    if not place:
        return Uncertain(np.zeros(len(X)), slopes)
    return Uncertain(leverage(s, factor, np.column_stack(place), np.hstack(scaled)), slopes)


def _mode_slopes(approximation: Laplace, point: Point) -> tuple[Array, Factor]:
    """dû/dψ (Q, P) at û = Λb̂, and the factor of M.

    b̂ = Λ'Z'ℓ' gives M db̂ = Λ'Z'(∂ℓ'/∂ψ dψ) for ψ that enter the rows, and M db̂ = dΛ'Z'ℓ' − Λ'Z'WZ dΛ b̂ for θ.
    """
    s, rows, d = approximation.system, approximation.rows, approximation.observed
    lam, mode = approximation.lam(point.theta), approximation.mode(point)
    at = curve(approximation.rows_at(point), mode.eta, point.aux, approximation.expected)
    weigh(s, rows, at.weight)
    turns = [approximation.lam(unit) for unit in np.eye(len(point.theta))]
    direct = [times_lambda(s, turn, mode.b) for turn in turns]
    V = [-at.weight[:, None] * times(s, rows, np.ascontiguousarray(u[:, 0]))[:, None] for u in direct]
    V += [-at.weight[:, None] * d.X]
    V += [at.first_aux[:, None]] if approximation.has_dispersion else []
    V += [at.first_aux[:, None] * approximation.W]
    V += [at.first_zero[:, None] * approximation.Z0] if approximation.Z0.shape[1] else []
    V += (
        [by_thresholds(d.y, approximation.n_thresholds, at.first_aux, at.first_zero)]
        if approximation.n_thresholds
        else []
    )
    right = times_lambda_transposed(s, lam, _across(approximation, np.column_stack(V)))
    score = _across(approximation, at.first[:, None])
    for i, turn in enumerate(turns):
        right[:, i] += times_lambda_transposed(s, turn, score)[:, 0]
    factor = factorise(s, lam)
    moved = times_lambda(s, lam, back_solve(s, factor, half_solve(s, factor, right)))
    moved[:, : len(turns)] += np.column_stack([np.empty((len(moved), 0)), *direct])
    return moved, factor


def _across(approximation: Laplace, V: Array) -> Array:
    """Z'V."""
    out = np.empty((len(approximation.system.B), V.shape[1]))
    transposed_times(approximation.system, approximation.rows, np.ascontiguousarray(V), out)
    return out


class Predictor(NamedTuple):
    """η of rows, its standard error, and the variance z'Σz of the effects of levels that are integrated over."""

    eta: Array
    se: Array
    integrated: Array


def predicted(link: str, at: Predictor, kind: str, tail: float | None) -> dict[str, Array]:
    """Columns mean, se, lower and upper on the scale asked for.

    On the scale of the mean the standard error is by the delta method and the bounds are those of η, taken through the
    (averaged) inverse link.
    """
    width = None if tail is None else float(ndtri(1.0 - tail))
    if kind == "link":
        se = np.sqrt(at.se**2 + at.integrated)
        table = {"mean": at.eta, "se": se}
        return table if width is None else table | {"lower": at.eta - width * se, "upper": at.eta + width * se}
    centre = averaged(link, at.eta, at.integrated)
    table = {"mean": centre.mean, "se": np.abs(centre.slope) * at.se}
    if width is not None:
        ends = [averaged(link, at.eta + side * width * at.se, at.integrated).mean for side in (-1.0, 1.0)]
        table |= {"lower": np.minimum(*ends), "upper": np.maximum(*ends)}
    return table


class Parts(NamedTuple):
    """What every part of the distribution of rows is made of.

    η and how far it may be off, the variance z'Σz of the effects that are integrated over as a function of θ, the columns of the
    formulas for dispersion and zeros, and prior weights.
    """

    eta: Array
    given: Uncertain
    integrated: Callable[[Array], Array]
    dispersion: Array
    zero: Array
    weights: Array | float


class Linear(NamedTuple):
    """A parameter of the distribution on its unbounded scale, row by row, and its derivatives (rows, P) by ψ."""

    value: Array
    slopes: Array


def predicted_parts(fit: GeneralizedFit, at: Parts, kind: str, tail: float | None) -> dict[str, Array]:
    """Columns mean, se, lower and upper of a model with formulas for dispersion or zeros.

    Standard errors are by the delta method over all parameters and the effects. Bounds are taken on the scale of the link
    (of the positive counts of a hurdle on that of log(mean − 1), for the dispersion on the log, for zeros on the logit).
    """
    root, aux, zeta = parameter_root(fit), _aux(fit, at), _zeta(fit, at)
    if kind in ("dispersion", "zero"):
        one, link = (aux, "log") if kind == "dispersion" else (zeta, "logit")
        return _bounded(one.value, np.sqrt(np.sum((one.slopes @ root.T) ** 2, axis=1)), link, 0.0, tail)
    family, link = family_of(fit.model.family), fit.model.link
    if kind == "conditional":
        zeta = Linear(np.full_like(at.eta, -np.inf), np.zeros_like(zeta.slopes))

    def centre(theta: Array) -> Array:
        return whole(family, link, at.eta, at.integrated(theta), aux.value, zeta.value).mean

    spread = at.integrated(fit.theta)
    found = whole(family, link, at.eta, spread, aux.value, zeta.value)
    linear = kind == "link" or family.plain == "gaussian"
    slope = np.ones_like(at.eta) if linear else found.slope
    gradient = slope[:, None] * at.given.slopes
    if not linear:
        gradient += found.slope_aux[:, None] * aux.slopes + found.slope_zero[:, None] * zeta.slopes
        gradient[:, : fit.model.n_theta] += _by_theta(centre, fit.theta, spread)
    variance = slope**2 * at.given.effects + np.sum((gradient @ root.T) ** 2, axis=1)
    if linear:
        noise = np.exp(2.0 * aux.value) / at.weights if kind == "response" else 0.0
        return _bounded(at.eta, np.sqrt(variance + spread + noise), "identity", 0.0, tail)
    floor = 1.0 if kind == "conditional" and family.zeros == HURDLE else 0.0
    value = linked(link, found.mean - floor)
    return _bounded(value, np.sqrt(variance) / np.abs(mean_slopes(LINKS[link], value)), link, floor, tail)


def _by_theta(centre: Callable[[Array], Array], theta: Array, spread: Array) -> Array:
    """Derivatives (rows, m) by θ through the variance of the effects that are integrated over."""
    found = np.zeros((len(spread), len(theta)))
    if spread.any():
        for i, unit in enumerate(STEP * np.eye(len(theta)) * np.maximum(1.0, np.abs(theta))):
            found[:, i] = (centre(theta + unit) - centre(theta - unit)) / (2.0 * unit[i])
    return found


def _bounded(value: Array, se: Array, link: str, floor: float, tail: float | None) -> dict[str, Array]:
    """floor + g⁻¹ of a value, and of its bounds."""
    code = LINKS[link]
    table = {"mean": floor + means(code, value), "se": np.abs(mean_slopes(code, value)) * se}
    if tail is not None:
        width = float(ndtri(1.0 - tail))
        ends = [floor + means(code, value + side * width * se) for side in (-1.0, 1.0)]
        table |= {"lower": np.minimum(*ends), "upper": np.maximum(*ends)}
    return table


def _aux(fit: GeneralizedFit, at: Parts) -> Linear:
    """log φ: one number, or by its formula."""
    start = fit.model.n_theta + len(fit.beta)
    columns = at.dispersion if at.dispersion.shape[1] else np.ones((len(at.eta), int(np.isfinite(fit.dispersion))))
    slopes, stop = np.zeros_like(at.given.slopes), start + columns.shape[1]
    slopes[:, start:stop] = columns
    return Linear(columns @ fit.parameters[start:stop], slopes)


def _zeta(fit: GeneralizedFit, at: Parts) -> Linear:
    """The logit of the probability of a zero of its own."""
    slopes, start = np.zeros_like(at.given.slopes), at.given.slopes.shape[1] - at.zero.shape[1]
    slopes[:, start:] = at.zero
    return Linear(at.zero @ fit.parameters[start:], slopes)


def check_part(result: Result, kind: str) -> None:
    """Raise for a part that the family's distribution does not have."""
    model = result.model
    if kind in ("conditional", "zero") and "zero" not in model.design.further:
        raise MethodError(f'kind="{kind}" is for families with zeros of their own; the model\'s is {model.family}')
    if kind == "dispersion" and (model.family == "gaussian" or family_of(model.family).dispersion is None):
        raise MethodError(f'kind="dispersion" is for families with one besides σ; the model\'s is {model.family}')
