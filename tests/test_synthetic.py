"""The simulator: its truth must be true, or no accuracy means anything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg import synthetic
from mosaicreg.synthetic import Acquisition, Camera, Specimen

corners = st.tuples(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))


@given(st.integers(0, 2**31), corners, st.integers(1, 60), st.integers(1, 60))
def test_a_specimen_looks_the_same_from_every_window(seed, corner, dy, dx) -> None:
    specimen = Specimen(seed=seed)
    whole = specimen.render(corner, (80, 90))
    part = specimen.render((corner[0] + dy % 40, corner[1] + dx % 40), (40, 50))
    window = whole[dy % 40 : dy % 40 + 40, dx % 40 : dx % 40 + 50]
    np.testing.assert_allclose(part, window, rtol=2e-4)


def test_views_between_pixels_lie_between_pixels() -> None:
    specimen = Specimen(seed=1, empty=0.0)
    fine = [specimen.render((0, k / 4), (60, 60)) for k in range(5)]
    np.testing.assert_allclose(fine[4][:, :-1], fine[0][:, 1:], rtol=1e-3)
    steps = [np.abs(b - a).mean() for a, b in itertools.pairwise(fine)]
    assert max(steps) < 1.2 * min(steps)
    assert np.abs(fine[2] - fine[0]).mean() < np.abs(fine[4] - fine[0]).mean()


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_the_empty_share_is_as_asked(share) -> None:
    specimen = Specimen(seed=2, empty=share)
    views = [specimen.tissue((y * 3000, x * 3000), (400, 400)) for y in range(5) for x in range(5)]
    assert (np.array(views) < 0.5).mean() == pytest.approx(share, abs=0.12)


def test_another_seed_is_another_specimen() -> None:
    views = [Specimen(seed=k).render((0, 0), (60, 60)) for k in range(3)]
    assert not np.array_equal(views[0], views[1])
    assert abs(np.corrcoef(views[0].ravel(), views[2].ravel())[0, 1]) < 0.5


def test_noise_is_as_strong_as_the_camera_says() -> None:
    scene = np.full((300, 300), 500, np.float32)
    camera = Camera(read_noise=20, vignetting=0)
    image = camera.record(scene, np.random.default_rng(0)).astype(float)
    assert image.mean() == pytest.approx(500, rel=0.01)
    assert image.std() == pytest.approx(np.sqrt(20**2 + 500), rel=0.02)


def test_vignetting_darkens_the_corners_by_what_it_says() -> None:
    camera = Camera(read_noise=0, shot_noise=False, vignetting=0.3)
    image = camera.record(np.full((101, 101), 10_000, np.float32), np.random.default_rng(0))
    assert image[50, 50] == 10_000
    assert image[0, 0] == pytest.approx(7_000, rel=1e-3)


def test_tiles_show_the_specimen_at_their_true_positions() -> None:
    acquisition = Acquisition(grid=(2, 2), tile=(60, 80), camera=synthetic.CLEAN, subpixel=False)
    for k, (y, x) in enumerate(acquisition.truth):
        expected = acquisition.specimen.render((y, x), (60, 80))
        np.testing.assert_array_equal(acquisition.tile_image(k), np.rint(expected))
    assert (acquisition.truth == np.rint(acquisition.truth)).all()
    assert np.abs(acquisition.truth - acquisition.stage).max() <= acquisition.stage_error + 0.5


def test_tiles_are_the_same_each_time_and_from_their_mosaic() -> None:
    acquisition = Acquisition(grid=(2, 3), tile=(50, 60))
    source = acquisition.mosaic.source.select(np.array([4, 1]))
    from mosaicreg.geometry import Box

    np.testing.assert_array_equal(
        source.read(0, Box(5, 6, 20, 40), ()), acquisition.tile_image(4)[5:20, 6:40]
    )


def test_a_written_acquisition_is_what_it_was(tmp_path) -> None:
    from mosaicreg import open_mosaic
    from mosaicreg.imagefile import read_image

    acquisition = Acquisition(grid=(2, 2), tile=(50, 60))
    acquisition.write(tmp_path)
    mosaic = open_mosaic(tmp_path)
    assert (mosaic.positions == acquisition.stage).all()
    for k, name in enumerate(mosaic.names):
        np.testing.assert_array_equal(read_image(tmp_path / str(name)), acquisition.tile_image(k))


def test_a_million_tiles_need_no_memory_until_they_are_read() -> None:
    acquisition = Acquisition(grid=(1000, 1000), tile=(1024, 1024))
    mosaic = acquisition.mosaic
    assert len(mosaic) == 1_000_000
    assert mosaic.source.select(np.array([999_999])).read.__self__.tiles.tolist() == [999_999]
