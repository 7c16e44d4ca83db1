"""Where the pixels of tiles come from.

A `TileSource` is a numbered set of images of one dtype and one set of leading axes. It is cheap to
pickle, and `select` cuts it down to the few tiles that one task needs: no task carries the table of
all tiles.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from stat import S_ISDIR
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import ImageError
from mosaicreg.geometry import Box, IntArray
from mosaicreg.imagefile import read_image
from mosaicreg.journal import short_digest
from mosaicreg.machine import promptly
from mosaicreg.objects import AnyPath, ObjectPath, parents_of

STAT_THREADS = 8
"""Looking at a file's size and time mostly waits on a network disk."""
AT_ONCE, SLACK = 1e-4, 5e-3
"""Seconds for one look that waits for nothing, and for all of them beyond that."""
LOOKS = 8
"""Files that are looked at without a break: a stop waits for no more."""

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


@runtime_checkable
class Stamped(Protocol):
    """A source that can tell whether its tiles have changed since an earlier run."""

    def stamps(self) -> NDArray[np.uint64]:
        """(n,) numbers; that of a tile changes when its pixels do, and in no other process."""


def stamps_of(source: TileSource) -> NDArray[np.uint64]:
    """(n,) numbers that stand for the tiles' pixels.

    A source that cannot tell gets new ones each time: nothing of an earlier run is then reused.
    """
    if isinstance(source, Stamped):
        return source.stamps()
    return np.random.default_rng().integers(0, 2**63, len(source)).astype(np.uint64)


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

    def stamps(self) -> NDArray[np.uint64]:
        """Digests of the pixels."""
        return np.array([short_digest(tile) for tile in self.tiles], dtype=np.uint64)

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

    folder: AnyPath
    paths: Names
    dtype: np.dtype[Any]
    leading: tuple[int, ...]
    interleaved: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, tile: int) -> AnyPath:
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

    def stamps(self) -> NDArray[np.uint64]:
        """Digests of each file's path here, size and time of last change (ns).

        Not of its content: every program that changes a file changes its time, so no change is
        missed, at the cost of one look at the folder for each file. A copy with a new time counts
        as changed: that costs work, never correctness. Of objects, the store's tag of the content
        stands for the time, and listings of a thousand serve all.
        """
        folder = self.folder
        if isinstance(folder, ObjectPath):
            return self._object_stamps(folder)

        def stamps(names: Names) -> list[int]:
            try:
                return [short_digest(name, _looks(Path(folder, name))) for name in names.tolist()]
            except OSError as error:
                reason = f"unreadable ({error.strerror or error})"
                raise ImageError(f"{error.filename}: {reason}") from error

        parts = [self.paths[k : k + LOOKS] for k in range(0, len(self), LOOKS)]
        found = chain.from_iterable(promptly(stamps, parts, AT_ONCE, SLACK, STAT_THREADS))
        return np.array(list(found), dtype=np.uint64)

    def _object_stamps(self, folder: ObjectPath) -> NDArray[np.uint64]:
        names = [str(p) for p in self.paths]
        top = posixpath.commonpath([posixpath.dirname(f"/{n}") for n in names])[1:]
        looks: dict[str, list[tuple[str, int, str]]] = {name: [] for name in names}
        for key, (size, tag) in (folder / top).looks().items():
            key = posixpath.join(top, key)
            for name in {key, *parents_of(key)} & looks.keys():  # a zarr image is many objects
                looks[name].append((key[len(name) :], size, tag))
        for name, found in looks.items():
            if not found:
                raise ImageError(f"{folder / name}: there is no such file")
        stamps = [short_digest(name, sorted(looks[name])) for name in names]
        return np.array(stamps, dtype=np.uint64)

    def lies_in(self, folder: AnyPath) -> bool:
        """Whether a tile is ``folder`` itself or lies somewhere in it."""
        place: Any = folder.resolve()
        own: Any = self.folder.resolve()
        if type(place) is not type(own):
            return False
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


def _looks(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of a file, or of all files of a folder (a zarr image)."""
    about = path.stat()
    if not S_ISDIR(about.st_mode):
        return [("", about.st_size, about.st_mtime_ns)]
    found = []
    for folder, _, files in os.walk(path):
        for name in files:
            one = Path(folder, name)
            about = one.stat()
            found.append((one.relative_to(path).as_posix(), about.st_size, about.st_mtime_ns))
    return sorted(found)
