"""One grey image into a file, or from one: 1, 8, 16 bit or float, no value changed silently.

The format follows from the name: PNG, TIFF, JPEG (8 bits, with loss), JPEG 2000 (without), ``.npy``
and ``.zarr``. A file is complete or not there at all.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box
from mosaicreg.imagefile import is_bilevel, read_image, write_atomically, write_tiff
from mosaicreg.jpeg2000 import encode_jp2
from mosaicreg.pixels import to_bits, to_grey
from mosaicreg.tifffiles import TIFF

SUFFIXES = (*TIFF, ".png", ".jpg", ".jpeg", ".jp2", ".npy", ".zarr")
"""Endings of files that can be written."""
ANY_TYPE = (*TIFF, ".npy", ".zarr")
"""Endings of formats that hold pixels of every type."""
MOST_BITS = {".png": 16, ".jp2": 16, ".jpg": 8, ".jpeg": 8}


def load_grey(path: Path, box: Box | None = None) -> NDArray[Any]:
    """The image as (y, x) in the file's own type; bool where the file has one bit per pixel.

    Of several samples or planes, the first.

    Raises:
        ImageError: where the file is missing or cannot be decoded.
    """
    image = read_image(path, box)
    while image.ndim > 2:
        image = image[0]
    return image != 0 if is_bilevel(path) else image


def save_grey(
    path: Path,
    image: NDArray[Any],
    bits: int | None = None,
    *,
    rescale: bool = False,
    **options: Any,
) -> None:
    """Write a grey image.

    Args:
        path: of the file; folders are made, a file that exists is replaced once the new is whole.
        image: (y, x), or (y, x, samples) of which the first is written.
        bits: per pixel, as `mosaicreg.pixels.to_bits` makes them. None: as many as the type has;
            floats stay floats in TIFF, ``.npy`` and zarr, and become 16 bits in PNG and JPEG 2000,
            8 in JPEG.
        rescale: whole numbers may be scaled from the range of their type to fewer bits.
        options: ``level`` or ``compress_level`` of a PNG, ``quality`` of a JPEG, ``tile`` of a
            JPEG 2000, what `tifffile.imwrite` and `zarr.create_array` take.

    Raises:
        InputError: for a value, an ending or an option that cannot be written; nothing is written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: images are written as {', '.join(SUFFIXES)}")
    try:
        pixels = _as_written(to_grey(image), suffix, bits, rescale)
        writer(suffix)(path, pixels, **options)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _as_written(image: NDArray[Any], suffix: str, bits: int | None, rescale: bool) -> NDArray[Any]:
    """The pixels as the file will hold them."""
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    if bits is not None:
        most = MOST_BITS.get(suffix, 16)
        if bits > most:
            raise InputError(f"{suffix} holds at most {most} bits per pixel, not {bits}")
        image = to_bits(image, bits, rescale)
    elif suffix not in ANY_TYPE and image.dtype.kind != "b":
        own = 8 * image.dtype.itemsize if image.dtype.kind == "u" else 16
        image = to_bits(image, min(own, MOST_BITS[suffix]), rescale)
    if image.dtype.kind == "b" and suffix in (".jpg", ".jpeg"):
        raise InputError("a mask does not survive JPEG; save it as PNG or TIFF")
    return image.astype(np.uint8) if image.dtype.kind == "b" and suffix == ".jp2" else image


def writer(suffix: str) -> Callable[..., None]:
    """The function that writes pixels as they are to a file of this ending."""
    named: dict[str, Callable[..., None]] = {
        ".png": _write_png,
        ".jpg": _write_jpeg,
        ".jpeg": _write_jpeg,
        ".jp2": _write_jp2,
        ".npy": _write_npy,
        ".zarr": write_zarr,
    }
    return named.get(suffix, write_tiff)


def _write_png(
    path: Path, image: NDArray[Any], *, level: int = 6, compress_level: int | None = None
) -> None:
    import imagecodecs

    level = level if compress_level is None else compress_level
    if image.dtype.kind == "b":
        content = BytesIO()
        one_bit_image(image).save(content, "PNG", compress_level=level)
        write_atomically(path, content.getvalue())
        return
    encoded = imagecodecs.png_encode(np.ascontiguousarray(image), level=level)
    write_atomically(path, bytes(encoded))


def one_bit_image(mask: NDArray[np.bool_]) -> Any:
    """A Pillow image of mode 1 with the same pixels."""
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(mask, dtype=np.bool_))


def _write_jpeg(path: Path, image: NDArray[Any], *, quality: int = 95) -> None:
    import imagecodecs

    encoded = imagecodecs.jpeg_encode(np.ascontiguousarray(image), level=quality)
    write_atomically(path, bytes(encoded))


def _write_jp2(
    path: Path, image: NDArray[Any], *, tile: tuple[int, int] | None = (512, 512)
) -> None:
    write_atomically(path, encode_jp2(image, tile))


def _write_npy(path: Path, image: NDArray[Any]) -> None:
    content = BytesIO()
    np.save(content, image, allow_pickle=False)
    write_atomically(path, content.getvalue())


def write_zarr(path: Path, image: Any, **options: Any) -> None:
    """Write a zarr array, whole or not at all; a dask array is computed chunk by chunk.

    ``options`` of `zarr.create_array`; chunks of at most 1024 px where none are given.
    """
    import zarr

    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        chunks = options.pop("chunks", None) or tuple(min(n, 1024) or 1 for n in image.shape)
        array = zarr.create_array(
            str(folder / "new"), shape=image.shape, dtype=image.dtype, chunks=chunks, **options
        )
        if isinstance(image, np.ndarray):
            array[...] = image
        else:
            image.rechunk(array.shards or array.chunks).store(array, lock=False)
        if path.exists():
            path.rename(folder / "old")
        (folder / "new").rename(path)
        path.chmod(0o755)  # made private by mkdtemp; folders are for all to read
    finally:
        shutil.rmtree(folder)
