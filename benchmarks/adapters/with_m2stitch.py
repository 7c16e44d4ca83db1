"""m2stitch: positions from all tiles in memory, which is the only way it knows."""

from __future__ import annotations

import common
import numpy as np


def main() -> None:
    """Register."""
    _, tiles, out = common.arguments()
    names, cells, positions = common.stage(tiles)
    import m2stitch
    import tifffile

    images = np.stack([tifffile.imread(tiles / name) for name in names])
    grid, _ = m2stitch.stitch_images(
        images,
        rows=cells[:, 0].tolist(),
        cols=cells[:, 1].tolist(),
        position_initial_guess=positions,
        row_col_transpose=False,
        ncc_threshold=0.1,
    )
    # Where rows and columns are not swapped, it says x for the row's axis.
    common.write_positions(out, names, grid[["y_pos", "x_pos"]].to_numpy())


if __name__ == "__main__":
    main()
