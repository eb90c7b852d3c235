"""Families without zeros of their own, by Bambi's names: what a response can be, its variance, random draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SUPPORT: dict[str, Callable[[Array, Array], NDArray[np.bool_]]] = {
    "gaussian": lambda y, m: np.isfinite(y),
    "bernoulli": lambda y, m: (y == 0) | (y == 1),
    "binomial": lambda y, m: (y >= 0) & (y <= m) & (m > 0) & (y == np.round(y)) & (m == np.round(m)),
    "poisson": lambda y, m: (y >= 0) & (y == np.round(y)),
    "negativebinomial": lambda y, m: (y >= 0) & (y == np.round(y)),
    "gamma": lambda y, m: y > 0,
    "wald": lambda y, m: y > 0,
    "beta": lambda y, m: (y > 0) & (y < 1),
}
SUPPORT |= {"t": SUPPORT["gaussian"], "cumulative": lambda y, m: y >= 0}
SUPPORT |= {"betabinomial": SUPPORT["binomial"], "negativebinomial1": SUPPORT["poisson"]}
VARIANCE: dict[str, Callable[[Array, Any], Array]] = {
    "gaussian": lambda mu, phi: np.full_like(mu, phi**2),
    "bernoulli": lambda mu, phi: mu * (1.0 - mu),
    "binomial": lambda mu, phi: mu * (1.0 - mu),
    "poisson": lambda mu, phi: mu,
    "negativebinomial": lambda mu, phi: mu + mu**2 / phi,
    "gamma": lambda mu, phi: mu**2 / phi,
    "wald": lambda mu, phi: mu**3 / phi,
    "beta": lambda mu, phi: mu * (1.0 - mu) / (1.0 + phi),
    "negativebinomial1": lambda mu, phi: mu * (1.0 + phi),
    "t": lambda mu, phi: np.full_like(mu, phi**2),
}
DRAWS: dict[str, Callable[..., Array]] = {
    "gaussian": lambda rng, mu, phi, m: rng.normal(mu, phi),
    "bernoulli": lambda rng, mu, phi, m: rng.binomial(1, mu).astype(float),
    "binomial": lambda rng, mu, phi, m: rng.binomial(np.asarray(m, int), mu).astype(float),
    "poisson": lambda rng, mu, phi, m: rng.poisson(mu).astype(float),
    "negativebinomial": lambda rng, mu, phi, m: rng.negative_binomial(phi, phi / (phi + mu)).astype(float),
    "gamma": lambda rng, mu, phi, m: rng.gamma(phi, mu / phi),
    "wald": lambda rng, mu, phi, m: rng.wald(mu, phi),
    "beta": lambda rng, mu, phi, m: rng.beta(mu * phi, (1.0 - mu) * phi),
    "betabinomial": lambda rng, mu, phi, m: rng.binomial(np.asarray(m, int), rng.beta(mu * phi, (1.0 - mu) * phi)),
    "negativebinomial1": lambda rng, mu, phi, m: rng.negative_binomial(mu / phi, 1.0 / (1.0 + phi)),
}
