"""Figures of draws: densities of the parameters, what the prior said of them, and fitted lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeslmm.errors import MethodError
from bayeslmm.exact.densities import means
from bayeslmm.family import LINKS
from bayeslmm.plot.results import MOST_PANELS, panel_axis, panel_term
from bayeslmm.plot.style import COLOURS, blank, grid, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bayeslmm.posterior import Posterior
    from bayeslmm.priors import Prior
    from bayeslmm.result import PointFit

Array = NDArray[np.float64]
Density = Array | str
AT = " at the predictor means"


def density(posterior: Posterior, *fits: PointFit) -> Figure:
    """Posterior density of β, sd, correlations and σ, one panel each, with the point estimates marked.

    Parameters
    ----------
    posterior : Posterior
        Whose draws.
    *fits : PointFit
        Fits of the same model to mark: REML, ML, MAP.

    Returns
    -------
    Figure
    """
    drawn, points = drawn_values(posterior), [point_values(fit) for fit in fits]
    with style():
        across = min(3, len(drawn))
        figure = blank(3.1 * across + 0.4, 2.1 * -(-len(drawn) // across) + 0.5)
        axes = grid(figure, len(drawn), across)
        for ax, (name, values) in zip(axes, drawn.items(), strict=True):
            density_panel(ax, name, values)
            for i, (fit, marks) in enumerate(zip(fits, points, strict=True)):
                if name in marks:
                    colour, dashes = COLOURS[1 + i % 5], ("-", "--", ":", "-.")[i % 4]
                    ax.axvline(marks[name], color=colour, linestyle=dashes, linewidth=1.8, label=fit.method)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return figure


def density_panel(ax: Axes, name: str, values: Array) -> None:
    """Kernel density of draws with their 95 % interval along the axis."""
    from arviz_stats.base.array import array_stats

    if np.ptp(values) > 0:
        from_zero = not name.startswith(("fixef[", "corr_")) and values.min() < 0.05 * values.max()
        limits = (0.0, float(values.max())) if from_zero else None
        at, height, _ = array_stats.kde(values, custom_lims=limits)
        ax.fill_between(at, height, color=COLOURS[0], alpha=0.25, linewidth=0)
        ax.plot(at, height, color=COLOURS[0], linewidth=1.5, label="posterior")
    lower, upper = np.quantile(values, [0.025, 0.975])
    ax.plot([lower, upper], [0, 0], color=COLOURS[0], linewidth=4, solid_capstyle="butt", clip_on=False)
    ax.set_ylim(bottom=0)
    ax.set_title(name, loc="left")
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5)


def drawn_values(posterior: Any) -> dict[str, Array]:
    """Draws by public name."""
    model = posterior.model
    found: dict[str, Array] = {}
    if model.design.fixed.names:
        found |= _named("fixef", model.design.fixed.names, posterior.draws("fixef"))
    for group in model.groups:
        effects = model.effects(group)
        found |= _named(f"sd_{group}", effects, posterior.draws(f"sd_{group}"))
        if pairs := model.pairs(group):
            labels = [f"{effects[i]}, {effects[j]}" for i, j in pairs]
            found |= _named(f"corr_{group}", labels, posterior.draws(f"corr_{group}"))
    return found | ({model.dispersion: np.ravel(posterior.draws(model.dispersion))} if model.dispersion else {})


def _named(kind: str, labels: Sequence[str], draws: Array) -> dict[str, Array]:
    return {f"{kind}[{label}]": draws[:, i] for i, label in enumerate(labels)}


def point_values(fit: Any) -> dict[str, float]:
    """Point estimates by public name."""
    model = fit.model
    found = {f"fixef[{name}]": float(value) for name, value in zip(model.design.fixed.names, fit.beta, strict=True)}
    for group in model.groups:
        effects, sd, corr = model.effects(group), fit.group_sd[group], fit.group_corr[group]
        found |= {f"sd_{group}[{effect}]": float(value) for effect, value in zip(effects, sd, strict=True)}
        found |= {
            f"corr_{group}[{effects[i]}, {effects[j]}]": float(corr[i, j])
            for i, j in model.pairs(group)
            if sd[i] > 0 and sd[j] > 0
        }
    noise = getattr(fit, "dispersion", fit.sigma)
    return found | ({model.dispersion: float(noise)} if model.dispersion else {})


def prior_posterior(posterior: Posterior) -> Figure:
    """Posterior density of β, sd, correlations and σ, one panel each, and the prior density of the same.

    A default intercept prior is on the intercept at the predictor means, so that is what is drawn. A flat prior, and one
    of a family whose density only PyMC knows, is named instead of drawn. A correlation's prior is its marginal one under
    LKJ(η): for k effects ``(1 + ρ)/2 ~ Beta(a, a)``, ``a = η + (k − 2)/2`` (Lewandowski, Kurowicka and Joe 2009).

    Parameters
    ----------
    posterior : Posterior
        Whose draws.

    Returns
    -------
    Figure
    """
    drawn = _as_given(posterior)
    with style():
        across = min(3, len(drawn))
        figure = blank(3.1 * across + 0.4, 2.2 * -(-len(drawn) // across) + 0.6)
        for ax, (name, values) in zip(grid(figure, len(drawn), across), drawn.items(), strict=True):
            density_panel(ax, name, values)
            ax.plot([], [], color=COLOURS[1], linestyle="--", linewidth=1.5, label="prior")
            at = np.linspace(*_window(name, values), 400)
            prior = _prior_density(posterior.model, name, at)
            if isinstance(prior, str):
                ax.text(0.98, 0.95, prior, transform=ax.transAxes, ha="right", va="top", size=8, color=COLOURS[1])
            else:
                top = ax.get_ylim()[1]
                ax.plot(at, prior, color=COLOURS[1], linestyle="--", linewidth=1.5)
                ax.set_ylim(0, max(top, min(4 * top, 1.05 * float(np.max(prior, where=np.isfinite(prior), initial=0)))))
            ax.set_xlim(at[0], at[-1])
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower right", ncols=len(labels))
        figure.supxlabel("in the units of the data", size=9, x=0.02, ha="left")
    return figure


def _as_given(posterior: Any) -> dict[str, Array]:
    """Draws of what the priors are on: the coefficients T β, sd, correlations, σ."""
    drawn = drawn_values(posterior)
    priors = posterior.model.priors
    if priors.centred_intercept:
        name, at = "fixef[Intercept]", priors.coefficients.index("Intercept")
        shifted = posterior.draws("fixef") @ priors.fixef_transform[at]
        drawn = {key + AT if key == name else key: shifted if key == name else v for key, v in drawn.items()}
    return drawn


def _window(name: str, values: Array) -> tuple[float, float]:
    """Where to draw: half as far again as the draws on either side, within the parameter's range."""
    lower, upper = float(values.min()), float(values.max())
    reach = 0.5 * (upper - lower) or max(abs(upper), 1.0)
    if name.startswith("corr_"):
        return -1.0, 1.0
    start = lower - reach
    return (start if name.startswith("fixef[") else max(0.0, start)), upper + reach


def _prior_density(model: Any, name: str, at: Array) -> Density:
    """The prior's density at values of a parameter, or the words for one that has no density to draw."""
    if name.startswith("corr_"):
        return _correlation_density(model, name, at)
    prior: Prior = model.priors.parameters()[name.removesuffix(AT)]
    if not prior.closed_form:
        return f"{prior}: known to PyMC only"
    if not prior.proper:
        return "flat prior"
    from bayeslmm.exact.logpdf import encode, logpdf

    code = encode(prior.name, prior.args)
    return np.exp([logpdf(*code, float(x))[0] for x in at])


def _correlation_density(model: Any, name: str, at: Array) -> Density:
    from scipy.stats import beta

    group, _, pair = name.removeprefix("corr_").partition("[")
    own = pair.removesuffix("]")
    for term in model.design.random:
        k = len(term.effects)
        labels = [f"{term.effects[i]}, {term.effects[j]}" for i, j in term.covariance.pairs]
        if term.group == group and own in labels:
            if len(labels) < k * (k - 1) // 2:
                return "LKJ prior on part of the correlations"
            a = model.priors.corr[group].args["eta"] + (k - 2) / 2
            return np.asarray(0.5 * beta.pdf(0.5 * (1.0 + at), a, a))
    raise MethodError(f"the model has no correlation {name!r}")


def spaghetti(posterior: Posterior, group: str | None = None, draws: int = 50) -> Figure:
    """Data and the fitted lines of single posterior draws, one panel per level, with their mean.

    At most 36 levels are drawn, evenly spaced over all; without random effects there is one panel.

    Parameters
    ----------
    posterior : Posterior
        Whose draws; those of the random effects must have been kept.
    group : str, optional
        Grouping factor; the first one that has an effect beside the intercept, else the first.
    draws : int
        How many lines, evenly spaced over all draws.

    Returns
    -------
    Figure

    Raises
    ------
    MethodError
        The model has no such group, or the draws of its effects were not kept.
    """
    model, design = posterior.model, posterior.model.design
    lines = _lines(posterior, draws)
    term = panel_term(model, group) if model.groups or group is not None else None
    label, x = panel_axis(model, term)
    levels: Sequence[str] = term.levels if term is not None else ("",)
    codes = term.codes if term is not None else np.zeros(design.nobs, int)
    shown = np.unique(np.linspace(0, len(levels) - 1, MOST_PANELS).astype(int))
    mean, y = posterior.fitted.to_numpy(), design.y / (1.0 if design.trials is None else design.trials)
    with style():
        across = min(6, len(shown))
        width, height = (1.6, 1.45) if len(shown) > 1 else (5.0, 3.6)
        figure = blank(width * across + 0.6, height * -(-len(shown) // across) + 0.7)
        for ax, level in zip(grid(figure, len(shown), across, sharex=True, sharey=True), shown, strict=True):
            rows = np.flatnonzero(codes == level)
            rows = rows[np.argsort(x[rows], kind="stable")]
            ax.plot(x[rows], lines[:, rows].T, color=COLOURS[1], linewidth=0.6, alpha=0.25)
            ax.plot(x[rows], mean[rows], color=COLOURS[1], linewidth=1.6)
            ax.plot(x[rows], y[rows], "o", color=COLOURS[0], markersize=3, markeredgewidth=0)
            ax.set_title(levels[level], size=9, pad=2)
            ax.tick_params(labelsize=8)
        figure.supxlabel(label, size=10)
        figure.supylabel(design.response, size=10)
        some = "" if len(shown) == len(levels) else f"; {len(shown)} of {len(levels)} levels"
        what = f"{term.group}: data, " if term is not None else "data, "
        figure.suptitle(f"{what}{len(lines)} posterior draws and their mean{some}", size=10)
    return figure


def _lines(posterior: Any, draws: int) -> Array:
    """Means given the effects (draws, n) of draws evenly spaced over all."""
    total = posterior.n_draws
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 1:
        raise MethodError(f"draws={draws!r} must be a positive whole number: how many lines to draw")
    wanted = np.unique(np.linspace(0, total - 1, draws).astype(int))
    eta = np.concatenate(
        [eta[wanted[(wanted >= r.start) & (wanted < r.stop)] - r.start] for r, eta in posterior.predictor_draws()]
    )
    return np.asarray(means(LINKS[posterior.model.link], eta.ravel()).reshape(eta.shape))
