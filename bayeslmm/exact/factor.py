"""The blocked Cholesky factor of M = Λ'AΛ + I: log-determinant, solves, and the entries of M⁻¹ on A's pattern.

The levels of the largest factor come first: their block M₁₁ is block-diagonal and is eliminated level by level. What
remains, R = M₂₂ − M₂₁M₁₁⁻¹M₁₂, is factored as a dense or as a sparse matrix. Λ is block-diagonal with the k×k lower
triangle λ_f repeated over the levels of factor f; all λ_f stand one after the other, row by row, in the vector `lam`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.dense import dense_cholesky
from bayeslmm.exact.sparse import find, sparse_cholesky

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
def eliminate_diagonal(lam: Array, k: int, A11: Array, L11: Array, level: int, Y: Array) -> float:
    """Factor λ'A₁₁λ + I of one level and solve for its rows of Y; blocks are flat. Returns its log-determinant."""
    at, row = level * k * k, level * k
    logdet = 0.0
    for j in range(k):
        for i in range(j, k):
            total = 1.0 if i == j else 0.0
            for a in range(i, k):
                inner = 0.0
                for b in range(j, k):
                    inner += A11[at + a * k + b] * lam[b * k + j]
                total += lam[a * k + i] * inner
            for c in range(j):
                total -= L11[at + i * k + c] * L11[at + j * k + c]
            if i == j:
                logdet += np.log(total)
                L11[at + j * k + j] = np.sqrt(total)
            else:
                L11[at + i * k + j] = total / L11[at + j * k + j]
                L11[at + j * k + i] = 0.0
    for i in range(k):
        for c in range(Y.shape[1]):
            total = Y[row + i, c]
            for a in range(i):
                total -= L11[at + i * k + a] * Y[row + a, c]
            Y[row + i, c] = total / L11[at + i * k + i]
    return logdet


@kernel
def eliminate_links(s: System, lam: Array, level: int, M: Array, L21: Array, Y: Array, block: Array) -> None:
    """L₂₁ of one level, and what its rows of Y take from the remainder's."""
    k = M.shape[0]
    first_row = s.A11.shape[0] * k
    r = Y.shape[1]
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
        A11_flat, L11_flat = s.A11.ravel(), L11.ravel()
        for level in range(q):
            logdet += eliminate_diagonal(lam, k, A11_flat, L11_flat, level, Y)
            if size > 0:
                eliminate_links(s, lam, level, L11[level], L21, Y, block)
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


@kernel
def half_solve(s: System, fac: Factor, B: Array) -> Array:
    """L⁻¹B."""
    q, k = s.A11.shape[0], s.A11.shape[1]
    Y = B.copy()
    r = Y.shape[1]
    rest = Y[q * k :]
    for level in range(q):
        for i in range(k):
            for c in range(r):
                total = Y[level * k + i, c]
                for a in range(i):
                    total -= fac.L11[level, i, a] * Y[level * k + a, c]
                Y[level * k + i, c] = total / fac.L11[level, i, i]
        for link in range(s.link_ptr[level], s.link_ptr[level + 1]):
            at, row = s.link_at[link], s.link_row[link]
            for i in range(s.width[s.link_factor[link]]):
                for j in range(k):
                    for c in range(r):
                        rest[row + i, c] -= fac.L21[at + i * k + j] * Y[level * k + j, c]
    if rest.shape[0] > 0:
        solve_lower(s, fac.L22, rest)
    return Y
