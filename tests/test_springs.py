"""The spring model: known layouts, brute force, and where swinging springs lead."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg import InputError
from mosaicreg.springs import SpringLayout, build_layout, merge_parts, relax_layout, relax_nodes

CROSS = np.array([(0, 0), (10, 0), (-10, 0), (0, 10), (0, -10)], dtype=float)
LINE = SpringLayout(
    [(0, 0), (10, 5), (-10, 5)], [0, 0, 1], [1, 2, 2], [(10, 5), (-10, 5), (-15, 0)]
)


def star(positions) -> SpringLayout:
    return SpringLayout(positions, [0] * 4, [1, 2, 3, 4], CROSS[1:])


def grid(rows: int, columns: int, rng=None, spread: float = 0.0) -> SpringLayout:
    """Tiles 10 px apart; offsets off by up to ``spread``, weights random where spread is not 0."""
    places = np.stack(np.mgrid[:rows, :columns], axis=-1).reshape(-1, 2) * 10.0
    numbers = np.arange(rows * columns).reshape(rows, columns)
    first = np.concatenate([numbers[:, :-1].ravel(), numbers[:-1].ravel()])
    second = np.concatenate([numbers[:, 1:].ravel(), numbers[1:].ravel()])
    offsets = places[second] - places[first]
    weights = np.ones(len(first))
    if rng is not None:
        offsets += rng.uniform(-spread, spread, offsets.shape)
        weights = rng.uniform(0.01, 1, len(first))
        places = places + rng.uniform(-spread, spread, places.shape)
    return SpringLayout(places, first, second, offsets, weights)


@pytest.mark.row("I1 layouts")
def test_a_cross_in_place_has_no_tension() -> None:
    cross = star(CROSS)
    assert not cross.tensions.any()
    assert not cross.net_tensions.any()
    assert not cross.weighted_net_tensions.any()


@pytest.mark.row("I1 layouts")
def test_a_singularity_becomes_a_cross_in_one_step() -> None:
    singular = star(np.zeros((5, 2)))
    np.testing.assert_array_equal(singular.net_tensions, CROSS)
    np.testing.assert_array_equal(relax_nodes(singular, 1.0).positions, CROSS)
    np.testing.assert_allclose(relax_layout(singular).positions, CROSS, atol=1e-12)
    np.testing.assert_allclose(relax_nodes(singular).positions, 0.95 * CROSS)


@pytest.mark.row("I1 layouts")
def test_a_line_shares_its_error() -> None:
    np.testing.assert_array_equal(LINE.net_tensions, [(0, 0), (-5, 0), (5, 0)])
    np.testing.assert_array_equal(LINE.tensions[2], (-5, 0))
    relaxed = relax_layout(LINE).positions
    np.testing.assert_allclose(relaxed[0] - relaxed[1], (-8.333, -5), atol=0.002)
    np.testing.assert_allclose(relaxed[0] - relaxed[2], (8.333, -5), atol=0.002)
    np.testing.assert_allclose(relaxed.mean(axis=0), LINE.positions.mean(axis=0))
    assert LINE.positions[1].tolist() == [10, 5], "the layout that was relaxed has changed"


@pytest.mark.row("I1 layouts")
@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_a_grid_comes_to_rest(spread: float) -> None:
    rng = np.random.default_rng(3)
    start = grid(10, 10, rng, spread) if spread else grid(10, 10)
    rest = relax_layout(start)
    assert np.linalg.norm(rest.weighted_net_tensions, axis=1).max() < 1e-9
    if spread == 0:
        np.testing.assert_allclose(rest.positions, start.positions, atol=1e-9)


def test_swinging_springs_come_to_the_same_rest() -> None:
    rng = np.random.default_rng(4)
    start = grid(4, 5, rng, 4.0)
    swung = start
    for _ in range(3000):
        swung = relax_nodes(swung)
    rest = relax_layout(start).positions
    apart = swung.positions - rest
    np.testing.assert_allclose(apart, np.broadcast_to(apart[0], apart.shape), atol=1e-6)


@given(st.integers(2, 9), st.integers(0, 16), st.integers(0, 10**6))
def test_rest_is_the_least_squares_solution(tiles, springs, seed) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, tiles, springs)
    second = (first + rng.integers(1, tiles, springs)) % tiles
    weights = rng.uniform(0, 1, springs) * 10.0 ** rng.integers(-9, 1, springs)
    layout = SpringLayout(
        rng.uniform(-50, 50, (tiles, 2)), first, second, rng.uniform(-9, 9, (springs, 2)), weights
    )
    rest = relax_layout(layout)
    np.testing.assert_allclose(rest._pulls(weights), 0, atol=1e-9)
    for part in range(layout.parts.max() + 1):
        own = layout.parts == part
        np.testing.assert_allclose(
            rest.positions[own].mean(axis=0), layout.positions[own].mean(axis=0), atol=1e-8
        )


def built_one_by_one(stage, springs):
    """The rule as it is told: groups as dictionaries, springs one after the other."""
    groups: list[dict[int, np.ndarray]] = []
    known = [s for s in springs if not np.isnan(s[0])]
    for _, a, b, offset in sorted(known, key=lambda s: -s[0]):
        of_a = next((g for g in groups if a in g), None)
        of_b = next((g for g in groups if b in g), None)
        if of_a is None and of_b is None:
            groups.append({a: stage[a], b: stage[a] + offset})
        elif of_b is None:
            of_a[b] = of_a[a] + offset
        elif of_a is None:
            of_b[a] = of_b[b] - offset
        elif of_a is not of_b:
            shift = of_a[a] + offset - of_b[b]
            if groups.index(of_a) > groups.index(of_b):
                of_a, of_b, shift = of_b, of_a, -shift
            of_a.update({k: p + shift for k, p in of_b.items()})
            groups = [g for g in groups if g is not of_b]
    placed = stage.copy()
    for group in groups:
        for tile, position in group.items():
            placed[tile] = position
    return placed


@pytest.mark.row("I1 layouts")
@given(st.integers(2, 9), st.integers(0, 16), st.integers(0, 10**6))
def test_building_takes_the_heaviest_springs_first(tiles, count, seed) -> None:
    rng = np.random.default_rng(seed)
    stage = rng.uniform(-50, 50, (tiles, 2))
    first = rng.integers(0, tiles, count)
    second = (first + rng.integers(1, tiles, count)) % tiles
    offsets = rng.uniform(-9, 9, (count, 2))
    weights = rng.permutation(count) / 16 + 0.01
    weights[rng.random(count) < 0.1] = np.nan
    layout = build_layout(stage, first, second, offsets, weights)
    springs = list(zip(weights, first.tolist(), second.tolist(), offsets, strict=True))
    np.testing.assert_allclose(layout.positions, built_one_by_one(stage, springs), atol=1e-9)
    assert len(layout.first) == np.isfinite(weights).sum()


@pytest.mark.row("I1 layouts")
def test_parts_are_merged_by_most_offsets_first() -> None:
    """Three pairs of tiles; 0-1 and 2-3 are tied by two offsets, 4-5 by one to either."""
    places = [(0, 0), (0, 10), (0, 30), (0, 40), (50, 0), (50, 10), (99, 99)]
    layout = SpringLayout(places, [0, 2, 4], [1, 3, 5], [(0, 10)] * 3)
    told = [(1, 2, (0, 12)), (0, 3, (0, 30)), (4, 1, (-20, 10)), (3, 5, (21, -20))]
    merged = merge_parts(layout, *(list(column) for column in zip(*told, strict=True)))
    # 2-3 is asked to move by -8 and by -10: -9. 4-5 then by (-30, 0) and by (-29, 1).
    np.testing.assert_allclose(
        merged.positions,
        [(0, 0), (0, 10), (0, 21), (0, 31), (20.5, 0.5), (20.5, 10.5), (99, 99)],
    )
    np.testing.assert_array_equal(merged.tensions, layout.tensions)


def test_the_larger_part_stays_and_what_is_far_follows() -> None:
    places = np.array([(0, 0), (5, 5), (0, 10), (0, 20), (70, 70)], dtype=float)
    layout = SpringLayout(places, [2], [3], [(0, 10)])
    merged = merge_parts(layout, [0, 0, 1], [2, 1, 4], [(0, 9), (1, 1), (1, 1)])
    np.testing.assert_allclose(merged.positions, [(0, 1), (1, 2), (0, 10), (0, 20), (2, 3)])


def test_a_long_chain_and_many_parts_take_no_recursion() -> None:
    n = 20_000
    numbers = np.arange(n - 1)
    chain = build_layout(np.zeros((n, 2)), numbers, numbers + 1, [(1, 2)] * (n - 1), np.ones(n - 1))
    np.testing.assert_array_equal(chain.positions[:, 1], 2 * np.arange(n))
    loose = SpringLayout(np.zeros((n, 2)))
    joined = merge_parts(loose, numbers, numbers + 1, [(1, 2)] * (n - 1)).positions
    np.testing.assert_array_equal(np.diff(joined, axis=0), [(1, 2)] * (n - 1))
    rest = relax_layout(chain)
    np.testing.assert_allclose(rest.positions, chain.positions, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([(0, 0)], [0], [1], [(1, 1)]), "0 to 1 of 1"),
        (([(0, 0), (1, 1)], [1], [1], [(1, 1)]), "tile 1 is tied to itself"),
        (([(0, 0), (1, 1)], [0], [1], [(1, np.nan)]), "finite"),
        (([(0, 0), (1, 1)], [0], [1], [(1, 1), (2, 2)]), "1 springs need as many offsets"),
        (([(0, 0), (1, 1)], [0], [1, 1], [(1, 1)]), "one first tile"),
        (([(0, 0), (1, 1)], [0], [1], [(1, 1)], [-1]), "0 or more"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        SpringLayout(*arguments)
