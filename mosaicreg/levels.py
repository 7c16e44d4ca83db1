"""The shards of all levels of an archive brought up to date.

One task makes and writes whole shards, so no two tasks touch one object. A shard of a coarser level
is made as soon as those under it are there, while others are still made: what it reads was written
a moment ago, and no level waits for the last shard of another.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicreg import shards
from mosaicreg.cluster import Progress, cores_here, delayed_call, run_tasks
from mosaicreg.geometry import TileGrid
from mosaicreg.journal import Journal, short_digest
from mosaicreg.omezarr import Pyramid
from mosaicreg.processes import current_workers
from mosaicreg.shards import Receipt
from mosaicreg.store import Store

CHECKED_TOGETHER = 32
"""Shards whose bytes one task reads and sums up."""
DRAWN = 0.5
"""What drawing a pixel takes of the time that making one of a coarser level does, about."""

Parts = Sequence[NDArray[np.int64]] | NDArray[np.int64]
"""Numbers of the shards that one task makes, for each task of a level."""


class Finest(NamedTuple):
    """How to make the shards of level 0.

    Args:
        keys: (shards,) what each depends on.
        parts: what each task makes.
        task: that of a part, for `run_tasks`; its result is one receipt per shard.
        graphs: whether tasks are graphs of dask, which are never sent to forked workers.
    """

    keys: NDArray[np.uint64]
    parts: Parts
    task: Callable[[Store, int], Any]
    graphs: bool = False


def bring_up_to_date(
    store: Store, plan: Pyramid, finest: Finest, journal: Journal, progress: Progress | None
) -> None:
    """Make the shards that are missing, made from something else, or damaged.

    Levels of which nothing is there yet are made along with the finer one. What an earlier run has
    left of a level is compared with what it would be made of, so that is made first.
    """
    level = 0
    while level < plan.levels:
        keys = finest.keys if level == 0 else _keys_above(plan, level, journal)
        good = _good(store, plan, level, keys, journal, progress)
        # What is run together goes where its first task can go.
        apart = level == 0 and finest.graphs and current_workers() is not None
        coarser = range(level + 1, level + 1 if apart else plan.levels)
        above = takewhile(lambda k: _is_empty(plan, k, journal), coarser)
        levels = [level, *above]
        _Work(store, plan, finest, journal, progress or _silent, levels, keys, good).do()
        level = levels[-1] + 1


def _is_empty(plan: Pyramid, level: int, journal: Journal) -> bool:
    return bool((journal.receipts(level, plan.shards(level)).sizes < 0).all())


def _good(
    store: Store,
    plan: Pyramid,
    level: int,
    keys: NDArray[np.uint64],
    journal: Journal,
    progress: Progress | None,
) -> NDArray[np.bool_]:
    """Which shards of a level are there: made from what they depend on, their bytes not damaged."""
    receipts = journal.receipts(level, len(keys))
    good: NDArray[np.bool_] = (receipts.sizes >= 0) & (receipts.keys == keys)
    kept = np.flatnonzero(good)
    groups = [kept[k : k + CHECKED_TOGETHER] for k in range(0, len(kept), CHECKED_TOGETHER)]

    def check(group: NDArray[np.int64]) -> Any:
        told = [Receipt(int(receipts.sizes[k]), int(receipts.crcs[k])) for k in group]
        places = [plan.shard_at(level, int(k)) for k in group]
        return delayed_call(shards.check_shards, store, level, places, told)

    def checked(found: list[tuple[int, list[bool]]]) -> None:
        for number, intact in found:
            good[groups[number]] = intact

    if groups:
        run_tasks((check(g) for g in groups), f"check {level}", progress, len(groups), checked)
    return good


def _keys_above(plan: Pyramid, level: int, journal: Journal) -> NDArray[np.uint64]:
    """What each shard of a level depends on, those under it being there."""
    keys = (_key_above(plan, level, k, journal) for k in range(plan.shards(level)))
    return np.fromiter(keys, dtype=np.uint64, count=plan.shards(level))


def _key_above(plan: Pyramid, level: int, number: int, journal: Journal) -> int:
    under = _under(plan, level, number)
    receipts = journal.receipts(level - 1, plan.shards(level - 1))
    return short_digest("mean", receipts.content_keys(under))


def _under(plan: Pyramid, level: int, number: int) -> NDArray[np.int64]:
    """(rows, columns) numbers of the shards, 2 x 2 or fewer, that one of a level is made from."""
    *plane, row, column = plan.shard_at(level, number)
    down, across = plan.grid(level - 1).grid_shape
    corner = plan.shard_number(level - 1, (*plane, 2 * row, 2 * column))
    rows, columns = min(2, down - 2 * row), min(2, across - 2 * column)
    return corner + across * np.arange(rows)[:, None] + np.arange(columns)


class _Work:
    """Shards of one level, and all those of the levels above it, where nothing is there yet.

    Args:
        levels: the finest first.
        keys: (shards,) what those of the finest of them depend on.
        good: (shards,) which of those need not be made.
    """

    def __init__(
        self,
        store: Store,
        plan: Pyramid,
        finest: Finest,
        journal: Journal,
        report: Progress,
        levels: Sequence[int],
        keys: NDArray[np.uint64],
        good: NDArray[np.bool_],
    ) -> None:
        self.store, self.plan, self.finest = store, plan, finest
        self.journal, self.report, self.levels = journal, report, levels
        first, *above = levels
        parts: Parts = finest.parts if first == 0 else np.arange(len(keys))[:, None]
        due = [k for k, part in enumerate(parts) if not good[part].all()]
        absent = np.zeros(len(keys), dtype=bool)
        for part in due:
            absent[parts[part]] = True
        self.keys = {first: keys}
        self.due = {first: len(due)}
        """How many tasks each level has."""
        self.left = {first: sum(self._area(first, int(k)) for k in np.flatnonzero(absent))}
        """Pixels of each level that are yet to be made."""
        self.ready = {first: deque(_large_first(due, [parts[k][0] for k in due], plan.grid(first)))}
        """Parts that need nothing more, the next one first."""
        self.missing: dict[int, NDArray[np.int64]] = {}
        """How many of the shards under each one are absent."""
        for level in above:
            count = plan.shards(level)
            self.keys[level], self.due[level] = np.zeros(count, dtype=np.uint64), count
            self.left[level] = math.prod(plan.plane(level)) * len(plan.planes)
            self.ready[level] = deque()
            missing = [np.count_nonzero(absent[_under(plan, level, k)]) for k in range(count)]
            self.missing[level] = np.array(missing)
            for k in np.flatnonzero(self.missing[level] == 0):
                self._let(level, int(k))
            absent = np.ones(count, dtype=bool)
        self.done = dict.fromkeys(levels, 0)
        self.given: dict[int, tuple[int, int]] = {}
        """Level and part of each task that has been asked for and not told of, by its number."""

    def do(self) -> None:
        """Make them."""
        total = sum(self.due.values())
        if total:
            run_tasks(self._tasks(total), "write", None, total, self._made)

    def _tasks(self, total: int) -> Iterator[Any | None]:
        """The coarsest that can be made come first: the rest of the work waits for them."""
        begun = set()
        number = 0
        while number < total:
            level = max((k for k in self.levels if self.ready[k]), default=None)
            if level is None:
                yield None
                continue
            if level not in begun:
                begun.add(level)
                self.report(_stage(level), 0, self.due[level])
            part = self.ready[level].popleft()
            self.given[number] = level, part
            number += 1
            yield self._task(level, part)

    def _task(self, level: int, part: int) -> Any:
        if level == 0:
            return self.finest.task(self.store, part)
        *plane, row, column = self.plan.shard_at(level, part)
        box = self.plan.grid(level).box(row, column)
        # Where one shard is more of what is left than a worker's share, others would wait for the
        # one that makes it. The levels above wait for it anyhow.
        left = sum(self.left[k] * (1 if k else DRAWN) for k in self.levels if k <= level)
        much = cores_here() * math.prod(box.shape) > left
        threads = shards.MOST_THREADS if much else 1
        sizes = self.journal.receipts(level - 1, self.plan.shards(level - 1)).sizes
        below = {
            self.plan.shard_at(level - 1, int(k)): k for k in _under(self.plan, level, part).flat
        }
        written = {at[-2:]: int(sizes[k]) for at, k in below.items()}
        return delayed_call(_reduce, self.store, level, tuple(plane), box, threads, written)

    def _made(self, found: list[tuple[int, Any]]) -> None:
        rows, told = defaultdict(list), []
        for number, receipts in found:
            level, part = self.given.pop(number)
            told.append(level)
            numbers = self.finest.parts[part] if level == 0 else [part]
            each = receipts.flat[0] if isinstance(receipts, np.ndarray) else receipts
            for k, receipt in zip(numbers, each, strict=True):
                rows[level].append((int(k), int(self.keys[level][k]), *receipt))
        for level, some in rows.items():
            self.journal.enter(level, some)
            for k, *_ in some:
                self._settle(level, k)
        for level in told:
            self.done[level] += 1
            self.report(_stage(level), self.done[level], self.due[level])

    def _settle(self, level: int, number: int) -> None:
        """A shard is there: one less is missing above."""
        self.left[level] -= self._area(level, number)
        if level + 1 not in self.missing:
            return
        *plane, row, column = self.plan.shard_at(level, number)
        above = self.plan.shard_number(level + 1, (*plane, row // 2, column // 2))
        self.missing[level + 1][above] -= 1
        if self.missing[level + 1][above] == 0:
            self._let(level + 1, above)

    def _let(self, level: int, number: int) -> None:
        """All that is under a shard is there."""
        self.keys[level][number] = _key_above(self.plan, level, number, self.journal)
        self.ready[level].append(number)

    def _area(self, level: int, number: int) -> int:
        row, column = self.plan.shard_at(level, number)[-2:]
        return math.prod(self.plan.grid(level).box(row, column).shape)


def _silent(stage: str, done: int, total: int) -> None:
    """Nobody wants to know."""


def _stage(level: int) -> str:
    return f"level {level}" if level else "write"


def _large_first(parts: list[int], places: list[Any], grid: TileGrid) -> list[int]:
    """Parts at the edge last: so workers end together. ``places``: where each is in planes."""
    rows, cols = np.divmod(np.array(places, int) % math.prod(grid.grid_shape), grid.grid_shape[1])
    heights, widths = (np.array(sizes) for sizes in grid.chunks)
    return [parts[k] for k in np.argsort(-heights[rows] * widths[cols], kind="stable")]


def _reduce(*arguments: Any) -> list[Receipt]:
    return [shards.reduce_shard(*arguments)]
