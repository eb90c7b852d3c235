"""Parameters that simulations take for true: given under public names, of a fit, or drawn from the priors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logit

from bayeslmm.distributions import Prior
from bayeslmm.errors import MethodError, PriorError
from bayeslmm.estimates import natural_vector, parameter_names
from bayeslmm.model import Model
from bayeslmm.result import PointFit

Array = NDArray[np.float64]


def values_of(fit: PointFit) -> dict[str, float]:
    """The estimates of a fit by public name."""
    fit.model.require_gaussian()
    values = np.append(fit.beta, natural_vector(fit.model, fit.theta, fit.sigma))
    return dict(zip(parameter_names(fit.model), map(float, values), strict=True))


def given_values(model: Model, parameters: Mapping[str, Any], known: Mapping[str, float] | None = None) -> Array:
    """The parameters (m,) of a model, in the order of `parameter_names`.

    Parameters
    ----------
    model : Model
        Whose parameters.
    parameters : mapping
        Public names to numbers, ``"fixef[Days]"``, ``"sd_Subject[Days]"``, ``"sigma"``; or whole blocks, ``"fixef"``,
        ``"sd_Subject"``, ``"corr_Subject"``, to a number (where the block has one entry), a sequence, or a mapping of
        its labels.
    known : mapping, optional
        Values of those that `parameters` leaves out.

    Returns
    -------
    ndarray (m,)

    Raises
    ------
    MethodError
        A name is unknown or missing, or a value is no number.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> given_values(bl.Model("y ~ 1 + (1 | g)", data), {"fixef": [4.0], "sd_g": 2.0, "sigma": 0.5}).tolist()
    [4.0, 2.0, 0.5]
    """
    names = parameter_names(model)
    found = {name: value for name, value in (known or {}).items() if name in names}
    for key, value in parameters.items():
        found |= _entries(names, str(key), value)
    missing = [name for name in names if name not in found]
    if missing:
        raise MethodError(f"parameters= lacks {', '.join(missing)}. A simulation needs every parameter of the model")
    return np.array([found[name] for name in names])


def _entries(names: tuple[str, ...], key: str, value: Any) -> dict[str, float]:
    """The parameters that one key names."""
    own = [name for name in names if name == key or name.startswith(f"{key}[")]
    if not own:
        raise MethodError(f"the model has no parameter {key!r}; it has {', '.join(names)}")
    if isinstance(value, Mapping | pd.Series):
        wanted = {name[len(key) + 1 : -1]: name for name in own}
        unknown = [str(label) for label in value.keys() if label not in wanted]  # noqa: SIM118  a Series iterates values
        if unknown:
            raise MethodError(f"{key} has no entry {unknown[0]!r}; its entries are {', '.join(wanted)}")
        pairs = [(wanted[str(label)], value[label]) for label in value.keys()]  # noqa: SIM118
    else:
        listed = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
        if len(listed) != len(own):
            raise MethodError(f"{key} takes {len(own)} numbers, {', '.join(own)}; got {value!r}")
        pairs = list(zip(own, listed, strict=True))
    return {name: _number(name, number) for name, number in pairs}


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{name} must be a number, got {value!r}") from error
    if not np.isfinite(number):
        raise MethodError(f"{name} must be finite, got {value!r}")
    return number


def mixed_draws(model: Model, parameters: Mapping[str, Any], nsim: int, rng: np.random.Generator) -> Array:
    """Parameters (nsim, m), the numbers among `parameters` as they are and the priors among them drawn independently."""
    names = parameter_names(model)
    drawn = {str(key): Prior.of(value) for key, value in parameters.items() if isinstance(value, Prior)}
    own = {key: [j for j, name in enumerate(names) if name == key or name.startswith(f"{key}[")] for key in drawn}
    values = given_values(model, {key: [0.0] * len(own[key]) if key in own else v for key, v in parameters.items()})
    found = np.tile(values, (nsim, 1))
    for key, prior in drawn.items():
        for j in own[key]:
            found[:, j] = _drawn(prior, nsim, rng)
    return found


def blocks(model: Model, values: Array) -> dict[str, Array]:
    """Parameters (…, m) by block, ``fixef``, ``sd_g``, ``corr_g``, ``sigma`` or another dispersion: what `simulate` takes."""
    found: dict[str, Array] = {}
    at = len(model.design.fixed.names)
    if at:
        found["fixef"] = values[..., :at]
    for group in model.groups:
        for block, size in ((f"sd_{group}", len(model.effects(group))), (f"corr_{group}", len(model.pairs(group)))):
            if size:
                found[block] = values[..., at : at + size]
            at += size
    if model.dispersion:
        found[model.dispersion], at = values[..., at], at + 1
    for name, coefficients in model.priors.further.items():
        size = len(coefficients.priors)
        found[name], at = values[..., at : at + size], at + size
    if "nu" in model.priors.second:
        return found | {"nu": values[..., at]}
    return found | ({"thresholds": values[..., at:]} if model.design.ordered else {})


def prior_draws(model: Model, nsim: int, rng: np.random.Generator) -> Array:
    """Draws of the parameters from a model's priors.

    Parameters
    ----------
    model : Model
        Whose priors, as they stand: defaults keep the scale of the response that they were computed from.
    nsim : int
        Number of draws.
    rng : Generator
        Source of randomness.

    Returns
    -------
    ndarray (nsim, m)
        In the order of `parameter_names`.

    Raises
    ------
    PriorError
        A prior is improper, or has no closed form here.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> prior_draws(bl.Model("y ~ 1 + (1 | g)", data), 2, np.random.default_rng(1)).shape
    (2, 3)
    """
    priors = model.priors
    for name, prior in priors.parameters().items():
        if not prior.proper:
            raise PriorError(
                f"{name} has the improper prior {prior}, from which nothing can be drawn: give it a proper one"
            )
    beta = np.array([_drawn(prior, nsim, rng) for prior in priors.fixef]).reshape(-1, nsim)
    parts = [np.linalg.solve(priors.fixef_transform, beta).T] if len(beta) else []
    for group in model.groups:
        parts.append(np.array([_drawn(prior, nsim, rng) for prior in priors.sd[group]]).T)
        for term in (term for term in model.design.random if term.group == group and term.covariance.pairs):
            lkj = priors.corr[group]
            assert lkj is not None
            parts.append(_correlations(len(term.effects), float(lkj.args["eta"]), nsim, rng))
    parts += [] if priors.noise is None else [_drawn(priors.noise, nsim, rng)[:, None]]
    for block in priors.further.values():
        drawn = np.array([_drawn(prior, nsim, rng) for prior in block.priors])
        parts.append(np.linalg.solve(block.transform, drawn).T)
    parts += [_increasing(list(priors.second.values()), nsim, rng)] if priors.second else []
    return np.concatenate(parts, axis=1)


def _increasing(priors: list[Prior], nsim: int, rng: np.random.Generator) -> Array:
    """Draws (nsim, m) of independent priors given that they increase."""
    found = np.empty((0, len(priors)))
    while len(found) < nsim:
        drawn = np.column_stack([_drawn(prior, nsim, rng) for prior in priors])
        found = np.vstack([found, drawn[(np.diff(drawn, axis=1) > 0).all(axis=1)]])
    return found[:nsim]


def _correlations(k: int, eta: float, nsim: int, rng: np.random.Generator) -> Array:
    """Pairs (nsim, k(k−1)/2) of LKJ(η) matrices, by the factor's partial correlations (Lewandowski et al. 2009)."""
    L = np.zeros((nsim, k, k))
    for i in range(k):
        left = np.ones(nsim)
        for j in range(i):
            shape = eta + 0.5 * (k - 2 - j)
            L[:, i, j] = (2.0 * rng.beta(shape, shape, nsim) - 1.0) * np.sqrt(left)
            left = left - L[:, i, j] ** 2
        L[:, i, i] = np.sqrt(left)
    R = L @ np.swapaxes(L, 1, 2)
    rows, columns = np.triu_indices(k, 1)
    return np.asarray(R[:, rows, columns])


_FAMILIES: dict[str, Any] = {
    "Normal": lambda mu, sigma: stats.norm(mu, sigma),
    "HalfNormal": lambda sigma: stats.halfnorm(0, sigma),
    "StudentT": lambda nu, mu, sigma: stats.t(nu, mu, sigma),
    "HalfStudentT": lambda nu, sigma: stats.t(nu, 0, sigma),
    "HalfCauchy": lambda beta: stats.halfcauchy(0, beta),
    "Exponential": lambda lam: stats.expon(0, 1 / lam),
    "Gamma": lambda alpha, beta: stats.gamma(alpha, 0, 1 / beta),
    "InverseGamma": lambda alpha, beta: stats.invgamma(alpha, 0, beta),
    "LogNormal": lambda mu, sigma: stats.lognorm(sigma, 0, np.exp(mu)),
    "Uniform": lambda lower, upper: stats.uniform(lower, upper - lower),
}


def _drawn(prior: Prior, nsim: int, rng: np.random.Generator) -> Array:
    if not prior.proper:
        raise PriorError(f"{prior} is improper: no value can be drawn from it")
    if prior.name == "LogitBeta":
        return np.asarray(logit(rng.beta(prior.args["alpha"], prior.args["beta"], nsim)))
    if prior.name not in _FAMILIES:
        raise PriorError(f"values cannot be drawn from {prior} here; use one of {', '.join(_FAMILIES)}")
    draws = np.asarray(_FAMILIES[prior.name](**prior.args).rvs(nsim, random_state=rng), float)
    return np.abs(draws) if prior.name == "HalfStudentT" else draws
