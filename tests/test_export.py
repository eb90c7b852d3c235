"""Tables for other programs: escaped, aligned, with every number of the table they are made from."""

import re
import sys

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.errors import MethodError, MissingPackageError
from bayeslmm.export import escaped


@pytest.fixture(scope="module")
def fits():
    model = bl.load("models/sleepstudy")
    return bl.fit(model), bl.fit(model, "ML")


def test_side_by_side_holds_both_fits(fits):
    beside = bl.side_by_side(*fits, labels=["REML", "ML"])
    for name, fit in zip(("REML", "ML"), fits, strict=True):
        np.testing.assert_array_equal(beside.table.loc[["Intercept", "Days"], (name, "estimate")], fit.beta)
        np.testing.assert_array_equal(beside.table.loc[["Intercept", "Days"], (name, "std_error")], fit.beta_sd)
        assert beside.table.loc["logLik", (name, "estimate")] == fit.loglik
    assert "(6.825)" in str(beside)
    small = bl.fit(bl.Model("Reaction ~ 1 + (1 | Subject)", fits[0].model.arguments["data"]))
    both = bl.side_by_side(fits[0], small)
    assert np.isnan(both.table.loc["Days", ("(2)", "estimate")])
    assert "<table" in both._repr_html_()
    with pytest.raises(MethodError, match="2 different names"):
        bl.side_by_side(*fits, labels=["a", "a"])


def test_latex_is_escaped_and_rectangular(fits):
    text = bl.export(bl.side_by_side(*fits), caption="Sleep & time", label="tab:sleep")
    assert r"\caption{Sleep \& time}" in text
    assert r"\label{tab:sleep}" in text
    assert r"sd\_Subject[Intercept]" in text
    assert r"(6.825\rlap{)}" in text
    assert r"$-$871.814" in text
    tabular = re.search(r"\\midrule\n(.*)\\bottomrule", text, re.DOTALL)
    assert {line.count(" & ") for line in tabular[1].splitlines()} == {2}
    assert text.count("{table}") == 2


def test_every_symbol_of_a_summary_has_a_latex_form(fits):
    for what in (fits[0], bl.compare(*fits), bl.anova(*fits)):
        assert all(ord(letter) < 128 for letter in bl.export(what))


def test_commands_are_quoted():
    assert escaped(r"\input{x} 5_%") == r"\textbackslash{}input\{x\} 5\_\%"


@pytest.mark.parametrize("format", ["latex", "markdown", "html"])
def test_a_frame_keeps_its_names_and_numbers(format, fits):
    text = bl.export(bl.coefficients(fits[0]), format)
    assert "Days" in text
    assert "10.4" in text


def test_markdown_of_a_whole_summary_has_its_tables(fits):
    text = bl.export(fits[0], "markdown", caption="Sleep")
    assert text.startswith("**Sleep**")
    assert "| Days" in text
    assert "251.405" in text


def test_great_tables_is_asked_for_by_name(fits, monkeypatch):
    assert "Days" in bl.export(bl.side_by_side(*fits), "great_tables").as_raw_html()
    monkeypatch.setitem(sys.modules, "great_tables", None)
    with pytest.raises(MissingPackageError, match="pip install great-tables"):
        bl.export(bl.side_by_side(*fits), "great_tables")


def test_what_has_no_meaning_is_refused():
    frame = pd.DataFrame({"a": [1.0]})
    with pytest.raises(MethodError, match="not known"):
        bl.export(frame, "word")
    with pytest.raises(MethodError, match="caption"):
        bl.export(frame, label="tab:x")
    with pytest.raises(MethodError, match="no table"):
        bl.export(3)
