"""BLUE and BLUP for given variances: the solution of Henderson's equations, with names on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import inv

from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.henderson import Equations, coefficient_matrix, inverse_matrix, prediction_variances, solve_equations
from bayeslmm.variances import Precision, covariance_factor, diagonal, numbers, positive, residual_precision

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from bayeslmm.model import Model

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Solution:
    """BLUE and BLUP: the solution of Henderson's equations for given variances.

    Attributes
    ----------
    model : Model
    fixef, se : Series
        β̂ (BLUE) and its standard errors over the coefficient names.
    ranef : dict of str to DataFrame
        û (BLUP), levels × effects, per grouping factor.
    factor : sparse (q, m)
        F with G = FFᵀ, u = Fb.
    """

    model: Model = field(repr=False)
    fixef: Series
    se: Series
    ranef: dict[str, DataFrame] = field(repr=False)
    equations: Equations = field(repr=False)

    @property
    def factor(self) -> Any:
        """F (q, m), sparse, with G = FFᵀ; for θ it is σΛ(θ)."""
        return self.equations.factor * self.equations.scale

    @cached_property
    def pev(self) -> dict[str, DataFrame]:
        """Prediction error variances Var(ûᵢ − uᵢ), levels × effects, per grouping factor."""
        return _by_group(self.model, prediction_variances(self.equations))

    @cached_property
    def inverse(self) -> DataFrame:
        """The inverse coefficient matrix (p + q, p + q): [[Var β̂, Cov(β̂, û − u)], [·, Var(û − u)]].

        It is dense and built when first asked for. Valid where G is singular.
        """
        from pandas import DataFrame

        names = _names(self.model)
        return DataFrame(inverse_matrix(self.equations), index=names, columns=names)

    @cached_property
    def coefficient(self) -> Any:
        """Henderson's coefficient matrix (p + q, p + q), sparse: [[XᵀR⁻¹X, XᵀR⁻¹Z], [ZᵀR⁻¹X, ZᵀR⁻¹Z + G⁻¹]].

        Raises
        ------
        MethodError
            G is singular, so that G⁻¹ does not exist; `system` and `inverse` still do.
        """
        if self.equations.singular:
            raise MethodError(
                "G is singular, so Henderson's matrix with G⁻¹ does not exist. Use `system`, the matrix that was "
                "solved, in (β, b) with u = factor·b, or `inverse`, which needs no G⁻¹."
            )
        q = self.equations.factor.shape[0]
        root = inv(sparse.csc_array(self.factor)) if q else sparse.csc_array((0, 0))
        return coefficient_matrix(self.model, self.equations, sparse.eye_array(q), root.T @ root)

    @cached_property
    def system(self) -> Any:
        """The matrix (p + m, p + m), sparse, of the equations in (β, b), u = factor·b; it exists for every G."""
        penalty = sparse.eye_array(self.equations.factor.shape[1])
        return coefficient_matrix(self.model, self.equations, self.factor, penalty)

    def __str__(self) -> str:
        from pandas import DataFrame

        sizes = ", ".join(f"{group} {len(table)} × {table.shape[1]}" for group, table in self.ranef.items())
        table = DataFrame({"BLUE": self.fixef, "se": self.se})
        return f"Mixed model equations: {len(self.fixef)} fixed effects; BLUP: {sizes or 'none'}\n{table.to_string()}"


def solve(model: Any, theta: Any = None, sigma: float | None = None, *, G: Any = None, R: Any = None) -> Solution:
    """Solve Henderson's mixed model equations for given variances.

    Parameters
    ----------
    model : Model, PointFit or Posterior
        A result lends its θ and σ where none are given.
    theta : array_like, optional
        Free entries of λ relative to σ in the order of `model.Lambda`: Var u = σ²ΛΛᵀ.
    sigma : float, optional
        Residual standard deviation: Var e = σ²/w with w the prior weights of the model.
    G : scalar, (q,) or (q, q), dense or sparse, optional
        Var u instead of `theta`, in the order of the columns of `model.Z`: a common variance, variances, or a matrix,
        which may be singular.
    R : scalar, (n,) or (n, n), dense or sparse, optional
        Var e instead of `sigma`. Prior weights are no part of it: in a weighted model give variances or a matrix.

    Returns
    -------
    Solution
        `fixef`, `se`, `ranef`, and on demand `pev`, `inverse`, `coefficient`.

    Raises
    ------
    MethodError
        Variances that are missing, given twice, of the wrong shape, or not those of a distribution.
    NotSupportedError
        The response is not Gaussian with identity link.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 3.0, 6.0, 5.0], "g": ["a", "a", "b", "b", "c", "c"]}
    >>> model = bl.Model("y ~ 1 + (1 | g)", data)
    >>> bl.solve(model, theta=[1.0], sigma=1.0).ranef["g"].round(3)["Intercept"].tolist()
    [-1.333, 0.0, 1.333]
    """
    model, theta, sigma = source_values(model, theta, sigma, borrow=G is None and R is None)
    return _solution(model, solve_equations(model, *given_variances(model, theta, sigma, G, R)))


def _solution(model: Model, equations: Equations) -> Solution:
    from pandas import Index, Series

    names = Index(model.design.fixed.names, name="coefficient")
    error = equations.scale * (np.linalg.norm(equations.spread, axis=1) / equations.lengths)
    return Solution(
        model=model,
        fixef=Series(equations.fixef, index=names, name="fixef"),
        se=Series(error, index=names, name="se"),
        ranef=_by_group(model, equations.ranef),
        equations=equations,
    )


def source_values(source: Any, theta: Any, sigma: Any, borrow: bool = True) -> tuple[Any, Any, Any]:
    """The model, θ and σ of a model or of a result; what is given goes first."""
    model = getattr(source, "model", source)
    if model.family != "gaussian" or model.link != "identity":
        raise NotSupportedError("Henderson's equations are for a Gaussian response with identity link.")
    if model is not source and borrow:
        sigma = source.sigma if sigma is None else sigma
        theta = _result_theta(source, sigma) if theta is None else theta
    return model, theta, sigma


def _result_theta(result: Any, sigma: float) -> Array:
    """θ of a point fit, or the one of a posterior's mean sd and correlations."""
    theta = getattr(result, "theta", None)
    if theta is not None:
        return np.asarray(theta)
    parts = [_term_theta(term, result, sigma) for term in result.model.terms]
    return np.concatenate([np.empty(0), *parts])


def _term_theta(term: Any, result: Any, sigma: float) -> Array:
    effects = list(term.effects)
    sd = result.sd[term.group].loc[effects].to_numpy()
    corr = result.corr[term.group].loc[effects, effects].to_numpy() if len(effects) > 1 else np.eye(1)
    return term.covariance.from_natural(sd, corr, sigma)


def given_variances(model: Model, theta: Any, sigma: Any, G: Any, R: Any) -> tuple[Any, Precision, float, bool]:
    """F, R⁻¹, the scale of both, and whether FFᵀ is singular."""
    n, q = model.Z.shape
    _check_given(q, theta, sigma, G, R)
    scale = 1.0 if sigma is None else positive(sigma, "sigma")
    precision = _weights(model) if R is None else residual_precision(R, n, model.design.weights)
    if G is not None:
        factor = covariance_factor(G, q) / scale
        return factor, precision, scale, factor.shape[1] < q
    factor = _relative_factor(model, theta)
    return factor, precision, scale, bool(np.any(factor.diagonal() == 0.0))


def _check_given(q: int, theta: Any, sigma: Any, G: Any, R: Any) -> None:
    """Each variance given once."""
    if theta is not None and G is not None:
        raise MethodError("Give theta or G, not both: each states Var u.")
    if sigma is not None and R is not None:
        raise MethodError("Give sigma or R, not both: each states Var e.")
    if sigma is None and R is None:
        raise MethodError("Var e is missing: give sigma=, or R=.")
    if q and theta is None and G is None:
        raise MethodError("Var u is missing: give theta= (with sigma=), or G=.")
    if theta is not None and sigma is None:
        raise MethodError("theta is relative to sigma: give sigma= with it, or G= with R=.")
    if not q and G is not None:
        raise MethodError("The model has no random effects, so there is no G to give.")


def _relative_factor(model: Model, theta: Any) -> Any:
    """Λ(θ), its zeros dropped."""
    size = model.n_theta
    theta = numbers([] if theta is None else theta, "theta")
    if theta.shape != (size,):
        raise MethodError(f"theta must have shape ({size},) for this model, got {theta.shape}.")
    if not size:
        return sparse.csc_array((0, 0))
    factor = sparse.csc_array(model.Lambda(theta))
    factor.eliminate_zeros()
    return factor


def _weights(model: Model) -> Precision:
    weights = model.design.weights
    return (lambda right: right) if weights is None else diagonal(np.asarray(weights, dtype=np.float64))


def _names(model: Model) -> list[str]:
    """Names of β and u as the posterior's variables have them."""
    fixed = [f"fixef[{name}]" for name in model.design.fixed.names]
    effects = [(term.group, level, effect) for term in model.terms for level in term.levels for effect in term.effects]
    return fixed + [f"ranef_{group}[{level}, {effect}]" for group, level, effect in effects]


def _by_group(model: Model, values: Array) -> dict[str, DataFrame]:
    """Values (q,) in the order of Z as levels × effects per grouping factor, the terms on one factor side by side."""
    from pandas import DataFrame, Index, concat

    tables: dict[str, list[DataFrame]] = {}
    start = 0
    for term in model.terms:
        shape = (len(term.levels), len(term.effects))
        part = values[start : start + shape[0] * shape[1]].reshape(shape)
        index = Index(term.levels, name=term.group)
        tables.setdefault(term.group, []).append(DataFrame(part, index=index, columns=list(term.effects)))
        start += part.size
    return {group: concat(parts, axis=1) for group, parts in tables.items()}
