"""Henderson's mixed model equations, assembled and solved.

For y = o + Xβ + Zu + e with Var u = G = FFᵀ, Var e = R and u = Fb, b ~ N(0, I), the equations solved are

    [ XᵀR⁻¹X       XᵀR⁻¹ZF      ] [β]   [ XᵀR⁻¹(y − o)   ]
    [ FᵀZᵀR⁻¹X     FᵀZᵀR⁻¹ZF + I ] [b] = [ FᵀZᵀR⁻¹(y − o) ]

G is never inverted, so a singular one is as good as any other. X is replaced by the Q of X = QT, and y by its least
squares residual r. With M the lower right block and A = M⁻¹FᵀZᵀR⁻¹[Q r], E = [Q r] − ZFA, the Schur complement is

    [Q r]ᵀV⁻¹[Q r] = EᵀR⁻¹E + AᵀA,      V = ZGZᵀ + R

a sum of squares: nothing cancels in it, and an error in A enters it squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse
from scipy.sparse.csgraph import connected_components

from bayeslmm.errors import MethodError
from bayeslmm.variances import CHUNK, EPS, Precision, places, sparse_factor

if TYPE_CHECKING:
    from bayeslmm.model import Model

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Equations:
    """Solved equations in units of `scale`: Var e = scale² R, Var u = scale² FFᵀ; α = β·lengths, γ = Tα, u = Fb."""

    scale: float
    lengths: Array  # (p,) powers of two
    triangle: Array  # T (p, p), X / lengths = QT
    scaled_fixef: Array  # α (p,)
    spherical: Array  # b (m,)
    root: Array  # L (p, p) lower, LLᵀ = QᵀV⁻¹Q
    share: Array  # A (m, p) for Q
    factor: Any  # F (q, m) sparse
    loadings: Any  # ZF (n, m) sparse
    precision: Precision  # R⁻¹ as a function
    penalised: Any  # M (m, m) sparse
    solve: Precision  # M⁻¹ as a function
    singular: bool

    @property
    def fixef(self) -> Array:
        """β̂ (p,)."""
        return self.scaled_fixef / self.lengths

    @property
    def ranef(self) -> Array:
        """û (q,)."""
        return self.factor @ self.spherical

    @property
    def spread(self) -> Array:
        """T⁻¹L⁻ᵀ (p, p): its rows' lengths are the standard errors of α, in units of `scale`."""
        return linalg.solve(self.triangle, linalg.solve_triangular(self.root, np.eye(len(self.root)), lower=True).T)


def solve_equations(model: Model, factor: Any, precision: Precision, scale: float, singular: bool) -> Equations:
    """The equations of the module's docstring, β eliminated last."""
    basis, triangle, lengths = _basis(np.asarray(model.X, dtype=np.float64))
    start, rest = _least_squares(basis, _response(model))
    loadings = sparse.csc_array(sparse.csc_array(model.Z) @ factor)
    penalised = sparse.csc_array(loadings.T @ precision(loadings)) + sparse.eye_array(factor.shape[1], format="csc")
    solver = _solver(penalised)
    unit = _power_of_two(rest)
    columns = np.column_stack([basis, rest / unit])
    share = solver(loadings.T @ precision(columns))
    left = columns - loadings @ share
    schur = left.T @ precision(left) + share.T @ share
    root = np.linalg.cholesky(schur[:-1, :-1])
    gamma = linalg.cho_solve((root, True), schur[:-1, -1])
    spherical = share[:, -1] - share[:, :-1] @ gamma
    return Equations(
        scale=scale,
        lengths=lengths,
        triangle=triangle,
        scaled_fixef=linalg.solve_triangular(triangle, start + unit * gamma),
        spherical=unit * spherical,
        root=root,
        share=share[:, :-1],
        factor=factor,
        loadings=loadings,
        precision=precision,
        penalised=penalised,
        solve=solver,
        singular=singular,
    )


def _response(model: Model) -> Array:
    y = np.asarray(model.design.y, dtype=np.float64)
    return y if model.design.offset is None else y - model.design.offset


def _basis(X: Array) -> tuple[Array, Array, Array]:
    """Q, T and powers of two d with X = Q T diag(d)."""
    lengths = _power_of_two(X)
    basis, triangle = np.linalg.qr(X / lengths)
    rounding = max(X.shape) * EPS * np.linalg.norm(triangle, axis=0)
    if len(X) < len(lengths) or np.any(np.abs(np.diag(triangle)) <= rounding):
        raise MethodError("The columns of X are linearly dependent; drop those that repeat others.")
    return basis, triangle, lengths


def _power_of_two(columns: Array) -> Array:
    """Per column, the power of two that brings its largest entry to between ½ and 1."""
    return np.ldexp(1.0, np.frexp(np.abs(columns).max(axis=0, initial=0.0))[1])


def _least_squares(basis: Array, y: Array) -> tuple[Array, Array]:
    """Coefficients on the basis and the residual, projected twice so that the residual keeps its digits."""
    first = basis.T @ y
    rest = y - basis @ first
    second = basis.T @ rest
    return first + second, rest - basis @ second


def _solver(matrix: Any) -> Precision:
    """M⁻¹ as a function, for M = I + a positive semi-definite sparse matrix, whose pivots are therefore at least 1."""
    if not matrix.shape[0]:
        return lambda right: right
    lu = sparse_factor(matrix) if np.all(np.isfinite(matrix.data)) else None
    if lu is None or lu.U.diagonal().min() < 0.5:
        raise MethodError(
            "Var u is so large relative to Var e that no digit of the answer is left; give a smaller one."
        )
    return lu.solve


def prediction_variances(equations: Equations) -> Array:
    """The diagonal of σ²(FM⁻¹Fᵀ + FA(QᵀV⁻¹Q)⁻¹AᵀFᵀ), (q,)."""
    relative = _known_fixef_variances(equations) + np.sum(_fixef_share(equations) ** 2, axis=1)
    return equations.scale * (equations.scale * relative)


def _fixef_share(equations: Equations) -> Array:
    """FAL⁻ᵀ (q, p): what β̂ contributes to û − u."""
    weighted = linalg.solve_triangular(equations.root, equations.share.T, lower=True) if len(equations.root) else None
    return np.zeros((equations.factor.shape[0], 0)) if weighted is None else equations.factor @ weighted.T


def _known_fixef_variances(equations: Equations) -> Array:
    """The diagonal of FM⁻¹Fᵀ. Effects in different blocks of M share one right-hand side."""
    factor = sparse.csr_array(equations.factor)
    used = np.flatnonzero(np.diff(factor.indptr))
    linked = abs(equations.penalised) + abs(factor).T @ abs(factor)
    place = places(connected_components(linked, directed=False)[1][factor.indices[factor.indptr[used]]])
    variances = np.zeros(factor.shape[0])
    width = max(1, CHUNK // max(1, sum(factor.shape)))
    for at in range(0, place.max(initial=-1) + 1, width):
        rows = used[(place >= at) & (place < at + width)]
        column = place[(place >= at) & (place < at + width)] - at
        pick = sparse.csc_array((np.ones(len(rows)), (np.arange(len(rows)), column)))
        right = (factor[rows].T @ pick).toarray()
        variances[rows] = (factor[rows] @ equations.solve(right))[np.arange(len(rows)), column]
    return variances


def inverse_matrix(equations: Equations) -> Array:
    """[[Var β̂, Cov(β̂, û − u)], [·, Var(û − u)]] (p + q, p + q)."""
    fixed = equations.spread / equations.lengths[:, None]
    joint = np.vstack([fixed, -_fixef_share(equations)])
    inverse = joint @ joint.T
    p = len(fixed)
    inverse[p:, p:] += equations.factor @ equations.solve(equations.factor.T.toarray())
    return equations.scale * (equations.scale * (inverse + inverse.T) / 2)


def coefficient_matrix(model: Model, equations: Equations, transform: Any, penalty: Any) -> Any:
    """[[XᵀR⁻¹X, XᵀR⁻¹ZT], [TᵀZᵀR⁻¹X, TᵀZᵀR⁻¹ZT + penalty]] for a transform T."""
    columns = sparse.hstack([sparse.csc_array(model.X), sparse.csc_array(model.Z) @ transform], format="csc")
    products = sparse.csc_array(columns.T @ equations.precision(columns)) / equations.scale / equations.scale
    return products + sparse.block_diag([sparse.csc_array((model.X.shape[1],) * 2), penalty], format="csc")
