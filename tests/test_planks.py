"""The exercise on drying beech wood (J. Franc, 01NAEX lecture 10, Czech Technical University), step by step.

Fits and mean squares in full are in models/planks/reference.json, the Tukey tests of the mixed model in test_means.py.
"""

import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

import bayeslmm as bl

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT.parent / "shared/data/planks.csv"
NOTEBOOK = ROOT / "examples" / "beech-wood.ipynb"
needs_data = pytest.mark.skipif(
    not FILE.is_file(), reason="planks.csv may not be passed on; it is looked for in ../shared/data"
)
FIXED = "humidity ~ plank * width + plank * depth + width:depth"
MEAN_SQUARES = {"plank": 15.1002, "width": 11.9696, "depth": 31.59695, "plank:width": 1.6530, "plank:depth": 0.2768,
                "width:depth": 0.4377, "Residual": 0.1549}  # fmt: skip


@pytest.fixture(scope="module")
def planks():
    return pd.read_csv(FILE).astype({"plank": "category", "width": "category", "depth": "category"})


@pytest.fixture(scope="module")
def simple():
    return bl.fit(bl.load(ROOT / "models/planks", data=FILE))


@pytest.fixture(scope="module")
def profiles():
    return bl.fit(bl.load(ROOT / "models/planks", data=FILE, variant="interactions"))


@pytest.fixture(scope="module")
def squares(planks):
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    return anova_lm(ols(FIXED, planks).fit())


@needs_data
def test_the_numbers_of_the_exercise(squares, simple, profiles):
    """Half a unit of the last digit given; lme4 1.1-31 stops where its variances are right to 3e-5."""
    for term, value in MEAN_SQUARES.items():
        assert squares["mean_sq"][term] == pytest.approx(value, abs=5e-5)
    assert squares["df"]["Residual"] == 152
    assert simple.loglik == pytest.approx(-331.91, abs=5e-3)
    assert simple.sd["plank"].iloc[0] ** 2 == pytest.approx(0.980, abs=5e-4)
    assert simple.sigma**2 == pytest.approx(0.4047, abs=5e-5)
    for group, value in {"plank": 0.88833, "plank:width": 0.29963, "plank:depth": 0.04064}.items():
        assert profiles.sd[group].iloc[0] ** 2 == pytest.approx(value, abs=3.5e-5)
    assert profiles.sigma**2 == pytest.approx(0.15490, abs=5e-6)


@needs_data
def test_each_term_is_tested_against_its_own_mean_square(squares, profiles):
    """Balanced, and no variance at 0: F and its degrees of freedom are those of the expected mean squares."""
    tests = bl.anova(profiles, df="kenward-roger").table
    for term, error in {"width": "plank:width", "depth": "plank:depth", "width:depth": "Residual"}.items():
        # REML's variances are right to 2e-6 (twice the sd's tolerance)
        assert tests.F[term] == pytest.approx(squares["mean_sq"][term] / squares["mean_sq"][error], rel=1e-5)
        assert tests.DenDF[term] == pytest.approx(squares["df"][error], rel=1e-4)


@needs_data
def test_without_profiles_the_errors_are_pooled(squares, simple):
    """With a random plank only, everything but plank, width and depth is error: 274 degrees of freedom."""
    rest = ["plank:width", "plank:depth", "width:depth", "Residual"]
    assert simple.sigma**2 == pytest.approx(squares["sum_sq"][rest].sum() / 274, rel=1e-6)
    tests = bl.anova(simple, df="kenward-roger").table
    # lmerTest 3.1-3 with pbkrtest 0.5.2
    np.testing.assert_allclose(tests.F[["width", "depth"]], [29.57376732, 78.06762506], rtol=1e-7)
    np.testing.assert_allclose(tests.p[["width", "depth"]], [2.347536721e-12, 4.087520819e-44], rtol=1e-5)


@needs_data
def test_the_standard_error_of_a_difference_is_that_of_twenty_planks(planks, profiles):
    """The planks' own three differences of widths have squared standard errors whose mean is the model's square."""
    means = planks.groupby(["plank", "width"], observed=True)["humidity"].mean().unstack()
    own = [(means[a] - means[b]).sem() for a, b in ((1, 2), (1, 3), (2, 3))]
    of_model = bl.means(profiles, "width").contrasts().table["se"]
    np.testing.assert_allclose(of_model, np.sqrt(np.mean(np.square(own))), rtol=2e-6)


@needs_data
def test_deletions_and_chain_of_models(simple, profiles):
    """lmerTest's ranova and lme4's anova: logLik and likelihood ratio of each line."""
    found = bl.ranova(profiles).table
    expected = {
        "(1 | plank)": (-287.7375260, 32.155650506),
        "(1 | plank:width)": (-332.0288424, 120.738283362),
        "(1 | plank:depth)": (-276.1567778, 8.994154269),
    }
    for term, numbers in expected.items():
        np.testing.assert_allclose(found.loc[term, ["logLik", "LRT"]].to_numpy(float), numbers, atol=2e-6)
    chain = bl.anova(simple, profiles).table.iloc[1]
    numbers = [547.2261352, 617.5980022, -254.6130676, 136.0759619, 10]
    np.testing.assert_allclose(chain[["AIC", "BIC", "logLik", "Chisq", "Df"]].to_numpy(float), numbers, atol=2e-6)


# emmeans 1.8.4-1 on lmerTest's fit, Kenward–Roger: p of 1 − 2, 1 − 3, 2 − 3 of width, and of 3 − 5 and 5 − 7 of depth
ADJUSTED = {
    "none": ([0.1429316751682, 0.0281518851388, 0.0005418680471], [3.451147250e-03, 9.098804676e-04]),
    "tukey": ([0.304189610407, 0.070575226512, 0.001538071018], [0.027667354533, 0.007872323995]),
    "holm": ([0.142931675168, 0.056303770278, 0.001625604141], [1.035344175e-02, 3.639521870e-03]),
    "bonferroni": ([0.428795025504, 0.084455655416, 0.001625604141], [3.451147250e-02, 9.098804676e-03]),
    "sidak": ([0.370426651684, 0.082100380681, 0.001624723437], [0.033980406605, 0.009061640214]),
    "bh": ([0.142931675168, 0.042227827708, 0.001625604141], [4.313934062e-03, 1.299829239e-03]),
}


@needs_data
@pytest.mark.parametrize("rule", ADJUSTED)
def test_corrections_of_p_values(rule, profiles):
    width, depth = ADJUSTED[rule]
    # lme4's variances are right to 3e-5: so are the p-values, relative
    found = bl.contrasts(profiles, of="width", adjust=rule).table["p"]
    np.testing.assert_allclose(found, width, rtol=2e-4)
    found = bl.contrasts(profiles, of="depth", adjust=rule).table["p"]
    np.testing.assert_allclose(found[["3 - 5", "5 - 7"]], depth, rtol=2e-4)


@needs_data
def test_tukey_hsd_with_planks_fixed(planks):
    """R 4.2.2, TukeyHSD(aov(…), c("width", "depth")): differences, simultaneous intervals, p."""
    fit = bl.fit(bl.Model(FIXED, planks))
    width = bl.contrasts(fit, of="width").table
    np.testing.assert_allclose(width["lower"], [-0.4037420699, 0.2832579301, 0.5552579301], atol=1e-6)
    np.testing.assert_allclose(width["upper"], [-0.1402579301, 0.5467420699, 0.8187420699], atol=1e-6)
    assert width["p"].iloc[0] == pytest.approx(7.673e-06, rel=1e-3)
    depth = bl.contrasts(fit, of="depth").table.loc[["1 - 9", "3 - 5", "3 - 7", "5 - 7"]]
    np.testing.assert_allclose(depth["p"], [0.9115692339, 0.0008090010, 0.9778605352, 0.0000803483], atol=1e-7)


@needs_data
def test_depths_within_each_width(profiles):
    """emmeans 1.8.4-1: pairs(emmeans(fit, "depth", by = "width")), printed to 4 digits of t and p."""
    table = bl.means(profiles, "depth", by="width").contrasts().table
    np.testing.assert_allclose(table["df"], 209.8727, atol=5e-4)
    for width, t, p in (("1", -2.968, 0.0274), ("2", -1.037, 0.8379), ("3", -2.217, 0.1775)):
        row = table.loc[(width, "3 - 5")]
        assert row["t"] == pytest.approx(t, abs=5e-4)
        assert row["p"] == pytest.approx(p, abs=1e-4)


@needs_data
@pytest.mark.parametrize("across", ["width", "depth"])
def test_profiles_of_the_planks_are_their_averages(across, planks):
    fit = bl.fit(bl.Model(FIXED, planks))
    means = bl.means(fit, across, by="plank")
    cells = planks.groupby(["plank", across], observed=True)["humidity"].mean()
    found = means.table["mean"]
    own = [cells[int(plank), int(level)] for plank, level in found.index]
    np.testing.assert_allclose(found, own, atol=1e-9)  # balanced, all interactions of two factors in the model
    assert len(means.plot().axes[0].lines) == 20


@needs_data
def test_the_logarithm_fits_better_and_the_spread_stops_growing(profiles):
    """Deviances on the scale of humidity: 449.94 and 509.23, from lme4 with the Jacobian added."""
    logs = profiles.model.update(f"log(humidity) ~ {profiles.model.formula.text.partition('~')[2]}")
    humidity = np.asarray(profiles.model.design.y)
    assert -2 * bl.fit(profiles.model, "ML").loglik == pytest.approx(509.2261, abs=5e-5)
    assert -2 * bl.fit(logs, "ML").loglik + 2 * np.log(humidity).sum() == pytest.approx(449.9447, abs=5e-5)


@needs_data
@pytest.mark.slow
def test_posterior_of_the_comparisons(profiles):
    """Balanced: the generalised least squares estimate is the same for every θ, so that the posterior mean is that of
    REML up to the wide prior (sd 7 or more against 0.2: less than 1e-3 of an estimate) and the Monte Carlo error."""
    posterior = bl.sample(profiles.model, draws=300, tune=300, chains=4, cores=1, seed=4, progress=False)
    for factor in ("width", "depth"):
        found = bl.contrasts(posterior, of=factor).table
        expected = bl.contrasts(profiles, of=factor).table
        error = found["se"] / np.sqrt(400)  # at least 400 effective draws of 1200
        assert (np.abs(found["estimate"] - expected["estimate"]) < 4 * error + 1e-3 * expected["estimate"].abs()).all()
        assert (found["se"] / expected["se"]).between(0.85, 1.3).all()


def numbers_of(output):
    """Every number that an output shows as text, in order."""
    shown = [str(part) for kind, part in output.get("data", {}).items() if kind in ("text/plain", "text/html")]
    text = re.sub(r"<[^>]+>", " ", "\n".join([str(output.get("text", "")), *shown]))
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def runs(values, length):
    return {tuple(values[i : i + length]) for i in range(len(values) - length + 1)}


@needs_data
def test_the_notebook_shows_no_measurements(planks):
    """No output has the five measurements of a plank and width one after another, nor a row of the file."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    outputs = [numbers_of(output) for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum(map(len, outputs)) > 500
    kept = {tuple(rows) for _, rows in planks.groupby(["plank", "width"], observed=True)["humidity"]}
    assert len(next(iter(kept))) == 5
    for numbers in outputs:
        assert not runs(numbers, 5) & kept
    rows = [tuple(row) for row in planks.astype(float).to_numpy()]
    assert not any(runs(numbers, 4) & set(rows) for numbers in outputs)


def test_the_site_shows_the_stored_notebook_where_the_data_are_absent():
    text = (ROOT / "docs/conf.py").read_text(encoding="utf-8")
    assert re.search(rf'"{NOTEBOOK.stem}": \("planks.csv", "PLANKS_CSV"\)', text)
    assert re.search(r"nb_execution_excludepatterns = .*without_data\(\)", text)
    assert NOTEBOOK.is_file()
