"""Loop closure: where the pairs around a pair say that it must lie.

Three accepted pairs that lead from one tile of a pair to the other, around a square of the grid,
predict its offset without having seen it. A right offset agrees with them to about a pixel; a peak
that won by chance lies anywhere in the search window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.robust import median

LOOSE = 1.0
"""px; loops are not expected to close better than this, however well known their pairs are."""
STRAY = 0.1
"""Share of right offsets that may contradict their loops: one of the loops' pairs is wrong."""


def loop_evidence(
    fixed: IntArray, moving: IntArray, offsets: FloatArray, sure: NDArray[np.bool_], window: float
) -> FloatArray:
    """Log odds that each offset gains or loses by how it closes the loops of sure pairs.

    A pair's own word is not in its loops, so that holds for sure pairs too. How well loops close in
    this mosaic (bent sections, lens distortion) is learnt from the sure pairs.

    Args:
        fixed, moving: (m,) tile numbers.
        offsets: (m, 2) px; NaN where nothing was found.
        sure: (m,) which pairs may predict others.
        window: px per axis around the expected offset in which chance peaks lie.

    Returns:
        (m,) NaN where no loop leads from one tile to the other, or nothing was found.
    """
    pair, way = _loops(fixed, moving, offsets, sure)
    gained = np.full(len(fixed), np.nan)
    if len(pair) == 0:
        return gained
    off = offsets[pair] - way
    of_sure = sure[pair]
    spread = 1.4826 * median(np.abs(off[of_sure])) if of_sure.any() else np.zeros(2)
    spread = np.maximum(spread, LOOSE)
    normal = np.exp(-0.5 * ((off / spread) ** 2).sum(axis=1)) / (2 * np.pi * spread.prod())
    # Loops that disagree with each other are believed alike: the mean of their densities.
    count = np.bincount(pair, minlength=len(fixed))
    known = (count > 0) & np.isfinite(offsets).all(axis=1)
    density = np.bincount(pair, normal, len(fixed))[known] / count[known]
    gained[known] = np.log((1 - STRAY) * density * (2 * window + 1) ** 2 + STRAY)
    return gained


def _loops(
    fixed: IntArray, moving: IntArray, offsets: FloatArray, sure: NDArray[np.bool_]
) -> tuple[IntArray, FloatArray]:
    """Ways of two or three sure pairs between the tiles of each pair, not over itself.

    Returns:
        (k,) which pair each way is of, and (k, 2) the offset that it adds up to, px.
    """
    tiles = int(max(fixed.max(initial=-1), moving.max(initial=-1))) + 1
    start = np.concatenate([fixed[sure], moving[sure]])
    end = np.concatenate([moving[sure], fixed[sure]])
    step = np.concatenate([offsets[sure], -offsets[sure]])
    order = np.argsort(start * tiles + end, kind="stable")
    start, end, step = start[order], end[order], step[order]
    key = start * tiles + end
    first = np.searchsorted(start, np.arange(tiles + 1))

    def leave(at: IntArray) -> tuple[IntArray, IntArray]:
        """Every step away from each tile of ``at``: which of them it leaves, which step it is."""
        count = first[at + 1] - first[at]
        which = np.repeat(np.arange(len(at)), count)
        inside = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        return which, first[at][which] + inside

    pair, one = leave(fixed)
    here, back = leave(moving[pair])
    pair, one = pair[here], one[here]
    near, far = end[one], end[back]
    # A step from or to the pair's own other tile is the pair itself.
    other = (near != moving[pair]) & (far != fixed[pair])
    wanted = near * tiles + far
    place = np.minimum(np.searchsorted(key, wanted), max(0, len(key) - 1))
    linked = (key[place] == wanted) if len(key) else np.zeros(0, dtype=bool)
    met = near == far
    kept = other & (linked | met)
    middle = np.where(met[:, None], 0.0, step[place]) if len(key) else np.zeros((0, 2))
    way = step[one] + middle - step[back]
    return pair[kept], way[kept]
