"""Scatter from medians of some pixels, and images continued beyond their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mosaicreg.edges import framed, neighbour_sums
from mosaicreg.robust import SAMPLE, median, median_of, scatter, thinned

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(shapes, st.integers(0, 12), st.booleans())
def test_edges_are_continued_as_numpy_pads(shape, margin, mirrored) -> None:
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    due = np.pad(image, margin, mode="symmetric" if mirrored else "edge")
    np.testing.assert_array_equal(framed(image, margin, mirrored), due)


@given(shapes, st.integers(0, 4), st.booleans(), st.booleans())
def test_sums_over_neighbours_are_those_of_every_window(shape, margin, mirrored, whole) -> None:
    """Of an image that is part of a larger one, too."""
    image = np.random.default_rng(0).integers(0, 99, (shape[0], shape[1] + 3)).astype(np.float32)
    image = np.ascontiguousarray(image[:, :-3]) if whole else image[:, :-3]

    def sums(line: np.ndarray, step: int) -> np.ndarray:
        last = line.size - 2 * margin * step
        return np.sum([line[k * step : last + k * step] for k in range(2 * margin + 1)], axis=0)

    padded = np.pad(image, margin, mode="symmetric" if mirrored else "edge")
    side = 2 * margin + 1
    due = np.lib.stride_tricks.sliding_window_view(padded, (side, side)).sum(axis=(2, 3))
    np.testing.assert_array_equal(neighbour_sums(image, margin, sums, mirrored), due)


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


@given(
    arrays(
        st.sampled_from([np.float64, np.float32, np.int64]),
        array_shapes(min_dims=1, max_dims=2, max_side=9),
        elements=st.integers(-1000, 1000),
    )
)
def test_the_median_of_rows_is_that_of_numpy(values) -> None:
    np.testing.assert_array_equal(median(values), np.median(values, axis=0))
