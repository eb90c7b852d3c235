"""Predictions and their errors against dense algebra, lme4's numbers, and draws that are known."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

import bayeslmm as bl
from bayeslmm import predict as predict_function
from bayeslmm.errors import BayesLMMError, DataError, MethodError, UnseenLevelError
from bayeslmm.result import PointFit, Result

Array = NDArray[np.float64]


def table(seed: int = 1, n: int = 60) -> pd.DataFrame:
    """Six groups g crossed with four groups h, k nested in g."""
    rng = np.random.default_rng(seed)
    g = np.concatenate([np.arange(6), rng.integers(0, 6, n - 6)])
    h = np.concatenate([np.arange(4), rng.integers(0, 4, n - 4)])
    x = rng.normal(size=n)
    y = 3.0 + x + 1.5 * rng.normal(size=6)[g] + rng.normal(size=4)[h] * x + 0.7 * rng.normal(size=6)[g] * x
    y = y + rng.normal(size=n)
    columns = {"g": g.astype(str), "h": h.astype(str), "k": (np.arange(n) % 3).astype(str)}
    return pd.DataFrame({"y": y, "x": x, "o": rng.normal(size=n), "w": rng.uniform(0.2, 5.0, n), **columns})


def many_levels() -> pd.DataFrame:
    """Ninety schools of three classes in thirty districts: the remainder is factored as a sparse matrix."""
    rng = np.random.default_rng(7)
    unit = np.repeat(np.arange(270), 2)
    effect = 2 * rng.normal(size=30)[unit // 9] + rng.normal(size=90)[unit // 3] + rng.normal(size=270)[unit]
    x = rng.normal(size=len(unit))
    columns = {"g": (unit // 9).astype(str), "h": (unit // 3).astype(str), "k": unit.astype(str)}
    return pd.DataFrame({"y": 1.0 + x + effect + rng.normal(size=len(unit)), "x": x, **columns})


CASES: dict[str, tuple[str, str | None]] = {
    "intercepts": ("y ~ x + (1 | g)", None),
    "slopes": ("y ~ x + (1 + x | g)", "w"),
    "two terms on one group": ("y ~ x + (1 | g) + (0 + x | g)", "w"),
    "crossed": ("y ~ x + offset(o) + (1 + x | h) + (1 | g)", "w"),
    "crossed slopes": ("y ~ x + (1 + x | g) + (0 + x | h)", None),
    "nested": ("y ~ x + (1 | g/k)", None),
    "no fixed effects": ("y ~ 0 + (1 + x | g)", None),
    "no random effects": ("y ~ x + offset(o)", "w"),
}


def fitted(case: str) -> PointFit:
    formula, weights = CASES[case]
    return bl.fit(bl.Model(formula, table(), priors="flat", weights=weights))


@pytest.fixture(params=CASES)
def point(request: pytest.FixtureRequest) -> PointFit:
    return fitted(request.param)


def new_rows(n: int = 25) -> pd.DataFrame:
    """Rows that pair levels which the data may never pair; g = 9 and h = 8 are new."""
    rng = np.random.default_rng(3)
    levels = {"g": rng.choice(list("0123459"), n), "h": rng.choice(list("01238"), n), "k": rng.choice(list("012"), n)}
    numbers = {"x": 3 * rng.normal(size=n), "o": rng.normal(size=n), "w": rng.uniform(0.2, 5.0, n)}
    return pd.DataFrame({**numbers, **levels}, index=np.arange(n)[::-1])


def dense_rows(model: Any, data: pd.DataFrame, every_group_new: bool = False) -> tuple[Array, Array, Array]:
    """X, Z for the fitted levels and the share z'Σz/σ² of the new ones, written out from the table."""
    names = {"Intercept": np.ones(len(data)), "x": data["x"].to_numpy()}
    X = np.column_stack([names[c] for c in model.design.fixed.names]) if model.X.shape[1] else np.empty((len(data), 0))
    Z, parts = np.zeros((len(data), model.Z.shape[1])), []
    start = 0
    for term in model.terms:
        labels = data[term.group.split(":")].agg(":".join, axis=1).to_numpy()
        columns = np.column_stack([names[e] for e in term.effects])
        new = np.array([every_group_new or label not in term.levels for label in labels])
        for row in np.flatnonzero(~new):
            at = start + term.levels.index(labels[row]) * len(term.effects)
            Z[row, at : at + len(term.effects)] = columns[row]
        parts.append((new, columns))
        start += term.size
    return X, Z, parts


def dense_answer(
    point: PointFit, data: pd.DataFrame, every_group_new: bool = False, prior: Array | None = None
) -> tuple[Array, Array]:
    """Mean (without offset) and variance from the covariance of (β̂ − β, û − u), a dense inverse of everything."""
    model = point.model
    n, (p, q) = model.design.nobs, (model.X.shape[1], model.Z.shape[1])
    weights = np.ones(n) if model.design.weights is None else model.design.weights
    L = model.Lambda(point.theta).toarray() if q else np.zeros((0, 0))
    T = np.hstack([model.X, model.Z.toarray() @ L])
    penalty = np.diag(np.r_[np.zeros(p), np.ones(q)])
    if prior is not None:
        penalty[:p, :p] = prior * point.sigma**2
    inverse = np.linalg.inv(T.T @ (weights[:, None] * T) + penalty)
    y = model.design.y - (0.0 if model.design.offset is None else model.design.offset)
    found = inverse @ T.T @ (weights * y)
    X, Z, parts = dense_rows(model, data, every_group_new)
    rows = np.hstack([X, Z @ L])
    variance = np.einsum("ni,ij,nj->n", rows, inverse, rows)
    for (new, columns), lam in zip(parts, model.factors(point.theta), strict=True):
        variance += np.where(new, ((columns @ lam) ** 2).sum(axis=1), 0.0)
    return rows @ found, point.sigma**2 * variance


def offset_of(model: Any, data: pd.DataFrame) -> Any:
    return data["o"].to_numpy() if model.formula.offsets else 0.0


def test_known_groups_are_predicted_as_the_dense_inverse_says(point: PointFit) -> None:
    found = bl.predict(point)
    mean, variance = dense_answer(point, table())
    assert_allclose(found["mean"], mean + offset_of(point.model, table()), rtol=1e-9, atol=1e-9)
    assert_allclose(found["se"] ** 2, variance, rtol=1e-8)
    assert_allclose(found["mean"], point.fitted, rtol=1e-12)
    assert found.index.equals(point.fitted.index)


def test_new_rows_with_new_levels_are_predicted_as_the_dense_inverse_says(point: PointFit) -> None:
    data = new_rows()
    found = bl.predict(point, data, unseen="new")
    mean, variance = dense_answer(point, data)
    assert_allclose(found["mean"], mean + offset_of(point.model, data), rtol=1e-9, atol=1e-9)
    assert_allclose(found["se"] ** 2, variance, rtol=1e-8)
    assert found.index.equals(data.index)


def test_new_groups_are_integrated_over(point: PointFit) -> None:
    data = new_rows()
    found = bl.predict(point, data, groups="new")
    X, _, parts = dense_rows(point.model, data, every_group_new=True)
    variance = np.einsum("ni,ij,nj->n", X, point.beta_covariance, X)
    for (_, columns), lam in zip(parts, point.model.factors(point.theta), strict=True):
        variance += point.sigma**2 * ((columns @ lam) ** 2).sum(axis=1)
    assert_allclose(found["mean"], X @ point.beta + offset_of(point.model, data), atol=1e-12)
    assert_allclose(found["se"] ** 2, variance, rtol=1e-10)


def test_the_population_has_the_fixed_part_only(point: PointFit) -> None:
    data = new_rows().drop(columns=["g", "h", "k"])
    found = bl.predict(point, data, groups="population")
    X = dense_rows(point.model, new_rows())[0]
    assert_allclose(found["mean"], X @ point.beta + offset_of(point.model, data), atol=1e-12)
    assert_allclose(found["se"] ** 2, np.einsum("ni,ij,nj->n", X, point.beta_covariance, X), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("groups", ["conditional", "population", "new"])
def test_a_new_observation_adds_the_residual_variance(groups: Any) -> None:
    point, data = fitted("slopes"), new_rows()
    mean = bl.predict(point, data, groups=groups, unseen="new")
    response = bl.predict(point, data, groups=groups, unseen="new", kind="response")
    assert_allclose(response["se"] ** 2 - mean["se"] ** 2, point.sigma**2 / data["w"], rtol=1e-9)
    own = bl.predict(point, groups=groups, kind="response")["se"] ** 2 - bl.predict(point, groups=groups)["se"] ** 2
    assert_allclose(own, point.sigma**2 / table()["w"], rtol=1e-9)


@pytest.mark.parametrize("crossed", [False, True])
def test_both_kinds_of_remainder(crossed: bool) -> None:
    data = many_levels()
    formula = "y ~ x + (1 + x | h) + (1 | g)" if crossed else "y ~ x + (1 | g) + (1 | h) + (1 | k)"
    point = bl.fit(bl.Model(formula, data))
    shuffled = data.assign(g=data["g"].sample(frac=1, random_state=1).to_numpy())
    for rows in (data, shuffled):
        mean, variance = dense_answer(point, rows)
        found = bl.predict(point, rows)
        assert_allclose(found["mean"], mean, rtol=1e-8)
        assert_allclose(found["se"] ** 2, variance, rtol=1e-8)


def test_the_remainders_above_are_of_both_kinds() -> None:
    nested = bl.Model("y ~ x + (1 | g) + (1 | h) + (1 | k)", many_levels()).products.structure
    assert nested.sparse
    assert nested.rest_size == 120
    assert not bl.Model("y ~ x + (1 | g) + (1 | h)", table()).products.structure.sparse


def test_the_prior_of_a_map_fit_enters_the_standard_error() -> None:
    normal = {"Intercept": bl.Prior("Normal", mu=0, sigma=1.5), "fixef": bl.Prior("Normal", mu=0.5, sigma=0.3)}
    point = bl.fit(bl.Model("y ~ x + (1 + x | g)", table(), priors=normal), "MAP")
    variance = dense_answer(point, table(), prior=np.diag([1.5**-2, 0.3**-2]))[1]
    assert_allclose(bl.predict(point)["se"] ** 2, variance, rtol=1e-8)
    assert_allclose(bl.predict(point)["mean"], point.fitted, rtol=1e-12)


def test_a_variance_of_zero_leaves_the_fixed_part() -> None:
    model = bl.Model("y ~ x + (1 + x | g)", table())
    point = bl.fit(model, fixed={"sd_g": 0.0})
    assert_allclose(bl.predict(point), bl.predict(point, groups="population"), rtol=1e-12)
    assert_allclose(bl.predict(point), bl.predict(point, groups="new"), rtol=1e-12)


def test_intervals_of_a_point_fit_are_normal() -> None:
    point = fitted("slopes")
    found = bl.predict(point, interval=0.8)
    z = NormalDist().inv_cdf(0.9)
    assert_allclose(found["upper"], found["mean"] + z * found["se"])
    assert_allclose(found["lower"], found["mean"] - z * found["se"])
    assert list(bl.predict(point, interval=None).columns) == ["mean", "se"]


def test_a_formula_without_predictors() -> None:
    point = bl.fit(bl.Model("y ~ 1 + (1 | g)", table()))
    assert_allclose(bl.predict(point, {"z": [1, 2, 3]}, groups="population")["mean"], np.full(3, point.beta[0]))


def test_the_order_of_rows_and_a_large_mean_do_not_matter() -> None:
    data = table()
    point = bl.fit(bl.Model("y ~ x + (1 + x | g)", data))
    moved = bl.fit(bl.Model("y ~ x + (1 + x | g)", data.assign(y=data["y"] + 1e6)))
    assert_allclose(bl.predict(moved)["mean"] - 1e6, bl.predict(point)["mean"], atol=1e-4)
    assert_allclose(bl.predict(moved)["se"], bl.predict(point)["se"], rtol=1e-4)
    turned = bl.predict(point, data.iloc[::-1])
    assert_allclose(turned.loc[data.index], bl.predict(point), rtol=1e-10)


def test_offsets_and_weights_of_new_rows() -> None:
    data, new = table(), new_rows()
    by_name = bl.fit(bl.Model("y ~ x + (1 | g)", data, offset="o", weights="w"))
    by_array = bl.fit(bl.Model("y ~ x + (1 | g)", data, offset=data["o"], weights=data["w"]))
    options: dict[str, Any] = {"groups": "population", "kind": "response"}
    expected = bl.predict(by_name, new, **options)
    assert_allclose(expected["mean"], by_name.beta[0] + by_name.beta[1] * new["x"] + new["o"])
    assert_allclose(bl.predict(by_array, new, offset=new["o"], weights="w", **options), expected, rtol=1e-10)
    flat = bl.predict(by_array, new, offset=0.0, weights=1.0, **options)
    assert_allclose(flat["mean"], expected["mean"] - new["o"])


def reference(root: Path, quantity: str) -> Array:
    entries = json.loads((root / "models/sleepstudy/reference.json").read_text())["entries"]
    wanted = {"variant": "uncorrelated", "method": "REML", "quantity": quantity}
    return np.array(next(e["value"] for e in entries if wanted.items() <= e.items()))


def test_the_lecture_numbers_of_sleepstudy(root: Path) -> None:
    point = bl.fit(bl.load(root / "models/sleepstudy/model.toml", variant="uncorrelated"))
    conditional, population = bl.predict(point)["mean"], bl.predict(point, groups="population")["mean"]
    assert_allclose(conditional[[0, 9, 10, 19]], [252.9178, 431.0348, 211.0312, 227.8442], atol=1e-4)
    assert_allclose(population[[0, 1, 9]], [251.4051, 261.8724, 345.6107], atol=1e-4)
    assert_allclose(conditional, reference(root, "fitted"), atol=2.6e-5)
    assert_allclose(population, reference(root, "population"), atol=2.6e-5)


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


def drawn(draws: int = 400) -> Drawn:
    rng = np.random.default_rng(5)
    model = bl.Model("y ~ x + (1 + x | g) + (1 | h)", table(), weights="w")
    given = {
        "fixef": rng.normal([3, 1], 0.2, (draws, 2)),
        "sd_g": rng.uniform(0.5, 1.5, (draws, 2)),
        "corr_g": rng.uniform(-0.9, 0.9, (draws, 1)),
        "sd_h": rng.uniform(0.5, 1.5, (draws, 1)),
        "ranef_g": rng.normal(size=(draws, 6, 2)),
        "ranef_h": rng.normal(size=(draws, 4, 1)),
        "sigma": rng.uniform(0.8, 1.2, draws),
    }
    return Drawn(model, given)


def eta(post: Drawn, data: pd.DataFrame) -> Array:
    """Linear predictor (draws, rows) with the effects of the known groups."""
    x, (g, h) = data["x"].to_numpy(), (data[c].astype(int).to_numpy() for c in "gh")
    design = np.stack([np.ones_like(x), x])
    u = np.where(g < 6, np.einsum("dnk,kn->dn", post.given["ranef_g"][:, g % 6], design), 0.0)
    v = np.where(h < 4, post.given["ranef_h"][:, h % 4, 0], 0.0)
    return post.given["fixef"] @ design + u + v


def test_a_posterior_predicts_by_its_draws() -> None:
    post, data = drawn(), table()
    found = bl.predict(post, interval=0.9)
    values = eta(post, data)
    assert_allclose(found["mean"], values.mean(axis=0))
    assert_allclose(found["se"], values.std(axis=0, ddof=1))
    assert_allclose(found[["lower", "upper"]].T, np.quantile(values, [0.05, 0.95], axis=0))
    fixed = post.given["fixef"] @ np.stack([np.ones(len(data)), data["x"]])
    assert_allclose(bl.predict(post, groups="population")["se"], fixed.std(axis=0, ddof=1))


def test_a_posterior_integrates_over_new_levels_and_residuals() -> None:
    post, data = drawn(), new_rows()
    found = bl.predict(post, data, unseen="new", kind="response", seed=1)
    sd, corr, x = post.given["sd_g"], post.given["corr_g"], data["x"].to_numpy()
    slope = sd[:, :1] ** 2 + 2 * corr * sd[:, :1] * sd[:, 1:] * x + sd[:, 1:] ** 2 * x**2
    extra = np.where(data["g"] == "9", slope, 0.0) + np.where(data["h"] == "8", post.given["sd_h"] ** 2, 0.0)
    extra = extra + post.given["sigma"][:, None] ** 2 / data["w"].to_numpy()
    values = eta(post, data)
    assert_allclose(found["mean"], values.mean(axis=0))
    assert_allclose(found["se"] ** 2, values.var(axis=0, ddof=1) + extra.mean(axis=0))


def test_simulated_quantiles_are_those_of_the_mixture() -> None:
    """Interval of a new group against the quantile of the normal mixture; binomial z below 4 for 25 rows x 2 ends."""
    post, data = drawn(4000), new_rows()
    found = bl.predict(post, data, groups="new", interval=0.8, seed=2)
    centre = post.given["fixef"] @ np.stack([np.ones(len(data)), data["x"]])
    sd, corr, x = post.given["sd_g"], post.given["corr_g"], data["x"].to_numpy()
    variance = sd[:, :1] ** 2 + 2 * corr * sd[:, :1] * sd[:, 1:] * x + sd[:, 1:] ** 2 * x**2 + post.given["sd_h"] ** 2
    cdf = np.vectorize(NormalDist().cdf)
    for end, level in (("lower", 0.1), ("upper", 0.9)):
        reached = cdf((found[end].to_numpy() - centre) / np.sqrt(variance)).mean(axis=0)
        assert np.abs(reached - level).max() < 4 * np.sqrt(level * (1 - level) / 4000)


def test_seeds_labels_and_slices_decide_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    post = drawn()
    data = pd.DataFrame({"x": [0.5, 0.5, 0.5], "g": ["9", "9", "7"], "h": ["0", "0", "0"], "w": [1.0, 1.0, 1.0]})
    found = bl.predict(post, data, unseen="new", seed=3)
    assert_array_equal(found.loc[0], found.loc[1])
    assert found.loc[2, "lower"] != found.loc[0, "lower"]
    assert_array_equal(found, bl.predict(post, data, unseen="new", seed=3))
    assert not found["lower"].equals(bl.predict(post, data, unseen="new", seed=4)["lower"])
    options: dict[str, Any] = {"unseen": "new", "kind": "response", "seed": 5}
    whole = bl.predict(post, new_rows(), **options)
    monkeypatch.setattr(sys.modules["bayeslmm.posterior_predict"], "MOST_AT_ONCE", 1200)
    assert_allclose(bl.predict(post, new_rows(), **options), whole, rtol=1e-12)


def test_a_sampled_posterior_agrees_with_its_own_tables() -> None:
    model = bl.Model("y ~ x + (1 + x | g)", table())
    post = bl.sample(model, draws=200, tune=200, chains=2, seed=1, progress=False)
    found = bl.predict(post, interval=0.5)
    assert_allclose(found["mean"], post.fitted, rtol=1e-8)
    assert (found["lower"] < found["mean"]).all()
    assert (found["mean"] < found["upper"]).all()
    wider = bl.predict(post, {"x": [1.0], "g": ["new"]}, unseen="new", seed=1)
    assert wider.loc[0, "se"] > bl.predict(post, {"x": [1.0], "g": ["1"]}).loc[0, "se"]


def arrays() -> PointFit:
    data = table()
    return bl.fit(bl.Model("y ~ x + (1 | g)", data, offset=data["o"], weights=data["w"]))


NEW = {"x": [0.1, 0.2], "g": ["0", "1"], "h": ["0", "1"], "w": [1.0, 2.0]}
MALFORMED: dict[str, tuple[type[BayesLMMError], str, dict[str, Any]]] = {
    "an unseen level": (UnseenLevelError, "'g' has level '9' in row 1", {"data": {**NEW, "g": ["0", "9"]}}),
    "an absent column": (DataError, "no column 'g'", {"data": {"x": [1.0]}}),
    "a missing value": (DataError, "'x' of the new data has missing", {"data": {**NEW, "x": [np.nan, 1.0]}}),
    "no rows": (DataError, "no rows", {"data": {"x": [], "g": []}}),
    "an absent weights column": (DataError, "no column 'w'", {"data": {"x": [1.0], "g": ["0"]}, "kind": "response"}),
    "a negative weight": (DataError, "row 1 has -2", {"data": NEW, "kind": "response", "weights": [1, -2]}),
    "weights of another length": (DataError, "2 rows", {"data": NEW, "kind": "response", "weights": [1, 2, 3]}),
    "weights that are words": (DataError, "must be numbers", {"data": NEW, "kind": "response", "weights": ["a", "b"]}),
    "a missing offset": (DataError, "offset has a missing", {"data": NEW, "offset": [np.nan, 1.0]}),
    "weights of a mean": (MethodError, 'kind="response"', {"data": NEW, "weights": [1, 2]}),
    "an offset of the fitted rows": (MethodError, "keep their own offset", {"offset": 1.0}),
    "groups": (MethodError, "groups='all' is not known", {"groups": "all"}),
    "kind": (MethodError, "kind='median'", {"kind": "median"}),
    "unseen": (MethodError, "unseen='drop'", {"unseen": "drop"}),
    "interval": (MethodError, "between 0 and 1", {"interval": 95}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_calls(case: str) -> None:
    error, message, options = MALFORMED[case]
    with pytest.raises(error, match=message):
        bl.predict(fitted("slopes"), **options)


@pytest.mark.parametrize("name", ["offset", "weights"])
def test_an_array_says_nothing_about_new_rows(name: str) -> None:
    given = {"offset": 0.0, "weights": 1.0}
    del given[name]
    with pytest.raises(MethodError, match=f"given its {name} as an array"):
        bl.predict(arrays(), NEW, kind="response", **given)


def test_what_predict_takes() -> None:
    with pytest.raises(MethodError, match="not Model; fit or sample first"):
        predict_function(bl.Model("y ~ x + (1 | g)", table()))
    with pytest.raises(MethodError, match="cannot seed"):
        bl.predict(drawn(), seed="today")
