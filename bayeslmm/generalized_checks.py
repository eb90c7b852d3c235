"""The checks of a generalized model's assumptions that simulation calibrates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from bayeslmm.assumptions import Standardised, curvature, largest, level_codes, quantile_correlation, spread_trend
from bayeslmm.checks import Check, effects, furthest, influential_rows, levels, linear, numeric_columns, within
from bayeslmm.cumulative import COUNTS
from bayeslmm.exact.zeros import HURDLE
from bayeslmm.family import family_of
from bayeslmm.generalized_assumptions import GeneralizedStandardised, OrderedResponses
from bayeslmm.model import Model

Array = NDArray[np.float64]
# Checks of linear models that hold here as they are.
SHARED = (
    "outlying levels: ",
    "influential levels: ",
    "normal effects: ",
    "uncorrelated effects: ",
    "level means: ",
    "autocorrelation: ",
    "linearity: ",
)


def generalized_checks(model: Model) -> list[Check]:
    """The checks that a generalized model's family and design allow."""
    codes = level_codes(model)
    responses = _categories if model.design.ordered else _responses
    found = [*responses(model), *_mean(model), *influential_rows(model)]
    shared: list[Check] = []
    for group in model.groups:
        shared += [*levels(model, group), *within(group, codes[group]), *effects(model, group, codes[group])]
    shared += [linear(name, x) for name, x in numeric_columns(model)]
    return found + [check for check in shared if check.name.startswith(SHARED)]


def left_out(model: Model) -> list[str]:
    """What is not checked of a family, and why."""
    if model.design.ordered:
        return [
            "Categories have no mean and no variance, so dispersion and variance function are not checked; thresholds give "
            "each category its share, so the distribution is not. Link and lines are checked by quantile residuals."
        ]
    if family_of(model.family).second == "nu":
        return [
            "σ and ν of a t response are estimated from its spread, and its variance may be infinite: dispersion is not "
            "checked, link and variance function are by quantile residuals."
        ]
    return []


def _of(statistic: Callable[[GeneralizedStandardised], float]) -> Callable[[Standardised], float]:
    return lambda own: statistic(cast(GeneralizedStandardised, own))


def _categories(model: Model) -> Iterator[Check]:
    """Rows in unlikely categories, and effects that differ from threshold to threshold."""
    labels = [str(row) for row in model.design.rows]
    yield Check(
        "outlying rows", "upper", _of(lambda s: largest(_of_categories(s).rarity)),
        "The largest −log probability of a row's category",
        "that row's category is one that the model all but rules out",
        "Look at the row first: an error of entry, or a scale that was read the wrong way round.",
        lambda s: f"row {furthest(_of_categories(cast(GeneralizedStandardised, s)).rarity, labels)}",
    )  # fmt: skip
    if len(model.design.thresholds) < 2:
        return
    for name, x in zip(model.design.fixed.names, model.X.T, strict=True):
        yield Check(
            f"parallel slopes: {name}", "upper", _of(partial(_between_thresholds, x - x.mean())),
            f"The largest difference between two thresholds of the standardised score of {name}",
            f"{name} does not move all thresholds alike (with a logit link: its odds are not proportional)",
            "Compare fits of the response split at each threshold (bernoulli). If only one stands out, join its categories; "
            "if they drift, one coefficient is a mean of several: report those too, or take another link.",
        )  # fmt: skip


def _of_categories(s: GeneralizedStandardised) -> OrderedResponses:
    return cast(OrderedResponses, s.ordered)


def _between_thresholds(x: Array, s: GeneralizedStandardised) -> float:
    """Range over the thresholds k of Σ x r_k / √(Σ x² γ_k(1 − γ_k)), r_k = 1[y ≤ k] − γ_k, γ_k(1 − γ_k) = |r_k|(1 − |r_k|)."""
    r = _of_categories(s).excess
    size = np.sqrt((x**2) @ (np.abs(r) * (1.0 - np.abs(r))))
    return float(np.ptp(x @ r / size)) if (size > 0).all() else float("nan")


def _responses(model: Model) -> Iterator[Check]:
    labels = [str(row) for row in model.design.rows]
    if model.family != "bernoulli":
        yield Check(
            "outlying rows", "upper", lambda s: largest(s.residual), "The largest |quantile residual|",
            "that row does not belong to the model that the others follow",
            "Look at the row first: an error of entry, a unit, an unusual case. Then fit without it and see what changes.",
            lambda s: f"row {furthest(np.abs(s.residual), labels)}",
        )  # fmt: skip
        yield Check(
            "distribution", "lower", lambda s: quantile_correlation(s.residual),
            "The correlation of the quantile residuals with normal quantiles",
            f"the responses given the effects are not {model.family}",
            "See the figure of quantiles. S-shaped: more variation than the family has (dispersion); bent: another family.",
        )  # fmt: skip
    if model.family != "bernoulli" and family_of(model.family).second is None:
        yield Check(
            "dispersion", "two-sided", _of(lambda s: float(np.mean(s.scaled**2))),
            "The mean squared Pearson residual",
            "the responses vary more, or less, than the family allows",
            _MORE.get(model.family, "Look for a missing predictor, or take another family."),
        )  # fmt: skip
    if model.family in COUNTS and family_of(model.family).zeros != HURDLE:  # which has as many as there are
        yield Check(
            "zeros", "two-sided", _of(lambda s: s.zeros), "The number of zeros over the number expected",
            "there are more, or fewer, zeros than the family has",
            'Look for a predictor that the formula for zeros lacks, zero="~ x".' if family_of(model.family).zeros else
            'More: overdispersion (family="negativebinomial"), a missing predictor, or rows that can only be 0 '
            '(family="zero_inflated_poisson"). Fewer: zeros may not have been recorded.',
        )  # fmt: skip


_MORE = {
    f"{kind}_poisson": f'Overdispersed: family="{kind}_negativebinomial". Standard errors are too small otherwise.'
    for kind in ("zero_inflated", "hurdle")
} | {
    "poisson": 'Overdispersed: family="negativebinomial", or an effect for every row, (1 | row). Standard errors are too '
    "small otherwise. Underdispersed: they are too large.",
    "binomial": 'Overdispersed: family="betabinomial", or an effect for every row, (1 | row). Standard errors are too '
    "small otherwise.",
}


def _mean(model: Model) -> Iterator[Check]:
    kind = "quantile" if family_of(model.family).second else "Pearson"
    yield Check(
        "link", "upper", _of(lambda s: curvature(s.scaled, s.linear)),
        f"The share of the {kind} residuals' variation that a curve in the linear predictor explains",
        f"the mean is not {model.link} linear",
        "Another link, or a curve in a predictor: bs(x, df=4), or an interaction.",
    )  # fmt: skip
    if model.family != "bernoulli" and not model.design.ordered:
        yield Check(
            "variance function", "two-sided", _of(lambda s: spread_trend(s.scaled, s.linear)),
            f"The correlation of |{kind} residual| with the rank of the linear predictor",
            f"the variance does not grow with the mean as that of the {model.family} family",
            _SPREAD.get(model.family, "Another family: for counts negativebinomial has μ + μ²/α, negativebinomial1 μ(1 + φ)."),
        )  # fmt: skip


_SPREAD = {"t": 'A formula for σ, dispersion="~ x", or another scale of the response.'}
