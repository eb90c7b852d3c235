"""The probability of a category between two thresholds, P = F(τ − η) − F(λ − η), with its derivatives in η, τ and λ.

F is the inverse of the link, λ = −∞ in the first category and τ = +∞ in the last. With A = τ − η, B = λ − η, δ = τ − λ:

    logit     log P = log F(A) + log F(−B) + log(1 − e^{−δ})
    cloglog   log P = −e^B + log(1 − exp(−e^S)),   S = B + log(e^δ − 1)
    probit    by the moments of a normal variable between B and A: with m its mean, v its variance, κ its third cumulant
              ∂ℓ/∂η = m, ∂²ℓ/∂η² = v − 1, ∂³ℓ/∂η³ = κ; and with α = φ(A)/P
              ∂ℓ/∂τ = α, ∂²ℓ/∂η∂τ = α(A − m), ∂³ℓ/∂η²∂τ = α((A − m)² − v)

so that no tail and no narrow category loses its digits. All three are log-concave in (η, τ, λ).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.densities import CLOGLOG, LOGIT, Density, Zeroed, log_complement, log_probability
from bayeslmm.exact.special import HALF_LOG_2PI, log_normal_cdf, mills

Array = NDArray[np.float64]
Triple = tuple[float, float, float]

# Nodes and weights of Gauss and Legendre on (−1, 1): exact to rounding for exp of a quadratic that moves by 2 at most.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(16)


class Between(NamedTuple):
    """A standard normal variable between B and A: log P, φ(A)/P, φ(B)/P, m, v, κ, A − m and B − m."""

    value: float
    alpha: float
    beta: float
    mean: float
    variance: float
    cumulant: float
    over: float
    under: float


@kernel
def assembled(value: float, eta: Triple, upper: Triple, lower: Triple) -> Zeroed:
    """From the derivatives by η, and those that τ and λ add: ∂ℓ/∂τ, ∂²ℓ/∂η∂τ, ∂³ℓ/∂η²∂τ."""
    nan = math.nan
    density = Density(value, eta[0], eta[1], eta[2], nan, nan, nan, upper[0], upper[1], upper[2])
    return Zeroed(density, lower[0], lower[1], lower[2], nan)


@kernel
def narrow(A: float, B: float, gap: float) -> Between:
    """By quadrature over the category, relative to its middle."""
    middle, half = 0.5 * (A + B), 0.5 * gap
    mass, first = 0.0, 0.0
    for node, weight in zip(NODES, WEIGHTS):  # noqa: B905
        x = half * node
        share = weight * math.exp(-middle * x - 0.5 * x * x)
        mass += share
        first += share * x
    mean = first / mass
    second, third = 0.0, 0.0
    for node, weight in zip(NODES, WEIGHTS):  # noqa: B905
        x = half * node
        share = weight * math.exp(-middle * x - 0.5 * x * x) / mass
        second += share * (x - mean) ** 2
        third += share * (x - mean) ** 3
    mass *= half
    value = math.log(mass) - HALF_LOG_2PI - 0.5 * middle * middle
    alpha = math.exp(-middle * half - 0.5 * half * half) / mass
    beta = math.exp(middle * half - 0.5 * half * half) / mass
    return Between(value, alpha, beta, middle + mean, second, third, half - mean, -half - mean)


@kernel
def wide(A: float, B: float) -> Between:
    """By ratios of densities to probabilities, A + B at most 0."""
    log_upper = log_normal_cdf(A)
    share = math.exp(log_normal_cdf(B) - log_upper)
    rest = 1.0 - share
    alpha, beta = mills(A) / rest, mills(B) * share / rest
    mean = beta - alpha
    about = -A * alpha + B * beta  # E x² − 1
    third = -(A * A - 1.0) * alpha + (B * B - 1.0) * beta
    cumulant = third - 3.0 * mean * about + 2.0 * mean**3
    value, variance = log_upper + math.log(rest), 1.0 + about - mean * mean
    return Between(value, alpha, beta, mean, variance, cumulant, A - mean, B - mean)


@kernel
def between(A: float, B: float, gap: float) -> Between:
    """A standard normal variable between B and A, from the side on which no digits are lost; A − B is `gap`."""
    if gap * (1.0 + max(abs(A), abs(B))) < 1.0:
        return narrow(A, B, gap)
    if A + B <= 0.0:
        return wide(A, B)
    at = wide(-B, -A)
    return Between(at.value, at.beta, at.alpha, -at.mean, at.variance, -at.cumulant, -at.under, -at.over)


@kernel
def inner_probit(A: float, B: float, gap: float) -> Zeroed:
    """A middle category of the probit."""
    at = between(A, B, gap)
    over, under = at.over, at.under
    return assembled(
        at.value,
        (at.mean, at.variance - 1.0, at.cumulant),
        (at.alpha, at.alpha * over, at.alpha * (over * over - at.variance)),
        (-at.beta, -at.beta * under, -at.beta * (under * under - at.variance)),
    )


@kernel
def inner_logit(A: float, B: float, gap: float) -> Zeroed:
    """A middle category of the logit."""
    up, down = log_probability(LOGIT, A), log_probability(LOGIT, -B)
    spread = 1.0 / math.expm1(gap)
    return assembled(
        up.value + down.value + math.log(-math.expm1(-gap)),
        (down.first - up.first, up.second + down.second, down.third - up.third),
        (up.first + spread, -up.second, up.third),
        (-down.first - spread, -down.second, -down.third),
    )


@kernel
def inner_cloglog(B: float, gap: float) -> Zeroed:
    """A middle category of the cloglog."""
    hazard, spread = math.exp(B), 1.0 / math.expm1(gap)
    at = log_probability(CLOGLOG, B + gap + math.log(-math.expm1(-gap)))
    lift = 1.0 + spread
    return assembled(
        at.value - hazard,
        (hazard - at.first, at.second - hazard, hazard - at.third),
        (lift * at.first, -lift * at.second, lift * at.third),
        (-hazard - spread * at.first, hazard + spread * at.second, -hazard - spread * at.third),
    )


@kernel
def category(link: int, eta: float, upper: float, lower: float) -> Zeroed:
    """The log probability of the category between `lower` (−∞ in the first) and `upper` (+∞ in the last)."""
    A, B, nothing = upper - eta, lower - eta, (0.0, 0.0, 0.0)
    if lower == -np.inf:
        at = log_probability(link, A)
        own = (at.first, -at.second, at.third)
        return assembled(at.value, (-at.first, at.second, -at.third), own, nothing)
    if upper == np.inf:
        at = log_complement(link, B)
        own = (at.first, -at.second, at.third)
        return assembled(at.value, (-at.first, at.second, -at.third), nothing, own)
    gap = upper - lower
    if link == LOGIT:
        return inner_logit(A, B, gap)
    if link == CLOGLOG:
        return inner_cloglog(B, gap)
    return inner_probit(A, B, gap)


@kernel
def log_probabilities(link: int, eta: Array, upper: Array, lower: Array) -> Array:
    """log P of every row."""
    out = np.empty(eta.size)
    for row in range(eta.size):
        out[row] = category(link, eta[row], upper[row], lower[row]).density.value
    return out
