"""Running tasks: on threads here, or wherever the current dask client leads; with progress."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) as work goes on."""

IN_FLIGHT = 4
"""Tasks handed to a cluster at a time, per thread of its workers: enough to keep all busy."""
COUNT_EVERY = 2.0
"""Seconds between two looks at how many workers there are: clusters grow and shrink."""


def run_tasks(tasks: Sequence[Any], stage: str, progress: Progress | None = None) -> list[Any]:
    """Compute `dask.delayed` tasks on the scheduler in effect; results in the order of the tasks.

    On a distributed client only a bounded number of tasks is in flight, so neither the scheduler
    nor the workers' memory grows with the number of tasks.

    Args:
        tasks: delayed values that do not depend on each other.
        stage: what the work is called in progress reports.
        progress: told about the start and every finished task.
    """
    report = progress or (lambda stage, done, total: None)
    report(stage, 0, len(tasks))
    client = current_client()
    if client is not None:
        return _run_on_client(client, tasks, stage, report)
    return _run_here(tasks, stage, report)


def delayed_call(function: Callable[..., Any], *arguments: Any) -> Any:
    """A delayed call that takes its arguments as they are: neither hashed nor searched."""
    from dask.delayed import delayed

    return delayed(function, pure=False, traverse=False)(*arguments)


def current_client() -> Any | None:
    """The distributed client that dask would use now, or None for a scheduler of this process."""
    if "distributed" not in sys.modules:
        return None
    from dask.base import get_scheduler
    from distributed import Client

    owner = getattr(get_scheduler(), "__self__", None)
    return owner if isinstance(owner, Client) else None


def _run_here(
    tasks: Sequence[Any], stage: str, report: Callable[[str, int, int], None]
) -> list[Any]:
    from dask.base import compute
    from dask.callbacks import Callback

    wanted = {task.key for task in tasks}
    done = 0

    def finished(key: Any, *_: Any) -> None:
        nonlocal done
        if key in wanted:
            done += 1
            report(stage, done, len(tasks))

    with Callback(posttask=finished), blas_threads(1):
        return list(compute(*tasks, traverse=False))


def _run_on_client(
    client: Any, tasks: Sequence[Any], stage: str, report: Callable[[str, int, int], None]
) -> list[Any]:
    from distributed import as_completed

    results: list[Any] = [None] * len(tasks)
    waiting = iter(enumerate(tasks))
    numbers: dict[Any, int] = {}

    def submit(count: int) -> list[Any]:
        batch = list(islice(waiting, max(0, count)))
        futures = client.compute([task for _, task in batch], retries=2) if batch else []
        numbers.update((f.key, k) for f, (k, _) in zip(futures, batch, strict=True))
        return list(futures)

    room, counted = IN_FLIGHT * _threads(client), time.monotonic()
    completed = as_completed(submit(room))
    for done, future in enumerate(completed, start=1):
        results[numbers.pop(future.key)] = future.result()
        future.release()
        report(stage, done, len(tasks))
        if time.monotonic() - counted > COUNT_EVERY:
            room, counted = IN_FLIGHT * _threads(client), time.monotonic()
        for following in submit(room - len(numbers)):
            completed.add(following)
    return results


def _threads(client: Any) -> int:
    return sum(client.nthreads().values()) or 1


@contextmanager
def blas_threads(limit: int) -> Iterator[None]:
    """At most ``limit`` BLAS threads in this process while inside."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=limit, user_api="blas"):
        yield


def one_blas_thread() -> None:
    """In a worker process: one BLAS thread from now on.

    Tasks, not libraries, share out the cores, and sums must not depend on how many threads made
    them.
    """
    if multiprocessing.parent_process() is not None:
        from threadpoolctl import threadpool_limits

        threadpool_limits(limits=1, user_api="blas")
