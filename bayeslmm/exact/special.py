"""Special functions that Numba lacks: digamma and its derivatives, log Φ and the inverse Mills ratio."""

from __future__ import annotations

import math

from bayeslmm.exact.compiled import kernel

# The asymptotic series below are used from here on; smaller arguments are raised by the recurrence.
LARGE = 12.0
ROOT_2PI = math.sqrt(2.0 * math.pi)
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@kernel
def digamma(x: float) -> float:
    """ψ(x) for x > 0 (Abramowitz & Stegun 6.3.18)."""
    total = 0.0
    while x < LARGE:
        total -= 1.0 / x
        x += 1.0
    z = 1.0 / (x * x)
    series = z * (1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z * (1 / 132 - z * 691 / 32760)))))
    return total + math.log(x) - 0.5 / x - series


@kernel
def trigamma(x: float) -> float:
    """ψ'(x) for x > 0."""
    total = 0.0
    while x < LARGE:
        total += 1.0 / (x * x)
        x += 1.0
    z = 1.0 / (x * x)
    series = z * (1 / 6 - z * (1 / 30 - z * (1 / 42 - z * (1 / 30 - z * (5 / 66 - z * 691 / 2730)))))
    return total + (1.0 + 0.5 / x + series) / x


@kernel
def tetragamma(x: float) -> float:
    """ψ''(x) for x > 0."""
    total = 0.0
    while x < LARGE:
        total -= 2.0 / (x * x * x)
        x += 1.0
    z = 1.0 / (x * x)
    series = z * (1 / 2 - z * (1 / 6 - z * (1 / 6 - z * (3 / 10 - z * (5 / 6 - z * 691 / 210)))))
    return total - z * (1.0 + 1.0 / x + series)


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
