"""A model file (TOML) ↔ Model: the file's data read, its factors declared, its priors made."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bayeslmm.errors import DataError, MissingPackageError, SpecificationError
from bayeslmm.modelfile import ModelFile, dumps, read

if TYPE_CHECKING:
    import pandas

    from bayeslmm.model import Model

__all__ = ["ModelFile", "load", "read", "read_table", "save", "table"]


def load(path: str | os.PathLike[str], data: Any = None, variant: str | None = None) -> Model:
    """Build the model that a file states.

    Parameters
    ----------
    path : path
        A TOML file, or a folder that holds a ``model.toml``.
    data : table or path, optional
        Table, CSV file or Parquet file to use in place of the file's own data.
    variant : str, optional
        Name of one of the file's further models.

    Returns
    -------
    Model

    Raises
    ------
    SpecificationError
        If the file cannot be read, or lacks the variant.
    DataError
        If the data cannot be read, or a declared column or level is missing.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> model = bl.load("models/sleepstudy/model.toml")
    >>> model.X.shape
    (180, 2)
    """
    from bayeslmm.model import Model

    spec = read(path).variant(variant)
    options = {
        "family": spec.family,
        "link": spec.link,
        "priors": _priors(spec.priors),
        "weights": spec.weights,
        "offset": spec.offset,
        "contrasts": dict(spec.contrasts) or None,
        "missing": spec.missing,
        "dispersion": spec.dispersion,
        "zero": spec.zero,
    }
    frame = _with_ordered_response(spec, table(spec, data))
    if spec.stages is None:
        return Model(spec.formula, frame, **options)
    return Model.from_stages(**spec.stages.as_text(), data=frame, **options)


def _with_ordered_response(spec: ModelFile, data: Any) -> Any:
    """The table; of a cumulative model a response with declared levels is ordered as they are."""
    name = spec.formula.partition("~")[0].strip().strip("`")
    if spec.family != "cumulative" or name not in spec.factors:
        return data
    return data.assign(**{name: data[name].cat.as_ordered()})


def save(model: Model, path: str | os.PathLike[str], **about: Any) -> Path:
    """Write a model as a model file, and its data as a CSV file of the same name beside it.

    Parameters
    ----------
    model : Model
        What to write; the columns that it uses are kept.
    path : path
        The TOML file; a file that is there is replaced.
    **about
        Further keys of the file: ``title``, ``description``, ``source``, ``licence``, ``sampler``.

    Returns
    -------
    Path
        The TOML file; `load` of it gives the same model.

    Raises
    ------
    SpecificationError
        If something in the model has no text form, such as weights given as an array.
    DataError
        If CSV cannot keep the data as they are.

    Examples
    --------
    >>> import tempfile, bayeslmm as bl
    >>> from bayeslmm.spec import save
    >>> model = bl.Model("y ~ 1 + (1 | g)", {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bl.load(save(model, folder + "/small.toml")).formula.text
    'y ~ 1 + (1 | g)'
    """
    place = Path(path)
    spec = model_file(model, place, **about)
    frame = _columns(model)
    written = dumps(spec)
    frame.to_csv(spec.data_path, index=False)
    place.write_text(written, encoding="utf-8")
    if table(read(place)).isna().to_numpy().sum() != frame.isna().to_numpy().sum():
        raise DataError(f"{spec.data_path} reads back with other missing values; rename levels such as 'NA' or 'null'.")
    return place


def model_file(model: Model, place: Path, **about: Any) -> ModelFile:
    """What a model file at `place` says of a model, its data a CSV file beside it.

    Raises
    ------
    SpecificationError
        If something in the model has no text form.
    """
    given, frame = model.arguments, _columns(model)
    names = [key for key in ("weights", "offset", "dispersion", "zero") if given[key] is not None]
    text = {key: given[key] for key in ("family", "link", "missing", *names)}
    return ModelFile(
        formula=model.formula.text,
        path=place,
        data=place.with_suffix(".csv").name,
        stages=model.stages,
        contrasts=dict(given["contrasts"] or {}),
        factors={name: _declared(frame[name]) for name in frame if not _is_plain(frame[name])},
        priors=_as_tables(given["priors"]),
        **text,
        **about,
    )


def _columns(model: Model) -> pandas.DataFrame:
    """The columns of the table that a model uses."""
    from bayeslmm.columns import frame_of, names_of

    given = model.arguments
    named = {key: given[key] for key in ("weights", "offset") if given[key] is not None}
    for key, value in named.items():
        if not isinstance(value, str):
            raise SpecificationError(f"{key} is an array, which a file cannot name; put it into a column of the data.")
    used = {*model.design.specs["columns"], *named.values()}
    return frame_of(given["data"], [name for name in names_of(given["data"]) if name in used])


def _is_plain(column: pandas.Series) -> bool:
    """Say whether a CSV file keeps the column's type: numbers and booleans."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return is_numeric_dtype(column) or is_bool_dtype(column)


def _declared(column: pandas.Series) -> Any:
    """Return the levels of a text or categorical column in the order that the model uses, or "sorted"."""
    levels = column.cat.categories if hasattr(column, "cat") else sorted(column.dropna().unique())
    labels = tuple(map(_label, levels))
    return "sorted" if labels == tuple(sorted(labels, key=_sort_key)) else labels


def _as_tables(priors: Any) -> dict[str, Any] | str:
    if isinstance(priors, str):
        return priors
    return {name: {"name": prior.name, **prior.args} for name, prior in (priors or {}).items()}


def table(spec: ModelFile, data: Any = None) -> Any:
    """Return the data of a model file, or the table or file given in their place, with its declared factors."""
    if data is None and not spec.data:
        raise DataError(f'{spec.path} names no data; add a line such as data = "data.csv", or pass data=.')
    if data is None and not spec.data_path.is_file():
        origin = f" Where the data come from: {' '.join(spec.source.split())}" if spec.source else ""
        raise DataError(f"There is no data file {spec.data_path}: put it there, or give the data with data=.{origin}")
    if data is None or isinstance(data, str | os.PathLike):
        data = read_table(spec.data_path if data is None else Path(data), spec.factors)
    return _with_factors(data, spec.factors) if spec.factors else data


def data_size(spec: ModelFile) -> tuple[int, int] | None:
    """Return rows and columns of a model file's data, or None where they are not there."""
    return read_table(spec.data_path).shape if spec.data and spec.data_path.is_file() else None


def read_table(path: Path, factors: Mapping[str, Any] = MappingProxyType({})) -> pandas.DataFrame:
    """Read a CSV or Parquet file; declared factors in a CSV are read as the text that stands there."""
    import pandas

    if not path.is_file():
        raise DataError(f"There is no data file {path}; give the data with data=, or correct `data` in the model file.")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pandas.read_parquet(path)
        if path.suffix.lower() == ".csv":
            return pandas.read_csv(path, dtype=dict.fromkeys(factors, "object"))
    except ImportError as error:
        raise MissingPackageError(f"{path}: reading Parquet needs a further package; pip install pyarrow.") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    raise DataError(f"{path}: data files end in .csv or .parquet.")


def _with_factors(data: Any, factors: Mapping[str, Any]) -> pandas.DataFrame:
    """Return the table as pandas, its declared factors categorical with levels in the declared order."""
    from bayeslmm.columns import frame_of, names_of

    frame = frame_of(data, [*names_of(data), *factors])
    return frame.assign(**{column: _factor(frame[column], column, levels) for column, levels in factors.items()})


def _factor(column: pandas.Series, name: str, declared: Any) -> pandas.Categorical:
    import pandas

    text = column.map(_label, na_action="ignore")
    present = list(text.dropna().unique())
    levels = sorted(present, key=_sort_key) if declared == "sorted" else [_label(level) for level in declared]
    unknown = sorted(set(present) - set(levels), key=_sort_key)
    if unknown:
        raise DataError(f"Column {name!r} holds {unknown[0]!r}; its declared levels are {', '.join(levels)}.")
    return pandas.Categorical(text, categories=[level for level in levels if level in set(present)])


def _label(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _sort_key(label: str) -> tuple[float, str]:
    """Numbers before text, and by value."""
    number = re.fullmatch(r"[+-]?\d+(\.\d*)?", label)
    return (float(label) if number else math.inf, label)


def _priors(given: Mapping[str, Any] | str) -> Any:
    if isinstance(given, str):
        return given
    from bayeslmm.priors import Prior

    named = {name: dict(prior) for name, prior in given.items()}
    return {name: Prior(prior.pop("name"), **prior) for name, prior in named.items()} or None
