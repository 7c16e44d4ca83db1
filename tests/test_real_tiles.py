"""Real microscopes: the command line on real tiles, against what is known of them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def stitch(tiles: Path, out: Path, *options: object) -> list[dict[str, str]]:
    """Rows of the layout that ``mosaicreg stitch`` writes."""
    command = [sys.executable, "-m", "mosaicreg", "stitch", tiles, "-o", out / "a.ome.zarr"]
    command += ["--layout-out", out / "a.csv", "--quiet", *options]
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return rows_of(out / "a.csv")


def nominal(source: Path, target: Path) -> Path:
    """The nominal positions of a set as a position file."""
    rows = rows_of(source)
    lines = [f"{r['tile']},{r['nominal_y']},{r['nominal_x']}" for r in rows]
    target.write_text("\n".join(["tile,y,x", *lines]))
    return target


def errors(found: list[dict[str, str]], truth: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Distance of each tile to the truth after removing the median offset of its part."""
    names = [r["tile"] for r in found]
    error = np.array([(float(r["y"]), float(r["x"])) for r in found])
    error -= [truth[n] for n in names]
    parts = np.array([r["part"] for r in found])
    for part in set(parts.tolist()):
        error[parts == part] -= np.median(error[parts == part], axis=0)
    return dict(zip(names, np.linalg.norm(error, axis=1).tolist(), strict=True))


def truth_of(path: Path, kind: str) -> dict[str, tuple[float, float]]:
    return {r["tile"]: (float(r[f"{kind}_y"]), float(r[f"{kind}_x"])) for r in rows_of(path)}


def rms(values: dict[str, float]) -> float:
    return float(np.sqrt(np.mean(np.square(list(values.values())))))


def test_phase_contrast_with_nearly_blank_overlaps(data, tmp_path) -> None:
    folder = data / "phase_stemcell_mist"
    table = folder / "positions_exact.csv"
    found = stitch(
        folder / "tiles", tmp_path, "--positions", nominal(table, tmp_path / "nominal.csv")
    )
    error = errors(found, truth_of(table, "exact"))
    measured = {r["tile"] for r in found if r["verdict"] == "measured"}
    assert len(found) == 25
    assert len(measured) >= 20
    assert max(error[t] for t in measured) <= 0.5
    assert max(error.values()) <= 8


@pytest.mark.parametrize(
    ("name", "kind", "bound"),
    [("lscm_speckle_a_undistorted", "derived", 0.15), ("lscm_speckle_a", "published", 0.3)],
)
def test_confocal_with_lens_distortion(name, kind, bound, data, tmp_path) -> None:
    folder = data / name
    found = stitch(folder / "tiles", tmp_path, "--positions", folder / "TileConfiguration.txt")
    assert rms(errors(found, truth_of(folder / "positions.csv", kind))) <= bound


def test_electron_microscopy_of_brain(data, tmp_path) -> None:
    folder = data / "em_cremi_c2"
    truth = json.loads((folder / "META.json").read_text())["sim1_positions_yx"]
    named = {f"r{k[0]}_c{k[2]}.png": (v[0], v[1]) for k, v in truth.items()}
    found = stitch(folder / "sim1", tmp_path, "--pattern", "r{row}_c{col}.png", "--overlap", 0.1)
    assert max(errors(found, named).values()) <= 0.1


def test_electron_microscopy_with_large_stage_error(data, tmp_path) -> None:
    folder = data / "em_mussel_a"
    found = stitch(folder / "tiles", tmp_path, "--pattern", "r{row}_c{col}.png", "--overlap", 0.1)
    assert max(errors(found, truth_of(folder / "positions.csv", "derived")).values()) <= 2


@pytest.mark.parametrize(
    ("name", "bound"), [("sem_meteorite_stitch2d", 1.0), ("tissue_array_arve0", 1.5)]
)
def test_rock_and_shaded_tissue(name, bound, data, tmp_path) -> None:
    folder = data / name
    found = stitch(folder / "tiles", tmp_path, "--positions", folder / "positions.csv")
    assert max(errors(found, truth_of(folder / "positions.csv", "derived")).values()) <= bound
    assert zarr.open_array(str(tmp_path / "a.ome.zarr" / "0"), mode="r").shape[0] > 1000
