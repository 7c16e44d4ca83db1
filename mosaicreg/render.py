"""One output block from the tiles that touch it: which part of each, sampled, blended.

Pure functions on arrays; no files, no dask. A tile at a fractional position owns the pixels of the
box that starts at its position rounded to the nearest pixel (`mosaicreg.geometry.owned_boxes`),
and is sampled at each pixel centre it owns, its edge pixels continued by half a pixel. All
arithmetic is per pixel and depends on the pixel's place in the tile only, so any cut of the mosaic
into blocks gives the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import Box, nearest_pixel

Blend = Literal["linear", "nearest", "mean", "max", "first"]
"""What a pixel shows that several tiles own: ``linear``: their mean, weighted by the distance to
each tile's edges (feathered seams); ``nearest``: the tile whose centre is nearest; ``mean``;
``max``; ``first``: the tile that comes first. NaN pixels give way to others."""
Interpolation = Literal["linear", "nearest"]
"""``linear`` between the four pixels around; ``nearest`` copies pixels as they are."""

BLENDS: tuple[Blend, ...] = get_args(Blend)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


class Placed(NamedTuple):
    """The part of a tile that one block needs.

    Args:
        owned: the pixels of the mosaic that the whole tile owns.
        offset: (y, x) in [-0.5, 0.5]: where in the tile the centre of its first owned pixel is.
        window: the part of the tile that ``pixels`` holds, in tile coordinates.
        pixels: (leading..., y, x).
    """

    owned: Box
    offset: tuple[float, float]
    window: Box
    pixels: NDArray[Any]


def place(
    position: NDArray[np.float64], shape: tuple[int, int], interpolation: Interpolation
) -> tuple[Box, tuple[float, float]]:
    """The box that a tile at ``position`` (y, x) owns, and its sampling offset."""
    start = nearest_pixel(position)
    owned = Box.at((int(start[0]), int(start[1])), shape)
    if interpolation == "nearest":
        return owned, (0.0, 0.0)
    dy, dx = start - position
    return owned, (float(dy), float(dx))


def window_for(owned: Box, offset: tuple[float, float], block: Box) -> Box | None:
    """The part of a tile (tile coordinates) that ``block`` (mosaic coordinates) needs, or None."""
    common = owned.intersection(block)
    if common is None:
        return None
    part = common.shifted(-owned.y0, -owned.x0)
    (y_low, y_high), (x_low, x_high) = ((int(d < 0), int(d > 0)) for d in offset)
    return Box(
        max(0, part.y0 - y_low),
        max(0, part.x0 - x_low),
        min(owned.shape[0], part.y1 + y_high),
        min(owned.shape[1], part.x1 + x_high),
    )


def render_block(
    block: Box,
    tiles: Sequence[Placed],
    leading: tuple[int, ...],
    dtype: np.dtype[Any],
    blend: Blend = "linear",
    fill: float = 0,
) -> NDArray[Any]:
    """The pixels of one block of the mosaic.

    Args:
        block: in mosaic coordinates.
        tiles: those that touch the block, in the order of the mosaic.
        leading: lengths of the axes before y and x.
        dtype: of the result; integers are rounded and never wrap.
        blend: what a pixel shows that several tiles own.
        fill: value of pixels that no tile owns.

    Returns:
        (leading..., height, width) array of ``dtype``.
    """
    out = np.full((*leading, *block.shape), fill, dtype=dtype)
    for y in range(block.y0, block.y1, STRIP):
        strip = Box(y, block.x0, min(y + STRIP, block.y1), block.x1)
        touching = [t for t in tiles if t.owned.intersection(strip)]
        samples = [_sample(tile, strip, dtype) for tile in touching]
        for cell, members in _cells([box for box, _ in samples]):
            parts = [_cut(*samples[k], cell) for k in members]
            if len(parts) == 1:
                value = parts[0]
            else:
                value = _blend(cell, parts, [touching[k].owned for k in members], blend, dtype)
            rows, cols = cell.shifted(-block.y0, -block.x0).slices
            _put(value, out[..., rows, cols])
    return out


STRIP = 256
"""Rows rendered at a time: intermediate floats then fit into the processor's cache, and memory."""


def _cut(box: Box, values: NDArray[Any], cell: Box) -> NDArray[Any]:
    rows, cols = cell.shifted(-box.y0, -box.x0).slices
    return values[..., rows, cols]


def _sample(tile: Placed, block: Box, dtype: np.dtype[Any]) -> tuple[Box, NDArray[Any]]:
    """The pixels that a tile puts into a block, before blending, and their box in the mosaic."""
    common = tile.owned.intersection(block)
    assert common is not None
    part = common.shifted(-tile.owned.y0, -tile.owned.x0)
    values = tile.pixels
    for axis, offset, first, count, start in (
        (-2, tile.offset[0], part.y0, part.shape[0], tile.window.y0),
        (-1, tile.offset[1], part.x0, part.shape[1], tile.window.x0),
    ):
        values = _shift_axis(values, axis, offset, first - start, count, dtype)
    return common, values


def _shift_axis(
    values: NDArray[Any], axis: int, offset: float, first: int, count: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """``count`` samples at ``first + offset, first + 1 + offset...`` along one axis (-2 or -1).

    Pixels beyond the ends are those at the ends.
    """
    if offset == 0:
        return _weighted(values, axis, first, count, None, values.dtype)
    kind = _working_type(dtype)
    share = kind.type(abs(offset))
    other = first + (1 if offset > 0 else -1)
    here = _weighted(values, axis, first, count, kind.type(1) - share, kind)
    here += _weighted(values, axis, other, count, share, kind)
    return here


def _weighted(
    values: NDArray[Any], axis: int, start: int, count: int, weight: Any, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """``weight`` times the ``count`` pixels from ``start`` on; without weight, a view of them."""
    values = values.swapaxes(0, axis)
    length = len(values)
    low, high = max(start, 0), min(start + count, length)
    if weight is None:
        if high - low == count:
            return values[low:high].swapaxes(0, axis)
        return values[np.clip(np.arange(start, start + count), 0, length - 1)].swapaxes(0, axis)
    # Multiplied into place in one pass, in the memory order of the pixels.
    shape = list(values.swapaxes(0, axis).shape)
    shape[axis] = count
    out = np.empty(shape, dtype=dtype)
    rows = out.swapaxes(0, axis)
    np.multiply(values[low:high], weight, out=rows[low - start : high - start], dtype=dtype)
    np.multiply(values[:1], weight, out=rows[: low - start], dtype=dtype)
    np.multiply(values[-1:], weight, out=rows[high - start :], dtype=dtype)
    return out


def _working_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Arithmetic of 16-bit pixels is exact enough in float32; only float64 needs more."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _cells(boxes: Sequence[Box]) -> Iterator[tuple[Box, list[int]]]:
    """Cut the union of boxes into rectangles that each lie in a fixed set of boxes.

    Rows are cut at every box's ends into bands, each band at the ends of the boxes in it.
    """
    ys = sorted({y for b in boxes for y in (b.y0, b.y1)})
    order = sorted(range(len(boxes)), key=lambda k: boxes[k].y0)
    active: list[int] = []
    upcoming = 0
    for y0, y1 in itertools.pairwise(ys):
        while upcoming < len(order) and boxes[order[upcoming]].y0 <= y0:
            active.append(order[upcoming])
            upcoming += 1
        active = [k for k in active if boxes[k].y1 > y0]
        xs = sorted({x for k in active for x in (boxes[k].x0, boxes[k].x1)})
        for x0, x1 in itertools.pairwise(xs):
            members = sorted(k for k in active if boxes[k].x0 <= x0 and boxes[k].x1 >= x1)
            if members:
                yield Box(y0, x0, y1, x1), members


def _blend(
    cell: Box, parts: list[NDArray[Any]], owned: list[Box], blend: Blend, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """One value per pixel of a cell out of those of several tiles."""
    work = _working_type(dtype)
    if len({part.dtype for part in parts}) > 1:
        parts = [part.astype(work) for part in parts]
    gaps = dtype.kind == "f"
    if blend == "max":
        value = parts[0]
        for part in parts[1:]:
            value = np.fmax(value, part)
        return value
    if blend in ("first", "nearest"):
        ranks = [_rank(cell, box, k, blend) for k, box in enumerate(owned)]
        return _pick(parts, ranks, gaps)
    total = np.zeros(parts[0].shape, dtype=work)
    weights = np.zeros(parts[0].shape if gaps else cell.shape, dtype=work)
    for part, box in zip(parts, owned, strict=True):
        weight = _feather(cell, box, work) if blend == "linear" else np.ones(cell.shape, work)
        if gaps and (unknown := np.isnan(part)).any():
            weight, part = weight * ~unknown, np.where(unknown, 0, part)
        total += np.multiply(part, weight, dtype=work)
        weights += weight
    with np.errstate(invalid="ignore"):  # 0 / 0 where all tiles are NaN: NaN is the answer
        total /= weights
    return total


def _feather(cell: Box, owned: Box, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Distance to the nearer horizontal edge times distance to the nearer vertical edge, from 1."""
    y, x = np.arange(cell.y0, cell.y1), np.arange(cell.x0, cell.x1)
    wy = np.minimum(y - owned.y0 + 1, owned.y1 - y).astype(dtype)
    wx = np.minimum(x - owned.x0 + 1, owned.x1 - x).astype(dtype)
    weight: NDArray[Any] = wy[:, None] * wx[None, :]
    return weight


def _rank(cell: Box, owned: Box, number: int, blend: Blend) -> NDArray[np.int64]:
    """Lower is preferred: the tile's number, or four times the squared distance to its centre."""
    if blend == "first":
        return np.full(cell.shape, number)
    y = 2 * np.arange(cell.y0, cell.y1) - (owned.y0 + owned.y1 - 1)
    x = 2 * np.arange(cell.x0, cell.x1) - (owned.x0 + owned.x1 - 1)
    distance: NDArray[np.int64] = (y * y)[:, None] + (x * x)[None, :]
    return distance


def _pick(parts: list[NDArray[Any]], ranks: list[NDArray[np.int64]], gaps: bool) -> NDArray[Any]:
    """Pixel by pixel the value of lowest rank, the first on a tie; with gaps, NaN comes last."""
    worst = np.iinfo(np.int64).max
    value, best = parts[0].copy(), ranks[0]
    if gaps:
        best = np.where(np.isnan(value), worst, best)
    for part, rank in zip(parts[1:], ranks[1:], strict=True):
        other = np.where(np.isnan(part), worst, rank) if gaps else rank
        better = np.broadcast_to(other < best, value.shape)
        np.copyto(value, part, where=better)
        best = np.minimum(best, other)
    return value


def _put(values: NDArray[Any], out: NDArray[Any]) -> None:
    """Values into their place, rounded where it holds integers.

    All values are means of pixels of that very type, so none lies outside its range.
    """
    if out.dtype.kind == "f" or values.dtype == out.dtype:
        out[...] = values
    else:
        np.rint(values, out=out, casting="unsafe")
