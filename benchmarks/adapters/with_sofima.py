"""SOFIMA: rigid offsets of all neighbours, then its mesh of tiles relaxed.

Its elastic steps, which warp tiles, are another job (and compile anew for every size of overlap).
"""

from __future__ import annotations

import common
import numpy as np


def main() -> None:
    """Register."""
    _, tiles, out = common.arguments()
    names, cells, _ = common.stage(tiles)
    import tifffile
    from sofima import stitch_rigid

    grid = tuple(cells.max(axis=0) + 1)
    images = {
        (int(x), int(y)): tifffile.imread(tiles / name).astype(np.float32)
        for (y, x), name in zip(cells, names, strict=True)
    }
    # Two overlaps to try, as in its notebook: the nominal one, and one with the stage's error.
    overlaps = ((102, 126), (102, 126))
    cx, cy = stitch_rigid.compute_coarse_offsets(grid, images, overlaps, min_overlap=60)
    mesh = stitch_rigid.optimize_coarse_mesh(cx, cy)
    shape = next(iter(images.values())).shape
    found = [(y * shape[0] + mesh[1, 0, y, x], x * shape[1] + mesh[0, 0, y, x]) for y, x in cells]
    common.write_positions(out, names, found)


if __name__ == "__main__":
    main()
