"""The left side of a formula → responses, and for a binomial one its trials."""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.columns import frame_of, names_of, nrows, words_in
from bayeslmm.encoding import numbers
from bayeslmm.errors import DataError, FormulaError
from bayeslmm.formula import Formula

Array = NDArray[np.float64]


class Response(NamedTuple):
    """Responses (n,), trials (n,) of a binomial one, and the two levels of a factor, the second counted as 1."""

    y: Array
    trials: Array | None
    levels: tuple[str, ...]


def response(formula: Formula, frame: pd.DataFrame, *, binary: bool) -> Response:
    """Encode the response; `binary` lets a factor of two levels stand for 0 and 1."""
    text = formula.response.strip("`")
    successes = _successes(text, formula)
    if successes is not None:
        y, trials = (numbers(part, frame, formula) for part in successes)
        return Response(y, trials, ())
    if binary and text in frame.columns and not pd.api.types.is_numeric_dtype(frame[text]):
        levels = _levels(text, frame[text])
        return Response((frame[text].astype(str) == levels[1]).to_numpy(float), None, levels)
    return Response(numbers(text, frame, formula), None, ())


def trials_of(formula: Formula, data: Any) -> Array | None:
    """Trials of new rows of a binomial response, None where the response is no such one."""
    successes = _successes(formula.response.strip("`"), formula)
    if successes is None:
        return None
    frame = frame_of(data, sorted(words_in(successes[1]) & set(names_of(data))))
    return numbers(successes[1], frame if len(frame.columns) else pd.DataFrame(index=range(nrows(data))), formula)


def _levels(name: str, column: pd.Series) -> tuple[str, ...]:
    found = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else sorted(column.unique())
    levels = tuple(str(level) for level in found)
    if len(levels) != 2:
        raise DataError(
            f"the response {name!r} has {len(levels)} levels; a binary one has two, the second counted as 1"
        )
    return levels


def _successes(text: str, formula: Formula) -> tuple[str, str] | None:
    """The two arguments of p(successes, trials)."""
    if not text.replace(" ", "").startswith("p("):
        return None
    try:
        call = ast.parse(text, mode="eval").body
    except SyntaxError:
        call = None
    if not (isinstance(call, ast.Call) and len(call.args) == 2 and not call.keywords):
        raise FormulaError("a binomial response is p(successes, trials)", formula.text, 0)
    first, second = (ast.unparse(argument) for argument in call.args)
    return first, second
