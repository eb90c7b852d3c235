"""Where results disagree and why: each reason is found in computed evidence, and stays silent where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bayeslmm.approximation_reasons import approximate_draws, approximation_error, averaging, quasi_likelihood
from bayeslmm.boundary import boundary
from bayeslmm.disagreement import NOTABLE, Reason, Setting, called, listing, shown
from bayeslmm.errors import MethodError
from bayeslmm.estimates import Estimates, estimates
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.powerscale import PriorPull, flat_counterpart, integrates_fixef, likelihood_sensitivity, posterior_pull
from bayeslmm.result import PointFit

Array = NDArray[np.float64]
UNEXPLAINED = 0.3  # gap from which it is said that none of the reasons explains it
WIDER = 1.1  # ratio of uncertainties that is worth a sentence
SENSITIVE = 0.05  # Kallioinen et al. (2024): power-scaling sensitivity that is notable
SKEWED = 0.05  # (mean − median)/sd; a log-normal with log sd 0.1 has it
DRAGS = 1.0  # gap of one parameter that drags the others along
ERRORS = 2.0  # Monte Carlo standard errors within which a gap is none
MEDIAN = 1.25  # a median's standard error over a mean's, for normal draws
CURVED = ("Laplace", "AGHQ", "ML", "REML")  # whose standard errors of another family are of one curvature
FEW = 50  # groups beyond which a missing degree of freedom is below `NOTABLE`


def explain(columns: Sequence[Estimates], reference: Estimates) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
    """Every reason found, in the order in which they should be read, and notes on what could not be looked at.

    Parameters
    ----------
    columns : sequence of Estimates
        The results.
    reference : Estimates
        The one that gaps are measured against.

    Returns
    -------
    reasons : tuple of Reason
    notes : tuple of str
    """
    setting = Setting(tuple(columns), reference)
    reasons = [*models(setting), *held(setting), *convergence(setting), *diagnostics(setting)]
    reasons += monte_carlo(setting)
    reasons += boundary(setting)
    wrong, errors = approximation_error(setting)
    sampled, remarks = approximate_draws(setting)
    reasons += [*averaging(setting), *quasi_likelihood(setting), *wrong, *sampled]
    moved, notes = posterior_prior(setting)
    notes = [*errors, *remarks, *notes]
    reasons += [*moved, *mode_prior(setting)]
    reasons += skew(setting, reasons)
    reasons += [*few_groups(setting), *wide_posterior(setting, reasons)]
    return (*reasons, *unexplained(setting, reasons)), tuple(notes)


def models(setting: Setting) -> list[Reason]:
    """Results of different models are different answers to different questions."""
    texts = {column.label: column.result.model.formula.text for column in setting.columns}
    families = {column.label: (column.result.model.family, column.result.model.link) for column in setting.columns}
    if len(set(families.values())) > 1:
        texts = {label: f"{text}, {' with link '.join(families[label])}" for label, text in texts.items()}
    if len(set(texts.values())) == 1:
        return []
    what = "; ".join(f"{label}: {text}" for label, text in texts.items())
    return [Reason("model", f"The results are of different models ({what}).", tuple(texts))]


def held(setting: Setting) -> list[Reason]:
    """Parameters that were not estimated."""
    found = []
    for column in setting.points:
        fixed = column.result.fixed if isinstance(column.result, PointFit) else {}
        if fixed:
            what = listing(f"{name} at {shown(value)}" for name, value in fixed.items())
            found.append(
                Reason("held", f"{column.label} holds {what}; the other parameters adapt to it.", (column.label,))
            )
    return found


def convergence(setting: Setting) -> list[Reason]:
    """Point fits that did not converge."""
    return [
        Reason("convergence", f"{column.label} did not converge: {column.result.message}.", (column.label,))
        for column in setting.points
        if isinstance(column.result, PointFit) and not column.result.converged
    ]


def diagnostics(setting: Setting) -> list[Reason]:
    """Posteriors whose draws cannot be trusted."""
    found = []
    for column in setting.posteriors:
        checked = column.result.diagnostics if isinstance(column.result, Posterior) else None
        if checked is not None and not checked.ok:
            evidence = {"r_hat": checked.r_hat, "ess_bulk": checked.ess_bulk, "divergences": float(checked.divergences)}
            text = f"Do not trust {called(column.label)} yet. {' '.join(checked.sentences)}"
            found.append(Reason("diagnostics", text, (column.label,), (), evidence))
    return found


def mcse(column: Estimates, name: str) -> float:
    """Monte Carlo standard error of a mean; 0 for a point fit."""
    from arviz_stats.base.array import array_stats

    return 0.0 if column.draws is None else float(array_stats.mcse(column.draws[..., column.at(name)], method="mean"))


def monte_carlo(setting: Setting) -> list[Reason]:
    """Gaps that more draws might close."""
    found = []
    for column in (c for c in setting.others if c.draws is not None or setting.reference.draws is not None):
        ratios = {}
        for name in column.names:
            gap = abs(setting.gap(column, name))
            if not gap >= NOTABLE:
                continue
            unit = setting.reference.uncertainty[setting.reference.at(name)]
            error = float(np.hypot(mcse(column, name), mcse(setting.reference, name))) / unit
            if gap <= ERRORS * error:
                ratios[name] = gap / error
        if ratios:
            text = (
                f"{listing(ratios)}: the gap between {called(column.label)} and {called(setting.reference.label)} is "
                f"within {ERRORS:.0f} Monte Carlo standard errors, so it is not a disagreement; more draws would tell."
            )
            found.append(Reason("monte_carlo", text, (column.label,), tuple(ratios), ratios))
    return found


def posterior_prior(setting: Setting) -> tuple[list[Reason], list[str]]:
    """Posteriors that the prior moves: power-scaling."""
    found, notes = [], []
    for column in setting.posteriors:
        try:
            pull = posterior_pull(column)
        except MethodError as error:
            notes.append(f"Whether the prior moves {called(column.label)} was not computed: {error}.")
            continue
        moved = [name for name in column.names if _moved(setting, column, name, pull)]
        if moved:
            found.append(_prior_reason(setting, column, moved, pull))
    return found, notes


def _moved(setting: Setting, column: Estimates, name: str, pull: PriorPull) -> bool:
    at = column.at(name)
    if not pull.sensitivity[at] >= SENSITIVE:
        return False
    if column is setting.reference:
        return all(other.draws is not None for other in setting.columns)
    gap, wider = setting.gap(column, name), setting.wider(column, name)
    towards = abs(gap) >= NOTABLE and gap * pull.shift[at] > 0
    return bool(towards or wider <= 1.0 / WIDER or np.isnan(gap))


def _prior_reason(setting: Setting, column: Estimates, moved: Sequence[str], pull: PriorPull) -> Reason:
    likelihood = likelihood_sensitivity(column)
    said, evidence = [], {}
    for name in moved:
        at = column.at(name)
        evidence[name] = float(pull.sensitivity[at])
        weak = "the data say little about it" if likelihood[at] < SENSITIVE else "the data speak too"
        numbers = f"sensitivity {pull.sensitivity[at]:.2f} to the prior, {likelihood[at]:.2f} to the likelihood: {weak}"
        side = "up" if pull.shift[at] > 0 else "down"
        said.append(f"{name} ({side} by about {abs(pull.shift[at]):.1f} posterior sd; {numbers})")
    text = f"The prior moves {called(column.label)}: {listing(said)}."
    return _with_others(setting, column, Reason("prior", text, (column.label,), tuple(moved), evidence))


def _with_others(setting: Setting, column: Estimates, reason: Reason) -> Reason:
    """The reason, for all parameters where the prior moves one so far that the others must adapt."""
    if not max(abs(setting.gap(column, name)) for name in reason.parameters) >= DRAGS:
        return reason
    return replace(reason, text=f"{reason.text} The other parameters adapt to that.", parameters=())


def mode_prior(setting: Setting) -> list[Reason]:
    """MAP fits that the prior moves: against the same with flat priors, which is REML or ML."""
    found = []
    fits = [column.result for column in setting.points if isinstance(column.result, PointFit)]
    for column in setting.points:
        fit = column.result
        if not isinstance(fit, PointFit) or fit.method != "MAP" or column is setting.reference:
            continue
        flat = flat_counterpart(fit, fits)
        against = Setting((column,), estimates(flat, flat.method))
        shifts = {name: against.gap(column, name) for name in column.names}
        moved = {name: gap for name, gap in shifts.items() if abs(gap) >= NOTABLE}
        if moved:
            said = [
                f"{n} ({'up' if gap > 0 else 'down'} by {abs(gap):.1f} standard errors)" for n, gap in moved.items()
            ]
            text = f"The prior moves {column.label}: {listing(said)}. With flat priors it is {flat.method}."
            found.append(Reason("prior", text, (column.label,), tuple(moved), moved))
    return found


def skew(setting: Setting, known: Sequence[Reason] = ()) -> list[Reason]:
    """Posteriors whose mean lies away from their peak, where that makes the gap."""
    found = []
    for column in (c for c in setting.posteriors if c is not setting.reference):
        said, evidence = [], {}
        for name in column.names:
            near = any(r.kind in ("boundary", "monte_carlo") and r.covers(column.label, name) for r in known)
            if near or not abs(setting.gap(column, name)) >= NOTABLE:
                continue
            assert column.draws is not None
            at, values = column.at(name), column.draws[..., column.at(name)].ravel()
            mean, middle, spread = column.estimate[at], float(np.median(values)), column.uncertainty[at]
            mode, other = peak(values), setting.reference.estimate[setting.reference.at(name)]
            least = max(SKEWED * spread, ERRORS * MEDIAN * mcse(column, name))
            if abs(mean - middle) > least and abs(mode - other) < abs(mean - other):
                evidence[name] = float((mean - middle) / spread)
                mean_, middle_, mode_, other_ = (shown(v, spread) for v in (mean, middle, mode, other))
                said.append(
                    f"{name} (mean {mean_}, median {middle_}, mode {mode_}; {setting.reference.label} {other_})"
                )
        if said:
            who = called(column.label, start=True)
            text = f"{who} is skewed, and its mean is pulled into the long tail: {listing(said)}."
            found.append(Reason("skew", text, (column.label,), tuple(evidence), evidence))
    return found


def peak(values: Array) -> float:
    """Where the density of draws is highest."""
    from arviz_stats.base.array import array_stats

    grid, density, _ = array_stats.kde(values)
    return float(grid[np.argmax(density)])


def few_groups(setting: Setting) -> list[Reason]:
    """ML against REML: the degrees of freedom of β."""
    found = []
    for column in setting.points:
        fit, other = column.result, setting.reference.result
        if not isinstance(fit, PointFit) or not isinstance(other, PointFit) or not _maximises_fixef(fit):
            continue
        if other.method != "REML" or fit.model.formula.text != other.model.formula.text:
            continue
        low = {name: _expected_ratio(fit.model, name) for name in column.names if setting.gap(column, name) <= -NOTABLE}
        low = {name: ratio for name, ratio in low.items() if ratio < 1}
        if low:
            said = listing(_lower(column, setting.reference, name, ratio) for name, ratio in low.items())
            text = f"{column.label} does not count the coefficients it estimates, so few levels make it low: {said}."
            found.append(Reason("few_groups", text, (column.label,), tuple(low), low))
    return found


def _maximises_fixef(fit: PointFit) -> bool:
    maximised = fit.method == "ML" or (fit.method == "MAP" and not integrates_fixef(fit))
    return fit.model.family == "gaussian" and not fit.fixed and maximised


def _lower(column: Estimates, reference: Estimates, name: str, expected: float) -> str:
    ratio = column.estimate[column.at(name)] / reference.estimate[reference.at(name)]
    size = _units(column.result.model, name)
    return f"{name} by {1 - ratio:.1%} ({size}, about {1 - expected:.1%} expected)"


def _units(model: Model, name: str) -> str:
    if name == "sigma":
        return f"{model.design.nobs} rows"
    group = next(g for g in model.groups if name.startswith(f"sd_{g}["))
    return f"{len(model.levels(group))} levels"


def _expected_ratio(model: Model, name: str) -> float:
    """√((J − r)/J), r the coefficients whose column is level by level a multiple of the effect's; else 1."""
    if name == "sigma":
        return float(np.sqrt((model.design.nobs - len(model.design.fixed.names)) / model.design.nobs))
    for term in model.terms:
        for a, effect in enumerate(term.effects):
            if name == f"sd_{term.group}[{effect}]":
                z, levels = term.columns[:, a], len(term.levels)
                r = sum(_spanned(x, z, term.codes, levels) for x in model.design.fixed.X.T)
                return float(np.sqrt(max(levels - r, 0) / levels))
    return 1.0


def _spanned(x: Array, z: Array, codes: NDArray[np.integer], levels: int) -> bool:
    """Whether x is within each level a multiple of z."""
    square = np.bincount(codes, z * z, levels)
    slope = np.bincount(codes, x * z, levels) / np.where(square > 0, square, 1.0)
    rest = x - slope[codes] * z
    return bool(rest @ rest <= 1e-12 * (x @ x))


def wide_posterior(setting: Setting, known: Sequence[Reason] = ()) -> list[Reason]:
    """Posterior sds of β beyond standard errors that take the variances as known, or as the curvature has them."""
    found: list[Reason] = []
    if not isinstance(setting.reference.result, PointFit):
        return found
    for column in setting.posteriors:
        model = column.result.model
        few = min((len(model.levels(group)) for group in model.groups), default=FEW + 1)
        names = [n for n in column.names if n.startswith("fixef[") and not _moved_already(known, column, n)]
        ratios = {name: ratio for name in names if (ratio := setting.wider(column, name)) >= WIDER}
        if ratios and few <= FEW:
            said = listing(f"{name} by {ratio - 1:.0%}" for name, ratio in ratios.items())
            curved = model.family != "gaussian" and setting.reference.result.method in CURVED
            these = "are the curvature at the maximum" if curved else "take the variances as known"
            text = (
                f"{called(column.label, start=True)} is wider than {setting.reference.label}'s standard errors for "
                f"{said}: these {these}, and {few} levels leave {'the variances' if curved else 'them'} uncertain."
            )
            found.append(Reason("few_groups", text, (column.label,), tuple(ratios), ratios))
    return found


def _moved_already(known: Sequence[Reason], column: Estimates, name: str) -> bool:
    return any(reason.kind == "prior" and reason.covers(column.label, name) for reason in known)


def unexplained(setting: Setting, known: Sequence[Reason]) -> list[Reason]:
    """Gaps that no reason covers."""
    found = []
    for column in setting.others:
        gaps = {name: setting.gap(column, name) for name in column.names}
        open_ = {
            n: g for n, g in gaps.items() if abs(g) >= UNEXPLAINED and not any(r.covers(column.label, n) for r in known)
        }
        if open_:
            said = listing(f"{name} ({gap:+.1f} standard errors)" for name, gap in open_.items())
            pair = f"{called(column.label)} differs from {called(setting.reference.label)}"
            text = f"None of the reasons looked for explains why {pair} in {said}."
            found.append(Reason("unexplained", text, (column.label,), tuple(open_), open_))
    return found
