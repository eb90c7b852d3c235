"""Figures of fits, posteriors and their comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeslmm.errors import MethodError
from bayeslmm.exact.densities import means
from bayeslmm.family import LINKS
from bayeslmm.plot.style import COLOURS, GREY, MARKERS, blank, grid, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayeslmm.compare import Comparison
    from bayeslmm.limiting import LimitingPrior
    from bayeslmm.model import Model
    from bayeslmm.result import Result
    from bayeslmm.terms import RandomTerm

Array = NDArray[np.float64]
NORMAL_975 = 1.959963984540054
MOST_PANELS = 36
MOST_NAMED = 60
MOST_POINTS = 20_000


def forest(comparison: Comparison) -> Figure:
    """Estimates and 95 % intervals of every parameter, one panel each, one line per result.

    Parameters
    ----------
    comparison : Comparison
        What `bl.compare` gave.

    Returns
    -------
    Figure
    """
    columns, names = comparison.columns, comparison.names
    with style():
        across = min(3, len(names))
        down = -(-len(names) // across)
        figure = blank(3.1 * across + 0.9, (0.62 + 0.26 * len(columns)) * down + 0.5)
        for i, (ax, name) in enumerate(zip(grid(figure, len(names), across), names, strict=True)):
            for row, column in enumerate(columns):
                if name in column.names:
                    _forest_row(ax, column, column.at(name), row)
            ax.set_ylim(len(columns) - 0.5, -0.5)
            ax.set_yticks(range(len(columns)), [c.label for c in columns] if i % across == 0 else [""] * len(columns))
            ax.set_title(name, loc="left")
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
            ax.locator_params(axis="x", nbins=5)
            ax.grid(axis="x", color=GREY, alpha=0.2)
        figure.supxlabel("estimate and 95 % interval (none at the boundary), in the units of the data", size=9)
    return figure


def _forest_row(ax: Axes, column: Any, at: int, row: int) -> None:
    colour = COLOURS[row % len(COLOURS)]
    if np.isfinite(column.lower[at]):
        ax.plot([column.lower[at], column.upper[at]], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
    ax.plot([column.estimate[at]], [row], MARKERS[row % len(MARKERS)], color=colour, markersize=6)


def caterpillar(result: Result, group: str | None = None) -> Figure:
    """Random effects of one group, sorted, with 95 % intervals, one panel per effect.

    A point fit's intervals are of the conditional distribution given its θ, σ and β; a posterior's are its own.

    Parameters
    ----------
    result : PointFit or Posterior
        Whose effects.
    group : str, optional
        Grouping factor; the first one.

    Returns
    -------
    Figure

    Raises
    ------
    MethodError
        The model has no such group, or none at all.
    """
    group = group_of(result.model, group)
    effects, levels = result.model.effects(group), np.array(result.model.levels(group))
    centre, lower, upper = effect_intervals(result, group)
    with style():
        named = len(levels) <= MOST_NAMED
        height = max(2.6, 0.17 * len(levels) + 1.0) if named else 6.0
        figure = blank(3.3 * len(effects) + 1.2, height)
        order = np.argsort(centre[:, 0])
        for k, ax in enumerate(grid(figure, len(effects), len(effects), sharey=True)):
            at = np.arange(len(levels))
            thin: dict[str, Any] = {} if named else {"alpha": max(0.08, MOST_NAMED / len(levels))}
            ax.hlines(at, lower[order, k], upper[order, k], color=COLOURS[0], linewidth=1.5 if named else 0.6, **thin)
            ax.plot(centre[order, k], at, "o", color=COLOURS[0], markersize=4 if named else 1.5)
            ax.axvline(0.0, color=GREY, linewidth=0.8, linestyle="--")
            ax.set_title(effects[k], loc="left")
            ax.set_xlabel(f"deviation from the mean {'level' if effects[k] == 'Intercept' else effects[k]}")
            ax.set_yticks(at if named else [], levels[order] if named else [], size=8)
            ax.margins(y=0.02)
            if k == 0:
                ax.set_ylabel(group if named else f"{group} ({len(levels)} levels)")
    return figure


def group_of(model: Model, group: str | None) -> str:
    """The group that was asked for, else the first; raises where there is none."""
    if not model.groups:
        raise MethodError("the model has no random effects to draw")
    if group is not None and group not in model.groups:
        raise MethodError(f"the model has no group {group!r}; it has {', '.join(model.groups)}")
    return group or model.groups[0]


def effect_intervals(result: Any, group: str) -> tuple[Array, Array, Array]:
    """Centre, lower and upper (levels, k)."""
    centre = np.asarray(result.group_ranef[group])
    if hasattr(result, "ranef_cov"):
        reach = NORMAL_975 * np.sqrt(np.diagonal(result.ranef_cov[group], axis1=1, axis2=2))
        return centre, centre - reach, centre + reach
    if f"ranef_{group}" not in result.data["posterior"].data_vars:
        reach = NORMAL_975 * result.ranef_sd[group].to_numpy()
        return centre, centre - reach, centre + reach
    lower, upper = np.quantile(result.draws(f"ranef_{group}"), [0.025, 0.975], axis=0)
    return centre, lower, upper


def residuals(result: Result) -> Figure:
    """Residuals against fitted values, and their quantiles against the normal's.

    With prior weights w, the residuals are multiplied by √w. A generalized fit's are Pearson's.

    Parameters
    ----------
    result : PointFit or Posterior
        Whose residuals.

    Returns
    -------
    Figure
    """
    from scipy.special import ndtri

    design, fitted = result.model.design, result.fitted.to_numpy()
    if hasattr(result, "pearson_residuals"):
        standard, scaled = result.pearson_residuals.to_numpy(), "Pearson residual"
    else:
        root = 1.0 if design.weights is None else np.sqrt(design.weights)
        standard, scaled = (design.y - fitted) * root / result.sigma, "residual / σ"
    shown = np.unique(np.linspace(0, len(fitted) - 1, MOST_POINTS).astype(int))
    ordered = np.sort(standard)
    normal = ndtri((np.arange(len(ordered)) + 0.5) / len(ordered))
    with style():
        figure = blank(8.2, 3.8)
        left, right = grid(figure, 2, 2)
        points: dict[str, Any] = {"color": COLOURS[0], "alpha": 0.7, "markersize": 3.5, "markeredgewidth": 0}
        left.plot(fitted[shown], standard[shown], "o", **points)
        left.axhline(0.0, color=GREY, linewidth=0.8)
        for level in (-2, 2):
            left.axhline(level, color=GREY, linewidth=0.8, linestyle=":")
        left.set(xlabel=f"fitted {design.response}", ylabel=scaled, title="Residuals against fitted values")
        right.plot(normal[shown], ordered[shown], "o", **points)
        right.plot(normal[[0, -1]], normal[[0, -1]], color=GREY, linewidth=1)
        right.set(xlabel="normal quantile", ylabel=scaled, title="Quantiles; on the line if normal")
    return figure


def limiting(limiting_prior: LimitingPrior) -> Figure:
    """Distance from the Bayesian answer to BLUE, BLUP and REML as the prior on β flattens, with a line of slope 1.

    Parameters
    ----------
    limiting_prior : LimitingPrior
        What `bl.limiting_prior` gave.

    Returns
    -------
    Figure
    """
    with style():
        figure = blank(6.4, 4.2)
        limiting_prior.plot(figure.subplots())
    return figure


def groups(result: Result, group: str | None = None) -> Figure:
    """Data and fitted values, one panel per level, against the first numeric predictor of the group.

    At most 36 levels are drawn, evenly spaced over all. The solid line is the level's own, the dashed one that of the
    fixed effects alone.

    Parameters
    ----------
    result : PointFit or Posterior
        What to draw.
    group : str, optional
        Grouping factor; the first one that has an effect beside the intercept, else the first.

    Returns
    -------
    Figure

    Raises
    ------
    MethodError
        The model has no such group, or none at all.
    """
    model = result.model
    term = panel_term(model, group)
    label, x = panel_axis(model, term)
    shown = np.unique(np.linspace(0, len(term.levels) - 1, MOST_PANELS).astype(int))
    fixed, observed = _population(result), _observed(model)
    fitted = result.fitted.to_numpy()
    with style():
        across = min(6, len(shown))
        down = -(-len(shown) // across)
        figure = blank(1.6 * across + 0.6, 1.45 * down + 0.7)
        for ax, level in zip(grid(figure, len(shown), across, sharex=True, sharey=True), shown, strict=True):
            rows = np.flatnonzero(term.codes == level)
            rows = rows[np.argsort(x[rows], kind="stable")]
            ax.plot(x[rows], fixed[rows], color=GREY, linewidth=1, linestyle="--")
            ax.plot(x[rows], fitted[rows], color=COLOURS[1], linewidth=1.5)
            ax.plot(x[rows], observed[rows], "o", color=COLOURS[0], markersize=3, markeredgewidth=0)
            ax.set_title(term.levels[level], size=9, pad=2)
            ax.tick_params(labelsize=8)
        figure.supxlabel(label, size=10)
        figure.supylabel(model.design.response, size=10)
        some = "" if len(shown) == len(term.levels) else f"; {len(shown)} of {len(term.levels)} levels"
        figure.suptitle(f"{term.group}: data, fitted (solid), fixed effects alone (dashed){some}", size=10)
    return figure


def _population(result: Result) -> Array:
    """Fitted values of the fixed effects alone, on the scale of the response."""
    model = result.model
    eta = model.X @ result.beta + (0.0 if model.design.offset is None else model.design.offset)
    return np.asarray(eta if model.link == "identity" else means(LINKS[str(model.link)], eta))


def _observed(model: Model) -> Array:
    """The response; of a binomial one the share of successes."""
    return model.design.y if model.design.trials is None else model.design.y / model.design.trials


def panel_term(model: Model, group: str | None) -> RandomTerm:
    """The term whose levels are panels: the first with an effect beside the intercept, else the first."""
    name = group_of(model, group)
    terms = [term for term in model.design.random if group is None or term.group == name]
    return next((term for term in terms if any(e != "Intercept" for e in term.effects)), terms[0])


def panel_axis(model: Model, term: RandomTerm | None) -> tuple[str, Array]:
    """What goes along: the term's first numeric effect, else the first numeric coefficient, else the rows' order."""
    own = [] if term is None else [(name, term.columns[:, i]) for i, name in enumerate(term.effects)]
    fixed = list(zip(model.design.fixed.names, model.X.T, strict=True))

    for name, x in (*own, *fixed):
        if len(np.unique(x)) > 2:
            return name, x
    if term is None:
        return "row", np.arange(1.0, model.design.nobs + 1)
    order = np.zeros(len(term.codes))
    for level in range(len(term.levels)):
        rows = term.codes == level
        order[rows] = np.arange(1, rows.sum() + 1)
    return "row within its level", order
