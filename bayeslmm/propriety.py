"""Whether flat priors leave the posterior with a finite integral."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from bayeslmm.errors import ImproperPosteriorError
from bayeslmm.exact import zeros
from bayeslmm.family import HETEROSCEDASTIC, family_of
from bayeslmm.model import Model

Array = NDArray[np.float64]
Which = NDArray[np.bool_]
# Mixtures whose likelihood goes to that of the plain family as their dispersion parameter grows; mixtures of counts.
TO_PLAIN, MIXED = ("negativebinomial", "betabinomial"), ("negativebinomial", "negativebinomial1")
# Share of a column, or of a row, that is rounding.
RANK = 1e-9
COEFFICIENT = "Give it a proper prior, such as bl.Prior('Normal', mu=0, sigma=...), or leave the default"
ADVICE = "Give it a proper prior, such as bl.Prior('HalfNormal', sigma=...)"


class FlatScale(NamedTuple):
    """One effect's sd with a flat prior."""

    group: str
    effect: str
    column: Array  # (n,)
    codes: NDArray[np.integer]
    levels: int


def check_proper(model: Model) -> None:
    """Raise where flat priors leave the posterior without a finite integral.

    Raises
    ------
    ImproperPosteriorError
        As m flat standard deviations grow together the density falls like size**(-r), r the rank of their effects
        beyond the flat coefficients, and the volume grows like size**(m - 1): r <= m has no finite integral. For one
        group and a flat intercept that is fewer than three levels (Gelman 2006, Bayesian Analysis 1(3)). Of counts and
        shares, levels at an end of the range (all 0, all successes) do not count: their likelihood stays. Nor may flat
        coefficients be separated: a direction in which the likelihood nowhere falls (Albert & Anderson 1984,
        Biometrika 71(1)), in the formulas for the dispersion and for zeros no more than in that of the mean.
    """
    gaussian = model.family == "gaussian"
    X = model.X[:, [j for j, prior in enumerate(model.priors.fixef) if prior.name == "Flat"]]
    scales = _flat_scales(model)
    if gaussian:
        _check_rows(model, X.shape[1], len(scales))
    else:
        _check_noise(model)
        _check_sigma(model)
        names = [
            n for n, prior in zip(model.priors.coefficients, model.priors.fixef, strict=True) if prior.name == "Flat"
        ]
        if model.design.ordered:
            X = _beside_thresholds(model, X)
        else:
            _check_separated(names, X, *_ends(model))
        for name, block in model.priors.further.items():
            flat = [j for j, prior in enumerate(block.priors) if prior.name == "Flat"]
            own = [f"{name}[{block.coefficients[j]}]" for j in flat]
            _check_separated(own, model.design.further[name].X[:, flat], *_ends_of(model, name))
        scales = [scale._replace(column=scale.column * _bounding(model, scale.codes)) for scale in scales]
    weak = [scale for scale in scales if _seen(scale) - X.shape[1] <= len(scales)]
    for m in range(1, len(weak) + 1):
        for chosen in combinations(weak, m):
            free = _rank_beyond(chosen, X)
            if free <= m:
                raise ImproperPosteriorError(_message(chosen, free))


def _check_rows(model: Model, flat: int, scales: int) -> None:
    """With sigma every row counts: n less the flat coefficients must exceed the number of flat scales."""
    n = model.design.nobs
    if model.priors.sigma.name == "HalfFlat" and n - flat <= scales + 1:
        others = f", {scales} group standard deviations" if scales else ""
        raise ImproperPosteriorError(
            f"flat priors on sigma{others} and {flat} coefficients need at least {flat + scales + 2} rows; there are {n}"
        )


def _check_noise(model: Model) -> None:
    """As the dispersion of a mixture of counts goes to infinity the likelihood goes to that of the unmixed family."""
    noise = model.priors.noise
    if noise is not None and noise.name == "HalfFlat" and family_of(model.family).plain in TO_PLAIN:
        raise ImproperPosteriorError(
            f"a flat prior on {model.dispersion} is improper: as it grows the likelihood of the {model.family} family goes to "
            f"a constant. {ADVICE}"
        )
    if "nu" in model.priors.second and model.priors.second["nu"].name == "HalfFlat":
        raise ImproperPosteriorError(
            f"a flat prior on nu is improper: as it grows the likelihood goes to that of normal responses. {ADVICE}"
        )


def _check_sigma(model: Model) -> None:
    """With flat coefficients of log σ the mean must not reproduce all rows whose σ may tend to 0 by themselves."""
    block = model.priors.further.get("dispersion")
    if block is None or model.family != HETEROSCEDASTIC:
        return
    flat = [j for j, prior in enumerate(block.priors) if prior.name == "Flat"]
    for rows in _alone(model.design.further["dispersion"].X[:, flat]) if flat else ():
        if _reproduced(model, rows):
            names = ", ".join(f"dispersion[{block.coefficients[j]}]" for j in flat)
            raise ImproperPosteriorError(
                f"flat priors on {names} are improper: the mean reproduces {_named_rows(rows)}, so that the likelihood does not "
                f"fall as sigma tends to 0 there. {COEFFICIENT}"
            )


def _reproduced(model: Model, rows: Which) -> bool:
    """Whether coefficients and effects can give every one of some rows any value."""
    Z = model.Z[np.flatnonzero(rows)]
    used, count = np.unique(Z.indices), int(rows.sum())
    if model.X.shape[1] + len(used) < count:
        return False
    columns = np.column_stack([model.X[rows], Z[:, used].toarray()])
    size = np.abs(columns).max(axis=0)
    return bool(np.linalg.matrix_rank(columns / np.where(size > 0, size, 1.0)) == count)


def _alone(W: Array) -> list[Which]:
    """Sets of rows for which some Wδ is −1 while it is 0 in all others: those of one pattern, or all."""
    patterns, code = np.unique(W / np.abs(W).max(axis=0), axis=0, return_inverse=True)
    U, size, _ = np.linalg.svd(patterns, full_matrices=False)
    U = U[:, size > RANK * size[0]]
    sets = [code.ravel() == k for k in np.flatnonzero(np.sum(U**2, axis=1) > 1.0 - RANK)]
    left = np.ones(len(U)) - U @ U.sum(axis=0)
    return sets + ([np.ones(len(W), bool)] if np.abs(left).max() < RANK else [])


def _named_rows(rows: Which) -> str:
    count, first = int(rows.sum()), int(rows.argmax())
    return f"row {first}" if count == 1 else f"{count} rows, the first of them row {first},"


def _ends(model: Model) -> tuple[Which, Which]:
    """Rows whose likelihood stays as η goes to −∞, and to +∞; none for families of continuous responses."""
    y, trials, family = model.design.y, model.design.trials, family_of(model.family)
    if model.design.ordered:
        return y == 0, y == y.max()
    counts = family.plain in ("poisson", "negativebinomial", "negativebinomial1") and model.link == "log"
    shares = family.plain in ("bernoulli", "binomial", "betabinomial")
    most = np.ones_like(y) if trials is None else trials
    low, high = (y == 0) & (counts or shares), (y == most) & shares
    if (
        family.zeros == zeros.HURDLE
    ):  # as its mean goes to 0 a count without its zero goes to 1, a mixed one to a log series
        return (y <= 1) | (family.plain in MIXED), y == 0
    return low, high | ((y == 0) & bool(family.zeros))


def _ends_of(model: Model, name: str) -> tuple[Which, Which]:
    """Rows whose likelihood stays as the log dispersion, or the logit of a zero of their own, goes to −∞, and to +∞."""
    y, family = model.design.y, family_of(model.family)
    every, nothing = np.ones(len(y), bool), np.zeros(len(y), bool)
    if name == "zero":
        return (y > 0 if family.zeros == zeros.HURDLE else every), y == 0
    if family.plain == "betabinomial":
        return (y == 0) | (y == model.design.trials), every
    found = {"negativebinomial": (y == 0, every), "negativebinomial1": (every, y == 0)}
    return found.get(family.plain, (nothing, nothing))


def _bounding(model: Model, codes: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Rows of levels that bound their effect on both sides."""
    low, high = _ends(model)
    size = np.bincount(codes)
    unbounded = (np.bincount(codes, low) == size) | (np.bincount(codes, high) == size)
    return np.asarray(~unbounded[codes])


def _check_separated(names: Sequence[str], X: Array, low: Which, high: Which) -> None:
    """No direction δ of flat coefficients may have x'δ <= 0 at rows that stay below, >= 0 above, and = 0 elsewhere."""
    if not X.shape[1] or not (low | high).any():
        return
    scaled, free = X / np.abs(X).max(axis=0), low & high
    sign = np.where(free, 0.0, high.astype(float) - low)
    bound, fixed = ~free, scaled[~free & (sign == 0)]
    if np.linalg.matrix_rank(scaled[bound]) < X.shape[1]:
        return _separated(names[int(np.abs(np.linalg.svd(scaled[bound])[2][-1]).argmax())])
    toward = sign[sign != 0][:, None] * scaled[sign != 0]
    found = linprog(
        -toward.sum(axis=0), A_ub=-toward, b_ub=np.zeros(len(toward)),
        A_eq=fixed if len(fixed) else None, b_eq=np.zeros(len(fixed)) if len(fixed) else None, bounds=(-1, 1),
    )  # fmt: skip
    if found.status == 0 and -found.fun > 1e-6:
        _separated(names[int(np.abs(found.x).argmax())])


def _separated(along: str) -> None:
    raise ImproperPosteriorError(
        f"flat priors on the coefficients are improper: the responses are separated along {along}, so that the likelihood "
        f"does not fall as it grows. {COEFFICIENT}"
    )


def _beside_thresholds(model: Model, X: Array) -> Array:
    """The flat columns, and one of ones for flat thresholds; raises where a likelihood nowhere falls.

    Along (δ, d) no category's likelihood falls if d_k >= x'δ at its upper threshold and d_k <= x'δ at its lower one; it is
    log-concave, so that directions in which it does not fall at all rows are those in which it has no finite integral.
    """
    y, count = model.design.y.astype(np.intp), len(model.design.thresholds)
    flat = all(prior.name == "Flat" for prior in model.priors.second.values())
    steps = np.eye(count) if flat else np.zeros((count, count))
    size = np.abs(X).max(axis=0, initial=0.0)
    scaled = X / np.where(size > 0, size, 1.0)
    above = np.hstack([-scaled, steps[np.minimum(y, count - 1)]])[y < count]
    below = np.hstack([scaled, -steps[np.maximum(y - 1, 0)]])[y > 0]
    A = np.vstack([above, below])
    found = linprog(-A.sum(axis=0), A_ub=-A, b_ub=np.zeros(len(A)), bounds=(-1, 1))
    if A.any() and found.status == 0 and -found.fun > 1e-6:
        names = [n for n, p in zip(model.priors.coefficients, model.priors.fixef, strict=True) if p.name == "Flat"]
        along = [*names, *model.design.thresholds][int(np.abs(found.x).argmax())]
        raise ImproperPosteriorError(
            f"flat priors are improper: the categories are separated along {along}, so that the likelihood does not fall as it "
            f"grows. {COEFFICIENT}"
        )
    return np.column_stack([X, np.ones(len(X))]) if flat else X


def _flat_scales(model: Model) -> list[FlatScale]:
    found, at = [], dict.fromkeys(model.groups, 0)
    for term in model.design.random:
        for effect, column in zip(term.effects, term.columns.T, strict=True):
            if model.priors.sd[term.group][at[term.group]].name == "HalfFlat":
                found.append(FlatScale(term.group, effect, column, term.codes, len(term.levels)))
            at[term.group] += 1
    return found


def _seen(scale: FlatScale) -> int:
    """Levels in which the effect has a row: the rank of its columns."""
    return int(np.count_nonzero(np.bincount(scale.codes, scale.column != 0.0, scale.levels)))


def _rank_beyond(scales: tuple[FlatScale, ...], X: Array) -> int:
    """Rank of some effects' columns beyond those of X; columns are scaled to at most 1."""
    blocks = [X]
    for scale in scales:
        block = np.zeros((len(X), scale.levels))
        block[np.arange(len(X)), scale.codes] = scale.column
        blocks.append(block)
    whole = np.hstack(blocks)
    size = np.abs(whole).max(axis=0)
    whole /= np.where(size > 0, size, 1.0)
    base = np.linalg.matrix_rank(whole[:, : X.shape[1]]) if X.shape[1] else 0
    return int(np.linalg.matrix_rank(whole) - base)


def _message(scales: tuple[FlatScale, ...], free: int) -> str:
    names = " and ".join(f"sd_{scale.group}[{scale.effect}]" for scale in scales)
    levels = ", ".join(dict.fromkeys(f"{scale.group!r} has {scale.levels} levels" for scale in scales))
    flat = "a flat prior on" if len(scales) == 1 else "flat priors on"
    return (
        f"{flat} {names} {'is' if len(scales) == 1 else 'together are'} improper: {levels} and the flat coefficients leave "
        f"{free} of them to learn from; at least {len(scales) + 1} are needed. {ADVICE}"
    )
