"""What the adapters share; needs nothing but NumPy."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import numpy as np

PIXEL_SIZE = 1.0
"""Peers that think in micrometres are told that a pixel is one."""


def arguments() -> tuple[str, Path, Path]:
    """STEP, TILES and OUT of the command line; OUT is made."""
    step, tiles, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    return step, tiles, out


def stage(tiles: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the tiles, their (row, column), and the (y, x) px that the stage tells."""
    with (tiles / "positions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    names = [row["tile"] for row in table]
    cells = [re.findall(r"\d+", name)[:2] for name in names]
    positions = [(float(row["y"]), float(row["x"])) for row in table]
    return names, np.array(cells, dtype=int), np.array(positions)


def write_positions(out: Path, names: list[str], positions: np.ndarray) -> None:
    """Write ``OUT/positions.csv``."""
    with (out / "positions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tile", "y", "x"])
        writer.writerows([name, *map(float, yx)] for name, yx in zip(names, positions, strict=True))
