"""Peak memory of warping and assembling images that do not fit: each below 1 GB.

    python benchmarks/memory.py [--side 20000] [--folder FOLDER]

Makes an image and tiles in the folder (some hundred MB, a temporary one by default), then works in
a process of its own for each case and prints its CPU seconds and the peak of its resident memory.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr

LIMIT_MB = 1000
TILES = 20
"""Tiles a side of the mosaic: 400 in all."""


def make(folder: Path, side: int) -> None:
    """An image of side x side px, and TILES x TILES tiles that overlap by a tenth."""
    texture = np.random.default_rng(0).integers(0, 256, (2048, 2048), dtype=np.uint8)
    image = zarr.create_array(
        str(folder / "image.zarr"), shape=(side, side), chunks=(1024, 1024), dtype="uint8"
    )
    for y in range(0, side, 2048):
        for x in range(0, side, 2048):
            part = texture[: side - y, : side - x]
            image[y : y + part.shape[0], x : x + part.shape[1]] = part
    step = side // TILES
    size = step * 11 // 10
    for k in range(TILES * TILES):
        tile = zarr.create_array(
            str(folder / f"tile{k}.zarr"), shape=(size, size), chunks=(512, 512), dtype="uint8"
        )
        tile[:] = texture[:size, :size]


def warp_by_a_mesh(folder: Path, side: int) -> None:
    """The image, by a mesh of 1,000 points, into a zarr array."""
    from mosaicreg.nornir import TransformImage
    from mosaicreg.transforms import Mesh

    rng = np.random.default_rng(1)
    y, x = np.meshgrid(np.linspace(0, side - 1, 40), np.linspace(0, side - 1, 25), indexing="ij")
    points = np.stack([y.ravel(), x.ravel()], axis=1)
    mesh = Mesh(points, points + rng.normal(0, side / 1000, points.shape))
    assert len(points) == 1000
    image = zarr.open_array(str(folder / "image.zarr"), mode="r")
    store(TransformImage(mesh, (side, side), image, False), folder / "warped.zarr")


def assemble_tiles(folder: Path, side: int) -> None:
    """The tiles, each turned a little, through TilesToImage into a zarr array."""
    from mosaicreg.nornir import TilesToImage
    from mosaicreg.transforms import Rigid

    rng = np.random.default_rng(2)
    step = side // TILES
    tiles = [zarr.open_array(str(folder / f"tile{k}.zarr"), mode="r") for k in range(TILES * TILES)]
    places = [
        Rigid((k // TILES * step, k % TILES * step), rng.normal(0, 0.005), (step / 2, step / 2))
        for k in range(TILES * TILES)
    ]
    image, _ = TilesToImage(places, tiles, (0, 0, side, side))
    store(image, folder / "mosaic.zarr")


def store(image: object, path: Path) -> None:
    """Compute a lazy image into a zarr array, two blocks at a time."""
    import dask.array as da

    target = zarr.create_array(
        str(path), shape=image.shape, chunks=(2048, 2048), dtype=image.dtype, overwrite=True
    )
    da.store(image, target, lock=False, num_workers=2)


CASES = {"warp_by_a_mesh": warp_by_a_mesh, "assemble_tiles": assemble_tiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--case", choices=CASES, help="only this, in this process")
    options = parser.parse_args()
    if options.case:
        CASES[options.case](options.folder, options.side)
        used = resource.getrusage(resource.RUSAGE_SELF)
        peak = used.ru_maxrss / 1024
        print(f"{options.case:20s} {used.ru_utime + used.ru_stime:7.1f} s CPU  {peak:7.0f} MB peak")
        sys.exit(peak > LIMIT_MB)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        make(Path(name), options.side)
        failed = 0
        for case in CASES:
            words = [sys.executable, __file__, "--case", case, "--folder", name]
            failed += subprocess.run([*words, "--side", str(options.side)], check=False).returncode
    sys.exit(failed and f"a case needs more than {LIMIT_MB} MB")


if __name__ == "__main__":
    main()
