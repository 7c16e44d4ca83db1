"""Registration as dask tasks: same numbers everywhere, tiles read about once, empty is empty."""

from __future__ import annotations

from dataclasses import replace

import dask
import numpy as np
import pytest

from mosaicreg import (
    ImageError,
    InputError,
    Mosaic,
    find_offsets,
    open_mosaic,
    register,
    solve_layout,
    synthetic,
)
from mosaicreg.demo import position_errors
from mosaicreg.pairs import Pairs
from mosaicreg.registration import registration_lead


def same(a: Pairs, b: Pairs) -> bool:
    columns = zip(a.columns().values(), b.columns().values(), strict=True)
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in columns)


def test_pairs_measure_the_true_offsets(acquisition) -> None:
    mosaic, truth = acquisition.mosaic, acquisition.truth
    pairs = register(mosaic)
    assert pairs.accepted.all()
    assert len(pairs) == 3 * 3 + 2 * 4
    error = pairs.offsets - (truth[pairs.moving] - truth[pairs.fixed])
    assert np.abs(error).max() < 0.1
    assert np.sqrt(np.mean((error / pairs.sigma[:, None]) ** 2)) < 3  # sigma means what it says
    assert position_errors(solve_layout(mosaic, pairs), truth).max() < 0.1


@pytest.mark.row("J1 determinism")
@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_schedulers_agree_to_the_last_bit(scheduler, acquisition) -> None:
    with dask.config.set(scheduler="synchronous"):
        expected = register(acquisition.mosaic)
    with dask.config.set(scheduler=scheduler, num_workers=2):
        found = register(acquisition.mosaic)
    assert same(expected, found)
    assert (expected.null_z == found.null_z).all()


@pytest.mark.row("I3 arrange")
def test_a_mosaic_of_4_by_4_tiles_is_arranged() -> None:
    """Overlaps of a tenth, a stage that errs by up to 15 px per axis, noise; two blank tiles.

    Blank tiles keep to where the stage, its matrix fitted, puts them.
    """
    scan = synthetic.Acquisition(
        grid=(4, 4), tile=(400, 400), overlap=0.1, stage_error=15, seed=2,
        specimen=synthetic.Specimen(seed=4, empty=0.0),
    )  # fmt: skip
    tiles = [scan.tile_image(k) for k in range(16)]
    blank = np.random.default_rng(0).normal(500, 20, (400, 400)).astype(np.uint16)
    holed = [*tiles[:5], blank, *tiles[6:10], blank[::-1], *tiles[11:]]
    for images, lost in ((tiles, []), (holed, [5, 10])):
        mosaic = Mosaic.from_arrays(images, scan.stage)
        layout = solve_layout(mosaic, register(mosaic, max_shift=40), max_shift=40)
        seen = np.setdiff1d(np.arange(16), lost)
        error = (layout.positions - scan.truth)[seen]
        away = np.linalg.norm(error - np.median(error, axis=0), axis=1)
        assert (away < 0.5).mean() >= 0.95
        assert set(layout.verdicts[lost]) <= {"stage"}
        told = np.diff(scan.stage[lost], axis=0) @ layout.stage_matrix.T
        np.testing.assert_allclose(np.diff(layout.positions[lost], axis=0), told, atol=1e-9)


class Counting:
    """A source that counts how often each tile is read."""

    def __init__(self, source, counts) -> None:
        self.source, self.counts = source, counts
        self.dtype, self.leading, self.interleaved = source.dtype, source.leading, False

    def __len__(self) -> int:
        return len(self.source)

    def read(self, tile, box, lead):
        number = int(self.source.tiles[tile])
        self.counts[number] = self.counts.get(number, 0) + 1
        return self.source.read(tile, box, lead)

    def select(self, tiles):
        return Counting(self.source.select(tiles), self.counts)


def test_each_tile_is_read_about_once() -> None:
    acquisition = synthetic.Acquisition(grid=(24, 24), tile=(48, 48), overlap=0.3, stage_error=2)
    counts: dict[int, int] = {}
    mosaic = replace(acquisition.mosaic, source=Counting(acquisition.mosaic.source, counts))
    with dask.config.set(scheduler="synchronous"):
        register(mosaic)
    assert set(counts) == set(range(576))
    assert np.mean(list(counts.values())) < 1.4
    assert max(counts.values()) <= 4  # once per batch at whose corner it lies


def test_progress_reports_every_batch(acquisition) -> None:
    said: list[tuple[str, int, int]] = []
    register(acquisition.mosaic, progress=lambda *report: said.append(report))
    total = said[0][2]
    assert said == [("register", k, total) for k in range(total + 1)]


def test_blank_tiles_give_no_signal_and_keep_their_place(acquisition) -> None:
    tiles = [acquisition.tile_image(k) for k in range(len(acquisition))]
    tiles[5] = np.full_like(tiles[5], 300)
    mosaic = Mosaic.from_arrays(tiles, acquisition.stage)
    pairs = register(mosaic)
    touching = (pairs.fixed == 5) | (pairs.moving == 5)
    assert (pairs.columns()["status"][touching] == "no signal").all()
    assert np.isnan(pairs.dy[touching]).all()
    assert pairs.accepted[~touching].all()
    layout = solve_layout(mosaic, pairs)
    assert layout.verdicts[5] == "stage"
    assert position_errors(layout, acquisition.truth)[layout.verdicts == "measured"].max() < 0.1


def test_noise_is_never_accepted() -> None:
    rng = np.random.default_rng(0)
    cells = np.stack(np.divmod(np.arange(400), 20), axis=1)
    tiles = [rng.poisson(200, (64, 64)).astype(np.uint16) for _ in cells]
    pairs = register(Mosaic.from_arrays(tiles, cells * 51.0))
    assert len(pairs) == 760
    assert pairs.accepted.sum() <= 2


def test_tiles_that_do_not_belong_together_are_not_accepted(acquisition) -> None:
    tiles = [acquisition.tile_image(k) for k in range(len(acquisition))]
    shuffled = [tiles[k] for k in (0, 6, 1, 7, 8, 2, 9, 3, 4, 10, 5, 11)]
    pairs = register(Mosaic.from_arrays(shuffled, acquisition.stage))
    assert pairs.accepted.sum() == 0


def test_two_tiles_with_one_pixel_of_overlap_are_no_evidence() -> None:
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 999, (50, 50)).astype(np.uint16) for _ in range(2)]
    pairs = register(Mosaic.from_arrays(tiles, [(0, 0), (0, 49)]), max_shift=1)
    assert len(pairs) == 1
    assert not pairs.accepted.any()


def test_a_chosen_channel_and_plane_decide() -> None:
    a = synthetic.Acquisition(grid=(1, 2), tile=(128, 128), overlap=0.4, stage_error=4, seed=1)
    images = [a.tile_image(k) for k in range(2)]
    tiles = [np.zeros((2, 3, 128, 128), np.uint16) for _ in images]  # c, z
    for tile, image in zip(tiles, images, strict=True):
        tile[1, 2] = image
    mosaic = Mosaic.from_arrays(tiles, a.stage)
    assert not register(mosaic).accepted.any()
    pairs = register(mosaic, channel=1, plane=2)
    np.testing.assert_allclose(pairs.offsets[0], a.truth[1] - a.truth[0], atol=0.1)
    with pytest.raises(InputError, match="--channel 2 does not exist: tiles have 2"):
        registration_lead(mosaic, 2, 0)
    with pytest.raises(InputError, match="--plane 1 does not exist: tiles have only one"):
        registration_lead(a.mosaic, 0, 1)


def test_tiles_of_unequal_size_and_not_on_a_grid() -> None:
    specimen = synthetic.Specimen(seed=8, empty=0.0)
    truth = np.array([(0, 0), (12.5, 150.25), (140.0, 20.5), (131.75, 171.0), (60.0, 240.0)])
    shapes = [(200, 190), (160, 150), (150, 200), (170, 120), (140, 130)]
    tiles = [
        synthetic.CLEAN.record(specimen.render(tuple(p), s), np.random.default_rng(0))
        for p, s in zip(truth, shapes, strict=True)
    ]
    stage = truth + np.random.default_rng(1).uniform(-5, 5, truth.shape)
    mosaic = Mosaic.from_arrays(tiles, stage)
    layout = solve_layout(mosaic, register(mosaic))
    assert (layout.verdicts == "measured").all()
    assert position_errors(layout, truth).max() < 0.02


def test_a_single_tile_needs_no_registration() -> None:
    mosaic = Mosaic.from_arrays([np.ones((20, 20), np.uint8)], [(5, 5)])
    pairs = register(mosaic)
    layout = solve_layout(mosaic, pairs)
    assert len(pairs) == 0
    assert layout.positions.tolist() == [[0, 0]]
    assert layout.doubtful == 0


def test_no_overlap_anywhere_is_said_before_any_work() -> None:
    mosaic = Mosaic.from_arrays([np.ones((20, 20), np.uint8)] * 3, [(0, 0), (0, 20), (50, 0)])
    with pytest.raises(InputError, match="no two of the 3 tiles overlap"):
        register(mosaic)


def test_a_tile_that_cannot_be_decoded_is_named(tiles) -> None:
    mosaic = open_mosaic(tiles)
    path = tiles / str(mosaic.names[4])
    path.write_bytes(b"II*\0rubbish")
    with pytest.raises(ImageError, match=path.name):
        register(mosaic)


def test_offsets_of_many_pairs_are_mapped_as_tasks(acquisition) -> None:
    truth = acquisition.truth
    images = [acquisition.tile_image(k) for k in range(3)]
    records = find_offsets(images[:2], images[1:], expected=(0, 205), max_shift=20)
    found = [r.peak for r in records]
    np.testing.assert_allclose(found, np.diff(truth[:3], axis=0), atol=0.1)
