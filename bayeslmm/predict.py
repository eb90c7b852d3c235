"""Predictions for fitted or new rows, with the uncertainty of the coefficients and the effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.categories import Located, categories_over_draws, check_kind, predicted_categories
from bayeslmm.columns import frame_of, nrows
from bayeslmm.errors import DataError, MethodError, UnseenLevelError
from bayeslmm.exact.factor import back_solve, times_lambda
from bayeslmm.exact.gaussian import marginal
from bayeslmm.exact.leverage import leverage
from bayeslmm.family import family_of
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.generalized_predict import Parts, Predictor, check_part, predicted, predicted_parts, uncertainty
from bayeslmm.model import Model
from bayeslmm.population import over_all
from bayeslmm.population import variance as variance_of
from bayeslmm.posterior_predict import Draws, over_draws
from bayeslmm.quasi import QuasiFit
from bayeslmm.result import PointFit, Result

if TYPE_CHECKING:
    from bayeslmm.posterior import Posterior

Array = NDArray[np.float64]
Index = NDArray[np.int64]
KINDS = ("mean", "response", "link", "conditional", "zero", "dispersion", "probabilities")


def predict(
    result: Result,
    data: Any = None,
    *,
    groups: Literal["conditional", "population", "new"] = "conditional",
    interval: float | None = 0.95,
    kind: Literal["mean", "response", "link", "conditional", "zero", "dispersion", "probabilities"] = "mean",
    unseen: Literal["error", "new"] = "error",
    seed: Any = None,
    weights: str | float | Sequence[float] | None = None,
    offset: str | float | Sequence[float] | None = None,
) -> pd.DataFrame:
    """Predict the response on the scale of the formula's left side.

    For a row with fixed columns x and random-effect columns z the prediction is ``offset + x'β̂ + z'û``. Its standard
    error at a point fit is that of ``x'(β̂ − β) + z'(û − u)`` given θ and σ::

        σ² z'ΛM⁻¹Λ'z + (x − U'z)' V (x − U'z),     U = ΛM⁻¹Λ'Z'WX,  V = Var β̂

    and an effect that is integrated over adds ``z'Σz``. Intervals are normal for a point fit; for a posterior they are
    equal-tailed quantiles over its draws.

    Parameters
    ----------
    result : PointFit or Posterior
        What was fitted.
    data : table, optional
        New rows with the predictors; without it the rows of the fit.
    groups : {"conditional", "population", "new"}
        Known groups with their own effects; every effect 0; or every group a new one, its effects integrated over.
    interval : float or None
        Probability of the interval; None leaves it out.
    kind : {"mean", "response", "link", "conditional", "zero", "dispersion", "probabilities"}
        The mean of the response; or a new observation of it, which adds the residual variance σ²/w (Gaussian models); or
        the linear predictor. For another family than the Gaussian ``"mean"`` is g⁻¹(η), and averaged over the effects
        that are integrated over, E g⁻¹(η); with ``groups="population"`` g⁻¹(Xβ), which is its median. In a family with
        zeros of their own it is the mean of all responses, ``"conditional"`` that of the responses without such a zero
        (of a hurdle: of the positive ones), ``"zero"`` the probability of one; ``"dispersion"`` is the family's dispersion.
        Ordered categories have ``"probabilities"``, and no mean.
        Where a model has a formula for dispersion or zeros, standard errors are by the delta method over all parameters,
        θ included, and the effects (as glmmTMB's).
    unseen : {"error", "new"}
        What ``groups="conditional"`` does with a level that was not fitted: refuse it, or integrate over its effects.
    seed : int or Generator, optional
        For a posterior: the effects of new groups and the residuals behind the quantiles. Rows with the same new level
        share its effects; mean and standard error do not depend on it.
    weights : str, float or array, optional
        Prior weights of new rows, for ``kind="response"``; by default the column that was given to the model.
    offset : str, float or array, optional
        Addend of new rows besides the formula's offsets; by default the column that was given to the model.

    Returns
    -------
    DataFrame
        Columns `mean`, `se` and, with an interval, `lower` and `upper`; of probabilities blocks of a column per category.

    Raises
    ------
    UnseenLevelError, DataError
        A level that was not fitted, with its grouping factor; a column that is absent or cannot be used.
    MethodError
        An option that has no meaning here.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", data))
    >>> bl.predict(fit, {"g": ["a", "z"]}, unseen="new", interval=None)["mean"].round(3).tolist()
    [1.702, 3.75]
    """
    _check(result, groups, kind, unseen)
    tail = _tail(interval)
    response = kind == "response"
    if response and family_of(result.model.family).plain != "gaussian":
        raise MethodError('kind="response" is for Gaussian models; bl.simulate(fit, data=...) draws new responses')
    check_part(result, kind)
    check_kind(result.model, kind)
    if weights is not None and not response:
        raise MethodError('weights matter to a new observation only; add kind="response" or leave weights out')
    random = groups != "population" and kind not in ("zero", "dispersion")
    rows = rows_of(result.model, data, weights=weights, offset=offset, random=random, weighted=response)
    if groups == "new":
        unknown = {name: group._replace(codes=np.full_like(group.codes, -1)) for name, group in rows.groups.items()}
        rows = rows._replace(groups=unknown)
    elif unseen == "error":
        _refuse_unseen(rows)
    if isinstance(result, GeneralizedFit):
        return _generalized(result, rows, tail, kind, data)
    if isinstance(result, PointFit):
        return _at_point(result, rows, tail, response)
    posterior, rng = cast("Posterior", result), generator(seed)
    if kind == "probabilities":
        draws = Draws(posterior, rows, kind, entropy=0, data=data)
        return categories_over_draws(posterior, draws.predictor, rows.index, tail)
    return over_draws(posterior, rows, tail, kind, rng, data)


def _check(result: Any, groups: str, kind: str, unseen: str) -> None:
    if not isinstance(result, Result):
        raise MethodError(f"predict takes a PointFit or a Posterior, not {type(result).__name__}; fit or sample first")
    choices = {"groups": ("conditional", "population", "new"), "kind": KINDS, "unseen": ("error", "new")}
    for name, value in (("groups", groups), ("kind", kind), ("unseen", unseen)):
        if value not in choices[name]:
            raise MethodError(f"{name}={value!r} is not known; use " + " or ".join(repr(c) for c in choices[name]))


def _tail(interval: Any) -> float | None:
    if interval is None:
        return None
    if isinstance(interval, bool) or not isinstance(interval, int | float) or not 0 < interval < 1:
        raise MethodError(f"interval={interval!r} must be a probability between 0 and 1, such as 0.95, or None")
    return 0.5 * (1.0 - interval)


def generator(seed: Any) -> np.random.Generator:
    """A generator from whatever NumPy takes as a seed."""
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise MethodError(f"seed={seed!r} cannot seed a generator: {error}") from error


class GroupRows(NamedTuple):
    """Random-effect columns (n, k) of one group, level codes (n,), -1 where not fitted, and the levels (n,)."""

    columns: Array
    codes: NDArray[np.intp]
    labels: NDArray[np.str_]


class Rows(NamedTuple):
    """Rows of the fit or new rows, in the columns of the model: each group's terms side by side."""

    index: pd.Index
    X: Array
    offset: Array
    weights: Array | None
    groups: Mapping[str, GroupRows]


def rows_of(
    model: Model, data: Any, *, weights: Any = None, offset: Any = None, random: bool = True, weighted: bool = True
) -> Rows:
    """The rows of the fit (data=None) or new rows, with offset and, if `weighted`, weights."""
    if data is not None:
        return _new_rows(model, data, weights, offset, random, weighted)
    for name, value in (("weights", weights), ("offset", offset)):
        if value is not None:
            raise MethodError(f"the rows of the fit keep their own {name}; give data= to change {name}")
    design = model.design
    labels = [np.asarray(term.levels)[term.codes] for term in design.random if random]
    groups = _merged(model, [term.columns for term in design.random], [term.codes for term in design.random], labels)
    known = np.zeros(design.nobs) if design.offset is None else design.offset
    return Rows(pd.Index(design.rows), design.fixed.X, known, design.weights if weighted else None, groups)


def _merged(model: Model, columns: Any, codes: Any, labels: Any) -> dict[str, GroupRows]:
    """Columns, codes and labels of each term, by group; no group without labels."""
    groups = {}
    for group in model.groups if labels else ():
        terms = [t for t, term in enumerate(model.design.random) if term.group == group]
        groups[group] = GroupRows(np.column_stack([columns[t] for t in terms]), codes[terms[0]], labels[terms[0]])
    return groups


def _new_rows(model: Model, data: Any, weights: Any, offset: Any, random: bool, weighted: bool) -> Rows:
    count = nrows(data)
    if count == 0:
        raise DataError("the new data have no rows")
    new = model.design.encode(data, random=random)
    extra = _given("offset", offset, model, data, count)
    w = _given("weights", weights, model, data, count) if weighted else None
    if w is not None and w.min() <= 0:
        raise DataError(f"weights must be positive; row {int(w.argmin())} has {w.min():g}")
    index = data.index if isinstance(data, pd.DataFrame) else pd.RangeIndex(count)
    known = new.offset + (0.0 if extra is None else extra)
    return Rows(index, new.X, known, w, _merged(model, new.columns, new.codes, new.labels))


def _given(name: str, value: Any, model: Model, data: Any, count: int) -> Array | None:
    """Offset or weights of new rows: as given, else from the column that the model was given."""
    if value is None:
        value = model.arguments.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise MethodError(
                f"the model was given its {name} as an array, which says nothing about new rows; add {name}= with a "
                "number for each new row, or give the model a column's name"
            )
    column = frame_of(data, [value])[value].to_numpy() if isinstance(value, str) else np.asarray(value)
    try:
        column = column.astype(float)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be numbers, got {column.dtype}") from error
    if column.shape not in ((), (count,)):
        raise DataError(f"{name} has shape {column.shape}; the new data have {count} rows")
    if not np.isfinite(column).all():
        raise DataError(f"{name} has a missing or infinite value; fill it first")
    return np.broadcast_to(column, count)


def _refuse_unseen(rows: Rows) -> None:
    """Raise for the first level that was not fitted."""
    for name, group in rows.groups.items():
        first = int(group.codes.argmin())
        if group.codes[first] < 0:
            raise UnseenLevelError(
                f"{name!r} has level {str(group.labels[first])!r} in row {first} of the new data, not seen in the fit; "
                'unseen="new" integrates over its effects, groups="population" leaves all effects out'
            )


def _generalized(fit: GeneralizedFit, rows: Rows, tail: float | None, kind: str, data: Any) -> pd.DataFrame:
    """Another family: on the scale of the link, of the mean, or of another part of the distribution."""
    unknown = {name: np.where(group.codes[:, None] < 0, group.columns, 0.0) for name, group in rows.groups.items()}

    def spread(theta: Array) -> Array:
        return variance_of(fit.model, unknown, theta) + np.zeros(len(rows.X))

    integrated = spread(fit.theta) * (fit.sigma**2 if isinstance(fit, QuasiFit) else 1.0)
    if isinstance(fit, QuasiFit):
        table = _at_point(fit.last, rows, None, False)
        eta, variance = table["mean"].to_numpy(), table["se"].to_numpy() ** 2 - integrated
    else:
        eta = rows.offset + rows.X @ fit.beta
        for name, group in rows.groups.items():
            effect = np.einsum("nk,nk->n", group.columns, fit.group_ranef[name][group.codes])
            eta += np.where(group.codes >= 0, effect, 0.0)
        found = [rows.groups[f.group] for f in fit.model.structure.factors if rows.groups]
        given = uncertainty(fit, rows.X, [g.columns for g in found], [g.codes for g in found])
        if kind == "probabilities":
            return predicted_categories(fit, Located(eta, integrated, given), tail, rows.index)
        if kind == "dispersion" or (fit.model.design.further and (kind != "link" or over_all(fit))):
            dispersion, zero = (fit.model.design.further_columns(name, data) for name in ("dispersion", "zero"))
            parts = Parts(eta, given, spread, dispersion, zero, 1.0 if rows.weights is None else rows.weights)
            return pd.DataFrame(predicted_parts(fit, parts, kind, tail), index=rows.index)
        of_beta = given.slopes[:, fit.model.n_theta :][:, : len(fit.beta)]
        variance = given.effects + np.sum((of_beta @ fit.beta_root.T) ** 2, axis=1)
    at = Predictor(eta, np.sqrt(np.maximum(variance, 0.0)), integrated)
    return pd.DataFrame(predicted(fit.model.link, at, kind, tail), index=rows.index)


def _at_point(fit: PointFit, rows: Rows, tail: float | None, response: bool) -> pd.DataFrame:
    mean = rows.offset + rows.X @ fit.beta
    for name, group in rows.groups.items():
        effect = np.einsum("nk,nk->n", group.columns, fit.group_ranef[name][group.codes])
        mean += np.where(group.codes >= 0, effect, 0.0)
    effects, x = _effects_variance(fit, rows) if rows.groups else (np.zeros(len(mean)), rows.X)
    variance = fit.sigma**2 * effects + np.sum((x @ fit.beta_root.T) ** 2, axis=1)
    if response:
        variance += fit.sigma**2 / (1.0 if rows.weights is None else rows.weights)
    table = pd.DataFrame({"mean": mean, "se": np.sqrt(variance)}, index=rows.index)
    if tail is not None:
        width = NormalDist().inv_cdf(1.0 - tail) * table["se"]
        table["lower"], table["upper"] = table["mean"] - width, table["mean"] + width
    return table


def _effects_variance(fit: PointFit, rows: Rows) -> tuple[Array, Array]:
    """Each row's z'ΛM⁻¹Λ'z (for an unknown level z'ΛΛ'z) and x − U'z."""
    products = fit.model.products
    s, lam, p = products.system, products.lam(fit.theta), products.n_fixed
    factor = marginal(s, lam).factor
    solution = times_lambda(s, lam, back_solve(s, factor, factor.Y))[:, :p]
    place, scaled, shift = [], [], np.zeros((len(rows.X), p))
    for f, block in enumerate(products.structure.factors):
        group, k = rows.groups[block.group], block.width
        columns = group.columns / products.effect_scale[f]
        first = products.structure.rows(f)[group.codes]
        for i in range(k):
            shift += np.where(group.codes >= 0, columns[:, i], 0.0)[:, None] * solution[first + i]
        place.append(np.where(group.codes >= 0, first, -1))
        scaled.append(columns @ lam[s.lam_at[f] : s.lam_at[f + 1]].reshape(k, k))
    return leverage(s, factor, np.column_stack(place), np.hstack(scaled)), rows.X - shift @ products.R
