"""Population averages: means of the response over the groups, E g⁻¹(xβ + zu), and their slopes, with θ uncertain too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.averaging import averaged as mean_over_effects
from bayeslmm.backtransform import transformation_of
from bayeslmm.columns import words_in
from bayeslmm.combinations import Combinations
from bayeslmm.cumulative import DISTRIBUTIONS
from bayeslmm.degrees import Contrast
from bayeslmm.encoding import encode_again
from bayeslmm.errors import MethodError
from bayeslmm.family import linked
from bayeslmm.grid import Grid, averaged, grid, rest_weights
from bayeslmm.model import Model
from bayeslmm.result import PointFit, Result, natural_by_group

Array = NDArray[np.float64]
Rows = tuple[Array, dict[str, Array]]
# Step of the central differences in (θ, β), in units of one or of the parameter.
STEP = 1e-5
# Share of the largest eigenvalue below which a covariance of contrasts has lost a dimension.
RANK = 1e-10


@dataclass(frozen=True, eq=False)
class Averages(Combinations):
    """Averages over the groups, on the scale of the link or of the response.

    Parameters
    ----------
    values : ndarray (m,)
        Estimates.
    root : ndarray (m, r)
        Covariance root · root', by the delta method.
    linear : Combinations, optional
        The same averages of the linear predictor at random effects 0.
    """

    values: Array = field(default_factory=lambda: np.empty(0))
    root: Array = field(default_factory=lambda: np.empty((0, 0)))
    linear: Combinations | None = None

    def times(self, C: Array, labels: pd.Index, by: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Averages:
        """Combinations (q, m) of these averages."""
        rows = super().times(C, labels, by, notes).rows
        changed = {"rows": rows, "offset": C @ self.offset, "labels": labels, "by": by, "notes": notes}
        return replace(self, **changed, values=C @ self.values, root=C @ self.root, linear=None)

    @cached_property
    def estimate(self) -> Array:
        """Estimates (m,); NaN where not estimable."""
        return np.where(self.estimable, self.values, np.nan)

    @cached_property
    def covariance(self) -> Array:
        """Covariance (m, m)."""
        return np.asarray(self.root @ self.root.T)

    @cached_property
    def se(self) -> Array:
        """Standard errors (m,)."""
        return np.where(self.estimable, np.sqrt(np.sum(self.root**2, axis=1)), np.nan)

    @cached_property
    def degrees(self) -> Array:
        """Infinite degrees of freedom (m,); NaN where there is nothing to estimate."""
        return np.where(self.estimable, np.inf, np.nan)

    def joint(self, which: NDArray[np.intp]) -> Contrast | None:
        """Wald test that the estimable ones of some rows are all 0; None where none is."""
        used = [i for i in which if self.estimable[i]]
        if not used:
            return None
        value, V = self.values[used], self.covariance[np.ix_(used, used)]
        size, axes = np.linalg.eigh(V)
        kept = size > RANK * size[-1]
        F = float(np.sum((axes.T @ value)[kept] ** 2 / size[kept]) / kept.sum())
        return Contrast(value, V, int(kept.sum()), np.inf, F)


def parameter_root(fit: PointFit) -> Array:
    """K (r, m + p) with K'K the covariance of (θ, β), from the curvature of the likelihood in all parameters.

    Parameters on a boundary do not vary. NaN where the curvature is not positive definite.

    Parameters
    ----------
    fit : GeneralizedFit
        By Laplace's approximation or AGHQ.

    Returns
    -------
    ndarray

    Raises
    ------
    MethodError
        A fit whose optimum is not over θ and β together.
    """
    m, p = fit.model.n_theta, len(fit.beta)
    if fit.model.family == "gaussian" or fit.method not in ("Laplace", "AGHQ") or len(fit.optimum.theta) < m + p:
        raise MethodError(
            "averages over the groups carry the uncertainty of θ and β from one likelihood: "
            f'fit with "Laplace" or "AGHQ" and fast=False; this is {fit.method} of the {fit.model.family} family'
        )
    if fit.model.family not in DISTRIBUTIONS:
        raise MethodError(
            f"the mean of the {fit.model.family} family is not g⁻¹(η) alone, so that it is not averaged here; see bl.predict"
        )
    used = np.flatnonzero(fit.optimum.free)
    root = np.zeros((len(used), len(fit.optimum.theta)))
    try:
        L = np.linalg.cholesky(0.5 * fit.optimum.hessian[np.ix_(used, used)])
        root[:, used] = np.linalg.solve(L, np.eye(len(used)))
    except np.linalg.LinAlgError:
        root[:] = np.nan
    return root[:, : m + p]


def differentiated(value: Callable[[Array, Array], Array], fit: PointFit) -> tuple[Array, Array]:
    """A function of (θ, β) at the estimates, and a root of its covariance by the delta method."""
    psi, root = np.concatenate([fit.theta, fit.beta]), parameter_root(fit)
    m = len(fit.theta)
    slopes = []
    for i in range(len(psi)):
        step = STEP * max(1.0, abs(psi[i]))
        ends = [psi + side * step * np.eye(len(psi))[i] for side in (1.0, -1.0)]
        ahead, behind = (value(end[:m], end[m:]) for end in ends)
        slopes.append((ahead - behind) / (2.0 * step))
    return value(fit.theta, fit.beta), np.column_stack(slopes) @ root.T


def averages(
    result: Result,
    names: Sequence[str],
    *,
    by: Sequence[str] = (),
    df: str | None = None,
    weights: str = "equal",
    at: Mapping[str, Any] | None = None,
    scale: str = "link",
    slope: str | None = None,
    integrate: bool = True,
) -> Averages:
    """Means of the response, or slopes of them, over the grid and over the groups.

    Parameters
    ----------
    result : GeneralizedFit
    names, by, df, weights, at, scale, slope
        As for `grid.averaged`.
    integrate : bool
        Whether the random effects are integrated over; otherwise they are 0.

    Returns
    -------
    Averages

    Raises
    ------
    MethodError
        A Gaussian fit, whose means are the same, a posterior, or random effects of a variable that the grid has not.
    """
    if not isinstance(result, PointFit) or df not in (None, "asymptotic"):
        what = f"df={df!r}" if isinstance(result, PointFit) else f"a {type(result).__name__}"
        raise MethodError(f"averages over the groups are of generalized fits, with normal intervals; not for {what}")
    model, link = result.model, result.model.link
    if link == "identity":
        raise MethodError("with the identity link the average over the groups is the mean itself; leave groups out")
    shown = scale if slope is None else "link"
    linear = averaged(result, names, by=by, df=df, weights=weights, at=at, scale=shown, slope=slope)
    whole = grid(model, [*by, *names], at)
    share = rest_weights(whole, len(linear.labels), weights)
    offset = 0.0 if model.design.offset is None else float(np.mean(model.design.offset))

    def mean(rows: Rows, theta: Array, beta: Array) -> Array:
        spread = variance(model, rows[1], theta) if integrate else np.zeros(len(rows[0]))
        return mean_over_effects(link, offset + rows[0] @ beta, spread).mean

    if slope is None:
        cells = _encoded(whole, whole.cells)

        def value(theta: Array, beta: Array) -> Array:
            over = np.einsum("gr,gr->g", share, mean(cells, theta, beta).reshape(share.shape))
            return linked(link, over)
    else:
        frames, parts = whole.around(slope)
        around = [_encoded(whole, frame) for frame in frames]

        def value(theta: Array, beta: Array) -> Array:
            ends = [mean(rows, theta, beta) for rows in around]
            ends = ends if scale == "response" else [linked(link, end) for end in ends]
            slopes = sum(part * end for part, end in zip(parts, ends, strict=True))
            return np.einsum("gr,gr->g", share, np.asarray(slopes).reshape(share.shape))

    values, root = differentiated(value, result)
    transformation = transformation_of(model.formula.response, link) if scale == "response" and slope is None else None
    return Averages(
        result, linear.rows, linear.offset, linear.labels, linear.df, linear.by,
        (*linear.notes, *_notes(result, scale, slope, integrate)), transformation, values, root, linear,
    )  # fmt: skip


def variance(model: Model, columns: Mapping[str, Array], theta: Array) -> Array:
    """z'Σz of rows, by the columns of each group."""
    sds, corrs = natural_by_group(model, theta, 1.0)
    parts = [
        np.einsum("ni,ij,nj->n", z, sds[g][:, None] * np.nan_to_num(corrs[g]) * sds[g], z) for g, z in columns.items()
    ]
    return np.asarray(sum(parts, np.zeros(len(next(iter(columns.values())))))) if parts else np.zeros(1)


def _encoded(whole: Grid, frame: pd.DataFrame) -> Rows:
    """The kept columns of the fixed part, and of each group the random-effect columns, in the cells."""
    model = whole.model
    specs, random = model.design.specs, model.formula.random
    for part in random:
        absent = (words_in(part.effects) & set(specs["columns"])) - set(frame.columns)
        if absent:
            raise MethodError(
                f"the effects of {'/'.join(part.group)} vary with {sorted(absent)[0]!r}, which is not in the fixed part, so "
                'that the grid has no value of it; bl.predict(..., groups="new") averages at values that you give'
            )
    own = [encode_again(specs[part.effects], frame, model.formula) for part in random]
    columns = {
        group: np.column_stack([own[t] for t, term in enumerate(model.design.random) if term.group == group])
        for group in model.groups
    }
    return whole.encoded(frame)[:, model.design.fixed.kept], columns


def _notes(fit: PointFit, scale: str, slope: str | None, integrate: bool) -> list[str]:
    exact = fit.model.link in ("probit", "log")
    what = f"{fit.model.link}({fit.model.formula.response})"
    notes = [f"Averaged over {', '.join(fit.model.groups)}{'' if exact else ' by quadrature'}."] if integrate else []
    notes += ["Random effects are 0."] if not integrate else []
    notes += ["Standard errors carry the uncertainty of θ and β (delta method)."]
    if slope is None and scale == "response":
        notes.append(
            f"Intervals are taken on the scale of {fit.model.link}; median is that of the groups, random effects 0."
        )
    elif scale == "link":
        notes.append(f"On the scale of {what} of the average.")
    return notes
