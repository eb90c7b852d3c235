"""Response distributions and their links: names, dispersion, moments, random draws, and what a response must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bayeslmm.errors import DataError, NotSupportedError
from bayeslmm.exact import densities

Array = NDArray[np.float64]
LINKS = {
    "identity": densities.IDENTITY,
    "logit": densities.LOGIT,
    "probit": densities.PROBIT,
    "cloglog": densities.CLOGLOG,
    "cauchit": densities.CAUCHIT,
    "log": densities.LOG,
    "sqrt": densities.SQRT,
    "inverse": densities.INVERSE,
    "inverse_squared": densities.INVERSE_SQUARED,
}
_FORWARD: dict[str, Callable[[Array], Array]] = {
    "identity": lambda mu: mu,
    "logit": lambda mu: np.log(mu / (1.0 - mu)),
    "probit": stats.norm.ppf,
    "cloglog": lambda mu: np.log(-np.log1p(-mu)),
    "cauchit": lambda mu: np.tan(np.pi * (mu - 0.5)),
    "log": np.log,
    "sqrt": np.sqrt,
    "inverse": lambda mu: 1.0 / mu,
    "inverse_squared": lambda mu: mu**-2.0,
}
_UNIT = ("logit", "probit", "cloglog", "cauchit")
_COUNT = ("log", "sqrt", "identity")


@dataclass(frozen=True)
class Family:
    """A response distribution: given the effects, responses are independent with mean g⁻¹(η) and dispersion φ.

    Parameters
    ----------
    name : str
        Bambi's name.
    code : int
        The family's number in `exact.densities`.
    links : tuple of str
        Links it can have, its default first.
    dispersion : str or None
        Bambi's name of its dispersion parameter, None where it has none.
    support : str
        What a response must be, in words.
    """

    name: str
    code: int
    links: tuple[str, ...]
    dispersion: str | None
    support: str

    @property
    def of_trials(self) -> bool:
        """Whether responses are successes out of a number of trials."""
        return self.name in ("binomial", "betabinomial")

    @property
    def has_information(self) -> bool:
        """Whether the expected information has a closed form."""
        return self.name not in ("betabinomial", "negativebinomial1")

    def link(self, name: str | None) -> str:
        """The link by name, or the default one.

        Parameters
        ----------
        name : str or None
            A link.

        Returns
        -------
        str

        Raises
        ------
        NotSupportedError
            The family has no such link here.
        """
        if name is None:
            return self.links[0]
        if name not in self.links:
            raise NotSupportedError(
                f"link={name!r} cannot be fitted for the {self.name} family; it has {', '.join(self.links)}"
                + ("; or transform y" if self.name == "gaussian" else "")
            )
        return name

    def check(self, response: str, y: Array, trials: Array | None) -> None:
        """Raise for a response that the family cannot have.

        Parameters
        ----------
        response : str
            As written in the formula.
        y : ndarray (n,)
        trials : ndarray (n,) or None

        Raises
        ------
        DataError
            Names the first row that does not fit.
        """
        if self.of_trials and trials is None:
            raise DataError(
                f"a binomial response is written p(successes, trials); for 0 and 1 in {response!r} use "
                'family="bernoulli"'
            )
        if not self.of_trials and trials is not None:
            raise DataError(f'{response} is a binomial response; use family="binomial"')
        bad = ~_SUPPORT[self.name](y, np.ones_like(y) if trials is None else trials)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(f"the {self.name} family needs {self.support}; {response} is {y[row]:g} in row {row}")

    def variance(self, mu: Array, phi: float, trials: Array | float = 1.0) -> Array:
        """Variance of a response of mean `mu` (for the binomial: of the share of successes).

        Parameters
        ----------
        mu : ndarray
        phi : float
            Dispersion.
        trials : ndarray or float

        Returns
        -------
        ndarray
        """
        if self.name == "betabinomial":
            return np.asarray(mu * (1.0 - mu) * (trials + phi) / (1.0 + phi) / trials)
        return np.asarray(_VARIANCE[self.name](mu, phi) / trials)

    def draws(self, rng: np.random.Generator, mu: Array, phi: float, trials: Array | float = 1.0) -> Array:
        """Random responses with means `mu`.

        Parameters
        ----------
        rng : Generator
        mu : ndarray
        phi : float
            Dispersion.
        trials : ndarray or float

        Returns
        -------
        ndarray
        """
        return np.asarray(_DRAWS[self.name](rng, mu, phi, trials), float)

    def rough_mean(self, y: Array, trials: Array | None) -> Array:
        """Means near the responses, inside the family's range, from which a search begins.

        Parameters
        ----------
        y : ndarray (n,)
        trials : ndarray (n,) or None

        Returns
        -------
        ndarray (n,)
        """
        m = np.ones_like(y) if trials is None else trials
        if self.name == "bernoulli" or self.of_trials:
            return np.asarray((y + 0.5) / (m + 1.0))
        if self.links == _COUNT:
            return np.asarray(0.5 * (y + y.mean()) + 0.1)
        return np.asarray(0.5 * (y + y.mean()))


_SUPPORT: dict[str, Callable[[Array, Array], NDArray[np.bool_]]] = {
    "gaussian": lambda y, m: np.isfinite(y),
    "bernoulli": lambda y, m: (y == 0) | (y == 1),
    "binomial": lambda y, m: (y >= 0) & (y <= m) & (m > 0) & (y == np.round(y)) & (m == np.round(m)),
    "poisson": lambda y, m: (y >= 0) & (y == np.round(y)),
    "negativebinomial": lambda y, m: (y >= 0) & (y == np.round(y)),
    "gamma": lambda y, m: y > 0,
    "wald": lambda y, m: y > 0,
    "beta": lambda y, m: (y > 0) & (y < 1),
}
_SUPPORT |= {"betabinomial": _SUPPORT["binomial"], "negativebinomial1": _SUPPORT["poisson"]}
_VARIANCE: dict[str, Callable[[Array, float], Array]] = {
    "gaussian": lambda mu, phi: np.full_like(mu, phi**2),
    "bernoulli": lambda mu, phi: mu * (1.0 - mu),
    "binomial": lambda mu, phi: mu * (1.0 - mu),
    "poisson": lambda mu, phi: mu,
    "negativebinomial": lambda mu, phi: mu + mu**2 / phi,
    "gamma": lambda mu, phi: mu**2 / phi,
    "wald": lambda mu, phi: mu**3 / phi,
    "beta": lambda mu, phi: mu * (1.0 - mu) / (1.0 + phi),
    "negativebinomial1": lambda mu, phi: mu * (1.0 + phi),
}
_DRAWS: dict[str, Callable[..., Array]] = {
    "gaussian": lambda rng, mu, phi, m: rng.normal(mu, phi),
    "bernoulli": lambda rng, mu, phi, m: rng.binomial(1, mu).astype(float),
    "binomial": lambda rng, mu, phi, m: rng.binomial(np.asarray(m, int), mu).astype(float),
    "poisson": lambda rng, mu, phi, m: rng.poisson(mu).astype(float),
    "negativebinomial": lambda rng, mu, phi, m: rng.negative_binomial(phi, phi / (phi + mu)).astype(float),
    "gamma": lambda rng, mu, phi, m: rng.gamma(phi, mu / phi),
    "wald": lambda rng, mu, phi, m: rng.wald(mu, phi),
    "beta": lambda rng, mu, phi, m: rng.beta(mu * phi, (1.0 - mu) * phi),
    "betabinomial": lambda rng, mu, phi, m: rng.binomial(np.asarray(m, int), rng.beta(mu * phi, (1.0 - mu) * phi)),
    "negativebinomial1": lambda rng, mu, phi, m: rng.negative_binomial(mu / phi, 1.0 / (1.0 + phi)),
}
FAMILIES = {
    family.name: family
    for family in (
        Family("gaussian", densities.GAUSSIAN, ("identity",), "sigma", "numbers"),
        Family("bernoulli", densities.BINOMIAL, _UNIT, None, "0 and 1, or a factor of two levels"),
        Family("binomial", densities.BINOMIAL, _UNIT, None, "whole successes from 0 to the whole number of trials"),
        Family("poisson", densities.POISSON, _COUNT, None, "whole numbers from 0"),
        Family(
            "negativebinomial",
            densities.NEGATIVE_BINOMIAL,
            _COUNT,
            "alpha",
            "whole numbers from 0",
        ),
        Family("gamma", densities.GAMMA, ("inverse", "log", "identity"), "alpha", "numbers above 0"),
        Family("wald", densities.WALD, ("inverse_squared", "log", "inverse", "identity"), "lam", "numbers above 0"),
        Family(
            "betabinomial",
            densities.BETA_BINOMIAL,
            _UNIT,
            "kappa",
            "whole successes from 0 to the whole number of trials",
        ),
        Family("negativebinomial1", densities.LINEAR_NEGATIVE_BINOMIAL, _COUNT, "phi", "whole numbers from 0"),
        Family("beta", densities.BETA, _UNIT, "kappa", "numbers between 0 and 1, neither of them included"),
    )
}


def family_of(name: str) -> Family:
    """The family of a name.

    Parameters
    ----------
    name : str
        Bambi's name: "gaussian", "bernoulli", "binomial", "poisson", "negativebinomial", "gamma", "wald", "beta".

    Returns
    -------
    Family

    Raises
    ------
    NotSupportedError
        No such family; lists those there are.

    Examples
    --------
    >>> from bayeslmm.family import family_of
    >>> family_of("poisson").links
    ('log', 'sqrt', 'identity')
    """
    if name not in FAMILIES:
        raise NotSupportedError(f"family={name!r} cannot be fitted; the families are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def linked(link: str, mu: Array) -> Array:
    """η = g(μ).

    Parameters
    ----------
    link : str
    mu : ndarray

    Returns
    -------
    ndarray
    """
    return np.asarray(_FORWARD[link](mu))
