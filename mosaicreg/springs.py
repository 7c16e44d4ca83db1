"""Tile positions as a spring model: what nornir_imageregistration calls a layout.

Every spring holds two tiles at a wanted offset, as hard as its weight; the layout at rest is the
weighted least-squares solution. It is found by one sparse solve, not by letting springs swing. Here
all springs are believed: `mosaicreg.solve_layout` is what stitching uses, and doubts them.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array, csc_array, csr_array, diags_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from mosaicreg.errors import InputError
from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.leastsquares import factored
from mosaicreg.solving import Edges, parts_of


@dataclass(frozen=True, eq=False)
class SpringLayout:
    """Tiles and the springs between them, as columns. Immutable.

    Args:
        positions: (n, 2), (y, x) of each tile, px: of its centre or any point that all share.
        first, second: (m,) tile numbers.
        offsets: (m, 2), where the second tile should be as seen from the first, px.
        weights: (m,) of 0 or more; all alike by default.

    Raises:
        InputError: for columns that do not fit each other, tile numbers that do not exist, springs
            from a tile to itself, or numbers that are not finite.
    """

    positions: FloatArray
    first: IntArray
    second: IntArray
    offsets: FloatArray
    weights: FloatArray

    def __init__(
        self,
        positions: ArrayLike,
        first: ArrayLike = (),
        second: ArrayLike = (),
        offsets: ArrayLike = (),
        weights: ArrayLike = 1.0,
    ) -> None:
        numbers = np.array(first, dtype=np.int64)
        weight = np.asarray(weights, dtype=np.float64)
        columns = {
            "positions": np.array(positions, dtype=np.float64).reshape(-1, 2),
            "first": numbers,
            "second": np.array(second, dtype=np.int64),
            "offsets": np.array(offsets, dtype=np.float64).reshape(-1, 2),
            "weights": np.full(numbers.shape, weight) if weight.ndim == 0 else weight.copy(),
        }
        for name, column in columns.items():
            column.setflags(write=False)
            object.__setattr__(self, name, column)
        self._check()

    def _check(self) -> None:
        n, m = len(self.positions), len(self.first)
        if self.first.ndim != 1 or {c.shape for c in (self.second, self.weights)} != {(m,)}:
            raise InputError("springs need one first tile, second tile, offset and weight each")
        if len(self.offsets) != m:
            raise InputError(f"{m} springs need as many offsets, not {len(self.offsets)}")
        ends = np.concatenate([self.first, self.second])
        if m and not (ends.min() >= 0 and ends.max() < n):
            raise InputError(f"springs name the tiles {ends.min()} to {ends.max()} of {n}")
        if (self.first == self.second).any():
            raise InputError(f"tile {self.first[self.first == self.second][0]} is tied to itself")
        for column in (self.positions, self.offsets, self.weights):
            if not np.isfinite(column).all():
                raise InputError("positions, offsets and weights must be finite numbers")
        if (self.weights < 0).any():
            raise InputError(f"a spring's weight is 0 or more, not {self.weights.min()}")

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def tensions(self) -> FloatArray:
        """(m, 2) by how much each spring is too long: the first tile's move that satisfies it."""
        there: FloatArray = self.positions[self.second] - self.positions[self.first]
        return there - self.offsets

    @property
    def net_tensions(self) -> FloatArray:
        """(n, 2) sum of the moves that a tile's springs ask of it."""
        return self._pulls(np.ones(len(self.first)))

    @property
    def weighted_net_tensions(self) -> FloatArray:
        """(n, 2) mean of the moves that a tile's springs ask of it, by their weights; 0 without."""
        total = self._edges.per_tile(self.weights)[:, None]
        pulls = self._pulls(self.weights)
        mean: FloatArray = np.divide(pulls, total, out=np.zeros_like(pulls), where=total > 0)
        return mean

    @cached_property
    def parts(self) -> IntArray:
        """(n,) which tiles springs with weight link; part 0 is the largest."""
        return parts_of(self._edges, self.weights > 0)

    @property
    def _edges(self) -> Edges:
        certainty = np.ones(len(self.first))
        return Edges(self.first, self.second, self.offsets, certainty, len(self))

    def _pulls(self, weights: FloatArray) -> FloatArray:
        pull = self.tensions * weights[:, None]
        sums = [
            np.bincount(self.first, pull[:, k], len(self))
            - np.bincount(self.second, pull[:, k], len(self))
            for k in range(2)
        ]
        return np.stack(sums, axis=1)


def relax_nodes(layout: SpringLayout, vector_scalar: float = 0.95) -> SpringLayout:
    """One step of springs that swing: all tiles move at once by their weighted net tension.

    Args:
        layout: where they start.
        vector_scalar: what share of it they go.
    """
    moves = vector_scalar * layout.weighted_net_tensions
    return replace(layout, positions=layout.positions + moves)


def relax_layout(layout: SpringLayout) -> SpringLayout:
    """The layout at rest: where steps of `relax_nodes` lead, by one sparse solve.

    It minimises the sum of weight times squared tension. Each part keeps the mean of its positions.
    """
    parts = layout.parts
    anchored = np.zeros(len(layout), dtype=bool)
    anchored[np.unique(parts, return_index=True)[1]] = True
    moves = _rest(layout, ~anchored)
    size = np.bincount(parts)
    for k in range(2):
        moves[:, k] -= (np.bincount(parts, moves[:, k]) / size)[parts]
    return replace(layout, positions=layout.positions + moves)


def _rest(layout: SpringLayout, free: NDArray[np.bool_]) -> FloatArray:
    """(n, 2) moves that bring the tiles to rest, those not ``free`` held."""
    moves = np.zeros_like(layout.positions)
    if free.any():
        incidence = _incidence(layout)
        weighted = incidence.T @ diags_array(layout.weights)
        normal = csc_array((weighted @ incidence).tocsr()[free][:, free])
        factors = factored(normal.data, normal.indices, normal.indptr)
        moves[free] = factors.solve(-(weighted @ layout.tensions)[free])
    return moves


def _incidence(layout: SpringLayout) -> csr_array:
    """(m, n) matrix that takes positions to offsets."""
    m = len(layout.first)
    rows, columns = np.tile(np.arange(m), 2), np.concatenate([layout.first, layout.second])
    signs = np.repeat([-1.0, 1.0], m)
    return coo_array((signs, (rows, columns)), shape=(m, len(layout))).tocsr()


def build_layout(
    positions: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    offsets: ArrayLike,
    weights: ArrayLike,
) -> SpringLayout:
    """A layout to start from, built of the springs of most weight first.

    Springs are taken by falling weight. Of two that a spring ties first, the one called first keeps
    its position; a tile tied to a placed one is put at the spring's offset; a spring between two
    groups of placed tiles moves the group begun later; a spring inside a group moves nothing. So
    positions follow the maximum spanning tree, and groups never tied remain parts.

    Args:
        positions: (n, 2) where the stage has the tiles; those without springs stay there.
        first, second, offsets, weights: as in `SpringLayout`; springs of weight NaN are left out.
    """
    weight = np.asarray(weights, dtype=np.float64)
    known = ~np.isnan(weight)
    a, b = (np.asarray(column, dtype=np.int64)[known] for column in (first, second))
    wanted = np.asarray(offsets, dtype=np.float64).reshape(-1, 2)[known]
    layout = SpringLayout(positions, a, b, wanted, weight[known])
    n, m = len(layout), len(layout.first)
    order = np.argsort(-layout.weights, kind="stable")
    low, high = np.minimum(a, b)[order], np.maximum(a, b)[order]
    # Of springs between the same tiles the one of most weight counts; ranks leave no ties.
    best = np.unique(low * n + high, return_index=True)[1] if m else np.empty(0, dtype=np.int64)
    # scipy before 1.17 takes no other indices here.
    ends = low[best].astype(np.int32), high[best].astype(np.int32)
    graph = coo_array((best + 1.0, ends), shape=(n, n)).tocsr()
    tree = minimum_spanning_tree(graph).tocoo()
    rank = (tree.data - 1).astype(np.int64)
    return replace(layout, positions=_hung(layout, order[rank], order))


def _hung(layout: SpringLayout, tree: IntArray, order: IntArray) -> FloatArray:
    """Positions along a tree of springs, each part hung on the first tile of its first spring."""
    n = len(layout)
    hung = replace(
        layout,
        first=layout.first[tree],
        second=layout.second[tree],
        offsets=layout.offsets[tree],
        weights=np.ones(len(tree)),
    )
    roots = np.full(int(hung.parts.max(initial=-1)) + 1, -1)
    begun = layout.first[order][::-1]
    roots[hung.parts[begun]] = begun  # the last to be written is the first spring's
    alone = np.flatnonzero(roots < 0)
    roots[alone] = np.unique(hung.parts, return_index=True)[1][alone]
    # All parts hang on one more node, so that one walk reaches every tile.
    fixed = np.concatenate([hung.first, np.full(len(roots), n)])
    moving = np.concatenate([hung.second, roots])
    links = coo_array((np.ones(len(fixed)), (fixed, moving)), shape=(n + 1, n + 1)).tocsr()
    _, before = breadth_first_order(links, n, directed=False)
    offset = np.zeros((n + 1, 2))
    outward = before[hung.second] == hung.first
    offset[hung.second[outward]] = hung.offsets[outward]
    offset[hung.first[~outward]] = -hung.offsets[~outward]
    offset[roots] = layout.positions[roots]
    before[n] = n
    while (before != n).any():  # twice as far at each step; offset[n] is 0
        offset, before = offset + offset[before], before[before]
    positions: FloatArray = offset[:n]
    return positions


def merge_parts(
    layout: SpringLayout, first: ArrayLike, second: ArrayLike, offsets: ArrayLike
) -> SpringLayout:
    """Parts that no spring ties, moved to fit what is known besides, as from the stage.

    The two parts with most offsets between them come first: the smaller one is moved by the mean
    of what these ask, and the two go on as one. Parts without any offset to others stay.

    Args:
        layout: as `build_layout` or `relax_layout` gives it. Its springs do not change.
        first, second, offsets: (k,), (k,) and (k, 2), where the second tile should be as seen from
            the first. Those inside a part say nothing.
    """
    known = SpringLayout(layout.positions, first, second, offsets)
    parts, size = layout.parts, np.bincount(layout.parts)
    ends = np.stack([parts[known.first], parts[known.second]], axis=1)
    across = ends[:, 0] != ends[:, 1]
    ends, asked = ends[across], -known.tensions[across]
    turned = ends[:, 0] > ends[:, 1]
    asked[turned] *= -1
    pairs, which, counts = np.unique(
        np.sort(ends, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    links: dict[int, dict[int, tuple[int, FloatArray]]] = {}
    sums = np.stack([np.bincount(which, asked[:, k], len(pairs)) for k in range(2)], axis=1)
    for (p, q), count, total in zip(pairs.tolist(), counts.tolist(), sums, strict=True):
        links.setdefault(p, {})[q] = (count, total)
        links.setdefault(q, {})[p] = (count, -total)
    moves = _merged(links, size)
    return replace(layout, positions=layout.positions + moves[parts])


def _merged(links: dict[int, dict[int, tuple[int, FloatArray]]], size: IntArray) -> FloatArray:
    """(parts, 2) moves of the parts.

    ``links[p][q]``: how many offsets ask for a move of q against p, and the sum of these moves.
    """
    moves = np.zeros((len(size), 2))
    members, tiles = {p: [p] for p in links}, size.tolist()
    queue = [(-count, p, q) for p in links for q, (count, _) in links[p].items() if p < q]
    heapq.heapify(queue)
    while queue:
        count, p, q = heapq.heappop(queue)
        if links.get(p, {}).get(q, (0,))[0] != -count:
            continue  # merged or counted anew since
        kept, gone = (p, q) if tiles[p] >= tiles[q] else (q, p)
        shift = links[kept][gone][1] / -count
        moves[members[gone]] += shift
        members[kept] += members.pop(gone)
        tiles[kept] += tiles[gone]
        for other, (number, total) in links.pop(gone).items():
            del links[other][gone]
            if other == kept:
                continue
            have, so_far = links[kept].get(other, (0, np.zeros(2)))
            new = have + number, so_far + total + number * shift
            links[kept][other], links[other][kept] = new, (new[0], -new[1])
            heapq.heappush(queue, (-new[0], min(kept, other), max(kept, other)))
    return moves
