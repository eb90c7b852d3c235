"""A model with proper priors → whether its posteriors are calibrated: simulation-based calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from bayeslmm.errors import BayesLMMError, MethodError
from bayeslmm.estimates import parameter_names, posterior_draws
from bayeslmm.model import Model
from bayeslmm.powerscale import collapsed_loglik
from bayeslmm.refits import Redrawn, Refits, bar, entropy_of, failure_notes
from bayeslmm.sample import Route, sample
from bayeslmm.simulate import numbers_of, simulate
from bayeslmm.table import Page, frame_table
from bayeslmm.truths import blocks, prior_draws

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Ranks = NDArray[np.int64]
Simulator = Callable[[Mapping[str, Array], np.random.Generator], Any]
LIKELIHOOD = "loglik"
# Draws of the posterior whose ranks are taken, at most.
KEPT = 99
# Samples of uniform ranks that give the distribution of the test statistic.
NULL_DRAWS = 10_000
LEVEL = 0.05
# Draws from the prior that give its variances.
PRIOR_DRAWS = 10_000
LEAST_EXPECTED = 5  # of a bin of the χ² test


class Null(NamedTuple):
    """What uniform ranks do: γ of many samples of them, and the cumulative probabilities of counts."""

    gammas: Array  # (NULL_DRAWS,) sorted
    table: Array  # (nsim + 1, kept): P(count ≤ row) at each rank

    def gamma(self, counts: NDArray[np.int64]) -> Array:
        """Twice the smallest tail probability of the counts (…, kept) of ranks ≤ k."""
        k = np.arange(self.table.shape[1])
        below = np.where(counts > 0, self.table[np.maximum(counts - 1, 0), k], 0.0)
        return np.asarray(2.0 * np.minimum(self.table[counts, k], 1.0 - below).min(axis=-1))


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Ranks of parameters drawn from the prior among draws of their posteriors.

    Parameters
    ----------
    model : Model
        Whose priors and design.
    ranks : DataFrame (nsim, m)
        By simulation and quantity, from 0 to `kept`; failed simulations are not in it.
    z : DataFrame (nsim, m)
        (posterior mean − truth) / posterior sd.
    shrinkage : DataFrame (nsim, m)
        Posterior variance / prior variance; NaN for the log-likelihood, which has no prior.
    ess : DataFrame (nsim, m)
        Bulk effective sample size of the draws before thinning.
    truth : DataFrame (nsim, m)
        The parameters drawn from the prior, and the log-likelihood there.
    kept : int
        Draws kept of each posterior.
    divergences : ndarray of int (nsim,)
        Divergent transitions of each.
    failures : tuple of (int, str)
        Simulations without a posterior, and why.
    seed : int
        With which the same ranks come again.
    uncorrected : int
        Posteriors of the Laplace route that were to be corrected and could not be.
    """

    model: Model
    ranks: pd.DataFrame
    z: pd.DataFrame
    shrinkage: pd.DataFrame
    ess: pd.DataFrame
    truth: pd.DataFrame
    kept: int
    divergences: NDArray[np.int64]
    failures: tuple[tuple[int, str], ...]
    seed: int
    uncorrected: int = 0

    @property
    def nsim(self) -> int:
        """Posteriors whose ranks were taken."""
        return len(self.ranks)

    @cached_property
    def null(self) -> Null:
        """The distribution of the test statistic under calibration, by simulation."""
        return _null(self.nsim, self.kept)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """By quantity: ``p`` (ECDF), ``p_holm``, ``p_chisq``, ``z_mean``, ``z_sd``, ``contraction``, ``ess``, ``verdict``.

        ``p`` is the probability under calibration of an ECDF that leaves a simultaneous band as far as this one;
        ``p_holm`` is adjusted for the number of quantities, and decides the verdict. ``p_chisq`` is of the rank
        histogram. Under calibration ``z_mean`` is near 0 and ``z_sd`` near 1 where posteriors are near normal.
        ``contraction`` is 1 − the median of posterior variance / prior variance; ``ess`` a median.
        """
        p = np.array([self._p(ranks) for ranks in self.ranks.to_numpy().T])
        holm = _holm(p)
        rows = {
            "p": p,
            "p_holm": holm,
            "p_chisq": [_chisq(ranks, self.kept) for ranks in self.ranks.to_numpy().T],
            "z_mean": self.z.mean(),
            "z_sd": self.z.std(),
            "contraction": 1.0 - self.shrinkage.median(),
            "ess": self.ess.median().round().astype(int),
            "verdict": [_verdict(r, self.kept, q) for r, q in zip(self.ranks.to_numpy().T, holm, strict=True)],
        }
        return pd.DataFrame(rows, index=pd.Index(self.ranks.columns, name="quantity"))

    @property
    def calibrated(self) -> bool:
        """Whether no quantity's ranks deviate from uniform ones at the 5 % level, all quantities taken together."""
        return bool((self.frame["p_holm"] >= LEVEL).all())

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        if self.calibrated:
            return f"No deviation from calibration is seen in {self.nsim} simulations ({len(self.ranks.columns)} quantities)."
        wrong = self.frame.loc[self.frame["p_holm"] < LEVEL, "verdict"]
        return "Not calibrated: " + "; ".join(f"{name}: {what}" for name, what in wrong.items()) + "."

    def band(self, level: float = 0.95) -> tuple[Array, Array]:
        """Ends (kept,) of the simultaneous band of the counts of ranks ≤ k, k = 0 … kept − 1."""
        if not 0 < level < 1:
            raise MethodError(f"level={level!r} must lie between 0 and 1")
        gamma = float(np.quantile(self.null.gammas, 1.0 - level))
        at = _positions(self.kept)
        return stats.binom.ppf(0.5 * gamma, self.nsim, at), stats.binom.ppf(1.0 - 0.5 * gamma, self.nsim, at)

    def plot(self) -> Figure:
        """ECDF of the ranks minus that of uniform ones, a panel for each quantity, with the 95 % simultaneous band."""
        from bayeslmm.plot.planning import calibration

        return calibration(self)

    @property
    def notes(self) -> tuple[str, ...]:
        """The verdict; what went wrong while sampling; autocorrelation that thinning left."""
        notes = [self.verdict, *failure_notes(self.failures, self.nsim + len(self.failures))]
        divergent = int((self.divergences > 0).sum())
        notes += [f"{divergent} of {self.nsim} posteriors had divergent transitions."] if divergent else []
        if self.uncorrected:
            notes.append(
                f"{self.uncorrected} of {self.nsim} posteriors stayed Laplace's approximation: Pareto k is too high."
            )
        slow = self.ess.columns[self.ess.median() < self.kept]
        if len(slow):
            notes.append(
                f"The effective sample size of {', '.join(slow)} is below the {self.kept} draws kept: correlated draws give "
                "∪-shaped ranks by themselves. Increase draws"
            )
        return tuple(notes)

    def _p(self, ranks: Ranks) -> float:
        observed = float(self.null.gamma(_counts(ranks[None, :], self.kept))[0])
        exceeding = int(np.searchsorted(self.null.gammas, observed * (1.0 + 1e-12), side="right"))
        return (exceeding + 1.0) / (len(self.null.gammas) + 1.0)

    def page(self) -> Page:
        """The table and the verdict, to print or to show in a notebook."""
        heading = f"Simulation-based calibration ({self.nsim} simulations, {self.kept} draws of each posterior)"
        table = frame_table("", self.frame, 3), "p: ECDF of the ranks; p_holm: for all quantities together"
        return Page(heading, (self.model.formula.text,), (table,), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Calibration({self.model.formula.text!r}, {self.nsim} simulations, calibrated={self.calibrated})"

    def _repr_html_(self) -> str:
        return self.page().html


def calibrate(
    model: Model,
    nsim: int = 100,
    *,
    draws: int = 500,
    tune: int = 500,
    seed: Any,
    simulator: Simulator | None = None,
    progress: bool = True,
    route: Route = "auto",
    corrected: bool = True,
) -> Calibration:
    """Check by simulation that the posteriors of a model are calibrated (Talts et al. 2018; Modrák et al. 2023).

    Each simulation draws the parameters from the priors and a response given them on the model's design, samples the
    posterior, and takes the rank of each true value among 99 of its draws, evenly spaced. If the simulator, the model
    and the sampler agree, ranks are uniform. The log-likelihood, random effects integrated out (by Laplace's approximation if
    the response is not Gaussian), is ranked as well: it sees errors that each parameter by itself does not. The ranks' ECDF is
    compared with a simultaneous band (Säilynoja, Bürkner & Vehtari 2022).

    Parameters
    ----------
    model : Model
        With proper priors of closed form. Default priors keep the scale that they have from the model's own response.
    nsim : int
        Number of simulations.
    draws, tune : int
        Kept and warm-up draws of each posterior, one chain.
    seed : int or Generator
        The same seed gives the same ranks.
    simulator : callable, optional
        ``(parameters, rng) → y`` (n,), in place of the model's own: ``parameters`` holds ``"fixef"``, ``"sd_g"``,
        ``"corr_g"``, ``"sigma"`` (or another dispersion). What a wrong model does to its posteriors.
    progress : bool
        Whether to show a progress bar.
    route, corrected
        As `sample` takes them: which sampler is checked.

    Returns
    -------
    Calibration
        ``.frame``, ``.verdict``, ``.plot()``.

    Raises
    ------
    PriorError
        A prior is improper or has no closed form.
    MethodError
        Fewer than 20 simulations or `KEPT` draws.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> priors = {"Intercept": bl.Prior("Normal", mu=0, sigma=1), "sd_g": bl.Prior("HalfNormal", sigma=1),
    ...           "sigma": bl.Prior("HalfNormal", sigma=1)}
    >>> model = bl.Model("y ~ 1 + (1 | g)", {"y": [0.1, 0.9, 0.4] * 4, "g": list("aaabbbcccddd")}, priors=priors)
    >>> bl.calibrate(model, 20, draws=100, tune=100, seed=1, progress=False).ranks.shape
    (20, 4)
    """
    _check(model, nsim, draws, tune)
    entropy = entropy_of(seed)
    truths = prior_draws(model, nsim, np.random.default_rng([entropy, 0]))
    prior_variance = prior_draws(model, PRIOR_DRAWS, np.random.default_rng([entropy, 1])).var(axis=0)
    again = Refits(model).model if model.family == "gaussian" else Redrawn(model).model
    found, failures, options = [], [], {"draws": draws, "tune": tune, "route": route, "corrected": corrected}
    with bar(progress, nsim, "calibration") as advance:
        for i, truth in enumerate(truths):
            rng = np.random.default_rng([entropy, 2, i])
            try:
                y = _response(model, truth, simulator, rng)
                found.append(_ranked(again(y), truth, options, rng))
            except (BayesLMMError, np.linalg.LinAlgError) as error:
                failures.append((i, f"{type(error).__name__}: {error}"))
            advance(1)
    if not found:
        raise MethodError(f"every simulation failed; the first: {failures[0][1]}")
    names = [*parameter_names(model), LIKELIHOOD]

    def frame(rows: list[Array]) -> pd.DataFrame:
        return pd.DataFrame(np.array(rows), columns=names)

    return Calibration(
        model=model,
        ranks=frame([one.ranks for one in found]),
        z=frame([one.z for one in found]),
        shrinkage=frame([np.append(one.variance / prior_variance, np.nan) for one in found]),
        ess=frame([one.ess for one in found]),
        truth=frame([one.truth for one in found]),
        kept=min(KEPT, draws),
        divergences=np.array([one.divergences for one in found]),
        failures=tuple(failures),
        seed=entropy,
        uncorrected=sum(one.uncorrected for one in found),
    )


def _check(model: Any, nsim: Any, draws: Any, tune: Any) -> None:
    if not isinstance(model, Model):
        raise MethodError(f"calibrate takes a Model, whose priors it draws from; got {type(model).__name__}")
    for name, value, least in (("nsim", nsim, 20), ("draws", draws, KEPT), ("tune", tune, 50)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise MethodError(f"{name}={value!r} must be a whole number, at least {least}")


def _response(model: Model, truth: Array, simulator: Simulator | None, rng: np.random.Generator) -> Array:
    if simulator is None:
        try:
            return numbers_of(simulate(model, seed=rng, parameters=blocks(model, truth)))[:, 0]
        except BayesLMMError:
            raise
        except ValueError as error:  # NumPy's, of a mean that no count can have
            raise MethodError(
                f"no response can be drawn at parameters that the priors allow ({error}): tighten them"
            ) from error
    y = np.asarray(simulator(blocks(model, truth), rng), float)
    if y.shape != (model.design.nobs,) or not np.isfinite(y).all():
        raise MethodError(f"the simulator gave shape {y.shape}; it gives {model.design.nobs} finite numbers")
    return y


class Ranked(NamedTuple):
    """What one posterior says about its truth."""

    ranks: Array
    z: Array
    variance: Array
    ess: Array
    truth: Array
    divergences: int
    uncorrected: bool


def _ranked(model: Model, truth: Array, options: dict[str, Any], rng: np.random.Generator) -> Ranked:
    from arviz_stats.base.array import array_stats

    seed = int(rng.integers(2**32))
    post = sample(model, chains=1, cores=1, seed=seed, progress=False, **options)
    values, draws = posterior_draws(post)[0], int(options["draws"])
    at = np.linspace(0, len(values) - 1, min(KEPT, draws)).round().astype(int)
    likelihood = collapsed_loglik(model, np.vstack([truth, values[at]]))
    thinned = np.column_stack([values[at], likelihood[1:]])
    own = np.append(truth, likelihood[0])
    ties = (thinned == own).sum(axis=0)
    ranks = (thinned < own).sum(axis=0) + rng.integers(0, ties + 1)
    centre = np.append(values.mean(axis=0), likelihood[1:].mean())
    variance = values.var(axis=0, ddof=1)
    spread = np.sqrt(np.append(variance, likelihood[1:].var(ddof=1)))
    ess = [float(array_stats.ess(column[None, :], method="bulk")) for column in values.T]
    ess.append(float(array_stats.ess(likelihood[None, 1:], method="bulk")) * draws / len(at))
    return Ranked(ranks, (centre - own) / spread, variance, np.array(ess), own, _divergences(post), _left(post))


def _left(post: Any) -> bool:
    return bool(post.data.attrs.get("correction_wanted", 0) and not post.data.attrs["corrected"])


def _divergences(post: Any) -> int:
    return int(np.asarray(post.data["sample_stats"]["diverging"].values).sum())


def _positions(kept: int) -> Array:
    """P(rank ≤ k) of a uniform rank from 0 to `kept`, k = 0 … kept − 1."""
    return np.arange(1, kept + 1) / (kept + 1.0)


def _counts(ranks: Ranks, kept: int) -> NDArray[np.int64]:
    """How many of the ranks (samples, nsim) are ≤ k: (samples, kept)."""
    rows = np.arange(len(ranks))[:, None] * (kept + 1)
    each = np.bincount((ranks + rows).ravel(), minlength=len(ranks) * (kept + 1))
    return np.cumsum(each.reshape(len(ranks), kept + 1), axis=1)[:, :-1]


def _null(nsim: int, kept: int) -> Null:
    table = stats.binom.cdf(np.arange(nsim + 1)[:, None], nsim, _positions(kept))
    null = Null(np.empty(0), table)
    uniform = np.random.default_rng([nsim, kept]).integers(0, kept + 1, (NULL_DRAWS, nsim))
    return Null(np.sort(null.gamma(_counts(uniform, kept))), table)


def _chisq(ranks: Ranks, kept: int) -> float:
    """P of the χ² test of a histogram of the ranks, as many equal bins as expect five ranks each."""
    most = len(ranks) // LEAST_EXPECTED
    bins = max(b for b in range(1, kept + 2) if (kept + 1) % b == 0 and b <= max(most, 2))
    counts = np.bincount(ranks.astype(int) * bins // (kept + 1), minlength=bins)
    return float(stats.chisquare(counts).pvalue)


def _holm(p: Array) -> Array:
    """Holm's adjusted p-values."""
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(adjusted, 1.0)
    return out


def _verdict(ranks: Ranks, kept: int, p: float) -> str:
    """What the ranks say about the posterior."""
    if p >= LEVEL:
        return "no deviation seen"
    u = (ranks + 0.5) / (kept + 1.0) - 0.5
    location, spread = u.mean() * np.sqrt(12 * len(u)), (u.var() - 1 / 12) * np.sqrt(180 * len(u))
    if abs(location) > abs(spread):
        return "posterior too low" if location > 0 else "posterior too high"
    return "posterior too narrow" if spread > 0 else "posterior too wide"
