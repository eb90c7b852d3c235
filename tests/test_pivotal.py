"""Quantile residuals of posteriors: against conjugate posteriors known exactly, and on planted faults."""

import numpy as np
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.errors import MethodError
from bayeslmm.pivotal import zero_inflation
from bayeslmm.posterior import posterior_tree

SHAPE, RATE, ROWS = 3.0, 1.0, 30


def conjugate(y: np.ndarray, draws: int, seed: int) -> bl.Posterior:
    """Exact draws of the mean of Poisson counts, prior Gamma(3, 1), as a posterior of the package."""
    model = bl.Model("y ~ 1", {"y": y}, family="poisson", link="identity")
    rng = np.random.default_rng(seed)
    mean = rng.gamma(SHAPE + y.sum(), 1.0 / (RATE + len(y)), (2, draws, 1))
    tree = posterior_tree(model, {"fixef": mean}, {}, {}, {"energy": np.zeros((2, draws))})
    return bl.Posterior(model, tree, "hierarchical")


def true_counts(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(rng.gamma(SHAPE, 1.0 / RATE), ROWS)


def predictive(y: np.ndarray, total: float, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """F(y⁻) and F(y) of the negative binomial that predicts a count from `rows` others with this sum."""
    share = (RATE + rows) / (RATE + rows + 1.0)
    given = stats.nbinom(SHAPE + total, share)
    return given.cdf(y - 1), given.cdf(y)


def test_averaged_transforms_are_those_of_the_predictive_distribution() -> None:
    y = true_counts(3)
    values = bl.quantile_residuals(conjugate(y, 5000, 1), method="exact").values.to_numpy()
    low, high = predictive(y, y.sum(), ROWS)
    # F varies by less than 0.1 over the draws: the mean of 10,000 has a standard error below 0.001
    assert ((values > low - 0.005) & (values < high + 0.005)).all()
    # ... and they lie anywhere between the bounds, not at one of them
    assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 0.01


def test_leaving_out_gives_the_transforms_of_the_other_rows_prediction() -> None:
    y = np.array([6, 2, 3, 1, 2, 4])
    post = conjugate(y, 5000, 1)
    values = bl.quantile_residuals(post, method="loo").values.to_numpy()
    for i in range(len(y)):
        low, high = predictive(y[i], y.sum() - y[i], len(y) - 1)
        assert low - 0.005 < values[i] < high + 0.005  # 10,000 draws whose weights vary severalfold
    used_twice = bl.quantile_residuals(post, method="exact").values.to_numpy()
    assert used_twice[0] < predictive(y[0], y.sum() - y[0], len(y) - 1)[0] - 0.01


def test_residuals_at_a_single_draw_are_exact_under_the_model() -> None:
    """200 true models: p-values at one draw are uniform; of means over 100 draws below 0.1 at most 0.2 of the time."""
    at_one, at_many = [], []
    for seed in range(200):
        found = bl.quantile_residuals(conjugate(true_counts(seed), 50, seed), 20, method="exact", seed=seed)
        r = found.transforms.at_draws[:, :1]
        at_one.append((stats.kstest(r[:, 0], "uniform").pvalue, stats.chi2.sf(np.sum(stats.norm.ppf(r) ** 2), ROWS)))
        at_many.append([found.uniformity().p, found.dispersion().p, found.zero_inflation().p])
    for p in np.transpose(at_one):
        assert stats.kstest(p, "uniform").pvalue > 0.005
    # 0.2 is the bound; binomial error of 200: 0.03
    assert (np.mean(np.array(at_many) < 0.1, axis=0) < 0.26).all()


def test_faults_are_found() -> None:
    rng = np.random.default_rng(5)
    over = bl.quantile_residuals(conjugate(rng.negative_binomial(1.0, 0.25, 60), 200, 1), method="exact")
    assert over.dispersion().statistic > 1.5
    assert over.dispersion().p < 0.001
    assert over.uniformity().p < 0.05
    inflated = rng.poisson(4.0, 60) * (rng.uniform(size=60) > 0.3)
    found = bl.quantile_residuals(conjugate(inflated, 200, 1), method="exact")
    assert found.zero_inflation().statistic > 3.0
    assert found.zero_inflation().p <= 2 / 251  # none of 250 draws has as many zeros
    assert "means over 250 draws" in str(found)
    assert "zero inflation" in str(found)
    by_simulation = bl.quantile_residuals(conjugate(inflated, 200, 1), seed=1)
    assert by_simulation.zero_inflation().p < 0.01
    assert "simulations of the posterior" in str(by_simulation)


def test_zeros_by_hand() -> None:
    found = zero_inflation(3, np.array([1.0, 2.0]), np.array([0, 1, 1, 4]))
    assert found.statistic == 2.0
    assert found.p == pytest.approx(2 * (1 + 1) / 5)


@pytest.fixture(scope="module")
def weighted() -> bl.Posterior:
    rng = np.random.default_rng(8)
    g, w = np.repeat(np.arange(12), 6), rng.uniform(0.2, 5.0, 72)
    y = 3.0 + rng.normal(size=12)[g] + rng.normal(size=72) / np.sqrt(w)
    model = bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": g.astype(str), "w": w}, weights="w")
    return bl.sample(model, draws=200, tune=200, chains=2, seed=1, progress=False)


def test_gaussian_posteriors_know_their_weights(weighted) -> None:
    """The mean of Φ(√w (y − η)/σ) over the draws."""
    design = weighted.model.design
    eta = np.concatenate([eta for _, eta in weighted.predictor_draws()])
    z = (design.y - eta) * np.sqrt(design.weights) / weighted.draws("sigma")[:, None]
    found = bl.quantile_residuals(weighted, method="exact")
    np.testing.assert_allclose(found.values, stats.norm.cdf(z).mean(axis=0), atol=1e-12)
    assert found.tests.index.tolist() == ["uniformity", "dispersion"]
    assert (found.tests["p"] > 0.1).all()
    loo = bl.quantile_residuals(weighted, method="loo")
    # leaving a row out moves its own residual away from the middle
    outer = np.abs(found.values - 0.5) > 0.3
    assert (np.abs(loo.values - 0.5)[outer] > np.abs(found.values - 0.5)[outer]).mean() > 0.9
    assert found.plot().axes
    assert loo.plot().axes
    assert bl.quantile_residuals(weighted, 20).plot().axes


def test_frequencies_of_posteriors() -> None:
    y = true_counts(3)
    table = bl.rootogram(conjugate(y, 2000, 1)).table
    expected = ROWS * stats.nbinom(SHAPE + y.sum(), (RATE + ROWS) / (RATE + ROWS + 1.0)).pmf(table.index)
    np.testing.assert_allclose(table["expected"], expected, atol=0.05)  # 4000 draws of probabilities that vary by 20 %
    rng = np.random.default_rng(2)
    p = rng.beta(3.0, 2.0, (2, 100, 1))
    model = bl.Model("y ~ 1", {"y": rng.binomial(1, 0.6, 40)}, family="bernoulli")
    tree = posterior_tree(model, {"fixef": np.log(p / (1 - p))}, {}, {}, {"energy": np.zeros((2, 100))})
    binary = bl.Posterior(model, tree, "hierarchical")
    assert bl.roc(binary).auc == 0.5
    assert bl.calibration_curve(binary, 2).table["fitted"].to_numpy() == pytest.approx([p.mean()] * 2)


def test_a_diagnosis_of_a_posterior_looks_at_its_residuals() -> None:
    rng = np.random.default_rng(5)
    post = conjugate(rng.negative_binomial(1.0, 0.25, 60), 200, 1)
    found = bl.diagnose(post, nsim=19)
    table = found.table.set_index("check")
    assert table.loc["residuals: dispersion", "verdict"] == "problem"
    assert table.loc["residuals: dispersion", "p_adjusted"] == pytest.approx(
        3 * table.loc["residuals: dispersion", "p"]
    )
    assert "negativebinomial" in str(found)
    assert found.rootogram.table["observed"].sum() == 60
    sound = bl.diagnose(conjugate(true_counts(3), 200, 1), nsim=19).table.set_index("check")
    assert set(sound.loc[["residuals: uniform", "residuals: zeros"], "verdict"]) == {"ok"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: bl.quantile_residuals(p, method="loo").tests, "simulation"),
        (lambda p: bl.quantile_residuals(p, method="exact").outliers(), "simulation"),
        (lambda p: bl.quantile_residuals(bl.fit(p.model), method="loo"), "a point fit has none"),
        (lambda p: bl.quantile_residuals(p.model), "got Model"),
        (lambda p: bl.roc(p), "binary"),
    ],
)  # fmt: skip
def test_refusals(call, said) -> None:
    with pytest.raises(MethodError, match=said):
        call(conjugate(true_counts(1), 50, 1))
