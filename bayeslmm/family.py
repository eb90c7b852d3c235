"""Response distributions and their links: names, dispersion, moments, random draws, and what a response must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bayeslmm.errors import DataError, MethodError, NotSupportedError
from bayeslmm.exact import densities, zeros
from bayeslmm.plain_families import DRAWS, SUPPORT, VARIANCE

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
_SUCCESSES = "whole successes from 0 to the whole number of trials"
_COUNT = ("log", "sqrt", "identity")


# A Gaussian response with a formula for log σ: its effects do not integrate out with σ profiled, so it is a family of its own.
HETEROSCEDASTIC = "heteroscedastic_gaussian"


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
    zeros : int
        Whether zeros have a probability of their own, and how; see `exact.zeros`.
    second : str or None
        Name of a further parameter of another kind: "nu", the degrees of freedom of a t response, or "thresholds" between
        ordered categories.
    """

    name: str
    code: int
    links: tuple[str, ...]
    dispersion: str | None
    support: str
    zeros: int = zeros.NONE
    second: str | None = None

    @property
    def kind(self) -> int:
        """What the second parameter of each row is, for `exact.zeros`."""
        return self.zeros if self.second is None else zeros.OTHER

    @property
    def ordered(self) -> bool:
        """Whether responses are ordered categories."""
        return self.second == "thresholds"

    @property
    def plain(self) -> str:
        """Name of the family without zeros of its own, and with one dispersion."""
        return self.name.removeprefix("zero_inflated_").removeprefix("hurdle_").removeprefix("heteroscedastic_")

    @property
    def of_trials(self) -> bool:
        """Whether responses are successes out of a number of trials."""
        return self.plain in ("binomial", "betabinomial")

    @property
    def has_information(self) -> bool:
        """Whether the expected information has a closed form."""
        return self.name not in ("betabinomial", "negativebinomial1", "cumulative") and not self.zeros

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
                + ("; or transform y" if self.plain == "gaussian" else "")
            )
        return name

    def further(self, dispersion: str | None, zero: str | None) -> dict[str, str]:
        """The one-sided formulas of the family's other parameters.

        Parameters
        ----------
        dispersion, zero : str or None
            As given to `Model`.

        Returns
        -------
        dict

        Raises
        ------
        MethodError
            The family has no such parameter.
        """
        if dispersion is not None and self.dispersion is None:
            raise MethodError(
                f"dispersion={dispersion!r}: the {self.name} family has no dispersion that a formula can be for"
            )
        dispersion = dispersion or ("~ 1" if self.name == HETEROSCEDASTIC else None)
        if zero is not None and not self.zeros:
            raise MethodError(f'zero={zero!r} is for families with zeros of their own, such as "zero_inflated_poisson"')
        given = {"dispersion": dispersion, "zero": zero or ("~ 1" if self.zeros else None)}
        given["nu"] = "~ 1" if self.second == "nu" else None
        return {name: text for name, text in given.items() if text is not None}

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
                f'a binomial response is written p(successes, trials); for 0 and 1 in {response!r} use family="bernoulli". '
                "Shares with weights=trials, as R takes them, are p(successes, trials) with successes = share × trials; "
                "weights= multiplies the log density of a row"
            )
        if not self.of_trials and trials is not None:
            raise DataError(f'{response} is a binomial response; use family="binomial"')
        bad = ~SUPPORT[self.plain](y, np.ones_like(y) if trials is None else trials)
        if bad.any():
            row = int(bad.argmax())
            raise DataError(f"the {self.name} family needs {self.support}; {response} is {y[row]:g} in row {row}")

    def variance(self, mu: Array, phi: Array | float, trials: Array | float = 1.0) -> Array:
        """Variance of a response of mean `mu` (for the binomial: of the share of successes; of the t family σ²).

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
        if self.plain == "betabinomial":
            return np.asarray(mu * (1.0 - mu) * (trials + phi) / (1.0 + phi) / trials)
        return np.asarray(VARIANCE[self.plain](mu, phi) / trials)

    def moments(self, mu: Array, phi: Array | float, trials: Array | float, zero: Array) -> tuple[Array, Array]:
        """Mean and variance of a response (of a binomial one the share of successes), zeros of its own included.

        Parameters
        ----------
        mu : ndarray (n,)
            Means of the plain family.
        phi, trials : ndarray (n,) or float
        zero : ndarray (n,)
            Probabilities of a zero of its own; of the t family ν.

        Returns
        -------
        tuple of ndarray
            Of the t family NaN for the mean where ν ≤ 1 and infinity for the variance where ν ≤ 2.
        """
        variance = self.variance(mu, phi, trials)
        if self.second == "nu":
            more = np.divide(zero, zero - 2.0, out=np.full(len(zero), np.inf), where=zero > 2.0)
            return np.where(zero > 1.0, mu, np.nan), variance * more
        if not self.zeros:
            return mu, variance
        kept = 1.0 - zero
        if self.zeros == zeros.HURDLE:
            kept = kept / (1.0 - self._at_zero(mu, phi, trials))
        mean = kept * mu
        return mean, kept * (variance + mu**2) - mean**2

    def _at_zero(self, mu: Array, phi: Array | float, trials: Array | float) -> Array:
        """Probability of 0 in the plain family."""
        log_phi = np.log(phi) if self.dispersion else 0.0
        a, m = (np.ascontiguousarray(np.broadcast_to(np.asarray(v, float), len(mu))) for v in (log_phi, trials))
        return np.exp(zeros.log_at_zero(self.code, m, mu, a))

    def draws(
        self,
        rng: np.random.Generator,
        mu: Array,
        phi: Array | float,
        trials: Array | float = 1.0,
        zero: Array | float = 0.0,
    ) -> Array:
        """Random responses with means `mu`.

        Parameters
        ----------
        rng : Generator
        mu : ndarray
        phi : ndarray or float
            Dispersion.
        trials : ndarray or float
        zero : ndarray or float
            Probabilities of a zero of its own, in a family that has them; of the t family ν.

        Returns
        -------
        ndarray
        """
        if self.second == "nu":
            return np.asarray(mu + phi * rng.standard_t(zero, len(mu)))
        values = np.asarray(DRAWS[self.plain](rng, mu, phi, trials), float)
        if not self.zeros:
            return values
        own = rng.random(len(values)) < zero
        while self.zeros == zeros.HURDLE and (again := ~own & (values == 0)).any():
            values = np.where(again, DRAWS[self.plain](rng, mu, phi, trials), values)
        return np.where(own, 0.0, values)

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


FAMILIES = {
    family.name: family
    for family in (
        Family("gaussian", densities.GAUSSIAN, ("identity",), "sigma", "numbers"),
        Family("bernoulli", densities.BINOMIAL, _UNIT, None, "0 and 1, or a factor of two levels"),
        Family("binomial", densities.BINOMIAL, _UNIT, None, _SUCCESSES),
        Family("poisson", densities.POISSON, _COUNT, None, "whole numbers from 0"),
        Family("negativebinomial", densities.NEGATIVE_BINOMIAL, _COUNT, "alpha", "whole numbers from 0"),
        Family("gamma", densities.GAMMA, ("inverse", "log", "identity"), "alpha", "numbers above 0"),
        Family("wald", densities.WALD, ("inverse_squared", "log", "inverse", "identity"), "lam", "numbers above 0"),
        Family("betabinomial", densities.BETA_BINOMIAL, _UNIT, "kappa", _SUCCESSES),
        Family("negativebinomial1", densities.LINEAR_NEGATIVE_BINOMIAL, _COUNT, "phi", "whole numbers from 0"),
        *(
            Family(f"{kind}_{name}", code, _COUNT[:1], dispersion, "whole numbers from 0", own)
            for kind, own in (("zero_inflated", zeros.INFLATED), ("hurdle", zeros.HURDLE))
            for name, code, dispersion in (
                ("poisson", densities.POISSON, None),
                ("negativebinomial", densities.NEGATIVE_BINOMIAL, "alpha"),
                ("negativebinomial1", densities.LINEAR_NEGATIVE_BINOMIAL, "phi"),
            )
        ),
        Family("zero_inflated_binomial", densities.BINOMIAL, _UNIT, None, _SUCCESSES, zeros.INFLATED),
        Family("beta", densities.BETA, _UNIT, "kappa", "numbers between 0 and 1, neither of them included"),
        Family("t", densities.STUDENT_T, ("identity",), "sigma", "numbers", second="nu"),
        Family("cumulative", densities.CUMULATIVE, _UNIT[:3], None, "ordered categories", second="thresholds"),
        Family(HETEROSCEDASTIC, densities.GAUSSIAN, ("identity",), "sigma", "numbers"),
    )
}


# What lme4, glmmTMB and MASS call them.
_ELSEWHERE = {
    "nbinom2": "negativebinomial", "nbinom1": "negativebinomial1", "beta_family": "beta", "inverse.gaussian": "wald",
    "truncated_poisson": "hurdle_poisson", "truncated_nbinom2": "hurdle_negativebinomial",
}  # fmt: skip


def family_of(name: str) -> Family:
    """The family of a name.

    Parameters
    ----------
    name : str
        Bambi's name: "gaussian", "bernoulli", "binomial", "poisson", "negativebinomial", "gamma", "wald", "beta", "t",
        "cumulative", and ours where Bambi has none.

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
        here = _ELSEWHERE.get(name.lower(), name.lower())
        hint = f"; here it is called {here!r}" if here in FAMILIES else ""
        raise NotSupportedError(f"family={name!r} cannot be fitted{hint}; the families are {', '.join(FAMILIES)}")
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
