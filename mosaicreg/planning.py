"""What a job will take, from plain numbers; how long, from a sample (`mosaicreg.timing`).

Memory is that of one worker process: the program itself, and for each of its threads the most that
one task of any stage holds at a time, as a sum of named terms. No term grows with the number of
tiles. The factors were fitted to measured peaks (`benchmarks/scale.py`).
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mosaicreg.cluster import IN_FLIGHT
from mosaicreg.errors import InputError
from mosaicreg.geometry import IntArray
from mosaicreg.mosaic import Mosaic
from mosaicreg.omezarr import Pyramid
from mosaicreg.recipe import Recipe
from mosaicreg.registration import batches_of, task_of
from mosaicreg.render import STRIP
from mosaicreg.shards import MOST_THREADS
from mosaicreg.timing import Seconds

PROGRAM = 120_000_000
"""Bytes of a worker process that has loaded everything and done nothing."""
BLENDED = 4
"""Strips of a block in floating point that blending holds at a time."""
COMPARED = 40
"""Bytes per pixel of a strip while two are compared: floats, masks and their transforms."""
WAITING_NULLS = 12
"""Strips of earlier pairs that a batch keeps."""
SAMPLE = 20
"""Tasks that are pickled to learn how large they are."""

Terms = Mapping[str, int]


@dataclass(frozen=True)
class JobPlan:
    """What a job will take.

    Args:
        tiles, pairs: how many.
        pyramid: the archive.
        tasks: how many of each stage.
        graph_bytes: of all tasks together, pickled; they exist a few at a time.
        task_bytes: of the largest task seen.
        memory: bytes of one task of each stage, by term.
        threads: of each worker process.
        limit: bytes that a worker process may use, where known.
        seconds: of CPU for each stage, by term; {} where not predicted.
        all_threads: of all workers.
    """

    tiles: int
    pairs: int
    pyramid: Pyramid
    tasks: Mapping[str, int]
    graph_bytes: int
    task_bytes: int
    memory: Mapping[str, Terms]
    threads: int = 1
    limit: int | None = None
    seconds: Seconds = field(default_factory=dict)
    all_threads: int = 1

    @property
    def cpu_seconds(self) -> float:
        """Of all stages."""
        return sum(sum(terms.values()) for terms in self.seconds.values())

    def wall_seconds(self) -> dict[str, float]:
        """Seconds of each stage when all threads that have a task are busy."""
        return {
            stage: sum(terms.values()) / max(1, min(self.all_threads, self.tasks.get(stage, 1)))
            for stage, terms in self.seconds.items()
        }

    @property
    def output_bytes(self) -> int:
        """Of all levels, before compression."""
        planes = math.prod(self.pyramid.shape[:-2]) * self.pyramid.dtype.itemsize
        levels = range(self.pyramid.levels)
        return sum(math.prod(self.pyramid.plane(k)) for k in levels) * planes

    @property
    def shards(self) -> int:
        """Of all levels."""
        return sum(self.pyramid.shards(k) for k in range(self.pyramid.levels))

    @property
    def worker_memory(self) -> int:
        """Bytes that a worker process needs at most."""
        return PROGRAM + self.threads * max(sum(t.values()) for t in self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a worker has room for its tasks."""
        return self.limit is None or self.worker_memory <= self.limit

    def facts(self) -> dict[str, Any]:
        """Everything as JSON knows it."""
        return {
            "tiles": self.tiles,
            "pairs": self.pairs,
            "output": {
                "shape": list(self.pyramid.shape),
                "type": str(self.pyramid.dtype),
                "levels": self.pyramid.levels,
                "bytes_uncompressed": self.output_bytes,
                "shards": self.shards,
                "files_at_most": self.files,
            },
            "tasks": dict(self.tasks),
            "graph_bytes": self.graph_bytes,
            "graph_bytes_at_a_time": self.task_bytes * IN_FLIGHT * self.threads,
            "memory_per_task": {stage: dict(terms) for stage, terms in self.memory.items()},
            "program": PROGRAM,
            "threads_per_worker": self.threads,
            "worker_memory": self.worker_memory,
            "worker_limit": self.limit,
            "fits": self.fits,
            "cpu_seconds": {stage: dict(terms) for stage, terms in self.seconds.items()},
            "wall_seconds": self.wall_seconds(),
            "threads": self.all_threads,
        }

    @property
    def files(self) -> int:
        """Files or objects of the archive, at most: what holds nothing but fill is not written."""
        tables = 80 if self.pyramid.version == "0.4" else 40
        return self.pixel_files + 2 * self.pyramid.levels + tables

    @property
    def pixel_files(self) -> int:
        """Files or objects of these that hold pixels: shards, or chunks in OME-Zarr 0.4."""
        return sum(self.pyramid.objects(k) for k in range(self.pyramid.levels))

    def __str__(self) -> str:
        height, width = self.pyramid.shape[-2:]
        stages = ", ".join(f"{n} {stage}" for stage, n in self.tasks.items())
        lines = [
            f"Tiles    {self.tiles}, {self.pairs} pairs of neighbours",
            f"Output   about {height} x {width} px, {self.pyramid.levels} levels, "
            f"{size_in_words(self.output_bytes)} before compression",
            f"Files    at most {self.files}: {self.pixel_files} "
            f"{'chunks' if self.pyramid.version == '0.4' else 'shards'} and the metadata",
            f"Tasks    {sum(self.tasks.values())}: {stages}",
            f"Graph    {size_in_words(self.graph_bytes)} in all, the largest task "
            f"{size_in_words(self.task_bytes)}, {IN_FLIGHT} per thread at a time",
            f"Memory   {size_in_words(self.worker_memory)} per worker of {self.threads} "
            f"thread{'s' * (self.threads > 1)}: program {size_in_words(PROGRAM)}, and per task of",
        ]
        for stage, terms in self.memory.items():
            told = " + ".join(f"{name} {size_in_words(n)}" for name, n in terms.items())
            lines.append(f"           {stage}: {size_in_words(sum(terms.values()))} = {told}")
        if self.seconds:
            shared = f"{self.all_threads} thread{'s' * (self.all_threads > 1)}"
            lines.append(
                f"Time     about {time_in_words(sum(self.wall_seconds().values()))} on {shared}, "
                f"{time_in_words(self.cpu_seconds)} of CPU, from a sample of these tiles:"
            )
            for stage, costs in self.seconds.items():
                told = " + ".join(f"{name} {time_in_words(s)}" for name, s in costs.items())
                lines.append(f"           {stage}: {time_in_words(sum(costs.values()))} = {told}")
        if self.limit is not None:
            lines.append(
                f"Limit    {size_in_words(self.limit)}: {'fits' if self.fits else 'too small'}"
            )
        return "\n".join(lines)


def plan_job(
    mosaic: Mosaic,
    recipe: Recipe,
    pyramid: Pyramid,
    pairs: IntArray | None,
    *,
    max_shift: float | None = None,
    threads: int = 1,
    limit: int | None = None,
) -> JobPlan:
    """What it takes to register and assemble a mosaic.

    Args:
        mosaic: the tiles.
        recipe: how blocks are made (positions of the stage serve as well as a layout's).
        pyramid: the archive to be.
        pairs: (m, 2) tiles to compare; None where the stage's word is taken.
        max_shift: how far from there, px.
        threads: of a worker process.
        limit: bytes that a worker process may use.
    """
    recipe = recipe.with_blocks(pyramid.shard)
    pairs = np.empty((0, 2), dtype=np.int64) if pairs is None else pairs
    batches = batches_of(mosaic, pairs) if len(pairs) else []
    blocks = math.prod(recipe.numblocks)
    tasks = {"register": len(batches), "write": blocks}
    tasks |= {f"level {k}": pyramid.shards(k) for k in range(1, pyramid.levels)}
    memory = {"write": _write_terms(recipe, mosaic, pyramid)}
    if batches:
        window = float(mosaic.max_shift if max_shift is None else max_shift)
        memory = {"register": _register_terms(mosaic, pairs, batches, window), **memory}
    if pyramid.levels > 1:
        memory["pyramid"] = _pyramid_terms(pyramid)
    sizes = {
        "register": [_pickled(task_of(mosaic, pairs, rows)) for rows in _spread(batches)],
        "write": [
            _pickled(recipe.plan(tuple(int(k) for k in np.unravel_index(n, recipe.numblocks))))
            for n in _spread(range(blocks))
        ],
    }
    total = sum(round(float(np.mean(s)) * tasks[stage]) for stage, s in sizes.items() if s)
    return JobPlan(
        tiles=len(mosaic),
        pairs=len(pairs),
        pyramid=pyramid,
        tasks={stage: n for stage, n in tasks.items() if n},
        graph_bytes=total,
        task_bytes=max(max(s, default=0) for s in sizes.values()),
        memory=memory,
        threads=threads,
        limit=limit,
    )


def check_fits(plan: JobPlan) -> None:
    """Refuse a job whose tasks do not fit into a worker, and say what would.

    Raises:
        InputError: with the terms, and a smaller shard where that helps.
    """
    if plan.fits:
        return
    assert plan.limit is not None
    stage = max(plan.memory, key=lambda s: sum(plan.memory[s].values()))
    terms = [f"{name}: {size_in_words(n)}" for name, n in plan.memory[stage].items()]
    room = (plan.limit - PROGRAM) / plan.threads
    remedy = "give workers more memory, or fewer threads"
    shard = plan.pyramid.shard
    if stage != "register" and room > 0:
        # What is compressed grows with the area of a shard, all else with its side.
        squared = sum(plan.memory[stage].get(name, 0) for name in ("finer", "compressed"))
        linear = sum(plan.memory[stage].values()) - squared
        side = (math.sqrt(linear**2 + 4 * squared * room) - linear) / (2 * squared)
        smaller = [
            max(c, int(s * side) // (2 * c) * 2 * c)  # an even number: the pyramid holds less
            for s, c in zip(shard, plan.pyramid.chunk, strict=True)
        ]
        even = all(n >= 2 * c for n, c in zip(smaller, plan.pyramid.chunk, strict=True))
        fits = math.prod(smaller) <= side**2 * math.prod(shard)
        if tuple(smaller) != shard and fits and (even or stage == "write"):
            remedy = f"use --shard {smaller[0]},{smaller[1]}, or {remedy}"
    raise InputError(
        f"a worker needs {size_in_words(plan.worker_memory)} and may use "
        f"{size_in_words(plan.limit)}: {remedy}. "
        f"Its largest task ({stage}) holds",
        [*terms, f"program itself: {size_in_words(PROGRAM)}"],
    )


def _write_terms(recipe: Recipe, mosaic: Mosaic, pyramid: Pyramid) -> Terms:
    """A block is drawn and compressed a row of chunks at a time."""
    item = mosaic.dtype.itemsize
    planes = math.prod(mosaic.leading) if mosaic.source.interleaved else 1
    work = 8 if mosaic.dtype == np.float64 else 4
    rows, width = pyramid.chunk[0], pyramid.shard[1]
    terms = {
        "tiles": _most_held(recipe, rows) * item * planes,
        "rows": rows * width * item * planes,
        "blending": BLENDED * min(STRIP, rows) * width * work * planes,
        "compressed": math.prod(pyramid.shard) * item * planes,
    }
    if mosaic.source.interleaved:
        terms["decoding"] = int(mosaic.shapes.prod(axis=1).max()) * item * planes
    return terms


def _most_held(recipe: Recipe, rows: int) -> int:
    """Pixels of tiles that a block holds at a time, for some of its rows."""
    starts, members = recipe.touching
    boxes = recipe.boxes[members] - np.array([recipe.canvas.y0, recipe.canvas.x0] * 2)
    number = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    row, col = np.divmod(number, recipe.grid.grid_shape[1])
    low = np.stack([row, col], axis=1) * np.array(recipe.block)
    start = np.maximum(boxes[:, :2], low) - low
    end = np.minimum(boxes[:, 2:], low + np.array(recipe.block)) - low
    area = (end - start).prod(axis=1)
    # Each is added to the first band of rows that needs it, and taken off after the last.
    bands = -(-recipe.block[0] // rows) + 1
    first, after = (number * bands + k for k in (start[:, 0] // rows, (end[:, 0] - 1) // rows + 1))
    size = (len(starts) - 1) * bands
    return int(np.cumsum(np.bincount(first, area, size) - np.bincount(after, area, size)).max())


def _pyramid_terms(pyramid: Pyramid) -> Terms:
    """A shard is made chunk by chunk; of those of the finer level, one is held where all fit."""
    item = pyramid.dtype.itemsize
    counts = [s // c for s, c in zip(pyramid.shard, pyramid.chunk, strict=True)]
    block, chunk = (math.prod(n) * item for n in (pyramid.shard, pyramid.chunk))
    finer = block * math.prod(1 + n % 2 for n in counts) if pyramid.zarr_format == 3 else 4 * chunk
    return {"finer": finer, "chunks": 8 * chunk * MOST_THREADS, "compressed": block}


def _register_terms(
    mosaic: Mosaic, pairs: IntArray, batches: list[IntArray], window: float
) -> Terms:
    item = mosaic.dtype.itemsize
    tile = int(mosaic.shapes.prod(axis=1).max()) * item
    first, second = pairs.T
    away = np.abs(mosaic.positions[first] - mosaic.positions[second])
    shape = np.minimum(mosaic.shapes[first], mosaic.shapes[second])
    strip = int((np.clip(shape - away + 2 * window, 1, shape)).prod(axis=1).max())
    most = max(len(rows) for rows in batches)
    waiting = min(most, 2 + math.ceil(1.5 * math.sqrt(most))) + WAITING_NULLS
    planes = math.prod(mosaic.leading) if mosaic.source.interleaved else 1
    return {
        "tile": 2 * tile * planes,
        "strips": waiting * strip * item,
        "comparing": COMPARED * strip,
    }


def _spread(items: Any) -> list[Any]:
    """Some of a sequence, evenly."""
    step = max(1, len(items) // SAMPLE)
    return [items[k] for k in range(0, len(items), step)][:SAMPLE]


def _pickled(value: Any) -> int:
    return len(pickle.dumps(value))


def time_in_words(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.3g} h"


def size_in_words(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
