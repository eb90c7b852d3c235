"""Whether the results can be trusted, and what they look like: diagnostics, the limit of flat priors, figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pandas as pd

from bayeslmm import plot
from bayeslmm.account import Account, attempt, too_large
from bayeslmm.diagnose import Diagnosis
from bayeslmm.document import Block, Heading, Listing, Prose, Shown, Source, drawn, listing
from bayeslmm.posterior import Posterior
from bayeslmm.table import Table

# Groups of which effects are drawn one by one.
MOST_GROUPS = 4
WORST_FIRST = ("problem", "look", "ok", "not judged")


def state(account: Account) -> list[str]:
    """Whether each fit converged and each sampler's draws are sound, a sentence each."""
    found = []
    for result in account.results:
        if isinstance(result, Posterior):
            sizes = result.data["posterior"].sizes
            name = f"Posterior ({result.route} route, {sizes['chain']} chains of {sizes['draw']} draws)"
            found += [f"{name}: {sentence}" for sentence in result.diagnostics.sentences]
            continue
        said = "converged" if result.converged else f"did not converge: {result.message}"
        singular = " A variance is exactly 0, or a correlation matrix has lost rank." if result.singular else ""
        found.append(f"{result.method}: {said}, in {result.optimum.evaluations} evaluations.{singular}")
    return found


def verdict(diagnosis: Diagnosis) -> str:
    """How many checks came out how."""
    counts = Counter(diagnosis.table["verdict"])
    words = {"problem": "problem" if counts["problem"] == 1 else "problems", "look": "to look at"}
    listed = ", ".join(f"{counts[word]} {words.get(word, word)}" for word in WORST_FIRST if counts[word])
    return f"{len(diagnosis.table)} checks: {listed}."


def the_diagnostics(account: Account) -> list[Block]:
    """State of each result, then the checks of the point fit and of each posterior, worst first."""
    found: list[Block] = [Listing(tuple(state(account)))]
    for name, diagnosis in account.diagnoses.items():
        if isinstance(diagnosis, str):
            found.append(Prose(diagnosis))
            continue
        found.append(Heading(f"Checks of {account.called(diagnosis.result)}"))
        found += _checks(account, diagnosis)
        simulations = account.simulations(diagnosis.result)
        options = f"seed={account.seed}" + ("" if simulations is None else f", nsim={simulations}")
        found += [Source(f"bl.diagnose({name}, {options})"), *_figures(diagnosis, name)]
    return found


def _checks(account: Account, diagnosis: Diagnosis) -> list[Block]:
    """The table of checks: verdict first, the number, a sentence, what to do."""
    order = {word: i for i, word in enumerate(WORST_FIRST)}
    table = diagnosis.table.sort_values("verdict", key=lambda column: column.map(order), kind="stable")
    rows = tuple(
        (row.verdict, row.check, _number(row.value), _number(row.threshold), row.sentence, row.advice)
        for row in table.itertuples()
    )
    header = ("verdict", "check", "value", "threshold", "what was found", "what to do")
    why = too_large(diagnosis.result.model) if not account.simulations(diagnosis.result) else ""
    left = (
        [f"{why}, so that nothing is simulated here. bl.report(…, nsim=99) does it, which takes a while."]
        if why
        else []
    )
    return [
        Prose(verdict(diagnosis)),
        Shown(Table("", header, rows, labels=2), prose=True),
        *listing([*left, *diagnosis.notes]),
    ]


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3g}"


def _figures(diagnosis: Diagnosis, name: str) -> list[Block]:
    formula = diagnosis.result.model.formula.text
    return [
        drawn(figure, f"{name}-{kind}", f"Diagnostic plot, {kind}, of {formula}", caption)
        for kind, (figure, caption) in diagnosis.figures().items()
    ]


def the_limit(account: Account) -> list[Block]:
    """What happens as the prior on the coefficients goes flat."""
    found = account.limiting
    assert found is not None
    text = found.table.map(lambda value: "" if pd.isna(value) else f"{value:.3g}")
    cells = tuple(tuple(str(cell) for cell in row) for row in text.to_numpy())
    caption = (
        "Distances from the Bayesian answer to BLUE, BLUP and REML: parallel to the dashed line, so proportional to κ."
    )
    return [
        Prose("The prior on the coefficients is β ~ Normal(0, D⁻¹) with D_jj = κ [X′V⁻¹X]_jj, at fixed variances."),
        Prose(found.verdict),
        Shown(Table("", tuple(map(str, found.table.columns)), cells)),
        Source(f"bl.limiting_prior({account.names[0] if account.fit is None else account.name(account.fit)})"),
        drawn(plot.limiting(found), "limit", "Distances to REML's answers against the prior's precision κ", caption),
    ]


def the_figures(account: Account) -> list[Block]:
    """Densities of posteriors, data with fitted lines, effects with intervals, what pooling does."""
    shown = account.pictured
    found: list[Block] = []
    for post in account.posteriors:
        found += attempt("Densities", lambda post=post: _densities(account, post))  # type: ignore[misc]
    if not shown.model.groups:
        return [*found, *attempt("Residuals", lambda: _of_kind(account, "residuals"))]
    found += attempt("Data by level", lambda: _of_kind(account, "groups"))
    groups = shown.model.groups[:MOST_GROUPS]
    for group in groups:
        for kind in ("caterpillar", "shrinkage"):
            found += attempt(f"{kind.capitalize()} plot of {group}", _later(account, kind, group))
    if len(groups) < len(shown.model.groups):
        left = ", ".join(shown.model.groups[MOST_GROUPS:])
        found.append(Prose(f"Effects of {left} are not drawn here; {account.name(shown)}.plot draws them."))
    return found


def _later(account: Account, kind: str, group: str) -> Callable[[], list[Block]]:
    return lambda: _of_kind(account, kind, group)


def _of_kind(account: Account, kind: str, group: str | None = None) -> list[Block]:
    """A figure of one kind with its caption and the line that draws it."""
    result = account.pictured
    who = "posterior means" if isinstance(result, Posterior) else account.called(result)
    figure = plot.draw(result, kind, **({} if group is None else {"group": group}))
    of = f" of {group}" if group else ""
    option = f", group={group!r}" if group else ""
    return [
        drawn(figure, kind + (f"-{group}" if group else ""), _WHAT[kind] + of, f"{plot.captions[kind]} From {who}."),
        Source(f'{account.name(result)}.plot("{kind}"{option})'),
    ]


_WHAT = {
    "groups": "Panels of the data with fitted lines, one for each level",
    "caterpillar": "Sorted effects with intervals",
    "shrinkage": "Arrows from each level's own estimate to the partially pooled one",
    "residuals": "Residuals against fitted values, and their quantiles",
}


def _densities(account: Account, post: Posterior) -> list[Block]:
    same = [
        fit
        for fit in account.points
        if fit.model.formula.text == post.model.formula.text and fit.model.family == "gaussian"
    ]
    marked = f", with {', '.join(fit.method for fit in same)} marked" if same else ""
    caption = f"Posterior densities{marked}; the bar holds 95 %."
    name = account.name(post)
    return [
        drawn(plot.density(post, *same), f"{name}-density", "Densities of the parameters", caption),
        drawn(plot.draw(post, "prior_posterior"), f"{name}-priors", "Posterior and prior densities of the parameters",
              "Posterior and prior densities: where they coincide the data said nothing."),
        Source(f'{name}.plot("prior_posterior")'),
    ]  # fmt: skip
