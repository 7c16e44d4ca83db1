"""Where the pixels of tiles come from.

A `TileSource` is a numbered set of images of one dtype and one set of leading axes. It is cheap to
pickle, and `select` cuts it down to the few tiles that one task needs: no task carries the table of
all tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import ImageError
from mosaicreg.geometry import Box, IntArray
from mosaicreg.imagefile import read_image

Lead = tuple[slice, ...]
Names = NDArray[Any]
"""Column of text: a numpy array of ``StringDType``."""


class TileSource(Protocol):
    """Numbered tiles; anything with these members serves."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, native byte order."""

    @property
    def leading(self) -> tuple[int, ...]:
        """Lengths of the axes before y and x, the same for all tiles."""

    @property
    def interleaved(self) -> bool:
        """Whether all leading planes of a tile are best read together."""

    def __len__(self) -> int: ...

    def read(self, tile: int, box: Box, lead: Lead) -> NDArray[Any]:
        """Pixels of ``box`` of one tile as (leading..., y, x), one slice per leading axis."""

    def select(self, tiles: IntArray) -> TileSource:
        """A source of these tiles only, numbered from 0 in the order given."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Tiles that are arrays in memory, (leading..., y, x); made by `ArraySource.of`."""

    tiles: tuple[NDArray[Any], ...]
    dtype: np.dtype[Any]
    leading: tuple[int, ...]
    interleaved: bool = False

    @classmethod
    def of(cls, tiles: Sequence[NDArray[Any]]) -> ArraySource:
        """The source of these arrays.

        Raises:
            ValueError: where dtypes or leading axes differ, or there is no tile.
        """
        kinds = {(t.dtype, t.shape[:-2]) for t in tiles}
        if len(kinds) != 1 or any(t.ndim < 2 for t in tiles):
            raise ValueError(f"tiles must share one dtype and leading shape, these have {kinds}")
        return cls(tuple(tiles), *kinds.pop())

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, tile: int, box: Box, lead: Lead) -> NDArray[Any]:
        """A view of the pixels."""
        return self.tiles[tile][(*lead, *box.slices)]

    def select(self, tiles: IntArray) -> ArraySource:
        """These tiles only."""
        return replace(self, tiles=tuple(self.tiles[int(k)] for k in tiles))


@dataclass(frozen=True, eq=False)
class FileSource:
    """Tiles that are image files.

    Args:
        folder: what relative paths start from.
        paths: (n,) paths, a column of text.
    """

    folder: Path
    paths: Names
    dtype: np.dtype[Any]
    leading: tuple[int, ...]
    interleaved: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, tile: int) -> Path:
        """The file of one tile."""
        return self.folder / str(self.paths[tile])

    def read(self, tile: int, box: Box, lead: Lead) -> NDArray[Any]:
        """The pixels, read from the file.

        Raises:
            ImageError: where the file cannot be decoded, or is not what its header said.
        """
        path = self.path(tile)
        image = read_image(path, box, lead)
        if image.dtype != self.dtype or image.shape[-2:] != box.shape:
            raise ImageError(
                f"{path}: its pixels are {image.dtype} of shape {image.shape} where its header "
                f"promised {self.dtype} and {box.shape}; was it changed?"
            )
        return image

    def lies_in(self, folder: Path) -> bool:
        """Whether a tile is ``folder`` itself or lies somewhere in it."""
        place, own = folder.resolve(), self.folder.resolve()
        if place == own or place in own.parents:
            return True
        if own not in place.parents:
            return False
        inside = place.relative_to(own).as_posix()
        under = np.strings.startswith(self.paths, inside + "/")
        return bool((under | (self.paths == inside)).any())

    def select(self, tiles: IntArray) -> FileSource:
        """These tiles only."""
        return replace(self, paths=self.paths[tiles])
