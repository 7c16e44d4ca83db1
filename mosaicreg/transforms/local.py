"""What a transform is like near one point."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mosaicreg.errors import InputError
from mosaicreg.transforms.base import FloatArray, Transform, frozen
from mosaicreg.transforms.linear import Rigid


def rigid_at(transform: Transform, point: ArrayLike) -> Rigid:
    """The rigid transform that does at a point what any transform does there.

    It takes the same source point to the target ``point``, and turns about it by the rotation
    nearest to the transform's own derivative (its polar decomposition), taken over 1 px.

    Args:
        transform: source to target.
        point: (y, x) in target space.

    Raises:
        InputError: where the transform is not defined there, or turns the plane over.
    """
    target = frozen(point, (2,), "point")
    source = transform.inverse_transform(target)[0]
    half = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)])
    there = transform.transform(source + half)
    if not np.isfinite(there).all():
        raise InputError(f"the transform is not defined around the target point {target.tolist()}")
    slope: FloatArray = np.stack([there[0] - there[1], there[2] - there[3]], axis=1)
    if not np.linalg.det(slope) > 0:
        raise InputError(f"the transform turns the plane over at {target.tolist()}; no rigid does")
    angle = float(np.arctan2(slope[1, 0] - slope[0, 1], slope[0, 0] + slope[1, 1]))
    return Rigid(target - source, angle, source)
