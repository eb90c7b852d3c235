"""Adaptive Gauss-Hermite quadrature of the effects of one grouping factor, with its exact gradient.

For each level, with b̂ the mode of f(b) = Σ ℓ(η) − ½b'b, M = LL' its curvature, T = L⁻ᵀ, and nodes x with weights ω of
∫ exp(−x²) dx per dimension (Pinheiro and Bates 1995, J. Comput. Graph. Statist. 4(1))

    log ∫ exp(f(b)) db/(2π)^{k/2} ≈ −½ log|M| + log Σ_j ω_j π^{−k/2} exp(x_j'x_j + f(b̂ + √2 T x_j))

One node is Laplace's approximation. The gradient follows the nodes: through b̂ as in `laplace`, through T by the pullback
of the Cholesky factor.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.dense import cholesky_in_place, lower_inverse
from bayeslmm.exact.laplace import Curve, Observed, at_row

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class Nodes(NamedTuple):
    """Nodes (J, k) and the logs of their weights, exp(x'x) π^{−k/2} included."""

    x: Array
    log_weight: Array


class Bars(NamedTuple):
    """The value and its derivatives by λ (k, k), β, and row by row a and ζ."""

    value: float
    lam: Array
    beta: Array
    aux: Array
    zeta: Array


def nodes_of(count: int, dimensions: int) -> Nodes:
    """A product grid of Gauss-Hermite nodes."""
    x, w = np.polynomial.hermite.hermgauss(count)
    log_w = np.log(w) + x**2 - 0.5 * math.log(math.pi)
    grid = np.meshgrid(*[np.arange(count)] * dimensions, indexing="ij")
    index = np.stack([g.ravel() for g in grid], axis=1)
    return Nodes(np.ascontiguousarray(x[index]), log_w[index].sum(axis=1))


@kernel
def pullback_of_inverse_root(L: Array, T_bar: Array, logdet_bar: float) -> Array:
    """Cotangent of M = LL' (symmetric) for cotangents of T = L⁻ᵀ and of log|M|."""
    k = L.shape[0]
    inverse = lower_inverse(L)
    L_bar = -np.dot(np.dot(inverse.T, T_bar.T), inverse.T)
    for i in range(k):
        L_bar[i, i] += 2.0 * logdet_bar / L[i, i]
    phi = np.dot(L.T, np.tril(L_bar))
    for i in range(k):
        for j in range(k):
            phi[i, j] = 0.0 if j > i else phi[i, j] * (0.5 if i == j else 1.0)
    M_bar = np.dot(np.dot(inverse.T, phi), inverse)
    return 0.5 * (M_bar + M_bar.T)


@kernel
def level_curvature(z: Array, w: Array, lam: Array) -> tuple[Array, Array]:
    """A = Z'WZ of one level and the Cholesky factor of λ'Aλ + I (NaN where there is none)."""
    k = z.shape[1]
    A = np.dot(z.T * w, z)
    L = np.dot(np.dot(lam.T, A), lam) + np.eye(k)
    logdet = cholesky_in_place(L)
    return A, np.tril(L) if np.isfinite(logdet) else np.full((k, k), np.nan)


@kernel
def at_nodes(
    d: Observed, rows: Index, fixed: Array, zl: Array, z: Array, b: Array, T: Array, a: float, nodes: Nodes, out: Bars
) -> tuple[float, Array, Array]:
    """The level's log sum over nodes; cotangents of b̂ and T. Adds the direct ones to `out`."""
    count, k = nodes.x.shape
    n = rows.size
    f = np.empty(count)
    first, aux, zeta = np.empty((count, n)), np.empty((count, n)), np.empty((count, n))
    at = np.empty((count, k))
    for j in range(count):
        at[j] = b + math.sqrt(2.0) * np.dot(T, nodes.x[j])
        f[j] = nodes.log_weight[j] - 0.5 * np.dot(at[j], at[j])
        for i in range(n):
            row = rows[i]
            eta = fixed[row] + np.dot(zl[i], at[j])
            whole = at_row(d, row, eta, a)
            f[j] += d.weights[row] * whole.density.value
            first[j, i] = d.weights[row] * whole.density.first
            aux[j, i] = d.weights[row] * whole.density.value_aux
            zeta[j, i] = d.weights[row] * whole.value_zero
    top = f.max()
    p = np.exp(f - top)
    total = p.sum()
    p /= total
    b_bar, T_bar = np.zeros(k), np.zeros((k, k))
    for j in range(count):
        slope = p[j] * np.dot(first[j], z)
        out.lam[:, :] += np.outer(slope, at[j])
        r = p[j] * (np.dot(first[j], zl) - at[j])
        b_bar += r
        T_bar += math.sqrt(2.0) * np.outer(r, nodes.x[j])
        for i in range(n):
            out.beta[:] += p[j] * first[j, i] * d.X[rows[i]]
            out.aux[rows[i]] += p[j] * aux[j, i]
            if d.zeros:
                out.zeta[rows[i]] += p[j] * zeta[j, i]
    return top + math.log(total), b_bar, T_bar


@kernel
def adaptive(
    d: Observed,
    columns: Array,
    order: Index,
    start: Index,
    lam: Array,
    fixed: Array,
    b: Array,
    at: Curve,
    a: float,
    expected: bool,
    nodes: Nodes,
) -> Bars:
    """The log-likelihood and its gradient; `b` (levels, k) the modes, `at` the derivatives there."""
    k = columns.shape[1]
    n = fixed.size
    out = Bars(0.0, np.zeros((k, k)), np.zeros(d.X.shape[1]), np.zeros(n), np.zeros(n if d.zeros else 0))
    value = 0.0
    for level in range(start.size - 1):
        rows = order[start[level] : start[level + 1]]
        z = columns[rows]
        zl = np.dot(z, lam)
        A, L = level_curvature(z, at.weight[rows], lam)
        if not np.isfinite(L[0, 0]):
            return Bars(np.nan, out.lam, out.beta, out.aux, out.zeta)
        inverse = lower_inverse(L)
        sum_, b_bar, T_bar = at_nodes(d, rows, fixed, zl, z, b[level], inverse.T.copy(), a, nodes, out)
        value += sum_ - np.log(np.diag(L)).sum()
        M_bar = pullback_of_inverse_root(L, T_bar, -0.5)
        out.lam[:, :] += 2.0 * np.dot(np.dot(A, lam), M_bar)
        w_bar = np.empty(rows.size)
        for i in range(rows.size):
            w_bar[i] = np.dot(zl[i], np.dot(M_bar, zl[i]))
        c = w_bar * at.change[rows]
        observed = at.observed[rows]
        root = level_curvature(z, observed, lam)[1] if expected else L
        half = lower_inverse(root)
        adjoint = np.dot(half.T, np.dot(half, np.dot(c, zl) + b_bar))
        t = np.dot(zl, adjoint)
        v = c - observed * t
        for i in range(rows.size):
            out.beta[:] += v[i] * d.X[rows[i]]
        out.lam[:, :] += np.outer(np.dot(v, z), b[level]) + np.outer(np.dot(at.first[rows], z), adjoint)
        out.aux[rows] += w_bar * at.change_aux[rows] + t * at.first_aux[rows]
        if d.zeros:
            out.zeta[rows] += w_bar * at.change_zero[rows] + t * at.first_zero[rows]
    return Bars(value, out.lam, out.beta, out.aux, out.zeta)
