"""A table of any kind (pandas, Polars, PyArrow, dict of arrays) → the columns a formula needs, as a pandas frame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import narwhals.stable.v2 as nw
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
    frame = pd.DataFrame({name: _plain(column) for name, column in chosen.items()})
    return frame.reset_index(drop=True).infer_objects()


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
    if not isinstance(values, list | tuple | np.ndarray):
        values = np.asarray(values)
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise DataError(f"column {name!r} has {values.ndim} dimensions; each column must be one-dimensional")
    return pd.Series(values if isinstance(values, np.ndarray) else list(values))


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


def _plain(column: pd.Series) -> pd.Series:
    """A column of pandas' nullable or Arrow types as NumPy's, missing values NaN or None."""
    dtype, types = column.dtype, pd.api.types
    if not types.is_extension_array_dtype(dtype) or isinstance(dtype, pd.CategoricalDtype):
        return column
    if types.is_numeric_dtype(dtype) and not types.is_bool_dtype(dtype):
        return pd.Series(column.to_numpy(float, na_value=np.nan) if column.isna().any() else column.to_numpy())
    if isinstance(dtype, pd.StringDtype) and dtype.na_value is not pd.NA:
        return column
    return column.astype(object) if types.is_bool_dtype(dtype) or types.is_string_dtype(dtype) else column


def check_kind(name: str, column: pd.Series) -> None:
    """Refuse what is neither numbers, truth values, text nor a factor: it would be read as something it is not."""
    types = pd.api.types
    if isinstance(column.dtype, pd.CategoricalDtype | pd.StringDtype) or types.is_bool_dtype(column):
        return
    if types.is_numeric_dtype(column) and not types.is_complex_dtype(column):
        return
    kind = types.infer_dtype(column, skipna=True)
    if kind not in ("string", "boolean", "empty"):
        raise DataError(f"column {name!r} holds values of type {kind}; turn them into numbers or text first")


def one_level(column: pd.Series) -> bool:
    """Whether the column is a factor with one level."""
    number = pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)
    return not number and column.nunique() == 1


def factorize(frame: pd.DataFrame, group: tuple[str, ...]) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Level codes (n,) and labels of a grouping factor or of an interaction of factors; levels in use only."""
    codes, labels = _single(frame[group[0]])
    for name in group[1:]:
        more, names = _single(frame[name])
        key = codes.astype(np.int64) * len(names) + more
        used, codes = np.unique(key, return_inverse=True)
        labels = [f"{labels[a]}:{names[b]}" for a, b in zip(*np.divmod(used, len(names)), strict=True)]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise DataError(f"two levels of {':'.join(group)!r} are both called {twice!r}; rename one of them")
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


def check_infinite(frame: pd.DataFrame) -> None:
    """Refuse a column that is infinite somewhere."""
    for name in frame.select_dtypes("number"):
        infinite = np.isinf(frame[name].to_numpy(dtype=float, na_value=np.nan))
        if infinite.any():
            raise DataError(f"column {str(name)!r} is infinite in row {int(infinite.argmax())}; remove or recode it")


def drop_unused_levels(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the levels in use only, without their order."""
    for name in frame.columns:
        if isinstance(frame[name].dtype, pd.CategoricalDtype):
            unused = frame[name].cat.remove_unused_categories()
            frame = frame.assign(**{name: unused.cat.as_unordered()})
    return frame


def check_levels(frame: pd.DataFrame, names: Iterable[str]) -> None:
    """Refuse a factor with one level."""
    for name in set(names) & set(frame.columns):
        if one_level(frame[name]):
            raise DataError(f"factor {name!r} has one level in the rows used; take it out of the formula")
