"""One section on another at any angle: found, told apart from chance, and never read whole."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from scipy.ndimage import map_coordinates, spline_filter

from mosaicreg import AlignmentRecord, InputError, find_rigid
from mosaicreg.aligning import MATCHED
from mosaicreg.rigid import Pose
from mosaicreg.synthetic import Specimen

MARGIN = 260


def sections(
    truth: AlignmentRecord,
    fixed_shape: tuple[int, int],
    moving_shape: tuple[int, int],
    seed: int = 5,
    noise: float = 150.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Two noisy pictures of one specimen; the moving one lies on the fixed one as told."""
    corner, size = (-MARGIN, -MARGIN), (fixed_shape[0] + 2 * MARGIN, fixed_shape[1] + 2 * MARGIN)
    scene = Specimen(seed=seed, empty=0.0).render(corner, size)
    points = np.indices(moving_shape).reshape(2, -1).T
    there = truth.transform(points, fixed_shape, moving_shape) + MARGIN
    moving = map_coordinates(spline_filter(scene, 3), there.T, order=3, prefilter=False)
    rng = np.random.default_rng(seed)
    fixed = scene[MARGIN:-MARGIN, MARGIN:-MARGIN]
    return (
        (fixed + rng.normal(0, noise, fixed_shape)).clip(0, 65535).astype(np.uint16),
        (moving.reshape(moving_shape) + rng.normal(0, noise, moving_shape))
        .clip(0, 65535)
        .astype(np.uint16),
    )


def assert_found(found: AlignmentRecord, truth: AlignmentRecord) -> None:
    assert found.flipped_ud == truth.flipped_ud
    assert found.scale == truth.scale
    assert abs((found.angle - truth.angle + 180) % 360 - 180) < 0.2
    assert np.abs(np.subtract(found.peak, truth.peak)).max() < 1


# --- found ---------------------------------------------------------------------------------------


@pytest.mark.row("I3 search")
@pytest.mark.parametrize(
    ("truth", "shapes"),
    [
        (AlignmentRecord((31.3, -42.7), 0, -132.4), ((420, 450), (400, 380))),
        (AlignmentRecord((-20.8, 12.1), 0, 71.4, flipped_ud=True), ((401, 420), (420, 401))),
        (AlignmentRecord((4.0, 9.5), 0, 179.9), ((380, 380), (450, 420))),
    ],
)
def test_angle_peak_and_flip_are_found_all_around(truth, shapes) -> None:
    found = find_rigid(*sections(truth, *shapes), flip=True)
    assert_found(found, truth)
    assert found.chance < MATCHED


@pytest.mark.row("I3 search")
def test_an_image_lies_on_itself() -> None:
    image, _ = sections(AlignmentRecord((0, 0), 0), (500, 430), (10, 10))
    found = find_rigid(image, image, flip=True)
    assert not found.flipped_ud
    assert abs(found.angle) < 1e-3
    assert np.abs(found.peak).max() < 1e-2


def test_the_scale_is_found_among_those_given() -> None:
    truth = AlignmentRecord((10.3, -5.7), 0, 12.3, scale=1.25)
    pair = sections(truth, (420, 420), (336, 336))
    assert_found(find_rigid(*pair, scales=(0.8, 1.0, 1.25)), truth)


def test_given_angles_are_refined_between_their_neighbours() -> None:
    truth = AlignmentRecord((5.0, -6.0), 0, 8.7)
    pair = sections(truth, (420, 420), (420, 420))
    found = find_rigid(*pair, angles=[0, 5, 10, 15])
    assert_found(found, truth)
    assert found.chance < MATCHED


def test_what_masks_hide_does_not_count() -> None:
    truth = AlignmentRecord((12.0, 8.0), 0, 40.0)
    fixed, moving = sections(truth, (500, 500), (500, 500))
    masks = []
    for image in (fixed, moving):  # the same label at the same place of both: a perfect match at 0
        label = np.zeros(image.shape, dtype=bool)
        label[40:200, 40:420] = True
        image[label] = np.random.default_rng(1).integers(0, 65535, label.sum())
        masks.append(~label)
    found = find_rigid(fixed, moving, fixed_mask=masks[0], moving_mask=masks[1], min_overlap=0.4)
    assert_found(found, truth)


def test_the_black_around_a_mosaic_does_not_count() -> None:
    truth = AlignmentRecord((12.0, 8.0), 0, 40.0)
    fixed, moving = sections(truth, (560, 560), (560, 560))
    fixed[:100], fixed[:, :60], moving[-80:] = 0, 0, 0
    assert_found(find_rigid(fixed, moving), truth)


def test_the_direction_of_the_angle_is_that_of_records() -> None:
    pose, record = Pose(37.0, True, 1.3), AlignmentRecord((0, 0), 0, 37.0, True, 1.3)
    step = record.transform([(11, 10), (10, 11)], (21, 21), (21, 21)) - 10
    np.testing.assert_allclose(pose.back @ step.T, np.eye(2), atol=1e-12)


# --- told apart ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_images_of_different_specimens_are_no_match(seed) -> None:
    fixed, _ = sections(AlignmentRecord((0, 0), 0), (400, 400), (10, 10), seed=seed)
    other, _ = sections(AlignmentRecord((0, 0), 0), (400, 400), (10, 10), seed=seed + 10)
    found = find_rigid(fixed, other, flip=True)
    assert found.chance > 10 * MATCHED


def test_nothing_to_see_is_no_match() -> None:
    flat = np.full((200, 200), 7, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)
    for pair in ((flat, noise), (noise, flat), (np.full((200, 200), np.nan), noise)):
        found = find_rigid(*pair)
        assert (found.weight, found.chance, found.peak) == (0, 1, (0, 0))


# --- of any size ---------------------------------------------------------------------------------


def test_chunks_make_no_difference(tmp_path) -> None:
    pair = sections(AlignmentRecord((3.0, 4.0), 0, 25.0), (450, 430), (410, 440))
    eager = find_rigid(*pair, angles=range(0, 50, 2))
    lazy = find_rigid(*(da.from_array(i, chunks=(130, 90)) for i in pair), angles=range(0, 50, 2))
    stored = [zarr.create_array(tmp_path / f"{k}", data=i, chunks=(64, 64))
              for k, i in enumerate(pair)]  # fmt: skip
    assert eager == lazy == find_rigid(*stored, angles=range(0, 50, 2))


class Watched:
    """A chunked image that remembers the largest window read of it."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.shape, self.dtype = image, image.shape, image.dtype
        self.chunks, self.store, self.most = (256, 256), None, 0

    def __getitem__(self, index: Any) -> np.ndarray:
        part = self.image[index]
        self.most = max(self.most, part.size)
        return part


def test_no_image_is_read_whole(monkeypatch) -> None:
    for room in ("reducing", "displacements"):
        monkeypatch.setattr(f"mosaicreg.{room}.BLOCK", 300)
    truth = AlignmentRecord((30.0, -40.0), 0, 15.0)
    pair = [Watched(i) for i in sections(truth, (1200, 1000), (1000, 1200))]
    assert_found(find_rigid(*pair, angles=range(0, 40, 2)), truth)
    assert max(p.most for p in pair) < 0.5 * 1000 * 1200


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fixed": np.zeros((3, 20, 20))}, "height, width"),
        ({"moving": np.zeros((0, 20))}, "height, width"),
        ({"fixed_mask": np.ones((5, 5), bool)}, "mask of the fixed image"),
        ({"angles": []}, "angles"),
        ({"angles": [np.nan]}, "angles"),
        ({"scales": [0]}, "scales"),
        ({"min_overlap": 0}, "overlap"),
        ({"moving": np.zeros((20, 20), complex)}, "complex"),
    ],
)
def test_what_cannot_be_is_refused(change, words) -> None:
    image = np.random.default_rng(0).random((60, 60))
    options = {"fixed": image, "moving": image, **change}
    with pytest.raises(InputError, match=words):
        find_rigid(**options)
