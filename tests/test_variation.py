"""R², intraclass correlations and partitions: the references, R by hand, dense algebra, coverage."""

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.components import components, random_parts
from bayeslmm.errors import MethodError
from bayeslmm.estimates import parameter_names
from bayeslmm.posterior import Posterior
from bayeslmm.refits import Refits

# marginal, conditional R² and adjusted, unadjusted ICC as performance::r2_nakagawa and performance::icc define them,
# from lme4 1.1-31 fits
REFERENCE = {
    ("sleepstudy", None): (0.278652033661822, 0.799218907568343, 0.72165847579651, 0.520566873906522),
    ("sleepstudy", "Reaction ~ Days + (1 | Subject)"): (0.279885637186333, 0.704255451777323, 0.589308916062819, 0.42436981459099),
    ("penicillin_blocks", None): (0.10738255033539, 0.451070629595936, 0.385034013607601, 0.343688079260546),
    ("tablets_missing", None): (0.00916492543123944, 0.70371993100942, 0.700979429780956, 0.694555005578181),
}  # fmt: skip


@pytest.fixture(autouse=True)
def at_root(root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.fixture(scope="module")
def sleepstudy(root) -> bl.PointFit:
    return bl.fit(bl.load(root / "models/sleepstudy"), "REML")


@pytest.fixture(scope="module")
def post(sleepstudy: bl.PointFit) -> Posterior:
    return bl.sample(sleepstudy.model, draws=250, tune=250, chains=2, seed=3, progress=False)


def mixed(rng: np.random.Generator, n: int = 200) -> pd.DataFrame:
    data = pd.DataFrame({"g": rng.integers(14, size=n), "h": rng.integers(6, size=n), "x": rng.normal(3, 1, n)})
    u = rng.normal(size=(14, 2)) * [1.0, 0.6]
    e = rng.normal(size=n)
    return data.assign(
        y=4 + data["x"] + u[data["g"], 0] + u[data["g"], 1] * data["x"] + rng.normal(size=6)[data["h"]] + e
    )


@pytest.mark.parametrize(
    ("case", "numbers"), REFERENCE.items(), ids=lambda v: str(v[0]) if isinstance(v, tuple) else None
)
def test_references(case: tuple[str, str | None], numbers: tuple[float, ...]) -> None:
    model = bl.load(f"models/{case[0]}")
    fit = bl.fit(model.update(case[1]) if case[1] else model, "REML")
    found = [*bl.r2(fit).table["estimate"], *bl.icc(fit).table["estimate"]]
    np.testing.assert_allclose(found, numbers, atol=1e-6)  # optimisers stop within 1e-6 of each other


def test_components_are_averages_of_the_dense_covariance(rng: np.random.Generator) -> None:
    data = mixed(rng)
    weights = rng.uniform(0.5, 2, len(data))
    fit = bl.fit(bl.Model("y ~ x + (x | g) + (1 | h)", data, weights=weights), "REML")
    table = bl.variance_partition(fit, by="group").table
    model = fit.model
    for group in model.groups:
        columns = np.hstack([t.columns for t in model.design.random if t.group == group])
        sd = fit.group_sd[group]
        covariance = fit.group_corr[group] * np.outer(sd, sd)
        own = np.einsum("na,ab,nb->n", columns, covariance, columns).mean()
        np.testing.assert_allclose(table.loc[group, "variance"], own, rtol=1e-12)
    total = fit.sigma**2 * model.Z @ model.Lambda(fit.theta) @ (model.Z @ model.Lambda(fit.theta)).T
    np.testing.assert_allclose(table.loc[list(model.groups), "variance"].sum(), total.diagonal().mean(), rtol=1e-12)
    np.testing.assert_allclose(table.loc["fixed", "variance"], np.var(model.X @ fit.beta, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(table.loc["Residual", "variance"], (fit.sigma**2 / weights).mean(), rtol=1e-12)
    assert abs(table["share"].sum() - 1) < 1e-14


def test_effects_of_a_group_add_up_and_only_their_sum_is_invariant(sleepstudy: bl.PointFit) -> None:
    effects = bl.variance_partition(sleepstudy).table["variance"]
    assert list(effects.index) == [
        "fixed",
        "Subject[Intercept]",
        "Subject[Days]",
        "Subject[Intercept, Days]",
        "Residual",
    ]
    group = bl.variance_partition(sleepstudy, by="group").table["variance"]
    assert np.isclose(effects.filter(like="Subject").sum(), group["Subject"], rtol=1e-13)
    data = sleepstudy.model.arguments["data"]
    centred = bl.Model("Reaction ~ Days + (Days | Subject)", data.assign(Days=data["Days"] - 4.5))
    other = bl.fit(centred, "REML")
    assert np.isclose(
        bl.variance_partition(other, by="group").table.loc["Subject", "variance"], group["Subject"], rtol=1e-5
    )
    assert (
        abs(
            bl.variance_partition(other).table.loc["Subject[Intercept]", "variance"] / effects["Subject[Intercept]"] - 1
        )
        > 0.3
    )


def test_units_of_the_response_do_not_matter(rng: np.random.Generator) -> None:
    data = mixed(rng)
    found = [
        bl.r2(bl.fit(bl.Model("y ~ x + (x | g)", data.assign(y=data["y"] * scale)), "REML")).table
        for scale in (1.0, 1e200, 1e-200)
    ]
    for other in found[1:]:
        pd.testing.assert_series_equal(found[0]["estimate"], other["estimate"], rtol=1e-6)
        pd.testing.assert_frame_equal(found[0], other, rtol=2e-4)  # the curvature is a difference of gradients


def test_without_random_effects_it_is_the_share_of_the_fixed_part(sleepstudy: bl.PointFit) -> None:
    fit = bl.fit(sleepstudy.model.update("Reaction ~ Days"), "REML")
    table = bl.r2(fit).table["estimate"]
    assert table["marginal"] == table["conditional"]
    n, r2 = fit.nobs, np.corrcoef(fit.fitted, fit.model.design.y)[0, 1] ** 2
    adjusted = r2 / (r2 + (1 - r2) * (n - 1) / (n - 2))  # σ̂² divides by n − p, Var(Xβ̂) by n − 1
    assert np.isclose(table["marginal"], adjusted, rtol=1e-12)
    with pytest.raises(MethodError, match="no random effects"):
        bl.icc(fit)


def test_delta_interval_is_the_log_ratio_s(sleepstudy: bl.PointFit) -> None:
    # logit of the adjusted ICC with one intercept is log γ = 2 (log sd − log σ)
    from bayeslmm.estimates import variance_covariance

    fit = bl.fit(sleepstudy.model.update("Reaction ~ Days + (1 | Subject)"), "REML")
    C = variance_covariance(fit)
    reach = 1.959963984540054 * 2 * np.sqrt(C[0, 0] + C[1, 1] - 2 * C[0, 1])
    gamma = fit.theta[0] ** 2 * np.exp([-reach, reach])
    np.testing.assert_allclose(bl.icc(fit).table.loc["adjusted", ["lower", "upper"]], gamma / (1 + gamma), rtol=1e-6)


def test_a_parameter_held_has_no_uncertainty(sleepstudy: bl.PointFit) -> None:
    model = sleepstudy.model.update("Reaction ~ 1 + (1 | Subject)")
    fit = bl.fit(model, "REML", fixed={"sd_Subject[Intercept]": 35.0, "sigma": 45.0})
    row = bl.icc(fit).table.loc["adjusted"]
    np.testing.assert_allclose(row, 35.0**2 / (35.0**2 + 45.0**2), rtol=1e-12)


def test_at_the_boundary_the_delta_method_says_nothing_and_the_bootstrap_ends_at_zero() -> None:
    fit = bl.fit(bl.load("models/dyestuff2"), "REML")
    found = bl.icc(fit)
    assert found.table.loc["adjusted", "estimate"] == 0
    assert found.table[["lower", "upper"]].isna().all().all()
    assert "sd_Batch[Intercept] is 0" in str(found)
    assert "variance_ratio(fit).confint() is exact" in " ".join(str(found).split())
    boot = bl.icc(bl.bootstrap(fit, 100, seed=1, progress=False))
    assert boot.table.loc["adjusted", "lower"] == 0 < boot.table.loc["adjusted", "upper"] < 1
    assert "singular" in str(boot)
    assert boot.table.loc["adjusted", "estimate"] == 0


def test_bootstrap_shares_are_those_of_its_refits(sleepstudy: bl.PointFit) -> None:
    boot = bl.bootstrap(sleepstudy, 60, seed=4, progress=False)
    again = bl.bootstrap(sleepstudy, 60, lambda f: dict(bl.r2(f).table["estimate"]), seed=4, progress=False)
    found = bl.r2(boot)
    np.testing.assert_allclose(found.draws.to_numpy(), again.draws.to_numpy(), rtol=1e-10)
    np.testing.assert_allclose(found.table["estimate"], bl.r2(sleepstudy).table["estimate"], rtol=1e-14)
    with pytest.raises(MethodError, match="another statistic"):
        bl.r2(again)


def test_posterior_shares_draw_by_draw(post: Posterior) -> None:
    found = bl.variance_partition(post)
    model, d = post.model, 137
    sd, corr, sigma = post.draws("sd_Subject")[d], post.draws("corr_Subject")[d, 0], post.draws("sigma")[d]
    covariance = np.outer(sd, sd) * [[1, corr], [corr, 1]]
    columns = model.design.random[0].columns
    random = np.einsum("na,ab,nb->n", columns, covariance, columns).mean()
    fixed = np.var(model.X @ post.draws("fixef")[d], ddof=1)
    total = random + fixed + sigma**2
    np.testing.assert_allclose(found.draws.loc[d, ["fixed", "Residual"]], [fixed / total, sigma**2 / total], rtol=1e-12)
    np.testing.assert_allclose(found.table["share"].sum(), 1.0, rtol=1e-13)
    np.testing.assert_allclose(found.table["lower"], found.draws.quantile(0.025), rtol=1e-12)


def test_bayesian_r2_draw_by_draw(post: Posterior) -> None:
    found = bl.r2(post, kind="gelman")
    d = 41
    ranef = post.draws("ranef_Subject")[d]
    term = post.model.design.random[0]
    eta = post.model.X @ post.draws("fixef")[d] + (term.columns * ranef[term.codes]).sum(axis=1)
    expected = np.var(eta, ddof=1) / (np.var(eta, ddof=1) + post.draws("sigma")[d] ** 2)
    assert np.isclose(found.draws.loc[d, "bayesian"], expected, rtol=1e-10)
    with pytest.raises(MethodError, match=r"draws of bl\.sample"):
        bl.r2(bl.fit(post.model, "REML"), kind="gelman")


def test_by_group_splits_the_sum() -> None:
    fit = bl.fit(bl.load("models/penicillin"), "REML")
    by, total = bl.icc(fit, by="group").table["estimate"], bl.icc(fit).table["estimate"]
    for kind in ("adjusted", "unadjusted"):
        assert np.isclose(by.xs(kind, level="kind").sum(), total[kind], rtol=1e-13)
    variance = fit.varcorr["variance"]
    np.testing.assert_allclose(by.xs("adjusted", level="kind"), variance[:-1] / variance.sum(), rtol=1e-12)


def test_a_factor_may_have_the_name_of_a_source(rng: np.random.Generator) -> None:
    data = mixed(rng).rename(columns={"g": "fixed", "h": "Residual"})
    table = bl.variance_partition(
        bl.fit(bl.Model("y ~ x + (1 | fixed) + (1 | Residual)", data), "REML"), by="group"
    ).table
    assert list(table.index) == ["fixed", "fixed", "Residual", "Residual"]
    assert abs(table["share"].sum() - 1) < 1e-14
    assert table["share"].nunique() == 4


def test_components_take_many_parameters_at_once(sleepstudy: bl.PointFit, rng: np.random.Generator) -> None:
    m = len(parameter_names(sleepstudy.model))
    vectors = np.abs(rng.normal(size=(2, 5, m))) * 0.9
    found = components(sleepstudy.model, vectors)
    assert found.shape == (2, 5, 2 + len(random_parts(sleepstudy.model)))
    np.testing.assert_array_equal(found[1, 3], components(sleepstudy.model, vectors[1, 3]))


@pytest.mark.slow
def test_delta_intervals_cover_away_from_the_boundary() -> None:
    rng, k, n = np.random.default_rng(5), 25, 6
    g, x = np.repeat(np.arange(k), n), rng.normal(size=k * n)
    design = Refits(bl.Model("y ~ x + (1 | g)", {"y": rng.normal(size=k * n), "x": x, "g": g}))
    fixed = np.var(x, ddof=1)
    truth = {"marginal": fixed / (fixed + 2), "conditional": (fixed + 1) / (fixed + 2), "adjusted": 0.5}
    hits = []
    for _ in range(400):
        fit = bl.fit(design.model(x + rng.normal(size=k)[g] + rng.normal(size=k * n)), "REML")
        table = pd.concat([bl.r2(fit).table, bl.icc(fit).table.loc[["adjusted"]]])
        hits.append([row.lower <= truth[name] <= row.upper for name, row in table.iterrows()])
    # four Monte Carlo errors, and two points for 25 groups with a normal quantile
    assert (np.abs(np.mean(hits, axis=0) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 400) + 0.02).all()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda fit: bl.r2(fit.model), "bl.fit, bl.bootstrap or bl.sample"),
        (lambda fit: bl.r2(fit, level=95), "level is a probability"),
        (lambda fit: bl.r2(fit, kind="mcfadden"), "kind='mcfadden'"),
        (lambda fit: bl.icc(fit, by="Subject"), "by='Subject'"),
        (lambda fit: bl.variance_partition(fit, by="level"), "by='level'"),
    ],
)
def test_what_has_no_meaning_is_refused(sleepstudy: bl.PointFit, call, says: str) -> None:
    with pytest.raises(MethodError, match=says):
        call(sleepstudy)


def test_pages_print(sleepstudy: bl.PointFit) -> None:
    for found in (bl.r2(sleepstudy), bl.icc(sleepstudy, by="group"), bl.variance_partition(sleepstudy)):
        assert "delta method on the logit scale" in str(found)
        assert "<table>" in found._repr_html_()
