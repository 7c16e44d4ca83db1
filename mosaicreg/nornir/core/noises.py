"""Noise in place of pixels. The same seed, or none and the same image, gives the same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg import lazy, noise, phase
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box
from mosaicreg.noise import Statistics
from mosaicreg.nornir.core.sizes import NearestPowerOfTwoWithOverlap
from mosaicreg.nornir.inputs import as_image, whole_number

Rng = int | np.random.Generator | None


def GenRandomData(
    height: int,
    width: int,
    mean: float,
    standardDev: float,
    min_val: float,
    max_val: float,
    *,
    rng: Rng = None,
) -> NDArray[np.float32]:
    """`mosaicreg.noise.noise_pixels`: float32 Gaussian noise held to ``min_val .. max_val``."""
    if not min_val <= max_val:
        raise InputError(f"noise from {min_val} to {max_val} cannot be")
    stats = Statistics(float(mean), float(standardDev), float(min_val), float(max_val), 1)
    box = Box.at((0, 0), (whole_number(height, "height"), whole_number(width, "width")))
    return noise.noise_pixels(box, np.dtype(np.float32), stats, noise.as_seed(rng))


def RandomNoiseMask(
    image: Any,
    Mask: Any,
    ImageMedian: float | None = None,
    ImageStdDev: float | None = None,
    Copy: bool = False,
    *,
    rng: Rng = None,
    out: Any = None,
) -> Any:
    """`mosaicreg.noise.fill_masked`: noise where the mask is 0.

    Args:
        image, Mask: of one shape; dask and zarr arrays are filled lazily.
        ImageMedian, ImageStdDev: of the noise; those of the unmasked pixels where None.
        Copy: of no effect: the image is never changed, unless it is also given as ``out``.
        rng: seed of the noise; follows from the pixels where None.
        out: an array in memory to write the result to.
    """
    source, mask = as_image(image), as_image(Mask)
    if source.shape != mask.shape:
        raise InputError(f"a mask of shape {mask.shape} for an image of shape {source.shape}")
    keep, seed = mask != 0, noise.as_seed(rng)
    if lazy.is_lazy(source):
        keep = lazy.as_lazy(keep)
        stats = lazy.given(lazy.statistics(source, keep), ImageMedian, ImageStdDev, source.dtype)
        return lazy.fill_masked(source, keep, stats, seed)
    keep = np.asarray(keep)
    own = Statistics.of(source, keep).given(ImageMedian, ImageStdDev, source.dtype)
    filled = noise.fill_masked(source, keep, own, seed)
    if out is None:
        return filled
    out[...] = filled
    return out


def ReplaceImageExtramaWithNoise(
    image: Any,
    ImageMedian: float | None = None,
    ImageStdDev: float | None = None,
    *,
    rng: Rng = None,
    size_cutoff: float = 0.0,
) -> Any:
    """`mosaicreg.noise.replace_extrema`: noise for every pixel of the smallest or largest value.

    Args:
        image: dask and zarr arrays are filled lazily.
        ImageMedian, ImageStdDev: of the noise; those of the other pixels where None.
        rng: seed of the noise; follows from the pixels where None.
        size_cutoff: only connected regions of at least this share of the image; in memory only.
    """
    source, seed = as_image(image), noise.as_seed(rng)
    if not lazy.is_lazy(source):
        return noise.replace_extrema(source, ImageMedian, ImageStdDev, seed, size_cutoff)
    if size_cutoff:
        raise InputError("regions of a chunked image are not connected across chunks; "
                         "compute it first, or leave size_cutoff out")  # fmt: skip
    return lazy.replace_extrema(source, ImageMedian, ImageStdDev, seed)


def PadImageForPhaseCorrelation(
    image: Any,
    MinOverlap: float = 0.05,
    ImageMedian: float | None = None,
    ImageStdDev: float | None = None,
    NewWidth: int | None = None,
    NewHeight: int | None = None,
    PowerOfTwo: bool = True,
    *,
    rng: Rng = None,
) -> Any:
    """`mosaicreg.phase.pad`: the image in the middle of noise of its own statistics.

    Args:
        image: dask and zarr arrays are padded lazily.
        MinOverlap: the least overlap to be told, 0 to 1: decides the new size.
        ImageMedian, ImageStdDev: of the noise; those of the image where None.
        NewWidth, NewHeight: the new size itself.
        PowerOfTwo: enlarge to powers of two.
        rng: seed of the noise; follows from the pixels where None.
    """
    source, seed = as_image(image), noise.as_seed(rng)
    sizes = [
        whole_number(given, "the new size")
        if given is not None
        else NearestPowerOfTwoWithOverlap(n, MinOverlap)
        if PowerOfTwo
        else phase.padded_length(n, MinOverlap, "exact")
        for given, n in zip((NewHeight, NewWidth), source.shape, strict=True)
    ]
    shape = (sizes[0], sizes[1])
    if lazy.is_lazy(source):
        return lazy.pad(source, shape, ImageMedian, ImageStdDev, seed)
    stats = Statistics.of(source).given(ImageMedian, ImageStdDev, source.dtype)
    return phase.pad(source, shape, stats, seed)
