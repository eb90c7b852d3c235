"""Variances given by hand, as a number, a vector or a matrix: G = FFᵀ and R⁻¹ as a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from bayeslmm.errors import MethodError

Array = NDArray[np.float64]
Precision = Callable[[Any], Any]
EPS = float(np.finfo(np.float64).eps)
CHUNK = 2**24  # numbers in one dense right-hand side: 128 MB


def covariance_factor(G: Any, q: int) -> Any:
    """F (q, m), sparse, with G = FFᵀ and m the rank of G."""
    if sparse.issparse(G) or np.ndim(G) == 2:
        return _matrix_factor(sparse.csr_array(_square(G, q, "G")))
    values = numbers(G, "G")
    if values.shape not in {(), (q,)}:
        raise MethodError(f"G must be one variance, ({q},) variances or a ({q}, {q}) matrix, got shape {values.shape}.")
    if np.any(values < 0.0):
        raise MethodError(f"G is not positive semi-definite: its smallest variance is {values.min():.3g}.")
    factor = sparse.diags_array(np.sqrt(np.broadcast_to(values, q)), format="csc")
    return factor[:, np.flatnonzero(factor.diagonal())]


def _matrix_factor(G: Any) -> Any:
    """By eigenvectors of each diagonal block, scaled to a unit diagonal so that small variances keep their digits."""
    scales = np.sqrt(np.maximum(G.diagonal(), 0.0))
    inverse = np.divide(1.0, scales, out=np.ones_like(scales), where=scales > 0.0)
    root = sparse.diags_array(inverse, format="csr")
    parts, rows, columns, width = [np.empty(0)], [np.empty(0, int)], [np.empty(0, int)], 0
    for index, blocks in _diagonal_blocks(sparse.csr_array(root @ G @ root)):
        values, vectors = np.linalg.eigh(blocks)
        rounding = 8 * EPS * values.shape[1] * np.maximum(values[:, -1:], 1.0)
        if np.any(values < -rounding):
            raise MethodError(f"G is not positive semi-definite: its smallest eigenvalue is {_smallest(G):.3g}.")
        block, kept = np.nonzero(values > rounding)
        parts.append((vectors[block, :, kept] * np.sqrt(values[block, kept])[:, None]).ravel())
        rows.append(index[block].ravel())
        columns.append(np.repeat(width + np.arange(len(block)), index.shape[1]))
        width += len(block)
    entries = (np.concatenate(parts), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.diags_array(scales, format="csc") @ sparse.csc_array(entries, shape=(G.shape[0], width))


def residual_precision(R: Any, n: int, weights: Array | None) -> Precision:
    """R⁻¹ as a function, for a variance, variances or a matrix."""
    if sparse.issparse(R) or np.ndim(R) == 2:
        return _matrix_precision(_square(R, n, "R"))
    values = numbers(R, "R")
    if values.ndim == 0 and weights is not None:
        raise MethodError("The model has prior weights and R is one number: give sigma=, or R= as variances per row.")
    if values.shape not in {(), (n,)}:
        raise MethodError(f"R must be one variance, ({n},) variances or a ({n}, {n}) matrix, got shape {values.shape}.")
    if np.any(values <= 0.0):
        raise MethodError(f"R is singular or negative: its smallest variance is {values.min():.3g}.")
    return diagonal(np.broadcast_to(1.0 / values, n))


def _square(matrix: Any, size: int, name: str) -> Any:
    """The matrix, dense or sparse, checked for shape, finite numbers and symmetry."""
    matrix = sparse.csr_array(matrix, dtype=np.float64) if sparse.issparse(matrix) else numbers(matrix, name)
    if matrix.shape != (size, size):
        raise MethodError(f"{name} must have shape ({size}, {size}), got {matrix.shape}.")
    numbers(matrix.data if sparse.issparse(matrix) else 0.0, name)
    # a matrix computed as a product may differ from its transpose by rounding; more than that is a mistake
    if abs(matrix - matrix.T).max() > 64 * EPS * abs(matrix).max():
        raise MethodError(f"{name} is not symmetric.")
    return matrix


def _matrix_precision(R: Any) -> Precision:
    """R⁻¹ as a function, through R with a unit diagonal, whose pivots then tell rounding from a variance."""
    diagonal = R.diagonal()
    if np.any(diagonal <= 0.0):
        raise MethodError(f"R is singular or negative: its smallest variance is {diagonal.min():.3g}.")
    scales = 1.0 / np.sqrt(diagonal)
    root = sparse.diags_array(scales, format="csr")
    if sparse.issparse(R):
        inside = _sparse_inverse(sparse.csc_array(root @ R @ root))
        return lambda right: root @ inside(root @ right)
    dense = _dense_inverse(R * scales * scales[:, None])
    return lambda right: root @ dense(root @ right)


def _dense_inverse(matrix: Array) -> Precision:
    lower, failed = linalg.lapack.dpotrf(matrix, lower=True)
    if failed or np.diag(lower).min() ** 2 <= len(matrix) * EPS:
        raise _not_positive(matrix)
    return lambda right: linalg.cho_solve((lower, True), right.toarray() if sparse.issparse(right) else right)


def _sparse_inverse(matrix: Any) -> Precision:
    """A sparse right-hand side goes in by chunks of columns, so that the answer is sparse where R⁻¹ is."""
    lu = sparse_factor(matrix)
    if lu is None or lu.U.diagonal().min() <= matrix.shape[0] * EPS:
        raise _not_positive(matrix)

    def apply(right: Any) -> Any:
        if not sparse.issparse(right):
            return lu.solve(right)
        width = max(1, CHUNK // right.shape[0])
        chunks = [right[:, at : at + width].toarray() for at in range(0, max(1, right.shape[1]), width)]
        return sparse.hstack([sparse.csc_array(lu.solve(chunk)) for chunk in chunks], format="csc")

    return apply


def sparse_factor(matrix: Any) -> Any:
    """Symmetric LU of a sparse matrix; None where it is not positive definite."""
    try:
        lu = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError as error:
        if "singular" not in str(error):
            raise
        return None
    return lu if np.array_equal(lu.perm_r, lu.perm_c) and lu.U.diagonal().min() > 0.0 else None


def _not_positive(matrix: Any) -> MethodError:
    smallest = _smallest(sparse.csr_array(matrix))
    return MethodError(
        f"R is singular or not positive definite: scaled to a unit diagonal, its smallest eigenvalue is {smallest:.3g}."
    )


def _smallest(matrix: Any) -> float:
    return min(np.linalg.eigvalsh(blocks).min() for _, blocks in _diagonal_blocks(matrix))


def _diagonal_blocks(matrix: Any) -> list[tuple[NDArray[np.intp], Array]]:
    """The connected blocks of a sparse symmetric matrix, stacked by size: indices (m, s) and blocks (m, s, s)."""
    label = connected_components(matrix, directed=False)[1]
    order = np.argsort(label, kind="stable")
    sizes = np.bincount(label)[label[order]] if len(label) else np.empty(0, int)
    stacks = [order[sizes == size].reshape(-1, size) for size in np.unique(sizes)]
    return [(index, _gather(matrix, index)) for index in stacks]


def _gather(matrix: Any, index: NDArray[np.intp]) -> Array:
    size = index.shape[1]
    rows, columns = np.repeat(index, size, axis=1).ravel(), np.tile(index, size).ravel()
    return np.asarray(matrix[rows, columns]).reshape(-1, size, size)


def places(label: NDArray[Any]) -> NDArray[np.intp]:
    """Position of each item among those with its label."""
    order = np.argsort(label, kind="stable")
    sizes = np.bincount(label)
    place = np.empty(len(label), dtype=np.intp)
    place[order] = np.arange(len(label)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place


def diagonal(values: Array) -> Precision:
    """A diagonal matrix as a function."""
    matrix = sparse.diags_array(values, format="csr")
    return lambda right: matrix @ right


def positive(value: Any, name: str) -> float:
    """The value as one number above zero."""
    number = numbers(value, name)
    if number.ndim or number <= 0.0:
        raise MethodError(f"{name} must be one positive number, got {value!r}.")
    return float(number)


def numbers(value: Any, name: str) -> Array:
    """The value as an array of finite numbers."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{name} must hold numbers, got {value!r}.") from error
    if not np.all(np.isfinite(array)):
        raise MethodError(f"{name} must be finite.")
    return array
