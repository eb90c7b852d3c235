"""The data as cross-products: A = Z'WZ, B = Z'W[Q e], C = [Q e]'W[Q e], taken once, in O(n).

Rows are multiplied by √w. X is replaced by Q of its QR decomposition, y by its residual e on X (offset removed), and e
and every column of Z are divided by a power of two, so that no product loses digits to a large mean or overflows.
`Products` knows how to take β, log|Sxx|, r² and θ back; nothing else does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from bayeslmm.errors import ExactFitError
from bayeslmm.exact.blocks import Structure, structure
from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.factor import System
from bayeslmm.exact.rows import Places, Rows, rows_of

if TYPE_CHECKING:
    from bayeslmm.design import Design

Array = NDArray[np.float64]
Index = NDArray[np.int64]
# Residual of y on X, as a share of y, below which nothing but rounding is left.
EXACT_FIT = 64 * np.finfo(float).eps


@dataclass(frozen=True, eq=False)
class Products:
    """Cross-products of one design, and the way back from their scale.

    Parameters
    ----------
    system : System
        The products in blocks, for `factor`.
    structure : Structure
        Which level stands where.
    theta_place : ndarray of int (n_theta,)
        Where each entry of public theta goes in `lam`.
    theta_scale : ndarray (n_theta,)
        ``lam[theta_place] = theta * theta_scale``.
    effect_scale : tuple of ndarray
        For each factor, the powers of two that its columns were divided by.
    nobs : int
        Rows, n.
    R : ndarray (p, p)
        Upper triangle with ``√W X = Q R``.
    beta_ols : ndarray (p,)
        Weighted least-squares coefficients.
    y_scale : float
        Power of two that the residual of y was divided by.
    sum_log_weights : float
        Σ log w, 0 without weights.
    """

    system: System
    structure: Structure
    theta_place: Index
    theta_scale: Array
    effect_scale: tuple[Array, ...]
    nobs: int
    R: Array
    beta_ols: Array
    y_scale: float
    sum_log_weights: float

    @property
    def n_fixed(self) -> int:
        """Fixed coefficients, p."""
        return len(self.beta_ols)

    @property
    def logdet_R(self) -> float:
        """log|R|, so that log|X'WX| = 2 log|R|."""
        return float(np.sum(np.log(np.abs(np.diag(self.R)))))

    def lam(self, theta: Array) -> Array:
        """The scaled λ of all factors in one vector, from public theta."""
        lam = np.zeros(self.system.lam_at[-1] if len(self.system.lam_at) else 0)
        lam[self.theta_place] = np.asarray(theta, float) * self.theta_scale
        return lam

    def theta_bar(self, lam_bar: Array) -> Array:
        """Derivative with respect to public theta from that with respect to `lam`."""
        return np.asarray(lam_bar[self.theta_place] * self.theta_scale)

    def beta(self, scaled: Array) -> Array:
        """Coefficients of X from coefficients of Q for the scaled residual; keeps further axes (p, …)."""
        if not self.n_fixed:
            return scaled
        correction = solve_triangular(self.R, scaled * self.y_scale)
        return np.asarray(self.beta_ols.reshape(-1, *[1] * (scaled.ndim - 1)) + correction)

    def ranef(self, scaled: Array, factor: int) -> Array:
        """Effects (…, levels, k) of a factor in the data's units, from scaled solutions (…, Q)."""
        rows = self.structure.rows(factor)[:, None] + np.arange(self.structure.factors[factor].width)
        return np.asarray(scaled[..., rows] * (self.y_scale / self.effect_scale[factor]))

    def sigma(self, rss: float, reml: bool) -> float:
        """Residual standard deviation in the data's units that maximises the profiled criterion."""
        return float(np.sqrt(rss / (self.nobs - self.n_fixed * reml)) * self.y_scale)


def power_of_two(columns: Array) -> Array:
    """The power of two nearest to each column's root mean square; 1 for a column of zeros."""
    largest = np.abs(columns).max(axis=0, initial=0.0)
    largest = np.where(largest > 0, largest, 1.0)
    return np.asarray(
        np.exp2(np.round(np.log2(largest) + 0.5 * np.log2(np.mean((columns / largest) ** 2, axis=0) + 1e-300)))
    )


def whiten(columns: Array, weights: Array | None) -> Array:
    """Rows times √w."""
    return columns if weights is None else columns * np.sqrt(weights)[:, None]


def products(design: Design) -> Products:
    """Take the cross-products of a design.

    Parameters
    ----------
    design : Design
        Response, fixed columns, random terms, weights and offset.

    Returns
    -------
    Products

    Raises
    ------
    ExactFitError
        The fixed part reproduces the response, so that no variance is left.
    """
    blocks = structure(design.random)
    Q, R, beta, residual, y_scale = _orthogonalise(design)
    columns = [_factor_columns(design, f.terms) for f in blocks.factors]
    scales = tuple(power_of_two(c) for c in columns)
    columns = [np.ascontiguousarray(c / scale) for c, scale in zip(columns, scales, strict=True)]
    right = np.ascontiguousarray(np.column_stack([Q, residual]))
    system = _system(blocks, columns, right)
    place, scale = theta_map(design, blocks, scales, system.lam_at)
    log_weights = 0.0 if design.weights is None else float(np.sum(np.log(design.weights)))
    return Products(system, blocks, place, scale, scales, design.nobs, R, beta, y_scale, log_weights)


class Weighted(NamedTuple):
    """A design whose weights are still to come: an empty system, its rows, and the way from theta to `lam`."""

    system: System
    rows: Rows
    theta_place: Index
    theta_scale: Array
    effect_scale: tuple[Array, ...]


def weighted_design(design: Design, blocks: Structure, right: int) -> Weighted:
    """The blocks of a design for weights that change; B has `right` columns.

    Parameters
    ----------
    design : Design
    blocks : Structure
        Of its random terms.
    right : int
        Right-hand sides.

    Returns
    -------
    Weighted
    """
    columns = [np.column_stack([design.random[t].columns for t in f.terms]) for f in blocks.factors]
    scales = tuple(power_of_two(c) for c in columns)
    columns = [c / scale for c, scale in zip(columns, scales, strict=True)]
    system = _system(blocks, columns, np.zeros((design.nobs, right)))
    rows = rows_of(design.nobs, blocks, columns, pair_places(system, blocks))
    return Weighted(system, rows, *theta_map(design, blocks, scales, system.lam_at), scales)


def right_hand_side(design: Design) -> Array:
    """The columns [Q e] (n, p + 1) whose products with Z and each other make B and C."""
    Q, _, _, residual, _ = _orthogonalise(design)
    return np.ascontiguousarray(np.column_stack([Q, residual]))


def _orthogonalise(design: Design) -> tuple[Array, Array, Array, Array, float]:
    X = whiten(design.fixed.X, design.weights)
    y = design.y if design.offset is None else design.y - design.offset
    y = whiten(y[:, None], design.weights)[:, 0]
    size = float(power_of_two(y[:, None])[0])
    y = y / size
    scale = power_of_two(X)
    Q, R = np.linalg.qr(X / scale) if X.shape[1] else (X, np.empty((0, 0)))
    rotated = Q.T @ y
    residual = y - Q @ rotated
    rest = Q.T @ residual
    rotated, residual = rotated + rest, residual - Q @ rest
    if np.linalg.norm(residual) <= EXACT_FIT * np.linalg.norm(y):
        raise ExactFitError(
            f"the fixed effects reproduce the response {design.response!r} exactly, so no residual variance is left; "
            "check that the response is not among the predictors and that it varies"
        )
    second = float(power_of_two(residual[:, None])[0])
    beta = solve_triangular(R, rotated) * size / scale if len(R) else np.empty(0)
    return Q, R * scale, beta, residual / second, size * second


def _factor_columns(design: Design, terms: tuple[int, ...]) -> Array:
    return whiten(np.column_stack([design.random[t].columns for t in terms]), design.weights)


def theta_map(design: Design, blocks: Structure, scales: tuple[Array, ...], lam_at: Index) -> tuple[Index, Array]:
    """Public theta (terms by decreasing number of levels) → positions and scales in `lam`."""
    where = {t: (f, i) for f, factor in enumerate(blocks.factors) for i, t in enumerate(factor.terms)}
    places, factors = [np.empty(0, np.int64)], [np.empty(0)]
    for t in public_order(design):
        f, position = where[t]
        factor = blocks.factors[f]
        before = sum(len(design.random[s].effects) for s in factor.terms[:position])
        rows, columns = design.random[t].covariance.pattern
        places.append(lam_at[f] + (before + rows) * factor.width + before + columns)
        factors.append(scales[f][before + rows])
    return np.concatenate(places).astype(np.int64), np.concatenate(factors)


def public_order(design: Design) -> list[int]:
    """Terms in lme4's order: by decreasing number of levels, ties as written."""
    return sorted(range(len(design.random)), key=lambda t: -len(design.random[t].levels))


def _system(blocks: Structure, columns: list[Array], right: Array) -> System:
    width = np.array([f.width for f in blocks.factors], np.int64)
    lam_at = np.concatenate([[0], np.cumsum(width**2)]).astype(np.int64)
    C = right.T @ right
    first = blocks.factors[0] if blocks.factors else None
    q, k = (first.count, first.width) if first else (0, 1)
    link_size = width[blocks.link_factor] * k
    link_at = np.concatenate([[0], np.cumsum(link_size)]).astype(np.int64)
    rest_factor = blocks.node_factor[blocks.rest_row], blocks.node_factor[blocks.rest_col]
    rest_at = np.concatenate([[0], np.cumsum(width[rest_factor[0]] * width[rest_factor[1]])]).astype(np.int64)
    system = System(
        width,
        lam_at,
        np.zeros((q, k, k)),
        np.searchsorted(blocks.link_level, np.arange(q + 1)).astype(np.int64),
        blocks.node_row[blocks.link_node],
        blocks.link_factor,
        link_at,
        np.zeros(link_at[-1]),
        blocks.node_row[blocks.rest_row],
        blocks.node_row[blocks.rest_col],
        *rest_factor,
        rest_at,
        np.zeros(rest_at[-1]),
        blocks.node_row,
        blocks.node_factor,
        np.zeros((sum(f.width * f.count for f in blocks.factors), right.shape[1])),
        C,
        blocks.sparse,
        blocks.L_ptr if blocks.L_ptr is not None else np.empty(0, np.int64),
        blocks.L_row if blocks.L_row is not None else np.empty(0, np.int64),
    )
    if first:
        _fill(system, blocks, columns, right)
    return system


def _fill(system: System, blocks: Structure, columns: list[Array], right: Array) -> None:
    for f, factor in enumerate(blocks.factors):
        add_right(columns[f], blocks.rows(f)[factor.codes], right, system.B)
    for f, g, at, swapped in pair_places(system, blocks):
        out = system.A11.ravel() if f == 0 else system.A21 if g == 0 else system.A22
        for one, two, these in ((f, g, ~swapped), (g, f, swapped)):
            if these.all():
                add_products(columns[one], columns[two], at, out)
            elif these.any():
                add_products(columns[one][these], columns[two][these], at[these], out)


def pair_places(system: System, blocks: Structure) -> Places:
    """For each pair of factors f ≥ g where each row's block of A begins, and whether the block stands as (g, f)."""
    n_nodes = len(blocks.node_row)
    first = blocks.factors[0]
    k = first.width
    never = np.zeros(len(first.codes), np.bool_)
    yield 0, 0, first.codes * (k * k), never
    nodes = [np.empty(0, np.int64)]
    link_key = blocks.link_level * n_nodes + blocks.link_node
    rest_key = blocks.rest_row * n_nodes + blocks.rest_col
    by_key = np.argsort(rest_key)
    for f, factor in enumerate(blocks.factors[1:], 1):
        mine = np.flatnonzero(blocks.node_factor == f)
        nodes.append(mine[np.argsort(blocks.node_level[mine])][factor.codes])
        yield f, 0, system.link_at[np.searchsorted(link_key, first.codes * n_nodes + nodes[f])], never
        for g in range(1, f + 1):
            row, column = np.maximum(nodes[f], nodes[g]), np.minimum(nodes[f], nodes[g])
            at = system.rest_at[by_key[np.searchsorted(rest_key, row * n_nodes + column, sorter=by_key)]]
            yield f, g, at, nodes[f] < nodes[g]


@kernel
def add_products(left: Array, right: Array, at: Index, out: Array) -> None:
    """Add each row's outer product left' right to the block that begins at `at`."""
    n, kl = left.shape
    kr = right.shape[1]
    for row in range(n):
        for i in range(kl):
            for j in range(kr):
                out[at[row] + i * kr + j] += left[row, i] * right[row, j]


@kernel
def add_right(columns: Array, rows: Index, right: Array, out: Array) -> None:
    """Add each row's product of random-effect columns and right-hand sides."""
    n, k = columns.shape
    for row in range(n):
        for i in range(k):
            for c in range(right.shape[1]):
                out[rows[row] + i, c] += columns[row, i] * right[row, c]
