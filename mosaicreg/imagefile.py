"""Image files: what a file holds (header only), and its pixels.

Every image is seen as leading axes out of t, c, z (in this order, those it has) and then y, x. RGB
samples are channels. Pixels come in native byte order. Supported: TIFF and OME-TIFF, PNG, JPEG,
JPEG 2000, ``.npy``, zarr arrays and OME-Zarr images (their finest level).
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import ImageError
from mosaicreg.geometry import Box
from mosaicreg.header import MICROMETRE, RGB, Header, Lead, canonical_axes, cut_image
from mosaicreg.jpeg2000 import decode_jp2, jp2_shape
from mosaicreg.objects import AnyPath, ObjectPath
from mosaicreg.tifffiles import TIFF, Known, read_tiff, tiff_block, tiff_header

FILE_SUFFIXES = (*TIFF, ".png", ".jpg", ".jpeg", ".jp2", ".npy")
SUFFIXES = (*FILE_SUFFIXES, ".zarr")
"""File name endings that count as images, in lower case."""


DTYPES = tuple(np.dtype(t) for t in ("u1", "u2", "i1", "i2", "f4", "f8"))


def is_image(path: AnyPath) -> bool:
    """True where the name, or a zarr folder's content, says that this is an image."""
    if path.suffix.lower() in SUFFIXES:
        return True
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zarray"))


def read_header(path: AnyPath, any_type: bool = False, known: Known | None = None) -> Header:
    """What the file says about its image; no pixel is read.

    Args:
        path: of the file.
        any_type: do not mind pixels of types that cannot be stitched.
        known: headers of files read before, and filled with what is found: those of many TIFF files
            that are alike are looked into once.

    Raises:
        ImageError: where the file is missing, unreadable, cut short, or of an unsupported kind.
    """
    header: Header = _guarded(path, _header_reader(path, known))
    if header.dtype not in DTYPES and not any_type:
        raise ImageError(
            f"{path}: pixels of type {header.dtype} are not supported; convert them to one of "
            + ", ".join(str(t) for t in DTYPES)
        )
    if min(header.shape) < 1:
        raise ImageError(f"{path}: the image is empty, its shape is {header.shape}")
    return header


def read_image(path: AnyPath, box: Box | None = None, lead: Lead | None = None) -> NDArray[Any]:
    """Pixels as (leading axes..., y, x) in native byte order.

    Args:
        box: only these rows and columns.
        lead: only these slices of the leading axes.

    Raises:
        ImageError: where the file cannot be decoded.
    """
    reader: dict[str, Callable[..., NDArray[Any]]] = {
        ".png": _read_whole(_decode_png),
        ".jpg": _read_whole(_decode_jpeg),
        ".jpeg": _read_whole(_decode_jpeg),
        ".jp2": _read_whole(decode_jp2),
        ".npy": _read_whole(_open_npy),
    }
    suffix = path.suffix.lower()
    read = read_tiff if suffix in TIFF else reader.get(suffix, _read_zarr)
    image: NDArray[Any] = _guarded(path, lambda p: read(p, box, lead))
    native: NDArray[Any] = image.astype(image.dtype.newbyteorder("="), copy=False)
    return native


def is_bilevel(path: AnyPath) -> bool:
    """Whether this is a grey PNG of one bit per pixel (they decode to 0 and 255)."""
    if path.suffix.lower() != ".png":
        return False
    with path.open("rb") as file:
        return file.read(26)[24:26] == b"\x01\x00"


def native_block(path: AnyPath) -> tuple[int | None, int | None]:
    """(height, width) of the smallest part of an image that can be read alone.

    1 where any pixel can; None where all rows or columns come together.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return 1, 1
    if suffix in TIFF:
        return _guarded(path, tiff_block)  # type: ignore[no-any-return]
    if suffix in SUFFIXES and suffix != ".zarr":
        return None, None
    array = zarr_level0(path)[0]
    height, width = (getattr(array, "shards", None) or array.chunks)[-2:]
    return int(height), int(width)


Content = bytes | memoryview | Iterable[bytes | memoryview]
"""Of a file: whole, or in pieces, which may be made as they are written."""


def write_atomically(path: AnyPath, content: Content) -> None:
    """Write a file so that it is either the old one or the complete new one."""
    pieces = (content,) if isinstance(content, bytes | memoryview) else content
    if isinstance(path, ObjectPath):
        path.write_bytes(b"".join(pieces))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    file = temporary.open("xb")
    try:
        with file:
            file.writelines(pieces)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    """A name in the same folder that nobody else has."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}")


def write_png(path: Path, image: NDArray[Any]) -> None:
    """Write a (y, x) or (y, x, 3) image of 8 or 16 bit."""
    import imagecodecs

    write_atomically(path, bytes(imagecodecs.png_encode(np.ascontiguousarray(image), level=6)))


def write_tiff(path: Path, image: NDArray[Any], **options: Any) -> None:
    """Write a TIFF with `tifffile.imwrite`'s options."""
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        tifffile.imwrite(temporary, image, **options)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _guarded(path: AnyPath, action: Callable[[AnyPath], Any]) -> Any:
    """Run ``action(path)``; whatever a decoder throws becomes an error that names the file."""
    try:
        return action(path)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file") from None
    except PermissionError:
        raise ImageError(f"{path}: no permission to read it") from None
    except Exception as error:
        reason = str(error).partition("\n\nDebug source")[0].strip() or type(error).__name__
        raise ImageError(f"{path}: unreadable ({reason})") from error


def _header_reader(path: AnyPath, known: Known | None) -> Callable[[AnyPath], Header]:
    suffix = path.suffix.lower()
    if suffix in TIFF:
        return lambda path: tiff_header(path, known)
    named = {
        ".png": _png_header,
        ".jpg": _jpeg_header,
        ".jpeg": _jpeg_header,
        ".jp2": lambda path: _samples(*jp2_shape(path), path),
        ".npy": _npy_header,
    }
    return named.get(suffix, _zarr_header)


# --- PNG, JPEG, npy: one plane or samples last ---------------------------------------------------


def _samples(shape: tuple[int, ...], dtype: Any, path: AnyPath) -> Header:
    dtype = np.dtype(dtype).newbyteorder("=")
    if len(shape) == 2:
        return Header("yx", shape, dtype)
    if len(shape) == 3:
        names = RGB[: shape[2]] if shape[2] >= 3 else ()
        return Header("cyx", (shape[2], *shape[:2]), dtype, channels=names, interleaved=True)
    raise ImageError(f"{path}: an image of shape {shape} is not (height, width[, samples])")


def _png_header(path: AnyPath) -> Header:
    with path.open("rb") as file:
        start = file.read(26)
        file.seek(max(0, path.stat().st_size - 12))
        end = file.read()
    if len(start) < 26 or start[:8] != b"\x89PNG\r\n\x1a\n":
        raise ImageError(f"{path}: not a PNG file")
    if end[4:8] != b"IEND":
        raise ImageError(f"{path}: cut short, the end of the PNG is missing")
    width, height, bits, colour = struct.unpack(">IIBB", start[16:26])
    # Palette images (3) are decoded to RGB; a palette with transparency is not worth guessing at.
    samples = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[colour]
    dtype = np.uint16 if bits == 16 else np.uint8
    shape = (height, width) if samples == 1 else (height, width, samples)
    return _samples(shape, dtype, path)


def _decode_png(path: AnyPath) -> NDArray[Any]:
    import imagecodecs

    image: NDArray[Any] = imagecodecs.png_decode(path.read_bytes())
    return image


def _jpeg_header(path: AnyPath) -> Header:
    from PIL import Image

    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        if b"\xff\xd9" not in file.read():
            raise ImageError(f"{path}: cut short, the end of the JPEG is missing")
    with path.open("rb") as file, Image.open(file) as image:
        samples = len(image.getbands())
        shape = (image.height, image.width)
    return _samples(shape if samples == 1 else (*shape, samples), np.uint8, path)


def _decode_jpeg(path: AnyPath) -> NDArray[Any]:
    import imagecodecs

    image: NDArray[Any] = imagecodecs.jpeg_decode(path.read_bytes())
    return image


def _open_npy(path: AnyPath) -> NDArray[Any]:
    image: NDArray[Any]
    if isinstance(path, ObjectPath):
        image = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    else:
        image = np.load(path, mmap_mode="r", allow_pickle=False)
    return image


def _npy_header(path: AnyPath) -> Header:
    shape, dtype = _npy_kind(path) if isinstance(path, ObjectPath) else _array_kind(_open_npy(path))
    if len(shape) == 3 and not _samples_last(shape):
        return Header("cyx", shape, dtype.newbyteorder("="))
    return _samples(shape, dtype, path)


def _array_kind(image: NDArray[Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    return image.shape, image.dtype


def _npy_kind(path: ObjectPath) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type from the first bytes; the size must be that of the array."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        reader = {(1, 0): np.lib.format.read_array_header_1_0}.get(
            version, np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = reader(file)
        end = file.tell() + prod(shape) * dtype.itemsize
    size = path.stat().st_size
    if size < end:
        raise ImageError(f"{path}: cut short, {size} bytes where its pixels end at {end}")
    return shape, dtype


def _samples_last(shape: tuple[int, ...]) -> bool:
    """Whether (a, b, c) is (height, width, samples) rather than (channel, height, width)."""
    return len(shape) == 3 and shape[2] <= 4


def _read_whole(
    decode: Callable[[AnyPath], NDArray[Any]],
) -> Callable[[AnyPath, Box | None, Lead | None], NDArray[Any]]:
    """A reader from a decoder that only knows whole images, samples last."""

    def read(path: AnyPath, box: Box | None, lead: Lead | None) -> NDArray[Any]:
        image = decode(path)
        if _samples_last(image.shape):
            image = np.moveaxis(image, 2, 0)
        return cut_image(image, box, lead)

    return read


# --- zarr and OME-Zarr ---------------------------------------------------------------------------


def zarr_level0(path: AnyPath) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The array, its OME axes and transformations ({} for a plain array), and the channel facts."""
    import zarr

    place = path.zarr(read_only=True) if isinstance(path, ObjectPath) else str(path)
    node = zarr.open(place, mode="r")
    if isinstance(node, zarr.Array):
        return node, {}, {}
    attributes: dict[str, Any] = dict(node.attrs)
    attributes = attributes.get("ome", attributes)
    if "multiscales" not in attributes:
        raise ImageError(f"{path}: a zarr group that is not an OME-Zarr image")
    scales = attributes["multiscales"][0]
    array: Any = node[scales["datasets"][0]["path"]]
    return array, scales, attributes.get("omero", {})


def _zarr_axes(array: Any, scales: dict[str, Any], path: AnyPath) -> str:
    names = getattr(array.metadata, "dimension_names", None)
    if scales:
        names = [axis["name"] for axis in scales["axes"]]
    if names is not None and None not in names:
        letters = "".join(str(n).lower()[:1] for n in names)
    else:
        letters = {2: "yx", 3: "cyx", 4: "czyx", 5: "tczyx"}.get(array.ndim, "")
    letters, order = canonical_axes(letters, array.shape, path)
    if letters != order:
        raise ImageError(f"{path}: axes {letters} are not in the order {order}")
    return order


def _zarr_header(path: AnyPath) -> Header:
    array, scales, omero = zarr_level0(path)
    axes = _zarr_axes(array, scales, path)
    pixel_size = position = None
    if scales:
        unit = [MICROMETRE.get(axis.get("unit", ""), 0.0) for axis in scales["axes"]][-2:]
        moves = {
            t["type"]: t.get(t["type"])
            for t in scales["datasets"][0].get("coordinateTransformations", ())
        }
        if "scale" in moves and all(unit):
            y, x = (s * u for s, u in zip(moves["scale"][-2:], unit, strict=True))
            pixel_size = (y, x)
        if "translation" in moves and all(unit):
            y, x = (s * u for s, u in zip(moves["translation"][-2:], unit, strict=True))
            position = (y, x)
    return Header(
        axes=axes,
        shape=tuple(array.shape),
        dtype=np.dtype(array.dtype).newbyteorder("="),
        pixel_size=pixel_size,
        position=position,
        channels=tuple(str(c.get("label", "")) for c in omero.get("channels", ())),
    )


def _read_zarr(path: AnyPath, box: Box | None, lead: Lead | None) -> NDArray[Any]:
    array, _scales, _ = zarr_level0(path)
    extra = array.ndim - 2
    index: list[slice] = list(lead) if lead is not None and extra else [slice(None)] * extra
    index += list(box.slices) if box is not None else [slice(None), slice(None)]
    image: NDArray[Any] = array[tuple(index)]
    return image
