"""Commands that check what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mosaicreg.cli import PATH, input_options, run_options
from mosaicreg.cli.running import errors_for_people, open_tiles, working


@click.command(
    epilog="""\b
Examples:
  mosaicreg doctor tiles/
  mosaicreg doctor tiles/ --positions stage.csv -o proof.png"""
)
@click.argument("input", type=PATH)
@click.option("-o", "--output", type=PATH, metavar="PNG", help="Write a proof picture.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@input_options
@click.option("--channel", type=click.IntRange(min=0), default=0, help="Channel to look at.")
@click.option("--plane", type=click.IntRange(min=0), default=0, help="Plane to look at.")
@run_options
def doctor(input: Path, output: Path | None, as_json: bool, **options: Any) -> None:
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
        with working(options) as progress:
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
