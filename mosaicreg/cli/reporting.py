"""What a mosaic is worth: report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mosaicreg.cli import DISK, PATH
from mosaicreg.cli.running import errors_for_people

if TYPE_CHECKING:
    from mosaicreg.objects import AnyPath


@click.command(
    epilog="""\b
Examples:
  mosaicreg report out.ome.zarr -o report.html
  mosaicreg report out.ome.zarr --json > numbers.json"""
)
@click.argument("archive", type=PATH)
@click.option("-o", "--output", type=DISK, metavar="FILE",
              help="The page to write, .html.  [default: beside ARCHIVE]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The numbers, for programs; no page.")
@click.option("--quiet", is_flag=True, help="No progress, only the result.")
def report(archive: AnyPath, output: Path | None, as_json: bool, quiet: bool) -> None:
    """Show how far to trust the mosaic ARCHIVE: one HTML file that needs nothing else.

    Tiles by verdict and residual, pairs, what was moved, and the seams that may be furthest off,
    before and after.
    """
    from mosaicreg.progress import show_progress
    from mosaicreg.report import default_page, read_numbers, write_report

    with errors_for_people(), show_progress(quiet) as progress:
        if as_json:
            numbers = read_numbers(archive, progress)
            click.echo(json.dumps(numbers, indent=1, ensure_ascii=False))
        else:
            path = write_report(archive, output or default_page(archive), progress)
            click.echo(f"Wrote {path}")
