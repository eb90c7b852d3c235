"""The density of one response given its linear predictor η, with the derivatives that Laplace's approximation needs.

For a response y with trials m and dispersion φ = exp(a), ℓ(η, a) = log f(y | η, φ):

    value ℓ, first ∂ℓ/∂η, second ∂²ℓ/∂η², third ∂³ℓ/∂η³, the expected information i = −E ∂²ℓ/∂η² with ∂i/∂η, ∂i/∂a,
    and ∂ℓ/∂a, ∂²ℓ/∂η∂a, ∂³ℓ/∂η²∂a

Binomial responses go through log μ and log(1 − μ) as functions of η, so that no tail loses its digits; the others through
derivatives of ℓ in μ and of μ in η.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.special import (
    HALF_LOG_2PI,
    digamma,
    log_choose,
    log_normal_cdf,
    log_one_plus_exp,
    mills,
    rise,
    tetragamma,
    trigamma,
)

Array = NDArray[np.float64]

GAUSSIAN, BINOMIAL, POISSON, GAMMA, WALD, NEGATIVE_BINOMIAL, BETA, BETA_BINOMIAL, LINEAR_NEGATIVE_BINOMIAL = range(9)
STUDENT_T, CUMULATIVE = 9, 10  # have a further parameter ζ: see `student` and `ordinal`
IDENTITY, LOGIT, PROBIT, CLOGLOG, CAUCHIT, LOG, SQRT, INVERSE, INVERSE_SQUARED = range(9)


class Density(NamedTuple):
    """ℓ and its derivatives at one η."""

    value: float
    first: float
    second: float
    third: float
    information: float
    information_eta: float
    information_aux: float
    value_aux: float
    first_aux: float
    second_aux: float


class Zeroed(NamedTuple):
    """ℓ with its derivatives in η and a, ∂ℓ/∂ζ, ∂²ℓ/∂η∂ζ, ∂³ℓ/∂η²∂ζ, and of the information ∂i/∂ζ."""

    density: Density
    value_zero: float
    first_zero: float
    second_zero: float
    information_zero: float


class Mean(NamedTuple):
    """The mean and its derivatives in η."""

    value: float
    first: float
    second: float
    third: float


@kernel
def mean(link: int, eta: float) -> Mean:
    """μ = g⁻¹(η)."""
    if link == LOG:
        mu = math.exp(eta)
        return Mean(mu, mu, mu, mu)
    if link == LOGIT:
        mu = 1.0 / (1.0 + math.exp(-eta))
        v = mu / (1.0 + math.exp(eta))
        return Mean(mu, v, v * (1.0 - 2.0 * mu), v * (1.0 - 6.0 * v))
    if link == PROBIT:
        density = math.exp(-0.5 * eta * eta - HALF_LOG_2PI)
        return Mean(0.5 * math.erfc(-eta / math.sqrt(2.0)), density, -eta * density, (eta * eta - 1.0) * density)
    if link == CLOGLOG:
        t = math.exp(eta)
        slope = t * math.exp(-t)
        return Mean(-math.expm1(-t), slope, slope * (1.0 - t), slope * (1.0 - 3.0 * t + t * t))
    if link == CAUCHIT:
        slope = 1.0 / (math.pi * (1.0 + eta * eta))
        square = math.pi * slope
        return Mean(
            math.atan2(1.0, -eta) / math.pi,
            slope,
            -2.0 * eta * slope * square,
            (6.0 * eta * eta - 2.0) * slope * square * square,
        )
    if link == SQRT:
        return Mean(eta * eta, 2.0 * eta, 2.0, 0.0)
    if link == INVERSE:
        mu = 1.0 / eta
        return Mean(mu, -mu * mu, 2.0 * mu**3, -6.0 * mu**4)
    if link == INVERSE_SQUARED:
        mu = eta**-0.5
        return Mean(mu, -0.5 * mu**3, 0.75 * mu**5, -1.875 * mu**7)
    return Mean(eta, 1.0, 0.0, 0.0)


@kernel
def log_probability(link: int, eta: float) -> Mean:
    """log μ and its derivatives in η, for a link onto (0, 1)."""
    if link == LOGIT:
        mu = 1.0 / (1.0 + math.exp(-eta))
        rest = 1.0 / (1.0 + math.exp(eta))
        v = mu * rest
        return Mean(-log_one_plus_exp(-eta), rest, -v, -v * (rest - mu))
    if link == PROBIT:
        ratio = mills(eta)
        second = -ratio * (eta + ratio)
        return Mean(log_normal_cdf(eta), ratio, second, -ratio - eta * second - 2.0 * ratio * second)
    if link == CLOGLOG:
        t = math.exp(eta)
        if t > 700.0:
            return Mean(-math.exp(-t), 0.0, 0.0, 0.0)
        first = t / math.expm1(t) if t > 0.0 else 1.0
        change = 1.0 - first - t if t > 1e-3 else t * (-0.5 - t * (1 / 12 - t * t / 720))
        second = first * change
        return Mean(math.log(-math.expm1(-t)), first, second, second * change - first * (second + t))
    mu = mean(link, eta)
    first = mu.first / mu.value
    second = mu.second / mu.value - first * first
    third = mu.third / mu.value - 3.0 * first * mu.second / mu.value + 2.0 * first**3
    return Mean(math.log(mu.value), first, second, third)


@kernel
def log_complement(link: int, eta: float) -> Mean:
    """log(1 − μ) and its derivatives in η, for a link onto (0, 1)."""
    if link == CLOGLOG:
        t = math.exp(eta)
        return Mean(-t, -t, -t, -t)
    turned = log_probability(link, -eta)  # the other links are symmetric
    return Mean(turned.value, -turned.first, turned.second, -turned.third)


@kernel
def binomial_logit(y: float, trials: float, eta: float) -> Density:
    """The canonical case, with one exponential and one logarithm."""
    e = math.exp(-abs(eta))
    share = 1.0 / (1.0 + e)
    mu = share if eta > 0.0 else e * share
    v = trials * e * share * share
    slope = v * (1.0 - 2.0 * mu)
    value = y * min(eta, 0.0) - (trials - y) * max(eta, 0.0) - trials * math.log1p(e)
    if trials != 1.0:
        value += log_choose(trials, y)
    return Density(value, y - trials * mu, -v, -slope, v, slope, 0.0, 0.0, 0.0, 0.0)


@kernel
def binomial(link: int, y: float, trials: float, eta: float) -> Density:
    """Successes y out of `trials`."""
    if link == LOGIT:
        return binomial_logit(y, trials, eta)
    one, none = log_probability(link, eta), log_complement(link, eta)
    rest = trials - y
    value, first, second, third = 0.0, 0.0, 0.0, 0.0
    if y > 0.0:  # at y = 0 the term is 0 also where log μ is −∞
        value, first, second, third = y * one.value, y * one.first, y * one.second, y * one.third
    if rest > 0.0:
        value, first = value + rest * none.value, first + rest * none.first
        second, third = second + rest * none.second, third + rest * none.third
    if trials != 1.0:
        value += log_choose(trials, y)
    # μ'²/(μ(1 − μ)) = −(log μ)' (log(1 − μ))'
    information = -trials * one.first * none.first
    slope = -trials * (one.second * none.first + one.first * none.second)
    return Density(value, first, second, third, information, slope, 0.0, 0.0, 0.0, 0.0)


@kernel
def through_mean(
    mu: Mean,
    value: float,
    l1: float,
    l2: float,
    l3: float,
    i: float,
    i1: float,
    ia: float,
    la: float,
    l1a: float,
    l2a: float,
) -> Density:
    """From derivatives of ℓ and of its information i in μ (and a) to those in η."""
    square = mu.first * mu.first
    return Density(
        value,
        l1 * mu.first,
        l2 * square + l1 * mu.second,
        l3 * square * mu.first + 3.0 * l2 * mu.first * mu.second + l1 * mu.third,
        i * square,
        i1 * square * mu.first + 2.0 * i * mu.first * mu.second,
        ia * square,
        la,
        l1a * mu.first,
        l2a * square + l1a * mu.second,
    )


@kernel
def gaussian(mu: Mean, y: float, a: float) -> Density:
    """Normal with standard deviation e^a."""
    tau = math.exp(-2.0 * a)
    e = y - mu.value
    value = -HALF_LOG_2PI - a - 0.5 * tau * e * e
    la = tau * e * e - 1.0
    return through_mean(mu, value, tau * e, -tau, 0.0, tau, 0.0, -2.0 * tau, la, -2.0 * tau * e, 2.0 * tau)


@kernel
def poisson(link: int, y: float, eta: float) -> Density:
    """Counts with mean μ."""
    if link == LOG:
        mu = math.exp(eta)
        return Density(y * eta - mu - math.lgamma(y + 1.0), y - mu, -mu, -mu, mu, mu, 0.0, 0.0, 0.0, 0.0)
    at = mean(link, eta)
    m = at.value
    if not m > 0.0:
        return through_mean(at, -np.inf, np.nan, np.nan, np.nan, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0)
    value = (y * math.log(m) if y > 0.0 else 0.0) - m - math.lgamma(y + 1.0)
    return through_mean(at, value, y / m - 1.0, -y / m**2, 2.0 * y / m**3, 1.0 / m, -1.0 / m**2, 0.0, 0.0, 0.0, 0.0)


@kernel
def gamma(mu: Mean, y: float, a: float) -> Density:
    """Gamma with mean μ and shape α = e^a (variance μ²/α)."""
    alpha, m = math.exp(a), mu.value
    if not m > 0.0:
        return through_mean(mu, -np.inf, np.nan, np.nan, np.nan, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0)
    log_ratio = math.log(y / m)
    value = alpha * (a + log_ratio - y / m) - math.log(y) - math.lgamma(alpha)
    la = alpha * (a + 1.0 + log_ratio - y / m - digamma(alpha))
    l1, l2 = alpha * (y - m) / m**2, alpha * (m - 2.0 * y) / m**3
    l3, i = alpha * (6.0 * y - 2.0 * m) / m**4, alpha / m**2
    return through_mean(mu, value, l1, l2, l3, i, -2.0 * i / m, i, la, l1, l2)


@kernel
def wald(mu: Mean, y: float, a: float) -> Density:
    """Inverse Gaussian with mean μ and shape λ = e^a (variance μ³/λ)."""
    shape, m = math.exp(a), mu.value
    if not m > 0.0:
        return through_mean(mu, -np.inf, np.nan, np.nan, np.nan, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0)
    gap = (y - m) ** 2 / (2.0 * m**2 * y)
    value = 0.5 * a - HALF_LOG_2PI - 1.5 * math.log(y) - shape * gap
    l1, l2 = shape * (y - m) / m**3, shape * (2.0 * m - 3.0 * y) / m**4
    l3, i = shape * (12.0 * y - 6.0 * m) / m**5, shape / m**3
    return through_mean(mu, value, l1, l2, l3, i, -3.0 * i / m, i, 0.5 - shape * gap, l1, l2)


@kernel
def negative_binomial(mu: Mean, y: float, a: float) -> Density:
    """Negative binomial with mean μ and variance μ + μ²/α, α = e^a."""
    alpha, m = math.exp(a), mu.value
    if not m > 0.0:
        return through_mean(mu, -np.inf, np.nan, np.nan, np.nan, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0)
    s = m + alpha
    # (y + α) log(1 + m/α) in place of (y + α) log(m + α) − (y + α) log α
    up = rise(alpha, y)
    value = up.log_gamma - math.lgamma(y + 1.0)
    value += (y * math.log(m) if y > 0.0 else 0.0) - (y + alpha) * math.log1p(m / alpha)
    l1, l2 = y / m - (y + alpha) / s, (y + alpha) / s**2 - y / m**2
    l3, i = 2.0 * y / m**3 - 2.0 * (y + alpha) / s**3, alpha / (m * s)
    i1, ia = -alpha * (m + s) / (m * s) ** 2, alpha / s**2
    la = alpha * (up.digamma - math.log1p(m / alpha) + (m - y) / s)
    l1a = alpha * (y - m) / s**2
    l2a = alpha * (1.0 / s**2 - 2.0 * (y + alpha) / s**3)
    return through_mean(mu, value, l1, l2, l3, i, i1, ia, la, l1a, l2a)


@kernel
def beta(mu: Mean, y: float, a: float) -> Density:
    """Beta with mean μ and precision κ = e^a (variance μ(1 − μ)/(1 + κ))."""
    kappa, m = math.exp(a), mu.value
    p, q = m * kappa, (1.0 - m) * kappa
    if not (p > 0.0 and q > 0.0):
        return through_mean(mu, -np.inf, np.nan, np.nan, np.nan, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0)
    log_y, log_rest = math.log(y), math.log1p(-y)
    value = math.lgamma(kappa) - math.lgamma(p) - math.lgamma(q) + (p - 1.0) * log_y + (q - 1.0) * log_rest
    psi, psi1, psi2 = digamma(p) - digamma(q), trigamma(p) + trigamma(q), tetragamma(p) - tetragamma(q)
    cross1 = m * trigamma(p) - (1.0 - m) * trigamma(q)
    cross2 = m * tetragamma(p) + (1.0 - m) * tetragamma(q)
    l1, l2, l3 = kappa * (log_y - log_rest - psi), -(kappa**2) * psi1, -(kappa**3) * psi2
    la = kappa * (digamma(kappa) - m * digamma(p) - (1.0 - m) * digamma(q) + m * log_y + (1.0 - m) * log_rest)
    l1a, l2a = l1 - kappa**2 * cross1, 2.0 * l2 - kappa**3 * cross2
    return through_mean(mu, value, l1, l2, l3, -l2, -l3, -l2a, la, l1a, l2a)


@kernel
def beta_binomial(mu: Mean, y: float, trials: float, a: float) -> Density:
    """Successes whose probability is Beta with mean μ and precision κ = e^a; no information in closed form (NaN)."""
    kappa, m = math.exp(a), mu.value
    p, q, rest = m * kappa, (1.0 - m) * kappa, trials - y
    if not (p > 0.0 and q > 0.0):
        return through_mean(mu, -np.inf, np.nan, np.nan, np.nan, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0)
    up, down, both = rise(p, y), rise(q, rest), rise(kappa, trials)
    value = log_choose(trials, y) + up.log_gamma + down.log_gamma - both.log_gamma
    value += (y * math.log(m) if y > 0.0 else 0.0) + (rest * math.log1p(-m) if rest > 0.0 else 0.0)
    l1, l2 = kappa * (up.digamma - down.digamma), kappa**2 * (up.trigamma + down.trigamma)
    l3 = kappa**3 * (up.tetragamma - down.tetragamma)
    la = kappa * (m * up.digamma + (1.0 - m) * down.digamma - both.digamma)
    l1a = l1 + kappa**2 * (m * up.trigamma - (1.0 - m) * down.trigamma)
    l2a = 2.0 * l2 + kappa**3 * (m * up.tetragamma + (1.0 - m) * down.tetragamma)
    return through_mean(mu, value, l1, l2, l3, np.nan, np.nan, np.nan, la, l1a, l2a)


@kernel
def linear_negative_binomial(mu: Mean, y: float, a: float) -> Density:
    """Negative binomial with mean μ and variance μ(1 + φ), φ = e^a; no information in closed form (NaN)."""
    phi, m = math.exp(a), mu.value
    if not m > 0.0:
        return through_mean(mu, -np.inf, np.nan, np.nan, np.nan, np.nan, 0.0, 0.0, 0.0, 0.0, 0.0)
    r, log_one = m / phi, math.log1p(phi)
    up = rise(r, y)
    value = up.log_gamma - math.lgamma(y + 1.0) - (r + y) * log_one + (y * math.log(m) if y > 0.0 else 0.0)
    d0, d1, d2 = up.digamma - log_one, up.trigamma, up.tetragamma
    l1, l2, l3 = d0 / phi, d1 / phi**2, d2 / phi**3
    la = -r * d0 + (y - m) / (1.0 + phi)
    l1a = -l1 - r * d1 / phi - 1.0 / (1.0 + phi)
    l2a = -2.0 * l2 - r * d2 / phi**2
    return through_mean(mu, value, l1, l2, l3, np.nan, np.nan, np.nan, la, l1a, l2a)


@kernel
def density(family: int, link: int, y: float, trials: float, eta: float, a: float) -> Density:
    """ℓ and its derivatives at one η; `a` is the log of the dispersion parameter."""
    if family == BINOMIAL:
        return binomial(link, y, trials, eta)
    if family == POISSON:
        return poisson(link, y, eta)
    mu = mean(link, eta)
    if family == GAMMA:
        return gamma(mu, y, a)
    if family == NEGATIVE_BINOMIAL:
        return negative_binomial(mu, y, a)
    if family == BETA:
        return beta(mu, y, a)
    if family == WALD:
        return wald(mu, y, a)
    if family == BETA_BINOMIAL:
        return beta_binomial(mu, y, trials, a)
    if family == LINEAR_NEGATIVE_BINOMIAL:
        return linear_negative_binomial(mu, y, a)
    return gaussian(mu, y, a)


@kernel
def log_densities(family: int, link: int, y: Array, trials: Array, eta: Array, a: float) -> Array:
    """ℓ of every row."""
    out = np.empty(y.size)
    for row in range(y.size):
        out[row] = density(family, link, y[row], trials[row], eta[row], a).value
    return out


@kernel
def means(link: int, eta: Array) -> Array:
    """μ of every row."""
    out = np.empty(eta.size)
    for row in range(eta.size):
        out[row] = mean(link, eta[row]).value
    return out


@kernel
def mean_slopes(link: int, eta: Array) -> Array:
    """∂μ/∂η of every row."""
    out = np.empty(eta.size)
    for row in range(eta.size):
        out[row] = mean(link, eta[row]).first
    return out
