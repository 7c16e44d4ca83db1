"""Looking at what is there: info."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from mosaicreg.cli import PATH
from mosaicreg.cli.running import errors_for_people

if TYPE_CHECKING:
    from mosaicreg.objects import AnyPath


@click.command(
    epilog="""\b
Examples:
  mosaicreg info tiles/
  mosaicreg info layout.json
  mosaicreg info out.ome.zarr --json"""
)
@click.argument("path", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(path: AnyPath, as_json: bool) -> None:
    """Say what PATH is: tiles, a position or layout file, or an archive."""
    from mosaicreg.inspection import describe

    with errors_for_people():
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
