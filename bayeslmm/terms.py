"""The two kinds of term: a block of fixed-effect columns, and effects that vary over the levels of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from bayeslmm.covariance import Covariance

Array = NDArray[np.float64]
Codes = NDArray[np.integer]
# Effects of one term closer to collinear than this are not orthogonalised.
COLLINEAR = 1e-10


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


def orthogonal_basis(terms: Sequence[RandomTerm]) -> Array:
    """Theta from the theta of the same terms with their effects' columns orthogonalised, root mean square 1.

    With columns Z = QT, T lower triangular and Q orthogonal, effects Tu on Q have the factor Tλ, lower triangular like
    λ; so a predictor far from 0 does not slow the search by a correlation near ±1.

    Parameters
    ----------
    terms : sequence of RandomTerm
        In theta's order.

    Returns
    -------
    ndarray (m, m)
        Block-diagonal, lower triangular, its diagonal positive.
    """
    basis = np.zeros((sum(term.covariance.n_theta for term in terms),) * 2)
    at = 0
    for term in terms:
        inverse = _inverse_factor(term)
        rows, columns = term.covariance.pattern
        own = slice(at, at + len(rows))
        basis[own, own] = inverse[np.ix_(rows, rows)] * (columns[:, None] == columns)
        at += len(rows)
    return basis


def _inverse_factor(term: RandomTerm) -> Array:
    """T⁻¹ of the term's columns; diagonal where its effects are independent or all but collinear."""
    size = np.abs(term.columns).max(axis=0)
    columns = term.columns / size
    norm = np.sqrt(np.mean(columns**2, axis=0))
    if not term.covariance.pairs:
        return np.diag(1.0 / (size * norm))
    R = np.linalg.qr((columns / norm)[:, ::-1], mode="r")[::-1, ::-1] / np.sqrt(len(columns))
    lower = R * np.sign(np.diag(R))[:, None]
    if np.abs(np.diag(lower)).min() < COLLINEAR:
        return np.diag(1.0 / (size * norm))
    return np.asarray(solve_triangular(lower, np.eye(len(lower)), lower=True) / (size * norm)[:, None])
