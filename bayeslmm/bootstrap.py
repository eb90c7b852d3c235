"""A point fit → its parametric bootstrap: draws of every parameter from refits to simulated responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.errors import MethodError
from bayeslmm.estimates import parameter_names, public_vector
from bayeslmm.refits import (
    Groups,
    Outcome,
    Redrawn,
    Refits,
    Task,
    bar,
    check,
    cores_for,
    entropy_of,
    failure_notes,
    refits_of,
    refitted,
    responses,
    run,
    tasks,
)
from bayeslmm.result import PointFit
from bayeslmm.table import Page, frame_table

Array = NDArray[np.float64]
Statistic = Callable[[PointFit], Any]


@dataclass(frozen=True, eq=False, repr=False)
class Bootstrap:
    """Refits of a fitted model to responses simulated from it.

    Parameters
    ----------
    fit : PointFit
        What was simulated from.
    draws : DataFrame (nsim, m)
        One row per simulation; columns are the public names of the parameters, or what `statistic` gives. NaN where the
        refit failed.
    estimate : Series (m,)
        The same numbers of the fit itself.
    loglik : ndarray (nsim,)
        Log-likelihoods of the refits.
    converged, singular : ndarray of bool (nsim,)
        Whether each refit converged; whether a variance is 0 or a correlation ±1 there.
    failures : tuple of (int, str)
        Simulations without a refit and the reason.
    seed : int
        With which the same draws come again.
    groups : {"new", "conditional"}
        Whether random effects were drawn anew.
    """

    fit: PointFit
    draws: pd.DataFrame
    estimate: pd.Series
    loglik: Array
    converged: NDArray[np.bool_]
    singular: NDArray[np.bool_]
    failures: tuple[tuple[int, str], ...]
    seed: int
    groups: str

    @property
    def nsim(self) -> int:
        """Number of simulations, failed refits included."""
        return len(self.draws)

    def confint(self, level: float = 0.95) -> pd.DataFrame:
        """Percentile intervals.

        Parameters
        ----------
        level : float
            Coverage.

        Returns
        -------
        DataFrame
            ``lower`` and ``upper`` by parameter, quantiles of the refits; failed ones have no number to count.
        """
        if not 0 < level < 1:
            raise MethodError(f"level={level!r} must lie between 0 and 1")
        tail = 0.5 * (1.0 - level)
        edges = self.draws.quantile([tail, 1.0 - tail]).T
        edges.columns = pd.Index(["lower", "upper"])
        return edges

    def summary(self, level: float = 0.95) -> pd.DataFrame:
        """Estimate, bias (mean of the refits − estimate), sd, and percentile interval, by parameter."""
        mean = self.draws.mean()
        frame = pd.DataFrame({"estimate": self.estimate, "bias": mean - self.estimate, "sd": self.draws.std()})
        return frame.join(self.confint(level))

    @property
    def notes(self) -> tuple[str, ...]:
        """How many refits failed, did not converge, or are singular."""
        moved = int((~self.converged).sum()) - len(self.failures)
        lines = failure_notes(self.failures, self.nsim)
        lines += [f"{moved} of {self.nsim} refits did not converge; they are among the draws."] if moved else []
        zero = int(self.singular.sum())
        lines += (
            [f"{zero} of {self.nsim} refits are singular (a variance of 0 or a correlation of ±1)."] if zero else []
        )
        return tuple(lines)

    def page(self) -> Page:
        """Summary and notes, to print or to show in a notebook."""
        kind = "random effects drawn anew" if self.groups == "new" else "at the fit's random effects"
        heading = f"Parametric bootstrap ({self.fit.method}, {self.nsim} simulations, {kind})"
        table = frame_table("", self.summary()), "lower and upper: 95 % percentile interval"
        return Page(heading, (self.fit.model.formula.text,), (table,), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Bootstrap({self.fit.model.formula.text!r}, {self.nsim} simulations, {len(self.failures)} failed)"

    def _repr_html_(self) -> str:
        return self.page().html


def bootstrap(
    fit: PointFit,
    nsim: int = 1000,
    statistic: Statistic | None = None,
    *,
    seed: Any,
    groups: Groups = "new",
    progress: bool = True,
    cores: int | None = None,
) -> Bootstrap:
    """Refit a model to responses simulated from its fit.

    Parameters
    ----------
    fit : PointFit
        A fit by REML or ML, or of another family; refits are of the same kind, with the same parameters held.
    nsim : int
        Number of simulations.
    statistic : callable, optional
        PointFit → number, mapping, Series or array; by default every parameter: coefficients, sds, correlations, σ or
        another dispersion, coefficients for dispersion and zeros.
    seed : int or Generator
        The same seed gives the same draws, whatever `cores`. None takes a new one, kept in ``.seed``.
    groups : {"new", "conditional"}
        Random effects drawn anew in each simulation, or those of the fit.
    progress : bool
        Whether to show a progress bar.
    cores : int, optional
        Threads; by default one for small models, whose refits hold the interpreter, and all for large ones.

    Returns
    -------
    Bootstrap
        ``.draws``, ``.confint(level)``, ``.summary()``; refits that failed are counted and shown.

    Raises
    ------
    MethodError
        Not a point fit, or an option that has no meaning.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> fit = bl.fit(bl.load("models/penicillin_blocks"))
    >>> boot = bl.bootstrap(fit, 100, seed=1, progress=False)
    >>> boot.draws.shape, len(boot.failures)
    ((100, 6), 0)
    """
    check(fit, nsim, groups)
    entropy = entropy_of(seed)
    refits = refits_of(fit.model)
    own = _values(fit, statistic)
    with bar(progress, nsim, "bootstrap") as advance:
        work = partial(_block, fit, refits, statistic, groups)
        outcomes = run(work, tasks(nsim, entropy), cores_for(cores, [fit.model]), [fit.model], advance)
    names = list(own) if isinstance(own, Mapping) else list(parameter_names(fit.model))
    missing = np.full(len(names), np.nan)
    rows = [missing if o.values is None else _in_order(o.values, names) for o in outcomes]
    return Bootstrap(
        fit=fit,
        draws=pd.DataFrame(np.array(rows), columns=names),
        estimate=pd.Series(_in_order(own, names), index=names),
        loglik=np.array([o.loglik for o in outcomes]),
        converged=np.array([o.converged for o in outcomes]),
        singular=np.array([o.singular for o in outcomes]),
        failures=tuple((i, o.message) for i, o in enumerate(outcomes) if o.values is None),
        seed=entropy,
        groups=groups,
    )


def _block(
    fit: PointFit, refits: Refits | Redrawn, statistic: Statistic | None, groups: Groups, task: Task
) -> list[Outcome]:
    found = []
    for y in responses(fit, task, groups):
        again = refitted(fit, refits, y)
        if isinstance(again, str):
            found.append(Outcome(None, np.nan, False, False, again))
        else:
            values = _values(again, statistic)
            found.append(Outcome(values, again.loglik, again.converged, again.singular, ""))
    return found


def _values(fit: PointFit, statistic: Statistic | None) -> Mapping[str, float] | Array:
    if statistic is None:
        return public_vector(fit)
    value = statistic(fit)
    if isinstance(value, Mapping | pd.Series):
        return {str(name): float(number) for name, number in value.items()}
    numbers = np.asarray(value, float)
    if not numbers.ndim:
        return {"statistic": float(numbers)}
    return {f"statistic[{i}]": float(number) for i, number in enumerate(numbers.ravel())}


def _in_order(values: Mapping[str, float] | Array, names: Sequence[str]) -> Array:
    if not isinstance(values, Mapping):
        return values
    if set(values) != set(names):
        raise MethodError(f"the statistic gave {', '.join(values)} for a refit and {', '.join(names)} for the fit")
    return np.array([values[name] for name in names])
