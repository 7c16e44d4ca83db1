"""Worker processes forked from this one: there at once, and without a lock that all wait for.

Threads of one process wait for each other wherever Python itself works. A fork shares what is
loaded, so it starts in milliseconds, but it may happen only while nothing else runs here.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mosaicreg.errors import StoppedError

KEPT = 32 << 20
"""Bytes that a worker may keep of what it has freed; glibc knows no larger threshold of mmap."""
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""
STOPS = frozenset({signal.SIGINT, signal.SIGTERM})


def hindrance() -> str:
    """Why this process must not be forked now; empty where it may."""
    if sys.platform != "linux":
        return "only Linux forks safely"
    if "obstore" in sys.modules:
        return "connections to object stores cannot be shared"  # nor do its threads live on
    # zarr's own wait for work (files are read by those of its loop), and start anew in a fork.
    names = {t.name for t in threading.enumerate()} - {threading.main_thread().name}
    zarrs = "zarr_io" in names
    names -= {"zarr_io"}
    idle = ("zarr_pool", "asyncio_") if zarrs else ("zarr_pool",)
    if not all(name.startswith(idle) for name in names):
        return "other threads run in this process"
    return ""


class ForkedPool(ProcessPoolExecutor):
    """Processes for tasks that bring along all they need. They end with this one, however it ends.

    Args:
        count: how many; all are forked at once. Only where there is no `hindrance`.
    """

    def __init__(self, count: int) -> None:
        # What is loaded now is shared; what is not, each process would load for itself.
        import cloudpickle  # noqa: F401
        import dask.delayed
        import dask.local  # noqa: F401

        self.count = count
        keep_freed_memory()
        super().__init__(
            count, mp_context=get_context("fork"), initializer=_begin, initargs=(os.getpid(),)
        )
        with warnings.catch_warnings():
            # Threads of libraries that hold no lock (OpenBLAS) count, too.
            warnings.filterwarnings("ignore", "This process .* multi-threaded", DeprecationWarning)
            # A signal between two forks would leave those that are there waiting for ever.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            try:
                first = self.submit(os.getpid)  # the first task is what forks all of them
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            with self.loss_told():
                first.result()
        self.pids = tuple(self._processes or ())

    def start(self, task: Any) -> Future[Any]:
        """Have a `dask.delayed` task computed by one process."""
        import cloudpickle

        return self.submit(_compute, cloudpickle.dumps(task))

    def get(self, graph: Any, keys: Any, **options: Any) -> Any:
        """Dask's scheduler for all else: threads, which need not be sent what tasks hand on."""
        from dask import threaded

        return threaded.get(graph, keys, **options)

    def peak_memory(self) -> int:
        """Bytes that the largest process has held at its peak."""
        return max(peak_memory_of(pid) for pid in self.pids)

    @contextmanager
    def loss_told(self) -> Iterator[None]:
        """Turn the end of a process into a `StoppedError`."""
        try:
            yield
        except BrokenProcessPool:
            raise StoppedError(
                "a worker process was killed, most often because memory ran out; fewer workers "
                "(--workers) need less, and with --memory-limit one that grows is started anew"
            ) from None


def _begin(parent: int) -> None:
    """In a new worker."""
    # Ctrl-C reaches all processes of a terminal; the first one decides, and waits for tasks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before it could have been noticed
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=1, user_api="blas")


def _compute(task: bytes) -> Any:
    import cloudpickle
    from dask.local import get_sync

    # By its name, dask would look for a cluster first, and load distributed for it.
    try:
        return cloudpickle.loads(task).compute(scheduler=get_sync)
    except Exception as error:
        if _can_be_sent(error):
            raise
        words = f"{type(error).__name__}: {error}"
    raise RuntimeError(words)  # out here it has no context, which would be sent along


def _can_be_sent(error: Exception) -> bool:
    """Whether an error arrives as it is; one that does not would end the pool."""
    with suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
        return type(copy) is type(error) and str(copy) == str(error)
    return False


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
