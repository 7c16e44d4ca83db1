"""Strips of two images that can overlap, and what is done to them before they are compared.

Pure functions on arrays; no files, no dask.
"""

from __future__ import annotations

from math import floor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicreg.edges import Line, neighbour_sums
from mosaicreg.geometry import Box
from mosaicreg.robust import NORMAL, median_of, scatter

Image = NDArray[np.float32]

FLATTEN = 9
"""Side in (binned) px of the neighbourhood whose mean is removed before correlating."""
CLIP = 6.0
"""Flattened values are clipped at this many robust standard deviations: hot pixels, charging."""
SPIKE = 12.0
"""A pixel this many robust standard deviations off its neighbours is the camera's own."""


class Search(NamedTuple):
    """Strips of two images that can overlap, and the shifts to try.

    ``fixed`` and ``moving`` are boxes in either image. A shift s puts moving strip pixel p on
    fixed strip pixel p + s; ``first`` and ``last`` (y, x) bound it, both included.
    """

    fixed: Box
    moving: Box
    first: tuple[int, int]
    last: tuple[int, int]

    @property
    def origin(self) -> tuple[int, int]:
        """What to add to a shift of the strips to get the offset of the images."""
        return self.fixed.y0 - self.moving.y0, self.fixed.x0 - self.moving.x0


def plan_search(
    fixed_shape: tuple[int, int],
    moving_shape: tuple[int, int],
    expected: tuple[float, float],
    max_shift: tuple[int, int],
) -> Search | None:
    """The strips and shifts to look at, or None where no allowed shift makes the images overlap.

    Args:
        fixed_shape, moving_shape: (height, width).
        expected: (dy, dx) offset of the moving image's first pixel in the fixed image, px.
        max_shift: (y, x) how far the true offset may be from the expected one, px.
    """
    strips, bounds = [], []
    for axis in (0, 1):
        n_fixed, n_moving = fixed_shape[axis], moving_shape[axis]
        centre = floor(expected[axis] + 0.5)
        low = max(centre - max_shift[axis], 1 - n_moving)
        high = min(centre + max_shift[axis], n_fixed - 1)
        if low > high:
            return None
        fixed_strip = (max(0, low), min(n_fixed, high + n_moving))
        moving_strip = (max(0, -high), min(n_moving, n_fixed - low))
        strips.append((fixed_strip, moving_strip))
        to_strip = moving_strip[0] - fixed_strip[0]
        bounds.append((low + to_strip, high + to_strip))
    ((fy, my), (fx, mx)) = strips
    return Search(
        fixed=Box(fy[0], fx[0], fy[1], fx[1]),
        moving=Box(my[0], mx[0], my[1], mx[1]),
        first=(bounds[0][0], bounds[1][0]),
        last=(bounds[0][1], bounds[1][1]),
    )


def stabilise(strip: NDArray[Any]) -> Image | None:
    """Pixels as float32 of even noise: the square root of counts, other types as they are.

    NaN and infinite pixels take the mean of the others. None where nothing varies.
    """
    if strip.dtype.kind in "ub":
        x = np.sqrt(strip, dtype=np.float32)
    else:
        x = strip.astype(np.float32)
        bad = ~np.isfinite(x)
        if bad.any():
            if bad.all():
                return None
            x[bad] = x[~bad].mean(dtype=np.float64)
    if x.size == 0 or ((x[::16, ::16] == x[0, 0]).all() and x.min() == x.max()):
        return None
    return despike(x)


def despike(image: Image) -> Image:
    """The image without single pixels, rows or columns that stick out: hot and dead ones.

    They lie at the same place of the camera in every tile, and one of them outweighs all texture.
    Looked for on every fourth row first, since most cameras have none.
    """
    sample = image[:: 4 if image.shape[0] > 16 else 1]
    if min(image.shape) < 3:
        return image
    bend = sample[:, :-2] + sample[:, 2:]
    bend *= np.float32(0.5)
    np.abs(np.subtract(bend, sample[:, 1:-1], out=bend), out=bend)
    spread = scatter(bend)
    largest = bend.max()
    if spread == 0 and largest > 0:
        # More than half is exactly flat (saturated, or a background of zeros): that is no scatter.
        spread = NORMAL * median_of(bend[bend > 0])
    if largest <= SPIKE * spread:
        return image
    margin = 3 * spread
    for view in (image.T, image):
        low = np.minimum(view[:-2], view[2:]) - margin
        high = np.maximum(view[:-2], view[2:]) + margin
        np.clip(view[1:-1], low, high, out=view[1:-1])
    return image


def binning(search: Search) -> int:
    """1, 2 or 4: how many pixels to average, from the overlap expected (the middle of the shifts).

    Averaging costs little (40 binned pixels across the seam tell shifts apart as well) and makes
    the transform and all that follows 4 or 16 times cheaper.
    """
    across = min(
        min(f, s + m) - max(0, s)
        for f, m, s in zip(
            search.fixed.shape,
            search.moving.shape,
            ((a + b) // 2 for a, b in zip(search.first, search.last, strict=True)),
            strict=True,
        )
    )
    return 4 if across >= 320 else 2 if across >= 80 else 1


def bin_mean(image: Image, by: int) -> Image:
    """Mean of every ``by`` x ``by`` pixels (1 or an even number); an incomplete last row is cut."""
    while by > 1 and min(image.shape) >= 2:
        height, width = (n // 2 * 2 for n in image.shape)
        rows = image[0:height:2, :width] + image[1:height:2, :width]
        image = rows[:, 0::2] + rows[:, 1::2]
        image *= np.float32(0.25)
        by //= 2
    return image


def flatten(image: Image) -> Image:
    """The image without its local mean, clipped at `CLIP` robust standard deviations."""
    sums = neighbour_sums(image, FLATTEN // 2, _nine_sums, mirrored=True)
    flat: Image = np.multiply(sums, np.float32(-1 / FLATTEN**2))
    flat += image
    spread = scatter(flat)
    if spread > 0:
        np.clip(flat, -CLIP * spread, CLIP * spread, out=flat)
    return flat


def _nine_sums(line: Line, step: int) -> Line:
    """Sums of every `FLATTEN` = 9 elements so far apart: by doubling, four additions."""
    two = line[:-step] + line[step:]
    four = two[: -2 * step] + two[2 * step :]
    eight = four[: -4 * step] + four[4 * step :]
    sums: Line = eight[:-step] + line[8 * step :]
    return sums
