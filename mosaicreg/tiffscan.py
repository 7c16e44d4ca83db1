"""Headers of many TIFF files that are alike: `tifffile` judges one, the others by comparison.

A microscope writes thousands of files whose headers differ in nothing but where the pixels lie and
when they were taken. `scan` reads all that a file's only directory says, and leaves alone whatever
is not plain: several pages, tags that point elsewhere, values out of place. Two files whose `Scan`
has one ``key`` have one `Header`. What the commonest files of all say needs no judge: see
`grey_image`.
"""

from __future__ import annotations

import os
import struct
from math import prod
from operator import add, eq
from typing import Any, NamedTuple

import numpy as np

HEAD = 4096
"""Bytes read at once: most writers put all that is asked for here."""
MOST_TAGS, MOST_BYTES = 64, 1 << 20
"""A directory of more tags, or a tag of more bytes, is not plain."""

_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _DATE = 273, 279, 324, 325, 306
_FREE = frozenset((_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES, _DATE))
"""Tags whose values say nothing about the image: where its pixels lie, and when it was taken."""
_PLAIN = frozenset(range(254, 340)) - {288, 289, 330}
"""Tags of TIFF 6.0 that hold plain values: all but those that point to other places in the file."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8, 17: 8}
_CODES = {3: "H", 4: "I", 16: "Q"}
_WIDTH, _HEIGHT, _BITS, _FORMAT, _DESCRIPTION, _SOFTWARE = 256, 257, 258, 339, 270, 305
_ORDINARY = {254: 0, 259: 1, 262: 1, 266: 1, 277: 1, 284: 1, 317: 1}
"""Tags of numbers, all optional, and what they are in a whole, grey, uncompressed image."""
_SILENT = frozenset((_STRIPS, _STRIP_BYTES, _DATE, 278, 282, 283, 296))
"""Tags that change nothing about such an image: rows per strip and resolution, too."""
_WRITER = b"tifffile.py"
"""Other programs may mean something by what they write into tags of text."""
_TYPES = {(1, 8): "u1", (1, 16): "u2", (2, 8): "i1", (2, 16): "i2", (3, 32): "f4", (3, 64): "f8"}
"""By sample format and bits."""


class Scan(NamedTuple):
    """What the directory of a TIFF file of one page says.

    Args:
        key: all that the image depends on; equal for files that are alike.
        offsets, counts: where each strip or tile lies in the file, bytes.
        size: of the file, bytes.
    """

    key: tuple[Any, ...]
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    size: int

    @property
    def end(self) -> int:
        """Where the last of the pixels end in the file."""
        end: int = max(map(add, self.offsets, self.counts))
        return end

    @property
    def unbroken(self) -> int:
        """Bytes of the pixels where these lie one after the other, else 0."""
        ends = map(add, self.offsets, self.counts)
        return sum(self.counts) if all(map(eq, ends, self.offsets[1:])) else 0


def scan(path: str) -> Scan | None:
    """What the file says; None where anything about it is not plain, or it cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            return _scan(handle)
        finally:
            os.close(handle)
    except (OSError, struct.error):
        return None


def _scan(handle: int) -> Scan | None:
    head = os.read(handle, HEAD)
    size = os.fstat(handle).st_size

    def part(start: int, count: int) -> bytes:
        """``count`` bytes of the file."""
        if start + count <= len(head):
            return head[start : start + count]
        # What lies behind the end is not there, and then its reader fails.
        os.lseek(handle, start, os.SEEK_SET)
        return os.read(handle, count) if start + count <= size else b""

    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return None
    version = struct.unpack_from(order + "H", head, 2)[0]
    if version == 42:
        (start,), number, entry, word = struct.unpack_from(order + "I", head, 4), "H", "HHI4s", "I"
    elif version == 43 and head[4:8] == struct.pack(order + "HH", 8, 0):
        (start,), number, entry, word = struct.unpack_from(order + "Q", head, 8), "Q", "HHQ8s", "Q"
    else:
        return None
    first = struct.calcsize(order + number)
    count = struct.unpack(order + number, part(start, first))[0]
    if not 0 < count <= MOST_TAGS or start < 8:
        return None
    room, width = struct.calcsize(order + word), struct.calcsize(order + entry)
    directory = part(start + first, count * width + room)
    if directory[count * width :] != bytes(room):  # another page follows, or the file ends here
        return None
    # A classic file beyond 4 GB is read in ways of its own.
    key: list[Any] = [head[:4], size >> 32]
    free: dict[int, tuple[int, ...]] = {}
    last = 0
    for code, kind, length, value in struct.iter_unpack(order + entry, directory[:-room]):
        bytes_ = _SIZES.get(kind, MOST_BYTES + 1) * length
        if code not in _PLAIN or code <= last or not 0 < bytes_ <= MOST_BYTES:
            return None
        last = code
        if bytes_ > room:
            place = struct.unpack(order + word, value)[0]
            value = part(place, bytes_)
            if len(value) != bytes_ or place < 8:
                return None
        if code not in _FREE:
            key.append((code, kind, length, value[:bytes_]))
            continue
        key.append((code, kind, length))
        if code != _DATE:
            free[code] = struct.unpack_from(f"{order}{length}{_CODES[kind]}", value)
    tiled = _TILES in free
    if set(free) != ({_TILES, _TILE_BYTES} if tiled else {_STRIPS, _STRIP_BYTES}):
        return None
    offsets, counts = free.values()
    if len(offsets) != len(counts) or not (all(offsets) and all(counts)):
        return None
    return Scan(tuple(key), offsets, counts, size)


def grey_image(found: Scan) -> tuple[tuple[int, int], np.dtype[Any]] | None:
    """(height, width) and type, in the file's byte order, of one grey image that lies as it is.

    None for every other file, and wherever a tag might say more: `tifffile` knows then.
    """
    order = "<" if found.key[0][:1] == b"I" else ">"
    numbers: dict[int, int] = {}
    texts: dict[int, bytes] = {}
    for code, kind, length, *value in found.key[2:]:
        if code in _SILENT:
            continue
        if value and code in (_DESCRIPTION, _SOFTWARE) and kind == 2:
            texts[code] = value[0].rstrip(b"\0")
        elif value and length == 1 and kind in _CODES:
            numbers[code] = struct.unpack(order + _CODES[kind], value[0])[0]
        else:
            return None
    shape = numbers.pop(_HEIGHT, 0), numbers.pop(_WIDTH, 0)
    code = _TYPES.get((numbers.pop(_FORMAT, 1), numbers.pop(_BITS, 1)))
    told = {_DESCRIPTION: b'{"shape": [%d, %d]}' % shape, _SOFTWARE: _WRITER}
    if code is None or min(shape) < 2 or not (told.items() >= texts.items()):
        return None
    dtype = np.dtype(order + code)
    if _ORDINARY | numbers != _ORDINARY or found.unbroken != prod(shape) * dtype.itemsize:
        return None
    return shape, dtype
