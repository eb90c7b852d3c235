"""Model → PyMC model of the natural parameters only: random effects, and β where possible, integrated out by one Op.

The Op calls the same kernels as the direct density. Its outputs are the log-likelihood and all its derivatives, so that
value and gradient cost one factorisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numba import njit
from numpy.typing import NDArray
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key
from pytensor.tensor.variable import TensorVariable

from bayeslmm.coordinates import coordinates, terms_by_group
from bayeslmm.direct import Direct
from bayeslmm.exact.density import Layout, Natural, lam_pullback, log_likelihood
from bayeslmm.exact.factor import System
from bayeslmm.graph.correlation import cholesky_of_correlation
from bayeslmm.graph.groups import GroupScale, group_scale
from bayeslmm.graph.variables import fixef_variable, prior_variable

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def pack(direct: Direct, constant: float) -> tuple[Index, Array]:
    """System and layout in one integer and one real vector, each array preceded by its length in the integers."""
    s, layout = direct.system, direct.layout
    q, k = s.A11.shape[:2]
    Q, r = s.B.shape
    whole = [s.width, s.lam_at, s.link_ptr, s.link_row, s.link_factor, s.link_at, s.rest_row, s.rest_col]
    whole += [s.rest_row_factor, s.rest_col_factor, s.rest_at, s.node_row, s.node_factor, s.L_ptr, s.L_row]
    whole += [layout.size, layout.sd_at, layout.z_at, layout.L_at, layout.lam_at, layout.lam_width, layout.beta_code]
    last = np.array([layout.y_scale, constant])
    real: list[Array] = [s.A11, s.A21, s.A22, s.B, s.C, layout.sd_scale, layout.T, layout.t, last]
    header = [q, k, Q, r, int(s.sparse), layout.nobs, *layout.T.shape]
    ints = [np.array(header, np.int64)]
    for array in whole:
        ints += [np.array([len(array)], np.int64), np.asarray(array, np.int64)]
    for values in real:
        ints.append(np.array([np.size(values)], np.int64))
    return np.concatenate(ints), np.concatenate([np.ravel(values).astype(float) for values in real])


@njit(cache=True, nogil=True)
def take(ints: Index, at: int) -> tuple[Index, int]:
    """The integer vector whose length stands at `at`, and where the next begins."""
    stop = at + 1 + ints[at]
    return ints[at + 1 : stop], stop


@njit(cache=True, nogil=True)
def unpack(ints: Index, reals: Array) -> tuple[System, Layout]:
    """What `pack` packed, as views."""
    q, k, Q, r = ints[0], ints[1], ints[2], ints[3]
    at = 8
    width, at = take(ints, at)
    lam_at, at = take(ints, at)
    link_ptr, at = take(ints, at)
    link_row, at = take(ints, at)
    link_factor, at = take(ints, at)
    link_at, at = take(ints, at)
    rest_row, at = take(ints, at)
    rest_col, at = take(ints, at)
    rest_row_factor, at = take(ints, at)
    rest_col_factor, at = take(ints, at)
    rest_at, at = take(ints, at)
    node_row, at = take(ints, at)
    node_factor, at = take(ints, at)
    L_ptr, at = take(ints, at)
    L_row, at = take(ints, at)
    size, at = take(ints, at)
    sd_at, at = take(ints, at)
    z_at, at = take(ints, at)
    L_at, at = take(ints, at)
    own_lam_at, at = take(ints, at)
    lam_width, at = take(ints, at)
    beta_code, at = take(ints, at)
    ends = np.cumsum(ints[at : at + 9])
    A11 = reals[: ends[0]].reshape((q, k, k))
    A21, A22 = reals[ends[0] : ends[1]], reals[ends[1] : ends[2]]
    B, C = reals[ends[2] : ends[3]].reshape((Q, r)), reals[ends[3] : ends[4]].reshape((r, r))
    sd_scale = reals[ends[4] : ends[5]]
    T, t = reals[ends[5] : ends[6]].reshape((ints[6], ints[7])), reals[ends[6] : ends[7]]
    system = System(
        width, lam_at, A11, link_ptr, link_row, link_factor, link_at, A21, rest_row, rest_col, rest_row_factor,
        rest_col_factor, rest_at, A22, node_row, node_factor, B, C, ints[4] != 0, L_ptr, L_row,
    )  # fmt: skip
    none = np.empty(0)
    layout = Layout(
        size, sd_at, z_at, L_at, own_lam_at, lam_width, np.empty(0, np.bool_), none, sd_scale, np.empty(0, np.int64),
        np.empty((0, 3)), 0, none, reals[ends[7]], ints[5], T, t, beta_code, np.empty((0, 3)), reals[ends[7] + 1],
    )  # fmt: skip
    return system, layout


@njit(cache=True, nogil=True)
def likelihood(
    sd: Array, L: Array, sigma: float, beta: Array, ints: Index, reals: Array
) -> tuple[float, Array, Array, float, Array]:
    """Collapsed log-likelihood and its derivatives by sd, the correlation factors' entries, σ and β_Q."""
    system, layout = unpack(np.ascontiguousarray(ints), np.ascontiguousarray(reals))
    at = Natural(np.ascontiguousarray(sd), np.ascontiguousarray(L), sigma, np.ascontiguousarray(beta))
    value, lam_bar, sigma_bar, beta_bar = log_likelihood(system, layout, at)
    sd_bar, L_bar = np.zeros(sd.size), np.zeros(L.size)
    sigma_bar += lam_pullback(layout, at, lam_bar, sd_bar, L_bar)
    return value, sd_bar, L_bar, sigma_bar, beta_bar


class CollapsedLikelihood(Op):
    """log p(y | sd, correlations, σ (, β)) and its derivatives, random effects integrated out."""

    __props__ = ()

    def make_node(self, sd: Any, L: Any, sigma: Any, beta: Any, ints: Any, reals: Any) -> Apply:
        """Inputs: sd, flat correlation factors, σ, β_Q (empty if integrated out), and the packed data."""
        inputs = [pt.as_tensor_variable(v) for v in (sd, L, sigma, beta, ints, reals)]
        return Apply(self, inputs, [pt.dscalar(), pt.dvector(), pt.dvector(), pt.dscalar(), pt.dvector()])

    def perform(self, node: Apply, inputs: list[Any], output_storage: list[Any]) -> None:
        """Call the kernel."""
        sd, L, sigma, beta, ints, reals = inputs
        for storage, value in zip(output_storage, likelihood(sd, L, float(sigma), beta, ints, reals), strict=True):
            storage[0] = np.asarray(value)

    def infer_shape(self, node: Apply, shapes: list[Any]) -> list[Any]:
        """Shapes of the outputs: the inputs' own."""
        return [(), shapes[0], shapes[1], (), shapes[3]]

    def pullback(self, inputs: list[Any], outputs: list[Any], cotangents: list[Any]) -> list[Any]:
        """The derivatives are outputs already."""
        bar = cotangents[0]
        derivatives = [bar * output for output in outputs[1:]]
        return [*derivatives, *(pt.zeros_like(data).astype("float64") for data in inputs[4:])]


@register_funcify_default_op_cache_key(CollapsedLikelihood)
def _numba_likelihood(op: CollapsedLikelihood, node: Apply, **options: Any) -> Any:
    @numba_njit
    def collapsed(sd, L, sigma, beta, ints, reals):  # type: ignore[no-untyped-def]
        value, sd_bar, L_bar, sigma_bar, beta_bar = likelihood(sd, L, sigma.item(), beta, ints, reals)
        return np.asarray(value), sd_bar, L_bar, np.asarray(sigma_bar), beta_bar

    return collapsed, 1


def build(model: Any) -> pm.Model:
    """The PyMC model of (sd, correlations, σ), and of β where its prior is not normal.

    Parameters
    ----------
    model : Model
        The model.

    Returns
    -------
    pymc.Model
        Free variables ``sd_<group>``, ``corr_<group>``, ``sigma`` and, where β cannot be integrated out, ``fixef``; the
        likelihood is the Potential ``likelihood``. Its log density without Jacobian is that of `direct.Direct`.

    Raises
    ------
    DataError, PriorError
        A name collides, or a prior that the graph cannot express.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 3.0, 6.0, 5.0], "g": ["a", "a", "b", "b", "c", "c"]}
    >>> [variable.name for variable in build(bl.Model("y ~ 1 + (1 | g)", data)).free_RVs]
    ['sd_g', 'sigma']
    """
    direct = Direct(model, closed_form=False)
    ints, reals = pack(direct, direct.likelihood_constant)
    own = terms_by_group(model.design.random)
    with pm.Model(coords=coordinates(model.design)) as graph:
        scales = [group_scale(group, own[group], model.priors) for group in model.groups]
        sigma = prior_variable("sigma", model.priors.sigma, scale=True)
        beta = pt.zeros(0)
        if not direct.gaussian:
            products = model.products
            fixef = fixef_variable(model.priors)
            beta = pt.dot(pt.constant(products.R / products.y_scale), fixef - pt.constant(products.beta_ols))
        sd = pt.concatenate([scale.sd for scale in scales]) if scales else pt.zeros(0)
        L = pt.concatenate([pt.zeros(0), *(f for scale in scales for f in _correlation_factors(scale))])
        value = CollapsedLikelihood()(sd, L, sigma, beta, ints, reals)[0]
        pm.Potential("likelihood", value)
    _start_near_reml(graph, direct)
    return graph


def _start_near_reml(graph: pm.Model, direct: Direct) -> None:
    """Initial values of sds and σ near the REML fit, where their priors allow it: 1 may be far off in the data's units."""
    x = direct.sampling_start()
    sd, at = np.exp(x[: direct.n_sd]), 0
    values = {"sigma": np.exp(x[direct.n_sd + direct.n_corr])}
    for group in direct.model.groups:
        k = len(direct.model.effects(group))
        values[f"sd_{group}"] = sd[at : at + k]
        at += k
    for name, value in values.items():
        variable = graph[name]
        if np.isfinite(pm.logp(variable, value).sum().eval(mode="FAST_COMPILE")):
            graph.set_initval(variable, value)


def _correlation_factors(scale: GroupScale) -> list[TensorVariable]:
    """Flat k × k correlation factors of a group's terms."""
    factors, pair = [], 0
    for term in scale.terms:
        k = len(term.effects)
        if scale.corr is None or not term.covariance.pairs:
            factors.append(pt.constant(np.eye(k).ravel()))
            continue
        count = k * (k - 1) // 2
        factors.append(cholesky_of_correlation(scale.corr[pair : pair + count], k).ravel())
        pair += count
    return factors
