"""Why fits of a generalized model differ: quasi-likelihood, the error of an approximation, and what is averaged."""

from __future__ import annotations

import numpy as np

from bayeslmm.attenuation import Attenuation, attenuation
from bayeslmm.disagreement import NOTABLE, Reason, Setting, called, listing, shown
from bayeslmm.errors import MethodError
from bayeslmm.estimates import Estimates
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.laplace_error import NOTABLE as ERROR_NOTABLE
from bayeslmm.laplace_error import laplace_error
from bayeslmm.marginal_model import MarginalModel
from bayeslmm.quasi import QuasiFit


def quasi_likelihood(setting: Setting) -> list[Reason]:
    """Penalised quasi-likelihood beside fits that approximate the likelihood."""
    found = []
    for column in setting.others:
        fit = column.result
        if not isinstance(fit, QuasiFit) or not isinstance(setting.reference.result, GeneralizedFit):
            continue
        ratios = {
            name: float(column.estimate[column.at(name)] / setting.reference.estimate[setting.reference.at(name)])
            for name in column.names
            if name.startswith("sd_") and name in setting.reference.names
        }
        if not any(abs(setting.gap(column, name)) >= NOTABLE for name in column.names):
            continue
        said = listing(f"{n} is {abs(1 - r):.0%} {'lower' if r < 1 else 'higher'}" for n, r in ratios.items())
        scale = (
            f" Its residual scale, {fit.sigma:.3g}, multiplies every variance." if abs(fit.sigma - 1) > NOTABLE else ""
        )
        text = (
            f"{column.label} fits a linear mixed model to a linearised response and maximises no likelihood: with few or "
            f"binary responses a level that biases variances, mostly towards 0, and coefficients with them. Here {said}.{scale}"
        )
        found.append(Reason("approximation", text, (column.label,), (), ratios))
    return found


def approximation_error(setting: Setting) -> tuple[list[Reason], list[str]]:
    """The error of the log-likelihood of each fit by Laplace's approximation or quadrature, at its estimates."""
    reasons, notes = [], []
    for column in setting.points:
        fit = column.result
        if not isinstance(fit, GeneralizedFit) or fit.method not in ("Laplace", "AGHQ") or not fit.model.groups:
            continue
        try:
            error = laplace_error(fit)
        except MethodError as refusal:
            notes.append(f"How wrong {column.label}'s approximation is was not computed: {refusal}.")
            continue
        text = f"{column.label} approximates the log-likelihood: at its estimates {error}."
        if abs(error.value) > ERROR_NOTABLE + 2.0 * error.se and error.reliable:
            evidence = {"error": error.value, "se": error.se, "pareto_k": error.pareto_k}
            text += " That is enough to move variances and tests by likelihood ratios."
            reasons.append(Reason("approximation", text, (column.label,), (), evidence))
        else:
            notes.append(text)
    return reasons, notes


def approximate_draws(setting: Setting) -> tuple[list[Reason], list[str]]:
    """Posteriors whose draws are of Laplace's approximation, corrected or not."""
    reasons, notes = [], []
    for column in setting.posteriors:
        attrs = column.result.data.attrs
        if attrs.get("route") != "laplace":
            continue
        k, efficiency = float(attrs["pareto_k"]), float(attrs["weight_efficiency"])
        if attrs["corrected"]:
            notes.append(
                f"{called(column.label, True)} samples Laplace's approximation and corrects it by importance weights, Pareto k "
                f"{k:.2f}: what the weights cannot see, regions that the approximation never visits, stays uncorrected."
            )
            continue
        text = (
            f"{called(column.label, True)} is of Laplace's approximation, not corrected (Pareto k {k:.2f}): the effects are "
            "normal given the parameters, which moves standard deviations where levels have few or binary responses."
        )
        reasons.append(
            Reason("approximation", text, (column.label,), (), {"pareto_k": k, "weight_efficiency": efficiency})
        )
    return reasons, notes


def averaging(setting: Setting) -> list[Reason]:
    """Marginal models: coefficients of the population, not of a group."""
    source = _mixed(setting)
    if source is None or not any(isinstance(column.result, MarginalModel) for column in setting.columns):
        return []
    fit = source.result
    assert isinstance(fit, GeneralizedFit)
    implied = attenuation(fit)
    beside = [(column, column.result) for column in setting.columns]
    return [_attenuated(column, other, source, implied) for column, other in beside if isinstance(other, MarginalModel)]


def _mixed(setting: Setting) -> Estimates | None:
    """The reference, or the first fit whose likelihood is approximated."""
    for column in (setting.reference, *setting.points):
        fit = column.result
        if isinstance(fit, GeneralizedFit) and fit.method in ("Laplace", "AGHQ") and fit.model.groups:
            try:
                attenuation(fit)
            except MethodError:  # θ and β not from one likelihood
                continue
            return column
    return None


def _attenuated(column: Estimates, marginal: MarginalModel, source: Estimates, found: Attenuation) -> Reason:
    model, implied = found.fit.model, found.table["marginal"].to_numpy()
    factor = float(found.factors["exact"].iloc[-1])
    apart = np.abs(implied - marginal.beta) / marginal.se
    names = np.array(model.design.fixed.names, dtype=object)
    what = "only the intercept moves, by half the variance" if model.link == "log" else f"here by about {factor:.3g}"
    said = listing(
        f"{name} {shown(value, scale)} becomes {shown(mean, scale)} ({column.label} {shown(other, scale)})"
        for name, value, mean, other, scale in zip(
            names, found.fit.beta, implied, marginal.beta, marginal.se, strict=True
        )
    )
    far = f"What is left is up to {apart.max():.1f} of its standard errors, for {names[apart.argmax()]}"
    rest = (
        "What is left is within its standard errors."
        if apart.max() < 1.0
        else f"{far}: averaging does not explain that."
    )
    errors = " Its standard errors take the rows for independent." if marginal.kind == "GLM" else ""
    text = (
        f"{column.label} estimates coefficients of the population's mean, {source.label} those of a group: averaging over "
        f"groups attenuates on the {model.link} scale, {what}. {said}. {rest}{errors}"
    )
    evidence = {f"fixef[{name}]": float(value) for name, value in zip(names, implied, strict=True)} | {"factor": factor}
    explained = tuple(f"fixef[{name}]" for name in names[apart < 1.0]) or ("none",)
    return Reason("attenuation", text, (column.label,), explained, evidence)
