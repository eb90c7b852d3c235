"""A PyMC model's log density and gradient as one function, in the mode that is quickest to compile, and its points."""

from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor

from bayeslmm.joint import Joint

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


def graph_point(joint: Joint, y: np.ndarray) -> dict[str, np.ndarray]:
    """ψ and standard effects by the names of the non-centred graph's unconstrained variables."""
    model, at, pair = joint.model, 0, joint.n_sd
    found = {}
    for group in model.groups:
        k, pairs = len(model.effects(group)), len(model.pairs(group))
        found[f"sd_{group}_log__"], at = y[at : at + k], at + k
        if pairs:
            found[f"corr_{group}_partial__"], pair = y[pair : pair + pairs], pair + pairs
    if model.dispersion:
        found[f"{model.dispersion}_log__"], pair = np.array(y[pair]), pair + 1
    for name, block in model.priors.further.items():
        found[name], pair = y[pair : pair + len(block.coefficients)], pair + len(block.coefficients)
    if model.design.ordered:
        steps = len(model.design.thresholds)
        found["thresholds_ordered__"], pair = y[pair : pair + steps], pair + steps
    if "nu" in model.priors.second:
        found["nu_log__"], pair = np.array(y[pair]), pair + 1
    found["fixef"] = y[pair : joint.n_parameters]
    effects = y[joint.n_parameters :]
    for f, factor in enumerate(model.structure.factors):
        found[f"z_{factor.group}"] = effects[model.structure.rows(f)[:, None] + np.arange(factor.width)]
    return found


def direct_and_graph(joint: Joint, graph: pm.Model) -> Callable[[np.ndarray], tuple[tuple[float, np.ndarray], ...]]:
    """Coordinates of a density that is not adapted → its value and gradient, and those of the non-centred graph there."""
    theirs = density_and_gradient(graph)
    places = graph_point(joint, np.arange(joint.size))
    order = np.concatenate([np.ravel(places[v.name]).astype(int) for v in graph.continuous_value_vars])

    def at(y: np.ndarray) -> tuple[tuple[float, np.ndarray], ...]:
        value, gradient = joint.log_density(y)
        return (value, gradient[order]), theirs(graph_point(joint, y))

    return at
