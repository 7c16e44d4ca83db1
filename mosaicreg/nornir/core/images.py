"""Cutting, scaling and normalising one image; pixels in memory, paths, dask and zarr arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mosaicreg import geometry, lazy, noise, pixels, tiling
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box
from mosaicreg.imagefile import read_header
from mosaicreg.noise import Limits, Statistics
from mosaicreg.nornir.inputs import as_image, as_pixels, existing, is_path, whole_number
from mosaicreg.nornir.sharing import memmap_metadata


def GetImageSize(image_param: Any) -> tuple[int, int]:
    """(height, width) of a file (only its header is read), an array, or a `memmap_metadata`."""
    if is_path(image_param):
        return read_header(existing(image_param), any_type=True).plane
    if not isinstance(image_param, memmap_metadata) and len(image_param.shape) < 2:
        raise InputError(f"an image must be (height, width), not of shape {image_param.shape}")
    return int(image_param.shape[0]), int(image_param.shape[1])


def CropImage(
    imageparam: Any,
    Xo: int,
    Yo: int,
    Width: int,
    Height: int,
    cval: Any = None,
    *,
    rng: int | np.random.Generator | None = None,
    ImageMedian: float | None = None,
    ImageStdDev: float | None = None,
) -> Any:
    """`mosaicreg.pixels.crop`: a new image of (Height, Width) whose first pixel is (Yo, Xo).

    Args:
        imageparam: an image; dask and zarr arrays are cropped lazily.
        Xo, Yo, Width, Height: whole numbers of pixels.
        cval: of pixels outside the image; None is 0. ``"random"``: noise of the statistics of the
            pixels inside, or of the whole image where none is.
        rng: seed of the noise; follows from the pixels where None.
        ImageMedian, ImageStdDev: of the noise.
    """
    image = as_image(imageparam)
    size = whole_number(Height, "Height"), whole_number(Width, "Width")
    if min(size) < 0:
        raise InputError(f"a crop of {size} px (height, width) cannot be")
    box = Box.at((whole_number(Yo, "Yo"), whole_number(Xo, "Xo")), size)
    if not (isinstance(cval, str) and cval == "random"):
        chosen = lazy.crop if lazy.is_lazy(image) else pixels.crop
        return chosen(image, box, 0 if cval is None else cval)
    seed = noise.as_seed(rng)
    inside = box.intersection(Box.at((0, 0), (image.shape[0], image.shape[1])))
    seen = image if inside is None else image[inside.slices]
    if lazy.is_lazy(image):
        stats = lazy.given(lazy.statistics(seen), ImageMedian, ImageStdDev, image.dtype)
        return lazy.crop_in_noise(image, box, stats, seed)
    own = Statistics.of(seen).given(ImageMedian, ImageStdDev, image.dtype)
    return pixels.crop(image, box, noise.noise_pixels(box, image.dtype, own, seed))


def ExtractROI(image: Any, center: Any, area: Any) -> Any:
    """`mosaicreg.geometry.centred_box`: (Height, Width) ``area`` around the pixel ``center``."""
    source = as_image(image)
    size = tuple(whole_number(n, "area") for n in area)
    middle = tuple(float(c) for c in center)
    shape = (source.shape[0], source.shape[1])
    box = geometry.centred_box((middle[0], middle[1]), (size[0], size[1]), shape)
    part = source[box.slices]
    return part if lazy.is_lazy(source) else part.copy()


def ForceGrayscale(image: Any, *, weights: Any = None) -> Any:
    """`mosaicreg.pixels.to_grey`: the first of the last axis' samples, or their weighted sum."""
    source = as_image(image)
    return (lazy.to_grey if lazy.is_lazy(source) else pixels.to_grey)(source, weights)


def NormalizeImage(image: Any) -> Any:
    """`mosaicreg.pixels.normalise_range`: the image from 0 to 1; zeros for a flat one."""
    source = as_image(image)
    if lazy.is_lazy(source):
        return lazy.normalise(source)
    limits = Limits.of(source)
    return pixels.normalise_range(source, limits.low, limits.high)


def ResizeImage(image: Any, scalar: Any) -> Any:
    """`mosaicreg.pixels.resize`: scaled by a number or (y, x), without aliasing."""
    source = as_image(image)
    return lazy.resize(source, scalar) if lazy.is_lazy(source) else pixels.resize(source, scalar)


def ImageIntensityAtPercent(image: Any, Percent: float = 0.995) -> float:
    """`mosaicreg.pixels.quantile`: what a share ``Percent`` of the pixels do not exceed."""
    return pixels.quantile(as_pixels(image), Percent)


def ImageToTiles(
    source_image: Any,
    tile_size: Any,
    grid_shape: Any = None,
    cval: Any = 0,
    *,
    rng: int | np.random.Generator | None = None,
    copy: bool = True,
) -> dict[tuple[int, int], Any]:
    """`mosaicreg.tiling.iter_tiles` as a dictionary with keys (row, column).

    Tiles of a dask or zarr array are lazy: nothing is computed, and a tile reads only its chunks.
    """
    tiles = ImageToTilesGenerator(
        source_image, tile_size, grid_shape, cval=cval, rng=rng, copy=copy
    )
    return {(row, col): tile for row, col, tile in tiles}


def ImageToTilesGenerator(
    source_image: Any,
    tile_size: Any,
    grid_shape: Any = None,
    coord_offset: Any = None,
    cval: Any = 0,
    *,
    rng: int | np.random.Generator | None = None,
    copy: bool = True,
) -> Iterator[tuple[int, int, Any]]:
    """`mosaicreg.tiling.iter_tiles`: (row, column, tile), row by row.

    ``coord_offset`` (rows, columns) is added to what is told of each tile.
    """
    zarr_or_path = source_image if _is_zarr(source_image) else as_image(source_image)
    rows, cols = (0, 0) if coord_offset is None else geometry.as_pair(coord_offset, "coord_offset")
    tiles = tiling.iter_tiles(
        zarr_or_path,
        geometry.as_pair(tile_size, "tile_size"),
        None if grid_shape is None else geometry.as_pair(grid_shape, "grid_shape"),
        0 if cval is None else cval,
        seed=noise.as_seed(rng),
        copy=copy,
    )
    return ((row + rows, col + cols, tile) for row, col, tile in tiles)


def _is_zarr(image: Any) -> bool:
    """Whether tiles can read their own windows, without blocks in between."""
    return lazy.is_lazy(image) and hasattr(image, "store") and hasattr(image, "attrs")
