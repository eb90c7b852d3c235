"""Results and tables → plain records of names, numbers and lists, and JSON at full precision."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from bayeslmm.model import Model
    from bayeslmm.posterior import Posterior
    from bayeslmm.result import PointFit

_FIT = ("method", "loglik", "logposterior", "deviance", "aic", "bic", "df", "converged", "message", "singular", "theta")


def model_record(model: Model) -> dict[str, Any]:
    """What a model is, and how large."""
    design = model.design
    return {
        "formula": model.formula.text,
        "family": model.family,
        "nobs": design.nobs,
        "rows_dropped": design.n_dropped,
        "coefficients": list(design.fixed.names),
        "coefficients_dropped": list(design.fixed.dropped),
        "groups": {group: len(model.levels(group)) for group in model.groups},
    }


def fit_record(fit: PointFit) -> dict[str, Any]:
    """A point fit: criteria, convergence and estimates."""
    return {key: getattr(fit, key) for key in _FIT} | {"fixed": dict(fit.fixed)} | _estimates(fit)


def posterior_record(post: Posterior) -> dict[str, Any]:
    """A posterior: ArviZ's summary, diagnostics and means; the draws themselves are in its own file."""
    summary, diagnostics = table_record(post.summary()), asdict(post.diagnostics)
    return {"route": post.route, "summary": summary, "diagnostics": diagnostics} | _estimates(post)


def _estimates(result: PointFit | Posterior) -> dict[str, Any]:
    """The quantities that every result has."""
    return {
        "fixef": result.fixef.to_dict(),
        "se": result.se.to_dict(),
        "sd": {group: sd.to_dict() for group, sd in result.sd.items()},
        "corr": {group: corr.to_dict() for group, corr in result.corr.items() if len(corr) > 1},
        **_noise(result),
        "ranef": {group: effects.to_dict("index") for group, effects in result.ranef.items()},
    }


def _noise(result: PointFit | Posterior) -> dict[str, Any]:
    """σ of a Gaussian model; of another family its dispersion, and the coefficients for dispersion and zeros."""
    if result.has_residual:
        return {"sigma": result.sigma}
    further = getattr(result, "further_fixef", {})
    found = {name: frame["estimate"].to_dict() for name, frame in further.items()}
    name = result.model.dispersion
    constant = {} if name is None or "dispersion" in further else {name: result.dispersion}  # type: ignore[union-attr]
    return constant | ({"further": found} if found else {})


def table_record(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows by column, those under a two-level heading nested; an index that labels the rows is the first column."""
    numbered = list(frame.index) == list(range(len(frame)))
    whole = frame if numbered else frame.rename_axis(index=[name or "name" for name in frame.index.names]).reset_index()
    rows: list[dict[str, Any]] = [{} for _ in range(len(whole))]
    for j, name in enumerate(whole.columns):
        outer, inner = name if isinstance(name, tuple) else (name, "")
        for row, value in zip(rows, whole.iloc[:, j], strict=True):
            (row.setdefault(outer, {}) if inner else row)[inner or outer] = value
    return rows


def to_json(record: Any) -> str:
    """JSON text: every digit of a number, null for one that is not finite.

    Parameters
    ----------
    record : mapping, sequence, number or text
        NumPy's arrays and numbers are taken as Python's.

    Returns
    -------
    str

    Examples
    --------
    >>> import numpy as np
    >>> print(to_json({"theta": np.array([0.1, np.nan])}))
    {
      "theta": [
        0.1,
        null
      ]
    }
    """
    return json.dumps(_plain(record), ensure_ascii=False, indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON's own types: NumPy's arrays and numbers as Python's, what is not finite as None."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
