"""Population averages: means of the response over the groups, and their slopes, with every parameter uncertain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.approximation import Point
from bayeslmm.averaging import whole as mean_over_effects
from bayeslmm.backtransform import transformation_of
from bayeslmm.columns import words_in
from bayeslmm.combinations import Combinations
from bayeslmm.degrees import Contrast
from bayeslmm.encoding import encode_again
from bayeslmm.errors import MethodError
from bayeslmm.exact.zeros import HURDLE
from bayeslmm.family import family_of, linked
from bayeslmm.grid import Grid, averaged, grid, rest_weights
from bayeslmm.model import Model
from bayeslmm.result import PointFit, Result, natural_by_group

Array = NDArray[np.float64]
# Step of the central differences in the parameters, in units of one or of the parameter.
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


def over_all(fit: Any) -> bool:
    """Whether a fit is the optimum of one criterion over all parameters."""
    return fit.method in ("Laplace", "AGHQ", "MAP", "ML", "REML") and not getattr(fit, "fast", True)


def parameter_root(fit: Any) -> Array:
    """K (r, P) with K'K the covariance of all parameters (θ, β, log φ, coefficients for φ and zeros), from the curvature.

    Parameters on a boundary or held do not vary, nor does a dispersion, or the coefficients for φ and zeros, that run off to
    infinity, where the likelihood has no curvature in them. NaN where the curvature is not positive definite in the others.

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
    if not over_all(fit):
        raise MethodError(
            "these standard errors carry the uncertainty of all parameters from one likelihood: "
            f'fit with "Laplace" or "AGHQ" and fast=False; this is {fit.method} of the {fit.model.family} family'
        )
    root = fit.parameter_root.copy()
    after = root[:, fit.model.n_theta + len(fit.beta) :]
    after[np.isnan(after)] = 0.0
    return np.asarray(root)


def point_of(model: Model, psi: Array) -> Point:
    """Parameters from one vector (θ, β, log φ where it is one number, coefficients for φ and zeros)."""
    m, p = model.n_theta, model.X.shape[1]
    rest, constant = psi[m + p :], model.dispersion is not None
    return Point(psi[:m], psi[m : m + p], float(rest[0]) if constant else 0.0, rest[int(constant) :])


def differentiated(value: Callable[[Point], Array], fit: Any) -> tuple[Array, Array]:
    """A function of the parameters at the estimates, and a root of its covariance by the delta method."""
    psi, root, model = fit.parameters, parameter_root(fit), fit.model
    slopes = []
    for i in range(len(psi)):
        step = STEP * max(1.0, abs(psi[i]))
        ahead, behind = (value(point_of(model, psi + side * step * np.eye(len(psi))[i])) for side in (1.0, -1.0))
        slopes.append((ahead - behind) / (2.0 * step))
    return value(point_of(model, psi)), np.column_stack(slopes) @ root.T


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

    def mean(rows: Rows, point: Point) -> Array:
        spread = variance(model, rows.groups, point.theta) if integrate else np.zeros(len(rows.X))
        return whole_mean(model, rows, offset, spread, point)

    if slope is None:
        cells = _encoded(whole, whole.cells)

        def value(point: Point) -> Array:
            over = np.einsum("gr,gr->g", share, mean(cells, point).reshape(share.shape))
            return linked(link, over)
    else:
        frames, parts = whole.around(slope)
        around = [_encoded(whole, frame) for frame in frames]

        def value(point: Point) -> Array:
            ends = [mean(rows, point) for rows in around]
            ends = ends if scale == "response" else [linked(link, end) for end in ends]
            slopes = sum(part * end for part, end in zip(parts, ends, strict=True))
            return np.einsum("gr,gr->g", share, np.asarray(slopes).reshape(share.shape))

    values, root = differentiated(value, result)
    transformation = transformation_of(model.formula.response, link) if scale == "response" and slope is None else None
    median: Combinations | None = linear
    if "zero" in model.design.further:
        options: dict[str, Any] = {"by": by, "df": df, "weights": weights, "at": at, "scale": scale}
        median = averages(result, names, **options, integrate=False) if integrate and slope is None else None
    return Averages(
        result, linear.rows, linear.offset, linear.labels, linear.df, linear.by,
        (*linear.notes, *_notes(result, scale, slope, integrate)), transformation, values, root, median,
    )  # fmt: skip


def whole_mean(model: Model, rows: Rows, offset: Array | float, spread: Array, point: Point) -> Array:
    """Mean of the responses of rows over effects of variance `spread` (m,), zeros of their own included."""
    stop = rows.dispersion.shape[1]
    aux = point.aux + rows.dispersion @ point.further[:stop]
    zeta = rows.zero @ point.further[stop:]
    family = family_of(model.family)
    return mean_over_effects(family, model.link, offset + rows.X @ point.beta, spread, aux, zeta).mean


def variance(model: Model, columns: Mapping[str, Array], theta: Array) -> Array:
    """z'Σz of rows, by the columns of each group."""
    sds, corrs = natural_by_group(model, theta, 1.0)
    parts = [
        np.einsum("ni,ij,nj->n", z, sds[g][:, None] * np.nan_to_num(corrs[g]) * sds[g], z) for g, z in columns.items()
    ]
    return np.asarray(sum(parts, np.zeros(len(next(iter(columns.values())))))) if parts else np.zeros(1)


class Rows(NamedTuple):
    """Columns of the fixed part, of each group's effects, and of the formulas for dispersion and zeros."""

    X: Array
    groups: Mapping[str, Array]
    dispersion: Array
    zero: Array


def _encoded(whole: Grid, frame: pd.DataFrame) -> Rows:
    """All columns of the model in the cells."""
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
    dispersion, zero = (model.design.encode_further(name, frame) for name in ("dispersion", "zero"))
    return Rows(whole.encoded(frame)[:, model.design.fixed.kept], columns, dispersion, zero)


def _notes(fit: PointFit, scale: str, slope: str | None, integrate: bool) -> list[str]:
    exact = fit.model.link in ("probit", "log") and family_of(fit.model.family).zeros != HURDLE
    what = f"{fit.model.link}({fit.model.formula.response})"
    notes = [f"Averaged over {', '.join(fit.model.groups)}{'' if exact else ' by quadrature'}."] if integrate else []
    notes += ["Random effects are 0."] if not integrate else []
    own = "zero" in fit.model.design.further
    notes += ["Means of all responses, zeros of their own included."] if own else []
    every = "all parameters" if fit.model.design.further else "θ and β"
    notes += [f"Standard errors carry the uncertainty of {every} (delta method)."]
    if slope is None and scale == "response":
        notes.append(
            f"Intervals are taken on the scale of {fit.model.link}"
            + ("; median is that of the groups, random effects 0." if integrate else ".")
        )
    elif scale == "link":
        notes.append(f"On the scale of {what} of the average.")
    return notes
