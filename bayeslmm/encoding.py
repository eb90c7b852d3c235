"""Formula text + complete rows → columns, by formulaic; its errors become ours and point at the character."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import formulaic
import numpy as np
import pandas as pd
from formulaic.errors import DataMismatchWarning, FactorEvaluationError, FormulaicError
from numpy.typing import NDArray

from bayeslmm.errors import DataError, FormulaError, UnseenLevelError
from bayeslmm.formula import Formula

Array = NDArray[np.float64]

CONTRASTS = {"treatment": "contr.treatment", "sum": "contr.sum", "helmert": "contr.helmert", "poly": "contr.poly"}
# A column whose part outside the earlier columns is smaller than this share of its length is dropped. Exact
# combinations leave 1e-15; a large-mean predictor such as a time stamp leaves 1e-9 and must stay.
RANK_TOLERANCE = 1e-10


def recoder(contrasts: Mapping[str, str], frame: pd.DataFrame) -> Callable[[str], str]:
    """A function that writes a factor's contrasts into formula text."""
    for name, coding in contrasts.items():
        if name not in frame:
            raise DataError(f"contrasts are given for {name!r}, which the formula does not use")
        if coding not in CONTRASTS:
            raise DataError(f"contrast {coding!r} for {name!r} is not known; use one of {', '.join(CONTRASTS)}")
        if pd.api.types.is_numeric_dtype(frame[name]):
            raise DataError(f"contrasts are given for {name!r}, which holds numbers; make it categorical first")

    def recode(text: str) -> str:
        for name, coding in contrasts.items():
            bare = rf"`{re.escape(name)}`|(?<![\w.`]){re.escape(name)}(?![\w.(`])"
            text = re.sub(rf"(?<!C\()(?P<factor>{bare})", rf"C(\g<factor>, {CONTRASTS[coding]})", text)
        return text

    return recode


def public_name(name: str) -> str:
    """formulaic's column name as Bambi writes it: `f[T.b]` → `f[b]`, `C(f, contr.sum)[S.b]` of a recoded f → `f[b]`."""
    name = re.sub(r"\[(?:[TSHPDR]\.)?\.?([^\[\]]+)\]", r"[\1]", name)
    return re.sub(r"C\(`?([^(),`]+)`?, contr\.(?:sum|treatment|helmert|poly)\)", r"\1", name)


def encode(text: str, frame: pd.DataFrame, formula: Formula) -> formulaic.ModelMatrix:
    """A one-sided formulaic formula on complete rows; errors point at the character."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):  # `finite` looks at the result
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
        return unknown_name(absent.group(1), frame.attrs.get("columns", list(frame.columns)), formula)
    factor = re.search(r"factor `(.+?)`\.", message)
    reason = re.search(r"\[(.*)\]$", message)
    text = factor.group(1) if factor else ""
    hint = "; power is written ** inside a function" if "^" in text else ""
    position = formula.text.find(text) if text in formula.text else None
    return FormulaError(
        f"`{text}` cannot be evaluated: {reason.group(1) if reason else message}{hint}", formula.text, position
    )


def unknown_name(name: str, columns: Sequence[str], formula: Formula) -> FormulaError:
    """An error for a word that is no column, with the nearest one that is."""
    close = difflib.get_close_matches(name, [c for c in columns if not c.startswith("(")], 1)
    found = re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", formula.text)
    call = found and formula.text[found.end() :].lstrip().startswith("(")
    hint = f"; did you mean {close[0]!r}?" if close else f"; columns: {', '.join(columns[:12])}"
    kind = "no function" if call else "no column of the data"
    kind += "; write C(...)" if call and name == "factor" else ""
    return FormulaError(f"{name!r} is {kind}{'' if call else hint}", formula.text, found.start() if found else None)


def numbers(text: str, frame: pd.DataFrame, formula: Formula) -> Array:
    """One numeric column from an expression."""
    if text in frame.columns:
        column = frame[text]
        if not pd.api.types.is_numeric_dtype(column):  # a column of truth values counts as numeric: 0 and 1
            raise DataError(f"column {text!r} is not numeric (its type is {column.dtype}); convert it first")
        return column.to_numpy(float)
    matrix = encode(f"0 + {text}", frame, formula)
    if matrix.shape[1] != 1:
        raise FormulaError(f"`{text}` gives {matrix.shape[1]} columns; one number for each row is needed", formula.text)
    return finite(np.asarray(matrix, float), [text])[:, 0]


def finite(matrix: Array, names: Sequence[str]) -> Array:
    """The matrix itself; raises where an entry is not finite."""
    bad = ~np.isfinite(matrix)
    if bad.any():
        row, column = (int(i[0]) for i in np.nonzero(bad))
        raise DataError(
            f"`{names[column]}` is not finite in row {row} (of the complete rows); check the transformation"
        )
    return matrix


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


def encode_again(spec: Any, frame: pd.DataFrame, formula: Formula) -> Array:
    """A fitted encoding on new rows; a level it has not seen is an error, never a silent reference level."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", category=DataMismatchWarning)
            warnings.simplefilter("ignore", category=pd.errors.Pandas4Warning)
            matrix = spec.get_model_matrix(frame, na_action="ignore", context={})
    except DataMismatchWarning as warning:
        levels = re.search(r"\{(.*?)\}", str(warning))
        raise UnseenLevelError(
            f"the new data have level {levels.group(1) if levels else ''} of a factor in `{formula.text}` that was not "
            "fitted; its coefficient is unknown. Remove these rows"
        ) from warning
    except FactorEvaluationError as error:
        raise _evaluation_error(error, frame, formula) from error
    return finite(np.asarray(matrix, float), list(matrix.columns))


def factors_of_columns(spec: formulaic.ModelSpec) -> list[tuple[tuple[bool, ...], list[int]]]:
    """For each column of a formula: whether each factor of its term is categorical, and the columns of that term."""
    found: dict[int, tuple[tuple[bool, ...], list[int]]] = {}
    for term, columns in spec.term_indices.items():
        names = [factor.expr for factor in term.factors]
        kinds = tuple(
            spec.encoder_state[name][0].value == "categorical" for name in names if name in spec.encoder_state
        )
        found |= {column: (kinds, list(columns)) for column in columns}
    return [found[column] for column in sorted(found)]
