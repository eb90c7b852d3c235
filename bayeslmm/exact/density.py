"""Log posterior density of (β, sd, correlations, σ) with u, and where possible β, integrated out; and its gradient.

The sampler moves in x = [log sd, z, log σ (, β in the scale of Q)]: the correlations of a term come from canonical
partial correlations tanh(z), whose Jacobian is closed form (Lewandowski, Kurowicka & Joe 2009, J. Multivar. Anal. 100).
With η the LKJ parameter, column j of a k × k term contributes (η + (k − j − 2)/2) log(1 − tanh²z) to density and Jacobian.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.factor import System
from bayeslmm.exact.gaussian import INTEGRATED, level, level_at, marginal
from bayeslmm.exact.logpdf import logpdf
from bayeslmm.exact.pullback import pullback

Array = NDArray[np.float64]
Index = NDArray[np.int64]
NO_NUMBERS, NO_CODES, NO_ROWS, NO_UNITS = np.empty((0, 0)), np.empty(0, np.int64), np.empty((0, 3)), np.empty(0)


class Layout(NamedTuple):
    """Where the natural parameters of each term stand, and their priors."""

    size: Index  # (terms,) effects k
    sd_at: Index  # first sd of the term
    z_at: Index  # first correlation of the term
    L_at: Index  # first entry of its k × k correlation factor
    lam_at: Index  # first entry of its block in lam
    lam_width: Index  # row length of the λ that holds it
    correlated: NDArray[np.bool_]
    eta: Array  # LKJ parameter of the term
    sd_scale: Array  # powers of two that the effects' columns were divided by
    sd_code: Index
    sd_args: Array  # (sds, 3)
    sigma_code: int
    sigma_args: Array  # (3,)
    y_scale: float
    nobs: int
    T: Array  # prior of β in the scale of Q: ½‖T β − t‖² if normal, else the priors apply to T β − t
    t: Array
    beta_code: Index  # empty where β is integrated out
    beta_args: Array  # (p, 3)
    constant: float
    further_transform: Array = (
        NO_NUMBERS  # priors of γ, the coefficients of the formulas for dispersion and zeros, apply to it times γ
    )
    further_code: Index = NO_CODES
    further_args: Array = NO_ROWS  # (m, 3)
    second: int = 0  # whether ν or thresholds are among γ: see `second`
    sd_unit: Array = NO_UNITS  # of each sd in ψ, see `exact.hierarchical.scale`


class Natural(NamedTuple):
    """Natural parameters at x, in the scale of the data."""

    sd: Array
    L: Array  # correlation factors, term by term
    sigma: float
    beta: Array  # in the scale of Q; empty where integrated out


@kernel
def correlation_factor(k: int, z: Array, at: int, L: Array, start: int) -> None:
    """Rows of the k × k Cholesky factor of a correlation matrix from z, row by row."""
    for i in range(k):
        rest = 1.0
        for j in range(i):
            p = np.tanh(z[at])
            L[start + i * k + j] = p * np.sqrt(rest)
            rest /= np.cosh(z[at]) ** 2
            at += 1
        L[start + i * k + i] = np.sqrt(rest)
        for j in range(i + 1, k):
            L[start + i * k + j] = 0.0


@kernel
def correlation_pullback(k: int, z: Array, at: int, L_bar: Array, start: int, z_bar: Array) -> None:
    """Cotangent of z for one of the factor's entries."""
    for i in range(k):
        first = at + i * (i - 1) // 2
        rest = np.empty(i + 1)
        rest[0] = 1.0
        for j in range(i):
            rest[j + 1] = rest[j] / np.cosh(z[first + j]) ** 2
        rest_bar = 0.5 * L_bar[start + i * k + i] / np.sqrt(rest[i])
        for j in range(i - 1, -1, -1):
            p, through = np.tanh(z[first + j]), L_bar[start + i * k + j]
            slope = 1.0 / np.cosh(z[first + j]) ** 2
            p_bar = through * np.sqrt(rest[j]) - 2.0 * p * rest[j] * rest_bar
            rest_bar = rest_bar * slope + 0.5 * through * p / np.sqrt(rest[j])
            z_bar[first + j] += p_bar * slope


@kernel
def log_cosh(z: float) -> float:
    """log cosh z without overflow."""
    return abs(z) + np.log1p(np.exp(-2.0 * abs(z))) - np.log(2.0)


@kernel
def natural(layout: Layout, x: Array) -> Natural:
    """Natural parameters from the sampler's coordinates."""
    sds = layout.sd_scale.size
    zs = layout.z_at[-1]
    sd = np.exp(x[:sds])
    L = np.zeros(layout.L_at[-1])
    for term in range(layout.size.size):
        k, start = layout.size[term], layout.L_at[term]
        if layout.correlated[term]:
            correlation_factor(k, x[sds:], layout.z_at[term], L, start)
        else:
            for i in range(k):
                L[start + i * k + i] = 1.0
    return Natural(sd, L, np.exp(x[sds + zs]), x[sds + zs + 1 :].copy())


@kernel
def lam_of(layout: Layout, at: Natural, size: int) -> Array:
    """The scaled λ of all factors from natural parameters."""
    lam = np.zeros(size)
    for term in range(layout.size.size):
        k, start = layout.size[term], layout.L_at[term]
        for i in range(k):
            s = layout.sd_at[term] + i
            ratio = at.sd[s] * layout.sd_scale[s] / at.sigma
            for j in range(i + 1):
                lam[layout.lam_at[term] + i * layout.lam_width[term] + j] = ratio * at.L[start + i * k + j]
    return lam


@kernel
def lam_pullback(layout: Layout, at: Natural, lam_bar: Array, sd_bar: Array, L_bar: Array) -> float:
    """Cotangents of sd and the correlation factors; returns that of σ."""
    sigma_bar = 0.0
    for term in range(layout.size.size):
        k, start = layout.size[term], layout.L_at[term]
        for i in range(k):
            s = layout.sd_at[term] + i
            ratio = layout.sd_scale[s] / at.sigma
            for j in range(i + 1):
                bar = lam_bar[layout.lam_at[term] + i * layout.lam_width[term] + j]
                entry = at.L[start + i * k + j]
                sd_bar[s] += bar * ratio * entry
                L_bar[start + i * k + j] += bar * ratio * at.sd[s]
                sigma_bar -= bar * ratio * at.sd[s] * entry / at.sigma
    return sigma_bar


@kernel
def log_likelihood(s: System, layout: Layout, at: Natural) -> tuple[float, Array, float, Array]:
    """Log density of y (u, and unless explicit β, integrated out); cotangents of lam, σ and β."""
    lam = lam_of(layout, at, s.lam_at[-1] if s.lam_at.size else 0)
    where = marginal(s, lam)
    sigma = at.sigma / layout.y_scale
    if layout.beta_code.size == 0:
        found = level(where.S, where.logdet, layout.nobs, sigma, layout.T, layout.t, INTEGRATED)
        value, gbar, Gbar, sigma_bar = found.value, found.gbar, found.Gbar, found.sigma_bar
        beta_bar = np.empty(0)
    else:
        value, gbar, Gbar, sigma_bar, beta_bar = level_at(where.S, where.logdet, layout.nobs, sigma, at.beta)
    lam_bar = pullback(s, lam, where.factor, gbar, Gbar) if lam.size else np.empty(0)
    return value + layout.constant, lam_bar, sigma_bar / layout.y_scale, beta_bar


@kernel
def log_posterior(s: System, layout: Layout, x: Array, jacobian: bool) -> tuple[float, Array]:
    """Log posterior density at x and its gradient; with `jacobian` the density of x, without that of the natural ones."""
    at = natural(layout, x)
    sds, zs = layout.sd_scale.size, layout.z_at[-1]
    gradient = np.zeros(x.size)
    value, lam_bar, sigma_bar, beta_bar = log_likelihood(s, layout, at)
    sd_bar, L_bar = np.zeros(sds), np.zeros(at.L.size)
    sigma_bar += lam_pullback(layout, at, lam_bar, sd_bar, L_bar)
    for i in range(sds):
        a = layout.sd_args[i]
        density, slope = logpdf(layout.sd_code[i], a[0], a[1], a[2], at.sd[i])
        value += density
        gradient[i] = (sd_bar[i] + slope) * at.sd[i]
    a = layout.sigma_args
    density, slope = logpdf(layout.sigma_code, a[0], a[1], a[2], at.sigma)
    value += density
    gradient[sds + zs] = (sigma_bar + slope) * at.sigma
    if jacobian:
        value += np.sum(x[:sds]) + x[sds + zs]
        gradient[:sds] += 1.0
        gradient[sds + zs] += 1.0
    value += correlation_terms(layout, x[sds:], L_bar, gradient[sds:], jacobian)
    if layout.beta_code.size:
        shifted = np.dot(layout.T, at.beta) - layout.t
        slopes = np.empty(shifted.size)
        for i in range(shifted.size):
            a = layout.beta_args[i]
            density, slopes[i] = logpdf(layout.beta_code[i], a[0], a[1], a[2], shifted[i])
            value += density
        gradient[sds + zs + 1 :] = beta_bar + np.dot(layout.T.T, slopes)
    return value, gradient


@kernel
def correlation_terms(layout: Layout, z: Array, L_bar: Array, z_bar: Array, jacobian: bool) -> float:
    """LKJ log density (and Jacobian) of every correlated term, up to its constant; adds the cotangent of z."""
    value = 0.0
    for term in range(layout.size.size):
        if not layout.correlated[term]:
            continue
        k, at = layout.size[term], layout.z_at[term]
        correlation_pullback(k, z, at, L_bar, layout.L_at[term], z_bar)
        for i in range(1, k):
            for j in range(i):
                power = layout.eta[term] - 1.0
                if jacobian:
                    power += 1.0 + 0.5 * (k - j - 2)
                value -= 2.0 * power * log_cosh(z[at])
                z_bar[at] -= 2.0 * power * np.tanh(z[at])
                at += 1
    return value
