"""REML, ML, MAP and posteriors of one data set in one table, with sentences that say where they disagree and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bayeslmm.disagreement import NOTABLE, Reason, Setting, called, shown
from bayeslmm.errors import MethodError
from bayeslmm.estimates import Estimates, estimates
from bayeslmm.marginal_model import MarginalModel, is_marginal, marginal_model
from bayeslmm.posterior import Posterior
from bayeslmm.reasons import explain
from bayeslmm.result import PointFit
from bayeslmm.table import Page, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AnyResult = PointFit | Posterior
STATISTICS = ("estimate", "uncertainty", "lower", "upper")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Several results of one data set, side by side.

    Parameters
    ----------
    results : tuple of PointFit, Posterior or MarginalModel
        What is compared.
    columns : tuple of Estimates
        Their estimates, in the same order, under their labels.
    reference : str
        Label of the result that gaps are measured against: the first by REML, else the first point fit, else the first.
    reasons : tuple of Reason
        Where and why they disagree, with the evidence.
    notes : tuple of str
        What could not be computed, or has no value.
    """

    results: tuple[Any, ...]
    columns: tuple[Estimates, ...]
    reference: str
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def labels(self) -> tuple[str, ...]:
        """What the results are called, in order."""
        return tuple(column.label for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Public names of all parameters: β, sd and correlations, σ or another dispersion."""
        known = dict.fromkeys(name for column in self.columns for name in column.names)
        kinds = [[n for n in known if n.startswith(kind)] for kind in ("fixef[", "sd_", "corr_")]
        groups = list(dict.fromkeys(_group(name) for name in (*kinds[1], *kinds[2])))
        variances = sorted([*kinds[1], *kinds[2]], key=lambda name: groups.index(_group(name)))
        return (*kinds[0], *variances, *(name for name in known if name not in {*kinds[0], *variances}))

    @cached_property
    def table(self) -> pd.DataFrame:
        """Parameters by (method, estimate | uncertainty | lower | upper); NaN where a result has no such parameter.

        Uncertainty is the standard error, or the posterior's standard deviation; intervals have 95 %.
        """
        blocks = {
            column.label: pd.DataFrame({name: getattr(column, name) for name in STATISTICS}, index=list(column.names))
            for column in self.columns
        }
        frame = pd.concat(blocks, axis=1, names=["method", "statistic"]).reindex(list(self.names))
        return frame.rename_axis("parameter")

    @cached_property
    def gaps(self) -> pd.DataFrame:
        """(estimate − reference's) / reference's uncertainty, parameters by the other methods."""
        setting = self._setting
        gaps = {c.label: [setting.gap(c, name) for name in self.names] for c in setting.others}
        return pd.DataFrame(gaps, index=pd.Index(self.names, name="parameter"))

    @property
    def _setting(self) -> Setting:
        return Setting(self.columns, self.columns[self.labels.index(self.reference)])

    @property
    def sentences(self) -> tuple[str, ...]:
        """Where the results disagree and why; empty where there is nothing to say."""
        return tuple(reason.text for reason in self.reasons)

    @property
    def verdict(self) -> str:
        """The largest gap, in a sentence."""
        gaps = self.gaps.abs()
        if not np.isfinite(gaps.to_numpy()).any():
            return f"No estimate has a gap to {self.reference} that could be measured."
        label = str(gaps.max().idxmax())
        name = str(gaps[label].idxmax())
        gap = float(self.gaps.loc[name, label])
        if abs(gap) < NOTABLE:
            return f"The results agree: every estimate is within {NOTABLE} standard errors of {self.reference}'s."
        side = "above" if gap > 0 else "below"
        there = f"{abs(gap):.2f} standard errors {side} {called(self.reference)}"
        return f"The largest gap is in {name}: {called(label)} is {there}."

    def plot(self) -> Figure:
        """Draw estimates and intervals of every parameter, one panel each."""
        from bayeslmm.plot import forest

        return forest(self)

    def page(self) -> Page:
        """Table, verdict, sentences and notes, to print or to show in a notebook."""
        return Page(
            heading=f"Comparison of {', '.join(self.labels)}",
            lines=tuple(dict.fromkeys(column.result.model.formula.text for column in self.columns)),
            tables=((self._shown(), self._caption()),),
            remarks=(self.verdict, *self.sentences, *self.notes),
        )

    def _caption(self) -> str:
        return (
            f"± standard error or posterior sd (gap to {self.reference} in its standard errors); below, 95 % interval"
        )

    def _shown(self) -> Table:
        rows: list[tuple[str, ...]] = []
        for name in self.names:
            rows.append((name, *(self._cell(column, name) for column in self.columns)))
            rows.append(("", *(_interval(column, name) for column in self.columns)))
        return Table("", ("", *self.labels), tuple(rows))

    def _cell(self, column: Estimates, name: str) -> str:
        if name not in column.names:
            return ""
        at = column.at(name)
        value, scale = column.estimate[at], column.uncertainty[at]
        text = shown(value, scale) + (f" ± {shown(scale, scale)}" if np.isfinite(scale) else "")
        gap = self._setting.gap(column, name)
        if column.label == self.reference or not np.isfinite(gap):
            return text
        return f"{text} ({gap:+.1f})" if abs(gap) >= 0.05 else f"{text} (0.0)"

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.labels)}; {len(self.names)} parameters, {len(self.reasons)} reasons)"

    def _repr_html_(self) -> str:
        return self.page().html


def compare(*results: Any, labels: Sequence[str] | None = None) -> Comparison:
    """Compare results on one data set: one table, the gaps to REML, and why they are there.

    Point fits have Wald intervals: of β as it is, of sd and σ on the log scale, of correlations on Fisher's z scale,
    from the curvature of their criterion. Posteriors have equal-tailed intervals. The reasons looked for: a variance at
    or near its boundary; a skewed posterior; a prior that moves the answer (power-scaling of the prior and of the
    collapsed likelihood); few groups; Monte Carlo error; failed diagnostics; a fit that did not converge. Of generalized
    models also: quasi-likelihood; the error of the approximate likelihood (`laplace_error`); and that a marginal model's
    coefficients are those of the population (`attenuation`).

    Parameters
    ----------
    *results : PointFit or Posterior
        Two or more, of the same response and rows. Results of statsmodels' GLM or GEE with the same fixed columns and link
        may stand beside a generalized fit.
    labels : sequence of str, optional
        What to call them; otherwise "REML", "ML", "MAP", "posterior", "Laplace", "GEE", with what tells two of a kind apart.

    Returns
    -------
    Comparison

    Raises
    ------
    MethodError
        Fewer than two results, different responses or rows, or REML fits with different fixed effects.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> model = bl.Model("y ~ 1 + (1 | g)", data)
    >>> both = bl.compare(bl.fit(model, "ML"), bl.fit(model, "REML"))
    >>> f"{both.gaps.loc['sd_g[Intercept]', 'ML']:.2f}"
    '-0.37'
    """
    results = _adapted(results)
    _check(results)
    names = _labels(results) if labels is None else _given_labels(labels, results)
    columns = tuple(estimates(result, label) for result, label in zip(results, names, strict=True))
    reference = columns[_reference(results)]
    reasons, notes = explain(columns, reference)
    return Comparison(results, columns, reference.label, reasons, notes)


def _adapted(results: Sequence[Any]) -> tuple[Any, ...]:
    """The results, those of another package's marginal models as columns beside the first mixed model."""
    own = next((result.model for result in results if isinstance(result, PointFit | Posterior)), None)
    if own is None:
        return tuple(results)
    return tuple(marginal_model(result, own) if is_marginal(result) else result for result in results)


def _check(results: Sequence[Any]) -> None:
    for result in results:
        if not isinstance(result, PointFit | Posterior | MarginalModel):
            raise MethodError(f"compare takes results of bl.fit and bl.sample, not {type(result).__name__}")
    if len(results) < 2:
        raise MethodError(f"compare needs two results or more, got {len(results)}")
    first = results[0].model.design
    for result in results[1:]:
        design = result.model.design
        if design.response != first.response:
            raise MethodError(f"the results have different responses: {first.response!r} and {design.response!r}")
        if not (np.array_equal(design.rows, first.rows) and np.array_equal(design.y, first.y)):
            raise MethodError(
                f"the results are of different rows ({first.nobs} and {design.nobs} used): fit both models to the same "
                "table, without the rows where either lacks a value"
            )
    reml = [r.model.design.fixed for r in results if isinstance(r, PointFit) and r.method == "REML"]
    for fixed in reml[1:]:
        if fixed.names != reml[0].names or not np.array_equal(fixed.X, reml[0].X):
            raise MethodError(
                f"REML fits with different fixed effects ({', '.join(reml[0].names) or 'none'}; "
                f'{", ".join(fixed.names) or "none"}) are not comparable; refit them with method="ML"'
            )


def _reference(results: Sequence[AnyResult]) -> int:
    methods = [result.method if isinstance(result, PointFit) else "" for result in results]
    for wanted in ("REML", "ML", "AGHQ", "Laplace", "MAP", "PQL"):
        if wanted in methods:
            return methods.index(wanted)
    return 0


def _given_labels(labels: Sequence[str], results: Sequence[AnyResult]) -> list[str]:
    names = [str(label) for label in labels]
    if isinstance(labels, str) or len(names) != len(results) or len(set(names)) != len(names):
        raise MethodError(f"labels must be {len(results)} different names, one per result, got {labels!r}")
    return names


def _labels(results: Sequence[AnyResult]) -> list[str]:
    """Method; where that does not tell two apart, with the route or the formula, at last with a number."""
    plain = [_plain(result) for result in results]
    apart = [
        f"{name} ({result.model.formula.text})" if _shares(plain, name) and _formulas(results) > 1 else name
        for name, result in zip(plain, results, strict=True)
    ]
    by_route = _routes(results) > 1
    routes = [
        f"{name} ({result.route})" if isinstance(result, Posterior) and by_route and _shares(apart, name) else name
        for name, result in zip(apart, results, strict=True)
    ]
    return [f"{name} {routes[: i + 1].count(name)}" if _shares(routes, name) else name for i, name in enumerate(routes)]


def _plain(result: AnyResult | MarginalModel) -> str:
    if isinstance(result, MarginalModel):
        return result.label
    return result.method if isinstance(result, PointFit) else "posterior"


def _group(name: str) -> str:
    return name.partition("_")[2].partition("[")[0]


def _shares(names: Sequence[str], name: str) -> bool:
    return names.count(name) > 1


def _formulas(results: Sequence[AnyResult]) -> int:
    return len({result.model.formula.text for result in results})


def _routes(results: Sequence[AnyResult]) -> int:
    return len({result.route for result in results if isinstance(result, Posterior)})


def _interval(column: Estimates, name: str) -> str:
    if name not in column.names or not np.isfinite(column.lower[column.at(name)]):
        return ""
    at, scale = column.at(name), column.uncertainty[column.at(name)]
    return f"{shown(column.lower[at], scale)} … {shown(column.upper[at], scale)}"
