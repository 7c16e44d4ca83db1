"""A window of a TIFF page: only the tiles or strips that it touches are read and decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import Box, TileGrid

_JPEG = 7


def segment_shape(page: Any) -> tuple[int, int] | None:
    """(height, width) of the page's tiles or strips; None where it is best decoded as a whole."""
    key = page.keyframe
    plain = key.planarconfig == 1 or key.samplesperpixel == 1
    if not plain or key.imagedepth != 1 or key.ndim not in (2, 3):
        return None
    if key.is_tiled:
        return int(key.tilelength), int(key.tilewidth)
    return int(min(key.rowsperstrip, key.imagelength)), int(key.imagewidth)


def page_window(page: Any, box: Box | None) -> NDArray[Any]:
    """The pixels of ``box`` as (y, x) or (y, x, samples); the whole page where None."""
    segment = None if box is None else segment_shape(page)
    if box is None or segment is None:
        whole: NDArray[Any] = page.asarray()
        return whole if box is None else whole[box.slices]
    key = page.keyframe
    grid = TileGrid((int(key.imagelength), int(key.imagewidth)), segment)
    samples = key.shape[2:] if key.ndim == 3 else ()
    out = np.zeros((*box.shape, *samples), dtype=key.dtype)
    across = grid.grid_shape[1]
    for row in range(box.y0 // segment[0], -(-box.y1 // segment[0])):
        for col in range(box.x0 // segment[1], -(-box.x1 // segment[1])):
            common = grid.box(row, col).intersection(box)
            pixels = _segment(page, row * across + col)
            if common is None or pixels is None:
                continue
            inside = common.shifted(-row * segment[0], -col * segment[1]).slices
            part = pixels[inside]
            out[common.shifted(-box.y0, -box.x0).slices] = part if samples else part[..., 0]
    return out


def _segment(page: Any, index: int) -> NDArray[Any] | None:
    """One decoded tile or strip as (y, x, samples); None where the file stores none."""
    key = page.keyframe
    count = page.databytecounts[index]
    if count == 0:
        return None
    file = page.parent.filehandle
    file.seek(page.dataoffsets[index])
    tables = {}
    if key.compression == _JPEG:
        tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
    pixels: NDArray[Any] | None = key.decode(file.read(count), index, **tables)[0]
    return None if pixels is None else pixels[0]
