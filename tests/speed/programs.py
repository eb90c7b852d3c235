"""One program doing one task, in a process of its own: prints a line of JSON with the seconds of every call.

python programs.py TASK PROGRAM FOLDER MOST_SECONDS
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from importlib.metadata import version  # noqa: E402
from typing import Any  # noqa: E402

Report = dict[str, Any]
Once = Callable[[int], Report | Callable[[], Report]]  # the number of the call -> what to report, worked out untimed


def timed(once: Once, most: float) -> Report:
    """The first call, then warm ones: the faster, the more."""
    seconds: list[float] = []
    cpu: list[float] = []
    effective: list[float] = []
    found: Report = {}
    calls = 1
    while len(seconds) < calls:
        started, busy = time.perf_counter(), time.process_time()
        answer = once(len(seconds))
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - busy)
        found = answer() if callable(answer) else answer
        effective.extend([found["ess"]] if "ess" in found else [])
        if len(seconds) == 1 and 2.5 * seconds[0] < most:
            calls = 2
        if len(seconds) == 2:
            calls = 2 if seconds[1] > 2 else 6 if seconds[1] > 0.1 else 21
    return {**found, "seconds": seconds, "cpu": cpu, "effective": effective}


def bayeslmm_fit(task: Any, frame: Any) -> Once:
    import bayeslmm as bl

    family = {"family": task.family} if task.family else {}
    return lambda call: {"loglik": bl.fit(bl.Model(task.formula, frame, **family), task.method).loglik}


def bayeslmm_refit(task: Any, frame: Any) -> Once:
    import bayeslmm as bl

    model = bl.Model(task.formula, frame)
    return lambda call: {"loglik": bl.fit(model, task.method).loglik}


def statsmodels_fit(task: Any, frame: Any) -> Once:
    """Correlated slopes, or schools within areas as a variance component; MixedLM has no other crossed effects."""
    import statsmodels.formula.api as smf

    asked: dict[str, dict[str, Any]] = {
        "sleepstudy": {"formula": "Reaction ~ Days", "groups": "Subject", "re_formula": "Days"},
        "chem97": {"formula": "score ~ gcsecnt", "groups": "lea", "re_formula": "1",
                   "vc_formula": {"school": "0 + C(school)"}},
    }  # fmt: skip
    return lambda call: {
        "loglik": float(smf.mixedlm(data=frame, **asked[task.table]).fit(reml=task.method == "REML").llf)
    }


def lme_python_fit(task: Any, frame: Any) -> Once:
    import lme_python
    import polars as pl

    groups = {"sleepstudy": ["Subject"], "chem97": ["school", "lea"], "insteval": ["s", "d", "dept", "service"]}
    response = task.formula.split("~")[0].strip()
    table = pl.DataFrame({name: frame[name].to_numpy() for name in frame}).with_columns(
        pl.col(*groups[task.table]).cast(pl.String), pl.col(response).cast(pl.Float64)
    )
    return lambda call: {"loglik": lme_python.lmer(task.formula, data=table, reml=task.method == "REML").log_likelihood}


def gpboost_fit(task: Any, frame: Any, inversion: str) -> Once:
    """No formulas, ML only, no correlated slopes."""
    import gpboost
    import numpy as np

    columns = [np.ones(len(frame)), *(frame[name].to_numpy(float) for name in ("Days", "gcsecnt") if name in frame)]
    X = np.column_stack(columns)
    y = frame[task.formula.split("~")[0].strip()].to_numpy(float)
    groups: dict[str, Any] = {
        "sleepstudy": lambda: {
            "group_data": frame["Subject"].to_numpy(),
            "group_rand_coef_data": X[:, 1:],
            "ind_effect_group_rand_coef": [1],
        },
        "chem97": lambda: {"group_data": frame[["school", "lea"]].to_numpy()},
        "insteval": lambda: {
            "group_data": np.column_stack([frame["s"], frame["d"], 10 * frame["dept"] + frame["service"]])
        },
    }[task.table]()

    def once(call: int) -> Report:
        model = gpboost.GPModel(likelihood="gaussian", matrix_inversion_method=inversion, **groups)
        model.fit(y=y, X=X)
        return {"loglik": -float(model.get_current_neg_log_likelihood())}

    return once


def bayeslmm_sample(task: Any, frame: Any) -> Once:
    import bayeslmm as bl

    def once(call: int) -> Callable[[], Report]:
        post = bl.sample(bl.Model(task.formula, frame), seed=call, progress=False)
        return lambda: described(post.summary().sort_index())

    return once


def bambi_sample(task: Any, frame: Any) -> Once:
    """Bambi reads `(x | g)` as uncorrelated and has no `||`."""
    import arviz
    import bambi

    def once(call: int) -> Callable[[], Report]:
        model = bambi.Model(task.formula.replace("||", "|"), frame)
        tree = model.fit(
            draws=1000, tune=1000, chains=4, inference_method="nutpie", random_seed=call, progressbar=False
        )
        names = {
            "Intercept": "fixef[Intercept]",
            "Days": "fixef[Days]",
            "1|Subject_sigma": "sd_Subject[Intercept]",
            "Days|Subject_sigma": "sd_Subject[Days]",
            "sigma": "sigma",
        }
        return lambda: described(arviz.summary(tree, var_names=list(names), round_to="none").rename(names).sort_index())

    return once


def described(summary: Any) -> Report:
    """The least effective draws, and means and sds by parameter so that two programs can be compared."""
    return {
        "ess": float(summary["ess_bulk"].min()),
        "mean": [float(value) for value in summary["mean"]],
        "sd": [float(value) for value in summary["sd"]],
    }


PROGRAMS: dict[tuple[str, str], Callable[[Any, Any], Once]] = {
    ("refit", "bayeslmm"): bayeslmm_refit,
    ("fit", "bayeslmm"): bayeslmm_fit,
    ("fit", "statsmodels"): statsmodels_fit,
    ("fit", "lme-python"): lme_python_fit,
    ("fit", "gpboost"): lambda task, frame: gpboost_fit(task, frame, "default"),
    ("fit", "gpboost Cholesky"): lambda task, frame: gpboost_fit(task, frame, "cholesky"),
    ("sample", "bayeslmm"): bayeslmm_sample,
    ("sample", "Bambi"): bambi_sample,
}


def import_alone() -> Report:
    started = time.perf_counter()
    import bayeslmm  # noqa: F401

    return {"seconds": [time.perf_counter() - started]}


def build() -> Report:
    """Seconds of Model, and by how much it raised the process's largest memory, in MiB."""
    import resource

    import numpy as np

    import bayeslmm as bl

    unit = 1 if sys.platform == "darwin" else 1024
    rng = np.random.default_rng(1)
    bl.Model("y ~ x + (1 | g)", {"y": rng.normal(size=100), "x": rng.normal(size=100), "g": rng.integers(10, size=100)})
    rows = 1_000_000
    data = {"y": rng.normal(size=rows), "x": rng.normal(size=rows), "g": rng.integers(100_000, size=rows)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    bl.Model("y ~ x + (1 | g)", data)
    seconds = time.perf_counter() - started
    raised = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": [seconds], "mib": raised * unit / 2**20}


def main(name: str, program: str, folder: str, most: str) -> Report:
    if name == "import":
        return import_alone()
    if name == "build":
        return build()
    if name in ("fresh", "compile"):
        return fresh(program, folder)
    from pathlib import Path

    import pandas as pd
    from tasks import TASKS

    task = next(task for task in TASKS if task.name == name)
    frame = pd.read_csv(Path(folder) / f"{task.table}.csv")
    return timed(PROGRAMS[task.kind, program](task, frame), float(most))


def fresh(program: str, folder: str) -> Report:
    """Seconds from the interpreter's first line to the fit."""
    import pandas as pd
    from tasks import TASKS

    task = next(task for task in TASKS if task.name == "fresh")
    PROGRAMS["fit", program](task, pd.read_csv(f"{folder}/sleepstudy.csv"))(0)
    return {"seconds": [time.perf_counter() - STARTED]}


if __name__ == "__main__":
    answer = main(*sys.argv[1:])
    package = {"lme-python": "lme-python", "gpboost Cholesky": "gpboost"}.get(sys.argv[2], sys.argv[2].lower())
    print("\n" + json.dumps({**answer, "version": version(package)}))
