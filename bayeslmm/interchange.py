"""The same model for other packages; what they cannot express raises, naming it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeslmm.errors import NotSupportedError
from bayeslmm.family import HETEROSCEDASTIC, family_of
from bayeslmm.model import Model
from bayeslmm.priors import Prior

# Bambi's names where they are not ours.
FAMILIES = {"betabinomial": "beta_binomial", HETEROSCEDASTIC: "gaussian"}


def to_bambi(model: Model) -> Any:
    """The model as a `bambi.Model` with the same priors.

    Parameters
    ----------
    model : Model
        A model without correlated effects, weights or arrays as offset, of a family that Bambi has.

    Returns
    -------
    bambi.Model
        Its group effects are non-centred; its names are Bambi's (``1|g_sigma`` for ``sd_g[Intercept]``). A group whose
        column also stands elsewhere in the formula, or whose name has a colon, has a column of its own (``g__level``).
        Its ``psi`` is the probability that a response is not a zero of its own, one less than ours: the formula for ``psi``
        has our coefficients with the other sign.

    Raises
    ------
    NotSupportedError
        Bambi 0.21 has no correlated group effects, no prior weights on a Gaussian response that keep its meaning, and
        no contrasts, nor LKJ priors, nor every family; the message names what the model needs.

    Examples
    --------
    >>> import bayeslmm as bl                                                       # doctest: +SKIP
    >>> bl.to_bambi(bl.Model("y ~ x + (1 | g)", data)).build()                      # doctest: +SKIP
    """
    _check_expressible(model)
    import bambi
    import pandas as pd

    from bayeslmm.columns import frame_of, names_of

    source = model.arguments["data"]
    frame = frame_of(source, names_of(source)).iloc[model.design.rows].reset_index(drop=True)
    for group in model.groups:
        frame[_column(model, group)] = pd.Categorical.from_codes(_codes(model, group), list(model.levels(group)))
    fixed = [model.formula.fixed, *(f"offset({text})" for text in model.formula.offsets)]
    random = [_bar(model, group, effect) for group in model.groups for effect in model.effects(group)]
    text = f"{_response(model, frame)} ~ {' + '.join([*fixed, *random])}"
    names = {"np": np, "numpy": np}
    further = _further_formulas(model)
    settings: dict[str, Any] = {"priors": _bambi_priors(model), "center_predictors": _centred(model)}
    family, link = FAMILIES.get(model.family, model.family), model.link
    if family != "gaussian":
        parent = (
            "p" if family_of(model.family).links[0] == "logit" and family not in ("beta", "beta_binomial") else "mu"
        )
        links = {parent: link} | {name: "logit" if name == "psi" else "log" for name in further}
        settings |= {"family": family, "link": links if further else link}
    formula = bambi.Formula(text, *(f"{name} ~ {right}" for name, right in further.items()))
    try:
        return bambi.Model(formula, frame, extra_namespace=names, **settings)
    except Exception as error:  # formulae raises a class of its own for each thing it cannot read
        raise NotSupportedError(
            f"Bambi cannot read {text!r} ({type(error).__name__}: {error}); its formulas know fewer functions than "
            "formulaic's: put the transformed values into a column of the data"
        ) from error


def _check_expressible(model: Model) -> None:
    if "negativebinomial1" in model.family:
        raise NotSupportedError(f"Bambi has no family {model.family!r}; its negative binomial has variance μ + μ²/α")
    if model.design.response_levels and not model.design.ordered:
        raise NotSupportedError(
            f"Bambi may take the other level of {model.design.response!r} for 1; write the response as 0 and 1"
        )
    for group in model.groups:
        if model.pairs(group):
            raise NotSupportedError(
                f"Bambi has no correlated effects, which the term on {group!r} has; write it with ||"
            )
    if model.design.weights is not None:
        raise NotSupportedError(
            "Bambi's weighted() changes its likelihood's meaning; a model with prior weights has no equivalent"
        )
    if model.arguments["offset"] is not None:
        raise NotSupportedError("Bambi takes an offset from the formula only; write offset(column) in it")
    if model.arguments["contrasts"]:
        raise NotSupportedError("contrasts= has no equivalent in Bambi; write the coding in the formula")
    if model.design.fixed.dropped:
        raise NotSupportedError(
            f"Bambi keeps linearly dependent columns; leave out {', '.join(model.design.fixed.dropped)}"
        )


def _response(model: Model, frame: Any) -> str:
    """The response as Bambi reads it; ordered categories become a column of their own where they are none."""
    import pandas as pd

    if not model.design.ordered:
        return model.formula.response
    name = model.formula.response.strip("`") if model.formula.response.strip("`") in frame else "response__category"
    codes = model.design.y.astype(int)
    frame[name] = pd.Categorical.from_codes(codes, list(model.design.response_levels), ordered=True)
    return name


def _column(model: Model, group: str) -> str:
    """Name of the group's column: its own, unless the name has a colon or stands elsewhere in the formula as well."""
    effects = [effect for name in model.groups for effect in model.effects(name)]
    formulas = [model.formula.fixed, *model.formula.offsets, *_further_formulas(model).values()]
    elsewhere = " ".join([model.formula.response, *formulas, *effects])
    name = group.replace(":", "__")
    return f"{name}__level" if re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", elsewhere) else name


def _codes(model: Model, group: str) -> Any:
    return next(term.codes for term in model.design.random if term.group == group)


def _bar(model: Model, group: str, effect: str) -> str:
    """One effect on one group, as Bambi writes it."""
    left = "1" if effect == "Intercept" else f"0 + {effect}"
    if "[" in effect:
        raise NotSupportedError(
            f"the effect {effect!r} of {group!r} is one column of a factor; Bambi takes the whole factor only"
        )
    return f"({left}|{_column(model, group)})"


def _bambi_priors(model: Model) -> dict[str, Any]:
    import bambi

    def same(prior: Prior) -> Any:
        return bambi.Prior(prior.name, **prior.args)

    noise = model.priors.noise
    priors: dict[str, Any] = {} if noise is None else {str(model.dispersion): same(noise)}
    priors |= {"nu": same(model.priors.second["nu"])} if "nu" in model.priors.second else {}
    priors |= {"threshold": _ordered(list(model.priors.second.values()))} if model.design.ordered else {}
    priors |= _by_term(model.design.fixed.names, model.priors.fixef)
    formulas = _further_formulas(model)
    for kind, block in model.priors.further.items():
        name = _further_name(model, kind)
        if name in formulas:
            own = [mirrored(prior) if kind == "zero" else prior for prior in block.priors]
            priors[name] = _by_term(block.coefficients, own)
        else:
            alpha, beta = (block.priors[0].args[key] for key in ("alpha", "beta"))
            priors[name] = bambi.Prior("Beta", alpha=beta, beta=alpha)
    for group in model.groups:
        for effect, prior in zip(model.effects(group), model.priors.sd[group], strict=True):
            left = "1" if effect == "Intercept" else effect
            priors[f"{left}|{_column(model, group)}"] = bambi.Prior("Normal", mu=0, sigma=same(prior))
    return priors


def _further_name(model: Model, kind: str) -> str:
    """Bambi's name of what a formula is for: its dispersion, or ``psi``."""
    return "psi" if kind == "zero" else str(family_of(model.family).dispersion)


def _further_formulas(model: Model) -> dict[str, str]:
    """Right sides of Bambi's formulas for other parameters; none for zeros of one probability with a Beta prior."""
    found = {}
    for kind, block in model.priors.further.items():
        if kind != "zero" or [prior.name for prior in block.priors] != ["LogitBeta"]:
            found[_further_name(model, kind)] = str(model.arguments[kind] or "~ 1").lstrip()[1:].strip()
    return found


def _centred(model: Model) -> bool:
    """Whether intercepts have their priors at the predictor means: in Bambi all formulas, or none."""
    blocks = [block for block in model.priors.further.values() if {"Intercept"} < set(block.coefficients)]
    said = {block.shifted for block in blocks}
    if {"Intercept"} < set(model.design.fixed.names) or not said:
        said.add(model.priors.centred_intercept)
    if len(said) > 1:
        raise NotSupportedError(
            "Bambi has the priors of all intercepts at the predictor means, or none; give a prior to every Intercept, or to none"
        )
    return said.pop()


def mirrored(prior: Prior) -> Prior:
    """The prior of −x where x has this one.

    Parameters
    ----------
    prior : Prior
        Of a coefficient for the probability of zeros.

    Returns
    -------
    Prior

    Raises
    ------
    NotSupportedError
        Its mirror image is no distribution of Bambi's.

    Examples
    --------
    >>> mirrored(Prior("Normal", mu=1, sigma=2))
    Normal(mu=-1, sigma=2)
    """
    if prior.name in ("Normal", "StudentT"):
        return Prior(prior.name, **{**prior.args, "mu": -prior.args["mu"]})
    if prior.name == "Uniform":
        return Prior("Uniform", lower=-prior.args["upper"], upper=-prior.args["lower"])
    if prior.name == "Flat":
        return prior
    raise NotSupportedError(
        f"Bambi's psi is the probability that a response is not a zero of its own, and {prior} of the other sign is no "
        "distribution it has; use Normal, StudentT, Uniform or Flat"
    )


def _by_term(names: Sequence[str], priors: Sequence[Prior]) -> dict[str, Any]:
    """Bambi's priors of coefficients: one for each term, arrays for the columns of a factor."""
    import bambi

    terms: dict[str, list[Prior]] = {}
    for name, prior in zip(names, priors, strict=True):
        terms.setdefault(re.sub(r"\[[^\]]*\]", "", name), []).append(prior)
    return {
        name: bambi.Prior(own[0].name, **own[0].args) if len(own) == 1 else _stacked(name, own)
        for name, own in terms.items()
    }


def _ordered(priors: list[Prior]) -> Any:
    """Bambi's prior of the thresholds: theirs, on the set where they increase."""
    import pymc as pm

    prior = _stacked("thresholds", priors)
    prior.args["transform"] = pm.distributions.transforms.ordered
    return prior


def _stacked(name: str, priors: list[Prior]) -> Any:
    """One Bambi prior for the columns of a factor: arguments become arrays."""
    import bambi

    if len({prior.name for prior in priors}) > 1:
        raise NotSupportedError(f"Bambi has one prior family for all columns of {name!r}; give them the same family")
    return bambi.Prior(
        priors[0].name, **{key: np.array([prior.args[key] for prior in priors]) for key in priors[0].args}
    )
