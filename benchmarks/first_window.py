"""The first window of a mosaic of n x n TIFF files, in a process of its own: CPU, wall, memory.

    python benchmarks/first_window.py [--side 100] [--compressed] [--rounds 3]

The files are of 1024 x 1024 px uint16 and, uncompressed, hold no pixels on disk (sparse): what is
measured is the start of Python, opening all of them, and computing 1024 x 1024 px. Made once, in
the cache folder that `harness` names.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from statistics import median

import harness
import numpy as np
import tifffile

TILE, STEP = 1024, 922
BOUND = 2.0
"""Seconds that it may take."""
PROGRAM = """
import sys
import mosaicreg
mosaic = mosaicreg.open_mosaic(sys.argv[1])
image = mosaicreg.assemble(mosaic, mosaicreg.stage_layout(mosaic))
y, x = ((n - 1024) // 2 for n in image.shape)
window = image[y : y + 1024, x : x + 1024].compute()
assert window.shape == (1024, 1024) and len(mosaic) == int(sys.argv[2])
"""


def tiles(side: int, compressed: bool) -> Path:
    """A folder of side x side TIFF files and their positions, made once."""
    folder = harness.CACHE / "tiles" / f"headers-{side}{'-zlib' if compressed else ''}"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    image = np.zeros((TILE, TILE), dtype=np.uint16)
    options = {"compression": "zlib"} if compressed else {}
    lines = ["tile,y,x"]
    for row in range(side):
        for col in range(side):
            path = folder / f"tile_r{row:03d}_c{col:03d}.tif"
            if row + col == 0:
                tifffile.imwrite(path, image, **options)
                content = path.read_bytes()
                first = content if compressed else content[: -image.nbytes]
            else:
                with path.open("wb") as file:
                    file.write(first)
                    file.truncate(len(content))
            lines.append(f"{path.name},{row * STEP},{col * STEP}")
    (folder / "positions.csv").write_text("\n".join(lines) + "\n")
    (folder / "complete").touch()
    return folder


def main() -> None:
    """Measure and print; exit code 1 where the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=100)
    parser.add_argument("--compressed", action="store_true", help="zlib, one strip per few rows")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = tiles(options.side, options.compressed)
    costs = []
    for _ in range(options.rounds):
        cost = harness.run([sys.executable, "-c", PROGRAM, folder, str(options.side**2)], threads=1)
        if cost.code:
            sys.exit(cost.output)
        costs.append(cost)
    wall = median(c.wall for c in costs)
    print(
        f"{options.side} x {options.side} files: {median(c.cpu for c in costs):.2f} CPU s, "
        f"{wall:.2f} s, {max(c.peak for c in costs):.0f} MB"
    )
    sys.exit(wall > BOUND)


if __name__ == "__main__":
    main()
