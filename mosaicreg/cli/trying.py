"""Trying it out: demo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mosaicreg.cli import DISK, run_options
from mosaicreg.cli.running import errors_for_people, working


@click.command(
    epilog="""\b
Examples:
  mosaicreg demo
  mosaicreg demo -o /tmp/demo"""
)
@click.option("-o", "--output", type=DISK, default=Path(), help="Folder for the results.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another slide.")
@run_options
def demo(output: Path, seed: int, **options: Any) -> None:
    """Simulate an acquisition, stitch it, and compare with the known truth.

    Writes demo.ome.zarr, demo_preview.png, demo_before_after.png and the tiles (demo_tiles/).
    """
    from mosaicreg.demo import run_demo

    with errors_for_people(), working(options) as progress:
        click.echo(run_demo(output, seed, progress))
