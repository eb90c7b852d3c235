"""Log prior density of standard deviations and correlations, as a function of the factors λ of the random effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.logpdf import logpdf
from bayeslmm.terms import RandomTerm

if TYPE_CHECKING:
    from bayeslmm.direct import Place

Array = NDArray[np.float64]


class ScalePriors:
    """The density of (sd, correlations), without Jacobian, where sd = σ‖rows of λ‖.

    Parameters
    ----------
    terms : sequence of RandomTerm
        In theta's order.
    places : sequence of Place
        Where each term's sds stand among the priors, and its LKJ parameter.
    code, arguments : ndarray (s,), (s, 3)
        The sds' priors, as `exact.logpdf.encode` has them.
    """

    def __init__(
        self, terms: Sequence[RandomTerm], places: Sequence[Place], code: NDArray[np.int64], arguments: Array
    ) -> None:
        rows = {id(row.term): row for row in places}
        self.rows = [rows[id(term)] for term in terms]
        self.code, self.arguments = code, arguments

    def at(self, factors: Sequence[Array], sigma: float) -> tuple[float, Array, float]:
        """The log density up to the LKJ's constants; cotangents of theta and σ.

        Parameters
        ----------
        factors : sequence of ndarray (k, k)
            λ of each term, in theta's order.
        sigma : float

        Returns
        -------
        tuple of (float, ndarray, float)
        """
        value, sigma_bar = 0.0, 0.0
        theta_bar = [np.empty(0)]
        for row, lam in zip(self.rows, factors, strict=True):
            norm = np.sqrt(np.sum(lam**2, axis=1))
            direction = np.where(norm[:, None] > 0, lam / np.where(norm > 0, norm, 1.0)[:, None], np.eye(len(lam)))
            bar = np.zeros_like(lam)
            for i in range(len(lam)):
                at = row.sd_at + i
                density, slope = logpdf(self.code[at], *self.arguments[at], sigma * norm[i])
                value += density
                bar[i] = slope * sigma * direction[i]
                sigma_bar += slope * norm[i]
            if row.correlated and row.eta != 1.0:
                value += _lkj(lam, norm, row.eta, bar)
            theta_bar.append(bar[row.term.covariance.pattern])
        return float(value), np.concatenate(theta_bar), float(sigma_bar)


def _lkj(lam: Array, norm: Array, eta: float, bar: Array) -> float:
    """(η − 1) log|R| of λλ', effects without variance left out; adds its cotangent to `bar`."""
    used = np.flatnonzero(norm > 0)
    diagonal = np.diag(lam)
    if (diagonal[used] == 0).any():
        return -np.inf if eta > 1 else np.inf
    bar[used] -= 2.0 * (eta - 1.0) * lam[used] / norm[used, None] ** 2
    bar[used, used] += 2.0 * (eta - 1.0) / diagonal[used]
    return float(2.0 * (eta - 1.0) * np.sum(np.log(diagonal[used] / norm[used])))
