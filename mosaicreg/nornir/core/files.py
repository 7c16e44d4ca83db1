"""Image files: load, save, shrink, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg import lazy, noise, pixels
from mosaicreg.cluster import delayed_call, run_tasks
from mosaicreg.errors import ImageError, InputError
from mosaicreg.imagefile import is_bilevel, write_atomically
from mosaicreg.imagesave import load_grey, one_bit_image, save_grey, write_zarr
from mosaicreg.jpeg2000 import encode_jp2
from mosaicreg.nornir.core.noises import RandomNoiseMask
from mosaicreg.nornir.core.sizes import ScalarForMaxDimension
from mosaicreg.nornir.inputs import as_image, as_pixels, existing


def LoadImage(
    ImageFullPath: Any,
    ImageMaskFullPath: Any = None,
    MaxDimension: float | None = None,
    dtype: Any = None,
    *,
    remove_extrema: bool = False,
    rng: int | np.random.Generator | None = None,
) -> NDArray[Any]:
    """`mosaicreg.imagesave.load_grey`: the image as (height, width). Lazily: `mosaicreg.open_lazy`.

    Args:
        ImageFullPath, ImageMaskFullPath: paths or arrays; noise is put where the mask is 0.
        MaxDimension: shrink the image so that no side is longer.
        dtype: None: the file's own. Floats: whole numbers divided by the largest of the file's
            type, so equal pixels of two files stay equal. Whole numbers: only where all values fit.
        remove_extrema: put noise in place of the smallest and largest values too.
        rng: seed of the noise.
    """
    image = pixels.to_grey(as_pixels(ImageFullPath))
    seed = noise.as_seed(rng)
    if ImageMaskFullPath is not None:
        mask = pixels.to_grey(as_pixels(ImageMaskFullPath))
        image = RandomNoiseMask(image, mask, rng=seed)
    if remove_extrema:
        image = noise.replace_extrema(image, seed=seed)
    if dtype is not None:
        image = _as_type(image, np.dtype(dtype))
    if MaxDimension is not None:
        scale = ScalarForMaxDimension(MaxDimension, [image.shape])
        image = pixels.resize(image, scale) if scale < 1 else image
    return image


def _as_type(image: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return pixels.to_unit(image, dtype)
    if dtype.kind == "b":
        return np.asarray(image != 0)
    info = np.iinfo(dtype)
    whole = image.dtype.kind != "f" or bool((image == np.rint(image)).all())
    if image.size and not (whole and info.min <= image.min() and image.max() <= info.max):
        raise InputError(
            f"pixels from {image.min()} to {image.max()} of type {image.dtype} do not fit into "
            f"{dtype}; load them as they are and convert with SaveImage(..., rescale=True)"
        )
    return image.astype(dtype)


def SaveImage(ImageFullPath: Any, image: Any, bpp: int | None = None, **kwargs: Any) -> None:
    """`mosaicreg.imagesave.save_grey`: grey, without stretching; refuses what would change values.

    Args:
        ImageFullPath: its ending names the format. A dask or zarr array saved as ``.zarr`` is
            written chunk by chunk.
        image: whole numbers, a mask, or floats (from 0 to 1 where the file holds whole numbers).
        bpp: 1, 8 or 16; None: what the type has.
        kwargs: of the format; ``rescale=True`` scales whole numbers to fewer bits.
    """
    path = Path(ImageFullPath)
    source = as_image(image)
    if lazy.is_lazy(source) and path.suffix.lower() == ".zarr" and bpp is None:
        write_zarr(path, source, **kwargs)
        return
    save_grey(path, np.asarray(source), bpp, **kwargs)


def SaveImage_JPeg2000(ImageFullPath: Any, image: Any, tile_dim: Any = None) -> None:
    """`mosaicreg.jpeg2000.encode_jp2`: 8 bits, or 16 for uint16, without loss.

    ``tile_dim`` (height, width), 512 each where None.
    """
    grey = pixels.to_grey(as_pixels(image))
    kept = grey if grey.dtype == np.uint16 else pixels.to_bits(grey, 8)
    write_atomically(Path(ImageFullPath), encode_jp2(kept, tile_dim or (512, 512)))


def Shrink(InFile: Any, OutFile: Any, Scalar: float, **kwargs: Any) -> None:
    """`mosaicreg.lazy.resize` from file to file; large images are read block by block.

    ``kwargs`` go to `SaveImage`. With a scale of 1 and the same ending the file is copied.
    """
    source, target = existing(InFile), Path(OutFile)
    if Scalar == 1 and source.suffix == target.suffix and source.is_file() and not kwargs:
        write_atomically(target, source.read_bytes())
        return
    if is_bilevel(source):
        image: Any = pixels.resize(load_grey(source), Scalar)
    else:
        opened = lazy.open_lazy(source)
        while opened.ndim > 2:
            opened = opened[0]
        image = lazy.resize(opened, Scalar)
    SaveImage(target, image, **kwargs)


def ConvertImagesInDict(
    ImagesToConvertDict: Any,
    Flip: bool = False,
    Flop: bool = False,
    InputBpp: int | None = None,
    OutputBpp: int | None = None,
    Invert: bool = False,
    bDeleteOriginal: bool = False,
    RightLeftShift: Any = None,
    AndValue: int | None = None,
    MinMax: Any = None,
    Gamma: float | None = None,
) -> bool:
    """Convert image files, {input: output}, one dask task each.

    In this order: bits shifted right, then left (``RightLeftShift``), and masked (``AndValue``);
    ``Flip`` up-down, ``Flop`` left-right; levels stretched from ``MinMax`` (pixel values; None: the
    type's limit); ``Gamma``; ``Invert``; rounded to ``OutputBpp`` bits.

    Args:
        ImagesToConvertDict: paths.
        InputBpp, OutputBpp: bits per pixel; those of each input file where None.
        bDeleteOriginal: delete an input once its output, at another path, is written.

    Returns:
        True where there was something to convert.

    Raises:
        InputError: with all files that could not be converted; the others are.
    """
    if not ImagesToConvertDict:
        return False
    if MinMax is not None and None not in MinMax and not MinMax[0] < MinMax[1]:
        raise InputError(f"MinMax must be a smaller and a larger value, not {MinMax}")
    if Gamma is not None and not Gamma > 0:
        raise InputError(f"Gamma must be above 0, not {Gamma}")
    options = (Flip, Flop, InputBpp, OutputBpp, Invert, RightLeftShift, AndValue, MinMax, Gamma)
    tasks = [
        delayed_call(_convert_file, str(source), str(target), bDeleteOriginal, options)
        for source, target in ImagesToConvertDict.items()
    ]
    problems = [problem for problem in run_tasks(tasks, "convert") if problem]
    if problems:
        raise InputError(f"{len(problems)} of {len(tasks)} images were not converted", problems)
    return True


def _convert_file(source: str, target: str, delete: bool, options: tuple[Any, ...]) -> str:
    """Empty, or why it was not converted."""
    try:
        save_grey(Path(target), _converted(load_grey(existing(source)), *options))
    except (InputError, ImageError, OSError, ValueError) as error:
        text = str(error)
        return text if source in text else f"{source}: {text}"
    if delete and Path(source).resolve() != Path(target).resolve():
        Path(source).unlink()
    return ""


def _converted(
    image: NDArray[Any],
    flip: bool,
    flop: bool,
    input_bits: int | None,
    output_bits: int | None,
    invert: bool,
    shift: Any,
    keep: int | None,
    levels: Any,
    gamma: float | None,
) -> NDArray[Any]:
    own = 1 if image.dtype.kind == "b" else 16 if image.dtype.kind == "f" else _bits(image)
    top = 1.0 if image.dtype.kind == "f" else float(2 ** (input_bits or own) - 1)
    if (shift is not None or keep is not None) and image.dtype.kind != "u":
        raise InputError(f"bits of {image.dtype} pixels cannot be shifted or masked")
    if shift is not None:
        image = (image >> image.dtype.type(shift[0])) << image.dtype.type(shift[1])
    if keep is not None:
        image = image & image.dtype.type(keep)
    image = image[::-1] if flip else image
    image = image[:, ::-1] if flop else image
    low, high = levels or (None, None)
    low, high = (0.0 if low is None else float(low)), (top if high is None else float(high))
    if not low < high:
        raise InputError(f"levels from {low} to {high} cannot be stretched")
    unit = np.clip((image.astype(np.float64) - low) / (high - low), 0, 1)
    if gamma is not None:
        unit **= 1 / gamma
    return pixels.to_bits(1 - unit if invert else unit, output_bits or own)


def _bits(image: NDArray[Any]) -> int:
    if image.dtype.kind == "u" and image.dtype.itemsize <= 2:
        return 8 * image.dtype.itemsize
    raise InputError(f"pixels of type {image.dtype} need InputBpp and OutputBpp")


def OneBit_img_from_bool_array(data: Any) -> Any:
    """`mosaicreg.imagesave.one_bit_image`: a Pillow image of mode ``1``, size (width, height)."""
    return one_bit_image(as_pixels(data))


def uint16_img_from_uint16_array(data: Any) -> Any:
    """A Pillow image of mode ``I`` with the same values."""
    from PIL import Image

    values = as_pixels(data)
    if values.dtype != np.uint16:
        raise InputError(f"pixels must be uint16, not {values.dtype}")
    return Image.fromarray(values.astype(np.int32))


def uint16_img_from_float_array(image: Any) -> Any:
    """A Pillow image of mode ``I``: values 0 to 1, others clipped, as 0 to 65535, rounded."""
    values = as_pixels(image)
    if np.isnan(values).any():
        raise InputError("pixels that are NaN have no 16-bit value")
    return uint16_img_from_uint16_array(pixels.to_bits(np.clip(values, 0.0, 1.0), 16))
