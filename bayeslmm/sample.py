"""Model → Posterior by NUTS: on the collapsed density, or on the hierarchical graph."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayeslmm.direct import Direct
from bayeslmm.errors import ImproperPosteriorError, MethodError
from bayeslmm.exact.restore import restore
from bayeslmm.model import Model
from bayeslmm.posterior import Posterior, posterior_tree

Array = NDArray[np.float64]
Route = Literal["auto", "marginal", "hierarchical"]
# Random effects times draws that are stored; beyond it only their means and standard deviations are (8 bytes each).
MOST_EFFECT_DRAWS = 50_000_000
# Numbers of the pointwise log-likelihood that are stored at once; beyond it `Posterior.log_likelihood` computes them.
MOST_LOG_LIKELIHOOD = 4_000_000
RESTORE_AT_ONCE = 2_000_000
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

    Other Parameters
    ----------------
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
        Folder (zarr) to which draws are written while sampling, readable if it is interrupted.

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
    check_proper(model)
    settings: dict[str, Any] = {
        "draws": draws, "tune": tune, "chains": chains, "cores": min(cores or os.cpu_count() or 1, chains),
        "seed": np.random.SeedSequence().entropy % 2**32 if seed is None else seed, "target_accept": target_accept,
        "progress": progress, "store": store,
    }  # fmt: skip
    started = time.perf_counter()
    if route == "hierarchical":
        tree = _hierarchical(model, parametrisation, settings)
        used = "hierarchical"
    else:
        tree, used = _marginal(model, settings), "marginal"
    tree.attrs.update({"seconds": time.perf_counter() - started, "route": used, "seed": int(settings["seed"])})
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
        raise MethodError('parametrisation= is for route="hierarchical"; the marginal route has no random effects to place')


def check_proper(model: Model) -> None:
    """Raise where flat priors leave the posterior without a finite integral.

    Raises
    ------
    ImproperPosteriorError
        With a flat prior on an effect's sd the density falls like sd**-(r), r the number of levels that the fixed
        part leaves free; r < 2 has no finite integral (Gelman 2006, Bayesian Analysis 1(3)).
    """
    n, p = model.X.shape
    if model.priors.sigma.name == "HalfFlat" and n - p < 2:
        raise ImproperPosteriorError(f"flat priors on sigma and {p} coefficients need at least {p + 2} rows; there are {n}")
    flat_beta = [j for j, prior in enumerate(model.priors.fixef) if prior.name == "Flat"]
    X = model.X[:, flat_beta]
    for term in model.design.random:
        offset = model.effects(term.group).index(term.effects[0])
        for a, effect in enumerate(term.effects):
            if model.priors.sd[term.group][offset + a].name != "HalfFlat":
                continue
            free = _free_levels(term.columns[:, a], term.codes, len(term.levels), X)
            if free < 2:
                raise ImproperPosteriorError(
                    f"a flat prior on sd_{term.group}[{effect}] is improper: {term.group!r} has {len(term.levels)} levels and "
                    f"the flat coefficients leave {free} of them to learn it from; at least 2 are needed. Give the sd a proper "
                    "prior, such as bl.Prior('HalfNormal', sigma=...)"
                )


def _free_levels(column: Array, codes: NDArray[np.integer], levels: int, X: Array) -> int:
    """Rank of one effect's columns beyond those of X; levels − p when that alone settles it."""
    if levels - X.shape[1] >= 2:
        return levels - X.shape[1]
    indicator = np.zeros((len(column), levels))
    indicator[np.arange(len(column)), codes] = column
    base = np.linalg.matrix_rank(X) if X.shape[1] else 0
    return int(np.linalg.matrix_rank(np.column_stack([X, indicator])) - base)


def _marginal(model: Model, settings: dict[str, Any]) -> Any:
    """NUTS on the collapsed density, directly where every prior has a closed form, through PyMC otherwise."""
    if not all(prior.closed_form for prior in model.priors.parameters().values()):
        return _through_graph(model, settings)
    direct = Direct(model)
    trace = _nutpie(_compiled(direct, settings), settings)
    x = np.asarray(trace["posterior"]["x"].values, float)
    return assemble(model, direct, x, _statistics(trace["sample_stats"]), settings)


def assemble(model: Model, direct: Direct, x: Array, statistics: dict[str, Any], settings: dict[str, Any]) -> Any:
    """Coordinates (chains, draws, size) → the DataTree, with (β, u) restored."""
    natural = natural_draws(direct, x)
    keep = x.shape[0] * x.shape[1] * len(direct.system.B) <= MOST_EFFECT_DRAWS
    beta, effects, moments = restored(direct, x, int(settings["seed"]), int(settings["cores"]), keep)
    natural["fixef"] = beta
    tree = posterior_tree(model, natural, effects, moments, statistics)
    if x.shape[0] * x.shape[1] * model.design.nobs <= MOST_LOG_LIKELIHOOD and keep:
        Posterior(model, tree, "marginal").store_log_likelihood()
    return tree


def _compiled(direct: Direct, settings: dict[str, Any]) -> Any:
    from nutpie.compiled_pyfunc import from_pyfunc

    from bayeslmm.exact.density import log_posterior

    system, layout, size = direct.system, direct.layout, direct.size
    centre = direct.sampling_start()

    def make_logp() -> Callable[[Array], tuple[float, Array]]:
        return lambda x: log_posterior(system, layout, x, True)

    def make_expand(seed1: int, seed2: int, chain: int) -> Callable[[Array], dict[str, Array]]:
        return lambda x: {"x": x.copy()}

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
    columns = (TextColumn("sampling"), BarColumn(), TextColumn("{task.completed}/{task.total} draws"), TextColumn("{task.fields[note]}"))
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


def natural_draws(direct: Direct, x: Array) -> dict[str, Array]:
    """Draws of sd, correlations and σ by posterior variable, from coordinates (chains, draws, size)."""
    model, shape = direct.model, x.shape[:2]
    out: dict[str, Array] = {}
    at = 0
    sd = np.exp(x[..., : direct.n_sd])
    for group in model.groups:
        k = len(model.effects(group))
        out[f"sd_{group}"] = sd[..., at : at + k]
        at += k
        if model.pairs(group):
            out[f"corr_{group}"] = np.concatenate(direct.correlations(x, group), axis=-1).reshape(*shape, -1)
    out["sigma"] = np.exp(x[..., direct.n_sd + direct.n_corr])
    return out


def restored(
    direct: Direct, x: Array, seed: int, cores: int, keep: bool
) -> tuple[Array, dict[str, Array], dict[str, tuple[Array, Array]]]:
    """β (chains, draws, p) and effects by group (chains, draws, levels, k), or only their means and sds.

    Random numbers belong to blocks of draws, so that the result does not depend on `cores`.
    """
    model, chains, draws = direct.model, x.shape[0], x.shape[1]
    p, Q = model.products.n_fixed, len(direct.system.B)
    block = max(1, min(draws, RESTORE_AT_ONCE // max(1, p + Q)))
    flat = np.ascontiguousarray(x.reshape(chains * draws, -1))
    beta = np.empty((chains * draws, p))
    u = np.empty((chains * draws, Q)) if keep else np.empty((0, Q))

    def work(start: int) -> tuple[Array, Array]:
        rows = slice(start, min(start + block, chains * draws))
        z = np.random.default_rng([seed, start, 7]).standard_normal((rows.stop - start, p + Q))
        mine = u[rows] if keep else np.empty((rows.stop - start, Q))
        restore(direct.system, direct.layout, flat[rows], z, beta[rows], mine)
        return mine.sum(axis=0), np.square(mine).sum(axis=0)

    with ThreadPoolExecutor(max_workers=cores) as pool:
        sums = list(pool.map(work, range(0, chains * draws, block)))
    fixed = np.moveaxis(model.products.beta(beta.T), 0, -1).reshape(chains, draws, p)
    factors = model.products.structure.factors
    if keep:
        effects = {f.group: _effects(model, u, i).reshape(chains, draws, f.count, f.width) for i, f in enumerate(factors)}
        return fixed, {group: effects[group] for group in model.groups}, {}
    total = chains * draws
    mean = np.sum([one for one, _ in sums], axis=0) / total
    sd = np.sqrt(np.maximum(np.sum([two for _, two in sums], axis=0) / total - mean**2, 0.0))
    moments = {f.group: (_effects(model, mean[None], i)[0], _effects(model, sd[None], i)[0]) for i, f in enumerate(factors)}
    return fixed, {}, {group: moments[group] for group in model.groups}


def _effects(model: Model, scaled: Array, factor: int) -> Array:
    """Draws of scaled u (m, Q) → effects (m, levels, k) of one factor."""
    products = model.products
    rows = products.structure.rows(factor)[:, None] + np.arange(products.structure.factors[factor].width)
    return np.asarray(scaled[:, rows] * (products.y_scale / products.effect_scale[factor]))


def _hierarchical(model: Model, parametrisation: Any, settings: dict[str, Any]) -> Any:
    from bayeslmm.graph.hierarchical import build

    graph = build(model, parametrisation)
    trace = _pymc(graph, settings)
    names = [name for name in trace["posterior"].data_vars if name.split("_")[0] in ("fixef", "sd", "corr", "ranef", "sigma")]
    draws = {name: np.asarray(trace["posterior"][name].values) for name in names}
    effects = {group: draws.pop(f"ranef_{group}") for group in model.groups}
    tree = posterior_tree(model, draws, effects, {}, _statistics(trace["sample_stats"]))
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


def restore_tree(
    model: Model, draws: Mapping[str, Array], statistics: dict[str, Any], settings: dict[str, Any]
) -> Any:
    """Draws of the marginal graph's variables → the DataTree, with (β, u) restored."""
    direct = Direct(model, closed_form=False)
    x = direct.coordinates_of(draws)
    return assemble(model, direct, x, statistics, settings)


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
        With a group `posterior` holding the graph's variables. On the marginal route fixef and ranef are restored.
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
    draws = {str(name): np.asarray(values.values) for name, values in node.data_vars.items()}
    needed = [f"sd_{g}" for g in model.groups] + [f"corr_{g}" for g in model.groups if model.pairs(g)] + ["sigma"]
    absent = [name for name in needed if name not in draws]
    if absent:
        raise MethodError(f"the posterior has no variable {absent[0]!r}; its variables are {', '.join(draws)}")
    statistics = _statistics(data["sample_stats"]) if "sample_stats" in data.children else {}
    if all(f"ranef_{group}" in draws for group in model.groups) and "fixef" in draws:
        effects = {group: draws[f"ranef_{group}"] for group in model.groups}
        kept = {name: draws[name] for name in [*needed, "fixef"]}
        return Posterior(model, posterior_tree(model, kept, effects, {}, statistics), "hierarchical")
    settings = {"seed": seed, "cores": cores or os.cpu_count() or 1}
    return Posterior(model, restore_tree(model, draws, statistics, settings), "marginal")
