"""The documented name of ``nornir_imageregistration.alignment_record``, and `ToStos`."""

from __future__ import annotations

from typing import Any

from mosaicreg.alignment import AlignmentRecord
from mosaicreg.irtools import Stos, StosImage, stos_of
from mosaicreg.nornir.core import GetImageSize

__all__ = ["AlignmentRecord", "ToStos"]


def ToStos(
    record: AlignmentRecord,
    ImagePath: Any,
    WarpedImagePath: Any,
    FixedImageMaskPath: Any = None,
    WarpedImageMaskPath: Any = None,
    PixelSpacing: float = 1,
) -> Stos:
    """`mosaicreg.irtools.stos_of`: the ``.stos`` of a record and its two image files.

    A function and not a method: records know no files. Only the images' headers are read.
    """
    fixed, moving = (
        StosImage(
            str(path),
            GetImageSize(path),
            (float(PixelSpacing), float(PixelSpacing)),
            mask=None if mask is None else str(mask),
        )
        for path, mask in (
            (ImagePath, FixedImageMaskPath),
            (WarpedImagePath, WarpedImageMaskPath),
        )
    )
    return stos_of(record, fixed, moving)
