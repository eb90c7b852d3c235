"""Generalized models with natural parameters held: the coordinates that are left, and the way back to (θ, β, log φ, …).

The parameters of an approximate likelihood are x = (θ, β, log φ, coefficients for dispersion and zeros). Where an effect of a
correlated term is held, that term's θ gives way to [sd, z], λ = sd · L(z) row by row; elsewhere θ stays, so that zero variances
remain points of the domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bayeslmm.covariance import Covariance, Diagonal, correlation_factors
from bayeslmm.errors import MethodError
from bayeslmm.exact.density import correlation_pullback
from bayeslmm.held import named
from bayeslmm.model import Model
from bayeslmm.terms import RandomTerm

Array = NDArray[np.float64]
Index = NDArray[np.intp]


class Restriction:
    """The free coordinates y of a generalized model some of whose natural parameters are held.

    Parameters
    ----------
    model : Model
        Of any family.
    dispersed : bool
        Whether x holds a constant log dispersion.
    fixed : mapping
        Values by public name; a name without brackets stands for all that begin with it.

    Raises
    ------
    MethodError
        No such parameter, or a value that it cannot have.
    """

    def __init__(self, model: Model, dispersed: bool, fixed: Mapping[str, float]) -> None:
        self.model, self.dispersed = model, dispersed
        self.names = public_names(model, dispersed)
        self.held = named(self.names, fixed)
        ends = np.cumsum([0] + [term.covariance.n_theta for term in model.terms])
        self.slots = [slice(int(a), int(b)) for a, b in pairwise(ends)]
        self.turned = [self._turned(term, where) for term, where in zip(model.terms, self.slots, strict=True)]
        self.values = np.array([_coordinate(model, name, self.held.get(name)) for name in self.names])
        self.order, self.covariances = self._order()

    def _turned(self, term: RandomTerm, where: slice) -> bool:
        """Whether a term's θ gives way to sds and correlations."""
        names = self.names[where]
        touched = any(name in self.held for name in names) and bool(term.covariance.pairs)
        if touched and len(term.effects) > 2 and any(name in self.held for name in names[len(term.effects) :]):
            raise MethodError("a correlation can be held only where its term has two effects")
        return touched

    def _order(self) -> tuple[Index, list[Covariance]]:
        """Free entries, those of factors λ and sds first; correlations with an effect held at 0 have no meaning."""
        first: list[int] = []
        later: list[int] = []
        covariances: list[Covariance] = []
        for term, where, turned in zip(self.model.terms, self.slots, self.turned, strict=True):
            places, k = range(where.start, where.stop), len(term.effects)
            if not any(self.names[i] in self.held for i in places):
                first += places
                covariances.append(term.covariance)
                continue
            sds = [i for i in places[:k] if self.names[i] not in self.held]
            first += sds
            covariances += [Diagonal(1)] * len(sds)
            absent = {i - where.start for i in places[:k] if self.held.get(self.names[i]) == 0.0}
            linked = [{i, j} for i in range(k) for j in range(i)] if turned else []
            later += [
                place
                for place, pair in zip(places[k:], linked, strict=True)
                if self.names[place] not in self.held and not pair & absent
            ]
        start = self.slots[-1].stop if self.slots else 0
        later += [i for i in range(start, len(self.names)) if self.names[i] not in self.held]
        return np.array([*first, *later], np.intp), covariances

    def x(self, y: Array) -> Array:
        """(θ, β, log φ, …) at the free coordinates."""
        natural = self.values.copy()
        natural[self.order] = y
        out = natural.copy()
        for term, where, turned in zip(self.model.terms, self.slots, self.turned, strict=True):
            if turned:
                k = len(term.effects)
                sd, L = natural[where][:k], correlation_factors(natural[where][k:], k)
                out[where] = (sd[:, None] * L)[term.covariance.pattern]
        return out

    def pulled(self, y: Array, x_bar: Array) -> Array:
        """Cotangent of the free coordinates from that of x."""
        natural = self.values.copy()
        natural[self.order] = y
        out = x_bar.copy()
        for term, where, turned in zip(self.model.terms, self.slots, self.turned, strict=True):
            if turned:
                out[where] = _pulled(term, natural[where], x_bar[where])
        return np.asarray(out[self.order])

    def jacobian(self, y: Array) -> Array:
        """Derivatives of x by the free coordinates (m, free)."""
        return np.array([self.pulled(y, row) for row in np.eye(len(self.names))]).reshape(len(self.names), len(y))

    def spread(self, root: Array, y: Array) -> Array:
        """K (r, m) with K'K the covariance of x, from that of y (r, free); entries that hang on a NaN of it are NaN."""
        J, known = self.jacobian(y), ~np.isnan(root).any(axis=0)
        out = root[:, known] @ J[:, known].T
        out[:, (J[:, ~known] != 0).any(axis=1)] = np.nan
        return np.asarray(out)

    @property
    def tail(self) -> tuple[int | None, int]:
        """Where the log dispersion stands among the free coordinates, None where it is not one, and where β ends."""
        last = self.model.n_theta + len(self.model.design.fixed.names)
        first = int(np.sum(self.order < last))
        return (first if self.dispersed and last in self.order else None), first

    def start(self, x: Array) -> Array:
        """Free coordinates at x; correlations of terms with something held start at 0."""
        natural = x.copy()
        for term, where, turned in zip(self.model.terms, self.slots, self.turned, strict=True):
            if turned:
                k = len(term.effects)
                natural[where] = 0.0
                natural[where][:k] = term.covariance.natural(x[where], 1.0)[0]
        return np.asarray(natural[self.order])

    def scale(self, basis: Array) -> Array:
        """The matrix from the coordinates that a search moves in to y, given that to x."""
        out = basis.copy()
        for term, where, turned in zip(self.model.terms, self.slots, self.turned, strict=True):
            if turned:
                k = len(term.effects)
                unit = np.diag(basis)[where][term.covariance.is_diagonal]
                out[where, where] = np.diag(np.concatenate([unit, np.ones(where.stop - where.start - k)]))
        return out[np.ix_(self.order, self.order)]


def public_names(model: Model, dispersed: bool) -> list[str]:
    """A public name for each entry of (θ, β, log φ, …), a term's entries as its sds and then its correlations.

    Parameters
    ----------
    model : Model
    dispersed : bool
        Whether there is a constant log dispersion.

    Returns
    -------
    list of str
    """
    names: list[str] = []
    for term in model.terms:
        effects = term.effects
        names += [f"sd_{term.group}[{effect}]" for effect in effects]
        if term.covariance.pairs:
            lower = [(j, i) for i in range(len(effects)) for j in range(i)]
            names += [f"corr_{term.group}[{effects[j]}, {effects[i]}]" for j, i in lower]
    names += [f"fixef[{name}]" for name in model.design.fixed.names]
    names += [str(model.dispersion)] if dispersed else []
    for name, block in model.design.further.items():
        names += ["nu"] if name == "nu" else [f"{name}[{column}]" for column in block.names]
    first, *others = model.design.thresholds or (None,)
    return names + ([f"thresholds[{first}]", *(f"log_step[{name}]" for name in others)] if first else [])


def _coordinate(model: Model, name: str, value: float | None) -> float:
    """A held value as its coordinate; 0 for what is free."""
    if value is None:
        return 0.0
    if not np.isfinite(value):
        raise MethodError(f"{name} must be a finite number, got {value}")
    if name.startswith("corr_"):
        if not -1.0 < value < 1.0:
            raise MethodError(f"{name} must lie between -1 and 1, got {value}")
        return float(np.arctanh(value))
    positive = name in (model.dispersion, "nu")
    if (value < 0 and name.startswith("sd_")) or (value <= 0 and positive):
        raise MethodError(f"{name} must be a {'positive' if positive else 'nonnegative'} number, got {value}")
    return float(np.log(value)) if positive else value


def _pulled(term: RandomTerm, natural: Array, theta_bar: Array) -> Array:
    """Cotangent of one term's sds and z from that of its θ."""
    k = len(term.effects)
    sd, z = natural[:k], np.ascontiguousarray(natural[k:])
    lam_bar = term.covariance.factor(theta_bar)
    z_bar = np.zeros(len(z))
    correlation_pullback(k, z, 0, np.ascontiguousarray(sd[:, None] * lam_bar).ravel(), 0, z_bar)
    return np.concatenate([np.sum(lam_bar * correlation_factors(z, k), axis=1), z_bar])
