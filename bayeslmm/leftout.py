"""Densities of one row, or of one group, given the rest of the data and a draw of the parameters; models without rows."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from bayeslmm.deletion import design_on
from bayeslmm.direct import Direct
from bayeslmm.errors import MethodError
from bayeslmm.exact.density import lam_of, natural
from bayeslmm.exact.gaussian import INTEGRATED, LOG_2PI, level
from bayeslmm.group_integrals import integrated_rows
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.restoration import group_log_likelihood
from bayeslmm.rowwise import Rowwise
from bayeslmm.threads import THREADS_FROM, one_thread

Array = NDArray[np.float64]
Effects = Literal["integrated", "conditional"]
# Numbers of the pointwise density that are held at once; beyond it draws are thinned, and the result says so.
MOST_NUMBERS = 40_000_000
# What is left of a row's variance, as a share, under which the other rows do not determine its prediction.
UNDETERMINED = 1e-10
# Error of a log density by quadrature from which the result speaks of it.
ERROR = 0.01


class Densities(NamedTuple):
    """Log predictive densities given the draws, of what is left out, and of the same when it is not."""

    values: Array  # (chains, draws, N) log p(y_i | y_−i, φ)
    full: Array  # (N,) log mean density with nothing left out
    note: str


def densities(posterior: Posterior, by: str | None, effects: Effects) -> Densities:
    """Of every row or group, at every draw.

    Parameters
    ----------
    posterior : Posterior
    by : str or None
        The outermost group, or None for rows.
    effects : {"integrated", "conditional"}
        Rows only.

    Returns
    -------
    Densities

    Raises
    ------
    MethodError
        The groups are crossed, or `by` is not the outermost one.
    """
    if by is None and effects == "conditional":
        return _conditional_densities(posterior)
    if by is None:
        return row_densities(posterior) if posterior.model.family == "gaussian" else _by_quadrature(posterior)
    values = group_log_likelihood(posterior)
    outer = str(values.dims[-1])
    if outer != by:
        raise MethodError(
            f"the rows of a level of {by!r} depend on the other rows of its level of {outer!r}, whose effect they share, so "
            f"one cannot be left out by itself; use by={outer!r}"
        )
    array = np.asarray(values.values)
    return Densities(array, log_mean(array), _doubt(float(values.attrs.get("error", 0.0))))


def _doubt(error: float) -> str:
    return f"Quadrature over the effects is off by up to {error:.2g} in a log density." if error > ERROR else ""


def _thinned(posterior: Posterior) -> tuple[int, str]:
    """Every how many draws of a chain are used, and that this is so."""
    sizes, n = posterior.data["posterior"].sizes, posterior.model.design.nobs
    step = max(1, -(-sizes["chain"] * sizes["draw"] * n // MOST_NUMBERS))
    said = f"Every {step}th of {sizes['draw']} draws of a chain is used: {n} rows are too many for all."
    return step, said if step > 1 else ""


def _by_quadrature(posterior: Posterior) -> Densities:
    step, note = _thinned(posterior)
    found = integrated_rows(posterior, step)
    return Densities(found.without, found.full, " ".join(filter(None, (note, _doubt(found.error)))))


def _conditional_densities(posterior: Posterior) -> Densities:
    values = posterior.log_likelihood()
    return Densities(values, log_mean(values), "")


def row_densities(posterior: Posterior) -> Densities:
    """Log p(y_i | y_−i, φ) of every row at every draw of φ, random effects (and a normal β) integrated out.

    Parameters
    ----------
    posterior : Posterior
        Of a Gaussian model. Beyond 40 million numbers its draws are thinned.

    Returns
    -------
    Densities

    Raises
    ------
    MethodError
        A row that only a flat prior would predict from the others.
    """
    model, at = posterior.model, RowDensity(posterior.model)
    node = posterior.data["posterior"]
    x = at.direct.coordinates_of({str(name): np.asarray(v.values) for name, v in node.data_vars.items()})
    n, (step, note) = model.design.nobs, _thinned(posterior)
    x = np.ascontiguousarray(x[:, ::step])
    out, full = np.empty((*x.shape[:2], n)), np.full(n, -np.inf)
    with one_thread(model.products.structure.rest_size < THREADS_FROM):
        for place in np.ndindex(*x.shape[:2]):
            out[place], inside = at(x[place])
            full = np.logaddexp(full, inside)
    return Densities(out, full - np.log(x.shape[0] * x.shape[1]), note)


class RowDensity:
    """Log densities of all rows of a Gaussian model given the others, and given all, at coordinates of `direct`.

    Parameters
    ----------
    model : Model
    """

    def __init__(self, model: Model) -> None:
        self.direct, self.rows = Direct(model, closed_form=False), Rowwise(model)
        weights = 0.0 if model.design.weights is None else 0.5 * np.log(model.design.weights)
        self.constant = weights - np.log(model.products.y_scale)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Two arrays (n,) from coordinates (size,)."""
        without, inside = _at_draw(self.direct, self.rows, x)
        return without + self.constant, inside + self.constant


def _at_draw(direct: Direct, rows: Rowwise, x: Array) -> tuple[Array, Array]:
    """Log densities (n,) of the rows given the others and given all, whitened and in the scale of the products."""
    layout, p = direct.layout, rows.products.n_fixed
    at = natural(layout, x)
    lam = lam_of(layout, at, int(direct.system.lam_at[-1]) if len(direct.system.lam_at) else 0)
    swept, sigma = rows.swept(lam), at.sigma / layout.y_scale
    taken, fixed, beta = rows.leverage(swept.factor, lam), swept.columns[:, :p], at.beta
    if direct.gaussian:
        found = level(swept.S, swept.logdet, layout.nobs, sigma, layout.T, layout.t, INTEGRATED)
        beta = found.beta
        if p:
            taken = taken + np.sum(solve_triangular(found.P, fixed.T, lower=True) ** 2, axis=0) / sigma**2
    residual, left = swept.columns[:, p] - fixed @ beta, 1.0 - taken
    if left.min() < UNDETERMINED:
        row = int(direct.model.design.rows[int(left.argmin())])
        raise MethodError(
            f"row {row} alone determines a coefficient whose prior is flat, so the other rows do not predict it; give "
            "that coefficient a proper prior"
        )
    without = -0.5 * (LOG_2PI + 2.0 * np.log(sigma) - np.log(left) + residual**2 / (left * sigma**2))
    inside = -0.5 * (LOG_2PI + 2.0 * np.log(sigma) + np.log1p(taken) + residual**2 / ((1.0 + taken) * sigma**2))
    return without, inside


def log_mean(values: Array) -> Array:
    """Log mean density (N,) over draws (chains, draws, N)."""
    return np.asarray(logsumexp(values, axis=(0, 1)) - np.log(values.shape[0] * values.shape[1]))


class Smoothed(NamedTuple):
    """Log predictive densities and Pareto shapes (N,), the limit of the latter, and the log weights (chains, draws, N)."""

    elpd: Array
    k: Array
    limit: float
    log_weights: Array


def smoothed(posterior: Posterior, found: Densities) -> Smoothed:
    """Pareto-smoothed importance sampling of what is left out, by ArviZ.

    Parameters
    ----------
    posterior : Posterior
    found : Densities

    Returns
    -------
    Smoothed
    """
    import arviz_stats

    draws, node = found.values.shape[1], posterior.data["posterior"].to_dataset()
    step = -(-node.sizes["draw"] // draws)
    kept = node[posterior.parameters].isel(draw=slice(None, None, step))
    density = xr.Dataset({"density": (("chain", "draw", "unit"), found.values)})
    density = density.assign_coords(chain=kept["chain"], draw=kept["draw"])
    tree = xr.DataTree.from_dict({"/posterior": kept, "/log_likelihood": density})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about Pareto shapes, which the result itself speaks of
        result = arviz_stats.loo(tree, pointwise=True)
    weights = result.log_weights.transpose("chain", "draw", "unit")
    return Smoothed(result.elpd_i.values, result.pareto_k.values, float(result.good_k), weights.values)


def without_rows(model: Model, gone: NDArray[np.bool_]) -> Model:
    """The model with some rows left out; every level, every column and the priors stay as they are.

    Parameters
    ----------
    model : Model
    gone : ndarray of bool (n,)

    Returns
    -------
    Model

    Raises
    ------
    MethodError
        The fixed columns of the other rows are linearly dependent.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> model = bl.load("models/dyestuff")
    >>> without_rows(model, np.arange(30) < 5).design.nobs
    25
    """
    kept = ~gone
    X = model.X[kept]
    if X.shape[1] and np.linalg.matrix_rank(X / np.maximum(np.abs(X).max(axis=0), 1e-300)) < X.shape[1]:
        raise MethodError("without these rows the fixed columns are linearly dependent")
    return on_rows(model, kept)


def on_rows(model: Model, kept: NDArray[np.bool_]) -> Model:
    """The model on some of its rows; every level, every column and the priors stay as they are."""
    random = tuple(
        replace(term, columns=np.ascontiguousarray(term.columns[kept]), codes=term.codes[kept])
        for term in model.design.random
    )
    new = object.__new__(Model)
    fields = ("formula", "family", "link", "priors", "stages", "arguments")
    values = {name: getattr(model, name) for name in fields}
    new.__dict__.update(values | {"design": design_on(model.design, kept, random)})
    return new
