"""What the documented functions take for an image: a path, pixels, or a chunked array."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

from mosaicreg.errors import InputError
from mosaicreg.imagesave import load_grey
from mosaicreg.lazy import as_lazy, is_lazy, open_plain_zarr
from mosaicreg.nornir.sharing import memmap_metadata

ImageParam = Any
"""A path, a numpy, dask or zarr array, or a `memmap_metadata`."""


def existing(path: str | os.PathLike[str]) -> Path:
    """The path, which must exist.

    Raises:
        FileNotFoundError: where it does not.
    """
    found = Path(path)
    if not found.exists():
        raise FileNotFoundError(errno.ENOENT, "there is no such image", str(found))
    return found


def is_path(image: ImageParam) -> bool:
    """Whether an argument names a file."""
    return isinstance(image, str | os.PathLike)


def as_image(image: ImageParam) -> Any:
    """Pixels in memory, or a dask array where the image is chunked: dask, zarr, a zarr's path."""
    if is_path(image):
        path = existing(image)
        return open_plain_zarr(path) if path.is_dir() else load_grey(path)
    if isinstance(image, memmap_metadata):
        image = image.open()
    return as_lazy(image) if is_lazy(image) else np.asarray(image)


def as_pixels(image: ImageParam) -> Any:
    """Pixels in memory, whatever the image was."""
    return np.asarray(as_image(image))


def whole_number(value: Any, what: str) -> int:
    """An integer of any type, or a float without a fraction.

    Raises:
        InputError: for anything else; ``what`` names the value.
    """
    number = float(value)
    if number != int(number):
        raise InputError(f"{what} must be a whole number of pixels, not {value}")
    return int(number)
