"""Correlation over all shifts of two strips, its peaks, and how far they stand out.

Pure functions on arrays; no files, no dask.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicreg.fourier import transforms
from mosaicreg.robust import NORMAL, median_of

Image = NDArray[np.float32]

MIN_AREA = 0.1
"""Shifts whose overlap is a smaller share of the largest possible overlap are not tried."""
KEPT_SHIFTS = 1 << 16
"""Windows of no more shifts are kept for the next strips of the same shapes."""
MOST_COVER = 1 << 13
"""Numbers of a matrix up to which its product is faster than accumulated sums."""
MIN_SHIFTS = 25
"""A surface of fewer shifts has no meaningful scatter, so no peak of it can be trusted."""


class Side(NamedTuple):
    """What one of two strips brings to their correlation.

    Args:
        spectrum: complex64, its transform, padded to the window's length.
        norm: float32, the root of the sum of its squares over the overlap at every shift.
    """

    spectrum: NDArray[np.complex64]
    norm: Image


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
    window = Window.of(f.shape, m.shape, first, last)
    return window.surface(window.fixed(f), window.moving(m))


class Window(NamedTuple):
    """The shifts to try between strips of two shapes, and what follows from these alone.

    Args:
        axes: y and x.
        long, short: which of them is padded to the larger size, and the other one.
        enough: (y, x) whether the overlap is large enough at each shift.
        weight: (y, x) float32 sqrt(overlap area / largest overlap area) at each shift.
    """

    axes: tuple[_Axis, _Axis]
    long: int
    short: int
    enough: NDArray[np.bool_]
    weight: Image

    @classmethod
    def of(
        cls,
        fixed: tuple[int, ...],
        moving: tuple[int, ...],
        first: NDArray[np.int64],
        last: NDArray[np.int64],
    ) -> Window:
        """The shifts first..last, (y, x), of strips of these shapes.

        Strips of a mosaic have few shapes, so small windows met before are kept.
        """
        y, x = zip(fixed, moving, first.tolist(), last.tolist(), strict=True)
        kept = (y[3] - y[2] + 1) * (x[3] - x[2] + 1) <= KEPT_SHIFTS
        return _kept_window(y, x) if kept else cls._between(y, x)

    @property
    def is_kept(self) -> bool:
        """Whether the next strips of these shapes will meet this very object."""
        return self.weight.size <= KEPT_SHIFTS

    @classmethod
    def _between(cls, y: _Line, x: _Line) -> Window:
        axes = _Axis.of(*y), _Axis.of(*x)
        area = np.multiply.outer(*(axis.fixed.lengths for axis in axes))
        long = int(axes[1].size > axes[0].size)
        return cls(
            axes=axes,
            long=long,
            short=1 - long,
            enough=area >= max(1.0, MIN_AREA * area.max()),
            weight=np.sqrt(area / max(1, area.max())).astype(np.float32),
        )

    def fixed(self, f: Image) -> Side:
        """What the fixed strip brings."""
        ranges = (self.axes[0].fixed, self.axes[1].fixed)
        return Side(self._spectrum(f), self._norm(f, ranges))

    def moving(self, m: Image) -> Side:
        """What the moving strip brings; its spectrum is conjugate."""
        ranges = (self.axes[0].moving, self.axes[1].moving)
        spectrum = self._spectrum(m)
        return Side(np.conj(spectrum, out=spectrum), self._norm(m, ranges))

    def _spectrum(self, image: Image) -> NDArray[np.complex64]:
        # Along the long axis first: what the short one is padded with need not be transformed.
        half = transforms().rfft(image, self.axes[self.long].size, self.long)
        return transforms().fft(half, self.axes[self.short].size, self.short)

    def _norm(self, image: Image, ranges: tuple[_Ranges, _Ranges]) -> Image:
        sums: NDArray[Any] = np.square(image)
        for axis in (self.long, self.short):
            sums = ranges[axis].sums(sums, axis)
        # Of sums that are differences rounding may leave less than nothing.
        norm: Image = np.sqrt(np.maximum(sums, 0), dtype=np.float32)
        return norm

    def surface(self, fixed: Side, moving: Side) -> tuple[Image, NDArray[np.bool_]]:
        """See `correlation_surface`."""
        cross = fixed.spectrum * moving.spectrum
        # Back along the long axis goes only what is in the window.
        back = transforms()
        for transform, axis in ((back.ifft, self.short), (back.irfft, self.long)):
            cross = transform(cross, self.axes[axis].size, axis)
            cross = cross.take(self.axes[axis].places, axis)
        norm = fixed.norm * moving.norm
        valid = self.enough & (norm > 1e-4 * norm.max())
        height = np.zeros(norm.shape, dtype=np.float32)
        np.divide(cross, norm, out=height, where=valid)
        height *= self.weight
        return height, valid


_Line = tuple[int, int, int, int]
"""Along one axis: pixels of the fixed and of the moving strip, first and last shift."""


@lru_cache(maxsize=16)
def _kept_window(y: _Line, x: _Line) -> Window:
    return Window._between(y, x)


class _Axis(NamedTuple):
    """One axis of a window.

    Args:
        size: that strips are padded to.
        places: of the shifts in a circular correlation of that size.
        fixed, moving: the range of either strip that overlaps, for each shift.
    """

    size: int
    places: NDArray[np.int64]
    fixed: _Ranges
    moving: _Ranges

    @classmethod
    def of(cls, n_fixed: int, n_moving: int, first: int, last: int) -> _Axis:
        """See `_Line`."""
        size = transforms().fast_length(max(n_fixed - first, n_moving + last))
        shifts = np.arange(first, last + 1)
        start = np.clip(shifts, 0, n_fixed)
        end = np.maximum(start, np.clip(shifts + n_moving, 0, n_fixed))
        fixed, moving = _Ranges.of(start, end), _Ranges.of(start - shifts, end - shifts)
        return cls(size, shifts % size, fixed, moving)


class _Ranges(NamedTuple):
    """Ranges of rows.

    Args:
        cuts: where any of them starts or ends, in order.
        first, end: of each, as an index of ``cuts``; equal where it is empty.
        wide: which parts between two cuts have several rows. Ranges of neighbouring shifts start
            and end at neighbouring rows, so these are few.
        cover: (ranges, parts between cuts) 1 where the range holds the part; none for many.
    """

    cuts: NDArray[np.int64]
    first: NDArray[np.int64]
    end: NDArray[np.int64]
    wide: list[int]
    cover: Image | None

    @classmethod
    def of(cls, first: NDArray[np.int64], end: NDArray[np.int64]) -> _Ranges:
        """The ranges first[i]:end[i]."""
        cuts, places = np.unique(np.concatenate([first, end]), return_inverse=True)
        first, end = np.split(places, 2)
        parts = np.arange(len(cuts) - 1)
        cover = None
        if len(first) * len(parts) <= MOST_COVER:
            inside = (first[:, None] <= parts) & (parts < end[:, None])
            cover = inside.astype(np.float32)
        wide: list[int] = np.flatnonzero(np.diff(cuts) > 1).tolist()
        return cls(cuts, first, end, wide, cover)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Rows of each."""
        return self.cuts[self.end] - self.cuts[self.first]

    def sums(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Sums along ``axis`` over each range.

        What lies between two neighbouring cuts is added up once, then those few sums: by a product
        of matrices where they are few, else accumulated, in float64.
        """
        if len(self.cuts) == 1:  # all of them are empty
            return np.zeros_like(values.take(self.first, axis))
        rows = values.swapaxes(0, axis)
        between = values.take(self.cuts[:-1], axis).swapaxes(0, axis)
        for part in self.wide:
            some = rows[self.cuts[part] : self.cuts[part + 1]]
            between[part] = np.ones(len(some), rows.dtype) @ some
        sums: NDArray[Any]
        if self.cover is not None:
            sums = self.cover @ between
        else:
            total = np.insert(np.cumsum(between, axis=0, dtype=np.float64), 0, 0, axis=0)
            sums = total.take(self.end, 0)
            sums -= total.take(self.first, 0)
        return sums.swapaxes(0, axis)


def find_peaks(
    height: Image, valid: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``count`` highest local maxima (5 x 5) above 0: (k, 2) indices (y, x) and heights.

    ``height`` is 0 where it is not ``valid``.
    """
    if count == 1:
        best = np.array([height.argmax()])[: int(height.max() > 0)]
        return np.stack(np.divmod(best, height.shape[1]), axis=1), height.ravel()[best]
    top = np.full((height.shape[0] + 4, height.shape[1] + 4), -1, dtype=height.dtype)
    top[2:-2, 2:-2] = height
    for axis in (0, 1):
        rows = top.swapaxes(0, axis)
        two = np.maximum(rows[:-1], rows[1:])
        top = np.maximum(np.maximum(two[:-3], two[2:-1]), rows[4:]).swapaxes(0, axis)
    where = np.flatnonzero((height == top) & (height > 0) & valid)
    values = height.ravel()[where]
    order = np.argsort(-values, kind="stable")[:count]
    return np.stack(np.divmod(where[order], height.shape[1]), axis=1), values[order]


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
