"""Where the posterior of a generalized model lies: the mode of its Laplace approximation, and the curvature there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, solve_triangular
from scipy.optimize import minimize

from bayeslmm import thresholds
from bayeslmm.approximation import Laplace, Point, without_effects
from bayeslmm.exact.density import Layout
from bayeslmm.exact.factor import (
    Factor,
    back_solve,
    factorise,
    half_solve,
    times_lambda,
    times_lambda_transposed,
)
from bayeslmm.exact.hierarchical import Parameters, add_priors, parameters
from bayeslmm.exact.laplace import Curve, curve, laplace, right_hand_sides
from bayeslmm.exact.rows import transposed_times
from bayeslmm.exact.second import NU
from bayeslmm.family import family_of
from bayeslmm.model import Model

Array = NDArray[np.float64]
# Standard deviation, over that of the effect's column (and the residual, where there is one), at which the search begins.
START_SD = 0.5
# Largest posterior sd of a coordinate of the search that its curvature is trusted for, in units of the start's scale.
WIDEST = 5.0
# An sd may be 0 if the log posterior falls from the mode by less than this share towards it of what it falls away from it, along
# the approximation's two standard deviations of log sd. Of a normal it is 1; of a half-normal sd 0.14.
FALLS_ALIKE = 0.5
STEP = 1e-5


class Evidence(NamedTuple):
    """What the rows say of one factor's effects near the mode, as a normal likelihood; see `exact.maps.Maps`.

    The effects of the factors before it are integrated out, those of the factors after it given.
    """

    information: Array  # (levels, k, k)
    score: Array  # (levels, k) at the mode
    fall: Array  # (levels, k, p) of the score with β
    rise: Array  # (levels, k, K − 1) of the score with the thresholds
    share: Array  # (levels,) of the rows' weights that is left


class Mode(NamedTuple):
    """Everything at the mode that maps are laid along."""

    beta: Array
    tau: Array  # thresholds of ordered categories, none of others
    weight: Array  # (n,) information of each row about its η, expected where it has a closed form
    u: Array  # (Q,) scaled effects
    factors: list[Evidence]


class Search:
    """The posterior of ψ = [v of the sds, correlations' z, log dispersion, γ, β] by Laplace's approximation.

    Parameters
    ----------
    model : Model
    approximation : Laplace
        Of the model.
    layout : Layout
        Where parameters stand, and their priors.
    """

    def __init__(self, model: Model, approximation: Laplace, layout: Layout) -> None:
        self.model, self.approximation, self.layout = model, approximation, layout
        self.lam_size = int(approximation.system.lam_at[-1])
        self.dispersed = approximation.has_dispersion
        # Observed, the curvature of t responses may vanish, and its log determinant run off.
        self.expected = layout.second == NU

    def density(self, psi: Array) -> tuple[float, Array]:
        """Log density of ψ and its gradient; −inf where the effects have no mode."""
        a, dispersed = self.approximation, self.dispersed
        p = parameters(self.layout, self.lam_size, dispersed, psi)
        out, observed = np.zeros(len(psi)), a.rows_at(self._point(p))
        for start in (a.b, np.zeros_like(a.b)):
            found = laplace(a.system, a.rows, observed, p.lam, p.beta, p.aux, start, False, self.expected)
            if found.mode.converged and np.isfinite(found.value):
                break
        else:
            return -np.inf, out
        a.b = found.mode.b
        first = len(psi) - len(p.beta) - len(p.gamma)
        bars = [*a.further_bar(p.gamma, found.aux_rows_bar, found.zeta_bar), found.beta_bar]
        out[first:] = np.concatenate(bars)
        out[first - 1 : first] += found.aux_bar if dispersed else 0.0
        prior = add_priors(self.layout, p, dispersed, psi, found.lam_bar, out)
        return float(found.value + prior), out

    def mode_and_root(self) -> tuple[Array, Array]:
        """ψ̂ and the lower triangle K with KK' the inverse curvature there, in log sd."""
        start, scale = self._start()

        def minus(t: Array) -> tuple[float, Array]:
            value, gradient = self.density(start + scale @ t)
            return (-value, -(scale.T @ gradient)) if np.isfinite(value) else (1e20, np.zeros_like(t))

        t = minimize(minus, np.zeros(len(start)), jac=True, method="BFGS", options={"gtol": 1e-3, "maxiter": 200}).x
        _, there = minus(t)
        H = np.array([(minus(t + STEP * unit)[1] - there) / STEP for unit in np.eye(len(t))]).reshape(len(t), len(t))
        values, vectors = np.linalg.eigh(0.5 * (H + H.T))
        spread = scale @ (vectors / np.sqrt(np.maximum(values, WIDEST**-2)))
        return start + scale @ t, np.linalg.cholesky(spread @ spread.T)

    def sd_units(self, centre: Array, root: Array) -> Array:
        """The sds' units in `exact.hierarchical.scale`: of those that may be 0 their standard errors, of the others 0."""
        covariance, units = root @ root.T, np.zeros(len(self.layout.sd_unit))
        top, _ = self.density(centre)
        for i in range(len(units)):
            se = np.sqrt(covariance[i, i])
            below, above = (top - self.density(centre + t * covariance[i] / se)[0] for t in (-2.0, 2.0))
            if np.isfinite(above) and below < FALLS_ALIKE * above:
                units[i] = se * np.exp(centre[i])
        return units

    def _start(self) -> tuple[Array, Array]:
        """Where the search begins, and the scale of its coordinates: those of a fit without effects."""
        glm, p = without_effects(self.model, 3), self.model.X.shape[1]
        size = np.exp(glm.aux) if family_of(self.model.family).plain in ("gaussian", "t") else 1.0
        sd = np.log(START_SD * size / self.layout.sd_scale)
        further, unit = self.approximation.further_start(glm.aux)
        psi = np.concatenate([sd, np.zeros(self.layout.z_at[-1]), [glm.aux] * self.dispersed, further, glm.beta])
        inverse = solve_triangular(glm.R, np.eye(p)) if p else np.empty((0, 0))
        return psi, np.asarray(block_diag(0.5 * np.eye(len(psi) - p - len(further)), unit, inverse))

    def mode(self, psi: Array) -> Mode:
        """What the rows say of every factor's effects at ψ."""
        expected = family_of(self.model.family).has_information
        a = Laplace(self.model, "expected" if expected else "observed", joint=True)
        p = parameters(self.layout, self.lam_size, self.dispersed, psi)
        point = self._point(p)
        found = self.approximation.mode(point)
        at = curve(a.rows_at(point), found.eta, point.aux, expected)
        u = times_lambda(a.system, p.lam, found.b)[:, 0]
        factors = []
        for f in range(len(self.model.structure.factors)):
            lam = np.where(np.arange(self.lam_size) < a.system.lam_at[f + 1], p.lam, 0.0)
            blocks = a.conditional_blocks(point._replace(theta=self._theta(lam)), found)
            right_hand_sides(a.system, a.rows, a.observed, at.weight, at.first, True)
            factor = factorise(a.system, lam)
            solution = times_lambda(a.system, lam, back_solve(a.system, factor, factor.Y))[:, : len(p.beta)]
            along = np.column_stack([solution, _with_thresholds(a, at, lam, factor)])
            factors.append(self._evidence(a, f, lam, blocks[f], along, u))
        return Mode(p.beta, p.further[: a.n_thresholds], at.weight, u, factors)

    def _point(self, p: Parameters) -> Point:
        return Point(self._theta(p.lam), p.beta, float(p.aux), p.gamma)

    def _theta(self, lam: Array) -> Array:
        return np.asarray(lam[self.approximation.place] / self.approximation.scale)

    def _evidence(self, a: Laplace, f: int, lam: Array, covariance: Array, solution: Array, u: Array) -> Evidence:
        """From the effects' covariances (levels, k, k) given the data and the factors after f, and ΛM⁻¹Λ'Z'[WX, ∂ℓ'/∂τ]."""
        k, p = covariance.shape[1], a.p
        own = lam[a.system.lam_at[f] : a.system.lam_at[f + 1]].reshape(k, k)
        precision = np.linalg.inv(covariance)
        values, vectors = np.linalg.eigh(precision - np.linalg.inv(own @ own.T))
        information = np.einsum("lab,lb,lcb->lac", vectors, np.maximum(values, 0.0), vectors)
        rows = self.model.structure.rows(f)[:, None] + np.arange(k)
        diagonal = np.einsum("laa->la", information)
        whole = self._row_information(a, f)
        share = np.divide(diagonal, whole, out=np.zeros_like(whole), where=whole > 0).mean(axis=1)
        along = precision @ solution[rows]
        score = np.einsum("lab,lb->la", precision, u[rows])
        return Evidence(information, score, along[..., :p], along[..., p:], np.minimum(share, 1.0))

    def _row_information(self, a: Laplace, f: int) -> Array:
        """Diagonal of Z'WZ (levels, k) for one factor."""
        if f == 0:
            return np.asarray(np.einsum("laa->la", a.system.A11))
        s, blocks = a.system, self.model.structure
        diagonal = np.flatnonzero((s.rest_row == s.rest_col) & (s.rest_row_factor == f))
        place = np.argsort(blocks.node_level[blocks.node_factor == f])
        k = blocks.factors[f].width
        begin = s.rest_at[diagonal[np.argsort(s.rest_row[diagonal])]][place]
        return np.asarray(s.A22[begin[:, None] + np.arange(k) * (k + 1)])


def _with_thresholds(a: Laplace, at: Curve, lam: Array, factor: Factor) -> Array:
    """ΛM⁻¹Λ'Z' ∂ℓ'/∂τ (Q, K − 1): how the effects' mode moves with each threshold."""
    s, out = a.system, np.empty((len(a.system.B), a.n_thresholds))
    if a.n_thresholds:
        slopes = thresholds.by_thresholds(a.observed.y, a.n_thresholds, at.first_aux, at.first_zero)
        transposed_times(s, a.rows, np.ascontiguousarray(slopes), out)
        out = times_lambda(s, lam, back_solve(s, factor, half_solve(s, factor, times_lambda_transposed(s, lam, out))))
    return out
