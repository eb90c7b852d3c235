"""An old formula + what to change → a new formula, as `update` in R writes it."""

from __future__ import annotations

import re

from bayeslmm.errors import FormulaError


def updated_formula(old: str, new: str) -> str:
    """The formula `new` with ``.`` standing for the sides of `old`; ``- (1 | g)`` takes a random term out."""
    if new.count("~") != 1:
        raise FormulaError("an updated formula needs one ~, as in '. ~ . + x'", new, None)
    sides = [side.strip() for side in old.split("~")]
    parts = [part.strip() for part in new.split("~")]
    left, right = (side.join(re.split(r"(?<![\w.])\.(?![\w.])", part)) for side, part in zip(sides, parts, strict=True))
    for removal in re.findall(r"-\s*\([^()]*\|[^()]*\)", right):
        right = right.replace(removal, "", 1)
        target = re.sub(r"\s", "", removal.lstrip("- "))
        for term in re.findall(r"\([^()]*\|[^()]*\)", right):
            if re.sub(r"\s", "", term) == target:
                right = re.sub(rf"\s*\+?\s*{re.escape(term)}", "", right, count=1)
                break
        else:
            raise FormulaError(f"the formula has no term {removal.lstrip('- ')}", old)
    return f"{left} ~ {right.strip().removeprefix('+').strip() or '1'}"
