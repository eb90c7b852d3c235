"""Draws of the collapsed sampler → the posterior's tree: natural parameters, coefficients and effects restored."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslmm.direct import Direct
from bayeslmm.exact.restore import restore
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
    block = max(1, min(draws, RESTORE_AT_ONCE // max(1, p + Q)))
    flat = np.ascontiguousarray(x.reshape(chains * draws, -1))
    beta = np.empty((chains * draws, p))
    u = np.empty((chains * draws, Q)) if keep else np.empty((0, Q))

    def work(start: int) -> tuple[int, Array, Array]:
        rows = slice(start, min(start + block, chains * draws))
        z = np.random.default_rng([seed, start, 7]).standard_normal((rows.stop - start, p + Q))
        mine = u[rows] if keep else np.empty((rows.stop - start, Q))
        restore(direct.system, direct.layout, flat[rows], z, beta[rows], mine)
        return (0, u[:0], u[:0]) if keep else (len(mine), mine.mean(axis=0), mine.var(axis=0))

    with ThreadPoolExecutor(max_workers=cores) as pool:
        blocks = list(pool.map(work, range(0, chains * draws, block)))
    fixed = np.moveaxis(model.products.beta(beta.T), 0, -1).reshape(chains, draws, p)
    factors = model.products.structure.factors
    if keep:
        effects = {
            f.group: _effects(model, u, i).reshape(chains, draws, f.count, f.width) for i, f in enumerate(factors)
        }
        return fixed, {group: effects[group] for group in model.groups}, {}
    mean, sd = _pooled(blocks)
    moments = {
        f.group: (_effects(model, mean[None], i)[0], _effects(model, sd[None], i)[0]) for i, f in enumerate(factors)
    }
    return fixed, {}, {group: moments[group] for group in model.groups}


def _pooled(blocks: list[tuple[int, Array, Array]]) -> tuple[Array, Array]:
    """Mean and standard deviation (ddof 1) of all draws from the size, mean and variance (ddof 0) of their blocks."""
    sizes = np.array([size for size, _, _ in blocks], float)
    means, variances = np.array([mean for _, mean, _ in blocks]), np.array([variance for _, _, variance in blocks])
    total = sizes.sum()
    mean = sizes @ means / total
    return mean, np.sqrt(sizes @ (variances + (means - mean) ** 2) / max(total - 1.0, 1.0))


def _effects(model: Model, scaled: Array, factor: int) -> Array:
    """Draws of scaled u (m, Q) → effects (m, levels, k) of one factor."""
    products = model.products
    rows = products.structure.rows(factor)[:, None] + np.arange(products.structure.factors[factor].width)
    return np.asarray(scaled[:, rows] * (products.y_scale / products.effect_scale[factor]))


def restore_tree(model: Model, draws: Mapping[str, Array], statistics: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Draws of the marginal graph's variables → the DataTree, with (β, u) restored."""
    direct = Direct(model, closed_form=False)
    x = direct.coordinates_of(draws)
    return assemble(model, direct, x, statistics, settings)
