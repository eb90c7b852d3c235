"""Figures of estimated means, slopes and their contrasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.errors import MethodError
from bayeslmm.plot.style import COLOURS, GREY, MARKERS, blank, grid, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayeslmm.contrasts import Contrasts
    from bayeslmm.means import Means

MOST_PANELS = 12
# Lines of different colour and marker; more are drawn thin and in one colour, without intervals.
MOST_LINES = 8
# How far apart the markers of the lines at one level stand, in levels.
DODGE = 0.1


def profiles(means: Means, x: str | None = None, intervals: bool | None = None) -> Figure:
    """Profile plot (interaction plot): means over the levels of one factor, joined for each level of another.

    Parallel lines are what a model without their interaction gives.

    Parameters
    ----------
    means : Means or Slopes
        Over one, two or three predictors: the x axis, the lines, the panels.
    x : str, optional
        Predictor on the x axis; by default the first that is not in `by`.
    intervals : bool, optional
        Whether intervals are drawn; by default where there are at most eight lines.

    Returns
    -------
    Figure

    Raises
    ------
    MethodError
        More predictors than a figure has places, or an `x` that is none of them.
    """
    names = [str(name) for name in means.combinations.labels.names]
    across = _across(means, names, x)
    rest = [name for name in names if name != across]
    frame = means.table.reset_index()
    panels = [None] if len(rest) < 2 else list(dict.fromkeys(frame[rest[1]]))
    if len(rest) > 2 or len(panels) > MOST_PANELS:
        raise MethodError(
            f"a profile plot shows an axis, lines and at most {MOST_PANELS} panels; {', '.join(names)} are more. "
            "Average over one, or choose levels with at="
        )
    lines = [None] if not rest else list(dict.fromkeys(frame[rest[0]]))
    shown = len(lines) <= MOST_LINES if intervals is None else intervals
    columns = min(3, len(panels))
    with style():
        figure = blank(3.4 * columns + (1.6 if rest else 0.6), 3.1 * -(-len(panels) // columns) + 0.3)
        axes = grid(figure, len(panels), columns, sharex=True, sharey=True)
        for ax, panel in zip(axes, panels, strict=True):
            part = frame if panel is None else frame[frame[rest[1]] == panel]
            _panel(ax, part, across, (rest[0] if rest else None, lines), means.column, shown)
            ax.set_title("" if panel is None else f"{rest[1]} {panel}", loc="left")
        for ax in axes[::columns]:
            ax.set_ylabel(_what(means))
        if rest and len(lines) <= MOST_LINES:
            figure.legend(*axes[0].get_legend_handles_labels(), title=rest[0], loc="outside right center")
        elif rest:
            axes[0].set_title(f"a line for each {rest[0]}", loc="left")
    return figure


def _across(means: Means, names: list[str], x: str | None) -> str:
    if x is None:
        return next((name for name in names if name not in means.combinations.by), names[0])
    if x not in names:
        raise MethodError(f"x={x!r} is none of the predictors shown: {', '.join(names)}")
    return x


def _what(means: Means) -> str:
    """The y axis: the response, and what of it."""
    scale = means.combinations.transformation
    response = means.combinations.result.model.formula.response
    return f"{means.column} of {response if scale is None else scale.inside}"


def _panel(
    ax: Axes, part: pd.DataFrame, across: str, by: tuple[str | None, list[Any]], column: str, shown: bool
) -> None:
    numeric = pd.api.types.is_numeric_dtype(part[across]) and not pd.api.types.is_bool_dtype(part[across])
    levels = list(dict.fromkeys(part[across]))
    name, lines = by
    unit = float(np.ptp(np.asarray(levels, float))) / max(1, len(levels) - 1) if numeric else 1.0
    for i, line in enumerate(lines):
        own = part if name is None else part[part[name] == line]
        place = own[across].to_numpy(float) if numeric else np.array([levels.index(v) for v in own[across]], float)
        many = len(lines) > MOST_LINES
        at = place + (i - 0.5 * (len(lines) - 1)) * DODGE * unit * shown
        _line(ax, at, own, column, i, shown, many, "" if line is None else str(line))
    if not numeric:
        ax.set_xticks(range(len(levels)), [str(level) for level in levels])
        ax.set_xlim(-0.5, len(levels) - 0.5)
    ax.set_xlabel(across)
    ax.grid(axis="y", color=GREY, alpha=0.2)


def _line(ax: Axes, at: Any, own: pd.DataFrame, column: str, i: int, shown: bool, many: bool, label: str) -> None:
    colour = COLOURS[0] if many else COLOURS[i % len(COLOURS)]
    marker = "" if many else MARKERS[i % len(MARKERS)]
    if shown:
        ax.vlines(at, own["lower"], own["upper"], color=colour, linewidth=1.5, alpha=0.6 if many else 1.0)
    ax.plot(at, own[column], marker=marker, color=colour, linewidth=1.0, alpha=0.6 if many else 1.0, label=label)


def contrasts(found: Contrasts) -> Figure:
    """Contrasts with their simultaneous intervals, one line each, a panel for each level of `by`.

    Parameters
    ----------
    found : Contrasts

    Returns
    -------
    Figure
    """
    table, by = found.table, found.combinations.by
    families = found.combinations.families()
    if len(families) > MOST_PANELS:
        raise MethodError(f"{len(families)} families of contrasts are more than {MOST_PANELS} panels")
    columns = 2 if len(families) == 4 else min(3, len(families))
    size = max(len(rows) for rows in families)
    with style():
        figure = blank(3.3 * columns + 1.2, (0.26 * size + 0.7) * -(-len(families) // columns) + 0.4)
        for i, (ax, rows) in enumerate(zip(grid(figure, len(families), columns, sharex=True), families, strict=True)):
            names = [str(v) for v in table.index.get_level_values(-1)[rows]]
            _forest(
                ax, table.iloc[rows], names if i % columns == 0 or not _repeats(table, families) else [""] * len(rows)
            )
            levels = [f"{name} {table.index.get_level_values(name)[rows[0]]}" for name in by]
            ax.set_title(", ".join(levels), loc="left")
            ax.tick_params(axis="x", labelbottom=True)
        figure.supxlabel(f"{table.columns[0]} and {100 * found.level:g} % interval", size=9)
    return figure


def _repeats(table: pd.DataFrame, families: list[Any]) -> bool:
    """Whether every family has the same contrasts, so that one column of names will do."""
    names = [list(table.index.get_level_values(-1)[rows]) for rows in families]
    return all(one == names[0] for one in names)


def _forest(ax: Axes, part: pd.DataFrame, names: list[str]) -> None:
    value = part.iloc[:, 0]
    place = np.arange(len(part))
    ax.axvline(1.0 if part.columns[0] != "estimate" else 0.0, color=GREY, linewidth=0.8)
    ax.hlines(place, part["lower"], part["upper"], color=COLOURS[0], linewidth=2)
    ax.plot(value, place, "o", color=COLOURS[0], markersize=5)
    ax.set_ylim(len(part) - 0.5, -0.5)
    ax.set_yticks(place, names)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color=GREY, alpha=0.2)
