"""One section on another: align, refine."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mosaicreg.cli import DISK, DOUBTFUL, option_group, run_options
from mosaicreg.cli.running import errors_for_people, working

if TYPE_CHECKING:
    from mosaicreg.irtools import StosImage
    from mosaicreg.reducing import Plane
    from mosaicreg.refining import Refinement
    from mosaicreg.transforms import Transform

LEAST_TRUSTED = 0.5
"""Exit code 3 where a smaller share of the cells held the grid."""
ANGLE_STEP = 2.0
"""Degrees between the angles that a range is made of."""
PICTURE_SIDE = 900
"""Longest side of an image in a picture, px."""


class Numbers(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
    """``1,1.25``: numbers with commas."""

    name = "number[,number...]"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        """Parse."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(v) for v in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not numbers with commas between them", param, ctx)


refine_options = option_group(
    click.option("--cell", type=click.IntRange(min=32), default=128, show_default=True,
                 metavar="PX", help="Side of the cells that are compared."),
    click.option("--spacing", type=click.IntRange(min=16), default=96, show_default=True,
                 metavar="PX", help="From one cell, and one vertex of the grid, to the next."),
    click.option("--passes", type=click.IntRange(min=1), default=6, show_default=True,
                 help="Most times that all cells are compared."),
    click.option("--max-shift", type=click.IntRange(min=1), metavar="PX",
                 help="How far a cell may be off, per axis. [default: a quarter of a cell]"),
)  # fmt: skip
image_options = option_group(
    click.option("--fixed-mask", type=DISK, metavar="FILE",
                 help="Image that is above 0 where pixels of the fixed one count."),
    click.option("--moving-mask", type=DISK, metavar="FILE", help="The same of the moving one."),
    click.option("--channel", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Channel to look at."),
    click.option("--plane", type=click.IntRange(min=0), default=0, show_default=True,
                 help="Plane (z) to look at."),
    click.option("--picture", type=DISK, metavar="FILE",
                 help="PNG to write: fixed in magenta, moving in green, before and after."),
    click.option("--overwrite", is_flag=True, help="Replace a file that exists."),
)  # fmt: skip


@click.command(
    epilog="""\b
Examples:
  mosaicreg align 0002.tif 0001.tif -o 0001-0002.stos --picture proof.png
  mosaicreg align 0002.ome.zarr 0001.ome.zarr -o 0001-0002.stos --flip --refine
  mosaicreg transform 0001-0002.stos -o 0001_on_0002.ome.zarr"""
)
@click.argument("fixed", type=DISK)
@click.argument("moving", type=DISK)
@click.option("-o", "--output", type=DISK, required=True, help="The .stos file to write.")
@click.option("--flip", is_flag=True, help="Try MOVING upside down, too.")
@click.option("--angles", type=Numbers(), metavar="FROM,TO",
              help="Degrees to look between. [default: all around]")  # fmt: skip
@click.option("--scales", type=Numbers(), default="1", show_default=True,
              help="Sizes of a pixel of MOVING in pixels of FIXED to try.")  # fmt: skip
@click.option("--min-overlap", type=click.FloatRange(0, 1, min_open=True), default=0.5,
              show_default=True, metavar="SHARE",
              help="Share of the smaller image that must lie on the other.")  # fmt: skip
@click.option("--refine", "refining", is_flag=True, help="Bend the result as refine does.")
@image_options
@refine_options
@run_options  # fmt: skip
def align(fixed: Path, moving: Path, output: Path, **options: Any) -> None:
    """Find how MOVING, one section of a stack, lies on FIXED: at any angle, any offset.

    Images may be of any size. Exit code 3 where the match could be chance; it is written anyway.
    """
    from mosaicreg.aligning import MATCHED, match_planes
    from mosaicreg.errors import InputError
    from mosaicreg.irtools import stos_of, write_stos
    from mosaicreg.transforms import Translation

    with errors_for_people():
        _check_output(output, options)
        images = [_stos_image(p, options[f"{n}_mask"], output)
                  for n, p in (("fixed", fixed), ("moving", moving))]  # fmt: skip
        if len({i.mask is None for i in images}) > 1:
            raise InputError("a .stos has masks for both images or for none: give both, or neither")
        planes = _planes(fixed, moving, options)
        angles = _angle_range(options["angles"])
        with working(options, fork=False) as progress:
            record = match_planes(
                *planes, angles, options["flip"], options["scales"], options["min_overlap"],
                progress,
            )  # fmt: skip
            stos = stos_of(record, images[0], images[1])
            refinement = None
            if options["refining"]:
                refinement = _refined(planes, stos.transform, options, progress)
                stos = replace(stos, transform=refinement.transform)
            write_stos(output, stos)
            middle = [(a - b) / 2 for a, b in zip(planes[0].shape, planes[1].shape, strict=True)]
            before = Translation(middle)
            _draw(options["picture"], planes, before, stos.transform, progress)
        turned = "flipped up-down, " if record.flipped_ud else ""
        size = "" if record.scale == 1 else f"scaled by {record.scale:g}, "
        click.echo(
            f"{moving} on {fixed}: {turned}{size}turned by {record.angle:.3f} degrees, its centre "
            f"{record.peak[0]:.2f} px down and {record.peak[1]:.2f} px right of the fixed one's"
        )
        click.echo(f"Chance matches as well with a probability of {record.chance:.2g}")
        _finish(output, refinement)
        if record.chance > MATCHED:
            click.echo(
                "mosaicreg: the match could be chance. Look at it with --picture; --flip, --scales "
                "and --min-overlap decide what is tried.",
                err=True,
            )
            sys.exit(DOUBTFUL)
        _check_trust(refinement)


@click.command(
    epilog="""\b
Examples:
  mosaicreg refine 0001-0002.stos -o 0001-0002_grid.stos --picture proof.png
  mosaicreg refine rough.stos -o fine.stos --cell 256 --spacing 192
  mosaicreg transform 0001-0002_grid.stos -o 0001_on_0002.ome.zarr"""
)
@click.argument("stos", type=DISK)
@click.option("-o", "--output", type=DISK, required=True, help="The .stos file to write.")
@click.option("--fixed", type=DISK, metavar="FILE",
              help="The fixed image. [default: the first that STOS names]")  # fmt: skip
@click.option("--moving", type=DISK, metavar="FILE",
              help="The moving image. [default: the second that STOS names]")  # fmt: skip
@image_options
@refine_options
@run_options
def refine(stos: Path, output: Path, **options: Any) -> None:
    """Bend the transform of STOS until its two images agree cell by cell; writes a grid.

    Exit code 3 where less than half of the cells can be trusted; the result is written anyway.
    """
    from mosaicreg.errors import InputError
    from mosaicreg.irtools import Stos, read_stos, write_stos

    with errors_for_people():
        if not stos.is_file():
            raise InputError(f"{stos}: there is no such .stos file")
        file = read_stos(stos)
        _check_output(output, options)
        paths = {n: options[n] or file.resolved(getattr(file, n).path) for n in ("fixed", "moving")}
        for name in paths:
            named = getattr(file, name).mask
            options[f"{name}_mask"] = options[f"{name}_mask"] or (named and file.resolved(named))
        images = [_stos_image(paths[n], options[f"{n}_mask"], output) for n in paths]
        if len({i.mask is None for i in images}) > 1:
            raise InputError("a .stos has masks for both images or for none: give both, or neither")
        for name, image in zip(paths, images, strict=True):
            if image.shape != getattr(file, name).shape:
                raise InputError(
                    f"{stos} is about a {name} image of {getattr(file, name).shape} px (height, "
                    f"width); {paths[name]} has {image.shape}"
                )
        planes = _planes(paths["fixed"], paths["moving"], options)
        before = file.pixel_transform
        with working(options, fork=False) as progress:
            refinement = _refined(planes, before, options, progress)
            write_stos(output, Stos(images[0], images[1], refinement.transform))
            _draw(options["picture"], planes, before, refinement.transform, progress)
        _finish(output, refinement)
        _check_trust(refinement)


def _check_output(output: Path, options: dict[str, Any]) -> None:
    from mosaicreg.errors import InputError

    for path in (output, options["picture"]):
        if path is not None and path.exists() and not options["overwrite"]:
            raise InputError(f"{path} exists; choose another name, or replace it with --overwrite")
        if path is not None and not path.absolute().parent.is_dir():
            raise InputError(f"{path}: there is no folder {path.absolute().parent}")


def _stos_image(path: Path, mask: Path | None, output: Path) -> StosImage:
    """What a .stos says of an image; relative paths start from its folder."""
    from mosaicreg.errors import InputError
    from mosaicreg.imagefile import read_header
    from mosaicreg.irtools import StosImage

    for file in (path, mask):
        if file is not None and not file.exists():
            raise InputError(f"{file}: there is no such image")

    def written(file: Path) -> str:
        if file.is_absolute():
            return str(file)
        return Path(os.path.relpath(file, output.absolute().parent)).as_posix()

    name = None if mask is None else written(mask)
    return StosImage(written(path), read_header(path).plane, mask=name)


def _planes(fixed: Path, moving: Path, options: dict[str, Any]) -> tuple[Plane, Plane]:
    from mosaicreg.reducing import open_plane

    where = {"channel": options["channel"], "plane": options["plane"]}
    return (
        open_plane(fixed, options["fixed_mask"], name="fixed image", **where),
        open_plane(moving, options["moving_mask"], name="moving image", **where),
    )


def _angle_range(ends: tuple[float, ...] | None) -> list[float] | None:
    """Angles between two; None for all around."""
    from mosaicreg.errors import InputError

    if ends is None:
        return None
    if len(ends) != 2 or not 0 <= ends[1] - ends[0] <= 360:
        raise InputError(f"--angles is FROM,TO in degrees, a smaller and a larger one, not {ends}")
    steps = int((ends[1] - ends[0]) / ANGLE_STEP) + 1
    return [ends[0] + (ends[1] - ends[0]) * k / steps for k in range(steps + 1)]


def _refined(
    planes: tuple[Plane, Plane], transform: Transform, options: dict[str, Any], progress: Any
) -> Refinement:
    from mosaicreg.refining import refine_planes

    sizes = {name: options[name] for name in ("cell", "spacing", "passes", "max_shift")}
    return refine_planes(planes[0], planes[1], transform, progress=progress, **sizes)


def _draw(
    path: Path | None,
    planes: tuple[Plane, Plane],
    before: Transform,
    after: Transform,
    progress: Any,
) -> None:
    """The proof, where it is asked for."""
    from mosaicreg.reducing import drawn_small, reduce_plane, reduction
    from mosaicreg.report.pictures import write_overlays

    if path is None:
        return
    small = [reduce_plane(p, reduction(p.shape, PICTURE_SIDE), progress) for p in planes]
    panels = {
        n: drawn_small(small[0], small[1], t) for n, t in (("before", before), ("after", after))
    }
    write_overlays(path, small[0].image, panels)
    click.echo(f"Wrote {path}")


def _finish(output: Path, refinement: Refinement | None) -> None:
    if refinement is not None:
        click.echo(refinement)
    click.echo(f"Wrote {output}")


def _check_trust(refinement: Refinement | None) -> None:
    """Leave with code 3 where too few cells hold the grid."""
    if refinement is not None and refinement.trusted < LEAST_TRUSTED:
        click.echo(
            f"mosaicreg: only {refinement.trusted:.0%} of the cells can be trusted. Look at the "
            "result with --picture; larger cells (--cell) and a larger --max-shift see more.",
            err=True,
        )
        sys.exit(DOUBTFUL)
