"""Compact letter display: two means share a letter exactly where their difference is not significant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from string import ascii_letters

from bayeslmm.errors import MethodError


def letters(order: Sequence[int], different: Iterable[tuple[int, int]]) -> list[str]:
    """Letters of each mean, by inserting significant pairs and absorbing what became redundant (Piepho 2004).

    Parameters
    ----------
    order : sequence of int
        The means' numbers 0 … k − 1 in the order in which letters are given, ``"a"`` first.
    different : iterable of (int, int)
        Pairs whose difference is significant.

    Returns
    -------
    list of str
        The letters of mean 0, mean 1, …

    Raises
    ------
    MethodError
        More than 52 letters would be needed.

    Examples
    --------
    >>> from bayeslmm.letters import letters
    >>> letters([2, 1, 0], [(0, 2)])
    ['b', 'ab', 'a']
    """
    place = {mean: i for i, mean in enumerate(order)}
    groups = _needed(_homogeneous(frozenset(order), different))
    ordered = sorted(groups, key=lambda group: sorted(place[mean] for mean in group))
    if len(ordered) > len(ascii_letters):
        raise MethodError(f"{len(ordered)} letters would be needed; show the table of contrasts instead")
    named = list(zip(ascii_letters, ordered, strict=False))
    return ["".join(letter for letter, group in named if mean in group) for mean in sorted(order)]


def _homogeneous(every: frozenset[int], different: Iterable[tuple[int, int]]) -> list[frozenset[int]]:
    """The maximal sets of means without a significant difference."""
    groups = [every]
    for one, other in different:
        split = [group - {mean} for group in groups if {one, other} <= group for mean in (one, other)]
        whole = [group for group in groups if not {one, other} <= group]
        candidates = sorted(set(whole + split), key=lambda group: (-len(group), sorted(group)))
        groups = []
        for group in candidates:
            if not any(group <= larger for larger in groups):
                groups.append(group)
    return groups


def _needed(groups: list[frozenset[int]]) -> list[frozenset[int]]:
    """The sets without those whose every pair is together in another one."""
    kept = list(groups)
    for group in sorted(groups, key=lambda g: (len(g), sorted(g))):
        others = [g for g in kept if g != group]
        pairs = list(combinations(sorted(group), 2)) or [(mean, mean) for mean in group]
        if all(any({a, b} <= other for other in others) for a, b in pairs):
            kept = others
    return kept
