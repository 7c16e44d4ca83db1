"""ITKMontage: phase correlation of all neighbours and its own global optimisation."""

from __future__ import annotations

import common
import itk


def main() -> None:
    """Register."""
    _, tiles, out = common.arguments()
    names, cells, positions = common.stage(tiles)
    rows, columns = (int(n) + 1 for n in cells.max(axis=0))
    image_type = itk.Image[itk.US, 2]
    montage = itk.TileMontage[image_type, itk.F].New()
    montage.SetMontageSize([columns, rows])
    montage.SetPositionTolerance(30)
    for (row, column), name, (y, x) in zip(cells.tolist(), names, positions, strict=True):
        image = itk.imread(str(tiles / name), itk.US)
        image.SetOrigin([float(x), float(y)])
        image.SetSpacing([1.0, 1.0])
        montage.SetInputTile(row * columns + column, image)
    montage.Update()
    found = []
    for (row, column), (y, x) in zip(cells.tolist(), positions, strict=True):
        # The transform takes points of the whole to points of the tile.
        dx, dy = montage.GetOutputTransform([column, row]).GetOffset()
        found.append((y - dy, x - dx))
    common.write_positions(out, names, found)


if __name__ == "__main__":
    main()
