"""Influence: what the estimates of a point fit owe to each row, or to each level of a grouping factor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.deletion import Loss, RowInverse, without_rows
from bayeslmm.errors import BayesLMMError, MethodError
from bayeslmm.fit import fit as fit_model
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.linearised import linearised
from bayeslmm.result import PointFit

Array = NDArray[np.float64]
# Smallest share of the precision of a combination of coefficients that must remain for it to be estimable.
ESTIMABLE = 1e-9


def influence(fit: PointFit, by: str | None = None, *, refit: bool = False) -> pd.DataFrame:
    """Leverage, Cook's distance, MDFFITS, covariance ratio and DFBETAs of each row or each level.

    Without rows I, (θ, σ) held, β̂ and its covariance C = Var β̂ become β̂₍₋ᵢ₎ and C₍₋ᵢ₎, exactly and without a refit::

        leverage         ∂ŷᵢ/∂yᵢ, random effects included; for a level the sum over its rows
        std_residual     √w(y − ŷ)/(σ√(1 − leverage)), variance 1 (rows only)
        cooks_distance   (β̂ − β̂₍₋ᵢ₎)' C⁻¹ (β̂ − β̂₍₋ᵢ₎) / p
        mdffits          (β̂ − β̂₍₋ᵢ₎)' C₍₋ᵢ₎⁻¹ (β̂ − β̂₍₋ᵢ₎) / p
        covratio         |C₍₋ᵢ₎| / |C|: above 1 where the rows make β̂ more precise
        dfbetas[x]       (β̂ − β̂₍₋ᵢ₎)ₓ over its standard error in C₍₋ᵢ₎

    Of a generalized fit these are the same quantities in the linear mixed model that is tangent to it (`linearised`): β̂₍₋ᵢ₎
    is one Newton step from β̂, θ, the dispersion and thresholds held; leverage is ∂η̂ᵢ/∂zᵢ of the working response z,
    std_residual the Pearson residual over √(1 − leverage). Without random effects they are those of R's ``influence.glm``.

    Parameters
    ----------
    fit : PointFit
    by : str, optional
        A grouping factor of the model, all rows of each level being left out together; by default each row alone.
    refit : bool
        Estimate θ and σ anew each time: one refit per row or level. Columns ``sigma`` (or the dispersion's name) and
        ``sd_…`` show what they become, leverage and std_residual are left out.

    Returns
    -------
    DataFrame
        One row per row used or per level (with its number of ``rows``). NaN where a coefficient cannot be estimated
        without those rows, or where the refit failed (of a generalized model: had no finite estimate).

    Raises
    ------
    MethodError
        Not a point fit, no such grouping factor, or a generalized fit whose likelihood is not concave in some row.

    Notes
    -----
    lme4's ``cooks.distance`` of a fit is another quantity, the linear model's formula with the conditional leverage;
    that of its ``influence()`` refits as ``refit=True`` does and carries a factor (m − p)/m, m the number of levels left
    out in turn. lme4 takes β̂₍₋ᵢ₎ − β̂, the opposite sign, in ``dfbetas``.

    References
    ----------
    Christensen, R., Pearson, L. M. & Johnson, W. (1992), Technometrics 34, 38–45. Demidenko, E. & Stukel, T. A. (2005),
    Statistics in Medicine 24, 893–909. Belsley, D. A., Kuh, E. & Welsch, R. E. (1980), Regression Diagnostics, Wiley.
    Pregibon, D. (1981), Annals of Statistics 9, 705–724 (one step). Xiang, L., Tse, S.-K. & Lee, A. H. (2002),
    Computational Statistics & Data Analysis 40, 759–774.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> fit = bl.fit(bl.load("models/sleepstudy"))
    >>> bl.influence(fit, "Subject")["cooks_distance"].nlargest(2).round(3).to_dict()
    {'309': 0.149, '335': 0.129}
    """
    if not isinstance(fit, PointFit):
        raise MethodError(f"influence is of a point fit, bl.fit(model); got {type(fit).__name__}")
    index, codes = _sets(fit, by)
    if refit:
        frame = _refitted(fit, index, codes)
    else:
        working, rows, residual = tangent(fit)
        loss = rows.by_row() if by is None else rows.by_level(codes, len(index))
        frame = measures(working, loss).set_index(index)
        size = np.bincount(codes, minlength=len(index))
        frame.insert(0, "leverage", size - np.bincount(codes, rows.variance, len(index)))
        if by is None:
            frame.insert(1, "std_residual", standardised(rows, residual))
    if by is not None:
        frame.insert(0, "rows", np.bincount(codes, minlength=len(index)))
    return frame


def tangent(fit: PointFit) -> tuple[PointFit, RowInverse, Array]:
    """The fit itself, or the linear mixed model tangent to a generalized one, its rows, and their residuals in sds."""
    if not isinstance(fit, GeneralizedFit):
        rows = RowInverse(fit)
        return fit, rows, rows.residual
    working, residual = linearised(fit)
    return working, RowInverse(working), residual


def standardised(rows: RowInverse, residual: Array) -> Array:
    """Conditional residuals over their standard deviations; NaN for a row that its own coefficient or effect fits."""
    known = rows.variance > ESTIMABLE
    return np.where(known, residual, np.nan) / np.sqrt(np.where(known, rows.variance, 1.0))


def cooks_distance(loss: Loss) -> Array:
    """Cook's distance (L,) of each deletion; NaN where a coefficient cannot be estimated without those rows."""
    information = loss.information()
    known = np.linalg.eigvalsh(information).min(axis=1, initial=1.0) > ESTIMABLE
    change = np.linalg.solve(information[known], loss.score[known][:, :, None])[:, :, 0]
    values = np.full(len(known), np.nan)
    values[known] = np.mean(change**2, axis=1) if change.shape[1] else np.nan
    return values


def measures(fit: PointFit, loss: Loss) -> pd.DataFrame:
    """Cook's distance, MDFFITS, covariance ratio and DFBETAs from what each deletion takes away."""
    p = loss.score.shape[1]
    names = [f"dfbetas[{name}]" for name in fit.model.design.fixed.names]
    values = np.full((len(loss.score), 3 + p), np.nan)
    if p:
        information = loss.information()
        known = np.linalg.eigvalsh(information)[:, 0] > ESTIMABLE
        inverse = np.linalg.inv(information[known])
        change = np.einsum("lab,lb->la", inverse, loss.score[known])
        values[known, 0] = np.sum(change**2, axis=1) / p
        values[known, 1] = np.einsum("la,la->l", change, loss.score[known]) / p
        values[known, 2] = np.linalg.det(inverse)
        error = np.sqrt(np.einsum("aj,lab,bj->lj", fit.beta_root, inverse, fit.beta_root))
        values[known, 3:] = change @ fit.beta_root / error
    return pd.DataFrame(values, columns=["cooks_distance", "mdffits", "covratio", *names])


def _sets(fit: PointFit, by: str | None) -> tuple[pd.Index, NDArray[np.intp]]:
    """Labels of what is left out in turn, and which of them each row belongs to."""
    design = fit.model.design
    if by is None:
        return pd.Index(design.rows, name="row"), np.arange(design.nobs)
    if by not in fit.model.groups:
        known = ", ".join(map(repr, fit.model.groups)) or "none"
        raise MethodError(
            f"by={by!r} is no grouping factor of the model; it has {known}. by=None leaves out single rows"
        )
    codes = next(term.codes for term in design.random if term.group == by)
    return pd.Index(fit.model.levels(by), name=by), np.asarray(codes, np.intp)


def _refitted(fit: PointFit, index: pd.Index, codes: NDArray[np.intp]) -> pd.DataFrame:
    """The same measures with θ and σ estimated anew, and what σ and the sds become."""
    names = [f"dfbetas[{name}]" for name in fit.model.design.fixed.names]
    sds = [f"sd_{group}[{effect}]" for group in fit.model.groups for effect in fit.model.effects(group)]
    scale = [name] if (name := fit.model.dispersion) and not fit.model.design.further else []
    columns = ["cooks_distance", "mdffits", "covratio", *names, *scale, *sds]
    rows = [_comparison(fit, again) if again is not None else [np.nan] * len(columns) for again in _refits(fit, codes)]
    return pd.DataFrame(rows, columns=columns, index=index)


def _refits(fit: PointFit, codes: NDArray[np.intp]) -> Iterator[PointFit | None]:
    for level in range(codes.max() + 1):
        keep = codes != level
        if np.linalg.matrix_rank(fit.model.X[keep]) < len(fit.beta):
            yield None
            continue
        try:
            again = fit_model(without_rows(fit.model, keep), fit.method, **_options(fit))  # type: ignore[arg-type]
            yield again if again.converged or not isinstance(again, GeneralizedFit) else None
        except (BayesLMMError, np.linalg.LinAlgError):
            yield None


def _options(fit: PointFit) -> dict[str, Any]:
    """How a fit was made, for a refit like it."""
    if not isinstance(fit, GeneralizedFit):
        return {"fixed": dict(fit.fixed) or None}
    if fit.method == "PQL":
        return {}
    return {"information": fit.information} | ({"nodes": fit.nodes} if fit.method == "AGHQ" else {})


def _comparison(fit: PointFit, again: PointFit) -> list[Any]:
    p = len(fit.beta)
    change = fit.beta - again.beta
    before, after = (np.linalg.solve(f.beta_covariance, change) @ change / p if p else np.nan for f in (fit, again))
    log_ratio = np.linalg.slogdet(again.beta_covariance)[1] - np.linalg.slogdet(fit.beta_covariance)[1]
    sds = np.concatenate([np.empty(0), *(again.group_sd[group] for group in fit.model.groups)])
    name = fit.model.dispersion
    scale = [again.dispersion if isinstance(again, GeneralizedFit) else again.sigma]
    scale = scale if name and not fit.model.design.further else []
    return [before, after, np.exp(log_ratio), *(change / again.beta_sd), *scale, *sds]
