"""Diagnosis: every check of a fit or a posterior with its number, its threshold, a verdict, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.assumptions import Standardised, standardise
from bayeslmm.checks import Check, checks_of
from bayeslmm.cumulative import COUNTS
from bayeslmm.envelope import simulated
from bayeslmm.errors import MethodError
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.generalized_assumptions import standardise_generalized
from bayeslmm.generalized_checks import generalized_checks, left_out
from bayeslmm.goodness import Calibration, Rootogram, calibration_curve, rootogram
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.predictive import of_predictions, of_priors, of_residuals, of_sampler, replicated
from bayeslmm.refits import entropy_of
from bayeslmm.repca import repca
from bayeslmm.result import PointFit, Result
from bayeslmm.soundness import of_design, of_fit
from bayeslmm.table import Page, frame_table
from bayeslmm.verdict import LOOK, PROBLEM, Finding, judge, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
# Quantiles kept of each simulated sample, for the envelopes of the QQ plots.
MOST_QUANTILES = 200
# Simulations by default: so many, or more where there are more checks, so that the smallest corrected p-value, about the
# number of checks over that of simulations, is half of what makes a problem.
SIMULATIONS, PER_CHECK = 499, 40
FEWEST_SIMULATIONS = 19


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """The checks of a result.

    Parameters
    ----------
    result : PointFit or Posterior
        What was checked.
    table : DataFrame
        A row for each check: check, value, threshold, verdict ("ok", "look", "problem"; "not judged" where nothing was
        simulated), sentence, advice (empty where all is well), p, p_adjusted.
    notes : tuple of str
        How the verdicts were reached, and what went wrong on the way.
    seed : int
        Of the simulations.
    standardised : Standardised or None
        Residuals and effects on their own scales, of a point fit.
    envelope : mapping of str to ndarray (2, m)
        Pointwise 95 % bands of the quantiles of simulated residuals and effects, by ``"residuals"`` and effect's name.
    replicated : DataFrame or None
        Statistics of the data (first row) and of replicated data, of a posterior.
    """

    result: Result
    table: pd.DataFrame
    notes: tuple[str, ...]
    seed: int
    standardised: Standardised | None = None
    envelope: Mapping[str, Array] = field(default_factory=dict)
    replicated: pd.DataFrame | None = None

    @property
    def problems(self) -> pd.DataFrame:
        """The checks with something to do: problems first, then what deserves a look."""
        order = {"problem": 0, "look": 1}
        found = self.table[self.table["verdict"].isin(order)]
        return found.sort_values("verdict", key=lambda column: column.map(order), kind="stable")

    @property
    def rootogram(self) -> Rootogram | None:
        """Observed and expected frequencies, of a fit or posterior of counts (`bl.rootogram`)."""
        return rootogram(self.result) if self.result.model.family in COUNTS else None

    @property
    def calibration(self) -> Calibration | None:
        """Observed and fitted shares, of a fit or posterior of a binary response (`bl.calibration_curve`)."""
        if self.result.model.family != "bernoulli":
            return None
        return calibration_curve(self.result, min(10, self.result.nobs))

    @property
    def components(self) -> dict[str, pd.DataFrame]:
        """Principal components of each group's effects (`bl.repca`)."""
        return repca(self.result)

    def figures(self) -> dict[str, tuple[Figure, str]]:
        """A figure with its caption for each kind of check, by name."""
        from bayeslmm.plot.diagnostics import figures

        return figures(self)

    def plot(self, name: str | None = None) -> Figure:
        """One figure by its name in `figures`, or the most telling ones of a point fit in one.

        Parameters
        ----------
        name : str, optional

        Returns
        -------
        Figure

        Raises
        ------
        MethodError
            There is no such figure.
        """
        from bayeslmm.plot.diagnostics import panel

        if name is None:
            return panel(self)
        drawn = self.figures()
        if name not in drawn:
            raise MethodError(f"there is no figure {name!r}; there are {', '.join(drawn)}")
        return drawn[name][0]

    def page(self) -> Page:
        """Counts, table, and what to do, to print or to show in a notebook."""
        shown = self.table.set_index("check")[["value", "threshold", "p", "p_adjusted", "verdict"]].astype(object)
        for name in ("value", "threshold"):
            shown[name] = ["" if pd.isna(v) else f"{v:.3g}" for v in shown[name]]
        for name in ("p", "p_adjusted"):
            shown[name] = ["" if pd.isna(v) else f"{v:.3f}" for v in shown[name]]
        counts = Counter(self.table["verdict"])
        line = ", ".join(f"{counts[word]} {word}" for word in ("problem", "look", "ok", "not judged") if counts[word])
        kind = "Posterior" if isinstance(self.result, Posterior) else f"{getattr(self.result, 'method', '')} fit"
        said = [f"{row.verdict.upper()} {row.check}: {row.sentence} {row.advice}" for row in self.problems.itertuples()]
        heading = f"Diagnosis: {line}"
        lines = (f"{kind} of {self.result.model.formula.text}",)
        return Page(heading, lines, ((frame_table("", shown), ""),), (*said, *self.notes))

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Diagnosis({self.result.model.formula.text!r}, {len(self.problems)} of {len(self.table)} checks not ok)"

    def _repr_html_(self) -> str:
        return self.page().html


def diagnose(result: Result, *, nsim: int | None = None, seed: Any = 0, progress: bool = True) -> Diagnosis:
    """Check a fit or a posterior: each check with a number, a threshold, a verdict, and what to do.

    The assumptions of a point fit (normal residuals and effects, equal variances, independence, straight lines, no row
    and no level that stands out) are judged by simulation: `nsim` responses are drawn from the fit and refitted, and each
    statistic of the data is held against the same statistic of the refits. p-values are corrected for the number of
    statistics by the minimum-p method, so that of good fits about 5 in 100 show a "problem" anywhere and 20 in 100
    anything to "look" at. Convergence, singularity, collinearity and sizes are judged by rules of thumb.

    Of another family are checked, in the same way: quantile residuals (rows that stand out, their distribution), dispersion,
    zeros, link and variance function, influence by one step, the effects' normality; responses and refits are those of the
    fit's own method. Ordered categories have no dispersion and no variance function; of them are checked rows in unlikely
    categories, and for each predictor whether it moves all thresholds alike: the range over k of the standardised scores
    Σ x (1[y ≤ k] − P(y ≤ k)).

    Of a posterior are checked the sampler, the pull of the priors (power-scaling), the quantile residuals given the effects
    (their distribution, dispersion, zeros of counts), and replicated data. Its effects are best looked at in a point fit.

    Parameters
    ----------
    result : PointFit or Posterior
    nsim : int, optional
        Simulations, at least 19; by default 499, or 40 for each check where there are more than a dozen of them. 0 leaves
        the simulated checks without a verdict.
    seed : int or Generator
        The same seed gives the same verdicts.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Diagnosis
        ``.table``, ``.problems``, ``.figures()``, ``.plot()``; prints as a page.

    Raises
    ------
    MethodError
        Neither a point fit nor a posterior, or a number of simulations that says nothing.

    References
    ----------
    Loy, A., Hofmann, H. & Cook, D. (2017), J. Comput. Graph. Stat. 26, 478–492. Westfall, P. H. & Young, S. S. (1993),
    Resampling-Based Multiple Testing, Wiley. Kallioinen, N. et al. (2024), Statistics and Computing 34, 57.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> found = bl.diagnose(bl.fit(bl.load("models/sleepstudy")), nsim=99, progress=False)
    >>> found.problems["check"].tolist()[:2]
    ['outlying rows', 'normal residuals']
    """
    if not isinstance(result, Result):
        raise MethodError(f"diagnose takes a PointFit or a Posterior, not {type(result).__name__}; fit or sample first")
    if nsim is not None and (isinstance(nsim, bool) or not isinstance(nsim, int | np.integer) or not _enough(nsim)):
        raise MethodError(
            f"nsim={nsim!r} must be 0 or at least {FEWEST_SIMULATIONS}: fewer cannot tell 5 % from nothing"
        )
    entropy = entropy_of(seed)
    if isinstance(result, PointFit):
        return _of_fit(result, nsim, entropy, progress)
    if isinstance(result, Posterior):
        return _of_posterior(result, SIMULATIONS if nsim is None else nsim, entropy)
    raise MethodError(f"diagnose cannot check a {type(result).__name__}")


def _enough(nsim: int) -> bool:
    return nsim == 0 or nsim >= FEWEST_SIMULATIONS


def _of_fit(fit: PointFit, nsim: int | None, entropy: int, progress: bool) -> Diagnosis:
    own = _standardised(fit)
    every = generalized_checks(fit.model) if isinstance(fit, GeneralizedFit) else checks_of(fit.model)
    checks = [check for check in every if np.isfinite(check.statistic(own))]
    nsim = max(SIMULATIONS, PER_CHECK * len(checks)) if nsim is None else nsim
    null, notes = np.empty((0, 0)), ["Nothing was simulated."]
    if nsim:
        null, notes = simulated(fit, lambda again: _numbers(again, checks), nsim, entropy, progress)
    notes += left_out(fit.model)
    envelope: dict[str, Array] = {}
    if len(null) >= FEWEST_SIMULATIONS:
        assumptions = _judged(checks, own, null[:, : len(checks)])
        envelope = _bands(fit.model, own, null[:, len(checks) :])
        notes += _method_notes(len(checks), len(null))
    else:
        assumptions = [_unjudged(check, own) for check in checks]
        notes.append("Without simulations the assumptions are not judged.")
    findings = [*of_fit(fit), *of_design(fit.model), *assumptions]
    return Diagnosis(fit, _table(findings), tuple(notes), entropy, standardised=own, envelope=envelope)


def _standardised(fit: PointFit) -> Standardised:
    return standardise_generalized(fit) if isinstance(fit, GeneralizedFit) else standardise(fit)


def _bands(model: Model, own: Standardised, quantiles: Array) -> dict[str, Array]:
    """Pointwise 95 % bands (2, m) of the simulated quantiles, by sample."""
    samples = _samples(model, own)
    ends = np.cumsum([len(values) for values in samples.values()])
    parts = dict(zip(samples, np.split(quantiles, ends[:-1], axis=1), strict=True))
    return {n: np.nanquantile(q, [0.025, 0.975], axis=0) for n, q in parts.items() if np.isfinite(q).any(axis=0).all()}


def _samples(model: Model, own: Standardised) -> dict[str, Array]:
    """Quantiles of the residuals and of each effect, at most 200 of each."""
    named = {"residuals": own.residual}
    for group, effects in own.effects.items():
        named |= {f"{group}[{e}]": effects[:, k] for k, e in enumerate(model.effects(group))}
    return {name: _quantiles(values) for name, values in named.items()}


def _quantiles(values: Array) -> Array:
    count, known = min(len(values), MOST_QUANTILES), np.sort(values[np.isfinite(values)])
    if not len(known):
        return np.full(count, np.nan)
    return np.interp((np.arange(count) + 0.5) / count, (np.arange(len(known)) + 0.5) / len(known), known)


def _numbers(fit: PointFit, checks: Sequence[Check]) -> Array:
    """The statistics of a refit, then the quantiles of its residuals and effects."""
    own = _standardised(fit)
    return np.concatenate([[check.statistic(own) for check in checks], *_samples(fit.model, own).values()])


def _judged(checks: Sequence[Check], own: Standardised, null: Array) -> list[Finding]:
    observed = np.array([check.statistic(own) for check in checks])
    judged = judge(observed, null, [check.tail for check in checks], PROBLEM)  # p, adjusted, threshold
    found = []
    for check, value, p, adjusted, threshold in zip(checks, observed, *judged, strict=True):
        word = verdict(adjusted)
        said = f"{_measured(check, own, value)}; {_share(p, len(null))} as extreme"
        said, advice = (f"{said}.", "") if word == "ok" else (f"{said}: {check.meaning}.", check.advice)
        found.append(Finding(check.name, value, threshold, word, said, advice, p, adjusted))
    return found


def _method_notes(checks: int, refits: int) -> list[str]:
    notes = [
        f"{checks} checks are held against {refits} refits of data simulated from the fit; p_adjusted is the p-value "
        f"among all of them: a problem at {PROBLEM:g}, worth a look at {LOOK:g}."
    ]
    if checks > PROBLEM * (refits + 1):
        notes.append(f"So few simulations cannot show a problem among {checks} checks; nsim={PER_CHECK * checks} can.")
    return notes


def _share(p: float, count: int) -> str:
    return "no simulated fit is" if p * (count + 1) < 1.5 else f"{100 * p:.2g} % of simulated fits are"


def _measured(check: Check, own: Standardised, value: float) -> str:
    where = f" ({check.where(own)})" if check.where else ""
    return f"{check.measure} is {value:.3g}{where}"


def _unjudged(check: Check, own: Standardised) -> Finding:
    value = check.statistic(own)
    return Finding(check.name, value, float("nan"), "not judged", f"{_measured(check, own, value)}.", "")


def _of_posterior(post: Posterior, nsim: int, entropy: int) -> Diagnosis:
    findings = [*of_sampler(post), *of_priors(post), *of_design(post.model)]
    notes = [
        "Effects, curves and influence: see the diagnosis of a point fit of the same model, bl.diagnose(bl.fit(model))."
    ]
    drawn = None
    if nsim:
        drawn = replicated(post, nsim, entropy)
        findings += [*of_residuals(post, entropy), *of_predictions(drawn)]
        notes.insert(
            0, f"{nsim} responses are replicated from the posterior, groups anew; p_adjusted is among all statistics."
        )
        notes.insert(
            1, "Residuals are judged at single draws, given the effects; p_adjusted is Bonferroni's among them."
        )
    return Diagnosis(post, _table(findings), tuple(notes), entropy, replicated=drawn)


def _table(findings: Sequence[Finding]) -> pd.DataFrame:
    return pd.DataFrame(findings, columns=list(Finding._fields))
