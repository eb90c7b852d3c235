"""From the scale on which a model is linear back to the scale of the response, in one place."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
_CALL = re.compile(r"(?:np\.|numpy\.)?(?P<function>\w+)\((?P<inside>[^()]*)\)")


class Transformation(NamedTuple):
    """A transformed response g(y), or the link g of a family.

    Parameters
    ----------
    name : str
        g.
    inside : str
        What it was taken of.
    inverse, derivative : function
        g⁻¹, and its derivative.
    ratio : str
        What differences on the scale of g are logarithms of: "ratio", "odds_ratio", or "" where of nothing.
    base : float
        Base of those logarithms.
    """

    name: str
    inside: str
    inverse: Function
    derivative: Function
    ratio: str
    base: float


def transformation_of(response: str, link: str = "identity") -> Transformation | None:
    """The transformation between the linear predictor and the response, None where there is none that can be undone.

    Parameters
    ----------
    response : str
        Left of ``~``.
    link : str
        Link of the family.

    Returns
    -------
    Transformation or None

    Examples
    --------
    >>> from bayeslmm.backtransform import transformation_of
    >>> found = transformation_of("log(y)")
    >>> found.name, found.inside, found.ratio, float(found.inverse(0.0))
    ('log', 'y', 'ratio', 1.0)
    """
    if link != "identity":
        return Transformation(link, response, *_INVERSES[link]) if link in _INVERSES else None
    match = _CALL.fullmatch(response.strip())
    if not match or match["function"] not in _INVERSES:
        return None
    return Transformation(match["function"], match["inside"].strip(), *_INVERSES[match["function"]])


def _logarithm(base: float) -> tuple[Function, Function, str, float]:
    return lambda eta: base**eta, lambda eta: np.log(base) * base**eta, "ratio", base


def _normal_density(eta: Array) -> Array:
    return np.asarray(np.exp(-0.5 * np.square(eta)) / np.sqrt(2.0 * np.pi))


_INVERSES: dict[str, tuple[Function, Function, str, float]] = {
    "log": (np.exp, np.exp, "ratio", float(np.e)),
    "log10": _logarithm(10.0),
    "log2": _logarithm(2.0),
    "log1p": (np.expm1, np.exp, "", 0.0),
    "sqrt": (lambda eta: np.square(np.maximum(eta, 0.0)), lambda eta: 2.0 * eta, "", 0.0),
    "logit": (expit, lambda eta: expit(eta) * expit(-eta), "odds_ratio", float(np.e)),
    "probit": (ndtr, _normal_density, "", 0.0),
    "cloglog": (lambda eta: -np.expm1(-np.exp(eta)), lambda eta: np.exp(eta - np.exp(eta)), "", 0.0),
}
