"""The pages and the example run: every block of a page in order, in one namespace, and what it prints is what is shown.

A fence says what is done with its block:

    python            executed; `python slow` makes its page's test a slow one
    text              what the block before it prints, `...` standing for anything; `text approx`: nearly the
                      same words and near numbers, since draws differ in their last digits between machines
    toml NAME         written to the file NAME
    sh                lines that begin with `bayeslmm` are run, the others are not

`python tests/test_docs.py docs/start.md` runs pages, writes what they print into their text blocks where it differs, and
renews their figures.
"""

import doctest
import re
import runpy
import shlex
import sys
import tempfile
import warnings
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from difflib import SequenceMatcher
from io import StringIO
from pathlib import Path
from shutil import copy

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(page for page in (ROOT / "docs").glob("*.md") if page.stem != "benchmarks")]
FENCE = re.compile(r"^```(?P<kind>python|text|toml|sh)(?P<word>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-−+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
NEAR_RELATIVE, NEAR_ABSOLUTE = 0.2, 0.15
WORDS_ALIKE = 0.9  # a parameter at the edge of being mentioned may come or go


@dataclass(frozen=True)
class Block:
    """One fenced block, and the text blocks that show what it prints."""

    kind: str
    word: str
    body: str
    line: int
    shown: tuple[re.Match[str], ...]

    @property
    def expected(self) -> str:
        return "\n".join(match["body"].rstrip("\n") for match in self.shown) + "\n"

    @property
    def approximate(self) -> bool:
        return any(match["word"].strip() == "approx" for match in self.shown)


def blocks_of(text: str) -> list[Block]:
    found: list[Block] = []
    for match in FENCE.finditer(text):
        if match["kind"] == "text" and found:
            last = found[-1]
            found[-1] = Block(last.kind, last.word, last.body, last.line, (*last.shown, match))
        elif match["kind"] != "text":
            line = text.count("\n", 0, match.start("body"))
            found.append(Block(match["kind"], match["word"].strip(), match["body"], line, ()))
    return found


def has_slow(page: Path) -> bool:
    return any(block.word == "slow" for block in blocks_of(page.read_text(encoding="utf-8")))


def run_shell(body: str) -> None:
    from typer.testing import CliRunner

    from bayeslmm.cli import app

    for line in body.splitlines():
        if line.startswith("bayeslmm "):
            done = CliRunner().invoke(app, shlex.split(line.partition("#")[0])[1:])
            assert done.exit_code == 0, f"{line}\n{done.output}"
            print(done.output, end="")


def run_block(block: Block, page: Path, namespace: dict[str, object]) -> str:
    """Execute one block; what it prints."""
    if block.kind == "toml":
        if block.word:
            Path(block.word).write_text(block.body, encoding="utf-8")
        return ""
    printed = StringIO()
    with redirect_stdout(printed), warnings.catch_warnings():
        for module in ("bayeslmm", "page"):
            warnings.filterwarnings("error", module=module)
        if block.kind == "sh":
            run_shell(block.body)
        else:
            exec(compile("\n" * block.line + block.body, str(page), "exec"), namespace)
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines()) + "\n"


def run_page(page: Path, folder: Path) -> list[tuple[Block, str]]:
    """Run a page's blocks in `folder`, which sees the catalogue; what each printed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models").symlink_to(ROOT / "models", target_is_directory=True)
    (folder / "docs" / "figures").mkdir(parents=True)
    namespace: dict[str, object] = {"__name__": "page"}
    with chdir(folder):
        blocks = blocks_of(page.read_text(encoding="utf-8"))
        if page.stem == "README":  # its commands name files that a reader has
            blocks = [block for block in blocks if block.kind == "python"]
        return [(block, run_block(block, page, namespace)) for block in blocks]


def near(one: str, two: str) -> bool:
    a, b = (float(text.replace("−", "-")) for text in (one, two))
    return abs(a - b) <= max(NEAR_ABSOLUTE, NEAR_RELATIVE * abs(b))


def masked(text: str) -> list[str]:
    """Lines with numbers replaced and spaces made one."""
    return [" ".join(NUMBER.sub(" # ", line).split()) for line in text.splitlines()]


def alike(shown: str, printed: str) -> bool:
    """Whether nine words in ten are the same in the same order, and the numbers near in lines of the same words."""
    one, two = masked(shown), masked(printed)
    ours, theirs = shown.splitlines(), printed.splitlines()
    for start, other, size in SequenceMatcher(None, one, two, autojunk=False).get_matching_blocks():
        for a, b in zip(ours[start : start + size], theirs[other : other + size], strict=True):
            if not all(near(x, y) for x, y in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True)):
                return False
    return SequenceMatcher(None, " ".join(one).split(), " ".join(two).split(), autojunk=False).ratio() >= WORDS_ALIKE


def agrees(block: Block, printed: str, loosely: bool = False) -> bool:
    """Whether a block printed what its page shows."""
    if block.approximate or loosely:
        return alike(block.expected, printed)
    return doctest.OutputChecker().check_output(
        block.expected, printed, doctest.ELLIPSIS | doctest.DONT_ACCEPT_BLANKLINE
    )


def check_page(page: Path, folder: Path) -> None:
    for block, printed in run_page(page, folder):
        if block.shown:
            where = f"{page.name}, line {block.line}"
            assert agrees(block, printed, loosely=page.stem == "README"), (
                f"{where} shows\n{block.expected}\nbut prints\n{printed}"
            )
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\]\((?:docs/)?(figures/[^)]+)\)", text):
        assert (ROOT / "docs" / name).is_file()
        if page.stem != "README":
            assert (folder / "docs" / name).is_file(), f"{page.name} shows {name}, which none of its blocks draws"


@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if has_slow(page) else []) for page in PAGES]
)
def test_pages_run(page: Path, tmp_path: Path) -> None:
    check_page(page, tmp_path / "page")


@pytest.mark.parametrize("page", [*PAGES, ROOT / "models" / "README.md"], ids=lambda page: page.parent.name + page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"(?<!\!)\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [t for t in targets if "://" not in t and not (page.parent / t).exists()] == []


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda script: script.stem)
def test_examples_run(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path)])
    printed = StringIO()
    with redirect_stdout(printed):
        runpy.run_path(str(script), run_name="__main__")
    assert printed.getvalue()
    assert list(tmp_path.glob("*.png"))


def test_near_numbers_are_told_from_others() -> None:
    shown = FENCE.search("```text approx\nmean 27.5 of 4000\n```")
    assert shown is not None
    block = Block("python", "", "", 0, (shown,))
    assert agrees(block, "mean  27.9 of 3950\n")
    assert not agrees(block, "mean 41.0 of 4000\n")
    assert not agrees(block, "median 27.5 of 4000\n")
    assert not agrees(block, "")


def renew(page: Path) -> None:
    """Write what a page prints into its text blocks where it differs, and take its figures over."""
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for block, printed in reversed(run_page(page, Path(folder) / "page")):
            if len(block.shown) == 1 and not agrees(block, printed):
                text = text[: block.shown[0].start("body")] + printed + text[block.shown[0].end("body") :]
        for figure in (Path(folder) / "page" / "docs" / "figures").iterdir():
            copy(figure, ROOT / "docs" / "figures")
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        renew(Path(argument).resolve())
