"""ν and thresholds under one name in every table, and drawn from their priors; tests of terms beside thresholds."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import bayeslmm as bl
from bayeslmm.approximation import Laplace, Point, Quadrature
from bayeslmm.errors import MethodError
from bayeslmm.estimates import estimates, parameter_names, posterior_draws
from bayeslmm.laplace_mode import Search
from bayeslmm.laplace_route import own
from bayeslmm.natural_priors import NaturalPriors
from bayeslmm.posterior import Posterior
from bayeslmm.powerscale import collapsed_loglik, log_prior
from bayeslmm.simulate import numbers_of
from bayeslmm.thresholds import free_of
from bayeslmm.truths import blocks, prior_draws

WINE = Path(__file__).resolve().parents[1] / "models" / "wine"
THRESHOLDS = [f"thresholds[{name}]" for name in ("1|2", "2|3", "3|4", "4|5")]


@cache
def wine():
    return bl.fit(bl.load(WINE))


@cache
def heavy():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(12), 8)
    y = rng.normal(size=12)[groups] + rng.standard_t(3, 96)
    return bl.fit(bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": groups.astype(str)}, family="t"))


def test_thresholds_are_told_by_their_public_names() -> None:
    fit = wine()
    table = bl.confint(fit)
    assert list(table.index[-4:]) == THRESHOLDS
    estimate, se = fit.thresholds["estimate"].to_numpy(), fit.thresholds["se"].to_numpy()
    np.testing.assert_allclose(table.loc[THRESHOLDS, "lower"], estimate - stats.norm.ppf(0.975) * se, rtol=1e-12)
    rows = bl.tidy(fit)
    np.testing.assert_array_equal(rows.loc[rows["component"] == "threshold", "estimate"], estimate)
    assert bl.side_by_side(fit).table.loc[THRESHOLDS[0], "(1)"].tolist() == [estimate[0], se[0]]
    assert set(THRESHOLDS) <= set(bl.confint(fit, method="profile", parameters=["sd_judge", "thresholds"]).index)


def lowest(deviance, start: np.ndarray) -> float:
    """The least deviance, searched for without gradients, twice."""
    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 20_000, "maxfev": 20_000, "adaptive": True}
    for _ in range(2):
        found = optimize.minimize(deviance, start, method="Nelder-Mead", options=options)
        start = found.x
    return float(found.fun)


@pytest.mark.parametrize("k", [0, 3])
def test_profiles_of_thresholds_are_those_of_a_dense_likelihood(k: int) -> None:
    """At the bounds, with τ_k itself held and everything else searched for, −2 log L is higher by the quantile of χ²."""
    fit = bl.fit(bl.load(WINE).update(formula="rating ~ temp + contact", link="probit"))
    lower, upper = bl.confint(fit, method="profile", parameters=THRESHOLDS[k]).loc[THRESHOLDS[k]]
    X, y = fit.model.X, fit.model.design.y.astype(int)
    assert lower < fit.tau[k] < upper
    for bound in (lower, upper):

        def deviance(x: np.ndarray, bound: float = bound) -> float:
            tau = np.insert(x[2:], k, bound)
            edges = np.concatenate([[-np.inf], tau, [np.inf]])
            if (np.diff(tau) <= 0).any():
                return np.inf
            eta = X @ x[:2]
            return float(-2.0 * np.log(stats.norm.cdf(edges[y + 1] - eta) - stats.norm.cdf(edges[y] - eta)).sum())

        start = np.concatenate([fit.beta, np.delete(fit.tau + (bound - fit.tau[k]), k)])
        # the bound is found to 1e-8 of the deviance, the search without gradients ends 1e-6 above
        assert lowest(deviance, start) - fit.deviance == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-5)


def test_profiles_of_thresholds_hold_them_beside_random_effects() -> None:
    """The same with judges, by quadrature; τ itself is searched for, not the steps, and θ."""
    fit = bl.fit(bl.load(WINE), "AGHQ", nodes=5)
    name = THRESHOLDS[1]
    upper = bl.confint(fit, method="profile", parameters=name).loc[name, "upper"]
    quadrature = Quadrature(fit.model, "observed", 5)

    def deviance(x: np.ndarray) -> float:
        tau = np.insert(x[3:], 1, upper)
        return (
            quadrature.minus_twice(Point(x[:1], x[1:3], 0.0, free_of(tau)))[0] if (np.diff(tau) > 0).all() else np.inf
        )

    start = np.concatenate([fit.theta, fit.beta, np.delete(fit.tau + (upper - fit.tau[1]), 1)])
    assert lowest(deviance, start) - fit.deviance == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-5)
    curve = bl.profile(fit, name).table
    assert (np.diff(curve["zeta"]) > 0).all()


def test_nu_is_told_on_its_own_scale() -> None:
    """Its Wald interval is that of its logarithm; at the profile's bounds the deviance is higher by the quantile."""
    fit = heavy()
    log = fit.further_fixef["nu"].iloc[0]
    lower, upper = bl.confint(fit).loc["nu"]
    reach = stats.norm.ppf(0.975) * log["se"]
    np.testing.assert_allclose([lower, upper], np.exp([log["estimate"] - reach, log["estimate"] + reach]), rtol=1e-9)
    found = estimates(fit, "")
    assert found.estimate[found.at("nu")] == fit.nu
    for bound in bl.confint(fit, method="profile", parameters="nu").loc["nu"]:
        held = bl.fit(fit.model, fixed={"nu": bound})
        assert held.deviance - fit.deviance == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-6)


def test_tests_of_terms_take_thresholds_for_the_intercept() -> None:
    """Two terms without interaction: type 3 tests each coefficient; type 1 the first one without the second."""
    fit = wine()
    z = fit.fixef / fit.se
    np.testing.assert_allclose(bl.anova(fit).table["F"], z**2, rtol=1e-9)
    centred = fit.model.X - fit.model.X.mean(axis=0)
    tilt = centred[:, 0] @ centred[:, 1] / (centred[:, 0] @ centred[:, 0])
    L = np.array([1.0, tilt])
    first = (L @ fit.fixef) ** 2 / (L @ fit.vcov.to_numpy() @ L)
    assert bl.anova(fit, type=1).table["F"].iloc[0] == pytest.approx(first, rel=1e-9)
    both = bl.fit(fit.model.update(formula="rating ~ temp * contact + (1 | judge)"))
    with pytest.raises(MethodError, match="use type=2"):
        bl.anova(both, type=3)


@pytest.mark.parametrize("fit", [wine, heavy])
def test_the_likelihood_and_the_priors_read_the_public_vector(fit) -> None:
    fit = fit()
    found = estimates(fit, "")
    assert collapsed_loglik(fit.model, found.estimate[None])[0] == pytest.approx(fit.loglik, abs=1e-9)
    values = prior_draws(fit.model, 2, np.random.default_rng(1))
    change = log_prior(fit.model, values)
    priors, names = fit.model.priors.second, parameter_names(fit.model)
    other = values.copy()
    other[:, names.index(next(iter(priors)))] *= 0.9
    prior, j = next(iter(priors.items()))[1], names.index(next(iter(priors)))
    args = prior.args
    density = (
        stats.gamma(args["alpha"], 0, 1 / args["beta"]) if "alpha" in args else stats.norm(args["mu"], args["sigma"])
    )
    want = density.logpdf(values[:, j]) - density.logpdf(other[:, j])
    np.testing.assert_allclose(change - log_prior(fit.model, other), want, rtol=1e-9)


@pytest.mark.parametrize("which", ["wine", "heavy", "zeros"])
def test_map_adds_the_priors_of_every_parameter(which: str) -> None:
    """The log posterior is the log likelihood and the log priors, each by another way; its gradient is that of differences."""
    if which == "zeros":
        rng = np.random.default_rng(8)
        y, g = rng.poisson(3.0, 80) * rng.integers(0, 2, 80), np.repeat(np.arange(10), 8).astype(str)
        data = {"y": y, "x": rng.normal(size=80), "g": g}
        family = {"family": "zero_inflated_negativebinomial", "zero": "~ x", "dispersion": "~ x"}
        model = bl.Model("y ~ x + (1 | g)", data, **family)
    else:
        model = {"wine": wine, "heavy": heavy}[which]().model
    mode = bl.fit(model, "MAP")
    assert mode.converged
    values = estimates(mode, "").estimate[None]
    assert mode.logposterior == pytest.approx(mode.loglik + log_prior(model, values)[0], abs=1e-9)
    priors, x = NaturalPriors(Laplace(model)), mode.parameters
    steps = 1e-6 * np.eye(len(x))
    want = [(priors.at(x + step)[0] - priors.at(x - step)[0]) / 2e-6 for step in steps]
    np.testing.assert_allclose(priors.at(x)[1], want, rtol=1e-6, atol=1e-7)


def test_priors_of_thresholds_are_drawn_where_they_increase() -> None:
    """Normals given their order: of two of the same normal these are the order statistics, ∓ σ/√π."""
    three = pd.Categorical.from_codes(np.tile([0, 1, 2], 8), ["a", "b", "c"], ordered=True)
    data = pd.DataFrame({"y": three, "x": np.tile([0.0, 1.0], 12)})
    model = bl.Model("y ~ x", data, family="cumulative", priors={"thresholds": bl.Prior("Normal", mu=0, sigma=2)})
    drawn = prior_draws(model, 20_000, np.random.default_rng(2))
    tau = blocks(model, drawn)["thresholds"]
    assert (np.diff(tau, axis=1) > 0).all()
    np.testing.assert_allclose(
        tau.mean(axis=0), [-2 / np.sqrt(np.pi), 2 / np.sqrt(np.pi)], atol=0.05
    )  # 4 standard errors
    simulated = numbers_of(bl.simulate(model, seed=1, parameters=blocks(model, drawn[0])))
    assert set(simulated.ravel()) <= {0.0, 1.0, 2.0}


def test_formulas_for_zeros_are_drawn_from_their_priors() -> None:
    """A probability of zeros with a Beta(2, 2) prior has mean 1/2 and variance 1/20."""
    data = {"y": [0, 1, 0, 2, 3, 0], "g": list("aabbcc")}
    model = bl.Model("y ~ 1 + (1 | g)", data, family="zero_inflated_negativebinomial")
    drawn = blocks(model, prior_draws(model, 40_000, np.random.default_rng(4)))
    share = 1.0 / (1.0 + np.exp(-drawn["zero"][:, 0]))
    assert share.mean() == pytest.approx(0.5, abs=0.005)  # 4 standard errors
    assert share.var() == pytest.approx(0.05, abs=0.001)
    assert (drawn["alpha"] > 0).all()


def test_draws_stand_in_the_order_of_the_names() -> None:
    fit, rng = wine(), np.random.default_rng(5)
    names = parameter_names(fit.model)
    values = np.sort(rng.normal(size=(1, 3, len(names))))
    variables = {
        "fixef": values[..., :2], "sd_judge": np.abs(values[..., 2:3]), "thresholds": values[..., 3:],
        "ranef_judge": np.zeros((1, 3, 9, 1)),
    }  # fmt: skip
    from bayeslmm.posterior import posterior_tree

    post = Posterior(fit.model, posterior_tree(fit.model, variables, {}, {}, {}), "hierarchical")
    found = posterior_draws(post)
    np.testing.assert_array_equal(found[..., 3:], values[..., 3:])


def test_the_laplace_route_gives_formulas_to_the_rows_it_has_joined() -> None:
    """Joined rows stand in another order: their columns of the formula go with them."""
    from bayeslmm.joint import Joint

    rng = np.random.default_rng(6)
    x = rng.permutation(np.tile([0.0, 1.0, 2.0], 20))
    data = {"y": rng.poisson(2.0, 60) * rng.integers(0, 2, 60), "x": x, "g": np.repeat(np.arange(10), 6).astype(str)}
    model = bl.Model("y ~ x + (1 | g)", data, family="zero_inflated_poisson", zero="~ x")
    joint = Joint(model)
    psi = joint.frame.centre + 0.1
    one, slope = Search(model, own(joint), joint.layout).density(psi)
    other, want = Search(model, Laplace(model), joint.layout).density(psi)
    assert one == pytest.approx(other, rel=1e-9)
    np.testing.assert_allclose(slope, want, rtol=1e-6, atol=1e-7)
