"""Curves of the response along a predictor: for the groups of the data, for the median group, and for the mean of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.averaging import whole
from bayeslmm.errors import MethodError
from bayeslmm.family import family_of
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.grid import grid
from bayeslmm.predict import predict

Array = NDArray[np.float64]
POINTS = 41


@dataclass(frozen=True, eq=False)
class ResponseCurves:
    """Curves of the response along one predictor, all else at the reference grid's first cell.

    Parameters
    ----------
    of : str
        The predictor.
    table : DataFrame
        By its value: median (random effects 0), mean (averaged over new groups), each with lower and upper.
    individuals : DataFrame
        By its value, a column for each level of the first group: given that level's effects.
    response, group : str
    notes : tuple of str
        Where the other predictors are.
    """

    of: str
    table: pd.DataFrame
    individuals: pd.DataFrame
    response: str
    group: str
    notes: tuple[str, ...]

    def plot(self) -> Any:
        """Individuals thin, the median group and the mean of all groups thick, with their intervals."""
        from bayeslmm.plot.generalized import curves as draw

        return draw(self)


def response_curves(fit: Any, of: str, at: Mapping[str, Any] | None = None) -> ResponseCurves:
    """Follow the response along a predictor, for each group, for the median group and for the mean of all groups.

    The median group has random effects 0: g⁻¹(xβ). The mean is E g⁻¹(xβ + z'u), nearer to one half for a probability.
    Neither is the curve of any one individual. Zeros of their own are included; intervals are those of `bl.predict`.

    Parameters
    ----------
    fit : GeneralizedFit
    of : str
        A numeric predictor.
    at : mapping, optional
        Values of the other predictors; by default covariates are at their means and factors at their first levels.

    Returns
    -------
    ResponseCurves
        ``.table``, ``.individuals``, ``.plot()``.

    Raises
    ------
    MethodError
        Not a generalized fit with groups, or a predictor without a slope.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [0, 2, 1, 4, 3, 5, 0, 1], "x": [0, 1, 0, 1, 2, 3, 0, 2], "g": list("aabbccdd")}
    >>> fit = bl.fit(bl.Model("y ~ x + (1 | g)", data, family="poisson"))
    >>> bl.response_curves(fit, "x").individuals.shape
    (41, 4)
    """
    if not isinstance(fit, GeneralizedFit) or not fit.model.groups:
        raise MethodError(f"response curves are of generalized fits with groups; got {type(fit).__name__}")
    model = fit.model
    whole = grid(model, [], at)
    found = {p.name: p for p in whole.predictors}
    if of not in found or not found[of].numeric:
        raise MethodError(f"{of!r} is no numeric predictor of {model.formula.text!r}")
    seen = whole.data[of].to_numpy(float)
    x = np.linspace(seen.min(), seen.max(), POINTS)
    others = {name: whole.cells[name].iloc[0] for name in whole.cells if name != of}
    frame = pd.DataFrame({name: [value] * POINTS for name, value in others.items()} | {of: x})
    group = model.groups[0]
    columns = {name for part in model.formula.random for name in part.group}
    if "offset" in model.formula.text:
        raise MethodError("response curves of a formula with an offset have no one exposure; use bl.predict")
    new = frame.assign(**dict.fromkeys(columns - set(frame), "(new)"))
    parts: dict[str, pd.Series] = {}
    for name, groups in (("median", "population"), ("mean", "new")):
        own = predict(fit, new, groups=groups)  # type: ignore[arg-type]
        parts |= {name: own["mean"], f"{name}_lower": own["lower"], f"{name}_upper": own["upper"]}
    index = pd.Index(x, name=of)
    table = pd.DataFrame({name: values.to_numpy() for name, values in parts.items()}, index=index)
    individuals = _individuals(fit, frame, group).set_axis(index)
    said = tuple(
        f"{name} at {value:.5g}" if isinstance(value, float) else f"{name} {value}" for name, value in others.items()
    )
    return ResponseCurves(of, table, individuals, model.design.response, group, said)


def _individuals(fit: GeneralizedFit, frame: pd.DataFrame, group: str) -> pd.DataFrame:
    """Means of the response for each level of a group, the effects of other groups 0."""
    model = fit.model
    fixed = predict(fit, frame, groups="population", kind="link", interval=None)["mean"].to_numpy()
    encoded = model.design.encode(frame.assign(**{name: "(new)" for p in model.formula.random for name in p.group}))
    own = [t for t, term in enumerate(model.design.random) if term.group == group]
    z = np.column_stack([encoded.columns[t] for t in own])
    eta = fixed[:, None] + z @ fit.group_ranef[group].T
    rows = np.repeat(np.arange(len(frame)), eta.shape[1])
    with np.errstate(divide="ignore"):
        aux, zero = np.log(fit.dispersions_at(frame)), fit.zero_probability_at(frame)
        zeta = np.log(zero) - np.log1p(-zero)
    found = whole(family_of(model.family), model.link, eta.ravel(), np.zeros(eta.size), aux[rows], zeta[rows]).mean
    return pd.DataFrame(found.reshape(eta.shape), columns=list(model.levels(group)))
