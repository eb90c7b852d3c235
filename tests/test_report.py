"""The report: complete, true to the package's own numbers, self-contained, escaped, the same every time."""

import re
import xml.etree.ElementTree as ET
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import bayeslmm as bl
from bayeslmm import account as accounts
from bayeslmm import findings
from bayeslmm.document import quoted
from bayeslmm.errors import MethodError
from bayeslmm.mathematics import equations, symbols
from bayeslmm.report import KEYS, SECTIONS

VOID = {"meta", "img", "br"}
MODELS = Path(__file__).resolve().parents[1] / "models"
QUICK = {"nsim": 19}  # the fewest simulations that are allowed


class Outline(HTMLParser):
    """Headings, links, tables and code of a page; fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.headings, self.links, self.ids, self.images = [], [], [], [], []
        self.tables, self.cells, self.pre, self.sources, self.alts = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        self.links += [given[name] for name in ("src", "href") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        self.alts += [given["alt"]] if tag == "img" else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag in ("h1", "h2", "h3"):
            self.headings.append((tag, ""))
        elif tag == "pre":
            self.pre.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        assert tag == "mspace"  # MathML, where that closes it

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        elif self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings[-1] = (self.headings[-1][0], self.headings[-1][1] + data)
        elif "pre" in self.open:
            self.pre[-1] += data
        elif self.open[-2:] == ["p", "code"]:
            self.sources.append(data)

    def table(self, *header: str) -> dict[str, dict[str, str]]:
        """Rows by their first cell, cells by column, of the first table with these columns."""
        rows = next(t for t in self.tables if t and set(header) <= set(t[0]))
        return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}


def read(*results: object, path: Path, **options: object) -> str:
    return bl.report(*results, path=path, **options).read_text(encoding="utf-8")


@pytest.fixture
def unprinted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and not turned into pixels: most of a page's time, and another test's subject."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: file.write(b"\x89PNG"))


@pytest.fixture(scope="module")
def sleep() -> SimpleNamespace:
    model = bl.load(MODELS / "sleepstudy/model.toml")
    post = bl.sample(model, draws=200, tune=300, seed=7, progress=False)
    return SimpleNamespace(reml=bl.fit(model), ml=bl.fit(model, "ML"), post=post)


@pytest.fixture(scope="module")
def text(sleep: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    limiting = bl.limiting_prior(sleep.reml)
    assert bl.report(sleep.ml, sleep.reml, sleep.post, limiting=limiting, path=path, nsim=99) == path
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outline(text: str) -> Outline:
    return Outline(text)


@pytest.fixture(scope="module")
def oats() -> bl.PointFit:
    return bl.fit(bl.load(MODELS / "oats"))


@pytest.fixture(scope="module")
def counts() -> SimpleNamespace:
    """A Poisson model with an interaction of a factor and a covariate."""
    rng = np.random.default_rng(5)
    g, x, f = np.arange(150) % 10, rng.normal(size=150), np.array(list("ab"))[rng.integers(0, 2, 150)]
    y = rng.poisson(np.exp(0.3 * x + 0.5 * rng.normal(size=10)[g]))
    data = {"y": y, "x": x, "f": f, "g": g}
    return SimpleNamespace(data=data, fit=bl.fit(bl.Model("y ~ f * x + (1 | g)", data, family="poisson")))


def test_every_section_is_there_and_in_the_contents(outline: Outline) -> None:
    titles = [name for name, _ in SECTIONS.values()] + ["How to redo it"]
    assert [text for tag, text in outline.headings if tag == "h2"] == titles
    assert outline.ids == list(KEYS)
    assert [link for link in outline.links if not link.startswith("data:")] == [f"#{key}" for key in KEYS]


def test_headings_are_in_order(outline: Outline) -> None:
    tags = [tag for tag, _ in outline.headings]
    assert tags.count("h1") == 1
    assert tags[:2] == ["h1", "h2"]
    assert set(tags) == {"h1", "h2", "h3"}


def test_the_page_needs_no_other_file(text: str, outline: Outline) -> None:
    pictures = [link for link in outline.links if not link.startswith("#")]
    assert len(pictures) > 15
    assert all(link.startswith("data:image/png;base64,") for link in pictures)
    assert "<script" not in text
    named = set(re.findall(r"https?://[^\"'<) ]*", text))
    assert named <= {"http://www.w3.org/1998/Math/MathML"}  # a name, which nothing fetches
    assert not re.search(r"url\(|@import|<link", text)
    assert len(text) < 3e6


def test_it_follows_the_reader_s_colours_and_prints(text: str) -> None:
    for rule in ("prefers-color-scheme: dark", "color-scheme: light dark", "@media print"):
        assert rule in text


def test_it_says_what_the_results_say(text: str, sleep: SimpleNamespace) -> None:
    both = bl.compare(sleep.ml, sleep.reml, sleep.post)
    checks = bl.diagnose(sleep.reml, nsim=99, progress=False)
    plain = unescape(text)
    notes = [note for shares in (bl.r2(sleep.reml), bl.icc(sleep.reml)) for note in shares.notes]
    found = checks.table
    for sentence in (
        both.verdict, *both.sentences, *sleep.post.diagnostics.sentences, *found["sentence"], *found["advice"], *notes,
        *checks.notes, *bl.diagnose(sleep.post, nsim=99).table["sentence"],
    ):  # fmt: skip
        assert sentence in plain
    for words in ("HalfStudentT(nu=4, sigma=56.17)", "18 blocks of 2 x 2", "seed=7", bl.__version__, "REML: converged"):
        assert words in plain


def test_its_numbers_are_the_package_s(outline: Outline, sleep: SimpleNamespace) -> None:
    """To the digits shown: four significant ones."""
    close = {"rel": 1e-3, "abs": 1e-12}
    tests = outline.table("NumDF", "DenDF", "F")
    assert float(tests["Days"]["F"]) == pytest.approx(bl.anova(sleep.reml).table.loc["Days", "F"], **close)
    own = bl.tidy(sleep.reml, "fixed", conf_int=True).set_index("term").loc["Days"]
    shown = outline.table("conf_low", "df", "p")["Days"]
    for name in ("estimate", "std_error", "conf_low", "conf_high", "df"):
        assert float(shown[name]) == pytest.approx(own[name], **close)
    left_out = bl.ranova(sleep.reml).table.iloc[1]
    assert float(outline.table("LRT")[left_out.name]["LRT"]) == pytest.approx(left_out["LRT"], **close)
    intervals = bl.confint(sleep.reml, method="profile")
    profile = {row[0]: row[1:] for row in next(t for t in outline.tables if t[0] == ["", "lower", "upper"])[1:]}
    for name, ends in intervals.iterrows():
        assert [float(v) for v in profile[name]] == pytest.approx(ends.tolist(), **close)
    parts = bl.variance_partition(sleep.reml).table
    shares = outline.table("variance", "share")
    assert {n: float(row["share"]) for n, row in shares.items()} == pytest.approx(parts["share"].to_dict(), **close)
    slope = bl.slopes(sleep.reml, "Days").table.iloc[0]
    assert float(outline.table("slope")["Days"]["se"]) == pytest.approx(slope["se"], **close)
    likelihood = outline.table("logLik", "AIC", "BIC", "df")
    assert float(likelihood["ml"]["AIC"]) == pytest.approx(sleep.ml.aic, rel=1e-5)
    checks = bl.diagnose(sleep.reml, nsim=99, progress=False).table.set_index("check")
    rows = {row[1]: row for row in next(t for t in outline.tables if "what to do" in t[0])[1:]}
    assert list(rows) != list(checks.index)
    assert {name: row[0] for name, row in rows.items()} == checks["verdict"].to_dict()
    assert float(rows["outlying rows"][2]) == pytest.approx(checks.loc["outlying rows", "value"], rel=5e-3)


def test_worst_checks_come_first(outline: Outline) -> None:
    order = ("problem", "look", "ok", "not judged")
    words = [order.index(row[0]) for row in next(t for t in outline.tables if "what to do" in t[0])[1:]]
    assert words == sorted(words)
    assert words[0] < words[-1]


def test_its_lines_of_python_give_its_numbers(outline: Outline, sleep: SimpleNamespace) -> None:
    """Every line runs; the results they build are those of the page, and each table's line is among them."""
    script = next(code for code in outline.pre if code.startswith("import bayeslmm"))
    given: dict[str, object] = {"data": sleep.reml.model.arguments["data"]}
    exec(script, given)
    assert given["reml"].loglik == sleep.reml.loglik
    assert given["post"].fixef.to_dict() == sleep.post.fixef.to_dict()
    lines = script.splitlines()
    assert outline.sources
    assert [line for line in outline.sources if line not in lines] == []
    assert "bl.diagnose(reml, seed=0, nsim=99)" in lines


def test_every_figure_has_a_description_a_caption_and_a_number(text: str, outline: Outline) -> None:
    numbers = [int(n) for n in re.findall(r"<figcaption><strong>Figure (\d+)\.</strong> [^<]{20,}</figcaption>", text)]
    assert numbers == list(range(1, len(outline.alts) + 1))
    assert all(len(alt) >= 20 for alt in outline.alts)


def test_every_table_has_headers(outline: Outline, text: str) -> None:
    assert text.count("<th scope=") > 100
    assert all(len({len(row) for row in rows}) == 1 for rows in outline.tables)


def body(text: str) -> str:
    """All but the line with the date and the times."""
    found = re.search(r"Written \d{4}-\d\d-\d\d \d\d:\d\d UTC; page [\d.]+ s", text)
    assert found
    return text[: found.start()]


def test_a_seed_gives_the_same_page(sleep: SimpleNamespace, tmp_path: Path) -> None:
    keys = ["summary", "diagnostics", "reproduction"]
    one, two, other = (
        body(read(sleep.reml, path=tmp_path / "r.html", sections=keys, seed=seed, **QUICK)) for seed in (1, 1, 2)
    )
    assert one == two
    assert one != other
    assert "seed of the simulations: 1" in one


def test_markdown_has_its_figures_beside_it(sleep: SimpleNamespace, tmp_path: Path) -> None:
    text = read(sleep.ml, sleep.reml, path=tmp_path / "out" / "page.md", title="A | title", **QUICK)
    linked = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    files = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out" / "page_figures").iterdir()}
    assert set(linked) == files
    assert len(linked) == len(files) > 10
    assert all((tmp_path / "out" / file).read_bytes().startswith(b"\x89PNG") for file in files)
    assert text.startswith("# A \\| title\n")
    headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert headings == [name for key, (name, _) in SECTIONS.items() if key != "limit"] + ["How to redo it"]
    assert "stage 1       Reaction[i] = β[Intercept] + β[Days]·Days[i]" in text
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "<" not in re.sub(r"\\<|`[^`]*`", "", prose)
    tables = re.findall(r"(?:^\|.*\|\n)+", prose, flags=re.MULTILINE)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.usefixtures("unprinted")
def test_text_from_the_data_is_escaped(tmp_path: Path, rng: np.random.Generator) -> None:
    name = "a<b>&c"
    data = {
        "y": rng.normal(size=48), name: rng.normal(size=48), 'f"': np.tile(['"><i>', "b|c"], 24),
        "g": np.repeat(["<script>x</script>", "b", "c", "d"], 12),
    }  # fmt: skip
    fit = bl.fit(bl.Model(f'y ~ `{name}` + `f"` + (1 | g)', data))
    text = read(fit, path=tmp_path / "r.html", title="<b>bold</b>", **QUICK)
    found = Outline(text)
    for tag in ("<b>", "<i>", "<script"):
        assert tag not in text
    assert "a&lt;b&gt;&amp;c" in text
    assert found.headings[0] == ("h1", "<b>bold</b>")
    script = next(code for code in found.pre if code.startswith("import bayeslmm"))
    exec(script, {"data": data})
    marked = read(fit, path=tmp_path / "r.md", sections=["summary", "model", "data", "means"], **QUICK)
    assert "b\\|c" in marked


def test_marks_of_markdown_are_quoted() -> None:
    assert quoted("a|b*c_d<e>`f`\n# g") == "a\\|b\\*c\\_d\\<e\\>\\`f\\` \\# g"
    assert quoted("- x") == "\\- x"


@pytest.mark.parametrize("kind", ["linear", "crossed", "one level of pooling", "without an intercept", "mode"])
@pytest.mark.usefixtures("unprinted")
def test_every_kind_of_fit_has_a_page(kind: str, tmp_path: Path) -> None:
    line = {"y": [1.0, 2.5, 2.0, 4.0, 5.5, 5.0], "x": [1, 2, 3, 4, 5, 6]}
    fit = {
        "linear": lambda: bl.fit(bl.Model("y ~ x", line)),
        "crossed": lambda: bl.fit(bl.load(MODELS / "penicillin")),
        "one level of pooling": lambda: bl.fit(bl.load(MODELS / "wool"), "ML"),
        "without an intercept": lambda: bl.fit(bl.Model("y ~ 0 + (1 | g)", {**line, "g": list("aabbcc")})),
        "mode": lambda: bl.fit(bl.load(MODELS / "wool"), "MAP"),
    }[kind]()
    found = Outline(read(fit, path=tmp_path / "r.html", **QUICK))
    assert found.ids == [key for key in KEYS if key != "limit"]
    script = next(code for code in found.pre if code.startswith("import bayeslmm"))
    exec(script, {"data": fit.model.arguments["data"]})


@pytest.mark.usefixtures("unprinted")
def test_what_a_model_lacks_is_said_with_the_reason(tmp_path: Path) -> None:
    fit = bl.fit(bl.Model("y ~ 1", {"y": [1.0, 2.5, 2.0, 4.0, 5.5]}))
    plain = unescape(read(fit, path=tmp_path / "r.html", **QUICK))
    assert "Tests of the random effects: not here. 'y ~ 1' has no random effects to leave out." in plain
    assert "Intraclass correlations: not here." in plain
    assert "so there is nothing to average over" in plain


@pytest.mark.usefixtures("unprinted")
def test_another_family_has_what_it_can_have(counts: SimpleNamespace, tmp_path: Path) -> None:
    small = bl.fit(bl.Model("y ~ x + (1 | g)", counts.data, family="poisson"))
    found = Outline(read(counts.fit, small, path=tmp_path / "r.html", **QUICK))
    plain = "\n".join(row[-1] for table in found.tables for row in table)
    assert "log(μi)=βIntercept" in plain
    assert "yi~Poisson(μi)" in plain
    own = bl.means(counts.fit, "f", scale="response").table
    shown = next(t for t in found.tables if t[0][:2] == ["f", own.columns[0]])
    assert [float(row[1]) for row in shown[1:]] == pytest.approx(own.iloc[:, 0].tolist(), rel=1e-3)
    ratio = next(t for t in found.tables if t[0][:2] == ["contrast", "ratio"])
    assert float(ratio[1][1]) == pytest.approx(
        bl.contrasts(bl.means(counts.fit, "f", scale="response")).table.iloc[0, 0], rel=1e-3
    )
    script = next(code for code in found.pre if code.startswith("import bayeslmm"))
    assert "bl.anova(laplace_1, laplace_2)" in script
    exec(script, {"data": counts.data})


@pytest.mark.usefixtures("unprinted")
def test_interactions_have_their_plots(oats: bl.PointFit, tmp_path: Path) -> None:
    found = Outline(read(oats, path=tmp_path / "r.html", sections=["means"]))
    assert found.alts == ["Interaction plot of variety and nitrogen"]
    for name in ("variety", "nitrogen"):
        own = bl.means(oats, name).table["mean"]
        shown = next(t for t in found.tables if t[0][:2] == [name, "mean"])
        assert {row[0]: float(row[1]) for row in shown[1:]} == pytest.approx(own.to_dict(), rel=1e-3)
    cells = next(t for t in found.tables if t[0][:3] == ["variety", "nitrogen", "mean"])
    assert len(cells) == 1 + 12
    differences = [t for t in found.tables if t[0][0] == "contrast"]
    assert [len(t) - 1 for t in differences] == [3, 6]


@pytest.mark.usefixtures("unprinted")
def test_slopes_by_a_factor_have_their_plot(rng: np.random.Generator, tmp_path: Path) -> None:
    data = {"y": rng.normal(size=60), "x": rng.normal(size=60), "f": list("abc") * 20, "g": np.arange(60) // 6}
    fit = bl.fit(bl.Model("y ~ f * x + (1 | g)", data))
    found = Outline(read(fit, path=tmp_path / "r.html", sections="means"))
    own = bl.slopes(fit, "x", by="f").table["slope"]
    shown = next(t for t in found.tables if t[0][:2] == ["f", "slope"])
    assert {row[0]: float(row[1]) for row in shown[1:]} == pytest.approx(own.to_dict(), rel=1e-3)
    assert found.alts == ["Interaction plot of x and f"]


@pytest.mark.usefixtures("unprinted")
def test_a_posterior_alone_has_a_page(sleep: SimpleNamespace, tmp_path: Path) -> None:
    text = read(sleep.post, path=tmp_path / "r.html", **QUICK)
    assert "Tests need a point fit" in text
    assert "Densities of the parameters" in text
    assert "bl.confint(post, method=&quot;eti&quot;)" in text


def test_restricted_fits_with_other_fixed_parts_stand_one_below_the_other(
    sleep: SimpleNamespace, tmp_path: Path
) -> None:
    other = bl.fit(sleep.reml.model.update("Reaction ~ 1 + (1 | Subject)"))
    text = unescape(read(sleep.reml, other, path=tmp_path / "r.html", sections=["answers", "tests"]))
    assert "Side by side: not here. REML fits with different fixed effects" in text
    assert text.count("REML criterion") == 2
    assert "bl.anova(reml_1, reml_2)" in text


@pytest.mark.usefixtures("unprinted")
def test_large_models_are_not_refitted(sleep: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MOST_ROWS", 100)
    text = unescape(read(sleep.reml, path=tmp_path / "r.html", sections=["tests", "diagnostics"]))
    assert "Tests of the random effects: left out. The model has 180 rows" in text
    assert "so that nothing is simulated here" in text
    assert "Wald's approximation" in text
    assert "bl.diagnose(reml, seed=0, nsim=0)" in text
    monkeypatch.setattr(accounts, "MOST_CHECKED", 100)
    none = unescape(read(sleep.reml, path=tmp_path / "r.html", sections=["diagnostics"]))
    assert "No checks of the REML fit: 180 rows are more than 100" in none
    assert "REML: converged" in none
    asked = read(sleep.reml, path=tmp_path / "r.html", sections=["diagnostics"], nsim=19)
    assert "so that nothing is simulated here" not in asked


def test_other_errors_are_not_hidden(sleep: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("a fault of the program")

    monkeypatch.setattr(findings, "anova", broken)
    with pytest.raises(ZeroDivisionError):
        bl.report(sleep.reml, path=tmp_path / "r.html", sections=["tests"])
    assert not (tmp_path / "r.html").exists()


def test_sections_are_chosen_in_the_page_s_order(sleep: SimpleNamespace, tmp_path: Path) -> None:
    found = Outline(read(sleep.reml, path=tmp_path / "r.html", sections=["data", "model"]))
    assert found.ids == ["model", "data"]
    for wrong, said in (
        (["modle"], "modle; they are summary, model"),
        ([], "none given"),
        (["limit"], "needs limiting="),
    ):
        with pytest.raises(MethodError, match=said):
            bl.report(sleep.reml, path=tmp_path / "r.html", sections=wrong)


def test_the_data_are_described(tmp_path: Path, rng: np.random.Generator) -> None:
    data = pd.DataFrame(
        {"y": rng.normal(size=31), "x": rng.normal(size=31), "f": list("abb") * 10 + ["a"], "g": np.arange(31) % 6}
    )
    data.loc[3, "y"] = np.nan
    found = Outline(
        read(bl.fit(bl.Model("y ~ x + f + (1 | g)", data)), path=tmp_path / "r.html", sections=["data", "reproduction"])
    )
    cells = {row[0]: row[1:] for table in reversed(found.tables) for row in table}
    assert cells["rows used"] == ["30"]
    assert cells["rows dropped"] == ["1"]
    used = data.dropna()
    assert [float(v) for v in cells["x"][:2]] == pytest.approx([used["x"].mean(), used["x"].std()], rel=1e-3)
    assert found.table("levels", "balanced")["g"]["balanced"] == "no"
    levels = used["f"].value_counts()
    assert ["f", f"a ({levels['a']}), b ({levels['b']})"] in [row for table in found.tables for row in table]
    from bayeslmm.archive import digest

    assert found.table("column", "rows")["y"]["first 16 digits of the digest"] == digest(data["y"])[:16]


def test_stages_weights_and_offset_are_shown(rng: np.random.Generator, tmp_path: Path) -> None:
    data = {"y": rng.normal(size=24), "x": rng.normal(size=24), "g": np.arange(24) % 6, "w": rng.uniform(1, 2, 24)}
    model = bl.Model.from_stages("y ~ 1 + x", {"g": {"1": "1"}}, data, weights="w", offset=np.ones(24))
    text = unescape(
        read(bl.fit(model), path=tmp_path / "r.html", sections=["model", "data", "answers", "reproduction"])
    )
    assert "bl.Model.from_stages('y ~ 1 + x'" in text
    assert "weights='w'" in text
    assert "offset=offset" in text
    assert "This model has no form as a file" in text


def test_the_model_file_in_the_page_gives_the_model(outline: Outline, sleep: SimpleNamespace, tmp_path: Path) -> None:
    toml = next(code for code in outline.pre if "formula =" in code)
    (tmp_path / "model.toml").write_text(toml, encoding="utf-8")
    columns = sleep.reml.model.design.specs["columns"]
    data = sleep.reml.model.arguments["data"][list(columns)]
    data.to_csv(tmp_path / "model.csv", index=False)
    again = bl.load(tmp_path / "model.toml")
    assert again.formula.text == sleep.reml.model.formula.text
    assert bl.fit(again).loglik == pytest.approx(sleep.reml.loglik, rel=1e-12)


CASES = {
    "y ~ x + (x | g)": [
        "y[i] = β[Intercept] + β[x]·x[i] + u[Intercept, g(i)] + u[x, g(i)]·x[i] + ε[i]", "ε[i] ~ Normal(0, σ²)",
        "(u[Intercept, g j], u[x, g j]) ~ Normal(0, Σ[g])",
        "Σ[g] = [σ[g, Intercept]², ρ[g]σ[g, Intercept]σ[g, x]; ρ[g]σ[g, Intercept]σ[g, x], σ[g, x]²]",
    ],
    "y ~ 0 + x + (x || g)": [
        "y[i] = β[x]·x[i] + u[Intercept, g(i)] + u[x, g(i)]·x[i] + ε[i]", "ε[i] ~ Normal(0, σ²)",
        "u[Intercept, g j] ~ Normal(0, σ[g, Intercept]²)", "u[x, g j] ~ Normal(0, σ[g, x]²)",
    ],
    "y ~ 0 + (1 | g) + (1 | h)": [
        "y[i] = u[g(i)] + u[h(i)] + ε[i]", "ε[i] ~ Normal(0, σ²)", "u[g j] ~ Normal(0, σ[g]²)", "u[h j] ~ Normal(0, σ[h]²)",
    ],
}  # fmt: skip


@pytest.mark.parametrize("formula", CASES)
def test_the_stages_in_mathematics(formula: str) -> None:
    rng = np.random.default_rng(1)
    data = {"y": rng.normal(size=24), "x": rng.normal(size=24), "g": np.arange(24) % 6, "h": np.arange(24) // 6}
    found = equations(bl.Model(formula, data))
    assert [line.text for _, line in found] == CASES[formula]


def test_other_families_in_mathematics() -> None:
    rng = np.random.default_rng(1)
    n = rng.integers(3, 9, 24)
    data = {"s": rng.binomial(n, 0.4), "n": n, "x": rng.normal(size=24), "g": np.arange(24) % 6}
    found = equations(bl.Model("p(s, n) ~ x + (1 | g)", data, family="binomial"))
    assert [line.text for _, line in found][:2] == [
        f"{bl.Model('p(s, n) ~ x + (1 | g)', data, family='binomial').design.response}[i] ~ Binomial(n[i], μ[i])",
        "logit(μ[i]) = β[Intercept] + β[x]·x[i] + u[g(i)]",
    ]
    negative = equations(bl.Model("s ~ x + (1 | g)", data, family="negativebinomial"))
    assert negative[0][1].text == "s[i] ~ Negativebinomial(μ[i], alpha)"


def test_mathml_is_well_formed() -> None:
    rng = np.random.default_rng(1)
    data = {"y": rng.normal(size=24), "a<b": rng.normal(size=24), "g": np.arange(24) % 6}
    model = bl.Model("y ~ `a<b` + (`a<b` | g)", data)
    for expression in [line for _, line in equations(model)] + [symbol.expression for symbol in symbols(model)]:
        tree = ET.fromstring(f"<math>{expression.mathml}</math>")
        assert "".join(tree.itertext()).replace(" ", "")


def test_every_symbol_is_explained() -> None:
    model = bl.load(MODELS / "sleepstudy")
    said = {symbol.expression.text: symbol.name for symbol in symbols(model)}
    assert said["β[Days]"] == "fixef[Days]"
    assert said["σ[Subject, Days]"] == "sd_Subject[Days]"
    assert said["ρ[Subject]"] == "corr_Subject[Intercept, Days]"
    assert said["σ"] == "sigma"


def test_nothing_to_report_is_refused(sleep: SimpleNamespace, oats: bl.PointFit) -> None:
    for results in ((), ("REML",)):
        with pytest.raises(MethodError, match="report needs one result"):
            bl.report(*results)
    with pytest.raises(MethodError, match="different responses"):
        bl.report(sleep.reml, oats)
