"""New responses from a point fit, a posterior, or given parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.covariance import psd_factor
from bayeslmm.errors import MethodError
from bayeslmm.exact.densities import means
from bayeslmm.family import LINKS, family_of
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.model import Model
from bayeslmm.posterior_predict import covariance_factors
from bayeslmm.predict import Rows, generator, rows_of
from bayeslmm.replicates import spaced_draws, store_responses
from bayeslmm.response import trials_of
from bayeslmm.result import PointFit, Result
from bayeslmm.thresholds import checked, draws

if TYPE_CHECKING:
    from bayeslmm.posterior import Posterior

Array = NDArray[np.float64]
# An eigenvalue of a correlation matrix that is negative by no more than this is rounding.
ROUNDING = 1e-10


def simulate(
    source: Result | Model,
    nsim: int | None = None,
    *,
    seed: Any = None,
    groups: Literal["new", "conditional"] | Sequence[str] = "new",
    parameters: Mapping[str, Any] | None = None,
    data: Any = None,
    weights: str | float | Sequence[float] | None = None,
    offset: str | float | Sequence[float] | None = None,
    store: bool = False,
) -> pd.DataFrame:
    """Draw responses ``y = offset + Xβ + Zu + e``, ``u ~ N(0, Σ)`` for each level, ``e ~ N(0, σ²/w)``.

    Of another family: responses with mean ``g⁻¹(offset + Xβ + Zu)``; of a binomial one the successes, of ordered
    categories an ordered categorical.

    Parameters
    ----------
    source : PointFit, Posterior or Model
        A point fit lends its estimates; a posterior one of its draws to each simulation; a model needs `parameters`.
    nsim : int, optional
        Number of simulations, 1 if not given.
    seed : int or Generator, optional
        The same seed gives the same responses.
    groups : {"new", "conditional"} or sequence of str
        Effects drawn anew in each simulation, or those of the fit (conditional modes; a posterior's own draw); or the
        grouping factors whose effects are drawn anew, the others' being kept. Levels that were not fitted are drawn in
        any case.
    parameters : mapping, optional
        For a model: ``"fixef"``, ``"sd_Subject"``, ``"corr_Subject"`` (where effects are correlated) and ``"sigma"``
        (of another family its dispersion: ``"alpha"``, ``"kappa"``, ``"lam"``, or nothing; with formulas for these
        ``"dispersion"`` and ``"zero"``), ``"nu"`` of the t family, ``"thresholds"`` of ordered categories, in the order of
        the model or as mappings: ``{"Intercept": 250.0, "Days": 10.0}``, ``{"Intercept, Days": 0.1}``.
    data : table, optional
        New rows with the predictors; without it the rows of the model.
    weights, offset : str, float or array, optional
        For new rows; by default the columns that were given to the model.
    store : bool
        Of a posterior: simulate once from every draw, or from `nsim` evenly spaced draws of each chain, and put the
        responses into ``source.data`` under the same chains and draws, as the group ``posterior_predictive`` (of new
        rows ``predictions``) that ArviZ's predictive checks read.

    Returns
    -------
    DataFrame
        Rows by columns ``sim_1``, ``sim_2``, …; with `store` chain by chain.

    Raises
    ------
    MethodError
        Parameters that are missing, unknown or impossible, or an option that has no meaning here.
    DataError
        New rows that cannot be encoded.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> model = bl.Model("y ~ 1 + (1 | g)", data)
    >>> bl.simulate(model, 3, seed=1, parameters={"fixef": [4.0], "sd_g": 2.0, "sigma": 0.5}).shape
    (6, 3)
    """
    _check(source, nsim, parameters)
    rng = generator(seed)
    model = source if isinstance(source, Model) else source.model
    kept = _kept(source, model, groups)
    rows = rows_of(model, data, weights=weights, offset=offset)
    levels = {name: _levels(rows, name, name in kept) for name in rows.groups}
    chosen = spaced_draws(source, nsim, len(rows.X)) if store else None
    truths = _truths(source, nsim or 1, parameters, kept, rng, chosen)
    respond = _responder(model, rows, data)
    values = np.empty((len(rows.X), len(truths)), order="F")
    for column, truth in enumerate(truths):
        values[:, column] = respond(_linear_predictor(rows, levels, truth, rng), truth, rng)
    if chosen is not None:
        store_responses(cast("Posterior", source), chosen, values, None if data is None else rows.index)
    frame = pd.DataFrame(values, index=rows.index, columns=[f"sim_{i + 1}" for i in range(len(truths))])
    return frame.apply(_labelled, levels=model.design.response_levels) if model.design.ordered else frame


def _labelled(codes: pd.Series, levels: tuple[str, ...]) -> pd.Series:
    return pd.Series(pd.Categorical.from_codes(codes.astype(int), list(levels), ordered=True), index=codes.index)


def numbers_of(simulated: pd.DataFrame) -> Array:
    """Simulated responses (n, nsim) as `Design.y` has them: of ordered categories their places from 0."""
    columns = [column.cat.codes if hasattr(column, "cat") else column for _, column in simulated.items()]
    return np.column_stack([np.asarray(column, float) for column in columns])


def _check(source: Any, nsim: Any, parameters: Any) -> None:
    if not isinstance(source, Result | Model):
        raise MethodError(f"simulate takes a PointFit, a Posterior or a Model, not {type(source).__name__}")
    if nsim is not None and (isinstance(nsim, bool) or not isinstance(nsim, int | np.integer) or nsim < 1):
        raise MethodError(f"nsim={nsim!r} must be a whole number of simulations, at least 1")
    if isinstance(source, Result) and parameters is not None:
        raise MethodError(f"a {type(source).__name__} has its own parameters; give its model with parameters= instead")


def _kept(source: Any, model: Model, groups: Any) -> tuple[str, ...]:
    """The groups whose effects are those of the fit."""
    if isinstance(groups, str) or not isinstance(groups, Sequence):
        if groups not in ("new", "conditional"):
            raise MethodError(
                f'groups={groups!r} is not known; use "new", "conditional", or a list of groups drawn anew'
            )
        anew = model.groups if groups == "new" else ()
    else:
        unknown = [str(name) for name in groups if name not in model.groups]
        if unknown:
            raise MethodError(f"groups= names {unknown[0]!r}; the model has {', '.join(model.groups) or 'no groups'}")
        anew = tuple(groups)
    kept = tuple(name for name in model.groups if name not in anew)
    if isinstance(source, Model) and (kept or groups == "conditional"):
        raise MethodError('a model has no effects to condition on; use groups="new", or give a fit or a posterior')
    return kept


class Truth(NamedTuple):
    """What one simulation takes for true.

    β, by group the effects' covariance factor and the effects, σ or the dispersion, the coefficients of the formulas for
    dispersion and zeros, and ν of a t response or thresholds.
    """

    beta: Array
    factors: Mapping[str, Array]
    ranef: Mapping[str, Array]
    sigma: float
    further: Mapping[str, Array]
    second: Array = np.empty(0)


class Levels(NamedTuple):
    """The levels (m) that rows (n) hold: which row has which, and which fitted level each is (-1: drawn anew)."""

    of_row: NDArray[np.intp]
    fitted: NDArray[np.intp]


def _levels(rows: Rows, name: str, conditional: bool) -> Levels:
    group = rows.groups[name]
    known = bool((group.codes >= 0).all())
    key: NDArray[Any] = group.codes if known else group.labels
    _, first, of_row = np.unique(key, return_index=True, return_inverse=True)
    return Levels(of_row, group.codes[first] if conditional else np.full(len(first), -1))


Responder = Callable[[Array, Truth, np.random.Generator], Array]


def _responder(model: Model, rows: Rows, data: Any) -> Responder:
    """From a linear predictor and σ (or the family's dispersion) to responses."""
    if model.family == "gaussian":
        root = 1.0 if rows.weights is None else np.sqrt(rows.weights)
        return lambda eta, truth, rng: np.asarray(eta + truth.sigma / root * rng.standard_normal(len(eta)))
    family, link, design = family_of(model.family), LINKS[model.link], model.design
    if rows.weights is not None and family.plain != "gaussian":
        raise MethodError(
            "weights multiply a log density; a response of a given weight cannot be drawn. Leave them out"
        )
    trials = design.trials if data is None else trials_of(model.formula, data)
    m, root = 1.0 if trials is None else trials, 1.0 if rows.weights is None else np.sqrt(rows.weights)
    columns = {name: design.further_columns(name, data) for name in design.further}

    def respond(eta: Array, truth: Truth, rng: np.random.Generator) -> Array:
        if family.ordered:
            return draws(rng, model.link, eta, truth.second)
        at = {name: columns[name] @ coefficients for name, coefficients in truth.further.items()}
        phi = np.exp(at["dispersion"]) / root if "dispersion" in at else truth.sigma
        if family.second == "nu":
            return family.draws(rng, eta, phi, m, truth.second[0])
        return family.draws(rng, means(link, eta), phi, m, 1.0 / (1.0 + np.exp(-at["zero"])) if "zero" in at else 0.0)

    return respond


def _linear_predictor(rows: Rows, levels: Mapping[str, Levels], truth: Truth, rng: np.random.Generator) -> Array:
    mean = rows.offset + rows.X @ truth.beta
    for name, (of_row, fitted) in levels.items():
        factor = truth.factors[name]
        effects = rng.standard_normal((len(fitted), len(factor))) @ factor.T
        if name in truth.ranef:
            effects = np.where(fitted[:, None] >= 0, truth.ranef[name][fitted], effects)
        mean = mean + np.einsum("nk,nk->n", rows.groups[name].columns, effects[of_row])
    return np.asarray(mean)


def _truths(
    source: Any, nsim: int, parameters: Any, kept: tuple[str, ...], rng: np.random.Generator, chosen: Any
) -> list[Truth]:
    """One truth for each simulation."""
    if isinstance(source, Model):
        return [_given_truth(source, parameters)] * nsim
    if isinstance(source, PointFit):
        factors = {g: sd[:, None] * psd_factor(source.group_corr[g]) for g, sd in source.group_sd.items()}
        ranef = {group: source.group_ranef[group] for group in kept}
        if not isinstance(source, GeneralizedFit):
            return [Truth(source.beta, factors, ranef, source.sigma, {})] * nsim
        gamma = {name: source.further_fixef[name]["estimate"].to_numpy() for name in source.model.priors.further}
        second = source.tau if source.model.design.ordered else np.array([source.nu])
        return [Truth(source.beta, factors, ranef, source.dispersion, gamma, second)] * nsim
    posterior = cast("Posterior", source)
    total = posterior.n_draws
    which = rng.choice(total, nsim, replace=nsim > total) if chosen is None else np.ravel(chosen)
    return _drawn_truths(posterior, which, kept)


def _drawn_truths(posterior: Posterior, which: NDArray[np.intp], kept: tuple[str, ...]) -> list[Truth]:
    """Some draws of the posterior, each for a simulation."""
    dispersion, total = posterior.model.dispersion, posterior.n_draws
    noise = np.ones(total) if dispersion is None else posterior.draws(dispersion)
    beta = posterior.draws("fixef")[which] if posterior.model.X.shape[1] else np.empty((len(which), 0))
    factors = {group: covariance_factors(posterior, group, which) for group in posterior.model.groups}
    ranef = {group: posterior.draws(f"ranef_{group}")[which] for group in kept}
    gamma = {name: posterior.draws(name)[which] for name in posterior.model.priors.further}
    name = family_of(posterior.model.family).second
    second = np.empty((total, 0)) if name is None else posterior.draws(name).reshape(total, -1)

    def truth(i: int, d: int) -> Truth:
        own = ({name: values[i] for name, values in kind.items()} for kind in (factors, ranef, gamma))
        scale, effects, coefficients = own
        return Truth(beta[i], scale, effects, float(noise[d]), coefficients, second[d])

    return [truth(i, d) for i, d in enumerate(which)]


def _given_truth(model: Model, parameters: Any) -> Truth:
    labels = _labels(model)
    given = dict(parameters) if isinstance(parameters, Mapping) else {}
    _check_names(labels, given, parameters)
    values = {name: _numbers(name, names, given[name]) for name, names in labels.items()}
    noise, name = model.dispersion, family_of(model.family).second
    for positive in (noise, "nu" if name == "nu" else None):
        if positive is not None and not values[positive][0] > 0:
            raise MethodError(f"{positive} is {values[positive][0]:g}; it must be positive")
    factors = {group: _factor(model, group, values) for group in model.groups}
    gamma = {name: values[name] for name in model.priors.further}
    second = np.empty(0) if name is None else checked(values[name])
    return Truth(
        values.get("fixef", np.empty(0)), factors, {}, float(values[noise][0]) if noise else 1.0, gamma, second
    )


def _labels(model: Model) -> dict[str, tuple[str, ...]]:
    """The parameters of a model and the names of their entries."""
    labels = {"fixef": model.design.fixed.names} if model.design.fixed.names else {}
    for group in model.groups:
        effects = model.effects(group)
        labels[f"sd_{group}"] = effects
        if model.pairs(group):
            labels[f"corr_{group}"] = tuple(f"{effects[i]}, {effects[j]}" for i, j in model.pairs(group))
    labels |= {model.dispersion: (model.dispersion,)} if model.dispersion else {}
    labels |= {name: model.design.further[name].names for name in model.priors.further}
    second = family_of(model.family).second
    return labels if second is None else labels | {second: model.design.thresholds or (second,)}


def _check_names(labels: Mapping[str, tuple[str, ...]], given: Mapping[str, Any], parameters: Any) -> None:
    if parameters is not None and not isinstance(parameters, Mapping):
        raise MethodError(f"parameters must be a mapping with {', '.join(labels)}, not {type(parameters).__name__}")
    unknown = [str(name) for name in given if name not in labels]
    if unknown:
        raise MethodError(f"the model has no parameter {', '.join(unknown)}; it has {', '.join(labels)}")
    missing = [f"{name} ({', '.join(names)})" for name, names in labels.items() if name not in given]
    if missing:
        raise MethodError(f"parameters= lacks {'; '.join(missing)}. A model is simulated with every parameter given")


def _numbers(name: str, labels: tuple[str, ...], value: Any) -> Array:
    """The entries of one parameter in the model's order."""
    if isinstance(value, Mapping | pd.Series):
        if set(value.keys()) != set(labels):
            raise MethodError(f"{name} has entries {', '.join(map(str, value.keys()))}; it needs {', '.join(labels)}")
        value = [value[label] for label in labels]
    try:
        numbers = np.atleast_1d(np.asarray(value, float))
    except (TypeError, ValueError) as error:
        raise MethodError(f"{name} must hold numbers, got {value!r}") from error
    if numbers.shape != (len(labels),):
        raise MethodError(f"{name} has shape {numbers.shape}; it needs {len(labels)}: {', '.join(labels)}")
    if not np.isfinite(numbers).all():
        raise MethodError(f"{name} must be finite, got {value!r}")
    return numbers


def _factor(model: Model, group: str, values: Mapping[str, Array]) -> Array:
    """Lower factor of the covariance of one level's effects, from sds and correlations."""
    sd, pairs = values[f"sd_{group}"], model.pairs(group)
    if (sd < 0).any():
        raise MethodError(f"sd_{group} has {sd.min():g}; a standard deviation cannot be negative")
    corr = np.eye(len(sd))
    if pairs:
        first, second = np.array(pairs).T
        corr[first, second] = corr[second, first] = values[f"corr_{group}"]
    smallest = float(np.linalg.eigvalsh(corr)[0])
    if smallest < -ROUNDING:
        raise MethodError(
            f"corr_{group} is no correlation matrix: its smallest eigenvalue is {smallest:.3g}. Correlations lie in "
            "[-1, 1] and must fit each other"
        )
    return np.asarray(sd[:, None] * psd_factor(corr))
