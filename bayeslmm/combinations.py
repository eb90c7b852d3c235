"""Labelled linear combinations of the fixed coefficients: what means, slopes and contrasts are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from bayeslmm.backtransform import Function, Transformation
from bayeslmm.columns import frame_of
from bayeslmm.degrees import Contrast, check, contrast_degrees, covariance_of, row_degrees
from bayeslmm.design import Design
from bayeslmm.encoding import encode_again
from bayeslmm.errors import MethodError
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.result import PointFit, Result
from bayeslmm.table import UNDEFINED, Table, frame_table

Array = NDArray[np.float64]
# A combination is estimable if what the dropped columns would add is smaller than this share of its weights.
ESTIMABLE = 1e-8
# Effects outside the largest grouping factor up to which Kenward and Roger's degrees of freedom are the default.
LARGE = 2000

_ALIASES: WeakKeyDictionary[Design, Array] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Combinations:
    """Linear combinations ``offset + rows @ β`` of the columns of a formula.

    Parameters
    ----------
    result : PointFit or Posterior
        Whose coefficients.
    rows : ndarray (m, P)
        Weights of all columns of the formula, those dropped as redundant included; NaN where nothing is defined.
    offset : ndarray (m,)
        Known addend.
    labels : Index (m,)
        What each row is of.
    df : str
        Rule of the degrees of freedom; "" for a posterior.
    by : tuple of str
        Levels of `labels` that keep families of comparisons apart.
    notes : tuple of str
        What a reader has to know.
    transformation : Transformation, optional
        How to get from the scale of the rows to that of the response, where the numbers are to be shown there.
    """

    result: Result
    rows: Array
    offset: Array
    labels: pd.Index
    df: str
    by: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    transformation: Transformation | None = None

    def times(self, C: Array, labels: pd.Index, by: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Combinations:
        """Combinations (q, m) of these combinations."""
        undefined = ((C != 0) & ~np.isfinite(self.rows).all(axis=1)).any(axis=1)
        rows = C @ np.nan_to_num(self.rows)
        rows[undefined] = np.nan
        return replace(self, rows=rows, offset=C @ self.offset, labels=labels, by=by, notes=notes)

    def families(self) -> list[NDArray[np.intp]]:
        """Positions of the rows that belong together, the same levels of `by`."""
        if not self.by:
            return [np.arange(len(self.labels))]
        keys = pd.MultiIndex.from_arrays([self.labels.get_level_values(name) for name in self.by])
        codes, _ = keys.factorize()
        return [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]

    @cached_property
    def estimable(self) -> NDArray[np.bool_]:
        """Whether each row (m,) has one value whatever the redundant columns' coefficients are."""
        return estimable(self.result.model, self.rows)

    @cached_property
    def weights(self) -> Array:
        """Weights (m, p) of the fitted coefficients."""
        return np.asarray(self.rows[:, self.result.model.design.fixed.kept])

    @cached_property
    def draws(self) -> Array:
        """Posterior draws (draws, m)."""
        return cast(Posterior, self.result).draws("fixef") @ self.weights.T + self.offset

    @cached_property
    def estimate(self) -> Array:
        """Estimates (m,); posterior means; NaN where not estimable."""
        values = self.weights @ self.result.beta + self.offset
        return np.where(self.estimable, values, np.nan)

    @cached_property
    def covariance(self) -> Array:
        """Covariance (m, m), adjusted where `df` is Kenward and Roger's."""
        own = self.result.beta_covariance if self.is_posterior else covariance_of(cast(PointFit, self.result), self.df)
        return np.asarray(self.weights @ own @ self.weights.T)

    @cached_property
    def se(self) -> Array:
        """Standard errors (m,); posterior standard deviations."""
        own = self.result.beta_covariance if self.is_posterior else covariance_of(cast(PointFit, self.result), self.df)
        variance = np.einsum("mi,ij,mj->m", self.weights, own, self.weights)
        return np.where(self.estimable, np.sqrt(np.maximum(variance, 0.0)), np.nan)

    @cached_property
    def degrees(self) -> Array:
        """Degrees of freedom (m,); infinite for a posterior, NaN where there is nothing to estimate."""
        if self.is_posterior:
            return np.where(self.estimable, np.inf, np.nan)
        found = np.full(len(self.rows), np.nan)
        asked = self.estimable & self.weights.any(axis=1)
        if asked.any():
            different, at = np.unique(self.weights[asked], axis=0, return_inverse=True)
            found[asked] = row_degrees(cast(PointFit, self.result), different, self.df)[at]
        return found

    @property
    def is_posterior(self) -> bool:
        """Whether the coefficients are draws."""
        return isinstance(self.result, Posterior)

    def intervals(self, level: float) -> tuple[Array, Array]:
        """Ends (m,) of t intervals, or of equal-tailed posterior intervals, one row at a time."""
        tail = 0.5 * (1.0 - level)
        if self.is_posterior:
            ends = np.quantile(self.draws, [tail, 1.0 - tail], axis=0)
            return np.where(self.estimable, ends[0], np.nan), np.where(self.estimable, ends[1], np.nan)
        with np.errstate(invalid="ignore"):
            width = -stdtrit(self.degrees, tail) * self.se
        return self.estimate - width, self.estimate + width

    def transformed(self, inverse: Function, derivative: Function) -> tuple[Array, Array]:
        """Estimates and standard errors after a transformation: by the delta method, or of the transformed draws."""
        if self.is_posterior:
            values = inverse(self.draws)
            return np.where(self.estimable, values.mean(axis=0), np.nan), values.std(axis=0, ddof=1)
        return inverse(self.estimate), self.se * derivative(self.estimate)

    def joint(self, which: NDArray[np.intp]) -> Contrast | None:
        """F test that the estimable ones of some rows are all 0; None where none is."""
        used = [i for i in which if self.estimable[i] and self.weights[i].any()]
        if not used:
            return None
        return contrast_degrees(cast(PointFit, self.result), self.weights[used], self.df)


def chosen_df(result: Result, df: str | None) -> tuple[str, str]:
    """The rule of the degrees of freedom, and a sentence that names it."""
    if isinstance(result, Posterior):
        if df is not None:
            raise MethodError(f"df={df!r} belongs to fits; a posterior has its own intervals. Leave df out")
        return "", "Posterior means, standard deviations and equal-tailed intervals."
    if not isinstance(result, Result):
        raise MethodError(
            f"means, slopes and contrasts are of a PointFit or a Posterior, not of {type(result).__name__}"
        )
    if df is not None:
        check(cast(PointFit, result), df)
        return df, f"Degrees of freedom: {df}."
    rule, why = _default_df(cast(PointFit, result))
    return rule, f"Degrees of freedom: {rule}{why}."


def _default_df(fit: PointFit) -> tuple[str, str]:
    if fit.method not in ("REML", "ML"):
        return "asymptotic", f", the normal distribution; {fit.method} has no other"
    if fit.model.family != "gaussian":
        return "asymptotic", ', the normal distribution; with a formula for sigma df="containment" has nlme\'s'
    if fit.fixed:
        return "asymptotic", f", the normal distribution, since {', '.join(fit.fixed)} is held and not estimated"
    if fit.method == "ML":
        return "satterthwaite", ""
    sizes: dict[str, int] = {}
    for term in fit.model.terms:
        sizes[term.group] = sizes.get(term.group, 0) + term.size
    rest = sum(sizes.values()) - max(sizes.values(), default=0)
    if rest <= LARGE:
        return "kenward-roger", ""
    return "satterthwaite", (
        f"; {rest} effects besides those of the largest group are more than the {LARGE} up to which kenward-roger is "
        'the default, df="kenward-roger" asks for it'
    )


def estimable(model: Model, rows: Array) -> NDArray[np.bool_]:
    """Whether rows (m, P) of weights of all columns of the formula are combinations of the rows of the data."""
    fixed = model.design.fixed
    finite = np.asarray(np.isfinite(rows).all(axis=1))
    dropped = np.setdiff1d(np.arange(rows.shape[1]), [*fixed.kept, *_intercept(model)])
    if not len(dropped):
        return finite
    known = [*fixed.kept, *_intercept(model)]
    implied = rows[:, known] @ _aliases(model, known, dropped)
    gap = np.abs(rows[:, dropped] - implied).max(axis=1)
    return np.asarray(finite & (gap <= ESTIMABLE * np.maximum(1.0, np.abs(rows).max(axis=1))))


def _intercept(model: Model) -> list[int]:
    """The column in whose place thresholds stand; none of another response."""
    names = list(model.design.specs["fixed"].column_names) if model.design.ordered else []
    return [names.index("Intercept")] if names else []


def _aliases(model: Model, known: list[int], dropped: NDArray[np.intp]) -> Array:
    """How the dropped columns are made of the known ones (p, dropped)."""
    design = model.design
    if design not in _ALIASES:
        frame = predictors(model)
        X = encode_again(design.specs["fixed"], frame, design.formula)
        _ALIASES[design] = np.linalg.lstsq(X[:, known], X[:, dropped], rcond=None)[0]
    return _ALIASES[design]


def predictors(model: Model) -> pd.DataFrame:
    """The columns of the table that the fixed part and the formulas for dispersion and zeros use, in the rows used."""
    parts = [model.design.specs[name] for name in ("fixed", *model.design.further)]
    names = sorted({str(name) for part in parts for name in part.required_variables})
    if not names:
        return pd.DataFrame(index=range(model.design.nobs))
    frame = frame_of(model.arguments["data"], names)
    return frame.iloc[model.design.rows].reset_index(drop=True).infer_objects()


def shown_table(frame: pd.DataFrame) -> Table:
    """A data frame as a table of text, each level of its index a column."""
    text = frame.assign(p=[_p_shown(value) for value in frame["p"]]) if "p" in frame else frame
    table = frame_table("", text)
    levels = [[str(value) for value in frame.index.get_level_values(i)] for i in range(frame.index.nlevels)]
    rows = tuple((*labels, *cells[1:]) for labels, cells in zip(zip(*levels, strict=True), table.rows, strict=True))
    return Table("", (*map(str, frame.index.names), *table.header[1:]), rows, labels=frame.index.nlevels)


def _p_shown(value: float) -> str:
    if np.isnan(value):
        return UNDEFINED
    return f"{value:.4f}" if value >= 1e-4 else f"{value:.2e}"
