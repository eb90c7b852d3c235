"""Residuals and effects of a generalized fit on scales that compare, for the checks of its assumptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from bayeslmm.assumptions import Standardised, level_codes, scaled_effects
from bayeslmm.cumulative import COUNTS, randomised
from bayeslmm.deletion import RowInverse
from bayeslmm.errors import BayesLMMError
from bayeslmm.exact.ordinal import log_probabilities
from bayeslmm.family import LINKS, family_of
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.influence import cooks_distance
from bayeslmm.linearised import linearised
from bayeslmm.thresholds import bounds

Array = NDArray[np.float64]
# Seed of the uniform numbers that randomise discrete residuals: the same for the data and every refit.
UNIFORM = 20260
# Nearest to 0 and 1 that a probability is taken for, so that its normal quantile is finite.
SMALLEST = 1e-12


class OrderedResponses(NamedTuple):
    """Ordered categories against their probabilities given the effects: 1[y ≤ k] − P(y ≤ k) (n, K − 1), −log P(y) (n,)."""

    excess: Array
    rarity: Array


@dataclass(frozen=True, eq=False)
class GeneralizedStandardised(Standardised):
    """Quantile residuals, Pearson residuals and effects of a generalized fit.

    ``residual`` are normal quantiles of the randomised probability transforms given the conditional modes. Leverage and
    Cook's distances are those of the tangent linear model (`linearised`), NaN where there is none. ``fitted`` of ordered
    categories is the linear predictor.

    Parameters
    ----------
    scaled : ndarray (n,)
        Pearson residuals: over the standard deviations of the responses given the effects. Of t responses and ordered
        categories, which may have none, the quantile residuals.
    linear : ndarray (n,)
        The linear predictor.
    zeros : float
        Zeros over the number expected given the effects; NaN where zeros have no meaning.
    ordered : OrderedResponses or None
    """

    scaled: Array
    linear: Array
    zeros: float
    ordered: OrderedResponses | None


def standardise_generalized(fit: GeneralizedFit) -> GeneralizedStandardised:
    """Residuals and effects of a generalized fit on scales that compare."""
    design, model = fit.model.design, fit.model
    n, given = design.nobs, fit.given_effects
    uniform = np.random.default_rng(UNIFORM).uniform(size=n)
    p = randomised(model.family, design.y, given, uniform)
    residual, linear = ndtri(np.clip(p, SMALLEST, 1.0 - SMALLEST)), fit.linear_predictor.to_numpy()
    expected = float(np.sum(given.pmf(0))) if model.family in COUNTS else 0.0
    scaled = {
        group: scaled_effects(
            fit.group_ranef[group], sd[:, None] * np.nan_to_num(fit.group_corr[group]) * sd - fit.ranef_cov[group]
        )
        for group, sd in fit.group_sd.items()
        if sd.any()
    }
    scaled |= {
        group: (np.full_like(fit.group_ranef[group], np.nan), np.full(len(fit.group_ranef[group]), np.nan))
        for group in model.groups
        if group not in scaled
    }
    leverage, cooks_rows, cooks_levels = _influence(fit)
    return GeneralizedStandardised(
        fitted=linear if design.ordered else fit.fitted.to_numpy(),
        residual=residual,
        leverage=leverage,
        cooks_rows=cooks_rows,
        cooks_levels=cooks_levels,
        effects={group: scaled[group][0] for group in model.groups},
        distance={group: scaled[group][1] for group in model.groups},
        scaled=residual if family_of(model.family).second else fit.pearson_residuals.to_numpy(),
        linear=linear,
        zeros=float(np.sum(design.y == 0)) / expected if expected > 0 else float("nan"),
        ordered=_ordered(fit) if design.ordered else None,
    )


def _ordered(fit: GeneralizedFit) -> OrderedResponses:
    y, below = fit.model.design.y, np.cumsum(fit.probabilities.to_numpy(), axis=1)[:, :-1]
    excess = (y[:, None] <= np.arange(below.shape[1])) - below
    own = log_probabilities(LINKS[fit.model.link], fit.linear_predictor.to_numpy(), *bounds(y, fit.tau))
    return OrderedResponses(excess, -own)


def _influence(fit: GeneralizedFit) -> tuple[Array, Array, dict[str, Array]]:
    """Leverages of the rows, and Cook's distances of rows and levels, by one step."""
    model, codes = fit.model, level_codes(fit.model)
    sizes = {group: len(model.levels(group)) for group in model.groups}
    try:
        rows = RowInverse(linearised(fit).working)
    except (BayesLMMError, np.linalg.LinAlgError):  # the likelihood is not concave in some row
        none = np.full(model.design.nobs, np.nan)
        return none, none, {group: np.full(size, np.nan) for group, size in sizes.items()}
    levels = {group: cooks_distance(rows.by_level(codes[group], size)) for group, size in sizes.items()}
    return rows.leverage, cooks_distance(rows.by_row()), levels
