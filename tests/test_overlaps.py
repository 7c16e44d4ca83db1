"""Where tiles overlap: known rectangles, and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg import InputError, tile_overlaps
from mosaicreg.mosaic import SEAM_SHARE

BOX = (-50, -50, 50, 50)
GOLDEN = [
    # centres of two tiles of 100 x 100, overlap in the one, in the other, offset, share
    ((0, 40), (0, -40), (-50, -50, 50, -30), (-50, 30, 50, 50), (0, -80), 0.2),
    ((40, 0), (-40, 0), (-50, -50, -30, 50), (30, -50, 50, 50), (-80, 0), 0.2),
    ((10, 40), (-10, -40), (-50, -50, 30, -30), (-30, 30, 50, 50), (-20, -80), 0.16),
]


@pytest.mark.row("I1 overlaps")
@pytest.mark.parametrize(("a", "b", "in_a", "in_b", "offset", "share"), GOLDEN)
def test_known_rectangles(a, b, in_a, in_b, offset, share) -> None:
    corners = np.array([a, b]) - 50
    found = tile_overlaps(corners, [(100, 100)] * 2, origins=BOX[:2])
    assert (found.first.tolist(), found.second.tolist()) == ([0], [1])
    assert found.first_source.tolist() == [list(in_a)]
    assert found.second_source.tolist() == [list(in_b)]
    assert found.offsets.tolist() == [list(offset)]
    assert found.share == pytest.approx(share)
    np.testing.assert_array_equal(found.target[0, :2] - a, in_a[:2])


def test_images_of_another_size() -> None:
    half = tile_overlaps([(0, 0), (0, 80)], [(100, 100)] * 2).scaled(0.5)
    assert half.target.tolist() == [[0, 40, 50, 50]]
    assert half.second_source.tolist() == [[0, 0, 50, 10]]
    assert half.offsets.tolist() == [[0, 40]]
    assert half.share == pytest.approx(0.2)


def test_tiles_moved_towards_each_other_overlap_more() -> None:
    """At half the distance a tile 80 px beside another lies 40 px beside it."""
    near = tile_overlaps([(0, 0), (0, 80)], [(100, 100)] * 2, distance_scale=0.5)
    assert near.first_source.tolist() == [[0, 40, 100, 100]]
    assert near.second_source.tolist() == [[0, 0, 100, 60]]
    assert near.offsets.tolist() == [[0, 80]]
    assert near.share == pytest.approx(0.6)
    apart = tile_overlaps([(0, 0), (0, 101)], [(100, 100)] * 2, distance_scale=0.5)
    assert len(apart) == 0


def test_small_overlaps_and_corners_can_be_left_out() -> None:
    grid = [(y * 90, x * 80) for y in range(3) for x in range(4)]
    shapes = [(100, 100)] * len(grid)
    assert len(tile_overlaps(grid, shapes)) == 17 + 12
    straight = tile_overlaps(grid, shapes, diagonal=False)
    assert len(straight) == 17
    assert (np.abs(straight.offsets).min(axis=1) == 0).all()
    wide = tile_overlaps(grid, shapes, min_overlap=0.15)
    np.testing.assert_allclose(wide.share, 0.2)
    assert len(wide) == 9


@given(st.integers(1, 12), st.integers(0, 10**6), st.sampled_from([1.0, 0.6]))
def test_the_same_as_looking_at_every_pair(count, seed, distance_scale) -> None:
    rng = np.random.default_rng(seed)
    shapes = rng.integers(1, 40, (count, 2))
    corners = rng.uniform(-60, 60, (count, 2))
    origins = rng.uniform(-5, 5, (count, 2))
    least = float(rng.choice([0, 0.3]))
    found = tile_overlaps(
        corners, shapes, origins=origins, min_overlap=least, distance_scale=distance_scale
    )
    expected = {}
    for a in range(count):
        for b in range(a + 1, count):
            apart = corners[b] + shapes[b] / 2 - corners[a] - shapes[a] / 2
            moved = corners[b] - (1 - distance_scale) * apart
            low = np.maximum(corners[a], moved)
            high = np.minimum(corners[a] + shapes[a], moved + shapes[b])
            share = (high - low).prod() / shapes[a].prod()
            real = np.minimum(corners[a] + shapes[a], corners[b] + shapes[b])
            if (real > np.maximum(corners[a], corners[b])).all() and share >= least:
                expected[a, b] = (low, high, moved)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == list(expected)
    for k, ((a, b), (low, high, moved)) in enumerate(expected.items()):
        np.testing.assert_allclose(found.target[k], [*low, *high])
        in_a, in_b = low - corners[a] + origins[a], low - moved + origins[b]
        np.testing.assert_allclose(found.first_source[k], [*in_a, *(in_a + high - low)], atol=1e-9)
        np.testing.assert_allclose(found.second_source[k], [*in_b, *(in_b + high - low)], atol=1e-9)


def test_a_corner_is_what_is_short_both_ways() -> None:
    side = round(100 * SEAM_SHARE)
    corners = [(0, 0), (100 - side, 90), (300, 0), (301 - side + 100, 90)]
    found = tile_overlaps(corners, [(100, 100)] * 4, diagonal=False)
    assert found.first.tolist() == [0]


def test_a_large_mosaic_takes_columns_only() -> None:
    rows, columns = 100, 200
    y, x = np.mgrid[:rows, :columns] * 90.0
    corners = np.stack([y.ravel(), x.ravel()], axis=1)
    found = tile_overlaps(corners, np.full((rows * columns, 2), 100))
    straight = rows * (columns - 1) + columns * (rows - 1)
    assert len(found) == straight + 2 * (rows - 1) * (columns - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distance_scale": 0}, "scaled by above 0"),
        ({"distance_scale": 1.5}, "scaled by above 0"),
        ({"min_overlap": -0.1}, "share from 0 to 1"),
        ({"positions": [(0, np.nan), (1, 1)]}, "finite"),
        ({"positions": [(0, 0)]}, "finite positions"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message) -> None:
    given_ = {"positions": [(0, 0), (0, 5)], "shapes": [(10, 10)] * 2, **arguments}
    with pytest.raises(InputError, match=message):
        tile_overlaps(given_.pop("positions"), given_.pop("shapes"), **given_)
    with pytest.raises(InputError, match="above 0"):
        tile_overlaps([(0, 0), (0, 5)], [(10, 10)] * 2).scaled(0)
