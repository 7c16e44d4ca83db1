"""What a file says about its image, whatever its format."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import ImageError
from mosaicreg.geometry import Box
from mosaicreg.objects import AnyPath

RGB = ("red", "green", "blue", "alpha")
"""Names of samples where nothing else names them."""

MICROMETRE = {
    "micrometer": 1.0,
    "micrometre": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "nm": 1e-3,
    "angstrom": 1e-4,
    "å": 1e-4,
    "millimeter": 1e3,
    "millimetre": 1e3,
    "mm": 1e3,
    "centimeter": 1e4,
    "cm": 1e4,
    "meter": 1e6,
    "metre": 1e6,
    "m": 1e6,
}
"""Length of a unit, as OME-XML (symbols) and OME-Zarr (words) write it."""

Pair = tuple[float, float]
Lead = tuple[slice, ...]


class Header(NamedTuple):
    """What a file says about its image.

    Args:
        axes: e.g. ``"yx"``, ``"cyx"``, ``"tczyx"``.
        shape: length of each axis.
        dtype: in native byte order.
        pixel_size: (y, x) in micrometre, where known.
        position: (y, x) of the first pixel on the stage in micrometre, where known.
        channels: names, where known.
        interleaved: whether all leading planes are decoded together.
    """

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pixel_size: Pair | None = None
    position: Pair | None = None
    channels: tuple[str, ...] = ()
    interleaved: bool = False

    @property
    def plane(self) -> tuple[int, int]:
        """(height, width)."""
        return self.shape[-2], self.shape[-1]


def canonical_axes(axes: str, shape: tuple[int, ...], path: AnyPath) -> tuple[str, str]:
    """Axis letters of a file as ours (same order), and our canonical order of them."""
    letters = axes.lower().replace("s", "c")
    unknown = [a for a in letters if a not in "tczyx"]
    if len(unknown) == 1 and "c" not in letters:
        letters = letters.replace(unknown[0], "c")
    if letters.count("y") != 1 or letters.count("x") != 1 or len(set(letters)) != len(letters):
        raise ImageError(f"{path}: cannot tell the axes {axes} of shape {shape} apart")
    if any(a not in "tczyx" for a in letters):
        raise ImageError(f"{path}: unknown axes {axes} of shape {shape}")
    return letters, "".join(a for a in "tczyx" if a in letters)


def cut_image(image: NDArray[Any], box: Box | None, lead: Lead | None) -> NDArray[Any]:
    """Only these slices of the leading axes, and these rows and columns."""
    if lead is not None and image.ndim > 2:
        image = image[lead]
    return image if box is None else image[..., box.y0 : box.y1, box.x0 : box.x1]
