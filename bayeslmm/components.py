"""Parameters of a model → the variance that each source contributes to the linear predictor, and the residual's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.errors import NotSupportedError
from bayeslmm.estimates import parameter_names
from bayeslmm.exact.products import power_of_two
from bayeslmm.model import Model

Array = NDArray[np.float64]


class Part(NamedTuple):
    """One addend of the variance: ``weight`` times the product of the natural parameters at ``factors``."""

    label: str
    group: str
    weight: float
    factors: tuple[int, ...]

    @property
    def pair(self) -> bool:
        """Whether it is the covariance of two effects, which may be negative."""
        return len(self.factors) == 3


def residual_variance(model: Model, sigma: Array) -> Array:
    """Variance of a row given the effects, on the scale of the linear predictor: σ²/w averaged over the rows."""
    if model.family != "gaussian":
        raise NotSupportedError(f"shares of variance are of Gaussian models so far; this one is {model.family}")
    weights = model.design.weights
    return sigma**2 * (1.0 if weights is None else float(np.mean(1.0 / weights)))


def random_parts(model: Model) -> list[Part]:
    """The addends of mean_i z_i'Σz_i: sd_a² mean z_a² of each effect, 2 sd_a sd_b corr_ab mean z_a z_b of each pair."""
    parts, at = [], model.products.n_fixed
    for group in model.groups:
        effects, pairs = model.effects(group), model.pairs(group)
        columns = np.hstack([term.columns for term in model.design.random if term.group == group])
        square = np.mean(columns**2, axis=0)
        parts += [Part(f"{group}[{e}]", group, float(square[i]), (at + i, at + i)) for i, e in enumerate(effects)]
        for corr, (i, j) in enumerate(pairs, at + len(effects)):
            weight = 2.0 * float(np.mean(columns[:, i] * columns[:, j]))
            parts.append(Part(f"{group}[{effects[i]}, {effects[j]}]", group, weight, (at + i, at + j, corr)))
        at += len(effects) + len(pairs)
    return parts


def components(model: Model, parameters: Array) -> Array:
    """Variance that the fixed part, each random addend and the residual contribute, in units of σ².

    Parameters
    ----------
    model : Model
    parameters : ndarray (…, m)
        β, sds, correlations and σ in the order of `parameter_names`.

    Returns
    -------
    ndarray (…, 1 + parts + 1)
    """
    sigma = parameters[..., -1:]
    p = model.products.n_fixed
    corr = np.array([name.startswith("corr_") for name in parameter_names(model)])
    scaled = np.where(corr, parameters, parameters / sigma)
    found = [_fixed_variance(model, scaled[..., :p])]
    found += [part.weight * np.prod(scaled[..., list(part.factors)], axis=-1) for part in random_parts(model)]
    found.append(residual_variance(model, scaled[..., -1]))
    return np.stack(found, axis=-1)


def _fixed_variance(model: Model, beta: Array) -> Array:
    """Sample variance of Xβ over the rows, divisor n − 1."""
    X = model.X
    if not X.shape[1]:
        return np.zeros(beta.shape[:-1])
    size = power_of_two(X)
    centred = X / size - (X / size).mean(axis=0)
    centred[:, np.ptp(X, axis=0) == 0] = 0.0
    root = np.linalg.qr(centred, mode="r")
    return np.asarray(np.sum((beta * size @ root.T) ** 2, axis=-1) / (len(X) - 1))
