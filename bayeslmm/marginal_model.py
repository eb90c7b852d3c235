"""A marginal model of another package, GLM or GEE, as a column beside mixed models of the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslmm.errors import MethodError
from bayeslmm.model import Model

Array = NDArray[np.float64]
# Relative difference of numbers that count as the same column.
SAME = 1e-8
_LINKS: Mapping[str, str] = MappingProxyType(
    {
        "logit": "logit", "probit": "probit", "cloglog": "cloglog", "cauchy": "cauchit", "log": "log", "sqrt": "sqrt",
        "identity": "identity", "inversepower": "inverse", "inversesquared": "inverse_squared",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class MarginalModel:
    """Coefficients of a marginal model, in the order of a mixed model's.

    Parameters
    ----------
    model : Model
        The mixed model of the same rows and columns.
    kind : str
        "GLM" or "GEE".
    correlation : str
        Working correlation of a GEE, "" for a GLM.
    beta, se : ndarray (p,)
    """

    model: Model
    kind: str
    correlation: str
    beta: Array
    se: Array

    @property
    def label(self) -> str:
        """What it is called: "GLM", "GEE (exchangeable)"."""
        return f"{self.kind} ({self.correlation})" if self.correlation else self.kind


def is_marginal(result: Any) -> bool:
    """Whether an object looks like the results of statsmodels' GLM or GEE: params, bse, and a model with endog and exog."""
    model = getattr(result, "model", None)
    return all(hasattr(result, name) for name in ("params", "bse")) and all(
        hasattr(model, name) for name in ("endog", "exog", "family")
    )


def marginal_model(result: Any, model: Model) -> MarginalModel:
    """The results of statsmodels' GLM or GEE beside a mixed model.

    Columns are matched by their numbers, so that names and order are free.

    Parameters
    ----------
    result : object
        With ``params``, ``bse``, ``model.endog``, ``model.exog`` and ``model.family.link``.
    model : Model

    Returns
    -------
    MarginalModel

    Raises
    ------
    MethodError
        Another response, other rows, another link or other columns.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> import statsmodels.api as sm
    >>> data = {"y": [0, 2, 1, 4, 3, 5], "g": list("aabbcc")}
    >>> model = bl.Model("y ~ 1 + (1 | g)", data, family="poisson")
    >>> glm = sm.GLM(data["y"], [[1.0]] * 6, family=sm.families.Poisson()).fit()
    >>> marginal_model(glm, model).beta.round(3).tolist()
    [0.916]
    """
    design, other = model.design, result.model
    kind = "GEE" if hasattr(result, "cov_struct") else "GLM"
    y = design.y / (1.0 if design.trials is None else design.trials)
    endog, exog = np.asarray(other.endog, float), np.asarray(other.exog, float)
    if endog.shape != y.shape or not np.allclose(endog, y, rtol=SAME, atol=SAME):
        raise MethodError(f"the {kind} is of another response or other rows than {model.formula.text!r}")
    link = type(other.family.link).__name__.lower()
    if _LINKS.get(link, link) != model.link:
        raise MethodError(f"the {kind} has the {link} link, {model.formula.text!r} the {model.link} link")
    place = [_place(exog, x) for x in design.fixed.X.T]
    absent = [name for name, at in zip(design.fixed.names, place, strict=True) if at is None]
    if absent or exog.shape[1] != len(place):
        what = f"no column like {', '.join(absent)}" if absent else f"{exog.shape[1]} columns and not {len(place)}"
        raise MethodError(f"the {kind} has {what}: give both models the same fixed part and the same coding")
    correlation = type(result.cov_struct).__name__.lower() if kind == "GEE" else ""
    at = [int(i) for i in place if i is not None]
    return MarginalModel(model, kind, correlation, np.asarray(result.params)[at], np.asarray(result.bse)[at])


def _place(exog: Array, x: Array) -> int | None:
    """The column with the same numbers."""
    size = float(np.abs(x).max()) or 1.0
    found = np.flatnonzero(np.abs(exog - x[:, None]).max(axis=0) <= SAME * size)
    return int(found[0]) if len(found) else None
