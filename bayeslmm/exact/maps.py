"""From standard normal coordinates to the random effects of one level, along what the level's rows say of them.

Given the parameters, a level's standardised effects b ~ N(0, I) meet a likelihood that is nearly normal, with information
S and score g. Their conditional distribution is then nearly N(P⁻¹λ'g, P⁻¹), P = I + λ'Sλ = LL', and

    b = L⁻ᵀ(L⁻¹λ'g + z),     u = λb,     |∂b/∂z| = 1/|L|

makes z nearly standard normal whatever λ is. With S = 0, g = 0 this is the non-centred parametrisation, z = b; as S grows
it becomes the centred one, u = S⁻¹g + S^(-1/2) z. Exact for any S ≥ 0 and g: they decide how fast the sampler moves, not
where. (Partial non-centring, Papaspiliopoulos, Roberts & Sköld 2007, Statistical Science 22(1), in matrix form.)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class Maps(NamedTuple):
    """The levels of all factors, factor by factor, and what is known of each one's effects.

    The score of factor f is ``g − Cβ + Dτ − Z_f'(w_f r)``, r what the factors after f add to the linear predictor, τ the
    thresholds of ordered categories.
    """

    first: Index  # (levels,) first of the level's effects
    start: Index  # (F + 1,) where a factor's levels begin
    at: Index  # (levels,) where its k × k matrices begin
    S: Array  # information
    g: Array  # (Q,) score at β = 0, τ = 0 and r = 0
    C: Array  # (Q, p)
    weight: Array  # (F, n)
    D: Array  # (Q, K − 1), no columns without thresholds


class Found(NamedTuple):
    """What `forward` leaves for `backward`."""

    L: Array  # as Maps.S
    half: Array  # L⁻¹λ'g
    b: Array
    u: Array


@kernel
def factorise_level(k: int, lam: Array, at: int, S: Array, place: int, L: Array) -> None:
    """L with LL' = I + λ'Sλ."""
    for i in range(k):
        for j in range(i + 1):
            total = 1.0 if i == j else 0.0
            for a in range(i, k):
                inner = 0.0
                for c in range(j, k):
                    inner += S[place + a * k + c] * lam[at + c * k + j]
                total += lam[at + a * k + i] * inner
            for a in range(j):
                total -= L[place + i * k + a] * L[place + j * k + a]
            L[place + i * k + j] = math.sqrt(total) if i == j else total / L[place + j * k + j]
        for j in range(i + 1, k):
            L[place + i * k + j] = 0.0


@kernel
def forward_level(k: int, lam: Array, at: int, S: Array, place: int, g: Array, z: Array, row: int, out: Found) -> float:
    """Effects of one level from its z; returns −½b'b − log|L|."""
    L, half, b, u = out.L, out.half, out.b, out.u
    factorise_level(k, lam, at, S, place, L)
    value = 0.0
    for i in range(k):
        total = 0.0
        for a in range(i, k):
            total += lam[at + a * k + i] * g[row + a]
        for j in range(i):
            total -= L[place + i * k + j] * half[row + j]
        half[row + i] = total / L[place + i * k + i]
    for i in range(k - 1, -1, -1):
        total = half[row + i] + z[row + i]
        for j in range(i + 1, k):
            total -= L[place + j * k + i] * b[row + j]
        b[row + i] = total / L[place + i * k + i]
        value -= 0.5 * b[row + i] ** 2 + math.log(L[place + i * k + i])
    for i in range(k):
        total = 0.0
        for j in range(i + 1):
            total += lam[at + i * k + j] * b[row + j]
        u[row + i] = total
    return value


@kernel
def backward_level(
    k: int,
    lam: Array,
    at: int,
    S: Array,
    place: int,
    g: Array,
    row: int,
    found: Found,
    u_bar: Array,
    lam_bar: Array,
    g_bar: Array,
    z_bar: Array,
    work: Array,
) -> None:
    """Cotangents of λ (added), g and z from that of u and of `forward_level`'s value; `work` is 4 × k × k."""
    L, half, b = found.L, found.half, found.b
    m_bar, L_bar, P_bar, T = work[0, 0], work[1], work[2], work[3]
    for i in range(k):  # z_bar = L⁻¹b̄
        total = -b[row + i]
        for a in range(i, k):
            total += lam[at + a * k + i] * u_bar[row + a]
            lam_bar[at + a * k + i] += u_bar[row + a] * b[row + i]
        for j in range(i):
            total -= L[place + i * k + j] * z_bar[row + j]
        z_bar[row + i] = total / L[place + i * k + i]
    for i in range(k - 1, -1, -1):  # L⁻ᵀz_bar
        total = z_bar[row + i]
        for j in range(i + 1, k):
            total -= L[place + j * k + i] * m_bar[j]
        m_bar[i] = total / L[place + i * k + i]
    for a in range(k):
        total = 0.0
        for i in range(a + 1):
            total += lam[at + a * k + i] * m_bar[i]
            lam_bar[at + a * k + i] += g[row + a] * m_bar[i]
        g_bar[row + a] = total
    for i in range(k):
        for j in range(i + 1):
            L_bar[i, j] = -b[row + i] * z_bar[row + j] - m_bar[i] * half[row + j]
        L_bar[i, i] -= 1.0 / L[place + i * k + i]
    factor_pullback(k, L, place, L_bar, P_bar, T)
    for a in range(k):
        for i in range(k):
            total = 0.0
            for c in range(i, k):
                total += S[place + a * k + c] * lam[at + c * k + i]
            T[a, i] = total
    for a in range(k):
        for i in range(a + 1):
            total = 0.0
            for c in range(k):
                total += T[a, c] * (P_bar[c, i] + P_bar[i, c])
            lam_bar[at + a * k + i] += total


@kernel
def factor_pullback(k: int, L: Array, place: int, L_bar: Array, P_bar: Array, T: Array) -> None:
    """P̄ = L⁻ᵀ Φ(L'L̄) L⁻¹ for LL' = P, Φ the lower triangle with its diagonal halved; P̄ is not made symmetric."""
    for i in range(k):
        for j in range(i + 1):
            total = 0.0
            for a in range(i, k):
                total += L[place + a * k + i] * L_bar[a, j]
            T[i, j] = 0.5 * total if i == j else total
        for j in range(i + 1, k):
            T[i, j] = 0.0
    for i in range(k):  # T L⁻¹, row by row
        for j in range(k - 1, -1, -1):
            total = T[i, j]
            for a in range(j + 1, k):
                total -= P_bar[i, a] * L[place + a * k + j]
            P_bar[i, j] = total / L[place + j * k + j]
    for j in range(k):  # L⁻ᵀ of it, column by column
        for i in range(k - 1, -1, -1):
            total = P_bar[i, j]
            for a in range(i + 1, k):
                total -= L[place + a * k + i] * P_bar[a, j]
            P_bar[i, j] = total / L[place + i * k + i]


@kernel
def forward_factor(k: int, lam: Array, at: int, maps: Maps, f: int, g: Array, z: Array, out: Found) -> float:
    """Effects of all levels of one factor from their z; returns the sum of −½b'b − log|L|."""
    value = 0.0
    if k > 1:
        for level in range(maps.start[f], maps.start[f + 1]):
            value += forward_level(k, lam, at, maps.S, maps.at[level], g, z, maps.first[level], out)
        return value
    sd = lam[at]
    for level in range(maps.start[f], maps.start[f + 1]):
        place, row = maps.at[level], maps.first[level]
        root = math.sqrt(1.0 + sd * sd * maps.S[place])
        half = sd * g[row] / root
        b = (half + z[row]) / root
        out.L[place], out.half[row], out.b[row], out.u[row] = root, half, b, sd * b
        value -= 0.5 * b * b + math.log(root)
    return value


@kernel
def backward_factor(
    k: int,
    lam: Array,
    at: int,
    maps: Maps,
    f: int,
    g: Array,
    found: Found,
    u_bar: Array,
    lam_bar: Array,
    g_bar: Array,
    z_bar: Array,
) -> None:
    """Cotangents of λ (added), g and z of all levels of one factor."""
    if k > 1:
        work = np.empty((4, k, k))
        for level in range(maps.start[f], maps.start[f + 1]):
            backward_level(
                k, lam, at, maps.S, maps.at[level], g, maps.first[level], found, u_bar, lam_bar, g_bar, z_bar, work
            )
        return
    sd, total = lam[at], 0.0
    for level in range(maps.start[f], maps.start[f + 1]):
        place, row = maps.at[level], maps.first[level]
        root, b = found.L[place], found.b[row]
        z_bar[row] = (sd * u_bar[row] - b) / root
        along = z_bar[row] / root
        g_bar[row] = sd * along
        P_bar = -0.5 * (b * z_bar[row] + along * found.half[row] + 1.0 / root) / root
        total += u_bar[row] * b + g[row] * along + 2.0 * sd * maps.S[place] * P_bar
    lam_bar[at] += total
