"""Predictions of a generalized fit: on the link scale, as means given the effects, and averaged over the groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bayeslmm.approximation import Laplace
from bayeslmm.averaging import averaged
from bayeslmm.exact.factor import back_solve, factorise, times_lambda
from bayeslmm.exact.laplace import curve, right_hand_sides
from bayeslmm.exact.leverage import leverage
from bayeslmm.exact.rows import weigh
from bayeslmm.generalized import GeneralizedFit

Array = NDArray[np.float64]


class Uncertain(NamedTuple):
    """How far η of rows may be off: variance of z'(û − u) given β, and the rows of X less what the effects take up."""

    effects: Array
    x: Array


def uncertainty(fit: GeneralizedFit, X: Array, columns: list[Array], codes: list[NDArray[np.intp]]) -> Uncertain:
    """z'ΛM⁻¹Λ'z and x − U'z of rows in known levels, U = ΛM⁻¹Λ'Z'WX at the mode; codes of -1 contribute nothing."""
    approximation = Laplace(fit.model, fit.information, joint=True)
    s, lam, p = approximation.system, approximation.lam(fit.theta), approximation.p
    eta, point = fit.linear_predictor.to_numpy(), fit.point
    at = curve(approximation.rows_at(point), eta, point.aux, approximation.expected)
    weigh(s, approximation.rows, at.weight)
    right_hand_sides(s, approximation.rows, approximation.observed, at.weight, at.first, True)
    factor = factorise(s, lam)
    solution = times_lambda(s, lam, back_solve(s, factor, factor.Y))[:, :p]
    place, scaled, shift = [], [], np.zeros((len(X), p))
    for f, block in enumerate(fit.model.structure.factors if columns else ()):
        z, k = columns[f] / approximation.effect_scale[f], block.width
        known = codes[f] >= 0
        first = fit.model.structure.rows(f)[codes[f]]
        for i in range(k):
            shift += np.where(known, z[:, i], 0.0)[:, None] * solution[first + i]
        place.append(np.where(known, first, -1))
        scaled.append(np.where(known[:, None], z, 0.0) @ lam[s.lam_at[f] : s.lam_at[f + 1]].reshape(k, k))
    if not place:
        return Uncertain(np.zeros(len(X)), X)
    return Uncertain(leverage(s, factor, np.column_stack(place), np.hstack(scaled)), X - shift)


class Predictor(NamedTuple):
    """η of rows, its standard error, and the variance z'Σz of the effects of levels that are integrated over."""

    eta: Array
    se: Array
    integrated: Array


def predicted(link: str, at: Predictor, kind: str, tail: float | None) -> dict[str, Array]:
    """Columns mean, se, lower and upper on the scale asked for.

    On the scale of the mean the standard error is by the delta method and the bounds are those of η, taken through the
    (averaged) inverse link.
    """
    width = None if tail is None else float(ndtri(1.0 - tail))
    if kind == "link":
        se = np.sqrt(at.se**2 + at.integrated)
        table = {"mean": at.eta, "se": se}
        return table if width is None else table | {"lower": at.eta - width * se, "upper": at.eta + width * se}
    centre = averaged(link, at.eta, at.integrated)
    table = {"mean": centre.mean, "se": np.abs(centre.slope) * at.se}
    if width is not None:
        ends = [averaged(link, at.eta + side * width * at.se, at.integrated).mean for side in (-1.0, 1.0)]
        table |= {"lower": np.minimum(*ends), "upper": np.maximum(*ends)}
    return table
