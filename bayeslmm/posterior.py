"""Posterior: draws in an ArviZ tree that answer the same questions as a point fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from bayeslmm.convergence import Diagnostics, diagnose
from bayeslmm.coordinates import coordinates, dimensions, response_name
from bayeslmm.errors import MethodError
from bayeslmm.exact.gaussian import LOG_2PI
from bayeslmm.family import HETEROSCEDASTIC
from bayeslmm.model import Model
from bayeslmm.posterior_rows import density_draws, mean_draws
from bayeslmm.result import Result, term_effects

Array = NDArray[np.float64]
ROWS_AT_ONCE = 20_000_000


@dataclass(frozen=True, eq=False, repr=False)
class Posterior(Result):
    """Draws from the posterior.

    Parameters
    ----------
    model : Model
        What was sampled.
    data : xarray.DataTree
        ArviZ groups: posterior, sample_stats, observed_data, constant_data, log_likelihood when small.
    route : str
        "marginal", "hierarchical" or "laplace".
    """

    model: Model
    data: xr.DataTree
    route: str = field(default="marginal")

    def draws(self, name: str) -> Array:
        """Draws of a variable, chains joined: (draws, …).

        Parameters
        ----------
        name : str
            ``"fixef"``, ``"sd_Subject"``, ``"corr_Subject"``, ``"ranef_Subject"`` or ``"sigma"`` (of another family its
            dispersion, if it has one), ``"nu"``, ``"thresholds"``; ``"dispersion"`` and ``"zero"``, coefficients of the
            formulas for these.

        Returns
        -------
        ndarray

        Raises
        ------
        MethodError
            No such variable is stored.
        """
        node = self.data["posterior"]
        if name not in node.data_vars:
            hint = (
                "; its draws were not kept (too many), only their means and sds: bl.ranef_draws gives them"
                if name.startswith("ranef_")
                else ""
            )
            raise MethodError(
                f"the posterior has no variable {name!r}{hint}; it has {', '.join(map(str, node.data_vars))}"
            )
        values = np.asarray(node[name].values)
        return values.reshape(-1, *values.shape[2:])

    def _mean(self, name: str) -> Array:
        return np.asarray(self.draws(name).mean(axis=0))

    @cached_property
    def beta(self) -> Array:  # type: ignore[override]
        """Posterior means of the coefficients (p,)."""
        return self._mean("fixef") if self.model.X.shape[1] else np.empty(0)

    @cached_property
    def beta_covariance(self) -> Array:  # type: ignore[override]
        """Posterior covariance of the coefficients (p, p)."""
        p = self.model.X.shape[1]
        return np.atleast_2d(np.cov(self.draws("fixef").T)) if p else np.empty((0, 0))

    @cached_property
    def beta_sd(self) -> Array:  # type: ignore[override]
        """Posterior standard deviations of the coefficients (p,)."""
        return np.asarray(self.draws("fixef").std(axis=0, ddof=1)) if self.model.X.shape[1] else np.empty(0)

    @cached_property
    def sigma(self) -> float:  # type: ignore[override]
        """Posterior mean of the residual standard deviation; NaN where it has a formula, 1 for a family that has none."""
        if self.model.family == "gaussian":
            return float(self._mean("sigma"))
        return float("nan") if self.model.family == HETEROSCEDASTIC else 1.0

    @cached_property
    def dispersion(self) -> float:
        """Posterior mean of the family's dispersion parameter (σ, alpha, lam, kappa), NaN where it has none or a formula."""
        return float(self._mean(self.model.dispersion)) if self.model.dispersion else float("nan")

    @property
    def n_draws(self) -> int:
        """Draws of all chains together."""
        sizes = self.data["posterior"].sizes
        return int(sizes["chain"] * sizes["draw"])

    @cached_property
    def group_sd(self) -> Mapping[str, Array]:
        """Posterior means of the standard deviations, by group."""
        return {group: self._mean(f"sd_{group}") for group in self.model.groups}

    @cached_property
    def group_corr(self) -> Mapping[str, Array]:
        """Posterior means of the correlations, by group."""
        found = {}
        for group in self.model.groups:
            corr = np.eye(len(self.model.effects(group)))
            pairs = self.model.pairs(group)
            for (i, j), value in zip(pairs, self._mean(f"corr_{group}") if pairs else (), strict=True):
                corr[i, j] = corr[j, i] = value
            found[group] = corr
        return found

    @cached_property
    def group_ranef(self) -> Mapping[str, Array]:
        """Posterior means of the effects (levels, k), by group."""
        if "ranef_moments" in self.data.children:
            node = self.data["ranef_moments"]
            return {group: np.asarray(node[f"ranef_{group}_mean"].values) for group in self.model.groups}
        return {group: self._mean(f"ranef_{group}") for group in self.model.groups}

    @property
    def ranef_sd(self) -> dict[str, pd.DataFrame]:
        """Posterior standard deviations of the effects, levels by effects, by group."""
        found = {}
        for group, frame in self.ranef.items():
            if "ranef_moments" in self.data.children:
                values = np.asarray(self.data["ranef_moments"][f"ranef_{group}_sd"].values)
            else:
                values = self.draws(f"ranef_{group}").std(axis=0, ddof=1)
            found[group] = pd.DataFrame(values, index=frame.index, columns=frame.columns)
        return found

    @cached_property
    def fitted(self) -> pd.Series:
        """Posterior means of the response's mean given the effects; of a binomial response the share of successes."""
        if self.model.family == "gaussian":
            return super().fitted
        if self.model.design.ordered:
            raise MethodError(
                'a category has no mean; bl.predict(posterior, kind="probabilities") has its probabilities'
            )
        total = np.zeros(self.model.design.nobs)
        for which, eta in self.predictor_draws():
            total += mean_draws(self, which, eta).sum(axis=0)
        return pd.Series(total / self.n_draws, index=self.model.design.rows, name="fitted")

    @property
    def residuals(self) -> pd.Series:
        """Response (share of successes) minus fitted values."""
        trials = self.model.design.trials
        share = self.model.design.y / (1.0 if trials is None else trials)
        return pd.Series(share - self.fitted.to_numpy(), index=self.model.design.rows, name="residuals")

    @property
    def parameters(self) -> list[str]:
        """Posterior variables other than the random effects."""
        return [name for name in _parameters(self.model) if name in self.data["posterior"].data_vars]

    @cached_property
    def diagnostics(self) -> Diagnostics:
        """Convergence and efficiency of the draws."""
        return diagnose(self)

    def summary(self, **options: Any) -> pd.DataFrame:
        """ArviZ's summary of the coefficients, standard deviations, correlations and sigma.

        Parameters
        ----------
        **options
            Passed to `arviz.summary`; ``var_names=["ranef_Subject"]`` for the random effects.

        Returns
        -------
        DataFrame
        """
        import arviz_stats

        settings = {"var_names": self.parameters, "round_to": "none"} | options
        table: pd.DataFrame = arviz_stats.summary(self.data, **settings)
        return table

    def predictor_draws(self) -> Iterator[tuple[slice, Array]]:
        """Linear predictor (offset included) at the rows used, a chunk of draws at a time: (which draws, (m, n))."""
        design = self.model.design
        total = self.n_draws
        by_group = {group: self.draws(f"ranef_{group}") for group in self.model.groups}
        beta = self.draws("fixef") if self.model.X.shape[1] else np.zeros((total, 0))
        step = max(1, ROWS_AT_ONCE // max(1, design.nobs))
        for start in range(0, total, step):
            rows = slice(start, min(start + step, total))
            eta = beta[rows] @ design.fixed.X.T + (0.0 if design.offset is None else design.offset)
            parts = term_effects(self.model, {group: values[rows] for group, values in by_group.items()})
            for term, effects in zip(design.random, parts, strict=True):
                for a in range(len(term.effects)):
                    eta += effects[:, term.codes, a] * term.columns[:, a]
            yield rows, eta

    def log_likelihood(self) -> Array:
        """Conditional log density of every row at every draw (chains, draws, n)."""
        out = np.empty((self.n_draws, self.model.design.nobs))
        for rows, eta in self.predictor_draws():
            gaussian = self.model.family == "gaussian"
            out[rows] = self._gaussian_density(rows, eta) if gaussian else density_draws(self, rows, eta)
        sizes = self.data["posterior"].sizes
        return out.reshape(sizes["chain"], sizes["draw"], -1)

    def _gaussian_density(self, rows: slice, eta: Array) -> Array:
        design = self.model.design
        weights = np.ones(design.nobs) if design.weights is None else design.weights
        scale = self.draws("sigma")[rows, None] / np.sqrt(weights)
        return np.asarray(-0.5 * (LOG_2PI + 2.0 * np.log(scale) + ((design.y - eta) / scale) ** 2))

    def store_log_likelihood(self) -> None:
        """Put the pointwise log-likelihood into `data`, where `arviz.loo` finds it."""
        name = response_name(self.model.design, ())
        coords = {"obs": coordinates(self.model.design)["obs"]}
        array = xr.DataArray(self.log_likelihood(), dims=("chain", "draw", "obs"), coords=coords)
        self.data["log_likelihood"] = xr.DataTree(_with_draws(xr.Dataset({name: array})))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tree as NetCDF (``.nc``) or zarr (any other name).

        Parameters
        ----------
        path : path
            File or folder; an existing one is replaced.
        """
        if os.fspath(path).endswith(".nc"):
            self.data.to_netcdf(path, engine="h5netcdf")
        else:
            self.data.to_zarr(path, mode="w", consolidated=False)

    @classmethod
    def load(cls, model: Model, path: str | os.PathLike[str]) -> Posterior:
        """Read a saved posterior back for its model.

        Parameters
        ----------
        model : Model
            The model that was sampled.
        path : path
            What `save` wrote.

        Returns
        -------
        Posterior

        Raises
        ------
        MethodError
            The tree was sampled from another formula or another response.
        """
        netcdf = os.fspath(path).endswith(".nc")
        tree = (
            xr.open_datatree(path, engine="h5netcdf")
            if netcdf
            else xr.open_datatree(path, engine="zarr", consolidated=False)
        ).load()
        if tree.attrs.get("formula") != model.formula.text:
            raise MethodError(f"the draws belong to {tree.attrs.get('formula')!r}, not to {model.formula.text!r}")
        for name, block in model.design.further.items():
            there = tree["posterior"].coords.get(f"{name}_coefficient")
            if there is None or list(there.values) != list(block.names):
                raise MethodError(f"the draws belong to {model.formula.text!r} with another formula for {name}")
        observed = next(iter(tree["observed_data"].data_vars.values())).values
        if not np.array_equal(observed, model.design.y):
            raise MethodError(f"the draws belong to {model.formula.text!r} with other data: its response differs")
        return cls(model, tree, str(tree.attrs.get("route", "marginal")))

    def __repr__(self) -> str:
        sizes = self.data["posterior"].sizes
        return f"Posterior({self.model.formula.text!r}, {self.route}, {sizes['chain']} x {sizes['draw']} draws)"

    def __str__(self) -> str:
        from bayeslmm.table import posterior_text

        return posterior_text(self)

    def _repr_html_(self) -> str:
        from bayeslmm.table import posterior_html

        return posterior_html(self)


def _parameters(model: Model) -> list[str]:
    """Posterior variables other than the random effects, in the order in which they are shown."""
    noise = [model.dispersion] if model.dispersion else []
    effects = [f"{kind}_{group}" for group in model.groups for kind in ("sd", "corr")]
    return ["fixef", *effects, *noise, *model.priors.second_blocks, *model.priors.further]


def _with_draws(dataset: xr.Dataset) -> xr.Dataset:
    """Number chains and draws from 0 where they have no coordinate yet."""
    return dataset.assign_coords({d: np.arange(dataset.sizes[d]) for d in ("chain", "draw") if d in dataset.sizes})


def posterior_tree(
    model: Model,
    draws: Mapping[str, Array],
    effects: Mapping[str, Array],
    moments: Mapping[str, tuple[Array, Array]],
    statistics: Mapping[str, Array],
) -> xr.DataTree:
    """Draws as an ArviZ tree.

    Parameters
    ----------
    model : Model
    draws : mapping
        fixef, sd_g, corr_g, sigma (or another dispersion), dispersion, zero: arrays (chains, draws, …).
    effects : mapping of group to ndarray (chains, draws, levels, k)
        Draws of the random effects, where they are kept.
    moments : mapping of group to two ndarray (levels, k)
        Means and standard deviations of the random effects, where draws are not kept.
    statistics : mapping
        Sample statistics (chains, draws).

    Returns
    -------
    xarray.DataTree
    """
    design, coords = model.design, coordinates(model.design)
    variables = {
        name: draws[name] for name in _parameters(model) if name in draws and (name != "fixef" or draws[name].shape[-1])
    }
    variables |= {f"ranef_{group}": values for group, values in effects.items()}
    arrays = {name: (("chain", "draw", *dimensions(name)), values) for name, values in variables.items()}
    posterior = _with_draws(xr.Dataset(arrays, coords=_used(coords, arrays)))
    name = response_name(design, {*variables, *coords})
    observed = xr.Dataset({name: ("obs", design.y)}, coords={"obs": coords["obs"]})
    groups = {
        "posterior": posterior,
        "sample_stats": _with_draws(
            xr.Dataset({key: (("chain", "draw"), values) for key, values in statistics.items()})
        ),
        "observed_data": observed,
        "constant_data": _constant_data(model, coords),
    }
    if moments:
        tables = {
            f"ranef_{g}_{kind}": ((g, f"{g}_effect"), value)
            for g, pair in moments.items()
            for kind, value in zip(("mean", "sd"), pair, strict=True)
        }
        groups["ranef_moments"] = xr.Dataset(tables, coords=_used(coords, tables))
    attrs = {"formula": model.formula.text, "inference_library": "bayeslmm", "created_by": "bayeslmm"}
    tree = xr.DataTree.from_dict({f"/{key}": value for key, value in groups.items()})
    tree.attrs.update(attrs)
    return tree


def _used(coords: Mapping[str, Any], arrays: Mapping[str, tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    dims = {dim for names, _ in arrays.values() for dim in names}
    return {
        name: np.array(values, dtype=object) if name != "obs" else values
        for name, values in coords.items()
        if name in dims
    }


def _constant_data(model: Model, coords: Mapping[str, Any]) -> xr.Dataset:
    design = model.design
    arrays: dict[str, Any] = {}
    if design.fixed.names:
        arrays["X"] = (("obs", "coefficient"), design.fixed.X)
    for term in design.random:
        arrays[f"level_{term.group}"] = ("obs", np.asarray(term.codes))
    for name in ("weights", "offset", "trials"):
        if getattr(design, name) is not None:
            arrays[name] = ("obs", getattr(design, name))
    kept = {"obs": coords["obs"]} | ({"coefficient": coords["coefficient"]} if design.fixed.names else {})
    return xr.Dataset(arrays, coords=kept)
