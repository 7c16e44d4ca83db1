"""Running tasks: on threads or processes here, or where the current dask client leads."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import chain, islice, takewhile
from typing import Any

from mosaicreg import machine
from mosaicreg.errors import StoppedError
from mosaicreg.machine import cores_of_process, memory_of_process, peak_memory_of
from mosaicreg.processes import (
    Call,
    Finished,
    ForkedPool,
    Later,
    Workers,
    current_workers,
    hindrance,
)

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) as work goes on."""
IN_FLIGHT = 4
"""Tasks handed to a cluster at a time, per thread of its workers: enough to keep all busy."""
COUNT_EVERY = 2.0
"""Seconds between two looks at how many workers there are: clusters grow and shrink."""
WAVE = 512
"""Tasks handed to a scheduler of this process at a time."""


def run_tasks(
    tasks: Iterable[Any | None],
    stage: str,
    progress: Progress | None = None,
    total: int | None = None,
    done: Finished | None = None,
) -> list[Any]:
    """Have tasks done by the workers or the scheduler in effect; results in the tasks' order.

    Only a bounded number of tasks exists at a time, here and on a cluster, so no memory grows with
    their number. On a cluster, a task whose worker dies is done again by another.

    Args:
        tasks: as `delayed_call` makes them, or `dask.delayed` values; may be made as they are
            needed. None where the next one needs a result that has not been told: it is asked for
            again then.
        stage: what the work is called in progress reports.
        progress: told about the start and every finished task.
        total: how many tasks; counted where None.
        done: given (number, result) of tasks as they finish; then results are not kept, and an
            empty list is returned.

    Raises:
        StoppedError: where the cluster or a process forked for the work is lost.
    """
    if total is None:
        tasks = list(tasks)
        total = len(tasks)
    report = progress or (lambda stage, done, total: None)
    report(stage, 0, total)
    results: list[Any] = [None] * total if done is None else []
    count = 0

    def finished(found: list[tuple[int, Any]]) -> None:
        nonlocal count
        if done is not None:
            done(found)
        for number, result in found:
            if done is None:
                results[number] = result
            count += 1
            report(stage, count, total)

    client, workers = current_client(), current_workers()
    if client is not None:
        _run_on_client(client, tasks, finished)
    else:
        tasks = iter(tasks)
        first = _known(tasks, 1)
        tasks = chain(first, tasks)
        if workers is not None and all(isinstance(task, Call) for task in first):
            workers.run((_call(task) for task in tasks), total, finished)
        else:
            _run_here(tasks, finished, workers)
    if count != total:  # what is not done must never pass for done
        raise RuntimeError(f"{stage}: {count} of {total} tasks have been told of")
    return results


def run_before(calls: list[Call], stage: str) -> list[Later]:
    """Have a few short tasks done by the workers in effect.

    At once; but by forked processes before those of the next `run_tasks`, so that none of them
    waits for the last one.
    """
    workers = current_workers()
    if isinstance(workers, ForkedPool):
        laters = [Later(call) for call in calls]
        workers.first += laters
        return laters
    return [Later(Call(_itself, (result,))) for result in run_tasks(calls, stage)]


def _itself(value: Any) -> Any:
    return value


def delayed_call(function: Callable[..., Any], *arguments: Any) -> Any:
    """A task of `run_tasks`: a call that takes its arguments as they are, not searched.

    Where one of them is a dask collection, that is computed first, as part of the task.
    """
    if any(hasattr(type(argument), "__dask_graph__") for argument in arguments):
        return _delayed(Call(function, arguments))
    return Call(function, arguments)


def _known(tasks: Iterator[Any | None], most: int) -> list[Any]:
    """The next tasks, ``most`` of them; fewer where no more are known now, or at the end."""
    some = takewhile(lambda task: task is not None, tasks)
    return list(islice(some, most))


def _call(task: Any | None) -> Call | None:
    """A task as workers know it."""
    return task if task is None or isinstance(task, Call) else Call(_computed, (task,))


def _computed(task: Any) -> Any:
    from dask.local import get_sync

    # By its name, dask would look for a cluster first, and load distributed for it.
    return task.compute(scheduler=get_sync)


def _delayed(task: Any) -> Any:
    """A task as dask knows it."""
    from dask.delayed import delayed

    if isinstance(task, Call):
        return delayed(task.function, pure=False, traverse=False)(*task.arguments)
    return task


def current_client() -> Any | None:
    """The distributed client that dask would use now, or None for a scheduler of this process.

    Workers of this process come first: a client that is made while they are in effect is not used.
    """
    if current_workers() is not None or "distributed" not in sys.modules:
        return None
    from dask.base import get_scheduler
    from distributed import Client

    owner = getattr(get_scheduler(), "__self__", None)
    return owner if isinstance(owner, Client) else None


def dashboard_link() -> str | None:
    """Address of the dashboard of the cluster in use; None where there is none."""
    client = current_client()
    return (client.dashboard_link or None) if client is not None else None


def _run_here(tasks: Iterable[Any | None], finished: Finished, workers: Workers | None) -> None:
    """On dask's scheduler in effect; on threads, as many as there are workers, where there are."""
    from concurrent.futures import ThreadPoolExecutor

    import dask
    from dask import threaded
    from dask.base import compute
    from dask.callbacks import Callback

    tasks, before = iter(tasks), 0
    with ExitStack() as stack:
        if workers is not None:
            # A pool of our own: its threads end with it, and tasks that run are waited for.
            pool = stack.enter_context(ThreadPoolExecutor(workers.count))
            options = {"scheduler": threaded.get, "num_workers": workers.count, "pool": pool}
            stack.enter_context(dask.config.set(options))
        while some := _known(tasks, WAVE):
            wave = [_delayed(task) for task in some]
            numbers = {task.key: number for number, task in enumerate(wave, before)}
            before += len(wave)

            def after(key: Any, result: Any, *_: Any, numbers: dict[Any, int] = numbers) -> None:
                if key in numbers:
                    finished([(numbers[key], result)])

            with Callback(posttask=after), blas_threads(1):
                compute(*wave, traverse=False)


def _run_on_client(client: Any, tasks: Iterable[Any | None], finished: Finished) -> None:
    from distributed import as_completed

    tasks, before = iter(tasks), 0
    numbers: dict[Any, int] = {}

    def submit(most: int) -> list[Any]:
        nonlocal before
        batch = [_delayed(task) for task in _known(tasks, max(0, most))]
        futures = client.compute(batch, retries=2) if batch else []
        numbers.update((future.key, number) for number, future in enumerate(futures, before))
        before += len(batch)
        return list(futures)

    with _loss_told():
        room, counted = IN_FLIGHT * _threads_of(client), time.monotonic()
        completed = as_completed(submit(room))
        for found in completed.batches():
            batch = list(found)
            finished([(numbers.pop(future.key), future.result()) for future in batch])
            for future in batch:
                future.release()
            if time.monotonic() - counted > COUNT_EVERY:
                room, counted = IN_FLIGHT * _threads_of(client), time.monotonic()
            for future in submit(room - len(numbers)):
                completed.add(future)


@contextmanager
def _loss_told() -> Iterator[None]:
    """Turn what distributed raises when its scheduler is gone into a `StoppedError`."""
    import asyncio
    import concurrent.futures

    from distributed.comm.core import CommClosedError

    try:
        yield
    except (
        asyncio.CancelledError,
        concurrent.futures.CancelledError,
        CommClosedError,
    ) as error:
        # Tasks are never cancelled but when the connection is lost.
        reason = str(error) or type(error).__name__
        raise StoppedError(f"the dask scheduler was lost: {reason}") from None


def _threads_of(client: Any) -> int:
    with _loss_told():
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
        _one_blas_thread_in(os.getpid())


@cache
def _one_blas_thread_in(process: int) -> None:
    """Once in each process: looking for the libraries takes a millisecond."""
    machine.one_blas_thread()


def worker_room(count: int | None = None, memory_limit: str | None = None) -> tuple[int, int]:
    """(bytes, threads) of the smallest worker there is, or of one described.

    Args:
        count: threads or processes on this machine.
        memory_limit: of each such worker process, e.g. ``"2GB"``.
    """
    client = current_client()
    if client is not None:
        with _loss_told():
            rooms = client.run(_room).values()
        if rooms:
            return min(limit for limit, _ in rooms), max(threads for _, threads in rooms)
    if memory_limit not in (None, "auto"):
        from dask.utils import parse_bytes

        return int(parse_bytes(memory_limit)), 1
    workers = current_workers()
    count = workers.count if workers is not None else count or cores_of_process()
    if workers is not None or (count > 1 and not hindrance()):
        return memory_of_process() // count, 1
    return memory_of_process(), count


def all_threads(count: int | None = None) -> int:
    """Threads of all workers, or of this process where ``count`` does not say."""
    client, workers = current_client(), current_workers()
    if client is not None:
        return _threads_of(client)
    return workers.count if workers is not None else count or cores_of_process()


def cores_here() -> int:
    """Cores that tasks on this machine share; 1 on a cluster, where each has its own."""
    if current_client() is not None:
        return 1
    workers = current_workers()
    if workers is not None:
        return workers.count
    import dask

    return int(dask.config.get("num_workers", None) or cores_of_process())


def _room(dask_worker: Any) -> tuple[int, int]:
    """On a worker; distributed fills in the argument of this name."""
    return (
        dask_worker.memory_manager.memory_limit or memory_of_process(),
        dask_worker.state.nthreads,
    )


def peak_memory() -> int:
    """Bytes that the largest worker has held at its peak, or this process where it does the work.

    Workers that are gone are not asked.
    """
    client, workers = current_client(), current_workers()
    if client is None:
        return workers.peak_memory() if workers is not None else peak_memory_of()
    with _loss_told():
        return max(client.run(peak_memory_of).values(), default=0)
