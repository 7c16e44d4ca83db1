"""JPEG 2000 files: what the header says, lossless writing."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import ImageError, InputError
from mosaicreg.objects import AnyPath

SUFFIX = ".jp2"
_SEARCHED = 4096
"""The image header box comes right after the signature; no file puts this much before it."""


def jp2_shape(path: AnyPath) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """(height, width[, samples]) and type of the pixels; nothing is decoded."""
    with path.open("rb") as file:
        start = file.read(_SEARCHED)
    at = start.find(b"ihdr")
    if start[4:8] != b"jP  " or at < 0 or len(start) < at + 15:
        raise ImageError(f"{path}: not a JPEG 2000 file")
    height, width, samples, depth = struct.unpack(">IIHB", start[at + 4 : at + 15])
    if depth == 255 or depth & 128 or depth > 15:
        raise ImageError(f"{path}: only samples of one depth, unsigned and up to 16 bits are read")
    shape = (height, width) if samples == 1 else (height, width, samples)
    return shape, np.dtype(np.uint8 if depth < 8 else np.uint16)


def decode_jp2(path: AnyPath) -> NDArray[Any]:
    """The pixels as (y, x) or (y, x, samples)."""
    import imagecodecs

    image: NDArray[Any] = imagecodecs.jpeg2k_decode(path.read_bytes())
    return image


def encode_jp2(image: NDArray[Any], tile: tuple[int, int] | None = None) -> bytes:
    """A grey image of 8 or 16 bits, lossless.

    In tiles of ``tile`` (height, width) px where it has 8 bits; Pillow damages pixels of 16 bits in
    all but the first column of tiles, so those are written in one piece.

    Raises:
        InputError: where Pillow was built without JPEG 2000.
    """
    from PIL import Image, features

    if not features.check("jpg_2000"):
        raise InputError("this build of Pillow cannot write JPEG 2000; install one with OpenJPEG")
    size = None
    if tile is not None and image.dtype == np.uint8:
        size = (min(tile[1], image.shape[1]), min(tile[0], image.shape[0]))
    content = BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.save(content, "JPEG2000", irreversible=False, tile_size=size)
    return content.getvalue()
