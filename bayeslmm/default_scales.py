"""Scales of default priors: Bambi's rules, from the response and the columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeslmm.distributions import Prior
from bayeslmm.errors import PriorError

SD_RULE = 2.5
SHARE_INTERCEPT = 1.5
"""Bambi's scale of the intercept for bernoulli and binomial responses with a logit or probit link."""
ROUNDING = 64 * float(np.finfo(float).eps)
"""A column whose sd is below this share of its mean is constant up to the rounding of its mean."""

Column = tuple[float, float, float | None]


def scaled(parameter: str, name: str, scale: float, **args: Any) -> Prior:
    """A prior of a scale that the data gave; raises where that is no positive number."""
    if not 0 < scale < math.inf:
        raise PriorError(
            f"{parameter} has no default prior: its scale would be {scale}. Is the response, or the column, constant "
            f"or beyond 1e308? Give the prior: priors={{{parameter!r}: Prior({name!r}, sigma=...)}}."
        )
    return Prior(name, sigma=scale, **args)


def _varies(mean: float, sd: float) -> bool:
    return sd > ROUNDING * abs(mean)


def wide_scale(rule: float, columns: Sequence[Column]) -> float:
    """Default scale of an intercept, given 2.5 sd(y) and (mean, sd, scale of another rule) of columns with a default."""
    shifts = [rule * (mean / sd) if scale is None else scale * mean for mean, sd, scale in columns if _varies(mean, sd)]
    return math.hypot(rule, *shifts)


@dataclass(frozen=True, slots=True)
class Scale:
    """The default priors, once the response and the columns are known."""

    response_mean: float
    response_sd: float
    wide: float
    has_intercept: bool
    intercept: float | None

    def coefficient(self, name: str, mean: float, sd: float, scale: float | None) -> Prior:
        """Of a coefficient whose column has this mean and sd; `scale` where another rule than 2.5 sd(y)/sd(x) holds."""
        if name == "fixef[Intercept]" and self.has_intercept:
            return scaled(name, "Normal", self.intercept or self.wide, mu=self.response_mean)
        if _varies(mean, sd) and scale is not None:
            return scaled(name, "Normal", scale, mu=0.0)
        if _varies(mean, sd):
            return scaled(name, "Normal", SD_RULE * self.response_sd / sd, mu=0.0)
        if mean == 0:
            raise PriorError(f"{name} has no default prior: its column is zero in every row.")
        return scaled(name, "Normal", self.wide / abs(mean), mu=self.response_mean / mean)

    def deviation(self, name: str, sd: float) -> Prior:
        """Of the standard deviation of an effect whose column has this sd."""
        return scaled(name, "HalfNormal", SD_RULE * self.response_sd / sd if sd > 0 else self.wide)
