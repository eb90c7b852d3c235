"""What statistics of a fit look like where the model is true: refits to data simulated from it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeslmm.refits import (
    Outcome,
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

Array = NDArray[np.float64]


def simulated(
    fit: PointFit, statistics: Callable[[PointFit], Array], nsim: int, seed: Any, progress: bool
) -> tuple[Array, list[str]]:
    """Statistics (nsim, m) of refits to responses simulated from the fit, and what went wrong; failures are left out."""
    refits = Refits(fit.model)
    with bar(progress, nsim, "diagnose") as advance:
        work = partial(_block, fit, refits, statistics)
        outcomes = run(work, tasks(nsim, entropy_of(seed)), cores_for(None, [fit.model]), [fit.model], advance)
    failures = [(i, o.message) for i, o in enumerate(outcomes) if o.values is None]
    return np.array([o.values for o in outcomes if o.values is not None]), failure_notes(failures, nsim)


def _block(fit: PointFit, refits: Refits, statistics: Callable[[PointFit], Array], task: Task) -> list[Outcome]:
    found = []
    for y in responses(fit, task, "new"):
        again = refitted(fit, refits, y)
        if isinstance(again, str):
            found.append(Outcome(None, np.nan, False, False, again))
        else:
            found.append(Outcome(statistics(again), again.loglik, again.converged, again.singular, ""))
    return found
