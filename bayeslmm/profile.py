"""Point fit → profile likelihood of each natural parameter: signed roots zeta, and the bounds where they reach a level.

For a parameter ψ with estimate ψ̂, D(ψ) is the smallest −2 log-likelihood with ψ held and zeta(ψ) = sign(ψ − ψ̂)
√(D(ψ) − D(ψ̂)), as `lme4::profile` has it. D'(ψ) is the derivative with the other parameters held, at their optimum.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from bayeslmm.errors import MethodError
from bayeslmm.estimates import COEFFICIENTS, estimates, parameter_names
from bayeslmm.family import HETEROSCEDASTIC
from bayeslmm.fit import fit as fit_model
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.generalized_slices import approximate_slice
from bayeslmm.model import Model
from bayeslmm.result import PointFit
from bayeslmm.slices import Slice, slice_of
from bayeslmm.threads import THREADS_FROM, one_thread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
HIGHEST = 2.5758293035489004  # zeta of a 99 % interval
NORMAL_975 = 1.959963984540054
STEPS = 8  # from the estimate to HIGHEST
DEVIANCE_TOLERANCE = 1e-8
FURTHEST = 1e8  # times the natural size, where a bound that is not reached counts as infinite
MOST = 80  # evaluations for one bound


class Point(NamedTuple):
    """One point of a profile."""

    value: float
    zeta: float
    slope: float  # dζ/dψ
    x: Array  # the other parameters
    converged: bool


class Curve:
    """The profile of one parameter, evaluated where it is asked for and kept.

    Parameters
    ----------
    fitted : PointFit
        By ML, or REML.
    name : str
        Public name of the parameter.
    error : float
        Its standard error, NaN where there is none.
    """

    def __init__(self, fitted: PointFit, name: str, error: float) -> None:
        self.name, self.method = name, fitted.method
        self.positive = name in (fitted.model.dispersion, "nu")  # a domain whose end 0 has no likelihood
        self.slice = _slice(fitted, name)
        self.minimum = fitted.deviance
        self.estimate = self.slice.estimate
        self.least = (self.estimate if name == "sigma" else min(self.estimate, 1.0)) / FURTHEST
        known = np.isfinite(error) and error > 0
        self.size = float(error) if known else self._size(fitted)
        slope = 1.0 / self.size if known else np.nan
        self.points = [Point(self.estimate, 0.0, slope, self.slice.start, fitted.converged)]

    def _size(self, fitted: PointFit) -> float:
        if self.name.startswith("corr_"):
            return 0.3
        spread = fitted.sigma / np.sqrt(fitted.nobs)
        return float(max(spread, 0.1 * self.estimate)) if self.estimate > 0 else float(spread)

    def at(self, value: float, again: bool = False) -> Point:
        """The profile at a value of the parameter: kept, or searched from the points known (once more, if `again`)."""
        kept = [point for point in self.points if point.value == value]
        if kept and not again:
            return kept[0]
        point = min((self._search(value, start) for start in self._starts(value)), key=lambda point: abs(point.zeta))
        self.points = [p for p in self.points if p.value != value] + [point]
        return point

    def _search(self, value: float, start: Array) -> Point:
        deviance, slope, x, found = self.slice.best(value, start)
        rise = deviance - self.minimum
        if rise < -1e-6 * max(1.0, 1e-4 * abs(self.minimum)):
            raise MethodError(
                f"with {self.name} = {value:.6g} the deviance is {-rise:.3g} below that of the fit, which was at a local "
                f"optimum only. Fit again from there and profile that: {self._again(value)}"
            )
        zeta = float(np.sign(value - self.estimate) * np.sqrt(max(rise, 0.0)))
        return Point(value, zeta, float(slope / (2.0 * zeta)) if zeta else np.nan, x, found.converged)

    def _again(self, value: float) -> str:
        method = f'"{self.method}"'
        if self.name.startswith((*COEFFICIENTS, "corr_")):
            return f"bl.fit(model, {method}, start=...)"
        held = f'{{"{self.name}": {max(value, 1e-3 * self.size):.6g}}}'
        return f"bl.fit(model, {method}, start=bl.fit(model, {method}, fixed={held}).theta)"

    def _starts(self, value: float) -> Iterator[Array]:
        """Where to search from: the points nearest inside, extrapolated; then the one outside, if its branch may differ."""
        side = np.sign(value - self.estimate)
        reach = {abs(p.value - self.estimate): p for p in self.points if p.value != value and p.zeta * side >= 0}
        inside = [reach[r] for r in sorted(reach, reverse=True) if r < abs(value - self.estimate)]
        outside = [reach[r] for r in sorted(reach) if r > abs(value - self.estimate)]
        yield self._extrapolated(value, *inside[:2])
        if outside:
            yield outside[0].x

    def _extrapolated(self, value: float, near: Point, far: Point | None = None) -> Array:
        """The other parameters on the line through two points; what cannot be negative stays positive."""
        x = near.x
        if far is None:
            return x
        share = (value - near.value) / (near.value - far.value)
        guess = x + min(share, 2.0) * (x - far.x)
        same_sign = np.where(guess * x > 0, guess, 0.5 * x)
        m = sum(c.n_theta for c in self.slice.covariances)
        return np.asarray(np.where(np.arange(len(x)) < m, same_sign, guess))

    def bound(self, side: int, rise: float) -> float:
        """Where the deviance has risen by `rise` below (side −1) or above (1) the estimate; the domain's end if nowhere."""
        end = self.slice.lower if side < 0 else self.slice.upper
        if self.estimate == end:
            return end
        inner, outer, target = self.points[0], None, float(np.sqrt(rise))
        trial = self._inside(self.estimate + side * target * self.size, inner.value, side)
        for _ in range(MOST):
            point = self.at(trial)
            if abs(point.zeta**2 - rise) <= max(DEVIANCE_TOLERANCE, 1e-12 * abs(self.minimum)):
                return self._reached(point)
            if abs(point.zeta) < target:
                inner = point
                if self._spent(point.value, side):
                    return end
            else:
                outer = point
            trial = self._next(point, inner, outer, target, side)
            if outer is not None and abs(outer.value - inner.value) <= 1e-12 * max(
                abs(trial), 0.0 if self.positive else self.size
            ):
                return end if outer.value == end and abs(self.at(end, again=True).zeta) <= target else trial
        bound = "lower" if side < 0 else "upper"
        raise MethodError(
            f"the search for the {bound} bound of {self.name} came to no end; look at its bl.profile(...).plot()"
        )

    def _reached(self, point: Point) -> float:
        if not point.converged:
            message = (
                f"at {self.name} = {point.value:.6g} the search over the other parameters did not end at a regular optimum: "
                "a variance or correlation of theirs is at its boundary, or the bound is too near the estimate"
            )
            warnings.warn(message, stacklevel=4)
        return point.value

    def _spent(self, value: float, side: int) -> bool:
        """Whether the search has come to the end of the domain, or as near to it as makes no difference."""
        if side < 0 and self.positive:
            return value < self.least
        limit = self.slice.lower if side < 0 else self.slice.upper
        return value == limit or abs(value - self.estimate) > FURTHEST * max(self.size, abs(self.estimate))

    def _inside(self, trial: float, inner: float, side: int) -> float:
        """The trial itself, or the end of the domain; σ, whose end 0 has no likelihood, goes a quarter of the way."""
        if self.positive and trial <= 0.25 * inner:
            return 0.25 * inner
        return float(np.clip(trial, self.slice.lower, self.slice.upper))

    def _next(self, point: Point, inner: Point, outer: Point | None, target: float, side: int) -> float:
        """Newton's step on zeta, kept within the bracket or, without one, within four times the reach so far."""
        step = (side * target - point.zeta) / point.slope if point.slope > 0 else side * np.inf
        trial = point.value + step
        if outer is None:
            furthest = self.estimate + 4.0 * (point.value - self.estimate)
            return self._inside(min(trial, furthest) if side > 0 else max(trial, furthest), point.value, side)
        low, high = sorted((inner.value, outer.value))
        if low < trial < high:
            return float(trial)
        share = (target - abs(inner.zeta)) / (abs(outer.zeta) - abs(inner.zeta))
        return float(inner.value + np.clip(share, 0.1, 0.9) * (outer.value - inner.value))

    def march(self, highest: float = HIGHEST) -> list[Point]:
        """Points about evenly spaced in zeta, to ± `highest` or the ends of the domain, in order of value."""
        found = [self.points[0]]
        for side in (-1, 1):
            point, step = self.points[0], highest / STEPS
            for _ in range(MOST):
                if abs(point.zeta) >= highest or self._spent(point.value, side):
                    break
                point = self._step(point, side * step, side)
                found.append(point)
        return sorted(found, key=lambda point: point.value)

    def _step(self, point: Point, step: float, side: int) -> Point:
        move = step / point.slope if point.slope > 0 else side * STEPS**-1 * self.size
        reach = 2.0 * max(abs(point.value - self.estimate), self.size)
        trial = self._inside(point.value + float(np.clip(move, -reach, reach)), point.value, side)
        for _ in range(10):
            found = self.at(trial)
            if abs(found.zeta - point.zeta) <= 2.5 * abs(step):
                return found
            trial = 0.5 * (trial + point.value)
        return found


def _slice(fitted: PointFit, name: str) -> Slice:
    if isinstance(fitted, GeneralizedFit):
        return approximate_slice(fitted, name)
    return slice_of(fitted.model, fitted.theta, fitted.sigma, fitted.beta, name, fitted.method == "REML")


@dataclass(frozen=True, eq=False, repr=False)
class Profile:
    """Profiles of a fit's parameters.

    Parameters
    ----------
    fit : PointFit
        The fit that was profiled: by ML unless the REML profile was asked for.
    curves : tuple of Curve
        One per parameter.
    """

    fit: PointFit
    curves: tuple[Curve, ...]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Columns parameter, value, zeta; by parameter and value."""
        with one_thread(self.fit.model.structure.rest_size < THREADS_FROM):
            rows = [(c.name, p.value, p.zeta) for c in self.curves for p in c.march()]
        return pd.DataFrame(rows, columns=["parameter", "value", "zeta"])

    def plot(self) -> Figure:
        """Zeta against each parameter, one panel each, with the 95 % interval; a straight line is a Wald interval.

        Returns
        -------
        Figure
        """
        from bayeslmm.plot.style import blank, grid, style

        across = min(3, len(self.curves))
        with style():
            figure = blank(3.2 * across, 2.5 * -(-len(self.curves) // across) + 0.3)
            for i, (ax, curve) in enumerate(zip(grid(figure, len(self.curves), across), self.curves, strict=True)):
                _draw(ax, curve)
                ax.set_ylabel("zeta" if i % across == 0 else "")
        return figure

    def __repr__(self) -> str:
        return f"Profile({self.fit.model.formula.text!r}, {self.fit.method}, {len(self.curves)} parameters)"


def _draw(ax: Axes, curve: Curve) -> None:
    from bayeslmm.plot.style import COLOURS, GREY

    points = curve.march()
    values = np.array([p.value for p in points])
    fine = np.linspace(values[0], values[-1], 200)
    ax.plot(fine, PchipInterpolator(values, [p.zeta for p in points])(fine), color=COLOURS[0])
    ax.axhline(0.0, color=GREY, linewidth=0.6)
    for side in (-1, 1):
        bound = curve.bound(side, NORMAL_975**2)
        ax.axhline(side * NORMAL_975, color=GREY, linewidth=0.6, linestyle=":")
        if np.isfinite(bound):
            ax.axvline(bound, color=COLOURS[1], linewidth=0.8, linestyle="--")
    ax.set_title(curve.name, loc="left")
    ax.set_ylim(-HIGHEST - 0.2, HIGHEST + 0.2)
    ax.locator_params(axis="x", nbins=5)


def profile(fit: PointFit, parameters: str | Sequence[str] | None = None, criterion: str = "ML") -> Profile:
    """Profile the likelihood of each natural parameter: sd, correlation, σ and coefficient.

    zeta(ψ) = sign(ψ − ψ̂) √(D(ψ) − D(ψ̂)), with D the −2 log-likelihood minimised over all other parameters.

    Parameters
    ----------
    fit : PointFit
        By REML or ML; of another family by Laplace's approximation or AGHQ. A REML fit is refitted by ML, as lme4 does,
        unless ``criterion="REML"``.
    parameters : str or sequence of str, optional
        Public names, ``"sd_Subject[Days]"``; ``"sd_Subject"`` stands for all its effects. All, if not given.
    criterion : {"ML", "REML"}
        Which likelihood; REML has a profile for sd, correlations and σ, or the coefficients of its formula, only.

    Returns
    -------
    Profile
        `table` has columns parameter, value and zeta; `plot` draws them.

    Raises
    ------
    MethodError
        The result has no likelihood to profile (MAP, posterior, held parameters), or a name is unknown.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> found = bl.profile(bl.fit(bl.Model("y ~ 1 + (1 | g)", data)), "sigma")
    >>> found.table.columns.tolist()
    ['parameter', 'value', 'zeta']
    """
    return Profile(*curves(fit, parameters, criterion))


def chosen(model: Model, parameters: str | Sequence[str] | None, criterion: str = "ML") -> tuple[str, ...]:
    """Public names meant by `parameters`, in the model's order; under REML, all are those that have such a profile."""
    names = parameter_names(model)
    if parameters is None:
        return tuple(n for n in names if criterion == "ML" or not n.startswith("fixef["))
    asked = [parameters] if isinstance(parameters, str) else list(parameters)
    for key in asked:
        if not any(n == key or n.startswith(f"{key}[") for n in names):
            raise MethodError(f"there is no parameter {key!r}; the parameters are {', '.join(names)}")
    return tuple(n for n in names if any(n == key or n.startswith(f"{key}[") for key in asked))


def curves(
    result: PointFit, parameters: str | Sequence[str] | None, criterion: str
) -> tuple[PointFit, tuple[Curve, ...]]:
    """The fit that is profiled, and a curve for each parameter."""
    if criterion not in ("ML", "REML"):
        raise MethodError(f'criterion={criterion!r} is not known; use "ML" or "REML"')
    _check_profiled(result, criterion)
    names = chosen(result.model, parameters, criterion)
    fixef = [name for name in names if name.startswith("fixef[")]
    if criterion == "REML" and fixef:
        raise MethodError(f'{fixef[0]} has no REML profile, since REML integrates β out; use criterion="ML"')
    other: Literal["ML", "REML"] = "ML" if criterion == "ML" else "REML"
    exact = result.model.family in ("gaussian", HETEROSCEDASTIC)  # so that there are ML and REML
    done = result.method == criterion or not exact
    fitted = result if done else fit_model(result.model, other)
    own = estimates(fitted, criterion)
    return fitted, tuple(Curve(fitted, name, float(own.uncertainty[own.at(name)])) for name in names)


def _check_profiled(result: object, criterion: str) -> None:
    if not isinstance(result, PointFit):
        found = type(result).__name__
        raise MethodError(
            f'a profile is of a point fit; a {found} has none (for a posterior, use method="eti" or "hdi")'
        )
    if result.fixed:
        raise MethodError("the fit holds parameters at given values; profile a fit by REML or ML that holds none")
    if result.method == "MAP":
        raise MethodError(
            "a profile of the likelihood would leave the prior of a MAP fit out; profile a fit by REML, ML or Laplace"
        )
    if isinstance(result, GeneralizedFit):
        if criterion == "REML" and result.model.family != HETEROSCEDASTIC:
            raise MethodError('criterion="REML" is for Gaussian models; leave it out')
        if result.method == "PQL" or result.fast:
            raise MethodError(
                'a profile is of a likelihood maximised over every parameter; fit with "Laplace" or "AGHQ", fast=False'
            )
