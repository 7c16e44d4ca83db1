"""Chunks as bytes: compressed one by one, and put together to shards of zarr v3.

zarr reads what is made here, and the other way round. Going through it chunk by chunk, with its
event loop, its threads and its copies, cost a third of the codec's own time again, and held every
form of a shard in memory at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, Literal

import numpy as np
from google_crc32c import value as crc32c
from numcodecs import blosc
from numpy.typing import NDArray

CODEC: tuple[Literal["zstd"], int] = ("zstd", 1)
"""Name and level of blosc's codec, on pixels whose bits are shuffled."""
NOTHING = 2**64 - 1
"""Offset and length, in the index of a shard, of a chunk that holds nothing but fill value."""

Place = tuple[int, int]
"""(row, column) of a chunk."""


@cache
def _blosc() -> Any:
    blosc.use_threads = False  # as zarr has it: bytes would depend on how many there are
    return blosc.Blosc(*CODEC, shuffle=blosc.Blosc.BITSHUFFLE)


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
    return bytes(_blosc().encode(whole))


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
    _blosc().decode(content, out=out)
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
