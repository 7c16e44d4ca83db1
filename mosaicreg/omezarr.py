"""OME-Zarr archives, 0.5 or 0.4: a pyramid is created with its metadata, then filled (`shards`).

Creating writes all metadata and no pixel. Level n + 1 is the mean of 2 x 2 pixels of level n.
Beside the image, the group ``mosaicreg`` holds tables (zarr arrays, one per column) and provenance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mosaicreg import zarrfiles
from mosaicreg.errors import InputError
from mosaicreg.geometry import TileGrid
from mosaicreg.shards import BLOCK
from mosaicreg.store import ZARR_2, Place, Store, open_store
from mosaicreg.zarrfiles import Array

Version = Literal["0.4", "0.5"]
"""Of OME-Zarr: 0.5 is sharded zarr v3; 0.4 is zarr v2, a file per chunk, for older viewers."""
VERSIONS: tuple[Version, ...] = get_args(Version)

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
        chunk, shard: (y, x) in px; a shard is a whole number of chunks. It is what one task writes:
            one object, or in version 0.4 one for each of its chunks.
        levels: how many; each half the size of the one before, rounded up.
        pixel_size: (y, x) of level 0 in micrometre, where known.
        channels: names of the channels.
        version: of OME-Zarr.
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
    version: Version = "0.5"

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
            InputError: where a shard is not a whole number of chunks, a length not positive, or
                the version unknown.
        """
        version = facts.get("version", "0.5")
        if version not in VERSIONS:
            raise InputError(f"OME-Zarr is written as {' or '.join(VERSIONS)}, not {version!r}")
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
            # Chunks are compressed in one byte order, whatever the pixels come in.
            dtype=np.dtype(dtype).newbyteorder("="),
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
        shape, cut = (self.shape, self.dtype.str, self.axes), (self.chunk, self.shard)
        return *shape, *cut, self.levels, self.version

    @property
    def zarr_format(self) -> Literal[2, 3]:
        """Of the arrays."""
        return 2 if self.version == "0.4" else 3

    def objects(self, level: int) -> int:
        """Files or objects that hold the pixels of a level, at most: nothing but fill has none."""
        if self.version == "0.5":
            return self.shards(level)
        chunks = (-(-n // c) for n, c in zip(self.plane(level), self.chunk, strict=True))
        return math.prod((*self.shape[:-2], *chunks))


def create(place: Place, pyramid: Pyramid) -> None:
    """Write all metadata and empty arrays of an archive; levels that are there already are lost."""
    create_levels(place, pyramid)
    describe(place, pyramid)


def create_levels(place: Place, pyramid: Pyramid) -> None:
    """Write the empty arrays alone."""
    store = open_store(place)
    for level in range(MOST_LEVELS):
        store.clear(str(level))
    _forget_other_version(store, pyramid.version)
    for level in range(pyramid.levels):
        zarrfiles.write_array(store, str(level), level_of(pyramid, level))


def mend(place: Place, pyramid: Pyramid) -> None:
    """Write the metadata of levels again where they are lost, or say something else."""
    store = open_store(place)
    for level in range(pyramid.levels):
        due = level_of(pyramid, level)
        try:
            found = zarrfiles.read_array(store, str(level))
            same = replace(found, names=due.names, attrs=due.attrs) == due
            same &= all(found.attrs.get(name) == value for name, value in due.attrs.items())
        except (InputError, KeyError, TypeError, ValueError):
            same = False
        if not same:
            zarrfiles.write_array(store, str(level), due)


def level_of(pyramid: Pyramid, level: int) -> Array:
    """A level, as its metadata describe it."""
    leading = pyramid.shape[:-2]
    sharded = pyramid.zarr_format == 3
    return Array(
        shape=(*leading, *pyramid.plane(level)),
        dtype=pyramid.dtype,
        chunks=(*(1,) * len(leading), *pyramid.chunk),
        shards=(*(1,) * len(leading), *pyramid.shard) if sharded else None,
        names=tuple(pyramid.axes),
        zarr_format=pyramid.zarr_format,
        attrs={} if sharded else {BLOCK: list(pyramid.shard)},
    )


def _forget_other_version(store: Store, version: Version) -> None:
    """Remove the metadata, and the tables, of the other version of zarr; the journal's log stays.

    Whoever writes levels writes them all again.
    """
    others = ("zarr.json",) if version == "0.4" else ZARR_2
    if not any(store.read(name) for name in others):
        return
    for key in list(store.keys(DETAILS)):
        if not key.startswith(f"{DETAILS}/{JOURNAL}/"):
            store.remove(key)
    for folder in (f"{DETAILS}/{JOURNAL}/", f"{DETAILS}/", ""):  # what tells the version goes last
        for name in others:
            store.remove(folder + name)


def describe(place: Place, pyramid: Pyramid) -> None:
    """Write the metadata that is not of the arrays."""
    store = open_store(place)
    zarrfiles.ensure_group(store, "", pyramid.zarr_format)
    kept = zarrfiles.attributes_of(store, "")
    kept.pop("omero", None)  # of what was here before
    attributes = {**kept, **_metadata(pyramid, None)}
    zarrfiles.write_attributes(store, "", attributes, pyramid.zarr_format)
    zarrfiles.forget_consolidated(store)
    zarrfiles.ensure_group(store, DETAILS, pyramid.zarr_format)
    # To readers the journal is an array of nothing: none of them looks inside for groups.
    empty = np.empty(0, dtype=np.uint8)
    zarrfiles.write_column(store, f"{DETAILS}/{JOURNAL}", empty, pyramid.zarr_format)


def ome_of(root: Any) -> Any:
    """The OME-Zarr metadata of a group, whichever version has written it."""
    return root.attrs.get("ome", root.attrs)


def axes_of(root: Any) -> str:
    """The axes of a group's image, e.g. ``"cyx"``."""
    return "".join(axis["name"] for axis in ome_of(root)["multiscales"][0]["axes"])


def finish(place: Place, pyramid: Pyramid) -> None:
    """Add what is known only when pixels are there: the channels' names and display ranges."""
    if "c" not in pyramid.axes:
        return
    import zarr

    root = zarr.open_group(open_store(place).zarr(read_only=True), mode="r", use_consolidated=False)
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
    store = open_store(place)
    attributes = {**zarrfiles.attributes_of(store, ""), **_metadata(pyramid, ranges)}
    zarrfiles.write_attributes(store, "", attributes, pyramid.zarr_format)


def write_table(place: Place, name: str, columns: Mapping[str, NDArray[Any]]) -> None:
    """Store columns of one length as the group ``mosaicreg/name`` of an archive.

    Text becomes UTF-8 bytes with a zero byte between rows: every zarr reader opens that.
    """
    store, path = open_store(place), f"{DETAILS}/{name}"
    version = _version(store)
    zarrfiles.forget_consolidated(store)
    zarrfiles.ensure_group(store, DETAILS, version)
    store.clear(path)
    for column, values in columns.items():
        values = np.asarray(values)
        attributes: dict[str, Any] = {}
        if values.dtype.kind in "UTO":
            attributes = {"text": "UTF-8, zero byte between rows", "rows": len(values)}
            values = np.frombuffer("\0".join(map(str, values.tolist())).encode(), dtype=np.uint8)
        zarrfiles.write_column(store, f"{path}/{column}", values, version, attributes)
    zarrfiles.ensure_group(store, path, version)
    zarrfiles.write_attributes(store, path, {"columns": list(columns)}, version)


def _version(store: Store) -> zarrfiles.Format:
    """Of zarr, that an archive is written in."""
    version = zarrfiles.group_format(store, "")
    if version is None:
        raise InputError(f"{store} is not a zarr archive")
    return version


def read_table(place: Place, name: str) -> dict[str, NDArray[Any]]:
    """The columns that `write_table` stored; {} where there are none."""
    import zarr

    root = zarr.open_group(open_store(place).zarr(read_only=True), mode="r", use_consolidated=False)
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
    store = open_store(place)
    version = _version(store)
    zarrfiles.forget_consolidated(store)
    zarrfiles.ensure_group(store, DETAILS, version)
    attributes = {**zarrfiles.attributes_of(store, DETAILS), **facts}
    zarrfiles.write_attributes(store, DETAILS, attributes, version)


def read_facts(place: Place) -> dict[str, Any]:
    """The attributes that `write_facts` stored."""
    import zarr

    root = zarr.open_group(open_store(place).zarr(read_only=True), mode="r", use_consolidated=False)
    return dict(root[DETAILS].attrs) if DETAILS in root else {}


def check_archive(store: Store) -> None:
    """Raise InputError where there is something, and no zarr archive."""
    if store.exists() and not is_zarr(store):
        raise InputError(f"{store} is not a zarr archive; it will not be overwritten")


def is_zarr(store: Store) -> bool:
    """Whether there is an array or group of zarr, v3 or v2."""
    return any(store.read(name) is not None for name in ("zarr.json", ".zgroup", ".zarray"))


def _metadata(pyramid: Pyramid, ranges: Sequence[tuple[float, float]] | None) -> dict[str, Any]:
    """The attributes of the archive's root."""
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
        "name": pyramid.name,
        "axes": [{k: v for k, v in {"name": a, **kinds[a]}.items() if v} for a in pyramid.axes],
        "datasets": datasets,
        "type": "mean",
        "metadata": {
            "method": "mosaicreg.shards.halve",
            "description": "each level is the mean of 2 x 2 pixels of the one before",
        },
    }
    shown = {} if ranges is None else {"omero": {"channels": _channels(pyramid, ranges)}}
    if pyramid.version == "0.4":
        return {"multiscales": [{"version": "0.4", **image}], **shown}
    return {"ome": {"version": "0.5", "multiscales": [image], **shown}}


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
