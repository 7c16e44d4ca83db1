"""`cut_image`: an image file of any size into tile files, out of core; goes on where it stopped."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.cluster import Progress, delayed_call, run_tasks
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, TileGrid, as_pair
from mosaicreg.header import Header
from mosaicreg.imagefile import (
    native_block,
    read_header,
    read_image,
    write_atomically,
)
from mosaicreg.imagesave import ANY_TYPE, MOST_BITS, SUFFIXES, writer
from mosaicreg.mosaicfile import PositionTable, write_positions
from mosaicreg.pixels import checked_fill, crop
from mosaicreg.tifffiles import TIFF

PLAN = "cut.json"
"""File that says of what image and how the tiles in a folder were cut."""
POSITIONS = "positions.csv"
"""Where each tile lies, written last."""
BLOCK = 4096
"""Side in px, about, of the part of the image that one task reads and cuts."""


@dataclass(frozen=True)
class Cut:
    """An image, and the tiles to cut it into.

    Args:
        image: path of the image.
        folder: of the tiles.
        header: of the image.
        grid: of the tiles, over the plane.
        suffix: of the tile files, which names their format.
        fill: of pixels that last tiles have outside the image; None leaves those tiles smaller.
    """

    image: Path
    folder: Path
    header: Header
    grid: TileGrid
    suffix: str
    fill: float | None

    def name(self, row: int, col: int) -> str:
        """Of a tile's file; sorted by name, tiles are sorted by row and column."""
        digits = max(3, len(str(max(self.grid.grid_shape) - 1)))
        return f"r{row:0{digits}d}_c{col:0{digits}d}{self.suffix}"

    def facts(self) -> dict[str, Any]:
        """What decides the tiles' content."""
        stat = self.image.stat()
        return {
            "image": str(self.image.resolve()),
            "stamp": [stat.st_size, stat.st_mtime_ns],
            "tile": list(self.grid.tile),
            "suffix": self.suffix,
            "fill": self.fill,
        }

    def blocks(self) -> Iterator[list[tuple[int, int]]]:
        """Tiles (row, column) of each task: whole tiles, about `BLOCK` px a side.

        Rows or columns that a file only gives together stay together, so that each part of the file
        is decoded about once.
        """
        rows, cols = self.grid.grid_shape
        units = native_block(self.image)
        area = BLOCK * BLOCK
        for unit, length in zip(units, self.grid.shape, strict=True):
            area //= max(1, length) if unit is None else 1
        side = BLOCK if None not in units else area  # long strips: fewer at a time
        counts = [
            count if unit is None else max(1, max(side, unit) // tile)
            for unit, tile, count in zip(units, self.grid.tile, (rows, cols), strict=True)
        ]
        for top in range(0, rows, counts[0]):
            for left in range(0, cols, counts[1]):
                yield [
                    (row, col)
                    for row in range(top, min(top + counts[0], rows))
                    for col in range(left, min(left + counts[1], cols))
                ]


def cut_image(
    image: str | Path,
    folder: str | Path,
    *,
    tile: int | tuple[int, int] = 1024,
    suffix: str = ".tif",
    fill: float | None = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Cut:
    """Cut an image file into tile files, and say where they lie in ``positions.csv``.

    One task reads a block of the image and writes its tiles, so memory does not grow with the
    image where the file can be read in parts (zarr, tiled or striped TIFF, ``.npy``). A run that
    was stopped goes on when it is called again. Runs on the dask scheduler in effect.

    Args:
        image: any image that mosaicreg reads, zarr arrays and OME-Zarr included.
        folder: for the tiles; made where it does not exist.
        tile: (height, width) or one number, px.
        suffix: format of the tiles, ``.tif``, ``.png``, ``.npy``, ...
        fill: of what the last row and column of tiles have outside the image; None: those tiles
            are smaller instead.
        overwrite: delete tiles of another image or grid that are there.
        progress: called with (stage, done, total).

    Raises:
        InputError: where the folder holds other things, or the format cannot hold the pixels.
        ImageError: where the image cannot be read.
    """
    path, target = Path(image), Path(folder)
    header = read_header(path, any_type=True)
    grid = TileGrid(header.plane, as_pair(tile, "tile"))
    cut = Cut(path, target, header, grid, suffix.lower(), fill)
    _check(cut)
    _claim(cut, overwrite)
    there = {p.name for p in target.iterdir()}
    missing = [
        block
        for block in cut.blocks()
        if not all(cut.name(row, col) in there for row, col in block)
    ]
    tasks = (delayed_call(_cut_block, cut, block) for block in missing)
    run_tasks(tasks, "cut", progress, total=len(missing))
    _write_positions(cut)
    return cut


def _check(cut: Cut) -> None:
    """Everything that can be known to fail."""
    header, suffix = cut.header, cut.suffix
    if suffix not in SUFFIXES:
        raise InputError(f"tiles are written as {', '.join(SUFFIXES)}, not {suffix!r}")
    if cut.fill is not None:
        checked_fill(header.dtype, cut.fill)
    if suffix in ANY_TYPE:
        return
    planes = prod(header.shape[:-2])
    whole = header.dtype.kind in "ub" and 8 * header.dtype.itemsize <= MOST_BITS[suffix]
    if planes != 1 or not whole:
        raise InputError(
            f"{suffix} holds one grey plane of up to {MOST_BITS[suffix]} bits, and {cut.image} has "
            f"{planes} of {header.dtype}; choose one of {', '.join(ANY_TYPE)}"
        )


def _claim(cut: Cut, overwrite: bool) -> None:
    """Make the folder this cut's own, or see that it is."""
    folder, facts = cut.folder, cut.facts()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; tiles need a folder")
    if folder.resolve() == cut.image.resolve() or cut.image.resolve() in folder.resolve().parents:
        raise InputError(f"{folder} is a part of the image itself; tiles need another folder")
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / PLAN
    if plan.is_file() and _read_plan(plan) == facts:
        return
    others = [p for p in folder.iterdir() if p.resolve() != cut.image.resolve()]
    if others and not overwrite:
        raise InputError(
            f"{folder} is not empty, and not what an earlier run of this cut left; choose another "
            "folder, or replace the tiles in it with --overwrite"
        )
    for old in others:
        if re.fullmatch(r"r\d{3,}_c\d{3,}\.\w+", old.name) and old.is_file():
            old.unlink()
    (folder / POSITIONS).unlink(missing_ok=True)
    write_atomically(plan, json.dumps(facts, indent=1).encode())


def _read_plan(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _cut_block(cut: Cut, tiles: list[tuple[int, int]]) -> None:
    """Read the part of the image that these tiles cover, and write them."""
    boxes = [cut.grid.box(row, col) for row, col in tiles]
    first, last = boxes[0], boxes[-1]
    window = Box(first.y0, first.x0, last.y1, last.x1)
    pixels = read_image(cut.image, window)
    write, options = writer(cut.suffix), {}
    if cut.suffix in TIFF and pixels.ndim > 2:
        axes = cut.header.axes.upper()
        options = {"photometric": "minisblack", "metadata": {"axes": axes}}
    for (row, col), box in zip(tiles, boxes, strict=True):
        own = box.shifted(-window.y0, -window.x0)
        write(cut.folder / cut.name(row, col), _filled(pixels, own, cut), **options)


def _filled(pixels: NDArray[Any], own: Box, cut: Cut) -> NDArray[Any]:
    """One tile out of (leading..., y, x) pixels, of full size unless it is to stay smaller."""
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    shape = own.shape if cut.fill is None else cut.grid.tile
    box = Box.at((own.y0, own.x0), shape)
    # What lies right of and below this tile in the block belongs to other tiles.
    tiles = [crop(p[: own.y1, : own.x1], box, cut.fill or 0) for p in planes]
    stacked: NDArray[Any] = np.stack(tiles).reshape(*pixels.shape[:-2], *shape)
    return stacked if cut.suffix in ANY_TYPE else stacked.reshape(shape)


def _write_positions(cut: Cut) -> None:
    rows, cols = cut.grid.grid_shape
    keys = [(row, col) for row in range(rows) for col in range(cols)]
    corners = np.array(keys, dtype=np.float64).reshape(-1, 2) * cut.grid.tile
    table = PositionTable([cut.name(row, col) for row, col in keys], corners)
    shapes = np.broadcast_to(np.array(cut.grid.tile), corners.shape)
    write_positions(cut.folder / POSITIONS, table, shapes)
