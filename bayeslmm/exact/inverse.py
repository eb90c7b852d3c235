"""M⁻¹ on the pattern of A: what derivatives of log|M| and conditional variances need of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.dense import dense_inverse
from bayeslmm.exact.factor import Factor, System
from bayeslmm.exact.sparse import find, sparse_inverse

Array = NDArray[np.float64]


class Inverse(NamedTuple):
    """M⁻¹ on the pattern of A, laid out as A11, A21 and A22."""

    I11: Array
    I21: Array
    I22: Array


@kernel
def entry(s: System, W: Array, row: int, column: int) -> float:
    """Entry of the remainder's inverse, whichever triangle is asked for."""
    if not s.sparse:
        return W[row, column]
    if row < column:
        row, column = column, row
    return W[0, find(s.L_ptr, s.L_row, row, column)]


@kernel
def inverse_of_diagonal(k: int, L11: Array, level: int, inner: Array, I11: Array) -> None:
    """`inner` = L₁₁⁻¹ and I₁₁ = L₁₁⁻ᵀL₁₁⁻¹ of one level; blocks are flat."""
    at = level * k * k
    for j in range(k):
        inner[j, j] = 1.0 / L11[at + j * k + j]
        for i in range(j + 1, k):
            total = 0.0
            for c in range(j, i):
                total -= L11[at + i * k + c] * inner[c, j]
            inner[i, j] = total / L11[at + i * k + i]
    for i in range(k):
        for j in range(i + 1):
            total = 0.0
            for c in range(i, k):
                total += inner[c, i] * inner[c, j]
            I11[at + i * k + j] = total
            I11[at + j * k + i] = total


@kernel
def inverse_of_links(s: System, L21: Array, level: int, inner: Array, W: Array, I11: Array, I21: Array) -> None:
    """M⁻¹ in the coupling blocks of one level, and what they add to its diagonal block."""
    k = inner.shape[0]
    first, last = s.link_ptr[level], s.link_ptr[level + 1]
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
                        I21[at_x + i * k + c] -= weight * L21[at_z + j * k + c]
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
                    left += L21[at_x + i * k + c] * inner[c, a]
                for b in range(k):
                    I11[level, a, b] -= left * I21[at_x + i * k + b]


@kernel
def selected_inverse(s: System, fac: Factor) -> Inverse:
    """M⁻¹ on the pattern of A."""
    I11, I21, I22 = np.empty_like(s.A11), np.empty_like(s.A21), np.empty_like(s.A22)
    W = np.zeros((0, 0))
    if s.node_row.size > 0 and s.sparse:
        W = sparse_inverse(s.L_ptr, s.L_row, fac.L22[0]).reshape((1, -1))
    elif s.node_row.size > 0:
        W = dense_inverse(fac.L22)
    k = s.A11.shape[1]
    inner = np.zeros((k, k))
    L11_flat, I11_flat = fac.L11.ravel(), I11.ravel()
    for level in range(s.A11.shape[0]):
        inverse_of_diagonal(k, L11_flat, level, inner, I11_flat)
        if s.node_row.size > 0:
            inverse_of_links(s, fac.L21, level, inner, W, I11, I21)
    for block in range(s.rest_row.size):
        kf, kg = s.width[s.rest_row_factor[block]], s.width[s.rest_col_factor[block]]
        row, column, at = s.rest_row[block], s.rest_col[block], s.rest_at[block]
        for i in range(kf):
            for j in range(kg):
                I22[at + i * kg + j] = entry(s, W, row + i, column + j)
    return Inverse(I11, I21, I22)
