"""Penalised quasi-likelihood: a linear mixed model of the working response, fitted again until nothing moves.

At the current η, with μ = g⁻¹(η) and V(μ) the variance function (Breslow and Clayton 1993, J. Amer. Statist. Assoc. 88)

    z = η + (y − μ)/μ',     w = μ'²/V(μ),     z = Xβ + Zu + ε,  ε ~ N(0, σ²/w)

is fitted by maximum likelihood, which gives the next η. It stops by the rule of MASS::glmmPQL, Σ(η − η_old)² < tolerance ·
Σ η²; its default of 1e-6 leaves the third to fifth digit open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.approximation import start_at
from bayeslmm.columns import nrows
from bayeslmm.conditional import coefficient_root
from bayeslmm.errors import MethodError
from bayeslmm.exact.densities import mean_slopes, means
from bayeslmm.exact.gaussian import Gaussian
from bayeslmm.exact.products import products
from bayeslmm.family import LINKS, family_of
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.model import Model
from bayeslmm.optimise import minimise
from bayeslmm.result import PointFit

Array = NDArray[np.float64]
# MASS's tolerance; rounds of the working fit at most.
TOLERANCE, MOST_ROUNDS = 1e-6, 200


@dataclass(frozen=True, eq=False, repr=False)
class QuasiFit(GeneralizedFit):
    """A fit by penalised quasi-likelihood: it has no likelihood, and a residual scale of its working response.

    Parameters
    ----------
    working : PointFit
        The last linear mixed model of the working response.
    """

    working: PointFit | None = None

    @property
    def last(self) -> PointFit:
        """The linear mixed model of the last working response."""
        if self.working is None:
            raise MethodError("this fit was put together without its working model")
        return self.working

    @property
    def group_ranef(self) -> Mapping[str, Array]:
        """Conditional modes (levels, k) of each group."""
        return self.last.group_ranef

    @property
    def ranef_cov(self) -> dict[str, Array]:
        """Conditional covariances (levels, k, k) of each group's effects in the working model."""
        return self.last.ranef_cov

    @property
    def linear_predictor(self) -> pd.Series:
        """η = offset + Xβ + Zu, on the link scale."""
        return self.last.fitted.rename("linear_predictor")

    def dispersions_at(self, data: Any = None) -> Array:
        """The variance function as it stands: its scale is the working residual variance."""
        return np.ones(self.nobs if data is None else nrows(data))

    @property
    def options(self) -> dict[str, Any]:
        """Quasi-likelihood has none."""
        return {}

    @property
    def df(self) -> int:
        """Number of estimated parameters: coefficients, theta and the residual scale."""
        return len(self.beta) + self.model.n_theta + 1


def fit_quasi(model: Model, tolerance: float = TOLERANCE) -> QuasiFit:
    """Fit a generalized linear mixed model by penalised quasi-likelihood.

    Parameters
    ----------
    model : Model
        Of a family without a dispersion parameter of its own to estimate besides the residual scale.
    tolerance : float
        Share of Σ η² under which a round's change ends the search.

    Returns
    -------
    QuasiFit
        ``loglik`` is NaN: quasi-likelihood has none, and the working model's belongs to another response every round.

    Raises
    ------
    MethodError
        The family has a dispersion parameter in its variance that the rounds do not estimate.
    """
    if model.family not in ("bernoulli", "binomial", "poisson", "gamma", "wald"):
        raise MethodError(
            f'PQL needs a variance function without parameters; for the {model.family} family use "Laplace"'
        )
    if not model.groups:
        raise MethodError('PQL is for models with random effects; use method="Laplace" for this one')
    eta = start_at(model)
    theta, rounds, change = model.theta_start, 0, np.inf
    while change > tolerance and rounds < MOST_ROUNDS:
        rounds += 1
        working = _working_fit(working_model(model, *_working_response(model, eta)), theta)
        new, theta = working.fitted.to_numpy(), working.theta
        change = float(np.sum((new - eta) ** 2) / np.sum(new**2))
        eta = new
    settled = change <= tolerance
    message = "converged" if settled else f"the working fits still moved after {MOST_ROUNDS} rounds; use Laplace"
    optimum = replace(working.optimum, converged=settled and working.converged, message=message)
    return QuasiFit(
        model=model,
        method="PQL",
        theta=working.theta,
        sigma=working.sigma,
        beta=working.beta,
        beta_root=working.beta_root,
        loglik=float("nan"),
        logposterior=None,
        optimum=optimum,
        working=working,
    )


def _working_response(model: Model, eta: Array) -> tuple[Array, Array]:
    """z and w at η."""
    design, link = model.design, LINKS[model.link]
    trials = np.ones(design.nobs) if design.trials is None else design.trials
    mu, slope = means(link, eta), mean_slopes(link, eta)
    w = (
        slope**2
        / family_of(model.family).variance(mu, 1.0, trials)
        * (1.0 if design.weights is None else design.weights)
    )
    return eta + (design.y / trials - mu) / slope, np.asarray(w)


def working_model(model: Model, z: Array, w: Array) -> Model:
    """The linear mixed model of z with weights w, on the design as it is.

    Parameters
    ----------
    model : Model
    z, w : ndarray (n,)
        Working response and weights.

    Returns
    -------
    Model
    """
    changed: dict[str, Any] = {"design": replace(model.design, y=z, weights=w, trials=None), "family": "gaussian"}
    working = object.__new__(Model)
    keep = {name: value for name, value in vars(model).items() if name not in ("products", "gaussian")}
    working.__dict__.update(keep | changed)
    gaussian = Gaussian(products(working.design))
    working.__dict__.update(products=gaussian.products, gaussian=gaussian)
    return working


def _working_fit(model: Model, theta: Array) -> PointFit:
    """Maximum likelihood of the working response."""
    gaussian = model.gaussian
    covariances = [term.covariance for term in model.terms]
    optimum = minimise(lambda t: gaussian.deviance_gradient(t, False), theta, covariances, model.theta_basis)
    found = gaussian.profile(optimum.theta, False)
    sigma = gaussian.products.sigma(found.rss, False)
    return PointFit(
        model=model,
        method="ML",
        theta=optimum.theta,
        sigma=sigma,
        beta=gaussian.products.beta(found.beta),
        beta_root=coefficient_root(model, gaussian.marginal(optimum.theta).S, sigma),
        loglik=-0.5 * float(optimum.value),
        logposterior=None,
        optimum=optimum,
    )
