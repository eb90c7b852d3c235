"""Simulated responses against the moments that the model states, their seeds, and malformed calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

import bayeslmm as bl
from bayeslmm.errors import BayesLMMError, DataError, MethodError
from bayeslmm.result import PointFit, Result

Array = NDArray[np.float64]
SIMULATIONS = 20_000
# Largest |z| allowed among 12 means and 78 covariances: a right program exceeds it once in 1,600 seeds.
Z = 4.5


def table(seed: int = 2, n: int = 40) -> pd.DataFrame:
    """Five groups g crossed with three groups h."""
    rng = np.random.default_rng(seed)
    g = np.concatenate([np.arange(5), rng.integers(0, 5, n - 5)])
    h = np.concatenate([np.arange(3), rng.integers(0, 3, n - 3)])
    x = rng.normal(size=n)
    y = 3.0 + x + rng.normal(size=5)[g] + rng.normal(size=5)[g] * x + rng.normal(size=3)[h] + rng.normal(size=n)
    columns = {"g": g.astype(str), "h": h.astype(str)}
    return pd.DataFrame({"y": y, "x": x, "o": 5 * rng.normal(size=n), "w": rng.uniform(0.2, 5.0, n), **columns})


FORMULA = "y ~ x + offset(o) + (1 + x | g) + (1 | h)"
PARAMETERS: dict[str, Any] = {
    "fixef": {"x": -1.0, "Intercept": 2.0},
    "sd_g": [0.8, 1.2],
    "corr_g": {"Intercept, x": -0.6},
    "sd_h": 0.7,
    "sigma": 0.5,
}
TWELVE = slice(0, 12)


def model() -> bl.Model:
    return bl.Model(FORMULA, table(), weights="w")


def point() -> PointFit:
    return bl.fit(model())


def check_moments(simulated: pd.DataFrame, mean: Array, covariance: Array) -> None:
    """Means and products of deviations, each with its own Monte Carlo error."""
    values = simulated.to_numpy()
    count = values.shape[1]
    z = (values.mean(axis=1) - mean) / (values.std(axis=1) / np.sqrt(count))
    assert np.abs(z).max() < Z
    off = values - mean[:, None]
    for i in range(len(off)):
        products = off[i] * off[i:]
        z = (products.mean(axis=1) - covariance[i, i:]) / (products.std(axis=1) / np.sqrt(count))
        assert np.abs(z).max() < Z


def same(a: Any, b: Any) -> Array:
    """Which pairs of rows share a level."""
    return np.asarray(a)[:, None] == np.asarray(b)[None, :]


def covariance_of(data: pd.DataFrame, sigma_g: Array, var_h: float, sigma: float, new: Any = None) -> Array:
    """V from the table; with `new`, only levels in it vary."""
    design = np.column_stack([np.ones(len(data)), data["x"]])
    varies = {c: np.ones(len(data), bool) if new is None else data[c].isin(new).to_numpy() for c in "gh"}
    g = same(data["g"], data["g"]) * np.outer(varies["g"], varies["g"]) * (design @ sigma_g @ design.T)
    h = same(data["h"], data["h"]) * np.outer(varies["h"], varies["h"]) * var_h
    return np.asarray(g + h + np.diag(sigma**2 / data["w"]))


def fixed_part(beta: Array, data: pd.DataFrame) -> Array:
    return np.asarray(beta[0] + beta[1] * data["x"] + data["o"])


def group_covariance(fit: Any) -> tuple[Array, float]:
    sd = fit.sd["g"].to_numpy()
    return sd[:, None] * fit.corr["g"].to_numpy() * sd, float(fit.sd["h"].iloc[0]) ** 2


def test_a_model_with_given_parameters_has_the_stated_moments() -> None:
    data = table()
    off = -0.6 * 0.8 * 1.2
    V = covariance_of(data, np.array([[0.64, off], [off, 1.44]]), 0.49, 0.5)
    found = bl.simulate(model(), SIMULATIONS, seed=1, parameters=PARAMETERS)
    check_moments(found.iloc[TWELVE], fixed_part(np.array([2.0, -1.0]), data)[TWELVE], V[TWELVE, TWELVE])


def test_a_fit_draws_new_effects() -> None:
    fit, data = point(), table()
    V = covariance_of(data, *group_covariance(fit), fit.sigma)
    found = bl.simulate(fit, SIMULATIONS, seed=2)
    check_moments(found.iloc[TWELVE], fixed_part(fit.beta, data)[TWELVE], V[TWELVE, TWELVE])
    assert found.index.equals(fit.fitted.index)


def test_a_fit_keeps_its_effects_if_asked() -> None:
    fit, data = point(), table()
    found = bl.simulate(fit, SIMULATIONS, seed=3, groups="conditional")
    residual = np.diag(fit.sigma**2 / data["w"][TWELVE])
    check_moments(found.iloc[TWELVE], fit.fitted.to_numpy()[TWELVE], residual)


def new_rows() -> pd.DataFrame:
    """Twelve rows, g = 8 and 9 and h = 7 not fitted."""
    return table(seed=9, n=12).assign(g=list("012348898989"), h=list("012012777012")).drop(columns="y")


def test_new_rows_keep_known_effects_and_draw_new_ones() -> None:
    fit, data = point(), new_rows()
    mean = bl.predict(fit, data, unseen="new")["mean"].to_numpy()
    V = covariance_of(data, *group_covariance(fit), fit.sigma, new=list("789"))
    check_moments(bl.simulate(fit, SIMULATIONS, seed=4, groups="conditional", data=data), mean, V)


def test_new_rows_with_all_effects_new() -> None:
    fit, data = point(), new_rows()
    V = covariance_of(data, *group_covariance(fit), fit.sigma)
    check_moments(bl.simulate(fit, SIMULATIONS, seed=5, data=data), fixed_part(fit.beta, data), V)


@dataclass(frozen=True, eq=False)
class Drawn(Result):
    """A posterior of given draws."""

    model: Any
    given: Mapping[str, Array] = field(default_factory=dict)

    def draws(self, name: str) -> Array:
        return self.given[name]

    group_sd = group_corr = group_ranef = property(lambda self: {})
    n_draws = property(lambda self: len(self.given["sigma"]))

    def summary(self) -> str:
        return ""


def drawn(draws: int = 300) -> Drawn:
    rng = np.random.default_rng(5)
    given = {
        "fixef": rng.normal([3, 1], 0.5, (draws, 2)),
        "sd_g": rng.uniform(0.5, 1.5, (draws, 2)),
        "corr_g": rng.uniform(-0.9, 0.9, (draws, 1)),
        "sd_h": rng.uniform(0.5, 1.5, (draws, 1)),
        "ranef_g": rng.normal(size=(draws, 5, 2)),
        "ranef_h": rng.normal(size=(draws, 3, 1)),
        "sigma": rng.uniform(0.3, 1.2, draws),
    }
    return Drawn(model(), given)


@pytest.mark.parametrize("groups", ["new", "conditional"])
def test_a_posterior_lends_one_draw_to_each_simulation(groups: Any) -> None:
    post, data = drawn(), table()
    x, g, h = data["x"].to_numpy(), data["g"].astype(int), data["h"].astype(int)
    eta = post.given["fixef"] @ np.stack([np.ones(len(x)), x]) + data["o"].to_numpy()
    V = np.diag((post.given["sigma"] ** 2).mean() / data["w"])
    if groups == "new":
        (a, b), c = post.given["sd_g"].T, post.given["corr_g"][:, 0]
        sigma_g = np.array([[np.mean(a**2), np.mean(a * b * c)], [np.mean(a * b * c), np.mean(b**2)]])
        V = covariance_of(data, sigma_g, np.mean(post.given["sd_h"] ** 2), np.sqrt(np.mean(post.given["sigma"] ** 2)))
    else:
        eta = eta + post.given["ranef_g"][:, g, 0] + post.given["ranef_g"][:, g, 1] * x + post.given["ranef_h"][:, h, 0]
    V = V + np.cov(eta.T, ddof=0)
    found = bl.simulate(post, SIMULATIONS, seed=6, groups=groups)
    check_moments(found.iloc[TWELVE], eta.mean(axis=0)[TWELVE], V[TWELVE, TWELVE])


def test_no_draw_is_used_twice_while_they_last() -> None:
    post = drawn(50)
    quiet = {name: np.zeros_like(v) for name, v in post.given.items()} | {"fixef": np.arange(100.0).reshape(50, 2)}
    found = bl.simulate(Drawn(post.model, quiet), 50, seed=1)
    first = found.iloc[0] - table()["o"][0]
    assert_allclose(np.sort(first), np.sort(quiet["fixef"] @ [1.0, table()["x"][0]]))


def test_a_sampled_posterior_simulates() -> None:
    source = bl.sample(bl.Model("y ~ x + (1 + x | g)", table()), draws=100, tune=200, chains=2, seed=1, progress=False)
    for groups in ("new", "conditional"):
        found = bl.simulate(source, 7, seed=1, groups=groups)
        assert found.shape == (40, 7)
        assert np.isfinite(found.to_numpy()).all()


def test_the_seed_decides() -> None:
    for source, options in ((point(), {}), (model(), {"parameters": PARAMETERS}), (drawn(), {})):
        first = bl.simulate(source, 3, seed=1, **options)
        assert_array_equal(first, bl.simulate(source, 3, seed=1, **options))
        assert_array_equal(first, bl.simulate(source, 3, seed=np.random.default_rng(1), **options))
        assert not np.isclose(first, bl.simulate(source, 3, seed=2, **options)).any()
        assert list(first.columns) == ["sim_1", "sim_2", "sim_3"]
        assert not np.isclose(first["sim_1"], first["sim_2"]).any()


def test_parameters_may_be_arrays_mappings_or_tables_of_a_fit() -> None:
    fit = point()
    ordered = {"fixef": [2.0, -1.0], "sd_g": np.array([0.8, 1.2]), "corr_g": -0.6, "sd_h": [0.7], "sigma": 0.5}
    expected = bl.simulate(model(), 2, seed=1, parameters=PARAMETERS)
    assert_array_equal(bl.simulate(model(), 2, seed=1, parameters=ordered), expected)
    own = {"fixef": fit.fixef, "sd_g": fit.sd["g"], "sd_h": fit.sd["h"], "sigma": fit.sigma}
    own["corr_g"] = fit.corr["g"].loc["Intercept", "x"]
    found = bl.simulate(fit.model, 2, seed=1, parameters=own)
    assert_allclose(found, bl.simulate(fit, 2, seed=1), rtol=1e-12)


def test_models_without_random_or_fixed_effects() -> None:
    linear = bl.simulate(bl.Model("y ~ x", table()), 2, seed=1, parameters={"fixef": [1.0, 2.0], "sigma": 1e-9})
    assert_allclose(linear["sim_1"], 1.0 + 2.0 * table()["x"], atol=1e-7)
    only = bl.simulate(bl.Model("y ~ 0 + (1 | g)", table()), 2, seed=1, parameters={"sd_g": 1.0, "sigma": 1e-9})
    assert only["sim_1"].round(6).nunique() == 5


def test_a_refit_recovers_the_parameters() -> None:
    """Sixty groups of ten: estimates within 4 standard errors of the truth that was simulated."""
    rng = np.random.default_rng(8)
    data = pd.DataFrame({"x": rng.normal(size=600), "g": np.repeat(np.arange(60), 10), "y": rng.normal(size=600)})
    truth = {"fixef": [1.0, -2.0], "sd_g": [1.5, 0.5], "corr_g": 0.3, "sigma": 0.8}
    source = bl.Model("y ~ x + (1 + x | g)", data)
    refit = bl.fit(source.update(data=data.assign(y=bl.simulate(source, seed=3, parameters=truth)["sim_1"])))
    assert (np.abs(refit.fixef - truth["fixef"]) < 4 * refit.se).all()
    assert_allclose(refit.sigma, 0.8, rtol=4 / np.sqrt(2 * 480))
    assert_allclose(refit.sd["g"], truth["sd_g"], rtol=4 / np.sqrt(2 * 60))


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in PARAMETERS.items() if key != name}


MALFORMED: dict[str, tuple[type[BayesLMMError], str, dict[str, Any]]] = {
    "no parameters": (MethodError, r"lacks fixef \(Intercept, x\); sd_g .*; sigma", {}),
    "a parameter missing": (MethodError, r"lacks corr_g \(Intercept, x\)", {"parameters": without("corr_g")}),
    "an unknown parameter": (MethodError, "no parameter sd_Subject", {"parameters": {**PARAMETERS, "sd_Subject": 1}}),
    "not a mapping": (MethodError, "must be a mapping", {"parameters": [1.0, 2.0]}),
    "a wrong length": (MethodError, r"sd_g has shape \(1,\)", {"parameters": {**PARAMETERS, "sd_g": 1.0}}),
    "a wrong entry": (MethodError, "fixef has entries a", {"parameters": {**PARAMETERS, "fixef": {"a": 1}}}),
    "words": (MethodError, "sd_h must hold numbers", {"parameters": {**PARAMETERS, "sd_h": "large"}}),
    "not finite": (MethodError, "sd_h must be finite", {"parameters": {**PARAMETERS, "sd_h": np.nan}}),
    "a negative sd": (MethodError, "cannot be negative", {"parameters": {**PARAMETERS, "sd_h": -1.0}}),
    "no residual": (MethodError, "sigma is 0", {"parameters": {**PARAMETERS, "sigma": 0.0}}),
    "a correlation": (MethodError, "no correlation matrix", {"parameters": {**PARAMETERS, "corr_g": 1.2}}),
    "nsim": (MethodError, "nsim=0", {"parameters": PARAMETERS, "nsim": 0}),
    "half a simulation": (MethodError, "nsim=1.5", {"parameters": PARAMETERS, "nsim": 1.5}),
    "groups": (MethodError, "groups='old'", {"parameters": PARAMETERS, "groups": "old"}),
    "effects of a model": (MethodError, "no effects", {"parameters": PARAMETERS, "groups": "conditional"}),
    "a seed": (MethodError, "cannot seed", {"parameters": PARAMETERS, "seed": -1}),
    "an absent column": (DataError, "no column", {"parameters": PARAMETERS, "data": {"x": [1.0]}}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_calls(case: str) -> None:
    error, message, options = MALFORMED[case]
    with pytest.raises(error, match=message):
        bl.simulate(model(), **options)


def test_what_simulate_takes() -> None:
    with pytest.raises(MethodError, match="not str"):
        bl.simulate("y ~ x")
    with pytest.raises(MethodError, match="its own parameters"):
        bl.simulate(point(), parameters=PARAMETERS)
    by_array = bl.fit(bl.Model("y ~ x + (1 | g)", table(), weights=table()["w"]))
    with pytest.raises(MethodError, match="weights as an array"):
        bl.simulate(by_array, data=new_rows())
    assert bl.simulate(by_array, data=new_rows(), weights="w").shape == (12, 1)
