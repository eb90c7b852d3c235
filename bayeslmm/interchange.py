"""The same model for other packages; what they cannot express raises, naming it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from bayeslmm.errors import NotSupportedError
from bayeslmm.model import Model
from bayeslmm.priors import Prior


def to_bambi(model: Model) -> Any:
    """The model as a `bambi.Model` with the same priors.

    Parameters
    ----------
    model : Model
        A Gaussian model without correlated effects, weights or arrays as offset.

    Returns
    -------
    bambi.Model
        Its group effects are non-centred; its names are Bambi's (``1|g_sigma`` for ``sd_g[Intercept]``). A group whose
        column also stands elsewhere in the formula, or whose name has a colon, has a column of its own (``g__level``).

    Raises
    ------
    NotSupportedError
        Bambi 0.21 has no correlated group effects, no prior weights on a Gaussian response that keep its meaning, and
        no contrasts, nor LKJ priors; the message names what the model needs.

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
    text = f"{model.formula.response} ~ {' + '.join([*fixed, *random])}"
    centred = model.priors.centred_intercept
    names = {"np": np, "numpy": np}
    priors = _bambi_priors(model)
    try:
        return bambi.Model(text, frame, priors=priors, center_predictors=centred, extra_namespace=names)
    except Exception as error:  # formulae raises a class of its own for each thing it cannot read
        raise NotSupportedError(
            f"Bambi cannot read {text!r} ({type(error).__name__}: {error}); its formulas know fewer functions than "
            "formulaic's: put the transformed values into a column of the data"
        ) from error


def _check_expressible(model: Model) -> None:
    if model.family != "gaussian":
        raise NotSupportedError(f"to_bambi writes Gaussian models only; this one has family={model.family!r}")
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


def _column(model: Model, group: str) -> str:
    """Name of the group's column: its own, unless the name has a colon or stands elsewhere in the formula as well."""
    effects = [effect for name in model.groups for effect in model.effects(name)]
    elsewhere = " ".join([model.formula.response, model.formula.fixed, *model.formula.offsets, *effects])
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

    priors: dict[str, Any] = {"sigma": same(model.priors.sigma)}
    terms: dict[str, list[Prior]] = {}
    for name, prior in zip(model.design.fixed.names, model.priors.fixef, strict=True):
        terms.setdefault(re.sub(r"\[[^\]]*\]", "", name), []).append(prior)
    for name, own in terms.items():
        priors[name] = same(own[0]) if len(own) == 1 else _stacked(name, own)
    for group in model.groups:
        for effect, prior in zip(model.effects(group), model.priors.sd[group], strict=True):
            left = "1" if effect == "Intercept" else effect
            priors[f"{left}|{_column(model, group)}"] = bambi.Prior("Normal", mu=0, sigma=same(prior))
    return priors


def _stacked(name: str, priors: list[Prior]) -> Any:
    """One Bambi prior for the columns of a factor: arguments become arrays."""
    import bambi

    if len({prior.name for prior in priors}) > 1:
        raise NotSupportedError(f"Bambi has one prior family for all columns of {name!r}; give them the same family")
    return bambi.Prior(
        priors[0].name, **{key: np.array([prior.args[key] for prior in priors]) for key in priors[0].args}
    )
