"""Generalized linear mixed models: estimates by Laplace's approximation, and what such a fit answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import block_diag
from scipy.special import ndtr

from bayeslmm.approximation import Laplace, Point, Quadrature
from bayeslmm.errors import MethodError
from bayeslmm.exact.densities import means
from bayeslmm.exact.factor import times_lambda
from bayeslmm.family import LINKS, family_of
from bayeslmm.model import Model
from bayeslmm.optimise import DECREMENT, Objective, Optimum, approach, minimise
from bayeslmm.result import PointFit
from bayeslmm.table import (
    Page,
    Table,
    fixed_correlations,
    frame_table,
    left_out,
    model_lines,
    random_effects,
    sizes,
    zeros,
)

Array = NDArray[np.float64]
# Nodes per dimension of AGHQ, if not given; effects of one group that it integrates over at most.
NODES, MOST_DIMENSIONS = 11, 3
# Standard error of η, averaged over the rows, that only separated responses have; α beyond the largest mean that is endless.
ENDLESS, NO_EXCESS = 1e3, 1e4
# Deviation on the link scale at which a level all but determines its responses.
DETERMINED = 8.0
METHODS = {
    "Laplace": "Laplace's approximation",
    "AGHQ": "adaptive Gauss-Hermite quadrature",
    "PQL": "penalised quasi-likelihood",
}


@dataclass(frozen=True, eq=False, repr=False)
class GeneralizedFit(PointFit):
    """A generalized linear mixed model at the maximum of its approximate likelihood.

    Parameters
    ----------
    dispersion : float
        The family's dispersion parameter, NaN where it has none.
    information : str
        "observed" or "expected" curvature in the approximation.
    nodes : int
        Quadrature nodes per dimension; 1 is Laplace's approximation.
    """

    dispersion: float = float("nan")
    information: str = "observed"
    nodes: int = 1

    @property
    def df(self) -> int:
        """Number of estimated parameters: coefficients, theta and dispersion."""
        return len(self.beta) + self.model.n_theta + int(np.isfinite(self.dispersion))

    @cached_property
    def _at_mode(self) -> tuple[Array, Mapping[str, Array], Mapping[str, Array]]:
        """The linear predictor, and the effects' modes and conditional covariances by group."""
        approximation = Laplace(self.model, self.information)
        aux = float(np.log(self.dispersion)) if np.isfinite(self.dispersion) else 0.0
        point = Point(self.theta, self.beta, aux)
        mode = approximation.mode(point)
        scaled = times_lambda(approximation.system, approximation.lam(self.theta), mode.b)[:, 0]
        modes, spread = {}, {}
        blocks = approximation.conditional_blocks(point, mode)
        for f, factor in enumerate(self.model.structure.factors):
            rows = self.model.structure.rows(f)[:, None] + np.arange(factor.width)
            size = approximation.effect_scale[f]
            modes[factor.group] = scaled[rows] / size
            spread[factor.group] = blocks[f] / np.outer(size, size)
        return mode.eta, modes, spread

    @property
    def group_ranef(self) -> Mapping[str, Array]:
        """Conditional modes (levels, k) of each group."""
        return {group: self._at_mode[1][group] for group in self.model.groups}

    @property
    def ranef_cov(self) -> dict[str, Array]:
        """Conditional covariances (levels, k, k) of each group's effects by Laplace's approximation, given the rest."""
        return {group: self._at_mode[2][group] for group in self.model.groups}

    @property
    def linear_predictor(self) -> pd.Series:
        """η = offset + Xβ + Zu, on the link scale."""
        return pd.Series(self._at_mode[0], index=self.model.design.rows, name="linear_predictor")

    @property
    def fitted(self) -> pd.Series:
        """Means of the response given the effects, g⁻¹(η); of a binomial response the share of successes."""
        mu = means(LINKS[self.model.link], self._at_mode[0])
        return pd.Series(mu, index=self.model.design.rows, name="fitted")

    @property
    def residuals(self) -> pd.Series:
        """Response (share of successes) minus fitted mean."""
        trials = self.model.design.trials
        share = self.model.design.y / (1.0 if trials is None else trials)
        return pd.Series(share - self.fitted.to_numpy(), index=self.model.design.rows, name="residuals")

    @cached_property
    def pearson_residuals(self) -> pd.Series:
        """Residuals divided by the standard deviation of the response given the effects."""
        design, mu = self.model.design, self.fitted.to_numpy()
        trials = 1.0 if design.trials is None else design.trials
        weights = 1.0 if design.weights is None else design.weights
        variance = family_of(self.model.family).variance(mu, self.dispersion, trials) / weights
        residuals = self.residuals.to_numpy()
        shares = np.divide(residuals, np.sqrt(variance), out=np.zeros_like(residuals), where=variance > 0)
        return pd.Series(shares, index=design.rows, name="pearson_residuals")

    def page(self) -> Page:
        """The summary, to print or to show in a notebook."""
        how = METHODS[self.method] + (f" ({self.nodes} nodes)" if self.nodes > 1 else "")
        mixed = "mixed " if self.model.groups else ""
        lines = [*model_lines(self.model), f"Family: {self.model.family} ({self.model.link} link)"]
        if np.isfinite(self.dispersion):
            lines.append(f"Dispersion: {family_of(self.model.family).dispersion} = {self.dispersion:.5g}")
        criteria = pd.DataFrame(
            {"AIC": [self.aic], "BIC": [self.bic], "logLik": [self.loglik], "deviance": [self.deviance]}, index=[""]
        )
        criteria = criteria.map(lambda value: f"{value:.1f}").assign(df=str(self.df))
        pearson = np.quantile(self.pearson_residuals, [0, 0.25, 0.5, 0.75, 1])
        five = Table(
            "Pearson residuals", ("Min", "1Q", "Median", "3Q", "Max"), (tuple(f"{v:.4f}" for v in pearson),), 0
        )
        tables = [(frame_table("", criteria), ""), (five, "")]
        tables += (
            [(random_effects(self, residual=self.method == "PQL"), sizes(self.model))] if self.model.groups else []
        )
        tables += [(frame_table("Fixed effects", self._tests()), "")] if len(self.beta) else []
        tables += [(fixed_correlations(self), "")] if 1 < len(self.beta) <= 12 else []
        remarks = left_out(self.model)
        remarks += [f"Singular fit: {'; '.join(zeros(self))}."] if self.singular else []
        remarks += self._determined()
        remarks += [] if self.converged else [f"NOT CONVERGED: {self.message}"]
        return Page(f"Generalized linear {mixed}model fit by {how}", tuple(lines), tuple(tables), tuple(remarks))

    def _determined(self) -> list[str]:
        """Which effects are so large that a level all but determines its responses."""
        if self.model.link not in ("logit", "probit", "cloglog", "cauchit"):
            return []
        return [
            f"sd_{group}[{effect}] is {size:.3g} on the {self.model.link} scale: the level all but determines the response. "
            "There the approximation is at its worst; compare with AGHQ."
            for group, sds in self.group_sd.items()
            for effect, size in zip(self.model.effects(group), sds, strict=True)
            if effect == "Intercept" and size > DETERMINED
        ]

    def _tests(self) -> pd.DataFrame:
        with np.errstate(divide="ignore", invalid="ignore"):
            z = self.beta / self.beta_sd
        columns = {"Estimate": self.beta, "Std. Error": self.beta_sd, "z value": z, "Pr(>|z|)": 2.0 * ndtr(-np.abs(z))}
        return pd.DataFrame(columns, index=self.fixef.index)

    def summary(self, df: str | None = "default") -> str:
        """A summary in the layout of lme4's; the coefficients have z tests, so that `df` has no other choice."""
        if df not in ("default", "asymptotic"):
            raise MethodError(f'df={df!r} is for linear models; a generalized one has z tests, df="asymptotic"')
        return self.page().text

    def _repr_html_(self) -> str:
        return self.page().html


def fit_generalized(
    model: Model,
    method: str = "Laplace",
    *,
    start: Array | None = None,
    nodes: int | None = None,
    information: str = "observed",
    fast: bool = False,
) -> GeneralizedFit:
    """Estimate a generalized linear mixed model.

    Parameters
    ----------
    model : Model
        Any family but the Gaussian.
    method : {"Laplace", "AGHQ"}
        How the random effects are integrated out.
    start : ndarray, optional
        Theta to start from.
    nodes : int
        For "AGHQ": quadrature nodes per dimension, 11 if not given.
    information : {"observed", "expected"}
        Curvature of the log density of the responses in log|M|: observed, as glmmTMB and the mathematics have it, or
        expected, as lme4 has it where the link is not canonical.
    fast : bool
        Take β at the mode together with the effects (lme4's nAGQ = 0): quicker, and further from the likelihood's maximum.

    Returns
    -------
    GeneralizedFit

    Raises
    ------
    MethodError
        An option that has no meaning for this model.
    """
    _check(model, method, nodes, information, fast)
    rough = Laplace(model, information, joint=True)
    beta, aux, R, _ = rough.start()
    rough.beta = beta
    has = int(rough.has_dispersion)
    covariances = [term.covariance for term in model.terms]
    theta = model.theta_start if start is None else model.checked_theta(start)
    begin, basis = np.append(theta, [aux] * has), block_diag(model.theta_basis, np.eye(has))
    if fast:
        first = minimise(_objective(rough), begin, covariances, basis)
        return _result(model, rough, first, rough.beta, _given_theta(rough, first.theta), method, information)
    near = approach(_objective(rough), begin, covariances, basis)
    full = Quadrature(model, information, nodes or NODES) if method == "AGHQ" else Laplace(model, information)
    full.b = rough.b
    m = model.n_theta
    x = np.concatenate([near[:m], rough.beta, near[m:]])
    basis = block_diag(model.theta_basis, np.linalg.inv(R), np.eye(has))
    optimum = minimise(_objective(full), x, covariances, basis, near=True)
    beta_at = slice(m, m + full.p)
    return _result(model, full, optimum, optimum.theta[beta_at], _root(optimum, beta_at), method, information)


def _check(model: Model, method: str, nodes: int | None, information: str, fast: bool) -> None:
    """Raise for options that have no meaning."""
    if method not in METHODS:
        known = " or ".join(f'"{name}"' for name in METHODS)
        raise MethodError(f"method={method!r} is not known for a model of the {model.family} family; use {known}")
    if information not in ("observed", "expected"):
        raise MethodError(f'information={information!r} is not known; use "observed" or "expected"')
    if information == "expected" and not family_of(model.family).has_information:
        raise MethodError(f'the expected information of the {model.family} family has no closed form; use "observed"')
    if method != "AGHQ":
        if nodes is not None:
            raise MethodError('nodes= is for method="AGHQ"')
        return
    if fast:
        raise MethodError('fast=True is for method="Laplace"')
    if nodes is not None and (isinstance(nodes, bool) or not isinstance(nodes, int | np.integer) or nodes < 1):
        raise MethodError(f"nodes={nodes!r} must be a whole number, at least 1")
    factors = model.structure.factors
    if len(factors) != 1 or factors[0].width > MOST_DIMENSIONS:
        groups = ", ".join(f"{f.group}: {f.width}" for f in factors) or "none"
        raise MethodError(
            f"AGHQ integrates over the effects of one grouping factor, at most {MOST_DIMENSIONS} of them; the model has "
            f'{groups}. Use method="Laplace"'
        )


def _objective(approximation: Laplace) -> Objective:
    return lambda x: approximation.minus_twice(approximation.point(x))


def _root(optimum: Optimum, beta_at: slice) -> Array:
    """K with K'K the covariance of β, from the curvature in all parameters that are neither on a boundary nor endless."""
    free = np.flatnonzero(optimum.free)
    for used in (free, free[free < beta_at.stop]):  # a dispersion that runs off to infinity has no curvature
        place = np.flatnonzero((used >= beta_at.start) & (used < beta_at.stop))
        try:
            L = np.linalg.cholesky(0.5 * optimum.hessian[np.ix_(used, used)])
        except np.linalg.LinAlgError:
            continue
        return np.asarray(np.linalg.solve(L, np.eye(len(used)))[:, place])
    return np.full((len(place), len(place)), np.nan)


def _given_theta(approximation: Laplace, x: Array) -> Array:
    precision = approximation.coefficient_precision(approximation.point(x))
    return np.asarray(np.linalg.inv(np.linalg.cholesky(precision)))


def _result(
    model: Model, approximation: Laplace, optimum: Optimum, beta: Array, root: Array, method: str, information: str
) -> GeneralizedFit:
    dispersion = float(np.exp(optimum.theta[-1])) if approximation.has_dispersion else float("nan")
    optimum = _judged(model, approximation, optimum, beta, root, dispersion)
    return GeneralizedFit(
        model=model,
        method=method,
        theta=optimum.theta[: model.n_theta],
        sigma=1.0,
        beta=np.array(beta),
        beta_root=root,
        loglik=-0.5 * float(optimum.value),
        logposterior=None,
        optimum=optimum,
        dispersion=dispersion,
        information=information,
        nodes=approximation.count,
    )


def _judged(
    model: Model, approximation: Laplace, optimum: Optimum, beta: Array, root: Array, dispersion: float
) -> Optimum:
    """The optimum with what it means where an estimate runs off to infinity."""
    endless = _separated(model, approximation, beta, root)
    if endless:
        message = (
            f"the likelihood rises without end along {endless}: the responses are separated by it, and the estimate is where "
            "the search stopped. Leave it out, or join its levels"
        )
        return replace(optimum, converged=False, message=message)
    mu = means(LINKS[model.link], model.X @ beta + approximation.observed.offset)
    if model.family == "negativebinomial" and dispersion > NO_EXCESS * mu.max():
        others = optimum.free.copy()
        others[-1] = False
        g, H = optimum.gradient[others], optimum.hessian[np.ix_(others, others)]
        if float(g @ np.linalg.lstsq(H, g)[0]) < DECREMENT:
            message = (
                "converged; there is no overdispersion, alpha runs off to infinity, where the family is the Poisson"
            )
            return replace(optimum, converged=True, message=message)
    return optimum


def _separated(model: Model, approximation: Laplace, beta: Array, root: Array) -> str:
    """The coefficient along which hardly any information is left, or nothing."""
    X = model.X
    if not X.shape[1]:
        return ""
    spread = np.sqrt(np.mean(np.sum((X @ root.T) ** 2, axis=1)))  # standard error of η over the rows
    if np.isfinite(spread) and spread < ENDLESS:
        return ""
    reach = np.abs(beta) * np.sqrt(np.mean(X**2, axis=0))
    return model.design.fixed.names[int(reach.argmax())]
