"""Any result → tidy tables: one row per estimate, per fit; pandas, Polars or PyArrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from bayeslmm.coefficients import coefficients
from bayeslmm.errors import MethodError, MissingPackageError
from bayeslmm.estimates import estimates, parameter_names
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.intervals import confint
from bayeslmm.posterior import Posterior
from bayeslmm.quasi import QuasiFit
from bayeslmm.result import PointFit

Array = NDArray[np.float64]
Backend = Literal["pandas", "polars", "pyarrow"]
EFFECTS = ("fixed", "ran_pars", "ran_vals")
TEXT = ("effect", "component", "group", "level", "term", "method")
# What broom.mixed calls the formulas for the mean, the dispersion and the zeros.
COMPONENTS = {"mean": "cond", "dispersion": "disp", "zero": "zi", "thresholds": "threshold"}


def tidy(
    result: PointFit | Posterior,
    effects: str | Sequence[str] = ("fixed", "ran_pars"),
    *,
    conf_int: bool = False,
    conf_level: float = 0.95,
    conf_method: str | None = None,
    df: str | None = None,
    backend: Backend | None = None,
) -> Any:
    """One row per estimate, in the columns that users of R's broom.mixed know.

    Parameters
    ----------
    result : PointFit or Posterior
        What to read.
    effects : str or sequence of str
        Which rows, in this order: "fixed" coefficients; "ran_pars", the sds (``sd__Days``) and correlations
        (``cor__Intercept.Days``) of the random effects and σ (``sd__Observation`` of the group Residual); "ran_vals",
        the random effects themselves.
    conf_int : bool
        Whether to add conf_low and conf_high.
    conf_level : float
        Their probability.
    conf_method : str, optional
        As in `bl.confint`: "wald" or "profile" for a point fit, "eti" or "hdi" for a posterior. Wald's intervals of
        coefficients use t with the df of the row, so that they agree with its p-value. Random effects have normal
        conditional intervals at a point fit, equal-tailed ones in a posterior, whatever is given here.
    df : str, optional
        Degrees of freedom of the tests of coefficients, as in `bl.coefficients`. Satterthwaite's for REML and ML,
        infinite for MAP and other families than the Gaussian.
    backend : {"pandas", "polars", "pyarrow"}, optional
        Kind of table; that of the model's data if not given (pandas for a dict).

    Returns
    -------
    table
        effect, group, level, term, estimate, std_error; a point fit's statistic, df, p_value; a posterior's rhat and
        ess_bulk (its std_error is the posterior sd). What a row does not have is missing. A point fit of a model with
        formulas for dispersion or zeros has their coefficients too, and a column component: "cond", "disp" or "zi".

    Raises
    ------
    MethodError
        Unknown effects, or a method that the result does not have.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> rows = bl.tidy(bl.fit(bl.load("models/sleepstudy")), conf_int=True)
    >>> rows.set_index("term").loc["Days", ["estimate", "conf_low"]].astype(float).round(2).tolist()
    [10.47, 7.21]
    """
    check_result(result, effects)
    if not 0 < conf_level < 1:
        raise MethodError(f"conf_level is a probability between 0 and 1, got {conf_level!r}")
    wanted = [effects] if isinstance(effects, str) else list(effects)
    parts = {
        "fixed": lambda: _all_fixed(result, conf_level, conf_method, df, conf_int),
        "ran_pars": lambda: _ran_pars(result, conf_level, conf_method, conf_int),
        "ran_vals": lambda: _ran_vals(result, conf_level, conf_int),
    }
    rows = pd.concat([parts[kind]().assign(effect=kind) for kind in wanted], ignore_index=True)
    own = ["rhat", "ess_bulk"] if isinstance(result, Posterior) else ["statistic", "df", "p_value"]
    component = ["component"] if "component" in rows else []
    rows = rows.assign(component=rows["component"].fillna(COMPONENTS["mean"])) if "component" in rows else rows
    names = ["effect", *component, "group", "level", "term", "estimate", "std_error", *own]
    return given_back(rows.reindex(columns=[*names, *(["conf_low", "conf_high"] if conf_int else [])]), result, backend)


def check_result(result: Any, effects: Any = EFFECTS) -> None:
    """Raise for what has no tidy tables, and for rows that are not known.

    Parameters
    ----------
    result
        What was given.
    effects : str or sequence of str
        Rows asked for.

    Raises
    ------
    MethodError
        Either has no meaning.
    """
    if not isinstance(result, PointFit | Posterior):
        raise MethodError(f"tidy tables are of what bl.fit or bl.sample gave; got {type(result).__name__}")
    wanted = [effects] if isinstance(effects, str) else list(effects)
    unknown = [kind for kind in wanted if kind not in EFFECTS]
    if unknown or not wanted:
        raise MethodError(f"effects={effects!r}: choose from {', '.join(EFFECTS)}")


def _all_fixed(result: Any, level: float, method: str | None, df: str | None, intervals: bool) -> pd.DataFrame:
    """Coefficients of the mean, then of the formulas for dispersion and zeros."""
    rows = _fixed(result, level, method, df, intervals)
    if isinstance(result, Posterior):
        return _with_further_draws(result, rows, level, method, intervals)
    further = dict(result.further_fixef) if isinstance(result, GeneralizedFit) else {}
    further.pop("nu", None)
    if isinstance(result, GeneralizedFit) and result.model.design.ordered:
        further["thresholds"] = result.thresholds
    if not further:
        return rows
    parts = [rows.assign(component=COMPONENTS["mean"])]
    for name, frame in further.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (frame["estimate"] / frame["se"]).to_numpy()
        columns = {"estimate": frame["estimate"], "std_error": frame["se"], "statistic": z, "df": np.inf}
        own = pd.DataFrame(columns).assign(p_value=2.0 * ndtr(-np.abs(z)), term=list(frame.index))
        if intervals:
            names = [f"{name}[{column}]" for column in frame.index]
            bounds = confint(result, level, method, names).to_numpy()  # type: ignore[arg-type]
            own = own.assign(conf_low=bounds[:, 0], conf_high=bounds[:, 1])
        parts.append(own.assign(component=COMPONENTS[name]))
    return pd.concat(parts, ignore_index=True)


def _with_further_draws(
    post: Posterior, rows: pd.DataFrame, level: float, method: str | None, intervals: bool
) -> pd.DataFrame:
    """Coefficients of the mean's formula, and of those for dispersion and zeros, from draws."""
    further = post.model.priors.further
    if not further:
        return rows
    parts = [rows.assign(component=COMPONENTS["mean"])]
    for name, block in further.items():
        own = _of_draws(post, [f"{name}[{column}]" for column in block.coefficients], level, method, intervals)
        parts.append(own.assign(term=list(block.coefficients), component=COMPONENTS[name]))
    return pd.concat(parts, ignore_index=True)


def _fixed(result: Any, level: float, method: str | None, df: str | None, intervals: bool) -> pd.DataFrame:
    names = list(result.model.design.fixed.names)
    if isinstance(result, Posterior):
        rows = _of_draws(result, [f"fixef[{name}]" for name in names], level, method, intervals)
        return rows.assign(term=names)
    plain = result.method in ("REML", "ML") and result.model.family == "gaussian"
    table = coefficients(result, df or ("satterthwaite" if plain else "asymptotic"))
    columns = {"estimate": table.iloc[:, 0], "std_error": table.iloc[:, 1], "statistic": table.iloc[:, -2]}
    rows = pd.DataFrame(columns).assign(df=table["df"], p_value=table.iloc[:, -1], term=names).reset_index(drop=True)
    if not intervals:
        return rows
    if method in (None, "wald"):
        tail, degrees = 0.5 + 0.5 * level, rows["df"].to_numpy(float)
        quantile = np.where(np.isfinite(degrees), stdtrit(degrees, tail), ndtri(tail))
        reach = quantile * rows["std_error"]
        return rows.assign(conf_low=rows["estimate"] - reach, conf_high=rows["estimate"] + reach)
    bounds = confint(result, level, method, [f"fixef[{name}]" for name in names]).to_numpy()  # type: ignore[arg-type]
    return rows.assign(conf_low=bounds[:, 0], conf_high=bounds[:, 1])


def _ran_pars(result: Any, level: float, method: str | None, intervals: bool) -> pd.DataFrame:
    places, names = _places(result)
    if isinstance(result, Posterior):
        rows = _of_draws(result, names, level, method, intervals)
    elif result.model.family != "gaussian" and not intervals:
        rows = pd.DataFrame({"estimate": _natural(result), "std_error": np.nan})
    else:
        found = estimates(result, "")
        at = [found.at(name) for name in names]
        rows = pd.DataFrame({"estimate": found.estimate[at], "std_error": found.uncertainty[at]})
        if intervals:
            bounds = confint(result, level, method, names).to_numpy()  # type: ignore[arg-type]
            rows = rows.assign(conf_low=bounds[:, 0], conf_high=bounds[:, 1])
    return rows.assign(group=[group for group, _ in places], term=[term for _, term in places])


def _natural(fit: PointFit) -> Array:
    """Sds and correlations, group by group."""
    parts = [np.empty(0)]
    for group in fit.model.groups:
        parts += [fit.group_sd[group], np.array([fit.group_corr[group][i, j] for i, j in fit.model.pairs(group)])]
    return np.concatenate(parts)


def _places(result: Any) -> tuple[list[tuple[str, str]], list[str]]:
    """Group and term of each sd, correlation and σ, and its public name."""
    model = result.model
    found: dict[str, tuple[str, str]] = {}
    for group in model.groups:
        effects = model.effects(group)
        found |= {f"sd_{group}[{effect}]": (group, f"sd__{effect}") for effect in effects}
        found |= {
            f"corr_{group}[{effects[i]}, {effects[j]}]": (group, f"cor__{effects[i]}.{effects[j]}")
            for i, j in model.pairs(group)
        }
    found |= {"sigma": ("Residual", "sd__Observation")} if model.family == "gaussian" else {}
    names = [name for name in parameter_names(model) if name in found]
    return [found[name] for name in names], names


def _of_draws(post: Posterior, names: Sequence[str], level: float, method: str | None, intervals: bool) -> pd.DataFrame:
    found = estimates(post, "")
    at, summary = [found.at(name) for name in names], post.summary(kind="diagnostics").loc[list(names)]
    rows = pd.DataFrame({"estimate": found.estimate[at], "std_error": found.uncertainty[at]})
    rows = rows.assign(rhat=summary["r_hat"].to_numpy(float), ess_bulk=summary["ess_bulk"].to_numpy(float))
    if intervals and names:
        bounds = confint(post, level, method, list(names)).to_numpy()  # type: ignore[arg-type]
        rows = rows.assign(conf_low=bounds[:, 0], conf_high=bounds[:, 1])
    return rows


def _ran_vals(result: Any, level: float, intervals: bool) -> pd.DataFrame:
    parts = [pd.DataFrame(columns=["group", "level", "term", "estimate", "std_error"])]
    for group, effects in result.ranef.items():
        index = pd.MultiIndex.from_product([effects.index, effects.columns])
        place = {"group": group, "level": index.get_level_values(0), "term": index.get_level_values(1)}
        rows = pd.DataFrame(place | {"estimate": effects.to_numpy().ravel()})
        parts.append(_spread(rows, result, group, level, intervals))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _spread(rows: pd.DataFrame, result: Any, group: str, level: float, intervals: bool) -> pd.DataFrame:
    """Standard errors of a group's effects; intervals; for draws R-hat and effective sizes where draws were kept."""
    if isinstance(result, PointFit):
        rows["std_error"] = np.sqrt(np.diagonal(result.ranef_cov[group], axis1=1, axis2=2)).ravel()
        reach = float(ndtri(0.5 + 0.5 * level)) * rows["std_error"]
        return rows.assign(conf_low=rows["estimate"] - reach, conf_high=rows["estimate"] + reach)
    rows["std_error"] = result.ranef_sd[group].to_numpy().ravel()
    if f"ranef_{group}" not in result.data["posterior"].data_vars:
        return rows
    summary = result.summary(kind="diagnostics", var_names=[f"ranef_{group}"])
    rows = rows.assign(rhat=summary["r_hat"].to_numpy(float), ess_bulk=summary["ess_bulk"].to_numpy(float))
    if intervals:
        tails = [0.5 - 0.5 * level, 0.5 + 0.5 * level]
        low, high = np.quantile(result.draws(f"ranef_{group}"), tails, axis=0)
        rows = rows.assign(conf_low=low.ravel(), conf_high=high.ravel())
    return rows


def glance(result: PointFit | Posterior, *, backend: Backend | None = None) -> Any:
    """One row about the whole fit.

    Parameters
    ----------
    result : PointFit or Posterior
        What to read.
    backend : {"pandas", "polars", "pyarrow"}, optional
        Kind of table; that of the model's data if not given.

    Returns
    -------
    table
        A point fit: method, nobs, sigma, logLik, AIC, BIC, REMLcrit (for REML) or deviance, df (parameters),
        df_residual. A posterior: nobs, sigma, chains, draws, rhat (largest), ess_bulk (smallest), divergences. Of
        another family than the Gaussian there is dispersion beside sigma: its family's, missing where there is none or
        a formula for it; sigma is missing but for PQL, which estimates one.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> float(bl.glance(bl.fit(bl.load("models/sleepstudy")))["REMLcrit"].round(4).iloc[0])
    1743.6283
    """
    check_result(result)
    row: dict[str, Any]
    if isinstance(result, Posterior):
        sizes, found = result.data["posterior"].sizes, result.diagnostics
        row = {"method": "posterior", "nobs": result.nobs} | _noise(result)
        row |= {"chains": int(sizes["chain"]), "draws": int(sizes["draw"]), "rhat": found.r_hat}
        row |= {"ess_bulk": found.ess_bulk, "divergences": found.divergences}
    else:
        row = {"method": result.method, "nobs": result.nobs} | _noise(result) | {"logLik": result.loglik}
        row |= {"AIC": result.aic, "BIC": result.bic}
        row |= {"REMLcrit" if result.method == "REML" else "deviance": result.deviance}
        row |= {"df": result.df, "df_residual": result.nobs - result.df}
    return given_back(pd.DataFrame([row]), result, backend)


def _noise(result: PointFit | Posterior) -> dict[str, float]:
    """σ, and the dispersion of another family."""
    if result.model.family == "gaussian" or not isinstance(result, GeneralizedFit | Posterior):
        return {"sigma": result.sigma}
    known = result.dispersion if result.model.dispersion else np.nan
    return {"sigma": result.sigma if isinstance(result, QuasiFit) else np.nan, "dispersion": known}


def given_back(frame: pd.DataFrame, result: Any, backend: Backend | None) -> Any:
    """A result's table in the kind that was asked for, else in that of the model's data."""
    if backend is None:
        data = result.model.arguments["data"]
        known = nw.from_native(data, eager_only=True, pass_through=True)
        kind = getattr(known, "implementation", None)
        backend = "polars" if kind and kind.is_polars() else "pyarrow" if kind and kind.is_pyarrow() else "pandas"
    return frame if backend == "pandas" else converted(frame, backend)


def converted(frame: pd.DataFrame, backend: Backend) -> Any:
    """A pandas table as Polars or PyArrow; what is missing becomes null."""
    if backend not in ("pandas", "polars", "pyarrow"):
        raise MethodError(f'backend={backend!r} is not known; use "pandas", "polars" or "pyarrow"')
    values, schema = {}, {}
    for name in map(str, frame.columns):
        column = frame[name]
        kind: Any = nw.Float64() if column.dtype.kind == "f" else nw.Int64() if column.dtype.kind in "iu" else None
        kind = nw.Boolean() if column.dtype.kind == "b" else kind
        text = kind is None or name in TEXT
        schema[name] = nw.String() if text else kind
        values[name] = [None if pd.isna(v) else str(v) if text else v for v in column.tolist()]
    try:
        return nw.from_dict(values, schema, backend=backend).to_native()
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"backend={backend!r} needs the package {backend}: pip install {backend}") from error
