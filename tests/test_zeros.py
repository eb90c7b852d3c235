"""Answers of models with zeros of their own, and with formulas for dispersion and zeros: against glmmTMB and brute force."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

import bayeslmm as bl
from bayeslmm.averaging import whole
from bayeslmm.cumulative import distribution, randomised
from bayeslmm.errors import DataError, MethodError
from bayeslmm.exact.zeros import zeroed
from bayeslmm.family import FAMILIES, LINKS, family_of, linked
from bayeslmm.generalized_assumptions import standardise_generalized
from bayeslmm.laplace_error import _sampled

R = json.loads((Path(__file__).parent / "reference" / "zeros.json").read_text(encoding="utf-8"))
CASES = {
    "zero_inflated_poisson": {"zero": "~ mined"},
    "zero_inflated_negativebinomial": {"zero": "~ mined"},
    "zero_inflated_negativebinomial_by_day": {"zero": "~ mined", "dispersion": "~ DOY"},
    "hurdle_poisson": {"zero": "~ mined + DOY"},
    "hurdle_negativebinomial": {"zero": "~ mined"},
    "hurdle_negativebinomial1": {},
}
ZEROED = [name for name, family in FAMILIES.items() if family.zeros]


@cache
def fitted(name: str) -> bl.PointFit:
    model = bl.load("models/salamanders").update(
        formula="count ~ spp + mined + (1 | site)", family=name.removesuffix("_by_day"), **CASES[name]
    )
    return bl.fit(model)


def salamanders():
    return fitted("hurdle_poisson").model.arguments["data"]


def plain_mean(family, mu: float, phi: float) -> float:
    """Mean of the responses without a zero of their own, by summation of SciPy's probabilities."""
    y = np.arange(4000)
    match family.plain:
        case "poisson":
            p = stats.poisson.pmf(y, mu)
        case "negativebinomial":
            p = stats.nbinom.pmf(y, phi, phi / (phi + mu))
        case "negativebinomial1":
            p = stats.nbinom.pmf(y, mu / phi, 1 / (1 + phi))
        case _:
            return mu
    p = p if family.name.startswith("zero") else np.where(y > 0, p, 0.0) / (1.0 - p[0])
    return float(y @ p)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("kind", "theirs"), [("mean", "response"), ("conditional", "conditional"), ("zero", "zprob")])
def test_predictions_are_glmmtmbs(name: str, kind: str, theirs: str) -> None:
    """Both optima are polished; their and our Hessians are by differences, ours of first order: 1e-4 of a standard error."""
    rows, want = R[name]["rows"], R[name][theirs]
    found = bl.predict(fitted(name), salamanders().iloc[rows], kind=kind)
    np.testing.assert_allclose(found["mean"], want["fit"], rtol=1e-6)
    np.testing.assert_allclose(found["se"], want["se"], rtol=1e-3)
    np.testing.assert_allclose(found, bl.predict(fitted(name), kind=kind).iloc[rows], rtol=1e-12)
    assert ((found["lower"] < found["mean"]) & (found["mean"] < found["upper"])).all()


def test_intervals_stay_where_the_quantity_lives() -> None:
    fit = fitted("hurdle_negativebinomial1")
    positive = bl.predict(fit, kind="conditional", interval=0.9999)
    assert (positive["lower"] > 1.0).all()  # a positive count is at least 1
    assert bl.predict(fit, kind="zero", interval=0.9999)[["lower", "upper"]].stack().between(0, 1).all()
    by_day = fitted("zero_inflated_negativebinomial_by_day")
    dispersion = bl.predict(by_day, kind="dispersion")
    np.testing.assert_allclose(dispersion["mean"], by_day.dispersions_at(), rtol=1e-12)
    # the delta method on the log: at DOY = 0 its standard error is the intercept's
    at_zero = bl.predict(by_day, {"DOY": [0.0], "mined": ["no"], "spp": ["GP"]}, kind="dispersion", groups="population")
    se = by_day.further_fixef["dispersion"]["se"].iloc[0]
    np.testing.assert_allclose(at_zero["se"] / at_zero["mean"], se, rtol=1e-9)
    constant = bl.predict(fit, kind="dispersion", interval=None)
    assert constant["mean"].iloc[0] == pytest.approx(fit.dispersion, rel=1e-12)


@pytest.mark.parametrize("name", ZEROED)
def test_whole_means_and_their_derivatives(name: str) -> None:
    """The mean by summation over normal η (quadrature by SciPy); derivatives by central differences, error h²."""
    family, link, h = family_of(name), family_of(name).links[0], 1e-5
    inverse = np.exp if link == "log" else (lambda eta: 1 / (1 + np.exp(-eta)))

    def at(centre: float, spread: float, aux: float, zeta: float):
        return whole(family, link, *(np.array([v]) for v in (centre, spread, aux, zeta)))

    for centre, spread, aux, zeta in ((0.3, 0.0, -0.5, -1.2), (-2.0, 0.8, 0.4, 0.3), (1.5, 0.3, 1.0, -np.inf)):
        here, kept = at(centre, spread, aux, zeta), 1.0 / (1.0 + np.exp(zeta))
        sd = np.sqrt(spread)

        def integrand(z: float, centre: float = centre, sd: float = sd, aux: float = aux) -> float:
            return plain_mean(family, float(inverse(centre + sd * z)), np.exp(aux)) * stats.norm.pdf(z)

        value = integrate.quad(integrand, -9, 9, epsabs=0, epsrel=1e-9)[0]
        assert here.mean[0] == pytest.approx(kept * value, rel=1e-8)
        for part, step in (("slope", (h, 0, 0, 0)), ("slope_aux", (0, 0, h, 0)), ("slope_zero", (0, 0, 0, h))):
            ends = [at(*(np.array([centre, spread, aux, zeta]) + side * np.array(step))).mean[0] for side in (1, -1)]
            assert getattr(here, part)[0] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-8)


def test_whole_means_far_out() -> None:
    """Of a mean near 0 a positive count is 1; of a large one no zero is left."""
    family, out = family_of("hurdle_negativebinomial"), np.array([-25.0, 25.0])
    found = whole(family, "log", out, np.zeros(2), np.zeros(2), np.full(2, -np.inf))
    np.testing.assert_allclose(found.mean, [1.0, np.exp(25.0)], rtol=1e-9)


@pytest.mark.parametrize("name", ["zero_inflated_negativebinomial_by_day", "hurdle_poisson"])
def test_population_averages_by_brute_force(name: str) -> None:
    """Integrals over the sites by SciPy, their errors by differences of these over all parameters (relative error 1e-6)."""
    fit = fitted(name)
    model, family = fit.model, family_of(fit.model.family)
    cell = {"spp": ["DM"], "mined": ["yes"], "DOY": [0.4]}
    x = model.design.encode(cell, random=False).X[0]
    W, Z0 = (model.design.encode_further(part, cell)[0] for part in ("dispersion", "zero"))

    def mean(psi: np.ndarray) -> float:
        sd, beta, rest = psi[0], psi[1 : 1 + len(x)], psi[1 + len(x) :]
        phi, zeta = np.exp(W @ rest[: len(W)]) if len(W) else 1.0, Z0 @ rest[-len(Z0) :]

        def integrand(z: float) -> float:
            return plain_mean(family, float(np.exp(x @ beta + sd * z)), phi) * stats.norm.pdf(z)

        return integrate.quad(integrand, -8, 8, epsabs=0, epsrel=1e-10)[0] / (1 + np.exp(zeta))

    psi, h = fit.optimum.theta, 1e-4
    gradient = [(mean(psi + h * e) - mean(psi - h * e)) / (2 * h) for e in np.eye(len(psi))]
    se = np.sqrt(gradient @ np.linalg.solve(0.5 * fit.optimum.hessian, gradient))
    found = bl.predict(fit, cell | {"site": ["new"]}, groups="new")
    assert found["mean"].item() == pytest.approx(mean(psi), rel=1e-8)
    assert found["se"].item() == pytest.approx(se, rel=1e-5)
    # the reference grid at this cell is the same number
    at = {"spp": "DM", "mined": "yes", "DOY": 0.4}
    table = bl.means(fit, "spp", at=at, scale="response", groups="new").table
    np.testing.assert_allclose(table[["mean", "se", "lower", "upper"]], found, rtol=1e-7)
    at_zero = bl.predict(fit, cell, groups="population")
    assert table["median"].item() == pytest.approx(at_zero["mean"].item(), rel=1e-12)
    own = bl.means(fit, "spp", at=at, scale="response").table
    np.testing.assert_allclose(own[["mean", "se", "lower", "upper"]], at_zero, rtol=1e-7)


def test_contrasts_and_slopes_of_whole_means() -> None:
    fit = fitted("zero_inflated_poisson")
    for groups in ("population", "new"):
        found = bl.means(fit, "mined", scale="response", groups=groups, at={"spp": "GP"})
        mean, ratio = found["mean"], found.contrasts().table["ratio"].item()
        assert ratio == pytest.approx(mean["yes"] / mean["no"], rel=1e-12)
    # P(zero) and the mean both depend on mining: its ratio is that of the others times that of their shares
    share = (
        1.0 - bl.predict(fit, {"mined": ["yes", "no"]} | {"spp": ["GP"] * 2}, groups="population", kind="zero")["mean"]
    )
    assert np.log(ratio) == pytest.approx(-fit.fixef["mined[no]"] + np.log(share[0] / share[1]), rel=1e-9)
    assert "all responses" in str(found)
    assert "without a zero of their own" in str(bl.means(fit, "mined"))
    hurdle = fitted("hurdle_poisson")  # DOY is in the formula for zeros only
    slope = bl.slopes(hurdle, "DOY", by="mined", at={"spp": "GP"}, scale="response", groups="new").table["slope"]
    h = 1e-4
    ends = [
        bl.means(hurdle, "mined", at={"spp": "GP", "DOY": side}, scale="response", groups="new")["mean"]
        for side in (h, -h)
    ]
    middle = bl.means(hurdle, "mined", at={"spp": "GP", "DOY": 0.0}, scale="response", groups="new")
    assert middle.combinations.labels.tolist() == slope.index.tolist()
    at_zero = bl.slopes(hurdle, "DOY", by="mined", at={"spp": "GP", "DOY": 0.0}, scale="response", groups="new").table
    np.testing.assert_allclose(at_zero["slope"], (ends[0] - ends[1]) / (2 * h), rtol=1e-6)


def test_curves_of_the_response_include_the_zeros() -> None:
    fit = fitted("hurdle_poisson")
    curves = bl.response_curves(fit, "DOY")
    site = fit.model.levels("site")[3]
    frame = {"DOY": curves.table.index, "mined": ["yes"] * 41, "spp": ["GP"] * 41, "site": [site] * 41}
    np.testing.assert_allclose(curves.individuals[site], bl.predict(fit, frame)["mean"], rtol=1e-10)
    assert (curves.table["mean"] > curves.table["median"]).all()


@pytest.mark.parametrize("name", ZEROED)
def test_distributions_with_zeros_of_their_own(name: str) -> None:
    """Probabilities are the densities that are fitted; cumulated, they are the distribution function."""
    family, mu, phi, zero, trials = (
        family_of(name),
        np.array([0.3, 0.6]),
        np.array([0.7, 2.0]),
        np.array([0.4, 0.1]),
        7.0,
    )
    given = distribution(name, mu, phi, trials, zero)
    y = np.arange(8.0)
    link, eta = LINKS[family.links[0]], linked(family.links[0], mu)
    for row in range(2):
        zeta = np.log(zero[row] / (1 - zero[row]))
        logs = [
            zeroed(family.zeros, family.code, link, v, trials, eta[row], np.log(phi[row]), zeta).density.value
            for v in y
        ]
        np.testing.assert_allclose([given.pmf(v)[row] for v in y], np.exp(logs), rtol=1e-10)
        np.testing.assert_allclose([given.cdf(v)[row] for v in y], np.cumsum(np.exp(logs)), rtol=1e-10)
    assert (given.cdf(-1.0) == 0.0).all()


CHECKED = ("zero_inflated_negativebinomial_by_day", "hurdle_negativebinomial1")


@pytest.mark.parametrize("name", CHECKED)
def test_quantile_residuals_of_the_fit_are_uniform(name: str) -> None:
    """Of simulated responses given the same effects: Kolmogorov and Smirnov at 1e-3, and their mean and spread."""
    fit = fitted(name)
    y = bl.simulate(fit, 30, seed=3, groups="conditional").to_numpy()
    rng, given = np.random.default_rng(2), fit.given_effects
    residuals = np.concatenate(
        [randomised(fit.model.family, column, given, rng.uniform(size=len(y))) for column in y.T]
    )
    assert stats.kstest(residuals, "uniform").pvalue > 1e-3
    assert bl.quantile_residuals(fit, method="exact").values.between(0, 1, inclusive="neither").all()
    assert {"zero inflation"} < set(bl.quantile_residuals(fit, 50).tests.index)


@pytest.mark.parametrize("name", CHECKED)
def test_rootograms_count_the_zeros(name: str) -> None:
    fit = fitted(name)
    table = bl.rootogram(fit).table
    given = fit.given_effects
    beyond = np.sum(1.0 - given.cdf(float(table.index[-1])))
    assert table["expected"].sum() + beyond == pytest.approx(fit.nobs, rel=1e-10)
    if name.startswith("hurdle"):  # all zeros are of their own, and a logit with an intercept reproduces their number
        assert table.loc[0, "expected"] == pytest.approx(table.loc[0, "observed"], rel=1e-5)


@pytest.mark.parametrize("name", CHECKED)
def test_the_error_of_laplace_by_two_ways(name: str) -> None:
    """Importance sampling and quadrature of one integral: within four of the former's standard errors."""
    fit = fitted(name)
    exact, sampled = bl.laplace_error(fit), _sampled(fit, fit.point, 2000, 3)
    assert exact.method == "quadrature"
    assert abs(sampled.value - exact.value) < 4 * sampled.se
    finer = bl.fit(fit.model, "AGHQ", nodes=25)
    assert bl.laplace_error(finer).value == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("name", CHECKED)
def test_diagnosis_by_refits(name: str) -> None:
    fit = fitted(name)
    found = bl.diagnose(fit, nsim=19, seed=1, progress=False)
    own = standardise_generalized(fit)
    assert ("zeros" in set(found.table["check"])) == (not name.startswith("hurdle"))
    assert np.isfinite(own.residual).all()
    if name.startswith("zero"):
        expected = fit.given_effects.pmf(0).sum()
        assert own.zeros == pytest.approx((fit.model.design.y == 0).sum() / expected, rel=1e-12)


@pytest.mark.slow  # draws every figure
def test_a_report_of_a_model_with_zeros(tmp_path) -> None:
    page = bl.report(fitted(CHECKED[0]), path=tmp_path / "page.html", nsim=0).read_text(encoding="utf-8")
    assert "zero_inflated_negativebinomial" in page


def test_parts_without_meaning_are_refused() -> None:
    zeros, plain = fitted("zero_inflated_poisson"), bl.fit(bl.load("models/salamanders").update(family="poisson"))
    for call, error, message in (
        (lambda: bl.predict(plain, kind="zero"), MethodError, "zeros of their own"),
        (lambda: bl.predict(plain, kind="conditional"), MethodError, "zeros of their own"),
        (lambda: bl.predict(zeros, kind="dispersion"), MethodError, "zero_inflated_poisson"),
        (lambda: bl.attenuation(zeros), MethodError, "no marginal coefficients"),
        (lambda: bl.predict(zeros, {"spp": ["GP"], "mined": [None]}, kind="zero"), DataError, "missing"),
        (lambda: bl.predict(bl.fit(zeros.model, fast=True)), MethodError, "fast=False"),
    ):
        with pytest.raises(error, match=message):
            call()
