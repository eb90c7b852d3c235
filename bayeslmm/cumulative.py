"""Distribution functions of the families' responses, given mean and dispersion."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bayeslmm.errors import MethodError

Array = NDArray[np.float64]
DISCRETE = frozenset({"bernoulli", "binomial", "poisson", "negativebinomial", "negativebinomial1", "betabinomial"})
COUNTS = frozenset({"poisson", "negativebinomial", "negativebinomial1"})


def distribution(family: str, mu: Array, phi: Array | float, trials: Array | float = 1.0) -> Any:
    """SciPy's distribution of responses of mean `mu` (of the binomials: successes, `mu` their share).

    Parameters
    ----------
    family : str
        Bambi's name.
    mu : ndarray
    phi : ndarray or float
        Dispersion; not looked at where the family has none.
    trials : ndarray or float

    Returns
    -------
    scipy.stats.rv_frozen

    Raises
    ------
    MethodError
        A family without one.

    Examples
    --------
    >>> import numpy as np
    >>> distribution("poisson", np.array([1.0]), float("nan")).cdf(0).round(4).tolist()
    [0.3679]
    """
    if family not in DISTRIBUTIONS:
        raise MethodError(
            f"the {family} family has no distribution function here; bl.quantile_residuals(fit) simulates instead"
        )
    return DISTRIBUTIONS[family](mu, phi, trials)


DISTRIBUTIONS: MappingProxyType[str, Callable[..., Any]] = MappingProxyType(
    {
        "gaussian": lambda mu, phi, m: stats.norm(mu, phi),
        "bernoulli": lambda mu, phi, m: stats.binom(1, mu),
        "binomial": lambda mu, phi, m: stats.binom(m, mu),
        "poisson": lambda mu, phi, m: stats.poisson(mu),
        "negativebinomial": lambda mu, phi, m: stats.nbinom(phi, phi / (phi + mu)),
        "negativebinomial1": lambda mu, phi, m: stats.nbinom(mu / phi, 1.0 / (1.0 + phi)),
        "gamma": lambda mu, phi, m: stats.gamma(phi, scale=mu / phi),
        "wald": lambda mu, phi, m: stats.invgauss(mu / phi, scale=phi),
        "beta": lambda mu, phi, m: stats.beta(mu * phi, (1.0 - mu) * phi),
        "betabinomial": lambda mu, phi, m: stats.betabinom(m, mu * phi, (1.0 - mu) * phi),
    }
)


def randomised(family: str, y: Array, given: Any, uniform: Array) -> Array:
    """Probability integral transforms F(y⁻) + u (F(y) − F(y⁻)), uniform under the model (Dunn & Smyth 1996).

    Parameters
    ----------
    family : str
    y : ndarray (n,)
    given : scipy.stats.rv_frozen
        What `distribution` gave.
    uniform : ndarray (n,)
        Uniform numbers.

    Returns
    -------
    ndarray (n,)
    """
    upper = given.cdf(y)
    lower = given.cdf(y - 1.0) if family in DISCRETE else upper
    return np.asarray(lower + uniform * (upper - lower))
