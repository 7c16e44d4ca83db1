"""The command line: options, messages and exit codes over the public functions, nothing else.

Exit codes: 0 success, 2 bad usage or bad input, 3 the result could not be trusted (and is written).
Heavy imports happen inside the commands, so that --help answers at once.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mosaicreg.layout import Layout
    from mosaicreg.mosaic import Mosaic

TRUSTED, BAD_INPUT, DOUBTFUL = 0, 2, 3

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


def _group(*options: Command) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


PATH = click.Path(path_type=Path)

input_options = _group(
    click.option("--positions", type=PATH, metavar="FILE",
                 help="Where tiles lie: .csv (tile,y,x), TileConfiguration .txt, .mosaic, .json."),
    click.option("--pattern", metavar="TEXT",
                 help='Row and column in names, e.g. "r{row}_c{col}.png"; common ones guessed.'),
    click.option("--overlap", type=Fractions(),
                 help="Overlap of neighbours as a fraction of the tile, one number or y,x."),
    click.option("--pixel-size", type=click.FloatRange(min=0, min_open=True), metavar="UM",
                 help="Size of a pixel in micrometre."),
)  # fmt: skip

register_options = _group(
    click.option("--channel", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Channel to register on; all channels are carried through."),
    click.option("--plane", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Plane (z) to register on; all planes are carried through."),
    click.option("--max-shift", type=click.FloatRange(min=1), metavar="PX",
                 help="How far a tile may be from where the stage puts it, per axis. "
                      "[default: 5 % of the longest tile side, at least 16]"),
    click.option("--max-doubtful", type=click.FloatRange(0, 1), default=0.25, show_default=True,
                 metavar="SHARE",
                 help="Exit code 3 when more than this share of tiles is not measured."),
)  # fmt: skip

output_options = _group(
    click.option("--blend", type=click.Choice(["linear", "nearest", "mean", "max", "first"]),
                 default="linear", show_default=True,
                 help="What a pixel shows that several tiles own."),
    click.option("--interpolation", type=click.Choice(["linear", "nearest"]), default="linear",
                 show_default=True,
                 help="Place tiles to a fraction of a pixel, or copy pixels as they are."),
    click.option("--fill", type=float, default=0.0, show_default=True,
                 help="Value of pixels that no tile owns."),
    click.option("--chunk", type=Sides(), default="512", show_default=True,
                 help="Chunk of the archive, one number or y,x."),
    click.option("--shard", type=Sides(), default="4096", show_default=True,
                 help="Shard (file) of the archive, a whole number of chunks."),
    click.option("--no-pyramid", is_flag=True, help="Write the finest level only."),
    click.option("--overwrite", is_flag=True, help="Replace an archive that exists."),
)  # fmt: skip

run_options = _group(
    click.option("--scheduler", metavar="ADDRESS", help="A running dask scheduler, tcp://..."),
    click.option("--workers", type=click.IntRange(min=1), metavar="N",
                 help="How many tasks at a time on this machine. [default: one per core]"),
    click.option("--memory-limit", metavar="SIZE",
                 help="Memory of each worker, e.g. 2GB; starts worker processes."),
    click.option("--quiet", is_flag=True, help="No progress, only the result."),
)  # fmt: skip


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with:  mosaicreg demo",
)
@click.version_option(package_name="mosaicreg")
def main() -> None:
    """Overlapping image tiles to one zarr mosaic, larger than memory, on dask."""
    # Tasks, not libraries, share out the cores; has to be said before numpy is loaded.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


@main.command(
    epilog="""\b
Examples:
  mosaicreg stitch tiles/ -o out.ome.zarr
  mosaicreg stitch tiles/ -o out.ome.zarr --pattern "r{row}_c{col}.png" --overlap 0.1
  mosaicreg stitch tiles/ -o out.ome.zarr --positions stage.csv --pixel-size 0.325
  mosaicreg stitch tiles/ -o out.ome.zarr --scheduler tcp://10.0.0.1:8786"""
)
@click.argument("input", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The archive to write, .ome.zarr.")
@input_options
@register_options
@click.option("--no-register", is_flag=True, help="Take the stage's word for all positions.")
@click.option("--layout-out", type=PATH, metavar="FILE",
              help="Write the layout too: .csv, .txt, .mosaic or .json.")  # fmt: skip
@output_options
@run_options
def stitch(input: Path, output: Path, **options: Any) -> None:
    """Register the tiles of INPUT and assemble them into one OME-Zarr mosaic.

    INPUT is a folder or glob of images (TIFF, OME-TIFF, PNG, JPEG, .npy, zarr), or a position file
    that names them.
    """
    from mosaicreg.layout import save_layout, stage_layout

    with _errors_for_people():
        mosaic = _open(input, options)
        _check_output(output, options, mosaic)
        if options["layout_out"]:
            _check_layout_file(options["layout_out"])
        click.echo(mosaic)
        with _working(options) as progress:
            if options["no_register"]:
                layout = stage_layout(mosaic)
            else:
                layout = _registered(mosaic, options, progress)
            provenance = _provenance(mosaic, options)
            if options["layout_out"]:
                save_layout(options["layout_out"], mosaic, layout, provenance)
            _assemble(mosaic, layout, output, options, provenance, progress)
        click.echo(f"Wrote {output}")
        _finish(layout, options, registered=not options["no_register"])


@main.command(
    epilog="""\b
Examples:
  mosaicreg register tiles/ -o layout.csv
  mosaicreg register tiles/ -o layout.json --positions stage.csv"""
)
@click.argument("input", type=PATH)
@click.option("-o", "--output", type=PATH, required=True,
              help="The layout to write: .csv, .txt, .mosaic or .json.")  # fmt: skip
@input_options
@register_options
@click.option("--overwrite", is_flag=True, help="Replace a layout that exists.")
@run_options
def register(input: Path, output: Path, **options: Any) -> None:
    """Register the tiles of INPUT and write where each one lies."""
    from mosaicreg.layout import save_layout

    with _errors_for_people():
        _check_layout_file(output, options["overwrite"])
        mosaic = _open(input, options)
        click.echo(mosaic)
        with _working(options) as progress:
            layout = _registered(mosaic, options, progress)
        save_layout(output, mosaic, layout, _provenance(mosaic, options))
        click.echo(f"Wrote {output}")
        _finish(layout, options, registered=True)


@main.command(
    epilog="""\b
Examples:
  mosaicreg assemble layout.csv -o out.ome.zarr
  mosaicreg assemble TileConfiguration.registered.txt -o out.ome.zarr --blend max"""
)
@click.argument("layout", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The archive to write, .ome.zarr.")
@click.option("--pixel-size", type=click.FloatRange(min=0, min_open=True), metavar="UM",
              help="Size of a pixel in micrometre.")  # fmt: skip
@output_options
@run_options
def assemble(layout: Path, output: Path, **options: Any) -> None:
    """Assemble the tiles that the file LAYOUT names, where it puts them."""
    from dataclasses import replace

    from mosaicreg.layout import load_layout

    with _errors_for_people():
        mosaic, placed = load_layout(layout)
        if options["pixel_size"]:
            mosaic = replace(mosaic, pixel_size=(options["pixel_size"],) * 2)
        _check_output(output, options, mosaic)
        click.echo(mosaic)
        with _working(options) as progress:
            _assemble(mosaic, placed, output, options, _provenance(mosaic, options), progress)
        click.echo(f"Wrote {output}")


@main.command(
    epilog="""\b
Examples:
  mosaicreg info tiles/
  mosaicreg info layout.json
  mosaicreg info out.ome.zarr --json"""
)
@click.argument("path", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(path: Path, as_json: bool) -> None:
    """Say what PATH is: tiles, a position or layout file, or an archive."""
    from mosaicreg.inspection import describe

    with _errors_for_people():
        facts = describe(path)
        if as_json:
            click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
            return
        width = max(len(k) for k in facts)
        for key, value in facts.items():
            if isinstance(value, dict):
                value = ", ".join(f"{k} {v}" for k, v in value.items())
            elif isinstance(value, list):
                value = " x ".join(map(str, value))
            click.echo(f"{key:<{width}}  {'-' if value is None else value}")


@main.command(
    epilog="""\b
Examples:
  mosaicreg demo
  mosaicreg demo -o /tmp/demo"""
)
@click.option("-o", "--output", type=PATH, default=Path(), help="Folder for the results.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another slide.")
@run_options
def demo(output: Path, seed: int, **options: Any) -> None:
    """Simulate an acquisition, stitch it, and compare with the known truth.

    Writes demo.ome.zarr, demo_preview.png, demo_before_after.png and the tiles (demo_tiles/).
    """
    from mosaicreg.demo import run_demo

    with _errors_for_people(), _working(options) as progress:
        click.echo(run_demo(output, seed, progress))


@contextmanager
def _errors_for_people() -> Iterator[None]:
    """Turn errors that people can mend into a message and exit code 2."""
    from mosaicreg.errors import ImageError, InputError

    try:
        yield
    except (InputError, ImageError) as error:
        click.echo(f"mosaicreg: {error}", err=True)
        sys.exit(BAD_INPUT)


@contextmanager
def _working(options: dict[str, Any]) -> Iterator[Any]:
    """A place to compute and a progress display, as the options ask."""
    from mosaicreg.cluster import computing
    from mosaicreg.progress import show_progress

    where = computing(options["scheduler"], options["workers"], options["memory_limit"])
    with where as place, show_progress(options["quiet"]) as progress:
        if not options["quiet"]:
            click.echo(f"Working {place}", err=True)
        yield progress


def _open(path: Path, options: dict[str, Any]) -> Mosaic:
    from mosaicreg.opening import open_mosaic

    keys = ("positions", "pattern", "overlap", "pixel_size")
    return open_mosaic(path, **{key: options[key] for key in keys})


def _registered(mosaic: Mosaic, options: dict[str, Any], progress: Any) -> Layout:
    from mosaicreg.layout import solve_layout
    from mosaicreg.registration import register

    pairs = register(
        mosaic,
        channel=options["channel"],
        plane=options["plane"],
        max_shift=options["max_shift"],
        progress=progress,
    )
    return solve_layout(mosaic, pairs, options["max_shift"])


def _check_output(output: Path, options: dict[str, Any], mosaic: Mosaic) -> None:
    """Everything about the output that can be known to fail, before anything is written."""
    from mosaicreg.assembly import check_style
    from mosaicreg.errors import InputError
    from mosaicreg.omezarr import Pyramid, check_clear
    from mosaicreg.registration import checked_neighbours, registration_lead

    check_clear(output, options["overwrite"])
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


def _check_layout_file(path: Path, overwrite: bool = True) -> None:
    from mosaicreg.errors import InputError
    from mosaicreg.mosaicfile import check_suffix

    check_suffix(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; choose another name, or replace it with --overwrite")


def _assemble(
    mosaic: Mosaic,
    layout: Layout,
    output: Path,
    options: dict[str, Any],
    provenance: dict[str, Any],
    progress: Any,
) -> None:
    from mosaicreg.archive import write_ome_zarr
    from mosaicreg.assembly import assemble

    image = assemble(
        mosaic,
        layout,
        blend=options["blend"],
        interpolation=options["interpolation"],
        fill=options["fill"],
        block=options["shard"],
    )
    write_ome_zarr(
        image,
        output,
        mosaic=mosaic,
        layout=layout,
        chunk=options["chunk"],
        shard=options["shard"],
        pyramid=not options["no_pyramid"],
        overwrite=options["overwrite"],
        provenance=provenance,
        progress=progress,
    )


def _provenance(mosaic: Mosaic, options: dict[str, Any]) -> dict[str, Any]:
    """What made the result: version, command, options, digest of the input."""
    import mosaicreg

    shown = {k: str(v) if isinstance(v, Path) else v for k, v in options.items() if v is not None}
    return {
        "version": mosaicreg.__version__,
        "command": shlex.join(["mosaicreg", *sys.argv[1:]]),
        "options": shown,
        "input_digest": mosaic.digest(),
        "positions": mosaic.origin,
    }


def _finish(layout: Layout, options: dict[str, Any], registered: bool) -> None:
    """Say how far to trust the layout; leave with code 3 where that is not far."""
    click.echo(layout)
    if not registered:
        return
    if layout.pairs is not None:
        click.echo(layout.pairs)
    not_measured = [
        f"{name} ({verdict})"
        for name, verdict in zip(layout.names, layout.verdicts, strict=True)
        if verdict != "measured"
    ]
    if not_measured and len(layout) > 1:
        more = f" and {len(not_measured) - 10} more" if len(not_measured) > 10 else ""
        click.echo(f"Not measured: {', '.join(not_measured[:10])}{more}")
    if layout.doubtful > options["max_doubtful"]:
        click.echo(
            f"mosaicreg: {layout.doubtful:.0%} of the tiles could not be measured, more than "
            f"{options['max_doubtful']:.0%}: they lie where the stage put them. Look at the mosaic "
            "before you use it; --max-shift and --overlap decide where matches are looked for.",
            err=True,
        )
        sys.exit(DOUBTFUL)
