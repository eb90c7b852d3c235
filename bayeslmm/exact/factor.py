"""The blocked Cholesky factor of M = Λ'AΛ + I: log-determinant, solves, and the entries of M⁻¹ on A's pattern.

The levels of the largest factor come first: their block M₁₁ is block-diagonal and is eliminated level by level. What
remains, R = M₂₂ − M₂₁M₁₁⁻¹M₁₂, is factored as a dense or as a sparse matrix. Λ is block-diagonal with the k×k lower
triangle λ_f repeated over the levels of factor f; all λ_f stand one after the other, row by row, in the vector `lam`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class System(NamedTuple):
    """Cross-products A = Z'WZ, B = Z'W[X y], C = [X y]'W[X y] in blocks, in the order of elimination.

    A *node* is one level of one factor other than the first: it owns k_f consecutive rows of the remainder.
    """

    width: Index  # (F,) effects per level, k_f
    lam_at: Index  # (F + 1,) where λ_f begins in lam
    A11: Array  # (q, k, k) diagonal blocks of the first factor
    link_ptr: Index  # (q + 1,) blocks of A₂₁ in the columns of level l: link_ptr[l] to link_ptr[l + 1], by row
    link_row: Index  # first row of the block, counted within the remainder
    link_factor: Index
    link_at: Index  # where the block begins in A21
    A21: Array  # the blocks, k_f × k, row by row
    rest_row: Index  # blocks of A₂₂ on and below the diagonal
    rest_col: Index
    rest_row_factor: Index
    rest_col_factor: Index
    rest_at: Index
    A22: Array
    node_row: Index  # first row of each node, within the remainder
    node_factor: Index
    B: Array  # (Q, r)
    C: Array  # (r, r)
    sparse: bool  # how the remainder is factored
    L_ptr: Index  # pattern of the remainder's factor by columns, diagonal first, rows ascending (sparse only)
    L_row: Index


class Factor(NamedTuple):
    """L with LL' = M, and Y = L⁻¹Λ'B."""

    logdet: float
    L11: Array  # (q, k, k)
    L21: Array  # laid out as A21
    L22: Array  # (Q₂, Q₂), or (1, nnz) on the pattern L_ptr, L_row
    Y: Array  # (Q, r)


class Inverse(NamedTuple):
    """M⁻¹ on the pattern of A, laid out as A11, A21 and A22."""

    I11: Array
    I21: Array
    I22: Array


def kernel(function: Any) -> Any:
    """Compile for speed, cached on disk, without the interpreter's lock."""
    return njit(cache=True, nogil=True, error_model="numpy")(function)


@kernel
def congruence(lam: Array, left: int, kl: int, A: Array, at: int, right: int, kr: int, out: Array) -> None:
    """out = λ_left' A_block λ_right for one block; `out` needs room for kl × kr."""
    for i in range(kl):
        for j in range(kr):
            total = 0.0
            for b in range(j, kr):
                inner = 0.0
                for a in range(i, kl):
                    inner += lam[left + a * kl + i] * A[at + a * kr + b]
                total += inner * lam[right + b * kr + j]
            out[i, j] = total


@kernel
def times_lambda_transposed(s: System, lam: Array, B: Array) -> Array:
    """Λ'B."""
    out = np.empty_like(B)
    r = B.shape[1]
    q, k = s.A11.shape[0], s.A11.shape[1]
    for level in range(q):
        for i in range(k):
            for c in range(r):
                total = 0.0
                for a in range(i, k):
                    total += lam[a * k + i] * B[level * k + a, c]
                out[level * k + i, c] = total
    for node in range(s.node_row.size):
        f = s.node_factor[node]
        kf, at, row = s.width[f], s.lam_at[f], q * k + s.node_row[node]
        for i in range(kf):
            for c in range(r):
                total = 0.0
                for a in range(i, kf):
                    total += lam[at + a * kf + i] * B[row + a, c]
                out[row + i, c] = total
    return out


@kernel
def times_lambda(s: System, lam: Array, V: Array) -> Array:
    """ΛV."""
    out = np.empty_like(V)
    r = V.shape[1]
    q, k = s.A11.shape[0], s.A11.shape[1]
    for level in range(q):
        for i in range(k):
            for c in range(r):
                total = 0.0
                for a in range(i + 1):
                    total += lam[i * k + a] * V[level * k + a, c]
                out[level * k + i, c] = total
    for node in range(s.node_row.size):
        f = s.node_factor[node]
        kf, at, row = s.width[f], s.lam_at[f], q * k + s.node_row[node]
        for i in range(kf):
            for c in range(r):
                total = 0.0
                for a in range(i + 1):
                    total += lam[at + i * kf + a] * V[row + a, c]
                out[row + i, c] = total
    return out


@kernel
def small_cholesky(M: Array) -> float:
    """Lower factor in place; returns the log-determinant."""
    k = M.shape[0]
    logdet = 0.0
    for j in range(k):
        pivot = M[j, j]
        for c in range(j):
            pivot -= M[j, c] * M[j, c]
        root = np.sqrt(pivot)
        M[j, j] = root
        logdet += np.log(pivot)
        for i in range(j + 1, k):
            total = M[i, j]
            for c in range(j):
                total -= M[i, c] * M[j, c]
            M[i, j] = total / root
        for i in range(j):
            M[i, j] = 0.0
    return logdet


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
def scaled_rest(s: System, lam: Array, size: int) -> Array:
    """Λ₂'A₂₂Λ₂ + I, lower triangle, dense or on the sparse pattern."""
    R = np.zeros((1, s.L_row.size)) if s.sparse else np.zeros((size, size))
    widest = s.width.max()
    out = np.empty((widest, widest))
    for block in range(s.rest_row.size):
        f, g = s.rest_row_factor[block], s.rest_col_factor[block]
        kf, kg = s.width[f], s.width[g]
        congruence(lam, s.lam_at[f], kf, s.A22, s.rest_at[block], s.lam_at[g], kg, out)
        row, column = s.rest_row[block], s.rest_col[block]
        for i in range(kf):
            for j in range(min(kg, i + 1) if row == column else kg):
                if s.sparse:
                    R[0, find(s.L_ptr, s.L_row, row + i, column + j)] += out[i, j]
                else:
                    R[row + i, column + j] += out[i, j]
    for i in range(size):
        if s.sparse:
            R[0, s.L_ptr[i]] += 1.0
        else:
            R[i, i] += 1.0
    return R


@kernel
def subtract_outer(s: System, first: int, last: int, k: int, L21: Array, R: Array) -> None:
    """R −= L₂₁L₂₁' of one level, lower triangle."""
    for x in range(first, last):
        row, kx, at_x = s.link_row[x], s.width[s.link_factor[x]], s.link_at[x]
        for z in range(first, x + 1):
            column, kz, at_z = s.link_row[z], s.width[s.link_factor[z]], s.link_at[z]
            for i in range(kx):
                for j in range(min(kz, i + 1) if x == z else kz):
                    total = 0.0
                    for c in range(k):
                        total += L21[at_x + i * k + c] * L21[at_z + j * k + c]
                    if s.sparse:
                        R[0, find(s.L_ptr, s.L_row, row + i, column + j)] -= total
                    else:
                        R[row + i, column + j] -= total


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
def solve_lower(s: System, L22: Array, Y: Array) -> None:
    """L₂₂⁻¹Y in place."""
    size, r = Y.shape
    for j in range(size):
        diagonal = L22[0, s.L_ptr[j]] if s.sparse else L22[j, j]
        if s.sparse:
            for c in range(r):
                Y[j, c] /= diagonal
            for at in range(s.L_ptr[j] + 1, s.L_ptr[j + 1]):
                for c in range(r):
                    Y[s.L_row[at], c] -= L22[0, at] * Y[j, c]
        else:
            for i in range(j):
                for c in range(r):
                    Y[j, c] -= L22[j, i] * Y[i, c]
            for c in range(r):
                Y[j, c] /= diagonal


@kernel
def solve_upper(s: System, L22: Array, Y: Array) -> None:
    """L₂₂⁻ᵀY in place."""
    size, r = Y.shape
    for j in range(size - 1, -1, -1):
        if s.sparse:
            for at in range(s.L_ptr[j] + 1, s.L_ptr[j + 1]):
                for c in range(r):
                    Y[j, c] -= L22[0, at] * Y[s.L_row[at], c]
            for c in range(r):
                Y[j, c] /= L22[0, s.L_ptr[j]]
        else:
            for c in range(r):
                Y[j, c] /= L22[j, j]
            for i in range(j):
                for c in range(r):
                    Y[i, c] -= L22[j, i] * Y[j, c]


@kernel
def eliminate_level(s: System, lam: Array, level: int, L11: Array, L21: Array, Y: Array, block: Array) -> float:
    """Factor one level of the first block, its coupling blocks and its rows of Y; returns its log-determinant."""
    k = L11.shape[1]
    first_row = s.A11.shape[0] * k
    r = Y.shape[1]
    M = L11[level]
    congruence(lam, 0, k, s.A11.ravel(), level * k * k, 0, k, M)
    for i in range(k):
        M[i, i] += 1.0
    logdet = small_cholesky(M)
    for i in range(k):
        for c in range(r):
            total = Y[level * k + i, c]
            for a in range(i):
                total -= M[i, a] * Y[level * k + a, c]
            Y[level * k + i, c] = total / M[i, i]
    for link in range(s.link_ptr[level], s.link_ptr[level + 1]):
        f = s.link_factor[link]
        kf, at, row = s.width[f], s.link_at[link], first_row + s.link_row[link]
        congruence(lam, s.lam_at[f], kf, s.A21, at, 0, k, block)
        for i in range(kf):
            for j in range(k):
                total = block[i, j]
                for c in range(j):
                    total -= L21[at + i * k + c] * M[j, c]
                L21[at + i * k + j] = total / M[j, j]
            for j in range(k):
                for c in range(r):
                    Y[row + i, c] -= L21[at + i * k + j] * Y[level * k + j, c]
    return logdet


@kernel
def factorise(s: System, lam: Array) -> Factor:
    """Factor M = Λ'AΛ + I and solve for Y = L⁻¹Λ'B."""
    q, k = s.A11.shape[0], s.A11.shape[1]
    Y = times_lambda_transposed(s, lam, s.B)
    L11, L21 = np.empty_like(s.A11), np.empty_like(s.A21)
    size = Y.shape[0] - q * k
    logdet = 0.0
    R = scaled_rest(s, lam, size) if size > 0 else np.zeros((0, 0))
    if q > 0:
        widest = s.width.max()
        block = np.empty((widest, widest))
        for level in range(q):
            logdet += eliminate_level(s, lam, level, L11, L21, Y, block)
            subtract_outer(s, s.link_ptr[level], s.link_ptr[level + 1], k, L21, R)
    if size > 0:
        if s.sparse:
            logdet += sparse_cholesky(s.L_ptr, s.L_row, R[0])
        elif np.isfinite(logdet):
            R = dense_cholesky(R)
            for i in range(size):
                logdet += 2.0 * np.log(R[i, i])
        solve_lower(s, R, Y[q * k :])
    return Factor(logdet, L11, L21, R, Y)


BLOCK = 64  # columns a step of the dense kernels: small enough for the first cache level, large enough for BLAS


@kernel
def dense_cholesky(R: Array) -> Array:
    """Lower factor of a dense matrix given by its lower triangle; NaN where it is not positive definite."""
    size = R.shape[0]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        diagonal = R[start:stop, start:stop].copy()
        small_cholesky(diagonal)
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


@kernel
def entry(s: System, W: Array, row: int, column: int) -> float:
    """Entry of the remainder's inverse, whichever triangle is asked for."""
    if not s.sparse:
        return W[row, column]
    if row < column:
        row, column = column, row
    return W[0, find(s.L_ptr, s.L_row, row, column)]


@kernel
def inverse_of_level(s: System, fac: Factor, level: int, W: Array, I11: Array, I21: Array) -> None:
    """M⁻¹ in the diagonal block of one level of the first factor and in its coupling blocks."""
    k = I11.shape[1]
    inner = lower_inverse(fac.L11[level])
    first, last = s.link_ptr[level], s.link_ptr[level + 1]
    for i in range(k):
        for j in range(k):
            total = 0.0
            for c in range(max(i, j), k):
                total += inner[c, i] * inner[c, j]
            I11[level, i, j] = total
    for x in range(first, last):
        kx, at_x, row = s.width[s.link_factor[x]], s.link_at[x], s.link_row[x]
        for i in range(kx):
            for c in range(k):
                I21[at_x + i * k + c] = 0.0
            for z in range(first, last):
                kz, at_z, column = s.width[s.link_factor[z]], s.link_at[z], s.link_row[z]
                for j in range(kz):
                    weight = entry(s, W, row + i, column + j)
                    for c in range(k):
                        I21[at_x + i * k + c] -= weight * fac.L21[at_z + j * k + c]
    for x in range(first, last):
        at_x = s.link_at[x]
        for i in range(s.width[s.link_factor[x]]):
            for j in range(k):  # multiply by L₁₁⁻¹ on the right: column j needs only columns c ≥ j
                total = 0.0
                for c in range(j, k):
                    total += I21[at_x + i * k + c] * inner[c, j]
                I21[at_x + i * k + j] = total
            for a in range(k):
                left = 0.0
                for c in range(a, k):
                    left += fac.L21[at_x + i * k + c] * inner[c, a]
                for b in range(k):
                    I11[level, a, b] -= left * I21[at_x + i * k + b]


@kernel
def selected_inverse(s: System, fac: Factor) -> Inverse:
    """M⁻¹ on the pattern of A."""
    I11, I21, I22 = np.empty_like(s.A11), np.empty_like(s.A21), np.empty_like(s.A22)
    W = np.zeros((0, 0))
    if s.node_row.size > 0:
        if s.sparse:
            W = sparse_inverse(s.L_ptr, s.L_row, fac.L22[0]).reshape((1, -1))
        else:
            W = dense_inverse(fac.L22)
    for level in range(s.A11.shape[0]):
        inverse_of_level(s, fac, level, W, I11, I21)
    for block in range(s.rest_row.size):
        kf, kg = s.width[s.rest_row_factor[block]], s.width[s.rest_col_factor[block]]
        row, column, at = s.rest_row[block], s.rest_col[block], s.rest_at[block]
        for i in range(kf):
            for j in range(kg):
                I22[at + i * kg + j] = entry(s, W, row + i, column + j)
    return Inverse(I11, I21, I22)


@kernel
def back_solve(s: System, fac: Factor, Y: Array) -> Array:
    """L⁻ᵀY."""
    q, k = s.A11.shape[0], s.A11.shape[1]
    X = Y.copy()
    r = X.shape[1]
    rest = X[q * k :]
    if rest.shape[0] > 0:
        solve_upper(s, fac.L22, rest)
    for level in range(q):
        for link in range(s.link_ptr[level], s.link_ptr[level + 1]):
            at, row = s.link_at[link], s.link_row[link]
            for i in range(s.width[s.link_factor[link]]):
                for j in range(k):
                    for c in range(r):
                        X[level * k + j, c] -= fac.L21[at + i * k + j] * rest[row + i, c]
        for i in range(k - 1, -1, -1):
            for c in range(r):
                total = X[level * k + i, c]
                for a in range(i + 1, k):
                    total -= fac.L11[level, a, i] * X[level * k + a, c]
                X[level * k + i, c] = total / fac.L11[level, i, i]
    return X
