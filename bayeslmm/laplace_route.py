"""The Laplace route: NUTS on the Laplace-approximate posterior of ψ, then effects and a correction by importance weights.

With p̃(ψ) ∝ prior × exp L(ψ), L Laplace's approximation of log p(y | ψ), and r(ψ) an unbiased estimate of p(y | ψ)/exp L(ψ)
(see `exact.importance`), draws of ψ from p̃ that weigh r are draws from the posterior. The weights are Pareto-smoothed; their
shape k says whether they can be trusted (Vehtari, Simpson, Gelman, Yao & Gabry 2024, Journal of Machine Learning Research
25). If they can, draws are resampled by them, chain by chain; if not, they stay as they were.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import ndtri

from bayeslmm.approximation import Laplace
from bayeslmm.exact.compiled import compilation_notice
from bayeslmm.exact.importance import Noise, Parts, weighted_effects
from bayeslmm.joint import Joint
from bayeslmm.laplace_mode import Search
from bayeslmm.model import Model
from bayeslmm.nuts import Density, check_complete, density_trace, statistics

Array = NDArray[np.float64]
# Draws of each level's effects, and of those of the other factors, by whether there are others.
INNER = {False: 16, True: 8}
OUTER = {False: 1, True: 16}
# Draws of ψ that share random numbers, and numbers that are held at a time.
MOST_AT_ONCE = 2_000_000
# Draws of which a tail can be fitted: ArviZ takes a fifth of them, and five at least.
LEAST_DRAWS = 25
# Range of log weights below which they are constant: what rounding leaves where Laplace's approximation is exact.
CONSTANT = 1e-9


class Weights(NamedTuple):
    """Importance weights of draws."""

    log_weight: Array  # (chains, draws) as estimated
    weight: Array  # (chains, draws) smoothed
    pareto_k: float  # NaN where weights are constant, +inf where there are too few draws to tell

    @property
    def limit(self) -> float:
        """The shape from which weights are not to be trusted, min(1 − 1/log₁₀ S, 0.7) for S draws."""
        return float(min(1.0 - 1.0 / np.log10(max(self.weight.size, 2)), 0.7))

    @property
    def reliable(self) -> bool:
        """Whether the draws can be corrected."""
        return not self.pareto_k > self.limit

    @property
    def effective(self) -> float:
        """Kish's effective number of draws, as a share of all."""
        return float(self.weight.sum() ** 2 / (self.weight.size * np.sum(self.weight**2)))


class Draws(NamedTuple):
    """What the route gives: variables by name (chains, draws, …), sample statistics, what is said of the correction."""

    variables: dict[str, Array]
    statistics: dict[str, Array]
    attrs: dict[str, Any]


def laplace_draws(model: Model, settings: dict[str, Any], corrected: bool) -> Draws:
    """Sample ψ, weigh and restore."""
    with compilation_notice(weighted_effects):
        joint = Joint(model)
        weigh_draws(joint, joint.frame.centre[None], 0, 1)
    centre, root = joint.frame.centre, joint.frame.root

    def make() -> Density:
        search = Search(model, own(joint), joint.layout)

        def density(x: Array) -> tuple[float, Array]:
            value, gradient = search.density(centre + root @ x)
            return value, root.T @ gradient

        return density

    trace = density_trace(len(centre), make, lambda x: x, np.zeros(len(centre)), settings)
    x = np.asarray(trace["posterior"]["x"].values, float)
    check_complete(x, settings)
    psi, shape = centre + x.reshape(-1, len(centre)) @ root.T, x.shape[:2]
    seed, cores = int(settings["seed"]), int(settings["cores"])
    ratio, u = weigh_draws(joint, psi, seed, cores)
    weights = smoothed(ratio.reshape(shape))
    use = corrected and weights.reliable
    if not use:
        _, u = weigh_draws(joint, psi, seed, cores, particles=(1, 1))
    source = resampled(weights.weight, seed) if use else np.tile(np.arange(shape[1]), (shape[0], 1))
    kept = (source + shape[1] * np.arange(shape[0])[:, None]).ravel()
    stats = statistics(trace["sample_stats"]) | {"log_weight": weights.log_weight, "source": source}
    said = {"pareto_k": weights.pareto_k, "pareto_k_limit": weights.limit, "weight_efficiency": weights.effective}
    attrs = said | {"approximate": 1, "corrected": int(use), "correction_wanted": int(corrected)}
    return Draws(joint.named(psi[kept], u[kept], shape), stats, attrs)


def own(joint: Joint) -> Laplace:
    """An approximation that shares nothing mutable, on the rows that the joint density has joined."""
    approximation = Laplace(joint.model)
    approximation.rows, approximation.observed = joint.data.rows, joint.data.observed
    approximation.W, approximation.Z0 = joint.data.W, joint.data.Z0
    return approximation


def weigh_draws(
    joint: Joint, psi: Array, seed: int, cores: int, particles: tuple[int, int] | None = None
) -> tuple[Array, Array]:
    """log r (m,) at draws of ψ (m, …), and scaled effects (m, Q) given each.

    Random numbers belong to blocks of draws, so that the result does not depend on `cores`.
    """
    if not joint.model.groups:
        return np.zeros(len(psi)), np.empty((len(psi), 0))
    parts = parts_of(joint)
    several = len(joint.model.structure.factors) > 1
    J, K = particles or (OUTER[several], INNER[several])
    Q, first = len(joint.system.B), joint.system.A11.shape[0] * joint.system.A11.shape[1]
    size = max(1, MOST_AT_ONCE // (J * K * Q))
    out, u = np.empty(len(psi)), np.empty((len(psi), Q))

    def work(start: int) -> None:
        rows = slice(start, min(start + size, len(psi)))
        rng, a = np.random.default_rng([seed, start, 11]), own(joint)
        noise = _noise(rng, (rows.stop - start, J, K), first, Q - first, parts, particles is None)
        out[rows] = weighted_effects(
            a.system, a.rows, a.observed, joint.layout, joint.frame, psi[rows], noise, parts, u[rows]
        )

    with ThreadPoolExecutor(max_workers=cores) as pool:
        list(pool.map(work, range(0, len(psi), size)))
    return out, u


def _noise(
    rng: np.random.Generator, sizes: tuple[int, int, int], first: int, rest: int, parts: Parts, heavy: bool
) -> Noise:
    """Normals of the inner draws from a shifted grid of K quantiles, those of the outer ones in antithetic pairs."""
    m, J, K = sizes
    shift = rng.random((m, J, first, 1))
    order = rng.permuted(np.broadcast_to(np.arange(K), (m, J, first, K)), axis=-1)
    outer = rng.standard_normal((m, J, rest))
    outer[:, J // 2 : 2 * (J // 2)] = -outer[:, : J // 2]
    share = (order + shift) / K
    inner = t4_quantile(share) if heavy else ndtri(share)
    return Noise(inner, outer, rng.random((m, J, len(parts.level))), rng.random((m, parts.size)), heavy)


def t4_quantile(p: Array) -> Array:
    """Quantiles of Student's t with four degrees of freedom (Shaw 2006, Journal of Computational Finance 9(4))."""
    root = 2.0 * np.sqrt(p * (1.0 - p))
    return np.asarray(2.0 * np.sign(p - 0.5) * np.sqrt(np.maximum(np.cos(np.arccos(root) / 3.0) / root - 1.0, 0.0)))


def parts_of(joint: Joint) -> Parts:
    """Levels that no row ties together, directly or through others, lie in different parts."""
    structure, level = joint.model.structure, joint.data.rows.level
    factors, Q = structure.factors, len(joint.system.B)
    tied = [(level[:, 0], level[:, f]) for f in range(len(factors))]
    tied += [
        (structure.rows(f), structure.rows(f) + i) for f, factor in enumerate(factors) for i in range(factor.width)
    ]
    one, two = (np.concatenate(ends) for ends in zip(*tied, strict=True))
    count, part = connected_components(coo_array((np.ones(len(one)), (one, two)), shape=(Q, Q)), directed=False)
    first, width = joint.system.A11.shape[0] * joint.system.A11.shape[1], factors[0].width
    return Parts(int(count), part[:first:width].astype(np.int64), part[first:].astype(np.int64))


def smoothed(log_weight: Array) -> Weights:
    """Pareto-smoothed weights (chains, draws)."""
    from arviz_stats.base.array import array_stats

    if np.ptp(log_weight) < CONSTANT:
        return Weights(log_weight, np.ones_like(log_weight), float("nan"))
    if log_weight.size < LEAST_DRAWS:
        return Weights(log_weight, np.exp(log_weight - log_weight.max()), float("inf"))
    smooth, k = array_stats.psislw(-log_weight.ravel())
    return Weights(log_weight, np.exp(smooth - smooth.max()).reshape(log_weight.shape), float(k))


def resampled(weight: Array, seed: int) -> NDArray[np.int64]:
    """Which draw of its chain each kept draw is (chains, draws): systematic resampling, in the order of the chain."""
    rng, draws = np.random.default_rng([seed, 13]), weight.shape[1]
    positions = (np.arange(draws) + rng.random((len(weight), 1))) / draws
    share = np.cumsum(weight, axis=1) / weight.sum(axis=1, keepdims=True)
    found = [np.searchsorted(of, at, side="right") for of, at in zip(share, positions, strict=True)]
    return np.minimum(np.array(found), draws - 1)
