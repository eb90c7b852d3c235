"""Two models on the same rows → whether one is a case of the other, and what their likelihood ratio then follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtrc

from bayeslmm.errors import MethodError
from bayeslmm.exact.zeros import INFLATED, NONE
from bayeslmm.family import family_of
from bayeslmm.model import Model

Array = NDArray[np.float64]
# Share of a column that may lie outside the span of others and still count as rounding.
SPANNED = 1e-8
# A likelihood ratio below this is that of two fits at the same point.
NO_GAIN = 1e-8
# Families that are another's at an end of its dispersion.
LIMITS = (("poisson", "negativebinomial"), ("poisson", "negativebinomial1"), ("binomial", "betabinomial"))


class Reference(NamedTuple):
    """What a likelihood ratio of two models is compared with."""

    nested: bool  # False where the smaller model is certainly no case of the larger
    mixture: tuple[int, int] | None  # degrees of freedom of the two halves
    note: str


def reference(small: Model, large: Model) -> Reference:
    """What the likelihood ratio of two models on the same rows follows if the smaller is true.

    Parameters
    ----------
    small, large : Model
        Compared by their columns, so that another coding of the same effects makes no difference.

    Returns
    -------
    Reference
        Whether they can be nested, the halves' degrees of freedom where a χ̄² mixture is known, and a sentence.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> full = bl.load("models/sleepstudy")
    >>> reference(full.update("Reaction ~ Days + (1 | Subject)"), full).mixture
    (1, 2)
    """
    limits = _limits(small, large)
    if limits is None or not _fixed_nested(small, large):
        return Reference(False, None, "the models are not nested: compare AIC, p is not defined")
    fixed_differ = not spanned(large.X, small.X) or _further_differ(small, large)
    fewer, more = _unmatched(_blocks(small), _blocks(large))
    if limits:
        return _limiting_reference(limits, bool(fixed_differ or fewer or more))
    if not more and not fewer:
        return Reference(True, None, "")
    if fixed_differ:
        return Reference(
            True,
            None,
            "fixed and random parts both differ, so no mixture is known: p is from χ², if anything too large",
        )
    return _random_reference(fewer, more)


def _limits(small: Model, large: Model) -> int | None:
    """How many parameters of the larger model's distribution go to an end of their domain; None where it has no such case."""
    one, other = family_of(small.family), family_of(large.family)
    if small.link != large.link:
        return None
    dispersions = 0 if one.plain == other.plain else 1 if (one.plain, other.plain) in LIMITS else None
    added = large.design.further_columns("zero").shape[1]
    own = 0 if one.zeros == other.zeros else added if (one.zeros, other.zeros) == (NONE, INFLATED) else None
    nested = all(spanned(_further(small, name), _further(large, name)) for name in ("dispersion", "zero"))
    return None if dispersions is None or own is None or not nested else dispersions + own


def _further(model: Model, name: str) -> Array:
    """Columns of the formula for dispersion or zeros; of a constant dispersion ones."""
    constant = name == "dispersion" and name not in model.design.further and model.dispersion is not None
    return np.ones((model.design.nobs, 1)) if constant else model.design.further_columns(name)


def _further_differ(small: Model, large: Model) -> bool:
    """Whether formulas for parameters that both models have differ."""
    both = [(_further(small, name), _further(large, name)) for name in ("dispersion", "zero")]
    return any(bool(one.shape[1]) and not spanned(other, one) for one, other in both)


def _limiting_reference(limits: int, more: bool) -> Reference:
    if more:
        return Reference(True, None, "the families and more differ, so no mixture is known: p is from χ², too large")
    if limits == 1:
        return Reference(
            True,
            (0, 1),
            "p_mixture is from ½χ²(0) + ½χ²(1): the smaller family is the larger one's at an end of a parameter",
        )
    return Reference(True, None, "parameters of the family go to their ends together, for which no mixture is known")


def p_value(statistic: float, degrees: float) -> float:
    """P(χ²(degrees) ≥ statistic)."""
    return float(chdtrc(degrees, statistic)) if degrees > 0 else float(statistic <= NO_GAIN)


def mixture_p(statistic: float, mixture: tuple[int, int]) -> float:
    """P of ½χ²(a) + ½χ²(b); χ²(0) is 0."""
    return 0.5 * sum(p_value(statistic, degrees) for degrees in mixture)


def spanned(inner: Array, outer: Array) -> bool:
    """Whether every column of `inner` is a linear combination of those of `outer`."""
    if not inner.shape[1]:
        return True
    if not outer.shape[1]:
        return False
    one, other = _unit(inner), _unit(outer)
    coefficients = np.linalg.lstsq(other, one)[0]
    return bool(np.linalg.norm(one - other @ coefficients, axis=0).max() <= SPANNED)


def _unit(columns: Array) -> Array:
    largest = np.abs(columns).max(axis=0)
    columns = columns / np.where(largest > 0, largest, 1.0)
    norm = np.linalg.norm(columns, axis=0)
    return np.asarray(columns / np.where(norm > 0, norm, 1.0))


def _offset(model: Model) -> Array:
    offset = model.design.offset
    return np.zeros(model.design.nobs) if offset is None else offset


def _fixed_nested(small: Model, large: Model) -> bool:
    shift = (_offset(small) - _offset(large))[:, None]
    outer = large.X
    return spanned(small.X, outer) and (not shift.any() or spanned(shift, outer))


class _Block(NamedTuple):
    """Effects that are correlated with each other and with no other: which level each row has, and their columns."""

    codes: NDArray[np.intp]
    columns: Array

    @property
    def size(self) -> int:
        return self.columns.shape[1]


def _blocks(model: Model) -> list[_Block]:
    found = []
    for term in model.design.random:
        codes = pd.factorize(term.codes)[0]
        parts = [term.columns] if term.covariance.pairs else np.hsplit(term.columns, term.columns.shape[1])
        found += [_Block(codes, part) for part in parts]
    return found


def _inside(one: _Block, other: _Block) -> bool:
    return np.array_equal(one.codes, other.codes) and spanned(one.columns, other.columns)


def _unmatched(small: list[_Block], large: list[_Block]) -> tuple[list[_Block], list[_Block]]:
    """The blocks that only one of the models has."""
    fewer, more = [], list(large)
    for block in small:
        same = [i for i, b in enumerate(more) if b.size == block.size and _inside(block, b) and _inside(b, block)]
        if same:
            del more[same[0]]
        else:
            fewer.append(block)
    return fewer, more


def _random_reference(fewer: list[_Block], more: list[_Block]) -> Reference:
    """The reference where only `fewer` became `more`."""
    added = sum(b.size for b in more) - sum(b.size for b in fewer)
    shown = bool(more) and all(any(_inside(b, other) for other in more) for b in fewer)
    if shown and len(more) == 1 and len(fewer) <= 1 and added == 1:
        low = sum(b.size for b in fewer)
        return Reference(
            True,
            (low, low + 1),
            f"p_mixture is from ½χ²({low}) + ½χ²({low + 1}): the added variance is 0 on the boundary",
        )
    if shown and added == 0 and len(more) == 1:
        return Reference(True, None, "only correlations are added, and 0 lies inside their range: p is from χ²")
    if shown:
        return Reference(
            True, None, "more than one variance is added, for which no mixture is known: p is from χ², and too large"
        )
    return Reference(True, None, "whether the random parts are nested cannot be seen: p is from χ² as if they were")


def check_same_response(models: Sequence[Model]) -> None:
    """Raise unless the models are of the same response and rows; their weights may differ.

    Parameters
    ----------
    models : sequence of Model

    Raises
    ------
    MethodError
        What differs.
    """
    first = models[0].design
    for design in (model.design for model in models[1:]):
        if design.response != first.response:
            raise MethodError(
                f"the models have different responses: {first.response!r} and {design.response!r}; densities of different "
                "variables cannot be compared"
            )
        if not (np.array_equal(design.rows, first.rows) and np.array_equal(design.y, first.y)):
            raise MethodError(
                f"the models are of different rows ({first.nobs} and {design.nobs} used): build both from the same table, "
                "without the rows where either lacks a value"
            )
