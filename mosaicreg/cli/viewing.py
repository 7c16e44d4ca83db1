"""Looking at pixels: view."""

from __future__ import annotations

from pathlib import Path

import click

from mosaicreg.cli import DISK
from mosaicreg.cli.running import errors_for_people


@click.command(
    epilog="""\b
Examples:
  mosaicreg view out.ome.zarr
  mosaicreg view layout.json
  mosaicreg view out.ome.zarr --port 8000 --no-browser"""
)
@click.argument("path", type=DISK)
@click.option("--pixel-size", type=click.FloatRange(min=0, min_open=True), metavar="UM",
              help="Size of a pixel in micrometre, where a layout does not say it.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=0,
              help="Port to listen on, on this machine only. [default: any free one]")  # fmt: skip
@click.option("--no-browser", is_flag=True, help="Print the address only.")
def view(path: Path, pixel_size: float | None, port: int, no_browser: bool) -> None:
    """Show an archive in the browser, or a layout whose mosaic was not assembled yet.

    A layout's pixels are computed as you look at them. The page comes from this machine and is
    served to this machine alone; stop it with Ctrl-C.
    """
    import threading
    import webbrowser

    from mosaicreg.viewer.serving import serving

    with errors_for_people(), serving(path, port, pixel_size) as address:
        try:
            click.echo(f"Showing {path} at {address}\nStop with Ctrl-C.")
            if not no_browser:
                webbrowser.open(address)
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo()
