"""Densities of groups, and of rows given the others, at the draws of another family's posterior, effects integrated out.

Given the parameters φ the rows of a level g are independent of those of the others. With Σ_j ω_j exp(f_j) the quadrature of
p(y_g | φ) (`exact.quadrature`) and ℓ_ij the log density of row i at node j

    p(y_i | y_−i, φ) = Σ_j ω_j exp(f_j) / Σ_j ω_j exp(f_j − ℓ_ij)

the nodes of the denominator further apart, since without row i a level may know far less of its effects (Vehtari, Mononen,
Tolvanen, Sivula & Winther 2016; Merkle, Furr & Rabe-Hesketh 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayeslmm.approximation import MOST_DIMENSIONS, Quadrature
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.exact.gaussian import LOG_2PI
from bayeslmm.exact.levels import Integrals
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
    MethodError
        A link whose means leave the family's range at the nodes.
    """
    model, width = posterior.model, _one_factor(posterior.model)
    values, group = posterior_draws(posterior), model.groups[0]
    flat = values.reshape(-1, values.shape[-1])
    with one_thread():
        found = np.array([at.levels for at in _at_draws(model, flat, NODES[width])])
        some = _some(len(flat))
        exact = np.array([at.levels for at in _at_draws(model, flat[some], 2 * NODES[width], grid=True)])
    coords = {group: np.array(model.levels(group), dtype=object)}
    error = float(np.abs(exact - found[some]).max())
    by_level = found.reshape(*values.shape[:2], -1)
    return xr.DataArray(by_level, dims=("chain", "draw", group), coords=coords, attrs={"error": error})


class RowIntegrals(NamedTuple):
    """Log p(y_i | y_−i, φ) (chains, draws, n), log mean p(y_i | y, φ) (n,), and the error of the former, as for levels."""

    without: Array
    full: Array
    error: float


def integrated_rows(posterior: Posterior, step: int) -> RowIntegrals:
    """Densities of every row given the others, and given all, at every `step`-th draw.

    Parameters
    ----------
    posterior : Posterior
        As for `integrated_by_level`.
    step : int

    Returns
    -------
    RowIntegrals

    Raises
    ------
    NotSupportedError, MethodError
        As `integrated_by_level`.
    """
    model, width = posterior.model, _one_factor(posterior.model)
    values, codes = posterior_draws(posterior)[:, ::step], model.structure.factors[0].codes
    flat = values.reshape(-1, values.shape[-1])
    some, n = _some(len(flat)), model.design.nobs
    without, full = np.empty((len(flat), n)), np.full(n, -np.inf)
    with one_thread():
        for out, (whole, wide) in zip(without, _near_and_wide(model, flat, NODES[width]), strict=True):
            out[:] = whole.levels[codes] - wide.without
            full = np.logaddexp(full, whole.twice - whole.levels[codes])
        again = _near_and_wide(model, flat[some], 2 * NODES[width], grid=True)
        error = float(np.abs([whole.levels[codes] - wide.without for whole, wide in again] - without[some]).max())
    return RowIntegrals(without.reshape(*values.shape[:2], -1), full - np.log(len(flat)), error)


def _near_and_wide(
    model: Model, values: Array, nodes: int, *, grid: bool = False
) -> Iterator[tuple[Integrals, Integrals]]:
    """By nodes near the mode, and by those that reach as far as a level without its heaviest row."""
    both = [_at_draws(model, values, nodes, grid=grid, wide=wide) for wide in (False, True)]
    return zip(*both, strict=True)


def _at_draws(
    model: Model, values: Array, nodes: int, *, grid: bool = False, wide: bool = False
) -> Iterator[Integrals]:
    """At vectors (s, m) of natural parameters; where a level may have two modes by a grid, if asked."""
    quadrature = Quadrature(model, "observed", nodes)
    on = _grid() if grid and model.family == "t" and model.structure.factors[0].width == 1 else None
    for draw, one in enumerate(values):
        found = quadrature.integrals(point_of(model, one), on, wide)
        if not np.isfinite(found.without if wide else found.levels).all():
            raise MethodError(
                f"at draw {draw} quadrature has no finite density: with the {model.link} link some effects of a level have no "
                'mean that a response can have. effects="conditional" leaves out rows by the stored effects'
            )
        yield found


def _some(count: int) -> NDArray[np.intp]:
    """Evenly spaced draws to check."""
    return np.unique(np.linspace(0, count - 1, CHECKED).astype(np.intp))


def _grid() -> Nodes:
    """The trapezoidal rule of a standard normal effect."""
    b = np.linspace(-REACH, REACH, GRID)
    return Nodes((b / np.sqrt(2.0))[:, None], np.full(GRID, np.log(b[1] - b[0]) - 0.5 * LOG_2PI))


def integrable(model: Model) -> bool:
    """Whether quadrature integrates the effects out: those of one grouping factor, at most three."""
    factors = model.structure.factors
    return len(factors) == 1 and factors[0].width <= MOST_DIMENSIONS


def _one_factor(model: Model) -> int:
    """Effects of a level of the only grouping factor."""
    factors = model.structure.factors
    if integrable(model):
        return int(factors[0].width)
    groups = ", ".join(f"{f.group}: {f.width}" for f in factors) or "none"
    raise NotSupportedError(
        f"the effects of the {model.family} family are integrated out by quadrature, which is for one grouping factor with at "
        f"most {MOST_DIMENSIONS} effects; the model has {groups}"
    )
