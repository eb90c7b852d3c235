"""Figures of a diagnosis, one for each kind of check, and the most telling ones together."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayeslmm.errors import MethodError
from bayeslmm.plot import panels
from bayeslmm.plot.generalized import hanging, reliability
from bayeslmm.plot.style import COLOURS, GREY, blank, grid, style

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayeslmm.diagnose import Diagnosis

Array = NDArray[np.float64]
Drawn = tuple["Figure", str]
WIDE, HIGH = 4.1, 3.2


def figures(diagnosis: Diagnosis) -> dict[str, Drawn]:
    """A figure with its caption for each kind of check.

    Parameters
    ----------
    diagnosis : Diagnosis
        What `bl.diagnose` gave.

    Returns
    -------
    dict of str to (Figure, str)
        For a point fit "residuals", "scale-location", "quantiles", "linearity", "leverage", "influential rows", and of
        the groups "effect quantiles", "effects", "residuals by effect", "spread by level", "influential levels",
        "components"; for a posterior "predictive" and "priors".
    """
    makers = _POSTERIOR if diagnosis.standardised is None else _POINT
    found = {name: (_drawn(panels_of(diagnosis)), caption) for name, (panels_of, caption) in makers.items()}
    return {name: (figure, caption) for name, (figure, caption) in found.items() if figure is not None}


def panel(diagnosis: Diagnosis) -> Figure:
    """The most telling figures in one: residuals, scale, quantiles, leverage, effects and influential levels.

    Parameters
    ----------
    diagnosis : Diagnosis
        What `bl.diagnose` gave.

    Returns
    -------
    Figure
    """
    makers = {"predictive": _POSTERIOR["predictive"]}
    if diagnosis.standardised is not None:
        makers = {name: _POINT[name] for name in _PANEL}
    chosen = [draw for panels_of, _ in makers.values() for draw in panels_of(diagnosis)]
    figure = _drawn(chosen, 3)
    if figure is None:
        raise MethodError("there is nothing to draw: nothing was simulated, diagnose with nsim=499")
    return figure


def _drawn(draws: list[Callable[[Axes], None]], most: int = 2) -> Figure | None:
    """Panels side by side, or nothing."""
    if not draws:
        return None
    across = min(most if len(draws) < 5 else 3, len(draws))
    with style():
        figure = blank(WIDE * across, HIGH * -(-len(draws) // across))
        for ax, draw in zip(grid(figure, len(draws), across), draws, strict=True):
            draw(ax)
    return figure


def _rows(d: Diagnosis) -> list[str]:
    return [str(row) for row in d.result.model.design.rows]


def _effects(d: Diagnosis) -> list[tuple[str, int, str]]:
    """Group, position and name of each effect that varies."""
    assert d.standardised is not None
    model, scaled = d.result.model, d.standardised.effects
    every = [(group, k, f"{group}[{e}]") for group in model.groups for k, e in enumerate(model.effects(group))]
    return [(group, k, name) for group, k, name in every if np.isfinite(scaled[group][:, k]).any()]


def _codes(d: Diagnosis, group: str) -> NDArray[np.intp]:
    return np.asarray(next(term.codes for term in d.result.model.design.random if term.group == group))


def _threshold(d: Diagnosis, check: str) -> float:
    found = d.table.loc[d.table["check"] == check, "threshold"]
    return float(found.iloc[0]) if len(found) else float("nan")


def _fitted_name(d: Diagnosis) -> str:
    design = d.result.model.design
    return "linear predictor" if design.ordered else f"fitted {design.response}"


def _residuals(d: Diagnosis) -> list[Callable[[Axes], None]]:
    s = d.standardised
    assert s is not None
    return [lambda ax: panels.residuals_along(ax, s.fitted, s.residual, _rows(d), _fitted_name(d))]


def _scale(d: Diagnosis) -> list[Callable[[Axes], None]]:
    s = d.standardised
    assert s is not None
    return [lambda ax: panels.scale_location(ax, s.fitted, s.residual, _rows(d), _fitted_name(d))]


def _quantiles(d: Diagnosis) -> list[Callable[[Axes], None]]:
    s = d.standardised
    assert s is not None
    band = d.envelope.get("residuals")
    return [lambda ax: panels.quantiles(ax, s.residual, band, _rows(d), "standardised residual")]


def _linearity(d: Diagnosis) -> list[Callable[[Axes], None]]:
    s, design = d.standardised, d.result.model.design
    assert s is not None
    checked = [c.removeprefix("linearity: ") for c in d.table["check"] if c.startswith("linearity: ")]
    found = [
        (name, design.fixed.X[:, design.fixed.names.index(name)]) for name in checked if name in design.fixed.names
    ]
    return [lambda ax, n=n, x=x: panels.residuals_along(ax, x, s.residual, _rows(d), n) for n, x in found]  # type: ignore[misc]


def _leverage(d: Diagnosis) -> list[Callable[[Axes], None]]:
    s = d.standardised
    assert s is not None
    if not np.isfinite(s.leverage).any():
        return []
    return [lambda ax: panels.leverage(ax, s.leverage, s.residual, s.cooks_rows, _rows(d))]


def _cooks_rows(d: Diagnosis) -> list[Callable[[Axes], None]]:
    s = d.standardised
    assert s is not None
    if not np.isfinite(s.cooks_rows).any():
        return []
    return [lambda ax: panels.stems(ax, s.cooks_rows, _rows(d), _threshold(d, "influential rows"), "row")]


def _cooks_levels(d: Diagnosis) -> list[Callable[[Axes], None]]:
    s, model = d.standardised, d.result.model
    assert s is not None
    groups = [g for g in model.groups if np.isfinite(s.cooks_levels[g]).any()]
    return [
        lambda ax, g=g: panels.stems(  # type: ignore[misc]
            ax, s.cooks_levels[g], model.levels(g), _threshold(d, f"influential levels: {g}"), g
        )
        for g in groups
    ]


def _effect_quantiles(d: Diagnosis) -> list[Callable[[Axes], None]]:
    s, model = d.standardised, d.result.model
    assert s is not None
    return [
        lambda ax, g=g, k=k, n=n: panels.quantiles(  # type: ignore[misc]
            ax, s.effects[g][:, k], d.envelope.get(n), model.levels(g), f"standardised {n}"
        )
        for g, k, n in _effects(d)
    ]


def _effect_pairs(d: Diagnosis) -> list[Callable[[Axes], None]]:
    model, ranef = d.result.model, d.result.group_ranef
    pairs = [(one, two) for one, two in combinations(_effects(d), 2) if one[0] == two[0]]
    return [
        lambda ax, g=one[0], i=one[1], j=two[1], n=(one[2], two[2]): panels.effects_pair(  # type: ignore[misc]
            ax, ranef[g][:, i], ranef[g][:, j], model.levels(g), n
        )
        for one, two in pairs
    ]


def _residuals_by_effect(d: Diagnosis) -> list[Callable[[Axes], None]]:
    s, ranef = d.standardised, d.result.group_ranef
    assert s is not None
    return [
        lambda ax, g=g, k=k, n=n: panels.residuals_along(  # type: ignore[misc]
            ax, ranef[g][_codes(d, g), k], s.residual, _rows(d), n
        )
        for g, k, n in _effects(d)
    ]


def _spread(d: Diagnosis) -> list[Callable[[Axes], None]]:
    s, model = d.standardised, d.result.model
    assert s is not None
    checked = [g for g in model.groups if f"equal variance: {g}" in set(d.table["check"])]
    return [lambda ax, g=g: panels.spread(ax, s.residual, _codes(d, g), model.levels(g), g) for g in checked]  # type: ignore[misc]


def _components(d: Diagnosis) -> list[Callable[[Axes], None]]:
    found = {g: t["sd"].to_numpy() for g, t in d.components.items() if len(t) > 1}
    return [lambda ax, g=g, sd=sd: panels.scree(ax, sd, f"components of {g}") for g, sd in found.items()]  # type: ignore[misc]


def _predictive(d: Diagnosis) -> list[Callable[[Axes], None]]:
    table = d.replicated
    if table is None:
        return []
    values = {str(name): table[name].to_numpy() for name in table}
    return [lambda ax, n=n, v=v: panels.histogram(ax, v[1:], float(v[0]), n) for n, v in values.items()]  # type: ignore[misc]


def _priors(d: Diagnosis) -> list[Callable[[Axes], None]]:
    rows = d.table[d.table["check"].str.startswith("prior: ")]

    def draw(ax: Axes) -> None:
        at = np.arange(len(rows))
        ax.axvline(0.05, color=GREY, linewidth=0.8, linestyle="--")
        ax.plot(rows["value"], at, "o", color=COLOURS[0])
        ax.set_yticks(at, [name.removeprefix("prior: ") for name in rows["check"]])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_xlim(left=0.0)
        ax.set(xlabel="sensitivity to scaling the prior")

    return [draw] if len(rows) else []


def _frequencies(d: Diagnosis) -> list[Callable[[Axes], None]]:
    table = None if d.rootogram is None else d.rootogram.table
    return [] if table is None else [lambda ax: hanging(ax, table, d.result.model.design.response)]


def _calibration(d: Diagnosis) -> list[Callable[[Axes], None]]:
    table = None if d.calibration is None else d.calibration.table
    return [] if table is None else [lambda ax: reliability(ax, table, d.result.model.design.response)]


_POINT = {
    "residuals": (
        _residuals,
        "Standardised conditional residuals against fitted values, their mean in bins as a line. A bend is a predictor or an "
        "interaction that is missing, a fan a variance that grows; a slight straight rise is the shrinkage of the effects.",
    ),
    "scale-location": (
        _scale,
        "Roots of the absolute residuals against fitted values. Level where the residual variance is the same everywhere.",
    ),
    "quantiles": (
        _quantiles,
        "Standardised residuals against normal quantiles; the band holds 95 % of refits to data simulated from the fit, at "
        "each quantile.",
    ),
    "linearity": (
        _linearity,
        "Standardised residuals against each numeric predictor, with their mean. A bend is a predictor that does not act "
        "along a straight line.",
    ),
    "leverage": (
        _leverage,
        "Standardised residuals against leverage, ∂ŷ/∂y. Labelled are the rows with the largest Cook's distances.",
    ),
    "influential rows": (
        _cooks_rows,
        "Cook's distance of each row, variances held. Above the dashed line would be a problem: fewer than 5 % of sound "
        "models show a check of any kind beyond its line.",
    ),
    "effect quantiles": (
        _effect_quantiles,
        "Random effects over the standard deviations that they have as predictions, against normal quantiles, with the band "
        "of simulated refits.",
    ),
    "effects": (
        _effect_pairs,
        "Predicted random effects against each other, with the least-squares line.",
    ),
    "residuals by effect": (
        _residuals_by_effect,
        "Standardised residuals against the random effects of their levels. The mean rises a little by construction, since "
        "effects are shrunk; the spread should not depend on the effect.",
    ),
    "spread by level": (
        _spread,
        "Standard deviation of the standardised residuals in each level: near 1 where the residual variance is the same.",
    ),
    "influential levels": (
        _cooks_levels,
        "Cook's distance of each level, all its rows left out together and the variances held; dashed: a problem above.",
    ),
    "rootogram": (
        _frequencies,
        "Roots of the numbers of each count, hanging from the roots of those expected. Bars that end above 0: too few.",
    ),
    "calibration": (
        _calibration,
        "Shares of 1 among rows of like fitted probability, with 95 % intervals; right probabilities are on the diagonal.",
    ),
    "components": (
        _components,
        "Principal components of the random effects (rePCA), in units of σ. A component of 0 is a combination of effects "
        "that does not vary between levels.",
    ),
}  # fmt: skip
_PANEL = (
    "residuals", "scale-location", "quantiles", "leverage", "effect quantiles", "influential levels", "rootogram",
    "calibration",
)  # fmt: skip
_POSTERIOR = {
    "predictive": (
        _predictive,
        "Statistics of responses replicated from the posterior, groups anew; the line is the data's own.",
    ),
    "priors": (
        _priors,
        "How much each posterior moves when its prior is scaled (Kallioinen et al. 2024); from the dashed line on, notable.",
    ),
}  # fmt: skip
