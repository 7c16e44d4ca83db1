"""How long a job will take: a few pairs and one block are done, timed, and multiplied.

CPU seconds, as a sum of named terms for each stage. What the sample cannot know: tiles that are
unlike those in the middle, disks and networks that are waited for, cores that share a memory bus.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.chunks import compress, decompress
from mosaicreg.cluster import run_before
from mosaicreg.geometry import Box, IntArray, TileGrid
from mosaicreg.mosaic import Mosaic
from mosaicreg.omezarr import Pyramid
from mosaicreg.pairs import MEASURED, TURN
from mosaicreg.processes import Call, Later
from mosaicreg.recipe import BlockPlan, Recipe, render_plan
from mosaicreg.registration import (
    NULL_PAIRS,
    Batch,
    Model,
    batches_of,
    register_batch,
    task_of,
)
from mosaicreg.shards import halve
from mosaicreg.source import Lead, TileSource

PAIRS = 2
"""Pairs that are compared after a first one, which loads what it needs."""
SIDE = 1024
"""px, of the block that is drawn."""

Seconds = Mapping[str, Mapping[str, float]]
"""CPU seconds by stage and term."""


@dataclass(frozen=True)
class Rates:
    """What was measured: CPU seconds for one of each.

    Args:
        tile: reading a whole tile of ``tile_area`` px.
        window: reading a part of one, of ``window_area`` px.
        pair: comparing two tiles.
        blend, encode, decode, halve: for a pixel.
    """

    tile: float
    tile_area: float
    window: float
    window_area: float
    pair: float
    blend: float
    encode: float
    decode: float
    halve: float

    def reading(self, times: float, area: float) -> float:
        """Reading parts of tiles: some cost each, some for their pixels."""
        more = self.tile_area - self.window_area
        each_px = max(0.0, (self.tile - self.window) / more) if more > 0 else 0.0
        each = max(0.0, self.window - each_px * self.window_area)
        return times * each + area * each_px


class _Timed:
    """A source that counts what it reads."""

    def __init__(self, source: TileSource) -> None:
        self.source, self.seconds, self.areas = source, 0.0, list[int]()
        self.dtype, self.leading, self.interleaved = (
            source.dtype,
            source.leading,
            source.interleaved,
        )

    def __len__(self) -> int:
        return len(self.source)

    def select(self, tiles: IntArray) -> TileSource:
        """Not timed."""
        return self.source.select(tiles)

    def read(self, tile: int, box: Box, lead: Lead) -> NDArray[Any]:
        """As the source does it."""
        start = time.thread_time()
        pixels = self.source.read(tile, box, lead)
        self.seconds += time.thread_time() - start
        self.areas.append(box.area)
        return pixels


def predict(
    mosaic: Mosaic,
    recipe: Recipe,
    pyramid: Pyramid,
    pairs: IntArray | None,
    *,
    lead: Lead = (),
    max_shift: float | None = None,
    model: Model = "translation",
) -> Later:
    """CPU seconds of each stage of a job, from a sample that is done where tasks are done.

    The result is a `Seconds`. Forked processes do the sample before the next tasks they are given;
    where it is asked for earlier, this process does.

    Args:
        mosaic, recipe, pyramid, pairs, max_shift: as for `mosaicreg.planning.plan_job`.
        lead, model: as registration has them.

    Raises:
        ImageError: where the tiles of the sample cannot be decoded.
    """
    pairs = np.empty((0, 2), dtype=np.int64) if pairs is None else pairs
    batches = batches_of(mosaic, pairs) if len(pairs) else []
    window = int(np.ceil(mosaic.max_shift if max_shift is None else max_shift))
    names = (*MEASURED, *TURN) if model == "rigid" else MEASURED
    samples: list[Batch] = []
    if batches:
        rows = batches[len(batches) // 2][: PAIRS + 1]
        samples = [task_of(mosaic, pairs, part, lead) for part in (rows[:1], rows[1:]) if len(part)]
    small = recipe.with_blocks((min(SIDE, pyramid.shard[0]), min(SIDE, pyramid.shard[1])))
    middle = tuple(n // 2 for n in small.numblocks)
    middle = tuple(min(k, max(0, n - 2)) for k, n in zip(middle, small.numblocks, strict=True))
    tasks = [Call(sample_block, (small.plan(middle), pyramid.chunk))]
    if samples:
        tasks.append(Call(sample_pairs, (samples, window, names)))
    parts = run_before(tasks, "sample")

    def predicted() -> Seconds:
        rates, *more = (part.result() for part in parts)
        rates = replace(rates, **more[0]) if more else rates
        return multiplied(rates, mosaic, recipe.with_blocks(pyramid.shard), pyramid, pairs, batches)

    return Later(Call(predicted, ()))


def sample_pairs(batches: list[Batch], window: int, names: tuple[str, ...]) -> Mapping[str, float]:
    """Compare the pairs of the last batch and time it: the rates of a whole tile and of a pair."""
    whole, pair = _Timed(batches[0].source), 0.0
    for batch in batches:  # the first one loads what is needed
        whole = _Timed(batch.source)
        start = time.thread_time()
        register_batch(batch._replace(source=whole), window, 0.0, names)
        pair = (time.thread_time() - start - whole.seconds) / len(batch.pairs)
    one = _Timed(batches[-1].source)  # registration reads what lies around its strips, not all
    height, width = (int(n) for n in batches[-1].shapes[0])
    one.read(0, Box(0, 0, height, width), batches[-1].lead)
    return {"tile": one.seconds, "tile_area": height * width, "pair": pair}


def sample_block(block: BlockPlan, chunk: tuple[int, int]) -> Rates:
    """Draw the block, compress it, and time it all; tiles are known by their parts in it."""
    parts = _Timed(block.source)
    start = time.thread_time()
    pixels = render_plan(replace(block, source=parts))
    blend = time.thread_time() - start - parts.seconds
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    encoding, decoding, halving = _written(planes[0], chunk)
    reads = max(1, len(parts.areas))
    seconds, area = parts.seconds / reads, sum(parts.areas) / reads
    return Rates(
        tile=seconds,
        tile_area=area,
        window=seconds,
        window_area=area,
        pair=0.0,
        blend=blend / pixels.size,
        encode=encoding / planes[0].size,
        decode=decoding / planes[0].size,
        halve=halving / planes[0].size,
    )


def _written(pixels: NDArray[Any], shape: tuple[int, int]) -> tuple[float, float, float]:
    """CPU seconds to compress, decompress and halve a block of chunks of ``shape``."""
    grid = TileGrid(pixels.shape, shape)
    places = list(product(*map(range, grid.grid_shape)))
    chunk = np.empty(shape, dtype=pixels.dtype)
    decompress(compress(np.ones((1, 1), pixels.dtype), shape), chunk)  # loads the codec
    moments = [time.thread_time()]
    parts = [compress(pixels[grid.box(*at).slices], shape) for at in places]
    moments.append(time.thread_time())
    for part in parts:
        decompress(part, chunk)
    moments.append(time.thread_time())
    halve(pixels)
    moments.append(time.thread_time())
    encoding, decoding, halving = np.diff(moments).tolist()
    return encoding, decoding, halving


def multiplied(
    rates: Rates,
    mosaic: Mosaic,
    recipe: Recipe,
    pyramid: Pyramid,
    pairs: IntArray,
    batches: list[IntArray],
) -> Seconds:
    """The seconds of all stages."""
    stages: dict[str, Mapping[str, float]] = {}
    area = float(mosaic.shapes.prod(axis=1, dtype=np.float64).sum())
    if batches:
        read = sum(len({*pairs[rows].ravel().tolist()}) for rows in batches)
        compared = len(pairs) + min(NULL_PAIRS, len(pairs))
        stages["register"] = {"reading": read * rates.tile, "comparing": compared * rates.pair}
    planes = int(np.prod(pyramid.shape[:-2]))
    together = planes if mosaic.source.interleaved else 1
    px = planes * float(np.prod(pyramid.plane(0), dtype=np.float64))
    stages["write"] = {
        "reading": rates.reading(len(recipe.touching[1]), area) * planes / together,
        "blending": px * rates.blend,
        "encoding": px * rates.encode,
    }
    for level in range(1, pyramid.levels):
        px = planes * float(np.prod(pyramid.plane(level), dtype=np.float64))
        stages[f"level {level}"] = {
            "reading": 4 * px * rates.decode,
            "halving": 4 * px * rates.halve,
            "encoding": px * rates.encode,
        }
    return stages
