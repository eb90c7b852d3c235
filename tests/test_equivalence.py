"""One model, two routes, one posterior."""

import numpy as np
import pandas as pd
import pytest
from dense import of_model
from scipy import stats

import bayeslmm as bl

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(21)
    n = 64
    g, h = np.arange(n) % 8, rng.integers(0, 5, n)
    x = rng.normal(size=n)
    u = rng.normal(size=(8, 2)) * [1.5, 0.8]
    y = 3 + x + u[g, 0] + u[g, 1] * x + 0.7 * rng.normal(size=5)[h] + rng.normal(size=n)
    return pd.DataFrame({"y": y, "x": x, "g": g, "h": h, "w": rng.uniform(0.5, 2, n)})


def gaps(one, other, mean_error, sd_error):
    """Standardised differences of the means and of the sds, one a parameter."""
    means = (one["mean"] - other["mean"]) / np.hypot(one[mean_error], other[mean_error])
    return np.concatenate([means, (one["sd"] - other["sd"]) / np.hypot(one[sd_error], other[sd_error])])


@pytest.mark.slow
def test_marginal_and_hierarchical_posteriors_agree(data):
    """Means and sds of every parameter and random effect, within Monte Carlo error."""
    model = bl.Model("y ~ x + (x | g) + (1 | h)", data, weights="w")
    hierarchical = bl.sample(
        model, draws=2000, tune=1500, chains=2, seed=5, route="hierarchical", target_accept=0.95, **QUIET
    )
    marginal = bl.sample(model, draws=2500, tune=1000, chains=4, seed=6, **QUIET)
    assert (hierarchical.route, marginal.route) == ("hierarchical", "marginal")
    assert hierarchical.parameters == marginal.parameters
    assert hierarchical.diagnostics.r_hat < 1.02
    everything = [*marginal.parameters, "ranef_g", "ranef_h"]
    tables = [post.summary(var_names=everything) for post in (marginal, hierarchical)]
    assert list(tables[0].index) == list(tables[1].index)
    z = gaps(*tables, "mcse_mean", "mcse_sd")
    assert len(z) == 2 * (2 + 2 + 1 + 1 + 1 + 16 + 5)
    # 56 correlated comparisons whose errors are estimates: beyond 4.5 for one in 2600 runs (Bonferroni), were they exact
    assert np.abs(z).max() < 4.5
    assert np.mean(z**2) < 3.0
    dims = [
        {name: values.dims for name, values in post.data.posterior.data_vars.items()}
        for post in (marginal, hierarchical)
    ]
    assert dims[0] == dims[1]
    likelihoods = [post.data.log_likelihood["y"].mean(("chain", "draw")) for post in (marginal, hierarchical)]
    np.testing.assert_allclose(*likelihoods, atol=0.1)


def test_integrating_coefficients_or_sampling_them_is_the_same(data):
    """StudentT with 10⁹ degrees of freedom is a Normal prior that is not called one: β explicit against β integrated."""
    priors = {"Intercept": bl.Prior("Normal", mu=2, sigma=2), "x": bl.Prior("Normal", mu=0, sigma=1)}
    wide = priors | {"x": bl.Prior("StudentT", nu=1e9, mu=0, sigma=1)}
    posts = [
        bl.sample(bl.Model("y ~ x + (x | g)", data, priors=p), draws=2500, chains=4, seed=seed, **QUIET)
        for seed, p in ((1, priors), (2, wide))
    ]
    tables = [post.summary(var_names=[*post.parameters, "ranef_g"]) for post in posts]
    assert np.abs(gaps(*tables, "mcse_mean", "mcse_sd")).max() < 4.5  # 44 comparisons, as above


def test_equal_weights_only_change_the_unit_of_sigma(data):
    """Weights of 2 in every row: the same posterior, but for σ, which grows by √2."""
    model = bl.Model("y ~ x + (1 | g)", data.assign(w=2.0), weights="w", priors="flat")
    scaled = bl.Model("y ~ x + (1 | g)", data, priors="flat")
    one, other = (bl.sample(m, draws=1000, chains=2, seed=3, **QUIET) for m in (model, scaled))
    # Monte Carlo error of 2000 draws: 1 % of sigma, 0.03 of a standard error of β
    np.testing.assert_allclose(one.draws("sigma").mean(), np.sqrt(2) * other.draws("sigma").mean(), rtol=0.02)
    np.testing.assert_allclose(one.fixef, other.fixef, atol=0.1 * other.se.max())


def test_shrinkage_of_a_flat_prior_follows_the_dense_posterior(data):
    """σ and sd held by near-point priors: posterior mean and covariance of β are GLS's, from the n × n covariance."""
    sd, sigma = 1.3, 0.9
    held = {
        "fixef": bl.Prior("Flat"), "sd_g": bl.Prior("Uniform", lower=sd, upper=sd * (1 + 1e-7)),
        "sigma": bl.Prior("Uniform", lower=sigma, upper=sigma * (1 + 1e-7)),
    }  # fmt: skip
    model = bl.Model("y ~ x + (1 | g)", data, priors=held)
    post = bl.sample(model, draws=5000, chains=2, seed=4, **QUIET)
    oracle, Lam = of_model(model), model.Lambda([sd / sigma]).toarray()
    beta, covariance, reml_sigma = oracle.beta(Lam)
    covariance = covariance * (sigma / reml_sigma) ** 2
    draws = post.draws("fixef")
    root = np.linalg.cholesky(np.linalg.inv(covariance))
    white = (draws - beta) @ root
    # independent draws: each of these has standard deviation 1 under the exact posterior
    assert np.abs(white.mean(axis=0)).max() * np.sqrt(len(white)) < 4.5
    assert np.abs((white**2).mean(axis=0) - 1).max() * np.sqrt(len(white) / 2) < 4.5
    assert stats.kstest(white.ravel(), "norm").pvalue > 1e-4
    u, _ = oracle.blup(Lam, beta)
    effects = post.draws("ranef_g")[:, :, 0]
    assert (np.abs(effects.mean(axis=0) - u) < 4.5 * effects.std(axis=0) / np.sqrt(len(effects))).all()
