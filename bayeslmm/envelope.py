"""What statistics of a fit look like where the model is true: refits to data simulated from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bayeslmm.comparable import fit_alike
from bayeslmm.errors import BayesLMMError
from bayeslmm.generalized import GeneralizedFit
from bayeslmm.refits import (
    Outcome,
    Redrawn,
    Refits,
    Task,
    bar,
    cores_for,
    entropy_of,
    failure_notes,
    refitted,
    responses,
    run,
    tasks,
)
from bayeslmm.result import PointFit
from bayeslmm.threads import one_thread

Array = NDArray[np.float64]


def simulated(
    fit: PointFit, statistics: Callable[[PointFit], Array], nsim: int, seed: Any, progress: bool
) -> tuple[Array, list[str]]:
    """Statistics (nsim, m) of refits to responses simulated from the fit, and what went wrong; failures are left out."""
    if isinstance(fit, GeneralizedFit):
        return _generalized(fit, statistics, nsim, seed, progress)
    refits = Refits(fit.model)
    with bar(progress, nsim, "diagnose") as advance:
        work = partial(_block, fit, refits, statistics)
        outcomes = run(work, tasks(nsim, entropy_of(seed)), cores_for(None, [fit.model]), [fit.model], advance)
    failures = [(i, o.message) for i, o in enumerate(outcomes) if o.values is None]
    return np.array([o.values for o in outcomes if o.values is not None]), failure_notes(failures, nsim)


def _generalized(
    fit: GeneralizedFit, statistics: Callable[[PointFit], Array], nsim: int, seed: Any, progress: bool
) -> tuple[Array, list[str]]:
    """The same for another family."""
    outcomes: list[Outcome] = []
    with bar(progress, nsim, "diagnose") as advance, one_thread():
        for task in tasks(nsim, entropy_of(seed)):
            outcomes += [_again(fit, y, statistics) for y in responses(fit, task, "new")]
            advance(task.size)
    failures = [(i, o.message) for i, o in enumerate(outcomes) if o.values is None]
    return np.array([o.values for o in outcomes if o.values is not None]), failure_notes(failures, nsim)


def _again(fit: GeneralizedFit, y: Array, statistics: Callable[[PointFit], Array]) -> Outcome:
    try:
        again = refit(fit, y)
    except (BayesLMMError, np.linalg.LinAlgError) as error:
        return Outcome(None, np.nan, False, False, f"{type(error).__name__}: {error}")
    if not again.converged:
        return Outcome(None, again.loglik, False, False, "not converged")
    return Outcome(statistics(again), again.loglik, True, again.singular, "")


def refit(fit: GeneralizedFit, y: Array) -> GeneralizedFit:
    """The fit of the same design with another response, by the same method, with the same parameters held.

    Parameters
    ----------
    fit : GeneralizedFit
    y : ndarray (n,)

    Returns
    -------
    GeneralizedFit
    """
    return cast(GeneralizedFit, fit_alike(fit, Redrawn(fit.model).model(y), fit.fixed))


def _block(fit: PointFit, refits: Refits, statistics: Callable[[PointFit], Array], task: Task) -> list[Outcome]:
    found = []
    for y in responses(fit, task, "new"):
        again = refitted(fit, refits, y)
        if isinstance(again, str):
            found.append(Outcome(None, np.nan, False, False, again))
        else:
            found.append(Outcome(statistics(again), again.loglik, again.converged, again.singular, ""))
    return found
