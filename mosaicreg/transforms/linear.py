"""Transforms given by a matrix: translation, rigid, similarity, affine.

All have the form q = M (p - center) + center + offset, in (y, x). Angles are radians and turn the
way `mosaicreg.AlignmentRecord` and ``scipy.ndimage.rotate`` turn: d goes to
(c dy - s dx, s dy + c dx). The text forms of ITK count angles the other way round.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from mosaicreg.errors import InputError
from mosaicreg.transforms.base import FloatArray, Transform, frozen

Pair = tuple[float, float]
ORIGIN = np.zeros(2)
ORIGIN.setflags(write=False)


@dataclass(frozen=True, eq=False)
class Linear(Transform):
    """What the four kinds share. They have no control points and no outside."""

    @property
    @abstractmethod
    def parts(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(matrix (2, 2) that acts on columns (dy, dx), center (y, x), offset (y, x))."""

    @cached_property
    def _backward_matrix(self) -> FloatArray:
        (a, b), (c, d) = self.parts[0]
        inverse: FloatArray = np.array([[d, -b], [-c, a]]) / (a * d - b * c)
        return inverse

    def _forward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        matrix, center, offset = self.parts
        return _times(matrix, points - center) + (center + offset)

    def _backward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        _, center, offset = self.parts
        return _times(self._backward_matrix, points - (center + offset)) + center

    def followed_by(self, last: Transform) -> Transform:
        """One matrix where both are matrices; a mesh or grid takes the matrix in."""
        if isinstance(last, Translation) and isinstance(self, Translation):
            return Translation(self.offset + last.offset)
        if isinstance(last, Linear):
            origin = last._forward(self._forward(ORIGIN[None], True), True)[0]
            return Affine(last.parts[0] @ self.parts[0], origin)
        return last.preceded_by(self)

    def _undone_offset(self) -> FloatArray:
        undone: FloatArray = -_times(self._backward_matrix, self.parts[2][None])[0]
        return undone


def _times(matrix: FloatArray, points: FloatArray) -> FloatArray:
    """Rows of points through a matrix, spelled out: BLAS rounds a row by how many there are."""
    y, x = points[:, 0], points[:, 1]
    return np.stack([matrix[0, 0] * y + matrix[0, 1] * x, matrix[1, 0] * y + matrix[1, 1] * x], 1)


def _set(new: Any, /, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(new, name, value)


@dataclass(frozen=True, eq=False)
class Translation(Linear):
    """q = p + offset.

    Args:
        offset: (y, x) px.
    """

    offset: FloatArray

    def __init__(self, offset: ArrayLike) -> None:
        _set(self, offset=frozen(offset, (2,), "offset"))

    @property
    def parts(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(matrix, center, offset)."""
        return np.eye(2), ORIGIN, self.offset

    def _forward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        return points + self.offset

    def _backward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        return points - self.offset

    def inverse(self) -> Translation:
        """The way back."""
        return Translation(0 - self.offset)

    def scaled(self, factor: float) -> Translation:
        """The offset times ``factor``."""
        return Translation(self.offset * _factor(factor))


@dataclass(frozen=True, eq=False)
class Rigid(Linear):
    """Turns by ``angle`` about ``center``, then moves by ``offset``.

    Args:
        offset: (y, x) px.
        angle: radians, see the module for the direction.
        center: (y, x) of the source point that is turned about.
    """

    offset: FloatArray
    angle: float
    center: FloatArray

    def __init__(self, offset: ArrayLike, angle: float = 0.0, center: ArrayLike = (0, 0)) -> None:
        _set(
            self,
            offset=frozen(offset, (2,), "offset"),
            angle=float(frozen(angle, (), "angle")),
            center=frozen(center, (2,), "center"),
        )

    @property
    def parts(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(matrix, center, offset)."""
        return rotation(self.angle), self.center, self.offset

    def inverse(self) -> Rigid:
        """Turns back about the same centre."""
        return Rigid(self._undone_offset(), 0 - self.angle, self.center)

    def scaled(self, factor: float) -> Rigid:
        """Offset and centre times ``factor``."""
        return Rigid(self.offset * _factor(factor), self.angle, self.center * factor)


@dataclass(frozen=True, eq=False)
class Similarity(Linear):
    """Scales by ``scale`` and turns by ``angle`` about ``center``, then moves by ``offset``.

    Args:
        offset: (y, x) px.
        angle: radians, see the module for the direction.
        center: (y, x) of the source point that is turned about.
        scale: above 0.
        free_center: whether the text form counts the centre among its parameters
            (CenteredSimilarity2DTransform) or not (Similarity2DTransform); the map is the same.
    """

    offset: FloatArray
    angle: float
    center: FloatArray
    scale: float
    free_center: bool

    def __init__(
        self,
        offset: ArrayLike,
        angle: float = 0.0,
        center: ArrayLike = (0, 0),
        scale: float = 1.0,
        free_center: bool = True,
    ) -> None:
        _set(
            self,
            offset=frozen(offset, (2,), "offset"),
            angle=float(frozen(angle, (), "angle")),
            center=frozen(center, (2,), "center"),
            scale=float(frozen(scale, (), "scale")),
            free_center=bool(free_center),
        )
        if self.scale <= 0:
            raise InputError(f"a similarity has a scale above 0, not {scale}")

    @property
    def parts(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(matrix, center, offset)."""
        return self.scale * rotation(self.angle), self.center, self.offset

    def inverse(self) -> Similarity:
        """Scales and turns back about the same centre."""
        back = self._undone_offset()
        return replace(self, offset=back, angle=0 - self.angle, scale=1 / self.scale)

    def scaled(self, factor: float) -> Similarity:
        """Offset and centre times ``factor``."""
        return replace(self, offset=self.offset * _factor(factor), center=self.center * factor)


@dataclass(frozen=True, eq=False)
class Affine(Linear):
    """q = matrix (p - center) + center + offset.

    Args:
        matrix: (2, 2), acts on columns (dy, dx).
        offset: (y, x) px.
        center: (y, x) of the source point that goes to center + offset.

    Raises:
        InputError: where the matrix has no inverse.
    """

    matrix: FloatArray
    offset: FloatArray
    center: FloatArray

    def __init__(
        self, matrix: ArrayLike, offset: ArrayLike = (0, 0), center: ArrayLike = (0, 0)
    ) -> None:
        _set(
            self,
            matrix=frozen(matrix, (2, 2), "matrix"),
            offset=frozen(offset, (2,), "offset"),
            center=frozen(center, (2,), "center"),
        )
        (a, b), (c, d) = self.matrix
        if abs(a * d - b * c) <= 1e-12 * np.abs(self.matrix).max() ** 2:
            raise InputError(
                f"the matrix {self.matrix.tolist()} is singular: it puts the plane on one line"
            )

    @classmethod
    def scaling(cls, factor: float | Pair) -> Self:
        """Multiplies coordinates by one number or by (y, x)."""
        return cls(np.diag(np.broadcast_to(np.asarray(factor, dtype=np.float64), 2)))

    @classmethod
    def fit(cls, source: FloatArray, target: FloatArray) -> Self:
        """The affine map nearest to point pairs (least squares), (n, 2) each, n of 3 or more."""
        center = source.mean(axis=0)
        columns = np.column_stack([source - center, np.ones(len(source))])
        solution = np.linalg.lstsq(columns, target, rcond=None)[0]
        return cls(solution[:2].T, solution[2] - center, center)

    @property
    def parts(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(matrix, center, offset)."""
        return self.matrix, self.center, self.offset

    def inverse(self) -> Affine:
        """The matrix undone about the same centre."""
        return Affine(self._backward_matrix, self._undone_offset(), self.center)

    def scaled(self, factor: float) -> Affine:
        """Offset and centre times ``factor``."""
        return Affine(self.matrix, self.offset * _factor(factor), self.center * factor)


def rotation(angle: float) -> FloatArray:
    """(2, 2) rotation by radians; quarter turns are exact."""
    quarters = angle / (np.pi / 2)
    if quarters == np.round(quarters):
        c, s = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][int(quarters) % 4]
    else:
        c, s = float(np.cos(angle)), float(np.sin(angle))
    return np.array([[c, -s], [s, c]])


def _factor(value: float) -> float:
    if not (np.isfinite(value) and value > 0):
        raise InputError(f"a scale factor is a number above 0, not {value}")
    return float(value)
