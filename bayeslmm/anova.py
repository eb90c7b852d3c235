"""Likelihood-ratio tests between point fits, with the reference that a variance at its boundary needs; F tests of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.columns import words_in
from bayeslmm.comparable import check_same_approximation, fit_alike
from bayeslmm.errors import MethodError
from bayeslmm.fit import fit as fit_model
from bayeslmm.formula import Formula, RandomPart
from bayeslmm.ftests import TermTests, term_tests
from bayeslmm.model import Model
from bayeslmm.nesting import mixture_p, p_value, reference, spanned
from bayeslmm.result import PointFit
from bayeslmm.table import Page, frame_table, p_shown

Array = NDArray[np.float64]
NONE = "<none>"


@dataclass(frozen=True, eq=False, repr=False)
class Anova:
    """Likelihood-ratio tests, one row per model.

    Parameters
    ----------
    table : DataFrame
        One row per model. ``p`` is from χ² with ``Df`` degrees of freedom, ``p_mixture`` from the mixture of two χ² that
        holds where the added variance lies at its boundary of 0; NaN where no mixture is known or needed.
    notes : tuple of str
        What was refitted, and which reference distribution each test has.
    fits : tuple of PointFit
        The fits behind the rows, in the table's order.
    heading : str
        What the table is.
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    fits: tuple[PointFit, ...]
    heading: str

    def page(self) -> Page:
        """The table and its notes, to print or to show in a notebook."""
        shown = self.table.copy()
        for name in ("npar", "Df"):
            shown[name] = ["" if pd.isna(value) else str(int(value)) for value in shown[name]]
        for name in ("p", "p_mixture"):
            shown[name] = [p_shown(value) for value in shown[name]]
        for name in [c for c in shown if shown[c].dtype.kind == "f"]:
            shown[name] = ["" if np.isnan(value) else f"{value:.4f}" for value in shown[name]]
        return Page(self.heading, (), ((frame_table("", shown), ""),), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Anova({len(self.table)} models)"

    def _repr_html_(self) -> str:
        return self.page().html


def anova(
    *fits: PointFit,
    refit: bool = True,
    labels: Sequence[str] | None = None,
    df: str | None = None,
    type: Literal[1, 2, 3] | None = None,
) -> Anova | TermTests:
    """Test the terms of one fit by F, or compare several fits of the same data by likelihood ratios.

    One fit: an F test for each term of the fixed part, `bayeslmm.ftests.term_tests`; type 1 adjusts a term for those
    before it, type 2 for all but those that contain it, type 3 for all others, whatever the coding of the factors.

    Several fits: each is compared with the next smaller one. ``Chisq = 2 (logLik − logLik of the row above)``, ``Df`` the
    difference in parameters. Where models differ only by one variance, with its covariances or alone, the hypothesis that
    it is 0 lies on the boundary of the parameters and the ratio follows ½χ²(a) + ½χ²(a + 1), a the number of covariances
    that come with it (Self and Liang 1987, Stram and Lee 1994); ``p_mixture`` is from that, ``p`` from χ²(Df), which is
    too large there.

    Parameters
    ----------
    *fits : PointFit
        One fit, or two or more by REML or ML, or of another family by one approximation, in any order.
    refit : bool
        Several fits: whether REML fits are refitted by ML. False keeps the restricted likelihoods, which can be compared
        only between models with the same fixed part.
    labels : sequence of str, optional
        Several fits: row names in the order given; otherwise the formulas.
    df : {"satterthwaite", "kenward-roger", "containment", "asymptotic"}, optional
        One fit: how the denominator degrees of freedom are found; by default "satterthwaite" ("asymptotic" if not Gaussian).
    type : {1, 2, 3}, optional
        One fit: type of the hypotheses; by default 3.

    Returns
    -------
    TermTests or Anova
        One fit: ``.table`` with Sum Sq, Mean Sq, NumDF, DenDF, F, p by term; ``.hypotheses``, ``.notes``. Several:
        ``.table`` with npar, AIC, BIC, logLik, deviance, Chisq, Df, p, p_mixture, ordered by npar; ``.notes``.

    Raises
    ------
    MethodError
        No fit, a posterior, options of the other use; one fit: a `df` without meaning for it, or nothing to test; several:
        other responses or rows, MAP fits, or restricted likelihoods that cannot be compared.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "x": [1, 2, 1, 2, 1, 2], "g": list("aabbcc")}
    >>> small, large = bl.Model("y ~ 1 + (1 | g)", data), bl.Model("y ~ x + (1 | g)", data)
    >>> bl.anova(bl.fit(large)).table[["NumDF", "DenDF", "F"]].round(3)
       NumDF  DenDF     F
    x      1    2.0  49.0
    >>> tests = bl.anova(bl.fit(small, "ML"), bl.fit(large, "ML"))
    >>> tests.table["Chisq"].round(3).tolist()[1], tests.table["Df"].tolist()[1]
    (9.716, 1.0)
    """
    if len(fits) == 1:
        _check_single(fits[0], refit, labels)
        usual = "satterthwaite" if fits[0].model.family == "gaussian" else "asymptotic"
        return term_tests(fits[0], usual if df is None else df, 3 if type is None else type)
    _check_several(df, type)
    _check(fits, refit)
    names = _names(fits, labels)
    order = sorted(range(len(fits)), key=lambda i: fits[i].df)
    used = tuple(by_ml(fits[i]) if refit else fits[i] for i in order)
    notes = _method_notes([fits[i] for i in order], used)
    table = pd.DataFrame(
        {
            "npar": [fit.df for fit in used],
            "AIC": [fit.aic for fit in used],
            "BIC": [fit.bic for fit in used],
            "logLik": [fit.loglik for fit in used],
            "deviance": [fit.deviance for fit in used],
        },
        index=[names[i] for i in order],
    )
    tests = [(np.nan,) * 4]
    for small, large, name in zip(used[:-1], used[1:], table.index[1:], strict=True):
        row, note = _test(small, large, name)
        tests.append(row)
        notes += [note] if note else []
    table[["Chisq", "Df", "p", "p_mixture"]] = tests
    return Anova(table, tuple(notes), used, f"Likelihood-ratio tests ({used[0].method})")


def ranova(fit: PointFit, *, reduce: bool = True) -> Anova:
    """Test the random effects of a fit by leaving them out one at a time.

    A term (1 | g) is removed; from (x + z | g) each effect that is no part of another is removed in turn, (x | g) becoming
    (1 | g); nested groups and independent effects are terms of their own. The likelihood is the fit's: restricted for
    REML, which is right since the fixed part stays.

    Parameters
    ----------
    fit : PointFit
        A fit by REML or ML with random effects.
    reduce : bool
        False removes whole terms only.

    Returns
    -------
    Anova
        ``.table`` with npar, logLik, AIC, LRT, Df, p, p_mixture; the first row, ``<none>``, is the fit.

    Raises
    ------
    MethodError
        A MAP fit, no random effects, or effects whose missing values decide which rows are used.

    Notes
    -----
    Rows are named as by `ranova` of the R package lmerTest. That one turns (0 + x | g) into (1 | g), which is no smaller
    model; here such a term is removed, unless x is a factor.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> bl.ranova(bl.fit(bl.load("models/penicillin_blocks"))).table[["LRT", "p", "p_mixture"]].round(4)
                    LRT       p  p_mixture
    <none>          NaN     NaN        NaN
    (1 | blend)  2.7629  0.0965     0.0482
    """
    _check_fit(fit, "ranova")
    if not fit.model.groups:
        raise MethodError(f"{fit.model.formula.text!r} has no random effects to leave out")
    found = {name: _reduced_fit(fit, formula) for name, formula in _deletions(fit.model, reduce)}
    used = (fit, *found.values())
    table = pd.DataFrame(
        {"npar": [f.df for f in used], "logLik": [f.loglik for f in used], "AIC": [f.aic for f in used]},
        index=[NONE, *found],
    )
    tests, notes = [(np.nan,) * 4], _convergence_notes(used)
    for name, small in found.items():
        row, note = _test(small, fit, name)
        tests.append(row)
        notes += [note] if note else []
    table[["LRT", "Df", "p", "p_mixture"]] = tests
    return Anova(table, tuple(notes), used, f"One random effect left out at a time ({fit.method})")


def by_ml(fit: PointFit) -> PointFit:
    """The fit, by ML if it was by REML; what was held stays held."""
    return fit if fit.method != "REML" else fit_model(fit.model, "ML", fixed=dict(fit.fixed) or None)


def check_same_data(fits: Sequence[PointFit]) -> None:
    """Raise unless all fits are of the same response, rows and weights."""
    first = fits[0].model.design
    for fit in fits[1:]:
        design = fit.model.design
        if design.response != first.response:
            raise MethodError(f"the fits have different responses: {first.response!r} and {design.response!r}")
        if not (np.array_equal(design.rows, first.rows) and np.array_equal(design.y, first.y)):
            raise MethodError(
                f"the fits are of different rows ({first.nobs} and {design.nobs} used): fit both models to the same table, "
                "without the rows where either lacks a value"
            )
        if not np.array_equal(_weights(design), _weights(first)):
            raise MethodError("the fits have different weights; a likelihood ratio needs the same in both")


def check_restricted(fits: Sequence[PointFit]) -> None:
    """Raise unless the likelihoods, as they are, can be compared."""
    if len({fit.method for fit in fits}) > 1:
        raise MethodError("refit=False compares fits of one kind; these are by REML and ML. Leave refit=True")
    first = fits[0].model.X
    if fits[0].method == "REML" and not all(np.array_equal(fit.model.X, first) for fit in fits[1:]):
        raise MethodError(
            "restricted likelihoods of models with different fixed parts cannot be compared; leave refit=True to compare "
            "them by ML"
        )


def _weights(design: Any) -> Array:
    return np.ones(design.nobs) if design.weights is None else design.weights


def _test(small: PointFit, large: PointFit, name: str) -> tuple[tuple[float, float, float, float], str]:
    """Statistic, degrees of freedom, p and mixture p, and the note."""
    degrees = large.df - small.df
    statistic = max(0.0, 2.0 * (large.loglik - small.loglik))
    if degrees <= 0:
        return (statistic, degrees, np.nan, np.nan), f"{name}: as many parameters in both, so there is no test"
    if small.fixed or large.fixed:
        p = p_value(statistic, degrees)
        return (statistic, degrees, p, np.nan), f"{name}: parameters are held, so p is from χ² as it stands"
    found = reference(small.model, large.model)
    p = p_value(statistic, degrees) if found.nested else np.nan
    mixed = mixture_p(statistic, found.mixture) if found.mixture else np.nan
    caution = "; the smaller fit is itself singular, which that does not allow for" if small.singular else ""
    note = f"{name}: {found.note}{caution if found.mixture else ''}." if found.note else ""
    return (statistic, degrees, p, mixed), note


def _method_notes(given: Sequence[PointFit], used: Sequence[PointFit]) -> list[str]:
    count = sum(one.method != other.method for one, other in zip(given, used, strict=True))
    notes = []
    if count:
        which = "All fits" if count == len(given) else f"{count} of {len(given)} fits"
        notes.append(f"{which} were by REML and are refitted by ML; refit=False keeps REML where X is the same.")
    return notes + _convergence_notes(used)


def _convergence_notes(fits: Sequence[PointFit]) -> list[str]:
    return [f"{f.model.formula.text}: not converged; {f.message}." for f in fits if not f.converged]


def _check_single(fit: Any, refit: bool, labels: Sequence[str] | None) -> None:
    given = [name for name, used in (("refit", refit is not True), ("labels", labels is not None)) if used]
    if given:
        raise MethodError(f"{' and '.join(given)} belong to a comparison of several fits; anova of one has df and type")
    if not isinstance(fit, PointFit):
        raise MethodError(
            f"anova takes fits of bl.fit, not {type(fit).__name__}; a posterior has no F tests: summary() shows its "
            "intervals, bl.compare sets it beside a fit"
        )


def _check_several(df: str | None, kind: int | None) -> None:
    given = [name for name, used in (("df", df), ("type", kind)) if used is not None]
    if given:
        raise MethodError(
            f"{' and '.join(given)} belong to the F tests of one fit; several are compared by likelihood ratio"
        )


def _check(fits: Sequence[Any], refit: bool) -> None:
    for fit in fits:
        _check_fit(fit, "anova")
    if len(fits) < 2:
        raise MethodError(f"anova compares two fits or more, bl.anova(small, large); got {len(fits)}")
    check_same_data(fits)
    check_same_approximation(fits)
    if not refit:
        check_restricted(fits)


def _check_fit(fit: Any, name: str) -> None:
    if not isinstance(fit, PointFit):
        raise MethodError(f"{name} takes fits of bl.fit, not {type(fit).__name__}; posteriors have no likelihood ratio")
    if fit.method == "MAP":
        raise MethodError(f"{name} needs maximised likelihoods; a MAP fit has a maximised posterior. Fit by REML or ML")
    if fit.method == "PQL":
        raise MethodError(f'{name} needs a likelihood; quasi-likelihood has none. Fit with method="Laplace"')


def _names(fits: Sequence[PointFit], labels: Sequence[str] | None) -> list[str]:
    if labels is not None:
        names = [str(label) for label in labels]
        if isinstance(labels, str) or len(names) != len(fits) or len(set(names)) != len(names):
            raise MethodError(f"labels must be {len(fits)} different names, one per fit, got {labels!r}")
        return names
    plain = [fit.model.formula.text for fit in fits]
    return [f"{n} [{plain[: i + 1].count(n)}]" if plain.count(n) > 1 else n for i, n in enumerate(plain)]


def _reduced_fit(fit: PointFit, formula: Formula) -> PointFit:
    """The same kind of fit of a model with a smaller random part."""
    arguments = dict(fit.model.arguments) | {"formula": str(formula), "priors": None}
    used = words_in(formula.fixed, *(part.effects for part in formula.random))
    arguments["contrasts"] = {name: c for name, c in (arguments["contrasts"] or {}).items() if name in used} or None
    model = Model(**arguments)
    if not np.array_equal(model.design.rows, fit.model.design.rows):
        raise MethodError(
            f"without it {model.design.nobs} rows are used instead of {fit.model.design.nobs}, since its values are not "
            "missing any more; leave out the rows with missing values first"
        )
    kept = [(term.group, effect) for term in model.design.random for effect in term.effects]
    held = {name: value for name, value in fit.fixed.items() if _still_there(name, kept)}
    return fit_alike(fit, model, held)


def _still_there(name: str, kept: Sequence[tuple[str, str]]) -> bool:
    """Whether a held parameter belongs to effects that are kept."""
    kind, _, rest = name.partition("_")
    if kind not in ("sd", "corr"):
        return True
    group, _, effects = rest.removesuffix("]").partition("[")
    return all((group, effect) in kept for effect in effects.split(", "))


def _deletions(model: Model, reduce: bool) -> Iterator[tuple[str, Formula]]:
    """Row names and the formulas with one random effect fewer."""
    parts = _expanded(model)
    for i, (part, columns) in enumerate(parts):
        others = [p for j, (p, _) in enumerate(parts) if j != i]
        for name, smaller in _smaller(part, columns, reduce):
            kept = [smaller] if smaller and not any(_equal(smaller, other) for other in others) else []
            yield name, replace(model.formula, random=(*others[:i], *kept, *others[i:]))


def _expanded(model: Model) -> list[tuple[RandomPart, Array]]:
    """The random parts with independent effects written as terms of their own, and their columns."""
    found: list[tuple[RandomPart, Array]] = []
    for part, term in zip(model.formula.random, model.design.random, strict=True):
        effects = _effects(part)
        named = ["Intercept" if effect == "1" else effect for effect in effects]
        if part.structure == "diag" and named == list(term.effects):
            single = [replace(part, effects="1" if e == "1" else f"0 + {e}", structure="us") for e in effects]
            found += zip(single, np.hsplit(term.columns, len(effects)), strict=True)
        else:
            found.append((part, term.columns))
    return found


def _effects(part: RandomPart) -> list[str]:
    """The terms left of the bar as formulaic reads them, "1" for the intercept."""
    from formulaic import Formula as Terms

    return [str(term) for term in Terms(part.effects)]


def _equal(one: RandomPart, other: RandomPart) -> bool:
    return set(one.group) == set(other.group) and set(_effects(one)) == set(_effects(other))


def _smaller(part: RandomPart, columns: Array, reduce: bool) -> Iterator[tuple[str, RandomPart | None]]:
    """Row names and the parts that remain; None where the part goes as a whole."""
    effects = _effects(part)
    slopes = [e for e in effects if e != "1"]
    if not slopes or not reduce:
        yield str(part), None
        return
    intercept = "1" in effects or spanned(np.ones((len(columns), 1)), columns)
    for dropped in slopes:
        if any(set(dropped.split(":")) < set(other.split(":")) for other in slopes):
            continue
        rest = [e for e in slopes if e != dropped]
        kept = " + ".join([*(["1"] if "1" in effects else ["0"]), *rest]) if rest else "1" if intercept else ""
        yield f"{dropped} in {part}", replace(part, effects=kept) if kept else None
