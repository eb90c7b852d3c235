"""Kenward and Roger's adjusted covariance of the coefficients, from q-sized products; no n × n matrix.

With H = V/σ² = I + ZΓZ' (rows times √w), D = H⁻¹, N = Z'DZ, K = Z'DX and Φ = (X'DX)⁻¹, a change γᵢ of a (co)variance
changes H by ZFᵢZ'. The residual variance is exchanged for the scale of H itself, which is the same family of matrices:
then tr(DH DH) = n, tr(D ZFᵢZ') = tr(FᵢN), X'DH DX = Φ⁻¹, and no power of D beyond the first is needed. The largest
grouping factor has a block-diagonal N of its own; the others are added as one low-rank correction.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from bayeslmm.exact.products import right_hand_side, whiten
from bayeslmm.model import Model

Array = NDArray[np.float64]
# Eigenvalue of the information matrix, relative to the largest, below which a direction is not estimable.
SINGULAR = 1e-12


class KenwardRoger(NamedTuple):
    """What the tests need, for β in the scale of Q and σ = 1."""

    covariance: Array  # (p, p) Φ
    adjusted: Array  # (p, p) Φ + 2ΦUΦ
    slopes: Array  # (m, p, p) Pᵢ = −X'D(∂H/∂γᵢ)DX
    weights: Array  # (m, m) W, the covariance of the variance parameters


def kenward_roger(model: Model, theta: Array) -> KenwardRoger:
    """Adjusted covariance, Pᵢ and W at theta (Kenward and Roger 1997, eqs 3–5), expected information."""
    right = right_hand_side(model.design)[:, :-1]
    if not model.groups:
        return _without_groups(right)
    bases = _bases(model)
    Z = _columns(model, bases)
    middle = _middle(model, Z, theta, bases)
    B = Z.T @ right
    K = B - middle.A @ middle.solve(B)
    D = right.T @ right - B.T @ middle.solve(B)
    phi = np.linalg.inv(D)
    moved = [F @ K for F in middle.directions]
    slopes = np.array([-D, *(-K.T @ F for F in moved)])
    carried = np.array([middle.project(F) for F in moved])  # N FⱼK
    m = len(slopes)
    Q = np.zeros((m, m, *D.shape))
    Q[0, :] = -slopes
    Q[:, 0] = -slopes
    for i in range(1, m):
        for j in range(1, m):
            Q[i, j] = moved[i - 1].T @ carried[j - 1]
    traces = np.empty((m, m))
    traces[0, 0] = len(right)
    traces[0, 1:] = traces[1:, 0] = middle.single()
    traces[1:, 1:] = middle.double()
    return _assembled(phi, slopes, Q, traces)


def _without_groups(right: Array) -> KenwardRoger:
    n, p = right.shape
    D = right.T @ right
    return KenwardRoger(np.linalg.inv(D), np.linalg.inv(D), -D[None], np.array([[2.0 / (n - p)]]))


def _assembled(phi: Array, slopes: Array, Q: Array, traces: Array) -> KenwardRoger:
    """W = 2 (tr(DGᵢDGⱼ) − 2 tr(ΦQᵢⱼ) + tr(ΦPᵢΦPⱼ))⁻¹ and U = Σ Wᵢⱼ (Qᵢⱼ − PᵢΦPⱼ)."""
    scaled = phi @ slopes
    information = traces - 2.0 * np.einsum("ab,ijba->ij", phi, Q) + np.einsum("iab,jba->ij", scaled, scaled)
    information = 0.5 * (information + information.T)
    unit = 1.0 / np.sqrt(np.diag(information))
    W = 2.0 * unit[:, None] * np.linalg.pinv(information * np.outer(unit, unit), SINGULAR, True) * unit
    U = np.einsum("ij,ijab->ab", W, Q) - np.einsum("ij,iab,bc,jcd->ad", W, slopes, phi, slopes, optimize=True)
    adjusted = phi + phi @ (U + U.T) @ phi
    return KenwardRoger(phi, 0.5 * (adjusted + adjusted.T), slopes, W)


class _Middle(NamedTuple):
    """N = A − AΛM⁻¹Λ'A of one design at one theta, in the blocks of the largest factor (1) and the others (2)."""

    A: sp.csr_array  # Z'WZ in the order of elimination
    inner: sp.csr_array  # Λ₁M₁₁⁻¹Λ₁', block-diagonal
    N1: sp.csr_array  # N of the largest factor alone, Z₁'D₁Z₁
    C: sp.csr_array  # Z₁'D₁Z₂
    T: Array  # Λ₂(I + Λ₂'SΛ₂)⁻¹Λ₂', S = Z₂'D₁Z₂
    J: Array  # I − TS, so that N₁₂ = CJ
    N2: Array  # N₂₂ = SJ
    directions: list[sp.csr_array]  # Fᵢ (q, q) of each (co)variance
    parts: list[sp.csr_array]  # Fᵢ on its own side of the split
    shadows: list[Array | None]  # C'FᵢC on the side of the largest factor, None on the other

    def solve(self, B: Array) -> Array:
        """ΛM⁻¹Λ'B."""
        first = self.inner.shape[0]
        A12, one = self.A[:first, first:], self.inner @ B[:first]
        two = self.T @ (B[first:] - A12.T @ one)
        return np.vstack([one - self.inner @ (A12 @ two), two])

    def project(self, v: Array) -> Array:
        """Nv."""
        return np.asarray(self.A @ (v - self.solve(self.A @ v)))

    def single(self) -> Array:
        """tr(FᵢN)."""
        pairs = zip(self.parts, self.shadows, strict=True)
        return np.array(
            [_trace(F, self.N2) if W is None else _trace(F, self.N1) - np.sum(self.T * W) for F, W in pairs]
        )

    def double(self) -> Array:
        """tr(FᵢNFⱼN)."""
        m = len(self.parts)
        found = np.empty((m, m))
        for i in range(m):
            for j in range(i, m):
                found[i, j] = found[j, i] = self._double(i, j)
        return found

    def _double(self, i: int, j: int) -> float:
        F, G, one, two = self.parts[i], self.parts[j], self.shadows[i], self.shadows[j]
        if one is not None and two is not None:
            inner = F @ self.N1 @ G
            crossed = np.sum(self.T * (self.C.T @ (inner + inner.T) @ self.C).toarray())
            return float(_trace(inner, self.N1) - crossed + np.sum((self.T @ one) * (self.T @ two).T))
        if one is not None:
            return float(np.sum((one @ self.J) * (G @ self.J.T).T))
        if two is not None:
            return float(np.sum((two @ self.J) * (F @ self.J.T).T))
        return float(np.sum((F @ self.N2) * (G @ self.N2).T))


def _middle(model: Model, Z: sp.csr_array, theta: Array, bases: list[Array]) -> _Middle:
    first = model.products.structure.factors[0]
    n1 = first.width * first.count
    A = sp.csr_array(Z.T @ Z)
    A11, A12, A22 = A[:n1, :n1], A[:n1, n1:], A[n1:, n1:]
    factors = _factors(model, theta, bases)
    inner = _inner(model, factors[0], bases[0])
    C = sp.csr_array(A12 - A11 @ (inner @ A12))
    S = np.asarray((A22 - A12.T @ (inner @ A12)).toarray())
    Lam = _spread(model, factors)[n1:, n1:]
    T = Lam @ (Lam @ np.linalg.inv(np.eye(len(S)) + Lam.T @ (Lam.T @ S).T)).T
    J = np.eye(len(S)) - T @ S
    patterns = _patterns(model)
    directions = [_spread(model, {f: E}) for f, E in patterns]
    pairs = list(zip(patterns, directions, strict=True))
    parts = [sp.csr_array(F[n1:, n1:] if f else F[:n1, :n1]) for (f, _), F in pairs]
    shadows = [None if f else np.asarray((C.T @ F @ C).toarray()) for (f, _), F in zip(patterns, parts, strict=True)]
    return _Middle(A, inner, sp.csr_array(A11 - A11 @ inner @ A11), C, T, J, S @ J, directions, parts, shadows)


def _own_columns(model: Model, factor: int) -> Array:
    """Columns (n, k) of one factor, rows times √w, scaled as the products are."""
    products = model.products
    columns = np.column_stack([model.design.random[t].columns for t in products.structure.factors[factor].terms])
    return whiten(columns, model.design.weights) / products.effect_scale[factor]


def _bases(model: Model) -> list[Array]:
    """For each factor, what makes correlated effects orthogonal: the family of their covariances stays the same."""
    found = []
    for f, factor in enumerate(model.products.structure.factors):
        columns, basis, at = _own_columns(model, f), np.eye(factor.width), 0
        for term in (model.design.random[t] for t in factor.terms):
            own = slice(at, at + len(term.effects))
            if term.covariance.pairs:
                R = np.linalg.qr(columns[:, own], mode="r")
                basis[own, own] = np.linalg.inv(R) * np.sqrt(len(columns))
            at = own.stop
        found.append(basis)
    return found


def _columns(model: Model, bases: list[Array]) -> sp.csr_array:
    """Z in the order of elimination, effects in their bases."""
    products = model.products
    blocks, places = [], []
    for f, factor in enumerate(products.structure.factors):
        blocks.append(_own_columns(model, f) @ bases[f])
        places.append(products.structure.rows(f)[factor.codes][:, None] + np.arange(factor.width))
    values, at = np.hstack(blocks), np.hstack(places)
    n, width = values.shape
    return sp.csr_array((values.ravel(), at.ravel(), np.arange(n + 1) * width), shape=(n, len(products.system.B)))


def _factors(model: Model, theta: Array, bases: list[Array]) -> dict[int, Array]:
    """A factor λ (k, k) of each grouping factor's covariance, in its basis."""
    system, lam = model.products.system, model.products.lam(theta)
    spans = zip(bases, system.lam_at[:-1], system.lam_at[1:], strict=True)
    return {f: np.linalg.solve(basis, lam[a:b].reshape(basis.shape)) for f, (basis, a, b) in enumerate(spans)}


def _spread(model: Model, blocks: dict[int, Array]) -> sp.csr_array:
    """The k × k blocks at every level of their factors."""
    size = len(model.products.system.B)
    total = sp.csr_array((size, size))
    for factor, block in blocks.items():
        rows = model.products.structure.rows(factor)
        i, j = np.nonzero(block)
        at = (rows[:, None] + i).ravel(), (rows[:, None] + j).ravel()
        total = sp.csr_array(total + sp.csr_array((np.tile(block[i, j], len(rows)), at), shape=(size, size)))
    return total


def _inner(model: Model, lam: Array, basis: Array) -> sp.csr_array:
    """Λ₁M₁₁⁻¹Λ₁', block-diagonal over the levels of the largest factor."""
    A11 = basis.T @ model.products.system.A11 @ basis
    q, k = A11.shape[:2]
    blocks = lam @ np.linalg.inv(lam.T @ A11 @ lam + np.eye(k)) @ lam.T
    return sp.csr_array(sp.bsr_array((blocks, np.arange(q), np.arange(q + 1)), shape=(q * k, q * k)))


def _patterns(model: Model) -> list[tuple[int, Array]]:
    """Factor and symmetric k × k pattern of each (co)variance."""
    found = []
    for f, factor in enumerate(model.products.structure.factors):
        before = 0
        for term in (model.design.random[t] for t in factor.terms):
            for row, column in zip(*term.covariance.pattern, strict=True):
                E = np.zeros((factor.width, factor.width))
                E[before + row, before + column] = E[before + column, before + row] = 1.0
                found.append((f, E))
            before += len(term.effects)
    return found


def _trace(F: sp.csr_array, N: sp.csr_array | Array) -> float:
    """tr(FN) for a symmetric N."""
    return float((F * N).sum())
