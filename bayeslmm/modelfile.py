"""A model file as it stands: TOML text ↔ ModelFile, every key and value checked, nothing loaded."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bayeslmm.errors import SpecificationError
from bayeslmm.stages import Stages

SAMPLER = {"draws": int, "tune": int, "chains": int, "seed": int, "target_accept": float}
MAIN = "main"
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_ABOUT = ("title", "description", "source", "licence", "data")
_TEXT = (*_ABOUT, "formula", "family", "link", "weights", "offset", "missing", "dispersion", "zero")
_TABLES = ("stages", "contrasts", "factors", "sampler", "variants")
_KEYS = (*_TEXT, *_TABLES, "priors")
_VARIANT_KEYS = tuple(key for key in _KEYS if key not in ("variants", "data", "source", "licence"))


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model as its file states it: nothing is loaded, and nothing is checked against the data.

    Attributes
    ----------
    formula : str
        The mixed model formula, given or written from `stages`.
    stages : Stages or None
        The two stages, if the file states those.
    data : str
        CSV or Parquet file, relative to the folder of the model file.
    factors : mapping
        Column -> its levels in order, or ``"sorted"``; such a column is categorical whatever it holds.
    contrasts, priors, sampler : mapping
        Codings of factors; priors by public name, or ``"flat"``; arguments of `bayeslmm.sample`.
    variants : mapping
        Further models of the same data: name -> the keys that differ.
    path : Path
        Where the file was read from.
    """

    formula: str
    path: Path = Path("model.toml")
    title: str = ""
    description: str = ""
    source: str = ""
    licence: str = ""
    data: str = ""
    stages: Stages | None = None
    family: str = "gaussian"
    link: str | None = None
    weights: str | None = None
    offset: str | None = None
    missing: str = "drop"
    dispersion: str | None = None
    zero: str | None = None
    contrasts: Mapping[str, str] = _NOTHING
    factors: Mapping[str, Any] = _NOTHING
    priors: Mapping[str, Any] | str = _NOTHING
    sampler: Mapping[str, Any] = _NOTHING
    variants: Mapping[str, Mapping[str, Any]] = _NOTHING

    def variant(self, name: str | None) -> ModelFile:
        """Return the named variant as a model file of its own; None or ``"main"`` is the file's first model.

        Raises
        ------
        SpecificationError
            If the file has no such variant.
        """
        if name in (None, MAIN):
            return self
        if name not in self.variants:
            raise SpecificationError(f"{self.path}: no variant {name!r}; it has {', '.join([MAIN, *self.variants])}.")
        return replace(self, **_fields(self.variants[name], self.path), variants=_NOTHING)

    @property
    def names(self) -> tuple[str, ...]:
        """``"main"`` and the variants' names."""
        return (MAIN, *self.variants)

    @property
    def data_path(self) -> Path:
        """The data file, from the folder of the model file."""
        return self.path.parent / self.data


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Read a model file without loading its data.

    Parameters
    ----------
    path : path
        A TOML file, or a folder that holds a ``model.toml``.

    Returns
    -------
    ModelFile

    Raises
    ------
    SpecificationError
        If there is no such file, it is not TOML, or a key or value in it is not valid.

    Examples
    --------
    >>> from bayeslmm.modelfile import read
    >>> read("models/sleepstudy").formula
    'Reaction ~ Days + (Days | Subject)'
    """
    place = Path(path)
    place = place / "model.toml" if place.is_dir() else place
    try:
        given = tomllib.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecificationError(f"There is no model file {place}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecificationError(f"{place} cannot be read: {error}.") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecificationError(f"{place} is not valid TOML: {error}.") from error
    return _model_file(given, place)


def _model_file(given: Mapping[str, Any], path: Path) -> ModelFile:
    _refuse_unknown(given, _KEYS, f"{path}")
    if "formula" not in given and "stages" not in given:
        raise SpecificationError(f'{path} states no model; give formula = "y ~ x + (1 | g)", or a [stages] table.')
    return ModelFile(**_fields(given, path), path=path)


def _fields(given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Check the keys of a file or of a variant; return them as fields of `ModelFile`."""
    for key, value in given.items():
        _check_type(key, value, path)
    checked = {key: value for key, value in given.items() if key in _TEXT}
    checked |= {"contrasts": dict(given["contrasts"])} if "contrasts" in given else {}
    checked |= {"factors": _factors(given["factors"], path)} if "factors" in given else {}
    checked |= {"sampler": _sampler(given["sampler"], path)} if "sampler" in given else {}
    checked |= {"priors": _checked_priors(given["priors"], path)} if "priors" in given else {}
    checked |= {"variants": _variants(given["variants"], path)} if "variants" in given else {}
    return checked | _right_side(given, path)


def _right_side(given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if "formula" in given and "stages" in given:
        raise SpecificationError(f"{path} gives both a formula and stages; keep one of them.")
    if "formula" in given:
        return {"formula": " ".join(given["formula"].split()), "stages": None}
    if "stages" not in given:
        return {}
    stages = given["stages"]
    _refuse_unknown(stages, ("first", "second"), f"{path}, [stages]")
    if "first" not in stages:
        raise SpecificationError(f'{path}, [stages]: give the first stage, such as first = "score ~ 1 + ses".')
    read_stages = Stages.read(stages["first"], stages.get("second", {}))
    return {"formula": read_stages.formula(), "stages": read_stages}


def _check_type(key: str, value: Any, path: Path) -> None:
    if key in _TEXT and not isinstance(value, str):
        raise SpecificationError(f"{path}: {key} must be text in quotes; got {value!r}.")
    if key in _TABLES and not isinstance(value, Mapping):
        raise SpecificationError(f"{path}: {key} must be a table, [{key}]; got {value!r}.")
    if key == "contrasts" and not all(isinstance(coding, str) for coding in value.values()):
        raise SpecificationError(f'{path}, [contrasts]: give each column a coding such as "sum"; got {dict(value)!r}.')


def _factors(given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for column, levels in given.items():
        listed = isinstance(levels, list) and levels and all(isinstance(level, str | int) for level in levels)
        if not listed and levels != "sorted":
            raise SpecificationError(
                f'{path}, [factors]: give {column} its levels in order, ["a", "b"], or "sorted"; got {levels!r}.'
            )
        if listed and len({str(level) for level in levels}) < len(levels):
            raise SpecificationError(f"{path}, [factors]: a level of {column} is listed twice: {levels!r}.")
    return {column: levels if levels == "sorted" else tuple(map(str, levels)) for column, levels in given.items()}


def _sampler(given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    _refuse_unknown(given, tuple(SAMPLER), f"{path}, [sampler]")
    for key, value in given.items():
        allowed = (int, float) if SAMPLER[key] is float else (int,)
        if isinstance(value, bool) or not isinstance(value, allowed):
            wanted = "a number" if SAMPLER[key] is float else "a whole number"
            raise SpecificationError(f"{path}, [sampler]: {key} must be {wanted}; got {value!r}.")
    return dict(given)


def _checked_priors(given: Any, path: Path) -> dict[str, Any] | str:
    if given == "flat":
        return "flat"
    if not isinstance(given, Mapping):
        raise SpecificationError(f'{path}: priors is "flat" or a table of priors; got {given!r}.')
    for name, prior in given.items():
        if not isinstance(prior, Mapping) or not isinstance(prior.get("name"), str):
            raise SpecificationError(
                f'{path}, [priors]: write {name} = {{name = "HalfNormal", sigma = 10}}; got {prior!r}.'
            )
    return {name: dict(prior) for name, prior in given.items()}


def _variants(given: Mapping[str, Any], path: Path) -> dict[str, Mapping[str, Any]]:
    for name, keys in given.items():
        where = f"{path}, [variants.{name}]"
        if name == MAIN or not isinstance(keys, Mapping):
            raise SpecificationError(f'{where}: a variant is a table of the keys that differ, and "{MAIN}" is taken.')
        _refuse_unknown(keys, _VARIANT_KEYS, where)
        _fields(keys, path)
    return {name: dict(keys) for name, keys in given.items()}


def _refuse_unknown(given: Mapping[str, Any], valid: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in valid:
            close = difflib.get_close_matches(key, valid, 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise SpecificationError(f"{where}: unknown key {key!r}; {hint}The keys are {', '.join(valid)}.")


def dumps(spec: ModelFile) -> str:
    """Write a model file as TOML text; `read` of it gives the same `ModelFile`, but for `path`.

    Parameters
    ----------
    spec : ModelFile
        What to write; keys at their default are left out.

    Returns
    -------
    str
    """
    defaults = {f.name: f.default for f in fields(ModelFile)}
    text = {key: getattr(spec, key) for key in _TEXT if getattr(spec, key) != defaults[key]}
    tables = {key: getattr(spec, key) for key in ("contrasts", "factors", "sampler", "priors", "variants")}
    if spec.stages is not None:
        del text["formula"]
        tables = {"stages": spec.stages.as_text(), **tables}
    if isinstance(spec.priors, str):
        text["priors"] = tables.pop("priors")
    return "\n".join(_lines({**text, **{key: value for key, value in tables.items() if value}}, ())) + "\n"


def _lines(given: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    """Write a table's own keys, then its subtables; tables of priors go inline."""
    inline = place[-1:] == ("priors",) or "second" in place
    tables = {key: value for key, value in given.items() if isinstance(value, Mapping) and not inline}
    for key, value in given.items():
        if key not in tables:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in tables.items():
        nested = all(isinstance(part, Mapping) for part in value.values()) and key in ("second", "variants")
        if not nested:
            yield f"\n[{'.'.join(map(_key, (*place, key)))}]"
        yield from _lines_of_tables(value, (*place, key)) if nested else _lines(value, (*place, key))


def _lines_of_tables(given: Mapping[str, Any], place: tuple[str, ...]) -> Iterator[str]:
    for key, value in given.items():
        yield f"\n[{'.'.join(map(_key, (*place, key)))}]"
        yield from _lines(value, (*place, key))


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{_escaped(key)}"'


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        lines = [_escaped(line) for line in value.split("\n")]
        return f'"{lines[0]}"' if len(lines) == 1 else '"""\n' + "\n".join(lines) + '"""'
    if isinstance(value, int | float):
        return repr(int(value) if isinstance(value, int) else float(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    raise SpecificationError(f"{value!r} cannot be written to a model file.")
