"""The table of coefficients with their tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import ndtr, stdtr

from bayeslmm.degrees import check, covariance_of, row_degrees

if TYPE_CHECKING:
    from bayeslmm.result import PointFit


def coefficients(fit: PointFit, df: str | None = None) -> pd.DataFrame:
    """Tabulate the fixed coefficients with standard errors, degrees of freedom and t tests.

    ``t = estimate / se``, and p is the two-sided tail of t with df degrees of freedom (of the normal where they are
    infinite). For Kenward–Roger se is the adjusted one.

    Parameters
    ----------
    fit : PointFit
        A fit by REML or ML; for df="kenward-roger" by REML; for df="asymptotic" also by MAP.
    df : {"satterthwaite", "kenward-roger", "containment", "asymptotic"}, optional
        Satterthwaite if not given; for a family other than the Gaussian, which has no other, asymptotic.
        How the degrees of freedom are found; see `bayeslmm.degrees.contrast_degrees`.

    Returns
    -------
    DataFrame
        Columns estimate, se, df, t, p, over the names of the coefficients.

    Raises
    ------
    MethodError
        An unknown `df`, or a fit that it has no meaning for.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "x": [1, 2, 1, 2, 1, 2], "g": list("aabbcc")}
    >>> fit = bl.fit(bl.Model("y ~ x + (1 | g)", data))
    >>> bl.coefficients(fit, df="kenward-roger").round(3).loc["x"].to_dict()
    {'estimate': 1.167, 'se': 0.167, 'df': 2.0, 't': 7.0, 'p': 0.02}
    """
    if df is None:
        other = isinstance(getattr(fit, "method", None), str) and fit.model.family != "gaussian"
        df = "asymptotic" if other else "satterthwaite"
    check(fit, df)
    se = fit.beta_sd if df != "kenward-roger" else np.sqrt(np.diag(covariance_of(fit, df)))
    degrees = row_degrees(fit, np.eye(len(fit.beta)), df)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = fit.beta / se
    tail = ndtr(-np.abs(t)) if df == "asymptotic" else stdtr(degrees, -np.abs(t))
    columns = {"estimate": fit.beta, "se": se, "df": degrees, "t": t, "p": 2.0 * tail}
    return pd.DataFrame(columns, index=fit.fixef.index)
