"""Model of any family → the joint log posterior of its parameters and effects as one compiled function, for NUTS."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from bayeslmm import thresholds
from bayeslmm.approximation import Laplace
from bayeslmm.direct import Place, correlation_draws, encoded, places_of
from bayeslmm.exact.densities import BINOMIAL, NEGATIVE_BINOMIAL, POISSON, log_densities
from bayeslmm.exact.density import Layout
from bayeslmm.exact.hierarchical import Frame, add_effects, add_transposed, log_posterior, restored, row_terms, scale
from bayeslmm.exact.laplace import Observed
from bayeslmm.exact.logpdf import lkj_logconstant
from bayeslmm.exact.maps import Maps
from bayeslmm.exact.rows import Rows
from bayeslmm.exact.second import NO_SECOND, NU, THRESHOLDS
from bayeslmm.family import family_of, linked
from bayeslmm.laplace_mode import Mode, Search
from bayeslmm.model import Model

Array = NDArray[np.float64]
LOG_2PI = float(np.log(2.0 * np.pi))
SECOND = {None: NO_SECOND, "nu": NU, "thresholds": THRESHOLDS}


class Data(NamedTuple):
    """Rows, those with equal predictors joined where that loses nothing, and what their density then lacks."""

    rows: Rows
    observed: Observed
    chosen: NDArray[np.intp]  # the first of the rows that each stands for
    where: NDArray[np.intp]  # (n,) which one stands for a row
    constant: float
    W: Array  # columns of the formulas for the dispersion and for zeros
    Z0: Array

    def total(self, values: Array) -> Array:
        """Sums of the rows' values over the rows that were joined."""
        return np.bincount(self.where, values)


class Joint:
    """The log posterior density of (β, u, sd, correlations, dispersion, zeros) of a model of any family.

    Coordinates y = [x, z]: ψ = [v of every sd, one z per correlation, log dispersion, γ, β] = ψ̂ + Kx with γ the
    coefficients of the formulas for dispersion and zeros, log ν, or τ₁ and the logs of the steps between thresholds, v the
    log of an sd or, where it may be 0, that of `exact.hierarchical.scale`, ψ̂ the mode of the Laplace-approximate posterior in
    log sd and KK' the inverse of its curvature, and the z of every level's effects, mapped along what the level's rows say
    (see `exact.maps`). In these the posterior is nearly standard normal.

    Parameters
    ----------
    model : Model
        With closed-form priors, none of them uniform on an interval.
    adapted : bool
        Whether to use mode, curvature and maps; if not, ψ = x with every v = log sd, and the effects are non-centred.

    Raises
    ------
    MethodError
        A prior has no closed form here; names it.
    """

    def __init__(self, model: Model, *, adapted: bool = True) -> None:
        self.model, self.priors = model, model.priors
        self.approximation = Laplace(model)
        self.system = self.approximation.system
        self.data = joined(model, self.approximation)
        self.layout = self._layout()
        self.dispersed = model.dispersion is not None
        self.maps = self._no_maps()
        n = self.n_parameters
        self.frame = Frame(np.zeros(n), np.eye(n), self.dispersed, self.data.W, self.data.Z0)
        if adapted:
            self._adapt()

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Where each term's parameters stand; terms group by group."""
        scale, lam_at = self.approximation.effect_scale, self.system.lam_at
        return places_of(self.model, self.priors, self.model.structure, scale, lam_at)

    @property
    def n_sd(self) -> int:
        """Number of standard deviations."""
        return len(self.layout.sd_scale)

    @property
    def n_corr(self) -> int:
        """Number of correlations."""
        return int(self.layout.z_at[-1])

    @property
    def n_parameters(self) -> int:
        """Length of ψ."""
        return self.n_sd + self.n_corr + int(self.dispersed) + self.approximation.n_further + self.model.X.shape[1]

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.n_parameters + len(self.system.B)

    def log_density(self, y: Array) -> tuple[float, Array]:
        """Log density of the coordinates and its gradient."""
        value, gradient = log_posterior(*self._arguments, np.asarray(y, float))
        return float(value), gradient

    @property
    def _arguments(self) -> tuple[object, ...]:
        s = self.system
        return self.data.rows, self.data.observed, self.maps, self.layout, self.frame, s.width, s.lam_at

    def natural(self, y: Array) -> dict[str, Array]:
        """Draws of the posterior's variables by name, from coordinates (chains, draws, size)."""
        psi, u = restored(*self._arguments, np.ascontiguousarray(y.reshape(-1, self.size)))
        return self.named(psi, u, y.shape[:2])

    def named(self, psi: Array, u: Array, shape: tuple[int, ...]) -> dict[str, Array]:
        """The posterior's variables by name, of shape (chains, draws, …), from ψ (m, …) and scaled effects u (m, Q)."""
        model = self.model
        out: dict[str, Array] = {}
        sd, at = self.sds(psi[:, : self.n_sd]), 0
        for group in model.groups:
            k = len(model.effects(group))
            out[f"sd_{group}"], at = sd[:, at : at + k], at + k
            if model.pairs(group):
                parts = correlation_draws(self.places, self.layout.z_at, psi[:, self.n_sd :], group)
                out[f"corr_{group}"] = np.concatenate(parts, axis=-1)
        first = self.n_sd + self.n_corr
        if model.dispersion is not None:
            out[model.dispersion] = np.exp(psi[:, first])
        first += int(self.dispersed)
        for name, block in model.design.further.items():
            out[name], first = psi[:, first : first + len(block.names)], first + len(block.names)
        if "nu" in out:
            out["nu"] = np.exp(out["nu"][:, 0])
        if model.design.ordered:
            stop = first + len(model.design.thresholds)
            out["thresholds"], first = thresholds.increasing(psi[:, first:stop]), stop
        out["fixef"] = psi[:, first:]
        for f, factor in enumerate(model.structure.factors):
            rows = model.structure.rows(f)[:, None] + np.arange(factor.width)
            out[f"ranef_{factor.group}"] = u[:, rows] / self.approximation.effect_scale[f]
        return {name: values.reshape(*shape, *values.shape[1:]) for name, values in out.items()}

    def sds(self, v: Array) -> Array:
        """Standard deviations (…, n_sd) from their coordinates in ψ."""
        unit = self.layout.sd_unit
        return np.where(unit > 0.0, unit * np.logaddexp(0.0, v), np.exp(np.where(unit > 0.0, 0.0, v)))

    def sd_coordinates(self, sd: Array) -> Array:
        """The inverse of `sds`."""
        unit = self.layout.sd_unit
        ratio = sd / np.where(unit > 0.0, unit, 1.0)
        return np.where(unit > 0.0, ratio + np.log(-np.expm1(-ratio)), np.log(sd))

    def _layout(self) -> Layout:
        places, priors = self.places, self.priors
        size = np.array([t.size for t in places], np.int64)
        pairs = np.array([t.size * (t.size - 1) // 2 if t.correlated else 0 for t in places], np.int64)
        sd_code, sd_args = encoded([prior for group in self.model.groups for prior in priors.sd[group]])
        noise_code, noise_args = encoded([] if priors.noise is None else [priors.noise])
        beta_code, beta_args = encoded(priors.fixef)
        further, second = list(priors.further.values()), list(priors.second.values())
        further_code, further_args = encoded([prior for block in further for prior in block.priors] + second)
        constant = sum(lkj_logconstant(t.size, t.eta) for t in places if t.correlated) + self.data.constant
        return Layout(
            size,
            np.array([t.sd_at for t in places], np.int64),
            np.concatenate([[0], np.cumsum(pairs)]).astype(np.int64),
            np.concatenate([[0], np.cumsum(size**2)]).astype(np.int64),
            np.array([t.lam_at for t in places], np.int64),
            np.array([t.lam_width for t in places], np.int64),
            np.array([t.correlated for t in places], np.bool_),
            np.array([t.eta for t in places], float),
            np.concatenate([np.empty(0), *(t.scale for t in places)]),
            sd_code,
            sd_args,
            int(noise_code[0]) if len(noise_code) else 0,
            noise_args[0] if len(noise_args) else np.zeros(3),
            1.0,
            self.model.design.nobs,
            np.ascontiguousarray(priors.fixef_transform),
            np.zeros(len(priors.fixef)),
            beta_code,
            beta_args,
            float(constant - 0.5 * len(self.system.B) * LOG_2PI),
            block_diag(np.empty((0, 0)), *(block.transform for block in further), np.eye(len(second))),
            further_code,
            further_args,
            SECOND[family_of(self.model.family).second],
            np.zeros(len(sd_code)),
        )

    def _no_maps(self) -> Maps:
        """Non-centred effects."""
        factors, blocks = self.model.structure.factors, self.model.structure
        counts = [factor.count for factor in factors]
        squares = np.repeat([factor.width**2 for factor in factors], counts).astype(np.int64)
        at = np.concatenate([[0], np.cumsum(squares)]).astype(np.int64)
        starts = [np.empty(0, np.int64), *(blocks.rows(f) for f in range(len(factors)))]
        Q, (n, p) = len(self.system.B), self.data.observed.X.shape
        return Maps(
            np.concatenate(starts).astype(np.int64),
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            at[:-1],
            np.zeros(at[-1]),
            np.zeros(Q),
            np.zeros((Q, p)),
            np.zeros((len(factors), n)),
            np.zeros((Q, len(self.model.design.thresholds))),
        )

    def _maps(self, mode: Mode) -> Maps:
        """Maps along what each level's rows say at the mode."""
        maps, data, blocks = self._no_maps(), self.data, self.model.structure
        later = np.zeros(len(data.observed.y))
        for f in range(len(blocks.factors) - 1, -1, -1):
            factor, found = blocks.factors[f], mode.factors[f]
            rows = blocks.rows(f)[:, None] + np.arange(factor.width)
            levels = slice(maps.start[f], maps.start[f + 1])
            squares = maps.at[levels][:, None] + np.arange(factor.width**2)
            maps.S[squares] = found.information.reshape(factor.count, -1)
            maps.C[rows], maps.D[rows] = found.fall, found.rise
            maps.weight[f] = data.total(mode.weight) * found.share[factor.codes[data.chosen]]
            maps.g[rows] = found.score + found.fall @ mode.beta - found.rise @ mode.tau
            add_transposed(data.rows, factor.width, f, maps.weight[f] * later, maps.g)
            add_effects(data.rows, factor.width, f, mode.u, later)
        return maps

    def _adapt(self) -> None:
        """Find the Laplace mode, and lay coordinates and maps around it."""
        search = Search(self.model, self.approximation, self.layout)
        centre, root = search.mode_and_root()
        self.maps = self._maps(search.mode(centre))
        self.layout = self.layout._replace(sd_unit=search.sd_units(centre, root))
        sd = np.exp(centre[: self.n_sd])
        centre[: self.n_sd] = self.sd_coordinates(sd)
        slope = [scale(unit, v).slope for unit, v in zip(self.layout.sd_unit, centre, strict=False)]
        root[: self.n_sd] /= np.array(slope)[:, None]
        self.frame = self.frame._replace(centre=centre, root=root)
        self.layout = self.layout._replace(constant=self.layout.constant + float(np.log(np.diag(root)).sum()))


def joined(model: Model, a: Laplace) -> Data:
    """Rows with equal predictors as one row: of binomial and Poisson responses, whose sums are sufficient.

    With dispersions or zeros of their own, only rows whose responses are equal too.
    """
    d, rows, n = a.observed, a.rows, model.design.nobs
    summed = d.family in (BINOMIAL, POISSON) and not d.zeros
    if not summed and not a.n_further:
        same = Data(rows, d, np.arange(n), np.arange(n), 0.0, a.W, a.Z0)
        return same._replace(constant=_left_out(model, d, d)) if d.family == NEGATIVE_BINOMIAL else same
    own = [] if summed else [d.y, d.trials, a.W, a.Z0, d.aux_rows]
    alike = [d.X, d.offset, rows.columns, rows.level, *own]
    _, chosen, where = np.unique(np.column_stack(alike), axis=0, return_index=True, return_inverse=True)
    where = where.ravel()
    fewer = _summed(d, chosen, where) if summed else _counted(d, chosen, where)
    few = Rows(rows.columns[chosen], rows.first, rows.level[chosen], rows.at[chosen], rows.swapped[chosen])
    constant = _left_out(model, d, fewer) if summed else 0.0
    return Data(few, fewer, chosen, where, constant, a.W[chosen], a.Z0[chosen])


def _summed(d: Observed, chosen: NDArray[np.intp], where: NDArray[np.intp]) -> Observed:
    """One row for the sum of each set's responses."""
    weights, y = np.bincount(where, d.weights), np.bincount(where, d.weights * d.y)
    binomial = d.family == BINOMIAL
    return _chosen(d, chosen)._replace(
        y=y if binomial else y / weights,
        trials=np.bincount(where, d.weights * d.trials) if binomial else np.ones(len(y)),
        weights=np.ones(len(y)) if binomial else weights,
    )


def _counted(d: Observed, chosen: NDArray[np.intp], where: NDArray[np.intp]) -> Observed:
    """One row for each set of equal ones, of their weights' sum."""
    return _chosen(d, chosen)._replace(y=d.y[chosen], trials=d.trials[chosen], weights=np.bincount(where, d.weights))


def _chosen(d: Observed, chosen: NDArray[np.intp]) -> Observed:
    """The known part of some rows."""
    return d._replace(
        offset=d.offset[chosen],
        X=np.ascontiguousarray(d.X[chosen]),
        aux_rows=d.aux_rows[chosen],
        zeta=d.zeta[chosen],
    )


def _left_out(model: Model, whole: Observed, joined: Observed) -> float:
    """Log density of the rows less what `row_terms` makes of them, the same at every η."""
    eta = np.full(len(whole.y), float(linked(model.link, np.array(0.5 if whole.family == BINOMIAL else 1.0))))
    full = log_densities(whole.family, whole.link, whole.y, whole.trials, eta, 0.0)
    kept, _ = row_terms(joined, eta[: len(joined.y)], 0.0, np.empty(len(joined.y)))
    return float(whole.weights @ full - kept)
