"""The parameters as PyMC variables: one named vector for the coefficients, one per group of standard deviations.

Entries of one vector may have different priors. Where PyMC has one distribution for all of them that is what is used;
otherwise the vector is a single `pm.CustomDist` whose density is the product of theirs.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray
from pymc.distributions.distribution import support_point
from pymc.distributions.shape_utils import rv_size_is_none
from pymc.distributions.transforms import _default_transform
from pymc.logprob.transforms import IntervalTransform, LogOddsTransform, LogTransform, Transform
from pytensor.tensor.basic import get_underlying_scalar_constant_value
from pytensor.tensor.variable import TensorVariable

from bayeslmm.distributions import Prior
from bayeslmm.errors import PriorError
from bayeslmm.graph.correlation import cholesky_of_correlation as cholesky_of_correlation
from bayeslmm.graph.correlation import correlation_vector as correlation_vector
from bayeslmm.priors import Priors


class LogitBeta:
    """The logit of a number with a Beta distribution, as PyMC's distributions are called."""

    def __new__(cls, name: str, alpha: Any, beta: Any, **options: Any) -> TensorVariable:
        """A variable of the model of the context."""
        return pm.CustomDist(name, alpha, beta, **cls._functions(), **options)

    @classmethod
    def dist(cls, alpha: Any, beta: Any, **options: Any) -> TensorVariable:
        """A variable of no model."""
        return pm.CustomDist.dist(alpha, beta, **cls._functions(), **options)

    @staticmethod
    def _functions() -> dict[str, Any]:
        def logp(value: TensorVariable, alpha: TensorVariable, beta: TensorVariable) -> TensorVariable:
            constant = pt.gammaln(alpha + beta) - pt.gammaln(alpha) - pt.gammaln(beta)
            return constant - alpha * pt.softplus(-value) - beta * pt.softplus(value)

        def draw(alpha: TensorVariable, beta: TensorVariable, size: TensorVariable) -> TensorVariable:
            share = pm.Beta.dist(alpha, beta, size=size)
            return pt.log(share) - pt.log1p(-share)

        return {
            "logp": logp,
            "dist": draw,
            "class_name": "LogitBeta",
            "support_point": lambda rv, *_: pt.zeros_like(rv),
        }


def _distribution(prior: Prior, scale: bool) -> Any:
    """PyMC's distribution of that name; a flat standard deviation is flat on the positive half line."""
    if prior.name == "LogitBeta":
        return LogitBeta
    name = "HalfFlat" if scale and prior.name == "Flat" else prior.name
    found = getattr(pm.distributions, name, None)
    if hasattr(found, "dist"):
        return found
    known = [each for each in dir(pm.distributions) if hasattr(getattr(pm.distributions, each), "dist")]
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"Did you mean {' or '.join(close)}?" if close else "Use the name of a PyMC distribution."
    raise PriorError(f"There is no distribution {name!r}. {hint}")


def _args(prior: Prior) -> dict[str, Any]:
    """Arguments as arrays: a bare number would get the smallest type that holds it, and its log single precision."""
    return {key: value if isinstance(value, str) else np.asarray(value) for key, value in prior.args.items()}


def _checked(prior: Prior, scale: bool) -> TensorVariable:
    """One scalar variable with this prior, outside any model, once its arguments and support have been checked."""
    distribution = _distribution(prior, scale)
    try:
        variable = distribution.dist(**_args(prior))
    except (TypeError, ValueError, NotImplementedError) as error:
        accepted = [each for each in inspect.signature(distribution.dist).parameters if each not in ("args", "kwargs")]
        raise PriorError(f"{prior} cannot be built: {error} {prior.name} takes {', '.join(accepted)}.") from error
    if variable.ndim != 0 or np.dtype(variable.dtype).kind != "f":
        raise PriorError(f"{prior} is not the distribution of one real number.")
    if scale and _lower_bound(variable) < 0:
        half = f"Half{prior.name}"
        advice = half if hasattr(pm.distributions, half) else "HalfNormal, HalfStudentT, Exponential or Gamma"
        raise PriorError(f"{prior} allows negative values, and a standard deviation has none: use {advice}.")
    return variable


def _transform(variable: TensorVariable) -> Transform | None:
    """The transform by which PyMC samples this variable."""
    return _default_transform(variable.owner.op, variable)


def _lower_bound(variable: TensorVariable) -> float:
    """Lower end of the support of a scalar variable with constant arguments."""
    transform = _transform(variable)
    if isinstance(transform, LogTransform | LogOddsTransform):
        return 0.0
    lower = transform.args_fn(*variable.owner.inputs)[0] if isinstance(transform, IntervalTransform) else None
    return -np.inf if lower is None else float(get_underlying_scalar_constant_value(lower))


@dataclass(frozen=True)
class _Family:
    """Entries `index` of a vector, which share one distribution up to the numbers in its arguments."""

    index: NDArray[np.intp]
    distribution: Any
    args: dict[str, Any]

    def variable(self, *batch: Any) -> TensorVariable:
        """These entries as one unnamed vector variable."""
        return self.distribution.dist(**self.args, size=(*batch, len(self.index)))


def _families(priors: Sequence[Prior], scale: bool) -> list[_Family]:
    """Entries grouped by distribution and kinds of arguments."""
    for prior in set(priors):
        _checked(prior, scale)
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, prior in enumerate(priors):
        groups.setdefault((prior.name, *prior.args), []).append(i)
    return [
        _Family(
            np.array(members),
            _distribution(priors[members[0]], scale),
            {key: np.array([priors[i].args[key] for i in members]) for key in priors[members[0]].args},
        )
        for members in groups.values()
    ]


def _assembled(parts: Sequence[TensorVariable], families: Sequence[_Family]) -> TensorVariable:
    """The whole vector from the parts of its families."""
    order = np.argsort(np.concatenate([family.index for family in families]))
    return pt.concatenate(parts, axis=-1)[..., order]


class ComponentTransform(Transform):
    """Each entry of a vector by the transform of its own distribution, or none.

    Parameters
    ----------
    families : sequence
        Entries that share a distribution.
    name : str
        Ending of the unconstrained variable's name.
    """

    ndim_supp = 1

    def __init__(self, families: Sequence[_Family], name: str) -> None:
        self.families, self.name = families, name

    def _parts(self, value: TensorVariable) -> Iterator[tuple[TensorVariable, Transform | None, Sequence[Any]]]:
        for family in self.families:
            variable = family.variable()
            yield value[..., family.index], _transform(variable), variable.owner.inputs

    def forward(self, value: TensorVariable, *inputs: Any) -> TensorVariable:
        """Unconstrained vector from values."""
        return _assembled(
            [each.forward(part, *a) if each else part for part, each, a in self._parts(value)], self.families
        )

    def backward(self, value: TensorVariable, *inputs: Any) -> TensorVariable:
        """Values from an unconstrained vector."""
        return _assembled(
            [each.backward(part, *a) if each else part for part, each, a in self._parts(value)], self.families
        )

    def log_jac_det(self, value: TensorVariable, *inputs: Any) -> TensorVariable:
        """Log of the absolute Jacobian determinant of `backward`."""
        terms = [each.log_jac_det(part, *args).sum(axis=-1) for part, each, args in self._parts(value) if each]
        return sum(terms, start=pt.zeros_like(value[..., 0]))


def _common_transform(families: Sequence[_Family]) -> Transform | None:
    """The entries' own transforms as one, called log where all are; None where no entry has one."""
    kinds = [_transform(family.variable()) for family in families]
    if all(kind is None for kind in kinds):
        return None
    name = "log" if all(isinstance(kind, LogTransform) for kind in kinds) else "components"
    return ComponentTransform(families, name)


def _product(name: str, families: Sequence[_Family], mixing: NDArray[np.float64], dims: str | None) -> TensorVariable:
    """One vector x whose entries of ``mixing @ x`` are independent; the matrix has determinant ±1."""
    inverse = np.linalg.inv(mixing)
    is_identity = np.array_equal(mixing, np.eye(len(mixing)))

    def draw(_: TensorVariable, size: TensorVariable) -> TensorVariable:
        batch = () if rv_size_is_none(size) else tuple(size)
        drawn = _assembled([family.variable(*batch) for family in families], families)
        return drawn if is_identity else drawn @ inverse.T

    def logp(value: TensorVariable, *_: TensorVariable) -> TensorVariable:
        entries = value if is_identity else value @ mixing.T
        terms = [pm.logp(family.variable(), entries[..., family.index]).sum(axis=-1) for family in families]
        return sum(terms, start=pt.constant(0.0))

    def centre(variable: TensorVariable, *_: TensorVariable) -> TensorVariable:
        middle = _assembled([support_point(family.variable()) for family in families], families)
        return pt.zeros_like(variable) + pt.dot(inverse, middle)

    return pm.CustomDist(
        name,
        mixing,
        dist=draw,
        logp=logp,
        support_point=centre,
        signature="(m,m)->(m)",
        class_name="Independent",
        default_transform=_common_transform(families),
        dims=dims,
    )


def prior_variable(
    name: str,
    prior: Prior | Sequence[Prior],
    *,
    dims: str | None = None,
    scale: bool = False,
    transform: NDArray[np.float64] | None = None,
) -> TensorVariable:
    """Free PyMC variable with a given prior, or one vector whose entries have a prior each.

    Parameters
    ----------
    name : str
        Name of the variable.
    prior : Prior or sequence of Prior
        One prior for a scalar, or m priors for a vector of length m. Any univariate continuous distribution of PyMC.
    dims : str, optional
        Name of the vector's dimension.
    scale : bool
        Whether this is a standard deviation: its support must be nonnegative, and ``Flat`` means ``HalfFlat``.
    transform : ndarray (m, m), optional
        Matrix T of determinant ±1; the priors then hold for the entries of T x.

    Returns
    -------
    TensorVariable

    Raises
    ------
    PriorError
        No such distribution, wrong arguments, or a standard deviation that could be negative.

    Examples
    --------
    >>> with pm.Model() as model:
    ...     sd = prior_variable("sd", [Prior("HalfNormal", sigma=1), Prior("Gamma", alpha=2, beta=1)], scale=True)
    >>> round(float(model.compile_logp(jacobian=False)({"sd_log__": np.zeros(2)})), 4)
    -1.7258
    """
    if isinstance(prior, Prior):
        _checked(prior, scale)
        return _distribution(prior, scale)(name, **_args(prior))
    families = _families(prior, scale)
    mixing = np.eye(len(prior)) if transform is None else np.asarray(transform, float)
    if len(families) > 1 or not np.array_equal(mixing, np.eye(len(prior))):
        return _product(name, families, mixing, dims)
    return families[0].distribution(name, **families[0].args, dims=dims, shape=len(prior))


def fixef_variable(priors: Priors) -> TensorVariable | None:
    """The coefficients as one vector `fixef` with dimension ``coefficient``; None where the model has none.

    Parameters
    ----------
    priors : Priors
        The priors in use. A default intercept prior is on the intercept at the predictor means, which makes the
        density of the reported coefficients a joint one.

    Returns
    -------
    TensorVariable (p,) or None

    Raises
    ------
    PriorError
        As `prior_variable`.

    Examples
    --------
    >>> from bayeslmm.priors import resolve
    >>> priors = resolve("flat", coefficient_names=("x",), column_means=(0.0,), column_sds=(1.0,),
    ...                  has_intercept=False, response_mean=0.0, response_sd=1.0, groups={})
    >>> with pm.Model(coords={"coefficient": ["x"]}):
    ...     fixef_variable(priors).type.shape
    (1,)
    """
    if not priors.fixef:
        return None
    return prior_variable("fixef", priors.fixef, dims="coefficient", transform=priors.fixef_transform)


def second_variable(priors: Priors) -> TensorVariable | None:
    """The variable `nu`, or `thresholds`, increasing, with dimension ``threshold``; None for a family without either.

    Parameters
    ----------
    priors : Priors
        The priors in use; those of the thresholds hold on the set where they increase.

    Returns
    -------
    TensorVariable or None

    Raises
    ------
    PriorError
        Thresholds with priors of more than one distribution, and as `prior_variable`.

    Examples
    --------
    >>> from bayeslmm.priors import resolve
    >>> priors = resolve("flat", coefficient_names=(), column_means=(), column_sds=(), has_intercept=False,
    ...                  response_mean=0.0, response_sd=1.0, groups={}, second={"thresholds[a|b]": Prior("Flat")})
    >>> with pm.Model(coords={"threshold": ["a|b"]}):
    ...     second_variable(priors).type.shape
    (1,)
    """
    if not priors.second:
        return None
    if "nu" in priors.second:
        return prior_variable("nu", priors.second["nu"], scale=True)
    families = _families(list(priors.second.values()), False)
    if len(families) > 1:
        raise PriorError("thresholds need priors of one distribution; its arguments may differ")
    count = len(priors.second)
    start = np.linspace(-2.0, 2.0, count)
    transform = pm.distributions.transforms.ordered
    options = {"dims": "threshold", "shape": count, "transform": transform, "initval": start}
    return families[0].distribution("thresholds", **families[0].args, **options)
