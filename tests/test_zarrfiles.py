"""Metadata of zarr made by hand: zarr itself, which would write the same, is the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import Blosc
from zarr.codecs import BloscCodec

from mosaicreg import zarrfiles
from mosaicreg.chunks import CODEC
from mosaicreg.errors import InputError
from mosaicreg.store import Folder
from mosaicreg.zarrfiles import (
    Array,
    Format,
    attributes_of,
    ensure_group,
    group_format,
    read_array,
    write_array,
    write_attributes,
    write_column,
)

TYPES = (
    "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
    "float16", "float32", "float64",
)  # fmt: skip
FORMATS: tuple[Format, ...] = (3, 2)


def documents_of(folder: Path) -> dict[str, Any]:
    names = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
    return {n: json.loads((folder / n).read_bytes()) for n in names if (folder / n).exists()}


@pytest.mark.parametrize("dtype", TYPES)
def test_a_level_in_shards_is_described_as_zarr_describes_it(tmp_path: Path, dtype: str) -> None:
    root = zarr.open_group(tmp_path / "zarr", mode="w", zarr_format=3)
    root.create_array(
        "0",
        shape=(2, 100, 90),
        dtype=dtype,
        chunks=(1, 16, 16),
        shards=(1, 64, 32),
        compressors=BloscCodec(cname=CODEC[0], clevel=CODEC[1], shuffle="bitshuffle"),
        dimension_names=["c", "y", "x"],
        fill_value=0,
    )
    array = Array((2, 100, 90), np.dtype(dtype), (1, 16, 16), (1, 64, 32), ("c", "y", "x"))
    write_array(Folder(tmp_path / "ours"), "0", array)
    assert documents_of(tmp_path / "ours" / "0") == documents_of(tmp_path / "zarr" / "0")


@pytest.mark.parametrize("dtype", TYPES)
def test_a_level_of_zarr_v2_is_described_as_zarr_describes_it(tmp_path: Path, dtype: str) -> None:
    root = zarr.open_group(tmp_path / "zarr", mode="w", zarr_format=2)
    root.create_array(
        "0",
        shape=(100, 90),
        dtype=dtype,
        chunks=(16, 32),
        attributes={"_ARRAY_DIMENSIONS": ["y", "x"], "more": [1, 2]},
        compressors=Blosc(*CODEC, shuffle=Blosc.BITSHUFFLE),
        chunk_key_encoding={"name": "v2", "separator": "/"},
        fill_value=0,
    )
    array = Array((100, 90), np.dtype(dtype), (16, 32), None, ("y", "x"), 2, attrs={"more": [1, 2]})
    write_array(Folder(tmp_path / "ours"), "0", array)
    assert documents_of(tmp_path / "ours" / "0") == documents_of(tmp_path / "zarr" / "0")


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_groups_are_described_as_zarr_describes_them(tmp_path: Path, zarr_format: Format) -> None:
    root = zarr.open_group(tmp_path / "zarr", mode="w", zarr_format=zarr_format)
    root.attrs.update({"text": "µm", "number": 1.5})
    root.create_group("inner")
    store = Folder(tmp_path / "ours")
    for path in ("", "inner"):
        ensure_group(store, path, zarr_format)
    write_attributes(store, "", {"text": "µm", "number": 1.5}, zarr_format)
    for path in ("", "inner"):
        assert documents_of(tmp_path / "ours" / path) == documents_of(tmp_path / "zarr" / path)
        assert group_format(store, path) == zarr_format
    assert attributes_of(store, "") == {"text": "µm", "number": 1.5}
    assert attributes_of(store, "inner") == {}


def test_attributes_outlive_the_document_that_makes_a_group_of_zarr_v2(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    ensure_group(store, "", 2)
    write_attributes(store, "", {"mine": 1}, 2)
    (tmp_path / ".zgroup").unlink()
    ensure_group(store, "", 2)
    assert dict(zarr.open_group(tmp_path, mode="r").attrs) == {"mine": 1}


@given(data=st.data())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    store = Folder(tmp_path_factory.mktemp("arrays"))
    axes = data.draw(st.integers(1, 4))
    sizes = st.lists(st.integers(1, 9), min_size=axes, max_size=axes).map(tuple)
    shape, chunks = data.draw(sizes), data.draw(sizes)
    zarr_format = data.draw(st.sampled_from(FORMATS))
    shards = None
    if zarr_format == 3 and data.draw(st.booleans()):
        shards = tuple(2 * n for n in chunks)
    attrs = data.draw(st.dictionaries(st.text(max_size=5), st.integers()))
    dtype = np.dtype(data.draw(st.sampled_from(TYPES)))
    array = Array(shape, dtype, chunks, shards, (), zarr_format, attrs=attrs)
    write_array(store, "a", array)
    assert read_array(store, "a") == array
    opened = zarr.open_array(store.zarr(read_only=True), path="a", mode="r")
    at = tuple(data.draw(st.integers(0, 12)) for _ in range(axes))
    assert array.chunk_key(at) == opened.metadata.encode_chunk_key(at)


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize(
    "values",
    [
        np.arange(10, dtype=np.int64),
        np.array([0.5, np.nan, -0.0]),
        np.array([True, False, True]),
        np.arange(7, dtype=">u4"),
        np.zeros(5, dtype=np.uint8),
        np.zeros(0, dtype=np.float64),
    ],
    ids=["numbers", "NaN", "truths", "big-endian", "nothing but 0", "no row"],
)
def test_zarr_reads_columns(
    tmp_path: Path, values: Any, zarr_format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarrfiles, "COLUMN_CHUNK", 4)
    store = Folder(tmp_path)
    write_column(store, "µ", values, zarr_format, {"unit": "px"})
    opened = zarr.open_array(store.zarr(read_only=True), path="µ", mode="r")
    assert dict(opened.attrs) == {"unit": "px"}
    assert opened.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(opened[:], values)


@pytest.mark.parametrize("values", [np.array([b"a"]), np.array([1j]), np.array(["2026"], "M8[Y]")])
def test_columns_are_numbers_or_truths(tmp_path: Path, values: Any) -> None:
    with pytest.raises(InputError, match="cannot be stored as tiles/odd"):
        write_column(Folder(tmp_path), "tiles/odd", values, 3)
    assert list(tmp_path.iterdir()) == []


def test_the_separator_of_keys_may_go_without_saying(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    array = Array((4, 4), np.dtype(np.uint8), (2, 2))
    write_array(store, "0", array)
    document = json.loads((tmp_path / "0" / "zarr.json").read_bytes())
    document["chunk_key_encoding"] = {"name": "default"}
    (tmp_path / "0" / "zarr.json").write_text(json.dumps(document), encoding="utf-8")
    assert read_array(store, "0") == array


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{", b'{"node_type": "group"}'])
def test_what_is_no_array_is_told(tmp_path: Path, content: bytes | None) -> None:
    store = Folder(tmp_path / "a.zarr")
    if content is not None:
        store.write("0/zarr.json", content)
    with pytest.raises(InputError, match=r"a\.zarr: there is no zarr array 0"):
        read_array(store, "0")
