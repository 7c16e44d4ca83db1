"""Tiles to mosaics: stitch, register, assemble."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mosaicreg.cli import DISK, PATH, input_options, output_options, register_options, run_options
from mosaicreg.cli.running import (
    assemble_archive,
    check_layout_file,
    check_output,
    check_room,
    errors_for_people,
    find_layout,
    finish,
    is_layout_of,
    job_keys,
    kept_beside,
    made_by,
    open_tiles,
    opening,
    registered,
    tell_memory,
    working,
)

if TYPE_CHECKING:
    from mosaicreg.objects import AnyPath


@click.command(
    epilog="""\b
Examples:
  mosaicreg stitch tiles/ -o out.ome.zarr
  mosaicreg stitch tiles/ -o out.ome.zarr --pattern "r{row}_c{col}.png" --overlap 0.1
  mosaicreg stitch tiles/ -o out.ome.zarr --positions stage.csv --pixel-size 0.325
  mosaicreg stitch tiles/ -o out.ome.zarr --scheduler tcp://10.0.0.1:8786
  mosaicreg stitch tiles/ -o out.ome.zarr --cluster slurm.yaml"""
)
@click.argument("input", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The archive to write, .ome.zarr.")
@input_options
@register_options
@click.option("--no-register", is_flag=True, help="Take the stage's word for all positions.")
@click.option(
    "--layout-out",
    type=PATH,
    metavar="FILE",
    help="Write the layout too: .csv, .txt, .mosaic or .json.",
)
@click.option("--report", type=DISK, metavar="FILE",
              help="Write a page that shows how far to trust the mosaic, .html.")  # fmt: skip
@output_options
@run_options
def stitch(input: AnyPath, output: AnyPath, **options: Any) -> None:
    """Register the tiles of INPUT and assemble them into one OME-Zarr mosaic.

    INPUT is a folder or glob of images (TIFF, OME-TIFF, PNG, JPEG, .npy, zarr), or a position file
    that names them.
    """
    with errors_for_people():
        from mosaicreg.archive import begin, open_journal
        from mosaicreg.layout import kept_layout, stage_layout
        from mosaicreg.layoutfile import save_layout
        from mosaicreg.processes import meanwhile

        mosaic = open_tiles(input, options)
        check_output(output, options, mosaic)
        if options["layout_out"]:
            check_layout_file(options["layout_out"], model=options["model"])
        if options["report"]:
            from mosaicreg.report import check_page

            check_page(options["report"])
        layout_key, job = job_keys(mosaic, options)
        journal = open_journal(output, job, options["overwrite"])
        click.echo(mosaic)
        layout = kept_layout(journal, layout_key, mosaic)
        if layout is None or not journal.is_finished or options["repair"]:
            with working(options, mosaic, output) as progress:
                plan = check_room(mosaic, stage_layout(mosaic), options, journal)
                begin(journal)
                provenance = meanwhile(made_by, mosaic, options)
                layout = find_layout(mosaic, options, progress, journal, layout_key)
                facts = provenance.result()
                told = [options["layout_out"]] if options["layout_out"] else []
                saved = [meanwhile(save_layout, path, mosaic, layout, facts) for path in told]
                assemble_archive(mosaic, layout, output, options, facts, progress, journal)
                for later in saved:
                    later.result()
                tell_memory(plan.result(), output, options, progress)
            click.echo(f"Wrote {output}")
        else:
            if options["layout_out"]:
                save_layout(options["layout_out"], mosaic, layout, made_by(mosaic, options))
            click.echo(f"Nothing to do: {output} is finished")
        if options["report"]:
            from mosaicreg.progress import show_progress
            from mosaicreg.report import write_report

            with show_progress(options["quiet"]) as progress:
                write_report(output, options["report"], progress)
        if options["no_register"]:
            click.echo(layout)
        else:
            finish(layout, options, mosaic)


@click.command(
    epilog="""\b
Examples:
  mosaicreg register tiles/ -o layout.csv
  mosaicreg register tiles/ -o layout.json --positions stage.csv"""
)
@click.argument("input", type=PATH)
@click.option("-o", "--output", type=PATH, required=True,
              help="The layout to write: .csv, .txt, .mosaic or .json.")  # fmt: skip
@input_options
@register_options
@click.option("--overwrite", is_flag=True, help="Replace a layout that exists.")
@run_options
def register(input: AnyPath, output: AnyPath, **options: Any) -> None:
    """Register the tiles of INPUT and write where each one lies.

    What is compared is kept in a folder beside the layout, OUTPUT.partial, until the layout is
    written: stopped at any moment, the same command goes on.
    """
    with errors_for_people():
        from mosaicreg.layoutfile import load_layout, save_layout
        from mosaicreg.registration import checked_neighbours, registration_lead

        check_layout_file(output, model=options["model"])
        mosaic = open_tiles(input, options)
        job = job_keys(mosaic, options)[0]
        if not options["overwrite"] and is_layout_of(output, job):
            with kept_beside(output):
                click.echo(f"Nothing to do: {output} is finished")
            finish(load_layout(output, need_tiles=False)[1], options, mosaic)
            return
        check_layout_file(output, options["overwrite"])
        checked_neighbours(mosaic)
        registration_lead(mosaic, options["channel"], options["plane"])
        click.echo(mosaic)
        with working(options, mosaic) as progress, kept_beside(output) as journal:
            layout = registered(mosaic, options, progress, journal)
            save_layout(output, mosaic, layout, {**made_by(mosaic, options), "job": job})
        click.echo(f"Wrote {output}")
        finish(layout, options, mosaic)


@click.command(
    epilog="""\b
Examples:
  mosaicreg assemble layout.csv -o out.ome.zarr
  mosaicreg assemble TileConfiguration.registered.txt -o out.ome.zarr --blend max"""
)
@click.argument("layout", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The archive to write, .ome.zarr.")
@click.option("--pixel-size", type=click.FloatRange(min=0, min_open=True), metavar="UM",
              help="Size of a pixel in micrometre.")  # fmt: skip
@output_options
@run_options
def assemble(layout: AnyPath, output: AnyPath, **options: Any) -> None:
    """Assemble the tiles that the file LAYOUT names, where it puts them."""
    from dataclasses import replace

    from mosaicreg.archive import open_journal
    from mosaicreg.layoutfile import load_layout

    with errors_for_people():
        with opening(options) as progress:
            mosaic, placed = load_layout(layout, progress=progress)
        if options["pixel_size"]:
            mosaic = replace(mosaic, pixel_size=(options["pixel_size"],) * 2)
        check_output(output, options, mosaic)
        journal = open_journal(output, job_keys(mosaic, options, placed)[1], options["overwrite"])
        click.echo(mosaic)
        if journal.is_finished and not options["repair"]:
            click.echo(f"Nothing to do: {output} is finished")
            return
        facts = made_by(mosaic, options)
        with working(options, mosaic, output) as progress:
            plan = check_room(mosaic, placed, options, journal)
            assemble_archive(mosaic, placed, output, options, facts, progress, journal)
            tell_memory(plan.result(), output, options, progress)
        click.echo(f"Wrote {output}")


@click.command(
    epilog="""\b
Examples:
  mosaicreg solve layout.json -o better.json --constraints known.csv
  mosaicreg solve layout.json -o layout.csv --max-shift 40"""
)
@click.argument("layout", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The layout to write.")
@click.option(
    "--constraints",
    type=PATH,
    metavar="FILE",
    help="What you know better: CSV kind,tile,other,y,x of pins, forbids, matches.",
)
@click.option(
    "--max-shift",
    type=click.FloatRange(min=1),
    metavar="PX",
    help="How far a tile may be from where the stage puts it, per axis.",
)
@click.option(
    "--max-doubtful",
    type=click.FloatRange(0, 1),
    default=0.25,
    show_default=True,
    metavar="SHARE",
    help="Exit code 3 when more than this share of tiles is not measured.",
)
@click.option("--overwrite", is_flag=True, help="Replace a layout that exists.")  # fmt: skip
def solve(layout: AnyPath, output: AnyPath, **options: Any) -> None:
    """Solve the pairs of a LAYOUT (.json) again, with what you know better. Reads no pixel.

    Pins are in the coordinates of LAYOUT.
    """
    from mosaicreg.constraints import read_constraints
    from mosaicreg.layout import solve_again
    from mosaicreg.layoutfile import load_layout, save_layout

    with errors_for_people():
        check_layout_file(output, options["overwrite"])
        mosaic, placed = load_layout(layout, need_tiles=False)
        path = options["constraints"]
        constraints = read_constraints(path, mosaic.names) if path else None
        solved = solve_again(mosaic, placed, options["max_shift"], constraints)
        save_layout(output, mosaic, solved, made_by(mosaic, options))
        click.echo(f"Wrote {output}")
        finish(solved, options)
