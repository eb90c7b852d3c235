"""A generalized fit as the linear mixed model that is tangent to it: for leverages and for what deleting rows does.

At the mode of the effects let w = −∂²ℓ/∂η² (or its expectation), and e the rows' share of the score of Laplace's
approximation, ∂L/∂β = X'e = 0 at the estimate (see `exact.laplace`). With V = W⁻¹ + ZΛΛ'Z' the model of the working response

    z = offset + Xβ̂ + Ve,     z ~ N(offset + Xβ, V)

has V⁻¹(z − offset − Xβ̂) = e: the same estimate, the same scores of the rows, and the curvature X'V⁻¹X. Without random
effects it is iteratively reweighted least squares at rest.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayeslmm.approximation import Laplace
from bayeslmm.conditional import coefficient_root
from bayeslmm.errors import MethodError
from bayeslmm.exact.factor import back_solve, factorise, half_solve, times_lambda, times_lambda_transposed
from bayeslmm.exact.gaussian import marginal
from bayeslmm.exact.inverse import selected_inverse
from bayeslmm.exact.laplace import Curve, curve
from bayeslmm.exact.pullback import logdet_products
from bayeslmm.exact.rows import quadratic_forms, times, transposed_times, weigh
from bayeslmm.family import family_of
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.model import Model
from bayeslmm.quasi import QuasiFit
from bayeslmm.result import PointFit

Array = NDArray[np.float64]


class Tangent(NamedTuple):
    """The linear mixed model, and the rows' residuals ∂ℓ/∂η / √w, the Pearson residuals where w is expected."""

    working: PointFit
    residual: Array


def linearised(fit: GeneralizedFit) -> Tangent:
    """The tangent linear mixed model.

    Parameters
    ----------
    fit : GeneralizedFit
        By penalised quasi-likelihood its own last working model is taken.

    Returns
    -------
    Tangent

    Raises
    ------
    MethodError
        A row's weight is not positive, and its expectation has no closed form.
    """
    if isinstance(fit, QuasiFit):
        working = fit.last
        weights = working.model.design.weights
        root = 1.0 if weights is None else np.sqrt(weights)
        return Tangent(working, root * working.residuals.to_numpy() / working.sigma)
    approximation, eta = Laplace(fit.model, fit.information), fit.linear_predictor.to_numpy()
    at = _positive(fit, curve(approximation.rows_at(fit.point), eta, fit.point.aux, approximation.expected), eta)
    e = _score(fit, approximation, at)
    lam = approximation.lam(fit.theta)
    s, rows = approximation.system, approximation.rows
    product = np.empty_like(s.B)
    transposed_times(s, rows, e[:, None], product)
    spread = times(s, rows, times_lambda(s, lam, times_lambda_transposed(s, lam, product))[:, 0])
    design = fit.model.design
    centre = design.fixed.X @ fit.beta + (0.0 if design.offset is None else design.offset)
    model = _gaussian(fit.model, centre + e / at.weight + spread, at.weight)
    S = marginal(model.products.system, model.products.lam(fit.theta)).S
    working = PointFit(
        model=model,
        method="ML",
        theta=fit.theta,
        sigma=1.0,
        beta=fit.beta,
        beta_root=coefficient_root(model, S, 1.0),
        loglik=float("nan"),
        logposterior=None,
        optimum=fit.optimum,
    )
    return Tangent(working, at.first / np.sqrt(at.weight))


def _positive(fit: GeneralizedFit, at: Curve, eta: Array) -> Curve:
    """The derivatives with positive weights: expected ones where the observed are not."""
    if (at.weight > 0).all():
        return at
    if family_of(fit.model.family).has_information:
        at = curve(Laplace(fit.model, "expected").rows_at(fit.point), eta, fit.point.aux, True)
    if (at.weight > 0).all():
        return at
    row = fit.model.design.rows[int(at.weight.argmin())]
    raise MethodError(
        f"row {row} has the weight {at.weight.min():.3g}: the likelihood is not concave there, or its response is certain, so "
        "there is no linear model tangent to the fit; bl.influence(fit, refit=True) estimates anew"
    )


def _score(fit: GeneralizedFit, a: Laplace, at: Curve) -> Array:
    """The e with X'e = 0 at the estimate: that of Laplace's approximation, or ∂ℓ/∂η where β is at the joint mode."""
    if not fit.model.groups:
        return at.first
    s, rows, lam = a.system, a.rows, a.lam(fit.theta)
    weigh(s, rows, at.weight)
    A11, A21, A22 = logdet_products(s, lam, selected_inverse(s, factorise(s, lam)), 1.0)
    c = -0.5 * quadratic_forms(s, rows, A11, A21, A22) * at.change
    weigh(s, rows, at.observed)
    column = np.empty_like(s.B)
    transposed_times(s, rows, c[:, None], column)
    factor = factorise(s, lam)
    adjoint = back_solve(s, factor, half_solve(s, factor, times_lambda_transposed(s, lam, column)))
    e = at.first + c - at.observed * times(s, rows, times_lambda(s, lam, adjoint)[:, 0])
    of_laplace, of_mode = (float(np.sum((fit.beta_root @ (fit.model.X.T @ score)) ** 2)) for score in (e, at.first))
    return np.asarray(e if of_laplace <= of_mode else at.first)


def _gaussian(model: Model, y: Array, weights: Array) -> Model:
    """The Gaussian model of a working response on the design of another family's model."""
    design = replace(model.design, y=y, weights=weights, trials=None, further={})
    new = object.__new__(Model)
    values = {name: getattr(model, name) for name in ("formula", "priors", "stages", "arguments")}
    new.__dict__.update(values | {"design": design, "family": "gaussian", "link": "identity"})
    return new
