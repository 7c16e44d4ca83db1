"""What the stage says, and how it is put right.

A camera that is turned against the stage, pixels of another size than believed, axes that are
swapped, run the other way or stand not quite at a right angle: all of it takes a stage offset to a
pixel offset by one 2 x 2 matrix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.mosaic import Mosaic
from mosaicreg.robust import median

MATRIX_PRIOR = 0.02
"""How far the camera's axes may be from the stage's: rotation in radian, error of scale."""


def stage_matrix(told: FloatArray, found: FloatArray) -> FloatArray:
    """(2, 2) matrix from offsets that the stage tells to those found, robust, near the identity.

    The prior keeps a handful of noisy pairs from turning the stage: with offsets of 1000 px and
    stage errors of s px the fit follows the data once about ``(s / 20)**2`` pairs speak.

    Args:
        told, found: (m, 2) offsets (dy, dx) of neighbours, px.
    """
    matrix = np.eye(2)
    if len(told) == 0:
        return matrix
    for _ in range(10):
        misfit = np.linalg.norm(found - told @ matrix.T, axis=1)
        spread = max(1.5 * float(median(misfit)), 0.3)
        weight = 1 / (1 + (misfit / spread) ** 2) ** 2
        normal = (told * weight[:, None]).T @ told + np.eye(2) * (spread / MATRIX_PRIOR) ** 2
        error = (told * weight[:, None]).T @ (found - told)
        matrix = np.eye(2) + np.linalg.solve(normal, error).T
    return matrix


def rearranged(mosaic: Mosaic, matrix: ArrayLike | None, serpentine: bool) -> Mosaic:
    """The mosaic with its positions put right: rows mirrored first, then the matrix applied.

    Args:
        mosaic: the tiles, as the stage has them.
        matrix: (2, 2), (y, x) order, from stage positions to pixels; None for none.
        serpentine: whether every second row was taken in the other direction.
    """
    positions, origin = mosaic.positions, mosaic.origin
    if serpentine:
        positions, origin = mirrored_rows(positions), f"{origin}, every second row mirrored"
    if matrix is not None:
        positions = positions @ np.asarray(matrix, dtype=np.float64).T
        origin = f"{origin}, turned by the stage matrix"
    return mosaic if origin == mosaic.origin else mosaic.moved(positions, origin)


def mirrored_rows(positions: FloatArray) -> FloatArray:
    """Positions with every second row mirrored: what a stage did that ran back and forth."""
    rows = row_numbers(positions)
    out = positions.copy()
    for row in np.unique(rows):
        if row % 2:
            members = rows == row
            x = positions[members, 1]
            out[members, 1] = x.min() + x.max() - x
    return out


def row_numbers(positions: FloatArray) -> IntArray:
    """(n,) number of the row of tiles that each position belongs to, from 0 at the top.

    Rows are told apart by the gaps in y: where the next y is further than a third of the largest
    step, a new row begins.
    """
    y = positions[:, 0]
    order = np.argsort(y, kind="stable")
    steps = np.diff(y[order])
    largest = float(steps.max()) if len(steps) else 0.0
    rows = np.empty(len(y), dtype=np.int64)
    rows[order] = np.concatenate([[0], np.cumsum(steps > max(1.0, largest / 3))])
    return rows
