"""Leave-one-out densities by sampling again without a row or a group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslmm.errors import BayesLMMError
from bayeslmm.leftout import Effects, densities, log_mean, without_rows
from bayeslmm.posterior import Posterior
from bayeslmm.refits import bar
from bayeslmm.sample import sample


def resampled(
    posterior: Posterior, by: str | None, effects: Effects, units: NDArray[np.integer[Any]], progress: bool
) -> tuple[dict[int, float], list[str]]:
    """Log predictive densities of some rows or groups from samples without them, and where that failed.

    Parameters
    ----------
    posterior : Posterior
    by : str or None
        The outermost group, or None for rows.
    effects : {"integrated", "conditional"}
        As for `bl.loo`.
    units : ndarray of int
        Which rows or levels.
    progress : bool

    Returns
    -------
    tuple of dict and list of str
    """
    found: dict[int, float] = {}
    failed = []
    with bar(progress, len(units), "sampling without one") as advance:
        for unit, elpd in _samples_without(posterior, by, effects, units):
            if isinstance(elpd, str):
                failed.append(elpd)
            else:
                found[unit] = elpd
            advance(1)
    return found, failed


def _samples_without(
    posterior: Posterior, by: str | None, effects: Effects, units: NDArray[np.integer[Any]]
) -> Iterator[tuple[int, float | str]]:
    model, sizes, attrs = posterior.model, posterior.data["posterior"].sizes, posterior.data.attrs
    codes: Any = np.arange(model.design.nobs)
    if by is not None:
        codes = next(term.codes for term in model.design.random if term.group == by)
    settings: dict[str, Any] = {
        "tune": int(attrs.get("tune", 1000)),
        "target_accept": float(attrs.get("target_accept", 0.8)),
    }
    for unit in map(int, units):
        try:
            smaller = without_rows(model, codes == unit)
            drawn = sample(
                smaller,
                sizes["draw"],
                chains=sizes["chain"],
                seed=int(attrs.get("seed", 0)),
                progress=False,
                **settings,
            )
            values = densities(Posterior(model, drawn.data, drawn.route), by, effects).values
            yield unit, float(log_mean(values[..., unit]))
        except BayesLMMError as error:
            name = model.design.rows[unit] if by is None else model.levels(by)[unit]
            yield unit, f"{name} could not be sampled without: {error}."
