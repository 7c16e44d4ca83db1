"""How the blocks of a mosaic are made, in plain numbers: which tiles touch which, and where.

No pixel code and no dask: a `Recipe` is a few columns for all tiles, and the `BlockPlan` of one
block carries just its own few tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

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
from mosaicreg.journal import short_digest
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

if TYPE_CHECKING:
    from mosaicreg.turned import Pose, Turned

BLOCK = 4096
"""Side of an output block in px by default: one shard of the archive."""


def recipe_for(
    mosaic: Mosaic,
    layout: Layout,
    *,
    blend: Blend = "linear",
    interpolation: Interpolation = "linear",
    fill: float = 0,
    block: int | tuple[int, int] = BLOCK,
) -> Recipe:
    """How to make the mosaic; arguments and errors as `mosaicreg.assemble` has them."""
    if len(mosaic) != len(layout) or (mosaic.names != layout.names).any():
        raise InputError(f"the layout is of other tiles: {len(layout)}, not these {len(mosaic)}")
    check_style(mosaic, blend, interpolation, fill)
    return Recipe(
        source=mosaic.source,
        positions=layout.positions,
        shapes=mosaic.shapes,
        style=_Style(mosaic.dtype, blend, interpolation, fill),
        block=as_pair(block, "block"),
        angles=layout.angles,
    )


class _Style(NamedTuple):
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
        angles: degrees by which they are turned; None where no tile of the mosaic is.
    """

    box: Box
    source: TileSource
    lead: Lead
    positions: FloatArray
    shapes: IntArray
    style: _Style
    angles: FloatArray | None = None

    @cached_property
    def leading(self) -> tuple[int, ...]:
        """Lengths of the leading axes of the block."""
        return tuple(
            len(range(*part.indices(n)))
            for part, n in zip(self.lead, self.source.leading, strict=True)
        )


@dataclass(frozen=True, eq=False)
class Recipe:
    """How to make any block of the mosaic, without making any.

    Args:
        source: all tiles.
        positions, shapes: where they lie in the layout, and how large they are.
        angles: degrees by which they are turned; None where none is.
        block: (height, width) of a block, px.
    """

    source: TileSource
    positions: FloatArray
    shapes: IntArray
    style: _Style
    block: tuple[int, int]
    angles: FloatArray | None = None

    def with_blocks(self, block: tuple[int, int]) -> Recipe:
        """The same mosaic in other blocks."""
        return self if block == self.block else replace(self, block=block)

    @cached_property
    def boxes(self) -> IntArray:
        """(n, 4) around the pixels that each tile owns."""
        if self.angles is None:
            return owned_boxes(self.positions, self.shapes)
        from mosaicreg.turned import turned_boxes

        return turned_boxes(self.positions, self.shapes, self.angles)

    @cached_property
    def canvas(self) -> Box:
        """All pixels that tiles own, in the layout's coordinates."""
        return bounding_box(self.boxes)

    @property
    def grid(self) -> TileGrid:
        """The blocks of a plane."""
        return TileGrid(self.canvas.shape, self.block)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return self.style.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(leading..., y, x) of the mosaic."""
        return (*self.source.leading, *self.canvas.shape)

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Block lengths, the way dask writes chunks; all planes in one where read together."""
        leading = self.source.leading
        if self.source.interleaved:
            return (*((n,) for n in leading), *self.grid.chunks)
        return (*((1,) * n for n in leading), *self.grid.chunks)

    @property
    def numblocks(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        leading = self.source.leading
        planes = (1,) * len(leading) if self.source.interleaved else leading
        return (*planes, *self.grid.grid_shape)

    @cached_property
    def touching(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Which tiles touch which block, see `mosaicreg.geometry.group_by_block`."""
        corner = np.array([self.canvas.y0, self.canvas.x0] * 2)
        return group_by_block(self.boxes - corner, self.grid)

    def tiles_of(self, row: int, col: int) -> NDArray[np.intp]:
        """Numbers of the tiles that touch a block, ascending."""
        starts, members = self.touching
        number = row * self.grid.grid_shape[1] + col
        return members[starts[number] : starts[number + 1]]

    def plan(self, index: tuple[int, ...]) -> BlockPlan:
        """What the task of one block needs."""
        *planes, row, col = index
        tiles = self.tiles_of(row, col)
        return BlockPlan(
            box=self.grid.box(row, col).shifted(self.canvas.y0, self.canvas.x0),
            source=self.source.select(tiles),
            lead=self.lead(tuple(planes)),
            positions=self.positions[tiles],
            shapes=self.shapes[tiles],
            style=self.style,
            angles=None if self.angles is None else self.angles[tiles],
        )

    def key(self, index: tuple[int, ...], stamps: NDArray[np.uint64]) -> int:
        """A number that changes with anything that a block's pixels depend on.

        ``stamps`` (n,) stand for the pixels of the tiles, see `mosaicreg.source.stamps_of`.
        """
        *planes, row, col = index
        tiles = self.tiles_of(row, col)
        box = self.grid.box(row, col).shifted(self.canvas.y0, self.canvas.x0)
        style, lead = self.style, self.lead(tuple(planes))
        return short_digest(
            (style.dtype.str, style.blend, style.interpolation, style.fill),
            (box, [(part.start, part.stop) for part in lead]),
            stamps[tiles],
            self.positions[tiles],
            self.shapes[tiles],
            None if self.angles is None else self.angles[tiles],
        )

    def lead(self, planes: tuple[int, ...]) -> Lead:
        """Slices of the leading axes of a block."""
        if self.source.interleaved:
            return tuple(slice(0, n) for n in self.source.leading)
        return tuple(slice(k, k + 1) for k in planes)


def render_plan(plan: BlockPlan) -> NDArray[Any]:
    """Read the windows that a block needs, and render it; (leading..., y, x)."""
    (block,) = render_bands(plan, plan.box.shape[0])
    return block


def render_bands(plan: BlockPlan, rows: int) -> Iterator[NDArray[Any]]:
    """The same pixels in bands of some rows, from top to bottom; (leading..., rows, x).

    Each tile is read when the first band needs it, and let go after the last.
    """
    tiles = _upright(plan) if plan.angles is None else _turned(plan, plan.angles)
    held: dict[int, Any] = {}
    style = plan.style
    for y in range(plan.box.y0, plan.box.y1, rows):
        band = Box(y, plan.box.x0, min(y + rows, plan.box.y1), plan.box.x1)
        needed = [k for k, tile in enumerate(tiles) if tile.box.intersection(band)]
        held = {k: held[k] for k in needed if k in held}  # the others go before more are read
        held |= {k: tiles[k].read() for k in needed if k not in held}
        drawn = [held[k] for k in needed]
        if plan.angles is None:
            yield render_block(band, drawn, plan.leading, style.dtype, style.blend, style.fill)
        else:
            from mosaicreg.turned import render_turned

            yield render_turned(
                band, drawn, plan.leading, style.dtype, style.blend, style.interpolation, style.fill
            )
        del drawn


class _Needed(NamedTuple):
    """A tile that a block needs: around the pixels that it owns, and what reads it."""

    box: Box
    read: Callable[[], Placed | Turned]


def _upright(plan: BlockPlan) -> list[_Needed]:
    def read(tile: int, owned: Box, offset: tuple[float, float], window: Box) -> Placed:
        return Placed(owned, offset, window, plan.source.read(tile, window, plan.lead))

    found = []
    for tile, (position, shape) in enumerate(zip(plan.positions, plan.shapes, strict=True)):
        size = (int(shape[0]), int(shape[1]))
        owned, offset = place(position, size, plan.style.interpolation)
        window = window_for(owned, offset, plan.box)
        if window is not None:
            found.append(_Needed(owned, partial(read, tile, owned, offset, window)))
    return found


def _turned(plan: BlockPlan, angles: FloatArray) -> list[_Needed]:
    from mosaicreg.turned import Pose, Turned, window_of

    def read(tile: int, pose: Pose, window: Box) -> Turned:
        return Turned(pose, window, plan.source.read(tile, window, plan.lead))

    found = []
    for tile, angle in enumerate(angles.tolist()):
        (y, x), (height, width) = plan.positions[tile].tolist(), plan.shapes[tile].tolist()
        pose = Pose((y, x), (height, width), angle)
        window = window_of(pose, plan.box)
        if window is not None:
            found.append(_Needed(pose.box, partial(read, tile, pose, window)))
    return found


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
