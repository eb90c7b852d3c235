"""Whether the draws can be trusted: R-hat, effective draws, divergences and energy, with what to do about each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Bayesian Analysis 16(2): R-hat below 1.01 and 400 effective draws.
LARGEST_R_HAT, SMALLEST_ESS, SMALLEST_BFMI = 1.01, 400, 0.3


@dataclass(frozen=True)
class Diagnostics:
    """Whether the draws can be trusted, in numbers and in words.

    Parameters
    ----------
    r_hat, ess_bulk, ess_tail : float
        Worst over the coefficients, standard deviations, correlations and sigma.
    divergences : int
        Divergent transitions after warm-up.
    e_bfmi : float
        Worst chain; NaN where the sampler stores no energy.
    worst : str
        The parameter with the largest R-hat; the first one where there is none.
    sentences : tuple of str
        What was found, and what to do about it.
    ok : bool
        Whether nothing is wrong.
    pareto_k : float or None
        On the Laplace route, the shape of the tail of the importance weights, NaN where they are constant; None on others.
    """

    r_hat: float
    ess_bulk: float
    ess_tail: float
    divergences: int
    e_bfmi: float
    worst: str
    sentences: tuple[str, ...]
    ok: bool
    pareto_k: float | None = None

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def diagnose(post: Any) -> Diagnostics:
    """R-hat, effective draws, divergences and energy, with what to do about each."""
    table = post.summary(kind="diagnostics")
    stats = post.data["sample_stats"]
    divergences = int(np.sum(np.asarray(stats["diverging"].values))) if "diverging" in stats else 0
    e_bfmi = _bfmi(np.asarray(stats["energy"].values)) if "energy" in stats else float("nan")
    r_hat, bulk, tail = float(table["r_hat"].max()), float(table["ess_bulk"].min()), float(table["ess_tail"].min())
    known = table["r_hat"].dropna()
    worst = str(known.idxmax()) if len(known) else str(table.index[0])
    problems = []
    if not len(known):
        problems.append(
            "Whether the chains agree is unknown: R-hat needs two chains of four draws or more. Raise chains."
        )
    elif not r_hat <= LARGEST_R_HAT:
        problems.append(
            f"The chains disagree: R-hat is {r_hat:.3f} for {worst} (want < {LARGEST_R_HAT}). Raise tune and draws."
        )
    if not min(bulk, tail) >= SMALLEST_ESS:
        problems.append(
            f"Too few effective draws: bulk {bulk:.0f}, tail {tail:.0f} (at least {SMALLEST_ESS} wanted). Raise draws."
        )
    if divergences:
        problems.append(
            f"{divergences} divergent transitions: draws may miss a region. Raise target_accept to 0.95, or tighten priors."
        )
    if e_bfmi < SMALLEST_BFMI:
        problems.append(
            f"Energy moves slowly (E-BFMI {e_bfmi:.2f}, below {SMALLEST_BFMI}): heavy tails. Tighten the priors on the sds."
        )
    problems += _uncorrected(post.data.attrs)
    k = float(post.data.attrs["pareto_k"]) if "pareto_k" in post.data.attrs else None
    if not problems:
        energy = "" if np.isnan(e_bfmi) else f", E-BFMI at least {e_bfmi:.2f}"
        found = f"R-hat at most {r_hat:.3f}, effective draws at least {min(bulk, tail):.0f}, no divergent transition{energy}."
        said = (f"The draws look sound: {found}", *_correction(post.data.attrs))
        return Diagnostics(r_hat, bulk, tail, divergences, e_bfmi, worst, said, True, k)
    return Diagnostics(r_hat, bulk, tail, divergences, e_bfmi, worst, tuple(problems), False, k)


def _uncorrected(attrs: Mapping[str, Any]) -> list[str]:
    """Why draws of the Laplace route are of an approximation only."""
    if attrs.get("route") != "laplace" or attrs["corrected"]:
        return []
    k, limit = float(attrs["pareto_k"]), float(attrs["pareto_k_limit"])
    if not attrs["correction_wanted"]:
        return [f"These are draws of Laplace's approximation, not corrected, as asked (Pareto k {k:.2f})."]
    return [
        f"These are draws of Laplace's approximation, not of the posterior: its importance weights, Pareto k {k:.2f} (limit "
        f'{limit:.2f}), cannot correct it. Take route="hierarchical".'
    ]


def _correction(attrs: Mapping[str, Any]) -> tuple[str, ...]:
    """What the Laplace route's correction rests on."""
    if attrs.get("route") != "laplace":
        return ()
    k = float(attrs["pareto_k"])
    if np.isnan(k):
        return ("Laplace's approximation is exact here: its importance weights are constant.",)
    share = float(attrs["weight_efficiency"])
    return (
        f"Laplace's approximation was corrected by importance weights: Pareto k {k:.2f}, {share:.0%} of draws effective.",
    )


def _bfmi(energy: Array) -> float:
    """Smallest over chains of the energy's mean squared step over its variance (Betancourt 2016)."""
    if energy.shape[1] < 2:
        return float("nan")
    variance = energy.var(axis=1)
    return float(np.min(np.mean(np.diff(energy, axis=1) ** 2, axis=1) / np.where(variance > 0, variance, np.nan)))
