"""The two kinds of term: a block of fixed-effect columns, and effects that vary over the levels of a group."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bayeslmm.covariance import Covariance

Array = NDArray[np.float64]
Codes = NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class FixedBlock:
    """Columns of the fixed-effects design that enter the fit.

    Parameters
    ----------
    names : tuple of str
        Coefficient names, p of them.
    X : ndarray (n, p)
        Their columns, of full rank.
    dropped : tuple of str
        Columns left out because they are linear combinations of earlier ones.
    kept : ndarray of int (p,)
        Positions of `names` among all columns of the formula.
    """

    names: tuple[str, ...]
    X: Array
    dropped: tuple[str, ...] = ()
    kept: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, np.intp))


@dataclass(frozen=True, eq=False)
class RandomTerm:
    """Effects that vary over the levels of one group: ``sum_a columns[i, a] * u[codes[i], a]``.

    Parameters
    ----------
    group : str
        Name of the grouping factor, as lme4 prints it (`b:a` for `a/b`).
    effects : tuple of str
        Names of the k effects.
    columns : ndarray (n, k)
        Design columns.
    codes : ndarray of int (n,)
        Level of each row.
    levels : tuple of str
        Labels of the q levels.
    covariance : Covariance
        Structure of the k x k covariance of one level's effects.
    """

    group: str
    effects: tuple[str, ...]
    columns: Array
    codes: Codes
    levels: tuple[str, ...]
    covariance: Covariance

    @property
    def size(self) -> int:
        """Number of random effects of the term, q * k."""
        return len(self.levels) * len(self.effects)
