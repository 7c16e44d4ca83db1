"""nornir_imageregistration's ``assemble_tiles``: mosaics from tiles, and mosaics cut into tiles.

Tiles are paths, numpy, dask or zarr arrays; dask and zarr tiles give lazy dask arrays, all others
numpy arrays (``lazy=True`` makes those lazy, too). Arrays, offsets, sizes are (Y, X).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mosaicreg.errors import ImageError, InputError
from mosaicreg.geometry import Box, TileGrid, as_pair
from mosaicreg.lazy import is_lazy
from mosaicreg.nornir.assemble import _checked
from mosaicreg.nornir.inputs import as_image, is_path
from mosaicreg.pull import pull_of
from mosaicreg.sampling import Composite, Order, inside
from mosaicreg.tiling import iter_tiles
from mosaicreg.transforms import Affine, Bounds, Transform, Translation
from mosaicreg.warping import BLOCK, computed, mosaic_bounds, warp, warp_tiles
from mosaicreg.windows import open_pixels

__all__ = [
    "CompositeImage",
    "CompositeImageWithZBuffer",
    "CreateDistanceImage",
    "EmptyDistanceBuffer",
    "MosaicTileGridShape",
    "MosaicToTilesGenerator",
    "TilesToImage",
    "TilesToImageParallel",
    "TransformTile",
    "TransformedImageData",
]

OnError = Literal["raise", "skip"]
Variant = Literal["exact", "stretched", "split"]


def CompositeImage(FullImage: Any, SubImage: Any, offset: Any) -> Any:
    """Paste the pixels of ``SubImage`` that are not zero into ``FullImage``, in place.

    Stands for an assignment: one ``numpy.copyto``.

    Raises:
        InputError: where the image does not fit in at ``offset`` (Y, X).
    """
    part = FullImage[_fitting(FullImage, SubImage, offset)]
    np.copyto(part, SubImage, where=np.asarray(SubImage) != 0, casting="same_kind")
    return FullImage


def CompositeImageWithZBuffer(
    FullImage: Any, FullZBuffer: Any, SubImage: Any, SubZBuffer: Any, offset: Any
) -> Any:
    """Paste the pixels of ``SubImage`` that are nearer, in place; on a tie the first stays.

    Stands for two ``numpy.copyto``; `mosaicreg.sampling.composite_box` does it for whole mosaics.
    Both ``FullImage`` and ``FullZBuffer`` are changed, and ``FullImage`` returned.

    Raises:
        InputError: where the image does not fit in at ``offset`` (Y, X), or shapes differ.
    """
    if np.shape(SubImage) != np.shape(SubZBuffer) or np.shape(FullImage) != np.shape(FullZBuffer):
        raise InputError("an image and its buffer of distances must have one shape")
    place = _fitting(FullImage, SubImage, offset)
    nearer = SubZBuffer < FullZBuffer[place]
    np.copyto(FullImage[place], SubImage, where=nearer, casting="same_kind")
    np.copyto(FullZBuffer[place], SubZBuffer, where=nearer, casting="same_kind")
    return FullImage


def _fitting(full: Any, part: Any, offset: Any) -> tuple[slice, slice]:
    corner = as_pair(np.ravel(offset), "offset")
    shape = (int(np.shape(part)[0]), int(np.shape(part)[1]))
    box = Box.at(corner, shape)
    if not Box(0, 0, *np.shape(full)[:2]).contains(box):
        raise InputError(
            f"an image of {shape} px at {corner} reaches outside one of {np.shape(full)[:2]} px"
        )
    return box.slices


def CreateDistanceImage(
    shape: Any, dtype: DTypeLike | None = None, *, variant: Variant = "exact"
) -> NDArray[Any]:
    """The distance of each pixel to the middle of an image, ((H - 1) / 2, (W - 1) / 2).

    Stands for one ``numpy.hypot``. Mosaics need no such image: `mosaicreg.warp_tiles` does without.

    Args:
        shape: (Height, Width).
        dtype: of the result; float32 where None.
        variant: ``"exact"``, or one of two formulas of nornir that stored data may depend on:
            ``"stretched"`` (its CreateDistanceImage: N / (N - 1) too long), ``"split"`` (its
            CreateDistanceImage2: even sides run from 0.5 to N / 2 + 0.5).

    Raises:
        InputError: for an unknown variant.
    """
    axes = []
    for length in as_pair(np.ravel(shape), "shape"):
        middle = np.arange(length) - (length - 1) / 2
        if variant == "stretched":
            middle = np.linspace(-length / 2, length / 2, length)
        elif variant == "split" and length % 2 == 0:
            half = np.linspace(0.5, length / 2 + 0.5, length // 2)
            middle = np.concatenate([half[::-1], half])
        elif variant not in ("exact", "stretched", "split"):
            raise InputError(f"variant is exact, stretched or split, not {variant!r}")
        axes.append(middle)
    kind = np.float32 if dtype is None else dtype
    distance: NDArray[Any] = np.hypot(axes[0][:, None], axes[1][None, :]).astype(kind)
    return distance


def EmptyDistanceBuffer(shape: Any, dtype: DTypeLike = np.float16) -> NDArray[Any]:
    """An array of the greatest number of its dtype: everything is nearer. One ``numpy.full``."""
    return np.full(as_pair(np.ravel(shape), "shape"), _greatest(dtype), dtype=dtype)


def _greatest(dtype: DTypeLike) -> Any:
    kind = np.dtype(dtype)
    return np.finfo(kind).max if kind.kind == "f" else np.iinfo(kind).max


class Assembled(tuple[Any, Any]):
    """(image, mask) of a mosaic; ``skipped`` says of each tile left out why."""

    skipped: tuple[str, ...] = ()


def TilesToImage(
    transforms: Sequence[Transform],
    imagepaths: Sequence[Any],
    TargetRegion: Any = None,
    target_space_scale: float | None = None,
    source_space_scale: float | None = None,
    *,
    composite: Composite = "nearest",
    order: Order | None = None,
    cval: float = 0,
    on_error: OnError = "raise",
    lazy: bool | None = None,
    block: int | tuple[int, int] = BLOCK,
) -> Any:
    """A mosaic of tiles: (image, mask).

    Stands for `mosaicreg.warping.warp_tiles`. Each pixel shows the tile whose centre is nearest in
    the tile's own pixels, the first on a tie; the mask is True where a tile is.

    Args:
        transforms: from each tile's pixels to the mosaic.
        imagepaths: paths of the tiles, or arrays.
        TargetRegion: (MinY, MinX, MaxY, MaxX) of the mosaic to draw, at scale 1; all where None.
        target_space_scale: pixels of the result per px of the mosaic; the source's where None.
        source_space_scale: pixels of a tile per px of its transform's source; where None, as the
            control points tell, else 1.
        composite: ``"nearest"``, ``"linear"`` (feathered), ``"mean"`` or ``"max"``.
        order: 0, 1 or 3, see `mosaicreg.sampling.Order`.
        cval: value of pixels that no tile covers.
        on_error: ``"skip"`` leaves out tiles that cannot be opened; the result's ``skipped`` says
            which and why.
        lazy: True for dask arrays of any tiles; None: where a tile is a dask or zarr array.
        block: (Y, X) px of an output block.

    Returns:
        (image, mask) of shape ceil(region * scale), the first pixel at floor(corner * scale).

    Raises:
        InputError: for tiles that cannot be opened, all of them at once, or do not fit each other.
    """
    return _tiles_to_image(
        transforms, imagepaths, TargetRegion, target_space_scale, source_space_scale, None,
        composite=composite, order=order, cval=cval, on_error=on_error, lazy=lazy, block=block,
    )  # fmt: skip


def TilesToImageParallel(
    transforms: Sequence[Transform],
    imagepaths: Sequence[Any],
    TargetRegion: Any = None,
    target_space_scale: float | None = None,
    source_space_scale: float | None = None,
    pool: Any = None,
    **options: Any,
) -> Any:
    """`TilesToImage`: the same bits. Blocks are tasks of the dask scheduler in effect either way.

    ``pool`` is a thread pool for dask to work with where the result is not lazy; None for its own.
    """
    return _tiles_to_image(
        transforms,
        imagepaths,
        TargetRegion,
        target_space_scale,
        source_space_scale,
        pool,
        **options,
    )


def _tiles_to_image(
    transforms: Sequence[Transform],
    images: Sequence[Any],
    region: Any,
    target_scale: float | None,
    source_scale: float | None,
    pool: Any,
    *,
    composite: Composite = "nearest",
    order: Order | None = None,
    cval: float = 0,
    on_error: OnError = "raise",
    lazy: bool | None = None,
    block: int | tuple[int, int] = BLOCK,
) -> Assembled:
    tiles, maps, skipped = _opened_tiles(transforms, images, on_error)
    own = source_scale or _common_scale(tiles, maps)
    image, mask = warp_tiles(
        tiles,
        maps,
        _region(region),
        scale=target_scale or own,
        tile_scale=own,
        composite=composite,
        order=order,
        fill=cval,
        block=block,
    )
    if lazy is None:
        lazy = any(is_lazy(t) for t in images)
    result = Assembled((image, mask) if lazy else computed(image, mask, pool))
    result.skipped = skipped
    return result


@dataclass
class TransformedImageData:
    """One tile drawn in the mosaic.

    Args:
        image: the tile's pixels, 0 where it does not reach.
        centerDistanceImage: distance of each pixel to the tile's centre, the greatest number of its
            dtype where the tile does not reach.
        transform: of the tile.
        source_space_scale, target_space_scale: in use.
        rendered_target_space_origin: (Y, X) of the first pixel, in pixels of the result.
        errormsg: why there is no image, or None.
    """

    image: Any
    centerDistanceImage: Any  # noqa: N815
    transform: Transform
    source_space_scale: float
    target_space_scale: float
    rendered_target_space_origin: tuple[int, int]
    errormsg: str | None = None


def TransformTile(
    transform: Transform,
    imagefullpath: Any,
    distanceImage: Any = None,
    target_space_scale: float | None = None,
    TargetRegion: Any = None,
    SingleThreadedInvoke: bool = False,
) -> TransformedImageData:
    """One tile drawn where its transform puts it, with the distances that decide between tiles.

    Stands for `mosaicreg.warping.warp`.

    Args:
        transform: from the tile's pixels to the mosaic.
        imagefullpath: path or array.
        distanceImage: distances to use, of the tile's shape; exact ones where None.
        target_space_scale, TargetRegion: as in `TilesToImage`.
        SingleThreadedInvoke: without meaning; kept for its place.
    """
    try:
        ((source,), (own,), _) = _opened_tiles([transform], [imagefullpath], "raise")
    except InputError as error:
        return TransformedImageData(None, None, transform, 1.0, 1.0, (0, 0), str(error))
    tile_scale = _common_scale([source], [own])
    scale = target_space_scale or tile_scale
    shape = (int(source.shape[-2]), int(source.shape[-1]))
    box = mosaic_bounds([own], [shape], tile_scale)
    region = _region(TargetRegion)
    if region is not None:
        low = [max(box[k], region[k]) for k in range(2)]
        high = [max(low[k], min(box[k + 2], region[k + 2])) for k in range(2)]
        box = (low[0], low[1], high[0], high[1])
    origin = (int(np.floor(box[0] * scale)), int(np.floor(box[1] * scale)))
    size = [int(np.ceil((box[k + 2] - box[k]) * scale)) for k in range(2)]
    placed = own if tile_scale == 1 else own.compose(Affine.scaling(1 / tile_scale))
    placed = placed if scale == 1 else placed.followed_by(Affine.scaling(scale))
    placed = placed.followed_by(Translation([-v for v in origin]))
    plane = (size[0], size[1])
    image = np.asarray(warp(source, placed, plane))
    if distanceImage is not None:
        far = _greatest(distanceImage.dtype)
        distance = warp(distanceImage, placed, plane, fill=float(far))
    else:
        distance = _distances(placed, shape, plane)
    return TransformedImageData(image, distance, transform, tile_scale, scale, origin)


def _distances(
    transform: Transform, shape: tuple[int, int], plane: tuple[int, int]
) -> NDArray[np.float32]:
    box = Box(0, 0, *plane)
    result = np.full(plane, np.finfo(np.float32).max, dtype=np.float32)
    if box.area == 0:
        return result
    pull = pull_of(transform, box)
    places = pull.coordinates(box, (0, 0))
    there = inside(pull, box, places, Box(0, 0, *shape), shape)
    exact = np.hypot(places[0] - (shape[0] - 1) / 2, places[1] - (shape[1] - 1) / 2)
    np.copyto(result, exact.astype(np.float32), where=True if there is None else there)
    return result


def MosaicTileGridShape(
    transforms: Sequence[Transform],
    imagepaths: Sequence[Any],
    tile_size: Any = (512, 512),
    target_space_scale: float | None = None,
    source_space_scale: float | None = None,
) -> tuple[int, int]:
    """(rows, columns) of the tiles that a whole mosaic is cut into."""
    image, _ = TilesToImage(
        transforms, imagepaths, None, target_space_scale, source_space_scale, lazy=True
    )
    return TileGrid(image.shape[-2:], as_pair(np.ravel(tile_size), "tile_size")).grid_shape


def MosaicToTilesGenerator(
    transforms: Sequence[Transform],
    imagepaths: Sequence[Any],
    tile_size: Any = (512, 512),
    target_space_scale: float | None = None,
    source_space_scale: float | None = None,
    **options: Any,
) -> Iterator[tuple[int, int, Any]]:
    """A whole mosaic cut into tiles of one size: (iRow, iCol, tile), row by row, each once.

    Stands for `mosaicreg.warping.warp_tiles` and `mosaicreg.tiling.iter_tiles`. Each tile is drawn
    when its turn comes, from the images that touch it, so memory does not grow with the mosaic. The
    last row and column are filled with 0. Tiles are lazy where the images are; options as in
    `TilesToImage`.
    """
    size = as_pair(np.ravel(tile_size), "tile_size")
    lazy = options.pop("lazy", None)
    image, _ = TilesToImage(
        transforms, imagepaths, None, target_space_scale, source_space_scale,
        **{**options, "lazy": True, "block": size},
    )  # fmt: skip
    as_they_are = any(is_lazy(t) for t in imagepaths) if lazy is None else lazy
    for row, column, tile in iter_tiles(image, size):
        yield row, column, tile if as_they_are else np.asarray(tile)


def _opened_tiles(
    transforms: Sequence[Transform], images: Sequence[Any], on_error: OnError
) -> tuple[list[Any], list[Transform], tuple[str, ...]]:
    """Tiles that can be opened, their transforms, and why the others cannot."""
    if len(transforms) != len(images):
        raise InputError(f"{len(images)} tiles with {len(transforms)} transforms make no mosaic")
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is 'raise' or 'skip', not {on_error!r}")
    tiles, maps, problems = [], [], []
    for transform, image in zip(transforms, images, strict=True):
        try:
            source = image if is_path(image) else as_image(image)
            tiles.append(open_pixels(source))
            maps.append(_checked(transform))
        except (ImageError, OSError) as error:
            problems.append(str(error))
    if problems and (on_error == "raise" or not tiles):
        raise InputError(f"{len(problems)} of {len(images)} tiles cannot be opened", problems)
    return tiles, maps, tuple(problems)


def _common_scale(tiles: Sequence[Any], transforms: Sequence[Transform]) -> float:
    """Pixels of a tile per px of its transform's source: what most tiles have, 1 in doubt."""
    found: Counter[float] = Counter()
    for tile, transform in zip(tiles, transforms, strict=True):
        bounds = transform.bounds
        if bounds is None:
            continue
        size = [np.ceil(bounds[k + 2]) - np.floor(bounds[k]) for k in range(2)]
        shape = tile.shape[-2:]
        if all(abs(shape[k] - size[k]) <= 1.1 for k in range(2)):
            found[1.0] += 1
        elif min(size) > 0:
            ratio = [shape[k] / size[k] for k in range(2)]
            if abs(ratio[0] - ratio[1]) <= 0.01:
                found[float(np.mean(ratio))] += 1
    return found.most_common(1)[0][0] if found else 1.0


def _region(region: Any) -> Bounds | None:
    if region is None:
        return None
    values = region.ToTuple() if hasattr(region, "ToTuple") else region
    y0, x0, y1, x1 = (float(v) for v in np.ravel(values))
    if not (y0 <= y1 and x0 <= x1):
        raise InputError(f"a region is (MinY, MinX, MaxY, MaxX), not {tuple(values)}")
    return y0, x0, y1, x1
