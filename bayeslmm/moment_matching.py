"""Leave-one-out densities where importance weights fail, by moving the draws to where they would be without the row or group.

The draws are shifted to their weighted mean, then scaled to their weighted variances and covariances, as long as the Pareto
shape falls; half of them are moved, and both halves weighted as draws of a mixture (Paananen, Piironen, Bürkner & Vehtari
2021, Statistics and Computing 31, 16). ArviZ does this; here are the density it needs and the coordinates to move in.

A Gaussian model moves (sd, correlations, σ), and β where it is not integrated out; for a group β too, given which the groups
are independent. Of another family move the parameters ψ
and the effects of the row's own levels only, in the coordinates that NUTS moves in (`joint.Joint`): there the other effects
follow β by themselves, and are not moved by the noise of their weighted means.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayeslmm.covariance import partial_correlations
from bayeslmm.direct import Direct
from bayeslmm.errors import MethodError
from bayeslmm.exact.density import lam_of
from bayeslmm.exact.density import natural as natural_at
from bayeslmm.exact.gaussian import INTEGRATED, level, marginal
from bayeslmm.exact.hierarchical import add_effects, add_transposed, parameters
from bayeslmm.joint import Joint
from bayeslmm.leftout import Densities, RowDensity, on_rows
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior, posterior_tree
from bayeslmm.refits import bar
from bayeslmm.restoration import group_log_likelihood
from bayeslmm.thresholds import free_of

Array = NDArray[np.float64]
Index = NDArray[np.integer[Any]]
# Largest error, relative to its size, of a draw that went to the sampler's coordinates and back.
ROUND_TRIP = 1e-6


class Moved(NamedTuple):
    """Log predictive density of a row or group and the Pareto shape of the weights it rests on."""

    elpd: float
    k: float


class Target(Protocol):
    """A posterior in coordinates that may be moved."""

    x: Array  # (chains, draws, size)

    def log_density(self, x: Array) -> Array:
        """Log posterior density (chains, draws) at coordinates (chains, draws, size)."""

    def unit(self, x: Array, i: int) -> Array:
        """Log density (chains, draws) of a row, or a group, given the coordinates (and the other rows)."""

    def moving(self, i: int) -> Index:
        """The coordinates to move for it."""


class Collapsed:
    """A Gaussian posterior, effects integrated out.

    Parameters
    ----------
    posterior : Posterior
    draws : int
        Of each chain; others are thinned out.
    """

    def __init__(self, posterior: Posterior, draws: int) -> None:
        self.direct, self.density = Direct(posterior.model), RowDensity(posterior.model)
        self.x = self.direct.coordinates_of(_natural(posterior, draws))

    def log_density(self, x: Array) -> Array:
        """Log posterior density."""
        return _each(lambda one: self.direct.log_density(one)[0], x)

    def unit(self, x: Array, i: int) -> Array:
        """Log density of a row given the others."""
        return _each(lambda one: float(self.density(one)[0][i]), x)

    def moving(self, i: int) -> Index:
        """All of them."""
        return np.arange(self.x.shape[-1])


class Grouped:
    """A Gaussian posterior of (β, sd, correlations, σ), effects integrated out: what groups are independent given.

    Parameters
    ----------
    posterior : Posterior
    draws : int
        Of each chain; others are thinned out.
    """

    def __init__(self, posterior: Posterior, draws: int) -> None:
        self.model, self.direct, natural = posterior.model, Direct(posterior.model), _natural(posterior, draws)
        self.x = self.direct.coordinates_of(natural)
        if self.direct.gaussian:
            products = self.model.products
            scaled = (natural["fixef"] - products.beta_ols) @ products.R.T / products.y_scale
            self.x = np.concatenate([self.x, scaled], axis=-1)

    def log_density(self, x: Array) -> Array:
        """Log posterior density."""
        return _each(self._log_density, x)

    def _log_density(self, x: Array) -> float:
        direct = self.direct
        value = direct.log_density(x[: direct.size])[0]
        if not direct.gaussian or len(x) == direct.size:
            return value
        layout, system = direct.layout, direct.system
        at = natural_at(layout, x[: direct.size])
        where = marginal(system, lam_of(layout, at, int(system.lam_at[-1]) if len(system.lam_at) else 0))
        found = level(where.S, where.logdet, layout.nobs, at.sigma / layout.y_scale, layout.T, layout.t, INTEGRATED)
        beyond = found.P.T @ (x[direct.size :] - found.beta)
        return float(value + np.log(np.diag(found.P)).sum() - 0.5 * beyond @ beyond)

    def unit(self, x: Array, i: int) -> Array:
        """Log density of a group's rows."""
        direct, model, products = self.direct, self.model, self.model.products
        sigma_at = direct.n_sd + direct.n_corr
        natural, at = {"sigma": np.exp(x[..., sigma_at])}, 0
        for group in model.groups:
            k = len(model.effects(group))
            natural[f"sd_{group}"], at = np.exp(x[..., at : at + k]), at + k
            if model.pairs(group):
                natural[f"corr_{group}"] = np.concatenate(direct.correlations(x, group), axis=-1)
        back = np.linalg.inv(products.R).T * products.y_scale
        natural["fixef"] = products.beta_ols + x[..., sigma_at + 1 :] @ back
        tree = posterior_tree(model, natural, {}, {}, {"energy": natural["sigma"]})
        return np.asarray(group_log_likelihood(Posterior(model, tree, "marginal")).values)[..., i]

    def moving(self, i: int) -> Index:
        """All of them."""
        return np.arange(self.x.shape[-1])


class Whole:
    """A posterior of any family, effects among the coordinates.

    Parameters
    ----------
    posterior : Posterior
    draws : int
        Of each chain; others are thinned out.

    Raises
    ------
    MethodError
        The draws do not come back from the coordinates.
    """

    def __init__(self, posterior: Posterior, draws: int) -> None:
        self.joint, natural = Joint(posterior.model), _natural(posterior, draws)
        self.x = to_coordinates(self.joint, natural)
        again = self.joint.natural(np.ascontiguousarray(self.x[:, :1]))
        for name, values in again.items():
            if not np.allclose(values, natural[name][:, :1], rtol=ROUND_TRIP, atol=ROUND_TRIP):
                raise MethodError(
                    f"the draws of {name} have no place in the sampler's coordinates, so they cannot be moved"
                )

    def log_density(self, x: Array) -> Array:
        """Log posterior density."""
        return _each(lambda one: self.joint.log_density(one)[0], x)

    def unit(self, x: Array, i: int) -> Array:
        """Log density of a row given parameters and effects."""
        model = self.joint.model
        only = on_rows(model, np.arange(model.design.nobs) == i)
        return _posterior(only, self.joint.natural(np.ascontiguousarray(x))).log_likelihood()[..., 0]

    def moving(self, i: int) -> Index:
        """The parameters, and the effects of the row's levels."""
        structure, first = self.joint.model.structure, self.joint.n_parameters
        own = [
            first + structure.rows(f)[block.codes[i]] + np.arange(block.width)
            for f, block in enumerate(structure.factors)
        ]
        return np.concatenate([np.arange(first), *own])


def _each(value: Any, x: Array) -> Array:
    out = np.empty(x.shape[:2])
    for place in np.ndindex(*out.shape):
        out[place] = value(x[place])
    return out


def _natural(posterior: Posterior, draws: int) -> dict[str, Array]:
    """Draws of the posterior's variables (chains, draws, …), thinned as the densities were."""
    node = posterior.data["posterior"].to_dataset()
    node = node.isel(draw=slice(None, None, -(-node.sizes["draw"] // draws)))
    found = {str(name): np.asarray(values.values, float) for name, values in node.data_vars.items()}
    return {"fixef": np.empty((node.sizes["chain"], node.sizes["draw"], 0))} | found


def _posterior(model: Model, natural: dict[str, Array]) -> Posterior:
    effects = {group: natural[f"ranef_{group}"] for group in model.groups}
    size = natural["fixef"].shape[:2]
    return Posterior(model, posterior_tree(model, natural, effects, {}, {"energy": np.zeros(size)}), "hierarchical")


def to_coordinates(joint: Joint, natural: dict[str, Array]) -> Array:
    """Coordinates (chains, draws, size) of draws of the posterior's variables; the inverse of `Joint.natural`.

    Parameters
    ----------
    joint : Joint
    natural : dict of str to ndarray (chains, draws, …)

    Returns
    -------
    ndarray
    """
    model = joint.model
    sds = [natural[f"sd_{group}"] for group in model.groups]
    parts = [joint.sd_coordinates(np.concatenate(sds, axis=-1))] if sds else []
    for group in model.groups:
        at = 0
        for place in (p for p in joint.places if p.group == group and p.correlated):
            pairs = place.size * (place.size - 1) // 2
            parts.append(partial_correlations(natural[f"corr_{group}"][..., at : at + pairs], place.size))
            at += pairs
    if model.dispersion is not None:
        parts.append(np.log(natural[model.dispersion])[..., None])
    parts += _further(model, natural)
    size = natural["fixef"].shape[:2]
    psi = np.concatenate([*parts, natural["fixef"]], axis=-1).reshape(size[0] * size[1], -1)
    u = np.empty((len(psi), len(joint.system.B)))
    for f, block in enumerate(model.structure.factors):
        rows = model.structure.rows(f)[:, None] + np.arange(block.width)
        scaled = natural[f"ranef_{block.group}"] * joint.approximation.effect_scale[f]
        u[:, rows] = scaled.reshape(len(psi), *rows.shape)
    x = np.linalg.solve(joint.frame.root, (psi - joint.frame.centre).T).T
    z = np.array([_standard(joint, one, effects) for one, effects in zip(psi, u, strict=True)])
    return np.concatenate([x, z.reshape(len(psi), -1)], axis=-1).reshape(*size, -1)


def _further(model: Model, natural: dict[str, Array]) -> list[Array]:
    """Coefficients of other formulas, log ν, or τ_1 and the logs of the steps between thresholds."""
    parts = [natural[name] for name in model.priors.further]
    parts += [np.log(natural["nu"])[..., None]] if "nu" in model.priors.second else []
    return parts + ([free_of(natural["thresholds"])] if model.design.ordered else [])


def _standard(joint: Joint, psi: Array, u: Array) -> Array:
    """The z of every level's effects u at ψ: z = L'λ⁻¹u − L⁻¹λ'g (see `exact.maps`)."""
    s, maps, rows = joint.system, joint.maps, joint.data.rows
    p = parameters(joint.layout, int(s.lam_at[-1]), joint.dispersed, psi)
    g = maps.g - maps.C @ p.beta + maps.D @ p.further[: maps.D.shape[1]]
    later, z = np.zeros(len(joint.data.observed.y)), np.empty(len(u))
    factors = joint.model.structure.factors
    for f in range(len(factors) - 1, -1, -1):
        k = factors[f].width
        if f < len(factors) - 1:
            add_transposed(rows, k, f, -maps.weight[f] * later, g)
        lam = p.lam[s.lam_at[f] : s.lam_at[f + 1]].reshape(k, k)
        levels = slice(maps.start[f], maps.start[f + 1])
        at = maps.first[levels][:, None] + np.arange(k)
        S = maps.S[maps.at[levels][:, None] + np.arange(k * k)].reshape(-1, k, k)
        L = np.linalg.cholesky(np.eye(k) + lam.T @ S @ lam)
        b = np.linalg.solve(lam, u[at].T).T
        half = np.linalg.solve(L, (g[at] @ lam)[:, :, None])[:, :, 0]
        z[at] = np.einsum("lji,lj->li", L, b) - half
        add_effects(rows, k, f, u, later)
    return z


def _target(posterior: Posterior, by: str | None, draws: int) -> Target:
    if by is not None:
        return Grouped(posterior, draws)
    return Collapsed(posterior, draws) if posterior.model.family == "gaussian" else Whole(posterior, draws)


def moment_matched(
    posterior: Posterior, by: str | None, found: Densities, units: Index, limit: float, progress: bool
) -> dict[int, Moved]:
    """Move the draws for some rows or groups.

    Parameters
    ----------
    posterior : Posterior
    by : str or None
        The outermost group, or None for rows.
    found : Densities
        Of its rows or groups.
    units : ndarray of int
        Which of them.
    limit : float
        Pareto shape at which to stop.
    progress : bool

    Returns
    -------
    dict of int to Moved

    Raises
    ------
    MethodError
        The posterior's density has no closed form here.
    """
    draws = found.values.shape[1]
    try:
        target = _target(posterior, by, draws)
    except MethodError as error:
        raise MethodError(f"moment_match=True: {error}; refit=True samples again") from error
    moved = {}
    with bar(progress, len(units), "moving draws") as advance:
        for i in map(int, units):
            moved[i] = _moved(posterior, target, found.values[..., i], i, limit)
            advance(1)
    return moved


def _moved(posterior: Posterior, target: Target, values: Array, i: int, limit: float) -> Moved:
    """ArviZ's moment matching of one row or group."""
    import arviz_stats

    which, dims = target.moving(i), ("chain", "draw")

    def full(own: xr.DataArray) -> Array:
        x = target.x.copy()
        x[..., which] = own.transpose(*dims, "coordinate").values
        return x

    node = posterior.data["posterior"].to_dataset()[posterior.parameters]
    node = node.isel(draw=slice(None, None, -(-node.sizes["draw"] // values.shape[1])))
    where = {name: node[name].values for name in dims}
    density = xr.Dataset({"density": ((*dims, "unit"), values[..., None])}, coords=where)
    tree = xr.DataTree.from_dict({"/posterior": node, "/log_likelihood": density})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about Pareto shapes, which the result itself speaks of
        result = arviz_stats.loo_moment_match(
            tree,
            arviz_stats.loo(tree, pointwise=True),
            lambda own: xr.DataArray(target.log_density(full(own)), dims=dims, coords=where),
            lambda own, _: xr.DataArray(target.unit(full(own), i), dims=dims, coords=where),
            upars=xr.DataArray(target.x[..., which], dims=(*dims, "coordinate"), coords=where),
            k_threshold=limit,
            pointwise=True,
        )
    return Moved(float(result.elpd_i.values[0]), float(result.pareto_k.values[0]))
