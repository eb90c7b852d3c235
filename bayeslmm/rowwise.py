"""Each row of the data against one factor of M: its random part, its residual and its leverage, in O(n) a θ.

Rows are whitened (times √w) and in the scale of the products: Z̃ has the columns of Z, right = [Q e] those of X and y.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.exact.factor import Factor, back_solve, times_lambda
from bayeslmm.exact.gaussian import marginal
from bayeslmm.exact.leverage import leverage
from bayeslmm.exact.products import add_right, right_hand_side, whiten
from bayeslmm.model import Model

Array = NDArray[np.float64]


class Swept(NamedTuple):
    """Right-hand sides with the random effects taken out, V⁻¹[Q e] for V = I + Z̃ΛΛ'Z̃', and what they came from."""

    S: Array  # (r, r) = right' V⁻¹ right
    columns: Array  # (n, r)
    factor: Factor
    logdet: float


class Rowwise:
    """The rows of one design.

    Parameters
    ----------
    model : Model
        A Gaussian model.
    """

    def __init__(self, model: Model) -> None:
        products, design = model.products, model.design
        self.products, self.right = products, right_hand_side(design)
        self._columns, self._rows = [], []
        for f, factor in enumerate(products.structure.factors):
            columns = whiten(np.column_stack([design.random[t].columns for t in factor.terms]), design.weights)
            self._columns.append(np.ascontiguousarray(columns / products.effect_scale[f]))
            self._rows.append(products.structure.rows(f)[factor.codes])

    def times(self, u: Array) -> Array:
        """Z̃u (n, r) of scaled effects u (Q, r)."""
        out = np.zeros((self.products.nobs, u.shape[1]))
        for columns, rows in zip(self._columns, self._rows, strict=True):
            for i in range(columns.shape[1]):
                out += columns[:, i, None] * u[rows + i]
        return out

    def transposed(self, v: Array) -> Array:
        """Z̃'v (Q, r) of columns v (n, r)."""
        out = np.zeros((len(self.products.system.B), v.shape[1]))
        for columns, rows in zip(self._columns, self._rows, strict=True):
            add_right(columns, rows, np.ascontiguousarray(v), out)
        return out

    def swept(self, lam: Array, right: Array | None = None) -> Swept:
        """V⁻¹ times [Q e], or times other columns (n, r)."""
        system = self.products.system
        if right is None:
            right = self.right
        else:
            system = system._replace(B=self.transposed(right), C=np.ascontiguousarray(right.T @ right))
        at = marginal(system, lam)
        if not len(system.B):
            return Swept(at.S, right, at.factor, at.logdet)
        U = times_lambda(system, lam, back_solve(system, at.factor, at.factor.Y))
        return Swept(at.S, right - self.times(U), at.factor, at.logdet)

    def leverage(self, factor: Factor, lam: Array) -> Array:
        """z'ΛM⁻¹Λ'z of every whitened row (n,): V⁻¹ has 1 less this on its diagonal."""
        s = self.products.system
        if not self._columns:
            return np.zeros(self.products.nobs)
        blocks = [lam[a:b].reshape(k, k) for a, b, k in zip(s.lam_at[:-1], s.lam_at[1:], s.width, strict=True)]
        v = np.hstack([columns @ block for columns, block in zip(self._columns, blocks, strict=True)])
        return leverage(s, factor, np.column_stack(self._rows), v)
