"""A pilot's table or one group's rows → the design of a larger study: whole groups and whole rows repeated.

Nothing is drawn: a group, or a row within it, is repeated in the proportions of the pilot. Where a size would need a part
of a group's kind or a part of a row, it cannot be had and is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeslmm.columns import frame_of, names_of, words_in
from bayeslmm.design import Design
from bayeslmm.errors import DataError, MethodError
from bayeslmm.formula import Formula, parse
from bayeslmm.model import Model

Array = NDArray[np.float64]
# Relative difference from which a column of a grown design is not the pilot's column.
SAME_COLUMN = 1e-9


class Study(NamedTuple):
    """One design: levels of the grown factor, rows in each (None where they differ), and its model."""

    n_groups: int
    n_per_group: float
    model: Model


def studies(
    source: Model | str, data: Any, n_groups: Sequence[int | None], n_per_group: Sequence[int | None], group: str | None
) -> list[Study]:
    """The designs of every pair of sizes; None keeps the pilot's.

    Parameters
    ----------
    source : Model or str
        A model on pilot data, or a formula with `data`.
    data : table or callable, optional
        For a formula the table of predictors and groups (without the grouping column: the rows of one group); for either,
        a function (n_groups, n_per_group) → table.
    n_groups, n_per_group : sequence
        Sizes wanted.
    group : str, optional
        The grouping column that is grown.

    Returns
    -------
    list of Study

    Raises
    ------
    MethodError
        A size that cannot be had by repeating whole groups or rows.
    """
    grow, grown = _grower(source, data, group)
    found = []
    for rows in n_per_group:
        for groups in n_groups:
            model = _model(source, grow(groups, rows))
            counts = pd.Series(grown_labels(model, grown)).value_counts()
            found.append(Study(len(counts), float(counts.mean()) if counts.nunique() == 1 else np.nan, model))
    return found


def grown_labels(model: Model, name: str) -> list[Any]:
    """Labels of the grown column, row by row."""
    frame: pd.DataFrame = frame_of(model.arguments["data"], [name])
    return list(frame[name].to_numpy()[model.design.rows])


def _grower(source: Model | str, data: Any, group: str | None) -> tuple[Callable[..., pd.DataFrame], str]:
    """The function from sizes to a table, and the column whose levels n_groups counts."""
    formula = source.formula if isinstance(source, Model) else parse(source)
    columns = list(dict.fromkeys(name for part in formula.random for name in part.group))
    if callable(data):
        return lambda groups, rows: _frame(data(groups, rows), formula), _chosen(formula, columns, None, group)
    if isinstance(source, Model):
        if data is not None:
            raise MethodError("data= is a function (n_groups, n_per_group) → table for a model, whose table it has")
        frame = _pilot(source)
    else:
        frame = _frame({} if data is None else data, formula)
    if group is None and len(columns) == 1 and columns[0] not in frame:
        frame = _one_group(frame, columns[0], formula)
    name = _chosen(formula, columns, frame, group)
    named = [source.arguments[key] for key in ("weights", "offset")] if isinstance(source, Model) else []
    texts = (formula.fixed, *formula.offsets, *(part.effects for part in formula.random))
    used = words_in(*texts) | {column for column in named if isinstance(column, str)}
    others = [column for column in columns if column != name]
    return Pilot(frame, name, others, frozenset(used - words_in(formula.response) - {name})).grown, name


def _chosen(formula: Formula, columns: list[str], frame: pd.DataFrame | None, group: str | None) -> str:
    """The column that is grown: the only one, or the outermost of nested ones, or the one named."""
    if group is not None:
        if group not in columns:
            raise MethodError(
                f"group={group!r} is no grouping column of the model; it has {', '.join(columns) or 'none'}"
            )
        return group
    if len(columns) == 1:
        return columns[0]
    if not columns:
        raise MethodError(f"{formula.text!r} has no grouping factor: the study has no groups to count")
    outermost = [c for c in columns if all(_inside(formula, frame, o, c) for o in columns if o != c)]
    if len(outermost) == 1:
        return outermost[0]
    raise MethodError(
        f"the model has the grouping columns {', '.join(columns)}; say which of them n_groups is the size of: "
        f"group={columns[0]!r}. The levels of the others stay as they are"
    )


def _inside(formula: Formula, frame: pd.DataFrame | None, inner: str, outer: str) -> bool:
    """Whether a column is written, or is seen, to number levels within those of another."""
    if all(outer in part.group for part in formula.random if inner in part.group):
        return True
    return frame is not None and _nested(frame, inner, outer)


def _nested(frame: pd.DataFrame, inner: str, outer: str) -> bool:
    """Whether every level of one column lies within one level of another."""
    return bool((frame.groupby(inner, observed=True)[outer].nunique() <= 1).all())


def _pilot(model: Model) -> pd.DataFrame:
    """The rows used of a model's table."""
    for name in ("weights", "offset"):
        if model.arguments[name] is not None and not isinstance(model.arguments[name], str):
            raise MethodError(
                f"the model was given its {name} as an array, which says nothing about new rows: give the model a column's "
                "name instead"
            )
    data = model.arguments["data"]
    return frame_of(data, names_of(data)).iloc[model.design.rows].reset_index(drop=True)


def _frame(data: Any, formula: Formula) -> pd.DataFrame:
    """A design table, with numbers where it lacks the response."""
    names = names_of(data) if len(names_of(data)) else []
    frame = frame_of(data, names)
    absent = sorted(_response_columns(formula) - set(frame.columns))
    if len(frame.columns):
        for name in absent:
            frame[name] = np.linspace(1.0, 2.0, len(frame))
    return frame


def _response_columns(formula: Formula) -> set[str]:
    """The columns that the response is made of, without the functions that it is made by."""
    return words_in(re.sub(r"[\w.]+\s*\(", "(", formula.response))


def _one_group(frame: pd.DataFrame, name: str, formula: Formula) -> pd.DataFrame:
    """Rows that lack the grouping column, as the rows of one group; no table at all is one row."""
    if not len(frame.columns):
        needed = words_in(formula.fixed, *(part.effects for part in formula.random)) - {name}
        if needed:
            raise MethodError(
                f"the formula needs {', '.join(sorted(needed))}: give data= with these columns, for one {name} (a table "
                f"without the column {name!r}) or for all"
            )
        frame = pd.DataFrame({word: [1.0] for word in sorted(_response_columns(formula))})
    return frame.assign(**{name: "1"})


class Pilot(NamedTuple):
    """A table whose groups and rows are repeated."""

    frame: pd.DataFrame
    name: str
    others: list[str]
    used: frozenset[str]  # columns that the design is made of

    def grown(self, n_groups: int | None, n_per_group: int | None) -> pd.DataFrame:
        """The table with so many groups, and so many rows in each."""
        frame = self.frame.reset_index(drop=True)
        inner = [o for o in self.others if _nested(frame, o, self.name) and frame[self.name].nunique() > 1]
        keys = self._keys(frame, inner)
        rows = list(frame.groupby(self.name, sort=False, observed=True).indices.values())
        if n_per_group is not None:
            rows = [at[_repeated([keys[i] for i in at], n_per_group, self._row_error(len(at)))] for at in rows]
        if n_groups is None:
            chosen = np.arange(len(rows))
        else:
            kinds: list[Hashable] = [tuple(sorted(map(str, (keys[i] for i in at)))) for at in rows]
            chosen = _repeated(kinds, n_groups, self._group_error(len(rows), len(set(kinds))))
        return self._assembled(frame, [rows[i] for i in chosen], inner if n_groups is not None else [])

    def _keys(self, frame: pd.DataFrame, inner: list[str]) -> list[Hashable]:
        """What a row is, but for its response, its group and the labels of levels inside the group."""
        kept = [name for name in frame if name in self.used or name in self.others]
        part = frame[kept].copy()
        for name in inner:
            part[name] = frame.groupby(self.name, sort=False, observed=True)[name].transform(
                lambda v: pd.factorize(v)[0]
            )
        return list(part.itertuples(index=False, name=None)) if kept else [()] * len(frame)

    def _assembled(self, frame: pd.DataFrame, rows: list[NDArray[np.intp]], inner: list[str]) -> pd.DataFrame:
        table = frame.iloc[np.concatenate(rows)].reset_index(drop=True)
        number = np.repeat(np.arange(1, len(rows) + 1), [len(at) for at in rows])
        labels = [f"{label:0{len(str(len(rows)))}d}" for label in number]
        for name in inner:
            table[name] = [f"{outer}:{own}" for outer, own in zip(labels, table[name], strict=True)]
        return table.assign(**{self.name: labels})

    def _row_error(self, have: int) -> str:
        return (
            f"the {have} rows of a level of {self.name!r} differ, and {{}} rows are not the same number of each: which "
            f"rows would be left out is not said. Take a multiple of {have}, or give data= a function "
            "(n_groups, n_per_group) → table"
        )

    def _group_error(self, have: int, kinds: int) -> str:
        return (
            f"the {have} levels of {self.name!r} have {kinds} different designs, and {{}} levels cannot have them in the same "
            f"proportions. Take a multiple of {have}, or give data= a function (n_groups, n_per_group) → table"
        )


def _repeated(kinds: Sequence[Hashable], count: int, error: str) -> NDArray[np.intp]:
    """Positions, `count` of them, in which every kind keeps its share."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise MethodError(f"n_groups and n_per_group are whole numbers, at least 1; got {count!r}")
    places: dict[Hashable, list[int]] = {}
    for at, kind in enumerate(kinds):
        places.setdefault(kind, []).append(at)
    if any(count * len(own) % len(kinds) for own in places.values()):
        raise MethodError(error.format(count))
    chosen = [own[i % len(own)] for own in places.values() for i in range(count * len(own) // len(kinds))]
    return np.array(sorted(chosen), np.intp)


def _model(source: Model | str, table: pd.DataFrame) -> Model:
    """The model on a design's table, its response noise."""
    if isinstance(source, Model):
        arguments = dict(source.arguments) | {"data": table, "priors": "flat"}
        model = Model(**arguments)
        _check_same_columns(source.design, model.design, table)
    else:
        model = Model(source, table, priors="flat")
    noise = np.random.default_rng(0).standard_normal(model.design.nobs)
    return changed(model, replace(model.design, y=noise))


def changed(model: Model, design: Design) -> Model:
    """The model with another design, its priors left as they are: for likelihoods only."""
    other = object.__new__(Model)
    kept = ("formula", "family", "link", "priors", "stages", "arguments")
    other.__dict__.update({name: value for name, value in vars(model).items() if name in kept} | {"design": design})
    return other


def _check_same_columns(pilot: Design, design: Design, table: pd.DataFrame) -> None:
    """Raise where a column of X means something else in the new design: its coefficient would too."""
    if design.fixed.names != pilot.fixed.names:
        raise DataError(
            f"the design has the coefficients {', '.join(design.fixed.names)}, the model {', '.join(pilot.fixed.names)}"
        )
    again = pilot.encode(table, random=False).X[design.rows]
    moved = np.abs(again - design.fixed.X).max(axis=0, initial=0.0) > SAME_COLUMN * np.abs(again).max(
        axis=0, initial=1.0
    )
    if moved.any():
        name = design.fixed.names[int(moved.argmax())]
        raise MethodError(
            f"the column {name!r} is computed from the data (a mean, a spread, knots), which the new design changes, and with "
            "it what the coefficient means. Compute the column beforehand"
        )
