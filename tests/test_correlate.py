"""Pairwise registration: known shifts come back, chance is not mistaken for a match."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg import find_offset
from mosaicreg.correlate import (
    SURE,
    Strips,
    match_strips,
    refine,
    rough_match,
)
from mosaicreg.geometry import Box
from mosaicreg.strips import bin_mean, flatten, plan_search
from mosaicreg.subpixel import smooth
from mosaicreg.surface import correlation_surface
from mosaicreg.synthetic import CLEAN, Camera, Specimen

SPECIMEN = Specimen(seed=1, empty=0.0)


def cut(y: float, x: float, shape: tuple[int, int] = (256, 256)) -> np.ndarray:
    """A clean view of the specimen whose first pixel lies at (y, x)."""
    return CLEAN.record(SPECIMEN.render((y, x), shape), np.random.default_rng(0))


# --- which strips, which shifts ------------------------------------------------------------------

sides = st.integers(1, 40)


@given(
    st.tuples(sides, sides),
    st.tuples(sides, sides),
    st.tuples(st.integers(-50, 50), st.integers(-50, 50)),
    st.tuples(st.integers(0, 12), st.integers(0, 12)),
)
def test_the_strips_hold_every_overlap_that_is_allowed(fixed, moving, expected, reach) -> None:
    search = plan_search(fixed, moving, expected, reach)
    allowed = [
        (dy, dx)
        for dy in range(expected[0] - reach[0], expected[0] + reach[0] + 1)
        for dx in range(expected[1] - reach[1], expected[1] + reach[1] + 1)
        if Box.at((dy, dx), moving).intersection(Box.at((0, 0), fixed))
    ]
    if search is None:
        assert not allowed
        return
    shifts = {(dy - search.origin[0], dx - search.origin[1]) for dy, dx in allowed}
    assert {min(shifts), max(shifts)} == {search.first, search.last}
    for dy, dx in allowed:
        common = Box.at((dy, dx), moving).intersection(Box.at((0, 0), fixed))
        assert search.fixed.contains(common)
        assert search.moving.contains(common.shifted(-dy, -dx))


@given(st.integers(0, 1000), st.tuples(sides, sides), st.tuples(sides, sides))
def test_the_surface_is_the_correlation_of_each_overlap(seed, fixed_shape, moving_shape) -> None:
    rng = np.random.default_rng(seed)
    f = rng.normal(size=fixed_shape).astype(np.float32)
    m = rng.normal(size=moving_shape).astype(np.float32)
    first = np.array([-rng.integers(0, n) for n in moving_shape])
    last = np.array([rng.integers(0, n) for n in fixed_shape])
    height, valid = correlation_surface(f, m, first, last)
    largest = 0
    for i, dy in enumerate(range(first[0], last[0] + 1)):
        for j, dx in enumerate(range(first[1], last[1] + 1)):
            common = Box.at((0, 0), f.shape).intersection(Box.at((dy, dx), m.shape))
            largest = max(largest, common.area)
            if not valid[i, j]:
                assert height[i, j] == 0
    for i, j in np.argwhere(valid):
        dy, dx = first[0] + i, first[1] + j
        common = Box.at((0, 0), f.shape).intersection(Box.at((dy, dx), m.shape))
        a = f[common.slices].astype(float)
        b = m[common.shifted(-dy, -dx).slices].astype(float)
        plain = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
        assert height[i, j] == pytest.approx(plain * np.sqrt(common.area / largest), abs=2e-3)


def test_binning_averages_and_flattening_removes_shading() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(65, 42)).astype(np.float32)
    np.testing.assert_allclose(
        bin_mean(image, 4), image[:64, :40].reshape(16, 4, 10, 4).mean((1, 3)), atol=1e-6
    )
    plane = np.add.outer(np.arange(64), 3 * np.arange(64)).astype(np.float32) * 100
    flat = flatten(image[:64, :40] + plane[:, :40])
    inner = (slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(flat[inner], flatten(image[:64, :40])[inner], atol=1e-2)


def test_smoothing_keeps_the_mean_and_spreads_a_point_binomially() -> None:
    point = np.zeros((9, 9), dtype=np.float32)
    point[4, 4] = 1
    row = np.array([0, 0, 1, 4, 6, 4, 1, 0, 0]) / 16
    np.testing.assert_allclose(smooth(point, 4), np.outer(row, row), atol=1e-7)
    np.testing.assert_allclose(smooth(np.ones((3, 5), np.float32), 8), 1, rtol=1e-6)


# --- refinement -----------------------------------------------------------------------------------


def noisy_strips(read_noise: float) -> tuple[Strips, np.ndarray, tuple[float, float]]:
    """Two views of one specimen, where their peak is in binned px, and the true shift."""
    camera, truth = Camera(read_noise=read_noise), (3.3, 171.4)
    rng = np.random.default_rng(1)
    images = [
        camera.record(SPECIMEN.render(corner, (256, 256)), rng) for corner in ((0.0, 0.0), truth)
    ]
    search = plan_search((256, 256), (256, 256), (0.0, 170.0), (12, 12))
    assert search is not None
    strips = Strips.prepare(images[0][search.fixed.slices], images[1][search.moving.slices], search)
    assert strips is not None
    assert strips.binned[0].by == 2
    return strips, np.subtract(truth, search.origin) / 2, truth


def test_a_clear_peak_is_refined_to_where_the_way_over_binned_strips_leads() -> None:
    strips, peak, _ = noisy_strips(read_noise=10)
    for off in ((0, 0), (0.1, -0.1), (-0.1, 0.15)):
        direct, over = (refine(strips, strips.binned, peak + off, clear) for clear in (True, False))
        np.testing.assert_allclose(direct.shift, over.shift, atol=2e-3)
        np.testing.assert_allclose(direct.shift, 2 * peak, atol=0.03)
        assert direct.sigma == pytest.approx(over.sigma, rel=0.05)
        assert direct.correlation == pytest.approx(over.correlation, abs=1e-3)


@pytest.mark.parametrize(("read_noise", "off"), [(10, (0.6, 0)), (10, (0, -0.6)), (1000, (0, 0))])
def test_far_from_the_peak_or_in_noise_binned_strips_lead_the_way(read_noise, off) -> None:
    strips, peak, _ = noisy_strips(read_noise)
    one, other = (refine(strips, strips.binned, peak + off, clear) for clear in (True, False))
    assert one == other
    assert (one.sigma > SURE) == (read_noise == 1000)


# --- known shifts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shift", [(0.0, 0.0), (10.0, -17.0), (-40.0, 60.0), (0.25, -0.5), (100.3, 3.7), (-0.75, 99.6)]
)
def test_a_known_shift_comes_back(shift) -> None:
    record = find_offset(cut(0, 0), cut(*shift))
    np.testing.assert_allclose(record.peak, shift, atol=0.02)
    assert record.weight > 20
    assert record.angle == 0


def test_swapping_the_images_reverses_the_offset() -> None:
    there = find_offset(cut(0, 0), cut(30.3, -12.6))
    back = find_offset(cut(30.3, -12.6), cut(0, 0))
    np.testing.assert_allclose(np.add(there.peak, back.peak), 0, atol=0.01)


@pytest.mark.parametrize("shapes", [((120, 150), (200, 180)), ((201, 180), (121, 150))])
def test_images_of_different_shape(shapes) -> None:
    fixed, moving = shapes
    record = find_offset(cut(0, 0, fixed), cut(20.5, 31.25, moving))
    np.testing.assert_allclose(record.offset(fixed, moving), (20.5, 31.25), atol=0.03)


@pytest.mark.parametrize("shift", [(230, 3), (4, 236), (248, -2)])
def test_narrow_overlaps_near_where_they_are_expected(shift) -> None:
    moved = (shift[0] + 0.4, shift[1] - 0.3)
    record = find_offset(cut(0, 0), cut(*moved), expected=(shift[0] + 5, shift[1] - 4), max_shift=9)
    np.testing.assert_allclose(record.peak, moved, atol=0.25)


@given(st.integers(0, 500), st.floats(-6, 6), st.floats(-6, 6))
def test_noisy_shaded_tiles_agree_to_a_tenth_of_a_pixel(seed, dy, dx) -> None:
    camera, specimen = Camera(), Specimen(seed=seed, empty=0.0)
    images = [
        camera.record(specimen.render(corner, (160, 160)), np.random.default_rng([seed, k]))
        for k, corner in enumerate([(0.0, 0.0), (dy, 120 + dx)])
    ]
    record = find_offset(*images, expected=(0, 120), max_shift=8)
    np.testing.assert_allclose(record.peak, (dy, 120 + dx), atol=0.1)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", ">u2"])
def test_pixel_types(dtype) -> None:
    scale = 0.05 if dtype == "uint8" else 1.0
    images = [(cut(*c) * scale).astype(dtype) for c in [(0, 0), (12.5, -7.25)]]
    np.testing.assert_allclose(find_offset(*images).peak, (12.5, -7.25), atol=0.03)


def test_gain_offset_and_shading_between_tiles_do_not_move_the_match() -> None:
    fixed, moving = cut(0, 0).astype(float), cut(100.25, -3.5).astype(float)
    ramp = np.linspace(0.6, 1.3, 256)
    record = find_offset(fixed * ramp, moving * ramp[:, None] * 1.4 + 500)
    np.testing.assert_allclose(record.peak, (100.25, -3.5), atol=0.05)


def test_hot_pixels_at_one_place_of_the_camera_do_not_win() -> None:
    fixed, moving = cut(0, 0).copy(), cut(6.0, 120.0).copy()
    rng = np.random.default_rng(1)
    for y, x in rng.integers(0, 256, (60, 2)):
        fixed[y, x] = moving[y, x] = 65535
    np.testing.assert_allclose(find_offset(fixed, moving).peak, (6, 120), atol=0.2)


def test_nan_pixels_are_ignored() -> None:
    fixed, moving = (cut(*c).astype(np.float32) for c in [(0, 0), (20, 30)])
    fixed[40:80, 60:90] = np.nan
    moving[0, 0] = np.inf
    np.testing.assert_allclose(find_offset(fixed, moving).peak, (20, 30), atol=0.1)


# --- nothing there -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64), np.uint16),
        np.full((64, 64), 900, np.uint16),
        np.full((64, 64), np.nan),
        np.ones((1, 1), np.uint8),
    ],
)
def test_flat_images_have_no_signal(image) -> None:
    record = find_offset(image, image, expected=(3, 4))
    assert record.weight == 0
    assert record.peak == (3, 4)


def test_images_that_cannot_overlap_have_no_signal() -> None:
    record = find_offset(cut(0, 0), cut(0, 0), expected=(5000, 0), max_shift=10)
    assert record.weight == 0


@pytest.mark.parametrize("bad", [np.zeros(5), np.zeros((0, 4)), np.zeros((2, 3, 4))])
def test_images_must_have_two_dimensions(bad) -> None:
    with pytest.raises(ValueError, match="moving image must be"):
        find_offset(cut(0, 0), bad)


def test_unrelated_noise_stays_below_a_true_quarter_overlap() -> None:
    rng = np.random.default_rng(0)
    chance = [find_offset(*rng.normal(size=(2, 96, 96))).weight for _ in range(100)]
    true = [
        find_offset(*(s.render(c, (96, 96)) for c in [(0, 0), (48, 48)])).weight
        for s in (Specimen(seed=k, empty=0.0) for k in range(10))
    ]
    assert sum(c >= min(true) for c in chance) <= 1


def test_strips_of_one_column_are_no_evidence() -> None:
    a = cut(0, 0, (64, 64))
    search = plan_search(a.shape, a.shape, (0, 63), (1, 1))
    strips = a[search.fixed.slices], a[search.moving.slices]
    assert match_strips(*strips, search) is None
    assert rough_match(*strips, search) is None


@pytest.mark.parametrize("flat", ["dark", "bright"])
def test_images_that_are_flat_but_for_some_islands(flat) -> None:
    """A background of zeros, or nearly all saturated: what is left of the texture decides."""
    views = [cut(y, x).astype(int) for y, x in ((0.0, 0.0), (120.4, -3.3))]
    level = np.percentile(views[0], 94 if flat == "dark" else 6)
    low, high = (level, None) if flat == "dark" else (None, level)
    fixed, moving = (np.clip(v, low, high).astype(np.int16) for v in views)
    record = find_offset(fixed, moving, (118, 0), 12)
    assert np.abs(np.subtract(record.peak, (120.4, -3.3))).max() < 0.15
