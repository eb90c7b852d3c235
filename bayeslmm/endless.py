"""Estimates that run off to infinity: separated responses, and counts without overdispersion."""

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
# Standard error of η, averaged over the rows, that only separated responses have; α beyond the largest mean that is endless.
ENDLESS, NO_EXCESS = 1e3, 1e4


def judged(
    model: Model, approximation: Laplace, optimum: Optimum, beta: Array, root: Array, dispersion: float
) -> Optimum:
    """The optimum with what it means where an estimate runs off to infinity."""
    endless = _separated(model, approximation, beta, root)
    if endless:
        message = (
            f"the likelihood rises without end along {endless}: the responses are separated by it, and the estimate is where "
            "the search stopped. Leave it out, or join its levels"
        )
        return replace(optimum, converged=False, message=message)
    mu = means(LINKS[model.link], model.X @ beta + approximation.observed.offset)
    if (
        approximation.has_dispersion
        and family_of(model.family).plain == "negativebinomial"
        and dispersion > NO_EXCESS * mu.max()
    ):
        others = optimum.free.copy()
        others[model.n_theta + len(beta)] = False
        g, H = optimum.gradient[others], optimum.hessian[np.ix_(others, others)]
        if float(g @ np.linalg.lstsq(H, g)[0]) < DECREMENT:
            message = (
                "converged; there is no overdispersion, alpha runs off to infinity, where the family is the Poisson"
            )
            return replace(optimum, converged=True, message=message)
    return optimum


def _separated(model: Model, approximation: Laplace, beta: Array, root: Array) -> str:
    """The coefficient along which hardly any information is left, or nothing."""
    X = model.X
    if not X.shape[1]:
        return ""
    spread = np.sqrt(np.mean(np.sum((X @ root.T) ** 2, axis=1)))  # standard error of η over the rows
    if np.isfinite(spread) and spread < ENDLESS:
        return ""
    reach = np.abs(beta) * np.sqrt(np.mean(X**2, axis=0))
    return model.design.fixed.names[int(reach.argmax())]
