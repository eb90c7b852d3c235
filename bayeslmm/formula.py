"""Text → Formula: response, fixed part, offsets, random terms. Errors point at the character."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bayeslmm.errors import FormulaError, NotSupportedError
from bayeslmm.grammar import NAME, Reader, Term

Names = tuple[str, ...]
STRUCTURES = ("us", "diag")
_OTHER_STRUCTURES = (
    *("ar1", "har1", "hetar1", "homar1", "car1", "cs", "hcs", "homcs", "csh", "toep", "homtoep", "toeph", "un"),
    *("exp", "gau", "mat", "sph", "ou", "sar", "homdiag", "propto", "equalto", "rr"),
)
_COVARIANCES = frozenset(STRUCTURES + _OTHER_STRUCTURES)
_GROUP_OPERATORS = (("+",), ("*", "/"), (":",))
_LABELS = ("factor", "as.factor", "ordered", "C")
_NO_INTERCEPT = (("+", "0"), ("-", "1"))
_CALLED = {"random": "a random term", "offset": "an offset"}


@dataclass(frozen=True, slots=True)
class RandomPart:
    """One random term: effects that vary over the levels of one grouping factor.

    Attributes
    ----------
    effects : str
        Left of the bar, for formulaic: ``"1 + x"``, ``"0 + x"``; the intercept is implied as in any formula.
    group : tuple of str
        Columns whose combinations are the groups: ``a/b`` gives ``("a",)`` in one part and ``("b", "a")`` in the next.
    structure : str
        ``"us"``, effects correlated; ``"diag"``, effects independent.
    start, stop : int
        Where the term stands in the formula's text (not compared).

    Examples
    --------
    >>> from bayeslmm.formula import parse
    >>> [part.name for part in parse("y ~ x + (1 | a/b)").random]
    ['a', 'b:a']
    """

    effects: str
    group: Names
    structure: str
    start: int = field(compare=False)
    stop: int = field(compare=False)

    @property
    def name(self) -> str:
        """The group as lme4 names it, ``"b:a"``."""
        return ":".join(self.group)

    def __str__(self) -> str:
        bar = "|" if self.structure == "us" else "||"
        return f"({self.effects} {bar} {_written_group(self.group)})"


@dataclass(frozen=True, slots=True)
class Formula:
    """A mixed model formula, split. ``str`` writes it out in one normal form; two of equal content are equal.

    Attributes
    ----------
    text : str
        The formula as given (not compared).
    response : str
        Left of ``~``.
    fixed : str
        Right of ``~`` for formulaic, without random terms and offsets: ``"1"`` where only the intercept remains,
        ``"0"`` where nothing does.
    offsets : tuple of str
        What stands inside each ``offset(...)``; arithmetic is put in ``I(...)``, as formulaic needs it.
    random : tuple of RandomPart
        Random terms in the order of the text; nested groups written out.

    Examples
    --------
    >>> from bayeslmm.formula import parse
    >>> print(parse("y~x+offset(log(t))+(x||g)"))
    y ~ x + offset(log(t)) + (x || g)
    """

    text: str = field(compare=False)
    response: str
    fixed: str
    offsets: Names
    random: tuple[RandomPart, ...]

    @property
    def groups(self) -> Names:
        """Names of the grouping factors, each once."""
        return tuple(dict.fromkeys(part.name for part in self.random))

    @property
    def listing(self) -> str:
        """The parts, one a line, for print."""
        rows = [("response", self.response), ("fixed", self.fixed)]
        rows += [("offset", offset) for offset in self.offsets] + [("random", str(part)) for part in self.random]
        return "\n".join(f"{label:<10}{text}" for label, text in rows)

    def __str__(self) -> str:
        offsets = (f"offset({offset})" for offset in self.offsets)
        return f"{self.response} ~ {' + '.join([self.fixed, *offsets, *map(str, self.random)])}"


def parse(text: str) -> Formula:
    """Split a formula in lme4's notation.

    Parameters
    ----------
    text : str
        ``response ~ terms``. A random term is ``(effects | group)`` or ``us(effects | group)``, and for independent
        effects ``(effects || group)`` or ``diag(effects | group)``; a group is a column, an interaction ``a:b``, or
        nested columns ``a/b``, which give one part each. ``offset(...)`` may be added. Names that hold more than
        letters, digits, ``_`` and ``.`` are quoted by backticks.

    Returns
    -------
    Formula

    Raises
    ------
    FormulaError
        The text cannot be read; the message shows it with a caret under the character.
    NotSupportedError
        A covariance structure that the notation knows and this package does not fit.

    Examples
    --------
    >>> from bayeslmm.formula import parse
    >>> formula = parse("Reaction ~ Days + (Days | Subject)")
    >>> formula.response, formula.fixed, formula.random[0].effects, formula.random[0].group
    ('Reaction', 'Days', 'Days', ('Subject',))
    """
    if not isinstance(text, str):
        raise FormulaError(f"a formula is text such as 'y ~ x + (1 | g)'; got {type(text).__name__}")
    reader = Reader(re.sub(r"\s", " ", text).strip(), _COVARIANCES)
    tilde = _tilde(reader)
    response = _response(reader, tilde)
    terms = list(_flat(reader, reader.sum(tilde + 1, len(reader.tokens))))
    fixed = _joined(reader, (term for term in terms if term.kind not in _CALLED))
    offsets = tuple(_offset(reader, term) for term in terms if term.kind == "offset")
    random = tuple(part for term in terms if term.kind == "random" for part in _random(reader, term))
    _check_repeats(reader, random)
    return Formula(reader.text, response, fixed, offsets, random)


def _tilde(reader: Reader) -> int:
    """The token that separates the two sides."""
    last = len(reader.tokens) - 1
    if last < 0:
        raise FormulaError("the formula is empty; write one such as 'y ~ x + (1 | g)'", reader.text, 0)
    found = reader.outer(0, last + 1, "~")
    if not found:
        equals = reader.outer(0, last + 1, "=", "==")
        raise reader.error("there is no '~'; write 'response ~ predictors'", [*equals, 0][0])
    if len(found) > 1:
        raise reader.error("a second '~'; a formula has one, between the response and its predictors", found[1])
    if found[0] == last:
        raise reader.error("nothing stands right of '~'; for a mean alone write 'y ~ 1'", last)
    if found[0] == 0:
        raise reader.error("there is no response left of '~'; write 'y ~ ...'", 0)
    return found[0]


def _response(reader: Reader, tilde: int) -> str:
    """The left side: one column, or one function of columns."""
    for bar in reader.bars(0, tilde):
        raise reader.error("the response holds no bar; random terms stand right of '~'", bar)
    (term, *more), text = reader.sum(0, tilde), reader.slice(0, tilde)
    message = f"the response is one column, or one function of columns; write I({text})"
    if reader.is_sign(0, "+", "-"):
        raise reader.error(message, 0)
    if more or len(term.operands) > 1:
        raise reader.error(message, term.operands[0].stop)
    if term.kind not in ("name", "call"):
        raise reader.error("the response is one column, or one function of columns", term.first)
    if reader.is_call(0) and reader.tokens[0].text == "cbind":
        raise reader.error("cbind() is R's; write p(successes, trials)", 0)
    return text


def _flat(reader: Reader, terms: Iterable[Term]) -> Iterator[Term]:
    """The terms, without parentheses around what must stand at the top; refuses it where it cannot."""
    for term in terms:
        inner = [nested for nested in term.deep() if nested is not term and _belongs_at_top(nested)]
        if inner and term.kind == "group" and term.sign == "+":
            yield from _flat(reader, term.operands[0].terms)
            continue
        if inner:
            shown = reader.slice(inner[0].first, inner[0].stop)
            raise reader.error(f"{shown} can only be added; write it outside of the parentheses", inner[0].first)
        _check_alone(reader, term)
        yield term


def _belongs_at_top(term: Term) -> bool:
    return term.kind == "number" or any(operand.kind in _CALLED for operand in term.operands)


def _check_alone(reader: Reader, term: Term) -> None:
    """Refuse a random term or offset that is multiplied or subtracted, and a number that is no intercept."""
    for k, operand in enumerate(term.operands):
        if operand.kind in _CALLED and term.kind == "product":
            operator = operand.first - 1 if k else operand.stop
            raise reader.error(f"{_CALLED[operand.kind]} can only be added; write '+' here", operator)
    if term.kind in _CALLED and term.sign == "-":
        raise FormulaError(f"{_CALLED[term.kind]} cannot be subtracted; add it or leave it out", reader.text, term.at)
    if term.kind == "number" and reader.slice(term.first, term.stop) not in ("0", "1"):
        raise reader.error("a number is no term; only 1 and 0 are, for the intercept and for none", term.first)


def _joined(reader: Reader, terms: Iterable[Term]) -> str:
    """The terms as one text; of several statements about the intercept the last one holds, as in R."""
    signed = [(term.sign, reader.slice(term.first, term.stop)) for term in terms]
    stated = [pair for pair in signed if pair[1] in ("0", "1")]
    if len(stated) > 1 or len(stated) == len(signed):
        last = "0" if stated and stated[-1] in _NO_INTERCEPT else "1"
        others = [pair for pair in signed if pair not in stated]
        if not others:
            return last
        signed = [("+", last), *others]
    text = " ".join(f"{sign} {text}" for sign, text in signed)
    return text[2:] if text[0] == "+" else f"-{text[2:]}"


def _offset(reader: Reader, term: Term) -> str:
    """What stands inside offset(...), as one operand."""
    first, stop = term.first + 2, term.stop - 1
    opens = first + 1 if reader.is_call(first) else first
    simple = reader.tokens[first].kind in ("name", "quoted") or reader.tokens[first].text == "{"
    whole = simple and reader.partner.get(opens, opens) == stop - 1
    return reader.slice(first, stop) if whole else f"I({reader.slice(first, stop)})"


def _random(reader: Reader, term: Term) -> tuple[RandomPart, ...]:
    """The random parts of one pair of parentheses."""
    named, stop = reader.is_call(term.first), term.stop - 1
    structure = reader.tokens[term.first].text if named else "us"
    first = term.first + (2 if named else 1)
    bar, *more = reader.bars(first, stop)
    if structure not in STRUCTURES:
        message = f"the covariance structure {structure}( | ) is not supported; us( | ) and diag( | ) are"
        raise NotSupportedError(str(reader.error(message, term.first)))
    if more or len(reader.tokens[bar].text) > 2:
        raise reader.error("a random term has one bar: (x | g), or (x || g) for independent effects", [*more, bar][0])
    if bar == first:
        raise reader.error("nothing stands left of the bar; for a random intercept write (1 | g)", bar)
    if bar + 1 == stop:
        raise reader.error("nothing stands right of the bar; name the grouping column, as in (1 | g)", bar)
    if reader.is_sign(bar, "||"):
        if named:
            raise reader.error(f"'||' inside {structure}() says the structure twice; write '|'", bar)
        structure = "diag"
    effects = _effects(reader, first, bar)
    span = reader.tokens[term.first].start, reader.tokens[stop].stop
    return tuple(RandomPart(effects, group, structure, *span) for group in _groups(reader, bar + 1, stop, effects))


def _effects(reader: Reader, first: int, stop: int) -> str:
    terms = list(_flat(reader, reader.sum(first, stop)))
    for term in terms:
        if term.kind == "random":
            raise reader.error("a random term holds no other; for groups within groups write (1 | a/b)", term.first)
        if term.kind == "offset":
            raise reader.error("an offset has no random effect; add it outside of the parentheses", term.first)
    effects = _joined(reader, terms)
    if effects == "0":
        raise reader.error("no effect is left of the bar; for a random intercept write (1 | g)", first)
    return effects


def _groups(reader: Reader, first: int, stop: int, effects: str) -> list[Names]:
    """Grouping factors, nested ones written out."""
    groups = _crossed(reader, first, stop)
    for i in range(first, stop):
        if reader.is_sign(i, "+", "*"):
            written = " + ".join(f"({effects} | {_written_group(group)})" for group in groups)
            raise reader.error(f"each grouping factor needs a random term of its own; write {written}", i)
    for group in groups:
        if len(set(group)) < len(group):
            raise reader.error(f"{':'.join(group)} groups by the same column twice; name it once", first)
    return groups


def _crossed(reader: Reader, first: int, stop: int) -> list[Names]:
    """Wilkinson and Rogers' algebra of factors over a range of tokens."""
    groups, end = _joined_factors(reader, first, stop, 0)
    if end < stop:
        raise reader.error("a grouping factor is a column, or columns joined by ':' or '/'", end)
    return groups


def _joined_factors(reader: Reader, first: int, stop: int, level: int) -> tuple[list[Names], int]:
    """Factors joined by operators of one precedence or a higher one, and the token after them."""
    if level == len(_GROUP_OPERATORS):
        return _factor(reader, first)
    left, end = _joined_factors(reader, first, stop, level + 1)
    while end < stop and reader.is_sign(end, *_GROUP_OPERATORS[level]):
        operator = reader.tokens[end].text
        if end + 1 == stop:
            raise reader.error(f"nothing follows '{operator}'; name a column or remove the sign", end)
        right, end = _joined_factors(reader, end + 1, stop, level + 1)
        left = _combined(operator, left, right)
    return left, end


def _combined(operator: str, left: Sequence[Names], right: Sequence[Names]) -> list[Names]:
    """The factors that two lists of factors make: side by side, crossed, nested, or their interactions alone."""
    if operator == "/":
        return [*left, *(b + left[-1] for b in right)]
    interactions = [a + b for a in left for b in right]
    return {"+": [*left, *right], "*": [*left, *right, *interactions], ":": interactions}[operator]


def _factor(reader: Reader, first: int) -> tuple[list[Names], int]:
    """One column, or factors in parentheses, and the token after them."""
    token, stop = reader.tokens[first], reader.partner.get(first, first)
    if token.text == "(" and reader.bars(first + 1, stop):
        raise reader.error("a random term is no grouping factor; for groups within groups write (1 | a/b)", first)
    if token.text == "(" and stop > first + 1:
        return _crossed(reader, first + 1, stop), stop + 1
    if reader.is_call(first):
        inside = reader.slice(first + 2, reader.partner[first + 1])
        labels = f"write {inside}, which is taken as labels anyway"
        remedy = labels if token.text in _LABELS else "make a column of it first"
        raise reader.error(f"a grouping factor is a column, not a call of {token.text}(); {remedy}", first)
    if token.kind not in ("name", "quoted"):
        raise reader.error(f"{token.text!r} is no grouping factor; name a column, or make one first", first)
    return [(token.text.strip("`"),)], first + 1


def _check_repeats(reader: Reader, parts: Iterable[RandomPart]) -> None:
    """Refuse the same effects on the same group in two terms."""
    seen: dict[object, RandomPart] = {}
    for part in parts:
        key = _content(part.effects), frozenset(part.group)
        if key in seen:
            raise FormulaError(f"{part} repeats {seen[key]}; keep one of them", reader.text, part.start)
        seen[key] = part


def _content(effects: str) -> tuple[frozenset[tuple[str, str]], bool]:
    """Effects without regard to order and spacing, and whether an intercept is among them."""
    reader = Reader(effects, _COVARIANCES)
    terms = reader.sum(0, len(reader.tokens))
    signed = {(term.sign, reader.slice(term.first, term.stop).replace(" ", "")) for term in terms}
    return frozenset(pair for pair in signed if pair[1] not in ("0", "1")), signed.isdisjoint(_NO_INTERCEPT)


def _written_group(group: Names) -> str:
    return ":".join(name if re.fullmatch(NAME, name) else f"`{name}`" for name in group)


def right_side(name: str, text: str, formula: Formula) -> str:
    """The right side of a formula for another parameter of the distribution."""
    parsed = parse(f"{formula.response} {text}") if str(text).lstrip().startswith("~") else None
    if parsed is None:
        raise FormulaError(f"{name}= takes a formula without a left side, such as '~ x'; got {text!r}")
    if parsed.random or parsed.offsets:
        raise NotSupportedError(
            f"{name}={text!r}: random effects and offsets in it cannot be fitted yet; leave them out"
        )
    return parsed.fixed
