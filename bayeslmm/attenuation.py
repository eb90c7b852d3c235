"""From the coefficients of a generalized mixed model to those of the population: how much averaging attenuates them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.approximation import Point
from bayeslmm.averaging import averaged
from bayeslmm.errors import MethodError
from bayeslmm.exact.densities import mean_slopes, means
from bayeslmm.family import LINKS, family_of, linked
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.model import Model
from bayeslmm.population import differentiated, variance
from bayeslmm.table import Page, frame_table

Array = NDArray[np.float64]
# A logistic variable is nearly c times a normal one (Zeger, Liang & Albert 1988).
LOGIT = 16.0 * np.sqrt(3.0) / (15.0 * np.pi)
# Steps of the marginal fit, and the change of a coefficient, in standard deviations of η, that ends them.
MOST_STEPS, AT_REST = 100, 1e-12


@dataclass(frozen=True, eq=False)
class Attenuation:
    """Coefficients given the random effects, and of the population.

    Parameters
    ----------
    fit : GeneralizedFit
    table : DataFrame
        By coefficient: conditional, se, marginal, marginal_se, ratio.
    factors : DataFrame
        At the rows with the least and the largest variance z'Σz of the linear predictor, and at their mean: variance,
        exact (slope of g(E g⁻¹(η)) in xβ, averaged over the rows), formula.
    """

    fit: GeneralizedFit
    table: pd.DataFrame
    factors: pd.DataFrame

    @property
    def notes(self) -> tuple[str, ...]:
        """What the columns are."""
        said = _FORMULAS.get(self.fit.model.link, ("", "no formula for this link"))[1]
        return (
            "Marginal: coefficients of the marginal model that is nearest to the population averages of the rows, which "
            "GEE with independent working correlations estimates. Standard errors carry the uncertainty of θ and β.",
            f"Factor: slope of the link of the average in xβ, averaged over the rows; formula: {said}.",
        )

    def page(self) -> Page:
        """Both tables and their notes, to print or to show in a notebook."""
        tables = ((frame_table("Coefficients", self.table), ""), (frame_table("Attenuation factor", self.factors), ""))
        return Page("Conditional and marginal coefficients", (self.fit.model.formula.text,), tables, self.notes)

    def __str__(self) -> str:
        return self.page().text

    def _repr_html_(self) -> str:
        return self.page().html


def attenuation(fit: Any) -> Attenuation:
    """Compare the coefficients of a generalized mixed model with those of its population averages.

    With η = xβ + z'u and v = z'Σz, E g⁻¹(η) has the slope on the scale of the link

        1/√(1 + v)                                probit, exact
        1                                         log, exact: only the intercept moves, by v/2
        ≈ (1 + c²v)^(−1/2), c = 16√3/(15π)        logit (Zeger, Liang & Albert 1988, Biometrics 44)

    For the logit the exact slope depends on xβ and is taken by quadrature. The marginal coefficients β* solve the
    estimating equations of the marginal model with the averages μ* of the rows for responses,
    X'D V⁻¹(μ* − g⁻¹(Xβ*)) = 0: what a GLM, or GEE with independent working correlations, tends to if the mixed model is
    true. Their standard errors are by the delta method from the curvature in (θ, β).

    Parameters
    ----------
    fit : GeneralizedFit
        By Laplace's approximation or AGHQ, with random effects.

    Returns
    -------
    Attenuation
        ``.table``, ``.factors``; prints as a page.

    Raises
    ------
    MethodError
        Another kind of fit.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1], "g": list("aaaabbbbcccc")}
    >>> fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", data, family="bernoulli", link="probit"))
    >>> found = bl.attenuation(fit)
    >>> v = fit.sd["g"].iloc[0] ** 2
    >>> bool(abs(found.table.loc["Intercept", "ratio"] - (1 + v) ** -0.5) < 1e-9)
    True
    """
    if not isinstance(fit, GeneralizedFit):
        raise MethodError(f"attenuation is of generalized fits; got {type(fit).__name__}")
    if not fit.model.groups or not len(fit.beta):
        raise MethodError("attenuation is of coefficients beside random effects; the model lacks one of them")
    family = family_of(fit.model.family)
    if family.zeros or family.ordered:
        raise MethodError(
            f"the mean of the {fit.model.family} family is not g⁻¹(η), so that no marginal coefficients belong to it; "
            'bl.means(fit, ..., scale="response", groups="new") has its averages'
        )
    value = _Marginal(fit.model)
    marginal, root = differentiated(value, fit)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = marginal / fit.beta
    columns = {
        "conditional": fit.beta, "se": fit.beta_sd, "marginal": marginal,
        "marginal_se": np.sqrt(np.sum(root**2, axis=1)), "ratio": ratio,
    }  # fmt: skip
    return Attenuation(fit, pd.DataFrame(columns, index=fit.fixef.index), _factors(fit, value))


class _Marginal:
    """Parameters → the coefficients of the nearest marginal model."""

    def __init__(self, model: Model) -> None:
        design = model.design
        self.model, self.X = model, design.fixed.X
        self.offset = np.zeros(design.nobs) if design.offset is None else design.offset
        self.trials = np.ones(design.nobs) if design.trials is None else design.trials
        self.weights = np.ones(design.nobs) if design.weights is None else design.weights

    @cached_property
    def columns(self) -> dict[str, Array]:
        """Random-effect columns of the rows, by group."""
        random = self.model.design.random
        return {g: np.column_stack([t.columns for t in random if t.group == g]) for g in self.model.groups}

    def spread(self, theta: Array) -> Array:
        """z'Σz of the rows."""
        return variance(self.model, self.columns, theta)

    def __call__(self, point: Point) -> Array:
        link = self.model.link
        target = averaged(link, self.offset + self.X @ point.beta, self.spread(point.theta)).mean
        found, change, steps = _least_squares(self.X, linked(link, target) - self.offset, self.weights), np.inf, 0
        family = family_of(_VARIANCE_OF.get(self.model.family, self.model.family))
        while change > AT_REST and steps < MOST_STEPS:
            steps += 1
            eta = self.offset + self.X @ found
            mu, slope = means(LINKS[link], eta), mean_slopes(LINKS[link], eta)
            working = eta - self.offset + (target - mu) / slope
            weight = self.weights * slope**2 / family.variance(mu, 1.0, self.trials)
            new = _least_squares(self.X, working, weight)
            change = float(np.max(np.abs(self.X @ (new - found))))
            found = new
        return found


# Variance functions with a dispersion of their own: the marginal fit has the one without.
_VARIANCE_OF = {
    "negativebinomial": "poisson",
    "negativebinomial1": "poisson",
    "betabinomial": "binomial",
    "beta": "bernoulli",
}


def _least_squares(X: Array, y: Array, weight: Array) -> Array:
    root = np.sqrt(weight)
    return np.asarray(np.linalg.lstsq(X * root[:, None], y * root)[0])


_FORMULAS: dict[str, tuple[Any, str]] = {
    "probit": (lambda v: (1.0 + v) ** -0.5, "1/√(1 + v), exact"),
    "log": (np.ones_like, "1, exact"),
    "logit": (lambda v: (1.0 + LOGIT**2 * v) ** -0.5, "(1 + c²v)^(−1/2), c = 16√3/(15π), an approximation"),
}


def _factors(fit: GeneralizedFit, value: _Marginal) -> pd.DataFrame:
    spread, link = value.spread(fit.theta), fit.model.link
    eta = value.offset + value.X @ fit.beta
    at = {"smallest variance": spread.min(), "mean variance": spread.mean(), "largest variance": spread.max()}
    at = at if np.ptp(spread) > 1e-12 * spread.max() else {"variance": spread.mean()}
    rows = {}
    for name, v in at.items():
        found = averaged(link, eta, np.full(len(eta), v))
        exact = found.slope / mean_slopes(LINKS[link], linked(link, found.mean))
        formula = _FORMULAS[link][0](np.array([v]))[0] if link in _FORMULAS else np.nan
        rows[name] = {"variance": v, "exact": float(exact.mean()), "formula": float(formula)}
    return pd.DataFrame.from_dict(rows, orient="index")
