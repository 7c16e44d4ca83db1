"""One output block from tiles that are turned: the counterpart of `mosaicreg.render`.

A turned tile owns the pixels whose centres lie inside it: its pixel p covers the square of side 1
around ``R(angle) (p - C) + C + position``, C = (shape - 1) / 2 (see `mosaicreg.turning`). A tile of
angle 0 owns exactly what it owns unturned. Arithmetic is per pixel, from its place in the mosaic
alone, so any cut into blocks gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mosaicreg.geometry import Box, FloatArray, IntArray, owned_boxes
from mosaicreg.render import Blend, Interpolation

_STRIP = 128
"""Rows drawn at a time: intermediate coordinates stay small."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a tile lies: position (y, x), shape (height, width), angle in degrees."""

    position: tuple[float, float]
    shape: tuple[int, int]
    angle: float

    @property
    def box(self) -> Box:
        """The smallest box that holds all pixels that the tile owns."""
        (b,) = turned_boxes([self.position], [self.shape], [self.angle]).tolist()
        return Box(*b)

    def source(self, box: Box) -> tuple[FloatArray, FloatArray]:
        """(height, width) y and x in the tile of the pixel centres of ``box``."""
        c, s = np.cos(np.deg2rad(self.angle)), np.sin(np.deg2rad(self.angle))
        middle = [(n - 1) / 2 for n in self.shape]
        dy = (np.arange(box.y0, box.y1) - (self.position[0] + middle[0]))[:, None]
        dx = (np.arange(box.x0, box.x1) - (self.position[1] + middle[1]))[None, :]
        return dy * c + dx * s + middle[0], dx * c - dy * s + middle[1]

    def owns(self, y: FloatArray, x: FloatArray) -> NDArray[np.bool_]:
        """Which points of the tile, as `source` gives them, lie inside it."""
        height, width = self.shape
        # Halves go up, as in `nearest_pixel`.
        inside: NDArray[np.bool_] = (
            (y > -0.5) & (y <= height - 0.5) & (x > -0.5) & (x <= width - 0.5)
        )
        return inside


@dataclass(frozen=True, slots=True)
class Turned:
    """The part of a turned tile that one block needs: ``window`` in tile coordinates."""

    pose: Pose
    window: Box
    pixels: NDArray[Any]


def turned_boxes(positions: ArrayLike, shapes: ArrayLike, angles: ArrayLike) -> IntArray:
    """(n, 4) smallest boxes y0, x0, y1, x1 around the pixels that each tile owns.

    ``positions`` (n, 2) px, ``shapes`` (n, 2) px, ``angles`` (n,) degrees.
    """
    p, n = np.asarray(positions, dtype=np.float64), np.asarray(shapes, dtype=np.int64)
    degrees = np.asarray(angles, dtype=np.float64)
    turn = np.deg2rad(degrees)
    c, s = np.abs(np.cos(turn))[:, None], np.abs(np.sin(turn))[:, None]
    half = (n * c + n[:, ::-1] * s) / 2
    centre = p + (n - 1) / 2
    low, high = np.ceil(centre - half), np.floor(centre + half) + 1
    boxes = np.concatenate([low, high], axis=1).astype(np.int64)
    return np.where((degrees == 0)[:, None], owned_boxes(p, n), boxes)


def window_of(pose: Pose, block: Box) -> Box | None:
    """The part of a tile that ``block`` (mosaic coordinates) may need, or None."""
    common = pose.box.intersection(block)
    if common is None:
        return None
    corners = Box(common.y1 - 1, common.x1 - 1, common.y1, common.x1)
    ends = [
        pose.source(Box(y, x, y + 1, x + 1))
        for y in (common.y0, corners.y0)
        for x in (common.x0, corners.x0)
    ]
    low = [int(np.floor(min(float(e[k][0, 0]) for e in ends))) - 1 for k in (0, 1)]
    high = [int(np.ceil(max(float(e[k][0, 0]) for e in ends))) + 2 for k in (0, 1)]
    y0, x0 = max(0, low[0]), max(0, low[1])
    y1, x1 = min(pose.shape[0], high[0]), min(pose.shape[1], high[1])
    return Box(y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


def render_turned(
    block: Box,
    tiles: Sequence[Turned],
    leading: tuple[int, ...],
    dtype: np.dtype[Any],
    blend: Blend = "linear",
    interpolation: Interpolation = "linear",
    fill: float = 0,
) -> NDArray[Any]:
    """The pixels of one block of the mosaic; arguments as of `mosaicreg.render.render_block`."""
    out = np.full((*leading, *block.shape), fill, dtype=dtype)
    for y in range(block.y0, block.y1, _STRIP):
        strip = Box(y, block.x0, min(y + _STRIP, block.y1), block.x1)
        target = out[..., y - block.y0 : strip.y1 - block.y0, :]
        _draw(target, strip, tiles, blend, interpolation)
    return out


def _draw(
    out: NDArray[Any],
    strip: Box,
    tiles: Sequence[Turned],
    blend: Blend,
    interpolation: Interpolation,
) -> None:
    """Draw all tiles into ``out``, the pixels of ``strip``."""
    work = np.float64 if out.dtype == np.float64 else np.float32
    total = np.zeros(out.shape, dtype=work)
    weights = np.zeros(out.shape, dtype=work)
    owners = np.zeros(out.shape, dtype=np.int32)
    for tile in tiles:
        common = tile.pose.box.intersection(strip)
        if common is None:
            continue
        y, x = tile.pose.source(common)
        mine = tile.pose.owns(y, x)
        value = _sampled(tile, y, x, interpolation, work)
        weight = np.where(mine, _weight(tile.pose, y, x, blend), 0.0).astype(work)
        here = (..., *common.shifted(-strip.y0, -strip.x0).slices)
        known = mine & ~np.isnan(value) if out.dtype.kind == "f" else mine
        # A tile whose pixel is NaN owns it still, but gives way to others.
        seen = owners[here]
        first = seen == 0
        if blend in ("linear", "mean"):
            total[here] += np.where(known, value * weight, 0)
            weights[here] += np.where(known, weight, 0)
            single = known & first
            # Divided by its own weight a lone pixel would lose a bit: it is kept apart.
            out[here] = np.where(single, _rounded(value, out.dtype), out[here])
        elif blend == "max":
            better = known & (first | (value > total[here]))
            total[here] = np.where(better, value, total[here])
        else:
            better = known & (first | (weight > weights[here]))
            total[here] = np.where(better, value, total[here])
            weights[here] = np.where(better, weight, weights[here])
        if out.dtype.kind == "f":
            gap = mine & ~known & first
            out[here] = np.where(gap, np.nan, out[here])
        owners[here] = seen + known
    if blend in ("linear", "mean"):
        many = owners > 1
        np.divide(total, weights, out=total, where=many)
    else:
        many = owners > 0
    np.copyto(out, _rounded(total, out.dtype), where=many)


def _sampled(
    tile: Turned, y: FloatArray, x: FloatArray, interpolation: Interpolation, work: Any
) -> NDArray[Any]:
    """The tile's values at points (y, x) of it, edge pixels continued."""
    height, width = tile.pose.shape
    window, pixels = tile.window, tile.pixels

    def at(i: IntArray, j: IntArray) -> NDArray[Any]:
        # Points that the tile does not own may lie outside the window; they are not used.
        i = np.clip(np.clip(i, 0, height - 1) - window.y0, 0, window.shape[0] - 1)
        j = np.clip(np.clip(j, 0, width - 1) - window.x0, 0, window.shape[1] - 1)
        return pixels[..., i, j].astype(work)

    if interpolation == "nearest":
        return at(np.ceil(y - 0.5).astype(np.int64), np.ceil(x - 0.5).astype(np.int64))
    i, j = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    fy, fx = (y - i).astype(work), (x - j).astype(work)
    if pixels.dtype.kind != "f":
        top = at(i, j) * (1 - fx) + at(i, j + 1) * fx
        return np.asarray(
            top * (1 - fy) + at(i + 1, j) * (1 - fx) * fy + at(i + 1, j + 1) * fx * fy
        )
    value = np.zeros(np.broadcast_shapes(pixels.shape[:-2] + y.shape), dtype=work)
    for a, wy in ((i, 1 - fy), (i + 1, fy)):
        for b, wx in ((j, 1 - fx), (j + 1, fx)):
            share = wy * wx
            # A NaN pixel of no weight must not spread.
            value += np.where(share == 0, 0, at(a, b) * share)
    return value


def _weight(pose: Pose, y: FloatArray, x: FloatArray, blend: Blend) -> FloatArray:
    """Higher is preferred: distance to the edges, or minus that to the centre; all above 0."""
    height, width = pose.shape
    if blend == "linear":
        return np.asarray(np.minimum(y + 1, height - y) * np.minimum(x + 1, width - x))
    if blend == "nearest":
        away = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2
        return np.asarray(1 / (1 + away))
    return np.ones(y.shape)


def _rounded(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return values.astype(dtype)
    info = np.iinfo(dtype)
    rounded: NDArray[Any] = np.clip(np.rint(values), info.min, info.max).astype(dtype)
    return rounded
