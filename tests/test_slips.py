"""The page of the lectures' slips is complete: what is printed, what holds, and a computation, for each of them."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "slips.md"
# Every slip that was found in the five lectures, by lecture and subject.
SLIPS = (
    "DTU, wool table",
    "DTU, theorem",
    "DTU, shrinkage",
    "DTU, nonlinear",
    "Duke, MLEs",
    "Duke, mixed model equations",
    "Duke, BLP",
    "JKU, ML for GLMM",
    "JKU, REML",
    "JKU, exponential family",
    "JKU, link",
    "JKU, probit",
    "JKU, GEE",
    "JKU, simulation",
    "CTU, REML criterion",
    "CTU, toy example",
    "CTU, missing values",
    "Ao, moments",
    "Ao, clustering",
)


def sections() -> dict[str, str]:
    _, *parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def test_no_section_is_missing_or_unknown() -> None:
    assert [name for name in sections() if ", " in name] == list(SLIPS)


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_says_what_is_printed_and_what_holds_and_computes_it(slip: str) -> None:
    text = sections()[slip]
    printed, holds = text.find("**Printed.**"), text.find("**Holds.**")
    assert 0 <= printed < holds
    assert re.search(r"^```python\n.+?^```\n\n```text", text[holds:], re.MULTILINE | re.DOTALL)
