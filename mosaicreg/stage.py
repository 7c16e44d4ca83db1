"""What the stage says, corrected by what the pairs show: one 2 x 2 matrix.

A camera that is turned against the stage, pixels of another size than believed, axes not quite at a
right angle: all of it takes a stage offset to a pixel offset by one matrix.
"""

from __future__ import annotations

import numpy as np

from mosaicreg.geometry import FloatArray

MATRIX_PRIOR = 0.02
"""How far the camera's axes may be from the stage's: rotation in radian, error of scale."""


def stage_matrix(told: FloatArray, found: FloatArray) -> FloatArray:
    """(2, 2) matrix from offsets that the stage tells to those found, robust, near the identity.

    The prior keeps a handful of noisy pairs from turning the stage: with offsets of 1000 px and
    stage errors of s px the fit follows the data once about ``(s / 20)**2`` pairs speak.

    Args:
        told, found: (m, 2) offsets (dy, dx) of neighbours, px.
    """
    matrix = np.eye(2)
    if len(told) == 0:
        return matrix
    for _ in range(10):
        misfit = np.linalg.norm(found - told @ matrix.T, axis=1)
        spread = max(1.5 * float(np.median(misfit)), 0.3)
        weight = 1 / (1 + (misfit / spread) ** 2) ** 2
        normal = (told * weight[:, None]).T @ told + np.eye(2) * (spread / MATRIX_PRIOR) ** 2
        error = (told * weight[:, None]).T @ (found - told)
        matrix = np.eye(2) + np.linalg.solve(normal, error).T
    return matrix
