"""Any table or result → LaTeX, Markdown, HTML or great_tables."""

from __future__ import annotations

import re
from typing import Any, Literal

import pandas as pd

from bayeslmm.errors import MethodError, MissingPackageError
from bayeslmm.summary import point_page
from bayeslmm.table import Page, Table, frame_table, posterior_page, to_markdown

Format = Literal["latex", "markdown", "html", "great_tables"]
FORMATS = ("latex", "markdown", "html", "great_tables")
NUMBER = re.compile(r"[-−+]?[\d.]+(e[-+]?\d+)?")
SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "²": "$^2$", "χ": r"$\chi$",
    "α": r"$\alpha$", "β": r"$\beta$", "σ": r"$\sigma$", "Σ": r"$\Sigma$", "θ": r"$\theta$", "κ": r"$\kappa$",
    "λ": r"$\lambda$", "μ": r"$\mu$", "ν": r"$\nu$", "ρ": r"$\rho$", "τ": r"$\tau$", "ψ": r"$\psi$", "½": r"$\frac12$",
    "√": r"$\surd$", "≤": r"$\le$", "≥": r"$\ge$", "→": r"$\to$", "∞": r"$\infty$", "…": r"\ldots{}", "–": "--",
}  # fmt: skip


def export(
    what: Any, format: Format = "latex", *, caption: str | None = None, label: str | None = None, digits: int = 4
) -> Any:
    r"""Write a table, or the tables of a result, for another program.

    Parameters
    ----------
    what : DataFrame, Series, PointFit, Posterior, or a result that prints as tables
        What `bl.compare`, `bl.anova`, `bl.coefficients`, `bl.side_by_side`, `bl.means` and the others gave.
    format : {"latex", "markdown", "html", "great_tables"}
        LaTeX needs the package booktabs; HTML takes its colours from the page that shows it.
    caption : str, optional
        Put above; for LaTeX in a table environment.
    label : str, optional
        LaTeX's label, ``"tab:sleep"``; needs a caption.
    digits : int
        Significant digits of the smallest number of a column of a frame; results print with their own.

    Returns
    -------
    str, or great_tables.GT
        Of several tables, text one after the other; great_tables takes one.

    Raises
    ------
    MethodError
        An unknown format, a label without caption, or something that is no table.
    MissingPackageError
        ``format="great_tables"`` without that package.

    Examples
    --------
    >>> import bayeslmm as bl, pandas as pd
    >>> print(bl.export(pd.DataFrame({"sd": [24.74, 5.922]}, index=["Intercept", "Days"])))
    \begin{tabular}{lr}
    \toprule
     & sd \\
    \midrule
    Intercept & 24.740 \\
    Days & 5.922 \\
    \bottomrule
    \end{tabular}
    """
    if format not in FORMATS:
        raise MethodError(f"format={format!r} is not known; use {', '.join(map(repr, FORMATS))}")
    if label is not None and (format != "latex" or caption is None):
        raise MethodError('label= is for format="latex" with a caption= to number')
    page = page_of(what, digits)
    if format == "latex":
        return _latex(page, caption, label)
    if format == "markdown":
        return _markdown(page, caption)
    if format == "html":
        return Page(caption or page.heading, page.lines, page.tables, page.remarks).html
    return _great_tables(page, caption)


def page_of(what: Any, digits: int = 4) -> Page:
    """What a frame or a result prints as."""
    if isinstance(what, pd.Series):
        what = what.to_frame()
    if isinstance(what, pd.DataFrame):
        columns = [", ".join(map(str, c)) if isinstance(c, tuple) else str(c) for c in what.columns]
        return Page("", (), ((frame_table("", what.set_axis(columns, axis=1), digits), ""),), ())
    if callable(getattr(what, "page", None)):
        return what.page()
    if hasattr(what, "beta_root") and hasattr(what, "optimum"):
        return point_page(what)
    if hasattr(what, "draws") and hasattr(what, "diagnostics"):
        return posterior_page(what)
    raise MethodError(f"{type(what).__name__} is no table and no result; export takes frames and results that print")


def _latex(page: Page, caption: str | None, label: str | None) -> str:
    bodies = []
    for table, under in page.tables:
        parts = [rf"\textbf{{{escaped(table.title)}}}\par"] if table.title else []
        bodies.append("\n".join([*parts, _tabular(table), *([rf"\par {escaped(under)}"] if under else [])]))
    body = "\n\n\\bigskip\n".join(bodies)
    notes = [*page.lines, *page.remarks]
    if notes:
        body += "\n\n\\medskip\n" + "\n\n".join(rf"{{\footnotesize {escaped(note)}\par}}" for note in notes)
    if caption is None:
        return body
    head = ["\\begin{table}", "\\centering", rf"\caption{{{escaped(caption)}}}"]
    return "\n".join([*head, *([rf"\label{{{label}}}"] if label else []), body, "\\end{table}"])


def _tabular(table: Table) -> str:
    columns = "l" * table.labels + "r" * (len(table.header) - table.labels)
    rows = [" & ".join(_cell(cell, j >= table.labels) for j, cell in enumerate(row)) + r" \\" for row in table.rows]
    head = " & ".join(map(escaped, table.header)) + r" \\"
    lines = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _cell(text: str, right: bool) -> str:
    """A cell; numbers in one width, minus signs as such, a closing bracket beside the column so that digits align."""
    inner = text[1:-1] if right and text.startswith("(") and text.endswith(")") else text
    if right and NUMBER.fullmatch(inner):
        number = inner.replace("−", "-").replace("-", "$-$")
        return number if inner == text else rf"({number}\rlap{{)}}"
    return escaped(text)


def escaped(text: str) -> str:
    r"""Text for LaTeX: what it would read as a command is quoted, symbols beyond Latin become its own.

    Parameters
    ----------
    text : str

    Returns
    -------
    str

    Examples
    --------
    >>> escaped("sd_g & 95 %")
    'sd\\_g \\& 95 \\%'
    """
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _markdown(page: Page, caption: str | None) -> str:
    parts = [f"**{caption}**"] if caption else []
    for table, under in page.tables:
        parts += [f"*{table.title}*"] if table.title else []
        parts += [_markdown_table(table), *([under] if under else [])]
    return "\n\n".join([*parts, *page.lines, *(f"* {remark}" for remark in page.remarks)])


def _markdown_table(table: Table) -> str:
    """The cells as `table.to_markdown` lays them out."""
    if table.labels == 1:
        names = pd.Index([row[0] for row in table.rows], name=table.header[0] or None)
        return to_markdown(pd.DataFrame([row[1:] for row in table.rows], index=names, columns=list(table.header[1:])))
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (table.header, *table.rows)]
    rule = [":--" if j < table.labels else "--:" for j in range(len(table.header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]])


def _great_tables(page: Page, caption: str | None) -> Any:
    try:
        from great_tables import GT
    except ModuleNotFoundError as error:
        raise MissingPackageError('format="great_tables" needs that package: pip install great-tables') from error
    if len(page.tables) != 1:
        raise MethodError(
            f"great_tables takes one table and this result prints {len(page.tables)}; export a frame of it, or "
            "bl.side_by_side(result)"
        )
    table = page.tables[0][0]
    header = [name or " " * (j + 1) for j, name in enumerate(table.header)]
    frame = pd.DataFrame(list(table.rows), columns=header)
    made = GT(frame).cols_align("left", header[: table.labels]).cols_align("right", header[table.labels :])
    made = made.tab_header(caption) if caption else made
    for note in (*page.lines, *page.remarks):
        made = made.tab_source_note(note)
    return made
