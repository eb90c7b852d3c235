"""Malformed formulas, tables, options and calls: which error, and the piece of its message that says what to do."""

import warnings

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.errors import (
    BayesLMMError,
    DataError,
    ExactFitError,
    FormulaError,
    ImproperPosteriorError,
    MethodError,
    NotSupportedError,
    PriorError,
    SpecificationError,
    UnseenLevelError,
)

N = 60


def table(**changes):
    rng = np.random.default_rng(0)
    columns = {
        "y": rng.normal(size=N),
        "x": rng.normal(size=N),
        "zero": np.zeros(N),
        "g": np.arange(N) % 6,
        "h": np.arange(N) % 2,
        "row": np.arange(N),
        "f": np.array(["a", "b", "c"])[np.arange(N) % 3],
        "same": np.array(["only"] * N),
    }
    return columns | changes


def with_value(column, value, row=3):
    data = table()
    data[column] = data[column].astype(float)
    data[column][row] = value
    return data


FORMULAS = {
    # formula: (what the message says, where the caret stands; None for no caret)
    "": ("write one such as", None),
    "y x": ("there is no '~'", 0),
    "y ~ x ~ g": ("a formula has one", 6),
    "~ x": ("there is no response", 0),
    "y ~": ("write 'y ~ 1'", 2),
    "y ~ x | g": ("write (x | g)", 6),
    "y ~ x + (1 | g": ("is not closed", 8),
    "y ~ x + 1 | g)": ("closes no bracket", 13),
    "y ~ log(x | g)": ("write (log(x) | g)", 10),
    "y ~ xx + (1 | g)": ("no column of the data; did you mean 'x'?", 4),
    "yy ~ x": ("no column of the data; did you mean 'y'?", 0),
    "y ~ x + (1 | gg)": ("did you mean 'g'?", 13),
    "y ~ x + (slope | g)": ("no column of the data", 9),
    "y ~ sqroot(x)": ("is no function", 4),
    "y ~ factor(x)": ("is no function; write C(", 4),
    "y ~ (x ||| g)": ("a random term has one bar", 7),
    "y ~ ( | g)": ("write (1 | g)", 6),
    "y ~ (1 | )": ("name the grouping column", 7),
    "y ~ (0 | g)": ("write (1 | g)", 5),
    "y ~ (1 | g + f)": ("write (1 | g) + (1 | f)", 11),
    "y ~ (1 | g:g)": ("name it once", 9),
    "y ~ (1 | g) + (1 | g)": ("keep one of them", 14),
    "y ~ (x | g) + (0 + x | g)": ("appears twice", None),
    "y ~ x - (1 | g)": ("add it or leave it out", 6),
    "y ~ x * (1 | g)": ("write '+' here", 6),
    "y ~ I(x^2)": ("write I(x**2)", 7),
    "y ~ x^2": ("write I(x**2)", 5),
    "y ~ .": ("name the columns", 4),
    "y ~ 2": ("only 1 and 0 are", 4),
    "y ~ x == 1": ("write I(x == 1)", 6),
    "y ~ data$x": ("name the column alone", 8),
    "y ~ 'x'": ("quoted by backticks", 4),
    "y + x ~ 1": ("write I(y + x)", 2),
    "cbind(y, x) ~ 1": ("write p(successes, trials)", 0),
    "y ~ offset(x, x)": ("takes one expression", 12),
    "y ~ `x": ("is not closed", 4),
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas(formula):
    message, caret = FORMULAS[formula]
    with pytest.raises(FormulaError) as caught:
        bl.Model(formula, table())
    assert message in str(caught.value)
    assert caught.value.position == caret if caret is not None else True
    if caret is not None:
        lines = str(caught.value).splitlines()
        assert lines[-1] == " " * (2 + caret) + "^"
        assert lines[-2] == "  " + formula


def model(formula="y ~ x + (1 | g)", data=None, **options):
    return bl.Model(formula, table() if data is None else data, **options)


FLAT = {
    "Intercept": bl.Prior("Flat"),
    "x": bl.Prior("Flat"),
    "sd_g": bl.Prior("HalfFlat"),
    "sigma": bl.Prior("HalfFlat"),
}
PROPER = {"priors": "flat"}

TABLES = {
    "a number": (lambda: model(data=3), DataError, "give a pandas, Polars or PyArrow table or a dict"),
    "a path": (lambda: model(data="data.csv"), DataError, "is not a table"),
    "nothing": (lambda: bl.Model("y ~ x", None), DataError, "is not a table"),
    "a matrix": (lambda: model(data=np.ones((N, 3))), DataError, "is not a table"),
    "no rows": (lambda: model(data=pd.DataFrame(table()).iloc[:0]), DataError, "no rows"),
    "no columns": (lambda: model("y ~ x", pd.DataFrame()), BayesLMMError, "no "),
    "lengths": (lambda: model(data=table(x=[1.0, 2.0])), DataError, "different lengths"),
    "two dimensions": (lambda: model(data=table(x=np.ones((N, 2)))), DataError, "must be one-dimensional"),
    "a column twice": (
        lambda: model(data=pd.concat([pd.DataFrame(table())] * 2, axis=1)),
        DataError,
        "appears twice in the data",
    ),
    "complex response": (
        lambda: model(data=table(y=np.ones(N) * 1j)),
        DataError,
        "type complex; turn them into numbers",
    ),
    "complex predictor": (
        lambda: model(data=table(x=np.ones(N) * 1j)),
        DataError,
        "type complex; turn them into numbers",
    ),
    "dates": (lambda: model(data=table(x=pd.date_range("2020", periods=N))), DataError, "type datetime64"),
    "lists in cells": (lambda: model(data=table(x=[[1]] * N)), DataError, "turn them into numbers or text first"),
    "numbers and text": (lambda: model(data=table(x=[1, "a"] * 30)), DataError, "type mixed-integer"),
    "text response": (lambda: model("f ~ x"), DataError, "is not numeric"),
    "numbers as text": (lambda: model(data=table(y=["1.5"] * N)), DataError, "convert it first"),
    "infinite response": (lambda: model(data=with_value("y", np.inf)), DataError, "'y' is infinite in row 3; remove"),
    "infinite predictor": (lambda: model(data=with_value("x", -np.inf)), DataError, "'x' is infinite in row 3; remove"),
    "log of a negative number": (lambda: model("y ~ np.log(x)"), DataError, "check the transformation"),
    "log of a negative response": (lambda: model("log(y) ~ x"), DataError, "is not finite"),
    "all missing": (lambda: model(data=table(x=np.full(N, np.nan))), DataError, "no complete row is left"),
    "missing, refused": (lambda: model(data=with_value("x", np.nan), missing="error"), DataError, 'missing="drop"'),
    "missing, mistyped": (lambda: model(missing="impute"), DataError, 'use "drop" or "error"'),
    "one group": (lambda: model("y ~ (1 | same)"), DataError, "needs at least two"),
    "one-level factor": (lambda: model("y ~ same"), DataError, "take it out of the formula"),
    "one-level random factor": (lambda: model("y ~ (same | g)"), DataError, "take it out of the formula"),
    "as many groups as rows": (lambda: model("y ~ (1 | row)"), DataError, "as many as the 60 rows"),
    "as many effects as rows": (
        lambda: model("y ~ (f | g:h:f)", table(g=np.arange(N) // 2)),
        DataError,
        "Remove the term",
    ),
    "an effect of zeros": (lambda: model("y ~ (0 + zero | g)"), DataError, "zero in every row; remove it"),
    "more coefficients than rows": (
        lambda: model("y ~ a*b", {"y": [1.0, 2, 3, 4], "a": [1.0, 2, 3, 5], "b": [2.0, 1, 1, 7]}),
        DataError,
        "4 fixed coefficients for 4 rows",
    ),
    "labels that collide": (
        lambda: model("y ~ (1 | a:b)", table(a=["p:q", "p"] * 30, b=["r", "q:r"] * 30)),
        DataError,
        "both called 'p:q:r'; rename",
    ),
}

WEIGHTS = {
    "negative": (lambda: model(weights=-np.ones(N)), DataError, "weights must be positive; row 0"),
    "zero": (lambda: model(weights=np.arange(N)), DataError, "Drop rows of weight zero"),
    "too few": (lambda: model(weights=[1, 2, 3]), DataError, "weights has shape (3,); the data have 60 rows"),
    "a column vector": (lambda: model(weights=np.ones((N, 1))), DataError, "the data have 60 rows"),
    "one number": (lambda: model(weights=2.0), DataError, "the data have 60 rows"),
    "unknown column": (lambda: model(weights="ww"), DataError, "no column 'ww' in the data; columns: y, x"),
    "text": (lambda: model(weights="f"), DataError, "weights must be numbers"),
    "complex": (lambda: model(weights=np.ones(N) * 1j), DataError, "weights must be numbers"),
    "infinite": (lambda: model(weights=np.full(N, np.inf)), DataError, "is infinite in row 0"),
    "offset too long": (lambda: model(offset=np.ones(N + 1)), DataError, "offset has shape (61,)"),
    "offset of text": (lambda: model("y ~ x + offset(f)"), DataError, "is not numeric"),
}

OPTIONS = {
    "contrasts unknown": (lambda: model("y ~ f", contrasts={"f": "magic"}), DataError, "treatment, sum, helmert, poly"),
    "contrasts of no column": (lambda: model("y ~ f", contrasts={"q": "sum"}), DataError, "no column of the data"),
    "contrasts of numbers": (lambda: model(contrasts={"x": "sum"}), DataError, "make it categorical first"),
    "contrasts unused": (lambda: model(contrasts={"f": "sum"}), DataError, "which the formula does not use"),
    "contrasts of nothing": (lambda: model("y ~ f", contrasts="sum"), DataError, "by factor"),
    "a formula of another type": (lambda: model(3), FormulaError, "a formula is text"),
    "family": (lambda: model(family="poisson"), DataError, "whole numbers from 0"),
    "family mistyped": (lambda: model(family="gausian"), NotSupportedError, "the families are gaussian, bernoulli"),
    "link": (lambda: model(link="log"), NotSupportedError, "transform y"),
    "known": (lambda: model(known={"g": np.eye(6)}), NotSupportedError, "leave it out"),
    "structure": (lambda: model("y ~ ar1(0 + x | g)"), NotSupportedError, "us( | ) and diag( | ) are"),
    "update of nothing": (lambda: model().update(formul="y ~ 1"), MethodError, "no argument 'formul'"),
    "update without tilde": (lambda: model().update(". + z"), FormulaError, "'. ~ . + x'"),
    "update of a term that is not there": (lambda: model().update(". ~ . - (x | g)"), FormulaError, "no term (x | g)"),
    "theta of the wrong length": (lambda: model().Lambda([1, 2]), MethodError, "has 1 entries: g.Intercept"),
    "theta of text": (lambda: model().Lambda("a"), MethodError, "theta takes numbers"),
    "stages of an unknown slope": (
        lambda: bl.Model.from_stages("y ~ 1 + x", {"g": {"zz": "1"}}, table()),
        SpecificationError,
        "it has 1, x",
    ),
    "a file that is not there": (lambda: bl.load("nowhere.toml"), SpecificationError, "nowhere.toml"),
}

PRIORS = {
    "unknown key": (
        lambda: model(priors={"sd_k": bl.Prior("HalfNormal", sigma=1)}),
        PriorError,
        "Did you mean 'sd_g'?",
    ),
    "unknown coefficient": (
        lambda: model(priors={"xx": bl.Prior("Normal")}),
        PriorError,
        "Valid keys: fixef, sd_g, sigma",
    ),
    "a number": (lambda: model(priors={"sigma": 3}), PriorError, "held at a value by fixed="),
    "a word": (lambda: model(priors="vague"), PriorError, "'flat'"),
    "a list": (lambda: model(priors=[1]), PriorError, "a dict from names to priors"),
    "argument": (lambda: bl.Prior("Normal", mean=1), PriorError, "it takes mu, sigma"),
    "negative scale": (lambda: bl.Prior("HalfNormal", sigma=-1), PriorError, "must be positive"),
    "missing argument": (lambda: bl.Prior("Gamma", alpha=2), PriorError, "Gamma needs beta"),
    "normal on a sd": (lambda: model(priors={"sd_g": bl.Prior("Normal", sigma=1)}), PriorError, "use HalfNormal"),
    "LKJ on a sd": (lambda: model(priors={"sd_g": bl.Prior("LKJ", eta=2)}), PriorError, "corr_<group>"),
    "normal on a correlation": (
        lambda: model("y ~ (x | g)", priors={"corr_g": bl.Prior("Normal", sigma=1)}),
        PriorError,
        "Prior('LKJ', eta=...)",
    ),
    "correlation of one effect": (
        lambda: model(priors={"corr_g": bl.Prior("LKJ", eta=2)}),
        PriorError,
        "no two effects of 'g' are correlated",
    ),
    "constant response": (lambda: model(data=table(y=np.ones(N))), PriorError, "Give the prior"),
}

CALLS = {
    "method": (lambda: bl.fit(model(), "reml"), MethodError, 'use "REML", "ML" or "MAP"'),
    "method of another family": (lambda: bl.fit(model(), "Laplace"), MethodError, "for a Gaussian model"),
    "fixef": (lambda: bl.fit(model(), "MAP", fixef="both"), MethodError, 'use "integrated" or "joint"'),
    "fixef of ML": (lambda: bl.fit(model(), "ML", fixef="joint"), MethodError, 'is for method="MAP"'),
    "a formula for a model": (lambda: bl.fit("y ~ x"), MethodError, "bl.fit(bl.Model(formula, data))"),
    "start too long": (lambda: bl.fit(model(), start=[1, 2]), MethodError, "has 1 entries: g.Intercept"),
    "start missing": (lambda: bl.fit(model(), start=[np.nan]), MethodError, "finite numbers"),
    "start of text": (lambda: bl.fit(model(), start="x"), MethodError, "takes numbers"),
    "fixed of nothing": (
        lambda: bl.fit(model(), fixed={"sd_k": 1}),
        MethodError,
        "parameters are sd_g[Intercept], sigma",
    ),
    "fixed coefficient": (lambda: bl.fit(model(), fixed={"x": 0}), MethodError, "the parameters are"),
    "fixed negative": (lambda: bl.fit(model(), fixed={"sd_g": -1}), MethodError, "nonnegative number"),
    "fixed residual of 0": (lambda: bl.fit(model(), fixed={"sigma": 0}), MethodError, "positive number"),
    "fixed missing": (lambda: bl.fit(model(), fixed={"sd_g": np.nan}), MethodError, "nonnegative number"),
    "fixed text": (lambda: bl.fit(model(), fixed={"sigma": "a"}), MethodError, "at a number"),
    "fixed list": (lambda: bl.fit(model(), fixed=["sigma"]), MethodError, "values by name"),
    "fixed correlation of 1": (
        lambda: bl.fit(model("y ~ (x | g)"), fixed={"corr_g": 1}),
        MethodError,
        "must lie between -1 and 1",
    ),
    "one of three correlations fixed": (
        lambda: bl.fit(model("y ~ (f | g)"), fixed={"corr_g[Intercept, f[b]]": 0.5}),
        MethodError,
        "two effects",
    ),
    "MAP of another family of prior": (
        lambda: bl.fit(model(priors={"x": bl.Prior("StudentT", nu=3)}), "MAP"),
        MethodError,
        'use fixef="joint"',
    ),
    "MAP of an unknown prior": (
        lambda: bl.fit(model(priors={"sd_g": bl.Prior("Wonky", a=1)}), "MAP"),
        MethodError,
        "no closed form",
    ),
    "no residual": (lambda: bl.fit(model("y ~ x", table(x=table()["y"] * 2))), ExactFitError, "reproduce the response"),
    "no variance left": (
        lambda: bl.fit(model("y ~ 1 + (1 | g)", table(y=table()["g"] * 1.5))),
        ExactFitError,
        "constant within the levels",
    ),
    "flat and too few groups": (
        lambda: bl.sample(model("y ~ x + (1 | h)", priors="flat"), progress=False),
        ImproperPosteriorError,
        "'h'",
    ),
    "route": (lambda: bl.sample(model(), route="magic"), MethodError, '"hierarchical" or "laplace"'),
    "no draws": (lambda: bl.sample(model(), draws=0), MethodError, "positive whole number"),
    "new level of a factor": (
        lambda: model("y ~ f + (1 | g)").design.encode({"f": ["q"], "g": [0]}),
        UnseenLevelError,
        "Remove these rows",
    ),
    "new rows without a column": (lambda: model().design.encode({"x": [1.0]}), DataError, "no column 'g'"),
}

EVERY = {
    f"{kind}: {name}": case
    for kind, cases in {"table": TABLES, "weights": WEIGHTS, "option": OPTIONS, "prior": PRIORS, "call": CALLS}.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", EVERY)
def test_tables_options_and_calls(name):
    call, error, message = EVERY[name]
    warnings.simplefilter("error")  # pytest puts the filters back after each test
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, BayesLMMError)
    assert message in str(caught.value)


def test_the_table_is_long_enough():
    assert len(FORMULAS) + len(EVERY) >= 100


def test_every_error_is_also_one_of_pythons():
    """So that code which catches ValueError, ArithmeticError or NotImplementedError keeps working."""
    for kind, parent in (
        (FormulaError, ValueError),
        (DataError, ValueError),
        (UnseenLevelError, DataError),
        (PriorError, ValueError),
        (MethodError, ValueError),
        (ExactFitError, ArithmeticError),
        (NotSupportedError, NotImplementedError),
    ):
        assert issubclass(kind, BayesLMMError)
        assert issubclass(kind, parent)
