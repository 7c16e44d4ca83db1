"""`refine`: a transform between two sections, bent until they agree cell by cell.

The moving image is drawn in the fixed one's space as the transform has it, and cells of both are
compared (`mosaicreg.displacements`); a grid over the moving image takes up what they say
(`mosaicreg.bending`); and again, until nothing moves any more. Each pass starts from a better
transform, so cells show less and less distortion within themselves and match the better.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.bending import consistent, fit_vertices, roughness
from mosaicreg.cluster import Progress
from mosaicreg.displacements import Cells, measure_cells
from mosaicreg.divisions import Division
from mosaicreg.errors import InputError
from mosaicreg.geometry import FloatArray
from mosaicreg.reducing import Plane, open_plane, reduce_plane, reduction
from mosaicreg.transforms import Grid, Transform

CELL, SPACING, PASSES = 128, 96, 6
"""Defaults: side of a cell, px from one to the next, most passes."""
OVERVIEW = 512
"""Longest side in px of the overview that tells where an image is empty."""
GROUND = 0.2
"""px; no cell says where it lies better than this, whatever its standard error: tissue is soft."""
SURE = 0.5
"""Cells of less confidence are left out."""
LEAST_BEND, MOST_BEND = 0.05, 10.0
"""px by which three vertices in a row may stand off a line, at least and at most."""
STILL, BETTER = 0.05, 0.9
"""The work is done when half of the cells are off by less than this many px, or by more than this
share of what they were off before."""
LEAST_SHIFT = 16
"""px per axis by which a cell may be off in the later passes, at least."""
LEAST_CELLS = 4
"""Fewer cells that agree do not bend anything."""


@dataclass(frozen=True, eq=False)
class Refinement:
    """A refined transform, and what it rests on.

    Args:
        transform: from the moving image's pixels to the fixed one's: a grid over the moving image.
        cells: what was found in the last pass; the grid has taken up these offsets, too.
        used: (n,) which of the cells held the grid.
        moved: median length of the offsets of cells used, px, in each pass.
    """

    transform: Grid
    cells: Cells
    used: NDArray[np.bool_]
    moved: tuple[float, ...]

    @property
    def trusted(self) -> float:
        """Share of the cells with pixels of both images that held the grid, 0 to 1."""
        compared = int(self.cells.compared.sum())
        return float(self.used.sum()) / compared if compared else 0.0

    def __repr__(self) -> str:
        compared = int(self.cells.compared.sum())
        moved = ", ".join(f"{m:.2f}" for m in self.moved)
        return (
            f"Refinement: {int(self.used.sum())} of {compared} cells used; median offset of a cell "
            f"in each pass, px: {moved}"
        )


def refine(
    fixed: Any,
    moving: Any,
    transform: Transform,
    *,
    cell: int = CELL,
    spacing: int = SPACING,
    passes: int = PASSES,
    max_shift: int | None = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    progress: Progress | None = None,
) -> Refinement:
    """Bend a transform until two images agree cell by cell.

    Args:
        fixed, moving: (height, width) numpy, dask or zarr arrays, or paths of image files, of any
            size: tasks read windows of them.
        transform: from the moving image's pixels to the fixed one's, about.
        cell: side of the cells that are compared, px.
        spacing: px from one cell to the next, and from one vertex of the grid to the next.
        passes: most times that all cells are compared.
        max_shift: how far, px per axis, the transform may be off; a quarter of a cell where None.
        fixed_mask, moving_mask: as the images, True where pixels count. Pixels that are NaN, and
            large regions of the least or the greatest value, do not count anyway.
        progress: called with (stage, done, total).

    Returns:
        The grid, and how well it is founded: `Refinement.trusted` is the share of cells that agree
        with their neighbours beyond chance.

    Raises:
        InputError: for images, masks or options that cannot be.
    """
    planes = (
        open_plane(fixed, fixed_mask, name="fixed image"),
        open_plane(moving, moving_mask, name="moving image"),
    )
    return refine_planes(*planes, transform, cell, spacing, passes, max_shift, progress)


def refine_planes(
    fixed: Plane,
    moving: Plane,
    transform: Transform,
    cell: int = CELL,
    spacing: int = SPACING,
    passes: int = PASSES,
    max_shift: int | None = None,
    progress: Progress | None = None,
) -> Refinement:
    """`refine` of planes that are open already."""
    if not isinstance(transform, Transform):
        raise InputError(f"a transform is expected, not {type(transform).__name__}")
    if cell < 32 or spacing < 16 or passes < 1:
        raise InputError(
            f"cells are 32 px or more, 16 px or more apart, compared once or more; not {cell} px, "
            f"{spacing} px, {passes} times"
        )
    reach = max(LEAST_SHIFT, cell // 4 if max_shift is None else max_shift)
    fixed, moving = (_with_empty(p, progress) for p in (fixed, moving))
    vertices = Division.edge_to_edge(moving.shape, spacing=spacing)
    height, width = moving.shape
    rows, cols = vertices.dims
    grid = Grid.sampled(transform, (0, 0, height - 1, width - 1), (rows - 1, cols - 1))
    lattice = Division.centred(fixed.shape, cell, spacing)
    moved: list[float] = []
    for number in range(1, passes + 1):
        stage = f"pass {number}"
        cells = measure_cells(fixed, moving, grid, lattice.points, cell, reach, progress, stage)
        used = _agreeing(cells, lattice.dims)
        moved.append(_typical(cells, used))
        if used.sum() < LEAST_CELLS:
            break
        grid = _bent(grid, vertices, cells, used, lattice.dims)
        if moved[-1] < STILL or (number > 1 and moved[-1] > BETTER * moved[-2]):
            break
        spread = np.abs(cells.offsets[used]).max()
        reach = int(np.clip(np.ceil(spread), LEAST_SHIFT, reach))
    return Refinement(grid, cells, used, tuple(moved))


def _with_empty(plane: Plane, progress: Progress | None) -> Plane:
    small = reduce_plane(plane, reduction(plane.shape, OVERVIEW), progress)
    return replace(plane, empty=small.empty)


def _agreeing(cells: Cells, dims: tuple[int, int]) -> NDArray[np.bool_]:
    """Cells that are sure and agree with their neighbours."""
    sure = (cells.confidence >= SURE) & cells.compared
    agree = consistent(cells.offsets.reshape(*dims, 2), sure.reshape(dims))
    used: NDArray[np.bool_] = agree.ravel()
    return used


def _typical(cells: Cells, used: NDArray[np.bool_]) -> float:
    lengths = np.linalg.norm(cells.offsets[used], axis=1)
    return float(np.median(lengths)) if lengths.size else 0.0


def _bent(
    grid: Grid, vertices: Division, cells: Cells, used: NDArray[np.bool_], dims: tuple[int, int]
) -> Grid:
    """The grid, moved by what the cells say."""
    offsets: FloatArray = cells.offsets[used]
    rough = roughness(cells.offsets.reshape(*dims, 2), used.reshape(dims))
    bend = float(np.clip(rough, LEAST_BEND, MOST_BEND))
    places = (cells.source[used] - vertices.first) / vertices.spacing
    weights = cells.confidence[used] / (cells.sigma[used] ** 2 + GROUND**2)
    moves = fit_vertices(places, offsets, weights, vertices.dims, bend)
    return Grid(grid.vertices + moves, grid.origin, grid.size)
