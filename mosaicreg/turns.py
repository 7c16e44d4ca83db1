"""The angles of all tiles, solved from the angles of pairs, and what they make of the offsets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.pairs import Pairs
from mosaicreg.solving import DISTORTION, Edges, solve_robustly


def solve_turns(
    pairs: Pairs, use: IntArray, shapes: IntArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Angles of all tiles from pairs that each say how two are turned against each other.

    Robust least squares as for positions, of how far a tile's ends move. The tiles of a part are
    turned by nothing on average: a camera that is turned as a whole is the stage matrix's business.

    Args:
        pairs: with angles.
        use: (m,) which of them.
        shapes: (n, 2) of the tiles.

    Returns:
        (n,) degrees, 0 for tiles without a pair; (m,) which of the pairs agree.
    """
    assert pairs.angle is not None
    assert pairs.angle_sigma is not None
    arm = float(shapes.max()) / 2
    angle, sigma = (np.deg2rad(a[use]) * arm for a in (pairs.angle, pairs.angle_sigma))
    edges = Edges(
        pairs.fixed[use],
        pairs.moving[use],
        np.stack([angle, np.zeros_like(angle)], axis=1),
        sigma,
        len(shapes),
    )
    bend = max(1.0, DISTORTION * 2 * arm)
    kept = np.ones(len(edges), dtype=bool)
    moved, agree, _ = solve_robustly(edges, edges.squares(), np.zeros((len(shapes), 2)), kept, bend)
    angles: FloatArray = np.rad2deg(moved[:, 0] / arm)
    return angles, agree


def turned_offsets(pairs: Pairs, use: IntArray, shapes: IntArray, angles: FloatArray) -> FloatArray:
    """(m, 2) offsets of positions in the mosaic that bring pairs together where they overlap.

    A pair ties the middle of its overlap in one tile to a point of the other. With the angles of
    all tiles known, that tie says how the positions lie to each other; its own angle is known less
    well than theirs and would err by the length of half a tile.
    """
    assert pairs.angle is not None
    fixed, moving = pairs.fixed[use], pairs.moving[use]
    offset = pairs.offsets[use]
    c_fixed, c_moving = (shapes[fixed] - 1) / 2, (shapes[moving] - 1) / 2
    low = np.maximum(0, offset)
    high = np.minimum(shapes[fixed] - 1, offset + shapes[moving] - 1)
    tie = (low + high) / 2
    partner = _turn(tie - c_moving - offset, -pairs.angle[use])
    found: FloatArray = (
        _turn(tie - c_fixed, angles[fixed]) + c_fixed - _turn(partner, angles[moving]) - c_moving
    )
    return found


def _turn(points: FloatArray, degrees: FloatArray) -> FloatArray:
    """(m, 2) points (y, x), each turned about the origin by its own angle."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    y, x = points.T
    return np.stack([c * y - s * x, s * y + c * x], axis=1)
