"""The geometry doctor: finds what was done to real tiles, and leaves right ones alone."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from mosaicreg import InputError, Mosaic, doctor, open_mosaic, register, solve_layout
from mosaicreg.doctor import Sighting, examine, proof
from mosaicreg.geometry import Box
from mosaicreg.stage import mirrored_rows, rearranged, row_numbers
from mosaicreg.synthetic import Acquisition, Specimen

SETS = {
    "phase_stemcell_mist": "positions_exact.csv",
    "em_mussel_a": "positions.csv",
    "lscm_speckle_a": "positions.csv",
    "lscm_speckle_a_undistorted": "positions.csv",
    "tissue_array_arve0": "positions.csv",
    "sem_meteorite_stitch2d": "positions.csv",
}
TURNS = {
    # what is done to each tile's pixels, and the matrix that positions then need
    "as it is": (lambda a: a, ((1, 0), (0, 1))),
    "up down": (np.flipud, ((-1, 0), (0, 1))),
    "left right": (np.fliplr, ((1, 0), (0, -1))),
    "half turn": (lambda a: a[::-1, ::-1], ((-1, 0), (0, -1))),
    "transposed": (np.transpose, ((0, 1), (1, 0))),
    "quarter turn": (np.rot90, ((0, -1), (1, 0))),
    "three quarters": (lambda a: np.rot90(a, 3), ((0, 1), (-1, 0))),
    "other diagonal": (lambda a: a[::-1, ::-1].T, ((0, -1), (-1, 0))),
}


def real(data, name: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Tiles of a real set, and their nominal positions."""
    with (data / name / SETS[name]).open() as file:
        rows = list(csv.DictReader(file))
    mosaic = (
        open_mosaic(data / name / "tiles", pattern=None, overlap=0.1)
        if not name.startswith("lscm_speckle_a")
        else open_mosaic(data / name / "tiles", positions=data / name / "TileConfiguration.txt")
    )
    where = {r["tile"]: (float(r["nominal_y"]), float(r["nominal_x"])) for r in rows}
    tiles = [
        mosaic.source.read(k, Box.at((0, 0), tuple(s)), ())
        for k, s in enumerate(mosaic.shapes.tolist())
    ]
    return tiles, np.array([where[str(n)] for n in mosaic.names])


@pytest.mark.parametrize("name", SETS)
def test_each_of_the_eight_orientations_is_found_on_real_tiles(name, data) -> None:
    tiles, positions = real(data, name)
    for turn, expected in TURNS.values():
        turned = [np.ascontiguousarray(turn(t)) for t in tiles]
        found = examine(Mosaic.from_arrays(turned, positions))
        np.testing.assert_allclose(found.matrix, expected, atol=0.035)
        assert not found.serpentine


@pytest.mark.parametrize("turn", TURNS)
def test_orders_are_told_apart_in_each_orientation_too(turn, data) -> None:
    tiles, positions = real(data, "sem_meteorite_stitch2d")
    change, expected = TURNS[turn]
    turned = [np.ascontiguousarray(change(t)) for t in tiles]
    found = examine(Mosaic.from_arrays(turned, mirrored_rows(positions)))
    assert found.serpentine
    np.testing.assert_allclose(found.matrix, expected, atol=0.035)


@pytest.mark.parametrize("name", SETS)
def test_both_orders_of_taking_rows_are_told_apart(name, data) -> None:
    tiles, positions = real(data, name)
    assert not examine(Mosaic.from_arrays(tiles, positions)).serpentine
    found = examine(Mosaic.from_arrays(tiles, mirrored_rows(positions)))
    assert found.serpentine
    assert found.options.startswith("--serpentine")
    np.testing.assert_allclose(found.matrix, np.eye(2), atol=0.035)


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("name", SETS)
def test_an_overlap_misstated_by_a_factor_of_two_is_found(name, factor, data) -> None:
    tiles, positions = real(data, name)
    side = np.array(tiles[0].shape)
    steps = positions.max(axis=0) / (row_numbers(positions).max(),
                                     row_numbers(positions[:, ::-1]).max())  # fmt: skip
    true = 1 - steps / side
    told = positions / steps * (side * (1 - factor * true))
    found = examine(Mosaic.from_arrays(tiles, told))
    np.testing.assert_allclose(found.overlap, true, atol=0.02)
    np.testing.assert_allclose(
        found.matrix, np.diag(steps / (side * (1 - factor * true))), atol=0.035
    )


def test_what_the_doctor_says_makes_registration_work(data) -> None:
    tiles, positions = real(data, "sem_meteorite_stitch2d")
    turned = [np.ascontiguousarray(t[::-1, ::-1]) for t in tiles]
    wrong = Mosaic.from_arrays(turned, positions)
    assert not register(wrong).accepted.any()
    right = examine(wrong).apply(wrong)
    layout = solve_layout(right, register(right))
    assert (layout.verdicts == "measured").all()


def simulated(**changes) -> Mosaic:
    acquisition = Acquisition(
        **{"grid": (6, 6), "tile": (200, 240), "overlap": 0.12, "stage_error": 2.0,
           "specimen": Specimen(3, 0.05), **changes}
    )  # fmt: skip
    tiles = [acquisition.tile_image(k) for k in range(len(acquisition))]
    return Mosaic.from_arrays(tiles, acquisition.stage, origin="of a stage")


def test_healthy_positions_are_left_alone() -> None:
    found = examine(simulated())
    assert found.findings == ()
    assert found.options == ""
    assert "Positions and images agree." in str(found)


def test_camera_angle_and_pixel_size_are_measured() -> None:
    found = examine(simulated(camera_angle=1.0, pixel_error=0.02))
    assert "the camera is turned by 1." in str(found)
    assert found.matrix.diagonal() == pytest.approx(1.02, abs=0.004)
    angle = np.arctan2(found.matrix[1, 0], found.matrix[0, 0])
    assert np.rad2deg(angle) == pytest.approx(1.0, abs=0.15)


def test_backlash_is_measured() -> None:
    found = examine(simulated(backlash=9.0))
    assert found.backlash == pytest.approx(9.0, abs=1.5)
    assert "every second row is shifted by" in str(found)


def test_overlap_is_told_as_an_option_where_names_placed_the_tiles() -> None:
    mosaic = simulated(stage_error=0.5)
    told = mosaic.moved(mosaic.positions * 0.9, "from row and column in the names")
    found = examine(told)
    assert found.options.startswith("--overlap 0.1")
    assert "stage-matrix" not in found.options


def test_blank_tiles_leave_the_doctor_unsure() -> None:
    rng = np.random.default_rng(0)
    tiles = [rng.poisson(300, (120, 120)).astype(np.uint16) for _ in range(9)]
    cells = np.stack(np.divmod(np.arange(9), 3), axis=1)
    found = examine(Mosaic.from_arrays(tiles, cells * 100.0))
    assert not found.sure
    assert "Too little was seen" in str(found)
    assert found.facts()["matrix"] is None
    assert proof(Mosaic.from_arrays(tiles, cells * 100.0), found) == {}


def test_an_unsure_doctor_prescribes_nothing(monkeypatch) -> None:
    def seen(fixed: int, row: int, found: tuple[float, float], side: str) -> Sighting:
        return Sighting(fixed, fixed + 1, (0.0, 90.0), side, found, 9.0, row)

    # Rows seem to alternate, but nothing was seen along y.
    sightings = [seen(0, 0, (0.0, 90.0), "right"), seen(2, 1, (0.0, -90.0), "left")]
    monkeypatch.setattr(doctor, "_look", lambda *_: sightings)
    mosaic = Mosaic.from_arrays(
        [np.zeros((100, 100), np.uint8)] * 4, [(0, 0), (0, 90), (90, 0), (90, 90)]
    )
    diagnosis = examine(mosaic)
    assert not diagnosis.sure
    assert not diagnosis.findings
    assert diagnosis.options == ""


def test_one_tile_has_no_neighbours() -> None:
    with pytest.raises(InputError, match="put no two of them next to each other"):
        examine(Mosaic.from_arrays([np.ones((9, 9), np.uint8)], [(0, 0)]))


def test_the_proof_shows_two_tiles_as_told_and_as_seen() -> None:
    mosaic = simulated()
    flipped = rearranged(mosaic, ((-1, 0), (0, 1)), False)
    views = proof(flipped, examine(flipped))
    assert list(views) == ["as the positions say", "as seen"]
    told, seen = views.values()
    assert told.shape == seen.shape
    assert not np.array_equal(told, seen)


def test_rows_are_numbered_by_their_gaps() -> None:
    rng = np.random.default_rng(0)
    cells = rng.permutation(np.stack(np.divmod(np.arange(30), 6), axis=1))
    positions = cells * 100.0 + rng.uniform(-12, 12, (30, 2))
    assert (row_numbers(positions) == cells[:, 0]).all()
    assert row_numbers(np.zeros((3, 2))).tolist() == [0, 0, 0]


def test_rearranging_says_so() -> None:
    mosaic = simulated()
    assert rearranged(mosaic, None, False) is mosaic
    moved = rearranged(mosaic, ((0, 1), (1, 0)), True)
    assert moved.origin == "of a stage, every second row mirrored, turned by the stage matrix"
    np.testing.assert_array_equal(moved.positions, mirrored_rows(mosaic.positions)[:, ::-1])
