"""Two fits → their likelihood ratio against what it is when the smaller model is true, simulated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.anova import by_ml, check_restricted, check_same_data
from bayeslmm.comparable import check_same_approximation
from bayeslmm.errors import MethodError
from bayeslmm.nesting import NO_GAIN, Reference, mixture_p, p_value, reference
from bayeslmm.refits import (
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


@dataclass(frozen=True, eq=False, repr=False)
class BootstrapTest:
    """A likelihood-ratio test whose reference distribution was simulated under the smaller model.

    Parameters
    ----------
    small, large : PointFit
        The fits that were compared.
    statistic : float
        Twice the difference of their log-likelihoods.
    draws : ndarray (nsim,)
        The same of each simulation, NaN where a refit failed.
    failures : tuple of (int, str)
        Simulations where it failed and the reason.
    converged : ndarray of bool (nsim,)
        Whether both refits converged.
    seed : int
        With which the same draws come again.
    """

    small: PointFit
    large: PointFit
    statistic: float
    draws: Array
    failures: tuple[tuple[int, str], ...]
    converged: NDArray[np.bool_]
    seed: int

    @property
    def nsim(self) -> int:
        """Number of simulations, failed ones included."""
        return len(self.draws)

    @property
    def exceeding(self) -> int:
        """Simulations whose statistic is at least the observed one, r; ties within rounding count."""
        return int((self.draws >= self.statistic - NO_GAIN * max(1.0, self.statistic)).sum())

    @property
    def p(self) -> float:
        """(r + 1)/(n + 1) over the n simulations that could be refitted: never 0, and of the stated size for any n."""
        return (self.exceeding + 1) / (self._counted + 1) if self._counted else np.nan

    @property
    def mcse(self) -> float:
        """Monte Carlo standard error of p, √(p(1 − p)/n)."""
        return float(np.sqrt(self.p * (1.0 - self.p) / self._counted)) if self._counted else np.nan

    @property
    def df(self) -> int:
        """Difference in parameters."""
        return self.large.df - self.small.df

    @property
    def p_chisq(self) -> float:
        """The p-value from χ² with `df` degrees of freedom, NaN where the models are not nested."""
        return p_value(self.statistic, self.df) if self._reference.nested else np.nan

    @property
    def p_mixture(self) -> float:
        """The p-value from the mixture of two χ², NaN where none is known or needed."""
        mixture = None if self.small.fixed or self.large.fixed else self._reference.mixture
        return np.nan if mixture is None else mixture_p(self.statistic, mixture)

    @cached_property
    def _reference(self) -> Reference:
        return reference(self.small.model, self.large.model)

    @property
    def _counted(self) -> int:
        return self.nsim - len(self.failures)

    @property
    def notes(self) -> tuple[str, ...]:
        """How many simulations failed or did not converge, and what the failures could do to p."""
        notes = failure_notes(self.failures, self.nsim)
        if self.failures:
            largest = (self.exceeding + len(self.failures) + 1) / (self.nsim + 1)
            notes.append(f"Had every failed simulation reached the observed ratio, p would be {largest:.4f}.")
        moved = int((~self.converged).sum()) - len(self.failures)
        notes += [f"In {moved} of {self.nsim} simulations a refit did not converge; they count."] if moved else []
        return tuple(notes)

    def page(self) -> Page:
        """The test in lines, to print or to show in a notebook."""
        rows = {"bootstrap": self.p, "χ²": self.p_chisq, "χ² mixture": self.p_mixture}
        frame = pd.DataFrame({"p": {name: p for name, p in rows.items() if not np.isnan(p)}})
        lines = (f"small  {self.small.model.formula.text}", f"large  {self.large.model.formula.text}")
        under = (
            f"LR = {self.statistic:.4f} on {self.df}; {self.exceeding} of {self._counted} simulations reach it, "
            f"p = ({self.exceeding} + 1)/({self._counted} + 1), Monte Carlo standard error {self.mcse:.4f}"
        )
        heading = f"Parametric bootstrap of the likelihood-ratio test ({self.small.method})"
        return Page(heading, lines, ((frame_table("", frame), under),), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"BootstrapTest(LR={self.statistic:.4f}, p={self.p:.4f} ± {self.mcse:.4f}, {self.nsim} simulations)"

    def _repr_html_(self) -> str:
        return self.page().html


def bootstrap_test(
    small: PointFit,
    large: PointFit,
    nsim: int = 1000,
    *,
    seed: Any,
    refit: bool = True,
    progress: bool = True,
    cores: int | None = None,
) -> BootstrapTest:
    """Test the smaller of two models by simulating its likelihood ratio, so that no χ² is needed.

    Parameters
    ----------
    small, large : PointFit
        Fits by REML or ML of the same response and rows, or of another family by one approximation.
    nsim : int
        Number of simulations from the smaller fit; each is refitted by both models.
    seed : int or Generator
        The same seed gives the same p, whatever `cores`.
    refit : bool
        Whether REML fits are refitted by ML first. False compares restricted likelihoods, for models with one fixed part.
    progress : bool
        Whether to show a progress bar.
    cores : int, optional
        Threads, as for `bootstrap`.

    Returns
    -------
    BootstrapTest
        ``.p`` = (r + 1)/(n + 1), ``.mcse``, ``.p_chisq``, ``.p_mixture``, ``.draws``.

    Raises
    ------
    MethodError
        The fits cannot be compared, or the first has as many parameters as the second.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> model = bl.load("models/penicillin_blocks")
    >>> null = bl.load("models/penicillin_blocks", variant="null")
    >>> test = bl.bootstrap_test(bl.fit(null, "ML"), bl.fit(model, "ML"), 200, seed=1, progress=False)
    >>> round(test.statistic, 4), 0.2 < test.p < 0.5
    (4.0474, True)
    """
    for fit in (small, large):
        check(fit, nsim, "new")
    check_same_data([small, large])
    check_same_approximation([small, large])
    small, large = (by_ml(small), by_ml(large)) if refit else (small, large)
    check_restricted([small, large])
    if small.df >= large.df:
        raise MethodError(
            f"the first model has {small.df} parameters and the second {large.df}; the first must be the smaller one"
        )
    entropy = entropy_of(seed)
    models = [small.model, large.model]
    with bar(progress, nsim, "bootstrap test") as advance:
        work = partial(_block_of_both, small, large, refits_of(small.model), refits_of(large.model))
        outcomes = run(work, tasks(nsim, entropy), cores_for(cores, models), models, advance)
    failures = tuple((i, o.message) for i, o in enumerate(outcomes) if o.message)
    observed = max(0.0, 2.0 * (large.loglik - small.loglik))
    ratios = np.array([o.loglik for o in outcomes])
    converged = np.array([o.converged for o in outcomes])
    return BootstrapTest(small, large, observed, ratios, failures, converged, entropy)


def _block_of_both(
    small: PointFit, large: PointFit, first: Refits | Redrawn, second: Refits | Redrawn, task: Task
) -> list[Outcome]:
    """As `_block`, the likelihood ratio in place of the log-likelihood."""
    found = []
    for y in responses(small, task, "new"):
        one, two = refitted(small, first, y), refitted(large, second, y)
        if isinstance(one, str) or isinstance(two, str):
            reason = one if isinstance(one, str) else two
            found.append(Outcome(None, np.nan, False, False, str(reason)))
            continue
        ratio = max(0.0, 2.0 * (two.loglik - one.loglik))
        found.append(Outcome(None, ratio, one.converged and two.converged, two.singular, ""))
    return found
