"""Many tests at once: adjusted p-values and the critical values of simultaneous intervals, from t and df alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import chdtrc, fdtrc, ndtri, stdtr, stdtrit
from scipy.stats import false_discovery_control, qmc, studentized_range

from bayeslmm.errors import MethodError

Array = NDArray[np.float64]
METHODS = ("none", "tukey", "dunnett", "mvt", "sidak", "bonferroni", "holm", "bh")
# Directions of the multivariate t (a power of 2), and how often they are drawn anew to know the error.
POINTS, REPEATS = 2**14, 8
# Share of the largest eigenvalue below which contrasts repeat others.
RANK = 1e-10
# Critical values found for a family of many different df (of which more than that are interpolated, to 2e-5 for df
# from 3 to infinity), and the decimals of 1/df that make them different.
NODES, DECIMALS = 5, 9


class Family(NamedTuple):
    """Statistics that are judged together.

    Parameters
    ----------
    t : ndarray (q,)
        Estimates over their standard errors.
    df : ndarray (q,)
        Degrees of freedom of each, infinite for the normal.
    means : int
        How many means all pairwise differences were taken of; 0 where they are something else.
    correlation : ndarray (q, q)
        Correlations of the estimates, for the multivariate t.
    """

    t: Array
    df: Array
    means: int
    correlation: Array


class Adjusted(NamedTuple):
    """Adjusted p-values (q,), half widths of the intervals in standard errors (q,), and the integration error of p."""

    p: Array
    critical: Array
    error: float


def adjust(family: Family, method: str, level: float = 0.95, seed: int = 1) -> Adjusted:
    """Adjust the p-values of a family, and widen its intervals so that all of them hold at once.

    ``"tukey"`` : p from the studentised range of `means` means at √2 |t| (Tukey 1953, Kramer 1956).
    ``"dunnett"``, ``"mvt"`` : P(max |T| ≥ |t|), T multivariate t with the correlations of the estimates: Dunnett's (1955)
    test where all are compared with one, and the exact answer for any other family (Hothorn, Bretz and Westfall 2008).
    The direction of T is integrated over by quasi-random points, its length exactly (Deák 1980).
    ``"sidak"`` : 1 − (1 − p)^q. ``"bonferroni"`` : q p. ``"holm"`` : stepwise, at least as powerful as Bonferroni's;
    its intervals are Bonferroni's. ``"bh"`` : the false discovery rate (Benjamini and Hochberg 1995), which has no
    simultaneous intervals; those given are Bonferroni's. ``"none"`` : each on its own.

    Parameters
    ----------
    family : Family
    method : str
        One of `METHODS`.
    level : float
        Simultaneous confidence of the intervals.
    seed : int
        Of the quasi-random points of the multivariate t.

    Returns
    -------
    Adjusted
        With ``error`` the standard error of the largest-error p (0 where no integral is approximated).

    Raises
    ------
    MethodError
        An unknown method, or Tukey's for what is not all pairwise differences.

    Examples
    --------
    >>> import numpy as np
    >>> from bayeslmm.multiplicity import Family, adjust
    >>> adjust(Family(np.array([3.0, 1.0]), np.array([10.0, 10.0]), 0, np.eye(2)), "bonferroni").p.round(4)
    array([0.0267, 0.6818])
    """
    if method not in METHODS:
        raise MethodError(f"adjust={method!r} is not known; use {', '.join(repr(m) for m in METHODS)}")
    if method == "tukey" and not family.means:
        raise MethodError(
            'adjust="tukey" is for all pairwise differences; for other contrasts use "mvt", "sidak" or "holm"'
        )
    raw = 2.0 * stdtr(family.df, -np.abs(family.t))
    if len(raw) == 1:
        return Adjusted(raw, _two_sided(family.df, 1.0 - level), 0.0)
    return _RULES[method](family, raw, level, seed)


def _two_sided(df: Array, alpha: float) -> Array:
    return np.asarray(-stdtrit(df, 0.5 * alpha))


def _none(family: Family, raw: Array, level: float, seed: int) -> Adjusted:
    return Adjusted(raw, _two_sided(family.df, 1.0 - level), 0.0)


def _bonferroni(family: Family, raw: Array, level: float, seed: int) -> Adjusted:
    return Adjusted(np.minimum(1.0, len(raw) * raw), _two_sided(family.df, (1.0 - level) / len(raw)), 0.0)


def _sidak(family: Family, raw: Array, level: float, seed: int) -> Adjusted:
    return Adjusted(_independent(raw), _two_sided(family.df, -np.expm1(np.log(level) / len(raw))), 0.0)


def _independent(raw: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.asarray(-np.expm1(len(raw) * np.log1p(-raw)))


def _holm(family: Family, raw: Array, level: float, seed: int) -> Adjusted:
    order = np.argsort(raw)
    steps = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    p = np.empty_like(raw)
    p[order] = np.minimum(1.0, steps)
    return Adjusted(p, _bonferroni(family, raw, level, seed).critical, 0.0)


def _bh(family: Family, raw: Array, level: float, seed: int) -> Adjusted:
    return Adjusted(false_discovery_control(raw), _bonferroni(family, raw, level, seed).critical, 0.0)


def _tukey(family: Family, raw: Array, level: float, seed: int) -> Adjusted:
    p = studentized_range.sf(np.sqrt(2.0) * np.abs(family.t), family.means, family.df)

    def inside(c: float, df: float) -> float:
        return float(studentized_range.cdf(np.sqrt(2.0) * c, family.means, df))

    pairs = family.means * (family.means - 1) // 2
    return Adjusted(np.maximum(p, raw), _critical(inside, family.df, level, pairs), 0.0)


def _critical(inside: Callable[[float, float], float], df: Array, level: float, count: int) -> Array:
    """Where P(all |T| < c) is `level`, for each df: between one test's own and Bonferroni's value.

    For many different df, a polynomial in 1/df through the logarithms of a few.
    """

    def root(inverse: float) -> float:
        nu = np.inf if inverse == 0 else 1.0 / inverse
        low, high = (float(_two_sided(np.array(nu), (1.0 - level) / n)) for n in (1, count))
        return float(brentq(lambda c: inside(c, nu) - level, 0.99 * low, 1.01 * high, xtol=1e-6))

    inverse, at = np.unique(np.round(1.0 / df, DECIMALS), return_inverse=True)
    if len(inverse) <= NODES:
        return np.array([root(float(x)) for x in inverse])[at]
    nodes = np.polynomial.chebyshev.chebpts1(NODES)
    low, high = inverse[0], inverse[-1]
    roots = [root(float(0.5 * (low + high + (high - low) * node))) for node in nodes]
    fit = np.polynomial.Polynomial.fit(nodes, np.log(roots), NODES - 1)
    return np.asarray(np.exp(fit((2.0 * inverse - low - high) / (high - low))))[at]


def _multivariate(family: Family, raw: Array, level: float, seed: int) -> Adjusted:
    """The tail lies between a test's own p and Šidák's, whatever the error of the integral."""
    reach, rank = _directions(family.correlation, seed)
    found = np.array([_outside(reach, rank, abs(t), nu) for t, nu in zip(family.t, family.df, strict=True)])
    error = float(found.std(axis=1, ddof=1).max() / np.sqrt(REPEATS))
    p = np.clip(found.mean(axis=1), raw, _independent(raw))

    def inside(c: float, df: float) -> float:
        return 1.0 - float(_outside(reach, rank, c, df).mean())

    return Adjusted(p, _critical(inside, family.df, level, len(raw)), error)


def _directions(correlation: Array, seed: int) -> tuple[Array, int]:
    """Longest statistic max|Ad| over quasi-random unit vectors d (repeats, points), AA' the correlation; and its rank."""
    values, vectors = np.linalg.eigh(correlation)
    kept = values > RANK * values[-1]
    A, rank = vectors[:, kept] * np.sqrt(values[kept]), int(kept.sum())
    reach = []
    for i in range(REPEATS):
        normal = ndtri(qmc.Sobol(rank, rng=np.random.default_rng([seed, i])).random(POINTS))
        reach.append(np.abs(normal @ A.T).max(axis=1) / np.linalg.norm(normal, axis=1))
    return np.array(reach), rank


def _outside(reach: Array, rank: int, bound: float, df: float) -> Array:
    """P(max |T| ≥ bound), once for each repeat: the direction of T by its points, its length exactly, by F."""
    with np.errstate(divide="ignore"):
        square = (bound / reach) ** 2
    tail = chdtrc(rank, square) if np.isinf(df) else fdtrc(rank, df, square / rank)
    return np.asarray(tail.mean(axis=1))


_RULES: dict[str, Callable[[Family, Array, float, int], Adjusted]] = {
    "none": _none, "tukey": _tukey, "dunnett": _multivariate, "mvt": _multivariate, "sidak": _sidak,
    "bonferroni": _bonferroni, "holm": _holm, "bh": _bh,
}  # fmt: skip
