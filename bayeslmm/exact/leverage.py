"""v'M⁻¹v for rows v that touch one level of each factor: the variance of a linear predictor's random part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.dense import dense_inverse
from bayeslmm.exact.factor import Factor, System

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@kernel
def leverage(s: System, factor: Factor, place: Index, v: Array) -> Array:
    """v'M⁻¹v of rows v (n, Σk) with one level of each factor, which begins at `place` (n, F); -1: v'v."""
    q, k = s.A11.shape[0], s.A11.shape[1]
    inverse = np.zeros((0, 0)) if s.sparse else dense_inverse(factor.L22)
    rest = np.zeros(factor.Y.shape[0] - q * k)
    out = np.zeros(place.shape[0])
    for row in range(place.shape[0]):
        stop = 0
        for f in range(s.width.size):
            start, stop = stop, stop + s.width[f]
            own, at = v[row, start:stop], place[row, f]
            if at < 0:
                out[row] += np.sum(own * own)
            elif f == 0:
                out[row] += eliminated(s, factor, at // k, own.copy(), rest)
            else:
                rest[at - q * k : at - q * k + own.size] += own
        out[row] += remaining_sparse(s, factor.L22, rest) if s.sparse else remaining_dense(inverse, rest)
    return out


@kernel
def eliminated(s: System, factor: Factor, level: int, v: Array, rest: Array) -> float:
    """‖L₁₁⁻¹v‖² of one level of the first factor; subtracts L₂₁L₁₁⁻¹v from `rest`."""
    k = s.A11.shape[1]
    total = 0.0
    for i in range(k):
        for a in range(i):
            v[i] -= factor.L11[level, i, a] * v[a]
        v[i] /= factor.L11[level, i, i]
        total += v[i] * v[i]
    for link in range(s.link_ptr[level], s.link_ptr[level + 1]):
        at, row = s.link_at[link], s.link_row[link]
        for i in range(s.width[s.link_factor[link]]):
            for j in range(k):
                rest[row + i] -= factor.L21[at + i * k + j] * v[j]
    return total


@kernel
def remaining_sparse(s: System, values: Array, rest: Array) -> float:
    """‖L₂₂⁻¹ rest‖² from the sparse L₂₂; leaves `rest` at 0."""
    total = 0.0
    for j in range(rest.size):
        if rest[j] != 0.0:
            value = rest[j] / values[0, s.L_ptr[j]]
            total += value * value
            for at in range(s.L_ptr[j], s.L_ptr[j + 1]):
                rest[s.L_row[at]] -= values[0, at] * value
            rest[j] = 0.0
    return total


@kernel
def remaining_dense(inverse: Array, rest: Array) -> float:
    """rest' R⁻¹ rest over its entries that are not 0; leaves `rest` at 0."""
    filled = np.flatnonzero(rest)
    total = 0.0
    for i in filled:
        for j in filled:
            total += rest[i] * inverse[i, j] * rest[j]
    rest[filled] = 0.0
    return total
