"""Replicated responses beside the draws of a posterior: which draw each is from, whose effects, and what ArviZ makes of them."""

import arviz as az
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeslmm as bl
from bayeslmm.errors import MethodError
from bayeslmm.posterior import posterior_tree

CHAINS, DRAWS = 2, 11
LEVELS = {"g": 4, "h": 3}


def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = 24
    labels = {name: np.arange(n) % count for name, count in LEVELS.items()}
    return pd.DataFrame(
        {"y": rng.normal(size=n), "k": rng.poisson(3, n), **{k: v.astype(str) for k, v in labels.items()}}
    )


def invented(family: str = "gaussian") -> bl.Posterior:
    """A posterior whose draw d of chain c has the intercept 1000 (11c + d), effects 100 of g and 10 of h, and no spread."""
    response = "y" if family == "gaussian" else "k"
    model = bl.Model(f"{response} ~ 1 + (1 | g) + (1 | h)", table(), family=family, link="identity")
    size = (CHAINS, DRAWS)
    draws = {
        "fixef": 1000.0 * np.arange(CHAINS * DRAWS).reshape(*size, 1),
        "sd_g": np.full((*size, 1), 1e-9),
        "sd_h": np.full((*size, 1), 1e-9),
        "sigma": np.full(size, 1e-9),
    }
    effects = {name: np.full((*size, count, 1), 100.0 if name == "g" else 10.0) for name, count in LEVELS.items()}
    tree = posterior_tree(model, draws, effects, {}, {"energy": np.zeros(size)})
    return bl.Posterior(model, tree, "hierarchical")


@pytest.mark.parametrize(("groups", "added"), [("conditional", 110), ("new", 0), (["g"], 10), (["h"], 100)])
def test_each_draw_has_its_own_responses(groups, added) -> None:
    """Without spread the response is the mean of its own draw, effects kept or (as good as 0) drawn anew."""
    post = invented()
    frame = bl.simulate(post, groups=groups, seed=1, store=True)
    stored = post.data["posterior_predictive"]["y"]
    assert stored.dims == ("chain", "draw", "obs")
    wanted = 1000.0 * np.arange(CHAINS * DRAWS).reshape(CHAINS, DRAWS) + added
    np.testing.assert_allclose(stored.values, np.tile(wanted[:, :, None], 24), atol=1e-6)
    np.testing.assert_array_equal(frame.to_numpy().T, stored.values.reshape(-1, 24))
    assert {"observed_data", "constant_data"} <= set(post.data.children)
    assert stored["obs"].values.tolist() == post.data["observed_data"]["obs"].values.tolist()


def test_fewer_draws_are_spaced_over_each_chain() -> None:
    post = invented()
    bl.simulate(post, 3, groups="conditional", seed=1, store=True)
    stored = post.data["posterior_predictive"]["y"]
    assert stored["draw"].values.tolist() == [0, 5, 10]
    np.testing.assert_allclose(stored.values[1, :, 0], [11110.0, 16110.0, 21110.0])
    assert stored.sizes["chain"] == CHAINS


def test_new_rows_are_predictions() -> None:
    post = invented()
    new = pd.DataFrame({"g": ["0", "elsewhere"], "h": ["1", "1"]}, index=[70, 71])
    bl.simulate(post, 1, groups="conditional", data=new, seed=1, store=True)
    stored = post.data["predictions"]["y"]
    assert stored["obs"].values.tolist() == [70, 71]
    np.testing.assert_allclose(stored.values[0, 0], [110.0, 10.0], atol=1e-6)  # a level that was not fitted: drawn
    assert "posterior_predictive" not in post.data.children


def test_effects_of_some_groups_of_a_fit_may_be_drawn_anew() -> None:
    """Variances of 400 simulations: σ² if both groups are kept, more by each sd² that is drawn; error 7 %, averaged over 24 rows."""
    truth = {"fixef": [0.0], "sd_g": 2.0, "sd_h": 4.0, "sigma": 1.0}
    data = table()
    data["y"] = bl.simulate(bl.Model("y ~ 1 + (1 | g) + (1 | h)", data), seed=5, parameters=truth)["sim_1"]
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g) + (1 | h)", data))
    g, h = (float(fit.sd[name].iloc[0]) for name in "gh")
    for groups, added in (("conditional", 0.0), (["g"], g**2), (["h"], h**2), (["g", "h"], g**2 + h**2)):
        spread = bl.simulate(fit, 400, groups=groups, seed=2).var(axis=1).mean()
        # rows of a level share its effect: with 3 levels of h the mean of variances has 4 % error
        assert spread == pytest.approx(fit.sigma**2 + added, rel=0.15)


@pytest.fixture(scope="module")
def counted() -> bl.Posterior:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(12), 8)
    y = rng.poisson(np.exp(0.7 + 0.4 * rng.normal(size=12)[g]))
    model = bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": g.astype(str)}, family="poisson")
    return bl.sample(model, draws=200, tune=200, chains=2, seed=1, progress=False)


def test_arviz_reads_them(counted) -> None:
    bl.simulate(counted, groups="conditional", seed=1, store=True)
    tree = counted.data
    assert tree["posterior_predictive"]["y"].dtype == tree["observed_data"]["y"].dtype == np.int64
    for draw in (az.plot_ppc_rootogram, az.plot_ppc_pit, az.plot_loo_pit, az.plot_ppc_tstat):
        assert draw(tree).viz["figure"].item().axes
    pit = az.loo_pit(tree)["y"]
    assert pit.sizes == {"obs": 96}
    # the true model, 96 rows: Kolmogorov's distance is above 0.17 once in 100 samples
    assert np.abs(np.sort(pit.values) - (np.arange(96) + 0.5) / 96).max() < 0.17


def test_replicates_survive_the_file(counted, tmp_path) -> None:
    bl.simulate(counted, 5, seed=1, store=True)
    counted.save(tmp_path / "post.nc")
    back = bl.Posterior.load(counted.model, tmp_path / "post.nc")
    xr.testing.assert_equal(
        back.data["posterior_predictive"].to_dataset(), counted.data["posterior_predictive"].to_dataset()
    )


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: bl.simulate(p, 12, store=True), "nsim=12: each chain has 11 draws"),
        (lambda p: bl.simulate(bl.fit(p.model), store=True), "this is a PointFit"),
        (lambda p: bl.simulate(p, groups=["school"]), "names 'school'; the model has g, h"),
        (lambda p: bl.simulate(p, groups="g"), "groups='g'"),
        (lambda p: bl.simulate(p.model, groups=["g"], parameters={}), "no effects to condition on"),
    ],
)  # fmt: skip
def test_refusals(call, said) -> None:
    with pytest.raises(MethodError, match=said):
        call(invented())


def test_a_tree_is_not_filled_beyond_its_limit(monkeypatch) -> None:
    monkeypatch.setattr("bayeslmm.replicates.MOST_STORED", 24 * CHAINS * 4)
    with pytest.raises(MethodError, match="nsim=4 draws of each chain are not"):
        bl.simulate(invented(), store=True)
    assert bl.simulate(invented(), 4, store=True).shape == (24, 8)
