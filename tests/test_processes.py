"""Forked workers: the same results and words as one thread, and no process left behind."""

from __future__ import annotations

import itertools
import operator
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import dask
import numpy as np
import pytest
import tifffile

from mosaicreg import processes
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.imagefile import read_header
from mosaicreg.journal import LOG
from mosaicreg.processes import Alone, Call, ForkedPool, hindrance, in_effect

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")

OPTIONS = ("--chunk", "32", "--shard", "128")
BEGUN = 12
"""Objects in the journal when the work has begun and is far from its end."""


@pytest.fixture(scope="module")
def tiles(acquisition, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "tiles"
    acquisition.write(folder)
    return folder


def stitch(tiles: Path, output: Path, workers: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "mosaicreg", "stitch", tiles, "-o", output]
    return subprocess.run(
        [*map(str, command), *OPTIONS, "--workers", str(workers)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def pixels(path: Path) -> dict[str, bytes]:
    """Every file of every level."""
    return {
        str(p.relative_to(path)): p.read_bytes()
        for level in path.glob("[0-9]*")
        for p in level.rglob("*")
        if p.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(tiles, tmp_path_factory) -> dict[str, bytes]:
    """What one thread writes."""
    path = tmp_path_factory.mktemp("undisturbed") / "out.ome.zarr"
    done = stitch(tiles, path, workers=1)
    assert "Working on 1 thread (" in done.stderr
    return pixels(path)


@contextmanager
def at_work(tiles: Path, output: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A job of two workers that is under way, in a process group of its own; its workers."""
    command = ("-m", "mosaicreg", "stitch", str(tiles), "-o", str(output), "--workers", "2")
    child = subprocess.Popen(
        [sys.executable, *command, *OPTIONS],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        log = output / LOG
        wait_for(lambda: log.is_dir() and len(list(log.iterdir())) >= BEGUN, child)
        processes = children(child.pid)
        assert len(processes) == 2
        yield child, processes
    finally:
        child.kill()
        child.communicate()


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(c) for task in tasks for c in (task / "children").read_text().split()]


def wait_for(condition: Callable[[], bool], child: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert child is None or child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}/cmdline").exists() and state(pid) != "Z" for pid in pids)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Code in a process of its own, where nothing else runs."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


# --- results -------------------------------------------------------------------------------------


def test_two_processes_write_what_one_thread_writes(tiles, undisturbed, tmp_path) -> None:
    path = tmp_path / "out.ome.zarr"
    done = stitch(tiles, path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"Working on 2 processes \(0\.0 GB of tiles: a small job\)", done.stderr)
    assert pixels(path) == undisturbed


def test_tasks_alone_are_done_by_workers_and_graphs_by_threads() -> None:
    code = """
import os
from dask.delayed import delayed
from mosaicreg.cluster import all_threads, current_client, delayed_call, run_tasks, worker_room
from mosaicreg.clusters import computing
whole, _ = worker_room(1)
with computing(workers=2) as place:
    assert place == "on 2 processes", place
    alone = run_tasks([delayed_call(os.getpid) for _ in range(9)], "work")
    together = run_tasks([delayed_call(max, delayed(os.getpid)(), 0) for _ in range(9)], "work")
    assert current_client() is None and all_threads(2) == 2
    assert worker_room(2) == (whole // 2, 1)
assert os.getpid() not in alone and set(alone) != set(together) == {os.getpid()}
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_tasks_of_both_kinds_may_be_mixed() -> None:
    code = """
import os
from dask.delayed import delayed
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
def plain(): return delayed_call(abs, -1)
def graph(): return delayed_call(max, delayed(abs)(-2), 0)
for workers in (1, 2):
    with computing(workers=workers):
        assert run_tasks([plain(), graph(), plain()], "work") == [1, 2, 1]
        assert run_tasks([graph(), plain(), graph()], "work") == [2, 1, 2]
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_innermost_place_to_compute_is_in_effect() -> None:
    code = """
import os, threading
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
def where():
    return set(run_tasks([delayed_call(os.getpid) for _ in range(4)], "work"))
here, kept, found = {os.getpid()}, [], []
with computing(workers=2):
    with computing(workers=2, fork=False) as place:
        assert place == "on 2 threads"
        run_tasks([delayed_call(kept.append, k) for k in range(3)], "work")
        assert sorted(kept) == [0, 1, 2]
    assert where() != here
    with computing(workers=1) as place:
        assert place == "on 1 thread" and where() == here
    thread = threading.Thread(target=lambda: found.append(where()))
    thread.start(), thread.join()
    assert found[0] and not found[0] & here  # threads see what the process has
assert where() == here
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_threads_that_do_graphs_end_with_them() -> None:
    code = """
import threading
from dask.delayed import delayed
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
for _ in range(2):
    with computing(workers=2) as place:
        assert place == "on 2 processes", place
        tasks = [delayed_call(max, delayed(abs)(-k), 0) for k in range(9)]
        assert run_tasks(tasks, "work") == list(range(9))
    assert threading.active_count() == 1
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_the_peak_is_that_of_the_largest_worker() -> None:
    code = """
import numpy as np
from mosaicreg.cluster import delayed_call, peak_memory, run_tasks
from mosaicreg.clusters import computing
with computing(workers=2):
    before = peak_memory()
    run_tasks([delayed_call(np.ones, 0)] * 2 + [delayed_call(lambda: np.ones(4 << 23).size)], "x")
    assert peak_memory() - before > 200 << 20
assert peak_memory() < 200 << 20
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_what_is_done_meanwhile_is_done_once_and_here() -> None:
    code = """
import os, time
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
from mosaicreg.processes import meanwhile
done = []
def note(word):
    done.append(word)
    return os.getpid(), time.monotonic()
def fail():
    raise ValueError("odd")
def late():
    time.sleep(0.5)
    return time.monotonic()
with computing(workers=2):
    noted = meanwhile(note, "a")
    assert done == []
    ended = run_tasks([delayed_call(late)], "work")
    assert done == ["a"]
    assert noted.result() == noted.result() and noted.result()[0] == os.getpid()
    assert noted.result()[1] < ended[0]
    meanwhile(note, "b").result()  # no task came
    assert done == ["a", "b"]
    meanwhile(fail)
    try:
        run_tasks([delayed_call(abs, -1)], "work")
    except ValueError as error:
        assert str(error) == "odd"
    else:
        raise AssertionError
    assert run_tasks([delayed_call(abs, -1)], "work") == [1]
    failed = meanwhile(fail)
    for _ in range(2):  # a failure stays one
        try:
            failed.result()
        except ValueError:
            continue
        raise AssertionError
    assert done == ["a", "b"]
with computing(workers=1):
    meanwhile(note, "c")
    assert done == ["a", "b", "c"]
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_large_tasks_and_results_never_wait_for_each_other() -> None:
    """A line holds some 200 kB: both sides would wait if both sent more at a time."""
    code = """
import numpy as np
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
sizes = [1, 3_000_000, 10, 40_000, 2_000_000, 5, 31_000, 2_000_000, 2_000_000, 1]
def doubled(values):
    return np.concatenate([values, values])
with computing(workers=2):
    for calls in (sizes * 3, sizes[::-1] * 3, sorted(sizes * 3), [3_000_000] * 8):
        images = [np.full(n, k, np.uint8) for k, n in enumerate(calls)]
        found = run_tasks([delayed_call(doubled, image) for image in images], "work")
        for k, (n, values) in enumerate(zip(calls, found, strict=True)):
            assert values.shape == (2 * n,) and (values == k).all()
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("calls", [0, 1, 2, 3, 4, 5, 9, 80])
def test_every_call_is_made_once_and_told_once(count: int, calls: int) -> None:
    told: list[tuple[int, int]] = []
    with ForkedPool(count) as pool:
        for _ in range(2):
            pool.run((Call(pow, (k, 2)) for k in range(calls)), calls, told.extend)
            assert sorted(told) == [(k, k * k) for k in range(calls)]
            told.clear()


@pytest.mark.parametrize("workers", [Alone(), None, 1, 2, 3])
def test_a_call_may_wait_for_what_others_have_found(workers) -> None:
    """Sums of two, of four, ..., each asked for as soon as both halves are told, by any workers."""
    leaves, found, ready = 64, {}, deque[Call]()
    ready.extend(Call(pow, (k, 2)) for k in range(leaves))
    names = [(0, k) for k in range(leaves)]

    def calls():
        while len(found) < 2 * leaves - 1:
            yield ready.popleft() if ready else None

    def told(some: list[tuple[int, int]]) -> None:
        for number, value in some:
            level, k = names[number]
            found[level, k] = value
            if (level, k ^ 1) in found:
                ready.append(Call(operator.add, (value, found[level, k ^ 1])))
                names.append((level + 1, k // 2))

    total = 2 * leaves - 1
    made = ForkedPool(workers) if isinstance(workers, int) else nullcontext(workers)
    with made as these, in_effect(these), dask.config.set(scheduler="threads"):
        run_tasks(calls(), "sum", None, total, told)
    assert found[6, 0] == sum(k * k for k in range(leaves))
    assert len(found) == total


@pytest.mark.parametrize("workers", [None, 2])
def test_calls_that_are_never_known_are_told_of(workers) -> None:
    tasks = itertools.chain([delayed_call(abs, -1)], itertools.repeat(None))
    made = ForkedPool(workers) if workers else nullcontext()
    with made as these, in_effect(these), pytest.raises(RuntimeError, match="work: 1 of 3 tasks"):
        run_tasks(tasks, "work", None, 3)


@pytest.mark.parametrize("workers", [Alone(), None, 2])
def test_more_calls_than_were_told_of_are_an_error(workers) -> None:
    tasks = (delayed_call(abs, k) for k in range(6))
    made = ForkedPool(workers) if isinstance(workers, int) else nullcontext(workers)
    told: list[tuple[int, int]] = []
    with made as these, in_effect(these), pytest.raises(RuntimeError, match="3 tasks"):
        run_tasks(tasks, "work", None, 3, told.extend)


def test_the_last_calls_go_to_whoever_is_idle_first() -> None:
    """None waits behind a long one while another process has nothing to do."""
    code = """
import os, time
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
def work(seconds):
    time.sleep(seconds)
    return os.getpid()
with computing(workers=2):
    for times in ([0.5, 0, 0, 0], [0, 0, 0, 0.5, 0, 0]):
        pids = run_tasks([delayed_call(work, seconds) for seconds in times], "work")
        long = times.index(0.5)
        assert pids[long] not in pids[long + 1:], (pids, times)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_what_is_done_first_is_done_by_workers_before_the_next_tasks() -> None:
    code = """
import os, time
from mosaicreg.cluster import delayed_call, run_before, run_tasks
from mosaicreg.clusters import computing
from mosaicreg.processes import Call
def when(*_):
    return os.getpid(), time.monotonic()
def fail():
    raise ValueError("odd")
with computing(workers=2):
    first = run_before([Call(when, ()), Call(when, ())], "sample")
    told = run_tasks([delayed_call(when, k) for k in range(6)], "work")
    assert len(told) == 6
    assert os.getpid() not in {p.result()[0] for p in first}
    assert min(p.result()[1] for p in first) < min(moment for _, moment in told)
    early, = run_before([Call(when, ())], "sample")
    assert early.result()[0] == os.getpid()  # asked for before any worker came to it
    assert early.result() == early.result()
    assert run_tasks([delayed_call(abs, -1)], "work") == [1]
    assert early.result()[0] == os.getpid()
    failing, = run_before([Call(fail, ())], "sample")
    try:
        run_tasks([delayed_call(abs, -1)], "work")
    except ValueError as error:
        assert str(error) == "odd" and "in a worker process" in str(error.__cause__)
    else:
        raise AssertionError
    assert run_tasks([delayed_call(abs, -1)], "work") == [1]
with computing(workers=1):
    done, = run_before([Call(when, ())], "sample")
    before = time.monotonic()
    assert done.result()[0] == os.getpid() and done.result()[1] < before
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_what_a_broken_off_run_still_answers_is_nobody_elses() -> None:
    code = """
import time
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
def work(k):
    if k == 0:
        raise ValueError
    time.sleep(0.3)
    return k
def refuse(found):
    raise OSError("full")
with computing(workers=3):
    for first, end, done, error in (
        (0, 9, None, ValueError), (1, 9, refuse, OSError), (1, 40, refuse, OSError),
    ):
        try:
            run_tasks([delayed_call(work, k) for k in range(first, end)], "work", done=done)
        except error:
            pass
        else:
            raise AssertionError
        assert run_tasks([delayed_call(abs, -k) for k in range(30)], "work") == [*range(30)]
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_an_interrupted_run_ends_the_pool_not_the_next_one() -> None:
    """An answer may have been cut off in the middle of its bytes."""
    code = """
import time
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
from mosaicreg.errors import StoppedError
def stop(found):
    raise KeyboardInterrupt
with computing(workers=2):
    try:
        run_tasks([delayed_call(abs, -k) for k in range(9)], "work", done=stop)
    except KeyboardInterrupt:
        pass
    try:
        run_tasks([delayed_call(abs, -1)], "work")
    except StoppedError as error:
        assert "interrupted before" in str(error)
    else:
        raise AssertionError
with computing(workers=2):
    assert run_tasks([delayed_call(abs, -1)], "work") == [1]
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_threads_share_a_place_to_compute_and_a_run_may_begin_within_another() -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
def squares(count):
    return run_tasks([delayed_call(pow, k, 2) for k in range(count)], "work")
def tasks():
    for k in range(5):
        assert run_tasks([delayed_call(abs, -7)], "within") == [7]
        yield delayed_call(pow, k, 2)
told = []
def done(found):
    told.extend(found)
    assert squares(3) == [0, 1, 4]
with computing(workers=2):
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(squares, [40] * 12))
    assert found == [[k * k for k in range(40)]] * 12
    assert run_tasks(tasks(), "work", total=5) == [0, 1, 4, 9, 16]
    assert run_tasks(tasks(), "work", total=5, done=done) == []
    assert sorted(told) == [(k, k * k) for k in range(5)]
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_an_answer_that_is_cut_off_or_cannot_be_read_is_not_the_next_ones() -> None:
    code = """
import os, signal, threading, time
import numpy as np
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
from mosaicreg.errors import StoppedError
class Unreadable:
    def __reduce__(self):
        return int, ("no number",)
with computing(workers=2):
    for _ in range(3):
        try:
            run_tasks([delayed_call(Unreadable)] * 9, "work")
        except ValueError as error:
            assert "no number" in str(error)
        else:
            raise AssertionError
        assert run_tasks([delayed_call(abs, -k) for k in range(9)], "work") == [*range(9)]
def die_answering():
    # The answer is longer than what a line holds, so it is cut off.
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return np.zeros(64 << 20, np.uint8)
def slowly(found):
    time.sleep(1)
with computing(workers=2):
    try:
        run_tasks([delayed_call(abs, -1), delayed_call(die_answering)], "work", done=slowly)
    except StoppedError as error:
        assert "a worker process was killed" in str(error)
    else:
        raise AssertionError
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_task_that_ends_the_program_says_so() -> None:
    code = """
import sys
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
with computing(workers=2):
    run_tasks([delayed_call(sys.exit, 7)], "work")
"""
    assert python(code).returncode == 7


def test_a_pool_that_is_dropped_leaves_no_process() -> None:
    code = """
import gc, time
from multiprocessing import active_children
from mosaicreg.processes import Call, ForkedPool
pool = ForkedPool(3)
pool.run([Call(abs, (-1,))] * 9, 9, lambda found: None)
del pool
gc.collect()
end = time.monotonic() + 20
while active_children():
    assert time.monotonic() < end
    time.sleep(0.01)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_what_was_defined_after_the_fork_is_known_there() -> None:
    """By value, since its name says nothing to a process that is older; other tasks go by name."""
    code = """
import sys
from mosaicreg.processes import Call, ForkedPool
with ForkedPool(2) as pool:
    def done(*calls):
        found = {}
        pool.run(calls, len(calls), lambda some: found.update(some))
        return [found[k] for k in range(len(calls))]
    assert done(Call(abs, (-1,)), Call(divmod, (7, 2))) == [1, (3, 1)]
    assert "cloudpickle" not in sys.modules
    def twice(x):
        return 2 * x
    class Half:
        def __call__(self, x):
            return x / 2
    within = "__main__ is but a word"
    assert done(Call(twice, (4,)), Call(Half(), (3,)), Call(lambda: within, ())) == [8, 1.5, within]
    import cloudpickle
    from types import ModuleType
    late = ModuleType("late")
    exec("def thrice(x): return 3 * x", late.__dict__)
    sys.modules["late"] = late
    cloudpickle.register_pickle_by_value(late)
    assert done(Call(late.thrice, (3,))) == [9]
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_a_worker_of_others_has_no_workers_of_its_own(tiles, tmp_path) -> None:
    """They may not be forked there: it is done on the spot."""
    code = f"""
from multiprocessing import get_context
from mosaicreg.cli import main
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
def stitch(path):
    words = ["stitch", {str(tiles)!r}, "-o", path, "--workers", "2", "--quiet"]
    main(words, standalone_mode=False)
def within():
    with computing(workers=2) as place:
        return place, run_tasks([delayed_call(abs, -1)], "work")
with get_context("fork").Pool(1) as others:
    others.map(stitch, [{str(tmp_path / "out.ome.zarr")!r}])
with computing(workers=2):
    (place, found), = run_tasks([delayed_call(within)], "work")
assert found == [1] and "a worker process has no workers of its own" in place, place
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.ome.zarr" / "zarr.json").is_file()


def test_pools_may_end_in_the_order_they_began() -> None:
    """The later one's processes hold the earlier one's lines, too."""
    code = """
from mosaicreg.processes import Call, ForkedPool
first, second = ForkedPool(2), ForkedPool(2)
for pool in (first, second):
    told = []
    pool.run([Call(abs, (-1,))] * 5, 5, told.extend)
    assert sorted(told) == [(k, 1) for k in range(5)]
first.__exit__()
assert not any(p.is_alive() for p in first._processes)
second.__exit__()
assert not any(p.is_alive() for p in second._processes)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_tiles_that_cannot_be_decoded_replace_no_archive(tiles, undisturbed, tmp_path) -> None:
    """Headers alone do not tell; the sample does, before anything is touched."""
    path, bad = tmp_path / "out.ome.zarr", tmp_path / "bad"
    assert stitch(tiles, path).returncode == 0
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    shutil.copytree(tiles, bad)
    for tile in sorted(tiles.glob("*.tif")):
        tifffile.imwrite(bad / tile.name, tifffile.imread(tile), compression="zlib")
        with tifffile.TiffFile(bad / tile.name) as file:
            (start, *_), (count, *_) = file.pages[0].dataoffsets, file.pages[0].databytecounts
        content = bytearray((bad / tile.name).read_bytes())
        content[start : start + count] = b"\xff" * count
        (bad / tile.name).write_bytes(content)
    command = [sys.executable, "-W", "error", "-m", "mosaicreg", "stitch", bad, "-o", path]
    for more in ((), ("--no-register",)):
        done = subprocess.run(
            [*map(str, command), *OPTIONS, "--workers", "2", "--overwrite", *more],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert ".tif: unreadable" in done.stderr
        assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    assert "is finished" in stitch(tiles, path).stdout


# --- where a fork is not safe --------------------------------------------------------------------


def test_what_hinders_a_fork(monkeypatch) -> None:
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread()])
    monkeypatch.delitem(sys.modules, "obstore", raising=False)
    assert hindrance() == ""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "obstore", processes)
        assert hindrance() == "connections to object stores cannot be shared"
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "darwin")
        assert hindrance() == "only Linux forks safely"
    idle = threading.Thread(name="zarr_io")
    other = threading.Thread(name="mine")
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread(), idle])
    assert hindrance() == ""
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread(), other])
    assert hindrance() == "other threads run in this process"


def test_threads_do_the_work_where_a_fork_is_not_safe_and_that_is_said() -> None:
    code = """
import os, threading
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
end = threading.Event()
threading.Thread(target=end.wait).start()
with computing(workers=2, size=10**8) as place:
    print(place)
    assert run_tasks([delayed_call(os.getpid)], "work") == [os.getpid()]
end.set()
"""
    done = python(code)
    said = "on 2 threads (0.1 GB of tiles: a small job; other threads run in this process)"
    assert done.stdout.strip() == said, done.stderr


def test_what_zarr_runs_does_not_hinder_and_works_in_workers(tmp_path) -> None:
    code = f"""
import zarr
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
path = {str(tmp_path / "a.zarr")!r}
zarr.create_array(path, shape=(9, 9), chunks=(3, 3), dtype="u1")[:] = 7
read = lambda: int(zarr.open_array(path, mode="r")[:].sum())
with computing(workers=2) as place:
    assert place == "on 2 processes"
    assert run_tasks([delayed_call(read) for _ in range(4)], "work") == [567] * 4
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


# --- errors and ends -----------------------------------------------------------------------------


def test_a_damaged_tile_is_told_in_the_same_words(acquisition, tmp_path) -> None:
    tiles = tmp_path / "tiles"
    acquisition.write(tiles)
    damaged = sorted(tiles.glob("*.tif"))[5]
    content = bytearray(damaged.read_bytes())
    header = read_header(damaged)
    damaged.write_bytes(content[: -np.prod(header.shape) // 2])
    said = {}
    for workers in (1, 2):
        done = stitch(tiles, tmp_path / f"{workers}.ome.zarr", workers)
        assert done.returncode == 2, done.stderr
        said[workers] = done.stderr.splitlines()[-1]
    assert said[1] == said[2]
    assert damaged.name in said[1]


def test_errors_of_tasks_are_the_same_errors() -> None:
    code = """
import errno
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
from mosaicreg.errors import ImageError, InputError, StorageError
def fail(error):
    raise error
full = OSError(errno.ENOSPC, "No space left on device", "/full/disk")
with computing(workers=2) as place:
    assert place == "on 2 processes"
    for error in (InputError("odd", ["tile 7"]), ImageError("a.tif: odd"), StorageError("x"), full):
        try:
            run_tasks([delayed_call(fail, error)], "work")
        except Exception as found:
            assert type(found) is type(error) and str(found) == str(error), found
            assert vars(found) == vars(error)
            assert getattr(found, "filename", None) == getattr(error, "filename", None)
            assert getattr(found, "errno", None) == getattr(error, "errno", None)
        else:
            raise AssertionError(error)
    assert run_tasks([delayed_call(abs, -1)], "work") == [1]
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_errors_that_cannot_be_sent_arrive_in_words() -> None:
    """They would end the pool, and be taken for a worker that was killed."""
    code = """
import threading
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
class Two(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
def fail_two():
    raise Two("one", "two")
def fail_local():
    class Local(Exception): ...
    raise Local("far away")
def fail_locked():
    error = ValueError("locked")
    error.lock = threading.Lock()
    raise error
with computing(workers=2):
    for fail, words in (
        (fail_two, "Two: one and two"), (fail_local, "Local: far away"),
        (fail_locked, "ValueError: locked"),
    ):
        try:
            run_tasks([delayed_call(fail)], "work")
        except RuntimeError as found:
            assert str(found) == words, found
        else:
            raise AssertionError(words)
    assert run_tasks([delayed_call(abs, -1)], "work") == [1]
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_what_is_done_beside_a_failing_task_is_told() -> None:
    code = """
import time
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.clusters import computing
def work(k):
    if k == 1:
        raise ValueError("one")
    return k
told = []
def slowly(found):
    told.extend(found)
    time.sleep(0.5)  # meanwhile both of the next tasks end
with computing(workers=2):
    try:
        run_tasks([delayed_call(work, k) for k in (2, 3, 4, 1)], "work", done=slowly)
    except ValueError:
        assert sorted(k for k, _ in told) == [0, 1, 2], told
    else:
        raise AssertionError
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_a_signal_while_forking_leaves_nothing_behind() -> None:
    code = """
import os, signal
from multiprocessing import active_children
from mosaicreg.processes import ForkedPool
forked = []
class Interrupted(ForkedPool):
    def _fork(self):
        super()._fork()
        forked.append(os.kill(os.getpid(), signal.SIGINT))
try:
    Interrupted(3)
except KeyboardInterrupt:
    assert len(forked) == 3  # not before all were there
    for child in active_children():
        child.join(10)
    assert not active_children()
else:
    raise AssertionError
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_as_a_terminal_stops_it(sent, code, tiles, undisturbed, tmp_path) -> None:
    """The signal reaches the workers, too."""
    path = tmp_path / "out.ome.zarr"
    with at_work(tiles, path) as (child, processes):
        os.killpg(child.pid, sent)
        _, said = child.communicate(timeout=60)
        assert child.returncode == code
        assert gone(processes)
    assert said.endswith("What is finished is kept; run the same command again to go on.\n")
    assert "Traceback" not in said
    again = stitch(tiles, path)
    assert again.returncode == 0, again.stderr
    assert pixels(path) == undisturbed


def test_workers_end_with_a_process_that_is_killed(tiles, undisturbed, tmp_path) -> None:
    path = tmp_path / "out.ome.zarr"
    with at_work(tiles, path) as (child, processes):
        child.kill()
        wait_for(lambda: gone(processes))
    assert stitch(tiles, path).returncode == 0
    assert pixels(path) == undisturbed


def test_a_killed_worker_stops_the_job_which_says_what_to_do(tiles, undisturbed, tmp_path) -> None:
    path = tmp_path / "out.ome.zarr"
    with at_work(tiles, path) as (child, processes):
        os.kill(processes[0], signal.SIGKILL)
        _, said = child.communicate(timeout=60)
        assert child.returncode == 4
        assert gone(processes)
    assert "mosaicreg: a worker process was killed, most often because memory ran out" in said
    assert "--workers" in said
    assert "--memory-limit" in said
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    assert stitch(tiles, path, workers=1).returncode == 0
    assert pixels(path) == undisturbed
