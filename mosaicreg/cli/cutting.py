"""Images into tiles: tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mosaicreg.cli import PATH, Sides, run_options
from mosaicreg.cli.running import errors_for_people, working


@click.command(
    epilog="""\b
Examples:
  mosaicreg tiles slide.ome.zarr -o tiles/
  mosaicreg tiles slide.tif -o tiles/ --tile 512 --format png
  mosaicreg stitch tiles/ -o again.ome.zarr --no-register"""
)
@click.argument("image", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="Folder for the tiles.")
@click.option(
    "--tile",
    type=Sides(),
    default="1024",
    show_default=True,
    help="Size of a tile in px, one number or y,x.",
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["tif", "png", "jp2", "jpg", "npy", "zarr"]),
    default="tif",
    show_default=True,
    help="Of the tile files.",
)
@click.option(
    "--fill",
    type=float,
    default=0.0,
    show_default=True,
    help="Value of what the last tiles have outside the image.",
)
@click.option("--no-fill", is_flag=True, help="Leave the last row and column of tiles smaller.")
@click.option("--overwrite", is_flag=True, help="Replace tiles that are in the folder.")
@run_options
def tiles(image: Path, output: Path, **options: Any) -> None:
    """Cut IMAGE, of any size, into tile files of one size.

    IMAGE is an image file, a zarr array or an OME-Zarr image. Tiles are called r000_c000 and so on;
    positions.csv says where they lie. A run that was stopped goes on when it is run again.
    """
    with errors_for_people():
        from mosaicreg.cutting import cut_image

        with working(options, fork=False) as progress:
            cut = cut_image(
                image,
                output,
                tile=options["tile"],
                suffix=f".{options['suffix']}",
                fill=None if options["no_fill"] else options["fill"],
                overwrite=options["overwrite"],
                progress=progress,
            )
        rows, cols = cut.grid.grid_shape
        height, width = cut.grid.tile
        click.echo(f"{rows} x {cols} tiles of {height} x {width} px in {output}")
