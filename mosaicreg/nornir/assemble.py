"""nornir_imageregistration's ``assemble``: one image warped into the space of another.

Images are paths, numpy, dask or zarr arrays. Paths and numpy arrays give numpy arrays; dask and
zarr arrays give lazy dask arrays, one task per output block. Arrays, points, sizes are (Y, X).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg import lazy, pixels
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, as_pair
from mosaicreg.imagefile import read_header
from mosaicreg.irtools import Stos, read_stos
from mosaicreg.lazy import is_lazy
from mosaicreg.nornir.core import SaveImage
from mosaicreg.nornir.inputs import as_image, existing, is_path
from mosaicreg.sampling import Order
from mosaicreg.transforms import Transform, parse_transform
from mosaicreg.warping import map_region, target_region, warp

__all__ = [
    "DestinationROI_to_SourceROI",
    "ExtractRegion",
    "FixedImageToWarpedSpace",
    "ParameterToStosTransform",
    "SourceROI_to_DestinationROI",
    "TransformImage",
    "TransformStos",
    "TransformedRegion",
    "WarpedImageToFixedSpace",
]


def DestinationROI_to_SourceROI(
    transform: Transform, botleft: Any, area: Any, extrapolate: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where the pixels of a region of the fixed image come from.

    Stands for `mosaicreg.warping.map_region`, which works block by block.

    Args:
        transform: from warped (source) to fixed (target) space.
        botleft: (Y, X) of the region's first pixel; fractions are honoured.
        area: (Height, Width), whole numbers above 0.
        extrapolate: map points outside a mesh, too; else they are left out of both arrays.

    Returns:
        (target, source), (n, 2) each: the pixels' places in the region, int64, row by row, and
        their positions in the warped image, float64.

    Raises:
        InputError: for an area that is not two whole numbers above 0.
    """
    index, points = _region_points(transform, botleft, area, extrapolate, to_source=True)
    return index, points


def SourceROI_to_DestinationROI(
    transform: Transform, botleft: Any, area: Any, extrapolate: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Where the pixels of a region of the warped image go.

    Stands for `mosaicreg.warping.map_region` with ``to_source=False``; arguments as in
    `DestinationROI_to_SourceROI`, with ``botleft`` in warped space.

    Returns:
        (target, source), (n, 2) each: positions in the fixed image, float64, and the pixels' places
        in the region, int64.
    """
    index, points = _region_points(transform, botleft, area, extrapolate, to_source=False)
    return points, index


def _region_points(
    transform: Transform, botleft: Any, area: Any, extrapolate: bool, *, to_source: bool
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    shape = _area(area)
    y, x = (float(v) for v in np.ravel(botleft))
    whole = np.empty((*shape, 2))
    for box, points in map_region(
        transform, (y, x), shape, to_source=to_source, extrapolate=extrapolate
    ):
        whole[box.slices] = points
    rows, columns = np.indices(shape)
    index = np.stack([rows.ravel(), columns.ravel()], axis=1)
    points = whole.reshape(-1, 2)
    known = np.isfinite(points).all(axis=1)
    return index[known], points[known]


def ExtractRegion(image: Any, botleft: Any = None, area: Any = None, cval: Any = 0) -> Any:
    """A region of an image; what lies outside the image is ``cval``.

    Stands for `mosaicreg.pixels.crop` and `mosaicreg.lazy.crop`.

    Args:
        image: path or array.
        botleft: (Y, X) of the first pixel, whole numbers; (0, 0) where None.
        area: (Height, Width); the rest of the image where None.
        cval: a number that fits the image's type.
    """
    source = as_image(image)
    y, x = (0, 0) if botleft is None else as_pair(np.ravel(botleft), "botleft")
    rest = (max(0, source.shape[0] - y), max(0, source.shape[1] - x))
    box = Box.at((y, x), rest if area is None else as_pair(np.ravel(area), "area"))
    if is_lazy(source):
        return lazy.crop(lazy.as_lazy(source), box, cval)
    return pixels.crop(source, box, cval)


def WarpedImageToFixedSpace(
    transform: Transform,
    FixedImageArea: Any,
    DataToTransform: Any,
    botleft: Any = None,
    area: Any = None,
    cval: Any = None,
    extrapolate: bool = False,
    *,
    order: Order | None = None,
) -> Any:
    """Warped images in the space of the fixed image.

    Stands for `mosaicreg.warping.warp`. A pixel is mapped where it comes from within half a pixel
    of the image; all others are ``cval``.

    Args:
        transform: from warped to fixed space.
        FixedImageArea: (Height, Width) of the fixed image; None: as much as the image covers
            (`TransformedRegion` says where that begins).
        DataToTransform: an image, or a list of them.
        botleft: (Y, X) of the region to map, in fixed space; (0, 0) where None.
        area: (Height, Width) of the region; ``FixedImageArea`` where None.
        cval: value of pixels that are not mapped, one number or one for each image; 0 where None.
        extrapolate: map what lies outside a mesh, too.
        order: 0, 1 or 3, see `mosaicreg.sampling.Order`; 0 for masks, else 1, where None.

    Returns:
        One array of the image's dtype for one image, a list for a list.
    """
    return _warped(
        transform, FixedImageArea, DataToTransform, botleft, area, cval, extrapolate, order
    )


def FixedImageToWarpedSpace(
    transform: Transform,
    WarpedImageArea: Any,
    DataToTransform: Any,
    botleft: Any = None,
    area: Any = None,
    cval: Any = None,
    extrapolate: bool = False,
    *,
    order: Order | None = None,
) -> Any:
    """Fixed images in the space of the warped image.

    Stands for `mosaicreg.warping.warp` with the transform's inverse; arguments as in
    `WarpedImageToFixedSpace`, with region and area in warped space.
    """
    back = _checked(transform).inverse()
    return _warped(back, WarpedImageArea, DataToTransform, botleft, area, cval, extrapolate, order)


def TransformedRegion(transform: Transform, image: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """((Y, X), (Height, Width)) of the whole pixels that a transformed image covers.

    Not one of the documented names: `WarpedImageToFixedSpace` maps this region where it is told
    neither an area nor a corner.
    """
    return target_region(_checked(transform), as_image(image).shape)


def _warped(
    transform: Transform,
    whole: Any,
    data: Any,
    botleft: Any,
    area: Any,
    cval: Any,
    extrapolate: bool,
    order: Order | None,
) -> Any:
    images = list(data) if isinstance(data, list | tuple) else [data]
    fills = cval if isinstance(cval, Sequence | np.ndarray) else [cval] * len(images)
    if len(fills) != len(images):
        raise InputError(f"{len(images)} images with {len(fills)} values of cval")
    results = []
    for image, fill in zip(images, fills, strict=True):
        source = as_image(image)
        first, shape = botleft, area if area is not None else whole
        if shape is None:
            first, shape = target_region(_checked(transform), source.shape)
        y, x = (0.0, 0.0) if first is None else (float(v) for v in np.ravel(first))
        value = 0 if fill is None else fill
        results.append(
            warp(source, _checked(transform), _area(shape), origin=(y, x),
                 extrapolate=extrapolate, order=order, fill=value)
        )  # fmt: skip
    return results if isinstance(data, list | tuple) else results[0]


def ParameterToStosTransform(transformData: Any) -> Transform:
    """The transform that a .stos file, a `Stos`, a transform's text or a transform stands for.

    Stands for `mosaicreg.irtools.read_stos` and `mosaicreg.transforms.parse_transform`. Of a .stos,
    the transform between pixels of the stored images: its flips and pixel sizes are in it.

    Raises:
        InputError: (a ValueError) for a missing file or text that cannot be read.
        TypeError: for anything else.
    """
    if isinstance(transformData, Transform):
        return transformData
    if isinstance(transformData, Stos):
        return transformData.pixel_transform
    if isinstance(transformData, str) and "_double_2_2" in transformData:
        return parse_transform(transformData)
    if isinstance(transformData, str | Path):
        return _stos(transformData).pixel_transform
    raise TypeError(
        f"a .stos file, Stos, transform or its text is expected, not {type(transformData).__name__}"
    )


def _stos(path: str | Path) -> Stos:
    try:
        return read_stos(path)
    except FileNotFoundError as error:
        raise InputError(str(error)) from None


def TransformImage(
    transform: Transform,
    fixedImageShape: Any,
    warpedImage: Any,
    CropUndefined: bool,
    *,
    order: Order | None = None,
    cval: float = 0,
) -> Any:
    """The warped image in fixed space.

    Stands for `mosaicreg.warping.warp`.

    Args:
        transform: from warped to fixed space.
        fixedImageShape: (Height, Width) of the result.
        warpedImage: the image.
        CropUndefined: True leaves what lies outside a mesh ``cval``; False continues the mesh.
        order: 0, 1 or 3, see `mosaicreg.sampling.Order`.
        cval: value of pixels that are not mapped.

    Returns:
        Array of ``fixedImageShape`` and the image's dtype.
    """
    return warp(
        as_image(warpedImage),
        _checked(transform),
        _area(fixedImageShape),
        extrapolate=not CropUndefined,
        order=order,
        fill=cval,
    )


def TransformStos(
    transformData: Any,
    OutputFilename: Any = None,
    fixedImage: Any = None,
    warpedImage: Any = None,
    scalar: float = 1.0,
    CropUndefined: bool = False,
    *,
    use_masks: bool = False,
    order: Order | None = None,
) -> Any:
    """The warped image of a .stos in the space, and of the size, of its fixed image.

    Stands for `mosaicreg.irtools.read_stos` and `mosaicreg.warping.warp`.

    Args:
        transformData: path of a .stos, a `Stos`, a transform or its text.
        OutputFilename: image file to write, too.
        fixedImage: path or array of which only the size counts; that of the .stos where None.
        warpedImage: path or array; that of the .stos where None.
        scalar: coordinates of the transform are multiplied by it, for images of that scale.
        CropUndefined: True leaves what lies outside a mesh 0; False continues the mesh.
        use_masks: leave 0 where the masks of the .stos are.
        order: 0, 1 or 3, see `mosaicreg.sampling.Order`.

    Raises:
        FileNotFoundError: where an image or mask is not there.
        InputError: where nothing says which images are meant, or the .stos cannot be read.
    """
    stos = None
    if isinstance(transformData, Stos):
        stos = transformData
    elif isinstance(transformData, str | Path) and "_double_2_2" not in str(transformData):
        stos = _stos(transformData)
    transform = ParameterToStosTransform(stos or transformData)
    transform = transform if scalar == 1 else transform.scaled(scalar)
    fixed = _given(fixedImage, stos, "fixed")
    source = as_image(_given(warpedImage, stos, "moving"))
    shape = _size(fixed)
    result = warp(source, transform, shape, extrapolate=not CropUndefined, order=order)
    if use_masks:
        result = _masked(result, transform, stos, shape, not CropUndefined)
    if OutputFilename is not None:
        SaveImage(OutputFilename, result)
    return result


def _masked(
    image: Any, transform: Transform, stos: Stos | None, shape: tuple[int, int], extrapolate: bool
) -> Any:
    if stos is None or stos.fixed.mask is None or stos.moving.mask is None:
        raise InputError("use_masks needs a .stos that names masks")
    own = as_image(existing(stos.resolved(stos.moving.mask))) != 0
    fixed = as_image(existing(stos.resolved(stos.fixed.mask))) != 0
    if fixed.shape != tuple(shape):
        raise InputError(f"the fixed mask is {fixed.shape}, the fixed image {tuple(shape)}")
    seen = warp(own, transform, shape, extrapolate=extrapolate) & fixed
    return image * seen.astype(image.dtype)


def _given(image: Any, stos: Stos | None, which: str) -> Any:
    """An image as given, or that of the .stos."""
    if image is None:
        if stos is None:
            raise InputError(f"which {which} image? a transform alone names none")
        image = stos.resolved((stos.fixed if which == "fixed" else stos.moving).path)
    return existing(image) if is_path(image) else image


def _size(image: Any) -> tuple[int, int]:
    if is_path(image):
        image = read_header(Path(image), any_type=True)
    height, width = image.shape[-2:]
    return int(height), int(width)


def _area(value: Any) -> tuple[int, int]:
    shape = as_pair(np.ravel(value), "the area (Height, Width)")
    if min(shape) < 1:
        raise InputError(f"an area has a height and width above 0, not {shape}")
    return shape


def _checked(transform: Any) -> Transform:
    if not isinstance(transform, Transform):
        raise InputError(f"a transform is expected, not {type(transform).__name__}")
    return transform
