"""Generalized linear mixed models: estimates by Laplace's approximation, and what such a fit answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import block_diag
from scipy.special import expit

from bayeslmm.approximation import NOTHING, Laplace, Point, Quadrature
from bayeslmm.columns import nrows
from bayeslmm.cumulative import distribution
from bayeslmm.endless import curvature_root, judged, settled
from bayeslmm.errors import MethodError
from bayeslmm.exact.densities import means
from bayeslmm.exact.factor import times_lambda
from bayeslmm.family import HETEROSCEDASTIC, LINKS, family_of
from bayeslmm.generalized_page import page_of
from bayeslmm.generalized_search import (
    NODES,
    Found,
    centred,
    check_options,
    criterion,
    lower,
    searched,
    spread,
    whole,
)
from bayeslmm.model import Model
from bayeslmm.natural_priors import NaturalPriors
from bayeslmm.optimise import approach, minimise
from bayeslmm.reml import Restricted
from bayeslmm.restriction import Restriction
from bayeslmm.result import natural_by_group
from bayeslmm.second import SecondParameters
from bayeslmm.table import Page

Array = NDArray[np.float64]
# What methods maximise besides the likelihood.
ADDED: dict[str, Callable[[Laplace], NaturalPriors | Restricted]] = {"MAP": NaturalPriors, "REML": Restricted}


@dataclass(frozen=True, eq=False, repr=False)
class GeneralizedFit(SecondParameters):
    """A generalized linear mixed model at the maximum of its approximate likelihood, or of its posterior density (MAP).

    Parameters
    ----------
    dispersion : float
        The family's dispersion parameter, NaN where it has none.
    information : str
        "observed" or "expected" curvature in the approximation.
    nodes : int
        Quadrature nodes per dimension; 1 is Laplace's approximation.
    further : ndarray
        Coefficients of the formulas for dispersion and zeros, one after the other, or log ν of the t family; of ordered
        categories the first threshold and the logs of the steps to the next ones.
    """

    dispersion: float = float("nan")
    information: str = "observed"
    nodes: int = 1
    further: Array = field(default_factory=lambda: NOTHING)

    @property
    def further_fixef(self) -> dict[str, pd.DataFrame]:
        """Coefficients of the formulas for "dispersion", "nu" (of their logs) and "zero" (of its logit), estimate and se."""
        if not self.model.design.further:
            return {}
        se = np.linalg.norm(self.parameter_root[:, self.parameter_root.shape[1] - len(self.further) :], axis=0)
        se = np.where(se > 0, se, np.nan)  # 0 of what is held, or stands at a limit
        found = {}
        for name, part in self._further_places.items():
            columns = {"estimate": self.further[part], "se": se[part]}
            found[name] = pd.DataFrame(columns, index=pd.Index(self.model.design.further[name].names, dtype=object))
        return found

    @property
    def _further_places(self) -> dict[str, slice]:
        """Where the coefficients of each formula stand in `further`."""
        stops = np.cumsum([0, *(len(block.names) for block in self.model.design.further.values())])
        return {name: slice(stops[i], stops[i + 1]) for i, name in enumerate(self.model.design.further)}

    def zero_probability_at(self, data: Any = None) -> Array:
        """Probability of each row of a zero of its own, of the rows of the fit or of new ones; 0 in families without."""
        return self._further_at("zero", data, expit, 0.0)

    def dispersions_at(self, data: Any = None) -> Array:
        """Dispersion of each row, of the rows of the fit or of new ones; NaN in families without."""
        return self._further_at("dispersion", data, np.exp, self.dispersion)

    def _further_at(self, name: str, data: Any, inverse: Callable[[Array], Array], constant: float) -> Array:
        design = self.model.design
        if name not in design.further:
            return np.full(self.nobs if data is None else nrows(data), constant)
        return np.asarray(inverse(design.further_columns(name, data) @ self.further[self._further_places[name]]))

    @property
    def dispersed(self) -> bool:
        """Whether there is a dispersion parameter that is one number."""
        return bool(np.isfinite(self.dispersion))

    @property
    def df(self) -> int:
        """Number of estimated parameters: coefficients, theta and dispersion, less those held."""
        return len(self.beta) + self.model.n_theta + int(self.dispersed) + len(self.further) - len(self.fixed)

    @property
    def fast(self) -> bool:
        """Whether β was taken at the mode together with the effects, not searched for."""
        return not self.fixed and len(self.optimum.theta) < self.model.n_theta + len(self.beta)

    @property
    def options(self) -> dict[str, Any]:
        """What `bl.fit` is told besides the method, to fit another model or response in the same way."""
        own = {} if self.nodes == 1 else {"nodes": self.nodes}
        return own | {"information": self.information, "fast": self.fast}

    @property
    def parameters(self) -> Array:
        """θ, β, log dispersion where it is one number, and the further coefficients, in one vector."""
        return np.concatenate([self.theta, self.beta, [self.point.aux] * self.dispersed, self.further])

    @cached_property
    def parameter_root(self) -> Array:  # type: ignore[override]
        """K (r, m) with K'K the covariance of `parameters`, without β in a fast fit.

        From the curvature of the criterion at its optimum; parameters on a boundary or held do not vary, those that
        run off to infinity are NaN.
        """
        if self.fixed:
            return spread(Restriction(self.model, self.dispersed, self.fixed), self.optimum)
        aux = len(self.optimum.theta) - len(self.further) - int(self.dispersed)
        return curvature_root(self.optimum, aux if self.dispersed else None, aux)

    @property
    def point(self) -> Point:
        """The estimates in the parameters of Laplace's approximation."""
        aux = float(np.log(self.dispersion)) if self.dispersed else 0.0
        return Point(self.theta, self.beta, aux, self.further)

    @cached_property
    def _at_mode(self) -> tuple[Array, Mapping[str, Array], Mapping[str, Array]]:
        """The linear predictor, and the effects' modes and conditional covariances by group."""
        approximation = Laplace(self.model, self.information)
        mode = approximation.mode(self.point)
        scaled = times_lambda(approximation.system, approximation.lam(self.theta), mode.b)[:, 0]
        modes, spread = {}, {}
        blocks = approximation.conditional_blocks(self.point, mode)
        for f, factor in enumerate(self.model.structure.factors):
            rows = self.model.structure.rows(f)[:, None] + np.arange(factor.width)
            size = approximation.effect_scale[f]
            modes[factor.group] = scaled[rows] / size
            spread[factor.group] = blocks[f] / np.outer(size, size)
        return mode.eta, modes, spread

    @cached_property
    def _natural(self) -> tuple[dict[str, Array], dict[str, Array]]:
        return natural_by_group(self.model, self.theta, 1.0 if np.isnan(self.sigma) else self.sigma)

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

    @cached_property
    def _moments(self) -> tuple[Array, Array]:
        """Mean and variance of each response given the effects."""
        self.require_mean()
        design, mu = self.model.design, means(LINKS[self.model.link], self.linear_predictor.to_numpy())
        trials = 1.0 if design.trials is None else design.trials
        return family_of(self.model.family).moments(mu, self.dispersions_at(), trials, self.second)

    @property
    def second(self) -> Array:
        """What a row has besides mean and dispersion: the probability of a zero of its own, or ν; the thresholds of all."""
        if self.model.design.ordered:
            return self.tau
        return np.full(self.nobs, self.nu) if "nu" in self.model.design.further else self.zero_probability_at()

    @property
    def given_effects(self) -> Any:
        """Distribution of each response (successes, or the category's place from 0) given the effects, with ``cdf``."""
        design, eta = self.model.design, self.linear_predictor.to_numpy()
        mu = eta if design.ordered else means(LINKS[self.model.link], eta)
        phi = self.dispersions_at() if "dispersion" in design.further else self.dispersion
        if self.model.family == HETEROSCEDASTIC and design.weights is not None:
            phi = phi / np.sqrt(design.weights)
        trials = 1.0 if design.trials is None else design.trials
        return distribution(self.model.family, mu, phi, trials, self.second, self.model.link)

    @property
    def fitted(self) -> pd.Series:
        """Means of the response given the effects; of a binomial response the share of successes."""
        self.require_mean()
        return pd.Series(self._moments[0], index=self.model.design.rows, name="fitted")

    @property
    def residuals(self) -> pd.Series:
        """Response (share of successes) minus fitted mean."""
        trials = self.model.design.trials
        share = self.model.design.y / (1.0 if trials is None else trials)
        return pd.Series(share - self.fitted.to_numpy(), index=self.model.design.rows, name="residuals")

    @cached_property
    def pearson_residuals(self) -> pd.Series:
        """Residuals divided by the standard deviation of the response given the effects."""
        design = self.model.design
        variance = self._moments[1] / (1.0 if design.weights is None else design.weights)
        residuals = self.residuals.to_numpy()
        shares = np.divide(residuals, np.sqrt(variance), out=np.zeros_like(residuals), where=variance > 0)
        return pd.Series(shares, index=design.rows, name="pearson_residuals")

    def page(self) -> Page:
        """The summary, to print or to show in a notebook."""
        return page_of(self)

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
    fixed: Mapping[str, float] | None = None,
) -> GeneralizedFit:
    """Estimate a generalized linear mixed model.

    Parameters
    ----------
    model : Model
        Any family but the Gaussian.
    method : {"Laplace", "AGHQ", "MAP", "REML"}
        How the random effects are integrated out; MAP maximises the posterior density of sd, correlations, dispersion and
        β without Jacobian, by Laplace's approximation or, with `nodes`, by quadrature; REML, of a Gaussian model with a
        formula for σ, the likelihood with β integrated out over a flat prior.
    start : ndarray, optional
        Theta to start from.
    nodes : int
        For "AGHQ" and "MAP": quadrature nodes per dimension, for "AGHQ" 11 if not given.
    information : {"observed", "expected"}
        Curvature of the log density of the responses in log|M|: observed, as glmmTMB and the mathematics have it, or
        expected, as lme4 has it where the link is not canonical.
    fast : bool
        Take β at the mode together with the effects (lme4's nAGQ = 0): quicker, and further from the likelihood's maximum.
    fixed : mapping, optional
        Parameters held at a value, by public name.

    Returns
    -------
    GeneralizedFit

    Raises
    ------
    MethodError
        An option that has no meaning for this model.
    """
    check_options(model, method, nodes, information, fast, fixed)
    rough = Laplace(model, information, joint=True)
    beta, aux, R, _ = rough.start()
    rough.beta = beta
    has, m = int(rough.has_dispersion), model.n_theta
    covariances = [term.covariance for term in model.terms]
    size = float(np.exp(aux)) if family_of(model.family).plain in ("gaussian", "t") else 1.0  # Λ is absolute
    theta = size * model.theta_start if start is None else model.checked_theta(start)
    further, unit = rough.further_start(aux)
    begin = np.concatenate([theta, [aux] * has, further])
    basis = block_diag(size * model.theta_basis, np.eye(has), unit)
    middle = centred(rough)
    if fast:
        first = settled(rough, minimise(criterion(rough), begin, covariances, basis), covariances, basis)
        x = np.concatenate([first.theta[:m], rough.beta, first.theta[m:]])
        return _result(
            rough, Found(first, x, _given_theta(rough, first.theta), m if has else None), method, information
        )
    nodes = nodes or (NODES if method == "AGHQ" else None)
    full = Quadrature(model, information, nodes) if nodes else Laplace(model, information)
    after = m + full.p
    scale = block_diag(size * model.theta_basis, np.linalg.inv(R), np.eye(has), unit)
    if full.n_thresholds:
        scale[after] += middle @ scale[m:after]
    if fixed or method in ADDED:
        added, to = ADDED[method](full) if method in ADDED else None, Restriction(model, bool(has), fixed or {})
        begin = begin if fixed or method == "MAP" else approach(criterion(rough), begin, covariances, basis)
        return _result(full, searched(full, to, whole(rough, begin, middle), scale, added), method, information)
    x = whole(rough, approach(criterion(rough), begin, covariances, basis), middle)
    full.b = rough.b
    optimum = minimise(criterion(full), x, covariances, scale, near=True)
    if start is not None or not optimum.free[:m].all():
        optimum = lower(full, optimum, theta, covariances, scale)
    optimum = settled(full, optimum, covariances, scale)
    root = curvature_root(optimum, after if has else None, after)
    return _result(full, Found(optimum, optimum.theta, root, after if has else None), method, information)


def _given_theta(approximation: Laplace, x: Array) -> Array:
    """K (p, m + p) with K'K the covariance of (θ, β), θ taken for known."""
    precision = approximation.coefficient_precision(approximation.point(x))
    root = np.linalg.inv(np.linalg.cholesky(precision))
    return np.hstack([np.zeros((len(root), approximation.model.n_theta)), root])


def _result(approximation: Laplace, found: Found, method: str, information: str) -> GeneralizedFit:
    model, m = approximation.model, approximation.model.n_theta
    beta, root = found.x[m : m + approximation.p], found.root[:, m : m + approximation.p]
    after = found.x[m + approximation.p :]
    dispersed = approximation.has_dispersion
    dispersion = float(np.exp(after[0])) if dispersed else float("nan")
    posterior = -0.5 * float(found.optimum.value) if method == "MAP" else None
    exact = method == "Laplace" and model.family == HETEROSCEDASTIC
    return GeneralizedFit(
        model=model,
        method="ML" if exact else method,
        theta=found.x[:m],
        sigma=float("nan") if model.family == HETEROSCEDASTIC else 1.0,  # which has one for each row
        beta=np.array(beta),
        beta_root=root,
        loglik=-0.5 * float(found.optimum.value if posterior is None else criterion(approximation)(found.x)[0]),
        logposterior=posterior,
        optimum=judged(model, approximation, found.optimum, beta, root, after, found.aux),
        fixed=found.held,
        dispersion=dispersion,
        information=information,
        nodes=approximation.count,
        further=after[int(dispersed) :],
    )
