"""What Laplace's approximation leaves out, by importance sampling of the effects around their mode.

With b̂ the mode, LL' = M the curvature there and b = b̂ + L⁻ᵀz, z of density q, in the notation of `laplace`

    p(y | ψ) / exp L(ψ) = E exp(h(b) − h(b̂) − log q(z) − (Q/2) log 2π)

q is normal, but t₄ for the effects of the first factor: given the parameters, those of a level whose responses are all 0
have tails far beyond those that the curvature at their mode promises.

One mean over all effects would be hopeless with many levels: its relative variance is that of a product. But the levels of
the first factor are independent given the effects of the others, and parts of the data that share no level are independent
altogether. So of J particles each draws the others' effects, takes a mean over K draws level by level, and multiplies what
lies in one part; of each part the mean over particles is taken, and the product over parts is the estimate. Each level keeps
one of its draws, each part one of its particles, with probability proportional to what they weigh. The estimate is unbiased;
so means over draws of (ψ, u), each weighing what its estimate says, are those of p(ψ, u | y) however small J and K are
(Tran, Scharth, Pitt & Kohn 2021, Importance sampling squared for Bayesian inference in latent variable models).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.densities import BINOMIAL, LOG, LOGIT, NEGATIVE_BINOMIAL, POISSON
from bayeslmm.exact.density import Layout
from bayeslmm.exact.factor import System, back_solve, factorise, times_lambda
from bayeslmm.exact.hierarchical import Frame, Parameters, parameters
from bayeslmm.exact.laplace import Mode, Observed, at_row, curve, find_mode
from bayeslmm.exact.rows import Rows, weigh
from bayeslmm.exact.second import THRESHOLDS, edges

Array = NDArray[np.float64]
Index = NDArray[np.int64]
# Log of t₄'s density at 0, 3/8, over the normal's.
T4_CONSTANT = math.log(0.375 * math.sqrt(2.0 * math.pi))


@kernel
def row_value(d: Observed, row: int, eta: float, a: float) -> float:
    """The log density of one row; the three special cases leave out what η does not change."""
    y, w = d.y[row], d.weights[row]
    if d.zeros == 0 and d.family == BINOMIAL and d.link == LOGIT:
        m = d.trials[row]
        return w * (y * min(eta, 0.0) - (m - y) * max(eta, 0.0) - m * math.log1p(math.exp(-abs(eta))))
    if d.zeros == 0 and d.family == POISSON and d.link == LOG:
        return w * (y * eta - math.exp(eta))
    if d.zeros == 0 and d.family == NEGATIVE_BINOMIAL and d.link == LOG:
        alpha = math.exp(a + d.aux_rows[row])
        return w * (y * eta - (y + alpha) * math.log1p(math.exp(eta) / alpha))
    return w * at_row(d, row, eta, a).density.value


@kernel
def level_values(s: System, rows: Rows, d: Observed, fixed: Array, a: float, u: Array, out: Array) -> None:
    """Add Σ ℓ over the rows of each level of the first factor, for every column of u; −∞ outside the link's domain."""
    width, r = s.width[0], u.shape[1]
    eta = np.empty(r)
    for row in range(fixed.size):
        eta[:] = fixed[row]
        for f in range(s.width.size):
            at = rows.level[row, f]
            for i in range(s.width[f]):
                z = rows.columns[row, rows.first[f] + i]
                for c in range(r):
                    eta[c] += z * u[at + i, c]
        level = rows.level[row, 0] // width
        for c in range(r):
            value = row_value(d, row, eta[c], a)
            out[level, c] += value if np.isfinite(value) else -np.inf


@kernel
def log_mean(values: Array) -> float:
    """log of the mean of exponentials."""
    largest = values.max()
    if not np.isfinite(largest):
        return -np.inf
    return largest + math.log(np.mean(np.exp(values - largest)))


@kernel
def drawn_from(log_weights: Array, uniform: float) -> int:
    """The index that a uniform number takes, with probabilities proportional to the weights."""
    weights = np.exp(log_weights - log_weights.max())
    left, last = uniform * weights.sum(), weights.size - 1
    for i in range(last):
        left -= weights[i]
        if left < 0.0:
            return i
    return last


class Noise(NamedTuple):
    """Random numbers for m draws of ψ."""

    inner: Array  # (m, J, Q₁, K) t₄ or normal, for the first factor's effects
    outer: Array  # (m, J, Q₂) standard normals, for the others'
    level: Array  # (m, J, levels) uniforms, which of K draws a level keeps
    part: Array  # (m, parts) uniforms, which of J draws a part keeps
    heavy: bool  # whether `inner` is t₄, else normal


class Parts(NamedTuple):
    """The parts of the data that share no level of any factor: independent of each other given ψ."""

    size: int
    level: Index  # (levels,) the part of each level of the first factor
    row: Index  # (Q₂,) the part of each effect of the other factors


@kernel
def minus_log_density(z: float, heavy: bool) -> float:
    """−log of the density of Student's t₄ at z (of a normal, unless `heavy`), less ½ log 2π."""
    return 2.5 * math.log1p(0.25 * z * z) - T4_CONSTANT if heavy else 0.5 * z * z


@kernel
def particle(
    s: System, values: Array, there: Array, z: Array, heavy: bool, pick: Array, parts: Parts, total: Array, kept: Array
) -> None:
    """Fill log ∫ exp h / q of every part at one draw of the other factors' effects (parts,), and b as kept (Q,).

    The integral is over the first factor's effects, from K draws `there` (Q, K) = b̂ + L⁻ᵀz and the rows' Σ ℓ, `values`
    (levels, K).
    """
    width, K = s.width[0], z.shape[1]
    first = values.shape[0] * width
    total[:] = 0.0
    kept[:] = there[:, 0]
    for level in range(values.shape[0]):
        for i in range(level * width, (level + 1) * width):
            for c in range(K):
                values[level, c] += minus_log_density(z[i, c], heavy) - 0.5 * there[i, c] * there[i, c]
        total[parts.level[level]] += log_mean(values[level])
        chosen = drawn_from(values[level], pick[level])
        for i in range(level * width, (level + 1) * width):
            kept[i] = there[i, chosen]
    for i in range(first, kept.size):
        total[parts.row[i - first]] += 0.5 * (z[i, 0] * z[i, 0] - kept[i] * kept[i])


@kernel
def joined(s: System, totals: Array, kept: Array, uniforms: Array, parts: Parts) -> tuple[float, Array]:
    """Σ over parts of the log mean of J particles (J, parts), and effects (Q, 1), each part's of the particle it keeps."""
    width, first = s.width[0], parts.level.size * s.width[0]
    chosen, value = np.empty(parts.size, np.int64), 0.0
    for part in range(parts.size):
        column = totals[:, part].copy()
        value += log_mean(column)
        chosen[part] = drawn_from(column, uniforms[part])
    b = np.empty((kept.shape[1], 1))
    for i in range(first):
        b[i, 0] = kept[chosen[parts.level[i // width]], i]
    for i in range(first, kept.shape[1]):
        b[i, 0] = kept[chosen[parts.row[i - first]], i]
    return value, b


@kernel
def height(d: Observed, mode: Mode, a: float) -> float:
    """h(b̂), with the rows as `row_value` has them."""
    value = -0.5 * np.sum(mode.b * mode.b)
    for row in range(mode.eta.size):
        value += row_value(d, row, mode.eta[row], a)
    return value


@kernel
def with_further(d: Observed, layout: Layout, frame: Frame, aux_rows: Array, p: Parameters) -> Observed:
    """The rows with the log dispersions and ζ of their formulas, with ν, or with their thresholds."""
    stop = frame.W.shape[1]
    if layout.second == THRESHOLDS:
        a, zeta = edges(d.y, p.further)
    else:
        a, zeta = aux_rows + np.dot(frame.W, p.gamma[:stop]), np.dot(frame.Z0, p.gamma[stop:])
    return Observed(d.family, d.link, d.y, d.trials, d.weights, d.offset, d.X, d.zeros, a, zeta)


@kernel
def weighted_effects(
    s: System,
    rows: Rows,
    d: Observed,
    layout: Layout,
    frame: Frame,
    psi: Array,
    noise: Noise,
    parts: Parts,
    u: Array,
) -> Array:
    """log(p(y | ψ) / exp L(ψ)) estimated at draws of ψ (m, …); fills effects u (m, Q) given each; −inf without a mode."""
    Q, J, K = s.B.shape[0], noise.inner.shape[1], noise.inner.shape[3]
    first, aux_rows = noise.inner.shape[2], d.aux_rows
    found, start = np.empty(psi.shape[0]), np.zeros((Q, 1))
    z, kept, totals = np.empty((Q, K)), np.empty((J, Q)), np.empty((J, parts.size))
    for m in range(psi.shape[0]):
        p = parameters(layout, s.lam_at[-1], frame.dispersed, psi[m])
        if p.gamma.size:
            d = with_further(d, layout, frame, aux_rows, p)
        mode = find_mode(s, rows, d, p.lam, p.beta, p.aux, start, False)
        if not mode.converged:
            mode = find_mode(s, rows, d, p.lam, p.beta, p.aux, np.zeros((Q, 1)), False)
        weigh(s, rows, curve(d, mode.eta, p.aux, False).weight)
        factor = factorise(s, p.lam)
        if not (mode.converged and np.isfinite(factor.logdet)):
            found[m], u[m] = -np.inf, 0.0
            continue
        start = mode.b
        fixed = d.offset + np.dot(d.X, p.beta)
        for j in range(J):
            z[:first] = noise.inner[m, j]
            for c in range(K):
                z[first:, c] = noise.outer[m, j]
            there = mode.b + back_solve(s, factor, z)
            values = np.zeros((parts.level.size, K))
            level_values(s, rows, d, fixed, p.aux, times_lambda(s, p.lam, there), values)
            particle(s, values, there, z, noise.heavy, noise.level[m, j], parts, totals[j], kept[j])
        value, b = joined(s, totals, kept, noise.part[m], parts)
        found[m] = value - height(d, mode, p.aux)
        u[m] = times_lambda(s, p.lam, b)[:, 0]
    return found
