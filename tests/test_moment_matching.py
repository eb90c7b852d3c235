"""Leave-one-out of generalized posteriors, by moved draws: exact predictive distributions, samples without the row, round trips."""

import arviz as az
import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.special import logsumexp

import bayeslmm as bl
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.joint import Joint
from bayeslmm.leftout import on_rows, without_rows
from bayeslmm.moment_matching import Grouped, Whole, to_coordinates

SHORT = {"tune": 300, "seed": 1, "progress": False}


def crossed(family: str) -> bl.Model:
    rng = np.random.default_rng(1)
    data = {"x": rng.normal(size=60), "g": np.repeat(np.arange(10), 6).astype(str), "h": np.tile(list("abcde"), 12)}
    data |= {"m": rng.integers(3, 9, 60), "y": rng.poisson(3, 60)}
    data["s"] = rng.binomial(data["m"], 0.4)
    left = "p(s, m)" if family == "binomial" else "y"
    return bl.Model(f"{left} ~ x + (x | g) + (1 | h)", data, family=family)


FORMULAS = {"family": "hurdle_negativebinomial", "zero": "~ x", "dispersion": "~ x"}


@pytest.mark.parametrize(("family", "options"), [("negativebinomial", {}), ("binomial", {}), ("poisson", FORMULAS)])
def test_coordinates_are_the_inverse_of_what_they_stand_for(family, options) -> None:
    """Correlated, crossed effects, with and without dispersion and formulas; errors are those of a few triangular solves."""
    joint = Joint(crossed(family).update(**options))
    y = np.random.default_rng(2).normal(size=(2, 5, joint.size))
    np.testing.assert_allclose(to_coordinates(joint, joint.natural(y)), y, atol=1e-9)


@pytest.fixture(scope="module")
def outlying() -> bl.Posterior:
    """Counts in 12 groups of 4; row 5 is far above its own."""
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(12), 4)
    y = rng.poisson(np.exp(0.8 + 0.4 * rng.normal(size=12)[g]))
    y[5] = 16
    model = bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": g.astype(str)}, family="poisson")
    return bl.sample(model, draws=500, chains=4, **SHORT)


def test_the_density_is_the_one_that_was_sampled(outlying) -> None:
    """Up to the constant that NUTS's own value lacks, at every draw; and the row's density is the stored one."""
    whole = Whole(outlying, 500)
    gap = whole.log_density(whole.x) - outlying.data["sample_stats"]["lp"].values
    assert np.ptp(gap) < 1e-8
    np.testing.assert_allclose(whole.unit(whole.x, 7), outlying.log_likelihood()[..., 7], atol=1e-12)
    assert whole.moving(5).tolist() == [0, 1, 2 + outlying.model.structure.rows(0)[1]]


def test_leave_one_out_of_counts_is_arviz_s(outlying) -> None:
    found = bl.loo(outlying)
    with pytest.warns(UserWarning, match="shape parameter"):
        plain = az.loo(outlying.data, pointwise=True)
    assert found.elpd == pytest.approx(float(plain.elpd), abs=0.1)  # another relative efficiency, so another tail
    assert found.high_k.index.tolist() == [5]
    assert "moment_match=True" in str(found)


@pytest.mark.slow
def test_moved_draws_agree_with_samples_without_the_row(outlying) -> None:
    found = bl.loo(outlying, moment_match=True, progress=False)
    row = found.pointwise.loc[5]
    assert row["k_before"] > 0.7 > row["k"]
    assert "Draws were moved for 1 of 48 rows (5): Pareto k was up to" in found.notes[0]
    assert not len(found.high_k)
    model = outlying.model
    without = bl.sample(without_rows(model, np.arange(48) == 5), draws=2000, chains=4, **SHORT | {"seed": 2})
    density = bl.Posterior(model, without.data, without.route).log_likelihood()[..., 5]
    by_chain = logsumexp(density, axis=1) - np.log(density.shape[1])
    exact, error = logsumexp(density) - np.log(density.size), by_chain.std(ddof=1) / 2.0
    # the density of an outlier varies over orders of magnitude: the error of its mean is that between the chains, and as
    # much again of the moved draws, of which there are fewer
    assert row["elpd"] == pytest.approx(exact, abs=4.0 * error + 0.15)
    plain = bl.loo(outlying).pointwise["elpd"]
    np.testing.assert_array_equal(found.pointwise["elpd"].drop(5), plain.drop(5))


def test_moved_draws_give_the_exact_predictive_density() -> None:
    """Poisson counts with a gamma prior on their mean: without a row the others predict it by a negative binomial."""
    y = np.array([2, 3, 1, 4, 2, 3, 2, 1, 18])
    priors = {"Intercept": bl.Prior("Gamma", alpha=3, beta=1)}
    model = bl.Model("y ~ 1", {"y": y}, family="poisson", link="identity", priors=priors)
    share, rng, errors = (1 + len(y) - 1) / (1 + len(y)), np.random.default_rng(1), []
    exact = stats.nbinom(3 + y.sum() - y, share).logpmf(y)
    for _ in range(6):
        draws = rng.gamma(3 + y.sum(), 1 / (1 + len(y)), (4, 1000, 1))  # the posterior itself
        fixef = xr.DataArray(draws, dims=("chain", "draw", "coefficient"), coords={"coefficient": ["Intercept"]})
        post = bl.posterior(model, xr.DataTree.from_dict({"posterior": xr.Dataset({"fixef": fixef})}))
        found = bl.loo(post, moment_match=True, progress=False).pointwise
        assert found["k_before"].iloc[8] > 0.7 > found["k"].iloc[8]
        np.testing.assert_allclose(found["elpd"][:8], exact[:8], atol=0.03)  # 4000 draws of densities that vary by half
        errors.append((found["elpd"].iloc[8] - exact[8], bl.loo(post).pointwise["elpd"].iloc[8] - exact[8]))
    moved, plain = np.sqrt(np.mean(np.square(errors), axis=0))  # 0.02 and 0.4
    assert moved < 0.1
    assert plain > 3 * moved  # what moving the draws is for


@pytest.mark.slow
def test_gaussian_rows_move_what_is_not_integrated_out() -> None:
    """A row ten residual sds from its group's mean: log p(y) − log p(y without it), both by quadrature."""
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(6), 5)
    y = rng.normal(size=6)[g] + rng.normal(size=30)
    y[7] += 10.0
    post = bl.sample(bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": g.astype(str)}), draws=500, chains=4, **SHORT)
    found = bl.loo(post, moment_match=True, progress=False)
    row = found.pointwise.loc[7]
    assert row["k_before"] > 0.7 > row["k"]
    rest = bl.sample(without_rows(post.model, np.arange(30) == 7), draws=50, chains=2, **SHORT)
    exact = bl.evidence(post).log - bl.evidence(rest).log
    plain = bl.loo(post).pointwise["elpd"].loc[7]
    assert row["elpd"] == pytest.approx(exact, abs=0.15)  # 2000 draws of densities that vary a hundredfold
    assert abs(plain - exact) > 1.0  # what moving the draws is for


def test_binomial_rows_can_be_sampled_without() -> None:
    """One row with 40 successes of 40 among rows of half as many: the trials go with the rows.

    20,000 draws without the row gave −33.3 (error 0.2); 600 draws differ by 1.2 from seed to seed.
    """
    rng = np.random.default_rng(6)
    g, m = np.repeat(np.arange(8), 3), np.full(24, 40)
    data = {"s": rng.binomial(m, 0.4), "m": m, "g": g.astype(str)}
    data["s"][4] = 40
    post = bl.sample(bl.Model("p(s, m) ~ 1 + (1 | g)", data, family="binomial"), draws=300, chains=2, **SHORT)
    found = bl.loo(post, refit=True, progress=False)
    assert np.isnan(found.pointwise["k"].iloc[4])
    assert found.pointwise["elpd"].iloc[4] == pytest.approx(-33.3, abs=4.0)
    fewer = on_rows(post.model, np.arange(24) != 4)
    assert fewer.design.trials.tolist() == [40] * 23


def test_nothing_is_moved_where_nothing_needs_to_be() -> None:
    rng = np.random.default_rng(6)
    model = bl.Model("y ~ 1", {"y": rng.poisson(4, 30)}, family="poisson")
    post = bl.sample(model, draws=200, chains=2, **SHORT)
    found, plain = bl.loo(post, moment_match=True), bl.loo(post)
    np.testing.assert_array_equal(found.pointwise["elpd"], plain.pointwise["elpd"])
    assert found.notes == ()
    assert bl.compare_loo({"a": found, "b": plain}).table["elpd_diff"].abs().max() == 0.0


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"effects": "integrated", "moment_match": True}, NotSupportedError, 'effects="integrated" needs a Gaussian model'),
        ({"effects": "both"}, MethodError, "effects='both'"),
    ],
)  # fmt: skip
def test_refusals(outlying, options, error, said) -> None:
    with pytest.raises(error, match=said):
        bl.loo(outlying, **options)


@pytest.fixture(scope="module")
def grouped() -> bl.Posterior:
    """Ten groups, one of them six sds from the others."""
    rng = np.random.default_rng(11)
    g, x = np.repeat(np.arange(10), 4), rng.normal(size=40)
    u = rng.normal(size=10)
    u[3] = 6.0
    data = {"y": u[g] + 0.5 * x + rng.normal(size=40), "x": x, "g": g.astype(str)}
    return bl.sample(bl.Model("y ~ x + (1 | g)", data), draws=500, chains=4, **SHORT)


def test_the_density_with_the_coefficients_is_prior_times_groups(grouped) -> None:
    """Coefficients of one draw with the variances of another: the density changes as prior and likelihood do."""
    target, priors = Grouped(grouped, 500), grouped.model.priors
    x = target.x[:, :40].copy()
    np.testing.assert_allclose(target.unit(x, 3), bl.group_log_likelihood(grouped).sel(g="3").values[:, :40], atol=1e-9)
    other = x.copy()
    other[..., target.direct.size :] = x[:, ::-1, target.direct.size :]
    beta = grouped.draws("fixef").reshape(4, 500, 2)[:, :40]
    prior = stats.multivariate_normal(priors.fixef_mean, np.linalg.inv(priors.fixef_precision))
    likelihood = sum(target.unit(other, i) - target.unit(x, i) for i in range(10))
    expected = likelihood + prior.logpdf(beta[:, ::-1]) - prior.logpdf(beta)
    np.testing.assert_allclose(target.log_density(other) - target.log_density(x), expected, atol=1e-8)


@pytest.mark.slow
def test_groups_are_moved_together_with_the_coefficients(grouped) -> None:
    """Against log p(y) − log p(y without the group), both by quadrature."""
    found = bl.loo(grouped, by="g", moment_match=True, progress=False)
    row, plain = found.pointwise.iloc[3], bl.loo(grouped, by="g").pointwise["elpd"].iloc[3]
    assert row["k_before"] > 0.7 > row["k"]
    assert "of 10 levels of g (3)" in found.notes[0]
    codes = grouped.model.design.random[0].codes
    rest = bl.sample(without_rows(grouped.model, codes == 3), draws=50, chains=2, **SHORT)
    exact = bl.evidence(grouped).log - bl.evidence(rest).log
    # affine moves in few dimensions leave a sixth of the error of the weights alone here, 0.3 of 2.0
    assert abs(row["elpd"] - exact) < 0.3 * abs(plain - exact)


def test_conditional_weights_of_a_gaussian_model_are_not_moved(root) -> None:
    post = bl.sample(bl.load(root / "models/dyestuff"), draws=50, tune=50, chains=2, seed=1, progress=False)
    with pytest.raises(MethodError, match="lighter weights"):
        bl.loo(post, moment_match=True, effects="conditional")
