"""Builds the site: these pages, the catalogue, the examples (executed) and the reference of the public names.

    make docs          writes build/docs/index.html; every warning is an error

What stands outside this folder is copied into it first, into `examples` and `models`, which git ignores: Sphinx reads one
folder, and a notebook finds the catalogue at `../models` as it does in the checkout.
"""

import os
import re
import shutil
from pathlib import Path

import jupytext
from nbformat.v4 import new_code_cell

import bayeslmm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NO_ARGUMENTS = 'import sys\n\nsys.argv = ["notebook"]'  # a kernel's own are none of a script's business


def fresh(folder: str) -> Path:
    """Return docs/<folder>, empty."""
    shutil.rmtree(HERE / folder, ignore_errors=True)
    (HERE / folder).mkdir()
    return HERE / folder


def gather() -> None:
    """Copy the catalogue and the notebooks; a script becomes a notebook."""
    fresh("api")
    shutil.copytree(ROOT / "models", fresh("models"), dirs_exist_ok=True)
    examples = fresh("examples")
    for path in sorted((ROOT / "examples").iterdir()):
        if path.suffix == ".ipynb":
            shutil.copy2(path, examples)
        elif path.suffix == ".py":
            notebook = jupytext.read(path)
            notebook.cells.insert(0, new_code_cell(NO_ARGUMENTS, metadata={"tags": ["remove-cell"]}))
            jupytext.write(notebook, examples / f"{path.stem}.ipynb")


# Notebooks whose data may not be passed on, with the file and the environment variable where they look for them.
ELSEWHERE = {"beech-wood": ("planks.csv", "PLANKS_CSV"), "binary-balance": ("ctsib.csv", "CTSIB_CSV")}


def without_data() -> list[str]:
    """Those whose data are not here: they are shown as they were stored."""
    missing = []
    for notebook, (name, variable) in ELSEWHERE.items():
        named = os.environ.get(variable)
        places = [Path(named)] if named else [folder / "shared/data" / name for folder in HERE.parents]
        missing += [] if any(place.is_file() for place in places) else [f"examples/{notebook}.ipynb"]
    return missing


gather()

project = "bayeslmm"
author = "bayeslmm developers"
project_copyright = author
release = version = bayeslmm.__version__
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
exclude_patterns = ["models/*/*"]
nitpicky = True
default_role = "literal"  # a docstring's `name` is code

html_theme = "furo"
html_title = f"bayeslmm {release}"
html_show_copyright = False
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_execution_excludepatterns = without_data()
nb_merge_streams = True

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say the types in words
autodoc_member_order = "bysource"
templates_path = ["templates"]
numpydoc_show_class_members = False
numpydoc_validation_checks = {
    "GL05",  # tabs
    "GL06",  # a section that numpydoc does not know
    "GL07",  # sections out of order
    "GL08",  # no docstring
    "PR01",  # a parameter that is not documented
    "PR02",  # a documented parameter that does not exist
    "PR10",  # no space before the colon
    "SS01",  # no summary
    "SS04",  # a summary that begins with a space
}
numpydoc_validation_exclude = {r"\.[A-Z]\w*\.\w+$"}  # methods and properties: a sentence is enough

FENCE_WORDS = re.compile(r"^(```(?:python|text|toml|sh)) [^\n{]+$", re.MULTILINE)
OUTSIDE = re.compile(r"\]\(\.\./(examples|models)/")


def prepare(app: object, page: str, source: list[str]) -> None:
    """Leave out what only the tests read in a fence's first line, and lead links to the copied folders."""
    text = FENCE_WORDS.sub(r"\1", source[0])
    text = OUTSIDE.sub(r"](\1/", text)
    source[0] = text


def setup(app: object) -> None:
    """Register what happens to a page before it is parsed."""
    app.connect("source-read", prepare)
