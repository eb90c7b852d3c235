"""Model → Posterior by NUTS: on the collapsed density, or on the hierarchical graph."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayeslmm.bounds import Bounds
from bayeslmm.direct import Direct
from bayeslmm.errors import MethodError
from bayeslmm.exact.compiled import compilation_notice
from bayeslmm.exact.density import log_posterior
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior, posterior_tree
from bayeslmm.propriety import check_proper
from bayeslmm.restoration import MOST_LOG_LIKELIHOOD, assemble, restore_tree
from bayeslmm.threads import one_thread

Array = NDArray[np.float64]
Route = Literal["auto", "marginal", "hierarchical"]
START_WIDTH = 0.5


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
) -> Posterior:
    """Draw from the posterior of a Gaussian mixed model by NUTS.

    On the marginal route the random effects, and β where its prior is normal or flat, are integrated out: NUTS moves in
    the standard deviations, correlations and σ only, and (β, u) are drawn afterwards, exactly, given each draw. On the
    hierarchical route every effect is a variable of a PyMC model.

    Parameters
    ----------
    model : Model
        What to sample.
    draws, tune, chains : int
        Kept draws and warm-up draws of each chain, and how many chains.
    cores : int, optional
        Chains at a time; as many as the machine has. The draws do not depend on it.
    seed : int, optional
        Makes the draws reproducible.
    route : {"auto", "marginal", "hierarchical"}
        "auto" is marginal.
    progress : bool
        Whether to show a progress bar.
    target_accept : float
        NUTS's target acceptance rate; nearer 1 takes smaller steps.
    parametrisation : "centred", "noncentred" or mapping of group to either, optional
        Hierarchical route only; otherwise chosen by how much the data say about each group.
    store : path, optional
        Folder (zarr) to which draws are written while sampling, marginal route with closed-form priors only. If it is
        interrupted, ``bl.posterior(model, xarray.open_datatree(store, engine="zarr", consolidated=False))`` reads it.

    Returns
    -------
    Posterior

    Raises
    ------
    ImproperPosteriorError
        Flat priors leave the posterior improper; names the group.
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
    _check(draws, tune, chains, target_accept, route, parametrisation)
    if store is not None and (route == "hierarchical" or not _closed_form(model)):
        raise MethodError(
            "store= is for the marginal route with closed-form priors; PyMC samples this: save() the result"
        )
    model.require_gaussian()
    check_proper(model)
    settings: dict[str, Any] = {
        "draws": draws, "tune": tune, "chains": chains, "cores": min(cores or os.cpu_count() or 1, chains),
        "seed": int(np.random.default_rng().integers(2**32)) if seed is None else seed, "target_accept": target_accept,
        "progress": progress, "store": store,
    }  # fmt: skip
    started = time.perf_counter()
    used = "hierarchical" if route == "hierarchical" else "marginal"
    with one_thread():
        hierarchical = used == "hierarchical"
        tree = _hierarchical(model, parametrisation, settings) if hierarchical else _marginal(model, settings)
    told = {name: settings[name] for name in ("tune", "target_accept", "seed")}
    tree.attrs.update({"seconds": time.perf_counter() - started, "route": used, **told})
    return Posterior(model, tree, used)


def _check(draws: int, tune: int, chains: int, target_accept: float, route: str, parametrisation: Any) -> None:
    for name, value in (("draws", draws), ("chains", chains), ("tune", tune)):
        if not isinstance(value, int | np.integer) or value < (0 if name == "tune" else 1):
            raise MethodError(f"{name}={value!r} must be a positive whole number")
    if not 0 < target_accept < 1:
        raise MethodError(f"target_accept={target_accept!r} must lie between 0 and 1")
    if route not in ("auto", "marginal", "hierarchical"):
        raise MethodError(f'route={route!r} is not known; use "auto", "marginal" or "hierarchical"')
    if parametrisation is not None and route != "hierarchical":
        raise MethodError(
            'parametrisation= is for route="hierarchical"; the marginal route has no random effects to place'
        )


def _closed_form(model: Model) -> bool:
    return all(prior.closed_form for prior in model.priors.parameters().values())


def _marginal(model: Model, settings: dict[str, Any]) -> Any:
    """NUTS on the collapsed density, directly where every prior has a closed form, through PyMC otherwise."""
    if not _closed_form(model):
        return _through_graph(model, settings)
    direct = Direct(model)
    trace = _nutpie(_compiled(direct, settings), settings)
    x = np.asarray(trace["posterior"]["x"].values, float)
    if x.shape[1] < settings["draws"] or np.isnan(x).any():
        raise KeyboardInterrupt("sampling was interrupted; draws written to store= so far can be read from there")
    return assemble(model, direct, x, _statistics(trace["sample_stats"]), settings)


def _compiled(direct: Direct, settings: dict[str, Any]) -> Any:
    from nutpie.compiled_pyfunc import from_pyfunc

    system, layout, size, bounds = direct.system, direct.layout, direct.size, Bounds(direct)
    with compilation_notice(log_posterior):
        x = direct.sampling_start()
        log_posterior(system, layout, x, True)
    centre = bounds.start(x)

    def make_logp() -> Callable[[Array], tuple[float, Array]]:
        return bounds.log_density if bounds else lambda x: log_posterior(system, layout, x, True)

    def make_expand(seed1: int, seed2: int, chain: int) -> Callable[[Array], dict[str, Array]]:
        return lambda x: {"x": bounds.coordinates(x)}

    def start(seed: int) -> Array:
        return centre + np.random.default_rng(seed).uniform(-START_WIDTH, START_WIDTH, size)

    return from_pyfunc(
        ndim=size,
        make_logp_fn=make_logp,
        make_expand_fn=make_expand,
        expanded_dtypes=[np.dtype("float64")],
        expanded_shapes=[(size,)],
        expanded_names=["x"],
        make_initial_point_fn=start,
    )


def _nutpie(compiled: Any, settings: dict[str, Any]) -> Any:
    import nutpie

    options: dict[str, Any] = {}
    if settings["store"] is not None:
        options["zarr_store"] = nutpie.zarr_store.LocalStore(os.fspath(settings["store"]), mkdir=True)
    with _progress(settings) as callback:
        return nutpie.sample(
            compiled,
            draws=settings["draws"],
            tune=settings["tune"],
            chains=settings["chains"],
            cores=settings["cores"],
            seed=int(settings["seed"]),
            target_accept=settings["target_accept"],
            save_warmup=False,
            progress_bar=False,
            progress_callback=callback,
            progress_rate=100,
            **options,
        )


@contextmanager
def _progress(settings: dict[str, Any]) -> Iterator[Callable[[Any], None] | None]:
    """A rich bar over all chains, fed by the sampler; None where no progress is wanted."""
    if not settings["progress"]:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    total = settings["chains"] * (settings["draws"] + settings["tune"])
    columns = (
        TextColumn("sampling"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} draws"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("sampling", total=total, note="")

        def callback(chains: Any) -> None:
            done = sum(chain.finished_draws for chain in chains)
            divergent = sum(chain.divergences for chain in chains)
            bar.update(task, completed=done, note=f"{divergent} divergences" if divergent else "")

        yield callback
        bar.update(task, completed=total)


def _statistics(node: Any) -> dict[str, Any]:
    """Sample statistics under ArviZ's names."""
    names = {"logp": "lp", "depth": "tree_depth", "maxdepth_reached": "reached_max_treedepth"}
    stats = node.to_dataset() if hasattr(node, "to_dataset") else node
    kept = ("diverging", "energy", "n_steps", "step_size", "logp", "depth", "maxdepth_reached", "mean_tree_accept")
    found = {names.get(n, n): stats[n].values for n in kept if n in stats and stats[n].ndim == 2}
    if "mean_tree_accept" in found:
        found["acceptance_rate"] = found.pop("mean_tree_accept")
    return found


def _hierarchical(model: Model, parametrisation: Any, settings: dict[str, Any]) -> Any:
    from bayeslmm.graph.hierarchical import build

    trace = _pymc(build(model, parametrisation), settings)
    draws = {str(name): np.asarray(values.values) for name, values in trace["posterior"].data_vars.items()}
    return _kept(model, draws, _statistics(trace["sample_stats"]))


def _kept(model: Model, draws: Mapping[str, Array], statistics: dict[str, Any]) -> Any:
    """Draws of the hierarchical graph's variables → the DataTree."""
    effects = {group: draws[f"ranef_{group}"] for group in model.groups}
    tree = posterior_tree(model, draws, effects, {}, statistics)
    shape = draws["sigma"].shape
    if shape[0] * shape[1] * model.design.nobs <= MOST_LOG_LIKELIHOOD:
        Posterior(model, tree, "hierarchical").store_log_likelihood()
    return tree


def _through_graph(model: Model, settings: dict[str, Any]) -> Any:
    """The collapsed density with priors that only PyMC knows; (β, u) restored as on the direct path."""
    from bayeslmm.graph.marginal import build

    trace = _pymc(build(model), settings)
    draws = {name: np.asarray(values.values) for name, values in trace["posterior"].data_vars.items()}
    return restore_tree(model, draws, _statistics(trace["sample_stats"]), settings)


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
    statistics = _statistics(data["sample_stats"]) if "sample_stats" in data.children else {}
    settings = {"seed": seed, "cores": cores or os.cpu_count() or 1}
    if set(draws) == {"x"}:
        return _named(model, assemble(model, Direct(model), draws["x"], statistics, settings), "marginal", seed)
    effects = [f"ranef_{group}" for group in model.groups]
    fixed = ["fixef"] if model.products.n_fixed else []
    hierarchical = all(name in draws for name in [*effects, *fixed])
    needed = [f"sd_{g}" for g in model.groups] + [f"corr_{g}" for g in model.groups if model.pairs(g)] + ["sigma"]
    needed += fixed if hierarchical or not model.priors.gaussian else []
    absent = [name for name in needed if name not in draws]
    if absent:
        raise MethodError(f"the posterior has no variable {absent[0]!r}; its variables are {', '.join(draws)}")
    if not hierarchical:
        return _named(model, restore_tree(model, draws, statistics, settings), "marginal", seed)
    return _named(model, _kept(model, draws, statistics), "hierarchical", seed)


def _named(model: Model, tree: Any, route: str, seed: int) -> Posterior:
    tree.attrs.update({"route": route, "seed": int(seed)})
    return Posterior(model, tree, route)
