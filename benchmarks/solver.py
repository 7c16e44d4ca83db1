"""How fast, how large and how right the layout solver is, on grids with known truth.

    python benchmarks/solver.py [--quick] [TILES ...]

Square grids of tiles with all pairs of neighbours measured to 0.02 px, two in a hundred of them
wrong by 5 to 40 px on each axis. Each size has a process of its own; its memory is the most that it
held (VmHWM), its time that of `solve_layout`, on one thread of BLAS. Up to 100,000 tiles the layout
is then written as JSON and solved again as `mosaicreg solve --constraints` does it: read, a tile
pinned, a pair forbidden, a match added, solved, written. The bounds are those the project holds
itself to: 100,000 tiles in 10 s and 1 GB with every wrong pair found, 1,000,000 tiles in 3 minutes.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import scipy
from threadpoolctl import threadpool_limits

import mosaicreg
from mosaicreg.constraints import read_constraints
from mosaicreg.demo import position_errors
from mosaicreg.layout import Layout, solve_again
from mosaicreg.layoutfile import load_layout, save_layout
from mosaicreg.mosaic import Mosaic, as_names
from mosaicreg.pairs import ACCEPTED, Pairs
from mosaicreg.source import ArraySource

STEP, SIDE = 900.0, 1024
STAGE_ERROR, NOISE, WRONG = 12.0, 0.02, 0.02
BOUNDS = {100_000: (10.0, 1.0), 1_000_000: (180.0, np.inf)}
"""Seconds (of the wall and of processors) and GB allowed, by the number of tiles."""
AGAIN = 100_000
"""Up to so many tiles the layout is solved again too."""


class Nothing(ArraySource):
    """Tiles without pixels: solving reads none."""

    def __len__(self) -> int:
        return len(self.tiles)


def problem(tiles: int, seed: int = 0) -> tuple[Mosaic, Pairs, np.ndarray, np.ndarray]:
    """The mosaic, its pairs, the true positions, and which pairs are wrong."""
    rng = np.random.default_rng(seed)
    cols = int(np.ceil(np.sqrt(tiles)))
    cells = np.stack(np.divmod(np.arange(tiles), cols), axis=1)
    stage = cells * STEP
    truth = stage + rng.uniform(-STAGE_ERROR, STAGE_ERROR, stage.shape)
    number = np.arange(tiles)
    beside = number[(cells[:, 1] < cols - 1) & (number + 1 < tiles)]
    below = number[number + cols < tiles]
    table = np.concatenate([np.stack([beside, beside + 1], 1), np.stack([below, below + cols], 1)])
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    count = len(table)
    offsets = truth[table[:, 1]] - truth[table[:, 0]] + rng.normal(0, NOISE, (count, 2))
    wrong = rng.random(count) < WRONG
    away = rng.uniform(5, 40, (count, 2)) * rng.choice([-1, 1], (count, 2))
    offsets[wrong] += away[wrong]
    one = np.ones(count)
    pairs = Pairs(
        fixed=table[:, 0], moving=table[:, 1], dy=offsets[:, 0], dx=offsets[:, 1],
        sigma=one * NOISE, correlation=one * 0.9, z=one * 30, ratio=one * 5, lead=one * np.inf,
        score=one, status=np.full(count, ACCEPTED, dtype=np.uint8), null_z=np.empty(0),
    )  # fmt: skip
    mosaic = Mosaic(
        names=as_names([str(k) for k in range(tiles)]),
        positions=stage,
        shapes=np.full((tiles, 2), SIDE),
        source=Nothing((np.empty((0, 0), np.uint8),) * tiles, np.dtype(np.uint8), ()),
    )
    return mosaic, pairs, truth, wrong


def peak() -> float:
    """GB, the most memory that this process has held (Linux)."""
    line = next(k for k in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in k)
    return int(line.split()[1]) / 2**20


def again(mosaic: Mosaic, layout: Layout, folder: Path) -> tuple[float, float]:
    """CPU seconds of solving with constraints, file to file; px by which the pin was missed."""
    kept, known, out = folder / "layout.json", folder / "known.csv", folder / "out.json"
    save_layout(kept, mosaic, layout)
    middle = len(mosaic) // 2
    known.write_text(
        f"kind,tile,other,y,x\npin,{middle},,1000.25,2000.5\n"
        f"forbid,{middle},{middle + 1},,\nmatch,0,1,0.5,{STEP}\n"
    )
    spent = time.process_time()
    read, placed = load_layout(kept, need_tiles=False)
    solved = solve_again(read, placed, constraints=read_constraints(known, read.names))
    save_layout(out, read, solved)
    spent = time.process_time() - spent
    return spent, float(np.abs(solved.positions[middle] - (1000.25, 2000.5)).max())


def measure(tiles: int) -> dict[str, float]:
    """Solve one problem; figures of time, memory and truth."""
    mosaic, pairs, truth, wrong = problem(tiles)
    before, wall, spent = peak(), time.perf_counter(), time.process_time()
    with threadpool_limits(1):
        layout = mosaicreg.solve_layout(mosaic, pairs)
    wall, spent = time.perf_counter() - wall, time.process_time() - spent
    after = peak()
    measured = layout.verdicts == "measured"
    largest = replace(layout, parts=np.where(measured, layout.parts, layout.parts.max() + 1))
    error = position_errors(largest, truth)[measured]
    row = {
        "tiles": tiles,
        "pairs": len(pairs),
        "wrong": int(wrong.sum()),
        "wrong not found": int((layout.used & wrong).sum()),
        "right left out": int((~layout.used & ~wrong).sum()),
        "conflicts": int((layout.verdicts == "conflict").sum()),
        "rms px": float(np.sqrt(np.mean(error**2))),
        "max px": float(error.max()),
        "CPU s": spent,
        "wall s": wall,
        "GB": after,
        "GB before": before,
    }
    if tiles <= AGAIN:
        with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
            row["again CPU s"], row["pin missed px"] = again(mosaic, layout, Path(folder))
    return row


def main() -> None:
    """One process per size, so that memory is its own; exit code 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tiles", nargs="*", type=int)
    parser.add_argument("--quick", action="store_true", help="10,000 tiles only")
    options = parser.parse_args()
    print(
        f"mosaicreg {mosaicreg.__version__}, numpy {np.__version__}, scipy {scipy.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}"
    )
    missed = False
    for tiles in options.tiles or ([10_000] if options.quick else list(BOUNDS)):
        with get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure, (tiles,))
        for key, value in row.items():
            print(f"{key:>16} {value:.4f}" if isinstance(value, float) else f"{key:>16} {value}")
        seconds, memory = BOUNDS.get(tiles, (np.inf, np.inf))
        slow = max(row["CPU s"], row["wall s"]) > seconds
        bad = slow or row["GB"] > memory or row["wrong not found"] > 0
        print("     BOUND MISSED" if bad else "     within bounds", flush=True)
        missed |= bad
    sys.exit(int(missed))


if __name__ == "__main__":
    main()
