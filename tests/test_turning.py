"""Tiles turned against each other: found, solved, drawn, stored, and never made up."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates, spline_filter

from mosaicreg import InputError, Mosaic, assemble, open_mosaic, register, solve_layout
from mosaicreg.cli import main
from mosaicreg.geometry import Box, owned_boxes
from mosaicreg.layout import Layout, solve_again, stage_layout
from mosaicreg.layoutfile import load_layout, save_layout
from mosaicreg.render import BLENDS, INTERPOLATIONS
from mosaicreg.synthetic import CLEAN, Camera, Specimen
from mosaicreg.turned import Pose, turned_boxes
from mosaicreg.verification import verify

SIDE = 260


def turned_mosaic(
    camera: Camera = CLEAN, most: float = 1.0, seed: int = 4
) -> tuple[Mosaic, np.ndarray, np.ndarray]:
    """3 x 3 tiles of 260 px, a fifth overlapping, each turned by up to ``most`` degrees; their
    true positions and angles."""
    rng = np.random.default_rng(seed)
    scene = Specimen(seed=7, empty=0.0).render((-60.0, -60.0), (3 * SIDE, 3 * SIDE))
    spline = spline_filter(scene, order=3)
    cells = np.stack(np.divmod(np.arange(9), 3), axis=1)
    stage = cells * (0.8 * SIDE)
    truth = stage + rng.uniform(-6, 6, stage.shape)
    angles = rng.uniform(-most, most, 9)
    y, x = np.mgrid[:SIDE, :SIDE]
    middle = (SIDE - 1) / 2
    tiles = []
    for (ty, tx), degrees in zip(truth, angles, strict=True):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        v, u = y - middle, x - middle
        at = [c * v - s * u + middle + ty + 60, s * v + c * u + middle + tx + 60]
        light = map_coordinates(spline, at, order=3, prefilter=False).astype(np.float32)
        tiles.append(camera.record(light, rng))
    return Mosaic.from_arrays(tiles, stage), truth, angles


def misplacement(layout: Layout, truth: np.ndarray, angles: np.ndarray) -> tuple[float, float]:
    """Largest error of a tile's centre (px) and angle (degrees) after the best rigid motion."""
    a, b = layout.positions - layout.positions.mean(0), truth - truth.mean(0)
    u, _, v = np.linalg.svd(a.T @ b)
    turn = layout.angles - angles
    away = np.linalg.norm(a @ (u @ v) - b, axis=1).max()
    return float(away), float(np.abs(turn - turn.mean()).max())


# --- found ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("camera", "px", "degrees"), [(CLEAN, 0.03, 0.005), (Camera(), 0.1, 0.02)])
def test_shifts_and_angles_of_simulated_tiles_come_back(camera, px, degrees) -> None:
    mosaic, truth, angles = turned_mosaic(camera)
    pairs = register(mosaic, model="rigid")
    layout = solve_layout(mosaic, pairs)
    assert pairs.accepted.all()
    assert (layout.verdicts == "measured").all()
    away, turn = misplacement(layout, truth, angles)
    assert away < px
    assert turn < degrees
    assert layout.angles.mean() == pytest.approx(0, abs=1e-6)
    assert "turned by up to 0." in repr(layout)


def test_tiles_that_are_not_turned_are_not_turned() -> None:
    mosaic, truth, angles = turned_mosaic(Camera(), most=0.0)
    layout = solve_layout(mosaic, register(mosaic, model="rigid"))
    away, turn = misplacement(layout, truth, angles)
    assert away < 0.06
    assert turn < 0.015


def test_real_electron_microscopy_with_rotated_tiles(data) -> None:
    folder = data / "em_cremi_c2"
    truth = json.loads((folder / "META.json").read_text())["truth"]
    mosaic = open_mosaic(folder / "sim2", pattern="r{row}_c{col}.png", overlap=0.1)
    layout = solve_layout(mosaic, register(mosaic, model="rigid"))
    assert (layout.verdicts == "measured").all()
    middle = (1540 - 1) / 2
    places, angles = [], []
    for name in layout.names:
        known = truth[f"{name[1]}_{name[4]}"]
        # section point (x, y) to tile pixel (x, y): p = R X + t - crop
        angle = np.deg2rad(known["theta_deg"])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shift = np.array(known["crop_yx"])[::-1] - np.array(known["t_yx"])[::-1]
        places.append((turn.T @ (middle + shift))[::-1] - middle)
        angles.append(known["theta_deg"])
    away, degrees = misplacement(layout, np.array(places), np.array(angles))
    assert away < 0.5
    assert degrees < 0.02


def test_noise_and_strangers_are_not_accepted() -> None:
    rng = np.random.default_rng(0)
    cells = np.stack(np.divmod(np.arange(16), 4), axis=1)
    noise = [rng.poisson(200, (100, 100)).astype(np.uint16) for _ in cells]
    assert not register(Mosaic.from_arrays(noise, cells * 80.0), model="rigid").accepted.any()
    mosaic, _, _ = turned_mosaic(Camera())
    order = [0, 5, 1, 7, 2, 6, 3, 8, 4]
    tiles = [mosaic.source.tiles[k] for k in order]
    strangers = register(Mosaic.from_arrays(tiles, mosaic.positions), model="rigid")
    place = np.stack(np.divmod(np.array(order), 3), axis=1)
    apart = np.abs(place[strangers.fixed] - place[strangers.moving]).max(axis=1) > 1
    assert apart.sum() >= 4
    assert not strangers.accepted[apart].any()


def test_a_model_that_does_not_exist_is_refused() -> None:
    mosaic, _, _ = turned_mosaic()
    with pytest.raises(InputError, match="one of translation, rigid, not 'affine'"):
        register(mosaic, model="affine")


def test_a_pair_turned_the_wrong_way_is_left_out() -> None:
    mosaic, truth, angles = turned_mosaic()
    pairs = register(mosaic, model="rigid")
    pairs.angle[5] += 2.0
    layout = solve_layout(mosaic, pairs)
    assert not layout.used[5]
    assert layout.used.sum() == len(pairs) - 1
    assert misplacement(layout, truth, angles)[0] < 0.05


# --- drawn ---------------------------------------------------------------------------------------


def placed(mosaic: Mosaic, positions: np.ndarray, angles: np.ndarray) -> Layout:
    from dataclasses import replace

    plain = stage_layout(mosaic)
    return replace(plain, positions=np.asarray(positions), angles=np.asarray(angles))


def test_a_sloping_plane_is_drawn_exactly() -> None:
    """Linear interpolation of a plane is the plane, however the tiles are turned."""
    rng = np.random.default_rng(1)
    positions = np.array([(0.0, 0.0), (3.4, 51.7), (48.2, -2.6), (50.1, 47.9)])
    angles = np.array([0.0, 1.7, -2.4, 30.0])
    y, x = np.mgrid[:70, :64].astype(np.float64)
    tiles = []
    for (ty, tx), degrees in zip(positions, angles, strict=True):
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        v, u = y - 34.5, x - 31.5
        tiles.append(2 * (c * v - s * u + 34.5 + ty) - 3 * (s * v + c * u + 31.5 + tx))
    mosaic = Mosaic.from_arrays(tiles, positions)
    layout = placed(mosaic, positions, angles)
    boxes = layout.boxes
    top, left = boxes[:, :2].min(axis=0)
    for blend in ("linear", "mean", "max", "first", "nearest"):
        image = assemble(mosaic, layout, blend=blend, fill=np.nan, block=int(rng.integers(20, 90)))
        found = image.compute(scheduler="synchronous")
        rows, cols = np.mgrid[: found.shape[0], : found.shape[1]]
        expected = 2.0 * (rows + top) - 3.0 * (cols + left)
        known = ~np.isnan(found)
        # Edge pixels are continued by half a pixel, up to 2.5 grey values here.
        assert np.abs(found - expected)[known].max() < 2.6
        assert np.median(np.abs(found - expected)[known]) < 1e-9
        owned = np.zeros(found.shape, dtype=bool)
        for k in range(4):
            pose = Pose(tuple(positions[k]), (70, 64), angles[k])
            part = Box(*boxes[k])
            owned[part.shifted(-top, -left).slices] |= pose.owns(*pose.source(part))
        assert (known == owned).all()


@settings(max_examples=25)
@given(
    st.integers(0, 999),
    st.sampled_from(BLENDS),
    st.sampled_from(INTERPOLATIONS),
    st.sampled_from(["uint8", "uint16", "float32", "float64"]),
    st.tuples(st.integers(5, 70), st.integers(5, 70)),
)
def test_any_cut_into_blocks_gives_the_same_bits(seed, blend, interpolation, dtype, block) -> None:
    rng = np.random.default_rng(seed)
    tiles = [rng.uniform(0, 255, (2, *rng.integers(8, 40, 2))).astype(dtype) for _ in range(4)]
    if dtype.startswith("float"):
        tiles[1][0, 2:5, 3:6] = np.nan
    mosaic = Mosaic.from_arrays(tiles, rng.uniform(-30, 30, (4, 2)))
    layout = placed(mosaic, mosaic.positions, rng.uniform(-40, 40, 4) * (rng.random(4) < 0.8))
    style = {"blend": blend, "interpolation": interpolation}
    whole = assemble(mosaic, layout, **style).compute(scheduler="synchronous")
    cut = assemble(mosaic, layout, block=block, **style).compute(scheduler="synchronous")
    assert whole.tobytes() == cut.tobytes()


@given(st.integers(0, 999), st.sampled_from(BLENDS), st.sampled_from(INTERPOLATIONS))
@settings(max_examples=30)
def test_angles_of_nought_draw_what_no_angles_draw(seed, blend, interpolation) -> None:
    rng = np.random.default_rng(seed)
    tiles = [rng.integers(0, 255, rng.integers(8, 40, 2)).astype(np.uint8) for _ in range(4)]
    # Turned tiles are feathered from their true edges, others from those of the pixels they own.
    parts = 1 if blend in ("linear", "nearest") else 4
    mosaic = Mosaic.from_arrays(tiles, np.round(rng.uniform(-20, 20, (4, 2)) * parts) / parts)
    flat = stage_layout(mosaic)
    style = {"blend": blend, "interpolation": interpolation, "fill": 3}
    a = assemble(mosaic, flat, **style).compute()
    b = assemble(mosaic, placed(mosaic, flat.positions, np.zeros(4)), **style).compute()
    assert a.shape == b.shape
    assert np.abs(a.astype(int) - b).max() <= (1 if interpolation == "linear" else 0)
    assert ((a == 3) == (b == 3)).mean() > 0.95


@given(st.integers(0, 9999))
def test_a_turned_tile_owns_about_its_own_area(seed) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(20, 60, 2))
    pose = Pose(tuple(rng.uniform(-50, 50, 2)), shape, float(rng.uniform(-45, 45)))
    own = pose.owns(*pose.source(pose.box))
    assert own.sum() == pytest.approx(shape[0] * shape[1], rel=0.05)
    assert own.any(axis=0).sum() >= own.shape[1] - 2  # the box is tight
    wide = Box(pose.box.y0 - 3, pose.box.x0 - 3, pose.box.y1 + 3, pose.box.x1 + 3)
    assert pose.owns(*pose.source(wide)).sum() == own.sum()
    still = turned_boxes([pose.position], [shape], [0.0])
    assert (still == owned_boxes([pose.position], [shape])).all()


# --- stored --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_layout_files_carry_the_angles(suffix, tiles, tmp_path) -> None:
    mosaic = open_mosaic(tiles)
    layout = placed(mosaic, mosaic.positions, np.linspace(-1, 1, 12))
    path = tmp_path / f"a{suffix}"
    save_layout(path, mosaic, layout)
    _, again = load_layout(path)
    np.testing.assert_array_equal(again.angles, layout.angles)
    with pytest.raises(InputError, match=r"only \.csv and \.json layouts say how tiles are turned"):
        save_layout(tmp_path / "a.mosaic", mosaic, layout)


def test_the_whole_job_from_the_command_line(tmp_path) -> None:
    from mosaicreg.imagefile import write_tiff

    mosaic, truth, angles = turned_mosaic(Camera())
    for k, tile in enumerate(mosaic.source.tiles):
        write_tiff(tmp_path / "t" / f"r{k // 3}_c{k % 3}.tif", tile)
    out, layout = tmp_path / "a.ome.zarr", tmp_path / "a.json"

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(main, [*map(str, arguments), "--quiet"])
        assert result.exit_code == 0, result.output
        return result.output

    rigid = ("--overlap", 0.2, "--model", "rigid")
    said = run("stitch", tmp_path / "t", "-o", out, "--layout-out", layout, *rigid)
    assert "9 measured" in said
    assert "turned by up to" in said
    _, loaded = load_layout(layout)
    away, turn = misplacement(loaded, truth, angles)
    assert away < 0.1
    assert turn < 0.02
    assert solve_again(mosaic, loaded).angles == pytest.approx(loaded.angles, abs=1e-9)
    assert json.loads(layout.read_text())["transform"] == "rigid"
    assert "compared with 9 tiles, bit by bit" in run("verify", out)
    assert verify(out).passed
    run("register", tmp_path / "t", "-o", tmp_path / "a.csv", *rigid)
    with (tmp_path / "a.csv").open() as file:
        assert "angle" in next(csv.reader(file))
    refused = CliRunner().invoke(
        main, ["register", str(tmp_path / "t"), "-o", str(tmp_path / "a.txt"), "--model", "rigid"]
    )
    assert refused.exit_code == 2
