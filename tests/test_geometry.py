"""Boxes, grids, and which boxes touch which block."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import boxes

from mosaicreg.geometry import (
    Box,
    TileGrid,
    as_pair,
    bounding_box,
    centred_box,
    clipped_range,
    group_by_block,
    near_pairs,
    nearest_pixel,
    owned_boxes,
    power_of_two,
    shifted_range,
    size_for_overlap,
)


def pixels(box: Box) -> set[tuple[int, int]]:
    return {(y, x) for y in range(box.y0, box.y1) for x in range(box.x0, box.x1)}


@given(boxes(), boxes())
def test_an_intersection_holds_the_common_pixels(a: Box, b: Box) -> None:
    common = a.intersection(b)
    assert (pixels(common) if common else set()) == pixels(a) & pixels(b)


@given(boxes(), boxes())
def test_a_box_contains_another_when_it_holds_all_its_pixels(a: Box, b: Box) -> None:
    if b.area:
        assert a.contains(b) == (pixels(b) <= pixels(a))


@given(boxes(), st.integers(-9, 9), st.integers(-9, 9))
def test_shifting_back_and_forth_changes_nothing(box: Box, dy: int, dx: int) -> None:
    assert box.shifted(dy, dx).shifted(-dy, -dx) == box
    assert box.shifted(dy, dx).shape == box.shape


def test_a_box_must_not_end_before_it_starts() -> None:
    with pytest.raises(ValueError, match="ends before"):
        Box(0, 0, -1, 5)


@given(
    st.tuples(st.integers(0, 60), st.integers(0, 60)),
    st.tuples(st.integers(1, 25), st.integers(1, 25)),
)
def test_a_grid_covers_the_plane_once(shape: tuple[int, int], tile: tuple[int, int]) -> None:
    grid = TileGrid(shape, tile)
    seen = np.zeros(shape, dtype=int)
    for row, col, box in grid.boxes():
        assert grid.box(row, col) == box
        assert (grid.chunks[0][row], grid.chunks[1][col]) == box.shape
        seen[box.slices] += 1
    assert (seen == 1).all()
    assert sum(grid.chunks[0]) == shape[0]
    assert sum(grid.chunks[1]) == shape[1]


def test_a_grid_knows_its_bounds() -> None:
    grid = TileGrid((10, 10), (4, 4))
    assert grid.grid_shape == (3, 3)
    with pytest.raises(IndexError, match="outside the grid"):
        grid.box(3, 0)
    with pytest.raises(ValueError, match="cannot cut"):
        TileGrid((10, 10), (0, 4))


def test_halves_round_up_everywhere_so_that_all_tiles_move_alike() -> None:
    places = np.array([-1.5, -0.5, 0.5, 1.5, 2.4999])
    assert nearest_pixel(places).tolist() == [-1, 0, 1, 2, 2]
    assert (nearest_pixel(places + 7) == nearest_pixel(places) + 7).all()


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 30))
def test_blocks_know_exactly_the_boxes_that_touch_them(seed: int, th: int, tw: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = rng.integers(1, 40, (rng.integers(0, 12), 2))
    owned = owned_boxes(rng.uniform(0, 80, shapes.shape), shapes)
    canvas = bounding_box(owned)
    owned -= np.array([canvas.y0, canvas.x0, canvas.y0, canvas.x0])
    grid = TileGrid(canvas.shape, (th, tw))
    starts, members = group_by_block(owned, grid)
    for number, (_, _, block) in enumerate(grid.boxes()):
        expected = [k for k, b in enumerate(owned.tolist()) if block.intersection(Box(*b))]
        assert members[starts[number] : starts[number + 1]].tolist() == expected


def test_no_boxes_have_an_empty_bound() -> None:
    assert bounding_box(np.empty((0, 4), dtype=np.int64)).area == 0


def test_one_number_stands_for_both_axes() -> None:
    assert as_pair(5, "side") == (5, 5)
    assert as_pair((5, 6), "side") == (5, 6)
    with pytest.raises(ValueError, match="side must be one whole number"):
        as_pair((1, 2, 3), "side")
    with pytest.raises(ValueError, match="side must be one whole number"):
        as_pair(1.5, "side")


# --- ranges, regions, sizes ----------------------------------------------------------------------


@pytest.mark.row("A1")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 16, 32), range(16)),
        ((-3, 16, 32), range(13)),
        ((24, 16, 32), range(24, 32)),
        ((-3, 4, 10), range(1)),
        ((5, 16, 10), range(10)),
        ((40, 16, 32), range(0)),
        ((40, 99, 32), range(0)),
        ((3, -2, 32), range(0)),
    ],
)
def test_clipped_ranges(arguments, expected) -> None:
    assert list(clipped_range(*arguments)) == list(expected)


@pytest.mark.row("A1")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((-3, 16, 32), range(16)),
        ((24, 16, 32), range(16, 32)),
        ((3, 5, 9, 2), range(3, 8)),
        ((5, 0, 9), range(0)),
        ((5, -3, 9), range(0)),
    ],
)
def test_shifted_ranges(arguments, expected) -> None:
    assert list(shifted_range(*arguments)) == list(expected)


@pytest.mark.row("A1")
@given(st.integers(-60, 60), st.integers(1, 60), st.integers(-60, 60), st.integers(-60, 60))
def test_a_shifted_range_is_the_nearest_that_fits(start, count, stop, first) -> None:
    if stop - first < count:
        with pytest.raises(ValueError, match=r"no room|ends before"):
            shifted_range(start, count, stop, first)
        return
    found = shifted_range(start, count, stop, first)
    choices = range(first, stop - count + 1)
    assert len(found) == count
    assert found.start == min(choices, key=lambda k: abs(k - start))
    inside = [k for k in range(start, start + count) if first <= k < stop]
    assert set(inside) <= set(clipped_range(start, count, stop, first))


@pytest.mark.row("A3")
@pytest.mark.parametrize(
    ("centre", "size", "rows"),
    [
        ((8, 8), (4, 4), (6, 10)),
        ((8, 8), (5, 5), (6, 11)),
        ((0, 0), (4, 4), (0, 4)),
        ((15, 15), (4, 4), (12, 16)),
    ],
)
def test_regions_around_a_pixel(centre, size, rows) -> None:
    assert centred_box(centre, size, (16, 16)) == Box(rows[0], rows[0], rows[1], rows[1])


def test_a_region_larger_than_the_image() -> None:
    with pytest.raises(ValueError, match="no room"):
        centred_box((8, 8), (4, 17), (16, 16))


@pytest.mark.row("A4")
def test_lengths_for_correlation() -> None:
    shares = (0, 0.05, 0.1, 0.25, 0.5, 0.9, 1)
    assert [size_for_overlap(100, s) for s in shares] == [200, 190, 180, 150, 100, 100, 100]
    assert [power_of_two(n) for n in (1, 2, 2.5, 128, 190, 256.0, 257)] == [
        1, 2, 4, 128, 256, 256, 512
    ]  # fmt: skip
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="share"):
            size_for_overlap(100, bad)


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), max_size=40), st.integers(1, 99))
def test_near_pairs_are_those_of_cells_that_touch(cells, together) -> None:
    scaled = np.array(cells, dtype=np.float64).reshape(-1, 2)
    scaled[scaled > 7] *= 1e9  # far away rows and columns are no neighbours of each other
    count, parts = near_pairs(scaled, together)
    found = [tuple(pair) for part in parts for pair in part.tolist()]
    expected = [
        (i, j)
        for i, j in itertools.combinations(range(len(scaled)), 2)
        if np.abs(scaled[i] - scaled[j]).max() <= 1
    ]
    assert sorted(found) == expected
    assert count == len(expected)
