"""What the commands share: errors for people, a place to compute, checks, the last words."""

from __future__ import annotations

import errno
import os
import platform
import shlex
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mosaicreg.cli import BAD_INPUT, DOUBTFUL, INTERRUPTED, TERMINATED, UNFINISHED

if TYPE_CHECKING:
    from mosaicreg.journal import Journal
    from mosaicreg.layout import Layout
    from mosaicreg.mosaic import Mosaic
    from mosaicreg.objects import AnyPath
    from mosaicreg.planning import JobPlan
    from mosaicreg.processes import Later


NOT_THE_JOB = frozenset(
    ("scheduler", "cluster", "workers", "memory_limit", "quiet", "log_file", "overwrite", "repair",
     "layout_out", "report", "max_doubtful")
)  # fmt: skip
"""Options that do not change what is in the archive. All others make another job."""
AFTER_LAYOUT = frozenset(
    ("blend", "interpolation", "fill", "chunk", "shard", "ome_version", "no_pyramid")
)
"""Options that change the archive, but not the layout."""


LIBRARIES = ("dask", "distributed", "numpy", "scipy", "tifffile", "imagecodecs", "zarr")
"""Whose versions are stored with a result."""


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Turn errors that people can mend, and being stopped, into a message and an exit code."""
    from mosaicreg.errors import ImageError, InputError, MissingExtraError, StoppedError

    stops: list[int] = []

    def stop(number: int, _: Any) -> None:
        stops.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (InputError, ImageError, MissingExtraError) as error:
        click.echo(f"mosaicreg: {error}", err=True)
        sys.exit(BAD_INPUT)
    except StoppedError as error:
        click.echo(f"mosaicreg: {error}\n{GO_ON}", err=True)
        sys.exit(UNFINISHED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        click.echo(f"mosaicreg: {error.filename or 'output'}: {error.strerror}\n{GO_ON}", err=True)
        sys.exit(UNFINISHED)
    except KeyboardInterrupt:
        click.echo(f"\nmosaicreg: stopped. {GO_ON}", err=True)
        sys.exit(TERMINATED if stops else INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


OPENED_AT_ONCE = 2.0
"""Seconds; opening that takes longer is told of."""
GO_ON = "What is finished is kept; run the same command again to go on."


@contextmanager
def working(
    options: dict[str, Any],
    mosaic: Mosaic | None = None,
    output: AnyPath | None = None,
    fork: bool = True,
) -> Iterator[Any]:
    """A place to compute and a progress display, as the options ask.

    With the tiles and the output at hand, workers elsewhere are asked whether they see them. Where
    tasks hand pixels on to each other, threads need not send them: ``fork`` is False.
    """
    from mosaicreg.cluster import dashboard_link
    from mosaicreg.clusters import check_shared, computing
    from mosaicreg.progress import open_log, show_progress

    def tell(words: str) -> None:
        if not options["quiet"]:
            click.echo(words, err=True)

    where = computing(
        options["scheduler"],
        options["cluster"],
        options["workers"],
        options["memory_limit"],
        mosaic.nbytes if mosaic is not None else 0,
        tell,
        fork,
    )
    with (
        open_log(options["log_file"]) as log,
        where as place,
        show_progress(options["quiet"], log) as progress,
    ):
        tell(f"Working {place}")
        dashboard = dashboard_link()
        if dashboard is not None:
            tell(f"Dashboard: {dashboard}")
        if log is not None:
            command = shlex.join(["mosaicreg", *sys.argv[1:]])
            log.write("start", command=command, place=place, dashboard=dashboard)
        if mosaic is not None:
            check_shared(mosaic.some_files, output)
        yield progress


@contextmanager
def opening(options: dict[str, Any]) -> Iterator[Any]:
    """A progress display for opening many files, which says nothing of what is done at once."""
    from mosaicreg.progress import open_log, show_progress

    with (
        open_log(options.get("log_file"), ends=False) as log,
        show_progress(options.get("quiet", False), log, OPENED_AT_ONCE) as progress,
    ):
        yield progress


def open_tiles(path: AnyPath, options: dict[str, Any]) -> Mosaic:
    """The tiles at ``path``, with the input options."""
    from mosaicreg.opening import open_mosaic
    from mosaicreg.stage import rearranged

    keys = ("positions", "pattern", "overlap", "pixel_size", "skip_bad_tiles")
    with opening(options) as progress:
        mosaic = open_mosaic(path, **{key: options[key] for key in keys}, progress=progress)
    if mosaic.skipped:
        click.echo(f"Left out {len(mosaic.skipped)} tiles that cannot be read:", err=True)
        for reason in mosaic.skipped:
            click.echo(f"  - {reason}", err=True)
    return rearranged(mosaic, options["stage_matrix"], options["serpentine"])


def job_keys(mosaic: Mosaic, options: dict[str, Any], layout: Layout | None = None) -> list[str]:
    """Digests of all that the layout, and the whole archive, depend on."""
    from mosaicreg import __version__
    from mosaicreg.journal import digest, pack
    from mosaicreg.source import stamps_of

    content = options.get("constraints")
    told = [
        __version__,
        mosaic.digest(),
        stamps_of(mosaic.source),
        (mosaic.pixel_size, mosaic.channels),
        content.read_bytes() if content and content.is_file() else None,
        *(pack(layout) if layout is not None else ()),
    ]
    first = {k: v for k, v in options.items() if k not in NOT_THE_JOB | AFTER_LAYOUT}
    second = {k: v for k, v in options.items() if k in AFTER_LAYOUT}
    layout_key = digest(*told, sorted(first.items()))
    return [layout_key, digest(layout_key, sorted(second.items()))]


def find_layout(
    mosaic: Mosaic,
    options: dict[str, Any],
    progress: Any,
    journal: Journal,
    key: str,
) -> Layout:
    """The layout of the tiles, from the journal where it knows."""
    from mosaicreg.layout import keep_layout, kept_layout, stage_layout

    layout = kept_layout(journal, key, mosaic)
    if layout is None:
        if options["no_register"]:
            layout = stage_layout(mosaic)
        else:
            layout = registered(mosaic, options, progress, journal)
        keep_layout(journal, key, layout)
    return layout


def is_layout_of(path: AnyPath, job: str) -> bool:
    """Whether a ``.json`` layout is there that ``job`` wrote; other forms hold no provenance."""
    from mosaicreg.mosaicfile import read_positions

    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    return bool(read_positions(path).facts.get("provenance", {}).get("job") == job)


@contextmanager
def kept_beside(output: AnyPath) -> Iterator[Journal]:
    """A journal in a folder beside a layout file that is not there yet; it goes when all is done.

    Its results are found by what they depend on, so any run may go on with those of any other.
    """
    from mosaicreg.journal import HOME, Journal
    from mosaicreg.store import Folder, open_store

    store = open_store(output.parent / f"{output.name}.partial")
    yield Journal(store)
    store.clear(HOME.partition("/")[0])
    if isinstance(store, Folder) and store.path.is_dir() and not store.exists():
        store.path.rmdir()


def registered(
    mosaic: Mosaic,
    options: dict[str, Any],
    progress: Any,
    journal: Journal | None = None,
) -> Layout:
    """The layout of the tiles, measured and solved."""
    from mosaicreg.constraints import read_constraints
    from mosaicreg.layout import solve_layout
    from mosaicreg.leastsquares import factorise
    from mosaicreg.processes import meanwhile
    from mosaicreg.registration import register

    path = options["constraints"]
    constraints = read_constraints(path, mosaic.names) if path else None
    meanwhile(factorise)  # loads it, a hundredth of a second, before somebody waits for it
    pairs = register(
        mosaic,
        channel=options["channel"],
        plane=options["plane"],
        max_shift=options["max_shift"],
        model=options["model"],
        progress=progress,
        journal=journal,
    )
    progress("solve", 0, 1)
    layout = solve_layout(mosaic, pairs, options["max_shift"], constraints)
    progress("solve", 1, 1)
    return layout


def check_output(output: AnyPath, options: dict[str, Any], mosaic: Mosaic) -> None:
    """Everything about the output that can be known to fail, before anything is written."""
    from mosaicreg.errors import InputError
    from mosaicreg.omezarr import Pyramid
    from mosaicreg.recipe import check_style
    from mosaicreg.registration import checked_neighbours, registration_lead

    if mosaic.reads_from(output):
        raise InputError(f"{output} holds the tiles themselves; the archive needs another place")
    Pyramid.plan(
        (*mosaic.leading, *mosaic.extent),
        mosaic.dtype,
        mosaic.axes,
        chunk=options["chunk"],
        shard=options["shard"],
    )
    check_style(mosaic, options["blend"], options["interpolation"], options["fill"])
    if options.get("no_register") is False:
        checked_neighbours(mosaic)
        registration_lead(mosaic, options["channel"], options["plane"])


def check_layout_file(path: AnyPath, overwrite: bool = True, model: str = "translation") -> None:
    """Raise InputError where a layout cannot or must not be written to ``path``."""
    from mosaicreg.errors import InputError
    from mosaicreg.layoutfile import check_turned
    from mosaicreg.mosaicfile import check_suffix

    check_suffix(path)
    if model == "rigid":
        check_turned(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another name, or replace it with --overwrite")


def planned(
    mosaic: Mosaic, layout: Layout, output: str, options: dict[str, Any], room: tuple[int, int]
) -> tuple[JobPlan, Later]:
    """What the job will take of workers with so much room (bytes, threads).

    The second is the same plan with the time that it will take, for which a sample is done.
    """
    from dataclasses import replace

    from mosaicreg.cluster import all_threads
    from mosaicreg.omezarr import Pyramid
    from mosaicreg.planning import plan_job
    from mosaicreg.processes import Call, Later
    from mosaicreg.recipe import recipe_for
    from mosaicreg.registration import registration_lead
    from mosaicreg.timing import predict

    recipe = recipe_for(mosaic, layout, blend=options["blend"], block=options["shard"])
    pyramid = Pyramid.plan(
        recipe.shape,
        mosaic.dtype,
        mosaic.axes,
        chunk=options["chunk"],
        shard=options["shard"],
        pyramid=not options["no_pyramid"],
        name=output,
        version=options["ome_version"],
    )
    shift, pairs = options.get("max_shift"), None
    how: dict[str, Any] = {}
    if not options.get("no_register", True):
        pairs = mosaic.neighbours()
        how = {
            "lead": registration_lead(mosaic, options["channel"], options["plane"]),
            "model": options["model"],
        }
    plan = plan_job(mosaic, recipe, pyramid, pairs, max_shift=shift, limit=room[0], threads=room[1])
    plan = replace(plan, all_threads=all_threads(options["workers"]))
    if not plan.fits:
        return plan, Later(Call(replace, (plan,)))  # nor would the sample
    seconds = predict(mosaic, recipe, pyramid, pairs, max_shift=shift, **how)
    return plan, Later(Call(lambda: replace(plan, seconds=seconds.result()), ()))


def check_room(mosaic: Mosaic, layout: Layout, options: dict[str, Any], journal: Journal) -> Later:
    """The plan for the workers that are there, see `planned`.

    Where the job replaces another archive, tiles that cannot be decoded are to be known first.

    Raises:
        InputError: where a task does not fit into one.
    """
    from mosaicreg.cluster import worker_room
    from mosaicreg.planning import check_fits

    plan, timed = planned(mosaic, layout, "", options, worker_room(options["workers"]))
    check_fits(plan)
    if not journal.is_same_job and journal.store.exists():
        timed.result()
    return timed


def tell_memory(plan: JobPlan, output: AnyPath, options: dict[str, Any], progress: Any) -> None:
    """Predicted beside measured memory: said, and stored in the archive, with how long it took."""
    from mosaicreg.cluster import peak_memory
    from mosaicreg.omezarr import write_facts
    from mosaicreg.planning import size_in_words, time_in_words

    peak = peak_memory()
    seconds = {stage: round(took, 2) for stage, took in progress.seconds.items()}
    # Of a run that went on, as much as was left to do.
    expected = {
        stage: round(due * progress.totals[stage] / plan.tasks[stage], 2)
        for stage, due in plan.wall_seconds().items()
        if stage in progress.totals
    }
    memory = {"predicted": plan.worker_memory, "measured": peak}
    write_facts(
        output, {"worker_memory": memory, "seconds": seconds, "predicted_seconds": expected}
    )
    if not options["quiet"]:
        click.echo(
            f"Memory of a worker: {size_in_words(plan.worker_memory)} predicted, "
            f"{size_in_words(peak)} at the peak",
            err=True,
        )
        took = time_in_words(sum(seconds[stage] for stage in expected))
        click.echo(
            f"Time: {time_in_words(sum(expected.values()))} predicted, {took} taken", err=True
        )


def assemble_archive(
    mosaic: Mosaic,
    layout: Layout,
    output: AnyPath,
    options: dict[str, Any],
    provenance: dict[str, Any],
    progress: Any,
    journal: Journal,
) -> None:
    """Compute the mosaic and write the archive, with the output options."""
    from mosaicreg.archive import write_ome_zarr
    from mosaicreg.recipe import recipe_for

    recipe = recipe_for(
        mosaic,
        layout,
        blend=options["blend"],
        interpolation=options["interpolation"],
        fill=options["fill"],
        block=options["shard"],
    )
    write_ome_zarr(
        recipe,
        output,
        mosaic=mosaic,
        layout=layout,
        chunk=options["chunk"],
        shard=options["shard"],
        pyramid=not options["no_pyramid"],
        ome_version=options["ome_version"],
        repair=options["repair"],
        provenance=provenance,
        progress=progress,
        journal=journal,
    )


def made_by(mosaic: Mosaic, options: dict[str, Any]) -> dict[str, Any]:
    """What made the result: version, command, options, digest of the input."""
    import mosaicreg
    from mosaicreg.objects import ObjectPath
    from mosaicreg.source import FileSource

    where = mosaic.source.folder.resolve() if isinstance(mosaic.source, FileSource) else None
    given = {k: v for k, v in options.items() if v is not None}
    shown = {k: str(v) if isinstance(v, Path | ObjectPath) else v for k, v in given.items()}
    return {
        "version": mosaicreg.__version__,
        "versions": {"python": platform.python_version(), **installed_versions(LIBRARIES)},
        "command": shlex.join(["mosaicreg", *sys.argv[1:]]),
        "options": shown,
        "input_digest": mosaic.digest(),
        "positions": mosaic.origin,
        "tiles": len(mosaic),
        "tiles_in": None if where is None else str(where),
        "skipped": list(mosaic.skipped),
    }


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """The version of each library, as the folder beside it is named; it need not be loaded.

    `importlib.metadata` reads the whole description of each, a hundredth of a small job.
    """
    found: dict[str, str] = {}
    for place in sys.path:
        with suppress(OSError):
            for entry in os.listdir(place or "."):  # noqa: PTH208  # thousands of paths, for names
                name, dash, rest = entry.removesuffix(".dist-info").partition("-")
                if dash and entry.endswith(".dist-info"):
                    found.setdefault(name.lower(), rest)
    return {name: found.get(name) or _described_version(name) for name in names}


def _described_version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def finish(layout: Layout, options: dict[str, Any], mosaic: Mosaic | None = None) -> None:
    """Say how far to trust the layout; leave with code 3 where that is not far.

    With its tiles at hand, the doctor is asked what might be wrong with the positions.
    """
    click.echo(layout)
    if layout.pairs is not None:
        click.echo(layout.pairs)
    not_measured = [
        f"{name} ({verdict})"
        for name, verdict in zip(layout.names, layout.verdicts, strict=True)
        if verdict != "measured"
    ]
    if int(layout.parts.max()) > 0 and len(not_measured) < len(layout):
        others = int((layout.parts > 0).sum())
        click.echo(f"{others} tiles are not linked to the largest part")
    if not_measured and len(layout) > 1:
        more = f" and {len(not_measured) - 10} more" if len(not_measured) > 10 else ""
        click.echo(f"Not measured: {', '.join(not_measured[:10])}{more}")
    if layout.doubtful > options["max_doubtful"]:
        click.echo(
            f"mosaicreg: {layout.doubtful:.0%} of the tiles could not be measured against the "
            f"largest part, more than {options['max_doubtful']:.0%}: they lie where the stage puts "
            "them. Look at the mosaic before you use it; --max-shift and --overlap decide where "
            "matches are looked for.",
            err=True,
        )
        if mosaic is not None:
            _ask_the_doctor(mosaic, options)
        sys.exit(DOUBTFUL)


def _ask_the_doctor(mosaic: Mosaic, options: dict[str, Any]) -> None:
    """Print what the geometry doctor thinks of the positions."""
    from mosaicreg.doctor import examine

    diagnosis = examine(mosaic, channel=options["channel"], plane=options["plane"])
    click.echo(f"mosaicreg doctor: {diagnosis}", err=True)
