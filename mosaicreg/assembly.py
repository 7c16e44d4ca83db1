"""`assemble`: the mosaic as a lazy dask array, one task per output block.

Graph only, no pixel code: which tiles touch which block is worked out once in plain numbers, and
each task carries just its own few tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import InputError
from mosaicreg.geometry import (
    Box,
    FloatArray,
    IntArray,
    TileGrid,
    as_pair,
    bounding_box,
    group_by_block,
    owned_boxes,
)
from mosaicreg.layout import Layout
from mosaicreg.mosaic import Mosaic
from mosaicreg.render import (
    BLENDS,
    INTERPOLATIONS,
    Blend,
    Interpolation,
    Placed,
    place,
    render_block,
    window_for,
)
from mosaicreg.source import Lead, TileSource

BLOCK = 4096
"""Side of an output block in px by default: one shard of the archive."""


def assemble(
    mosaic: Mosaic,
    layout: Layout,
    *,
    blend: Blend = "linear",
    interpolation: Interpolation = "linear",
    fill: float = 0,
    block: int | tuple[int, int] = BLOCK,
) -> da.Array:
    """The mosaic as a lazy dask array; nothing is read until a part of it is computed.

    Args:
        mosaic: the tiles.
        layout: where they lie.
        blend: what a pixel shows that several tiles own, see `mosaicreg.render.Blend`.
        interpolation: ``"linear"`` places tiles to a fraction of a pixel; ``"nearest"`` to a whole
            one, copying pixels as they are.
        fill: value of pixels that no tile owns.
        block: (y, x) or one number, px; each block is one task. It does not change the result.

    Returns:
        (leading..., y, x) array of the tiles' dtype. Its first pixel is the smallest y and x that
        any tile owns.

    Raises:
        InputError: where mosaic and layout differ, or an option does not exist.
    """
    if len(mosaic) != len(layout) or (mosaic.names != layout.names).any():
        raise InputError(f"the layout is of other tiles: {len(layout)}, not these {len(mosaic)}")
    check_style(mosaic, blend, interpolation, fill)
    boxes = owned_boxes(layout.positions, mosaic.shapes)
    canvas = bounding_box(boxes)
    grid = TileGrid(canvas.shape, as_pair(block, "block"))
    local = boxes - np.array([canvas.y0, canvas.x0, canvas.y0, canvas.x0])
    starts, members = group_by_block(local, grid)
    planes = _planes(mosaic)
    style = _Style(mosaic.dtype, blend, interpolation, fill)
    name = f"assemble-{uuid4().hex}"
    graph = {}
    for number, (row, col, box) in enumerate(grid.boxes()):
        tiles = members[starts[number] : starts[number + 1]]
        window = box.shifted(canvas.y0, canvas.x0)
        source = mosaic.source.select(tiles)
        for index, lead in planes:
            plan = BlockPlan(
                window, source, lead, layout.positions[tiles], mosaic.shapes[tiles], style
            )
            graph[(name, *index, row, col)] = (render_plan, plan)
    chunks = (*_plane_chunks(mosaic), *grid.chunks)
    return da.Array(graph, name, chunks=chunks, dtype=mosaic.dtype)


@dataclass(frozen=True, slots=True)
class _Style:
    dtype: np.dtype[Any]
    blend: Blend
    interpolation: Interpolation
    fill: float


@dataclass(frozen=True)
class BlockPlan:
    """All that the task of one output block needs; small, picklable, opaque to dask.

    Args:
        box: the block, in the layout's coordinates.
        source: the tiles that touch it.
        lead: which leading planes, one slice per axis.
        positions, shapes: of these tiles.
    """

    box: Box
    source: TileSource
    lead: Lead
    positions: FloatArray
    shapes: IntArray
    style: _Style

    @cached_property
    def leading(self) -> tuple[int, ...]:
        """Lengths of the leading axes of the block."""
        return tuple(
            len(range(*part.indices(n)))
            for part, n in zip(self.lead, self.source.leading, strict=True)
        )


def render_plan(plan: BlockPlan) -> NDArray[Any]:
    """Read the windows that a block needs, and render it."""
    placed = []
    for tile, (position, shape) in enumerate(zip(plan.positions, plan.shapes, strict=True)):
        size = (int(shape[0]), int(shape[1]))
        owned, offset = place(position, size, plan.style.interpolation)
        window = window_for(owned, offset, plan.box)
        if window is not None:
            pixels = plan.source.read(tile, window, plan.lead)
            placed.append(Placed(owned, offset, window, pixels))
    style = plan.style
    return render_block(plan.box, placed, plan.leading, style.dtype, style.blend, style.fill)


def _planes(mosaic: Mosaic) -> list[tuple[tuple[int, ...], Lead]]:
    """Block index and slices of the leading axes: by plane, or all where decoding gives all."""
    if mosaic.source.interleaved:
        whole = tuple(slice(0, n) for n in mosaic.leading)
        return [((0,) * len(whole), whole)]
    return [
        (tuple(int(k) for k in index), tuple(slice(int(k), int(k) + 1) for k in index))
        for index in np.ndindex(*mosaic.leading)
    ]


def _plane_chunks(mosaic: Mosaic) -> tuple[tuple[int, ...], ...]:
    if mosaic.source.interleaved:
        return tuple((n,) for n in mosaic.leading)
    return tuple((1,) * n for n in mosaic.leading)


def check_style(mosaic: Mosaic, blend: str, interpolation: str, fill: float) -> None:
    """Raise InputError for a way to draw that does not exist, or a fill value that does not fit."""
    if blend not in BLENDS or interpolation not in INTERPOLATIONS:
        raise InputError(
            f"blend must be one of {', '.join(BLENDS)} and interpolation one of "
            f"{', '.join(INTERPOLATIONS)}, not {blend!r} and {interpolation!r}"
        )
    if mosaic.dtype.kind == "f":
        return
    info = np.iinfo(mosaic.dtype)
    if not (info.min <= fill <= info.max and fill == int(fill)):
        raise InputError(f"the fill value {fill} does not fit into pixels of type {mosaic.dtype}")
