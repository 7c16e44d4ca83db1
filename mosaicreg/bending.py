"""A smooth displacement of a grid's vertices from what single cells say, some of which lie.

A cell is believed where it agrees with what its neighbours foretell. Those that are believed pull
at the vertices around them; between them, and where none is, the grid bends as little as it can
(the energy of a thin plate in finite differences: Terzopoulos 1988, The computation of visible
surface representations, section III), one sparse least-squares problem for all vertices.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, diags_array, eye_array, kron, vstack

from mosaicreg.geometry import FloatArray

LEAST_MISFIT = 1.0
"""px; a cell that agrees with its neighbours so well is no outlier, however well others agree."""
OUTLIER = 4.0
"""A cell that disagrees with its neighbours by this many robust standard deviations lies."""
FEW = 2
"""Fewer foretellings than this say nothing about a cell."""
TETHER = 1e-6
"""Weight that keeps a vertex where it is that nothing else holds."""


def consistent(offsets: FloatArray, use: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the cells in use agree with their neighbours.

    Neighbours foretell a cell along eight directions: half way between two on either side, and on
    the line of two on one side. A cell agrees with the median of that.

    Args:
        offsets: (rows, columns, 2) px of a lattice of cells.
        use: (rows, columns) which of them say anything.
    """
    kept = use.copy()
    for _ in range(2):  # the second time without the worst neighbours
        foretold = _foretold(np.where(kept[..., None], offsets, np.nan))
        misfit = np.linalg.norm(offsets - foretold, axis=-1)
        known = use & np.isfinite(misfit)
        if not known.any():
            return use
        spread = 1.4826 * float(np.median(misfit[known & kept])) if (known & kept).any() else 0.0
        kept = use & ~(known & (misfit > max(LEAST_MISFIT, OUTLIER * spread)))
    return kept


def _foretold(values: FloatArray) -> FloatArray:
    """(rows, columns, 2) medians of what the neighbours foretell; NaN where too few do."""
    padded = np.pad(values, ((2, 2), (2, 2), (0, 0)), constant_values=np.nan)
    rows, cols = values.shape[:2]

    def at(y: int, x: int) -> FloatArray:
        part: FloatArray = padded[2 + y : 2 + y + rows, 2 + x : 2 + x + cols]
        return part

    told = []
    for y, x in ((0, 1), (1, 0), (1, 1), (1, -1)):
        told.append((at(y, x) + at(-y, -x)) / 2)
        told += [2 * at(s * y, s * x) - at(2 * s * y, 2 * s * x) for s in (1, -1)]
    stack = np.stack(told)
    few = np.isfinite(stack[..., 0]).sum(axis=0) < FEW
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN: too few, said below
        median = np.nanmedian(stack, axis=0)
    foretold: FloatArray = np.where(few[..., None], np.nan, median)
    return foretold


def fit_vertices(
    places: FloatArray,
    offsets: FloatArray,
    weights: FloatArray,
    dims: tuple[int, int],
    bend: float,
) -> FloatArray:
    """(rows, columns, 2) displacement of a grid's vertices that fits offsets at some places.

    Args:
        places: (n, 2) where they were measured, in rows and columns of the grid.
        offsets: (n, 2) px.
        weights: (n,) 1 / px**2.
        dims: (rows, columns) of vertices.
        bend: px by which three vertices in a row may stand off a line.
    """
    from scipy.sparse.linalg import splu

    inside = interpolation(places, dims)
    stiff = _bending(dims)
    pulled = inside.T @ diags_array(weights) @ inside
    size = dims[0] * dims[1]
    normal = pulled + stiff.T @ stiff / bend**2 + eye_array(size) * TETHER
    right = inside.T @ (weights[:, None] * offsets)
    solved: FloatArray = splu(csc_array(normal)).solve(np.asarray(right))
    return solved.reshape(*dims, 2)


def interpolation(places: FloatArray, dims: tuple[int, int]) -> Any:
    """Sparse (n, rows * columns) matrix from vertices to places.

    Linear in each of the triangles that `mosaicreg.transforms.Grid` is made of.
    """
    limit = np.array(dims) - 1
    base = np.clip(np.floor(places), 0, limit - 1).astype(np.int64)
    u, v = np.clip(places - base, 0, 1).T
    low, high = np.minimum(u, v), np.maximum(u, v)
    first = base[:, 0] * dims[1] + base[:, 1]
    side = np.where(u >= v, first + dims[1], first + 1)
    corners = np.stack([first, side, first + dims[1] + 1], axis=1)
    shares = np.stack([1 - high, high - low, low], axis=1)
    rows = np.repeat(np.arange(len(places)), 3)
    cells = (shares.ravel(), (rows, corners.ravel()))
    return coo_array(cells, shape=(len(places), dims[0] * dims[1])).tocsr()


def _bending(dims: tuple[int, int]) -> Any:
    """Second differences along rows, columns, and (twice, in the energy) along both."""
    (rows, cols) = dims
    same = [eye_array(n) for n in dims]
    parts = []
    if rows > 2:
        parts.append(kron(_second(rows), same[1]))
    if cols > 2:
        parts.append(kron(same[0], _second(cols)))
    parts.append(np.sqrt(2) * kron(_first(rows), _first(cols)))
    return vstack(parts).tocsr()


def _first(n: int) -> Any:
    return diags_array([-np.ones(n - 1), np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n))


def _second(n: int) -> Any:
    one = np.ones(n - 2)
    return diags_array([one, -2 * one, one], offsets=[0, 1, 2], shape=(n - 2, n))


def roughness(offsets: FloatArray, use: NDArray[np.bool_]) -> float:
    """Robust standard deviation of how far a cell stands off the line of its neighbours, px."""
    values = np.where(use[..., None], offsets, np.nan)
    bends = [np.diff(values, 2, axis=k).ravel() for k in (0, 1) if values.shape[k] > 2]
    known = np.concatenate([b[np.isfinite(b)] for b in bends]) if bends else np.empty(0)
    return 1.4826 * float(np.median(np.abs(known))) if known.size else 0.0
