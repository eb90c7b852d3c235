"""A PyMC model's log density and gradient as one function, compiled in the mode that is quickest to compile."""

from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor

QUICK = "FAST_COMPILE"


def density_and_gradient(graph: pm.Model, jacobian: bool = True) -> Callable[[dict], tuple[float, np.ndarray]]:
    """Point by names → value and gradient, flat in the order of the value variables.

    One differentiation serves all variables, where `Model.dlogp` goes through the graph once for each.
    """
    logp, order = graph.logp(jacobian=jacobian), graph.continuous_value_vars
    function = graph.compile_fn([logp, *pytensor.grad(logp, order)], inputs=order, mode=QUICK)

    def at(point: dict) -> tuple[float, np.ndarray]:
        value, *parts = function(point)
        return float(value), np.concatenate([np.ravel(part) for part in parts])

    return at
