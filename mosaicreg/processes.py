"""Workers of this machine without dask in between: processes forked from this one, or it alone.

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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any, Protocol

from mosaicreg.errors import StoppedError
from mosaicreg.machine import peak_memory_of

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""
HANDED_OUT = 0.005
"""Seconds after which the first tasks have reached their processes."""
STOPS = frozenset({signal.SIGINT, signal.SIGTERM})

Finished = Callable[[list[tuple[int, Any]]], None]
"""Called with (number, result) of tasks that have finished since the last call."""


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


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments: a task that depends on no other."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __call__(self) -> Any:
        """Do it."""
        return self.function(*self.arguments)


class Workers(Protocol):
    """Who does the tasks of this process."""

    @property
    def count(self) -> int:
        """How many tasks are done at a time."""

    def run(self, calls: Iterable[Call], finished: Finished) -> None:
        """Do all calls, and tell which have finished, as they do."""

    def peak_memory(self) -> int:
        """Bytes that the largest process has held at its peak."""


_IN_EFFECT: list[list[Workers | None]] = []
"""Innermost last. Of the process, not of a thread or a context: as dask's scheduler is, for which
workers stand in, and as a fork is."""


@contextmanager
def in_effect(workers: Workers | None) -> Iterator[None]:
    """Have these workers do the tasks of this process while inside; None: whoever dask names."""
    entry = [workers]  # one of its own: contexts need not end in the order they began
    _IN_EFFECT.append(entry)
    try:
        yield
    finally:
        _IN_EFFECT[:] = [other for other in _IN_EFFECT if other is not entry]


def current_workers() -> Workers | None:
    """Those that `mosaicreg.clusters.computing` has made; where None, dask does the tasks."""
    return _IN_EFFECT[-1][0] if _IN_EFFECT else None


class Alone:
    """This process does one task after the other."""

    count = 1

    def run(self, calls: Iterable[Call], finished: Finished) -> None:
        """In turn."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1, user_api="blas"):
            for number, call in enumerate(calls):
                finished([(number, call())])

    def peak_memory(self) -> int:
        """Of this process."""
        return peak_memory_of()


class ForkedPool(ProcessPoolExecutor):
    """Processes for tasks that bring along all they need. They end with this one, however it ends.

    Args:
        count: how many; all are forked at once. Only where there is no `hindrance`.
    """

    def __init__(self, count: int) -> None:
        # What is loaded now is shared; what is not, each process would load for itself.
        import cloudpickle  # noqa: F401
        import threadpoolctl  # noqa: F401

        self.count = count
        self.aside: list[Later] = []
        super().__init__(
            count, mp_context=get_context("fork"), initializer=_begin, initargs=(os.getpid(),)
        )
        with warnings.catch_warnings():
            # Threads of libraries that hold no lock (OpenBLAS) count, too.
            warnings.filterwarnings("ignore", "This process .* multi-threaded", DeprecationWarning)
            # A signal between two forks would leave those that are there waiting for ever.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            try:
                self.submit(os.getpid)  # the first task is what forks all of them
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.pids = tuple(self._processes or ())

    def run(self, calls: Iterable[Call], finished: Finished) -> None:
        """As many as there are processes are handed out: to stop waits for no more than those.

        Raises:
            StoppedError: where a process is lost.
        """
        import cloudpickle

        waiting = iter(enumerate(calls))
        running: dict[Future[Any], int] = {}

        def start(count: int) -> None:
            for number, call in islice(waiting, count):
                running[self.submit(_compute, cloudpickle.dumps(call))] = number

        with self.loss_told():
            start(self.count)
            if self.aside:
                wait(running, HANDED_OUT)  # else this thread would hold up those that hand out
                while self.aside:
                    self.aside.pop(0).result()
            while running:
                ready = wait(running, None, FIRST_COMPLETED)[0]
                failed = [f for f in ready if f.exception() is not None]
                found = [(running.pop(f), f.result()) for f in ready if f not in failed]
                if failed:
                    finished(found)  # what is done is kept
                    failed[0].result()
                start(len(found))
                finished(found)

    def peak_memory(self) -> int:
        """Of the largest process."""
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


class Later:
    """A call that is made when its result is asked for, or before."""

    def __init__(self, call: Call) -> None:
        self._call: Call | None = call
        self._result: Any = None

    def result(self) -> Any:
        """Of the call, which is made once."""
        if self._call is not None:
            self._result = self._call()
            self._call = None
        return self._result


def meanwhile(function: Callable[..., Any], *arguments: Any) -> Later:
    """Have this process do something of its own while others are busy; at once where none are.

    It is done when processes have been handed their next tasks.
    """
    later, workers = Later(Call(function, arguments)), current_workers()
    if isinstance(workers, ForkedPool):
        workers.aside.append(later)
    else:
        later.result()
    return later


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
    try:
        return pickle.loads(task)()  # noqa: S301  # our own
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
