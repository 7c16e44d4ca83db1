"""Hypothesis strategies and reference implementations that several tests draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from mosaicreg.geometry import Box
from mosaicreg.mosaic import Mosaic

DTYPES = ("uint8", "uint16", "int8", "int16", "float32", "float64")


@st.composite
def boxes(draw: st.DrawFn, lowest: int = -50, highest: int = 50, empty: bool = True) -> Box:
    """A box with corners in a range."""
    least = 0 if empty else 1
    y0, x0 = (draw(st.integers(lowest, highest)) for _ in "yx")
    height, width = (draw(st.integers(least, 40)) for _ in "yx")
    return Box(y0, x0, y0 + height, x0 + width)


def random_pixels(rng: np.random.Generator, shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Noise over most of the type's range."""
    if dtype.startswith("float"):
        return rng.normal(size=tuple(shape)).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, tuple(shape), dtype=dtype, endpoint=True)


@st.composite
def mosaics(
    draw: st.DrawFn,
    *,
    most: int = 6,
    dtypes: Sequence[str] = DTYPES,
    leading: bool = True,
    whole: bool = False,
) -> Mosaic:
    """A few tiles of unequal size anywhere, with fractional positions unless ``whole``."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, most))
    dtype = draw(st.sampled_from(tuple(dtypes)))
    lead = draw(st.sampled_from([(), (1,), (2,), (2, 3)])) if leading else ()
    tiles = [random_pixels(rng, (*lead, *rng.integers(1, 24, 2)), dtype) for _ in range(count)]
    positions = rng.uniform(-30, 30, (count, 2))
    if whole or draw(st.booleans()):
        positions = np.round(positions)
    return Mosaic.from_arrays(tiles, positions)
