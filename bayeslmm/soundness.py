"""Checks of a fit and its design that need no simulation: convergence, singularity, collinearity, scales, sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.model import Model
from bayeslmm.optimise import DECREMENT
from bayeslmm.repca import DEGENERATE, combination, least
from bayeslmm.result import PointFit
from bayeslmm.verdict import Finding, Verdict

Array = NDArray[np.float64]
# Belsley, Kuh & Welsch (1980): a condition index of 30 to 100 is moderate to strong.
COLLINEAR, SEVERE = 30.0, 300.0
# Loading from which a column takes part in a collinearity.
LOUD = 0.1
SCALES = 1e4
FEWEST_LEVELS = 5
LEVELS_PER_PARAMETER = 3.0


def of_fit(fit: PointFit) -> list[Finding]:
    """Whether the optimum is one, and whether a combination of effects does not vary."""
    return [_convergence(fit), *_singularity(fit)]


def of_design(model: Model) -> list[Finding]:
    """Whether columns are collinear or of unlike scales, and whether there are levels enough."""
    return [*_collinearity(model), *_scales(model), *_levels(model)]


def _convergence(fit: PointFit) -> Finding:
    optimum = fit.optimum
    free, g, H = optimum.free, optimum.gradient[optimum.free], optimum.hessian
    H = H[np.ix_(free, free)]
    decrement = float(g @ np.linalg.lstsq(H, g)[0]) if len(g) else 0.0
    curvature = float(np.linalg.eigvalsh(H)[0]) if len(g) else np.inf
    if fit.converged:
        bend = f" and the smallest curvature is {curvature:.3g}" if len(g) else ""
        said = f"Converged: the gradient promises a fall of {max(decrement, 0.0):.1e} in the criterion{bend}."
        return Finding("convergence", decrement, DECREMENT, "ok", said, "")
    advice = "Standardise the predictors, simplify the random effects, or start elsewhere: bl.fit(model, start=…)."
    return Finding("convergence", decrement, DECREMENT, "problem", f"Not converged: {fit.message}", advice)


def _singularity(fit: PointFit) -> Iterator[Finding]:
    for group in fit.model.groups:
        share, zero = least(fit, group)
        if not zero:
            said = (
                f"Every combination of the effects on {group} varies, the least with {share:.2g} times the largest sd."
            )
            yield Finding(f"singularity: {group}", share, DEGENERATE, "ok", said, "")
            continue
        which = "; ".join(f"{name} of {group} has sd 0" for name in zero)
        advice = (
            "The data do not tell these effects apart from none. Drop the effect, or the correlation (||), if the design "
            "does not demand it; or sample the posterior (bl.sample), which averages over small sds."
        )
        yield Finding(f"singularity: {group}", share, DEGENERATE, "look", f"The fit is singular: {which}.", advice)


def _collinearity(model: Model) -> Iterator[Finding]:
    fixed = model.design.fixed
    if fixed.dropped:
        said = f"{', '.join(fixed.dropped)} left out: a linear combination of the columns before."
        advice = "Remove one of the predictors that determine each other; the fitted values do not depend on which."
        yield Finding("rank of the fixed part", float(len(fixed.dropped)), 0.0, "look", said, advice)
    names = [name for name in fixed.names if name != "Intercept"]
    if len(names) < 2:
        return
    columns = fixed.X[:, [fixed.names.index(name) for name in names]]
    columns = columns - columns.mean(axis=0) if "Intercept" in fixed.names else columns
    columns = columns / np.linalg.norm(columns, axis=0)
    _, size, axes = np.linalg.svd(columns, full_matrices=False)
    index = float(size[0] / size[-1])
    verdict: Verdict = "problem" if index >= SEVERE else "look" if index >= COLLINEAR else "ok"
    if verdict == "ok":
        yield Finding(
            "collinearity", index, COLLINEAR, verdict, f"The condition index of the fixed columns is {index:.3g}.", ""
        )
        return
    which = combination(np.where(np.abs(axes[-1]) > LOUD, axes[-1], 0.0), names)
    said = f"The condition index of the fixed columns is {index:.3g}: {which}, standardised, hardly varies."
    advice = (
        "Their coefficients are estimated only together. Drop one, or take their mean and difference as predictors."
    )
    yield Finding("collinearity", index, COLLINEAR, verdict, said, advice)


def _scales(model: Model) -> Iterator[Finding]:
    sd = pd.Series(model.X.std(axis=0), index=model.design.fixed.names)
    sd = sd[sd > 0]
    if len(sd) < 2:
        return
    ratio = float(sd.max() / sd.min())
    said = f"The sds of the fixed columns differ by a factor of {ratio:.3g}, {sd.idxmin()} to {sd.idxmax()}."
    advice = f"Divide {sd.idxmax()} by {10 ** round(np.log10(ratio))}, so that coefficients and default priors compare."
    look = ratio > SCALES
    yield Finding("scales", ratio, SCALES, "look" if look else "ok", said, advice if look else "")


def _levels(model: Model) -> Iterator[Finding]:
    for group in model.groups:
        count, k = len(model.levels(group)), len(model.effects(group))
        few = count < FEWEST_LEVELS
        advice = (
            f"{count} levels say little about a variance: its interval is wide and {group} may do as well as a fixed "
            "factor. A prior on its sd helps."
        )
        said = f"{group} has {count} levels."
        yield Finding(
            f"number of levels: {group}",
            float(count),
            float(FEWEST_LEVELS),
            "look" if few else "ok",
            said,
            advice if few else "",
        )
        if k == 1:
            continue
        parameters = k + len(model.pairs(group))
        ratio = count / parameters
        verdict: Verdict = "problem" if count <= k else "look" if ratio < LEVELS_PER_PARAMETER else "ok"
        said = f"{count} levels of {group} for {parameters} variances and covariances: {ratio:.3g} levels each."
        advice = (
            "Drop effects, or correlations with ||, until the levels can carry what is left." if verdict != "ok" else ""
        )
        yield Finding(f"covariance parameters: {group}", ratio, LEVELS_PER_PARAMETER, verdict, said, advice)
