"""The reference grid: every combination of the factors' levels, covariates at their means, as rows of the design."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from formulaic.parser.types import Factor
from numpy.typing import NDArray

from bayeslmm.backtransform import transformation_of
from bayeslmm.columns import words_in
from bayeslmm.combinations import Combinations, chosen_df, estimable, predictors
from bayeslmm.encoding import encode_again
from bayeslmm.errors import DataError, MethodError, UnseenLevelError
from bayeslmm.model import Model
from bayeslmm.result import Result

Array = NDArray[np.float64]
WEIGHTS = ("equal", "proportional", "cells")
SCALES = ("link", "response")
MOST_CELLS = 200_000
MOST_NAMED = 3
# Share of a covariate's range over which its slope is differenced, and the places of the differences.
STEP, STENCIL = 1e-3, np.arange(-2.0, 3.0)


@dataclass(frozen=True, eq=False)
class Predictor:
    """One column of the table as the grid sees it.

    Parameters
    ----------
    name : str
    values : sequence
        Levels of a factor; values of a covariate.
    factor : bool
        Whether it is averaged over by levels; a covariate of two values is.
    numeric : bool
        Whether a slope in it has a meaning.
    """

    name: str
    values: Sequence[Any]
    factor: bool
    numeric: bool


@dataclass(frozen=True, eq=False)
class Grid:
    """Cells of the reference grid, a row each, the predictors in the order given, the last varying fastest.

    Parameters
    ----------
    model : Model
    predictors : tuple of Predictor
    cells : DataFrame
        Values of the predictors.
    counts : ndarray (cells,)
        Rows of the data with the factor levels of the cell.
    data : DataFrame
        The predictors in the rows used.
    """

    model: Model
    predictors: tuple[Predictor, ...]
    cells: pd.DataFrame
    counts: Array
    data: pd.DataFrame

    @property
    def rows(self) -> Array:
        """All columns (cells, P) of the formula in each cell."""
        return self.encoded(self.cells)

    def encoded(self, frame: pd.DataFrame) -> Array:
        """All columns (m, P) of the formula in other rows."""
        return encode_again(self.model.design.specs["fixed"], frame, self.model.formula)

    def slopes(self, name: str) -> Array:
        """Derivatives (cells, P) of the columns in one covariate."""
        frames, shares = self.around(name)
        found: Any = 0.0
        for frame, share in zip(frames, shares, strict=True):
            found = found + share[:, None] * self.encoded(frame)
        return np.asarray(found)

    def around(self, name: str) -> tuple[list[pd.DataFrame], Array]:
        """The cells at five points around each value of a covariate, within the data's range, and shares (5, cells).

        The sum of share times value is the derivative, exact up to degree 4.
        """
        x, seen = self.cells[name].to_numpy(float), self.data[name].to_numpy(float)
        low, high = float(seen.min()), float(seen.max())
        step = STEP * (high - low)
        within = (x >= low) & (x <= high)
        room = (np.clip(x, low + 2 * step, high - 2 * step) - x) / step
        nodes = np.where(within, np.sign(room) * np.ceil(np.abs(room)), 0.0)[:, None] + STENCIL
        target = np.zeros((len(x), len(STENCIL), 1))
        target[:, 1] = 1.0
        share = np.linalg.solve(nodes[:, None, :] ** np.arange(len(STENCIL))[:, None], target)[..., 0] / step
        moved = x + nodes.T * step
        moved = np.where(within, np.clip(moved, low, high), moved)
        return [self.cells.assign(**{name: values}) for values in moved], share.T


def grid(model: Model, names: Sequence[str], at: Mapping[str, Any] | None = None) -> Grid:
    """Build the reference grid of a model.

    Parameters
    ----------
    model : Model
    names : sequence of str
        Predictors whose cells come first, in this order.
    at : mapping, optional
        Values of covariates, or a choice of levels.

    Returns
    -------
    Grid

    Raises
    ------
    MethodError
        A name that is no predictor, or more cells than can be meant.
    """
    formula = model.formula
    data = predictors(model)
    found = {name: _predictor(model, data[name]) for name in data}
    for name in (*names, *(at or {})):
        if name not in found:
            raise MethodError(
                f"{name!r} is no predictor of {formula.text!r}; its predictors: {', '.join(found) or 'none'}"
            )
    for name, values in (at or {}).items():
        found[name] = _at(found[name], values)
    ordered = tuple(found[name] for name in dict.fromkeys([*names, *found]))
    if np.prod([float(len(p.values)) for p in ordered]) > MOST_CELLS:
        raise MethodError(
            f"the grid of {' × '.join(f'{len(p.values)} {p.name}' for p in ordered)} has more than {MOST_CELLS:,} cells; "
            "choose levels with at="
        )
    cells = _cells(ordered, data)
    return Grid(model, ordered, cells, _counts(ordered, cells, data), data)


def _predictor(model: Model, column: pd.Series) -> Predictor:
    """Levels of a factor, both values of a two-valued covariate, the mean of any other."""
    name = str(column.name)
    numeric = pd.api.types.is_numeric_dtype(column)
    levels = _levels(model, name, column)
    if levels is not None:
        return Predictor(name, levels, True, False)
    different = np.unique(column.to_numpy(float)) if numeric else column.unique()
    if len(different) == 2 and numeric:
        both = [value.item() for value in np.unique(column.to_numpy())]
        return Predictor(name, both, True, not pd.api.types.is_bool_dtype(column))
    return Predictor(name, [float(column.mean())], False, True)


def _levels(model: Model, name: str, column: pd.Series) -> list[Any] | None:
    """Levels in the order of the coding, None for a covariate."""
    spec = model.design.specs["fixed"]
    for expression, (kind, state) in spec.encoder_state.items():
        used = {str(variable) for variable in words_in(str(expression))} | {str(expression)}
        if kind is Factor.Kind.CATEGORICAL and name in used and "categories" in state:
            return list(state["categories"])
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.remove_unused_categories().cat.categories)
    return None if pd.api.types.is_numeric_dtype(column) else sorted(column.unique())


def _at(predictor: Predictor, values: Any) -> Predictor:
    chosen = [values] if isinstance(values, str) or np.ndim(values) == 0 else list(values)
    if not chosen:
        raise MethodError(f"at={{{predictor.name!r}: []}} names no value")
    if predictor.numeric:
        try:
            return Predictor(predictor.name, [float(v) for v in chosen], predictor.factor, predictor.numeric)
        except (TypeError, ValueError) as error:
            raise DataError(f"at: {predictor.name!r} is numeric, {chosen!r} is not") from error
    for value in chosen:
        if value not in predictor.values:
            raise UnseenLevelError(
                f"at: {value!r} is no level of {predictor.name!r}; levels: {', '.join(map(str, predictor.values))}"
            )
    return Predictor(predictor.name, [predictor.values[list(predictor.values).index(v)] for v in chosen], True, False)


def _cells(ordered: Sequence[Predictor], data: pd.DataFrame) -> pd.DataFrame:
    lengths = [len(p.values) for p in ordered]
    codes = np.indices(lengths).reshape(len(lengths), -1) if lengths else np.empty((0, 1), int)
    columns = {p.name: _typed(p, data[p.name]).take(codes[i]) for i, p in enumerate(ordered)}
    frame = {name: column.reset_index(drop=True) for name, column in columns.items()}
    return pd.DataFrame(frame, index=range(codes.shape[1]))


def _typed(predictor: Predictor, column: pd.Series) -> pd.Series:
    """The values as a column like the table's."""
    if predictor.numeric:
        return pd.Series(np.asarray(predictor.values, float))
    if isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Series(pd.Categorical(predictor.values, categories=column.cat.categories))
    return pd.Series(predictor.values)


def _counts(ordered: Sequence[Predictor], cells: pd.DataFrame, data: pd.DataFrame) -> Array:
    factors = [p for p in ordered if p.factor]
    at_rows, at_cells, count = np.zeros(len(data), int), np.zeros(len(cells), int), 1
    for p in factors:
        levels = pd.Index(dict.fromkeys([*p.values, *data[p.name].unique()]))
        at_rows = at_rows * len(levels) + levels.get_indexer(data[p.name])
        at_cells = at_cells * len(levels) + levels.get_indexer(cells[p.name])
        used, codes = np.unique(np.concatenate([at_rows, at_cells]), return_inverse=True)
        at_rows, at_cells, count = codes[: len(data)], codes[len(data) :], len(used)
    return np.bincount(at_rows, minlength=count)[at_cells].astype(float)


def averaged(
    result: Result,
    names: Sequence[str],
    *,
    by: Sequence[str] = (),
    df: str | None = None,
    weights: str = "equal",
    at: Mapping[str, Any] | None = None,
    scale: str = "link",
    slope: str | None = None,
) -> Combinations:
    """Means over the grid, or averages of a covariate's slope, for each combination of some predictors.

    Parameters
    ----------
    result : PointFit or Posterior
    names, by : sequence of str
        Predictors whose combinations are the rows; `by` come first, and keep families of comparisons apart.
    df : str, optional
        Rule of the degrees of freedom.
    weights : {"equal", "proportional", "cells"}
        How the cells of the other predictors are averaged.
    at : mapping, optional
        Values of covariates, or a choice of levels.
    scale : {"link", "response"}
        Whether the numbers are shown on the scale of the model or of the response.
    slope : str, optional
        The covariate whose slope is averaged; without it the mean is.

    Returns
    -------
    Combinations
    """
    rule, sentence = chosen_df(result, df)
    _check(names, by, weights, scale)
    model = result.model
    if not model.design.fixed.names:
        raise MethodError(f"{model.formula.text!r} has no fixed effects, so every mean is 0")
    whole = grid(model, [*by, *names], at)
    if slope is not None:
        _check_slope(whole, slope)
    size = len([*by, *names])
    count = int(np.prod([len(p.values) for p in whole.predictors[:size]], initial=1))
    offset = 0.0 if model.design.offset is None or slope is not None else float(np.mean(model.design.offset))
    cells = whole.rows if slope is None else whole.slopes(slope)
    rest = rest_weights(whole, count, weights)
    rows = np.einsum("gr,grp->gp", rest, cells.reshape(count, -1, cells.shape[1]))
    labels = _labels(whole.predictors[:size])
    transformation = _transformation(model, scale) if slope is None else None
    notes = [
        *_averaging_notes(whole, size, weights, slope),
        f"Offset at its mean, {offset:.5g}." if offset else "",
        sentence,
    ]
    notes += _estimability_notes(whole, rows, cells, labels)
    shown = tuple(note for note in notes if note)
    return Combinations(result, rows, np.full(count, offset), labels, rule, tuple(by), shown, transformation)


def _check(names: Sequence[str], by: Sequence[str], weights: str, scale: str) -> None:
    for name, value, known in (("weights", weights, WEIGHTS), ("scale", scale, SCALES)):
        if value not in known:
            raise MethodError(f"{name}={value!r} is not known; use {', '.join(repr(k) for k in known)}")
    twice = [name for i, name in enumerate([*by, *names]) if name in [*by, *names][:i]]
    if twice:
        raise MethodError(f"{twice[0]!r} is named twice")


def _check_slope(whole: Grid, slope: str) -> None:
    found = {p.name: p for p in whole.predictors}.get(slope)
    if found is None:
        raise MethodError(f"{slope!r} is no predictor of {whole.model.formula.text!r}; it has no slope")
    if not found.numeric:
        raise MethodError(f"{slope!r} is a factor; it has means, bl.means, and no slope")


def rest_weights(whole: Grid, count: int, weights: str) -> Array:
    """Weights (rows, cells each), sums 1; NaN where the data have no row in any cell."""
    counts = whole.counts.reshape(count, -1)
    if weights == "equal":
        return np.full(counts.shape, 1.0 / counts.shape[1])
    if weights == "proportional":
        counts = np.broadcast_to(counts.sum(axis=0), counts.shape)
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def _labels(chosen: Sequence[Predictor]) -> pd.Index:
    if not chosen:
        return pd.Index(["overall"], name="average")
    if len(chosen) == 1:
        return pd.Index(chosen[0].values, name=chosen[0].name)
    return pd.MultiIndex.from_product([p.values for p in chosen], names=[p.name for p in chosen])


def _transformation(model: Model, scale: str) -> Any:
    if scale == "response" and model.design.ordered:
        raise MethodError(
            'a category has no mean; bl.predict(fit, data, kind="probabilities") has the probability of each'
        )
    found = transformation_of(model.formula.response, model.link)
    if scale == "response" and found is None:
        raise MethodError(
            f"the response {model.formula.response!r} is on its own scale or cannot be transformed back; leave scale out"
        )
    return found if scale == "response" else None


def _averaging_notes(whole: Grid, size: int, weights: str, slope: str | None) -> list[str]:
    """What was averaged over, and where the covariates are."""
    chosen, rest = whole.predictors[:size], whole.predictors[size:]
    over = [p.name for p in rest if len(p.values) > 1]
    held = [f"{p.name} = {p.values[0]:.5g}" for p in whole.predictors if p.numeric and len(p.values) == 1]
    notes = [f"Averaged over {', '.join(over)}, weights {weights}."] if over else []
    notes += [f"Covariates at {', '.join(held)}."] if held else []
    notes += ["Without thresholds: differences have a meaning, levels none."] if whole.model.design.ordered else []
    inside = {p.name for p in chosen} | ({slope} if slope else set())
    mixed = [name for name in over if name != slope and _interacts(whole.model, name, inside)]
    return notes + (
        [f"The formula has interactions with {', '.join(mixed)}, which these averages hide; by= shows them."]
        if mixed
        else []
    )


def _interacts(model: Model, name: str, shown: set[str]) -> bool:
    """Whether the formula has a product of the predictor with one that is shown."""
    for term in model.design.specs["fixed"].terms:
        words = words_in(*(str(factor) for factor in term.factors))
        if name in words and words & shown:
            return True
    return False


def _estimability_notes(whole: Grid, rows: Array, cells: Array, labels: pd.Index) -> list[str]:
    """The rows without a value, and the empty cells behind them."""
    missing = np.flatnonzero(~estimable(whole.model, rows))
    if not len(missing):
        return []
    each = len(cells) // len(rows)
    inside = np.concatenate([np.arange(i * each, (i + 1) * each) for i in missing])
    empty = inside[~estimable(whole.model, cells[inside])]
    factors = [p.name for p in whole.predictors if len(p.values) > 1]
    named = [", ".join(f"{f} = {whole.cells[f].iloc[i]}" for f in factors) for i in empty[:MOST_NAMED]]
    more = f" and {len(empty) - MOST_NAMED} more" if len(empty) > MOST_NAMED else ""
    which = "; ".join(_said(labels[i]) for i in missing[:MOST_NAMED]) + ("; …" if len(missing) > MOST_NAMED else "")
    why = f": the data say nothing about {'; '.join(named)}{more}" if named else ": the data have no such row"
    return [f"Not estimable, {which}{why}."]


def _said(label: Any) -> str:
    return ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)
