"""One output box from a window of a source image, or from several tiles, under transforms.

Pure functions on arrays; no files, no dask. A pixel is sampled where its `Pull` puts it in the
source. It is there when that place is within half a pixel of the image (edge pixels continue so
far); elsewhere it is filled. Source positions are exact numbers and sampling is per pixel, so any
cut of the output into boxes gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, FloatArray
from mosaicreg.pull import AffinePull, MeshPull, PointPull, Pull

Order = Literal[0, 1, 3]
"""0: the nearest pixel, halves up; 1: linear between four; 3: cubic spline, held between the least
and the greatest of the 25 pixels around, for splines overshoot."""
ORDERS: tuple[Order, ...] = get_args(Order)
Composite = Literal["nearest", "linear", "mean", "max"]
"""What a pixel shows that several tiles cover: ``nearest``: the tile whose centre is nearest in the
tile's own pixels, the first on a tie; ``linear``: the mean weighted by the distance to each tile's
edges; ``mean``; ``max``."""
COMPOSITES: tuple[Composite, ...] = get_args(Composite)

STRIP = 1 << 18
"""Pixels sampled at a time: what a core's cache holds, and a bound on memory."""
TAPS = 16
"""Pixels to each side that the filter of a cubic spline reads: it fades by 0.27 a px, to 1e-9."""
MARGIN = {0: 1, 1: 2, 3: TAPS + 4}
"""Pixels around the source positions that sampling reads."""
EXACT = 2.0**52


def default_order(dtype: np.dtype[Any]) -> Order:
    """0 for masks, 1 for anything else."""
    return 0 if dtype == np.bool_ else 1


def check_sampling(dtype: np.dtype[Any], order: Any, fill: Any) -> None:
    """Raise InputError for pixels, an order or a fill value that cannot be sampled with."""
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise InputError(f"pixels of type {dtype} cannot be resampled; convert them first")
    if order not in ORDERS:
        raise InputError(f"the order of interpolation is 0, 1 or 3, not {order!r}")
    if dtype.kind == "f":
        return
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not (low <= fill <= high and fill == int(fill)):
        raise InputError(f"the fill value {fill} does not fit into pixels of type {dtype}")


def source_window(pull: Pull, box: Box, shape: tuple[int, int], order: Order) -> Box | None:
    """The part of an image of ``shape`` that a box of the output needs, or None."""
    bounds = pull.bounds(box)
    if bounds is None:
        return None
    reach = MARGIN[order]
    limits = [(float(np.clip(v, -(2**40), 2**40))) for v in bounds]
    y0, x0 = (int(np.floor(v)) - reach for v in limits[:2])
    y1, x1 = (int(np.ceil(v)) + reach + 1 for v in limits[2:])
    return Box(y0, x0, y1, x1).intersection(Box(0, 0, *shape))


def warp_box(
    box: Box,
    pull: Pull,
    window: Box | None,
    pixels: NDArray[Any] | None,
    shape: tuple[int, int],
    order: Order,
    fill: float,
    out: NDArray[Any],
) -> None:
    """Render a box of the output into ``out``.

    Args:
        box: in output coordinates.
        pull: where its pixels lie in the source.
        window: from `source_window`; None where the box sees nothing of the source.
        pixels: (leading..., y, x) the window's pixels.
        shape: of the whole source image, (height, width).
        order: of interpolation.
        fill: value of pixels that are not in the source.
        out: (leading..., height, width) of the pixels' dtype.
    """
    if window is None or pixels is None:
        out[...] = fill
        return
    if isinstance(pull, AffinePull):
        if pull.steps is not None:
            _copy_shifted(box, pull.steps, window, pixels, fill, out)
            return
        if order != 3 and _exact_in_floats(pull, box, window):
            _affine_box(box, pull, window, pixels, shape, order, fill, out)
            return
    sampler = Sampler(pixels, order)
    for strip in strips_of(box):
        rows = slice(strip.y0 - box.y0, strip.y1 - box.y0)
        places = pull.coordinates(strip, (window.y0, window.x0))
        there = inside(pull, strip, places, window, shape)
        sampler.into(places, out[..., rows, :])
        if there is not None:
            out[..., rows, :][..., ~there] = fill


def strips_of(box: Box) -> list[Box]:
    """A box as strips of rows of about `STRIP` pixels."""
    rows = max(1, STRIP // max(1, box.shape[1]))
    starts = range(box.y0, box.y1, rows)
    return [Box(y, box.x0, min(y + rows, box.y1), box.x1) for y in starts]


def inside(
    pull: Pull, box: Box, places: FloatArray, window: Box, shape: tuple[int, int]
) -> NDArray[np.bool_] | None:
    """Which pixels of a box lie in the source; None for all of them."""
    limits = [(-0.5, shape[k] - 0.5) for k in range(2)]
    if isinstance(pull, AffinePull) or (isinstance(pull, MeshPull) and not pull.gaps):
        bounds = pull.bounds(box)
        if bounds is not None and all(
            low <= bounds[k] and bounds[2 + k] <= high for k, (low, high) in enumerate(limits)
        ):
            return None
    corner = (window.y0, window.x0)
    there = np.ones(box.shape, dtype=bool)
    for k, (low, high) in enumerate(limits):
        there &= places[k] >= low - corner[k]
        there &= places[k] <= high - corner[k]
    if isinstance(pull, PointPull):
        _check_window(places[:, there], window, shape)
    return there


def _check_window(places: FloatArray, window: Box, shape: tuple[int, int]) -> None:
    """The extent of a free transform is an estimate; never sample beside it unnoticed."""
    for k in range(2):
        low, high = (window.y0, window.x0)[k], (window.y1, window.x1)[k]
        least, most = places[k].min(initial=0), places[k].max(initial=0)
        if (least < -0.5 and low > 0) or (most > high - low - 0.5 and high < shape[k]):
            raise InputError(
                "a transform bends more within a block than its rendering can follow; follow it "
                "with a grid of control points (Grid.sampled) and warp by that"
            )


class Sampler:
    """Planes of pixels made ready for sampling at places.

    Args:
        pixels: (leading..., y, x).
        order: of interpolation.
    """

    def __init__(self, pixels: NDArray[Any], order: Order) -> None:
        self.order = order
        self.kind = pixels.dtype
        self.lead = pixels.shape[:-2]
        self._planes = pixels.reshape(-1, *pixels.shape[-2:])

    def into(self, places: FloatArray, out: NDArray[Any]) -> None:
        """Sample at (2, h, w) places into ``out``, (leading..., h, w)."""
        for number, index in enumerate(np.ndindex(*self.lead)):
            out[index] = self._sample(self._planes[number], places)

    def _sample(self, plane: NDArray[Any], places: FloatArray) -> NDArray[Any]:
        if self.kind == np.bool_:
            kind = np.uint8 if self.order == 0 else np.float32
            return _at(plane.astype(kind), places, self.order) >= 0.5
        if self.kind == np.float16:
            return _at(plane.astype(np.float32), places, self.order).astype(np.float16)
        return _at(plane, places, self.order)


def _at(plane: NDArray[Any], places: FloatArray, order: Order) -> NDArray[Any]:
    gaps = np.isnan(plane) if plane.dtype.kind == "f" and order > 0 else None
    if gaps is not None and gaps.any():
        # A NaN of no weight must not spread: 0 * NaN is NaN.
        value = _at(np.where(gaps, plane.dtype.type(0), plane), places, order)
        weight = _at(gaps.astype(np.float32), places, 1)
        value[weight > 0] = np.nan
        return value
    options: dict[str, Any] = {"mode": "nearest", "prefilter": False}
    if order != 3:
        return ndimage.map_coordinates(plane, places, order=order, **options)
    value = ndimage.map_coordinates(_spline(plane), places + TAPS, order=3, **options)
    least = ndimage.map_coordinates(ndimage.minimum_filter(plane, 5), places, order=0, **options)
    most = ndimage.map_coordinates(ndimage.maximum_filter(plane, 5), places, order=0, **options)
    value = np.clip(value, least, most)
    rounded: NDArray[Any] = (np.rint(value) if plane.dtype.kind in "ui" else value).astype(
        plane.dtype
    )
    return rounded


def _spline(plane: NDArray[Any]) -> FloatArray:
    """Coefficients of the cubic spline through a plane continued by its edges, ``TAPS`` px wider.

    The recursive filter (Unser, Aldroubi & Eden 1993, part II, section II) would carry the ends of
    a window through all of it; its impulse response, cut off, gives a pixel the same bits in all.
    """
    pole = np.sqrt(3) - 2
    response = pole ** np.abs(np.arange(-TAPS, TAPS + 1.0))
    response /= response.sum()
    wide = np.pad(plane, TAPS, mode="edge").astype(np.float64)
    for axis in range(2):
        wide = ndimage.correlate1d(wide, response, axis, mode="nearest")
    return wide


def _copy_shifted(
    box: Box,
    steps: tuple[int, int],
    window: Box,
    pixels: NDArray[Any],
    fill: float,
    out: NDArray[Any],
) -> None:
    common = box.shifted(*steps).intersection(window)
    if common is None:
        out[...] = fill
        return
    here = common.shifted(-steps[0] - box.y0, -steps[1] - box.x0)
    rows, columns = common.shifted(-window.y0, -window.x0).slices
    out[..., here.y0 : here.y1, here.x0 : here.x1] = pixels[..., rows, columns]
    out[..., : here.y0, :] = fill
    out[..., here.y1 :, :] = fill
    out[..., here.y0 : here.y1, : here.x0] = fill
    out[..., here.y0 : here.y1, here.x1 :] = fill


def _exact_in_floats(pull: AffinePull, box: Box, window: Box) -> bool:
    """Whether float64 holds all sums that lead to a source position without rounding."""
    start = np.abs(pull.at(box) - (np.array((window.y0, window.x0)) << pull.bits)).max()
    reach = np.abs(pull.matrix).max() * float(sum(box.shape))
    return bool(float(start) + reach < EXACT)


def _affine_box(
    box: Box,
    pull: AffinePull,
    window: Box,
    pixels: NDArray[Any],
    shape: tuple[int, int],
    order: Order,
    fill: float,
    out: NDArray[Any],
) -> None:
    """An affine map in compiled code that works out the places itself, to the same bits."""
    unit = 2.0**-pull.bits
    matrix = pull.matrix * unit
    start = (pull.at(box) - (np.array((window.y0, window.x0)) << pull.bits)) * unit
    sampler = Sampler(pixels, order)
    gaps = pixels.dtype.kind == "f" and order > 0 and bool(np.isnan(pixels).any())
    if gaps or pixels.dtype in (np.bool_, np.float16):
        for strip in strips_of(box):
            places = pull.coordinates(strip, (window.y0, window.x0))
            sampler.into(places, out[..., strip.y0 - box.y0 : strip.y1 - box.y0, :])
    else:
        for index in np.ndindex(*sampler.lead):
            ndimage.affine_transform(  # type: ignore[call-overload]  # stubs know no output array
                pixels[index], matrix, start, box.shape, out[index], order,
                mode="nearest", prefilter=False,
            )  # fmt: skip
    _fill_outside(box, pull, shape, fill, out)


def _fill_outside(
    box: Box, pull: AffinePull, shape: tuple[int, int], fill: float, out: NDArray[Any]
) -> None:
    """Fill what lies more than half a pixel outside the source: in each row, two ends."""
    half = 1 << (pull.bits - 1)
    start = pull.at(box)
    y = np.arange(box.shape[0])
    begin, end = np.zeros(box.shape[0], np.int64), np.full(box.shape[0], box.shape[1])
    for k in range(2):
        first = pull.matrix[k, 0] * y + start[k]
        low, high = -half - first, (shape[k] << pull.bits) - half - first
        along = int(pull.matrix[k, 1])
        if along == 0:
            end[(low > 0) | (high < 0)] = 0
            continue
        if along < 0:
            low, high, along = -high, -low, -along
        begin = np.maximum(begin, -(-low // along))
        end = np.minimum(end, high // along + 1)
    end = np.maximum(end, 0)
    begin = np.minimum(begin, end)
    if (begin == 0).all() and (end == box.shape[1]).all():
        return
    x = np.arange(box.shape[1])
    out[..., (x < begin[:, None]) | (x >= end[:, None])] = fill


@dataclass(frozen=True)
class TilePart:
    """What one box needs of one tile.

    Args:
        box: the pixels of the output that the tile may cover.
        pull: where they lie in the tile.
        window, pixels: the part of the tile that is needed, (leading..., y, x).
        shape: (height, width) of the whole tile.
    """

    box: Box
    pull: Pull
    window: Box
    pixels: NDArray[Any]
    shape: tuple[int, int]


def composite_box(
    box: Box,
    tiles: Sequence[TilePart],
    leading: tuple[int, ...],
    dtype: np.dtype[Any],
    order: Order,
    composite: Composite,
    fill: float,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """One box of many tiles: (pixels (leading..., h, w), which of them a tile covers (h, w))."""
    image = np.full((*leading, *box.shape), fill, dtype=dtype)
    mask = np.zeros(box.shape, dtype=bool)
    samplers = [Sampler(tile.pixels, order) for tile in tiles]
    for strip in strips_of(box):
        rows = slice(strip.y0 - box.y0, strip.y1 - box.y0)
        _composite_strip(strip, tiles, samplers, composite, image[..., rows, :], mask[rows])
    return image, mask


def _composite_strip(
    strip: Box,
    tiles: Sequence[TilePart],
    samplers: Sequence[Sampler],
    composite: Composite,
    image: NDArray[Any],
    mask: NDArray[np.bool_],
) -> None:
    exact = np.float64 if image.dtype == np.float64 else np.float32
    summed = composite in ("linear", "mean")
    total = np.zeros(image.shape if summed else (0,), dtype=exact)
    ranks = np.zeros(strip.shape) if composite != "max" else np.zeros(0)
    for tile, sampler in zip(tiles, samplers, strict=True):
        common = tile.box.intersection(strip)
        if common is None:
            continue
        places = tile.pull.coordinates(common, (tile.window.y0, tile.window.x0))
        there = inside(tile.pull, common, places, tile.window, tile.shape)
        values = np.empty((*image.shape[:-2], *common.shape), dtype=image.dtype)
        sampler.into(places, values)
        cut = common.shifted(-strip.y0, -strip.x0).slices
        part, seen = image[(..., *cut)], mask[cut]
        there = np.ones(common.shape, dtype=bool) if there is None else there
        if composite == "max":
            np.copyto(part, values, where=there & (~seen | (values > part)))
        elif composite == "nearest":
            rank = _distance(places, tile)
            better = there & (~seen | (rank < ranks[cut]))
            np.copyto(part, values, where=better)
            np.copyto(ranks[cut], rank, where=better)
        else:
            weight = there * (_feather(places, tile) if composite == "linear" else 1.0)
            total[(..., *cut)] += np.where(there, values, values.dtype.type(0)) * weight
            ranks[cut] += weight
        seen |= there
    if summed:
        mean = total[..., mask] / ranks[mask]
        image[..., mask] = np.rint(mean) if image.dtype.kind in "ui" else mean


def _distance(places: FloatArray, tile: TilePart) -> FloatArray:
    """(h, w) squared distance to the middle of a tile, in its pixels."""
    middle = [(tile.shape[k] - 1) / 2 - (tile.window.y0, tile.window.x0)[k] for k in range(2)]
    square: FloatArray = (places[0] - middle[0]) ** 2 + (places[1] - middle[1]) ** 2
    return square


def _feather(places: FloatArray, tile: TilePart) -> FloatArray:
    """(h, w) distance to the nearer horizontal edge times that to the nearer vertical one."""
    sides = []
    for k in range(2):
        place = places[k] + (tile.window.y0, tile.window.x0)[k]
        sides.append(np.maximum(np.minimum(place, tile.shape[k] - 1 - place) + 1, 0.25))
    weight: FloatArray = sides[0] * sides[1]
    return weight
