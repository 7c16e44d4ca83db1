"""Warping: exact cases, any chunking, what is read, tiles composed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from strategies import random_pixels, transforms

from mosaicreg.errors import InputError
from mosaicreg.transforms import (
    Affine,
    Grid,
    Mesh,
    Polynomial,
    Rigid,
    Similarity,
    Transform,
    Translation,
)
from mosaicreg.warping import warp, warp_tiles


def texture(height: int, width: int, seed: int = 0, sigma: float = 3.0) -> Any:
    noise = np.random.default_rng(seed).normal(size=(height, width))
    smooth = ndimage.gaussian_filter(noise, sigma)
    span = smooth.max() - smooth.min()
    return ((smooth - smooth.min()) / span * 255).astype(np.uint8)


def five_points(height: int, width: int) -> Mesh:
    source = np.array([(0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1),
                       (height / 2, width / 2)])  # fmt: skip
    moves = np.array([(3, -4), (-6, 2), (5, 5), (-2, -9), (17.5, 11.25)])
    return Mesh(source, source + moves)


def brute(
    image: Any, transform: Transform, shape: tuple[int, int], extrapolate: bool = True
) -> Any:
    """Order 1 in float64, pixel by pixel, and which pixels are in the image."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    points = np.stack([y.ravel(), x.ravel()], axis=1)
    source = transform.inverse_transform(points, extrapolate=extrapolate)
    limits = np.array(image.shape) - 0.5
    with np.errstate(invalid="ignore"):
        there = ((source >= -0.5) & (source <= limits)).all(axis=1)
        near = (np.abs(source + 0.5) < 1e-6) | (np.abs(source - limits) < 1e-6)
    places = np.where(there[:, None], source, 0).T
    value = ndimage.map_coordinates(image.astype(np.float64), places, order=1, mode="nearest")
    return value.reshape(shape), there.reshape(shape), near.any(axis=1).reshape(shape)


def on_the_outline(transform: Transform, shape: tuple[int, int]) -> Any:
    """Pixels that a mesh maps, or not, when they are moved a little."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    points = np.stack([y.ravel(), x.ravel()], axis=1)
    known = [
        np.isfinite(transform.inverse_transform(points + move, extrapolate=False)).all(axis=1)
        for move in 1e-4 * np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    ]
    return (np.ptp(np.array(known, dtype=int), axis=0) > 0).reshape(shape)


class TestExactCases:
    @pytest.mark.row("E1")
    def test_a_ramp_moved(self) -> None:
        ramp = np.arange(1, 13, dtype=np.uint8).reshape(2, 6)
        moved = warp(ramp, Translation((1, 2)), (4, 9), fill=99)
        expected = np.full((4, 9), 99)
        expected[1:3, 2:8] = ramp
        np.testing.assert_array_equal(moved, expected)

    @pytest.mark.row("E1")
    @pytest.mark.parametrize("order", [0, 1])
    @pytest.mark.parametrize("angle", [0, 90, 180, 270])
    def test_quarter_turns_are_those_of_scipy(self, angle: int, order: Any) -> None:
        image = random_pixels(np.random.default_rng(0), (6, 6), "uint8")
        turned = warp(image, Rigid((0, 0), np.deg2rad(angle), (2.5, 2.5)), (6, 6), order=order)
        expected = ndimage.rotate(image, angle, reshape=False, order=0)
        np.testing.assert_array_equal(turned, expected)
        if angle == 90:
            assert turned[4, 0] == image[0, 1]

    @pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "float16", "float32"])
    def test_the_identity_changes_nothing(self, dtype: str) -> None:
        rng = np.random.default_rng(1)
        image = (rng.random((37, 29)) * 200).astype(dtype)
        corners = [(0, 0), (0, 28), (36, 0), (36, 28)]
        for identity in (Translation((0, 0)), Rigid((0, 0), 0.0, (3, 4)), Mesh(corners, corners)):
            for crop in (False, True):
                same = warp(image, identity, (37, 29), extrapolate=not crop)
                assert same.dtype == image.dtype
                np.testing.assert_array_equal(same, image)

    def test_nan_stays_where_it_is(self) -> None:
        image = np.ones((9, 9), np.float32)
        image[4, 5] = np.nan
        corners = [(0, 0), (0, 8), (8, 0), (8, 8)]
        np.testing.assert_array_equal(warp(image, Mesh(corners, corners), (9, 9)), image)
        half = warp(image, Translation((0.5, 0)), (9, 9))
        assert np.argwhere(np.isnan(half)).tolist() == [[4, 5], [5, 5]]

    @pytest.mark.row("E3")
    def test_the_fill_is_never_touched(self) -> None:
        image = np.full((60, 60), 7, dtype=np.int16)
        turned = warp(image, Rigid((20, 20), np.deg2rad(30), (29.5, 29.5)), (100, 100), fill=-1)
        assert set(np.unique(turned)) == {-1, 7}
        assert (turned == 7).sum() == pytest.approx(60 * 60, rel=0.01)

    def test_a_cubic_spline_is_that_of_the_recursive_filter(self) -> None:
        image = texture(90, 80).astype(np.float64)
        turned = warp(image, Rigid((0.3, 0.4), 0.1, (40, 40)), (90, 80), order=3, block=32)
        y, x = np.mgrid[20:70, 20:60].astype(float)
        back = Rigid((0.3, 0.4), 0.1, (40, 40)).inverse_transform(
            np.stack([y.ravel(), x.ravel()], axis=1)
        )
        expected = ndimage.map_coordinates(image, back.T, order=3).reshape(y.shape)
        near = [
            kind(image, 5)[tuple(np.rint(back.T).astype(int))].reshape(y.shape)
            for kind in (ndimage.minimum_filter, ndimage.maximum_filter)
        ]
        expected = np.clip(expected, *near)
        np.testing.assert_allclose(turned[20:70, 20:60], expected, atol=1e-6 * np.ptp(image))

    def test_a_cubic_spline_does_not_overshoot(self) -> None:
        step = np.zeros((40, 40), np.uint8)
        step[:, 20:] = 200
        turned = warp(step, Rigid((0.3, 0.4), 0.1, (20, 20)), (40, 40), order=3)
        assert turned.max() == 200
        wave = np.sin(np.mgrid[:80, :80][0] / 5.0)
        moved = warp(wave, Translation((0.5, 0)), (80, 80), order=3)
        expected = np.sin((np.mgrid[:80, :80][0] - 0.5) / 5.0)
        np.testing.assert_allclose(moved[6:-6], expected[6:-6], atol=5e-3)  # extremes are cut

    @pytest.mark.row("E5")
    def test_there_and_back(self) -> None:
        image = texture(200, 180, sigma=8).astype(np.float32)
        mesh = five_points(200, 180)
        back = warp(warp(image, mesh, (220, 200)), mesh.inverse(), (200, 180))
        error = np.abs(back - image)[15:-15, 15:-15]
        assert error.max() < 0.02 * 255


@given(transforms(size=60), st.booleans(), st.sampled_from(["uint8", "int16", "float32"]),
       st.integers(0, 2**32 - 1))  # fmt: skip
def test_every_pixel_is_what_the_transform_says(
    t: Transform, extrapolate: bool, dtype: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = random_pixels(rng, (60, 55), dtype)
    shape = (int(rng.integers(1, 80)), int(rng.integers(1, 80)))
    result = warp(image, t, shape, extrapolate=extrapolate, fill=-1 if dtype == "int16" else 3)
    value, there, near = brute(image, t, shape, extrapolate)
    if not extrapolate:  # a pixel on the outline of a mesh may be counted in or out
        near = near | on_the_outline(t, shape)
    sure = ~near
    tolerance = 0.501 if dtype != "float32" else 1e-5
    np.testing.assert_allclose(result[sure & there], value[sure & there], rtol=0, atol=tolerance)
    outside = result[sure & ~there]
    assert (outside == (-1 if dtype == "int16" else 3)).all()


@given(transforms(size=60), st.sampled_from([0, 1, 3]), st.integers(0, 2**32 - 1))
def test_lazy_equals_eager_for_any_chunks(t: Transform, order: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = random_pixels(rng, (2, 60, 55), "float32")
    shape = (int(rng.integers(1, 90)), int(rng.integers(1, 90)))
    origin = (float(rng.integers(-9, 9)), float(rng.integers(-9, 9)))
    whole = warp(image, t, shape, order=order, origin=origin)
    source = da.from_array(image, chunks=(1, *(int(v) for v in rng.integers(7, 60, 2))))
    block = (int(rng.integers(5, 90)), int(rng.integers(5, 90)))
    lazy = warp(source, t, shape, order=order, origin=origin, block=block)
    assert isinstance(lazy, da.Array)
    assert lazy.shape == whole.shape
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), whole)


@pytest.mark.row("E2")
def test_a_large_texture_by_a_mesh_in_any_blocks() -> None:
    image = texture(3000, 2500)
    mesh = five_points(3000, 2500)
    whole = warp(image, mesh, (3000, 2500), block=5000)
    for block in (256, 1000):
        np.testing.assert_array_equal(warp(image, mesh, (3000, 2500), block=block), whole)
    image, mesh = image[:1500, :1250], five_points(1500, 1250)
    exact = image / np.float32(7)
    cubic = [warp(exact, mesh, (1500, 1250), order=3, block=b) for b in (256, 333, 5000)]
    np.testing.assert_array_equal(cubic[0], cubic[2])
    np.testing.assert_array_equal(cubic[1], cubic[2])


class Watched:
    """An array that remembers which windows were read."""

    def __init__(self, array: Any) -> None:
        self.array, self.read = array, []
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index[-2:])
        return self.array[index]


def test_a_block_reads_its_window_only() -> None:
    image = Watched(texture(600, 600))
    lazy = warp(image, Rigid((5, 0), 0.02, (300, 300)), (600, 600), block=100)
    lazy.blocks[2, 3].compute(scheduler="synchronous")
    ((rows, columns),) = image.read
    assert rows.stop - rows.start < 115
    assert columns.stop - columns.start < 115
    chunked = da.from_array(image.array, chunks=100)
    lazy = warp(chunked, Translation((50, 50)), (600, 600), block=100)
    graph = lazy.blocks[0, 0].__dask_graph__()
    culled = dask.optimize(lazy.blocks[1, 1])[0].__dask_graph__()
    assert len(culled) < 14 < len(dict(graph))


def test_zarr_and_files_are_read_lazily(tmp_path: Path) -> None:
    import tifffile

    image = texture(120, 90)
    mesh = five_points(120, 90)
    expected = warp(image, mesh, (130, 95))
    store = zarr.create_array(str(tmp_path / "a.zarr"), shape=image.shape, chunks=(32, 32),
                              dtype="uint8")  # fmt: skip
    store[:] = image
    tifffile.imwrite(tmp_path / "ä b.tif", image)
    for source in (store, tmp_path / "ä b.tif", str(tmp_path / "ä b.tif")):
        lazy = warp(source, mesh, (130, 95), block=40)
        assert isinstance(lazy, da.Array)
        np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), expected)


def test_equal_work_has_equal_names_and_can_be_sent(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", texture(90, 80))
    lazy, again = (warp(tmp_path / "a.npy", five_points(90, 80), (90, 80), block=40) for _ in "ab")
    assert lazy.name == again.name
    assert lazy.name != warp(tmp_path / "a.npy", five_points(90, 81), (90, 80), block=40).name
    sent = pickle.loads(pickle.dumps(lazy))
    np.testing.assert_array_equal(sent.compute(scheduler="synchronous"), lazy)


def test_what_is_refused() -> None:
    image = np.zeros((5, 5), np.uint8)
    with pytest.raises(InputError, match="fill value"):
        warp(image, Translation((0, 0)), (5, 5), fill=300)
    with pytest.raises(InputError, match="order"):
        warp(image, Translation((0, 0)), (5, 5), order=2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="complex64 cannot"):
        warp(image.astype(np.complex64), Translation((0, 0)), (5, 5))
    with pytest.raises(InputError, match="a transform is expected"):
        warp(image, "Rigid", (5, 5))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="an image is a path or an array"):
        warp([1, 2], Translation((0, 0)), (5, 5))
    with pytest.raises(InputError, match="is its scale right"):
        warp(image, Affine.scaling(1e-15), (5, 5))
    for shape in ((0, 5), (-1, 5)):
        with pytest.raises(InputError, match="has no pixel"):
            warp(image, Translation((0, 0)), shape)
    ragged = da.from_array(image, chunks=2)
    ragged = ragged[ragged[:, 0] > 0]
    with pytest.raises(InputError, match="not known"):
        warp(ragged, Translation((0, 0)), (5, 5))


WHOLE = texture(180, 220, seed=3)
CORNERS = ((0, 0), (0, 110), (90, 0), (90, 110))


class TestTiles:
    TILES = tuple(WHOLE[y : y + 90, x : x + 110] for y, x in CORNERS)
    SHIFTS = tuple(Translation(c) for c in CORNERS)

    @pytest.mark.row("F1")
    def test_a_mosaic_is_what_it_was_cut_from(self) -> None:
        image, mask = warp_tiles(self.TILES, self.SHIFTS, block=64)
        np.testing.assert_array_equal(image.compute(), WHOLE)
        assert mask.compute().all()
        legendre = [
            Polynomial([1, 0, 1], [1, 1, 0], c, (45, 55)) for c in CORNERS
        ]  # as .mosaic files have it
        np.testing.assert_array_equal(warp_tiles(self.TILES, legendre)[0], WHOLE)

    @pytest.mark.row("F1")
    def test_a_region_is_a_crop_of_the_whole(self) -> None:
        transforms = [Rigid(c, 0.1 * k, (45, 55)) for k, c in enumerate(CORNERS)]
        whole, cover = (a.compute() for a in warp_tiles(self.TILES, transforms, (-9, -9, 200, 230)))
        part, mask = (a.compute() for a in warp_tiles(self.TILES, transforms, (31, 40, 150, 199),
                                                      block=50))  # fmt: skip
        np.testing.assert_array_equal(part, whole[40:159, 49:208])
        np.testing.assert_array_equal(mask, cover[40:159, 49:208])

    @pytest.mark.row("F1")
    def test_half_scale_takes_every_other_pixel(self) -> None:
        image, _ = warp_tiles(self.TILES, self.SHIFTS, scale=0.5, order=0)
        np.testing.assert_array_equal(image.compute(), WHOLE[::2, ::2])
        small = [t[::2, ::2] for t in self.TILES]
        image, _ = warp_tiles(small, self.SHIFTS, scale=0.5, tile_scale=0.5)
        np.testing.assert_array_equal(image.compute(), WHOLE[::2, ::2])

    @pytest.mark.row("F2")
    def test_the_seam_is_half_way_and_ties_go_to_the_first(self) -> None:
        tiles = [np.full((11, 20), v, np.uint8) for v in (1, 2)]
        image, _ = warp_tiles(tiles, [Translation((0, 0)), Translation((0, 10))])
        row = image.compute()[5]
        assert row.tolist() == [1] * 15 + [2] * 15  # centres at 9.5 and 19.5: 14.5 is half way
        image, _ = warp_tiles(tiles, [Translation((0, 0)), Translation((0, 11))])
        row = image.compute()[5]
        assert row[15] == 1  # the tie: 5.5 px from both
        assert row[16] == 2
        image, _ = warp_tiles(tiles[::-1], [Translation((0, 11)), Translation((0, 0))])
        assert image.compute()[5, 15] == 2

    def test_composites(self) -> None:
        tiles = [np.full((4, 20), v, np.float32) for v in (1, 3)]
        places = [Translation((0, 0)), Translation((0, 10))]
        rows = {c: warp_tiles(tiles, places, composite=c)[0].compute()[1]  # type: ignore[arg-type]
                for c in ("max", "mean", "linear")}  # fmt: skip
        assert rows["max"].tolist() == [1] * 10 + [3] * 20
        assert rows["mean"].tolist() == [1] * 10 + [2] * 10 + [3] * 10
        assert (np.diff(rows["linear"]) >= 0).all()
        np.testing.assert_allclose(rows["linear"][10:20], [1 + 2 * k / 11 for k in range(1, 11)],
                                   rtol=1e-6)  # fmt: skip

    @pytest.mark.row("F3")
    def test_outside_all_tiles_is_fill_and_no_mask(self) -> None:
        image, mask = warp_tiles(self.TILES, self.SHIFTS, (500, 500, 520.5, 530), fill=4)
        assert image.shape == (21, 30)
        assert (image.compute() == 4).all()
        assert not mask.compute().any()

    @pytest.mark.row("F3")
    def test_negative_positions_and_shape(self) -> None:
        shifts = [Translation(np.array(c) - (300.5, 41)) for c in CORNERS]
        image, mask = warp_tiles(self.TILES, shifts, scale=0.7)
        assert image.shape == (int(np.ceil(180 * 0.7)), int(np.ceil(220 * 0.7)))
        assert mask.compute()[60, 70]

    @pytest.mark.parametrize("kind", ["dask", "zarr", "file"])
    def test_lazy_tiles_and_any_chunks(self, kind: str, tmp_path: Path) -> None:
        turned = [Similarity(c, 0.05 * k, (45, 55), 1.02) for k, c in enumerate(CORNERS)]
        expected = [a.compute() for a in warp_tiles(self.TILES, turned)]
        tiles: list[Any] = [da.from_array(t, chunks=37) for t in self.TILES]
        if kind != "dask":
            tiles = []
            for k, tile in enumerate(self.TILES):
                path = tmp_path / f"{k}.{kind}"
                if kind == "zarr":
                    array = zarr.create_array(str(path), shape=tile.shape, chunks=(20, 20),
                                              dtype="uint8")  # fmt: skip
                    array[:] = tile
                    tiles.append(array)
                else:
                    np.save(tmp_path / f"{k}.npy", tile)
                    tiles.append(tmp_path / f"{k}.npy")
        for block in (33, 100):
            result = warp_tiles(tiles, turned, block=block)
            for one, other in zip(result, expected, strict=True):
                np.testing.assert_array_equal(one.compute(scheduler="synchronous"), other)

    def test_leading_axes_and_grids(self) -> None:
        tiles = [np.stack([t, 255 - t]) for t in self.TILES]
        grids = [Grid.sampled(s, (0, 0, 89, 109), (2, 2)) for s in self.SHIFTS]
        image, _ = warp_tiles(tiles, grids, (0, 0, 180, 220), block=64)
        np.testing.assert_array_equal(image[0].compute(), WHOLE)
        np.testing.assert_array_equal(image[1].compute(), 255 - WHOLE)

    def test_what_is_refused(self) -> None:
        with pytest.raises(InputError, match="make no mosaic"):
            warp_tiles(self.TILES, self.SHIFTS[:2])
        with pytest.raises(InputError, match="share one dtype"):
            warp_tiles([*self.TILES[:3], self.TILES[3].astype(float)], self.SHIFTS)
        with pytest.raises(InputError, match="has no pixel"):
            warp_tiles(self.TILES, self.SHIFTS, (0, 0, 0, 10))
        with pytest.raises(InputError, match="composite is one of"):
            warp_tiles(self.TILES, self.SHIFTS, composite="best")  # type: ignore[arg-type]
