"""Formula + table → Design: response, fixed columns, random terms. The same object encodes new rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import formulaic
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.columns import (
    check_infinite,
    check_kind,
    check_levels,
    drop_unused_levels,
    factorize,
    frame_of,
    labels_of,
    names_of,
    nrows,
    words_in,
)
from bayeslmm.covariance import STRUCTURES
from bayeslmm.encoding import encode, encode_again, finite, independent, numbers, public_name, recoder, unknown_name
from bayeslmm.errors import DataError, FormulaError
from bayeslmm.formula import Formula, RandomPart, right_side
from bayeslmm.response import declared_order, response
from bayeslmm.supplied import OFFSET, WEIGHTS, given, offset_of, weights_of
from bayeslmm.terms import FixedBlock, RandomTerm

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NewRows:
    """New rows in the columns of a fitted design.

    Parameters
    ----------
    X : ndarray (m, p)
        Fixed-effects columns.
    offset : ndarray (m,)
        Offset, 0 where the formula has none.
    columns, codes : tuple of ndarray
        For each random term its (m, k) columns and its level codes, -1 for a level that was not fitted.
    labels : tuple of ndarray of str
        For each random term the level of each row, fitted or not.
    """

    X: Array
    offset: Array
    columns: tuple[Array, ...]
    codes: tuple[NDArray[np.intp], ...]
    labels: tuple[NDArray[np.str_], ...]


@dataclass(frozen=True, eq=False)
class Design:
    """What the data contribute to a model: ``y = offset + X beta + sum of random terms + error``.

    Parameters
    ----------
    formula : Formula
        The formula that was encoded.
    y : ndarray (n,)
        Response.
    fixed : FixedBlock
        Fixed-effects columns.
    random : tuple of RandomTerm
        Random terms in the formula's order.
    weights, offset : ndarray (n,) or None
        Prior weights (variance ``sigma**2 / w``) and known addend of the linear predictor.
    rows : ndarray of int (n,)
        Positions in the table of the rows used.
    n_dropped : int
        Rows left out because a needed value is missing.
    trials : ndarray (n,) or None
        Trials of a binomial response.
    response_levels : tuple of str
        The levels of a response that is a factor: what counts as 0 and what as 1.
    further : mapping
        Columns of the formulas for "dispersion", "zero" and "nu", where they have one.
    ordered : bool
        Whether `y` numbers the ordered categories `response_levels` from 0; no row has those in `unused`.
    """

    formula: Formula
    y: Array
    fixed: FixedBlock
    random: tuple[RandomTerm, ...]
    weights: Array | None
    offset: Array | None
    rows: NDArray[np.intp]
    n_dropped: int
    specs: Mapping[str, Any] = field(repr=False)
    trials: Array | None = None
    response_levels: tuple[str, ...] = ()
    further: Mapping[str, FixedBlock] = field(default_factory=dict)
    ordered: bool = False
    unused: tuple[str, ...] = ()

    @property
    def thresholds(self) -> tuple[str, ...]:
        """Names of the thresholds between ordered categories, "low|high"; none of another response."""
        levels = self.response_levels if self.ordered else ()
        return tuple(f"{below}|{above}" for below, above in pairwise(levels))

    @property
    def second_names(self) -> tuple[str, ...]:
        """Public names of the family's second parameter: ``nu``, or ``thresholds[low|high]`` and so on; none of others."""
        return ("nu",) if "nu" in self.further else tuple(f"thresholds[{name}]" for name in self.thresholds)

    def further_columns(self, name: str, data: Any = None) -> Array:
        """Columns (n, k) of the formula for "dispersion" or "zero", of the rows of the fit or of new ones; none without."""
        if data is not None:
            return self.encode_further(name, data)
        return self.further[name].X if name in self.further else np.empty((self.nobs, 0))

    @property
    def response(self) -> str:
        """The response as written in the formula."""
        return self.formula.response

    @property
    def nobs(self) -> int:
        """Number of rows used."""
        return len(self.y)

    def encode(self, data: Any, *, random: bool = True) -> NewRows:
        """Encode new rows with the coding, spline knots and levels of this design.

        Parameters
        ----------
        data : table
            Rows with the predictors (the response is not needed).
        random : bool
            Whether the grouping factors and random-effect columns are needed too.

        Returns
        -------
        NewRows

        Raises
        ------
        UnseenLevelError
            A factor in the fixed part, or in the columns of a random term, has a level that was not fitted.
        DataError
            A column is absent or holds missing values.
        """
        parts = self.formula.random if random else ()
        texts = [self.formula.fixed, *self.formula.offsets, *(part.effects for part in parts)]
        present = set(names_of(data))
        words = words_in(*texts) & (present | set(self.specs["columns"]))
        frame = frame_of(data, sorted(words | {name for part in parts for name in part.group}))
        if frame.columns.empty:
            frame = pd.DataFrame(index=range(nrows(data)))
        blank = [name for name in frame if frame[name].isna().any()]
        if blank:
            raise DataError(f"column {blank[0]!r} of the new data has missing values; drop or fill them first")
        matrix = encode_again(self.specs["fixed"], frame, self.formula)[:, self.fixed.kept]
        offset = sum((numbers(text, frame, self.formula) for text in self.formula.offsets), np.zeros(len(frame)))
        columns = tuple(encode_again(self.specs[part.effects], frame, self.formula) for part in parts)
        labels = tuple(labels_of(frame, part.group) for part in parts)
        codes = tuple(
            pd.Index(term.levels).get_indexer(pd.Index(names)) for term, names in zip(self.random, labels, strict=False)
        )
        return NewRows(matrix, offset, columns, codes, labels)

    def encode_further(self, name: str, data: Any) -> Array:
        """Columns of new rows (m, k) of the formula for "dispersion" or "zero"."""
        if name not in self.further:
            return np.empty((nrows(data), 0))
        spec = self.specs[name]
        frame = frame_of(data, sorted(set(names_of(data)) & set(self.specs["columns"])))
        frame = frame if len(frame.columns) else pd.DataFrame(index=range(nrows(data)))
        used = {str(variable) for variable in spec.required_variables} & set(frame)
        blank = [column for column in sorted(used) if frame[column].isna().any()]
        if blank:
            raise DataError(f"column {blank[0]!r} of the new data has missing values; drop or fill them first")
        return encode_again(spec, frame, self.formula)[:, self.further[name].kept]


def build(
    formula: Formula,
    data: Any,
    *,
    weights: str | Sequence[float] | None = None,
    offset: str | Sequence[float] | None = None,
    contrasts: Mapping[str, str] | None = None,
    missing: str = "drop",
    binary: bool = False,
    ordered: bool = False,
    residual: bool = True,
    further: Mapping[str, str] | None = None,
) -> Design:
    """Encode a table for a formula.

    Parameters
    ----------
    formula : Formula
        Parsed formula.
    data : table
        pandas, Polars or PyArrow table, or a dict of arrays.
    weights, offset : str or array, optional
        Column name, or one number for each row of `data`.
    contrasts : mapping, optional
        Coding of a factor: "treatment", "sum", "helmert" or "poly".
    missing : {"drop", "error"}
        What to do with rows where a needed value is missing.
    binary : bool
        Whether a factor of two levels is a response.
    ordered : bool
        Whether the response is an ordered category; columns are those beside an Intercept, which is left out.
    residual : bool
        Whether rows have a residual variance of their own, from which that of a term with as many levels as rows could
        not be told apart.
    further : mapping, optional
        One-sided formulas for "dispersion" and "zero".

    Returns
    -------
    Design

    Raises
    ------
    FormulaError
        A name in the formula is no column.
    DataError
        The table cannot be encoded; names the column.
    """
    if missing not in ("drop", "error"):
        raise DataError(f'missing={missing!r} is not known; use "drop" or "error"')
    one_sided = {name: right_side(name, text, formula) for name, text in (further or {}).items()}
    frame = _needed(formula, data, weights, offset, contrasts or {}, tuple(one_sided.values()))
    check_infinite(frame)
    keep = ~frame.isna().any(axis=1).to_numpy()
    if missing == "error" and not keep.all():
        worst = frame.columns[frame.isna().any()][0]
        raise DataError(
            f'column {worst!r} has {int(frame[worst].isna().sum())} missing values; fill them or use missing="drop"'
        )
    if not keep.any():
        raise DataError("no complete row is left: every row has a missing value in a column that the model uses")
    if not keep.all():
        frame = frame.loc[keep].reset_index(drop=True).infer_objects()
    order = declared_order(formula, frame) if ordered else None
    frame = drop_unused_levels(frame)
    check_levels(frame, words_in(formula.fixed, *(part.effects for part in formula.random)))
    recode = recoder(contrasts or {}, frame)
    found = response(formula, frame, binary=binary, ordered=ordered, order=order)
    fixed, spec = _beside_thresholds(formula, frame, recode) if ordered else _fixed(formula, frame, recode)
    random, specs = _random_terms(formula, frame, recode, residual)
    others = {name: _fixed(replace(formula, fixed=text), frame, recode) for name, text in one_sided.items()}
    specs |= {name: spec for name, (_, spec) in others.items()}
    return Design(
        formula,
        found.y,
        fixed,
        random,
        weights_of(frame),
        offset_of(formula, frame),
        np.flatnonzero(keep),
        int((~keep).sum()),
        {**specs, "fixed": spec, "columns": tuple(frame.columns)},
        found.trials,
        found.levels,
        {name: block for name, (block, _) in others.items()},
        ordered,
        () if order is None else order.unused,
    )


def _needed(
    formula: Formula, data: Any, weights: Any, offset: Any, contrasts: Mapping[str, str], further: Sequence[str]
) -> pd.DataFrame:
    """The columns the model uses, weights and offset among them."""
    groups = [name for part in formula.random for name in part.group]
    texts = [formula.response, formula.fixed, *formula.offsets, *(part.effects for part in formula.random), *further]
    present = names_of(data)
    _check_names(groups, contrasts, present, formula)
    words = words_in(*texts)
    frame = frame_of(data, [name for name in present if name in words or name in groups])
    for name in words & set(frame.columns):
        check_kind(name, frame[name])
    length = nrows(data)
    if len(frame) != length:
        frame = pd.DataFrame(index=range(length))
    if length == 0:
        raise DataError("the data have no rows")
    for key, value in ((WEIGHTS, weights), (OFFSET, offset)):
        if value is not None:
            frame[key] = given(value, data, length, key)
    frame.attrs["columns"] = present
    return frame


def _check_names(groups: Iterable[str], contrasts: Any, present: list[str], formula: Formula) -> None:
    for name in groups:
        if name not in present:
            raise unknown_name(name, present, formula)
    if not isinstance(contrasts, Mapping):
        raise DataError(f'contrasts are given by factor, {{"treat": "sum"}}; got {contrasts!r}')
    for name in contrasts:
        if name not in present:
            raise DataError(f"contrasts are given for {name!r}, which is no column of the data")


def _fixed(formula: Formula, frame: pd.DataFrame, recode: Callable[[str], str]) -> tuple[FixedBlock, Any]:
    matrix = encode(recode(formula.fixed), frame, formula)
    names = [public_name(name) for name in matrix.columns]
    X = finite(np.ascontiguousarray(matrix, float), names)
    kept = independent(X)
    dropped = tuple(name for j, name in enumerate(names) if j not in set(kept))
    block = FixedBlock(tuple(names[j] for j in kept), X[:, kept], dropped, np.array(kept, np.intp))
    if len(kept) >= len(frame):
        raise DataError(
            f"{len(kept)} fixed coefficients for {len(frame)} rows leave nothing to estimate a variance from"
        )
    return block, matrix.model_spec


def _beside_thresholds(formula: Formula, frame: pd.DataFrame, recode: Callable[[str], str]) -> tuple[FixedBlock, Any]:
    """The fixed columns beside an Intercept, without it."""
    block, spec = _fixed(replace(formula, fixed=f"{formula.fixed} + 1"), frame, recode)
    kept = [j for j, name in enumerate(block.names) if name != "Intercept"]
    names = tuple(block.names[j] for j in kept)
    return FixedBlock(names, np.ascontiguousarray(block.X[:, kept]), block.dropped, block.kept[kept]), spec


def _random_terms(
    formula: Formula, frame: pd.DataFrame, recode: Callable[[str], str], residual: bool
) -> tuple[tuple[RandomTerm, ...], dict[str, Any]]:
    specs: dict[str, Any] = {}
    terms: list[RandomTerm] = []
    grouped: dict[tuple[str, ...], tuple[NDArray[np.intp], tuple[str, ...]]] = {}
    for part in formula.random:
        if part.group not in grouped:
            grouped[part.group] = factorize(frame, part.group)
        matrix = encode(recode(part.effects), frame, formula)
        specs[part.effects] = matrix.model_spec
        terms.append(_random_term(part, matrix, *grouped[part.group], residual))
    _check_repeats(terms, formula)
    return tuple(terms), specs


def _random_term(
    part: RandomPart, matrix: formulaic.ModelMatrix, codes: NDArray[np.intp], levels: tuple[str, ...], residual: bool
) -> RandomTerm:
    effects = tuple(public_name(name) for name in matrix.columns)
    if not effects:
        raise FormulaError(f"the random term on {part.name!r} has no effect; write (1 | {part.name})")
    columns = finite(np.ascontiguousarray(matrix, float), effects)
    empty = [name for name, column in zip(effects, columns.T, strict=True) if not column.any()]
    if empty:
        raise DataError(f"the random effect {empty[0]!r} on {part.name!r} is zero in every row; remove it")
    if len(levels) < 2:
        raise DataError(f"grouping factor {part.name!r} has one level; a variance between groups needs at least two")
    if residual and len(levels) * len(effects) >= len(codes):
        raise DataError(
            f"{len(levels)} levels x {len(effects)} effects of {part.name!r} are as many as the {len(codes)} rows: its "
            "variance and the residual's cannot be told apart. Remove the term, or an effect of it"
        )
    return RandomTerm(part.name, effects, columns, codes, levels, STRUCTURES[part.structure](len(effects)))


def _check_repeats(terms: Sequence[RandomTerm], formula: Formula) -> None:
    seen: set[tuple[str, str]] = set()
    for term in terms:
        for effect in term.effects:
            if (term.group, effect) in seen:
                raise FormulaError(
                    f"the effect {effect!r} appears twice on {term.group!r}; write 0 + in one of the terms",
                    formula.text,
                )
            seen.add((term.group, effect))
