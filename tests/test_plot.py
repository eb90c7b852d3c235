"""Figures: what is drawn is what the result holds, labels are there, nothing has a background."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import bayeslmm as bl
from bayeslmm import plot
from bayeslmm.errors import MethodError
from bayeslmm.plot import results, style


@pytest.fixture(scope="module")
def sleep() -> SimpleNamespace:
    model = bl.load(Path(__file__).resolve().parents[1] / "models/sleepstudy/model.toml")
    post = bl.sample(model, draws=200, tune=300, seed=1, progress=False)
    return SimpleNamespace(model=model, reml=bl.fit(model), ml=bl.fit(model, "ML"), post=post)


@pytest.fixture(scope="module")
def linear() -> bl.PointFit:
    return bl.fit(bl.Model("y ~ x", {"y": [1.0, 2.5, 2.0, 4.0, 5.5], "x": [1, 2, 3, 4, 5]}))


def drawn(figure: Figure) -> np.ndarray:
    """The figure as pixels (height, width, 4); drawing it checks that it can be."""
    figure.set_dpi(50)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_forest_shows_every_parameter_and_result(sleep: SimpleNamespace) -> None:
    both = bl.compare(sleep.ml, sleep.reml, sleep.post)
    figure = both.plot()
    assert [ax.get_title(loc="left") for ax in figure.axes] == list(both.names)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ML", "REML", "posterior"]
    interval = figure.axes[1].lines[2].get_xdata()
    np.testing.assert_allclose(interval, both.table.loc["fixef[Days]", [("REML", "lower"), ("REML", "upper")]])
    assert "95 %" in figure.get_supxlabel()


def test_figures_have_no_background_and_are_not_empty(sleep: SimpleNamespace) -> None:
    figures = [
        bl.compare(sleep.reml, sleep.post).plot(),
        plot.caterpillar(sleep.reml),
        plot.residuals(sleep.reml),
        plot.density(sleep.post, sleep.reml),
        plot.groups(sleep.reml),
        plot.limiting(bl.limiting_prior(sleep.reml)),
    ]
    for figure in figures:
        pixels = drawn(figure)
        assert pixels[0, 0, 3] == 0
        assert (pixels[..., 3] > 0).mean() > 0.005


def test_text_reads_on_white_and_on_black() -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for colour, least in [(style.GREY, 4.5), *((colour, 3.0) for colour in style.COLOURS[:3])]:
        grey = luminance(colour)
        assert 1.05 / (grey + 0.05) >= least
        assert (grey + 0.05) / 0.05 >= least


def test_caterpillar_is_sorted_with_the_conditional_intervals(sleep: SimpleNamespace) -> None:
    figure = plot.caterpillar(sleep.reml, "Subject")
    first, second = figure.axes
    modes = sleep.reml.ranef["Subject"].sort_values("Intercept")
    np.testing.assert_allclose(first.lines[0].get_xdata(), modes["Intercept"])
    np.testing.assert_allclose(second.lines[0].get_xdata(), modes["Days"])
    assert [label.get_text() for label in first.get_yticklabels()] == list(modes.index)
    widths = [np.ptp(segment[:, 0]) for segment in first.collections[0].get_segments()]
    expected = 2 * 1.959964 * np.sqrt(sleep.reml.ranef_cov["Subject"][:, 0, 0])
    np.testing.assert_allclose(np.sort(widths), np.sort(expected), rtol=1e-5)


def test_caterpillar_of_a_posterior_has_its_quantiles(sleep: SimpleNamespace) -> None:
    figure = plot.caterpillar(sleep.post)
    ends = np.array([segment[:, 0] for segment in figure.axes[1].collections[0].get_segments()])
    expected = np.quantile(sleep.post.draws("ranef_Subject")[..., 1], [0.025, 0.975], axis=0).T
    np.testing.assert_allclose(np.sort(ends[:, 0]), np.sort(expected[:, 0]))


def test_many_levels_are_counted_instead_of_named(rng: np.random.Generator) -> None:
    codes = np.repeat(np.arange(100), 3)
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", {"y": rng.normal(size=100)[codes] + rng.normal(size=300), "g": codes}))
    assert "100 levels" in plot.caterpillar(fit).axes[0].get_ylabel()
    figure = plot.groups(fit)
    assert len(figure.axes) == results.MOST_PANELS
    assert "36 of 100 levels" in figure.get_suptitle()


def test_groups_show_data_and_fitted_values(sleep: SimpleNamespace) -> None:
    figure = plot.groups(sleep.reml)
    assert len(figure.axes) == 18
    assert figure.get_supxlabel() == "Days"
    fixed, fitted, data = figure.axes[0].lines
    own = sleep.model.design.random[0].codes == 0
    np.testing.assert_allclose(data.get_ydata(), sleep.model.design.y[own])
    np.testing.assert_allclose(fitted.get_ydata(), sleep.reml.fitted[own])
    np.testing.assert_allclose(fixed.get_ydata(), sleep.model.X[own] @ sleep.reml.beta)


def test_residuals_are_in_units_of_sigma_and_weighted(sleep: SimpleNamespace, rng: np.random.Generator) -> None:
    left, _ = plot.residuals(sleep.reml).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), sleep.reml.residuals / sleep.reml.sigma)
    data = pd.DataFrame({"y": rng.normal(size=30), "g": np.arange(30) % 6, "w": rng.uniform(1, 4, 30)})
    weighted = bl.fit(bl.Model("y ~ 1 + (1 | g)", data, weights="w"))
    left, _ = plot.residuals(weighted).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), np.sqrt(data["w"]) * weighted.residuals / weighted.sigma)


def test_densities_mark_the_point_fits(sleep: SimpleNamespace) -> None:
    figure = plot.density(sleep.post, sleep.reml, sleep.ml)
    ax = next(ax for ax in figure.axes if ax.get_title(loc="left") == "sd_Subject[Days]")
    marks = {line.get_label(): line.get_xdata()[0] for line in ax.lines}
    assert marks["REML"] == sleep.reml.group_sd["Subject"][1]
    assert marks["ML"] == sleep.ml.group_sd["Subject"][1]
    curve = next(line for line in ax.lines if line.get_label() == "posterior")
    assert np.trapezoid(curve.get_ydata(), curve.get_xdata()) == pytest.approx(1.0, abs=0.02)


def test_limiting_prior_has_a_line_of_slope_one(sleep: SimpleNamespace) -> None:
    (ax,) = plot.limiting(bl.limiting_prior(sleep.reml)).axes
    line = next(line for line in ax.lines if line.get_label() == "slope 1")
    assert np.ptp(np.log10(line.get_xdata())) == pytest.approx(np.ptp(np.log10(line.get_ydata())))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_what_cannot_be_drawn_is_refused(sleep: SimpleNamespace, linear: bl.PointFit) -> None:
    with pytest.raises(MethodError, match="no group 'Days'; it has Subject"):
        plot.caterpillar(sleep.reml, "Days")
    for draw in (plot.caterpillar, plot.groups):
        with pytest.raises(MethodError, match="no random effects"):
            draw(linear)
    assert len(plot.residuals(linear).axes) == 2


def test_other_families_are_drawn_on_the_scale_of_the_response() -> None:
    rng = np.random.default_rng(3)
    trials, x = rng.integers(4, 9, 60), np.tile(np.linspace(-1, 1, 10), 6)
    data = {"s": rng.binomial(trials, 0.4), "n": trials, "x": x, "g": np.repeat(np.arange(6), 10)}
    fit = bl.fit(bl.Model("p(s, n) ~ x + (1 | g)", data, family="binomial"))
    alone, fitted, points = plot.groups(fit).axes[0].lines
    np.testing.assert_allclose(alone.get_ydata(), 1 / (1 + np.exp(-(fit.beta[0] + fit.beta[1] * x[:10]))), rtol=1e-12)
    np.testing.assert_allclose(fitted.get_ydata(), fit.fitted.to_numpy()[:10], rtol=1e-12)
    np.testing.assert_allclose(points.get_ydata(), (data["s"] / trials)[:10], rtol=1e-12)
    left, _ = plot.residuals(fit).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), fit.pearson_residuals, rtol=1e-12)
