"""Posteriors of models with formulas for the dispersion or for zeros: what they answer, and that they are right."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

import bayeslmm as bl
from bayeslmm.distributions import Prior
from bayeslmm.estimates import estimates
from bayeslmm.family import family_of
from bayeslmm.joint import Joint
from bayeslmm.laplace_mode import Search
from bayeslmm.powerscale import collapsed_loglik, log_prior
from bayeslmm.propriety import check_proper

QUIET = {"progress": False}
SHORT = {"draws": 300, "tune": 300, "chains": 2, "seed": 3, **QUIET}


def salamanders(**options) -> bl.Model:
    settings = {"family": "zero_inflated_poisson", "zero": "~ mined"} | options
    return bl.load("models/salamanders").update(formula="count ~ mined + (1 | site)", **settings)


@pytest.fixture(scope="module")
def post() -> bl.Posterior:
    return bl.sample(salamanders(), **SHORT)


@pytest.fixture(scope="module")
def hurdle() -> bl.Posterior:
    return bl.sample(salamanders(family="hurdle_negativebinomial", dispersion="~ DOY"), **SHORT)


def expit(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def eta_of(post: bl.Posterior) -> np.ndarray:
    """(draws, n)"""
    return post.draws("fixef") @ post.model.X.T + post.draws("ranef_site")[:, post.model.design.random[0].codes, 0]


def pieces(post: bl.Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Log density and mean of every row at every draw, by SciPy."""
    design, mu, zero = (
        post.model.design,
        np.exp(eta_of(post)),
        expit(post.draws("zero") @ post.model.design.further["zero"].X.T),
    )
    if post.model.family == "zero_inflated_poisson":
        plain = stats.poisson(mu)
        return np.log(zero * (design.y == 0) + (1 - zero) * plain.pmf(design.y)), (1 - zero) * mu
    alpha = np.exp(post.draws("dispersion") @ design.further["dispersion"].X.T)
    plain = stats.nbinom(alpha, alpha / (alpha + mu))
    positive = (1 - zero) / (1 - plain.pmf(0))
    return np.log(np.where(design.y == 0, zero, positive * plain.pmf(design.y))), positive * mu


def test_variables_and_names(post, hurdle) -> None:
    node = hurdle.data["posterior"]
    assert list(node.data_vars) == ["fixef", "sd_site", "dispersion", "zero", "ranef_site"]
    assert list(node["zero_coefficient"].values) == ["Intercept", "mined[no]"]
    assert list(node["dispersion_coefficient"].values) == ["Intercept", "DOY"]
    assert np.isnan(hurdle.dispersion)
    assert hurdle.model.dispersion is None
    assert "zero[mined[no]]" in str(post)
    assert post.parameters == ["fixef", "sd_site", "zero"]
    assert "(μ[i], alpha[i], π[i])" in str(hurdle.model)
    assert "log(alpha[i]) = Intercept + DOY\n" in str(hurdle.model)
    alpha = salamanders(family="zero_inflated_negativebinomial", zero=None)
    assert alpha.dispersion == "alpha"
    assert [name for name in alpha.priors.parameters() if not name.startswith("fixef")] == [
        "sd_site[Intercept]", "alpha", "zero[Intercept]",
    ]  # fmt: skip


@pytest.mark.parametrize("which", ["post", "hurdle"])
def test_log_likelihood_and_means(which, request) -> None:
    """Rounding of densities of up to 1e2, of probabilities added to 1."""
    found = request.getfixturevalue(which)
    density, mean = pieces(found)
    np.testing.assert_allclose(found.log_likelihood().reshape(density.shape), density, atol=1e-9)
    np.testing.assert_allclose(found.fitted, mean.mean(axis=0), rtol=1e-9)
    predicted = bl.predict(found)
    np.testing.assert_allclose(predicted["mean"], mean.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(predicted["lower"], np.quantile(mean, 0.025, axis=0), rtol=1e-9)


def test_parts_of_the_distribution(post, hurdle) -> None:
    """P(zero of its own) and dispersion of new rows; means without such zeros, which times P(no such zero) are the means."""
    rows = {"mined": ["yes", "no"], "site": ["R-1", "VF-1"], "DOY": [0.5, -1.0]}
    logit = hurdle.draws("zero") @ [[1.0, 1.0], [0.0, 1.0]]
    np.testing.assert_allclose(bl.predict(hurdle, rows, kind="zero")["mean"], expit(logit).mean(axis=0))
    np.testing.assert_allclose(bl.predict(hurdle, rows, kind="zero")["upper"], np.quantile(expit(logit), 0.975, axis=0))
    alpha = np.exp(hurdle.draws("dispersion") @ [[1.0, 1.0], [0.5, -1.0]])
    np.testing.assert_allclose(bl.predict(hurdle, rows, kind="dispersion")["se"], alpha.std(axis=0, ddof=1))
    for found in (post, hurdle):
        zero = expit(found.draws("zero") @ found.model.design.further["zero"].X.T)
        plain = (pieces(found)[1] / (1 - zero)).mean(axis=0)
        np.testing.assert_allclose(bl.predict(found, kind="conditional")["mean"], plain, rtol=1e-9)
    with pytest.raises(bl.errors.MethodError, match="zeros of their own"):
        bl.predict(bl.fit(salamanders(family="poisson", zero=None)), kind="zero")
    with pytest.raises(bl.errors.MethodError, match="besides σ"):
        bl.predict(post, kind="dispersion")


@pytest.mark.parametrize("which", ["post", "hurdle"])
def test_means_over_new_levels(which, request) -> None:
    """Against 400 drawn effects a posterior draw; four standard errors of their mean."""
    found = request.getfixturevalue(which)
    rows = {"mined": ["yes", "no"], "site": ["elsewhere"] * 2, "DOY": [0.5, -1.0]}
    predicted = bl.predict(found, rows, groups="new")["mean"].to_numpy()
    rng, (m, _) = np.random.default_rng(0), found.draws("fixef").shape
    effects = rng.standard_normal((400, m)) * found.draws("sd_site")[:, 0]
    for row, mined in enumerate(([1.0, 0.0], [1.0, 1.0])):
        mu = np.exp(found.draws("fixef") @ mined + effects)
        kept = 1 - expit(found.draws("zero") @ mined)
        if which == "hurdle":
            alpha = np.exp(found.draws("dispersion") @ [1.0, rows["DOY"][row]])
            kept = kept / (1 - (alpha / (alpha + mu)) ** alpha)
        drawn = (kept * mu).mean(axis=1)
        assert predicted[row] == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(400))


@pytest.mark.parametrize("which", ["post", "hurdle"])
def test_simulated_responses(which, request) -> None:
    """Shares of zeros and means of 300 responses a row, each from another draw: within 4.5 standard errors."""
    found = request.getfixturevalue(which)
    drawn = bl.simulate(found, 300, seed=1, groups="conditional").to_numpy()
    density, mean = pieces(found)
    error = drawn.std(axis=1) / np.sqrt(300)
    assert (np.abs(drawn.mean(axis=1) - mean.mean(axis=0)) < 4.5 * error + 1e-9).all()
    zero = found.model.design.y == 0
    share, want = (drawn[zero] == 0).mean(axis=1), np.exp(density[:, zero]).mean(axis=0)
    assert (np.abs(share - want) < 4.5 * np.sqrt(want * (1 - want) / 300)).all()


def test_responses_of_a_model_with_given_parameters() -> None:
    given = {"fixef": [0.5, 0.3], "sd_site": 0.0, "zero": {"Intercept": -1.0, "mined[no]": 0.5}}
    drawn = bl.simulate(salamanders(), 200, seed=1, parameters=given)
    mined = salamanders().X[:, 1]
    mu, zero = np.exp(0.5 + 0.3 * mined), expit(-1.0 + 0.5 * mined)
    share = (drawn == 0).to_numpy().mean(axis=1)
    want = zero + (1 - zero) * np.exp(-mu)
    assert np.abs(share - want).max() < 5 * np.sqrt(0.25 / 200)
    with pytest.raises(bl.errors.MethodError, match="lacks zero"):
        bl.simulate(salamanders(), parameters={"fixef": [0.5, 0.3], "sd_site": 0.0})


def test_saved_and_given_back(post, tmp_path) -> None:
    post.save(tmp_path / "post.nc")
    again = bl.Posterior.load(salamanders(), tmp_path / "post.nc")
    np.testing.assert_array_equal(again.draws("zero"), post.draws("zero"))
    with pytest.raises(bl.errors.MethodError, match="another formula for zero"):
        bl.Posterior.load(salamanders(zero="~ DOY"), tmp_path / "post.nc")
    given = bl.posterior(salamanders(), post.data)
    np.testing.assert_allclose(given.fitted, post.fitted)
    without = xr.DataTree.from_dict({"/posterior": post.data["posterior"].to_dataset().drop_vars("zero")})
    with pytest.raises(bl.errors.MethodError, match="no variable 'zero'"):
        bl.posterior(salamanders(), without)


def test_compared_with_laplace(hurdle) -> None:
    fit = bl.fit(hurdle.model)
    table = bl.compare(fit, hurdle).table
    names = ["dispersion[Intercept]", "dispersion[DOY]", "zero[Intercept]", "zero[mined[no]]"]
    assert list(table.index)[-4:] == names
    assert table.notna().all(axis=None)
    for name in names:
        kind, _, coefficient = name[:-1].partition("[")
        assert table.loc[name, ("Laplace", "estimate")] == fit.further_fixef[kind].loc[coefficient, "estimate"]
        assert table.loc[name, ("posterior", "estimate")] == pytest.approx(
            hurdle.data["posterior"][kind].sel({f"{kind}_coefficient": coefficient}).mean().item()
        )
    assert "alpha" not in table.index


def test_power_scaling_knows_every_parameter(hurdle) -> None:
    """The prior is the graph's; the collapsed likelihood is that of a fit at its own estimates."""
    model, column = hurdle.model, estimates(bl.fit(hurdle.model), "Laplace")
    values = column.estimate[None]
    fit = column.result
    assert collapsed_loglik(model, values)[0] == pytest.approx(fit.loglik, abs=1e-9)
    gamma = fit.further
    centred = [model.priors.further[name].transform @ part for name, part in zip(
        ("dispersion", "zero"), (gamma[:2], gamma[2:]), strict=True)]  # fmt: skip
    moved = values.copy()
    moved[0, -4:] = 0.0
    gap = stats.norm.logpdf(np.concatenate(centred)).sum() - 4 * stats.norm.logpdf(0.0)
    assert log_prior(model, values)[0] - log_prior(model, moved)[0] == pytest.approx(gap, rel=1e-12)


def planted(n: int, rng: np.random.Generator) -> pd.DataFrame:
    x, g = rng.normal(size=n), np.arange(n) % 40
    mu = np.exp(0.5 + 0.5 * x + 0.6 * rng.standard_normal(40)[g])
    family = family_of("zero_inflated_negativebinomial")
    y = family.draws(rng, mu, np.exp(0.7 + 0.5 * x), 1.0, expit(-0.8 + 0.7 * x))
    return pd.DataFrame({"y": y, "x": x, "g": g})


def test_planted_values_come_back() -> None:
    """Within four posterior sds of 1600 rows, a tenth to a third each."""
    model = bl.Model("y ~ x + (1 | g)", planted(1600, np.random.default_rng(5)), zero="~ x", dispersion="~ x",
                     family="zero_inflated_negativebinomial")  # fmt: skip
    found = estimates(bl.sample(model, **SHORT), "posterior")
    truth = np.array([0.5, 0.5, 0.6, 0.7, 0.5, -0.8, 0.7])
    assert (np.abs(found.estimate - truth) < 4 * found.uncertainty).all()
    assert found.uncertainty.max() < 0.4


def test_flat_priors_have_their_mode_at_the_laplace_fit() -> None:
    """With flat priors the density of ψ, less its Jacobian in log sd, is the fit's likelihood: at its estimates no slope.

    The search for these ends at a slope of 1e-8; the curvatures there are 25 to 200.
    """
    wide = {name: Prior("Flat") for name in ("fixef", "zero", "dispersion")} | {"sd_site": Prior("HalfFlat")}
    model = salamanders(family="hurdle_negativebinomial", dispersion="~ DOY", priors=wide)
    fit, joint = bl.fit(model), Joint(model, adapted=False)
    psi = np.concatenate([np.log(fit.group_sd["site"]), fit.further, fit.beta])
    value, slope = Search(model, joint.approximation, joint.layout).density(psi)
    slope[0] -= 1.0  # the Jacobian
    assert value - psi[0] == pytest.approx(fit.loglik, abs=1e-9)
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)


IMPROPER = {
    "a probability of zeros that may go to 0": ("zero_inflated_poisson", {"zero": Prior("Flat")}, {}, r"along zero\[Intercept"),
    "a mixture that may become unmixed": (
        "negativebinomial", {"dispersion[Intercept]": Prior("Flat")}, {"dispersion": "~ x"}, r"along dispersion\[Intercept",
    ),
    "linear variance": ("negativebinomial1", {"dispersion": Prior("Flat")}, {"dispersion": "~ 1"}, r"along dispersion"),
    "a scalar": ("zero_inflated_negativebinomial", {"alpha": Prior("HalfFlat")}, {}, "flat prior on alpha"),
    "a hurdle that x tells": ("hurdle_poisson", {"zero[split]": Prior("Flat")}, {"zero": "~ split"}, r"along zero\[split"),
    "the mean of a mixed hurdle": ("hurdle_negativebinomial", {"Intercept": Prior("Flat")}, {}, "along Intercept"),
}  # fmt: skip


@pytest.mark.parametrize(("family", "priors", "options", "said"), IMPROPER.values(), ids=list(IMPROPER))
def test_flat_priors_that_leave_no_posterior(family, priors, options, said) -> None:
    frame = planted(80, np.random.default_rng(1)).assign(split=lambda d: (d["y"] > 0).astype(float))
    model = bl.Model("y ~ x + (1 | g)", frame, family=family, priors=priors, **options)
    with pytest.raises(bl.errors.ImproperPosteriorError, match=said):
        bl.sample(model, draws=10)


@pytest.mark.parametrize("family", ["zero_inflated_poisson", "hurdle_poisson", "gamma"])
def test_flat_priors_that_leave_one(family) -> None:
    """Flat in the mean of counts with zeros of their own, in the zeros of a hurdle, in the log dispersion of a density."""
    frame = planted(200, np.random.default_rng(1)).assign(z=lambda d: d["y"] + 0.5)
    flat = {"zero_inflated_poisson": ["fixef"], "hurdle_poisson": ["fixef", "zero"], "gamma": ["fixef", "dispersion"]}[
        family
    ]
    options = {"dispersion": "~ x"} if family == "gamma" else {"zero": "~ x"}
    response, link = ("z", "log") if family == "gamma" else ("y", None)
    priors = {name: Prior("Flat") for name in flat}
    check_proper(bl.Model(f"{response} ~ x + (1 | g)", frame, family=family, link=link, priors=priors, **options))


@pytest.mark.slow
def test_draws_of_the_graph_are_the_same_posterior(hurdle) -> None:
    """PyMC's own sampler on the graph: means within five Monte Carlo errors, sds (of 600 draws each: 3 %) within a quarter."""
    import pymc as pm

    with bl.to_pymc(hurdle.model, parametrisation="noncentred"):
        tree = pm.sample(
            600, tune=600, chains=2, cores=2, random_seed=4, progressbar=False, compute_convergence_checks=False
        )
    mine, theirs = hurdle.summary(), bl.posterior(hurdle.model, tree).summary()
    error = np.hypot(mine["mcse_mean"], theirs["mcse_mean"])
    assert ((mine["mean"] - theirs["mean"]).abs() < 5 * error).all()
    np.testing.assert_allclose(mine["sd"], theirs["sd"], rtol=0.25)


SBC_PRIORS = {
    "fixef": Prior("Normal", mu=0.5, sigma=0.5),
    "sd_g": Prior("HalfNormal", sigma=0.6),
    "zero": Prior("Normal", mu=-0.5, sigma=0.7),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["zero_inflated_poisson", "hurdle_negativebinomial"])
def test_simulation_based_calibration(family) -> None:
    """Truths from the prior, ranks among the draws (Talts et al. 2018); 1e-4: one false alarm in 700 runs of these tests."""
    rng, n, runs, ranks = np.random.default_rng(8), 64, 60, []
    x, g = rng.normal(size=n), np.repeat(np.arange(8), 8)
    priors = SBC_PRIORS | ({"dispersion": Prior("Normal", mu=0.5, sigma=0.5)} if "negative" in family else {})
    options = {"family": family, "zero": "~ x", "priors": priors} | (
        {"dispersion": "~ x"} if "negative" in family else {}
    )
    for run in range(runs):
        beta, sd, u = rng.normal(0.5, 0.5, 2), abs(rng.normal(0, 0.6)), rng.standard_normal(8)
        zero, disperse = rng.normal(-0.5, 0.7, 2), rng.normal(0.5, 0.5, 2)
        mu, phi = np.exp(beta[0] + beta[1] * x + sd * u[g]), np.exp(disperse[0] + disperse[1] * x)
        y = family_of(family).draws(rng, mu, phi, 1.0, expit(zero[0] + zero[1] * x))
        model = bl.Model("y ~ x + (1 | g)", {"y": y, "x": x, "g": g}, **options)
        found = bl.sample(model, draws=150, tune=200, chains=1, seed=run, **QUIET)
        truth, drawn = (
            [beta[1], sd, *zero],
            [found.draws("fixef")[:, 1], found.draws("sd_g")[:, 0], *found.draws("zero").T],
        )
        if "dispersion" in options:
            truth, drawn = [*truth, *disperse], [*drawn, *found.draws("dispersion").T]
        ranks.append([(d[::3] < t).mean() for t, d in zip(truth, drawn, strict=True)])
    for column in np.array(ranks).T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
