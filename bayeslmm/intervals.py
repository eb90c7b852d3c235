"""Any result → intervals for β, sd, correlations and σ under their public names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import chdtri, ndtri

from bayeslmm.errors import MethodError
from bayeslmm.estimates import estimates, parameter_names, posterior_draws
from bayeslmm.posterior import Posterior
from bayeslmm.profile import chosen, curves
from bayeslmm.result import PointFit
from bayeslmm.threads import THREADS_FROM, one_thread

Array = NDArray[np.float64]
Method = Literal["wald", "profile", "eti", "hdi"]


def confint(
    result: PointFit | Posterior,
    level: float = 0.95,
    method: Method | None = None,
    parameters: str | Sequence[str] | None = None,
    criterion: Literal["ML", "REML"] = "ML",
) -> pd.DataFrame:
    """Intervals for the natural parameters of a result.

    ``"wald"``: estimate ± z · se for β; for sd and σ on the log scale, for correlations on Fisher's z, with standard
    errors from the curvature of the criterion; NaN at the boundary (sd 0, correlation ±1), where it says nothing.
    ``"profile"``: every value from which the −2 log-likelihood, minimised over all other parameters, is within the
    χ²₁ quantile of its minimum; it may end at 0, at ±1 or at infinity. ``"eti"``: the middle of a posterior, equal
    tails. ``"hdi"``: its shortest interval.

    Parameters
    ----------
    result : PointFit or Posterior
        What to read.
    level : float
        Probability, between 0 and 1.
    method : {"wald", "profile", "eti", "hdi"}, optional
        The first two for point fits (``"wald"`` if not given), the others for posteriors (``"eti"`` if not given).
    parameters : str or sequence of str, optional
        Public names, ``"sd_Subject[Days]"``; ``"sd_Subject"`` stands for all its effects. All, if not given.
    criterion : {"ML", "REML"}
        Which likelihood is profiled. As in lme4, ML also for a REML fit (refitted by ML); REML has no profile for β.

    Returns
    -------
    DataFrame
        Columns lower and upper, one row per parameter.

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
    if kind == "profile" and isinstance(result, PointFit):
        names, bounds = _profiled(result, parameters, float(level), criterion)
    else:
        names = chosen(result.model, parameters)
        bounds = _of_draws(result, names, level, kind) if isinstance(result, Posterior) else _wald(result, names, level)
    return pd.DataFrame(bounds, index=pd.Index(names, name="parameter", dtype=object), columns=["lower", "upper"])


def _kind(result: object, method: str | None) -> str:
    """The method in use; raises where it has no meaning for the result."""
    if not isinstance(result, PointFit | Posterior):
        raise MethodError(f"confint takes what bl.fit or bl.sample gave; got {type(result).__name__}")
    allowed = ("eti", "hdi") if isinstance(result, Posterior) else ("wald", "profile")
    if method is None:
        return allowed[0]
    if method not in allowed:
        what = "posterior" if isinstance(result, Posterior) else "point fit"
        raise MethodError(f"method={method!r} is not for a {what}; use {allowed[0]!r} or {allowed[1]!r}")
    return method


def _wald(fit: PointFit, names: Sequence[str], level: float) -> Array:
    found = estimates(fit, fit.method)
    reach = float(ndtri(0.5 + 0.5 * level))
    p = len(fit.beta)
    variances = {} if found.covariance is None else dict(zip(found.names[p:], np.diag(found.covariance), strict=True))
    rows = []
    for name in names:
        value = found.estimate[found.at(name)]
        if name.startswith("fixef["):
            move = reach * found.uncertainty[found.at(name)]
            rows.append((value - move, value + move))
            continue
        move = reach * np.sqrt(variances[name])
        if np.isnan(move):
            rows.append((np.nan, np.nan))
        elif name.startswith("corr_"):
            rows.append((np.tanh(np.arctanh(value) - move), np.tanh(np.arctanh(value) + move)))
        else:
            rows.append((value * np.exp(-move), value * np.exp(move)))
    return np.array(rows).reshape(-1, 2)


def _profiled(
    fit: PointFit, parameters: str | Sequence[str] | None, level: float, criterion: str
) -> tuple[tuple[str, ...], Array]:
    with one_thread(fit.model.products.structure.rest_size < THREADS_FROM):
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
