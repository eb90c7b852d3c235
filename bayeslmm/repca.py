"""rePCA: the principal components of the random effects, and so which combinations of them do not vary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.covariance import psd_factor
from bayeslmm.result import Result

Array = NDArray[np.float64]
# Standard deviation of a component, as a share of the largest, from which it counts as 0.
DEGENERATE = 1e-4
# Loading, of columns of one size, below which an effect is left out of a combination's name.
SMALL_LOADING = 0.005


def repca(result: Result) -> dict[str, pd.DataFrame]:
    """Principal components of each group's random effects.

    The covariance of a level's effects, in units of σ², is Σ/σ² = VD²V'. Component c is the combination of effects with
    loadings V[:, c], and D[c] is its standard deviation. A component with ``sd`` 0 is a direction in which the levels do
    not differ: the model has an effect more than the data can tell apart (Bates, Kliegl, Vasishth & Baayen 2015).

    Parameters
    ----------
    result : PointFit or Posterior
        A posterior lends the means of its standard deviations and correlations.

    Returns
    -------
    dict of str to DataFrame
        By group, one row per component: ``sd`` in units of σ, ``share`` of the variance, and the loading on each effect.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> fit = bl.fit(bl.load("models/sleepstudy"))
    >>> bl.repca(fit)["Subject"].round(3)[["sd", "share"]].values.tolist()
    [[0.967, 0.946], [0.231, 0.054]]
    """
    found = {}
    for group in result.model.groups:
        loadings, size, _ = np.linalg.svd(_root(result, group))
        loadings = loadings * np.where(loadings[np.abs(loadings).argmax(axis=0), np.arange(len(size))] < 0, -1.0, 1.0)
        total = float(np.sum(size**2)) or 1.0
        frame = pd.DataFrame({"sd": size, "share": size**2 / total}, index=[f"PC{c + 1}" for c in range(len(size))])
        found[group] = frame.join(
            pd.DataFrame(loadings.T, index=frame.index, columns=list(result.model.effects(group)))
        )
    return found


def _root(result: Result, group: str) -> Array:
    """A factor of Σ/σ² (k, k); of Σ where there is no one σ."""
    sd, corr = np.asarray(result.group_sd[group]), np.asarray(result.group_corr[group])
    return np.asarray((sd / (1.0 if np.isnan(result.sigma) else result.sigma))[:, None] * psd_factor(corr))


class Least(NamedTuple):
    """How little the effects on a group vary in some direction: the share of the largest sd, and what has sd 0."""

    share: float
    zero: list[str]


def least(result: Result, group: str) -> Least:
    """The direction in which a group's effects vary least, each effect times the size of its column in the data.

    Unlike the components of Σ itself, what is found does not change with the units of a predictor.
    """
    columns = np.column_stack([term.columns for term in result.model.design.random if term.group == group])
    largest = np.abs(columns).max(axis=0)
    size = np.sqrt(np.mean((columns / largest) ** 2, axis=0)) * largest
    directions, sd, _ = np.linalg.svd(size[:, None] * _root(result, group))
    share = sd / sd[0] if sd[0] > 0 else np.zeros_like(sd)
    names = result.model.effects(group)
    zero = [combination(directions[:, c], names, size) for c in np.flatnonzero(share <= DEGENERATE)]
    return Least(float(share[-1]), zero)


def combination(loadings: Array, names: Sequence[str], size: Array | None = None) -> str:
    """A linear combination in words, ``0.98·Intercept − 0.2·Days``; its sign is free, and the first one is positive.

    Loadings are those of columns divided by `size`; what is small among them is left out.
    """
    kept = [i for i, loading in enumerate(loadings) if abs(loading) > SMALL_LOADING]
    if len(kept) == 1:
        return names[kept[0]]
    weights = loadings if size is None else loadings * (size / size.max())
    weights = weights / np.linalg.norm(weights[kept]) * np.sign(weights[kept[0]])
    parts = [f"{'−' if weights[i] < 0 else '+'} {abs(weights[i]):.2g}·{names[i]}" for i in kept]
    return " ".join(parts).removeprefix("+ ")
