"""Any result → one row per observation: the data with what the fit says of each row; pandas, Polars or PyArrow."""

from __future__ import annotations

from typing import Any, cast

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.columns import frame_of, names_of
from bayeslmm.design import Design
from bayeslmm.errors import NotSupportedError
from bayeslmm.exact.densities import means
from bayeslmm.family import LINKS, family_of
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.posterior import Posterior
from bayeslmm.predict import predict
from bayeslmm.quantile_residuals import quantile_residuals
from bayeslmm.result import PointFit
from bayeslmm.tidy import Backend, check_result, converted

Array = NDArray[np.float64]


def augment(result: PointFit | Posterior, data: Any = None, *, backend: Backend | None = None) -> Any:
    """One row per observation: the data with what the fit says of each row.

    Parameters
    ----------
    result : PointFit or Posterior
        What was fitted.
    data : table, optional
        New rows; without it the rows used.
    backend : {"pandas", "polars", "pyarrow"}, optional
        Kind of table; that of the data if not given.

    Returns
    -------
    table
        The columns of the data, then ``.fitted`` (with the random effects), ``.resid``, ``.fixed`` (without them),
        ``.mu`` (the mean), ``.offset``, ``.weights``; for a point fit also ``.hat`` and ``.cooksd``. New rows have
        ``.fitted`` and ``.se_fit``. Of another family, ``.fitted`` and ``.fixed`` are means of the response, zeros of
        their own included (of a binomial one shares), and in place of the last two there are ``.eta``, the predictor with
        the random effects on the scale of the link, and ``.pearson``; ``.mu`` is g⁻¹(``.eta``).

        Of ordered categories ``.prob[low]``, …, the probability of each given the effects, ``.class``, the most probable
        one, ``.fitted``, the probability of the row's own (as `fitted` of R's ordinal has it), ``.resid``, its quantile
        residual (normal, randomised by a fixed seed), ``.eta``, ``.fixed``, the predictor without the random effects,
        ``.offset``, ``.weights``. New rows have ``.prob[low]``, …, ``.se[low]``, … and ``.class``.

    Raises
    ------
    UnseenLevelError, DataError
        New rows that cannot be predicted.
    NotSupportedError
        The rows used, of a posterior of another family than the Gaussian or ordered categories.

    Notes
    -----
    broom.mixed has ``.fitted`` and ``.fixed`` of such fits on the scale of the link.

    ``.hat`` is the diagonal of H in ŷ = Hy given θ: h = w se²/σ², se that of the prediction. ``.cooksd`` is
    ``w r² h / (p σ² (1 − h)²)``, as `cooks.distance` of lme4 has it.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> rows = bl.augment(bl.fit(bl.load("models/sleepstudy")))
    >>> rows[["Reaction", ".fitted", ".hat"]].round(3).iloc[0].tolist()
    [249.56, 253.664, 0.229]
    """
    check_result(result)
    if data is not None and result.model.design.ordered:
        return _joined(data, None, _new_categories(result, data), backend)
    if data is not None:
        new = predict(result, data, interval=None)
        return _joined(data, None, {".fitted": new["mean"], ".se_fit": new["se"]}, backend)
    design = result.model.design
    if design.ordered or isinstance(result, GeneralizedFit):
        columns = _categories(result) if design.ordered else _generalized(cast("GeneralizedFit", result))
        return _joined(result.model.arguments["data"], design.rows, columns, backend)
    if result.model.family != "gaussian":
        raise NotSupportedError(
            "augment of the rows used is for Gaussian models and for point fits; bl.predict and .fitted have the means"
        )
    given, residuals = _offset_and_weights(design), result.residuals.to_numpy()
    columns = {
        ".fitted": result.fitted.to_numpy(), ".resid": residuals,
        ".fixed": design.fixed.X @ result.beta + given[".offset"], ".mu": design.y - residuals, **given,
    }  # fmt: skip
    if isinstance(result, PointFit):
        weights = given[".weights"]
        hat = weights * predict(result, interval=None)["se"].to_numpy() ** 2 / result.sigma**2
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = weights * columns[".resid"] ** 2 / (len(result.beta) * result.sigma**2)
            columns |= {".hat": hat, ".cooksd": scaled * hat / (1.0 - hat) ** 2}
    return _joined(result.model.arguments["data"], design.rows, columns, backend)


def _generalized(fit: GeneralizedFit) -> dict[str, Array]:
    """What a generalized fit says of the rows used."""
    design, family, link = fit.model.design, family_of(fit.model.family), LINKS[fit.model.link]
    given, trials = _offset_and_weights(design), 1.0 if design.trials is None else design.trials
    eta, without = fit.linear_predictor.to_numpy(), means(link, design.fixed.X @ fit.beta + given[".offset"])
    return {
        ".fitted": fit.fitted.to_numpy(),
        ".resid": fit.residuals.to_numpy(),
        ".fixed": family.moments(without, fit.dispersions_at(), trials, fit.second)[0],
        ".mu": means(link, eta),
        ".eta": eta,
        ".pearson": fit.pearson_residuals.to_numpy(),
        **given,
    }


def _offset_and_weights(design: Design) -> dict[str, Array]:
    """Columns ``.offset`` and ``.weights``, 0 and 1 where the model has none."""
    offset = np.zeros(design.nobs) if design.offset is None else np.asarray(design.offset)
    return {
        ".offset": offset,
        ".weights": np.ones(design.nobs) if design.weights is None else np.asarray(design.weights),
    }


def _categories(result: PointFit | Posterior) -> dict[str, Any]:
    """What a fit, or a posterior on average, says of rows of ordered categories."""
    design, given = result.model.design, _offset_and_weights(result.model.design)
    probabilities = predict(result, interval=None, kind="probabilities")["mean"]
    return {
        **_probabilities(".prob", probabilities),
        ".class": _most_probable(probabilities),
        ".fitted": probabilities.to_numpy()[np.arange(design.nobs), design.y.astype(np.intp)],
        ".resid": quantile_residuals(result, method="exact").normal,
        ".eta": predict(result, interval=None, kind="link")["mean"],
        ".fixed": design.fixed.X @ result.beta + given[".offset"],
        **given,
    }


def _new_categories(result: PointFit | Posterior, data: Any) -> dict[str, Any]:
    """Probabilities of the categories of new rows, their standard errors, and the most probable category."""
    new = predict(result, data, interval=None, kind="probabilities")
    return {
        **_probabilities(".prob", new["mean"]),
        **_probabilities(".se", new["se"]),
        ".class": _most_probable(new["mean"]),
    }


def _probabilities(name: str, values: pd.DataFrame) -> dict[str, Any]:
    return {f"{name}[{level}]": values[level].to_numpy() for level in values}


def _most_probable(probabilities: pd.DataFrame) -> NDArray[np.str_]:
    return np.asarray(probabilities.columns, str)[probabilities.to_numpy().argmax(axis=1)]


def _joined(data: Any, rows: Any, columns: dict[str, Any], backend: Backend | None) -> Any:
    """The table's rows in use with further columns, of numbers or of names."""
    plain = {name: _plain(np.asarray(values)) for name, values in columns.items()}
    table = nw.from_native(_frame(data), eager_only=True)
    if rows is not None:
        table = table[np.asarray(rows).tolist()]
    series = [nw.new_series(name, values, backend=table.implementation) for name, values in plain.items()]
    if table.implementation.is_pandas_like():  # pandas aligns by index, which the data keep
        native = table.to_native().assign(**plain)
        return native if backend in (None, "pandas") else converted(native, backend)
    joined = table.with_columns(*series)
    own = {"polars": joined.implementation.is_polars(), "pyarrow": joined.implementation.is_pyarrow()}
    if backend is None or own.get(backend, False):
        return joined.to_native()
    return joined.to_pandas() if backend == "pandas" else converted(joined.to_pandas(), backend)


def _plain(values: NDArray[Any]) -> Any:
    return values.tolist() if values.dtype.kind == "U" else np.asarray(values, float)


def _frame(data: Any) -> Any:
    return pd.DataFrame(frame_of(data, names_of(data))) if isinstance(data, dict) else data
