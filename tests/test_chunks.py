"""Chunks and shards as bytes: zarr reads what is made here, and the other way round."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import BloscCodec

from mosaicreg import chunks
from mosaicreg.chunks import codec, compress, decompress, direct, join, public, split
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


# --- the codec -----------------------------------------------------------------------------------


@pytest.fixture
def found_anew():
    codec.cache_clear()
    yield
    codec.cache_clear()


@given(
    dtype=st.sampled_from(["?", "u1", "<u2", "<i4", "<f4", "<f8"]),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    top=st.sampled_from([2, 200, 1 << 15]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_codec_is_that_of_numcodecs_byte_for_byte(dtype, shape, top, seed) -> None:
    """Noise that cannot be compressed, and little of it; each reads what the other has made."""
    pixels = np.random.default_rng(seed).integers(0, top, shape).astype(dtype)
    ours, theirs = direct(chunks._library()), public()
    assert ours is not None
    content = ours.encode(pixels)
    assert content == theirs.encode(pixels)
    for one in (ours, theirs):
        out = np.empty_like(pixels)
        one.decode(content, out)
        np.testing.assert_array_equal(out, pixels)


def test_a_chunk_that_does_not_hold_what_it_says_is_told_of() -> None:
    content = bytearray(codec().encode(np.arange(4096, dtype=np.uint16)))
    content[40:80] = bytes(40)
    for one in (codec(), public()):
        with pytest.raises(RuntimeError, match=r"blosc|decompress"):
            one.decode(bytes(content), np.empty(4096, np.uint16))


def test_pixels_with_gaps_are_refused() -> None:
    """Not written beside, nor taken with what lies between them."""
    wide = np.zeros((64, 64), np.uint16)
    content = codec().encode(np.ones((64, 32), np.uint16))
    for one in (codec(), public()):
        with pytest.raises(ValueError, match=r"gaps|contiguous"):
            one.encode(wide[:, ::2])
        with pytest.raises(ValueError, match=r"gaps|contiguous"):
            one.decode(content, wide[:, ::2])
    assert not wide.any()


def test_numcodecs_itself_is_not_loaded_for_it_and_works_beside_it() -> None:
    code = """
import sys
import numpy as np
from mosaicreg.chunks import codec
pixels = np.arange(4096, dtype=np.uint16)
content = codec().encode(pixels)
assert "numcodecs" not in sys.modules
import numcodecs
assert np.array_equal(np.frombuffer(numcodecs.Blosc().decode(content), np.uint16), pixels)
assert codec().encode(pixels) == content
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_library_without_its_functions_is_used_as_it_is_documented(
    found_anew, monkeypatch
) -> None:
    pixels = np.arange(4096, dtype=np.uint16)
    expected = public().encode(pixels)

    class Idle:
        """One of its functions does nothing."""

        def __init__(self) -> None:
            self.blosc_compress_ctx = chunks._library().blosc_compress_ctx
            kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
            self.blosc_decompress_ctx = ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(
                lambda source, target, size, threads: size
            )

    assert codec().encode.__qualname__.startswith("direct")
    for library in (None, object(), Idle()):
        codec.cache_clear()
        monkeypatch.setattr(chunks, "_library", lambda it=library: it)
        assert codec().encode.__qualname__.startswith("public"), library
        assert codec().encode(pixels) == expected
        out = np.empty_like(pixels)
        codec().decode(expected, out)
        np.testing.assert_array_equal(out, pixels)


def test_a_library_that_is_not_where_it_was_or_cannot_be_loaded_is_none(monkeypatch) -> None:
    assert chunks._library() is not None

    def broken(_: str) -> None:
        raise OSError("it cannot be loaded")

    for name, value in (
        ("find_spec", lambda _: None),
        ("PathFinder.find_spec", lambda *_: None),
        ("ctypes.CDLL", broken),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"mosaicreg.chunks.{name}", value)
            assert chunks._library() is None, name
