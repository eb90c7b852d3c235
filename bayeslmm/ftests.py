"""F tests of the terms of the fixed part, with hypotheses of type I, II and III."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.columns import frame_of, names_of, words_in
from bayeslmm.degrees import Contrast, check, containment, contrast_degrees
from bayeslmm.encoding import encode, independent, public_name
from bayeslmm.errors import MethodError
from bayeslmm.table import Page, frame_table, p_shown

if TYPE_CHECKING:
    from bayeslmm.model import Model
    from bayeslmm.result import PointFit

Array = NDArray[np.float64]
ROMAN = {1: "I", 2: "II", 3: "III"}
COLUMNS = ("Sum Sq", "Mean Sq", "NumDF", "DenDF", "F", "p")
RULES = {
    "satterthwaite": "Satterthwaite's degrees of freedom",
    "kenward-roger": "Kenward and Roger's degrees of freedom and covariance",
    "containment": "containment degrees of freedom",
    "asymptotic": "infinite denominator degrees of freedom",
}
# Share of its length that an estimable function must keep to be no combination of others.
NEGLIGIBLE = 1e-8


@dataclass(frozen=True, eq=False, repr=False)
class TermTests:
    """F tests of a fit's fixed part, one row per term.

    Parameters
    ----------
    table : DataFrame
        Sum Sq, Mean Sq, NumDF, DenDF, F, p over the names of the terms.
    hypotheses : mapping of str to ndarray (q, p)
        What was tested: weights of the coefficients, Lβ = 0, by term.
    notes : tuple of str
        What has to be known to read the rows.
    heading : str
        Type of the hypotheses, rule of the degrees of freedom, method of the fit.
    """

    table: pd.DataFrame
    hypotheses: dict[str, Array]
    notes: tuple[str, ...]
    heading: str

    def page(self) -> Page:
        """The table and its notes, to print or to show in a notebook."""
        shown = self.table.astype({"NumDF": str})
        shown["p"] = [p_shown(p) for p in self.table["p"]]
        return Page(self.heading, (), ((frame_table("", shown), ""),), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"TermTests({len(self.table)} terms)"

    def _repr_html_(self) -> str:
        return self.page().html


class _Term(NamedTuple):
    """One term of the fixed part."""

    name: str
    columns: NDArray[np.intp]  # of X
    factors: tuple[str, ...]  # as formulaic evaluates them
    numeric: frozenset[str]  # those of them that hold numbers
    reduced: frozenset[str]  # those coded with a column less than levels

    def within(self, other: _Term) -> bool:
        """Whether the other contains this one: its factors and more of them, with the same numeric ones."""
        return set(self.factors) < set(other.factors) and self.numeric == other.numeric


def term_tests(fit: PointFit, df: str = "satterthwaite", type: int = 3) -> TermTests:
    """F tests of the terms of the fixed part.

    ``F = (Lβ)' (L V L')⁻¹ (Lβ) / q`` with the L of `term_hypotheses` and the degrees of freedom of
    `bayeslmm.degrees.contrast_degrees`. ``Mean Sq`` is F σ² (for Kenward–Roger the F before it is scaled), ``Sum Sq`` is
    Mean Sq · NumDF: what an analysis of variance would show, with the residual mean square for error.

    Parameters
    ----------
    fit : PointFit
        A fit by REML or ML; for df="kenward-roger" by REML; for df="asymptotic" also by MAP.
    df : {"satterthwaite", "kenward-roger", "containment", "asymptotic"}
        How the denominator degrees of freedom are found.
    type : {1, 2, 3}
        Type of the hypotheses.

    Returns
    -------
    TermTests

    Raises
    ------
    MethodError
        An unknown `df` or `type`, a fit that `df` has no meaning for, or no term but the intercept.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> term_tests(bl.fit(bl.load("models/penicillin_blocks"))).table[["NumDF", "DenDF", "F"]].round(4)
           NumDF  DenDF       F
    treat      3   12.0  1.2389
    """
    check(fit, df)
    hypotheses = term_hypotheses(fit.model, type)
    terms = {term.name: term for term in _terms(fit.model)}
    rows = [_row(fit, terms[name], L, df) for name, L in hypotheses.items()]
    table = pd.DataFrame(rows, index=list(hypotheses), columns=list(COLUMNS)).astype({"NumDF": int})
    heading = f"Type {ROMAN[type]} tests of the fixed effects, {RULES[df]} ({fit.method})"
    return TermTests(table, hypotheses, _notes(fit, hypotheses, terms), heading)


def _row(fit: PointFit, term: _Term, L: Array, df: str) -> tuple[float, ...]:
    if not len(L):
        return (np.nan, np.nan, 0, np.nan, np.nan, np.nan)
    test = contrast_degrees(fit, L, "asymptotic" if df == "containment" else df)
    if df == "containment":
        test = test._replace(denominator_df=float(containment(fit.model)[term.columns].min()))
    return _sums(test, fit.sigma)


def _sums(test: Contrast, sigma: float) -> tuple[float, ...]:
    with np.errstate(over="ignore"):
        mean = test.F / test.scale * np.square(sigma)
    return (mean * test.numerator_df, mean, test.numerator_df, test.denominator_df, test.F, test.p)


def _notes(fit: PointFit, hypotheses: dict[str, Array], terms: dict[str, _Term]) -> tuple[str, ...]:
    notes = [f"Not converged: {fit.message}."] if not fit.converged else []
    dropped = fit.model.design.fixed.dropped
    if dropped:
        notes.append(
            f"Dropped as linear combinations of the columns before them: {', '.join(dropped)}. What the tests of terms "
            "with empty cells compare depends on which cells are there."
        )
    gone = [name for name, L in hypotheses.items() if not len(L)]
    if gone:
        notes.append(f"Nothing of {', '.join(gone)} can be told apart from the other terms, so there is no test.")
    return tuple(notes)


def term_hypotheses(model: Model, type: int = 3) -> dict[str, Array]:
    """The linear hypotheses Lβ = 0 that belong to the terms of the fixed part.

    Type 1 : each term adjusted for those before it. Row j of L holds the regression of the columns of X on the first j,
    as the Doolittle decomposition of X'X gives it.
    Type 2 : each term adjusted for all others but those that contain it: type 1 with the term and its containers last.
    Type 3 : each term adjusted for all others. L spans the estimable functions of the term in the overparametrised model
    (one coefficient for each level and each cell), made orthogonal to those of the terms that contain it; with no empty
    cell these compare unweighted means of cells, whatever the coding.

    A term contains another if it has all its factors and more, and the same numeric variables. L depends on X alone.

    Parameters
    ----------
    model : Model
    type : {1, 2, 3}

    Returns
    -------
    dict of str to ndarray (q, p)
        By term in the formula's order, without the intercept; q is 0 where no column of a term could be kept.

    Raises
    ------
    MethodError
        An unknown type, no term but the intercept, or type 3 of a model whose table is not at hand.

    References
    ----------
    Goodnight, J. H. (1976), The general linear models procedure, Proc. First International SAS Users' Conference.
    Kuznetsova, A., Brockhoff, P. B. and Christensen, R. H. B. (2017), J. Stat. Softw. 82(13).

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "x": [1, 2, 1, 2, 1, 2], "g": list("aabbcc")}
    >>> term_hypotheses(bl.Model("y ~ x + (1 | g)", data))
    {'x': array([[0., 1.]])}
    """
    if isinstance(type, bool) or type not in ROMAN:
        raise MethodError(f"type={type!r} is not known; use 1, 2 or 3")
    terms = _terms(model)
    tested = [term for term in terms if term.factors]
    if not tested:
        raise MethodError(
            f"{model.formula.text!r} has no term besides the intercept; bl.coefficients(fit) has its test"
        )
    X = (
        model.X - model.X.mean(axis=0) if model.design.ordered else model.X
    )  # beside thresholds, which are its intercept
    if type == 1 or len(tested) == 1:
        L = _sequential(X)
        return {term.name: L[term.columns] for term in tested}
    contained = any(one.within(other) for one in tested for other in terms)
    if type == 2 or (model.design.ordered and not contained):
        return {term.name: _partial(X, term, terms) for term in tested}
    if model.design.ordered:
        raise MethodError("hypotheses of type 3 with interactions are not made beside thresholds; use type=2 or type=1")
    found = _marginal(model, terms)
    return {term.name: found[term.name] for term in tested}


def _terms(model: Model) -> list[_Term]:
    """The terms of the fixed part, intercept included, with their columns among those kept."""
    spec, kept = model.design.specs["fixed"], model.design.fixed.kept
    found, start = [], 0
    for encoded in spec.structure:
        stop = start + len(encoded.columns)
        columns = np.flatnonzero((kept >= start) & (kept < stop))
        factors = tuple(str(factor.expr) for factor in encoded.term.factors if str(factor.expr) in spec.encoder_state)
        numeric = frozenset(f for f in factors if spec.encoder_state[f][0].value == "numerical")
        coded = [scoped for part in encoded.scoped_terms for scoped in part.factors]
        reduced = frozenset(str(scoped.factor.expr) for scoped in coded if scoped.reduced)
        found.append(_Term(public_name(str(encoded.term)), columns, factors, numeric, reduced))
        start = stop
    return found


def _sequential(X: Array) -> Array:
    """Rows of R of X = QR divided by their diagonal: the unit upper triangle of X'X = L'DL."""
    R = np.linalg.qr(X / np.abs(X).max(axis=0), mode="r") * np.abs(X).max(axis=0)
    return np.asarray(R / np.diag(R)[:, None]) + 0.0  # no −0


def _partial(X: Array, term: _Term, terms: Sequence[_Term]) -> Array:
    """A term adjusted for all but the terms that contain it."""
    above = [other.columns for other in terms if term.within(other)]
    if not above:
        return np.eye(X.shape[1])[term.columns]
    late = np.concatenate([term.columns, *above])
    order = np.concatenate([np.setdiff1d(np.arange(X.shape[1]), late), late])
    L = np.zeros((X.shape[1], X.shape[1]))
    L[:, order] = _sequential(X[:, order])
    first = len(order) - len(late)
    return L[first : first + len(term.columns)]


def _marginal(model: Model, terms: Sequence[_Term]) -> dict[str, Array]:
    """Estimable functions of each term, orthogonal to those of the terms that contain it, as rows over β."""
    full, own = _overparametrised(model, terms)
    owner = np.repeat(np.arange(len(terms)), [block.shape[1] for block in full])
    R = np.hstack(full)
    candidates = np.flatnonzero(np.concatenate(own))
    kept = candidates[independent(R[:, candidates])]
    if len(kept) != model.X.shape[1]:
        raise MethodError("the columns are too nearly collinear for hypotheses of type 3; use type=2 or type=1")
    M = _regression(R[:, kept], R)  # β of the treatment coding from the coefficients of all levels and cells
    functions: dict[str, Array] = {}
    by_size = sorted(range(len(terms)), key=lambda t: -len(terms[t].factors))
    for t in by_size:
        above = [functions[other.name] for other in terms if terms[t].within(other)]
        functions[terms[t].name] = _orthogonal(M[owner[kept] == t], above)
    back = _regression(R[:, kept], model.X)
    return {name: _tidied(rows[:, kept] @ back) for name, rows in functions.items()}


def _regression(X: Array, Y: Array) -> Array:
    """Coefficients (p, m) of the columns of Y on those of X."""
    Q, R = np.linalg.qr(X)
    return np.asarray(np.linalg.solve(R, Q.T @ Y))


def _orthogonal(rows: Array, above: Sequence[Array]) -> Array:
    """Rows less their projections on the rows of `above`; those that vanish are left out."""
    length = np.linalg.norm(rows, axis=1)
    if above and sum(map(len, above)):
        _, values, vectors = np.linalg.svd(np.vstack(above), full_matrices=False)
        kept = vectors[values > NEGLIGIBLE * values.max(initial=0.0)]
        rows = rows - rows @ kept.T @ kept
    return rows[np.linalg.norm(rows, axis=1) > NEGLIGIBLE * length]


def _tidied(L: Array) -> Array:
    """Weights that are rounding errors of their row, set to 0."""
    largest = np.abs(L).max(axis=1, keepdims=True, initial=0.0)
    return np.where(np.abs(L) > NEGLIGIBLE * largest, L, 0.0)


def _overparametrised(model: Model, terms: Sequence[_Term]) -> tuple[list[Array], list[NDArray[np.bool_]]]:
    """For each term a column for every cell, and which of them treatment coding would use."""
    frame = _rows(model)
    single = {f: _full(f, frame, model) for f in dict.fromkeys(f for term in terms for f in term.factors)}
    n = model.design.nobs
    blocks, own = [], []
    for term in terms:
        uses = [np.arange(single[f].shape[1]) >= (f in term.reduced) for f in term.factors]
        blocks.append(reduce(_products, [single[f] for f in term.factors], np.ones((n, 1))))
        own.append(reduce(lambda inner, outer: np.outer(outer, inner).ravel(), uses, np.ones(1, bool)))
    return blocks, own


def _products(inner: Array, outer: Array) -> Array:
    """Products of each column of one with each of the other, the first running fastest."""
    return np.asarray((outer[:, :, None] * inner[:, None, :]).reshape(len(inner), -1))


def _full(factor: str, frame: pd.DataFrame, model: Model) -> Array:
    """A factor's columns: one for each level, or its numbers."""
    quoted = f"`{factor}`" if factor in frame and not factor.isidentifier() else factor
    return np.asarray(encode(f"0 + {quoted}", frame, model.formula), float)


def _rows(model: Model) -> pd.DataFrame:
    """The rows used, in the columns of the fixed part."""
    data: Any = model.arguments["data"]
    try:
        names = [name for name in names_of(data) if name in words_in(model.formula.fixed)]
    except Exception as error:
        raise MethodError(
            "hypotheses of type 3 need the table; take term_hypotheses(model) of the model that was built from it"
        ) from error
    frame = frame_of(data, names)
    if not names:
        return pd.DataFrame(index=range(model.design.nobs))
    frame = frame.iloc[model.design.rows].reset_index(drop=True).infer_objects()
    categories = [name for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)]
    return frame.assign(**{name: frame[name].cat.remove_unused_categories().cat.as_unordered() for name in categories})
