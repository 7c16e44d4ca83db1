"""Transforms made of triangles between control points: free meshes and regular grids."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mosaicreg.errors import InputError
from mosaicreg.transforms.base import Bounds, FloatArray, IntArray, Transform, frozen
from mosaicreg.transforms.linear import Affine, Linear, _factor, _set
from mosaicreg.transforms.locate import TriangleMap
from mosaicreg.transforms.outside import signed_areas, strips

MAX_POINTS = 2_000_000
"""More control points than this are refused."""
FLAT = 1e-4
"""Triangles on the edge with a height below this share of their longest side are left out: their
corners stand in a line but for rounding."""
LOW = 0.1
"""So are those below this height that the transform turns over, and low ones beside them: between
corners nearly in a line, a small displacement does that, and it is no fold of the specimen."""

Side = Literal["source", "target"]


@dataclass(frozen=True, eq=False)
class Mesh(Transform):
    """Control points in both spaces, linear in each triangle between them.

    One triangulation serves both directions, so the inverse is exact. Outside, the mesh is
    continued by a thin-plate spline (`mosaicreg.transforms.outside`).

    Args:
        source, target: (n, 2) control points (y, x), n of 3 or more. Pairs given twice count once.
        triangles: (k, 3) rows of corners; Delaunay's in the space of ``anchor`` where not given.
        anchor: the space in which triangles and continuation are made.
        box: (y, x, height, width) of the source, which the text form is normalised by; that of the
            points by default.

    Raises:
        InputError: for fewer than three points, points on one line, one point with two images, a
            mesh that folds over itself, or numbers that are not finite.
    """

    source: FloatArray
    target: FloatArray
    triangles: IntArray
    anchor: Side
    box: Bounds | None = field(compare=False)

    def __init__(
        self,
        source: ArrayLike,
        target: ArrayLike,
        triangles: ArrayLike | None = None,
        anchor: Side = "source",
        box: Bounds | None = None,
    ) -> None:
        source = frozen(source, None, "source points")
        target = frozen(target, None, "target points")
        if source.ndim != 2 or source.shape[1] != 2 or source.shape != target.shape:
            raise InputError(
                "a mesh needs as many source as target points, each (n, 2), not "
                f"{source.shape} and {target.shape}"
            )
        if triangles is None:
            source, target = _distinct(source, target)
        _check_count(len(source))
        here, there = (source, target) if anchor == "source" else (target, source)
        corners = (
            _delaunay(here, there) if triangles is None else np.array(triangles, dtype=np.int64)
        )
        corners = _oriented(here, corners)
        _check_folds(there, corners, source, target)
        corners.setflags(write=False)
        _set(
            self,
            source=source,
            target=target,
            triangles=corners,
            anchor=anchor,
            box=box,
        )

    @property
    def source_points(self) -> FloatArray:
        """(n, 2) control points in source space."""
        return self.source

    @property
    def target_points(self) -> FloatArray:
        """(n, 2) the same control points in target space."""
        return self.target

    def _forward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        return self._map(points, "source", extrapolate)

    def _backward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        return self._map(points, "target", extrapolate)

    def _map(self, points: FloatArray, start: Side, extrapolate: bool) -> FloatArray:
        maps = self.maps(start)
        result = maps[0](points)
        for further in maps[1:] if extrapolate else ():
            missing = np.flatnonzero(np.isnan(result[:, 0]))
            if len(missing) == 0:
                return result
            result[missing] = further(points[missing])
        if extrapolate:
            missing = np.flatnonzero(np.isnan(result[:, 0]))
            result[missing] = self.far(start).transform(points[missing])
        return result

    def maps(self, start: Side) -> tuple[TriangleMap, ...]:
        """The mesh and the strips around it, as maps that start in source or target space."""
        return self._maps if start == self.anchor else self._inverse_maps

    def far(self, start: Side) -> Affine:
        """The affine map that holds beyond the strips."""
        return self._trend if start == self.anchor else self._inverse_trend

    @property
    def _sides(self) -> tuple[FloatArray, FloatArray]:
        pair = self.source, self.target
        return pair if self.anchor == "source" else pair[::-1]

    @cached_property
    def _trend(self) -> Affine:
        return Affine.fit(*self._sides)

    @cached_property
    def _inverse_trend(self) -> Affine:
        return self._trend.inverse()

    @cached_property
    def _maps(self) -> tuple[TriangleMap, ...]:
        here, there = self._sides
        core = TriangleMap(here[self.triangles], there[self.triangles])
        return (core, *strips(here, there, self.triangles, self._trend))

    @cached_property
    def _inverse_maps(self) -> tuple[TriangleMap, ...]:
        return tuple(TriangleMap(m.there, m.here) for m in self._maps)

    def inverse(self) -> Mesh:
        """The same triangles with the two spaces exchanged."""
        other: Side = "target" if self.anchor == "source" else "source"
        return Mesh(self.target, self.source, self.triangles, other)

    def scaled(self, factor: float) -> Mesh:
        """Control points times ``factor`` in both spaces."""
        size = _factor(factor)
        y, x, height, width = self.box or (0, 0, 0, 0)
        box = (y * size, x * size, height * size, width * size) if self.box else None
        source, target = self.source * size, self.target * size
        return Mesh(source, target, self.triangles, self.anchor, box)

    def followed_by(self, last: Transform) -> Transform:
        """A matrix moves the target points; anything else is composed."""
        if not isinstance(last, Linear):
            return super().followed_by(last)
        moved = last.transform(self.target)
        return Mesh(self.source, moved, self.triangles, self.anchor, self.box)

    def preceded_by(self, first: Transform) -> Transform:
        """A matrix moves the source points; anything else is composed."""
        if not isinstance(first, Linear):
            return super().preceded_by(first)
        moved = first.inverse_transform(self.source)
        return Mesh(moved, self.target, self.triangles, self.anchor)

    def with_points(self, source: ArrayLike, target: ArrayLike) -> Mesh:
        """A mesh with further control points, triangulated anew.

        A point that stands on one of the mesh's already, in either space, is left out.
        """
        pairs = zip(frozen(source, None, "source"), frozen(target, None, "target"), strict=True)
        have = {tuple(p) for p in self.source.tolist()}
        taken = {tuple(p) for p in self.target.tolist()}
        new = [(s, t) for s, t in pairs if tuple(s) not in have and tuple(t) not in taken]
        if not new:
            return self
        sources, targets = (np.array(column) for column in zip(*new, strict=True))
        return Mesh(
            np.concatenate([self.source, sources]),
            np.concatenate([self.target, targets]),
            anchor=self.anchor,
            box=self.box,
        )

    def without_points(self, numbers: ArrayLike) -> Mesh:
        """A mesh without some of the control points, triangulated anew.

        Raises:
            InputError: where fewer than three would be left.
        """
        kept = np.delete(np.arange(len(self.source)), np.atleast_1d(numbers))
        source, target = self.source[kept], self.target[kept]
        return Mesh(source, target, anchor=self.anchor, box=self.box)

    def __repr__(self) -> str:
        return f"Mesh of {len(self.source)} points, {len(self.triangles)} triangles"


@dataclass(frozen=True, eq=False)
class Grid(Transform):
    """A regular grid over the source, displaced: where each vertex lies in the target.

    Each cell is two triangles, cut from its first to its last corner, so the inverse is exact.

    Args:
        vertices: (rows, columns, 2) target positions (y, x), two or more rows and columns.
        origin: (y, x) of the first vertex in the source.
        size: (height, width) of the whole grid in the source, above 0.

    Raises:
        InputError: for wrong shapes, a grid that folds over itself, or numbers not finite.
    """

    vertices: FloatArray
    origin: FloatArray
    size: FloatArray
    mesh: Mesh = field(compare=False)

    def __init__(self, vertices: ArrayLike, origin: ArrayLike, size: ArrayLike) -> None:
        _set(
            self,
            vertices=frozen(vertices, None, "vertices"),
            origin=frozen(origin, (2,), "origin"),
            size=frozen(size, (2,), "size"),
        )
        shape = self.vertices.shape
        if len(shape) != 3 or shape[2] != 2 or min(shape[:2]) < 2:
            raise InputError(f"a grid has vertices (rows, columns, 2) from 2 x 2 up, not {shape}")
        if self.size.min() <= 0:
            raise InputError(f"a grid covers a source of some size, not {self.size.tolist()}")
        _set(self, mesh=self._mesh())

    @classmethod
    def sampled(cls, transform: Transform, extent: Bounds, cells: tuple[int, int]) -> Grid:
        """The grid that follows any transform over ``extent`` of its source.

        Args:
            transform: what to follow.
            extent: (y0, x0, y1, x1).
            cells: (rows, columns) of cells.
        """
        y0, x0, y1, x1 = extent
        points = _lattice(np.array([y0, x0]), np.array([y1 - y0, x1 - x0]), cells)
        vertices = transform.transform(points).reshape(cells[0] + 1, cells[1] + 1, 2)
        return cls(vertices, (y0, x0), (y1 - y0, x1 - x0))

    def _mesh(self) -> Mesh:
        rows, columns = self.vertices.shape[:2]
        points = _lattice(self.origin, self.size, (rows - 1, columns - 1))
        a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)).ravel()
        b, c, d = a + 1, a + columns, a + columns + 1
        triangles = np.concatenate([np.stack([a, c, d], 1), np.stack([a, d, b], 1)])
        return Mesh(points, self.vertices.reshape(-1, 2), triangles)

    def _forward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        return self.mesh._forward(points, extrapolate)

    def _backward(self, points: FloatArray, extrapolate: bool) -> FloatArray:
        return self.mesh._backward(points, extrapolate)

    def inverse(self) -> Transform:
        """The mesh of the grid's triangles, turned round."""
        return self.mesh.inverse()

    def scaled(self, factor: float) -> Grid:
        """Vertices, origin and size times ``factor``."""
        size = _factor(factor)
        return Grid(self.vertices * size, self.origin * size, self.size * size)

    def followed_by(self, last: Transform) -> Transform:
        """A matrix moves the vertices; anything else is composed."""
        if not isinstance(last, Linear):
            return super().followed_by(last)
        moved = last.transform(self.vertices.reshape(-1, 2)).reshape(self.vertices.shape)
        return Grid(moved, self.origin, self.size)

    def preceded_by(self, first: Transform) -> Transform:
        """A matrix makes a mesh of the grid; anything else is composed."""
        if not isinstance(first, Linear):
            return super().preceded_by(first)
        return self.mesh.preceded_by(first)

    @property
    def source_points(self) -> FloatArray:
        """(n, 2), row by row."""
        return self.mesh.source_points

    @property
    def target_points(self) -> FloatArray:
        """(n, 2), row by row."""
        return self.mesh.target_points

    def __repr__(self) -> str:
        rows, columns = self.vertices.shape[:2]
        return f"Grid of {rows} x {columns} vertices over {self.size.tolist()} px"


def _lattice(origin: FloatArray, size: FloatArray, cells: tuple[int, int]) -> FloatArray:
    y = origin[0] + np.arange(cells[0] + 1) / cells[0] * size[0]
    x = origin[1] + np.arange(cells[1] + 1) / cells[1] * size[1]
    return np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)


def _distinct(source: FloatArray, target: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Pairs without repetitions, in their order."""
    pairs = np.concatenate([source, target], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    first.sort()
    source, target = source[first], target[first]
    for side, points in (("source", source), ("target", target)):
        values, counts = np.unique(points, axis=0, return_counts=True)
        if (counts > 1).any():
            raise InputError(
                "a mesh cannot have one point in two places",
                [f"{side} point {p} is given with two images" for p in values[counts > 1].tolist()],
            )
    source.setflags(write=False)
    target.setflags(write=False)
    return source, target


def _check_count(count: int) -> None:
    if not 3 <= count <= MAX_POINTS:
        raise InputError(f"a mesh has 3 to {MAX_POINTS} control points, not {count}")


def _unit(points: FloatArray) -> FloatArray:
    """Points moved and stretched into the unit square, so that shares of it mean something."""
    low = points.min(axis=0)
    unit: FloatArray = (points - low) / np.maximum(points.max(axis=0) - low, 1e-300)
    return unit


def _delaunay(points: FloatArray, images: FloatArray) -> IntArray:
    """Triangles of points, without those on the edge that say nothing."""
    from scipy.spatial import Delaunay, QhullError

    try:
        found = Delaunay(points - points.mean(axis=0))
    except QhullError:
        raise InputError(
            f"the {len(points)} control points lie on one line, from {points[0].tolist()} to "
            f"{points[-1].tolist()}; a mesh needs three that do not"
        ) from None
    triangles = _oriented(points, found.simplices.astype(np.int64))
    corners = _unit(points)[triangles]
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    height = signed_areas(corners) / sides.max(axis=1) ** 2
    low, beside = height < LOW, found.neighbors
    void = low & _turned(images, triangles)
    while (grown := low & ~void & (void[beside] & (beside >= 0)).any(axis=1)).any():
        void |= grown
    void |= height < FLAT
    outside = (beside < 0).any(axis=1)
    kept = np.ones(len(void), dtype=bool)
    while (drop := kept & void & outside).any() and (drop < kept).any():
        kept &= ~drop
        outside |= np.isin(beside, np.flatnonzero(drop)).any(axis=1)
    return triangles[kept]


def _turned(images: FloatArray, triangles: IntArray) -> NDArray[np.bool_]:
    """Which triangles are turned over, compared with most of the others, or have no area."""
    area = signed_areas(images[triangles])
    over: NDArray[np.bool_] = area * np.sign(np.median(area)) <= 0
    return over


def _oriented(points: FloatArray, triangles: IntArray) -> IntArray:
    """Triangles with their corners in one turning direction."""
    if triangles.ndim != 2 or triangles.shape[1] != 3 or len(triangles) == 0:
        raise InputError(f"triangles are rows of three corners, not {triangles.shape}")
    if triangles.min() < 0 or triangles.max() >= len(points):
        raise InputError(f"a triangle names a corner that is none of the {len(points)} points")
    turned = signed_areas(points[triangles]) < 0
    triangles[turned] = triangles[turned][:, ::-1]
    return triangles


def _check_folds(
    there: FloatArray, triangles: IntArray, source: FloatArray, target: FloatArray
) -> None:
    bad = _turned(there, triangles)
    if not bad.any():
        return
    shown = triangles[bad]
    raise InputError(
        f"the mesh folds over itself: {len(shown)} of its {len(triangles)} triangles are turned "
        "over or without area",
        [f"source {source[t].tolist()} goes to target {target[t].tolist()}" for t in shown],
    )
