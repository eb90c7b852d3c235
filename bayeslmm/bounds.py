"""Uniform priors in the sampler: coordinates without limits, so that no step of NUTS leaves the support."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, logit

from bayeslmm.direct import Direct
from bayeslmm.exact.density import log_posterior
from bayeslmm.exact.logpdf import UNIFORM

Array = NDArray[np.float64]
MARGIN = 0.05  # share of an interval, at either end, in which no chain starts


class Bounds:
    """The collapsed density in coordinates y without limits, and the map from y to the coordinates x of `Direct`.

    An sd or σ with a Uniform(a, b) prior is a + (b − a) / (1 + exp(−y)); so is an entry of Tβ, T the map from the
    coefficients to what their priors hold for, which then replaces β. All others keep the coordinates of `Direct`.

    Parameters
    ----------
    direct : Direct
        The collapsed density.
    """

    def __init__(self, direct: Direct) -> None:
        layout, scales = direct.layout, np.arange(direct.n_sd + 1)
        scales[-1] += direct.n_corr
        codes, arguments = np.append(layout.sd_code, layout.sigma_code), np.vstack([layout.sd_args, layout.sigma_args])
        coefficients = np.flatnonzero(layout.beta_code == UNIFORM)
        self.direct, self.first = direct, direct.n_sd + direct.n_corr + 1
        self.scales = scales[codes == UNIFORM]
        self.places = np.concatenate([self.scales, self.first + coefficients]).astype(np.int64)
        limits = np.vstack([arguments[codes == UNIFORM], layout.beta_args[coefficients].reshape(-1, 3)])
        self.lower, self.width = limits[:, 0], limits[:, 1] - limits[:, 0]
        self.inverse = np.linalg.inv(layout.T) if len(coefficients) else None

    def __bool__(self) -> bool:
        return len(self.places) > 0

    def coordinates(self, y: Array) -> Array:
        """The coordinates x at y."""
        x = y.copy()
        x[self.places] = self.lower + self.width * expit(y[self.places])
        x[self.scales] = np.log(x[self.scales])
        if self.inverse is not None:
            x[self.first :] = self.inverse @ (x[self.first :] + self.direct.layout.t)
        return x

    def start(self, x: Array) -> Array:
        """Where y begins if x is wanted: inside the limits, `MARGIN` from either end."""
        y, layout = x.copy(), self.direct.layout
        y[self.scales] = np.exp(x[self.scales])
        if self.inverse is not None:
            y[self.first :] = layout.T @ x[self.first :] - layout.t
        y[self.places] = logit(np.clip((y[self.places] - self.lower) / self.width, MARGIN, 1.0 - MARGIN))
        return y

    def log_density(self, y: Array) -> tuple[float, Array]:
        """Log density of y and its gradient."""
        x = self.coordinates(y)
        layout = self.direct.layout
        value, gradient = log_posterior(self.direct.system, layout, x, True)
        share = expit(y[self.places])
        value += np.sum(np.log(self.width) + log_expit(y[self.places]) + log_expit(-y[self.places]))
        value -= np.sum(x[self.scales])
        gradient[self.scales] = (gradient[self.scales] - 1.0) / np.exp(x[self.scales])
        if self.inverse is not None:
            gradient[self.first :] = self.inverse.T @ gradient[self.first :]
        gradient[self.places] *= self.width * share * (1.0 - share)
        gradient[self.places] += 1.0 - 2.0 * share
        return float(value), gradient
