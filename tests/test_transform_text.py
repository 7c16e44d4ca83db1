"""Text of transforms: the documented examples, round trips, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import transforms

from mosaicreg import AlignmentRecord
from mosaicreg.errors import InputError
from mosaicreg.transforms import Mesh, Transform, format_transform, parse_transform

GRID = (
    "GridTransform_double_2_2 vp 12 100 200 110 200 120 200 100 210 110 210 120 210 "
    "fp 7 0 1 2 0 0 20 10"
)
MESH = "MeshTransform_double_2_2 vp 12 0 0 100 200 1 0 120 200 0 1 100 210 fp 8 0 16 16 0 0 20 10 3"
LEGENDRE = "LegendrePolynomialTransform_double_2_2_1 vp 6 1 0 1 1 1 0 fp 4 100 200 50 40"
RIGID = "Rigid2DTransform_double_2_2 vp 3 0.5235987756 5 -3 fp 2 10 20"
CENTERED = "CenteredSimilarity2DTransform_double_2_2 vp 6 2 1.5707963268 10 20 5 -3 fp 0"
SIMILARITY = "Similarity2DTransform_double_2_2 vp 4 2 1.5707963268 5 -3 fp 2 10 20"
AFFINE = "FixedCenterOfRotationAffineTransform_double_2_2 vp 8 0 -1 1 0 5 -3 0 0 fp 2 10 20"
TRANSLATION = "TranslationTransform_double_2_2 vp 2 5 -3 fp 0"
# Each text with source points (y, x) and where they go.
EXAMPLES = [
    (GRID, [(0, 0), (0, 10), (10, 20), (5, 5)], [(200, 100), (200, 110), (210, 120), (205, 105)]),
    (MESH, [(0, 0), (0, 20), (10, 0)], [(200, 100), (200, 120), (210, 100)]),
    (LEGENDRE, [(0, 0), (80, 100)], [(200, 100), (280, 200)]),
    (RIGID, [(20, 12)], [(18, 16.7320508)]),
    (CENTERED, [(20, 12)], [(21, 15)]),
    (SIMILARITY, [(20, 12)], [(21, 15)]),
    (AFFINE, [(20, 12)], [(19, 15)]),
    (TRANSLATION, [(20, 12)], [(17, 17)]),
]


@pytest.mark.row("G1")
@pytest.mark.parametrize(("text", "points", "expected"), EXAMPLES)
def test_examples_read_evaluate_and_write(
    text: str, points: list[tuple[float, float]], expected: list[tuple[float, float]]
) -> None:
    transform = parse_transform(text)
    np.testing.assert_allclose(transform.transform(points), expected, atol=1e-7)
    assert format_transform(transform) == text
    assert parse_transform(format_transform(transform)) == transform


@pytest.mark.row("G1")
@given(transforms(composed=False))
def test_text_round_trips_without_loss(t: Transform) -> None:
    text = format_transform(t)
    again = parse_transform(text)
    assert format_transform(again) == text
    points = np.random.default_rng(0).uniform(0, 90, (100, 2))
    known = np.isfinite(t.transform(points)).all(axis=1)
    np.testing.assert_allclose(
        again.transform(points[known]), t.transform(points[known]), rtol=0, atol=1e-9
    )
    np.testing.assert_array_equal(again.source_points, t.source_points)
    np.testing.assert_array_equal(again.target_points, t.target_points)
    assert again == t


@given(
    st.lists(
        st.tuples(*(st.floats(-1e6, 1e6, allow_subnormal=False),) * 2), min_size=3, max_size=6
    ),
    st.none() | st.just((-3.7, 11.1, 1023.3, 4096.9)),
)
def test_points_of_a_mesh_come_back_to_the_bit(points, extent) -> None:
    """Whatever their size: 1e-300 beside -50, in a box that does not fit them."""
    try:
        mesh = Mesh(points, points)
        text = format_transform(mesh, extent=extent)
    except InputError:  # points on a line make no mesh
        assume(False)
    again = parse_transform(text)
    np.testing.assert_array_equal(again.source_points, mesh.source_points)
    np.testing.assert_array_equal(again.target_points, mesh.target_points)
    assert format_transform(again) == text


def test_a_tiny_coordinate_beside_a_large_one_keeps_its_digits() -> None:
    mesh = Mesh(
        [(1e-300, -50), (-50, 50), (50, 1e-17), (3, 3)], [(0, 0), (1, 1), (1, -5), (0.5, 0)]
    )
    again = parse_transform(format_transform(mesh))
    np.testing.assert_array_equal(again.source_points, mesh.source_points)


def test_fewer_decimals_on_request() -> None:
    rng = np.random.default_rng(0)
    source = rng.uniform(0, 1, (40, 2))
    mesh = Mesh(source, source + rng.normal(0, 1e-3, source.shape)).scaled(1000)
    again = parse_transform(format_transform(mesh, decimals=6))
    points = rng.uniform(300, 700, (100, 2))
    np.testing.assert_allclose(again.transform(points), mesh.transform(points), atol=2e-3)
    text = format_transform(parse_transform(RIGID.replace("-3", "-0.00001")), decimals=3)
    assert text == "Rigid2DTransform_double_2_2 vp 3 0.524 5 0 fp 2 10 20"


@pytest.mark.row("B3")
def test_a_record_as_grid_text() -> None:
    grid = AlignmentRecord((5, 7), 1, 90).to_grid((100, 200), (40, 60))
    text = format_transform(grid)
    assert text == ("GridTransform_double_2_2 vp 8 87 84 87 25 126 84 126 25 fp 7 0 1 1 0 0 59 39")
    np.testing.assert_allclose(parse_transform(text).transform((0, 0)), [(84, 87)], atol=1e-6)


def test_itk_counts_angles_the_other_way() -> None:
    record = AlignmentRecord((0, 0), 1, 30)
    text = format_transform(record.to_transform((11, 11)))
    assert text.startswith(f"Rigid2DTransform_double_2_2 vp 3 {-float(np.deg2rad(30))!r} 0 0 ")


def test_options_of_reading() -> None:
    centre = parse_transform(LEGENDRE, legendre_origin="center")
    np.testing.assert_allclose(
        centre.inverse_transform([(200, 100), (160, 50)]), [(40, 50), (0, 0)]
    )
    old = parse_transform(RIGID.replace(" 0.5", " -0.5"), clockwise=True)
    np.testing.assert_allclose(old.transform([(20, 12)]), [(18, 16.7320508)], atol=1e-7)
    for text, points, expected in EXAMPLES:
        half = parse_transform(text, spacing=0.5).transform(np.array(points) / 2)
        np.testing.assert_allclose(half, np.array(expected) / 2, atol=1e-7)
    plain = parse_transform("AffineTransform_double_2_2 vp 6 0 -1 1 0 5 -3 fp 2 10 20")
    assert plain == parse_transform(AFFINE)


@pytest.mark.row("G2")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("Nonsense_double_2_2 vp 0 fp 0", "none of the transforms"),
        ("Rigid2DTransform_double_3_3 vp 3 0 0 0 fp 2 0 0", "none of the transforms"),
        (RIGID.replace("vp 3", "vp 4"), "number 4 of 4"),
        (RIGID.replace(" fp 2 10 20", ""), "'fp' and a count are expected where 'the end'"),
        (RIGID.replace("fp 2 10 20", "fp 1 10"), "not 3 and 1"),
        (RIGID.replace("fp 2", "fp 3"), "announces 3 numbers and has 2"),
        (RIGID + " 5", "1 words too many"),
        (RIGID.replace(" 5 ", " nan "), "'nan', not a finite"),
        (RIGID.replace(" 5 ", " 1.8e308 "), "not a finite"),
        (RIGID.replace(" 5 ", " 1.79769e+308 "), "not a finite"),
        (RIGID.replace(" 5 ", " __import__('os') "), "not a finite"),
        (RIGID.replace("vp 3", "vp three"), "not by a count"),
        ("MeshTransform_double_2_2 vp 999999999 1", "at most"),
        (GRID.replace("fp 7 0 1 2", "fp 7 0 2 2"), "18 variable"),
        (GRID.replace("fp 7 0 1 2", "fp 7 0 1 1.5"), "not a whole number"),
        (GRID.replace("20 10", "0 10"), "some size"),
        (MESH.replace("20 10 3", "20 0 3"), "without area"),
        (MESH.replace("20 10 3", "20 10 4"), "16 variable"),
        (LEGENDRE.replace("_1 vp", "_x vp"), "degree"),
        (LEGENDRE.replace("_1 vp", "_2 vp"), "12 variable"),
        (AFFINE.replace("0 -1 1 0", "0 0 1 0"), "singular"),
        (CENTERED.replace("vp 6 2", "vp 6 -2"), "scale above 0"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_transform(text)


def test_a_composed_transform_has_no_text() -> None:
    mesh = parse_transform(MESH)
    with pytest.raises(InputError, match=r"Grid\.sampled"):
        format_transform(mesh.compose(mesh))
