"""The journal of an archive: what is done, written down when it is done, inside the archive.

That a shard exists says little: it may be of an earlier job, cut short, or rightly absent. So every
result is entered here together with the digest of all that it depends on. A later run asks for the
same digest and finds the result, or nothing.

The journal is a log of small objects under ``mosaicreg/journal/log``, each written once and whole,
never changed: a store needs no append and no rename. Their names sort in the order of writing, and
later entries win. Many small ones are merged into one now and then; when the job is finished, all
are. To readers of zarr the journal is an empty array, so nobody looks for more inside it.

One process writes at a time. Objects that are damaged count as not written: their work is redone.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mosaicreg.store import Store

HOME = "mosaicreg/journal"
LOG = f"{HOME}/log"
MERGE = 500
"""So many small objects are merged into one."""
READERS = 8
"""Threads that read the log: on an object store each read waits for the network."""

Arrays = tuple[NDArray[Any], ...]


@dataclass
class Receipts:
    """Columns, one row per shard of a level.

    Args:
        keys: digest of all that the shard depends on.
        sizes: bytes in the store; 0 where none are needed, -1 where the shard is not done.
        crcs: CRC-32 of these bytes.
    """

    keys: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    crcs: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, dtype=np.uint32))

    def __len__(self) -> int:
        return len(self.keys)

    def grow(self, count: int) -> None:
        """Make room for ``count`` shards, the new ones not done."""
        more = count - len(self)
        if more > 0:
            self.keys = np.concatenate([self.keys, np.zeros(more, dtype=np.uint64)])
            self.sizes = np.concatenate([self.sizes, np.full(more, -1, dtype=np.int64)])
            self.crcs = np.concatenate([self.crcs, np.zeros(more, dtype=np.uint32)])

    def enter(self, numbers: NDArray[Any], keys: Any, sizes: Any, crcs: Any) -> None:
        """Set the rows ``numbers``."""
        self.grow(int(numbers.max(initial=-1)) + 1)
        self.keys[numbers], self.sizes[numbers], self.crcs[numbers] = keys, sizes, crcs

    def content_keys(self, numbers: NDArray[Any]) -> NDArray[np.uint64]:
        """For each of some shards, a number that stands for its bytes."""
        sizes, crcs = (column[numbers].astype(np.uint64) for column in (self.sizes, self.crcs))
        keys: NDArray[np.uint64] = (sizes << np.uint64(32)) | crcs
        return keys


class Journal:
    """What is done of a job, and of earlier ones on the same archive.

    Args:
        store: the archive.
        job: digest of the job that this process wants to do.
    """

    def __init__(self, store: Store, job: str = "") -> None:
        self.store, self.job = store, job
        self.recorded_job: str | None = None
        self.finished = False
        self.geometry: str | None = None
        self.damaged = 0
        self._results: dict[tuple[str, str], Any] = {}
        self._used: set[tuple[str, str]] = set()
        self._levels: dict[int, Receipts] = {}
        self._loose: dict[str, list[Any]] = {}
        self._begun = False
        self._run = f"{time.time_ns():020d}"
        self._count = 0
        self._load()

    # --- what is done ----------------------------------------------------------------------------

    @property
    def is_same_job(self) -> bool:
        """Whether the archive is that of this job, finished or not."""
        return self.recorded_job == self.job

    @property
    def is_finished(self) -> bool:
        """Whether this very job is finished."""
        return self.is_same_job and self.finished

    def recall(self, kind: str, key: str) -> Arrays | None:
        """The arrays remembered for ``key``, or None."""
        found = self._results.get((kind, key))
        if found is None:
            return None
        self._used.add((kind, key))
        return tuple(_decoded(a) for a in found)

    def receipts(self, level: int, count: int) -> Receipts:
        """The receipts of a level of ``count`` shards; they grow as shards are entered."""
        receipts = self._levels.setdefault(level, Receipts())
        receipts.grow(count)
        return receipts

    # --- writing it down -------------------------------------------------------------------------

    def begin(self) -> None:
        """Say that the archive is now that of this job, and is not finished. Once is enough."""
        if self._begun:
            return
        self._begun = True
        if not self.is_same_job or self.finished or self.recorded_job is None:
            self._write([["job", self.job, False]])

    def remember(self, kind: str, key: str, arrays: Sequence[NDArray[Any]]) -> None:
        """Keep arrays for ``key``."""
        self._used.add((kind, key))
        self._write([["result", kind, key, [_encoded(a) for a in arrays]]])

    def enter(self, level: int, rows: Iterable[tuple[int, int, int, int]]) -> None:
        """Enter shards as done: (number, key, size, crc) each."""
        columns = list(zip(*rows, strict=True))
        if columns:
            types = (np.int64, np.uint64, np.int64, np.uint32)
            arrays = [np.array(c, dtype=t) for c, t in zip(columns, types, strict=True)]
            self._write([["shards", level, [_encoded(a) for a in arrays]]])

    def forget_shards(self) -> None:
        """All shards are gone, or about to be."""
        self._write([["forget"]])

    def enter_geometry(self, geometry: str) -> None:
        """The empty levels of an archive of this ``geometry`` are there."""
        self._write([["geometry", geometry]])

    def finish(self) -> None:
        """The job is finished. The log becomes one object; results that nobody asked for go."""
        self.finished = True
        records: list[Any] = [["geometry", self.geometry]] if self.geometry else []
        for (kind, key), arrays in self._results.items():
            if (kind, key) in self._used:
                records.append(["result", kind, key, arrays])
        for level, r in self._levels.items():
            columns = (np.arange(len(r)), r.keys, r.sizes, r.crcs)
            records.append(["shards", level, [_encoded(a) for a in columns]])
        records.append(["job", self.job, True])
        old = list(self.store.keys(LOG))
        new = self._put(records)
        self._loose.clear()
        for key in old:
            if key != new:
                self.store.remove(key)

    # --- the log ---------------------------------------------------------------------------------

    def _write(self, records: list[Any]) -> None:
        for record in records:
            self._take(record)
        self._loose[self._put(records)] = records
        if len(self._loose) >= MERGE:
            merged = self._put([r for part in self._loose.values() for r in part])
            for key in self._loose:
                self.store.remove(key)
            self._loose.clear()
            assert merged not in self._loose

    def _put(self, records: list[Any]) -> str:
        key = f"{LOG}/{self._run}-{self._count:08d}.json"
        self._count += 1
        body = json.dumps(records, separators=(",", ":")).encode()
        self.store.write(key, b"%08x\n" % crc32(body) + body)
        return key

    def _load(self) -> None:
        keys = sorted(self.store.keys(LOG))
        if not keys:
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(READERS) as pool:
            for content in pool.map(self.store.read, keys):
                head, _, body = (content or b"").partition(b"\n")
                if head != b"%08x" % crc32(body):
                    self.damaged += 1
                    continue
                for record in json.loads(body):
                    self._take(record)
        # A clock that was set back must not put new entries before old ones.
        last = int(keys[-1].rsplit("/", 1)[1].split("-")[0])
        self._run = f"{max(int(self._run), last + 1):020d}"

    def _take(self, record: list[Any]) -> None:
        """Let one record of the log have its effect."""
        kind, *rest = record
        if kind == "job":
            self.recorded_job, self.finished = rest
        elif kind == "result":
            self._results[rest[0], rest[1]] = rest[2]
        elif kind == "shards":
            numbers, keys, sizes, crcs = (_decoded(a) for a in rest[1])
            self._levels.setdefault(rest[0], Receipts()).enter(numbers, keys, sizes, crcs)
        elif kind == "forget":
            self._levels.clear()
            self.geometry = None
        elif kind == "geometry":
            self.geometry = rest[0]


def digest(*parts: Any) -> str:
    """32 hex digits that stand for plain values, text, bytes and arrays."""
    return str(_hash(parts, 16).hexdigest())


def short_digest(*parts: Any) -> int:
    """The same as one number of 64 bit: enough to compare with an earlier one at the same place."""
    return int.from_bytes(_hash(parts, 8).digest(), "little")


def _hash(parts: tuple[Any, ...], size: int) -> Any:
    state = blake2b(digest_size=size)
    for part in parts:
        if isinstance(part, np.ndarray):
            content = np.ascontiguousarray(part)
            head, body = f"{content.dtype.str}{content.shape}".encode(), content.tobytes()
        elif isinstance(part, bytes):
            head, body = b"bytes", part
        else:
            head, body = b"value", repr(part).encode()
        state.update(b"%d %d " % (len(head), len(body)) + head)
        state.update(body)
    return state


def pack(value: Any) -> Arrays:
    """A frozen dataclass of arrays, numbers, None, and such dataclasses, as arrays.

    Columns of text are left out: they are given again when it is unpacked.
    """
    arrays: list[NDArray[Any]] = []
    shape: dict[str, Any] = {}
    for item in dataclasses.fields(value):
        part = getattr(value, item.name)
        if isinstance(part, np.ndarray) and part.dtype.kind == "T":
            continue
        if part is None:
            shape[item.name] = None
        elif dataclasses.is_dataclass(part):
            inner = pack(part)
            shape[item.name] = len(inner)
            arrays += inner
        else:
            shape[item.name] = "array" if isinstance(part, np.ndarray) else "number"
            arrays.append(np.asarray(part))
    head = np.frombuffer(json.dumps(shape).encode(), dtype=np.uint8)
    return head, *arrays


def unpack(kind: Any, arrays: Arrays, parts: dict[str, Any], **text: Any) -> Any:
    """The reverse of `pack`.

    Args:
        kind: class of the value.
        arrays: what `pack` returned.
        parts: class of each field that is a dataclass itself.
        text: the columns that were left out.
    """
    waiting = list(arrays[1:])
    values: dict[str, Any] = dict(text)
    for name, what in json.loads(bytes(arrays[0])).items():
        if what is None:
            values[name] = None
        elif isinstance(what, int):
            values[name] = unpack(parts[name], tuple(waiting[:what]), parts)
            del waiting[:what]
        else:
            array = waiting.pop(0)
            values[name] = array if what == "array" else array.item()
    return kind(**values)


def _encoded(array: NDArray[Any]) -> list[Any]:
    array = np.ascontiguousarray(array)
    return [array.dtype.str, list(array.shape), base64.b64encode(array.tobytes()).decode()]


def _decoded(encoded: list[Any]) -> NDArray[Any]:
    dtype, shape, text = encoded
    return np.frombuffer(base64.b64decode(text), dtype=np.dtype(dtype)).reshape(shape)
