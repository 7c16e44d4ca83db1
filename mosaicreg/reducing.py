"""Whole images of any size seen small: means of squares of pixels, a block at a time.

A `Plane` is one (y, x) image and its mask, of which tasks read windows. `reduce_plane` makes a
`Reduced` of it, in memory: the one thing that is looked at as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.cluster import Progress, delayed_call, run_tasks
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, TileGrid
from mosaicreg.imagefile import native_block, read_header, read_image
from mosaicreg.lazy import open_lazy, window
from mosaicreg.noise import large_regions
from mosaicreg.transforms import Affine, Transform, Translation
from mosaicreg.warping import warp

Sizes = tuple[int, int]

BLOCK = 2048
"""Side in px, about, of what a task reads."""
EMPTY = 1e-3
"""Where the least or the greatest value fills regions of this share of an image, nothing is known
there: the outside of a mosaic, not tissue."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One image that tasks read windows of.

    Args:
        image: (y, x) numpy, dask or zarr array.
        mask: as ``image``, True where pixels count; None: everywhere.
        empty: values of pixels that say nothing, see `EMPTY`.
    """

    image: Any
    mask: Any = None
    empty: tuple[float, ...] = ()

    @property
    def shape(self) -> Sizes:
        """(height, width)."""
        return int(self.image.shape[0]), int(self.image.shape[1])

    def window(self, box: Box) -> tuple[Any, Any]:
        """(pixels, mask) of a box, as arguments of a delayed call."""
        return window(self.image, box), None if self.mask is None else window(self.mask, box)


def open_plane(
    image: Any, mask: Any = None, *, channel: int = 0, plane: int = 0, name: str = "image"
) -> Plane:
    """An image and its mask, each an array (y, x) or the path of a file.

    Args:
        image, mask: numpy, dask or zarr arrays, or paths; a mask is True or above 0 where pixels
            count.
        channel, plane: which image to take of a file that has several.
        name: of the image, for messages.

    Raises:
        InputError: where an array is not (y, x), or the mask's shape is not the image's.
    """
    opened = _opened(image, channel, plane, name)
    covered = None if mask is None else _opened(mask, 0, 0, f"mask of the {name}")
    if covered is not None and tuple(covered.shape) != tuple(opened.shape):
        raise InputError(
            f"the mask of the {name} has {tuple(covered.shape)} px (height, width), the image "
            f"{tuple(opened.shape)}"
        )
    return Plane(opened, covered)


def _opened(image: Any, channel: int, plane: int, name: str) -> Any:
    if isinstance(image, str | Path):
        image = _opened_file(Path(image), channel, plane)
    if not hasattr(image, "shape") or not hasattr(image, "dtype"):
        image = np.asarray(image)
    if len(image.shape) != 2 or 0 in image.shape:
        raise InputError(f"the {name} must be (height, width), not of shape {tuple(image.shape)}")
    if image.dtype.kind not in "buif":
        raise InputError(f"the {name} has pixels of type {image.dtype}; convert them first")
    return image


def _opened_file(path: Path, channel: int, plane: int) -> Any:
    header = read_header(path)
    lead: list[slice] = []
    for axis, length in zip(header.axes, header.shape[:-2], strict=False):
        k = {"c": channel, "z": plane}.get(axis, 0)
        if not 0 <= k < length:
            what = "channel" if axis == "c" else "plane"
            raise InputError(f"{path}: {what} {k} does not exist; there are {length}, from 0 on")
        lead.append(slice(k, k + 1))
    if native_block(path) == (None, None):  # decoded once, not once for each window
        return read_image(path, None, tuple(lead)).reshape(header.plane)
    return open_lazy(path)[tuple(part.start for part in lead)]


@dataclass(frozen=True, eq=False)
class Reduced:
    """An image seen small, in memory.

    Args:
        image: (h, w) float32, mean of what is known of each square of ``by`` px.
        known: (h, w) float32, share of each square that is known, 0 to 1.
        by: side of a square. Pixel r stands for the point ``by * r + (by - 1) / 2``.
        empty: values that were found to say nothing.
    """

    image: NDArray[np.float32]
    known: NDArray[np.float32]
    by: int
    empty: tuple[float, ...] = ()


def reduction(shape: Sizes, side: int) -> int:
    """The squares that make an image of ``shape`` no longer than ``side`` px."""
    return max(1, -(-max(shape) // side))


def reduce_plane(plane: Plane, by: int, progress: Progress | None = None) -> Reduced:
    """See a plane small; a task for each block of it. Rows that fill no square are left out."""
    height, width = (n // by for n in plane.shape)
    if min(height, width) < 1:
        raise InputError(f"an image of {plane.shape} px (height, width) is narrower than {by} px")
    side = max(1, BLOCK // by)
    boxes = [box for _, _, box in TileGrid((height, width), (side, side)).boxes()]

    def tasks() -> Iterator[Any]:
        for box in boxes:
            source = Box(box.y0 * by, box.x0 * by, box.y1 * by, box.x1 * by)
            yield delayed_call(_reduce_window, *plane.window(source), by)

    planes = np.zeros((4, height, width), dtype=np.float32)

    def done(found: list[tuple[int, Any]]) -> None:
        for number, part in found:
            planes[(slice(None), *boxes[number].slices)] = part

    run_tasks(tasks(), "overview", progress, len(boxes), done)
    return _without_empty(Reduced(planes[0], planes[1], by), planes[2], planes[3])


def _reduce_window(pixels: Any, mask: Any, by: int) -> NDArray[np.float32]:
    """(4, h, w): mean and share of what is known, least and greatest value."""
    pixels = np.asarray(pixels)
    known = known_pixels(pixels, mask)
    height, width = (n // by for n in pixels.shape)
    values = pixels.astype(np.float32)
    if known is not None:
        values = np.where(known, values, np.float32(0))
    squares = values.reshape(height, by, width, by)
    total = squares.sum(axis=(1, 3), dtype=np.float64)
    out = np.empty((4, height, width), dtype=np.float32)
    out[2], out[3] = squares.min(axis=(1, 3)), squares.max(axis=(1, 3))
    count = np.full((height, width), float(by * by))
    if known is not None:
        count = known.reshape(height, by, width, by).sum(axis=(1, 3), dtype=np.float64)
    out[0] = total / np.maximum(count, 1)
    out[1] = count / (by * by)
    return out


def known_pixels(
    pixels: NDArray[Any], mask: Any, empty: tuple[float, ...] = ()
) -> NDArray[np.bool_] | None:
    """Where pixels are finite, in the mask and not empty; None for everywhere."""
    known = None if mask is None else np.asarray(mask) > 0
    if pixels.dtype.kind == "f":
        finite = np.isfinite(pixels)
        known = finite if known is None else known & finite
    for value in empty:
        other = pixels != value
        known = other if known is None else known & other
    return None if known is None or known.all() else known


def _without_empty(
    reduced: Reduced, least: NDArray[np.float32], most: NDArray[np.float32]
) -> Reduced:
    """The same, with what is empty not known."""
    from scipy.ndimage import binary_dilation

    there = reduced.known > 0
    if not there.any():
        return reduced
    known, empty = reduced.known.copy(), []
    for value in {float(least[there].min()), float(most[there].max())}:
        flat = large_regions((least == value) & (most == value) & there, EMPTY)
        if flat.any() and not flat[there].all():
            empty.append(value)
            # The squares beside it are partly empty too.
            known[binary_dilation(flat, np.ones((3, 3), dtype=bool))] = 0
    return replace(reduced, known=known, empty=tuple(sorted(empty)))


def drawn_small(fixed: Reduced, moving: Reduced, transform: Transform) -> NDArray[np.float32]:
    """The moving image, seen small, where a transform of full pixels puts it on the fixed one.

    NaN where it does not reach or is not known.
    """
    up, down = (
        Affine.scaling(r.by).followed_by(Translation(((r.by - 1) / 2,) * 2))
        for r in (moving, fixed)
    )
    placed = transform.compose(up).followed_by(down.inverse())
    seen = np.where(moving.known > 0, moving.image, np.float32(np.nan))
    shape = (fixed.image.shape[0], fixed.image.shape[1])
    drawn: NDArray[np.float32] = warp(seen, placed, shape, fill=np.nan)
    return drawn
