"""Ranges, sizes and indices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mosaicreg import geometry
from mosaicreg.errors import InputError


def ConstrainedRange(start: int, count: int, maxVal: int, minVal: int = 0) -> range:
    """`mosaicreg.geometry.clipped_range`: the range without what lies outside the limits."""
    return geometry.clipped_range(int(start), int(count), int(maxVal), int(minVal))


def SafeROIRange(start: int, count: int, maxVal: int, minVal: int = 0) -> range:
    """`mosaicreg.geometry.shifted_range`: ``count`` numbers, moved to lie within the limits."""
    return geometry.shifted_range(int(start), int(count), int(maxVal), int(minVal))


def DimensionWithOverlap(val: float, overlap: float = 1.0) -> float:
    """`mosaicreg.geometry.size_for_overlap`: the length that tells all shifts apart."""
    return geometry.size_for_overlap(val, overlap)


def NearestPowerOfTwoWithOverlap(val: float, overlap: float | None = 1.0) -> int:
    """`mosaicreg.geometry.power_of_two` of `DimensionWithOverlap`, the overlap held to 0 to 1."""
    share = min(max(overlap or 0.0, 0.0), 1.0)
    return geometry.power_of_two(geometry.size_for_overlap(val, share))


def ScalarForMaxDimension(max_dim: float, shapes: Any) -> float:
    """The scale that makes the largest side of one shape, or of several, ``max_dim``."""
    return float(max_dim) / max(float(n) for shape in shapes for n in np.ravel(shape))


def TileGridShape(source_image_shape: Any, tile_size: Any) -> NDArray[np.int32]:
    """`mosaicreg.geometry.TileGrid.grid_shape`: [rows, columns] that cover an image.

    ``source_image_shape``: (height, width), or anything that has such a ``shape``.
    """
    shape = getattr(source_image_shape, "shape", source_image_shape)
    if isinstance(source_image_shape, np.ndarray) and source_image_shape.shape == (2,):
        shape = source_image_shape
    height, width = (int(n) for n in shape[:2])
    tile = geometry.as_pair(tile_size, "tile_size")
    return np.array(geometry.TileGrid((height, width), tile).grid_shape, dtype=np.int32)


def array_distance(array: ArrayLike) -> Any:
    """Length of each row; a number for one row alone."""
    return np.sqrt(np.square(np.asarray(array, dtype=np.float64)).sum(axis=-1))


def ravel_index(idx: ArrayLike, shp: Any) -> NDArray[np.intp]:
    """Row-major index of each (y, x) row of ``idx`` in an array of shape ``shp``."""
    rows, cols = _checked(idx, shp)
    return np.asarray(rows * int(shp[1]) + cols, dtype=np.intp)


def index_with_array(image: Any, indicies: ArrayLike) -> Any:
    """The pixels at each (y, x) row of ``indicies``; lazy for a dask or zarr array."""
    rows, cols = _checked(indicies, image.shape)
    picker = image.vindex if hasattr(image, "vindex") else image
    return picker[rows, cols]


def _checked(indices: ArrayLike, shape: Any) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of (n, 2) indices that lie inside ``shape``."""
    found = np.asarray(indices)
    if found.size == 0:
        found = found.reshape(0, 2).astype(np.intp)
    if found.ndim != 2 or found.shape[1] != 2 or len(shape) != 2:
        raise InputError(f"indices must be (n, 2) rows (y, x) into a plane, not {found.shape}")
    if found.dtype.kind not in "iu":
        raise InputError(f"indices must be whole numbers, not {found.dtype}")
    outside = ((found < 0) | (found >= np.array(shape))).any(axis=1)
    if outside.any():
        first = tuple(int(n) for n in found[outside][0])
        raise IndexError(
            f"{int(outside.sum())} indices lie outside an image of shape {tuple(shape)}, the first "
            f"is {first}"
        )
    return found[:, 0].astype(np.intp), found[:, 1].astype(np.intp)
