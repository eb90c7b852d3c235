"""Randomised quantile residuals by simulation, and tests of uniformity, dispersion, zeros and outliers with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from bayeslmm import pivotal
from bayeslmm.cumulative import COUNTS, randomised
from bayeslmm.errors import MethodError
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.leftout import densities, smoothed
from bayeslmm.pivotal import Transforms, transforms
from bayeslmm.posterior import Posterior
from bayeslmm.predict import predict
from bayeslmm.simulate import numbers_of, simulate
from bayeslmm.table import Page, frame_table

Array = NDArray[np.float64]
FEWEST = 20


class SimulationTest(NamedTuple):
    """A statistic of the responses, its two-sided or upper p-value among simulations, and what it says."""

    statistic: float
    p: float
    sentence: str


@dataclass(frozen=True, eq=False, repr=False)
class QuantileResiduals:
    """Randomised quantile residuals of a fit or a posterior: uniform on (0, 1) if the model is true.

    Parameters
    ----------
    fit : GeneralizedFit or Posterior
    values : Series
        The residuals, by row.
    groups : str
        Whether random effects were drawn anew in each simulation, or are those of the fit.
    method : str
        "simulation", "exact" or "loo".
    responses : ndarray (n, nsim + 1)
        The responses, in the first column, and the simulated ones; nothing but for "simulation".
    seed : int
    transforms : Transforms or None
        The same residuals at single draws, of a posterior, "exact".
    remarks : tuple of str
        What cannot be trusted.
    """

    fit: GeneralizedFit | Posterior
    values: pd.Series
    groups: str
    method: str
    responses: Array
    seed: int
    transforms: Transforms | None = None
    remarks: tuple[str, ...] = ()

    @property
    def normal(self) -> pd.Series:
        """The residuals as normal quantiles."""
        return pd.Series(ndtri(self.values.to_numpy()), index=self.values.index, name="normal_quantile_residuals")

    @property
    def nsim(self) -> int:
        """Number of simulations."""
        return self.responses.shape[1] - 1

    @cached_property
    def _transforms(self) -> Array:
        """The same residuals of every column of `responses` among all of them."""
        return _among_all(self.responses, np.random.default_rng([self.seed, 1]), self.values.to_numpy())

    @property
    def along(self) -> Array:
        """Fitted means (of ordered categories η), or with effects drawn anew Xβ, to rank the residuals by."""
        design = self.fit.model.design
        if self.groups == "new":
            return np.asarray(design.fixed.X @ self.fit.beta + (0.0 if design.offset is None else design.offset))
        if design.ordered:
            return predict(self.fit, kind="link", interval=None)["mean"].to_numpy()
        return self.fit.fitted.to_numpy()

    def uniformity(self) -> SimulationTest:
        """Kolmogorov and Smirnov's distance of the residuals from uniform."""
        said = "The largest distance of the residuals' distribution from uniform is {:.3g}"
        if self.transforms is not None:
            return self._over_draws(pivotal.uniformity(self.transforms.at_draws), said)
        n = len(self.values)
        steps = np.sort(self._simulated()._transforms, axis=0)
        grid = np.arange(n)[:, None]
        distance = np.maximum(((grid + 1) / n - steps).max(axis=0), (steps - grid / n).max(axis=0))
        return self._judged(distance, "upper", said)

    def dispersion(self) -> SimulationTest:
        """Variance of the responses about their simulated means, over that of simulated responses.

        Of a posterior, "exact": the mean square of the residuals as normal quantiles. Ordered categories, which have no
        variance, have only that.
        """
        if self.transforms is not None:
            said = "The mean square of the residuals as normal quantiles is {:.3g}"
            return self._over_draws(pivotal.dispersion(self.transforms.at_draws), said)
        y = self._simulated().responses
        if self.fit.model.design.ordered:
            raise MethodError("ordered categories have no variance, and no dispersion that the family could miss")
        spread = np.var(y - y.mean(axis=1, keepdims=True), axis=0)
        ratio = spread / spread[1:].mean()
        return self._judged(ratio, "two-sided", "The responses vary {:.3g} times as much as simulated ones")

    def zero_inflation(self) -> SimulationTest:
        """Number of zeros over that in simulated responses."""
        if self.fit.model.family not in COUNTS:
            raise MethodError(f"zeros are counted in counts; the family is {self.fit.model.family}")
        if self.transforms is not None:
            observed, own = int(np.sum(self.fit.model.design.y == 0)), self.transforms
            found = pivotal.zero_inflation(observed, own.expected, own.zeros)
            return self._over_draws(found, "There are {:.3g} times as many zeros as expected")
        zeros = (self._simulated().responses == 0).sum(axis=0)
        mean = zeros[1:].mean()
        ratio = zeros / mean if mean > 0 else zeros.astype(float)
        return self._judged(ratio, "two-sided", "There are {:.3g} times as many zeros as in simulated responses")

    def outliers(self) -> SimulationTest:
        """Share of responses below or above all simulated ones."""
        y = self._simulated().responses
        least, most = np.sort(y, axis=1)[:, [0, 1]], np.sort(y, axis=1)[:, [-2, -1]]
        alone = (y == least[:, :1]) & (least[:, :1] < least[:, 1:]) | (y == most[:, 1:]) & (most[:, :1] < most[:, 1:])
        return self._judged(alone.mean(axis=0), "two-sided", "A share of {:.3g} lies outside all simulated responses")

    @property
    def tests(self) -> pd.DataFrame:
        """All tests that the family has: statistic, p."""
        found: dict[str, Callable[[], SimulationTest]] = {"uniformity": self.uniformity}
        if self.transforms is not None or not self.fit.model.design.ordered:
            found["dispersion"] = self.dispersion
        if self.fit.model.family in COUNTS:
            found["zero inflation"] = self.zero_inflation
        if self.transforms is None:
            found["outliers"] = self.outliers
        rows = {name: test()[:2] for name, test in found.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["statistic", "p"])

    @property
    def notes(self) -> tuple[str, ...]:
        """What the p-values hold."""
        kind = "posterior" if isinstance(self.fit, Posterior) else "fit"
        if self.transforms is not None:
            return (
                f"Given the effects. p-values are means over {self.transforms.at_draws.shape[1]} draws, each of which has "
                "the residuals of the true model if the model is true: below α at most 2α of the time, most often less.",
                *self.remarks,
            )
        if self.method != "simulation":
            return self.remarks
        drawn = "drawn anew" if self.groups == "new" else f"those of the {kind}"
        held = "the estimates for true" if kind == "fit" else "draws that have seen the data for true"
        advice = (
            " bl.diagnose refits each simulation." if kind == "fit" else ' With effects given, method="exact" does not.'
        )
        return (
            f"{self.nsim} simulations of the {kind}, random effects {drawn}. p-values rank the data among the simulations, "
            f"so they allow for the dependence within groups; they take {held}, which makes them too large rather than too "
            f"small.{advice}",
        )

    def _simulated(self) -> QuantileResiduals:
        if self.method != "simulation":
            raise MethodError('the tests rank the data among simulations; use method="simulation"')
        return self

    def _over_draws(self, found: pivotal.Judged, said: str) -> SimulationTest:
        sentence = f"{said.format(found.statistic)} on average over the draws; p = {found.p:.3f}."
        return SimulationTest(found.statistic, found.p, sentence)

    def _judged(self, statistics: Array, tail: str, said: str) -> SimulationTest:
        above = float(np.mean(statistics >= statistics[0] - 1e-12))
        below = float(np.mean(statistics <= statistics[0] + 1e-12))
        p = above if tail == "upper" else min(1.0, 2.0 * min(above, below))
        return SimulationTest(
            float(statistics[0]), p, f"{said.format(statistics[0])}; p = {p:.3f} among {self.nsim} simulations."
        )

    def plot(self) -> Any:
        """Residuals against uniform quantiles, and against the ranks of the fitted means."""
        from bayeslmm.plot.generalized import quantile_residuals as draw

        return draw(self)

    def page(self) -> Page:
        """The tests, to print or to show in a notebook."""
        name = f"Quantile residuals of {self.fit.model.formula.text}"
        if self.method == "loo" or (self.method == "exact" and self.transforms is None):
            how = "by the distribution function, effects those of the fit"
            how = "of each row given the others, effects known from their other rows" if self.method == "loo" else how
            return Page(name, (f"{len(self.values)} residuals {how}",), (), self.notes)
        return Page(name, (), ((frame_table("", self.tests), ""),), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"QuantileResiduals({self.fit.model.formula.text!r}, {len(self.values)} rows, {self.method})"

    def _repr_html_(self) -> str:
        return self.page().html


def quantile_residuals(
    fit: Any,
    nsim: int = 250,
    *,
    seed: int = 0,
    groups: Literal["new", "conditional"] = "new",
    method: Literal["simulation", "exact", "loo"] = "simulation",
) -> QuantileResiduals:
    """Randomised quantile residuals: where each response lies in the distribution that the model gives it.

    By simulation, with l of the `nsim` simulated responses of a row below its own and e equal to it,

        r = (l + u (e + 1)) / (nsim + 1),     u uniform

    which is uniform on (0, 1) if the model is true, for discrete responses too (Dunn & Smyth 1996, J. Comput. Graph.
    Stat. 5, 236–244). ``method="exact"`` takes F(y⁻) + u (F(y) − F(y⁻)) given the conditional modes instead.

    Of a posterior the simulations come from its draws, one from each. ``method="exact"`` averages F(y⁻) and F(y) given the
    effects over the draws, and its tests are of the same residuals at single draws, which are independent and uniform
    under the model although the draws have seen the data. ``method="loo"`` averages with the weights that leave the row
    out (`bl.loo`, conditional on the effects).

    Parameters
    ----------
    fit : GeneralizedFit or Posterior
        A posterior may be of a Gaussian model too.
    nsim : int
        Simulations (of a posterior, "exact": draws), at least 20.
    seed : int
    groups : {"new", "conditional"}
        Random effects drawn anew in each simulation, which judges the whole model; or those of the fit, which judges the
        responses given the effects.
    method : {"simulation", "exact", "loo"}
        "loo" for posteriors only.

    Returns
    -------
    QuantileResiduals
        ``.values``, ``.normal``, ``.tests``, ``.plot()``; prints the tests.

    Raises
    ------
    MethodError
        Neither a generalized fit nor a posterior, or an option that has no meaning.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [0, 2, 1, 4, 3, 5, 0, 1], "g": list("aabbccdd")}
    >>> fit = bl.fit(bl.Model("y ~ 1 + (1 | g)", data, family="poisson"))
    >>> found = bl.quantile_residuals(fit, 100, seed=1)
    >>> bool(((found.values > 0) & (found.values < 1)).all())
    True
    """
    _check(fit, nsim, seed, groups, method)
    model, rng = fit.model, np.random.default_rng([seed, 0])
    y, every = model.design.y, np.empty((0, 1))
    at_draws: Transforms | None = None
    remarks: tuple[str, ...] = ()
    if method == "simulation":
        drawn = numbers_of(simulate(fit, nsim, seed=rng, groups=groups))
        every = np.column_stack([y, drawn])
        less, equal = (drawn < y[:, None]).sum(axis=1), (drawn == y[:, None]).sum(axis=1)
        values = (less + rng.uniform(size=len(y)) * (equal + 1.0)) / (nsim + 1.0)
    elif isinstance(fit, Posterior):
        weights, remarks = _weights(fit) if method == "loo" else (None, ())
        found = transforms(fit, weights, nsim, rng)
        values, groups, at_draws = found.averaged, "conditional", found if method == "exact" else None
    else:
        values = randomised(model.family, y, fit.given_effects, rng.uniform(size=len(y)))
        groups = "conditional"
    named = pd.Series(values, index=model.design.rows, name="quantile_residuals")
    return QuantileResiduals(fit, named, groups, method, every, seed, at_draws, remarks)


def _weights(post: Posterior) -> tuple[Array, tuple[str, ...]]:
    """Weights (draws, n) that leave each row out, and for how many rows they do not serve."""
    found = smoothed(post, densities(post, None, "conditional"))
    high = int(np.sum(found.k > found.limit))
    said = (
        f"Pareto k is above {found.limit:.2f} for {high} of {len(found.k)} rows: their residuals lie too near to 1/2."
    )
    return np.exp(found.log_weights).reshape(post.n_draws, -1), (said,) if high else ()


def _check(fit: Any, nsim: Any, seed: Any, groups: str, method: str) -> None:
    if not isinstance(fit, GeneralizedFit | Posterior):
        raise MethodError(
            f"quantile residuals are of generalized fits and of posteriors; got {type(fit).__name__}. Of a Gaussian fit "
            "bl.diagnose has the standardised residuals"
        )
    if groups not in ("new", "conditional") or method not in ("simulation", "exact", "loo"):
        raise MethodError(
            f'groups={groups!r}, method={method!r}: groups is "new" or "conditional", method "simulation", "exact" or "loo"'
        )
    if method == "loo" and not isinstance(fit, Posterior):
        raise MethodError('method="loo" reweights the draws of a posterior; a point fit has none')
    for name, value, least in (("nsim", nsim, FEWEST), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise MethodError(f"{name}={value!r} must be a whole number, at least {least}")


def _among_all(responses: Array, rng: np.random.Generator, own: Array) -> Array:
    """Randomised ranks, over their number, of each row's responses among themselves; the first column as given."""
    least, most = rankdata(responses, "min", axis=1), rankdata(responses, "max", axis=1)
    found = (least - 1.0 + rng.uniform(size=responses.shape) * (most - least + 1.0)) / responses.shape[1]
    found[:, 0] = own
    return np.asarray(found)
