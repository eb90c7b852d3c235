"""The response's distribution given its linear predictor, as PyMC's of that name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from bayeslmm.errors import NotSupportedError
from bayeslmm.family import family_of

Distribution = tuple[Any, dict[str, Any]]

_INVERSE: dict[str, Callable[[TensorVariable], TensorVariable]] = {
    "identity": lambda eta: eta,
    "log": pt.exp,
    "sqrt": lambda eta: eta**2,
    "inverse": lambda eta: 1.0 / eta,
    "inverse_squared": lambda eta: eta**-0.5,
    "probit": lambda eta: 0.5 * pt.erfc(-eta / np.sqrt(2.0)),
    "cloglog": lambda eta: -pt.expm1(-pt.exp(eta)),
    "cauchit": lambda eta: pt.arctan(eta) / np.pi + 0.5,
    "logit": pt.sigmoid,
}


def respond(
    model: Any, name: str, predictor: TensorVariable, noise: TensorVariable | None, second: TensorVariable | None = None
) -> None:
    """Add the observed variable to the PyMC model of the context.

    Parameters
    ----------
    model : Model
        Family, link, response, trials and prior weights.
    name : str
        Of the observed variable; with prior weights of a family other than the Gaussian, of the data.
    predictor : TensorVariable (n,)
        η.
    noise : TensorVariable or None
        The dispersion parameter, one or (n,).
    second : TensorVariable, optional
        Logit (n,) of the probability of a zero of its own, ν of the t family, or the thresholds between ordered categories.

    Raises
    ------
    NotSupportedError
        A family that PyMC has no distribution for.
    """
    design = model.design
    weights = None if design.weights is None else pm.Data("known_weights", design.weights, dims="obs")
    if family_of(model.family).plain == "gaussian":
        sigma = noise if weights is None else noise / pt.sqrt(weights)
        pm.Normal(name, predictor, sigma, observed=design.y, dims="obs")
        return
    if model.priors.second:
        distribution, arguments = _with_second(model, predictor, noise, second)
    else:
        distribution, arguments = _distribution(model, predictor, noise)
    if second is not None and not model.priors.second:
        distribution, arguments = _with_zeros(model.family, arguments, second)
    y = design.y if model.family in ("gamma", "wald", "beta", "t") else design.y.astype(np.int64)
    if weights is None:
        distribution(name, **arguments, observed=y, dims="obs")
        return
    observed = pm.Data(name, y, dims="obs")
    pm.Potential("weighted", weights * pm.logp(distribution.dist(**arguments), observed), dims="obs")


def _with_zeros(family: str, arguments: dict[str, Any], zero: TensorVariable) -> Distribution:
    """The distribution with zeros of their own; PyMC's psi is the probability that a response is not one of these."""
    if "logit_p" in arguments:
        arguments = {"p": pt.sigmoid(arguments.pop("logit_p")), **arguments}
    kind, plain = ("ZeroInflated" if family.startswith("zero_inflated_") else "Hurdle"), family_of(family).plain
    name = {"poisson": "Poisson", "binomial": "Binomial"}.get(plain, "NegativeBinomial")
    return getattr(pm, kind + name), {"psi": pt.sigmoid(-zero), **arguments}


def _with_second(
    model: Any, predictor: TensorVariable, noise: TensorVariable | None, second: TensorVariable
) -> Distribution:
    """The t distribution around η, or that of ordered categories between thresholds."""
    if model.family == "t":
        return pm.StudentT, {"nu": second, "mu": predictor, "sigma": noise}
    if model.link == "logit":
        return pm.OrderedLogistic, {"eta": predictor, "cutpoints": second, "compute_p": False}
    if model.link == "probit":
        return pm.OrderedProbit, {"eta": predictor, "cutpoints": second, "compute_p": False}
    hazard = pt.exp(second - pt.shape_padright(predictor))
    edges = [pt.zeros_like(hazard[..., :1]), hazard, pt.full_like(hazard[..., :1], np.inf)]
    survival = pt.exp(-pt.concatenate(edges, axis=-1))
    return pm.Categorical, {"p": survival[..., :-1] - survival[..., 1:]}


def _distribution(model: Any, predictor: TensorVariable, noise: TensorVariable | None) -> Distribution:
    """PyMC's distribution of the family, with its arguments at η."""
    family = family_of(model.family).plain
    known = {} if model.design.trials is None else {"n": pm.Data("known_trials", model.design.trials.astype(np.int64))}
    if family in ("bernoulli", "binomial") and model.link == "logit":
        return (pm.Binomial if known else pm.Bernoulli), {"logit_p": predictor, **known}
    mu = _INVERSE[model.link](predictor)
    if noise is None:
        if family == "poisson":
            return pm.Poisson, {"mu": mu}
        return (pm.Binomial if known else pm.Bernoulli), {"p": mu, **known}
    found: dict[str, Distribution] = {
        "negativebinomial": (pm.NegativeBinomial, {"mu": mu, "alpha": noise}),
        "negativebinomial1": (pm.NegativeBinomial, {"mu": mu, "alpha": mu / noise}),
        "gamma": (pm.Gamma, {"alpha": noise, "beta": noise / mu}),
        "wald": (pm.Wald, {"mu": mu, "lam": noise}),
        "beta": (pm.Beta, {"mu": mu, "nu": noise}),
        "betabinomial": (pm.BetaBinomial, {"alpha": mu * noise, "beta": (1.0 - mu) * noise, **known}),
    }
    if family not in found:
        raise NotSupportedError(f"the {family} family has no PyMC graph here")
    return found[family]
