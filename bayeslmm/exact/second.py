"""The parameters of a t response and of ordered categories besides η and the dispersion, as a sampler moves in them.

The last of the further parameters γ is log ν; or γ are τ₁ and the logs of the steps to the next thresholds, as PyMC's log and
ordered transforms have them. Priors are of ν and τ themselves, so the log Jacobian, log ν or the sum of the logs of the steps,
goes with them. The rows' log densities are those of `student` and `ordinal`, up to first derivatives.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.laplace import Observed
from bayeslmm.exact.ordinal import category
from bayeslmm.exact.special import HALF_LOG_2PI
from bayeslmm.exact.student import log_gamma_step

Array = NDArray[np.float64]
NO_SECOND, NU, THRESHOLDS = range(3)


@kernel
def natural_further(kind: int, gamma: Array) -> Array:
    """γ, but ν in place of its logarithm, or the thresholds."""
    out = gamma.copy()
    if kind == NU:
        out[-1] = math.exp(gamma[-1])
    elif kind == THRESHOLDS:
        for k in range(1, gamma.size):
            out[k] = out[k - 1] + math.exp(gamma[k])
    return out


@kernel
def pull_further(kind: int, gamma: Array, bar: Array) -> None:
    """From cotangents of `natural_further` to those of γ, in place."""
    if kind == NU:
        bar[-1] *= math.exp(gamma[-1])
    elif kind == THRESHOLDS:
        total = 0.0
        for k in range(gamma.size - 1, 0, -1):
            total += bar[k]
            bar[k] = total * math.exp(gamma[k])
        bar[0] += total


@kernel
def add_log_jacobian(kind: int, gamma: Array, out: Array) -> float:
    """log |∂ natural/∂γ|; adds its gradient."""
    first = gamma.size
    if kind == NU:
        first = gamma.size - 1
    elif kind == THRESHOLDS:
        first = 1
    value = 0.0
    for k in range(first, gamma.size):
        value += gamma[k]
        out[k] += 1.0
    return value


@kernel
def edges(y: Array, tau: Array) -> tuple[Array, Array]:
    """The upper and lower threshold of each row's category; +∞ of the last, −∞ of the first."""
    upper, lower = np.empty(y.size), np.empty(y.size)
    for row in range(y.size):
        code = int(y[row])
        upper[row] = tau[code] if code < tau.size else np.inf
        lower[row] = tau[code - 1] if code > 0 else -np.inf
    return upper, lower


@kernel
def add_category_terms(d: Observed, tau: Array, eta: Array, first: Array, tau_bar: Array) -> float:
    """Σ w ℓ of categories; fills w ∂ℓ/∂η, adds the derivatives by the thresholds."""
    value = 0.0
    for row in range(eta.size):
        code, w = int(d.y[row]), d.weights[row]
        upper = tau[code] if code < tau.size else np.inf
        lower = tau[code - 1] if code > 0 else -np.inf
        at = category(d.link, eta[row], upper, lower)
        value += w * at.density.value
        first[row] = w * at.density.first
        if code < tau.size:
            tau_bar[code] += w * at.density.value_aux
        if code > 0:
            tau_bar[code - 1] += w * at.value_zero
    return value


@kernel
def add_t_terms(
    d: Observed, W: Array, log_sigma: float, gamma: Array, eta: Array, first: Array, gamma_bar: Array
) -> tuple[float, float]:
    """Σ w ℓ and Σ w ∂ℓ/∂ log σ of t responses; fills w ∂ℓ/∂η, adds the derivatives by γ. One ν: log Γ is taken once."""
    of_sigma, nu = W.shape[1], math.exp(gamma[-1])
    step, step_slope = log_gamma_step(0.5 * nu)
    value, aux, by_nu = 0.0, 0.0, 0.0
    for row in range(eta.size):
        a = log_sigma + d.aux_rows[row]
        for j in range(of_sigma):
            a += W[row, j] * gamma[j]
        tau, e, w = math.exp(-2.0 * a), d.y[row] - eta[row], d.weights[row]
        u = e * e * tau / nu
        s, tail = 1.0 / (1.0 + u), math.log1p(u)
        excess = (nu + 1.0) * u * s
        value += w * (step - HALF_LOG_2PI - a - 0.5 * (nu + 1.0) * tail)
        first[row] = w * (1.0 + 1.0 / nu) * tau * e * s
        own = w * (excess - 1.0)
        aux += own
        for j in range(of_sigma):
            gamma_bar[j] += own * W[row, j]
        by_nu += w * (step_slope - 0.5 * nu * tail + 0.5 * excess)
    gamma_bar[of_sigma] += by_nu
    return value, aux
