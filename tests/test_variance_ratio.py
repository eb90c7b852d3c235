"""The exact test and interval of one variance beside any fixed part: dense algebra, R, coverage."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeslmm as bl
from bayeslmm.errors import ExactFitError, MethodError
from bayeslmm.refits import Refits


@pytest.fixture(autouse=True)
def at_root(root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def table(rng: np.random.Generator) -> pd.DataFrame:
    g = np.repeat(np.arange(7), [3, 8, 2, 5, 1, 6, 4])
    data = pd.DataFrame({"g": g, "x": rng.normal(50, 2, len(g)), "f": rng.choice(list("abc"), len(g))})
    data["t"] = 30.0 * rng.normal(size=len(g))
    return data.assign(y=data["t"] + 0.3 * data["x"] + rng.normal(size=7)[g] + rng.normal(size=len(g)))


def dense(model: bl.Model, gamma: float) -> tuple[float, tuple[int, int]]:
    """The pivot from n × n matrices and its degrees of freedom."""
    design = model.design
    root = np.ones(design.nobs) if design.weights is None else np.sqrt(design.weights)
    X, Z = model.X * root[:, None], model.Z.toarray() * root[:, None]
    y = (design.y - (0.0 if design.offset is None else design.offset)) * root
    y = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]  # S(γ) does not change, and keeps its digits
    both = np.hstack([X, Z])
    rank = np.linalg.matrix_rank(both)
    sse = float(((y - both @ np.linalg.lstsq(both, y, rcond=None)[0]) ** 2).sum())
    Vi = np.linalg.inv(np.eye(len(y)) + gamma * Z @ Z.T)
    S = float(y @ (Vi - Vi @ X @ np.linalg.solve(X.T @ Vi @ X, X.T @ Vi)) @ y)
    df = int(rank - X.shape[1]), int(len(y) - rank)
    return (S - sse) / df[0] / (sse / df[1]), df


@pytest.mark.parametrize("gamma", [0.0, 0.6, 40.0])
@pytest.mark.parametrize("formula", ["y ~ x + f + (1 | g)", "y ~ f + offset(t) + (0 + x | g)", "y ~ 0 + (1 | g)"])
@pytest.mark.parametrize("weighted", [False, True])
def test_pivot_is_the_dense_one(formula: str, gamma: float, weighted: bool, rng: np.random.Generator) -> None:
    data = table(rng)
    model = bl.Model(formula, data, weights=rng.uniform(0.3, 3, len(data)) if weighted else None)
    found = bl.variance_ratio(model)
    pivot, df = dense(model, gamma)
    assert found.df == df
    # a difference of two sums of squares: absolute in the units of the larger
    np.testing.assert_allclose(found.pivot(gamma), pivot, rtol=1e-8, atol=1e-8)


def test_at_zero_it_is_the_f_test_of_the_levels() -> None:
    # blend after treat: R's anova(lm(yield ~ treat + blend)), F 3.5044 on 4 and 12, p 0.04075
    found = bl.variance_ratio(bl.load("models/penicillin_blocks"))
    assert found.df == (4, 12)
    np.testing.assert_allclose([found.statistic, found.p], [3.5044, 0.04075], atol=5e-5)


def test_a_level_that_the_fixed_part_holds_is_no_degree_of_freedom(rng: np.random.Generator) -> None:
    data = table(rng).assign(first=lambda d: (d["g"] == 0).astype(float))
    found = bl.variance_ratio(bl.Model("y ~ first + (1 | g)", data))
    assert found.df == (5, len(data) - 7)


@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_interval_covers(gamma: float, rng: np.random.Generator) -> None:
    data = table(rng)
    design = Refits(bl.Model("y ~ x + f + (1 | g)", data))
    pivots, hits = [], []
    for _ in range(300):
        y = 2.0 * data["x"] + np.sqrt(gamma) * rng.normal(size=7)[data["g"]] + rng.normal(size=len(data))
        found = bl.variance_ratio(design.model(y.to_numpy()))
        pivots.append(found.pivot(gamma))
        lower, upper = found.confint(0.8).loc["gamma"]
        hits.append(lower <= gamma <= upper)
    assert stats.kstest(pivots, stats.f(*found.df).cdf).pvalue > 0.001
    assert abs(np.mean(hits) - 0.8) < 4 * np.sqrt(0.16 / 300)  # four Monte Carlo errors


def test_ends_are_where_the_pivot_meets_its_quantiles(rng: np.random.Generator) -> None:
    found = bl.variance_ratio(bl.load("models/sleepstudy").update("Reaction ~ Days + (0 + Days | Subject)"))
    lower, upper = found.confint(0.9).loc["gamma"]
    assert list(found.confint().index) == ["gamma"]
    np.testing.assert_allclose(
        [found.pivot(lower), found.pivot(upper)], stats.f.isf([0.05, 0.95], *found.df), rtol=1e-8
    )
    assert lower < float(bl.fit(found.model, "REML").theta[0] ** 2) < upper


@pytest.mark.parametrize(
    ("formula", "error", "says"),
    [
        ("y ~ x + (x | g)", MethodError, "one random term with one effect"),
        ("y ~ x + (1 | g) + (1 | f)", MethodError, "one random term with one effect"),
        ("y ~ x", MethodError, "one random term with one effect"),
        ("y ~ C(g) + (1 | g)", MethodError, "tells the levels of 'g' apart"),
    ],
)
def test_what_has_no_meaning_is_refused(
    formula: str, error: type[Exception], says: str, rng: np.random.Generator
) -> None:
    with pytest.raises(error, match=says):
        bl.variance_ratio(bl.Model(formula, table(rng)))


def test_no_residual_is_refused() -> None:
    model = bl.Model("y ~ x + (1 | g)", {"y": [1.0, 2, 5, 6, 9, 10], "x": [0, 1, 0, 1, 0, 1], "g": list("aabbcc")})
    with pytest.raises(ExactFitError, match="no residual"):
        bl.variance_ratio(model)


def test_page_prints() -> None:
    found = bl.variance_ratio(bl.load("models/wool"))
    assert "F(6, 21)" in str(found)
    assert "<table>" in found._repr_html_()
