"""The likelihood as a function of the other parameters while one natural parameter is held at a value.

An sd is held by putting its effect first: then it is σ times one entry of θ, sd = σ λ₁₁. A correlation by putting its
two effects first, λ₂₁ = ρ c and λ₂₂ = √(1 − ρ²) c, c the second relative sd. A coefficient by b = b₀(v) + N t, N a basis
of the others in the scale of Q, which changes S(θ) to M'SM with M = [N, −b₀; 0, 1]: no product is taken anew. So zero
variances and correlations of ±1, held or found, are points of the domain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, null_space

from bayeslmm.covariance import Covariance
from bayeslmm.exact.gaussian import INTEGRATED, JOINT, level, marginal
from bayeslmm.exact.gaussian import profile as maximised
from bayeslmm.exact.products import Products, products
from bayeslmm.exact.pullback import pullback
from bayeslmm.held_effects import HeldCorrelation, HeldDeviation, held_around
from bayeslmm.model import Model
from bayeslmm.optimise import Optimum, minimise

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


@dataclass(frozen=True, eq=False)
class SigmaSlice(Slice):
    """σ held; x is theta."""

    likelihood: Likelihood

    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood at (x, σ = held)."""
        return self.likelihood.at_sigma(x, held)


@dataclass(frozen=True, eq=False)
class CoefficientSlice(Slice):
    """A coefficient held; x is theta. `row` takes β in the scale of Q to it, `origin` is its least-squares value."""

    likelihood: Likelihood
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
    """An sd held; x is the rest of theta and log σ."""

    likelihood: Likelihood  # of the design with its effects ordered for this parameter
    to: HeldDeviation

    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood at x."""
        if abs(x[-1]) > LARGEST_LOG:
            return np.inf, np.zeros(len(x)), 0.0
        sigma = float(np.exp(x[-1]))
        ratio = held / sigma
        value, gradient, slope = self.likelihood.at_sigma(self.to.theta(ratio, x[:-1]), sigma)
        out, by_ratio = self.to.pulled(ratio, x[:-1], gradient)
        return value, np.append(out, slope * sigma - by_ratio * ratio), by_ratio / sigma

    def idle(self, held: float) -> Index:
        """Entries without meaning at a held value."""
        return self.to.idle(held)


@dataclass(frozen=True, eq=False)
class CorrelationSlice(Slice):
    """A correlation held; x is the rest of theta."""

    likelihood: Likelihood  # of the design with its effects ordered for this parameter
    to: HeldCorrelation

    def value(self, held: float, x: Array) -> tuple[float, Array, float]:
        """−2 log-likelihood at x, σ maximised (REML: and β integrated)."""
        value, gradient, _ = self.likelihood.best_sigma(self.to.theta(held, x))
        return value, *self.to.pulled(held, x, gradient)

    def idle(self, held: float) -> Index:
        """Entries without meaning at a held value."""
        return self.to.idle(held)


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
        return SigmaSlice(sigma, theta, covariances, scale, 0.0, np.inf, likelihood)
    if name.startswith("fixef["):
        j, s = model.design.fixed.names.index(name[6:-1]), model.products
        row = np.linalg.inv(s.R)[j] * s.y_scale
        around = (float(beta[j]), theta, covariances, scale, -np.inf, np.inf, likelihood)
        return CoefficientSlice(*around, row, float(s.beta_ols[j]), null_space(row[None, :] / np.abs(row).max()))
    at = held_around(model, theta, sigma, name)
    if at.design is not model.design:
        likelihood = Likelihood(products(at.design), reml)
    if isinstance(at.to, HeldCorrelation):
        return CorrelationSlice(at.estimate, at.start, at.covariances, at.scale, -1.0, 1.0, likelihood, at.to)
    start, scale = np.append(at.start, np.log(sigma)), block_diag(at.scale, 1.0 / np.sqrt(2.0 * model.design.nobs))
    return DeviationSlice(at.estimate, start, at.covariances, scale, 0.0, np.inf, likelihood, at.to)
