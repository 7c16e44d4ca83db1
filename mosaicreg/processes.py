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
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from multiprocessing import current_process, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from socket import SHUT_RDWR, socket
from typing import Any, Protocol

from mosaicreg.errors import StoppedError
from mosaicreg.machine import one_blas_thread, peak_memory_of

DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux' prctl."""
AHEAD = 32 << 10
"""Bytes of a task up to which it is sent to a process that is still busy: less than a line holds,
so that neither side ever waits for the other to listen."""
LAST = 8
"""So many of the last tasks for each process go to whoever is idle first, none ahead: a large one
that waits for its process while another has nothing to do makes all wait in the end."""
FORGOTTEN = None
STOPS = frozenset({signal.SIGINT, signal.SIGTERM})

Finished = Callable[[list[tuple[int, Any]]], None]
"""Called with (number, result) of tasks that have finished since the last call."""


def hindrance() -> str:
    """Why this process must not be forked now; empty where it may."""
    if sys.platform != "linux":
        return "only Linux forks safely"
    if current_process().daemon:
        return "a worker process has no workers of its own"
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

    def run(self, calls: Iterable[Call | None], total: int, finished: Finished) -> None:
        """Do all calls, and tell which have finished, as they do.

        Args:
            calls: ``total`` of them; None where the next one is not known until more have finished.
            total: how many.
            finished: told of them.
        """

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

    def run(self, calls: Iterable[Call | None], total: int, finished: Finished) -> None:
        """In turn."""
        with one_blas_thread():
            for number, call in enumerate(calls):
                assert call is not None, "all that it may depend on has been told"
                finished([(number, call())])

    def peak_memory(self) -> int:
        """Of this process."""
        return peak_memory_of()


class ForkedPool:
    """Processes for tasks that bring along all they need. They end with this one, however it ends.

    Each has a line of its own to this one, so none waits for another, nor for a thread in between.

    Args:
        count: how many; all are forked at once. Only where there is no `hindrance`.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.aside: list[Later] = []
        """What this process does when it has handed out tasks."""
        self.first: list[Later] = []
        """Tasks that come before those of the next run."""
        self._given: dict[Connection, deque[int | None]] = {}
        """Numbers of the tasks that each has not answered yet; `FORGOTTEN` where nobody waits. None
        is left when one may have been cut off within an answer."""
        self._processes: list[BaseProcess] = []
        self._lines: list[Connection] = []
        self._lock, self._in_use_by = threading.Lock(), 0
        with warnings.catch_warnings():
            # Threads of libraries that hold no lock (OpenBLAS) count, too.
            warnings.filterwarnings("ignore", "This process .* multi-threaded", DeprecationWarning)
            # A signal between two forks would leave those that are there waiting for ever.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            try:
                try:
                    for _ in range(count):
                        self._fork()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
            except BaseException:
                self.kill()
                raise

    def _fork(self) -> None:
        context = get_context("fork")
        ours, theirs = context.Pipe()
        unneeded = (*self._lines, ours)
        process = context.Process(target=_serve, args=(os.getpid(), theirs, unneeded), daemon=True)
        process.start()
        theirs.close()
        self._processes.append(process)
        self._lines.append(ours)
        self._given[ours] = deque()

    @property
    def pids(self) -> tuple[int, ...]:
        """Of all processes."""
        return tuple(process.pid or 0 for process in self._processes)

    def __enter__(self) -> ForkedPool:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the tasks at work; no other is begun."""
        for line in self._lines:
            # Others that were forked since hold our end, too: to close it would not end the line.
            with suppress(OSError), socket(fileno=os.dup(line.fileno())) as end:
                end.shutdown(SHUT_RDWR)
            line.close()
        for process in self._processes:
            process.join()

    def kill(self) -> None:
        """Wait for nothing."""
        for process in self._processes:
            process.kill()

    def run(self, calls: Iterable[Call | None], total: int, finished: Finished) -> None:
        """Each process is given one task, and one more to begin when that is done.

        The last ones wait here for whoever is idle first. Another thread's run waits for this one;
        one that is begun within another is done here.

        Raises:
            StoppedError: where a process is lost, or an earlier run was interrupted.
            RuntimeError: where there are more calls than ``total``.
        """
        if self._in_use_by == threading.get_ident():
            Alone().run(calls, total, finished)
            return
        with self._lock:
            self._in_use_by = threading.get_ident()
            try:
                self._run(calls, total, finished)
            except Exception:
                self._given = {line: deque([FORGOTTEN] * len(g)) for line, g in self._given.items()}
                raise
            except BaseException:
                self._given = {}
                raise
            finally:
                self._in_use_by = 0

    def _run(self, calls: Iterable[Call | None], total: int, finished: Finished) -> None:
        if not self._given:
            raise StoppedError("these worker processes were interrupted before; begin anew")
        first, self.first = self.first, []
        known = chain(first, calls)
        number, end = -len(first), total
        content: bytes | None = None

        def give(line: Connection, most: int) -> None:
            nonlocal number, content
            given = self._given[line]
            while len(given) < most and number < end:
                ahead = bool(given)
                if ahead and end - number <= LAST * self.count:
                    return
                if content is None:
                    if (call := next(known, None)) is None:
                        return
                    content = _packed(call)
                if ahead and len(content) > AHEAD:
                    return
                given.append(number)
                with _loss_told():
                    line.send_bytes(content)
                number, content = number + 1, None

        def give_all() -> None:
            for most in (1, 2):
                for line in self._given:
                    give(line, most)

        give_all()
        while self.aside:
            self.aside.pop(0).result()
        while number < end or any(n is not FORGOTTEN for g in self._given.values() for n in g):
            if not any(self._given.values()):
                return  # nor does anything that is at work make more known
            found, failed = [], None
            ready = wait([line for line, given in self._given.items() if given])
            for line in (line for line in self._given if line in ready):
                answer = self._answer_of(line)
                done = self._given[line].popleft()
                if done is FORGOTTEN:
                    give(line, 2)
                    continue
                try:
                    result, error, where = pickle.loads(answer)  # noqa: S301  # our own
                except Exception as unreadable:
                    error, where = unreadable, None
                if error is not None:
                    failed = error, where
                    continue
                give(line, 2)
                if done < 0:
                    first[done].settle(result)
                else:
                    found.append((done, result))
            if found:  # beside one that failed, too
                finished(found)
            if failed is not None:
                raise failed[0] from failed[1]
            give_all()  # what has been told may have made more known
        if next(known, None) is not None:
            raise RuntimeError(f"there are more than {total} tasks")

    def _answer_of(self, line: Connection) -> bytes:
        try:
            with _loss_told():
                return line.recv_bytes()
        except Exception:
            self._given = {}  # what is left of the answer would be taken for the next one
            raise

    def peak_memory(self) -> int:
        """Of the largest process."""
        return max(peak_memory_of(pid) for pid in self.pids)


def _packed(call: object) -> bytes:
    """The call as a forked process can load it: by name, or by value what that one may not have.

    That is what was defined since the fork, and modules that ``cloudpickle`` was told to treat so.
    Most calls need none, and loading it takes longer than packing them all.
    """
    loaded = sys.modules.get("cloudpickle")
    if loaded is None or not loaded.list_registry_pickle_by_value():
        with suppress(Exception):  # whatever a value may raise that has no name
            content = pickle.dumps(call, pickle.HIGHEST_PROTOCOL)
            if b"__main__" not in content:
                return content
    import cloudpickle

    packed: bytes = cloudpickle.dumps(call)
    return packed


@contextmanager
def _loss_told() -> Iterator[None]:
    """Turn the end of a process, or of its answer, into a `StoppedError`."""
    try:
        yield
    except (EOFError, OSError):
        raise StoppedError(
            "a worker process was killed, most often because memory ran out; fewer workers "
            "(--workers) need less, and with --memory-limit one that grows is started anew"
        ) from None


class Later:
    """A call that is made when its result is asked for, or before."""

    def __init__(self, call: Call) -> None:
        self._call: Call | None = call
        self._result: Any = None

    def __call__(self) -> Any:
        """Make the call."""
        return self._call() if self._call is not None else self._result

    def settle(self, result: Any) -> None:
        """The result is known."""
        self._call, self._result = None, result

    def result(self) -> Any:
        """Of the call, which is made once."""
        self.settle(self())
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


def _serve(parent: int, line: Connection, unneeded: Iterable[Connection]) -> None:
    """Do tasks, one after the other, until the line ends."""
    # Ctrl-C reaches all processes of a terminal; the first one decides, and waits for tasks.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before it could have been noticed
    for other in unneeded:
        other.close()
    one_blas_thread()
    while True:
        try:
            task = line.recv_bytes()
        except (EOFError, OSError):
            return
        answer = _answer(task)
        with suppress(OSError):  # nobody listens any more: nor is there another task
            line.send_bytes(answer)


def _answer(task: bytes) -> bytes:
    """Pickled: the result of a pickled `Call`, None, None; or None, the error, where it arose."""
    try:
        return pickle.dumps((pickle.loads(task)(), None, None))  # noqa: S301  # our own
    except BaseException as error:  # SystemExit, too
        where = RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
        if not _can_be_sent(error):
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return pickle.dumps((None, error, where))


def _can_be_sent(error: BaseException) -> bool:
    """Whether an error arrives as it is; one that does not would end the pool."""
    with suppress(Exception):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own
        return type(copy) is type(error) and str(copy) == str(error)
    return False
