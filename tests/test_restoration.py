"""What is computed from stored draws on request: effects that were not kept, and likelihoods by group."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

import bayeslmm as bl
from bayeslmm import restoration
from bayeslmm.direct import Direct
from bayeslmm.errors import MethodError


@pytest.fixture(scope="module")
def nested():
    """Classes in schools, slopes over schools, weights and an offset."""
    rng = np.random.default_rng(5)
    n, school = 120, np.arange(120) // 20
    data = {"school": school, "class": np.arange(n) // 5, "x": rng.normal(size=n), "o": rng.normal(size=n)}
    data["y"] = 2 + data["x"] + rng.normal(size=6)[school] + rng.normal(size=24)[data["class"]] + rng.normal(size=n)
    model = bl.Model("y ~ x + offset(o) + (x | school) + (1 | class)", data, weights=rng.uniform(0.5, 2, n))
    return bl.sample(model, draws=20, tune=150, chains=2, seed=3, progress=False)


def test_likelihood_by_group_is_the_dense_density_of_its_rows(nested):
    values = bl.group_log_likelihood(nested)
    assert values.dims == ("chain", "draw", "school")
    model = nested.model
    codes = next(term.codes for term in model.design.random if term.group == "school")
    for chain, draw in ((0, 0), (1, 7)):
        point = nested.data["posterior"].isel(chain=chain, draw=draw)
        sigma, r = float(point["sigma"]), float(point["corr_school"][0])
        sd = {group: point[f"sd_{group}"].values for group in model.groups}
        corr = {"school": np.array([[1, r], [r, 1]]), "class": np.eye(1)}
        theta = np.concatenate([t.covariance.from_natural(sd[t.group], corr[t.group], sigma) for t in model.terms])
        ZL = (model.Z @ model.Lambda(theta)).toarray()
        V = sigma**2 * (ZL @ ZL.T + np.diag(1 / model.design.weights))
        mean = model.design.offset + model.X @ point["fixef"].values
        for level in range(6):
            rows = np.flatnonzero(codes == level)
            expected = multivariate_normal(mean[rows], V[np.ix_(rows, rows)]).logpdf(model.design.y[rows])
            assert float(values[chain, draw, level]) == pytest.approx(expected, rel=1e-9)


def test_crossed_groups_have_no_likelihood_by_group():
    rng = np.random.default_rng(1)
    data = {"y": rng.normal(size=40), "a": np.arange(40) % 5, "b": np.arange(40) // 10}
    post = bl.sample(bl.Model("y ~ 1 + (1 | a) + (1 | b)", data), draws=5, tune=20, chains=1, seed=1, progress=False)
    with pytest.raises(MethodError, match="crossed"):
        bl.group_log_likelihood(post)


def test_effects_that_were_not_kept_come_back_on_request(nested, monkeypatch):
    model = nested.model
    monkeypatch.setattr(restoration, "MOST_EFFECT_DRAWS", 0)
    monkeypatch.setattr(restoration, "RESTORE_AT_ONCE", 7 * (2 + len(Direct(model).system.B)))
    lean = bl.sample(model, draws=20, tune=150, chains=2, seed=3, progress=False)
    assert "ranef_school" not in lean.data["posterior"].data_vars
    with pytest.raises(MethodError, match="not kept"):
        lean.draws("ranef_school")
    draws = bl.ranef_draws(lean, "school")
    np.testing.assert_allclose(draws.mean(axis=0), lean.ranef["school"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(draws.std(axis=0, ddof=1), lean.ranef_sd["school"], rtol=1e-9)
    np.testing.assert_array_equal(bl.ranef_draws(lean, "school", slice(11, 30, 3)), draws[11:30:3])
    with pytest.raises(MethodError, match="no group"):
        bl.ranef_draws(lean, "district")
