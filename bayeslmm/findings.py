"""What the results say: in short, side by side, tests, marginal means and contrasts, shares of the variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pandas as pd

from bayeslmm.account import Account, attempt, sentence, too_large
from bayeslmm.anova import anova, ranova
from bayeslmm.appraisal import verdict
from bayeslmm.backtransform import transformation_of
from bayeslmm.columns import words_in
from bayeslmm.contrasts import contrasts
from bayeslmm.disagreement import shown
from bayeslmm.document import Block, Heading, Listing, Prose, Shown, Source, drawn, of_page
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.estimates import parameter_names
from bayeslmm.export import page_of
from bayeslmm.grid import Predictor, grid
from bayeslmm.intervals import confint
from bayeslmm.means import means
from bayeslmm.posterior import Posterior
from bayeslmm.slopes import slopes
from bayeslmm.table import Page, Table, frame_table, p_shown, random_effects, sizes
from bayeslmm.tidy import glance, tidy
from bayeslmm.variation import icc, r2, variance_partition

if TYPE_CHECKING:
    from bayeslmm.model import Model
    from bayeslmm.result import PointFit

# Levels whose pairwise differences are listed, cells of an interaction, parameters whose likelihood is profiled.
MOST_COMPARED, MOST_CELLS, MOST_PROFILED = 8, 48, 12


def in_short(account: Account) -> list[Block]:
    """Size, coefficients, agreement of the results and verdict of the checks, a sentence each."""
    said = [f"{sizes(account.model)}."]
    if len(account.results) > 1:
        try:
            said.append(account.comparison.verdict)
        except (MethodError, NotSupportedError) as reason:
            said.append(sentence(str(reason)))
    for diagnosis in account.diagnoses.values():
        if isinstance(diagnosis, str):
            said.append(diagnosis)
            continue
        problems = diagnosis.problems["check"].tolist()
        worst = f" To look at first: {', '.join(problems[:3])}." if problems else ""
        said.append(f"{sentence(account.called(diagnosis.result))[:-1]}: {verdict(diagnosis)}{worst}")
    found: list[Block] = [Listing(tuple(said))]
    found += [Shown(_coefficients(account))] if len(account.main.beta) else []
    fit = account.fit
    if fit is not None and fit.model.groups:
        found.append(Shown(random_effects(fit, residual=fit.model.family == "gaussian")))
    return found


def _coefficients(account: Account) -> Table:
    """Estimates with 95 % intervals, in words of one line each."""
    rows = _fixed_rows(account)
    columns = [rows[name] for name in ("estimate", "conf_low", "conf_high")]
    cells = [
        [shown(float(v), float(se)) for v, se in zip(column, rows["std_error"], strict=True)] for column in columns
    ]
    lines = [(str(name), e, f"{low} … {high}") for name, e, low, high in zip(rows["term"], *cells, strict=True)]
    return Table(f"Coefficients by {account.called(account.main)}", ("", "estimate", "95 % interval"), tuple(lines))


def _fixed_rows(account: Account) -> Any:
    rule = None if account.fit is None else account.rule[0]
    return tidy(account.main, "fixed", conf_int=True, df=rule, backend="pandas")


def the_answers(account: Account) -> list[Block]:
    """One result as it prints; several side by side, with what sets them apart."""
    together = attempt("Side by side", lambda: _compared(account)) if len(account.results) > 1 else []
    if any(isinstance(block, Shown) for block in together):
        return together
    for name, result in zip(account.names, account.results, strict=True):
        together += [*of_page(page_of(result)), Source(f"print({name})")]
    return together


def _compared(account: Account) -> list[Block]:
    both = account.comparison
    caption = "Estimates with 95 % intervals. Wald intervals for point fits, equal tails for posteriors."
    return [
        *of_page(both.page(), heading=False),
        Source(f"bl.compare({', '.join(account.names)})"),
        drawn(both.plot(), "forest", "Estimates with intervals, one panel a parameter, one line a result", caption),
        *_criteria(account),
    ]


def _criteria(account: Account) -> list[Block]:
    """Likelihoods and information criteria of the point fits."""
    if not account.points:
        return []
    rows = pd.concat([glance(fit, backend="pandas") for fit in account.points])
    names = [account.name(fit) for fit in account.points]
    frame = rows.set_axis(names, axis=0)[["logLik", "AIC", "BIC", "df"]]
    return [Shown(frame_table("Likelihoods", frame, 6)), *(Source(f"bl.glance({name})") for name in names)]


def the_tests(account: Account) -> list[Block]:
    """Tests of the fixed part and of the random effects, likelihood ratios between models, intervals."""
    fit = account.fit
    if fit is None:
        return [
            Prose(
                "Tests need a point fit: give bl.report one of bl.fit(model) too. A posterior has intervals instead."
            ),
            *attempt("Intervals", lambda: _intervals(account)),
        ]
    (rule, said), name = account.rule, account.name(fit)
    found: list[Block] = [Prose(f"Of {account.called(fit)}. {said}")]
    call = f'bl.anova({name}, df="{rule}")'
    found += attempt("F tests of the terms", lambda: [*of_page(anova(fit, df=rule).page()), Source(call)])
    found += attempt("Coefficients", lambda: _tested(account, name)) if len(fit.beta) else []
    found += attempt("Tests of the random effects", lambda: _random_tests(fit, name))
    if len({f.model.formula.text for f in account.points}) > 1:
        every = [account.name(f) for f in account.points]
        call = f"bl.anova({', '.join(every)})"
        found += attempt("Likelihood-ratio tests", lambda: [*of_page(anova(*account.points).page()), Source(call)])
    return [*found, *attempt("Intervals", lambda: _intervals(account))]


def _tested(account: Account, name: str) -> list[Block]:
    rows = _fixed_rows(account).set_index("term")
    kept = rows[["estimate", "std_error", "conf_low", "conf_high", "statistic", "df", "p_value"]].astype(float)
    test = "z" if account.rule[0] == "asymptotic" else "t"
    table = kept.rename_axis(None).rename(columns={"statistic": test, "p_value": "p"})
    table["p"] = [p_shown(p) for p in table["p"]]
    call = f'bl.tidy({name}, "fixed", conf_int=True, df="{account.rule[0]}")'
    return [Heading("Coefficients, 95 % intervals and tests of 0"), Shown(frame_table("", table)), Source(call)]


def _random_tests(fit: PointFit, name: str) -> list[Block]:
    call = f"bl.ranova({name})"
    if fit.model.groups and (why := too_large(fit.model)):
        return [Prose(f"Tests of the random effects: left out. {why}; {call} makes them.")]
    return [*of_page(ranova(fit).page()), Source(call)]


def _intervals(account: Account) -> list[Block]:
    result, name = account.main, account.name(account.main)
    method = "eti"
    if not isinstance(result, Posterior):
        few = len(parameter_names(result.model)) <= MOST_PROFILED and not too_large(result.model)
        method = "profile" if few and result.method in ("REML", "ML") and not result.fixed else "wald"
    found = confint(result, method=method)  # type: ignore[arg-type]
    by = {"profile": "from the profile likelihood (ML)", "wald": "by Wald's approximation", "eti": "with equal tails"}
    table = frame_table("", found.rename_axis(None))
    return [Heading(f"95 % intervals {by[method]}"), Shown(table), Source(f'bl.confint({name}, method="{method}")')]


def the_means(account: Account) -> list[Block]:
    """Marginal means and contrasts of every factor of the fixed part, interactions with their plots, slopes."""
    return attempt("Marginal means", lambda: _means(account))


def _means(account: Account) -> list[Block]:
    result, model = account.main, account.main.model
    known = {p.name: p for p in sorted(grid(model, ()).predictors, key=lambda p: model.formula.fixed.find(p.name))}
    factors = [name for name, p in known.items() if p.factor]
    found: list[Block] = [Prose(f"Of {account.called(result)}, on the reference grid: covariates at their means.")]
    for name in factors:
        found += attempt(f"Means of {name}", _of(_factor, account, known[name]))
    pairs = _interactions(model, known)
    for one, two in pairs:
        kind = _crossed if one in factors and two in factors else _slopes_by
        names = (one, two) if one in factors else (two, one)
        found += attempt(f"{one} × {two}", _of(kind, account, names))
    covariates = [name for name, p in known.items() if not p.factor]
    if covariates:
        found += attempt("Slopes", lambda: _slopes(account, covariates))
    return found if known else [Prose("The fixed part has no predictor, so there is nothing to average over.")]


def _of(make: Callable[..., list[Block]], *arguments: Any) -> Callable[[], list[Block]]:
    return lambda: make(*arguments)


def _interactions(model: Model, known: dict[str, Predictor]) -> list[tuple[str, str]]:
    """Pairs of predictors that stand in one term; two covariates have no means to draw."""
    terms = model.design.specs["fixed"].terms
    found = []
    for term in terms:
        names = [name for name in known if name in words_in(*(str(factor) for factor in term.factors))]
        found += [pair for pair in combinations(names, 2) if any(known[name].factor for name in pair)]
    return list(dict.fromkeys(found))


def _rule(result: Any) -> dict[str, Any]:
    """Degrees of freedom by the default rule, but of a large model none, since they would take longer than the fit."""
    return {"df": "asymptotic"} if not isinstance(result, Posterior) and too_large(result.model) else {}


def _scale(result: Any) -> dict[str, Any]:
    """Means on the scale of the response where differences have a meaning there: as ratios."""
    found = transformation_of(result.model.formula.response, result.model.link)
    return _rule(result) | ({"scale": "response"} if found is not None and found.ratio else {})


def _factor(account: Account, factor: Predictor) -> list[Block]:
    result, name = account.main, account.name(account.main)
    options = _scale(result)
    call = f"bl.means({name}, {factor.name!r}{_options(options)})"
    own = means(result, factor.name, **options)
    found: list[Block] = [Heading(f"Means of {factor.name}"), *of_page(own.page(), heading=False), Source(call)]
    if len(factor.values) > MOST_COMPARED:
        pairs = len(factor.values) * (len(factor.values) - 1) // 2
        return [*found, Prose(f"Its {pairs} pairwise differences are left out; bl.contrasts({call}) lists them.")]
    both = contrasts(own)
    return [
        *found,
        Heading(f"Differences of {factor.name}"),
        *of_page(both.page(), heading=False),
        Source(f"bl.contrasts({call})"),
    ]


def _options(given: dict[str, Any]) -> str:
    return "".join(f", {key}={value!r}" for key, value in given.items())


def _crossed(account: Account, names: tuple[str, str]) -> list[Block]:
    """Means of the cells of two factors, and their interaction plot."""
    result, name = account.main, account.name(account.main)
    options = _scale(result)
    own = means(result, names, **options)
    call = f"bl.means({name}, {list(names)!r}{_options(options)})"
    found: list[Block] = [Heading(f"{names[0]} × {names[1]}")]
    if len(own) <= MOST_CELLS:
        found += [*of_page(own.page(), heading=False), Source(call)]
    else:
        found.append(Prose(f"{len(own)} cells; {call} lists them."))
    caption = (
        f"Means of {names[0]} for each level of {names[1]}, with 95 % intervals: parallel lines mean no interaction."
    )
    what = f"Interaction plot of {names[0]} and {names[1]}"
    return [*found, drawn(own.plot(), f"means-{names[0]}-{names[1]}", what, caption), Source(f"{call}.plot()")]


def _slopes_by(account: Account, names: tuple[str, str]) -> list[Block]:
    """Slopes of a covariate at each level of a factor, and the lines themselves."""
    factor, covariate = names
    result, name = account.main, account.name(account.main)
    rule = _rule(result)
    own = slopes(result, covariate, by=factor, **rule)
    call = f"bl.slopes({name}, {covariate!r}, by={factor!r}{_options(rule)})"
    found: list[Block] = [
        Heading(f"Slope in {covariate} by {factor}"),
        *of_page(own.page(), heading=False),
        Source(call),
    ]
    whole = grid(result.model, ())
    ends = [float(whole.data[covariate].min()), float(whole.data[covariate].max())]
    lines = means(result, [covariate, factor], at={covariate: ends}, **rule)
    call = f"bl.means({name}, {[covariate, factor]!r}, at={{{covariate!r}: {ends}}}{_options(rule)}).plot()"
    caption = f"Means at the ends of {covariate} for each level of {factor}: parallel lines mean no interaction."
    what = f"Interaction plot of {covariate} and {factor}"
    return [*found, drawn(lines.plot(x=covariate), f"slopes-{covariate}-{factor}", what, caption), Source(call)]


def _slopes(account: Account, covariates: Sequence[str]) -> list[Block]:
    """The slope of every covariate, averaged over the factors."""
    found: list[Block] = [Heading("Slopes of the covariates")]
    for covariate in covariates:
        rule = _rule(account.main)
        own = slopes(account.main, covariate, **rule)
        ((table, _),) = own.page().tables
        rows = tuple((covariate, *row[1:]) for row in table.rows)
        page = Page("", (), ((Table("", ("", *table.header[1:]), rows), ""),), own.page().remarks)
        found += [*of_page(page), Source(f"bl.slopes({account.name(account.main)}, {covariate!r}{_options(rule)})")]
    return found


def the_variance(account: Account) -> list[Block]:
    """Shares of the variance, R² and intraclass correlations."""
    result, name = account.main, account.name(account.main)
    found: list[Block] = [Prose(f"Of {account.called(result)}.")]
    for function in (variance_partition, r2, icc):
        what = {"r2": "R²", "icc": "Intraclass correlations"}.get(function.__name__, "Partition of the variance")
        found += attempt(what, _of(_shares, function, result, name))
    return found


def _shares(function: Callable[..., Any], result: Any, name: str) -> list[Block]:
    return [*of_page(function(result).page()), Source(f"bl.{function.__name__}({name})")]
