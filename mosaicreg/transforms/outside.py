"""A mesh continued beyond its edge: a thin-plate spline, as rings of triangles.

The edge of the mesh is scaled about its middle into rings; a thin-plate spline through the control
points (Bookstein 1989) says where each ring's points go, and the strips between the rings are
triangles. The outermost ring lies on the affine map nearest to the control points, which holds
beyond it. So the continued mesh is continuous across the mesh's edge, and its inverse is exact: the
spline itself is neither.
"""

from __future__ import annotations

import numpy as np

from mosaicreg.transforms.base import FloatArray, IntArray
from mosaicreg.transforms.linear import Affine
from mosaicreg.transforms.locate import TriangleMap

RINGS = (1.0, 1.0625, 1.125, 1.25, 1.5, 2.0, 3.0, 5.0, 9.0)
"""Sizes of the rings as multiples of the mesh's; the last is as far as the spline is believed."""
FAR = 64.0
"""Size of the ring on which the affine map takes over."""
LEAST_POINTS = 64
"""A ring has at least so many points: long edges are cut into equal parts."""
MOST_KNOTS = 1000
"""A spline through more control points is fitted to a fixed random choice of them: the cost grows
with the third power, and far from the edge single points do not matter."""


def edge_loop(triangles: IntArray) -> IntArray | None:
    """The corners around a mesh of equally oriented triangles, or None for several loops."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    count = int(triangles.max()) + 1
    forward = edges[:, 0] * count + edges[:, 1]
    backward = edges[:, 1] * count + edges[:, 0]
    outer = edges[~np.isin(forward, backward)]
    following = dict(outer.tolist())
    if len(following) != len(outer):
        return None
    first = int(outer[0, 0])
    loop = [first]
    while (corner := following.get(loop[-1])) != first:
        if corner is None or len(loop) > len(outer):
            return None
        loop.append(corner)
    return np.array(loop) if len(loop) == len(outer) else None


def strips(
    here: FloatArray, there: FloatArray, triangles: IntArray, trend: Affine
) -> tuple[TriangleMap, ...]:
    """The strips of triangles around a mesh, inner ones first; none where they would fold.

    Args:
        here, there: (n, 2) control points; the strips are regular here.
        triangles: (k, 3) of the mesh, anticlockwise here.
        trend: the affine map from here to there that holds far away.
    """
    loop = edge_loop(triangles)
    if loop is None:
        return ()
    parts = -(-LEAST_POINTS // len(loop))
    t = (np.arange(parts) / parts)[None, :, None]
    following = np.roll(loop, -1)
    edge = ((1 - t) * here[loop][:, None] + t * here[following][:, None]).reshape(-1, 2)
    first = ((1 - t) * there[loop][:, None] + t * there[following][:, None]).reshape(-1, 2)
    middle = edge.mean(axis=0)
    rings = [middle + size * (edge - middle) for size in (*RINGS, FAR)]
    images = [first, *_spline(here, there, rings[1:-1]), trend.transform(rings[-1])]
    sides = [_strip(rings[k], rings[k + 1]) for k in range(len(RINGS))]
    strip = [TriangleMap(sides[k], _strip(images[k], images[k + 1])) for k in range(len(RINGS) - 1)]
    whole = [_keeps_order(s) for s in strip]
    for kept in range(len(RINGS) - 1, -1, -1):
        last = TriangleMap(_strip(rings[kept], rings[-1]), _strip(images[kept], images[-1]))
        if all(whole[:kept]) and _keeps_order(last):
            return (*strip[:kept], last)
    return ()


def _spline(here: FloatArray, there: FloatArray, rings: list[FloatArray]) -> list[FloatArray]:
    from scipy.interpolate import RBFInterpolator

    if len(here) > MOST_KNOTS:
        chosen = np.random.default_rng(0).choice(len(here), MOST_KNOTS, replace=False)
        here, there = here[chosen], there[chosen]
    plate = RBFInterpolator(here, there, kernel="thin_plate_spline", degree=1)
    return [plate(ring) for ring in rings]


def _strip(inner: FloatArray, outer: FloatArray) -> FloatArray:
    """(2n, 3, 2) triangles between two rings of n points."""
    a, b = inner, np.roll(inner, -1, axis=0)
    c, d = outer, np.roll(outer, -1, axis=0)
    return np.concatenate([np.stack([a, c, d], axis=1), np.stack([a, d, b], axis=1)])


def _keeps_order(strip: TriangleMap) -> bool:
    """Whether all triangles are turned alike: none of them is folded over."""
    ratio = signed_areas(strip.there) * np.sign(signed_areas(strip.here))
    return bool((ratio > 0).all() or (ratio < 0).all())


def signed_areas(corners: FloatArray) -> FloatArray:
    """(k,) twice the area of (k, 3, 2) triangles, negative for those turned over."""
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
