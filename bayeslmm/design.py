"""Formula + table → Design: response, fixed columns, random terms. The same object encodes new rows."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import formulaic
import numpy as np
import pandas as pd
from formulaic.errors import DataMismatchWarning, FactorEvaluationError, FormulaicError
from numpy.typing import NDArray

from bayeslmm.columns import frame_of, names_of, nrows, words_in
from bayeslmm.covariance import STRUCTURES
from bayeslmm.errors import DataError, FormulaError, UnseenLevelError
from bayeslmm.formula import Formula, RandomPart
from bayeslmm.terms import FixedBlock, RandomTerm

Array = NDArray[np.float64]

CONTRASTS = {"treatment": "contr.treatment", "sum": "contr.sum", "helmert": "contr.helmert", "poly": "contr.poly"}
# A column whose part outside the earlier columns is smaller than this share of its length is dropped. Exact
# combinations leave 1e-15; a large-mean predictor such as a time stamp leaves 1e-9 and must stay.
RANK_TOLERANCE = 1e-10


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
        blank = [name for name in frame if frame[name].isna().any()]
        if blank:
            raise DataError(f"column {blank[0]!r} of the new data has missing values; drop or fill them first")
        matrix = _apply(self.specs["fixed"], frame, self.formula)[:, self.fixed.kept]
        offset = sum((_numbers(text, frame, self.formula) for text in self.formula.offsets), np.zeros(len(frame)))
        columns = tuple(_apply(self.specs[part.effects], frame, self.formula) for part in parts)
        labels = tuple(_labels(frame, part.group) for part in parts)
        codes = tuple(
            pd.Index(term.levels).get_indexer(pd.Index(names)) for term, names in zip(self.random, labels, strict=False)
        )
        return NewRows(matrix, offset, columns, codes, labels)


def build(
    formula: Formula,
    data: Any,
    *,
    weights: str | Sequence[float] | None = None,
    offset: str | Sequence[float] | None = None,
    contrasts: Mapping[str, str] | None = None,
    missing: str = "drop",
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
    frame = _needed(formula, data, weights, offset, contrasts or {})
    _check_infinite(frame)
    keep = ~frame.isna().any(axis=1).to_numpy()
    if missing == "error" and not keep.all():
        worst = frame.columns[frame.isna().any()][0]
        raise DataError(f'column {worst!r} has {int(frame[worst].isna().sum())} missing values; fill them or use missing="drop"')
    if not keep.any():
        raise DataError("no complete row is left: every row has a missing value in a column that the model uses")
    if not keep.all():
        frame = frame.loc[keep].reset_index(drop=True)
    frame = _drop_unused_levels(frame)
    recode = _recoder(contrasts or {}, frame)
    response, fixed, spec = _response(formula, frame), *_fixed(formula, frame, recode)
    random, specs = _random_terms(formula, frame, recode)
    return Design(
        formula,
        response,
        fixed,
        random,
        _weights(frame),
        _offset(formula, frame),
        np.flatnonzero(keep),
        int((~keep).sum()),
        {**specs, "fixed": spec, "columns": tuple(frame.columns)},
    )


WEIGHTS, OFFSET = "(weights)", "(offset)"


def _needed(
    formula: Formula, data: Any, weights: Any, offset: Any, contrasts: Mapping[str, str]
) -> pd.DataFrame:
    """The columns the model uses, weights and offset among them."""
    groups = [name for part in formula.random for name in part.group]
    texts = [formula.response, formula.fixed, *formula.offsets, *(part.effects for part in formula.random)]
    present = names_of(data)
    for name in groups:
        if name not in present:
            raise _unknown(name, present, formula)
    for name in contrasts:
        if name not in present:
            raise DataError(f"contrasts are given for {name!r}, which is no column of the data")
    frame = frame_of(data, [name for name in present if name in words_in(*texts) or name in groups])
    length = nrows(data)
    if len(frame) != length:
        frame = pd.DataFrame(index=range(length))
    if length == 0:
        raise DataError("the data have no rows")
    for key, value in ((WEIGHTS, weights), (OFFSET, offset)):
        if value is not None:
            frame[key] = _given(value, data, length, key)
    return frame


def _given(value: Any, data: Any, length: int, key: str) -> Array:
    name = key.strip("()")
    column = frame_of(data, [value])[value].to_numpy() if isinstance(value, str) else np.asarray(value)
    try:
        column = column.astype(float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers, got {column.dtype}") from error
    if column.shape != (length,):
        raise DataError(f"{name} has shape {column.shape}; the data have {length} rows")
    return column


def _check_infinite(frame: pd.DataFrame) -> None:
    for name in frame.select_dtypes("number"):
        infinite = np.isinf(frame[name].to_numpy(dtype=float, na_value=np.nan))
        if infinite.any():
            raise DataError(f"column {str(name)!r} is infinite in row {int(infinite.argmax())}; remove or recode it")


def _drop_unused_levels(frame: pd.DataFrame) -> pd.DataFrame:
    for name in frame.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            unused = frame[name].cat.remove_unused_categories()
            frame = frame.assign(**{name: unused.cat.as_unordered()})
    return frame


def _recoder(contrasts: Mapping[str, str], frame: pd.DataFrame) -> Callable[[str], str]:
    """A function that writes a factor's contrasts into formula text."""
    for name, coding in contrasts.items():
        if coding not in CONTRASTS:
            raise DataError(f"contrast {coding!r} for {name!r} is not known; use one of {', '.join(CONTRASTS)}")
        if pd.api.types.is_numeric_dtype(frame[name]):
            raise DataError(f"contrasts are given for {name!r}, which holds numbers; make it categorical first")

    def recode(text: str) -> str:
        for name, coding in contrasts.items():
            text = re.sub(rf"(?<![\w.(`]){re.escape(name)}(?![\w.(`])", f"C({name}, {CONTRASTS[coding]})", text)
        return text

    return recode


def _public(name: str) -> str:
    """formulaic's column name as Bambi writes it: `f[T.b]` → `f[b]`, `C(f, contr.sum)[S.b]` of a recoded f → `f[b]`."""
    name = re.sub(r"\[(?:[TSHPDR]\.)?\.?([^\[\]]+)\]", r"[\1]", name)
    return re.sub(r"C\((\w+), contr\.(?:sum|treatment|helmert|poly)\)", r"\1", name)


def _encode(text: str, frame: pd.DataFrame, formula: Formula) -> formulaic.ModelMatrix:
    """A one-sided formulaic formula on complete rows; errors point at the character."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=pd.errors.Pandas4Warning)
            return formulaic.model_matrix(text, frame, na_action="ignore", context={})
    except FactorEvaluationError as error:
        raise _evaluation_error(error, frame, formula) from error
    except FormulaicError as error:
        raise FormulaError(f"the formula cannot be read: {_plain(error)}", formula.text) from error
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise FormulaError(f"{text!r} cannot be evaluated: {error}", formula.text) from error


def _plain(error: Exception) -> str:
    return re.sub(r"\x1b\[[\d;]*m|[⧛⧚]", "", str(error)).strip().split("\n")[0]


def _evaluation_error(error: FactorEvaluationError, frame: pd.DataFrame, formula: Formula) -> FormulaError:
    message = _plain(error)
    absent = re.search(r"NameError: (?:name )?[`'](.+?)[`']", message)
    if absent:
        return _unknown(absent.group(1), list(frame.columns), formula)
    factor = re.search(r"factor `(.+?)`\.", message)
    reason = re.search(r"\[(.*)\]$", message)
    text = factor.group(1) if factor else ""
    hint = "; power is written ** inside a function" if "^" in text else ""
    position = formula.text.find(text) if text in formula.text else None
    return FormulaError(f"`{text}` cannot be evaluated: {reason.group(1) if reason else message}{hint}", formula.text, position)


def _unknown(name: str, columns: Sequence[str], formula: Formula) -> FormulaError:
    close = difflib.get_close_matches(name, [c for c in columns if not c.startswith("(")], 1)
    found = re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", formula.text)
    call = found and formula.text[found.end() :].lstrip().startswith("(")
    hint = f"; did you mean {close[0]!r}?" if close else f"; columns: {', '.join(columns[:12])}"
    kind = "no function" if call else "no column of the data"
    return FormulaError(f"{name!r} is {kind}{'' if call else hint}", formula.text, found.start() if found else None)


def _numbers(text: str, frame: pd.DataFrame, formula: Formula) -> Array:
    """One numeric column from an expression."""
    if text in frame.columns:
        column = frame[text]
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            if not pd.api.types.is_bool_dtype(column):
                raise DataError(f"column {text!r} is not numeric (its type is {column.dtype}); convert it first")
        return column.to_numpy(float)
    matrix = _encode(f"0 + {text}", frame, formula)
    if matrix.shape[1] != 1:
        raise FormulaError(f"`{text}` gives {matrix.shape[1]} columns; one number for each row is needed", formula.text)
    return _finite(np.asarray(matrix, float), [text])[:, 0]


def _finite(matrix: Array, names: Sequence[str]) -> Array:
    bad = ~np.isfinite(matrix)
    if bad.any():
        row, column = (int(i[0]) for i in np.nonzero(bad))
        raise DataError(f"`{names[column]}` is not finite in row {row} (of the complete rows); check the transformation")
    return matrix


def _response(formula: Formula, frame: pd.DataFrame) -> Array:
    return _numbers(formula.response.strip("`"), frame, formula)


def _offset(formula: Formula, frame: pd.DataFrame) -> Array | None:
    parts = [_numbers(text, frame, formula) for text in formula.offsets]
    if OFFSET in frame:
        parts.append(frame[OFFSET].to_numpy(float))
    return np.sum(parts, axis=0) if parts else None


def _weights(frame: pd.DataFrame) -> Array | None:
    if WEIGHTS not in frame:
        return None
    weights = frame[WEIGHTS].to_numpy(float)
    if (weights <= 0).any():
        row = int((weights <= 0).argmax())
        raise DataError(f"weights must be positive; row {row} has {weights[row]:g}. Drop rows of weight zero")
    return weights


def _fixed(formula: Formula, frame: pd.DataFrame, recode: Callable[[str], str]) -> tuple[FixedBlock, Any]:
    matrix = _encode(recode(formula.fixed), frame, formula)
    names = [_public(name) for name in matrix.columns]
    X = _finite(np.ascontiguousarray(matrix, float), names)
    kept = independent(X)
    dropped = tuple(name for j, name in enumerate(names) if j not in set(kept))
    block = FixedBlock(tuple(names[j] for j in kept), X[:, kept], dropped, np.array(kept, np.intp))
    if len(kept) >= len(frame):
        raise DataError(f"{len(kept)} fixed coefficients for {len(frame)} rows leave nothing to estimate a variance from")
    return block, matrix.model_spec


def independent(X: Array) -> list[int]:
    """Columns that are no linear combination of the columns before them (twice-repeated Gram–Schmidt)."""
    basis = np.empty((X.shape[0], 0))
    kept: list[int] = []
    for j in range(X.shape[1]):
        largest = np.abs(X[:, j]).max(initial=0.0)
        if largest == 0 or X.shape[0] == len(kept):
            continue
        column = X[:, j] / largest
        rest = column - basis @ (basis.T @ column)
        rest -= basis @ (basis.T @ rest)
        if np.linalg.norm(rest) > RANK_TOLERANCE * np.linalg.norm(column):
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
            kept.append(j)
    return kept


def _random_terms(
    formula: Formula, frame: pd.DataFrame, recode: Callable[[str], str]
) -> tuple[tuple[RandomTerm, ...], dict[str, Any]]:
    specs: dict[str, Any] = {}
    terms: list[RandomTerm] = []
    grouped: dict[tuple[str, ...], tuple[NDArray[np.intp], tuple[str, ...]]] = {}
    for part in formula.random:
        if part.group not in grouped:
            grouped[part.group] = factorize(frame, part.group)
        matrix = _encode(recode(part.effects), frame, formula)
        specs[part.effects] = matrix.model_spec
        terms.append(_random_term(part, matrix, *grouped[part.group]))
    _check_repeats(terms, formula)
    return tuple(terms), specs


def _random_term(
    part: RandomPart, matrix: formulaic.ModelMatrix, codes: NDArray[np.intp], levels: tuple[str, ...]
) -> RandomTerm:
    effects = tuple(_public(name) for name in matrix.columns)
    if not effects:
        raise FormulaError(f"the random term on {part.name!r} has no effect; write (1 | {part.name})")
    columns = _finite(np.ascontiguousarray(matrix, float), effects)
    empty = [name for name, column in zip(effects, columns.T, strict=True) if not column.any()]
    if empty:
        raise DataError(f"the random effect {empty[0]!r} on {part.name!r} is zero in every row; remove it")
    if len(levels) < 2:
        raise DataError(f"grouping factor {part.name!r} has one level; a variance between groups needs at least two")
    if len(levels) * len(effects) >= len(codes):
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
                    f"the effect {effect!r} appears twice on {term.group!r}; write 0 + in one of the terms", formula.text
                )
            seen.add((term.group, effect))


def factorize(frame: pd.DataFrame, group: tuple[str, ...]) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Level codes (n,) and labels of a grouping factor or of an interaction of factors; levels in use only."""
    codes, labels = _single(frame[group[0]])
    for name in group[1:]:
        more, names = _single(frame[name])
        key = codes.astype(np.int64) * len(names) + more
        used, codes = np.unique(key, return_inverse=True)
        labels = [f"{labels[a]}:{names[b]}" for a, b in zip(*np.divmod(used, len(names)), strict=True)]
    return np.ascontiguousarray(codes, np.intp), tuple(labels)


def _single(column: pd.Series) -> tuple[NDArray[np.intp], list[str]]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(np.intp), [_text(v) for v in column.cat.categories]
    codes, levels = pd.factorize(column, sort=True)
    return codes, [_text(v) for v in levels]


def _labels(frame: pd.DataFrame, group: tuple[str, ...]) -> NDArray[np.str_]:
    parts = [np.array([_text(v) for v in frame[name]], dtype=str) for name in group]
    joined = parts[0]
    for part in parts[1:]:
        joined = np.char.add(np.char.add(joined, ":"), part)
    return joined


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)


def _apply(spec: Any, frame: pd.DataFrame, formula: Formula) -> Array:
    """A fitted encoding on new rows; a level it has not seen is an error, never a silent reference level."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", category=DataMismatchWarning)
            warnings.simplefilter("ignore", category=pd.errors.Pandas4Warning)
            matrix = spec.get_model_matrix(frame, na_action="ignore", context={})
    except DataMismatchWarning as warning:
        levels = re.search(r"\{(.*?)\}", str(warning))
        raise UnseenLevelError(
            f"the new data have level {levels.group(1) if levels else ''} of a factor in `{formula.fixed}` that was not "
            "fitted; its coefficient is unknown. Remove these rows"
        ) from warning
    except FactorEvaluationError as error:
        raise _evaluation_error(error, frame, formula) from error
    return _finite(np.asarray(matrix, float), list(matrix.columns))
