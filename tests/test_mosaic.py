"""`Mosaic`: columns that fit each other, and who is whose neighbour."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg import InputError, Mosaic
from mosaicreg.mosaic import SEAM_SHARE, neighbour_pairs


def test_a_mosaic_is_immutable_and_picklable(acquisition) -> None:
    mosaic = acquisition.mosaic
    with pytest.raises(ValueError, match="read-only"):
        mosaic.positions[0] = 0
    again = pickle.loads(pickle.dumps(mosaic))
    assert (again.names == mosaic.names).all()
    assert again.digest() == mosaic.digest()


def test_the_digest_tells_mosaics_apart(acquisition) -> None:
    mosaic = acquisition.mosaic
    assert mosaic.moved(mosaic.positions + 1, "x").digest() != mosaic.digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a"]}, "as many names"),
        ({"positions": [(0, 0)]}, r"needs \(2, 2\) positions"),
        ({"positions": [(0, 0), (np.inf, 1)]}, "positions must be finite"),
        ({"axes": "cyx"}, "do not fit leading axes"),
    ],
)
def test_columns_must_fit(change, message) -> None:
    tiles = [np.zeros((5, 5), np.uint8)] * 2
    facts = {"positions": [(0, 0), (0, 4)], **change}
    with pytest.raises(InputError, match=message):
        Mosaic.from_arrays(tiles, facts.pop("positions"), **facts)


@given(st.integers(0, 10_000))
def test_neighbours_share_a_long_seam(seed) -> None:
    rng = np.random.default_rng(seed)
    shapes = rng.integers(5, 40, (rng.integers(1, 15), 2))
    positions = rng.uniform(0, 90, shapes.shape)
    found = neighbour_pairs(positions, shapes).tolist()
    expected, corners = [], []
    for i in range(len(shapes)):
        for j in range(i + 1, len(shapes)):
            low = np.maximum(positions[i], positions[j])
            high = np.minimum(positions[i] + shapes[i], positions[j] + shapes[j])
            if (high > low).all():
                share = ((high - low) / np.minimum(shapes[i], shapes[j])).max()
                (expected if share >= SEAM_SHARE else corners).append([i, j])
    linked = {t for pair in expected for t in pair}
    expected += [p for p in corners if not set(p) <= linked]
    assert found == sorted(expected)


def test_a_grid_has_no_diagonal_neighbours() -> None:
    cells = np.stack(np.divmod(np.arange(12), 4), axis=1)
    pairs = neighbour_pairs(cells * 90.0, np.full((12, 2), 100))
    assert len(pairs) == 3 * 3 + 2 * 4
    assert (np.abs(cells[pairs[:, 1]] - cells[pairs[:, 0]]).sum(axis=1) == 1).all()


def test_a_checkerboard_is_linked_by_its_corners() -> None:
    cells = np.array([(r, c) for r in range(4) for c in range(4) if (r + c) % 2 == 0])
    pairs = neighbour_pairs(cells * 90.0, np.full((len(cells), 2), 100))
    assert (np.abs(cells[pairs[:, 1]] - cells[pairs[:, 0]]) == 1).all()
    assert len(pairs) == 9


def test_tiles_in_heaps_are_noticed_before_they_take_all_memory() -> None:
    with pytest.raises(InputError, match="positions put tiles in heaps"):
        neighbour_pairs(np.zeros((3000, 2)), np.full((3000, 2), 100))


def test_tile_counts_at_the_edges_of_a_byte_and_of_a_hundred_columns() -> None:
    for count in (255, 256, 257):
        pairs = neighbour_pairs(np.arange(count)[:, None] * (0.0, 90.0), np.full((count, 2), 100))
        assert len(pairs) == count - 1
    for columns in (100, 101):
        cells = np.stack(np.divmod(np.arange(2 * columns), columns), axis=1) * 90.0
        pairs = neighbour_pairs(cells, np.full((len(cells), 2), 100))
        assert len(pairs) == 2 * (columns - 1) + columns


def test_a_hundred_thousand_tiles_find_their_neighbours() -> None:
    cells = np.stack(np.divmod(np.arange(100_000), 400), axis=1) * 922.0
    positions = cells + np.random.default_rng(0).uniform(-12, 12, cells.shape)
    pairs = neighbour_pairs(positions, np.full((100_000, 2), 1024))
    assert len(pairs) == 250 * 399 + 249 * 400
