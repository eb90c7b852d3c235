"""Model → Posterior by NUTS: on the collapsed density, the joint density of any family, or a PyMC graph."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayeslmm.bounds import Bounds
from bayeslmm.direct import Direct
from bayeslmm.errors import MethodError, NotSupportedError
from bayeslmm.exact import hierarchical
from bayeslmm.exact.compiled import compilation_notice
from bayeslmm.exact.density import log_posterior
from bayeslmm.family import HETEROSCEDASTIC
from bayeslmm.model import Model
from bayeslmm.nuts import check_complete, density_trace, statistics
from bayeslmm.posterior import Posterior, posterior_tree
from bayeslmm.propriety import check_proper
from bayeslmm.restoration import MOST_LOG_LIKELIHOOD, assemble, restore_tree
from bayeslmm.threads import one_thread

Array = NDArray[np.float64]
Route = Literal["auto", "marginal", "hierarchical", "laplace"]


def sample(
    model: Model,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    *,
    cores: int | None = None,
    seed: int | None = None,
    route: Route = "auto",
    progress: bool = True,
    target_accept: float = 0.8,
    parametrisation: str | Mapping[str, str] | None = None,
    store: str | os.PathLike[str] | None = None,
    corrected: bool = True,
) -> Posterior:
    """Draw from the posterior of a mixed model by NUTS.

    On the marginal route, for a Gaussian response, the random effects, and β where its prior is normal or flat, are
    integrated out: NUTS moves in the standard deviations, correlations and σ only, and (β, u) are drawn afterwards,
    exactly, given each draw. On the hierarchical route every effect is sampled: of a Gaussian model as a variable of a
    PyMC model; of another family directly, in coordinates laid around the mode of Laplace's approximation. On the Laplace
    route, for another family, NUTS moves in the parameters only, on Laplace's approximation of their posterior; effects are
    drawn afterwards, and both are corrected by importance weights where these can be trusted. A Gaussian model with a
    formula for σ goes the ways of another family.

    Parameters
    ----------
    model : Model
        What to sample.
    draws, tune, chains : int
        Kept draws and warm-up draws of each chain, and how many chains.
    cores : int, optional
        Chains at a time. If not given, as many as the machine has cores, or one where a trial shows that the gradient is too
        cheap for threads to pay. The draws do not depend on it.
    seed : int, optional
        Makes the draws reproducible.
    route : {"auto", "marginal", "hierarchical", "laplace"}
        "auto" is marginal for a Gaussian response, hierarchical for another.
    progress : bool
        Whether to show a progress bar.
    target_accept : float
        NUTS's target acceptance rate; nearer 1 takes smaller steps.
    parametrisation : "centred", "noncentred" or mapping of group to either, optional
        Hierarchical route only: how the PyMC model places each group's effects. Otherwise chosen by how much the data
        say about each group; given for another family than the Gaussian, the PyMC model is sampled.
    store : path, optional
        Folder (zarr) to which draws are written while sampling, marginal route with closed-form priors only. If it is
        interrupted, ``bl.posterior(model, xarray.open_datatree(store, engine="zarr", consolidated=False))`` reads it.
    corrected : bool
        Laplace route only: whether to correct the approximation. Draws of which ``.diagnostics.pareto_k`` is above its limit
        stay uncorrected in any case, and the result says so.

    Returns
    -------
    Posterior

    Raises
    ------
    ImproperPosteriorError
        Flat priors leave the posterior improper; names the group.
    NotSupportedError
        The marginal route for another family than the Gaussian, or with a formula for σ; the Laplace route for t responses,
        or with a prior without a closed form.
    MethodError
        An option has no meaning here.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 5.0, 4.5, 6.0, 2.0, 3.5], "g": list("aabbccdd")}
    >>> post = bl.sample(bl.Model("y ~ 1 + (1 | g)", data), draws=50, tune=100, chains=2, seed=1, progress=False)
    >>> post.data.posterior.sizes["draw"]
    50
    """
    _check(draws, tune, chains, target_accept, route, parametrisation, corrected)
    gaussian = model.family == "gaussian"
    used = _route(model, route)
    if store is not None and (used != "marginal" or not _closed_form(model)):
        raise MethodError(
            "store= is for the marginal route with closed-form priors; save() the result of any other run"
        )
    check_proper(model)
    settings: dict[str, Any] = {
        "draws": draws, "tune": tune, "chains": chains, "cores": min(cores or os.cpu_count() or 1, chains),
        "seed": int(np.random.default_rng().integers(2**32)) if seed is None else seed, "target_accept": target_accept,
        "progress": progress, "store": store, "cores_given": cores is not None,
    }  # fmt: skip
    started = time.perf_counter()
    with one_thread():
        if used == "marginal":
            tree = _marginal(model, settings)
        elif used == "laplace":
            tree = _laplace(model, settings, corrected)
        elif not gaussian and parametrisation is None and direct_priors(model):
            tree = _joint(model, settings)
        else:
            tree = _hierarchical(model, parametrisation, settings)
    told = {name: settings[name] for name in ("tune", "target_accept", "seed")}
    tree.attrs.update({"seconds": time.perf_counter() - started, "route": used, **told})
    return Posterior(model, tree, used)


def _route(model: Model, route: Route) -> str:
    """The route taken; raises where the model does not go that way."""
    gaussian = model.family == "gaussian"
    if route in ("auto", "hierarchical"):
        return "marginal" if gaussian and route == "auto" else "hierarchical"
    if not gaussian and route == "marginal":
        why = f"the random effects of a {model.family} model do not integrate out exactly"
        if model.family == HETEROSCEDASTIC:
            why = "the marginal route is for Gaussian models with one residual variance"
        raise NotSupportedError(f"{why}; use the hierarchical route")
    if gaussian and route == "laplace":
        raise MethodError("the random effects of a Gaussian model integrate out exactly; use the marginal route")
    if route == "laplace" and model.family == "t":
        raise NotSupportedError(
            "the effects' mode given t responses may be one of several and jump, and Laplace's approximation with it, which "
            "NUTS cannot follow; use the hierarchical route"
        )
    if route == "laplace" and not direct_priors(model):
        raise NotSupportedError(
            "the Laplace route needs priors with a closed form, none of them Uniform, and of coefficients none that stops at 0; "
            "use the hierarchical route"
        )
    return route


def _check(
    draws: int, tune: int, chains: int, target_accept: float, route: str, parametrisation: Any, corrected: Any
) -> None:
    for name, value in (("draws", draws), ("chains", chains), ("tune", tune)):
        if not isinstance(value, int | np.integer) or value < (0 if name == "tune" else 1):
            raise MethodError(f"{name}={value!r} must be a positive whole number")
    if not 0 < target_accept < 1:
        raise MethodError(f"target_accept={target_accept!r} must lie between 0 and 1")
    if route not in ("auto", "marginal", "hierarchical", "laplace"):
        raise MethodError(f'route={route!r} is not known; use "auto", "marginal", "hierarchical" or "laplace"')
    if parametrisation is not None and route != "hierarchical":
        raise MethodError(
            'parametrisation= is for route="hierarchical"; the marginal route has no random effects to place'
        )
    if corrected is not True and route != "laplace":
        raise MethodError('corrected= is for route="laplace"; the other routes approximate nothing')


def _closed_form(model: Model) -> bool:
    return all(prior.closed_form for prior in model.priors.parameters().values())


def direct_priors(model: Model) -> bool:
    """Whether priors have closed forms without limits but 0, those of coefficients not even that: no step leaves the support."""
    priors = model.priors
    coefficients = all(prior.nonnegative is False for prior in priors.fixef)
    return coefficients and all(p.closed_form and p.name != "Uniform" for p in priors.parameters().values())


def _marginal(model: Model, settings: dict[str, Any]) -> Any:
    """NUTS on the collapsed density, directly where every prior has a closed form, through PyMC otherwise."""
    if not _closed_form(model):
        return _through_graph(model, settings)
    direct = Direct(model)
    trace = _traced(direct, settings)
    x = np.asarray(trace["posterior"]["x"].values, float)
    check_complete(x, settings)
    return assemble(model, direct, x, statistics(trace["sample_stats"]), settings)


def _joint(model: Model, settings: dict[str, Any]) -> Any:
    """NUTS on the joint density of parameters and effects of any family."""
    from bayeslmm.joint import Joint

    with compilation_notice(hierarchical.log_posterior):
        joint = Joint(model)
        joint.log_density(np.zeros(joint.size))
    trace = density_trace(joint.size, lambda: joint.log_density, lambda y: y, np.zeros(joint.size), settings)
    y = np.asarray(trace["posterior"]["x"].values, float)
    check_complete(y, settings)
    return _kept(model, joint.natural(y), statistics(trace["sample_stats"]))


def _traced(direct: Direct, settings: dict[str, Any]) -> Any:
    system, layout, bounds = direct.system, direct.layout, Bounds(direct)
    with compilation_notice(log_posterior):
        x = direct.sampling_start()
        log_posterior(system, layout, x, True)
    density = bounds.log_density if bounds else lambda x: log_posterior(system, layout, x, True)
    return density_trace(direct.size, lambda: density, bounds.coordinates, bounds.start(x), settings)


def _laplace(model: Model, settings: dict[str, Any], corrected: bool) -> Any:
    """NUTS on Laplace's approximation of the parameters' posterior; effects, and both corrected, afterwards."""
    from bayeslmm.laplace_route import laplace_draws

    found = laplace_draws(model, settings, corrected)
    tree = _kept(model, found.variables, found.statistics, "laplace")
    tree.attrs.update(found.attrs)
    return tree


def _hierarchical(model: Model, parametrisation: Any, settings: dict[str, Any]) -> Any:
    from bayeslmm.graph.hierarchical import build

    trace = _pymc(build(model, parametrisation), settings)
    draws = {str(name): np.asarray(values.values) for name, values in trace["posterior"].data_vars.items()}
    return _kept(model, draws, statistics(trace["sample_stats"]))


def _kept(model: Model, draws: Mapping[str, Array], stats: dict[str, Any], route: str = "hierarchical") -> Any:
    """Draws of the hierarchical route's variables → the DataTree."""
    effects = {group: draws[f"ranef_{group}"] for group in model.groups}
    tree = posterior_tree(model, draws, effects, {}, stats)
    sizes = tree["posterior"].sizes
    if sizes["chain"] * sizes["draw"] * model.design.nobs <= MOST_LOG_LIKELIHOOD:
        Posterior(model, tree, route).store_log_likelihood()
    return tree


def _through_graph(model: Model, settings: dict[str, Any]) -> Any:
    """The collapsed density with priors that only PyMC knows; (β, u) restored as on the direct path."""
    from bayeslmm.graph.marginal import build

    trace = _pymc(build(model), settings)
    draws = {name: np.asarray(values.values) for name, values in trace["posterior"].data_vars.items()}
    return restore_tree(model, draws, statistics(trace["sample_stats"]), settings)


def _pymc(graph: Any, settings: dict[str, Any]) -> Any:
    import pymc as pm

    with graph:
        return pm.sample(
            settings["draws"],
            tune=settings["tune"],
            chains=settings["chains"],
            cores=settings["cores"],
            random_seed=int(settings["seed"]),
            progressbar=settings["progress"],
            quiet=not settings["progress"],
            nuts={"target_accept": settings["target_accept"]},
            compute_convergence_checks=False,
        )


def posterior(model: Model, data: Any, *, seed: int = 0, cores: int | None = None) -> Posterior:
    """A Posterior from draws of the graph that `to_pymc` gives, however they were sampled.

    Parameters
    ----------
    model : Model
        The model whose graph was sampled.
    data : xarray.DataTree
        With a group `posterior` holding the graph's variables, or what `sample` wrote to ``store=``. On the marginal
        route fixef and ranef are restored.
    seed : int
        For the restored draws.
    cores : int, optional
        Threads used to restore.

    Returns
    -------
    Posterior

    Raises
    ------
    MethodError
        The tree lacks a variable of the model; names it.

    Examples
    --------
    >>> import bayeslmm as bl, pymc as pm                                    # doctest: +SKIP
    >>> with bl.to_pymc(model, route="marginal"):                            # doctest: +SKIP
    ...     tree = pm.sample()
    >>> bl.posterior(model, tree).fixef                                      # doctest: +SKIP
    """
    node = data["posterior"]
    draws = {str(name): np.asarray(v.transpose("chain", "draw", ...).values) for name, v in node.data_vars.items()}
    stats = statistics(data["sample_stats"]) if "sample_stats" in data.children else {}
    settings = {"seed": seed, "cores": cores or os.cpu_count() or 1}
    if set(draws) == {"x"}:
        return _named(model, assemble(model, Direct(model), draws["x"], stats, settings), "marginal", seed)
    effects = [f"ranef_{group}" for group in model.groups]
    fixed = ["fixef"] if model.X.shape[1] else []
    hierarchical = all(name in draws for name in [*effects, *fixed])
    needed = [f"sd_{g}" for g in model.groups] + [f"corr_{g}" for g in model.groups if model.pairs(g)]
    needed += [*([model.dispersion] if model.dispersion else []), *model.priors.further]
    needed += model.priors.second_blocks
    gaussian = model.family == "gaussian"
    needed += fixed if hierarchical or not (gaussian and model.priors.gaussian) else []
    needed += [] if gaussian else effects
    absent = [name for name in needed if name not in draws]
    if absent:
        raise MethodError(f"the posterior has no variable {absent[0]!r}; its variables are {', '.join(draws)}")
    if not hierarchical:
        return _named(model, restore_tree(model, draws, stats, settings), "marginal", seed)
    return _named(model, _kept(model, draws, stats), "hierarchical", seed)


def _named(model: Model, tree: Any, route: str, seed: int) -> Posterior:
    tree.attrs.update({"route": route, "seed": int(seed)})
    return Posterior(model, tree, route)
