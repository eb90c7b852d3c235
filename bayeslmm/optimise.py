"""objective → Optimum: bounded quasi-Newton, Newton steps to the end, and an honest account of the boundary.

The objective is any smooth function of theta. A zero on the diagonal of a factor λ is accepted only when the objective
does not fall in any direction of λλ' that leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from bayeslmm.covariance import Covariance, psd_factor
from bayeslmm.terms import RandomTerm

Array = NDArray[np.float64]
Objective = Callable[[Array], tuple[float, Array]]

# Newton decrement g'H⁻¹g, in units of −2 log-likelihood: an error of 1e-5 standard errors in every parameter.
DECREMENT = 1e-10
# A relative standard deviation below this is tried at exactly 0.
SMALL = 1e-3
# Relative variance of the trial step away from a zero, and the fall per unit of it that counts as one.
STEP, FALL = 1e-5, 1e-6
# Slope of the objective along an effect without variance, at which it takes part in another effect's variation.
SLOPE = 1e-5
LARGEST = 1e6
MAX_RESTARTS = 10
# Effects of one term closer to collinear than this are searched as they are.
COLLINEAR = 1e-10


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
    objective: Objective, start: Array, covariances: Sequence[Covariance] = (), scale: Array | None = None
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
        Natural size of each entry, or the matrix that takes the search's coordinates to theta (`orthogonal_basis`).

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
    layout = _Layout(covariances, len(start))
    x = np.asarray(start, float)
    if not len(x):
        value, gradient = objective(x)
        return Optimum(x, value, gradient, np.zeros((0, 0)), layout.free(x), True, "nothing to optimise", 1)
    back = np.linalg.inv(basis)
    x, message = _descend(counted, back @ x, layout)
    value, gradient = counted(x)
    free = layout.free(x)
    x, value, gradient, hessian, decrement, definite = _newton(counted, x, value, gradient, free, layout)
    if not message:
        message = _verdict(decrement, definite, x, layout)
    with np.errstate(over="ignore"):
        hessian = back.T @ hessian @ back
    outcome = message or "converged"
    return Optimum(basis @ x, value, back.T @ gradient, hessian, free, not message, outcome, counted.count)


def _rescaled(objective: Objective, x: Array, basis: Array) -> tuple[float, Array]:
    value, gradient = objective(basis @ x)
    return value, basis.T @ gradient


def orthogonal_basis(terms: Sequence[RandomTerm]) -> Array:
    """Theta from the theta of the same terms with their effects' columns orthogonalised, root mean square 1.

    With columns Z = QT, T lower triangular and Q orthogonal, effects Tu on Q have the factor Tλ, lower triangular like λ;
    so a predictor far from 0 does not slow the search by a correlation near ±1.

    Parameters
    ----------
    terms : sequence of RandomTerm
        In theta's order.

    Returns
    -------
    ndarray (m, m)
        Block-diagonal, lower triangular, its diagonal positive.
    """
    blocks = [np.empty((0, 0))]
    for term in terms:
        inverse = _inverse_factor(term)
        if term.covariance.pairs:
            blocks += [inverse[j:, j:] for j in range(len(inverse))]
        else:
            blocks.append(np.diag(np.diag(inverse)))
    return np.asarray(block_diag(*blocks))


def _inverse_factor(term: RandomTerm) -> Array:
    """T⁻¹ of the term's columns; diagonal where its effects are independent or all but collinear."""
    size = np.abs(term.columns).max(axis=0)
    columns = term.columns / size
    norm = np.sqrt(np.mean(columns**2, axis=0))
    if not term.covariance.pairs:
        return np.diag(1.0 / (size * norm))
    R = np.linalg.qr(columns[:, ::-1] / norm, mode="r")[::-1, ::-1] / np.sqrt(len(columns))
    T = R * np.sign(np.diag(R))[:, None]
    if np.abs(np.diag(T)).min() < COLLINEAR:
        return np.diag(1.0 / (size * norm))
    return np.asarray(solve_triangular(T, np.eye(len(T)), lower=True) / (size * norm)[:, None])


class _Layout:
    """Which entries of x belong to which λ."""

    def __init__(self, covariances: Sequence[Covariance], size: int) -> None:
        self.covariances = covariances
        ends = np.cumsum([0] + [c.n_theta for c in covariances])
        self.slices = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        self.bounded = np.zeros(size, bool)
        for covariance, where in zip(covariances, self.slices, strict=True):
            self.bounded[where] = covariance.is_diagonal
        self.lower = np.where(self.bounded, 0.0, -np.inf)

    def free(self, x: Array) -> NDArray[np.bool_]:
        """Entries outside the columns of λ that a zero on the diagonal has closed."""
        free = np.ones(len(x), bool)
        for covariance, where in zip(self.covariances, self.slices, strict=True):
            closed = np.diag(covariance.factor(x[where])) == 0
            free[where] = ~closed[covariance.pattern[1]]
        return free

    def canonical(self, x: Array) -> Array:
        """The same covariances with signs and zero columns in standard form."""
        x = x.copy()
        for covariance, where in zip(self.covariances, self.slices, strict=True):
            lam = covariance.factor(x[where])
            if covariance.pairs and (np.diag(lam) == 0).any():
                lam = psd_factor(lam @ lam.T)
            x[where] = covariance.theta(lam)
        return x

    def exits(self, x: Array) -> list[tuple[slice, Covariance, Array]]:
        """For each λ on the boundary, the columns whose span holds every v with λλ' + s vv' off it."""
        found = []
        for covariance, where in zip(self.covariances, self.slices, strict=True):
            lam = covariance.factor(x[where])
            zero = np.diag(lam) == 0
            if zero.any() and covariance.pairs:
                found.append((where, covariance, np.linalg.eigh(lam @ lam.T)[1][:, : zero.sum()]))
            elif zero.any():
                found += [(where, covariance, v[:, None]) for v in np.eye(covariance.size)[zero]]
        return found

    def turned(self, x: Array) -> list[tuple[int, Array]]:
        """The same covariances, a zero column of λ exchanged for a later one; and where its diagonal stands."""
        found = []
        for covariance, where in zip(self.covariances, self.slices, strict=True):
            lam = covariance.factor(x[where])
            place = np.flatnonzero(self.bounded[where]) + where.start
            for j in np.flatnonzero(np.diag(lam) == 0) if covariance.pairs else ():
                for later in np.flatnonzero(np.diag(lam) > 0):
                    if later > j:
                        other = x.copy()
                        swapped = lam.copy()
                        swapped[:, [j, later]] = lam[:, [later, j]]
                        other[where] = swapped[covariance.pattern]
                        found.append((int(place[j]), other))
        return found


def _moved(x: Array, where: slice, covariance: Covariance, v: Array, step: float) -> Array:
    moved = x.copy()
    lam = covariance.factor(x[where])
    moved[where] = covariance.theta(psd_factor(lam @ lam.T + step * np.outer(v, v)))
    return moved


def _descend(counted: _Counted, x: Array, layout: _Layout) -> tuple[Array, str]:
    """Quasi-Newton runs until no zero can be left downhill; a message where that does not end."""
    for _ in range(MAX_RESTARTS):
        x = _quasi_newton(counted, x, layout)
        x = _try_zeros(counted, x, layout)
        away = _leave_zero(counted, x, layout)
        away = _turn(counted, x, layout) if away is None else away
        if away is None:
            return x, ""
        x = away
    return x, "a variance keeps moving to and from zero; try other start values or a simpler random part"


def _quasi_newton(counted: _Counted, x: Array, layout: _Layout) -> Array:
    bounds = list(zip(layout.lower, np.full(len(x), np.inf), strict=True))
    options = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-6, "maxcor": 20}
    found = minimize(counted, x, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return layout.canonical(np.asarray(found.x))


def _try_zeros(counted: _Counted, x: Array, layout: _Layout) -> Array:
    small = np.flatnonzero(layout.bounded & (x < SMALL) & (x > 0))
    if not len(small):
        return x
    value, _ = counted(x)
    for i in small:
        trial = x.copy()
        trial[i] = 0.0
        trial = layout.canonical(trial)
        there, _ = counted(trial)
        if there <= value:
            x, value = trial, there
    return x


def _leave_zero(counted: _Counted, x: Array, layout: _Layout) -> Array | None:
    """A point below x beyond a zero that should not be one; None where every zero is right."""
    exits = layout.exits(x)
    if not exits:
        return None
    value, _ = counted(x)
    enough = FALL * STEP * max(1.0, abs(value)) if np.isfinite(value) else 0.0
    for where, covariance, basis in exits:
        v = _steepest(counted, x, value, where, covariance, basis)
        near, _ = counted(_moved(x, where, covariance, v, STEP))
        if near < value - enough:
            step = STEP
            while step < 1.0:
                further, _ = counted(_moved(x, where, covariance, v, 10 * step))
                if further >= near:
                    break
                near, step = further, 10 * step
            return _moved(x, where, covariance, v, step)
    return None


def _steepest(
    counted: _Counted, x: Array, value: float, where: slice, covariance: Covariance, basis: Array
) -> Array:
    """The unit v in the span of `basis` along which the objective at λλ' + s vv' has the least slope in s."""
    size = basis.shape[1]
    if size == 1 or not np.isfinite(value):
        return basis.sum(axis=1) / np.sqrt(size)
    slopes = np.zeros((size, size))
    for i in range(size):
        for j in range(i + 1):
            v = (basis[:, i] + basis[:, j]) * (0.5 if i == j else 1.0)
            slopes[i, j] = slopes[j, i] = (counted(_moved(x, where, covariance, v, STEP))[0] - value) / STEP
    alone = np.diag(slopes)
    form = 0.5 * (slopes - np.add.outer(alone, alone))
    form[np.diag_indices(size)] = alone
    return np.asarray(basis @ np.linalg.eigh(form)[1][:, 0])


def _turn(counted: _Counted, x: Array, layout: _Layout) -> Array | None:
    """A point as good as x from which an effect without variance can take part in another's; None where it should not.

    At λ = [0 0; 0 c] the slope in the covariance of the two effects does not show; at [0 0; ±c 0], the same point, it does.
    """
    for place, other in layout.turned(x):
        slope = counted(other)[1][place]
        if abs(slope) > SLOPE:
            return other if slope < 0 else _mirrored(other, place, layout)
    return None


def _mirrored(x: Array, place: int, layout: _Layout) -> Array:
    """x with the column of λ whose diagonal stands at `place` negated."""
    x = x.copy()
    for covariance, where in zip(layout.covariances, layout.slices, strict=True):
        if where.start <= place < where.stop:
            columns = covariance.pattern[1]
            x[where][columns == columns[place - where.start]] *= -1.0
    return x


def _newton(
    counted: _Counted, x: Array, value: float, gradient: Array, free: NDArray[np.bool_], layout: _Layout
) -> tuple[Array, float, Array, Array, float, bool]:
    """Newton steps on the free entries, with the Hessian by differences of the exact gradient."""
    hessian = _hessian(counted, x, gradient, free)
    decrement, definite = 0.0, True
    for _ in range(12):
        try:
            factor = cho_factor(hessian[np.ix_(free, free)]) if free.any() else None
        except (np.linalg.LinAlgError, ValueError):
            return x, value, gradient, hessian, np.inf, False
        if factor is None:
            return x, value, gradient, hessian, 0.0, True
        step = np.zeros_like(x)
        step[free] = -cho_solve(factor, gradient[free])
        decrement = float(-gradient @ step)
        if decrement < DECREMENT * 1e-4:
            break
        size, best = 1.0, None
        while size > 1e-4 and best is None:
            trial = x + size * step
            if (trial >= layout.lower).all():
                there, slope = counted(trial)
                rounding = 1e-13 * max(1.0, abs(value))
                best = (trial, there, slope) if there <= value + rounding else None
            size *= 0.5
        if best is None:
            break
        far = decrement > 1e-4
        x, value, gradient = best
        if far:
            hessian = _hessian(counted, x, gradient, free)
    return x, value, gradient, hessian, decrement, definite


def _hessian(counted: _Counted, x: Array, gradient: Array, free: NDArray[np.bool_]) -> Array:
    hessian = np.zeros((len(x), len(x)))
    for i in np.flatnonzero(free):
        h = 1e-5 * max(abs(x[i]), 1e-2)
        ahead = x.copy()
        ahead[i] += h
        hessian[i] = (counted(ahead)[1] - gradient) / h
    hessian[:, ~free] = 0.0
    return 0.5 * (hessian + hessian.T)


def _verdict(decrement: float, definite: bool, x: Array, layout: _Layout) -> str:
    """The empty string where the optimum is one; otherwise what is wrong and what to try."""
    if np.abs(x).max(initial=0.0) > LARGEST:
        return "a variance grows without bound relative to the residual's; the model may fit the data exactly"
    if not definite:
        return "the curvature at the end point is not positive; try other start values or a simpler random part"
    if not decrement < DECREMENT:
        return f"the gradient did not vanish (Newton decrement {decrement:.1e}); try other start values"
    return ""
