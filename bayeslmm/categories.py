"""Predicted probabilities of ordered categories: given the effects, averaged over groups, and over posterior draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri

from bayeslmm.averaging import NODES, averaged
from bayeslmm.errors import MethodError
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.generalized_predict import Uncertain
from bayeslmm.thresholds import probabilities

if TYPE_CHECKING:
    from bayeslmm.model import Model
    from bayeslmm.posterior import Posterior

Array = NDArray[np.float64]
# Numbers held at a time: rows × draws × nodes.
MOST_AT_ONCE = 8_000_000


def check_kind(model: Model, kind: str) -> None:
    """Raise for a mean of categories, and for probabilities of what are none."""
    if kind == "mean" and model.design.ordered:
        raise MethodError('a category has no mean; kind="probabilities" has the probability of each, kind="link" η')
    if kind == "probabilities" and not model.design.ordered:
        raise MethodError(f'kind="probabilities" is for ordered categories; the family is {model.family}')


class Located(NamedTuple):
    """η of rows, the variance of the effects that are integrated over, and how far η may be off."""

    eta: Array
    integrated: Array
    given: Uncertain


def predicted_categories(fit: GeneralizedFit, at: Located, tail: float | None, index: pd.Index) -> pd.DataFrame:
    """Probabilities with standard errors by the delta method from the covariance of (β, τ); intervals on their logits."""
    below, slope = _distribution(fit.model.link, at, fit.tau)
    P, by_eta = np.diff(below, axis=1), -np.diff(slope, axis=1)
    variance = by_eta**2 * at.given.effects[:, None]
    p, C = len(fit.beta), fit.location_covariance
    moved = at.given.slopes[:, fit.model.n_theta :]
    for k in range(P.shape[1]):
        G = by_eta[:, k, None] * moved
        if k < P.shape[1] - 1:
            G[:, p + k] += slope[:, k + 1]
        if k:
            G[:, p + k - 1] -= slope[:, k]
        variance[:, k] += np.einsum("ni,ij,nj->n", G, C, G)
    parts = {"mean": P, "se": np.sqrt(np.maximum(variance, 0.0))}
    if tail is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            half = float(ndtri(1.0 - tail)) * parts["se"] / (P * (1.0 - P))
            parts |= {"lower": expit(logit(P) - half), "upper": expit(logit(P) + half)}
    return tabled(parts, index, fit.model.design.response_levels)


def _distribution(link: str, at: Located, tau: Array) -> tuple[Array, Array]:
    """E F(τ − η) over the effects that are integrated over, of every threshold, 0 and 1 around them; and slopes in τ."""
    found = [averaged(link, t - at.eta, at.integrated) for t in tau]
    none, whole = np.zeros((len(at.eta), 1)), np.ones((len(at.eta), 1))
    below = np.hstack([none, np.column_stack([one.mean for one in found]), whole])
    return below, np.hstack([none, np.column_stack([one.slope for one in found]), none])


def draws_of_categories(link: str, eta: Array, integrated: Array, tau: Array) -> Array:
    """Probabilities (rows, draws, K) at draws of η (rows, draws) and of τ (draws, K − 1)."""
    if not integrated.any():
        return np.stack([probabilities(link, column, t) for column, t in zip(eta.T, tau, strict=True)], axis=1)
    none = np.zeros((eta.size, 1))
    shifted = [averaged(link, (t - eta).ravel(), integrated.ravel()).mean for t in tau.T]
    below = np.hstack([none, np.column_stack(shifted), none + 1.0])
    return np.diff(below, axis=1).reshape(*eta.shape, -1)


def categories_over_draws(
    posterior: Posterior, predictor: Callable[[slice], tuple[Array, Array]], index: pd.Index, tail: float | None
) -> pd.DataFrame:
    """Probabilities over a posterior's draws, `predictor` η and the variance of effects integrated over of some rows."""
    tau, model = posterior.draws("thresholds"), posterior.model
    step = max(1, MOST_AT_ONCE // (len(tau) * NODES))
    pieces = [
        described(draws_of_categories(model.link, *predictor(slice(at, at + step)), tau), tail)
        for at in range(0, len(index), step)
    ]
    parts = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return tabled(parts, index, model.design.response_levels)


def described(values: Array, tail: float | None) -> dict[str, Array]:
    """Means, standard deviations and quantiles of probabilities (rows, draws, K)."""
    parts = {"mean": values.mean(axis=1), "se": values.std(axis=1, ddof=1)}
    if tail is not None:
        parts["lower"], parts["upper"] = np.quantile(values, [tail, 1.0 - tail], axis=1)
    return parts


def tabled(parts: dict[str, Array], index: pd.Index, levels: tuple[str, ...]) -> pd.DataFrame:
    """Blocks mean, se, lower and upper, each with one column per category."""
    blocks = {name: pd.DataFrame(values, index=index, columns=list(levels)) for name, values in parts.items()}
    return pd.concat(blocks, axis=1)
