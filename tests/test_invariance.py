"""What must not change: labels, order of rows and terms, units, coding of factors, the meaning of weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeslmm as bl

SEEDS = st.integers(0, 2**32 - 1)
FORMULAS = [
    "y ~ x + (1 | g)",
    "y ~ x + (x | g)",
    "y ~ x + (x || g)",
    "y ~ x + (1 | g) + (x | h)",
    "y ~ x + f + (1 | h / g)",
]


def table(seed, n=80):
    rng = np.random.default_rng(seed)
    g, h, x = rng.integers(0, 10, n), rng.integers(0, 4, n), rng.normal(size=n)
    u, v = rng.normal(size=(10, 2)), rng.normal(size=4)
    y = 1 + x + u[g, 0] + 0.7 * u[g, 1] * x + v[h] + rng.normal(size=n)
    return {"y": y, "x": x, "g": g, "h": h, "f": rng.choice(["p", "q", "r"], n), "w": rng.uniform(0.5, 3, n)}


def same(one, two, beta=None, tol=1e-5):
    """One fit twice: same likelihood, coefficients and natural parameters, to what an optimum determines them."""
    assert one.loglik == pytest.approx(two.loglik, abs=1e-7)
    np.testing.assert_allclose(one.fixef if beta is None else beta, two.fixef, rtol=tol, atol=tol)
    assert one.sigma == pytest.approx(two.sigma, rel=tol)
    for group in one.sd:
        np.testing.assert_allclose(one.sd[group], two.sd[group], rtol=tol, atol=2e-4)


@settings(max_examples=15)
@given(SEEDS, st.sampled_from(FORMULAS), st.sampled_from(["REML", "ML"]))
def test_labels_and_order_of_rows_do_not_matter(seed, formula, method):
    data = table(seed)
    fit = bl.fit(bl.Model(formula, data), method)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data["y"]))
    names = np.array([f"unit {i}" for i in rng.permutation(10)])
    moved = {key: column[order] for key, column in data.items()} | {"g": names[data["g"]][order]}
    other = bl.fit(bl.Model(formula, moved), method)
    same(fit, other)
    if "h:g" not in fit.ngroups and "g:h" not in fit.ngroups:
        by_name = other.ranef["g"].loc[names[[int(level) for level in fit.ranef["g"].index]]]
        np.testing.assert_allclose(fit.ranef["g"], by_name, atol=2e-4)
    np.testing.assert_allclose(fit.fitted.to_numpy()[order], other.fitted, atol=2e-4)


@settings(max_examples=15)
@given(SEEDS, st.sampled_from(FORMULAS), st.sampled_from([1e-3, 2.5, 1e4]), st.sampled_from(["REML", "ML"]))
def test_units_of_a_predictor(seed, formula, unit, method):
    data = table(seed)
    fit = bl.fit(bl.Model(formula, data), method)
    other = bl.fit(bl.Model(formula, data | {"x": data["x"] * unit}), method)
    shift = np.log(unit) if method == "REML" else 0.0  # log|X'V⁻¹X| / 2 carries the unit of X
    assert other.loglik + shift == pytest.approx(fit.loglik, abs=1e-7)
    assert other.fixef["x"] * unit == pytest.approx(fit.fixef["x"], rel=1e-5)
    assert other.sigma == pytest.approx(fit.sigma, rel=1e-5)
    for group in fit.sd:
        for effect, sd in fit.sd[group].items():
            scale = unit if effect == "x" else 1.0
            assert other.sd[group][effect] * scale == pytest.approx(sd, rel=1e-4, abs=2e-4)
        np.testing.assert_allclose(other.corr[group], fit.corr[group], atol=1e-3)


@settings(max_examples=15)
@given(SEEDS, st.sampled_from(FORMULAS), st.sampled_from([1e-150, 1e-3, 7.0, 1e150]), st.sampled_from(["REML", "ML"]))
def test_units_of_the_response(seed, formula, unit, method):
    data = table(seed)
    fit, other = (bl.fit(bl.Model(formula, data | {"y": data["y"] * s}), method) for s in (1.0, unit))
    degrees = fit.nobs - (len(fit.fixef) if method == "REML" else 0)
    assert other.loglik + degrees * np.log(unit) == pytest.approx(fit.loglik, rel=1e-9)
    np.testing.assert_allclose(other.fixef / unit, fit.fixef, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.se / unit, fit.se, rtol=1e-5)
    np.testing.assert_allclose(other.theta, fit.theta, atol=2e-4)
    assert other.sigma / unit == pytest.approx(fit.sigma, rel=1e-5)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from([FORMULAS[0], FORMULAS[1], FORMULAS[3]]), st.sampled_from([5.0, -300.0, 2000.0]))
def test_origin_of_a_predictor(seed, formula, shift):
    """With (x | g), correlated, nothing but the intercepts' meaning depends on where x is 0."""
    data = table(seed)
    fit, other = (bl.fit(bl.Model(formula, data | {"x": data["x"] + s})) for s in (0.0, shift))
    assert fit.converged
    assert other.converged
    assert other.loglik == pytest.approx(fit.loglik, abs=1e-6)
    assert other.fixef["x"] == pytest.approx(fit.fixef["x"], rel=1e-5)
    assert other.fixef["Intercept"] + shift * other.fixef["x"] == pytest.approx(fit.fixef["Intercept"], abs=1e-4)
    assert other.sigma == pytest.approx(fit.sigma, rel=1e-4)
    for group in fit.sd:
        if "x" in fit.sd[group]:
            assert other.sd[group]["x"] == pytest.approx(fit.sd[group]["x"], rel=1e-3, abs=2e-4)
    np.testing.assert_allclose(other.fitted, fit.fitted, atol=1e-3)


@pytest.mark.parametrize("method", ["REML", "ML"])
def test_an_uncorrelated_term_does_depend_on_the_origin(method):
    data = table(1)
    fits = [bl.fit(bl.Model("y ~ x + (x || g)", data | {"x": data["x"] + shift}), method) for shift in (0.0, 5.0)]
    assert abs(fits[0].loglik - fits[1].loglik) > 0.1


@settings(max_examples=15)
@given(SEEDS)
def test_order_of_terms_does_not_matter(seed):
    data = table(seed)
    one = bl.fit(bl.Model("y ~ x + f + (1 | g) + (x | h)", data))
    two = bl.fit(bl.Model("y ~ f + x + (x | h) + (1 | g)", data))
    same(one, two, beta=one.fixef[two.fixef.index])


@settings(max_examples=10)
@given(SEEDS, st.sampled_from(["sum", "helmert", "poly"]))
def test_coding_of_a_fixed_factor_does_not_matter_to_ml(seed, coding):
    data = table(seed)
    one = bl.fit(bl.Model("y ~ f + (1 | g)", data), "ML")
    two = bl.fit(bl.Model("y ~ f + (1 | g)", data, contrasts={"f": coding}), "ML")
    cells = bl.fit(bl.Model("y ~ 0 + f + (1 | g)", data), "ML")
    for other in (two, cells):
        assert other.loglik == pytest.approx(one.loglik, abs=1e-8)
        np.testing.assert_allclose(other.fitted, one.fitted, atol=1e-4)
    assert cells.fixef.iloc[1] == pytest.approx(one.fixef.iloc[0] + one.fixef.iloc[1], rel=1e-5, abs=1e-6)


@settings(max_examples=10)
@given(SEEDS)
def test_coding_of_a_random_factor_does_not_matter(seed):
    """(f | g) spans the cells of f within g whatever the contrasts: the covariance is only written differently."""
    data = table(seed, n=200)
    fits = [
        bl.fit(bl.Model("y ~ 1 + (f | h)", data, contrasts=contrasts), "ML")
        for contrasts in (None, {"f": "sum"}, {"f": "helmert"})
    ]
    for other in fits[1:]:
        assert other.loglik == pytest.approx(fits[0].loglik, abs=1e-6)
        np.testing.assert_allclose(other.fitted, fits[0].fitted, atol=2e-3)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from(FORMULAS[:4]))
def test_two_rows_at_one_place_are_one_row_of_weight_two(seed, formula):
    """β and u at given theta: a row twice, or its mean once with weight 2. σ differs: the pair says more about it."""
    data = table(seed)
    twice = {key: np.repeat(column, 2) for key, column in data.items()}
    noise = np.random.default_rng(seed).normal(size=len(data["y"]))
    twice["y"] = twice["y"] + np.stack([noise, -noise], axis=1).ravel()
    pairs, means = bl.Model(formula, twice), bl.Model(formula, data, weights=np.full(len(noise), 2.0))
    theta = np.where(np.arange(means.n_theta) % 2, 0.3, 0.8)
    found = []
    for model in (pairs, means):
        at = model.gaussian.profile(theta)
        found.append(model.products.beta(at.beta))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9, atol=1e-9)
    assert pairs.gaussian.marginal(theta).logdet == pytest.approx(means.gaussian.marginal(theta).logdet, rel=1e-9)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from(FORMULAS), st.sampled_from(["REML", "ML"]))
def test_a_common_factor_of_the_weights_moves_into_sigma(seed, formula, method):
    data = table(seed)
    one, two = (bl.fit(bl.Model(formula, data, weights=data["w"] * c), method) for c in (1.0, 9.0))
    assert two.loglik == pytest.approx(one.loglik, abs=1e-7)
    assert two.sigma == pytest.approx(3 * one.sigma, rel=1e-5)
    np.testing.assert_allclose(two.theta * 3, one.theta, atol=2e-4)
    for group in one.sd:
        np.testing.assert_allclose(one.sd[group], two.sd[group], rtol=1e-4, atol=2e-4)


@settings(max_examples=10)
@given(SEEDS, st.sampled_from(FORMULAS))
def test_an_offset_is_taken_off_the_response(seed, formula):
    data = table(seed)
    offset = np.random.default_rng(seed).normal(size=len(data["y"])) * 10
    same(bl.fit(bl.Model(formula, data)), bl.fit(bl.Model(formula, data | {"y": data["y"] + offset}, offset=offset)))


def test_an_empty_row_adds_nothing(rng):
    data = table(3)
    blank = {key: np.append(column, column[:1]) for key, column in data.items()}
    blank["y"][-1] = np.nan
    model = bl.Model("y ~ x + (x | g)", blank)
    assert model.design.n_dropped == 1
    assert model.gaussian.deviance(np.array([0.5, 0.1, 0.4])) == bl.Model("y ~ x + (x | g)", data).gaussian.deviance(
        np.array([0.5, 0.1, 0.4])
    )
