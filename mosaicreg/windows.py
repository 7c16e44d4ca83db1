"""Windows of images that a task reads: from arrays, files, or the chunks of a dask array."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box
from mosaicreg.imagefile import read_header, read_image

Lead = tuple[slice, ...]


class Pixels(Protocol):
    """An image whose windows can be read, cheap to pickle."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, index: Any) -> Any: ...


@dataclass(frozen=True)
class FilePixels:
    """An image file; each window is read when it is asked for."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stamp: tuple[int, int]

    def __getitem__(self, index: tuple[slice, ...]) -> NDArray[Any]:
        rows, columns = index[-2:]
        box = Box(rows.start, columns.start, rows.stop, columns.stop)
        return read_image(self.path, box, index[:-2])


def is_dask(image: Any) -> bool:
    """Whether an image is a dask array."""
    return isinstance(image, da.Array)


def chunks_of(image: Any) -> tuple[tuple[int, ...], ...]:
    """Chunks of a dask array."""
    chunks: tuple[tuple[int, ...], ...] = image.chunks
    return chunks


def open_pixels(image: Any) -> Pixels:
    """An array as it is; a path as an image file of which only the header is read.

    Raises:
        InputError: where it is neither, or has no two axes.
    """
    if isinstance(image, str | Path):
        path = Path(image)
        header, facts = read_header(path), path.stat()
        image = FilePixels(path, header.shape, header.dtype, (facts.st_mtime_ns, facts.st_size))
    if not (hasattr(image, "shape") and hasattr(image, "dtype") and len(image.shape) >= 2):
        raise InputError(f"an image is a path or an array (..., y, x), not {type(image).__name__}")
    if not all(n >= 1 for n in image.shape):  # dask calls unknown lengths NaN
        raise InputError(f"an image of shape {image.shape} is empty, or its size is not known")
    pixels: Pixels = image
    return pixels


@dataclass(frozen=True)
class _Read:
    """A window that the task reads itself."""

    source: Pixels
    lead: Lead
    window: Box | None


@dataclass(frozen=True)
class _Paste:
    """How a window is put together from the chunks of a dask array."""

    window: Box | None
    dtype: np.dtype[Any]
    corners: tuple[tuple[int, int], ...]


def window_of(source: Pixels, window: Box | None, index: tuple[int, ...], lead: Lead) -> Any:
    """What a task of a graph is given to find the pixels of a window: `read_window` takes it.

    Of a dask array, the keys of those chunks that the window touches.
    """
    if not is_dask(source):
        return [_Read(source, lead, window)]
    name = source.name  # type: ignore[attr-defined]  # a dask array
    keys, corners = [], []
    if window is not None:
        starts = [np.concatenate([[0], np.cumsum(c)]) for c in chunks_of(source)[-2:]]
        ends = ((window.y0, window.y1), (window.x0, window.x1))
        first, last = ([int(np.searchsorted(s, e[k] - k, "right")) - 1 for s, e in
                        zip(starts, ends, strict=True)] for k in (0, 1))  # fmt: skip
        for r in range(first[0], last[0] + 1):
            for c in range(first[1], last[1] + 1):
                keys.append((name, *index, r, c))
                corners.append((int(starts[0][r]), int(starts[1][c])))
    return [_Paste(window, np.dtype(source.dtype), tuple(corners)), *keys]


def read_window(content: list[Any]) -> tuple[NDArray[Any] | None, np.dtype[Any]]:
    """(pixels of a window or None, dtype) from what `window_of` put into a graph."""
    how, *chunks = content
    if isinstance(how, _Read):
        dtype = np.dtype(how.source.dtype).newbyteorder("=")
        if how.window is None:
            return None, dtype
        return np.asarray(how.source[(*how.lead, *how.window.slices)]), dtype
    if how.window is None:
        return None, how.dtype
    out = np.empty((*chunks[0].shape[:-2], *how.window.shape), dtype=how.dtype)
    for chunk, corner in zip(chunks, how.corners, strict=True):
        box = Box.at(corner, chunk.shape[-2:])
        common = box.intersection(how.window)
        if common is not None:
            here = common.shifted(-how.window.y0, -how.window.x0).slices
            out[(..., *here)] = np.asarray(chunk)[
                (..., *common.shifted(-corner[0], -corner[1]).slices)
            ]
    return out, how.dtype
