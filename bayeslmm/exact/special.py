"""Special functions that Numba lacks: digamma and its derivatives, log Φ and the inverse Mills ratio."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel

Array = NDArray[np.float64]
# The asymptotic series below are used from here on; smaller arguments are raised by the recurrence.
LARGE = 12.0
# From here on a rise over [x, x + y] is taken by its own series: differences would lose log10(x/y) digits.
FAR = 50.0
ROOT_2PI = math.sqrt(2.0 * math.pi)
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@kernel
def digamma_tail(x: float) -> float:
    """log x − 1/(2x) − ψ(x) for x ≥ LARGE (Abramowitz & Stegun 6.3.18)."""
    z = 1.0 / (x * x)
    return z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z * (1 / 132 - z * 691 / 32760)))))


@kernel
def trigamma_tail(x: float) -> float:
    """ψ'(x) − 1/x − 1/(2x²) for x ≥ LARGE."""
    z = 1.0 / (x * x)
    return z / x * (1 / 6 - z * (1 / 30 - z * (1 / 42 - z * (1 / 30 - z * (5 / 66 - z * 691 / 2730)))))


@kernel
def tetragamma_tail(x: float) -> float:
    """−ψ''(x) − 1/x² − 1/x³ for x ≥ LARGE."""
    z = 1.0 / (x * x)
    return z * z * (1 / 2 - z * (1 / 6 - z * (1 / 6 - z * (3 / 10 - z * (5 / 6 - z * 691 / 210)))))


@kernel
def digamma(x: float) -> float:
    """ψ(x) for x > 0."""
    total = 0.0
    while x < LARGE:
        total -= 1.0 / x
        x += 1.0
    return total + math.log(x) - 0.5 / x - digamma_tail(x)


@kernel
def trigamma(x: float) -> float:
    """ψ'(x) for x > 0."""
    total = 0.0
    while x < LARGE:
        total += 1.0 / (x * x)
        x += 1.0
    return total + (1.0 + 0.5 / x) / x + trigamma_tail(x)


@kernel
def tetragamma(x: float) -> float:
    """ψ''(x) for x > 0."""
    total = 0.0
    while x < LARGE:
        total -= 2.0 / (x * x * x)
        x += 1.0
    return total - (1.0 + 1.0 / x) / (x * x) - tetragamma_tail(x)


class Rise(NamedTuple):
    """log Γ(x + y) − log Γ(x) − y log x, and f(x + y) − f(x) for f = ψ, ψ', ψ''."""

    log_gamma: float
    digamma: float
    trigamma: float
    tetragamma: float


@kernel
def stirling_tail(x: float) -> float:
    """log Γ(x) − (x − ½) log x + x − ½ log 2π for x ≥ FAR (Abramowitz & Stegun 6.1.41)."""
    z = 1.0 / (x * x)
    return (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z / 1680))) / x


@kernel
def rise(x: float, y: float) -> Rise:
    """Rises over [x, x + y], x > 0, y ≥ 0, to their own rounding also where y is next to nothing beside x."""
    s = x + y
    if x < FAR:
        log_gamma = math.lgamma(s) - math.lgamma(x) - y * math.log(x)
        return Rise(log_gamma, digamma(s) - digamma(x), trigamma(s) - trigamma(x), tetragamma(s) - tetragamma(x))
    u = y / x
    logs = math.log1p(u)
    squares = u * (2.0 + u) / (s * s)  # 1/x² − 1/s²
    return Rise(
        (s - 0.5) * logs - y + stirling_tail(s) - stirling_tail(x),
        logs + 0.5 * u / s - digamma_tail(s) + digamma_tail(x),
        -u / s - 0.5 * squares + trigamma_tail(s) - trigamma_tail(x),
        squares + 1.0 / x**3 - 1.0 / s**3 - tetragamma_tail(s) + tetragamma_tail(x),
    )


@kernel
def counted_rises(x: float, count: int) -> tuple[Array, Array]:
    """log Γ(x + y) − log Γ(x) − y log x and ψ(x + y) − ψ(x) for y = 0, 1, …, count − 1, as sums that cancel nothing."""
    log_gamma, psi = np.zeros(count), np.zeros(count)
    for k in range(count - 1):
        log_gamma[k + 1] = log_gamma[k] + math.log1p(k / x)
        psi[k + 1] = psi[k] + 1.0 / (x + k)
    return log_gamma, psi


@kernel
def mills(eta: float) -> float:
    """φ(η)/Φ(η), also where Φ(η) is next to nothing (continued fraction, Abramowitz & Stegun 26.2.14)."""
    if eta > -5.0:
        return math.exp(-0.5 * eta * eta) / ROOT_2PI / (0.5 * math.erfc(-eta / math.sqrt(2.0)))
    x = -eta
    if x > 1e8:
        return x
    tail = x
    for k in range(80, 0, -1):
        tail = x + k / tail
    return tail


@kernel
def log_normal_cdf(eta: float) -> float:
    """log Φ(η)."""
    if eta > 0.0:
        return math.log1p(-0.5 * math.erfc(eta / math.sqrt(2.0)))
    if eta > -5.0:
        return math.log(0.5 * math.erfc(-eta / math.sqrt(2.0)))
    return -0.5 * eta * eta - HALF_LOG_2PI - math.log(mills(eta))


@kernel
def log_choose(n: float, k: float) -> float:
    """log of the binomial coefficient."""
    return math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0)


@kernel
def log_one_plus_exp(x: float) -> float:
    """log(1 + eˣ)."""
    return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))
