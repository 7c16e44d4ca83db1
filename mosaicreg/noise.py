"""Statistics of images, and seeded noise that looks like them.

Noise is addressed by pixel: the value at (y, x) follows from the seed and the coordinates alone, so
cutting, chunking and the order of computing do not change it. Statistics come from a count of
values, which adds up to the same numbers however the image was cut.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import Box, TileGrid

BLOCK = 128
"""Side in px of the blocks that noise is made in."""
BINS = 1 << 16
"""How many values an image's pixels are told apart by: all of those of 16 bits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Smallest and largest finite value of an image; (inf, -inf) where there is none."""

    low: float
    high: float

    @classmethod
    def of(cls, image: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Limits:
        """The limits of an image's finite pixels, where ``mask`` is True."""
        counted = _counted(image, mask)
        values = image if counted is None else image[counted]
        if values.size == 0:
            return cls(np.inf, -np.inf)
        return cls(float(values.min()), float(values.max()))

    def __or__(self, other: Limits) -> Limits:
        return Limits(min(self.low, other.low), max(self.high, other.high))

    @classmethod
    def of_dtype(cls, dtype: np.dtype[Any]) -> Limits | None:
        """The limits of a type of at most 16 bits, None for all others."""
        if dtype.kind == "b":
            return cls(0.0, 1.0)
        if dtype.kind in "iu" and dtype.itemsize <= 2:
            return cls(float(np.iinfo(dtype).min), float(np.iinfo(dtype).max))
        return None


@dataclass(frozen=True, eq=False)
class Tally:
    """How often each value occurs: counts of bins between two limits.

    The bins are the values themselves for whole numbers that span at most `BINS`, and `BINS` equal
    steps otherwise. Tallies of the parts of an image, made with the same limits, add up to the
    tally of the image.

    Args:
        limits: all values lie within.
        step: between two bins.
        counts: of each bin.
        moment: a sum over bins times coordinates (modulo 2**64): tells an image from its mirror.
    """

    limits: Limits
    step: float
    counts: NDArray[np.int64]
    moment: int

    @classmethod
    def of(
        cls,
        image: NDArray[Any],
        mask: NDArray[np.bool_] | None = None,
        limits: Limits | None = None,
        corner: tuple[int, int] = (0, 0),
    ) -> Tally:
        """Count the finite pixels of a (y, x) image where ``mask`` is True.

        ``limits`` must hold all of them; ``corner`` is where the image lies in the whole.
        """
        limits = limits or Limits.of_dtype(image.dtype) or Limits.of(image, mask)
        span = limits.high - limits.low
        counted = _counted(image, mask)
        if span < 0 or not (image.size if counted is None else counted.any()):
            return cls(limits, 1.0, np.zeros(1, dtype=np.int64), 0)
        whole = image.dtype.kind in "iub" and span < BINS
        step = 1.0 if whole or span == 0 else span / (BINS - 1)
        bins = int(span) + 1 if whole else BINS if span else 1
        values = image if counted is None else np.where(counted, image, limits.low)
        if limits.low == 0 and whole:
            index = values.astype(np.uint16)
        else:
            index = np.rint((values.astype(np.float64) - limits.low) / step).astype(np.uint16)
        picked = index.ravel() if counted is None else index[counted]
        counts = np.bincount(picked, minlength=bins).astype(np.int64)
        return cls(limits, step, counts, _moment(index, corner))

    def __add__(self, other: Tally) -> Tally:
        first, second = (self, other) if len(self.counts) >= len(other.counts) else (other, self)
        counts = first.counts.copy()
        counts[: len(second.counts)] += second.counts
        moment = (first.moment + second.moment) % 2**64
        return Tally(first.limits, first.step, counts, moment)

    def statistics(self) -> Statistics:
        """Median, standard deviation and limits of what was counted."""
        present = np.flatnonzero(self.counts)
        if not present.size:
            return Statistics(np.nan, np.nan, np.nan, np.nan, 0, 0)
        counts = self.counts[present]
        values = self.limits.low + present * self.step
        total = int(counts.sum())
        ends = np.cumsum(counts)
        middle = values[np.searchsorted(ends, [(total - 1) // 2, total // 2], side="right")]
        mean = float(values @ counts) / total
        std = float(np.sqrt(np.square(values - mean) @ counts / total))
        return Statistics(
            float(middle.mean()), std, float(values[0]), float(values[-1]), total, self.moment
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """What noise needs to know of an image: how its pixels are distributed.

    Args:
        median, std: centre and standard deviation of the noise.
        low, high: noise is clipped to these.
        count: how many pixels were looked at; all numbers are NaN where it is 0.
        moment: see `Tally`.
    """

    median: float
    std: float
    low: float
    high: float
    count: int
    moment: int = 0

    @classmethod
    def of(cls, image: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Statistics:
        """Of the finite pixels where ``mask`` is True (all where None).

        Exact for integers that span fewer than 65,536 values; other images are seen in 65,536 equal
        steps between their smallest and largest value.
        """
        return Tally.of(image, mask).statistics()

    def given(self, median: float | None, std: float | None, dtype: np.dtype[Any]) -> Statistics:
        """With a median and deviation from elsewhere.

        Where no pixel was looked at, the limits are those of the type.
        """
        new = replace(
            self,
            median=self.median if median is None else float(median),
            std=self.std if std is None else float(std),
        )
        if self.count:
            return new
        limits = Limits.of_dtype(dtype) or Limits(-np.inf, np.inf)
        return replace(new, low=limits.low, high=limits.high)

    def between(self, limits: Limits) -> Statistics:
        """For noise between the limits of the whole, these being the statistics of what lies there.

        Where nothing does, the noise is around their middle, with a quarter of their span.
        """
        if self.count:
            return replace(self, low=limits.low, high=limits.high)
        middle, span = (limits.low + limits.high) / 2, limits.high - limits.low
        return Statistics(middle, span / 4, limits.low, limits.high, 0)

    @property
    def seed(self) -> int:
        """A seed that follows from the pixels.

        Two images, or an image and its mirror, get different noise: borders of the same noise would
        match perfectly when they are correlated.
        """
        numbers = struct.pack("<4d2Q", *self.numbers, self.count, self.moment)
        return zlib.crc32(numbers)

    @property
    def numbers(self) -> tuple[float, float, float, float]:
        """(median, std, low, high)."""
        return self.median, self.std, self.low, self.high


def _counted(image: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Which pixels count; None for all."""
    if image.dtype.kind != "f":
        return mask
    finite: NDArray[np.bool_] = np.isfinite(image)
    return finite if mask is None else finite & mask


def _moment(index: NDArray[np.uint16], corner: tuple[int, int]) -> int:
    """Sum of ``index * (odd numbers that grow with y and x)``, modulo 2**64."""
    total = 0
    for axis, factor in ((0, 2654435761), (1, 2246822519)):
        place = np.arange(index.shape[axis], dtype=np.uint64) + np.uint64(corner[axis])
        sums = index.sum(axis=1 - axis, dtype=np.uint64)
        total += int((sums * (place * np.uint64(factor) + np.uint64(1))).sum(dtype=np.uint64))
    return total % 2**64


def as_seed(rng: int | np.random.Generator | None) -> int | None:
    """The seed that an ``rng`` argument means; None stays None: to follow from the pixels."""
    if rng is None:
        return None
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**63))
    return int(rng)


def standard_noise(box: Box, seed: int) -> NDArray[np.float64]:
    """Gaussian noise of mean 0 and deviation 1 for the pixels of ``box``, which may be negative.

    The same pixel gets the same value in every box that holds it. One counter-based generator
    (Philox, Salmon et al. 2011) per block of `BLOCK` px, its counter set from the block's place.
    """
    out = np.empty(box.shape)
    first = Box(box.y0 // BLOCK, box.x0 // BLOCK, -(-box.y1 // BLOCK), -(-box.x1 // BLOCK))
    for row, col, _ in TileGrid(first.shape, (1, 1)).boxes():
        row, col = row + first.y0, col + first.x0
        block = Box.at((row * BLOCK, col * BLOCK), (BLOCK, BLOCK))
        common = block.intersection(box)
        if common is None:
            continue
        counter = np.array([0, 0, row % 2**64, col % 2**64], dtype=np.uint64)
        stream = np.random.Generator(np.random.Philox(key=seed % 2**128, counter=counter))
        pixels = stream.standard_normal((BLOCK, BLOCK))
        target = common.shifted(-box.y0, -box.x0)
        out[target.slices] = pixels[common.shifted(-block.y0, -block.x0).slices]
    return out


def noise_pixels(
    box: Box, dtype: np.dtype[Any], stats: Statistics, seed: int | None = None, inside: bool = False
) -> NDArray[Any]:
    """Noise of an image's statistics for the pixels of ``box``.

    Args:
        box: where the noise lies, in the coordinates of the image.
        dtype: of the result; whole numbers are rounded.
        stats: of the image. Values are clipped to its limits.
        seed: None: `Statistics.seed`.
        inside: strictly between the limits.

    Raises:
        ValueError: where the statistics are of no pixel at all.
    """
    if not (np.isfinite(stats.median) and np.isfinite(stats.std)):
        raise ValueError(
            "no pixel to take the statistics of noise from: give the median and the standard "
            "deviation"
        )
    values = stats.median + stats.std * standard_noise(box, stats.seed if seed is None else seed)
    low, high = stats.low, stats.high
    if dtype.kind in "iub":
        values = np.rint(values)
        if inside:
            low, high = low + 1, high - 1
    elif inside and low < high:
        narrow = np.array([low, high], dtype=dtype)
        low, high = (float(v) for v in np.nextafter(narrow, narrow[::-1]))
    return np.clip(values, low, high).astype(dtype)


def fill_masked(
    image: NDArray[Any],
    mask: NDArray[np.bool_],
    stats: Statistics,
    seed: int | None = None,
    corner: tuple[int, int] = (0, 0),
    inside: bool = False,
) -> NDArray[Any]:
    """A copy of ``image`` with noise where ``mask`` is False.

    ``corner`` (y, x) is where the image's first pixel lies in the whole that it may be a part of.
    """
    out = image.copy()
    holes = ~mask
    if holes.any():
        box = Box.at(corner, (image.shape[0], image.shape[1]))
        out[holes] = noise_pixels(box, image.dtype, stats, seed, inside)[holes]
    return out


def between(image: NDArray[Any], limits: Limits) -> NDArray[np.bool_]:
    """Where pixels lie strictly between the limits; all of them where no other value does.

    So a flat image, a mask, or whole numbers of two neighbouring values have no extremes. Pixels
    that are not finite are extreme.
    """
    room = 1 if image.dtype.kind in "iub" else 0
    if limits.high - limits.low <= room:
        return np.ones(image.shape, dtype=np.bool_)
    inside: NDArray[np.bool_] = (image > limits.low) & (image < limits.high)
    return inside


def large_regions(mask: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """The part of ``mask`` in connected regions (4 neighbours) of at least this share of all."""
    from scipy.ndimage import label

    labels, _ = label(mask)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    large: NDArray[np.bool_] = (sizes >= share * mask.size)[labels] & mask
    return large


def replace_extrema(
    image: NDArray[Any],
    median: float | None = None,
    std: float | None = None,
    seed: int | None = None,
    share: float = 0.0,
) -> NDArray[Any]:
    """A copy of the image in which no pixel has its smallest or largest value: noise instead.

    Args:
        image: (y, x).
        median, std: of the noise; those of the other pixels where None.
        seed: of the noise; follows from the pixels where None.
        share: only connected regions of at least this share of the image.
    """
    limits = Limits.of(image)
    keep = between(image, limits)
    stats = Statistics.of(image, keep).between(limits).given(median, std, image.dtype)
    if share > 0:
        keep = ~large_regions(~keep, share)
    return fill_masked(image, keep, stats, seed, inside=True)
