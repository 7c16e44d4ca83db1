"""The command line: options, messages and exit codes over the public functions, nothing else.

Exit codes: 0 success, 2 bad usage or bad input, 3 the result could not be trusted (and is written),
4 stopped before the end (no space, cluster lost): run again to go on; 130 and 143 after Ctrl-C and
SIGTERM, the same.
Each family of commands is a module of this folder, loaded when one of its commands is asked for;
heavy imports happen inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click

TRUSTED, BAD_INPUT, DOUBTFUL, UNFINISHED = 0, 2, 3, 4
INTERRUPTED, TERMINATED = 128 + 2, 128 + 15

COMMANDS = {
    "stitch": "stitching",
    "plan": "planning",
    "register": "stitching",
    "assemble": "stitching",
    "solve": "stitching",
    "doctor": "checking",
    "verify": "checking",
    "info": "looking",
    "report": "reporting",
    "view": "viewing",
    "export": "exporting",
    "align": "aligning",
    "refine": "aligning",
    "transform": "transforming",
    "tiles": "cutting",
    "demo": "trying",
}
"""Module of this folder where each command lives, in the order that help lists them."""

Command = Callable[..., Any]


class Fractions(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
    """``0.1`` or ``0.1,0.2`` (y, x)."""

    name = "fraction[,fraction]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, float]:
        """Parse and check the range."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = [float(v) for v in str(value).split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 2) or not all(0 <= n < 1 for n in numbers):
            self.fail(f"{value!r} is not one or two (y,x) fractions from 0 to below 1", param, ctx)
        return numbers[0], numbers[-1]


class Sides(click.ParamType):  # type: ignore[type-arg]
    """``512`` or ``512,1024`` (y, x)."""

    name = "px[,px]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """Parse and check the range."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if len(parts) not in (1, 2) or not all(p.strip().isdigit() and int(p) > 0 for p in parts):
            self.fail(f"{value!r} is not one or two (y,x) whole numbers above 0", param, ctx)
        return int(parts[0]), int(parts[-1])


class Matrix(click.ParamType):  # type: ignore[type-arg]
    """``a,b,c,d``, row by row."""

    name = "a,b,c,d"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[tuple[float, float], ...]:
        """Parse and check that it can be inverted."""
        if isinstance(value, tuple):
            return value
        try:
            a, b, c, d = (float(v) for v in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not four numbers a,b,c,d", param, ctx)
        if not abs(a * d - b * c) > 1e-9:
            self.fail(f"{value!r} cannot be inverted: it puts all tiles on one line", param, ctx)
        return (a, b), (c, d)


def option_group(*options: Command) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class Address(click.Path):
    """A path of a disk, or ``s3://bucket/key``."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """A `Path` or an `ObjectPath`."""
        if isinstance(value, str) and "://" in value:
            from mosaicreg.errors import InputError
            from mosaicreg.objects import ObjectPath

            try:
                return ObjectPath.parse(value)
            except InputError as error:
                self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


class Disk(click.Path):
    """A path of a disk, where no object store will do."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """A `Path`."""
        if isinstance(value, str) and "://" in value:
            self.fail("this must be on a disk, not in an object store", param, ctx)
        return super().convert(value, param, ctx)


PATH = Address(path_type=Path)
DISK = Disk(path_type=Path)

input_options = option_group(
    click.option("--positions", type=PATH, metavar="FILE",
                 help="Where tiles lie: .csv (tile,y,x), TileConfiguration .txt, .mosaic, .json."),
    click.option("--pattern", metavar="TEXT",
                 help='Row and column in names, e.g. "r{row}_c{col}.png"; common ones guessed.'),
    click.option("--overlap", type=Fractions(),
                 help="Overlap of neighbours as a fraction of the tile, one number or y,x."),
    click.option("--pixel-size", type=click.FloatRange(min=0, min_open=True), metavar="UM",
                 help="Size of a pixel in micrometre."),
    click.option("--skip-bad-tiles", is_flag=True,
                 help="Leave out tiles that cannot be read, and say which."),
    click.option("--serpentine", is_flag=True,
                 help="Every second row was taken in the other direction."),
    click.option("--stage-matrix", type=Matrix(),
                 help="Applied to the positions, (y,x) order: -1,0,0,1 turns y around. "
                      "mosaicreg doctor finds it."),
)  # fmt: skip

register_options = option_group(
    click.option("--channel", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Channel to register on; all channels are carried through."),
    click.option("--plane", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Plane (z) to register on; all planes are carried through."),
    click.option("--max-shift", type=click.FloatRange(min=1), metavar="PX",
                 help="How far a tile may be from where the stage puts it, per axis. "
                      "[default: 5 % of the longest tile side, at least 16]"),
    click.option("--model", type=click.Choice(["translation", "rigid"]), default="translation",
                 show_default=True,
                 help="rigid: tiles are turned against each other too, by below 2.5 degrees."),
    click.option("--constraints", type=DISK, metavar="FILE",
                 help="What you know better: CSV of pins, forbidden pairs, matches."),
    click.option("--max-doubtful", type=click.FloatRange(0, 1), default=0.25, show_default=True,
                 metavar="SHARE",
                 help="Exit code 3 when more than this share of tiles is not measured."),
)  # fmt: skip

archive_options = option_group(
    click.option("--chunk", type=Sides(), default="512", show_default=True,
                 help="Chunk of the archive, one number or y,x."),
    click.option("--shard", type=Sides(), default="4096", show_default=True,
                 help="Shard (file) of the archive, a whole number of chunks."),
    click.option("--ome-version", type=click.Choice(["0.5", "0.4"]), default="0.5",
                 show_default=True,
                 help="0.4: zarr v2, a file per chunk, for older viewers."),
    click.option("--no-pyramid", is_flag=True, help="Write the finest level only."),
    click.option("--overwrite", is_flag=True,
                 help="Turn an archive that exists into this one; what is the same is kept."),
    click.option("--repair", is_flag=True,
                 help="Check and mend every shard of an archive that is finished."),
)  # fmt: skip

output_options = option_group(
    click.option("--blend", type=click.Choice(["linear", "nearest", "mean", "max", "first"]),
                 default="linear", show_default=True,
                 help="What a pixel shows that several tiles own."),
    click.option("--interpolation", type=click.Choice(["linear", "nearest"]), default="linear",
                 show_default=True,
                 help="Place tiles to a fraction of a pixel, or copy pixels as they are."),
    click.option("--fill", type=float, default=0.0, show_default=True,
                 help="Value of pixels that no tile owns."),
    archive_options,
)  # fmt: skip

run_options = option_group(
    click.option("--scheduler", metavar="ADDRESS",
                 help="A running dask scheduler, tcp://... or tls://..."),
    click.option("--cluster", type=DISK, metavar="FILE",
                 help="A cluster to start for this job: SLURM, SSH, Kubernetes... (YAML)."),
    click.option("--workers", type=click.IntRange(min=1), metavar="N",
                 help="How many tasks at a time on this machine. [default: one per core, fewer for "
                      "a small job]"),
    click.option("--memory-limit", metavar="SIZE",
                 help="Memory of each worker, e.g. 2GB; starts worker processes."),
    click.option("--quiet", is_flag=True, help="No progress, only the result."),
    click.option("--log-file", type=DISK, metavar="FILE",
                 help="Append progress and events to FILE, one JSON object a line."),
)  # fmt: skip


class LazyGroup(click.Group):
    """Commands named in `COMMANDS`, their modules imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"mosaicreg.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with:  mosaicreg demo",
)
@click.version_option(package_name="mosaicreg")
def main() -> None:
    """Overlapping image tiles to one zarr mosaic, larger than memory, on dask."""
    # Tasks, not libraries, share out the cores; once numpy is loaded it would be a lie to say so.
    from mosaicreg.machine import THREADS_OF_LIBRARIES

    if "numpy" not in sys.modules:
        for name in THREADS_OF_LIBRARIES:
            os.environ.setdefault(name, "1")
    # Loading makes some 60,000 objects that stay: looking for garbage among them takes a tenth of
    # the start, and at the end, when they go anyhow, longer than all else.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)


def run() -> None:
    """`main`, as the whole of a process.

    When all is done, Python would take apart what it has loaded, a hundredth of a second: it ends
    without. As usual it ends where other threads run, which are waited for, where what was printed
    reaches nobody, or where somebody watches (a profiler, a debugger), who has yet to tell.
    """
    try:
        main(prog_name="mosaicreg")
    except SystemExit as end:
        code = 0 if end.code is None else end.code
        watched = sys.getprofile() is not None or sys.gettrace() is not None
        if not isinstance(code, int) or threading.active_count() > 1 or watched:
            raise
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (AttributeError, OSError, ValueError):
            raise end from None
        atexit._run_exitfuncs()
        os._exit(code)
