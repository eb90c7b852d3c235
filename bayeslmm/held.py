"""Natural parameters by name, and those that a fit holds at given values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bayeslmm.direct import Direct
from bayeslmm.errors import MethodError

Array = NDArray[np.float64]


def natural_names(direct: Direct) -> list[str]:
    """A name for each of the natural coordinates: sds, correlations (pairs term by term), σ."""
    names = [f"sd_{g}[{e}]" for g in direct.model.groups for e in direct.model.effects(g)]
    for row in direct.places:
        if row.correlated:
            effects = row.term.effects
            lower = [(j, i) for i in range(row.size) for j in range(i)]
            names += [f"corr_{row.group}[{effects[j]}, {effects[i]}]" for j, i in lower]
    return [*names, "sigma"]


def names_held(direct: Direct, fixed: Mapping[str, float]) -> dict[str, float]:
    """The natural coordinates that `fixed` holds, one by one."""
    return named(natural_names(direct), fixed)


def named(names: Sequence[str], fixed: Mapping[str, float]) -> dict[str, float]:
    """Which of the names `fixed` holds, one by one."""
    held: dict[str, float] = {}
    if not isinstance(fixed, Mapping):
        raise MethodError(f'fixed= takes values by name, {{"sigma": 1.0}}; got {fixed!r}')
    for key, value in sorted(fixed.items(), key=lambda item: item[0] in names):  # a narrow key wins over a broad one
        mine = [name for name in names if name == key or name.startswith(f"{key}[")]
        if not mine:
            raise MethodError(f"fixed= has no parameter {key!r}; the parameters are {', '.join(names)}")
        if not isinstance(value, int | float | np.number):
            raise MethodError(f"fixed= holds {key!r} at a number; got {value!r}")
        held |= dict.fromkeys(mine, float(value))
    return held


def hold(direct: Direct, fixed: Mapping[str, float]) -> tuple[Array, NDArray[np.bool_]]:
    """Coordinates held by `fixed` (others 0), and which coordinates are free."""
    names, held = natural_names(direct), names_held(direct, fixed)
    values = np.zeros(len(names))
    for row in direct.places:
        if row.correlated and row.size > 2 and any(n.startswith(f"corr_{row.group}[") for n in held):
            raise MethodError("a correlation can be held only where its term has two effects")
    for i, name in enumerate(names):
        if name in held:
            values[i] = _coordinate(name, held[name])
    return values, np.array([name not in held for name in names])


def _coordinate(name: str, value: float) -> float:
    if name.startswith("corr_"):
        if not -1.0 < value < 1.0:
            raise MethodError(f"{name} must lie between -1 and 1, got {value}")
        return float(np.arctanh(value))
    if value < 0 or not np.isfinite(value) or (name == "sigma" and value == 0):
        raise MethodError(f"{name} must be a {'positive' if name == 'sigma' else 'nonnegative'} number, got {value}")
    return float(np.log(value)) if name == "sigma" else value
