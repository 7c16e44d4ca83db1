"""Results for other programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mosaicreg.cli import DISK, PATH, run_options
from mosaicreg.cli.running import check_layout_file, errors_for_people, working


class Region(click.ParamType):  # type: ignore[type-arg]
    """``y,x,height,width`` in px."""

    name = "y,x,height,width"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """Parse."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if len(parts) != 4 or not all(p.strip().isdigit() for p in parts):
            self.fail(f"{value!r} is not four whole numbers y,x,height,width", param, ctx)
        return tuple(int(p) for p in parts)


@click.command(
    epilog="""\b
Examples:
  mosaicreg export out.ome.zarr -o out.ome.tif
  mosaicreg export out.ome.zarr -o overview.png
  mosaicreg export out.ome.zarr -o detail.png --region 2000,3000,1000,1500
  mosaicreg export out.ome.zarr -o older.ome.zarr --ome-version 0.4
  mosaicreg export out.ome.zarr -o TileConfiguration.txt"""
)
@click.argument("input", type=PATH)
@click.option(
    "-o",
    "--output",
    type=DISK,
    required=True,
    help="What to write; its ending says what: .ome.tif, .png, .ome.zarr, or a layout "
    "as .csv, .txt (TileConfiguration), .mosaic, .json.",
)
@click.option("--region", type=Region(), help="PNG: part of the mosaic, px of the finest level.")
@click.option(
    "--level",
    type=click.IntRange(min=0),
    help="PNG: level of the pyramid. [default: the finest of up to 4096 px]",
)
@click.option("--channel", type=click.IntRange(min=0), default=0, help="PNG: channel to show.")
@click.option("--plane", type=click.IntRange(min=0), default=0, help="PNG: z plane to show.")
@click.option("--raw", is_flag=True, help="PNG: keep the pixels' values, 8 or 16 bit.")
@click.option(
    "--compression",
    type=click.Choice(["zlib", "lzw", "zstd", "none"]),
    default="zlib",
    show_default=True,
    help="TIFF: of its tiles.",
)
@click.option(
    "--ome-version",
    type=click.Choice(["0.4"]),
    default="0.4",
    show_default=True,
    help="OME-Zarr: the version to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace what exists.")
@run_options  # fmt: skip
def export(input: Path, output: Path, **options: Any) -> None:
    """Write an archive or a layout in a form that other programs open.

    INPUT is an OME-Zarr archive, or, where a layout is to be written, a layout file.
    """
    from mosaicreg.mosaicfile import SUFFIXES

    with errors_for_people():
        suffix = output.suffix.lower()
        if suffix in SUFFIXES:
            check_layout_file(output, options["overwrite"])
            _layout(input, output)
        else:
            _image(input, output, suffix, options)
        click.echo(f"Wrote {output}")


def _image(input: Path, output: Path, suffix: str, options: dict[str, Any]) -> None:
    """Write pixels as the output's ending says."""
    from mosaicreg import export
    from mosaicreg.errors import InputError

    if suffix != ".zarr" and output.exists() and not options["overwrite"]:
        raise InputError(f"{output} exists; choose another name, or replace it with --overwrite")
    if suffix == ".png":
        keys = ("region", "level", "channel", "plane", "raw")
        export.write_picture(input, output, **{key: options[key] for key in keys})
    elif suffix in (".tif", ".tiff"):
        with working(options, fork=False) as progress:
            export.write_ome_tiff(
                input, output, compression=options["compression"], progress=progress
            )
    elif suffix == ".zarr":
        with working(options) as progress:
            export.write_version_04(
                input, output, overwrite=options["overwrite"], progress=progress
            )
    else:
        raise InputError(
            f"{output}: no form is known for this ending; take .ome.tif, .png, .ome.zarr, or for "
            "a layout .csv, .txt, .mosaic, .json"
        )


def _layout(input: Path, output: Path) -> None:
    """Write a layout, from another form or out of an archive."""
    from mosaicreg.layoutfile import load_layout, save_layout
    from mosaicreg.reopening import read_archive

    if input.is_dir():
        archive = read_archive(input)
        mosaic, layout = archive.mosaic, archive.layout
    else:
        mosaic, layout = load_layout(input, need_tiles=input.suffix.lower() != ".json")
    save_layout(output, mosaic, layout)
