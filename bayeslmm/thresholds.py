"""Thresholds of ordered categories: P(y ≤ k) = F(τ_k − η), τ increasing, searched for as τ_1 and the logs of their steps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bayeslmm.errors import DataError
from bayeslmm.exact.ordinal import log_probabilities
from bayeslmm.family import LINKS, linked

Array = NDArray[np.float64]
# Rows that a search begins with in a category that has none, as a simulated response may leave one.
EMPTY = 0.5


def increasing(free: Array) -> Array:
    """τ (…, K − 1) from τ_1 and the logs of the steps."""
    return np.asarray(np.cumsum(np.concatenate([free[..., :1], np.exp(free[..., 1:])], axis=-1), axis=-1))


def free_of(tau: Array) -> Array:
    """τ_1 and the logs of the steps (…, K − 1), from τ."""
    return np.concatenate([tau[..., :1], np.log(np.diff(tau))], axis=-1)


def slopes(free: Array) -> Array:
    """∂τ_j/∂free_i (K − 1, K − 1), lower triangular."""
    return np.asarray(np.tril(np.ones((len(free), len(free)))) * np.concatenate([[1.0], np.exp(free[1:])]))


def bounds(y: Array, tau: Array) -> tuple[Array, Array]:
    """The upper and lower threshold (n,) of each row's category; +∞ of the last, −∞ of the first."""
    code = y.astype(np.intp)
    return np.append(tau, np.inf)[code], np.insert(tau, 0, -np.inf)[code]


def pulled_back(y: Array, free: Array, upper: Array, lower: Array) -> Array:
    """Derivatives (K − 1,) by τ_1 and the logs of the steps, from those by each row's two thresholds."""
    code, K = y.astype(np.intp), len(free) + 1
    by_tau = np.bincount(code, upper, K)[:-1] + np.bincount(code, lower, K)[1:]
    return np.asarray(slopes(free).T @ by_tau)


def by_thresholds(y: Array, count: int, upper: Array, lower: Array) -> Array:
    """Derivatives (n, count) of rows by the thresholds, from those by each row's upper and lower one."""
    found = np.zeros((len(y), count + 2))  # of −∞, τ, +∞
    code = y.astype(np.intp)
    found[np.arange(len(y)), code + 1] += upper
    found[np.arange(len(y)), code] += lower
    return found[:, 1:-1]


def start(y: Array, count: int, link: str, weights: Array) -> Array:
    """τ_1 and the logs of the steps at which the categories have their shares among the rows, all η alike."""
    counts = np.bincount(y.astype(np.intp), weights, count)
    below = np.cumsum(np.where(counts > 0, counts, EMPTY))
    return free_of(linked(link, below[:-1] / below[-1]))


def probabilities(link: str, eta: Array, tau: Array) -> Array:
    """Probabilities (n, K) of the categories.

    Parameters
    ----------
    link : str
    eta : ndarray (n,)
    tau : ndarray (K − 1,)
        Thresholds, increasing.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> import numpy as np
    >>> probabilities("logit", np.zeros(1), np.array([-1.0, 1.0])).round(3).tolist()
    [[0.269, 0.462, 0.269]]
    """
    columns = []
    for k in range(len(tau) + 1):
        upper, lower = bounds(np.full(len(eta), float(k)), tau)
        columns.append(np.exp(log_probabilities(LINKS[link], np.ascontiguousarray(eta), upper, lower)))
    return np.column_stack(columns)


def draws(rng: np.random.Generator, link: str, eta: Array, tau: Array) -> Array:
    """Random categories, numbered from 0."""
    below = np.cumsum(probabilities(link, eta, tau)[:, :-1], axis=1)
    return np.asarray((rng.random(len(eta))[:, None] > below).sum(axis=1), float)


def second_log_densities(link: str, y: Array, eta: Array, sigma: Array, parameters: Mapping[str, Array]) -> Array:
    """Log densities (draws, n) of t responses or categories at draws of η (draws, n) and of their parameters."""
    if "nu" in parameters:
        return np.asarray(stats.t.logpdf(y, parameters["nu"][:, None], eta, sigma))
    found = [
        log_probabilities(LINKS[link], np.ascontiguousarray(row), *bounds(y, tau))
        for row, tau in zip(eta, parameters["thresholds"], strict=True)
    ]
    return np.array(found)


def checked(tau: Array) -> Array:
    """The thresholds themselves; raises where they do not increase."""
    if (np.diff(tau) <= 0).any():
        raise DataError(f"thresholds must increase; got {', '.join(f'{t:g}' for t in tau)}")
    return tau
