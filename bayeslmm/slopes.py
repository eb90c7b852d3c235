"""Estimated marginal slopes: how fast the mean changes with a covariate, at the reference grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from bayeslmm.errors import MethodError
from bayeslmm.grid import averaged
from bayeslmm.means import Means, checked, integrated, named
from bayeslmm.population import averages
from bayeslmm.result import Result


@dataclass(frozen=True, eq=False, repr=False)
class Slopes(Means):
    """Estimated marginal slopes of a covariate, a row for each level or combination of levels."""

    column: ClassVar[str] = "slope"
    heading: ClassVar[str] = "Estimated marginal slopes"


def slopes(
    result: Result,
    of: str,
    *,
    by: str | Sequence[str] | None = None,
    df: str | None = None,
    level: float = 0.95,
    weights: Literal["equal", "proportional", "cells"] = "equal",
    at: Mapping[str, Any] | None = None,
    scale: Literal["link", "response"] = "link",
    groups: Literal["population", "new"] = "population",
) -> Slopes:
    """Estimate the slope of a covariate, for each level of other predictors.

    The derivative of ``x'β`` in the covariate at the reference grid, averaged over the factors not named. It is linear in
    β: the columns of the formula (products, powers, logarithms, splines) are encoded at five points around each value of
    the covariate, a thousandth of its range apart, and differenced to fourth order, which is exact up to degree 4.

    Parameters
    ----------
    result : PointFit or Posterior
    of : str
        A numeric predictor.
    by : str or sequence of str, optional
        Predictors whose levels, or combinations of levels, the rows are; ``by="Days"`` with `at` gives the slope in Days
        at several values of Days.
    df, level, weights, at
        As for `means`. Where `at` gives several values of the covariate and `by` does not name it, the row is the average.
    scale, groups
        Of a generalized fit: the slope of the response itself, differenced in the same way cell by cell, with random
        effects 0 or averaged over (the average marginal effect at the grid).

    Returns
    -------
    Slopes
        ``.table`` with slope, se, df, lower, upper; ``.contrasts()`` compares all rows.

    Raises
    ------
    MethodError
        A predictor that is no number, or none at all.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> fit = bl.fit(bl.load("models/sleepstudy"))
    >>> bl.slopes(fit, "Days").table.loc["overall"].round(3).to_dict()
    {'slope': 10.467, 'se': 1.546, 'df': 17.0, 'lower': 7.206, 'upper': 13.729}
    """
    over = integrated(groups)
    if scale not in ("link", "response"):
        raise MethodError(f"scale={scale!r} is not known; use 'link', 'response'")
    chosen: dict[str, Any] = {"df": df, "weights": weights, "at": at, "slope": of}
    if over or scale == "response":
        return Slopes(averages(result, named(by or ()), scale=scale, integrate=over, **chosen), checked(level))
    return Slopes(averaged(result, named(by or ()), **chosen), checked(level))
