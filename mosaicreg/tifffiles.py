"""TIFF and OME-TIFF: what a file says, and its pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import ImageError
from mosaicreg.geometry import Box
from mosaicreg.header import MICROMETRE, RGB, Header, Lead, Pair, canonical_axes, cut_image
from mosaicreg.objects import AnyPath, ObjectPath
from mosaicreg.tiffscan import Scan, grey_image, scan
from mosaicreg.tiffwindow import page_window, segment_shape

TIFF = (".tif", ".tiff")
_PLAIN_KINDS = ("generic", "imagej", "shaped", "uniform")
"""Series of which tifffile knows all from one directory."""
_ENDLESS = (2, 3, 4, 6)
"""Compressions (CCITT, old JPEG) for which tifffile corrects what directories say."""
MOST_KNOWN = 64
"""Kinds of files remembered."""

Known = dict[tuple[Any, ...], Header]
"""Headers by what they depend on, see `mosaicreg.tiffscan.Scan.key`."""


@contextmanager
def _opened_tiff(path: AnyPath) -> Iterator[Any]:
    """A `tifffile.TiffFile`; of an object, only the parts are fetched that are looked at."""
    import tifffile

    if isinstance(path, ObjectPath):
        with path.open("rb") as file, tifffile.TiffFile(file, name=path.name) as tiff:
            yield tiff
    else:
        with tifffile.TiffFile(path) as tiff:
            yield tiff


def tiff_header(path: AnyPath, known: Known | None = None) -> Header:
    """What the file says about its first image; see `mosaicreg.imagefile.read_header`."""
    found = scan(str(path)) if known is not None and isinstance(path, Path) else None
    if known is not None and found is not None and found.end <= found.size:
        alike = known.get(found.key)
        if alike is None and (grey := grey_image(found)) is not None:
            shape, dtype = grey
            known[found.key] = alike = Header("yx", shape, dtype.newbyteorder("="))
        if alike is not None:
            return alike
    with _opened_tiff(path) as tiff:
        header = _judged(tiff, path)
        if known is not None and found is not None and _is_plain(tiff, found):
            known[found.key] = header
            _learn(tiff, found, path)
        return header


def _is_plain(tiff: Any, found: Scan) -> bool:
    """Whether all that `_judged` looks at is in the scan, read as tifffile reads it."""
    series = tiff.series[0]
    page = series.pages[0]
    return bool(
        len(tiff.pages) == len(tiff.series) == len(series.pages) == 1
        and series.kind in _PLAIN_KINDS
        and not tiff.is_ome
        and series.size == page.size
        and page.compression not in _ENDLESS
        and tuple(page.dataoffsets) == found.offsets
        and tuple(page.databytecounts) == found.counts
    )


def _judged(tiff: Any, path: AnyPath) -> Header:
    series = tiff.series[0]
    letters, order = canonical_axes(series.axes, series.shape, path)
    shape = tuple(series.shape[letters.index(a)] for a in order)
    end = max(
        (
            offset + count
            for page in series.pages
            if page is not None
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ),
        default=0,
    )
    size = path.stat().st_size
    if end > size:
        raise ImageError(f"{path}: cut short, {size} bytes where its pixels end at {end}")
    facts = _ome_facts(tiff.ome_metadata, path) if tiff.is_ome else ()
    pixel_size, position, channels = facts or (None, None, ())
    if not channels and "S" in series.axes and shape[order.index("c")] in (3, 4):
        channels = RGB[: shape[order.index("c")]]
    return Header(
        axes=order,
        shape=shape,
        dtype=series.dtype.newbyteorder("="),
        pixel_size=pixel_size,
        position=position,
        channels=channels,
        interleaved="S" in series.axes,
    )


def tiff_block(path: AnyPath) -> tuple[int | None, int | None]:
    """See `mosaicreg.imagefile.native_block`."""
    with _opened_tiff(path) as tiff:
        series = tiff.series[0]
        if series.dataoffset is not None:
            return 1, 1
        if series.axes.upper() not in ("YX", "YXS") and series.axes[-2:].upper() != "YX":
            return None, None
        page: Any = series.pages[0]
        height, width = segment_shape(page) or (None, None)
        return height, None if width == page.keyframe.imagewidth else width


def _ome_facts(xml: str | None, path: AnyPath) -> tuple[Pair | None, Pair | None, tuple[str, ...]]:
    """Pixel size and position in micrometre and channel names of the first image of an OME-XML."""
    from xml.etree import ElementTree

    root = ElementTree.fromstring(xml or "<OME/>")
    namespace = root.tag[: root.tag.index("}") + 1] if "}" in root.tag else ""
    pixels = root.find(f"{namespace}Image/{namespace}Pixels")
    if pixels is None:
        return None, None, ()
    channels = tuple(
        c.get("Name") or f"channel {k}" for k, c in enumerate(pixels.findall(f"{namespace}Channel"))
    )
    plane = pixels.find(f"{namespace}Plane")
    size = _lengths(pixels, "PhysicalSize", path)
    position = None if plane is None else _lengths(plane, "Position", path)
    return size, position, channels


def _lengths(element: Any, name: str, path: AnyPath) -> Pair | None:
    """Attributes ``nameY`` and ``nameX`` in micrometre, or None where one is not given."""
    values = []
    for axis in "YX":
        text, unit = element.get(name + axis), element.get(f"{name}{axis}Unit", "µm")
        if text is None:
            return None
        if unit.lower() not in MICROMETRE:
            if name == "Position":
                return None  # "reference frame" and "pixel" say nothing about micrometres
            raise ImageError(f"{path}: {name}{axis} is in the unknown unit {unit!r}")
        values.append(float(text) * MICROMETRE[unit.lower()])
    return values[0], values[1]


class _Stored(NamedTuple):
    """An array that lies in a file as it is: type in the file's byte order, shape, our axes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    back: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def read(self, path: Path, offset: int, box: Box | None, lead: Lead | None) -> NDArray[Any]:
        """The pixels, mapped: only what is looked at is read."""
        with path.open("rb") as file:
            content = mmap(file.fileno(), offset + self.size, access=ACCESS_READ)
        mapped: NDArray[Any] = np.ndarray(self.shape, self.dtype, content, offset)
        return cut_image(mapped.transpose(self.back), box, lead)


_stored: dict[tuple[Any, ...], _Stored] = {}
"""How pixels lie in files of this key, see `Scan.key`: one of them was looked into."""


def _learn(tiff: Any, found: Scan | None, path: AnyPath) -> None:
    """Remember how the pixels lie in a plain file, if as they are."""
    if found is None or not _is_plain(tiff, found):
        return
    series = tiff.series[0]
    if series.dataoffset == found.offsets[0]:
        letters, order = canonical_axes(series.axes, series.shape, path)
        stored = _Stored(
            series.dtype.newbyteorder(tiff.byteorder),
            tuple(series.shape),
            tuple(letters.index(a) for a in order),
        )
        _remember(found, stored)


def _remember(found: Scan, stored: _Stored) -> None:
    if len(_stored) >= MOST_KNOWN:
        _stored.clear()
    _stored[found.key] = stored


def _as_it_lies(found: Scan) -> _Stored | None:
    """How the pixels lie in a file, if as they are, where that is known without looking further."""
    if found.key not in _stored and (grey := grey_image(found)) is not None:
        shape, dtype = grey
        _remember(found, _Stored(dtype, shape, (0, 1)))
    return _stored.get(found.key)


def read_tiff(path: AnyPath, box: Box | None, lead: Lead | None) -> NDArray[Any]:
    """Pixels as stored, see `mosaicreg.imagefile.read_image`."""
    found = scan(str(path)) if isinstance(path, Path) else None
    if isinstance(path, Path) and found is not None and found.end <= found.size:
        stored = _as_it_lies(found)
        if stored is not None and stored.size == found.unbroken:
            return stored.read(path, found.offsets[0], box, lead)
    with _opened_tiff(path) as tiff:
        _learn(tiff, found, path)
        series = tiff.series[0]
        letters, order = canonical_axes(series.axes, series.shape, path)
        back = [letters.index(a) for a in order]
        if series.dataoffset is not None:
            # Uncompressed and contiguous: the file is the array, and only what is cut is read.
            dtype = series.dtype.newbyteorder(tiff.byteorder)
            if isinstance(path, ObjectPath):
                rows = (box.y0, box.y1) if box is not None and letters[0] == "y" else None
                image = path.read_array(series.dataoffset, dtype, series.shape, rows)
                if box is not None and rows is not None:
                    box = box.shifted(-box.y0, 0)
                return cut_image(image.transpose(back), box, lead)
            mapped = np.memmap(path, dtype, "r", series.dataoffset, series.shape)
            return cut_image(mapped.transpose(back), box, lead)
        pages = series.pages
        if series.axes == "YXS" and len(pages) == 1:
            return cut_image(np.moveaxis(page_window(pages[0], box), 2, 0), None, lead)
        planes = series.shape[:-2]
        if letters == order and prod(planes) == len(pages):
            wanted = np.arange(len(pages)).reshape(planes)
            wanted = wanted if lead is None else wanted[lead]
            stack = [page_window(pages[int(k)], box) for k in wanted.ravel()]
            return np.stack(stack).reshape(*wanted.shape, *stack[0].shape)
        return cut_image(series.asarray().transpose(back), box, lead)
