"""Model → PyMC model, by either route."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from bayeslmm.errors import MethodError
from bayeslmm.graph import hierarchical, marginal


def to_pymc(
    model: Any,
    route: Literal["marginal", "hierarchical"] = "hierarchical",
    *,
    parametrisation: str | Mapping[str, str] | None = None,
) -> Any:
    """The model as a PyMC model, to sample, to optimise or to extend by hand.

    Parameters
    ----------
    model : Model
        The model.
    route : {"hierarchical", "marginal"}
        Every random effect a variable, or random effects (and β under a normal prior) integrated out.
    parametrisation : "centred", "noncentred" or mapping of group to either, optional
        Hierarchical route only.

    Returns
    -------
    pymc.Model
        Variables ``fixef``, ``sd_<group>``, ``corr_<group>``, ``ranef_<group>``, ``sigma`` (of another family than the
        Gaussian its dispersion: ``alpha``, ``lam``, ``kappa`` or none). `bayeslmm.posterior` turns
        its draws into a `Posterior`, restoring what was integrated out.

    Raises
    ------
    MethodError
        The route is not known, or the parametrisation does not belong to it.
    NotSupportedError
        The marginal route for another family than the Gaussian.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> data = {"y": [1.0, 2.0, 4.0, 3.0, 6.0, 5.0], "g": ["a", "a", "b", "b", "c", "c"]}
    >>> graph = bl.to_pymc(bl.Model("y ~ 1 + (1 | g)", data), route="marginal")
    >>> [potential.name for potential in graph.potentials]
    ['likelihood']
    """
    if route == "hierarchical":
        return hierarchical.build(model, parametrisation)  # type: ignore[arg-type]
    if route != "marginal":
        raise MethodError(f'route={route!r} is not known; use "marginal" or "hierarchical"')
    model.require_gaussian()
    if parametrisation is not None:
        raise MethodError(
            'parametrisation= is for route="hierarchical"; the marginal graph has no random effects to place'
        )
    return marginal.build(model)
