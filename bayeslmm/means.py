"""Estimated marginal means: what the model says of each level of a factor, all else at the same values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import pandas as pd

from bayeslmm.combinations import Combinations, shown_table
from bayeslmm.contrasts import Contrasts, contrasts
from bayeslmm.errors import MethodError
from bayeslmm.grid import averaged
from bayeslmm.population import Averages, averages
from bayeslmm.result import Result
from bayeslmm.table import Page


@dataclass(frozen=True, eq=False, repr=False)
class Means:
    """Estimated marginal means, a row for each level or combination of levels.

    Parameters
    ----------
    combinations : Combinations
        The means as linear combinations of the coefficients.
    level : float
        Of the intervals, each on its own.
    """

    combinations: Combinations
    level: float
    column: ClassVar[str] = "mean"
    heading: ClassVar[str] = "Estimated marginal means"

    @cached_property
    def table(self) -> pd.DataFrame:
        """Mean, se, df, lower, upper over the levels; NaN where the data do not determine a mean."""
        found, scale = self.combinations, self.combinations.transformation
        lower, upper = found.intervals(self.level)
        columns = {self.column: found.estimate, "se": found.se, "df": found.degrees, "lower": lower, "upper": upper}
        if scale is not None:
            columns[self.column], columns["se"] = found.transformed(scale.inverse, scale.derivative)
            columns |= {"lower": scale.inverse(lower), "upper": scale.inverse(upper)}
            if isinstance(found, Averages) and found.linear is not None:
                columns["median"] = scale.inverse(found.linear.estimate)
        return pd.DataFrame(columns, index=found.labels)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was averaged, where the covariates are, and what could not be estimated."""
        scale, model = self.combinations.transformation, self.combinations.result.model
        if isinstance(self.combinations, Averages):
            return self.combinations.notes
        if scale is None:
            others = 'Of responses without a zero of their own; scale="response" has the mean of all.'
            return (*self.combinations.notes, *([others] if "zero" in model.design.further else []))
        linked = model.link != "identity"
        meaning = "where the random effects are 0" if linked else f"medians of {scale.inside}, not means"
        return (*self.combinations.notes, f"Transformed back from {scale.name}({scale.inside}): {meaning}.")

    def contrasts(self, kind: str | Mapping[str, Any] | Any = "pairwise", **options: Any) -> Contrasts:
        """Contrasts of these; see `bayeslmm.contrasts`."""
        return contrasts(self, kind, **options)

    def letters(self, adjust: str | None = None, first: str = "largest", alpha: float = 0.05) -> pd.Series:
        """Compact letter display: levels that share a letter do not differ at `alpha`.

        Parameters
        ----------
        adjust : str, optional
            Adjustment of the pairwise differences, Tukey's by default.
        first : {"largest", "smallest"}
            Which mean gets the letter a.
        alpha : float

        Returns
        -------
        Series
        """
        return contrasts(self, "pairwise", adjust=adjust).letters(first, alpha)

    def plot(self, **options: Any) -> Any:
        """Means and intervals, a line for each level of `by`; see `bayeslmm.plot.profiles`."""
        from bayeslmm.plot.means import profiles

        return profiles(self, **options)

    def page(self) -> Page:
        """The table and its notes, to print or to show in a notebook."""
        return Page(
            self.heading, (), ((shown_table(self.table), ""),), (*self.notes, f"Intervals: {100 * self.level:g} %.")
        )

    def __getitem__(self, column: str) -> pd.Series:
        return self.table[column]

    def __len__(self) -> int:
        return len(self.combinations.labels)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(str, self.combinations.labels.names))}, {len(self)} rows)"

    def _repr_html_(self) -> str:
        return self.page().html


def means(
    result: Result,
    of: str | Sequence[str] = (),
    *,
    by: str | Sequence[str] | None = None,
    df: str | None = None,
    level: float = 0.95,
    weights: Literal["equal", "proportional", "cells"] = "equal",
    at: Mapping[str, Any] | None = None,
    scale: Literal["link", "response"] = "link",
    groups: Literal["population", "new"] = "population",
) -> Means:
    """Estimate marginal (least-squares) means of factors.

    On the reference grid, every combination of the factors' levels with covariates at their means, the model predicts
    ``x'β``, random effects 0. A mean averages these over the factors not named: ``l'β`` with ``Var = l'VL``, and t
    intervals with the degrees of freedom of ``l`` (Searle, Speed and Milliken 1980).

    Parameters
    ----------
    result : PointFit or Posterior
        What was fitted. A posterior gives means, standard deviations and equal-tailed intervals of the draws of l'β.
    of : str or sequence of str
        Factors whose levels, or combinations of levels, the rows are; none gives one overall mean.
    by : str or sequence of str, optional
        Further factors: rows too, but comparisons stay within their levels.
    df : {"kenward-roger", "satterthwaite", "containment", "asymptotic"}, optional
        By default Kenward–Roger for REML (Satterthwaite if more than 2000 effects lie outside the largest group),
        Satterthwaite for ML, asymptotic for MAP; the notes say which.
    level : float
        Of the intervals, each on its own.
    weights : {"equal", "proportional", "cells"}
        How the cells of the other factors are averaged: equally; as frequent as in all data; or, for each row, as
        frequent as in its own data. Prior weights do not count.
    at : mapping, optional
        ``{"Days": [0, 5]}``: values of covariates, or a choice of levels. A covariate with two values in the data
        is taken as a factor, any other is held at its mean *before* the formula transforms it.
    scale : {"link", "response"}
        "response" undoes the link, or the transformation of a response that is written ``log(y)``, ``np.sqrt(y)``, …;
        averages and intervals are taken before that. Differences of logarithms then are ratios.
    groups : {"population", "new"}
        Of a generalized fit: random effects 0, which is the median of the groups; or the average over them,
        ``E g⁻¹(x'β + z'u)``, taken of the response in each cell and then over the cells. Its standard error carries the
        uncertainty of θ and β; ``scale="link"`` is g of it, whose differences are marginal log odds ratios (logit) or log
        ratios (log), and ``scale="response"`` shows the median beside it. Of counts with zeros of their own the response is
        all of them, zeros included, and the scale of the link that of the others.

    Returns
    -------
    Means
        ``.table`` with mean, se, df, lower, upper; ``.notes``; ``.contrasts()``, ``.letters()``, ``.plot()``.

    Raises
    ------
    MethodError, UnseenLevelError
        A name that is no predictor; a level that was not fitted; an option that has no meaning here.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> fit = bl.fit(bl.load("models/penicillin_blocks"))
    >>> bl.means(fit, "treat").table.round(3).reset_index()
      treat  mean     se      df   lower   upper
    0     A  84.0  2.475  11.075  78.557  89.443
    1     B  85.0  2.475  11.075  79.557  90.443
    2     C  89.0  2.475  11.075  83.557  94.443
    3     D  86.0  2.475  11.075  80.557  91.443
    """
    over = integrated(groups)
    options: dict[str, Any] = {"by": named(by or ()), "df": df, "weights": weights, "at": at, "scale": scale}
    if over or (scale == "response" and isinstance(result, Result) and "zero" in result.model.design.further):
        return Means(averages(result, named(of), **options, integrate=over), checked(level))
    return Means(averaged(result, named(of), **options), checked(level))


def integrated(groups: Any) -> bool:
    """Whether the groups are averaged over."""
    if groups not in ("population", "new"):
        raise MethodError(f'groups={groups!r} is not known; use "population" or "new"')
    return bool(groups == "new")


def named(names: str | Sequence[str]) -> tuple[str, ...]:
    """One name or several, as a tuple."""
    return (names,) if isinstance(names, str) else tuple(names)


def checked(level: Any) -> float:
    """The level, if it is a probability."""
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise MethodError(f"level={level!r} must be a probability between 0 and 1, such as 0.95")
    return float(level)
