"""Cholesky factors, solves and inverses of dense matrices: small ones by loops, large ones in blocks by BLAS."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel

Array = NDArray[np.float64]

BLOCK = 64  # columns a step of the dense kernels: small enough for the first cache level, large enough for BLAS


@kernel
def cholesky_in_place(M: Array) -> float:
    """Lower factor of a small dense matrix in place; returns the log-determinant."""
    logdet = 0.0
    for j in range(M.shape[0]):
        pivot = M[j, j]
        for c in range(j):
            pivot -= M[j, c] * M[j, c]
        root = np.sqrt(pivot)
        logdet += np.log(pivot)
        M[j, j] = root
        for i in range(j + 1, M.shape[0]):
            total = M[i, j]
            for c in range(j):
                total -= M[i, c] * M[j, c]
            M[i, j] = total / root
    return logdet


@kernel
def forward(L: Array, x: Array) -> None:
    """L⁻¹x in place."""
    for i in range(x.size):
        total = x[i]
        for c in range(i):
            total -= L[i, c] * x[c]
        x[i] = total / L[i, i]


@kernel
def backward(L: Array, x: Array) -> None:
    """L⁻ᵀx in place."""
    for i in range(x.size - 1, -1, -1):
        total = x[i]
        for c in range(i + 1, x.size):
            total -= L[c, i] * x[c]
        x[i] = total / L[i, i]


@kernel
def inverse_from(L: Array) -> Array:
    """(LL')⁻¹."""
    size = L.shape[0]
    out = np.zeros((size, size))
    for j in range(size):
        out[j, j] = 1.0
        forward(L, out[j])
        backward(L, out[j])
    return out


@kernel
def dense_cholesky(R: Array) -> Array:
    """Lower factor of a dense matrix given by its lower triangle; NaN where it is not positive definite."""
    size = R.shape[0]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        diagonal = R[start:stop, start:stop].copy()
        cholesky_in_place(diagonal)
        R[start:stop, start:stop] = diagonal
        if stop < size:
            panel = np.ascontiguousarray(R[stop:, start:stop])
            panel = np.dot(panel, np.ascontiguousarray(lower_inverse(diagonal).T))
            R[stop:, start:stop] = panel
            for left in range(stop, size, 4 * BLOCK):
                right = min(left + 4 * BLOCK, size)
                rows = np.ascontiguousarray(panel[left - stop :])
                columns = np.ascontiguousarray(panel[left - stop : right - stop].T)
                R[left:, left:right] -= np.dot(rows, columns)
    return R


@kernel
def lower_inverse(L: Array) -> Array:
    """Inverse of a small lower triangular matrix."""
    size = L.shape[0]
    X = np.zeros((size, size))
    for j in range(size):
        X[j, j] = 1.0 / L[j, j]
        for i in range(j + 1, size):
            total = 0.0
            for c in range(j, i):
                total -= L[i, c] * X[c, j]
            X[i, j] = total / L[i, i]
    return X


@kernel
def dense_inverse(L: Array) -> Array:
    """(LL')⁻¹, full and symmetric, from a dense lower factor."""
    size = L.shape[0]
    X = np.zeros((size, size))
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        inner = lower_inverse(L[start:stop, start:stop])
        X[start:stop, start:stop] = inner
        if start > 0:
            rows = np.dot(np.ascontiguousarray(L[start:stop, :start]), np.ascontiguousarray(X[:start, :start]))
            X[start:stop, :start] = -np.dot(inner, rows)
    W = np.empty((size, size))
    for start in range(0, size, 4 * BLOCK):
        stop = min(start + 4 * BLOCK, size)
        rows = np.ascontiguousarray(X[start:, start:stop].T)
        panel = np.dot(rows, np.ascontiguousarray(X[start:, :stop]))
        W[start:stop, :stop] = panel
        W[:start, start:stop] = panel[:, :start].T
    return W
