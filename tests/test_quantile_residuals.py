"""Quantile residuals, their tests, frequencies and the diagnosis of generalized fits: known answers, found faults, false alarms."""

import numpy as np
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.cumulative import DISTRIBUTIONS, distribution, randomised
from bayeslmm.errors import MethodError
from bayeslmm.family import family_of


def counts(seed: int, kind: str = "poisson", rows: int = 10, groups: int = 30) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rows)
    x = rng.uniform(-1, 1, len(g))
    mu = np.exp(1.0 + 0.5 * x + 0.4 * rng.normal(size=groups)[g])
    if kind == "overdispersed":
        y = rng.negative_binomial(1.5, 1.5 / (1.5 + mu))
    else:
        y = rng.poisson(mu) * (rng.uniform(size=len(g)) > (0.3 if kind == "inflated" else 0.0))
    return {"y": y, "x": x, "g": g.astype(str)}


def fitted(data, **options) -> bl.PointFit:
    return bl.fit(bl.Model("y ~ x + (1 | g)", data, **({"family": "poisson"} | options)))


@pytest.fixture(scope="module")
def sound() -> bl.PointFit:
    return fitted(counts(1))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_have_the_families_moments(name) -> None:
    """Mean and variance as `family` states them; the transform of many draws is uniform (Kolmogorov's test at 1 in 1000)."""
    family, rng = family_of(name), np.random.default_rng(5)
    mu, phi, m = np.full(4000, 0.3), 2.5, 7.0 if family.of_trials else 1.0
    given = distribution(name, mu, phi, m)
    np.testing.assert_allclose(given.mean()[0] / m, 0.3, rtol=1e-9)
    np.testing.assert_allclose(given.var()[0] / m**2, family.variance(mu, phi, m)[0], rtol=1e-8)
    y = family.draws(rng, mu, phi, m)
    assert stats.kstest(randomised(name, y, given, rng.uniform(size=4000)), "uniform").pvalue > 1e-3


def test_residuals_by_simulation_tend_to_the_exact_ones(sound) -> None:
    """Without randomisation: F(y) by 20000 simulations has a standard error of at most 0.0035."""
    exact = bl.quantile_residuals(sound, method="exact", seed=3)
    y, mu = sound.model.design.y, sound.fitted.to_numpy()
    values = exact.values.to_numpy()
    assert "by the distribution function" in str(exact)
    assert ((values >= stats.poisson.cdf(y - 1, mu)) & (values <= stats.poisson.cdf(y, mu))).all()
    drawn = bl.quantile_residuals(sound, 20000, groups="conditional", seed=3).responses[:, 1:]
    np.testing.assert_allclose((drawn <= y[:, None]).mean(axis=1), stats.poisson.cdf(y, mu), atol=5 * 0.0036)


def test_the_same_seed_gives_the_same_residuals_between_0_and_1(sound) -> None:
    one, two = (bl.quantile_residuals(sound, 50, seed=7) for _ in range(2))
    np.testing.assert_array_equal(one.values, two.values)
    assert one.values.between(0, 1, inclusive="neither").all()
    np.testing.assert_array_equal(one.tests, two.tests)
    np.testing.assert_allclose(stats.norm.cdf(one.normal), one.values)


def test_faults_are_found(sound) -> None:
    assert (bl.quantile_residuals(sound).tests["p"] > 0.05).all()
    over = bl.quantile_residuals(fitted(counts(2, "overdispersed")), groups="conditional")
    assert over.dispersion().statistic > 1.5
    assert over.dispersion().p < 0.01
    inflated = bl.quantile_residuals(fitted(counts(3, "inflated")))
    assert inflated.zero_inflation().statistic > 1.5
    assert inflated.zero_inflation().p < 0.01
    assert inflated.uniformity().p < 0.01
    assert "zero inflation" in str(inflated)
    assert inflated.plot().axes


def test_statistics_by_hand(sound) -> None:
    found = bl.quantile_residuals(sound, 99, seed=2)
    y = found.responses
    zeros = (y == 0).sum(axis=0)
    assert found.zero_inflation().statistic == pytest.approx(zeros[0] / zeros[1:].mean())
    spread = [np.var(column - y.mean(axis=1)) for column in y.T]
    assert found.dispersion().statistic == pytest.approx(spread[0] / np.mean(spread[1:]))
    assert found.uniformity().statistic == pytest.approx(stats.kstest(found.values, "uniform").statistic)
    outside = (y[:, 0] < y[:, 1:].min(axis=1)) | (y[:, 0] > y[:, 1:].max(axis=1))
    assert found.outliers().statistic == pytest.approx(outside.mean())


def test_frequencies(sound) -> None:
    root = bl.rootogram(sound)
    y, mu = sound.model.design.y, sound.fitted.to_numpy()
    assert root.table.loc[2, "expected"] == pytest.approx(stats.poisson.pmf(2, mu).sum())
    assert root.table.loc[2, "observed"] == (y == 2).sum()
    assert root.plot().axes


def test_binary_curves() -> None:
    metrics = pytest.importorskip("statsmodels.stats.proportion")
    rng = np.random.default_rng(4)
    g, x = np.repeat(np.arange(20), 15), rng.normal(size=300)
    y = rng.binomial(1, 1 / (1 + np.exp(-(x + rng.normal(size=20)[g]))))
    fit = bl.fit(bl.Model("y ~ x + (1 | g)", {"y": y, "x": x, "g": g.astype(str)}, family="bernoulli"))
    p = fit.fitted.to_numpy()
    brute = np.mean((p[y == 1][:, None] > p[y == 0]) + 0.5 * (p[y == 1][:, None] == p[y == 0]))
    found = bl.roc(fit)
    assert found.auc == pytest.approx(brute)
    area = np.trapezoid(found.table["true_positive"], found.table["false_positive"])
    assert area == pytest.approx(brute)
    assert bl.roc(fit, groups="population").auc < found.auc
    curve = bl.calibration_curve(fit, 6).table
    one = curve.iloc[2]
    low, high = metrics.proportion_confint(round(one["observed"] * one["rows"]), one["rows"], method="beta")
    assert (one["lower"], one["upper"]) == pytest.approx((low, high))
    assert curve["rows"].sum() == 300
    assert found.plot().axes
    assert bl.calibration_curve(fit).plot().axes


def test_curves_of_individuals_median_and_mean(sound) -> None:
    found = bl.response_curves(sound, "x")
    x = found.table.index[10]
    at = {"x": [x], "g": ["4"]}
    assert found.individuals.loc[x, "4"] == pytest.approx(bl.predict(sound, at)["mean"].iloc[0], rel=1e-12)
    new = bl.predict(sound, {"x": [x], "g": ["new"]}, groups="new")["mean"].iloc[0]
    assert found.table.loc[x, "mean"] == pytest.approx(new, rel=1e-12)
    assert (found.table["mean"] / found.table["median"]).to_numpy() == pytest.approx(
        np.exp(0.5 * sound.sd["g"].iloc[0] ** 2)
    )
    assert found.plot().axes


def verdicts(data, **options):
    found = bl.diagnose(fitted(data, **options), nsim=149, progress=False)
    return found.table.set_index("check")["verdict"], found


@pytest.mark.slow
def test_a_diagnosis_finds_overdispersion_and_zeros() -> None:
    over, found = verdicts(counts(2, "overdispersed"))
    assert over["dispersion"] != "ok"
    assert over["convergence"] == over["singularity: g"] == "ok"
    assert "negativebinomial" in str(found)
    figures = found.figures()
    assert {"rootogram", "quantiles", "effect quantiles", "leverage", "influential levels"} <= set(figures)
    assert found.plot().axes
    inflated, _ = verdicts(counts(3, "inflated"))
    assert inflated["zeros"] != "ok"


@pytest.mark.slow
def test_a_diagnosis_finds_a_wrong_link() -> None:
    """Counts that are linear in x, with a Poisson regression on the log scale."""
    rng = np.random.default_rng(6)
    g = np.repeat(np.arange(20), 25)
    x = rng.uniform(0, 1, 500)
    y = rng.poisson(0.5 + 20 * x)
    found, _ = verdicts({"y": y, "x": x, "g": g.astype(str)})
    assert found["link"] != "ok"


def test_a_sound_fit_has_no_problem(sound) -> None:
    found = bl.diagnose(sound, nsim=59, progress=False)
    assert "problem" not in set(found.table["verdict"])
    again = bl.diagnose(sound, nsim=59, progress=False)
    assert found.table.equals(again.table)


def test_binary_responses_are_diagnosed_without_dispersion() -> None:
    rng = np.random.default_rng(9)
    g, x = np.repeat(np.arange(20), 10), rng.normal(size=200)
    y = rng.binomial(1, 1 / (1 + np.exp(-(x + rng.normal(size=20)[g]))))
    fit = bl.fit(bl.Model("y ~ x + (1 | g)", {"y": y, "x": x, "g": g.astype(str)}, family="bernoulli"))
    found = bl.diagnose(fit, nsim=49, progress=False)
    assert "link" in set(found.table["check"])
    assert "dispersion" not in set(found.table["check"])
    assert "calibration" in found.figures()


@pytest.mark.slow
def test_false_alarms_are_at_their_rate() -> None:
    """20 sound fits: "problem" at 0.05, so at most 4 with probability 0.997; p-values of one check uniform."""
    alarms, p = 0, []
    for seed in range(20):
        fit = fitted(counts(100 + seed, rows=5, groups=10))
        found = bl.diagnose(fit, nsim=59, seed=seed, progress=False).table.set_index("check")
        alarms += bool((found["p_adjusted"] <= 0.05).any())
        p.append(found.loc["dispersion", "p"])
    assert alarms <= 4
    assert stats.kstest(p, "uniform").pvalue > 0.005


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: bl.quantile_residuals(f, 3), "nsim=3"),
        (lambda f: bl.quantile_residuals(f, groups="old"), "groups"),
        (lambda f: bl.quantile_residuals(bl.fit(bl.load("models/penicillin_blocks"))), "generalized"),
        (lambda f: bl.quantile_residuals(f, method="exact").tests, "simulation"),
        (lambda f: bl.roc(f), "binary"),
        (lambda f: bl.calibration_curve(f), "binary"),
        (lambda f: bl.rootogram(bl.fit(bl.load("models/penicillin_blocks"))), "counts"),
        (lambda f: bl.response_curves(f, "z"), "no numeric predictor"),
    ],
)  # fmt: skip
def test_refusals(sound, call, said) -> None:
    with pytest.raises(MethodError, match=said):
        call(sound)
