"""The kernels compiled ahead of their first use, by small fits that call them."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from bayeslmm.fit import fit
from bayeslmm.model import Model
from bayeslmm.predict import predict
from bayeslmm.sample import sample

SHORT: dict[str, Any] = {"draws": 10, "tune": 10, "chains": 1, "seed": 1, "progress": False}


def compile_kernels() -> None:
    """Fit, predict and sample small models of each kind, in two processes; what is compiled stays on disk."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for kind in [pool.submit(gaussian), pool.submit(generalized)]:
            kind.result()


def gaussian() -> None:
    """Two crossed groups."""
    model = Model("y ~ x + (1 | g) + (1 | h)", _table())
    predict(fit(model), interval=None)
    sample(model, **SHORT)


def generalized() -> None:
    """Counts in one group, by each route."""
    model = Model("y ~ x + (1 | g)", _table(), family="poisson")
    predict(fit(model, "AGHQ", nodes=3), interval=None)
    sample(model, **SHORT)
    sample(model, **SHORT, route="laplace")


def _table() -> dict[str, list[int]]:
    levels = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    return {"y": [1, 3, 2, 5, 6, 8, 4, 6, 5, 9, 9, 12], "x": [0, 1, 2] * 4, "g": levels, "h": [0, 1, 1, 0] * 3}
