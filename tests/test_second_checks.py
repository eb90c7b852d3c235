"""Distribution functions, quantile residuals and the diagnosis of t responses and ordered categories."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.cumulative import LATENT, distribution, randomised
from bayeslmm.errors import MethodError
from bayeslmm.exact.ordinal import log_probabilities
from bayeslmm.family import LINKS
from bayeslmm.generalized_assumptions import standardise_generalized
from bayeslmm.pivotal import bounds_at, response_distribution
from bayeslmm.posterior import posterior_tree
from bayeslmm.predictive import replicated
from bayeslmm.thresholds import bounds, probabilities

WINE = Path(__file__).resolve().parents[1] / "models" / "wine"
TAU = np.array([-1.5, 0.2, 1.0])


@pytest.mark.parametrize("link", LATENT)
def test_categories_have_their_probabilities(link: str) -> None:
    eta = np.linspace(-3, 3, 7)
    given, want = distribution("cumulative", eta, np.nan, second=TAU, link=link), probabilities(link, eta, TAU)
    np.testing.assert_allclose(np.column_stack([given.pmf(k) for k in range(4)]), want, rtol=1e-12)
    np.testing.assert_allclose(np.column_stack([given.cdf(k) for k in range(4)]), np.cumsum(want, axis=1), rtol=1e-12)
    assert (given.cdf(-1) == 0.0).all()
    assert (given.pmf(-1) == 0.0).all()
    assert (given.cdf(5) == 1.0).all()
    y = np.array([0, 1, 2, 3, 3, 0, 1])
    np.testing.assert_array_equal(given.pmf(y), [given.pmf(k)[i] for i, k in enumerate(y)])


@pytest.mark.parametrize("link", LATENT)
def test_probabilities_far_out_keep_their_digits(link: str) -> None:
    """Against the kernels that go by logarithms; SciPy's tails have twelve digits."""
    eta, y = np.array([-4.0, 4.0, -25.0, 4.5]), np.array([2.0, 1.0, 2.0, 0.0])
    given = distribution("cumulative", eta, np.nan, second=TAU, link=link)
    want = log_probabilities(LINKS[link], eta, *bounds(y, TAU))
    kept = want > -600  # SciPy underflows where cloglog has exp(−exp(26))
    np.testing.assert_allclose(np.log(given.pmf(y)[kept]), want[kept], rtol=1e-11)


def test_transforms_are_uniform_under_the_model() -> None:
    """Kolmogorov's test at 1 in 1000."""
    rng, n = np.random.default_rng(5), 4000
    eta, nu = rng.normal(size=n), rng.uniform(0.8, 6.0, n)
    y = eta + 2.0 * rng.standard_t(nu)
    heavy = randomised("t", y, distribution("t", eta, 2.0, second=nu), rng.uniform(size=n))
    places = np.searchsorted(TAU, eta + rng.normal(size=n)).astype(float)
    given = distribution("cumulative", eta, np.nan, second=TAU, link="probit")
    ordered = randomised("cumulative", places, given, rng.uniform(size=n))
    for values in (heavy, ordered):
        assert stats.kstest(values, "uniform").pvalue > 1e-3


def heavy_data(seed: int, trend: float = 0.0, bend: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(20), 8), rng.uniform(-1, 1, 160)
    y = 2 * x + bend * x**2 + 0.7 * rng.normal(size=20)[g] + np.exp(trend * x) * rng.standard_t(3, 160)
    return {"y": y, "x": x, "g": g.astype(str)}


def rated(seed: int, turn: float = 0.0) -> dict[str, np.ndarray]:
    """Three thresholds; with `turn` x moves the upper ones more than the first."""
    rng = np.random.default_rng(seed)
    g, x = np.repeat(np.arange(20), 12), rng.uniform(-1, 1, 240)
    eta = 0.7 * rng.normal(size=20)[g] + rng.logistic(size=240)
    edges = TAU - np.outer(x, 1.0 + turn * np.array([-1.0, 0.0, 1.0]))
    return {"y": (eta[:, None] > edges).sum(axis=1), "x": x, "g": g.astype(str)}


@cache
def fit_t() -> bl.PointFit:
    return bl.fit(bl.Model("y ~ x + (1 | g)", heavy_data(2), family="t"))


@cache
def fit_ordered() -> bl.PointFit:
    return bl.fit(bl.Model("y ~ x + (1 | g)", rated(2), family="cumulative"))


def test_what_is_checked_of_each_family() -> None:
    t, ordered = (bl.diagnose(fit, nsim=0) for fit in (fit_t(), fit_ordered()))
    shared = {
        "link",
        "influential rows",
        "outlying levels: g",
        "normal effects: g[Intercept]",
        "linearity: x",
        "outlying rows",
    }
    assert shared <= set(t.table["check"]) & set(ordered.table["check"])
    assert {"distribution", "variance function"} <= set(t.table["check"])
    assert "parallel slopes: x" in set(ordered.table["check"])
    assert not {"dispersion", "zeros", "parallel slopes: x"} & set(t.table["check"])
    assert not {"dispersion", "variance function", "distribution"} & set(ordered.table["check"])
    assert any("σ and ν of a t response are estimated from its spread" in note for note in t.notes)
    assert any("Categories have no mean and no variance" in note for note in ordered.notes)
    for found in (t, ordered):
        assert {"residuals", "quantiles", "linearity", "effect quantiles"} <= set(found.figures())
        assert found.plot().axes


def test_residuals_by_hand() -> None:
    fit = fit_t()
    own = standardise_generalized(fit)
    y, eta = fit.model.design.y, fit.linear_predictor.to_numpy()
    np.testing.assert_allclose(own.residual, stats.norm.ppf(stats.t.cdf((y - eta) / fit.dispersion, fit.nu)), rtol=1e-9)
    np.testing.assert_array_equal(own.scaled, own.residual)
    fit = fit_ordered()
    ordered, y, P = standardise_generalized(fit).ordered, fit.model.design.y.astype(int), fit.probabilities.to_numpy()
    np.testing.assert_allclose(np.exp(-ordered.rarity), P[np.arange(240), y], rtol=1e-10)
    np.testing.assert_allclose(ordered.excess[:, 1], (y <= 1) - P[:, :2].sum(axis=1), atol=1e-14)
    x = fit.model.X[:, 0] - fit.model.X[:, 0].mean()
    below = np.cumsum(P, axis=1)[:, :3]
    scores = [x @ ordered.excess[:, k] / np.sqrt(x**2 @ (below[:, k] * (1 - below[:, k]))) for k in range(3)]
    table = bl.diagnose(fit, nsim=0).table.set_index("check")
    assert table.loc["parallel slopes: x", "value"] == pytest.approx(max(scores) - min(scores), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "data", "flagged"),
    [
        ("t", heavy_data(3, trend=1.2), ["variance function"]),
        ("t", heavy_data(4, bend=4.0), ["link", "linearity: x"]),
        ("cumulative", rated(3, turn=1.5), ["parallel slopes: x"]),
    ],
)  # fmt: skip
def test_faults_are_found(family, data, flagged) -> None:
    """Beyond all 99 simulated fits, and nothing else is; so few cannot show more than a look among eleven checks."""
    found = bl.diagnose(bl.fit(bl.Model("y ~ x + (1 | g)", data, family=family)), nsim=99, progress=False)
    assert found.problems["check"].tolist() == flagged
    assert found.problems["p"].iloc[-1] == 0.01


@pytest.mark.slow
@pytest.mark.parametrize("fit", [fit_t, fit_ordered])
def test_sound_fits_have_no_problem(fit) -> None:
    found = bl.diagnose(fit(), nsim=99, progress=False)
    assert set(found.table["verdict"]) <= {"ok", "look"}


def test_an_outlying_category_is_found() -> None:
    data = rated(2)
    row = int(np.argmax(np.where(data["y"] == 3, data["x"], -np.inf)))
    data["y"][row] = 0
    fit = bl.fit(bl.Model("y ~ x + (1 | g)", data, family="cumulative"))
    own = standardise_generalized(fit).ordered
    found = bl.diagnose(fit, nsim=0).table.set_index("check").loc["outlying rows"]
    assert found["value"] == pytest.approx(own.rarity.max())
    assert f"row {own.rarity.argmax()}" in found["sentence"]


def about(fit: bl.PointFit, draws: dict[str, np.ndarray], size: int = 60) -> bl.Posterior:
    """A posterior whose draws are these, β about the fit's, effects the fit's own."""
    rng = np.random.default_rng(8)
    values = draws | {
        "fixef": fit.beta + 0.1 * rng.normal(size=(2, size, 1)),
        "sd_g": np.exp(0.1 * rng.normal(size=(2, size, 1))),
    }
    effects = {"g": np.tile(fit.group_ranef["g"], (2, size, 1, 1))}
    return bl.Posterior(
        fit.model, posterior_tree(fit.model, values, effects, {}, {"energy": np.zeros((2, size))}), "hierarchical"
    )


@cache
def post_ordered() -> bl.Posterior:
    rng, fit = np.random.default_rng(9), fit_ordered()
    return about(fit, {"thresholds": fit.tau + 0.1 * rng.normal(size=(2, 60, 1))})


@cache
def post_t() -> bl.Posterior:
    rng, fit = np.random.default_rng(9), bl.fit(bl.Model("y ~ 0 + x + (1 | g)", heavy_data(2), family="t"))
    noise = {"sigma": fit.dispersion * np.exp(0.1 * rng.normal(size=(2, 60))), "nu": 2.0 + rng.uniform(size=(2, 60))}
    return about(fit, noise)


def test_transforms_of_posteriors_are_averages_over_the_draws() -> None:
    post = post_t()
    y, eta = post.model.design.y, np.concatenate([eta for _, eta in post.predictor_draws()])
    at = stats.t.cdf((y - eta) / post.draws("sigma")[:, None], post.draws("nu")[:, None])
    found = bl.quantile_residuals(post, method="exact")
    np.testing.assert_allclose(found.values, at.mean(axis=0), rtol=1e-10)
    post = post_ordered()
    places, eta = post.model.design.y.astype(int), np.concatenate([eta for _, eta in post.predictor_draws()])
    P = np.array([probabilities("logit", e, tau) for e, tau in zip(eta, post.draws("thresholds"), strict=True)])
    at = bounds_at(post, slice(0, 120), eta)
    below = np.cumsum(P, axis=2)[:, np.arange(240), places]
    np.testing.assert_allclose(at.upper, below, rtol=1e-10)
    np.testing.assert_allclose(at.upper - at.lower, P[:, np.arange(240), places], atol=1e-12)
    np.testing.assert_allclose(response_distribution(post, slice(0, 120), eta).pmf(2), P[..., 2], rtol=1e-9)
    values = bl.quantile_residuals(post, method="exact").values
    assert ((values > at.lower.mean(axis=0)) & (values < at.upper.mean(axis=0))).all()


@pytest.mark.parametrize("post", [post_t, post_ordered])
@pytest.mark.parametrize("method", ["simulation", "exact", "loo"])
def test_every_method_has_residuals_and_a_figure(post, method) -> None:
    found = bl.quantile_residuals(post(), 40, method=method, groups="conditional")
    assert found.values.between(0, 1).all()
    assert found.plot().axes
    if method != "loo":
        assert "uniformity" in found.tests.index
        assert ("dispersion" in found.tests.index) == (post is post_t or method == "exact")


def test_a_variance_of_categories_is_refused() -> None:
    with pytest.raises(MethodError, match="ordered categories have no variance"):
        bl.quantile_residuals(fit_ordered(), 20).dispersion()


def test_posteriors_are_judged() -> None:
    table = bl.diagnose(post_ordered(), nsim=49).table.set_index("check")
    assert table.loc["residuals: uniform", "verdict"] == table.loc["residuals: dispersion", "verdict"] == "ok"
    names = [f"predictive: share of {k}" for k in range(4)]
    assert set(names) <= set(table.index)
    shares = np.bincount(rated(2)["y"]) / 240
    np.testing.assert_allclose(table.loc[names, "value"].astype(float), shares)
    again = replicated(post_ordered(), 49, 1)
    np.testing.assert_allclose(again[[f"share of {k}" for k in range(4)]].sum(axis=1), 1.0)
    assert bl.diagnose(post_t(), nsim=49).table.set_index("check").loc["residuals: uniform", "verdict"] == "ok"


def test_replicated_categories_are_stored_as_whole_numbers() -> None:
    """By their type ArviZ tells them from measurements."""
    post = about(fit_ordered(), {"thresholds": np.tile(fit_ordered().tau, (2, 60, 1))})
    bl.simulate(post, 5, seed=1, store=True)
    for group in ("posterior_predictive", "observed_data"):
        values = post.data[group]["y"].values
        assert values.dtype == np.int64
        assert set(np.unique(values)) <= {0, 1, 2, 3}


def test_rows_of_categories() -> None:
    """As R's ordinal has them: the probability of the row's own category is `fitted`."""
    fit = bl.fit(bl.load(WINE))
    rows = bl.augment(fit)
    prob = rows[[f".prob[{k}]" for k in range(1, 6)]].to_numpy()
    np.testing.assert_allclose(prob, fit.probabilities, rtol=1e-10)
    y = fit.model.design.y.astype(int)
    np.testing.assert_allclose(rows[".fitted"], prob[np.arange(72), y], rtol=1e-10)
    assert rows[".class"].tolist() == fit.probabilities.idxmax(axis=1).tolist()
    np.testing.assert_array_equal(rows[".resid"], bl.quantile_residuals(fit, method="exact").normal)
    np.testing.assert_allclose(
        rows[".eta"] - rows[".fixed"], fit.group_ranef["judge"][fit.model.design.random[0].codes, 0]
    )
    new = pd.DataFrame({"temp": ["cold", "warm"], "contact": ["no", "yes"], "judge": ["1", "2"]})
    found, want = bl.augment(fit, new), bl.predict(fit, new, kind="probabilities")
    assert list(found)[:4] == ["temp", "contact", "judge", ".prob[1]"]
    np.testing.assert_array_equal(found[".se[3]"], want["se"]["3"])
    polars = pytest.importorskip("polars")
    assert bl.augment(fit, new, backend="polars").schema[".class"] == polars.String
    assert bl.augment(fit, polars.from_pandas(new))[".class"].to_list() == found[".class"].tolist()


def test_rows_of_categories_of_a_posterior_are_averages() -> None:
    post, rows = post_ordered(), bl.augment(post_ordered())
    eta = np.concatenate([eta for _, eta in post.predictor_draws()])
    P = np.mean([probabilities("logit", e, tau) for e, tau in zip(eta, post.draws("thresholds"), strict=True)], axis=0)
    np.testing.assert_allclose(rows[[f".prob[{k}]" for k in range(4)]], P, rtol=1e-9)
    np.testing.assert_allclose(rows[".fitted"], P[np.arange(240), post.model.design.y.astype(int)], rtol=1e-9)
    np.testing.assert_allclose(rows[".eta"], eta.mean(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(rows[".class"], P.argmax(axis=1).astype(str))


def test_rows_of_t_responses_have_a_mean_without_effects() -> None:
    fit = fit_t()
    rows = bl.augment(fit)
    np.testing.assert_allclose(rows[".fixed"], fit.model.X @ fit.beta, rtol=1e-12)
    np.testing.assert_allclose(rows[".mu"], fit.fitted, rtol=1e-12)
