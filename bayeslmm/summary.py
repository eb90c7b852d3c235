"""A linear point fit as one page, laid out as lme4's summary: text or HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeslmm.coefficients import coefficients
from bayeslmm.table import (
    Page,
    Table,
    decimals,
    fixed_correlations,
    left_out,
    model_lines,
    number,
    p_shown,
    random_effects,
    sizes,
    zeros,
)

if TYPE_CHECKING:
    from bayeslmm.result import PointFit

MOST_CORRELATED = 12  # coefficients whose correlations are still shown
# Effects outside the largest grouping factor up to which Satterthwaite's degrees of freedom are the default: each of
# the 4(m + 1) + 1 gradients inverts a matrix of that size.
MOST_EFFECTS = 500
_METHODS = {"REML": "REML", "ML": "maximum likelihood", "MAP": "maximum a posteriori (MAP)"}


def point_summary(fit: PointFit, df: str | None = "default") -> str:
    """A point fit in the layout of lme4's summary.

    Parameters
    ----------
    fit : PointFit
    df : str or None
        See `PointFit.summary`.

    Returns
    -------
    str

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> print(bl.fit(bl.Model("y ~ 1 + (1 | g)", data)).summary().splitlines()[0])
    Linear mixed model fit by REML
    """
    return point_page(fit, df).text


def point_html(fit: PointFit) -> str:
    """A point fit as HTML tables, in the colours of the page that shows them.

    Parameters
    ----------
    fit : PointFit

    Returns
    -------
    str

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0], "g": list("aabbcc")}
    >>> bl.fit(bl.Model("y ~ 1 + (1 | g)", data))._repr_html_()[:26]
    '<section class="bayeslmm">'
    """
    return point_page(fit).html


def point_page(fit: PointFit, df: str | None = "default") -> Page:
    """What the summary of a point fit says."""
    mixed = "mixed " if fit.model.groups else ""
    tables = [(_criteria(fit), ""), (_residuals(fit), ""), (random_effects(fit), sizes(fit.model))]
    tables += [_fixed(fit, df)] if len(fit.beta) else []
    tables += [(fixed_correlations(fit), "")] if 1 < len(fit.beta) <= MOST_CORRELATED else []
    heading = f"Linear {mixed}model fit by {_METHODS[fit.method]}"
    return Page(heading, tuple(model_lines(fit.model)), tuple(tables), tuple(_remarks(fit)))


def _criteria(fit: PointFit) -> Table:
    """Likelihood, criteria and degrees of freedom, in one line."""
    shown = {"AIC": fit.aic, "BIC": fit.bic, "logLik": fit.loglik}
    shown |= {"log posterior": fit.logposterior} if fit.logposterior is not None else {}
    shown |= {"REML criterion" if fit.method == "REML" else "deviance": fit.deviance}
    cells = (*(number(float(value), 1, 5) for value in shown.values()), str(fit.df), str(fit.nobs - fit.df))
    return Table("", (*shown, "df", "df.resid"), (cells,), labels=0)


def _residuals(fit: PointFit) -> Table:
    """Five numbers of √w (y − ŷ) / σ."""
    weights = fit.model.design.weights
    scaled = fit.residuals.to_numpy() * (1.0 if weights is None else np.sqrt(weights)) / fit.sigma
    cells = tuple(f"{value:.4f}" for value in np.quantile(scaled, [0, 0.25, 0.5, 0.75, 1]))
    return Table("Scaled residuals", ("Min", "1Q", "Median", "3Q", "Max"), (cells,), labels=0)


def default_df(fit: PointFit) -> tuple[str, str]:
    """The rule of the degrees of freedom that a summary uses by default, and what is said of it under the table."""
    outside = fit.model.products.structure.rest_size
    reasons = {
        "the mode is not a REML or ML estimate": fit.method not in ("REML", "ML"),
        "Satterthwaite's degrees of freedom need every variance estimated": bool(fit.fixed),
        "Satterthwaite's degrees of freedom need a converged fit": not fit.converged,
        f"{outside:,} effects outside the largest group; with more than {MOST_EFFECTS} Satterthwaite's degrees of freedom "
        'take a while, summary(df="satterthwaite") computes them': outside > MOST_EFFECTS,
    }
    for reason, holds in reasons.items():
        if holds:
            return "asymptotic", f"z: normal approximation ({reason})"
    return "satterthwaite", said_of("satterthwaite")


def said_of(df: str) -> str:
    """What the line under the coefficients says of a rule."""
    return {
        "satterthwaite": "df: Satterthwaite",
        "kenward-roger": "df and Std. Error: Kenward and Roger",
        "containment": "df: containment, as in nlme",
        "asymptotic": "z: normal approximation",
    }[df]


def _fixed(fit: PointFit, df: str | None) -> tuple[Table, str]:
    """The coefficients with their tests, and the line under them."""
    used, said = default_df(fit) if df == "default" else (df, "")
    if used is None:
        columns = {"Estimate": fit.beta, "Std. Error": fit.beta_sd}
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio, tests = fit.beta / fit.beta_sd, []
    else:
        found = coefficients(fit, used)
        columns = {"Estimate": fit.beta, "Std. Error": found["se"].to_numpy()}
        ratio, tests = found["t"].to_numpy(), [[p_shown(p) for p in found["p"]]]
        said = said or said_of(used)
        if used != "asymptotic":
            tests = [[f"{v:.2f}" if np.isfinite(v) else f"{v}" for v in found["df"]], *tests]
    places = decimals(columns["Std. Error"], 4)
    shown = [[number(float(value), places, 4) for value in column] for column in columns.values()]
    shown.append([number(float(value), 3, 4) for value in ratio])
    header = ["", *columns, "z value" if used == "asymptotic" else "t value", *["df", "p"][2 - len(tests) :]]
    rows = tuple(zip(fit.model.design.fixed.names, *shown, *tests, strict=True))
    return Table("Fixed effects", tuple(header), rows), said


def _remarks(fit: PointFit) -> list[str]:
    """What a reader has to know besides the numbers."""
    held = ", ".join(f"{name} = {value:.6g}" for name, value in fit.fixed.items())
    map_only = "Mode of the natural parameters (sd, correlations, sigma). AIC and BIC are not defined for MAP."
    remarks = [map_only] if fit.method == "MAP" else []
    remarks += [f"Held fixed, not estimated: {held}."] if held else []
    remarks += left_out(fit.model)
    remarks += [f"Singular fit: {'; '.join(zeros(fit))}."] if fit.singular else []
    return remarks + ([] if fit.converged else [f"NOT CONVERGED: {fit.message}"])
