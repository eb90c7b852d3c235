"""Predicted categories: against clm, by brute force, averaged over groups; simulated ones; residuals; means on the link scale."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, special, stats

import bayeslmm as bl
from bayeslmm.approximation import Laplace
from bayeslmm.errors import MethodError
from bayeslmm.generalized_predict import uncertainty
from bayeslmm.thresholds import free_of, probabilities

ROOT = Path(__file__).resolve().parent
CLM = json.loads((ROOT / "reference" / "ordinal.json").read_text(encoding="utf-8"))["clm"]
NEW = pd.DataFrame({"temp": ["cold", "warm"], "contact": ["no", "yes"], "judge": ["new", "new"]})
FORWARD = {"logit": special.expit, "probit": special.ndtr, "cloglog": lambda x: -np.expm1(-np.exp(x))}


@cache
def fit_of(formula: str = "rating ~ temp + contact + (1 | judge)", link: str = "logit"):
    return bl.fit(bl.load(ROOT.parent / "models" / "wine").update(formula=formula, link=link))


@pytest.mark.parametrize("link", FORWARD)
def test_predictions_are_those_of_clm(link: str) -> None:
    """Where two searches stop (1e-5 of a standard error); our Hessian is one of differences."""
    found, want = bl.predict(fit_of("rating ~ temp + contact", link), NEW, kind="probabilities"), CLM[link]
    np.testing.assert_allclose(found["mean"], want["fit"], rtol=1e-4)
    np.testing.assert_allclose(found["se"], want["se_fit"], rtol=3e-4)
    np.testing.assert_allclose(found["lower"], want["lower"], rtol=5e-4)
    np.testing.assert_allclose(found["upper"], want["upper"], rtol=5e-4)
    assert list(found["mean"].columns) == ["1", "2", "3", "4", "5"]


def test_modes_follow_beta_and_the_thresholds() -> None:
    """Central differences of the modes of the approximation, error h²."""
    fit = fit_of("rating ~ temp + contact + (1 + temp | judge)")
    model, h = fit.model, 1e-5
    term = model.terms[0]
    columns, codes = [term.columns], [term.codes]
    slopes = uncertainty(fit, model.X, columns, codes).slopes[:, model.n_theta :]
    approximation = Laplace(model)

    def eta(beta: np.ndarray, tau: np.ndarray) -> np.ndarray:
        return approximation.mode(fit.point._replace(beta=beta, further=free_of(tau))).eta

    for i, unit in enumerate(np.eye(2)):
        differences = (eta(fit.beta + h * unit, fit.tau) - eta(fit.beta - h * unit, fit.tau)) / (2 * h)
        np.testing.assert_allclose(slopes[:, i], differences, atol=1e-7)
    for k, unit in enumerate(np.eye(4)):
        differences = (eta(fit.beta, fit.tau + h * unit) - eta(fit.beta, fit.tau - h * unit)) / (2 * h)
        np.testing.assert_allclose(slopes[:, 2 + k], differences, atol=1e-7)


def test_predictions_of_the_rows_are_the_fitted_probabilities() -> None:
    fit = fit_of()
    found = bl.predict(fit, kind="probabilities")
    np.testing.assert_allclose(found["mean"], fit.probabilities, rtol=1e-10)
    assert (found["se"] > 0).all(axis=None)
    assert ((found["lower"] < found["mean"]) & (found["mean"] < found["upper"])).all(axis=None)
    link = bl.predict(fit, kind="link")
    np.testing.assert_allclose(link["mean"], fit.linear_predictor)


@pytest.mark.parametrize("link", FORWARD)
def test_new_groups_are_averaged_over(link: str) -> None:
    """The integral of the probabilities over the judges' normal distribution."""
    fit = fit_of(link=link)
    found = bl.predict(fit, NEW, kind="probabilities", groups="new", interval=None)["mean"]
    eta, sd = bl.predict(fit, NEW, kind="link", groups="population")["mean"].to_numpy(), fit.sd["judge"].iloc[0]
    for row in range(2):
        for k in range(5):

            def integrand(u: float, row=row, k=k) -> float:
                return probabilities(link, np.array([eta[row] + u]), fit.tau)[0, k] * stats.norm.pdf(u, 0, sd)

            want = integrate.quad(integrand, -10 * sd, 10 * sd, epsabs=1e-12)[0]
            assert found.iloc[row, k] == pytest.approx(want, abs=1e-9)  # 61 nodes
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-12)
    median = bl.predict(fit, NEW, kind="probabilities", groups="population", interval=None)["mean"]
    np.testing.assert_allclose(median, probabilities(link, eta, fit.tau), rtol=1e-9, atol=1e-15)


def test_a_mean_of_categories_is_refused() -> None:
    with pytest.raises(MethodError, match='a category has no mean; kind="probabilities"'):
        bl.predict(fit_of())
    plain = bl.fit(fit_of().model.update(formula="response ~ temp + (1 | judge)", family="gamma", link="log"))
    with pytest.raises(MethodError, match='kind="probabilities" is for ordered categories; the family is gamma'):
        bl.predict(plain, kind="probabilities")
    with pytest.raises(MethodError, match="a category has no mean"):
        bl.means(fit_of(), "temp", scale="response")


def test_means_and_contrasts_are_on_the_scale_of_the_link() -> None:
    """A difference of two means is the coefficient; thresholds cancel."""
    fit = fit_of()
    means = bl.means(fit, "temp")
    assert means.table["mean"].notna().all()
    difference = means.contrasts("control").table.iloc[0]
    assert difference["estimate"] == pytest.approx(fit.fixef["temp[warm]"], rel=1e-12)
    assert difference["se"] == pytest.approx(fit.se["temp[warm]"], rel=1e-9)
    assert "Without thresholds: differences have a meaning, levels none." in str(means)
    crossed = bl.means(fit_of("rating ~ temp * contact + (1 | judge)"), "temp", by="contact")
    assert crossed.table["mean"].notna().all()


def test_simulated_categories_have_the_probabilities_and_the_levels() -> None:
    fit = fit_of()
    drawn = bl.simulate(fit, 2000, seed=1, groups="conditional")
    assert drawn["sim_1"].cat.ordered
    assert list(drawn["sim_1"].cat.categories) == ["1", "2", "3", "4", "5"]
    p = fit.probabilities.iloc[0]
    shares = drawn.iloc[0].astype(str).value_counts(normalize=True).reindex(p.index, fill_value=0.0)
    np.testing.assert_array_less(np.abs(shares - p), 5 * np.sqrt(p * (1 - p) / 2000) + 1e-12)  # five standard errors


def test_a_model_is_simulated_from_thresholds() -> None:
    model = fit_of().model
    given = {"fixef": [1.0, -1.0], "sd_judge": 0.5, "thresholds": {"1|2": -2, "2|3": 0, "3|4": 1, "4|5": 3}}
    drawn = bl.simulate(model, 3, seed=1, parameters=given)
    assert drawn.shape == (72, 3)
    with pytest.raises(ValueError, match="thresholds must increase"):
        bl.simulate(model, parameters=given | {"thresholds": [0, -1, 1, 2]})


def test_refits_of_simulated_categories_find_the_truth() -> None:
    """Twenty judges' hundred ratings each: estimates within four standard errors of what was drawn from."""
    rng = np.random.default_rng(4)
    table = pd.DataFrame(
        {"x": rng.normal(size=2000), "g": np.repeat(np.arange(20), 100).astype(str), "y": np.arange(2000) % 4}
    )
    truth = {"fixef": [0.8], "sd_g": 0.9, "thresholds": [-1.0, 0.2, 1.5]}
    model = bl.Model("y ~ x + (1 | g)", table, family="cumulative", link="probit")
    y = bl.simulate(model, seed=2, parameters=truth)["sim_1"]
    fit = bl.fit(model.update(data=table.assign(y=y)))
    assert abs(fit.fixef["x"] - 0.8) < 4 * fit.se["x"]
    np.testing.assert_array_less(np.abs(fit.thresholds["estimate"] - [-1.0, 0.2, 1.5]), 4 * fit.thresholds["se"])
    assert 0.5 < fit.sd["g"].iloc[0] < 1.4


def test_quantile_residuals_lie_in_their_categories() -> None:
    """Exact ones between the cumulative probabilities of the response's category; simulated ones rank it."""
    fit = fit_of()
    exact = bl.quantile_residuals(fit, method="exact").values
    upper = np.cumsum(fit.probabilities.to_numpy(), axis=1)[np.arange(72), fit.model.design.y.astype(int)]
    own = fit.probabilities.to_numpy()[np.arange(72), fit.model.design.y.astype(int)]
    assert ((exact <= upper) & (exact >= upper - own)).all()
    drawn = bl.quantile_residuals(fit, 100, seed=1)
    assert ((drawn.values > 0) & (drawn.values < 1)).all()
    assert drawn.uniformity().p > 0.01
    assert np.corrcoef(drawn.values, exact)[0, 1] > 0.5


def test_t_responses_are_predicted_and_simulated() -> None:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(15), 8)
    table = pd.DataFrame({"x": rng.normal(size=120), "g": g.astype(str)})
    table["y"] = 1 + table["x"] + rng.normal(size=15)[g] + rng.standard_t(4, 120)
    fit = bl.fit(bl.Model("y ~ x + (1 | g)", table, family="t"))
    found = bl.predict(fit, kind="mean")
    np.testing.assert_allclose(found["mean"], fit.fitted)
    np.testing.assert_allclose(found, bl.predict(fit, kind="link"))
    exact = bl.quantile_residuals(fit, method="exact").values
    want = stats.t.cdf((table["y"] - fit.fitted) / fit.dispersion, fit.nu)
    np.testing.assert_allclose(exact, want, rtol=1e-12)
    drawn = bl.simulate(fit, 4000, seed=1, groups="conditional").to_numpy()
    high = (drawn - fit.fitted.to_numpy()[:, None] > 2 * fit.dispersion).mean()
    share = stats.t.sf(2.0, fit.nu)
    assert abs(high - share) < 5 * np.sqrt(share / drawn.size)  # five standard errors
    given = {"fixef": [1, 1], "sd_g": 1.0, "sigma": 1.0, "nu": 3.0}
    assert bl.simulate(fit.model, 2, seed=1, parameters=given).shape == (120, 2)
    with pytest.raises(MethodError, match="nu is -1; it must be positive"):
        bl.simulate(fit.model, parameters=given | {"nu": -1})
    np.testing.assert_allclose(
        bl.means(fit, "x").table["mean"], bl.predict(fit, {"x": [table["x"].mean()]}, groups="population")["mean"]
    )
