"""Figures of generalized fits: quantile residuals, rootogram, calibration, ROC, and curves of the response."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.plot.style import COLOURS, GREY, blank, grid, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayeslmm.goodness import Calibration, Roc, Rootogram
    from bayeslmm.quantile_residuals import QuantileResiduals
    from bayeslmm.response_curves import ResponseCurves

BINS = 10


def quantile_residuals(found: QuantileResiduals) -> Figure:
    """Quantile residuals against uniform quantiles, and against the rank of the mean with their quartiles in bins.

    The mean has the random effects that the residuals have: 0 where they were drawn anew, else those of the fit.

    Parameters
    ----------
    found : QuantileResiduals

    Returns
    -------
    Figure
    """
    r, mu = found.values.to_numpy(), found.along
    rank = (np.argsort(np.argsort(mu, kind="stable"), kind="stable") + 0.5) / len(mu)
    with style():
        figure = blank(7.4, 3.4)
        left, right = grid(figure, 2, 2)
        left.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        left.plot((np.arange(len(r)) + 0.5) / len(r), np.sort(r), ".", color=COLOURS[0], markersize=4)
        left.set(xlabel="uniform quantile", ylabel="quantile residual")
        right.plot(rank, r, ".", color=COLOURS[0], markersize=4, alpha=0.5)
        for level in (0.25, 0.5, 0.75):
            right.axhline(level, color=GREY, linewidth=0.8, linestyle="--")
        parts = np.array_split(np.argsort(rank), min(BINS, max(1, len(r) // 5)))
        at = [rank[part].mean() for part in parts]
        for line in np.array([np.quantile(r[part], [0.25, 0.5, 0.75]) for part in parts]).T:
            right.plot(at, line, color=COLOURS[1], linewidth=1.2)
        of = "linear predictor" if found.fit.model.design.ordered else "mean"
        what = f"rank of the {of}, effects 0" if found.groups == "new" else f"rank of the fitted {of}"
        right.set(xlabel=what, ylim=(-0.02, 1.02))
    return figure


def rootogram(found: Rootogram) -> Figure:
    """Hanging rootogram: bars of √observed hang from the curve of √expected.

    Parameters
    ----------
    found : Rootogram

    Returns
    -------
    Figure
    """
    table = found.table
    with style():
        figure = blank(5.6, 3.4)
        hanging(figure.subplots(), table, found.response)
    return figure


def hanging(ax: Axes, table: pd.DataFrame, response: str) -> None:
    """Draw a hanging rootogram."""
    ax.bar(table.index, np.sqrt(table["observed"]), bottom=table["hanging"], color=COLOURS[0], alpha=0.5, width=0.8)
    ax.plot(table.index, np.sqrt(table["expected"]), "o-", color=COLOURS[1], markersize=3, linewidth=1.2)
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    ax.set(xlabel=response, ylabel="√frequency")


def reliability(ax: Axes, table: pd.DataFrame, response: str) -> None:
    """Draw observed against fitted shares."""
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    ax.vlines(table["fitted"], table["lower"], table["upper"], color=COLOURS[0], linewidth=1.5)
    ax.plot(table["fitted"], table["observed"], "o", color=COLOURS[0], markersize=5)
    ax.set(xlabel="fitted probability", ylabel=f"share of {response}", xlim=(0, 1), ylim=(-0.02, 1.02))


def calibration(found: Calibration) -> Figure:
    """Observed shares of 1, with 95 % intervals, against fitted probabilities.

    Parameters
    ----------
    found : Calibration

    Returns
    -------
    Figure
    """
    table = found.table
    with style():
        figure = blank(3.8, 3.6)
        reliability(figure.subplots(), table, found.response)
    return figure


def roc(found: Roc) -> Figure:
    """True against false positive rates, with the area under the curve.

    Parameters
    ----------
    found : Roc

    Returns
    -------
    Figure
    """
    with style():
        figure = blank(3.8, 3.6)
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
        ax.plot(found.table["false_positive"], found.table["true_positive"], color=COLOURS[0])
        ax.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
        ax.set_title(f"area under the curve {found.auc:.3f}", loc="left")
    return figure


def curves(found: ResponseCurves) -> Figure:
    """Curves of individuals, of the median group and of the mean of all groups.

    Parameters
    ----------
    found : ResponseCurves

    Returns
    -------
    Figure
    """
    x, table = found.table.index.to_numpy(), found.table
    with style():
        figure = blank(5.8, 3.6)
        ax = figure.subplots()
        ax.plot(x, found.individuals.to_numpy(), color=GREY, linewidth=0.7, alpha=0.5)
        for i, (name, said) in enumerate((("median", f"median {found.group}"), ("mean", f"mean of all {found.group}"))):
            ax.fill_between(
                x, table[f"{name}_lower"], table[f"{name}_upper"], color=COLOURS[i], alpha=0.15, linewidth=0
            )
            ax.plot(x, table[name], color=COLOURS[i], linewidth=2, linestyle=("-", "--")[i], label=said)
        ax.set(xlabel=found.of, ylabel=f"mean of {found.response}")
        ax.set_title(", ".join(found.notes), loc="left", size=9)
        figure.legend(loc="outside lower center", ncols=2)
    return figure
