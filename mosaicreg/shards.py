"""Whole shards of an archive: encoded, written, checked, and made from those of the finer level.

Each is written by one call and owns its objects, so no two writers ever touch one. In zarr v3 a
shard is one object. zarr v2 knows no shards: there it is a block of whole chunks, one object each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby, product
from types import MappingProxyType
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mosaicreg import chunks
from mosaicreg.errors import StorageError
from mosaicreg.geometry import Box, TileGrid
from mosaicreg.store import Place, Store, open_store
from mosaicreg.zarrfiles import Array, read_array

BLOCK = "mosaicreg_block"
"""Attribute of an array of zarr v2: (y, x) px of what is written together."""
MOST_THREADS = 2
"""So many may share the making of one shard."""


class Receipt(NamedTuple):
    """What a written shard is: bytes in the store and their CRC-32; (0, 0) where none are needed.

    A chunk of nothing but fill value is not stored. Of several objects these are of one after the
    other, row by row.
    """

    size: int
    crc: int


def shard_shape(array: Any) -> tuple[int, int]:
    """(y, x) px of a shard of a zarr array."""
    sides = array.shards or array.attrs.get(BLOCK) or array.chunks
    return int(sides[-2]), int(sides[-1])


def write_shard(place: Place, level: int, at: tuple[int, ...], pixels: NDArray[Any]) -> Receipt:
    """Write one whole shard.

    Args:
        at: its place, counted in shards: plane, row, column.
        pixels: (y, x), the part of the shard that lies inside the image.
    """
    return write_shards(place, level, [at], [pixels[None]])[0]


def write_shards(
    place: Place, level: int, places: Sequence[tuple[int, ...]], bands: Iterable[NDArray[Any]]
) -> list[Receipt]:
    """Write whole shards that become known from top to bottom.

    Of several, compressed bytes are held; one alone is put into its file as it becomes known.

    Args:
        places: of the shards.
        bands: (shards, y, x), one below the other: whole rows of chunks, but for the last.
    """
    store = open_store(place)
    array = read_array(store, str(level))
    rows = _compressed(array, places[0], bands)
    if len(places) == 1:
        ((at,), parts) = places, ((k, content) for k, (content,) in rows if content is not None)
        return [_put(store, level, array, at, parts)]
    made: list[dict[chunks.Place, bytes]] = [{} for _ in places]
    for k, contents in rows:
        for known, content in zip(made, contents, strict=True):
            if content is not None:
                known[k] = content
    return [
        _put(store, level, array, at, known.items()) for at, known in zip(places, made, strict=True)
    ]


def _compressed(
    array: Array, at: tuple[int, ...], bands: Iterable[NDArray[Any]]
) -> Iterator[tuple[chunks.Place, list[bytes | None]]]:
    """The chunks of bands, row by row: each place, and what it holds in each plane.

    Args:
        at: the place of one of the shards.
    """
    height, width = (part.stop - part.start for part in _inside(array, at)[-2:])
    shape = _chunk_shape(array)
    y = 0
    for band in bands:
        assert not y % shape[0], "a band ends within a row of chunks"
        assert band.shape[-1] == width, f"{band.shape} px are not a whole shard's, {width} wide"
        grid = TileGrid((band.shape[-2], width), shape)
        for row, column in product(*map(range, grid.grid_shape)):
            part = grid.box(row, column).slices
            contents = [chunks.compress(plane[part], shape) for plane in band]
            yield (y // shape[0] + row, column), contents
        y += band.shape[-2]
    assert y == height, f"{y} rows are not a whole shard: it has {height}"


def _put(
    store: Store,
    level: int,
    array: Array,
    at: tuple[int, ...],
    parts: Iterable[tuple[chunks.Place, bytes]],
) -> Receipt:
    """Write what a shard becomes, as it does, and remove what it no longer has."""
    keys = shard_keys(array, at)
    objects: list[Iterator[bytes]]
    if array.shards:
        objects = [chunks.join(parts, _chunk_counts(array))]
    else:
        inside = [part.stop - part.start for part in _inside(array, at)[-2:]]
        counts = [-(-n // c) for n, c in zip(inside, array.chunks[-2:], strict=True)]
        known = dict(parts)
        objects = [iter([known[k]] if k in known else []) for k in product(*map(range, counts))]
    receipt = Receipt(0, 0)
    for key, pieces in zip(keys, objects, strict=True):
        first = next(pieces, None)
        if first is None:
            store.remove(f"{level}/{key}")
            continue
        written = _Summed(chain([first], pieces), receipt)
        store.write(f"{level}/{key}", written)
        receipt = written.receipt
    return receipt


def shard_keys(array: Array, at: tuple[int, ...]) -> list[str]:
    """Keys, inside its array, of the objects that a shard may have, row by row."""
    if array.shards:
        return [array.chunk_key(at)]
    ranges = [
        range(part.start // chunk, -(-part.stop // chunk))
        for part, chunk in zip(_inside(array, at), array.chunks, strict=True)
    ]
    return [array.chunk_key(chunk) for chunk in product(*ranges)]


def check_shards(
    place: Place, level: int, places: Sequence[tuple[int, ...]], receipts: Sequence[Receipt]
) -> list[bool]:
    """Whether the shards in the store are, byte for byte, those that the receipts are for.

    Costs one read of the compressed bytes; the sum itself runs at about a gigabyte a second.
    """
    store = open_store(place)
    array = read_array(store, str(level))
    intact = []
    for at, receipt in zip(places, receipts, strict=True):
        found = (store.read(f"{level}/{key}") for key in shard_keys(array, at))
        read = _Summed((content for content in found if content is not None), Receipt(0, 0))
        for _ in read:
            pass
        intact.append(read.receipt == receipt)
    return intact


class _Summed:
    """Pieces that go by, and the receipt for these and for what came before."""

    def __init__(self, pieces: Iterable[bytes], before: Receipt) -> None:
        self.pieces, self.receipt = pieces, before

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.receipt = Receipt(self.receipt.size + len(piece), crc32(piece, self.receipt.crc))
            yield piece


def _inside(array: Array, at: tuple[int, ...]) -> tuple[slice, ...]:
    """The pixels of a shard that lie inside the array."""
    shape = (1,) * (len(at) - 2) + shard_shape(array)
    return tuple(
        slice(k * size, min((k + 1) * size, length))
        for k, size, length in zip(at, shape, array.shape, strict=True)
    )


def reduce_shard(
    place: Place,
    level: int,
    plane: tuple[int, ...],
    box: Box,
    threads: int = 1,
    written: Mapping[chunks.Place, int] = MappingProxyType({}),
) -> Receipt:
    """Make one shard of ``level`` from the level below, chunk by chunk: these stay in the cache.

    Args:
        plane, box: which one; px of ``level``.
        threads: how many share the work, `MOST_THREADS` at most.
        written: bytes of the shards below, by row and column, where they are one object each.

    Raises:
        StorageError: where a shard below is not as long: what is lost would be taken for empty.
    """
    store = open_store(place)
    finer, coarser = (read_array(store, str(k)) for k in (level - 1, level))
    (height, width), (rows, columns) = shard_shape(coarser), _chunk_shape(coarser)
    first = box.y0 // rows, box.x0 // columns
    down, across = TileGrid(box.shape, (rows, columns)).grid_shape
    places = [(first[0] + k, first[1] + n) for k, n in product(range(down), range(across))]
    under = _Finer(store, level - 1, finer, plane, written)

    def calls() -> Iterator[tuple[chunks.Place, Callable[[], bytes | None]]]:
        """How each chunk is made; those made from the same finer shards follow each other."""
        held: _Shards = {}
        for which, group in groupby(sorted(places, key=under.shards), under.shards):
            held = {at: held[at] if at in held else under.read(at) for at in which}
            for row, column in group:
                call = partial(under.halved, held, (row, column))
                yield (row - first[0], column - first[1]), call

    at = (*plane, box.y0 // height, box.x0 // width)
    halves = ((k, call()) for k, call in calls()) if threads == 1 else _by_threads(calls(), threads)
    made = ((k, content) for k, content in halves if content is not None)
    return _put(store, level, coarser, at, made)


def _by_threads(
    calls: Iterable[tuple[chunks.Place, Callable[[], Any]]], threads: int
) -> Iterator[tuple[chunks.Place, Any]]:
    """Results of calls, in order; only a few are begun ahead, so that little is held for them."""
    from concurrent.futures import ThreadPoolExecutor

    waiting: deque[tuple[chunks.Place, Any]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for place, call in calls:
            waiting.append((place, pool.submit(call)))
            if len(waiting) > 2 * threads:
                place, begun = waiting.popleft()
                yield place, begun.result()
        for place, begun in waiting:
            yield place, begun.result()


_Shards = dict[chunks.Place, dict[chunks.Place, memoryview]]
"""Shards of one plane by their places, each as its compressed chunks by theirs."""


class _Finer:
    """A plane of a level, of which the chunks of the next one are made."""

    def __init__(
        self,
        store: Store,
        level: int,
        array: Array,
        plane: tuple[int, ...],
        written: Mapping[chunks.Place, int],
    ) -> None:
        self.store, self.level, self.array, self.plane = store, level, array, plane
        self.written = written if array.shards else {}
        self.counts, self.shape = _chunk_counts(array), _chunk_shape(array)
        height, width = array.shape[-2:]
        self.grid = TileGrid((height, width), self.shape).grid_shape

    def shards(self, place: chunks.Place) -> tuple[chunks.Place, ...]:
        """The shards, one, two or four, in which the chunks lie that a coarser one is made of."""
        rows, columns = (
            sorted({min(2 * k + d, n - 1) // count for d in (0, 1)})
            for k, n, count in zip(place, self.grid, self.counts, strict=True)
        )
        return tuple(product(rows, columns))

    def halved(self, held: _Shards, place: chunks.Place) -> bytes | None:
        """A chunk of the next level, from the 2 x 2 that lie under it in the shards held."""
        rows, columns = self.shape
        corner = 2 * place[0], 2 * place[1]
        ends = [
            min(2 * size, n - k * size)
            for size, n, k in zip(self.shape, self.array.shape[-2:], corner, strict=True)
        ]
        one = np.empty(self.shape, dtype=self.array.dtype)
        half = np.empty([-(-n // 2) for n in ends], dtype=self.array.dtype)
        # Halved one by one they stay in the cache; where sides are odd, pixels of two make one.
        fine = np.empty(ends, dtype=self.array.dtype) if rows % 2 or columns % 2 else None
        for dy, dx in product(*(range(-(-n // c)) for n, c in zip(ends, self.shape, strict=True))):
            (row, y), (column, x) = (
                divmod(k + d, n) for k, d, n in zip(corner, (dy, dx), self.counts, strict=True)
            )
            chunks.decompress(held[row, column].get((y, x)), one)
            y0, x0 = dy * rows, dx * columns
            part = one[: ends[0] - y0, : ends[1] - x0]
            if fine is None:
                half[y0 // 2 : (y0 + rows) // 2, x0 // 2 : (x0 + columns) // 2] = halve(part)
            else:
                fine[y0 : y0 + rows, x0 : x0 + columns] = part
        return chunks.compress(half if fine is None else halve(fine), self.shape)

    def read(self, at: chunks.Place) -> dict[chunks.Place, memoryview]:
        """The compressed chunks of a shard."""
        key = self.array.chunk_key((*self.plane, *at))
        content = self.store.view(f"{self.level}/{key}")
        found = 0 if content is None else len(content)
        if found != self.written.get(at, found):
            raise StorageError(
                f"{self.store}: shard {self.level}/{key} has {found} bytes, {self.written[at]} "
                "were written: somebody else has changed it, or workers see different folders"
            )
        if content is None:
            return {}
        if not self.array.shards:
            return {(0, 0): content}
        return chunks.split(content, self.counts)


def halve(image: NDArray[Any]) -> NDArray[Any]:
    """Mean of every 2 x 2 pixels, halves rounded up; an odd last row or column counts twice.

    NaN pixels are left out of the mean. (y, x) in, ((y + 1) // 2, (x + 1) // 2) out, same dtype.
    """
    height, width = image.shape
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2)), mode="edge")
    if image.dtype.kind == "f":
        corners = [image[y::2, x::2] for y in (0, 1) for x in (0, 1)]
        known = [~np.isnan(c) for c in corners]
        if all(k.all() for k in known):
            total = (corners[0] + corners[1]) + (corners[2] + corners[3])
            return np.asarray(total * image.dtype.type(0.25))
        # Added in the same order, so that a NaN elsewhere in the image does not change these bits.
        filled = [np.where(k, c, c.dtype.type(0)) for k, c in zip(known, corners, strict=True)]
        total = (filled[0] + filled[1]) + (filled[2] + filled[3])
        count = sum(k.astype(image.dtype) for k in known)
        with np.errstate(invalid="ignore"):  # four NaN pixels make one
            return np.asarray(total / count, dtype=image.dtype)
    wide = np.int32 if image.dtype.itemsize <= 2 else np.int64
    rows = np.add(image[::2], image[1::2], dtype=wide)
    summed: NDArray[Any] = rows[:, ::2] + rows[:, 1::2]
    summed += 2
    summed >>= 2
    return summed.astype(image.dtype)


def _chunk_shape(array: Array) -> tuple[int, int]:
    """(y, x) px of a chunk."""
    return int(array.chunks[-2]), int(array.chunks[-1])


def _chunk_counts(array: Array) -> tuple[int, int]:
    """(y, x) chunks of one object of an array."""
    (rows, columns), (height, width) = _chunk_shape(array), (array.shards or array.chunks)[-2:]
    return height // rows, width // columns
