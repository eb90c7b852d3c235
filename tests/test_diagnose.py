"""Each planted defect is found and named, sound data raise no more alarms than stated, and the numbers are right."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.assumptions import autocorrelation, curvature, effects_variance, levene, quantile_correlation, standardise
from bayeslmm.checks import checks_of
from bayeslmm.deletion import RowInverse
from bayeslmm.envelope import simulated
from bayeslmm.refits import Refits
from bayeslmm.verdict import judge, verdict

GROUPS, ROWS = 24, 8
N = GROUPS * ROWS
FORMULA = "y ~ x + (1 | g)"


def ingredients(seed=11):
    """A balanced design with a predictor that varies within groups and between them."""
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(GROUPS), ROWS)
    x = rng.normal(size=N) + 0.7 * rng.normal(size=GROUPS)[g]
    return rng, g, x, rng.normal(size=GROUPS), rng.normal(size=N)


def model_of(y, x, g, formula=FORMULA, **columns):
    return bl.Model(formula, {"y": y, "x": x, "g": [f"g{i:02d}" for i in g]} | columns)


def outlier(rng, g, x, u, e):
    e[37] += 6.0
    return 1 + x + u[g] + e


def heavy_tails(rng, g, x, u, e):
    return 1 + x + u[g] + rng.standard_t(2, size=N)


def unequal_levels(rng, g, x, u, e):
    return 1 + x + u[g] + e * np.exp(0.8 * rng.choice([-1, 1], GROUPS))[g]


def growing(rng, g, x, u, e):
    mean = 1 + 1.5 * x + u[g]
    return mean + e * np.exp(0.5 * (mean - mean.mean()))


def correlated_in_time(rng, g, x, u, e):
    for i in range(N):
        if i % ROWS:
            e[i] += 0.7 * e[i - 1]
    return 1 + x + u[g] + e


def quadratic(rng, g, x, u, e):
    return 1 + x + 0.5 * x**2 + u[g] + e


def outlying_level(rng, g, x, u, e):
    u[5] += 7.0
    return 1 + x + u[g] + e


def confounded(rng, g, x, u, e):
    mean = np.bincount(g, x) / ROWS
    return 1 + x + 1.5 * mean[g] + 0.5 * u[g] + e


PLANTED = {
    outlier: ("outlying rows", "row 37"),
    heavy_tails: ("normal residuals", ""),
    unequal_levels: ("equal variance: g", ""),
    growing: ("equal variance: fitted values", ""),
    correlated_in_time: ("autocorrelation: g", ""),
    quadratic: ("linearity: x", ""),
    outlying_level: ("outlying levels: g", "g g05"),
    confounded: ("level means: g, x", ""),
}


@pytest.fixture(scope="module")
def null():
    """Statistics of refits to data from the sound model: on one design they hardly depend on the variances."""
    _, g, x, u, e = ingredients()
    fit = bl.fit(model_of(1 + x + u[g] + e, x, g))
    checks = checks_of(fit.model)

    def numbers(again):
        own = standardise(again)
        return np.array([check.statistic(own) for check in checks])

    return simulated(fit, numbers, 279, 1, progress=False)[0]


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_a_problem_and_is_named(plant, null):
    rng, g, x, u, e = ingredients()
    fit = bl.fit(model_of(plant(rng, g, x, u, e), x, g))
    checks, own = checks_of(fit.model), standardise(fit)
    judged = judge(np.array([c.statistic(own) for c in checks]), null, [c.tail for c in checks], 0.05)
    found = {check.name: verdict(p) for check, p in zip(checks, judged.adjusted, strict=True)}
    name, where = PLANTED[plant]
    assert found[name] == "problem"
    check = next(check for check in checks if check.name == name)
    assert (check.where(own) if check.where else "") == where


@pytest.mark.slow
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_diagnose_says_so_itself(plant):
    rng, g, x, u, e = ingredients()
    found = bl.diagnose(bl.fit(model_of(plant(rng, g, x, u, e), x, g)), progress=False)
    name, where = PLANTED[plant]
    row = found.table.set_index("check").loc[name]
    assert row["verdict"] == "problem"
    assert where in row["sentence"]
    assert row["advice"]


@pytest.mark.slow
def test_sound_data_raise_no_more_alarms_than_stated():
    _, g, x, u, e = ingredients()
    fit = bl.fit(model_of(1 + x + u[g] + e, x, g))
    refits, count = Refits(fit.model), 16
    verdicts = []
    for i, y in enumerate(bl.simulate(fit, count, seed=3).to_numpy().T):
        table = bl.diagnose(bl.fit(refits.model(y)), nsim=299, seed=i, progress=False).table
        verdicts.append(set(table.loc[table["p"].notna(), "verdict"]))
    problems = sum("problem" in v for v in verdicts)
    some = sum(bool(v & {"problem", "look"}) for v in verdicts)
    # at the stated rates 5 % and 20 % these bounds are passed with probability 0.001
    assert problems <= stats.binom.ppf(0.999, count, 0.05)
    assert some <= stats.binom.ppf(0.999, count, 0.20)


def test_level_means_that_the_fixed_part_has_are_not_checked():
    """Effects are orthogonal to X, so that their correlation with a level mean in its span is 0 whatever the data."""
    rng = np.random.default_rng(3)
    g, a, b = (codes.ravel() for codes in np.meshgrid(np.arange(8), np.arange(3), np.arange(4), indexing="ij"))
    data = {"y": rng.normal(size=96) + rng.normal(size=(8, 3))[g, a], "g": [f"g{i}" for i in g]}
    data |= {"a": [f"a{i}" for i in a], "b": [f"b{i}" for i in b]}
    crossed = bl.Model("y ~ a * b + (1 | g) + (1 | g:a) + (1 | g:b)", data)
    assert not [check.name for check in checks_of(crossed) if check.name.startswith("level means")]
    _, g, x, u, e = ingredients()
    between = model_of(1 + x + u[g] + e, x, g, "y ~ x + m + (1 | g)", m=(np.bincount(g, x) / ROWS)[g])
    assert "level means: g, x" in {check.name for check in checks_of(model_of(1 + x + u[g] + e, x, g))}
    assert not [check.name for check in checks_of(between) if check.name.startswith("level means")]


def test_two_columns_that_say_the_same_are_named():
    rng, g, x, u, e = ingredients()
    near = x + 0.002 * rng.normal(size=N)
    model = model_of(
        1 + x + u[g] + e, x, g, "y ~ x + near + twice + z + (1 | g)", near=near, twice=2 * x, z=rng.normal(size=N)
    )
    table = bl.diagnose(bl.fit(model), nsim=0).table.set_index("check")
    assert table.loc["collinearity", "verdict"] == "problem"
    assert "0.71·x" in table.loc["collinearity", "sentence"]
    assert "0.71·near" in table.loc["collinearity", "sentence"]
    assert "z" not in table.loc["collinearity", "sentence"].split(":")[1]
    assert table.loc["rank of the fixed part", "sentence"].startswith("twice left out")


def test_a_slope_without_variance_is_named():
    _, g, x, u, e = ingredients(seed=12)
    slope = u * 0.5  # the slopes are the intercepts over again
    fit = bl.fit(model_of(1 + x + (u + slope * x.mean())[g] + slope[g] * x + 0.3 * e, x, g, "y ~ x + (x | g)"))
    assert fit.singular
    row = bl.diagnose(fit, nsim=0).table.set_index("check").loc["singularity: g"]
    assert row["verdict"] == "look"
    assert row["value"] < 1e-6
    assert "·Intercept" in row["sentence"]
    assert "·x of g has sd 0" in row["sentence"]
    # the slopes are half the intercepts at the mean of x, so that one combination is all there is
    loading = bl.repca(fit)["g"].loc["PC2", ["Intercept", "x"]].to_numpy(float)
    u_hat = fit.group_ranef["g"]
    np.testing.assert_allclose(u_hat @ loading, 0.0, atol=1e-6 * np.abs(u_hat).max())
    alone = bl.fit(model_of(1 + x + u[g] + e, x, g, "y ~ x + (1 | g) + (0 + x | g)"))
    if alone.singular:
        assert (
            "x of g has sd 0" in bl.diagnose(alone, nsim=0).table.set_index("check").loc["singularity: g", "sentence"]
        )


def test_units_make_no_fit_singular():
    _, g, x, u, e = ingredients()
    slope = np.roll(u, 7) * 1e-6  # of a predictor in millions
    fit = bl.fit(model_of(1 + (1 + slope)[g] * 1e6 * x + u[g] + 0.3 * e, 1e6 * x, g, "y ~ x + (x | g)"))
    assert not fit.singular
    assert bl.repca(fit)["g"]["sd"].min() < 1e-4 * bl.repca(fit)["g"]["sd"].max()
    assert bl.diagnose(fit, nsim=0).table.set_index("check").loc["singularity: g", "verdict"] == "ok"


def test_few_levels_many_parameters_unlike_scales():
    rng = np.random.default_rng(4)
    g, n = np.repeat(np.arange(4), 15), 60
    data = {"x": rng.normal(size=n), "z": 1e6 * rng.normal(size=n), "g": [f"g{i}" for i in g]}
    data["y"] = data["x"] + rng.normal(size=4)[g] + rng.normal(size=4)[g] * data["x"] + rng.normal(size=n)
    table = bl.diagnose(bl.fit(bl.Model("y ~ x + z + (x | g)", data)), nsim=0).table.set_index("check")
    for name in ("number of levels: g", "covariance parameters: g", "scales"):
        assert table.loc[name, "verdict"] == "look", name
    assert "x to z" in table.loc["scales", "sentence"]


def test_lme4s_repca(root):
    reference = json.loads((root / "tests/reference/influence.json").read_text())["five"]
    ours = bl.load("models/sleepstudy")
    data = ours.arguments["data"]
    kept = data[data["Subject"].astype(str).isin(["308", "309", "310", "330", "331"])].reset_index(drop=True)
    table = bl.repca(bl.fit(ours.update(data=kept)))["Subject"]
    np.testing.assert_allclose(table["sd"], reference["repca"], rtol=1e-5)  # lme4's theta is within 1e-6
    np.testing.assert_allclose(np.abs(table[["Intercept", "Days"]].T), np.abs(reference["rotation"]), atol=1e-5)
    assert table["share"].sum() == pytest.approx(1.0)


@pytest.fixture(scope="module")
def sleep():
    return bl.fit(bl.load("models/sleepstudy"))


def test_effects_are_divided_by_their_own_standard_deviations(sleep):
    model = sleep.model
    spread = (model.Z @ model.Lambda(sleep.theta)).toarray()
    inverse = np.linalg.inv(np.eye(180) + spread @ spread.T)
    P = inverse - inverse @ model.X @ np.linalg.solve(model.X.T @ inverse @ model.X, model.X.T @ inverse)
    half = model.Lambda(sleep.theta).toarray() @ spread.T
    variance = sleep.sigma**2 * half @ P @ half.T
    found, own, ranef = effects_variance(sleep)["Subject"], standardise(sleep), sleep.group_ranef["Subject"]
    for level in range(18):
        block = variance[2 * level : 2 * level + 2, 2 * level : 2 * level + 2]
        np.testing.assert_allclose(found[level] * sleep.sigma**2, block, rtol=1e-8)
        np.testing.assert_allclose(own.effects["Subject"][level], ranef[level] / np.sqrt(np.diag(block)), rtol=1e-8)
        assert own.distance["Subject"][level] == pytest.approx(
            ranef[level] @ np.linalg.solve(block, ranef[level]), rel=1e-8
        )


def test_standardised_residuals_and_effects_have_variance_one_under_the_model(sleep):
    refits = Refits(sleep.model)
    rows = RowInverse(sleep)
    residual, effect = [], []
    for y in bl.simulate(sleep, 150, seed=1).to_numpy().T:
        again = bl.fit(refits.model(y), fixed={"sigma": sleep.sigma, "sd_Subject[Intercept]": sleep.group_sd["Subject"][0],
                                               "sd_Subject[Days]": sleep.group_sd["Subject"][1],
                                               "corr_Subject[Intercept, Days]": sleep.group_corr["Subject"][0, 1]})  # fmt: skip
        own = standardise(again)
        residual.append(own.residual)
        effect.append(own.effects["Subject"])
    assert rows.variance.max() < 1.0
    # means of squares over 150 × 180 and 150 × 36 values, nearly independent: standard errors 0.009 and 0.02
    assert np.mean(np.square(residual)) == pytest.approx(1.0, abs=0.03)
    assert np.mean(np.square(effect)) == pytest.approx(1.0, abs=0.06)


def test_statistics_are_those_of_scipy():
    rng = np.random.default_rng(1)
    r, codes, x = rng.normal(size=90), rng.integers(0, 7, 90), rng.normal(size=90)
    groups = [np.abs(r[codes == level]) for level in range(7)]
    assert levene(r, codes) == pytest.approx(stats.f_oneway(*groups).statistic, rel=1e-10)
    _, (_, _, R) = stats.probplot(r)
    assert quantile_correlation(r) == pytest.approx(R, abs=2e-3)  # Filliben's plotting positions differ a little
    cubic = np.polynomial.Polynomial.fit(x, r, 3)(x)
    line = np.polynomial.Polynomial.fit(x, r, 1)(x)
    share = (np.sum((r - line) ** 2) - np.sum((r - cubic) ** 2)) / np.sum((r - r.mean()) ** 2)
    assert curvature(r, x) == pytest.approx(share, rel=1e-10)
    one = np.zeros(90, int)
    assert autocorrelation(r, one) == pytest.approx(np.corrcoef(r[1:], r[:-1])[0, 1], rel=1e-10)


def test_corrected_p_values_keep_their_rate():
    rng = np.random.default_rng(2)
    base = rng.normal(size=(400, 199 + 1, 1))
    dependent = 0.6 * base + 0.8 * rng.normal(size=(400, 200, 6))
    tails = ["upper", "lower", "two-sided"] * 2
    alarms = [(judge(one[0], one[1:], tails, 0.2).adjusted <= 0.2).any() for one in dependent]
    assert 0.14 < np.mean(alarms) <= 0.26  # 0.2 ± 3 standard errors; never far above
    judged = judge(np.array([9.0, np.nan]), rng.normal(size=(99, 2)), ["upper", "upper"], 0.05)
    assert judged.p.tolist() == [0.01, 1.0]
    assert judged.adjusted[0] == pytest.approx(0.02, abs=0.011)


def test_beyond_the_threshold_is_a_problem():
    rng = np.random.default_rng(3)
    null = rng.normal(size=(399, 4))
    for tails in (["upper"] * 4, ["lower"] * 4, ["two-sided"] * 4):
        middle = judge(np.zeros(4), null, tails, 0.05)
        sign = np.where(middle.threshold < 0, -1.0, 1.0)
        beyond, short = middle.threshold + 0.2 * sign, middle.threshold - 0.3 * sign
        assert judge(np.where([True, False, False, False], beyond, 0.0), null, tails, 0.05).adjusted[0] <= 0.05
        assert judge(np.where([True, False, False, False], short, 0.0), null, tails, 0.05).adjusted[0] > 0.05


def test_sleepstudys_outlying_rows_are_found_and_the_page_says_so(sleep):
    found = bl.diagnose(sleep, nsim=299, progress=False)
    assert {"outlying rows", "normal residuals"} <= set(
        found.problems.loc[found.problems["verdict"] == "problem", "check"]
    )
    assert list(found.table.columns[:6]) == ["check", "value", "threshold", "verdict", "sentence", "advice"]
    assert "(row 56)" in str(found)
    assert str(found).startswith("Diagnosis: ")
    assert "<table>" in found._repr_html_()
    once, again = (bl.diagnose(sleep, nsim=19, progress=False) for _ in range(2))
    pd.testing.assert_frame_equal(once.table, again.table)
    ok = found.table[found.table["verdict"] == "ok"]
    assert (ok["advice"] == "").all()
    assert (found.problems["advice"] != "").all()


def test_too_few_simulations_for_so_many_checks_say_so(sleep):
    found = bl.diagnose(sleep, nsim=19, progress=False)
    assert "problem" not in set(found.table["verdict"])
    assert any("cannot show a problem" in note for note in found.notes)
    unjudged = bl.diagnose(sleep, nsim=0)
    assert "not judged" in set(unjudged.table["verdict"])


def test_a_fit_that_did_not_converge_is_a_problem(sleep):
    from dataclasses import replace

    stopped = replace(sleep, optimum=replace(sleep.optimum, converged=False, message="stopped early"))
    row = bl.diagnose(stopped, nsim=0).table.set_index("check").loc["convergence"]
    assert (row["verdict"], "stopped early" in row["sentence"]) == ("problem", True)


@pytest.mark.parametrize("nsim", [-1, 5, True, 2.5])
def test_numbers_of_simulations_that_say_nothing(sleep, nsim):
    with pytest.raises(bl.errors.MethodError, match="nsim"):
        bl.diagnose(sleep, nsim=nsim)


def test_only_results_are_diagnosed(sleep):
    with pytest.raises(bl.errors.MethodError, match="fit or sample first"):
        bl.diagnose(sleep.model)


@pytest.fixture(scope="module")
def posterior():
    _, g, x, u, e = ingredients()
    return bl.sample(model_of(1 + x + u[g] + e, x, g), draws=300, tune=300, chains=4, seed=1, progress=False)


def test_a_sound_posterior_is_ok(posterior):
    found = bl.diagnose(posterior, nsim=199)
    assert set(found.table["verdict"]) == {"ok"}
    assert {"R-hat", "energy", "tree depth", "prior: sigma", "predictive: skewness", "predictive: sd between g"} <= set(
        found.table["check"]
    )
    assert list(found.figures()) == ["predictive", "priors"]


def test_a_prior_against_the_data_is_seen():
    _, g, x, u, e = ingredients()
    model = bl.Model(
        FORMULA,
        {"y": 1 + x + u[g] + e, "x": x, "g": [f"g{i}" for i in g]},
        priors={"x": bl.Prior("Normal", mu=-3.0, sigma=0.4)},
    )
    post = bl.sample(model, draws=300, tune=300, chains=4, seed=1, progress=False)
    row = bl.diagnose(post, nsim=0).table.set_index("check").loc["prior: fixef[x]"]
    assert row["verdict"] == "look"
    assert "prior and data disagree" in row["sentence"]


def test_a_skewed_response_fails_its_predictive_check():
    _, g, x, u, e = ingredients()
    skewed = np.exp(0.5 * x + 0.5 * u[g] + e)
    post = bl.sample(model_of(skewed, x, g), draws=300, tune=300, chains=4, seed=1, progress=False)
    table = bl.diagnose(post, nsim=199).table.set_index("check")
    assert table.loc["predictive: smallest", "verdict"] == "problem"
    assert table.loc["predictive: skewness", "verdict"] == "problem"


def test_chains_that_disagree_are_a_problem(posterior):
    from bayeslmm.convergence import Diagnostics
    from bayeslmm.posterior import Posterior

    bad = Posterior(posterior.model, posterior.data, posterior.route)
    vars(bad)["diagnostics"] = Diagnostics(1.3, 12.0, 9.0, 3, 0.1, "sigma", ("",), False)
    table = bl.diagnose(bad, nsim=0).table.set_index("check")
    for name in ("R-hat", "effective draws, bulk", "effective draws, tails", "divergent transitions", "energy"):
        assert table.loc[name, "verdict"] == "problem", name


def test_figures_have_captions_and_draw(sleep):
    found = bl.diagnose(sleep, nsim=19, progress=False)
    drawn = found.figures()
    assert {"residuals", "quantiles", "effects", "influential levels", "components"} <= set(drawn)
    for name, (figure, caption) in drawn.items():
        assert caption.endswith("."), name
        figure.canvas.draw()
    assert len(found.plot().axes) == 7
    assert found.plot("effects").axes[0].get_xlabel() == "Subject[Intercept]"
    with pytest.raises(bl.errors.MethodError, match="there is no figure 'nothing'"):
        found.plot("nothing")
