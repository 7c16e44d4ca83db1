"""Chunks as bytes: compressed one by one, and put together to shards of zarr v3.

zarr reads what is made here, and the other way round. Going through it chunk by chunk, with its
event loop, its threads and its copies, cost a third of the codec's own time again, and held every
form of a shard in memory at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np
from google_crc32c import value as crc32c
from numpy.typing import NDArray

CODEC: tuple[Literal["zstd"], int] = ("zstd", 1)
"""Name and level of blosc's codec, on pixels whose bits are shuffled."""
BITSHUFFLE = 2
HEADER = 16
"""Bytes that blosc puts before what it has compressed; more it never adds."""
NOTHING = 2**64 - 1
"""Offset and length, in the index of a shard, of a chunk that holds nothing but fill value."""

Place = tuple[int, int]
"""(row, column) of a chunk."""


class Blosc(NamedTuple):
    """The codec.

    Args:
        encode: the bytes of a contiguous array.
        decode: (bytes, array): fills a contiguous array that is as large as what they hold.
    """

    encode: Callable[[NDArray[Any]], bytes]
    decode: Callable[[bytes | memoryview, NDArray[Any]], Any]


@cache
def codec() -> Blosc:
    """That of this process."""
    library = _library()
    found = None if library is None else direct(library)
    return found if found is not None and _is_as_known(found) else public()


def public() -> Blosc:
    """By the class that numcodecs documents."""
    from numcodecs import blosc

    blosc.use_threads = False  # as zarr has it: bytes would depend on how many there are
    made = blosc.Blosc(*CODEC, shuffle=blosc.Blosc.BITSHUFFLE)
    return Blosc(lambda pixels: bytes(made.encode(pixels)), made.decode)


def direct(library: Any) -> Blosc | None:
    """By the functions of c-blosc itself (blosc.h), which the codec of numcodecs calls.

    To import numcodecs takes a twentieth of a small job: it looks for codecs in all packages.
    """
    try:
        compress, decompress = library.blosc_compress_ctx, library.blosc_decompress_ctx
    except AttributeError:
        return None
    number, size, place = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
    compress.argtypes = (
        number, number, size, size, place, place, size, ctypes.c_char_p, size, number,
    )  # fmt: skip
    decompress.argtypes = place, place, size, number
    compress.restype = decompress.restype = number
    name, level = CODEC[0].encode(), CODEC[1]

    def check(array: NDArray[Any]) -> None:
        if not array.flags.c_contiguous:
            raise ValueError("blosc wants an array that lies in memory without gaps")

    def encode(pixels: NDArray[Any]) -> bytes:
        check(pixels)
        out = np.empty(pixels.nbytes + HEADER, dtype=np.uint8)
        length = compress(
            level, BITSHUFFLE, pixels.itemsize, pixels.nbytes, pixels.ctypes.data,
            out.ctypes.data, out.nbytes, name, 0, 1,
        )  # fmt: skip
        if length <= 0:
            raise RuntimeError(f"blosc cannot compress {pixels.nbytes} bytes ({length})")
        return out[:length].tobytes()

    def decode(content: bytes | memoryview, out: NDArray[Any]) -> None:
        check(out)
        source = np.frombuffer(content, dtype=np.uint8)
        length = decompress(source.ctypes.data, out.ctypes.data, out.nbytes, 1)
        if length != out.nbytes:
            raise RuntimeError(f"blosc makes {length} bytes, not {out.nbytes}, of a chunk")

    return Blosc(encode, decode)


def _library() -> Any | None:
    """The library of numcodecs that c-blosc is part of, as it is; None where there is none."""
    package = find_spec("numcodecs")
    homes = package.submodule_search_locations if package is not None else None
    found = PathFinder.find_spec("numcodecs.blosc", list(homes or ()))
    if found is None or found.origin is None:
        return None
    try:
        return ctypes.CDLL(found.origin)
    except OSError:
        return None


def _is_as_known(found: Blosc) -> bool:
    """Whether it takes its arguments in the order that is known, and gives back what it got."""
    pixels, out = np.arange(2048, dtype=np.uint16), np.zeros(2048, dtype=np.uint16)
    try:
        content = found.encode(pixels)
        found.decode(content, out)
    except Exception:  # whatever a release to come may raise
        return False
    # Version of the format; codec (zstd: 4) and shuffle as flags; size of a pixel.
    flags = content[2] & ~(1 << 4)  # whether bytes of a pixel are compressed apart
    told = content[0] == 2 and flags == 4 << 5 | 1 << 2 and content[3] == 2
    return told and len(content) < pixels.nbytes and np.array_equal(pixels, out)


def compress(pixels: NDArray[Any], shape: tuple[int, int]) -> bytes | None:
    """The bytes of a chunk of ``shape``, filled up with 0 beyond ``pixels``; None for all 0."""
    height, width = pixels.shape
    kind = pixels.dtype.newbyteorder("<")
    if pixels.shape == shape:
        whole = np.ascontiguousarray(pixels, dtype=kind)
    else:
        whole = np.zeros(shape, dtype=kind)
        whole[:height, :width] = pixels
    # A look at one pixel saves most chunks the search. A negative zero is not nothing.
    if not whole[height // 2, width // 2] and not whole.view(np.uint8).any():
        return None
    return codec().encode(whole)


def decompress(content: bytes | memoryview | None, out: NDArray[Any]) -> None:
    """Fill ``out``, contiguous, with the pixels of a chunk.

    Raises:
        ValueError: where the chunk is damaged.
    """
    if content is None:
        out[...] = 0
        return
    told = [int.from_bytes(content[k : k + 4], "little") for k in (4, 12)]
    if told != [out.nbytes, len(content)]:  # the codec trusts its header
        raise ValueError("a chunk is damaged")
    codec().decode(content, out)
    if not out.dtype.newbyteorder("<").isnative:
        out.byteswap(inplace=True)


def join(chunks: Iterable[tuple[Place, bytes]], counts: tuple[int, int]) -> Iterator[bytes]:
    """The pieces of a shard of ``counts`` chunks: these in their order, then their index.

    There are none where there is no chunk.
    """
    index = np.full((*counts, 2), NOTHING, dtype="<u8")
    start = 0
    for place, content in chunks:
        index[place] = start, len(content)
        start += len(content)
        yield content
    if start:
        table = index.tobytes()
        yield table
        yield crc32c(table).to_bytes(4, "little")


def split(shard: bytes | memoryview, counts: tuple[int, int]) -> dict[Place, memoryview]:
    """The chunks of a shard, those left out that hold nothing.

    Raises:
        ValueError: where the shard is damaged.
    """
    size = 16 * counts[0] * counts[1]
    table, checksum = bytes(shard[-size - 4 : -4]), shard[-4:]
    if len(table) != size or crc32c(table).to_bytes(4, "little") != checksum:
        raise ValueError("the index of a shard is damaged")
    index = np.frombuffer(table, dtype="<u8").reshape(*counts, 2)
    content = memoryview(shard)
    found = {}
    for row, column in np.argwhere(index[..., 0] != NOTHING).tolist():
        start, length = index[row, column].tolist()
        found[row, column] = content[start : start + length]
    return found
