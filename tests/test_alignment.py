"""`AlignmentRecord`: what peak, angle, flip and scale mean, in numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg import AlignmentRecord, InputError
from mosaicreg.transforms import format_transform, parse_transform

GOLDEN = [
    # record, moving shape, fixed shape, corners (0,0) (0,W) (H,0) (H,W)
    (((0, 0), 0, False, 1.0), (10, 10), None, [[0, 0], [0, 9], [9, 0], [9, 9]]),
    (((0, 0), 0, True, 1.0), (10, 10), None, [[9, 0], [9, 9], [0, 0], [0, 9]]),
    (((0, 0), 90, False, 1.0), (10, 10), None, [[9, 0], [0, 0], [9, 9], [0, 9]]),
    (((0, 0), 90, True, 1.0), (10, 10), None, [[9, 9], [0, 9], [9, 0], [0, 0]]),
    (
        ((-2.5, 2.5), 90, False, 1.0),
        (10, 10),
        None,
        [[6.5, 2.5], [-2.5, 2.5], [6.5, 11.5], [-2.5, 11.5]],
    ),
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


@pytest.mark.row("B1")
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
quarter_turns = st.builds(
    AlignmentRecord,
    peak=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    weight=st.floats(0, 100),
    angle=st.sampled_from([-180, -90, 0, 90, 180, 270]),
    flipped_ud=st.booleans(),
    scale=st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)),
)
shapes = st.tuples(st.integers(1, 300), st.integers(1, 300))


@pytest.mark.row("B2")
@given(records | quarter_turns, shapes, shapes, st.integers(0, 99))
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


@pytest.mark.row("B2")
def test_inverse_of_a_turned_and_flipped_record() -> None:
    turned = AlignmentRecord((3, 1), 1, 90).inverse()
    np.testing.assert_allclose((*turned.peak, turned.angle), (-1, 3, -90), atol=1e-12)
    plain = AlignmentRecord((3, 1), 1).inverse()
    assert (*plain.peak, plain.angle) == (-3, -1, 0)
    both = AlignmentRecord((3, 1), 1, 90, flipped_ud=True).inverse()
    assert (*both.peak, both.angle, both.flipped_ud) == (1, 3, 90, True)
    flipped = AlignmentRecord((3, 1), 1, 30, flipped_ud=True).inverse()
    np.testing.assert_allclose((*flipped.peak, flipped.angle), (3.0981, 0.634, 30), atol=1e-4)


POINTS = [
    # record, moving shape, fixed shape, point, where it goes
    (AlignmentRecord((0, 0), 1), (10, 50), (100, 100), (0, 0), (45, 25)),
    (AlignmentRecord((0, 0), 1, 90), (10, 10), (100, 100), (2.5, 2.5), (51.5, 47.5)),
    (AlignmentRecord((0, 0), 1, 90), (10, 10), (100, 100), (7.5, 7.5), (46.5, 52.5)),
    (AlignmentRecord((1, 2), 1), (10, 10), (20, 30), (0, 0), (6, 12)),
]


@pytest.mark.row("B1")
@pytest.mark.parametrize(("record", "moving", "fixed", "point", "expected"), POINTS)
def test_points_lie_where_the_definition_puts_them(record, moving, fixed, point, expected) -> None:
    np.testing.assert_allclose(record.transform(point, fixed, moving), [expected], atol=1e-9)
    exact = record.to_transform(fixed, moving).transform(point)
    np.testing.assert_allclose(exact, [expected], atol=1e-9)


def test_a_scale_for_each_axis_of_the_moving_image() -> None:
    """Stretched before it is turned: along its own axes."""
    record = AlignmentRecord((1, 2), 1, scale=(0.5, 2))
    np.testing.assert_allclose(
        record.corners((10, 10), (20, 20)),
        [[8.25, 2.5], [8.25, 20.5], [12.75, 2.5], [12.75, 20.5]],
    )
    turned = AlignmentRecord((0, 0), 1, 90, scale=(0.5, 2))
    # What is 9 high becomes 4.5 wide, what is 9 wide becomes 18 high.
    np.testing.assert_allclose(
        turned.corners((10, 10)), [[13.5, 2.25], [-4.5, 2.25], [13.5, 6.75], [-4.5, 6.75]]
    )
    flipped = AlignmentRecord((0, 0), 1, flipped_ud=True, scale=(0.5, 2))
    np.testing.assert_allclose(flipped.corners((10, 10))[0], (6.75, -4.5))
    for one in (record, turned, flipped, AlignmentRecord((3, -4), 1, 30, True, (1.5, 0.7))):
        exact = one.to_transform((20, 30), (9, 8))
        points = np.random.default_rng(0).uniform(-20, 20, (9, 2))
        expected = one.transform(points, (20, 30), (9, 8))
        np.testing.assert_allclose(exact.transform(points), expected, atol=1e-9)
        grid = one.to_grid((20, 30), (9, 8))
        read = parse_transform(format_transform(grid))
        np.testing.assert_allclose(read.transform(points), expected, atol=1e-9)
        assert parse_transform(format_transform(exact)) == exact
    assert AlignmentRecord((0, 0), 1, scale=(2, 2)).scale == 2.0


def test_two_scales_under_an_angle_have_no_record_as_inverse() -> None:
    record = AlignmentRecord((3, -4), 1, 30, scale=(1.5, 0.7))
    with pytest.raises(InputError, match=r"to_transform\(\.\.\.\)\.inverse"):
        record.inverse()
    exact = record.to_transform((20, 30))
    np.testing.assert_allclose(exact.inverse().transform(exact.transform((5, 6))), [(5, 6)])


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
        {"peak": (0, 0), "weight": 1, "scale": (1, -1)},
        {"peak": (0, 0), "weight": 1, "scale": (1, 2, 3)},
    ],
)
def test_impossible_numbers_are_refused(arguments) -> None:
    with pytest.raises(ValueError, match=r"peak|finite|scale"):
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
