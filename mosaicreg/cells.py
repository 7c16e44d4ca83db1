"""Cells of two images that lie on each other: by how much each is off.

Pure functions on arrays. Each cell is compared as neighbouring tiles are (`mosaicreg.correlate`),
over a small window of shifts. What is not known of a cell takes the value of the nearest pixel that
is: an edge of made-up grey would match others of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from mosaicreg.correlate import match_strips, rough_match
from mosaicreg.geometry import Box, FloatArray
from mosaicreg.strips import Search, plan_search

Known = NDArray[np.bool_]

COLUMNS = ("dy", "dx", "sigma", "correlation", "z", "lead")
"""What is measured of a cell: the offset (y, x) by which the moving image is off there, px, and as
in `mosaicreg.correlate.Match`."""


def compare_cells(
    fixed: NDArray[Any],
    moving: NDArray[Any],
    known: tuple[Known, Known],
    cells: Sequence[Box],
    max_shift: int,
    least_known: float,
    null: int,
) -> tuple[FloatArray, FloatArray]:
    """Compare the cells of one block.

    Args:
        fixed, moving: (h, w) pixels of the block, the moving image drawn where it should lie.
        known: (h, w) where either is known.
        cells: within the block.
        max_shift: how far, px per axis, a cell may be off.
        least_known: cells with a smaller share of pixels that both know are left out.
        null: how many pairs of cells that do not belong together to compare as well.

    Returns:
        (k, 6) `COLUMNS`, NaN where nothing is measured; and the heights of the null's peaks.
    """
    table = np.full((len(cells), len(COLUMNS)), np.nan)
    heights: list[float] = []
    earlier: list[tuple[Box, NDArray[Any]]] = []
    for row, cell in enumerate(cells):
        both = known[0][cell.slices] & known[1][cell.slices]
        if both.size == 0 or both.mean() < least_known:
            continue
        pair = [
            _filled(i[cell.slices], k[cell.slices])
            for i, k in zip((fixed, moving), known, strict=True)
        ]
        search = _search(cell, max_shift)
        if search is None:
            continue
        match = match_strips(pair[0][search.fixed.slices], pair[1][search.moving.slices], search)
        if match is not None:
            table[row] = [getattr(match, name) for name in COLUMNS]
        if len(heights) < null:
            heights += _chance_height(pair[0], cell, earlier, search, max_shift)
        earlier = [*earlier[-3:], (cell, pair[1])]
    return table, np.array(heights)


def _search(cell: Box, max_shift: int) -> Search | None:
    return plan_search(cell.shape, cell.shape, (0.0, 0.0), (max_shift, max_shift))


def _chance_height(
    fixed: NDArray[Any],
    cell: Box,
    earlier: list[tuple[Box, NDArray[Any]]],
    search: Search,
    max_shift: int,
) -> list[float]:
    """The height of the peak with an earlier cell that is too far away to share anything."""
    for box, moving in earlier:
        apart = max(abs(box.y0 - cell.y0), abs(box.x0 - cell.x0))
        if box.shape == cell.shape and apart > 2 * max_shift:
            found = rough_match(fixed[search.fixed.slices], moving[search.moving.slices], search)
            return [] if found is None else [found[0]]
    return []


def _filled(pixels: NDArray[Any], known: Known) -> NDArray[Any]:
    """The pixels, those not known replaced by the nearest that are."""
    if known.all():
        return pixels
    rows, cols = distance_transform_edt(~known, return_distances=False, return_indices=True)
    nearest: NDArray[Any] = pixels[rows, cols]
    return nearest
