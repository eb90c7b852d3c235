"""Figures of random effects: what pooling does to them, how they go together, whether they look normal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeslmm.errors import MethodError
from bayeslmm.plot.results import MOST_NAMED, effect_intervals, group_of
from bayeslmm.plot.style import COLOURS, GREY, blank, grid, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayeslmm.result import Result

Array = NDArray[np.float64]
MOST_ARROWS = 200
MOST_LABELLED = 8
MEDIAN_RADIUS, RADIUS_95 = 1.1774100225154747, 2.447746830680816  # √χ²₂ quantiles at 0.5 and 0.95
CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 121)), np.sin(np.linspace(0, 2 * np.pi, 121))])


def shrinkage(result: Result, group: str | None = None, effects: Sequence[str] | None = None) -> Figure:
    """Coefficients of each level from its own rows alone (no pooling), and where partial pooling moves them.

    The own estimates are least squares, in the level's rows, of what the rest of the model leaves: the response minus
    the other coefficients and the effects of other groups. One effect is drawn along rows (one against the other where
    there are more than 60 levels), two in their plane, with the 50 % and 95 % regions of the estimated distribution of
    the levels.

    Parameters
    ----------
    result : PointFit or Posterior
        What to draw.
    group : str, optional
        Grouping factor; the first one.
    effects : sequence of str, optional
        One or two of its effects; the first two.

    Returns
    -------
    Figure

    Raises
    ------
    MethodError
        The model has no such group or effect, or none at all.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> from bayeslmm import plot
    >>> figure = plot.shrinkage(bl.fit(bl.load("models/sleepstudy")))
    >>> figure.axes[0].get_xlabel()
    'Intercept'
    """
    group = group_of(result.model, group)
    at = _positions(result.model.effects(group), effects, group)
    own, centre = own_estimates(result, group)
    pooled = centre + np.asarray(result.group_ranef[group])
    settled = np.isfinite(own).all(axis=1)
    names = [result.model.effects(group)[k] for k in at]
    levels = np.array(result.model.levels(group))
    with style():
        if len(at) == 2:
            figure = blank(6.4, 5.4)
            ax = figure.subplots()
            covariance = _covariance(result, group)[np.ix_(at, at)]
            _plane(ax, own[:, at], pooled[:, at], centre[at], covariance, levels)
            ax.set(xlabel=names[0], ylabel=names[1])
        elif len(levels) <= MOST_NAMED:
            figure = blank(6.0, max(2.4, 0.19 * len(levels) + 1.3))
            ax = figure.subplots()
            _rows(ax, own[:, at[0]], pooled[:, at[0]], float(centre[at[0]]), levels)
            ax.set(xlabel=f"{names[0]} of the level", ylabel=group)
        else:
            figure = blank(5.4, 4.8)
            ax = figure.subplots()
            _against(ax, own[:, at[0]], pooled[:, at[0]], float(centre[at[0]]))
            ax.set(xlabel=f"{names[0]}, no pooling", ylabel=f"{names[0]}, partial pooling")
        missing = int((~settled).sum())
        some = f"; {missing} of {len(levels)} have too few rows for an estimate of their own" if missing else ""
        ax.set_title(f"{group}: {len(levels)} levels{some}", loc="left")
        handles, labels = ax.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, handletextpad=0.4)
    return figure


def own_estimates(result: Any, group: str) -> tuple[Array, Array]:
    """Least-squares coefficients (levels, k) of each level's own rows, NaN where these do not settle them, and the
    population's (k,)."""  # noqa: D205, D209
    design = result.model.design
    if result.model.family != "gaussian":
        raise MethodError(
            "levels have least-squares estimates of their own in Gaussian models of one σ only; use caterpillar"
        )
    terms = [term for term in design.random if term.group == group]
    columns, codes = np.column_stack([term.columns for term in terms]), terms[0].codes
    centre = np.array(
        [_coefficient(result, *pair) for pair in zip(result.model.effects(group), columns.T, strict=True)]
    )
    ranef = np.asarray(result.group_ranef[group])
    left = result.residuals.to_numpy() + np.einsum("nk,nk->n", columns, ranef[codes] + centre)
    root = np.ones(len(left)) if design.weights is None else np.sqrt(design.weights)
    own = np.full(ranef.shape, np.nan)
    order = np.argsort(codes, kind="stable")
    for rows in np.split(order, np.cumsum(np.bincount(codes, minlength=len(own)))[:-1]):
        if len(rows):
            found, _, rank, _ = np.linalg.lstsq(columns[rows] * root[rows, None], left[rows] * root[rows])
            own[codes[rows[0]]] = found if rank == columns.shape[1] else np.nan
    return own, centre


def _coefficient(result: Any, effect: str, column: Array) -> float:
    """The fixed coefficient of the same column; 0 where the fixed part has none."""
    fixed = result.model.design.fixed
    same = [j for j, name in enumerate(fixed.names) if name == effect and np.array_equal(fixed.X[:, j], column)]
    return float(result.beta[same[0]]) if same else 0.0


def _positions(known: Sequence[str], effects: Sequence[str] | None, group: str) -> list[int]:
    wanted = list(known[:2]) if effects is None else [effects] if isinstance(effects, str) else list(effects)
    unknown = [effect for effect in wanted if effect not in known]
    if unknown or not 1 <= len(wanted) <= 2:
        which = f"no effect {unknown[0]!r}" if unknown else f"{len(wanted)} effects to draw, one or two are drawn"
        raise MethodError(f"{group!r}: {which}; its effects are {', '.join(known)}")
    return [list(known).index(effect) for effect in wanted]


def _covariance(result: Any, group: str) -> Array:
    """Covariance (k, k) of a level's effects."""
    sd = np.asarray(result.group_sd[group])
    return np.asarray(sd[:, None] * result.group_corr[group] * sd)


def ellipse(centre: Array, covariance: Array, radius: float) -> Array:
    """Points (2, m) of {x : (x − centre)' covariance⁻¹ (x − centre) = radius²}; a segment where it is singular."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))  # rounding may leave −1e-17 of a variance that is 0
    return np.asarray(centre[:, None] + radius * root @ CIRCLE)


def _plane(ax: Axes, own: Array, pooled: Array, centre: Array, covariance: Array, levels: NDArray[Any]) -> None:
    for radius, dashes in ((MEDIAN_RADIUS, "-"), (RADIUS_95, "--")):
        ax.plot(*ellipse(centre, covariance, radius), color=GREY, linewidth=0.8, linestyle=dashes)
    drawn = np.isfinite(own).all(axis=1)
    _arrows(ax, own[drawn], pooled[drawn])
    size = 5.0 if len(own) <= MOST_ARROWS else 2.0
    ax.plot(*own.T, "o", color=COLOURS[1], markerfacecolor="none", markersize=size, label="own rows (no pooling)")
    ax.plot(*pooled.T, "o", color=COLOURS[0], markersize=size, label="partial pooling")
    ax.plot(*centre, "X", color=COLOURS[2], markersize=10, label="population")
    ax.margins(0.08)
    _name_farthest(ax, own, pooled, levels)


def _name_farthest(ax: Axes, own: Array, pooled: Array, levels: NDArray[Any]) -> None:
    """Name the levels that pooling moves farthest, where their own estimate is, one way or the other to stay clear."""
    spread = np.nanstd(own, axis=0)
    spread[spread == 0] = 1.0
    moved = np.nan_to_num(np.linalg.norm((own - pooled) / spread, axis=1))
    for level in np.argsort(-moved)[: min(MOST_LABELLED, len(levels))]:
        away = np.sign(own[level] - pooled[level])
        ax.annotate(
            str(levels[level])[:12],
            own[level],
            xytext=(5 * away[0], 3 * away[1]),
            textcoords="offset points",
            size=8,
            ha="left" if away[0] > 0 else "right",
            va="bottom" if away[1] > 0 else "top",
        )


def _arrows(ax: Axes, start: Array, stop: Array) -> None:
    from matplotlib.collections import LineCollection

    if len(start) > MOST_ARROWS:
        ax.add_collection(LineCollection(list(np.stack([start, stop], 1)), colors=GREY, linewidths=0.4, alpha=0.4))
        return
    look = {"arrowstyle": "-|>", "color": GREY, "linewidth": 0.9, "shrinkA": 2, "shrinkB": 2, "mutation_scale": 8}
    for a, b in zip(start, stop, strict=True):
        ax.annotate("", xy=b, xytext=a, arrowprops=look)


def _rows(ax: Axes, own: Array, pooled: Array, centre: float, levels: NDArray[Any]) -> None:
    """One level a row, in the order of its own estimate."""
    order = np.argsort(np.where(np.isfinite(own), own, pooled))
    at = np.arange(len(levels))
    own, pooled = own[order], pooled[order]
    drawn = np.isfinite(own)
    ax.axvline(centre, color=COLOURS[2], linewidth=1.2, linestyle="--", label="population")
    _arrows(ax, np.column_stack([own, at])[drawn], np.column_stack([pooled, at])[drawn])
    ax.plot(own, at, "o", color=COLOURS[1], markerfacecolor="none", markersize=5, label="own rows (no pooling)")
    ax.plot(pooled, at, "o", color=COLOURS[0], markersize=5, label="partial pooling")
    ax.set_yticks(at, levels[order], size=8)
    ax.margins(y=0.03)


def _against(ax: Axes, own: Array, pooled: Array, centre: float) -> None:
    """Partial pooling against no pooling: on the diagonal if nothing moved, on the level line if all went."""
    ax.axline((centre, centre), slope=1.0, color=GREY, linewidth=0.8, linestyle=":", label="nothing moved")
    ax.axhline(centre, color=COLOURS[2], linewidth=1.2, linestyle="--", label="population")
    ax.plot(own, pooled, "o", color=COLOURS[0], markersize=3, markeredgewidth=0, alpha=0.5, label="a level")


def pairs(result: Result, group: str | None = None) -> Figure:
    """Random effects of one group against each other, with the 50 % region of each level and of all levels.

    A point fit's regions are of the conditional distribution given its θ, σ and β; a posterior's have the covariance of
    its draws. They are drawn for up to 60 levels. The dashed ellipse is the 95 % region of the estimated distribution of
    the levels.

    Parameters
    ----------
    result : PointFit or Posterior
        Whose effects.
    group : str, optional
        Grouping factor; the first one with two effects.

    Returns
    -------
    Figure

    Raises
    ------
    MethodError
        No group, or the named one, has two effects.
    """
    model = result.model
    several = [g for g in model.groups if len(model.effects(g)) > 1]
    group = group_of(model, group if group is not None else next(iter(several), None))
    names = model.effects(group)
    if len(names) < 2:
        raise MethodError(f"{group!r} has one effect, {names[0]}: there is nothing to draw it against; use caterpillar")
    every = [(i, j) for j in range(len(names)) for i in range(j)]
    modes, own = np.asarray(result.group_ranef[group]), _own_covariances(result, group)
    between = _covariance(result, group)
    with style():
        across = min(3, len(every))
        figure = blank(max(5.2, 3.6 * across), 3.9 * -(-len(every) // across) + 0.5)
        for ax, (i, j) in zip(grid(figure, len(every), across), every, strict=True):
            block = np.ix_([i, j], [i, j])
            ax.plot(*ellipse(np.zeros(2), between[block], RADIUS_95), color=GREY, linewidth=1, linestyle="--")
            for mode, covariance in zip(modes[:, [i, j]], own, strict=True) if own is not None else ():
                ax.plot(*ellipse(mode, covariance[block], MEDIAN_RADIUS), color=COLOURS[0], linewidth=0.8, alpha=0.6)
            small = len(modes) > MOST_NAMED
            ax.plot(modes[:, i], modes[:, j], "o", color=COLOURS[0], markersize=2 if small else 4)
            ax.axhline(0.0, color=GREY, linewidth=0.5)
            ax.axvline(0.0, color=GREY, linewidth=0.5)
            ax.set(xlabel=names[i], ylabel=names[j])
        each = ", each with its 50 % region" if own is not None else ""
        figure.suptitle(f"{group}: {len(modes)} levels{each}\n95 % of the population (dashed)", size=10)
    return figure


def _own_covariances(result: Any, group: str) -> Array | None:
    """Covariance (levels, k, k) of each level's effects; None where there are too many levels or no draws of them."""
    if len(result.model.levels(group)) > MOST_NAMED:
        return None
    if hasattr(result, "ranef_cov"):
        return np.asarray(result.ranef_cov[group])
    if f"ranef_{group}" not in result.data["posterior"].data_vars:
        return None
    draws = result.draws(f"ranef_{group}")
    return np.array([np.cov(draws[:, level].T) for level in range(draws.shape[1])])


def effects_qq(result: Result, group: str | None = None) -> Figure:
    """Quantiles of each random effect against the normal's, with 95 % intervals: on the line if normal.

    The line goes through the quartiles. Predicted effects are shrunk towards 0, the more the fewer rows a level has, so
    that a bent line hints at effects that are not normal but a straight one does not prove that they are.

    Parameters
    ----------
    result : PointFit or Posterior
        Whose effects.
    group : str, optional
        Grouping factor; all of them.

    Returns
    -------
    Figure

    Raises
    ------
    MethodError
        The model has no such group, or none at all.
    """
    from scipy.special import ndtri

    first = group_of(result.model, group)
    groups = [first] if group is not None else list(result.model.groups)
    panels = [(name, k, effect) for name in groups for k, effect in enumerate(result.model.effects(name))]
    intervals = {name: effect_intervals(result, name) for name in groups}
    with style():
        across = min(3, len(panels))
        figure = blank(3.3 * across + 0.6, 3.0 * -(-len(panels) // across) + 0.4)
        for ax, (name, k, effect) in zip(grid(figure, len(panels), across), panels, strict=True):
            centre, lower, upper = (values[:, k] for values in intervals[name])
            order = np.argsort(centre)
            normal = ndtri((np.arange(len(order)) + 0.5) / len(order))
            few = len(order) <= MOST_NAMED
            if few:
                ax.vlines(normal, lower[order], upper[order], color=COLOURS[0], linewidth=1.2, alpha=0.7)
            else:
                ax.fill_between(normal, lower[order], upper[order], color=COLOURS[0], linewidth=0, alpha=0.25)
            ax.plot(normal, centre[order], "o", color=COLOURS[0], markersize=4 if few else 2)
            a, b = np.quantile(normal, [0.25, 0.75]), np.quantile(centre, [0.25, 0.75])
            if a[1] > a[0]:
                ax.axline((0.0, float(b.mean())), slope=float(np.ptp(b) / np.ptp(a)), color=GREY, linewidth=1)
            ax.set_title(f"{name}: {effect}", loc="left")
            ax.set_xlabel("normal quantile")
        figure.supylabel("predicted effect and 95 % interval", size=10)
    return figure
