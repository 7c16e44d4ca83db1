"""What this machine lets a process have: cores, memory, and to keep what it has freed of it."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

GROUPS = Path("/sys/fs/cgroup")
"""Linux' control groups: limits of containers and batch jobs."""
MEMBERSHIP = Path("/proc/self/cgroup")
"""Which groups this process is in."""
MEMORY_LIMITS = (
    "memory.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.max",
    "memory.high",
    "memory.low",
)
"""Files of a control group (both versions) that limit memory."""
QUOTAS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
"""Files that limit processor time: microseconds of how many."""
THREADS_OF_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""What libraries of linear algebra ask, when they are loaded, for how many threads to use."""
KEPT = 32 << 20
"""Bytes that a worker may keep of what it has freed; glibc knows no larger threshold of mmap."""

Part = TypeVar("Part", bound=Sized)
Result = TypeVar("Result")


def cores_of_process() -> int:
    """Cores that this process may use: those it is bound to, fewer where its group has a quota.

    As `dask.system.CPU_COUNT` on Linux, whose import takes a tenth of the command line's start.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux tells
        count = os.cpu_count() or 1
    for group, names in product(_groups(), QUOTAS):
        with suppress(OSError, ValueError):  # not there, or "max"
            told = " ".join((group / name).read_text("ascii") for name in names)
            quota, period = map(int, told.split())
            if quota > 0 and period > 0:
                count = min(count, -(-quota // period))
    return max(1, count)


def _groups() -> list[Path]:
    """Folders of the control groups that this process is in, and of those that hold them."""
    folders = [GROUPS, GROUPS / "cpu", GROUPS / "memory"]
    with suppress(OSError, ValueError):
        for line in MEMBERSHIP.read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):  # none in version 2
                folder = GROUPS / controller
                for part in Path(path.lstrip("/")).parts:
                    folder /= part
                    folders.append(folder)
    return folders


def memory_of_process() -> int:
    """Bytes of memory that this process may have: the machine's, or less where a group is limited.

    As `distributed.system.memory_limit` tells it, whose import takes a quarter of a second.
    """
    limits = [_memory_here()]
    for group, name in product(_groups(), MEMORY_LIMITS):
        with suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int((group / name).read_text("ascii")))
    with suppress(ImportError):  # Windows has none
        import resource

        limits.append(resource.getrlimit(resource.RLIMIT_RSS)[1])
    return min(limit for limit in limits if limit > 0)


def _memory_here() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows
        import psutil

        return int(psutil.virtual_memory().total)


def peak_memory_of(process: int | str = "self") -> int:
    """Bytes that a process has held at its peak."""
    try:
        # The system's count for a process (ru_maxrss) starts with what its parent held at the fork.
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def promptly(
    function: Callable[[Part], Result],
    parts: Sequence[Part],
    due: float,
    slack: float,
    threads: int,
) -> Iterator[Result]:
    """A function of each part, in order: in turn while these are quick, then by threads.

    What waits for a disk far away is best waited for together; where nothing waits, threads cost
    more than they save.

    Args:
        due, slack: seconds for one member of a part, and for all together beyond that.
    """
    start, late = time.perf_counter(), slack
    for number, part in enumerate(parts):
        yield function(part)
        late += len(part) * due
        if time.perf_counter() - start > late:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(threads) as pool:
                yield from pool.map(function, parts[number + 1 :])
            return


def one_blas_thread() -> AbstractContextManager[Any]:
    """From now on the libraries of linear algebra that are loaded use one thread in this process.

    Or until the result, a context, is left. Tasks, not libraries, share out the cores, and sums
    must not depend on how many threads made them. Nothing is to do where the environment says it,
    as below the command line: looking for the libraries takes some milliseconds.
    """
    if all(os.environ.get(name) == "1" for name in THREADS_OF_LIBRARIES):
        return nullcontext()
    from threadpoolctl import threadpool_limits

    limited: AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="blas")
    return limited


def keep_freed_memory() -> None:
    """Let glibc, where it is, keep what this process frees for what it asks for next.

    Threads that give memory back and ask again wait for each other in the kernel: with two threads
    it was 8 % of the CPU of 20 x 20 tiles.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    sizes = {trim_threshold: KEPT, top_pad: KEPT // 8, mmap_threshold: KEPT}
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, size in sizes.items():
            mallopt(name, size)
