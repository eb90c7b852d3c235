"""Whether flat priors leave the posterior with a finite integral."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.errors import ImproperPosteriorError
from bayeslmm.model import Model

Array = NDArray[np.float64]
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
        group and a flat intercept that is fewer than three levels (Gelman 2006, Bayesian Analysis 1(3)).
    """
    X = model.X[:, [j for j, prior in enumerate(model.priors.fixef) if prior.name == "Flat"]]
    scales = _flat_scales(model)
    _check_rows(model, X.shape[1], len(scales))
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
