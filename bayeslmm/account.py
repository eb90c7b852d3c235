"""What a report is about: results under their names in Python, which of them each section reads, what is too much work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from bayeslmm.compare import AnyResult, Comparison, compare
from bayeslmm.diagnose import Diagnosis, diagnose
from bayeslmm.document import Block, Prose
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior
from bayeslmm.result import PointFit, Result
from bayeslmm.summary import default_df

if TYPE_CHECKING:
    from bayeslmm.limiting import LimitingPrior

# Rows, and effects outside the largest grouping factor, up to which a page simulates, refits and profiles.
MOST_ROWS, MOST_OUTSIDE = 5_000, 300
# Rows up to which the residuals and deletion formulas of a fit are computed for a page that is not asked to simulate.
MOST_CHECKED = 50_000


@dataclass(frozen=True, eq=False)
class Account:
    """The results of a report and what is computed of them, once.

    Parameters
    ----------
    results : sequence of PointFit or Posterior
        Of one data set.
    limiting : LimitingPrior or None
        What `bl.limiting_prior` gave.
    nsim : int or None
        Simulations behind the diagnostics; None for the default of `bl.diagnose`, none at all of a large model.
    seed : int
        Of every simulation of the page.
    """

    results: Sequence[AnyResult]
    limiting: LimitingPrior | None = None
    nsim: int | None = None
    seed: int = 0

    @property
    def model(self) -> Model:
        """The first result's model."""
        return self.results[0].model

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What each result is called in the lines of Python: reml, ml, post; numbered where there are several."""
        plain = [result.method.lower() if isinstance(result, PointFit) else "post" for result in self.results]
        return tuple(f"{name}_{i + 1}" if plain.count(name) > 1 else name for i, name in enumerate(plain))

    def name(self, result: Result) -> str:
        """What one result is called."""
        return next(name for name, other in zip(self.names, self.results, strict=True) if other is result)

    @property
    def points(self) -> list[PointFit]:
        """The point fits."""
        return [result for result in self.results if isinstance(result, PointFit)]

    @property
    def posteriors(self) -> list[Posterior]:
        """The posteriors."""
        return [result for result in self.results if isinstance(result, Posterior)]

    @property
    def fit(self) -> PointFit | None:
        """The point fit that tests, means and checks are about: the first by REML, else the first."""
        return next((fit for fit in self.points if fit.method == "REML"), next(iter(self.points), None))

    @property
    def main(self) -> AnyResult:
        """The point fit, else the first posterior."""
        return self.fit or self.results[0]

    @property
    def pictured(self) -> AnyResult:
        """What the figures show: the first posterior, else the point fit."""
        return next(iter(self.posteriors), self.main)

    @property
    def several_models(self) -> bool:
        """Whether the results are of different formulas."""
        return len({result.model.formula.text for result in self.results}) > 1

    def called(self, result: Result) -> str:
        """A result in words."""
        which = f" of {result.model.formula.text}" if self.several_models else ""
        return (f"the {result.method} fit" if isinstance(result, PointFit) else "the posterior") + which

    @cached_property
    def comparison(self) -> Comparison:
        """All results side by side."""
        return compare(*self.results)

    @cached_property
    def diagnoses(self) -> dict[str, Diagnosis | str]:
        """The checks of the point fit and of each posterior by name, or why there are none."""
        found: dict[str, Diagnosis | str] = {}
        for result in [*([self.fit] if self.fit else []), *self.posteriors]:
            name = self.name(result)
            if isinstance(result, PointFit) and self.nsim is None and result.nobs > MOST_CHECKED:
                found[name] = (
                    f"No checks of {self.called(result)}: {result.nobs:,} rows are more than {MOST_CHECKED:,}, of which a page "
                    f"has none unless nsim= is given; bl.diagnose({name}, nsim=0) makes those that need no simulation."
                )
                continue
            try:
                found[name] = diagnose(result, nsim=self.simulations(result), seed=self.seed, progress=False)
            except (MethodError, NotSupportedError) as reason:
                found[name] = f"No checks of {self.called(result)}: {reason}."
        return found

    def simulations(self, result: Result) -> int | None:
        """How many simulations check a result."""
        return 0 if self.nsim is None and isinstance(result, PointFit) and too_large(result.model) else self.nsim

    @cached_property
    def rule(self) -> tuple[str, str]:
        """How degrees of freedom are found for the point fit, and what is said of it."""
        if self.fit is None or self.fit.model.family != "gaussian":
            return "asymptotic", "z tests: the normal approximation, which this family has alone."
        rule, said = default_df(self.fit)
        return rule, f"{said}."


def too_large(model: Model) -> str:
    """Why a page leaves out simulations, refits and profiles of a model; empty where it does not."""
    rows, outside = model.design.nobs, model.structure.rest_size
    if rows <= MOST_ROWS and outside <= MOST_OUTSIDE:
        return ""
    return (
        f"The model has {rows:,} rows and {outside:,} effects outside its largest group; a page refits models of at most "
        f"{MOST_ROWS:,} rows and {MOST_OUTSIDE} such effects"
    )


def attempt(what: str, make: Callable[[], list[Block]]) -> list[Block]:
    """The blocks, or a sentence that says why this model has none."""
    try:
        return make()
    except (MethodError, NotSupportedError) as reason:
        return [Prose(f"{what}: not here. {sentence(str(reason))}")]


def sentence(text: str) -> str:
    """A message with a capital and a full stop."""
    said = text[:1].upper() + text[1:]
    return said if said.endswith((".", "!", "?")) else f"{said}."
