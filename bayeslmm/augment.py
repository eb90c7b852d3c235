"""Any result → one row per observation: the data with what the fit says of each row; pandas, Polars or PyArrow."""

from __future__ import annotations

from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.columns import frame_of, names_of
from bayeslmm.errors import NotSupportedError
from bayeslmm.exact.densities import means
from bayeslmm.family import LINKS, family_of
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.posterior import Posterior
from bayeslmm.predict import predict
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

    Raises
    ------
    UnseenLevelError, DataError
        New rows that cannot be predicted.
    NotSupportedError
        The rows used, of a posterior of another family than the Gaussian.

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
    if data is not None:
        new = predict(result, data, interval=None)
        return _joined(data, None, {".fitted": new["mean"], ".se_fit": new["se"]}, backend)
    design = result.model.design
    if isinstance(result, GeneralizedFit):
        return _joined(result.model.arguments["data"], design.rows, _generalized(result), backend)
    if result.model.family != "gaussian":
        raise NotSupportedError(
            "augment of the rows used is for Gaussian models and for point fits; bl.predict and .fitted have the means"
        )
    fitted = result.fitted.to_numpy()
    offset = np.zeros(design.nobs) if design.offset is None else np.asarray(design.offset)
    weights = np.ones(design.nobs) if design.weights is None else np.asarray(design.weights)
    columns: dict[str, Any] = {
        ".fitted": fitted, ".resid": result.residuals.to_numpy(), ".fixed": design.fixed.X @ result.beta + offset,
        ".mu": design.y - result.residuals.to_numpy(), ".offset": offset, ".weights": weights,
    }  # fmt: skip
    if isinstance(result, PointFit):
        hat = weights * predict(result, interval=None)["se"].to_numpy() ** 2 / result.sigma**2
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = weights * columns[".resid"] ** 2 / (len(result.beta) * result.sigma**2)
            columns |= {".hat": hat, ".cooksd": scaled * hat / (1.0 - hat) ** 2}
    return _joined(result.model.arguments["data"], design.rows, columns, backend)


def _generalized(fit: GeneralizedFit) -> dict[str, Array]:
    """What a generalized fit says of the rows used."""
    design, family, link = fit.model.design, family_of(fit.model.family), LINKS[fit.model.link]
    offset = np.zeros(design.nobs) if design.offset is None else np.asarray(design.offset)
    trials = 1.0 if design.trials is None else design.trials
    eta, without = fit.linear_predictor.to_numpy(), means(link, design.fixed.X @ fit.beta + offset)
    return {
        ".fitted": fit.fitted.to_numpy(),
        ".resid": fit.residuals.to_numpy(),
        ".fixed": family.moments(without, fit.dispersions_at(), trials, fit.zero_probability_at())[0],
        ".mu": means(link, eta),
        ".eta": eta,
        ".pearson": fit.pearson_residuals.to_numpy(),
        ".offset": offset,
        ".weights": np.ones(design.nobs) if design.weights is None else np.asarray(design.weights),
    }


def _joined(data: Any, rows: Any, columns: dict[str, Any], backend: Backend | None) -> Any:
    """The table's rows in use with further columns."""
    table = nw.from_native(_frame(data), eager_only=True)
    if rows is not None:
        table = table[np.asarray(rows).tolist()]
    series = [
        nw.new_series(name, np.asarray(values, float), backend=table.implementation) for name, values in columns.items()
    ]
    if table.implementation.is_pandas_like():  # pandas aligns by index, which the data keep
        native = table.to_native().assign(**{name: np.asarray(values, float) for name, values in columns.items()})
        return native if backend in (None, "pandas") else converted(native, backend)
    joined = table.with_columns(*series)
    own = {"polars": joined.implementation.is_polars(), "pyarrow": joined.implementation.is_pyarrow()}
    if backend is None or own.get(backend, False):
        return joined.to_native()
    return joined.to_pandas() if backend == "pandas" else converted(joined.to_pandas(), backend)


def _frame(data: Any) -> Any:
    return pd.DataFrame(frame_of(data, names_of(data))) if isinstance(data, dict) else data
