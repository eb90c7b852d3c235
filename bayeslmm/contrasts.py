"""Contrasts of estimated means or slopes, their tests, and the adjustment for making many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.combinations import Combinations, shown_table
from bayeslmm.comparisons import coding
from bayeslmm.errors import MethodError
from bayeslmm.grid import averaged
from bayeslmm.letters import letters as letters_of
from bayeslmm.multiplicity import Adjusted, Family, adjust
from bayeslmm.result import Result
from bayeslmm.table import Page

Array = NDArray[np.float64]
DEFAULT = {"pairwise": "tukey", "sequential": "mvt", "control": "dunnett", "polynomial": "none", "custom": "none"}
_SAID = {
    "tukey": "Tukey's, for comparing {means} means", "dunnett": "multivariate t, for {count} comparisons",
    "mvt": "multivariate t, for {count} contrasts", "sidak": "Šidák's, for {count} tests",
    "bonferroni": "Bonferroni's, for {count} tests", "holm": "Holm's, for {count} tests; intervals Bonferroni's",
    "bh": "Benjamini and Hochberg's false discovery rate, for {count} tests; intervals Bonferroni's",
    "none": "none",
}  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Contrasts:
    """Contrasts with their tests and intervals.

    Parameters
    ----------
    combinations : Combinations
        The contrasts as combinations of coefficients, families by `by`.
    source : Combinations
        What they are contrasts of.
    kind : str
        Which contrasts.
    adjust : str
        How p-values and intervals allow for their number; "none" for a posterior.
    level : float
        Of the intervals: simultaneous where there is an adjustment.
    seed : int
        Of the multivariate t's integrals.
    """

    combinations: Combinations
    source: Combinations
    kind: str
    adjust: str
    level: float
    seed: int

    @cached_property
    def table(self) -> pd.DataFrame:
        """Estimate (transformed back: ratio or odds_ratio), se, df, t, p, lower, upper; for a posterior pd, not t and p."""
        found = self.combinations
        columns: dict[str, Any] = {"estimate": found.estimate, "se": found.se, "df": found.degrees}
        if found.is_posterior:
            columns |= {"pd": self._direction()}
            columns["lower"], columns["upper"] = found.intervals(self.level)
        else:
            columns |= {"t": self._t, "p": self._adjusted.p}
            width = self._adjusted.critical * found.se
            columns["lower"], columns["upper"] = found.estimate - width, found.estimate + width
        return _ratios(found, pd.DataFrame(columns, index=found.labels))

    @cached_property
    def joint(self) -> pd.DataFrame:
        """F test of each family that all its contrasts are 0: F, df1, df2, p."""
        if self.combinations.is_posterior:
            raise MethodError(
                "a posterior has no F test; look at the contrasts' intervals and probabilities of direction"
            )
        families = self.combinations.families()
        tests = [self.combinations.joint(rows) for rows in families]
        values = [
            (np.nan, 0, np.nan, np.nan) if t is None else (t.F, t.numerator_df, t.denominator_df, t.p) for t in tests
        ]
        labels = [_family_label(self.combinations, rows) for rows in families]
        index = (
            pd.MultiIndex.from_tuples(labels, names=self.combinations.by)
            if len(self.combinations.by) > 1
            else pd.Index(
                [label[0] if label else self.kind for label in labels], name=(*self.combinations.by, "contrasts")[0]
            )
        )
        return pd.DataFrame(values, columns=["F", "df1", "df2", "p"], index=index)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know."""
        found = self.combinations
        if found.is_posterior:
            return (*self.source.notes, "pd is the posterior probability of the estimate's sign.")
        sizes = [(_means(self, rows), len(rows)) for rows in found.families()]
        said = _SAID[self.adjust if max(count for _, count in sizes) > 1 else "none"]
        notes = [f"Adjustment: {said.format(means=max(m for m, _ in sizes), count=max(c for _, c in sizes))}."]
        if len(sizes) > 1 and self.adjust != "none":
            notes[0] = notes[0][:-1] + f", in each {', '.join(found.by)} separately."
        if self._adjusted.error:
            notes.append(f"p of the multivariate t by quasi-Monte Carlo, standard error {self._adjusted.error:.0e}.")
        if found.transformation is not None:
            notes.append(
                f"Ratios ({found.transformation.ratio}) of {found.transformation.inside}; t and p are of their logarithms."
            )
        return (*self.source.notes, *notes)

    def letters(self, first: str = "largest", alpha: float = 0.05) -> pd.Series:
        """Compact letter display: levels that share a letter do not differ at `alpha` by these adjusted tests.

        Parameters
        ----------
        first : {"largest", "smallest"}
            Which mean gets the letter a.
        alpha : float

        Returns
        -------
        Series
            Over the levels compared; "" where a mean is not estimable.
        """
        if self.kind != "pairwise" or self.combinations.is_posterior:
            raise MethodError('letters need the p-values of all pairs: bl.contrasts(..., "pairwise") of a fit')
        if first not in ("largest", "smallest"):
            raise MethodError(f'first={first!r} is not known; use "largest" or "smallest"')
        found = pd.Series("", index=self.source.labels, name="letters", dtype=object)
        families = zip(self._source_families, self.combinations.families(), strict=True)
        for means, tests in families:
            _letter(found, self.source.estimate[means], means, self._adjusted.p[tests], first, alpha)
        return found

    def plot(self) -> Any:
        """Estimates and intervals, one line each; see `bayeslmm.plot.contrasts`."""
        from bayeslmm.plot.means import contrasts as draw

        return draw(self)

    def page(self) -> Page:
        """The table and its notes, to print or to show in a notebook."""
        return Page(_HEADINGS.get(self.kind, "Contrasts"), (), ((shown_table(self.table), ""),), self.notes)

    def __str__(self) -> str:
        return self.page().text

    def __repr__(self) -> str:
        return f"Contrasts({self.kind!r}, {len(self.combinations.labels)} rows)"

    def _repr_html_(self) -> str:
        return self.page().html

    @cached_property
    def _t(self) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.combinations.estimate / self.combinations.se

    @cached_property
    def _source_families(self) -> list[NDArray[np.intp]]:
        return replace(self.source, by=self.combinations.by).families()

    @cached_property
    def _adjusted(self) -> Adjusted:
        """Family by family; what is not estimable, or has no error, is no test and stays NaN."""
        m = len(self.combinations.labels)
        p, critical, error = np.full(m, np.nan), np.full(m, np.nan), 0.0
        for rows in self.combinations.families():
            tested = rows[np.isfinite(self._t[rows])]
            if not len(tested):
                continue
            V = self.combinations.covariance[np.ix_(tested, tested)]
            size = np.sqrt(np.diag(V))
            family = Family(
                self._t[tested], self.combinations.degrees[tested], _means(self, rows), V / np.outer(size, size)
            )
            found = adjust(family, self.adjust, self.level, self.seed)
            p[tested], critical[tested], error = found.p, found.critical, max(error, found.error)
        return Adjusted(p, critical, error)

    def _direction(self) -> Array:
        draws = self.combinations.draws
        positive = (draws > 0).mean(axis=0)
        return np.where(self.combinations.estimable, np.maximum(positive, (draws < 0).mean(axis=0)), np.nan)


_HEADINGS = {
    "pairwise": "Pairwise differences", "sequential": "Differences between successive levels",
    "control": "Differences from the reference level", "polynomial": "Polynomial contrasts",
}  # fmt: skip


def contrasts(
    source: Any,
    kind: str | Mapping[str, Any] | Any = "pairwise",
    *,
    of: str | Sequence[str] | None = None,
    by: str | Sequence[str] | None = None,
    adjust: str | None = None,
    reference: Any = None,
    df: str | None = None,
    level: float | None = None,
    weights: str = "equal",
    at: Mapping[str, Any] | None = None,
    seed: int = 1,
) -> Contrasts:
    """Compare estimated marginal means or slopes.

    A contrast is ``c'm`` with m the means, linear in the coefficients like them. p-values and intervals are adjusted for
    the number of contrasts, within each level of `by` separately; `bayeslmm.multiplicity.adjust` has the formulas.

    Parameters
    ----------
    source : Means, Slopes, Contrasts, PointFit or Posterior
        What to compare; with a fit or a posterior `of` names the factor.
    kind : str, mapping or array_like
        ``"pairwise"`` all differences, earlier minus later level (Tukey); ``"sequential"`` each level minus the one before
        (multivariate t); ``"control"`` each minus `reference` (Dunnett); ``"polynomial"`` orthogonal polynomials for
        equally spaced levels (no adjustment). Or the weights: a mapping of names to weights, each a sequence in the
        order of the levels or itself a mapping from levels; or a matrix with a row each (no adjustment).
    of : str or sequence of str, optional
        Factors whose means are compared, where `source` is a fit.
    by : str or sequence of str, optional
        Factors within whose levels the contrasts are taken; by default those of the means.
    adjust : {"tukey", "dunnett", "mvt", "sidak", "holm", "bonferroni", "bh", "none"}, optional
        By default that in parentheses above. A posterior takes none.
    reference : level, optional
        For ``"control"``; the first level by default.
    df, weights, at
        As for `means`, where `source` is a fit.
    level : float, optional
        Of the intervals, 0.95 by default.
    seed : int
        Of the quasi-random points behind the multivariate t.

    Returns
    -------
    Contrasts
        ``.table`` with estimate, se, df, t, p, lower, upper; ``.joint``, the F test of all; ``.letters()``; ``.plot()``.

    Raises
    ------
    MethodError
        Contrasts or an adjustment that do not fit what is compared.

    Notes
    -----
    ``"dunnett"`` is the multivariate t distribution itself, where R's emmeans uses an approximation by
    default, its "dunnettx"; the two differ in the third digit of p. Its "mvt" rounds the degrees of freedom.

    Examples
    --------
    >>> import bayeslmm as bl
    >>> fit = bl.fit(bl.load("models/penicillin_blocks"))
    >>> bl.contrasts(fit, "control", of="treat").table[["estimate", "se", "p"]].round(3).reset_index()
      contrast  estimate     se      p
    0    B - A       1.0  2.745  0.967
    1    C - A       5.0  2.745  0.214
    2    D - A       2.0  2.745  0.809
    """
    found = _source(source, of, by, df, weights, at)
    within = found.by if by is None else _tuple(by)
    _check_by(found, within)
    families = replace(found, by=within).families()
    name = kind if isinstance(kind, str) else "custom"
    codings = [coding(kind, _levels(found, rows, within), reference) for rows in families]
    C = np.zeros((sum(len(c.names) for c in codings), len(found.labels)))
    start, labels = 0, []
    for rows, own in zip(families, codings, strict=True):
        C[start : start + len(own.names), rows] = own.weights
        start += len(own.names)
        labels += [(*_family_label(replace(found, by=within), rows), one) for one in own.names]
    index = pd.MultiIndex.from_tuples(labels, names=[*within, _new_name(within)]) if within else _index(labels)
    rule = _adjustment(found, name, adjust)
    _check_scale(found, C)
    return Contrasts(found.times(C, index, within), found, name, rule, _level(source, level), seed)


def _source(source: Any, of: Any, by: Any, df: Any, weights: str, at: Any) -> Combinations:
    if isinstance(source, Result):
        if of is None:
            raise MethodError('say what is compared: bl.contrasts(fit, of="treat"), or give it bl.means(fit, "treat")')
        return averaged(source, _tuple(of), by=_tuple(by or ()), df=df, weights=weights, at=at)
    found = getattr(source, "combinations", None)
    if not isinstance(found, Combinations):
        raise MethodError(f"contrasts are of means, slopes, contrasts or a fit, not of {type(source).__name__}")
    if of is not None or df is not None or at is not None or weights != "equal":
        raise MethodError("of, df, weights and at belong to the means; give them to bl.means")
    return found


def _tuple(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _level(source: Any, level: float | None) -> float:
    value = getattr(source, "level", 0.95) if level is None else level
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise MethodError(f"level={value!r} must be a probability between 0 and 1, such as 0.95")
    return float(value)


def _index(labels: list[tuple[str, ...]]) -> pd.Index:
    return pd.Index([label[0] for label in labels], name="contrast")


def _new_name(within: tuple[str, ...]) -> str:
    """Contrasts of contrasts are called comparisons."""
    return "comparison" if "contrast" in within else "contrast"


def _check_by(found: Combinations, within: tuple[str, ...]) -> None:
    known = list(found.labels.names)
    for name in within:
        if name not in known:
            raise MethodError(f"by={name!r} is not among what is compared: {', '.join(map(str, known))}")
    if set(known) == set(within):
        raise MethodError(f"by names all of {', '.join(map(str, known))}: there is nothing left to compare")


def _check_scale(found: Combinations, C: Array) -> None:
    if found.transformation is None:
        return
    if not found.transformation.ratio or np.abs(C.sum(axis=1)).max() > 1e-10:
        raise MethodError(
            f"contrasts of {found.transformation.name}-transformed means have no meaning on the scale of "
            f'{found.transformation.inside} (only differences of logarithms have: ratios); use scale="link"'
        )


def _adjustment(found: Combinations, kind: str, adjust: str | None) -> str:
    if not found.is_posterior:
        return DEFAULT[kind] if adjust is None else adjust
    if adjust not in (None, "none"):
        raise MethodError(
            f"adjust={adjust!r} is for p-values; a posterior has none, and its intervals are not widened. Its shrinkage is "
            "the prior's: leave adjust out"
        )
    return "none"


def _levels(found: Combinations, rows: NDArray[np.intp], within: tuple[str, ...]) -> list[Any]:
    """What tells the rows of a family apart: levels, or tuples of them."""
    labels = found.labels[rows]
    rest = [name for name in labels.names if name not in within]
    if len(rest) == 1:
        return list(labels.get_level_values(rest[0]))
    return list(zip(*(labels.get_level_values(name) for name in rest), strict=True))


def _family_label(found: Combinations, rows: NDArray[np.intp]) -> tuple[Any, ...]:
    return tuple(found.labels.get_level_values(name)[rows[0]] for name in found.by)


def _means(result: Contrasts, rows: NDArray[np.intp]) -> int:
    """How many means the pairwise differences of a family compare; 0 for other contrasts."""
    if result.kind != "pairwise":
        return 0
    tested = rows[result.combinations.estimable[rows]]
    count = round((1 + np.sqrt(1 + 8 * len(rows))) / 2)
    first, second = np.triu_indices(count, 1)
    place = tested - rows[0]
    return len(set(first[place]) | set(second[place]))


def _letter(found: pd.Series, estimate: Array, means: NDArray[np.intp], p: Array, first: str, alpha: float) -> None:
    """Put the letters of one family in place."""
    one, two = np.triu_indices(len(means), 1)
    shown = np.flatnonzero(np.isfinite(estimate))
    number = {int(mean): i for i, mean in enumerate(shown)}
    sign = -1.0 if first == "largest" else 1.0
    order = [number[int(i)] for i in shown[np.argsort(sign * estimate[shown], kind="stable")]]
    pairs = [(number[int(a)], number[int(b)]) for a, b, q in zip(one, two, p, strict=True) if q < alpha]
    found.iloc[means[shown]] = letters_of(order, pairs)


def _ratios(found: Combinations, table: pd.DataFrame) -> pd.DataFrame:
    """Differences of logarithms as ratios."""
    scale = found.transformation
    if scale is None:
        return table

    def inverse(eta: Array) -> Array:
        return np.asarray(scale.base**eta)

    estimate, se = found.transformed(inverse, lambda eta: np.log(scale.base) * inverse(eta))
    ends = {name: inverse(table[name].to_numpy()) for name in ("lower", "upper")}
    return table.assign(estimate=estimate, se=se, **ends).rename(columns={"estimate": scale.ratio})
