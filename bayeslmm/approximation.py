"""A model of any family as Laplace's objective: −2 log-likelihood and its gradient in (θ, β, log φ)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, solve_triangular

from bayeslmm import thresholds
from bayeslmm.exact.densities import mean_slopes, means
from bayeslmm.exact.factor import factorise
from bayeslmm.exact.inverse import selected_inverse
from bayeslmm.exact.laplace import Approximation, Mode, Observed, curve, find_mode, laplace, right_hand_sides
from bayeslmm.exact.levels import Integrals, log_integrals
from bayeslmm.exact.products import weighted_design
from bayeslmm.exact.pullback import logdet_products
from bayeslmm.exact.quadrature import Nodes, adaptive, nodes_of
from bayeslmm.exact.rows import weigh
from bayeslmm.family import LINKS, family_of, linked
from bayeslmm.model import Model

Array = NDArray[np.float64]
# Largest change of η at which a fit without effects has come to rest.
AT_REST = 1e-9
# ν of a t response from which a search begins.
NU = 8.0
# Effects of one group that quadrature integrates over at most.
MOST_DIMENSIONS = 3
NOTHING = np.empty(0)


class Point(NamedTuple):
    """Parameters in their own units: θ, β, log dispersion (0 where there is none), and further ones.

    Those are coefficients of the formulas for dispersion, then for zeros, or log ν; or τ_1 and the logs of the steps
    between thresholds.
    """

    theta: Array
    beta: Array
    aux: float
    further: Array = NOTHING


class Laplace:
    """Laplace's approximation for one model; keeps the last mode as the next start.

    Parameters
    ----------
    model : Model
        Any family.
    information : {"observed", "expected"}
        Whether the curvature in log|M| is observed or expected.
    joint : bool
        Whether β is at the mode together with the effects, instead of a parameter (lme4's nAGQ = 0).
    """

    def __init__(self, model: Model, information: str = "observed", joint: bool = False) -> None:
        design, family = model.design, family_of(model.family)
        self.model, self.joint, self.expected = model, joint, information == "expected"
        self.count = 1  # nodes per dimension
        names = ("dispersion", "nu" if family.second == "nu" else "zero")
        self.W, self.Z0 = (np.ascontiguousarray(design.further_columns(name)) for name in names)
        self.n_thresholds = len(design.thresholds)
        self.n_further = self.W.shape[1] + self.Z0.shape[1] + self.n_thresholds
        self.has_dispersion = family.dispersion is not None and not self.W.shape[1]
        n, p = design.fixed.X.shape
        self.p = p
        prior = np.ones(n) if design.weights is None else design.weights
        gaussian = family.plain == "gaussian"  # whose prior weights divide σ², and do not multiply the log density
        self.system, self.rows, self.place, self.scale, self.effect_scale = weighted_design(
            design, model.structure, p + 1 if joint else 1
        )
        self.observed = Observed(
            family.code,
            LINKS[model.link],
            _own(design.y),
            np.ones(n) if design.trials is None else _own(design.trials),
            np.ones(n) if gaussian else _own(prior),
            np.zeros(n) if design.offset is None else _own(design.offset),
            _own(design.fixed.X),
            family.kind,
            -0.5 * np.log(prior) if gaussian else np.zeros(n),
            np.zeros(n),
        )
        self.b = np.zeros((len(self.system.B), 1))
        self.beta = np.zeros(p)

    def lam(self, theta: Array) -> Array:
        """The scaled λ of all factors in one vector."""
        lam = np.zeros(self.system.lam_at[-1])
        lam[self.place] = theta * self.scale
        return lam

    def rows_at(self, point: Point) -> Observed:
        """The rows with their dispersions and probabilities of a zero of its own, with ν, or with their thresholds."""
        if not self.n_further:
            return self.observed
        if self.n_thresholds:
            upper, lower = thresholds.bounds(self.observed.y, thresholds.increasing(point.further))
            return self.observed._replace(aux_rows=upper, zeta=lower)
        stop = self.W.shape[1]
        aux = self.observed.aux_rows + self.W @ point.further[:stop]
        return self.observed._replace(aux_rows=aux, zeta=self.Z0 @ point.further[stop:])

    def at(self, point: Point) -> Approximation:
        """The approximation and its gradient; from the last mode and, where that fails, from 0."""
        observed, beta = self.rows_at(point), self.beta if self.joint else point.beta
        for start, beta_start in ((self.b, beta), (np.zeros_like(self.b), np.zeros(self.p) if self.joint else beta)):
            found = laplace(
                self.system, self.rows, observed, self.lam(point.theta), beta_start, point.aux, start, self.joint,
                self.expected,
            )  # fmt: skip
            if found.mode.converged and np.isfinite(found.value):
                self.b, self.beta = found.mode.b, found.mode.beta
                break
        return found

    def mode(self, point: Point) -> Mode:
        """b̂ at the parameters."""
        lam = self.lam(point.theta)
        return find_mode(self.system, self.rows, self.rows_at(point), lam, point.beta, point.aux, self.b, False)

    def conditional_blocks(self, point: Point, mode: Mode) -> list[Array]:
        """ΛM⁻¹Λ' in each level's block (levels, k, k), factor by factor, in the scale of the columns."""
        s, lam = self.system, self.lam(point.theta)
        at = curve(self.rows_at(point), mode.eta, point.aux, self.expected)
        weigh(s, self.rows, at.weight)
        A11, _, A22 = logdet_products(s, lam, selected_inverse(s, factorise(s, lam)), 1.0)
        found = []
        for f, factor in enumerate(self.model.structure.factors):
            k = factor.width
            if f == 0:
                found.append(A11.reshape(-1, k, k))
                continue
            diagonal = np.flatnonzero((s.rest_row == s.rest_col) & (s.rest_row_factor == f))
            place = np.argsort(self.model.structure.node_level[self.model.structure.node_factor == f])
            own = s.rest_at[diagonal[np.argsort(s.rest_row[diagonal])]][place]
            found.append(A22[own[:, None] + np.arange(k * k)].reshape(-1, k, k))
        return found

    def coefficient_precision(self, point: Point) -> Array:
        """Precision of β given θ and φ, X'WX − X'WZΛM⁻¹Λ'Z'WX, at the joint mode."""
        found = self.at(point).mode
        at = curve(self.rows_at(point), found.eta, point.aux, self.expected)
        weigh(self.system, self.rows, at.weight)
        V = right_hand_sides(self.system, self.rows, self.observed, at.weight, at.first, True)
        Y = factorise(self.system, self.lam(point.theta)).Y
        return np.asarray((self.observed.X.T @ V - (Y.T @ Y)[:-1])[:, :-1])

    def further_bar(self, further: Array, aux: Array, zeta: Array) -> list[Array]:
        """Derivatives by the further parameters, from those of the rows."""
        if self.n_thresholds:
            return [thresholds.pulled_back(self.observed.y, further, aux, zeta)]
        parts = [self.W.T @ aux] if self.W.shape[1] else []
        return parts + ([self.Z0.T @ zeta] if self.Z0.shape[1] else [])

    def minus_twice(self, point: Point) -> tuple[float, Array]:
        """−2 log-likelihood and its gradient in θ, β (unless joint) and log φ (where there is one); +inf without a mode."""
        found = self.at(point)
        parts = [found.lam_bar[self.place] * self.scale, found.beta_bar[: 0 if self.joint else self.p]]
        parts += [np.array([found.aux_bar])] if self.has_dispersion else []
        parts += self.further_bar(point.further, found.aux_rows_bar, found.zeta_bar)
        gradient = -2.0 * np.concatenate(parts)
        if not (found.mode.converged and np.isfinite(found.value) and np.isfinite(gradient).all()):
            return np.inf, np.zeros_like(gradient)
        return -2.0 * found.value, gradient

    def point(self, x: Array) -> Point:
        """Parameters from one vector (θ, β unless joint, log φ where there is one)."""
        m = self.model.n_theta
        stop = m if self.joint else m + self.p
        aux = float(x[stop]) if self.has_dispersion else 0.0
        return Point(x[:m], x[m:stop], aux, x[stop + self.has_dispersion :])

    def further_start(self, aux: float) -> tuple[Array, Array]:
        """Further parameters that are the same for all rows, and the scale to search on."""
        if self.n_thresholds:
            y, weights = self.observed.y, self.observed.weights
            return thresholds.start(y, self.n_thresholds + 1, self.model.link, weights), np.eye(self.n_thresholds) * 0.2
        share = np.clip(0.5 * np.mean(self.observed.y == 0.0), 0.02, 0.98)
        own = float(np.log(share / (1.0 - share) if family_of(self.model.family).second is None else NU))
        parts, scales = [], []
        for columns, level in ((self.W, aux), (self.Z0, own)):
            if columns.shape[1]:
                parts.append(np.linalg.lstsq(columns, np.full(len(columns), level))[0])
                scales.append(np.linalg.inv(np.linalg.qr(columns, mode="r")) * np.sqrt(len(columns) / 20.0))
        return np.concatenate([NOTHING, *parts]), block_diag(np.zeros((0, 0)), *scales)

    def start(self) -> Start:
        """Where a search begins: a fit without effects, after a few steps."""
        return without_effects(self.model, 3)


def _own(values: Array) -> Array:
    """Contiguous and writable, also where pandas lends a view: for a read-only array every kernel would compile anew."""
    return np.require(values, float, ["C", "W"])


class Start(NamedTuple):
    """A fit without effects: coefficients, log dispersion by moments, the triangle that orthogonalises X, and η."""

    beta: Array
    aux: float
    R: Array
    eta: Array


def start_at(model: Model) -> Array:
    """η of the fit without effects."""
    return without_effects(model, 50).eta


def working(model: Model) -> tuple[Array, Array]:
    """Working residuals (y − μ)/μ' of the fit without effects, and their weights μ'²/Var(y)."""
    design, family, link = model.design, family_of(model.family), LINKS[model.link]
    if family.ordered:
        return _working_categories(model)
    at = without_effects(model, 50)
    mu, slope = means(link, at.eta), mean_slopes(link, at.eta)
    trials = np.ones(design.nobs) if design.trials is None else design.trials
    prior = 1.0 if design.weights is None else design.weights
    weights = prior * slope**2 / family.variance(mu, float(np.exp(at.aux)), trials)
    return (design.y / trials - mu) / slope, weights


def _working_categories(model: Model) -> tuple[Array, Array]:
    """Newton's step −ℓ'/ℓ'' of each row from the start of a search, and −ℓ''."""
    own = Laplace(model)
    point = Point(model.theta_start, np.zeros(own.p), 0.0, own.further_start(0.0)[0])
    at = curve(own.rows_at(point), own.observed.offset, 0.0, False)
    return at.first / at.observed, at.observed


def without_effects(model: Model, most: int) -> Start:
    """Iteratively reweighted least squares without random effects, to rest or for a number of steps."""
    design, family, link = model.design, family_of(model.family), LINKS[model.link]
    if family.ordered:
        return without_slopes(model)
    X, trials = design.fixed.X, np.ones(design.nobs) if design.trials is None else design.trials
    weights = 1.0 if design.weights is None else design.weights
    offset = np.zeros(design.nobs) if design.offset is None else design.offset
    mu = family.rough_mean(design.y, design.trials)
    eta, aux, change, steps = linked(model.link, mu), 0.0, np.inf, 0
    while change > AT_REST and steps < most:
        steps += 1
        slope = mean_slopes(link, eta)
        root = np.sqrt(weights * slope**2 / family.variance(mu, float(np.exp(aux)), trials))
        z = eta - offset + (design.y / trials - mu) / slope
        Q, R = np.linalg.qr(X * root[:, None])
        beta = solve_triangular(R, Q.T @ (z * root)) if X.shape[1] else np.empty(0)
        trial = offset + X @ beta
        moved = means(link, trial)
        if not _inside(family.plain, moved):
            break
        change = float(np.max(np.abs(trial - eta)))
        eta, mu = trial, moved
        aux = _rough_dispersion(family.plain, design.y / trials, mu)
    return Start(beta, aux, R, eta)


def without_slopes(model: Model) -> Start:
    """Ordered categories with the same probabilities in every row, X about its means at the information of a latent scale.

    The error of a latent response has variance π²/3, 1 or π²/6; a category tells at most as much as that response.
    """
    X, variance = model.design.fixed.X, {"logit": np.pi**2 / 3, "probit": 1.0, "cloglog": np.pi**2 / 6}[model.link]
    offset = np.zeros(len(X)) if model.design.offset is None else model.design.offset
    R = np.linalg.qr((X - X.mean(axis=0)) / np.sqrt(variance), mode="r")
    return Start(np.zeros(X.shape[1]), 0.0, R, offset)


def _inside(family: str, mu: Array) -> bool:
    upper = 1.0 if family in ("bernoulli", "binomial", "betabinomial", "beta") else np.inf
    return bool(family in ("gaussian", "t") or ((mu > 0) & (mu < upper)).all())


def _rough_dispersion(family: str, y: Array, mu: Array) -> float:
    """Log of the dispersion by moments."""
    if family in ("gaussian", "t"):
        return float(0.5 * np.log(np.mean((y - mu) ** 2)))
    if family in ("gamma", "wald"):
        unit = mu**2 if family == "gamma" else mu**3
        return float(-np.log(np.mean((y - mu) ** 2 / unit)))
    if family == "beta":
        return float(np.log(max(np.mean(mu * (1 - mu)) / np.mean((y - mu) ** 2) - 1.0, 1.0)))
    if family == "negativebinomial":
        excess = np.mean((y - mu) ** 2 - mu) / np.mean(mu**2)
        return float(-np.log(max(excess, 0.05)))
    if family == "negativebinomial1":
        return float(np.log(max(np.mean((y - mu) ** 2 / mu) - 1.0, 0.05)))
    return float(np.log(5.0)) if family == "betabinomial" else 0.0


class Quadrature(Laplace):
    """Adaptive Gauss-Hermite quadrature for one grouping factor.

    Parameters
    ----------
    model : Model
        With one grouping factor and at most three effects on it.
    information : {"observed", "expected"}
        The curvature that scales the nodes.
    nodes : int
        Nodes per dimension.
    """

    def __init__(self, model: Model, information: str, nodes: int) -> None:
        super().__init__(model, information)
        factor = model.structure.factors[0]
        self.count, self.nodes = nodes, nodes_of(nodes, factor.width)
        self.order = np.argsort(factor.codes, kind="stable").astype(np.int64)
        self.level_start = np.searchsorted(factor.codes[self.order], np.arange(factor.count + 1)).astype(np.int64)

    def minus_twice(self, point: Point) -> tuple[float, Array]:
        """−2 log-likelihood and its gradient in θ, β and log φ; +inf without a mode."""
        mode = self.mode(point)
        fixed = self.observed.offset + self.observed.X @ point.beta
        k = self.model.structure.factors[0].width
        at = curve(self.rows_at(point), mode.eta, point.aux, self.expected)
        found = adaptive(
            self.rows_at(point), self.rows.columns, self.order, self.level_start, self.lam(point.theta).reshape(k, k), fixed,
            mode.b.reshape(-1, k), at, point.aux, self.expected, self.nodes,
        )  # fmt: skip
        parts = [found.lam.ravel()[self.place] * self.scale, found.beta]
        parts += [np.array([found.aux.sum()])] if self.has_dispersion else []
        parts += self.further_bar(point.further, found.aux, found.zeta)
        gradient = -2.0 * np.concatenate(parts)
        if not (mode.converged and np.isfinite(found.value) and np.isfinite(gradient).all()):
            return np.inf, np.zeros_like(gradient)
        self.b = mode.b
        return -2.0 * found.value, gradient

    def integrals(self, point: Point, around: Nodes | None = None, wide: bool = False) -> Integrals:
        """Log-likelihoods by level, its effects integrated out; nodes `around` 0 if given, else around the mode."""
        observed, k = self.rows_at(point), self.model.structure.factors[0].width
        b, weight = np.zeros((len(self.level_start) - 1, k)), np.zeros(len(observed.y))
        if around is None:
            mode = self.mode(point)
            self.b, b = mode.b, mode.b.reshape(-1, k)
            weight = curve(observed, mode.eta, point.aux, False).weight
        fixed, lam = observed.offset + observed.X @ point.beta, self.lam(point.theta).reshape(k, k)
        columns, nodes = self.rows.columns, self.nodes if around is None else around
        found: Integrals = log_integrals(
            observed, columns, self.order, self.level_start, lam, fixed, b, weight, point.aux, nodes, wide
        )
        return found
