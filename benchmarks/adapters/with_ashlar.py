"""ASHLAR: what its command line does for one cycle, positions written too.

A fourth argument is its ``--filter-sigma``, px.
"""

from __future__ import annotations

import sys

import common


def main() -> None:
    """Register, and write a pyramidal OME-TIFF."""
    step, tiles, out = common.arguments()
    names, cells, _ = common.stage(tiles)
    from ashlar import reg
    from ashlar.filepattern import FilePatternReader

    # A step of 922 px, not 921.6: it drops fractions of stage positions, 0.4 px in each pair.
    reader = FilePatternReader(
        str(tiles),
        "tile_r{row:02}_c{col:02}.tif",
        overlap=102 / 1024,
        pixel_size=common.PIXEL_SIZE,
    )
    sigma = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
    aligner = reg.EdgeAligner(reader, max_shift=30, filter_sigma=sigma, do_make_thumbnail=False)
    aligner.run()
    width = cells[:, 1].max() + 1
    common.write_positions(out, names, aligner.positions[cells[:, 0] * width + cells[:, 1]])
    if step == "stitch":
        mosaic = reg.Mosaic(aligner, aligner.mosaic_shape)
        aligner.reader = aligner.reader.reader
        reg.PyramidWriter([mosaic], str(out / "mosaic.ome.tif"), tile_size=1024).run()


if __name__ == "__main__":
    main()
