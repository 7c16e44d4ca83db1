"""Two overlapping strips brought together to a fraction of a pixel, by least squares.

Pure functions on arrays. `fit_near` is the Gauss-Newton method (Baker & Matthews 2004, Lucas-Kanade
20 years on, section 3.1) for a shift, with gain, offset and their linear trends, outliers left out.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import comb, floor, isfinite, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicreg.edges import framed, rows_of
from mosaicreg.robust import NORMAL, median_of, thinned

Image = NDArray[np.float32]

_FURTHEST = 0.99
"""px; a fit that moves further needs another overlap."""
_PAD = 4
"""Pixels kept around the fitted ones for such a shift, the cubic and its gradient, and one more."""
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
_GRADIENT, _PLANE, _TRENDS = (4, 5), slice(6, 9), (7, 8)
"""Rows of the step, of offset and its trends, and of these trends alone, in `_Equations`."""
_TOLD = 1e-2
"""Where less than this share of a sum of squares is left without the trends, single precision does
not tell it."""
_SMALL_PRODUCT = 900_000
"""Multiplications of a product of matrices for which OpenBLAS needs no copies of these."""
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


class Overlap(NamedTuple):
    """The common area of two strips at a whole-pixel shift, ready for least squares.

    The model is ``fixed(p) = (g + gy v + gx u) moving(p - t) + o + oy v + ox u`` with v, u from -1
    to 1 over the overlap: shading is a gain, and inside an overlap little more than a linear trend.
    Both strips are smoothed alike; sums go over every ``stride``-th pixel, since smoothing leaves
    nothing between them. ``moving`` has every ``stride``-th row of the whole strip from the first,
    then from the second one on, ``pad`` px more at each edge than ``fixed``, and counts in
    ``unit``, which saves a pass over it. ``trends`` are a column and a row.
    """

    fixed: Image
    gradient: tuple[Image, Image]
    moving: tuple[Image, ...]
    trends: tuple[Image, Image]
    stride: int
    pad: int
    unit: float
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
        # Edge pixels are left out where there are enough: smoothing and shifting made them up.
        edge = min(_PAD, across // 8)
        # Where a little smoothing reaches none that is looked at, there is no need to make any up.
        lost = order // 2 if edge == _PAD and order == 2 else 0
        if not lost:
            a, b = framed(a, order // 2), framed(b, order // 2)
        a, b, unit = _binomial_sums(a, order), _binomial_sums(b, order), 0.25**order
        if edge < _PAD:
            b = framed(b, _PAD - edge)
        if edge == 0:
            a = framed(a, 1)
        margin = max(1, edge) - lost
        rows, cols = (slice(margin, n - margin, stride) for n in a.shape)
        up, down = (slice(margin + s, a.shape[0] - margin + s, stride) for s in (-1, 1))
        left, right = (slice(margin + s, a.shape[1] - margin + s, stride) for s in (-1, 1))
        one, half = np.float32(unit), np.float32(0.5 * unit)
        inner = a[rows, cols] * one
        trends = _ramp(inner.shape[0])[:, None], _ramp(inner.shape[1])[None, :]
        return cls(
            fixed=inner,
            gradient=(
                (a[down, cols] - a[up, cols]) * half,
                (a[rows, right] - a[rows, left]) * half,
            ),
            moving=tuple(np.ascontiguousarray(b[k::stride]) for k in range(stride)),
            trends=trends,
            stride=stride,
            pad=_PAD - lost,
            unit=unit,
            excess=max(1.0, _NOISE_AREA[order] / stride**2),
            area=(y1 - y0) * (x1 - x0),
        )

    def shifted(self, shift: NDArray[np.float64]) -> Image:
        """The moving strip at ``p - shift`` (Keys cubic), at the pixels of ``fixed``."""
        strides = self.stride, self.stride
        return self._sampled(shift, (_cubic, _cubic), strides, self.fixed.shape)

    def _sampled(
        self,
        shift: NDArray[np.float64],
        kernels: tuple[Callable[[float], list[float]], Callable[[float], list[float]]],
        strides: tuple[int, int],
        shape: tuple[int, ...],
    ) -> Image:
        """The moving strip under a kernel per axis, at some rows and columns of the overlap."""
        (top, down), (left, across) = (
            _taps(self.pad - s, kernel) for s, kernel in zip(shift.tolist(), kernels, strict=True)
        )
        height, width = shape
        step = strides[0] // self.stride
        firsts = (divmod(top + k, self.stride) for k in range(len(down)))
        rows = [self.moving[part][k : k + (height - 1) * step + 1 : step] for k, part in firsts]
        image = _weighted_sum(rows, [self.unit * w for w in down])
        # Every so many columns beside each other, rows one after the other: taps are whole lines.
        stride = strides[1]
        reach = (len(across) - 1) // stride
        wide = width + reach
        columns = image[:, left : left + wide * stride]
        lines = [columns[:, k::stride].ravel() for k in range(stride)]
        size = height * wide - reach
        taps = (lines[k % stride][k // stride :][:size] for k in range(len(across)))
        return rows_of(_weighted_sum(list(taps), across), (height, width), wide)

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
            equations.stretch()
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
        telling = np.flatnonzero(thinned(self.gradient[0]))
        for _ in range(_MOST_STEPS):
            moving = self.shifted(shift)
            solution, residual = equations.solve(moving, outliers)
            # fixed + step . gradient = moving part, so the fitted slope is minus the step
            shift = shift - solution[_STEP]
            y, x = shift.tolist()
            if not isfinite(y + x):
                raise np.linalg.LinAlgError("no signal")
            if max(abs(y), abs(x)) > _FURTHEST:
                shift = np.clip(shift, -_FURTHEST, _FURTHEST)
                break
            off = np.abs(residual, out=residual).reshape(self.fixed.shape)
            some = thinned(off).take(telling)
            spread = NORMAL * median_of(some) if some.size else 0.0
            if spread > 0:
                outliers = np.flatnonzero(residual >= _OUTLIER * spread)
            last, step = step, max(abs(s) for s in solution[_STEP].tolist())
            # Steps shrink by some factor each time, so the next one is known.
            if step < tolerance or step**2 < _REST * tolerance * last:
                break
        return shift, moving, outliers

    def _shared_gradient(self, shift: NDArray[np.float64]) -> float:
        """Correlation of the two strips' gradients at ``shift``, from a ninth of many rows."""
        common = own = other = 0.0
        every = min(9, max(1, len(self.fixed) // 4))
        strides = every * self.stride, self.stride
        for axis in (0, 1):
            a = self.gradient[axis][::every]
            kernels = (_cubic_slope, _cubic) if axis == 0 else (_cubic, _cubic_slope)
            b = self._sampled(shift, kernels, strides, a.shape)
            common += float(np.vdot(a, b))
            own, other = own + float(np.vdot(a, a)), other + float(np.vdot(b, b))
        return common / float(np.sqrt(own * other)) if own * other > 0 else 0.0


class _Equations:
    """The linear least squares of one Gauss-Newton step over one overlap.

    The unknowns are gain and its trends along v and u, minus the step (y, x), offset and its
    trends; once stretched, also the trends of minus the step. The target and what each unknown is
    multiplied with are rows of one array, in that order. Only those of the moving strip change from
    step to step, and only the products that they take part in; a stretch adds its own.
    """

    def __init__(self, overlap: Overlap) -> None:
        shape, size = overlap.fixed.shape, overlap.fixed.size
        self._room = np.empty((13, size), dtype=np.float32)
        rows = self._room.reshape(13, *shape)
        # Brightness is an unknown. Strips without most of their own have small sums of squares, of
        # which single precision loses little.
        self._level = np.float32(_level(overlap.moving[0]) * overlap.unit)
        np.subtract(overlap.fixed, np.float32(_level(overlap.fixed)), out=rows[0])
        for row, values in zip(
            rows[4:9], (*overlap.gradient, np.float32(1), *overlap.trends), strict=True
        ):
            row[...] = values
        self._count = 9
        # Of all rows with each other; of offset and trends known: these are orthogonal.
        self._products = np.zeros((13, 13))
        self._plane = np.array((size, *(size * _mean_square(n) for n in shape)))
        np.fill_diagonal(self._products[_PLANE, _PLANE], self._plane)
        self._multiply(slice(4, 6), slice(4, 9))
        self._moving: Image | None = None
        self._solved = self._products[:0, :0]

    def stretch(self) -> None:
        """From now on the step may change linearly along v and u."""
        for k, (slope, trend) in enumerate(product(_GRADIENT, _TRENDS), 9):
            np.multiply(self._room[slope], self._room[trend], out=self._room[k])
        self._count = 13
        self._multiply(slice(9, 13), slice(0, 9))
        # With one row more, since numpy has a slower routine for an array times itself.
        self._multiply(slice(9, 13), slice(8, 13))

    def solve(
        self, moving: Image, outliers: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], Image]:
        """The unknowns, and what they leave unexplained of each pixel of the fixed strip."""
        rows, count = self._room[: self._count], self._count
        if moving is not self._moving:
            self._moving = moving
            np.subtract(moving, self._level, out=rows[1].reshape(moving.shape))
            for k, trend in enumerate(_TRENDS, 2):
                np.multiply(rows[1], rows[trend], out=rows[k])
            self._multiply(slice(0, 4), slice(0, count))
        products = self._products[:count, :count]
        if outliers.size:  # few: what they have added is taken away again
            left_out = rows[:, outliers].astype(np.float64)
            theirs = left_out @ left_out.T
            if (10 * theirs.diagonal() > products.diagonal()).any():
                products = self._without(outliers)
            else:
                products = products - theirs
        self._solved = products[1:, 1:]
        solution = np.asarray(np.linalg.solve(self._solved, products[1:, 0]), dtype=np.float64)
        residual: Image = np.concatenate(([1], -solution)).astype(np.float32) @ rows
        return solution, residual

    def _without(self, outliers: NDArray[np.int64]) -> NDArray[np.float64]:
        """All products of the other pixels alone.

        Where outliers have a tenth of all or more, others would suffer from their rounding.
        """
        rows = self._room[: self._count]
        theirs = rows[:, outliers]
        rows[:, outliers] = 0
        products = rows @ rows.T
        rows[:, outliers] = theirs
        return products.astype(np.float64)

    def _multiply(self, some: slice, others: slice) -> None:
        """The products of some rows with others."""
        a, b = self._room[some], self._room[others]
        # BLAS takes small products several times as fast.
        parts = -(-len(a) * len(b) * a.shape[1] // _SMALL_PRODUCT)
        step = -(-a.shape[1] // parts)
        products = np.zeros((len(a), len(b)))
        for k in range(0, a.shape[1], step):
            products += a[:, k : k + step] @ b[:, k : k + step].T
        self._products[some, others] = products
        self._products[others, some] = products.T

    def correlation(self) -> float:
        """Normalised cross-correlation of the two strips, each freed of its linear trend."""
        both, trends = self._products[:2, :2], self._products[:2, _PLANE]
        scale = np.maximum(self._plane, 1e-6)
        free = both - trends / scale @ trends.T
        if (free.diagonal() < _TOLD * both.diagonal()).any():
            plane = self._room[_PLANE]
            strips = [
                row - (plane @ row / scale).astype(np.float32) @ plane for row in self._room[:2]
            ]
            free = np.array([[np.vdot(a, b) for b in strips] for a in strips], dtype=np.float64)
        (own, common), (_, other) = free.tolist()
        return min(1.0, max(-1.0, common / sqrt(own * other))) if own > 0 and other > 0 else 0.0

    def variance(self, residual: Image, outliers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of the unknowns solved last, from what they left unexplained."""
        inside = np.delete(residual, outliers) if outliers.size else residual
        noise = float(np.vdot(inside, inside)) / max(1, inside.size - self._count + 1)
        return np.asarray(np.linalg.inv(self._solved).diagonal() * noise, dtype=np.float64)


def smooth(image: Image, order: int) -> Image:
    """The image under a binomial kernel of ``order`` (even; sigma sqrt(order) / 2 px), same shape.

    Edges are continued by their last pixel.
    """
    sums = _binomial_sums(framed(image, order // 2), order)
    sums *= np.float32(0.25**order)
    return sums


def _binomial_sums(image: Image, order: int) -> Image:
    """4**order times the smoothed image, without the order / 2 pixels at each edge.

    Pixels are taken as one long line, as in `mosaicreg.edges.neighbour_sums`.
    """
    height, width = image.shape
    line = image.ravel()
    for step in (width,) * order + (1,) * order:
        line = line[:-step] + line[step:]
    return rows_of(line, (height - order, width - order), width)


def _level(image: Image) -> float:
    """About the median: of a few pixels."""
    return median_of(thinned(image)[::7])


def _ramp(n: int) -> Image:
    return np.arange(1 - n, n, 2, dtype=np.float32) / np.float32(max(1, n - 1))


def _mean_square(n: int) -> float:
    """Of the values of `_ramp`."""
    return (n + 1) / (3 * (n - 1)) if n > 1 else 0.0


def _weighted_sum(images: list[Image], weights: list[float]) -> Image:
    total = np.multiply(images[0], np.float32(weights[0]))
    part = np.empty_like(total)
    for image, weight in zip(images[1:], weights[1:], strict=True):
        if weight != 0:
            np.multiply(image, np.float32(weight), out=part)
            total += part
    return total


def _taps(place: float, kernel: Callable[[float], list[float]]) -> tuple[int, list[float]]:
    """First pixel of a strip, and the weights from there on, for a position in pixels."""
    whole = floor(place)
    weights = kernel(place - whole)
    # The cubic reaches from the pixel before to two after, its slope one further each way.
    return whole - (len(weights) - 2) // 2, weights


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
