"""Responses with zeros of their own: inflated and hurdle versions of a density, with the same derivatives.

With π = 1/(1 + e^{−ζ}) and f the density of `densities`:

    inflated   P(0) = π + (1 − π) f(0),   otherwise (1 − π) f(y)
    hurdle     P(0) = π,                  otherwise (1 − π) f(y)/(1 − f(0))

Of a response of kind OTHER, ζ is another parameter: log ν of a t response, the lower threshold of a category.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.densities import (
    IDENTITY,
    LINEAR_NEGATIVE_BINOMIAL,
    LOG,
    NEGATIVE_BINOMIAL,
    POISSON,
    STUDENT_T,
    Density,
    density,
)
from bayeslmm.exact.densities import Zeroed as Zeroed
from bayeslmm.exact.ordinal import category
from bayeslmm.exact.special import digamma, log_one_plus_exp
from bayeslmm.exact.student import student_t

Array = NDArray[np.float64]
NONE, INFLATED, HURDLE, OTHER = range(4)


@kernel
def inflated_zero(at: Density, zeta: float) -> Zeroed:
    """log(π + (1 − π) f(0)), `at` the density at y = 0; s is the probability that a zero is one of f's own."""
    lift = at.value - zeta
    s = 1.0 / (1.0 + math.exp(-lift))
    v = s / (1.0 + math.exp(lift))
    turn = v * (1.0 - 2.0 * s)
    square = at.first * at.first
    value = log_one_plus_exp(lift) + zeta - log_one_plus_exp(zeta)
    mixed = Density(
        value,
        s * at.first,
        s * at.second + v * square,
        s * at.third + 3.0 * v * at.first * at.second + turn * square * at.first,
        math.nan,
        math.nan,
        math.nan,
        s * at.value_aux,
        s * at.first_aux + v * at.value_aux * at.first,
        s * at.second_aux
        + v * (at.value_aux * at.second + 2.0 * at.first * at.first_aux)
        + turn * at.value_aux * square,
    )
    share = 1.0 / (1.0 + math.exp(-zeta))
    return Zeroed(mixed, 1.0 - s - share, -v * at.first, -v * at.second - turn * square, math.nan)


@kernel
def truncated(at: Density, zero: Density) -> Density:
    """log f(y) − log(1 − f(0)), `zero` the density at y = 0."""
    q = 1.0 / math.expm1(-zero.value)
    r = q * (1.0 + q)
    turn = r * (1.0 + 2.0 * q)
    square = zero.first * zero.first
    return Density(
        at.value - math.log(-math.expm1(zero.value)),
        at.first + q * zero.first,
        at.second + q * zero.second + r * square,
        at.third + q * zero.third + 3.0 * r * zero.first * zero.second + turn * square * zero.first,
        math.nan,
        math.nan,
        math.nan,
        at.value_aux + q * zero.value_aux,
        at.first_aux + q * zero.first_aux + r * zero.value_aux * zero.first,
        at.second_aux
        + q * zero.second_aux
        + r * (zero.value_aux * zero.second + 2.0 * zero.first * zero.first_aux)
        + turn * zero.value_aux * square,
    )


@kernel
def zeroed(kind: int, family: int, link: int, y: float, trials: float, eta: float, a: float, zeta: float) -> Zeroed:
    """The density of one response with the zeros of `kind`."""
    if kind == NONE:
        return Zeroed(density(family, link, y, trials, eta, a), 0.0, 0.0, 0.0, 0.0)
    if kind == OTHER:
        return student_t(y, eta, a, zeta) if family == STUDENT_T else category(link, eta, a, zeta)
    share = 1.0 / (1.0 + math.exp(-zeta))
    if y == 0.0 and kind == INFLATED:
        return inflated_zero(density(family, link, 0.0, trials, eta, a), zeta)
    if y == 0.0:
        value = -log_one_plus_exp(-zeta)
        nothing = Density(value, 0.0, 0.0, 0.0, math.nan, math.nan, math.nan, 0.0, 0.0, 0.0)
        return Zeroed(nothing, 1.0 - share, 0.0, 0.0, math.nan)
    at = density(family, link, y, trials, eta, a)
    if kind == HURDLE:
        at = truncated(at, density(family, link, 0.0, trials, eta, a))
    kept = Density(
        at.value - log_one_plus_exp(zeta), at.first, at.second, at.third, math.nan, math.nan, math.nan, at.value_aux,
        at.first_aux, at.second_aux,
    )  # fmt: skip
    return Zeroed(kept, -share, 0.0, 0.0, math.nan)


class Slopes(NamedTuple):
    """ℓ and its first derivatives, in η, a and ζ."""

    value: float
    first: float
    value_aux: float
    value_zero: float


@kernel
def plain_slopes(family: int, link: int, y: float, trials: float, eta: float, a: float) -> Slopes:
    """As `density`, without the higher derivatives of counts, whose polygammas are most of its cost."""
    if link == LOG and family == POISSON:
        mu = math.exp(eta)
        return Slopes((y * eta - math.lgamma(y + 1.0) if y > 0.0 else 0.0) - mu, y - mu, 0.0, 0.0)
    if link == LOG and family == NEGATIVE_BINOMIAL:
        mu, alpha = math.exp(eta), math.exp(a)
        excess, s = math.log1p(mu / alpha), mu + alpha
        value, slope = -(y + alpha) * excess, (mu - y) / s - excess
        if y > 0.0:
            value += math.lgamma(y + alpha) - math.lgamma(alpha) - math.lgamma(y + 1.0) + y * (eta - a)
            slope += digamma(y + alpha) - digamma(alpha)
        return Slopes(value, alpha * (y - mu) / s, alpha * slope, 0.0)
    if link == LOG and family == LINEAR_NEGATIVE_BINOMIAL:
        mu, phi = math.exp(eta), math.exp(a)
        r, log_one = mu / phi, math.log1p(phi)
        value, slope = -(r + y) * log_one, -log_one
        if y > 0.0:
            value += math.lgamma(y + r) - math.lgamma(r) - math.lgamma(y + 1.0) + y * a
            slope += digamma(y + r) - digamma(r)
        return Slopes(value, r * slope, (y - mu) / (1.0 + phi) - r * slope, 0.0)
    at = density(family, link, y, trials, eta, a)
    return Slopes(at.value, at.first, at.value_aux, 0.0)


@kernel
def zeroed_slopes(
    kind: int, family: int, link: int, y: float, trials: float, eta: float, a: float, zeta: float
) -> Slopes:
    """As `zeroed`, up to first derivatives."""
    if kind == NONE:
        return plain_slopes(family, link, y, trials, eta, a)
    if kind == OTHER:
        whole = zeroed(kind, family, link, y, trials, eta, a, zeta)
        return Slopes(whole.density.value, whole.density.first, whole.density.value_aux, whole.value_zero)
    share = 1.0 / (1.0 + math.exp(-zeta))
    if y == 0.0 and kind == INFLATED:
        at = plain_slopes(family, link, 0.0, trials, eta, a)
        lift = at.value - zeta
        s = 1.0 / (1.0 + math.exp(-lift))
        value = log_one_plus_exp(lift) + zeta - log_one_plus_exp(zeta)
        return Slopes(value, s * at.first, s * at.value_aux, 1.0 - s - share)
    if y == 0.0:
        return Slopes(-log_one_plus_exp(-zeta), 0.0, 0.0, 1.0 - share)
    at = plain_slopes(family, link, y, trials, eta, a)
    value, first, aux = at.value - log_one_plus_exp(zeta), at.first, at.value_aux
    if kind == HURDLE:
        zero = plain_slopes(family, link, 0.0, trials, eta, a)
        q = 1.0 / math.expm1(-zero.value)
        value -= math.log(-math.expm1(zero.value))
        first, aux = first + q * zero.first, aux + q * zero.value_aux
    return Slopes(value, first, aux, -share)


@kernel
def log_densities_of_rows(
    kind: int, family: int, link: int, y: Array, trials: Array, eta: Array, a: Array, zeta: Array
) -> Array:
    """ℓ of every row, each with its own two further parameters."""
    out = np.empty(y.size)
    for row in range(y.size):
        out[row] = zeroed(kind, family, link, y[row], trials[row], eta[row], a[row], zeta[row]).density.value
    return out


@kernel
def log_at_zero(family: int, trials: Array, mu: Array, a: Array) -> Array:
    """log f(0) of every row of mean μ."""
    out = np.empty(mu.size)
    for row in range(mu.size):
        out[row] = density(family, IDENTITY, 0.0, trials[row], mu[row], a[row]).value
    return out
