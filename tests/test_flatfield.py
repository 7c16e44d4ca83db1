"""Flat and dark fields: what a known camera did to known tiles is found and taken out."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import mosaicreg
from mosaicreg import (
    InputError,
    Mosaic,
    correct_illumination,
    corrected_mosaic,
    estimate_dark_field,
    estimate_flat_field,
)
from mosaicreg.illumination import cell_means, correct
from mosaicreg.nornir import SaveImage

PLANE = (192, 256)


def contents(count: int, seed: int = 0, plane=PLANE) -> np.ndarray:
    """Tiles that differ in texture, by 30 %, and in brightness, threefold; float64 about 3000."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.standard_normal((count, *plane)), (0, 1.5, 1.5))
    texture /= texture.std()
    return 3000 * np.exp(0.3 * texture) * rng.uniform(0.5, 1.5, (count, 1, 1))


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Tiles without any vignetting."""
    return contents(120)


def vignetting(loss: float = 0.4, plane=PLANE) -> np.ndarray:
    """Light falls off as the fourth power of a cosine about a point off the centre."""
    y, x = (np.linspace(-1, 1, n) for n in plane)
    r = (y[:, None] - 0.2) ** 2 + (x[None] + 0.1) ** 2
    light = (1 + r * ((1 - loss) ** -0.5 - 1) / 2.65) ** -2.0
    return light / light.max()


@pytest.mark.row("I4")
@pytest.mark.parametrize(("loss", "dtype"), [(0.1, "float32"), (0.4, "uint16")])
def test_vignetting_is_taken_out_of_tiles_that_all_differ(truth, loss: float, dtype: str) -> None:
    light = vignetting(loss)
    tiles = np.rint(truth * light).astype(dtype)
    flat = estimate_flat_field(tiles)
    assert (flat.dtype, flat.shape, float(flat.max())) == (np.float32, PLANE, 1.0)
    corrected = correct_illumination(tiles, flat)
    assert corrected.dtype == tiles.dtype
    np.testing.assert_allclose(corrected, truth, rtol=0.02, atol=2)


def test_content_is_not_taken_for_light(truth) -> None:
    np.testing.assert_allclose(estimate_flat_field(truth), 1, rtol=0.01)


def test_dark_objects_on_a_bright_ground_ask_for_a_high_percentile() -> None:
    rng = np.random.default_rng(1)
    light = vignetting(0.3)
    objects = gaussian_filter(rng.standard_normal((60, *PLANE)), (0, 6, 6))
    truth = np.where(objects > 0.5 * objects.std(), 300.0, 1000.0)
    tiles = (truth * light).astype(np.float32)
    flat = estimate_flat_field(tiles, percentile=75)
    np.testing.assert_allclose(correct_illumination(tiles, flat), truth, rtol=0.02)


def test_odd_tiles_do_little_harm(truth) -> None:
    """One tile in twelve is eight times as bright in its upper part: the mean would err by 19 %.

    The median moves to the 0.545 quantile of the rest there, by a ninth of their spread of some
    0.2, on top of the 2 % without them.
    """
    light = vignetting(0.3)
    tiles = truth * light
    tiles[::12, :80] *= 8
    tiles[2::50] = 0
    tiles[3::50, :, 120:] = np.nan
    flat = estimate_flat_field(tiles)
    np.testing.assert_allclose(flat, light, rtol=0.05)


def test_maximum_and_minimum_as_nornir_took_them() -> None:
    tiles = np.array([[[10, 4], [7, 2]], [[3, 8], [5, 6]]], dtype=np.uint8)
    flat = estimate_flat_field(tiles, method="maximum")
    np.testing.assert_allclose(flat, np.array([[10, 8], [7, 6]]) / 10, rtol=1e-6)
    dark = estimate_dark_field(tiles)
    np.testing.assert_array_equal(dark, np.array([[3, 4], [5, 2]]) - 2)
    assert correct_illumination(tiles, flat).tolist()[0] == [[10, 5], [10, 3]]
    taken = correct_illumination(tiles, dark=np.full((2, 2), 5.0))
    assert taken.tolist() == [[[5, 0], [2, 0]], [[0, 3], [0, 1]]]
    np.testing.assert_allclose(
        estimate_flat_field(tiles, method="maximum", dark=dark),
        np.array([[9, 6], [4, 6]]) / 9,
        rtol=1e-6,
    )


def test_a_dark_field_goes_before_the_flat_one(truth) -> None:
    light = vignetting()
    dark = 200 + 100 * np.linspace(0, 1, PLANE[1])[None] * np.ones((PLANE[0], 1))
    tiles = np.rint(truth * light + dark).astype(np.uint16)
    flat = estimate_flat_field(tiles, dark=dark)
    corrected = correct_illumination(tiles, flat, dark)
    np.testing.assert_allclose(corrected, truth, rtol=0.02, atol=2)


@given(
    st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "uint32", "float32", "float64"]),
    st.integers(0, 10**6),
)
def test_correcting_saturates_and_keeps_the_type(dtype, seed) -> None:
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    info = None if kind.kind == "f" else np.iinfo(kind)
    low, high = (0, 1) if info is None else (int(info.min), int(info.max))
    image = rng.uniform(low, high, (7, 9)).astype(kind)
    image[0, 0], image[0, 1] = low, high
    flat = rng.uniform(0.05, 1, image.shape)
    dark = rng.uniform(0, 20, image.shape)
    found = correct(image, flat, dark)
    assert found.dtype == kind
    exact = (image.astype(np.longdouble) - dark.astype(np.float32)) / flat.astype(np.float32)
    if info is not None:
        exact = np.clip(np.rint(exact), low, high)
    scale = np.maximum(np.abs(exact), np.abs(image.astype(np.longdouble)) + 20)
    assert (np.abs(found - exact) <= 1.01 * (info is not None) + 4e-7 * scale / flat).all()


def test_lazy_is_the_same_as_in_memory() -> None:
    plane = (96, 128)
    tiles = np.rint(contents(12, plane=plane) * vignetting(0.4, plane)).astype(np.uint16)
    for chunks in ((5, 40, 50), (1, 96, 128), (12, 50, 128)):
        stack = da.from_array(tiles, chunks=chunks)
        for options in ({}, {"method": "maximum"}, {"percentile": 80, "most": 5}):
            lazily = estimate_flat_field(stack, **options)
            assert isinstance(lazily, da.Array)
            np.testing.assert_array_equal(lazily, estimate_flat_field(tiles, **options))
        np.testing.assert_array_equal(estimate_dark_field(stack), estimate_dark_field(tiles))
        flat = estimate_flat_field(tiles)
        dark = estimate_dark_field(tiles)
        for fields in ((flat, dark), (flat, None), (None, dark), (None, None)):
            np.testing.assert_array_equal(
                correct_illumination(stack, *fields), correct_illumination(tiles, *fields)
            )


def test_each_channel_has_its_own_field_and_time_is_pooled() -> None:
    series = contents(240, 1).reshape(40, 3, 2, *PLANE)  # tiles, times, channels
    light = np.stack([vignetting(0.2), vignetting(0.4)])
    tiles = (series * light).astype(np.float32)
    mosaic = Mosaic.from_arrays(list(tiles), [(0, 100 * k) for k in range(40)], axes="tcyx")
    flat = estimate_flat_field(mosaic).compute()
    assert flat.shape == (1, 2, *PLANE)
    np.testing.assert_allclose(flat[0], light, rtol=0.02)
    assert estimate_flat_field(mosaic, method="maximum").compute().shape == (1, 2, *PLANE)
    assert estimate_dark_field(mosaic).compute().shape == (1, 2, *PLANE)


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_mosaic_whose_tiles_are_corrected_as_they_are_read(tmp_path, suffix) -> None:
    truth, light = contents(4).astype(np.float32), vignetting().astype(np.float32)
    places = [(0, 0), (0, 200), (150, 0), (150, 200)]
    mosaic = Mosaic.from_arrays(list(truth * light), places)
    path = tmp_path / f"licht{suffix}"
    if suffix == ".npy":
        np.save(path, light)
    else:
        SaveImage(str(path), light)
    better = corrected_mosaic(mosaic, path)
    layout = mosaicreg.stage_layout(mosaic)
    image = mosaicreg.assemble(better, layout, block=64)
    straight = mosaicreg.assemble(Mosaic.from_arrays(list(truth), places), layout, block=200)
    np.testing.assert_allclose(image, straight, rtol=1e-5)
    assert (better.source.stamps() != mosaic.source.stamps()).all()
    assert len(better.source.select(np.array([2]))) == 1


def test_a_task_carries_the_place_of_a_field_and_not_the_field(tmp_path) -> None:
    """A field of 16 MB in each of ten thousand tasks would be 160 GB of graph."""
    import pickle

    from mosaicreg.source import FileSource

    np.save(tmp_path / "flat.npy", np.ones((512, 512), dtype=np.float32))
    files = FileSource(tmp_path, np.array([f"{k}.tif" for k in range(6)]), np.dtype("u2"), ())
    mosaic = Mosaic([str(k) for k in range(6)], [(0, 400 * k) for k in range(6)], [(512, 512)] * 6,
                    files)  # fmt: skip
    better = corrected_mosaic(mosaic, tmp_path / "flat.npy")
    assert len(pickle.dumps(better.source.select(np.array([1, 2])))) < 2000


def test_memory_does_not_grow_with_the_tiles() -> None:
    """At most a few of 64 tiles are in memory at once, one thread computing."""
    alive, most = [0], [0]

    class Counted:
        dtype, leading, interleaved = np.dtype("uint16"), (), False

        def __len__(self) -> int:
            return 64

        def read(self, tile, box, lead):
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            return np.full(box.shape, 7, dtype=np.uint16).view(Tracked)

        def select(self, tiles):
            return self

    class Tracked(np.ndarray):
        def __del__(self) -> None:
            if self.base is None or not isinstance(self.base, Tracked):
                alive[0] -= 1

    mosaic = Mosaic([str(k) for k in range(64)], [(0, 50 * k) for k in range(64)],
                    [(60, 60)] * 64, Counted())  # fmt: skip
    with dask.config.set(scheduler="single-threaded"):
        flat = estimate_flat_field(mosaic).compute()
    np.testing.assert_allclose(flat, 1, rtol=1e-6)
    assert most[0] <= 4


def test_tiles_are_spread_evenly_over_a_mosaic() -> None:
    tiles = np.ones((10, 4, 4), dtype=np.float32)
    tiles[[1, 5, 8]] = vignetting(0.4, (4, 4))
    some = estimate_flat_field(tiles, most=3)
    np.testing.assert_array_equal(some, estimate_flat_field(tiles[[1, 5, 8]]))
    assert some.min() < 0.7


def test_cells_of_uneven_size_hold_every_pixel_once() -> None:
    image = np.arange(70 * 33, dtype=float).reshape(70, 33)
    image[0, 0] = np.nan
    means = cell_means(image)
    assert means.shape == (32, 32)
    assert means[0, 0] == np.float32(np.nanmean(image[:2, :1]))
    assert means[-1, -1] == np.float32(image[67:, 31:].mean())
    assert cell_means(np.ones((3, 2))).shape == (3, 2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (2, 3)])
def test_tiny_tiles(shape) -> None:
    flat = estimate_flat_field(np.full((3, *shape), 5, dtype=np.uint8))
    np.testing.assert_allclose(flat, np.ones(shape), rtol=1e-6)


def test_what_cannot_be_is_refused(tmp_path) -> None:
    tiles = np.ones((3, 8, 9), dtype=np.uint8)
    mosaic = Mosaic.from_arrays(list(tiles), [(0, 5 * k) for k in range(3)])
    with pytest.raises(InputError, match="no tile has light"):
        estimate_flat_field(tiles * 0)
    with pytest.raises(InputError, match="no tile has light"):
        estimate_flat_field(tiles * 0, method="maximum")
    with pytest.raises(InputError, match="from one tile"):
        estimate_flat_field(tiles[:1])
    with pytest.raises(InputError, match="'mean'"):
        estimate_flat_field(tiles, method="mean")
    with pytest.raises(InputError, match="0 to 100"):
        estimate_flat_field(tiles, percentile=101)
    with pytest.raises(InputError, match="at least one"):
        estimate_flat_field(tiles, most=0)
    with pytest.raises(InputError, match="not of shape"):
        estimate_flat_field(tiles[0])
    with pytest.raises(InputError, match="one size"):
        estimate_flat_field(Mosaic.from_arrays([tiles[0], tiles[0, :5]], [(0, 0), (0, 5)]))
    with pytest.raises(InputError, match="above 0"):
        correct_illumination(tiles, np.zeros((8, 9)))
    with pytest.raises(InputError, match=r"\(9, 8\) px"):
        correct_illumination(tiles, np.ones((9, 8)))
    with pytest.raises(InputError, match="NaN"):
        correct_illumination(tiles, dark=np.full((8, 9), np.nan))
    for image in (tiles, da.from_array(tiles, chunks=4)):
        with pytest.raises(InputError, match="does not fit"):
            correct_illumination(image, np.ones((2, 8, 9)))
    np.save(tmp_path / "two.npy", np.ones((2, 8, 9)))
    with pytest.raises(InputError, match="does not fit"):
        corrected_mosaic(mosaic, tmp_path / "two.npy")
    with pytest.raises(mosaicreg.ImageError, match="no such file"):
        corrected_mosaic(mosaic, tmp_path / "none.npy")
