"""Rows that are weighted anew at every step: Z'WZ, Z'v, Zu and row leverages on the blocks of `System`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.blocks import Structure
from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.factor import System

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class Rows(NamedTuple):
    """Where each row of the data meets the blocks of A.

    Pairs of factors f ≥ g stand in the order (0, 0), (1, 0), (1, 1), (2, 0) and so on.
    """

    columns: Array  # (n, K) effect columns of all factors, side by side
    first: Index  # (F + 1,) where a factor's columns begin
    level: Index  # (n, F) first row of the row's level, in the order of elimination
    at: Index  # (n, pairs) where its block begins in A11, A21 or A22
    swapped: NDArray[np.bool_]  # (n, pairs) whether the block stands as (g, f)


Places = Iterable[tuple[int, int, Index, NDArray[np.bool_]]]


def rows_of(n: int, blocks: Structure, columns: list[Array], places: Places) -> Rows:
    """The n rows of a design whose factors have these scaled columns."""
    first = np.concatenate([[0], np.cumsum([c.shape[1] for c in columns])]).astype(np.int64)
    level = [blocks.rows(f)[factor.codes] for f, factor in enumerate(blocks.factors)]
    pairs = list(places) if columns else []
    return Rows(
        np.column_stack([np.empty((n, 0)), *columns]),
        first,
        np.column_stack([np.empty((n, 0), np.int64), *level]),
        np.column_stack([np.empty((n, 0), np.int64), *(at for _, _, at, _ in pairs)]),
        np.column_stack([np.empty((n, 0), np.bool_), *(swapped for *_, swapped in pairs)]),
    )


@kernel
def weigh(s: System, rows: Rows, w: Array) -> None:
    """A = Z'WZ, in place."""
    A11 = s.A11.ravel()
    A11[:] = 0.0
    s.A21[:] = 0.0
    s.A22[:] = 0.0
    z, first = rows.columns, rows.first
    for row in range(w.size):
        pair = 0
        for f in range(s.width.size):
            for g in range(f + 1):
                out = A11 if f == 0 else s.A21 if g == 0 else s.A22
                one, two = (g, f) if rows.swapped[row, pair] else (f, g)
                at, k = rows.at[row, pair], s.width[two]
                for i in range(s.width[one]):
                    value = w[row] * z[row, first[one] + i]
                    for j in range(k):
                        out[at + i * k + j] += value * z[row, first[two] + j]
                pair += 1


@kernel
def transposed_times(s: System, rows: Rows, V: Array, out: Array) -> None:
    """out = Z'V for V (n, r)."""
    out[:] = 0.0
    r = V.shape[1]
    for row in range(V.shape[0]):
        for f in range(s.width.size):
            at = rows.level[row, f]
            for i in range(s.width[f]):
                z = rows.columns[row, rows.first[f] + i]
                for c in range(r):
                    out[at + i, c] += z * V[row, c]


@kernel
def times(s: System, rows: Rows, u: Array) -> Array:
    """Zu for u (Q,)."""
    out = np.zeros(rows.columns.shape[0])
    for row in range(out.size):
        for f in range(s.width.size):
            at = rows.level[row, f]
            for i in range(s.width[f]):
                out[row] += rows.columns[row, rows.first[f] + i] * u[at + i]
    return out


@kernel
def quadratic_forms(s: System, rows: Rows, A11: Array, A21: Array, A22: Array) -> Array:
    """z'Pz of every row, P given on the pattern of A with off-diagonal blocks counted twice."""
    out = np.zeros(rows.columns.shape[0])
    z, first = rows.columns, rows.first
    for row in range(out.size):
        pair = 0
        for f in range(s.width.size):
            for g in range(f + 1):
                P = A11 if f == 0 else A21 if g == 0 else A22
                one, two = (g, f) if rows.swapped[row, pair] else (f, g)
                at, k = rows.at[row, pair], s.width[two]
                for i in range(s.width[one]):
                    for j in range(k):
                        out[row] += z[row, first[one] + i] * P[at + i * k + j] * z[row, first[two] + j]
                pair += 1
    return out
