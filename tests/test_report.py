"""The report: one file, complete, escaped, the same every time."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import bayeslmm as bl
from bayeslmm.errors import MethodError
from bayeslmm.report import page

VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Headings and text of a page; fails where tags are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.headings, self.links = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(scope="module")
def sleep() -> SimpleNamespace:
    model = bl.load(Path(__file__).resolve().parents[1] / "models/sleepstudy/model.toml")
    post = bl.sample(model, draws=200, tune=300, seed=7, progress=False)
    return SimpleNamespace(reml=bl.fit(model), ml=bl.fit(model, "ML"), post=post)


@pytest.fixture(scope="module")
def text(sleep: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    limiting = bl.limiting_prior(sleep.reml)
    assert bl.report(sleep.ml, sleep.reml, sleep.post, limiting=limiting, path=path) == path
    return path.read_text(encoding="utf-8")


def test_every_section_is_there(text: str) -> None:
    assert Outline(text).headings == [
        "The model", "The data", "The answers", "Can they be trusted?", "The limit of flat priors", "The fit in pictures",
        "Priors", "How to redo it",
    ]  # fmt: skip


def test_the_page_needs_no_other_file(text: str) -> None:
    links = Outline(text).links
    assert len(links) == 6
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "<script" not in text
    assert not re.search(r"url\(|@import|https?://", text)


def test_it_follows_the_reader_s_colours(text: str) -> None:
    assert "prefers-color-scheme: dark" in text
    assert "color-scheme: light dark" in text


def test_it_says_what_the_results_say(text: str, sleep: SimpleNamespace) -> None:
    both = bl.compare(sleep.ml, sleep.reml, sleep.post)
    plain = unescape(text)
    for sentence in (both.verdict, *both.sentences, *sleep.post.diagnostics.sentences):
        assert sentence in plain
    for words in (
        "251.4",
        "HalfStudentT(nu=4, sigma=56.17)",
        "18 blocks of 2 x 2",
        "seed=7",
        bl.__version__,
        "REML: converged",
    ):
        assert words in plain


def test_every_image_has_a_description_and_a_caption(text: str) -> None:
    assert text.count("<img") == text.count("<figcaption>") == len(re.findall(r'<img [^>]*alt="[^"]{20,}"', text))


def test_text_from_the_data_is_escaped(tmp_path: Path, rng: np.random.Generator) -> None:
    name = "a<b>&c"
    data = {"y": rng.normal(size=24), name: np.arange(24) % 4, "g": np.repeat(["<script>x</script>", "b", "c", "d"], 6)}
    fit = bl.fit(bl.Model(f"y ~ `{name}` + (1 | g)", data))
    text = bl.report(fit, path=tmp_path / "r.html").read_text(encoding="utf-8")
    Outline(text)
    assert "<b>" not in text
    assert "<script" not in text
    assert "a&lt;b&gt;&amp;c" in text


def test_one_point_fit_makes_a_page(sleep: SimpleNamespace) -> None:
    text = page((sleep.reml,))
    Outline(text)
    assert "REML and ML use no prior" in text
    assert "The limit of flat priors" not in text


def test_a_linear_model_makes_a_page() -> None:
    fit = bl.fit(bl.Model("y ~ x", {"y": [1.0, 2.5, 2.0, 4.0, 5.5], "x": [1, 2, 3, 4, 5]}))
    Outline(page((fit,)))


def test_stages_weights_and_offset_are_shown(rng: np.random.Generator) -> None:
    data = {"y": rng.normal(size=24), "x": rng.normal(size=24), "g": np.arange(24) % 6, "w": rng.uniform(1, 2, 24)}
    model = bl.Model.from_stages("y ~ 1 + x", {"g": {"1": "1"}}, data, weights="w", offset=np.ones(24))
    text = page((bl.fit(model),))
    assert "<sub>i</sub>" in text
    assert "weights=&#x27;w&#x27;" in text
    assert "offset=offset" in text


def test_nothing_to_report_is_refused(sleep: SimpleNamespace) -> None:
    for results in ((), ("REML",)):
        with pytest.raises(MethodError, match="report needs one result"):
            bl.report(*results)
