"""Regular grids of points over an image: control points, and cells to compare.

Row by row, in (y, x) px. Edge to edge, the first point is the first pixel and the last point the
last one, so a transform made of them covers the image. Centred, each point is the middle of a cell,
and cells together cover the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mosaicreg.errors import InputError
from mosaicreg.geometry import FloatArray, IntArray, as_pair

Sizes = tuple[int, int]


@dataclass(frozen=True)
class Division:
    """Points ``first + spacing * (row, column)``.

    Args:
        dims: (rows, columns) of points.
        first: (y, x) of the first one.
        spacing: (y, x) px from one to the next.
    """

    dims: Sizes
    first: tuple[float, float]
    spacing: tuple[float, float]

    @classmethod
    def edge_to_edge(
        cls,
        shape: Sizes,
        *,
        spacing: int | Sizes | None = None,
        dims: Sizes | None = None,
    ) -> Division:
        """Points from the first pixel of an image to its last.

        Args:
            shape: (height, width) of the image, two px or more each.
            spacing: most px between two points, one number or (y, x).
            dims: (rows, columns) of points instead, two or more each.

        Raises:
            InputError: for both or neither, or sizes that cannot be.
        """
        if (spacing is None) == (dims is None):
            raise InputError("a grid of points needs either a spacing or its rows and columns")
        if min(shape) < 2:
            raise InputError(f"an image of {shape} px (height, width) has no two edges")
        if spacing is not None:
            size = _sides(spacing, "spacing")
            dims = (-(-shape[0] // size[0]) + 1, -(-shape[1] // size[1]) + 1)
        assert dims is not None
        if min(dims) < 2:
            raise InputError(f"a grid from edge to edge has 2 x 2 points or more, not {dims}")
        step = ((shape[0] - 1) / (dims[0] - 1), (shape[1] - 1) / (dims[1] - 1))
        return cls(dims, (0.0, 0.0), step)

    @classmethod
    def centred(
        cls, shape: Sizes, cell: int | Sizes, spacing: int | Sizes | None = None
    ) -> Division:
        """Middles of cells; what the cells are too large by hangs over on all sides alike.

        Args:
            shape: (height, width) of the image.
            cell: size of a cell, px, one number or (y, x).
            spacing: px from one cell to the next; ``cell`` where not given, so that they touch.
        """
        size, step = _sides(cell, "cell"), _sides(cell if spacing is None else spacing, "spacing")
        rows, cols = (
            max(1, -(-(n - c) // s) + 1) for n, c, s in zip(shape, size, step, strict=True)
        )
        first = ((shape[0] - (rows - 1) * step[0]) / 2, (shape[1] - (cols - 1) * step[1]) / 2)
        return cls((rows, cols), first, (float(step[0]), float(step[1])))

    def __len__(self) -> int:
        return self.dims[0] * self.dims[1]

    @property
    def coords(self) -> IntArray:
        """(n, 2) row and column of each point."""
        return np.indices(self.dims).reshape(2, -1).T

    @property
    def points(self) -> FloatArray:
        """(n, 2) the points (y, x)."""
        placed: FloatArray = self.coords * np.array(self.spacing) + np.array(self.first)
        return placed


def _sides(value: int | Sizes, what: str) -> Sizes:
    pair = as_pair(value, what)
    if min(pair) < 1:
        raise InputError(f"{what} must be 1 px or more, not {value}")
    return pair
