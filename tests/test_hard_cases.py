"""What goes wrong at microscopes, simulated with known truth: right, or honestly not measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mosaicreg import Mosaic, register, solve_layout
from mosaicreg.demo import position_errors
from mosaicreg.synthetic import Acquisition, Camera, Specimen

USUAL = Acquisition(
    grid=(5, 5), tile=(400, 400), overlap=0.15, stage_error=8, specimen=Specimen(3, 0.1)
)
DEFECTS = Camera(hot_pixels=1e-3, dead_columns=4, fixed_pattern=60)

# acquisition, options, largest error of a measured tile (px), least share of tiles measured
CASES = {
    "nothing special": (USUAL, {}, 0.1, 1.0),
    "half lattice": (replace(USUAL, specimen=Specimen(3, 0.0, lattice=0.5)), {}, 0.1, 0.9),
    "mostly lattice": (replace(USUAL, specimen=Specimen(3, 0.0, lattice=0.8)), {}, 0.1, 0.9),
    "nothing but lattice": (replace(USUAL, specimen=Specimen(3, 0.0, lattice=1.0)), {}, 0.1, 0.0),
    "stage errs by 8 % of a tile": (replace(USUAL, stage_error=32), {"max_shift": 66}, 0.1, 0.9),
    "backlash": (replace(USUAL, backlash=12), {}, 0.1, 1.0),
    "drift": (replace(USUAL, drift=0.7), {}, 0.1, 1.0),
    "camera turned, pixels smaller": (
        replace(USUAL, camera_angle=0.5, pixel_error=0.02, stage_error=3),
        {},
        0.1,
        1.0,
    ),
    "hot pixels, dead columns, pattern": (replace(USUAL, camera=DEFECTS), {}, 0.2, 0.9),
    "the same where no shift is possible": (
        replace(USUAL, camera=DEFECTS, overlap=0.9, stage_error=4),
        {"max_shift": 60},
        0.1,
        1.0,
    ),
    "saturated": (replace(USUAL, camera=Camera(full_well=900)), {}, 0.15, 1.0),
    "gain changes from tile to tile": (replace(USUAL, camera=Camera(gain=0.3)), {}, 0.1, 1.0),
    "blank and missing tiles": (replace(USUAL, blank=0.2, missing=0.05), {}, 0.1, 0.6),
    "mostly empty": (replace(USUAL, specimen=Specimen(9, 0.6)), {}, 0.3, 0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_measured_tiles_are_right_and_the_others_are_named(name) -> None:
    acquisition, options, bound, share = CASES[name]
    tiles = [acquisition.tile_image(k) for k in range(len(acquisition))]
    mosaic = Mosaic.from_arrays(tiles, acquisition.stage)
    pairs = register(mosaic, **options)
    layout = solve_layout(mosaic, pairs, **options)
    truth = acquisition.truth

    wrong = pairs.offsets - (truth[pairs.moving] - truth[pairs.fixed])
    assert np.abs(wrong[pairs.accepted]).max(initial=0) < 1.5

    measured = layout.verdicts == "measured"
    assert measured.mean() >= share
    assert position_errors(layout, truth)[measured].max(initial=0) < bound
    assert (layout.verdicts != "conflict").all()

    blank = acquisition.blanks
    assert (layout.verdicts[blank] == "stage").all()
    away = np.abs(layout.positions - layout.stage).max()
    assert away < max(options.get("max_shift", 0), mosaic.max_shift) + 30  # nothing is thrown far
