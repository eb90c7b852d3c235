"""One look for every figure: no background, text in a grey that reads on a light and on a dark page."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#767676"  # contrast 4.5 on white, 4.6 on black
COLOURS = ("#2280C3", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # after Okabe & Ito
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLE: dict[Any, Any] = {
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "legend.facecolor": "none",
    "text.color": GREY, "axes.labelcolor": GREY, "axes.edgecolor": GREY, "axes.titlecolor": GREY, "xtick.color": GREY,
    "ytick.color": GREY, "axes.spines.top": False, "axes.spines.right": False, "font.size": 10.0,
    "axes.titlesize": 10.0, "legend.frameon": False, "axes.axisbelow": True, "figure.constrained_layout.use": True,
}  # fmt: skip


def style() -> AbstractContextManager[None]:
    """The look, for the time a figure is drawn."""
    from matplotlib import rc_context

    return rc_context(STYLE)


def blank(width: float, height: float) -> Figure:
    """A figure that pyplot does not hold: freed with its last reference, shown once in a notebook."""
    from bayeslmm.plot.shown import ShownFigure

    return ShownFigure(figsize=(width, height))


def grid(figure: Figure, panels: int, columns: int, **options: Any) -> list[Axes]:
    """Axes of `panels` panels, `columns` in a row; spare ones are removed."""
    rows = -(-panels // columns)
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel()
    for spare in axes[panels:]:
        spare.remove()
    return list(axes[:panels])
