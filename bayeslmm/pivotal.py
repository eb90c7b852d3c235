"""Probability transforms of the responses at draws of a posterior, and what they say.

At one draw θ of the posterior the transforms F(yᵢ | θ) of the responses are independent and uniform if the model is true:
(θ, y) has the distribution that drawing θ from the prior and then y would give it (Johnson 2007, Bayesian Analysis 2,
719–734). A statistic of them is so judged at each draw by its own distribution. The mean of these p-values over the draws
is the posterior predictive p-value of a discrepancy (Gelman, Meng & Stern 1996, Statistica Sinica 6, 733–807): below α at
most 2α of the time under a true model (Meng 1994, Annals of Statistics 22, 1142–1160), most often far less.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtri
from scipy.stats import chi2, kstwo

from bayeslmm.cumulative import DISCRETE, distribution
from bayeslmm.exact.densities import means
from bayeslmm.family import LINKS, family_of
from bayeslmm.posterior import Posterior
from bayeslmm.posterior_rows import further_draws

Array = NDArray[np.float64]
# Nearest to 0 and 1 that a transform is taken for, so that its normal quantile is finite.
SMALLEST = 1e-12


class Bounds(NamedTuple):
    """F(y⁻) and F(y) of the rows, and the probability of 0, at some draws (m, n)."""

    lower: Array
    upper: Array
    zero: Array


class Judged(NamedTuple):
    """A discrepancy's mean over the draws, and its posterior predictive p-value."""

    statistic: float
    p: float


def response_distribution(post: Posterior, draws: slice, eta: Array) -> Any:
    """SciPy's distribution of the responses given the effects at some draws.

    Parameters
    ----------
    post : Posterior
    draws : slice
    eta : ndarray (m, n)
        Linear predictors at those draws.

    Returns
    -------
    scipy.stats.rv_frozen, Zeroed or Categories
    """
    model, design, second = post.model, post.model.design, family_of(post.model.family).second
    if second == "thresholds":
        return distribution(model.family, eta, np.nan, second=post.draws(second)[draws], link=model.link)
    phi = np.exp(further_draws(post, "dispersion", draws))
    if second == "nu":
        return distribution(model.family, eta, phi, second=post.draws(second)[draws, None])
    if model.family == "gaussian":
        return distribution("gaussian", eta, phi / np.sqrt(1.0 if design.weights is None else design.weights))
    mu, zero = means(LINKS[model.link], eta.ravel()).reshape(eta.shape), expit(further_draws(post, "zero", draws))
    return distribution(model.family, mu, phi, 1.0 if design.trials is None else design.trials, zero)


def bounds_at(post: Posterior, draws: slice, eta: Array) -> Bounds:
    """F(y⁻), F(y) and P(0) at some draws.

    Parameters
    ----------
    post : Posterior
    draws : slice
    eta : ndarray (m, n)

    Returns
    -------
    Bounds
    """
    y, given = post.model.design.y, response_distribution(post, draws, eta)
    upper = given.cdf(y)
    if family_of(post.model.family).plain not in DISCRETE:
        return Bounds(upper, upper, np.zeros_like(upper))
    return Bounds(given.cdf(y - 1.0), upper, given.pmf(0.0 * y))


class Transforms(NamedTuple):
    """Averaged transforms (n,); transforms at some draws (n, m), zeros expected and drawn at each of them (m,)."""

    averaged: Array
    at_draws: Array
    expected: Array
    zeros: Array


def transforms(post: Posterior, weights: Array | None, count: int, rng: np.random.Generator) -> Transforms:
    """Randomised transforms of the responses given the effects.

    Parameters
    ----------
    post : Posterior
    weights : ndarray (draws, n) or None
        Of the draws, for each row, to average F(y⁻) and F(y) with; equal ones if None.
    count : int
        Draws, evenly spaced, at which the transforms themselves are kept.
    rng : Generator
        Randomises the transforms of discrete responses.

    Returns
    -------
    Transforms
    """
    total, n = post.n_draws, post.model.design.nobs
    chosen = np.unique(np.round(np.linspace(0, total - 1, min(count, total))).astype(np.intp))
    low, high = np.zeros(n), np.zeros(n)
    at_draws, expected, zeros = [], [], []
    for draws, eta in post.predictor_draws():
        at = bounds_at(post, draws, eta)
        share = np.full(eta.shape, 1.0 / total) if weights is None else weights[draws]
        low, high = low + np.sum(share * at.lower, axis=0), high + np.sum(share * at.upper, axis=0)
        own = chosen[(chosen >= draws.start) & (chosen < draws.stop)] - draws.start
        lower, upper, zero = at.lower[own], at.upper[own], at.zero[own]
        at_draws.append(lower + rng.uniform(size=lower.shape) * (upper - lower))
        expected.append(zero.sum(axis=1))
        zeros.append((rng.uniform(size=zero.shape) < zero).sum(axis=1))
    averaged = low + rng.uniform(size=n) * (high - low)
    return Transforms(averaged, np.concatenate(at_draws).T, np.concatenate(expected), np.concatenate(zeros))


def uniformity(at_draws: Array) -> Judged:
    """Kolmogorov and Smirnov's distance from uniform.

    Parameters
    ----------
    at_draws : ndarray (n, m)

    Returns
    -------
    Judged
    """
    n = len(at_draws)
    steps, grid = np.sort(at_draws, axis=0), np.arange(n)[:, None]
    distance = np.maximum(((grid + 1) / n - steps).max(axis=0), (steps - grid / n).max(axis=0))
    return Judged(float(distance.mean()), float(kstwo.sf(distance, n).mean()))


def dispersion(at_draws: Array) -> Judged:
    """Mean square of the transforms' normal quantiles, χ² over its degrees of freedom.

    Parameters
    ----------
    at_draws : ndarray (n, m)

    Returns
    -------
    Judged
    """
    n = len(at_draws)
    total = np.sum(ndtri(np.clip(at_draws, SMALLEST, 1.0 - SMALLEST)) ** 2, axis=0)
    above, below = chi2.sf(total, n).mean(), chi2.cdf(total, n).mean()
    return Judged(float(total.mean() / n), float(min(1.0, 2.0 * min(above, below))))


def zero_inflation(observed: int, expected: Array, zeros: Array) -> Judged:
    """Zeros over the number expected, judged by numbers drawn at each draw.

    Parameters
    ----------
    observed : int
    expected, zeros : ndarray (m,)

    Returns
    -------
    Judged
    """
    above, below = ((1.0 + np.sum(side)) / (1.0 + len(zeros)) for side in (zeros >= observed, zeros <= observed))
    mean = float(expected.mean())
    return Judged(observed / mean if mean > 0 else float(observed), float(min(1.0, 2.0 * min(above, below))))
