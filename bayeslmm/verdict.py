"""Verdicts: how unusual statistics are among simulations of a true model, and what a check reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tail = Literal["upper", "lower", "two-sided"]
Verdict = Literal["ok", "look", "problem", "not judged"]
# Rates at which the simulated checks, all of them together, say "problem", and "problem" or "look", of a true model.
PROBLEM, LOOK = 0.05, 0.20


class Finding(NamedTuple):
    """What one check found. `p` is of the check alone, `p_adjusted` among all that were simulated; NaN elsewhere."""

    check: str
    value: float
    threshold: float
    verdict: Verdict
    sentence: str
    advice: str
    p: float = float("nan")
    p_adjusted: float = float("nan")


def verdict(adjusted: float) -> Verdict:
    """The word for a corrected p-value."""
    return "problem" if adjusted <= PROBLEM else "look" if adjusted <= LOOK else "ok"


def _medians(values: Array) -> Array:
    """Medians of the columns, NaN where a column is."""
    known = np.isfinite(values).any(axis=0)
    return np.array([np.nanmedian(column) if any_ else np.nan for column, any_ in zip(values.T, known, strict=True)])


class Judged(NamedTuple):
    """p-values of m statistics alone (m,) and among all (m,), and the values at which the latter reach a level (m,)."""

    p: Array
    adjusted: Array
    threshold: Array


def judge(observed: Array, null: Array, tails: Sequence[Tail], level: float) -> Judged:
    """Monte Carlo p-values of statistics, alone and corrected for how many there are.

    With the observed values as one more simulation, the p-value of a statistic is the share of the N + 1 values at least
    as extreme, and the corrected one the share of simulations whose smallest p-value, over all statistics, is at most as
    large: the single-step minimum-p method (Westfall & Young 1993), which keeps the rate of any false alarm at its level
    whatever the dependence of the statistics. A NaN is as little extreme as can be.

    Parameters
    ----------
    observed : ndarray (m,)
    null : ndarray (N, m)
        The same statistics of simulations.
    tails : sequence of {"upper", "lower", "two-sided"}
        Which values are extreme; two-sided ones are measured from the median of the simulations.
    level : float
        Of the thresholds.

    Returns
    -------
    Judged

    Examples
    --------
    >>> null = np.random.default_rng(1).normal(size=(999, 2))
    >>> judged = judge(np.array([0.0, 4.5]), null, ["upper", "upper"], 0.05)
    >>> judged.p.round(3).tolist(), judged.adjusted.round(3).tolist()
    ([0.479, 0.001], [0.734, 0.002])
    """
    every = np.vstack([observed, null])
    two_sided = np.array([tail == "two-sided" for tail in tails])
    sign = np.where([tail == "lower" for tail in tails], -1.0, 1.0)
    centre = np.where(two_sided, np.nan_to_num(_medians(every)), 0.0)
    beyond = np.where(two_sided, np.abs(every - centre), sign * every)
    beyond = np.where(np.isfinite(beyond), beyond, -np.inf)
    ordered = np.sort(beyond, axis=0)
    count = len(every)
    p = np.column_stack([count - np.searchsorted(o, b, side="left") for o, b in zip(ordered.T, beyond.T, strict=True)])
    p = p / count
    smallest = np.sort(p.min(axis=1))
    adjusted = np.searchsorted(smallest, p[0], side="right") / count
    within = smallest[np.searchsorted(smallest, smallest, side="right") <= level * count]
    edge = ordered[-round(within[-1] * count)] if len(within) else np.full(len(tails), np.inf)
    outward = np.where(two_sided & (every[0] < centre), -1.0, sign)
    return Judged(p[0], adjusted, np.where(np.isfinite(edge), centre + outward * edge, np.nan))
