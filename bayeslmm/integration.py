"""The integral of a density known up to its constant: on a grid in few dimensions, from draws in more.

Meng & Wong (1996), Statistica Sinica 6; Meng & Schilling (2002), JCGS 11 (warp-III); Gronau et al. (2017), J. Math.
Psych. 81; Frühwirth-Schnatter (2004), Econometrics J. 7 (the error).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from bayeslmm.errors import MethodError

Array = NDArray[np.float64]
LOG_2PI = float(np.log(2.0 * np.pi))
TOLERANCE = 1e-3  # of the log integral, between one step of the grid and half of it
MOST_POINTS = 200_000
FALLEN = 20.0  # log density below the mode's from which points are left out
ROUNDING = 1e-8  # what the points left out may add
FEWEST_DRAWS = 50  # a dimension, in each half of the draws
STEP = 1e-4
LARGE_ERROR = 0.1


class Target(Protocol):
    """A density on R^d up to its constant."""

    @property
    def start(self) -> Array:
        """A point (d,) in the bulk."""

    def log_density(self, x: Array) -> tuple[float, Array]:
        """The value at x (d,), −inf where there is none, and its gradient."""


class Integral(NamedTuple):
    """The logarithm of an integral, its error, and what to doubt."""

    log: float
    error: float
    doubts: tuple[str, ...]


def log_densities(target: Target, points: Array) -> Array:
    """Values (m,) at points (m, d)."""
    return np.array([target.log_density(np.ascontiguousarray(x))[0] for x in points])


def quadrature(target: Target) -> Integral:
    """Log ∫ exp(log density) by the trapezoidal rule on a grid that the curvature at the mode makes round.

    Parameters
    ----------
    target : Target
        Smooth, on the whole of R^d, d small.

    Returns
    -------
    Integral
        The step is halved until the logarithm moves by less than 1e-3; the error is that last move, which is that of the
        *coarser* grid: for an analytic density the rule's error falls exponentially in 1/step.

    Examples
    --------
    >>> class Normal:
    ...     start = np.zeros(1)
    ...     def log_density(self, x):
    ...         return -0.5 * float(x @ x), -x
    >>> round(quadrature(Normal()).log, 8) == round(0.5 * float(np.log(2 * np.pi)), 8)
    True
    """
    size = len(target.start)

    def objective(y: Array) -> tuple[float, Array]:
        value, gradient = target.log_density(y)
        return (1e300, gradient) if value == -np.inf else (-value, -gradient)

    found = minimize(objective, target.start, jac=True, method="BFGS", options={"gtol": 1e-6})
    mode, top = found.x, -float(found.fun)
    scale = _scale(target, mode)

    def relative(z: Array) -> Array:
        return log_densities(target, mode + z @ scale.T) - top

    grid: dict[tuple[int, ...], float] = {(0,) * size: 0.0}
    step, before, error = 1.0, np.nan, np.inf
    while error > TOLERANCE and len(grid) < MOST_POINTS:
        _fill(grid, step, relative)
        value = float(np.logaddexp.reduce(list(grid.values()))) + size * float(np.log(step))
        error, before, step = (np.inf if np.isnan(before) else abs(value - before)), value, step / 2
        grid = {tuple(2 * i for i in key): density for key, density in grid.items()}
    doubts = [] if error <= TOLERANCE else ["Quadrature did not reach its tolerance; the error is what it reached."]
    value = top + before + float(np.linalg.slogdet(scale)[1])
    return Integral(value, max(error, ROUNDING), tuple(doubts))


def _fill(grid: dict[tuple[int, ...], float], step: float, log_density: Callable[[Array], Array]) -> None:
    """Add the points of a grid around those where the density is not negligible, outwards until it is."""
    size = len(next(iter(grid)))
    moves = [tuple(sign * (i == j) for j in range(size)) for i in range(size) for sign in (-1, 1)]
    frontier = [key for key, value in grid.items() if value > -FALLEN]
    while frontier:
        near = {tuple(a + b for a, b in zip(key, move, strict=True)) for key in frontier for move in moves}
        new = sorted(near - grid.keys())
        if not new:
            return
        values = log_density(step * np.array(new, float))
        grid.update(zip(new, values.tolist(), strict=True))
        frontier = [key for key, value in zip(new, values, strict=True) if value > -FALLEN]


def _scale(target: Target, mode: Array) -> Array:
    """A factor of the inverse of minus the Hessian at the mode; directions that do not bend have length 1."""
    size = len(mode)
    steps = STEP * np.eye(size)
    hessian = -np.array(
        [(target.log_density(mode + s)[1] - target.log_density(mode - s)[1]) / (2 * STEP) for s in steps]
    )
    values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
    return np.asarray(vectors / np.sqrt(np.where(values > 0.01, values, 1.0)))


def bridge(target: Target, draws: Array, rng: np.random.Generator) -> Integral:
    """Log ∫ exp(log density) from draws of it, by warp-III bridge sampling.

    Parameters
    ----------
    target : Target
    draws : ndarray (chains, draws, d)
    rng : Generator
        For the proposal's draws.

    Returns
    -------
    Integral
        The mean of two estimates, the proposal fitted to one half of every chain and the other half bridged; the error is
        the larger of Frühwirth-Schnatter's estimate for that mean and half of the two's difference.

    Raises
    ------
    MethodError
        Too few draws.
    """
    middle, size = draws.shape[1] // 2, draws.shape[2]
    first, second = draws[:, :middle], draws[:, middle:]
    if middle * draws.shape[0] < FEWEST_DRAWS * size:
        raise MethodError(
            f"{draws.shape[0]} x {draws.shape[1]} draws are too few for bridge sampling in {size} dimensions; take at least "
            f"{2 * FEWEST_DRAWS * size} in all"
        )
    pair = [_bridged(target, fit, use, rng) for fit, use in ((first, second), (second, first))]
    values, errors = np.array([one.log for one in pair]), np.array([one.error for one in pair])
    stated = 0.5 * float(np.hypot(*errors))
    apart = 0.5 * float(abs(values[0] - values[1]))
    error, doubts = max(stated, apart), []
    if not all(one.converged for one in pair):
        doubts.append("The bridge iteration did not converge; sample more draws.")
    if error > LARGE_ERROR:
        doubts.append(f"The error, {error:.2f}, is large; sample more draws.")
    return Integral(float(values.mean()), error, tuple(doubts))


class _Bridged(NamedTuple):
    log: float
    error: float
    converged: bool


def _bridged(target: Target, fit: Array, use: Array, rng: np.random.Generator) -> _Bridged:
    """Warp-III: draws moved to mean 0 and covariance I and mirrored, bridged to a standard normal."""
    size = fit.shape[-1]
    flat = fit.reshape(-1, size)
    centre, root = flat.mean(axis=0), np.linalg.cholesky(np.atleast_2d(np.cov(flat.T)))
    volume = float(np.log(np.diag(root)).sum())

    def ratio(z: Array) -> Array:
        """Log of the warped density over the standard normal one."""
        two = [log_densities(target, centre + sign * z @ root.T) for sign in (1.0, -1.0)]
        return volume + np.logaddexp(*two) - np.log(2.0) + 0.5 * (np.sum(z**2, axis=1) + size * LOG_2PI)

    drawn = np.linalg.solve(root, (use.reshape(-1, size) - centre).T).T
    at_draws, at_normal = ratio(drawn), ratio(rng.standard_normal(drawn.shape))
    shape = use.shape[:2]
    share = _ess(at_draws.reshape(shape)) / len(drawn)
    s1 = share / (share + 1.0)
    value, converged = _iterated(at_draws, at_normal, s1)
    f1 = 1.0 / (s1 + (1.0 - s1) * np.exp(np.minimum(value - at_normal, 700.0)))
    f2 = 1.0 / (s1 * np.exp(np.minimum(at_draws - value, 700.0)) + 1.0 - s1)
    error = np.var(f1) / np.mean(f1) ** 2 / len(f1) + np.var(f2) / np.mean(f2) ** 2 / _ess(f2.reshape(shape))
    return _Bridged(value, float(np.sqrt(error)), converged)


def _iterated(at_draws: Array, at_normal: Array, s1: float) -> tuple[float, bool]:
    """Meng and Wong's optimal bridge: log r with r = mean[l₂/(s₁l₂ + s₂r)] / mean[1/(s₁l₁ + s₂r)]."""
    value = float(np.median(at_draws))
    for _ in range(1000):
        top = _log_mean(at_normal - np.logaddexp(np.log(s1) + at_normal, np.log1p(-s1) + value))
        bottom = _log_mean(-np.logaddexp(np.log(s1) + at_draws, np.log1p(-s1) + value))
        before, value = value, top - bottom
        if abs(value - before) < 1e-10:
            return value, True
    return value, False


def _log_mean(values: Array) -> float:
    return float(np.logaddexp.reduce(values) - np.log(len(values)))


def _ess(values: Array) -> float:
    """Effective number of draws (chains, draws) for their mean, at most their number."""
    from arviz_stats.base.array import array_stats

    found = float(array_stats.ess(values, chain_axis=0, draw_axis=1, method="mean"))
    return min(found, values.size) if np.isfinite(found) and found > 0 else float(values.size)
