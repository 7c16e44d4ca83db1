"""Warped images and mosaics of warped tiles as lazy dask arrays, one task per output block.

Graph only, no pixel code. Which window of a source each block needs is worked out in plain numbers;
a task carries its own few triangles, and reads its own windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import getitem
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
import dask.array as da
import numpy as np
from dask.base import compute, tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, FloatArray, TileGrid, as_pair, group_by_block
from mosaicreg.imagefile import native_block
from mosaicreg.lazy import open_lazy
from mosaicreg.pull import AffinePull, Pull, pull_of
from mosaicreg.sampling import (
    COMPOSITES,
    Composite,
    Order,
    TilePart,
    check_sampling,
    composite_box,
    default_order,
    source_window,
    warp_box,
)
from mosaicreg.transforms import Affine, Bounds, Transform, Translation
from mosaicreg.windows import Lead, Pixels, chunks_of, is_dask, open_pixels, read_window, window_of

BLOCK = 2048
"""Side of an output block in px by default."""
OUTLINE = 65
"""Points on each side of a tile at which a free transform is asked where the tile lies."""

Corner = tuple[int, int]


def warp(
    image: Any,
    transform: Transform,
    shape: tuple[int, int],
    *,
    origin: tuple[float, float] = (0, 0),
    extrapolate: bool = True,
    order: Order | None = None,
    fill: float = 0,
    block: int | tuple[int, int] = BLOCK,
) -> Any:
    """An image drawn where a transform puts it.

    Args:
        image: (leading..., y, x): numpy, dask or zarr array, or the path of an image file.
        transform: from the image's pixels (source) to those of the result (target).
        shape: (height, width) of the result.
        origin: (y, x) the target position of the result's first pixel.
        extrapolate: whether a mesh is continued beyond its control points.
        order: 0, 1 or 3, see `mosaicreg.sampling.Order`; 0 for masks, else 1 where not given.
        fill: value of pixels that the image does not reach.
        block: (y, x) or one number, px; each block is one task. It does not change a bit of the
            result.

    Returns:
        Array of the image's dtype: numpy for numpy, else a lazy dask array.

    Raises:
        InputError: for a shape, order or fill value that cannot be, or pixels of unusual type.
    """
    if isinstance(image, str | Path) and native_block(Path(image)) == (None, None):
        image = open_lazy(image)  # decoded once, not once for each block
    source = open_pixels(image)
    order = default_order(np.dtype(source.dtype)) if order is None else order
    check_sampling(np.dtype(source.dtype), order, fill)
    if not isinstance(transform, Transform):
        raise InputError(f"a transform is expected, not {type(transform).__name__}")
    grid = _grid(as_pair(shape, "shape"), block)
    if any(origin):
        transform = transform.followed_by(Translation([-v for v in origin]))
    pull = pull_of(transform, Box(0, 0, *grid.shape), extrapolate=extrapolate)
    if isinstance(source, np.ndarray) and isinstance(pull, AffinePull) and pull.steps is not None:
        grid = TileGrid(grid.shape, (max(1, grid.shape[0]), max(1, grid.shape[1])))  # a bare copy
    height, width = source.shape[-2:]
    plans = []
    for row, col, box in grid.boxes():
        own = pull.cut(box)
        window = source_window(own, box, (height, width), order)
        plans.append((row, col, WarpPlan(box, own, window, (height, width), order, fill)))
    if isinstance(source, np.ndarray):
        result = np.empty((*source.shape[:-2], *grid.shape), dtype=source.dtype)
        for _, _, plan in plans:
            whole = (slice(None),) * (source.ndim - 2)
            plan.draw(source, whole, result[(..., *plan.box.slices)])
        return result
    token = tokenize(_token(source), transform, grid, extrapolate, order, fill)
    return _lazy(source, grid, plans, f"warp-{token}")


def _grid(shape: tuple[int, int], block: int | tuple[int, int]) -> TileGrid:
    """Blocks of a result that has pixels."""
    if min(shape) < 1:
        raise InputError(f"a result of {shape} px (height, width) has no pixel")
    return TileGrid(shape, as_pair(block, "block"))


def _token(source: Pixels) -> Any:
    """What tells this source from others; of pixels in memory, it is not worth reading them."""
    if isinstance(source, np.ndarray):
        return uuid4().hex
    return source.name if is_dask(source) else source  # type: ignore[attr-defined]


@dataclass(frozen=True)
class WarpPlan:
    """All that one block needs but the pixels; small and picklable."""

    box: Box
    pull: Pull
    window: Box | None
    shape: tuple[int, int]
    order: Order
    fill: float

    def draw(self, source: Pixels, lead: Lead, out: NDArray[Any]) -> None:
        """Read the window and render the block into ``out``."""
        pixels = None if self.window is None else np.asarray(source[(*lead, *self.window.slices)])
        self.draw_window(pixels, out)

    def draw_window(self, pixels: NDArray[Any] | None, out: NDArray[Any]) -> None:
        """Render the block into ``out`` from the pixels of its window."""
        warp_box(self.box, self.pull, self.window, pixels, self.shape, self.order, self.fill, out)


def _lazy(
    source: Pixels, grid: TileGrid, plans: list[tuple[int, int, WarpPlan]], name: str
) -> da.Array:
    chunks = (*_lead_chunks(source), *grid.chunks)
    graph: Any = {}
    for index, lead in _leads(source):
        for row, col, plan in plans:
            content = window_of(source, plan.window, index, lead)
            graph[(name, *index, row, col)] = (_warp_task, plan, content, _lengths(source, lead))
    if is_dask(source):
        chunked: Any = source
        graph = HighLevelGraph.from_collections(name, graph, dependencies=[chunked])
    return da.Array(graph, name, chunks=chunks, dtype=np.dtype(source.dtype))


def _warp_task(plan: WarpPlan, content: Any, leading: tuple[int, ...]) -> NDArray[Any]:
    window, dtype = read_window(content)
    out = np.empty((*leading, *plan.box.shape), dtype=dtype)
    plan.draw_window(window, out)
    return out


def _leads(source: Pixels) -> list[tuple[tuple[int, ...], Lead]]:
    """Block index and slices of the axes before y and x."""
    chunks = _lead_chunks(source)
    edges = [np.concatenate([[0], np.cumsum(c)]).tolist() for c in chunks]
    return [
        (index, tuple(slice(e[k], e[k + 1]) for e, k in zip(edges, index, strict=True)))
        for index in np.ndindex(*(len(c) for c in chunks))
    ]


def _lead_chunks(source: Pixels) -> tuple[tuple[int, ...], ...]:
    if is_dask(source):
        return tuple(chunks_of(source)[:-2])
    return tuple((1,) * n for n in source.shape[:-2])


def _lengths(source: Pixels, lead: Lead) -> tuple[int, ...]:
    return tuple(s.stop - s.start for s in lead)


def target_region(transform: Transform, shape: tuple[int, ...]) -> tuple[Corner, Corner]:
    """((y, x), (height, width)) of whole pixels around where an image of ``shape`` lies."""
    corners = [(y, x) for y in (0, shape[-2] - 1) for x in (0, shape[-1] - 1)]
    there = transform.transform(corners)
    low, high = np.floor(there.min(axis=0)).astype(int), np.ceil(there.max(axis=0)).astype(int)
    size = high - low + 1
    return (int(low[0]), int(low[1])), (int(size[0]), int(size[1]))


def map_region(
    transform: Transform,
    origin: tuple[float, float],
    shape: tuple[int, int],
    *,
    to_source: bool = True,
    extrapolate: bool = True,
    block: int = 512,
) -> Iterator[tuple[Box, FloatArray]]:
    """Where the pixels of a region go, block by block.

    Args:
        transform: from source to target.
        origin: (y, x) of the region's first pixel, in target space (source space for
            ``to_source=False``).
        shape: (height, width) of the region.
        to_source: take target points to the source; False: source points to the target.
        extrapolate: whether a mesh is continued; where not, points outside are NaN.
        block: side of a block in px: no more points than one has are in memory.

    Yields:
        (box of the region, (h, w, 2) float64 points (y, x)).
    """
    way = transform.inverse_transform if to_source else transform.transform
    for _, _, box in TileGrid(shape, (block, block)).boxes():
        y, x = (
            np.arange(a, b) + o
            for a, b, o in zip((box.y0, box.x0), (box.y1, box.x1), origin, strict=True)
        )
        points = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
        there = way(points.reshape(-1, 2), extrapolate=extrapolate)
        yield box, there.reshape(points.shape)


# --- many tiles ----------------------------------------------------------------------------------


def warp_tiles(
    tiles: Sequence[Any],
    transforms: Sequence[Transform],
    region: Bounds | None = None,
    *,
    scale: float = 1.0,
    tile_scale: float = 1.0,
    composite: Composite = "nearest",
    extrapolate: bool = True,
    order: Order | None = None,
    fill: float = 0,
    block: int | tuple[int, int] = BLOCK,
) -> tuple[da.Array, da.Array]:
    """Tiles drawn where their transforms put them, as one lazy image.

    Args:
        tiles: images, all of one dtype and leading axes: arrays, or paths of image files.
        transforms: of each tile, from its pixels (times 1 / ``tile_scale``) to the mosaic.
        region: (y0, x0, y1, x1) of the mosaic; that of all tiles where not given.
        scale: pixels of the result per px of the mosaic.
        tile_scale: pixels of a stored tile per px of its transform's source.
        composite: what a pixel shows that several tiles cover, see `mosaicreg.sampling.Composite`.
        extrapolate, order, fill, block: as in `warp`.

    Returns:
        (image, mask): image of the tiles' dtype (leading..., y, x), its first pixel at
        ``floor(region's first corner * scale)`` and its shape ``ceil(region's size * scale)``; mask
        bool (y, x), where a tile is.

    Raises:
        InputError: for no tile, tiles that differ, or options that cannot be.
    """
    if len(tiles) != len(transforms) or len(tiles) == 0:
        raise InputError(f"{len(tiles)} tiles with {len(transforms)} transforms make no mosaic")
    if composite not in COMPOSITES:
        raise InputError(f"composite is one of {', '.join(COMPOSITES)}, not {composite!r}")
    sources = [open_pixels(t) for t in tiles]
    kinds = {(np.dtype(s.dtype).newbyteorder("="), tuple(s.shape[:-2])) for s in sources}
    if len(kinds) > 1:
        raise InputError(f"tiles must share one dtype and leading shape, these have {kinds}")
    dtype, leading = kinds.pop()
    order = default_order(dtype) if order is None else order
    check_sampling(dtype, order, fill)
    bounds = region or mosaic_bounds(transforms, [s.shape[-2:] for s in sources], tile_scale)
    first = [int(np.floor(v * scale)) for v in bounds[:2]]
    size = [max(0, int(np.ceil(np.round((bounds[k + 2] - bounds[k]) * scale, 6))))
            for k in range(2)]  # fmt: skip
    grid = _grid((size[0], size[1]), block)
    placed = [_in_pixels(t, scale, tile_scale, first) for t in transforms]
    return _tiles_graph(sources, placed, grid, dtype, leading,
                        _Style(order, composite, fill, extrapolate))  # fmt: skip


@dataclass(frozen=True)
class _Style:
    order: Order
    composite: Composite
    fill: float
    extrapolate: bool


def computed(image: da.Array, mask: da.Array, pool: Any = None) -> tuple[Any, Any]:
    """Both results of `warp_tiles` in memory, each block drawn once.

    ``pool``: a thread pool to work in; None for the dask scheduler in effect.
    """
    with dask.config.set({} if pool is None else {"pool": pool}):
        pair: tuple[Any, Any] = compute(image, mask)
    return pair


def mosaic_bounds(
    transforms: Sequence[Transform], shapes: Sequence[tuple[int, ...]], tile_scale: float = 1.0
) -> Bounds:
    """The box around all tiles: of the control points, or of the image where there are none."""
    boxes = []
    for transform, shape in zip(transforms, shapes, strict=True):
        own = transform.target_bounds
        if own is None:
            h, w = (n / tile_scale for n in shape)
            corners = transform.transform([(0, 0), (0, w), (h, 0), (h, w)])
            own = (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
        boxes.append(own)
    array = np.array(boxes)
    return (*array[:, :2].min(axis=0).tolist(), *array[:, 2:].max(axis=0).tolist())


def _in_pixels(
    transform: Transform, scale: float, tile_scale: float, first: list[int]
) -> Transform:
    """From pixels of a stored tile to pixels of the result."""
    if tile_scale != 1:
        transform = transform.compose(Affine.scaling(1 / tile_scale))
    if scale != 1:
        transform = transform.followed_by(Affine.scaling(scale))
    return transform.followed_by(Translation([-v for v in first])) if any(first) else transform


def _covered_box(transform: Transform, shape: tuple[int, ...], grid: TileGrid) -> Box:
    """The pixels of a grid's plane that a tile may cover; empty where it lies outside."""
    height, width = shape[0] - 0.5, shape[1] - 0.5
    y, x = np.linspace(-0.5, height, OUTLINE), np.linspace(-0.5, width, OUTLINE)
    low, high = np.full(OUTLINE, -0.5), np.full(OUTLINE, 1.0)
    sides = [(low, x), (high * height, x), (y, low), (y, high * width)]
    outline = np.concatenate([np.stack(s, axis=1) for s in sides])
    there = transform.transform(np.concatenate([outline, transform.source_points]))
    steps = np.abs(np.diff(there[: 4 * OUTLINE].reshape(4, OUTLINE, 2), axis=1))
    there = there[np.isfinite(there).all(axis=1)]
    if len(there) == 0:
        return Box(0, 0, 0, 0)
    free = 0.0 if isinstance(transform, Translation | Affine) else float(np.nanmax(steps))
    start = np.clip(np.floor(there.min(axis=0) - free), 0, grid.shape).astype(int)
    end = np.clip(np.ceil(there.max(axis=0) + free) + 1, 0, grid.shape).astype(int)
    return Box(int(start[0]), int(start[1]), int(end[0]), int(end[1]))


def _tiles_graph(
    sources: list[Pixels],
    transforms: list[Transform],
    grid: TileGrid,
    dtype: np.dtype[Any],
    leading: tuple[int, ...],
    style: _Style,
) -> tuple[da.Array, da.Array]:
    """One task per block makes image and mask; two more pick one of them."""
    boxes = [_covered_box(t, s.shape[-2:], grid) for t, s in zip(transforms, sources, strict=True)]
    pulls = [
        pull_of(t, box, extrapolate=style.extrapolate) if box.area else None
        for t, box in zip(transforms, boxes, strict=True)
    ]
    table = np.array([(b.y0, b.x0, b.y1, b.x1) for b in boxes], dtype=np.int64)
    starts, members = group_by_block(table, grid)
    token = tokenize([_token(s) for s in sources], transforms, grid, vars(style))
    name, lead = f"tiles-{token}", tuple(slice(0, n) for n in leading)
    tasks: dict[Any, Any] = {}
    images: dict[Any, Any] = {}
    masks: dict[Any, Any] = {}
    for number, (row, col, box) in enumerate(grid.boxes()):
        parts = []
        for tile in members[starts[number] : starts[number + 1]]:
            common, pull, source = boxes[tile].intersection(box), pulls[tile], sources[tile]
            if common is None or pull is None:
                continue
            own, shape = pull.cut(common), (source.shape[-2], source.shape[-1])
            window = source_window(own, common, shape, style.order)
            if window is not None:
                content = window_of(_one_lead(source), window, (0,) * len(leading), lead)
                parts.append([(common, own, window, shape), content])
        tasks[(name, row, col)] = (_tiles_task, box, parts, leading, dtype, style)
        images[(f"{name}-image", *(0,) * len(leading), row, col)] = (getitem, (name, row, col), 0)
        masks[(f"{name}-mask", row, col)] = (getitem, (name, row, col), 1)
    chunked: list[Any] = [s for s in (_one_lead(s) for s in sources) if is_dask(s)]
    base = HighLevelGraph.from_collections(name, tasks, dependencies=chunked)
    lead_chunks = tuple((n,) for n in leading)

    def picked(layer: str, graph: dict[Any, Any], chunks: Any, kind: Any) -> da.Array:
        layers = {**base.layers, layer: graph}
        needs = {**base.dependencies, layer: {name}}
        return da.Array(HighLevelGraph(layers, needs), layer, chunks=chunks, dtype=kind)

    image = picked(f"{name}-image", images, (*lead_chunks, *grid.chunks), dtype)
    return image, picked(f"{name}-mask", masks, grid.chunks, np.bool_)


def _one_lead(source: Pixels) -> Pixels:
    """A dask array with the axes before y and x in one chunk."""
    if is_dask(source) and any(len(c) > 1 for c in chunks_of(source)[:-2]):
        array: Any = source
        whole: Pixels = array.rechunk(dict.fromkeys(range(array.ndim - 2), -1))
        return whole
    return source


def _tiles_task(
    box: Box,
    parts: list[Any],
    leading: tuple[int, ...],
    dtype: np.dtype[Any],
    style: _Style,
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    tiles = []
    for (common, pull, window, shape), content in parts:
        pixels, _ = read_window(content)
        if pixels is not None:
            tiles.append(TilePart(common, pull, window, pixels, shape))
    return composite_box(box, tiles, leading, dtype, style.order, style.composite, style.fill)
