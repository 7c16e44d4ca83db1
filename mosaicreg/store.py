"""Where an archive's objects lie: named pieces of bytes, each written whole.

A `Store` is all that the rest of the package knows of disks and object stores. It is cheap to
pickle and opens nothing before it is used. `open_store` is the one place where a path becomes one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Protocol

from mosaicreg.errors import StorageError
from mosaicreg.imagefile import Content, write_atomically
from mosaicreg.objects import ObjectPath, as_path


class Store(Protocol):
    """Objects by key (``"mosaicreg/zarr.json"``); anything with these members serves."""

    @property
    def name(self) -> str:
        """The last part of the address."""

    def __str__(self) -> str:
        """The address, for people; without credentials."""

    def zarr(self, read_only: bool = False) -> Any:
        """The same objects as a zarr store."""

    def exists(self) -> bool:
        """Whether there is anything at all."""

    def read(self, key: str) -> bytes | None:
        """The content of an object, or None where there is none."""

    def view(self, key: str) -> memoryview | None:
        """The same, not copied where it need not be, for as long as the view is kept.

        Raises:
            StorageError: where it is there but cannot be read.
        """

    def write(self, key: str, content: Content) -> None:
        """Make or replace an object; others see the old one or the whole new one.

        Raises:
            StorageError: where it cannot be written (no space, no permission).
        """

    def remove(self, key: str) -> None:
        """Remove an object, if it is there."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys of all objects whose key starts with ``prefix``, a whole number of parts."""

    def tidy(self, prefix: str) -> None:
        """Remove what writers that were killed left half written below ``prefix``."""

    def clear(self, prefix: str = "") -> None:
        """Remove all objects below ``prefix``."""


ZARR_2 = (".zgroup", ".zarray", ".zattrs", ".zmetadata")
"""Metadata of zarr v2: hidden files, and whole ones."""
Place = str | Path | ObjectPath | Store
"""What `open_store` takes."""


class _Pieces:
    """Content, and whether making it has failed: that is no failure of the store."""

    def __init__(self, content: Content) -> None:
        self.content, self.failed = content, False

    def __iter__(self) -> Iterator[bytes | memoryview]:
        content = self.content
        try:
            yield from (content,) if isinstance(content, bytes | memoryview) else content
        except Exception:
            self.failed = True
            raise


@dataclass(frozen=True)
class Folder:
    """A folder of a file system, which all workers see under the same path."""

    path: Path

    def __reduce__(self) -> Any:
        # Workers may stand in another folder than the process that names this one.
        return Folder, (self.path.absolute(),)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    def zarr(self, read_only: bool = False) -> Any:
        """A `zarr.storage.LocalStore`."""
        from zarr.storage import LocalStore

        return LocalStore(self.path, read_only=read_only)

    def exists(self) -> bool:
        """Whether there is a file, or anything in the folder."""
        if self.path.is_dir():
            return any(self.path.iterdir())
        return self.path.exists()

    def read(self, key: str) -> bytes | None:
        """The content of a file, or None."""
        try:
            return (self.path / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def view(self, key: str) -> memoryview | None:
        """A file mapped into memory, or None. One replaced here meanwhile is seen as it was."""
        path = self.path / key
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                return memoryview(mmap(file.fileno(), 0, access=ACCESS_READ) if size else b"")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error.strerror or error}") from error

    def write(self, key: str, content: Content) -> None:
        """Write beside, then rename: half a file never has the name of a whole one."""
        path, pieces = self.path / key, _Pieces(content)
        try:
            write_atomically(path, pieces)
        except OSError as error:
            if pieces.failed:
                raise
            raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error

    def remove(self, key: str) -> None:
        """Delete a file."""
        (self.path / key).unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        """Files, without those that are being written."""
        top = self.path / prefix
        for folder, _, files in os.walk(top):
            base = Path(folder).relative_to(self.path).as_posix()
            yield from (f"{base}/{f}" for f in files if not _is_half_written(f))

    def tidy(self, prefix: str) -> None:
        """Delete the hidden files that `write` and zarr write beside."""
        for folder, _, files in os.walk(self.path / prefix):
            for name in files:
                if _is_half_written(name):
                    (Path(folder) / name).unlink(missing_ok=True)

    def clear(self, prefix: str = "") -> None:
        """Delete the folder."""
        path = self.path / prefix
        if path.is_dir():
            shutil.rmtree(path)


def _is_half_written(name: str) -> bool:
    """Whether a file is one that `Folder.write` or zarr writes beside."""
    return name.endswith(".partial") or (name.startswith(".") and name not in ZARR_2)


@dataclass(frozen=True)
class Objects:
    """All objects under a prefix of an object store."""

    path: ObjectPath

    @property
    def name(self) -> str:
        """The last part of the prefix."""
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    def zarr(self, read_only: bool = False) -> Any:
        """A `zarr.storage.ObjectStore`."""
        return self.path.zarr(read_only)

    def exists(self) -> bool:
        """Whether there is any object."""
        return self.path.exists()

    def read(self, key: str) -> bytes | None:
        """The content of an object, or None."""
        try:
            return (self.path / key).read_bytes()
        except FileNotFoundError:
            return None

    def view(self, key: str) -> memoryview | None:
        """The content of an object, or None."""
        content = self.read(key)
        return None if content is None else memoryview(content)

    def write(self, key: str, content: Content) -> None:
        """Put an object: the store shows the old one or the whole new one."""
        path, pieces = self.path / key, _Pieces(content)
        try:
            write_atomically(path, pieces)
        except path.failures() as error:
            if pieces.failed:
                raise
            reason = str(error).partition("\n\nDebug source")[0]
            raise StorageError(f"{path} cannot be written: {reason}") from error

    def remove(self, key: str) -> None:
        """Remove an object."""
        (self.path / key).unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys of all objects below ``prefix``."""
        yield from (f"{prefix}/{key}" for key in (self.path / prefix).walk_keys())

    def tidy(self, prefix: str) -> None:
        """Nothing: objects are never half written."""

    def clear(self, prefix: str = "") -> None:
        """Remove them."""
        (self.path / prefix).clear()


def open_store(place: Place) -> Store:
    """The store at a path or an address; a store stays what it is."""
    if isinstance(place, str):
        place = as_path(place)
    if isinstance(place, Path):
        return Folder(place)
    return Objects(place) if isinstance(place, ObjectPath) else place
