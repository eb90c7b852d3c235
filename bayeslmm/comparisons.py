"""Weights of the usual contrasts of k means: differences of pairs, from the one before, from a reference, polynomials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import gcd, lcm
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.errors import MethodError

Array = NDArray[np.float64]
KINDS = ("pairwise", "sequential", "control", "polynomial")
_DEGREES = ("linear", "quadratic", "cubic", "quartic", "quintic", "sextic")


class Coding(NamedTuple):
    """Contrasts of k means: weights (q, k), and a name each."""

    weights: Array
    names: list[str]


def coding(kind: Any, levels: list[Any], reference: Any = None) -> Coding:
    """Weights of contrasts between levels.

    Parameters
    ----------
    kind : str, mapping or array_like
        One of `KINDS`; or a mapping of names to weights; or weights (q, k).
    levels : list
        What tells the k means apart, in their order.
    reference : level, optional
        For ``"control"``, the first level by default.

    Returns
    -------
    Coding

    Raises
    ------
    MethodError
        Unknown contrasts, or weights that do not fit the levels.

    Examples
    --------
    >>> from bayeslmm.comparisons import coding
    >>> coding("polynomial", [0, 1, 2, 3]).weights
    array([[-3., -1.,  1.,  3.],
           [ 1., -1., -1.,  1.],
           [-1.,  3., -3.,  1.]])
    """
    if reference is not None and kind != "control":
        raise MethodError('reference belongs to the contrasts "control"')
    if not isinstance(kind, str):
        return _custom(kind, levels)
    if kind not in KINDS:
        raise MethodError(f"contrasts {kind!r} are not known; use {', '.join(repr(k) for k in KINDS)}, or give weights")
    if len(levels) < 2:
        raise MethodError(f"there is one mean only, {_named(levels[0])}, and nothing to compare it with")
    if kind == "control":
        return _control(levels, reference)
    return _CODINGS[kind](levels)


def _named(level: Any) -> str:
    return " ".join(map(str, level)) if isinstance(level, tuple) else str(level)


def _differences(pairs: list[tuple[int, int]], levels: list[Any]) -> Coding:
    weights = np.zeros((len(pairs), len(levels)))
    for row, (plus, minus) in zip(weights, pairs, strict=True):
        row[plus], row[minus] = 1.0, -1.0
    return Coding(weights, [f"{_named(levels[a])} - {_named(levels[b])}" for a, b in pairs])


def _pairwise(levels: list[Any]) -> Coding:
    return _differences(list(zip(*map(list, np.triu_indices(len(levels), 1)), strict=True)), levels)


def _sequential(levels: list[Any]) -> Coding:
    return _differences([(i + 1, i) for i in range(len(levels) - 1)], levels)


def _control(levels: list[Any], reference: Any) -> Coding:
    base = levels[0] if reference is None else reference
    if base not in levels:
        raise MethodError(f"reference={base!r} is none of the levels compared: {', '.join(map(_named, levels))}")
    at = levels.index(base)
    return _differences([(i, at) for i in range(len(levels)) if i != at], levels)


def _polynomial(levels: list[Any]) -> Coding:
    """Orthogonal polynomials of 1 … k in the smallest integers, the last weight positive; exact arithmetic."""
    k = len(levels)
    basis: list[list[Fraction]] = []
    for degree in range(min(k, len(_DEGREES) + 1)):
        row = [Fraction((2 * i - k + 1) ** degree) for i in range(k)]
        for other in basis:
            share = sum((a * b for a, b in zip(row, other, strict=True)), Fraction(0)) / sum(b * b for b in other)
            row = [a - share * b for a, b in zip(row, other, strict=True)]
        basis.append(row)
    weights = [_integers(row) for row in basis[1:]]
    return Coding(np.array(weights, float), list(_DEGREES[: len(weights)]))


def _integers(row: list[Fraction]) -> list[int]:
    scale = lcm(*(value.denominator for value in row))
    whole = [int(value * scale) for value in row]
    return [value // gcd(*whole) for value in whole]


def _custom(kind: Any, levels: list[Any]) -> Coding:
    if isinstance(kind, Mapping):
        rows = {str(name): _weights(name, value, levels) for name, value in kind.items()}
        names = list(rows)
    else:
        matrix = np.atleast_2d(np.asarray(kind, float))
        names = (
            [str(n) for n in kind.index]
            if isinstance(kind, pd.DataFrame)
            else [f"c{i + 1}" for i in range(len(matrix))]
        )
        rows = {name: _weights(name, row, levels) for name, row in zip(names, matrix, strict=True)}
    if not rows:
        raise MethodError("no contrast is given")
    return Coding(np.array(list(rows.values())), names)


def _weights(name: Any, value: Any, levels: list[Any]) -> Array:
    if isinstance(value, Mapping):
        unknown = [level for level in value if level not in levels]
        if unknown:
            raise MethodError(f"contrast {name!r}: {unknown[0]!r} is none of {', '.join(map(_named, levels))}")
        value = [value.get(level, 0.0) for level in levels]
    row = np.asarray(value, float)
    if row.shape != (len(levels),) or not np.isfinite(row).all() or not row.any():
        raise MethodError(
            f"contrast {name!r} needs {len(levels)} finite weights, not all 0, in the order {', '.join(map(_named, levels))}"
        )
    return row


_CODINGS: dict[str, Callable[[list[Any]], Coding]] = {
    "pairwise": _pairwise, "sequential": _sequential, "polynomial": _polynomial,
}  # fmt: skip
