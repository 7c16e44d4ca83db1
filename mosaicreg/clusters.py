"""Making clusters: from a scheduler's address, from a cluster file, or on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaicreg.errors import InputError, MissingExtraError, StoppedError, missing_extra
from mosaicreg.imagefile import write_atomically
from mosaicreg.machine import cores_of_process, keep_freed_memory
from mosaicreg.objects import AnyPath
from mosaicreg.processes import Alone, ForkedPool, hindrance, in_effect

if TYPE_CHECKING:
    from mosaicreg.clusterfile import ClusterFile, Kind

LARGE = 4 << 30
"""Bytes of all tiles from which on worker processes are worth their start of a few seconds."""
EARNED = 64 << 20
"""Bytes of tiles for which one more forked process pays: some tenths of a second of work."""
CONNECT = 20.0
"""Seconds that a scheduler may take to answer."""
ALIKE = ("mosaicreg", "numpy", "scipy", "zarr")
"""Packages whose versions should not differ between machines: results would."""


@contextmanager
def computing(
    scheduler: str | None = None,
    cluster: str | Path | None = None,
    workers: int | None = None,
    memory_limit: str | None = None,
    size: int = 0,
    tell: Callable[[str], None] = lambda words: None,
    fork: bool = True,
) -> Iterator[str]:
    """Compute on a cluster, or on processes or threads of this machine while inside.

    Args:
        scheduler: address of a running dask scheduler, ``tcp://...`` or ``tls://...``; TLS
            certificates come from dask's configuration (``distributed.comm.tls``).
        cluster: a cluster file.
        workers: how many on this machine; where None, one per processor core, but no more than
            there is work for.
        memory_limit: of each worker, e.g. ``"2GB"``; a limit needs worker processes.
        size: bytes of all tiles: from `LARGE` on, this machine computes with a cluster of its own.
        tell: told what is waited for.
        fork: below that, have tasks done by processes forked from this one, where that is safe.
            Pass False where tasks change what is in this process's memory, or graphs of dask arrays
            are computed, whose tasks hand pixels on to others: then threads do all.

    Yields:
        Where the work is done and, where there was a choice, why; in words.

    Raises:
        InputError: where the scheduler cannot be reached, the cluster file is wrong, no worker
            comes, workers lack mosaicreg, or options contradict each other.
        MissingExtraError: where the kind of cluster needs a package that is not installed.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers must be at least 1, not {workers}")
    given = [
        name
        for name, value in (
            ("--scheduler", scheduler),
            ("--cluster", cluster),
            ("--workers or --memory-limit", workers or memory_limit),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise InputError(f"{' and '.join(given)} contradict each other: give one of them")
    if scheduler is not None:
        with _client_of(scheduler, tell) as client:
            yield f"on {scheduler}, {_count(client)}"
    elif cluster is not None:
        from mosaicreg.clusterfile import read_cluster_file

        file = read_cluster_file(Path(cluster))
        with _started(file) as made, _client_of(made, tell, file.wait) as client:
            yield f"on the {file.kind} cluster of {file.path.name}, {_count(client)}"
    else:
        with _this_machine(workers, memory_limit, size, fork) as words:
            yield words


@contextmanager
def _this_machine(
    workers: int | None, memory_limit: str | None, size: int, fork: bool
) -> Iterator[str]:
    count = workers or cores_of_process()
    amount = f"{size / 1e9:.1f} GB of tiles"
    if memory_limit is None and size < LARGE:
        if workers is None and size:
            count = min(count, max(1, size // EARNED))
        obstacle = hindrance() if fork and count > 1 else ""
        keep_freed_memory()
        reasons = [f"{amount}: a small job"] * bool(size) + [obstacle] * bool(obstacle)
        said = f" ({'; '.join(reasons)})" if reasons else ""
        kind = "process" if fork and count > 1 and not obstacle else "thread"
        with _workers(count, kind == "process") if fork and not obstacle else _threads(count):
            yield f"on {_number(count, kind)}{said}"
        return
    from mosaicreg.clusterfile import SETTINGS, ClusterFile

    if memory_limit is None:
        why = f"({amount}: a large job)"
    else:
        why = f"of {memory_limit}"
    options = {
        "n_workers": count,
        "threads_per_worker": 1,
        "memory_limit": memory_limit or "auto",
        "dashboard_address": ":0",
    }
    file = ClusterFile(Path(), "local", options, dask=SETTINGS)
    with _started(file) as made, _client_of(made, lambda words: None):
        yield f"on {_number(count, 'worker process')} {why}"


@contextmanager
def _workers(count: int, forked: bool) -> Iterator[None]:
    """Forked processes, or this one alone, do the tasks while inside."""
    with (
        ForkedPool(count) if forked else nullcontext(Alone()) as made,
        # Where dask is not loaded, nothing of its own will be computed.
        _threads(count) if "dask" in sys.modules else nullcontext(),
        in_effect(made),
    ):
        yield


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Threads do the tasks while inside, and all that is computed by dask."""
    from concurrent.futures import ThreadPoolExecutor

    import dask
    from dask import threaded

    with (
        # A pool of our own: when the job is stopped, tasks that run are waited for.
        ThreadPoolExecutor(count) as pool,
        # By its name, dask would look for a cluster first, and load distributed for it.
        dask.config.set(scheduler=threaded.get, num_workers=count, pool=pool),
        in_effect(None),
    ):
        yield


@contextmanager
def _started(file: ClusterFile) -> Iterator[Any]:
    """The cluster that a file describes, while inside."""
    import dask
    import distributed  # noqa: F401  # its defaults come first: what is set before goes with them

    from mosaicreg.clusterfile import KINDS

    kind = KINDS[file.kind]
    with dask.config.set(dict(file.dask)):
        try:
            make = getattr(import_module(kind.module), kind.name)
            cluster = make(**file.arguments())
        except ImportError as error:
            raise _missing(kind, error) from error
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            reason = str(error).strip() or type(error).__name__
            where = f"{file.path}: " if file.path.name else ""
            raise InputError(
                f"{where}no {file.kind} cluster can be made with these options: {reason}"
            ) from error
        try:
            if file.adapt is not None:
                cluster.adapt(**file.adapt)
            elif file.scale is not None and kind.batch:
                # A job that dies is replaced by an adaptive cluster only, not by a scaled one.
                cluster.adapt(minimum=file.scale, maximum=file.scale)
            elif file.scale is not None:
                cluster.scale(file.scale)
            yield cluster
        finally:
            cluster.close()


def _missing(kind: Kind, error: ImportError) -> ImportError:
    """What to say where a package is not there."""
    if isinstance(error, MissingExtraError) or not kind.extra:
        return error
    return missing_extra(kind.package, kind.extra, f"a cluster of kind {kind.name}")


@contextmanager
def _client_of(place: Any, tell: Callable[[str], None], wait: float = 60) -> Iterator[Any]:
    """A client of an address or a cluster that has at least one worker, fit for the work."""
    import logging

    from distributed import Client

    try:
        client = Client(place, timeout=CONNECT)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"no dask scheduler answers at {place} ({error}); the address starts with tls:// where "
            "it wants TLS, and the certificates come from DASK_DISTRIBUTED__COMM__TLS__..."
        ) from None
    # A lost connection is told in our words; distributed would log where it noticed, call by call.
    log = logging.getLogger("distributed.batched")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        if not client.nthreads():
            tell(f"Waiting for the first worker, {wait:.0f} s at most")
            try:
                client.wait_for_workers(1, timeout=wait)
            except TimeoutError:
                name = place if isinstance(place, str) else "the cluster"
                raise InputError(f"{name} has had no worker for {wait:.0f} s") from None
        _check_versions(client, tell)
        with in_effect(None):
            yield client
    except StoppedError:
        # That the scheduler is gone is said once; distributed would log a farewell that fails.
        logging.disable(logging.CRITICAL)
        client.close()
        logging.disable(logging.NOTSET)
        raise
    finally:
        client.close()
        log.setLevel(level)


def _count(client: Any) -> str:
    return f"{_number(len(client.nthreads()), 'worker')} so far"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('s') else 's'}"


def _check_versions(client: Any, tell: Callable[[str], None]) -> None:
    """All workers must have this mosaicreg, and should have the same of what its results need."""
    found = client.get_versions(packages=list(ALIKE))
    here = found["client"]["packages"]
    bad, odd = [], []
    for address, facts in sorted(found["workers"].items()):
        there = facts["packages"]
        if there["mosaicreg"] != here["mosaicreg"]:
            bad.append(f"{address} has {there['mosaicreg'] or 'none'}, here is {here['mosaicreg']}")
        odd += [
            f"{address}: {name} {there[name]}, here {here[name]}"
            for name in ALIKE[1:]
            if there[name] != here[name]
        ]
    if bad:
        raise InputError("workers need the same mosaicreg as this machine", bad)
    if odd:
        tell("Versions differ, and so may results: " + "; ".join(odd[:5]))


def check_shared(folders: Sequence[AnyPath], output: AnyPath | None = None) -> None:
    """Make sure that the workers of the current client see the same folders under the same paths.

    Asks one worker on each host. Nothing is asked where there is no cluster.

    Args:
        folders: that are read.
        output: a file or folder to be written; a small file is put beside it for a moment.

    Raises:
        InputError: which host does not see which folder.
    """
    from mosaicreg.cluster import current_client

    client = current_client()
    if client is None:
        return
    hosts = {address.rsplit(":", 1)[0]: address for address in client.nthreads()}
    # Object stores look the same from everywhere.
    wanted = [str(f.absolute()) for f in folders if isinstance(f, Path)]
    mark = None
    if isinstance(output, Path):
        parent = output.absolute().parent
        mark = parent / f".{output.name}.seen-by-workers"
        write_atomically(mark, b"")
        wanted.append(str(mark))
    if not wanted:
        return
    try:
        seen = client.run(_exist, wanted, workers=list(hosts.values()))
    finally:
        if mark is not None:
            mark.unlink(missing_ok=True)
    problems = [
        f"{host.split('//')[-1]} does not see {Path(path).parent if path == str(mark) else path}"
        for host, address in hosts.items()
        for path, there in zip(wanted, seen[address], strict=True)
        if not there
    ]
    if problems:
        raise InputError(
            "workers must see tiles and output under the same paths as this machine (a shared "
            "file system), or both must be object stores (s3://...)",
            problems,
        )


def _exist(paths: list[str]) -> list[bool]:
    return [Path(p).exists() for p in paths]
