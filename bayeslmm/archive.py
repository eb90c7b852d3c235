"""A point fit ↔ a JSON file that any language reads: the model, its data, and every number to the last bit."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import bayeslmm
from bayeslmm.columns import frame_of, names_of
from bayeslmm.errors import DataError, MethodError, SpecificationError
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.model import Model
from bayeslmm.optimise import Optimum
from bayeslmm.priors import Prior
from bayeslmm.quasi import QuasiFit, working_model
from bayeslmm.result import PointFit

FORMAT = 1
ARRAYS = ("theta", "beta", "beta_root")
GENERALIZED = ("information", "nodes")
OPTIMUM = ("theta", "gradient", "hessian", "free")
OPTIONS = ("family", "link", "weights", "offset", "contrasts", "missing", "dispersion", "zero")


def save_fit(fit: PointFit, path: str | os.PathLike[str], *, data: bool = True) -> Path:
    """Write a point fit to a JSON file.

    Numbers are written so that they read back to the same bit. Beside what `load_fit` needs the file holds the
    coefficients' names and covariance and the effects of every level, for readers in other languages.

    Parameters
    ----------
    fit : PointFit
        A fit of any family.
    path : path
        The file; one that is there is replaced.
    data : bool
        Whether to store the columns that the model uses. If not, `load_fit` has to be given them; the file keeps a
        digest (SHA-256) of each column either way.

    Returns
    -------
    Path

    Examples
    --------
    >>> import tempfile, bayeslmm as bl
    >>> fit = bl.fit(bl.load("models/sleepstudy"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bl.load_fit(bl.save_fit(fit, folder + "/fit.json")).loglik == fit.loglik
    True
    """
    model = fit.model
    frame = _columns(model, model.arguments["data"])
    record: dict[str, Any] = {
        "format": FORMAT,
        "bayeslmm": bayeslmm.__version__,
        "model": _model(model),
        "fit": _fit(fit),
        "read_only": {
            "coefficients": list(model.design.fixed.names),
            "vcov": fit.beta_covariance.tolist(),
            "theta_names": list(model.theta_names),
            "levels": {group: list(model.levels(group)) for group in model.groups},
            "effects": {group: list(model.effects(group)) for group in model.groups},
            "ranef": {group: values.tolist() for group, values in fit.group_ranef.items()},
        },
        "digest": {name: digest(frame[name]) for name in frame},
        "data": {name: _stored(frame[name]) for name in frame} if data else None,
    }
    place = Path(path)
    place.write_text(json.dumps(record, ensure_ascii=False, indent=1, default=_plain), encoding="utf-8")
    return place


def load_fit(path: str | os.PathLike[str], data: Any = None) -> PointFit:
    """Read a point fit that `save_fit` wrote.

    Parameters
    ----------
    path : path
        The file.
    data : table, optional
        The data of the fit, where the file does not hold them; otherwise used in place of those.

    Returns
    -------
    PointFit

    Raises
    ------
    SpecificationError
        No such file, or one that this version cannot read.
    DataError
        The data differ from those of the fit; names the column.
    MethodError
        The file holds no data and none are given.
    """
    record = _read(Path(path))
    given = record["model"]
    if data is None and record["data"] is None:
        raise MethodError(f"{path} holds no data; give them: bl.load_fit({os.fspath(path)!r}, data)")
    table = pd.DataFrame({name: _restored(c) for name, c in record["data"].items()}) if data is None else data
    _check_digest(record["digest"], table, path)
    options = {key: given.get(key) for key in OPTIONS} | {"priors": _priors(given["priors"])}
    if given["stages"] is None:
        model = Model(given["formula"], table, **options)
    else:
        model = Model.from_stages(**given["stages"], data=table, **options)
    if list(model.design.fixed.names) != record["read_only"]["coefficients"]:
        raise SpecificationError(
            f"{path}: {given['formula']!r} now has the coefficients {', '.join(model.design.fixed.names)}, the fit has "
            f"{', '.join(record['read_only']['coefficients'])}; read it with bayeslmm {record['bayeslmm']}"
        )
    return _fit_of(model, record["fit"])


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecificationError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise SpecificationError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(record, dict) or "format" not in record or "fit" not in record:
        raise SpecificationError(f"{path} is not a fit that bl.save_fit wrote")
    if record["format"] != FORMAT:
        raise SpecificationError(
            f"{path} has format {record['format']}, this version reads {FORMAT}: read it with bayeslmm "
            f"{record.get('bayeslmm')}, or fit the model again"
        )
    return record


def _model(model: Model) -> dict[str, Any]:
    given, priors = model.arguments, model.arguments["priors"]
    if isinstance(priors, Mapping):
        own = {key: Prior.of(value) for key, value in priors.items()}
        priors = {key: {"name": prior.name, **prior.args} for key, prior in own.items()}
    arrays = {
        key: v if v is None or isinstance(v, str | dict) else np.asarray(v).tolist()
        for key, v in given.items()
        if key in ("weights", "offset")
    }
    stages = model.stages.as_text() if model.stages is not None else None
    kept = {key: given[key] for key in OPTIONS} | arrays
    return {"formula": model.formula.text, "stages": stages, "priors": priors} | kept


def _priors(given: Any) -> Any:
    return {key: Prior.of(value) for key, value in given.items()} if isinstance(given, Mapping) else given


def _fit(fit: PointFit) -> dict[str, Any]:
    optimum = fit.optimum
    said = {key: getattr(optimum, key) for key in ("value", "converged", "message", "evaluations")}
    return {
        "method": fit.method,
        **{name: getattr(fit, name).tolist() for name in ARRAYS},
        "sigma": fit.sigma,
        "loglik": _known(fit.loglik),
        "logposterior": fit.logposterior,
        "fixed": dict(fit.fixed),
        "optimum": said | {name: getattr(optimum, name).tolist() for name in OPTIMUM},
    } | _own(fit)


def _own(fit: PointFit) -> dict[str, Any]:
    """What only a generalized fit has; of one by quasi-likelihood also its working model's response, weights and fit."""
    if not isinstance(fit, GeneralizedFit):
        return {}
    own = {name: getattr(fit, name) for name in GENERALIZED}
    own |= {"dispersion": _known(fit.dispersion), "further": fit.further.tolist()}
    if not isinstance(fit, QuasiFit):
        return own
    design = fit.last.model.design
    return own | {"z": design.y.tolist(), "w": np.asarray(design.weights).tolist(), "working": _fit(fit.last)}


def _fit_of(model: Model, record: Mapping[str, Any]) -> PointFit:
    p, found = len(model.design.fixed.names), dict(record["optimum"])
    m = len(found["theta"])
    shapes = {"theta": (m,), "gradient": (m,), "hessian": (m, m), "free": (m,)}
    found |= {k: np.array(found[k], bool if k == "free" else float).reshape(shape) for k, shape in shapes.items()}
    common: dict[str, Any] = {
        "model": model,
        "method": record["method"],
        "theta": np.array(record["theta"], float),
        "sigma": record["sigma"],
        "beta": np.array(record["beta"], float),
        "beta_root": np.array(record["beta_root"], float).reshape(-1, p),
        "loglik": _number(record["loglik"]),
        "logposterior": record["logposterior"],
        "optimum": Optimum(**found),
        "fixed": record["fixed"],
    }
    if model.family == "gaussian":
        return PointFit(**common)
    common |= {name: record[name] for name in GENERALIZED}
    common |= {"dispersion": _number(record["dispersion"]), "further": np.array(record["further"], float)}
    if record["method"] != "PQL":
        return GeneralizedFit(**common)
    working = working_model(model, np.array(record["z"], float), np.array(record["w"], float))
    return QuasiFit(**common, working=_fit_of(working, record["working"]))


def _known(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return None if np.isnan(value) else value


def _number(stored: float | None) -> float:
    return float("nan") if stored is None else stored


def _columns(model: Model, data: Any) -> pd.DataFrame:
    """The columns that the model uses."""
    named = [model.arguments[key] for key in ("weights", "offset") if isinstance(model.arguments[key], str)]
    used = {*model.design.specs["columns"], *named}
    return frame_of(data, [name for name in names_of(data) if name in used])


def _stored(column: pd.Series) -> dict[str, Any]:
    """A column as JSON: its kind, its values (null where missing), a factor's levels."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = column.cat.categories.tolist()
        return {"kind": "factor", "levels": levels, "ordered": column.cat.ordered, "values": column.cat.codes.tolist()}
    kind = {"f": "float", "i": "integer", "u": "integer", "b": "boolean"}.get(column.dtype.kind, "text")
    return {"kind": kind, "values": [None if pd.isna(value) else value for value in column.tolist()]}


def _restored(stored: Mapping[str, Any]) -> Any:
    if stored["kind"] == "factor":
        return pd.Categorical.from_codes(stored["values"], stored["levels"], ordered=stored["ordered"])
    kinds = {"float": float, "integer": np.int64, "boolean": bool}
    return pd.Series(stored["values"], dtype=kinds.get(stored["kind"], object))


def digest(column: pd.Series) -> str:
    """SHA-256 of a column's values, the same for whole numbers stored as integers or as floats.

    Parameters
    ----------
    column : Series

    Returns
    -------
    str

    Examples
    --------
    >>> import pandas as pd
    >>> digest(pd.Series([1, 2])) == digest(pd.Series([1.0, 2.0]))
    True
    """
    if column.dtype.kind in "fiub":
        content = np.ascontiguousarray(column.to_numpy(), "<f8").tobytes()
    else:
        values = [None if pd.isna(value) else value for value in column.tolist()]
        levels = column.cat.categories.tolist() if isinstance(column.dtype, pd.CategoricalDtype) else None
        content = json.dumps([values, levels], default=_plain).encode()
    return hashlib.sha256(content).hexdigest()


def _check_digest(known: Mapping[str, str], table: Any, path: Any) -> None:
    frame = frame_of(table, known)
    for name, expected in known.items():
        if digest(frame[name]) != expected:
            raise DataError(f"column {name!r} is not that of the fit in {path}: its values, or their order, differ")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
