"""What grows with the number of tiles, and what does not.

    python benchmarks/scale.py                            # everything, some ten minutes
    python benchmarks/scale.py --tiles 1000 1000000       # columns, neighbours, lazy array, window
    python benchmarks/scale.py --grids 10 20 40           # memory of a worker, measured
    python benchmarks/scale.py --durations 20             # how long tasks take
    python benchmarks/scale.py --plot docs/images/scale.png

The tiles of the first part are not there: a source makes up the pixels of what is asked for, so a
million tiles of 2048 x 2048 px (8 TB) need no disk. Each size is a process of its own, so that its
peak memory is its own. CPU seconds are of all threads; on a busy machine trust them, not the clock.
The second part is a real run: worker processes, files (all tiles are links to one), an archive. So
is the third, on simulated tiles of 1024 x 1024 px (`harness.tiles`), with everything by default.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np

from mosaicreg import Mosaic, assemble, register, stage_layout, write_ome_zarr
from mosaicreg.assembly import recipe_of
from mosaicreg.cluster import peak_memory
from mosaicreg.mosaic import as_names
from mosaicreg.omezarr import Pyramid
from mosaicreg.planning import JobPlan, plan_job
from mosaicreg.source import FileSource

TILE, STEP, WINDOW = 2048, 1843, 2048
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
GRIDS = (10, 20, 40)
SMALL, SHARD = 128, 1024
"""px, of the tiles and shards whose memory is measured."""


class MadeUp:
    """Tiles that are nowhere: what is asked for is computed."""

    dtype, leading, interleaved = np.dtype(np.uint16), (), False

    def __init__(self, tiles: np.ndarray) -> None:
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, tile: int, box: Any, lead: Any) -> np.ndarray:
        rows, cols = np.arange(box.y0, box.y1)[:, None], np.arange(box.x0, box.x1)
        return ((rows * 31 + cols * 17 + int(self.tiles[tile])) % 4096).astype(np.uint16)

    def select(self, tiles: np.ndarray) -> MadeUp:
        return MadeUp(self.tiles[tiles])


def plan_of(mosaic: Mosaic, shard: int = 4096, pairs: np.ndarray | None = None) -> JobPlan:
    image = assemble(mosaic, stage_layout(mosaic))
    chunk = min(512, shard // 4)
    plan = Pyramid.plan(image.shape, image.dtype, "yx", shard=(shard,) * 2, chunk=(chunk,) * 2)
    return plan_job(mosaic, recipe_of(image), plan, mosaic.neighbours() if pairs is None else pairs)


def columns(count: int) -> dict[str, float]:
    """One size, in this process; steps in CPU seconds and on the clock."""
    da.zeros(4, chunks=2).compute()  # what dask loads at its first use is not of this mosaic
    facts: dict[str, float] = {"tiles": count}
    clock, cpu = time.perf_counter(), time.process_time()

    def step(name: str) -> None:
        nonlocal clock, cpu
        facts[f"{name} s"] = time.perf_counter() - clock
        facts[f"{name} cpu"] = time.process_time() - cpu
        clock, cpu = time.perf_counter(), time.process_time()

    side = int(np.ceil(np.sqrt(count)))
    cells = np.stack(np.divmod(np.arange(count), side), axis=1)
    names = as_names([f"tile_r{r:04d}_c{c:04d}.tif" for r, c in cells.tolist()])
    mosaic = Mosaic(names, cells * float(STEP), np.full((count, 2), TILE), MadeUp(np.arange(count)))
    step("open")
    pairs = mosaic.neighbours()
    step("neighbours")
    image = assemble(mosaic, stage_layout(mosaic))
    step("lazy array")
    y, x = (min(n // 2, max(0, n - WINDOW)) for n in image.shape)
    window = image[y : y + WINDOW, x : x + WINDOW]
    assert window.compute(scheduler="synchronous").any()
    step("window")
    facts["GB"] = peak_memory() / 1e9
    plan = plan_of(mosaic, pairs=pairs)
    step("plan")
    facts |= {
        "pairs": len(pairs),
        "register tasks": plan.tasks["register"],
        "write tasks": plan.tasks["write"],
        "all tasks": sum(plan.tasks.values()),
        "graph MB": plan.graph_bytes / 1e6,
        "largest task kB": plan.task_bytes / 1e3,
        "worker MB": plan.worker_memory / 1e6,
    }
    return facts


def worker_memory(side: int) -> dict[str, float]:
    """Peak of one worker process over a whole run of side x side tiles, beside the prediction."""
    from mosaicreg.clusters import computing

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        noise = np.random.default_rng(0).integers(90, 999, (SMALL, SMALL)).astype(np.uint16)
        np.save(folder / "0.npy", noise)
        names = [f"{k}.npy" for k in range(side * side)]
        for name in names[1:]:
            os.link(folder / "0.npy", folder / name)
        mosaic = Mosaic(
            as_names(names),
            np.stack(np.divmod(np.arange(side * side), side), axis=1) * (0.9 * SMALL),
            np.full((side * side, 2), SMALL),
            FileSource(folder, as_names(names), noise.dtype, ()),
        )
        plan = plan_of(mosaic, SHARD)
        with computing(workers=1, memory_limit="4GB"):
            start = time.perf_counter()
            register(mosaic)
            image = assemble(mosaic, stage_layout(mosaic))
            write_ome_zarr(image, folder / "out.ome.zarr", shard=SHARD, chunk=SHARD // 4)
            seconds = time.perf_counter() - start
            peak = peak_memory()
    return {
        "tiles": side * side,
        "predicted MB": plan.worker_memory / 1e6,
        "measured MB": peak / 1e6,
        "share": peak / plan.worker_memory,
        "tasks": sum(plan.tasks.values()),
        "s": seconds,
    }


def durations(side: int) -> list[dict[str, float | str]]:
    """Seconds on the clock that the tasks of a run of side x side tiles take, by stage."""
    import harness
    from distributed import Client, LocalCluster, get_task_stream

    import mosaicreg

    mosaic = mosaicreg.open_mosaic(harness.tiles(side, side))
    rows: list[dict[str, float | str]] = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        get_task_stream(client) as stream,
    ):
        pairs = register(mosaic)
        image = assemble(mosaic, mosaicreg.solve_layout(mosaic, pairs))
        write_ome_zarr(image, Path(scratch) / "out.ome.zarr", mosaic=mosaic)
    taken: dict[str, list[float]] = {}
    for task in stream.data:
        name = str(task["key"]).rpartition("-")[0].strip("('").split("-")[0]
        spent = [k["stop"] - k["start"] for k in task["startstops"] if k["action"] == "compute"]
        taken.setdefault(name, []).append(sum(spent))
    for name, seconds in taken.items():
        low, middle, high = np.quantile(seconds, (0.1, 0.5, 0.9))
        rows.append(
            {"stage": name, "tasks": len(seconds), "10 % s": low, "median s": middle,
             "90 % s": high}
        )  # fmt: skip
    return rows


def apart(function: str, value: int) -> Any:
    """The result of a function of this file, called in a process of its own."""
    said = subprocess.run(
        [sys.executable, __file__, "--apart", function, str(value)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return json.loads(said.splitlines()[-1])


def written(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def show(rows: list[dict[str, Any]]) -> None:
    """A table for the documentation."""
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(written(v) for v in row.values()) + " |")
    print()


def plot(path: Path, rows: list[dict[str, float]], grids: list[dict[str, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    tiles = [r["tiles"] for r in rows]
    for name in ("neighbours cpu", "lazy array cpu", "window cpu"):
        left.loglog(
            tiles, [max(r[name], 1e-3) for r in rows], "o-", label=name.removesuffix(" cpu")
        )
    left.loglog(tiles, [r["GB"] for r in rows], "s--", color="grey", label="memory, GB")
    left.set(xlabel="tiles", ylabel="CPU seconds", title="The client, before it computes")
    for name in ("all tasks", "register tasks"):
        middle.loglog(tiles, [r[name] for r in rows], "o-", label=name)
    middle.loglog(tiles, [r["graph MB"] for r in rows], "s--", color="grey", label="all tasks, MB")
    middle.set(xlabel="tiles", title="Tasks")
    if grids:
        for name, mark in (("predicted MB", "s--"), ("measured MB", "o-")):
            right.plot([g["tiles"] for g in grids], [g[name] for g in grids], mark, label=name)
        right.set(xlabel="tiles", ylabel="MB", title="Memory of a worker", xscale="log")
        right.set_ylim(0, 1.4 * max(max(g["predicted MB"], g["measured MB"]) for g in grids))
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, nargs="*", default=None)
    parser.add_argument("--grids", type=int, nargs="*", default=None)
    parser.add_argument("--durations", type=int, nargs="*", default=None)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--apart", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apart:
        functions = {f.__name__: f for f in (columns, worker_memory, durations)}
        function = functions[options.apart[0]]
        print(json.dumps(function(int(options.apart[1]))))
        return
    chosen = any(k is not None for k in (options.tiles, options.grids, options.durations))
    rows = [apart("columns", n) for n in options.tiles or (() if chosen else COUNTS)]
    grids = [apart("worker_memory", n) for n in options.grids or (() if chosen else GRIDS)]
    times = [apart("durations", n) for n in options.durations or (() if chosen else (20,))]
    for table in (rows, grids, *times):
        if table:
            show(table)
    if options.plot and rows:
        plot(options.plot, rows, grids)


if __name__ == "__main__":
    main()
