"""The text of a formula → terms, operands and brackets, before anything is said about what they mean."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from bayeslmm.errors import FormulaError

NAME = r"(?:[^\W\d]|\.(?=[^\W\d]))[\w.]*"
DEEPEST = 50
_PRODUCTS = ("*", "/", ":", "^", "**", "%in%")
_CLOSES = {")": "(", "]": "[", "}": "{"}
_TOKEN = re.compile(
    rf"""(?P<space>\s+) | (?P<quoted>`[^`]*`) | (?P<string>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?) | (?P<name>{NAME})
    | (?P<open>[(\[{{]) | (?P<close>[)\]}}]) | (?P<sign>\|+|\*\*|%\w*%|[<>=!]=|.)""",
    re.VERBOSE,
)
_REASONS = {
    ".": "'.' does not stand for all other columns; name the columns",
    "~": "a second '~'; a formula has one, between the response and its predictors",
    "$": "'$' does not reach into a table; name the column alone",
    "=": "'=' cannot stand here; write '~' after the response, and '=' only inside a function call",
    "==": "'==' can compare only inside a function; write I(x == 1), or make a column of it",
    ",": "',' can stand only inside a function call",
    "[": "'[' cannot stand here; put the whole expression in I(...), or make a column of it",
}


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of text: `kind` is name, quoted, number, string, open, close or sign (everything else)."""

    kind: str
    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Operand:
    """What stands between operators, as the range of tokens first:stop.

    `kind` is number, name, call, offset, random (parentheses that hold a bar, a structure's name before them
    included) or group (other parentheses, with the `terms` of the sum inside).
    """

    kind: str
    first: int
    stop: int
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class Term:
    """Operands joined by products; `sign` is + or -, `at` the character where that sign, or the term, stands."""

    sign: str
    at: int
    operands: tuple[Operand, ...]

    @property
    def first(self) -> int:
        """First token, the sign left out."""
        return self.operands[0].first

    @property
    def stop(self) -> int:
        """The token after the last."""
        return self.operands[-1].stop

    @property
    def kind(self) -> str:
        """The kind of a single operand, or product."""
        return self.operands[0].kind if len(self.operands) == 1 else "product"

    def deep(self) -> Iterator[Term]:
        """The term, and every term inside its parentheses."""
        yield self
        for operand in self.operands:
            for term in operand.terms:
                yield from term.deep()


class Reader:
    """Recursive descent over the tokens of one text; every range is one of token indices, first:stop.

    Attributes
    ----------
    text : str
        The text, which errors show.
    tokens : list of Token
        Its tokens.
    partner : dict
        Opening bracket -> closing bracket.
    covariances : frozenset of str
        Names that, before parentheses with a bar, are no functions.
    """

    def __init__(self, text: str, covariances: frozenset[str]) -> None:
        self.text, self.covariances = text, covariances
        self.tokens = _scan(text)
        self.partner = _partners(text, self.tokens)

    def error(self, message: str, token: int) -> FormulaError:
        """The error that points at a token."""
        return FormulaError(message, self.text, self.tokens[token].start)

    def slice(self, first: int, stop: int) -> str:
        """The text of some tokens, without space between a function and its parenthesis."""
        pieces = []
        for i in range(first, stop):
            gap = i > first and not (self.tokens[i].text == "(" and self.tokens[i - 1].kind == "name")
            pieces += [self.text[self.tokens[i - 1].stop : self.tokens[i].start] if gap else "", self.tokens[i].text]
        return "".join(pieces)

    def is_sign(self, token: int, *texts: str) -> bool:
        """Whether a token is one of these operators."""
        return self.tokens[token].kind == "sign" and self.tokens[token].text in texts

    def is_call(self, token: int) -> bool:
        """Whether a function's name stands here, with its parenthesis."""
        return self.tokens[token].kind == "name" and token + 1 in self.partner and self.tokens[token + 1].text == "("

    def outer(self, first: int, stop: int, *texts: str) -> list[int]:
        """Operators of these texts that no bracket inside the range encloses."""
        found = []
        while first < stop:
            found += [first] if self.is_sign(first, *texts) else []
            first = self.partner.get(first, first) + 1
        return found

    def bars(self, first: int, stop: int) -> list[int]:
        """Bars, of any length, that no bracket inside the range encloses."""
        return self.outer(first, stop, *{token.text for token in self.tokens if token.text[0] == "|"})

    def sum(self, first: int, stop: int) -> list[Term]:
        """Terms joined by plus and minus."""
        terms: list[Term] = []
        while first < stop:
            at = self.tokens[first].start
            sign, first = self._leading_sign(first, stop, required=bool(terms))
            terms.append(Term(sign, at, self._product(first, stop)))
            first = terms[-1].stop
        return terms

    def _leading_sign(self, first: int, stop: int, *, required: bool) -> tuple[str, int]:
        if not self.is_sign(first, "+", "-"):
            if required:
                raise self._misplaced(first)
            return "+", first
        sign, first = self.tokens[first].text, first + 1
        if first < stop and self.is_sign(first, "+", "-"):
            if sign == "-" or self.is_sign(first, "+"):
                raise self.error("two signs in a row; a term is missing between them, or one is too many", first)
            sign, first = "-", first + 1
        if first == stop:
            raise self.error(f"nothing follows '{sign}'; add a term or remove the sign", first - 1)
        return sign, first

    def _product(self, first: int, stop: int) -> tuple[Operand, ...]:
        operands = [self._operand(first)]
        while (operator := operands[-1].stop) < stop and self.is_sign(operator, *_PRODUCTS):
            sign = self.tokens[operator].text
            if operator + 1 == stop or self.is_sign(operator + 1, "+", "-"):
                raise self.error(f"{sign!r} needs a term on its right; add one or remove the sign", operator)
            operands.append(self._operand(operator + 1))
            self._check_product(operator, *operands[-2:])
        return tuple(operands)

    def _check_product(self, operator: int, left: Operand, right: Operand) -> None:
        """Refuse powers of a column, products with a number, and %in%."""
        a, sign, b = self.slice(left.first, left.stop), self.tokens[operator].text, self.slice(right.first, right.stop)
        number = left if left.kind == "number" else right
        if sign in ("^", "**"):
            if not re.fullmatch(r"[1-9]\d*", b):
                raise self.error("a power of terms is a whole number; write arithmetic inside I(...)", right.first)
            if left.kind != "group":
                raise self.error(f"{a}{sign}{b} only crosses {a} with itself; for a power write I({a}**{b})", operator)
        elif sign == "%in%":
            raise self.error(f"'%in%' is not supported; for {a} within {b} write {b}/{a} or {a}:{b}", operator)
        elif number.kind == "number":
            raise self.error(f"a term has no number as a factor; write arithmetic as I({a} {sign} {b})", number.first)

    def _operand(self, first: int) -> Operand:
        token = self.tokens[first]
        if self.is_call(first):
            return self._call(first)
        if token.kind in ("name", "quoted"):
            return Operand("name", first, first + 1)
        if token.kind == "number":
            return Operand("number", first, first + 1)
        if token.text == "(":
            return self._group(first)
        if token.text == "{":
            self._check_code(first, first)
            return Operand("call", first, self.partner[first] + 1)
        raise self._misplaced(first)

    def _call(self, first: int) -> Operand:
        """A function of columns, an offset, or a random term with its structure named."""
        name, bracket = self.tokens[first], first + 1
        stop = self.partner[bracket]
        if bars := self.bars(bracket + 1, stop):
            if name.text in self.covariances:
                return Operand("random", first, stop + 1)
            if name.stop < self.tokens[bracket].start:
                raise self.error("'+' is missing before the random term", bracket)
            if name.text not in ("I", "offset"):
                random = f"({self.slice(first, bars[0])}) | {self.slice(bars[0] + 1, stop)})"
                raise self.error(f"a bar inside a function is no random term; write {random}", bars[0])
        self._check_code(first, bracket)
        return Operand("offset" if name.text == "offset" else "call", first, stop + 1)

    def _group(self, bracket: int) -> Operand:
        stop = self.partner[bracket]
        if stop == bracket + 1:
            raise self.error("nothing stands between the parentheses", bracket)
        if self.bars(bracket + 1, stop):
            return Operand("random", bracket, stop + 1)
        return Operand("group", bracket, stop + 1, tuple(self.sum(bracket + 1, stop)))

    def _check_code(self, first: int, bracket: int) -> None:
        """Refuse what the code inside a function cannot mean."""
        stop = self.partner[bracket]
        for i in range(bracket + 1, stop):
            if self.tokens[i].kind == "sign" and self.tokens[i].text[0] == "|":
                raise self.error("a bar inside a function is no random term; make a column of the expression first", i)
            if self.is_sign(i, "^"):
                shown = self.slice(first, stop + 1).replace("^", "**")
                raise self.error(f"'^' is not a power inside a function; write {shown}", i)
            if self.is_sign(i, "."):
                raise self.error(_REASONS["."], i)
            if self.is_call(i) and self.tokens[i].text == "offset":
                raise self.error("an offset is a term of its own; write + offset(...) outside of the function", i)
        commas = self.outer(bracket + 1, stop, ",")
        if self.tokens[first].text == "offset" and (commas or stop == bracket + 1):
            raise self.error("offset() takes one expression, such as offset(log(time))", [*commas, first][0])
        column = stop == bracket + 2 and self.tokens[bracket + 1].kind == "name"
        if self.tokens[first].text != "offset" or not column:  # offset(x.1) holds a column's name, no code
            self._check_python(first, stop + 1)

    def _check_python(self, first: int, stop: int) -> None:
        """Refuse code that Python's grammar does not know; formulaic would fail on it without saying where."""
        start = self.tokens[first].start
        code = self.text[start : self.tokens[stop - 1].stop]
        code = f"({code[1:-1]})" if code[0] == "{" else code
        try:
            ast.parse(re.sub(r"`[^`]*`", lambda quoted: "_" * len(quoted.group()), code), mode="eval")
        except SyntaxError as error:
            message = f"{self.slice(first, stop)} is no Python; write it so, with odd column names between backticks"
            raise FormulaError(message, self.text, start + max(error.offset or 1, 1) - 1) from error

    def _misplaced(self, i: int) -> FormulaError:
        """The error for a token that cannot stand where it does."""
        token = self.tokens[i]
        if token.kind == "string":
            return self.error("a string is no term; a column's name is quoted by backticks: `my column`", i)
        if token.text[0] == "|":
            return self.error("a bar stands only inside the parentheses of a random term; write (x | g)", i)
        if token.kind in ("sign", "open") and token.text in _REASONS:
            return self.error(_REASONS[token.text], i)
        if token.kind != "sign":
            return self.error(f"'+', or another operator, is missing before {token.text!r}", i)
        if token.text in _PRODUCTS:
            return self.error(f"{token.text!r} needs a term on its left; add one or remove the sign", i)
        return self.error(f"{token.text!r} cannot stand here; put the expression in I(...), or make a column of it", i)


def _scan(text: str) -> list[Token]:
    """Tokens, without the space between them."""
    tokens = []
    for found in _TOKEN.finditer(text):
        kind = str(found.lastgroup)
        if kind == "sign" and found.group() in "`'\"":
            raise FormulaError(f"the quote {found.group()} is not closed", text, found.start())
        if found.group() == "``":
            raise FormulaError("no name stands between the backticks", text, found.start())
        if kind != "space":
            tokens.append(Token(kind, found.group(), *found.span()))
    return tokens


def _partners(text: str, tokens: list[Token]) -> dict[int, int]:
    """Opening bracket → closing bracket, as token indices."""
    waiting: list[int] = []
    partner = {}
    for i, token in enumerate(tokens):
        if token.kind == "open":
            waiting.append(i)
            if len(waiting) > DEEPEST:
                raise FormulaError(f"brackets are nested more than {DEEPEST} deep", text, token.start)
        elif token.kind == "close":
            if not waiting or tokens[waiting[-1]].text != _CLOSES[token.text]:
                raise FormulaError(f"{token.text!r} closes no bracket; remove it or open one before", text, token.start)
            partner[waiting.pop()] = i
    if waiting:
        left = tokens[waiting[-1]]
        raise FormulaError(f"{left.text!r} is not closed", text, left.start)
    return partner
