"""The checks of a model's assumptions that simulation calibrates: one statistic each, where it stands, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bayeslmm.assumptions import (
    Standardised,
    autocorrelation,
    correlation,
    curvature,
    largest,
    level_codes,
    levene,
    quantile_correlation,
    spread_trend,
)
from bayeslmm.model import Model
from bayeslmm.verdict import Tail

Array = NDArray[np.float64]
Statistic = Callable[[Standardised], float]
# Levels from which the distribution of a group's effects is looked at, and rows a level from which its residuals are.
FEWEST_LEVELS, FEWEST_ROWS = 5, 3
# Variation of a predictor's level means, as a share of its own, from which effects are compared with them.
MEANS_VARY = 0.05


@dataclass(frozen=True)
class Check:
    """An assumption as one number.

    Parameters
    ----------
    name : str
    tail : {"upper", "lower", "two-sided"}
        Which values of the statistic speak against the assumption.
    statistic : callable
        Standardised → the number; NaN where it is not defined.
    measure : str
        What the number is, as a sentence begins with it.
    meaning : str
        What follows where the verdict is not "ok".
    advice : str
        What to do then.
    where : callable, optional
        Standardised → which row or level stands out.
    """

    name: str
    tail: Tail
    statistic: Statistic
    measure: str
    meaning: str
    advice: str
    where: Callable[[Standardised], str] | None = None


def checks_of(model: Model) -> list[Check]:
    """The checks that a model's design allows."""
    codes = level_codes(model)
    found = [*_rows(model), *_along_fitted()]
    for group in model.groups:
        found += [*levels(model, group), *within(group, codes[group]), *effects(model, group, codes[group])]
    found += [linear(name, x) for name, x in numeric_columns(model)]
    return found


def numeric_columns(model: Model) -> Iterator[tuple[str, Array]]:
    """Fixed columns that are numeric predictors: more than two values, no coding of a factor, no product."""
    for name, x in zip(model.design.fixed.names, model.X.T, strict=True):
        if "[" not in name and ":" not in name and len(np.unique(x)) > 2:
            yield name, x


def _rows(model: Model) -> Iterator[Check]:
    labels = [str(row) for row in model.design.rows]
    yield Check(
        "outlying rows", "upper", lambda s: largest(s.residual), "The largest |standardised residual|",
        "that row does not belong to the model that the others follow",
        "Look at the row first: an error of entry, a unit, an unusual case. Then fit without it and see what changes, or "
        "let the residuals have heavier tails.",
        lambda s: f"row {furthest(np.abs(s.residual), labels)}",
    )  # fmt: skip
    yield Check(
        "normal residuals", "lower", lambda s: quantile_correlation(s.residual),
        "The correlation of the standardised residuals with normal quantiles",
        "the residuals are not normal: long tails, skewness or outlying rows",
        "See the QQ plot. Skewed: transform the response, or choose another family. Long tails: intervals of β stand, "
        "those of variances and of single predictions do not.",
    )  # fmt: skip
    yield from influential_rows(model)


def influential_rows(model: Model) -> Iterator[Check]:
    """Rows that the coefficients depend on."""
    if not model.design.fixed.names:
        return
    labels = [str(row) for row in model.design.rows]
    yield Check(
        "influential rows", "upper", lambda s: largest(s.cooks_rows), "The largest Cook's distance of a row",
        "the coefficients depend on that row more than on any row of data simulated from the fit",
        "See bl.influence(fit): its dfbetas say which coefficient it moves. Report the estimates with and without it.",
        lambda s: f"row {furthest(s.cooks_rows, labels)}",
    )  # fmt: skip


def _along_fitted() -> Iterator[Check]:
    yield Check(
        "equal variance: fitted values", "two-sided", lambda s: spread_trend(s.residual, s.fitted),
        "The correlation of |residual| with the rank of the fitted value",
        "the residual variance changes with the level of the response",
        "Where it grows with the response, model its logarithm or square root; or give weights.",
    )  # fmt: skip
    yield Check(
        "linearity: fitted values", "upper", lambda s: curvature(s.residual, s.fitted),
        "The share of the residuals' variation that a curve in the fitted values explains",
        "the mean of the response bends where the model is straight",
        "Look for an interaction, a curved predictor, or a transformation of the response.",
    )  # fmt: skip


def levels(model: Model, group: str) -> Iterator[Check]:
    """Levels of a group that stand out, or that the coefficients depend on."""
    labels = model.levels(group)
    yield Check(
        f"outlying levels: {group}", "upper", lambda s: largest(np.sqrt(s.distance[group])),
        f"The largest distance of a level of {group} from the mean of all, in standard deviations",
        "that level does not come from the normal distribution of the others",
        f"Look at its rows. A known reason is a predictor of {group}; without one, fit without it and see what changes.",
        lambda s: f"{group} {furthest(s.distance[group], labels)}",
    )  # fmt: skip
    if model.design.fixed.names:
        yield Check(
            f"influential levels: {group}", "upper", lambda s: largest(s.cooks_levels[group]),
            f"The largest Cook's distance of a level of {group}",
            "the coefficients depend on that level more than on any level of data simulated from the fit",
            f"See bl.influence(fit, {group!r}): its dfbetas say which coefficient it moves. Report the estimates with and "
            "without it.",
            lambda s: f"{group} {furthest(s.cooks_levels[group], labels)}",
        )  # fmt: skip


def within(group: str, codes: NDArray[np.intp]) -> Iterator[Check]:
    """Residuals within the levels of a group: their spread, and their order."""
    if len(codes) < FEWEST_ROWS * len(np.unique(codes)):
        return
    yield Check(
        f"equal variance: {group}", "upper", lambda s: levene(s.residual, codes),
        f"Levene's F of the residual spread between the levels of {group}",
        f"the residual variance differs between the levels of {group}",
        "Standard errors then average over levels that are not alike: give weights, or model the residual variance.",
    )  # fmt: skip
    yield Check(
        f"autocorrelation: {group}", "two-sided", lambda s: autocorrelation(s.residual, codes),
        f"The correlation of residuals that follow each other within {group}, in the order of the rows,",
        "the residuals of neighbouring rows are not independent",
        "If the rows are in the order of time, something that changes with time is missing: a predictor, a random slope, "
        "or a residual correlation.",
    )  # fmt: skip


def effects(model: Model, group: str, codes: NDArray[np.intp]) -> Iterator[Check]:
    """Random effects of a group: normal, and independent of what they should be independent of."""
    if len(model.levels(group)) < FEWEST_LEVELS:
        return
    effects = model.effects(group)
    for k, effect in enumerate(effects):
        name = f"{group}[{effect}]"
        yield Check(
            f"normal effects: {name}", "lower", partial(_normal_effects, group, k),
            f"The correlation of the standardised effects {name} with normal quantiles",
            "the effects are not normal: an outlying level, two kinds of level, or skewness",
            f"See the QQ plot. Two clusters: a predictor of {group} is missing. β and its standard error mind little.",
        )  # fmt: skip
        yield Check(
            f"equal variance: effect {name}", "two-sided", partial(_spread_along_effect, group, k, codes),
            f"The correlation of |residual| with the rank of the level's effect {name}",
            "residuals and random effects are not independent: the spread within a level depends on its effect",
            "Where it grows with the effect, model the logarithm of the response; or give weights.",
        )  # fmt: skip
    linked = set(model.pairs(group))
    for i, j in (pair for pair in combinations(range(len(effects)), 2) if pair not in linked):
        yield Check(
            f"uncorrelated effects: {group}[{effects[i]}, {effects[j]}]", "two-sided",
            partial(_effects_correlation, group, i, j),
            f"The correlation of the predicted effects {effects[i]} and {effects[j]} of {group}",
            "effects that the model takes for independent are correlated",
            f"Write the effects in one term, ({effects[i]} + {effects[j]} | {group}), so that their correlation is estimated.",
        )  # fmt: skip
    yield from _level_means(model, group, codes)


def _level_means(model: Model, group: str, codes: NDArray[np.intp]) -> Iterator[Check]:
    """The effects against the level means of each predictor that varies within levels."""
    count = np.maximum(np.bincount(codes), 1)
    for name, x in zip(model.design.fixed.names, model.X.T, strict=True):
        mean, least = np.bincount(codes, x) / count, MEANS_VARY * float(np.std(x))
        within = float(np.std(x - mean[codes]))
        if float(np.std(mean)) > least and within > least > 0 and _new(model.X, mean[codes]) > least:
            yield Check(
                f"level means: {group}, {name}", "two-sided", partial(_mean_correlation, group, mean),
                f"The correlation of the first effect of {group} with the level's mean of {name}",
                f"the effects depend on {name}: its coefficient mixes the slope within levels with the slope between them",
                f"Add the mean of {name} by {group} as a predictor; the coefficient of {name} is then the slope within.",
            )  # fmt: skip


def _new(X: Array, column: Array) -> float:
    """How much of a column the fixed part has not; effects are orthogonal to what it has."""
    return float(np.std(column - X @ np.linalg.lstsq(X, column, rcond=None)[0]))


def linear(name: str, x: Array) -> Check:
    """A straight line in a numeric predictor."""
    return Check(
        f"linearity: {name}", "upper", lambda s: curvature(s.residual, x),
        f"The share of the residuals' variation that a curve in {name} explains",
        f"the mean of the response is no straight line in {name}",
        f"Add a square or a spline, bs({name}, df=4), in the fixed part, and in the random part where levels bend alike.",
    )  # fmt: skip


def furthest(values: Array, labels: tuple[str, ...] | list[str]) -> str:
    """The label of the largest value."""
    return labels[int(np.nanargmax(values))] if np.isfinite(values).any() else "none"


def _normal_effects(group: str, k: int, s: Standardised) -> float:
    return quantile_correlation(s.effects[group][:, k])


def _spread_along_effect(group: str, k: int, codes: NDArray[np.intp], s: Standardised) -> float:
    return spread_trend(s.residual, s.effects[group][codes, k])


def _effects_correlation(group: str, i: int, j: int, s: Standardised) -> float:
    return correlation(s.effects[group][:, i], s.effects[group][:, j])


def _mean_correlation(group: str, mean: Array, s: Standardised) -> float:
    return correlation(s.effects[group][:, 0], mean)
