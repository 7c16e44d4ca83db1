"""Chunked images give the same bits as images in memory, and read only what they need."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import boxes, random_pixels
from zarr.storage import MemoryStore, WrapperStore

from mosaicreg import lazy, noise, phase, pixels
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box
from mosaicreg.noise import Limits, Statistics
from mosaicreg.tiling import iter_tiles, untile


class CountingStore(WrapperStore):
    """Remembers which chunks were asked for."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.chunks: list[str] = []

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        if "/c/" in f"/{key}":
            self.chunks.append(key.partition("c/")[2])
        return await super().get(key, *args, **options)


def counted(image: np.ndarray, chunks: tuple[int, int]) -> tuple[zarr.Array, list[str]]:
    store = CountingStore(MemoryStore())
    array = zarr.create_array(store, data=image, chunks=chunks)
    store.chunks.clear()
    return array, store.chunks


@st.composite
def images(draw: st.DrawFn, dtypes=("uint8", "uint16", "float32", "int32")) -> Any:
    """(pixels, the same in random chunks)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 60), st.integers(1, 60)))
    image = random_pixels(rng, shape, draw(st.sampled_from(dtypes)))
    if draw(st.booleans()):
        image[rng.random(shape) < 0.2] = image.max()
    chunks = tuple(_chunks(rng, n) for n in shape)
    return image, da.from_array(image, chunks=chunks)


def _chunks(rng: np.random.Generator, length: int) -> tuple[int, ...]:
    cuts = np.unique(rng.integers(1, length + 1, 3))
    return tuple(int(n) for n in np.diff([0, *cuts[cuts < length], length]))


def same(lazily: da.Array, eagerly: np.ndarray) -> None:
    assert isinstance(lazily, da.Array)
    assert lazily.shape == eagerly.shape
    assert lazily.dtype == eagerly.dtype
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(lazily.compute(), eagerly)


# --- lazy equals eager ---------------------------------------------------------------------------


@given(images(), st.floats(0, 1))
@settings(max_examples=25)
def test_statistics(pair, share) -> None:
    image, chunked = pair
    mask = np.random.default_rng(0).random(image.shape) < share
    with dask.config.set(scheduler="synchronous"):
        assert lazy.limits(chunked).compute() == Limits.of(image)
        assert lazy.statistics(chunked).compute() == Statistics.of(image)
        found = lazy.statistics(chunked, da.from_array(mask, chunks=7)).compute()
    if mask.any():
        assert found == Statistics.of(image, mask)
    else:
        assert found.count == 0


@pytest.mark.row("A2")
@given(images(), boxes(-30, 60))
@settings(max_examples=25)
def test_crop(pair, box) -> None:
    image, chunked = pair
    same(lazy.crop(chunked, box, 7), pixels.crop(image, box, 7))
    stats = Statistics.of(image)
    noisy = pixels.crop(image, box, noise.noise_pixels(box, image.dtype, stats, 3))
    same(lazy.crop_in_noise(chunked, box, stats, 3), noisy)


@given(images(), st.one_of(st.none(), st.integers(0, 99)))
@settings(max_examples=20)
def test_noise_in_images(pair, seed) -> None:
    image, chunked = pair
    same(
        lazy.replace_extrema(chunked, None, None, seed),
        noise.replace_extrema(image, seed=seed),
    )
    mask = np.random.default_rng(1).random(image.shape) < 0.5
    mask[0, 0] = True
    stats = Statistics.of(image, mask)
    same(
        lazy.fill_masked(chunked, da.from_array(mask), stats, seed),
        noise.fill_masked(image, mask, stats, seed),
    )
    shape = (image.shape[0] + 9, image.shape[1] + 4)
    same(lazy.pad(chunked, shape, None, None, seed), phase.pad(image, shape, None, seed))


@given(images(), st.floats(0.1, 2), st.floats(0.1, 2))
@settings(max_examples=20)
def test_range_and_size(pair, sy, sx) -> None:
    image, chunked = pair
    limits = Limits.of(image)
    same(lazy.normalise(chunked), pixels.normalise_range(image, limits.low, limits.high))
    same(lazy.resize(chunked, (sy, sx)), pixels.resize(image, (sy, sx)))


def test_resizing_in_many_blocks(monkeypatch) -> None:
    monkeypatch.setattr(lazy, "BLOCK", 16)
    image = random_pixels(np.random.default_rng(0), (150, 70), "uint16")
    for scale in (0.37, 1.6):
        resized = lazy.resize(da.from_array(image, chunks=33), scale)
        assert resized.npartitions >= 8
        same(resized, pixels.resize(image, scale))


def test_grey() -> None:
    colour = random_pixels(np.random.default_rng(0), (30, 20, 3), "uint8")
    chunked = da.from_array(colour, chunks=(7, 9, 1))
    same(lazy.to_grey(chunked), pixels.to_grey(colour))
    weights = (0.3, 0.6, 0.1)
    same(lazy.to_grey(chunked, weights), pixels.to_grey(colour, weights))
    with pytest.raises(InputError, match="2 weights"):
        lazy.to_grey(chunked, (1, 2))
    assert lazy.to_grey(chunked[:, :, 0]).ndim == 2


@pytest.mark.row("J1 determinism")
def test_bits_do_not_depend_on_the_scheduler() -> None:
    image = random_pixels(np.random.default_rng(0), (200, 190), "float32")
    results = []
    for scheduler, chunks in (("threads", 31), ("synchronous", 200)):
        with dask.config.set(scheduler=scheduler):
            chunked = da.from_array(image, chunks=chunks)
            results.append(lazy.pad(chunked, (256, 250), None, None, None).compute())
    np.testing.assert_array_equal(*results)


# --- tiles ---------------------------------------------------------------------------------------

cuts = st.tuples(st.integers(1, 40), st.integers(1, 40))


@pytest.mark.row("D1")
@given(images(), cuts)
@settings(max_examples=25)
def test_tile_and_untile_is_the_identity(pair, tile) -> None:
    image, chunked = pair
    eager = {(r, c): t for r, c, t in iter_tiles(image, tile)}
    np.testing.assert_array_equal(untile(eager, image.shape), image)
    assert {t.shape for t in eager.values()} == {tile}
    lazily = {(r, c): t for r, c, t in iter_tiles(chunked, tile)}
    assert list(lazily) == list(eager)
    same(untile(lazily, image.shape), image)


@given(
    images(), cuts, st.tuples(st.integers(0, 3), st.integers(0, 3)), st.sampled_from([3, "random"])
)
@settings(max_examples=25)
def test_lazy_tiles_are_eager_tiles(pair, tile, grid, fill) -> None:
    image, chunked = pair
    stored = zarr.create_array(MemoryStore(), data=image, chunks=(9, 11))
    for (r, c, eager), (_, _, of_dask), (_, _, of_zarr) in zip(
        *(iter_tiles(i, tile, grid, fill) for i in (image, chunked, stored)), strict=True
    ):
        same(of_dask, eager)
        same(of_zarr, eager)
        inside = image[r * tile[0] :, c * tile[1] :][: tile[0], : tile[1]]
        np.testing.assert_array_equal(eager[: inside.shape[0], : inside.shape[1]], inside)
        if fill == 3:
            assert (eager[inside.shape[0] :] == 3).all()
            assert (eager[:, inside.shape[1] :] == 3).all()
        elif inside.size:
            assert inside.min() <= eager.min() <= eager.max() <= inside.max()


@pytest.mark.parametrize("chunks", [(10, 10), (7, 32)])
def test_a_tile_reads_its_chunks_and_no_others(chunks) -> None:
    image = random_pixels(np.random.default_rng(0), (60, 64), "uint16")
    array, asked = counted(image, chunks)
    for lazily in (array, da.from_array(array, chunks=chunks)):
        tiles = {(r, c): t for r, c, t in iter_tiles(lazily, (16, 16), fill="random")}
        assert asked == []
        for (row, col), tile in tiles.items():
            inside = image[row * 16 :, col * 16 :][:16, :16]
            np.testing.assert_array_equal(tile.compute()[: len(inside)], inside)
            touched = {
                f"{y // chunks[0]}/{x // chunks[1]}"
                for y in range(row * 16, min(row * 16 + 16, 60))
                for x in range(col * 16, col * 16 + 16)
            }
            assert set(asked) == touched
            assert len(asked) == len(touched)
            asked.clear()


def test_a_crop_reads_its_chunks_and_no_others() -> None:
    image = random_pixels(np.random.default_rng(0), (60, 64), "uint16")
    array, asked = counted(image, (10, 10))
    cropped = lazy.crop(lazy.as_lazy(array), Box(-5, 12, 15, 25), 1)
    assert asked == []
    np.testing.assert_array_equal(cropped.compute()[5:], image[:15, 12:25])
    assert sorted(asked) == ["0/1", "0/2", "1/1", "1/2"]


def test_tiles_of_a_very_large_image_cost_nothing_until_computed() -> None:
    huge = da.zeros((10**7, 10**7), chunks=10**5, dtype="uint8")
    tiles = iter_tiles(huge, (256, 256))
    assert next(tiles)[2].shape == (256, 256)
    assert next(tiles)[:2] == (0, 1)


def test_copies_and_views() -> None:
    image = random_pixels(np.random.default_rng(0), (8, 8), "uint8")
    copies = [t for *_, t in iter_tiles(image, (4, 4))]
    views = [t for *_, t in iter_tiles(image, (4, 4), copy=False)]
    assert not any(np.shares_memory(t, image) for t in copies)
    assert all(np.shares_memory(t, image) for t in views)


def test_tiles_that_cannot_be() -> None:
    image = np.zeros((5, 5), np.uint8)
    with pytest.raises(InputError, match="fill value 300"):
        iter_tiles(image, (2, 2), fill=300)
    with pytest.raises(InputError, match="must be \\(height"):
        iter_tiles(image[None], (2, 2))
    with pytest.raises(ValueError, match="into tiles of"):
        iter_tiles(image, (0, 2))
    with pytest.raises(InputError, match="grid of -1"):
        iter_tiles(image, (2, 2), (-1, 2))
    with pytest.raises(InputError, match="no tiles"):
        untile({})
    with pytest.raises(InputError, match="tile \\(0, 0\\) is missing"):
        untile({(0, 1): image})
    with pytest.raises(InputError, match="tiles of \\(2, 2\\)"):
        untile({(0, 0): image, (0, 1): image[:2, :2]})


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "blocks"),
    [
        ("tiled.tif", {"tile": (32, 48)}, (96, 96)),
        ("deflate.tif", {"tile": (32, 32), "compression": "zlib"}, (96, 96)),
        ("lzw.tif", {"rowsperstrip": 16, "compression": "lzw", "predictor": True}, (80, 210)),
        ("plain.tif", {}, (80, 80)),
        ("whole.png", {}, (300, 210)),
        ("a.npy", {}, (80, 80)),
        ("a.zarr", {}, (100, 80)),
    ],
)
def test_files_open_lazily_in_their_own_blocks(name, options, blocks, tmp_path) -> None:
    image = random_pixels(np.random.default_rng(0), (300, 210), "uint16")
    path = tmp_path / name
    if path.suffix == ".tif":
        tifffile.imwrite(path, image, **options)
    elif path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(image))
    elif path.suffix == ".npy":
        np.save(path, image)
    else:
        zarr.create_array(str(path), data=image, chunks=(50, 40))
    lazily = lazy.open_lazy(path, block=80)
    assert lazily.chunksize == blocks
    same(lazily, image)
    same(lazily[130:151, 33:180], image[130:151, 33:180])


def test_colour_and_stacks_open_lazily(tmp_path) -> None:
    colour = random_pixels(np.random.default_rng(0), (100, 90, 3), "uint8")
    tifffile.imwrite(tmp_path / "c.tif", colour, tile=(32, 32), photometric="rgb")
    same(lazy.open_lazy(tmp_path / "c.tif", 32), np.moveaxis(colour, 2, 0))
    stack = random_pixels(np.random.default_rng(0), (4, 70, 60), "uint8")
    tifffile.imwrite(
        tmp_path / "z.ome.tif", stack, metadata={"axes": "ZYX"}, tile=(16, 16), compression="zlib"
    )
    opened = lazy.open_lazy(tmp_path / "z.ome.tif", 32)
    assert opened.chunksize == (1, 32, 32)
    same(opened, stack)


def test_a_window_of_a_tiled_tiff_reads_only_its_tiles(tmp_path, monkeypatch) -> None:
    from mosaicreg import tiffwindow
    from mosaicreg.imagefile import read_image

    image = random_pixels(np.random.default_rng(0), (128, 128), "uint8")
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(32, 32), compression="zlib")
    seen: list[int] = []
    segment = tiffwindow._segment
    monkeypatch.setattr(tiffwindow, "_segment", lambda p, k: seen.append(k) or segment(p, k))
    window = read_image(tmp_path / "a.tif", Box(33, 60, 64, 65))
    np.testing.assert_array_equal(window, image[33:64, 60:65])
    assert seen == [5, 6]


def test_what_is_lazy() -> None:
    array = zarr.create_array(
        MemoryStore(), shape=(20, 20), chunks=(2, 2), shards=(4, 10), dtype="u1"
    )
    assert lazy.is_lazy(array)
    assert lazy.is_lazy(da.zeros(3))
    assert not lazy.is_lazy(np.zeros(3))
    assert lazy.as_lazy(array).chunksize == (4, 10)
    same(lazy.as_lazy(np.arange(3)), np.arange(3))
