"""Fits whose likelihoods mean the same: fitted in one way, generalized ones by one approximation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslmm.errors import MethodError
from bayeslmm.family import HETEROSCEDASTIC
from bayeslmm.fit import fit as fit_model
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.model import Model
from bayeslmm.result import PointFit


def check_same_approximation(fits: Sequence[PointFit]) -> None:
    """Raise unless likelihoods are approximated in one way; those of Gaussian models and without effects are exact.

    Parameters
    ----------
    fits : sequence of PointFit

    Raises
    ------
    MethodError
        The methods or their options differ, or a Gaussian model stands beside one of another family.
    """
    approximate = [fit for fit in fits if isinstance(fit, GeneralizedFit) and fit.model.family != HETEROSCEDASTIC]
    if 0 < len(approximate) < len(fits):
        raise MethodError("a Gaussian model and one of another family are not compared by likelihood ratios")
    kinds = {_kind(fit) for fit in approximate if fit.model.groups}
    if len(kinds) > 1:
        raise MethodError(
            f"the likelihoods are approximated in different ways ({'; '.join(sorted(kinds))}) and differ for that alone. Fit all "
            "models with one method, the same information=, nodes= and fast="
        )


def _kind(fit: GeneralizedFit) -> str:
    return ", ".join([fit.method, *(f"{name}={value!r}" for name, value in fit.options.items())])


def fit_alike(
    fit: PointFit, model: Model, fixed: Mapping[str, float], start: NDArray[np.float64] | None = None
) -> PointFit:
    """Fit another model in the way of a fit.

    Parameters
    ----------
    fit : PointFit
    model : Model
    fixed : mapping
        What is held.
    start : ndarray, optional
        Theta to start from.

    Returns
    -------
    PointFit
    """
    options = fit.options if isinstance(fit, GeneralizedFit) else {}
    method = "Laplace" if "nodes" in options and not model.groups else fit.method  # nothing to integrate over
    options = {name: value for name, value in options.items() if name != "nodes" or model.groups}
    return fit_model(model, method, start=start, fixed=fixed or None, **options)  # type: ignore[arg-type]
