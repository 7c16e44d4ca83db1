"""Images under transforms: transform."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mosaicreg.cli import DISK, archive_options, run_options
from mosaicreg.cli.running import errors_for_people, working

if TYPE_CHECKING:
    from mosaicreg.header import Header
    from mosaicreg.irtools import Stos


@click.command(
    epilog="""\b
Examples:
  mosaicreg transform 0002-0001.stos -o warped.ome.zarr
  mosaicreg transform 0002-0001_16.stos -o warped.ome.zarr --image 0002.tif --scale 16"""
)
@click.argument("stos", type=DISK)
@click.option("-o", "--output", type=DISK, required=True, help="The archive to write, .ome.zarr.")
@click.option(
    "--image",
    type=DISK,
    metavar="FILE",
    help="The image to warp. [default: the second one that STOS names]",
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Size of the image, as a multiple of that which STOS is about.",
)
@click.option("--crop", is_flag=True, help="Leave out what lies outside the control points.")
@click.option(
    "--order",
    type=click.Choice(["0", "1", "3"]),
    default="1",
    show_default=True,
    help="Nearest pixel, linear, or cubic spline.",
)
@click.option(
    "--fill",
    type=float,
    default=0.0,
    show_default=True,
    help="Value of pixels that the image does not reach.",
)
@click.option(
    "--pixel-size",
    type=click.FloatRange(min=0, min_open=True),
    metavar="UM",
    help="Size of a pixel in micrometre. [default: what the image says]",
)
@archive_options
@run_options  # fmt: skip
def transform(stos: Path, output: Path, **options: Any) -> None:
    """Warp the moving image of STOS into the space of its fixed image, of any size.

    STOS is a .stos of nornir or the SCI ir-tools; relative paths in it start from its folder. The
    result has the size of the fixed image, which is not read.
    """
    from mosaicreg import __version__
    from mosaicreg.archive import write_ome_zarr
    from mosaicreg.errors import InputError
    from mosaicreg.imagefile import read_header
    from mosaicreg.irtools import read_stos
    from mosaicreg.warping import warp

    with errors_for_people():
        if not stos.is_file():
            raise InputError(f"{stos}: there is no such .stos file")
        file = read_stos(stos)
        image = options["image"] or file.resolved(file.moving.path)
        if not image.exists():
            raise InputError(f"{image}: there is no such image; name it with --image")
        header = read_header(image)
        shape = _checked_shape(stos, file, image, header, output, options["scale"])
        placed = file.pixel_transform
        if options["scale"] != 1:
            placed = placed.scaled(options["scale"])
        result = warp(
            image,
            placed,
            shape,
            extrapolate=not options["crop"],
            order=int(options["order"]),  # type: ignore[arg-type]  # one of the choices
            fill=options["fill"],
            block=options["shard"],
        )
        click.echo(f"{image} ({header.shape}, {header.dtype}) by {file.transform}")
        size = options["pixel_size"]
        with working(options, fork=False) as progress:
            write_ome_zarr(
                result,
                output,
                axes=header.axes,
                pixel_size=(size, size) if size else header.pixel_size,
                channels=header.channels,
                chunk=options["chunk"],
                shard=options["shard"],
                pyramid=not options["no_pyramid"],
                ome_version=options["ome_version"],
                overwrite=options["overwrite"],
                repair=options["repair"],
                provenance={
                    "version": __version__,
                    "command": shlex.join(["mosaicreg", *sys.argv[1:]]),
                    "options": {k: str(v) for k, v in options.items() if v is not None},
                    "stos": str(stos),
                    "image": str(image),
                },
                progress=progress,
            )
        click.echo(f"Wrote {output}")


def _checked_shape(
    path: Path, stos: Stos, image: Path, header: Header, output: Path, scale: float
) -> tuple[int, int]:
    """(height, width) of the result.

    Raises:
        InputError: where the image has another size than the file says, or lies in the output.
    """
    from mosaicreg.errors import InputError

    wanted = [n * scale for n in stos.moving.shape]
    if any(abs(a - b) > 1 for a, b in zip(header.plane, wanted, strict=True)):
        raise InputError(
            f"{path} is about an image of {stos.moving.shape} px (height, width), times the scale "
            f"{scale:g}; {image} has {header.plane}. If it is the right one, say --scale "
            f"{header.plane[0] / stos.moving.shape[0]:g}"
        )
    here, there = image.resolve(), output.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise InputError(f"{output} holds the image itself; the archive needs another place")
    height, width = (max(1, round(n * scale)) for n in stos.fixed.shape)
    return height, width
