"""Replicated responses of a posterior, draw by draw, where ArviZ's predictive checks look for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from bayeslmm.coordinates import coordinates, response_name
from bayeslmm.cumulative import DISCRETE
from bayeslmm.errors import MethodError
from bayeslmm.family import family_of
from bayeslmm.posterior import Posterior

Array = NDArray[np.float64]
# Responses that are put into a tree at most (8 bytes each).
MOST_STORED = 40_000_000


def spaced_draws(source: Any, each: int | None, rows: int) -> NDArray[np.intp]:
    """Positions, among all draws, of evenly spaced ones of each chain (chains, draws).

    Parameters
    ----------
    source : Posterior
    each : int or None
        Draws of each chain; None for all.
    rows : int
        Responses that are simulated from each draw.

    Returns
    -------
    ndarray of int

    Raises
    ------
    MethodError
        Not a posterior, more draws than there are, or more responses than a tree should hold.
    """
    if not isinstance(source, Posterior):
        raise MethodError(
            f"store=True puts responses beside the draws of a posterior; this is a {type(source).__name__}"
        )
    sizes = source.data["posterior"].sizes
    chains, draws = int(sizes["chain"]), int(sizes["draw"])
    count = draws if each is None else each
    if count > draws:
        raise MethodError(f"nsim={count}: each chain has {draws} draws, and store=True simulates once from a draw")
    if chains * count * rows > MOST_STORED:
        raise MethodError(
            f"{rows} rows x {chains * count} draws are more responses than are stored ({MOST_STORED:,}); "
            f"nsim={max(1, MOST_STORED // (chains * rows))} draws of each chain are not"
        )
    spaced = np.round(np.linspace(0, draws - 1, count)).astype(np.intp)
    return np.arange(chains)[:, None] * draws + spaced


def store_responses(post: Posterior, chosen: NDArray[np.intp], values: Array, index: pd.Index | None) -> None:
    """Put responses (rows, draws) into the posterior's tree.

    Parameters
    ----------
    post : Posterior
    chosen : ndarray of int (chains, draws)
        The draws, as `spaced_draws` gives them.
    values : ndarray (rows, chains * draws)
    index : Index or None
        Of new rows, which go into the group ``predictions``; None for the rows of the model, ``posterior_predictive``.
    """
    node = post.data["posterior"].to_dataset()
    draw = node["draw"].values[chosen[0]]
    obs = coordinates(post.model.design)["obs"] if index is None else index.tolist()
    name = response_name(post.model.design, ())
    coords = {"chain": node["chain"].values, "draw": draw, "obs": obs}
    array = xr.DataArray(values.T.reshape(*chosen.shape, -1), dims=("chain", "draw", "obs"), coords=coords)
    if family_of(post.model.family).plain in DISCRETE:  # by their type ArviZ tells counts from measurements
        array = array.astype(np.int64)
        post.data["observed_data"] = xr.DataTree(post.data["observed_data"].to_dataset().astype(np.int64))
    post.data["posterior_predictive" if index is None else "predictions"] = xr.DataTree(xr.Dataset({name: array}))
