"""Laplace's approximation of the marginal density of any response, with its exact gradient.

With η = offset + Xβ + ZΛb, b ~ N(0, I), and ℓ the log density of a response,

    h(b) = Σ ℓ(η) − ½b'b,      b̂ its maximiser,      M = Λ'Z'WZΛ + I,  W = −∂²ℓ/∂η²  (or its expectation)
    L(β, θ, φ) = h(b̂) − ½ log|M|

b̂ is found by Newton's steps (penalised iteratively reweighted least squares, driven to its limit). Its derivative comes
from M db̂ = d(Λ'Z'ℓ'), so that with c = −½ zᵢ'ΛM⁻¹Λ'zᵢ ∂w/∂η, a = M⁻¹Λ'Z'c and e = ℓ' + c − WZΛa

    ∂L/∂β = X'e,   ∂L/∂Λ = Z'e b̂' + Z'ℓ' a' − AΛM⁻¹,   ∂L/∂φ = Σ ∂ℓ/∂φ − ½ Σ zᵢ'ΛM⁻¹Λ'zᵢ ∂w/∂φ + (ZΛa)' ∂ℓ'/∂φ

With `joint`, β is at the mode with b (a start, and lme4's nAGQ = 0); the same formulas hold with a the solution of the
joint system.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.dense import backward, cholesky_in_place, forward
from bayeslmm.exact.factor import (
    Factor,
    System,
    back_solve,
    factorise,
    half_solve,
    times_lambda,
    times_lambda_transposed,
)
from bayeslmm.exact.gaussian import gram
from bayeslmm.exact.inverse import selected_inverse
from bayeslmm.exact.pullback import add_outer, logdet_products, logdet_pullback
from bayeslmm.exact.rows import Rows, quadratic_forms, times, transposed_times, weigh
from bayeslmm.exact.zeros import Zeroed, zeroed

Array = NDArray[np.float64]

MOST_STEPS = 200
# Newton decrement (units of 2 log-likelihood, relative to it) that the modes come to.
REST = 1e-20
# Share of h that may be rounding, where counts are large: steps that promise less are judged by the decrement.
NOISE = 1e-9


class Observed(NamedTuple):
    """Responses and what is known of them, row by row."""

    family: int
    link: int
    y: Array
    trials: Array
    weights: Array
    offset: Array
    X: Array
    zeros: int  # zeros of their own, or what else ζ is: see `zeros`
    aux_rows: Array  # what is added to the log dispersion; of a category its upper threshold
    zeta: Array  # logit of the probability of a zero of its own; or log ν, or the lower threshold


class Mode(NamedTuple):
    """The maximiser b̂ of h (with `joint` also β), and whether the steps came to rest."""

    b: Array  # (Q, 1)
    beta: Array
    eta: Array
    value: float
    steps: int
    converged: bool


class Curve(NamedTuple):
    """Derivatives of the rows' log densities in η, times the prior weights."""

    first: Array
    weight: Array  # the W of M
    observed: Array  # −∂²ℓ/∂η²
    change: Array  # ∂w/∂η
    change_aux: Array
    value_aux: Array
    first_aux: Array
    change_zero: Array  # by ζ, as by a
    value_zero: Array
    first_zero: Array


class Approximation(NamedTuple):
    """L and its gradient."""

    value: float
    lam_bar: Array
    beta_bar: Array
    aux_bar: float
    mode: Mode
    aux_rows_bar: Array
    zeta_bar: Array


@kernel
def at_row(d: Observed, row: int, eta: float, a: float) -> Zeroed:
    """The density of one row's response."""
    a += d.aux_rows[row]
    return zeroed(d.zeros, d.family, d.link, d.y[row], d.trials[row], eta, a, d.zeta[row])


@kernel
def curve(d: Observed, eta: Array, a: float, expected: bool) -> Curve:
    """All derivatives at η."""
    n = eta.size
    zero_size = n if d.zeros else 0
    first, weight, observed, change = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    change_aux, value_aux, first_aux = np.empty(n), np.empty(n), np.empty(n)
    change_zero, value_zero, first_zero = np.empty(zero_size), np.empty(zero_size), np.empty(zero_size)
    for row in range(n):
        w = d.weights[row]
        whole = at_row(d, row, eta[row], a)
        at = whole.density
        first[row] = w * at.first
        observed[row] = -w * at.second
        weight[row] = w * at.information if expected else -w * at.second
        change[row] = w * at.information_eta if expected else -w * at.third
        change_aux[row] = w * at.information_aux if expected else -w * at.second_aux
        first_aux[row] = w * at.first_aux
        value_aux[row] = w * at.value_aux
        if d.zeros:
            change_zero[row] = w * whole.information_zero if expected else -w * whole.second_zero
            first_zero[row] = w * whole.first_zero
            value_zero[row] = w * whole.value_zero
    return Curve(first, weight, observed, change, change_aux, value_aux, first_aux, change_zero, value_zero, first_zero)


@kernel
def slopes(d: Observed, eta: Array, a: float, expected: bool, first: Array, weight: Array) -> float:
    """Fill ℓ' and the weights of a step; returns Σ w ℓ."""
    total = 0.0
    for row in range(eta.size):
        at = at_row(d, row, eta[row], a).density
        w = d.weights[row]
        first[row] = w * at.first
        information = at.information if np.isfinite(at.information) else abs(at.second)
        weight[row] = w * (information if expected else -at.second)
        total += w * at.value
    return total


@kernel
def right_hand_sides(s: System, rows: Rows, d: Observed, w: Array, working: Array, joint: bool) -> Array:
    """B = Z'[WX, working] with `joint`, Z'working without; fills the last columns of s.B, returns the rows' columns."""
    p = d.X.shape[1] if joint else 0
    V = np.empty((w.size, p + 1))
    for row in range(w.size):
        for j in range(p):
            V[row, j] = w[row] * d.X[row, j]
        V[row, p] = working[row]
    transposed_times(s, rows, V, s.B)
    return V


@kernel
def solve(s: System, d: Observed, lam: Array, fac: Factor, V: Array, joint: bool) -> tuple[Array, Array, bool]:
    """b and β of [M, Λ'Z'WX; ·, X'WX][b; β] = [Λ'Z'v; X'v], v the last column of V; without `joint`, of Mb = Λ'Z'v."""
    p = V.shape[1] - 1
    beta = np.empty(p)
    contrast = np.ones((p + 1, 1))
    if p > 0:
        S = np.dot(d.X.T, V) - gram(fac.Y)[:p]
        root = S[:, :p].copy()
        beta[:] = S[:, p]
        logdet = cholesky_in_place(root)
        if not np.isfinite(logdet):
            return np.zeros((fac.Y.shape[0], 1)), beta, False
        forward(root, beta)
        backward(root, beta)
        contrast[:p, 0] = -beta
    return back_solve(s, fac, np.dot(fac.Y, contrast)), beta, bool(np.isfinite(fac.logdet))


@kernel
def settled(decrement: float, previous: float, value: float, expected: bool) -> bool:
    """Whether what is left after a full step is rounding: Newton's steps square the error, others do not."""
    unit = max(1.0, abs(value))
    return decrement < REST * unit or (not expected and decrement**3 < REST * unit * previous**2)


@kernel
def find_mode(s: System, rows: Rows, d: Observed, lam: Array, beta: Array, a: float, b: Array, joint: bool) -> Mode:
    """Newton's steps on h from b (and β), halved until h rises; expected weights where the observed ones do not serve."""
    b, beta = b.copy(), beta.copy()
    fixed = d.offset + np.dot(d.X, beta)
    random = times(s, rows, times_lambda(s, lam, b)[:, 0])
    eta = fixed + random
    first, w, trial = np.empty(eta.size), np.empty(eta.size), np.empty(eta.size)
    steps, converged, expected, previous = 0, False, False, 0.0
    value = slopes(d, eta, a, expected, first, w) - 0.5 * np.sum(b * b)
    while steps < MOST_STEPS and not converged and np.isfinite(value):
        steps += 1
        weigh(s, rows, w)
        working = w * (eta - d.offset if joint else random) + first
        V = right_hand_sides(s, rows, d, w, working, joint)
        target, beta_target, sound = solve(s, d, lam, factorise(s, lam), V, joint)
        beta_step = beta_target - beta if joint else np.zeros_like(beta)
        random_step = times(s, rows, times_lambda(s, lam, target)[:, 0]) - random
        move = random_step + np.dot(d.X, beta_step) if joint else random_step
        decrement = np.dot(first, move) - np.sum(b * (target - b))
        size, risen = 1.0, False
        there, b_trial = value, b
        while sound and not risen and size > 1e-9:
            trial[:] = eta + size * move
            b_trial = b + size * (target - b)
            there = slopes(d, trial, a, expected, first, w) - 0.5 * np.sum(b_trial * b_trial)
            rounding = NOISE * max(1.0, abs(value)) if decrement < NOISE * max(1.0, abs(value)) else 1e-13 * abs(value)
            risen = there >= value - rounding
            size *= 0.5 if not risen else 1.0
        if not risen:
            if expected or (sound and decrement < REST * max(1.0, abs(value))):
                break
            expected, previous = True, 0.0
            slopes(d, eta, a, expected, first, w)
            continue
        b, beta, value = b_trial, beta + size * beta_step, there
        eta[:] = trial
        random += size * random_step
        converged = size == 1.0 and settled(decrement, previous, value, expected)
        previous = decrement
    return Mode(b, beta, eta, value, steps, converged)


@kernel
def laplace(
    s: System,
    rows: Rows,
    d: Observed,
    lam: Array,
    beta: Array,
    a: float,
    b: Array,
    joint: bool,
    expected: bool,
) -> Approximation:
    """L and its gradient in (λ, β, a), started from b."""
    found = find_mode(s, rows, d, lam, beta, a, b, joint)
    at = curve(d, found.eta, a, expected)
    weigh(s, rows, at.weight)
    fac = factorise(s, lam)
    inverse = selected_inverse(s, fac)
    A11, A21, A22 = logdet_products(s, lam, inverse, 1.0)
    lam_bar = np.zeros(lam.size)
    logdet_pullback(s, lam, inverse, -1.0, lam_bar)
    leverage = quadratic_forms(s, rows, A11, A21, A22)
    c = -0.5 * leverage * at.change
    if expected or joint:  # the system that the mode obeys
        weigh(s, rows, at.observed)
        V = right_hand_sides(s, rows, d, at.observed, c, joint)
        adjoint, beta_adjoint, _ = solve(s, d, lam, factorise(s, lam), V, joint)
    else:
        column = np.empty((s.B.shape[0], 1))
        transposed_times(s, rows, c.reshape((-1, 1)), column)
        adjoint = back_solve(s, fac, half_solve(s, fac, times_lambda_transposed(s, lam, column)))
        beta_adjoint = np.empty(0)
    t = times(s, rows, times_lambda(s, lam, adjoint)[:, 0])
    if joint:
        t += np.dot(d.X, beta_adjoint)
    e = at.first + c - at.observed * t
    both = np.empty((e.size, 2))
    both[:, 0], both[:, 1] = e, at.first
    products = np.empty((s.B.shape[0], 2))
    transposed_times(s, rows, both, products)
    right = np.empty_like(products)
    right[:, 0], right[:, 1] = found.b[:, 0], adjoint[:, 0]
    add_outer(s, products, right, 1.0, lam_bar)
    aux = at.value_aux - 0.5 * leverage * at.change_aux + t * at.first_aux
    zeta = at.value_zero - 0.5 * leverage * at.change_zero + t * at.first_zero if d.zeros else at.value_zero
    value = found.value - 0.5 * fac.logdet
    return Approximation(value, lam_bar, np.dot(d.X.T, e), aux.sum(), found, aux, zeta)
