"""Fitted and observed frequencies: rootogram of counts, calibration and ROC curves of binary responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta as beta_distribution
from scipy.stats import rankdata

from bayeslmm.cumulative import COUNTS
from bayeslmm.errors import MethodError
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.pivotal import response_distribution
from bayeslmm.posterior import Posterior
from bayeslmm.predict import predict

Array = NDArray[np.float64]
Groups = Literal["conditional", "population", "new"]


@dataclass(frozen=True, eq=False)
class Rootogram:
    """Observed and expected numbers of each count.

    Parameters
    ----------
    table : DataFrame
        By count: observed, expected, hanging (√expected − √observed).
    response : str
    """

    table: pd.DataFrame
    response: str

    def plot(self) -> Any:
        """Hanging rootogram: bars of √observed that hang from √expected; below 0 too many, above too few."""
        from bayeslmm.plot.generalized import rootogram as draw

        return draw(self)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Observed shares of 1 among rows of similar fitted probability.

    Parameters
    ----------
    table : DataFrame
        By bin: fitted (mean probability), observed (share), lower, upper (Clopper and Pearson's 95 % interval), rows.
    response : str
    """

    table: pd.DataFrame
    response: str

    def plot(self) -> Any:
        """Observed against fitted shares; on the diagonal where the probabilities are right."""
        from bayeslmm.plot.generalized import calibration as draw

        return draw(self)


@dataclass(frozen=True, eq=False)
class Roc:
    """Receiver operating characteristic of fitted probabilities.

    Parameters
    ----------
    table : DataFrame
        By threshold, falling: threshold, false_positive, true_positive.
    auc : float
        Area under the curve: the probability that a 1 has the larger fitted probability than a 0, ties a half.
    response : str
    """

    table: pd.DataFrame
    auc: float
    response: str

    def plot(self) -> Any:
        """True against false positive rates."""
        from bayeslmm.plot.generalized import roc as draw

        return draw(self)


def rootogram(fit: Any) -> Rootogram:
    """Compare the numbers of 0, 1, 2, … with those that the fit expects, given the effects.

    Parameters
    ----------
    fit : GeneralizedFit or Posterior
        Of counts. A posterior's expectations are means over its draws.

    Returns
    -------
    Rootogram

    Raises
    ------
    MethodError
        Neither a fit nor a posterior of counts.

    References
    ----------
    Kleiber, C. & Zeileis, A. (2016), The American Statistician 70, 296–303.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [0, 2, 1, 4, 3, 5, 0, 1], "g": list("aabbccdd")}
    >>> fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", data, family="poisson"))
    >>> bl.rootogram(fit).table["observed"].tolist()[:3]
    [2.0, 2.0, 1.0]
    """
    if not isinstance(fit, GeneralizedFit | Posterior) or fit.model.family not in COUNTS:
        raise MethodError(f"a rootogram is of a generalized fit or a posterior of counts ({', '.join(sorted(COUNTS))})")
    y = fit.model.design.y
    counts = np.arange(int(y.max()) + 1)
    if isinstance(fit, Posterior):
        expected = _expected(fit, counts)
    else:
        given = fit.given_effects
        expected = np.array([given.pmf(count).sum() for count in counts])
    observed = np.bincount(y.astype(int)).astype(float)
    columns = {"observed": observed, "expected": expected, "hanging": np.sqrt(expected) - np.sqrt(observed)}
    return Rootogram(pd.DataFrame(columns, index=pd.Index(counts, name="count")), fit.model.design.response)


def _expected(post: Posterior, counts: NDArray[np.intp]) -> Array:
    """Expected numbers of each count given the effects, averaged over the draws."""
    total = np.zeros(len(counts))
    for draws, eta in post.predictor_draws():
        given = response_distribution(post, draws, eta)
        total += [given.pmf(float(count)).sum() for count in counts]
    return total / post.n_draws


def calibration_curve(fit: Any, bins: int = 10, groups: Groups = "conditional") -> Calibration:
    """Observed shares of 1 in bins of equal size by the fitted probability.

    Parameters
    ----------
    fit : GeneralizedFit or Posterior
        Of a binary response.
    bins : int
    groups : {"conditional", "population", "new"}
        Which probabilities, as for `bl.predict`. Those given the groups' own effects are shrunk towards the mean, so that
        the curve is a little steeper than the diagonal by construction.

    Returns
    -------
    Calibration

    Raises
    ------
    MethodError
        Neither a fit nor a posterior of a binary response, or fewer rows than bins.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1], "g": list("aaaabbbbcccc")}
    >>> fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", data, family="bernoulli"))
    >>> bl.calibration_curve(fit, 2).table["rows"].tolist()
    [6, 6]
    """
    y, p = _binary(fit, groups)
    if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or not 1 < bins <= len(y):
        raise MethodError(f"bins={bins!r} must be a whole number from 2 to the number of rows, {len(y)}")
    parts = np.array_split(np.argsort(p, kind="stable"), bins)
    ones, rows = np.array([y[part].sum() for part in parts]), np.array([len(part) for part in parts])
    with np.errstate(invalid="ignore"):
        lower = np.where(ones == 0, 0.0, beta_distribution.ppf(0.025, ones, rows - ones + 1))
        upper = np.where(ones == rows, 1.0, beta_distribution.ppf(0.975, ones + 1, rows - ones))
    columns = {
        "fitted": [p[part].mean() for part in parts],
        "observed": ones / rows,
        "lower": lower,
        "upper": upper,
        "rows": rows,
    }
    return Calibration(pd.DataFrame(columns), fit.model.design.response)


def roc(fit: Any, groups: Groups = "conditional") -> Roc:
    """How well the fitted probabilities tell 1 from 0, in the rows of the fit.

    Parameters
    ----------
    fit : GeneralizedFit or Posterior
        Of a binary response.
    groups : {"conditional", "population", "new"}
        Which probabilities, as for `bl.predict`. Given their own effects the groups have been seen: for new groups take
        "population".

    Returns
    -------
    Roc

    Raises
    ------
    MethodError
        Neither a fit nor a posterior of a binary response.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [0, 1, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1], "g": list("aaaabbbbcccc")}
    >>> fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", data, family="bernoulli"))
    >>> 0.5 <= bl.roc(fit).auc <= 1.0
    True
    """
    y, p = _binary(fit, groups)
    ones, zeros = int(y.sum()), int(len(y) - y.sum())
    thresholds, place = np.unique(-p, return_inverse=True)
    true = np.concatenate([[0.0], np.cumsum(np.bincount(place, y)) / ones])
    false = np.concatenate([[0.0], np.cumsum(np.bincount(place, 1.0 - y)) / zeros])
    auc = float((rankdata(p)[y == 1].sum() - 0.5 * ones * (ones + 1)) / (ones * zeros))
    columns = {"threshold": np.concatenate([[np.inf], -thresholds]), "false_positive": false, "true_positive": true}
    return Roc(pd.DataFrame(columns), auc, fit.model.design.response)


def _binary(fit: Any, groups: Groups) -> tuple[Array, Array]:
    """Response and fitted probabilities."""
    if not isinstance(fit, GeneralizedFit | Posterior) or fit.model.family != "bernoulli":
        raise MethodError("calibration and ROC curves are of a fit or a posterior of a binary response (bernoulli)")
    p = fit.fitted if groups == "conditional" else predict(fit, groups=groups, interval=None)["mean"]
    return fit.model.design.y, p.to_numpy()
