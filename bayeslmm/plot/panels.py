"""The panels of a diagnosis: each draws one check of residuals or effects on given axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bayeslmm.plot.style import COLOURS, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
MOST_POINTS = 20_000
POINTS: dict[str, Any] = {"color": COLOURS[0], "alpha": 0.6, "markersize": 3.5, "markeredgewidth": 0}
# Points whose labels are written beside them, mean points of a smooth line, levels named below an axis.
LABELLED, BINS, MOST_NAMED = 3, 15, 24


def scatter(ax: Axes, x: Array, y: Array, labels: Sequence[str], unusual: Array | None = None) -> None:
    """Points, at most 20,000, with the labels of those that stand out most."""
    size = np.abs(y if unusual is None else unusual)
    size = np.where(np.isfinite(x) & np.isfinite(y) & np.isfinite(size), size, -np.inf)
    named = [i for i in np.argsort(-size, kind="stable")[:LABELLED] if np.isfinite(size[i])]
    shown = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(int))
    shown = np.union1d(shown, np.array(named, int))
    ax.plot(x[shown], y[shown], "o", **POINTS)
    for i in named:
        beside(ax, x[i], y[i], labels[i])


def beside(ax: Axes, x: float, y: float, label: str) -> None:
    """A label beside its point, on the side that has room."""
    low, high = ax.get_xlim()
    right = x > 0.5 * (low + high)
    offset, side = ((-5, 0), "right") if right else ((5, 0), "left")
    ax.annotate(label, (x, y), offset, textcoords="offset points", ha=side, va="center", fontsize=8, color=COLOURS[1])


def means(ax: Axes, x: Array, y: Array) -> None:
    """A line through the means of y in bins of x with equally many points; at each value where there are few."""
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    values = np.unique(x)
    if len(values) > BINS:
        bins = min(BINS, max(3, len(x) // 8))
        values = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))
        group = np.clip(np.searchsorted(values, x, side="right") - 1, 0, len(values) - 2)
    else:
        group = np.searchsorted(values, x)
    count = np.bincount(group)
    kept = count > 0
    along, across = (np.bincount(group, v)[kept] / count[kept] for v in (x, y))
    ax.plot(along, across, color=COLOURS[1], linewidth=1.5)


def residuals_along(ax: Axes, x: Array, residual: Array, labels: Sequence[str], name: str) -> None:
    """Standardised residuals against something, with their mean line."""
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    for level in (-2, 2):
        ax.axhline(level, color=GREY, linewidth=0.8, linestyle=":")
    scatter(ax, x, residual, labels)
    means(ax, x, residual)
    ax.set(xlabel=name, ylabel="standardised residual")


def scale_location(ax: Axes, fitted: Array, residual: Array, labels: Sequence[str], name: str) -> None:
    """Roots of absolute residuals against fitted values: level where the variance is the same everywhere."""
    root = np.sqrt(np.abs(residual))
    ax.axhline(0.822, color=GREY, linewidth=0.8)  # E√|t| of a standard normal t
    scatter(ax, fitted, root, labels)
    means(ax, fitted, root)
    ax.set(xlabel=name, ylabel="√|standardised residual|")


def quantiles(ax: Axes, values: Array, band: Array | None, labels: Sequence[str], name: str) -> None:
    """Sorted values against normal quantiles, with the band of simulated samples."""
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    normal = ndtri((np.arange(len(order)) + 0.5) / len(order)) if len(order) else np.empty(0)
    if band is not None and np.isfinite(band).all():
        at = ndtri((np.arange(band.shape[1]) + 0.5) / band.shape[1])
        ax.fill_between(at, band[0], band[1], color=GREY, alpha=0.25, linewidth=0)
    if len(order):
        ends = normal[[0, -1]]
        ax.plot(ends, ends, color=GREY, linewidth=1)
        scatter(ax, normal, values[order], [labels[i] for i in order], _outside(normal, values[order], band))
    ax.set(xlabel="normal quantile", ylabel=name)


def _outside(normal: Array, values: Array, band: Array | None) -> Array:
    """How far points lie outside the band, NaN within it; without a band, outside ±2."""
    low, high = np.full(len(values), -2.0), np.full(len(values), 2.0)
    if band is not None and np.isfinite(band).all():
        at = ndtri((np.arange(band.shape[1]) + 0.5) / band.shape[1])
        low, high = np.interp(normal, at, band[0]), np.interp(normal, at, band[1])
    beyond = np.maximum(low - values, values - high)
    return np.where(beyond > 0, beyond, np.nan)


def _named(ax: Axes, labels: Sequence[str]) -> bool:
    """Names below the axis where there is room for all of them."""
    if len(labels) > MOST_NAMED:
        return False
    ax.set_xticks(np.arange(len(labels)), labels, rotation=90, fontsize=7)
    return True


def stems(ax: Axes, distance: Array, labels: Sequence[str], threshold: float, name: str) -> None:
    """Cook's distances as stems, the largest labelled, with the value that would be a problem."""
    at = np.arange(len(distance))
    ax.vlines(at, 0.0, np.nan_to_num(distance), color=COLOURS[0], linewidth=1.0 if len(at) > 60 else 2.0)
    known = np.isfinite(distance)
    ax.set_xlim(-0.02 * len(at) - 1, 1.02 * len(at))
    named = _named(ax, labels)
    for i in [] if named else np.argsort(-np.where(known, distance, -np.inf), kind="stable")[:LABELLED]:
        if known[i]:
            beside(ax, float(i), float(distance[i]), labels[i])
    if np.isfinite(threshold):
        ax.axhline(threshold, color=GREY, linewidth=0.8, linestyle="--")
    ax.set_ylim(bottom=0.0)
    ax.set(xlabel=name, ylabel="Cook's distance")


def leverage(ax: Axes, hat: Array, residual: Array, distance: Array, labels: Sequence[str]) -> None:
    """Standardised residuals against leverage; labelled are the largest Cook's distances."""
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    ax.set_xlim(0.0, 1.06 * float(np.nanmax(hat)))
    scatter(ax, hat, residual, labels, distance)
    ax.set(xlabel="leverage", ylabel="standardised residual")


def effects_pair(ax: Axes, x: Array, y: Array, labels: Sequence[str], names: tuple[str, str]) -> None:
    """Effects against each other with their least-squares line."""
    ax.axhline(0.0, color=GREY, linewidth=0.8)
    ax.axvline(0.0, color=GREY, linewidth=0.8)
    scatter(ax, x, y, labels, _far(x) + _far(y))
    if (size := np.abs(x).max()) > 0 and np.ptp(x) > 0:
        slope, start = np.polyfit(x / size, y, 1)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, start + slope * (ends / size), color=COLOURS[1], linewidth=1.5)
    ax.set(xlabel=names[0], ylabel=names[1])


def _far(values: Array) -> Array:
    largest = np.abs(values).max()
    unit = values / largest if largest > 0 else values
    return np.asarray((unit / unit.std()) ** 2 if unit.std() > 0 else np.zeros_like(unit))


def spread(ax: Axes, residual: Array, codes: NDArray[np.intp], labels: Sequence[str], name: str) -> None:
    """Standard deviations of the standardised residuals of each level: around 1 where the variance is the same."""
    known = np.isfinite(residual)
    count = np.bincount(codes[known], minlength=len(labels))
    square = np.bincount(codes[known], residual[known] ** 2, len(labels))
    sd = np.sqrt(np.where(count > 1, square, np.nan) / np.maximum(count, 1))
    ax.axhline(1.0, color=GREY, linewidth=0.8)
    ax.set_xlim(-1.0, len(labels))
    quiet = np.full(len(labels), np.nan) if _named(ax, labels) else np.abs(np.log(np.maximum(sd, 1e-9)))
    scatter(ax, np.arange(len(labels), dtype=float), sd, labels, quiet)
    ax.set_ylim(bottom=0.0)
    ax.set(xlabel=name, ylabel="sd of the residuals / σ")


def scree(ax: Axes, sd: Array, name: str) -> None:
    """Standard deviations of the principal components of a group's effects."""
    at = np.arange(1, len(sd) + 1)
    ax.bar(at, sd, width=0.5, color=COLOURS[0], alpha=0.8)
    for x, height in zip(at, sd, strict=True):
        ax.annotate(f"{height:.3g}", (x, height), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    ax.set_xticks(at, [f"PC{i}" for i in at])
    ax.set_xlim(0.4, len(sd) + 0.6)
    ax.margins(y=0.15)
    ax.set(xlabel=name, ylabel="sd / σ")


def histogram(ax: Axes, values: Array, own: float, name: str) -> None:
    """Simulated values with the one of the data."""
    ax.hist(values, bins=30, color=COLOURS[0], alpha=0.4)
    ax.axvline(own, color=COLOURS[1], linewidth=2)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5)
    ax.set_title(name, loc="left")
