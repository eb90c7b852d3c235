"""Any result → intervals for β, sd, correlations and σ under their public names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtri, ndtr, ndtri

from bayeslmm.bootstrap import Bootstrap, bootstrap
from bayeslmm.errors import MethodError
from bayeslmm.estimates import COEFFICIENTS, estimates, moved, parameter_names, posterior_draws, variance_names
from bayeslmm.posterior import Posterior
from bayeslmm.profile import chosen, curves
from bayeslmm.result import PointFit
from bayeslmm.threads import THREADS_FROM, one_thread

Array = NDArray[np.float64]
Method = Literal["wald", "profile", "bootstrap", "eti", "hdi"]
Interval = Literal["percentile", "basic", "bias-corrected"]
INTERVALS = ("percentile", "basic", "bias-corrected")


def confint(
    result: PointFit | Posterior,
    level: float = 0.95,
    method: Method | None = None,
    parameters: str | Sequence[str] | None = None,
    criterion: Literal["ML", "REML"] = "ML",
    *,
    nsim: int = 1000,
    seed: Any = None,
    interval: Interval = "percentile",
    progress: bool = True,
) -> pd.DataFrame:
    """Intervals for the natural parameters of a result.

    ``"wald"``: estimate ± z · se for coefficients; for sd and σ on the log scale, for correlations on Fisher's z, with standard
    errors from the curvature of the criterion; NaN at the boundary (sd 0, correlation ±1), where it says nothing.
    ``"profile"``: every value from which the −2 log-likelihood, minimised over all other parameters, is within the
    χ²₁ quantile of its minimum; it may end at 0, at ±1 or at infinity. ``"bootstrap"``: from refits to responses
    simulated from the fit (`bootstrap`); see `interval`. ``"eti"``: the middle of a posterior, equal tails. ``"hdi"``:
    its shortest interval.

    Parameters
    ----------
    result : PointFit or Posterior
        What to read.
    level : float
        Probability, between 0 and 1.
    method : {"wald", "profile", "bootstrap", "eti", "hdi"}, optional
        The first three for point fits (``"wald"`` if not given), the others for posteriors (``"eti"`` if not given).
    parameters : str or sequence of str, optional
        Public names, ``"sd_Subject[Days]"``; ``"sd_Subject"`` stands for all its effects. All, if not given.
    criterion : {"ML", "REML"}
        Which likelihood is profiled. As in lme4, ML also for a REML fit (refitted by ML); REML has no profile for β.
    nsim, seed, progress
        Of the bootstrap, as for `bootstrap`. With ``seed=None`` a new one is taken and kept in ``.attrs["seed"]``.
    interval : {"percentile", "basic", "bias-corrected"}
        How the refits' quantiles q become an interval around the estimate θ̂: (q(α/2), q(1 − α/2)); the basic interval
        (2θ̂ − q(1 − α/2), 2θ̂ − q(α/2)), which for an sd may begin below 0; or percentiles at Φ(2z₀ ± z), z₀ = Φ⁻¹ of the
        share of refits below θ̂ (Efron's BC, without acceleration). Davison and Hinkley (1997), chapter 5.

    Returns
    -------
    DataFrame
        Columns lower and upper, one row per parameter. Of a bootstrap, ``.attrs["notes"]`` says what failed.

    Raises
    ------
    MethodError
        The method does not fit the result, or an argument has no meaning.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", data))
    >>> bl.confint(fit, method="profile", parameters="sd_g").round(3).loc["sd_g[Intercept]"].tolist()
    [0.0, 4.748]
    """
    kind = _kind(result, method)
    if not (isinstance(level, int | float | np.number) and 0.0 < level < 1.0):
        raise MethodError(f"level is a probability between 0 and 1, got {level!r}")
    if criterion != "ML" and kind != "profile":
        raise MethodError(f'criterion={criterion!r} is for method="profile"; it says nothing for {kind!r}')
    _check_bootstrap(kind, seed, interval)
    names, attrs = chosen(result.model, parameters), {}
    if isinstance(result, Posterior):
        bounds = _of_draws(result, names, level, kind)
    elif kind == "profile":
        names, bounds = _profiled(result, parameters, float(level), criterion)
    elif kind == "bootstrap":
        refits = bootstrap(result, nsim, seed=seed, progress=progress)
        bounds, attrs = _bootstrapped(refits, names, level, interval), {"seed": refits.seed, "notes": refits.notes}
    else:
        bounds = _wald(result, names, level)
    frame = pd.DataFrame(bounds, index=pd.Index(names, name="parameter", dtype=object), columns=["lower", "upper"])
    frame.attrs.update(attrs)
    return frame


def _kind(result: object, method: str | None) -> str:
    """The method in use; raises where it has no meaning for the result."""
    if not isinstance(result, PointFit | Posterior):
        raise MethodError(f"confint takes what bl.fit or bl.sample gave; got {type(result).__name__}")
    allowed = ("eti", "hdi") if isinstance(result, Posterior) else ("wald", "profile", "bootstrap")
    if method is None:
        return allowed[0]
    if method not in allowed:
        what = "posterior" if isinstance(result, Posterior) else "point fit"
        known = f"{', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}"
        raise MethodError(f"method={method!r} is not for a {what}; use {known}")
    return method


def _check_bootstrap(kind: str, seed: Any, interval: str) -> None:
    if interval not in INTERVALS:
        raise MethodError(f"interval={interval!r} is not known; use {', '.join(map(repr, INTERVALS))}")
    if kind != "bootstrap" and (seed is not None or interval != "percentile"):
        raise MethodError(f'seed= and interval= are for method="bootstrap"; they say nothing for {kind!r}')


def _bootstrapped(refits: Bootstrap, names: Sequence[str], level: float, interval: str) -> Array:
    """Interval ends from the quantiles of refits; NaN where none has a number, as a correlation without variance."""
    rows = []
    for name in names:
        draws, estimate = refits.draws[name].dropna().to_numpy(), float(refits.estimate[name])
        tails = np.array([0.5 - 0.5 * level, 0.5 + 0.5 * level])
        if interval == "bias-corrected" and len(draws):
            share = float(np.mean(draws < estimate) + 0.5 * np.mean(draws == estimate))
            tails = ndtr(2.0 * ndtri(share) + ndtri(tails))
        edges = np.quantile(draws, tails) if len(draws) else np.full(2, np.nan)
        rows.append(2.0 * estimate - edges[::-1] if interval == "basic" else edges)
    return np.array(rows).reshape(-1, 2)


def _wald(fit: PointFit, names: Sequence[str], level: float) -> Array:
    found = estimates(fit, fit.method)
    reach = float(ndtri(0.5 + 0.5 * level))
    natural = variance_names(fit.model)
    variances = {} if found.covariance is None else dict(zip(natural, np.diag(found.covariance), strict=True))
    rows = []
    for name in names:
        value = found.estimate[found.at(name)]
        if name.startswith(COEFFICIENTS) or name == "nu":
            at = found.estimate[[found.at(name)]], found.uncertainty[[found.at(name)]], np.array([name == "nu"])
            rows.append((moved(*at, -reach).item(), moved(*at, reach).item()))
            continue
        move = reach * np.sqrt(variances[name])
        if np.isnan(move):
            rows.append((np.nan, np.nan))
        elif name.startswith("corr_"):
            rows.append((np.tanh(np.arctanh(value) - move), np.tanh(np.arctanh(value) + move)))
        else:
            with np.errstate(over="ignore"):
                rows.append((value * np.exp(-move), value * np.exp(move)))
    return np.array(rows).reshape(-1, 2)


def _profiled(
    fit: PointFit, parameters: str | Sequence[str] | None, level: float, criterion: str
) -> tuple[tuple[str, ...], Array]:
    with one_thread(fit.model.structure.rest_size < THREADS_FROM):
        found = curves(fit, parameters, criterion)[1]
        rise = float(chdtri(1, 1.0 - level))
        bounds = [(curve.bound(-1, rise), curve.bound(1, rise)) for curve in found]
    return tuple(curve.name for curve in found), np.array(bounds).reshape(-1, 2)


def _of_draws(post: Posterior, names: Sequence[str], level: float, kind: str) -> Array:
    from arviz_stats import eti, hdi

    draws = posterior_draws(post)
    every = parameter_names(post.model)
    interval = eti if kind == "eti" else hdi
    rows = [interval(draws[..., every.index(name)].ravel(), prob=level) for name in names]
    return np.array(rows, float).reshape(-1, 2)
