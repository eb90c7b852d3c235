"""The pullback of (logdet, S): cotangents of λ, and of the cross-products A, B, C."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.factor import Factor, System, back_solve, times_lambda
from bayeslmm.exact.inverse import Inverse, selected_inverse

Array = NDArray[np.float64]

BLAS_FROM = 24  # columns from which a call of BLAS is worth its overhead (measured: 0.3 ms a call for tall, narrow Y)


class ProductsBar(NamedTuple):
    """Cotangents of the products, laid out as A11, A21, A22, B and C."""

    A11: Array
    A21: Array
    A22: Array
    B: Array
    C: Array


@kernel
def times_small(Y: Array, G: Array) -> Array:
    """YG for a symmetrised small G."""
    rows, r = Y.shape
    S = 0.5 * (G + G.T)
    if r >= BLAS_FROM:
        return np.dot(Y, S)
    out = np.empty((rows, r))
    for row in range(rows):
        for j in range(r):
            total = 0.0
            for i in range(r):
                total += Y[row, i] * S[i, j]
            out[row, j] = total
    return out


@kernel
def coupled(s: System, U: Array) -> Array:
    """AU."""
    q, k = s.A11.shape[0], s.A11.shape[1]
    out = np.zeros_like(U)
    r = U.shape[1]
    for level in range(q):
        row = level * k
        for i in range(k):
            for j in range(k):
                for c in range(r):
                    out[row + i, c] += s.A11[level, i, j] * U[row + j, c]
        for link in range(s.link_ptr[level], s.link_ptr[level + 1]):
            at, other = s.link_at[link], q * k + s.link_row[link]
            for i in range(s.width[s.link_factor[link]]):
                for j in range(k):
                    value = s.A21[at + i * k + j]
                    for c in range(r):
                        out[other + i, c] += value * U[row + j, c]
                        out[row + j, c] += value * U[other + i, c]
    for block in range(s.rest_row.size):
        kg, at = s.width[s.rest_col_factor[block]], s.rest_at[block]
        row, column = q * k + s.rest_row[block], q * k + s.rest_col[block]
        for i in range(s.width[s.rest_row_factor[block]]):
            for j in range(kg):
                value = s.A22[at + i * kg + j]
                for c in range(r):
                    out[row + i, c] += value * U[column + j, c]
                    if row != column:
                        out[column + j, c] += value * U[row + i, c]
    return out


@kernel
def add_block(
    A: Array,
    a: int,
    ka: int,
    kb: int,
    turn: bool,
    lam: Array,
    lb: int,
    inverse: Array,
    b: int,
    flip: bool,
    kc: int,
    out: Array,
    at: int,
    scale: float,
) -> None:
    """out += scale · A_block λ_b I_block for ka × kb, kb × kb and kb × kc; `turn`, `flip` read A, I transposed."""
    for i in range(ka):
        for c in range(kb):
            left = 0.0
            for j in range(c, kb):
                left += (A[a + j * ka + i] if turn else A[a + i * kb + j]) * lam[lb + j * kb + c]
            for o in range(min(kc, i + 1)):
                out[at + i * kc + o] += scale * left * (inverse[b + o * kb + c] if flip else inverse[b + c * kc + o])


@kernel
def add_diagonal(A: Array, k: int, lam: Array, inverse: Array, scale: float, out: Array) -> None:
    """out += scale · Σ over levels of AλI in the k × k blocks of the first factor, lower triangle; blocks are flat."""
    turned = np.empty((k, k))
    for at in range(0, A.size, k * k):
        for j in range(k):
            for o in range(k):
                total = 0.0
                for c in range(j + 1):
                    total += lam[j * k + c] * inverse[at + c * k + o]
                turned[j, o] = total
        for i in range(k):
            for o in range(i + 1):
                total = 0.0
                for j in range(k):
                    total += A[at + i * k + j] * turned[j, o]
                out[i * k + o] += scale * total


@kernel
def logdet_pullback(s: System, lam: Array, inverse: Inverse, scale: float, out: Array) -> None:
    """out += scale · AΛM⁻¹ in the pattern of λ, summed over levels."""
    k = s.A11.shape[1]
    add_diagonal(s.A11.ravel(), k, lam, inverse.I11.ravel(), scale, out)
    for level in range(s.A11.shape[0] if s.node_row.size else 0):
        for link in range(s.link_ptr[level], s.link_ptr[level + 1]):
            f, block = s.link_factor[link], s.link_at[link]
            kf, lf = s.width[f], s.lam_at[f]
            add_block(s.A21, block, k, kf, True, lam, lf, inverse.I21, block, False, k, out, 0, scale)
            add_block(s.A21, block, kf, k, False, lam, 0, inverse.I21, block, True, kf, out, lf, scale)
    for block in range(s.rest_row.size):
        f, g, at = s.rest_row_factor[block], s.rest_col_factor[block], s.rest_at[block]
        kf, kg, lf, lg = s.width[f], s.width[g], s.lam_at[f], s.lam_at[g]
        add_block(s.A22, at, kf, kg, False, lam, lg, inverse.I22, at, True, kf, out, lf, scale)
        if s.rest_row[block] != s.rest_col[block]:
            add_block(s.A22, at, kg, kf, True, lam, lf, inverse.I22, at, False, kg, out, lg, scale)


@kernel
def add_outer(s: System, left: Array, right: Array, scale: float, out: Array) -> None:
    """out += scale · Σ over levels of left_l right_l', lower triangle of each λ."""
    q, k = s.A11.shape[0], s.A11.shape[1]
    r = left.shape[1]
    for unit in range(q + s.node_row.size):
        f = 0 if unit < q else s.node_factor[unit - q]
        row = unit * k if unit < q else q * k + s.node_row[unit - q]
        kf, at = s.width[f], s.lam_at[f]
        for i in range(kf):
            for j in range(i + 1):
                total = 0.0
                for c in range(r):
                    total += left[row + i, c] * right[row + j, c]
                out[at + i * kf + j] += scale * total


@kernel
def pullback(s: System, lam: Array, factor: Factor, gbar: float, Gbar: Array) -> Array:
    """Cotangent of `lam` for cotangents of logdet and S."""
    out = np.zeros(lam.size)
    V = back_solve(s, factor, factor.Y)
    gradient = coupled(s, times_lambda(s, lam, V)) - s.B
    add_outer(s, times_small(gradient, Gbar), V, 2.0, out)
    if gbar != 0.0:
        logdet_pullback(s, lam, selected_inverse(s, factor), 2.0 * gbar, out)
    return out


@kernel
def sandwich(
    lam: Array, left: int, kl: int, inverse: Array, at: int, right: int, kr: int, out: Array, scale: float
) -> None:
    """out = scale · λ_left I_block λ_right'."""
    for i in range(kl):
        for j in range(kr):
            total = 0.0
            for a in range(i + 1):
                for b in range(j + 1):
                    total += lam[left + i * kl + a] * inverse[at + a * kr + b] * lam[right + j * kr + b]
            out[at + i * kr + j] = scale * total


@kernel
def logdet_products(s: System, lam: Array, inverse: Inverse, gbar: float) -> tuple[Array, Array, Array]:
    """Cotangents of A for a cotangent of logdet, ḡ ΛM⁻¹Λ' on A's pattern; off-diagonal blocks count both triangles."""
    k = s.A11.shape[1]
    A11, A21, A22 = np.zeros(s.A11.size), np.zeros_like(s.A21), np.zeros_like(s.A22)
    I11 = inverse.I11.ravel()
    for level in range(s.A11.shape[0]):
        sandwich(lam, 0, k, I11, level * k * k, 0, k, A11, gbar)
        for link in range(s.link_ptr[level], s.link_ptr[level + 1]):
            f, at = s.link_factor[link], s.link_at[link]
            sandwich(lam, s.lam_at[f], s.width[f], inverse.I21, at, 0, k, A21, 2.0 * gbar)
    for block in range(s.rest_row.size):
        f, g, at = s.rest_row_factor[block], s.rest_col_factor[block], s.rest_at[block]
        both = 1.0 if s.rest_row[block] == s.rest_col[block] else 2.0
        sandwich(lam, s.lam_at[f], s.width[f], inverse.I22, at, s.lam_at[g], s.width[g], A22, both * gbar)
    return A11, A21, A22


@kernel
def products_pullback(s: System, lam: Array, factor: Factor, gbar: float, Gbar: Array) -> ProductsBar:
    """Cotangents of A (on its pattern; off-diagonal blocks count both triangles), B and C."""
    A11, A21, A22 = logdet_products(s, lam, selected_inverse(s, factor), gbar)
    U = times_lambda(s, lam, back_solve(s, factor, factor.Y))
    UG = times_small(U, Gbar)
    q, k = s.A11.shape[0], s.A11.shape[1]
    r = U.shape[1]
    for level in range(q):
        for i in range(k):
            for j in range(k):
                for c in range(r):
                    A11[level * k * k + i * k + j] += UG[level * k + i, c] * U[level * k + j, c]
        for link in range(s.link_ptr[level], s.link_ptr[level + 1]):
            f, at, row = s.link_factor[link], s.link_at[link], q * k + s.link_row[link]
            for i in range(s.width[f]):
                for j in range(k):
                    for c in range(r):
                        A21[at + i * k + j] += 2.0 * UG[row + i, c] * U[level * k + j, c]
    for block in range(s.rest_row.size):
        f, g, at = s.rest_row_factor[block], s.rest_col_factor[block], s.rest_at[block]
        row, column = q * k + s.rest_row[block], q * k + s.rest_col[block]
        both = 1.0 if row == column else 2.0
        for i in range(s.width[f]):
            for j in range(s.width[g]):
                for c in range(r):
                    A22[at + i * s.width[g] + j] += both * UG[row + i, c] * U[column + j, c]
    return ProductsBar(A11.reshape(s.A11.shape), A21, A22, -2.0 * UG, 0.5 * (Gbar + Gbar.T))
