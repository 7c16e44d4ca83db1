"""Boxes and grids in pixels: plain numbers, no images.

Conventions of the whole package: (y, x) order, half-open boxes, pixel centres at integers.
A tile at position (y, x) with fractional parts owns the pixels of the box that starts at the
position rounded to the nearest integer (halves go up), so every tile owns exactly its own size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, order=True, slots=True)
class Box:
    """Half-open rectangle of pixels: rows ``y0 <= y < y1``, columns ``x0 <= x < x1``.

    A box of zero height or width is legal and empty.

    Raises:
        ValueError: when an end lies before its start.
    """

    y0: int
    x0: int
    y1: int
    x1: int

    def __post_init__(self) -> None:
        if self.y1 < self.y0 or self.x1 < self.x0:
            raise ValueError(f"box ends before it starts: {self}")

    @classmethod
    def at(cls, corner: tuple[int, int], shape: tuple[int, int]) -> Box:
        """The box of ``shape`` (height, width) whose first pixel is ``corner`` (y, x)."""
        (y, x), (h, w) = corner, shape
        return cls(y, x, y + h, x + w)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def area(self) -> int:
        """Number of pixels."""
        return (self.y1 - self.y0) * (self.x1 - self.x0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices that cut this box out of an array whose pixel (0, 0) is the origin."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def shifted(self, dy: int, dx: int) -> Box:
        """The same box moved by (dy, dx)."""
        return Box(self.y0 + dy, self.x0 + dx, self.y1 + dy, self.x1 + dx)

    def intersection(self, other: Box) -> Box | None:
        """The common box, or None where no pixel is shared."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        return Box(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None

    def contains(self, other: Box) -> bool:
        """True where every pixel of ``other`` is also one of this box."""
        return (
            self.y0 <= other.y0
            and self.x0 <= other.x0
            and other.y1 <= self.y1
            and other.x1 <= self.x1
        )


@dataclass(frozen=True, slots=True)
class TileGrid:
    """A plane of ``shape`` (height, width) cut into tiles of ``tile`` (height, width), row by row.

    The last row and column may be smaller.

    Raises:
        ValueError: for a negative plane or a tile below one pixel.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]

    def __post_init__(self) -> None:
        if min(self.shape) < 0 or min(self.tile) < 1:
            raise ValueError(f"cannot cut a plane of {self.shape} into tiles of {self.tile} px")

    @property
    def grid_shape(self) -> tuple[int, int]:
        """(rows, columns) of tiles that cover the plane."""
        return -(-self.shape[0] // self.tile[0]), -(-self.shape[1] // self.tile[1])

    @property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tile heights and widths, the way dask writes chunks."""
        sizes = []
        for length, step, count in zip(self.shape, self.tile, self.grid_shape, strict=True):
            sizes.append(tuple(min(step, length - k * step) for k in range(count)))
        return sizes[0], sizes[1]

    def box(self, row: int, col: int) -> Box:
        """The part of the plane that tile (row, col) covers."""
        rows, cols = self.grid_shape
        if not (0 <= row < rows and 0 <= col < cols):
            raise IndexError(f"tile ({row}, {col}) is outside the grid of {rows} x {cols}")
        y, x = row * self.tile[0], col * self.tile[1]
        return Box(y, x, min(y + self.tile[0], self.shape[0]), min(x + self.tile[1], self.shape[1]))

    def boxes(self) -> Iterator[tuple[int, int, Box]]:
        """(row, col, box) of every tile, row by row."""
        rows, cols = self.grid_shape
        for row in range(rows):
            for col in range(cols):
                yield row, col, self.box(row, col)


def nearest_pixel(positions: ArrayLike) -> IntArray:
    """Positions rounded to the nearest pixel, halves up: the first pixel that a tile owns.

    Halves go up, not to even, so that moving a mosaic by a whole pixel moves every tile alike.
    """
    return np.floor(np.asarray(positions, dtype=np.float64) + 0.5).astype(np.int64)


def owned_boxes(positions: ArrayLike, shapes: ArrayLike) -> IntArray:
    """(n, 4) boxes y0, x0, y1, x1 of the pixels that each tile owns in the mosaic.

    ``positions`` (n, 2) float, ``shapes`` (n, 2) int.
    """
    start = nearest_pixel(positions)
    return np.concatenate([start, start + np.asarray(shapes, dtype=np.int64)], axis=1)


def bounding_box(boxes: IntArray) -> Box:
    """The smallest box around (n, 4) boxes; an empty box at the origin for none."""
    if len(boxes) == 0:
        return Box(0, 0, 0, 0)
    y0, x0 = boxes[:, :2].min(axis=0)
    y1, x1 = boxes[:, 2:].max(axis=0)
    return Box(int(y0), int(x0), int(y1), int(x1))


def group_by_block(boxes: IntArray, grid: TileGrid) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which boxes touch which block of a grid, as two columns (compressed rows).

    Args:
        boxes: (n, 4) boxes y0, x0, y1, x1 inside the plane of ``grid``.
        grid: the blocks, numbered row by row.

    Returns:
        ``(starts, members)``: block ``b`` is touched by ``members[starts[b]:starts[b + 1]]``, in
        ascending order. Cost and memory grow with the number of (block, box) contacts only.
    """
    rows, cols = grid.grid_shape
    size = np.asarray(grid.tile)
    first = boxes[:, :2] // size
    last = (boxes[:, 2:] - 1) // size
    span = np.maximum(last - first + 1, 0)
    counts = span[:, 0] * span[:, 1]
    members = np.repeat(np.arange(len(boxes)), counts)
    within = np.arange(len(members)) - np.repeat(np.cumsum(counts) - counts, counts)
    block = (first[members, 0] + within // span[members, 1]) * cols + (
        first[members, 1] + within % span[members, 1]
    )
    order = np.argsort(block, kind="stable")
    starts = np.searchsorted(block[order], np.arange(rows * cols + 1))
    return starts.astype(np.intp), members[order].astype(np.intp)


def near_pairs(cells: FloatArray, together: int = 1 << 22) -> tuple[int, Iterator[IntArray]]:
    """All pairs of items in one cell or in two that touch: how many, and some at a time.

    Args:
        cells: (n, 2) row and column of each item's cell, whole numbers.
        together: about how many pairs to give at a time.

    Returns:
        Their number, and parts of them: (k, 2) item numbers, the lower first, each pair once.
    """
    # Rows and columns numbered anew: what touches differs by 1, all else by 2 or more.
    place = np.empty(cells.shape, dtype=np.int64)
    for axis in (0, 1):
        values, place[:, axis] = np.unique(cells[:, axis], return_inverse=True)
        gaps = np.minimum(np.diff(values, prepend=values[:1]), 2).astype(np.int64)
        place[:, axis] = np.cumsum(gaps)[place[:, axis]]
    width = int(place[:, 1].max(initial=0)) + 3
    key = place[:, 0] * width + place[:, 1]
    order = np.argsort(key, kind="stable")
    key = key[order]
    own = np.arange(len(order))
    found = [(own + 1, np.searchsorted(key, key, side="right") - own - 1)]
    for step in (1, width - 1, width, width + 1):
        first = np.searchsorted(key, key + step)
        found.append((first, np.searchsorted(key, key + step, side="right") - first))

    def parts() -> Iterator[IntArray]:
        for first, counts in found:
            part = np.cumsum(counts) // together
            for some in np.split(own, np.flatnonzero(np.diff(part)) + 1):
                many = counts[some]
                ones = np.repeat(some, many)
                others = np.arange(len(ones)) - np.repeat(np.cumsum(many) - many, many)
                pairs = np.stack([order[ones], order[first[ones] + others]], axis=1)
                pairs.sort(axis=1)
                yield pairs

    return sum(int(counts.sum()) for _, counts in found), parts()


def clipped_range(start: int, count: int, stop: int, first: int = 0) -> range:
    """``start .. start + count`` without what lies outside ``first .. stop``; may be empty.

    Where ``count`` is more than there is room for and the two overlap, all of ``first .. stop``.
    """
    low, high = max(start, first), min(start + count, stop)
    if low < high and stop - first < count:
        return range(first, stop)
    return range(low, max(low, high))


def shifted_range(start: int, count: int, stop: int, first: int = 0) -> range:
    """``count`` numbers from ``start``, moved as little as needed to lie in ``first .. stop``.

    Raises:
        ValueError: where ``stop`` lies before ``first`` or there is no room for ``count``.
    """
    if stop < first:
        raise ValueError(f"the range from {first} ends before it starts, at {stop}")
    if count <= 0:
        return range(0)
    if stop - first < count:
        raise ValueError(f"no room for {count} numbers from {first} to below {stop}")
    low = min(max(start, first), stop - count)
    return range(low, low + count)


def centred_box(centre: tuple[float, float], size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """The box of ``size`` whose middle is the pixel ``centre``, moved to lie inside ``shape``.

    All (y, x). Of an even size, one pixel more lies before the centre than after it.

    Raises:
        ValueError: where ``size`` is larger than ``shape``.
    """
    rows, cols = (
        shifted_range(int(np.ceil(c - n / 2)), n, length)
        for c, n, length in zip(centre, size, shape, strict=True)
    )
    return Box.at((rows.start, cols.start), size)


def size_for_overlap(length: float, overlap: float) -> float:
    """The length at which a circular correlation tells all shifts apart, for one axis.

    Args:
        length: of both images.
        overlap: the least share of it, 0 to 1, by which they are known to overlap.

    Raises:
        ValueError: for an overlap outside 0 to 1.
    """
    if not 0 <= overlap <= 1:
        raise ValueError(f"an overlap is a share from 0 to 1, not {overlap}")
    return float(length) if overlap >= 0.5 else 2 * length * (1 - overlap)


def power_of_two(length: float) -> int:
    """The smallest power of two that is not below ``length``."""
    return 1 << max(0, int(np.ceil(length)) - 1).bit_length()


def as_pair(value: Any, what: str) -> tuple[int, int]:
    """One whole number or two as (y, x).

    Raises:
        ValueError: for anything else; ``what`` names the value in the message.
    """
    pair = (value, value) if np.isscalar(value) else tuple(value)
    if len(pair) != 2 or any(v != int(v) for v in pair):
        raise ValueError(f"{what} must be one whole number or two (y, x), not {value!r}")
    return int(pair[0]), int(pair[1])
