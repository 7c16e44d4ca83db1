"""Correlation over all shifts of two strips, its peaks, and how far they stand out.

Pure functions on arrays; no files, no dask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import ifft, irfft, next_fast_len, rfft2

from mosaicreg.robust import NORMAL, median_of

Image = NDArray[np.float32]

MIN_AREA = 0.1
"""Shifts whose overlap is a smaller share of the largest possible overlap are not tried."""
MIN_SHIFTS = 25
"""A surface of fewer shifts has no meaningful scatter, so no peak of it can be trusted."""


def correlation_surface(
    f: Image, m: Image, first: NDArray[np.int64], last: NDArray[np.int64]
) -> tuple[Image, NDArray[np.bool_]]:
    """Normalised cross-correlation over the true overlap, for every shift first..last.

    Args:
        f, m: fixed and moving strip, of zero local mean.
        first, last: (y, x) shifts, both included.

    Returns:
        float32 correlation times sqrt(overlap area / largest overlap area), and which shifts count:
        enough overlap, and signal in both strips there. The others are 0.
    """
    size = [
        next_fast_len(int(max(f.shape[k] - first[k], m.shape[k] + last[k])), real=True)
        for k in (0, 1)
    ]
    product, other = rfft2(f, size), rfft2(m, size)
    product *= np.conj(other, out=other)
    rows = np.arange(first[0], last[0] + 1)
    cols = np.arange(first[1], last[1] + 1)
    # Of the way back, only the rows of the window are gone to the end.
    cross = irfft(ifft(product, axis=0, overwrite_x=True)[rows % size[0]], size[1])
    cross = cross[:, cols % size[1]]

    y = _overlap_ends(rows, f.shape[0], m.shape[0])
    x = _overlap_ends(cols, f.shape[1], m.shape[1])
    area = np.multiply.outer(y[1] - y[0], x[1] - x[0])
    energy = _box_sums(f, y[0], y[1], x[0], x[1])
    energy *= _box_sums(m, y[0] - rows, y[1] - rows, x[0] - cols, x[1] - cols)
    norm = np.sqrt(np.maximum(energy, 0))
    valid = (area >= max(1.0, MIN_AREA * area.max())) & (norm > 1e-4 * norm.max())
    height = np.zeros(cross.shape, dtype=np.float32)
    np.divide(cross, norm, out=height, where=valid, casting="same_kind")
    height *= np.sqrt(area / max(1, area.max())).astype(np.float32)
    return height, valid


def _overlap_ends(
    shifts: NDArray[np.int64], n_fixed: int, n_moving: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and end fixed index of the overlap at each shift (equal where there is none)."""
    start = np.clip(shifts, 0, n_fixed)
    return start, np.maximum(start, np.clip(shifts + n_moving, 0, n_fixed))


def _box_sums(
    image: Image,
    y0: NDArray[np.int64],
    y1: NDArray[np.int64],
    x0: NDArray[np.int64],
    x1: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Sum of squares over the boxes y0[i]:y1[i], x0[j]:x1[j], as an (i, j) array."""
    if image.shape[0] < image.shape[1]:  # along the longer axis first, over rows in memory
        return _box_sums(np.ascontiguousarray(image.T), x0, x1, y0, y1).T
    squares = np.square(image, dtype=np.float64)
    return _range_sums(np.ascontiguousarray(_range_sums(squares, y0, y1).T), x0, x1).T


def _range_sums(
    values: NDArray[np.float64], first: NDArray[np.int64], end: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sums of the rows first[i]:end[i], as an (i, ...) array.

    Rows between two neighbouring ends are added up once, then those few sums accumulated.
    """
    cuts = np.unique(np.concatenate([first, end]))
    total = np.zeros((len(cuts), *values.shape[1:]))
    if len(cuts) > 1:
        between = np.add.reduceat(values[: cuts[-1]], cuts[:-1], axis=0)
        np.cumsum(between, axis=0, out=total[1:])
    sums: NDArray[np.float64] = total[np.searchsorted(cuts, end)]
    sums -= total[np.searchsorted(cuts, first)]
    return sums


def find_peaks(
    height: Image, valid: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``count`` highest local maxima (5 x 5) above 0: (k, 2) indices (y, x) and heights."""
    top = np.full((height.shape[0] + 4, height.shape[1] + 4), -1, dtype=height.dtype)
    top[2:-2, 2:-2] = height
    for axis in (0, 1):
        rows = top.swapaxes(0, axis)
        two = np.maximum(rows[:-1], rows[1:])
        top = np.maximum(np.maximum(two[:-3], two[2:-1]), rows[4:]).swapaxes(0, axis)
    where = np.argwhere((height == top) & valid & (height > 0))
    values = height[where[:, 0], where[:, 1]]
    order = np.argsort(-values, kind="stable")[:count]
    return where[order], values[order]


def peak_statistics(
    height: Image,
    valid: NDArray[np.bool_],
    peaks: NDArray[np.int64],
    heights: NDArray[np.float32],
) -> tuple[float, float]:
    """(z, ratio) of the first peak: robust height above the rest, and over the second peak."""
    y, x = peaks[0]
    rest = valid.copy()
    rest[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = False
    values = height[rest]
    if values.size < MIN_SHIFTS // 2:
        return 0.0, 1.0
    middle = median_of(values)
    spread = NORMAL * median_of(np.abs(values - middle))
    z = (heights[0] - middle) / spread if spread > 0 else 0.0
    ratio = heights[0] / heights[1] if len(heights) > 1 else np.inf
    return float(z), float(ratio)


def parabola(height: Image, valid: NDArray[np.bool_], peak: NDArray[np.int64]) -> Any:
    """The peak's index with the vertex of a parabola through each axis' three points."""
    place = peak.astype(np.float64)
    top = (int(peak[0]), int(peak[1]))
    for axis in (0, 1):
        before, after = ((top[0] + s * (1 - axis), top[1] + s * axis) for s in (-1, 1))
        if before[axis] < 0 or after[axis] >= height.shape[axis]:
            continue
        if not (valid[before] and valid[after]):
            continue
        low, middle, high = (float(height[at]) for at in (before, top, after))
        curve = low - 2 * middle + high
        if curve < 0:
            place[axis] += 0.5 * (low - high) / curve
    return place
