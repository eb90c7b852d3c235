"""One grouping factor → what is known about it exactly: F test, intervals, closed forms, shrinkage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from bayeslmm.errors import DataError, ExactFitError, MethodError
from bayeslmm.model import Model
from bayeslmm.result import Result
from bayeslmm.table import Page, frame_table

Array = NDArray[np.float64]
Method = Literal["ANOVA", "ML", "REML"]
EXACT_FIT = 1e-13  # within-group sum of squares, as a share of the total, under which only rounding is left


@dataclass(frozen=True)
class Components:
    """Estimated variance components of a one-way layout.

    Parameters
    ----------
    method : {"ANOVA", "ML", "REML"}
    between, within : float
        σ_u² and σ². The ANOVA estimate of σ_u² is unbiased and may be negative; ML and REML then have 0.
    loglik : float
        Log-likelihood at the maximum (REML: restricted), full constants; NaN for ANOVA.
    """

    method: str
    between: float
    within: float
    loglik: float

    @property
    def gamma(self) -> float:
        """Signal-to-noise ratio γ = σ_u²/σ²."""
        return self.between / self.within

    @property
    def icc(self) -> float:
        """Intraclass correlation ρ = γ/(1 + γ)."""
        return self.between / (self.between + self.within)


@dataclass(frozen=True, eq=False, repr=False)
class OneWay:
    """A one-way layout ``y_ij = μ + u_i + e_ij``, through its sufficient statistics.

    Parameters
    ----------
    response, group : str
        Names.
    levels : tuple of str
        Groups, k of them.
    sizes : ndarray of int (k,)
        Observations n_i of each group.
    means : ndarray (k,)
        Means ȳ_i of each group.
    within_ss : float
        Sum of squares within groups, SSE.
    n_dropped : int
        Rows left out for missing values.
    """

    response: str
    group: str
    levels: tuple[str, ...]
    sizes: NDArray[np.int64]
    means: Array
    within_ss: float
    n_dropped: int = 0

    def __post_init__(self) -> None:
        if self.n_groups < 2:
            raise DataError(f"{self.group!r} has {self.n_groups} level; a variance between groups needs at least 2")
        if self.nobs <= self.n_groups:
            raise DataError(
                f"every level of {self.group!r} has one row, so nothing tells the variance within groups; "
                "some level needs at least 2"
            )
        if self.within_ss <= EXACT_FIT * (self.within_ss + self.between_ss):
            raise ExactFitError(
                f"{self.response!r} does not vary within the levels of {self.group!r}: σ² is 0 and γ undefined"
            )

    @property
    def n_groups(self) -> int:
        """Number of groups k."""
        return len(self.sizes)

    @property
    def nobs(self) -> int:
        """Number of observations N."""
        return int(self.sizes.sum())

    @property
    def balanced(self) -> bool:
        """Whether all groups have the same size."""
        return bool((self.sizes == self.sizes[0]).all())

    @property
    def mean_size(self) -> float:
        """n₀ = (N − Σn_i²/N)/(k − 1), for which E(MSB) = σ² + n₀σ_u²; n in the balanced case."""
        return float((self.nobs - (self.sizes**2).sum() / self.nobs) / (self.n_groups - 1))

    @property
    def df(self) -> tuple[int, int]:
        """Degrees of freedom (k − 1, N − k)."""
        return self.n_groups - 1, self.nobs - self.n_groups

    @cached_property
    def between_ss(self) -> float:
        """Sum of squares between groups, SSB."""
        return self._spread(0.0)

    @property
    def mean_squares(self) -> tuple[float, float]:
        """MSB and MSE."""
        return self.between_ss / self.df[0], self.within_ss / self.df[1]

    @property
    def statistic(self) -> float:
        """MSB/MSE."""
        return self.pivot(0.0)

    @property
    def p(self) -> float:
        """P(F(k − 1, N − k) ≥ F): the exact p-value of σ_u² = 0, balanced or not."""
        return float(stats.f.sf(self.statistic, *self.df))

    @property
    def table(self) -> pd.DataFrame:
        """The analysis of variance: ``SS``, ``df``, ``MS``, ``F``, ``p`` between, within and in total."""
        between, within = self.mean_squares
        rows = [
            (self.between_ss, self.df[0], between, self.statistic, self.p),
            (self.within_ss, self.df[1], within, np.nan, np.nan),
            (self.between_ss + self.within_ss, self.nobs - 1, np.nan, np.nan, np.nan),
        ]
        return pd.DataFrame(rows, index=["between", "within", "total"], columns=["SS", "df", "MS", "F", "p"])

    def mean(self, gamma: float = 0.0) -> float:
        """Best linear unbiased estimate of μ at a given γ: group means weighted by n_i/(1 + n_iγ)."""
        start = float(self.means[0])
        return start + float(np.average(self.means - start, weights=self.sizes / (1.0 + self.sizes * gamma)))

    def _spread(self, gamma: float) -> float:
        """Σ w_i (ȳ_i − μ̂)² with w_i = n_i/(1 + n_iγ)."""
        return float((self.sizes / (1.0 + self.sizes * gamma)) @ (self.means - self.mean(gamma)) ** 2)

    def pivot(self, gamma: float) -> float:
        """Wald's statistic at γ, distributed as F(k − 1, N − k) when γ is the true value.

        ``Σ w_i (ȳ_i − μ̂)² / (k − 1) / MSE`` with ``w_i = n_i/(1 + n_iγ)`` and μ̂ the mean with these weights
        (Wald 1940, Ann. Math. Stat. 11, 96–100); ``F/(1 + nγ)`` in the balanced case. It falls as γ grows.
        """
        return self._spread(gamma) / self.df[0] / self.mean_squares[1]

    def estimate(self, method: Method = "REML") -> Components:
        """The variance components in closed form.

        ``"ANOVA"``: σ̂² = MSE and σ̂_u² = (MSB − MSE)/n₀, unbiased, balanced or not, possibly negative; its intraclass
        correlation is (MSB − MSE)/(MSB + (n₀ − 1)MSE). ``"REML"`` and ``"ML"``, balanced only: σ̂² = MSE and
        σ̂_u² = (SSB/d − MSE)/n, d = k − 1 for REML and k for ML; where that is negative the maximum lies on the
        boundary, σ̂_u² = 0 and σ̂² = (SSB + SSE)/(N − 1), for ML (SSB + SSE)/N.

        Raises
        ------
        MethodError
            REML and ML of an unbalanced layout have no closed form.
        """
        if method == "ANOVA":
            between, within = self.mean_squares
            return Components(method, (between - within) / self.mean_size, within, np.nan)
        if method not in ("ML", "REML"):
            raise MethodError(f'method={method!r} is not known; use "ANOVA", "ML" or "REML"')
        if not self.balanced:
            raise MethodError(
                f"the groups have {self.sizes.min()} to {self.sizes.max()} rows, and {method} has a closed form only when "
                'all have the same number; use bl.fit, or method="ANOVA"'
            )
        return self._maximum(method)

    def _maximum(self, method: str) -> Components:
        k, n, N = self.n_groups, int(self.sizes[0]), self.nobs
        lost = int(method == "REML")
        between, within = self.between_ss / (k - lost), self.mean_squares[1]
        if between <= within:
            between = within = (self.between_ss + self.within_ss) / (N - lost)
        deviance = (N - k) * np.log(within) + (k - lost) * np.log(between) + (N - lost) * (np.log(2.0 * np.pi) + 1.0)
        deviance += lost * np.log(N)
        return Components(method, (between - within) / n, within, -0.5 * deviance)

    def groups(self, gamma: float | Method = "REML") -> pd.DataFrame:
        """Group by group: size, mean, the two shrinkage weights, BLUP and predicted mean.

        ``weight_overall`` = 1/(1 + n_iγ) weights the overall mean μ̂ and ``weight_group`` = n_iγ/(1 + n_iγ) the group's
        own; they add to 1. ``blup`` = weight_group (ȳ_i − μ̂), ``predicted`` = μ̂ + blup.

        Parameters
        ----------
        gamma : float or str
            γ itself, or the method of `estimate` that gives it.
        """
        value = self.estimate(gamma).gamma if isinstance(gamma, str) else float(gamma)
        if not 0.0 <= value < np.inf:
            raise MethodError(f"γ is {value:.4g}; shrinkage needs one that is at least 0 and finite, such as gamma=0.0")
        mean = self.mean(value)
        overall = 1.0 / (1.0 + self.sizes * value)
        blup = (1.0 - overall) * (self.means - mean)
        columns = {"n": self.sizes, "mean": self.means, "weight_overall": overall, "weight_group": 1.0 - overall}
        index = pd.Index(self.levels, name=self.group, dtype=object)
        return pd.DataFrame(columns | {"blup": blup, "predicted": mean + blup}, index=index)

    def confint(self, level: float = 0.95) -> pd.DataFrame:
        """Exact intervals with equal tails for γ, the intraclass correlation, σ, and μ where the layout is balanced.

        γ: all values at which `pivot` lies between the quantiles of F(k − 1, N − k), cut at 0; ρ = γ/(1 + γ). In the
        balanced case (F/F_{1−α/2} − 1)/n to (F/F_{α/2} − 1)/n. An interval from 0 to 0 says that every γ ≥ 0 is
        rejected: the groups differ less than chance alone makes them. σ by χ²(N − k), μ by t(k − 1).

        Parameters
        ----------
        level : float
            Coverage.

        Returns
        -------
        DataFrame
            ``lower`` and ``upper`` of gamma, icc, sigma and, when balanced, mean.
        """
        if not 0.0 < level < 1.0:
            raise MethodError(f"level={level!r} must lie between 0 and 1")
        tail = 0.5 * (1.0 - level)
        lower, upper = (self._inverse(float(stats.f.isf(q, *self.df))) for q in (tail, 1.0 - tail))
        chi2 = stats.chi2.isf([tail, 1.0 - tail], self.df[1])
        sigma = np.sqrt(self.within_ss / chi2)
        rows = {"gamma": (lower, upper), "icc": (lower / (1 + lower), upper / (1 + upper)), "sigma": tuple(sigma)}
        if self.balanced:
            reach = float(stats.t.isf(tail, self.df[0])) * np.sqrt(self.mean_squares[0] / self.nobs)
            rows["mean"] = (self.mean() - reach, self.mean() + reach)
        return pd.DataFrame.from_dict(rows, orient="index", columns=["lower", "upper"])

    def _inverse(self, quantile: float) -> float:
        """The γ ≥ 0 at which the pivot is a quantile, 0 where it is below it everywhere."""
        if self.pivot(0.0) <= quantile:
            return 0.0
        # w_i < 1/γ, so the pivot is below this spread over γ
        spread = float(((self.means - self.means.mean()) ** 2).sum()) / self.df[0] / self.mean_squares[1]
        return float(brentq(lambda g: self.pivot(g) - quantile, 0.0, 2.0 * spread / quantile, xtol=1e-300, rtol=1e-14))

    def page(self) -> Page:
        """Tables and remarks, to print or to show in a notebook."""
        shown = self.table
        shown["df"] = shown["df"].astype(str)
        methods: list[Method] = ["ANOVA", "REML", "ML"] if self.balanced else ["ANOVA"]
        found = [self.estimate(method) for method in methods]
        columns = {"σ_u²": "between", "σ²": "within", "γ": "gamma", "ICC": "icc"}
        frame = pd.DataFrame({name: [getattr(c, at) for c in found] for name, at in columns.items()}, index=methods)
        size = f"{self.sizes[0]} rows each" if self.balanced else f"{self.sizes.min()} to {self.sizes.max()} rows each"
        heading = f"One-way layout: {self.response} by {self.group} ({self.n_groups} groups, {size})"
        tables = (frame_table("Analysis of variance", shown), "p: exact test of σ_u² = 0")
        intervals = frame_table("Exact 95 % intervals", self.confint())
        return Page(heading, (), (tables, (frame_table("Estimates", frame), ""), (intervals, "")), self._remarks())

    def _remarks(self) -> tuple[str, ...]:
        said = []
        if self.n_dropped:
            said.append(f"{self.n_dropped} row{'s' if self.n_dropped > 1 else ''} dropped: missing values.")
        if not self.balanced:
            said.append("Groups of different sizes: REML and ML have no closed form; bl.fit finds them.")
        if self.statistic < 1.0:
            said.append("The groups differ less than by chance (F < 1): the ANOVA estimate of σ_u² is negative.")
        if self.confint().loc["gamma", "upper"] == 0.0:
            said.append(
                "The interval for γ is 0 to 0: every γ ≥ 0 is rejected at its level. Are the rows in a group alike?"
            )
        return tuple(said)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return (
            f"OneWay({self.response} by {self.group}, {self.n_groups} groups, F={self.statistic:.4f}, p={self.p:.4f})"
        )

    def _repr_html_(self) -> str:
        return self.page().html


def oneway(source: Any, groups: Any = None, data: Any = None) -> OneWay:
    """Analyse a one-way layout exactly.

    Parameters
    ----------
    source : array, str, Model or result
        The response: an array, or the name of a column of `data`. Or a model ``y ~ 1 + (1 | g)``, or its fit.
    groups : array or str
        The group of each row, or the name of its column.
    data : table, optional
        Where names refer to.

    Returns
    -------
    OneWay
        ``.table``, ``.statistic``, ``.p``, ``.estimate(method)``, ``.confint(level)``, ``.groups(gamma)``.

    Raises
    ------
    MethodError
        A model that is not a one-way layout.
    DataError, ExactFitError
        Fewer than two groups, no group with two rows, or no variation within groups.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> wool = bl.oneway(bl.load("models/wool"))
    >>> round(wool.statistic, 5), round(wool.p, 5), round(wool.estimate("ML").between, 6)
    (1.75603, 0.15734, 0.790663)
    """
    design = _model(source, groups, data).design
    term = design.random[0]
    y = design.y if design.offset is None else design.y - design.offset
    sizes = np.bincount(term.codes, minlength=len(term.levels))
    start = float(y[0])
    means = np.bincount(term.codes, y - start) / sizes
    residual = y - start - means[term.codes]
    rest = np.bincount(term.codes, residual) / sizes  # rounding of the means
    within = float(((residual - rest[term.codes]) ** 2).sum())
    names = design.response.strip("`"), term.group, term.levels
    return OneWay(*names, sizes, start + means + rest, within, design.n_dropped)


def _model(source: Any, groups: Any, data: Any) -> Model:
    """The one-way model meant by the arguments."""
    if isinstance(source, Result | Model):
        if groups is not None or data is not None:
            raise MethodError("a model has its own groups and data; leave groups= and data= out")
        return _checked(source if isinstance(source, Model) else source.model)
    if groups is None:
        raise MethodError("groups= is missing: the group of each row, or the name of its column")
    if isinstance(source, str) != isinstance(groups, str):
        raise MethodError("give the response and the groups both as names of columns or both as arrays")
    if isinstance(source, str):
        if data is None:
            raise MethodError(f"data= is missing: the table with the columns {source!r} and {groups!r}")
        return Model(f"`{source}` ~ 1 + (1 | `{groups}`)", data)
    if data is not None:
        raise MethodError("data= is for names of columns; with arrays leave it out")
    return Model("y ~ 1 + (1 | group)", {"y": source, "group": groups})


def _checked(model: Model) -> Model:
    design = model.design
    if model.family != "gaussian":
        raise MethodError(f"a one-way layout has a Gaussian response; this one is {model.family}")
    if len(design.random) != 1 or design.random[0].effects != ("Intercept",) or design.fixed.names != ("Intercept",):
        raise MethodError(f"{model.formula.text!r} is not a one-way layout, y ~ 1 + (1 | g)")
    if design.weights is not None:
        raise MethodError("a one-way layout has equal variances within groups; this model has weights=")
    return model
