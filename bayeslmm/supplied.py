"""Prior weights and offsets that are given beside the formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.columns import frame_of
from bayeslmm.encoding import numbers
from bayeslmm.errors import DataError
from bayeslmm.formula import Formula

Array = NDArray[np.float64]
WEIGHTS, OFFSET = "(weights)", "(offset)"


def given(value: Any, data: Any, length: int, key: str) -> Array:
    """Weights or offset as given to the model, a column or an array, as numbers (length,)."""
    name = key.strip("()")
    column = frame_of(data, [value])[value].to_numpy() if isinstance(value, str) else np.asarray(value)
    try:
        column = column.astype(float, casting="same_kind" if column.dtype.kind == "c" else "unsafe")
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers, got {column.dtype}") from error
    if column.shape != (length,):
        raise DataError(f"{name} has shape {column.shape}; the data have {length} rows")
    return column


def offset_of(formula: Formula, frame: pd.DataFrame) -> Array | None:
    """The sum of all offsets, of the formula and given; None without any."""
    parts = [numbers(text, frame, formula) for text in formula.offsets]
    if OFFSET in frame:
        parts.append(frame[OFFSET].to_numpy(float))
    return np.sum(parts, axis=0) if parts else None


def weights_of(frame: pd.DataFrame) -> Array | None:
    """Prior weights, all of them positive; None without any."""
    if WEIGHTS not in frame:
        return None
    weights = frame[WEIGHTS].to_numpy(float)
    if (weights <= 0).any():
        row = int((weights <= 0).argmax())
        raise DataError(f"weights must be positive; row {row} has {weights[row]:g}. Drop rows of weight zero")
    return weights
