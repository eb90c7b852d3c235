"""Information criteria of point fits: those of the marginal likelihood, and the conditional AIC in two forms.

Vaida & Blanchard (2005), Biometrika 92, 351–370; Greven & Kneib (2010), Biometrika 97, 773–789.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.anova import check_same_data
from bayeslmm.degrees import satterthwaite
from bayeslmm.errors import MethodError
from bayeslmm.exact.factor import times_lambda, times_lambda_transposed
from bayeslmm.exact.gaussian import LOG_2PI
from bayeslmm.result import PointFit
from bayeslmm.rowwise import Rowwise
from bayeslmm.table import Page, frame_table

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Information:
    """Information criteria, one row per fit.

    Parameters
    ----------
    table : DataFrame
        ``method``, ``npar``, ``logLik``, ``AIC``, ``AICc``, ``BIC`` of the marginal likelihood; ``condLogLik``, ``rho``,
        ``cAIC_VB``, ``edf``, ``cAIC_GK`` of the conditional one.
    notes : tuple of str
        Which rows cannot be compared, and in which columns.
    fits : tuple of PointFit
    """

    table: pd.DataFrame
    notes: tuple[str, ...]
    fits: tuple[PointFit, ...]

    def page(self) -> Page:
        """The marginal criteria, the conditional ones and the notes, to print or to show in a notebook."""
        shown = self.table.copy()
        for name in [c for c in shown if shown[c].dtype.kind == "f"]:
            digits = 3 if name in ("rho", "edf") else 2
            shown[name] = ["–" if np.isnan(value) else f"{value:.{digits}f}" for value in shown[name]]
        marginal = frame_table("Marginal: new groups", shown.iloc[:, :6])
        conditional = frame_table("Conditional: new rows of the same groups", shown.iloc[:, 6:])
        return Page("Information criteria", (), ((marginal, ""), (conditional, "")), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Information({len(self.table)} fits)"

    def _repr_html_(self) -> str:
        return self.page().html


def information(*fits: PointFit, labels: Sequence[str] | None = None) -> Information:
    r"""Information criteria of fits of the same data.

    The marginal criteria ask how well the model would predict *new groups*; the conditional ones how well it would
    predict *new rows of the same groups*, whose effects û are estimates too::

        AIC     −2 logLik + 2 npar        AICc  AIC + 2 npar (npar + 1) / (n − npar − 1)        BIC  −2 logLik + npar log n
        rho     trace of the hat matrix H, ŷ = Hy at fixed θ
        cAIC_VB −2 condLogLik + 2 K,  ML    K = n/(n − p) [(n − p − 1)(rho + 1) + p + 1] / (n − p − 2)
                                      REML  K = [(n − p − 1)(rho + 1) + p + 1] / (n − p − 2)
        edf     trace of ∂ŷ/∂y, θ estimated anew from each y:  rho + Σ_k (∂ŷ/∂θ_k)'(∂θ̂_k/∂y)
        cAIC_GK −2 condLogLik + 2 (edf + 1)

    with condLogLik = log p(y \| β̂, û, σ̂). ``cAIC_VB`` is Vaida and Blanchard's, exact where θ is known and biased towards
    the model with more variances where it is not; ``cAIC_GK`` has Greven and Kneib's correction for the estimated θ, here
    in closed form but for the Hessian of the deviance. Parameters at their boundary are held there in ``edf``.

    Parameters
    ----------
    *fits : PointFit
        One or more fits by REML or ML.
    labels : sequence of str, optional
        Row names; otherwise the formulas.

    Returns
    -------
    Information
        ``.table``, one row per fit, and ``.notes``.

    Raises
    ------
    MethodError
        No fits, a MAP fit, or fits of other responses, rows or weights.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> fit = bl.fit(bl.load("models/dyestuff"))
    >>> bl.information(fit).table[["rho", "edf"]].round(3).to_numpy().tolist()
    [[4.913, 5.348]]
    """
    _check(fits)
    names = _names(fits, labels)
    table = pd.DataFrame([_row(fit) for fit in fits], index=names)
    return Information(table, tuple(_notes(fits, names)), tuple(fits))


class Conditional(NamedTuple):
    """What the conditional criteria need of a fit."""

    loglik: float
    hat: Array  # (n,) diagonal of the hat matrix
    edf: float  # trace of ∂ŷ/∂y with θ estimated; NaN where parameters are held


def conditional(fit: PointFit) -> Conditional:
    """Conditional log-likelihood, hat values and effective degrees of freedom of a fit by REML or ML.

    Parameters
    ----------
    fit : PointFit

    Returns
    -------
    Conditional

    Examples
    --------
    >>> import bayeslmm as bl
    >>> conditional(bl.fit(bl.load("models/dyestuff"))).hat[:2].round(3).tolist()
    [0.164, 0.164]
    """
    rows, products = Rowwise(fit.model), fit.model.products
    n, p = products.nobs, products.n_fixed
    lam = products.lam(fit.theta)
    at = rows.swept(lam)
    fixed = at.columns[:, :p]
    residual = at.columns[:, p] - fixed @ np.linalg.solve(at.S[:p, :p], at.S[:p, p])
    hat = rows.leverage(at.factor, lam) + np.einsum("np,pn->n", fixed, np.linalg.solve(at.S[:p, :p], fixed.T))
    scaled = products.y_scale / fit.sigma
    loglik = -0.5 * (n * (LOG_2PI + 2.0 * np.log(fit.sigma)) + np.sum((residual * scaled) ** 2))
    loglik += 0.5 * products.sum_log_weights
    edf = np.nan if fit.fixed else float(hat.sum()) + _estimation(fit, rows, lam, residual)
    return Conditional(float(loglik), hat, edf)


def _estimation(fit: PointFit, rows: Rowwise, lam: Array, residual: Array) -> float:
    """Σ_k (∂ŷ/∂θ_k)'(∂θ̂_k/∂y), by the implicit function theorem at the optimum of the deviance.

    With r = Py the residual and V_k the derivative of V: ∂ŷ/∂θ_k = P V_k r, and the deviance's second derivative by θ_k
    and y is −2ν [P V_k r − r (r'V_k r)/y'Py] / y'Py, ν = n − p (REML) or n.
    """
    model, products = fit.model, fit.model.products
    free = np.flatnonzero(fit.optimum.free)
    if not len(free):
        return 0.0
    n, p = products.nobs, products.n_fixed
    inverse = 0.5 * satterthwaite(fit).spread[:-1, :-1]  # of the deviance's Hessian, σ profiled out
    V = _variance_slopes(rows, lam, [products.lam(column) for column in model.theta_basis[:, free].T], residual)
    at = rows.swept(lam, np.column_stack([rows.right[:, :p], V]))
    moved = at.columns[:, p:] - at.columns[:, :p] @ np.linalg.solve(at.S[:p, :p], at.S[:p, p:])
    rss = float(rows.right[:, p] @ residual)
    by_y = moved - np.outer(residual, residual @ V) / rss
    degrees = n - p if fit.method == "REML" else n
    return float(2.0 * degrees / rss * np.sum(inverse * (moved.T @ by_y)))


def _variance_slopes(rows: Rowwise, lam: Array, directions: list[Array], residual: Array) -> Array:
    """Columns Z̃(Λ_kΛ' + ΛΛ_k')Z̃'r (n, m)."""
    s, a = rows.products.system, rows.transposed(residual[:, None])
    columns = []
    for k in directions:
        c = times_lambda(s, k, times_lambda_transposed(s, lam, a))
        columns.append(rows.times(c + times_lambda(s, lam, times_lambda_transposed(s, k, a))))
    return np.hstack(columns)


def _row(fit: PointFit) -> dict[str, Any]:
    n, p, k = fit.nobs, len(fit.beta), fit.df
    found = conditional(fit)
    rho = float(found.hat.sum())
    corrected = fit.aic + 2.0 * k * (k + 1) / (n - k - 1) if n - k > 1 else np.nan
    return {
        "method": fit.method,
        "npar": k,
        "logLik": fit.loglik,
        "AIC": fit.aic,
        "AICc": corrected,
        "BIC": float(fit.bic),
        "condLogLik": found.loglik,
        "rho": rho,
        "cAIC_VB": -2.0 * (found.loglik - _penalty(rho, n, p, fit.method == "REML")),
        "edf": found.edf,
        "cAIC_GK": -2.0 * (found.loglik - (found.edf + 1.0)),
    }


def _penalty(rho: float, n: int, p: int, reml: bool) -> float:
    """Vaida and Blanchard's K for an estimated residual variance, θ known."""
    if n - p <= 2:
        return np.nan
    value = ((n - p - 1) * (rho + 1.0) + p + 1.0) / (n - p - 2)
    return value if reml else value * n / (n - p)


def _check(fits: Sequence[Any]) -> None:
    if not fits:
        raise MethodError("information takes one fit or more, bl.information(bl.fit(model))")
    for fit in fits:
        if not isinstance(fit, PointFit):
            raise MethodError(
                f"information takes fits of bl.fit, not {type(fit).__name__}; for a posterior use bl.loo(posterior)"
            )
        if fit.method == "MAP":
            raise MethodError("information criteria need maximised likelihoods, not MAP. Fit by REML or ML")
    check_same_data(fits)


def _names(fits: Sequence[PointFit], labels: Sequence[str] | None) -> list[str]:
    if labels is None:
        return [fit.model.formula.text for fit in fits]
    names = [str(label) for label in labels]
    if isinstance(labels, str) or len(names) != len(fits):
        raise MethodError(f"labels must be {len(fits)} names, one per fit, got {labels!r}")
    return names


def _notes(fits: Sequence[PointFit], names: Sequence[str]) -> list[str]:
    notes = []
    if len({fit.method for fit in fits}) > 1:
        notes.append("logLik, AIC, AICc and BIC of REML and of ML fits cannot be compared: fit all by one method.")
    restricted = [fit for fit in fits if fit.method == "REML"]
    if any(not np.array_equal(fit.model.X, restricted[0].model.X) for fit in restricted[1:]):
        notes.append(
            "The fixed parts differ, so logLik, AIC, AICc and BIC of these REML fits are not comparable: fit by ML for "
            "those. condLogLik and the conditional criteria are no restricted likelihoods and can be compared."
        )
    for fit, name in zip(fits, names, strict=True):
        if not fit.converged:
            notes.append(f"{name}: not converged; {fit.message}.")
        if fit.fixed:
            notes.append(f"{name}: {', '.join(fit.fixed)} held, so edf and cAIC_GK are not defined.")
        elif fit.singular:
            notes.append(f"{name}: singular; edf counts no estimation of the variances at their boundary.")
    return notes
