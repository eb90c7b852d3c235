"""Analysis of variance in every order of crossed factors, beside the mixed model: dense algebra, R, unbiasedness."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.decomposition import _moments, _remainders
from bayeslmm.errors import MethodError
from bayeslmm.refits import Refits


@pytest.fixture(autouse=True)
def at_root(root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def patents(rng: np.random.Generator, n: int = 240, sd: tuple[float, ...] = (1.0, 1.0, 1.0)) -> pd.DataFrame:
    """Applicants that file in few technologies, each examined by few examiners."""
    a = rng.integers(12, size=n)
    e = (a // 3 + rng.integers(3, size=n)) % 6
    t = (e + rng.integers(2, size=n)) % 4
    y = sd[0] * rng.normal(size=12)[a] + sd[1] * rng.normal(size=6)[e] + sd[2] * rng.normal(size=4)[t]
    return pd.DataFrame({"y": y + rng.normal(size=n), "a": a, "e": e, "t": t, "x": rng.normal(size=n)})


def sums_of_squares(model: bl.Model, order: tuple[str, ...]) -> np.ndarray:
    """Residual sums of squares as the factors enter, by least squares on indicator columns."""
    columns, y, found = model.X, model.design.y, []
    terms = {t.group: np.eye(len(t.levels))[t.codes] for t in model.design.random}
    for name in (None, *order):
        columns = columns if name is None else np.hstack([columns, terms[name]])
        found.append(((y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]) ** 2).sum())
    return np.array(found)


@pytest.mark.parametrize("fixed", ["1", "x"])
def test_sequential_sums_are_least_squares(fixed: str, rng: np.random.Generator) -> None:
    model = bl.Model(f"y ~ {fixed} + (1 | a) + (1 | e) + (1 | t)", patents(rng).assign(y=lambda d: d["y"] + 1e4))
    found = bl.decomposition(bl.fit(model, "REML"))
    assert len(found.sequential) == 6
    for order in permutations("aet"):
        left = sums_of_squares(model, order)
        row = found.sequential.loc[" → ".join(order)]
        np.testing.assert_allclose(row[list(order)], -np.diff(left) / left[0], rtol=1e-8)
        np.testing.assert_allclose(row["Residual"], left[-1] / left[0], rtol=1e-8)


def test_moments_solve_dense_expectations(rng: np.random.Generator) -> None:
    model = bl.Model("y ~ x + (1 | a) + (1 | e) + (1 | t)", patents(rng))
    Z = {t.group: np.eye(len(t.levels))[t.codes] for t in model.design.random}
    left = _remainders(model)
    for subset, found in left.items():
        columns = np.hstack([model.X, *(Z[model.groups[k]] for k in subset)])
        M = np.eye(len(columns)) - columns @ np.linalg.pinv(columns)
        traces = [np.trace(Z[group].T @ M @ Z[group]) for group in model.groups]
        np.testing.assert_allclose(found.traces, traces, rtol=1e-9, atol=1e-7)
        assert found.df == round(np.trace(M))


@pytest.mark.slow
def test_moments_are_unbiased_in_every_order() -> None:
    rng = np.random.default_rng(11)
    data = patents(rng)
    sd = {"a": 0.5, "e": 1.0, "t": 0.8}
    design = Refits(bl.Model("y ~ 1 + (1 | a) + (1 | e) + (1 | t)", data))
    names, reps, first = design.base.groups, 300, []
    for _ in range(reps):
        y = sum(s * rng.normal(size=12)[data[g]] for g, s in sd.items()) + rng.normal(size=len(data))
        left = _remainders(design.model(np.asarray(y)))
        rows = []
        for order in permutations(range(3)):
            chain = [left[frozenset(order[:i])] for i in range(4)]
            matrix = np.array([[*step.traces, step.df] for step in chain])
            unit = np.abs(np.asarray(y)).max() ** 2
            rows.append(np.linalg.solve(matrix, [step.ss * unit for step in chain]))
            np.testing.assert_allclose(_moments(chain), rows[-1] / rows[-1].sum(), rtol=1e-9)
        first.append(rows)
    values = np.array(first)
    truth = np.array([*(sd[name] ** 2 for name in names), 1.0])
    error = values.std(axis=0, ddof=1) / np.sqrt(reps)
    assert (np.abs(values.mean(axis=0) - truth) < 4.5 * error).all()  # 24 means, four and a half Monte Carlo errors


def test_balanced_crossed_factors_have_no_order_and_agree_with_reml() -> None:
    fit = bl.fit(bl.load("models/penicillin"), "REML")
    found = bl.decomposition(fit)
    np.testing.assert_allclose(found.sequential.iloc[0], found.sequential.iloc[1], rtol=1e-10)
    # balanced and inside the boundary: the analysis-of-variance estimates are REML's; theta to 1e-6 at the optimum
    np.testing.assert_allclose(found.moments.iloc[0], found.mixed, rtol=1e-5)
    assert "orthogonal" in str(found)


def test_a_nested_factor_leaves_nothing_to_the_one_around_it() -> None:
    found = bl.decomposition(bl.fit(bl.load("models/pastes"), "REML"))
    assert found.sequential.loc["cask:batch → batch", "batch"] == 0.0
    assert found.moments.loc["cask:batch → batch"].isna().all()
    np.testing.assert_allclose(found.moments.loc["batch → cask:batch"], found.mixed, rtol=1e-5)  # balanced


def test_only_the_order_moves_the_analysis_of_variance(rng: np.random.Generator) -> None:
    data = patents(rng)
    one = bl.decomposition(bl.fit(bl.Model("y ~ 1 + (1 | a) + (1 | e) + (1 | t)", data), "REML"))
    two = bl.decomposition(bl.fit(bl.Model("y ~ 1 + (1 | t) + (1 | a) + (1 | e)", data), "REML"))
    spread = one.sequential.max() - one.sequential.min()
    assert (spread[list("aet")] > 0.05).all()
    pd.testing.assert_series_equal(one.mixed, two.mixed[one.mixed.index], rtol=1e-5)
    np.testing.assert_allclose(
        one.sequential, two.sequential.loc[one.sequential.index, one.sequential.columns], rtol=1e-10
    )


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("y ~ 1 + (1 | a)", "1 random factors"),
        ("y ~ 1 + (x | a) + (1 | e)", "must be"),
        ("y ~ 1 + (0 + x | a) + (1 | e)", "must be"),
    ],
)
def test_other_models_are_refused(formula: str, says: str, rng: np.random.Generator) -> None:
    with pytest.raises(MethodError, match=says):
        bl.decomposition(bl.fit(bl.Model(formula, patents(rng)), "REML"))


def test_weights_and_strangers_are_refused(rng: np.random.Generator) -> None:
    data = patents(rng)
    fit = bl.fit(bl.Model("y ~ 1 + (1 | a) + (1 | e)", data, weights=np.full(len(data), 2.0)), "REML")
    with pytest.raises(MethodError, match="weights="):
        bl.decomposition(fit)
    with pytest.raises(MethodError, match="got DataFrame"):
        bl.decomposition(data)
