"""The shape of the package: layers, sizes, names, and what `import bayeslmm` costs."""

import ast
import inspect
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from statistics import quantiles

import pytest

import bayeslmm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bayeslmm"
FOLDERS = ("bayeslmm", "models", "tests", "examples", "docs")
SOURCES = sorted(PACKAGE.rglob("*.py"))
PUBLIC = [name for name in dir(bayeslmm) if not name.startswith("_")]
Function = ast.FunctionDef | ast.AsyncFunctionDef
LAYOUT_TOKENS = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def code_lines(source: str) -> set[int]:
    """The lines that hold code: no blanks, no comments."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {line for t in tokens if t.type not in LAYOUT_TOKENS for line in range(t.start[0], t.end[0] + 1)}


def length(function: Function, code: set[int]) -> int:
    """Code lines of a function from its `def`, the docstring left out."""
    lines = set(range(function.lineno, function.end_lineno + 1)) & code
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= set(range(docstring.lineno, docstring.end_lineno + 1))
    return len(lines)


def function_lengths() -> dict[str, int]:
    lengths = {}
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        code = code_lines(source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, Function):
                lengths[f"{relative(path)}:{node.lineno} {node.name}"] = length(node, code)
    return lengths


def public_definitions(path: Path) -> list[ast.AST]:
    """Public functions and classes of a module, and the public methods of those classes."""
    found = []
    scopes = [ast.parse(path.read_text(encoding="utf-8"))]
    while scopes:
        for node in scopes.pop().body:
            if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                found.append(node)
                scopes += [node] if isinstance(node, ast.ClassDef) else []
    return found


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout


def test_five_folders_hold_the_project() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if tracked.returncode:
        pytest.skip("not a git checkout")
    paths = tracked.stdout.decode().splitlines()
    folders = {path.split("/")[0] for path in paths if "/" in path and not path.startswith(".")}
    assert folders == set(FOLDERS)


def test_modules_are_named_for_an_idea() -> None:
    vague = re.compile(r"util|helper|misc|base|common|internal")
    assert [relative(p) for p in SOURCES if vague.search(p.stem)] == []
    assert [relative(p) for p in SOURCES if p.stem != "__init__" and p.stem.strip("_") != p.stem] == []


def test_functions_are_short() -> None:
    lengths = function_lengths()
    assert {name: n for name, n in lengths.items() if n > 60} == {}
    assert quantiles(lengths.values(), n=10)[-1] <= 30


def test_files_are_short() -> None:
    lengths = {relative(p): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert {name: n for name, n in lengths.items() if n > 400} == {}


def test_the_public_surface_is_small() -> None:
    assert len(PUBLIC) <= 64
    assert sorted(bayeslmm.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_resolve_and_are_documented(name: str) -> None:
    value = getattr(bayeslmm, name)
    assert inspect.getdoc(value)
    assert getattr(bayeslmm, name) is value
    if name != "errors":
        assert callable(value)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'lmer'"):
        _ = bayeslmm.lmer


@pytest.mark.parametrize("module", ["fit", "sample", "compare", "predict", "simulate", "report"])
def test_importing_a_module_leaves_the_function_of_its_name(module: str) -> None:
    code = f"import bayeslmm, bayeslmm.{module}; from bayeslmm.{module} import {module} as f; "
    assert run_python(code + f"print(bayeslmm.{module} is f and callable(f))") == "True\n"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_public_definitions_are_documented(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert [node.name for node in public_definitions(path) if not ast.get_docstring(node)] == []


def modules_loaded_by(code: str) -> list[str]:
    """What a fresh interpreter holds after `code` that it did not hold before."""
    listing = "; print(json.dumps(sorted(set(sys.modules) - before)))"
    return json.loads(run_python(f"import sys, json; before = set(sys.modules); {code}{listing}"))


def test_import_loads_nothing_heavy() -> None:
    loaded = modules_loaded_by("import bayeslmm")
    assert [name for name in loaded if name.split(".")[0] not in sys.stdlib_module_names] == ["bayeslmm"]


def test_the_model_and_the_point_fit_do_not_load_pymc() -> None:
    loaded = modules_loaded_by("import bayeslmm as bl; bl.Model, bl.load, bl.fit")
    assert {"pymc", "pytensor", "arviz", "bambi", "matplotlib"} & set(loaded) == set()


def test_imports_follow_the_layers() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_nothing_is_left_for_later() -> None:
    note = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    assert [relative(p) for p in python_files() if note.search(p.read_text(encoding="utf-8"))] == []


def test_no_file_depends_on_one_machine() -> None:
    folder = re.compile(r"(?<![\w.])/(?:home|root|work|Users|opt)/\w")
    assert [relative(p) for p in python_files() if folder.search(p.read_text(encoding="utf-8"))] == []
