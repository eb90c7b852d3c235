"""Which levels meet: the block structure of A = Z'WZ, the order of elimination, and how the remainder is factored.

Structure only: nothing here looks at a value of X, y, Z or the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from bayeslmm.exact.compiled import kernel
from bayeslmm.terms import RandomTerm

Index = NDArray[np.int64]
# One multiplication in a sparse column costs about as much as ten inside a dense matrix product.
SPARSE_COST = 10
# Pairs of levels looked at to learn the remainder's pattern; beyond that it is taken to be dense.
MOST_PAIRS = 100_000_000


@dataclass(frozen=True, eq=False)
class GroupFactor:
    """One grouping factor with the terms on it: k columns side by side, q levels."""

    group: str
    terms: tuple[int, ...]
    width: int
    count: int
    codes: Index


@dataclass(frozen=True, eq=False)
class Structure:
    """Where each block of A stands. Factors are in elimination order, the largest first.

    Parameters
    ----------
    factors : tuple of GroupFactor
        The grouping factors in order of elimination.
    link_level, link_factor, link_node : ndarray of int
        Blocks of A₂₁: level of the first factor, factor and node of the remainder; sorted by level, then row.
    rest_row, rest_col : ndarray of int
        Nodes of the blocks of A₂₂ on and below the diagonal.
    node_row, node_factor, node_level : ndarray of int
        The remainder's nodes: first row, factor, level.
    L_ptr, L_row : ndarray of int or None
        Pattern of the remainder's sparse factor by columns; None where it is dense.
    """

    factors: tuple[GroupFactor, ...]
    link_level: Index
    link_factor: Index
    link_node: Index
    rest_row: Index
    rest_col: Index
    node_row: Index
    node_factor: Index
    node_level: Index
    L_ptr: Index | None
    L_row: Index | None

    @property
    def sparse(self) -> bool:
        """Whether the remainder is factored as a sparse matrix."""
        return self.L_ptr is not None

    @property
    def rest_size(self) -> int:
        """Rows of the remainder."""
        return int(sum(f.width * f.count for f in self.factors[1:]))

    def rows(self, factor: int) -> Index:
        """First row of every level of a factor, in the order of elimination."""
        first = self.factors[0]
        if factor == 0:
            return np.arange(first.count, dtype=np.int64) * first.width
        mine = self.node_factor == factor
        rows = np.empty(self.factors[factor].count, np.int64)
        rows[self.node_level[mine]] = first.width * first.count + self.node_row[mine]
        return rows

    def __str__(self) -> str:
        if not self.factors:
            return "no random effects"
        first = self.factors[0]
        text = f"{first.count} blocks of {first.width} x {first.width} ({first.group})"
        if len(self.factors) == 1:
            return text
        names = ", ".join(f"{f.group} {f.width * f.count}" for f in self.factors[1:])
        kind = f"sparse, {len(self.L_row)} entries" if self.L_row is not None else "dense"
        return f"{text}, then a {self.rest_size} x {self.rest_size} {kind} remainder ({names})"


def group_factors(random: tuple[RandomTerm, ...]) -> tuple[GroupFactor, ...]:
    """Merge terms on the same grouping factor; order by number of effects, largest first."""
    merged: dict[str, list[int]] = {}
    for index, term in enumerate(random):
        merged.setdefault(term.group, []).append(index)
    factors = [
        GroupFactor(
            group,
            tuple(terms),
            sum(len(random[t].effects) for t in terms),
            len(random[terms[0]].levels),
            np.ascontiguousarray(random[terms[0]].codes, np.int64),
        )
        for group, terms in merged.items()
    ]
    return tuple(sorted(factors, key=lambda f: -f.width * f.count))


def structure(random: tuple[RandomTerm, ...]) -> Structure:
    """Find the blocks of A and choose the order and kind of factorisation."""
    factors = group_factors(random)
    none = np.empty(0, np.int64)
    if len(factors) < 2:
        return Structure(factors, *(none,) * 8, None, None)
    node_at = np.concatenate([[0, 0], np.cumsum([f.count for f in factors[1:]])]).astype(np.int64)
    n_nodes = int(node_at[-1])
    node_factor = np.repeat(np.arange(1, len(factors)), [f.count for f in factors[1:]]).astype(np.int64)
    width = np.array([f.width for f in factors], np.int64)
    incidence = _incidence(factors, node_at, n_nodes)
    order, pattern = _elimination(incidence, width[node_factor])
    place = np.empty(n_nodes, np.int64)
    place[order] = np.arange(n_nodes)
    node_factor_ordered = node_factor[order]
    node_row = np.concatenate([[0], np.cumsum(width[node_factor_ordered])])[:-1].astype(np.int64)
    links = incidence.tocoo()
    node = place[links.coords[1]]
    by_level = np.lexsort((node, links.coords[0]))
    rest_row, rest_col = _meetings(factors, node_at, place)
    return Structure(
        factors,
        links.coords[0][by_level].astype(np.int64),
        node_factor_ordered[node[by_level]],
        node[by_level],
        rest_row,
        rest_col,
        node_row,
        node_factor_ordered,
        (np.arange(n_nodes) - node_at[node_factor])[order],
        *(pattern if pattern else (None, None)),
    )


def _incidence(factors: tuple[GroupFactor, ...], node_at: Index, n_nodes: int) -> sp.csr_array:
    """Which levels of the first factor meet which nodes."""
    rows = np.tile(factors[0].codes, len(factors) - 1)
    columns = np.concatenate([node_at[f] + factor.codes for f, factor in enumerate(factors) if f > 0])
    met = sp.csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(factors[0].count, n_nodes))
    met.sum_duplicates()
    met.data[:] = 1
    return met


def _meetings(factors: tuple[GroupFactor, ...], node_at: Index, place: Index) -> tuple[Index, Index]:
    """Node pairs of A₂₂ on and below the diagonal."""
    n_nodes = len(place)
    keys = [np.arange(n_nodes, dtype=np.int64) * (n_nodes + 1)]
    for f in range(1, len(factors)):
        for g in range(f + 1, len(factors)):
            one, two = place[node_at[f] + factors[f].codes], place[node_at[g] + factors[g].codes]
            keys.append(np.unique(np.maximum(one, two) * n_nodes + np.minimum(one, two)))
    rows, columns = np.divmod(np.concatenate(keys), n_nodes)
    return rows, columns


def _elimination(incidence: sp.csr_array, widths: Index) -> tuple[Index, tuple[Index, Index] | None]:
    """Order of the nodes and the pattern of the sparse factor, or None where dense is cheaper."""
    n_nodes, size = incidence.shape[1], int(widths.sum())
    natural = np.arange(n_nodes, dtype=np.int64)
    counts = np.diff(incidence.indptr).astype(float)
    if np.sum(counts**2) > MOST_PAIRS:
        return natural, None
    meets = sp.csr_array(incidence.T.astype(np.int32) @ incidence.astype(np.int32))
    if meets.nnz > 0.5 * n_nodes**2:
        return natural, None
    order = _minimum_degree(meets) if meets.nnz > n_nodes else natural
    lower = sp.csr_array(sp.tril(meets[order][:, order], format="csr"))
    rows = _expand(lower, widths[order])
    ptr, row = symbolic(rows.indptr.astype(np.int64), rows.indices.astype(np.int64))
    lengths = np.diff(ptr).astype(float)
    if SPARSE_COST * np.sum(lengths**2) > size**3 / 3:
        return natural, None
    return order, (ptr, row)


def _minimum_degree(meets: sp.csr_array) -> Index:
    """A fill-reducing order: the one SuperLU would use for a matrix of this pattern."""
    n_nodes = meets.shape[0]
    dominant = sp.csc_array(meets.astype(float) + sp.diags_array(np.asarray(meets.sum(axis=1), float)))
    options = {"SymmetricMode": True}
    lu = splu(dominant, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    order = np.empty(n_nodes, np.int64)
    order[lu.perm_c] = np.arange(n_nodes)
    return order


def _expand(lower: sp.csr_array, widths: Index) -> sp.csr_array:
    """A pattern of nodes → the pattern of their rows, lower triangle, columns ascending."""
    start = np.concatenate([[0], np.cumsum(widths)])
    coo = lower.tocoo()
    if (widths == 1).all():
        expanded = lower
    else:
        pairs = [
            (start[i] + a, start[j] + b)
            for i, j in zip(*coo.coords, strict=True)
            for a in range(widths[i])
            for b in range(widths[j] if i != j else a + 1)
        ]
        rows, columns = np.array(pairs).T
        expanded = sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(start[-1], start[-1]))
    expanded.sort_indices()
    return expanded


@kernel
def symbolic(row_ptr: Index, column: Index) -> tuple[Index, Index]:
    """Pattern of the Cholesky factor by columns, from the lower triangle by rows (elimination tree, row subtrees)."""
    size = row_ptr.size - 1
    parent = np.full(size, -1)
    mark = np.full(size, -1)
    count = np.ones(size, np.int64)
    for i in range(size):
        mark[i] = i
        for at in range(row_ptr[i], row_ptr[i + 1]):
            j = column[at]
            while j < i and mark[j] != i:
                if parent[j] < 0:
                    parent[j] = i
                count[j] += 1
                mark[j] = i
                j = parent[j]
    ptr = np.zeros(size + 1, np.int64)
    ptr[1:] = np.cumsum(count)
    row = np.empty(ptr[size], np.int64)
    filled = ptr[:-1].copy()
    mark[:] = -1
    for i in range(size):
        mark[i] = i
        row[ptr[i]] = i
        if filled[i] == ptr[i]:
            filled[i] += 1
        for at in range(row_ptr[i], row_ptr[i + 1]):
            j = column[at]
            while j < i and mark[j] != i:
                row[filled[j]] = i
                filled[j] += 1
                mark[j] = i
                j = parent[j]
    return ptr, row
