"""Means of a response over normal linear predictors: E g⁻¹(η), exact or by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bayeslmm.exact.densities import mean_slopes, means
from bayeslmm.family import LINKS

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
    x, w = np.polynomial.hermite.hermgauss(NODES)
    w = w / np.sqrt(np.pi)
    eta = centre[:, None] + np.sqrt(2.0 * variance)[:, None] * x
    shape, code = eta.shape, LINKS[link]
    values, slopes = means(code, eta.ravel()).reshape(shape), mean_slopes(code, eta.ravel()).reshape(shape)
    return Averaged(values @ w, slopes @ w)


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
