"""Model → PointFit: the mode of the model's own marginal density, by REML, ML or MAP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from bayeslmm.conditional import coefficient_root
from bayeslmm.covariance import Covariance, Diagonal
from bayeslmm.direct import Direct
from bayeslmm.errors import ExactFitError, MethodError
from bayeslmm.exact.compiled import compilation_notice
from bayeslmm.exact.gaussian import INTEGRATED, JOINT, LOG_2PI, NO_RESIDUAL, criterion_gradient, level, profile
from bayeslmm.exact.laplace import laplace
from bayeslmm.family import HETEROSCEDASTIC
from bayeslmm.generalized import fit_generalized
from bayeslmm.held import hold, names_held
from bayeslmm.model import Model
from bayeslmm.optimise import Optimum, inside, minimise
from bayeslmm.quasi import fit_quasi
from bayeslmm.result import PointFit
from bayeslmm.threads import THREADS_FROM, one_thread

Array = NDArray[np.float64]
Method = Literal["REML", "ML", "MAP", "Laplace", "AGHQ", "PQL"]
# A relative standard deviation (effect column scaled to root mean square 1) at which the residual is nothing; and one
# from which a search that comes to no end is on its way there.
LARGEST_THETA, ENDLESS_THETA = 1e5, 1e4
# Residual sum of squares, as a share of what the fixed part leaves, at which such a search had no residual to find.
LITTLE = 1e-9


def fit(
    model: Model,
    method: Method | None = None,
    *,
    start: Array | None = None,
    fixed: Mapping[str, float] | None = None,
    fixef: Literal["integrated", "joint"] | None = None,
    nodes: int | None = None,
    information: Literal["observed", "expected"] | None = None,
    fast: bool = False,
) -> PointFit:
    """Estimate a mixed model by REML, ML or MAP; of another family than the Gaussian by Laplace's approximation.

    ML maximises the marginal density of y over (β, θ, σ); REML over (θ, σ) with β integrated over a flat prior; MAP
    maximises the posterior density of the natural parameters (sd, correlations, σ; and β if ``fixef="joint"``) without
    Jacobian. With ``priors="flat"`` MAP is REML (``"integrated"``) or ML (``"joint"``), of another family the maximum of
    the approximate likelihood.

    Parameters
    ----------
    model : Model
        What to fit.
    method : {"REML", "ML", "MAP", "Laplace", "AGHQ", "PQL"}, optional
        The criterion: of a Gaussian model one of the first three, REML if not given; of another family how the effects are
        integrated out: Laplace's approximation (the default), adaptive Gauss-Hermite quadrature, or penalised
        quasi-likelihood (see `bayeslmm.generalized.fit_generalized`); or MAP, on Laplace's approximation or, with `nodes`,
        on the quadrature. Of a Gaussian model with a formula for σ, whose default is REML too, Laplace's approximation is
        exact, and is what "ML" means.
    start : ndarray, optional
        Theta to start from, lme4's order; otherwise every effect is as large as the residual.
    fixed : mapping, optional
        Parameters held at a value: ``{"sd_Subject[Days]": 6.0, "sigma": 25.0}``; ``"sd_Subject"`` holds all its effects;
        ``"corr_Subject[Intercept, Days]"`` where a term has two effects. Of another family than the Gaussian also its
        dispersion, ``"alpha"``, and coefficients, ``"fixef[x]"``, ``"zero[x]"``, ``"dispersion[x]"``.
    fixef : {"integrated", "joint"}, optional
        For MAP: β integrated out, or maximised with the rest. "integrated" if not given; of another family than the
        Gaussian "joint", and there is no other.
    nodes : int, optional
        For AGHQ and MAP: nodes per dimension.
    information : {"observed", "expected"}, optional
        For Laplace, AGHQ and MAP: the curvature used where the link is not canonical; observed if not given.
    fast : bool
        For Laplace: β at the mode together with the effects.

    Returns
    -------
    PointFit

    Raises
    ------
    ExactFitError
        The model reproduces the response, so that the density is unbounded.
    MethodError
        The method or an option has no meaning for this model.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> bl.fit(bl.Model("y ~ 1 + (1 | g)", data)).fixef.round(3).to_dict()
    {'Intercept': 3.75}
    """
    if not isinstance(model, Model):
        raise MethodError(f"fit takes a Model, bl.fit(bl.Model(formula, data)); got {type(model).__name__}")
    if model.family != "gaussian":
        if fixef is not None:
            _check_joint(method, fixef)
        linear = model.family == HETEROSCEDASTIC
        default = "REML" if linear else "Laplace"
        used = "Laplace" if linear and method == "ML" else method or default
        return _fit_other(model, used, start, fixed, nodes, information, fast)
    if nodes is not None or information is not None or fast:
        raise MethodError("nodes=, information= and fast= are for families other than the Gaussian")
    method, fixef = method or "REML", fixef or "integrated"
    _check_gaussian(method, fixef)
    begin = _start(model, start)
    with one_thread(model.products.structure.rest_size < THREADS_FROM), compilation_notice(criterion_gradient):
        if fixed:
            return _fit_natural(model, method, fixef, begin, fixed)
        if method == "MAP":
            return _fit_map(model, fixef, begin)
        return _fit_profiled(model, method, begin)


def _check_gaussian(method: str, fixef: str) -> None:
    if method not in ("REML", "ML", "MAP"):
        raise MethodError(f'method={method!r} is not known for a Gaussian model; use "REML", "ML" or "MAP"')
    if fixef not in ("integrated", "joint"):
        raise MethodError(f'fixef={fixef!r} is not known; use "integrated" or "joint"')
    if fixef == "joint" and method != "MAP":
        raise MethodError('fixef="joint" is for method="MAP"; ML maximises over β, REML integrates')


def _check_joint(method: str | None, fixef: str) -> None:
    """Of another family MAP is over β with the rest, nothing else."""
    if method != "MAP" or fixef != "joint":
        raise MethodError(
            f'fixef={fixef!r}: of another family than the Gaussian β is always a parameter of the search, fixef="joint" of '
            'method="MAP"; leave fixef out'
        )


def _fit_other(
    model: Model,
    method: str,
    start: Array | None,
    fixed: Mapping[str, float] | None,
    nodes: int | None,
    information: str | None,
    fast: bool,
) -> PointFit:
    """Any family but the Gaussian."""
    if method == "PQL":
        if nodes is not None or information is not None or fast or start is not None or fixed:
            raise MethodError("PQL takes no start=, fixed=, nodes=, information= or fast=")
        return fit_quasi(model)
    begin = None if start is None else _start(model, start)
    small = model.structure.rest_size < THREADS_FROM
    with one_thread(small), compilation_notice(laplace):
        return fit_generalized(
            model, method, start=begin, nodes=nodes, information=information or "observed", fast=fast, fixed=fixed
        )


def _fit_profiled(model: Model, method: str, begin: Array) -> PointFit:
    """REML or ML over theta, β and σ profiled out."""
    reml = method == "REML"
    optimum = minimise(
        lambda theta: model.gaussian.deviance_gradient(theta, reml), begin, _covariances(model), model.theta_basis
    )
    _check_bounded(model, optimum.theta, optimum.converged)
    at = model.gaussian.marginal(optimum.theta)
    found = model.gaussian.profile(optimum.theta, reml)
    sigma = model.products.sigma(found.rss, reml)
    return PointFit(
        model=model,
        method=method,
        theta=optimum.theta,
        sigma=sigma,
        beta=model.products.beta(found.beta),
        beta_root=coefficient_root(model, at.S, sigma),
        loglik=-0.5 * float(optimum.value),
        logposterior=None,
        optimum=optimum,
    )


def _covariances(model: Model) -> list[Covariance]:
    return [term.covariance for term in model.terms]


def _with_further(basis: Array, further: int) -> Array:
    """The basis of theta, and coordinates of their own for what comes after theta."""
    return np.asarray(block_diag(basis, np.eye(further)))


def _start(model: Model, start: Array | None) -> Array:
    if start is None:
        return model.theta_start
    values = model.checked_theta(start)
    if not np.isfinite(values).all():
        raise MethodError(f"start must hold finite numbers; got {start}")
    return values


def _check_bounded(model: Model, theta: Array, converged: bool) -> None:
    size = np.abs(np.linalg.solve(model.theta_basis, theta))
    large = size > (LARGEST_THETA if converged else ENDLESS_THETA)
    if large.any() or (not converged and _nothing_left(model, theta)):
        name = model.theta_names[int(size.argmax())] if len(size) else "the fixed effects"
        raise ExactFitError(
            f"the residual variance goes to 0 relative to the variance of {name}: the random effects reproduce the response "
            f"{model.design.response!r}. Remove the term, or check for a response that is constant within the levels"
        )


def _nothing_left(model: Model, theta: Array) -> bool:
    """Whether a search that came to no end had all but used up the residual."""
    at = model.gaussian.marginal(theta)
    rss = profile(at.S, at.logdet, model.design.nobs, True).rss
    return not rss > LITTLE * model.products.system.C[-1, -1]


def _fit_map(model: Model, fixef: str, begin: Array) -> PointFit:
    """MAP over (theta, log σ), sd and correlations computed from them."""
    direct = Direct(model)
    if not model.priors.gaussian:
        return _fit_explicit(model, direct, fixef, begin)
    mode = INTEGRATED if fixef == "integrated" else JOINT
    scale = model.products.y_scale

    def objective(x: Array) -> tuple[float, Array]:
        return direct.minus_twice_at(x[:-1], float(x[-1]), mode)

    rough = _rough_sigma(model, begin)
    x0 = inside(objective, np.append(begin, np.log(rough / scale)), model.n_theta)
    optimum = minimise(objective, x0, _covariances(model), _with_further(model.theta_basis, 1))
    theta, sigma = optimum.theta[:-1], float(np.exp(optimum.theta[-1])) * scale
    _check_bounded(model, theta, optimum.converged)
    at = model.gaussian.marginal(theta)
    found = level(at.S, at.logdet, model.design.nobs, sigma / scale, *direct.normal_prior, mode)
    if not np.isfinite(found.beta).all():
        raise ExactFitError(NO_RESIDUAL)
    beta = model.products.beta(found.beta)
    return PointFit(
        model=model,
        method="MAP",
        theta=theta,
        sigma=sigma,
        beta=beta,
        beta_root=coefficient_root(model, at.S, sigma, direct.scaled_precision),
        loglik=loglik_at(model, theta, sigma, beta),
        logposterior=-0.5 * float(optimum.value),
        optimum=optimum,
    )


def _fit_explicit(model: Model, direct: Direct, fixef: str, begin: Array) -> PointFit:
    """MAP over (theta, log σ, β), where the prior on β is not normal."""
    if fixef == "integrated":
        raise MethodError(
            'the prior on β is not normal, so β cannot be integrated out in closed form; use fixef="joint"'
        )
    m, p, scale = model.n_theta, model.products.n_fixed, model.products.y_scale

    def objective(x: Array) -> tuple[float, Array]:
        return direct.minus_twice_at(x[:m], float(x[m]), JOINT, x[m + 1 :])

    x0 = np.concatenate([begin, [np.log(_rough_sigma(model, begin) / scale)], np.zeros(p)])
    x0 = inside(objective, x0, m)
    optimum = minimise(objective, x0, _covariances(model), _with_further(model.theta_basis, p + 1))
    theta, sigma = optimum.theta[:m], float(np.exp(optimum.theta[m])) * scale
    _check_bounded(model, theta, optimum.converged)
    curvature = np.linalg.inv(0.5 * optimum.hessian[m + 1 :, m + 1 :])
    back = direct.back
    beta = model.products.beta(optimum.theta[m + 1 :])
    return PointFit(
        model=model,
        method="MAP",
        theta=theta,
        sigma=sigma,
        beta=beta,
        beta_root=np.linalg.cholesky(curvature).T @ back.T,
        loglik=loglik_at(model, theta, sigma, beta),
        logposterior=-0.5 * float(optimum.value),
        optimum=optimum,
    )


def _rough_sigma(model: Model, theta: Array) -> float:
    at = model.gaussian.marginal(theta)
    return model.products.sigma(profile(at.S, at.logdet, model.design.nobs, True).rss, reml=True)


def loglik_at(model: Model, theta: Array, sigma: float, beta: Array) -> float:
    """ML log-likelihood at (β, θ, σ), full constants."""
    products = model.products
    at = model.gaussian.marginal(theta)
    contrast = np.append(-products.R @ (beta - products.beta_ols) / products.y_scale, 1.0)
    rss = float(contrast @ at.S @ contrast) * (products.y_scale / sigma) ** 2
    n = model.design.nobs
    return -0.5 * (at.logdet - products.sum_log_weights + n * (LOG_2PI + 2.0 * np.log(sigma)) + rss)


def _fit_natural(model: Model, method: str, fixef: str, begin: Array, fixed: Mapping[str, float]) -> PointFit:
    """Any method over (sd, correlations, log σ), some of them held."""
    direct = Direct(model, likelihood_only=method != "MAP")
    if not direct.gaussian:
        raise MethodError("fixed= with a prior on β that is not normal is not available; use a Normal prior on β")
    mode = INTEGRATED if method == "REML" or (method == "MAP" and fixef == "integrated") else JOINT
    held, free = hold(direct, fixed)
    x0 = direct.coordinates(begin, _rough_sigma(model, begin))
    x0[~free] = held[~free]

    def objective(part: Array) -> tuple[float, Array]:
        x = x0.copy()
        x[free] = part
        value, gradient = direct.minus_twice_natural(x, mode)
        return value, gradient[free]

    n_sd = int(free[: direct.n_sd].sum())
    unit = np.append(direct.sd_unit[free[: direct.n_sd]], np.ones(int(free.sum()) - n_sd))
    optimum: Optimum = minimise(objective, x0[free], [Diagonal(1)] * n_sd, unit)
    x = x0.copy()
    x[free] = optimum.theta
    theta, sigma = direct.theta_sigma(x)
    at = model.gaussian.marginal(theta)
    found = level(at.S, at.logdet, model.design.nobs, sigma / model.products.y_scale, *direct.normal_prior, mode)
    if not np.isfinite(found.beta).all():
        raise MethodError(
            "with these parameters held the search ran to a correlation of ±1 or an endless variance; hold that correlation "
            "as well, or leave it out of the model with ||"
        )
    beta = model.products.beta(found.beta)
    value = -0.5 * float(optimum.value)
    return PointFit(
        model=model,
        method=method,
        theta=theta,
        sigma=sigma,
        beta=beta,
        beta_root=coefficient_root(model, at.S, sigma, direct.scaled_precision),
        loglik=loglik_at(model, theta, sigma, beta) if method == "MAP" else value,
        logposterior=value if method == "MAP" else None,
        optimum=optimum,
        fixed=names_held(direct, fixed),
    )
