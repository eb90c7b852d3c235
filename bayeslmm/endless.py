"""Estimates that run off to infinity: separated responses, counts without overdispersion, tails that are not heavy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bayeslmm.approximation import Laplace
from bayeslmm.exact.densities import means
from bayeslmm.family import LINKS, family_of
from bayeslmm.model import Model
from bayeslmm.optimise import DECREMENT, Optimum

Array = NDArray[np.float64]
# Standard error of η, averaged over the rows, that only separated responses have; relative excess of variance that is none;
# ν that is endless.
ENDLESS, NO_EXCESS, NO_TAILS = 1e3, 1e-4, 1e4
# The first of ordered categories, where a step between thresholds of δ that runs off multiplies a curvature's error by δ².
ENDLESS_ORDERED = 30.0
# Residual standard deviation, as a share of that of the response, from which a search that comes to no end drives it to 0.
VANISHING = 1e-3
_LIMITS = {
    "negativebinomial": "alpha runs off to infinity, where the family is the Poisson",
    "negativebinomial1": "phi runs off to 0, where the family is the Poisson",
    "betabinomial": "kappa runs off to infinity, where the family is the binomial",
}


def curvature_root(optimum: Optimum, aux: int | None, first: int) -> Array:
    """K (r, m) with K'K the covariance of the search's coordinates, from the curvature in those that are not on a boundary.

    A log dispersion or a last parameter that runs off to infinity has no curvature, nor have then all those from `first` on:
    theirs is NaN.

    Parameters
    ----------
    optimum : Optimum
    aux : int or None
        Where the log dispersion stands among the coordinates, if it does.
    first : int
        Where the coordinates end that come before log dispersion and the further parameters.

    Returns
    -------
    ndarray
    """
    free = np.flatnonzero(optimum.free)
    for used in (free, free[free != aux], free[free < max(first, len(optimum.theta) - 1)], free[free < first]):
        root = np.zeros((len(used), len(optimum.theta)))
        root[:, np.setdiff1d(free, used)] = np.nan
        try:
            L = np.linalg.cholesky(0.5 * optimum.hessian[np.ix_(used, used)])
        except np.linalg.LinAlgError:
            continue
        root[:, used] = np.linalg.solve(L, np.eye(len(used)))
        return root
    root[:, free] = np.nan
    return root


def judged(
    model: Model,
    approximation: Laplace,
    optimum: Optimum,
    beta: Array,
    root: Array,
    dispersion: float,
    further: Array,
    aux: int | None,
) -> Optimum:
    """The optimum with what it means where an estimate runs off to infinity; `aux` is where log dispersion is searched for."""
    if family_of(model.family).plain == "gaussian":
        return _vanishing(approximation, optimum, further)
    endless = _separated(model, approximation, beta, root)
    if endless:
        message = (
            f"the likelihood rises without end along {endless}: the responses are separated by it, and the estimate is where "
            "the search stopped. Leave it out, or join its levels"
        )
        return replace(optimum, converged=False, message=message)
    size = model.n_theta + len(beta) + approximation.has_dispersion + approximation.n_further
    if model.family == "t" and len(optimum.theta) == size:  # ν is not held
        return _normal(optimum)
    limit = _LIMITS.get(family_of(model.family).plain)
    if limit is None or aux is None or _excess(model, approximation, beta, dispersion) > NO_EXCESS:
        return optimum
    if _at_rest(optimum, aux):
        return replace(optimum, converged=True, message=f"converged; there is no overdispersion, {limit}")
    return optimum


def _excess(model: Model, approximation: Laplace, beta: Array, dispersion: float) -> float:
    """The largest variance of a row relative to the limiting family's, less 1."""
    match family_of(model.family).plain:
        case "negativebinomial":
            mu = means(LINKS[model.link], model.X @ beta + approximation.observed.offset)
            return float(mu.max() / dispersion)
        case "betabinomial":
            return float((approximation.observed.trials.max() - 1.0) / (1.0 + dispersion))
    return dispersion


def _at_rest(optimum: Optimum, without: int) -> bool:
    """Whether nothing is left to gain in the parameters besides one."""
    others = optimum.free.copy()
    others[without] = False
    g, H = optimum.gradient[others], optimum.hessian[np.ix_(others, others)]
    return float(g @ np.linalg.lstsq(H, g)[0]) < DECREMENT


def _normal(optimum: Optimum) -> Optimum:
    """The optimum of a t model, with what it means where ν runs off to infinity."""
    if not (optimum.theta[-1] > np.log(NO_TAILS) and _at_rest(optimum, len(optimum.theta) - 1)):
        return optimum
    message = "converged; there are no heavy tails, nu runs off to infinity, where the family is the Gaussian"
    return replace(optimum, converged=True, message=message)


def _vanishing(approximation: Laplace, optimum: Optimum, further: Array) -> Optimum:
    """The optimum of a Gaussian model, or that σ of some rows tends to 0, where the likelihood has no bound."""
    log_sigma = approximation.observed.aux_rows + approximation.W @ further
    if optimum.converged or np.exp(log_sigma.min()) > VANISHING * np.std(approximation.observed.y):
        return optimum
    message = (
        f"the likelihood rises without end: sigma of row {int(log_sigma.argmin())} tends to 0, as the mean reproduces such rows. "
        "Leave the term that sets them apart out of the formula for the dispersion"
    )
    return replace(optimum, converged=False, message=message)


def _separated(model: Model, approximation: Laplace, beta: Array, root: Array) -> str:
    """The coefficient along which hardly any information is left, or nothing."""
    X = model.X
    if not X.shape[1] or model.family == "t":  # whose likelihood falls with the distance
        return ""
    ordered = family_of(model.family).ordered
    about = X - X.mean(axis=0) if ordered else X  # thresholds take up the means
    spread = np.sqrt(np.mean(np.sum((about @ root.T) ** 2, axis=1)))  # standard error of η over the rows
    if np.isfinite(spread) and spread < (ENDLESS_ORDERED if ordered else ENDLESS):
        return ""
    reach = np.abs(beta) * np.sqrt(np.mean(X**2, axis=0))
    return model.design.fixed.names[int(reach.argmax())]
