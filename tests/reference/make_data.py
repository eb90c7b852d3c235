"""Writes the data of the catalogue that no source prints: simulated with a fixed seed, or rebuilt from what a lecture prints.

python tests/reference/make_data.py          from the root of the repository

`TRUTH` holds what the simulations start from, by the package's names; `tests/test_catalogue.py` checks that the files
are what this module writes and that the fits find the truth again.
"""

from pathlib import Path

import numpy as np
import pandas as pd

MODELS = Path(__file__).resolve().parents[2] / "models"
TRUTH = {
    ("schools", "main"): {
        "fixef": {"Intercept": 50.0},
        "sd_district": {"Intercept": 4.0},
        "sd_school:district": {"Intercept": 5.0},
        "sd_class:school:district": {"Intercept": 3.0},
        "sigma": 8.0,
    },
    ("schools", "income"): {
        "fixef": {"Intercept": 50.0, "income": 3.0},
        "sd_district:school": {"Intercept": 5.0, "income": 1.5},
        "corr_district:school": {"Intercept, income": 0.4},
        "sigma": 8.0,
    },
    ("patents", "main"): {
        "fixef": {"Intercept": 0.5},
        "sd_applicant": {"Intercept": 0.05},
        "sd_examiner": {"Intercept": 0.04},
        "sd_technology": {"Intercept": 0.03},
        "sigma": 0.08,
    },
    ("seasonal", "main"): {
        "fixef": {"Intercept": -0.4, "season[autumn]": 0.6},
        "sd_population": {"Intercept": 1.2},
    },
}
# Futschik (2016), Linear mixed models II, "Simulation Results": U, the estimates as random and as fixed effects.
PRINTED = np.array(
    [
        [5.0523638, 5.333149, 13.901627],
        [-18.4665423, -10.387320, -27.076057],
        [0.8945209, -3.557302, -9.272624],
        [-5.0107337, -1.438628, -3.749993],
        [25.2917984, 8.473786, 22.088152],
        [-1.0618720, -2.709170, -7.061846],
        [3.7328746, 11.333587, 29.542639],
        [-10.8108774, -6.034696, -15.730311],
        [-12.5460652, -4.103138, -10.695426],
        [-2.0376523, 3.089734, 8.053839],
    ]
)
REPEATS = 3


def shrinkage_simulation() -> pd.DataFrame:
    """Three values for each of ten individuals with the printed means and the spread that the printed shrinkage implies.

    ML of the balanced one-way model (J groups of r): rσ_α² + σ² = r Σ f_i² / J and the random effects are (1 − ρ) f_i with
    ρ = σ² / (rσ_α² + σ²), so the two printed columns give σ². Within a group the values are f_i − σ, f_i, f_i + σ, whose
    sum of squares is (r − 1) σ²; an estimate sees the data through these means and sums of squares only.
    """
    truth, shrunk, mean = PRINTED.T
    kept = shrunk @ mean / (mean @ mean)
    sigma = np.sqrt((1 - kept) * REPEATS * np.mean(mean**2))
    y = mean[:, None] + sigma * np.array([-1.0, 0.0, 1.0])
    individual = np.repeat(np.arange(1, len(mean) + 1), REPEATS)
    return pd.DataFrame({"individual": individual, "U": np.repeat(truth, REPEATS), "y": y.ravel().round(10)})


def schools() -> pd.DataFrame:
    """Six students in each of three classes in each of four schools in each of thirty districts."""
    rng = np.random.default_rng(2007)
    shape = (30, 4, 3, 6)
    district, school, class_, _ = (axis.ravel() for axis in np.indices(shape))
    plain, sloped = TRUTH["schools", "main"], TRUTH["schools", "income"]
    parts = {
        "sd_district": rng.standard_normal(shape[:1])[:, None, None, None],
        "sd_school:district": rng.standard_normal(shape[:2])[:, :, None, None],
        "sd_class:school:district": rng.standard_normal(shape[:3])[..., None],
    }
    reading = plain["fixef"]["Intercept"] + plain["sigma"] * rng.standard_normal(shape)
    for name, standard in parts.items():
        reading = reading + plain[name]["Intercept"] * standard
    sd, rho = sloped["sd_district:school"], sloped["corr_district:school"]["Intercept, income"]
    first, second = rng.standard_normal((2, *shape[:2], 1, 1))
    income = rng.standard_normal(shape).round(2)
    intercept = sloped["fixef"]["Intercept"] + sd["Intercept"] * first
    slope = sloped["fixef"]["income"] + sd["income"] * (rho * first + np.sqrt(1 - rho**2) * second)
    mathematics = intercept + slope * income + sloped["sigma"] * rng.standard_normal(shape)
    return pd.DataFrame(
        {
            "district": [f"D{d + 1:02d}" for d in district],
            "school": [f"S{s + 1}" for s in school],
            "class": [f"C{c + 1}" for c in class_],
            "income": income.ravel(),
            "reading": reading.ravel().round(2),
            "mathematics": mathematics.ravel().round(2),
        }
    )


def patents() -> pd.DataFrame:
    """Twelve hundred patents: an applicant works in three technologies, an examiner mostly in one, so nothing is orthogonal."""
    rng = np.random.default_rng(1790)
    rows, applicants, examiners, technologies = 1200, 60, 40, 12
    truth = TRUTH["patents", "main"]
    fields = np.array([rng.choice(technologies, 3, replace=False) for _ in range(applicants)])
    applicant = rng.integers(applicants, size=rows)
    technology = fields[applicant, rng.integers(3, size=rows)]
    stays = rng.random(rows) < 0.7
    specialist = technology + technologies * rng.integers(examiners // technologies, size=rows)
    examiner = np.where(stays, specialist, rng.integers(examiners, size=rows))
    share = truth["fixef"]["Intercept"] + truth["sigma"] * rng.standard_normal(rows)
    for name, codes, levels in (
        ("sd_applicant", applicant, applicants),
        ("sd_examiner", examiner, examiners),
        ("sd_technology", technology, technologies),
    ):
        share = share + truth[name]["Intercept"] * rng.standard_normal(levels)[codes]
    if not ((share > 0) & (share < 1)).all():
        raise ValueError("A proportion lies outside 0 and 1; choose another seed or smaller variances.")
    return pd.DataFrame(
        {
            "applicant": [f"A{a + 1:02d}" for a in applicant],
            "examiner": [f"E{e + 1:02d}" for e in examiner],
            "technology": [f"T{t + 1:02d}" for t in technology],
            "share": share.round(4),
        }
    )


def seasonal() -> pd.DataFrame:
    """Sixty populations of flies, each sampled in spring and autumn of four years: twelve flies, how many carry an allele."""
    rng = np.random.default_rng(2014)
    populations, samples, flies = 60, 8, 12
    truth = TRUTH["seasonal", "main"]
    autumn = np.arange(samples) % 2
    intercept, step = truth["fixef"].values()
    effects = truth["sd_population"]["Intercept"] * rng.standard_normal(populations)
    eta = intercept + step * autumn + effects[:, None]
    population, sample = (axis.ravel() for axis in np.indices(eta.shape))
    return pd.DataFrame(
        {
            "population": [f"P{p + 1:02d}" for p in population],
            "sample": sample + 1,
            "season": np.where(autumn[sample], "autumn", "spring"),
            "carriers": rng.binomial(flies, 1 / (1 + np.exp(-eta))).ravel(),
            "flies": flies,
        }
    )


TABLES = {"shrinkage_simulation": shrinkage_simulation, "schools": schools, "patents": patents, "seasonal": seasonal}

if __name__ == "__main__":
    for name, table in TABLES.items():
        table().to_csv(MODELS / name / "data.csv", index=False)
