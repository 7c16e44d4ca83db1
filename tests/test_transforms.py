"""Transforms: laws, known numbers, control points, what is refused, speed and memory."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from strategies import transforms

from mosaicreg import AlignmentRecord
from mosaicreg.errors import InputError
from mosaicreg.transforms import (
    Affine,
    Composed,
    Grid,
    Mesh,
    Polynomial,
    Rigid,
    Similarity,
    Transform,
    Translation,
)

# From corner pairs (target, source) that are each other's negative: a half turn.
MIRROR = Mesh([(0, 0), (0, -10), (-10, 0), (-10, -10)], [(0, 0), (0, 10), (10, 0), (10, 10)])


def wavy(rows: int = 7, columns: int = 8, step: float = 40.0, jitter: float = 5.0) -> Mesh:
    """A mesh of scattered points under a smooth displacement."""
    rng = np.random.default_rng(7)
    y, x = np.meshgrid(np.arange(rows) * step, np.arange(columns) * step, indexing="ij")
    source = np.stack([y.ravel(), x.ravel()], axis=1) + rng.uniform(-jitter, jitter, (y.size, 2))
    return Mesh(source, source + (9, -4) + 6 * np.sin(source[:, ::-1] / 70))


@pytest.mark.row("G3")
@given(transforms(), st.integers(0, 2**32 - 1))
def test_the_inverse_undoes_a_transform_inside_and_outside(t: Transform, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-300, 300, (50, 2))
    there = t.transform(points)
    known = np.isfinite(there).all(axis=1)  # a polynomial need not have an answer everywhere
    assert known.all() or isinstance(t, Polynomial)
    back = t.inverse_transform(there[known])
    np.testing.assert_allclose(back, points[known], atol=1e-6)
    np.testing.assert_allclose(t.inverse().transform(there[known]), back, atol=1e-7)
    again = t.inverse().inverse()
    np.testing.assert_allclose(again.transform(points), there, atol=1e-7)


@given(transforms(), transforms(), st.integers(0, 2**32 - 1))
def test_composing_is_one_after_the_other(t: Transform, u: Transform, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 90, (30, 2))
    inside = np.isfinite(u.transform(points, extrapolate=False)).all(axis=1)
    both = t.compose(u)
    expected = t.transform(u.transform(points[inside]))
    np.testing.assert_allclose(both.transform(points[inside]), expected, atol=1e-6)


@given(transforms(), st.sampled_from([0.25, 0.5, 2.0, 3.0]), st.integers(0, 2**32 - 1))
def test_scaling_scales_both_spaces(t: Transform, factor: float, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(0, 90, (30, 2))
    scaled = t.scaled(factor).transform(points * factor)
    np.testing.assert_allclose(scaled, t.transform(points) * factor, atol=1e-6)


@given(transforms(), st.integers(0, 2**32 - 1))
def test_a_row_depends_on_itself_alone(t: Transform, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-50, 150, (40, 2))
    for way in (t.transform, t.inverse_transform):
        whole = way(points)
        parts = [way(points[:1]), way(points[1:8]), way(points[8:])]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@given(transforms())
def test_transforms_are_values(t: Transform) -> None:
    copy = pickle.loads(pickle.dumps(t))
    assert copy == t
    assert hash(copy) == hash(t)
    assert t != Translation((1234.5, 0))
    with pytest.raises(AttributeError):
        t.offset = np.zeros(2)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [Rigid, Similarity])
def test_the_documented_rotation(kind: type[Rigid | Similarity]) -> None:
    points = [(1, 2), (1.25, 2.25), (2, 3), (0, 1)]
    turned = kind((-1, -2), -np.pi / 2).transform(points)
    np.testing.assert_allclose(turned, [(1, -3), (1.25, -3.25), (2, -4), (0, -2)], atol=1e-12)


def test_the_documented_similarity() -> None:
    points = [(1, 2), (1.25, 2.25), (2, 3), (0, 1)]
    scaled = Similarity((-1, -2), -np.pi / 2, scale=2).transform(points)
    np.testing.assert_allclose(scaled, [(3, -4), (3.5, -4.5), (5, -6), (1, -2)], atol=1e-12)


def test_points_come_in_rows() -> None:
    t = Translation((1, 2))
    np.testing.assert_array_equal(t.transform((3, 4)), [(4, 6)])
    assert t.transform([]).shape == (0, 2)
    assert MIRROR.transform(np.empty((0, 2))).shape == (0, 2)
    assert np.isnan(MIRROR.transform([(np.nan, 1), (-1, -1)])).tolist() == [[1, 1], [0, 0]]
    with pytest.raises(InputError, match=r"rows \(y, x\)"):
        t.transform([(1, 2, 3)])


class TestMesh:
    @pytest.mark.row("G4")
    def test_mirror(self) -> None:
        np.testing.assert_allclose(MIRROR.transform([(-5, -5)]), [(5, 5)], atol=1e-5)
        outside = np.array([(-15, 0), (11, 0), (11, 11), (-11, 11)])
        np.testing.assert_allclose(MIRROR.transform(outside), -outside, atol=1e-5)
        assert len(MIRROR.triangles) == 2

    @pytest.mark.row("G4")
    def test_points_are_added_once_and_removed(self) -> None:
        more = MIRROR.with_points([(-5, -5)], [(5, 5)])
        assert len(more.triangles) > 2
        assert more.with_points([(-5, -5)], [(5, 5)]) == more
        assert more.with_points([(-5, -5)], [(6, 6)]) == more
        assert len(more.without_points(4).source) == 4
        with pytest.raises(InputError, match="3 to"):
            MIRROR.without_points([0, 1])

    def test_control_points_and_bounds(self) -> None:
        mesh = wavy()
        np.testing.assert_allclose(
            mesh.transform(mesh.source_points), mesh.target_points, atol=1e-9
        )
        low, high = mesh.target_points.min(axis=0), mesh.target_points.max(axis=0)
        assert mesh.target_bounds == (*low, *high)
        assert Translation((1, 2)).bounds is None

    def test_inside_is_linear_between_corners(self) -> None:
        mesh = wavy()
        for corners in mesh.triangles[::7]:
            middle = mesh.transform(mesh.source[corners].mean(axis=0))
            np.testing.assert_allclose(middle[0], mesh.target[corners].mean(axis=0), atol=1e-9)

    def test_outside_is_nan_or_continued_without_a_jump(self) -> None:
        mesh = wavy(jitter=0)
        assert np.isnan(mesh.transform([(-60, 50)], extrapolate=False)).all()
        along = np.linspace(0, 280, 301)
        edge = np.stack([np.zeros(301), along], axis=1)
        across = np.array([1e-7, 0])
        step = mesh.transform(edge + across) - mesh.transform(edge - across)
        assert np.abs(step).max() < 1e-5

    def test_outside_follows_a_thin_plate_spline(self) -> None:
        mesh = wavy()
        plate = RBFInterpolator(mesh.source, mesh.target, kernel="thin_plate_spline")
        points = np.random.default_rng(1).uniform(-250, 500, (500, 2))
        points = points[np.isnan(mesh.transform(points, extrapolate=False)).all(axis=1)]
        assert len(points) > 300
        np.testing.assert_allclose(mesh.transform(points), plate(points), atol=1.0)

    @pytest.mark.row("G5")
    def test_three_affine_meshes_compose_to_the_product(self) -> None:
        rng = np.random.default_rng(3)
        product, chain = np.eye(3), None
        for _ in range(3):
            matrix = np.eye(2) + rng.normal(0, 0.2, (2, 2))
            affine = Affine(matrix, rng.normal(0, 20, 2))
            points = rng.uniform(-200, 200, (9, 2))
            mesh = Mesh(points, affine.transform(points))
            chain = mesh if chain is None else mesh.compose(chain)
            product = np.vstack([np.column_stack([matrix, affine.offset]), (0, 0, 1)]) @ product
        assert isinstance(chain, Composed)
        points = rng.uniform(-100, 100, (40, 2))
        expected = points @ product[:2, :2].T + product[:2, 2]
        np.testing.assert_allclose(chain.transform(points), expected, atol=1e-6)

    def test_what_is_refused(self) -> None:
        square = [(0, 0), (0, 9), (9, 0), (9, 9)]
        with pytest.raises(InputError, match="one line"):
            Mesh([(0, 0), (1, 1), (2, 2)], [(0, 0), (1, 1), (2, 2)])
        with pytest.raises(InputError, match="folds over itself"):
            Mesh([*square, (4, 4)], [*square, (4, 30)])
        with pytest.raises(InputError, match="one point in two places"):
            Mesh([*square, (9, 9)], [*square, (8, 8)])
        with pytest.raises(InputError, match="NaN or infinite"):
            Mesh(square, [*square[:3], (np.nan, 0)])
        with pytest.raises(InputError, match="as many source as target"):
            Mesh(square, square[:3])
        with pytest.raises(InputError, match="3 to"):
            Mesh(square[:2], square[:2])
        assert len(Mesh([*square, (9, 9)], [*square, (9, 9)]).source) == 4

    def test_edges_that_are_straight_but_for_rounding_fold_nothing(self) -> None:
        rng = np.random.default_rng(0)
        y, x = np.meshgrid(np.arange(30) * 40.0, np.arange(30) * 40.0, indexing="ij")
        source = np.stack([y.ravel(), x.ravel()], axis=1)
        target = source + rng.uniform(-8, 8, source.shape)
        mesh = Mesh(source + rng.uniform(-5e-4, 5e-4, source.shape), target)
        np.testing.assert_allclose(mesh.transform(mesh.source), target, atol=1e-2)


class TestGrid:
    GRID = Grid(
        [[(200, 100), (200, 110), (200, 120)], [(210, 100), (210, 110), (210, 120)]],
        (0, 0),
        (10, 20),
    )

    def test_vertices(self) -> None:
        np.testing.assert_allclose(
            self.GRID.transform([(0, 0), (0, 10), (10, 20), (5, 5)]),
            [(200, 100), (200, 110), (210, 120), (205, 105)],
        )
        assert self.GRID.bounds == (0, 0, 10, 20)

    def test_sampling_a_transform(self) -> None:
        mesh = wavy(jitter=0)
        grid = Grid.sampled(mesh, (20, 20, 200, 220), (60, 60))
        points = np.random.default_rng(0).uniform(20, 200, (200, 2))
        np.testing.assert_allclose(grid.transform(points), mesh.transform(points), atol=0.1)

    def test_what_is_refused(self) -> None:
        with pytest.raises(InputError, match="from 2 x 2 up"):
            Grid([[(0, 0), (0, 1)]], (0, 0), (1, 1))
        with pytest.raises(InputError, match="some size"):
            Grid(self.GRID.vertices, (0, 0), (0, 1))
        with pytest.raises(InputError, match="folds"):
            Grid([[(0, 0), (0, 9)], [(9, 0), (-1, 20)]], (0, 0), (1, 1))


class TestPolynomial:
    def test_a_plain_shift(self) -> None:
        corner = Polynomial([1, 0, 1], [1, 1, 0], (200, 100), (40, 50))
        np.testing.assert_array_equal(
            corner.transform([(0, 0), (40, 50)]), [(200, 100), (240, 150)]
        )
        assert corner.target_bounds == (200, 100, 280, 200)
        centre = Polynomial([1, 0, 1], [1, 1, 0], (200, 100), (40, 50), "center")
        back = centre.inverse_transform([(200, 100), (160, 50)])
        np.testing.assert_array_equal(back, [(40, 50), (0, 0)])

    def test_higher_degrees_by_hand(self) -> None:
        # x = X (1 + A + 0.1 P_1(A) P_1(B)), y = Y (1 + B + 0.2 P_2(A)), P_2(A) = (3 A^2 - 1) / 2
        t = Polynomial([1, 0, 1, 0, 0.1, 0], [1, 1, 0, 0, 0, 0.2], (0, 0), (10, 20), "center")
        a, b = 0.5, -0.25
        expected = (10 * (1 + b + 0.2 * (3 * a * a - 1) / 2), 20 * (1 + a + 0.1 * a * b))
        np.testing.assert_allclose(t.inverse_transform([(10 * b, 20 * a)]), [expected])

    def test_what_is_refused(self) -> None:
        with pytest.raises(InputError, match="singular"):
            Polynomial([1, 0, 1], [1, 0, 1], (0, 0), (1, 1))
        with pytest.raises(InputError, match="coefficients"):
            Polynomial([1, 0, 1, 1], [1, 1, 0, 1], (0, 0), (1, 1))


@given(
    st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    st.floats(-180, 180),
    st.booleans(),
    st.sampled_from([1.0, 0.5, 1.7]),
)
def test_a_record_and_its_transform_agree(
    peak: tuple[float, float], angle: float, flipped: bool, scale: float
) -> None:
    record = AlignmentRecord(peak, 1, angle, flipped, scale)
    fixed, moving = (100, 200), (41, 60)
    points = np.random.default_rng(0).uniform(-50, 150, (9, 2))
    transform = record.to_transform(fixed, moving)
    expected = record.transform(points, fixed, moving)
    np.testing.assert_allclose(transform.transform(points), expected, atol=1e-9)
    grid = record.to_grid(fixed, moving)
    np.testing.assert_allclose(grid.transform(points), expected, atol=1e-6)
    back = record.inverse().to_transform(moving, fixed)
    np.testing.assert_allclose(back.transform(expected), points, atol=1e-9)


def test_singular_and_impossible_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="singular"):
        Affine([[1, 2], [2, 4]])
    with pytest.raises(InputError, match="above 0"):
        Similarity((0, 0), scale=0)
    with pytest.raises(InputError, match="NaN or infinite"):
        Rigid((0, np.inf))
    with pytest.raises(InputError, match="above 0"):
        Translation((1, 2)).scaled(-1)
