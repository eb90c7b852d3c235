"""Figures of effects and of draws: what is drawn is what the result holds."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scipy.stats import norm

import bayeslmm as bl
from bayeslmm import plot
from bayeslmm.errors import MethodError
from bayeslmm.plot.effects import RADIUS_95, ellipse, own_estimates


@pytest.fixture(scope="module")
def fit():
    return bl.fit(bl.load("models/sleepstudy"))


@pytest.fixture(scope="module")
def post(fit):
    return bl.sample(fit.model, draws=200, tune=300, chains=2, seed=1, progress=False)


def test_own_estimates_are_separate_regressions(fit):
    """lmList(Reaction ~ Days | Subject) of lme4 for subjects 308 and 372, and the fixed effects as the centre."""
    own, centre = own_estimates(fit, "Subject")
    np.testing.assert_allclose(own[[0, 17]], [[244.1926691, 21.76470242], [267.0448, 11.29807333]], rtol=1e-8)
    np.testing.assert_array_equal(centre, fit.beta)


def test_one_effect_is_shrunk_along_its_row():
    """Balanced one-way layout: the pooled estimate is the mean plus w of the way to the level's own mean."""
    fit = bl.fit(bl.load("models/wool"))
    own, centre = own_estimates(fit, "bale")
    w = fit.group_sd["bale"][0] ** 2 / (fit.group_sd["bale"][0] ** 2 + fit.sigma**2 / 4)
    np.testing.assert_allclose(fit.group_ranef["bale"], w * (own - centre), rtol=1e-6)
    lines = {line.get_label(): line for line in plot.shrinkage(fit).axes[0].lines}
    np.testing.assert_allclose(lines["own rows (no pooling)"].get_xdata(), np.sort(own[:, 0]))


def test_levels_without_an_estimate_of_their_own_are_counted():
    y = [1.0, 2.0, 3.5, 4.0, 5.5, 6.0, 4.5, 6.0, 6.5, 3.0]
    data = {"y": y, "x": [1, 2, 3, 1, 2, 3, 1, 2, 3, 1], "g": list("aaabbbcccd")}
    figure = plot.shrinkage(bl.fit(bl.Model("y ~ x + (x || g)", data)))
    assert "1 of 4 have too few rows" in figure.axes[0].get_title(loc="left")


def test_the_ellipse_has_its_radius():
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    away = ellipse(np.array([1.0, 2.0]), covariance, RADIUS_95) - np.array([[1.0], [2.0]])
    distance = np.einsum("im,ij,jm->m", away, np.linalg.inv(covariance), away)
    np.testing.assert_allclose(distance, -2 * np.log(0.05), rtol=1e-12)


def test_pairs_needs_two_effects(fit):
    assert len(plot.pairs(fit).axes) == 1
    with pytest.raises(MethodError, match="one effect"):
        plot.pairs(bl.fit(bl.load("models/wool")))


def test_quantiles_are_drawn_in_order(fit):
    first, second = plot.effects_qq(fit).axes
    np.testing.assert_allclose(second.lines[0].get_ydata(), np.sort(fit.group_ranef["Subject"][:, 1]))
    assert first.get_title(loc="left") == "Subject: Intercept"


def test_the_prior_drawn_is_the_prior_in_use(post):
    figure = plot.prior_posterior(post)
    ax = next(ax for ax in figure.axes if ax.get_title(loc="left") == "fixef[Days]")
    line = next(line for line in ax.lines if line.get_linestyle() == "--" and len(line.get_xdata()))
    prior = post.model.priors.fixef[1]
    np.testing.assert_allclose(line.get_ydata(), norm.pdf(line.get_xdata(), prior.args["mu"], prior.args["sigma"]))
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert "fixef[Intercept] at the predictor means" in titles


def test_spaghetti_are_single_draws(post):
    ax = plot.spaghetti(post, draws=5).axes[0]
    rows = post.model.design.random[0].codes == 0
    first = post.draws("fixef")[0] + post.draws("ranef_Subject")[0, 0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), post.model.X[rows] @ first)
    with pytest.raises(MethodError, match="positive whole number"):
        plot.spaghetti(post, draws=0)


@pytest.mark.parametrize("kind", ["groups", "caterpillar", "shrinkage", "pairs", "effects_qq", "residuals"])
def test_every_kind_is_drawn_and_has_a_caption(fit, post, kind):
    for result in (fit, post):
        FigureCanvasAgg(result.plot(kind)).draw()
    assert plot.captions[kind].endswith(".")


def test_unknown_kinds_are_refused_with_those_there_are(fit):
    with pytest.raises(MethodError, match="no figure is called 'pie'; this result has groups, caterpillar"):
        fit.plot("pie")
    with pytest.raises(MethodError, match="'density' is for posteriors"):
        fit.plot("density")
