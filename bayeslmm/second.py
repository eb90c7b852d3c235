"""What a fit with a second parameter of each row answers: thresholds of ordered categories, ν of a t response."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import block_diag

from bayeslmm.errors import MethodError
from bayeslmm.result import PointFit
from bayeslmm.thresholds import increasing, probabilities, slopes

Array = NDArray[np.float64]


class SecondParameters(PointFit):
    """A point fit whose `further` parameters hold thresholds, or log ν."""

    further: Array
    parameter_root: Array
    linear_predictor: pd.Series

    @property
    def thresholds(self) -> pd.DataFrame:
        """Thresholds between ordered categories, estimate and se (delta method); empty in other families."""
        columns = {"estimate": self.tau, "se": np.sqrt(np.diag(self.location_covariance)[len(self.beta) :])}
        return pd.DataFrame(columns, index=pd.Index(self.model.design.thresholds, dtype=object))

    @property
    def second_estimates(self) -> pd.DataFrame:
        """ν, or the thresholds, by their public names, estimate and se (delta method); empty in other families."""
        names = pd.Index(self.model.design.second_names, dtype=object)
        if "nu" not in self.model.design.further:
            return self.thresholds.set_axis(names)
        error = float(np.linalg.norm(self.parameter_root[:, -1]))
        return pd.DataFrame({"estimate": [self.nu], "se": [self.nu * error if error > 0 else np.nan]}, index=names)

    @property
    def tau(self) -> Array:
        """Thresholds (K − 1,) between ordered categories."""
        return increasing(self.further) if self.model.design.ordered else np.empty(0)

    @cached_property
    def location_covariance(self) -> Array:
        """Covariance of (β, τ), the thresholds by the delta method; of β alone in other families."""
        m, p = self.model.n_theta, len(self.beta)
        if not self.model.design.ordered:
            return self.beta_covariance
        J = block_diag(np.eye(p), slopes(self.further))
        root = self.parameter_root[:, m:] @ J.T
        return np.asarray(root.T @ root)

    @property
    def nu(self) -> float:
        """Degrees of freedom of a t response, NaN in other families."""
        return float(np.exp(self.further[-1])) if "nu" in self.model.design.further else float("nan")

    @cached_property
    def probabilities(self) -> pd.DataFrame:
        """Probabilities of the ordered categories given the effects, rows by categories."""
        design = self.model.design
        if not design.ordered:
            raise MethodError(f"probabilities of categories are of the cumulative family; this is {self.model.family}")
        values = probabilities(self.model.link, np.asarray(self.linear_predictor), self.tau)
        return pd.DataFrame(values, index=design.rows, columns=pd.Index(design.response_levels, dtype=object))

    def require_mean(self) -> None:
        """Raise for ordered categories, which have no mean."""
        if self.model.design.ordered:
            raise MethodError(
                "a category has no mean, and no residual from it; fit.probabilities has the categories' probabilities, "
                "bl.quantile_residuals(fit) residuals"
            )

    @abstractmethod
    def dispersions_at(self, data: Any = None) -> Array:
        """Dispersion of each row."""
