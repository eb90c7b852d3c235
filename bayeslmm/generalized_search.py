"""Where the approximate likelihood of a generalized model is largest with parameters held, and which options a search has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.approximation import MOST_DIMENSIONS, Laplace
from bayeslmm.covariance import Covariance
from bayeslmm.endless import curvature_root
from bayeslmm.errors import MethodError
from bayeslmm.family import HETEROSCEDASTIC, family_of
from bayeslmm.model import Model
from bayeslmm.natural_priors import NaturalPriors
from bayeslmm.optimise import DECREMENT, Objective, Optimum, inside, minimise
from bayeslmm.reml import Restricted
from bayeslmm.restriction import Restriction

Array = NDArray[np.float64]
# Nodes per dimension of AGHQ, if not given.
NODES = 11
METHODS = {
    "Laplace": "Laplace's approximation",
    "AGHQ": "adaptive Gauss-Hermite quadrature",
    "MAP": "maximum a posteriori (MAP)",
    "PQL": "penalised quasi-likelihood",
    "REML": "REML",
}


class Found(NamedTuple):
    """Where a search ended."""

    optimum: Optimum
    x: Array  # θ, β, log dispersion, further coefficients
    root: Array  # (r, ·) K with K'K the covariance of x, or of its first entries
    aux: int | None  # where the search has the log dispersion
    held: Mapping[str, float] = {}


def criterion(approximation: Laplace) -> Objective:
    """−2 log-likelihood and its gradient."""
    return lambda x: approximation.minus_twice(approximation.point(x))


def searched(
    full: Laplace, to: Restriction, x: Array, scale: Array, added: NaturalPriors | Restricted | None = None
) -> Found:
    """The optimum with parameters held, under priors, or of the restricted likelihood, searched for from x.

    Parameters
    ----------
    full : Laplace
        The approximation, or a quadrature.
    to : Restriction
        What is held.
    x : ndarray (m,)
    scale : ndarray (m, m)
        From the coordinates that the search moves in to x.
    added : NaturalPriors or Restricted, optional
        What is maximised with the likelihood.

    Returns
    -------
    Found
    """
    objective = criterion(full) if added is None else with_added(criterion(full), added)

    def restricted(y: Array) -> tuple[float, Array]:
        value, gradient = objective(to.x(y))
        return value, to.pulled(y, gradient)

    start = inside(restricted, to.start(x), sum(covariance.n_theta for covariance in to.covariances))
    optimum = minimise(restricted, start, to.covariances, to.scale(scale))
    return Found(optimum, to.x(optimum.theta), spread(to, optimum), to.tail[0], to.held)


def with_added(objective: Objective, added: NaturalPriors | Restricted) -> Objective:
    """−2 log posterior density of the natural parameters, or −2 restricted log-likelihood."""

    def both(x: Array) -> tuple[float, Array]:
        more, slope = added.at(x)
        if not np.isfinite(more):
            return np.inf, np.zeros_like(x)
        value, gradient = objective(x)
        return value - 2.0 * more, gradient - 2.0 * slope

    return both


def spread(to: Restriction, optimum: Optimum) -> Array:
    """K (r, m) with K'K the covariance of x, from the curvature in the free coordinates."""
    return to.spread(curvature_root(optimum, *to.tail), optimum.theta)


def centred(rough: Laplace) -> Array:
    """The means of X; beside thresholds, of which the first is its intercept, a first search is about them."""
    X = rough.observed.X
    middle = np.asarray(X.mean(axis=0))
    if rough.n_thresholds:
        rough.observed = rough.observed._replace(X=X - middle)
    return middle


def whole(rough: Laplace, x: Array, middle: Array) -> Array:
    """Parameters with β among them, from those of a search with β at the mode."""
    m, p = rough.model.n_theta, rough.p
    found = np.concatenate([x[:m], rough.beta, x[m:]])
    if rough.n_thresholds:  # the first threshold goes with the middle of η
        found[m + p] += middle @ rough.beta
    return found


def lower(
    approximation: Laplace, optimum: Optimum, theta: Array, covariances: Sequence[Covariance], basis: Array
) -> Optimum:
    """The lower of the optimum and of what a search from `theta` finds: on a boundary it may be a local one."""
    x = np.concatenate([theta, optimum.theta[len(theta) :]])
    other = minimise(criterion(approximation), x, covariances, basis)
    return other if other.value < optimum.value - DECREMENT * max(1.0, abs(optimum.value)) else optimum


def check_options(
    model: Model, method: str, nodes: int | None, information: str, fast: bool, fixed: Mapping[str, float] | None
) -> None:
    """Raise for options that have no meaning."""
    gaussian = model.family == HETEROSCEDASTIC
    known = [name for name in METHODS if name != "REML" or gaussian]
    if method not in known:
        said = " or ".join(f'"{name}"' for name in (["ML"] if gaussian else []) + known)
        raise MethodError(f"method={method!r} is not known for a model of the {model.family} family; use {said}")
    if method == "REML":
        _check_restricted(fixed)
    if fast:
        _check_fast(model, method, fixed)
    if information not in ("observed", "expected"):
        raise MethodError(f'information={information!r} is not known; use "observed" or "expected"')
    if information == "expected" and not family_of(model.family).has_information:
        raise MethodError(f'the expected information of the {model.family} family has no closed form; use "observed"')
    if method in ("Laplace", "REML") and nodes is not None:
        raise MethodError('nodes= is for method="AGHQ" and "MAP"')
    if method == "AGHQ" or nodes is not None:
        _check_quadrature(model, nodes)


def _check_restricted(fixed: Mapping[str, float] | None) -> None:
    coefficient = next((name for name in fixed or () if name.startswith("fixef")), None)
    if coefficient:
        raise MethodError(f'{coefficient} cannot be held by REML, which integrates β out; use method="ML"')


def _check_quadrature(model: Model, nodes: int | None) -> None:
    if nodes is not None and (isinstance(nodes, bool) or not isinstance(nodes, int | np.integer) or nodes < 1):
        raise MethodError(f"nodes={nodes!r} must be a whole number, at least 1")
    factors = model.structure.factors
    if len(factors) != 1 or factors[0].width > MOST_DIMENSIONS:
        groups = ", ".join(f"{f.group}: {f.width}" for f in factors) or "none"
        raise MethodError(
            f"Quadrature integrates over the effects of one grouping factor, at most {MOST_DIMENSIONS} of them; the model has "
            f'{groups}. Use method="Laplace", or MAP without nodes='
        )


def _check_fast(model: Model, method: str, fixed: Mapping[str, float] | None) -> None:
    if fixed:
        raise MethodError("fast=True takes no fixed=; leave it out")
    if method != "Laplace":
        raise MethodError('fast=True is for method="Laplace"')
    if family_of(model.family).ordered:
        raise MethodError(
            "fast=True puts β at the mode with thresholds held, which is no estimate of them; leave it out"
        )
