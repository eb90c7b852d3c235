"""The summary of a generalized fit, in the layout of lme4's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.family import HETEROSCEDASTIC, family_of
from bayeslmm.generalized_search import METHODS
from bayeslmm.table import (
    Page,
    Table,
    fixed_correlations,
    frame_table,
    left_out,
    model_lines,
    random_effects,
    sizes,
    with_z,
    zeros,
)

# Deviation on the link scale at which a level all but determines its responses.
DETERMINED = 8.0
FURTHER = {
    "dispersion": "Log of the dispersion",
    "zero": "Logit of the probability of a zero of its own",
    "nu": "Log of nu",
}


def page_of(fit: Any) -> Page:
    """The page.

    Parameters
    ----------
    fit : GeneralizedFit

    Returns
    -------
    Page
    """
    lines = [*model_lines(fit.model), f"Family: {fit.model.family} ({fit.model.link} link)"]
    if np.isfinite(fit.dispersion):
        nu = f", nu = {fit.nu:.5g}" if np.isfinite(fit.nu) else ""
        lines.append(f"Dispersion: {family_of(fit.model.family).dispersion} = {fit.dispersion:.5g}{nu}")
    both = {"AIC": [fit.aic], "BIC": [fit.bic]} if fit.method != "MAP" else {"logPosterior": [fit.logposterior]}
    criteria = pd.DataFrame(both | {"logLik": [fit.loglik], "deviance": [fit.deviance]}, index=[""])
    criteria = criteria.map(lambda value: f"{value:.1f}").assign(df=str(fit.df))
    tables = [(frame_table("", criteria), "")] if np.isfinite(fit.loglik) else []  # quasi-likelihood has none
    tables += _quantiles(fit)
    tables += [(random_effects(fit, residual=fit.method == "PQL"), sizes(fit.model))] if fit.model.groups else []
    fixed = pd.DataFrame({"estimate": fit.fixef, "se": fit.se})
    tables += [(frame_table("Fixed effects", with_z(fixed)), "")] if len(fixed) else []
    tables += [(frame_table("Thresholds", with_z(fit.thresholds)), "")] if fit.model.design.ordered else []
    tables += [(frame_table(FURTHER[name], with_z(frame)), "") for name, frame in fit.further_fixef.items()]
    tables += [(fixed_correlations(fit), "")] if 1 < len(fit.beta) <= 12 else []
    remarks = left_out(fit.model)
    held = ", ".join(f"{name} = {value:.6g}" for name, value in fit.fixed.items())
    remarks += [f"Held fixed, not estimated: {held}."] if held else []
    remarks += [f"Singular fit: {'; '.join(zeros(fit))}."] if fit.singular else []
    remarks += _determined(fit)
    remarks += [] if fit.converged else [f"NOT CONVERGED: {fit.message}"]
    remarks += [f"At a limit: {said}." for _, _, said in (fit.message.partition("converged; "),) if said]
    return Page(_title(fit), tuple(lines), tuple(tables), tuple(remarks))


def _title(fit: Any) -> str:
    """What was fitted, and how; of a Gaussian response Laplace's approximation and quadrature are the likelihood."""
    mixed = "mixed " if fit.model.groups else ""
    if fit.model.family == HETEROSCEDASTIC:
        how = METHODS[fit.method] if fit.method in ("REML", "MAP") else "maximum likelihood"
        return f"Linear {mixed}model fit by {how}, with a formula for sigma"
    by = f" ({METHODS['Laplace']})" if fit.method == "MAP" else ""
    return f"Generalized linear {mixed}model fit by {METHODS[fit.method]}" + (
        f" ({fit.nodes} nodes)" if fit.nodes > 1 else by
    )


def _quantiles(fit: Any) -> list[tuple[Table, str]]:
    """Quantiles of the Pearson residuals, where there are such."""
    if fit.model.design.ordered:
        return []
    five = (tuple(f"{v:.4f}" for v in np.quantile(fit.pearson_residuals, [0, 0.25, 0.5, 0.75, 1])),)
    return [(Table("Pearson residuals", ("Min", "1Q", "Median", "3Q", "Max"), five, 0), "")]


def _determined(fit: Any) -> list[str]:
    """Which effects are so large that a level all but determines its responses."""
    if fit.model.link not in ("logit", "probit", "cloglog", "cauchit"):
        return []
    return [
        f"sd_{group}[{effect}] is {size:.3g} on the {fit.model.link} scale: the level all but determines the response. "
        "There the approximation is at its worst; compare with AGHQ."
        for group, sds in fit.group_sd.items()
        for effect, size in zip(fit.model.effects(group), sds, strict=True)
        if effect == "Intercept" and size > DETERMINED
    ]
