"""Chunked images: what `pixels`, `noise` and `phase` do, as lazy dask arrays.

Nothing is computed and nothing copied here. Each output block is made by the same pure function as
an image in memory, from the input it needs, so results are the same bits for any chunking. Numbers
about the whole image (its range, its statistics) are lazy values that the blocks share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from operator import add, or_
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask.array as da
import numpy as np
from dask.delayed import delayed
from numpy.typing import NDArray

from mosaicreg import noise, phase, pixels
from mosaicreg.geometry import Box, TileGrid
from mosaicreg.imagefile import native_block, read_header, read_image, zarr_level0
from mosaicreg.noise import Limits, Statistics, Tally

Shape = tuple[int, int]
Delayed = Any
"""A `dask.delayed` value; dask has no types."""

BLOCK = 2048
"""Side in px of the blocks that lazy results and lazily opened files are made of, about."""


def is_lazy(image: Any) -> bool:
    """Whether this is a dask or zarr array rather than pixels in memory."""
    return isinstance(image, da.Array) or all(
        hasattr(image, name) for name in ("shape", "dtype", "chunks", "store")
    )


def as_lazy(image: Any) -> da.Array:
    """A dask array of a dask, zarr or numpy array; zarr by its chunks, or shards where it has them.

    A block of a shard costs one read of that shard's index, so blocks are whole shards.
    """
    if isinstance(image, da.Array):
        return image
    if is_lazy(image):
        chunks = getattr(image, "shards", None) or image.chunks
        return da.from_array(image, chunks=chunks, inline_array=True)
    return da.from_array(np.asarray(image))


def open_lazy(path: str | Path, block: int = BLOCK) -> da.Array:
    """An image file as a lazy array (leading axes..., y, x); only its header is read.

    Args:
        path: any image that `mosaicreg.imagefile.read_image` reads.
        block: side in px, about: whole chunks of the file make a block. Files that can only be
            decoded as a whole (PNG, JPEG, strips without order) are one block.

    Raises:
        ImageError: where the file cannot be read.
    """
    path = Path(path)
    header = read_header(path, any_type=True)
    unit = native_block(path)
    size = [
        n if u is None else min(n, -(-max(block, u) // u) * u)
        for n, u in zip(header.plane, unit, strict=True)
    ]
    grid = TileGrid(header.plane, (size[0], size[1]))
    lead = header.shape[:-2]
    chunks = (*((n,) if header.interleaved else (1,) * n for n in lead), *grid.chunks)
    return da.map_blocks(
        _read_block,
        path=path,
        chunks=chunks,
        dtype=header.dtype,
        meta=np.empty((0,) * len(chunks), dtype=header.dtype),
    )


def window(image: Any, box: Box) -> Any:
    """The pixels of ``box`` of a (y, x) image: a view in memory, lazy otherwise.

    Of a zarr array as one block, read in one go; of a dask array from the blocks that it touches.
    """
    if isinstance(image, da.Array) or not is_lazy(image):
        return image[box.slices]
    dtype = np.dtype(image.dtype)
    meta = np.empty((0, 0), dtype=dtype)
    return da.map_blocks(
        partial(_read_window, image, box),
        chunks=tuple((n,) for n in box.shape),
        dtype=dtype,
        meta=meta,
        # A name made from the content would pickle the array for every window.
        name=f"window-{uuid4().hex}",
    )


def _read_window(array: Any, box: Box) -> NDArray[Any]:
    return array[box.slices]


def open_plain_zarr(path: str | Path) -> da.Array:
    """A zarr array, or the finest level of an OME-Zarr image, by its chunks, whatever its type."""
    return as_lazy(zarr_level0(Path(path))[0])


def _read_block(path: Path, block_info: Any) -> NDArray[Any]:
    place = block_info[None]["array-location"]
    lead = tuple(slice(a, b) for a, b in place[:-2])
    (y0, y1), (x0, x1) = place[-2:]
    image = read_image(path, Box(y0, x0, y1, x1), lead)
    return image.reshape(tuple(b - a for a, b in place))


# --- numbers about a whole image -----------------------------------------------------------------


def limits(image: da.Array) -> Delayed:
    """Smallest and largest finite pixel of a (y, x) image, as a lazy `Limits`."""
    return _reduced(or_, _limits_of_block, image, None)


def statistics(image: da.Array, mask: da.Array | None = None) -> Delayed:
    """Of the finite pixels where ``mask`` is True, as a lazy `Statistics`.

    One pass over images of up to 16 bits, two over others (the first for the range).
    """
    fixed = Limits.of_dtype(image.dtype)
    span = fixed or _reduced(or_, _limits_of_block, image, mask)
    tally = _reduced(add, _tally_of_block, image, mask, limits=span)
    return delayed(Tally.statistics, pure=True)(tally)


def _reduced(
    join: Callable[[Any, Any], Any],
    function: Callable[..., Any],
    image: da.Array,
    mask: da.Array | None,
    **extra: Any,
) -> Delayed:
    """``function`` of every block, joined two by two up a tree: no task sees all blocks."""
    arrays = [image] if mask is None else [image, mask.rechunk(image.chunks)]
    ones = tuple((1,) * len(c) for c in image.chunks)
    meta = np.empty((0, 0), dtype=object)
    parts = da.map_blocks(
        function, *arrays, masked=mask is not None, chunks=ones, dtype=object, meta=meta, **extra
    )

    def joined(values: NDArray[Any], axis: Any = None, keepdims: bool = False) -> NDArray[Any]:
        out = np.empty((1, 1) if keepdims else (), dtype=object)
        out[...] = reduce(join, values.ravel())
        return out

    total = da.reduction(
        parts, joined, joined, combine=joined, axis=(0, 1), dtype=object, meta=np.empty((), object)
    )
    return delayed(np.ndarray.item, pure=True)(total.to_delayed().item())


def _boxed(value: Any) -> NDArray[Any]:
    out = np.empty((1, 1), dtype=object)
    out[0, 0] = value
    return out


def _limits_of_block(*arrays: NDArray[Any], masked: bool) -> NDArray[Any]:
    return _boxed(Limits.of(*arrays))


def _tally_of_block(
    *arrays: NDArray[Any], masked: bool, limits: Limits, block_info: Any
) -> NDArray[Any]:
    mask = arrays[1] if masked else None
    return _boxed(Tally.of(arrays[0], mask, limits, _corner(block_info)))


def _corner(block_info: Any, key: Any = 0) -> tuple[int, int]:
    (y, _), (x, _) = block_info[key]["array-location"]
    return y, x


# --- images --------------------------------------------------------------------------------------


def _blockwise(function: Callable[..., Any], *arrays: da.Array, dtype: Any, **extra: Any) -> Any:
    """`map_blocks` of a function that keeps shapes; never called to find out what it returns."""
    meta = np.empty((0, 0), dtype=dtype)
    return da.map_blocks(function, *arrays, dtype=dtype, meta=meta, **extra)


def to_grey(image: da.Array, weights: Any = None) -> da.Array:
    """As `pixels.to_grey`."""
    if image.ndim != 3:
        pixels.to_grey(np.empty((0,) * image.ndim), None)  # its error for other shapes
        return image
    if weights is None:
        return image[:, :, 0]
    whole = image.rechunk({2: -1})
    pixels.to_grey(np.empty((0, 0, image.shape[2])), weights)
    return da.map_blocks(
        pixels.to_grey,
        whole,
        weights,
        drop_axis=2,
        dtype=image.dtype,
        meta=np.empty((0, 0), dtype=image.dtype),
    )


def crop(image: da.Array, box: Box, fill: Any = 0) -> da.Array:
    """As `pixels.crop` with a number to fill with; only chunks that ``box`` touches are read."""
    value = pixels.checked_fill(image.dtype, fill)
    common = box.intersection(Box.at((0, 0), (image.shape[0], image.shape[1])))
    if common is None:
        return da.full(box.shape, value, dtype=image.dtype, chunks=BLOCK)
    margins = (
        (common.y0 - box.y0, box.y1 - common.y1),
        (common.x0 - box.x0, box.x1 - common.x1),
    )
    inside = image[common.slices]
    if not any(map(any, margins)):
        return inside
    return da.pad(inside, margins, mode="constant", constant_values=value)


def crop_in_noise(
    image: da.Array, box: Box, stats: Delayed, seed: int | None, dtype: Any = None
) -> da.Array:
    """The pixels of ``box``, with noise outside the image."""
    kind = image.dtype if dtype is None else np.dtype(dtype)
    height, width = image.shape
    return _blockwise(
        _noise_outside,
        crop(image.astype(kind), box),
        dtype=kind,
        stats=stats,
        seed=seed,
        inside=Box.at((-box.y0, -box.x0), (height, width)),
        origin=(box.y0, box.x0),
    )


def _noise_outside(
    block: NDArray[Any],
    stats: Statistics,
    seed: int | None,
    inside: Box,
    origin: tuple[int, int],
    block_info: Any,
) -> NDArray[Any]:
    corner = _corner(block_info)
    own = Box.at(corner, (block.shape[0], block.shape[1]))
    common = own.intersection(inside)
    if common == own:
        return block
    place = own.shifted(*origin)
    out = noise.noise_pixels(place, block.dtype, stats, seed)
    if common is not None:
        part = common.shifted(-corner[0], -corner[1]).slices
        out[part] = block[part]
    return out


def normalise(image: da.Array) -> da.Array:
    """The image from 0 to 1, as `pixels.normalise_range` with the image's own limits."""
    dtype = pixels.working_type(image.dtype)
    return _blockwise(_normalise_block, image, dtype=dtype, limits=limits(image))


def _normalise_block(block: NDArray[Any], limits: Limits) -> NDArray[Any]:
    return pixels.normalise_range(block, limits.low, limits.high)


def fill_masked(
    image: da.Array, mask: da.Array, stats: Delayed, seed: int | None, inside: bool = False
) -> da.Array:
    """As `noise.fill_masked`."""
    mask = mask.rechunk(image.chunks)
    return _blockwise(
        _fill_block, image, mask, dtype=image.dtype, stats=stats, seed=seed, inside=inside
    )


def _fill_block(
    block: NDArray[Any],
    mask: NDArray[np.bool_],
    stats: Statistics,
    seed: int | None,
    inside: bool,
    block_info: Any,
) -> NDArray[Any]:
    return noise.fill_masked(block, mask, stats, seed, _corner(block_info), inside)


def replace_extrema(
    image: da.Array, median: float | None, std: float | None, seed: int | None
) -> da.Array:
    """As `noise.replace_extrema`, for every extreme pixel."""
    span = limits(image)
    keep = _blockwise(noise.between, image, dtype=bool, limits=span)
    interior = delayed(Statistics.between, pure=True)(statistics(image, keep), span)
    return fill_masked(image, keep, given(interior, median, std, image.dtype), seed, inside=True)


def given(stats: Delayed, median: float | None, std: float | None, dtype: Any) -> Delayed:
    """As `Statistics.given`."""
    return delayed(Statistics.given, pure=True)(stats, median, std, dtype)


def pad(
    image: da.Array, new_shape: Shape, median: float | None, std: float | None, seed: int | None
) -> da.Array:
    """As `phase.pad`."""
    height, width = image.shape
    box = phase.pad_box((height, width), new_shape)
    if new_shape == (height, width):
        return image
    stats = given(statistics(image), median, std, image.dtype)
    return crop_in_noise(image, box, stats, seed, phase.padded_type(image.dtype))


def resize(image: da.Array, scale: float | tuple[float, float]) -> da.Array:
    """As `pixels.resize`; each block reads the part of the image that it covers."""
    shape = (image.shape[0], image.shape[1])
    new_shape = pixels.resized_shape(shape, scale)
    grid = TileGrid(new_shape, (BLOCK, BLOCK))
    rows: list[list[da.Array]] = [[] for _ in range(grid.grid_shape[0])]
    for row, _, box in grid.boxes():
        cuts = [
            slice(*pixels.source_span(a, b, n, m))
            for a, b, n, m in zip((box.y0, box.x0), (box.y1, box.x1), shape, new_shape, strict=True)
        ]
        window = image[tuple(cuts)].rechunk((-1, -1))
        make = partial(pixels.resize_window, box=box, shape=shape, new_shape=new_shape)
        rows[row].append(
            da.map_blocks(
                make,
                window,
                chunks=box.shape,
                dtype=image.dtype,
                meta=np.empty((0, 0), dtype=image.dtype),
            )
        )
    return da.block(rows)
