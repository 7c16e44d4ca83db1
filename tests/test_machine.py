"""What a process may have: the machine's, or what it is bound to and its control group allows."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from dask.system import CPU_COUNT

from mosaicreg import machine
from mosaicreg.machine import cores_of_process, memory_of_process, peak_memory_of, promptly


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups without limits; on 8 cores."""
    monkeypatch.setattr(machine, "GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "memory").mkdir()
    return tmp_path


def test_cores_are_those_that_dask_counts() -> None:
    assert cores_of_process() == CPU_COUNT


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "1000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu.max": "what\n"}, 8),
    ],
)
def test_a_quota_of_processor_time_is_kept(groups: Path, files: dict[str, str], cores: int) -> None:
    for name, content in files.items():
        (groups / name).write_text(content, encoding="ascii")
    assert cores_of_process() == cores


@pytest.mark.parametrize(
    ("membership", "folder", "files"),
    [
        ("0::/job.slice/mine\n", "job.slice/mine", {"cpu.max": "200000 100000"}),
        ("0::/job.slice/mine\n", "job.slice", {"cpu.max": "200000 100000"}),
        (
            "3:freezer:/\n2:cpu,cpuacct:/a:b/c\n",
            "cpu/a:b/c",
            {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"},
        ),
    ],
)
def test_limits_of_the_own_group_and_of_those_around_it_are_kept(
    groups: Path, membership: str, folder: str, files: dict[str, str]
) -> None:
    (groups / "membership").write_text(membership, encoding="utf-8")
    (groups / folder).mkdir(parents=True)
    for name, content in files.items():
        (groups / folder / name).write_text(content, encoding="ascii")
    assert cores_of_process() == 2
    (groups / folder / "memory.max").write_text("123456789\n", encoding="ascii")
    assert memory_of_process() == 123456789


def test_memory_is_the_machines_or_less_where_a_group_is_limited(groups: Path) -> None:
    whole = memory_of_process()
    assert whole == psutil.virtual_memory().total
    (groups / "memory.high").write_text("max\n", encoding="ascii")
    assert memory_of_process() == whole
    (groups / "memory.max").write_text("123456789\n", encoding="ascii")
    assert memory_of_process() == 123456789
    (groups / "memory" / "memory.limit_in_bytes").write_text("23456789\n", encoding="ascii")
    assert memory_of_process() == 23456789


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other processes")
def test_the_peak_of_a_process_is_at_least_what_it_holds() -> None:
    assert peak_memory_of() >= psutil.Process().memory_info().rss
    assert peak_memory_of(os.getpid()) == pytest.approx(peak_memory_of(), rel=0.1)


@pytest.mark.parametrize(("quick", "in_turn"), [(0, 1), (5, 7), (10, 10)])
def test_what_waits_is_waited_for_together_and_comes_in_order(
    quick: int, in_turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow from one part on, or never: nothing is done twice, and quick work starts no thread.

    A slow part takes 20 ms and is due after 2, the slack is 10 ms and each quick part leaves 2.
    """
    clock = [0.0]
    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    done = list[tuple[int, threading.Thread]]()

    def doubled(part: list[int]) -> list[int]:
        done.append((part[0], threading.current_thread()))
        clock[0] += 0.02 if part[0] >= 2 * quick else 0
        return [2 * k for k in part]

    parts = [[k, k + 1] for k in range(0, 20, 2)]
    told = list(promptly(doubled, parts, due=1e-3, slack=1e-2, threads=4))
    assert told == [[2 * first, 2 * last] for first, last in parts]
    assert sorted(first for first, _ in done) == [first for first, _ in parts]
    here = [first for first, thread in done if thread is threading.main_thread()]
    assert here == [first for first, _ in parts[:in_turn]]


def test_a_failure_is_that_of_the_first_part_that_fails() -> None:
    def fails(part: str) -> str:
        time.sleep(0.005)
        if part in "cd":
            raise ValueError(part)
        return part

    ways = promptly(fails, "abcd", due=0, slack=0, threads=4)
    assert [next(ways), next(ways)] == ["a", "b"]
    with pytest.raises(ValueError, match="c"):
        next(ways)


@pytest.mark.parametrize("late", [False, True])
def test_libraries_use_one_thread_where_tasks_share_out_the_cores(late: bool) -> None:
    """Because the command says so before they are loaded, or because they are told."""
    code = f"""
import os, sys
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.pop(name, None)
if {late}:
    import numpy
from mosaicreg.cli import main
from mosaicreg.machine import one_blas_thread
main.callback()
import numpy
one_blas_thread()
from threadpoolctl import threadpool_info
print(*[about["num_threads"] for about in threadpool_info() if about["user_api"] == "blas"])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert set(done.stdout.split()) == {"1"}
