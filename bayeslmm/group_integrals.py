"""Log-likelihoods by group of another family's posterior, the effects integrated out at every draw by quadrature."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayeslmm.approximation import MOST_DIMENSIONS, Quadrature
from bayeslmm.errors import NotSupportedError
from bayeslmm.exact.gaussian import LOG_2PI
from bayeslmm.exact.quadrature import Nodes
from bayeslmm.model import Model
from bayeslmm.natural_points import point_of, posterior_draws
from bayeslmm.posterior import Posterior
from bayeslmm.threads import one_thread

Array = NDArray[np.float64]
# Nodes per dimension, by the number of effects of a level; and draws at which they are compared with others.
NODES = {1: 21, 2: 11, 3: 7}
CHECKED = 20
# Where a level may have two modes, of which its nodes are around one: a grid over so many sds to either side.
REACH, GRID = 8.0, 4001


def integrated_by_level(posterior: Posterior) -> xr.DataArray:
    """Log p(y_g | parameters) (chain, draw, level) by adaptive Gauss-Hermite quadrature.

    Parameters
    ----------
    posterior : Posterior
        Of another family than the Gaussian, with one grouping factor.

    Returns
    -------
    xarray.DataArray
        ``attrs["error"]``: the largest change with twice the nodes, at 20 of the draws; of t responses with one effect of a
        level, whose modes may be two, the largest difference to the trapezoidal rule on a fine grid.

    Raises
    ------
    NotSupportedError
        More than one grouping factor, or more than three effects of a level.
    """
    model = posterior.model
    width = _one_factor(model)
    group, values = model.groups[0], posterior_draws(posterior)
    flat = values.reshape(-1, values.shape[-1])
    grid = _grid() if model.family == "t" and width == 1 else None
    with one_thread():
        found = _at_draws(model, flat, NODES[width])
        some = np.unique(np.linspace(0, len(flat) - 1, CHECKED).astype(np.intp))
        error = float(np.abs(_at_draws(model, flat[some], 2 * NODES[width], grid) - found[some]).max())
    coords = {group: np.array(model.levels(group), dtype=object)}
    by_level = found.reshape(*values.shape[:2], -1)
    return xr.DataArray(by_level, dims=("chain", "draw", group), coords=coords, attrs={"error": error})


def _at_draws(model: Model, values: Array, nodes: int, grid: Nodes | None = None) -> Array:
    """Log-likelihoods (s, levels) at s vectors of natural parameters."""
    quadrature = Quadrature(model, "observed", nodes)
    return np.array([quadrature.by_level(point_of(model, one), grid) for one in values])


def _grid() -> Nodes:
    """The trapezoidal rule of a standard normal effect."""
    b = np.linspace(-REACH, REACH, GRID)
    return Nodes((b / np.sqrt(2.0))[:, None], np.full(GRID, np.log(b[1] - b[0]) - 0.5 * LOG_2PI))


def _one_factor(model: Model) -> int:
    """Effects of a level of the only grouping factor."""
    factors = model.structure.factors
    if len(factors) == 1 and factors[0].width <= MOST_DIMENSIONS:
        return int(factors[0].width)
    groups = ", ".join(f"{f.group}: {f.width}" for f in factors) or "none"
    raise NotSupportedError(
        f"the effects of the {model.family} family are integrated out by quadrature, which is for one grouping factor with at "
        f"most {MOST_DIMENSIONS} effects; the model has {groups}"
    )
