"""What a formula splits into, and where the caret stands when it does not."""

import formulaic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslmm.errors import BayesLMMError, FormulaError, NotSupportedError
from bayeslmm.formula import Formula, RandomPart, parse

RANDOM = {
    "(1|g)": [("1", "g", "us")],
    "(x|g)": [("x", "g", "us")],
    "(1+x|g)": [("1 + x", "g", "us")],
    "(x||g)": [("x", "g", "diag")],
    "(1 + x + z || g)": [("1 + x + z", "g", "diag")],
    "us(x|g)": [("x", "g", "us")],
    "diag(1+x|g)": [("1 + x", "g", "diag")],
    "diag (x | g)": [("x", "g", "diag")],
    "(0+x|g)": [("0 + x", "g", "us")],
    "(-1+x|g)": [("-1 + x", "g", "us")],
    "(x - 1|g)": [("x - 1", "g", "us")],
    "(x + -1|g)": [("x - 1", "g", "us")],
    "(+ x|g)": [("x", "g", "us")],
    "((0 + x)|g)": [("0 + x", "g", "us")],
    "(1 + x - 1|g)": [("0 + x", "g", "us")],
    "((1|g))": [("1", "g", "us")],
    "(x*f|g)": [("x*f", "g", "us")],
    "(x - z|g)": [("x - z", "g", "us")],
    "((a + b)^2|g)": [("(a + b)^2", "g", "us")],
    "(log(x)|g)": [("log(x)", "g", "us")],
    "(poly(x, 2)|g)": [("poly(x, 2)", "g", "us")],
    "({x / (1 + z)}|g)": [("{x / (1 + z)}", "g", "us")],
    "(`my x`|`my g`)": [("`my x`", "my g", "us")],
    "(1|a/b)": [("1", "a", "us"), ("1", "b:a", "us")],
    "(x||a/b)": [("x", "a", "diag"), ("x", "b:a", "diag")],
    "(1|a/b/c)": [("1", "a", "us"), ("1", "b:a", "us"), ("1", "c:b:a", "us")],
    "(1|a/(b/c))": [("1", "a", "us"), ("1", "b:a", "us"), ("1", "c:b:a", "us")],
    "(1|a:b)": [("1", "a:b", "us")],
    "(1|a:b:c)": [("1", "a:b:c", "us")],
    "(1|a:b/c)": [("1", "a:b", "us"), ("1", "c:a:b", "us")],
    "(1|a/b:c)": [("1", "a", "us"), ("1", "b:c:a", "us")],
    "(1|a/(b:c))": [("1", "a", "us"), ("1", "b:c:a", "us")],
    "(1|(g))": [("1", "g", "us")],
    "(1|g.1_é)": [("1", "g.1_é", "us")],
    "(1|g) + (0+x|g)": [("1", "g", "us"), ("0 + x", "g", "us")],
    "(1|g) + (1|h) + (x||h)": [("1", "g", "us"), ("1", "h", "us"), ("x", "h", "diag")],
    "(1|a:b) + (1|a) + (1|b)": [("1", "a:b", "us"), ("1", "a", "us"), ("1", "b", "us")],
}


@pytest.mark.parametrize("text", RANDOM)
def test_random_terms(text: str) -> None:
    formula = parse(f"y ~ x + {text}")
    assert [(part.effects, part.name, part.structure) for part in formula.random] == RANDOM[text]
    assert formula.fixed == "x"


RIGHT_SIDES = {
    "(1|g)": ("1", ()),
    "1 + (1|g)": ("1", ()),
    "0 + (1|g)": ("0", ()),
    "-1 + (1|g)": ("0", ()),
    "(1|g) - 1": ("0", ()),
    "(1|g) + 0": ("0", ()),
    "offset(z)": ("1", ("z",)),
    "0 + offset(z)": ("0", ("z",)),
    "x": ("x", ()),
    "+ x": ("x", ()),
    "x + -1": ("x - 1", ()),
    "x - 1": ("x - 1", ()),
    "-1 + x": ("-1 + x", ()),
    "0 + x + (1|g) + z": ("0 + x + z", ()),
    "x + 0": ("x + 0", ()),
    "1 + 0 + x": ("0 + x", ()),
    "0 + x + 1": ("1 + x", ()),
    "0 + 1": ("1", ()),
    "x - 1 - 0": ("1 + x", ()),
    "(0 + x)": ("0 + x", ()),
    "(x + (1|g)) + z": ("x + z", ()),
    "(x + (offset(w) + (1|g)))": ("x", ("w",)),
    "a*b - a:b": ("a*b - a:b", ()),
    "(a + b)^2 + c/d": ("(a + b)^2 + c/d", ()),
    "(a + b)**2": ("(a + b)**2", ()),
    "log (x)": ("log(x)", ()),
    "I(x**2) + {x + 1}": ("I(x**2) + {x + 1}", ()),
    "cs(x, df=4) + (1|g)": ("cs(x, df=4)", ()),
    "exp(x) + diag(x) + (1|g)": ("exp(x) + diag(x)", ()),
    "C(f, levels=['a|b', \"c(d\"]) + (1|g)": ("C(f, levels=['a|b', \"c(d\"])", ()),
    r"C(f, contr.treatment('it\'s ~ |'))": (r"C(f, contr.treatment('it\'s ~ |'))", ()),
    "`a | b` + `c(~`": ("`a | b` + `c(~`", ()),
    "I(~flag) + I(x >= .5e-3)": ("I(~flag) + I(x >= .5e-3)", ()),
    "x + offset(log(t, base=2)) + z + offset( w )": ("x + z", ("log(t, base=2)", "w")),
    "offset + (1|g)": ("offset", ()),
    "offset(w - z) + offset(2*w) + offset(-w)": ("1", ("I(w - z)", "I(2*w)", "I(-w)")),
    "offset((w)) + offset(log(w) + 1) + offset(2)": ("1", ("I((w))", "I(log(w) + 1)", "I(2)")),
    "offset(`my w`) + offset({w / 2})": ("1", ("`my w`", "{w / 2}")),
    "x.1 + offset(x.1)": ("x.1", ("x.1",)),
    "log(`a (b`) + poly(`c`, degree=2)": ("log(`a (b`) + poly(`c`, degree=2)", ()),
    "x\n  + z\t+ (1|g)": ("x + z", ()),
}


@pytest.mark.parametrize("text", RIGHT_SIDES)
def test_fixed_part_and_offsets(text: str) -> None:
    formula = parse(f"y ~ {text}")
    assert (formula.fixed, formula.offsets) == RIGHT_SIDES[text]


@pytest.mark.parametrize(
    "text", ["y", "log(y)", "`my y`", "p(successes, trials)", "np.log(y + 1)", "{y / 2}", "I(y**2)"]
)
def test_response(text: str) -> None:
    assert parse(f" {text} ~ x + (1|g) ").response == text


def test_groups_are_named_by_columns() -> None:
    formula = parse("y ~ (x | school/`my class`) + (1 | a:b)")
    assert [part.group for part in formula.random] == [("school",), ("my class", "school"), ("a", "b")]
    assert formula.groups == ("school", "my class:school", "a:b")


def test_spans_point_into_the_text() -> None:
    formula = parse("  y ~ x + diag( 1+x | g ) + (1|a/b)\n")
    assert formula.text == "y ~ x + diag( 1+x | g ) + (1|a/b)"
    spans = [formula.text[part.start : part.stop] for part in formula.random]
    assert spans == ["diag( 1+x | g )", "(1|a/b)", "(1|a/b)"]


def test_text_is_normalised() -> None:
    formula = parse("y~x+diag(x|g)+offset(w)+(1|a/`b c`)")
    assert str(formula) == "y ~ x + offset(w) + (x || g) + (1 | a) + (1 | `b c`:a)"
    assert parse(str(formula)) == formula
    rows = [
        "response  y",
        "fixed     x",
        "offset    w",
        "random    (x || g)",
        "random    (1 | a)",
        "random    (1 | `b c`:a)",
    ]
    assert formula.listing.splitlines() == rows


def test_spacing_does_not_matter() -> None:
    assert parse("y~x+(1+x|g)") == parse("y ~ x + ( 1 + x | g )")


# The sign ¦ stands before the character that the caret must point at; beside it words of the message.
MALFORMED = {
    "¦": "empty",
    "¦y": "no '~'",
    "¦x + (1|g)": "no '~'",
    "y ¦= x": "no '~'",
    "y ¦~": "nothing stands right",
    "¦~ x": "no response",
    "y ~ x ¦~ z": "a second '~'",
    "y ~ (x ¦~ z)": "a second '~'",
    "y ¦| g ~ x": "response holds no bar",
    "¦(y | g) ~ x": "the response is one column",
    "y ¦- x ~ z": "write I(y - x)",
    "y¦:x ~ z": "write I(y:x)",
    "¦-y ~ z": "write I(-y)",
    "¦(y - x) ~ z": "the response is one column",
    "¦1 ~ z": "the response is one column",
    "¦. ~ x": "name the columns",
    "¦cbind(k, m) ~ x": "write p(successes, trials)",
    "y ~ x ¦| g": "write (x | g)",
    "y ~ x + z ¦|| g": "inside the parentheses",
    "y ~ ¦| g": "inside the parentheses",
    "y ~ log(x ¦| g)": "write (log(x) | g)",
    "y ~ I((a > 1) ¦| b)": "make a column",
    "y ~ log(I(x ¦| g))": "make a column",
    "y ~ {x ¦| g}": "make a column",
    "y ~ ¦(x + z": "'(' is not closed",
    "y ~ log([x¦)": "')' closes no bracket",
    "y ~ x¦)": "')' closes no bracket",
    "y ~ (x¦] + (1|g)": "']' closes no bracket",
    "y ~ ¦`x + (1|g)": "the quote ` is not closed",
    "y ~ C(f, ¦'a)": "the quote ' is not closed",
    'y ~ C(f, ¦"a)': 'the quote " is not closed',
    "y ~ ¦`` + x": "no name stands",
    "y ~ ¦() + x": "nothing stands between",
    "y ~ (¦| g)": "nothing stands left",
    "y ~ (1 ¦|)": "nothing stands right",
    "y ~ (¦|)": "nothing stands left",
    "y ~ (1 ¦||| g)": "has one bar",
    "y ~ (1 | id ¦| g)": "has one bar",
    "y ~ (1 | ¦| g)": "has one bar",
    "y ~ (¦(1 | a) | b)": "holds no other",
    "y ~ (x + ¦(1 | a) | b)": "holds no other",
    "y ~ (1 | ¦(1 | g))": "no grouping factor",
    "y ~ x¦*(1|g)": "a random term can only be added",
    "y ~ x¦:(1|g)": "a random term can only be added",
    "y ~ (1|g)¦/x": "a random term can only be added",
    "y ~ x*(z + ¦(1|g))": "outside of the parentheses",
    "y ~ x ¦- (1|g)": "cannot be subtracted",
    "y ~ ¦-(1|g)": "cannot be subtracted",
    "y ~ x - (z + ¦(1|g))": "outside of the parentheses",
    "y ~ x ¦(1|g)": "'+' is missing",
    "y ~ (1|g)¦(1|h)": "is missing before",
    "y ~ (1|g) ¦x": "is missing before",
    "y ~ x ¦z": "is missing before",
    "y ~ (1 | ¦factor(g))": "write g,",
    "y ~ (1 | a:¦interaction(b, c))": "not a call of interaction()",
    "y ~ (1 | ¦3)": "'3' is no grouping factor",
    "y ~ (1 | ¦'g')": "no grouping factor",
    "y ~ (1 | ¦())": "no grouping factor",
    "y ~ (1 | a ¦+ b)": "write (1 | a) + (1 | b)",
    "y ~ (x | a¦*b)": "write (x | a) + (x | b) + (x | a:b)",
    "y ~ (1 | (a ¦+ b)/c)": "a random term of its own",
    "y ~ (1 | a ¦- b)": "joined by ':' or '/'",
    "y ~ (1 | g¦, hom=True)": "joined by ':' or '/'",
    "y ~ (1 | a ¦b)": "joined by ':' or '/'",
    "y ~ (1 | (a ¦b)/c)": "joined by ':' or '/'",
    "y ~ (1 | a¦/)": "nothing follows '/'",
    "y ~ (1 | ¦:a)": "no grouping factor",
    "y ~ (1 | ¦a:a)": "same column twice",
    "y ~ (1 | ¦a/b/a)": "same column twice",
    "y ~ (1|g) + ¦(1 | g)": "repeats (1 | g)",
    "y ~ (x|g) + ¦(1 + x || g)": "repeats (x | g)",
    "y ~ (x + 0|g) + ¦(-1+x|g)": "repeats (x + 0 | g)",
    "y ~ (1|a/b) + ¦(1|b:a)": "repeats (1 | b:a)",
    "y ~ (1|a:b) + ¦(1|b:a)": "repeats (1 | a:b)",
    "y ~ (¦0 | g)": "no effect",
    "y ~ (x ¦- | g)": "nothing follows '-'",
    "y ~ diag(x ¦|| g)": "says the structure twice",
    "y ~ (¦offset(z) | g)": "an offset has no random effect",
    "y ~ x ¦- offset(z)": "cannot be subtracted",
    "y ~ x¦*offset(z)": "an offset can only be added",
    "y ~ offset(z)¦:x": "an offset can only be added",
    "y ~ (x + ¦offset(z))*a": "outside of the parentheses",
    "y ~ log(¦offset(z))": "a term of its own",
    "y ~ ¦offset()": "one expression",
    "y ~ offset(a¦, b)": "one expression",
    "y ~ offset(x ¦| g)": "make a column",
    "y ~ ¦.": "name the columns",
    "y ~ x + ¦. + (1|g)": "name the columns",
    "y ~ poly(¦., 2)": "name the columns",
    "y ~ I(x¦^2)": "write I(x**2)",
    "y ~ log(x¦^2 + 1)": "write log(x**2 + 1)",
    "y ~ x¦^2": "write I(x**2)",
    "y ~ x¦**2 + (1|g)": "write I(x**2)",
    "y ~ (a + b)^¦k": "a whole number",
    "y ~ (a + b)^¦0": "a whole number",
    "y ~ x ¦%in% z": "write z/x or x:z",
    "y ~ ¦2*x": "write arithmetic as I(2 * x)",
    "y ~ x:¦2": "write arithmetic as I(x : 2)",
    "y ~ x + ¦2": "only 1 and 0",
    "y ~ x + ¦1.0": "only 1 and 0",
    "y ~ a*(b - ¦1)": "can only be added",
    "y ~ a*(¦0 + b)": "can only be added",
    "y ~ x ¦+": "nothing follows '+'",
    "y ~ x + (z ¦-)": "nothing follows '-'",
    "y ~ x +¦+ z": "two signs",
    "y ~ x -¦- z": "two signs",
    "y ~ ¦* x": "term on its left",
    "y ~ x +¦* z": "term on its left",
    "y ~ x¦*": "term on its right",
    "y ~ x¦:-z": "term on its right",
    "y ~ x*¦:z": "term on its left",
    "y ~ data¦$x": "name the column alone",
    "y ~ x ¦== 1": "write I(x == 1)",
    "y ~ x ¦> 1": "put the expression in I(...)",
    "y ~ x¦, data": "only inside a function call",
    "y ~ x¦[0]": "put the whole expression in I(...)",
    "y ~ np.log(x)¦.clip(0)": "is missing before '.clip'",
    "y ~ log(¦x z)": "is no Python",
    "y ~ log(¦`my x` z)": "is no Python",
    "y ~ log(¦x.1)": "is no Python",
    "y ~ log(¦x.1 + 1)": "is no Python",
    "y ~ ¦as.factor(f)": "is no Python",
    "y ~ {+¦}": "is no Python",
    "log(y +¦) ~ x": "is no Python",
    "y ~ offset(a¦:b)": "is no Python",
    "y ~ ¦'my column'": "quoted by backticks",
    "y ~ x ¦# note": "cannot stand here",
    "y ~ " + "(" * 50 + "¦(x" + ")" * 51: "nested more than 50 deep",
}


@pytest.mark.parametrize("marked", MALFORMED)
def test_caret_and_words(marked: str) -> None:
    position, text = marked.index("¦"), marked.replace("¦", "")
    with pytest.raises(FormulaError) as caught:
        parse(text)
    assert (caught.value.text, caught.value.position) == (text, position)
    message, *shown = str(caught.value).split("\n")
    assert MALFORMED[marked] in message
    assert shown == ([f"  {text}", f"  {' ' * position}^"] if text else [])


def test_space_around_the_formula_does_not_move_the_caret() -> None:
    with pytest.raises(FormulaError) as caught:
        parse("\n  y ~\tx\n | g ")
    assert str(caught.value).split("\n")[1:] == ["  y ~ x  | g", "         ^"]


@pytest.mark.parametrize("name", ["cs", "ar1", "toep", "un", "exp", "mat", "hetar1", "rr"])
def test_other_covariance_structures_are_refused_around_a_bar(name: str) -> None:
    with pytest.raises(
        NotSupportedError, match=rf"(?s){name}\( \| \) is not supported; us\( \| \) and diag.*\n {{10}}\^$"
    ):
        parse(f"y ~ x + {name}(0 + t | g)")


@pytest.mark.parametrize("value", [None, 3, ["y ~ x"], b"y ~ x"])
def test_a_formula_is_text(value: object) -> None:
    with pytest.raises(FormulaError, match="a formula is text"):
        parse(value)


plain_names = st.sampled_from(["x", "z", "x.1", "_k", "größe", "Days", "I", "diag", "offset"])
quoted_names = st.text("ab |/:~()+'", min_size=1, max_size=5)
columns = st.one_of(plain_names, quoted_names.map(lambda name: f"`{name}`"))
safe_columns = columns.filter(lambda column: column != "x.1")  # inside a function Python reads x .1
calls = st.one_of(
    safe_columns.map(lambda column: f"log({column})"),
    safe_columns.map(lambda column: f"poly({column}, 2, raw=True)"),
    safe_columns.map(lambda column: f"C({column}, levels=['a|b', \"(~\"])"),
    safe_columns.map(lambda column: f"{{{column} / (1 + x)}}"),
)
operands = st.one_of(
    columns, calls, st.lists(columns, min_size=2, max_size=3).map(lambda names: f"({' + '.join(names)})")
)
terms = st.one_of(operands, st.tuples(operands, st.sampled_from([":", "*", " / "]), operands).map("".join))
sums = st.tuples(st.sampled_from(["", "1 + ", "0 + ", "-1 + "]), st.lists(terms, min_size=1, max_size=3)).map(
    lambda parts: parts[0] + " + ".join(parts[1])
)
group_names = st.sampled_from(["g", "h", "my group", "a/b", "k.2"])
groups = st.lists(group_names, min_size=1, max_size=3, unique=True).map(tuple)
random_parts = st.builds(
    RandomPart, sums | st.just("1"), groups, st.sampled_from(["us", "diag"]), st.just(0), st.just(0)
)
formulas = st.builds(
    Formula,
    st.just(""),
    columns | calls,
    sums | st.sampled_from(["0", "1"]),
    st.lists(columns | safe_columns.map(lambda column: f"log({column})"), max_size=2).map(tuple),
    st.lists(random_parts, max_size=3, unique_by=lambda part: frozenset(part.group)).map(tuple),
)


@given(formulas)
def test_parts_survive_writing_and_reading(formula: Formula) -> None:
    assert parse(str(formula)) == formula


pieces = st.sampled_from(
    [*"yxgab01+-*:/^|~()`'.,= ", "||", "**", " + ", "(1|g)", "(x|", "log(", "offset(", "I(", "2", "{", "}"]
)


def outcome(text: str) -> Formula | FormulaError:
    """What `parse` returns, or the error it raises."""
    try:
        return parse(text)
    except FormulaError as error:
        return error


@given(st.lists(pieces, max_size=12).map("".join))
def test_any_text_is_read_or_refused_with_a_caret(right: str) -> None:
    read = outcome(f"y ~ {right}")
    if isinstance(read, FormulaError):
        assert read.text == f"y ~ {right}".strip()
        assert 0 <= read.position < len(read.text)
        return
    assert parse(str(read)) == read
    if "'" not in right:  # formulaic takes a bracket inside a string for one outside
        for part in [read.fixed, *(part.effects for part in read.random)]:
            formulaic.Formula(part)


def test_errors_are_the_package_s_own() -> None:
    assert issubclass(FormulaError, BayesLMMError)
    assert issubclass(FormulaError, ValueError)
