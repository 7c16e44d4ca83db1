"""Chunks and shards as bytes: zarr reads what is made here, and the other way round."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec

from mosaicreg.chunks import compress, decompress, join, split
from mosaicreg.geometry import TileGrid

CHUNK = (16, 24)


def pixels_of(dtype: str, shape: tuple[int, int] = (32, 72)) -> np.ndarray:
    """All kinds of values, and a chunk of nothing."""
    pixels = np.random.default_rng(3).integers(0, 200, shape).astype(dtype)
    pixels[:16, 24:48] = 0
    return pixels


def shard_of(pixels: np.ndarray) -> bytes:
    grid = TileGrid(pixels.shape, CHUNK)
    parts = {at: compress(pixels[grid.box(*at).slices], CHUNK) for at in np.ndindex(2, 3)}
    known = [(at, part) for at, part in parts.items() if part is not None]
    return b"".join(join(known, (2, 3)))


def array_of(path, dtype: str, shape: tuple[int, int] = (32, 72)) -> zarr.Array:
    return zarr.create_array(
        str(path), shape=shape, dtype=dtype, chunks=CHUNK, shards=(32, 72), fill_value=0,
        compressors=BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(32, 72), (29, 61)])
def test_zarr_reads_shards_made_here(dtype, shape, tmp_path) -> None:
    pixels = pixels_of(dtype, shape)
    array = array_of(tmp_path, dtype, shape)
    (tmp_path / "c" / "0").mkdir(parents=True)
    (tmp_path / "c" / "0" / "0").write_bytes(shard_of(pixels))
    np.testing.assert_array_equal(array[:], pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_shards_made_by_zarr_are_read_here(dtype, tmp_path) -> None:
    pixels = pixels_of(dtype)
    array_of(tmp_path, dtype)[:] = pixels
    parts = split((tmp_path / "c" / "0" / "0").read_bytes(), (2, 3))
    assert parts.keys() == set(np.ndindex(2, 3)) - {(0, 1)}
    for at in np.ndindex(2, 3):
        found = np.full(CHUNK, 7, dtype=dtype)
        decompress(parts.get(at), found)
        np.testing.assert_array_equal(found, pixels[TileGrid(pixels.shape, CHUNK).box(*at).slices])


def test_only_nothing_is_left_out() -> None:
    assert compress(np.zeros((3, 5), np.uint16), CHUNK) is None
    assert compress(np.full((3, 5), np.nan, np.float32), CHUNK) is not None
    assert compress(np.full((3, 5), -0.0, np.float32), CHUNK) is not None
    corner = np.zeros(CHUNK, np.uint16)
    corner[-1, -1] = 1
    assert compress(corner, CHUNK) is not None


@pytest.mark.parametrize("damage", [lambda b: b[:50], lambda b: b[:-1] + b"?", lambda b: b""])
def test_a_damaged_shard_is_noticed(damage) -> None:
    with pytest.raises(ValueError, match="index of a shard is damaged"):
        split(damage(shard_of(pixels_of("uint16"))), (2, 3))
