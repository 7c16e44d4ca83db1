"""Scatter from medians of some pixels, and images continued beyond their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg.edges import extended
from mosaicreg.robust import SAMPLE, median_of, scatter, thinned


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([0, 1]),
    st.integers(0, 12),
    st.booleans(),
)
def test_edges_are_continued_as_numpy_pads(shape, axis, margin, mirrored) -> None:
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    margins = [(margin, margin) if k == axis else (0, 0) for k in (0, 1)]
    due = np.pad(image, margins, mode="symmetric" if mirrored else "edge")
    np.testing.assert_array_equal(extended(image, axis, margin, mirrored), due)


@given(st.lists(st.integers(-99, 99), min_size=1, max_size=30))
def test_the_median_is_one_of_the_values_with_half_on_either_side(values) -> None:
    assert median_of(np.array(values)) == sorted(values)[len(values) // 2]


@pytest.mark.parametrize("shape", [(1024, 154), (154, 1024), (999, 300), (7, 5)])
def test_some_pixels_of_all_columns_stand_for_an_image(shape) -> None:
    image = np.broadcast_to(np.arange(shape[1]), shape)
    some = thinned(np.ascontiguousarray(image))
    assert min(image.size, SAMPLE // 2) <= some.size <= 2 * SAMPLE
    np.testing.assert_array_equal(np.unique(some), np.arange(shape[1]))


def test_wild_pixels_do_not_matter_to_the_scatter() -> None:
    image = np.random.default_rng(0).normal(0, 3, (500, 400)).astype(np.float32)
    image[::50] = 1e6
    assert scatter(image) == pytest.approx(3, rel=0.08)  # 2 % of sampling, 3 % of the wild ones
