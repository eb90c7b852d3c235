"""Priors of the coefficients of the formulas for a distribution's dispersion and its probability of zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bayeslmm.distributions import Prior
from bayeslmm.errors import PriorError


@dataclass(frozen=True, slots=True)
class FurtherPriors:
    """The priors of one formula's coefficients γ; that of coefficient j applies to entry j of Tγ.

    Parameters
    ----------
    parameter : str
        What the formula is for: ``"dispersion"`` (its log) or ``"zero"`` (the logit of its probability).
    coefficients : tuple of str
        Their m names.
    priors : tuple of Prior
        One per coefficient.
    shifted : bool
        Whether the Intercept's prior is on the intercept at the predictor means, which T makes of it.
    column_means : tuple of float
        Means of the m columns.
    """

    parameter: str
    coefficients: tuple[str, ...]
    priors: tuple[Prior, ...]
    shifted: bool
    column_means: tuple[float, ...] = field(repr=False)

    @property
    def transform(self) -> NDArray[np.float64]:
        """(m, m) matrix T, of determinant 1."""
        transform = np.eye(len(self.priors))
        if self.shifted:
            j = self.coefficients.index("Intercept")
            transform[j] = self.column_means
            transform[j, j] = 1.0
        return transform

    def parameters(self) -> dict[str, Prior]:
        """Every coefficient's prior by its name, ``zero[x]``."""
        names = [f"{self.parameter}[{name}]" for name in self.coefficients]
        return dict(zip(names, self.priors, strict=True))


def further_priors(
    parameter: str,
    coefficients: Sequence[str],
    column_means: Sequence[float],
    centres: Sequence[float],
    chosen: Mapping[str, Prior],
) -> FurtherPriors:
    """The chosen priors, and Bambi's for the rest.

    Bambi's are Normal(0, 1) for every coefficient, whatever the unit of its column, the Intercept's at the predictor means;
    and Beta(2, 2) of the probability of a zero that is the same in all rows. Of log σ they are those of a response of
    standard deviation 1: `centres` takes them to its own unit.

    Parameters
    ----------
    parameter : str
        ``"dispersion"`` or ``"zero"``.
    coefficients : sequence of str
    column_means : sequence of float
    centres : sequence of float
        Means of the default normal priors.
    chosen : mapping of str to Prior
        The user's, by the names of `FurtherPriors.parameters`.

    Returns
    -------
    FurtherPriors

    Examples
    --------
    >>> further_priors("zero", ("Intercept",), (1.0,), (0.0,), {}).parameters()
    {'zero[Intercept]': LogitBeta(alpha=2, beta=2)}
    """
    alone = parameter == "zero" and tuple(coefficients) == ("Intercept",)
    defaults = [Prior("LogitBeta", alpha=2, beta=2) if alone else Prior("Normal", mu=mu, sigma=1) for mu in centres]
    priors = tuple(
        chosen.get(f"{parameter}[{name}]", prior) for name, prior in zip(coefficients, defaults, strict=True)
    )
    own = "Intercept" not in coefficients or f"{parameter}[Intercept]" in chosen
    return FurtherPriors(parameter, tuple(coefficients), priors, not (own or alone), tuple(column_means))


def on_the_line(parameter: str, prior: Prior) -> Prior:
    """A prior as it holds for a coefficient: a Beta of a probability becomes that of its logit.

    Parameters
    ----------
    parameter : str
        ``"zero[Intercept]"``.
    prior : Prior

    Returns
    -------
    Prior

    Raises
    ------
    PriorError
        A Beta on a coefficient of the log dispersion, or one not given by alpha and beta.
    """
    if prior.name != "Beta":
        return prior
    if parameter.startswith("zero[") and set(prior.args) == {"alpha", "beta"}:
        return Prior("LogitBeta", **prior.args)
    raise PriorError(
        f"{parameter}: {prior} has no meaning here. A Beta with alpha and beta is a prior of the probability of a zero, "
        "whose logit zero[Intercept] is; other coefficients take priors on the whole line, such as Normal."
    )
