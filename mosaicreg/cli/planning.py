"""What a job will take, before it runs: plan."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mosaicreg.cli import BAD_INPUT, PATH, input_options, output_options, register_options
from mosaicreg.cli.running import check_output, errors_for_people, open_tiles, planned

if TYPE_CHECKING:
    from mosaicreg.objects import AnyPath


@click.command(
    epilog="""\b
Examples:
  mosaicreg plan tiles/
  mosaicreg plan tiles/ --memory-limit 2GB --shard 8192
  mosaicreg plan tiles/ --json"""
)
@click.argument("input", type=PATH)
@input_options
@register_options
@click.option("--no-register", is_flag=True, help="Take the stage's word for all positions.")
@output_options
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many tasks at a time on this machine. [default: one per core]",
)
@click.option("--memory-limit", metavar="SIZE", help="Memory of each worker, e.g. 2GB.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")  # fmt: skip
def plan(input: AnyPath, as_json: bool, **options: Any) -> None:
    """Say what stitching INPUT would take: output, files, tasks, memory of a worker, time.

    Nothing is written; a few tiles are read, to see how long they take. The options are those of
    stitch. Exit code 2, and what to change, where a task would not fit into a worker.
    """
    from mosaicreg.cluster import worker_room
    from mosaicreg.layout import stage_layout
    from mosaicreg.planning import check_fits

    with errors_for_people():
        mosaic = open_tiles(input, options)
        check_output(Path("-"), options, mosaic)
        room = worker_room(options["workers"], options["memory_limit"])
        job = planned(mosaic, stage_layout(mosaic), "", options, room)[1].result()
        click.echo(json.dumps(job.facts(), indent=1) if as_json else job)
        if as_json and not job.fits:
            sys.exit(BAD_INPUT)
        check_fits(job)
