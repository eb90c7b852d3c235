"""θ while one standard deviation or correlation of the random effects is held, and the other entries of θ around an estimate.

An sd is put first in its term, where it is σ λ₁₁; a correlation by putting its two effects first, λ₂₁ = ρ c and
λ₂₂ = √(1 − ρ²) c. So zero variances and correlations of ±1, held or found, are points of the domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from bayeslmm.covariance import Covariance, Diagonal
from bayeslmm.design import Design
from bayeslmm.exact.products import public_order
from bayeslmm.model import Model
from bayeslmm.terms import RandomTerm, orthogonal_basis

Array = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class HeldDeviation:
    """θ with a relative sd held; x is the rest of θ, its own column of λ last.

    The column is taken from where it would be if the effects with orthogonal columns were independent.
    """

    order: Index  # where x goes in theta
    place: int
    column: Array  # λ₂₁/λ₁₁, λ₃₁/λ₁₁, … of independent effects with orthogonal columns

    @property
    def _own(self) -> Index:
        return self.order[len(self.order) - len(self.column) :]

    def theta(self, held: float, x: Array) -> Array:
        """θ at x."""
        theta = np.empty(len(self.order) + 1)
        theta[self.order], theta[self.place] = x, held
        theta[self._own] += held * self.column
        return theta

    def pulled(self, held: float, x: Array, gradient: Array) -> tuple[Array, float]:
        """Derivatives by x and by the held value, from those by θ."""
        return gradient[self.order], float(gradient[self.place] + gradient[self._own] @ self.column)

    def idle(self, held: float) -> Index:
        """The effect's column, when its sd is 0."""
        last = len(self.order)
        return np.arange(last - len(self.column), last) if held == 0 else np.empty(0, np.intp)


@dataclass(frozen=True, eq=False)
class HeldCorrelation:
    """θ with a correlation held; x is the rest of θ, the two relative sds, and the later rows of their columns of λ."""

    order: Index  # where x without the two relative sds goes in theta
    places: tuple[int, int, int]  # λ₁₁, λ₂₁, λ₂₂ in theta
    sds: slice  # the two relative sds in x
    column: int  # later rows

    def theta(self, held: float, x: Array) -> Array:
        """θ at x."""
        rest, (one, both, two) = np.sqrt(max(0.0, 1.0 - held * held)), self.places
        first, second = x[self.sds]
        theta = np.empty(len(x) + 1)
        theta[self.order] = np.delete(x, self.sds)
        theta[one], theta[both], theta[two] = first, held * second, rest * second
        return theta

    def pulled(self, held: float, x: Array, gradient: Array) -> tuple[Array, float]:
        """Derivatives by x and by the held value, from those by θ."""
        rest, (one, both, two) = np.sqrt(max(0.0, 1.0 - held * held)), self.places
        out = np.empty(len(x))
        out[np.setdiff1d(np.arange(len(x)), np.arange(len(x))[self.sds])] = gradient[self.order]
        out[self.sds] = gradient[one], held * gradient[both] + rest * gradient[two]
        turn = gradient[both] - (held / rest * gradient[two] if rest > 0 else 0.0)
        return out, float(x[self.sds][1] * turn)

    def idle(self, held: float) -> Index:
        """The second effect's column, when the correlation is ±1."""
        size = len(self.order) + 2
        return np.arange(size - self.column, size) if abs(held) == 1 else np.empty(0, np.intp)


@dataclass(frozen=True, eq=False)
class HeldAround:
    """A design whose effects are ordered for one parameter, and the other entries of θ around an estimate."""

    design: Design
    to: HeldDeviation | HeldCorrelation
    estimate: float
    start: Array
    covariances: tuple[Covariance, ...]
    scale: Array


def held_around(model: Model, theta: Array, sigma: float, name: str) -> HeldAround:
    """How θ moves while an sd or a correlation is held, around an estimate.

    Parameters
    ----------
    model : Model
    theta, sigma
        The estimate; σ = 1 for families without.
    name : str
        Public name of an sd or a correlation.

    Returns
    -------
    HeldAround
    """
    t, effects = _term_of(model, name)
    if len(effects) == 1:
        return _deviation(model, theta, sigma, t, effects[0])
    return _correlation(model, theta, sigma, t, (effects[0], effects[1]))


def _term_of(model: Model, name: str) -> tuple[int, tuple[int, ...]]:
    """The term, in theta's order, and the effects of it that a parameter is about."""
    for t, term in enumerate(model.terms):
        for i, effect in enumerate(term.effects):
            if name == f"sd_{term.group}[{effect}]":
                return t, (i,)
        for i, j in term.covariance.pairs:
            if name == f"corr_{term.group}[{term.effects[i]}, {term.effects[j]}]":
                return t, (i, j)
    raise KeyError(name)


@dataclass(frozen=True, eq=False)
class _Ordered:
    """A design with some effects of one term first, the estimate in its theta, and where that term's entries stand."""

    design: Design
    theta: Array
    basis: Array  # theta from the theta of orthogonal effects
    outside: Index  # entries of theta but the columns of λ of those effects
    covariances: list[Covariance]  # of `outside`
    at: int  # the first effect's λ₁₁


def _ordered(model: Model, theta: Array, sigma: float, t: int, first: tuple[int, ...]) -> _Ordered:
    """The effects `first` of term t put first; independent effects stay where they are."""
    term, ends = model.terms[t], np.cumsum([0] + [term.covariance.n_theta for term in model.terms])
    own, k, correlated = slice(int(ends[t]), int(ends[t + 1])), len(term.effects), bool(term.covariance.pairs)
    rest = [i for i in range(k) if i not in first]
    order = [*first, *rest] if correlated else list(range(k))
    terms, design = list(model.terms), model.design
    theta = theta.copy()
    if order != sorted(order):
        sd, corr = term.covariance.natural(theta[own], sigma)
        theta[own] = term.covariance.from_natural(sd[order], corr[np.ix_(order, order)], sigma)
        terms[t] = _with_order(term, order)
        design = _with_term(design, public_order(design)[t], terms[t])
    columns = term.covariance.pattern[1]
    gone = np.isin(columns, range(len(first)) if correlated else first)
    covariances = [u.covariance for u in terms]
    covariances[t : t + 1] = [type(term.covariance)(len(rest))] if rest else []
    outside = np.setdiff1d(np.arange(len(theta)), own.start + np.flatnonzero(gone))
    at = own.start + (0 if correlated else first[0])
    return _Ordered(design, theta, orthogonal_basis(terms), outside, covariances, at)


def _deviation(model: Model, theta: Array, sigma: float, t: int, effect: int) -> HeldAround:
    to = _ordered(model, theta, sigma, t, (effect,))
    below = len(model.terms[t].effects) - 1 if model.terms[t].covariance.pairs else 0
    own = np.arange(to.at + 1, to.at + 1 + below)
    places, column = np.concatenate([to.outside, own]), to.basis[own, to.at] / to.basis[to.at, to.at]
    start = to.theta[places]
    start[len(to.outside) :] -= to.theta[to.at] * column
    held, estimate = HeldDeviation(places, to.at, column), float(to.theta[to.at] * sigma)
    return HeldAround(to.design, held, estimate, start, tuple(to.covariances), to.basis[np.ix_(places, places)])


def _correlation(model: Model, theta: Array, sigma: float, t: int, pair: tuple[int, int]) -> HeldAround:
    to = _ordered(model, theta, sigma, t, pair)
    k, at, m = len(model.terms[t].effects), to.at, len(to.outside)
    later = np.concatenate([np.arange(at + 2, at + k), np.arange(at + k + 1, at + 2 * k - 1)])
    places = np.concatenate([to.outside, later])
    sd, corr = model.terms[t].covariance.natural(_own(model, theta, t), sigma)
    start = np.insert(to.theta[places], m, sd[list(pair)] / sigma)
    unit = np.diag(to.basis)[[at, at + k]]
    basis = to.basis[np.ix_(places, places)]
    scale = block_diag(basis[:m, :m], np.diag(unit), basis[m:, m:])
    covariances = (*to.covariances, Diagonal(1), Diagonal(1))
    held = HeldCorrelation(places, (at, at + 1, at + k), slice(m, m + 2), k - 2)
    return HeldAround(to.design, held, float(corr[pair]), start, covariances, scale)


def _own(model: Model, theta: Array, t: int) -> Array:
    before = sum(term.covariance.n_theta for term in model.terms[:t])
    return theta[before : before + model.terms[t].covariance.n_theta]


def _with_order(term: RandomTerm, order: Sequence[int]) -> RandomTerm:
    columns = np.ascontiguousarray(term.columns[:, list(order)])
    return replace(term, effects=tuple(term.effects[i] for i in order), columns=columns)


def _with_term(design: Design, at: int, term: RandomTerm) -> Design:
    return replace(design, random=(*design.random[:at], term, *design.random[at + 1 :]))
