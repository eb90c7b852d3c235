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
from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.dense import backward, cholesky_in_place, forward, inverse_from
from bayeslmm.exact.factor import Factor, System, factorise
from bayeslmm.exact.products import Products
from bayeslmm.exact.pullback import BLAS_FROM, pullback

Array = NDArray[np.float64]
LOG_2PI = float(np.log(2.0 * np.pi))
# Residual sum of squares, as a share of what the fixed part leaves, under which only rounding is left.
EXACT_FIT = 1e-13
NO_RESIDUAL = (
    "the random effects reproduce the response exactly (residual variance 0), so the likelihood is unbounded; "
    "there is no residual to estimate. Remove a term, or check for a group that holds one value each"
)


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


@kernel
def gram(Y: Array) -> Array:
    """Y'Y."""
    rows, r = Y.shape
    if r >= BLAS_FROM:
        return np.dot(Y.T, Y)
    out = np.zeros((r, r))
    for row in range(rows):
        for i in range(r):
            for j in range(i + 1):
                out[i, j] += Y[row, i] * Y[row, j]
    for i in range(r):
        for j in range(i):
            out[j, i] = out[i, j]
    return out


@kernel
def marginal(s: System, lam: Array) -> Marginal:
    """Log-determinant and Schur complement at λ."""
    factor = factorise(s, lam)
    return Marginal(factor.logdet, s.C - gram(factor.Y), factor)


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
            raise ExactFitError(NO_RESIDUAL)
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
