"""The tables of docs/calibration.md on other families: simulation-based calibration on both routes.

python tests/reference/calibration.py [families | clustered] [NSIM]
"""

from __future__ import annotations

import sys
import time

import numpy as np

import bayeslmm as bl

LEFT = {"binomial": "p(y, m)", "poisson": "y", "negativebinomial": "y"}
ROUTES = ("hierarchical", "laplace")
# Draws and warm-up of each posterior: so many that 99 of them are nearly independent.
SIZES = {"families": {"draws": 250, "tune": 250}, "clustered": {"draws": 500, "tune": 250}}


def model(family: str) -> bl.Model:
    """Eight groups of six rows; priors under which counts stay below some hundreds."""
    rng = np.random.default_rng(8)
    table = {
        "x": rng.normal(size=48),
        "g": np.repeat(list("abcdefgh"), 6),
        "m": rng.integers(1, 8, 48),
        "y": np.tile([0, 1], 24),
    }
    priors = {
        "Intercept": bl.Prior("Normal", mu=0, sigma=1),
        "x": bl.Prior("Normal", mu=0, sigma=0.7),
        "sd_g": bl.Prior("HalfNormal", sigma=1),
    }
    priors |= {"alpha": bl.Prior("Gamma", alpha=4, beta=2)} if family == "negativebinomial" else {}
    return bl.Model(f"{LEFT[family]} ~ x + (1 | g)", table, family=family, priors=priors)


def clustered(groups: int = 200, trials: int = 3) -> bl.Model:
    """A few binary responses of each of many groups that differ much: where Laplace's approximation is wrong."""
    table = {"g": np.arange(groups), "y": np.resize(np.arange(trials + 1), groups), "m": np.full(groups, trials)}
    priors = {"Intercept": bl.Prior("Normal", mu=0, sigma=1), "sd_g": bl.Prior("Gamma", alpha=9, beta=3)}
    return bl.Model("p(y, m) ~ 1 + (1 | g)", table, family="binomial", priors=priors)


def line(label: str, found: bl.Calibration, seconds: float) -> None:
    """Rows of a Markdown table, one for each quantity."""
    for name, row in found.frame.iterrows():
        cells = [
            f"{row[column]:.{digits}f}" for column, digits in (("p", 3), ("p_holm", 3), ("z_mean", 2), ("z_sd", 2))
        ]
        print(f"| {label} | {name} | {' | '.join(cells)} | {row['ess']} | {row['verdict']} |")
    print(f"<!-- {label}: {seconds:.0f} s; {' '.join(found.notes)} -->", flush=True)


def main(which: str, nsim: int) -> None:
    """Print the rows."""
    if which == "families":
        cases = [(f"{family}, {route}", model(family), route, True) for family in LEFT for route in ROUTES]
    else:
        routes = (("hierarchical", True), ("laplace", True), ("laplace", False))
        cases = [(route if right else f"{route}, uncorrected", clustered(), route, right) for route, right in routes]
    for label, of, route, right in cases:
        started = time.perf_counter()
        found = bl.calibrate(of, nsim, seed=1, route=route, corrected=right, progress=False, **SIZES[which])
        line(label, found, time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
