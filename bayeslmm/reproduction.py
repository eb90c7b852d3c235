"""How a report was made: lines of Python that give every number, the model file, the data's digests, versions."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bayeslmm.account import Account, sentence
from bayeslmm.archive import digest
from bayeslmm.columns import frame_of, names_of
from bayeslmm.compare import AnyResult
from bayeslmm.document import Block, Code, Heading, Prose, Section, Shown, Source
from bayeslmm.errors import SpecificationError
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.model import Model
from bayeslmm.modelfile import dumps
from bayeslmm.posterior import Posterior
from bayeslmm.powerscale import integrates_fixef
from bayeslmm.result import PointFit
from bayeslmm.spec import model_file
from bayeslmm.table import Table

PACKAGES = ("bayeslmm", "numpy", "scipy", "numba", "pandas", "formulaic", "nutpie", "pymc", "arviz", "matplotlib")


def the_reproduction(account: Account, sections: Sequence[Section]) -> list[Block]:
    """The script behind the sections, the model file, digests and versions."""
    model = account.model
    return [
        Prose(
            "With the data in `data`, a table with the columns below, these lines give every number of this page "
            f"(seed of the simulations: {account.seed})."
        ),
        Code("\n".join(script(account, sections))),
        Heading("The model as a file"),
        *_file(model),
        Heading("The data"),
        Shown(_digests(model), "The same digest (SHA-256 of the values) means the same column, in the same order."),
        Heading("Versions"),
        Shown(Table("", ("package", "version"), _versions())),
    ]


def script(account: Account, sections: Iterable[Section]) -> list[str]:
    """Lines of Python: the models, the results, then the call behind every table and figure."""
    models: dict[int, str] = {}
    lines = ["import bayeslmm as bl", ""]
    for result in account.results:
        if (place := _same(result.model, account.results, models)) is None:
            name = "model" if not models else f"model_{len(models) + 1}"
            models[id(result.model)] = name
            lines.append(f"{name} = {_made(result.model)}")
        else:
            models[id(result.model)] = place
    for name, result in zip(account.names, account.results, strict=True):
        lines.append(f"{name} = {_call(result, models[id(result.model)])}")
    for section in sections:
        calls = [block.call for block in section.blocks if isinstance(block, Source)]
        lines += ["", f"# {section.title}", *calls] if calls else []
    return lines


def _same(model: Model, results: Sequence[AnyResult], named: dict[int, str]) -> str | None:
    """The name of a model already written down that is the same in formula and priors."""
    for result in results:
        other = result.model
        if id(other) in named and other.formula.text == model.formula.text and other.priors == model.priors:
            return named[id(other)]
    return None


def _made(model: Model) -> str:
    given = model.arguments
    if model.stages is None:
        shown, head = [repr(given["formula"]), "data"], "bl.Model"
    else:
        text = model.stages.as_text()
        shown, head = [repr(text["first"]), repr(text["second"]), "data"], "bl.Model.from_stages"
    for name in ("weights", "offset", "priors", "contrasts", "link", "dispersion", "zero"):
        value = given.get(name)
        if value is not None:
            shown.append(f"{name}={value!r}" if isinstance(value, str | dict) else f"{name}={name}")
    shown += [
        f"{name}={given[name]!r}"
        for name, usual in (("family", "gaussian"), ("missing", "drop"))
        if given[name] != usual
    ]
    return f"{head}({', '.join(shown)})"


def _call(result: AnyResult, model: str) -> str:
    if isinstance(result, PointFit):
        held = f", fixed={dict(result.fixed)!r}" if result.fixed else ""
        joint = ', fixef="joint"' if result.method == "MAP" and not integrates_fixef(result) else ""
        own = result.options if isinstance(result, GeneralizedFit) else {}
        other = "".join(f", {name}={value!r}" for name, value in own.items() if value not in (False, "observed"))
        return f'bl.fit({model}, "{result.method}"{joint}{held}{other})'
    sizes, attrs = result.data["posterior"].sizes, result.data.attrs
    options: dict[str, Any] = {"draws": sizes["draw"], "chains": sizes["chain"]}
    options |= {name: attrs[name] for name in ("tune", "seed", "target_accept") if name in attrs}
    options |= {"corrected": False} if attrs.get("correction_wanted") == 0 else {}
    return f"bl.sample({model}, {', '.join(f'{k}={v!r}' for k, v in options.items())}, route={result.route!r})"


def _file(model: Model) -> list[Block]:
    try:
        return [
            Prose("Saved as model.toml beside the data, `bayeslmm fit model.toml --out folder` writes such a page."),
            Code(dumps(model_file(model, Path("model.toml"))).rstrip()),
        ]
    except SpecificationError as reason:
        return [Prose(f"This model has no form as a file. {sentence(str(reason))}")]


def _digests(model: Model) -> Table:
    given = model.arguments
    named = [given[key] for key in ("weights", "offset") if isinstance(given[key], str)]
    used = {*model.design.specs["columns"], *named}
    frame = frame_of(given["data"], [name for name in names_of(given["data"]) if name in used])
    rows = tuple((str(name), f"{len(frame):,}", digest(frame[name])[:16]) for name in frame)
    return Table("", ("column", "rows", "first 16 digits of the digest"), rows)


def _versions() -> tuple[tuple[str, str], ...]:
    found = [(name, installed(name)) for name in PACKAGES] + [("Python", platform.python_version())]
    return tuple((name, number) for name, number in found if number)


def installed(package: str) -> str:
    """The version of a package, empty where it is not there."""
    if package == "bayeslmm":
        from bayeslmm import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def seconds_of(results: Sequence[AnyResult]) -> list[str]:
    """How long each posterior was sampled, where that is known."""
    return [
        f"sampling {result.data.attrs['seconds']:.1f} s"
        for result in results
        if isinstance(result, Posterior) and "seconds" in result.data.attrs
    ]
