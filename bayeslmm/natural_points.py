"""Natural parameters, in the order of `estimates.parameter_names`: a posterior's draws of them, and θ and `Point` at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayeslmm.approximation import Point
from bayeslmm.model import Model
from bayeslmm.thresholds import free_of

if TYPE_CHECKING:
    from bayeslmm.posterior import Posterior

Array = NDArray[np.float64]


def posterior_draws(post: Posterior) -> Array:
    """Draws (chains, draws, m) of all parameters."""
    model, parts = post.model, []
    if model.design.fixed.names:
        parts.append(post.draws("fixef"))
    for group in model.groups:
        parts.append(post.draws(f"sd_{group}"))
        if model.pairs(group):
            parts.append(post.draws(f"corr_{group}"))
    parts += [np.asarray(post.draws(model.dispersion)).reshape(-1, 1)] if model.dispersion else []
    parts += [post.draws(name) for name in (*model.priors.further, *model.priors.second_blocks)]
    flat = np.concatenate([np.asarray(part, float).reshape(len(parts[-1]), -1) for part in parts], axis=1)
    return flat.reshape(int(post.data["posterior"].sizes["chain"]), -1, flat.shape[1])


def theta_of(model: Model, values: Array) -> Array:
    """Theta at one vector (m,) of natural parameters."""
    own, start = {}, len(model.design.fixed.names)
    sigma = float(values[-1]) if model.family == "gaussian" else 1.0
    for group in model.groups:
        k, pairs = len(model.effects(group)), model.pairs(group)
        sd, corr, before = values[start : start + k], np.eye(k), 0
        for (i, j), value in zip(pairs, values[start + k :], strict=False):
            corr[i, j] = corr[j, i] = value
        for term in (t for t in model.design.random if t.group == group):
            part = slice(before, before + len(term.effects))
            own[id(term)] = term.covariance.from_natural(sd[part], corr[part, part], sigma)
            before = part.stop
        start += k + len(pairs)
    return np.concatenate([np.empty(0), *(own[id(term)] for term in model.terms)])


def point_of(model: Model, values: Array) -> Point:
    """The parameters of Laplace's approximation at one vector (m,) of natural parameters."""
    p, last = len(model.design.fixed.names), len(values) - _further_count(model)
    aux = float(np.log(values[last - 1])) if model.dispersion else 0.0
    return Point(theta_of(model, values), values[:p], aux, _further(model, values[last:]))


def _further_count(model: Model) -> int:
    return sum(len(block.names) for block in model.design.further.values()) + len(model.design.thresholds)


def _further(model: Model, natural: Array) -> Array:
    """Of ν the logarithm, of thresholds the first and the logs of their steps; coefficients as they are."""
    if model.design.ordered:
        return free_of(natural)
    return np.append(natural[:-1], np.log(natural[-1])) if "nu" in model.design.further else natural
