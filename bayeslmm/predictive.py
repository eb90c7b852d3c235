"""Checks of a posterior: the sampler, the pull of the priors, and whether replicated data look like the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.assumptions import level_codes
from bayeslmm.convergence import LARGEST_R_HAT, SMALLEST_BFMI, SMALLEST_ESS
from bayeslmm.cumulative import COUNTS
from bayeslmm.errors import MethodError
from bayeslmm.estimates import estimates
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.powerscale import likelihood_sensitivity, posterior_pull
from bayeslmm.quantile_residuals import quantile_residuals
from bayeslmm.simulate import numbers_of, simulate
from bayeslmm.verdict import Finding, judge, verdict

Array = NDArray[np.float64]
# Kallioinen, Paananen, Bürkner & Vehtari (2024): a sensitivity of 0.05 or more is notable.
SENSITIVE = 0.05
# Draws at which the residuals are looked at.
RESIDUAL_DRAWS = 500
# Share of the draws that may end at the deepest tree before the sampler is slowed down by it.
SATURATED = 0.05


def of_sampler(post: Posterior) -> list[Finding]:
    """R-hat, effective draws, divergences, energy and tree depth."""
    d, stats = post.diagnostics, post.data["sample_stats"]
    found = [
        _judged(
            "R-hat", d.r_hat, LARGEST_R_HAT, not d.r_hat <= LARGEST_R_HAT,
            f"R-hat is at most {d.r_hat:.3f} ({d.worst}).", "Raise tune and draws; see a trace plot of that parameter.",
        ),
        _judged(
            "effective draws, bulk", d.ess_bulk, SMALLEST_ESS, not d.ess_bulk >= SMALLEST_ESS,
            f"At least {d.ess_bulk:.0f} effective draws of the centre.", "Raise draws.",
        ),
        _judged(
            "effective draws, tails", d.ess_tail, SMALLEST_ESS, not d.ess_tail >= SMALLEST_ESS,
            f"At least {d.ess_tail:.0f} effective draws of the 5 % tails.", "Raise draws.",
        ),
        _judged(
            "divergent transitions", float(d.divergences), 0.0, d.divergences > 0,
            f"{d.divergences} divergent transitions.", "Raise target_accept to 0.95, or tighten priors.",
        ),
    ]  # fmt: skip
    if np.isfinite(d.e_bfmi):
        said = f"E-BFMI is at least {d.e_bfmi:.2f}."
        advice = "The sampler moves slowly between energies, heavy tails: tighten the priors on the sds."
        found.append(_judged("energy", d.e_bfmi, SMALLEST_BFMI, d.e_bfmi < SMALLEST_BFMI, said, advice))
    if "reached_max_treedepth" in stats:
        share = float(np.mean(np.asarray(stats["reached_max_treedepth"].values)))
        said = f"{100 * share:.3g} % of the draws end at the deepest tree."
        advice = "Slow, not wrong: standardise the predictors, or raise maxdepth."
        word = _judged("tree depth", share, SATURATED, share > SATURATED, said, advice)
        found.append(word._replace(verdict="look") if word.verdict == "problem" else word)
    return found


def _judged(check: str, value: float, threshold: float, wrong: bool, said: str, advice: str) -> Finding:
    return Finding(check, value, threshold, "problem" if wrong else "ok", said, advice if wrong else "")


def of_priors(post: Posterior) -> Iterator[Finding]:
    """Sensitivity of each parameter to scaling the prior, and whether the data pull the other way."""
    column = estimates(post, "posterior")
    try:
        prior = posterior_pull(column)
    except MethodError as error:
        yield Finding("priors", float("nan"), SENSITIVE, "not judged", f"{error}.", "")
        return
    data = likelihood_sensitivity(column)
    for name, own, by_data, shift in zip(column.names, prior.sensitivity, data, prior.shift, strict=True):
        said = f"Scaling the prior moves {name} by {own:.3f}, scaling the likelihood by {by_data:.3f}"
        if not own >= SENSITIVE:
            yield Finding(f"prior: {name}", float(own), SENSITIVE, "ok", f"{said}.", "")
        elif by_data >= SENSITIVE:
            more = f"{said}: prior and data disagree; the prior moves the mean by {shift:+.2f} posterior sds."
            advice = "Is the prior meant? If not, widen it; if so, say that the result leans on it."
            yield Finding(f"prior: {name}", float(own), SENSITIVE, "look", more, advice)
        else:
            more = f"{said}: the data say little, the prior decides."
            advice = "Report the prior with the result, and what another one gives."
            yield Finding(f"prior: {name}", float(own), SENSITIVE, "look", more, advice)


def predictive_statistics(model: Model) -> dict[str, Callable[[Array], Array]]:
    """Statistics of responses (m, n) → (m,): moments, extremes, and the sd between the means of each group's levels.

    Of ordered categories the share of each instead of moments and extremes; the group means are of their places from 0.
    """
    found: dict[str, Callable[[Array], Array]] = {
        "mean": lambda y: y.mean(axis=1),
        "sd": lambda y: y.std(axis=1),
        "smallest": lambda y: y.min(axis=1),
        "largest": lambda y: y.max(axis=1),
        "skewness": _skewness,
    }
    if model.design.ordered:
        levels = model.design.response_levels
        found = {f"share of {name}": partial(_share, float(place)) for place, name in enumerate(levels)}
    for group, codes in level_codes(model).items():
        found[f"sd between {group}"] = _between(codes)
    return found


def _share(place: float, y: Array) -> Array:
    return np.asarray((y == place).mean(axis=1))


def _skewness(y: Array) -> Array:
    centred = y - y.mean(axis=1, keepdims=True)
    return np.asarray((centred**3).mean(axis=1) / (centred**2).mean(axis=1) ** 1.5)


def _between(codes: NDArray[np.intp]) -> Callable[[Array], Array]:
    count = np.bincount(codes)

    def sd(y: Array) -> Array:
        return np.array([(np.bincount(codes, row)[count > 0] / count[count > 0]).std() for row in y])

    return sd


def replicated(post: Posterior, nsim: int, seed: Any) -> pd.DataFrame:
    """Statistics of responses drawn from the posterior, groups anew; the first row is the data's."""
    y = np.vstack([post.model.design.y, numbers_of(simulate(post, nsim, seed=seed)).T])
    return pd.DataFrame({name: of(y) for name, of in predictive_statistics(post.model).items()})


def of_predictions(statistics: pd.DataFrame) -> list[Finding]:
    """Whether the data's statistics lie among those of replicated data (`replicated`)."""
    values = statistics.to_numpy()
    judged = judge(values[0], values[1:], ["two-sided"] * values.shape[1], 0.05)
    found = []
    for j, name in enumerate(statistics.columns):
        low, high = np.quantile(values[1:, j], [0.025, 0.975])
        word = verdict(float(judged.adjusted[j]))
        said = (
            f"The {name} of the response is {values[0, j]:.4g}; 95 % of replicated data lie in {low:.4g} to {high:.4g}."
        )
        advice = "The model does not make such data: another family, a transformation, or a predictor is missing."
        p = float(judged.p[j]), float(judged.adjusted[j])
        found.append(
            Finding(
                f"predictive: {name}",
                float(values[0, j]),
                float(judged.threshold[j]),
                word,
                said,
                advice if word != "ok" else "",
                *p,
            )
        )
    return found


def of_residuals(post: Posterior, seed: int) -> list[Finding]:
    """Quantile residuals given the effects: uniform, as dispersed as the family has it, as many zeros (`pivotal`)."""
    try:
        found = quantile_residuals(post, RESIDUAL_DRAWS, seed=seed, method="exact")
        tests = {"uniform": found.uniformity(), "dispersion": found.dispersion()}
        if post.model.family in COUNTS:
            tests["zeros"] = found.zero_inflation()
    except MethodError as error:
        return [Finding("residuals", float("nan"), float("nan"), "not judged", f"{error}.", "")]
    findings = []
    for name, test in tests.items():
        adjusted = min(1.0, len(tests) * test.p)
        word = verdict(adjusted)
        advice = _RESIDUAL_ADVICE[name] if word != "ok" else ""
        said = test.sentence
        findings.append(
            Finding(f"residuals: {name}", test.statistic, float("nan"), word, said, advice, test.p, adjusted)
        )
    return findings


_RESIDUAL_ADVICE = {
    "uniform": "The responses given the effects do not have the family's distribution: see bl.quantile_residuals(post).plot().",
    "dispersion": "Above 1: another family with more dispersion, or an effect for every row, (1 | row). Below 1: the rows of "
    "a group are more alike than independent ones.",
    "zeros": 'More zeros than expected: family="negativebinomial" or "zero_inflated_poisson". Fewer: zeros may not have '
    "been recorded.",
}
