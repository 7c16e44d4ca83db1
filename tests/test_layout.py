"""Solving: exact where pairs agree, robust where some are wrong, honest about the rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mosaicreg import Mosaic, solve_layout, solving, stage_layout
from mosaicreg.layoutfile import load_layout, save_layout
from mosaicreg.pairs import REJECTED, Pairs, judge


def grid_mosaic(
    rows: int, cols: int, seed: int = 0, error: float = 8.0
) -> tuple[Mosaic, np.ndarray]:
    """Tiles of 100 x 100 px with 20 px overlap, and their true positions."""
    cells = np.stack(np.divmod(np.arange(rows * cols), cols), axis=1)
    stage = cells * 80.0
    truth = stage + np.random.default_rng(seed).uniform(-error, error, stage.shape)
    return Mosaic.from_arrays([np.zeros((100, 100), np.uint8)] * len(stage), stage), truth


def true_pairs(mosaic: Mosaic, truth: np.ndarray, keep: np.ndarray | None = None) -> Pairs:
    """Perfect measurements of all neighbours, those not in ``keep`` rejected."""
    table = mosaic.neighbours()
    offsets = truth[table[:, 1]] - truth[table[:, 0]]
    count = len(table)
    keep = np.ones(count, bool) if keep is None else keep
    columns = {
        "dy": offsets[:, 0].copy(),
        "dx": offsets[:, 1].copy(),
        "sigma": np.full(count, 0.01),
        "correlation": np.full(count, 0.9),
        "z": np.full(count, 30.0),
        "ratio": np.full(count, 5.0),
        "lead": np.full(count, np.inf),
    }
    told = mosaic.positions[table[:, 1]] - mosaic.positions[table[:, 0]]
    pairs = judge(table[:, 0], table[:, 1], columns, np.empty(0), told, 60)
    pairs.status[~keep] = REJECTED
    return pairs


def errors(layout, truth) -> np.ndarray:
    """(n,) distance to the truth after removing the median offset of each part."""
    error = layout.positions - truth
    for part in np.unique(layout.parts):
        error[layout.parts == part] -= np.median(error[layout.parts == part], axis=0)
    return np.linalg.norm(error, axis=1)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_perfect_pairs_give_perfect_positions(rows, cols, seed) -> None:
    mosaic, truth = grid_mosaic(rows, cols, seed)
    layout = solve_layout(mosaic, true_pairs(mosaic, truth), max_shift=30)
    assert errors(layout, truth).max() < 1e-6
    assert layout.positions.min(axis=0).tolist() == [0, 0]
    assert (layout.verdicts == ("measured" if rows * cols > 1 else "stage")).all()
    assert (layout.parts == 0).all()


@given(st.integers(0, 60))
def test_a_few_wrong_pairs_are_found_and_do_no_harm(seed) -> None:
    mosaic, truth = grid_mosaic(7, 7, seed)
    pairs, table = true_pairs(mosaic, truth), mosaic.neighbours()
    rng = np.random.default_rng(seed)
    # Inner pairs: each tile keeps enough good neighbours to tell which pair is the wrong one.
    inner = [
        k
        for k, (i, j) in enumerate(zip(pairs.fixed, pairs.moving, strict=True))
        if all(0 < t // 7 < 6 and 0 < t % 7 < 6 for t in (i, j))
    ]
    wrong = rng.choice(inner, 2, replace=False)
    assume(not set(table[wrong[0]]) & set(table[wrong[1]]))  # two of four wrong is a conflict
    pairs.dy[wrong] += rng.choice([-1, 1], 2) * rng.uniform(8, 15, 2)
    layout = solve_layout(mosaic, pairs)
    assert errors(layout, truth).max() < 0.01
    assert not layout.used[wrong].any()
    assert layout.used.sum() == len(pairs) - 2


def test_pairs_that_were_not_accepted_have_no_influence() -> None:
    mosaic, truth = grid_mosaic(4, 4)
    keep = np.random.default_rng(1).random(len(mosaic.neighbours())) < 0.8
    pairs = true_pairs(mosaic, truth, keep)
    pairs.dy[~keep] = 999.0
    layout = solve_layout(mosaic, pairs)
    assert errors(layout, truth)[layout.verdicts == "measured"].max() < 1e-6


def test_tiles_without_a_pair_lie_where_the_stage_puts_them() -> None:
    mosaic, truth = grid_mosaic(4, 4)
    table = mosaic.neighbours()
    pairs = true_pairs(mosaic, truth, ~(table == 5).any(axis=1))
    layout = solve_layout(mosaic, pairs)
    assert layout.verdicts[5] == "stage"
    assert (np.delete(layout.verdicts, 5) == "measured").all()
    assert np.isnan(layout.residuals[5])
    assert np.linalg.norm(layout.positions[5] - layout.stage[5]) < 3
    assert layout.parts[5] == 1


def test_parts_lie_to_each_other_as_the_stage_says() -> None:
    mosaic, truth = grid_mosaic(4, 9)
    table = mosaic.neighbours()
    columns = table % 9
    apart = (columns == 3).any(axis=1) & (columns == 4).any(axis=1)
    layout = solve_layout(mosaic, true_pairs(mosaic, truth, ~apart))
    right = np.arange(36) % 9 >= 4
    assert (layout.parts == np.where(right, 0, 1)).all()  # the larger part comes first
    assert errors(layout, truth).max() < 1e-6
    moved = layout.positions - layout.stage
    gap = moved[right].mean(axis=0) - moved[~right].mean(axis=0)
    assert np.abs(gap).max() < 3  # within what 8 px of stage error let the matrix learn


def test_parts_of_their_own_are_doubtful_however_well_they_fit() -> None:
    mosaic, truth = grid_mosaic(4, 9)
    columns = mosaic.neighbours() % 9
    apart = (columns == 3).any(axis=1) & (columns == 4).any(axis=1)
    layout = solve_layout(mosaic, true_pairs(mosaic, truth, ~apart))
    assert (layout.verdicts == "measured").all()
    assert layout.doubtful == pytest.approx(16 / 36)


def test_a_tile_whose_pairs_contradict_each_other_is_in_conflict() -> None:
    mosaic, truth = grid_mosaic(3, 3)
    pairs = true_pairs(mosaic, truth)
    at_corner = np.flatnonzero((pairs.fixed == 0) | (pairs.moving == 0))
    assert len(at_corner) == 2
    pairs.dx[at_corner[0]] += 12
    layout = solve_layout(mosaic, pairs)
    assert layout.verdicts[0] == "conflict"
    assert (layout.verdicts[1:] == "measured").all()
    assert errors(layout, truth)[1:].max() < 0.05


def test_no_tile_leaves_its_window() -> None:
    mosaic, truth = grid_mosaic(5, 5, error=3.0)
    pairs = true_pairs(mosaic, truth)
    # One tile, all of whose pairs agree on a place far away.
    pairs.dy[pairs.moving == 12] += 60
    pairs.dy[pairs.fixed == 12] -= 60
    layout = solve_layout(mosaic, pairs, max_shift=20)
    assert layout.verdicts[12] == "conflict"
    assert np.abs(layout.positions[12] - layout.stage[12]).max() <= 20
    assert errors(layout, truth)[np.arange(25) != 12].max() < 0.1


def test_camera_turned_against_the_stage_places_unmeasured_tiles_right() -> None:
    mosaic, _ = grid_mosaic(8, 8)
    angle = np.deg2rad(1.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * 1.02
    truth = mosaic.positions @ turn.T
    table = mosaic.neighbours()
    layout = solve_layout(mosaic, true_pairs(mosaic, truth, ~(table == 63).any(axis=1)))
    np.testing.assert_allclose(layout.stage_matrix, turn, atol=2e-3)
    assert layout.verdicts[63] == "stage"
    error = layout.positions - truth
    assert np.linalg.norm(error[63] - error[0]) < 1.5
    assert np.linalg.norm((mosaic.positions - truth)[63] - (mosaic.positions - truth)[0]) > 15


def test_the_best_known_pairs_weigh_most() -> None:
    mosaic, truth = grid_mosaic(2, 2)
    pairs = true_pairs(mosaic, truth)
    pairs.sigma[:] = [0.01, 0.01, 0.01, 0.4]
    pairs.dy[3] += 0.5
    layout = solve_layout(mosaic, pairs)
    assert errors(layout, truth).max() < 0.01


def test_solving_again_gives_the_same_bits() -> None:
    mosaic, truth = grid_mosaic(6, 6)
    pairs = true_pairs(mosaic, truth)
    pairs.dy[:] += np.random.default_rng(0).normal(0, 0.3, len(pairs))
    first, second = solve_layout(mosaic, pairs), solve_layout(mosaic, pairs)
    assert (first.positions == second.positions).all()


def test_residuals_and_rms_are_the_misfit_of_the_pairs() -> None:
    mosaic, truth = grid_mosaic(5, 5)
    pairs = true_pairs(mosaic, truth)
    pairs.dy[:] += np.random.default_rng(0).normal(0, 0.3, len(pairs))
    layout = solve_layout(mosaic, pairs)
    p = layout.positions
    misfit = np.linalg.norm(p[pairs.moving] - p[pairs.fixed] - pairs.offsets, axis=1)
    assert layout.rms == pytest.approx(np.sqrt((misfit**2).mean()))
    own = (pairs.fixed == 7) | (pairs.moving == 7)
    assert layout.residuals[7] == pytest.approx(np.sqrt((misfit[own] ** 2).mean()))


def test_the_stage_alone_always_gives_a_layout() -> None:
    mosaic, _ = grid_mosaic(3, 3)
    layout = stage_layout(mosaic.moved(mosaic.positions - 1000, "elsewhere"))
    assert layout.counts == {"stage": 9, "measured": 0, "conflict": 0}
    np.testing.assert_allclose(layout.positions, mosaic.positions)
    assert layout.doubtful == 1


def test_what_a_notebook_shows() -> None:
    mosaic, truth = grid_mosaic(2, 2)
    layout = solve_layout(mosaic, true_pairs(mosaic, truth))
    assert "4 measured, 0 by stage, 0 in conflict; 1 part;" in repr(layout)
    assert "tile 0" in layout._repr_html_()
    assert len(layout) == 4


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".mosaic", ".json"])
def test_writing_and_reading_gives_the_same_positions(suffix, tiles, tmp_path) -> None:
    from mosaicreg import open_mosaic

    mosaic = open_mosaic(tiles)
    truth = mosaic.positions + np.random.default_rng(0).uniform(-3, 3, (len(mosaic), 2)) / 7
    layout = solve_layout(mosaic, true_pairs(mosaic, truth))
    path = tmp_path / "elsewhere" / f"läyout{suffix}"
    save_layout(path, mosaic, layout, {"version": "x"})
    again, loaded = load_layout(path)
    assert (again.names == mosaic.names).all()
    assert (loaded.positions == layout.positions).all()
    assert again.source.read(3, _whole(again, 3), ()).shape == (256, 256)
    if suffix in (".csv", ".json"):
        assert (loaded.verdicts == layout.verdicts).all()
        np.testing.assert_array_equal(loaded.residuals, layout.residuals)
        assert (loaded.parts == layout.parts).all()
    if suffix == ".json":
        assert loaded.rms == layout.rms
        np.testing.assert_array_equal(loaded.pairs.score, layout.pairs.score)
        assert (loaded.used == layout.used).all()


def _whole(mosaic: Mosaic, tile: int):
    from mosaicreg.geometry import Box

    return Box.at((0, 0), tuple(mosaic.shapes[tile]))


def test_a_tile_is_not_held_by_one_pair_that_two_others_contradict() -> None:
    mosaic, truth = grid_mosaic(4, 5)
    pairs = true_pairs(mosaic, truth)
    # A tile at the border has three pairs; two are wrong, each in its own way: three opinions.
    own = np.flatnonzero((pairs.fixed == 2) | (pairs.moving == 2))
    assert len(own) == 3
    pairs.dy[own[0]] += 11
    pairs.dx[own[1]] -= 14
    layout = solve_layout(mosaic, pairs)
    assert not layout.used[own].any()
    assert layout.verdicts[2] == "conflict"
    assert layout.parts[2] == 1
    assert np.linalg.norm(layout.positions[2] - layout.stage[2]) < 3
    assert (np.delete(layout.verdicts, 2) == "measured").all()
    assert errors(layout, truth)[np.arange(20) != 2].max() < 0.01


def test_solving_anew_near_a_stray_tile_does_what_solving_all_anew_does(monkeypatch) -> None:
    """A corner that errs and pulls: the same pairs agree, and tiles lie where they would, far
    within the noise of 0.02 px."""
    mosaic, truth = grid_mosaic(56, 56)
    pairs = true_pairs(mosaic, truth)
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.02, (2, len(pairs)))
    pairs.dy[:] += noise[0]
    pairs.dx[:] += noise[1]
    wrong = rng.random(len(pairs)) < 0.02
    pairs.dy[wrong] += rng.uniform(20, 40, np.count_nonzero(wrong))
    first, second = np.flatnonzero((pairs.fixed == 0) | (pairs.moving == 0))
    pairs.dy[first] += 60
    pairs.dy[second] += 60.8
    solved = []
    near_by = solving._solve_near
    monkeypatch.setattr(solving, "_solve_near", lambda *a: solved.append(1) or near_by(*a))
    quick = solve_layout(mosaic, pairs, max_shift=20)
    assert solved
    monkeypatch.setattr(solving, "MOST_NEAR", 0.0)
    whole = solve_layout(mosaic, pairs, max_shift=20)
    assert len(solved) == 1
    assert (quick.used == whole.used).all()
    assert (quick.verdicts == whole.verdicts).all()
    assert quick.verdicts[0] == "conflict"
    assert not quick.used[wrong].any()
    np.testing.assert_allclose(quick.positions, whole.positions, rtol=0, atol=1e-4)
