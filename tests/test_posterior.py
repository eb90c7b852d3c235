"""The posterior's answers: the same questions as a point fit, ArviZ on its tree, files, and diagnostics in words."""

import sys

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.convergence import diagnose
from bayeslmm.errors import MethodError
from bayeslmm.posterior import Posterior, posterior_tree


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(9)
    n = 80
    g, h, x = np.arange(n) % 10, rng.integers(0, 5, n), rng.normal(size=n)
    u = rng.normal(size=(10, 2))
    y = 2 + x + u[g, 0] + u[g, 1] * x + rng.normal(size=5)[h] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "g": g, "h": h, "w": rng.uniform(0.5, 2, n), "known": rng.normal(size=n)})


@pytest.fixture(scope="module")
def model(data):
    return bl.Model("y ~ x + offset(known) + (x | g) + (1 | h)", data, weights="w")


@pytest.fixture(scope="module")
def post(model):
    return bl.sample(model, draws=500, tune=500, chains=4, seed=1, progress=False)


def test_tree_has_arvizs_groups_with_named_coordinates(post, model):
    assert set(post.data.children) == {"posterior", "sample_stats", "observed_data", "constant_data", "log_likelihood"}
    node = post.data.posterior
    assert node["fixef"].dims == ("chain", "draw", "coefficient")
    assert node["corr_g"].sizes == {"chain": 4, "draw": 500, "g_pair": 1}
    assert node["ranef_g"].sizes == {"chain": 4, "draw": 500, "g": 10, "g_effect": 2}
    assert list(node["g_effect"].values) == ["Intercept", "x"]
    assert list(node["g_pair"].values) == ["Intercept, x"]
    assert list(node["h"].values) == list(model.levels("h"))
    np.testing.assert_array_equal(post.data.observed_data["y"], model.design.y)
    np.testing.assert_array_equal(post.data.constant_data["weights"], model.design.weights)
    np.testing.assert_array_equal(post.data.constant_data["offset"], model.design.offset)
    assert {"diverging", "energy", "lp", "step_size", "tree_depth", "acceptance_rate", "n_steps"} <= set(
        post.data.sample_stats.data_vars
    )


def test_answers_are_means_and_spreads_of_the_draws(post, model):
    beta = post.draws("fixef")
    assert beta.shape == (2000, 2)
    np.testing.assert_allclose(post.fixef, beta.mean(axis=0), rtol=1e-12)
    assert list(post.fixef.index) == ["Intercept", "x"]
    np.testing.assert_allclose(post.se, beta.std(axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(post.vcov, np.cov(beta.T), rtol=1e-12)
    np.testing.assert_allclose(post.sd["g"], post.draws("sd_g").mean(axis=0), rtol=1e-12)
    assert post.corr["g"].loc["Intercept", "x"] == pytest.approx(post.draws("corr_g").mean())
    assert post.sigma == pytest.approx(post.draws("sigma").mean())
    np.testing.assert_allclose(post.ranef["g"], post.draws("ranef_g").mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(post.ranef_sd["g"], post.draws("ranef_g").std(axis=0, ddof=1), rtol=1e-12)
    assert list(post.ranef_sd["g"].columns) == ["Intercept", "x"]
    assert (post.nobs, post.ngroups) == (80, {"g": 10, "h": 5})
    np.testing.assert_allclose(post.fitted + post.residuals, model.design.y, rtol=1e-12)
    with pytest.raises(MethodError, match="no variable 'ranef_k'"):
        post.draws("ranef_k")


def test_near_reml_and_not_the_same(post, model):
    """With 80 rows and weak priors: coefficients within half a standard error of REML, effects highly correlated."""
    reml = bl.fit(model)
    assert (np.abs(post.fixef - reml.fixef) < 0.5 * reml.se).all()
    assert np.corrcoef(post.ranef["g"]["Intercept"], reml.ranef["g"]["Intercept"])[0, 1] > 0.98


def test_log_likelihood_is_conditional_and_per_row(post, model, data):
    u, v = post.draws("ranef_g"), post.draws("ranef_h")
    beta, sigma = post.draws("fixef"), post.draws("sigma")
    codes = {term.group: term.codes for term in model.design.random}
    mean = data.known.to_numpy() + beta[:, :1] + beta[:, 1:] * data.x.to_numpy()
    mean = mean + u[:, codes["g"], 0] + u[:, codes["g"], 1] * data.x.to_numpy() + v[:, codes["h"], 0]
    expected = stats.norm(mean, sigma[:, None] / np.sqrt(data.w.to_numpy())).logpdf(data.y.to_numpy())
    stored = post.data.log_likelihood["y"]
    assert stored.sizes == {"chain": 4, "draw": 500, "obs": 80}
    np.testing.assert_allclose(stored.values.reshape(2000, 80), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(stored.values, post.log_likelihood())


def test_log_likelihood_does_not_depend_on_the_chunks(post, monkeypatch):
    monkeypatch.setattr(sys.modules[Posterior.__module__], "ROWS_AT_ONCE", 1000)
    np.testing.assert_allclose(post.log_likelihood(), post.data.log_likelihood["y"].values, rtol=1e-12, atol=1e-12)


def test_arviz_works_on_the_tree(post):
    table = az.summary(post.data, var_names=["fixef", "sd_g", "corr_g", "sigma"])
    assert list(table.index) == [
        "fixef[Intercept]",
        "fixef[x]",
        "sd_g[Intercept]",
        "sd_g[x]",
        "corr_g[Intercept, x]",
        "sigma",
    ]
    loo = az.loo(post.data)
    assert np.isfinite(loo.elpd)
    assert 2 < loo.p < 25
    plot = az.plot_forest(post.data, var_names=["fixef", "sd_g"])
    assert plot.viz["figure"].item() is not None
    plt.close("all")


def test_summary_has_the_public_names_and_full_digits(post):
    table = post.summary()
    assert list(table.index) == [
        "fixef[Intercept]", "fixef[x]", "sd_g[Intercept]", "sd_g[x]", "corr_g[Intercept, x]", "sd_h[Intercept]", "sigma",
    ]  # fmt: skip
    assert table.loc["sigma", "mean"] == pytest.approx(post.sigma, rel=1e-14)
    assert "ranef_g[3, x]" in post.summary(var_names=["ranef_g"]).index


@pytest.mark.parametrize("file", ["draws.nc", "draws.zarr"])
def test_files_come_back_as_they_went(file, post, model, tmp_path):
    path = tmp_path / file
    post.save(path)
    post.save(path)  # an existing file is replaced
    again = Posterior.load(model, path)
    assert again.route == post.route
    assert again.data.attrs["seed"] == 1
    assert set(again.data.children) == set(post.data.children)
    for name, values in post.data.posterior.data_vars.items():
        np.testing.assert_array_equal(again.data.posterior[name], values)
    assert list(again.data.posterior["g"].values) == list(post.data.posterior["g"].values)
    pd.testing.assert_frame_equal(again.summary(), post.summary())
    assert again.diagnostics == post.diagnostics


def test_a_file_of_another_model_is_refused(post, data, tmp_path):
    post.save(tmp_path / "draws.nc")
    with pytest.raises(MethodError, match="not to 'y ~ x"):
        Posterior.load(bl.Model("y ~ x + (1 | g)", data), tmp_path / "draws.nc")
    other = bl.Model("y ~ x + offset(known) + (x | g) + (1 | h)", data.assign(y=data.y + 1), weights="w")
    with pytest.raises(MethodError, match="other data"):
        Posterior.load(other, tmp_path / "draws.nc")


def test_by_hand_posteriors_remember_their_route(post, model, tmp_path):
    whole = bl.posterior(model, post.data)
    assert whole.route == "hierarchical"  # every variable is there, so nothing is restored
    np.testing.assert_array_equal(whole.draws("ranef_h"), post.draws("ranef_h"))
    whole.save(tmp_path / "draws.nc")
    assert Posterior.load(model, tmp_path / "draws.nc").route == "hierarchical"


def planted(chains, draws, rng, shift=0.0, walk=False, diverging=0, slow_energy=False):
    """A posterior of `y ~ 1` with these faults in it."""
    model = bl.Model("y ~ 1", {"y": [1.0, 2.0, 4.0, 3.0]})
    noise = rng.normal(size=(chains, draws))
    if walk:
        for t in range(1, draws):
            noise[:, t] = 0.98 * noise[:, t - 1] + np.sqrt(1 - 0.98**2) * noise[:, t]
    beta = noise + shift * np.arange(chains)[:, None]
    energy = np.cumsum(rng.normal(size=(chains, draws)), axis=1) if slow_energy else rng.normal(size=(chains, draws))
    bad = np.zeros((chains, draws), bool)
    bad[0, :diverging] = True
    sigma = np.exp(0.3 * rng.normal(size=(chains, draws)))
    return Posterior(
        model,
        posterior_tree(model, {"fixef": beta[..., None], "sigma": sigma}, {}, {}, {"diverging": bad, "energy": energy}),
    )


def test_sound_draws_are_called_sound(post, rng):
    for found in (post.diagnostics, planted(4, 500, rng).diagnostics):
        assert found.ok
        assert len(found.sentences) == 1
        assert str(found).startswith("The draws look sound: R-hat at most 1.0")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"shift": 2.0}, ["chains disagree", "fixef[Intercept]", "Raise tune and draws"]),
        ({"diverging": 7}, ["7 divergent transitions", "target_accept"]),
        ({"slow_energy": True}, ["E-BFMI", "riors"]),
        ({"walk": True}, ["Too few effective draws", "Raise draws"]),
    ],
)
def test_planted_faults_are_named_with_what_to_do(fault, words, rng):
    found = planted(2, 1000, rng, **fault).diagnostics
    assert not found.ok
    text = str(found)
    for word in words:
        assert word in text
    if "shift" in fault:
        assert found.r_hat > 1.5
        assert found.worst == "fixef[Intercept]"
    if "diverging" in fault:
        assert found.divergences == 7
        assert len(found.sentences) == 1


@pytest.mark.parametrize(("chains", "draws"), [(1, 1000), (2, 1), (1, 1), (2, 3)])
def test_what_cannot_be_diagnosed_is_said(chains, draws, rng):
    found = diagnose(planted(chains, draws, rng))
    assert not found.ok
    assert "R-hat needs two chains of four draws" in str(found)
    assert np.isnan(found.r_hat)
    assert found.worst == "fixef[Intercept]"


def test_printing(post):
    text = str(post)
    for word in ("fixef[x]", "corr_g[Intercept, x]", "The draws look sound"):
        assert word in text
    assert repr(post) == f"Posterior({post.model.formula.text!r}, marginal, 4 x 500 draws)"
    assert "<table" in post._repr_html_()
