"""A large image cut into tiles of one size, lazily, and put together again.

Of a dask or zarr image nothing is computed and nothing copied: each tile is a lazy array whose
computation reads the chunks that the tile touches and no others. Of pixels in memory the tiles are
pixels in memory. Both are the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from mosaicreg import lazy, noise, pixels
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, TileGrid
from mosaicreg.noise import Statistics

Shape = tuple[int, int]
Image = Any
"""A (y, x) numpy, dask or zarr array."""


def iter_tiles(
    image: Image,
    tile: Shape,
    grid_shape: Shape | None = None,
    fill: Any = 0,
    *,
    seed: int | None = None,
    copy: bool = True,
) -> Iterator[tuple[int, int, Any]]:
    """(row, column, tile) of every tile, row by row.

    Args:
        image: (y, x), numpy, dask or zarr.
        tile: (height, width) of every tile; those that reach outside the image are filled up.
        grid_shape: (rows, columns). None: as many as cover the image. More give tiles of fill only,
            fewer leave the rest of the image out.
        fill: a number that fits the image's type, or ``"random"``: noise of the statistics of the
            tile's own pixels, or of the whole image where the tile has none.
        seed: of the noise; follows from the pixels where None.
        copy: False gives views of an image in memory where nothing has to be filled.

    Raises:
        InputError: for an image that is not (y, x), or a fill value that does not fit.
        ValueError: for a tile below one pixel.
    """
    if len(image.shape) != 2:
        raise InputError(f"an image to cut must be (height, width), not of shape {image.shape}")
    plane = (int(image.shape[0]), int(image.shape[1]))
    rows, cols = grid_shape or TileGrid(plane, tile).grid_shape
    if rows < 0 or cols < 0:
        raise InputError(f"a grid of {rows} x {cols} tiles cannot be")
    random = isinstance(fill, str) and fill == "random"
    if not random:
        pixels.checked_fill(np.dtype(image.dtype), fill)
    return _tiles(_Cut(image, plane, fill, random, seed, copy), tile, rows, cols)


class _Cut:
    """Cuts boxes out of one image, of whichever kind it is."""

    def __init__(
        self, image: Image, plane: Shape, fill: Any, random: bool, seed: int | None, copy: bool
    ) -> None:
        self.lazy = lazy.is_lazy(image)
        self.image = image
        self.whole = Box.at((0, 0), plane)
        self.fill, self.random, self.seed, self.copy = fill, random, seed, copy
        self._stats: Any = None

    def __call__(self, box: Box) -> Any:
        common = self.whole.intersection(box)
        if not self.lazy:
            return self._from_memory(box, common)
        inside = lazy.window(self.image, common or Box(0, 0, 0, 0))
        if common == box:
            return inside
        if self.random and common is not None:
            make = partial(fill_up, box=box, inside=common, fill="random", seed=self.seed)
            whole = inside.rechunk((-1, -1))
            meta = np.empty((0, 0), dtype=inside.dtype)
            return da.map_blocks(make, whole, chunks=box.shape, dtype=inside.dtype, meta=meta)
        if self.random:
            return lazy.crop_in_noise(lazy.as_lazy(self.image), box, self.stats, self.seed)
        if common is None:
            value = pixels.checked_fill(inside.dtype, self.fill)
            return da.full(box.shape, value, dtype=inside.dtype, chunks=box.shape)
        return lazy.crop(inside, box.shifted(-common.y0, -common.x0), self.fill)

    def _from_memory(self, box: Box, common: Box | None) -> NDArray[Any]:
        if common == box:
            view: NDArray[Any] = self.image[box.slices]
            return view.copy() if self.copy else view
        if self.random and common is None:
            return noise.noise_pixels(box, self.image.dtype, self.stats, self.seed)
        inside = common or Box(box.y0, box.x0, box.y0, box.x0)
        part = self.image[inside.slices] if common else np.empty((0, 0), self.image.dtype)
        return fill_up(part, box, inside, self.fill, self.seed)

    @property
    def stats(self) -> Any:
        """Statistics of the whole image: lazy for a lazy image, made once."""
        if self._stats is None:
            if self.lazy:
                self._stats = lazy.statistics(lazy.as_lazy(self.image))
            else:
                self._stats = Statistics.of(self.image)
        return self._stats


def _tiles(cut: _Cut, tile: Shape, rows: int, cols: int) -> Iterator[tuple[int, int, Any]]:
    for row in range(rows):
        for col in range(cols):
            yield row, col, cut(Box.at((row * tile[0], col * tile[1]), tile))


def fill_up(part: NDArray[Any], box: Box, inside: Box, fill: Any, seed: int | None) -> NDArray[Any]:
    """The tile ``box`` of which ``part`` are the pixels ``inside``; the rest is ``fill``."""
    if isinstance(fill, str):
        fill = noise.noise_pixels(box, part.dtype, Statistics.of(part), seed)
    return pixels.crop(part, box.shifted(-inside.y0, -inside.x0), fill)


def untile(tiles: Mapping[tuple[int, int], Any], shape: Shape | None = None) -> Any:
    """The image that tiles make up: lazy where a tile is, else in memory.

    Args:
        tiles: (row, column) to tile; a full grid from (0, 0), all of one size.
        shape: of the image; what reaches outside is cut off. None: of all tiles.

    Raises:
        InputError: where a tile is missing or of another size.
    """
    if not tiles:
        raise InputError("no tiles to put together")
    rows, cols = (max(key[axis] for key in tiles) + 1 for axis in (0, 1))
    missing = [(r, c) for r in range(rows) for c in range(cols) if (r, c) not in tiles]
    sizes = {tuple(t.shape) for t in tiles.values()}
    if missing or len(sizes) != 1:
        raise InputError(
            f"tiles do not make up a grid of {rows} x {cols}",
            [f"tile {key} is missing" for key in missing]
            + [f"tiles of {size} px" for size in sorted(sizes) if len(sizes) > 1],
        )
    grid = [[tiles[r, c] for c in range(cols)] for r in range(rows)]
    if any(lazy.is_lazy(t) for t in tiles.values()):
        whole = da.block([[lazy.as_lazy(t) for t in row] for row in grid])
    else:
        whole = np.block(grid)
    return whole if shape is None else whole[: shape[0], : shape[1]]
