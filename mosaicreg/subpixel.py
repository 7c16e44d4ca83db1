"""Two overlapping strips brought together to a fraction of a pixel, by least squares.

Pure functions on arrays. `fit_near` is the Gauss-Newton method (Baker & Matthews 2004, Lucas-Kanade
20 years on, section 3.1) for a shift, with gain, offset and their linear trends, outliers left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicreg.edges import extended
from mosaicreg.robust import NORMAL, median_of, thinned

Image = NDArray[np.float32]

_PAD = 4
"""Pixels kept around the fitted ones for the reach of a shift, the cubic and its gradient."""
_MIN_ACROSS = 3
"""Overlaps narrower than this many px are not fitted."""
_MOST_CUTS = 4
"""How often a fit may move its overlap by a whole pixel."""
_MOST_STEPS = 8
_ROUGH, _FINE = 5e-2, 2e-3
"""px; a fit ends with a step smaller than this."""
_REST = 0.1
"""Or where the next step would be smaller than this share of it."""
_SIGNIFICANT = 5.0
"""A stretch of this many standard errors is believed."""
_OUTLIER = 5.0
"""Residuals beyond this many robust standard deviations are left out of the next step."""
_STEP = slice(3, 5)
"""Place of the step (y, x) among the unknowns."""
_NOISE_AREA = {order: (4.0**order / float(comb(2 * order, order))) ** 2 for order in (2, 4, 8)}
"""Pixels over which `smooth` spreads white noise: 1 / sum of its squared weights."""


class FineFit(NamedTuple):
    """A fitted shift, its standard error, the correlation there, and the overlap's area in px."""

    shift: NDArray[np.float64]
    sigma: float
    correlation: float
    area: int


def fit_near(
    f: Image, m: Image, start: NDArray[np.float64], reach: float, order: int, fine: bool
) -> FineFit | None:
    """The fit that starts at ``start``; None where it fails or goes further than ``reach``.

    A fit that is not ``fine`` has neither error nor correlation.
    """
    shift = start
    for attempt in range(_MOST_CUTS):
        base = np.rint(shift).astype(np.int64)
        overlap = Overlap.cut(f, m, base, order)
        if overlap is None:
            return None
        step, sigma, correlation = overlap.fit(shift - base, fine)
        shift = base + step
        if not np.abs(shift - start).max() <= reach:
            return None
        if np.abs(step).max() <= 0.75 or attempt == _MOST_CUTS - 1:
            return FineFit(shift, sigma, correlation, overlap.area)
    return None


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
            b = extended(extended(b, 0, _PAD - edge), 1, _PAD - edge)
        if edge == 0:
            a = extended(extended(a, 0, 1), 1, 1)
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
        return self._sampled(shift, (_cubic, _cubic), self.stride, self.fixed.shape)

    def _sampled(
        self,
        shift: NDArray[np.float64],
        kernels: tuple[Callable[[float], list[float]], Callable[[float], list[float]]],
        stride: int,
        shape: tuple[int, ...],
    ) -> Image:
        """The moving strip under a kernel per axis, at every ``stride``-th pixel of the overlap."""
        image = self.moving
        for axis in (0, 1):
            whole = int(np.floor(-shift[axis]))
            weights = kernels[axis](float(-shift[axis] - whole))
            # The cubic reaches from the pixel before to two after, its slope one further each way.
            first = _PAD + whole - (len(weights) - 2) // 2
            end = first + (shape[axis] - 1) * stride + 1
            taps = (slice(first + k, end + k, stride) for k in range(len(weights)))
            image = _weighted_sum(
                [image[tap] if axis == 0 else image[:, tap] for tap in taps], weights
            )
        return image

    def fit(
        self, start: NDArray[np.float64], fine: bool
    ) -> tuple[NDArray[np.float64], float, float]:
        """The best shift near ``start``, its standard error, and the correlation there.

        The shift is NaN where nothing can be fitted.

        Where the strips are stretched against each other (lens distortion, a bent section), the
        shift changes along them and a plain fit would lean to where the texture is. If that is
        significant, a shift that is linear in position is fitted, and its value at the centre of
        the overlap returned. A fit that is not ``fine`` leaves this out and has no error.
        """
        try:
            shift, moving, outliers = self._converge(start, equations := _Equations(self), fine)
            if not fine:
                return shift, np.inf, np.nan
            equations.stretch(self.gradient)
            solution, residual = equations.solve(moving, outliers)
            # The gradient of fixed is partly the gradient of its noise, which says nothing about
            # the shift: only the part that the moving strip shares does.
            shared = max(self._shared_gradient(shift), 1e-3)
            variance = np.maximum(equations.variance(residual, outliers), 0)
            error = np.sqrt(variance * self.excess) / shared
            if (np.abs(solution[-4:]) > _SIGNIFICANT * error[-4:]).any():
                shift, *_ = self._converge(shift, equations, fine)
            return shift, float(error[_STEP].max()), equations.correlation()
        except np.linalg.LinAlgError:
            return np.full(2, np.nan), np.inf, np.nan

    def _converge(
        self, start: NDArray[np.float64], equations: _Equations, fine: bool
    ) -> tuple[NDArray[np.float64], Image, NDArray[np.int64]]:
        """Gauss-Newton steps from ``start``.

        Returns:
            The shift, the moving strip as the last step had it (off by that step, less than the
            tolerance where the steps converged), and which pixels are outliers.
        """
        shift = np.array(start, dtype=np.float64)
        outliers = np.empty(0, dtype=np.int64)
        tolerance, step = _FINE if fine else _ROUGH, 0.0
        # Where nothing changes (saturated, or a background of zeros) nothing is left over, and
        # nothing is said about the shift.
        telling = thinned(self.gradient[0]) != 0
        for _ in range(_MOST_STEPS):
            moving = self.shifted(shift)
            solution, residual = equations.solve(moving, outliers)
            # fixed + step . gradient = moving part, so the fitted slope is minus the step
            shift = shift - solution[_STEP]
            if not np.isfinite(shift).all():
                raise np.linalg.LinAlgError("no signal")
            if np.abs(shift).max() > _PAD - 3:
                shift = np.clip(shift, 3 - _PAD, _PAD - 3)
                break
            off = np.abs(residual, out=residual).reshape(self.fixed.shape)
            some = thinned(off)[telling]
            spread = NORMAL * median_of(some) if some.size else 0.0
            if spread > 0:
                outliers = np.flatnonzero(residual >= _OUTLIER * spread)
            last, step = step, float(np.abs(solution[_STEP]).max())
            # Steps shrink by some factor each time, so the next one is known.
            if step < tolerance or step**2 < _REST * tolerance * last:
                break
        return shift, moving, outliers

    def _shared_gradient(self, shift: NDArray[np.float64]) -> float:
        """Correlation of the two strips' gradients at ``shift``, from a ninth of the pixels."""
        product = own = other = 0.0
        for axis in (0, 1):
            a = self.gradient[axis][::3, ::3]
            kernels = (_cubic_slope, _cubic) if axis == 0 else (_cubic, _cubic_slope)
            b = self._sampled(shift, kernels, 3 * self.stride, a.shape)
            product += float(np.vdot(a, b))
            own, other = own + float(np.vdot(a, a)), other + float(np.vdot(b, b))
        return product / float(np.sqrt(own * other)) if own * other > 0 else 0.0


class _Equations:
    """The linear least squares of one Gauss-Newton step over one overlap.

    The unknowns are gain and its trends along v and u, minus the step (y, x), offset and its
    trends; once stretched, also the trends of minus the step. Only the first three rows of the
    design, those of the moving strip, change from step to step, so all is kept in one place and
    nothing is copied; where stretching is all that changes, its products are added to those known.
    """

    def __init__(self, overlap: Overlap) -> None:
        self._trends = overlap.trends
        self._target = overlap.fixed.ravel()
        self._room = np.empty((12, self._target.size), dtype=np.float32)
        self._design = self._room[:8]
        rows = self._design.reshape(-1, *overlap.fixed.shape)
        for row, values in zip(
            rows[3:], (*overlap.gradient, np.float32(1), *overlap.trends), strict=True
        ):
            row[...] = values
        # What was solved last, and how many of the unknowns it had.
        self._normal, self._right, self._known = np.empty((12, 12)), np.empty(12), 0
        self._moving: Image | None = None
        self._outliers = np.empty(0, dtype=np.int64)

    def stretch(self, gradient: tuple[Image, Image]) -> None:
        """From now on the step may change linearly along v and u."""
        self._design = self._room
        rows = iter(self._room[8:].reshape(-1, *gradient[0].shape))
        for slope in gradient:
            for trend in self._trends:
                np.multiply(slope, trend, out=next(rows))

    def solve(
        self, moving: Image, outliers: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], Image]:
        """The unknowns, and what they leave unexplained of each pixel of the fixed strip."""
        design, count = self._design, len(self._design)
        if moving is not self._moving or not np.array_equal(outliers, self._outliers):
            self._moving, self._outliers, self._known = moving, outliers, 0
            rows = design[:3].reshape(3, *moving.shape)
            rows[0] = moving
            for row, trend in zip(rows[1:], self._trends, strict=True):
                np.multiply(moving, trend, out=row)
        left_out = design[:, outliers]
        design[:, outliers] = 0
        # BLAS takes products of a few rows four times faster than that of all with themselves.
        few = max(1, 36 // count)
        for k in range(self._known, count, few):
            products = design[k : k + few] @ design.T
            self._normal[k : k + few, :count] = products
            self._normal[:count, k : k + few] = products.T
        self._right[self._known : count] = design[self._known :] @ self._target
        self._known = count
        design[:, outliers] = left_out
        normal, right = self._normal[:count, :count], self._right[:count]
        solution = np.asarray(np.linalg.solve(normal, right), dtype=np.float64)
        residual = solution.astype(np.float32) @ design
        return solution, np.subtract(self._target, residual, out=residual)

    def correlation(self) -> float:
        """Normalised cross-correlation of the two strips, each freed of its linear trend."""
        basis = self._design[5:8]
        scale = np.maximum(np.square(basis).sum(axis=1), np.float32(1e-6))
        a, b = (c - ((basis @ c) / scale) @ basis for c in (self._target, self._design[0]))
        norm = float(np.vdot(a, a)) * float(np.vdot(b, b))
        return float(np.vdot(a, b)) / float(np.sqrt(norm)) if norm > 0 else 0.0

    def variance(self, residual: Image, outliers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of the unknowns solved last, from what they left unexplained."""
        inside = np.delete(residual, outliers) if outliers.size else residual
        noise = float(np.vdot(inside, inside)) / max(1, inside.size - len(self._design))
        normal = self._normal[: self._known, : self._known]
        return np.asarray(np.linalg.inv(normal).diagonal() * noise, dtype=np.float64)


def smooth(image: Image, order: int) -> Image:
    """The image under a binomial kernel of ``order`` (even; sigma sqrt(order) / 2 px), same shape.

    Edges are continued by their last pixel.
    """
    for axis in (0, 1):
        image = extended(image, axis, order // 2).swapaxes(0, axis)
        for _ in range(order):
            image = image[:-1] + image[1:]
        image = image.swapaxes(0, axis)
    image *= np.float32(0.25**order)
    return image


def _ramp(n: int) -> Image:
    return np.arange(1 - n, n, 2, dtype=np.float32) / np.float32(max(1, n - 1))


def _weighted_sum(images: list[Image], weights: list[float]) -> Image:
    total = np.multiply(images[0], np.float32(weights[0]))
    part = np.empty_like(total)
    for image, weight in zip(images[1:], weights[1:], strict=True):
        if weight != 0:
            np.multiply(image, np.float32(weight), out=part)
            total += part
    return total


def _cubic(t: float) -> list[float]:
    """Weights of the four pixels around a position (Keys 1981, a = -1/2)."""
    return [
        ((-0.5 * t + 1) * t - 0.5) * t,
        ((1.5 * t - 2.5) * t) * t + 1,
        ((-1.5 * t + 2) * t + 0.5) * t,
        ((0.5 * t - 0.5) * t) * t,
    ]


def _cubic_slope(t: float) -> list[float]:
    """Weights of six pixels for half the difference of the values a pixel after and before."""
    w = _cubic(t)
    after, before = [0.0, 0.0, *w], [*w, 0.0, 0.0]
    return [0.5 * (a - b) for a, b in zip(after, before, strict=True)]
