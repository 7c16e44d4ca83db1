"""Cutting and converting one image: crop with fill, grey, range 0 to 1, size, bit depth.

Pure functions on (y, x) arrays; none changes its input, and none changes a value silently.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box

Sizes = tuple[int, int]


def checked_fill(dtype: np.dtype[Any], fill: Any) -> Any:
    """``fill`` as a pixel of this type.

    Raises:
        InputError: where the type has no such value.
    """
    try:
        value = float(fill)
    except (TypeError, ValueError):
        raise InputError(f"the fill value must be a number, not {fill!r}") from None
    if dtype.kind == "f":
        return dtype.type(fill)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not (low <= value <= high and value == int(value)):
        raise InputError(f"the fill value {fill} does not fit into pixels of type {dtype}")
    return dtype.type(int(fill))


def crop(image: NDArray[Any], box: Box, fill: Any = 0) -> NDArray[Any]:
    """The pixels of ``box`` as a new array; what lies outside the image is ``fill``.

    Args:
        image: (y, x).
        box: may reach outside, or lie outside altogether.
        fill: a number that fits the image's type, or an array of the box's shape.

    Raises:
        InputError: where ``fill`` does not fit.
    """
    if isinstance(fill, np.ndarray) and fill.ndim == 2:
        out = fill.astype(image.dtype)
    else:
        out = np.full(box.shape, checked_fill(image.dtype, fill), dtype=image.dtype)
    common = box.intersection(Box.at((0, 0), (image.shape[0], image.shape[1])))
    if common is not None:
        out[common.shifted(-box.y0, -box.x0).slices] = image[common.slices]
    return out


def to_grey(image: NDArray[Any], weights: Any = None) -> NDArray[Any]:
    """(y, x) of an image (y, x) or (y, x, samples), in its own type.

    Args:
        image: grey, or with samples last.
        weights: of each sample, e.g. (0.299, 0.587, 0.114) for luminance. None: the first sample,
            which is the grey value where all samples are alike.

    Raises:
        InputError: for another number of axes, or weights that do not match the samples.
    """
    if image.ndim == 2:
        return image
    if image.ndim != 3:
        raise InputError(f"an image of shape {image.shape} is not (height, width[, samples])")
    if weights is None:
        return image[:, :, 0]
    share = np.asarray(weights, dtype=np.float64)
    if share.shape != image.shape[2:]:
        raise InputError(f"{share.size} weights for an image of {image.shape[2]} samples")
    return _cast(image @ share, image.dtype)


def normalise_range(image: NDArray[Any], low: float, high: float) -> NDArray[Any]:
    """``(image - low) / (high - low)``, and zeros where low and high are the same.

    float32 for types of up to 16 bits and float32, float64 for others.
    """
    dtype = working_type(image.dtype)
    if not low < high:
        return np.zeros(image.shape, dtype=dtype)
    out = image.astype(np.float64)
    out -= low
    out /= high - low
    return out.astype(dtype, copy=False)


def working_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The float type that holds all values of ``dtype``: float32 where that is enough."""
    small = dtype.kind == "b" or dtype.itemsize <= 2 or dtype == np.float32
    return np.dtype(np.float32 if small else np.float64)


# --- size ----------------------------------------------------------------------------------------


def resized_shape(shape: Sizes, scale: float | tuple[float, float]) -> Sizes:
    """(height, width) after scaling by one number or (y, x): rounded, halves to even, at least 1.

    Raises:
        InputError: for a scale that is not positive and finite.
    """
    pair = np.broadcast_to(np.asarray(scale, dtype=np.float64), 2)
    if not (np.isfinite(pair).all() and (pair > 0).all()):
        raise InputError(f"a scale must be a positive number or two (y, x), not {scale!r}")
    return max(1, round(shape[0] * float(pair[0]))), max(1, round(shape[1] * float(pair[1])))


def source_span(start: int, stop: int, length: int, new_length: int) -> tuple[int, int]:
    """First and end input pixel that output pixels ``start .. stop`` of one axis are made of."""
    if new_length <= length:
        return start * length // new_length, -(-stop * length // new_length)
    first = int(np.floor((start + 0.5) * length / new_length - 0.5))
    last = int(np.floor((stop - 0.5) * length / new_length - 0.5)) + 1
    return max(0, first), min(length, last + 1)


def _weights(start: int, stop: int, length: int, new_length: int) -> csr_array[Any]:
    """Sparse (stop - start, span) matrix of one axis: means of areas, or linear interpolation."""
    first, end = source_span(start, stop, length, new_length)
    out = np.arange(start, stop)
    if new_length <= length:
        # Each output pixel is the mean of the input that it covers; in whole numbers, so exact.
        low, high = out * length, (out + 1) * length
        begin = low // new_length
        taps = begin[:, None] + np.arange(-(-length // new_length) + 1)
        covered = np.minimum(high[:, None], (taps + 1) * new_length)
        covered -= np.maximum(low[:, None], taps * new_length)
        value = np.maximum(covered, 0) / length
    else:
        place = (out + 0.5) * length / new_length - 0.5
        begin = np.floor(place).astype(np.int64)
        taps = begin[:, None] + np.arange(2)
        value = np.stack([1 - (place - begin), place - begin], axis=1)
    taps = np.clip(taps, 0, length - 1)
    rows = np.repeat(np.arange(len(out)), taps.shape[1])
    keep = value.ravel() > 0
    cells = (rows[keep], taps.ravel()[keep] - first)
    return csr_array((value.ravel()[keep], cells), shape=(len(out), end - first))


def resize_window(window: NDArray[Any], box: Box, shape: Sizes, new_shape: Sizes) -> NDArray[Any]:
    """The part ``box`` of an image of ``shape`` resized to ``new_shape``.

    ``window`` holds the input rows and columns `source_span` names. Every output pixel is made by
    the same arithmetic, whatever the window. Computed in float64, rounded for whole numbers.
    """
    rows = _weights(box.y0, box.y1, shape[0], new_shape[0])
    cols = _weights(box.x0, box.x1, shape[1], new_shape[1])
    out = (cols @ (rows @ window.astype(np.float64)).T).T
    return _cast(np.asarray(out), window.dtype)


def resize(image: NDArray[Any], scale: float | tuple[float, float]) -> NDArray[Any]:
    """The image scaled by one number or (y, x), of its own type.

    Shrinking takes the mean over the area that each new pixel covers, so nothing aliases; enlarging
    interpolates linearly between pixel centres. Shape as `resized_shape` says.

    Raises:
        InputError: for a scale that is not positive, or an image that is not (y, x).
    """
    if image.ndim != 2:
        raise InputError(f"an image of shape {image.shape} is not (height, width)")
    shape = (image.shape[0], image.shape[1])
    new_shape = resized_shape(shape, scale)
    return resize_window(image, Box.at((0, 0), new_shape), shape, new_shape)


# --- bit depth -----------------------------------------------------------------------------------


def _cast(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Floats as pixels of ``dtype``: rounded and clipped to what it holds; bool from 0.5 on."""
    if dtype.kind == "b":
        return np.asarray(values >= 0.5)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = np.clip(np.rint(values), info.min, info.max)
    return values.astype(dtype)


def dtype_maximum(dtype: np.dtype[Any]) -> float:
    """The value that stands for full brightness: the largest whole number, or 1."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def to_unit(image: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Pixels as floats of ``dtype``, whole numbers divided by the largest of their type.

    By the type, not by the image's own maximum: equal pixels of two tiles stay equal.
    """
    if image.dtype.kind == "f":
        return image.astype(dtype)
    return (image / dtype_maximum(image.dtype)).astype(dtype)


def to_bits(image: NDArray[Any], bits: int, rescale: bool = False) -> NDArray[Any]:
    """The image as bool (1), uint8 (8) or uint16 (16); whole numbers keep their values.

    Args:
        image: bool, whole numbers, or floats from 0 to 1, which become ``round(x * maximum)``.
        bits: 1, 8 or 16. Whole numbers that need fewer bits are not made larger than their type.
        rescale: whole numbers of a larger type may be scaled from their type's range to the new.

    Raises:
        InputError: where a value would not survive.
    """
    if bits not in (1, 8, 16):
        raise InputError(f"images are saved with 1, 8 or 16 bits per pixel, not {bits}")
    target = np.dtype({1: np.bool_, 8: np.uint8, 16: np.uint16}[bits])
    top = {1: 1, 8: 255, 16: 65535}[bits]
    if image.dtype.kind == "b":
        return image if bits == 1 else image.astype(np.uint8)
    if image.size == 0:
        return image.astype(target)
    low, high = image.min(), image.max()
    if image.dtype.kind == "f":
        slack = 0.5 / top
        if not (low >= -slack and high <= 1 + slack):
            raise InputError(
                f"floating-point pixels from {low:g} to {high:g} cannot be saved with {bits} bits: "
                "only 0 to 1 can; normalise the image first, or save it as TIFF, .npy or zarr"
            )
        return np.clip(np.rint(image * np.float64(top)), 0, top).astype(target)
    if rescale and dtype_maximum(image.dtype) > top:
        unit = np.maximum(image, 0) / dtype_maximum(image.dtype)
        return np.asarray(np.rint(unit * top), dtype=target)
    if low < 0 or high > top:
        raise InputError(
            f"pixels from {low} to {high} do not fit into {bits} bits; save with more bits, or "
            "give rescale=True to scale the type's range"
        )
    return image if image.dtype == np.uint8 and bits == 16 else image.astype(target)


def quantile(image: NDArray[Any], share: float) -> float:
    """The value that ``share`` (0 to 1) of the finite pixels do not exceed, linearly interpolated.

    Raises:
        InputError: for a share outside 0 to 1, or no finite pixel.
    """
    if not 0 <= share <= 1:
        raise InputError(f"a share of the pixels is from 0 to 1, not {share}")
    values = image[np.isfinite(image)]
    if values.size == 0:
        raise InputError("the image has no finite pixel")
    return float(np.quantile(values, share))
