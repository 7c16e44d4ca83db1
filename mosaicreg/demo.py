"""`mosaicreg demo`: a simulated acquisition stitched, and compared with its known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.archive import write_ome_zarr
from mosaicreg.assembly import assemble
from mosaicreg.cluster import Progress
from mosaicreg.errors import InputError
from mosaicreg.geometry import FloatArray
from mosaicreg.layout import Layout, solve_layout, stage_layout
from mosaicreg.mosaic import Mosaic
from mosaicreg.omezarr import read_facts
from mosaicreg.opening import open_mosaic
from mosaicreg.registration import register
from mosaicreg.report import centred, write_preview, write_side_by_side
from mosaicreg.synthetic import Acquisition, Specimen

CROP = 200
"""Side in px of the before and after pictures."""
MARK = {"demo": True}


def demo_acquisition(seed: int) -> Acquisition:
    """6 x 7 tiles of 640 x 640 px of tissue with holes, noise, shading and stage error."""
    return Acquisition(
        grid=(6, 7),
        tile=(640, 640),
        overlap=0.12,
        stage_error=12.0,
        specimen=Specimen(seed=seed + 11, empty=0.3),
        seed=seed,
    )


def run_demo(folder: Path, seed: int, progress: Progress) -> str:
    """Simulate, stitch, write, and say in words how well it went."""
    archive, tiles = folder / "demo.ome.zarr", folder / "demo_tiles"
    if archive.exists() and not read_facts(archive).get("demo"):
        raise InputError(f"{archive} exists and is not of an earlier demo; choose another folder")
    acquisition = demo_acquisition(seed)
    acquisition.write(tiles, lambda done, total: progress("simulate", done, total))

    mosaic = open_mosaic(tiles, pixel_size=0.5, positions=tiles / "positions.csv")
    pairs = register(mosaic, progress=progress)
    layout = solve_layout(mosaic, pairs)
    write_ome_zarr(
        assemble(mosaic, layout),
        archive,
        mosaic=mosaic,
        layout=layout,
        overwrite=True,
        provenance=MARK,
        progress=progress,
    )
    write_preview(archive, folder / "demo_preview.png")
    _before_after(folder / "demo_before_after.png", mosaic, layout, acquisition.truth)
    return _summary(layout, acquisition, folder)


def position_errors(layout: Layout, truth: FloatArray) -> FloatArray:
    """(n,) px, distance to the truth after removing the median offset of each part."""
    error = layout.positions - truth
    for part in np.unique(layout.parts):
        members = layout.parts == part
        error[members] -= np.median(error[members], axis=0)
    distance: FloatArray = np.linalg.norm(error, axis=1)
    return distance


def _before_after(path: Path, mosaic: Mosaic, layout: Layout, truth: FloatArray) -> None:
    """The liveliest of the seams where the stage errs most, as both positions show it.

    Overlaps are averaged without feathering: a wrong position then shows as double structures.
    """
    assert layout.pairs is not None
    accepted = np.flatnonzero(layout.pairs.accepted)
    fixed, moving = layout.pairs.fixed[accepted], layout.pairs.moving[accepted]
    told = mosaic.positions[moving] - mosaic.positions[fixed]
    error = np.linalg.norm(told - (truth[moving] - truth[fixed]), axis=1)
    best: dict[str, NDArray[Any]] = {}
    liveliest = -1.0
    for k in np.argsort(-error)[:15]:
        pair = (int(fixed[k]), int(moving[k]))
        stage = _seam(mosaic, stage_layout(mosaic), pair)
        inner = stage[CROP // 3 : -CROP // 3, CROP // 3 : -CROP // 3]
        if inner.std() > liveliest:
            liveliest = inner.std()
            found = _seam(mosaic, layout, pair)
            best = {"where the stage put it": stage, "where mosaicreg puts it": found}
    write_side_by_side(path, best, zoom=3)


def _seam(mosaic: Mosaic, layout: Layout, pair: tuple[int, int]) -> NDArray[Any]:
    """The pixels around the middle of the overlap of two tiles."""
    image = assemble(mosaic, layout, blend="mean")
    corners = layout.positions[list(pair)]
    middle = (corners.max(axis=0) + (corners + mosaic.shapes[list(pair)]).min(axis=0)) / 2
    box = centred((float(middle[0]), float(middle[1])), CROP, (image.shape[0], image.shape[1]))
    pixels: NDArray[Any] = image[box.slices].compute(scheduler="threads")
    return pixels


def _summary(layout: Layout, acquisition: Acquisition, folder: Path) -> str:
    error = position_errors(layout, acquisition.truth)
    before = position_errors(
        Layout(
            names=layout.names,
            positions=acquisition.stage,
            shapes=layout.shapes,
            verdict_codes=layout.verdict_codes,
            residuals=layout.residuals,
            sigmas=layout.sigmas,
            parts=np.zeros(len(layout), dtype=np.int64),
        ),
        acquisition.truth,
    )
    measured = layout.verdicts == "measured"
    return "\n".join(
        [
            str(layout),
            f"Error of the stage:     rms {_rms(before):7.3f} px, largest {before.max():7.3f} px",
            f"Error of measured tiles: rms {_rms(error[measured]):6.3f} px, "
            f"largest {error[measured].max():7.3f} px ({measured.sum()} of {len(layout)} tiles)",
            f"Wrote {folder / 'demo.ome.zarr'}, {folder / 'demo_preview.png'} and "
            f"{folder / 'demo_before_after.png'}",
        ]
    )


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))
