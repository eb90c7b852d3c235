"""The notebooks of examples/ as they are stored, and what the site's pages promise; `make docs` executes the notebooks."""

import re
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest
from IPython.core.formatters import DisplayFormatter

import bayeslmm as bl
from bayeslmm import plot

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:home|root|work|Users|opt|tmp|private|var|usr)/\w|\b[A-Z]:\\\\?\w")


def faults(notebook: nbformat.NotebookNode) -> list[str]:
    """What is wrong with a stored notebook, in words."""
    found = []
    first = notebook.cells[0] if notebook.cells else None
    if first is None or first.cell_type != "markdown" or not re.match(r"# \S", first.source):
        found.append("the first cell is no title")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    if not outputs:
        found.append("no outputs are stored")
    if any(cell.execution_count is None for cell in code if cell.source.strip()):
        found.append("a cell was not executed")
    counts = [cell.execution_count for cell in code if cell.execution_count is not None]
    if counts != list(range(1, len(counts) + 1)):
        found.append("the cells were not executed once, in order")
    if any(output.output_type == "error" for output in outputs):
        found.append("an error is stored")
    if any(output.get("name") == "stderr" for output in outputs):
        found.append("something written to stderr is stored")
    for cell in notebook.cells:
        kept = [cell.source, str(dict(cell.metadata)), *(text_of(output) for output in cell.get("outputs", ()))]
        found += [f"an absolute path: {match[0]}" for text in kept if (match := ABSOLUTE.search(text))]
    if match := ABSOLUTE.search(str(dict(notebook.metadata))):
        found.append(f"an absolute path: {match[0]}")
    return found


def text_of(output: nbformat.NotebookNode) -> str:
    """An output as text, its pictures left out."""
    shown = [str(part) for kind, part in output.get("data", {}).items() if not kind.startswith("image/")]
    return "\n".join([str(output.get("text", "")), *map(str, output.get("traceback", ())), *shown])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_as_they_ran(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert faults(notebook) == []


def good() -> nbformat.NotebookNode:
    cell = nbformat.v4.new_code_cell("print(1)", execution_count=1)
    cell.outputs = [nbformat.v4.new_output("stream", text="1\n")]
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# One"), cell])


def with_error(notebook: nbformat.NotebookNode) -> None:
    notebook.cells[1].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="x", traceback=[])]


def with_path(notebook: nbformat.NotebookNode) -> None:
    notebook.cells[1].outputs[0].text = "written to /" + "home/somebody/out.html\n"


FAULTY = {
    "the first cell is no title": lambda notebook: notebook.cells.pop(0),
    "no outputs are stored": lambda notebook: notebook.cells[1].update(outputs=[]),
    "a cell was not executed": lambda notebook: notebook.cells[1].update(execution_count=None),
    "the cells were not executed once, in order": lambda notebook: notebook.cells[1].update(execution_count=3),
    "an error is stored": with_error,
    "something written to stderr is stored": lambda notebook: notebook.cells[1].outputs[0].update(name="stderr"),
    "an absolute path: /" + "home/s": with_path,
}


def test_a_good_notebook_has_no_faults() -> None:
    assert faults(good()) == []


@pytest.mark.parametrize("fault", FAULTY)
def test_faults_are_found(fault: str) -> None:
    notebook = good()
    FAULTY[fault](notebook)
    assert fault in faults(notebook)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_no_script_hides_a_package(path: Path) -> None:
    """A notebook finds the scripts of its folder first: numba imports `coverage`, and would run a coverage.py."""
    assert find_spec(path.stem) is None


def test_every_public_name_stands_once_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = re.findall(r"^   ([\w.]+)$", page, re.MULTILINE)
    assert len(set(listed)) == len(listed)
    public = {*bl.__all__, *(f"plot.{name}" for name in plot.__all__), "spec.save"} - {"errors"}
    assert set(listed) == public
    assert ".. automodule:: bayeslmm.errors" in page


def test_a_figure_is_shown_in_a_notebook_and_not_held_by_pyplot() -> None:
    from matplotlib import pyplot

    pyplot.close("all")  # another file's figures, in the same process
    figure = plot.residuals(bl.fit(bl.load(ROOT / "models" / "wool")))
    shown, _ = DisplayFormatter().format(figure)
    assert shown["image/png"].startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []
