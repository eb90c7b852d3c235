"""What a model is, in words and symbols: its two stages, its data, its priors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bayeslmm.family import HETEROSCEDASTIC, family_of

if TYPE_CHECKING:
    from bayeslmm.model import Model


def describe(model: Model) -> str:
    """The model as it prints.

    Parameters
    ----------
    model : Model

    Returns
    -------
    str
    """
    return "\n".join([*_equations(model), "", *_data(model), "", *_prior_lines(model)])


def _equations(model: Model) -> list[str]:
    fixed = "X[i]·β" if model.design.fixed.names else "0"
    offset = "offset[i] + " if model.design.offset is not None else ""
    indices = [re.sub(r"\W", "_", group).lower()[:12] for group in model.groups]
    random = "".join(f" + z_{g}[i]·u_{g}[{g}[i]]" for g in indices)
    lines = [
        model.formula.text,
        "",
        f"stage 1   {_first_stage(model, offset + fixed + random)}",
        *_further_lines(model),
    ]
    for group, short in zip(model.groups, indices, strict=True):
        shapes = ", ".join(f"({', '.join(t.effects)}) {t.covariance.label}" for t in model.terms if t.group == group)
        lines.append(f"stage 2   u_{short}[j] ~ Normal(0, Σ_{short}),  j = 1 … {len(model.levels(group))};  {shapes}")
    if model.stages is not None:
        lines += ["", str(model.stages)]
    return lines


def _first_stage(model: Model, predictor: str) -> str:
    response, weighted = model.design.response, model.design.weights is not None
    if model.family == "gaussian":
        return f"{response}[i] ~ Normal({predictor}, {'σ²/w[i]' if weighted else 'σ²'})"
    if model.family == HETEROSCEDASTIC:
        columns = ", ".join(model.design.further["dispersion"].names)
        noise = "σ[i]²/w[i]" if weighted else "σ[i]²"
        return f"{response}[i] ~ Normal({predictor}, {noise}), log(σ[i]) = W[i]·γ, W = ({columns})"
    if model.design.ordered:
        weights = ", log probability times w[i]" if weighted else ""
        return f"{model.link} P({response}[i] ≤ k) = τ[k] - ({predictor}){weights}"
    name, dispersion = family_of(model.family).name.capitalize(), family_of(model.family).dispersion
    dispersion = f"{dispersion}[i]" if "dispersion" in model.design.further else dispersion
    others = {"nu": "nu", "zero": "π[i]"}
    dispersion = ", ".join(filter(None, [dispersion, *(others.get(name) for name in model.design.further)]))
    weights = ", log density times w[i]" if weighted else ""
    return f"{response}[i] ~ {name}(μ[i]{', ' + dispersion if dispersion else ''}), {model.link}(μ[i]) = {predictor}{weights}"


def _further_lines(model: Model) -> list[str]:
    """The formulas for the dispersion and for zeros; that of a Gaussian σ stands in its line, and ν has none."""
    further = {} if model.family == HETEROSCEDASTIC else model.design.further
    said = {"dispersion": f"log({family_of(model.family).dispersion}[i])", "zero": "logit(π[i])"}
    ends = {"dispersion": "", "zero": ";  π the probability of a zero of its own"}
    return [f"          {said[n]} = {' + '.join(block.names)}{ends[n]}" for n, block in further.items() if n in said]


def _data(model: Model) -> list[str]:
    design = model.design
    lines = [
        f"rows      {design.nobs}" + (f" ({design.n_dropped} dropped: missing values)" if design.n_dropped else "")
    ]
    lines.append(f"β         {', '.join(design.fixed.names) or 'none'}")
    if design.thresholds:
        lines.append(f"τ         {', '.join(design.thresholds)}")
    if design.fixed.dropped:
        lines.append(f"dropped   {', '.join(design.fixed.dropped)} (linear combinations of the columns before them)")
    sizes = ", ".join(f"{g}: {len(model.levels(g))} levels x {len(model.effects(g))}" for g in model.groups)
    lines.append(f"u         {sizes or 'none'}")
    lines.append(f"blocks    {model.structure}")
    return lines


def _prior_lines(model: Model) -> list[str]:
    rows = model.priors.describe()
    width = max(len(name) for name, _, _ in rows)
    gaussian = family_of(model.family).plain == "gaussian"
    title = "priors (for the posterior and MAP)" if gaussian else "priors (for the posterior)"
    return [title] + [f"  {n:<{width}}  {p}  ({w})" for n, p, w in rows]
