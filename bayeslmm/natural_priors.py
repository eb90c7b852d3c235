"""Priors of a generalized model as a function of (θ, β, log φ, …): what MAP adds to the approximate likelihood."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeslmm.approximation import Laplace
from bayeslmm.direct import encoded, places_of
from bayeslmm.errors import MethodError
from bayeslmm.exact.logpdf import lkj_logconstant, logpdf, logpdf_sum
from bayeslmm.scale_priors import ScalePriors

Array = NDArray[np.float64]


class NaturalPriors:
    """Log prior density of the natural parameters sd, correlations, φ and β, without the Jacobians of θ and log φ.

    Parameters
    ----------
    approximation : Laplace
        Of a model of any family, whose λ are absolute.

    Raises
    ------
    MethodError
        A prior has no closed form, or there are coefficients for dispersion or zeros, which have priors only if all are
        flat.
    """

    def __init__(self, approximation: Laplace) -> None:
        self.approximation, self.model = approximation, approximation.model
        model, priors = self.model, self.model.priors
        if model.design.further and not priors.flat:
            raise MethodError(
                f"the coefficients of the formula for {' and '.join(model.design.further)} have no priors, so there is no MAP "
                'fit; use method="Laplace", or priors="flat"'
            )
        system = approximation.system
        places = places_of(model, priors, model.structure, approximation.effect_scale, system.lam_at)
        self.scales = ScalePriors(
            model.terms, places, *encoded([prior for group in model.groups for prior in priors.sd[group]])
        )
        self.noise = encoded([priors.noise]) if approximation.has_dispersion and priors.noise is not None else None
        self.fixef, self.transform = encoded(priors.fixef), priors.fixef_transform
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
        return float(value + self.constant), gradient
