"""Model → PyMC model in which every random effect is a variable: first stage, second stage, priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.distributions.shape_utils import rv_size_is_none
from pytensor.tensor.variable import TensorVariable

from bayeslmm.approximation import working
from bayeslmm.coordinates import coordinates, response_name, terms_by_group
from bayeslmm.errors import MethodError
from bayeslmm.graph.groups import GroupScale, group_scale
from bayeslmm.graph.response import respond
from bayeslmm.graph.variables import fixef_variable, prior_variable, second_variable
from bayeslmm.terms import RandomTerm

Array = NDArray[np.float64]
Parametrisation = Literal["centred", "noncentred"]

INFORMATIVE = 2.0
"""Value of `informativeness` above which a group is centred. Set by trial on eight data sets, eight seeds each, by
median effective draws per gradient: at 2.5 (sleepstudy), 2.8 (Dyestuff), 8.4 (dietox) and 95 (Rail) centred was 1.3 to
1.5 times as good; at 0 (Dyestuff2) and 0.45 (Orthodont, with more divergences) non-centred was 10 and 2 times as good;
Penicillin (13 and 244) was a tie, and for Pastes (0 and 10.5) non-centred throughout was 1.3 times as good as the
choice made here. Nothing between 0.45 and 2.5 was tried."""


@dataclass(frozen=True)
class LevelFits:
    """Least-squares regressions of a residual on one group's columns, separately in each of its q levels.

    Parameters
    ----------
    effects : ndarray (q, k)
        Estimates.
    unit_variance : ndarray (q, k)
        Their sampling variances for a residual variance of one.
    ranks : ndarray of int (q,)
        Ranks of the levels' columns; below k an effect is not determined.
    fitted : ndarray (n,)
        Fitted values.
    """

    effects: Array
    unit_variance: Array
    ranks: NDArray[np.intp]
    fitted: Array


def level_fits(terms: tuple[RandomTerm, ...], residual: Array, weights: Array) -> LevelFits:
    """Regress a residual on one group's columns within each level.

    Parameters
    ----------
    terms : tuple of RandomTerm
        Terms of one group.
    residual : ndarray (n,)
        Response less what else is known of it.
    weights : ndarray (n,)
        Prior weights.

    Returns
    -------
    LevelFits
        Columns are scaled to at most one, so that ranks do not depend on units.

    Examples
    --------
    >>> from bayeslmm.covariance import Unstructured
    >>> term = RandomTerm("g", ("Intercept",), np.ones((4, 1)), np.repeat([0, 1], 2), ("a", "b"), Unstructured(1))
    >>> level_fits((term,), np.array([9.0, 11.0, -9.0, -11.0]), np.ones(4)).fitted
    array([ 10.,  10., -10., -10.])
    """
    columns = np.hstack([term.columns for term in terms])
    columns = columns / np.where(np.any(columns, axis=0), np.abs(columns).max(axis=0), 1.0)
    codes, q, k = terms[0].codes, len(terms[0].levels), columns.shape[1]
    weighted = weights[:, None] * columns
    cross = [np.bincount(codes, weighted[:, a] * columns[:, b], q) for a in range(k) for b in range(k)]
    right = np.stack([np.bincount(codes, weighted[:, a] * residual, q) for a in range(k)], axis=-1)
    products = np.stack(cross, axis=-1).reshape(q, k, k)
    inverse = np.linalg.pinv(products, hermitian=True)
    effects = np.einsum("jab,jb->ja", inverse, right)
    ranks = np.linalg.matrix_rank(products, hermitian=True)
    return LevelFits(effects, np.diagonal(inverse, axis1=1, axis2=2), ranks, (columns * effects[codes]).sum(axis=1))


def informativeness(model: Any) -> dict[str, float]:
    """How well the rows of one level determine its effects: variance between levels over sampling variance within one.

    For each group, the residuals of the fixed part lose the other groups' `level_fits` (so that a group that contains
    another does not claim its variance) and are regressed within each level. An effect's variance ``tau**2`` follows by
    moments; the measure is its ratio to the median sampling variance, smallest over the group's effects. At a ratio of
    r the level's own rows carry a share r / (1 + r) of its effect, the other levels the rest. Of another family than the
    Gaussian the residuals are those of the working response of a fit without effects, with its weights.

    Parameters
    ----------
    model : Model
        The model.

    Returns
    -------
    dict of str to float
        Per group; 0 where fewer than half of its levels determine all their effects, or no rows are left for the
        residual variance.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> model = bl.Model("y ~ 1 + (1 | g)", {"y": [9.0, 11.0, -9.0, -11.0], "g": list("aabb")})
    >>> {group: round(ratio) for group, ratio in informativeness(model).items()}
    {'g': 99}
    """
    residual, weights = _residual(model.design) if model.family == "gaussian" else working(model)
    groups = terms_by_group(model.design.random)
    return {group: _ratio(group, groups, residual, weights) for group in groups}


def _residual(design: Any) -> tuple[Array, Array]:
    """Residuals of the fixed part by weighted least squares, and the weights."""
    weights = np.ones(len(design.y)) if design.weights is None else design.weights
    response = design.y if design.offset is None else design.y - design.offset
    root = np.sqrt(weights)
    return response - design.fixed.X @ np.linalg.lstsq(root[:, None] * design.fixed.X, root * response)[0], weights


def _ratio(group: str, groups: dict[str, tuple[RandomTerm, ...]], residual: Array, weights: Array) -> float:
    """`informativeness` of one group."""
    left = len(residual)
    for terms in (own for name, own in groups.items() if name != group):
        other = level_fits(terms, residual, weights)
        residual, left = residual - other.fitted, left - int(other.ranks.sum())
    fits = level_fits(groups[group], residual, weights)
    whole, left = fits.ranks == fits.effects.shape[1], left - int(fits.ranks.sum())
    if left <= 0 or whole.mean() < 0.5:
        return 0.0
    variance = float(weights @ (residual - fits.fitted) ** 2) / left
    if variance == 0:
        return np.inf
    sampling = variance * fits.unit_variance[whole]
    precision = 1 / fits.unit_variance[whole] ** 2
    between = (precision * (fits.effects[whole] ** 2 - sampling)).sum(axis=0) / precision.sum(axis=0)
    return float(np.min(np.maximum(between, 0.0) / np.median(sampling, axis=0)))


def choose_parametrisation(model: Any) -> dict[str, Parametrisation]:
    """Centred or non-centred for each group, by how informative the data are about one level's effects.

    Centred where `informativeness` exceeds `INFORMATIVE`: then the likelihood, not the prior, fixes an effect, and
    sampling it directly leaves no funnel. The choice changes how fast the sampler moves, not the posterior.

    Parameters
    ----------
    model : Model
        The model.

    Returns
    -------
    dict of str to {"centred", "noncentred"}
        One entry per group.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> model = bl.Model("y ~ 1 + (1 | g)", {"y": [9.0, 11.0, -9.0, -11.0], "g": list("aabb")})
    >>> choose_parametrisation(model)
    {'g': 'centred'}
    """
    return {
        group: "centred" if ratio > INFORMATIVE else "noncentred" for group, ratio in informativeness(model).items()
    }


def _parametrisations(model: Any, choice: Any) -> dict[str, Parametrisation]:
    """The user's choice completed: one word for all groups, or a table for some of them."""
    groups = terms_by_group(model.design.random)
    given = dict(choice) if isinstance(choice, Mapping) else dict.fromkeys(groups, choice) if choice is not None else {}
    for group, word in given.items():
        if group not in groups:
            raise MethodError(
                f"parametrisation= names the group {group!r}; the model has {', '.join(groups) or 'none'}."
            )
        if word not in ("centred", "noncentred"):
            raise MethodError(f"parametrisation={word!r} for {group!r}: write 'centred' or 'noncentred'.")
    return given if len(given) == len(groups) else choose_parametrisation(model) | given


def _correlated_logp(value: TensorVariable, factors: list[TensorVariable]) -> TensorVariable:
    """Log density of each row of effects, independent blocks with these Cholesky factors, by forward substitution."""
    total, start = pt.constant(0.0), 0
    for factor in factors:
        size = factor.type.shape[0]
        whitened: list[TensorVariable] = []
        for a in range(size):
            known = sum((factor[a, c] * whitened[c] for c in range(a)), start=pt.constant(0.0))
            whitened.append((value[..., start + a] - known) / factor[a, a])
            total = total - 0.5 * whitened[a] ** 2 - pt.log(factor[a, a]) - 0.5 * np.log(2 * np.pi)
        start += size
    return total


def _times_factors(standard: TensorVariable, factors: list[TensorVariable]) -> TensorVariable:
    """Rows of standard normal values to rows of effects, block by block."""
    ends = np.cumsum([factor.type.shape[0] for factor in factors])
    blocks = [
        standard[..., end - factor.type.shape[0] : end] @ factor.T for factor, end in zip(factors, ends, strict=True)
    ]
    return blocks[0] if len(blocks) == 1 else pt.concatenate(blocks, axis=-1)


def _correlated_effects(name: str, scale: GroupScale, dims: tuple[str, str]) -> TensorVariable:
    """Free variable of correlated normal effects, one row per level."""
    k = sum(scale.sizes)

    def draw(*inputs: TensorVariable) -> TensorVariable:
        *factors, size = inputs
        batch = () if rv_size_is_none(size) else tuple(size)
        return _times_factors(pm.Normal.dist(size=(*batch, k)), list(factors))

    inside = ",".join(f"(k{i},k{i})" for i in range(len(scale.sizes)))
    return pm.CustomDist(
        name,
        *scale.factors(),
        dist=draw,
        logp=lambda value, *factors: _correlated_logp(value, list(factors)),
        support_point=lambda variable, *_: pt.zeros_like(variable),
        signature=f"{inside}->(k)",
        class_name="CorrelatedNormal",
        dims=dims,
        shape=(len(scale.terms[0].levels), k),
    )


def _effects(scale: GroupScale, parametrisation: Parametrisation) -> TensorVariable:
    """The variable `ranef_<group>`, levels x effects."""
    name, dims = f"ranef_{scale.group}", (scale.group, f"{scale.group}_effect")
    if parametrisation == "noncentred":
        standard = pm.Normal(f"z_{scale.group}", dims=dims)
        effects = standard * scale.sd if scale.corr is None else _times_factors(standard, scale.factors())
        return pm.Deterministic(name, effects, dims=dims)
    if scale.corr is None:
        return pm.Normal(name, 0.0, scale.sd, dims=dims)
    return _correlated_effects(name, scale, dims)


def _contribution(effects: TensorVariable, scale: GroupScale) -> TensorVariable:
    """What one group adds to each row."""
    group = scale.group
    codes = pm.Data(f"codes_{group}", scale.terms[0].codes.astype(np.int64), dims="obs")
    columns = np.hstack([term.columns for term in scale.terms])
    if columns.shape[1] == 1 and np.all(columns == 1):
        return effects[codes, 0]
    known = pm.Data(f"columns_{group}", columns, dims=("obs", f"{group}_effect"))
    return (effects[codes] * known).sum(axis=-1)


def _linear_predictor(model: Any, parametrisations: dict[str, Parametrisation]) -> TensorVariable:
    """Offset, coefficients and effects, summed for each row."""
    design = model.design
    parts = [] if design.offset is None else [pm.Data("known_offset", design.offset, dims="obs")]
    fixef = fixef_variable(model.priors)
    if fixef is not None:
        parts.append(pm.Data("columns_fixef", design.fixed.X, dims=("obs", "coefficient")) @ fixef)
    for group, terms in terms_by_group(design.random).items():
        scale = group_scale(group, terms, model.priors)
        parts.append(_contribution(_effects(scale, parametrisations[group]), scale))
    return sum(parts[1:], start=parts[0]) if parts else pt.zeros(len(design.y))


def _further(model: Any, name: str) -> TensorVariable:
    """The log dispersion, or the logit of the probability of a zero of its own, of each row."""
    dim, priors = f"{name}_coefficient", model.priors.further[name]
    coefficients = prior_variable(name, priors.priors, dims=dim, transform=priors.transform)
    return pm.Data(f"columns_{name}", model.design.further[name].X, dims=("obs", dim)) @ coefficients


def build(model: Any, parametrisation: Parametrisation | Mapping[str, Parametrisation] | None = None) -> pm.Model:
    """The hierarchical PyMC model, ``y ~ Normal(offset + X fixef + sum_g z_g ranef_g, sigma / sqrt(w))``.

    Of another family: its distribution, with mean ``g⁻¹(offset + X fixef + sum_g z_g ranef_g)``; prior weights multiply
    the log density of a row, as a potential called `weighted`. Free variables are `fixef`, for each group `sd_<group>`,
    `corr_<group>` where effects are correlated, the effects, the dispersion, `sigma` or the family's, and `nu` of the t
    family or `thresholds`, increasing, of ordered categories. Centred effects are `ranef_<group>` themselves; non-centred
    ones `z_<group>`, standard normal, from which `ranef_<group>` is computed. The coefficients of the formulas for the
    dispersion and for zeros are `dispersion` and `zero`.

    Parameters
    ----------
    model : Model
        The model.
    parametrisation : {"centred", "noncentred"} or mapping of group to either, optional
        How effects are sampled; groups not named are chosen by `choose_parametrisation`.

    Returns
    -------
    pymc.Model
        With dimensions ``coefficient``, ``obs``, and ``<group>``, ``<group>_effect``, ``<group>_pair`` for each group.

    Raises
    ------
    MethodError
        `parametrisation` names a group or a word that does not exist.
    DataError
        A column's name collides with a variable or dimension of the graph.
    PriorError, NotSupportedError
        A prior or covariance structure that the graph cannot express.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 3.0, 6.0, 5.0], "g": ["a", "a", "b", "b", "c", "c"]}
    >>> graph = build(bl.Model("y ~ 1 + (1 | g)", data), parametrisation="centred")
    >>> [variable.name for variable in graph.free_RVs]
    ['fixef', 'sd_g', 'ranef_g', 'sigma']
    """
    design = model.design
    parametrisations = _parametrisations(model, parametrisation)
    with pm.Model(coords=coordinates(design)) as graph:
        predictor = _linear_predictor(model, parametrisations)
        noise = None
        if model.priors.noise is not None:
            noise = prior_variable(model.priors.dispersion, model.priors.noise, scale=True)
        further = {name: _further(model, name) for name in model.priors.further}
        if "dispersion" in further:
            noise = pt.exp(further["dispersion"])
        second = further.get("zero") if "zero" in further else second_variable(model.priors)
        name = response_name(design, {*graph.named_vars, *graph.coords})
        respond(model, name, predictor, noise, second)
    return graph
