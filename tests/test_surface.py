"""What strips bring to their correlation serves again, and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mosaicreg import surface
from mosaicreg.correlate import Binned, Strips, match_prepared, rough_prepared
from mosaicreg.geometry import Box
from mosaicreg.strips import plan_search
from mosaicreg.surface import KEPT_SHIFTS, MOST_COVER, Window, correlation_surface, find_peaks


def noise(seed: int, shape: tuple[int, int] = (90, 40)) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


FIRST, LAST = np.array([-9, -5]), np.array([7, 12])


@pytest.mark.parametrize("shape", [(90, 40), (40, 90)])
def test_a_strip_correlates_with_each_of_many_as_with_it_alone(shape) -> None:
    fixed = noise(0, shape)
    window = Window.of(shape, shape, FIRST, LAST)
    side = window.fixed(fixed)
    for seed in (1, 2, 1):
        moving = noise(seed, shape)
        found = window.surface(side, window.moving(moving))
        for one, other in zip(found, correlation_surface(fixed, moving, FIRST, LAST), strict=True):
            np.testing.assert_array_equal(one, other)


def test_strips_of_one_shape_meet_one_window() -> None:
    shape = (90, 40)
    assert Window.of(shape, shape, FIRST, LAST) is Window.of(shape, shape, FIRST, LAST)
    assert Window.of(shape, shape, FIRST, LAST) is not Window.of(shape, shape, FIRST, LAST + 1)


def test_large_windows_are_not_kept_for_ever() -> None:
    side = int(KEPT_SHIFTS**0.5) + 1
    first, last = np.array([0, 0]), np.array([side - 1, side - 1])
    window = Window.of((side, side), (side, side), first, last)
    assert not window.is_kept
    assert Window.of((side, side), (side, side), first, last) is not window
    strip = Binned.of(noise(0, (side, side)), 1)
    assert strip.as_fixed(window) is not strip.as_fixed(window)


def test_a_kept_strip_is_for_the_window_that_is_asked_for() -> None:
    strip = Binned.of(noise(0), 1)
    shape = strip.flat.shape
    windows = [Window.of(shape, shape, FIRST, last) for last in (LAST, LAST + 3)]
    for window in (*windows, *windows):
        for side, due in (
            (strip.as_fixed(window), window.fixed(strip.flat)),
            (strip.as_moving(window), window.moving(strip.flat)),
        ):
            np.testing.assert_array_equal(side.spectrum, due.spectrum)
            np.testing.assert_array_equal(side.norm, due.norm)


def test_null_pairs_are_what_they_would_be_without_the_pairs_before() -> None:
    search = plan_search((200, 200), (200, 200), (0.0, 180.0), (12, 12))
    assert search is not None
    images = [noise(k, (200, 200)) for k in range(4)]

    def strips(fixed: int, moving: int) -> Strips:
        made = Strips.prepare(
            images[fixed][search.fixed.slices], images[moving][search.moving.slices], search
        )
        assert made is not None
        return made

    first, second = strips(0, 1), strips(2, 3)
    for one in (first, second):
        match_prepared(one, search)
    mixed = (first.binned[0], second.binned[1])
    found = [rough_prepared(mixed, search) for _ in range(2)]
    assert found == [rough_prepared(strips(0, 3).binned, search)] * 2


@pytest.mark.parametrize("most", [0, MOST_COVER])
@pytest.mark.parametrize("shapes", [((9, 30), (12, 25)), ((30, 9), (25, 12)), ((5, 5), (5, 5))])
def test_the_norm_is_that_of_the_pixels_that_overlap(most, shapes, monkeypatch) -> None:
    monkeypatch.setattr(surface, "MOST_COVER", most)
    surface._kept_window.cache_clear()
    fixed, moving = shapes
    first, last = 1 - np.array(moving), np.array(fixed) - 1
    f, m = noise(0, fixed), noise(1, moving)
    window = Window.of(fixed, moving, first, last)
    found = window.fixed(f).norm, window.moving(m).norm
    surface._kept_window.cache_clear()
    for i, dy in enumerate(range(first[0], last[0] + 1)):
        for j, dx in enumerate(range(first[1], last[1] + 1)):
            common = Box.at((0, 0), fixed).intersection(Box.at((dy, dx), moving))
            assert common is not None
            parts = f[common.slices], m[common.shifted(-dy, -dx).slices]
            due = [float(np.square(part, dtype=float).sum()) ** 0.5 for part in parts]
            np.testing.assert_allclose([n[i, j] for n in found], due, rtol=1e-6)


@given(
    arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=7),
        elements=st.integers(-2, 3),
    )
)
def test_the_only_peak_wanted_is_the_first_of_all(height) -> None:
    """Also where several are as high, and where none is above 0."""
    valid = height != 0
    for one, first in zip(find_peaks(height, valid, 1), find_peaks(height, valid, 5), strict=True):
        np.testing.assert_array_equal(one, first[:1])
