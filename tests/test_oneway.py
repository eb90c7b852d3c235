"""One-way theory: closed forms against fits, exact intervals and power against simulation, every number of the wool lecture."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.errors import DataError, ExactFitError, MethodError
from bayeslmm.oneway import OneWay
from bayeslmm.refits import Refits

SIZES = np.array([2, 9, 4, 1, 6, 3])


@pytest.fixture(autouse=True)
def at_root(root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.fixture(scope="module")
def wool(root) -> OneWay:
    return bl.oneway("y", "bale", pd.read_csv(root / "models/wool/data.csv"))


def drawn(rng: np.random.Generator, k: int, n: int, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    g = np.repeat(np.arange(k), n)
    return 5.0 + np.sqrt(gamma) * rng.normal(size=k)[g] + rng.normal(size=k * n), g


def by_hand(y: np.ndarray, g: np.ndarray, gamma: float) -> float:
    """Wald's pivot from the n × n covariance."""
    Z = np.eye(g.max() + 1)[g]
    Vi = np.linalg.inv(np.eye(len(y)) + gamma * Z @ Z.T)
    one = np.ones((len(y), 1))
    P = Vi - Vi @ one @ np.linalg.inv(one.T @ Vi @ one) @ one.T @ Vi
    sse = y @ (y - Z @ np.linalg.lstsq(Z, y, rcond=None)[0])
    k, n = Z.shape[1], len(y)
    return float((y @ P @ y - sse) / (k - 1) / (sse / (n - k)))


def test_wool_is_the_lecture_with_its_sums_corrected(wool: OneWay) -> None:
    # printed: Madsen and Thyregod (2011), lecture part I; its last digits do not reproduce from its own data by ≤ 4e-4
    table = wool.table
    np.testing.assert_allclose(table["SS"], [65.9628, 131.4726, 197.4348], atol=5e-4)
    np.testing.assert_allclose(table["MS"][:2], [10.9938, 6.2606], atol=1e-4)
    assert table["df"].tolist() == [6, 21, 27]
    assert (round(wool.statistic, 2), round(wool.p, 2)) == (1.76, 0.16)
    assert wool.groups()["mean"].round(2).tolist() == [55.48, 57.81, 57.23, 57.33, 58.86, 58.78, 60.78]  # half to even
    # exact, to the digits of R's anova(lm(y ~ bale)) and lme4
    np.testing.assert_allclose(table["SS"][:2], [65.9626, 131.4722], atol=5e-5)
    assert abs(table.loc["between", "SS"] + table.loc["within", "SS"] - table.loc["total", "SS"]) < 1e-12
    np.testing.assert_allclose([wool.statistic, wool.p], [1.75603, 0.15734], atol=5e-6)
    reml, ml = wool.estimate("REML"), wool.estimate("ML")
    np.testing.assert_allclose([reml.between, reml.gamma, reml.icc], [1.183298, 0.189008, 0.158963], atol=5e-7)
    np.testing.assert_allclose(ml.between, 0.790663, atol=5e-7)
    np.testing.assert_allclose(wool.groups("REML")["weight_overall"], 0.569466, atol=5e-7)


def test_shrinkage_weights_add_to_one_and_give_the_fit_s_effects(wool: OneWay) -> None:
    fit = bl.fit(bl.load("models/wool"), "REML")
    groups = wool.groups("REML")
    np.testing.assert_allclose(groups["weight_overall"] + groups["weight_group"], 1.0, rtol=1e-15)
    np.testing.assert_allclose(
        groups["blup"], fit.ranef["bale"]["Intercept"], rtol=1e-6
    )  # theta to 1e-7 at the optimum
    np.testing.assert_allclose(groups["predicted"], wool.mean() + groups["blup"], rtol=1e-15)


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 20.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_closed_form_is_the_fit(method: str, gamma: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(3, 12)), int(rng.integers(2, 9))
    y, g = drawn(rng, k, n, gamma)
    exact = bl.oneway(y, g).estimate(method)
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": g}), method)
    # the criterion is flat at its optimum: values to rounding, variances to the square root of it
    assert abs(fit.loglik - exact.loglik) < 1e-10 * max(1.0, abs(exact.loglik))
    total = exact.between + exact.within
    np.testing.assert_allclose(fit.varcorr["variance"], [exact.between, exact.within], atol=1e-8 * total)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_at_the_boundary_all_variance_is_residual(method: str) -> None:
    model = bl.load("models/dyestuff2")
    one, fit = bl.oneway(model), bl.fit(model, method)
    assert one.statistic < 1
    found = one.estimate(method)
    total = ((model.design.y - model.design.y.mean()) ** 2).sum()
    assert found.between == 0 == fit.theta[0]
    np.testing.assert_allclose(found.within, total / (30 - (method == "REML")), rtol=1e-14)
    np.testing.assert_allclose(fit.sigma**2, found.within, rtol=1e-12)


def test_anova_estimates_solve_the_expected_mean_squares(rng: np.random.Generator) -> None:
    # tr of the dense quadratic forms: E(SSB) = σ² (k − 1) + σ_u² tr(Z'(P_Z − P_1)Z), also when unbalanced
    g = np.repeat(np.arange(6), SIZES)
    Z = np.eye(6)[g]
    n = len(g)
    between = Z @ np.diag(1.0 / SIZES) @ Z.T - np.full((n, n), 1.0 / n)
    one = bl.oneway(rng.normal(size=n), g)
    np.testing.assert_allclose(one.mean_size * 5, np.trace(Z.T @ between @ Z), rtol=1e-13)
    msb, mse = one.mean_squares
    assert np.isclose(one.estimate("ANOVA").icc, (msb - mse) / (msb + (one.mean_size - 1) * mse), rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.4, 7.0])
def test_pivot_is_the_generalised_least_squares_form(gamma: float, rng: np.random.Generator) -> None:
    g = np.repeat(np.arange(6), SIZES)
    y = 1e3 + rng.normal(size=6)[g] + rng.normal(size=len(g))
    one = bl.oneway(y, g)
    assert np.isclose(one.pivot(gamma), by_hand(y - 1e3, g, gamma), rtol=1e-9)
    assert np.isclose(
        bl.variance_ratio(bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": g})).pivot(gamma), one.pivot(gamma), rtol=1e-9
    )


def test_balanced_interval_is_closed_form(wool: OneWay) -> None:
    low, high = stats.f.isf([0.025, 0.975], 6, 21)
    expected = [max(0.0, (wool.statistic / low - 1) / 4), (wool.statistic / high - 1) / 4]
    np.testing.assert_allclose(wool.confint().loc["gamma"], expected, rtol=1e-12)
    np.testing.assert_allclose(wool.confint().loc["icc"], [g / (1 + g) for g in expected], rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
def test_unbalanced_interval_covers_and_its_pivot_is_f(gamma: float) -> None:
    rng = np.random.default_rng(7)
    g = np.repeat(np.arange(6), SIZES)
    design = Refits(bl.Model("y ~ 1 + (1 | g)", {"y": rng.normal(size=len(g)), "g": g}))
    pivots, hits = [], []
    for _ in range(400):
        one = bl.oneway(design.model(np.sqrt(gamma) * rng.normal(size=6)[g] + rng.normal(size=len(g))))
        pivots.append(one.pivot(gamma))
        lower, upper = one.confint(0.9).loc["gamma"]
        hits.append(lower <= gamma <= upper)
    assert stats.kstest(pivots, stats.f(5, len(g) - 6).cdf).pvalue > 0.001
    # at γ = 0 only the upper end can miss what lies in the interval: 95 %; four Monte Carlo errors
    nominal = 0.95 if gamma == 0 else 0.9
    assert abs(np.mean(hits) - nominal) < 4 * np.sqrt(nominal * (1 - nominal) / 400)


@pytest.mark.parametrize(("sizes", "same"), [([4] * 6, True), (SIZES, False)])
def test_f_orders_data_as_the_likelihood_ratio_does_only_when_balanced(sizes, same: bool) -> None:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(6), sizes)
    random = Refits(bl.Model("y ~ 1 + (1 | g)", {"y": rng.normal(size=len(g)), "g": g}))
    found = []
    for _ in range(60):
        y = rng.normal(size=6)[g] + rng.normal(size=len(g))
        model = random.model(y)
        null = -0.5 * len(y) * (np.log(2 * np.pi * y.var()) + 1)
        found.append((bl.oneway(model).statistic, bl.fit(model, "ML").loglik - null))
    F, ratio = np.array([pair for pair in found if pair[1] > 1e-6]).T
    assert (np.argsort(F) == np.argsort(ratio)).all() == same


def test_interval_from_zero_to_zero_says_so() -> None:
    y = np.array([1.0, 2, 3, 3, 2, 1, 2, 3, 1, 1, 3, 2]) + np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) * 1e-3
    one = bl.oneway(y, np.repeat(np.arange(4), 3))
    assert one.confint().loc["gamma"].tolist() == [0.0, 0.0]
    assert "every γ ≥ 0 is rejected" in str(one)
    assert "ANOVA estimate of σ_u² is negative" in str(one)


@pytest.mark.parametrize("kind", ["random", "fixed"])
def test_power_is_what_simulation_rejects(kind: str, rng: np.random.Generator) -> None:
    k, n, gamma, reps = 5, 4, 0.6, 20_000
    u = rng.normal(size=(reps, k)) if kind == "random" else np.linspace(-1, 1, k)[None].repeat(reps, axis=0)
    u *= np.sqrt(gamma) / (1.0 if kind == "random" else u[0].std(ddof=1))
    means = u + rng.normal(size=(reps, k)) / np.sqrt(n)
    F = n * means.var(axis=1, ddof=1) / (rng.chisquare(k * (n - 1), size=reps) / (k * (n - 1)))
    found = (stats.f.sf(F, k - 1, k * (n - 1)) < 0.05).mean()
    assert abs(found - bl.oneway_power(k, n, gamma, kind=kind)) < 4 * np.sqrt(0.25 / reps)


def test_fixed_power_is_r_s() -> None:
    # R 4.2.2: power.anova.test(groups = 4, n = 5, between.var = 1, within.var = 3); with power = .8, n = 11.926
    assert np.isclose(bl.oneway_power(4, 5, 1 / 3, kind="fixed"), 0.353559423815, atol=1e-9)
    assert bl.oneway_size(0.8, 1 / 3, n_groups=4, kind="fixed") == 12


def test_power_at_no_effect_is_the_size_and_arrays_broadcast() -> None:
    for kind in ("random", "fixed"):
        assert np.isclose(bl.oneway_power(6, 5, 0.0, 0.01, kind=kind), 0.01, rtol=1e-9)
        found = bl.oneway_power([[3], [30]], [2, 8, 20], 0.2, kind=kind)
        assert found.shape == (2, 3)
        assert (np.diff(found, axis=0) > 0).all()
        assert (np.diff(found, axis=1) > 0).all()


@pytest.mark.parametrize("kind", ["random", "fixed"])
@pytest.mark.parametrize("held", ["n_groups", "n_per_group"])
def test_size_is_the_smallest(kind: str, held: str) -> None:
    def power(size: int) -> float:
        k, n = (8, size) if held == "n_groups" else (size, 8)
        return bl.oneway_power(k, n, 0.15, kind=kind)

    size = bl.oneway_size(0.8, 0.15, kind=kind, **{held: 8})
    assert power(size - 1) < 0.8 <= power(size)


def test_source_may_be_names_arrays_a_model_or_its_fit(root, wool: OneWay) -> None:
    model = bl.load("models/wool")
    data = pd.read_csv(root / "models/wool/data.csv").rename(columns={"y": "the y", "bale": "a bale"})
    fit = bl.fit(model, "REML")
    for other in (
        bl.oneway(model),
        bl.oneway(fit),
        bl.oneway("the y", "a bale", data),
        bl.oneway(data["the y"], data["a bale"]),
    ):
        pd.testing.assert_frame_equal(other.table, wool.table)
    assert repr(bl.oneway("the y", "a bale", data)).startswith("OneWay(the y by a bale, 7 groups")


def test_missing_rows_are_counted() -> None:
    one = bl.oneway("y", "g", {"y": [1.0, 2.0, np.nan, 4.0, 5.0, 7.0], "g": list("aaabbb")})
    assert one.nobs == 5
    assert "1 row dropped" in str(one)


def test_far_from_zero_nothing_is_lost(rng: np.random.Generator) -> None:
    y, g = np.round(rng.normal(size=20), 3), np.repeat(np.arange(5), 4)
    assert np.isclose(bl.oneway(y + 2.0**26, g).statistic, bl.oneway(y, g).statistic, rtol=1e-6)  # y + 2^26 keeps 1e-8


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: bl.oneway([1.0, 2, 3], None), MethodError, "groups= is missing"),
        (lambda: bl.oneway("y", "g"), MethodError, "data= is missing"),
        (lambda: bl.oneway("y", [1, 2]), MethodError, "both as names"),
        (lambda: bl.oneway([1.0, 2, 3], [1, 1, 2], {"a": [1]}), MethodError, "names of columns"),
        (lambda: bl.oneway([1.0, 2, 3], [1, 1, 1]), DataError, "level"),
        (lambda: bl.oneway([1.0, 2, 3], [1, 2, 3]), DataError, "levels"),
        (lambda: bl.oneway([1.0, 1, 3, 3], [1, 1, 2, 2]), ExactFitError, "does not vary within"),
        (lambda: bl.oneway(bl.load("models/sleepstudy")), MethodError, "not a one-way layout"),
        (lambda: bl.oneway(bl.load("models/wool"), [1]), MethodError, "its own groups"),
        (lambda: bl.oneway([1.0, 2, 3, 5, 6], [1, 1, 2, 2, 2]).estimate("REML"), MethodError, "closed form"),
        (lambda: bl.oneway([1.0, 2, 3, 5], [1, 1, 2, 2]).estimate("GLS"), MethodError, "ANOVA"),
        (lambda: bl.oneway([1.0, 2, 3, 5], [1, 1, 2, 2]).groups(-0.1), MethodError, "at least 0"),
        (lambda: bl.oneway([1.0, 2, 3, 5], [1, 1, 2, 2]).confint(95), MethodError, "level=95"),
        (lambda: bl.oneway_power(1, 5, 0.2), MethodError, "n_groups"),
        (lambda: bl.oneway_power(3, 2.5, 0.2), MethodError, "n_per_group"),
        (lambda: bl.oneway_power(3, 2, -0.2), MethodError, "gamma"),
        (lambda: bl.oneway_power(3, 2, 0.2, kind="mixed"), MethodError, "kind='mixed'"),
        (lambda: bl.oneway_size(0.8, 0.2), MethodError, "give one of"),
        (lambda: bl.oneway_size(0.01, 0.2, n_groups=4), MethodError, "power=0.01"),
        (lambda: bl.oneway_size(0.999, 1e-9, n_groups=2), MethodError, "no size up to"),
    ],
)
def test_what_has_no_meaning_is_refused(call, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_page_prints_and_renders(wool: OneWay) -> None:
    assert "exact test of σ_u² = 0" in str(wool)
    assert wool._repr_html_().count("<table>") == 3
