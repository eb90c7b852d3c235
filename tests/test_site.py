"""The site's table of contents: every page once."""

import re
from collections import Counter
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def entries() -> list[str]:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]


def test_every_page_is_listed_once() -> None:
    pages = Counter(page.stem for page in DOCS.glob("*.md") if page.stem != "index")
    assert Counter(entry for entry in entries() if "/" not in entry) == pages
    assert [entry for entry in entries() if "/" in entry] == ["models/README", "examples/*"]
