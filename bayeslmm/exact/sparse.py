"""A sparse Cholesky factor on a closed pattern of columns: numeric factor, one entry, and the inverse on the pattern."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@kernel
def find(L_ptr: Index, L_row: Index, row: int, column: int) -> int:
    """Where entry (row, column) of the sparse lower factor stands."""
    low, high = L_ptr[column], L_ptr[column + 1]
    while low < high:
        middle = (low + high) // 2
        if L_row[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def sparse_cholesky(L_ptr: Index, L_row: Index, values: Array) -> float:
    """Left-looking factor in place on a closed pattern; returns the log-determinant."""
    size = L_ptr.size - 1
    head = np.full(size, -1)  # head[j]: first column whose next entry lies in row j
    following = np.full(size, -1)
    position = np.zeros(size, np.int64)
    work = np.zeros(size)
    logdet = 0.0
    for j in range(size):
        for at in range(L_ptr[j], L_ptr[j + 1]):
            work[L_row[at]] = values[at]
        column = head[j]
        while column >= 0:
            upcoming = following[column]
            start = position[column]
            factor = values[start]
            for at in range(start, L_ptr[column + 1]):
                work[L_row[at]] -= factor * values[at]
            position[column] = start + 1
            if start + 1 < L_ptr[column + 1]:
                row = L_row[start + 1]
                following[column] = head[row]
                head[row] = column
            column = upcoming
        pivot = work[j]
        root = np.sqrt(pivot)
        logdet += np.log(pivot)
        values[L_ptr[j]] = root
        for at in range(L_ptr[j] + 1, L_ptr[j + 1]):
            values[at] = work[L_row[at]] / root
        if L_ptr[j] + 1 < L_ptr[j + 1]:
            position[j] = L_ptr[j] + 1
            row = L_row[L_ptr[j] + 1]
            following[j] = head[row]
            head[row] = j
    return logdet


@kernel
def sparse_inverse(L_ptr: Index, L_row: Index, values: Array) -> Array:
    """(LL')⁻¹ on the pattern of L (Takahashi's recursion, last column first)."""
    size = L_ptr.size - 1
    W = np.zeros(values.size)
    work = np.zeros(size)
    for j in range(size - 1, -1, -1):
        first, last = L_ptr[j], L_ptr[j + 1]
        diagonal = values[first]
        for at in range(first + 1, last):
            work[L_row[at]] = 0.0
        for at in range(first + 1, last):
            column, factor = L_row[at], values[at] / diagonal
            inner = L_ptr[column]
            work[column] -= factor * W[inner]
            for other in range(at + 1, last):
                row = L_row[other]
                while L_row[inner] < row:
                    inner += 1
                work[row] -= factor * W[inner]
                work[column] -= values[other] / diagonal * W[inner]
        total = 1.0 / (diagonal * diagonal)
        for at in range(first + 1, last):
            W[at] = work[L_row[at]]
            total -= values[at] / diagonal * W[at]
        W[first] = total
    return W
