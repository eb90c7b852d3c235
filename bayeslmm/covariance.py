"""A covariance structure: theta (relative to sigma) to natural (sd, correlation) and back. The only converter.

The covariance of one level's effects is ``sigma**2 * lambda @ lambda.T`` with `lambda` lower triangular, k x k.
`theta` holds its free entries column by column, as lme4 does; `natural` are standard deviations and correlations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def psd_factor(matrix: Array) -> Array:
    """Lower Cholesky factor of a positive semidefinite matrix; a pivot lost to rounding gives a zero column."""
    size = len(matrix)
    factor = np.zeros((size, size))
    for j in range(size):
        pivot = matrix[j, j] - factor[j, :j] @ factor[j, :j]
        if pivot <= 4 * size * np.finfo(float).eps * matrix[j, j]:
            continue
        factor[j, j] = np.sqrt(pivot)
        factor[j + 1 :, j] = (matrix[j + 1 :, j] - factor[j + 1 :, :j] @ factor[j, :j]) / factor[j, j]
    return factor


def correlation(covariance: Array) -> tuple[Array, Array]:
    """Standard deviations and correlations of a covariance matrix; an effect without variance has correlation 0."""
    sd = np.sqrt(np.diag(covariance))
    scale = np.where(sd > 0, sd, 1.0)
    corr = covariance / np.outer(scale, scale)
    np.fill_diagonal(corr, 1.0)
    return sd, np.clip(corr, -1.0, 1.0)


def correlation_factors(z: Array, k: int) -> Array:
    """Cholesky factors (…, k, k) of correlation matrices from z (…, pairs), row by row."""
    L = np.zeros((*z.shape[:-1], k, k))
    at = 0
    for i in range(k):
        rest = np.ones(z.shape[:-1])
        for j in range(i):
            L[..., i, j] = np.tanh(z[..., at]) * np.sqrt(rest)
            rest = rest / np.cosh(z[..., at]) ** 2
            at += 1
        L[..., i, i] = np.sqrt(rest)
    return L


def partial_correlations(corr: Array, k: int) -> Array:
    """z (…, pairs), row by row, from correlations (…, pairs) in the order (0, 1), (0, 2), …, (1, 2)."""
    R = np.zeros((*corr.shape[:-1], k, k)) + np.eye(k)
    rows, columns = np.triu_indices(k, 1)
    R[..., rows, columns] = corr
    R[..., columns, rows] = corr
    L = np.linalg.cholesky(R)
    z = []
    for i in range(k):
        for j in range(i):
            rest = 1.0 - np.sum(L[..., i, :j] ** 2, axis=-1)
            z.append(np.arctanh(L[..., i, j] / np.sqrt(rest)))
    return np.stack(z, axis=-1) if z else np.zeros((*corr.shape[:-1], 0))


@dataclass(frozen=True)
class Covariance(ABC):
    """The covariance of the `size` effects of one random-effects term.

    Parameters
    ----------
    size : int
        Number of effects per level, k.
    """

    size: int

    @cached_property
    @abstractmethod
    def pattern(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of lambda that theta fills, in theta's order."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The word for this structure in a printed model."""

    @property
    def n_theta(self) -> int:
        """Number of free entries of lambda."""
        return len(self.pattern[0])

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs (i, j), i < j, of correlated effects, row by row."""
        linked = {(int(c), int(r)) for r, c in zip(*self.pattern, strict=True) if r != c}
        return sorted(linked)

    @property
    def is_diagonal(self) -> NDArray[np.bool_]:
        """Which entries of theta stand on lambda's diagonal, hence cannot be negative."""
        return self.pattern[0] == self.pattern[1]

    def factor(self, theta: Array) -> Array:
        """Lambda, lower triangular (k, k), from theta."""
        lam = np.zeros((self.size, self.size))
        lam[self.pattern] = theta
        return lam

    def theta(self, factor: Array) -> Array:
        """Theta from a lower triangular lambda (k, k), columns signed so that the diagonal is not negative."""
        sign = np.where(np.diag(factor) < 0, -1.0, 1.0)
        return (factor * sign)[self.pattern]

    def natural(self, theta: Array, sigma: float) -> tuple[Array, Array]:
        """Standard deviations (k,) and correlation matrix (k, k) at theta and sigma."""
        lam = self.factor(theta)
        scale = np.abs(lam).max(axis=1, initial=0.0)  # row by row: effects of very different units
        rows = lam / np.where(scale > 0, scale, 1.0)[:, None]
        sd, corr = correlation(rows @ rows.T)
        return sd * scale * sigma, corr

    def from_natural(self, sd: Array, corr: Array, sigma: float) -> Array:
        """Theta from standard deviations (k,), correlation matrix (k, k) and sigma."""
        return self.theta((np.asarray(sd) / sigma)[:, None] * psd_factor(np.asarray(corr, float)))


class Unstructured(Covariance):
    """Every variance and every correlation free: lambda is a full lower triangle."""

    @cached_property
    def pattern(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of the lower triangle, column by column."""
        columns, rows = np.triu_indices(self.size)
        return rows, columns

    @property
    def label(self) -> str:
        """The word for this structure in a printed model."""
        return "unstructured" if self.size > 1 else "scalar"


class Diagonal(Covariance):
    """Independent effects, each with its own variance: lambda is diagonal."""

    @cached_property
    def pattern(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The diagonal."""
        return np.arange(self.size), np.arange(self.size)

    @property
    def label(self) -> str:
        """The word for this structure in a printed model."""
        return "diagonal" if self.size > 1 else "scalar"


STRUCTURES: dict[str, type[Covariance]] = {"us": Unstructured, "diag": Diagonal}
