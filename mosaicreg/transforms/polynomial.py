"""Legendre polynomials from target to source, as mosaics of older tools store tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from mosaicreg.errors import InputError
from mosaicreg.transforms.base import FloatArray, Transform, bounds_of, frozen
from mosaicreg.transforms.linear import Linear, Translation, _factor, _set

MAX_DEGREE = 12
ITERATIONS = 50

Origin = Literal["corner", "center"]


@dataclass(frozen=True, eq=False)
class Polynomial(Transform):
    """Source position as a polynomial of the target position; the way forward by Newton's method.

    With A = (u - uc) / X and B = (v - vc) / Y, a target position (v, u) has the source position
    x = X sum a_jk P_j(A) P_k(B), y = Y sum b_jk P_j(A) P_k(B), P being Legendre polynomials and
    (Y, X) half the size of the tile. Where Newton's method does not settle, the result is NaN.

    Args:
        a, b: ((N + 1)(N + 2) / 2,) coefficients for x and y in the order 00, 01, 10, 02, 11, 20...
        anchor: (y, x) that the text form calls (vc, uc).
        half_size: (Y, X).
        origin: what the anchor is: ``"corner"``: where the first corner of the tile lies when the
            polynomial is a plain shift, as nornir's mosaics have it; ``"center"``: (vc, uc).

    Raises:
        InputError: for a wrong number of coefficients, or a linear part without inverse.
    """

    a: FloatArray
    b: FloatArray
    anchor: FloatArray
    half_size: FloatArray
    origin: Origin

    def __init__(
        self,
        a: ArrayLike,
        b: ArrayLike,
        anchor: ArrayLike,
        half_size: ArrayLike,
        origin: Origin = "corner",
    ) -> None:
        _set(
            self,
            a=frozen(a, None, "coefficients a"),
            b=frozen(b, None, "coefficients b"),
            anchor=frozen(anchor, (2,), "anchor"),
            half_size=frozen(half_size, (2,), "half size"),
            origin=origin,
        )
        count = self.a.size
        if self.a.shape != self.b.shape or not any(
            count == (n + 1) * (n + 2) // 2 for n in range(1, MAX_DEGREE + 1)
        ):
            raise InputError(
                f"{self.a.size} and {self.b.size} coefficients are not those of one degree from 1 "
                f"to {MAX_DEGREE}"
            )
        if self.half_size.min() <= 0:
            raise InputError(f"half the tile size is {self.half_size.tolist()}, not above 0")
        linear = np.array([self.a[1:3], self.b[1:3]])
        if abs(np.linalg.det(linear)) <= 1e-12 * np.abs(linear).max() ** 2:
            raise InputError(f"the polynomial's linear part {linear.tolist()} is singular")

    @property
    def degree(self) -> int:
        """N."""
        return int(np.sqrt(2 * self.a.size)) - 1

    @property
    def center(self) -> FloatArray:
        """(vc, uc) of the formula."""
        return self.anchor + self.half_size if self.origin == "corner" else self.anchor

    @property
    def shift(self) -> Translation | None:
        """The same map where it is a plain shift of the source, else None."""
        plain = np.zeros(self.a.size)
        plain[0] = 1
        a, b = plain.copy(), plain.copy()
        a[2] = b[1] = 1
        if not (np.array_equal(self.a, a) and np.array_equal(self.b, b)):
            return None
        if self.origin == "corner":
            return Translation(self.anchor)
        return Translation(self.anchor - self.half_size)

    @property
    def target_points(self) -> FloatArray:
        """(4, 2) where the tile's corners lie: (0, 0), (0, W), (H, 0), (H, W)."""
        return self.transform(self.source_points)

    @property
    def source_points(self) -> FloatArray:
        """(4, 2) the tile's corners."""
        h, w = 2 * self.half_size
        return np.array([(0, 0), (0, w), (h, 0), (h, w)])

    @property
    def target_bounds(self) -> tuple[float, float, float, float] | None:
        """The box around the tile's corners in target space."""
        return bounds_of(self.target_points)

    def _backward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        if self.shift is not None:
            return self.shift._backward(points, extrapolate)
        values, _ = self._evaluate((points - self.center) / self.half_size)
        return values * self.half_size

    def _forward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        if self.shift is not None:
            return self.shift._forward(points, extrapolate)
        wanted = points / self.half_size
        place = np.zeros_like(wanted)
        step = np.full(len(points), np.inf)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            for _ in range(ITERATIONS):
                values, (m, n, p, q) = self._evaluate(place)
                miss = wanted - values
                det = m * q - n * p
                move = np.stack([q * miss[:, 0] - n * miss[:, 1], m * miss[:, 1] - p * miss[:, 0]])
                move = (move / det).T
                place = place + move
                step = np.abs(move).max(axis=1)
                if not (step > 1e-13).any():
                    break
        place[~(step <= 1e-9)] = np.nan
        return place * self.half_size + self.center

    def _evaluate(self, place: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Values (n, 2) (y, x) and derivatives dy/dB, dy/dA, dx/dB, dx/dA, (4, n)."""
        pa, da = _legendre(place[:, 1], self.degree)
        pb, db = _legendre(place[:, 0], self.degree)
        y, x = np.zeros(len(place)), np.zeros(len(place))
        slope = np.zeros((4, len(place)))
        for total in range(self.degree + 1):
            for j in range(total + 1):
                k = total - j
                at = j + total * (total + 1) // 2
                both, by_b, by_a = pa[j] * pb[k], pa[j] * db[k], da[j] * pb[k]
                y += self.b[at] * both
                x += self.a[at] * both
                for row, factor in enumerate((self.b[at] * by_b, self.b[at] * by_a)):
                    slope[row] += factor
                for row, factor in enumerate((self.a[at] * by_b, self.a[at] * by_a)):
                    slope[2 + row] += factor
        return np.stack([y, x], axis=1), slope

    def inverse(self) -> Transform:
        """A plain shift turns round; anything else is `Inverse`."""
        return self.shift.inverse() if self.shift is not None else Inverse(self)

    def scaled(self, factor: float) -> Polynomial:
        """Anchor and size times ``factor``."""
        size = _factor(factor)
        return Polynomial(self.a, self.b, self.anchor * size, self.half_size * size, self.origin)

    def followed_by(self, last: Transform) -> Transform:
        """A plain shift and a matrix make a matrix."""
        if self.shift is not None and isinstance(last, Linear):
            return self.shift.followed_by(last)
        return super().followed_by(last)


@dataclass(frozen=True, eq=False)
class Inverse(Transform):
    """Any transform with source and target exchanged."""

    of: Transform

    def _forward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        return self.of._backward(points, extrapolate)

    def _backward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        return self.of._forward(points, extrapolate)

    def inverse(self) -> Transform:
        """The transform itself."""
        return self.of

    def scaled(self, factor: float) -> Inverse:
        """The scaled transform, exchanged."""
        return Inverse(self.of.scaled(factor))

    @property
    def source_points(self) -> FloatArray:
        """The transform's target points."""
        return self.of.target_points

    @property
    def target_points(self) -> FloatArray:
        """The transform's source points."""
        return self.of.source_points


def _legendre(x: FloatArray, degree: int) -> tuple[list[FloatArray], list[FloatArray]]:
    """Values and derivatives of P_0 to P_degree (recurrences of DLMF 18.9)."""
    values, slopes = [np.ones_like(x), x], [np.zeros_like(x), np.ones_like(x)]
    for n in range(1, degree):
        values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
        slopes.append(slopes[n - 1] + (2 * n + 1) * values[n])
    return values, slopes
