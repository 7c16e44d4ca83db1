"""Groups and arrays of zarr, versions 3 and 2, by their metadata: JSON documents beside the chunks.

The documents are those that zarr itself writes, and it opens what is made here. Loading it takes a
tenth of a second, and each of some forty small arrays of an archive some milliseconds; making and
reading a document takes a tenth of one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaicreg import chunks
from mosaicreg.errors import InputError
from mosaicreg.store import Store

Format = Literal[2, 3]
"""Versions of zarr."""
CODEC = {"cname": chunks.CODEC[0], "clevel": chunks.CODEC[1], "blocksize": 0}
"""What both versions say alike of how chunks are compressed."""
COLUMN_CHUNK = 1 << 20
"""Rows of a column that are compressed together, at most."""


@dataclass(frozen=True, slots=True)
class Array:
    """What an array's metadata says.

    Args:
        shape: of the array.
        dtype: of the pixels, in the byte order of this machine; stored they are little-endian.
        chunks: shape of what is compressed by itself.
        shards: shape of what is one object: a whole number of chunks; None where each chunk is one.
        names: of the axes, where they have any.
        zarr_format: 3, or 2, which knows no shards.
        separator: between the numbers of a chunk's key.
        attrs: attributes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None = None
    names: tuple[str, ...] = ()
    zarr_format: Format = 3
    separator: str = "/"
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def chunk_key(self, at: tuple[int, ...]) -> str:
        """The key, inside the array, of the object at a place of the grid of objects."""
        prefix = ("c",) if self.zarr_format == 3 else ()
        return self.separator.join((*prefix, *map(str, at)))

    def documents(self) -> dict[str, Any]:
        """The metadata, by the names of their objects."""
        if self.zarr_format == 2:
            return self._documents_2()
        codec = {**CODEC, "typesize": self.dtype.itemsize, "shuffle": "bitshuffle"}
        little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
        order = little if self.dtype.itemsize > 1 else {"name": "bytes"}
        codecs: list[dict[str, Any]] = [order, {"name": "blosc", "configuration": codec}]
        if self.shards:
            inside = {
                "chunk_shape": list(self.chunks),
                "codecs": codecs,
                "index_codecs": [little, {"name": "crc32c"}],
                "index_location": "end",
            }
            codecs = [{"name": "sharding_indexed", "configuration": inside}]
        objects = list(self.shards or self.chunks)
        document = {
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": objects}},
            "chunk_key_encoding": {
                "name": "default",
                "configuration": {"separator": self.separator},
            },
            "fill_value": self._nothing,
            "codecs": codecs,
            "attributes": dict(self.attrs),
            **({"dimension_names": list(self.names)} if self.names else {}),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }
        return {"zarr.json": document}

    def _documents_2(self) -> dict[str, Any]:
        codec = {**CODEC, "id": "blosc", "shuffle": 2}  # of bits
        # Of names of axes, xarray's custom is what readers know.
        names = {"_ARRAY_DIMENSIONS": list(self.names)} if self.names else {}
        document = {
            "shape": list(self.shape),
            "chunks": list(self.chunks),
            "dtype": self.dtype.newbyteorder("<").str,
            "fill_value": self._nothing,
            "order": "C",
            "filters": None,
            "dimension_separator": self.separator,
            "compressor": codec,
            "zarr_format": 2,
        }
        return {".zarray": document, ".zattrs": {**names, **self.attrs}}

    @property
    def _nothing(self) -> float | bool:
        """The value of pixels that no chunk holds."""
        nothing: float | bool = self.dtype.type(0).item()
        return nothing


def write_array(store: Store, path: str, array: Array) -> None:
    """Write the metadata of an array, and no pixel."""
    for name, document in array.documents().items():
        _write(store, f"{path}/{name}", document)


def read_array(store: Store, path: str) -> Array:
    """What the metadata at ``path`` say, of an array with the codec that is written here.

    Raises:
        InputError: where there is no array.
    """
    document = _read(store, f"{path}/zarr.json")
    if document is not None and document.get("node_type") == "array":
        objects = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
        codec = document["codecs"][0]
        sharded = codec["name"] == "sharding_indexed"
        encoding = document["chunk_key_encoding"]
        return Array(
            shape=tuple(document["shape"]),
            dtype=np.dtype(document["data_type"]),
            chunks=tuple(codec["configuration"]["chunk_shape"]) if sharded else objects,
            shards=objects if sharded else None,
            names=tuple(document.get("dimension_names") or ()),
            separator=encoding.get("configuration", {}).get("separator", "/"),
            attrs=document.get("attributes", {}),
        )
    document = _read(store, f"{path}/.zarray")
    if document is None:
        raise InputError(f"{store}: there is no zarr array {path}, or its metadata are damaged")
    return Array(
        shape=tuple(document["shape"]),
        dtype=np.dtype(document["dtype"]).newbyteorder("="),
        chunks=tuple(document["chunks"]),
        zarr_format=2,
        separator=document.get("dimension_separator", "."),
        attrs=_read(store, f"{path}/.zattrs") or {},
    )


def write_column(
    store: Store,
    path: str,
    values: NDArray[Any],
    zarr_format: Format,
    attrs: Mapping[str, Any] | None = None,
) -> None:
    """Make an array of one axis, with its values.

    Raises:
        InputError: where they are neither numbers nor truths.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise InputError(f"{store}: values of type {values.dtype} cannot be stored as {path}")
    rows = max(1, min(len(values), COLUMN_CHUNK))
    dtype = values.dtype.newbyteorder("=")
    array = Array(values.shape, dtype, (rows,), zarr_format=zarr_format, attrs=attrs or {})
    write_array(store, path, array)
    for number, start in enumerate(range(0, len(values), rows)):
        content = chunks.compress(values[None, start : start + rows], (1, rows))
        if content is not None:
            store.write(f"{path}/{array.chunk_key((number,))}", content)


def group_format(store: Store, path: str) -> Format | None:
    """The version of the group at ``path``; None where there is none."""
    document = _read(store, _inside(path, "zarr.json"))
    if document is not None and document.get("node_type") == "group":
        return 3
    return 2 if _read(store, _inside(path, ".zgroup")) is not None else None


def ensure_group(store: Store, path: str, zarr_format: Format) -> None:
    """Make a group where there is none."""
    if group_format(store, path) is not None:
        return
    if zarr_format == 3:
        write_attributes(store, path, {}, 3)
    else:
        _write(store, _inside(path, ".zgroup"), {"zarr_format": 2})
        write_attributes(store, path, attributes_of(store, path), 2)  # lie apart, and may be left


def attributes_of(store: Store, path: str) -> dict[str, Any]:
    """The attributes of a group; {} where it has none."""
    document = _read(store, _inside(path, "zarr.json"))
    if document is not None:
        return dict(document.get("attributes", {}))
    return _read(store, _inside(path, ".zattrs")) or {}


def forget_consolidated(store: Store) -> None:
    """Remove a copy of all metadata that somebody may have made: it is of what was here before."""
    store.remove(".zmetadata")
    document = _read(store, "zarr.json")
    if document is not None and document.pop("consolidated_metadata", None) is not None:
        _write(store, "zarr.json", document)


def write_attributes(
    store: Store, path: str, attributes: Mapping[str, Any], zarr_format: Format
) -> None:
    """Replace all attributes of a group."""
    if zarr_format == 3:
        document = {"attributes": dict(attributes), "zarr_format": 3, "node_type": "group"}
        _write(store, _inside(path, "zarr.json"), document)
    else:
        _write(store, _inside(path, ".zattrs"), dict(attributes))


def _inside(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _read(store: Store, key: str) -> dict[str, Any] | None:
    """A document; None where there is none, or what is there is not one."""
    content = store.read(key)
    if content is None:
        return None
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _write(store: Store, key: str, document: Mapping[str, Any]) -> None:
    store.write(key, json.dumps(document, indent=2).encode())
