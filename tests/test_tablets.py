"""Where the paired t test and the mixed model of two methods are one, and where they part (examples/tablets.ipynb).

The lecture's numbers (J. Franc, 01NAEX lecture 10, Czech Technical University) are in models/tablets*/reference.json and test_means.py.
"""

import numpy as np
import pytest
from scipy import stats

import bayeslmm as bl


def pairs(first, second):
    columns = {"y": [*first, *second], "method": ["a"] * len(first) + ["b"] * len(second)}
    return bl.fit(bl.Model("y ~ method + (1 | unit)", columns | {"unit": [f"{i}" for i in range(len(first))] * 2}))


@pytest.mark.parametrize("df", ["satterthwaite", "kenward-roger", "containment"])
def test_complete_pairs_with_a_positive_covariance_are_the_paired_t_test(df):
    rng = np.random.default_rng(8)
    first = rng.normal(size=9)
    second = first + rng.normal(0.3, 0.5, 9)
    row = bl.coefficients(pairs(first, second), df=df).iloc[1]
    paired = stats.ttest_rel(second, first)
    # REML's variances are right to 2e-6
    np.testing.assert_allclose(row[["se", "t"]], [stats.sem(second - first), paired.statistic], rtol=2e-6)
    assert row["df"] == pytest.approx(8, rel=1e-5)
    assert row["p"] == pytest.approx(paired.pvalue, rel=1e-5)


def test_a_negative_covariance_leaves_the_two_sample_t_test():
    """The variance between units cannot be negative: it is 0, and both methods' values are independent samples."""
    first = np.sort(np.random.default_rng(9).normal(size=10))
    second = first[::-1] + 0.2
    fit = pairs(first, second)
    assert fit.sd["unit"].iloc[0] == 0.0
    row, two = bl.coefficients(fit).iloc[1], stats.ttest_ind(second, first)
    np.testing.assert_allclose(row[["t", "df", "p"]], [two.statistic, 18, two.pvalue], rtol=1e-9)
    assert row["se"] < 0.8 * stats.sem(second - first)


def test_missing_cells_add_the_comparison_between_tablets(root):
    """The difference is that within complete pairs and that between single tablets, weighted by their precisions."""
    fit = bl.fit(bl.load(root / "models/tablets_missing"))
    cells = fit.model.arguments["data"].pivot(index="tablet", columns="method", values="y")
    single = cells[cells.isna().any(axis=1)].mean()
    sigma2, tau2 = fit.sigma**2, fit.sd["tablet"].iloc[0] ** 2
    estimates = np.array([(cells["hplc"] - cells["nir"]).mean(), single["hplc"] - single["nir"]])
    precisions = 1 / np.array([2 * sigma2 / 10, 2 * (tau2 + sigma2) / 5])
    row = bl.coefficients(fit).loc["method[hplc]"]
    # the two sides use the same variances: rounding only
    assert row["estimate"] == pytest.approx(estimates @ precisions / precisions.sum(), rel=1e-9)
    assert row["se"] == pytest.approx(precisions.sum() ** -0.5, rel=1e-9)
