"""A generalized model's approximate likelihood as a function of the other parameters while a natural one is held.

The others are x: what is left of θ, then β, the log dispersion and the coefficients for dispersion and zeros, less the one
that is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from bayeslmm.approximation import Laplace, Quadrature
from bayeslmm.design import Design
from bayeslmm.generalized_search import criterion, with_added
from bayeslmm.held_effects import HeldCorrelation, HeldDeviation, held_around
from bayeslmm.model import Model
from bayeslmm.optimise import Objective
from bayeslmm.reml import Restricted
from bayeslmm.restriction import public_names
from bayeslmm.slices import Slice

if TYPE_CHECKING:
    from bayeslmm.generalized import GeneralizedFit

Array = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class EntrySlice(Slice):
    """An entry of (β, log φ, coefficients for dispersion and zeros) held; of log φ the dispersion itself."""

    objective: Objective
    place: int
    logarithmic: bool

    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood at x."""
        full = np.insert(x, self.place, np.log(held) if self.logarithmic else held)
        value, gradient = self.objective(full)
        slope = gradient[self.place] / (held if self.logarithmic else 1.0)
        return value, np.delete(gradient, self.place), float(slope)


@dataclass(frozen=True, eq=False)
class ThresholdSlice(Slice):
    """A threshold τ_k held; x is without τ_1, which is τ_k less the steps between."""

    objective: Objective
    first: int  # where τ_1 stands in all parameters, the logs of the steps after it
    steps: int  # between τ_1 and τ_k

    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood at x."""
        between = slice(self.first, self.first + self.steps)
        value, gradient = self.objective(np.insert(x, self.first, held - np.exp(x[between]).sum()))
        slope, out = float(gradient[self.first]), np.delete(gradient, self.first)
        out[between] -= slope * np.exp(x[between])
        return value, out, slope


@dataclass(frozen=True, eq=False)
class EffectSlice(Slice):
    """An sd or a correlation of the random effects held."""

    objective: Objective
    to: HeldDeviation | HeldCorrelation
    own: int  # entries of x that belong to θ

    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood at x."""
        theta = self.to.theta(held, x[: self.own])
        value, gradient = self.objective(np.concatenate([theta, x[self.own :]]))
        out, slope = self.to.pulled(held, x[: self.own], gradient[: len(theta)])
        return value, np.concatenate([out, gradient[len(theta) :]]), slope

    def idle(self, held: float) -> Index:
        """Entries without meaning at a held value."""
        return self.to.idle(held)


def approximate_slice(fit: GeneralizedFit, name: str) -> Slice:
    """The approximate likelihood with one natural parameter held, around an estimate.

    Parameters
    ----------
    fit : GeneralizedFit
        By Laplace's approximation, AGHQ or REML.
    name : str
        Public name: ``sd_herd[Intercept]``, ``fixef[x]``, ``alpha``, ``zero[x]``, ``thresholds[low|high]``.

    Returns
    -------
    Slice
    """
    model, m = fit.model, fit.model.n_theta
    x = np.concatenate([fit.theta, fit.beta, [fit.point.aux] * fit.dispersed, fit.further])
    scale = _scale(fit)
    if name.startswith(("sd_", "corr_")):
        at = held_around(model, fit.theta, 1.0, name)
        lower, upper = (-1.0, 1.0) if isinstance(at.to, HeldCorrelation) else (0.0, np.inf)
        start, unit = np.concatenate([at.start, x[m:]]), block_diag(at.scale, scale[m:, m:])
        objective = _objective(fit, at.design)
        around = (at.estimate, start, at.covariances, unit, lower, upper)
        return EffectSlice(*around, objective, at.to, len(at.start))
    covariances, objective = tuple(term.covariance for term in model.terms), _objective(fit, model.design)
    if name.startswith("thresholds["):
        steps, first = model.design.second_names.index(name), len(x) - len(fit.tau)
        kept = np.delete(np.arange(len(x)), first)
        around = (float(fit.tau[steps]), x[kept], covariances, scale[np.ix_(kept, kept)], -np.inf, np.inf)
        return ThresholdSlice(*around, objective, first, steps)
    place, positive = public_names(model, fit.dispersed).index(name), name in (model.dispersion, "nu")
    kept = np.delete(np.arange(len(x)), place)
    estimate, lower = (float(np.exp(x[place])), 0.0) if positive else (float(x[place]), -np.inf)
    around = (estimate, x[kept], covariances, scale[np.ix_(kept, kept)], lower, np.inf)
    return EntrySlice(*around, objective, place, positive)


def _objective(fit: GeneralizedFit, design: Design) -> Objective:
    """−2 log-likelihood, restricted if the fit's is, for the design with effects in another order."""
    approximation = _approximation(fit, design)
    objective = criterion(approximation)
    return with_added(objective, Restricted(approximation)) if fit.method == "REML" else objective


def _scale(fit: GeneralizedFit) -> Array:
    """From the coordinates that a search moves in to (θ, β, log φ, …)."""
    start = Laplace(fit.model, fit.information)
    _, aux, R, _ = start.start()
    return block_diag(fit.model.theta_basis, np.linalg.inv(R), np.eye(int(fit.dispersed)), start.further_start(aux)[1])


def _approximation(fit: GeneralizedFit, design: Design) -> Laplace:
    """The approximation of the fit, for its design with effects in another order."""
    model = fit.model
    if design is not model.design:
        derived = ("terms", "structure", "theta_basis", "Z", "products", "gaussian")
        kept = {name: value for name, value in vars(model).items() if name not in derived}
        model = object.__new__(Model)
        model.__dict__.update(kept | {"design": design})
    return Quadrature(model, fit.information, fit.nodes) if fit.nodes > 1 else Laplace(model, fit.information)
