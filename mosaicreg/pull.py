"""Where in a source image each pixel of a box lies: transforms made ready for rendering.

A `Pull` is the inverse of a transform over one plane of output pixels. Affine maps and triangles
are kept as whole numbers of 2**-bits px: sums and products of those are exact, so a pixel's source
position is the same to the bit however the plane is cut into boxes. Rounding the matrices to that
grid moves a pixel by less than 1e-5 px in a plane of a million px.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, FloatArray, IntArray
from mosaicreg.transforms import Bounds, Grid, Linear, Mesh, Polynomial, Transform
from mosaicreg.transforms.locate import TriangleMap, slopes

MOST_BITS = 36
"""Bits after the point of a source position; fewer where positions are beyond 2**26 px."""
TOUCH = 1e-6
"""Pixels so near to a triangle's edge, in px, belong to it: control points on pixel centres."""
LATTICE = 65
"""Points a side at which a transform that is neither affine nor a mesh is asked for its extent."""
NOWHERE = -(1 << 61)
"""Source position of pixels that nothing maps to: far outside any image."""


@dataclass(frozen=True, eq=False)
class AffinePull:
    """Source position = (matrix (y, x) + shift) / 2**bits.

    Args:
        matrix: (2, 2) int64.
        shift: (2,) int64.
        bits: after the point.
    """

    matrix: IntArray
    shift: IntArray
    bits: int

    @cached_property
    def steps(self) -> tuple[int, int] | None:
        """(y, x) in whole px, where this only moves by whole px, else None."""
        one = 1 << self.bits
        if (self.matrix != one * np.eye(2, dtype=np.int64)).any() or (self.shift % one).any():
            return None
        return int(self.shift[0]) >> self.bits, int(self.shift[1]) >> self.bits

    def at(self, box: Box) -> IntArray:
        """(2,) the source position of the box's first pixel, whole numbers."""
        return np.array(
            [m[0] * box.y0 + m[1] * box.x0 + s
             for m, s in zip(self.matrix.tolist(), self.shift.tolist(), strict=True)]
        )  # fmt: skip

    def coordinates(self, box: Box, corner: tuple[int, int]) -> FloatArray:
        """(2, h, w) the source (y, x) of each pixel of a box, less ``corner``."""
        start = self.at(box) - (np.array(corner) << self.bits)
        y, x = np.arange(box.shape[0]), np.arange(box.shape[1])
        result = np.empty((2, *box.shape))
        for k in range(2):
            first, along = self.matrix[k, 0] * y + start[k], self.matrix[k, 1] * x
            np.multiply(first[:, None] + along, 2.0**-self.bits, out=result[k])
        return result

    def bounds(self, box: Box) -> Bounds | None:
        """The box around the source positions of a box's pixels."""
        if box.area == 0:
            return None
        ends = [(y, x) for y in (box.y0, box.y1 - 1) for x in (box.x0, box.x1 - 1)]
        points = np.array([self.at(Box.at(p, (1, 1))) for p in ends]) * 2.0**-self.bits
        return _around(points)

    def cut(self, box: Box) -> AffinePull:
        """What a box needs of it."""
        return self


@dataclass(frozen=True, eq=False)
class MeshPull:
    """Affine in each triangle; beyond them affine, or nothing.

    Args:
        corners: (k, 3, 2) float64, of the triangles in the output plane; the first of two that
            share a pixel has it.
        matrix, shift: (k, 2, 2) and (k, 2) int64, as in `AffinePull`.
        bits: after the point.
        far: what holds beyond the triangles.
        gaps: whether there may be pixels that nothing maps.
    """

    corners: FloatArray
    matrix: IntArray
    shift: IntArray
    bits: int
    far: AffinePull | None
    gaps: bool

    def coordinates(self, box: Box, corner: tuple[int, int]) -> FloatArray:
        """(2, h, w) the source (y, x) of each pixel, less ``corner``; of unmapped ones, absurd."""
        begin, triangle = self._runs(box)
        shape = box.shape
        lengths = np.diff(begin, append=shape[0] * shape[1])
        y, x = box.y0 + begin // shape[1], box.x0 + begin % shape[1]
        far = self.far or AffinePull(np.zeros((2, 2), np.int64), np.full(2, NOWHERE), self.bits)
        matrix = np.concatenate([self.matrix, far.matrix[None]])  # -1 stands for beyond
        shift = np.concatenate([self.shift, far.shift[None]])
        result = np.empty((2, *shape))
        for k in range(2):
            along = matrix[triangle, k, 1]
            # Sums of int64 wrap and come back: exact whatever lies between.
            first = matrix[triangle, k, 0] * y + along * x + shift[triangle, k]
            first -= corner[k] << self.bits
            ends = first + along * (lengths - 1)
            steps = np.repeat(along, lengths)
            steps[begin] = first - np.concatenate([[0], ends[:-1]])
            np.cumsum(steps, out=steps)
            np.multiply(steps.reshape(shape), 2.0**-self.bits, out=result[k])
        return result

    def _runs(self, box: Box) -> tuple[IntArray, IntArray]:
        """The box's pixels, row after row, as runs in one triangle: (first pixel, triangle or -1).

        Runs end at rows' ends. An edge is computed from its lower to its upper corner, so the
        triangles on both sides of it agree on where it is.
        """
        low, high = self.corners[..., 0].min(axis=1), self.corners[..., 0].max(axis=1)
        first = np.maximum(np.ceil(low - TOUCH), box.y0).astype(np.int64)
        last = np.minimum(np.floor(high + TOUCH), box.y1 - 1).astype(np.int64)
        count = np.maximum(last - first + 1, 0)
        triangle = np.repeat(np.arange(len(count)), count)
        row = np.arange(len(triangle)) - np.repeat(np.cumsum(count) - count, count)
        row += first[triangle]
        left, right = _crossings(self.corners, triangle, row)
        start = np.ceil(left - TOUCH).astype(np.int64)
        end = np.floor(right + TOUCH).astype(np.int64) + 1
        order = np.lexsort((triangle, start, row))
        order = order[(end > start)[order]]
        triangle, row, start, end = triangle[order], row[order], start[order], end[order]
        # A pixel that several runs claim goes to the one that starts first; rows kept apart by
        # putting them a long way from each other on one line.
        width = 1 << 40
        line = (row - box.y0) * width
        taken = np.maximum.accumulate(line + np.maximum(end, box.x0))
        before = np.concatenate([[box.x0], taken[:-1]]) - line
        start = np.maximum(start, np.where(before < box.x0, box.x0, before))
        end = np.minimum(end, box.x1)
        kept = end > start
        triangle, row, start, end = triangle[kept], row[kept], start[kept], end[kept]
        return _with_gaps(box, triangle, row, start, end)

    def bounds(self, box: Box) -> Bounds | None:
        """A box around the source positions of a box's pixels; None where there are none."""
        low = np.maximum(self.corners.min(axis=1), (box.y0, box.x0))
        high = np.minimum(self.corners.max(axis=1), (box.y1 - 1, box.x1 - 1))
        touching = (low <= high + 2 * TOUCH).all(axis=1)
        parts = []
        if touching.any():
            low, high = low[touching], high[touching]
            ends = np.stack([low, np.stack([low[:, 0], high[:, 1]], 1),
                             np.stack([high[:, 0], low[:, 1]], 1), high], axis=1)  # fmt: skip
            here, own = self._source(touching, ends), self._source(touching, self.corners[touching])
            # Within the part of the box that it touches, and within the triangle itself.
            least = np.maximum(here.min(axis=1), own.min(axis=1)).min(axis=0)
            most = np.minimum(here.max(axis=1), own.max(axis=1)).max(axis=0)
            parts += [least, most]
        beyond = self.far.bounds(box) if self.far is not None else None
        if beyond is not None:
            parts += [np.array(beyond[:2]), np.array(beyond[2:])]
        return _around(np.array(parts)) if parts else None

    def _source(self, chosen: NDArray[np.bool_], points: FloatArray) -> FloatArray:
        """(k, n, 2) where some triangles put (k, n, 2) points of their plane."""
        matrix, shift = self.matrix[chosen] * 2.0**-self.bits, self.shift[chosen] * 2.0**-self.bits
        placed: FloatArray = np.einsum("kij,knj->kni", matrix, points) + shift[:, None]
        return placed

    @cached_property
    def _extents(self) -> tuple[FloatArray, FloatArray]:
        """(k, 2) smallest and largest coordinates of each triangle."""
        return self.corners.min(axis=1) - TOUCH, self.corners.max(axis=1) + TOUCH

    def cut(self, box: Box) -> MeshPull:
        """What a box needs of it: a few triangles."""
        low, high = self._extents
        own = ((high >= (box.y0, box.x0)) & (low <= (box.y1 - 1, box.x1 - 1))).all(axis=1)
        corners, matrix, shift = self.corners[own], self.matrix[own], self.shift[own]
        return replace(self, corners=corners, matrix=matrix, shift=shift)


@dataclass(frozen=True, eq=False)
class PointPull:
    """Any other transform, asked pixel by pixel."""

    transform: Transform
    extrapolate: bool

    def coordinates(self, box: Box, corner: tuple[int, int]) -> FloatArray:
        """(2, h, w) the source (y, x) of each pixel, less ``corner``; of unmapped ones, absurd."""
        y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1].astype(np.float64)
        points = np.stack([y.ravel(), x.ravel()], axis=1)
        source = self.transform.inverse_transform(points, extrapolate=self.extrapolate)
        source[np.isnan(source).any(axis=1)] = -(2.0**40)
        return (source - corner).T.reshape(2, *box.shape)

    def bounds(self, box: Box) -> Bounds | None:
        """A box around the source positions of a lattice of pixels, wider by one of its steps."""
        y, x = (np.unique(np.linspace(a, b - 1, LATTICE).round())
                for a, b in ((box.y0, box.y1), (box.x0, box.x1)))  # fmt: skip
        points = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
        source = self.transform.inverse_transform(points.reshape(-1, 2)).reshape(points.shape)
        known = source[np.isfinite(source).all(axis=-1)]
        if len(known) == 0:
            return None
        with np.errstate(invalid="ignore"):
            steps = [np.abs(np.diff(source, axis=k)).reshape(-1, 2) for k in range(2)]
        reach = np.nanmax(np.concatenate([*steps, np.zeros((1, 2))]), axis=0)
        low, high = known.min(axis=0) - reach, known.max(axis=0) + reach
        return _around(np.stack([low, high]))

    def cut(self, box: Box) -> PointPull:
        """What a box needs of it."""
        return self


Pull = AffinePull | MeshPull | PointPull


def pull_of(transform: Transform, plane: Box, *, extrapolate: bool = True) -> Pull:
    """A transform made ready for rendering ``plane``, pixels at whole target coordinates.

    Args:
        transform: source to target.
        plane: all pixels that will be rendered; the result serves any part of it.
        extrapolate: whether pixels outside a mesh are mapped.

    Raises:
        InputError: where the plane is mapped to positions beyond 2**40 px.
    """
    if isinstance(transform, Polynomial) and transform.shift is not None:
        transform = transform.shift
    if isinstance(transform, Grid):
        transform = transform.mesh
    if isinstance(transform, Linear):
        return _affine_pull(transform.inverse(), plane)
    if isinstance(transform, Mesh):
        return _mesh_pull(transform, plane, extrapolate)
    return PointPull(transform, extrapolate)


def _affine_pull(backward: Transform, plane: Box, bits: int | None = None) -> AffinePull:
    assert isinstance(backward, Linear)
    middle = np.array([(plane.y0 + plane.y1) // 2, (plane.x0 + plane.x1) // 2])
    value = backward.transform(middle)[0]
    ends = [(y, x) for y in (0, plane.y0, plane.y1) for x in (0, plane.x0, plane.x1)]
    if bits is None:
        bits = _bits_for(backward.transform(ends))
    matrix = _whole(backward.parts[0], bits)
    return AffinePull(matrix, _whole(value, bits) - matrix @ middle, bits)


def _mesh_pull(mesh: Mesh, plane: Box, extrapolate: bool) -> MeshPull:
    maps = mesh.maps("target") if extrapolate else mesh.maps("target")[:1]
    here = np.concatenate([m.here for m in maps])
    there = np.concatenate([m.there for m in maps])
    low, high = here.min(axis=1) - TOUCH, here.max(axis=1) + TOUCH
    near = ((high >= (plane.y0, plane.x0)) & (low <= (plane.y1 - 1, plane.x1 - 1))).all(axis=1)
    here, there = here[near], there[near]
    far = extrapolate and not _covered(maps, plane)
    slope = slopes(here, there)
    origin = np.rint(here[:, 0])
    value = there[:, 0] + np.einsum("kij,kj->ki", slope, origin - here[:, 0])
    at_zero = value - np.einsum("kij,kj->ki", slope, origin)
    extremes = [there.reshape(-1, 2), at_zero]
    trend = mesh.far("target")
    if far:
        ends = [(y, x) for y in (0, plane.y0, plane.y1) for x in (0, plane.x0, plane.x1)]
        extremes.append(trend.transform(ends))
    bits = _bits_for(np.concatenate(extremes))
    matrix = _whole(slope, bits)
    shift = _whole(value, bits) - np.einsum("kij,kj->ki", matrix, origin.astype(np.int64))
    beyond = _affine_pull(trend, plane, bits) if far else None
    return MeshPull(here, matrix, shift, bits, beyond, gaps=not extrapolate)


def _covered(maps: tuple[TriangleMap, ...], plane: Box) -> bool:
    """Whether triangles surely cover a plane: they cover the corners of one twice the size."""
    h, w = plane.shape
    points = [(plane.y0 + sy * h, plane.x0 + sx * w) for sy in (-0.5, 1.5) for sx in (-0.5, 1.5)]
    open_ = np.array(points)
    for part in maps:
        open_ = open_[np.isnan(part(open_)).any(axis=1)]
    return len(maps) > 1 and len(open_) == 0


def _bits_for(values: FloatArray) -> int:
    largest = float(np.abs(values).max(initial=1.0))
    if not largest < 2.0**40:
        raise InputError(
            f"the transform maps the plane to positions of {largest:.3g} px; is its scale right?"
        )
    return min(MOST_BITS, 61 - int(np.ceil(np.log2(largest + 1))))


def _whole(values: FloatArray, bits: int) -> IntArray:
    return np.rint(values * 2.0**bits).astype(np.int64)


def _around(points: FloatArray) -> Bounds:
    (y0, x0), (y1, x1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return y0, x0, y1, x1


def _crossings(
    corners: FloatArray, triangle: IntArray, row: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Where rows enter and leave triangles (x), one row and one triangle at a time."""
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for k in range(3):
        a, b = corners[:, k], corners[:, (k + 1) % 3]
        swap = (a[:, 0] > b[:, 0]) | ((a[:, 0] == b[:, 0]) & (a[:, 1] > b[:, 1]))
        low, high = np.where(swap[:, None], b, a), np.where(swap[:, None], a, b)
        rise = high[:, 0] - low[:, 0]
        flat = rise < 1e-12
        y0, x0, y1, x1 = (v[triangle] for v in (low[:, 0], low[:, 1], high[:, 0], high[:, 1]))
        t = np.clip((row - y0) / np.where(flat, 1.0, rise)[triangle], 0, 1)
        x = x0 + t * (x1 - x0)
        level = flat[triangle]
        on = (row >= y0 - TOUCH) & (row <= y1 + TOUCH)
        left = np.where(on, np.minimum(left, np.where(level, np.minimum(x0, x1), x)), left)
        right = np.where(on, np.maximum(right, np.where(level, np.maximum(x0, x1), x)), right)
    return left, right


def _with_gaps(
    box: Box, triangle: IntArray, row: IntArray, start: IntArray, end: IntArray
) -> tuple[IntArray, IntArray]:
    """Runs that do not overlap, and -1 for what they leave over of each row of a box."""
    width = box.shape[1]
    begin = (row - box.y0) * width + start - box.x0
    finish = (row - box.y0) * width + end - box.x0
    rows = np.arange(box.shape[0]) * width
    place = np.concatenate([rows, finish[finish < box.area], begin])
    owner = np.concatenate([np.full(len(place) - len(begin), -1), triangle])
    order = np.lexsort((owner, place))  # of one place's entries the last, a triangle, counts
    place, owner = place[order], owner[order]
    last = np.append(place[1:] != place[:-1], True)
    return place[last], owner[last]
