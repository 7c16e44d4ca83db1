"""Running tasks: in order, bounded, with progress, on threads and on a cluster."""

from __future__ import annotations

import subprocess
import sys
import warnings

import dask
import numpy as np
import pytest

from mosaicreg import InputError, cluster, register
from mosaicreg.cluster import (
    all_threads,
    current_client,
    delayed_call,
    peak_memory,
    run_tasks,
    worker_room,
)
from mosaicreg.errors import StoppedError


def double(value: int) -> int:
    return 2 * value


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_results_come_in_the_order_of_the_tasks(scheduler) -> None:
    tasks = [delayed_call(double, k) for k in range(20)]
    said = []
    with dask.config.set(scheduler=scheduler, num_workers=2):
        found = run_tasks(tasks, "work", lambda *report: said.append(report))
    assert found == [2 * k for k in range(20)]
    assert said == [("work", k, 20) for k in range(21)]


def doubled(chains: int) -> int:
    """Sum of as many ones, each doubled seven times, a task known when the one before is told."""
    waiting, last = [1] * chains, []
    values: list[int] = []

    def tasks():
        while len(values) < 7 * chains:
            if waiting:
                values.append(waiting.pop(0))
                yield delayed_call(double, values[-1])
            else:
                yield None

    def told(found: list[tuple[int, int]]) -> None:
        for number, value in found:
            assert value == 2 * values[number]
            (waiting if value < 2**7 else last).append(value)

    run_tasks(tasks(), "work", None, 7 * chains, told)
    assert len(last) == chains
    return sum(last)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_tasks_may_depend_on_what_was_told(scheduler) -> None:
    with dask.config.set(scheduler=scheduler, num_workers=2):
        assert doubled(5) == 5 * 2**7
        assert doubled(cluster.WAVE + 1) == (cluster.WAVE + 1) * 2**7


def test_no_tasks_are_no_work() -> None:
    assert run_tasks([], "work") == []


def test_a_cluster_is_used_when_it_is_there(acquisition) -> None:
    from distributed import Client, LocalCluster

    expected = register(acquisition.mosaic)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        assert current_client() is client
        said = []
        tasks = [delayed_call(double, k) for k in range(30)]
        found = run_tasks(tasks, "work", lambda *report: said.append(report))
        assert found == [2 * k for k in range(30)]
        assert said[-1] == ("work", 30, 30)
        assert doubled(100) == 100 * 2**7
        pairs = register(acquisition.mosaic)
        with warnings.catch_warnings(), dask.config.set(scheduler="threads"):
            warnings.simplefilter("ignore")  # older dask thinks that this cannot be meant
            assert current_client() is None
    for a, b in zip(expected.columns().values(), pairs.columns().values(), strict=True):
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    assert current_client() is None


def test_an_error_in_a_task_is_that_error() -> None:
    def fail() -> None:
        raise InputError("tile 7 is odd")

    with pytest.raises(InputError, match="tile 7 is odd"):
        run_tasks([delayed_call(fail)], "work")


def test_a_small_job_does_not_load_distributed(tmp_path) -> None:
    """It would take a fifth of a second of each; dask loads it to look for a cluster."""
    code = (
        "import sys; from mosaicreg.clusters import computing; "
        "from mosaicreg.cluster import delayed_call, run_tasks\n"
        "with computing(workers=2): assert run_tasks([delayed_call(abs, -1)], 'work') == [1]\n"
        "assert 'distributed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_how_much_memory_there_is_is_known_without_distributed() -> None:
    """Every command asks; loading distributed for it would cost a fifth of the start."""
    code = (
        "import sys; from mosaicreg.cluster import worker_room; print(*worker_room(1));"
        "assert 'distributed' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    from distributed.system import memory_limit

    assert int(done.stdout.split()[0]) == memory_limit()


def test_a_scheduler_that_is_lost_between_two_stages_is_said(monkeypatch) -> None:
    from distributed.comm.core import CommClosedError

    class Gone:
        def nthreads(self) -> None:
            raise CommClosedError("pool closing")

        def run(self, function) -> None:
            raise CommClosedError("pool closing")

    monkeypatch.setattr(cluster, "current_client", Gone)
    for ask in (lambda: run_tasks([], "write"), all_threads, peak_memory, worker_room):
        with pytest.raises(StoppedError, match="the dask scheduler was lost: pool closing"):
            ask()
