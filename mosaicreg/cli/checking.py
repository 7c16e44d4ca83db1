"""Commands that check what is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mosaicreg.cli import DISK, DOUBTFUL, PATH, input_options, run_options
from mosaicreg.cli.running import errors_for_people, open_tiles, working

if TYPE_CHECKING:
    from mosaicreg.objects import AnyPath


@click.command(
    epilog="""\b
Examples:
  mosaicreg doctor tiles/
  mosaicreg doctor tiles/ --positions stage.csv -o proof.png"""
)
@click.argument("input", type=PATH)
@click.option("-o", "--output", type=DISK, metavar="PNG", help="Write a proof picture.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@input_options
@click.option("--channel", type=click.IntRange(min=0), default=0, help="Channel to look at.")
@click.option("--plane", type=click.IntRange(min=0), default=0, help="Plane to look at.")
@run_options
def doctor(input: AnyPath, output: Path | None, as_json: bool, **options: Any) -> None:
    """Find flipped or swapped axes, serpentine rows, wrong overlap, turned camera, backlash.

    Compares a few dozen neighbours on all sides and says what to type. Changes nothing. Where tiles
    are placed by names and no --overlap is given, it is looked for.
    """
    from mosaicreg.doctor import examine, proof
    from mosaicreg.report import write_side_by_side

    with errors_for_people():
        options["overlap"] = options["overlap"] or (0.1, 0.1)
        mosaic = open_tiles(input, options)
        if not as_json:
            click.echo(mosaic)
        with working(options, mosaic) as progress:
            diagnosis = examine(
                mosaic, channel=options["channel"], plane=options["plane"], progress=progress
            )
        if as_json:
            click.echo(json.dumps(diagnosis.facts(), indent=1))
        else:
            click.echo(diagnosis)
        views = proof(mosaic, diagnosis)
        if output is not None and views:
            write_side_by_side(output, views)
            click.echo(f"Wrote {output}", err=as_json)


@click.command(
    epilog="""\b
Examples:
  mosaicreg verify out.ome.zarr
  mosaicreg verify out.ome.zarr --tiles /archive/tiles --json
  mosaicreg verify out.ome.zarr --no-tiles"""
)
@click.argument("archive", type=PATH)
@click.option(
    "--tiles",
    type=PATH,
    metavar="FOLDER",
    help="Where the tiles lie now. [default: where they lay when ARCHIVE was made]",
)
@click.option("--no-tiles", is_flag=True,
              help="Check the archive by itself; read no tile.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@run_options
def verify(
    archive: AnyPath, tiles: AnyPath | None, no_tiles: bool, as_json: bool, **options: Any
) -> None:
    """Check that ARCHIVE holds what its layout, its metadata and its tiles promise.

    Every shard is decoded. Where the tiles are still there, every pixel is drawn again and
    compared.
    Exit code 3 and a table of what failed where anything did.
    """
    from mosaicreg.errors import InputError
    from mosaicreg.verification import image_again, verify

    with errors_for_people():
        mosaic = image = None
        if not no_tiles:
            try:
                mosaic, _, image = image_again(archive, tiles)
            except InputError as error:
                if tiles is not None or not archive.exists():
                    raise
                click.echo(f"Tiles cannot be compared: {error.headline}", err=True)
        with working(options) as progress:
            result = verify(archive, image, mosaic=mosaic, progress=progress)
        click.echo(json.dumps(result.facts(), indent=1) if as_json else result)
        if not result.passed:
            click.echo(f"mosaicreg: {archive} does not hold what it promises", err=True)
            sys.exit(DOUBTFUL)
