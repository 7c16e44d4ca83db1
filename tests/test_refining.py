"""A transform bent until cells agree: how true it gets, and what does not mislead it."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from scipy.ndimage import map_coordinates, spline_filter

from mosaicreg import InputError, refine
from mosaicreg.bending import consistent, fit_vertices, interpolation
from mosaicreg.displacements import Cells
from mosaicreg.synthetic import Specimen
from mosaicreg.transforms import Grid, Translation

SIDE = 420


def bent(points: np.ndarray, amplitude: float, wavelength: float) -> np.ndarray:
    """Where a moving point lies in the fixed image."""
    wave = 2 * np.pi * points / wavelength
    return points + amplitude * np.sin(wave[:, ::-1] + (0.7, 0.3))


def sections(side: int, amplitude: float, wavelength: float, noise: float = 100.0) -> list:
    """Fixed and moving picture of one bent specimen."""
    edge = int(amplitude) + 8
    scene = Specimen(seed=3, empty=0.0).render((-edge, -edge), (side + 2 * edge,) * 2)
    there = bent(np.indices((side, side)).reshape(2, -1).T.astype(float), amplitude, wavelength)
    moving = map_coordinates(spline_filter(scene, 3), there.T + edge, order=3, prefilter=False)
    rng = np.random.default_rng(0)
    images = scene[edge:-edge, edge:-edge], moving.reshape(side, side)
    return [
        (i + rng.normal(0, noise, i.shape)).clip(0, 65535).round().astype(np.uint16) for i in images
    ]


def errors(transform: Grid, side: int, margin: int, amplitude: float, wavelength: float):
    """(n, n) px by which points inside are misplaced."""
    line = np.linspace(margin, side - 1 - margin, 60)
    points = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    away = transform.transform(points) - bent(points, amplitude, wavelength)
    return np.linalg.norm(away, axis=1).reshape(60, 60)


@pytest.fixture(scope="module")
def pair() -> list:
    return sections(SIDE, 5.0, 600.0)


# --- true ----------------------------------------------------------------------------------------


@pytest.mark.row("I3 refine")
def test_a_smooth_warp_is_recovered() -> None:
    shape = (15.0, 1000.0)
    images = sections(2000, *shape)
    found = refine(*images, Translation((0, 0)), passes=4)
    assert found.trusted > 0.9
    away = errors(found.transform, 2000, 100, *shape)
    assert np.sqrt(np.square(away).mean()) < 0.7


def test_cells_without_pixels_or_with_wrong_ones_are_bridged(pair) -> None:
    fixed, moving = (i.copy() for i in pair)
    fixed[:70, :] = 0  # outside of the mosaic
    other = Specimen(seed=99, empty=0.0).render((0, 0), (130, 130))
    moving[200:330, 200:330] = other  # a fold, a bubble: something else
    mask = np.ones(fixed.shape, dtype=bool)
    mask[350:, 330:] = False
    fixed[~mask] = np.random.default_rng(1).integers(0, 9999, np.count_nonzero(~mask))
    found = refine(fixed, moving, Translation((0, 0)), cell=64, spacing=48, fixed_mask=mask)
    away = errors(found.transform, SIDE, 30, 5.0, 600.0)
    assert np.sqrt(np.square(away).mean()) < 1.0
    cells = found.cells
    lost = (np.abs(cells.source - 265) < 40).all(axis=1)
    assert lost.any()
    assert not found.used[lost].any()
    assert not cells.compared[cells.points[:, 0] < 30].any()
    assert ((cells.confidence >= 0) & (cells.confidence <= 1)).all()


def test_images_that_have_nothing_in_common_are_not_trusted(pair) -> None:
    other = Specimen(seed=77, empty=0.0).render((0, 0), (SIDE, SIDE))
    found = refine(pair[0], other, Translation((3, 4)), cell=64, spacing=64, passes=2)
    assert found.trusted < 0.3


def test_nothing_to_see_leaves_the_transform(pair) -> None:
    flat = np.full((SIDE, SIDE), 5, dtype=np.uint16)
    found = refine(pair[0], flat, Translation((3, 4)), cell=128, spacing=128)
    np.testing.assert_allclose(found.transform.transform([(10, 20)]), [(13, 24)])
    assert found.trusted == 0


# --- of any size ---------------------------------------------------------------------------------


def test_chunks_make_no_difference(pair, tmp_path) -> None:
    options = {"cell": 96, "spacing": 96, "passes": 2}
    start = Translation((1, -1))
    eager = refine(*pair, start, **options)
    lazy = refine(*(da.from_array(i, chunks=(130, 90)) for i in pair), start, **options)
    stored = [zarr.create_array(tmp_path / f"{k}", data=i, chunks=(64, 64))
              for k, i in enumerate(pair)]  # fmt: skip
    assert eager.transform == lazy.transform == refine(*stored, start, **options).transform


# --- pieces --------------------------------------------------------------------------------------


def test_cells_make_a_mesh() -> None:
    target = np.array([(0.0, 0), (10, 0), (0, 10), (10, 10)])
    cells = Cells(
        target, target + 10, np.tile((1.0, 0.0), (4, 1)), np.zeros(4), np.ones(4), np.ones(4)
    )
    points = [(0, 0), (5, 5), (10, 10)]
    expected = [(9, 10), (14, 15), (19, 20)]
    np.testing.assert_allclose(cells.mesh().inverse_transform(points), expected, atol=1e-9)


def test_interpolation_is_that_of_the_grid() -> None:
    rng = np.random.default_rng(2)
    vertices = np.stack(np.meshgrid(range(0, 50, 10), range(0, 40, 10), indexing="ij"), axis=-1)
    vertices = vertices + rng.uniform(-2, 2, vertices.shape)
    grid = Grid(vertices, (0, 0), (40, 30))
    points = rng.uniform(0, 1, (200, 2)) * (40, 30)
    placed = interpolation(points / 10, (5, 4)) @ vertices.reshape(-1, 2)
    np.testing.assert_allclose(placed, grid.transform(points), atol=1e-9)


def test_a_cell_that_lies_is_found_and_an_affine_field_is_carried_on() -> None:
    rows, cols = np.indices((7, 8))
    field = np.stack([3 + 0.5 * rows - cols, 2.0 * cols], axis=-1)
    wrong = field.copy()
    wrong[2, 3] += (9, -4)
    wrong[0, 0] += (0, 7)
    kept = consistent(wrong, np.ones((7, 8), dtype=bool))
    assert sorted(map(tuple, np.argwhere(~kept).tolist())) == [(0, 0), (2, 3)]
    inner = np.argwhere(np.ones((3, 3), dtype=bool)) + 2
    moves = fit_vertices(
        inner.astype(float), field[inner[:, 0], inner[:, 1]], np.ones(9), (7, 8), 1
    )
    np.testing.assert_allclose(moves, field, atol=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cell": 8}, "cells"),
        ({"passes": 0}, "cells"),
        ({"transform": (1, 2)}, "transform"),
        ({"moving": np.zeros(9)}, "height, width"),
    ],
)
def test_what_cannot_be_is_refused(pair, change, words) -> None:
    options = {"fixed": pair[0], "moving": pair[1], "transform": Translation((0, 0)), **change}
    with pytest.raises(InputError, match=words):
        refine(**options)
