"""The hierarchical graph: names, coordinates, and its joint density against SciPy, term by term."""

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
import scipy.stats as st
from graphs import QUICK, density_and_gradient

import bayeslmm as bl
from bayeslmm.distributions import Prior
from bayeslmm.errors import DataError, MethodError
from bayeslmm.graph.correlation import log_normaliser
from bayeslmm.graph.hierarchical import build, choose_parametrisation, informativeness, level_fits

PRIORS = {
    "x": Prior("Normal", mu=0.5, sigma=2),
    "sd_g[Intercept]": Prior("HalfNormal", sigma=2),
    "sd_g[x]": Prior("Gamma", alpha=2, beta=1),
    "sd_h": Prior("Exponential", lam=0.5),
    "corr_g": Prior("LKJ", eta=2),
    "sigma": Prior("HalfNormal", sigma=3),
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(7)
    n = 24
    return pd.DataFrame(
        {
            "y": rng.normal(3, 2, n), "x": rng.normal(1, 1, n), "known": rng.normal(size=n),
            "w": rng.uniform(0.5, 2, n), "g": np.tile(list("abcd"), 6), "h": np.repeat(["p", "q", "r"], 8),
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(data):
    return bl.Model("y ~ x + offset(known) + (x | g) + (1 | h)", data, priors=PRIORS, weights="w")


TRUTH = {
    "fixef": np.array([1.2, -0.4]),
    "sd_g": np.array([0.8, 1.7]),
    "corr_g": np.array([0.35]),
    "sd_h": np.array([0.6]),
    "sigma": np.array(1.4),
}


def standard_effects():
    rng = np.random.default_rng(3)
    return rng.normal(size=(4, 2)), rng.normal(size=(3, 1))


def effects_and_covariance():
    covariance = np.outer(TRUTH["sd_g"], TRUTH["sd_g"]) * np.array([[1, 0.35], [0.35, 1]])
    z_g, z_h = standard_effects()
    return z_g @ np.linalg.cholesky(covariance).T, z_h * TRUTH["sd_h"], covariance


def by_hand(model, data, centred_g, centred_h):
    """Sum of the log densities of data, effects and parameters."""
    intercept = model.priors.fixef[0].args
    u_g, u_h, covariance = effects_and_covariance()
    z_g, z_h = standard_effects()
    beta = TRUTH["fixef"]
    row_g, row_h = data.g.map(dict(zip("abcd", range(4), strict=True))), data.h.map({"p": 0, "q": 1, "r": 2})
    mean = data.known + beta[0] + beta[1] * data.x + u_g[row_g, 0] + u_g[row_g, 1] * data.x + u_h[row_h, 0]
    total = st.norm(mean, TRUTH["sigma"] / np.sqrt(data.w)).logpdf(data.y).sum()
    centre = beta[0] + beta[1] * data.x.mean()
    total += st.norm(intercept["mu"], intercept["sigma"]).logpdf(centre) + st.norm(0.5, 2).logpdf(beta[1])
    total += st.halfnorm(0, 2).logpdf(0.8) + st.gamma(2).logpdf(1.7) + st.expon(0, 2).logpdf(0.6)
    total += np.log(1 - 0.35**2) + log_normaliser(2, 2.0) + st.halfnorm(0, 3).logpdf(1.4)
    total += (
        st.multivariate_normal(np.zeros(2), covariance).logpdf(u_g).sum() if centred_g else st.norm.logpdf(z_g).sum()
    )
    return total + (st.norm(0, 0.6).logpdf(u_h).sum() if centred_h else st.norm.logpdf(z_h).sum())


def point_of(graph):
    """The values above as a point in the graph's unconstrained variables."""
    u_g, u_h, _ = effects_and_covariance()
    z_g, z_h = standard_effects()
    values = TRUTH | {"ranef_g": u_g, "ranef_h": u_h, "z_g": z_g, "z_h": z_h}
    point = {}
    for rv in graph.free_RVs:
        transform, value = graph.rvs_to_transforms[rv], values[rv.name]
        free = transform.forward(pt.as_tensor(value), *rv.owner.inputs).eval(mode=QUICK) if transform else value
        point[graph.rvs_to_values[rv].name] = free
    return point


@pytest.mark.parametrize(("g", "h"), [("centred", "centred"), ("noncentred", "noncentred"), ("centred", "noncentred")])
def test_joint_density_is_the_sum_of_its_parts(model, data, g, h):
    graph = build(model, {"g": g, "h": h})
    found = graph.compile_logp(jacobian=False, mode=QUICK)(point_of(graph))
    assert found == pytest.approx(by_hand(model, data, g == "centred", h == "centred"), rel=1e-11)


def test_both_parametrisations_give_the_same_effects(model):
    u_g, u_h, _ = effects_and_covariance()
    graph = build(model, "noncentred")
    effects = graph.replace_rvs_by_values([graph["ranef_g"], graph["ranef_h"]])
    function = graph.compile_fn(effects, inputs=graph.value_vars, mode=QUICK, on_unused_input="ignore")
    found_g, found_h = function(point_of(graph))
    np.testing.assert_allclose(found_g, u_g, rtol=1e-13)
    np.testing.assert_allclose(found_h, u_h, rtol=1e-13)


def test_gradient_of_the_centred_graph(model):
    graph = build(model, "centred")
    density = density_and_gradient(graph)
    point = point_of(graph)
    names = [variable.name for variable in graph.continuous_value_vars]
    numerical = []
    for name in names:
        for position in np.ndindex(np.shape(point[name])):
            step = np.zeros(np.shape(point[name]))
            step[position] = 1e-5
            up, down = (density(point | {name: point[name] + sign * step})[0] for sign in (1, -1))
            numerical.append((up - down) / 2e-5)
    # central differences of a log density near 100: rounding of 1e-14 over a step of 1e-5
    np.testing.assert_allclose(density(point)[1], numerical, rtol=1e-6, atol=1e-7)


def test_names_dimensions_and_coordinates(model):
    graph = build(model, {"g": "centred", "h": "noncentred"})
    assert {v.name for v in graph.free_RVs} == {"fixef", "sd_g", "corr_g", "ranef_g", "sd_h", "z_h", "sigma"}
    assert [v.name for v in graph.deterministics] == ["ranef_h"]
    assert [v.name for v in graph.observed_RVs] == ["y"]
    dims = graph.named_vars_to_dims
    assert dims["fixef"] == ("coefficient",)
    assert dims["ranef_g"] == ("g", "g_effect")
    assert dims["ranef_h"] == ("h", "h_effect")
    assert (dims["sd_g"], dims["corr_g"], dims["y"]) == (("g_effect",), ("g_pair",), ("obs",))
    assert graph.coords["coefficient"] == ("Intercept", "x")
    assert graph.coords["g"] == ("a", "b", "c", "d")
    assert graph.coords["g_pair"] == ("Intercept, x",)
    assert "h_pair" not in graph.coords


def test_terms_on_one_group_share_vectors_and_correlate_only_within(data):
    wide = data.assign(z=np.linspace(-1, 1, len(data)))
    model = bl.Model("y ~ 1 + (x | g) + (0 + z | g)", wide)
    graph = build(model, "centred")
    assert graph.coords["g_effect"] == ("Intercept", "x", "z")
    assert graph.coords["g_pair"] == ("Intercept, x",)
    draws = pm.draw([graph["sd_g"], graph["corr_g"], graph["ranef_g"]], 3, random_seed=1, mode=QUICK)
    assert [draw.shape for draw in draws] == [(3, 3), (3, 1), (3, 4, 3)]


def test_uncorrelated_terms_have_no_correlation_variable(data):
    graph = build(bl.Model("y ~ x + (x || g)", data), "noncentred")
    assert "corr_g" not in graph.named_vars
    assert graph.coords["g_effect"] == ("Intercept", "x")


def test_linear_model_and_model_without_coefficients(data):
    assert [v.name for v in build(bl.Model("y ~ x", data)).free_RVs] == ["fixef", "sigma"]
    graph = build(bl.Model("y ~ 0 + (1 | g)", data), "centred")
    assert {v.name for v in graph.free_RVs} == {"sd_g", "ranef_g", "sigma"}
    assert np.isfinite(graph.compile_logp(mode=QUICK)(graph.initial_point()))


def test_parametrisation_follows_the_information_in_a_level():
    rng = np.random.default_rng(1)
    codes = np.repeat(np.arange(30), 10)
    noise = rng.normal(size=300)
    strong = {"y": 5 * rng.normal(size=30)[codes] + noise, "g": codes.astype(str)}
    weak = {"y": noise, "g": codes.astype(str)}
    assert choose_parametrisation(bl.Model("y ~ 1 + (1 | g)", strong)) == {"g": "centred"}
    assert choose_parametrisation(bl.Model("y ~ 1 + (1 | g)", weak)) == {"g": "noncentred"}
    mostly_single = np.minimum(np.arange(300), 139).astype(str)
    slopes = bl.Model("y ~ x + (x | g)", {"y": strong["y"], "g": mostly_single, "x": rng.normal(size=300)})
    assert informativeness(slopes) == {"g": 0.0}


def test_a_group_does_not_claim_the_variance_of_the_groups_inside_it():
    rng = np.random.default_rng(4)
    cask = np.repeat(np.arange(40), 5)
    table = {"y": 3 * rng.normal(size=40)[cask] + rng.normal(size=200), "batch": cask // 4, "cask": cask % 4}
    table |= {name: table[name].astype(str) for name in ("batch", "cask")}
    chosen = choose_parametrisation(bl.Model("y ~ 1 + (1 | batch / cask)", table))
    assert chosen == {"batch": "noncentred", "cask:batch": "centred"}


def test_informativeness_estimates_the_variance_ratio():
    rng = np.random.default_rng(2)
    codes = np.repeat(np.arange(2000), 8)
    y = 1.5 * rng.normal(size=2000)[codes] + 2 * rng.normal(size=16_000)
    ratio = informativeness(bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": codes.astype(str)}))["g"]
    # tau² n / sigma² = 4.5; the relative error of a variance from 2000 levels is sqrt(2 / 2000) times (1 + 1/4.5)
    assert ratio == pytest.approx(4.5, rel=4 * np.sqrt(2 / 2000) * (1 + 1 / 4.5))


def test_level_fits_are_weighted_least_squares(model, data):
    term = model.design.random[0]
    fits = level_fits((term,), data.y.to_numpy(), data.w.to_numpy())
    for level in range(4):
        rows = term.codes == level
        root = np.sqrt(data.w[rows].to_numpy())
        expected = np.linalg.lstsq(root[:, None] * term.columns[rows], root * data.y[rows].to_numpy())[0]
        np.testing.assert_allclose(fits.fitted[rows], term.columns[rows] @ expected, rtol=1e-10)
    assert (fits.ranks == 2).all()


@pytest.mark.parametrize("choice", ["centered", {"g": "no"}, {"nobody": "centred"}])
def test_unknown_parametrisations_are_refused(model, choice):
    with pytest.raises(MethodError, match="parametrisation="):
        build(model, choice)


def test_colliding_names_are_refused(data):
    with pytest.raises(DataError, match=r"'sigma'.*rename"):
        build(bl.Model("sigma ~ x + (1 | g)", data.rename(columns={"y": "sigma"})))
    with pytest.raises(DataError, match=r"'obs'.*rename"):
        build(bl.Model("y ~ x + (1 | obs)", data.rename(columns={"g": "obs"})))


def test_response_expression_keeps_its_text(data):
    graph = build(bl.Model("np.exp(y) ~ x + (1 | g)", data), "centred")
    assert [v.name for v in graph.observed_RVs] == ["np.exp(y)"]


@pytest.mark.parametrize("parametrisation", ["centred", "noncentred"])
def test_prior_predictive_has_every_variable(model, parametrisation):
    with build(model, parametrisation):
        prior = pm.sample_prior_predictive(50, random_seed=1, compile_kwargs={"mode": QUICK})
    assert prior.prior["ranef_g"].sizes == {"chain": 1, "draw": 50, "g": 4, "g_effect": 2}
    assert np.abs(prior.prior["corr_g"]).max() < 1
    assert prior.prior_predictive["y"].shape == (1, 50, 24)


@pytest.mark.slow
def test_both_parametrisations_have_one_posterior(root):
    table = {"y": [], "x": [], "g": []}
    rng = np.random.default_rng(5)
    for level in "abcdefghijkl":
        shift, slope = rng.normal(0, [2, 1])
        x = np.arange(8.0) - 3.5
        table["y"] += list(shift + (1 + slope) * x + rng.normal(0, 1.5, 8))
        table["x"] += list(x)
        table["g"] += [level] * 8
    model = bl.Model("y ~ x + (x | g)", table)
    means, errors = [], []
    for parametrisation in ("centred", "noncentred"):
        with build(model, parametrisation):
            dt = pm.sample(2000, tune=1000, chains=2, random_seed=1, progressbar=False, quiet=True)
        names = ["fixef", "sd_g", "corr_g", "sigma"]
        draws = np.concatenate([dt.posterior[name].values.reshape(2, 2000, -1) for name in names], axis=-1)
        batches = draws.reshape(2 * 20, 100, -1).mean(axis=1)
        means.append(draws.mean(axis=(0, 1)))
        errors.append(batches.std(axis=0, ddof=1) / np.sqrt(len(batches)))
    # batch means of 100 draws: the standard error of each mean, six parameters compared at once
    assert (np.abs(means[0] - means[1]) < 4 * np.hypot(*errors)).all()
