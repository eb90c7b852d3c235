"""Several results in one table as papers print them: a column a result, standard errors under the estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.errors import MethodError
from bayeslmm.posterior import Posterior
from bayeslmm.result import PointFit
from bayeslmm.table import Page, Table

CRITERIA = ("nobs", "logLik", "AIC", "BIC")


@dataclass(frozen=True, eq=False, repr=False)
class SideBySide:
    """Results in columns.

    Parameters
    ----------
    table : DataFrame
        Rows: coefficients, sds and correlations, σ, then sizes and criteria; columns (result, estimate | std_error);
        NaN where a result has no such row.
    formulas : tuple of str
        Of each column, in order.
    digits : int
        Decimals shown.
    """

    table: pd.DataFrame
    formulas: tuple[str, ...]
    digits: int

    def page(self) -> Page:
        """The table, to print, to export or to show in a notebook."""
        labels = list(dict.fromkeys(self.table.columns.get_level_values(0)))
        rows: list[tuple[str, ...]] = []
        for name in self.table.index:
            values = [self.table.loc[name, (label, "estimate")] for label in labels]
            errors = [self.table.loc[name, (label, "std_error")] for label in labels]
            rows.append((str(name), *(self._shown(str(name), value) for value in values)))
            if np.isfinite(errors).any():
                shown = (f"({error:.{self.digits}f})" if np.isfinite(error) else "" for error in errors)
                rows.append(("", *shown))
        lines = tuple(f"{label}: {text}" for label, text in zip(labels, self.formulas, strict=True))
        return Page("", (), ((Table("", ("", *labels), tuple(rows)), ""),), lines)

    def _shown(self, name: str, value: float) -> str:
        if np.isnan(value):
            return ""
        return f"{value:.0f}" if name == "nobs" or name.startswith("levels of ") else f"{value:.{self.digits}f}"

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"SideBySide({len(self.formulas)} results, {len(self.table)} rows)"

    def _repr_html_(self) -> str:
        return self.page().html


def side_by_side(*results: PointFit | Posterior, labels: Sequence[str] | None = None, digits: int = 3) -> SideBySide:
    """Put results side by side in one table, standard errors (posterior sds) in brackets under the estimates.

    Unlike `bl.compare` the results may be of other data and other models; nothing is said about their differences.

    Parameters
    ----------
    *results : PointFit or Posterior
        One or more.
    labels : sequence of str, optional
        Names of the columns; "(1)", "(2)", …
    digits : int
        Decimals.

    Returns
    -------
    SideBySide
        ``.table`` has the numbers; `bl.export` writes it as LaTeX.

    Raises
    ------
    MethodError
        No result, something that is none, or labels that do not fit.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> model = bl.load("models/wool")
    >>> print(bl.side_by_side(bl.fit(model), bl.fit(model, "ML"), labels=["REML", "ML"]).page().tables[0][0].text)
                            REML       ML
     Intercept            58.036   58.036
                         (0.627)  (0.580)
     sd_bale[Intercept]    1.088    0.889
     sigma                 2.502    2.502
     nobs                     28       28
     levels of bale            7        7
     logLik              -66.429  -66.841
     AIC                 138.859  139.683
     BIC                 142.855  143.679
    """
    for result in results:
        if not isinstance(result, PointFit | Posterior):
            raise MethodError(f"side_by_side takes what bl.fit and bl.sample gave, not {type(result).__name__}")
    names = [f"({i + 1})" for i in range(len(results))] if labels is None else list(map(str, labels))
    if not results or len(set(names)) != len(results) or isinstance(labels, str):
        raise MethodError(f"labels must be {len(results)} different names for one result or more, got {labels!r}")
    columns = {name: _column(result) for name, result in zip(names, results, strict=True)}
    known = dict.fromkeys(row for column in columns.values() for row in column)
    rows = sorted(known, key=_place)
    values = {
        (name, kind): [column.get(row, (np.nan, np.nan))[k] for row in rows]
        for name, column in columns.items()
        for k, kind in enumerate(("estimate", "std_error"))
    }
    table = pd.DataFrame(values, index=pd.Index([row[1] for row in rows], name="row"))
    return SideBySide(table, tuple(result.model.formula.text for result in results), digits)


Row = tuple[int, str]


def _place(row: Row) -> int:
    return row[0]


def _column(result: Any) -> dict[Row, tuple[float, float]]:
    """Estimate and standard error by (part of the table, name)."""
    pairs = zip(result.fixef.index, result.beta, result.beta_sd, strict=True)
    found: dict[Row, tuple[float, float]] = {(0, str(name)): (float(b), float(se)) for name, b, se in pairs}
    spread, further = _spreads(result), result.model.design.further
    for group in result.model.groups:
        effects, corr = result.model.effects(group), result.group_corr[group]
        for effect, sd in zip(effects, result.group_sd[group], strict=True):
            name = f"sd_{group}[{effect}]"
            found[1, name] = (float(sd), spread.get(name, np.nan))
        for i, j in result.model.pairs(group):
            name = f"corr_{group}[{effects[i]}, {effects[j]}]"
            found[1, name] = (float(corr[i, j]), spread.get(name, np.nan))
    if result.model.family == "gaussian":
        found[2, "sigma"] = (float(result.sigma), spread.get("sigma", np.nan))
    elif (noise := result.model.dispersion) and "dispersion" not in further and np.isfinite(result.dispersion):
        found[2, noise] = (float(result.dispersion), spread.get(noise, np.nan))
    for formula, frame in getattr(result, "further_fixef", {}).items():
        if formula == "nu":
            continue
        pairs = zip(frame.index, frame["estimate"], frame["se"], strict=True)
        found |= {(2, f"{formula}[{name}]"): (float(value), float(se)) for name, value, se in pairs}
    found |= _further_of_draws(result, spread)
    second = getattr(result, "second_estimates", None)
    if second is not None:
        found |= {(2, str(name)): (float(value), float(se)) for name, value, se in second.itertuples(name=None)}
    found[3, "nobs"] = (float(result.nobs), np.nan)
    found |= {(4, f"levels of {group}"): (float(count), np.nan) for group, count in result.ngroups.items()}
    if isinstance(result, PointFit):
        criteria = {"logLik": result.loglik, "AIC": result.aic, "BIC": result.bic}
        found |= {(5 + i, name): (float(value), np.nan) for i, (name, value) in enumerate(criteria.items())}
    return found


def _further_of_draws(result: Any, spread: dict[str, float]) -> dict[Row, tuple[float, float]]:
    """Posterior means and sds of the coefficients of the formulas for dispersion and zeros; nothing of a point fit."""
    return {
        (2, name): (float(mean), spread[name])
        for formula, block in (result.model.priors.further if isinstance(result, Posterior) else {}).items()
        for name, mean in zip(
            [f"{formula}[{column}]" for column in block.coefficients], result.draws(formula).mean(axis=0), strict=True
        )
    }


def _spreads(result: Any) -> dict[str, float]:
    """Posterior sds of the sds, correlations and σ; nothing for a point fit, as papers print it."""
    if isinstance(result, PointFit):
        return {}
    summary = result.summary()
    return dict(zip(map(str, summary.index), map(float, summary["sd"]), strict=True))
