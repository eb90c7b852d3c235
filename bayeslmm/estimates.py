"""One result → its estimates, uncertainties and intervals of (β, sd, correlations, σ), under the public names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslmm.direct import Direct
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.held import hold
from bayeslmm.marginal_model import MarginalModel
from bayeslmm.model import Model
from bayeslmm.natural_points import posterior_draws as posterior_draws
from bayeslmm.posterior import Posterior
from bayeslmm.quasi import QuasiFit
from bayeslmm.result import PointFit, natural_by_group

Array = NDArray[np.float64]
NORMAL_975 = 1.959963984540054
STEP = 1e-5  # central differences of smooth maps: an error of about 1e-10
EDGE = 1e-8  # 1 − |correlation| below which a correlation is at ±1
COEFFICIENTS = ("fixef[", "dispersion[", "zero[", "thresholds[")  # what names of coefficients, unbounded, begin with


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates of one result, one entry per parameter.

    Parameters
    ----------
    label : str
        What the result is called: "REML", "posterior".
    result : PointFit, Posterior or MarginalModel
    names : tuple of str
        Public names, m of them: ``fixef[Days]``, ``sd_Subject[Days]``, ``corr_Subject[Intercept, Days]``, ``sigma``; of
        formulas for dispersion and zeros ``dispersion[x]``, ``zero[Intercept]``.
    estimate, uncertainty, lower, upper : ndarray (m,)
        Estimate (posterior mean), standard error (posterior sd), 95 % interval; NaN where there is none.
    covariance : ndarray (v, v) or None
        For a point fit, covariance of [log sd, atanh correlation, log σ] from the curvature of the criterion.
    draws : ndarray (chains, draws, m) or None
        For a posterior, its draws.
    """

    label: str
    result: Any
    names: tuple[str, ...]
    estimate: Array
    uncertainty: Array
    lower: Array
    upper: Array
    covariance: Array | None = None
    draws: Array | None = None

    def at(self, name: str) -> int:
        """Position of a parameter."""
        return self.names.index(name)


def parameter_names(model: Model) -> tuple[str, ...]:
    """Public names of β, the sds, the correlations and σ of a model, and of coefficients for dispersion and zeros.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> parameter_names(bl.Model("y ~ 1 + (1 | g)", data))
    ('fixef[Intercept]', 'sd_g[Intercept]', 'sigma')
    """
    return (*(f"fixef[{name}]" for name in model.design.fixed.names), *variance_names(model), *further_names(model))


def further_names(model: Model) -> tuple[str, ...]:
    """Public names of the coefficients of the formulas for dispersion and zeros, ``zero[Intercept]``, and of ν or thresholds."""
    blocks = [(name, block) for name, block in model.design.further.items() if name != "nu"]
    return (*(f"{name}[{column}]" for name, block in blocks for column in block.names), *model.design.second_names)


def variance_names(model: Model) -> tuple[str, ...]:
    """Public names of the sds and correlations, group by group, and σ, or the dispersion of another family if it has one."""
    names = []
    for group in model.groups:
        effects = model.effects(group)
        names += [f"sd_{group}[{effect}]" for effect in effects]
        names += [f"corr_{group}[{effects[i]}, {effects[j]}]" for i, j in model.pairs(group)]
    noise = model.dispersion
    return (*names, noise) if noise else tuple(names)


def natural_vector(model: Model, theta: Array, noise: float) -> Array:
    """The sds, correlations and σ (or the family's dispersion) at theta, in the order of `variance_names`."""
    sd, corr = natural_by_group(model, theta, noise if model.family == "gaussian" else 1.0)
    parts = [np.empty(0)]
    for group in model.groups:
        parts += [sd[group], np.array([corr[group][i, j] for i, j in model.pairs(group)])]
    return np.concatenate([*parts, [noise] if model.dispersion else []])


def natural_of(fit: PointFit) -> Array:
    """The sds, correlations and σ (or the family's dispersion) of a fit, in the order of `variance_names`."""
    found = natural_vector(fit.model, fit.theta, fit.dispersion if isinstance(fit, GeneralizedFit) else fit.sigma)
    if isinstance(fit, QuasiFit):  # its θ is relative to its residual scale
        found *= np.where([name.startswith("sd_") for name in variance_names(fit.model)], fit.sigma, 1.0)
    return found


def public_vector(fit: PointFit) -> Array:
    """All estimates of a fit, in the order of `parameter_names`."""
    return np.concatenate([fit.beta, natural_of(fit), _further(fit)[0]])


def estimates(result: PointFit | Posterior | MarginalModel, label: str) -> Estimates:
    """The estimates of a result.

    A point fit's standard errors of sd, correlations and σ come from the curvature of its criterion at the optimum, by
    the delta method in log sd, atanh of the correlation and log σ; its intervals are Wald's on those scales and on β.
    They are NaN at the boundary, where the curvature says nothing, and for parameters held fixed. A posterior's
    intervals have equal tails.

    Parameters
    ----------
    result : PointFit or Posterior
        What to read.
    label : str
        What to call it.

    Returns
    -------
    Estimates

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> estimates(bl.fit(bl.Model("y ~ 1 + (1 | g)", data)), "REML").estimate.round(3).tolist()
    [3.75, 1.893, 0.842]
    """
    if isinstance(result, MarginalModel):
        return _of_marginal(result, label)
    return _of_posterior(result, label) if isinstance(result, Posterior) else _of_point(result, label)


def _of_marginal(marginal: MarginalModel, label: str) -> Estimates:
    beta, se = marginal.beta, marginal.se
    names = tuple(f"fixef[{name}]" for name in marginal.model.design.fixed.names)
    return Estimates(label, marginal, names, beta, se, beta - NORMAL_975 * se, beta + NORMAL_975 * se)


def _of_posterior(post: Posterior, label: str) -> Estimates:
    draws = posterior_draws(post)
    flat = draws.reshape(-1, draws.shape[-1])
    lower, upper = np.quantile(flat, [0.025, 0.975], axis=0)
    return Estimates(
        label=label,
        result=post,
        names=parameter_names(post.model),
        estimate=flat.mean(axis=0),
        uncertainty=flat.std(axis=0, ddof=1) if len(flat) > 1 else np.full(flat.shape[1], np.nan),
        lower=lower,
        upper=upper,
        draws=draws,
    )


def _of_point(fit: PointFit, label: str) -> Estimates:
    model = fit.model
    natural = natural_of(fit)
    corr, edge = _edges(model, natural)
    covariance = variance_covariance(fit)
    error = np.sqrt(np.diag(covariance))
    slope = np.where(corr, 1.0 - natural**2, natural)
    natural_error = np.where(edge, np.nan, slope * error)
    reach = NORMAL_975 * np.where(edge, np.nan, error)
    se = np.where([f"fixef[{name}]" in fit.fixed for name in model.design.fixed.names], np.nan, fit.beta_sd)
    lower, upper = _wald(natural, corr, -reach), _wald(natural, corr, reach)
    natural = np.where(_undefined(model, natural), np.nan, natural)
    further, further_se = _further(fit)
    positive = np.array([name == "nu" for name in further_names(model)], bool)
    return Estimates(
        label=label,
        result=fit,
        names=parameter_names(model),
        estimate=np.concatenate([fit.beta, natural, further]),
        uncertainty=np.concatenate([se, natural_error, further_se]),
        lower=np.concatenate([fit.beta - NORMAL_975 * se, lower, moved(further, further_se, positive, -NORMAL_975)]),
        upper=np.concatenate([fit.beta + NORMAL_975 * se, upper, moved(further, further_se, positive, NORMAL_975)]),
        covariance=covariance,
    )


def _further(fit: PointFit) -> tuple[Array, Array]:
    """Coefficients of the formulas for dispersion and zeros, ν or thresholds, and their standard errors."""
    frames = []
    if isinstance(fit, GeneralizedFit):
        frames = [frame for name, frame in fit.further_fixef.items() if name != "nu"] + [fit.second_estimates]
    both = np.concatenate([np.empty((0, 2)), *(frame[["estimate", "se"]].to_numpy(float) for frame in frames)])
    held = [name in fit.fixed for name in further_names(fit.model)]
    return both[:, 0], np.where(held, np.nan, both[:, 1])


def moved(value: Array, error: Array, positive: NDArray[np.bool_], steps: float) -> Array:
    """Values moved by a number of standard errors, positive ones on their logarithms."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(positive, value * np.exp(steps * error / value), value + steps * error)


def _wald(natural: Array, corr: NDArray[np.bool_], reach: Array) -> Array:
    z = np.arctanh(np.where(corr, np.clip(natural, -1 + EDGE, 1 - EDGE), 0.0))
    with np.errstate(over="ignore"):  # a variance near 0 whose logarithm nothing is known about: inf
        return np.where(corr, np.tanh(z + reach), natural * np.exp(np.where(corr, 0.0, reach)))


def _edges(model: Model, natural: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which entries are correlations, and which are at the boundary or undefined."""
    names = variance_names(model)
    corr = np.array([name.startswith("corr_") for name in names])
    edge = np.where(corr, np.abs(natural) > 1 - EDGE, natural == 0) | _undefined(model, natural)
    return corr, edge


def _undefined(model: Model, natural: Array) -> NDArray[np.bool_]:
    """Correlations of an effect without variance."""
    undefined, at = np.zeros(len(natural), bool), 0
    for group in model.groups:
        k, pairs = len(model.effects(group)), model.pairs(group)
        sd = natural[at : at + k]
        undefined[at + k : at + k + len(pairs)] = [sd[i] == 0 or sd[j] == 0 for i, j in pairs]
        at += k + len(pairs)
    return undefined


def variance_covariance(fit: PointFit) -> Array:
    """Covariance (v, v) of [log sd, atanh correlation, log σ]; NaN for entries at the boundary or held.

    It is J (½ H)⁻¹ Jᵀ with H the Hessian of −2 log-likelihood (−2 log posterior) in the optimiser's own coordinates
    and J the derivative of the natural parameters by them; where σ is profiled out, 1/(2 df) is added for log σ.
    """
    if isinstance(fit, QuasiFit):  # the working model's; its scale is not the family's dispersion
        found = variance_covariance(fit.last)
        known = [name != fit.model.dispersion for name in variance_names(fit.model)]
        return np.where(np.outer(known, known), found, np.nan)
    if isinstance(fit, GeneralizedFit):
        return _without_edges(fit, _approximate_covariance(fit))
    optimum, model = fit.optimum, fit.model
    names = variance_names(model)
    back, profiled = _coordinates(fit)
    x, free = optimum.theta, np.flatnonzero(optimum.free)
    jacobian = np.zeros((len(names), len(x)))
    with np.errstate(divide="ignore", invalid="ignore"):
        for i in map(int, free):
            jacobian[:, i] = _slope(lambda x: _transformed(model, *back(x)), x, i, _unit(fit, i))
        curvature = 0.5 * optimum.hessian[np.ix_(free, free)]
        inverse = _inverse(curvature)
        covariance = jacobian[:, free] @ inverse @ jacobian[:, free].T
    if profiled:
        scale = np.array([0.0 if name.startswith("corr_") else 1.0 for name in names])
        covariance = covariance + np.outer(scale, scale) / (2.0 * _degrees(fit))
    return _without_edges(fit, covariance)


def _without_edges(fit: PointFit, covariance: Array) -> Array:
    """NaN for what is at the boundary or held."""
    _, edge = _edges(fit.model, natural_of(fit))
    held = np.array([name in fit.fixed for name in variance_names(fit.model)], bool) | edge
    return np.where(np.logical_or.outer(held, held), np.nan, covariance)


def _approximate_covariance(fit: GeneralizedFit) -> Array:
    """Covariance of [log sd, atanh correlation, log dispersion] of a generalized fit; NaN where it has no curvature."""
    model, root, m = fit.model, fit.parameter_root, fit.model.n_theta
    known = bool(np.isfinite(fit.dispersion))
    jacobian = np.zeros((len(variance_names(model)), root.shape[1]))
    with np.errstate(divide="ignore", invalid="ignore"):
        for i in np.flatnonzero((root[:, :m] != 0).any(axis=0)):
            jacobian[:, i] = _slope(lambda theta: _transformed(model, theta, fit.dispersion), fit.theta, int(i), 1.0)
    if known:
        jacobian[-1, root.shape[1] - len(fit.further) - 1] = 1.0
    used = (jacobian != 0).any(axis=0)
    found = ~np.isnan(root).any(axis=0)
    spread = root[:, used & found] @ jacobian[:, used & found].T
    spread[:, (jacobian[:, ~found] != 0).any(axis=1)] = np.nan
    return np.asarray(spread.T @ spread)


def _inverse(curvature: Array) -> Array:
    """Inverse of a curvature; NaN where it is not positive definite."""
    scale = np.sqrt(np.abs(np.diag(curvature)))
    try:
        root = np.linalg.inv(np.linalg.cholesky(curvature / np.outer(scale, scale)))
    except np.linalg.LinAlgError:
        return np.full_like(curvature, np.nan)
    return np.asarray(root.T @ root / np.outer(scale, scale))


def _slope(f: Callable[[Array], Array], x: Array, i: int, unit: float) -> Array:
    ahead, behind = x.copy(), x.copy()
    step = STEP * max(abs(x[i]), 1e-2 * unit)
    ahead[i] += step
    behind[i] -= step
    return (f(ahead) - f(behind)) / (2.0 * step)


def _transformed(model: Model, theta: Array, sigma: float) -> Array:
    natural = natural_vector(model, theta, sigma)
    corr = np.array([name.startswith("corr_") for name in variance_names(model)])
    return np.where(corr, np.arctanh(np.where(corr, natural, 0.0)), np.log(np.where(corr, 1.0, natural)))


def _coordinates(fit: PointFit) -> tuple[Callable[[Array], tuple[Array, float]], bool]:
    """The optimiser's coordinates → (theta, sigma), and whether σ was profiled out."""
    model, m = fit.model, fit.model.n_theta
    if fit.fixed:
        return _held_coordinates(fit), False
    scale = model.products.y_scale
    if fit.method == "MAP":
        return lambda x: (x[:m], float(np.exp(x[m])) * scale), False
    reml = fit.method == "REML"
    return lambda x: (x, model.products.sigma(model.gaussian.profile(x, reml).rss, reml)), True


def _held_coordinates(fit: PointFit) -> Callable[[Array], tuple[Array, float]]:
    direct = Direct(fit.model, likelihood_only=fit.method != "MAP")
    held, free = hold(direct, fit.fixed)

    def back(part: Array) -> tuple[Array, float]:
        x = held.copy()
        x[free] = part
        return direct.theta_sigma(x)

    return back


def _degrees(fit: PointFit) -> int:
    return fit.nobs - (len(fit.beta) if fit.method == "REML" else 0)


def _unit(fit: PointFit, i: int) -> float:
    scale = fit.model.products.theta_scale
    return 1.0 if fit.fixed or i >= len(scale) else float(1.0 / scale[i])
