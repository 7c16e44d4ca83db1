"""How far values scatter, from their medians: a few wild ones do not matter.

A median takes longer than all else that is done to an image here, and a few thousand pixels tell it
as well as all.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE = 3000
"""So many values, evenly spread, stand for an image: they tell its scatter to some two percent."""
NORMAL = 1.4826
"""Standard deviation of normal noise over the median of its absolute values."""


def median_of(values: NDArray[Any]) -> float:
    """The median, of an even number the upper of the middle two; values must not be NaN."""
    flat = values.ravel()
    middle = flat.size // 2
    return float(np.partition(flat, middle)[middle])


def thinned(image: NDArray[Any]) -> NDArray[Any]:
    """Some `SAMPLE` values of an array in memory order, from all of its columns alike."""
    step = max(1, image.size // SAMPLE)
    while gcd(step, image.shape[-1]) > 1:
        step += 1
    return image.ravel()[::step]


def scatter(image: NDArray[Any]) -> float:
    """Robust standard deviation of values about 0, from the median of some of them."""
    return NORMAL * median_of(np.abs(thinned(image)))


def extended(image: NDArray[Any], axis: int, margin: int, mirrored: bool = False) -> NDArray[Any]:
    """The image with ``margin`` more rows (axis 0) or columns (1) at either end.

    They repeat the last row, or are the last ones mirrored. `numpy.pad` does the same, in four
    times the time for strips.
    """
    if margin == 0 or image.shape[axis] < margin:
        margins = [(margin, margin) if k == axis else (0, 0) for k in range(image.ndim)]
        return np.pad(image, margins, mode="symmetric" if mirrored else "edge")
    shape = list(image.shape)
    shape[axis] += 2 * margin
    made = np.empty(shape, dtype=image.dtype)
    source, target = image.swapaxes(0, axis), made.swapaxes(0, axis)
    target[margin : len(target) - margin] = source
    target[:margin] = source[margin - 1 :: -1] if mirrored else source[:1]
    target[len(target) - margin :] = source[: -margin - 1 : -1] if mirrored else source[-1:]
    return made
