"""Leave-one-out prediction by Pareto-smoothed importance sampling, of rows or of groups; comparison and stacking.

Vehtari, Gelman & Gabry (2017), Statistics and Computing 27; Vehtari, Mononen, Tolvanen, Sivula & Winther (2016), JMLR 17
(integrated importance weights); Merkle, Furr & Rabe-Hesketh (2019), Psychometrika 84; Yao et al. (2018), Bayesian
Analysis 13 (stacking).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.group_integrals import integrable
from bayeslmm.leftout import Densities, Effects, densities, smoothed
from bayeslmm.model import Model
from bayeslmm.moment_matching import moment_matched
from bayeslmm.nesting import check_same_response
from bayeslmm.posterior import Posterior
from bayeslmm.resampled import resampled
from bayeslmm.table import Page, frame_table

Array = NDArray[np.float64]
# Rows or groups that are named in a sentence.
MOST_NAMED = 5
FEWEST_DRAWS = 50


@dataclass(frozen=True, eq=False, repr=False)
class Loo:
    """Leave-one-out predictive densities of one posterior.

    Parameters
    ----------
    pointwise : DataFrame
        A row for each row or group left out: ``elpd``, its log predictive density; ``k``, the Pareto shape of its
        importance weights (NaN where the model was sampled again without it); ``p``, what was gained by not leaving it out;
        with moment matching ``k_before``, the Pareto shape before draws were moved.
    k_limit : float
        Pareto shape from which an estimate cannot be trusted, min(1 − 1/log10 S, 0.7) with S draws.
    by : str or None
        The group that was left out, None for rows.
    model : Model
    draws : int
        Draws used, S.
    notes : tuple of str
        What cannot be trusted, and what to do.
    """

    pointwise: pd.DataFrame
    k_limit: float
    by: str | None
    model: Model
    draws: int
    notes: tuple[str, ...]

    @property
    def elpd(self) -> float:
        """Expected log predictive density of new data like these: the sum over what was left out."""
        return float(self.pointwise["elpd"].sum())

    @property
    def se(self) -> float:
        """Standard error of `elpd`: √N times the standard deviation of its N terms."""
        return float(np.sqrt(len(self.pointwise)) * self.pointwise["elpd"].std(ddof=0))

    @property
    def p(self) -> float:
        """Effective number of parameters."""
        return float(self.pointwise["p"].sum())

    @property
    def high_k(self) -> pd.Series:
        """The Pareto shapes above the limit, largest first."""
        k = self.pointwise["k"]
        return k[k > self.k_limit].sort_values(ascending=False)

    def page(self) -> Page:
        """The sums and the Pareto shapes, to print or to show in a notebook."""
        frame = pd.DataFrame({"estimate": [self.elpd, self.p], "se": [self.se, np.nan]}, index=["elpd", "p"])
        frame.loc["looic"] = [-2.0 * self.elpd, 2.0 * self.se]
        unit = "row" if self.by is None else f"level of {self.by}"
        k = self.pointwise["k"]
        under = f"{len(self.pointwise)} predictions from {self.draws} draws; "
        under += (
            f"Pareto k {k.min():.2f} to {k.max():.2f}, limit {self.k_limit:.2f}" if k.notna().any() else "all refitted"
        )
        heading = f"Leave-one-out prediction, one {unit} at a time"
        return Page(heading, (self.model.formula.text,), ((frame_table("", frame), under),), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Loo(elpd={self.elpd:.1f} ± {self.se:.1f}, by={self.by!r})"

    def _repr_html_(self) -> str:
        return self.page().html


@dataclass(frozen=True, eq=False, repr=False)
class LooComparison:
    """Models compared by leave-one-out prediction, best first.

    Parameters
    ----------
    table : DataFrame
        ``elpd``, ``se``, ``p``; ``elpd_diff`` to the best model and its standard error ``dse``, from the paired terms;
        ``weight`` in the stack; ``high_k``, how many Pareto shapes are above the limit.
    loos : mapping of str to Loo
    notes : tuple of str
    """

    table: pd.DataFrame
    loos: Mapping[str, Loo]
    notes: tuple[str, ...]

    def page(self) -> Page:
        """The table and its notes, to print or to show in a notebook."""
        by = next(iter(self.loos.values())).by
        shown = self.table.copy()
        for name in ("elpd", "se", "p", "elpd_diff", "dse"):
            shown[name] = [f"{value:.1f}" for value in shown[name]]
        shown["weight"] = [f"{value:.2f}" for value in shown["weight"]]
        heading = f"Leave-one-out comparison, one {'row' if by is None else f'level of {by}'} at a time"
        return Page(heading, (), ((frame_table("", shown), ""),), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"LooComparison({', '.join(self.table.index)})"

    def _repr_html_(self) -> str:
        return self.page().html


def loo(
    posterior: Posterior,
    by: str | None = None,
    *,
    effects: Effects | None = None,
    moment_match: bool = False,
    refit: bool = False,
    progress: bool = True,
) -> Loo:
    """Predict each row, or each group, from the others, without sampling again.

    ``by=None`` estimates log p(y_i | y_−i) of each row: a new row of a group whose other rows are known. The draws of the
    full posterior get the weights 1/p(y_i | y_−i, φ), smoothed (PSIS, by ArviZ). With ``effects="integrated"`` φ = (sd,
    correlations, σ), and β where its prior is not normal; the rest is integrated out in closed form. With r = y − E(y | y,
    φ) the residual and h the leverage of the row given φ::

        y_i | y_−i, φ ~ Normal(y_i − r_i/(1 − h_i), σ²/(w_i (1 − h_i)))

    ``effects="conditional"`` uses the stored draws of β and u, p(y_i | β, u, σ), as ``arviz.loo`` does: the same
    quantity, with heavier weights, which fail where a group has few rows. It is the default of other families, of which
    ``"integrated"`` takes u alone out of the weights, by quadrature: φ = (β, sd, …); for one grouping factor.

    ``by="Subject"`` estimates log p(y_g | y_−g), all rows of a group from the other groups: a new group. Its rows are
    independent of the others given (β, sd, correlations, σ), with u integrated out; for one grouping factor, or the
    outermost of nested ones. Of another family u is integrated out by quadrature at every draw, for one grouping factor.

    Parameters
    ----------
    posterior : Posterior
        Of any family.
    by : str, optional
        A grouping factor of the model; None leaves out rows.
    effects : {"integrated", "conditional"}, optional
        Rows only: whether β and the random effects are integrated out of the weights; by default of Gaussian models.
    moment_match : bool
        Whether to move the draws, where a Pareto shape is too high, to where they would be without the row or group
        (Paananen, Piironen, Bürkner & Vehtari 2021): seconds for each, where sampling again is minutes.
    refit : bool
        Whether to sample again, same priors, without each row or group whose Pareto shape is too high.
    progress : bool
        Whether to show a progress bar while sampling again.

    Returns
    -------
    Loo
        Prints what cannot be trusted, and what to do.

    Raises
    ------
    MethodError, NotSupportedError
        No such group, or one whose rows depend on other groups; a row that the others do not determine.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> post = bl.sample(bl.load("models/dyestuff"), draws=200, tune=200, chains=2, seed=1, progress=False)
    >>> bl.loo(post).pointwise.shape, bl.loo(post, by="Batch").pointwise.shape
    ((30, 3), (6, 3))
    """
    effects = _check(posterior, by, effects, moment_match)
    found = densities(posterior, by, effects)
    elpd, k, limit, _ = smoothed(posterior, found)
    labels = posterior.model.design.rows if by is None else posterior.model.levels(by)
    index = pd.Index(labels, name="row" if by is None else by)
    pointwise = pd.DataFrame({"elpd": elpd, "k": k, "p": found.full - elpd}, index=index)
    notes = [found.note] if found.note else []
    if moment_match:
        notes += _match(posterior, by, found, pointwise, limit, progress)
    high = np.flatnonzero(pointwise["k"] > limit)
    if refit and len(high):
        again, failed = resampled(posterior, by, effects, high, progress)
        done = np.array([i for i in high if i in again], int)
        pointwise.iloc[done, 0] = [again[i] for i in done]
        pointwise.iloc[done, 1] = np.nan
        pointwise["p"] = found.full - pointwise["elpd"]
        notes += [f"Sampled again without each of {len(done)}: {_named(index[done])}."] if len(done) else []
        notes += failed
    result = Loo(pointwise, limit, by, posterior.model, found.values.shape[0] * found.values.shape[1], tuple(notes))
    advice = _advice(result, effects, moment_match)
    return replace(result, notes=(*notes, *advice))


def _check(posterior: Any, by: str | None, effects: str | None, moment_match: bool) -> Effects:
    """Raise for what cannot be left out; whose effects the weights hold."""
    if not isinstance(posterior, Posterior):
        raise MethodError(
            f"loo takes a posterior of bl.sample, not {type(posterior).__name__}; for point fits see bl.information"
        )
    model = posterior.model
    gaussian = model.family == "gaussian"
    if effects not in ("integrated", "conditional", None):
        raise MethodError(f'effects={effects!r} is not known; use "integrated" or "conditional"')
    if not gaussian and moment_match and (by is not None or effects == "integrated"):
        what = f"by={by!r}" if by is not None else 'effects="integrated"'
        raise NotSupportedError(f"moment_match=True with {what} needs a Gaussian model; refit=True samples again")
    if posterior.n_draws < FEWEST_DRAWS:
        raise MethodError(f"loo smooths the tail of at least {FEWEST_DRAWS} draws; this posterior has fewer")
    if by is not None and by not in model.groups:
        raise MethodError(f"by={by!r} is no grouping factor of the model; it has {', '.join(model.groups) or 'none'}")
    if moment_match and gaussian and by is None and effects == "conditional":
        raise MethodError(
            'moment_match=True of a Gaussian model needs effects="integrated", which has lighter weights too'
        )
    return "integrated" if effects == "integrated" or (gaussian and effects is None) else "conditional"


def _match(
    posterior: Posterior, by: str | None, found: Densities, pointwise: pd.DataFrame, limit: float, progress: bool
) -> list[str]:
    """Move the draws where the Pareto shape is too high; fills `pointwise`, says what came of it."""
    pointwise["k_before"] = pointwise["k"]
    high = np.flatnonzero(pointwise["k"] > limit)
    if not len(high):
        return []
    moved = moment_matched(posterior, by, found, high, limit, progress)
    done = [i for i, there in moved.items() if there.k < pointwise["k"].iloc[i]]
    if not done:
        return ["Moving the draws lowered no Pareto k."]
    before = pointwise["k"].iloc[done]
    pointwise.iloc[done, 0] = [moved[i].elpd for i in done]
    pointwise.iloc[done, 1] = [moved[i].k for i in done]
    pointwise["p"] = found.full - pointwise["elpd"]
    after = pointwise["k"].iloc[done]
    what = "rows" if by is None else f"levels of {by}"
    said = f"Draws were moved for {len(done)} of {len(pointwise)} {what} ({_named(pointwise.index[done])}): Pareto k was up to"
    return [f"{said} {before.max():.2f}, and is up to {after.max():.2f}."]


def _named(labels: pd.Index) -> str:
    more = f" and {len(labels) - MOST_NAMED} more" if len(labels) > MOST_NAMED else ""
    return ", ".join(map(str, labels[:MOST_NAMED])) + more


def _advice(result: Loo, effects: Effects, matched: bool) -> list[str]:
    """What to do about Pareto shapes above the limit."""
    high = result.high_k
    if not len(high):
        return []
    what = "rows" if result.by is None else f"levels of {result.by}"
    said = f"Pareto k is above {result.k_limit:.2f} for {len(high)} of {len(result.pointwise)} {what} ({_named(high.index)}):"
    by = "" if result.by is None else f", by={result.by!r}"
    if matched or (result.model.family != "gaussian" and (by or effects == "integrated")):
        return [f"{said} elpd may be wrong there. bl.loo(posterior{by}, refit=True) samples again without each."]
    if effects == "conditional" and result.model.family == "gaussian" and not by:
        return [f'{said} elpd is too high there. effects="integrated" takes β and u out of the weights.']
    move = f"bl.loo(posterior{by}, moment_match=True) moves the draws to where they would be without each of them, refit=True "
    if effects == "conditional" and not by and integrable(result.model):
        move = f'effects="integrated" takes u out of the weights. {move}'
    return [f"{said} elpd may be wrong there. {move}samples again."]


def compare_loo(
    models: Mapping[str, Posterior | Loo],
    by: str | None = None,
    *,
    effects: Effects | None = None,
    moment_match: bool = False,
    refit: bool = False,
    progress: bool = True,
) -> LooComparison:
    """Compare models by leave-one-out prediction: differences with their errors, and stacking weights.

    The weights w ≥ 0, Σ w = 1, maximise Σ_i log Σ_m w_m p_m(y_i | y_−i): the mixture of the models' predictive
    distributions that would have predicted best (Yao et al. 2018), from ``arviz.compare``.

    Parameters
    ----------
    models : mapping of str to Posterior or Loo
        Under the names that the table shows.
    by, effects, moment_match, refit, progress
        As for `loo`; what is a `Loo` already must have the same `by`.

    Returns
    -------
    LooComparison
        ``.table``, best first.

    Raises
    ------
    MethodError
        Fewer than two models, other responses or rows, or different things left out.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> two = {"batches": bl.load("models/dyestuff")}
    >>> two["none"] = two["batches"].update("Yield ~ 1")
    >>> posts = {name: bl.sample(m, draws=200, tune=200, chains=2, seed=1, progress=False) for name, m in two.items()}
    >>> bl.compare_loo(posts).table.index.tolist()
    ['batches', 'none']
    """
    import arviz_stats

    if not isinstance(models, Mapping) or len(models) < 2:
        raise MethodError(
            'compare_loo takes two models or more by name, bl.compare_loo({"small": post, "large": other})'
        )
    check_same_response([_model_of(name, value) for name, value in models.items()])
    options = {"effects": effects, "moment_match": moment_match, "refit": refit, "progress": progress}
    loos = {
        str(name): value if isinstance(value, Loo) else loo(value, by, **options)  # type: ignore[arg-type]
        for name, value in models.items()
    }
    if len({(value.by, tuple(value.pointwise.index)) for value in loos.values()}) > 1:
        raise MethodError("the models leave out different things: give the same by= to all")
    best = np.max([value.pointwise["elpd"] for value in loos.values()], axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = arviz_stats.compare({name: _elpd_data(v, best) for name, v in loos.items()}, round_to="none")
    ordered = {str(name): loos[str(name)] for name in found.index}
    table = pd.DataFrame(
        {
            "elpd": [v.elpd for v in ordered.values()],
            "se": [v.se for v in ordered.values()],
            "p": [v.p for v in ordered.values()],
            "elpd_diff": found["elpd_diff"].to_numpy(float),
            "dse": found["dse"].to_numpy(float),
            "weight": found["weight"].to_numpy(float),
            "high_k": [len(v.high_k) for v in ordered.values()],
        },
        index=list(ordered),
    )
    return LooComparison(table, ordered, tuple(_comparison_notes(table, ordered)))


def _model_of(name: str, value: Any) -> Model:
    if not isinstance(value, Posterior | Loo):
        raise MethodError(f"{name!r} is a {type(value).__name__}; compare_loo takes posteriors of bl.sample or bl.loo")
    return value.model


def _elpd_data(value: Loo, best: Array) -> Any:
    """ArviZ's container, each term less the best model's, so that no density underflows in the stack."""
    from arviz_stats.utils import ELPDDataLOO

    terms = value.pointwise["elpd"].to_numpy() - best
    k = np.nan_to_num(value.pointwise["k"].to_numpy(), nan=0.0)
    return ELPDDataLOO(
        elpd=float(terms.sum()), se=value.se, p=value.p, n_samples=value.draws, n_data_points=len(terms), scale="log",
        warning=False, good_k=value.k_limit, elpd_i=xr.DataArray(terms, dims="unit"), pareto_k=xr.DataArray(k, dims="unit"),
    )  # fmt: skip


def _comparison_notes(table: pd.DataFrame, loos: Mapping[str, Loo]) -> list[str]:
    notes = [f"{name}: {note}" for name, value in loos.items() for note in value.notes]
    close = [str(name) for name, diff in table["elpd_diff"].iloc[1:].items() if abs(diff) < 4.0]
    if close:
        notes.append(
            f"{', '.join(close)}: less than 4 from the best, so the models predict alike and dse is not to be taken as a "
            "normal standard error (Sivula et al. 2025)."
        )
    units = len(next(iter(loos.values())).pointwise)
    if units < 100:
        notes.append(f"dse comes from {units} terms; with fewer than 100 it tends to be too small.")
    return notes
