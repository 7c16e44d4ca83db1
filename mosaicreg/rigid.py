"""How one small image lies on another, turned by any angle, upside down or not.

Pure functions on arrays. The moving image is turned to one angle after the other and correlated
with the fixed one over all shifts (normalised over what both know: Padfield 2012, Masked object
registration in the Fourier domain, section 3). The height of a peak is its correlation times the
square root of the common area, as in `mosaicreg.surface`: what chance reaches does then depend
neither on the overlap nor on the angle, and the angles that are wrong say how high that is.

A pose is told as in `AlignmentRecord`: flipped up-down first, then scaled, then turned by degrees,
all about the centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import affine_transform, gaussian_filter

from mosaicreg.geometry import FloatArray
from mosaicreg.strips import CLIP, bin_mean
from mosaicreg.surface import parabola

Image = NDArray[np.float32]

COARSE, FINE = 4.0, 0.7
"""Structures larger or smaller than about this many px (a Gaussian's sigma) are left out."""
SLOW = 4
"""Energies and overlaps change slowly with the shift: they are computed on pixels so large."""
LEAST_KNOWN = 0.5
"""A pixel counts that is known by this share."""


@dataclass(frozen=True)
class Pose:
    """How the moving image is turned: degrees, whether flipped up-down first, and scale."""

    angle: float
    flipped: bool = False
    scale: float = 1.0

    @property
    def back(self) -> FloatArray:
        """(2, 2) from the fixed image's axes to the moving one's."""
        a = np.deg2rad(self.angle)
        c, s = np.cos(a), np.sin(a)
        turned = np.array([[c, s], [-s, c]]) / self.scale
        return np.diag([-1.0, 1.0]) @ turned if self.flipped else turned


@dataclass(frozen=True)
class Peak:
    """The best shift of one pose.

    Args:
        pose: what was tried.
        height: correlation times the square root of the common area in px.
        spread: robust standard deviation of the heights of all shifts.
        shift: (y, x) px from the fixed image's centre to the moving one's.
    """

    pose: Pose
    height: float
    spread: float
    shift: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Texture:
    """An image freed of what is too coarse or too fine; 0 where it is not known.

    Args:
        values: (h, w) float32. known: (h, w) float32, 1 or 0.
    """

    values: Image
    known: Image

    @classmethod
    def of(cls, image: NDArray[Any], known: NDArray[Any]) -> Texture | None:
        """From an image and the share by which each pixel is known; None where nothing varies."""
        there = (known >= LEAST_KNOWN).astype(np.float32)
        if not there.any():
            return None
        middle = np.float32(image[there > 0].mean(dtype=np.float64))
        filled = (image.astype(np.float32) - middle) * there
        fine, coarse = (_known_mean(filled, there, sigma) for sigma in (FINE, COARSE))
        values = (fine - coarse) * there
        spread = 1.4826 * float(np.median(np.abs(values[there > 0])))
        if spread > 0:
            np.clip(values, -CLIP * spread, CLIP * spread, out=values)
        return cls(values, there) if values.any() else None

    @property
    def middle(self) -> FloatArray:
        """(y, x) of the centre."""
        return (np.array(self.values.shape) - 1) / 2

    def posed(self, pose: Pose, shape: tuple[int, int], at: FloatArray) -> Texture:
        """The texture in a pose, its centre at ``at`` (y, x) of a canvas of ``shape``."""
        back = pose.back
        start = self.middle - back @ at
        values, known = (
            affine_transform(plane, back, start, shape, order=1, mode="constant", cval=0.0)
            for plane in (self.values, self.known)
        )
        known = (known >= LEAST_KNOWN).astype(np.float32)
        return Texture(values * known, known)


def _known_mean(filled: Image, there: Image, sigma: float) -> Image:
    """Gaussian mean of what is known around each pixel."""
    weight = gaussian_filter(there, sigma, mode="constant")
    mean: Image = gaussian_filter(filled, sigma, mode="constant")
    np.divide(mean, weight, out=mean, where=weight > 1e-3)
    return mean


def search_poses(
    fixed: Texture, moving: Texture, poses: Sequence[Pose], min_overlap: float
) -> list[Peak | None]:
    """The best shift for each pose; None where no allowed shift has signal on both sides.

    Args:
        fixed, moving: of one pixel size, times the scale of the pose.
        poses: to try.
        min_overlap: share of the smaller image's known area that must lie on the other's.
    """
    canvas = int(np.ceil(np.hypot(*moving.values.shape) * max(p.scale for p in poses))) + 2
    canvas += -canvas % SLOW
    search = _Search(fixed, canvas)
    return [search.best(moving, pose, min_overlap) for pose in poses]


class _Search:
    """The fixed texture's transforms, which serve all poses."""

    def __init__(self, fixed: Texture, canvas: int) -> None:
        height, width = (n + -n % SLOW for n in fixed.values.shape)
        pad = [(0, b - n) for b, n in zip((height, width), fixed.values.shape, strict=True)]
        values, known = (np.pad(plane, pad) for plane in (fixed.values, fixed.known))
        self.middle, self.canvas = fixed.middle, canvas
        self.shape = (height, width)
        self.size = [next_fast_len(n + canvas - 1, real=True) for n in self.shape]
        self.slow_size = [next_fast_len((n + canvas) // SLOW - 1, real=True) for n in self.shape]
        self.area = float(known.sum())
        self.spectrum = rfft2(values, self.size)
        slow_known, slow_energy = (bin_mean(p, SLOW) for p in (known, np.square(values)))
        self.known, self.energy = (rfft2(p, self.slow_size) for p in (slow_known, slow_energy))

    def best(self, moving: Texture, pose: Pose, min_overlap: float) -> Peak | None:
        """The best shift of one pose."""
        n = self.canvas
        posed = moving.posed(pose, (n, n), np.full(2, (n - 1) / 2))
        cross = self._shifts(
            irfft2(self.spectrum * np.conj(rfft2(posed.values, self.size)), self.size), self.size, 1
        )
        known = np.conj(rfft2(bin_mean(posed.known, SLOW), self.slow_size))
        energy = np.conj(rfft2(bin_mean(np.square(posed.values), SLOW), self.slow_size))
        area, own, other = (
            self._slowly(product) * np.float32(SLOW**2)
            for product in (self.known * known, self.energy * known, self.known * energy)
        )
        least = min_overlap * min(self.area, float(posed.known.sum()))
        norm = np.maximum(own, 0) * np.maximum(other, 0)
        valid = (area >= max(1.0, least)) & (norm > 1e-6 * norm.max())
        if np.count_nonzero(valid) < SLOW**2:
            return None
        height = np.zeros_like(cross)
        np.divide(cross * np.sqrt(np.maximum(area, 0)), np.sqrt(norm), out=height, where=valid)
        some = height[::3, ::3][valid[::3, ::3]]
        spread = 1.4826 * float(np.median(np.abs(some - np.median(some)))) if some.size else 0.0
        top = np.array(np.unravel_index(int(height.argmax()), height.shape))
        place = parabola(height, valid, top) - (n - 1)
        shift = place + (n - 1) / 2 - self.middle
        return Peak(pose, float(height.max()), spread, (float(shift[0]), float(shift[1])))

    def _shifts(self, circular: Image, size: Sequence[int], by: int) -> Image:
        """Shifts from the first that touches to the last, in steps of ``by`` px."""
        n = self.canvas // by
        rows, cols = (np.arange(1 - n, s // by) % k for s, k in zip(self.shape, size, strict=True))
        part: Image = circular[np.ix_(rows, cols)]
        return part

    def _slowly(self, product: NDArray[Any]) -> Image:
        """A correlation of large pixels, interpolated to the shifts of single ones."""
        part = self._shifts(irfft2(product, self.slow_size), self.slow_size, SLOW)
        n = self.canvas
        for axis, length in enumerate(self.shape):
            place = np.arange(1 - n, length) / SLOW + n // SLOW - 1
            place = np.clip(place, 0, part.shape[axis] - 1)
            low = np.minimum(place.astype(np.int64), max(0, part.shape[axis] - 2))
            high = np.minimum(low + 1, part.shape[axis] - 1)
            share = (place - low).astype(np.float32)
            share = share[:, None] if axis == 0 else share[None, :]
            part = part.take(low, axis) * (1 - share) + part.take(high, axis) * share
        return part


def near_pose(
    fixed: Texture, moving: Texture, pose: Pose, shift: tuple[float, float], reach: int
) -> Peak | None:
    """The best shift of a pose within ``reach`` px of a given one; None without signal."""
    shape = (fixed.values.shape[0], fixed.values.shape[1])
    posed = moving.posed(pose, shape, fixed.middle + shift)
    area = float((fixed.known * posed.known).sum(dtype=np.float64))
    own = float((np.square(fixed.values) * posed.known).sum(dtype=np.float64))
    other = float((np.square(posed.values) * fixed.known).sum(dtype=np.float64))
    if not own * other > 0:
        return None
    size = [next_fast_len(n + reach, real=True) for n in shape]
    circular = irfft2(rfft2(fixed.values, size) * np.conj(rfft2(posed.values, size)), size)
    steps = np.arange(-reach, reach + 1)
    part = circular[np.ix_(steps % size[0], steps % size[1])]
    height = part * np.float32(np.sqrt(area / (own * other)))
    top = np.array(np.unravel_index(int(height.argmax()), height.shape))
    moved = parabola(height, np.ones(height.shape, dtype=bool), top) - reach + shift
    return Peak(pose, float(height.max()), 0.0, (float(moved[0]), float(moved[1])))
