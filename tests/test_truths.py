"""Parameters of simulations: names and blocks, draws from every prior, LKJ correlations, the intercept at the means."""

import numpy as np
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.errors import MethodError, PriorError
from bayeslmm.estimates import parameter_names
from bayeslmm.truths import blocks, given_values, mixed_draws, prior_draws

TABLE = {"y": np.sin(np.arange(24.0)), "x": np.arange(24.0) % 5 + 3, "g": np.repeat(range(6), 4)}
LEVEL = 1e-4  # of each Kolmogorov–Smirnov test; about 20 in this file
DRAWS = 4000


def model_with(**priors):
    return bl.Model("y ~ x + (x | g)", TABLE, priors=priors)


@pytest.mark.parametrize(
    ("prior", "law"),
    [
        (bl.Prior("HalfNormal", sigma=2), stats.halfnorm(0, 2)),
        (bl.Prior("HalfStudentT", nu=4, sigma=2), stats.foldnorm),
        (bl.Prior("HalfCauchy", beta=2), stats.halfcauchy(0, 2)),
        (bl.Prior("Exponential", lam=3), stats.expon(0, 1 / 3)),
        (bl.Prior("Gamma", alpha=2, beta=3), stats.gamma(2, 0, 1 / 3)),
        (bl.Prior("InverseGamma", alpha=3, beta=2), stats.invgamma(3, 0, 2)),
        (bl.Prior("LogNormal", mu=1, sigma=0.5), stats.lognorm(0.5, 0, np.e)),
        (bl.Prior("Uniform", lower=1, upper=4), stats.uniform(1, 3)),
    ],
    ids=lambda value: value.name if isinstance(value, bl.Prior) else "",
)
def test_draws_follow_the_prior(prior, law):
    """Also against the density that the sampler uses: E[d log p] would differ if the two meant different arguments."""
    draws = prior_draws(model_with(sigma=prior), DRAWS, np.random.default_rng(2))[:, -1]
    cdf = (lambda v: 2 * stats.t(4, 0, 2).cdf(v) - 1) if prior.name == "HalfStudentT" else law.cdf
    assert stats.kstest(draws, cdf).pvalue > LEVEL


def test_the_default_intercept_is_drawn_at_the_predictor_means():
    model = model_with()
    beta = prior_draws(model, 20_000, np.random.default_rng(1))[:, :2]
    covariance = np.linalg.inv(model.priors.fixef_precision)
    error = np.sqrt(np.diag(covariance) / 20_000)
    assert (np.abs(beta.mean(axis=0) - model.priors.fixef_mean) < 4 * error).all()
    np.testing.assert_allclose(np.cov(beta.T), covariance, rtol=0.05)  # 5 standard errors of a variance, √(2/n) = 0.01


@pytest.mark.parametrize("eta", [1.0, 3.0])
def test_correlations_are_lkj(eta):
    """Each entry of a k × k LKJ(η) matrix is 2 Beta(a, a) − 1, a = η − 1 + k/2 (Lewandowski et al. 2009)."""
    table = TABLE | {"z": np.cos(np.arange(24.0))}
    model = bl.Model("y ~ x + (x + z | g)", table, priors={"corr_g": bl.Prior("LKJ", eta=eta)})
    pairs = blocks(model, prior_draws(model, DRAWS, np.random.default_rng(3)))["corr_g"]
    law = stats.beta(eta + 0.5, eta + 0.5, -1, 2)
    assert min(stats.kstest(column, law.cdf).pvalue for column in pairs.T) > LEVEL
    determinant = 1 + 2 * pairs.prod(axis=1) - (pairs**2).sum(axis=1)
    # |R| is a product of 1 − (partial correlation)²: E = a/(a + ½) for each, a = η + ½, η + ½, η
    expected = np.prod([(a) / (a + 0.5) for a in (eta + 0.5, eta + 0.5, eta)])
    assert determinant.mean() == pytest.approx(expected, abs=4 * determinant.std() / np.sqrt(DRAWS))


def test_priors_and_numbers_mix():
    belief = {"fixef": [1, 2], "fixef[x]": bl.Prior("Normal", mu=5, sigma=1), "sd_g": bl.Prior("HalfNormal", sigma=1),
              "corr_g": 0.5, "sigma": 2}  # fmt: skip
    draws = mixed_draws(model_with(), belief, DRAWS, np.random.default_rng(4))
    names = parameter_names(model_with())
    assert (draws[:, [0, 4, 5]] == [1, 0.5, 2]).all()
    assert names[4].startswith("corr_g")
    assert stats.kstest(draws[:, 1], stats.norm(5, 1).cdf).pvalue > LEVEL
    assert abs(np.corrcoef(draws[:, 2], draws[:, 3])[0, 1]) < 4 / np.sqrt(DRAWS)


def test_names_and_blocks_mean_the_same():
    model = model_with()
    one = given_values(model, {"fixef": {"x": 2, "Intercept": 1}, "sd_g": [3, 4], "corr_g": 0.5, "sigma": 6})
    two = given_values(
        model,
        {"fixef[Intercept]": 1, "fixef[x]": 2, "sd_g[Intercept]": 3, "sd_g[x]": 4, "corr_g[Intercept, x]": 0.5},
        {"sigma": 6.0, "sd_g[x]": 99.0},
    )
    np.testing.assert_array_equal(one, two)
    assert {name: np.size(value) for name, value in blocks(model, one).items()} == {
        "fixef": 2,
        "sd_g": 2,
        "corr_g": 1,
        "sigma": 1,
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"fixef": [1]}, r"fixef takes 2 numbers, fixef\[Intercept\], fixef\[x\]"),
        ({"fixef": {"z": 1}}, "fixef has no entry 'z'"),
        ({"sigma": "big"}, "sigma must be a number"),
        ({"sigma": np.inf}, "sigma must be finite"),
        ({"sd_h": 1}, "no parameter 'sd_h'"),
        ({"sigma": 1}, "parameters= lacks fixef"),
    ],
)
def test_what_is_no_parameter_raises(parameters, message):
    with pytest.raises(MethodError, match=message):
        given_values(model_with(), parameters)


def test_nothing_is_drawn_from_an_improper_prior():
    with pytest.raises(PriorError, match=r"sigma has the improper prior"):
        prior_draws(model_with(sigma=bl.Prior("HalfFlat")), 2, np.random.default_rng(0))
    with pytest.raises(PriorError, match="values cannot be drawn from"):
        prior_draws(model_with(sigma=bl.Prior("Weibull", alpha=2, beta=1)), 2, np.random.default_rng(0))
