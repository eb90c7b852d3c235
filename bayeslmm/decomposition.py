"""A fit of crossed factors → sums of squares and moment estimates in every order of the factors, beside the mixed model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from bayeslmm.bootstrap import Bootstrap
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.result import PointFit, Result
from bayeslmm.table import Page, frame_table
from bayeslmm.variation import variance_partition

Array = NDArray[np.float64]
MOST_FACTORS = 4
MOST_COLUMNS = 6000  # columns beside the largest factor, whose normal equations are dense
DEPENDENT = 1e-9  # eigenvalue of the scaled normal equations under which a combination of columns is none
ARROW = " → "


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition:
    """One response, its crossed factors, and the variance that each way of counting gives to each.

    Parameters
    ----------
    sequential : DataFrame (orders, factors + 1)
        Sequential (type I) sums of squares over their total, the factors entering in the order that names the row.
    moments : DataFrame (orders, factors + 1)
        Variance components that equate these sums of squares with their expectations (Henderson 1953, method 3),
        over their total. The components are unbiased and may be negative; NaN where an order leaves one undetermined.
    mixed : Series (factors + 1)
        The mixed model's variance components over their total.
    notes : tuple of str
        How far the orders are apart.
    """

    sequential: pd.DataFrame
    moments: pd.DataFrame
    mixed: pd.Series
    heading: str
    notes: tuple[str, ...]

    def page(self) -> Page:
        """The three tables, to print or to show in a notebook."""
        mixed = self.mixed.to_frame().T
        tables = (
            (frame_table("Sequential sums of squares, shares", self.sequential), ""),
            (frame_table("Variance components from them, shares", self.moments), ""),
            (frame_table("Mixed model, shares", mixed), ""),
        )
        return Page(self.heading, (), tables, self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Decomposition({self.heading}, {len(self.sequential)} orders)"

    def _repr_html_(self) -> str:
        return self.page().html


class Remainder(NamedTuple):
    """Left after a set of factors S: y'M_S y, tr(Z_k'M_S Z_k) of each factor k, and n − rank S."""

    ss: float
    traces: Array
    df: int


def decomposition(result: PointFit | Posterior | Bootstrap) -> Decomposition:
    """Decompose the variance by the analysis of variance, in every order of the factors, and by the mixed model.

    Where factors are not orthogonal, the sum of squares of a factor depends on which ones entered before it, and so
    do the variance components estimated from them. The mixed model has no order.

    Parameters
    ----------
    result : PointFit, Bootstrap or Posterior
        Of a model with two to four random intercepts, ``y ~ 1 + (1 | a) + (1 | b) + (1 | c)``. The fixed part, if there
        is more of it than an intercept, enters first in every order.

    Returns
    -------
    Decomposition
        ``.sequential``, ``.moments``, ``.mixed``.

    Raises
    ------
    MethodError
        Another kind of model.
    NotSupportedError
        More levels beside the largest factor than dense equations hold.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> found = bl.decomposition(bl.fit(bl.load("models/penicillin")))
    >>> found.sequential.round(3).iloc[0].tolist(), found.mixed.round(3).tolist()
    ([0.18, 0.762, 0.059], [0.151, 0.785, 0.064])
    """
    model = result.fit.model if isinstance(result, Bootstrap) else getattr(result, "model", None)
    if not isinstance(result, Result | Bootstrap) or not isinstance(model, Model):
        raise MethodError(f"decomposition takes what bl.fit or bl.sample gave; got {type(result).__name__}")
    _check(model)
    left = _remainders(model)
    names = model.groups
    orders = list(permutations(range(len(names))))
    columns = [*names, "Residual"]
    index = [ARROW.join(names[i] for i in order) for order in orders]
    chains = [[left[frozenset(order[:i])] for i in range(len(order) + 1)] for order in orders]
    sequential = [_sums_of_squares(order, chain) for order, chain in zip(orders, chains, strict=True)]
    moments = [_moments(chain) for chain in chains]
    variances = variance_partition(result, by="group").table["variance"].iloc[1:]  # all but the fixed part
    squares, estimates = (pd.DataFrame(rows, index=index, columns=columns) for rows in (sequential, moments))
    mixed = (variances / variances.sum()).rename("any order")
    return Decomposition(squares, estimates, mixed, f"Decomposition of variance: {model.formula.text}", _notes(squares))


def _check(model: Model) -> None:
    design = model.design
    if any(term.effects != ("Intercept",) for term in design.random):
        raise MethodError("the analysis of variance decomposes by factors: every random term must be (1 | factor)")
    if not 2 <= len(design.random) <= MOST_FACTORS:
        raise MethodError(f"the model has {len(design.random)} random factors; 2 to {MOST_FACTORS} can be put in order")
    if len(model.groups) < len(design.random):
        raise MethodError("a factor stands in two random terms; write it once")
    if design.weights is not None:
        raise MethodError("sums of squares here are of equal variances; this model has weights=")


def _notes(sequential: pd.DataFrame) -> tuple[str, ...]:
    spread = (sequential.max() - sequential.min()).iloc[:-1]
    worst = str(spread.idxmax())
    low, high = sequential[worst].min(), sequential[worst].max()
    if high - low < 1e-8:
        return ("The factors are orthogonal: every order gives the same sums of squares.",)
    return (f"The share of {worst} in the sums of squares runs from {low:.3f} to {high:.3f} with the order.",)


def _sums_of_squares(order: Sequence[int], chain: Sequence[Remainder]) -> Array:
    """Shares of the factors, in the model's order, and of the residual."""
    shares = np.empty(len(chain))
    for factor, before, after in zip(order, chain[:-1], chain[1:], strict=True):
        shares[factor] = before.ss - after.ss if after.df < before.df else 0.0
    shares[-1] = chain[-1].ss
    return shares / chain[0].ss


def _moments(chain: Sequence[Remainder]) -> Array:
    """Shares of σ_k² and σ² that solve E(SS left after S) = Σ_k σ_k² tr(Z_k'M_S Z_k) + σ² (n − rank S) along a chain."""
    left = np.array([[*step.traces, step.df] for step in chain], float)
    scale = left.max(axis=0)
    ss = np.array([step.ss for step in chain])
    if np.linalg.matrix_rank(left / scale) < len(left):
        return np.full(len(left), np.nan)
    variances = np.linalg.solve(left / scale, ss / ss[0]) / scale
    return np.asarray(variances / variances.sum())


def _remainders(model: Model) -> Mapping[frozenset[int], Remainder]:
    """What is left after every subset of the factors."""
    terms = [next(term for term in model.design.random if term.group == group) for group in model.groups]
    n = model.design.nobs
    rows = np.arange(n)
    Z = [sp.csc_array((np.ones(n), (rows, t.codes)), shape=(n, len(t.levels))) for t in terms]
    Q = np.linalg.qr(model.X / np.abs(model.X).max(axis=0))[0] if model.X.shape[1] else np.empty((n, 0))
    y = model.design.y - (0.0 if model.design.offset is None else model.design.offset)
    y = y / np.abs(y).max()
    y = y - Q @ (Q.T @ y)
    subsets = [frozenset(s) for size in range(len(Z) + 1) for s in combinations(range(len(Z)), size)]
    return {subset: _remainder(Q, y - Q @ (Q.T @ y), Z, subset) for subset in subsets}


def _remainder(Q: Array, y: Array, Z: Sequence[sp.csc_array], subset: frozenset[int]) -> Remainder:
    """The largest factor is taken out by its group means, the other columns by their normal equations."""
    largest = max(subset, key=lambda k: Z[k].shape[1], default=None)
    others = [Z[k] for k in sorted(subset) if k != largest]
    R = sp.csc_array(sp.hstack([sp.csc_array(Q), *others]))
    if R.shape[1] > MOST_COLUMNS:
        raise NotSupportedError(
            f"the factors have {R.shape[1]} levels beside the largest one's; normal equations of more than {MOST_COLUMNS} "
            "are not set up"
        )
    D = Z[largest] if largest is not None else sp.csc_array((len(y), 0))
    count = np.asarray(D.sum(axis=0)).ravel()
    DR = (D.T @ R).toarray() / np.sqrt(count)[:, None]
    A = (R.T @ R).toarray() - DR.T @ DR
    size = np.sqrt(np.asarray(R.multiply(R).sum(axis=0)).ravel())
    values, vectors = np.linalg.eigh(A / np.outer(size, size))
    kept = values > DEPENDENT
    basis = vectors[:, kept] / np.sqrt(values[kept]) / size[:, None]

    def left(columns: Array | sp.csc_array) -> float:
        """tr(C'MC)."""
        DC = _dense(D.T @ columns) / np.sqrt(count)[:, None]
        G = basis.T @ (_dense(R.T @ columns) - DR.T @ DC)
        return float((columns**2).sum() - (DC**2).sum() - (G**2).sum())

    traces = np.array([0.0 if k in subset else left(Z[k]) for k in range(len(Z))])
    return Remainder(left(y[:, None]), traces, len(y) - D.shape[1] - int(kept.sum()))


def _dense(matrix: Any) -> Array:
    return np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix)
