"""Where the factors λ stand in theta: their zeros, and the ways out of a corner."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslmm.covariance import Covariance, psd_factor

Array = NDArray[np.float64]


class Layout:
    """Which entries of x belong to which λ."""

    def __init__(self, covariances: Sequence[Covariance], size: int) -> None:
        self.covariances = covariances
        ends = np.cumsum([0] + [c.n_theta for c in covariances])
        self.slices = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.bounded = np.zeros(size, bool)
        for covariance, where in zip(covariances, self.slices, strict=True):
            self.bounded[where] = covariance.is_diagonal
        self.lower = np.where(self.bounded, 0.0, -np.inf)

    def free(self, x: Array) -> NDArray[np.bool_]:
        """Entries outside the columns of λ that a zero on the diagonal has closed."""
        free = np.ones(len(x), bool)
        for covariance, where in zip(self.covariances, self.slices, strict=True):
            closed = np.diag(covariance.factor(x[where])) == 0
            free[where] = ~closed[covariance.pattern[1]]
        return free

    def canonical(self, x: Array) -> Array:
        """The same covariances with signs and zero columns in standard form."""
        x = x.copy()
        for covariance, where in zip(self.covariances, self.slices, strict=True):
            lam = covariance.factor(x[where])
            if covariance.pairs and (np.diag(lam) == 0).any():
                lam = psd_factor(lam @ lam.T)
            x[where] = covariance.theta(lam)
        return x

    def rows(self) -> list[NDArray[np.intp]]:
        """Places of the entries of each row of each λ."""
        found = []
        for covariance, where in zip(self.covariances, self.slices, strict=True):
            places = np.arange(where.start, where.stop)
            found += [places[covariance.pattern[0] == row] for row in range(covariance.size)]
        return found

    def could_vanish(self, x: Array) -> NDArray[np.bool_]:
        """Diagonal entries, and the other entries of an effect whose diagonal entry is 0 already."""
        found = self.bounded.copy()
        for covariance, where in zip(self.covariances, self.slices, strict=True):
            found[where] |= np.diag(covariance.factor(x[where]))[covariance.pattern[0]] == 0
        return found

    def exits(self, x: Array) -> list[tuple[slice, Covariance, Array]]:
        """For each λ on the boundary, the columns whose span holds every v with λλ' + s vv' off it."""
        found = []
        for covariance, where in zip(self.covariances, self.slices, strict=True):
            lam = covariance.factor(x[where])
            zero = np.diag(lam) == 0
            if zero.any() and covariance.pairs:
                found.append((where, covariance, np.linalg.eigh(lam @ lam.T)[1][:, : zero.sum()]))
            elif zero.any():
                found += [(where, covariance, v[:, None]) for v in np.eye(covariance.size)[zero]]
        return found

    def turned(self, x: Array) -> list[tuple[int, Array]]:
        """The same covariances, a zero column of λ exchanged for a later one; and where its diagonal stands."""
        found = []
        for covariance, where in zip(self.covariances, self.slices, strict=True):
            lam = covariance.factor(x[where])
            place = np.flatnonzero(self.bounded[where]) + where.start
            for j in np.flatnonzero(np.diag(lam) == 0) if covariance.pairs else ():
                for later in np.flatnonzero(np.diag(lam) > 0):
                    if later > j:
                        other, swapped = x.copy(), lam.copy()
                        swapped[:, [j, later]] = lam[:, [later, j]]
                        other[where] = swapped[covariance.pattern]
                        found.append((int(place[j]), other))
        return found


def moved(x: Array, where: slice, covariance: Covariance, v: Array, step: float) -> Array:
    """x with λλ' + step · vv' in place of one λλ'."""
    out = x.copy()
    lam = covariance.factor(x[where])
    out[where] = covariance.theta(psd_factor(lam @ lam.T + step * np.outer(v, v)))
    return out
