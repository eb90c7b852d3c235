"""Draws docs/figures/data-flow.svg: the layers of pyproject.toml in bands, and what each band hands on."""

import re
import textwrap
import tomllib
from pathlib import Path

from matplotlib.figure import Figure

from bayeslmm.plot.style import COLOURS, GREY, blank, style

STATED, COMPUTED, TOLD = COLOURS[0], COLOURS[1], COLOURS[2]
# Band, the highest module of the layers in it (from the bottom layer up), what it hands on, and its colour.
BANDS = (
    ("Words", "priors", "Formula, covariance structures, priors", STATED),
    ("Design", "design", "Design: y, X, codes of Z, weights, offset", STATED),
    ("Exact core", "exact", "log|M| and S at θ, and their pullback", COMPUTED),
    ("Model", "spec", "Model: one object, frozen", STATED),
    ("Search and densities", "graph", "an optimum; a log density with its gradient; a PyMC graph", COMPUTED),
    ("Results", "posterior", "PointFit, Posterior: the same names", TOLD),
    ("Fitting and linear questions", "fit", "fits and draws; means, contrasts, F tests", COMPUTED),
    ("Prediction and repetition", "hypotheses", "predictions, simulations, refits, tests", COMPUTED),
    ("Judgement", "limiting", "comparisons, intervals, power, diagnoses", TOLD),
    ("Output", "cli", "a report, files, the command line", TOLD),
)
WIDTH, LINE, GAP = 100, 0.18, 0.27


def layers(project: Path) -> list[list[str]]:
    """Modules of each layer, the bottom one first."""
    contracts = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    return [re.findall(r"\w+", layer) for layer in reversed(contracts[0]["layers"])]


def bands(project: Path) -> list[tuple[str, str, list[str]]]:
    """Name, what it hands on, and modules of each band."""
    rest, found = layers(project), []
    for name, last, gives, _ in BANDS:
        end = next(i for i, layer in enumerate(rest) if last in layer) + 1
        found.append((name, gives, sorted(module for layer in rest[:end] for module in layer)))
        rest = rest[end:]
    if rest:
        raise ValueError(f"layers above the last band: {rest}")
    return found


def draw(project: Path) -> Figure:
    """The picture."""
    rows = [(name, gives, textwrap.wrap(", ".join(modules), WIDTH)) for name, gives, modules in bands(project)]
    heights = [LINE * (2.1 + len(lines)) for _, _, lines in rows]
    total = sum(heights) + GAP * (len(rows) + 1)
    with style():
        figure = blank(8.6, total)
        figure.set_layout_engine("none")
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set(xlim=(0, 8.6), ylim=(total, 0))
        axis.axis("off")
        axis.text(0.35, 0.08, "formula, stages or model file; a table", va="top", style="italic", size=9.5)
        top = GAP
        for i, ((name, gives, lines), height) in enumerate(zip(rows, heights, strict=True)):
            colour = BANDS[i][3]
            box = {"boxstyle": "round,pad=0.02,rounding_size=0.06", "fill": False, "ec": colour, "lw": 1.4}
            axis.annotate("", (0.2, top), (0.2, top - GAP), arrowprops={"arrowstyle": "-|>", "color": GREY})
            axis.add_patch(_rounded(0.1, top, 8.4, height, box))
            axis.text(0.3, top + 0.09, name, va="top", size=10.5, weight="bold", color=colour)
            axis.text(8.35, top + 0.1, f"→ {gives}", va="top", ha="right", size=9.5, style="italic")
            axis.text(0.3, top + 0.36, "\n".join(lines), va="top", size=8.5, family="monospace", linespacing=1.25)
            top += height + GAP
    return figure


def _rounded(x: float, y: float, width: float, height: float, options: dict[str, object]):
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch((x, y), width, height, **options)


if __name__ == "__main__":
    here = Path(__file__).resolve()
    draw(here.parents[2] / "pyproject.toml").savefig(here.with_name("data-flow.svg"), metadata={"Date": None})
