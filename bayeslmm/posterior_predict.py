"""Predictions of a posterior: rows at every draw, and the effects of new levels drawn or averaged over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.averaging import NODES, averaged
from bayeslmm.covariance import psd_factor
from bayeslmm.exact.densities import means
from bayeslmm.exact.zeros import HURDLE
from bayeslmm.family import LINKS, family_of
from bayeslmm.posterior_rows import further_draws, means_with_zeros

if TYPE_CHECKING:
    from bayeslmm.posterior import Posterior
    from bayeslmm.predict import Rows

Array = NDArray[np.float64]
# Numbers held at a time: rows × draws.
MOST_AT_ONCE = 4_000_000


def covariance_factors(posterior: Posterior, group: str, which: Any = slice(None)) -> Array:
    """Lower factor (draws, k, k) of the covariance of one level's effects, in the draws `which`."""
    sd = posterior.draws(f"sd_{group}")[which]
    pairs = posterior.model.pairs(group)
    if not pairs:
        return np.asarray(sd[:, :, None] * np.eye(sd.shape[1]))
    corr = np.tile(np.eye(sd.shape[1]), (len(sd), 1, 1))
    first, second = np.array(pairs).T
    corr[:, first, second] = corr[:, second, first] = posterior.draws(f"corr_{group}")[which]
    return sd[:, :, None] * np.stack([psd_factor(matrix) for matrix in corr])


def over_draws(
    posterior: Posterior, rows: Rows, tail: float | None, kind: str, rng: np.random.Generator, data: Any
) -> pd.DataFrame:
    """Predictions of rows from a posterior: means, standard deviations and, with a tail, quantiles over its draws."""
    if kind in ("zero", "dispersion"):
        columns = posterior.model.design.further_columns(kind, data)
        a = further_draws(posterior, kind, slice(None), columns).T
        values = np.broadcast_to(
            np.exp(a) if kind == "dispersion" else 1.0 / (1.0 + np.exp(-a)), (len(rows.X), a.shape[1])
        )
        return pd.DataFrame(described(values, tail), index=rows.index, columns=_columns(tail))
    draws = Draws(posterior, rows, kind, entropy=int(rng.integers(2**62)), data=data)
    step = max(1, MOST_AT_ONCE // (draws.count * draws.nodes))
    parts = [draws.describe(slice(at, at + step), tail, rng) for at in range(0, len(rows.X), step)]
    return pd.DataFrame(np.concatenate(parts), index=rows.index, columns=_columns(tail))


def _columns(tail: float | None) -> list[str]:
    return ["mean", "se"] if tail is None else ["mean", "se", "lower", "upper"]


def described(values: Array, tail: float | None) -> Array:
    """Mean, standard deviation and quantiles (rows, 2 or 4) of draws (rows, draws)."""
    columns = [values.mean(axis=1), values.std(axis=1, ddof=1)]
    columns += [] if tail is None else list(np.quantile(values, [tail, 1.0 - tail], axis=1))
    return np.column_stack(columns)


class Draws:
    """The draws of a posterior that rows need, turned into predictions a slice of rows at a time."""

    def __init__(self, posterior: Posterior, rows: Rows, kind: str, entropy: int, data: Any) -> None:
        model = posterior.model
        self.posterior = posterior
        self.further = {name: model.design.further_columns(name, data) for name in model.design.further}
        self.rows, self.entropy, self.count = rows, entropy, posterior.n_draws
        self.response = kind == "response"
        self.conditional = kind == "conditional"
        linear = family_of(model.family).plain == "gaussian"
        self.link = model.link if kind in ("mean", "conditional") and not linear else None
        self.beta = posterior.draws("fixef") if rows.X.shape[1] else np.empty((self.count, 0))
        known = [name for name, group in rows.groups.items() if (group.codes >= 0).any()]
        new = [name for name, group in rows.groups.items() if (group.codes < 0).any()]
        self.ranef = {name: posterior.draws(f"ranef_{name}") for name in known}
        self.factors = {name: covariance_factors(posterior, name) for name in new}
        self.nodes = NODES if self.link is not None and new else 1

    def predictor(self, part: slice) -> tuple[Array, Array]:
        """η (rows, draws) less the effects that are not known, and the variance of those."""
        values = self.rows.offset[part, None] + self.rows.X[part] @ self.beta.T
        variance = np.zeros_like(values)
        for name, effects in self.ranef.items():
            values += self._known(name, effects, part)
        for name, factor in self.factors.items():
            variance += self._new_variance(name, factor, part)
        return values, variance

    def describe(self, part: slice, tail: float | None, rng: np.random.Generator) -> Array:
        """Mean, standard deviation and quantiles (rows, 2 or 4); what is not known enters the first two exactly."""
        values, variance = self.predictor(part)
        if self.link is not None:
            return self._means(values, variance, part, tail)
        residual = None
        if self.response:
            log_sigma = further_draws(self.posterior, "dispersion", slice(None), self._own(part).get("dispersion")).T
            residual = np.exp(2.0 * log_sigma) / (1.0 if self.rows.weights is None else self.rows.weights[part, None])
            variance += residual
        columns = [values.mean(axis=1), np.sqrt(values.var(axis=1, ddof=1) + variance.mean(axis=1))]
        if tail is not None:
            for name, factor in self.factors.items():
                self._add_new(name, factor, part, values)
            if residual is not None:
                values += rng.standard_normal(values.shape) * np.sqrt(residual)
            columns += list(np.quantile(values, [tail, 1.0 - tail], axis=1))
        return np.column_stack(columns)

    def _means(self, eta: Array, variance: Array, part: slice, tail: float | None) -> Array:
        """The same for means of another family, averaged in each draw over the effects that are not known."""
        mu = self._given(eta, part) if not self.factors else self._averaged(eta, variance, part)
        return described(mu, tail)

    def _given(self, eta: Array, part: slice) -> Array:
        """Means given the linear predictors (rows, draws)."""
        mu = means(LINKS[str(self.link)], eta.ravel()).reshape(eta.shape)
        return self._with_zeros(mu, part)

    def _averaged(self, eta: Array, variance: Array, part: slice) -> Array:
        """Means over linear predictors N(eta, variance); a hurdle's is no multiple of the plain family's."""
        if family_of(self.posterior.model.family).zeros == HURDLE:
            x, w = np.polynomial.hermite.hermgauss(NODES)
            spread = np.sqrt(2.0 * variance)
            return np.asarray(sum(w[k] * self._given(eta + x[k] * spread, part) for k in range(NODES)) / np.sqrt(np.pi))
        mu = averaged(str(self.link), eta.ravel(), variance.ravel()).mean.reshape(eta.shape)
        return self._with_zeros(mu, part)

    def _with_zeros(self, mu: Array, part: slice) -> Array:
        own = self._own(part)
        a, zeta = (further_draws(self.posterior, name, slice(None), own.get(name)).T for name in ("dispersion", "zero"))
        return means_with_zeros(self.posterior.model, mu, a, np.full((1, 1), -np.inf) if self.conditional else zeta)

    def _own(self, part: slice) -> dict[str, Array]:
        """Columns of some rows in the formulas for dispersion and zeros."""
        return {name: columns[part] for name, columns in self.further.items()}

    def _known(self, name: str, effects: Array, part: slice) -> Array:
        group = self.rows.groups[name]
        codes = group.codes[part]
        values = sum(group.columns[part, i, None] * effects[:, codes, i].T for i in range(effects.shape[2]))
        return np.where(codes[:, None] >= 0, values, 0.0)

    def _new_variance(self, name: str, factor: Array, part: slice) -> Array:
        group = self.rows.groups[name]
        spread = sum((group.columns[part] @ factor[:, :, j].T) ** 2 for j in range(factor.shape[2]))
        return np.where(group.codes[part, None] < 0, spread, 0.0)

    def _add_new(self, name: str, factor: Array, part: slice, values: Array) -> None:
        """Add effects drawn from each draw's covariance, the same for every row with the same new level."""
        group = self.rows.groups[name]
        new = np.flatnonzero(group.codes[part] < 0)
        for label in np.unique(group.labels[part][new]):
            mine = new[group.labels[part][new] == label]
            key = np.random.SeedSequence(self.entropy, spawn_key=(*name.encode(), 0, *str(label).encode()))
            noise = np.random.default_rng(key).standard_normal(factor.shape[:2])
            values[mine] += group.columns[part][mine] @ np.einsum("dkj,dj->kd", factor, noise)
