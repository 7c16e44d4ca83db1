"""`register`: every pair of neighbours compared, as dask tasks over batches of tiles.

One task handles the pairs of a block of neighbouring tiles. It reads each of its tiles once, keeps
only the strips that can overlap, compares them as soon as both are there, and returns plain
columns. The batches depend on the mosaic alone, so results are the same under any scheduler.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from mosaicreg import __version__
from mosaicreg.cluster import Progress, delayed_call, one_blas_thread, run_tasks
from mosaicreg.correlate import (
    Binned,
    BinnedPair,
    Match,
    Strips,
    find_in_strips,
    match_prepared,
    plan_offset,
    rough_prepared,
)
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, FloatArray, IntArray
from mosaicreg.journal import Journal, digest
from mosaicreg.mosaic import Mosaic
from mosaicreg.pairs import MEASURED, TURN, Pairs, judge
from mosaicreg.robust import median
from mosaicreg.source import Lead, TileSource, stamps_of
from mosaicreg.strips import Search, plan_search

if TYPE_CHECKING:
    from mosaicreg.alignment import AlignmentRecord

Model = Literal["translation", "rigid"]
"""How neighbours may lie to each other: shifted, or shifted and turned by a small angle."""
MODELS: tuple[Model, ...] = get_args(Model)
NULL_PAIRS = 100
"""How many pairs that cannot overlap are compared to learn how high chance reaches."""
NULL_MEMORY = 6
"""How many earlier strips a task keeps to compare with for the null."""


def register(
    mosaic: Mosaic,
    *,
    channel: int = 0,
    plane: int = 0,
    max_shift: float | None = None,
    model: Model = "translation",
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Pairs:
    """Compare all neighbours and judge how far to trust each result.

    Runs on the dask scheduler in effect: threads by default, or the current distributed client.

    Args:
        mosaic: the tiles; its positions say which are neighbours and where to look.
        channel, plane: which image to look at where tiles have channels or depth (time 0).
        max_shift: how far, in px per axis, the true offset of two neighbours may be from the
            stage's. `Mosaic.max_shift` where None.
        model: ``"rigid"`` finds by what small angle (below 2.5 degrees) neighbours are turned
            against each other, too; it takes several times as long.
        progress: called with (stage, done, total).
        journal: keeps the result of each batch, and gives back those of the same tiles and options.

    Raises:
        InputError: where no two tiles overlap, or the channel or plane does not exist.
        ImageError: where a tile cannot be decoded.
    """
    if model not in MODELS:
        raise InputError(f"the model is one of {', '.join(MODELS)}, not {model!r}")
    lead = registration_lead(mosaic, channel, plane)
    names = (*MEASURED, *TURN) if model == "rigid" else MEASURED
    pairs = checked_neighbours(mosaic)
    window = mosaic.max_shift if max_shift is None else int(np.ceil(max_shift))
    share = min(1.0, NULL_PAIRS / max(1, len(pairs)))
    batches = batches_of(mosaic, pairs)
    results = _measured(mosaic, pairs, batches, (lead, window, share, names), progress, journal)
    table = {name: np.full(len(pairs), np.nan) for name in names}
    null_z = []
    for rows, (columns, heights) in zip(batches, results, strict=True):
        for name, column in zip(names, columns, strict=True):
            table[name][rows] = column
        null_z.append(heights)
    null = np.concatenate(null_z) if null_z else np.empty(0)
    told = mosaic.positions[pairs[:, 1]] - mosaic.positions[pairs[:, 0]]
    return judge(pairs[:, 0], pairs[:, 1], table, null, told, window)


def _measured(
    mosaic: Mosaic,
    pairs: IntArray,
    batches: list[IntArray],
    options: tuple[Lead, int, float, tuple[str, ...]],
    progress: Progress | None,
    journal: Journal | None,
) -> list[tuple[FloatArray, FloatArray]]:
    """What `register_batch` finds for each batch, from the journal where it knows."""
    lead, window, share, names = options
    results: list[Any] = [None] * len(batches)
    keys: list[str] = []
    if journal is not None:
        stamps = stamps_of(mosaic.source)
        keys = [_key(mosaic, pairs, rows, options, stamps) for rows in batches]
        results = [journal.recall("pairs", key) for key in keys]
    missing = [k for k, result in enumerate(results) if result is None]
    missing.sort(key=lambda k: -len(batches[k]))  # large ones first: workers end together

    def done(found: list[tuple[int, Any]]) -> None:
        for number, result in found:
            results[missing[number]] = result
            if journal is not None:
                journal.remember("pairs", keys[missing[number]], result)

    tasks = (
        delayed_call(register_batch, task_of(mosaic, pairs, batches[k], lead), window, share, names)
        for k in missing
    )
    if missing or not batches:
        run_tasks(tasks, "register", progress, len(missing), done)
    return results


def _key(
    mosaic: Mosaic,
    pairs: IntArray,
    rows: IntArray,
    options: tuple[Lead, int, float, tuple[str, ...]],
    stamps: NDArray[np.uint64],
) -> str:
    """Digest of all that the result of a batch depends on."""
    lead, *others = options
    tiles = pairs[rows]
    return digest(
        __version__,
        [(part.start, part.stop) for part in lead],
        others,
        rows,
        tiles,
        stamps[tiles],
        mosaic.positions[tiles],
        mosaic.shapes[tiles],
    )


def find_offsets(
    fixed: Sequence[Any],
    moving: Sequence[Any],
    expected: tuple[float, float] | Sequence[tuple[float, float]] | None = None,
    max_shift: int | tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> list[AlignmentRecord]:
    """`find_offset` mapped over pairs of images, one dask task each.

    Args:
        fixed, moving: the images of each pair, (height, width): numpy, dask or zarr arrays, or
            paths of image files. Of lazy ones only the strips that can overlap are read.
        expected: as for `find_offset`, for all pairs; or one for each.
        max_shift: as for `find_offset`.
        progress: called with (stage, done, total).

    Returns:
        One record per pair, in order.

    Raises:
        ValueError: where the numbers of images differ, or one is not (height, width).
    """
    if len(fixed) != len(moving):
        raise InputError(f"{len(fixed)} fixed images for {len(moving)} moving ones")
    one_for_all = expected is None or np.ndim(expected) < 2
    places: Sequence[Any] = [expected] * len(fixed) if one_for_all else list(expected or ())
    if len(places) != len(fixed):
        raise InputError(f"{len(places)} expected offsets for {len(fixed)} pairs")
    tasks = [
        _offset_task(f, m, place, max_shift)
        for f, m, place in zip(fixed, moving, places, strict=True)
    ]
    return run_tasks(tasks, "find offsets", progress)


def _offset_task(fixed: Any, moving: Any, expected: Any, max_shift: Any) -> Any:
    """A delayed `find_offset` that is handed strips, not images."""
    from mosaicreg.lazy import open_lazy, window  # loads dask.array, which nothing else here needs

    images = [open_lazy(i) if isinstance(i, str | Path) else i for i in (fixed, moving)]
    for name, image in zip(("fixed", "moving"), images, strict=True):
        if len(image.shape) != 2 or 0 in image.shape:
            raise InputError(
                f"the {name} image must be (height, width), not of shape {tuple(image.shape)}"
            )
    shapes = [(int(i.shape[0]), int(i.shape[1])) for i in images]
    place = None if expected is None else (float(expected[0]), float(expected[1]))
    plan = plan_offset(shapes[0], shapes[1], place, max_shift)
    boxes = (plan.search.fixed, plan.search.moving) if plan.search else (Box(0, 0, 0, 0),) * 2
    strips = [window(image, box) for image, box in zip(images, boxes, strict=True)]
    return delayed_call(find_in_strips, *strips, plan)


def checked_neighbours(mosaic: Mosaic) -> IntArray:
    """`Mosaic.neighbours`, which must not be empty for more than one tile."""
    pairs = mosaic.neighbours()
    if len(pairs) == 0 and len(mosaic) > 1:
        raise InputError(
            f"no two of the {len(mosaic)} tiles overlap at their positions "
            f"({mosaic.origin}), so there is nothing to register; check that positions are in "
            "pixels, or place tiles by the stage alone (--no-register)"
        )
    return pairs


def registration_lead(mosaic: Mosaic, channel: int, plane: int) -> Lead:
    """One slice per leading axis that picks the image to register on."""
    wanted = {"t": 0, "c": channel, "z": plane}
    names = {"c": "--channel", "z": "--plane"}
    slices = []
    for axis, length in zip(mosaic.axes, mosaic.leading, strict=False):
        k = wanted[axis]
        if not 0 <= k < length:
            raise InputError(f"{names[axis]} {k} does not exist: tiles have {length}, from 0 on")
        slices.append(slice(k, k + 1))
    for axis, k in (("c", channel), ("z", plane)):
        if axis not in mosaic.axes and k != 0:
            raise InputError(f"{names[axis]} {k} does not exist: tiles have only one")
    return tuple(slices)


class Batch(NamedTuple):
    """All that one task needs: its own few tiles and pairs, nothing of the others."""

    source: TileSource
    lead: Lead
    positions: FloatArray
    shapes: IntArray
    pairs: IntArray
    numbers: IntArray


def batches_of(mosaic: Mosaic, pairs: IntArray) -> list[IntArray]:
    """Rows of ``pairs`` for each batch: those whose fixed tile lies in one square block."""
    tiles = min(256.0, max(16.0, len(mosaic) / 8))
    side = np.sqrt(tiles) * median(mosaic.shapes)
    origin = mosaic.positions.min(axis=0)
    block = np.floor((mosaic.positions[pairs[:, 0]] - origin) / side).astype(np.int64)
    order = np.lexsort((block[:, 1], block[:, 0]))
    changes = np.flatnonzero((np.diff(block[order], axis=0) != 0).any(axis=1)) + 1
    return [np.sort(rows) for rows in np.split(order, changes) if len(rows)]


def task_of(mosaic: Mosaic, pairs: IntArray, rows: IntArray, lead: Lead = ()) -> Batch:
    """What the task of one batch carries."""
    tiles, local = np.unique(pairs[rows], return_inverse=True)
    # Row by row through the block: strips then wait for their partner for one row at most.
    height = mosaic.shapes[tiles, 0].min()
    y, x = mosaic.positions[tiles].T
    order = np.lexsort((x, np.round(y / height)))
    place = np.empty(len(tiles), dtype=np.int64)
    place[order] = np.arange(len(tiles))
    tiles = tiles[order]
    return Batch(
        source=mosaic.source.select(tiles),
        lead=lead,
        positions=mosaic.positions[tiles],
        shapes=mosaic.shapes[tiles],
        pairs=place[local.reshape(-1, 2)],
        numbers=rows,
    )


def register_batch(
    batch: Batch, window: int, null_share: float, names: tuple[str, ...] = MEASURED
) -> tuple[FloatArray, FloatArray]:
    """(k, m) columns ``names`` of a batch's pairs, and the heights of its null pairs."""
    one_blas_thread()
    turning = TURN[0] in names
    columns = np.full((len(names), len(batch.pairs)), np.nan)
    searches = _searches(batch, window)
    strips_of_tile: dict[int, list[tuple[int, Box]]] = defaultdict(list)
    for row, (pair, search) in enumerate(zip(batch.pairs, searches, strict=True)):
        if search is not None:
            for tile, box in zip(pair, (search.fixed, search.moving), strict=True):
                strips_of_tile[int(tile)].append((row, box))
    rough: Callable[..., Any] = rough_prepared
    if turning:
        from mosaicreg.turning import match_turned
        from mosaicreg.turning import rough_turned as rough
    null = _Null(batch, window, null_share, rough)
    waiting: dict[int, NDArray[Any]] = {}
    for tile in sorted(strips_of_tile):
        around = _around([box for _, box in strips_of_tile[tile]])
        image = batch.source.read(tile, around, batch.lead).reshape(around.shape)
        for row, box in strips_of_tile[tile]:
            search = searches[row]
            assert search is not None
            is_fixed = batch.pairs[row, 0] == tile
            strip = image[box.shifted(-around.y0, -around.x0).slices]
            if row not in waiting:
                waiting[row] = strip.copy()
                continue
            other = waiting.pop(row)
            fixed, moving = (strip, other) if is_fixed else (other, strip)
            strips = Strips.prepare(fixed, moving, search)
            if strips is None:
                continue
            match: Match | None
            if turning:
                whole = batch.shapes[batch.pairs[row, 1]]
                match = match_turned(strips, search, (int(whole[0]), int(whole[1])))
            else:
                match = match_prepared(strips, search)
            if match is not None:
                columns[:, row] = [getattr(match, name) for name in names]
            null.feed(row, strips.binned, search)
    return columns, np.array(null.heights)


def _around(boxes: list[Box]) -> Box:
    return Box(
        min(box.y0 for box in boxes),
        min(box.x0 for box in boxes),
        max(box.y1 for box in boxes),
        max(box.x1 for box in boxes),
    )


def _searches(batch: Batch, window: int) -> list[Search | None]:
    """What to compare of each pair."""
    shapes = [tuple(shape) for shape in batch.shapes.tolist()]
    told = (batch.positions[batch.pairs[:, 1]] - batch.positions[batch.pairs[:, 0]]).tolist()
    return [
        plan_search(shapes[fixed], shapes[moving], (dy, dx), (window, window))
        for (fixed, moving), (dy, dx) in zip(batch.pairs.tolist(), told, strict=True)
    ]


class _Null:
    """Compares strips of tiles that cannot overlap, drawn from those that pass by."""

    def __init__(
        self, batch: Batch, window: int, share: float, compare: Callable[..., Any]
    ) -> None:
        self.batch, self.window, self.share, self.compare = batch, window, share, compare
        self.heights: list[float] = []
        self._kept: dict[bool, deque[tuple[int, Binned]]] = {
            upright: deque(maxlen=NULL_MEMORY) for upright in (False, True)
        }

    def feed(self, row: int, pair: BinnedPair, search: Search) -> None:
        """Take the strips of one pair: compare with an earlier one, then remember them."""
        kept = self._kept[search.fixed.shape[0] > search.fixed.shape[1]]
        number = int(self.batch.numbers[row])
        # A fixed irrational step spreads the chosen pairs evenly, the same in every run.
        if (number * 0.6180339887498949) % 1 < self.share:
            tile = int(self.batch.pairs[row, 0])
            for other, strip in kept:
                if self._apart(tile, other) and _fits(strip, pair[1]):
                    match = self.compare((pair[0], strip.cut(pair[1].image.shape)), search)
                    if match is not None:
                        self.heights.append(match[0])
                    break
        kept.append((int(self.batch.pairs[row, 1]), pair[1]))

    def _apart(self, one: int, other: int) -> bool:
        distance = np.abs(self.batch.positions[one] - self.batch.positions[other])
        reach = np.maximum(self.batch.shapes[one], self.batch.shapes[other]) + 2 * self.window
        return bool((distance >= reach).any())


def _fits(other: Binned, strip: Binned) -> bool:
    """Whether a strip of another pair can stand in for ``strip``."""
    sides = zip(strip.image.shape, other.image.shape, strict=True)
    return other.by == strip.by and all(0.9 * n <= m for n, m in sides)
