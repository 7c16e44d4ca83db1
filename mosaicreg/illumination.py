"""Uneven light and offset of a camera: estimated from cells of many tiles, and taken out of pixels.

A pixel is taken to be light times the flat field plus the dark field. The flat field is 1 where it
is brightest. It is smooth, so it is told by a grid of cells: their means over one tile are a tile's
whole contribution, and a low polynomial through the logarithm of what all tiles say is the field.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray

from mosaicreg.errors import InputError
from mosaicreg.geometry import IntArray

Image = NDArray[Any]
Field = NDArray[np.float32]

CELLS = 32
"""Cells along each side of a tile, at most one for each pixel."""
DEGREE = 4
"""The highest of the polynomial. Light that falls off as the fourth power of a cosine to less than
half fits to a few thousandths."""


def correct(image: Image, flat: Image | None = None, dark: Image | None = None) -> Image:
    """(image - dark) / flat in the image's own dtype.

    Args:
        image: (leading..., y, x).
        flat, dark: of a shape that broadcasts against it; None for none.

    Calculated in float32 (float64 for pixels of more than 16 bits). Integers are rounded; what is
    beyond the type's range becomes its end.
    """
    work = np.result_type(image.dtype, np.float32)
    values = image.astype(work)
    if dark is not None:
        values -= np.asarray(dark, dtype=work)
    if flat is not None:
        values /= np.asarray(flat, dtype=work)
    if image.dtype.kind == "f":
        return np.asarray(values)
    info = np.iinfo(image.dtype)
    top = work.type(info.max)
    if int(top) > info.max:  # the largest int32 and beyond are rounded up as floats
        top = np.nextafter(top, work.type(0))
    return np.asarray(np.clip(np.rint(values), work.type(info.min), top), dtype=image.dtype)


def check_fields(flat: Image | None, dark: Image | None, plane: tuple[int, int]) -> None:
    """Raise InputError for fields of another size than a tile, or that cannot be fields."""
    for name, field in (("flat", flat), ("dark", dark)):
        if field is None:
            continue
        if field.shape[-2:] != plane:
            raise InputError(f"the {name} field is {field.shape[-2:]} px, tiles are {plane}")
        if not np.isfinite(field).all():
            raise InputError(f"the {name} field has pixels that are NaN or infinite")
    if flat is not None and not (flat > 0).all():
        raise InputError(f"a flat field is above 0 everywhere; this one has {flat.min()}")


def cell_means(tiles: Image, dark: Image | None = None) -> Field:
    """(..., rows, columns) means of the pixels in each cell of (..., y, x) tiles.

    Of finite pixels; NaN where there is none. ``dark``, where given, is taken off first.
    """
    values = tiles.astype(np.float32)
    if dark is not None:
        values = values - np.asarray(dark, dtype=np.float32)
    known = np.asarray(np.isfinite(values))
    sums = _cell_sums(np.where(known, values, 0))
    counts = _cell_sums(known)
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return np.asarray(means, dtype=np.float32)


def _edges(length: int) -> IntArray:
    """Where cells begin along an axis, and its end."""
    cells = min(CELLS, length)
    return np.arange(cells + 1) * length // cells


def _cell_sums(values: Image) -> NDArray[np.float64]:
    for axis in (-2, -1):
        starts = _edges(values.shape[axis])[:-1]
        values = np.add.reduceat(values, starts, axis=axis, dtype=np.float64)
    return values


def smooth_field(
    means: Field, plane: tuple[int, int], percentile: float = 50.0, pooled: tuple[int, ...] = ()
) -> Field:
    """The flat field, (leading..., y, x), that the cells of many tiles tell.

    Each tile is first divided by its own median cell, so bright tiles count like faint ones. Then a
    percentile over the tiles is taken in each cell, and a polynomial goes through its logarithm.
    Its degree, up to `DEGREE`, is the one with which half of the tiles tell best what the other
    half shows (cross-validation, Stone 1974), so the less the tiles can tell, the less is told.
    What remains is chance in the content: it shrinks with the square root of the number of tiles
    times that of structures in a tile. A hundred tiles of structures of a few px give 2 %.

    Args:
        means: (tiles, leading..., rows, columns) as `cell_means` gives them.
        plane: (height, width) of a tile.
        percentile: 50, the median, suits content that is as often brighter as darker; 90 or so
            suits dark objects on a bright ground, 10 the reverse.
        pooled: leading axes of ``means`` whose planes are further tiles; of length 1 in the result.

    Raises:
        InputError: for a single tile, or where no tile has light in some plane.
    """
    if len(means) < 2:
        raise InputError("a flat field cannot be told from one tile: all of it may be content")
    lit = means > 0
    light = np.log(means, where=lit, out=np.full(means.shape, np.nan, dtype=np.float64))
    dead = np.logical_not(lit.any(axis=(-2, -1), keepdims=True))
    light -= np.nanmedian(np.where(dead, 0, light), axis=(-2, -1), keepdims=True)

    def told(part: NDArray[np.float64]) -> NDArray[np.float64]:
        over = (0, *pooled)
        dead = np.isnan(part).all(axis=over, keepdims=True)
        kept = np.where(dead, 0, part)
        values: NDArray[np.float64] = np.nanpercentile(kept, percentile, axis=over, keepdims=True)
        return np.asarray(np.where(dead, np.nan, values)[0])

    whole, *halves = told(light), told(light[::2]), told(light[1::2])
    if np.isnan(whole).all(axis=(-2, -1)).any():
        raise InputError("a flat field cannot be told: no tile has light")
    flat = np.empty((*whole.shape[:-2], *plane), dtype=np.float32)
    for index in np.ndindex(whole.shape[:-2]):
        degree = _best_degree(halves[0][index], halves[1][index], plane)
        field = _through(whole[index], plane, degree)[1]
        flat[index] = np.exp(field - field.max())
    return flat


def _best_degree(
    one: NDArray[np.float64], other: NDArray[np.float64], plane: tuple[int, int]
) -> int:
    """The degree with which either half of the tiles comes nearest to the other."""
    known = np.isfinite(one) & np.isfinite(other)
    if not known.any():
        return 0

    def miss(degree: int) -> float:
        pairs = ((one, other), (other, one))
        gaps = [(_through(a, plane, degree)[0] - b)[known] for a, b in pairs]
        return float(np.square(gaps).sum())

    return min(range(DEGREE + 1), key=miss)


def _through(
    told: NDArray[np.float64], plane: tuple[int, int], degree: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The polynomial nearest to a grid of cells: at the cells, and at every pixel."""
    bases = []
    for length, cells in zip(plane, told.shape, strict=True):
        edges = _edges(length)
        centres = (edges[:-1] + edges[1:]) / length - 1
        pixels = (2 * np.arange(length) + 1) / length - 1
        own = min(degree, cells - 1)
        bases.append((legvander(centres, own), legvander(pixels, own)))
    (of_rows, at_y), (of_columns, at_x) = bases
    orders = np.add.outer(np.arange(at_y.shape[1]), np.arange(at_x.shape[1]))
    i, j = np.nonzero(orders <= degree)
    columns = of_rows[:, None, i] * of_columns[None, :, j]
    known = np.isfinite(told)
    coefficients = np.zeros(orders.shape)
    coefficients[i, j] = np.linalg.lstsq(columns[known], told[known], rcond=None)[0]
    return of_rows @ coefficients @ of_columns.T, at_y @ coefficients @ at_x.T
