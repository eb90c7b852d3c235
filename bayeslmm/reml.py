"""Restricted likelihood of a Gaussian model with a formula for log σ: what it adds to the likelihood.

With V = ZΛΛ'Z' + diag(σ²), β̂ the generalized least squares estimate at (θ, γ) and a flat prior on β,

    log ∫ p(y | β, θ, γ) dβ = max_β log p(y | β, θ, γ) + ½ p log 2π − ½ log|X'V⁻¹X|

(Patterson & Thompson 1971, Biometrika 58(3)), so that the largest log p − ½ log|X'V⁻¹X| over (θ, β, γ) is at REML's estimates,
and the inverse of its curvature there is their covariance, that of β̂ with what is not known of θ and γ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslmm.approximation import Laplace, Point
from bayeslmm.exact.factor import back_solve, factorise, half_solve, times_lambda, times_lambda_transposed
from bayeslmm.exact.gaussian import LOG_2PI
from bayeslmm.exact.pullback import add_outer
from bayeslmm.exact.rows import times, transposed_times, weigh

Array = NDArray[np.float64]


class Restricted:
    """½ p log 2π − ½ log|X'V⁻¹X| and its gradient in (θ, β, γ).

    Parameters
    ----------
    approximation : Laplace
        Of a Gaussian model with a formula for log σ.
    """

    def __init__(self, approximation: Laplace) -> None:
        self.approximation = approximation
        self.Q, R = np.linalg.qr(approximation.observed.X)
        self.constant = 0.5 * self.Q.shape[1] * LOG_2PI - float(np.log(np.abs(np.diag(R))).sum())

    def at(self, x: Array) -> tuple[float, Array]:
        """The value at x and its gradient; −inf where X'V⁻¹X has no inverse.

        Parameters
        ----------
        x : ndarray (m,)
            (θ, β, γ).

        Returns
        -------
        tuple of (float, ndarray)
        """
        a, gradient = self.approximation, np.zeros(len(x))
        point = a.point(x)
        with np.errstate(over="ignore", under="ignore"):
            precision = np.exp(-2.0 * a.rows_at(point).aux_rows)
        if not 0.0 < precision.min() <= precision.max() < np.inf:
            return -np.inf, gradient
        modes, weighted = self._solved(point, precision)
        try:
            root = np.linalg.cholesky(self.Q.T @ weighted)
        except np.linalg.LinAlgError:
            return -np.inf, gradient
        modes, weighted = (np.ascontiguousarray(np.linalg.solve(root, v.T).T) for v in (modes, weighted))
        lam_bar, scores = np.zeros(a.system.lam_at[-1]), np.empty_like(modes)
        transposed_times(a.system, a.rows, weighted, scores)
        add_outer(a.system, scores, modes, 1.0, lam_bar)
        m, p = len(point.theta), len(point.beta)
        gradient[:m] = lam_bar[a.place] * a.scale
        gradient[m + p :] = a.W.T @ (np.sum(weighted**2, axis=1) / precision)
        return self.constant - float(np.log(np.diag(root)).sum()), gradient

    def _solved(self, point: Point, precision: Array) -> tuple[Array, Array]:
        """Λ'Z'V⁻¹Q = M⁻¹Λ'Z'WQ and V⁻¹Q = W(Q − ZΛM⁻¹Λ'Z'WQ), where W holds the rows' precisions 1/σ²."""
        a, lam = self.approximation, self.approximation.lam(point.theta)
        weigh(a.system, a.rows, precision)
        right = np.empty((len(a.system.B), self.Q.shape[1]))
        transposed_times(a.system, a.rows, precision[:, None] * self.Q, right)
        factor = factorise(a.system, lam)
        modes = back_solve(
            a.system, factor, half_solve(a.system, factor, times_lambda_transposed(a.system, lam, right))
        )
        effects = times_lambda(a.system, lam, modes)
        fitted = [times(a.system, a.rows, np.ascontiguousarray(column)) for column in effects.T]
        return modes, precision[:, None] * (self.Q - np.array(fitted).reshape(self.Q.shape[::-1]).T)
