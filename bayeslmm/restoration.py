"""Draws of the collapsed sampler → the posterior's tree: natural parameters, coefficients and effects restored."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayeslmm.direct import Direct
from bayeslmm.errors import MethodError
from bayeslmm.exact.nested import group_log_likelihood as by_group_kernel
from bayeslmm.exact.products import right_hand_side
from bayeslmm.exact.restore import restore
from bayeslmm.group_integrals import integrated_by_level
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior, posterior_tree

Array = NDArray[np.float64]
# Random effects times draws that are stored; beyond it only their means and standard deviations are (8 bytes each).
MOST_EFFECT_DRAWS = 50_000_000
# Numbers of the pointwise log-likelihood that are stored at once; beyond it `Posterior.log_likelihood` computes them.
MOST_LOG_LIKELIHOOD = 4_000_000
RESTORE_AT_ONCE = 2_000_000


def assemble(model: Model, direct: Direct, x: Array, statistics: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Coordinates (chains, draws, size) → the DataTree, with (β, u) restored."""
    natural = natural_draws(direct, x)
    keep = x.shape[0] * x.shape[1] * len(direct.system.B) <= MOST_EFFECT_DRAWS
    beta, effects, moments = restored(direct, x, int(settings["seed"]), int(settings["cores"]), keep)
    natural["fixef"] = beta
    tree = posterior_tree(model, natural, effects, moments, statistics)
    if x.shape[0] * x.shape[1] * model.design.nobs <= MOST_LOG_LIKELIHOOD and keep:
        Posterior(model, tree, "marginal").store_log_likelihood()
    return tree


def natural_draws(direct: Direct, x: Array) -> dict[str, Array]:
    """Draws of sd, correlations and σ by posterior variable, from coordinates (chains, draws, size)."""
    model, shape = direct.model, x.shape[:2]
    out: dict[str, Array] = {}
    at = 0
    sd = np.exp(x[..., : direct.n_sd])
    for group in model.groups:
        k = len(model.effects(group))
        out[f"sd_{group}"] = sd[..., at : at + k]
        at += k
        if model.pairs(group):
            out[f"corr_{group}"] = np.concatenate(direct.correlations(x, group), axis=-1).reshape(*shape, -1)
    out["sigma"] = np.exp(x[..., direct.n_sd + direct.n_corr])
    return out


def restored(
    direct: Direct, x: Array, seed: int, cores: int, keep: bool
) -> tuple[Array, dict[str, Array], dict[str, tuple[Array, Array]]]:
    """β (chains, draws, p) and effects by group (chains, draws, levels, k), or only their means and sds.

    Random numbers belong to blocks of draws, so that the result does not depend on `cores`.
    """
    model, chains, draws = direct.model, x.shape[0], x.shape[1]
    p, Q = model.products.n_fixed, len(direct.system.B)
    flat = np.ascontiguousarray(x.reshape(chains * draws, -1))
    beta = np.empty((chains * draws, p))
    u = np.empty((chains * draws, Q)) if keep else np.empty((0, Q))

    def work(rows: slice) -> tuple[int, Array, Array]:
        mine = u[rows] if keep else np.empty((rows.stop - rows.start, Q))
        _restore_block(direct, flat, seed, rows, beta[rows], mine)
        return (0, u[:0], u[:0]) if keep else (len(mine), mine.mean(axis=0), mine.var(axis=0))

    with ThreadPoolExecutor(max_workers=cores) as pool:
        blocks = list(pool.map(work, _blocks(direct, chains * draws, draws)))
    fixed = np.moveaxis(model.products.beta(beta.T), 0, -1).reshape(chains, draws, p)
    factors = model.products.structure.factors
    if keep:
        effects = {
            f.group: model.products.ranef(u, i).reshape(chains, draws, f.count, f.width) for i, f in enumerate(factors)
        }
        return fixed, {group: effects[group] for group in model.groups}, {}
    mean, sd = _pooled(blocks)
    moments = {f.group: (model.products.ranef(mean, i), model.products.ranef(sd, i)) for i, f in enumerate(factors)}
    return fixed, {}, {group: moments[group] for group in model.groups}


def _blocks(direct: Direct, total: int, draws: int) -> list[slice]:
    """Blocks of draws that share random numbers: their size depends on the model and the draws only."""
    size = max(1, min(draws, RESTORE_AT_ONCE // max(1, direct.model.products.n_fixed + len(direct.system.B))))
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _restore_block(direct: Direct, flat: Array, seed: int, rows: slice, beta: Array, u: Array) -> None:
    """Fill β_Q and scaled u of one block of draws."""
    z = np.random.default_rng([seed, rows.start, 7]).standard_normal(
        (rows.stop - rows.start, beta.shape[1] + u.shape[1])
    )
    restore(direct.system, direct.layout, flat[rows], z, beta, u)


def _pooled(blocks: list[tuple[int, Array, Array]]) -> tuple[Array, Array]:
    """Mean and standard deviation (ddof 1) of all draws from the size, mean and variance (ddof 0) of their blocks."""
    sizes = np.array([size for size, _, _ in blocks], float)
    means, variances = np.array([mean for _, mean, _ in blocks]), np.array([variance for _, _, variance in blocks])
    total = sizes.sum()
    mean = sizes @ means / total
    return mean, np.sqrt(sizes @ (variances + (means - mean) ** 2) / max(total - 1.0, 1.0))


def restore_tree(model: Model, draws: Mapping[str, Array], statistics: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Draws of the marginal graph's variables → the DataTree, with (β, u) restored."""
    direct = Direct(model, closed_form=False)
    x = direct.coordinates_of(draws)
    return assemble(model, direct, x, statistics, settings)


def _coordinates(posterior: Posterior) -> tuple[Direct, Array]:
    """The collapsed density of a posterior's model, and its draws' coordinates (chains, draws, size)."""
    direct = Direct(posterior.model, closed_form=False)
    node = posterior.data["posterior"]
    return direct, direct.coordinates_of({str(name): np.asarray(v.values) for name, v in node.data_vars.items()})


def ranef_draws(posterior: Posterior, group: str, which: slice = slice(None)) -> Array:
    """Draws of the effects of one group, also where only their means and standard deviations are stored.

    Parameters
    ----------
    posterior : Posterior
        Of either route.
    group : str
        Grouping factor.
    which : slice
        Which draws, chains joined; all of them may not fit into memory.

    Returns
    -------
    ndarray (draws, levels, k)
        The same draws that the stored means and standard deviations were taken of.

    Raises
    ------
    MethodError
        The model has no such group.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0, 2.0, 3.5], "g": list("aabbccdd")}
    >>> post = bl.sample(bl.Model("y ~ 1 + (1 | g)", data), draws=50, tune=100, chains=2, seed=1, progress=False)
    >>> bl.ranef_draws(post, "g", slice(0, 10)).shape
    (10, 4, 1)
    """
    model = posterior.model
    if group not in model.groups:
        raise MethodError(f"the model has no group {group!r}; its groups are {', '.join(model.groups) or 'none'}")
    if f"ranef_{group}" in posterior.data["posterior"].data_vars:
        return posterior.draws(f"ranef_{group}")[which]
    direct, x = _coordinates(posterior)
    flat = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
    factor = [f.group for f in model.products.structure.factors].index(group)
    wanted = np.arange(len(flat))[which]
    out = np.empty((len(wanted), len(model.levels(group)), len(model.effects(group))))
    for rows in _blocks(direct, len(flat), x.shape[1]):
        inside = np.flatnonzero((wanted >= rows.start) & (wanted < rows.stop))
        if len(inside):
            size = rows.stop - rows.start
            beta, u = np.empty((size, model.products.n_fixed)), np.empty((size, len(direct.system.B)))
            _restore_block(direct, flat, int(posterior.data.attrs["seed"]), rows, beta, u)
            out[inside] = model.products.ranef(u[wanted[inside] - rows.start], factor)
    return out


def group_log_likelihood(posterior: Posterior) -> xr.DataArray:
    """Log density of each outermost group's rows at every draw, random effects integrated out.

    Given (β, sd, correlations, σ), groups are independent of each other where there is one grouping factor or the
    factors are nested; with crossed factors no such split exists. Of another family than the Gaussian the effects are
    integrated out by adaptive Gauss-Hermite quadrature, ``attrs["error"]`` its error.

    Parameters
    ----------
    posterior : Posterior
        Of any route. Of another family with one grouping factor, at most three effects of a level.

    Returns
    -------
    xarray.DataArray (chain, draw, group)
        For leave-one-group-out criteria; over groups it sums to the log-likelihood of the data.

    Raises
    ------
    MethodError
        The grouping factors are crossed, or the model has none.
    NotSupportedError
        Another family with more grouping factors or effects than quadrature takes.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0, 2.0, 3.5], "g": list("aabbccdd")}
    >>> post = bl.sample(bl.Model("y ~ 1 + (1 | g)", data), draws=50, tune=100, chains=2, seed=1, progress=False)
    >>> bl.group_log_likelihood(post).sizes["g"]
    4
    """
    model = posterior.model
    if model.family != "gaussian":
        return integrated_by_level(posterior)
    outer, level_group, row_group = _outermost(model)
    direct, x = _coordinates(posterior)
    products, p = model.products, model.products.n_fixed
    codes = next(term.codes for term in model.design.random if term.group == outer)
    count = np.bincount(codes, minlength=len(model.levels(outer))).astype(float)
    right = right_hand_side(model.design)
    C = np.zeros((len(count), p + 1, p + 1))
    np.add.at(C, codes, right[:, :, None] * right[:, None, :])
    beta = posterior.draws("fixef") if p else np.zeros((x.shape[0] * x.shape[1], 0))
    scaled = np.ascontiguousarray((beta - products.beta_ols) @ products.R.T / products.y_scale)
    flat = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
    values = by_group_kernel(direct.system, direct.layout, flat, scaled, level_group, row_group, C, count)
    weights = np.zeros(model.design.nobs) if model.design.weights is None else np.log(model.design.weights)
    values += 0.5 * np.bincount(codes, weights, len(count)) - count * np.log(products.y_scale)
    coords = {outer: np.array(model.levels(outer), dtype=object)}
    return xr.DataArray(values.reshape(*x.shape[:2], -1), dims=("chain", "draw", outer), coords=coords)


def _outermost(model: Model) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
    """The outermost group; the one that each level of the first factor, and each row of the remainder, lies in."""
    structure = model.products.structure
    if not structure.factors:
        raise MethodError("the model has no grouping factor")
    outer = min(structure.factors, key=lambda factor: factor.count)
    inside: list[NDArray[np.int64]] = []
    for factor in structure.factors:
        within = np.full(factor.count, -1, np.int64)
        within[factor.codes] = outer.codes
        if (within[factor.codes] != outer.codes).any():
            raise MethodError(
                f"{factor.group!r} and {outer.group!r} are crossed: the rows of a level of {outer.group!r} depend on "
                "the others', so there is no likelihood by group"
            )
        inside.append(within)
    rows = np.empty(structure.rest_size, np.int64)
    for node, first in enumerate(structure.node_row):
        f = structure.node_factor[node]
        rows[first : first + structure.factors[f].width] = inside[f][structure.node_level[node]]
    return outer.group, inside[0], rows
