"""The rows of another family at a posterior's draws: dispersions, probabilities of zeros, means and log densities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.densities import means
from bayeslmm.exact.zeros import log_densities_of_rows
from bayeslmm.family import LINKS, family_of
from bayeslmm.model import Model
from bayeslmm.thresholds import second_log_densities

if TYPE_CHECKING:
    from bayeslmm.posterior import Posterior

Array = NDArray[np.float64]


def further_draws(post: Posterior, name: str, which: slice, columns: Array | None = None) -> Array:
    """Log dispersion or logit of the probability of a zero of its own, (m, n) in rows of the fit or new ones.

    Parameters
    ----------
    post : Posterior
    name : {"dispersion", "zero"}
    which : slice
        The m draws, chains joined.
    columns : ndarray (n, k), optional
        The formula's columns of new rows; without them those of the fit.

    Returns
    -------
    ndarray
        (m, 1) where it is the same in all rows: a dispersion without a formula; 0 in families without a dispersion, −inf
        in those without zeros of their own.
    """
    design, model = post.model.design, post.model
    if name in design.further:
        return np.asarray(post.draws(name)[which] @ (design.further_columns(name) if columns is None else columns).T)
    if name == "dispersion" and model.dispersion:
        return np.asarray(np.log(post.draws(model.dispersion)[which, None]))
    constant = 0.0 if name == "dispersion" else -np.inf
    return np.full((len(range(*which.indices(post.n_draws))), 1), constant)


def means_with_zeros(model: Model, mu: Array, a: Array, zeta: Array) -> Array:
    """Means of responses, zeros of their own included, from those of the plain family, log dispersions and ζ; shapes broadcast.

    Parameters
    ----------
    model : Model
    mu, a, zeta : ndarray
        Of a binomial response `mu` is the probability of success, and the result the mean share.

    Returns
    -------
    ndarray
        Of the shape of `mu`.
    """
    family = family_of(model.family)
    if not family.zeros:
        return mu
    phi, zero = (np.broadcast_to(v, mu.shape).ravel() for v in (np.exp(a), 1.0 / (1.0 + np.exp(-zeta))))
    return family.moments(mu.ravel(), phi, 1.0, zero)[0].reshape(mu.shape)


def mean_draws(post: Posterior, which: slice, eta: Array) -> Array:
    """Means (m, n) of the responses (of binomial ones the shares of successes) given linear predictors `eta` (m, n)."""
    model = post.model
    mu = means(LINKS[model.link], eta.ravel()).reshape(eta.shape)
    return means_with_zeros(model, mu, *(further_draws(post, name, which) for name in ("dispersion", "zero")))


def density_draws(post: Posterior, which: slice, eta: Array) -> Array:
    """Log densities (m, n) of the responses given linear predictors `eta` (m, n); prior weights multiply them, or divide σ².

    Parameters
    ----------
    post : Posterior
    which : slice
        The m draws.
    eta : ndarray (m, n)

    Returns
    -------
    ndarray (m, n)
    """
    design, family = post.model.design, family_of(post.model.family)
    y, n = np.asarray(design.y, float), design.nobs
    if family.second:
        names: list[str] = [name for name in ("nu", "thresholds") if name in post.parameters]
        found = {name: post.draws(name)[which] for name in names}
        values = second_log_densities(post.model.link, y, eta, np.exp(further_draws(post, "dispersion", which)), found)
        return values if design.weights is None else values * design.weights
    trials = np.ones(n) if design.trials is None else design.trials
    a, zeta = (further_draws(post, name, which) for name in ("dispersion", "zero"))
    if family.plain == "gaussian" and design.weights is not None:  # they divide σ²
        a = a - 0.5 * np.log(design.weights)
    link, rows = LINKS[post.model.link], np.empty_like(eta)
    for draw, e in enumerate(eta):
        own = (np.ascontiguousarray(np.broadcast_to(v[draw], n)) for v in (a, zeta))
        rows[draw] = log_densities_of_rows(family.zeros, family.code, link, y, trials, e, *own)
    return rows if design.weights is None or family.plain == "gaussian" else rows * design.weights
