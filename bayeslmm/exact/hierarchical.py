"""Log posterior density of (β, u, sd, correlations, dispersion, zeros) for any family, and its gradient.

The parameters are ψ = [v, z of the correlations, log dispersion, γ, β] = centre + root·x, x the first coordinates, v of the
standard deviations (see `scale`), γ the coefficients of formulas for the log dispersion of the rows, Wγ_d, and for the logit
of the probability of a zero of their own, Z₀γ_z, or log ν, or what thresholds are made of (see `second`); the rest are the z
of every level's effects, see `exact.maps`. Factors are taken from the last (the smallest) to the first, each one's score
following β, the thresholds and the effects taken before it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.densities import BINOMIAL, LOG, LOGIT, NEGATIVE_BINOMIAL, POISSON, density
from bayeslmm.exact.density import Layout, Natural, correlation_terms, lam_of, lam_pullback, natural
from bayeslmm.exact.laplace import Observed
from bayeslmm.exact.logpdf import logpdf
from bayeslmm.exact.maps import Found, Maps, backward_factor, forward_factor
from bayeslmm.exact.rows import Rows
from bayeslmm.exact.second import (
    NU,
    THRESHOLDS,
    add_category_terms,
    add_log_jacobian,
    add_t_terms,
    natural_further,
    pull_further,
)
from bayeslmm.exact.special import counted_rises, log_one_plus_exp, rise
from bayeslmm.exact.zeros import zeroed_slopes

Array = NDArray[np.float64]
Index = NDArray[np.int64]
# Below, log(1 + eᵛ) is eᵛ to rounding.
ALL_LOGARITHM = -37.0
# Twice it is no overflow yet.
LARGEST_PRODUCT = 1e300


class Frame(NamedTuple):
    """ψ = centre + root·x, whether it holds a dispersion, and the rows' columns of the formulas for dispersion and zeros."""

    centre: Array
    root: Array
    dispersed: bool
    W: Array
    Z0: Array


class Scale(NamedTuple):
    """The logarithm of an sd as a function of its coordinate v, its slope, and that of the slope's logarithm."""

    log: float
    slope: float
    bend: float


@kernel
def scale(unit: float, v: float) -> Scale:
    """log sd = v where the unit is 0; else sd = unit·log(1 + eᵛ), an sd itself above its unit and log sd far below."""
    if unit == 0.0:
        return Scale(v, 1.0, 0.0)
    if v < ALL_LOGARITHM:
        return Scale(math.log(unit) + v, 1.0, 0.0)
    soft, share = log_one_plus_exp(v), 1.0 / (1.0 + math.exp(-v))
    return Scale(math.log(unit) + math.log(soft), share / soft, 1.0 - share - share / soft)


class Parameters(NamedTuple):
    """Natural parameters at ψ."""

    at: Natural
    lam: Array
    aux: float
    gamma: Array
    beta: Array
    further: Array  # γ, but ν in place of its logarithm, or the thresholds


@kernel
def parameters(layout: Layout, lam_size: int, dispersed: bool, psi: Array) -> Parameters:
    """sd, correlations, λ, log dispersion, γ and β at ψ."""
    count = layout.sd_scale.size + layout.z_at[-1]
    head = np.zeros(count + 1)
    head[:count] = psi[:count]
    for i in range(layout.sd_scale.size):
        head[i] = scale(layout.sd_unit[i], psi[i]).log
    at = natural(layout, head)
    first = count + 1 if dispersed else count
    aux, last = psi[count] if dispersed else 0.0, first + layout.further_code.size
    gamma = psi[first:last].copy()
    further = natural_further(layout.second, gamma)
    return Parameters(at, lam_of(layout, at, lam_size), aux, gamma, psi[last:].copy(), further)


@kernel
def add_coefficient_priors(T: Array, code: Index, args: Array, coefficients: Array, out: Array) -> float:
    """Log prior density of T times coefficients; adds its gradient to `out`."""
    value = 0.0
    shifted = np.dot(T, coefficients)
    for j in range(shifted.size):
        prior, shifted[j] = logpdf(code[j], args[j, 0], args[j, 1], args[j, 2], shifted[j])
        value += prior
    out += np.dot(T.T, shifted)
    return value


@kernel
def add_further_priors(layout: Layout, p: Parameters, out: Array) -> float:
    """Log prior density of γ, with the Jacobian of ν or of the thresholds; adds its gradient to `out`."""
    bar = np.zeros(p.gamma.size)
    value = add_coefficient_priors(layout.further_transform, layout.further_code, layout.further_args, p.further, bar)
    pull_further(layout.second, p.gamma, bar)
    out += bar
    return value + add_log_jacobian(layout.second, p.gamma, out)


@kernel
def add_priors(layout: Layout, p: Parameters, dispersed: bool, psi: Array, lam_bar: Array, out: Array) -> float:
    """Log prior density of ψ (with the Jacobians); adds its gradient, and that of the likelihood through λ, to `out`."""
    sds, zs = layout.sd_scale.size, layout.z_at[-1]
    sd_bar, L_bar = np.zeros(sds), np.zeros(p.at.L.size)
    lam_pullback(layout, p.at, lam_bar, sd_bar, L_bar)
    value = 0.0
    for i in range(sds):
        a = layout.sd_args[i]
        prior, slope = logpdf(layout.sd_code[i], a[0], a[1], a[2], p.at.sd[i])
        of = scale(layout.sd_unit[i], psi[i])
        value += prior + of.log + math.log(of.slope)
        out[i] += ((sd_bar[i] + slope) * p.at.sd[i] + 1.0) * of.slope + of.bend
    value += correlation_terms(layout, psi[sds:], L_bar, out[sds:], True)
    first = sds + zs
    if dispersed:
        a = layout.sigma_args
        phi = math.exp(p.aux)
        prior, slope = logpdf(layout.sigma_code, a[0], a[1], a[2], phi)
        value += prior + p.aux
        out[first] += slope * phi + 1.0
        first += 1
    if p.gamma.size:
        last = first + p.gamma.size
        value += add_further_priors(layout, p, out[first:last])
        first = last
    value += add_coefficient_priors(layout.T, layout.beta_code, layout.beta_args, p.beta, out[first:])
    return value


@kernel
def row_terms(d: Observed, eta: Array, a: float, first: Array) -> tuple[float, float]:
    """Σ w ℓ and Σ w ∂ℓ/∂a; fills w ∂ℓ/∂η. The three special cases leave out what depends on neither η nor a."""
    value, aux = 0.0, 0.0
    if d.family == BINOMIAL and d.link == LOGIT:
        product = 1.0  # of single trials' 1 + e, for one logarithm of many
        for row in range(eta.size):
            x, w, y, m = eta[row], d.weights[row], d.y[row], d.trials[row]
            e = math.exp(-abs(x))
            share = 1.0 / (1.0 + e)
            value += w * (y * min(x, 0.0) - (m - y) * max(x, 0.0))
            if w * m != 1.0:
                value -= w * m * math.log1p(e)
            else:
                product *= 1.0 + e
            if product > LARGEST_PRODUCT:
                value, product = value - math.log(product), 1.0
            first[row] = w * (y - m * (share if x > 0.0 else e * share))
        value -= math.log(product)
    elif d.family == POISSON and d.link == LOG:
        for row in range(eta.size):
            w, mu = d.weights[row], math.exp(eta[row])
            value += w * (d.y[row] * eta[row] - mu)
            first[row] = w * (d.y[row] - mu)
    elif d.family == NEGATIVE_BINOMIAL and d.link == LOG:
        alpha = math.exp(a)
        up, slope = counted_rises(alpha, int(min(d.y.max(), eta.size)) + 1)
        for row in range(eta.size):
            w, y, mu = d.weights[row], d.y[row], math.exp(eta[row])
            excess, s = math.log1p(mu / alpha), mu + alpha
            if y < up.size:
                rise_value, rise_slope = up[int(y)], slope[int(y)]
            else:
                beyond = rise(alpha, y)
                rise_value, rise_slope = beyond.log_gamma, beyond.digamma
            value += w * (rise_value + y * eta[row] - (y + alpha) * excess)
            aux += w * alpha * (rise_slope - excess + (mu - y) / s)
            first[row] = w * alpha * (y - mu) / s
    else:
        for row in range(eta.size):
            at = density(d.family, d.link, d.y[row], d.trials[row], eta[row], a)
            w = d.weights[row]
            value += w * at.value
            aux += w * at.value_aux
            first[row] = w * at.first
    return value, aux


@kernel
def add_row_terms(
    d: Observed, W: Array, Z0: Array, p: Parameters, eta: Array, first: Array, gamma_bar: Array
) -> tuple[float, float]:
    """Σ w ℓ and Σ w ∂ℓ/∂a of rows with dispersions and zeros of their own; fills w ∂ℓ/∂η, adds the derivatives by γ."""
    value, aux, of_aux = 0.0, 0.0, W.shape[1]
    for row in range(eta.size):
        a, zeta = p.aux + d.aux_rows[row], 0.0
        for j in range(of_aux):
            a += W[row, j] * p.gamma[j]
        for j in range(Z0.shape[1]):
            zeta += Z0[row, j] * p.gamma[of_aux + j]
        at = zeroed_slopes(d.zeros, d.family, d.link, d.y[row], d.trials[row], eta[row], a, zeta)
        w = d.weights[row]
        value += w * at.value
        first[row] = w * at.first
        for j in range(of_aux):
            gamma_bar[j] += w * at.value_aux * W[row, j]
        for j in range(Z0.shape[1]):
            gamma_bar[of_aux + j] += w * at.value_zero * Z0[row, j]
        aux += w * at.value_aux
    return value, aux


@kernel
def all_row_terms(
    layout: Layout, d: Observed, frame: Frame, p: Parameters, eta: Array, first: Array, gamma_bar: Array
) -> tuple[float, float]:
    """Σ w ℓ and Σ w ∂ℓ/∂a; fills w ∂ℓ/∂η, adds the derivatives by γ, those by thresholds being by τ itself."""
    if layout.second == THRESHOLDS:
        return add_category_terms(d, p.further, eta, first, gamma_bar), 0.0
    if layout.second == NU:
        return add_t_terms(d, frame.W, p.aux, p.gamma, eta, first, gamma_bar)
    if p.gamma.size:
        return add_row_terms(d, frame.W, frame.Z0, p, eta, first, gamma_bar)
    return row_terms(d, eta, p.aux, first)


@kernel
def add_effects(rows: Rows, k: int, f: int, u: Array, out: Array) -> None:
    """Add Z u of one factor to every row."""
    for i in range(k):
        column = rows.first[f] + i
        for row in range(out.size):
            out[row] += rows.columns[row, column] * u[rows.level[row, f] + i]


@kernel
def add_transposed(rows: Rows, k: int, f: int, v: Array, out: Array) -> None:
    """Add Z'v of one factor."""
    for i in range(k):
        column = rows.first[f] + i
        for row in range(v.size):
            out[rows.level[row, f] + i] += rows.columns[row, column] * v[row]


@kernel
def forward(
    rows: Rows, d: Observed, maps: Maps, width: Index, lam_at: Index, p: Parameters, z: Array
) -> tuple[Found, Array, Array, float]:
    """Effects of all levels, the score each map used, η, and the log density of the coordinates z up to a constant."""
    found = Found(np.empty(maps.S.size), np.empty(z.size), np.empty(z.size), np.empty(z.size))
    g = maps.g - np.dot(maps.C, p.beta)
    if maps.D.shape[1]:
        g += np.dot(maps.D, p.further)
    effects = np.zeros(d.y.size)
    value = 0.0
    for f in range(width.size - 1, -1, -1):
        if f < width.size - 1:
            add_transposed(rows, width[f], f, -maps.weight[f] * effects, g)
        value += forward_factor(width[f], p.lam, lam_at[f], maps, f, g, z, found)
        add_effects(rows, width[f], f, found.u, effects)
    return found, g, d.offset + np.dot(d.X, p.beta) + effects, value


@kernel
def backward(
    rows: Rows, maps: Maps, width: Index, lam_at: Index, p: Parameters, g: Array, found: Found, slope: Array
) -> tuple[Array, Array, Array]:
    """Cotangents of λ, of the scores and of z, from that of η and of `forward`'s value."""
    u_bar, g_bar, z_bar = np.zeros(g.size), np.zeros(g.size), np.zeros(g.size)
    lam_bar, slope = np.zeros(p.lam.size), slope.copy()
    for f in range(width.size):
        add_transposed(rows, width[f], f, slope, u_bar)
        backward_factor(width[f], p.lam, lam_at[f], maps, f, g, found, u_bar, lam_bar, g_bar, z_bar)
        if f < width.size - 1:
            back = np.zeros(slope.size)
            add_effects(rows, width[f], f, g_bar, back)
            slope -= maps.weight[f] * back
    return lam_bar, g_bar, z_bar


@kernel
def log_posterior(
    rows: Rows, d: Observed, maps: Maps, layout: Layout, frame: Frame, width: Index, lam_at: Index, y: Array
) -> tuple[float, Array]:
    """Log density of the coordinates y and its gradient."""
    count = frame.centre.size
    psi = frame.centre + np.dot(frame.root, y[:count])
    p = parameters(layout, lam_at[-1], frame.dispersed, psi)
    found, g, eta, value = forward(rows, d, maps, width, lam_at, p, y[count:])
    slope = np.empty(eta.size)
    gamma_bar = np.zeros(p.gamma.size)
    likelihood, aux_bar = all_row_terms(layout, d, frame, p, eta, slope, gamma_bar)
    lam_bar, g_bar, z_bar = backward(rows, maps, width, lam_at, p, g, found, slope)
    if layout.second == THRESHOLDS:
        gamma_bar += np.dot(maps.D.T, g_bar)
        pull_further(layout.second, p.gamma, gamma_bar)
    out = np.zeros(count)
    first = count - p.beta.size
    out[first:] = np.dot(d.X.T, slope) - np.dot(maps.C.T, g_bar)
    out[first - gamma_bar.size : first] = gamma_bar
    if frame.dispersed:
        out[first - gamma_bar.size - 1] = aux_bar
    value += likelihood + layout.constant + add_priors(layout, p, frame.dispersed, psi, lam_bar, out)
    gradient = np.empty(y.size)
    gradient[:count] = np.dot(frame.root.T, out)
    gradient[count:] = z_bar
    return value, gradient


@kernel
def restored(
    rows: Rows, d: Observed, maps: Maps, layout: Layout, frame: Frame, width: Index, lam_at: Index, y: Array
) -> tuple[Array, Array]:
    """ψ (draws, …) and scaled u (draws, Q) of draws of the coordinates (draws, size)."""
    count = frame.centre.size
    psi, u = np.empty((y.shape[0], count)), np.empty((y.shape[0], y.shape[1] - count))
    for draw in range(y.shape[0]):
        psi[draw] = frame.centre + np.dot(frame.root, y[draw, :count])
        p = parameters(layout, lam_at[-1], frame.dispersed, psi[draw])
        u[draw] = forward(rows, d, maps, width, lam_at, p, y[draw, count:])[0].u
    return psi, u
