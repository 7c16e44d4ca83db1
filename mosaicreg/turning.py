"""Where one image lies on another that is turned by a small angle against it.

The strips of `mosaicreg.correlate` are compared at angles so close to each other that between two
of them no end of the strip moves by more than a little; the highest peak over all angles wins. It
is refined by Gauss-Newton least squares over shift, angle, gain, offset and their linear trends
(Baker & Matthews 2004, Lucas-Kanade 20 years on, section 3.1), as `mosaicreg.subpixel` does for
shifts alone.

A tile's angle turns it about its centre C = (shape - 1) / 2, in the sense of `AlignmentRecord`: its
pixel p lies at ``R(angle) (p - C) + C + position`` with R = [[cos, -sin], [sin, cos]] in (y, x).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mosaicreg.correlate import (
    CANDIDATES,
    CLEAR_LEAD,
    GRAIN,
    SAME,
    BinnedPair,
    Match,
    Strips,
    binned_shifts,
)
from mosaicreg.geometry import FloatArray
from mosaicreg.strips import Image, Search
from mosaicreg.subpixel import smooth
from mosaicreg.surface import (
    MIN_SHIFTS,
    Window,
    find_peaks,
    parabola,
    peak_statistics,
)

MAX_TURN = 2.5
"""Degrees; neighbours are not looked for further turned against each other than this."""
END_SLIP = 1.5
"""(Binned) px by which the ends of a strip may be off between two angles that are tried."""
REACH = 6.0
"""px; a fit that moves further from where it started is not believed."""
STEPS, TOLERANCE = 12, 2e-3
"""Most steps of a fit; it has converged when neither shift nor ends move by more px than this."""
OUTLIER = 5.0
"""Residuals beyond this many robust standard deviations are left out of the next step."""
LEAST_POINTS = 60
"""Fewer pixels in common are not fitted."""


@dataclass(frozen=True, slots=True)
class TurnedMatch(Match):
    """A match with an angle.

    Args:
        angle: degrees by which the moving image is turned in the fixed one, about its centre. With
            it, ``dy, dx`` are where the moving image's first pixel would lie, were it not turned.
        angle_sigma: its standard error, degrees.
    """

    angle: float
    angle_sigma: float


def match_turned(
    strips: Strips, search: Search, moving_shape: tuple[int, int]
) -> TurnedMatch | None:
    """Compare two strips at all small angles.

    Args:
        strips: prepared for ``search``.
        search: the shifts to try, at the centre of the moving strip.
        moving_shape: of the whole moving image.

    Returns:
        The best match, or None where there is no signal.
    """
    from scipy import ndimage  # here and below: only where tiles may be turned

    found = _best_angle(strips.binned, search)
    if found is None:
        return None
    angle, height, valid, first = found
    peaks, heights = find_peaks(height, valid, CANDIDATES)
    z, ratio = peak_statistics(height, valid, peaks, heights)
    few = 1 if ratio >= CLEAR_LEAD else CANDIDATES
    starts = [(first + parabola(height, valid, p)) * strips.binned[0].by for p in peaks[:few]]
    f, m = (smooth(strip, 2) for strip in (strips.fixed, strips.moving))
    spline = ndimage.spline_filter(m, order=3)
    fits = [_fit(f, m, spline, start, angle) for start in starts]
    winner = max(range(len(fits)), key=lambda k: fits[k].evidence)
    best = fits[winner]
    others = [f for f in fits if np.abs(f.shift - best.shift).max() > SAME]
    lead = np.inf
    if others:
        lead = (best.evidence - max(f.evidence for f in others)) / np.sqrt(2)
    centre = (np.array(search.moving.shape) - 1) / 2
    middle = (np.array(moving_shape) - 1) / 2
    arm = middle - (search.moving.y0, search.moving.x0) - centre
    origin = np.array([search.fixed.y0, search.fixed.x0])
    dy, dx = rotation(best.angle) @ arm + centre + best.shift + origin - middle
    return TurnedMatch(
        dy=float(dy),
        dx=float(dx),
        sigma=best.sigma,
        correlation=best.correlation,
        z=z * float(heights[winner] / heights[0]),
        ratio=ratio,
        lead=float(lead),
        angle=float(np.rad2deg(best.angle)),
        angle_sigma=float(np.rad2deg(best.angle_sigma)),
    )


def rough_turned(pair: BinnedPair, search: Search) -> tuple[float] | None:
    """(z,) as `match_turned` finds it, without refinement: what chance reaches over all angles."""
    found = _best_angle(pair, search)
    if found is None:
        return None
    _, height, valid, _ = found
    return (peak_statistics(height, valid, *find_peaks(height, valid, 2))[0],)


def rotation(angle: float) -> FloatArray:
    """(2, 2) that turns (y, x) by ``angle`` radian."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def _best_angle(
    pair: BinnedPair, search: Search
) -> tuple[float, Image, NDArray[np.bool_], NDArray[np.int64]] | None:
    """The angle (radian) with the highest peak, its surface, shifts that count, the first one."""
    if pair[0].is_flat or pair[1].is_flat:
        return None
    f, m = (strip.flat for strip in pair)
    first, last = binned_shifts(search, pair[0].by)
    window = Window.of(f.shape, m.shape, first, last)
    fixed = pair[0].as_fixed(window)
    best, found = 0.0, None
    for angle in _angles(max(min(a, b) for a, b in zip(f.shape, m.shape, strict=True))):
        height, valid = window.surface(fixed, window.moving(_turned(m, angle)))
        if np.count_nonzero(valid) >= MIN_SHIFTS and height.max() > best:
            best, found = float(height.max()), (angle, height, valid, first)
    if found is None or len(find_peaks(found[1], found[2], 1)[0]) == 0:
        return None
    return found


def _angles(length: int) -> Iterator[float]:
    """Angles to try for strips of ``length`` px: from none outwards, so that none wins a tie."""
    step = 4 * END_SLIP / max(1, length)
    yield 0.0
    for k in range(1, int(np.deg2rad(MAX_TURN) / step) + 2):
        yield from (k * step, -k * step)


def _turned(image: Image, angle: float) -> Image:
    """The image turned about its centre; 0 where nothing is known."""
    if angle == 0:
        return image
    from scipy import ndimage

    centre = (np.array(image.shape) - 1) / 2
    back = rotation(-angle)
    turned: Image = ndimage.affine_transform(
        image, back, centre - back @ centre, order=1, mode="constant", cval=0.0
    )
    return turned


@dataclass(frozen=True, slots=True)
class _Fit:
    """Shift (y, x) of the strip turned about its centre by ``angle`` (radian), and how sure."""

    shift: FloatArray
    angle: float
    sigma: float
    angle_sigma: float
    correlation: float
    evidence: float


def _fit(f: Image, m: Image, spline: FloatArray, start: FloatArray, angle: float) -> _Fit:
    """The shift and angle near the given ones at which ``f`` and ``m`` agree best."""
    shift, first = start, angle
    failed = _Fit(start, angle, np.inf, np.inf, 0.0, 0.0)
    for _ in range(STEPS):
        points = _Points.cut(f, m, spline, shift, angle)
        if points is None:
            return failed
        try:
            found = points.solve()
        except np.linalg.LinAlgError:
            return failed
        angle += found.turn
        # The turn is about the middle of the common pixels; the shift is told at the strip's.
        shift = shift + found.step - found.turn * np.array([-points.middle[1], points.middle[0]])
        reach = REACH + abs(angle - first) * float(np.abs(points.middle).max())
        if not np.abs(shift - start).max() <= reach:
            return failed
        if max(np.abs(found.step).max(), abs(found.turn) * points.reach) < TOLERANCE:
            break
    assert points is not None
    good = min(max(found.correlation, -1.0), 1 - 1e-6)
    return _Fit(
        shift=shift,
        angle=angle,
        sigma=found.sigma,
        angle_sigma=found.turn_sigma,
        correlation=found.correlation,
        evidence=float(np.arctanh(good) * np.sqrt(points.size * points.stride**2 / GRAIN)),
    )


@dataclass(frozen=True, slots=True)
class _Solution:
    step: FloatArray
    turn: float
    sigma: float
    turn_sigma: float
    correlation: float


@dataclass(frozen=True, slots=True)
class _Points:
    """Pixels of the fixed strip that the turned moving strip covers, every ``stride``-th.

    Args:
        fixed, moving: (n,) values. gradient: (2, n) of moving, along the fixed strip's axes.
        away: (2, n) px from the middle of the points. middle: that, from the strip's centre.
        reach: px, half the length of the common area.
    """

    fixed: NDArray[np.float64]
    moving: NDArray[np.float64]
    gradient: NDArray[np.float64]
    away: NDArray[np.float64]
    middle: FloatArray
    reach: float
    stride: int

    @property
    def size(self) -> int:
        """How many."""
        return len(self.fixed)

    @classmethod
    def cut(
        cls, f: Image, m: Image, spline: FloatArray, shift: FloatArray, angle: float
    ) -> _Points | None:
        """The common pixels at a shift and angle; None where too few."""
        centre = (np.array(m.shape) - 1) / 2
        from scipy import ndimage

        low = np.maximum(0, np.floor(shift - 1)).astype(int)
        high = np.minimum(f.shape, np.ceil(shift + m.shape + 1).astype(int))
        across = int((high - low).min())
        stride = 2 if across >= 32 else 1
        if across < 3:
            return None
        y, x = np.mgrid[low[0] : high[0] : stride, low[1] : high[1] : stride]
        at = np.stack([y.ravel(), x.ravel()]).astype(np.float64)
        away = at - (shift + centre)[:, None]
        back = rotation(-angle)
        source = back @ away + centre[:, None]
        margin = 2.0 if across >= 16 else 0.0
        edge = np.array(m.shape)[:, None] - 1 - margin
        inside = ((source >= margin) & (source <= edge)).all(axis=0)
        if np.count_nonzero(inside) < LEAST_POINTS:
            return None
        source, away = source[:, inside], away[:, inside]
        values = ndimage.map_coordinates(spline, source, order=3, prefilter=False, mode="nearest")
        gradient = np.empty_like(away)
        for axis in (0, 1):
            # Half a pixel to either side along the fixed strip's axes.
            side = (back[:, axis] * 0.5)[:, None]
            ahead, behind = (
                ndimage.map_coordinates(m, source + s * side, order=1, mode="nearest")
                for s in (1, -1)
            )
            gradient[axis] = ahead - behind
        middle = away.mean(axis=1)
        away = away - middle[:, None]
        chosen = at[:, inside].astype(int)
        return cls(
            fixed=f[chosen[0], chosen[1]].astype(np.float64),
            moving=values,
            gradient=gradient,
            away=away,
            middle=middle,
            reach=float(np.abs(away).max()),
            stride=stride,
        )

    def solve(self) -> _Solution:
        """One step of least squares, taken twice: the second time without outliers."""
        gy, gx = self.gradient
        long = max(1.0, self.reach)
        v, u = self.away / long
        b, one = self.moving, np.ones(self.size)
        design = np.stack([-gy, -gx, gy * u - gx * v, b, one, b * v, b * u, v, u])
        weight = one
        for _ in range(2):
            weighted = design * weight
            normal = weighted @ design.T
            coefficients = np.linalg.solve(normal, weighted @ self.fixed)
            residual = self.fixed - coefficients @ design
            used = weight
            spread = 1.4826 * float(np.median(np.abs(residual)))
            if spread > 0:
                weight = (np.abs(residual) < OUTLIER * spread).astype(np.float64)
        gain = float(coefficients[3])
        if not (gain > 0 and np.isfinite(coefficients).all()):
            raise np.linalg.LinAlgError("no signal")
        noise = float(residual**2 @ used) / max(1.0, float(used.sum()) - len(design))
        # Smoothing spreads noise over (16 / 6)^2 pixels.
        noise *= max(1.0, (16 / 6) ** 2 / self.stride**2)
        correlation = self._correlation(used)
        # The part of the gradient that is noise says nothing about the shift.
        shared = gain * max(correlation, 1e-2)
        error = np.sqrt(np.maximum(np.linalg.inv(normal).diagonal(), 0) * noise) / shared
        return _Solution(
            step=coefficients[:2] / gain,
            turn=float(coefficients[2]) / gain / long,
            sigma=float(error[:2].max()),
            turn_sigma=float(error[2]) / long,
            correlation=correlation,
        )

    def _correlation(self, weight: NDArray[np.float64]) -> float:
        """Normalised cross-correlation, each side freed of its linear trend."""
        basis = np.stack([np.ones(self.size), *self.away / max(1.0, self.reach)])
        scale = np.square(basis).sum(axis=1)
        a, b = (c - ((basis @ c) / scale) @ basis for c in (self.fixed, self.moving))
        a, b = a * weight, b * weight
        norm = float(np.sqrt((a @ a) * (b @ b)))
        return float(a @ b) / norm if norm > 0 else 0.0
