"""Priors of a generalized model as a function of (θ, β, log φ, …): what MAP adds to the approximate likelihood."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from bayeslmm import thresholds
from bayeslmm.approximation import Laplace
from bayeslmm.direct import encoded, places_of
from bayeslmm.exact.logpdf import lkj_logconstant, logpdf, logpdf_sum
from bayeslmm.scale_priors import ScalePriors

Array = NDArray[np.float64]


class NaturalPriors:
    """Log prior density of the natural parameters sd, correlations, φ, β, ν, thresholds and coefficients, without Jacobians.

    Parameters
    ----------
    approximation : Laplace
        Of a model of any family, whose λ are absolute.

    Raises
    ------
    MethodError
        A prior has no closed form.
    """

    def __init__(self, approximation: Laplace) -> None:
        self.approximation, self.model = approximation, approximation.model
        model, priors = self.model, self.model.priors
        system = approximation.system
        places = places_of(model, priors, model.structure, approximation.effect_scale, system.lam_at)
        self.scales = ScalePriors(
            model.terms, places, *encoded([prior for group in model.groups for prior in priors.sd[group]])
        )
        self.noise = encoded([priors.noise]) if approximation.has_dispersion and priors.noise is not None else None
        self.fixef, self.transform = encoded(priors.fixef), priors.fixef_transform
        blocks = list(priors.further.values())
        self.further = encoded([prior for block in blocks for prior in block.priors] + list(priors.second.values()))
        second = np.eye(len(priors.second))
        self.further_transform = block_diag(np.empty((0, 0)), *(block.transform for block in blocks), second)
        self.constant = sum(lkj_logconstant(place.size, place.eta) for place in places if place.correlated)

    def at(self, x: Array) -> tuple[float, Array]:
        """The log density at x and its gradient.

        Parameters
        ----------
        x : ndarray (m,)
            (θ, β, log φ, coefficients for dispersion and zeros).

        Returns
        -------
        tuple of (float, ndarray)
        """
        point, m, p = self.approximation.point(x), self.model.n_theta, self.approximation.p
        gradient = np.zeros(len(x))
        value, gradient[:m], _ = self.scales.at(self.model.factors(point.theta), 1.0)
        slopes = np.empty(p)
        value += logpdf_sum(*self.fixef, self.transform @ point.beta, slopes)
        gradient[m : m + p] = self.transform.T @ slopes
        if self.noise is not None:
            phi = float(np.exp(point.aux))
            density, slope = logpdf(self.noise[0][0], *self.noise[1][0], phi)
            value += density
            gradient[m + p] = slope * phi
        natural, jacobian = self._natural(point.further)
        slopes = np.empty(len(natural))
        value += logpdf_sum(*self.further, self.further_transform @ natural, slopes)
        gradient[len(x) - len(natural) :] = jacobian.T @ (self.further_transform.T @ slopes)
        return float(value + self.constant), gradient

    def _natural(self, further: Array) -> tuple[Array, Array]:
        """Coefficients for dispersion and zeros, ν or thresholds, and their derivatives by the further parameters."""
        if self.model.design.ordered:
            return thresholds.increasing(further), thresholds.slopes(further)
        natural, jacobian = further.copy(), np.eye(len(further))
        if "nu" in self.model.design.further:
            natural[-1] = jacobian[-1, -1] = np.exp(further[-1])
        return natural, jacobian
