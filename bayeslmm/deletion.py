"""What the coefficients lose with some rows, (θ, σ) held: X'V⁻¹X and X'V⁻¹(y − Xβ̂) of those rows given all others.

In units of σ, V = I + ZΛΛ'Z' after each row is multiplied by √w. For rows I let D = (V⁻¹)_II, F = (V⁻¹X)_I and
r = (V⁻¹(y − Xβ̂))_I, the conditional residuals. Without them X'V⁻¹X is smaller by F'D⁻¹F and X'V⁻¹(y − Xβ̂) by F'D⁻¹r
(Christensen, Pearson & Johnson 1992, Technometrics 34, 38–45; Haslett 1999, JRSS B 61, 603–609), whatever the nesting
or crossing of the factors. No n × n matrix is formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from bayeslmm.design import Design
from bayeslmm.errors import NotSupportedError
from bayeslmm.exact.factor import Factor, back_solve, solve_lower, times_lambda
from bayeslmm.exact.gaussian import marginal
from bayeslmm.exact.leverage import leverage
from bayeslmm.exact.products import Products, public_order, whiten
from bayeslmm.model import Model
from bayeslmm.result import PointFit
from bayeslmm.terms import RandomTerm

Array = NDArray[np.float64]
Index = NDArray[np.intp]
# Rows of a set from which the remaining rows are taken anew instead of solving with D.
LARGE_SET = 400
# Numbers held at a time.
AT_ONCE = 4_000_000


class Loss(NamedTuple):
    """What γ = K⁻ᵀβ̂ (K'K = Var β̂) loses with each of L sets of rows: precision (L, p, p) and score (L, p)."""

    precision: Array
    score: Array

    def information(self) -> Array:
        """Precision of γ without each set (L, p, p); its inverse is a covariance in units of Var β̂."""
        return np.asarray(np.eye(self.score.shape[1]) - self.precision)


class RowInverse:
    """Rows of V⁻¹X and V⁻¹(y − Xβ̂), and blocks of V⁻¹, at a fit.

    Parameters
    ----------
    fit : PointFit

    Attributes
    ----------
    residual : ndarray (n,)
        Conditional residuals √w(y − ŷ)/σ, which are V⁻¹(y − Xβ̂)/σ.
    fixed : ndarray (n, p)
        V⁻¹X K'/σ with K'K = Var β̂.
    diagonal : ndarray (n,)
        Diagonal of V⁻¹.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> rows = RowInverse(bl.fit(bl.load("models/penicillin_blocks")))
    >>> rows.variance.sum().round(6) == (20 - rows.leverage.sum()).round(6)
    np.True_
    """

    def __init__(self, fit: PointFit) -> None:
        if fit.model.family != "gaussian":
            raise NotSupportedError(
                f"deletion formulas and standardised residuals are those of the gaussian family, not of {fit.model.family}"
            )
        design, products = fit.model.design, fit.model.products
        self.fit = fit
        self.residual = whiten(fit.residuals.to_numpy()[:, None], design.weights)[:, 0] / fit.sigma
        self.fixed = whiten(design.fixed.X, design.weights)
        self.diagonal = np.ones(design.nobs)
        self._half: _HalfRows | None = None
        if fit.model.groups:
            self._half = _HalfRows(fit)
            self.fixed = self.fixed - self._half.shift @ products.R
            self.diagonal -= leverage(products.system, self._half.factor, self._half.place, np.hstack(self._half.rows))
        self.fixed = self.fixed @ fit.beta_root.T / fit.sigma

    @property
    def variance(self) -> Array:
        """Variance (n,) of the conditional residuals in units of σ²: the diagonal of V⁻¹ − V⁻¹X(X'V⁻¹X)⁻¹X'V⁻¹."""
        return np.asarray(self.diagonal - np.sum(self.fixed**2, axis=1))

    @property
    def leverage(self) -> Array:
        """∂ŷᵢ/∂yᵢ (n,), ŷ with the random effects."""
        return 1.0 - self.variance

    def by_row(self) -> Loss:
        """The loss with each single row."""
        scaled = self.fixed / self.diagonal[:, None]
        return Loss(scaled[:, :, None] * self.fixed[:, None, :], scaled * self.residual[:, None])

    def by_level(self, codes: Index, levels: int) -> Loss:
        """The loss with all rows of each level, `codes` (n,) below `levels`; levels without rows lose nothing."""
        p = self.fixed.shape[1]
        loss = Loss(np.zeros((levels, p, p)), np.zeros((levels, p)))
        for own, rows in _equal_sets(codes, levels):
            if rows.shape[1] > LARGE_SET:
                found = [_loss_by_refactoring(self.fit, np.asarray(codes != level)) for level in own]
                loss.precision[own], loss.score[own] = map(np.array, zip(*found, strict=True))
            else:
                F, r = self.fixed[rows], self.residual[rows][:, :, None]
                solved = np.linalg.solve(self._blocks(rows), np.concatenate([F, r], axis=2))
                both = np.swapaxes(F, 1, 2) @ solved
                loss.precision[own], loss.score[own] = both[:, :, :p], both[:, :, p]
        return loss

    def _blocks(self, rows: Index) -> Array:
        """D of each set (L, m, m)."""
        D = np.tile(np.eye(rows.shape[1]), (len(rows), 1, 1))
        return D if self._half is None else D - self._half.gram(rows)


class _HalfRows:
    """L⁻¹Λ'z of each row z: the part in the first factor's own level, and the part in the remainder."""

    def __init__(self, fit: PointFit) -> None:
        design, products = fit.model.design, fit.model.products
        s, lam = products.system, products.lam(fit.theta)
        self.system, self.factor = s, marginal(s, lam).factor
        solution = times_lambda(s, lam, back_solve(s, self.factor, self.factor.Y))[:, : products.n_fixed]
        self.shift = np.zeros((design.nobs, products.n_fixed))
        self.rows: list[Array] = []
        place = []
        for f, block in enumerate(products.structure.factors):
            columns = whiten(np.column_stack([design.random[t].columns for t in block.terms]), design.weights)
            columns = columns / products.effect_scale[f]
            place.append(products.structure.rows(f)[block.codes])
            for i in range(block.width):
                self.shift += columns[:, i, None] * solution[place[-1] + i]
            self.rows.append(columns @ lam[s.lam_at[f] : s.lam_at[f + 1]].reshape(block.width, block.width))
        self.place = np.column_stack(place)
        self.level = products.structure.factors[0].codes
        self.own = np.linalg.solve(self.factor.L11[self.level], self.rows[0][:, :, None])[:, :, 0]
        self.rest = _remainder_rows(products, self.factor, self) if products.structure.rest_size else None

    def gram(self, rows: Index) -> Array:
        """z'ΛM⁻¹Λ'z for all pairs of rows of each set (L, m, m)."""
        own, level = self.own[rows], self.level[rows]
        found = own @ np.swapaxes(own, 1, 2) * (level[:, :, None] == level[:, None, :])
        if self.rest is not None:
            count, size = rows.shape
            half = np.ascontiguousarray(self.rest[rows.ravel()].toarray().T)
            if self.system.sparse:
                solve_lower(self.system, self.factor.L22, half)
            else:
                half = solve_triangular(self.factor.L22, half, lower=True, check_finite=False)
            half = np.ascontiguousarray(half.T).reshape(count, size, -1)
            found += half @ np.swapaxes(half, 1, 2)
        return np.asarray(found)


def _remainder_rows(products: Products, factor: Factor, half: _HalfRows) -> sp.csr_array:
    """Λ'z of the other factors less L₂₁L₁₁⁻¹Λ'z of the first (n, Q₂), sparse; L₂₂ is not yet solved with."""
    s, n = products.system, len(half.level)
    k, first = int(s.width[0]), s.A11.shape[0] * s.A11.shape[1]
    size = products.structure.rest_size
    row, column, value = [], [], []
    for f in range(1, len(half.rows)):
        for i in range(half.rows[f].shape[1]):
            row.append(np.arange(n))
            column.append(half.place[:, f] - first + i)
            value.append(half.rows[f][:, i])
    others = sp.csr_array((np.concatenate(value), (np.concatenate(row), np.concatenate(column))), shape=(n, size))
    level = np.repeat(np.arange(s.A11.shape[0]), np.diff(s.link_ptr))
    high = s.width[s.link_factor]
    links = [np.repeat(high, high * k), np.arange(int((high * k).sum())), np.repeat(s.link_at[:-1], high * k)]
    inside = links[1] - links[2]
    link_row = np.repeat(s.link_row, high * k) + inside // k
    link_column = np.repeat(level * k, high * k) + inside % k
    L21 = sp.csr_array((factor.L21, (link_column, link_row)), shape=(first, size))
    at = (np.repeat(np.arange(n), k), (half.level[:, None] * k + np.arange(k)).ravel())
    own = sp.csr_array((half.own.ravel(), at), shape=(n, first))
    return sp.csr_array(others - own @ L21)


def _equal_sets(codes: Index, levels: int) -> Iterator[tuple[Index, Index]]:
    """Levels with equally many rows, and their rows (levels, m), as many at a time as fit."""
    order = np.argsort(codes, kind="stable")
    count = np.bincount(codes, minlength=levels)
    start = np.cumsum(count) - count
    for size in np.unique(count[count > 0]):
        mine = np.flatnonzero(count == size)
        step = max(1, AT_ONCE // int(size * size + 200 * size))
        for at in range(0, len(mine), step):
            own = mine[at : at + step]
            yield own, order[start[own][:, None] + np.arange(size)]


def design_on(design: Design, keep: NDArray[np.bool_], random: tuple[RandomTerm, ...]) -> Design:
    """A design on some of its rows, with the columns of all and these random terms."""
    parts = {
        name: None if (values := getattr(design, name)) is None else values[keep]
        for name in ("weights", "offset", "trials")
    }
    further = {name: replace(block, X=np.ascontiguousarray(block.X[keep])) for name, block in design.further.items()}
    fixed = replace(design.fixed, X=np.ascontiguousarray(design.fixed.X[keep]))
    rows = {"y": design.y[keep], "rows": design.rows[keep], "further": further}
    return replace(design, fixed=fixed, random=random, **parts, **rows)  # type: ignore[arg-type]


def without_rows(model: Model, keep: NDArray[np.bool_]) -> Model:
    """The model on some of its rows, with the columns and priors of all; levels without rows are gone."""
    some = design_on(model.design, keep, tuple(_term_on(term, keep) for term in model.design.random))
    new = object.__new__(Model)
    kept = {field.name: getattr(model, field.name) for field in fields(Model)}
    new.__dict__.update(kept | {"design": some})
    return new


def _term_on(term: RandomTerm, keep: NDArray[np.bool_]) -> RandomTerm:
    used, codes = np.unique(term.codes[keep], return_inverse=True)
    return replace(term, columns=term.columns[keep], codes=codes, levels=tuple(term.levels[i] for i in used))


def _theta_on(fit: PointFit, model: Model) -> Array:
    """The fit's theta in the order of a model with fewer levels, whose terms may be sorted otherwise."""
    sizes = [term.covariance.n_theta for term in fit.model.terms]
    parts = dict(zip(public_order(fit.model.design), np.split(fit.theta, np.cumsum(sizes)[:-1]), strict=True))
    return np.concatenate([parts[t] for t in public_order(model.design)])


def _loss_by_refactoring(fit: PointFit, keep: NDArray[np.bool_]) -> tuple[Array, Array]:
    """The loss with the rows not kept, as the difference between all rows and those."""
    full, rest = _normal_equations(fit, fit.model), _normal_equations(fit, without_rows(fit.model, keep))
    K = fit.beta_root / fit.sigma
    return K @ (full[0] - rest[0]) @ K.T, K @ (full[1] - rest[1]) / fit.sigma


def _normal_equations(fit: PointFit, model: Model) -> tuple[Array, Array]:
    """X'V⁻¹X and X'V⁻¹(y − Xβ̂) of a model's rows at the fit's θ and β̂."""
    products, p = model.products, model.products.n_fixed
    S = marginal(products.system, products.lam(_theta_on(fit, model))).S
    beyond = S[:p, :p] @ products.R @ (products.beta_ols - fit.beta) + products.y_scale * S[:p, p]
    return products.R.T @ S[:p, :p] @ products.R, products.R.T @ beyond
