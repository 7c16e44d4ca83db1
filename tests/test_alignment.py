"""`AlignmentRecord`: what peak, angle, flip and scale mean, in numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg import AlignmentRecord

GOLDEN = [
    # record, moving shape, fixed shape, corners (0,0) (0,W) (H,0) (H,W)
    (((0, 0), 0, False, 1.0), (10, 10), None, [[0, 0], [0, 9], [9, 0], [9, 9]]),
    (((0, 0), 0, True, 1.0), (10, 10), None, [[9, 0], [9, 9], [0, 0], [0, 9]]),
    (((0, 0), 90, False, 1.0), (10, 10), None, [[9, 0], [0, 0], [9, 9], [0, 9]]),
    (((0, 0), 90, True, 1.0), (10, 10), None, [[9, 9], [0, 9], [9, 0], [0, 0]]),
    (((3, 1), 0, False, 1.0), (10, 10), None, [[3, 1], [3, 10], [12, 1], [12, 10]]),
    (((2.5, 0), 90, False, 1.0), (10, 10), None, [[11.5, 0], [2.5, 0], [11.5, 9], [2.5, 9]]),
    (
        ((0, 0), 30, False, 1.0),
        (10, 10),
        None,
        [[2.8529, -1.6471], [-1.6471, 6.1471], [10.6471, 2.8529], [6.1471, 10.6471]],
    ),
    (
        ((0, 0), 30, False, 1.0),
        (4, 8),
        None,
        [[1.951, -0.2811], [-1.549, 5.7811], [4.549, 1.2189], [1.049, 7.2811]],
    ),
    (
        ((1, 2), 0, False, 0.5),
        (10, 10),
        (20, 20),
        [[8.25, 9.25], [8.25, 13.75], [12.75, 9.25], [12.75, 13.75]],
    ),
    (((5, 7), 90, False, 1.0), (40, 60), (100, 200), [[84, 87], [25, 87], [84, 126], [25, 126]]),
]


@pytest.mark.parametrize(("numbers", "moving", "fixed", "corners"), GOLDEN)
def test_corners_lie_where_the_definition_puts_them(numbers, moving, fixed, corners) -> None:
    peak, angle, flip, scale = numbers
    record = AlignmentRecord(peak, 1.0, angle, flip, scale)
    np.testing.assert_allclose(record.corners(moving, fixed), corners, atol=1e-4)


records = st.builds(
    AlignmentRecord,
    peak=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    weight=st.floats(0, 100),
    angle=st.floats(-180, 180),
    flipped_ud=st.booleans(),
    scale=st.floats(0.1, 10),
)
shapes = st.tuples(st.integers(1, 300), st.integers(1, 300))


@given(records, shapes, shapes, st.integers(0, 99))
def test_the_inverse_takes_points_back(record, fixed, moving, seed) -> None:
    points = np.random.default_rng(seed).uniform(-100, 400, (5, 2))
    there = record.transform(points, fixed, moving)
    back = record.inverse().transform(there, moving, fixed)
    np.testing.assert_allclose(back, points, atol=1e-6)


@given(records)
def test_inverting_twice_changes_nothing(record) -> None:
    again = record.inverse().inverse()
    np.testing.assert_allclose(again.peak, record.peak, atol=1e-9)
    assert again.angle == pytest.approx(record.angle)
    assert again.flipped_ud == record.flipped_ud


def test_inverse_of_a_turned_and_flipped_record() -> None:
    turned = AlignmentRecord((3, 1), 1, 90).inverse()
    np.testing.assert_allclose((*turned.peak, turned.angle), (-1, 3, -90), atol=1e-12)
    flipped = AlignmentRecord((3, 1), 1, 30, flipped_ud=True).inverse()
    np.testing.assert_allclose((*flipped.peak, flipped.angle), (3.0981, 0.634, 30), atol=1e-4)


def test_the_offset_goes_from_first_pixel_to_first_pixel() -> None:
    assert AlignmentRecord((10, -17), 1).offset((50, 60), (50, 60)) == (10, -17)
    assert AlignmentRecord((0, 0), 1).offset((100, 100), (10, 50)) == (45, 25)


def test_the_best_record_has_the_highest_weight() -> None:
    weak, strong = AlignmentRecord((0, 0), 1), AlignmentRecord((5, 5), 9)
    assert max([weak, strong]) is strong


@pytest.mark.parametrize(
    "arguments",
    [
        {"peak": (np.nan, 0), "weight": 1},
        {"peak": (0, 0), "weight": np.inf},
        {"peak": (0, 0, 0), "weight": 1},
        {"peak": (0, 0), "weight": 1, "scale": 0},
    ],
)
def test_impossible_numbers_are_refused(arguments) -> None:
    with pytest.raises(ValueError, match=r"peak|finite"):
        AlignmentRecord(**arguments)


def test_records_serve_scripts_written_for_nornir() -> None:
    record = AlignmentRecord((3, 1), 5, 90, True, 2.0)
    assert record.rangle == pytest.approx(np.pi / 2)
    assert record.flippedud is True
    assert record.WeightKey() == 5
    assert record.Invert() == record.inverse()
    assert record.translate((1, -2)).peak == (4, -1)
    assert record.peak == (3, 1)
    assert record.scaled(4).peak == (12, 4)
    np.testing.assert_array_equal(record.Corners((9, 8)), record.corners((9, 8)))
    np.testing.assert_array_equal(
        record.GetTransformedCornerPoints((9, 8), (20, 30)), record.corners((9, 8), (20, 30))
    )
    assert record.ToTransform((9, 8)) == record.to_transform((9, 8))
    original = AlignmentRecord((5, 7), 1).CorrectPeakForOriginalImageSize((100, 200), (40, 60))
    assert original.peak == (35, 77)
    assert max(record, AlignmentRecord((0, 0), 9)).weight == 9
