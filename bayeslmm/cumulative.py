"""Distribution functions of the families' responses, given mean, dispersion and the probability of a zero of its own."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bayeslmm.errors import MethodError
from bayeslmm.exact import zeros
from bayeslmm.family import FAMILIES, family_of

Array = NDArray[np.float64]
_COUNTS = ("poisson", "negativebinomial", "negativebinomial1")
COUNTS = frozenset(name for name, family in FAMILIES.items() if family.plain in _COUNTS)
DISCRETE = COUNTS | {name for name, family in FAMILIES.items() if family.plain == "bernoulli" or family.of_trials}


class Zeroed(NamedTuple):
    """A distribution with zeros of their own: of probability π beside `plain`, or in place of its zeros (hurdle)."""

    plain: Any
    zero: Array | float
    hurdle: bool

    def pmf(self, y: Any) -> Array:
        """Probability of y."""
        kept = (1.0 - self.zero) / self.plain.sf(0) if self.hurdle else 1.0 - self.zero
        others = kept * self.plain.pmf(y)
        return np.where(np.equal(y, 0), self.zero + (0.0 if self.hurdle else others), others)

    def cdf(self, y: Any) -> Array:
        """Probability of a response up to y."""
        others = 1.0 - self.plain.sf(y) / self.plain.sf(0) if self.hurdle else self.plain.cdf(y)
        return np.where(np.less(y, 0), 0.0, self.zero + (1.0 - self.zero) * others)


def distribution(
    family: str, mu: Array, phi: Array | float, trials: Array | float = 1.0, zero: Array | float = 0.0
) -> Any:
    """SciPy's distribution of responses of mean `mu` (of the binomials: successes, `mu` their share).

    Parameters
    ----------
    family : str
        Bambi's name.
    mu : ndarray
        Of a family with zeros of their own the mean of the plain one.
    phi : ndarray or float
        Dispersion; not looked at where the family has none.
    trials : ndarray or float
    zero : ndarray or float
        Probability of a zero of its own, in a family that has them.

    Returns
    -------
    scipy.stats.rv_frozen or Zeroed

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
    of = family_of(family)
    if of.plain not in DISTRIBUTIONS:
        raise MethodError(
            f"the {family} family has no distribution function here; bl.quantile_residuals(fit) simulates instead"
        )
    plain = DISTRIBUTIONS[of.plain](mu, phi, trials)
    return Zeroed(plain, zero, of.zeros == zeros.HURDLE) if of.zeros else plain


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
    given : scipy.stats.rv_frozen or Zeroed
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
