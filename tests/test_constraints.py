"""What people know better: read strictly, obeyed exactly, solved again without a pixel."""

from __future__ import annotations

import numpy as np
import pytest
from test_layout import errors, grid_mosaic, true_pairs

from mosaicreg import InputError, solve_layout
from mosaicreg.constraints import read_constraints
from mosaicreg.layout import solve_again

HEADER = "kind,tile,other,y,x,sigma\n"


def constraints(tmp_path, mosaic, text: str):
    path = tmp_path / "known.csv"
    path.write_text(HEADER + text)
    return read_constraints(path, mosaic.names)


def test_a_pinned_tile_lies_where_it_is_pinned_and_takes_its_part_along(tmp_path) -> None:
    mosaic, truth = grid_mosaic(4, 4)
    known = constraints(tmp_path, mosaic, "pin,tile 5,,1000.5,2000.25,\n")
    layout = solve_layout(mosaic, true_pairs(mosaic, truth), constraints=known)
    np.testing.assert_allclose(layout.positions[5], (1000.5, 2000.25), atol=1e-6)
    np.testing.assert_allclose(layout.positions - layout.positions[5], truth - truth[5], atol=1e-4)
    assert (layout.parts == 0).all()


def test_pins_bring_parts_together(tmp_path) -> None:
    mosaic, truth = grid_mosaic(4, 9)
    columns = mosaic.neighbours() % 9
    apart = (columns == 3).any(axis=1) & (columns == 4).any(axis=1)
    pairs = true_pairs(mosaic, truth, ~apart)
    loose = solve_layout(mosaic, pairs)
    assert loose.parts.max() == 1
    lines = [f"pin,tile {k},,{truth[k, 0]},{truth[k, 1]},\n" for k in (0, 8)]
    layout = solve_layout(mosaic, pairs, constraints=constraints(tmp_path, mosaic, "".join(lines)))
    np.testing.assert_allclose(layout.positions, truth, atol=1e-3)
    assert layout.parts.max() == 0
    assert (layout.verdicts == "measured").all()


def test_a_match_goes_before_what_was_measured(tmp_path) -> None:
    mosaic, truth = grid_mosaic(3, 3)
    pairs = true_pairs(mosaic, truth)
    touching = (pairs.fixed == 0) | (pairs.moving == 0)
    pairs.dy[touching] += 9.0  # both pairs of the corner are wrong, and agree with each other
    dy, dx = truth[1] - truth[0]
    known = constraints(tmp_path, mosaic, f"match,tile 0,tile 1,{dy},{dx},0.001\n")
    layout = solve_layout(mosaic, pairs, constraints=known)
    assert errors(layout, truth).max() < 0.1
    assert not layout.used[touching].any()


def test_a_match_reaches_a_tile_that_could_not_be_measured(tmp_path) -> None:
    mosaic, truth = grid_mosaic(3, 3)
    table = mosaic.neighbours()
    pairs = true_pairs(mosaic, truth, ~(table == 8).any(axis=1))
    dy, dx = truth[4] - truth[8]
    known = constraints(tmp_path, mosaic, f"match,tile 8,tile 4,{dy},{dx},\n")
    layout = solve_layout(mosaic, pairs, constraints=known)
    assert layout.verdicts[8] == "measured"
    assert errors(layout, truth).max() < 1e-4


def test_a_forbidden_pair_has_no_influence(tmp_path) -> None:
    mosaic, truth = grid_mosaic(1, 3)
    pairs = true_pairs(mosaic, truth)
    pairs.dx[1] += 10
    known = constraints(tmp_path, mosaic, "forbid,tile 2,tile 1,,,\n")
    layout = solve_layout(mosaic, pairs, constraints=known)
    assert layout.used.tolist() == [True, False]
    assert layout.verdicts.tolist() == ["measured", "measured", "stage"]


def test_solving_again_starts_from_the_layouts_own_frame(tmp_path) -> None:
    mosaic, truth = grid_mosaic(3, 3)
    first = solve_layout(mosaic, true_pairs(mosaic, truth))
    moved = mosaic.moved(first.positions, "layout")
    again = solve_again(moved, first)
    np.testing.assert_allclose(again.positions, first.positions, atol=1e-6)
    away = np.array([3, -2])
    y, x = first.positions[4] + away
    known = constraints(tmp_path, mosaic, f"pin,tile 4,,{y},{x},\n")
    pinned = solve_again(moved, first, None, known)
    np.testing.assert_allclose(pinned.positions, first.positions + away, atol=1e-4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pinned,tile 0,,1,2,", "line 2: 'pinned' is not one of pin, forbid, match"),
        ("pin,tile 99,,1,2,", "line 2: there is no tile 'tile 99'"),
        ("pin,tile 0,,one,2,", "line 2: y is 'one', not a number"),
        ("pin,tile 0,,inf,2,", "line 2: y is inf, not a finite number"),
        ("match,tile 0,tile 1,1,2,-1", "line 2: sigma must be above 0, not -1.0"),
        ("match,tile 0,,1,2,", "line 2: there is no tile ''"),
        ("forbid,tile 0,tile 0,,,", "line 2: tile 0 cannot be paired with itself"),
    ],
)
def test_bad_lines_are_named(line, message, tmp_path) -> None:
    mosaic, _ = grid_mosaic(2, 2)
    with pytest.raises(InputError) as error:
        constraints(tmp_path, mosaic, line + "\n")
    assert message in str(error.value)


def test_bad_files_are_named(tmp_path) -> None:
    mosaic, _ = grid_mosaic(2, 2)
    with pytest.raises(InputError, match="no such constraint file"):
        read_constraints(tmp_path / "none.csv", mosaic.names)
    (tmp_path / "a.csv").write_text("tile,y,x\n")
    with pytest.raises(InputError, match="header must be kind,tile,other,y,x"):
        read_constraints(tmp_path / "a.csv", mosaic.names)
