r"""Log densities of the closed-form priors, with their derivatives, as compiled scalar functions.

A prior is four numbers ``(code, a, b, c)`` here, made by `encode`; every density carries its full constants, so that
values equal those of PyMC and `scipy.stats`. Arguments are divided before they are squared: a value is finite wherever
the true one is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numba import njit

FLAT, HALF_FLAT, NORMAL, HALF_NORMAL, STUDENT_T, HALF_STUDENT_T = 0, 1, 2, 3, 4, 5
EXPONENTIAL, GAMMA, INVERSE_GAMMA, LOG_NORMAL, UNIFORM, LOGIT_BETA = 6, 7, 8, 9, 10, 11

_ENCODING: dict[str, tuple[int, tuple[str, ...]]] = {
    "Flat": (FLAT, ()),
    "HalfFlat": (HALF_FLAT, ()),
    "Normal": (NORMAL, ("mu", "sigma")),
    "HalfNormal": (HALF_NORMAL, ("sigma",)),
    "StudentT": (STUDENT_T, ("nu", "mu", "sigma")),
    "HalfStudentT": (HALF_STUDENT_T, ("nu", "sigma")),
    "HalfCauchy": (HALF_STUDENT_T, ("beta",)),
    "Exponential": (EXPONENTIAL, ("lam",)),
    "Gamma": (GAMMA, ("alpha", "beta")),
    "InverseGamma": (INVERSE_GAMMA, ("alpha", "beta")),
    "LogNormal": (LOG_NORMAL, ("mu", "sigma")),
    "Uniform": (UNIFORM, ("lower", "upper")),
    "LogitBeta": (LOGIT_BETA, ("alpha", "beta")),
}
_LOG_2 = math.log(2.0)
_LOG_PI = math.log(math.pi)
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_SQUARE_IS_SAFE = 1e150
_SERIES_FROM = 50.0


def encode(name: str, args: Mapping[str, float]) -> tuple[int, float, float, float]:
    """The four numbers that stand for a prior in `logpdf`.

    Parameters
    ----------
    name : str
        Name of a closed-form family, as `bayeslmm.priors.Prior.name` has it; not ``"LKJ"`` (see `lkj_logconstant`).
    args : mapping
        Its arguments, as `bayeslmm.priors.Prior.args` has them.

    Returns
    -------
    tuple of (int, float, float, float)
        The family's code and up to three arguments; unused ones are 0. Half families have location 0 in `b`.

    Raises
    ------
    KeyError
        No closed form is known under that name, or an argument is missing.

    Examples
    --------
    >>> encode("Normal", {"mu": 1.0, "sigma": 2.0})
    (2, 1.0, 2.0, 0.0)
    """
    code, names = _ENCODING[name]
    values = [float(args[key]) for key in names]
    if name == "HalfCauchy":
        values = [1.0, *values]
    if code == HALF_STUDENT_T:
        values.insert(1, 0.0)
    if code == HALF_NORMAL:
        values.insert(0, 0.0)
    a, b, c = (*values, 0.0, 0.0, 0.0)[:3]
    return code, a, b, c


@njit(cache=True, nogil=True)
def log_gamma_step(h: float) -> float:
    """Difference log Γ(h + 1/2) − log Γ(h), without the cancellation that large h brings.

    Parameters
    ----------
    h : float
        Positive.

    Returns
    -------
    float
        The difference; from h = 50 by its asymptotic series, whose first term left out is below 1e-15.

    Examples
    --------
    >>> round(log_gamma_step(0.5), 12) == round(-0.5 * math.log(math.pi), 12)
    True
    """
    if h < _SERIES_FROM:
        return math.lgamma(h + 0.5) - math.lgamma(h)
    r = 1.0 / h
    r2 = r * r
    return 0.5 * math.log(h) - r * (1.0 / 8.0 - r2 * (1.0 / 192.0 - r2 * (1.0 / 640.0 - r2 * 17.0 / 14336.0)))


@njit(cache=True, nogil=True)
def _normal(mu: float, sigma: float, x: float) -> tuple[float, float]:
    z = (x - mu) / sigma
    return -0.5 * z * z - math.log(sigma) - _HALF_LOG_2PI, -z / sigma


@njit(cache=True, nogil=True)
def _student_t(nu: float, mu: float, sigma: float, x: float) -> tuple[float, float]:
    d = x - mu
    root = math.sqrt(nu)
    w = d / sigma / root
    constant = log_gamma_step(0.5 * nu) - 0.5 * (_LOG_PI + math.log(nu)) - math.log(sigma)
    if abs(w) > _SQUARE_IS_SAFE:
        log_w = math.log(abs(d)) - math.log(sigma) - 0.5 * math.log(nu)
        return constant - (nu + 1.0) * log_w, -(nu + 1.0) / d
    tail = 0.5 * (nu + 1.0) * math.log1p(w * w)
    return constant - tail, -(nu + 1.0) / root * (w / (1.0 + w * w)) / sigma


@njit(cache=True, nogil=True)
def _gamma(alpha: float, beta: float, x: float) -> tuple[float, float]:
    constant = alpha * math.log(beta) - math.lgamma(alpha)
    if x > 0.0:
        return constant + (alpha - 1.0) * math.log(x) - beta * x, (alpha - 1.0) / x - beta
    if alpha == 1.0:
        return constant, -beta
    return (-math.inf if alpha > 1.0 else math.inf), 0.0


@njit(cache=True, nogil=True)
def _inverse_gamma(alpha: float, beta: float, x: float) -> tuple[float, float]:
    if x <= 0.0:
        return -math.inf, 0.0
    ratio = beta / x
    value = alpha * math.log(beta) - math.lgamma(alpha) - (alpha + 1.0) * math.log(x) - ratio
    return value, (ratio - (alpha + 1.0)) / x


@njit(cache=True, nogil=True)
def _log_normal(mu: float, sigma: float, x: float) -> tuple[float, float]:
    if x <= 0.0:
        return -math.inf, 0.0
    value, slope = _normal(mu, sigma, math.log(x))
    return value - math.log(x), (slope - 1.0) / x


@njit(cache=True, nogil=True)
def _logit_beta(alpha: float, beta: float, x: float) -> tuple[float, float]:
    """α log p + β log(1 − p) − log B(α, β) at p = 1/(1 + e^{−x})."""
    e = math.exp(-abs(x))
    share = 1.0 / (1.0 + e) if x > 0.0 else e / (1.0 + e)
    constant = math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta)
    value = alpha * min(x, 0.0) - beta * max(x, 0.0) - (alpha + beta) * math.log1p(e)
    return constant + value, alpha - (alpha + beta) * share


@njit(cache=True, nogil=True)
def _on_the_half_line(code: int, a: float, b: float, c: float, x: float) -> tuple[float, float]:
    """The families that live on [0, inf), at x >= 0."""
    if code == HALF_NORMAL:
        value, slope = _normal(0.0, b, x)
        return value + _LOG_2, slope
    if code == HALF_STUDENT_T:
        value, slope = _student_t(a, 0.0, c, x)
        return value + _LOG_2, slope
    if code == EXPONENTIAL:
        return math.log(a) - a * x, -a
    if code == GAMMA:
        return _gamma(a, b, x)
    if code == INVERSE_GAMMA:
        return _inverse_gamma(a, b, x)
    if code == LOG_NORMAL:
        return _log_normal(a, b, x)
    return 0.0, 0.0


@njit(cache=True, nogil=True)
def logpdf(code: int, a: float, b: float, c: float, x: float) -> tuple[float, float]:
    r"""A prior's log density at one point, and its derivative in x.

    Parameters
    ----------
    code : int
        Family, as `encode` numbers it.
    a, b, c : float
        Its arguments, in `encode`'s order.
    x : float
        Where.

    Returns
    -------
    value : float
        With all constants; half families are normalised on [0, inf), flat ones are 0. ``-inf`` outside the support, and
        ``inf`` at a pole (Gamma with alpha < 1 at 0).
    derivative : float
        In x; 0 outside the support and at 0 where the value is not finite.

    Examples
    --------
    >>> value, derivative = logpdf(*encode("HalfNormal", {"sigma": 2.0}), 2.0)
    >>> round(value, 6), round(derivative, 6)
    (-1.418939, -0.5)
    """
    if math.isnan(x):
        return math.nan, math.nan
    if code == FLAT:
        return 0.0, 0.0
    if code == NORMAL:
        return _normal(a, b, x)
    if code == STUDENT_T:
        return _student_t(a, b, c, x)
    if code == LOGIT_BETA:
        return _logit_beta(a, b, x)
    if code == UNIFORM:
        return (-math.log(b - a), 0.0) if a <= x <= b else (-math.inf, 0.0)
    if x < 0.0:
        return -math.inf, 0.0
    return _on_the_half_line(code, a, b, c, x)


@njit(cache=True, nogil=True)
def logpdf_sum(codes: np.ndarray, arguments: np.ndarray, x: np.ndarray, gradient: np.ndarray) -> float:
    """Sum of independent log prior densities; their derivatives are written into `gradient`.

    Parameters
    ----------
    codes : (m,) integer array
        Families, as `encode` numbers them.
    arguments : (m, 3) float array
        Their arguments, in `encode`'s order.
    x : (m,) float array
        Where.
    gradient : (m,) float array
        Overwritten with the derivative of each log density.

    Returns
    -------
    float
        The sum; ``-inf`` if any point lies outside its support.

    Examples
    --------
    >>> slope = np.empty(2)
    >>> logpdf_sum(np.array([FLAT, UNIFORM]), np.array([[0.0, 0, 0], [0, 1, 0]]), np.array([3.0, 0.5]), slope)
    0.0
    """
    total = 0.0
    for j in range(x.size):
        value, gradient[j] = logpdf(codes[j], arguments[j, 0], arguments[j, 1], arguments[j, 2], x[j])
        total += value
    return total


@njit(cache=True, nogil=True)
def lkj_logconstant(k: int, eta: float) -> float:
    r"""Log normaliser of the LKJ density over the k(k − 1)/2 entries of a correlation matrix R.

    The log density is ``(eta - 1) log|R| + c(k, eta)``. The partial correlations of the C-vine are independent, the
    k − i of the i-th tree with density proportional to (1 − ρ²)^(a_i − 1), a_i = η + (k − 1 − i)/2 (Lewandowski,
    Kurowicka and Joe 2009), so that c = −Σ_i (k − i) [½ log π + log Γ(a_i) − log Γ(a_i + ½)].

    Parameters
    ----------
    k : int
        Rows of R.
    eta : float
        Positive; 1 is uniform over correlation matrices.

    Returns
    -------
    float
        c(k, eta); 0 for k = 1.

    Examples
    --------
    >>> round(lkj_logconstant(2, 1.0), 12) == round(math.log(0.5), 12)
    True
    """
    total = 0.0
    for i in range(1, k):
        total += (k - i) * (log_gamma_step(eta + 0.5 * (k - 1 - i)) - 0.5 * _LOG_PI)
    return total
