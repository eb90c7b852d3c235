"""Distribution functions of the families' responses, given mean, dispersion and what each family has besides."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bayeslmm.exact import zeros
from bayeslmm.family import FAMILIES, family_of

Array = NDArray[np.float64]
_COUNTS = ("poisson", "negativebinomial", "negativebinomial1")
COUNTS = frozenset(name for name, family in FAMILIES.items() if family.plain in _COUNTS)
DISCRETE = COUNTS | {
    name for name, family in FAMILIES.items() if family.plain == "bernoulli" or family.of_trials or family.ordered
}
# What ordered categories are the parts of, by link: P(y ≤ k) = F(τ_k − η).
LATENT = MappingProxyType({"logit": stats.logistic, "probit": stats.norm, "cloglog": stats.gumbel_l})


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


class Categories(NamedTuple):
    """Ordered categories numbered from 0: a latent response (…, n) cut at increasing thresholds (…, K − 1)."""

    latent: Any
    tau: Array

    def _upper(self, y: Any) -> Array:
        """The upper end of each category on the latent scale: −∞ below the first, +∞ of the last."""
        end = np.full((*self.tau.shape[:-1], 1), np.inf)
        edges = np.concatenate([-end, self.tau, end], axis=-1)
        return np.asarray(edges[..., np.clip(np.atleast_1d(y), -1, self.tau.shape[-1]).astype(np.intp) + 1])

    def pmf(self, y: Any) -> Array:
        """Probability of category y, from the nearer tail."""
        upper, lower = self._upper(y), self._upper(np.subtract(y, 1))
        below, above = self.latent.cdf, self.latent.sf
        return np.where(below(lower) > 0.5, above(lower) - above(upper), below(upper) - below(lower))

    def cdf(self, y: Any) -> Array:
        """Probability of a category up to y."""
        return np.asarray(self.latent.cdf(self._upper(y)))


def distribution(
    family: str,
    mu: Array,
    phi: Array | float,
    trials: Array | float = 1.0,
    second: Array | float = 0.0,
    link: str = "identity",
) -> Any:
    """SciPy's distribution of responses of mean `mu` (of the binomials: successes, `mu` their share), or one like it.

    Parameters
    ----------
    family : str
        Bambi's name.
    mu : ndarray (…, n)
        Of a family with zeros of their own the mean of the plain one; of t responses their centre, of ordered categories η.
    phi : ndarray or float
        Dispersion; not looked at where the family has none.
    trials : ndarray or float
    second : ndarray or float
        Probability of a zero of its own, in a family that has them; of t responses ν; of ordered categories the thresholds
        (…, K − 1).
    link : str
        Of ordered categories, the others' is in `mu`.

    Returns
    -------
    scipy.stats.rv_frozen, Zeroed or Categories

    Examples
    --------
    >>> import numpy as np
    >>> distribution("poisson", np.array([1.0]), float("nan")).cdf(0).round(4).tolist()
    [0.3679]
    >>> tau = np.array([-1.0, 1.0])
    >>> distribution("cumulative", np.array([0.0]), float("nan"), second=tau, link="logit").pmf(1).round(4).tolist()
    [0.4621]
    """
    of = family_of(family)
    if of.ordered:
        return Categories(LATENT[link](mu), np.asarray(second))
    if of.second == "nu":
        return stats.t(second, mu, phi)
    plain = DISTRIBUTIONS[of.plain](mu, phi, trials)
    return Zeroed(plain, second, of.zeros == zeros.HURDLE) if of.zeros else plain


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
    given : scipy.stats.rv_frozen, Zeroed or Categories
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
