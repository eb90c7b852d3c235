"""Design + family → priors: the scales of the data that default priors are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslmm.design import Design
from bayeslmm.encoding import factors_of_columns
from bayeslmm.exact.products import power_of_two
from bayeslmm.family import Family
from bayeslmm.priors import Prior, Priors, resolve

Array = NDArray[np.float64]
# Error of a coefficient, or of a row, at which a constant still is a combination of a formula's columns.
SPANNED = 1e-9


def design_priors(given: Any, design: Design, family: Family, link: str) -> Priors:
    """The priors of a model: as given, and at Bambi's scales where they are not.

    Parameters
    ----------
    given : mapping, "flat" or None
        As given to `Model`.
    design : Design
    family : Family
    link : str

    Returns
    -------
    Priors
    """
    groups: dict[str, tuple[list[str], list[float], bool]] = {}
    for term in design.random:
        effects, sds, correlated = groups.get(term.group, ([], [], False))
        effects += term.effects
        sds += _deviations(term.columns)
        groups[term.group] = effects, sds, correlated or bool(term.covariance.pairs)
    X = design.fixed.X
    size = float(power_of_two(design.y[:, None])[0])  # so that squares of a response near 1e200 stay finite
    # of other families the response sets no scale: that of the link does
    gaussian = family.plain in ("gaussian", "t")
    share = family.name in ("bernoulli", "binomial") and link in ("logit", "probit")
    return resolve(
        given,
        coefficient_names=design.fixed.names,
        column_means=X.mean(axis=0).tolist(),
        column_sds=_deviations(X),
        has_intercept="Intercept" in design.fixed.names,
        response_mean=float((design.y / size).mean()) * size if gaussian else 0.0,
        response_sd=_deviations(design.y[:, None])[0] if gaussian else 1.0,
        groups={name: (tuple(e), tuple(s), c) for name, (e, s, c) in groups.items()},
        slopes=_unit_slopes(design) if share else None,
        dispersion=None if "dispersion" in design.further else family.dispersion,
        further={
            name: (block.names, block.X.mean(axis=0).tolist(), _centres(block.X, name, design, gaussian))
            for name, block in design.further.items()
            if name != "nu"
        },
        second=_second(family, design),
    )


def _centres(W: Array, name: str, design: Design, scaled: bool) -> list[float]:
    """Means of the default priors of γ: where Wγ is log sd(y) in every row, of a σ; 0 of what has no unit, or cannot be that."""
    if name != "dispersion" or not scaled:
        return [0.0] * W.shape[1]
    ones, size, deviation = np.ones(len(W)), np.abs(W).max(axis=0), _deviations(design.y[:, None])[0]
    level = np.linalg.lstsq(W / size, ones)[0]
    level = np.where(np.abs(level) > SPANNED, level, 0.0) / size
    if not deviation > 0 or np.abs(W @ level - ones).max() > SPANNED:
        return [0.0] * W.shape[1]
    return [float(value) for value in np.log(deviation) * level + 0.0]


def _second(family: Family, design: Design) -> dict[str, Prior]:
    """Bambi's priors of ν, and of thresholds: normal around −2 to 2, with standard deviation 1."""
    if family.second == "nu":
        return {"nu": Prior("Gamma", alpha=2.0, beta=0.1)}
    centres = np.round(np.linspace(-2.0, 2.0, len(design.thresholds)), 2)
    return {
        f"thresholds[{name}]": Prior("Normal", mu=float(mu), sigma=1.0)
        for name, mu in zip(design.thresholds, centres, strict=True)
    }


def _unit_slopes(design: Design) -> list[float]:
    """Bambi's prior scales of slopes on the logit and probit scale: 1 for categories, else 1 / sd of the column.

    An interaction of a number with categories that has several columns has the sd of their sum.
    """
    X, scales = design.fixed.X, []
    where = {int(column): j for j, column in enumerate(design.fixed.kept)}
    terms = factors_of_columns(design.specs["fixed"])
    for column in design.fixed.kept:
        categorical, members = terms[column]
        own = [where[member] for member in members if member in where]
        joint = len(categorical) > 1 and len(members) > 1
        values = X[:, own].sum(axis=1, keepdims=True) if joint else X[:, [where[int(column)]]]
        sd = _deviations(values)[0]
        scales.append(1.0 if all(categorical) or sd == 0 else 1.0 / sd)
    return scales


def _deviations(columns: Array) -> list[float]:
    """Standard deviations of columns, none of whose squares overflow or vanish."""
    size = power_of_two(columns)
    return [float(sd) for sd in (columns / size).std(axis=0) * size]
