"""The likelihood as a function of the other parameters while one natural parameter is held at a value.

An sd is held by putting its effect first: then it is σ times one entry of θ, sd = σ λ₁₁. A correlation by putting its
two effects first, λ₂₁ = ρ c and λ₂₂ = √(1 − ρ²) c, c the second relative sd. A coefficient by b = b₀(v) + N t, N a basis
of the others in the scale of Q, which changes S(θ) to M'SM with M = [N, −b₀; 0, 1]: no product is taken anew. So zero
variances and correlations of ±1, held or found, are points of the domain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, null_space

from bayeslmm.covariance import Covariance, Diagonal
from bayeslmm.design import Design
from bayeslmm.exact.gaussian import INTEGRATED, JOINT, level, marginal
from bayeslmm.exact.gaussian import profile as maximised
from bayeslmm.exact.products import Products, products, public_order
from bayeslmm.exact.pullback import pullback
from bayeslmm.model import Model
from bayeslmm.optimise import Optimum, minimise
from bayeslmm.terms import RandomTerm, orthogonal_basis

Array = NDArray[np.float64]
Index = NDArray[np.intp]
LARGEST_LOG = 300.0  # |log σ| beyond which a trial step went astray


@dataclass(frozen=True, eq=False)
class Likelihood:
    """−2 log-likelihood (ML) or restricted (REML) of one design and its derivatives, in the data's units.

    Parameters
    ----------
    products : Products
        Cross-products of the design.
    reml : bool
        Whether β is integrated out; otherwise it is maximised over.
    """

    products: Products
    reml: bool

    @property
    def _constant(self) -> float:
        s, lost = self.products, self.products.n_fixed if self.reml else 0
        scale = 2.0 * (s.nobs - lost) * np.log(s.y_scale) - s.sum_log_weights
        return float(scale + (2.0 * s.logdet_R if self.reml else 0.0))

    def at_sigma(self, theta: Array, sigma: float) -> tuple[float, Array, float]:
        """The value at (theta, σ) and its derivatives by theta and σ."""
        s, p = self.products, self.products.n_fixed
        lam = s.lam(theta)
        at = marginal(s.system, lam)
        mode = INTEGRATED if self.reml else JOINT
        found = level(at.S, at.logdet, s.nobs, sigma / s.y_scale, np.zeros((p, p)), np.zeros(p), mode)
        slope = pullback(s.system, lam, at.factor, found.gbar, found.Gbar) if len(lam) else np.empty(0)
        return -2.0 * found.value + self._constant, -2.0 * s.theta_bar(slope), -2.0 * found.sigma_bar / s.y_scale

    def best_sigma(self, theta: Array, along: Array | None = None) -> tuple[float, Array, Array]:
        """The value at theta, σ maximised, [−b; 1] = along [−t; 1]; its derivatives by theta and `along`."""
        s = self.products
        lam = s.lam(theta)
        at = marginal(s.system, lam)
        S = at.S if along is None else np.ascontiguousarray(along.T @ at.S @ along)
        found = maximised(S, at.logdet, s.nobs, self.reml)
        G = found.Gbar if along is None else np.ascontiguousarray(along @ found.Gbar @ along.T)
        slope = pullback(s.system, lam, at.factor, found.gbar, G) if len(lam) else np.empty(0)
        by_along = np.empty((0, 0)) if along is None else 2.0 * at.S @ along @ found.Gbar
        return found.value + self._constant, s.theta_bar(slope), by_along


@dataclass(frozen=True, eq=False)
class Slice(ABC):
    """One parameter held, the others free.

    Parameters
    ----------
    likelihood : Likelihood
        Of the design, its effects ordered for this parameter.
    estimate : float
        Where the likelihood is largest.
    start : ndarray (m,)
        The other parameters there.
    covariances : tuple of Covariance
        What the first of them are the factors of.
    scale : ndarray (m, m)
        From the coordinates that the search moves in.
    lower, upper : float
        Ends of the parameter's domain.
    """

    likelihood: Likelihood
    estimate: float
    start: Array
    covariances: tuple[Covariance, ...]
    scale: Array
    lower: float
    upper: float

    @abstractmethod
    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood with the parameter at `held`; its derivatives by x and by the held value."""

    def idle(self, held: float) -> Index:
        """Entries of x without meaning at a held value, kept at 0."""
        return np.empty(0, np.intp)

    def best(self, held: float, start: Array) -> tuple[float, float, Array, Optimum]:
        """The smallest −2 log-likelihood with the parameter at `held`: value, derivative by it, x, how it was found."""
        kept = np.setdiff1d(np.arange(len(start)), self.idle(held))

        def full(part: Array) -> Array:
            x = np.zeros(len(start))
            x[kept] = part
            return x

        def objective(part: Array) -> tuple[float, Array]:
            value, gradient, _ = self.value(held, full(part))
            return value, gradient[kept]

        found = minimise(objective, start[kept], self.covariances, self.scale[np.ix_(kept, kept)])
        x = full(found.theta)
        value, _, slope = self.value(held, x)
        return value, slope, x, found


class SigmaSlice(Slice):
    """σ held; x is theta."""

    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood at (x, σ = held)."""
        return self.likelihood.at_sigma(x, held)


@dataclass(frozen=True, eq=False)
class CoefficientSlice(Slice):
    """A coefficient held; x is theta. `row` takes β in the scale of Q to it, `origin` is its least-squares value."""

    row: Array
    origin: float
    others: Array  # (p, p − 1)

    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood at x, the other coefficients and σ maximised."""
        p = len(self.row)
        toward = self.row / (self.row @ self.row)
        along = np.zeros((p + 1, p))
        along[:p, :-1] = self.others
        along[:p, -1] = -toward * (held - self.origin)
        along[p, -1] = 1.0
        value, gradient, by_along = self.likelihood.best_sigma(x, along)
        return value, gradient, -float(by_along[:p, -1] @ toward)


@dataclass(frozen=True, eq=False)
class DeviationSlice(Slice):
    """An sd held; x is the rest of theta, its own column of λ last, and log σ.

    The column is taken from where it would be if the effects with orthogonal columns were independent.
    """

    order: Index  # where x goes in theta
    place: int
    column: Array  # λ₂₁/λ₁₁, λ₃₁/λ₁₁, … of independent effects with orthogonal columns

    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood at x."""
        if abs(x[-1]) > LARGEST_LOG:
            return np.inf, np.zeros(len(x)), 0.0
        theta, sigma = np.empty(len(self.order) + 1), float(np.exp(x[-1]))
        ratio, own = held / sigma, self.order[len(self.order) - len(self.column) :]
        theta[self.order], theta[self.place] = x[:-1], ratio
        theta[own] += ratio * self.column
        value, gradient, slope = self.likelihood.at_sigma(theta, sigma)
        by_ratio = float(gradient[self.place] + gradient[own] @ self.column)
        return value, np.append(gradient[self.order], slope * sigma - by_ratio * ratio), by_ratio / sigma

    def idle(self, held: float) -> Index:
        """The effect's column, when its sd is 0."""
        last = len(self.order)
        return np.arange(last - len(self.column), last) if held == 0 else np.empty(0, np.intp)


@dataclass(frozen=True, eq=False)
class CorrelationSlice(Slice):
    """A correlation held; x is the rest of theta, the two relative sds, and the later rows of their columns of λ."""

    order: Index  # where x without the two relative sds goes in theta
    places: tuple[int, int, int]  # λ₁₁, λ₂₁, λ₂₂ in theta
    sds: slice  # the two relative sds in x
    column: int  # later rows

    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood at x, σ maximised (REML: and β integrated)."""
        rest, (one, both, two) = np.sqrt(max(0.0, 1.0 - held * held)), self.places
        first, second = x[self.sds]
        theta = np.empty(len(x) + 1)
        theta[self.order] = np.delete(x, self.sds)
        theta[one], theta[both], theta[two] = first, held * second, rest * second
        value, gradient, _ = self.likelihood.best_sigma(theta)
        out = np.empty(len(x))
        out[np.setdiff1d(np.arange(len(x)), np.arange(len(x))[self.sds])] = gradient[self.order]
        out[self.sds] = gradient[one], held * gradient[both] + rest * gradient[two]
        turn = gradient[both] - (held / rest * gradient[two] if rest > 0 else 0.0)
        return value, out, float(second * turn)

    def idle(self, held: float) -> Index:
        """The second effect's column, when the correlation is ±1."""
        size = len(self.order) + 2
        return np.arange(size - self.column, size) if abs(held) == 1 else np.empty(0, np.intp)


def slice_of(model: Model, theta: Array, sigma: float, beta: Array, name: str, reml: bool) -> Slice:
    """The likelihood with one natural parameter held, around an estimate.

    Parameters
    ----------
    model : Model
    theta, sigma, beta
        The estimate.
    name : str
        Public name: ``fixef[Days]``, ``sd_Subject[Days]``, ``corr_Subject[Intercept, Days]`` or ``sigma``.
    reml : bool
        Whether the likelihood is the restricted one; not for coefficients.

    Returns
    -------
    Slice
    """
    likelihood = Likelihood(model.products, reml)
    covariances, scale = tuple(t.covariance for t in model.terms), model.theta_basis
    if name == "sigma":
        return SigmaSlice(likelihood, sigma, theta, covariances, scale, 0.0, np.inf)
    if name.startswith("fixef["):
        j, s = model.design.fixed.names.index(name[6:-1]), model.products
        row = np.linalg.inv(s.R)[j] * s.y_scale
        around = (likelihood, float(beta[j]), theta, covariances, scale, -np.inf, np.inf)
        return CoefficientSlice(*around, row, float(s.beta_ols[j]), null_space(row[None, :] / np.abs(row).max()))
    t, effects = _term_of(model, name)
    if len(effects) == 1:
        return _deviation_slice(model, theta, sigma, t, effects[0], reml)
    return _correlation_slice(model, theta, sigma, t, (effects[0], effects[1]), reml)


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

    likelihood: Likelihood
    theta: Array
    basis: Array  # theta from the theta of orthogonal effects
    outside: Index  # entries of theta but the columns of λ of those effects
    covariances: list[Covariance]  # of `outside`
    at: int  # the first effect's λ₁₁


def _ordered(model: Model, theta: Array, sigma: float, t: int, first: tuple[int, ...], reml: bool) -> _Ordered:
    """The effects `first` of term t put first; independent effects stay where they are."""
    term, ends = model.terms[t], np.cumsum([0] + [term.covariance.n_theta for term in model.terms])
    own, k, correlated = slice(int(ends[t]), int(ends[t + 1])), len(term.effects), bool(term.covariance.pairs)
    rest = [i for i in range(k) if i not in first]
    order = [*first, *rest] if correlated else list(range(k))
    terms, s = list(model.terms), model.products
    theta = theta.copy()
    if order != sorted(order):
        sd, corr = term.covariance.natural(theta[own], sigma)
        theta[own] = term.covariance.from_natural(sd[order], corr[np.ix_(order, order)], sigma)
        terms[t] = _with_order(term, order)
        s = products(_with_term(model.design, public_order(model.design)[t], terms[t]))
    columns = term.covariance.pattern[1]
    gone = np.isin(columns, range(len(first)) if correlated else first)
    covariances = [u.covariance for u in terms]
    covariances[t : t + 1] = [type(term.covariance)(len(rest))] if rest else []
    outside = np.setdiff1d(np.arange(len(theta)), own.start + np.flatnonzero(gone))
    at = own.start + (0 if correlated else first[0])
    return _Ordered(Likelihood(s, reml), theta, orthogonal_basis(terms), outside, covariances, at)


def _deviation_slice(model: Model, theta: Array, sigma: float, t: int, effect: int, reml: bool) -> Slice:
    to = _ordered(model, theta, sigma, t, (effect,), reml)
    below = len(model.terms[t].effects) - 1 if model.terms[t].covariance.pairs else 0
    own = np.arange(to.at + 1, to.at + 1 + below)
    places, column = np.concatenate([to.outside, own]), to.basis[own, to.at] / to.basis[to.at, to.at]
    start = to.theta[places]
    start[len(to.outside) :] -= to.theta[to.at] * column
    scale = block_diag(to.basis[np.ix_(places, places)], 1.0 / np.sqrt(2.0 * model.design.nobs))
    around = (
        to.likelihood, float(to.theta[to.at] * sigma), np.append(start, np.log(sigma)), tuple(to.covariances), scale,
        0.0, np.inf,
    )  # fmt: skip
    return DeviationSlice(*around, places, to.at, column)


def _correlation_slice(model: Model, theta: Array, sigma: float, t: int, pair: tuple[int, int], reml: bool) -> Slice:
    to = _ordered(model, theta, sigma, t, pair, reml)
    k, at, m = len(model.terms[t].effects), to.at, len(to.outside)
    later = np.concatenate([np.arange(at + 2, at + k), np.arange(at + k + 1, at + 2 * k - 1)])
    places = np.concatenate([to.outside, later])
    sd, corr = model.terms[t].covariance.natural(_own(model, theta, t), sigma)
    start = np.insert(to.theta[places], m, sd[list(pair)] / sigma)
    unit = np.diag(to.basis)[[at, at + k]]
    basis = to.basis[np.ix_(places, places)]
    scale = block_diag(basis[:m, :m], np.diag(unit), basis[m:, m:])
    covariances = (*to.covariances, Diagonal(1), Diagonal(1))
    around = (to.likelihood, float(corr[pair]), start, covariances, scale, -1.0, 1.0)
    return CorrelationSlice(*around, places, (at, at + 1, at + k), slice(m, m + 2), k - 2)


def _own(model: Model, theta: Array, t: int) -> Array:
    before = sum(term.covariance.n_theta for term in model.terms[:t])
    return theta[before : before + model.terms[t].covariance.n_theta]


def _with_order(term: RandomTerm, order: Sequence[int]) -> RandomTerm:
    columns = np.ascontiguousarray(term.columns[:, list(order)])
    return replace(term, effects=tuple(term.effects[i] for i in order), columns=columns)


def _with_term(design: Design, at: int, term: RandomTerm) -> Design:
    return replace(design, random=(*design.random[:at], term, *design.random[at + 1 :]))
