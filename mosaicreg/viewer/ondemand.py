"""A layout as an archive whose chunks are computed when they are looked at.

The archive is real: a temporary folder with all metadata, into which chunks are written as they are
asked for. Level 0 is rendered in blocks of `BLOCK` px, each tile being decoded about once per
block; a chunk of a coarse level is the mean of its four finer ones, made first where they are
missing, so memory stays at a few chunks however much of the mosaic a chunk covers.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg import omezarr, shards
from mosaicreg.archive import store_layout
from mosaicreg.assembly import assemble
from mosaicreg.layout import Layout
from mosaicreg.mosaic import Mosaic
from mosaicreg.omezarr import Pyramid
from mosaicreg.report import centred
from mosaicreg.store import Folder

CHUNK = 512
BLOCK_LEVEL = 2
BLOCK = CHUNK << BLOCK_LEVEL
"""px of level 0 rendered at once: one chunk of level `BLOCK_LEVEL`."""
TILES_PER_CHUNK = 400
"""Levels whose chunks would need more tiles than about this are left out: an overview of a million
tiles would take hours. The page then cannot zoom out further."""
SAMPLES = 9
_CHUNK_FILE = re.compile(r"(\d+)/c/((?:\d+/)*)(\d+)/(\d+)", re.ASCII)


class OnDemand:
    """An archive of a layout that fills as it is read; safe to use from several threads.

    Args:
        mosaic, layout: the tiles and where they lie.
        folder: an empty folder that becomes the archive.
    """

    def __init__(self, mosaic: Mosaic, layout: Layout, folder: Path) -> None:
        self.image = assemble(mosaic, layout, block=BLOCK)
        self.folder = folder
        plan = Pyramid.plan(
            self.image.shape,
            mosaic.dtype,
            mosaic.axes,
            chunk=(CHUNK, CHUNK),
            shard=(CHUNK, CHUNK),
            pixel_size=mosaic.pixel_size,
            channels=mosaic.channels,
            name=mosaic.origin.removeprefix("from "),
        )
        self.plan = replace(plan, levels=min(plan.levels, _affordable(layout)))
        omezarr.create(folder, self.plan)
        store_layout(Folder(folder), layout, mosaic)
        omezarr.write_display(folder, self.plan, _display(mosaic))
        # Files do not tell: zarr writes none for a chunk of zeros.
        self._done: set[tuple[int, ...]] = set()
        self._locks: dict[Any, Lock] = {}
        self._master = Lock()

    def ensure(self, name: str) -> None:
        """Compute the chunk behind a path inside the archive, where it is one and is missing."""
        found = _CHUNK_FILE.fullmatch(name)
        if found is None:
            return
        level, row, col = int(found[1]), int(found[3]), int(found[4])
        plane = [int(k) for k in found[2].split("/")[:-1]]
        inside = level < self.plan.levels and len(plane) == len(self.plan.shape) - 2
        if not inside or any(k >= n for k, n in zip(plane, self.plan.shape, strict=False)):
            return
        rows, cols = self.plan.grid(level).grid_shape
        if row < rows and col < cols:
            self._make(level, tuple(plane), row, col)

    def _make(self, level: int, plane: tuple[int, ...], row: int, col: int) -> None:
        if (level, *plane, row, col) in self._done:
            return
        if level <= BLOCK_LEVEL:
            factor = BLOCK_LEVEL - level
            self._render(plane, row >> factor, col >> factor, coarse_only=level == BLOCK_LEVEL)
            return
        with self._lock((level, plane, row, col)):
            if (level, *plane, row, col) in self._done:
                return
            rows, cols = self.plan.grid(level - 1).grid_shape
            for y in range(2 * row, min(2 * row + 2, rows)):
                for x in range(2 * col, min(2 * col + 2, cols)):
                    self._make(level - 1, plane, y, x)
            shards.reduce_shard(self.folder, level, plane, self.plan.grid(level).box(row, col))
            self._done.add((level, *plane, row, col))

    def _render(
        self, plane: tuple[int, ...], row: int, col: int, coarse_only: bool = False
    ) -> None:
        """Render a block of level 0 and write the chunks that it makes, up to `BLOCK_LEVEL`."""
        # Where decoding a tile gives all its planes, all are drawn together.
        lead = tuple(
            0 if len(c) == 1 else k for c, k in zip(self.image.chunks[:-2], plane, strict=True)
        )
        levels = range(min(BLOCK_LEVEL + 1, self.plan.levels))
        wanted = levels[-1:] if coarse_only else levels
        with self._lock((lead, row, col)):
            if all((k, *plane, *self._first(k, row, col)) in self._done for k in wanted):
                return
            block: NDArray[Any] = self.image.blocks[(*lead, row, col)].compute(
                scheduler="synchronous"
            )
            for inner in np.ndindex(*block.shape[:-2]):
                pixels, at = block[inner], tuple(a + b for a, b in zip(lead, inner, strict=True))
                for level in levels:
                    if level:
                        pixels = shards.halve(pixels)
                    if level in wanted:
                        self._write(level, at, row * BLOCK >> level, col * BLOCK >> level, pixels)

    def _write(
        self, level: int, plane: tuple[int, ...], y0: int, x0: int, pixels: NDArray[Any]
    ) -> None:
        """Write the chunks of a level that ``pixels``, starting at (y0, x0) of it, cover."""
        height, width = pixels.shape
        for y in range(0, height, CHUNK):
            for x in range(0, width, CHUNK):
                part = pixels[y : y + CHUNK, x : x + CHUNK]
                at = (*plane, (y0 + y) // CHUNK, (x0 + x) // CHUNK)
                shards.write_shard(self.folder, level, at, part)
                self._done.add((level, *at))

    def _first(self, level: int, row: int, col: int) -> tuple[int, int]:
        """The first chunk of a level that a block covers."""
        return (row * BLOCK >> level) // CHUNK, (col * BLOCK >> level) // CHUNK

    def _lock(self, key: Any) -> Lock:
        with self._master:
            return self._locks.setdefault(key, Lock())


def _affordable(layout: Layout) -> int:
    """How many levels have chunks of not too many tiles."""
    area = float(np.median(layout.shapes.prod(axis=1)))
    sides = np.sqrt(TILES_PER_CHUNK * area) / CHUNK
    return max(BLOCK_LEVEL, int(np.log2(sides))) + 1


def _display(mosaic: Mosaic) -> list[tuple[float, float]]:
    """Black and white for each channel, from the middles of a few tiles; colour images whole."""
    at = mosaic.axes.find("c")
    if mosaic.channels[:3] == ("red", "green", "blue") and mosaic.dtype.kind == "u":
        return [(0.0, float(np.iinfo(mosaic.dtype).max))] * mosaic.leading[at]
    lead = tuple(
        slice(0, n if axis == "c" else 1)
        for axis, n in zip(mosaic.axes[:-2], mosaic.leading, strict=True)
    )
    parts = []
    for tile in np.unique(np.linspace(0, len(mosaic) - 1, SAMPLES).astype(np.int64)).tolist():
        height, width = (int(n) for n in mosaic.shapes[tile])
        middle = centred((height / 2, width / 2), CHUNK, (height, width))
        pixels = mosaic.source.read(tile, middle, lead)
        channels = pixels[None] if at < 0 else np.moveaxis(pixels, at, 0)
        parts.append(channels.reshape(len(channels), -1))
    ranges = []
    for values in np.concatenate(parts, axis=1):
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, (0.5, 99.8)) if known.size else (0.0, 1.0)
        ranges.append((float(low), float(max(high, low + 1e-6))))
    return ranges
