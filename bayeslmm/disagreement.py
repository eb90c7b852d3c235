"""What a disagreement between results is, and what a reason for one says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from bayeslmm.estimates import Estimates
from bayeslmm.posterior import Posterior
from bayeslmm.result import PointFit

NOTABLE = 0.1  # gap, in the reference's standard errors, from which one is worth a sentence


@dataclass(frozen=True)
class Reason:
    """Why results differ.

    Parameters
    ----------
    kind : str
        "model", "held", "convergence", "diagnostics", "monte_carlo", "boundary", "attenuation", "approximation", "prior",
        "skew", "few_groups" or "unexplained".
    text : str
        The sentence.
    methods, parameters : tuple of str
        Which results and which parameters it is about; no parameters: all.
    evidence : mapping of str to float
        The numbers it rests on.
    """

    kind: str
    text: str
    methods: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    evidence: Mapping[str, float] = field(default_factory=dict)

    def covers(self, method: str, parameter: str) -> bool:
        """Whether it explains a gap of one parameter in one result."""
        return method in self.methods and (not self.parameters or parameter in self.parameters)


@dataclass(frozen=True, eq=False)
class Setting:
    """Columns to explain, and the one they are measured against."""

    columns: tuple[Estimates, ...]
    reference: Estimates

    @property
    def others(self) -> tuple[Estimates, ...]:
        """The columns other than the reference."""
        return tuple(column for column in self.columns if column is not self.reference)

    @property
    def points(self) -> tuple[Estimates, ...]:
        """The point fits."""
        return tuple(column for column in self.columns if isinstance(column.result, PointFit))

    @property
    def posteriors(self) -> tuple[Estimates, ...]:
        """The posteriors."""
        return tuple(column for column in self.columns if isinstance(column.result, Posterior))

    def gap(self, column: Estimates, name: str) -> float:
        """(estimate − reference's) in the reference's standard errors; NaN where either has none."""
        if name not in column.names or name not in self.reference.names:
            return float("nan")
        there = self.reference.at(name)
        return float(
            (column.estimate[column.at(name)] - self.reference.estimate[there]) / self.reference.uncertainty[there]
        )

    def wider(self, column: Estimates, name: str) -> float:
        """Ratio of uncertainties, the column's to the reference's."""
        if name not in column.names or name not in self.reference.names:
            return float("nan")
        return float(column.uncertainty[column.at(name)] / self.reference.uncertainty[self.reference.at(name)])


def shown(value: float, scale: float | None = None) -> str:
    """A number to three significant digits, or to the digits that `scale` leaves meaningful.

    Examples
    --------
    >>> shown(251.405, 6.8), shown(0.0123456)
    ('251.4', '0.0123')
    """
    if not np.isfinite(value):
        return "–"
    if scale is None or not np.isfinite(scale) or scale <= 0 or not 1e-6 < scale < 1e7:
        return f"{value:.3g}"
    return f"{value:.{max(0, 1 - int(np.floor(np.log10(scale))))}f}"


def listing(items: Iterable[str]) -> str:
    """Items as in a sentence: "a, b and c"."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


def called(label: str, start: bool = False) -> str:
    """A result's label as in a sentence: "the posterior", "REML"."""
    text = f"the {label}" if label.startswith("posterior") else label
    return text[:1].upper() + text[1:] if start else text
