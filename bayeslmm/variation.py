"""Any result → how the variance of the response is divided: R², intraclass correlations, one share for each source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri

from bayeslmm.bootstrap import Bootstrap
from bayeslmm.components import components, random_parts, residual_variance
from bayeslmm.errors import MethodError
from bayeslmm.estimates import natural_vector, parameter_names, posterior_draws, variance_covariance, variance_names
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.result import PointFit
from bayeslmm.table import Page, frame_table, zeros

Array = NDArray[np.float64]
Source = PointFit | Bootstrap | Posterior
STEP = 1e-5  # central differences of smooth maps: an error of about 1e-10


@dataclass(frozen=True, eq=False, repr=False)
class Shares:
    """Shares of variance with their intervals.

    Parameters
    ----------
    table : DataFrame
        One row per share: ``estimate`` (a partition: ``variance`` and ``share``), ``lower``, ``upper``.
    draws : DataFrame or None
        The shares at every draw of a posterior, at every refit of a bootstrap.
    heading : str
        What they are shares of.
    notes : tuple of str
        Which intervals they are, and where there is none.
    """

    table: pd.DataFrame
    draws: pd.DataFrame | None
    heading: str
    notes: tuple[str, ...]

    def page(self) -> Page:
        """The table and its notes, to print or to show in a notebook."""
        return Page(self.heading, (), ((frame_table("", self.table), ""),), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Shares({self.heading}, {len(self.table)} rows)"

    def _repr_html_(self) -> str:
        return self.page().html


class Row(NamedTuple):
    """A share: the sum of the components at ``numerator`` over the sum of those at ``denominator``."""

    label: str | tuple[str, str]
    numerator: NDArray[np.bool_]
    denominator: NDArray[np.bool_]
    signed: bool = False  # a covariance's share, which may be negative


def r2(result: Source, level: float = 0.95, *, kind: Literal["nakagawa", "gelman"] = "nakagawa") -> Shares:
    """Variance explained by the fixed part alone (marginal) and with the random effects (conditional).

    With f = Var(Xβ) over the rows, r = mean_i z_i'Σz_i and e = σ²: marginal f/(f + r + e), conditional (f + r)/(f + r + e)
    (Nakagawa and Schielzeth 2013, Methods Ecol. Evol. 4, 133–142; with slopes Johnson 2014, ibid. 5, 944–946).
    ``kind="gelman"``, of a posterior: Var(fitted)/(Var(fitted) + σ²) at every draw, the random effects drawn
    (Gelman, Goodrich, Gabry and Vehtari 2019, Am. Stat. 73, 307–309).

    Parameters
    ----------
    result : PointFit, Bootstrap or Posterior
        A point fit has intervals by the delta method on the logit scale, NaN at the boundary; its bootstrap
        (`bootstrap`) percentile intervals, which may end at 0; a posterior the middle of its draws.
    level : float
        Coverage.
    kind : {"nakagawa", "gelman"}
        Which R².

    Returns
    -------
    Shares
        ``.table`` with rows ``marginal`` and ``conditional`` (``bayesian`` for Gelman's).

    Raises
    ------
    MethodError
        Not a result, a bootstrap of another statistic, or Gelman's R² of what has no draws of the effects.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> bl.r2(bl.fit(bl.load("models/sleepstudy"))).table["estimate"].round(4).tolist()
    [0.2787, 0.7992]
    """
    if kind == "gelman":
        return _gelman(result, level)
    if kind != "nakagawa":
        raise MethodError(f'kind={kind!r} is not known; use "nakagawa" or "gelman"')
    fixed, random, every = _masks(_model_of(result))
    rows = [Row("marginal", fixed, every), Row("conditional", fixed | random, every)]
    return _shares(result, rows, level, "Variance explained, R² of Nakagawa and Schielzeth")


def icc(result: Source, by: Literal["group"] | None = None, level: float = 0.95) -> Shares:
    """Intraclass correlations: the random effects' share of the variance.

    Adjusted, r/(r + e), leaves the fixed part's variance f out; unadjusted (also called conditional), r/(f + r + e),
    counts it. With slopes r = mean_i z_i'Σz_i, an average over the rows: the correlation of two rows then depends
    on their predictors.

    Parameters
    ----------
    result : PointFit, Bootstrap or Posterior
        As for `r2`.
    by : "group", optional
        One pair of rows for each grouping factor in place of their sum.
    level : float
        Coverage.

    Returns
    -------
    Shares

    Raises
    ------
    MethodError
        A model without random effects, or arguments without a meaning.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> bl.icc(bl.fit(bl.load("models/wool"))).table.loc["adjusted", "estimate"].round(6)
    np.float64(0.158963)
    """
    model = _model_of(result)
    if not model.groups:
        raise MethodError(f"{model.formula.text!r} has no random effects, so there is no intraclass correlation")
    if by not in (None, "group"):
        raise MethodError(f'by={by!r} is not known; use "group" or leave it out')
    fixed, random, every = _masks(model)
    if by is None:
        rows = [Row("adjusted", random, every & ~fixed), Row("unadjusted", random, every)]
    else:
        rows = []
        for group in model.groups:
            own = np.array([False, *(part.group == group for part in random_parts(model)), False])
            rows += [Row((group, "adjusted"), own, every & ~fixed), Row((group, "unadjusted"), own, every)]
    return _shares(result, rows, level, "Intraclass correlation")


def variance_partition(result: Source, by: Literal["effect", "group"] = "effect", level: float = 0.95) -> Shares:
    """The variance of the response, source by source: the fixed part, every random effect, the residual.

    An effect contributes sd_a² mean z_a² over the rows; two correlated effects of one group contribute also
    2 sd_a sd_b corr_ab mean z_a z_b, which may be negative, in a row of its own. How a group's sum divides among
    these rows depends on where its predictors have their 0; the sum does not.

    Parameters
    ----------
    result : PointFit, Bootstrap or Posterior
        As for `r2`.
    by : {"effect", "group"}
        One row for each effect and pair of effects, or one for each grouping factor.
    level : float
        Coverage.

    Returns
    -------
    Shares
        ``.table``: one row per source, ``variance``, ``share`` (they add to 1), ``lower`` and ``upper`` of the share.

    Raises
    ------
    MethodError
        As for `r2`.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> bl.variance_partition(bl.fit(bl.load("models/penicillin"))).table["share"].round(3).to_dict()
    {'fixed': 0.0, 'plate[Intercept]': 0.151, 'sample[Intercept]': 0.785, 'Residual': 0.064}
    """
    model = _model_of(result)
    if by not in ("effect", "group"):
        raise MethodError(f'by={by!r} is not known; use "effect" or "group"')
    parts, every = random_parts(model), _masks(model)[2]
    names = [part.label if by == "effect" else part.group for part in parts]
    signed = {part.label for part in parts if part.pair and by == "effect"}
    owners = [("fixed", 0), *((name, 1) for name in names), ("Residual", 2)]  # a factor may be called fixed, too
    rows = [
        Row(owner[0], np.array([other == owner for other in owners]), every, owner[0] in signed)
        for owner in dict.fromkeys(owners)
    ]
    found = _shares(result, rows, level, "Partition of the variance")
    table = found.table.rename(columns={"estimate": "share"})
    table.insert(0, "variance", _variances(result, rows))
    return Shares(table, found.draws, found.heading, found.notes)


def _masks(model: Model) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which components are the fixed part, which are random, and all."""
    kinds = np.array([0, *[1] * len(random_parts(model)), 2])
    return kinds == 0, kinds == 1, kinds >= 0


def _model_of(result: object) -> Model:
    if isinstance(result, Bootstrap):
        return result.fit.model
    if isinstance(result, PointFit | Posterior):
        return result.model
    raise MethodError(f"this takes what bl.fit, bl.bootstrap or bl.sample gave; got {type(result).__name__}")


def _fit_vector(fit: PointFit) -> Array:
    return np.append(fit.beta, natural_vector(fit.model, fit.theta, fit.sigma))


def _drawn(result: Bootstrap | Posterior) -> Array:
    """Draws of all parameters (draws, m); failed refits left out."""
    if isinstance(result, Posterior):
        flat = posterior_draws(result)
        return flat.reshape(-1, flat.shape[-1])
    if tuple(result.draws.columns) != parameter_names(result.fit.model):
        raise MethodError("this bootstrap holds another statistic; shares need bl.bootstrap(fit) without statistic=")
    if (draws := result.draws.dropna()).empty:
        raise MethodError(f"all {result.nsim} refits of the bootstrap failed; .failures says why")
    return draws.to_numpy()


def _ratios(model: Model, parameters: Array, rows: Sequence[Row]) -> Array:
    """The shares (…, rows) at parameters (…, m)."""
    found = components(model, parameters)
    above, below = (np.array([row[i] for row in rows], float).T for i in (1, 2))
    return np.asarray((found @ above) / (found @ below))


def _variances(result: Source, rows: Sequence[Row]) -> Array:
    """The numerators (rows,) themselves: at a fit's estimates, or a posterior's means of them."""
    point = result.fit if isinstance(result, Bootstrap) else result
    vectors = _fit_vector(point) if isinstance(point, PointFit) else _drawn(point)
    above = np.array([row.numerator for row in rows], float).T
    with np.errstate(over="ignore"):
        values = (components(point.model, vectors) @ above) * vectors[..., -1:] ** 2
        return np.asarray(values if values.ndim == 1 else values.mean(axis=0))


def _shares(result: Source, rows: Sequence[Row], level: float, heading: str) -> Shares:
    _check_level(level)
    model, draws = _model_of(result), None
    if isinstance(result, PointFit):
        estimate = _ratios(model, _fit_vector(result), rows)
        bounds, notes = _delta(result, rows, estimate, level)
    else:
        drawn = _ratios(model, _drawn(result), rows)
        posterior = isinstance(result, Posterior)
        estimate = drawn.mean(axis=0) if posterior else _ratios(model, _fit_vector(result.fit), rows)  # type: ignore[union-attr]
        draws = pd.DataFrame(drawn, columns=_index([row.label for row in rows]))
        bounds, notes = _quantiles(drawn, level), _drawn_notes(result, level)
    table = pd.DataFrame(
        {"estimate": estimate, "lower": bounds[0], "upper": bounds[1]}, index=_index([row.label for row in rows])
    )
    return Shares(table, draws, f"{heading}: {model.formula.text}", notes)


def _index(labels: Sequence[str | tuple[str, str]]) -> pd.Index:
    if isinstance(labels[0], tuple):
        return pd.MultiIndex.from_tuples(labels, names=["group", "kind"])
    return pd.Index(labels, dtype=object)


def _quantiles(draws: Array, level: float) -> Array:
    tail = 0.5 * (1.0 - level)
    return np.asarray(np.quantile(draws, [tail, 1.0 - tail], axis=0))


def _drawn_notes(result: Bootstrap | Posterior, level: float) -> tuple[str, ...]:
    if isinstance(result, Posterior):
        return (f"Posterior means; lower and upper: {100 * level:g} % of the draws lie between, equal tails.",)
    kind = f"lower and upper: {100 * level:g} % percentile interval of {result.nsim} parametric bootstrap refits."
    return (kind, *result.notes)


def _delta(fit: PointFit, rows: Sequence[Row], estimate: Array, level: float) -> tuple[Array, tuple[str, ...]]:
    """Intervals by the delta method in β/σ̂, log sd, atanh of the correlations and log σ."""
    model, p = fit.model, len(fit.beta)
    names = variance_names(model)
    corr = np.array([name.startswith("corr_") for name in names])
    natural = natural_vector(model, fit.theta, 1.0)  # shares have no units, so σ̂ is the unit
    root = fit.beta_root / fit.sigma
    held = np.array([name in fit.fixed for name in names])
    covariance = np.zeros((p + len(names),) * 2)
    covariance[:p, :p] = root.T @ root
    covariance[p:, p:] = np.where(held[:, None] | held, 0.0, variance_covariance(fit))

    def shares(x: Array) -> Array:
        back = np.where(corr, np.tanh(x[p:]), np.exp(np.where(corr, 0.0, x[p:])))
        return _ratios(model, np.append(x[:p], back), rows)

    with np.errstate(invalid="ignore", divide="ignore"):
        log_sd, z = np.log(np.where(corr, 1.0, natural)), np.arctanh(np.where(corr, natural, 0.0))
        start = np.append(fit.beta / fit.sigma, np.where(corr, z, log_sd))
        jacobian = _jacobian(shares, start, np.append(fit.beta_sd / fit.sigma, np.ones(len(names))))
        error = np.sqrt(np.einsum("ra,ab,rb->r", jacobian, covariance, jacobian))
    bounds = _interval(estimate, float(ndtri(0.5 + 0.5 * level)) * error, np.array([row.signed for row in rows]))
    return bounds, _delta_notes(fit, bounds, level)


def _interval(estimate: Array, reach: Array, signed: NDArray[np.bool_]) -> Array:
    """Lower and upper ends (2, rows): on the logit scale between 0 and 1, as they are for shares of covariances."""
    inside = (estimate > 0) & (estimate < 1) & ~signed
    middle = np.where(inside, estimate, 0.5)
    moves = np.array([-1.0, 1.0])[:, None] * reach
    return np.where(inside, expit(logit(middle) + moves / (middle * (1.0 - middle))), estimate + moves)


def _jacobian(f: Callable[[Array], Array], x: Array, unit: Array) -> Array:
    """Central differences (rows, m); 0 in the direction of a parameter at minus infinity, a log sd of 0."""
    columns = []
    for i, step in enumerate(STEP * unit):
        ahead, behind = x.copy(), x.copy()
        ahead[i] += step
        behind[i] -= step
        columns.append((f(ahead) - f(behind)) / (2.0 * step) if step > 0 else np.zeros_like(f(x)))
    return np.stack(columns, axis=-1)


def _delta_notes(fit: PointFit, bounds: Array, level: float) -> tuple[str, ...]:
    kind = f"lower and upper: {100 * level:g} % intervals by the delta method on the logit scale."
    if not np.isnan(bounds).any():
        return (kind,)
    why = "; ".join(zeros(fit)) if fit.singular else "the curvature at the optimum is not positive definite"
    terms = fit.model.design.random
    exact = " bl.variance_ratio(fit).confint() is exact." if len(terms) == 1 and len(terms[0].effects) == 1 else ""
    said = f"No intervals ({why}); give bl.bootstrap(fit, seed=1) or a posterior for ones that may end at 0.{exact}"
    return kind, said


def _gelman(result: object, level: float) -> Shares:
    if not isinstance(result, Posterior):
        raise MethodError(f'kind="gelman" is of the draws of bl.sample; got {type(result).__name__}')
    _check_level(level)
    sigma = result.draws("sigma")
    found = np.empty((len(sigma), 1))
    for which, eta in result.predictor_draws():
        scale = sigma[which]
        fitted = (eta / scale[:, None]).var(axis=1, ddof=1)
        found[which, 0] = fitted / (fitted + residual_variance(result.model, np.ones(len(scale))))
    lower, upper = _quantiles(found, level)
    table = pd.DataFrame({"estimate": found.mean(axis=0), "lower": lower, "upper": upper}, index=["bayesian"])
    heading = f"Variance explained, Bayesian R²: {result.model.formula.text}"
    return Shares(table, pd.DataFrame(found, columns=["bayesian"]), heading, _drawn_notes(result, level))


def _check_level(level: object) -> None:
    if not (isinstance(level, int | float | np.number) and 0.0 < level < 1.0):
        raise MethodError(f"level is a probability between 0 and 1, got {level!r}")
