"""The model's two stages in mathematics, as MathML and as plain text, and what each symbol stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from bayeslmm.family import HETEROSCEDASTIC, family_of

if TYPE_CHECKING:
    from bayeslmm.model import Model
    from bayeslmm.terms import RandomTerm

# Coefficients written out one by one, and effects whose covariance matrix is.
MOST_WRITTEN, MOST_IN_MATRIX = 6, 3


@dataclass(frozen=True)
class Expression:
    """A formula in two forms.

    Parameters
    ----------
    mathml : str
        Content of a ``math`` element.
    text : str
        The same in one line of letters.
    """

    mathml: str
    text: str

    def __add__(self, other: Expression) -> Expression:
        return Expression(self.mathml + other.mathml, self.text + other.text)


@dataclass(frozen=True)
class Symbol:
    """A symbol of the equations, what it is, and what the package calls it."""

    expression: Expression
    meaning: str
    name: str


def _letter(letter: str) -> Expression:
    return Expression(f"<mi>{letter}</mi>", letter)


def _name(name: str) -> Expression:
    """A name of the data, upright."""
    return Expression(f"<mtext>{escape(name)}</mtext>", name)


def _operator(sign: str) -> Expression:
    """A relation or an addition, with room on both sides; brackets and commas without."""
    if sign in "(),":
        return Expression(f"<mo>{sign}</mo>", ", " if sign == "," else sign)
    return Expression(f'<mo lspace="0.3em" rspace="0.3em">{escape(sign)}</mo>', f" {sign} ")


def _sub(base: Expression, *indices: str) -> Expression:
    inside = ", ".join(indices)
    return Expression(f"<msub>{base.mathml}<mtext>{escape(inside)}</mtext></msub>", f"{base.text}[{inside}]")


def _squared(base: Expression, *indices: str) -> Expression:
    if not indices:
        return Expression(f"<msup>{base.mathml}<mn>2</mn></msup>", f"{base.text}²")
    inside = ", ".join(indices)
    mathml = f"<msubsup>{base.mathml}<mtext>{escape(inside)}</mtext><mn>2</mn></msubsup>"
    return Expression(mathml, f"{base.text}[{inside}]²")


def _joined(parts: Iterable[Expression], sign: str) -> Expression:
    first, *rest = parts
    for part in rest:
        first = first + _operator(sign) + part
    return first


def _call(name: str, *arguments: Expression) -> Expression:
    return _name(name) + _operator("(") + _joined(arguments, ",") + _operator(")")


def _matrix(rows: Sequence[Sequence[Expression]]) -> Expression:
    cells = "".join(f"<mtr>{''.join(f'<mtd>{cell.mathml}</mtd>' for cell in row)}</mtr>" for row in rows)
    text = "; ".join(", ".join(cell.text for cell in row) for row in rows)
    return Expression(f"<mrow><mo>[</mo><mtable>{cells}</mtable><mo>]</mo></mrow>", f"[{text}]")


ZERO, EQUALS, DISTRIBUTED = Expression("<mn>0</mn>", "0"), _operator("="), _operator("~")


def equations(model: Model) -> list[tuple[str, Expression]]:
    """The stages of a model, each with its label.

    Parameters
    ----------
    model : Model

    Returns
    -------
    list of (str, Expression)

    Examples
    --------
    >>> import bayeslmm as bl
    >>> for label, expression in equations(bl.load("models/wool")):
    ...     print(label or "       ", expression.text)
    stage 1 y[i] = β[Intercept] + u[bale(i)] + ε[i]
            ε[i] ~ Normal(0, σ²)
    stage 2 u[bale j] ~ Normal(0, σ[bale]²)
    """
    lines = _first_stage(model)
    for group in model.groups:
        own = [line for term in model.terms if term.group == group for line in _second_stage(model, term)]
        lines += [("stage 2" if i == 0 else "", line) for i, line in enumerate(own)]
    return lines


def _predictor(model: Model) -> Expression:
    """offset + xβ + zu."""
    design, row = model.design, "i"
    parts = [_sub(_name("offset"), row)] if design.offset is not None else []
    if len(design.fixed.names) > MOST_WRITTEN:
        parts.append(_sub(_letter("x"), row) + Expression("<mo>′</mo><mi>β</mi>", "′β"))
    else:
        parts += [_times(_sub(_letter("β"), name), name) for name in design.fixed.names]
    for group in model.groups:
        effects = model.effects(group)
        only = effects == ("Intercept",)
        parts += [_times(_sub(_letter("u"), *[e] * (not only), f"{group}(i)"), e) for e in effects]
    return _joined(parts or [ZERO], "+")


def _times(coefficient: Expression, name: str) -> Expression:
    if name == "Intercept":
        return coefficient
    return coefficient + Expression("<mo>·</mo>", "·") + _sub(_name(name), "i")


def _with_errors(model: Model) -> list[tuple[str, Expression]]:
    """The first stage of a Gaussian response, with one σ or one for each row."""
    design, error, formula = model.design, _sub(_letter("ε"), "i"), model.design.further.get("dispersion")
    variance = _squared(_letter("σ"), *["i"] * (formula is not None))
    weight = Expression("<mo>/</mo>", "/") + _sub(_letter("w"), "i")
    spread = variance if design.weights is None else variance + weight
    mean = _predictor(model) + _operator("+") + error
    lines = [
        ("stage 1", _sub(_name(design.response), "i") + EQUALS + mean),
        ("", error + DISTRIBUTED + _call("Normal", ZERO, spread)),
    ]
    if formula is not None:
        parts = [_times(_sub(_letter("γ"), name), name) for name in formula.names]
        lines.append(("", _call("log", _sub(_letter("σ"), "i")) + EQUALS + _joined(parts, "+")))
    return lines


def _first_stage(model: Model) -> list[tuple[str, Expression]]:
    design, response = model.design, _sub(_name(model.design.response), "i")
    if family_of(model.family).plain == "gaussian":
        return _with_errors(model)
    if model.design.ordered:
        inside = _letter("P") + _operator("(") + response + _operator("≤") + _letter("k") + _operator(")")
        threshold = _sub(_letter("τ"), "k")
        return [("stage 1", _call(str(model.link), inside) + EQUALS + threshold + _operator("−") + _bracketed(model))]
    family, mean = family_of(model.family), _sub(_letter("μ"), "i")
    more = [_name(family.dispersion)] if family.dispersion else []
    more += [_letter("ν")] if family.second == "nu" else []
    trials = [_sub(_letter("n"), "i")] if design.trials is not None else []
    density = response + DISTRIBUTED + _call(family.name.capitalize(), *trials, mean, *more)
    return [("stage 1", density), ("", _call(str(model.link), mean) + EQUALS + _predictor(model))]


def _bracketed(model: Model) -> Expression:
    return _operator("(") + _predictor(model) + _operator(")")


def _second_stage(model: Model, term: RandomTerm) -> list[Expression]:
    """The distribution of a term's effects over the levels."""
    group, level = term.group, f"{term.group} j"
    if len(term.effects) == 1 and model.effects(group) == ("Intercept",):
        return [_sub(_letter("u"), level) + DISTRIBUTED + _call("Normal", ZERO, _squared(_letter("σ"), group))]
    effects = [_sub(_letter("u"), effect, level) for effect in term.effects]
    if not term.covariance.pairs:
        variances = [_squared(_letter("σ"), group, effect) for effect in term.effects]
        return [u + DISTRIBUTED + _call("Normal", ZERO, v) for u, v in zip(effects, variances, strict=True)]
    covariance = _sub(_letter("Σ"), group)
    vector = _operator("(") + _joined(effects, ",") + _operator(")")
    lines = [vector + DISTRIBUTED + _call("Normal", ZERO, covariance)]
    if len(effects) <= MOST_IN_MATRIX:
        lines.append(covariance + EQUALS + _matrix(_covariances(group, term)))
    return lines


def _covariances(group: str, term: RandomTerm) -> list[list[Expression]]:
    pairs, k = set(term.covariance.pairs), len(term.effects)

    def cell(i: int, j: int) -> Expression:
        if i == j:
            return _squared(_letter("σ"), group, term.effects[i])
        first, second = min(i, j), max(i, j)
        if (first, second) not in pairs:
            return ZERO
        corr = _sub(_letter("ρ"), group, *([str(first + 1), str(second + 1)] if k > 2 else []))
        return corr + _sub(_letter("σ"), group, term.effects[first]) + _sub(_letter("σ"), group, term.effects[second])

    return [[cell(i, j) for j in range(k)] for i in range(k)]


def matrix_form(model: Model) -> Expression:
    """y = Xβ + Zu + ε with the sizes of the matrices; of other families the link of the mean."""
    n, p = model.design.nobs, len(model.design.fixed.names)
    q = sum(len(model.levels(group)) * len(model.effects(group)) for group in model.groups)
    fixed = [Expression("<mi>X</mi><mi>β</mi>", "Xβ")] if p else []
    random = [Expression("<mi>Z</mi><mi>u</mi>", "Zu")] if q else []
    linear = _joined([*fixed, *random] or [ZERO], "+")
    sizes = [f"X is {n:,} × {p}"] * bool(p) + [f"Z is {n:,} × {q:,}"] * bool(q)
    if family_of(model.family).plain == "gaussian":
        left, right = _letter("y"), linear + _operator("+") + _letter("ε")
    else:
        left, right = _call(str(model.link), _letter("μ")), linear
    return left + EQUALS + right + _aside(sizes)


def _aside(sizes: Sequence[str]) -> Expression:
    said = f"({', '.join(sizes)})"
    return Expression(f'<mspace width="1.5em"/><mtext>{said}</mtext>', f"   {said}") if sizes else Expression("", "")


def symbols(model: Model) -> list[Symbol]:
    """What every symbol of the equations is, and the name of its estimate.

    Parameters
    ----------
    model : Model

    Returns
    -------
    list of Symbol
    """
    found = [Symbol(_sub(_name(model.design.response), "i"), f"response in row i = 1 … {model.design.nobs:,}", "y")]
    found += _fixed_symbols(model)
    for group in model.groups:
        found += _group_symbols(model, group)
    if model.family == "gaussian":
        found.append(Symbol(_letter("σ"), "standard deviation of what the rest leaves, within levels", "sigma"))
    elif model.family == HETEROSCEDASTIC:
        found += _sigma_symbols(model.design.further["dispersion"].names)
    elif (dispersion := family_of(model.family).dispersion) is not None:
        found.append(Symbol(_name(dispersion), f"dispersion of the {model.family} distribution", "dispersion"))
    if family_of(model.family).second == "nu":
        found.append(Symbol(_letter("ν"), "degrees of freedom of the t distribution: small ones are heavy tails", "nu"))
    if model.design.ordered:
        steps = ", ".join(model.design.thresholds)
        found.append(Symbol(_sub(_letter("τ"), "k"), f"threshold above category k: {steps}", "thresholds"))
    if model.design.weights is not None:
        found.append(Symbol(_sub(_letter("w"), "i"), "prior weight of row i", "weights"))
    return found


def _sigma_symbols(names: Sequence[str]) -> list[Symbol]:
    """σ of a row, and the coefficients of its formula."""
    own = Symbol(_sub(_letter("σ"), "i"), "standard deviation of what the rest leaves in row i", "dispersion")
    said = {name: f"what a unit of {name} adds to log σ" for name in names}
    said |= {"Intercept": "log σ where all predictors of its formula are 0"} if "Intercept" in names else {}
    return [own, *(Symbol(_sub(_letter("γ"), name), said[name], f"dispersion[{name}]") for name in names)]


def _fixed_symbols(model: Model) -> list[Symbol]:
    names = model.design.fixed.names
    if len(names) > MOST_WRITTEN:
        listed = ", ".join(names[:MOST_WRITTEN])
        return [Symbol(_letter("β"), f"{len(names)} coefficients: {listed}, …", "fixef")]
    at_zero = "where all predictors are 0 (factors: at their first levels)" if len(names) > 1 else "of all levels"
    at_zero += "" if family_of(model.family).plain == "gaussian" else f", on the {model.link} scale"
    said = {name: f"what a unit of {name} adds, at an average level" for name in names}
    said |= {"Intercept": f"mean {at_zero}"} if "Intercept" in names else {}
    return [Symbol(_sub(_letter("β"), name), said[name], f"fixef[{name}]") for name in names]


def _group_symbols(model: Model, group: str) -> list[Symbol]:
    effects, count = model.effects(group), len(model.levels(group))
    only = effects == ("Intercept",)
    found = []
    for effect in effects:
        index, sd = ([], [group]) if only else ([effect], [group, effect])
        what = "in the intercept" if effect == "Intercept" else f"in what a unit of {effect} adds"
        deviation = f"deviation of level j = 1 … {count:,} of {group} {what}"
        found.append(Symbol(_sub(_letter("u"), *index, f"{group} j"), deviation, f"ranef_{group}[j, {effect}]"))
        found.append(
            Symbol(
                _sub(_letter("σ"), *sd),
                f"standard deviation of these over the levels of {group}",
                f"sd_{group}[{effect}]",
            )
        )
    pairs = model.pairs(group)
    if pairs:
        names = "; ".join(f"{effects[i]}, {effects[j]}" for i, j in pairs)
        found.append(
            Symbol(
                _sub(_letter("ρ"), group), f"correlation of the effects of a level of {group}", f"corr_{group}[{names}]"
            )
        )
    return found
