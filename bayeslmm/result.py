"""PointFit and Posterior: the same questions under the same names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.conditional import conditional_covariances, conditional_modes
from bayeslmm.model import Model
from bayeslmm.optimise import Optimum

Array = NDArray[np.float64]


class Result(ABC):
    """What a fitted model answers, however it was fitted. Tables are built when asked for.

    Attributes
    ----------
    model : Model
    beta : ndarray (p,)
        Fixed coefficients.
    beta_covariance : ndarray (p, p)
        Their covariance.
    beta_sd : ndarray (p,)
        Their standard errors (posterior: standard deviations).
    sigma : float
        Residual standard deviation.
    """

    model: Model
    beta: Array
    beta_covariance: Array
    beta_sd: Array
    sigma: float

    @property
    @abstractmethod
    def group_sd(self) -> Mapping[str, Array]:
        """Standard deviations (k,) of the effects on each group, all its terms."""

    @property
    @abstractmethod
    def group_corr(self) -> Mapping[str, Array]:
        """Correlations (k, k) of the effects on each group, 0 between uncorrelated ones."""

    @property
    @abstractmethod
    def group_ranef(self) -> Mapping[str, Array]:
        """Effects (levels, k) of each group."""

    @property
    def has_residual(self) -> bool:
        """Whether the model has a residual variance: Gaussian models do."""
        return self.model.family == "gaussian"

    @property
    def fixef(self) -> pd.Series:
        """Fixed coefficients over their names."""
        return pd.Series(self.beta, index=self._coefficients, name="fixef")

    @property
    def se(self) -> pd.Series:
        """Standard errors (posterior: standard deviations) of the fixed coefficients."""
        return pd.Series(self.beta_sd, index=self._coefficients, name="se")

    @property
    def vcov(self) -> pd.DataFrame:
        """Covariance of the fixed coefficients."""
        return pd.DataFrame(self.beta_covariance, index=self._coefficients, columns=self._coefficients)

    @property
    def sd(self) -> dict[str, pd.Series]:
        """Standard deviations of the effects, by group."""
        return {g: pd.Series(v, index=self._effects(g), name="sd") for g, v in self.group_sd.items()}

    @property
    def corr(self) -> dict[str, pd.DataFrame]:
        """Correlation matrix of the effects, by group."""
        return {
            g: pd.DataFrame(v, index=self._effects(g), columns=self._effects(g)) for g, v in self.group_corr.items()
        }

    @property
    def varcorr(self) -> pd.DataFrame:
        """Variance components, tidy: group, effect, sd, variance, corr with the earlier effects of the group."""
        rows: list[dict[str, Any]] = []
        for group, sd in self.group_sd.items():
            names, corr = self.model.effects(group), self.group_corr[group]
            linked = set(self.model.pairs(group))
            for i, name in enumerate(names):
                earlier = tuple(float(corr[i, j]) for j in range(i) if (j, i) in linked)
                rows.append({"group": group, "effect": name, "sd": sd[i], "variance": sd[i] ** 2, "corr": earlier})
        if self.has_residual:
            rows.append({"group": "Residual", "effect": "", "sd": self.sigma, "variance": self.sigma**2, "corr": ()})
        return pd.DataFrame(rows, columns=["group", "effect", "sd", "variance", "corr"])

    @property
    def ranef(self) -> dict[str, pd.DataFrame]:
        """Random effects (conditional modes, posterior means), levels by effects, by group."""
        return {
            g: pd.DataFrame(v, index=pd.Index(self.model.levels(g), name=g), columns=self._effects(g))
            for g, v in self.group_ranef.items()
        }

    @property
    def fitted(self) -> pd.Series:
        """Fitted values with the random effects, for the rows used."""
        return pd.Series(self._linear_predictor(), index=self.model.design.rows, name="fitted")

    @property
    def residuals(self) -> pd.Series:
        """Response minus fitted values."""
        values = self.model.design.y - self._linear_predictor()
        return pd.Series(values, index=self.model.design.rows, name="residuals")

    @property
    def nobs(self) -> int:
        """Rows used."""
        return self.model.design.nobs

    @property
    def ngroups(self) -> dict[str, int]:
        """Levels of each grouping factor."""
        return {group: len(self.model.levels(group)) for group in self.model.groups}

    @abstractmethod
    def summary(self) -> Any:
        """A summary to print."""

    def plot(self, kind: str | None = None, **options: Any) -> Any:
        """Draw a figure of one kind: "groups", "caterpillar", "shrinkage", …; `bayeslmm.plot.draw` lists them.

        Parameters
        ----------
        kind : str, optional
            "groups" if not given, "residuals" where there are no groups.
        **options
            Of the figure: ``group="Subject"``.

        Returns
        -------
        Figure
        """
        from bayeslmm.plot import draw

        return draw(self, kind, **options)

    @property
    def _coefficients(self) -> pd.Index:
        return pd.Index(self.model.design.fixed.names, dtype=object)

    def _effects(self, group: str) -> pd.Index:
        return pd.Index(self.model.effects(group), dtype=object)

    def _linear_predictor(self) -> Array:
        design = self.model.design
        eta = design.fixed.X @ self.beta + (0.0 if design.offset is None else design.offset)
        for term, effects in zip(design.random, term_effects(self.model, self.group_ranef), strict=True):
            eta += np.einsum("nk,nk->n", term.columns, effects[term.codes])
        return np.asarray(eta)


def term_effects(model: Model, by_group: Mapping[str, Array]) -> list[Array]:
    """The columns (…, k) of each term of the design, from arrays whose last axis is a group's effects."""
    at = dict.fromkeys(model.groups, 0)
    parts = []
    for term in model.design.random:
        start = at[term.group]
        at[term.group] = start + len(term.effects)
        parts.append(by_group[term.group][..., start : at[term.group]])
    return parts


def natural_by_group(model: Model, theta: Array, sigma: float) -> tuple[dict[str, Array], dict[str, Array]]:
    """Standard deviations and correlation matrices of each group's effects at theta and sigma."""
    ends = np.cumsum([0] + [term.covariance.n_theta for term in model.terms])
    sd = {group: np.empty(len(model.effects(group))) for group in model.groups}
    corr = {group: np.eye(len(model.effects(group))) for group in model.groups}
    at = dict.fromkeys(model.groups, 0)
    own = {id(t): theta[a:b] for t, a, b in zip(model.terms, ends[:-1], ends[1:], strict=True)}
    for term in model.design.random:
        part = slice(at[term.group], at[term.group] + len(term.effects))
        at[term.group] = part.stop
        sd[term.group][part], corr[term.group][part, part] = term.covariance.natural(own[id(term)], sigma)
    return sd, corr


@dataclass(frozen=True, eq=False, repr=False)
class PointFit(Result):
    """A model fitted by REML, ML or MAP.

    Parameters
    ----------
    model : Model
        What was fitted.
    method : str
        "REML", "ML" or "MAP".
    theta : ndarray
        Entries of the relative factor, lme4's order.
    sigma : float
        Residual standard deviation.
    beta : ndarray (p,)
        Fixed coefficients.
    beta_root : ndarray (p, p)
        K with K'K their covariance given theta and sigma.
    loglik : float
        Log-likelihood (REML: restricted), full constants; for MAP the ML log-likelihood at the mode.
    logposterior : float or None
        Log posterior density of the natural parameters at the mode, for MAP.
    optimum : Optimum
        How the estimate was found.
    fixed : mapping
        Parameters held at given values.
    """

    model: Model
    method: str
    theta: Array
    sigma: float
    beta: Array
    beta_root: Array
    loglik: float
    logposterior: float | None
    optimum: Optimum
    fixed: Mapping[str, float] = field(default_factory=dict)

    @property
    def beta_covariance(self) -> Array:  # type: ignore[override]
        """Covariance of the coefficients (p, p); a variance beyond 1e308 is inf."""
        with np.errstate(over="ignore"):
            return np.asarray(self.beta_root.T @ self.beta_root)

    @property
    def beta_sd(self) -> Array:  # type: ignore[override]
        """Standard errors of the coefficients (p,), finite where their squares are not."""
        largest = np.abs(self.beta_root).max(initial=0.0) or 1.0
        return np.asarray(np.sqrt(np.sum((self.beta_root / largest) ** 2, axis=0)) * largest)

    @property
    def deviance(self) -> float:
        """−2 log-likelihood (REML: restricted)."""
        return -2.0 * self.loglik

    @property
    def df(self) -> int:
        """Number of estimated parameters: coefficients, theta and sigma."""
        return len(self.beta) + self.model.n_theta + 1 - len(self.fixed)

    @property
    def aic(self) -> float:
        """Akaike's criterion, −2 loglik + 2 df; NaN for MAP."""
        return float("nan") if self.method == "MAP" else self.deviance + 2.0 * self.df

    @property
    def bic(self) -> float:
        """Schwarz's criterion, −2 loglik + log(n) df; NaN for MAP."""
        return float("nan") if self.method == "MAP" else self.deviance + np.log(self.nobs) * self.df

    @property
    def converged(self) -> bool:
        """Whether the optimum is one: gradient gone, curvature positive, zeros confirmed."""
        return self.optimum.converged

    @property
    def message(self) -> str:
        """What the optimiser found, with what to try where it did not converge."""
        return self.optimum.message

    @cached_property
    def singular(self) -> bool:
        """Whether a variance is exactly 0 or a correlation matrix has lost rank."""
        return any((np.diag(lam) == 0).any() for lam in self.model.factors(self.theta))

    @cached_property
    def _natural(self) -> tuple[dict[str, Array], dict[str, Array]]:
        return natural_by_group(self.model, self.theta, self.sigma)

    @property
    def group_sd(self) -> Mapping[str, Array]:
        """Standard deviations (k,) of the effects on each group."""
        return self._natural[0]

    @property
    def group_corr(self) -> Mapping[str, Array]:
        """Correlations (k, k) of the effects on each group."""
        return self._natural[1]

    @cached_property
    def group_ranef(self) -> Mapping[str, Array]:
        """Conditional modes (levels, k) of each group."""
        return conditional_modes(self.model, self.theta, self.beta)

    @property
    def ranef_cov(self) -> dict[str, Array]:
        """Conditional covariances (levels, k, k) of each group's effects, given theta, sigma and beta."""
        return conditional_covariances(self.model, self.theta, self.sigma)

    def summary(self, df: str | None = "default") -> str:
        """A summary in the layout of lme4's, with tests of the coefficients.

        Parameters
        ----------
        df : {"default", "satterthwaite", "kenward-roger", "containment", "asymptotic"} or None
            How the degrees of freedom of the t tests are found, see `bayeslmm.coefficients`. By default Satterthwaite's
            for REML and ML, and z tests for MAP, with parameters held, without convergence, and with more than 500
            effects outside the largest group, where Satterthwaite's cost as much as the fit; the line under the
            coefficients says which. None leaves the tests out.

        Returns
        -------
        str

        Raises
        ------
        MethodError
            An unknown `df`, or one without meaning for this fit.

        Examples
        --------
        >>> import bayeslmm as bl
        >>> fit = bl.fit(bl.load("models/tablets_missing"))
        >>> print(fit.summary(df="kenward-roger").partition("Fixed effects:")[2].partition("Correlation")[0].strip())
        Estimate  Std. Error  t value     df         p
         Intercept     10.28386     0.09337  110.138  25.81  4.98e-36
         method[hplc]  -0.07211     0.08962   -0.805  11.70    0.4371
        df and Std. Error: Kenward and Roger
        """
        from bayeslmm.summary import point_summary

        return point_summary(self, df)

    def __repr__(self) -> str:
        return f"PointFit({self.model.formula.text!r}, {self.method}, loglik={self.loglik:.4f})"

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        from bayeslmm.summary import point_html

        return point_html(self)
