"""What every transform is and promises: `Transform`, and two of them in a row: `Composed`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mosaicreg.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Bounds = tuple[float, float, float, float]
"""(y0, x0, y1, x1): the smallest and largest coordinates, both included."""


def as_points(points: ArrayLike) -> FloatArray:
    """(n, 2) float64 points; one point (2,) becomes (1, 2), nothing becomes (0, 2).

    Raises:
        InputError: for any other shape.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        return np.empty((0, 2))
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[1] != 2:
        raise InputError(f"points are rows (y, x), not an array of shape {array.shape}")
    return array


def frozen(values: ArrayLike, shape: tuple[int, ...] | None, what: str) -> FloatArray:
    """A read-only float64 copy of finite numbers.

    Raises:
        InputError: for another shape, NaN or infinite numbers; ``what`` names the value.
    """
    array = np.array(values, dtype=np.float64)
    if shape is not None and array.shape != shape:
        raise InputError(f"{what} has shape {array.shape}, not {shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{what} has numbers that are NaN or infinite: {values!r:.200}")
    array.setflags(write=False)
    return array


def bounds_of(points: FloatArray) -> Bounds | None:
    """The box around points, or None where there is none."""
    if len(points) == 0:
        return None
    (y0, x0), (y1, x1) = points.min(axis=0), points.max(axis=0)
    return float(y0), float(x0), float(y1), float(x1)


@dataclass(frozen=True, eq=False)
class Transform(ABC):
    """A map of the plane: source (moving, warped) points to target (fixed) points and back.

    Immutable and picklable. Points are (n, 2) float64 rows (y, x) in px, pixel centres at integers;
    results are always (n, 2). A row with NaN gives a row of NaN. A transform made of control points
    is defined between them; outside it is continued with ``extrapolate=True`` and NaN with
    ``extrapolate=False``.

    Laws, for every transform t, u and points p where t is defined:

    - ``t.inverse_transform(t.transform(p))`` is p, within 1e-6 px;
    - ``t.inverse().transform(q)`` is ``t.inverse_transform(q)``; ``t.inverse().inverse()`` is t;
    - ``t.compose(u).transform(p)`` is ``t.transform(u.transform(p))``: u first, then t;
    - ``t.scaled(s).transform(s * p)`` is ``s * t.transform(p)``;
    - each row of a result depends on the same row of the input alone, to the bit.
    """

    @abstractmethod
    def _forward(self, points: FloatArray, extrapolate: bool) -> FloatArray: ...

    @abstractmethod
    def _backward(self, points: FloatArray, extrapolate: bool) -> FloatArray: ...

    @abstractmethod
    def inverse(self) -> Transform:
        """The map from target to source."""

    @abstractmethod
    def scaled(self, factor: float) -> Transform:
        """The same map between spaces whose coordinates are multiplied by ``factor``."""

    def transform(self, points: ArrayLike, *, extrapolate: bool = True) -> FloatArray:
        """Source points in target space."""
        return self._forward(as_points(points), extrapolate)

    def inverse_transform(self, points: ArrayLike, *, extrapolate: bool = True) -> FloatArray:
        """Target points in source space."""
        return self._backward(as_points(points), extrapolate)

    def compose(self, first: Transform) -> Transform:
        """The map that applies ``first`` and then this one."""
        return first.followed_by(self)

    def followed_by(self, last: Transform) -> Transform:
        """The map that applies this one and then ``last``."""
        return last.preceded_by(self)

    def preceded_by(self, first: Transform) -> Transform:
        """`compose` where ``first`` knows no shorter form."""
        return Composed(self, first)

    @property
    def source_points(self) -> FloatArray:
        """(n, 2) control points in source space; (0, 2) where there are none."""
        return np.empty((0, 2))

    @property
    def target_points(self) -> FloatArray:
        """(n, 2) the same control points in target space."""
        return np.empty((0, 2))

    @property
    def bounds(self) -> Bounds | None:
        """The box around the control points in source space, None where there are none."""
        return bounds_of(self.source_points)

    @property
    def target_bounds(self) -> Bounds | None:
        """The box around the control points in target space, None where there are none."""
        return bounds_of(self.target_points)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, f.name) for f in fields(self) if f.compare)

    def __eq__(self, other: object) -> bool:
        """Same kind and same numbers."""
        if type(self) is not type(other):
            return NotImplemented
        pairs = zip(self._values(), other._values(), strict=True)
        return all(a == b if isinstance(a, Transform) else np.array_equal(a, b) for a, b in pairs)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """What dask names a graph by: equal transforms give equal names."""
        return type(self).__name__, *self._values()

    def __hash__(self) -> int:
        values = (
            v if isinstance(v, Transform) else np.asarray(v).tobytes() for v in self._values()
        )
        return hash((type(self), *values))


@dataclass(frozen=True, eq=False)
class Composed(Transform):
    """``inner`` first, then ``outer``; exact, nothing is sampled."""

    outer: Transform
    inner: Transform

    def _forward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        return self.outer._forward(self.inner._forward(points, extrapolate), extrapolate)

    def _backward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        return self.inner._backward(self.outer._backward(points, extrapolate), extrapolate)

    def inverse(self) -> Transform:
        """Both undone, the last first."""
        return Composed(self.inner.inverse(), self.outer.inverse())

    def scaled(self, factor: float) -> Transform:
        """Both scaled."""
        return Composed(self.outer.scaled(factor), self.inner.scaled(factor))

    @property
    def source_points(self) -> FloatArray:
        """Those of the first map."""
        return self.inner.source_points

    @property
    def target_points(self) -> FloatArray:
        """The first map's control points, where both maps put them."""
        return self.transform(self.inner.source_points)
