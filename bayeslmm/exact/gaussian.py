"""Gaussian marginal densities from two quantities, logdet(θ) = log|M| and S(θ) = C − B'U, and their pullback.

M(θ) = Λ'AΛ + I, V = M⁻¹Λ'B, U = ΛV. For cotangents ḡ of logdet and Ḡ of S:

    Λ̄ = 2ḡ (AΛM⁻¹) + 2(AU − B) Ḡ V'   on the pattern of Λ, summed over levels
    Ā = ḡ ΛM⁻¹Λ' + U Ḡ U',   B̄ = −2UḠ,   C̄ = Ḡ

With r² = syy − sxy'Sxx⁻¹sxy the criteria are (Bates, Mächler, Bolker & Walker 2015, J. Stat. Softw. 67(1), eqs 30–42)

    ML    logdet − Σ log w + n (1 + log(2π r²/n))
    REML  logdet − Σ log w + log|Sxx| + (n − p)(1 + log(2π r²/(n − p)))
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.errors import ExactFitError
from bayeslmm.exact.factor import (
    Factor,
    Inverse,
    System,
    back_solve,
    factorise,
    kernel,
    selected_inverse,
    times_lambda,
)
from bayeslmm.exact.products import Products

Array = NDArray[np.float64]
LOG_2PI = float(np.log(2.0 * np.pi))
# Residual sum of squares, as a share of what the fixed part leaves, under which only rounding is left.
EXACT_FIT = 1e-13


class Marginal(NamedTuple):
    """logdet and S at one θ, with the factor they came from."""

    logdet: float
    S: Array  # (p + 1, p + 1)
    factor: Factor


class Profile(NamedTuple):
    """β, σ and the criterion maximised over them, in the scale of the products."""

    value: float
    beta: Array  # (p,)
    rss: float
    gbar: float
    Gbar: Array


class ProductsBar(NamedTuple):
    """Cotangents of the products, laid out as A11, A21, A22, B and C."""

    A11: Array
    A21: Array
    A22: Array
    B: Array
    C: Array


@kernel
def marginal(s: System, lam: Array) -> Marginal:
    """Log-determinant and Schur complement at λ."""
    factor = factorise(s, lam)
    return Marginal(factor.logdet, s.C - np.dot(factor.Y.T, factor.Y), factor)


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
def add_block(A: Array, a: int, ka: int, kb: int, turn: bool, lam: Array, lb: int, I: Array, b: int, flip: bool,
              kc: int, out: Array, at: int, scale: float) -> None:
    """out += scale · A_block λ_b I_block for ka × kb, kb × kb and kb × kc; `turn`, `flip` read A, I transposed."""
    for i in range(ka):
        for c in range(kb):
            left = 0.0
            for j in range(c, kb):
                left += (A[a + j * ka + i] if turn else A[a + i * kb + j]) * lam[lb + j * kb + c]
            for o in range(min(kc, i + 1)):
                out[at + i * kc + o] += scale * left * (I[b + o * kb + c] if flip else I[b + c * kc + o])


@kernel
def logdet_pullback(s: System, lam: Array, inverse: Inverse, scale: float, out: Array) -> None:
    """out += scale · AΛM⁻¹ in the pattern of λ, summed over levels."""
    k = s.A11.shape[1]
    A11, I11 = s.A11.ravel(), inverse.I11.ravel()
    for level in range(s.A11.shape[0]):
        at = level * k * k
        add_block(A11, at, k, k, False, lam, 0, I11, at, False, k, out, 0, scale)
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
    add_outer(s, np.dot(gradient, 0.5 * (Gbar + Gbar.T)), V, 2.0, out)
    if gbar != 0.0:
        logdet_pullback(s, lam, selected_inverse(s, factor), 2.0 * gbar, out)
    return out


@kernel
def sandwich(lam: Array, left: int, kl: int, I: Array, at: int, right: int, kr: int, out: Array, scale: float) -> None:
    """out = scale · λ_left I_block λ_right'."""
    for i in range(kl):
        for j in range(kr):
            total = 0.0
            for a in range(i + 1):
                for b in range(j + 1):
                    total += lam[left + i * kl + a] * I[at + a * kr + b] * lam[right + j * kr + b]
            out[at + i * kr + j] = scale * total


@kernel
def products_pullback(s: System, lam: Array, factor: Factor, gbar: float, Gbar: Array) -> ProductsBar:
    """Cotangents of A (on its pattern; off-diagonal blocks count both triangles), B and C."""
    G = 0.5 * (Gbar + Gbar.T)
    inverse = selected_inverse(s, factor)
    U = times_lambda(s, lam, back_solve(s, factor, factor.Y))
    UG = np.dot(U, G)
    q, k = s.A11.shape[0], s.A11.shape[1]
    r = U.shape[1]
    A11, A21, A22 = np.zeros(s.A11.size), np.zeros_like(s.A21), np.zeros_like(s.A22)
    for level in range(q):
        sandwich(lam, 0, k, inverse.I11.ravel(), level * k * k, 0, k, A11, gbar)
        for i in range(k):
            for j in range(k):
                for c in range(r):
                    A11[level * k * k + i * k + j] += UG[level * k + i, c] * U[level * k + j, c]
        for link in range(s.link_ptr[level], s.link_ptr[level + 1]):
            f, at, row = s.link_factor[link], s.link_at[link], q * k + s.link_row[link]
            sandwich(lam, s.lam_at[f], s.width[f], inverse.I21, at, 0, k, A21, 2.0 * gbar)
            for i in range(s.width[f]):
                for j in range(k):
                    for c in range(r):
                        A21[at + i * k + j] += 2.0 * UG[row + i, c] * U[level * k + j, c]
    for block in range(s.rest_row.size):
        f, g, at = s.rest_row_factor[block], s.rest_col_factor[block], s.rest_at[block]
        row, column = q * k + s.rest_row[block], q * k + s.rest_col[block]
        both = 1.0 if row == column else 2.0
        sandwich(lam, s.lam_at[f], s.width[f], inverse.I22, at, s.lam_at[g], s.width[g], A22, both * gbar)
        for i in range(s.width[f]):
            for j in range(s.width[g]):
                for c in range(r):
                    A22[at + i * s.width[g] + j] += both * UG[row + i, c] * U[column + j, c]
    return ProductsBar(A11.reshape(s.A11.shape), A21, A22, -2.0 * UG, G)


@kernel
def profile(S: Array, logdet: float, n: int, reml: bool) -> Profile:
    """Criterion with β and σ profiled out, and its cotangents of logdet and S."""
    p = S.shape[0] - 1
    L = S[:p, :p].copy()
    logdet_x = 0.0
    beta = S[:p, p].copy()
    rss = S[p, p]
    G = np.zeros((p + 1, p + 1))
    if p > 0:
        logdet_x = cholesky_in_place(L)
        forward(L, beta)
        rss -= np.dot(beta, beta)
        backward(L, beta)
    degrees = n - p if reml else n
    value = logdet + degrees * (1.0 + LOG_2PI + np.log(rss / degrees))
    weight = degrees / rss
    for i in range(p):
        for j in range(p):
            G[i, j] = weight * beta[i] * beta[j]
        G[i, p] = -weight * beta[i]
        G[p, i] = G[i, p]
    G[p, p] = weight
    if reml and p > 0:
        value += logdet_x
        G[:p, :p] += inverse_from(L)
    return Profile(value, beta, rss, 1.0, G)


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
def criterion(s: System, lam: Array, n: int, reml: bool) -> float:
    """ML or REML criterion at λ, in the scale of the products."""
    at = marginal(s, lam)
    return profile(at.S, at.logdet, n, reml).value


@kernel
def criterion_gradient(s: System, lam: Array, n: int, reml: bool) -> tuple[float, Array]:
    """ML or REML criterion and its gradient in `lam`, one factorisation for both."""
    at = marginal(s, lam)
    fitted = profile(at.S, at.logdet, n, reml)
    return fitted.value, pullback(s, lam, at.factor, fitted.gbar, fitted.Gbar)


class Gaussian:
    """The marginal densities of one design, as functions of public theta.

    Parameters
    ----------
    products : Products
        Cross-products of the design.

    Notes
    -----
    `deviance` is −2 log-likelihood with the full Gaussian constants: for REML with (n − p) log 2π, as in lme4.
    """

    def __init__(self, products: Products) -> None:
        self.products = products
        p, scale = products.n_fixed, np.log(products.y_scale)
        self._constant = {
            False: 2.0 * products.nobs * scale - products.sum_log_weights,
            True: 2.0 * (products.nobs - p) * scale - products.sum_log_weights + 2.0 * products.logdet_R,
        }

    def marginal(self, theta: Array) -> Marginal:
        """logdet and S at theta, in the scale of the products."""
        return marginal(self.products.system, self.products.lam(theta))

    def deviance(self, theta: Array, reml: bool = True) -> float:
        """−2 log-likelihood (or restricted), β and σ profiled out."""
        value = criterion(self.products.system, self.products.lam(theta), self.products.nobs, reml)
        return value + self._constant[reml]

    def deviance_gradient(self, theta: Array, reml: bool = True) -> tuple[float, Array]:
        """`deviance` and its gradient in theta."""
        lam = self.products.lam(theta)
        value, gradient = criterion_gradient(self.products.system, lam, self.products.nobs, reml)
        return value + self._constant[reml], self.products.theta_bar(gradient)

    def profile(self, theta: Array, reml: bool = True) -> Profile:
        """β and σ at theta, in the scale of the products."""
        at = self.marginal(theta)
        found = profile(at.S, at.logdet, self.products.nobs, reml)
        if not found.rss > EXACT_FIT * self.products.system.C[-1, -1]:
            raise ExactFitError(
                "the random effects reproduce the response exactly (residual variance 0), so the likelihood is unbounded; "
                "there is no residual to estimate. Remove a term, or check for a group that holds one value each"
            )
        return found


class Level(NamedTuple):
    """Log density of y at (θ, σ) with β integrated, maximised or given, and its derivatives."""

    value: float
    beta: Array  # conditional mean of β, in the scale of Q
    gbar: float
    Gbar: Array
    sigma_bar: float
    P: Array  # lower factor of β's conditional precision


INTEGRATED, JOINT = 0, 1


@kernel
def level(S: Array, logdet: float, n: int, sigma: float, T: Array, t: Array, mode: int) -> Level:
    """−½[logdet + n log 2πσ² + syy/σ² + t't − m̃'Pm̃ (+ log|P| − p log 2π if β is integrated)].

    The prior on β is exp(−½‖Tβ − t‖²) in the scale of Q: P = Sxx/σ² + T'T, m̃ = P⁻¹(sxy/σ² + T't).
    """
    p = S.shape[0] - 1
    tau = 1.0 / (sigma * sigma)
    P = tau * S[:p, :p] + np.dot(T.T, T)
    beta = tau * S[:p, p] + np.dot(T.T, t)
    G = np.zeros((p + 1, p + 1))
    value = logdet + n * (LOG_2PI - np.log(tau)) + tau * S[p, p] + np.dot(t, t)
    tau_bar = -n / tau + S[p, p]
    if p > 0:
        logdet_P = cholesky_in_place(P)
        forward(P, beta)
        value -= np.dot(beta, beta)
        backward(P, beta)
        if mode == INTEGRATED:
            value += logdet_P - p * LOG_2PI
            G[:p, :p] = inverse_from(P)
        for i in range(p):
            for j in range(p):
                G[i, j] += beta[i] * beta[j]
                tau_bar += G[i, j] * S[i, j]
            G[i, p] = -beta[i]
            G[p, i] = -beta[i]
            tau_bar -= 2.0 * beta[i] * S[i, p]
    G[p, p] = 1.0
    return Level(-0.5 * value, beta, -0.5, -0.5 * tau * G, tau_bar * tau / sigma, P)


@kernel
def level_at(S: Array, logdet: float, n: int, sigma: float, beta: Array) -> tuple[float, float, Array, float, Array]:
    """Log density of y at (β, θ, σ); derivatives by logdet, S, σ and β (β in the scale of Q)."""
    p = beta.size
    tau = 1.0 / (sigma * sigma)
    contrast = np.empty(p + 1)
    contrast[:p] = -beta
    contrast[p] = 1.0
    product = np.dot(S, contrast)
    rss = np.dot(contrast, product)
    value = -0.5 * (logdet + n * (LOG_2PI - np.log(tau)) + tau * rss)
    G = -0.5 * tau * np.outer(contrast, contrast)
    return value, -0.5, G, (tau * rss - n) / sigma, tau * product[:p]
