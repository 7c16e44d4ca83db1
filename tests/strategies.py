"""Hypothesis strategies and reference implementations that several tests draw from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from mosaicreg.geometry import Box
from mosaicreg.mosaic import Mosaic
from mosaicreg.transforms import (
    Affine,
    Grid,
    Mesh,
    Polynomial,
    Rigid,
    Similarity,
    Transform,
    Translation,
)

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


@st.composite
def transforms(draw: st.DrawFn, *, composed: bool = True, size: float = 90.0) -> Transform:
    """Any kind of transform, not too far from the identity, for a source of ``size`` px."""
    kinds = ["translation", "rigid", "similarity", "affine", "mesh", "grid", "polynomial"]
    kind = draw(st.sampled_from([*kinds, "composed"] if composed else kinds))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    offset, center = rng.uniform(-20, 20, 2), rng.uniform(0, size, 2)
    angle = float(rng.uniform(-np.pi, np.pi))
    bend = np.eye(2) + rng.uniform(-0.2, 0.2, (2, 2))
    if kind == "translation":
        return Translation(np.round(offset) if draw(st.booleans()) else offset)
    if kind == "rigid":
        return Rigid(offset, angle, center)
    if kind == "similarity":
        return Similarity(offset, angle, center, float(rng.uniform(0.5, 2)), draw(st.booleans()))
    if kind == "affine":
        return Affine(bend, offset, center)
    if kind == "polynomial":
        small = rng.uniform(-0.02, 0.02, (2, 3))
        a, b = [1, 0, 1, *small[0]], [1, 1, 0, *small[1]]
        return Polynomial(a, b, offset, (size / 2, size / 2 + 3))
    if kind == "composed":
        return draw(transforms(composed=False)).compose(draw(transforms(composed=False)))
    y, x = np.meshgrid(np.linspace(0, size, 4), np.linspace(0, size, 5), indexing="ij")
    source = np.stack([y.ravel(), x.ravel()], axis=1)
    if kind == "mesh":
        source = source + rng.uniform(-size / 40, size / 40, source.shape)
    target = source @ bend.T + offset + rng.uniform(-size / 60, size / 60, source.shape)
    if kind == "grid":
        return Grid(target.reshape(4, 5, 2), (0, 0), (size, size))
    return Mesh(source, target)
