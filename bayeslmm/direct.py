"""Model → its collapsed log posterior as one compiled function, for NUTS and for MAP, without compiling a PyMC model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.covariance import correlation_factors, partial_correlations
from bayeslmm.distributions import Prior
from bayeslmm.errors import MethodError
from bayeslmm.exact.blocks import Structure
from bayeslmm.exact.density import Layout, correlation_terms, lam_of, lam_pullback, log_posterior, natural
from bayeslmm.exact.gaussian import JOINT, level, level_at, marginal
from bayeslmm.exact.logpdf import encode, lkj_logconstant, logpdf
from bayeslmm.exact.pullback import pullback
from bayeslmm.model import Model
from bayeslmm.priors import Priors
from bayeslmm.scale_priors import ScalePriors
from bayeslmm.terms import RandomTerm

Array = NDArray[np.float64]


class Place(NamedTuple):
    """Where one term's parameters stand among the coordinates and in `lam`."""

    group: str
    term: RandomTerm
    size: int  # effects k
    sd_at: int
    lam_at: int
    lam_width: int
    correlated: bool
    eta: float  # LKJ parameter of its correlations
    scale: Array  # powers of two that its columns were divided by


def places_of(
    model: Model, priors: Priors, blocks: Structure, effect_scale: Sequence[Array], lam_starts: NDArray[np.int64]
) -> tuple[Place, ...]:
    """Where each term's parameters stand; terms group by group."""
    factor_of = {factor.group: f for f, factor in enumerate(blocks.factors)}
    rows: list[Place] = []
    at = 0
    for group in model.groups:
        f, before = factor_of[group], 0
        width = blocks.factors[f].width
        corr = priors.corr[group]
        for term in (t for t in model.design.random if t.group == group):
            k = len(term.effects)
            lam_at = int(lam_starts[f]) + before * (width + 1)
            eta = float(corr.args["eta"]) if corr is not None else 1.0
            scale = effect_scale[f][before : before + k]
            rows.append(Place(group, term, k, at, lam_at, width, bool(term.covariance.pairs), eta, scale))
            at, before = at + k, before + k
    return tuple(rows)


def encoded(priors: Sequence[Prior], closed_form: bool = True) -> tuple[NDArray[np.int64], Array]:
    """Codes (m,) and arguments (m, 3); a prior without closed form is refused, or counts as flat."""
    for prior in priors:
        if not prior.closed_form and closed_form:
            raise MethodError(f"the prior {prior} has no closed form here; use the PyMC graph (bl.to_pymc, bl.sample)")
    rows = [encode(prior.name, prior.args) if prior.closed_form else encode("Flat", {}) for prior in priors]
    return np.array([r[0] for r in rows], np.int64), np.array([r[1:] for r in rows], float).reshape(-1, 3)


def correlation_draws(places: Sequence[Place], z_at: NDArray[np.int64], z: Array, group: str) -> list[Array]:
    """Draws of the correlations (…, pairs) of each correlated term on a group, from their coordinates z (…, all pairs)."""
    found = []
    for row, start in zip(places, z_at[:-1], strict=True):
        if row.group == group and row.correlated:
            k = row.size
            L = correlation_factors(z[..., start : start + k * (k - 1) // 2], k)
            R = L @ np.swapaxes(L, -1, -2)
            rows, columns = np.triu_indices(k, 1)
            found.append(R[..., rows, columns])
    return found


class Direct:
    """The log posterior density of (β, sd, correlations, σ), random effects integrated out.

    Coordinates are ordered ``[sd of every effect, one z per correlation, σ (, β)]``: sds group by group, effects as in
    `Model.effects`. `log_density` moves in ``[log sd, z, log σ, β in the scale of Q]``.

    Parameters
    ----------
    model : Model
        A Gaussian model.
    closed_form : bool
        Whether every prior must have a closed form; if not, the others count as flat.
    likelihood_only : bool
        Whether to leave the model's priors out: uniform on sd, correlations, σ and β, density 1 everywhere.

    Raises
    ------
    MethodError
        A prior has no closed form here; names it.
    """

    def __init__(self, model: Model, *, closed_form: bool = True, likelihood_only: bool = False) -> None:
        self.model = model
        self.closed_form = closed_form
        self.likelihood_only = likelihood_only
        self.priors = model.flat_priors if likelihood_only else model.priors
        self.gaussian = self.priors.gaussian
        self.layout = self._layout()
        self.system = model.products.system

    @property
    def n_sd(self) -> int:
        """Number of standard deviations of random effects."""
        return sum(len(self.model.effects(group)) for group in self.model.groups)

    @property
    def n_corr(self) -> int:
        """Number of correlations."""
        return sum(len(self.model.pairs(group)) for group in self.model.groups)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.n_sd + self.n_corr + 1 + (0 if self.gaussian else self.model.products.n_fixed)

    @cached_property
    def normal_prior(self) -> tuple[Array, Array]:
        """T (p, p) and t (p,) with prior exp(−½‖T β_Q − t‖²), β_Q the coefficients in the scale of Q."""
        root, mean = self.priors.fixef_root, self.priors.fixef_mean
        if root is None or mean is None:
            raise MethodError("the prior on β is not normal, so β cannot be integrated out")
        return np.ascontiguousarray(root @ self.back), root @ (mean - self.model.products.beta_ols)

    @property
    def scaled_precision(self) -> Array:
        """Prior precision of β_Q."""
        root, _ = self.normal_prior
        return np.asarray(root.T @ root)

    @cached_property
    def back(self) -> Array:
        """β − β_ols = back @ β_Q."""
        products = self.model.products
        return np.linalg.inv(products.R) * products.y_scale if products.n_fixed else np.empty((0, 0))

    def _layout(self) -> Layout:
        model, products = self.model, self.model.products
        places = self.places
        size = np.array([t.size for t in places], np.int64)
        pairs = np.array([t.size * (t.size - 1) // 2 if t.correlated else 0 for t in places], np.int64)
        sd_priors = [prior for group in model.groups for prior in self.priors.sd[group]]
        sd_code, sd_args = self._encoded(sd_priors)
        sigma_code, sigma_args = self._encoded([self.priors.sigma])
        scale = np.empty(len(sd_priors))
        for term in places:
            scale[term.sd_at : term.sd_at + term.size] = term.scale
        T, t, beta_code, beta_args = self._beta_prior()
        return Layout(
            size,
            np.array([t.sd_at for t in places], np.int64),
            np.concatenate([[0], np.cumsum(pairs)]).astype(np.int64),
            np.concatenate([[0], np.cumsum(size**2)]).astype(np.int64),
            np.array([t.lam_at for t in places], np.int64),
            np.array([t.lam_width for t in places], np.int64),
            np.array([t.correlated for t in places], np.bool_),
            np.array([t.eta for t in places], float),
            scale,
            sd_code,
            sd_args,
            int(sigma_code[0]),
            sigma_args[0],
            products.y_scale,
            model.design.nobs,
            T,
            t,
            beta_code,
            beta_args,
            self._constant(places),
        )

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Where each term's parameters stand; terms group by group."""
        products = self.model.products
        return places_of(self.model, self.priors, products.structure, products.effect_scale, products.system.lam_at)

    def _beta_prior(self) -> tuple[Array, Array, NDArray[np.int64], Array]:
        p = self.model.products.n_fixed
        if self.gaussian:
            return *self.normal_prior, np.empty(0, np.int64), np.empty((0, 3))
        transform = self.priors.fixef_transform
        code, args = self._encoded(list(self.priors.fixef))
        return transform @ self.back, -transform @ self.model.products.beta_ols, code, args.reshape(p, 3)

    def _constant(self, places: tuple[Place, ...]) -> float:
        """What is added so that the value is a log density in the data's units."""
        products = self.model.products
        value = -products.nobs * np.log(products.y_scale) + 0.5 * products.sum_log_weights
        value += self._lkj_constant(places)
        if self.gaussian:
            value += float(self.priors.fixef_logconstant or 0.0)
            value += products.n_fixed * np.log(products.y_scale) - products.logdet_R
        return float(value)

    def _encoded(self, priors: list[Prior]) -> tuple[NDArray[np.int64], Array]:
        return encoded(priors, self.closed_form)

    def _lkj_constant(self, places: tuple[Place, ...]) -> float:
        if self.likelihood_only:
            return 0.0
        return sum(lkj_logconstant(t.size, t.eta) for t in places if t.correlated)

    @property
    def likelihood_constant(self) -> float:
        """What the likelihood alone adds: the layout's constant without the LKJ normalisers."""
        return float(self.layout.constant - self._lkj_constant(self.places))

    def log_density(self, x: Array, jacobian: bool = True) -> tuple[float, Array]:
        """Log posterior at the sampler's coordinates and its gradient; see `exact.density.log_posterior`."""
        value, gradient = log_posterior(self.system, self.layout, np.asarray(x, float), jacobian)
        return float(value), gradient

    def minus_twice_at(
        self, theta: Array, log_sigma: float, mode: int, beta: Array | None = None
    ) -> tuple[float, Array]:
        """−2 log posterior of the natural parameters as a function of (theta, log(σ / y_scale) (, β_Q)).

        The density is that of sd, correlations and σ (no Jacobian); only the coordinates are theta's, so that a zero
        variance is a point of the domain.
        """
        sigma = float(np.exp(log_sigma)) * self.layout.y_scale
        lam = self.model.products.lam(theta)
        value, lam_bar, sigma_bar, beta_bar = self._likelihood(lam, sigma, mode, beta)
        prior, theta_bar, sigma_slope = self._scale_priors(self.model.factors(theta), sigma)
        sigma_part = np.array([(sigma_bar + sigma_slope) * sigma])
        gradient = [self.model.products.theta_bar(lam_bar) + theta_bar, sigma_part]
        if beta is not None:
            density, slope = self._coefficient_prior(beta)
            prior += density
            gradient.append(beta_bar + slope)
        return -2.0 * (value + prior), -2.0 * np.concatenate(gradient)

    def minus_twice_natural(self, x: Array, mode: int) -> tuple[float, Array]:
        """−2 log posterior of the natural parameters as a function of ``[sd, z, log σ]``."""
        layout = self.layout
        inner = x.copy()
        inner[: self.n_sd] = 0.0
        at = natural(layout, inner)._replace(sd=x[: self.n_sd])
        lam = lam_of(layout, at, int(self.system.lam_at[-1]) if len(self.system.lam_at) else 0)
        value, lam_bar, sigma_bar, _ = self._likelihood(lam, at.sigma, mode, None)
        gradient, L_bar = np.zeros(len(x)), np.zeros(len(at.L))
        sigma_bar += lam_pullback(layout, at, lam_bar, gradient, L_bar)
        value += correlation_terms(layout, x[self.n_sd :], L_bar, gradient[self.n_sd :], False)
        for i, sd in enumerate(x[: self.n_sd]):
            density, slope = logpdf(layout.sd_code[i], *layout.sd_args[i], sd)
            value += density
            gradient[i] += slope
        density, slope = logpdf(layout.sigma_code, *layout.sigma_args, at.sigma)
        gradient[self.n_sd + self.n_corr] = (sigma_bar + slope) * at.sigma
        return -2.0 * (value + density), -2.0 * gradient

    def _likelihood(self, lam: Array, sigma: float, mode: int, beta: Array | None) -> tuple[float, Array, float, Array]:
        """Log density of y with β integrated, maximised or given; cotangents of lam, σ and β_Q."""
        where = marginal(self.system, lam)
        scaled, products, constant = sigma / self.layout.y_scale, self.model.products, self.layout.constant
        if beta is None:
            found = level(where.S, where.logdet, self.layout.nobs, scaled, *self.normal_prior, mode)
            value, gbar, Gbar, sigma_bar, beta_bar = found.value, found.gbar, found.Gbar, found.sigma_bar, np.empty(0)
            if mode == JOINT:
                constant -= products.n_fixed * np.log(products.y_scale) - products.logdet_R
        else:
            value, gbar, Gbar, sigma_bar, beta_bar = level_at(where.S, where.logdet, self.layout.nobs, scaled, beta)
        lam_bar = pullback(self.system, lam, where.factor, gbar, Gbar) if len(lam) else np.empty(0)
        return value + constant, lam_bar, sigma_bar / self.layout.y_scale, beta_bar

    @cached_property
    def _scales(self) -> ScalePriors:
        return ScalePriors(self.model.terms, self.places, self.layout.sd_code, self.layout.sd_args)

    def _scale_priors(self, factors: list[Array], sigma: float) -> tuple[float, Array, float]:
        """Log prior of sd, correlations and σ at the factors λ; cotangents of theta and σ."""
        value, theta_bar, sigma_bar = self._scales.at(factors, sigma)
        density, slope = logpdf(self.layout.sigma_code, *self.layout.sigma_args, sigma)
        return value + density, theta_bar, sigma_bar + slope

    def _coefficient_prior(self, beta: Array) -> tuple[float, Array]:
        """Log prior of the coefficients at β_Q where it is not jointly normal, and its gradient."""
        shifted = self.layout.T @ beta - self.layout.t
        pairs = [
            logpdf(code, *args, v)
            for code, args, v in zip(self.layout.beta_code, self.layout.beta_args, shifted, strict=True)
        ]
        return sum(density for density, _ in pairs), self.layout.T.T @ np.array([slope for _, slope in pairs])

    def coordinates(self, theta: Array, sigma: float) -> Array:
        """``[sd, z, log σ]`` at theta and sigma; correlations start at 0."""
        sd = [natural_sd for natural_sd, _ in self._by_term(theta, sigma)]
        return np.concatenate([*sd, np.zeros(self.n_corr), [np.log(sigma)]])

    def _by_term(self, theta: Array, sigma: float) -> list[tuple[Array, Array]]:
        ends = np.cumsum([0] + [term.covariance.n_theta for term in self.model.terms])
        own = {id(t): theta[a:b] for t, a, b in zip(self.model.terms, ends[:-1], ends[1:], strict=True)}
        return [row.term.covariance.natural(own[id(row.term)], sigma) for row in self.places]

    def theta_sigma(self, x: Array) -> tuple[Array, float]:
        """Theta and sigma at ``[sd, z, log σ]``."""
        inner = x.copy()
        inner[: self.n_sd] = 0.0
        at = natural(self.layout, inner)
        own = {}
        for row, start in zip(self.places, self.layout.L_at[:-1], strict=True):
            k = row.size
            lam = x[row.sd_at : row.sd_at + k, None] / at.sigma * at.L[start : start + k * k].reshape(k, k)
            own[id(row.term)] = row.term.covariance.theta(lam)
        return np.concatenate([np.empty(0), *(own[id(term)] for term in self.model.terms)]), float(at.sigma)

    def sampling_start(self) -> Array:
        """Coordinates near the posterior's bulk: the REML fit, no sd smaller than a tenth of the residual's share."""
        from bayeslmm.optimise import minimise

        basis = self.model.theta_basis
        covariances = [term.covariance for term in self.model.terms]
        gaussian = self.model.gaussian
        optimum = minimise(gaussian.deviance_gradient, self.model.theta_start, covariances, basis)
        at = gaussian.profile(optimum.theta)
        sigma = self.model.products.sigma(at.rss, reml=True)
        x = np.zeros(self.size)
        natural_part = self.coordinates(optimum.theta, sigma)
        x[: len(natural_part)] = natural_part
        x[: self.n_sd] = np.log(np.maximum(x[: self.n_sd], 0.1 * sigma / self.layout.sd_scale))
        if not self.gaussian:
            x[len(natural_part) :] = at.beta
        return x

    def correlations(self, x: Array, group: str) -> list[Array]:
        """Draws of the correlations (…, pairs) of each correlated term on a group, from coordinates (…, size)."""
        return correlation_draws(self.places, self.layout.z_at, x[..., self.n_sd :], group)

    def coordinates_of(self, draws: Mapping[str, Array]) -> Array:
        """Coordinates (chains, draws, size) of draws of the natural variables."""
        parts = [np.log(draws[f"sd_{group}"]) for group in self.model.groups]
        for group in self.model.groups:
            at = 0
            for row in (r for r in self.places if r.group == group and r.correlated):
                pairs = row.size * (row.size - 1) // 2
                parts.append(partial_correlations(draws[f"corr_{group}"][..., at : at + pairs], row.size))
                at += pairs
        parts.append(np.log(draws["sigma"])[..., None])
        if not self.gaussian:
            products = self.model.products
            parts.append((draws["fixef"] - products.beta_ols) @ products.R.T / products.y_scale)
        return np.concatenate(parts, axis=-1)

    @property
    def sd_unit(self) -> Array:
        """Natural size of each sd: the residual's scale over that of the effect's column."""
        return self.layout.y_scale / self.layout.sd_scale
