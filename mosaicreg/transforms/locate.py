"""Piecewise affine maps: which triangle a point lies in, and where that triangle puts it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import TileGrid, group_by_block
from mosaicreg.transforms.base import FloatArray, IntArray

CHUNK = 1 << 17
"""Points located at a time: what a core's cache holds, and a bound on memory."""
EDGE = 1e-9
"""Points this far outside a triangle, as a share of its height, still belong to it."""
CELLS_PER_TRIANGLE = 8
"""Cells of the lookup grid: finer ones hold fewer candidates, coarser ones less memory."""


@dataclass(frozen=True, eq=False)
class TriangleMap:
    """Triangles in one space (here) and the same triangles in another (there).

    A point that several triangles share belongs to the first of them.

    Args:
        here, there: (k, 3, 2) corners (y, x).
    """

    here: FloatArray
    there: FloatArray

    def __call__(self, points: FloatArray) -> FloatArray:
        """(n, 2) points here to (n, 2) points there; NaN where no triangle is.

        Looks points up in a uniform grid of cells that each know the triangles that touch them:
        10 million points in 20,000 triangles take seconds, in memory of the result and one chunk.
        """
        result = np.full(points.shape, np.nan)
        for start in range(0, len(points), CHUNK):
            part = points[start : start + CHUNK]
            inside, triangle = self._locate(part)
            slope, base = self._affine
            d = part[inside] - self.here[triangle, 0]
            m = slope[triangle]
            out = base[triangle]
            out[:, 0] += m[:, 0] * d[:, 0] + m[:, 1] * d[:, 1]
            out[:, 1] += m[:, 2] * d[:, 0] + m[:, 3] * d[:, 1]
            result[start + inside] = out
        return result

    @cached_property
    def _affine(self) -> tuple[FloatArray, FloatArray]:
        """(k, 4) matrix and (k, 2) value at the first corner: there = value + matrix d."""
        return slopes(self.here, self.there).reshape(-1, 4), self.there[:, 0].copy()

    @cached_property
    def _weights(self) -> FloatArray:
        """(k, 4): the weights of the second and third corner are matrix d."""
        unit = np.broadcast_to(np.array([[0.0, 0], [1, 0], [0, 1]]), self.here.shape)
        return slopes(self.here, unit).reshape(-1, 4)

    @cached_property
    def _cells(self) -> tuple[FloatArray, FloatArray, IntArray, NDArray[np.intp], NDArray[np.intp]]:
        """(origin, cells per px, cells per axis, starts, members) of the lookup grid."""
        low, high = self.here.min(axis=1), self.here.max(axis=1)
        origin = low.min(axis=0)
        size = np.maximum(high.max(axis=0) - origin, 1e-300)
        side = np.sqrt(size[0] * size[1] / (CELLS_PER_TRIANGLE * len(self.here)))
        shape = np.clip(np.ceil(size / max(side, 1e-300)), 1, 4096).astype(np.int64)
        rate = shape / size
        margin = EDGE * (high - low)
        first = np.clip(((low - margin - origin) * rate).astype(np.int64), 0, shape - 1)
        last = np.clip(((high + margin - origin) * rate).astype(np.int64), 0, shape - 1)
        grid = TileGrid((int(shape[0]), int(shape[1])), (1, 1))
        starts, members = group_by_block(np.concatenate([first, last + 1], axis=1), grid)
        return origin, rate, shape, starts, members

    def _locate(self, points: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """(numbers of the points that lie in a triangle, its number for each of them)."""
        origin, rate, shape, starts, members = self._cells
        with np.errstate(invalid="ignore"):
            place = (points - origin) * rate
            inside = ((place >= -EDGE * shape) & (place <= shape * (1 + EDGE))).all(axis=1)
        active = np.flatnonzero(inside)
        cell = np.clip(place[active].astype(np.int64), 0, shape - 1)
        number = cell[:, 0] * shape[1] + cell[:, 1]
        at, end = starts[number], starts[number + 1]
        found = np.full(len(points), -1, dtype=np.intp)
        while True:
            open_ = at < end
            if not open_.all():
                active, at, end = active[open_], at[open_], end[open_]
            if len(active) == 0:
                break
            triangle = members[at]
            d = points[active] - self.here[triangle, 0]
            w = self._weights[triangle]
            second = w[:, 0] * d[:, 0] + w[:, 1] * d[:, 1]
            third = w[:, 2] * d[:, 0] + w[:, 3] * d[:, 1]
            hit = (second >= -EDGE) & (third >= -EDGE) & (second + third <= 1 + EDGE)
            found[active[hit]] = triangle[hit]
            miss = ~hit
            active, at, end = active[miss], at[miss] + 1, end[miss]
        known = np.flatnonzero(found >= 0)
        return known, found[known]


def slopes(here: FloatArray, there: FloatArray) -> FloatArray:
    """(k, 2, 2) matrices of the affine maps between triangles (k, 3, 2)."""
    u, v = here[:, 1] - here[:, 0], here[:, 2] - here[:, 0]
    p, q = there[:, 1] - there[:, 0], there[:, 2] - there[:, 0]
    det = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    columns = [p * v[:, 1:] - q * u[:, 1:], q * u[:, :1] - p * v[:, :1]]
    return np.stack(columns, axis=2) / det[:, None, None]
