"""Tables → designs: kinds of table, names, missing rows, rank, contrasts, nesting, new rows, size."""

import resource
import time

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from dense import of_design

import bayeslmm as bl
from bayeslmm.errors import DataError, UnseenLevelError

N = 24


def columns():
    rng = np.random.default_rng(0)
    return {
        "y": rng.normal(size=N).tolist(),
        "x": rng.normal(size=N).tolist(),
        "k": [i % 4 for i in range(N)],
        "g": ["b", "a", "c", "d", "e", "f"] * 4,
        "f": (["lo"] * 4 + ["mid"] * 4 + ["hi"] * 4) * 2,
        "t": [True, False] * 12,
        "w": [1.0, 2.0] * 12,
    }


def design(formula="y ~ x + (x | g)", data=None, **options):
    return bl.Model(formula, columns() if data is None else data, priors="flat", **options).design


TABLES = {
    "lists": lambda d: d,
    "arrays": lambda d: {k: np.array(v) for k, v in d.items()},
    "pandas": pd.DataFrame,
    "pandas with an index": lambda d: pd.DataFrame(d).set_index("k", drop=False).rename_axis(None),
    "pandas objects": lambda d: pd.DataFrame(d).astype(object),
    "pandas nullable": lambda d: pd.DataFrame(d).convert_dtypes(),
    "pandas on Arrow": lambda d: pd.DataFrame(d).convert_dtypes(dtype_backend="pyarrow"),
    "polars": pl.DataFrame,
    "arrow": pa.table,
    "series": lambda d: {k: pd.Series(v, index=range(5, 5 + N)) for k, v in d.items()},
}
FORMULA = "y ~ x + f + t + I(x**2) + offset(w) + (x | g) + (1 | k)"


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_gives_the_same_design(kind):
    want = design(FORMULA, weights="w")
    got = design(FORMULA, TABLES[kind](columns()), weights="w")
    assert got.fixed.names == want.fixed.names
    assert [(t.group, t.effects, t.levels) for t in got.random] == [(t.group, t.effects, t.levels) for t in want.random]
    for one, two in zip(of_design(got).__dict__.values(), of_design(want).__dict__.values(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_names_are_bambis():
    data = columns() | {"my f": columns()["f"]}
    names = design("y ~ x*f + t + poly(x, 2) + `my f`:x + np.exp(x)", data).fixed.names
    assert names[0] == "Intercept"
    assert {"f[lo]", "f[mid]", "t", "x", "x:f[lo]", "poly(x, 2)[2]", "np.exp(x)"} <= set(names)
    assert design("y ~ 0 + f").fixed.names == ("f[hi]", "f[lo]", "f[mid]")
    assert design("y ~ 1 + (f | k)").random[0].effects == ("Intercept", "f[lo]", "f[mid]")
    assert design("y ~ 1 + (0 + f | k)").random[0].effects == ("f[hi]", "f[lo]", "f[mid]")


def test_levels_of_a_categorical_keep_their_order():
    order = ["mid", "lo", "hi", "never"]
    data = pd.DataFrame(columns()).assign(f=lambda d: pd.Categorical(d["f"], categories=order))
    assert design("y ~ f", data).fixed.names == ("Intercept", "f[lo]", "f[hi]")
    assert design("y ~ 1 + (1 | f)", data).random[0].levels == ("mid", "lo", "hi")
    enum = pl.DataFrame(columns()).with_columns(pl.col("f").cast(pl.Enum(order)))
    assert design("y ~ f", enum).fixed.names == ("Intercept", "f[lo]", "f[hi]")
    assert design("y ~ 1 + (1 | f)", pa.table(columns())).random[0].levels == ("hi", "lo", "mid")


def test_numeric_groups_are_ordered_as_numbers():
    data = columns() | {"k": [float(i % 12) for i in range(N)]}
    assert design("y ~ 1 + (1 | k)", data).random[0].levels == tuple(str(i) for i in range(12))


MISSING = {
    "x": lambda d: d | {"x": [None, *d["x"][1:]]},
    "y": lambda d: d | {"y": [float("nan"), *d["y"][1:]]},
    "g": lambda d: d | {"g": [None, *d["g"][1:]]},
    "g as nan": lambda d: d | {"g": [float("nan"), *d["g"][1:]]},
    "t": lambda d: d | {"t": [None, *d["t"][1:]]},
    "masked": lambda d: d | {"x": np.ma.masked_array(d["x"], [True] + [False] * (N - 1))},
}


@pytest.mark.parametrize("where", MISSING)
@pytest.mark.parametrize("kind", ["lists", "polars", "arrow", "pandas"])
def test_a_missing_value_drops_its_row_and_is_counted(where, kind):
    data = MISSING[where](columns())
    if kind != "lists" and where == "masked":
        pytest.skip("masked arrays are NumPy's")
    if kind != "lists":
        data = TABLES[kind](data | {"g": [None if v != v else v for v in data["g"]]})
    got = design("y ~ x + t + (1 | g)", data)
    assert (got.nobs, got.n_dropped) == (N - 1, 1)
    np.testing.assert_array_equal(got.rows, np.arange(1, N))
    assert got.fixed.names == ("Intercept", "x", "t")
    assert "1 dropped" in str(bl.Model("y ~ x + t + (1 | g)", data))


def test_missing_values_elsewhere_do_not_count():
    assert design(data=columns() | {"other": [None] * N}).n_dropped == 0
    with pytest.raises(DataError, match=r"column 'x' has 1 missing values.*missing=\"drop\""):
        design(data=MISSING["x"](columns()), missing="error")


def test_missing_weights_and_offsets_drop_the_row_too():
    weights = np.ones(N)
    weights[3] = np.nan
    got = design(weights=weights, offset=np.arange(float(N)))
    assert got.n_dropped == 1
    assert got.offset.tolist() == [float(i) for i in range(N) if i != 3]


def test_a_level_only_in_dropped_rows_is_gone():
    data = columns()
    data["f"] = ["rare", *data["f"][1:]]
    data["x"] = [None, *data["x"][1:]]
    got = design("y ~ x + f + (1 | f)", data)
    assert got.fixed.names == ("Intercept", "x", "f[lo]", "f[mid]")
    assert got.random[0].levels == ("hi", "lo", "mid")


def test_dependent_columns_are_dropped_last_first_and_named():
    data = columns()
    data |= {"twice": [2 * v for v in data["x"]], "sum": [a + b for a, b in zip(data["x"], data["w"], strict=True)]}
    block = design("y ~ x + twice + w + sum", data).fixed
    assert block.names == ("Intercept", "x", "w")
    assert block.dropped == ("twice", "sum")
    assert np.isfinite(block.X).all()
    assert block.kept.tolist() == [0, 1, 3]
    fit = bl.fit(bl.Model("y ~ x + twice + w + sum + (1 | g)", data))
    want = bl.fit(bl.Model("y ~ x + w + (1 | g)", data))
    assert fit.loglik == pytest.approx(want.loglik, abs=1e-9)
    assert "twice, sum" in str(fit.model)


def test_a_large_mean_is_no_dependence():
    block = design("y ~ stamp", columns() | {"stamp": [1.7e9 + i for i in range(N)]}).fixed
    assert block.names == ("Intercept", "stamp")


def test_an_empty_cell_is_dropped():
    data = columns() | {"a": ["p", "q"] * 12, "b": ["r", "r", "r", "s"] * 6}
    block = design("y ~ a*b", data).fixed
    assert block.dropped == ("a[q]:b[s]",)
    assert block.names == ("Intercept", "a[q]", "b[s]")


CODINGS = {
    "treatment": [[0, 0], [1, 0], [0, 1]],
    "sum": [[1, 0], [0, 1], [-1, -1]],
    "helmert": [[-1, -1], [1, -1], [0, 2]],
    "poly": [[-np.sqrt(0.5), np.sqrt(1 / 6)], [0, -np.sqrt(2 / 3)], [np.sqrt(0.5), np.sqrt(1 / 6)]],
}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("formula", ["y ~ f", "y ~ (f)", "y ~ x + f", "y ~ `a factor`"])
def test_contrasts_are_rs(coding, formula):
    data = columns() | {"a factor": columns()["f"]}
    name = "a factor" if "`" in formula else "f"
    block = design(formula, data, contrasts={name: coding}).fixed
    levels = {"hi": 0, "lo": 1, "mid": 2}
    want = np.array([CODINGS[coding][levels[v]] for v in data["f"]])
    np.testing.assert_allclose(block.X[:, -2:], want, atol=1e-12)
    assert all(part.startswith(f"{name}[") for part in block.names[-2:])


def test_contrasts_reach_into_parentheses_and_random_terms():
    data = columns()
    crossed = design("y ~ (f + x)**2 + (f | k)", data, contrasts={"f": "sum"})
    assert set(np.unique(crossed.fixed.X[:, crossed.fixed.names.index("f[hi]")])) == {-1.0, 0.0, 1.0}
    assert crossed.random[0].effects == ("Intercept", "f[hi]", "f[lo]")
    written = design("y ~ C(f, contr.sum)", data, contrasts={"f": "helmert"})
    assert set(np.unique(written.fixed.X[:, 1])) == {-1.0, 0.0, 1.0}


def test_nested_groups():
    data = columns() | {"a": ["p", "q"] * 12, "b": ["1", "1", "2", "2", "3", "3"] * 4}
    one, two = design("y ~ 1 + (x | a/b)", data).random
    assert (one.group, two.group) == ("a", "b:a")
    assert two.levels == ("1:p", "1:q", "2:p", "2:q", "3:p", "3:q")
    assert [two.levels[c] for c in two.codes[:4]] == ["1:p", "1:q", "2:p", "2:q"]
    three = design("y ~ 1 + (1 | a/b/k)", data | {"k": [0] * 12 + [1] * 12}).random
    assert [t.group for t in three] == ["a", "b:a", "k:b:a"]


def test_codes_levels_and_columns_agree():
    data = columns()
    term = design("y ~ 1 + (x | g)", data).random[0]
    assert [term.levels[c] for c in term.codes] == data["g"]
    np.testing.assert_array_equal(term.columns, np.column_stack([np.ones(N), data["x"]]))
    assert term.size == 12


def test_offsets_add_up():
    data = columns()
    got = design("y ~ x + offset(w) + offset(2 * x)", data, offset="w")
    np.testing.assert_allclose(got.offset, 2 * np.array(data["w"]) + 2 * np.array(data["x"]))
    assert design().offset is None


def test_transformed_and_logical_responses():
    data = columns()
    np.testing.assert_allclose(design("np.exp(y) ~ x", data).y, np.exp(data["y"]))
    np.testing.assert_allclose(design("I(y + x) ~ 1", data).y, np.add(data["y"], data["x"]))
    assert design("t ~ x", data).y[:2].tolist() == [1.0, 0.0]
    assert design("y ~ x", data).response == "y"


# new rows


def test_old_rows_encode_to_the_same_columns():
    data = columns()
    old = design("y ~ x*f + poly(x, 2) + bs(x, df=5) + scale(x) + offset(w) + (x | g) + (0 + f | k)", data)
    new = old.encode(data)
    np.testing.assert_allclose(new.X, old.fixed.X, atol=1e-12)
    np.testing.assert_allclose(new.offset, data["w"])
    for term, matrix, codes in zip(old.random, new.columns, new.codes, strict=True):
        np.testing.assert_allclose(matrix, term.columns)
        np.testing.assert_array_equal(codes, term.codes)


def test_new_rows_use_the_old_knots_centres_and_levels():
    data = columns()
    old = design("y ~ scale(x) + f + (1 | g)", data)
    new = old.encode({"x": [0.0, 100.0], "f": ["mid", "mid"], "g": ["zz", "c"]})
    x = np.array(data["x"])
    want = {
        "Intercept": [1, 1],
        "scale(x)": (np.array([0, 100]) - x.mean()) / x.std(ddof=1),
        "f[lo]": [0, 0],
        "f[mid]": [1, 1],
    }
    np.testing.assert_allclose(new.X, np.column_stack([want[name] for name in old.fixed.names]))
    assert new.codes[0].tolist() == [-1, 2]
    assert new.labels[0].tolist() == ["zz", "c"]
    assert old.encode({"x": [1.0], "f": ["lo"]}, random=False).codes == ()


def test_new_rows_keep_a_dropped_column_dropped():
    data = columns() | {"twice": [2 * v for v in columns()["x"]]}
    old = design("y ~ x + twice + w", data)
    new = old.encode({"x": [1.0], "twice": [7.0], "w": [3.0]})
    assert new.X.tolist() == [[1.0, 1.0, 3.0]]


@pytest.mark.parametrize(
    "formula", ["y ~ f + (1 | g)", "y ~ x + (0 + f | g)", "y ~ x:f + (1 | g)", "y ~ C(f, contr.sum) + (1 | g)"]
)
def test_an_unseen_level_of_a_factor_is_an_error(formula):
    with pytest.raises(UnseenLevelError, match="new"):
        design(formula).encode({"x": [1.0, 2.0], "f": ["hi", "new"], "g": ["a", "b"]})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"x": [1.0]}, "no column 'g'"),
        ({"g": ["a"]}, "no column 'x'"),
        ({"x": [None, 1.0], "g": ["a", "b"]}, "column 'x' of the new data has missing values"),
        ({"x": [1.0, 2.0], "g": ["a"]}, "different lengths"),
    ],
)
def test_new_rows_that_lack_something(rows, message):
    with pytest.raises(DataError, match=message):
        design().encode(rows)


# size


@pytest.mark.slow
def test_a_million_rows_by_a_hundred_thousand_levels():
    """Integer codes throughout: seconds, and less than 1 GB beyond the table itself."""
    n, q = 1_000_000, 100_000
    rng = np.random.default_rng(0)
    g = rng.integers(0, q, n)
    g[:q] = np.arange(q)
    data = {"x": rng.normal(size=n), "g": g, "y": rng.normal(size=q)[g] + rng.normal(size=n)}
    bl.fit(bl.Model("y ~ x + (1 | g)", {k: v[:1000] for k, v in data.items()} | {"g": g[:1000] % 50}))  # kernels
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    model = bl.Model("y ~ x + (1 | g)", data)
    assert model.products.system.A11.shape == (q, 1, 1)
    assert time.perf_counter() - started < 20
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1e9
    fit = bl.fit(model)
    assert fit.converged
    assert fit.sd["g"]["Intercept"] == pytest.approx(1.0, abs=0.02)
