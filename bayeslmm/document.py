"""A document of headings, sentences, tables, equations and figures: one HTML page, or Markdown with figures beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bayeslmm.mathematics import Expression, Symbol
from bayeslmm.table import Page, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI, CSS_DPI = 144, 96
MATH = '<math xmlns="http://www.w3.org/1998/Math/MathML">'
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1f2328; --soft: #59636e; --line: #d1d9e0; --box: #f6f8fa;
  --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --page: #111418; --text: #e3e6ea; --soft: #9aa4af; --line: #333b44; --box: #1a1f25; --link: #7cb8f0; }
}
body { background: var(--page); color: var(--text); font: 16px/1.55 system-ui, sans-serif; margin: 0 auto;
  max-width: 60rem; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0; } a { color: var(--link); }
p.lead, figcaption, caption, .under, .made { color: var(--soft); }
nav { background: var(--box); border: 1px solid var(--line); padding: .5rem 1rem; margin: 1rem 0; }
nav ol { margin: 0; padding-left: 1.4rem; columns: 3 14rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .4em 0 .6em; }
th, td { padding: .15em .7em; white-space: nowrap; vertical-align: top; } thead th { border-bottom: 1px solid var(--line); }
tbody th { font-weight: normal; } caption { text-align: left; }
.prose th, .prose td { white-space: normal; text-align: left !important; }
.prose tbody tr { border-bottom: 1px solid var(--line); }
.prose tbody th { font-weight: 600; }
.equation { background: var(--box); border-left: 3px solid var(--line); padding: .7rem 1rem; overflow-x: auto; }
.equation td { padding: .25rem .6rem; } .equation td:first-child { color: var(--soft); font-size: .8rem; }
.equation table { margin: 0; font-size: 1rem; } math { font-size: 1.1rem; }
pre { background: var(--box); padding: .7rem 1rem; overflow-x: auto; font-size: .85rem; } code { font-size: .9em; }
.source { font-size: .85rem; color: var(--soft); overflow-wrap: anywhere; }
figure { display: inline-block; vertical-align: top; margin: .8rem 1rem 1rem 0; max-width: 100%; }
figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .88rem; margin-top: .3rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; } nav { display: none; } figure, tr, .equation { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .wide, pre { overflow: visible; } pre { white-space: pre-wrap; }
}
"""


class Block(Protocol):
    """A part of a section, in both forms; a figure is told its number."""

    def html(self, number: int) -> str:
        """As HTML."""

    def markdown(self, number: int, folder: str) -> str:
        """As Markdown; `folder` is where figures lie."""


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str

    def html(self, number: int) -> str:
        """As HTML."""
        return f"<h3>{escape(self.text)}</h3>"

    def markdown(self, number: int, folder: str) -> str:
        """As Markdown."""
        return f"### {quoted(self.text)}"


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str

    def html(self, number: int) -> str:
        """As HTML."""
        return f"<p>{escape(self.text)}</p>"

    def markdown(self, number: int, folder: str) -> str:
        """As Markdown."""
        return quoted(self.text)


@dataclass(frozen=True)
class Listing:
    """Sentences, one below the other."""

    items: tuple[str, ...]

    def html(self, number: int) -> str:
        """As HTML."""
        return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in self.items)}</ul>"

    def markdown(self, number: int, folder: str) -> str:
        """As Markdown."""
        return "\n".join(f"* {quoted(item)}" for item in self.items)


@dataclass(frozen=True)
class Shown:
    """A table with a line under it; one of sentences (`prose`) is wrapped."""

    table: Table
    under: str = ""
    prose: bool = False

    def html(self, number: int) -> str:
        """As HTML."""
        kind = "wide prose" if self.prose else "wide"
        under = f'<p class="under">{escape(self.under)}</p>' if self.under else ""
        return f'<div class="{kind}" tabindex="0">{self.table.html}</div>{under}'

    def markdown(self, number: int, folder: str) -> str:
        """As Markdown."""
        rule = [":--" if j < self.table.labels or self.prose else "--:" for j in range(len(self.table.header))]
        lines = [[quoted(cell) for cell in row] for row in (self.table.header, *self.table.rows)]
        rows = ["| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]]]
        title = [f"*{quoted(self.table.title)}*", ""] if self.table.title else []
        return "\n".join([*title, *rows, *(["", quoted(self.under)] if self.under else [])])


@dataclass(frozen=True)
class Equations:
    """Labelled lines of mathematics."""

    lines: Sequence[tuple[str, Expression]]

    def html(self, number: int) -> str:
        """As HTML."""
        rows = "".join(
            f"<tr><td>{escape(label)}</td><td>{MATH}<mrow>{line.mathml}</mrow></math></td></tr>"
            for label, line in self.lines
        )
        return f'<div class="equation" tabindex="0"><table role="presentation"><tbody>{rows}</tbody></table></div>'

    def markdown(self, number: int, folder: str) -> str:
        """As Markdown."""
        width = max(len(label) for label, _ in self.lines)
        return fenced("\n".join(f"{label:<{width}}   {line.text}" for label, line in self.lines))


@dataclass(frozen=True)
class Symbols:
    """What each symbol is."""

    rows: Sequence[Symbol]

    def html(self, number: int) -> str:
        """As HTML."""
        head = "".join(f'<th scope="col">{name}</th>' for name in ("symbol", "what it is", "name in the output"))
        rows = "".join(
            f'<tr><th scope="row">{MATH}<mrow>{row.expression.mathml}</mrow></math></th><td>{escape(row.meaning)}</td>'
            f"<td><code>{escape(row.name)}</code></td></tr>"
            for row in self.rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f'<div class="wide prose" tabindex="0">{table}</div>'

    def markdown(self, number: int, folder: str) -> str:
        """As Markdown."""
        rows = tuple((row.expression.text, row.meaning, row.name) for row in self.rows)
        return Shown(Table("", ("symbol", "what it is", "name in the output"), rows, 3)).markdown(number, folder)


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    text: str

    def html(self, number: int) -> str:
        """As HTML."""
        return f'<pre tabindex="0">{escape(self.text)}</pre>'

    def markdown(self, number: int, folder: str) -> str:
        """As Markdown."""
        return fenced(self.text)


@dataclass(frozen=True)
class Source:
    """The call that gives the numbers above it."""

    call: str

    def html(self, number: int) -> str:
        """As HTML."""
        return f'<p class="source"><code>{escape(self.call)}</code></p>'

    def markdown(self, number: int, folder: str) -> str:
        """As Markdown."""
        ticks = "``" if "`" in self.call else "`"
        return f"{ticks}{self.call}{ticks}"


@dataclass(frozen=True)
class Drawn:
    """A figure as PNG, without background: `what` it is for those who do not see it, and its caption."""

    name: str
    what: str
    caption: str
    picture: bytes = field(repr=False)
    width: int

    def html(self, number: int) -> str:
        """As HTML, embedded."""
        data = base64.b64encode(self.picture).decode()
        image = f'<img src="data:image/png;base64,{data}" width="{self.width}" alt="{escape(self.what)}">'
        caption = f"<figcaption><strong>Figure {number}.</strong> {escape(self.caption)}</figcaption>"
        return f'<figure style="width:{self.width}px">{image}{caption}</figure>'

    def markdown(self, number: int, folder: str) -> str:
        """As Markdown, a file."""
        return f"![{quoted(self.what)}]({folder}/{self.file(number)})\n\n**Figure {number}.** {quoted(self.caption)}"

    def file(self, number: int) -> str:
        """Its file beside a Markdown page."""
        return f"{number:02d}-{self.name}.png"


@dataclass(frozen=True)
class Section:
    """A titled part of a document; `key` is its address."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A title, a line under it, sections, and how the document was made."""

    title: str
    lead: str
    sections: Sequence[Section]
    made: str = ""

    def numbered(self) -> Iterator[tuple[Section, list[tuple[Block, int]]]]:
        """Sections with their blocks and, of figures, their numbers."""
        count = 0
        for section in self.sections:
            blocks = []
            for block in section.blocks:
                count += isinstance(block, Drawn)
                blocks.append((block, count if isinstance(block, Drawn) else 0))
            yield section, blocks

    @property
    def html(self) -> str:
        """One page that needs no other file and no network."""
        links = "".join(f'<li><a href="#{s.key}">{escape(s.title)}</a></li>' for s in self.sections)
        body = "\n".join(
            f'<section id="{s.key}"><h2>{escape(s.title)}</h2>\n{chr(10).join(b.html(n) for b, n in blocks)}\n</section>'
            for s, blocks in self.numbered()
        )
        made = f'\n<footer><p class="made">{escape(self.made)}</p></footer>' if self.made else ""
        title = escape(self.title)
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<style>{STYLE}</style></head>\n<body><header><h1>{title}</h1><p class="lead">{escape(self.lead)}</p></header>\n'
            f'<nav aria-label="Contents"><ol>{links}</ol></nav>\n<main>\n{body}\n</main>{made}</body></html>\n'
        )

    def markdown(self, folder: str) -> str:
        """Text whose figures lie in `folder`."""
        parts = [f"# {quoted(self.title)}", quoted(self.lead)]
        for section, blocks in self.numbered():
            parts += [f"## {quoted(section.title)}", *(block.markdown(number, folder) for block, number in blocks)]
        return "\n\n".join([*parts, *([quoted(self.made)] if self.made else [])]) + "\n"

    def write(self, path: Path) -> None:
        """Write HTML, or Markdown where the name ends in .md or .markdown, with its figures in a folder beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() not in (".md", ".markdown"):
            path.write_text(self.html, encoding="utf-8")
            return
        folder = path.with_name(f"{path.stem}_figures")
        folder.mkdir(exist_ok=True)
        for _, blocks in self.numbered():
            for block, number in blocks:
                if isinstance(block, Drawn):
                    (folder / block.file(number)).write_bytes(block.picture)
        path.write_text(self.markdown(folder.name), encoding="utf-8")


def quoted(text: str) -> str:
    """Text for Markdown: what it would read as a mark is quoted, a line break is a space."""
    marked = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text.replace("\n", " "))
    return f"\\{marked}" if marked[:2] in ("- ", "+ ") else marked


def fenced(text: str) -> str:
    """Text as it stands, in Markdown."""
    return f"```text\n{text}\n```"


def drawn(figure: Figure, name: str, what: str, caption: str) -> Drawn:
    """A figure of matplotlib as a block."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, transparent=True)
    file = "".join(letter if letter.isalnum() else "-" for letter in name)
    return Drawn(file, what, caption, buffer.getvalue(), round(float(figure.get_figwidth()) * CSS_DPI))


def of_page(page: Page, heading: bool = True) -> list[Block]:
    """What a result prints as blocks: heading, lines, tables, remarks."""
    blocks: list[Block] = [Heading(page.heading)] if heading and page.heading else []
    blocks += [Prose(line) for line in page.lines]
    blocks += [Shown(table, under) for table, under in page.tables]
    return [*blocks, *listing(page.remarks)]


def listing(items: Iterable[str]) -> list[Block]:
    """Sentences, or nothing where there are none."""
    given = tuple(items)
    return [Listing(given)] if given else []
