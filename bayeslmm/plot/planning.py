"""Figures of a planned study: power over designs, and calibration of a posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.plot.style import COLOURS, GREY, MARKERS, blank, grid, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayeslmm.calibrate import Calibration
    from bayeslmm.power import Power

TARGET = 0.8


def power(result: Power) -> Figure:
    """Power against the number of groups, a line and a band for each number of rows.

    Parameters
    ----------
    result : Power
        What `bl.power` or `bl.assurance` gave.

    Returns
    -------
    Figure
    """
    frame, column = result.frame, result.column
    with style():
        figure = blank(5.6, 3.6)
        ax = figure.subplots()
        for i, (rows, part) in enumerate(frame.groupby("n_per_group", dropna=False)):
            part, colour = part.sort_values("n_groups"), COLOURS[i % len(COLOURS)]
            label = "rows as in the design" if np.isnan(rows) else f"{rows:g} rows per group"
            error = [part[column] - part["lower"], part["upper"] - part[column]]
            if len(part) > 1:
                ax.fill_between(part["n_groups"], part["lower"], part["upper"], color=colour, alpha=0.2, linewidth=0)
            else:
                ax.errorbar(part["n_groups"], part[column], yerr=error, color=colour, linestyle="none")
            marker = MARKERS[i % len(MARKERS)]
            ax.plot(part["n_groups"], part[column], marker=marker, color=colour, markersize=5, label=label)
        ax.axhline(TARGET, color=GREY, linewidth=0.8, linestyle="--")
        ax.axhline(result.alpha, color=GREY, linewidth=0.8, linestyle=":")
        ax.set(ylim=(0.0, 1.02), xlabel="number of groups", ylabel=f"{column} (95 % Monte Carlo band)")
        ax.set_title(f"{result.hypothesis}, α = {result.alpha:g}", loc="left", size=9)
        ax.legend(loc="lower right")
    return figure


def calibration(result: Calibration) -> Figure:
    """ECDF of the ranks minus the uniform one, a panel per quantity, with the 95 % simultaneous band.

    Parameters
    ----------
    result : Calibration
        What `bl.calibrate` gave.

    Returns
    -------
    Figure
    """
    names, kept = list(result.ranks.columns), result.kept
    lower, upper = result.band(0.95)
    at = np.arange(1, kept + 1) / (kept + 1.0)
    with style():
        across = min(3, len(names))
        figure = blank(2.7 * across + 0.6, 1.9 * -(-len(names) // across) + 0.5)
        for i, (ax, name) in enumerate(zip(grid(figure, len(names), across, sharey=True), names, strict=True)):
            wrong = result.frame.loc[name, "p_holm"] < 0.05
            ranks = np.sort(result.ranks[name].to_numpy())
            ecdf = np.searchsorted(ranks, np.arange(kept), side="right") / result.nsim
            ax.fill_between(at, lower / result.nsim - at, upper / result.nsim - at, color=GREY, alpha=0.2, linewidth=0)
            ax.plot(at, ecdf - at, color=COLOURS[1] if wrong else COLOURS[0], drawstyle="steps-post")
            ax.axhline(0.0, color=GREY, linewidth=0.8)
            ax.set_title(f"{name}{' (!)' if wrong else ''}", loc="left")
            ax.tick_params(axis="x", labelbottom=i + across >= len(names))
        figure.supxlabel("rank of the truth among the draws, as a share", size=9)
        figure.supylabel("ECDF − uniform", size=9)
    return figure
