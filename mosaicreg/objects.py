"""Files in object stores: `s3://bucket/key` where the rest of the package has a `Path`.

An `ObjectPath` has the members of `pathlib.Path` that reading tiles and position files takes, so
the same code serves both. It holds an address and nothing else: credentials come from the
environment or from ``~/.aws`` of each process that reads, and are in no object, log or pickle.
"""

from __future__ import annotations

import io
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import InputError, StorageError, missing_extra

RETRIES = {
    "max_retries": 30,
    "retry_timeout": timedelta(minutes=3),
    "backoff": {
        "base": 2,
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=10),
    },
}
"""Requests that fail for a passing reason are sent again for three minutes: outages of a store or a
network of that length do not end a run."""
TIMEOUTS = {"connect_timeout": "10s", "timeout": "120s"}
"""Of one request, to connect and as a whole."""
BUFFER = 1 << 16
"""Bytes that header readers fetch at a time."""


@dataclass(frozen=True)
class ObjectPath:
    """An object, or all objects under a common prefix.

    Args:
        bucket: e.g. ``"s3://bucket"``.
        key: parts with slashes between; ``""`` is the bucket itself.
        kind: ``"file"`` or ``"folder"`` where a listing has told it already.
    """

    bucket: str
    key: str = ""
    kind: str = field(default="", compare=False, repr=False)

    @classmethod
    def parse(cls, address: str) -> ObjectPath:
        """The path at an address.

        Raises:
            InputError: where it is no ``s3://bucket/key``, or holds a password.
        """
        parts = urlsplit(address)
        if "@" in parts.netloc:
            raise InputError(
                f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}: an address holds no "
                "credentials; they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "from ~/.aws"
            )
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise InputError(f"{address.split('?')[0]}: object stores are s3://bucket/folder")
        key = posixpath.normpath(parts.path.lstrip("/")) if parts.path.strip("/") else ""
        return cls(f"s3://{parts.netloc}", key)

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def __truediv__(self, other: str | Path) -> ObjectPath:
        key = posixpath.normpath(posixpath.join(self.key, str(other)))
        if key.startswith(("/", "..")):
            raise InputError(f"{other} leads out of {self.bucket}")
        return ObjectPath(self.bucket, "" if key == "." else key)

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.key) or self.bucket.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return posixpath.splitext(self.key)[1]

    @property
    def parent(self) -> ObjectPath:
        """Without the last part."""
        return ObjectPath(self.bucket, posixpath.dirname(self.key), "folder")

    @property
    def parents(self) -> list[ObjectPath]:
        """All that it lies in, the nearest first."""
        found: list[ObjectPath] = []
        path = self
        while path.key:
            path = path.parent
            found.append(path)
        return found

    def resolve(self) -> ObjectPath:
        """Itself: addresses are absolute."""
        return self

    absolute = resolve

    def relative_to(self, folder: ObjectPath) -> Path:
        """The part after ``folder``."""
        return Path(posixpath.relpath(self.key or ".", folder.key or "."))

    def is_file(self) -> bool:
        """Whether there is an object of this very key."""
        return self._size() is not None if not self.kind else self.kind == "file"

    def is_dir(self) -> bool:
        """Whether there are objects under it."""
        if self.kind:
            return self.kind == "folder"
        try:
            return next(self._pages(chunk=1), None) is not None
        except FileNotFoundError:  # there is no such bucket
            return False

    def exists(self) -> bool:
        """Whether there is an object, or objects under it."""
        return self.is_file() or self.is_dir()

    def stat(self) -> os.stat_result:
        """Its size; nothing else of it is known.

        Raises:
            FileNotFoundError: where there is no such object.
        """
        size = self._size()
        if size is None:
            raise FileNotFoundError(f"{self}: there is no such object")
        return os.stat_result((0, 0, 0, 0, 0, 0, size, 0, 0, 0))

    def iterdir(self) -> Iterator[ObjectPath]:
        """What lies directly in it."""
        obstore = _obstore()
        with _asking(self):
            listed = obstore.list_with_delimiter(_store(self.bucket), self._prefix or None)
        for prefix in listed["common_prefixes"]:
            yield ObjectPath(self.bucket, str(prefix).strip("/"), "folder")
        for entry in listed["objects"]:
            if str(entry["path"]) != self.key:
                yield ObjectPath(self.bucket, str(entry["path"]), "file")

    def walk_keys(self) -> Iterator[str]:
        """Keys of all objects in it, relative to it."""
        for page in self._pages():
            for entry in page:
                yield str(entry["path"])[len(self._prefix) :]

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """What in it matches; ``*`` stays within one part, ``**`` does not."""
        matches = re.compile(_glob_expression(pattern)).fullmatch
        folders: set[str] = set()
        for key in self.walk_keys():
            folders.update(parents_of(key) - folders)
            if matches(key):
                yield ObjectPath(self.bucket, self._prefix + key, "file")
        for key in folders:
            if matches(key):
                yield ObjectPath(self.bucket, self._prefix + key, "folder")

    def open(self, mode: str = "rb") -> BinaryIO:
        """A file to read ranges from; what is read is fetched, in pieces of `BUFFER`."""
        assert mode == "rb"
        return io.BufferedReader(_Reader(self, self.stat().st_size), BUFFER)

    def read_range(self, start: int, end: int) -> bytes:
        """Bytes from ``start`` to before ``end``."""
        obstore = _obstore()
        if end <= start:
            return b""
        return bytes(obstore.get_range(_store(self.bucket), self.key, start=start, end=end))

    def read_array(
        self,
        offset: int,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        rows: tuple[int, int] | None = None,
    ) -> NDArray[Any]:
        """An array that lies in it as it is; only those rows of its first axis that are asked for.

        Args:
            offset: bytes before it.
            rows: half-open.
        """
        line = prod(shape[1:]) * dtype.itemsize
        first, last = rows or (0, shape[0])
        content = self.read_range(offset + first * line, offset + last * line)
        return np.frombuffer(content, dtype).reshape(last - first, *shape[1:])

    def read_bytes(self) -> bytes:
        """All of it, by one request.

        Raises:
            FileNotFoundError: where there is no such object.
        """
        obstore = _obstore()
        return bytes(obstore.get(_store(self.bucket), self.key).bytes())

    def looks(self) -> dict[str, tuple[int, str]]:
        """Size, and the store's tag of the content, of every object in it by key from here."""
        found = {}
        for page in self._pages():
            for entry in page:
                tag = str(entry["e_tag"] or entry["last_modified"])
                found[str(entry["path"])[len(self._prefix) :]] = (int(entry["size"]), tag)
        return found

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of it as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes | memoryview) -> None:
        """Make or replace it; others see the old one or the whole new one."""
        obstore = _obstore()
        obstore.put(_store(self.bucket), self.key, bytes(content))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove it, if it is there."""
        obstore = _obstore()
        try:
            obstore.delete(_store(self.bucket), self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def clear(self) -> None:
        """Remove all objects in it."""
        obstore = _obstore()
        for page in self._pages():
            obstore.delete(_store(self.bucket), [str(entry["path"]) for entry in page])

    @staticmethod
    def failures() -> tuple[type[Exception], ...]:
        """What requests raise that the store refused, or that were retried in vain."""
        from obstore.exceptions import BaseError

        return BaseError, OSError

    def zarr(self, read_only: bool = False) -> Any:
        """The objects in it as a zarr store."""
        from zarr.storage import ObjectStore

        return ObjectStore(_store(self.bucket, self.key), read_only=read_only)

    @property
    def _prefix(self) -> str:
        return f"{self.key}/" if self.key else ""

    def _size(self) -> int | None:
        obstore = _obstore()
        if not self.key:
            return None
        try:
            with _asking(self):
                return int(obstore.head(_store(self.bucket), self.key)["size"])
        except FileNotFoundError:
            return None

    def _pages(self, chunk: int = 1000) -> Iterator[Any]:
        obstore = _obstore()
        with _asking(self):
            yield from obstore.list(_store(self.bucket), self._prefix or None, chunk_size=chunk)


AnyPath = Path | ObjectPath
"""A file or folder, on a disk or in an object store."""


def as_path(place: str | Path | ObjectPath) -> AnyPath:
    """The path that a word stands for: an address where it has ``://``, else one of a disk."""
    if isinstance(place, str):
        return ObjectPath.parse(place) if "://" in place else Path(place)
    return place


def seen_from(folder: AnyPath, path: AnyPath) -> str | None:
    """The way from a folder to a path, with forward slashes; None where no way leads there."""
    if isinstance(folder, Path) and isinstance(path, Path):
        return os.path.relpath(path.resolve(), folder.resolve()).replace(os.sep, "/")
    if not isinstance(folder, ObjectPath) or not isinstance(path, ObjectPath):
        return None
    if folder.bucket != path.bucket:
        return None
    return posixpath.relpath(f"/{path.key}", f"/{folder.key}")


def parents_of(key: str) -> set[str]:
    """Keys of all folders that a key lies in."""
    parts = key.split("/")[:-1]
    return {"/".join(parts[: k + 1]) for k in range(len(parts))}


def _glob_expression(pattern: str) -> str:
    """A glob as a regular expression for keys."""
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    return "".join(wild.get(p, p if re.match(r"\[.+\]$", p) else re.escape(p)) for p in parts)


class _Reader(io.RawIOBase):
    """An object as an unbuffered file."""

    def __init__(self, path: ObjectPath, size: int) -> None:
        self.name, self._path, self._size, self._at = path.name, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        content = self._path.read_range(self._at, end)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise missing_extra("obstore", "s3", "an object store (s3://...)") from None
    return obstore


@contextmanager
def _asking(path: ObjectPath) -> Iterator[None]:
    """Requests about a path: what the store refuses, or does not answer, is said for people."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        if isinstance(error, FileNotFoundError):
            raise
        reason = str(error).partition("\n\nDebug source")[0]
        raise StorageError(f"{path}: the object store says: {reason}") from error


@lru_cache(maxsize=64)
def _store(bucket: str, prefix: str = "") -> Any:
    """The connection of this process to a bucket."""
    from obstore.store import S3Store

    options: dict[str, Any] = dict(TIMEOUTS)
    profile = _profile()
    endpoint = profile.pop("endpoint", None) or os.environ.get(
        "AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT"))
    )
    if endpoint is not None:
        profile["endpoint"] = endpoint
        options["allow_http"] = endpoint.startswith("http://")
    return S3Store(
        urlsplit(bucket).netloc,
        prefix=prefix or None,
        client_options=cast(Any, options),
        retry_config=cast(Any, RETRIES),
        **profile,
    )


def _profile() -> dict[str, Any]:
    """Keys, region and endpoint of the profile in ``~/.aws``, where the environment has no keys.

    obstore itself reads the environment, and asks the machine for its role where that has none.
    """
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    name = os.environ.get("AWS_PROFILE", "default")
    home = Path.home() / ".aws"
    import configparser

    files = configparser.ConfigParser(interpolation=None)
    files.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", home / "credentials"))
    found = dict(files[name]) if name in files else {}
    files.read(os.environ.get("AWS_CONFIG_FILE", home / "config"))
    for section in (f"profile {name}", name):
        if section in files:
            found |= dict(files[section])
    names = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
        "region": "region",
        "endpoint_url": "endpoint",
    }
    if "AWS_PROFILE" in os.environ and "aws_access_key_id" not in found:
        raise InputError(
            f"the AWS profile {name} holds no keys; put short-lived ones into the environment: "
            f'eval "$(aws configure export-credentials --profile {name} --format env)"'
        )
    return {ours: found[theirs] for theirs, ours in names.items() if theirs in found}
