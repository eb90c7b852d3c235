"""Means, contrasts and slopes: emmeans' numbers, the printed lecture, closed forms, posteriors, and what is refused."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm import combinations
from bayeslmm.errors import MethodError, UnseenLevelError

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = json.loads((ROOT / "tests/reference/means.json").read_text(encoding="utf-8"))
DATA = pd.DataFrame(REFERENCE["data"])
OATS = pd.DataFrame(REFERENCE["oats"])
MODELS = {
    "two": "y ~ a * b + (1 | g)",
    "three": "y ~ a + b * c + t + (1 | g)",
    "slope": "y ~ a * t + (t | g)",
    "square": "y ~ a * (t + I(t**2)) + (1 | g)",
    "poly": "y ~ b * poly(t, 2) + (1 | g)",
    "logt": "y ~ b * log(t) + (1 | g)",
    "spline": "y ~ b + bs(t, df=5) + (1 | g)",
    "binary": "y ~ a + b * k + (1 | g)",
    "logy": "log(pos) ~ a + b + t + (1 | g)",
    "offset": "y ~ a + offset(log(t)) + (1 | g)",
}
OATS_MODEL = "y ~ variety * n + (1 | block/variety)"
PLANKS = ROOT.parent / "shared/data/planks.csv"
# What emmeans writes, relative to the size of the column: R's fits stop at 1e-10 in θ, its Hessians are differenced.
TOLERANCE = {"estimate": 1e-6, "se": 1e-6, "df": 1e-4, "t": 1e-5, "p": 1e-5, "lower": 1e-5, "upper": 1e-5}


@cache
def fitted(name):
    if name in MODELS:
        return bl.fit(bl.Model(MODELS[name], DATA), "REML")
    if name == "sum":
        return bl.fit(bl.Model("y ~ a * b + t + (1 | g)", DATA, contrasts={"a": "sum", "b": "helmert"}), "REML")
    if name == "weights":
        return bl.fit(bl.Model("y ~ a + b + (1 | g)", DATA, weights="w"), "REML")
    if name == "ml":
        return bl.fit(bl.Model(MODELS["two"], DATA), "ML")
    if name == "empty":
        return bl.fit(bl.Model(MODELS["two"], DATA.drop(index=REFERENCE["empty"])), "REML")
    kept = OATS if name == "oats" else OATS.drop(index=REFERENCE["lost"])
    return bl.fit(bl.Model(OATS_MODEL, kept), "REML")


def answer(case):
    """The same call as a table."""
    arguments = {key: value for key, value in case["arguments"].items() if value not in ([], {})}
    fit, df = fitted(case["fit"]), case["df"]
    if case["call"] == "slopes":
        return bl.slopes(fit, arguments.pop("of"), df=df, **arguments).table.rename(columns={"slope": "estimate"})
    if case["call"] == "means":
        return bl.means(fit, arguments.pop("of"), df=df, **arguments).table.rename(columns={"mean": "estimate"})
    kind, adjust, scale = (arguments.pop(key) for key in ("kind", "adjust", "scale"))
    of = arguments.pop("of")[::-1]  # emmeans varies the first factor fastest
    means = bl.means(fit, of, df=df, scale=scale, **arguments)
    return means.contrasts(kind, adjust=adjust).table.rename(columns={"ratio": "estimate"})


def case_id(case):
    arguments = case["arguments"]
    words = [case["call"], case["fit"], case["df"], *arguments["of"], *arguments["by"]]
    return "-".join(
        [*words, *(str(arguments[key]) for key in ("kind", "adjust", "weights", "at") if arguments.get(key))]
    )


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=[case_id(case) for case in REFERENCE["cases"]])
def test_emmeans(case):
    found = answer(case)
    for name, values in case["numbers"].items():
        expected = np.array([np.nan if v is None else v for v in np.atleast_1d(values)], float)
        expected[expected >= 1e300] = np.inf
        own = found[name].to_numpy()
        if name == "df":
            expected[np.isnan(own)] = np.nan
        scale = np.nanmax(np.abs(expected[np.isfinite(expected)]), initial=1e-3) if name != "p" else 1.0
        # emtrends takes one difference of 1e-7 of t's range: truncation and rounding leave 1e-6 of the slope
        looser = 10 if case["call"] == "slopes" else 1
        np.testing.assert_allclose(own, expected, rtol=0, atol=looser * TOLERANCE[name] * scale, err_msg=name)


def oats_line():
    data = OATS.assign(nitro=OATS["n"].astype(float))
    return bl.fit(bl.Model("y ~ nitro * variety + (1 | block/variety)", data), "REML")


# Printed by J. Franc, 01NAEX lecture 10, Czech Technical University: least-squares means of tablets with missing cells.
# The fixed-effects analysis has 9 residual degrees of freedom; the mixed one is nlme's, with its containment rule.
PRINTED = {
    "hplc": [10.21174590, 0.09259174, 9, 10.0022888, 10.4212030],
    "nir": [10.28385689, 0.09259174, 19, 10.0900602, 10.4776536],
}


def test_tablets_fixed_as_printed():
    data = bl.load(ROOT / "models/tablets_missing").arguments["data"]
    fit = bl.fit(bl.Model("y ~ method + tablet", data), "REML")
    means = bl.means(fit, "method").table
    # printed to 8 digits
    np.testing.assert_allclose(means.loc["hplc"], [10.2125, 0.06177356, 9, 10.0727585, 10.3522415], atol=6e-8)
    np.testing.assert_allclose(means.loc["nir"], [10.2625, 0.06177356, 9, 10.1227585, 10.4022415], atol=6e-8)
    difference = bl.contrasts(fit, {"hplc - nir": {"hplc": 1, "nir": -1}}, of="method").table.loc["hplc - nir"]
    shown = difference[["estimate", "se", "df", "lower", "upper"]]
    np.testing.assert_allclose(shown, [-0.05, 0.09339284, 9, -0.2612693, 0.1612693], atol=6e-8)


def test_tablets_mixed_as_printed():
    fit = bl.fit(bl.load(ROOT / "models/tablets_missing"), "REML")
    means = bl.means(fit, "method", df="containment")
    # nlme stops at a relative change of 1e-7 of the criterion: 2e-7 of the means, 2e-8 of the standard errors
    for name, numbers in PRINTED.items():
        np.testing.assert_allclose(means.table.loc[name], numbers, atol=5e-7)
    row = means.contrasts("control", reference="nir").table.loc["hplc - nir"]
    numbers = [-0.07211099, 0.08697180, 9, -0.8291307, -0.2688549, 0.1246329]
    np.testing.assert_allclose(row[["estimate", "se", "df", "t", "lower", "upper"]], numbers, atol=2e-6)


@pytest.mark.parametrize(
    ("df", "mean", "difference"),
    # lmerTest 3.1-3 and pbkrtest 0.5.2: se and df of nir's mean and of hplc − nir
    [
        ("satterthwaite", [0.0925917594045027, 25.8096799016865], [0.0869717249917838, 11.6958961262143]),
        ("kenward-roger", [0.0933722382268826, 25.8098537560162], [0.089623594582771, 11.6964825772477]),
    ],
)
def test_tablets_mixed_other_degrees(df, mean, difference):
    fit = bl.fit(bl.load(ROOT / "models/tablets_missing"), "REML")
    means = bl.means(fit, "method", df=df)
    np.testing.assert_allclose(means.table.loc["nir", ["se", "df"]].to_numpy(float), mean, rtol=2e-6)
    row = means.contrasts("control").table.loc["hplc - nir", ["se", "df"]]
    np.testing.assert_allclose(row.to_numpy(float), difference, rtol=2e-6)


# emmeans 1.8.4-1, Kenward–Roger, lme4 1.1-31: humidity ~ width * depth + (1 | plank) + (1 | plank:width) + (1 | plank:depth)
PLANKS_WIDTH = {
    "1 - 2": [-0.272, 0.1818242006, 38, -0.7154376002, 0.1714376002, 0.304180102733],
    "1 - 3": [0.415, 0.1818242006, 38, -0.0284376002, 0.8584376002, 0.070570512023],
    "2 - 3": [0.687, 0.1818242006, 38, 0.2435623998, 1.1304376002, 0.001537844066],
}
PLANKS_DEPTH = {
    "1 - 9": [0.06166666667, 0.09605721027, 76, -0.2067506201, 0.33008395344, 0.967620848884],
    "3 - 5": [-0.29, 0.09605721027, 76, -0.5584172868, -0.02158271323, 0.027666359570],
    "3 - 7": [0.04166666667, 0.09605721027, 76, -0.2267506201, 0.31008395344, 0.992488883784],
    "5 - 7": [0.33166666667, 0.09605721027, 76, 0.0632493799, 0.60008395344, 0.007871961145],
}


@pytest.fixture(scope="module")
def planks():
    if not PLANKS.exists():
        pytest.skip("planks.csv may not be passed on; it is looked for in ../shared/data")
    return pd.read_csv(PLANKS).astype({"plank": str, "width": str, "depth": str})


def test_planks_post_hoc(planks):
    formula = "humidity ~ width * depth + (1 | plank) + (1 | plank:width) + (1 | plank:depth)"
    fit = bl.fit(bl.Model(formula, planks), "REML")
    columns = ["estimate", "se", "df", "lower", "upper", "p"]
    for factor, expected in (("width", PLANKS_WIDTH), ("depth", PLANKS_DEPTH)):
        found = bl.contrasts(fit, of=factor)
        for name, numbers in expected.items():
            np.testing.assert_allclose(found.table.loc[name, columns].to_numpy(float), numbers, atol=2e-6, rtol=1e-6)
    means = bl.means(fit, "width").table
    np.testing.assert_allclose(means["mean"], [5.514, 5.786, 5.099], atol=1e-9)  # balanced: the averages
    np.testing.assert_allclose(means["df"], 27.57, atol=0.005)
    assert bl.means(fit, "depth").letters().tolist() == ["c", "b", "a", "b", "c"]


def test_planks_profiles(planks):
    fit = bl.fit(bl.Model("humidity ~ plank * width + plank * depth + width:depth", planks), "REML")
    for x, by in (("width", "depth"), ("depth", "width"), ("width", "plank"), ("depth", "plank")):
        figure = bl.means(fit, x, by=by).plot()
        lines = figure.axes[0].lines
        assert len(lines) == planks[by].nunique()
        drawn = np.array([line.get_ydata() for line in lines])
        cells = planks.groupby([by, x], sort=True)["humidity"].mean().unstack()
        if by != "plank":  # balanced: the cell averages, which the model reproduces without their third interaction
            np.testing.assert_allclose(drawn, cells.loc[sorted(cells.index)], atol=1e-9)


def test_a_balanced_mean_is_the_average():
    fit = fitted("oats")
    means = bl.means(fit, "n", by="variety")
    averages = OATS.groupby(["variety", "n"])["y"].mean()
    np.testing.assert_allclose(means["mean"], averages.loc[means.table.index], rtol=1e-10)
    assert len(means) == 12


def test_weights_by_brute_force():
    """Averages of the predictions of the cells, each as frequent as it is in the data."""
    fit = fitted("three")
    at = DATA["t"].mean()
    cells = pd.MultiIndex.from_product([list("pqrs"), list("xyz"), ["hi", "lo"]], names=["a", "b", "c"]).to_frame(
        index=False
    )
    cells["mean"] = bl.predict(fit, cells.assign(t=at), groups="population")["mean"]
    cells["count"] = [len(DATA.query("a == @r.a and b == @r.b and c == @r.c")) for r in cells.itertuples()]
    for weights in ("equal", "proportional", "cells"):
        found = bl.means(fit, "a", weights=weights).table["mean"]
        for level, own in cells.groupby("a"):
            share = {"equal": np.ones(6), "cells": own["count"].to_numpy()}.get(weights)
            if share is None:
                share = cells.groupby(["b", "c"])["count"].sum().loc[list(zip(own.b, own.c, strict=True))].to_numpy()
            assert found[level] == pytest.approx(np.average(own["mean"], weights=share), rel=1e-10)


def test_coding_does_not_matter():
    one = bl.contrasts(fitted("two"), of="a", by="b", adjust="none").table
    data = DATA.assign(a=pd.Categorical(DATA["a"], ["s", "p", "q", "r"]))
    other = bl.fit(bl.Model(MODELS["two"], data, contrasts={"a": "sum", "b": "sum"}), "REML")
    found = bl.means(other, "a", by="b", at={"a": ["p", "q", "r", "s"]}).contrasts(adjust="none").table
    # two searches end within 1e-8 of each other in θ
    np.testing.assert_allclose(found, one, rtol=1e-5, atol=1e-6)


def test_two_values_are_a_factor_and_its_means_follow_at():
    means = bl.means(fitted("binary"), "k")
    assert means.table.index.tolist() == [0, 1]
    assert bl.means(fitted("binary"), "b", at={"k": 1})["mean"].tolist() == pytest.approx(
        bl.means(fitted("binary"), "b", by="k").table.loc[1, "mean"].tolist(), rel=1e-12
    )
    flagged = bl.fit(bl.Model("y ~ flag + (1 | g)", DATA.assign(flag=DATA["k"] == 1)), "REML")
    assert bl.means(flagged, "flag", at={"flag": True}).table.index.tolist() == [True]


def test_numbers_made_a_factor_keep_their_levels():
    fit = bl.fit(
        bl.Model("y ~ C(num) * b + (1 | g)", DATA.assign(num=DATA["a"].map(dict(zip("pqrs", range(4), strict=True)))))
    )
    found = bl.means(fit, "num").table
    assert found.index.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found, bl.means(fitted("two"), "a").table, rtol=1e-6)


def test_an_empty_cell_has_no_mean_and_is_named():
    fit = fitted("empty")
    means = bl.means(fit, "a", by="b")
    assert means.table.isna().all(axis=1).tolist() == [False] * 11 + [True]
    assert "Not estimable, z, s: the data say nothing about b = z, a = s." in str(means)
    assert "Not estimable, s: the data say nothing about a = s, b = z." in bl.means(fit, "a").notes
    pairs = means.contrasts()
    assert pairs.table.loc["z", "p"].isna().tolist() == [False, False, True, False, True, True]
    # three means are left to compare in z: the family is theirs
    own = pairs.table.loc["z"].dropna()
    same = bl.contrasts(bl.means(fit, "a", at={"a": list("pqr"), "b": "z"})).table
    np.testing.assert_allclose(own["p"], same["p"], rtol=1e-10)
    assert pairs.letters().loc[("z", "s")] == ""
    assert bl.contrasts(fit, [[1, -1, 0, 0]], of="a").table["estimate"].notna().all()


def test_an_unseen_cell_has_no_weights():
    found = bl.means(fitted("empty"), ["a", "b"], weights="cells")
    assert found.table.loc[("s", "z")].isna().all()
    assert "the data say nothing about a = s, b = z" in str(found)


def test_slopes_of_lines_are_coefficients():
    fit = oats_line()
    found = bl.slopes(fit, "nitro", by="variety").table["slope"]
    b = fit.fixef
    expected = [b["nitro"], b["nitro"] + b["nitro:variety[Marvellous]"], b["nitro"] + b["nitro:variety[Victory]"]]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("t", [1.5, 5.0, "low", "high"])
def test_slopes_of_curves_are_derivatives(t):
    """d/dt of β₁ t + β₂ t² and of β log t, also at the ends of the data, where the points of the difference stay inside."""
    t = {"low": DATA["t"].min(), "high": DATA["t"].max()}.get(t, t)
    b = fitted("square").fixef
    row = bl.slopes(fitted("square"), "t", by="a", at={"t": t}).table.loc["p", "slope"]
    assert row == pytest.approx(b["t"] + 2 * t * b["I(t ** 2)"], rel=1e-9)
    b = fitted("logt").fixef
    row = bl.slopes(fitted("logt"), "t", by="b", at={"t": t}).table.loc["x", "slope"]
    # fourth order: 0.2 (1e-3 · 9/t)⁴ of the slope, 1.4e-9 at t = 1
    assert row == pytest.approx(b["log(t)"] / t, rel=1e-7)


def test_slopes_at_several_values():
    fit = fitted("square")
    each = bl.slopes(fit, "t", by=["a", "t"], at={"t": [2, 4, 9]}).table["slope"]
    together = bl.slopes(fit, "t", by="a", at={"t": [2, 4, 9]}).table["slope"]
    np.testing.assert_allclose(each.groupby(level="a").mean(), together, rtol=1e-10)
    end = bl.slopes(fitted("spline"), "t", by="t", at={"t": [DATA["t"].min(), DATA["t"].max()]}).table
    assert end.notna().all(axis=None)


def test_interaction_contrasts_are_contrasts_of_contrasts():
    fit = fitted("two")
    twice = bl.contrasts(bl.contrasts(fit, of="a", by="b"), by="contrast", adjust="none").table
    cells = bl.means(fit, "a", by="b").table["mean"]
    expected = (cells["x", "p"] - cells["x", "q"]) - (cells["y", "p"] - cells["y", "q"])
    assert twice.loc[("p - q", "x - y"), "estimate"] == pytest.approx(expected)


def test_joint_test_is_the_f_test_of_the_factor():
    """Balanced split plot: the F test of nitrogen, 20020.5/3/177.08 on 3 and 45 (nlme's Oats, lme4 1.1-31)."""
    joint = bl.contrasts(fitted("oats"), of="n").joint
    assert joint.loc["pairwise", ["F", "df1", "df2"]].to_numpy(float) == pytest.approx([37.68562, 3, 45], rel=1e-6)
    assert bl.contrasts(fitted("oats"), "sequential", of="n", adjust="none").joint.to_numpy() == pytest.approx(
        joint.to_numpy(), rel=1e-9
    )


def test_default_degrees_of_freedom(monkeypatch):
    assert "kenward-roger" in str(bl.means(fitted("oats"), "n"))
    assert "satterthwaite" in str(bl.means(fitted("ml"), "a"))
    monkeypatch.setattr(combinations, "LARGE", 5)
    said = [note for note in bl.means(fitted("oats"), "n").notes if "Degrees" in note]
    assert said[0].startswith(
        "Degrees of freedom: satterthwaite; 6 effects besides those of the largest group are more than"
    )
    held = bl.fit(fitted("oats").model, "REML", fixed={"sigma": 13.0})
    assert "sigma is held" in str(bl.means(held, "n"))


def test_marginal_means_of_lines():
    """emmeans 1.8.4-1 and pbkrtest 0.5.2, yield ~ nitro * Variety + (1 | Block/Variety): varieties at the mean of nitro."""
    pairs = bl.contrasts(oats_line(), of="variety")
    assert pairs.combinations.notes == ()
    assert "Covariates at nitro = 0.3." in pairs.notes
    expected = [1.4853403797895648, 2, 10, 0.27238685674969]
    np.testing.assert_allclose(pairs.joint.loc["pairwise"].to_numpy(float), expected, rtol=1e-7)


@pytest.fixture(scope="module")
def posterior():
    return bl.sample(
        bl.Model("log(pos) ~ a * t + (1 | g)", DATA), draws=250, tune=300, chains=2, seed=1, progress=False
    )


def test_a_posterior_answers_the_same(posterior):
    draws = posterior.draws("fixef")
    names = list(posterior.fixef.index)
    at = DATA["t"].mean()
    own = draws[:, names.index("Intercept")] + at * draws[:, names.index("t")]
    row = bl.means(posterior, "a").table.loc["p"]
    expected = [own.mean(), own.std(ddof=1), np.inf, *np.quantile(own, [0.025, 0.975])]
    np.testing.assert_allclose(row, expected, rtol=1e-10)
    difference = -draws[:, names.index("a[q]")] - at * draws[:, names.index("a[q]:t")]
    row = bl.contrasts(posterior, of="a").table.loc["p - q"]
    assert row["pd"] == max((difference > 0).mean(), (difference < 0).mean())
    assert row["estimate"] == pytest.approx(difference.mean(), rel=1e-10)
    slope = bl.slopes(posterior, "t", by="a").table.loc["q", "slope"]
    assert slope == pytest.approx((draws[:, names.index("t")] + draws[:, names.index("a[q]:t")]).mean(), rel=1e-9)


def test_a_posterior_is_transformed_draw_by_draw(posterior):
    link, back = (bl.means(posterior, "a", scale=scale) for scale in ("link", "response"))
    np.testing.assert_allclose(back["mean"], np.exp(link.combinations.draws).mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(back["lower"], np.exp(link["lower"]), rtol=1e-10)
    assert back.contrasts().table.columns[0] == "ratio"


def test_what_a_posterior_has_not(posterior):
    with pytest.raises(MethodError, match="a posterior has none"):
        bl.contrasts(posterior, of="a", adjust="tukey")
    with pytest.raises(MethodError, match="no F test"):
        _ = bl.contrasts(posterior, of="a").joint
    with pytest.raises(MethodError, match="letters need"):
        bl.means(posterior, "a").letters()
    with pytest.raises(MethodError, match="Leave df out"):
        bl.means(posterior, "a", df="satterthwaite")


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda fit: bl.means(fit, "z"), MethodError, "'z' is no predictor of .*; its predictors: a, b"),
        (lambda fit: bl.means(fit, "a", by="a"), MethodError, "'a' is named twice"),
        (lambda fit: bl.means(fit, "a", at={"a": "w"}), UnseenLevelError, "'w' is no level of 'a'; levels: p, q, r, s"),
        (lambda fit: bl.means(fit, "a", weights="outer"), MethodError, "weights='outer' is not known"),
        (lambda fit: bl.means(fit, "a", scale="response"), MethodError, "'y' is on its own scale"),
        (lambda fit: bl.means(fit, "a", level=95), MethodError, "level=95 must be a probability"),
        (lambda fit: bl.means(fit, "a", df="kr"), MethodError, "df='kr' is not known"),
        (lambda fit: bl.means(fit.model, "a"), MethodError, "of a PointFit or a Posterior, not of Model"),
        (lambda fit: bl.slopes(fit, "a"), MethodError, "'a' is a factor; it has means"),
        (lambda fit: bl.contrasts(fit), MethodError, "say what is compared"),
        (lambda fit: bl.contrasts(bl.means(fit, "a"), of="b"), MethodError, "belong to the means"),
        (lambda fit: bl.contrasts(bl.means(fit, "a"), by="b"), MethodError, "by='b' is not among what is compared: a"),
        (lambda fit: bl.contrasts(bl.means(fit, "a"), by="a"), MethodError, "nothing left to compare"),
        (lambda fit: bl.contrasts(fit, "helmert", of="a"), MethodError, "'helmert' are not known"),
        (lambda fit: bl.contrasts(fit, "control", of="a", reference="w"), MethodError, "none of the levels compared"),
        (lambda fit: bl.contrasts(fit, "control", of="a", adjust="tukey").table, MethodError, "all pairwise differences"),
        (lambda fit: bl.contrasts(fit, [[1, -1]], of="a"), MethodError, "needs 4 finite weights"),
        (lambda fit: bl.contrasts(fit, {"c": {"w": 1}}, of="a"), MethodError, "'w' is none of p, q, r, s"),
        (lambda fit: bl.contrasts(fit, of="a", adjust="scheffe").table, MethodError, "adjust='scheffe' is not known"),
    ],
)  # fmt: skip
def test_refusals(call, error, said):
    with pytest.raises(error, match=said):
        call(fitted("two"))


def test_pages():
    means = bl.means(fitted("three"), "b", by="c")
    assert "<td" in means._repr_html_()
    assert "Averaged over a, weights equal." in str(means)
    assert f"Covariates at t = {DATA['t'].mean():.5g}." in str(means)
    pairs = means.contrasts()
    assert "Tukey's, for comparing 3 means, in each c separately" in str(pairs)
    assert "The formula has interactions with b" in str(bl.means(fitted("two"), "a"))
    assert repr(means) == "Means(c, b, 6 rows)"
    assert [text.get_text() for text in pairs.plot().axes[0].get_yticklabels()] == ["x - y", "x - z", "y - z"]


def test_profiles_of_numbers_and_panels():
    figure = bl.means(fitted("three"), ["b", "a"], by="c").plot()
    assert len(figure.axes) == 4
    line = bl.means(oats_line(), "nitro", by="variety", at={"nitro": [0, 0.6]}).plot(intervals=False).axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata(), [0, 0.6])
    with pytest.raises(MethodError, match="x='w' is none of"):
        bl.means(fitted("two"), "a").plot(x="w")
