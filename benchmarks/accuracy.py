"""How far positions are from the known truth, on simulated acquisitions.

    python benchmarks/accuracy.py [NAME ...]

10 x 10 tiles of 1024 x 1024 px, 10 % overlap, stage errors up to 12 px per axis. Errors are
distances to the true position after removing the median offset of each part, over the measured
tiles.
"""

from __future__ import annotations

import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import mosaicreg
from mosaicreg.demo import position_errors
from mosaicreg.synthetic import CLEAN, Acquisition, Camera, Specimen

GRID = {"grid": (10, 10), "tile": (1024, 1024), "overlap": 0.1, "stage_error": 12.0}
CASES = {
    "clean, whole pixels": Acquisition(
        **GRID, subpixel=False, camera=CLEAN, specimen=Specimen(1, 0.1)
    ),
    "clean, sub-pixel": Acquisition(**GRID, camera=CLEAN, specimen=Specimen(1, 0.1)),
    "noisy, vignetted": Acquisition(**GRID, specimen=Specimen(2, 0.1)),
    "noisy, blurred by 4 px": Acquisition(**GRID, specimen=Specimen(3, 0.1), camera=Camera(blur=4)),
    "noisy, 60 % empty": Acquisition(**GRID, specimen=Specimen(4, 0.6)),
}


def measure(acquisition: Acquisition) -> dict[str, float]:
    """Register and solve one acquisition held in memory."""
    with ThreadPoolExecutor() as pool:
        tiles = list(pool.map(acquisition.tile_image, range(len(acquisition))))
    mosaic = mosaicreg.Mosaic.from_arrays(tiles, acquisition.stage)
    start = time.process_time()
    pairs = mosaicreg.register(mosaic)
    layout = mosaicreg.solve_layout(mosaic, pairs)
    spent = time.process_time() - start
    measured = layout.verdicts == "measured"
    error = position_errors(layout, acquisition.truth)[measured]
    return {
        "rms px": float(np.sqrt(np.mean(error**2))),
        "max px": float(error.max()),
        "measured": int(measured.sum()),
        "accepted": int(pairs.accepted.sum()),
        "pairs": len(pairs),
        "CPU s": spent,
    }


def main() -> None:
    """Print one row per case."""
    wanted = sys.argv[1:] or list(CASES)
    print(
        f"mosaicreg {mosaicreg.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}"
    )
    for name in wanted:
        row = measure(CASES[name])
        cells = ", ".join(
            f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
        )
        print(f"{name:<24} {cells}", flush=True)


if __name__ == "__main__":
    main()
