"""Estimates that run off to infinity: separated responses, no overdispersion, tails not heavy, zeros a family has anyway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from bayeslmm.approximation import Laplace
from bayeslmm.covariance import Covariance
from bayeslmm.exact.densities import means
from bayeslmm.family import LINKS, family_of
from bayeslmm.model import Model
from bayeslmm.optimise import DECREMENT, Optimum, minimise

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
# Standard error of η, averaged over the rows, that only separated responses have; ν that is endless.
ENDLESS, NO_TAILS = 1e3, 1e4
# The first of ordered categories, where a step between thresholds of δ that runs off multiplies a curvature's error by δ².
ENDLESS_ORDERED = 30.0
# Residual standard deviation, as a share of that of the response, from which a search that comes to no end drives it to 0.
VANISHING = 1e-3
# Standard error of a log σ that only rows without information have: one residual's is 0.7.
UNTOLD = 30.0
# Mean over the rows of the excess variance, or of π(1 − π), below which there may be none; the step in log dispersion or logit
# that is taken for the limit; and what −2 log-likelihood may rise by there, relative to it: rounding.
NOTHING, STEP, RISE = 1e-4, 25.0, 1e-11
# Share of a coefficient in a direction that is rounding.
ABSENT = 1e-6
_LIMITS = {
    "negativebinomial": "alpha runs off to infinity, where the family is the Poisson",
    "negativebinomial1": "phi runs off to 0, where the family is the Poisson",
    "betabinomial": "kappa runs off to infinity, where the family is the binomial",
}


def curvature_root(optimum: Optimum, aux: int | None, first: int) -> Array:
    """K (r, m) with K'K the covariance of the search's coordinates, from the curvature in those that are not on a boundary.

    A log dispersion or a last parameter that runs off to infinity has no curvature, nor have then all those from `first` on:
    theirs is NaN.

    Parameters
    ----------
    optimum : Optimum
    aux : int or None
        Where the log dispersion stands among the coordinates, if it does.
    first : int
        Where the coordinates end that come before log dispersion and the further parameters.

    Returns
    -------
    ndarray
    """
    free = np.flatnonzero(optimum.free)
    for used in (free, free[free != aux], free[free < max(first, len(optimum.theta) - 1)], free[free < first]):
        root = np.zeros((len(used), len(optimum.theta)))
        root[:, np.setdiff1d(free, used)] = np.nan
        try:
            L = np.linalg.cholesky(0.5 * optimum.hessian[np.ix_(used, used)])
        except np.linalg.LinAlgError:
            continue
        root[:, used] = np.linalg.solve(L, np.eye(len(used)))
        return root
    root[:, free] = np.nan
    return root


class _Part(NamedTuple):
    """Coefficients of the dispersion or of zeros: their place, columns, what each row tells of them, and where it tends (±1)."""

    text: str
    names: tuple[str, ...]
    at: slice
    columns: Array
    told: Array
    sign: Array


def settled(approximation: Laplace, optimum: Optimum, covariances: Sequence[Covariance], basis: Array) -> Optimum:
    """The optimum with a dispersion or zeros of their own that run off held at their limit, the others where they are best.

    Parameters
    ----------
    approximation : Laplace
    optimum : Optimum
        Where a search in all parameters ended.
    covariances : sequence of Covariance
        Of the random terms.
    basis : ndarray (N, N)
        The scale of that search.

    Returns
    -------
    Optimum
        The coefficients that run off are none of the free ones; the message names them.
    """
    x = optimum.theta.copy()
    plain, gone = np.ones(len(x), bool), np.zeros(len(x), bool)
    lasting, said = np.zeros((len(x), 0)), []
    for part in _parts(approximation, x) if np.isfinite(optimum.value) else ():
        told, untold = _directions(part)
        if not untold.shape[1]:
            continue
        rows = part.columns @ untold
        reached = np.abs(rows).max(axis=1) > ABSENT
        x[part.at] += STEP * untold @ np.linalg.lstsq(rows[reached], part.sign[reached])[0]
        plain[part.at], gone[part.at] = False, np.abs(untold).max(axis=1) > ABSENT
        lasting = np.hstack([lasting, np.zeros((len(x), told.shape[1]))])
        lasting[part.at, lasting.shape[1] - told.shape[1] :] = told
        along = [name for name, away in zip(part.names, gone[part.at], strict=True) if away]
        said.append(part.text + (f" (along {', '.join(along)})" if len(part.names) > 1 else ""))
    if not said:
        return optimum
    keep = np.hstack([np.eye(len(x))[:, plain], lasting])
    scale = block_diag(basis[np.ix_(plain, plain)], np.eye(lasting.shape[1]))
    inner = _inner(approximation, np.where(plain, 0.0, x), keep, np.where(plain, x, 0.0) @ keep, covariances, scale)
    if not inner.value <= optimum.value + RISE * max(1.0, abs(optimum.value)):
        return optimum
    return replace(_outer(inner, np.where(plain, 0.0, x), keep, gone), message="; ".join([inner.message, *said]))


def _inner(
    approximation: Laplace, rest: Array, keep: Array, start: Array, covariances: Sequence[Covariance], scale: Array
) -> Optimum:
    """The optimum in s of x = rest + keep s."""

    def objective(s: Array) -> tuple[float, Array]:
        value, gradient = approximation.minus_twice(approximation.point(rest + keep @ s))
        return value, keep.T @ gradient

    return minimise(objective, start, covariances, scale, near=True)


def _outer(inner: Optimum, rest: Array, keep: Array, gone: Mask) -> Optimum:
    """The same in all parameters, with the curvature whose inverse is the covariance of those that are free."""
    keep_free, curvature = keep[:, inner.free], inner.hessian[np.ix_(inner.free, inner.free)]
    free = ~gone & (keep_free != 0).any(axis=1)
    covariance = keep_free @ np.linalg.pinv(curvature) @ keep_free.T
    hessian = np.zeros((len(rest), len(rest)))
    hessian[np.ix_(free, free)] = np.linalg.pinv(covariance[np.ix_(free, free)])
    return replace(inner, theta=rest + keep @ inner.theta, gradient=keep @ inner.gradient, hessian=hessian, free=free)


def _parts(approximation: Laplace, x: Array) -> Iterator[_Part]:
    """The dispersion, where the family has a limit, and zeros of their own."""
    model, point = approximation.model, approximation.point(x)
    beta = approximation.beta if approximation.joint else point.beta
    at, count = model.n_theta + (0 if approximation.joint else approximation.p), approximation.W.shape[1]
    plain = family_of(model.family).plain
    further, n = model.design.further, model.design.nobs
    if plain in _LIMITS:
        columns = approximation.W if count else np.ones((n, 1))
        names = further["dispersion"].names if count else ("dispersion",)
        level = point.aux + approximation.W @ point.further[:count]
        told = np.minimum(_excess(approximation, plain, beta, level), 1.0)
        sign = np.full(n, -1.0 if plain == "negativebinomial1" else 1.0)
        text = f"there is no overdispersion, {_LIMITS[plain]}"
        yield _Part(text, names, slice(at, at + columns.shape[1]), columns, told, sign)
    if "zero" in further:
        start = at + approximation.has_dispersion + count
        zeta = approximation.Z0 @ point.further[count:]
        share = 0.5 + 0.5 * np.tanh(0.5 * zeta)
        text = "the probability of a zero of its own runs off to " + ("0" if (zeta < 0).all() else "0 or 1")
        place = slice(start, start + approximation.Z0.shape[1])
        yield _Part(text, further["zero"].names, place, approximation.Z0, share * (1.0 - share), np.sign(zeta))


def _excess(approximation: Laplace, plain: str, beta: Array, level: Array) -> Array:
    """Variance of each row relative to the limiting family's, less 1, at log dispersions `level`."""
    observed = approximation.observed
    if plain == "negativebinomial1":
        return np.exp(level)
    if plain == "betabinomial":
        return np.asarray((observed.trials - 1.0) * np.exp(-np.logaddexp(0.0, level)))
    return means(LINKS[approximation.model.link], observed.X @ beta + observed.offset) * np.exp(-level)


def _directions(part: _Part) -> tuple[Array, Array]:
    """Combinations of the coefficients that the rows tell of, and those they do not, of mean square 1 over the rows."""
    n = len(part.columns)
    R = np.linalg.qr(part.columns, mode="r") / np.sqrt(n)
    Q = np.linalg.solve(R.T, part.columns.T).T
    values, vectors = np.linalg.eigh((Q.T * part.told) @ Q / n)
    found = np.linalg.solve(R, vectors)
    return found[:, values > NOTHING], found[:, values <= NOTHING]


def judged(
    model: Model, approximation: Laplace, optimum: Optimum, beta: Array, root: Array, after: Array, aux: int | None
) -> Optimum:
    """The optimum with what it means where an estimate runs off to infinity.

    `after` are the log dispersion, where it is one number, and the further parameters; `aux` is where the former was searched
    for.
    """
    further = after[int(approximation.has_dispersion) :]
    plain = family_of(model.family).plain
    if plain == "gaussian":
        return _vanishing(approximation, optimum, further)
    endless = _separated(model, beta, root)
    if endless:
        message = (
            f"the likelihood rises without end along {endless}: the responses are separated by it, and the estimate is where "
            "the search stopped. Leave it out, or join its levels"
        )
        return replace(optimum, converged=False, message=message)
    size = model.n_theta + len(beta) + len(after)
    if plain == "t" and len(optimum.theta) == size:  # ν is not held
        return _normal(optimum)
    if plain not in _LIMITS or aux is None or not optimum.free[aux]:
        return optimum
    if _excess(approximation, plain, beta, after[:1]).max() < NOTHING and _at_rest(optimum, aux):
        return replace(optimum, converged=True, message=f"converged; there is no overdispersion, {_LIMITS[plain]}")
    return optimum


def _at_rest(optimum: Optimum, without: int) -> bool:
    """Whether nothing is left to gain in the parameters besides one."""
    others = optimum.free.copy()
    others[without] = False
    g, H = optimum.gradient[others], optimum.hessian[np.ix_(others, others)]
    return float(g @ np.linalg.lstsq(H, g)[0]) < DECREMENT


def _normal(optimum: Optimum) -> Optimum:
    """The optimum of a t model, with what it means where ν runs off to infinity."""
    if not (optimum.theta[-1] > np.log(NO_TAILS) and _at_rest(optimum, len(optimum.theta) - 1)):
        return optimum
    message = "converged; there are no heavy tails, nu runs off to infinity, where the family is the Gaussian"
    return replace(optimum, converged=True, message=message)


def _vanishing(approximation: Laplace, optimum: Optimum, further: Array) -> Optimum:
    """The optimum of a Gaussian model; or that σ of some rows tends to 0, where the likelihood has no bound, or has none."""
    if optimum.converged:
        return _untold(approximation, optimum, further)
    log_sigma = approximation.observed.aux_rows + approximation.W @ further
    if np.exp(log_sigma.min()) > VANISHING * np.std(approximation.observed.y):
        return optimum
    message = (
        f"the likelihood rises without end: sigma of row {int(log_sigma.argmin())} tends to 0, as the mean reproduces such rows. "
        "Leave the term that sets them apart out of the formula for the dispersion"
    )
    return replace(optimum, converged=False, message=message)


def _untold(approximation: Laplace, optimum: Optimum, further: Array) -> Optimum:
    """The optimum, or that a σ is that of rows which the fixed part reproduces: a restricted likelihood leaves them out."""
    first = approximation.model.n_theta + approximation.p
    if len(optimum.theta) != first + len(further):  # something is held
        return optimum
    error = np.linalg.norm(curvature_root(optimum, None, first)[:, first:] @ approximation.W.T, axis=0)
    if not error.max() > UNTOLD:
        return optimum
    message = (
        f"nothing tells of sigma of row {int(error.argmax())}: the fixed part reproduces such rows, so that the restricted "
        "likelihood is the same whatever their sigma. Leave the term that sets them apart out of one of the formulas"
    )
    return replace(optimum, converged=False, message=message)


def _separated(model: Model, beta: Array, root: Array) -> str:
    """The coefficient along which hardly any information is left, or nothing."""
    X = model.X
    if not X.shape[1] or model.family == "t":  # whose likelihood falls with the distance
        return ""
    ordered = family_of(model.family).ordered
    about = X - X.mean(axis=0) if ordered else X  # thresholds take up the means
    spread = np.sqrt(np.mean(np.sum((about @ root.T) ** 2, axis=1)))  # standard error of η over the rows
    if np.isfinite(spread) and spread < (ENDLESS_ORDERED if ordered else ENDLESS):
        return ""
    reach = np.abs(beta) * np.sqrt(np.mean(X**2, axis=0))
    return model.design.fixed.names[int(reach.argmax())]
