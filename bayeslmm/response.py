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


class Order(NamedTuple):
    """Ordered categories of a response that rows have, and those that none has."""

    levels: tuple[Any, ...]
    unused: tuple[str, ...]


def response(
    formula: Formula, frame: pd.DataFrame, *, binary: bool, ordered: bool = False, order: Order | None = None
) -> Response:
    """Encode the response; `binary` lets a factor of two levels stand for 0 and 1, `ordered` wants ordered categories."""
    if ordered:
        return whole_numbers(formula, frame) if order is None else categories(formula, frame, order)
    text = formula.response.strip("`")
    successes = _successes(text, formula)
    if successes is not None:
        y, trials = (numbers(part, frame, formula) for part in successes)
        return Response(y, trials, ())
    if binary and text in frame.columns and not pd.api.types.is_numeric_dtype(frame[text]):
        levels = _levels(text, frame[text])
        return Response((frame[text].astype(str) == levels[1]).to_numpy(float), None, levels)
    return Response(numbers(text, frame, formula), None, ())


def declared_order(formula: Formula, frame: pd.DataFrame) -> Order | None:
    """The order of a response that is a categorical column; None where its values are numbers.

    Raises
    ------
    DataError
        Text, or a categorical column without an order.
    """
    name = formula.response.strip("`")
    if name not in frame.columns or pd.api.types.is_numeric_dtype(frame[name]):
        return None
    column = frame[name]
    if not (isinstance(column.dtype, pd.CategoricalDtype) and column.cat.ordered):
        shown = ", ".join(repr(level) for level in list(pd.unique(column))[:4])
        raise DataError(
            f"the response {name!r} has categories without an order ({shown}); state it: "
            f"data[{name!r}] = pd.Categorical(data[{name!r}], categories=[lowest, …, highest], ordered=True)"
        )
    used = column.cat.remove_unused_categories().cat.categories
    return Order(tuple(used), tuple(str(level) for level in column.cat.categories if level not in set(used)))


def categories(formula: Formula, frame: pd.DataFrame, order: Order) -> Response:
    """Encode a response of ordered categories by their places from 0."""
    column = frame[formula.response.strip("`")]
    y = pd.Index(order.levels).get_indexer(pd.Index(column.astype(object))).astype(float)
    return _counted(formula.response, Response(y, None, tuple(str(level) for level in order.levels)))


def whole_numbers(formula: Formula, frame: pd.DataFrame) -> Response:
    """Encode a response of whole numbers by their places among those that occur."""
    values = numbers(formula.response.strip("`"), frame, formula)
    if (values != np.round(values)).any():
        row = int((values != np.round(values)).argmax())
        raise DataError(
            f"ordered categories are whole numbers or an ordered categorical; {formula.response} is {values[row]:g} in row {row}"
        )
    levels, y = np.unique(values, return_inverse=True)
    return _counted(formula.response, Response(y.astype(float), None, tuple(f"{level:.0f}" for level in levels)))


def _counted(name: str, found: Response) -> Response:
    if len(found.levels) < 2:
        raise DataError(f"the response {name!r} has one category, {found.levels[0]!r}; a threshold needs two")
    return found


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
