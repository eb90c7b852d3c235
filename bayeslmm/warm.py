"""The kernels compiled ahead of their first use, by small fits that call them."""

from __future__ import annotations

from bayeslmm.fit import fit
from bayeslmm.model import Model
from bayeslmm.predict import predict
from bayeslmm.sample import sample


def compile_kernels() -> None:
    """Fit, predict and sample small models of each kind; what is compiled stays on disk."""
    levels = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    table = {"y": [1, 3, 2, 5, 6, 8, 4, 6, 5, 9, 9, 12], "x": [0, 1, 2] * 4, "g": levels, "h": [0, 1, 1, 0] * 3}
    model = Model("y ~ x + (1 | g) + (1 | h)", table)
    predict(fit(model), interval=None)
    sample(model, draws=10, tune=10, chains=1, seed=1, progress=False)
    counts = model.update("y ~ x + (1 | g)", family="poisson")
    predict(fit(counts, "AGHQ", nodes=3), interval=None)
    sample(counts, draws=10, tune=10, chains=1, seed=1, progress=False)
    sample(counts, draws=10, tune=10, chains=1, seed=1, progress=False, route="laplace")
