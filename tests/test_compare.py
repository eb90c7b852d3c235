"""Comparisons: closed forms for the uncertainties, and for each reason a planted case and a clean one."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.boundary import density_at_zero, rise_at_zero
from bayeslmm.compare import Comparison
from bayeslmm.direct import Direct
from bayeslmm.disagreement import NOTABLE, Setting
from bayeslmm.errors import MethodError
from bayeslmm.estimates import estimates, parameter_names, variance_names
from bayeslmm.exact.gaussian import INTEGRATED
from bayeslmm.natural_points import theta_of
from bayeslmm.posterior import Posterior, posterior_tree
from bayeslmm.powerscale import collapsed_loglik, integrates_fixef, log_prior
from bayeslmm.reasons import convergence, unexplained

CHAINS, DRAWS = 4, 1000
KINDS = (
    "model", "held", "convergence", "diagnostics", "monte_carlo", "boundary", "prior", "skew", "few_groups",
    "unexplained",
)  # fmt: skip


def one_way(levels: int, size: int, sd: float, seed: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(levels), size)
    noise = rng.normal(0, 1.0, levels * size)
    return pd.DataFrame(
        {"y": 5.0 + rng.normal(0, sd, levels)[codes] + noise, "g": codes, "x": rng.normal(size=len(codes))}
    )


def planted(model: bl.Model, draws: np.ndarray, chains: int = CHAINS) -> Posterior:
    """A posterior with the given draws (s, m) of all parameters, in public order."""
    names = parameter_names(model)
    shaped = draws.reshape(chains, -1, draws.shape[1])
    found = {"fixef": shaped[..., : len(model.design.fixed.names)], "sigma": shaped[..., -1]}
    for group in model.groups:
        for kind in ("sd", "corr"):
            at = [i for i, name in enumerate(names) if name.startswith(f"{kind}_{group}[")]
            if at:
                found[f"{kind}_{group}"] = shaped[..., at]
    return Posterior(
        model, posterior_tree(model, found, {}, {}, {"diverging": np.zeros(shaped.shape[:2], bool)}), "marginal"
    )


def like(fit: bl.PointFit, seed: int = 1, n: int = CHAINS * DRAWS) -> np.ndarray:
    """Normal draws around a point fit, as wide as its standard errors."""
    column = estimates(fit, "")
    noise = np.random.default_rng(seed).normal(size=(n, len(column.names)))
    return column.estimate + column.uncertainty * noise


def reasons(comparison: Comparison, kind: str) -> list:
    return [reason for reason in comparison.reasons if reason.kind == kind]


@pytest.fixture(scope="module")
def clean() -> SimpleNamespace:
    """Many groups, many rows: every method says the same."""
    model = bl.Model("y ~ x + (1 | g)", one_way(200, 10, 1.0))
    reml = bl.fit(model)
    return SimpleNamespace(
        model=model, reml=reml, ml=bl.fit(model, "ML"), map=bl.fit(model, "MAP"), post=planted(model, like(reml))
    )


@pytest.fixture(scope="module")
def sleep(root: Path) -> SimpleNamespace:
    model = bl.load(f"{root}/models/sleepstudy/model.toml")
    post = bl.sample(model, draws=1000, tune=500, seed=1, progress=False)
    return SimpleNamespace(model=model, reml=bl.fit(model), ml=bl.fit(model, "ML"), map=bl.fit(model, "MAP"), post=post)


@pytest.fixture(scope="module")
def flat_batch(root: Path) -> SimpleNamespace:
    """Dyestuff2: the batches differ less than by chance."""
    model = bl.load(f"{root}/models/dyestuff2/model.toml")
    return SimpleNamespace(model=model, reml=bl.fit(model), post=bl.sample(model, tune=500, seed=1, progress=False))


# Estimates


def test_standard_errors_of_a_balanced_one_way_layout_are_the_closed_form() -> None:
    J, size = 12, 7
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", one_way(J, size, 1.5)))
    column = estimates(fit, "REML")
    sd, sigma = fit.group_sd["g"][0], fit.sigma
    tau = sigma**2 + size * sd**2
    variance = (2 * tau**2 / (J - 1) + 2 * sigma**4 / (J * (size - 1))) / size**2
    np.testing.assert_allclose(column.uncertainty[1], np.sqrt(variance) / (2 * sd), rtol=1e-5)
    np.testing.assert_allclose(column.uncertainty[2], sigma / np.sqrt(2 * J * (size - 1)), rtol=1e-5)
    reach = np.exp(1.959963984540054 * column.uncertainty[1] / sd)
    np.testing.assert_allclose([column.lower[1], column.upper[1]], [sd / reach, sd * reach])


@pytest.mark.parametrize("method", ["REML", "MAP"])
def test_standard_errors_are_the_curvature_of_the_criterion_in_natural_parameters(
    sleep: SimpleNamespace, method: str
) -> None:
    fit = bl.fit(sleep.model, method)
    direct = Direct(sleep.model, likelihood_only=method != "MAP")
    x = np.append(fit.group_sd["Subject"], [np.arctanh(fit.group_corr["Subject"][0, 1]), np.log(fit.sigma)])
    hessian = np.empty((4, 4))
    for i in range(4):
        step = np.eye(4)[i] * 1e-4 * max(abs(x[i]), 1e-2)
        ahead, behind = (direct.minus_twice_natural(x + s * step, INTEGRATED)[1] for s in (1, -1))
        hessian[i] = (ahead - behind) / (2 * step[i])
    error = np.sqrt(np.diag(np.linalg.inv(0.5 * hessian)))
    slope = np.array([1, 1, 1 - np.tanh(x[2]) ** 2, fit.sigma])
    np.testing.assert_allclose(estimates(fit, "").uncertainty[2:], error * slope, rtol=1e-3)


def test_at_the_boundary_and_where_held_there_is_no_standard_error(
    flat_batch: SimpleNamespace, sleep: SimpleNamespace
) -> None:
    column = estimates(flat_batch.reml, "REML")
    at = column.at("sd_Batch[Intercept]")
    assert column.estimate[at] == 0.0
    assert np.isnan([column.uncertainty[at], column.lower[at], column.upper[at]]).all()
    held = estimates(bl.fit(sleep.model, fixed={"sigma": 25.0}), "REML")
    assert held.estimate[-1] == pytest.approx(25.0)
    assert np.isnan(held.uncertainty[-1])
    assert np.isfinite(held.uncertainty[:-1]).all()


def test_an_effect_without_variance_has_no_correlation(sleep: SimpleNamespace) -> None:
    fit = bl.fit(sleep.model, fixed={"sd_Subject[Days]": 0.0})
    column = estimates(fit, "REML")
    assert np.isnan(column.estimate[column.at("corr_Subject[Intercept, Days]")])


def test_names_are_public_and_pairs_are_in_order() -> None:
    rng = np.random.default_rng(0)
    data = pd.DataFrame(rng.normal(size=(60, 3)), columns=["y", "a", "b"]).assign(g=np.arange(60) % 10)
    model = bl.Model("y ~ 1 + (a + b | g)", data)
    assert variance_names(model) == (
        "sd_g[Intercept]", "sd_g[a]", "sd_g[b]", "corr_g[Intercept, a]", "corr_g[Intercept, b]", "corr_g[a, b]", "sigma",
    )  # fmt: skip


# The comparison


def test_table_gaps_and_text(sleep: SimpleNamespace) -> None:
    both = bl.compare(sleep.ml, sleep.reml, sleep.map, sleep.post)
    assert both.labels == ("ML", "REML", "MAP", "posterior")
    assert both.reference == "REML"
    assert both.results == (sleep.ml, sleep.reml, sleep.map, sleep.post)
    assert list(both.table.index) == list(parameter_names(sleep.model))
    assert both.table.columns.names == ["method", "statistic"]
    assert both.table.loc["fixef[Days]", ("REML", "estimate")] == sleep.reml.fixef["Days"]
    assert both.table.loc["fixef[Days]", ("posterior", "uncertainty")] == pytest.approx(sleep.post.se["Days"], rel=1e-3)
    name = "sd_Subject[Intercept]"
    ml, reml = (fit.sd["Subject"]["Intercept"] for fit in (sleep.ml, sleep.reml))
    gap = (ml - reml) / both.table.loc[name, ("REML", "uncertainty")]
    assert both.gaps.loc[name, "ML"] == pytest.approx(gap)
    assert "REML" not in both.gaps
    for word in ("fixef[Days]", "sd_Subject[Days]", *both.labels, both.verdict[:20]):
        assert word in str(both)
    assert "<table" in both._repr_html_()
    assert max(len(line) for line in str(both).splitlines()) < 130


def test_results_of_a_kind_are_told_apart(clean: SimpleNamespace, sleep: SimpleNamespace) -> None:
    assert bl.compare(clean.reml, clean.reml).labels == ("REML 1", "REML 2")
    other = bl.fit(clean.model.update("y ~ 1 + (1 | g)"), "ML")
    assert bl.compare(clean.ml, other).labels == ("ML (y ~ x + (1 | g))", "ML (y ~ 1 + (1 | g))")
    routes = [Posterior(clean.model, clean.post.data, route) for route in ("marginal", "hierarchical")]
    assert bl.compare(*routes).labels == ("posterior (marginal)", "posterior (hierarchical)")
    assert bl.compare(clean.ml, clean.reml, labels=["a", "b"]).labels == ("a", "b")


def test_parameters_of_different_models_are_joined(clean: SimpleNamespace) -> None:
    other = bl.fit(clean.model.update("y ~ 1 + (1 | g)"), "ML")
    both = bl.compare(clean.ml, other)
    assert np.isnan(both.table.loc["fixef[x]", (both.labels[1], "estimate")])
    assert len(reasons(both, "model")) == 1


def test_what_cannot_be_compared_is_refused(clean: SimpleNamespace, sleep: SimpleNamespace) -> None:
    shorter = bl.fit(clean.model.update(data=one_way(199, 10, 1.0)))
    other = bl.fit(clean.model.update("y ~ 1 + (1 | g)"))
    cases = {
        "two results or more": (clean.reml,),
        "different responses": (clean.reml, sleep.reml),
        "different rows": (clean.reml, shorter),
        "different fixed effects": (clean.reml, other),
        "not str": (clean.reml, "REML"),
    }
    for message, results in cases.items():
        with pytest.raises(MethodError, match=message):
            bl.compare(*results)
    with pytest.raises(MethodError, match="labels must be 2 different names"):
        bl.compare(clean.ml, clean.reml, labels=["a", "a"])


# Reasons


@pytest.mark.parametrize("kind", KINDS)
def test_every_reason_is_silent_on_a_clean_case(clean: SimpleNamespace, kind: str) -> None:
    both = bl.compare(clean.ml, clean.reml, clean.map, clean.post)
    assert reasons(both, kind) == []
    assert both.sentences == ()
    assert "agree" in both.verdict


def test_a_zero_variance_is_named(flat_batch: SimpleNamespace) -> None:
    (found,) = reasons(bl.compare(flat_batch.reml, flat_batch.post), "boundary")
    assert found.parameters == ("sd_Batch[Intercept]",)
    assert "exactly 0" in found.text
    assert "interval" in found.text


def test_a_posterior_that_piles_up_near_zero_is_named() -> None:
    model = bl.Model("y ~ 1 + (1 | g)", one_way(8, 6, 0.35, seed=5))
    reml = bl.fit(model)
    draws = like(reml)
    draws[:, 1] = np.abs(np.random.default_rng(2).normal(0, 2 * reml.group_sd["g"][0], len(draws)))
    assert reml.group_sd["g"][0] > 0
    (found,) = reasons(bl.compare(reml, planted(model, draws)), "boundary")
    assert found.evidence["posterior"] > 0.5
    assert found.evidence["REML"] < 2.71
    assert reasons(bl.compare(reml, planted(model, draws)), "skew") == []


def test_the_rise_at_zero_is_the_likelihood_ratio_of_the_smaller_model(sleep: SimpleNamespace) -> None:
    smaller = bl.fit(sleep.model.update("Reaction ~ Days + (1 | Subject)"))
    assert rise_at_zero(sleep.reml, "sd_Subject[Days]") == pytest.approx(
        smaller.deviance - sleep.reml.deviance, abs=1e-5
    )


def test_density_at_zero_of_known_distributions(rng: np.random.Generator) -> None:
    z = rng.normal(size=20_000)
    assert density_at_zero(np.abs(z)) == pytest.approx(1.0, abs=0.1)
    assert density_at_zero(z[np.abs(z) < 4.5] + 5) < 0.05


def test_a_correlation_of_one_is_named() -> None:
    rng = np.random.default_rng(0)
    codes, x = np.repeat(np.arange(8), 6), np.tile(np.arange(6.0), 8)
    level = rng.normal(0, 3, 8)[codes]
    model = bl.Model("y ~ x + (x | g)", {"y": level * (1 + 0.1 * x) + rng.normal(0, 1.5, 48), "x": x, "g": codes})
    reml, ml = bl.fit(model), bl.fit(model, "ML")
    assert reml.singular
    found = reasons(bl.compare(ml, reml), "boundary")
    assert [reason.parameters for reason in found] == [("corr_g[Intercept, x]",)]
    assert "at 1," in found[0].text


def test_a_skewed_posterior_is_named(clean: SimpleNamespace) -> None:
    draws = like(clean.reml)
    column = estimates(clean.reml, "")
    at = column.at("sd_g[Intercept]")
    noise = np.random.default_rng(8).normal(size=len(draws))
    draws[:, at] = column.estimate[at] + column.uncertainty[at] * (np.exp(0.7 * noise) - 0.6)
    (found,) = reasons(bl.compare(clean.reml, planted(clean.model, draws)), "skew")
    assert found.parameters == ("sd_g[Intercept]",)
    assert found.evidence["sd_g[Intercept]"] > 0.15


@pytest.fixture(scope="module")
def pulled(sleep: SimpleNamespace) -> SimpleNamespace:
    """A prior that holds the slope near 0."""
    model = sleep.model.update(priors={"Days": bl.Prior("Normal", mu=0, sigma=2)})
    return SimpleNamespace(map=bl.fit(model, "MAP"), post=bl.sample(model, tune=500, seed=1, progress=False))


def test_a_prior_that_moves_the_posterior_is_named(sleep: SimpleNamespace, pulled: SimpleNamespace) -> None:
    (found,) = reasons(bl.compare(sleep.reml, pulled.post), "prior")
    assert found.evidence["fixef[Days]"] > 0.05
    assert "fixef[Days] (down" in found.text
    assert reasons(bl.compare(sleep.reml, sleep.post), "prior") == []


def test_a_prior_that_moves_the_mode_is_named(sleep: SimpleNamespace, pulled: SimpleNamespace) -> None:
    (found,) = reasons(bl.compare(sleep.reml, pulled.map), "prior")
    assert found.evidence["fixef[Days]"] < -1
    assert "it is REML" in found.text
    assert reasons(bl.compare(sleep.reml, sleep.map), "prior") == []


def test_a_prior_without_closed_form_is_noted(clean: SimpleNamespace) -> None:
    model = clean.model.update(priors={"x": bl.Prior("Laplace", mu=0, b=1)})
    both = bl.compare(clean.reml, planted(model, like(clean.reml)))
    assert any("Laplace" in note for note in both.notes)


def test_collapsed_likelihood_and_prior_add_up_to_the_density_that_is_sampled(sleep: SimpleNamespace) -> None:
    priors = {"fixef": bl.Prior("StudentT", nu=4, mu=0, sigma=100), "corr_Subject": bl.Prior("LKJ", eta=3)}
    model = sleep.model.update(priors=priors)
    direct, draws = Direct(model), estimates(sleep.post, "").draws.reshape(-1, 6)[::400]
    ours = log_prior(model, draws) + collapsed_loglik(model, draws)
    fixef, sds, corr, sigma = draws[:, :2], draws[:, 2:4], draws[:, 4:5], draws[:, 5:]
    scaled = np.linalg.solve(direct.back, (fixef - model.products.beta_ols).T).T
    x = np.hstack([np.log(sds), np.arctanh(corr), np.log(sigma), scaled])
    theirs = [direct.log_density(row, jacobian=False)[0] for row in x]
    np.testing.assert_allclose(np.diff(ours), np.diff(theirs), rtol=1e-8)


def test_theta_comes_back_from_natural_parameters(sleep: SimpleNamespace) -> None:
    values = estimates(sleep.reml, "").estimate
    np.testing.assert_allclose(theta_of(sleep.model, values), sleep.reml.theta, rtol=1e-9)


def test_which_density_a_mode_reached_is_told(sleep: SimpleNamespace) -> None:
    assert integrates_fixef(sleep.map)
    assert not integrates_fixef(bl.fit(sleep.model, "MAP", fixef="joint"))


def test_few_groups_are_named() -> None:
    model = bl.Model("y ~ 1 + (1 | g)", one_way(6, 10, 2.0))
    both = bl.compare(bl.fit(model, "ML"), bl.fit(model))
    (found,) = reasons(both, "few_groups")
    assert found.parameters == ("sd_g[Intercept]",)
    assert found.evidence["sd_g[Intercept]"] == pytest.approx(np.sqrt(5 / 6))
    assert "6 levels" in found.text


def test_a_posterior_wider_than_standard_errors_is_named_where_groups_are_few(sleep: SimpleNamespace) -> None:
    draws = like(sleep.reml)
    draws[:, 1] = draws[:, 1].mean() + 1.3 * (draws[:, 1] - draws[:, 1].mean())
    (found,) = reasons(bl.compare(sleep.reml, planted(sleep.model, draws)), "few_groups")
    assert found.parameters == ("fixef[Days]",)
    assert found.evidence["fixef[Days]"] == pytest.approx(1.3, abs=0.05)


def test_a_gap_within_monte_carlo_error_is_no_disagreement(clean: SimpleNamespace) -> None:
    draws = like(clean.reml, n=80)
    draws[:, 0] += 0.15 * estimates(clean.reml, "").uncertainty[0] - (draws[:, 0].mean() - clean.reml.beta[0])
    both = bl.compare(clean.reml, planted(clean.model, draws))
    (found,) = reasons(both, "monte_carlo")
    assert "fixef[Intercept]" in found.parameters
    assert reasons(both, "unexplained") == []


def test_failed_diagnostics_are_named(clean: SimpleNamespace) -> None:
    draws = like(clean.reml)
    draws[: len(draws) // CHAINS, 0] += 5.0
    (found,) = reasons(bl.compare(clean.reml, planted(clean.model, draws)), "diagnostics")
    assert found.evidence["r_hat"] > 1.01
    assert "Do not trust the posterior" in found.text


def test_a_fit_that_did_not_converge_is_named(clean: SimpleNamespace) -> None:
    stuck = replace(clean.ml, optimum=replace(clean.ml.optimum, converged=False, message="the gradient did not vanish"))
    (found,) = reasons(bl.compare(stuck, clean.reml), "convergence")
    assert found.methods == ("ML",)
    assert "the gradient did not vanish" in found.text
    assert convergence(Setting((estimates(clean.ml, "ML"),), estimates(clean.reml, "REML"))) == []


def test_held_parameters_are_named(clean: SimpleNamespace) -> None:
    both = bl.compare(clean.reml, bl.fit(clean.model, fixed={"sigma": 1.5}), labels=["REML", "held"])
    (found,) = reasons(both, "held")
    assert "sigma at 1.5" in found.text


def test_a_gap_without_a_reason_is_admitted(clean: SimpleNamespace) -> None:
    draws = like(clean.reml)
    draws[:, 0] += estimates(clean.reml, "").uncertainty[0]
    both = bl.compare(clean.reml, planted(clean.model, draws))
    (found,) = reasons(both, "unexplained")
    assert found.parameters == ("fixef[Intercept]",)
    assert unexplained(both._setting, both.reasons) == []


def test_a_gap_below_the_threshold_is_agreement(clean: SimpleNamespace) -> None:
    assert bl.compare(clean.ml, clean.reml).gaps.abs().to_numpy().max() < NOTABLE
