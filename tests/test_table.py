"""Summaries as text, HTML and Markdown."""

from __future__ import annotations

import re
import subprocess
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl
from bayeslmm.errors import MethodError
from bayeslmm.summary import MOST_EFFECTS, default_df, point_html, point_summary
from bayeslmm.table import frame_table, numbers, p_shown, posterior_html, posterior_text, to_markdown

NUMBER = re.compile(r"-?\d+\.?\d*")
SLEEPSTUDY = """\
Linear mixed model fit by REML
Formula: Reaction ~ Days + (Days | Subject)

    AIC     BIC  logLik  REML criterion  df  df.resid
 1755.6  1774.8  -871.8          1743.6   6       174

Scaled residuals:
     Min       1Q  Median      3Q     Max
 -3.9536  -0.4634  0.0231  0.4634  5.1793

Random effects:
 Groups    Name       Variance  Std.Dev.  Corr
 Subject   Intercept    612.09    24.740
           Days          35.07     5.922  0.07
 Residual               654.94    25.592
Number of obs: 180, groups: Subject, 18

Fixed effects:
            Estimate  Std. Error  t value     df         p
 Intercept   251.405       6.825   36.838  17.00  1.17e-17
 Days         10.467       1.546    6.771  17.00  3.26e-06
df: Satterthwaite

Correlation of fixed effects:
       Intercept
 Days     -0.138"""


def sleep(formula: str = "Reaction ~ Days + (Days | Subject)", **changes: Any) -> bl.Model:
    return bl.load("models/sleepstudy").update(formula, **changes)


@pytest.fixture(autouse=True)
def _in_the_checkout(root, monkeypatch):
    monkeypatch.chdir(root)


@pytest.fixture(scope="module")
def data(root) -> pd.DataFrame:
    frame = pd.read_csv(root / "models/sleepstudy/data.csv")
    return frame.assign(Subject=frame["Subject"].astype(str), third=np.tile(list("abcde"), 36))


@pytest.fixture(scope="module")
def posterior(root) -> bl.Posterior:
    model = bl.load(root / "models/sleepstudy")
    return bl.sample(model, draws=50, tune=100, chains=2, seed=1, progress=False)


class Cells(HTMLParser):
    """Collects the cells of every table, and checks that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1] in ("td", "th"):
            self.cells.append(data)


def cells(html: str) -> list[str]:
    parser = Cells()
    parser.feed(html)
    assert not parser.open
    return parser.cells


def test_the_summary_is_laid_out_as_lme4s():
    assert point_summary(bl.fit(sleep())) == SLEEPSTUDY


def test_ml_prints_the_deviance():
    text = bl.fit(sleep(), "ML").summary()
    assert "fit by maximum likelihood" in text
    assert " 1763.9  1783.1  -876.0    1751.9   6       174" in text
    assert "deviance" in text
    assert "REML" not in text


def test_map_prints_the_log_posterior_and_no_criteria():
    fit = bl.fit(sleep(), "MAP")
    text = fit.summary()
    assert f"{fit.logposterior:.1f}" in text
    assert "log posterior" in text
    assert "AIC and BIC are not defined for MAP" in text
    assert "nan" not in text


def test_the_coefficients_are_tested_by_the_rule_that_is_named():
    fit, text = bl.fit(bl.load("models/tablets_missing")), {}
    for df in ("satterthwaite", "kenward-roger", "containment", "asymptotic", None):
        text[df] = fit.summary(df=df).partition("Fixed effects:\n")[2].partition("\n\n")[0]
    assert text["satterthwaite"] == str(fit).partition("Fixed effects:\n")[2].partition("\n\n")[0]
    rows = {df: lines.splitlines()[2].split()[2:] for df, lines in text.items()}
    assert rows["satterthwaite"] == ["0.08697", "-0.829", "11.70", "0.4236"]  # lmerTest 3.1-3
    assert rows["kenward-roger"] == ["0.08962", "-0.805", "11.70", "0.4371"]  # pbkrtest 0.5.2
    assert rows["containment"] == ["0.08697", "-0.829", "9.00", "0.4285"]  # nlme 3.1-162
    assert rows["asymptotic"] == ["0.08697", "-0.829", "0.4070"]
    assert rows[None] == ["0.08697", "-0.829"]
    assert "z value" in text["asymptotic"]
    assert text["kenward-roger"].endswith("df and Std. Error: Kenward and Roger")
    assert text[None].count("\n") == 2
    with pytest.raises(MethodError, match="'students' is not known"):
        fit.summary(df="students")


def test_where_satterthwaite_is_not_the_default_the_line_says_so(data):
    assert "z: normal approximation (the mode is not a REML or ML estimate)" in bl.fit(sleep(), "MAP").summary()
    held = bl.fit(sleep(), fixed={"sd_Subject[Days]": 5.0})
    assert default_df(held)[0] == "asymptotic"
    assert "need every variance estimated" in held.summary()
    assert "df: Satterthwaite" in bl.fit(sleep(), "ML").summary()


def test_many_crossed_effects_have_z_tests_by_default():
    rng = np.random.default_rng(1)
    n, levels = 4000, MOST_EFFECTS + 1
    columns = {"g": np.arange(n) % (levels + 9), "h": rng.permutation(np.arange(n) % levels)}
    table = {"y": rng.normal(size=n), **{name: codes.astype(str) for name, codes in columns.items()}}
    text = bl.fit(bl.Model("y ~ 1 + (1 | g) + (1 | h)", table)).summary()
    assert f"z: normal approximation ({levels} effects outside the largest group" in text


def test_tail_probabilities_are_never_printed_as_nothing():
    assert [p_shown(p) for p in (0.5, 1e-4, 9.9e-5, 0.0, np.nan)] == ["0.5000", "0.0001", "9.90e-05", "<1e-300", ""]


@pytest.mark.r
@pytest.mark.parametrize("method", ["REML", "ML"])
def test_every_number_of_lme4s_summary_is_printed(method):
    code = (
        "suppressMessages(library(lme4)); d <- read.csv('models/sleepstudy/data.csv');"
        f"print(summary(lmer(Reaction ~ Days + (Days | Subject), d, REML = {str(method == 'REML').upper()},"
        "control = lmerControl(optimizer = 'bobyqa', optCtrl = list(rhoend = 1e-10)))))"
    )
    theirs = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True).stdout
    ours = bl.fit(sleep(), method).summary()
    for number in NUMBER.findall(theirs.partition("Scaled residuals")[2]):
        near = min(abs(float(number) - float(own)) for own in NUMBER.findall(ours))
        assert near <= 1.5 * 10.0 ** -len(number.partition(".")[2]), number


def test_a_zero_variance_is_named_and_printed_as_zero():
    text = bl.fit(bl.load("models/dyestuff2")).summary()
    assert "Batch     Intercept      0.00     0.000" in text
    assert "Singular fit: sd_Batch[Intercept] is 0." in text


def test_a_correlation_of_one_is_named(data):
    rng = np.random.default_rng(1)
    level = rng.normal(size=18)
    days = data["Days"].to_numpy()
    u = np.repeat(level, 10)
    y = 10 * u + 5 * u * days + rng.normal(size=180)
    text = bl.fit(bl.Model("y ~ Days + (Days | Subject)", data.assign(y=y))).summary()
    assert "Singular fit: corr_Subject[Intercept, Days] is 1." in text


def test_a_combination_with_variance_zero_is_shown(data):
    text = bl.fit(bl.Model("Reaction ~ Days + (third | Subject)", data)).summary()
    said = " ".join(text.partition("Singular fit: ")[2].split())
    assert said.startswith("variance 0 of ")
    assert said.endswith("of the standardised effects on Subject.")
    assert "·third[b]" in said


def test_correlations_stand_under_their_effect_and_only_where_the_model_has_them(data):
    formula = "Reaction ~ Days + (Days | Subject) + (0 + I(Days**2) | Subject)"
    fit = bl.fit(bl.Model(formula, data))
    head, _, slope, square = fit.summary().partition("Random effects:\n")[2].splitlines()[:4]
    assert slope.rindex(f"{fit.corr['Subject'].loc['Intercept', 'Days']:.2f}") == head.index("Corr")
    assert len(square) < head.index("Corr")


def test_uncorrelated_effects_have_no_correlation_column():
    assert "Corr" not in bl.fit(sleep("Reaction ~ 1 + (Days || Subject)")).summary()


def test_dropped_rows_and_columns_are_said(data):
    frame = data.assign(double=2 * data["Days"] + 1)
    frame.loc[[3, 7], "Reaction"] = np.nan
    text = bl.fit(bl.Model("Reaction ~ Days + double + (1 | Subject)", frame)).summary()
    assert "2 rows dropped: missing values." in text
    assert "Fixed effects dropped, linear combinations of those before them: double." in text
    assert "Number of obs: 178" in text


def test_held_parameters_are_said():
    text = bl.fit(sleep(), fixed={"sd_Subject[Days]": 6.0, "sigma": 25.0}).summary()
    assert "Held fixed, not estimated: sd_Subject[Days] = 6, sigma = 25." in text


def test_weights_and_offset_are_said(data):
    frame = data.assign(w=1.0)
    text = bl.fit(bl.Model("Reaction ~ Days + (1 | Subject)", frame, weights="w", offset=np.zeros(180))).summary()
    assert "Weights: w\nOffset: given as an array\n" in text


def test_scaled_residuals_use_the_weights(data):
    w = np.tile([1.0, 4.0], 90)
    fit = bl.fit(bl.Model("Reaction ~ Days + (1 | Subject)", data, weights=w))
    largest = np.max(fit.residuals.to_numpy() * np.sqrt(w)) / fit.sigma
    assert f" {largest:.4f}\n" in fit.summary()


def test_not_converged_is_said():
    from dataclasses import replace

    fit = bl.fit(sleep())
    lost = replace(fit, optimum=replace(fit.optimum, converged=False, message="the gradient did not vanish"))
    assert lost.summary().endswith("NOT CONVERGED: the gradient did not vanish")


def test_a_model_without_random_or_without_fixed_effects_prints(data):
    linear = bl.fit(bl.Model("Reaction ~ Days", data)).summary()
    assert linear.startswith("Linear model fit by REML")
    assert "groups" not in linear
    effects = bl.fit(bl.Model("Reaction ~ 0 + (1 | Subject)", data)).summary()
    assert "Fixed effects" not in effects


def test_many_coefficients_print_without_their_correlations(data):
    text = bl.fit(bl.Model("Reaction ~ Subject", data)).summary()
    assert "Correlation of fixed effects" not in text


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e12])
def test_any_unit_of_the_response_prints_four_digits_and_fits_the_page(data, scale):
    text = bl.fit(bl.Model("y ~ Days + (Days | Subject)", data.assign(y=data["Reaction"] * scale))).summary()
    row = next(line for line in text.splitlines() if line.startswith(" Intercept"))
    estimate, error, t = map(float, row.split()[1:4])
    assert (estimate / scale, error / scale, t) == pytest.approx((251.405, 6.825, 36.838), rel=2e-3)
    assert max(map(len, text.splitlines())) <= 100


def test_html_has_the_numbers_of_the_text():
    fit = bl.fit(sleep())
    html = point_html(fit)
    assert {"612.09", "24.740", "251.405", "-0.138", "1743.6", "Scaled residuals"} <= {*cells(html), "Scaled residuals"}
    assert fit._repr_html_() == html
    assert "color:#" not in html  # the page's own colours, light or dark
    assert 'scope="row"' in html


def test_html_escapes_names():
    frame = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "a<b>&c": [0.0, 1.0, 2.0, 0.0, 2.0, 1.0], "g": list("aabbcc")}
    html = point_html(bl.fit(bl.Model("y ~ `a<b>&c` + (1 | g)", frame)))
    assert "<b>" not in html
    assert any("a<b>&c" in cell for cell in cells(html))


def test_the_posterior_prints_its_summary_and_diagnostics(posterior):
    text = posterior_text(posterior)
    assert str(posterior) == text
    assert "Draws: 2 chains × 50, random effects integrated out" in text
    row = next(line for line in text.splitlines() if line.startswith(" fixef[Days]"))
    assert float(row.split()[1]) == pytest.approx(posterior.fixef["Days"], abs=0.01)
    assert {"corr_Subject[Intercept,", "sd_Subject[Days]", "sigma"} <= set(text.split())
    assert "ranef_" not in text
    for sentence in posterior.diagnostics.sentences:
        assert " ".join(sentence.split()) in " ".join(text.split())


def test_the_posterior_has_html(posterior):
    found = cells(posterior_html(posterior))
    assert "sd_Subject[Days]" in found
    assert "r_hat" in found


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([612.0899, 35.07166, 654.941], ["612.09", "35.07", "654.94"]),
        ([0.0, 13.80631], ["0.00", "13.81"]),
        ([1e-9, 650.0], ["1.000e-09", "650.0"]),
        ([2281.2, 47000.4], ["2281", "47000"]),
        ([1.5e-12, 3e-12], ["1.500e-12", "3.000e-12"]),
        ([4e15, 2e3], ["4.000e+15", "2000"]),
        ([-0.25, float("nan"), float("inf")], ["-0.2500", "–", "inf"]),
        ([], []),
    ],
)
def test_numbers(values, shown):
    assert numbers(values) == shown


def test_markdown_aligns_and_escapes():
    frame = pd.DataFrame({"a|b": ["x|y", "z"], "n": [1, 20], "v": [0.5, 12.25]}, index=pd.Index(["p", "q"], name="row"))
    assert to_markdown(frame, 3) == (
        "| row | a\\|b |   n |      v |\n"
        "|:----|-----:|----:|-------:|\n"
        "| p   | x\\|y |   1 |  0.500 |\n"
        "| q   |    z |  20 | 12.250 |"
    )


def test_a_frame_with_several_index_levels_has_one_label():
    index = pd.MultiIndex.from_tuples([("Subject", "Days"), ("Residual", "")], names=["group", "effect"])
    assert frame_table("", pd.DataFrame({"sd": [1.0, 2.0]}, index=index)).rows[0][0] == "Subject, Days"
