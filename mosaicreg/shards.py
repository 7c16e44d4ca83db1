"""Whole shards of an archive: encoded, written, checked, and made from those of the finer level.

Each is written by one call and owns its objects, so no two writers ever touch one. In zarr v3 a
shard is one object. zarr v2 knows no shards: there it is a block of whole chunks, one object each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import Box
from mosaicreg.store import Place, Store, open_store

BLOCK = "mosaicreg_block"
"""Attribute of an array of zarr v2: (y, x) px of what is written together."""


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
    store = open_store(place)
    array = _open_level(store, level)
    index = _inside(array, at)
    whole = tuple(part.stop - part.start for part in index)
    pixels = pixels[(None,) * (len(at) - 2)]
    assert pixels.shape == whole, f"{pixels.shape} px are not a whole shard: it has {whole}"
    objects = encode(array, index, pixels)
    keys = shard_keys(array, at)
    assert objects.keys() <= set(keys), f"{at} became {list(objects)}, not of {keys}"
    for key in keys:
        if key in objects:
            store.write(f"{level}/{key}", objects[key])
        else:
            store.remove(f"{level}/{key}")
    return _receipt(objects[key] for key in keys if key in objects)


def shard_keys(array: Any, at: tuple[int, ...]) -> list[str]:
    """Keys, inside its array, of the objects that a shard may have, row by row."""
    if array.shards:
        return [array.metadata.encode_chunk_key(at)]
    ranges = [
        range(part.start // chunk, -(-part.stop // chunk))
        for part, chunk in zip(_inside(array, at), array.chunks, strict=True)
    ]
    return [array.metadata.encode_chunk_key(chunk) for chunk in product(*ranges)]


def check_shards(
    place: Place, level: int, places: Sequence[tuple[int, ...]], receipts: Sequence[Receipt]
) -> list[bool]:
    """Whether the shards in the store are, byte for byte, those that the receipts are for.

    Costs one read of the compressed bytes; the sum itself runs at about a gigabyte a second.
    """
    store = open_store(place)
    array = _open_level(store, level)
    intact = []
    for at, receipt in zip(places, receipts, strict=True):
        found = (store.read(f"{level}/{key}") for key in shard_keys(array, at))
        intact.append(_receipt(content for content in found if content is not None) == receipt)
    return intact


def _receipt(contents: Iterable[bytes | memoryview]) -> Receipt:
    size = crc = 0
    for content in contents:
        size, crc = size + len(content), crc32(content, crc)
    return Receipt(size, crc)


def _inside(array: Any, at: tuple[int, ...]) -> tuple[slice, ...]:
    """The pixels of a shard that lie inside the array."""
    shape = (1,) * (len(at) - 2) + shard_shape(array)
    return tuple(
        slice(k * size, min((k + 1) * size, length))
        for k, size, length in zip(at, shape, array.shape, strict=True)
    )


def encode(array: Any, index: tuple[slice, ...], pixels: NDArray[Any]) -> dict[str, memoryview]:
    """The objects of one shard by key; none for what holds nothing but the fill value.

    zarr encodes them into memory, so that their bytes are known (and what they sum up to) before
    the store sees them, and reach it in one piece.
    """
    import zarr
    from zarr.storage import MemoryStore, StorePath

    # A chunk whose middle pixel is not 0 need not be searched for one that is not, which takes a
    # third of the time. Chunks of nothing else are left out either way.
    middles = (
        np.minimum(np.arange(0, n, c) + c // 2, n - 1)
        for n, c in zip(pixels.shape[-2:], array.chunks[-2:], strict=True)
    )
    full = bool(pixels[..., *np.ix_(*middles)].all())
    objects: dict[str, Any] = {}
    shard = zarr.AsyncArray(
        array.metadata, StorePath(MemoryStore(objects)), config={"write_empty_chunks": full}
    )
    with _few_threads():
        zarr.Array(shard)[index] = pixels
    return {key: memoryview(made.as_numpy_array()).cast("B") for key, made in objects.items()}


def reduce_shard(place: Place, level: int, plane: tuple[int, ...], box: Box) -> Receipt:
    """Make one shard of ``level`` from the level below, some chunk rows at a time."""
    store = open_store(place)
    finer, coarser = _open_level(store, level - 1), _open_level(store, level)
    out = np.empty(box.shape, dtype=finer.dtype)
    rows = coarser.chunks[-2]
    with _few_threads():
        for y in range(box.y0, box.y1, rows):
            end = min(y + rows, box.y1)
            source = finer[(*plane, slice(2 * y, 2 * end), slice(2 * box.x0, 2 * box.x1))]
            out[y - box.y0 : end - box.y0] = halve(source)
    height, width = shard_shape(coarser)
    return write_shard(store, level, (*plane, box.y0 // height, box.x0 // width), out)


def halve(image: NDArray[Any]) -> NDArray[Any]:
    """Mean of every 2 x 2 pixels, halves rounded up; an odd last row or column counts twice.

    NaN pixels are left out of the mean. (y, x) in, ((y + 1) // 2, (x + 1) // 2) out, same dtype.
    """
    height, width = image.shape
    if height % 2 or width % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2)), mode="edge")
    corners = [image[y::2, x::2] for y in (0, 1) for x in (0, 1)]
    if image.dtype.kind == "f":
        known = [~np.isnan(c) for c in corners]
        if all(k.all() for k in known):
            total = (corners[0] + corners[1]) + (corners[2] + corners[3])
            return np.asarray(total * image.dtype.type(0.25))
        total = sum(np.where(k, c, 0) for k, c in zip(known, corners, strict=True))
        count = sum(k.astype(image.dtype) for k in known)
        with np.errstate(invalid="ignore"):  # four NaN pixels make one
            return np.asarray(total / count, dtype=image.dtype)
    wide = np.int32
    total = corners[0].astype(wide)
    for corner in corners[1:]:
        total += corner
    total += 2
    total >>= 2
    return total.astype(image.dtype)


def _open_level(store: Store, level: int) -> Any:
    import zarr

    return zarr.open_array(store.zarr(read_only=True), path=str(level), mode="r")


def _few_threads() -> Any:
    """One dask thread already fills one core; zarr's own threads only wait for disks."""
    import zarr

    return zarr.config.set({"async.concurrency": 4})
