"""Grids of points over an image, and what a transform is near a point."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg.divisions import Division
from mosaicreg.errors import InputError
from mosaicreg.transforms import Affine, Grid, Rigid, Similarity, rigid_at

SHAPE = (100, 160)


@pytest.mark.row("I1 divisions")
@pytest.mark.parametrize(
    ("options", "dims", "spacing"),
    [
        ({"spacing": 32}, (5, 6), (24.75, 31.8)),
        ({"spacing": 50}, (3, 5), (49.5, 39.75)),
        ({"dims": (3, 4)}, (3, 4), (49.5, 53)),
    ],
)
def test_points_from_edge_to_edge(options, dims, spacing) -> None:
    grid = Division.edge_to_edge(SHAPE, **options)
    assert grid.dims == dims
    assert grid.spacing == pytest.approx(spacing)
    assert len(grid) == len(grid.points) == dims[0] * dims[1]
    assert grid.points[0].tolist() == [0, 0]
    assert grid.points[-1] == pytest.approx((99, 159))
    assert grid.coords[1].tolist() == [0, 1]


@pytest.mark.row("I1 divisions")
def test_points_in_the_middle_of_cells() -> None:
    grid = Division.centred(SHAPE, 32)
    assert grid.dims == (4, 5)
    assert grid.points[0].tolist() == [2, 16]
    assert grid.points[-1].tolist() == [98, 144]
    apart = Division.centred((300, 300), 100, 50)
    assert apart.dims == (5, 5)
    assert apart.points[[0, -1]].tolist() == [[50, 50], [250, 250]]


@given(st.tuples(st.integers(2, 500), st.integers(2, 500)), st.integers(1, 600))
def test_a_spacing_is_never_exceeded_and_cells_cover_the_image(shape, size) -> None:
    edges = Division.edge_to_edge(shape, spacing=size)
    assert max(edges.spacing) <= size
    cells = Division.centred(shape, size)
    low, high = cells.points.min(axis=0) - size / 2, cells.points.max(axis=0) + size / 2
    assert (low <= 0).all()
    assert (high >= shape).all()


@pytest.mark.parametrize(
    "options", [{}, {"spacing": 5, "dims": (3, 3)}, {"dims": (1, 4)}, {"spacing": 0}]
)
def test_what_cannot_be_a_grid_is_refused(options) -> None:
    with pytest.raises(InputError):
        Division.edge_to_edge(SHAPE, **options)
    with pytest.raises(InputError, match="no two edges"):
        Division.edge_to_edge((1, 9), spacing=3)


def test_a_rigid_transform_is_its_own_approximation() -> None:
    exact = Rigid((12.5, -7), np.deg2rad(130), (40, 60))
    near = rigid_at(exact, (33, 21))
    points = np.random.default_rng(0).uniform(-300, 300, (50, 2))
    np.testing.assert_allclose(near.transform(points), exact.transform(points), atol=1e-3)
    np.testing.assert_allclose(
        near.inverse_transform(points), exact.inverse_transform(points), atol=1e-3
    )


def test_the_approximation_holds_at_its_point_both_ways() -> None:
    y, x = np.meshgrid(np.arange(0, 401, 20.0), np.arange(0, 401, 20.0), indexing="ij")
    bent = np.stack([y + 9 * np.sin(x / 60), x + 7 * np.sin(y / 50)], axis=-1)
    warp = Grid(bent, (0, 0), (400, 400))
    for point in [(100.0, 150.0), (222.0, 333.0)]:
        near = rigid_at(warp, point)
        source = warp.inverse_transform(point)
        np.testing.assert_allclose(near.transform(source), [point], atol=1e-3)
        np.testing.assert_allclose(near.inverse_transform(point), source, atol=1e-3)


def test_scale_and_shear_do_not_turn_the_approximation() -> None:
    assert rigid_at(Similarity((1, 2), 0.3, (5, 5), 1.7), (10, 10)).angle == pytest.approx(0.3)
    stretched = Affine(np.diag([1.3, 0.8]), (3, 4))
    assert rigid_at(stretched, (10, 10)).angle == pytest.approx(0)
    with pytest.raises(InputError, match="turns the plane over"):
        rigid_at(Affine(np.diag([-1.0, 1.0])), (10, 10))
