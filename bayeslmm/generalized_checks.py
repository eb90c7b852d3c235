"""The checks of a generalized model's assumptions that simulation calibrates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np

from bayeslmm.assumptions import Standardised, curvature, largest, level_codes, quantile_correlation, spread_trend
from bayeslmm.checks import Check, effects, furthest, influential_rows, levels, linear, numeric_columns, within
from bayeslmm.cumulative import COUNTS
from bayeslmm.exact.zeros import HURDLE
from bayeslmm.family import family_of
from bayeslmm.generalized_assumptions import GeneralizedStandardised
from bayeslmm.model import Model

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
    found = [*_responses(model), *_mean(model), *influential_rows(model)]
    shared: list[Check] = []
    for group in model.groups:
        shared += [*levels(model, group), *within(group, codes[group]), *effects(model, group, codes[group])]
    shared += [linear(name, x) for name, x in numeric_columns(model)]
    return found + [check for check in shared if check.name.startswith(SHARED)]


def _of(statistic: Callable[[GeneralizedStandardised], float]) -> Callable[[Standardised], float]:
    return lambda own: statistic(cast(GeneralizedStandardised, own))


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
        yield Check(
            "dispersion", "two-sided", _of(lambda s: float(np.mean(s.pearson**2))),
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
    yield Check(
        "link", "upper", _of(lambda s: curvature(s.pearson, s.linear)),
        "The share of the Pearson residuals' variation that a curve in the linear predictor explains",
        f"the mean is not {model.link} linear",
        "Another link, or a curve in a predictor: bs(x, df=4), or an interaction.",
    )  # fmt: skip
    if model.family != "bernoulli":
        yield Check(
            "variance function", "two-sided", _of(lambda s: spread_trend(s.pearson, s.linear)),
            "The correlation of |Pearson residual| with the rank of the linear predictor",
            f"the variance does not grow with the mean as that of the {model.family} family",
            "Another family: for counts negativebinomial has μ + μ²/α, negativebinomial1 μ(1 + φ).",
        )  # fmt: skip
