"""By how much one image is off another, cell by cell, over images of any size.

A task compares the cells of one block of the fixed image: it reads that block and the window of the
moving image that the transform takes there, draws the latter in the fixed image's space, and hands
back a few numbers for each cell. No image is in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.cells import COLUMNS, compare_cells
from mosaicreg.cluster import Progress, delayed_call, one_blas_thread, run_tasks
from mosaicreg.geometry import Box, FloatArray, IntArray
from mosaicreg.pairs import evidence_of
from mosaicreg.pull import Pull, pull_of
from mosaicreg.reducing import Plane, known_pixels
from mosaicreg.sampling import source_window, warp_box
from mosaicreg.transforms import Mesh, Transform

BLOCK = 1024
"""Side in px of the part of the fixed image whose cells make a task, about."""
LEAST_KNOWN = 0.5
"""Cells of which both images know a smaller share are not compared."""
NULL_PAIRS = 100
"""How many cells that do not belong together are compared to learn how high chance reaches."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Columns, one row per cell.

    Args:
        points: (n, 2) middle of each cell (y, x) in the fixed image, px.
        source: (n, 2) the point of the moving image that the transform took there.
        offsets: (n, 2) by how much that point should lie elsewhere, px; NaN where nothing is known.
        sigma: (n,) standard error of either, px.
        correlation: (n,) of the cell, after it is moved by its offset.
        confidence: (n,) probability, 0 to 1, that the offset is right; 0 where there is none.
    """

    points: FloatArray
    source: FloatArray
    offsets: FloatArray
    sigma: FloatArray
    correlation: FloatArray
    confidence: FloatArray

    def __len__(self) -> int:
        return len(self.points)

    @property
    def compared(self) -> NDArray[np.bool_]:
        """(n,) which cells had enough pixels of both images, and signal, to be compared."""
        compared: NDArray[np.bool_] = np.isfinite(self.offsets[:, 0])
        return compared

    def mesh(self, least: float = 0.5) -> Mesh:
        """A mesh with a control point for each cell of at least this confidence.

        Each source point goes to where the transform took it, plus its offset.
        """
        use = self.confidence >= least
        return Mesh(self.source[use], (self.points + self.offsets)[use])


@dataclass(frozen=True)
class _Task:
    """What one task needs besides pixels."""

    box: Box
    cells: tuple[Box, ...]
    pull: Pull
    window: Box
    moving_shape: tuple[int, int]
    empty: tuple[tuple[float, ...], tuple[float, ...]]
    max_shift: int
    null: int


def measure_cells(
    fixed: Plane,
    moving: Plane,
    transform: Transform,
    points: FloatArray,
    cell: int,
    max_shift: int,
    progress: Progress | None = None,
    stage: str = "cells",
) -> Cells:
    """Compare cells of two images.

    Args:
        fixed, moving: the images.
        transform: from the moving image's pixels to the fixed one's, about.
        points: (n, 2) middles of the cells, in the fixed image.
        cell: side of a cell, px.
        max_shift: how far, px per axis, a cell may be off.
        progress, stage: told about every finished task.
    """
    low = np.floor(points - (cell - 1) / 2 + 0.5).astype(np.int64)
    low, high = np.clip(low, 0, fixed.shape), np.clip(low + cell, 0, fixed.shape)
    points = (low + high - 1) / 2
    boxes = np.concatenate([low, high], axis=1)
    batches = _batches(points)
    pull = pull_of(transform, Box(0, 0, *fixed.shape))
    share = -(-NULL_PAIRS // max(1, len(batches)))

    def tasks() -> Iterator[Any]:
        for rows in batches:
            plan = _planned(moving, pull, boxes[rows], max_shift, share, fixed.empty)
            pixels = (*fixed.window(plan.box), *moving.window(plan.window)) if plan else ()
            yield delayed_call(_compare, plan, *pixels)

    table = np.full((len(points), len(COLUMNS)), np.nan)
    null: dict[int, FloatArray] = {}

    def done(found: list[tuple[int, Any]]) -> None:
        for number, result in found:
            if result is not None:
                table[batches[number]], null[number] = result

    run_tasks(tasks(), stage, progress, len(batches), done)
    heights = np.concatenate([null[k] for k in sorted(null)] or [np.empty(0)])
    columns = dict(zip(COLUMNS, table.T, strict=True))
    z = columns["z"]
    confidence = np.zeros(len(points))
    there = np.isfinite(z)
    evidence = evidence_of(z[there], heights)
    confidence[there] = 1 / (1 + np.exp(-np.clip(evidence, -500, 500)))
    return Cells(
        points,
        transform.inverse_transform(points),
        np.stack([columns["dy"], columns["dx"]], axis=1),
        columns["sigma"],
        columns["correlation"],
        confidence,
    )


def _batches(points: FloatArray) -> list[IntArray]:
    """Rows of the points in each block, block after block."""
    block = np.floor(points / BLOCK).astype(np.int64)
    order = np.lexsort((block[:, 1], block[:, 0]))
    changes = np.flatnonzero((np.diff(block[order], axis=0) != 0).any(axis=1)) + 1
    return [np.sort(rows) for rows in np.split(order, changes) if len(rows)]


def _planned(
    moving: Plane,
    pull: Pull,
    boxes: IntArray,
    max_shift: int,
    null: int,
    empty: tuple[float, ...],
) -> _Task | None:
    """The task of some cells; None where they see nothing of the moving image."""
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    if (low >= high).any():
        return None
    box = Box(int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    own = pull.cut(box)
    window = source_window(own, box, moving.shape, 1)
    if window is None:
        return None
    cells = tuple(Box(*b).shifted(-box.y0, -box.x0) for b in boxes.tolist())
    return _Task(box, cells, own, window, moving.shape, (empty, moving.empty), max_shift, null)


def _compare(
    plan: _Task | None,
    fixed: Any = None,
    fixed_mask: Any = None,
    moving: Any = None,
    moving_mask: Any = None,
) -> tuple[FloatArray, FloatArray] | None:
    """One task: draw the moving image over the block, and compare."""
    if plan is None:
        return None
    one_blas_thread()
    fixed, moving = np.asarray(fixed), np.asarray(moving)
    known = _known(fixed, fixed_mask, plan.empty[0])
    there = _known(moving, moving_mask, plan.empty[1]).astype(np.uint8)
    drawn = np.empty(plan.box.shape, dtype=moving.dtype)
    seen = np.empty(plan.box.shape, dtype=np.uint8)
    where = plan.box, plan.pull, plan.window
    warp_box(*where, moving, plan.moving_shape, 1, 0, drawn)
    warp_box(*where, there, plan.moving_shape, 0, 0, seen)
    pair = (known, seen > 0)
    return compare_cells(fixed, drawn, pair, plan.cells, plan.max_shift, LEAST_KNOWN, plan.null)


def _known(pixels: NDArray[Any], mask: Any, empty: tuple[float, ...]) -> NDArray[np.bool_]:
    known = known_pixels(pixels, mask, empty)
    return np.ones(pixels.shape, dtype=bool) if known is None else known
