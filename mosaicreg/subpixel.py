"""Two overlapping strips brought together to a fraction of a pixel, by least squares.

Pure functions on arrays. `fit_near` is the Gauss-Newton method (Baker & Matthews 2004, Lucas-Kanade
20 years on, section 3.1) for a shift, with gain, offset and their linear trends, outliers left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]

_PAD = 4
"""Pixels kept around the fitted ones for the reach of a shift, the cubic and its gradient."""
_MIN_ACROSS = 3
"""Overlaps narrower than this many px are not fitted."""
_MOST_CUTS = 4
"""How often a fit may move its overlap by a whole pixel."""
_MOST_STEPS = 8
_SIGNIFICANT = 5.0
"""A stretch of this many standard errors is believed."""
_OUTLIER = 5.0
"""Residuals beyond this many robust standard deviations are left out of the next step."""
_NOISE_AREA = {order: (4.0**order / float(comb(2 * order, order))) ** 2 for order in (2, 4, 8)}
"""Pixels over which `smooth` spreads white noise: 1 / sum of its squared weights."""


def fit_near(
    f: Image, m: Image, start: NDArray[np.float64], reach: float, order: int, fine: bool
) -> tuple[NDArray[np.float64], float, Overlap] | None:
    """The fitted shift, its standard error and the overlap used; None where the fit fails."""
    shift = start
    for attempt in range(_MOST_CUTS):
        base = np.rint(shift).astype(np.int64)
        overlap = Overlap.cut(f, m, base, order)
        if overlap is None:
            return None
        step, sigma = overlap.fit(shift - base, fine)
        shift = base + step
        if not np.abs(shift - start).max() <= reach:
            return None
        if np.abs(step).max() <= 0.75 or attempt == _MOST_CUTS - 1:
            return shift, sigma, overlap
    return None


@dataclass(frozen=True, slots=True)
class _Solution:
    """Numbers of a least-squares step, what it leaves unexplained, and the numbers' variance."""

    solution: NDArray[np.float64]
    residual: Image
    variance: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Overlap:
    """The common area of two strips at a whole-pixel shift, ready for least squares.

    The model is ``fixed(p) = (g + gy v + gx u) moving(p - t) + o + oy v + ox u`` with v, u from -1
    to 1 over the overlap: shading is a gain, and inside an overlap little more than a linear trend.
    Both strips are smoothed alike; sums go over every ``stride``-th pixel, since smoothing leaves
    nothing between them.
    """

    fixed: Image
    gradient: tuple[Image, Image]
    moving: Image
    trends: tuple[Image, Image]
    stride: int
    excess: float
    area: int

    @classmethod
    def cut(cls, f: Image, m: Image, base: NDArray[np.int64], order: int) -> Overlap | None:
        """The overlap at shift ``base``, smoothed by ``order``; None where too narrow."""
        y0, x0 = (max(0, int(b)) for b in base)
        y1 = min(f.shape[0], int(base[0]) + m.shape[0])
        x1 = min(f.shape[1], int(base[1]) + m.shape[1])
        across = min(y1 - y0, x1 - x0)
        if across < _MIN_ACROSS:
            return None
        order = min(order, 4 if across >= 16 else 2) if across < 32 else order
        stride = 2 if across >= 32 else 1
        a, b = f[y0:y1, x0:x1], m[y0 - base[0] : y1 - base[0], x0 - base[1] : x1 - base[1]]
        a, b = smooth(a, order), smooth(b, order)
        # Edge pixels are left out where there are enough: smoothing and shifting made them up.
        edge = min(_PAD, across // 8)
        if edge < _PAD:
            b = np.pad(b, _PAD - edge, mode="edge")
        if edge == 0:
            a = np.pad(a, 1, mode="edge")
        margin = max(1, edge)
        rows, cols = (slice(margin, n - margin, stride) for n in a.shape)
        up, down = (slice(margin + s, a.shape[0] - margin + s, stride) for s in (-1, 1))
        left, right = (slice(margin + s, a.shape[1] - margin + s, stride) for s in (-1, 1))
        half = np.float32(0.5)
        inner = a[rows, cols]
        trends = (
            np.broadcast_to(_ramp(inner.shape[0])[:, None], inner.shape),
            np.broadcast_to(_ramp(inner.shape[1])[None, :], inner.shape),
        )
        return cls(
            fixed=inner,
            gradient=(
                (a[down, cols] - a[up, cols]) * half,
                (a[rows, right] - a[rows, left]) * half,
            ),
            moving=b,
            trends=trends,
            stride=stride,
            excess=max(1.0, _NOISE_AREA[order] / stride**2),
            area=(y1 - y0) * (x1 - x0),
        )

    def shifted(self, shift: NDArray[np.float64]) -> Image:
        """The moving strip at ``p - shift`` (Keys cubic), at the pixels of ``fixed``."""
        whole = np.floor(-shift).astype(np.int64)
        wy, wx = (_cubic(float(t)) for t in -shift - whole)
        h, w = ((n - 1) * self.stride + 1 for n in self.fixed.shape)
        y, x = _PAD - 1 + whole
        rows = _weighted_sum([self.moving[y + k : y + k + h : self.stride] for k in range(4)], wy)
        return _weighted_sum([rows[:, x + k : x + k + w : self.stride] for k in range(4)], wx)

    def fit(self, start: NDArray[np.float64], fine: bool) -> tuple[NDArray[np.float64], float]:
        """The best shift near ``start`` and its standard error; NaN where nothing can be fitted.

        Where the strips are stretched against each other (lens distortion, a bent section), the
        shift changes along them and a plain fit would lean to where the texture is. If that is
        significant, a shift that is linear in position is fitted, and its value at the centre of
        the overlap returned. A fit that is not ``fine`` leaves this out and has no error.
        """
        try:
            shift, weight = self._converge(start, [], 2e-3 if fine else 5e-2)
            if not fine:
                return shift, np.inf
            v, u = self.trends
            stretch = [(g * t).ravel() for g in self.gradient for t in (v, u)]
            trial = self._solve(shift, weight, stretch)
            error = self._errors(shift, trial)
            if (np.abs(trial.solution[-4:]) > _SIGNIFICANT * error[-4:]).any():
                shift, weight = self._converge(shift, stretch, 2e-3)
            return shift, float(error[:2].max())
        except np.linalg.LinAlgError:
            return np.full(2, np.nan), np.inf

    def _converge(
        self, start: NDArray[np.float64], stretch: list[Image], tolerance: float
    ) -> tuple[NDArray[np.float64], Image]:
        """Gauss-Newton steps from ``start``; the shift and which pixels are no outliers."""
        shift = np.array(start, dtype=np.float64)
        weight = np.ones(self.fixed.size, dtype=np.float32)
        for _ in range(_MOST_STEPS):
            found = self._solve(shift, weight, stretch)
            # fixed + step . gradient = moving part, so the fitted slope is minus the step
            shift = shift - found.solution[:2]
            if not np.isfinite(shift).all():
                raise np.linalg.LinAlgError("no signal")
            if np.abs(shift).max() > _PAD - 3:
                shift = np.clip(shift, 3 - _PAD, _PAD - 3)
                break
            # Where nothing changes (saturated, or a background of zeros) nothing is left over, and
            # nothing is said about the shift.
            telling = self.gradient[0].ravel()[::3] != 0
            left = np.abs(found.residual[::3][telling])
            spread = 1.4826 * float(np.median(left)) if left.size else 0.0
            if spread > 0:
                inside = np.abs(found.residual) < np.float32(_OUTLIER * spread)
                weight = inside.astype(np.float32)
            if np.abs(found.solution[:2]).max() < tolerance:
                break
        return shift, weight

    def _solve(self, shift: NDArray[np.float64], weight: Image, stretch: list[Image]) -> _Solution:
        """One linear least-squares step at ``shift``."""
        v, u = (t.ravel() for t in self.trends)
        b, one = self.shifted(shift).ravel(), np.ones(self.fixed.size, dtype=np.float32)
        gradient = [g.ravel() for g in self.gradient]
        design = np.stack([*gradient, b, one, b * v, b * u, v, u, *stretch])
        weighted = design * weight
        target = self.fixed.ravel()
        normal = (weighted @ design.T).astype(np.float64)
        right = (weighted @ target).astype(np.float64)
        solution = np.asarray(np.linalg.solve(normal, right), dtype=np.float64)
        residual = target - solution.astype(np.float32) @ design
        freedom = max(1.0, float(weight.sum()) - len(design))
        noise = float(np.vdot(residual * weight, residual)) / freedom
        variance = np.linalg.inv(normal).diagonal() * noise
        return _Solution(solution, residual, np.asarray(variance, dtype=np.float64))

    def _errors(self, shift: NDArray[np.float64], found: _Solution) -> NDArray[np.float64]:
        """Standard errors of a solution's numbers."""
        # The gradient of fixed is partly the gradient of its noise, which says nothing about the
        # shift: only the part that the moving strip shares does.
        shared = max(self._shared_gradient(shift), 1e-3)
        return np.sqrt(np.maximum(found.variance, 0) * self.excess) / shared

    def _shared_gradient(self, shift: NDArray[np.float64]) -> float:
        """Correlation of the two strips' gradients at ``shift``."""
        product = own = other = 0.0
        for axis, a in enumerate(self.gradient):
            step = np.array([1.0 - axis, axis])
            b = (self.shifted(shift - step) - self.shifted(shift + step)) * np.float32(0.5)
            product += float(np.vdot(a, b))
            own, other = own + float(np.vdot(a, a)), other + float(np.vdot(b, b))
        return product / float(np.sqrt(own * other)) if own * other > 0 else 0.0

    def correlation(self, shift: NDArray[np.float64]) -> float:
        """Normalised cross-correlation at ``shift``, each side freed of its linear trend."""
        one = np.ones(self.fixed.size, dtype=np.float32)
        basis = np.stack([one, *(t.ravel() for t in self.trends)])
        a, b = self.fixed.ravel(), self.shifted(np.clip(shift, -1, 1)).ravel()
        scale = np.maximum(np.square(basis).sum(axis=1), np.float32(1e-6))
        a, b = (c - ((basis @ c) / scale) @ basis for c in (a, b))
        norm = float(np.vdot(a, a)) * float(np.vdot(b, b))
        return float(np.vdot(a, b)) / float(np.sqrt(norm)) if norm > 0 else 0.0


def smooth(image: Image, order: int) -> Image:
    """The image under a binomial kernel of ``order`` (even; sigma sqrt(order) / 2 px), same shape.

    Edges are continued by their last pixel.
    """
    for axis in (0, 1):
        margins = [(0, 0), (0, 0)]
        margins[axis] = (order // 2, order // 2)
        image = np.pad(image, margins, mode="edge").swapaxes(0, axis)
        for _ in range(order):
            image = image[:-1] + image[1:]
        image = image.swapaxes(0, axis)
    return image * np.float32(0.25**order)


def _ramp(n: int) -> Image:
    return np.linspace(-1, 1, n, dtype=np.float32) if n > 1 else np.zeros(n, dtype=np.float32)


def _weighted_sum(images: list[Image], weights: tuple[np.float32, ...]) -> Image:
    total = np.zeros_like(images[0])
    for image, weight in zip(images, weights, strict=True):
        if weight != 0:
            total += image * weight
    return total


def _cubic(t: float) -> tuple[np.float32, ...]:
    """Weights of the four pixels around a position (Keys 1981, a = -1/2)."""
    return tuple(
        np.float32(w)
        for w in (
            ((-0.5 * t + 1) * t - 0.5) * t,
            ((1.5 * t - 2.5) * t) * t + 1,
            ((-1.5 * t + 2) * t + 0.5) * t,
            ((0.5 * t - 0.5) * t) * t,
        )
    )
