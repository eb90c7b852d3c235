"""NUTS on a compiled log density: nutpie's sampler, its progress bar, and its statistics under ArviZ's names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Density = Callable[[Array], tuple[float, Array]]
START_WIDTH = 0.5
# Gradients of a trial of threads, seconds of one from which threads pay without a trial, and the share of the time that they
# need of one after another from which they do.
TRIAL, NO_TRIAL, PAYS = 100, 2e-3, 0.9


def compiled(size: int, make: Callable[[], Density], coordinates: Callable[[Array], Array], centre: Array) -> Any:
    """A density with its gradient as nutpie takes it, made for each chain; chains start around the centre."""
    from nutpie.compiled_pyfunc import from_pyfunc

    def make_expand(seed1: int, seed2: int, chain: int) -> Callable[[Array], dict[str, Array]]:
        return lambda x: {"x": coordinates(x)}

    def start(seed: int) -> Array:
        return centre + np.random.default_rng(seed).uniform(-START_WIDTH, START_WIDTH, size)

    return from_pyfunc(
        ndim=size,
        make_logp_fn=make,
        make_expand_fn=make_expand,
        expanded_dtypes=[np.dtype("float64")],
        expanded_shapes=[(size,)],
        expanded_names=["x"],
        make_initial_point_fn=start,
    )


def density_trace(
    size: int,
    make: Callable[[], Density],
    coordinates: Callable[[Array], Array],
    centre: Array,
    settings: dict[str, Any],
) -> Any:
    """Draws from a density as `compiled` takes it; where no number of cores was asked for, of as many chains at a time as pay."""
    cores = settings["cores"] if settings["cores_given"] else chains_at_a_time(make, centre, settings["cores"])
    return _nutpie_trace(compiled(size, make, coordinates, centre), settings | {"cores": cores})


def chains_at_a_time(make: Callable[[], Density], at: Array, most: int) -> int:
    """`most`, or 1 where chains that take turns at Python's lock are slower than chains one after another, by a trial.

    A gradient of a small model costs less than handing the lock to another thread, which each one does.
    """
    if most == 1:
        return 1
    densities = [make() for _ in range(most)]
    started = time.perf_counter()
    densities[0](at)
    if time.perf_counter() - started > NO_TRIAL:
        return most

    def called(density: Density) -> None:
        for _ in range(TRIAL):
            density(at)

    started = time.perf_counter()
    called(densities[0])
    alone = time.perf_counter() - started
    with ThreadPoolExecutor(most) as pool:
        started = time.perf_counter()
        list(pool.map(called, densities))
        together = time.perf_counter() - started
    return most if together < PAYS * most * alone else 1


def _nutpie_trace(density: Any, settings: dict[str, Any]) -> Any:
    """Draws of nutpie's NUTS under the settings that `sample` collected."""
    import nutpie

    options: dict[str, Any] = {}
    if settings["store"] is not None:
        options["zarr_store"] = nutpie.zarr_store.LocalStore(os.fspath(settings["store"]), mkdir=True)
    with _progress(settings) as callback:
        return nutpie.sample(
            density,
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


def statistics(node: Any) -> dict[str, Any]:
    """Sample statistics under ArviZ's names."""
    names = {"logp": "lp", "depth": "tree_depth", "maxdepth_reached": "reached_max_treedepth"}
    stats = node.to_dataset() if hasattr(node, "to_dataset") else node
    kept = ("diverging", "energy", "n_steps", "step_size", "logp", "depth", "maxdepth_reached", "mean_tree_accept")
    found = {names.get(n, n): stats[n].values for n in kept if n in stats and stats[n].ndim == 2}
    if "mean_tree_accept" in found:
        found["acceptance_rate"] = found.pop("mean_tree_accept")
    return found


def check_complete(x: Array, settings: dict[str, Any]) -> None:
    """Raise KeyboardInterrupt where draws are missing."""
    if x.shape[1] < settings["draws"] or np.isnan(x).any():
        kept = "; draws written to store= so far can be read from there" if settings["store"] is not None else ""
        raise KeyboardInterrupt(f"sampling was interrupted{kept}")
