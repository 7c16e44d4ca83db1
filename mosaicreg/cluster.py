"""Running tasks: on threads here, or wherever the current dask client leads; with progress."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from mosaicreg.errors import InputError

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total) as work goes on."""

IN_FLIGHT = 4
"""Tasks handed to a cluster at a time, per thread of its workers: enough to keep all busy."""


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
    threads = sum(client.nthreads().values()) or 1
    waiting = iter(enumerate(tasks))
    numbers: dict[Any, int] = {}

    def submit(count: int) -> list[Any]:
        batch = list(islice(waiting, count))
        futures = client.compute([task for _, task in batch], retries=2) if batch else []
        numbers.update((f.key, k) for f, (k, _) in zip(futures, batch, strict=True))
        return list(futures)

    completed = as_completed(submit(IN_FLIGHT * threads))
    for done, future in enumerate(completed, start=1):
        results[numbers.pop(future.key)] = future.result()
        future.release()
        report(stage, done, len(tasks))
        for following in submit(1):
            completed.add(following)
    return results


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


@contextmanager
def computing(
    scheduler: str | None = None,
    workers: int | None = None,
    memory_limit: str | None = None,
) -> Iterator[str]:
    """Compute on a cluster, on worker processes here, or on threads of this process while inside.

    Args:
        scheduler: address of a running dask scheduler.
        workers: how many; one per processor core where None.
        memory_limit: of each worker, e.g. ``"2GB"``; a limit needs worker processes.

    Yields:
        Where the work is done, in words.

    Raises:
        InputError: where the scheduler cannot be reached, or options contradict each other.
    """
    count = workers or os.cpu_count() or 1
    if count < 1:
        raise InputError(f"--workers must be at least 1, not {count}")
    if scheduler is not None:
        if workers is not None or memory_limit is not None:
            raise InputError(
                "the workers of a --scheduler are already there: leave out --workers and "
                "--memory-limit"
            )
        with _client_of(scheduler) as client:
            yield f"on {scheduler}, {len(client.nthreads())} workers"
    elif memory_limit is not None:
        with _worker_processes(count, memory_limit):
            yield f"on {count} worker processes of {memory_limit}"
    else:
        import dask

        with dask.config.set(scheduler="threads", num_workers=count):
            yield f"on {count} threads"


@contextmanager
def _client_of(address: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout=20)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(f"no dask scheduler answers at {address} ({error})") from None
    try:
        if not client.nthreads():
            try:
                client.wait_for_workers(1, timeout=60)
            except TimeoutError:
                raise InputError(f"the scheduler at {address} has had no worker for 60 s") from None
        yield client
    finally:
        client.close()


@contextmanager
def _worker_processes(count: int, memory_limit: str) -> Iterator[None]:
    import dask
    from distributed import Client, LocalCluster

    settings = {
        # Tasks keep little: hand them out as workers get free, and never spill.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=memory_limit,
            dashboard_address=None,
        ) as cluster,
        Client(cluster),
    ):
        yield
