"""Names of the posterior's variables and their coordinates, the same on both routes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from bayeslmm.errors import DataError
from bayeslmm.terms import RandomTerm


def terms_by_group(terms: Sequence[RandomTerm]) -> dict[str, tuple[RandomTerm, ...]]:
    """Terms of each group, groups in order of first appearance."""
    return {group: tuple(t for t in terms if t.group == group) for group in dict.fromkeys(t.group for t in terms)}


def coordinates(design: Any) -> dict[str, Any]:
    """Coordinates of a model's posterior: ``coefficient``, ``obs``, ``threshold``, and by group levels, effects and pairs.

    With formulas for the dispersion or for zeros also ``dispersion_coefficient`` and ``zero_coefficient``.

    Parameters
    ----------
    design : Design
        What the data contribute to the model.

    Returns
    -------
    dict of str to sequence
        ``<group>`` holds the levels, ``<group>_effect`` the effects, ``<group>_pair`` the correlated pairs if any;
        ``obs`` the positions of the rows in the table.

    Raises
    ------
    DataError
        A group is called like another dimension.

    Examples
    --------
    >>> import numpy as np
    >>> from types import SimpleNamespace
    >>> fixed = SimpleNamespace(names=("Intercept",))
    >>> coordinates(SimpleNamespace(fixed=fixed, random=(), rows=np.arange(2), further={}, thresholds=()))
    {'coefficient': ['Intercept'], 'obs': [0, 1]}
    """
    coords: dict[str, Any] = {"coefficient": list(design.fixed.names), "obs": design.rows.tolist()}
    coords |= {f"{name}_coefficient": list(block.names) for name, block in design.further.items() if name != "nu"}
    coords |= {"threshold": list(design.thresholds)} if design.thresholds else {}
    for group, terms in terms_by_group(design.random).items():
        pairs = [f"{term.effects[i]}, {term.effects[j]}" for term in terms for i, j in term.covariance.pairs]
        own = {group: list(terms[0].levels), f"{group}_effect": [effect for term in terms for effect in term.effects]}
        own |= {f"{group}_pair": pairs} if pairs else {}
        taken = sorted(own.keys() & (coords.keys() | {"chain", "draw"}))
        if taken:
            raise DataError(f"The group {group!r} needs a dimension {taken[0]!r}, which is taken: rename that column.")
        coords |= own
    return coords


def dimensions(name: str) -> tuple[str, ...]:
    """Dimensions of a posterior variable, after chain and draw."""
    if name in ("fixef", "thresholds"):
        return ("coefficient",) if name == "fixef" else ("threshold",)
    if name in ("dispersion", "zero"):
        return (f"{name}_coefficient",)
    kind, _, group = name.partition("_")
    return {"sd": (f"{group}_effect",), "corr": (f"{group}_pair",), "ranef": (group, f"{group}_effect")}.get(kind, ())


def response_name(design: Any, taken: Container[str]) -> str:
    """Name of the observed variable: the response as written, ``/`` replaced by ``÷``, which ArviZ's tree can hold.

    Parameters
    ----------
    design : Design
        What the data contribute to the model.
    taken : container of str
        Names of the model's other variables and dimensions.

    Returns
    -------
    str

    Raises
    ------
    DataError
        The response is called like another variable of the model.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> response_name(SimpleNamespace(response="np.log(a / b)"), ())
    'np.log(a ÷ b)'
    """
    name: str = design.response.replace("/", "÷")
    if name in taken:
        raise DataError(f"The response is called {name!r}, like another variable of the model: rename that column.")
    return name
