"""How wrong Laplace's approximation is at its optimum: by quadrature where that is possible, else by importance sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from bayeslmm.approximation import MOST_DIMENSIONS, Laplace, Point, Quadrature
from bayeslmm.errors import MethodError
from bayeslmm.exact.factor import back_solve, factorise, times_lambda
from bayeslmm.exact.laplace import curve, slopes
from bayeslmm.exact.rows import times, weigh
from bayeslmm.generalized import GeneralizedFit

Array = NDArray[np.float64]
# Nodes per dimension, by the number of effects that a level has.
NODES = {1: 41, 2: 21, 3: 13}
# Draws that are held at a time.
BLOCK = 200
# Pareto shape from which a mean of importance weights cannot be trusted (Vehtari et al. 2024).
UNRELIABLE = 0.7
# Error of a log-likelihood from which it may matter to a test.
NOTABLE = 0.1


@dataclass(frozen=True)
class LaplaceError:
    """The error of an approximate log-likelihood at the estimates.

    Parameters
    ----------
    value : float
        Log-likelihood − approximation: positive where the approximation is too low.
    se : float
        Monte Carlo standard error of `value`; 0 for quadrature.
    pareto_k : float
        Shape of the tail of the importance weights; NaN for quadrature.
    method : str
        "quadrature" or "importance sampling".
    draws : int
        Importance draws, or nodes of the quadrature per dimension.
    """

    value: float
    se: float
    pareto_k: float
    method: str
    draws: int

    @property
    def reliable(self) -> bool:
        """Whether the number can be trusted: quadrature, or a Pareto shape below 0.7."""
        return not self.pareto_k >= UNRELIABLE

    def __str__(self) -> str:
        how = f"{self.draws} nodes" if self.method == "quadrature" else f"{self.draws} draws"
        tail = "" if np.isnan(self.pareto_k) else f", Pareto k {self.pareto_k:.2f}"
        doubt = "" if self.reliable else "; the weights have too heavy a tail, so the number says little"
        error = f" ± {self.se:.2g}" if self.se else ""
        return f"log-likelihood − approximation = {self.value:.4g}{error} ({self.method}, {how}{tail}){doubt}"


def laplace_error(fit: Any, draws: int = 2000, seed: int = 0) -> LaplaceError:
    """Estimate the error of Laplace's approximation, or of a coarse quadrature, at the estimates.

    With one grouping factor of at most three effects a level, the log-likelihood is taken by adaptive Gauss–Hermite
    quadrature with 41, 21 or 13 nodes per dimension. Otherwise by importance sampling: with b̂ the mode, M the curvature
    there and b from N(b̂, M⁻¹),

        log ∫ exp h(b) db − Laplace = log E exp(h(b) − h(b̂) + ½ (b − b̂)'M(b − b̂))

    whose standard error is by the delta method and whose tail is measured by Pareto's k (Vehtari et al. 2024, J. Mach.
    Learn. Res. 25). It says how wrong the log-likelihood is at these parameters, not how far its maximum has moved.

    Parameters
    ----------
    fit : GeneralizedFit
        By Laplace's approximation or AGHQ.
    draws : int
        Of importance sampling.
    seed : int

    Returns
    -------
    LaplaceError

    Raises
    ------
    MethodError
        Not such a fit, or one without a likelihood (PQL) or random effects.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1], "g": list("aaaabbbbcccc")}
    >>> fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", data, family="bernoulli"))
    >>> laplace_error(fit).method
    'quadrature'
    """
    if not isinstance(fit, GeneralizedFit) or fit.method not in ("Laplace", "AGHQ", "ML"):
        what = getattr(fit, "method", type(fit).__name__)
        raise MethodError(f'the error of an approximation is that of a "Laplace" or "AGHQ" fit; got {what}')
    if not fit.model.groups:
        raise MethodError("a model without random effects needs no approximation")
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 100:
        raise MethodError(f"draws={draws!r} must be a whole number, at least 100")
    factors = fit.model.structure.factors
    point = fit.point
    if len(factors) == 1 and factors[0].width <= MOST_DIMENSIONS:
        nodes = NODES[factors[0].width]
        value, _ = Quadrature(fit.model, fit.information, nodes).minus_twice(point)
        return LaplaceError(-0.5 * value - fit.loglik, 0.0, float("nan"), "quadrature", nodes)
    return _sampled(fit, point, int(draws), seed)


def _sampled(fit: GeneralizedFit, point: Point, draws: int, seed: int) -> LaplaceError:
    from arviz_stats.base.array import array_stats

    approximation = Laplace(fit.model, fit.information)
    mode = approximation.mode(point)
    s, lam, d = approximation.system, approximation.lam(point.theta), approximation.rows_at(point)
    weigh(s, approximation.rows, curve(d, mode.eta, point.aux, approximation.expected).weight)
    factor = factorise(s, lam)

    def log_joint(b: Array) -> Array:
        eta = mode.eta[:, None] + _rows(approximation, times_lambda(s, lam, b - mode.b))
        first, weight = np.empty(len(eta)), np.empty(len(eta))
        values = [slopes(d, np.ascontiguousarray(column), point.aux, False, first, weight) for column in eta.T]
        return np.array(values) - 0.5 * np.sum(b**2, axis=0)

    rng, parts = np.random.default_rng(seed), []
    for start in range(0, draws, BLOCK):
        z = rng.standard_normal((len(mode.b), min(BLOCK, draws - start)))
        parts.append(log_joint(mode.b + back_solve(s, factor, z)) + 0.5 * np.sum(z**2, axis=0))
    ratio = np.concatenate(parts) - log_joint(mode.b)[0]  # psislw takes their negative
    value = float(logsumexp(ratio) - np.log(draws))
    se = float(np.exp(ratio - value).std(ddof=1) / np.sqrt(draws))
    return LaplaceError(value, se, float(array_stats.psislw(-ratio)[1]), "importance sampling", draws)


def _rows(approximation: Laplace, effects: Array) -> Array:
    """Z times effects (Q, draws), in the rows."""
    return np.column_stack(
        [times(approximation.system, approximation.rows, np.ascontiguousarray(u)) for u in effects.T]
    )
