"""A model with one random effect per level → the exact F test of its variance, and the exact interval of σ_u²/σ²."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import brentq

from bayeslmm.errors import ExactFitError, MethodError
from bayeslmm.model import Model
from bayeslmm.result import Result
from bayeslmm.table import Page, frame_table

Array = NDArray[np.float64]
EXACT_FIT = (
    1e-13  # residual sum of squares, as a share of what the fixed part leaves, under which only rounding is left
)
DEPENDENT = 1e-10  # share of a fixed column beyond the random ones under which it is one of them


@dataclass(frozen=True, eq=False, repr=False)
class VarianceRatio:
    """Wald's pivot for γ = σ_u²/σ² in ``y = Xβ + Zu + e`` with one random effect per level.

    Parameters
    ----------
    model : Model
        Any fixed part, prior weights and offset; one random term of one effect.
    residual_ss : float
        Weighted residual sum of squares of y on X and Z together.
    df : tuple of int
        rank[X Z] − rank X, and n − rank[X Z].
    """

    model: Model
    residual_ss: float
    df: tuple[int, int]

    def pivot(self, gamma: float) -> float:
        """((S(γ) − SSE)/r)/(SSE/ν), S(γ) the generalised least-squares residual sum at W⁻¹ + γZZ'; F(r, ν) at the true γ."""
        products = self.model.products
        rss = self.model.gaussian.profile(np.array([np.sqrt(gamma)]), True).rss * products.y_scale**2
        return max(0.0, rss - self.residual_ss) / self.df[0] / (self.residual_ss / self.df[1])

    @property
    def statistic(self) -> float:
        """The pivot at γ = 0: the F statistic of the levels as fixed effects, after the fixed part."""
        return self.pivot(0.0)

    @property
    def p(self) -> float:
        """P(F(r, ν) ≥ F), the exact p-value of σ_u² = 0."""
        return float(stats.f.sf(self.statistic, *self.df))

    def confint(self, level: float = 0.95) -> pd.DataFrame:
        """Exact interval with equal tails: every γ ≥ 0 at which the pivot lies between its quantiles.

        Parameters
        ----------
        level : float
            Coverage. An interval from 0 to 0 says that every γ ≥ 0 is rejected.

        Returns
        -------
        DataFrame
            ``lower`` and ``upper`` of gamma and, where the effect is an intercept, icc = γ/(1 + γ).
        """
        if not 0.0 < level < 1.0:
            raise MethodError(f"level={level!r} must lie between 0 and 1")
        tail = 0.5 * (1.0 - level)
        bounds = np.array([self._inverse(float(stats.f.isf(q, *self.df))) for q in (tail, 1.0 - tail)])
        rows = {"gamma": bounds}
        if self.model.design.random[0].effects == ("Intercept",):
            rows["icc"] = bounds / (1.0 + bounds)
        return pd.DataFrame.from_dict(rows, orient="index", columns=["lower", "upper"])

    def _inverse(self, quantile: float) -> float:
        if self.pivot(0.0) <= quantile:
            return 0.0
        term = self.model.design.random[0]
        upper = 1.0 / float(np.mean(np.bincount(term.codes, term.columns[:, 0] ** 2)))
        while self.pivot(upper) > quantile:
            upper *= 4.0
        return float(brentq(lambda g: self.pivot(g) - quantile, 0.0, upper, xtol=1e-12 * upper, rtol=1e-12))

    def page(self) -> Page:
        """The test and the interval, to print or to show in a notebook."""
        test = pd.DataFrame({"F": [self.statistic], "p": [self.p]}, index=[f"F({self.df[0]}, {self.df[1]})"])
        tables = (
            (frame_table("Exact test of σ_u² = 0", test), ""),
            (frame_table("Exact 95 % interval", self.confint()), ""),
        )
        return Page(f"Variance ratio γ = σ_u²/σ²: {self.model.formula.text}", (), tables, ())

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"VarianceRatio({self.model.formula.text!r}, F={self.statistic:.4f}, p={self.p:.4f})"

    def _repr_html_(self) -> str:
        return self.page().html


def variance_ratio(source: Model | Result) -> VarianceRatio:
    """Test a random effect's variance exactly, and bound its ratio to the residual variance.

    Holds for any sizes of the groups and any fixed part, not only asymptotically (Wald 1947, Ann. Math. Stat. 18,
    586–589; Seely and El-Bassiouni 1983, Ann. Stat. 11, 197–201).

    Parameters
    ----------
    source : Model or result
        One random term with one effect: ``(1 | g)`` or ``(0 + x | g)``.

    Returns
    -------
    VarianceRatio
        ``.statistic``, ``.df``, ``.p``, ``.pivot(gamma)``, ``.confint(level)``.

    Raises
    ------
    MethodError
        Another random part, or levels that the fixed part already tells apart.
    ExactFitError
        Nothing is left to estimate σ² from.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> ratio = bl.variance_ratio(bl.load("models/penicillin_blocks"))
    >>> round(ratio.statistic, 4), ratio.df, round(ratio.p, 5)
    (3.5044, (4, 12), 0.04075)
    """
    model = source.model if isinstance(source, Result) else source
    if not isinstance(model, Model):
        raise MethodError(f"variance_ratio takes a model or a result; got {type(source).__name__}")
    model.require_gaussian()
    design = model.design
    if len(design.random) != 1 or len(design.random[0].effects) != 1:
        raise MethodError("the exact test is of one random term with one effect, (1 | g) or (0 + x | g)")
    ss, total, rank = _least_squares(model)
    df = rank - model.X.shape[1], design.nobs - rank
    if df[0] < 1:
        raise MethodError(
            f"the fixed part tells the levels of {design.random[0].group!r} apart already; nothing is left to test"
        )
    if df[1] < 1 or ss <= EXACT_FIT * total:
        raise ExactFitError(
            "fixed and random columns together reproduce the response; there is no residual to compare with"
        )
    return VarianceRatio(model, ss, df)


def _least_squares(model: Model) -> tuple[float, float, int]:
    """Residual sum of squares on [X Z], that on X, and the rank of [X Z]; the levels are taken out one by one."""
    design, term = model.design, model.design.random[0]
    root = np.ones(design.nobs) if design.weights is None else np.sqrt(design.weights)
    y = design.y if design.offset is None else design.y - design.offset
    z, codes, q = term.columns[:, 0] * root, term.codes, len(term.levels)
    Q = (
        np.linalg.qr(model.X / np.abs(model.X).max(axis=0) * root[:, None])[0]
        if model.X.shape[1]
        else np.empty((len(y), 0))
    )
    y = y * root
    for _ in range(2):
        y = y - Q @ (Q.T @ y)
    size = np.bincount(codes, z**2, q)
    used = size > 0

    def beyond(columns: Array) -> Array:
        slopes = (
            np.stack([np.bincount(codes, z * c, q) for c in columns.T], axis=1)
            if columns.shape[1]
            else np.empty((q, 0))
        )
        return columns - z[:, None] * (slopes / np.where(used, size, 1.0)[:, None])[codes]

    rest, left = beyond(beyond(Q)), beyond(beyond(y[:, None]))[:, 0]
    U, values, _ = np.linalg.svd(rest, full_matrices=False)
    basis = U[:, values > DEPENDENT]
    left = left - basis @ (basis.T @ left)
    return float(left @ left), float(y @ y), int(used.sum()) + basis.shape[1]
