"""Where one image lies on another: windowed correlation, peaks, sub-pixel refinement.

Pure functions on arrays; no files, no dask. The method, step by step:

1. `plan_search` cuts the two strips that can overlap for any allowed shift.
2. Strips are variance-stabilised (square root of counts: Anscombe 1948), binned where they are
   wide, and freed of their local mean, so shading and gain do not correlate; outliers are clipped.
3. `correlation_surface`: the normalised cross-correlation of the pixels that truly overlap, for
   every shift in the window, with one real FFT each way (Padfield 2012, Masked object registration
   in the Fourier domain, section 3, for rectangular masks), times the square root of the overlap's
   area. Correlation of n unrelated pixels scatters like 1 / sqrt(n), so that factor makes all
   shifts equally likely to win by chance.
4. The best few peaks are refined by least squares (`mosaicreg.subpixel`); the best refined
   correlation wins.
5. ``z``: how many robust standard deviations the peak stands above the surface. Its distribution
   for images that do not belong together is what `mosaicreg.pairs` calibrates trust with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2

from mosaicreg.alignment import AlignmentRecord
from mosaicreg.geometry import Box
from mosaicreg.subpixel import fit_near

Image = NDArray[np.float32]

FLATTEN = 9
"""Side in (binned) px of the neighbourhood whose mean is removed before correlating."""
CLIP = 6.0
"""Flattened values are clipped at this many robust standard deviations: hot pixels, charging."""
SPIKE = 12.0
"""A pixel this many robust standard deviations off its neighbours is the camera's own."""
MIN_AREA = 0.1
"""Shifts whose overlap is a smaller share of the largest possible overlap are not tried."""
MIN_SHIFTS = 25
"""A surface of fewer shifts has no meaningful scatter, so no peak of it can be trusted."""
CANDIDATES = 5
"""How many peaks are refined where no peak leads clearly: a lattice has many alike."""
GRAIN = 50.0
"""Pixels of texture that say the same thing: an overlap holds as many facts as it holds these."""
REACH = 3.0
"""How far a fit may move away from where it started, px of the strip."""
SAME = 1.5
"""Fits no further apart than this, px, found the same match."""
CLEAR_LEAD = 1.6
"""A peak this many times higher than the next needs no other candidate."""


@dataclass(frozen=True, slots=True)
class Search:
    """Strips of two images that can overlap, and the shifts to try.

    ``fixed`` and ``moving`` are boxes in either image. A shift s puts moving strip pixel p on
    fixed strip pixel p + s; ``first`` and ``last`` (y, x) bound it, both included.
    """

    fixed: Box
    moving: Box
    first: tuple[int, int]
    last: tuple[int, int]

    @property
    def origin(self) -> tuple[int, int]:
        """What to add to a shift of the strips to get the offset of the images."""
        return self.fixed.y0 - self.moving.y0, self.fixed.x0 - self.moving.x0


@dataclass(frozen=True, slots=True)
class Match:
    """Result of comparing two images.

    Args:
        dy, dx: where the moving image's first pixel lies in the fixed image, px.
        sigma: standard error of either, px, from the residual of the fit.
        correlation: normalised cross-correlation over the overlap after alignment.
        z: height of the correlation peak in robust standard deviations of its surface.
        ratio: height of the highest peak over the next one.
        lead: by how many standard deviations the correlation after refinement exceeds that of the
            next candidate; infinite where there was no other: the ratio left no doubt, or all
            peaks were refined to the same place.
    """

    dy: float
    dx: float
    sigma: float
    correlation: float
    z: float
    ratio: float
    lead: float


def plan_search(
    fixed_shape: tuple[int, int],
    moving_shape: tuple[int, int],
    expected: tuple[float, float],
    max_shift: tuple[int, int],
) -> Search | None:
    """The strips and shifts to look at, or None where no allowed shift makes the images overlap.

    Args:
        fixed_shape, moving_shape: (height, width).
        expected: (dy, dx) offset of the moving image's first pixel in the fixed image, px.
        max_shift: (y, x) how far the true offset may be from the expected one, px.
    """
    strips, bounds = [], []
    for axis in (0, 1):
        n_fixed, n_moving = fixed_shape[axis], moving_shape[axis]
        centre = int(np.floor(expected[axis] + 0.5))
        low = max(centre - max_shift[axis], 1 - n_moving)
        high = min(centre + max_shift[axis], n_fixed - 1)
        if low > high:
            return None
        fixed_strip = (max(0, low), min(n_fixed, high + n_moving))
        moving_strip = (max(0, -high), min(n_moving, n_fixed - low))
        strips.append((fixed_strip, moving_strip))
        to_strip = moving_strip[0] - fixed_strip[0]
        bounds.append((low + to_strip, high + to_strip))
    ((fy, my), (fx, mx)) = strips
    return Search(
        fixed=Box(fy[0], fx[0], fy[1], fx[1]),
        moving=Box(my[0], mx[0], my[1], mx[1]),
        first=(bounds[0][0], bounds[1][0]),
        last=(bounds[0][1], bounds[1][1]),
    )


def find_offset(
    fixed: NDArray[Any],
    moving: NDArray[Any],
    expected: tuple[float, float] | None = None,
    max_shift: int | tuple[int, int] | None = None,
) -> AlignmentRecord:
    """How ``moving`` lies on ``fixed``, to a fraction of a pixel.

    Args:
        fixed, moving: (height, width) images of any numeric dtype; NaN pixels are ignored.
        expected: (dy, dx) where the first moving pixel should lie in the fixed image; (0, 0) where
            None.
        max_shift: how far from there to look, px, one number or (y, x). None: everywhere that the
            images overlap by at least a tenth of the smaller one's area.

    Returns:
        A record whose peak is the centre-to-centre vector (for images of one shape: where the first
        moving pixel lies) and whose weight is the height of the correlation peak in robust standard
        deviations; unrelated images reach about 3 to 6. Weight 0 and the expected offset where
        there is no signal: flat images, or none that could overlap.

    Raises:
        ValueError: for images that are not two-dimensional or empty.
    """
    for name, image in (("fixed", fixed), ("moving", moving)):
        if image.ndim != 2 or image.size == 0:
            raise ValueError(
                f"the {name} image must be (height, width), not of shape {image.shape}"
            )
    plan = plan_offset(fixed.shape, moving.shape, expected, max_shift)
    if plan.search is None:
        return plan.record(None)
    strips = fixed[plan.search.fixed.slices], moving[plan.search.moving.slices]
    return find_in_strips(*strips, plan)


@dataclass(frozen=True, slots=True)
class OffsetPlan:
    """What of two images to compare, and how to tell the result.

    Args:
        fixed_shape, moving_shape: (height, width).
        guess: (dy, dx) to answer where there is nothing to measure.
        search: None where no allowed shift makes the images overlap.
    """

    fixed_shape: tuple[int, int]
    moving_shape: tuple[int, int]
    guess: tuple[float, float]
    search: Search | None

    def record(self, match: Match | None) -> AlignmentRecord:
        """The record of a match, or of none."""
        dy, dx = self.guess if match is None else (match.dy, match.dx)
        fixed, moving = self.fixed_shape, self.moving_shape
        peak = (dy - (fixed[0] - moving[0]) / 2, dx - (fixed[1] - moving[1]) / 2)
        return AlignmentRecord(peak, 0.0 if match is None else match.z)


def plan_offset(
    fixed_shape: tuple[int, int],
    moving_shape: tuple[int, int],
    expected: tuple[float, float] | None = None,
    max_shift: int | tuple[int, int] | None = None,
) -> OffsetPlan:
    """The strips that `find_offset` compares, known without a pixel."""
    guess = expected or (0.0, 0.0)
    if max_shift is None:
        reach = (max(fixed_shape[0], moving_shape[0]), max(fixed_shape[1], moving_shape[1]))
    else:
        reach = (max_shift, max_shift) if isinstance(max_shift, int) else max_shift
    search = plan_search(fixed_shape, moving_shape, guess, reach)
    return OffsetPlan(fixed_shape, moving_shape, guess, search)


def find_in_strips(fixed: NDArray[Any], moving: NDArray[Any], plan: OffsetPlan) -> AlignmentRecord:
    """`find_offset` from the strips that ``plan.search`` names."""
    return plan.record(None if plan.search is None else match_strips(fixed, moving, plan.search))


def match_strips(fixed: NDArray[Any], moving: NDArray[Any], search: Search) -> Match | None:
    """Compare the strips that ``search`` describes.

    Args:
        fixed, moving: the pixels of ``search.fixed`` and ``search.moving``.
        search: the shifts to try, as made by `plan_search`.

    Returns:
        The best match, or None where there is no signal: a flat strip or too few shifts.
    """
    strips = Strips.prepare(fixed, moving, search)
    surface = strips and strips.surface(search)
    if not strips or not surface:
        return None
    height, valid, first = surface
    peaks, heights = find_peaks(height, valid, CANDIDATES)
    if len(peaks) == 0:
        return None
    z, ratio = peak_statistics(height, valid, peaks, heights)
    few = 1 if ratio >= CLEAR_LEAD else CANDIDATES
    fits = [refine(strips, first + parabola(height, valid, p)) for p in peaks[:few]]
    winner = max(range(len(fits)), key=lambda k: fits[k].evidence)
    best = fits[winner]
    # Peaks that refinement brings to the same place were one.
    others = [f for f in fits if np.abs(np.subtract(f.shift, best.shift)).max() > SAME]
    lead = np.inf
    if others:
        lead = (best.evidence - max(f.evidence for f in others)) / np.sqrt(2)
    z *= float(heights[winner] / heights[0])
    return Match(
        dy=best.shift[0] + search.origin[0],
        dx=best.shift[1] + search.origin[1],
        sigma=best.sigma,
        correlation=best.correlation,
        z=z,
        ratio=ratio,
        lead=float(lead),
    )


def rough_match(
    fixed: NDArray[Any], moving: NDArray[Any], search: Search
) -> tuple[float, float, float] | None:
    """(z, dy, dx) as `match_strips` finds them, without refinement: the peak as it stands."""
    strips = Strips.prepare(fixed, moving, search)
    surface = strips and strips.surface(search)
    if not strips or not surface:
        return None
    height, valid, first = surface
    peaks, heights = find_peaks(height, valid, 2)
    if len(peaks) == 0:
        return None
    dy, dx = (first + parabola(height, valid, peaks[0])) * strips.bin_by + search.origin
    return peak_statistics(height, valid, peaks, heights)[0], float(dy), float(dx)


@dataclass(frozen=True, slots=True)
class Strips:
    """Two stabilised strips, as they are and binned."""

    fixed: Image
    moving: Image
    bin_by: int
    binned: tuple[Image, Image]

    @classmethod
    def prepare(cls, fixed: NDArray[Any], moving: NDArray[Any], search: Search) -> Strips | None:
        """None where a strip is flat."""
        f, m = stabilise(fixed), stabilise(moving)
        if f is None or m is None:
            return None
        bin_by = _binning(search)
        return cls(f, m, bin_by, (bin_mean(f, bin_by), bin_mean(m, bin_by)))

    def surface(self, search: Search) -> tuple[Image, NDArray[np.bool_], NDArray[np.int64]] | None:
        """Correlation over binned shifts, which of them count, and the first (y, x)."""
        f, m = (flatten(strip) for strip in self.binned)
        if not (f.any() and m.any()):
            return None
        first = np.floor(np.array(search.first) / self.bin_by).astype(np.int64)
        last = np.ceil(np.array(search.last) / self.bin_by).astype(np.int64)
        height, valid = correlation_surface(f, m, first, last)
        return (height, valid, first) if np.count_nonzero(valid) >= MIN_SHIFTS else None


def stabilise(strip: NDArray[Any]) -> Image | None:
    """Pixels as float32 of even noise: the square root of counts, other types as they are.

    NaN and infinite pixels take the mean of the others. None where nothing varies.
    """
    if strip.dtype.kind in "ub":
        x = np.sqrt(strip, dtype=np.float32)
    else:
        x = strip.astype(np.float32)
        bad = ~np.isfinite(x)
        if bad.any():
            if bad.all():
                return None
            x[bad] = x[~bad].mean(dtype=np.float64)
    if x.size == 0 or x.min() == x.max():
        return None
    return despike(x)


def despike(image: Image) -> Image:
    """The image without single pixels, rows or columns that stick out: hot and dead ones.

    They lie at the same place of the camera in every tile, and one of them outweighs all texture.
    Looked for on every fourth row first, since most cameras have none.
    """
    sample = image[:: 4 if image.shape[0] > 16 else 1]
    if min(image.shape) < 3:
        return image
    bend = np.abs(sample[:, 1:-1] - (sample[:, :-2] + sample[:, 2:]) * np.float32(0.5))
    some = bend[:, :: 3 if bend.shape[1] > 12 else 1]
    spread = np.float32(1.4826) * np.median(some)
    if spread == 0 and some.any():
        # More than half is exactly flat (saturated, or a background of zeros): that is no scatter.
        spread = np.float32(1.4826) * np.median(some[some > 0])
    if not (bend > SPIKE * spread).any():
        return image
    margin = np.float32(3) * spread
    for view in (image.T, image):
        low = np.minimum(view[:-2], view[2:]) - margin
        high = np.maximum(view[:-2], view[2:]) + margin
        np.clip(view[1:-1], low, high, out=view[1:-1])
    return image


def _binning(search: Search) -> int:
    """1, 2 or 4: how many pixels to average, from the overlap expected (the middle of the shifts).

    Averaging costs little (40 binned pixels across the seam tell shifts apart as well) and makes
    the transform and all that follows 4 or 16 times cheaper.
    """
    across = min(
        min(f, s + m) - max(0, s)
        for f, m, s in zip(
            search.fixed.shape,
            search.moving.shape,
            ((a + b) // 2 for a, b in zip(search.first, search.last, strict=True)),
            strict=True,
        )
    )
    return 4 if across >= 320 else 2 if across >= 80 else 1


def bin_mean(image: Image, by: int) -> Image:
    """Mean of every ``by`` x ``by`` pixels (1 or an even number); an incomplete last row is cut."""
    while by > 1 and min(image.shape) >= 2:
        height, width = (n // 2 * 2 for n in image.shape)
        rows = image[0:height:2, :width] + image[1:height:2, :width]
        image = (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)
        by //= 2
    return image


def flatten(image: Image) -> Image:
    """The image without its local mean, clipped at `CLIP` robust standard deviations."""
    sums = np.pad(image, FLATTEN // 2, mode="symmetric")
    for axis in (0, 1):
        sums = _nine_sums(sums.swapaxes(0, axis)).swapaxes(0, axis)
    flat = np.multiply(sums, np.float32(-1 / FLATTEN**2))
    flat += image
    spread = np.float32(1.4826) * np.median(np.abs(flat[::2, ::2]))
    if spread > 0:
        np.clip(flat, -CLIP * spread, CLIP * spread, out=flat)
    return flat


def _nine_sums(rows: Image) -> Image:
    """Sums of every `FLATTEN` = 9 rows that follow each other: by doubling, four additions."""
    two = rows[:-1] + rows[1:]
    four = two[:-2] + two[2:]
    eight = four[:-4] + four[4:]
    sums: Image = eight[:-1] + rows[8:]
    return sums


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
    product = rfft2(f, size)
    product *= np.conj(rfft2(m, size))
    rows = np.arange(first[0], last[0] + 1)
    cols = np.arange(first[1], last[1] + 1)
    cross = irfft2(product, size)[np.ix_(rows % size[0], cols % size[1])]

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
    squares = np.square(image, dtype=np.float64)
    return _range_sums(_range_sums(squares, y0, y1).T, x0, x1).T


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
    top = np.pad(height, 2, constant_values=-1)
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
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    z = (heights[0] - middle) / spread if spread > 0 else 0.0
    ratio = heights[0] / heights[1] if len(heights) > 1 else np.inf
    return float(z), float(ratio)


def parabola(height: Image, valid: NDArray[np.bool_], peak: NDArray[np.int64]) -> Any:
    """The peak's index with the vertex of a parabola through each axis' three points."""
    place = peak.astype(np.float64)
    for axis in (0, 1):
        step = np.array([1 - axis, axis])
        ends = np.stack([peak - step, peak + step])
        if (ends < 0).any() or (ends >= height.shape).any() or not valid[tuple(ends.T)].all():
            continue
        low, high = height[tuple(ends.T)].astype(np.float64)
        curve = low - 2 * height[tuple(peak)] + high
        if curve < 0:
            place[axis] += 0.5 * (low - high) / curve
    return place


@dataclass(frozen=True, slots=True)
class Fit:
    """A refined shift (y, x) of the moving strip, its standard error, and how well it fits.

    ``evidence`` compares candidates: Fisher's transform of the correlation in standard deviations,
    whose spread does not depend on the correlation or the size of the overlap (Fisher 1921).
    """

    shift: tuple[float, float]
    sigma: float
    correlation: float
    evidence: float


def refine(strips: Strips, start: NDArray[np.float64]) -> Fit:
    """The shift near ``start`` at which the strips agree best, by least squares.

    First on the binned strips, well smoothed where they are not binned at all: those converge from
    further away. Then on the full, hardly smoothed ones: detail is where the shift is known best.

    Args:
        strips: as prepared.
        start: (y, x) shift of the moving strip, in binned px. A fit that leaves it by more than
            `REACH` is not believed; what was found before stands, with a large sigma.
    """
    binned = strips.bin_by > 1
    shift = np.asarray(start, dtype=np.float64)
    rough = fit_near(*strips.binned, shift, REACH, 4 if binned else 8, fine=False)
    shift = (shift if rough is None else rough.shift) * strips.bin_by
    fine = fit_near(strips.fixed, strips.moving, shift, REACH, 2, fine=True)
    if fine is None:
        return Fit((float(shift[0]), float(shift[1])), REACH * strips.bin_by, 0.0, 0.0)
    surprise = np.arctanh(min(fine.correlation, 1 - 1e-6)) * np.sqrt(fine.area / GRAIN)
    return Fit(
        shift=(float(fine.shift[0]), float(fine.shift[1])),
        sigma=fine.sigma,
        correlation=fine.correlation,
        evidence=float(surprise),
    )
