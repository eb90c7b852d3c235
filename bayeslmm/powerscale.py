"""How far the prior moves a posterior: power-scaling of the collapsed likelihood and of the prior.

Kallioinen, Paananen, Bürkner & Vehtari (2024), Statistics and Computing 34. u's distribution is model, not prior: the
likelihood is that of (β, sd, correlations, σ) with u integrated out, the prior that of the same parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bayeslmm.approximation import Laplace
from bayeslmm.direct import Direct
from bayeslmm.distributions import Prior
from bayeslmm.errors import MethodError
from bayeslmm.estimates import Estimates, parameter_names
from bayeslmm.exact.gaussian import INTEGRATED, JOINT
from bayeslmm.exact.logpdf import encode, logpdf
from bayeslmm.family import HETEROSCEDASTIC
from bayeslmm.fit import fit as fit_model
from bayeslmm.fit import loglik_at
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.model import Model
from bayeslmm.natural_points import point_of, theta_of
from bayeslmm.result import PointFit

Array = NDArray[np.float64]
LOWER, UPPER = 0.8, 1.25
MOST_DRAWS = 500  # of the likelihood, which costs a factorisation each
FLAT = 1e-9  # range of a log density below which it is constant


@dataclass(frozen=True, eq=False)
class PriorPull:
    """What the prior does to each of m parameters of a posterior.

    Parameters
    ----------
    shift : ndarray (m,)
        How far it moves the mean, to first order, in posterior sds.
    sensitivity : ndarray (m,)
        Sensitivity of the marginal posterior to scaling the log prior; 0.05 is notable.
    """

    shift: Array
    sensitivity: Array


def log_prior(model: Model, values: Array) -> Array:
    """Log prior density of (β, sd, correlations, σ), up to a constant.

    Parameters
    ----------
    model : Model
        Whose priors.
    values : ndarray (s, m)
        Parameters in the order of `estimates.parameter_names`.

    Returns
    -------
    ndarray (s,)

    Raises
    ------
    MethodError
        A prior has no closed form here.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> model = bl.Model("y ~ 1 + (1 | g)", data, priors="flat")
    >>> float(np.ptp(log_prior(model, np.array([[3.0, 1.0, 1.0], [4.0, 2.0, 1.0]]))))
    0.0
    """
    priors, names, p = model.priors, parameter_names(model), len(model.design.fixed.names)
    total = np.zeros(len(values))
    for prior, column in zip(priors.fixef, (values[:, :p] @ priors.fixef_transform.T).T, strict=True):
        total += _logpdf(prior, column)
    for group in model.groups:
        start = names.index(f"sd_{group}[{model.effects(group)[0]}]")
        for k, prior in enumerate(priors.sd[group]):
            total += _logpdf(prior, values[:, start + k])
        correlation = priors.corr[group]
        if correlation is not None and correlation.args["eta"] != 1.0:
            at = start + len(model.effects(group))
            total += (correlation.args["eta"] - 1.0) * _logdet(
                model, group, values[:, at : at + len(model.pairs(group))]
            )
    if priors.noise is not None:
        total += _logpdf(priors.noise, values[:, names.index(str(model.dispersion))])
    for name, prior in priors.second.items():
        total += _logpdf(prior, values[:, names.index(name)])
    for kind, block in priors.further.items():
        own = values[:, [names.index(f"{kind}[{name}]") for name in block.coefficients]]
        for prior, column in zip(block.priors, (own @ block.transform.T).T, strict=True):
            total += _logpdf(prior, column)
    return total


def _logpdf(prior: Prior, values: Array) -> Array:
    if not prior.closed_form:
        raise MethodError(f"the prior {prior} has no closed form here")
    code, a, b, c = encode(prior.name, prior.args)
    return np.array([logpdf(code, a, b, c, float(value))[0] for value in values])


def _logdet(model: Model, group: str, pairs: Array) -> Array:
    """Log determinants of the correlation matrices of a group."""
    corr = np.tile(np.eye(len(model.effects(group))), (len(pairs), 1, 1))
    for at, (i, j) in enumerate(model.pairs(group)):
        corr[:, i, j] = corr[:, j, i] = pairs[:, at]
    return np.asarray(np.linalg.slogdet(corr)[1])


def collapsed_loglik(model: Model, values: Array) -> Array:
    """Log-likelihood (s,) of (β, sd, correlations, σ), u integrated out, at values (s, m); by Laplace if not Gaussian."""
    p = len(model.design.fixed.names)
    if model.family != "gaussian":
        laplace = Laplace(model)
        return np.array([-0.5 * laplace.minus_twice(point_of(model, one))[0] for one in values])
    return np.array([loglik_at(model, theta_of(model, row), float(row[-1]), row[:p]) for row in values])


def posterior_pull(column: Estimates) -> PriorPull:
    """What the prior does to a posterior.

    With log prior π over the draws, the mean of φ moves by Cov(φ, π) per unit of the prior's exponent; the
    sensitivity is the mean slope of the cumulative Jensen-Shannon distance over the exponents 0.8 and 1.25.

    Parameters
    ----------
    column : Estimates
        Of a posterior.

    Returns
    -------
    PriorPull

    Raises
    ------
    MethodError
        A prior has no closed form here.
    """
    assert column.draws is not None
    draws, model = column.draws, column.result.model
    flat = draws.reshape(-1, draws.shape[-1])
    log_density = log_prior(model, flat)
    spread = flat.std(axis=0)
    centred = log_density - log_density.mean()
    shift = (centred @ (flat - flat.mean(axis=0))) / len(flat) / np.where(spread > 0, spread, np.nan)
    return PriorPull(shift, sensitivity(draws, log_density.reshape(draws.shape[:2])))


def likelihood_sensitivity(column: Estimates) -> Array:
    """Sensitivity (m,) of a posterior to scaling the collapsed log-likelihood, from at most 500 of its draws."""
    assert column.draws is not None
    step = max(1, -(-column.draws.shape[0] * column.draws.shape[1] // MOST_DRAWS))
    draws = column.draws[:, ::step]
    flat = draws.reshape(-1, draws.shape[-1])
    return sensitivity(draws, collapsed_loglik(column.result.model, flat).reshape(draws.shape[:2]))


def sensitivity(draws: Array, log_density: Array) -> Array:
    """Sensitivity (m,) of draws (chains, draws, m) to the exponent of a density (chains, draws); 0 if constant."""
    from arviz_stats.base.array import array_stats

    if np.ptp(log_density) < FLAT:
        return np.zeros(draws.shape[-1])
    low, high = (_weights(array_stats.power_scale_lw(log_density, alpha=a, axis=(-2, -1))) for a in (LOWER, UPPER))
    found = [
        array_stats.power_scale_sense(draws[..., j], low, high, LOWER, UPPER) if np.ptp(draws[..., j]) else 0.0
        for j in range(draws.shape[-1])
    ]
    return np.array(found, float)


def _weights(log_weights: Array) -> Array:
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())


def flat_counterpart(fit: PointFit, others: Sequence[PointFit] = ()) -> PointFit:
    """What a MAP fit would be with flat priors: the REML fit, or where β is maximised too, the ML (or Laplace's) fit.

    Parameters
    ----------
    fit : PointFit
        By MAP.
    others : sequence of PointFit
        Fits that may be the one wanted, so that it need not be computed.

    Returns
    -------
    PointFit

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> flat_counterpart(bl.fit(bl.Model("y ~ 1 + (1 | g)", data), "MAP", fixef="joint")).method
    'ML'
    """
    if isinstance(fit, GeneralizedFit):
        return _approximate_counterpart(fit, others)
    method: Literal["ML", "REML"] = "REML" if integrates_fixef(fit) else "ML"
    for other in others:
        if (other.method, other.model.formula.text, other.fixed) == (method, fit.model.formula.text, fit.fixed):
            return other
    return fit_model(fit.model, method, fixed=fit.fixed or None)


def _approximate_counterpart(fit: GeneralizedFit, others: Sequence[PointFit]) -> PointFit:
    """By Laplace's approximation (of a Gaussian model ML), or by quadrature where the MAP fit is."""
    one: Literal["ML", "Laplace"] = "ML" if fit.model.family == HETEROSCEDASTIC else "Laplace"
    method: Literal["AGHQ", "ML", "Laplace"] = "AGHQ" if fit.nodes > 1 else one
    for other in others:
        same = isinstance(other, GeneralizedFit) and other.options == fit.options
        if same and (other.method, other.model.formula.text, other.fixed) == (
            method,
            fit.model.formula.text,
            fit.fixed,
        ):
            return other
    return fit_model(fit.model, method, fixed=fit.fixed or None, **fit.options)


def integrates_fixef(fit: PointFit) -> bool:
    """Whether a MAP fit has β integrated out, told from which of the two densities it reached."""
    if fit.model.family != "gaussian" or not fit.model.priors.gaussian or fit.logposterior is None:
        return False
    direct, log_sigma = Direct(fit.model), float(np.log(fit.sigma / fit.model.products.y_scale))
    values = [direct.minus_twice_at(fit.theta, log_sigma, mode)[0] for mode in (INTEGRATED, JOINT)]
    missed = [abs(value + 2.0 * fit.logposterior) for value in values]
    return missed[0] <= missed[1]
