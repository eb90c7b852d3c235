"""A model and parameters taken for true → the power of a test, by simulation, over designs of growing size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from bayeslmm.errors import BayesLMMError, MethodError
from bayeslmm.estimates import parameter_names
from bayeslmm.growth import Study, studies
from bayeslmm.hypotheses import Hypothesis, hypothesis
from bayeslmm.model import Model
from bayeslmm.refits import Outcome, Task, bar, cores_for, entropy_of, run, tasks
from bayeslmm.result import PointFit
from bayeslmm.simulate import simulate
from bayeslmm.table import Page, frame_table
from bayeslmm.truths import blocks, given_values, values_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
Test = Literal["satterthwaite", "kenward-roger", "asymptotic", "lrt"]
# Coverage of the band about a simulated power, and of the interval of n_groups_for.
BAND = 0.95
# Refits that failed are named up to this many reasons.
MOST_REASONS = 3


@dataclass(frozen=True, eq=False, repr=False)
class Power:
    """Power of one test over designs.

    Parameters
    ----------
    frame : DataFrame
        One row per design: ``n_groups``, ``n_per_group`` (NaN where it differs between groups), ``power`` (of
        `assurance`: ``assurance``, and ``width``), its Monte Carlo standard error ``se``, a 95 % Clopper–Pearson band
        ``lower``, ``upper``, and how many refits ``failed`` (counted as not rejecting) and were ``singular``.
    p_values : ndarray (designs, nsim)
        NaN where a refit failed.
    hypothesis : str
        What is tested, and how.
    formula : str
        The model.
    parameters : Series or None
        What was taken for true; None where it was drawn anew for each simulation.
    alpha : float
        Size of the test.
    seed : int
        With which the same numbers come again.
    notes : tuple of str
        What to know when reading it.
    """

    frame: pd.DataFrame
    p_values: Array
    hypothesis: str
    formula: str
    parameters: pd.Series | None
    alpha: float
    seed: int
    notes: tuple[str, ...]

    @property
    def nsim(self) -> int:
        """Simulations of each design."""
        return self.p_values.shape[1]

    @property
    def column(self) -> str:
        """``"power"`` or ``"assurance"``."""
        return "assurance" if "assurance" in self.frame else "power"

    def n_groups_for(self, power: float = 0.8) -> pd.DataFrame:
        """The number of groups at which a power is reached, interpolated.

        For each n_per_group ``Φ⁻¹(power) = a + b √n_groups`` is fitted to the counts of rejections by maximum
        likelihood: the power of a Wald test of a fixed alternative, up to its degrees of freedom. The interval holds
        every n with ``(a + b √n − Φ⁻¹(power))² ≤ z² Var(a + b √n)`` (Fieller 1954), Var from the Fisher information.

        Parameters
        ----------
        power : float
            Between 0 and 1.

        Returns
        -------
        DataFrame
            ``n_groups`` (not rounded), ``lower``, ``upper`` (95 %, Monte Carlo error only) by n_per_group.

        Raises
        ------
        MethodError
            Fewer than two sizes, or the power is reached outside the sizes simulated.
        """
        if not 0 < power < 1:
            raise MethodError(f"power={power!r} must lie between 0 and 1")
        found = {}
        for rows, part in self.frame.groupby("n_per_group", dropna=False):
            n, p = part["n_groups"].to_numpy(float), part[self.column].to_numpy(float)
            if len(set(n)) < 2:
                raise MethodError("one size cannot be interpolated: give n_groups a list, n_groups=[10, 20, 40]")
            if not p.min() <= power <= p.max():
                raise MethodError(
                    f"{self.column} {power:g} lies outside what was simulated for n_per_group = {rows:g}, {p.min():.3f} at "
                    f"{n[p.argmin()]:g} groups to {p.max():.3f} at {n[p.argmax()]:g}; simulate other n_groups"
                )
            if not ((p > 0) & (p < 1)).any():
                raise MethodError(f"every simulated {self.column} is 0 or 1; simulate sizes in between")
            found[rows] = _crossing(np.sqrt(n), np.round(p * self.nsim), self.nsim, power)
        frame = pd.DataFrame.from_dict(found, orient="index", columns=["n_groups", "lower", "upper"])
        return frame.rename_axis("n_per_group")

    def plot(self) -> Figure:
        """Power against the number of groups, a line for each n_per_group, with its band."""
        from bayeslmm.plot.planning import power

        return power(self)

    def page(self) -> Page:
        """The designs and notes, to print or to show in a notebook."""
        heading = f"{self.column.capitalize()} by simulation ({self.nsim} of each design, seed {self.seed})"
        lines = (self.formula, f"{self.hypothesis}, α = {self.alpha:g}")
        frame = self.frame.set_index(["n_groups", "n_per_group"])
        frame.index.names = ["n_groups", "n_per_group"]
        frame.index = pd.Index([f"{g} × {r:g}" for g, r in frame.index], name="groups × rows")
        under = "se: Monte Carlo standard error; lower and upper: 95 % Clopper–Pearson band"
        return Page(heading, lines, ((frame_table("", frame, 3), under),), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Power({self.formula!r}, {self.hypothesis}, {len(self.frame)} designs)"

    def _repr_html_(self) -> str:
        return self.page().html


def power(
    model: Model | PointFit | str,
    parameters: PointFit | Mapping[str, Any] | None = None,
    term: str = "",
    *,
    data: Any = None,
    n_groups: int | Sequence[int] | None = None,
    n_per_group: int | Sequence[int] | None = None,
    group: str | None = None,
    nsim: int = 1000,
    alpha: float = 0.05,
    test: Test | None = None,
    seed: Any,
    progress: bool = True,
    cores: int | None = None,
) -> Power:
    """Find the power of a test by simulation: how often it rejects at level alpha when `parameters` are true.

    Each simulation draws random effects and errors anew, refits the model and tests `term`. All refits of one design
    share its cross-products.

    Parameters
    ----------
    model : Model, PointFit or str
        A model on pilot data, a fit of one, or a formula with `data`.
    parameters : PointFit or mapping, optional
        What is true: ``{"fixef[Intercept]": 250, "fixef[Days]": 10, "sd_Subject": 25, "sigma": 30}``, or a fit. Of a
        PointFit as `model`, the estimates hold for what is left out.
    term : str
        A coefficient (``"Days"``, ``"treat[B]"``), a term of the fixed part (``"treat"``: all its coefficients are 0),
        or standard deviations (``"sd_Subject"``, ``"sd_Subject[Days]"``: the variance is 0).
    data : table or callable, optional
        For a formula: predictors and groups, without response; a table without the grouping column holds the rows of one
        group. For either: a function ``(n_groups, n_per_group) → table`` for designs that cannot be grown by repetition.
    n_groups, n_per_group : int or sequence of int, optional
        Levels of the grown factor, and rows in each; those of the pilot if not given. Every pair is simulated. Whole
        groups and whole rows of the pilot are repeated, in its proportions; levels within a group come anew with it,
        levels of crossed factors stay.
    group : str, optional
        The grouping column that is grown; needed where factors are crossed.
    nsim : int
        Simulations of each design.
    alpha : float
        Size of the test.
    test : {"satterthwaite", "kenward-roger", "asymptotic", "lrt"}, optional
        For coefficients an F test of the REML fit ("satterthwaite" if not given) or the likelihood ratio of ML fits,
        χ². For a variance the likelihood ratio of REML fits against ½χ²(q) + ½χ²(q + 1), ``"lrt"``.
    seed : int or Generator
        The same seed gives the same numbers, whatever `cores`.
    progress : bool
        Whether to show a progress bar.
    cores : int, optional
        Threads, as for `bootstrap`.

    Returns
    -------
    Power
        ``.frame``, ``.plot()``, ``.n_groups_for(0.8)``.

    Raises
    ------
    MethodError
        A name that the model lacks, a design that cannot be grown, or an option that has no meaning.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> truth = {"fixef": [0, 1], "sd_g": 1, "sigma": 1}
    >>> found = bl.power("y ~ x + (1 | g)", truth, "x", data={"x": [0, 1]}, n_groups=[10, 20], nsim=200, seed=1,
    ...                  progress=False)
    >>> found.frame["power"].tolist()
    [0.475, 0.85]
    """
    source, truth_of = _truth(model, parameters)
    designs = studies(source, data, sizes(n_groups), sizes(n_per_group), group)
    plan = Plan(designs, term, test, alpha, nsim, entropy_of(seed))
    values = [truth_of(study.model) for study in designs]
    truths = [partial(_constant, row) for row in values]
    outcomes = plan.simulate(truths, None, progress, cores)
    parameters = pd.Series(values[0], index=list(parameter_names(designs[0].model)), name="parameters")
    return plan.result("power", outcomes, parameters)


def _constant(values: Array, task: Task) -> Array:
    return np.tile(values, (task.size, 1))


Truths = Callable[[Task], Array]
Extra = Callable[[PointFit, Hypothesis], Sequence[float]]


class Plan:
    """The designs of one simulation study, the hypothesis on each, and how often it is simulated."""

    def __init__(
        self, designs: Sequence[Study], term: str, test: str | None, alpha: float, nsim: int, entropy: int
    ) -> None:
        if not 0 < alpha < 1:
            raise MethodError(f"alpha={alpha!r} must lie between 0 and 1")
        if isinstance(nsim, bool) or not isinstance(nsim, int | np.integer) or nsim < 1:
            raise MethodError(f"nsim={nsim!r} must be a whole number of simulations, at least 1")
        self.designs, self.alpha, self.nsim, self.entropy = list(designs), float(alpha), int(nsim), entropy
        self.tests = [hypothesis(study.model, term, test) for study in designs]

    def simulate(
        self, truths: Sequence[Truths], extra: Extra | None, progress: bool, cores: int | None
    ) -> list[list[Outcome]]:
        """The outcomes of every design, ``values`` p and what `extra` gives."""
        found = []
        with bar(progress, self.nsim * len(self.designs), "simulations") as advance:
            for at, (test, truth) in enumerate(zip(self.tests, truths, strict=True)):
                work = partial(_block, test, truth, extra)
                models = [test.model]
                found.append(run(work, tasks(self.nsim, self._entropy(at)), cores_for(cores, models), models, advance))
        return found

    def _entropy(self, at: int) -> int:
        """A seed of each design's own."""
        return int(np.random.SeedSequence([self.entropy, at]).generate_state(1, np.uint64)[0])

    def result(self, column: str, outcomes: list[list[Outcome]], parameters: pd.Series | None) -> Power:
        """The table over designs with what belongs to it."""
        p_values = np.array([[np.nan if o.values is None else _values(o)[0] for o in own] for own in outcomes])
        rejected = (p_values < self.alpha).sum(axis=1)
        share, tail = rejected / self.nsim, 0.5 * (1.0 - BAND)
        lower = np.where(rejected > 0, stats.beta.ppf(tail, rejected, self.nsim - rejected + 1), 0.0)
        upper = np.where(rejected < self.nsim, stats.beta.ppf(1.0 - tail, rejected + 1, self.nsim - rejected), 1.0)
        rows = np.array([study.n_per_group for study in self.designs])
        frame = pd.DataFrame(
            {
                "n_groups": [study.n_groups for study in self.designs],
                "n_per_group": rows if np.isnan(rows).any() else rows.astype(int),
                column: share,
                "se": np.sqrt(share * (1.0 - share) / self.nsim),
                "lower": lower,
                "upper": upper,
                "failed": np.isnan(p_values).sum(axis=1),
                "singular": [sum(o.singular for o in own) for own in outcomes],
            }
        )
        label, formula = self.tests[0].label, self.designs[0].model.formula.text
        return Power(frame, p_values, label, formula, parameters, self.alpha, self.entropy, self._notes(outcomes))

    def _notes(self, outcomes: list[list[Outcome]]) -> tuple[str, ...]:
        """What is known of the test, failures, and refits without convergence."""
        every = [o for own in outcomes for o in own]
        failed = [o.message for o in every if o.values is None]
        notes = [self.tests[0].note] if self.tests[0].note else []
        if failed:
            reasons = "; ".join(list(dict.fromkeys(failed))[:MOST_REASONS])
            notes.append(f"{len(failed)} of {len(every)} refits failed and count as not rejecting: {reasons}.")
        moved = sum(not o.converged for o in every) - len(failed)
        notes += [f"{moved} of {len(every)} refits did not converge; they count as they are."] if moved else []
        return tuple(notes)


def _values(outcome: Outcome) -> Array:
    return np.asarray(outcome.values, float)


def _block(test: Hypothesis, truth: Truths, extra: Extra | None, task: Task) -> list[Outcome]:
    """The tests of one block of simulations."""
    return [_tested(test, y, extra) for y in _responses(test.model, truth(task), np.random.default_rng(task.seed))]


def _responses(model: Model, values: Array, rng: np.random.Generator) -> Array:
    """A response (n,) for each row of parameters."""
    if (values == values[0]).all():
        return simulate(model, len(values), seed=rng, parameters=blocks(model, values[0])).to_numpy().T
    one = (simulate(model, seed=rng, parameters=blocks(model, row)).to_numpy()[:, 0] for row in values)
    return np.array(list(one))


def _tested(test: Hypothesis, y: Array, extra: Extra | None) -> Outcome:
    try:
        p, fit = test.test(y)
        values = np.array([p, *(extra(fit, test) if extra else ())])
    except (BayesLMMError, np.linalg.LinAlgError) as error:
        return Outcome(None, np.nan, False, False, f"{type(error).__name__}: {error}")
    return Outcome(values, fit.loglik, fit.converged, fit.singular, "")


def sizes(given: Any) -> list[int | None]:
    """Sizes as a list, None for the pilot's."""
    listed = list(given) if isinstance(given, Iterable) else [given]
    if not listed or len(set(listed)) != len(listed):
        raise MethodError(f"n_groups and n_per_group take a whole number or a list of different ones; got {given!r}")
    return listed


def _truth(model: Any, parameters: Any) -> tuple[Model | str, Callable[[Model], Array]]:
    """The model or formula that designs are grown from, and the parameters on a design."""
    known = values_of(model) if isinstance(model, PointFit) else None
    source = model.model if isinstance(model, PointFit) else model
    if not isinstance(source, Model | str):
        raise MethodError(f"power takes a Model, a fit of bl.fit or a formula; got {type(model).__name__}")
    if isinstance(parameters, PointFit):
        known, parameters = values_of(parameters), {}
    if parameters is None and known is not None:
        parameters = {}
    if not isinstance(parameters, Mapping):
        raise MethodError(
            f"parameters must be a fit or a mapping of public names to numbers, not {type(parameters).__name__}. Parameters "
            "drawn from a prior or posterior are for bl.assurance"
        )
    return source, partial(_of_design, parameters=parameters, known=known)


def _of_design(model: Model, parameters: Mapping[str, Any], known: Mapping[str, float] | None) -> Array:
    return given_values(model, parameters, known)


def _crossing(root: Array, rejected: Array, nsim: int, power: float) -> tuple[float, float, float]:
    """√n ↦ Φ(a + b √n) fitted to counts: the n at which it is `power`, and the ends of Fieller's set."""
    centre = root.mean()
    X = np.column_stack([np.ones(len(root)), root - centre])

    def minus_loglik(c: Array) -> float:
        eta = X @ c
        return -float(rejected @ stats.norm.logcdf(eta) + (nsim - rejected) @ stats.norm.logcdf(-eta))

    found = optimize.minimize(minus_loglik, [0.0, 1.0], method="BFGS", options={"gtol": 1e-6})
    eta = X @ found.x
    weight = nsim * np.exp(2.0 * stats.norm.logpdf(eta) - stats.norm.logcdf(eta) - stats.norm.logcdf(-eta))
    V = np.linalg.inv(X.T @ (weight[:, None] * X))
    (a, b), z, aim = found.x, stats.norm.ppf(0.5 + 0.5 * BAND), stats.norm.ppf(power)
    # (a + b t − aim)² ≤ z² (V00 + 2 t V01 + t² V11), t = √n − centre
    square = np.array([b**2 - z**2 * V[1, 1], 2 * (b * (a - aim) - z**2 * V[0, 1]), (a - aim) ** 2 - z**2 * V[0, 0]])
    ends = np.sort(np.roots(square).real) + centre if square[0] > 0 else np.array([-np.inf, np.inf])
    at = (aim - a) / b + centre
    return float(at**2), float(max(ends[0], 0.0) ** 2), float(ends[1] ** 2)
