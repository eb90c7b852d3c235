"""Every kind of figure under one name: what a result can draw, and a sentence that says what is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bayeslmm.errors import MethodError
from bayeslmm.plot.draws import density, prior_posterior, spaghetti
from bayeslmm.plot.effects import effects_qq, pairs, shrinkage
from bayeslmm.plot.results import caterpillar, forest, groups, limiting, residuals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bayeslmm.result import Result

OF_ANY: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "groups": groups,
        "caterpillar": caterpillar,
        "shrinkage": shrinkage,
        "pairs": pairs,
        "effects_qq": effects_qq,
        "residuals": residuals,
    }
)
OF_DRAWS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"density": density, "prior_posterior": prior_posterior, "spaghetti": spaghetti}
)
OF_OTHERS = (forest, limiting)

captions: Mapping[str, str] = MappingProxyType(
    {
        function.__name__: str(function.__doc__).strip().partition("\n\n")[0].replace("\n    ", " ")
        for function in (*OF_ANY.values(), *OF_DRAWS.values(), *OF_OTHERS)
    }
)
"""A sentence under each figure, by the figure's name."""


def draw(result: Result, kind: str | None = None, **options: Any) -> Figure:
    """Draw one kind of figure of a result.

    Parameters
    ----------
    result : PointFit or Posterior
        What to draw.
    kind : str, optional
        A point fit: "groups", "caterpillar", "shrinkage", "pairs", "effects_qq", "residuals". A posterior also:
        "density", "prior_posterior", "spaghetti". "groups" if not given, "residuals" where there are no groups.
    **options
        Of the function of that name: ``group="Subject"``.

    Returns
    -------
    Figure

    Raises
    ------
    MethodError
        No such kind for this result; the message lists those there are.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> from bayeslmm import plot
    >>> fit = bl.fit(bl.load("models/sleepstudy"))
    >>> len(plot.draw(fit, "caterpillar").axes)
    2
    """
    kind = kind if kind is not None else "groups" if result.model.groups else "residuals"
    known = {**OF_ANY, **(OF_DRAWS if hasattr(result, "draws") else {})}
    if kind not in known:
        why = f"{kind!r} is for posteriors" if kind in OF_DRAWS else f"no figure is called {kind!r}"
        raise MethodError(f"{why}; this result has {', '.join(known)}")
    return known[kind](result, **options)
