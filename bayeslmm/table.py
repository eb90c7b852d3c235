"""Tables and pages as aligned text, HTML or Markdown; the parts of a fit's summary; a posterior's page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from bayeslmm.family import family_of

if TYPE_CHECKING:
    import pandas as pd

    from bayeslmm.model import Model
    from bayeslmm.posterior import Posterior
    from bayeslmm.result import PointFit

Array = NDArray[np.float64]

SPREAD = 1e4  # values smaller than the largest of their column by more than this do not set the column's decimals
MOST_DECIMALS = 8
LARGEST_PLAIN = 1e10
LABEL = 9  # characters of a coefficient's name above its column of correlations
WIDTH = 100
UNDEFINED = "–"
_STYLE = (
    "<style>.bayeslmm table{border-collapse:collapse;margin:.4em 0 .8em;color:inherit}"
    ".bayeslmm caption{text-align:left;font-weight:600}.bayeslmm tbody th{font-weight:normal}"
    ".bayeslmm th,.bayeslmm td{padding:.15em .7em;border:0;font-variant-numeric:tabular-nums}"
    ".bayeslmm thead th{border-bottom:1px solid currentColor}</style>"
)


@dataclass(frozen=True)
class Table:
    """A titled table of text cells; the first `labels` columns are to the left, the others to the right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1

    @property
    def text(self) -> str:
        """Aligned lines under the title."""
        lines = [(" " + "  ".join(cells)).rstrip() for cells in _padded([self.header, *self.rows], self.labels)]
        return "\n".join([f"{self.title}:", *lines] if self.title else lines)

    @property
    def html(self) -> str:
        """A table element that takes its colours from the page."""
        head = "".join(self._cell("th", j, cell, "col") for j, cell in enumerate(self.header))
        body = "".join(f"<tr>{self._row(row)}</tr>" for row in self.rows)
        caption = f"<caption>{escape(self.title)}</caption>" if self.title else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _row(self, cells: tuple[str, ...]) -> str:
        names = "".join(self._cell("th", j, cell, "row") for j, cell in enumerate(cells[: self.labels]))
        return names + "".join(self._cell("td", j, cell) for j, cell in enumerate(cells) if j >= self.labels)

    def _cell(self, tag: str, column: int, content: str, scope: str = "") -> str:
        scoped = f' scope="{scope}"' if scope else ""
        side = "left" if column < self.labels else "right"
        return f'<{tag}{scoped} style="text-align:{side}">{escape(content)}</{tag}>'


@dataclass(frozen=True)
class Page:
    """What a summary says: a heading, lines, tables each with a line under it, and remarks."""

    heading: str
    lines: tuple[str, ...]
    tables: tuple[tuple[Table, str], ...]
    remarks: tuple[str, ...]

    @property
    def text(self) -> str:
        """The page in a terminal."""
        tables = [f"{table.text}\n{under}" if under else table.text for table, under in self.tables]
        remarks = [textwrap.fill(remark, WIDTH, subsequent_indent="  ") for remark in self.remarks]
        parts = ["\n".join([self.heading, *self.lines]), *tables, "\n".join(remarks)]
        return "\n\n".join(part for part in parts if part)

    @property
    def html(self) -> str:
        """The page in a notebook."""
        lines = "<br>".join([f"<strong>{escape(self.heading)}</strong>", *map(escape, self.lines)])
        tables = "".join(t.html + (f"<p>{escape(under)}</p>" if under else "") for t, under in self.tables)
        listed = "".join(f"<li>{escape(remark)}</li>" for remark in self.remarks)
        remarks = f"<ul>{listed}</ul>" if listed else ""
        return f'<section class="bayeslmm">{_STYLE}<p>{lines}</p>{tables}{remarks}</section>'


def posterior_text(post: Posterior) -> str:
    """A posterior as text: ArviZ's summary, sizes, and the diagnostics in words.

    Parameters
    ----------
    post : Posterior

    Returns
    -------
    str
    """
    return posterior_page(post).text


def posterior_html(post: Posterior) -> str:
    """A posterior as HTML tables, in the colours of the page that shows them.

    Parameters
    ----------
    post : Posterior

    Returns
    -------
    str
    """
    return posterior_page(post).html


def to_markdown(frame: pd.DataFrame, digits: int = 4) -> str:
    """A data frame as a Markdown table, numbers to significant digits and to the right.

    Parameters
    ----------
    frame : DataFrame
        Its index is the first column.
    digits : int
        Significant digits of the smallest number of a column.

    Returns
    -------
    str

    Examples
    --------
    >>> import pandas as pd
    >>> print(to_markdown(pd.DataFrame({"sd": [24.74, 5.922]}, index=["Intercept", "Days"])))
    |           |     sd |
    |:----------|-------:|
    | Intercept | 24.740 |
    | Days      |  5.922 |
    """
    table = frame_table("", frame, digits)
    lines = [[_escaped(cell) for cell in line] for line in ([c.rjust(3) for c in table.header], *table.rows)]
    padded = _padded(lines, table.labels)
    shown = ["| " + " | ".join(cells) + " |" for cells in padded]
    dashes = ["-" * (len(cell) + 1) for cell in padded[0]]
    rule = "|".join(f":{d}" if j < table.labels else f"{d}:" for j, d in enumerate(dashes))
    return "\n".join([shown[0], f"|{rule}|", *shown[1:]])


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _padded(lines: Sequence[Sequence[str]], labels: int) -> list[list[str]]:
    """Cells of one width a column: the first `labels` columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [str.ljust if j < labels else str.rjust for j in range(len(widths))]
    return [[side(cell, width) for side, cell, width in zip(sides, line, widths, strict=True)] for line in lines]


def frame_table(title: str, frame: pd.DataFrame, digits: int = 4) -> Table:
    """A data frame as a table of text: numbers to `digits` significant digits, column by column."""
    columns = [_column(frame.iloc[:, j], digits) for j in range(frame.shape[1])]
    labels = [", ".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in frame.index]
    header = (str(frame.index.name or ""), *map(str, frame.columns))
    return Table(title, header, tuple(zip(labels, *columns, strict=True)))


def _column(values: pd.Series, digits: int) -> list[str]:
    if values.dtype.kind == "f":
        return numbers(values.to_numpy(), digits)
    return ["" if value is None else str(value) for value in values]


def numbers(values: Iterable[float], digits: int = 4) -> list[str]:
    """Numbers with one count of decimals, enough for `digits` digits of the smallest; powers of ten only if needed."""
    array = np.asarray(list(values), float)
    places = decimals(array, digits)
    return [number(float(value), places, digits) for value in array]


def decimals(values: Array, digits: int) -> int:
    """Decimals that show `digits` significant digits of the smallest value, the far smaller ones left aside."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    if not sizes.size:
        return 0
    smallest = sizes[sizes * SPREAD >= sizes.max()].min()
    return max(0, digits - 1 - math.floor(math.log10(smallest)))


def number(value: float, places: int, digits: int) -> str:
    """A number to so many decimals, as a power of ten where these would not show it."""
    if not math.isfinite(value):
        return UNDEFINED if math.isnan(value) else f"{value}"
    lost = value != 0 and abs(value) < 10.0 ** (1 - places) / 2
    if places > MOST_DECIMALS or abs(value) >= LARGEST_PLAIN or lost:
        return "0" if value == 0 else f"{value:.{digits - 1}e}"
    return f"{value:.{places}f}"


def model_lines(model: Model) -> list[str]:
    """The formula, and where weights and offset come from."""
    given = {label: model.arguments[label.lower()] for label in ("Weights", "Offset")}
    said = {label: v if isinstance(v, str) else "given as an array" for label, v in given.items() if v is not None}
    return [f"Formula: {model.formula.text}", *(f"{label}: {what}" for label, what in said.items())]


def sizes(model: Model) -> str:
    """Rows and levels: ``Number of obs: 180, groups: Subject, 18``."""
    groups = "; ".join(f"{group}, {len(model.levels(group))}" for group in model.groups)
    return f"Number of obs: {model.design.nobs}" + (f", groups: {groups}" if groups else "")


def random_effects(fit: PointFit, residual: bool = True) -> Table:
    """Variances, standard deviations and correlations with the earlier effects of the group."""
    corr = [cells for group in fit.model.groups for cells in _correlations(fit, group)]
    width = max((len(cells) for cells in corr), default=0)
    sd = np.concatenate([np.empty(0), *fit.group_sd.values(), [fit.sigma] * residual])
    effects = {group: enumerate(fit.model.effects(group)) for group in fit.model.groups}
    labels = [("" if i else group, effect) for group, numbered in effects.items() for i, effect in numbered]
    with np.errstate(over="ignore", under="ignore"):
        variance = numbers(sd**2)
    rows = zip([*labels, *[("Residual", "")] * residual], variance, numbers(sd), [*corr, *[[]] * residual], strict=True)
    header = ("Groups", "Name", "Variance", "Std.Dev.", *(["Corr"] + [""] * (width - 1) if width else []))
    cells = tuple((*label, v, s, *c, *[""] * (width - len(c))) for label, v, s, c in rows)
    return Table("Random effects", header, cells, labels=2)


def _correlations(fit: PointFit, group: str) -> list[list[str]]:
    """Cells of each effect of the group: one for every earlier effect, empty where the model has no correlation."""
    sd, corr, linked = fit.group_sd[group], fit.group_corr[group], set(fit.model.pairs(group))
    last = max((j for _, j in linked), default=0)

    def cell(i: int, j: int) -> str:
        if (j, i) not in linked:
            return ""
        return f"{corr[i, j]:.2f}" if sd[i] > 0 and sd[j] > 0 else UNDEFINED

    return [[cell(i, j) for j in range(min(i, last))] for i in range(len(sd))]


def fixed_correlations(fit: PointFit) -> Table:
    """Correlations of the coefficients' estimates, lower triangle."""
    names, error = fit.model.design.fixed.names, fit.beta_sd
    with np.errstate(all="ignore"):
        corr = (root := fit.beta_root / error).T @ root
    last = len(names) - 1
    rows = [(names[i], *(number(corr[i, j], 3, 4) if j < i else "" for j in range(last))) for i in range(1, last + 1)]
    return Table("Correlation of fixed effects", ("", *(name[:LABEL] for name in names[:-1])), tuple(rows))


def p_shown(p: float) -> str:
    """A tail probability: four decimals, powers of ten below, empty where there is none."""
    if math.isnan(p):
        return ""
    return f"{p:.4f}" if p >= 1e-4 else f"{p:.2e}" if p else "<1e-300"


def left_out(model: Model) -> list[str]:
    """The rows and the columns that the fit does not use, a sentence each."""
    dropped, columns = model.design.n_dropped, model.design.fixed.dropped
    rows = [f"{dropped} row{'s' if dropped > 1 else ''} dropped: missing values."] if dropped else []
    found = f"Fixed effects dropped, linear combinations of those before them: {', '.join(columns)}."
    unused = model.design.unused
    rows += [f"Categories dropped, which no row has: {', '.join(unused)}."] if unused else []
    return [*rows, found] if columns else rows


def zeros(fit: PointFit) -> list[str]:
    """Which effects, and which combinations of effects, have variance 0."""
    terms = zip(fit.model.terms, fit.model.factors(fit.theta), strict=True)
    return [said for term, lam in terms for said in _zeros_of_term(term.group, term.effects, lam)]


def _zeros_of_term(group: str, effects: Sequence[str], lam: Array) -> list[str]:
    length = np.linalg.norm(lam, axis=1)
    said = [f"sd_{group}[{effect}] is 0" for effect, size in zip(effects, length, strict=True) if size == 0]
    kept = [effect for effect, size in zip(effects, length, strict=True) if size > 0]
    unit = lam[length > 0] / length[length > 0, None]
    count = len(kept) - int(np.linalg.matrix_rank(unit))
    if not count:
        return said
    if len(kept) == 2:
        sign = "1" if unit[0] @ unit[1] > 0 else "−1"
        return [*said, f"corr_{group}[{', '.join(kept)}] is {sign}"]
    weights = np.linalg.svd(unit)[0][:, -1]
    terms = " ".join(f"{w:+.2f}·{e}" for w, e in zip(weights, kept, strict=True) if abs(w) > 0.005)
    which = "the combination" if count == 1 else f"{count} combinations, one of them"
    return [*said, f"variance 0 of {which} {terms} of the standardised effects on {group}"]


def posterior_page(post: Posterior) -> Page:
    """What the summary of a posterior says."""
    shape = post.data["posterior"].sizes
    how = {
        "marginal": "random effects integrated out",
        "hierarchical": "every random effect sampled",
        "laplace": "random effects integrated out by Laplace's approximation, "
        + ("corrected by importance weights" if post.data.attrs.get("corrected") else "not corrected"),
    }[post.route]
    general = family_of(post.model.family).plain != "gaussian"
    family = [f"Family: {post.model.family} ({post.model.link} link)"] if post.model.family != "gaussian" else []
    lines = (*model_lines(post.model), *family, f"Draws: {shape['chain']} chains × {shape['draw']}, {how}")
    table = frame_table("Posterior", _rounded(post.summary()))
    remarks = (*left_out(post.model), *post.diagnostics.sentences)
    what = "generalized linear" if general else "linear"
    return Page(f"Posterior of a {what} mixed model by NUTS", lines, ((table, sizes(post.model)),), remarks)


def _rounded(summary: pd.DataFrame) -> pd.DataFrame:
    """ArviZ's summary as text: three digits of each standard deviation, two of each Monte Carlo error."""
    places = {"ess_bulk": 0, "ess_tail": 0, "r_hat": 3}

    def cell(value: float, column: str, sd: float) -> str:
        own = decimals(np.array([value]), 2) if column.startswith("mcse") else decimals(np.array([sd]), 3)
        return number(float(value), places.get(column, own), 3)

    return summary.apply(lambda c: [cell(v, str(c.name), sd) for v, sd in zip(c, summary["sd"], strict=True)])


def with_z(frame: pd.DataFrame) -> pd.DataFrame:
    """Estimates and standard errors (columns estimate, se) with their z tests."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = frame["estimate"] / frame["se"]
    named = frame.rename(columns={"estimate": "Estimate", "se": "Std. Error"})
    return named.assign(**{"z value": z, "Pr(>|z|)": 2.0 * ndtr(-np.abs(z))})
