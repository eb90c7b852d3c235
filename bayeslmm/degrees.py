"""Degrees of freedom of linear hypotheses about the coefficients, and their tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtrc

from bayeslmm.errors import MethodError
from bayeslmm.exact.gaussian import INTEGRATED, JOINT, level
from bayeslmm.exact.pullback import pullback
from bayeslmm.kenward import KenwardRoger, kenward_roger
from bayeslmm.model import Model

if TYPE_CHECKING:
    from bayeslmm.result import PointFit

Array = NDArray[np.float64]
METHODS = ("satterthwaite", "kenward-roger", "containment", "asymptotic")
# Step of the differences, in units of each variance parameter's natural size.
STEP = 1e-3
# Share of the largest eigenvalue below which a contrast repeats others.
RANK = 1e-10
# A column whose values differ by less, relative to their size, does not vary.
CONSTANT = 1.5e-8

_KENWARD_ROGER: WeakKeyDictionary[PointFit, KenwardRoger] = WeakKeyDictionary()
_SATTERTHWAITE: WeakKeyDictionary[PointFit, Satterthwaite] = WeakKeyDictionary()
_BACK: WeakKeyDictionary[Model, Array] = WeakKeyDictionary()


class Contrast(NamedTuple):
    """Estimates of linear combinations of the coefficients, and the F test that all of them are 0."""

    estimate: Array  # (q,)
    covariance: Array  # (q, q)
    numerator_df: int  # rank of the combinations
    denominator_df: float
    F: float
    scale: float = 1.0  # by which Kenward and Roger multiply F, already in it

    @property
    def p(self) -> float:
        """Upper tail of F."""
        if np.isinf(self.denominator_df):
            return float(chdtrc(self.numerator_df, self.numerator_df * self.F))
        return float(fdtrc(self.numerator_df, self.denominator_df, self.F))


class Satterthwaite(NamedTuple):
    """What the approximation needs, β in the scale of Q, y in that of the products."""

    covariance: Array  # (p, p)
    slopes: Array  # (m, p, p) its derivatives in the variance parameters
    spread: Array  # (m, m) asymptotic covariance of the variance parameters


def contrast_degrees(fit: PointFit, L: Any, df: str = "satterthwaite") -> Contrast:
    """Estimate linear combinations of the coefficients and test that all of them are 0.

    With V the covariance of Lβ, ``F = (Lβ)' V⁻¹ (Lβ) / q``. Its denominator degrees of freedom:

    ``"satterthwaite"`` : for one row, ``2 (l'Vl)² / (g'Ag)``, g the derivatives of l'Vl in (θ, σ) and ``A = 2 H⁻¹`` with
    H the Hessian of the deviance that was minimised; parameters at the boundary are held there. For q rows, those of the
    q orthogonal combinations ν, joined after Fai and Cornelius (1996): ``2E/(E − q)``, ``E = Σ ν/(ν − 2)``.
    ``"kenward-roger"`` : the covariance adjusted for the uncertainty of the variances, F scaled, degrees of freedom by
    matching its first two moments (Kenward and Roger 1997), from the expected information. REML only.
    ``"containment"`` : observations or groups in the stratum within which a column varies, less the columns estimated
    there and those above (Pinheiro and Bates 2000, section 2.4.2); the smallest among the coefficients involved.
    ``"asymptotic"`` : infinite.

    Parameters
    ----------
    fit : PointFit
        A fit by REML or ML (asymptotic also: MAP).
    L : array_like (p,) or (q, p)
        Weights of the coefficients, in the order of `fit.fixef`.
    df : {"satterthwaite", "kenward-roger", "containment", "asymptotic"}

    Returns
    -------
    Contrast
        ``estimate`` (q,), ``covariance`` (q, q), ``numerator_df`` (rank of L), ``denominator_df``, ``F`` (scaled for
        Kenward–Roger), ``p``.

    Raises
    ------
    MethodError
        An unknown `df`, a shape that does not fit, or a fit that the method has no meaning for.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> from bayeslmm.degrees import contrast_degrees
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "x": [1, 2, 1, 2, 1, 2], "g": list("aabbcc")}
    >>> test = contrast_degrees(bl.fit(bl.Model("y ~ x + (1 | g)", data)), [0, 1], df="kenward-roger")
    >>> round(test.denominator_df, 3), round(test.F, 2)
    (2.0, 49.0)
    """
    check(fit, df)
    rows = np.atleast_2d(np.asarray(L, float))
    if rows.ndim != 2 or rows.shape[1] != len(fit.beta) or not np.isfinite(rows).all():
        raise MethodError(f"L has shape {np.shape(L)}; it takes finite weights of {len(fit.beta)} coefficients per row")
    if not rows.any(axis=1).all():
        raise MethodError("L has a row of zeros: there is nothing to test")
    estimate, covariance = rows @ fit.beta, rows @ covariance_of(fit, df) @ rows.T
    basis, q = _independent(rows @ fit.beta_covariance @ rows.T)
    reduced = basis @ rows
    wald = float(basis @ estimate @ np.linalg.solve(basis @ covariance @ basis.T, basis @ estimate))
    degrees, scale = _DEGREES[df](fit, reduced)
    return Contrast(estimate, covariance, q, degrees, scale * wald / q, scale)


def row_degrees(fit: PointFit, L: Any, df: str = "satterthwaite") -> Array:
    """Degrees of freedom (q,) of the t test of each row of L by itself.

    Parameters
    ----------
    fit : PointFit
        A fit by REML or ML (asymptotic also: MAP).
    L : array_like (q, p)
        Weights of the coefficients, in the order of `fit.fixef`.
    df : {"satterthwaite", "kenward-roger", "containment", "asymptotic"}

    Returns
    -------
    ndarray (q,)

    Raises
    ------
    MethodError
        An unknown `df`, or a fit that the method has no meaning for.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> fit = bl.fit(bl.load("models/tablets_missing"))
    >>> row_degrees(fit, [[1, 0], [0, 1], [1, 1]]).round(2).tolist()
    [25.81, 11.7, 25.81]
    """
    check(fit, df)
    rows = np.atleast_2d(np.asarray(L, float))
    if df == "satterthwaite":
        return _satterthwaite_each(fit, rows)
    return np.array([_DEGREES[df](fit, row[None])[0] for row in rows])


def covariance_of(fit: PointFit, df: str) -> Array:
    """The covariance of the coefficients that goes with a method: Kenward and Roger's adjusted one, or the fit's."""
    if df != "kenward-roger":
        return fit.beta_covariance
    back = _back(fit.model) * fit.sigma
    return np.asarray(back @ _kenward_roger(fit).adjusted @ back.T)


def check(fit: PointFit, df: str) -> None:
    """Raise where a method is unknown or has no meaning for the fit."""
    if df not in METHODS:
        raise MethodError(f"df={df!r} is not known; use {', '.join(repr(name) for name in METHODS)}")
    if not all(hasattr(fit, name) for name in ("method", "theta", "beta_root")):
        raise MethodError(
            f"degrees of freedom belong to a fit by REML or ML, bl.fit(model); got {type(fit).__name__}. "
            "A posterior needs none: its summary() has the intervals"
        )
    if df == "asymptotic":
        return
    if fit.method not in ("REML", "ML"):
        raise MethodError(f'df={df!r} is for a fit by REML or ML; for {fit.method} use df="asymptotic" or a posterior')
    if df == "kenward-roger" and fit.method != "REML":
        raise MethodError('df="kenward-roger" needs a REML fit: refit with bl.fit(model, "REML")')
    if df in ("satterthwaite", "kenward-roger") and fit.fixed:
        raise MethodError(f"df={df!r} needs every variance estimated; this fit holds {', '.join(fit.fixed)}")


def _independent(V: Array) -> tuple[Array, int]:
    """Orthogonal combinations (q, rows) that span the rows of a covariance, in order of decreasing variance."""
    size = np.sqrt(np.diag(V))
    values, vectors = np.linalg.eigh(V / np.outer(size, size))
    kept = values > RANK * values[-1]
    if kept.all():
        values, vectors = np.linalg.eigh(V)
        return vectors[:, ::-1].T, len(V)
    basis = vectors[:, kept].T / size
    _, rotation = np.linalg.eigh(basis @ V @ basis.T)
    return np.asarray(rotation[:, ::-1].T @ basis), int(kept.sum())


def _back(model: Model) -> Array:
    """β = β_ols + back @ β_Q y_scale."""
    if model not in _BACK:
        _BACK[model] = np.linalg.inv(model.products.R)
    return _BACK[model]


def _asymptotic(fit: PointFit, L: Array) -> tuple[float, float]:
    return np.inf, 1.0


def _satterthwaite_df(fit: PointFit, L: Array) -> tuple[float, float]:
    """Rows of L are uncorrelated combinations."""
    return _joined(_satterthwaite_each(fit, L)), 1.0


def _satterthwaite_each(fit: PointFit, L: Array) -> Array:
    """Degrees of freedom (q,) of each row; Lβ in units of the response's scale, so that nothing overflows."""
    if fit not in _SATTERTHWAITE:
        _SATTERTHWAITE[fit] = satterthwaite(fit)
    parts = _SATTERTHWAITE[fit]
    rows = L @ _back(fit.model)
    variance = np.einsum("qi,ij,qj->q", rows, parts.covariance, rows)
    g = np.einsum("qi,mij,qj->qm", rows, parts.slopes, rows)
    uncertainty = np.einsum("qm,mk,qk->q", g, parts.spread, g)
    with np.errstate(divide="ignore"):  # no uncertainty: infinite degrees of freedom
        return np.asarray(2.0 * variance**2 / uncertainty)


def _joined(nu: Array) -> float:
    """Degrees of freedom of F from those of its squared t (Fai and Cornelius), equal ones kept."""
    if np.ptp(nu) < 1e-8 * max(1.0, float(nu.max())):
        return float(nu.mean())
    if (nu <= 2.0).any():
        return 2.0
    E = float(np.sum(nu / (nu - 2.0)))
    return 2.0 * E / (E - len(nu))


def satterthwaite(fit: PointFit) -> Satterthwaite:
    """Hessian of the deviance and slopes of β's covariance, by central differences of fourth order."""
    model = fit.model
    basis, free = model.theta_basis, np.flatnonzero(fit.optimum.free)
    x0 = np.linalg.solve(basis, fit.theta) if len(basis) else np.empty(0)
    s0 = float(np.log(fit.sigma / model.products.y_scale))
    m = len(free) + 1
    hessian, slopes = np.empty((m, m)), []
    mode = INTEGRATED if fit.method == "REML" else JOINT
    step = STEP * np.append(_sizes(model, x0)[free], 1.0)

    def at(move: int, by: float) -> tuple[Array, Array]:
        x, s = x0.copy(), s0
        if move < len(free):
            x[free[move]] += by
        else:
            s += by
        gradient, covariance = _deviance_slopes(model, basis @ x, s, mode)
        return np.append((basis.T @ gradient[:-1])[free], gradient[-1]), covariance

    for i in range(m):
        pairs = [(at(i, step[i] * k), at(i, -step[i] * k)) for k in (1, 2)]
        (one, two), (one_V, two_V) = [
            [(ahead[j] - behind[j]) / (2 * step[i] * k) for k, (ahead, behind) in zip((1, 2), pairs, strict=True)]
            for j in (0, 1)
        ]
        hessian[i] = (4.0 * one - two) / 3.0
        slopes.append((4.0 * one_V - two_V) / 3.0)
    _, covariance = _deviance_slopes(model, fit.theta, s0, mode)
    return Satterthwaite(covariance, np.array(slopes), 2.0 * _positive_inverse(0.5 * (hessian + hessian.T)))


def _sizes(model: Model, x: Array) -> Array:
    """Over what length the deviance bends: an entry's own size, its effect's, or what a level's rows can tell."""
    sizes, start = [np.empty(0)], 0
    for term in model.terms:
        rows, columns = term.covariance.pattern
        own = np.abs(x[start : start + len(rows)])
        start += len(rows)
        diagonal = np.zeros(len(term.effects))
        diagonal[rows[rows == columns]] = own[rows == columns]
        least = np.sqrt(len(term.levels) / model.design.nobs)
        sizes.append(np.maximum(np.maximum(own, diagonal[rows]), least))
    return np.concatenate(sizes)


def _positive_inverse(hessian: Array) -> Array:
    """Inverse over the directions of positive curvature."""
    unit = 1.0 / np.sqrt(np.abs(np.diag(hessian)))
    values, vectors = np.linalg.eigh(hessian * np.outer(unit, unit))
    kept = values > RANK * values[-1]
    scaled = unit[:, None] * vectors[:, kept]
    return np.asarray(scaled / values[kept] @ scaled.T)


def _deviance_slopes(model: Model, theta: Array, log_sigma: float, mode: int) -> tuple[Array, Array]:
    """Gradient of −2 log-likelihood in (θ, log σ), and the covariance of β_Q, in the scale of the products."""
    products = model.products
    s, p, sigma = products.system, products.n_fixed, float(np.exp(log_sigma))
    where = model.gaussian.marginal(theta)
    flat = np.zeros((p, p)), np.zeros(p)
    found = level(where.S, where.logdet, products.nobs, sigma, *flat, mode)
    lam = products.lam(theta)
    bar = pullback(s, lam, where.factor, found.gbar, found.Gbar) if len(lam) else np.empty(0)
    gradient = -2.0 * np.append(products.theta_bar(bar), found.sigma_bar * sigma)
    return gradient, sigma**2 * np.linalg.inv(where.S[:p, :p])


def _kenward_roger(fit: PointFit) -> KenwardRoger:
    if fit not in _KENWARD_ROGER:
        _KENWARD_ROGER[fit] = kenward_roger(fit.model, fit.theta)
    return _KENWARD_ROGER[fit]


def _kenward_roger_df(fit: PointFit, L: Array) -> tuple[float, float]:
    """Denominator degrees of freedom and scale of F (Kenward and Roger 1997, section 3)."""
    parts = _kenward_roger(fit)
    rows, q = L @ _back(fit.model), len(L)
    V = rows @ parts.covariance @ rows.T
    moved = np.linalg.solve(V, rows @ parts.covariance @ parts.slopes @ parts.covariance @ rows.T)
    trace = np.trace(moved, axis1=1, axis2=2)
    A1 = float(trace @ parts.weights @ trace)
    A2 = float(np.einsum("ij,iab,jba->", parts.weights, moved, moved))
    if q == 1:
        return 2.0 / A2, 1.0
    B = (A1 + 6.0 * A2) / (2.0 * q)
    g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
    c1, c2, c3 = (c / (3.0 * q + 2.0 * (1.0 - g)) for c in (g, q - g, q + 2 - g))
    top, V0, V1, V2 = 1.0 - A2 / q, 1.0 + c1 * B, 1.0 - c2 * B, 1.0 - c3 * B
    V0 = 0.0 if abs(V0) < 1e-10 else V0
    ratio = 1.0 if max(abs(top), abs(V1)) < 1e-14 else top / V1
    rho = ratio**2 * V0 / V2 / q
    degrees = 4.0 + (q + 2) / (q * rho - 1.0)
    return degrees, 1.0 if abs(degrees - 2.0) < 0.01 else degrees * top / (degrees - 2.0)


def _containment_df(fit: PointFit, L: Array) -> tuple[float, float]:
    involved = np.abs(L).max(axis=0) > RANK * np.abs(L).max()
    return float(containment(fit.model)[involved].min()), 1.0


def containment(model: Model) -> Array:
    """Degrees of freedom (p,) of each coefficient by nlme's rule for nested groups.

    Raises
    ------
    MethodError
        The grouping factors are crossed, for which the rule says nothing.
    """
    X, codes = model.X, _nested(model)
    counts = [len(np.unique(c)) for c in codes]
    degrees = np.diff([0, *counts, len(X)]).astype(float)
    constant = _constant(X)
    stratum = np.zeros(X.shape[1], int)
    for level_at, code in enumerate(codes, 1):
        stratum[_varies_within(X, code)] = level_at
    if not constant.all():
        degrees -= np.bincount(stratum[~constant], minlength=len(degrees))
        degrees[0] -= constant.any()
        degrees[1:] += not constant.any()
    return np.where(constant, degrees.max(), degrees[stratum])


def _constant(X: Array) -> NDArray[np.bool_]:
    return np.ptp(X, axis=0) <= CONSTANT * np.abs(X).max(axis=0)


def _varies_within(X: Array, code: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Columns that take more than one value in some group."""
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    spread = np.maximum.reduceat(X[order], starts) - np.minimum.reduceat(X[order], starts)
    return np.asarray((spread > CONSTANT * np.abs(X).max(axis=0)).any(axis=0))


def _nested(model: Model) -> Sequence[NDArray[np.int64]]:
    """Codes of the grouping factors, outermost first."""
    codes = {term.group: np.asarray(term.codes, np.int64) for term in model.terms}
    ordered = sorted(codes, key=lambda group: len(np.unique(codes[group])))
    for outer, inner in pairwise(ordered):
        pairs = np.unique(np.stack([codes[inner], codes[outer]], 1), axis=0)
        if len(pairs) > len(np.unique(codes[inner])):
            raise MethodError(
                f'df="containment" is a rule for nested groups; {inner!r} and {outer!r} are crossed. '
                'Use "satterthwaite" or "kenward-roger"'
            )
    return [codes[group] for group in ordered]


_DEGREES: dict[str, Callable[[PointFit, Array], tuple[float, float]]] = {
    "satterthwaite": _satterthwaite_df,
    "kenward-roger": _kenward_roger_df,
    "containment": _containment_df,
    "asymptotic": _asymptotic,
}
