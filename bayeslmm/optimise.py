"""objective → Optimum: bounded quasi-Newton, Newton steps to the end, and an honest account of the boundary.

The objective is any smooth function of theta. A zero on the diagonal of a factor λ is accepted only when the objective
does not fall in any direction of λλ' that leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from bayeslmm.corners import Layout, moved
from bayeslmm.covariance import Covariance

Array = NDArray[np.float64]
Objective = Callable[[Array], tuple[float, Array]]
_Place = tuple[Array, float, Array]  # x, objective, gradient

# Newton decrement g'H⁻¹g, in units of −2 log-likelihood: an error of 1e-5 standard errors in every parameter.
DECREMENT = 1e-10
# A relative standard deviation below this is tried at exactly 0.
SMALL = 1e-3
# Relative rounding of the objective.
ROUNDING = 1e-13
# What rounding can add where the residual is small beside the random effects: the gradient is then the better guide.
NOISE = 1e-8
# Relative variance of the trial step away from a zero, and the fall per unit of it that counts as one.
STEP, FALL = 1e-5, 1e-6
# Slope of the objective along an effect without variance, at which it takes part in another effect's variation.
SLOPE = 1e-5
LARGEST = 1e6
# Newton decrements travelled since the Hessian was taken, above which it is taken anew where it gives standard errors.
STALE = 1e-8
# Relative fall of the objective at which a search for a start ends.
ROUGH = 1e-5
MAX_RESTARTS = 10


@dataclass(frozen=True, eq=False)
class Optimum:
    """Where the objective is smallest, and how that is known.

    Parameters
    ----------
    theta : ndarray (m,)
        The minimiser.
    value : float
        The objective there.
    gradient : ndarray (m,)
        Its gradient; zero by symmetry at a zero of a factor's diagonal.
    hessian : ndarray (m, m)
        Second derivatives; rows of fixed entries are zero.
    free : ndarray of bool (m,)
        Entries that are not on the boundary.
    converged : bool
    message : str
        What happened and, if it did not converge, what to try.
    evaluations : int
    """

    theta: Array
    value: float
    gradient: Array
    hessian: Array
    free: NDArray[np.bool_]
    converged: bool
    message: str
    evaluations: int


class _Counted:
    """Counts evaluations and turns what is no number into +inf, which every line search backs away from."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.count = objective, 0

    def __call__(self, theta: Array) -> tuple[float, Array]:
        self.count += 1
        value, gradient = self.objective(theta)
        if not np.isfinite(value):
            return np.inf, np.zeros_like(theta)
        return value, gradient


def minimise(
    objective: Objective,
    start: Array,
    covariances: Sequence[Covariance] = (),
    scale: Array | None = None,
    *,
    near: bool = False,
) -> Optimum:
    """Minimise an objective over theta.

    Parameters
    ----------
    objective : callable
        theta (m,) → value and gradient. The first entries of theta are the covariances' parameters, term by term;
        any entries after them are unbounded.
    start : ndarray (m,)
        Where to begin.
    covariances : sequence of Covariance
        Which entries make up which factor λ.
    scale : ndarray (m,) or (m, m), optional
        Natural size of each entry, or the matrix that takes the search's coordinates to theta (`Model.theta_basis`).
    near : bool
        Whether the start is so near that Newton's steps can begin there.

    Returns
    -------
    Optimum

    Notes
    -----
    `converged` means: the Newton decrement of the free entries is below 1e-10, their Hessian is positive definite, and
    no zero variance could be left downhill.
    """
    basis = np.eye(len(start)) if scale is None else np.asarray(scale, float)
    basis = np.diag(basis) if basis.ndim == 1 else basis
    counted = _Counted(lambda x: _rescaled(objective, x, basis))
    layout = Layout(covariances, len(start))
    x = np.asarray(start, float)
    if not len(x):
        value, gradient = objective(x)
        return Optimum(x, value, gradient, np.zeros((0, 0)), layout.free(x), True, "nothing to optimise", 1)
    back = np.linalg.inv(basis)
    x, tight, fresh = back @ x, False, False
    for _ in range(MAX_RESTARTS):
        x, message = _descend(counted, x, layout, tight, near)
        fresh, near = fresh or near, False
        end = _newton(counted, x, layout, fresh)
        again = None if message else _again(counted, end, layout)
        if again is None and not tight and (message or _verdict(end)):
            again, tight = end.x, True
        if again is None:
            break
        x = again
    message = message or _verdict(end)
    with np.errstate(over="ignore"):
        hessian = back.T @ end.hessian @ back
    outcome = message or "converged"
    theta = _without_traces(objective, basis @ end.x, end.value, layout, np.diag(basis))
    return Optimum(theta, end.value, back.T @ end.gradient, hessian, end.free, not message, outcome, counted.count)


def inside(objective: Objective, x: Array, n_theta: int) -> Array:
    """A start, its random effects made smaller until a prior gives it a density."""
    share = np.where(np.arange(len(x)) < n_theta, 0.3, 1.0)
    for power in range(6):
        if np.isfinite(objective(x * share**power)[0]):
            return np.asarray(x * share**power)
    return x  # a density of 0 at a zero of theta, which the search leaves


def _without_traces(objective: Objective, theta: Array, value: float, layout: Layout, unit: Array) -> Array:
    """Theta with an effect's row of λ at exactly 0 where only rounding of the search's coordinates is left of it."""
    for row in layout.rows():
        size = np.max(np.abs(theta[row] / unit[row]))
        if 0 < size < SMALL:
            trial = theta.copy()
            trial[row] = 0.0
            if objective(trial)[0] <= value + ROUNDING * max(1.0, abs(value)):
                theta = trial
    return theta


class _End(NamedTuple):
    """Where Newton's steps end."""

    x: Array
    value: float
    gradient: Array
    hessian: Array
    free: NDArray[np.bool_]
    decrement: float
    definite: bool


def _rescaled(objective: Objective, x: Array, basis: Array) -> tuple[float, Array]:
    value, gradient = objective(basis @ x)
    return value, basis.T @ gradient


def _descend(counted: _Counted, x: Array, layout: Layout, tight: bool, near: bool = False) -> tuple[Array, str]:
    """Quasi-Newton runs until no zero can be left downhill; a message where that does not end."""
    for run in range(MAX_RESTARTS):
        x = layout.canonical(x) if near and run == 0 else _quasi_newton(counted, x, layout, tight)
        x = _try_zeros(counted, x, layout)
        away = _leave_zero(counted, x, layout)
        away = _turn(counted, x, layout) if away is None else away
        if away is None:
            return x, ""
        x = away
    return x, "a variance keeps moving to and from zero; try other start values or a simpler random part"


def approach(objective: Objective, start: Array, covariances: Sequence[Covariance], scale: Array) -> Array:
    """A point near the minimiser, by a short quasi-Newton run."""
    if not len(start):
        return start
    back, layout = np.linalg.inv(scale), Layout(covariances, len(start))
    bounds = list(zip(layout.lower, np.full(len(start), np.inf), strict=True))
    found = minimize(
        lambda x: _rescaled(objective, x, scale), back @ start, jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": 50, "ftol": ROUGH, "gtol": 1e-1},
    )  # fmt: skip
    return np.asarray(scale @ layout.canonical(np.asarray(found.x)))


def _quasi_newton(counted: _Counted, x: Array, layout: Layout, tight: bool) -> Array:
    """L-BFGS-B as far as Newton's steps need it; `tight` where they failed from there."""
    bounds = list(zip(layout.lower, np.full(len(x), np.inf), strict=True))
    options = {"maxiter": 500, "ftol": 1e-13 if tight else 1e-9, "gtol": 1e-7 if tight else 1e-3, "maxcor": 20}
    found = minimize(counted, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return layout.canonical(np.asarray(found.x))


def _try_zeros(counted: _Counted, x: Array, layout: Layout) -> Array:
    small = np.flatnonzero(layout.could_vanish(x) & (np.abs(x) < SMALL) & (x != 0))
    if not len(small):
        return x
    value, _ = counted(x)
    for i in small:
        trial = x.copy()
        trial[i] = 0.0
        trial = layout.canonical(trial)
        there, _ = counted(trial)
        if there <= value + ROUNDING * max(1.0, abs(value)):
            x, value = trial, there
    return x


def _leave_zero(counted: _Counted, x: Array, layout: Layout) -> Array | None:
    """A point below x beyond a zero that should not be one; None where every zero is right."""
    exits = layout.exits(x)
    if not exits:
        return None
    value, _ = counted(x)
    enough = FALL * STEP * max(1.0, abs(value)) if np.isfinite(value) else 0.0
    for where, covariance, basis in exits:
        v = _steepest(counted, x, value, where, covariance, basis)
        near, _ = counted(moved(x, where, covariance, v, STEP))
        if near < value - enough:
            step = STEP
            while step < 1.0:
                further, _ = counted(moved(x, where, covariance, v, 10 * step))
                if further >= near:
                    break
                near, step = further, 10 * step
            return moved(x, where, covariance, v, step)
    return None


def _steepest(counted: _Counted, x: Array, value: float, where: slice, covariance: Covariance, basis: Array) -> Array:
    """The unit v in the span of `basis` along which the objective at λλ' + s vv' has the least slope in s."""
    size = basis.shape[1]
    if size == 1 or not np.isfinite(value):
        return basis.sum(axis=1) / np.sqrt(size)
    slopes = np.zeros((size, size))
    for i in range(size):
        for j in range(i + 1):
            v = (basis[:, i] + basis[:, j]) * (0.5 if i == j else 1.0)
            slopes[i, j] = slopes[j, i] = (counted(moved(x, where, covariance, v, STEP))[0] - value) / STEP
    alone = np.diag(slopes)
    form = 0.5 * (slopes - np.add.outer(alone, alone))
    form[np.diag_indices(size)] = alone
    return np.asarray(basis @ np.linalg.eigh(form)[1][:, 0])


def _turn(counted: _Counted, x: Array, layout: Layout) -> Array | None:
    """A point as good as x from which an effect without variance can take part in another's; None where it should not.

    At λ = [0 0; 0 c] the slope in the covariance of the two effects does not show; at [0 0; ±c 0], the same
    point, it does.
    """
    for place, other in layout.turned(x):
        slope = counted(other)[1][place]
        if abs(slope) > SLOPE:
            return other if slope < 0 else _mirrored(other, place, layout)
    return None


def _mirrored(x: Array, place: int, layout: Layout) -> Array:
    """x with the column of λ whose diagonal stands at `place` negated."""
    x = x.copy()
    for covariance, where in zip(layout.covariances, layout.slices, strict=True):
        if where.start <= place < where.stop:
            columns = covariance.pattern[1]
            x[where][columns == columns[place - where.start]] *= -1.0
    return x


def _newton(counted: _Counted, x: Array, layout: Layout, fresh: bool) -> _End:
    """Newton steps on the free entries, with the Hessian by differences of the exact gradient; `fresh`: of the end point."""
    value, gradient = counted(x)
    free = layout.free(x)
    hessian = _hessian(counted, x, gradient, free)
    decrement, travelled = np.inf, 0.0
    for _ in range(25):
        if not free.any():
            return _End(x, value, gradient, hessian, free, 0.0, True)
        try:
            factor = cho_factor(hessian[np.ix_(free, free)])
        except (np.linalg.LinAlgError, ValueError):
            return _End(x, value, gradient, hessian, free, np.inf, False)
        previous, decrement = decrement, float(gradient[free] @ cho_solve(factor, gradient[free]))
        if decrement < DECREMENT * 1e-4:
            break
        best = _step(counted, (x, value, gradient), free, factor, layout)
        if best is None:
            break
        x, value, gradient = best
        travelled += decrement
        if decrement > min(1e-4, 0.01 * previous):
            hessian, travelled = _hessian(counted, x, gradient, free), 0.0
    if fresh and travelled > STALE:
        hessian = _hessian(counted, x, gradient, free)
    return _End(x, value, gradient, hessian, free, decrement, True)


def _step(
    counted: _Counted, at: _Place, free: NDArray[np.bool_], factor: tuple[Array, bool], layout: Layout
) -> _Place | None:
    """The longest of the halved Newton steps that goes down or, where rounding hides that, lessens the gradient."""
    x, value, gradient = at
    step = np.zeros_like(x)
    step[free] = -cho_solve(factor, gradient[free])
    decrement, size = float(-gradient @ step), 1.0
    while size > 1e-4:
        trial = x + size * step
        if (trial >= layout.lower).all():
            there, slope = counted(trial)
            rise = (there - value) / max(1.0, abs(value))
            if rise <= ROUNDING or (rise <= NOISE and slope[free] @ cho_solve(factor, slope[free]) < 0.5 * decrement):
                return trial, there, slope
        size *= 0.5
    return None


def _again(counted: _Counted, end: _End, layout: Layout) -> Array | None:
    """A point to search from once more: a zero found late, or down a negative curvature; None at an optimum."""
    if end.definite:
        nearer = _try_zeros(counted, end.x, layout)
        return nearer if (nearer != end.x).any() else None
    if not np.isfinite(end.hessian).all() or not np.isfinite(end.value):
        return None
    values, vectors = np.linalg.eigh(end.hessian[np.ix_(end.free, end.free)])
    v = np.zeros_like(end.x)
    v[end.free] = vectors[:, 0]
    for direction in (v, -v) if values[0] < 0 else ():
        for size in (0.3, 0.1, 0.03, 0.01, 0.003):
            trial = np.maximum(end.x + size * direction, layout.lower)
            if counted(trial)[0] < end.value - ROUNDING * max(1.0, abs(end.value)):
                return trial
    return None


def _hessian(counted: _Counted, x: Array, gradient: Array, free: NDArray[np.bool_]) -> Array:
    hessian = np.zeros((len(x), len(x)))
    for i in np.flatnonzero(free):
        h = 1e-5 * max(abs(x[i]), 1e-2)
        ahead = x.copy()
        ahead[i] += h
        hessian[i] = (counted(ahead)[1] - gradient) / h
    hessian[:, ~free] = 0.0
    return 0.5 * (hessian + hessian.T)


def _verdict(end: _End) -> str:
    """The empty string where the optimum is one; otherwise what is wrong and what to try."""
    if np.abs(end.x).max(initial=0.0) > LARGEST:
        return "a variance grows without bound relative to the residual's; the model may fit the data exactly"
    if not end.definite:
        return "the curvature at the end point is not positive; try other start values or a simpler random part"
    if not end.decrement < DECREMENT:
        return f"the gradient did not vanish (Newton decrement {end.decrement:.1e}); try other start values"
    return ""
