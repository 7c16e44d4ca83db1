"""Where one image lies on another: windowed correlation, peaks, sub-pixel refinement.

Pure functions on arrays; no files, no dask. The method, step by step:

1. `plan_search` cuts the two strips that can overlap for any allowed shift.
2. Strips are variance-stabilised (square root of counts: Anscombe 1948), binned where they are
   wide, and freed of their local mean, so shading and gain do not correlate; outliers are clipped.
3. `correlation_surface`: the normalised cross-correlation of the pixels that truly overlap, for
   every shift in the window, with one real FFT each way (Padfield 2012, Masked object registration
   in the Fourier domain, section 3, for rectangular masks), times the square root of the overlap's
   area. Correlation of n unrelated pixels scatters like 1 / sqrt(n), so that factor makes all
   shifts equally likely to win by chance. Where its peak is faint, strips binned once more are
   tried too: they show what noise or blur left of the texture.
4. The best few peaks are refined by least squares (`mosaicreg.subpixel`); the best refined
   correlation wins.
5. ``z``: how many robust standard deviations the peak stands above the surface. Its distribution
   for images that do not belong together is what `mosaicreg.pairs` calibrates trust with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicreg.strips import FLATTEN, Search, bin_mean, binning, flatten, plan_search, stabilise
from mosaicreg.subpixel import fit_near
from mosaicreg.surface import (
    MIN_SHIFTS,
    Side,
    Window,
    find_peaks,
    parabola,
    peak_statistics,
)

if TYPE_CHECKING:
    from mosaicreg.alignment import AlignmentRecord

Image = NDArray[np.float32]

CANDIDATES = 5
"""How many peaks are refined where no peak leads clearly: a lattice has many alike."""
GRAIN = 50.0
"""Pixels of texture that say the same thing: an overlap holds as many facts as it holds these."""
REACH = 3.0
"""How far a fit may move away from where it started, px of the strip."""
NEAR = 0.5
"""How far it may move from a clear peak, px; else it starts anew, from binned strips."""
SURE = 0.1
"""And how well it must know the shift, px: fine detail that is mostly noise leads astray."""
SAME = 1.5
"""Fits no further apart than this, px, found the same match."""
CLEAR_LEAD = 1.6
"""A peak this many times higher than the next needs no other candidate."""
FAINT = 10.0
"""A peak of fewer robust standard deviations is looked for on coarser strips, too."""


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


class OffsetPlan(NamedTuple):
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
        from mosaicreg.alignment import AlignmentRecord  # and all transforms: no mosaic needs them

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
    return None if strips is None else match_prepared(strips, search)


def match_prepared(strips: Strips, search: Search) -> Match | None:
    """`match_strips` of strips that are prepared."""
    look = _look(strips.binned, search)
    if look is None:
        return None
    fits = [refine(strips, look.pair, start, len(look.starts) == 1) for start in look.starts]
    winner = max(range(len(fits)), key=lambda k: fits[k].evidence)
    best = fits[winner]
    # Peaks that refinement brings to the same place were one.
    others = [f for f in fits if np.abs(np.subtract(f.shift, best.shift)).max() > SAME]
    lead = np.inf
    if others:
        lead = (best.evidence - max(f.evidence for f in others)) / np.sqrt(2)
    return Match(
        dy=best.shift[0] + search.origin[0],
        dx=best.shift[1] + search.origin[1],
        sigma=best.sigma,
        correlation=best.correlation,
        z=look.z * float(look.heights[winner] / look.heights[0]),
        ratio=look.ratio,
        lead=float(lead),
    )


def rough_match(
    fixed: NDArray[Any], moving: NDArray[Any], search: Search
) -> tuple[float, float, float] | None:
    """(z, dy, dx) as `match_strips` finds them, without refinement: the peak as it stands."""
    strips = Strips.prepare(fixed, moving, search)
    return None if strips is None else rough_prepared(strips.binned, search)


def rough_prepared(pair: BinnedPair, search: Search) -> tuple[float, float, float] | None:
    """`rough_match` of strips that are prepared."""
    look = _look(pair, search, 1)
    if look is None:
        return None
    dy, dx = look.starts[0] * look.pair[0].by + search.origin
    return look.z, float(dy), float(dx)


def _look(pair: BinnedPair, search: Search, most: int = CANDIDATES) -> _Look | None:
    """The peaks of the strips, ``most`` at most; of coarser strips where faint, and higher there.

    Noise and blur leave the coarse texture, and binning takes half of the noise away. Strips that
    do not belong together are given the same choice, so the null knows what it is worth.
    """
    look = _Look.at(pair, search, most)
    if look is None or look.z >= FAINT:
        return look
    # Where binning once more leaves too little, the strips stay as they are.
    if min(n for strip in pair for n in strip.image.shape) < 2 * FLATTEN:
        return look
    second = _Look.at((pair[0].coarser, pair[1].coarser), search, most)
    return second if second and second.z > look.z else look


class _Look(NamedTuple):
    """The highest peaks of the correlation of two strips.

    Args:
        pair: what was correlated.
        starts: (y, x) shift of each peak in question, the highest first, in the strips' binned px.
        heights: of the peaks.
        z, ratio: of the highest, see `Match`.
    """

    pair: BinnedPair
    starts: list[NDArray[np.float64]]
    heights: NDArray[np.float32]
    z: float
    ratio: float

    @classmethod
    def at(cls, pair: BinnedPair, search: Search, most: int) -> _Look | None:
        """None where there is no peak, or too few shifts to judge one."""
        if pair[0].is_flat or pair[1].is_flat:
            return None
        first, last = binned_shifts(search, pair[0].by)
        window = Window.of(pair[0].flat.shape, pair[1].flat.shape, first, last)
        height, valid = window.surface(pair[0].as_fixed(window), pair[1].as_moving(window))
        if np.count_nonzero(valid) < MIN_SHIFTS:
            return None
        # Its ratio to the second one tells whether the highest peak is enough.
        peaks, heights = find_peaks(height, valid, CANDIDATES if most > 1 else 1)
        if len(peaks) == 0:
            return None
        z, ratio = peak_statistics(height, valid, peaks, heights)
        few = 1 if ratio >= CLEAR_LEAD else most
        starts = [first + parabola(height, valid, p) for p in peaks[:few]]
        return cls(pair, starts, heights, z, ratio)


@dataclass(frozen=True)
class Binned:
    """A stabilised strip, binned. Null pairs compare it again, so what is derived of it is kept.

    Args:
        image: means of ``by`` x ``by`` px.
        flat: the same without its local mean: what is correlated.
    """

    image: Image
    flat: Image
    by: int
    _sides: dict[Any, tuple[Window, Side]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, image: Image, by: int) -> Binned:
        """From pixels that are binned."""
        return cls(image, flatten(image), by)

    @cached_property
    def is_flat(self) -> bool:
        """Whether there is nothing to correlate."""
        return float(np.vdot(self.flat, self.flat)) == 0

    @cached_property
    def coarser(self) -> Binned:
        """The same strip, binned once more."""
        return Binned.of(bin_mean(self.image, 2), 2 * self.by)

    def as_fixed(self, window: Window) -> Side:
        """What the strip brings to a correlation as the fixed one."""
        return self._side(window, Window.fixed)

    def as_moving(self, window: Window) -> Side:
        """What it brings as the moving one."""
        return self._side(window, Window.moving)

    def _side(self, window: Window, make: Callable[[Window, Image], Side]) -> Side:
        known, side = self._sides.get(make, (None, None))
        if side is None or known is not window:
            side = make(window, self.flat)
            if window.is_kept:
                self._sides[make] = window, side
        return side

    def cut(self, shape: tuple[int, ...]) -> Binned:
        """The first rows and columns."""
        if self.image.shape == shape:
            return self
        rows, cols = shape
        return Binned(self.image[:rows, :cols], self.flat[:rows, :cols], self.by)


BinnedPair = tuple[Binned, Binned]
"""The fixed and the moving strip, binned alike."""


def binned_shifts(search: Search, by: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last (y, x) shift of strips binned by so much, both included."""
    first, last = ((s // by for s in search.first), (-(-s // by) for s in search.last))
    return np.array([*first]), np.array([*last])


class Strips(NamedTuple):
    """The fixed and the moving strip, stabilised, as they are and binned."""

    fixed: Image
    moving: Image
    binned: BinnedPair

    @classmethod
    def prepare(cls, fixed: NDArray[Any], moving: NDArray[Any], search: Search) -> Strips | None:
        """None where a strip is flat."""
        by, made = binning(search), []
        for strip in (fixed, moving):  # one after the other, while a core's cache holds it
            image = stabilise(strip)
            if image is None:
                return None
            made.append((image, Binned.of(bin_mean(image, by), by)))
        (f, f_binned), (m, m_binned) = made
        return cls(f, m, (f_binned, m_binned))


class Fit(NamedTuple):
    """A refined shift (y, x) of the moving strip, its standard error, and how well it fits.

    ``evidence`` compares candidates: Fisher's transform of the correlation in standard deviations,
    whose spread does not depend on the correlation or the size of the overlap (Fisher 1921).
    """

    shift: tuple[float, float]
    sigma: float
    correlation: float
    evidence: float


def refine(strips: Strips, pair: BinnedPair, start: NDArray[np.float64], clear: bool) -> Fit:
    """The shift near ``start`` at which the strips agree best, by least squares.

    First on the binned strips, well smoothed where they are not binned at all: those converge from
    further away. Then on the full, hardly smoothed ones: detail is where the shift is known best.
    A clear peak is near enough for these, unless it is of few coarse pixels.

    Args:
        strips: as prepared.
        pair: the strips in which the peak was found.
        start: (y, x) shift of the moving strip, in their px. A fit that leaves it by more than
            `REACH` is not believed; what was found before stands, with a large sigma.
        clear: whether no other peak comes near it.
    """
    by = pair[0].by
    shift = np.asarray(start, dtype=np.float64)
    fine = None
    if clear and by <= 2:
        fine = fit_near(strips.fixed, strips.moving, shift * by, NEAR, 2, fine=True)
    if fine is None or fine.sigma > SURE:
        order = 4 if by > 1 else 8
        rough = fit_near(pair[0].image, pair[1].image, shift, REACH, order, fine=False)
        shift = (shift if rough is None else rough.shift) * by
        fine = fit_near(strips.fixed, strips.moving, shift, REACH, 2, fine=True)
    if fine is None:
        return Fit((float(shift[0]), float(shift[1])), REACH * by, 0.0, 0.0)
    surprise = np.arctanh(max(1e-6 - 1, min(fine.correlation, 1 - 1e-6))) * np.sqrt(
        fine.area / GRAIN
    )
    return Fit(
        shift=(float(fine.shift[0]), float(fine.shift[1])),
        sigma=fine.sigma,
        correlation=fine.correlation,
        evidence=float(surprise),
    )
