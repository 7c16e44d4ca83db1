"""OME-Zarr 0.5 archives: create a pyramid with its metadata, then fill it shard by shard.

Creating writes all metadata and no pixel; filling writes whole shards only, each by one call, so no
two writers ever touch one object. Level n + 1 is the mean of 2 x 2 pixels of level n. Beside the
image, the group ``mosaicreg`` holds tables (zarr arrays, one per column) and provenance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, TileGrid
from mosaicreg.store import Place, Store, open_store

DETAILS = "mosaicreg"
"""Group inside the archive with layout, pairs and provenance."""
JOURNAL = "journal"
"""Its member with what is done, see `mosaicreg.journal`."""
CHUNK, SHARD = 512, 4096
MOST_LEVELS = 64
"""More levels than any archive has."""
COLOURS = ("00FFFF", "FF00FF", "FFFF00", "00FF00", "FF0000", "0000FF")


@dataclass(frozen=True)
class Pyramid:
    """What an archive will hold.

    Args:
        shape: of level 0, (leading..., y, x).
        dtype: of all levels.
        axes: e.g. ``"cyx"``.
        chunk, shard: (y, x) in px; a shard is a whole number of chunks.
        levels: how many; each half the size of the one before, rounded up.
        pixel_size: (y, x) of level 0 in micrometre, where known.
        channels: names of the channels.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: str
    chunk: tuple[int, int]
    shard: tuple[int, int]
    levels: int
    pixel_size: tuple[float, float] | None = None
    channels: tuple[str, ...] = ()
    name: str = ""

    @classmethod
    def plan(
        cls,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        axes: str,
        *,
        chunk: tuple[int, int] = (CHUNK, CHUNK),
        shard: tuple[int, int] = (SHARD, SHARD),
        pyramid: bool = True,
        **facts: Any,
    ) -> Pyramid:
        """Chunks and shards cut down to the image, and levels until one chunk holds the last.

        Raises:
            InputError: where a shard is not a whole number of chunks, or a length not positive.
        """
        if any(c < 1 or s < 1 or s % c for c, s in zip(chunk, shard, strict=True)):
            raise InputError(f"a shard of {shard} px is not a whole number of chunks of {chunk} px")
        if min(shape) < 1 or len(axes) != len(shape):
            raise InputError(f"an image of shape {shape} with axes {axes!r} cannot be written")
        small = tuple(min(c, n) for c, n in zip(chunk, shape[-2:], strict=True))
        whole = tuple(
            min(s, -(-n // c) * c) if c <= n else n
            for c, s, n in zip(chunk, shard, shape[-2:], strict=True)
        )
        levels = 1
        while pyramid and any(
            n > c * 2 ** (levels - 1) for n, c in zip(shape[-2:], chunk, strict=True)
        ):
            levels += 1
        return cls(
            shape=tuple(shape),
            dtype=np.dtype(dtype),
            axes=axes,
            chunk=(small[0], small[1]),
            shard=(whole[0], whole[1]),
            levels=levels,
            **facts,
        )

    def plane(self, level: int) -> tuple[int, int]:
        """(height, width) of a level."""
        height, width = self.shape[-2:]
        return -(-height // 2**level), -(-width // 2**level)

    def grid(self, level: int) -> TileGrid:
        """The shards of a level."""
        return TileGrid(self.plane(level), self.shard)

    @property
    def planes(self) -> list[tuple[int, ...]]:
        """Indices of the leading axes."""
        return list(np.ndindex(*self.shape[:-2]))

    def _counts(self, level: int) -> tuple[int, ...]:
        return (*self.shape[:-2], *self.grid(level).grid_shape)

    def shards(self, level: int) -> int:
        """How many shards a level has."""
        return math.prod(self._counts(level))

    def shard_at(self, level: int, number: int) -> tuple[int, ...]:
        """Where shard ``number`` lies: its plane, then row and column of the level's grid."""
        return tuple(int(k) for k in np.unravel_index(number, self._counts(level)))

    def shard_number(self, level: int, at: tuple[int, ...]) -> int:
        """The reverse of `shard_at`: planes first, row by row."""
        return int(np.ravel_multi_index(at, self._counts(level)))

    @property
    def geometry(self) -> tuple[Any, ...]:
        """All that the empty arrays depend on."""
        return self.shape, self.dtype.str, self.axes, self.chunk, self.shard, self.levels


class Receipt(NamedTuple):
    """What a written shard is: bytes in the store and their CRC-32; (0, 0) where none are needed.

    A shard of nothing but fill value is not stored.
    """

    size: int
    crc: int


def create(place: Place, pyramid: Pyramid) -> None:
    """Write all metadata and empty arrays of an archive; levels that are there already are lost."""
    import zarr
    from zarr.codecs import BloscCodec

    leading = (1,) * (len(pyramid.shape) - 2)
    store = open_store(place)
    for level in range(MOST_LEVELS):
        store.clear(str(level))
    root = zarr.open_group(store.zarr(), mode="a", zarr_format=3)
    for level in range(pyramid.levels):
        root.create_array(
            str(level),
            shape=(*pyramid.shape[:-2], *pyramid.plane(level)),
            dtype=pyramid.dtype,
            chunks=(*leading, *pyramid.chunk),
            shards=(*leading, *pyramid.shard),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
            dimension_names=list(pyramid.axes),
            fill_value=0,
        )
    describe(store, pyramid)


def describe(place: Place, pyramid: Pyramid) -> None:
    """Write the metadata that is not of the arrays."""
    import zarr

    root = zarr.open_group(open_store(place).zarr(), mode="r+")
    root.attrs["ome"] = _ome_metadata(pyramid, None)
    details = root.require_group(DETAILS)
    # To readers the journal is an array of nothing: none of them looks inside for groups.
    if JOURNAL not in details:
        details.create_array(JOURNAL, shape=(0,), chunks=(1,), dtype=np.uint8)


def finish(place: Place, pyramid: Pyramid) -> None:
    """Add what is known only when pixels are there: the channels' names and display ranges."""
    import zarr

    if "c" not in pyramid.axes:
        return
    root = zarr.open_group(open_store(place).zarr(read_only=True), mode="r")
    small: Any = root[str(pyramid.levels - 1)]
    at = pyramid.axes.index("c")
    ranges = []
    for k in range(pyramid.shape[at]):
        index = tuple(k if axis == "c" else slice(None) for axis in pyramid.axes)
        values = small[index]
        known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        low, high = np.percentile(known, (0.5, 99.5)) if known.size else (0, 1)
        ranges.append((float(low), float(max(high, low + 1e-6))))
    write_display(place, pyramid, ranges)


def write_display(place: Place, pyramid: Pyramid, ranges: Sequence[tuple[float, float]]) -> None:
    """Store each channel's name, colour, and the values to show as black and as white."""
    import zarr

    zarr.open_group(open_store(place).zarr(), mode="r+").attrs["ome"] = _ome_metadata(
        pyramid, ranges
    )


def write_shard(place: Place, level: int, at: tuple[int, ...], pixels: NDArray[Any]) -> Receipt:
    """Write one whole shard as one object.

    Args:
        at: its place, counted in shards: plane, row, column.
        pixels: (y, x), the part of the shard that lies inside the image.
    """
    store = open_store(place)
    array = _open_level(store, level)
    index = tuple(
        slice(k * size, min((k + 1) * size, length))
        for k, size, length in zip(at, array.shards, array.shape, strict=True)
    )
    whole = tuple(part.stop - part.start for part in index)
    pixels = pixels[(None,) * (len(at) - 2)]
    assert pixels.shape == whole, f"{pixels.shape} px are not a whole shard: it has {whole}"
    key = shard_key(level, at)
    content = _encoded(array, index, pixels)
    if content is None:
        store.remove(key)
        return Receipt(0, 0)
    store.write(key, content)
    return Receipt(len(content), crc32(content))


def shard_key(level: int, at: tuple[int, ...]) -> str:
    """Key of the shard at a place (counted in shards) of a level."""
    return "/".join([str(level), "c", *map(str, at)])


def check_shards(
    place: Place, level: int, places: Sequence[tuple[int, ...]], receipts: Sequence[Receipt]
) -> list[bool]:
    """Whether the shards in the store are, byte for byte, those that the receipts are for.

    Costs one read of the compressed bytes; the sum itself runs at about a gigabyte a second.
    """
    store, intact = open_store(place), []
    for at, receipt in zip(places, receipts, strict=True):
        content = store.read(shard_key(level, at))
        found = Receipt(0, 0) if content is None else Receipt(len(content), crc32(content))
        intact.append(found == receipt)
    return intact


def _encoded(array: Any, index: tuple[slice, ...], pixels: NDArray[Any]) -> memoryview | None:
    """The bytes of one shard; None where it holds nothing but the fill value.

    zarr encodes it into memory, so that its bytes are known (and what they sum up to) before the
    store sees them, and reach it in one piece.
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
    assert len(objects) <= 1, f"{index} became {len(objects)} objects"
    made = list(objects.values())
    return memoryview(made[0].as_numpy_array()).cast("B") if made else None


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
    height, width = coarser.shards[-2:]
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


def write_table(place: Place, name: str, columns: Mapping[str, NDArray[Any]]) -> None:
    """Store columns of one length as the group ``mosaicreg/name`` of an archive.

    Text becomes UTF-8 bytes with a zero byte between rows: every zarr reader opens that.
    """
    import zarr

    root = zarr.open_group(open_store(place).zarr(), mode="r+")
    details = root.require_group(DETAILS)
    group = details.create_group(name, overwrite=True)
    for column, values in columns.items():
        values = np.asarray(values)
        rows, text = len(values), values.dtype.kind in "UTO"
        if text:
            values = np.frombuffer("\0".join(map(str, values.tolist())).encode(), dtype=np.uint8)
        array = group.create_array(
            column,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(max(1, min(len(values), 1 << 20)),),
        )
        array[:] = values
        if text:
            array.attrs.update({"text": "UTF-8, zero byte between rows", "rows": rows})
    group.attrs["columns"] = list(columns)


def read_table(place: Place, name: str) -> dict[str, NDArray[Any]]:
    """The columns that `write_table` stored; {} where there are none."""
    import zarr

    root = zarr.open_group(open_store(place).zarr(read_only=True), mode="r")
    key = f"{DETAILS}/{name}"
    if key not in root:
        return {}
    group: Any = root[key]
    table = {}
    for column in group.attrs["columns"]:
        values = group[column][:]
        if "text" in group[column].attrs:
            # No row at all and one empty row are the same bytes.
            words = bytes(values).decode().split("\0")[: group[column].attrs.get("rows")]
            values = np.array(words, dtype=np.dtypes.StringDType())
        table[str(column)] = values
    return table


def write_facts(place: Place, facts: Mapping[str, Any]) -> None:
    """Store plain values (provenance) as attributes of the details group."""
    import zarr

    root = zarr.open_group(open_store(place).zarr(), mode="r+")
    root.require_group(DETAILS).attrs.update(dict(facts))


def read_facts(place: Place) -> dict[str, Any]:
    """The attributes that `write_facts` stored."""
    import zarr

    root = zarr.open_group(open_store(place).zarr(read_only=True), mode="r")
    return dict(root[DETAILS].attrs) if DETAILS in root else {}


def check_archive(store: Store) -> None:
    """Raise InputError where there is something, and no zarr archive."""
    if store.exists() and store.read("zarr.json") is None:
        raise InputError(f"{store} is not a zarr archive; it will not be overwritten")


def _open_level(store: Store, level: int) -> Any:
    import zarr

    return zarr.open_array(store.zarr(read_only=True), path=str(level), mode="r")


def _few_threads() -> Any:
    """One dask thread already fills one core; zarr's own threads only wait for disks."""
    import zarr

    return zarr.config.set({"async.concurrency": 4})


def _ome_metadata(pyramid: Pyramid, ranges: Sequence[tuple[float, float]] | None) -> dict[str, Any]:
    # Made by hand, and validated in the tests: loading the models of yaozarrs takes a sixth of the
    # time that the command line needs to start.
    size = pyramid.pixel_size or (1.0, 1.0)
    unit = "micrometer" if pyramid.pixel_size else None
    kinds: dict[str, dict[str, Any]] = {
        "t": {"type": "time"},
        "c": {"type": "channel"},
        "z": {"type": "space"},
        "y": {"type": "space", "unit": unit},
        "x": {"type": "space", "unit": unit},
    }
    leading = len(pyramid.axes) - 2
    datasets = []
    for level in range(pyramid.levels):
        scale = [1.0] * leading + [s * 2.0**level for s in size]
        # A coarse pixel's centre lies between those of the pixels it averages.
        shift = [0.0] * leading + [s * (2.0**level - 1) / 2 for s in size]
        moves: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if level:
            moves.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(level), "coordinateTransformations": moves})
    image: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [
            {
                "name": pyramid.name,
                "axes": [
                    {k: v for k, v in {"name": a, **kinds[a]}.items() if v} for a in pyramid.axes
                ],
                "datasets": datasets,
                "type": "mean",
                "metadata": {
                    "method": "mosaicreg.omezarr.halve",
                    "description": "each level is the mean of 2 x 2 pixels of the one before",
                },
            }
        ],
    }
    if ranges is not None:
        image["omero"] = {"channels": _channels(pyramid, ranges)}
    return image


def _channels(pyramid: Pyramid, ranges: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    info = None if pyramid.dtype.kind == "f" else np.iinfo(pyramid.dtype)
    channels = []
    for k, (low, high) in enumerate(ranges):
        single = "FFFFFF" if len(ranges) == 1 else COLOURS[k % len(COLOURS)]
        channels.append(
            {
                "label": pyramid.channels[k] if k < len(pyramid.channels) else f"channel {k}",
                "color": ("FF0000", "00FF00", "0000FF")[k] if _is_rgb(pyramid) else single,
                "active": True,
                "window": {
                    "start": low,
                    "end": high,
                    "min": float(info.min) if info else low,
                    "max": float(info.max) if info else high,
                },
            }
        )
    return channels


def _is_rgb(pyramid: Pyramid) -> bool:
    return pyramid.channels == ("red", "green", "blue")
