"""The prior on β that tends to a flat one, and the Bayesian answer that tends to BLUE and BLUP with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from bayeslmm.equations import given_variances, source_values
from bayeslmm.errors import MethodError
from bayeslmm.henderson import Equations, solve_equations
from bayeslmm.variances import numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame, Series

Array = NDArray[np.float64]
LINEAR = 0.01  # how far a rate may be from 1 and still be called linear


@dataclass(frozen=True)
class LimitingPrior:
    """How fast the Bayesian answer tends to BLUE and BLUP as the prior on β flattens.

    Attributes
    ----------
    table : DataFrame
        One row per κ: `kappa`; `fixef`, the largest |β̂ − E(β | y)| in standard errors; `ranef`, the largest
        |û − E(u | y)| in prior standard deviations of u; `marginal`, log p(y) − ½ log|D/2π| less the REML
        log-likelihood; `slope`, that of log `fixef` on log κ since the row above.
    rate : Series
        Slope of log distance on log κ over the four smallest κ, for `fixef`, `ranef` and `marginal`; 1 is linear.
    floor : float
        Smallest eigenvalue of XᵀV⁻¹X scaled to a unit diagonal: the answer is linear in κ well below it.
    """

    table: DataFrame
    rate: Series
    floor: float

    @property
    def verdict(self) -> str:
        """What the table shows, in a sentence."""
        last = self.table.iloc[-1]
        if self.rate.isna().all():
            return "The Bayesian answer is BLUE and BLUP at every κ: y leaves nothing for the prior to move."
        where = (
            f"at κ = {last['kappa']:.0e} β is {last['fixef']:.1e} standard errors from BLUE "
            f"and u {last['ranef']:.1e} sd from BLUP"
        )
        if (self.rate.dropna() - 1.0).abs().max() <= LINEAR:
            return (
                f"As the prior on β flattens, the Bayesian answer tends to BLUE and BLUP in proportion to κ: {where}."
            )
        return f"The limit lies at smaller κ: {where}. Extend exponents= until κ is well below {self.floor:.0e}."

    def __str__(self) -> str:
        rates = ", ".join(f"{name} {value:.4f}" for name, value in self.rate.items())
        table = self.table.to_string(index=False, float_format=lambda value: f"{value:.3g}")
        return f"Limiting prior β ~ N(0, D⁻¹), D_jj = κ [XᵀV⁻¹X]_jj\n{table}\nrate: {rates}\n{self.verdict}"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Distances against κ on logarithmic axes, with a line of slope 1."""
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots(figsize=(6.4, 4.4), layout="constrained")[1]
        return _draw(self.table, ax)


def _draw(table: DataFrame, ax: Axes) -> Axes:
    series = {
        "fixef": ("β to BLUE (standard errors)", "#0072B2", "o"),
        "ranef": ("u to BLUP (sd of u)", "#D55E00", "s"),
        "marginal": ("log marginal to REML (absolute)", "#009E73", "^"),
    }
    shown = {name: table[name].abs() for name in series if (table[name] != 0.0).any()}
    for name, distance in shown.items():
        label, colour, marker = series[name]
        ax.loglog(table["kappa"], distance.where(distance > 0.0), color=colour, marker=marker, label=label)
    if shown:
        lowest = min(distance.iloc[-1] for distance in shown.values())
        line = lowest / 3 * table["kappa"] / table["kappa"].iloc[-1]
        ax.loglog(table["kappa"], line, color="0.4", linestyle="--", linewidth=1, label="slope 1")
        ax.legend(frameon=False)
    ax.set(
        xlabel="prior precision κ (1 = the data's own)", ylabel="distance", title="The posterior as the prior flattens"
    )
    return ax


def limiting_prior(
    source: Any, theta: Any = None, sigma: float | None = None, exponents: Iterable[float] = range(11)
) -> LimitingPrior:
    """Let the prior on β go flat and measure the distance from the Bayesian answer to BLUE and BLUP.

    With H = XᵀV⁻¹X, β ~ N(0, D⁻¹), D_jj = κH_jj and (θ, σ) given, the posterior mean β_κ solves (H + D)β_κ = Hβ̂. So

        β̂ − β_κ = (H + D)⁻¹Dβ̂        û − u_κ = −GZᵀV⁻¹X (β̂ − β_κ)
        log p_κ(y) − ½ log|D/2π| − ℓ_REML = −½ [log|I + H⁻¹D| + β̂ᵀH(H + D)⁻¹Dβ̂]

    each computed as it stands, in the eigenvectors of H scaled to a unit diagonal, where D = κI: no two near numbers
    are subtracted, and the distances keep their digits however small κ is.

    Parameters
    ----------
    source : Model, PointFit or Posterior
        A result lends its θ and σ; of a posterior, those of the mean sd, correlations and σ.
    theta, sigma : array_like, float, optional
        As in `solve`; they go before those of a result.
    exponents : iterable of float
        κ = 10^−exponent, largest κ first.

    Returns
    -------
    LimitingPrior
        `table`, `rate`, `verdict`, `plot()`.

    Raises
    ------
    MethodError
        As `solve`; exponents that are not increasing finite numbers; a model without fixed effects.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 3.0, 6.0, 5.0], "g": ["a", "a", "b", "b", "c", "c"]}
    >>> limit = bl.limiting_prior(bl.Model("y ~ 1 + (1 | g)", data), theta=[1.0], sigma=1.0)
    >>> f"{limit.rate['fixef']:.3f}"
    '1.000'
    """
    kappa = _kappa(exponents)
    model, theta, sigma = source_values(source, theta, sigma)
    if not model.X.shape[1]:
        raise MethodError("The model has no fixed effects, so there is no prior on them to flatten.")
    return _limiting(solve_equations(model, *given_variances(model, theta, sigma, None, None)), kappa)


def _kappa(exponents: Iterable[float]) -> Array:
    values = numbers(list(exponents), "exponents")
    if values.ndim != 1 or not len(values) or np.any(np.diff(values) <= 0.0):
        raise MethodError(f"exponents must be increasing numbers, such as range(11), got {values.tolist()}.")
    return 10.0**-values


def _limiting(equations: Equations, kappa: Array) -> LimitingPrior:
    from pandas import DataFrame, Series

    columns, floor = _distances(equations, kappa)
    slopes = np.diff(_log(columns["fixef"])) / np.diff(np.log(kappa))
    table = DataFrame({"kappa": kappa, **columns, "slope": np.concatenate([[np.nan], slopes])})
    rate = {name: _slope(kappa[-4:], values[-4:]) for name, values in columns.items()}
    return LimitingPrior(table=table, rate=Series(rate, name="rate"), floor=floor)


def _distances(equations: Equations, kappa: Array) -> tuple[dict[str, Array], float]:
    """Distances per κ. With H = ΔKᵀKΔ, the columns of K of length 1 and K = U diag(√h) Vᵀ, D is κΔ²."""
    root = equations.root.T @ equations.triangle
    norms = np.linalg.norm(root, axis=0)
    _, singular, vectors = np.linalg.svd(root / norms)
    h = singular[:, None] ** 2
    z = (vectors @ (norms * equations.scaled_fixef / equations.scale))[:, None]
    moved = vectors.T @ (kappa / (h + kappa) * z)
    error = np.sqrt(np.sum(vectors.T**2 / h.T, axis=1))[:, None]
    effects = equations.factor @ (equations.share @ (equations.triangle @ (moved / norms[:, None])))
    prior_sd = sparse.linalg.norm(equations.factor, axis=1)
    free = prior_sd > 0.0
    distances = {
        "fixef": np.max(np.abs(moved) / error, axis=0),
        "ranef": np.max(np.abs(effects[free]) / prior_sd[free, None], axis=0, initial=0.0),
        "marginal": -0.5 * np.sum(np.log1p(kappa / h) + kappa * h / (h + kappa) * z**2, axis=0),
    }
    return distances, float(h.min())


def _log(values: Array) -> Array:
    return np.log(np.abs(values), where=values != 0.0, out=np.full(len(values), np.nan))


def _slope(kappa: Array, values: Array) -> float:
    """Least squares slope of log |values| on log κ; NaN with fewer than two distances that are not zero."""
    known = values != 0.0
    if known.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(kappa[known]), np.log(np.abs(values[known])), 1)[0])
