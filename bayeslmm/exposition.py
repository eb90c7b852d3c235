"""What was fitted, to what: the sections on the model, the data and the priors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from bayeslmm.account import Account, attempt
from bayeslmm.combinations import predictors
from bayeslmm.document import Block, Code, Equations, Heading, Prose, Shown, Symbols, listing
from bayeslmm.family import family_of
from bayeslmm.mathematics import equations, matrix_form, symbols
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.table import Table, left_out

MOST_LEVELS = 8


def the_model(account: Account) -> list[Block]:
    """Every model in its two stages, the matrices, and what each symbol is."""
    found: list[Block] = []
    models = {result.model.formula.text: result.model for result in account.results}
    for text, model in models.items():
        found += [Heading(text)] if len(models) > 1 else []
        found.append(Equations([*equations(model), ("in matrices", matrix_form(model))]))
        found += [Code(str(model.stages))] if model.stages is not None else []
    found.append(Prose(_independence(account.model)))
    return [*found, Symbols(symbols(account.model))]


def _independence(model: Model) -> str:
    if not model.groups:
        return "Rows are independent given the predictors."
    levels = " and ".join(dict.fromkeys(model.groups))
    what = (
        "errors ε are independent of each other and of the effects u"
        if family_of(model.family).plain == "gaussian"
        else "rows are independent given the effects u"
    )
    return f"Effects of different levels of {levels} are independent; {what}."


def the_data(account: Account) -> list[Block]:
    """Rows, levels, response, predictors, and what was left out."""
    model = account.model
    found: list[Block] = [Shown(_sizes(model))]
    if model.groups:
        found.append(Shown(_levels(model)))
    found += attempt("The predictors", lambda: _predictors(model))
    return [*found, *listing(left_out(model) or ["No row and no column was left out."])]


def _sizes(model: Model) -> Table:
    design, y = model.design, model.design.y
    rows = [
        ("rows used", f"{design.nobs:,}"),
        ("rows dropped", f"{design.n_dropped:,}"),
        (f"{design.response}: mean, sd", f"{y.mean():.5g}, {y.std(ddof=1):.4g}"),
        (f"{design.response}: smallest, largest", f"{y.min():.5g}, {y.max():.5g}"),
        ("blocks of the equations", str(model.structure)),
    ]
    if design.trials is not None:
        rows.insert(2, ("trials: smallest, largest", f"{design.trials.min():g}, {design.trials.max():g}"))
    return Table("The response", ("", ""), tuple(rows))


def _levels(model: Model) -> Table:
    rows = []
    for group in model.groups:
        codes = next(term.codes for term in model.design.random if term.group == group)
        count = np.bincount(codes, minlength=len(model.levels(group)))
        spread = (f"{count.min():,}", f"{np.median(count):g}", f"{count.max():,}")
        rows.append((group, f"{len(count):,}", *spread, "yes" if count.min() == count.max() else "no"))
    return Table("Grouping factors", ("", "levels", "rows a level: fewest", "median", "most", "balanced"), tuple(rows))


def _predictors(model: Model) -> list[Block]:
    frame = predictors(model)
    numeric = [name for name in frame if _is_numeric(frame[name])]
    factors = [name for name in frame if name not in numeric]
    found: list[Block] = []
    if numeric:
        rows = [(str(name), *_moments(frame[name])) for name in numeric]
        found.append(
            Shown(Table("Covariates", ("", "mean", "sd", "smallest", "largest", "different values"), tuple(rows)))
        )
    if factors:
        rows = [(str(name), _counts(frame[name])) for name in factors]
        found.append(Shown(Table("Factors", ("", "levels (rows)"), tuple(rows)), prose=True))
    return found or [Prose("The fixed part has no predictor.")]


def _is_numeric(column: Any) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column)) and not pd.api.types.is_bool_dtype(column)


def _moments(column: Any) -> tuple[str, ...]:
    values = column.to_numpy(float)
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    shown = [f"{value:.5g}" for value in (values.mean(), spread, values.min(), values.max())]
    return (*shown, f"{len(np.unique(values)):,}")


def _counts(column: Any) -> str:
    kept = column.cat.remove_unused_categories() if isinstance(column.dtype, pd.CategoricalDtype) else column
    count = Counter(kept.tolist())
    order = list(kept.cat.categories) if isinstance(kept.dtype, pd.CategoricalDtype) else sorted(count)
    shown = [f"{level} ({count[level]:,})" for level in order[:MOST_LEVELS]]
    return ", ".join([*shown, *([f"and {len(order) - MOST_LEVELS:,} more"] if len(order) > MOST_LEVELS else [])])


def the_priors(account: Account) -> list[Block]:
    """What was assumed of the parameters by the results that assume something."""
    users = [r for r in account.results if isinstance(r, Posterior) or r.method == "MAP"]
    tables = dict.fromkeys(tuple(result.model.priors.describe()) for result in users or account.results)
    points = " and ".join(dict.fromkeys(fit.method for fit in account.points))
    gaussian = family_of(account.model.family).plain == "gaussian"
    would = "MAP and the posterior" if gaussian else "the posterior"
    said: Iterable[Block] = [] if users else [Prose(f"{points} use no prior; {would} would use these.")]
    return [*said, *(Shown(Table("", ("parameter", "prior", "given by"), rows, labels=3)) for rows in tables)]
