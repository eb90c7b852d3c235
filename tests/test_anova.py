"""Likelihood-ratio tests against lme4 and lmerTest, and their reference distributions against simulation and algebra."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f as f_distribution

import bayeslmm as bl
from bayeslmm.errors import MethodError
from bayeslmm.nesting import mixture_p, p_value, reference, spanned

# From R: lme4 1.1-31 anova() (refitted by ML) and lmerTest 3.1-3 ranova() (REML); formulas small, large.
LRT = {
    "sleepstudy": [
        ("Reaction ~ 1 + (1 | Subject)", "Reaction ~ Days + (1 | Subject)", -955.270529036529, -897.039321502613, 116.462415067833, 1, 3.76446147654521e-27),
        ("Reaction ~ Days + (1 | Subject)", "Reaction ~ Days + (Days | Subject)", -897.039321502613, -875.969672231599, 42.139298542028, 2, 7.07241254718902e-10),
        ("Reaction ~ Days + (Days || Subject)", "Reaction ~ Days + (Days | Subject)", -876.001627569941, -875.969672231599, 0.0639106766852819, 1, 0.800418431976803),
        ("Reaction ~ 1 + (Days | Subject)", "Reaction ~ Days + (Days | Subject)", -887.737940980538, -875.969672231599, 23.5365374978776, 1, 1.22563995718952e-06),
    ],
    "penicillin_blocks": [
        ("yield ~ 1 + (1 | blend)", "yield ~ treat + (1 | blend)", -60.6623680400379, -58.6386846271496, 4.04736682577659, 3, 0.25639458503033),
    ],
}  # fmt: skip
RANOVA = [
    ("sleepstudy", "Reaction ~ Days + (Days | Subject)", "Days in (Days | Subject)", 4, -893.232542697461, 42.8368134349691, 2, 4.99004143060735e-10, (1, 2)),
    ("sleepstudy", "Reaction ~ Days + (1 | Subject)", "(1 | Subject)", 3, -946.831831736054, 107.198578077188, 1, 4.02725545386431e-25, (0, 1)),
    ("penicillin_blocks", "yield ~ treat + (1 | blend)", "(1 | blend)", 5, -54.682720068182, 2.76290753992113, 1, 0.0964727584226545, (0, 1)),
]  # fmt: skip
OATS = [
    111, 130, 157, 174, 117, 114, 161, 141, 105, 140, 118, 156, 61, 91, 97, 100, 70, 108, 126, 149, 96, 124, 121, 144,
    68, 64, 112, 86, 60, 102, 89, 96, 89, 129, 132, 124, 74, 89, 81, 122, 64, 103, 132, 133, 70, 89, 104, 117,
    62, 90, 100, 116, 80, 82, 94, 126, 63, 70, 109, 99, 53, 74, 118, 113, 89, 82, 86, 104, 97, 99, 119, 121,
]  # fmt: skip


def fitted(name: str, formula: str, method: str = "REML") -> bl.PointFit:
    model = bl.load(f"models/{name}")
    contrasts = {name: c for name, c in (model.arguments["contrasts"] or {}).items() if name in formula}
    return bl.fit(model.update(formula, contrasts=contrasts or None), method)


@pytest.fixture(autouse=True)
def at_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in LRT.items() for case in cases])
def test_likelihood_ratios_are_those_of_lme4(name: str, case: tuple) -> None:
    small, large, loglik0, loglik1, chisq, df, p = case
    found = bl.anova(fitted(name, large), fitted(name, small))
    assert found.table.index.tolist() == [small, large]
    np.testing.assert_allclose(found.table["logLik"], [loglik0, loglik1], atol=1e-6)
    np.testing.assert_allclose(found.table["deviance"], [-2 * loglik0, -2 * loglik1], atol=1e-5)
    np.testing.assert_allclose(
        found.table["AIC"], -2 * np.array([loglik0, loglik1]) + 2 * found.table["npar"], atol=1e-5
    )
    row = found.table.iloc[1]
    assert row["Df"] == df
    assert row["Chisq"] == pytest.approx(chisq, abs=1e-5)
    assert row["p"] == pytest.approx(p, rel=1e-4)
    assert any("refitted by ML" in note for note in found.notes)


def test_the_penicillin_test_of_the_lecture() -> None:
    table = bl.anova(*(bl.fit(bl.load("models/penicillin_blocks", variant=v)) for v in ("null", "treatment"))).table
    np.testing.assert_allclose(table["AIC"], [127.3247, 129.2774], atol=1e-3)
    np.testing.assert_allclose(table["BIC"], [130.3119, 135.2518], atol=1e-3)
    np.testing.assert_allclose(table.iloc[1][["Chisq", "Df", "p"]].astype(float), [4.0474, 3, 0.2564], atol=1e-4)


@pytest.mark.parametrize("case", RANOVA, ids=lambda case: case[2])
def test_deletions_are_those_of_lmertest(case: tuple) -> None:
    name, formula, row, npar, loglik, lrt, df, p, mixture = case
    if (
        name == "penicillin_blocks"
    ):  # the restricted likelihood depends on the coding of X; lmerTest's is by sum contrasts
        assert bl.load("models/penicillin_blocks").arguments["contrasts"] == {"treat": "sum"}
    table = bl.ranova(fitted(name, formula)).table
    assert table.index.tolist() == ["<none>", row]
    found = table.loc[row]
    assert (found["npar"], found["Df"]) == (npar, df)
    np.testing.assert_allclose(found[["logLik", "LRT"]].astype(float), [loglik, lrt], atol=1e-5)
    assert found["p"] == pytest.approx(p, rel=1e-4)
    assert found["p_mixture"] == pytest.approx(mixture_p(lrt, mixture), rel=1e-4)


def oats() -> pd.DataFrame:
    """Yates's split-plot experiment (nlme::Oats): six blocks, three varieties, four amounts of nitrogen."""
    plots = product(["I", "II", "III", "IV", "V", "VI"], ["Victory", "Golden Rain", "Marvellous"], [0.0, 0.2, 0.4, 0.6])
    return pd.DataFrame(list(plots), columns=["Block", "Variety", "nitro"]).assign(**{"yield": OATS})


def test_nested_groups_against_r() -> None:
    full = bl.Model("yield ~ nitro * Variety + (1 | Block/Variety)", oats())
    table = bl.ranova(bl.fit(full)).table.loc[["<none>", "(1 | Variety:Block)", "(1 | Block)"]]
    np.testing.assert_allclose(table["logLik"], [-281.618598666316, -285.96507209649, -284.107700704364], atol=1e-5)
    np.testing.assert_allclose(table["LRT"].iloc[1:], [8.69294686034982, 4.9782040760972], atol=1e-5)
    np.testing.assert_allclose(table["p"].iloc[1:], [0.00319443740305247, 0.0256686164264825], atol=1e-6)
    found = bl.anova(bl.fit(full.update("yield ~ nitro + Variety + (1 | Block/Variety)")), bl.fit(full)).table
    np.testing.assert_allclose(found["BIC"], [631.044394058168, 638.551611254483], atol=1e-5)
    np.testing.assert_allclose(found[["Chisq", "Df", "p"]].iloc[1], [1.0461150417168, 2, 0.592705565081983], atol=1e-5)


def test_missing_cells_against_r() -> None:
    full = bl.load("models/tablets_missing")
    table = bl.ranova(bl.fit(full)).table
    np.testing.assert_allclose(table["logLik"], [-12.3714968149011, -15.3441295516269], atol=1e-5)
    np.testing.assert_allclose(table[["LRT", "p"]].iloc[1], [5.94526547345146, 0.0147568685655881], atol=1e-5)
    null = full.update(". ~ 1 + (1 | tablet)", contrasts=None)
    found = bl.anova(bl.fit(null), bl.fit(full)).table
    np.testing.assert_allclose(found[["Chisq", "p"]].iloc[1], [0.729078759436501, 0.393181961472734], atol=1e-5)


def test_restricted_likelihoods_are_kept_on_request() -> None:
    small, large = (
        fitted("sleepstudy", "Reaction ~ Days + (1 | Subject)"),
        fitted("sleepstudy", "Reaction ~ Days + (Days | Subject)"),
    )
    kept = bl.anova(small, large, refit=False)
    assert kept.table["Chisq"].iloc[1] == pytest.approx(42.8368134349691, abs=1e-5)
    assert "REML" in kept.heading
    assert not any("refitted" in note for note in kept.notes)
    with pytest.raises(MethodError, match="different fixed parts"):
        bl.anova(fitted("sleepstudy", "Reaction ~ 1 + (1 | Subject)"), small, refit=False)
    with pytest.raises(MethodError, match="one kind"):
        bl.anova(small, bl.fit(large.model, "ML"), refit=False)


CASES = [
    ("(1 | Subject)", "(Days | Subject)", (1, 2)),
    ("1", "(1 | Subject)", (0, 1)),
    ("(1 | Subject)", "(Days || Subject)", (0, 1)),
    ("(Days || Subject)", "(1 | Subject) + (0 + Days | Subject)", None),
    ("(Days || Subject)", "(Days | Subject)", None),
    ("1", "(Days | Subject)", None),
    ("(Days | Subject)", "(Days + z | Subject)", (2, 3)),
    ("(0 + half | Subject)", "(0 + half + z | Subject)", (2, 3)),
    ("(1 | Subject)", "(0 + half | Subject)", (1, 2)),
    ("(0 + Days | Subject)", "(1 + Days | Subject)", (1, 2)),
    ("(Days | Subject)", "(Days | Subject) + (1 | half:Subject)", (0, 1)),
    ("(1 | Subject)", "(Days + z | Subject)", None),
    ("(z | Subject)", "(Days | Subject)", None),
]


@pytest.mark.parametrize(("small", "large", "mixture"), CASES)
def test_mixtures(small: str, large: str, mixture: tuple[int, int] | None) -> None:
    base = bl.load("models/sleepstudy")
    data = base.arguments["data"].assign(
        z=lambda d: np.sin(d["Days"]), half=lambda d: np.where(d["Days"] < 5, "a", "b")
    )
    one, two = (bl.Model(f"Reaction ~ Days + {random}", data) for random in (small, large))
    assert reference(one, two).mixture == mixture


def test_a_mixture_needs_the_same_fixed_part_and_nested_columns() -> None:
    base = bl.load("models/sleepstudy")
    data = base.arguments["data"].assign(z=lambda d: np.sin(d["Days"]))
    full = bl.Model("Reaction ~ Days + (Days | Subject)", data)
    assert reference(bl.Model("Reaction ~ 1 + (1 | Subject)", data), full).mixture is None
    other = reference(bl.Model("Reaction ~ z + (1 | Subject)", data), full)
    assert not other.nested
    table = bl.anova(*(bl.fit(bl.Model(f, data)) for f in ("Reaction ~ z + (1 | Subject)", full.formula.text))).table
    assert np.isnan(table["p"].iloc[1])


def test_another_coding_is_the_same_model() -> None:
    data = bl.load("models/penicillin_blocks").arguments["data"]
    one = bl.Model("yield ~ treat + (1 | blend)", data, contrasts={"treat": "sum"})
    two = bl.Model("yield ~ 0 + treat + (1 | blend)", data)
    assert spanned(one.X, two.X)
    assert spanned(two.X, one.X)
    assert not spanned(two.X, two.X[:, :2])


def test_p_values() -> None:
    assert p_value(3.841458820694124, 1) == pytest.approx(0.05, rel=1e-10)
    assert p_value(0.0, 0) == 1.0
    assert p_value(2.0, 0) == 0.0
    assert mixture_p(2.705543454095404, (0, 1)) == pytest.approx(0.05, rel=1e-10)  # half of 10 %
    assert mixture_p(0.0, (0, 1)) == 1.0
    assert mixture_p(1e-13, (0, 1)) == pytest.approx(1.0, abs=1e-6)


def test_a_variance_at_zero_has_p_one() -> None:
    fit = bl.fit(bl.load("models/dyestuff2"))
    row = bl.ranova(fit).table.iloc[1]
    assert row["LRT"] == pytest.approx(0.0, abs=1e-9)
    assert row["p_mixture"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("refit", [True, False])
def test_the_simulated_ratio_of_one_variance_has_its_exact_mass_at_zero(refit: bool) -> None:
    rng = np.random.default_rng(4)
    q, r, nsim = 40, 5, 1000
    data = pd.DataFrame({"g": np.repeat(np.arange(q), r), "y": rng.normal(size=q * r)})
    fits = [bl.fit(bl.Model(formula, data)) for formula in ("y ~ 1", "y ~ 1 + (1 | g)")]
    test = bl.bootstrap_test(*fits, nsim, seed=2, refit=refit, progress=False)
    largest = q / (q - 1) if refit else 1.0  # F up to which the estimate is 0, by ML and by REML
    mass = f_distribution.cdf(largest, q - 1, q * (r - 1))
    assert abs(np.mean(test.draws < 1e-8) - mass) < 4 * np.sqrt(mass * (1 - mass) / nsim)
    assert np.mean(test.draws > 2.705543454095404) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / nsim)


def test_deletions_of_several_effects() -> None:
    data = (
        bl.load("models/sleepstudy")
        .arguments["data"]
        .assign(z=lambda d: np.sin(d["Days"]), half=lambda d: np.where(d["Days"] < 5, "a", "b"))
    )
    rows = {
        "(Days + z | Subject)": ["Days in (Days + z | Subject)", "z in (Days + z | Subject)"],
        "(Days || Subject)": ["(1 | Subject)", "Days in (0 + Days | Subject)"],
        "(0 + Days | Subject)": ["Days in (0 + Days | Subject)"],
        "(0 + half | Subject)": ["half in (0 + half | Subject)"],
        "(half || Subject)": ["half in (half || Subject)"],
        "(half * Days | Subject)": ["half:Days in (half * Days | Subject)"],
    }
    for random, names in rows.items():
        fit = bl.fit(bl.Model(f"Reaction ~ Days + {random}", data))
        found = bl.ranova(fit)
        assert found.table.index.tolist() == ["<none>", *names]
        assert (found.table["Df"].iloc[1:] > 0).all()
        assert bl.ranova(fit, reduce=False).table["p"].iloc[1:].notna().all()
    removed = bl.ranova(bl.fit(bl.Model("Reaction ~ Days + (0 + Days | Subject)", data))).fits[1]
    assert removed.model.groups == ()


def test_deletion_keeps_weights_contrasts_and_offset() -> None:
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(list("abcdef"), 6), "f": np.tile(list("uvw"), 12), "x": rng.normal(size=36)})
    data["y"], data["w"] = rng.normal(size=36) + np.repeat(rng.normal(size=6), 6), rng.uniform(1, 2, 36)
    model = bl.Model("y ~ 1 + offset(x) + (f | g)", data, weights="w", contrasts={"f": "sum"})
    found = bl.ranova(bl.fit(model))
    assert found.fits[1].model.formula.text == "y ~ 1 + offset(x) + (1 | g)"
    np.testing.assert_array_equal(found.fits[1].model.design.weights, data["w"])
    np.testing.assert_array_equal(found.fits[1].model.design.offset, data["x"])


def test_printed_pages() -> None:
    found = bl.anova(
        *(bl.fit(bl.load("models/penicillin_blocks", variant=v)) for v in ("null", "main")), labels=["none", "four"]
    )
    assert "4.0474   3  0.2564" in str(found)
    assert found.table.index.tolist() == ["none", "four"]
    assert "<table>" in found._repr_html_()
    assert repr(found) == "Anova(2 models)"


def test_what_cannot_be_compared() -> None:
    model = bl.load("models/sleepstudy")
    fit = bl.fit(model)
    data = model.arguments["data"]
    with pytest.raises(MethodError, match="two fits or more"):
        bl.anova()
    with pytest.raises(MethodError, match="refit and labels belong to a comparison"):
        bl.anova(fit, refit=False, labels=["a"])
    with pytest.raises(MethodError, match="df and type belong to the F tests of one fit"):
        bl.anova(fit, fit, df="satterthwaite", type=3)
    with pytest.raises(MethodError, match="different rows"):
        bl.anova(fit, bl.fit(model.update(data=data.iloc[:100])))
    with pytest.raises(MethodError, match="different responses"):
        bl.anova(fit, bl.fit(model.update("np.log(Reaction) ~ Days + (Days | Subject)")))
    with pytest.raises(MethodError, match="different weights"):
        bl.anova(fit, bl.fit(model.update(weights=np.linspace(1, 2, 180))))
    with pytest.raises(MethodError, match="MAP"):
        bl.anova(fit, bl.fit(model, "MAP"))
    with pytest.raises(MethodError, match="not Model"):
        bl.anova(fit, model)
    with pytest.raises(MethodError, match="labels"):
        bl.anova(fit, fit, labels=["a", "a"])
    with pytest.raises(MethodError, match="no random effects"):
        bl.ranova(bl.fit(model.update("Reaction ~ Days")))
    same = bl.anova(fit, fit)
    assert np.isnan(same.table["p"].iloc[1])
    assert any("no test" in note for note in same.notes)


def test_missing_values_that_decide_the_rows_are_refused() -> None:
    data = bl.load("models/sleepstudy").arguments["data"].assign(z=lambda d: np.sin(d["Days"]))
    data.loc[3, "z"] = np.nan
    fit = bl.fit(bl.Model("Reaction ~ Days + (z | Subject)", data))
    with pytest.raises(MethodError, match="missing"):
        bl.ranova(fit)
