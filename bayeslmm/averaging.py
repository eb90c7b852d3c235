"""Means of a response over normal linear predictors: E g⁻¹(η), exact or by quadrature, and with zeros of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from bayeslmm.exact import zeros
from bayeslmm.exact.densities import mean_slopes, means
from bayeslmm.family import LINKS, Family

Array = NDArray[np.float64]
# Nodes of the quadrature over a normal linear predictor.
NODES = 61


class Averaged(NamedTuple):
    """A mean over normal linear predictors, and its derivative by their centre."""

    mean: Array
    slope: Array


def averaged(link: str, centre: Array, variance: Array) -> Averaged:
    """E g⁻¹(η) for η ~ N(centre, variance): exact for the identity, log and probit links, by quadrature for the others.

    Φ(c/√(1 + v)) for the probit and exp(c + v/2) for the log link; Gauss-Hermite with 61 nodes elsewhere.

    Parameters
    ----------
    link : str
    centre, variance : ndarray (m,)

    Returns
    -------
    Averaged

    Examples
    --------
    >>> import numpy as np
    >>> averaged("log", np.zeros(1), np.ones(1)).mean.round(4).tolist()
    [1.6487]
    """
    if link in _EXACT:
        return _EXACT[link](centre, variance)
    eta, w = _nodes(centre, variance)
    mu, slope = _means(link, eta)
    return Averaged(mu @ w, slope @ w)


def _nodes(centre: Array, variance: Array) -> tuple[Array, Array]:
    """η (m, nodes) and their weights (nodes,)."""
    x, w = np.polynomial.hermite.hermgauss(NODES)
    return centre[:, None] + np.sqrt(2.0 * variance)[:, None] * x, w / np.sqrt(np.pi)


def _means(link: str, eta: Array) -> tuple[Array, Array]:
    """μ and dμ/dη."""
    code, flat = LINKS[link], eta.ravel()
    return means(code, flat).reshape(eta.shape), mean_slopes(code, flat).reshape(eta.shape)


def _probit(centre: Array, variance: Array) -> Averaged:
    root = np.sqrt(1.0 + variance)
    return Averaged(ndtr(centre / root), np.exp(-0.5 * (centre / root) ** 2) / np.sqrt(2.0 * np.pi) / root)


def _log(centre: Array, variance: Array) -> Averaged:
    value = np.exp(centre + 0.5 * variance)
    return Averaged(value, value)


_EXACT: dict[str, Callable[[Array, Array], Averaged]] = {
    "identity": lambda centre, variance: Averaged(centre, np.ones_like(centre)),
    "probit": _probit,
    "log": _log,
}


class Whole(NamedTuple):
    """A mean over normal linear predictors, zeros included, and its derivatives by their centre, by log φ and by logit π."""

    mean: Array
    slope: Array
    slope_aux: Array
    slope_zero: Array


def whole(family: Family, link: str, centre: Array, variance: Array, aux: Array, zeta: Array) -> Whole:
    """Mean of all responses for η ~ N(centre, variance): those that have a zero of their own, and the others.

    With π = 1/(1 + e^{−ζ}) the probability of an own zero and f the density of the plain family

        inflated  (1 − π) E μ           hurdle  (1 − π) E [μ/(1 − f(0))],     μ = g⁻¹(η)

    where μ/(1 − f(0)) = μ + μ f(0)/(1 − f(0)), the first part as in `averaged`, the second, bounded, by quadrature.

    Parameters
    ----------
    family : Family
    link : str
    centre, variance : ndarray (m,)
    aux, zeta : ndarray (m,)
        log φ and the logit of π; not looked at where the family has none. ζ = −inf gives the others alone.

    Returns
    -------
    Whole

    Examples
    --------
    >>> import numpy as np
    >>> from bayeslmm.family import family_of
    >>> at = np.zeros(1)
    >>> whole(family_of("hurdle_poisson"), "log", at, at, at, at).mean.round(4).tolist()
    [0.791]
    """
    of_others, nothing = averaged(link, centre, variance), np.zeros_like(centre)
    if not family.zeros:
        return Whole(*of_others, nothing, nothing)
    others = Whole(*of_others, nothing, nothing)
    if family.zeros == zeros.HURDLE:
        others = _truncated(family.plain, link, centre, variance, aux, of_others)
    share, kept = expit(zeta), expit(-zeta)
    return Whole(kept * others.mean, kept * others.slope, kept * others.slope_aux, -share * kept * others.mean)


def _truncated(family: str, link: str, centre: Array, variance: Array, aux: Array, plain: Averaged) -> Whole:
    """E μ/(1 − f(0)); with o = f(0)/(1 − f(0)) the derivative of o is o(1 + o) times that of log f(0)."""
    eta, w = _nodes(centre, variance)
    mu, slope = _means(link, eta)
    log_zero, by_mean, by_aux = _LOG_ZERO[family](mu, np.exp(aux)[:, None])
    with np.errstate(over="ignore"):  # of large means no zero is left: the odds are 0
        odds = 1.0 / np.expm1(-log_zero)
    change = mu * odds * (1.0 + odds)
    added, centred, dispersed = mu * odds, slope * (odds + change * by_mean), change * by_aux
    return Whole(plain.mean + added @ w, plain.slope + centred @ w, dispersed @ w, np.zeros_like(centre))


def _quadratic(mu: Array, phi: Array) -> tuple[Array, Array, Array]:
    log_zero = -phi * np.log1p(mu / phi)
    return log_zero, -phi / (phi + mu), log_zero + phi * mu / (phi + mu)


def _linear(mu: Array, phi: Array) -> tuple[Array, Array, Array]:
    log_zero = -mu * np.log1p(phi) / phi
    return log_zero, -np.log1p(phi) / phi, -log_zero - mu / (1.0 + phi)


# log f(0) and its derivatives by μ and by log φ.
_LOG_ZERO: dict[str, Callable[[Array, Array], tuple[Array, Array | float, Array | float]]] = {
    "poisson": lambda mu, phi: (-mu, -1.0, 0.0),
    "negativebinomial": _quadratic,
    "negativebinomial1": _linear,
}
