"""The simulation behind docs/coverage.md, in small."""

import runpy
import sys
from typing import Any

import numpy as np
import pytest

import bayeslmm as bl


@pytest.fixture
def script(root, monkeypatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["size_and_coverage.py"])
    return runpy.run_path(str(root / "examples" / "size_and_coverage.py"))


@pytest.mark.slow
def test_kenward_roger_keeps_the_size_that_the_normal_approximation_loses(script):
    """Six groups, three of each kind: 4 degrees of freedom, of which the normal approximation knows nothing."""
    simulation = script["Simulation"](6, "balanced", 2.0, seed=1)
    nsim, rejected = 300, {df: 0 for df in script["RULES"]}
    for _ in range(nsim):
        y = simulation.response(simulation.sd)
        found = simulation.tests(y, simulation.fit(y, method="REML"))
        for df in rejected:
            rejected[df] += found["size", "between", df]
    error = np.sqrt(0.05 * 0.95 / nsim)  # 1.3 %; three of them
    assert abs(rejected["kenward-roger"] / nsim - 0.05) < 3 * error
    assert abs(rejected["satterthwaite"] / nsim - 0.05) < 3 * error
    assert rejected["asymptotic"] / nsim - 0.05 > 3 * error


def test_a_profile_interval_covers_where_the_held_fit_is_near(script):
    simulation = script["Simulation"](6, "unbalanced", 0.5, seed=3)
    said = []
    for _ in range(6):
        y = simulation.response(simulation.sd)
        reml, ml = simulation.fit(y, method="REML"), simulation.fit(y)
        found = simulation.intervals(y, reml, ml)
        intervals = bl.confint(ml, method="profile", parameters=["sd_g", "sigma"])
        for (_, row), name, true in zip(intervals.iterrows(), ("sd_g", "sigma"), (0.5, 1.0), strict=True):
            assert found["cover", name, "profile"] == (row["lower"] <= true <= row["upper"])
            said.append(found["cover", name, "profile"])
    assert sum(said) > 0


def test_the_statistics_do_not_depend_on_the_coefficients(script):
    simulation = script["Simulation"](4, "unbalanced", 0.5, seed=1)
    y = simulation.response(0.5)
    moved = y + 3.0 * np.asarray(simulation.designs["all"].base.X[:, 2]) + 10.0
    p = [bl.coefficients(simulation.fit(v), "satterthwaite").loc["z", ["se", "df", "p"]] for v in (y, moved)]
    np.testing.assert_allclose(p[0].to_numpy(float), p[1].to_numpy(float), rtol=1e-5)  # two optima


def test_a_wald_interval_that_says_nothing_has_no_upper_end():
    """Four groups whose estimated variance is nearly 0: the log of sd has a standard error beyond 700."""
    y = np.random.default_rng(3540).normal(size=24)
    fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", {"y": y, "g": np.repeat(list("abcd"), 6)}))
    assert 0 < fit.group_sd["g"][0] < 0.02
    low, high = bl.confint(fit, method="wald", parameters="sd_g").iloc[0]
    assert low < 1e-300
    assert np.isinf(high)
