"""Correlations as one PyMC vector over pairs, with its density, its transform and its Cholesky factor.

The vector holds the pairs (i, j), i < j, row by row, with the density of Lewandowski, Kurowicka and Joe (2009) in those
entries, ``(eta - 1) log|R| + c(k, eta)``. Everything is written through the lower Cholesky factor of R, which for the
few effects of a random term is cheapest in closed form, entry by entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.distributions.shape_utils import rv_size_is_none
from pymc.logprob.transforms import Transform
from pytensor.tensor.variable import TensorVariable
from scipy.special import betaln

from bayeslmm.errors import PriorError

Entries = dict[tuple[int, int], TensorVariable]


def log_normaliser(k: int, eta: float) -> float:
    """Constant c(k, eta) that makes ``(eta - 1) log|R| + c`` a density in the k(k-1)/2 correlations.

    Parameters
    ----------
    k : int
        Number of correlated effects.
    eta : float
        Shape of the LKJ density, positive; 1 is uniform over correlation matrices.

    Returns
    -------
    float
        The log of the normalising constant.

    Examples
    --------
    >>> round(math.exp(log_normaliser(2, 1.0)), 12)
    0.5
    """
    shapes = [eta + (k - 2 - i) / 2 for i in range(k - 1)]
    return -sum(
        (k - 1 - i) * ((2 * shape - 1) * math.log(2) + float(betaln(shape, shape))) for i, shape in enumerate(shapes)
    )


def _root(square: TensorVariable) -> TensorVariable:
    """Square root, 0 with gradient 0 where the argument is not positive."""
    inside = square > 0
    return pt.switch(inside, pt.sqrt(pt.switch(inside, square, 1.0)), 0.0)


def _ratio(top: TensorVariable, bottom: TensorVariable) -> TensorVariable:
    """Quotient, 0 with gradient 0 where the denominator is not positive."""
    inside = bottom > 0
    return pt.switch(inside, top / pt.switch(inside, bottom, 1.0), 0.0)


def _entries(vector: TensorVariable, k: int) -> Entries:
    """The pairs of a vector (..., k(k-1)/2) as separate tensors."""
    return {pair: vector[..., p] for p, pair in enumerate(combinations(range(k), 2))}


def _vector(entries: Entries, k: int) -> TensorVariable:
    """Inverse of `_entries`."""
    return pt.stack([entries[pair] for pair in combinations(range(k), 2)], axis=-1)


def _factor(corr: Entries, k: int) -> tuple[list[list[TensorVariable]], list[TensorVariable]]:
    """Rows of the lower Cholesky factor of R, and the squares of its diagonal from the second row on."""
    one = pt.constant(1.0)
    rows, pivots = [[one]], []
    for j in range(1, k):
        row: list[TensorVariable] = []
        left = one
        for i in range(j):
            dot = sum((rows[i][m] * row[m] for m in range(i)), start=pt.constant(0.0))
            entry = _ratio(corr[i, j] - dot, rows[i][i]) if i else corr[i, j]
            left = left - entry**2 if i else (1 - entry) * (1 + entry)
            row.append(entry)
        rows.append([*row, _root(left)])
        pivots.append(left)
    return rows, pivots


def cholesky_of_correlation(vector: TensorVariable, k: int) -> TensorVariable:
    """Lower Cholesky factor L of the correlation matrix, ``R = L L'``, from its pairs.

    Written entry by entry, so that gradients are elementwise; an R that is not positive definite gives zeros on the
    diagonal from the first pivot that is not positive.

    Parameters
    ----------
    vector : TensorVariable (k(k-1)/2,)
        Correlations of the pairs (i, j), i < j, row by row.
    k : int
        Number of effects.

    Returns
    -------
    TensorVariable (k, k)

    Examples
    --------
    >>> cholesky_of_correlation(pt.as_tensor(np.array([0.6])), 2).eval().round(3)
    array([[1. , 0. ],
           [0.6, 0.8]])
    """
    rows, _ = _factor(_entries(pt.as_tensor_variable(vector), k), k)
    zero = pt.constant(0.0)
    return pt.stack([pt.stack([*row, *[zero] * (k - len(row))]) for row in rows])


def _log_determinant(vector: TensorVariable, k: int) -> tuple[TensorVariable, TensorVariable]:
    """Whether R is positive definite, and log|R| (0 where it is not)."""
    _, pivots = _factor(_entries(vector, k), k)
    inside = pt.all(pt.stack([pivot > 0 for pivot in pivots]), axis=0)
    return inside, sum((pt.log(pt.switch(inside, pivot, 1.0)) for pivot in pivots), start=pt.constant(0.0))


def _corr_from_partial(partial: Entries, remaining: Entries, k: int) -> Entries:
    """Correlations from canonical partial correlations z and ``sqrt(1 - z**2)``."""
    rows = [[pt.constant(1.0)]]
    for j in range(1, k):
        row, left = [], pt.constant(1.0)
        for i in range(j):
            row.append(partial[i, j] * left)
            left = left * remaining[i, j]
        rows.append([*row, left])
    return {
        (i, j): sum((rows[i][m] * rows[j][m] for m in range(1, i + 1)), start=rows[i][0] * rows[j][0])
        for i, j in combinations(range(k), 2)
    }


def _partial_from_corr(corr: Entries, k: int) -> Entries:
    """Canonical partial correlations from correlations."""
    rows, _ = _factor(corr, k)
    partial: Entries = {}
    for j in range(1, k):
        left = pt.constant(1.0)
        for i in range(j):
            partial[i, j] = _ratio(rows[j][i], left) if i else rows[j][0]
            left = left * _root((1 - partial[i, j]) * (1 + partial[i, j]))
    return partial


def _log_cosh(y: TensorVariable) -> TensorVariable:
    """log(cosh(y)) without overflow."""
    return pt.abs(y) + pt.log1p(pt.exp(-2 * pt.abs(y))) - math.log(2)


class CorrelationTransform(Transform):
    """Unconstrained y to correlations: ``z = tanh(y)`` are canonical partial correlations, which build R.

    The Jacobian is ``log|dr/dy| = -sum_{i<j} (k - i) log cosh(y_ij)``, i counted from 0.

    Parameters
    ----------
    sizes : tuple of int
        Number of effects of each correlated block; the vector holds the pairs of the first block, then the next.
    """

    name = "partial"
    ndim_supp = 1

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes

    def forward(self, value: TensorVariable, *inputs: Any) -> TensorVariable:
        """Unconstrained vector from correlations."""
        return _blockwise(_free_from_corr, value, self.sizes)

    def backward(self, value: TensorVariable, *inputs: Any) -> TensorVariable:
        """Correlations from an unconstrained vector."""
        return _blockwise(_corr_from_free, value, self.sizes)

    def log_jac_det(self, value: TensorVariable, *inputs: Any) -> TensorVariable:
        """Log of the absolute Jacobian determinant of `backward`."""
        weights = [k - i for k in self.sizes for i, _ in combinations(range(k), 2)]
        return -(np.array(weights, float) * _log_cosh(value)).sum(axis=-1)


def _free_from_corr(corr: TensorVariable, k: int) -> TensorVariable:
    """Unconstrained vector of one block from its correlations."""
    return pt.arctanh(_vector(_partial_from_corr(_entries(corr, k), k), k))


def _corr_from_free(free: TensorVariable, k: int) -> TensorVariable:
    """Correlations of one block from its unconstrained vector."""
    if k == 2:
        return pt.tanh(free)
    return _vector(_corr_from_partial(_entries(pt.tanh(free), k), _entries(pt.exp(-_log_cosh(free)), k), k), k)


def _corr_of_partial(partial: TensorVariable, k: int) -> TensorVariable:
    """Correlations of one block from its vector of canonical partial correlations."""
    return _vector(_corr_from_partial(_entries(partial, k), _entries(pt.sqrt(1 - partial**2), k), k), k)


def _blocks(vector: TensorVariable, sizes: Sequence[int]) -> list[TensorVariable]:
    """The part of the vector that belongs to each block."""
    ends = np.cumsum([k * (k - 1) // 2 for k in sizes])
    return [vector[..., end - k * (k - 1) // 2 : end] for k, end in zip(sizes, ends, strict=True)]


def _blockwise(
    function: Callable[[TensorVariable, int], TensorVariable], vector: TensorVariable, sizes: Sequence[int]
) -> TensorVariable:
    """Apply a function of (part, k) to each block of the vector."""
    parts = [function(part, k) for part, k in zip(_blocks(vector, sizes), sizes, strict=True)]
    return parts[0] if len(parts) == 1 else pt.concatenate(parts, axis=-1)


def _correlation_logp(value: TensorVariable, sizes: Sequence[int], eta: float) -> TensorVariable:
    """Log density of the pair vector; minus infinity where a block is not positive definite."""
    constant = sum(log_normaliser(k, eta) for k in sizes)
    checks = [_log_determinant(part, k) for part, k in zip(_blocks(value, sizes), sizes, strict=True)]
    inside = pt.all(pt.stack([check for check, _ in checks]), axis=0)
    log_determinant = sum((term for _, term in checks), start=pt.constant(0.0))
    return pt.switch(inside, constant + (eta - 1) * log_determinant, -np.inf)


def correlation_vector(
    name: str, eta: float, k: int | Sequence[int], dims: str | tuple[str, ...] | None = None
) -> TensorVariable:
    """Free PyMC variable: the correlations of k effects, with LKJ density in the entries of R.

    ``p(r) = exp(c(k, eta)) |R|**(eta - 1)`` on the positive definite R; each correlation is marginally
    ``2 Beta(eta - 1 + k/2, eta - 1 + k/2) - 1``. Draws come from the vine construction of Lewandowski, Kurowicka and
    Joe (2009), https://doi.org/10.1016/j.jmva.2009.04.008.

    Parameters
    ----------
    name : str
        Name of the variable.
    eta : float
        Shape, positive.
    k : int or sequence of int
        Number of effects (at least 2), or of each of several independent blocks whose pairs follow one another.
    dims : str, optional
        Name of the dimension of pairs.

    Returns
    -------
    TensorVariable
        Vector over the pairs (i, j), i < j, row by row, block after block.

    Raises
    ------
    PriorError
        `eta` is not a positive number.

    Examples
    --------
    >>> with pm.Model() as model:
    ...     corr = correlation_vector("corr", eta=2.0, k=3)
    >>> round(float(model.compile_logp(jacobian=False)({"corr_partial__": np.zeros(3)})), 4)
    -0.6155
    """
    sizes = (k,) if isinstance(k, int) else tuple(k)
    if not (np.isscalar(eta) and np.isfinite(eta) and eta > 0):
        raise PriorError(f"The LKJ prior of {name} needs a positive number eta, not {eta!r}.")
    shapes = np.array([eta + (size - 2 - i) / 2 for size in sizes for i, _ in combinations(range(size), 2)])

    def draw(shape: TensorVariable, size: TensorVariable) -> TensorVariable:
        full = None if rv_size_is_none(size) else (*size, len(shapes))
        partial = 2 * pm.Beta.dist(shape, shape, shape=full) - 1
        return _blockwise(_corr_of_partial, partial, sizes)

    return pm.CustomDist(
        name,
        shapes,
        dist=draw,
        logp=lambda value, *_: _correlation_logp(value, sizes, float(eta)),
        support_point=lambda rv, *_: pt.zeros_like(rv),
        signature="(m)->(m)",
        class_name="LKJ",
        default_transform=CorrelationTransform(sizes),
        dims=dims,
    )
