"""Responses of Student's t distribution around η, with scale σ = e^a and ν = e^ζ degrees of freedom.

With e = y − η, u = e²/(νσ²), s = 1/(1 + u) and g(x) = log Γ(x + ½) − log Γ(x) − ½ log x:

    ℓ = g(ν/2) − ½ log 2π − a − ½(ν + 1) log(1 + u),     ∂ℓ/∂η = (1 + 1/ν) e s/σ²,     i = (ν + 1)/((ν + 3) σ²)

Where u > 1 the density is not log-concave: a response further than √ν σ away has a curvature of the other sign.
"""

from __future__ import annotations

import math

from bayeslmm.exact.compiled import kernel
from bayeslmm.exact.densities import Density, Zeroed
from bayeslmm.exact.special import HALF_LOG_2PI, LARGE, digamma


@kernel
def log_gamma_step(x: float) -> tuple[float, float]:
    """g(x) and x g'(x); from `LARGE` on by their series in 1/x, the next term of which is below 1e-14."""
    if x < LARGE:
        value = math.lgamma(x + 0.5) - math.lgamma(x) - 0.5 * math.log(x)
        return value, x * (digamma(x + 0.5) - digamma(x)) - 0.5
    z = 1.0 / (x * x)
    value = -1 / 8 + z * (1 / 192 - z * (1 / 640 - z * (17 / 14336 - z * 31 / 18432)))
    slope = 1 / 8 - z * (3 / 192 - z * (5 / 640 - z * (7 * 17 / 14336 - z * 9 * 31 / 18432)))
    return value / x, slope / x


@kernel
def student_t(y: float, eta: float, a: float, zeta: float) -> Zeroed:
    """ℓ and its derivatives in η, a = log σ and ζ = log ν."""
    nu, tau = math.exp(zeta), math.exp(-2.0 * a)
    e = y - eta
    u = e * e * tau / nu
    s = 1.0 / (1.0 + u)
    k = (1.0 + 1.0 / nu) * tau
    per = tau / nu  # 1/(νσ²)
    step, step_slope = log_gamma_step(0.5 * nu)
    excess = (nu + 1.0) * u * s
    information = (nu + 1.0) / (nu + 3.0) * tau
    density = Density(
        step - HALF_LOG_2PI - a - 0.5 * (nu + 1.0) * math.log1p(u),
        k * e * s,
        k * (u - 1.0) * s * s,
        2.0 * k * e * per * (u - 3.0) * s**3,
        information,
        0.0,
        -2.0 * information,
        excess - 1.0,
        -2.0 * k * e * s * s,
        -2.0 * k * (3.0 * u - 1.0) * s**3,
    )
    return Zeroed(
        density,
        step_slope - 0.5 * nu * math.log1p(u) + 0.5 * excess,
        e * per * (nu * u - 1.0) * s * s,
        per * (4.0 * u * (nu * u - 1.0) - (3.0 * nu * u - 1.0) * (1.0 + u)) * s**3,
        2.0 * nu / (nu + 3.0) ** 2 * tau,
    )
