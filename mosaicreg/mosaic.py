"""`Mosaic`: tiles and where the stage says that each one lies.

A mosaic is columns, not objects: names, positions and shapes are arrays, pixels stay in the source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mosaicreg.errors import InputError
from mosaicreg.geometry import (
    Box,
    FloatArray,
    IntArray,
    bounding_box,
    near_pairs,
    owned_boxes,
)
from mosaicreg.objects import AnyPath
from mosaicreg.source import ArraySource, FileSource, Names, TileSource

SEAM_SHARE = 0.3
"""Tiles are neighbours when their overlap is this long, as a share of the shorter tile's side."""
AXES = {2: "yx", 3: "cyx", 4: "czyx", 5: "tczyx"}
"""What the axes of an array stand for where nothing says so, by their number."""
CROWD = 225
"""More pairs per tile of tiles near each other (in one cell as large as the largest tile, or in two
that touch) mean that positions are not in pixels. In a grid, overlaps of 85 % make some 200."""


def as_names(values: Sequence[str] | NDArray[Any]) -> Names:
    """A column of text."""
    return np.array(list(values), dtype=np.dtypes.StringDType())


@dataclass(frozen=True, eq=False)
class Mosaic:
    """Tiles and where the stage says that each one lies. Immutable.

    Args:
        names: (n,) text, unique.
        positions: (n, 2) float64, (y, x) of each tile's first pixel, px.
        shapes: (n, 2) int64, (height, width) of each tile, px.
        source: the pixels.
        axes: of a tile, leading axes first: ``"yx"``, ``"cyx"``, ``"tczyx"``...
        pixel_size: (y, x) in micrometre, where known.
        channels: names of the channels, where known.
        origin: where the positions come from, in words.
        skipped: why tiles were left out, one sentence each.

    Raises:
        InputError: where columns do not fit each other, or positions are not finite.
    """

    names: Names
    positions: FloatArray
    shapes: IntArray
    source: TileSource
    axes: str = "yx"
    pixel_size: tuple[float, float] | None = None
    channels: tuple[str, ...] = ()
    origin: str = "given"
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.source)
        object.__setattr__(self, "names", as_names(self.names))
        object.__setattr__(self, "positions", np.array(self.positions, dtype=np.float64))
        object.__setattr__(self, "shapes", np.array(self.shapes, dtype=np.int64))
        if n == 0 or self.names.shape != (n,):
            raise InputError(f"a mosaic of {n} tiles needs as many names, not {len(self.names)}")
        if self.positions.shape != (n, 2) or self.shapes.shape != (n, 2):
            raise InputError(
                f"a mosaic of {n} tiles needs ({n}, 2) positions and shapes, "
                f"not {self.positions.shape} and {self.shapes.shape}"
            )
        if len(self.axes) != len(self.source.leading) + 2 or not self.axes.endswith("yx"):
            raise InputError(f"axes {self.axes!r} do not fit leading axes {self.source.leading}")
        bad = ~np.isfinite(self.positions).all(axis=1)
        if bad.any():
            raise InputError(
                "positions must be finite numbers",
                (f"tile {self.names[k]}: {self.positions[k]}" for k in np.flatnonzero(bad)),
            )
        for column in (self.names, self.positions, self.shapes):
            column.setflags(write=False)

    @classmethod
    def from_arrays(
        cls,
        tiles: Sequence[NDArray[Any]],
        positions: ArrayLike,
        names: Sequence[str] | None = None,
        **facts: Any,
    ) -> Mosaic:
        """A mosaic of arrays in memory, (leading..., y, x) each, at (n, 2) positions (y, x) px."""
        source = ArraySource.of(tiles)
        return cls(
            names=as_names(names or [f"tile {k}" for k in range(len(source))]),
            positions=np.asarray(positions, dtype=np.float64),
            shapes=np.array([t.shape[-2:] for t in tiles], dtype=np.int64),
            source=source,
            axes=facts.pop("axes", AXES.get(tiles[0].ndim, "")),
            **facts,
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return self.source.dtype

    @property
    def leading(self) -> tuple[int, ...]:
        """Lengths of the axes before y and x."""
        return self.source.leading

    @property
    def extent(self) -> tuple[int, int]:
        """(height, width) in px of the smallest mosaic that holds all tiles."""
        return bounding_box(owned_boxes(self.positions, self.shapes)).shape

    @property
    def nbytes(self) -> int:
        """Bytes of all tiles' pixels."""
        pixels = int(self.shapes.prod(axis=1).sum())
        return pixels * int(np.prod(self.leading, dtype=np.int64)) * self.dtype.itemsize

    @property
    def some_files(self) -> list[AnyPath]:
        """The first and the last tile's file; [] where tiles are not files."""
        if not isinstance(self.source, FileSource):
            return []
        return [self.source.path(k) for k in sorted({0, len(self) - 1})]

    @property
    def max_shift(self) -> int:
        """How far, in px per axis, a tile is looked for around the stage's word by default.

        A twentieth of the longest side, at least 16: stages err by a few percent of a tile, and a
        larger window gives chance more room.
        """
        return max(16, int(np.ceil(0.05 * int(self.shapes.max()))))

    def neighbours(self) -> IntArray:
        """(m, 2) tile numbers of the pairs worth registering, the lower number first, sorted.

        Two tiles whose overlap is as long as `SEAM_SHARE` of a side; for a tile without any such
        neighbour, also those that it shares a corner with.

        Raises:
            InputError: where tiles lie on each other in heaps.
        """
        return self._neighbours

    @cached_property
    def _neighbours(self) -> IntArray:
        """Checked for, planned with and registered: of a million tiles that takes seconds."""
        pairs = neighbour_pairs(self.positions, self.shapes)
        pairs.flags.writeable = False
        return pairs

    def reads_from(self, folder: AnyPath) -> bool:
        """Whether a tile's file is ``folder`` itself or lies in it."""
        return isinstance(self.source, FileSource) and self.source.lies_in(folder)

    def digest(self) -> str:
        """SHA-256 of the names, positions, shapes and kind of the tiles (not of their pixels)."""
        content = hashlib.sha256("\0".join(self.names.tolist()).encode())
        for column in (self.positions, self.shapes):
            content.update(np.ascontiguousarray(column).tobytes())
        content.update(f"{self.dtype.str} {self.axes} {self.leading}".encode())
        return content.hexdigest()

    def moved(self, positions: ArrayLike, origin: str) -> Mosaic:
        """The same tiles elsewhere."""
        return replace(self, positions=np.asarray(positions, dtype=np.float64), origin=origin)

    def __repr__(self) -> str:
        first = self.shapes[0]
        alike = bool((self.shapes == first).all())
        size = " x ".join(str(v) for v in first) if alike else "mixed sizes"
        lead = "".join(f"{a}={n} " for a, n in zip(self.axes, self.leading, strict=False))
        height, width = self.extent
        return (
            f"Mosaic: {len(self)} tiles of {size} px, {lead}{self.dtype}, "
            f"on {height} x {width} px; positions {self.origin}"
        )

    def _repr_html_(self) -> str:
        from mosaicreg.drawing import MAP_STYLE, PLAIN_COLOUR, tile_map
        from mosaicreg.tables import beside, table_html

        lead = {a: str(n) for a, n in zip(self.axes, self.leading, strict=False)}
        size = " to ".join(
            dict.fromkeys("{} x {}".format(*f(axis=0)) for f in (self.shapes.min, self.shapes.max))
        )
        table = table_html(
            f"Mosaic of {len(self)} tiles",
            {
                "tile (y, x)": f"{size} px",
                **lead,
                "type": str(self.dtype),
                "extent (y, x)": "{} x {} px".format(*self.extent),
                "pixel size (y, x)": f"{self.pixel_size} µm" if self.pixel_size else "unknown",
                "positions": self.origin,
            },
        )
        colours = [PLAIN_COLOUR] * len(self)
        boxes = owned_boxes(self.positions, self.shapes)
        return beside(tile_map(boxes, colours, lambda k: str(self.names[k]), MAP_STYLE), table)

    def plot(self, ax: Any | None = None) -> Any:
        """Draw the tiles where the stage says they lie; gives back the matplotlib axes.

        Raises:
            MissingExtraError: where matplotlib is not installed.
        """
        from mosaicreg.drawing import PLAIN_COLOUR
        from mosaicreg.plots import axes_for, draw_tiles

        ax = axes_for(ax)
        boxes = owned_boxes(self.positions, self.shapes)
        draw_tiles(ax, boxes, [PLAIN_COLOUR] * len(self))
        ax.set_title(f"{len(self)} tiles, positions {self.origin}")
        return ax

    def thumbnail(self, side: int = 512) -> NDArray[Any]:
        """All tiles in small, where the stage says they lie, one over the other; reads every tile.

        Args:
            side: the longer side of the result is at most this many px.

        Returns:
            (y, x) in the tiles' type: every so many-th pixel of the first plane of each tile.
        """
        boxes = owned_boxes(self.positions, self.shapes)
        canvas = bounding_box(boxes)
        step = max(1, -(-max(canvas.shape) // side))
        out = np.zeros([-(-n // step) for n in canvas.shape], dtype=self.dtype)
        lead = (slice(0, 1),) * len(self.leading)

        for tile, (y0, x0, y1, x1) in enumerate(boxes.tolist()):
            image = self.source.read(tile, Box(0, 0, y1 - y0, x1 - x0), lead)
            # The first pixels of the tile that fall on the coarse grid.
            y, x = (canvas.y0 - y0) % step, (canvas.x0 - x0) % step
            part = image.reshape(image.shape[-2:])[y::step, x::step]
            row, col = (y0 + y - canvas.y0) // step, (x0 + x - canvas.x0) // step
            out[row : row + part.shape[0], col : col + part.shape[1]] = part
        return out


def neighbour_pairs(positions: FloatArray, shapes: IntArray) -> IntArray:
    """The pairs of `Mosaic.neighbours` from bare columns."""
    pairs, overlap = overlapping_pairs(positions, shapes)
    long = seam_shares(pairs, overlap, shapes) >= SEAM_SHARE
    lonely = np.ones(len(positions), dtype=bool)
    lonely[pairs[long].ravel()] = False
    kept: IntArray = pairs[long | lonely[pairs].any(axis=1)]
    return kept


def overlapping_pairs(positions: FloatArray, shapes: IntArray) -> tuple[IntArray, FloatArray]:
    """All pairs of tiles that overlap.

    Returns:
        ``(pairs, overlap)``: (m, 2) tile numbers, the lower first, sorted; (m, 2) how high and wide
        the overlap is, px.

    Raises:
        InputError: where tiles lie on each other in heaps.
    """
    # Tiles that overlap lie in one cell as large as the largest tile, or in neighbouring cells.
    count, near = near_pairs(np.floor(positions / shapes.max(axis=0)))
    if count > CROWD * len(positions):
        raise InputError(
            f"some {2 * count // len(positions)} others lie about each tile: the positions put "
            "tiles in heaps; are they in pixels, and one for each tile?"
        )
    found, overlaps = [], []
    for pairs in near:
        first, second = pairs.T
        start = np.maximum(positions[first], positions[second])
        end = np.minimum(positions[first] + shapes[first], positions[second] + shapes[second])
        touching = (end > start).all(axis=1)
        found.append(pairs[touching])
        overlaps.append((end - start)[touching])
    pairs = np.concatenate([np.empty((0, 2), dtype=np.int64), *found])
    overlap = np.concatenate([np.empty((0, 2)), *overlaps])
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], overlap[order]


def seam_shares(pairs: IntArray, overlap: FloatArray, shapes: IntArray) -> FloatArray:
    """(m,) length of each pair's seam, as a share of the shorter tile's side."""
    shorter = np.minimum(shapes[pairs[:, 0]], shapes[pairs[:, 1]])
    shares: FloatArray = (overlap / shorter).max(axis=1)
    return shares
