"""How far values scatter, from their medians: a few wild ones do not matter.

A median takes longer than all else that is done to an image here, and some thousand pixels tell it
as well as all.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE = 1500
"""So many values, evenly spread, stand for an image: they tell its scatter to three percent."""
NORMAL = 1.4826
"""Standard deviation of normal noise over the median of its absolute values."""


def median_of(values: NDArray[Any]) -> float:
    """The median, of an even number the upper of the middle two; values must not be NaN."""
    flat = values.ravel()
    middle = flat.size // 2
    return float(np.partition(flat, middle)[middle])


def median(values: NDArray[Any]) -> Any:
    """The median along the first axis, as `numpy.median` has it; values must not be NaN.

    That one loads masked arrays when it is first called, which takes longer than all medians of a
    small mosaic.
    """
    low, high = (len(values) - 1) // 2, len(values) // 2
    ordered = np.partition(values, (low, high), axis=0)
    return (ordered[low] + ordered[high]) / 2


def thinned(image: NDArray[Any]) -> NDArray[Any]:
    """Some `SAMPLE` values of an array in memory order, from all of its columns alike."""
    step = max(1, image.size // SAMPLE)
    while gcd(step, image.shape[-1]) > 1:
        step += 1
    return image.ravel()[::step]


def scatter(image: NDArray[Any]) -> float:
    """Robust standard deviation of values about 0, from the median of some of them."""
    return NORMAL * median_of(np.abs(thinned(image)))
