"""A table of any kind (pandas, Polars, PyArrow, dict of arrays) → the columns a formula needs, as a pandas frame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.errors import DataError


def frame_of(data: Any, words: Iterable[str], *, optional: bool = False) -> pd.DataFrame:
    """The columns of `data` named by `words`, as pandas; raises for a word that is asked for and absent."""
    words = list(dict.fromkeys(words))
    table = _open(data)
    missing = [word for word in words if word not in table]
    if missing and not optional:
        raise DataError(f"no column {missing[0]!r} in the data; columns: {_listing(table)}")
    chosen = {word: table[word] for word in words if word in table}
    lengths = {name: len(column) for name, column in chosen.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns of different lengths: {lengths}")
    return pd.DataFrame(chosen).reset_index(drop=True)


def names_of(data: Any) -> list[str]:
    """Column names of a table of any kind."""
    return [str(name) for name in _open(data)]


def words_in(*texts: str) -> set[str]:
    """Every identifier, backquoted or not, that could be a column's name."""
    quoted = {name for text in texts for name in re.findall(r"`([^`]+)`", text)}
    plain = {name for text in texts for name in re.findall(r"[^\W\d][\w.]*", re.sub(r"`[^`]*`", " ", text))}
    return quoted | plain | {part for name in plain for part in name.split(".")}


def nrows(data: Any) -> int:
    """Number of rows of a table of any kind."""
    table = _open(data)
    return len(next(iter(table.values()))) if table else 0


class _Lazy(dict[str, Any]):
    """Columns of a narwhals frame, converted when read."""

    def __init__(self, frame: Any) -> None:
        super().__init__({name: frame[name] for name in frame.columns})

    def __getitem__(self, name: str) -> Any:
        return _column(super().__getitem__(name))


def _open(data: Any) -> Mapping[str, Any]:
    if isinstance(data, pd.DataFrame):
        if not data.columns.is_unique:
            raise DataError(f"column {data.columns[data.columns.duplicated()][0]!r} appears twice in the data")
        return {str(name): data[name].reset_index(drop=True) for name in data.columns}
    if isinstance(data, Mapping):
        return {str(name): _array(name, values) for name, values in data.items()}
    try:
        return _Lazy(nw.from_native(data, eager_only=True))
    except TypeError as error:
        raise DataError(
            f"data of type {type(data).__name__} is not a table; give a pandas, Polars or PyArrow table or a dict of arrays"
        ) from error


def _array(name: Any, values: Any) -> Any:
    if isinstance(values, pd.Series | pd.Categorical):
        return pd.Series(values).reset_index(drop=True)
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"column {name!r} has {array.ndim} dimensions; each column must be one-dimensional")
    return pd.Series(array)


def _column(series: Any) -> pd.Series:
    if series.dtype in (nw.Categorical, nw.Enum):
        return pd.Series(pd.Categorical(series.to_list(), categories=series.cat.get_categories().to_list()))
    if series.dtype.is_numeric() and not series.is_null().any():
        return pd.Series(series.to_numpy())
    values = series.to_list()
    return pd.Series(
        np.array([np.nan if v is None else v for v in values], float) if series.dtype.is_numeric() else values
    )


def _listing(table: Mapping[str, Any], most: int = 12) -> str:
    names = list(table)
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


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


def labels_of(frame: pd.DataFrame, group: tuple[str, ...]) -> NDArray[np.str_]:
    """Label of each row's level."""
    parts = [np.array([_text(v) for v in frame[name]], dtype=str) for name in group]
    joined = parts[0]
    for part in parts[1:]:
        joined = np.char.add(np.char.add(joined, ":"), part)
    return joined


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)
