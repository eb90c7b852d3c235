"""One design with other responses, refitted many times: products of X and Z taken once, seeded blocks, threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from bayeslmm.approximation import Laplace
from bayeslmm.comparable import fit_alike
from bayeslmm.errors import BayesLMMError, ExactFitError, MethodError
from bayeslmm.exact.products import EXACT_FIT, Products, add_right, power_of_two, right_hand_side, whiten
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.model import Model
from bayeslmm.result import PointFit
from bayeslmm.simulate import numbers_of, simulate
from bayeslmm.threads import THREADS_FROM, one_thread

Array = NDArray[np.float64]
Groups = Literal["new", "conditional"]
# Simulations that share a seed and a task.
BLOCK = 25
# Entries of A from which the compiled kernels, which run side by side, are most of a refit.
PARALLEL_FROM = 5_000
# Failures shown in full.
MOST_SHOWN = 3


class SimulatedResponse:
    """Stands where the table of a model was whose response has been replaced: such a model cannot be built anew."""


class Refits:
    """One design with other responses: X is orthogonalised and multiplied with Z once, each response costs O(nk).

    Parameters
    ----------
    model : Model
        The design. Its priors are kept as they are, also where defaults were scaled by its own response.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> model = bl.load("models/penicillin_blocks")
    >>> again = Refits(model).model(model.design.y + 1.0)
    >>> float(round(bl.fit(again).fixef["Intercept"] - bl.fit(model).fixef["Intercept"], 9))
    1.0
    """

    def __init__(self, model: Model) -> None:
        design, products = model.design, model.products
        _ = model.terms, model.theta_basis  # computed before threads share them
        self.base = model
        self._Q = np.ascontiguousarray(right_hand_side(design)[:, :-1])
        self._columns, self._rows = [], []
        for f, factor in enumerate(products.structure.factors):
            columns = np.column_stack([design.random[t].columns for t in factor.terms])
            self._columns.append(np.ascontiguousarray(whiten(columns, design.weights) / products.effect_scale[f]))
            self._rows.append(products.structure.rows(f)[factor.codes])

    def model(self, y: Array) -> Model:
        """The model with the response y (n,) in place of its own."""
        base = self.base
        arguments = dict(base.arguments) | {"data": SimulatedResponse()}
        changed = {"design": replace(base.design, y=y), "products": self.products(y), "arguments": arguments}
        model = object.__new__(Model)
        model.__dict__.update({name: value for name, value in vars(base).items() if name != "gaussian"} | changed)
        return model

    def products(self, y: Array) -> Products:
        """The products with the response y (n,): the last column of B, the last row and column of C, β and the scale.

        Raises
        ------
        ExactFitError
            The fixed part reproduces y.
        """
        design, base = self.base.design, self.base.products
        y = y if design.offset is None else y - design.offset
        y = whiten(y[:, None], design.weights)[:, 0]
        size = float(power_of_two(y[:, None])[0])
        y = y / size
        rotated = self._Q.T @ y
        residual = y - self._Q @ rotated
        rest = self._Q.T @ residual
        rotated, residual = rotated + rest, residual - self._Q @ rest
        if np.linalg.norm(residual) <= EXACT_FIT * np.linalg.norm(y):
            raise ExactFitError(f"the fixed effects reproduce the response {design.response!r} exactly")
        second = float(power_of_two(residual[:, None])[0])
        beta = solve_triangular(base.R, rotated) * size if len(rotated) else np.empty(0)
        B, C = self._right(residual / second)
        system = base.system._replace(B=B, C=C)
        return replace(base, system=system, beta_ols=beta, y_scale=size * second)

    def _right(self, e: Array) -> tuple[Array, Array]:
        system = self.base.products.system
        B, C = system.B.copy(), system.C.copy()
        last = np.zeros((len(B), 1))
        for columns, rows in zip(self._columns, self._rows, strict=True):
            add_right(columns, rows, np.ascontiguousarray(e[:, None]), last)
        B[:, -1] = last[:, 0]
        C[-1, :-1] = C[:-1, -1] = self._Q.T @ e
        C[-1, -1] = e @ e
        return B, C


class Redrawn:
    """A design of another family than the Gaussian with other responses.

    Parameters
    ----------
    model : Model
        The design. Its priors are kept as they are.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> model = bl.load("models/cbpp")
    >>> float(Redrawn(model).model(model.design.y + 1.0).design.y[0] - model.design.y[0])
    1.0
    """

    def __init__(self, model: Model) -> None:
        _ = model.terms, model.theta_basis, model.structure  # computed before threads share them
        self.base = model

    def model(self, y: Array) -> Model:
        """The model with the response y (n,) in place of its own."""
        base = self.base
        arguments = dict(base.arguments) | {"data": SimulatedResponse()}
        model = object.__new__(Model)
        model.__dict__.update(vars(base) | {"design": replace(base.design, y=y), "arguments": arguments})
        return model


def refits_of(model: Model) -> Refits | Redrawn:
    """The design with other responses.

    Parameters
    ----------
    model : Model

    Returns
    -------
    Refits or Redrawn
    """
    return Refits(model) if model.family == "gaussian" else Redrawn(model)


class Outcome(NamedTuple):
    """One refit: its numbers, log-likelihood, whether it converged and is singular, and what went wrong."""

    values: Mapping[str, float] | Array | None
    loglik: float
    converged: bool
    singular: bool
    message: str


class Task(NamedTuple):
    """A block of simulations and its own seed."""

    start: int
    size: int
    seed: np.random.SeedSequence


def tasks(nsim: int, entropy: int) -> list[Task]:
    """Blocks of simulations, their seeds spawned from one."""
    starts = range(0, nsim, BLOCK)
    seeds = np.random.SeedSequence(entropy).spawn(len(starts))
    return [Task(start, min(BLOCK, nsim - start), seed) for start, seed in zip(starts, seeds, strict=True)]


def responses(fit: PointFit, task: Task, groups: Groups) -> Array:
    """Simulated responses of one block (size, n)."""
    return numbers_of(simulate(fit, task.size, seed=np.random.default_rng(task.seed), groups=groups)).T


def refitted(fit: PointFit, refits: Refits | Redrawn, y: Array) -> PointFit | str:
    """The fit of another response, or why there is none; a generalized one starts where the fit is, unless that is singular."""
    near = isinstance(fit, GeneralizedFit) and fit.method != "PQL" and not fit.singular
    try:
        return fit_alike(fit, refits.model(y), fit.fixed, fit.theta if near else None)
    except (BayesLMMError, np.linalg.LinAlgError) as error:
        return f"{type(error).__name__}: {error}"


def run(
    work: Callable[[Task], list[Outcome]],
    tasks: Sequence[Task],
    cores: int,
    models: Sequence[Model],
    advance: Callable[[int], None],
) -> list[Outcome]:
    """The outcomes of all tasks in order; the thread count changes nothing but the time."""
    found: dict[int, list[Outcome]] = {}
    small = all(model.structure.rest_size < THREADS_FROM for model in models)
    with one_thread(cores > 1 or small):
        if cores == 1:
            for task in tasks:
                found[task.start] = work(task)
                advance(task.size)
        else:
            with ThreadPoolExecutor(cores) as pool:
                pending = {pool.submit(work, task): task for task in tasks}
                for done in as_completed(pending):
                    found[pending[done].start] = done.result()
                    advance(pending[done].size)
    return [outcome for task in tasks for outcome in found[task.start]]


def cores_for(cores: int | None, models: Sequence[Model]) -> int:
    """Threads to use: as given, or what pays for models of this size."""
    if cores is None:
        systems = [model.products.system if model.family == "gaussian" else Laplace(model).system for model in models]
        entries = max(s.A11.size + s.A21.size + s.A22.size for s in systems)
        return (os.cpu_count() or 1) if entries >= PARALLEL_FROM else 1
    if isinstance(cores, bool) or not isinstance(cores, int | np.integer) or cores < 1:
        raise MethodError(f"cores={cores!r} must be a whole number, at least 1")
    return int(cores)


def entropy_of(seed: Any) -> int:
    """A whole number from which all seeds are spawned."""
    if seed is None:
        return int(np.random.SeedSequence().entropy)  # type: ignore[arg-type]
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(2**63))
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise MethodError(f"seed={seed!r} must be a whole number, a Generator, or None")
    return int(seed)


def check(fit: Any, nsim: Any, groups: Any) -> None:
    """Raise for what cannot be bootstrapped."""
    if not isinstance(fit, PointFit):
        raise MethodError(f"a bootstrap starts from a fit of bl.fit, not from a {type(fit).__name__}")
    if fit.method == "MAP":
        raise MethodError(
            "a bootstrap is of REML and ML fits, and of others without priors; bl.sample(model) shows what is uncertain under "
            "priors"
        )
    if isinstance(nsim, bool) or not isinstance(nsim, int | np.integer) or nsim < 1:
        raise MethodError(f"nsim={nsim!r} must be a whole number of simulations, at least 1")
    if groups not in ("new", "conditional"):
        raise MethodError(f'groups={groups!r} is not known; use "new" or "conditional"')


def failure_notes(failures: Sequence[tuple[int, str]], nsim: int) -> list[str]:
    """How many refits failed, and why."""
    if not failures:
        return []
    reasons = list(dict.fromkeys(message for _, message in failures))
    more = f"; and {len(reasons) - MOST_SHOWN} other reasons" if len(reasons) > MOST_SHOWN else ""
    return [f"{len(failures)} of {nsim} refits failed and are left out: {'; '.join(reasons[:MOST_SHOWN])}{more}."]


@contextmanager
def bar(progress: bool, total: int, label: str) -> Iterator[Callable[[int], None]]:
    """A rich bar over the simulations, or none."""
    if not progress:
        yield lambda done: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    counts = TextColumn("{task.completed}/{task.total}")
    with Progress(TextColumn(label), BarColumn(), counts, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)
