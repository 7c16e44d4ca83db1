"""Flat and dark fields of many tiles, lazily, and mosaics whose tiles are corrected when read.

What a tile contributes is a few numbers (or, for maxima and minima, a tile at a time in a tree), so
memory does not grow with the number of tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal
from uuid import uuid4

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from mosaicreg import illumination, lazy
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box
from mosaicreg.imagefile import read_header, read_image
from mosaicreg.journal import short_digest
from mosaicreg.mosaic import Mosaic
from mosaicreg.objects import AnyPath, as_path
from mosaicreg.source import Lead, TileSource, stamps_of

Method = Literal["percentile", "maximum"]
MOST = 1000
"""So many tiles, evenly spread over the mosaic, tell a field by default."""
Tiles = Any
"""A Mosaic, or a numpy, dask or zarr array (n, leading..., y, x)."""


def estimate_flat_field(
    tiles: Tiles,
    *,
    method: Method = "percentile",
    percentile: float = 50.0,
    dark: Any = None,
    most: int | None = MOST,
) -> Any:
    """How bright each pixel of a tile is lit, 1 at the brightest: told by the tiles themselves.

    Args:
        tiles: all of one size: a `Mosaic`, or an array (n, leading..., y, x), numpy, dask or zarr.
        method: ``"percentile"``: robust against what the tiles show, and smooth (see
            `mosaicreg.illumination.smooth_field`). ``"maximum"``: the brightest each pixel ever
            is, not smoothed: right where many tiles show an empty, bright field.
        percentile: of ``"percentile"``; about 90 for dark objects on a bright ground.
        dark: the dark field, (y, x) or one that broadcasts, taken off first.
        most: use at most so many tiles, evenly spread; None for all.

    Returns:
        (leading..., y, x) float32. Of a mosaic, t and z are pooled (length 1); each channel has its
        own. Lazy, but for a numpy array.

    Raises:
        InputError: for tiles of several sizes, a method that does not exist, or, when it is
            computed, tiles without light.
    """
    if method not in ("percentile", "maximum"):
        raise InputError(f"method is 'percentile' or 'maximum', not {method!r}")
    if not 0 <= percentile <= 100:
        raise InputError(f"a percentile is from 0 to 100, not {percentile}")
    stack, pooled = _stack(tiles, most)
    plane = stack.shape[-2:]
    dark = None if dark is None else np.asarray(dark, dtype=np.float32)
    illumination.check_fields(None, dark, plane)
    if method == "maximum":
        top = _extreme(stack, pooled, np.fmax).astype(np.float32)
        top = top if dark is None else top - dark
        field = da.map_blocks(_to_largest, top.rechunk((*top.chunks[:-2], -1, -1)), dtype="f4")
    else:
        cells = _cells(stack, dark)
        field = da.map_blocks(
            lambda means: illumination.smooth_field(means, plane, percentile, pooled),
            cells.rechunk(-1),
            drop_axis=0,
            chunks=_single([1 if k in pooled else n for k, n in enumerate(stack.shape)][1:]),
            dtype=np.float32,
            meta=np.empty((0,) * (stack.ndim - 1), dtype=np.float32),
        )
    return field.compute() if isinstance(tiles, np.ndarray) else field


def estimate_dark_field(tiles: Tiles, *, most: int | None = MOST) -> Any:
    """What the camera adds to each pixel, told by the tiles: the least each pixel ever is.

    Less the least of all, for a constant is not the camera's alone. Arguments and result as for
    `estimate_flat_field`.
    """
    stack, pooled = _stack(tiles, most)
    least = _extreme(stack, pooled, np.fmin).astype(np.float32)
    field = da.map_blocks(_from_least, least.rechunk((*least.chunks[:-2], -1, -1)), dtype="f4")
    return field.compute() if isinstance(tiles, np.ndarray) else field


def correct_illumination(image: Any, flat: Any = None, dark: Any = None) -> Any:
    """(image - dark) / flat, in the image's dtype; see `mosaicreg.illumination.correct`.

    Args:
        image: (leading..., y, x); a numpy array gives a numpy array, dask and zarr a lazy one.
        flat, dark: fields as estimated, or None.

    Raises:
        InputError: for fields of another size than the image, not finite, or a flat field that is
            not above 0.
    """
    flat, dark = (None if f is None else np.asarray(f) for f in (flat, dark))
    _check_fit((flat, dark), tuple(image.shape))
    if not lazy.is_lazy(image):
        return illumination.correct(image, flat, dark)
    whole = lazy.as_lazy(image)
    fields = [None if f is None else da.from_array(f, chunks=_like(f, whole)) for f in (flat, dark)]
    given = [f for f in fields if f is not None]
    if not given:
        return whole
    make = partial(_correct_block, has_flat=flat is not None)
    return da.map_blocks(make, whole, *given, dtype=whole.dtype)


def corrected_mosaic(mosaic: Mosaic, flat: Any = None, dark: Any = None) -> Mosaic:
    """The mosaic whose tiles are corrected whenever they are read: to register, assemble, look at.

    Args:
        mosaic: tiles of one size.
        flat, dark: paths of image files that hold the fields, (y, x) or a shape that broadcasts
            against the tiles' (leading..., y, x). Files and not arrays, because every task reads
            the part that it needs; workers must see them.

    Raises:
        InputError: for fields that do not fit the tiles; ImageError where they cannot be read.
    """
    paths = [None if f is None else as_path(f) for f in (flat, dark)]
    images = [None if p is None else read_image(p) for p in paths]
    _check_fit(images, (*mosaic.leading, *_plane(mosaic)))
    source = CorrectedSource(mosaic.source, paths[0], paths[1], short_digest(*images))
    return replace(mosaic, source=source)


@dataclass(frozen=True, eq=False)
class CorrectedSource:
    """Tiles of another source, corrected; see `corrected_mosaic`.

    Args:
        source: the tiles as they are.
        flat, dark: where the fields are, or None.
        stamp: stands for the fields' pixels.
    """

    source: TileSource
    flat: AnyPath | None
    dark: AnyPath | None
    stamp: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return self.source.dtype

    @property
    def leading(self) -> tuple[int, ...]:
        """Lengths of the axes before y and x."""
        return self.source.leading

    @property
    def interleaved(self) -> bool:
        """Whether all leading planes of a tile are best read together."""
        return self.source.interleaved

    def __len__(self) -> int:
        return len(self.source)

    def read(self, tile: int, box: Box, lead: Lead) -> NDArray[Any]:
        """Pixels of ``box`` of one tile, corrected."""
        flat, dark = (_part(path, box, lead) for path in (self.flat, self.dark))
        return illumination.correct(self.source.read(tile, box, lead), flat, dark)

    def stamps(self) -> NDArray[np.uint64]:
        """Those of the tiles, changed by the fields."""
        return stamps_of(self.source) ^ np.uint64(self.stamp)

    def select(self, tiles: Any) -> CorrectedSource:
        """These tiles only."""
        return replace(self, source=self.source.select(tiles))


def _part(path: AnyPath | None, box: Box, lead: Lead) -> NDArray[Any] | None:
    """The part of a field that goes with a part of a tile."""
    if path is None:
        return None
    own = read_header(path).shape[:-2]
    parts = lead[len(lead) - len(own) :]
    one = slice(0, 1)
    return read_image(
        path, box, tuple(one if n == 1 else p for n, p in zip(own, parts, strict=True))
    )


def _check_fit(fields: Sequence[NDArray[Any] | None], shape: tuple[int, ...]) -> None:
    """Raise InputError for a flat and a dark field that do not fit (leading..., y, x) images."""
    illumination.check_fields(fields[0], fields[1], (shape[-2], shape[-1]))
    for field in fields:
        if field is None:
            continue
        along = zip(field.shape[::-1], shape[::-1], strict=False)
        if field.ndim > len(shape) or any(n not in (1, m) for n, m in along):
            raise InputError(f"a field of shape {field.shape} does not fit images of {shape}")


def _plane(mosaic: Mosaic) -> tuple[int, int]:
    """(height, width) of all tiles."""
    sizes = np.unique(mosaic.shapes, axis=0)
    if len(sizes) > 1:
        listed = ", ".join(f"{h} x {w}" for h, w in sizes[:5].tolist())
        raise InputError(f"a field belongs to tiles of one size; these have {listed} px")
    return int(sizes[0, 0]), int(sizes[0, 1])


def _stack(tiles: Tiles, most: int | None) -> tuple[da.Array, tuple[int, ...]]:
    """((n, leading..., y, x) lazily, one chunk for each tile; which axes are tiles too)."""
    if not isinstance(tiles, Mosaic):
        stack = lazy.as_lazy(tiles)
        if stack.ndim < 3 or stack.shape[0] == 0:
            raise InputError(f"tiles are (n, leading..., y, x), not of shape {stack.shape}")
        chosen = _spread(stack.shape[0], most)
        stack = stack if len(chosen) == stack.shape[0] else stack[chosen]
        return stack.rechunk((1, *(-1,) * (stack.ndim - 1))), ()
    plane, lead = _plane(tiles), tiles.leading
    box, every = Box.at((0, 0), plane), tuple(slice(0, n) for n in lead)
    name = f"tiles-{uuid4().hex}"
    tail = (0,) * (len(lead) + 2)
    chosen = _spread(len(tiles), most)
    tasks: dict[Any, Any] = {
        (name, k, *tail): (_read_tile, tiles.source.select(chosen[k : k + 1]), box, every)
        for k in range(len(chosen))
    }
    graph = HighLevelGraph.from_collections(name, tasks)
    chunks = ((1,) * len(chosen), *_single((*lead, *plane)))
    stack = da.Array(graph, name, chunks=chunks, dtype=tiles.dtype)
    return stack, tuple(k + 1 for k, axis in enumerate(tiles.axes[:-2]) if axis in "tz")


def _spread(count: int, most: int | None) -> NDArray[np.int64]:
    """Numbers of at most ``most`` of ``count`` tiles, evenly spread."""
    if most is not None and most < 1:
        raise InputError(f"a field is told by at least one tile, not by {most}")
    used = count if most is None else min(count, most)
    return (np.arange(used, dtype=np.int64) * 2 + 1) * count // (2 * used)


def _read_tile(source: TileSource, box: Box, lead: Lead) -> NDArray[Any]:
    return source.read(0, box, lead)[None]


def _single(shape: Any) -> tuple[tuple[int, ...], ...]:
    return tuple((int(n),) for n in shape)


def _extreme(stack: da.Array, pooled: tuple[int, ...], better: np.ufunc) -> da.Array:
    """The largest or smallest of all tiles, in a tree: a few tiles in memory at a time."""

    def reduce(values: NDArray[Any], axis: Any, keepdims: bool) -> NDArray[Any]:
        return np.asarray(better.reduce(values, axis=axis, keepdims=keepdims))

    over = (0, *pooled)
    kept: da.Array = da.reduction(
        stack, reduce, reduce, axis=over, keepdims=True, dtype=stack.dtype, split_every=4
    )
    field: da.Array = kept[0]
    return field


def _cells(stack: da.Array, dark: NDArray[Any] | None) -> da.Array:
    rows, columns = (min(illumination.CELLS, n) for n in stack.shape[-2:])
    cells: da.Array = da.map_blocks(
        partial(illumination.cell_means, dark=dark),
        stack,
        chunks=(*stack.chunks[:-2], (rows,), (columns,)),
        dtype=np.float32,
        meta=np.empty((0,) * stack.ndim, dtype=np.float32),
    )
    return cells


def _to_largest(planes: NDArray[Any]) -> NDArray[np.float32]:
    largest = planes.max(axis=(-2, -1), keepdims=True)
    if not (largest > 0).all():
        raise InputError("a flat field cannot be told: no tile has light")
    return np.asarray(planes / largest, dtype=np.float32)


def _from_least(planes: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(planes - planes.min(axis=(-2, -1), keepdims=True), dtype=np.float32)


def _like(field: NDArray[Any], image: da.Array) -> tuple[Any, ...]:
    """Chunks for a field that fit those of an image."""
    return tuple(
        (1,) if n == 1 else own
        for n, own in zip(field.shape, image.chunks[image.ndim - field.ndim :], strict=True)
    )


def _correct_block(image: NDArray[Any], *fields: NDArray[Any], has_flat: bool) -> NDArray[Any]:
    flat = fields[0] if has_flat else None
    dark = fields[-1] if len(fields) > has_flat else None
    return illumination.correct(image, flat, dark)
