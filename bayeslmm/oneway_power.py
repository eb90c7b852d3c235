"""Groups, rows per group and a variance ratio → exact power of the F test of a balanced one-way layout, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bayeslmm.errors import MethodError

Array = NDArray[np.float64]
LARGEST_SIZE = 2**30


def oneway_power(
    n_groups: Any,
    n_per_group: Any,
    gamma: Any,
    alpha: Any = 0.05,
    *,
    kind: Literal["random", "fixed"] = "random",
) -> Any:
    """Exact power of the F test of no differences between groups, balanced.

    Random groups: Z ~ (1 + nγ) F(k − 1, N − k), so the power is P(F > F_{1−α}/(1 + nγ)). Fixed groups: Z is noncentral F
    with noncentrality n Σα_i²/σ² = n(k − 1)γ, where γ = Σα_i²/(k − 1)/σ² is the same ratio of variances for these very
    groups.

    Parameters
    ----------
    n_groups, n_per_group : int or array
        k ≥ 2 and n ≥ 2.
    gamma : float or array
        Variance between over variance within, at least 0.
    alpha : float or array
        Size of the test.
    kind : {"random", "fixed"}
        Whether the groups are drawn anew in every repetition or stay the same.

    Returns
    -------
    float or ndarray
        Power, of the shape to which the arguments broadcast.

    Raises
    ------
    MethodError
        Arguments without a meaning.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> round(bl.oneway_power(7, 4, 0.189), 4), round(bl.oneway_power(7, 4, 0.189, kind="fixed"), 4)
    (0.238, 0.2339)
    """
    if kind not in ("random", "fixed"):
        raise MethodError(f'kind={kind!r} is not known; use "random" or "fixed"')
    k, n, g, a = (np.asarray(value, float) for value in (n_groups, n_per_group, gamma, alpha))
    for name, value in (("n_groups", k), ("n_per_group", n)):
        if not ((value >= 2) & (value == np.floor(value))).all():
            raise MethodError(f"{name} must be whole and at least 2")
    if not ((g >= 0) & (g < np.inf)).all() or not ((a > 0) & (a < 1)).all():
        raise MethodError("gamma must be at least 0 and finite, and alpha lie between 0 and 1")
    df = k - 1.0, k * (n - 1.0)
    critical = stats.f.isf(a, *df)
    power = stats.f.sf(critical / (1.0 + n * g), *df) if kind == "random" else _fixed_power(critical, df, n, g)
    return power if np.ndim(power) else float(power)


def _fixed_power(critical: Array, df: tuple[Array, Array], n: Array, gamma: Array) -> Array:
    noncentrality = n * df[0] * gamma
    return np.where(noncentrality > 0, stats.ncf.sf(critical, *df, noncentrality), stats.f.sf(critical, *df))


def oneway_size(
    power: float,
    gamma: float,
    *,
    n_groups: int | None = None,
    n_per_group: int | None = None,
    alpha: float = 0.05,
    kind: Literal["random", "fixed"] = "random",
) -> int:
    """Smallest number of groups, or of rows per group, with which the F test has a wanted power.

    Parameters
    ----------
    power : float
        Wanted power, above alpha.
    gamma : float
        Variance between over variance within, above 0.
    n_groups, n_per_group : int
        One of them; the other is found.
    alpha : float
        Size of the test.
    kind : {"random", "fixed"}
        As for `oneway_power`.

    Returns
    -------
    int

    Raises
    ------
    MethodError
        Arguments without a meaning, or a power that no size up to 2³⁰ reaches.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> bl.oneway_size(0.9, gamma=0.189, n_per_group=4)
    73
    """
    if (n_groups is None) == (n_per_group is None):
        raise MethodError("give one of n_groups and n_per_group; the other is found")
    if not alpha < power < 1 or not gamma > 0:
        raise MethodError(f"power={power!r} must lie between alpha and 1, and gamma={gamma!r} be above 0")

    def reached(size: int) -> bool:
        k, n = (size, n_per_group) if n_groups is None else (n_groups, size)
        return bool(oneway_power(k, n, gamma, alpha, kind=kind) >= power)

    return _first(reached)


def _first(reached: Callable[[int], bool]) -> int:
    """The smallest size from 2 on that reaches what every larger one reaches."""
    high = 2
    while not reached(high):
        high *= 2
        if high > LARGEST_SIZE:
            raise MethodError(f"no size up to {LARGEST_SIZE} has that power; the effect is too small")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return max(high, 2)
