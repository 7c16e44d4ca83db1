"""Phase correlation, peaks, and the offset of two images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg import noise, phase
from mosaicreg.alignment import AlignmentRecord
from mosaicreg.errors import InputError
from mosaicreg.nornir.inputs import as_pixels
from mosaicreg.phase import CUTOFF, WHITENING

Shape = tuple[int, int]


def FFTPhaseCorrelation(
    FFTFixed: Any, FFTMoving: Any, delete_input: bool = False, *, whitening: float = WHITENING
) -> NDArray[Any]:
    """`mosaicreg.phase.phase_surface` of two full transforms (``fft2``) of real images.

    Args:
        FFTFixed, FFTMoving: of one shape.
        delete_input: of no effect: nothing of the input is kept or changed.
        whitening: exponent of the amplitude to divide by; 1 keeps the phase alone.

    Returns:
        The surface with no shift at [0, 0]; a perfect match reaches 1.
    """
    fixed, moving, shape = _half_spectra(FFTFixed, FFTMoving)
    return phase.phase_surface(fixed, moving, shape, whitening)


def ImagePhaseCorrelation(
    FixedImage: Any, MovingImage: Any, *, whitening: float = WHITENING
) -> NDArray[Any]:
    """`mosaicreg.phase.phase_surface` of two images of one shape, no shift at [0, 0]."""
    fixed, moving = as_pixels(FixedImage), as_pixels(MovingImage)
    _same_shape(fixed, moving)
    spectra = phase.spectrum(fixed), phase.spectrum(moving)
    return phase.phase_surface(*spectra, (fixed.shape[0], fixed.shape[1]), whitening)


def FindPeak(
    image: Any, OverlapMask: Any = None, Cutoff: float | None = None
) -> tuple[NDArray[np.float64], float]:
    """`mosaicreg.phase.find_peak`: offset (y, x) from the middle, and how far the peak stands out.

    Args:
        image: a correlation with no shift in its middle (``fftshift``).
        OverlapMask: where the peak may be.
        Cutoff: quantile, 0 to 1, above which pixels belong to a peak; 0.995 where None.

    Returns:
        What to move the moving image by, px, and the height in standard deviations of the rest.
    """
    mask = None if OverlapMask is None else np.asarray(OverlapMask) != 0
    peak = phase.find_peak(as_pixels(image), mask, CUTOFF if Cutoff is None else Cutoff)
    return np.array(peak.offset), peak.weight


def FindOffset(
    FixedImage: Any,
    MovingImage: Any,
    MinOverlap: float = 0.0,
    MaxOverlap: float = 1.0,
    FFT_Required: bool = True,
    FixedImageShape: Any = None,
    MovingImageShape: Any = None,
    *,
    whitening: float = WHITENING,
    rng: int | np.random.Generator | None = None,
) -> AlignmentRecord:
    """`mosaicreg.phase.correlate_spectra`: how the moving image lies on the fixed one.

    `mosaicreg.find_offset` is faster and finer, and `mosaicreg.find_offsets` maps it over pairs.

    Args:
        FixedImage, MovingImage: images, padded by `PadImageForPhaseCorrelation` to one shape.
            Images of different shapes are padded here.
        MinOverlap, MaxOverlap: share of the smaller image that may overlap.
        FFT_Required: False where both are full transforms already.
        FixedImageShape, MovingImageShape: before they were padded; what the overlap counts.
        whitening: see `FFTPhaseCorrelation`.
        rng: seed of the noise that images of different shapes are padded with.

    Returns:
        A record whose peak is the vector from centre to centre, px, and whose weight is 0 where
        there is nothing to match.
    """
    overlap = (float(MinOverlap), float(MaxOverlap))
    if FFT_Required:
        fixed, moving = as_pixels(FixedImage), as_pixels(MovingImage)
        if fixed.shape != moving.shape:
            seed = noise.as_seed(rng)
            found = phase.correlate_images(fixed, moving, *overlap, whitening, seed)
            return AlignmentRecord(found.offset, found.weight)
        shape = fixed.shape
        spectra = phase.spectrum(fixed), phase.spectrum(moving)
    else:
        first, second, shape = _half_spectra(FixedImage, MovingImage)
        spectra = first, second
    shapes = _plane(FixedImageShape, shape), _plane(MovingImageShape, shape)
    found = phase.correlate_spectra(*spectra, (shape[0], shape[1]), shapes, overlap, whitening)
    return AlignmentRecord(found.offset, found.weight)


def _plane(given: Any, padded: Any) -> Shape:
    height, width = padded if given is None else (int(n) for n in given)
    if height > padded[0] or width > padded[1]:
        raise InputError(f"images of {(height, width)} px cannot have been padded to {padded} px")
    return height, width


def _half_spectra(fixed: Any, moving: Any) -> tuple[NDArray[Any], NDArray[Any], Shape]:
    """The columns that a real transform has, of two full transforms of real images."""
    one, other = np.asarray(fixed), np.asarray(moving)
    _same_shape(one, other)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise InputError("the transforms hold values that are NaN or infinite")
    half = one.shape[1] // 2 + 1
    return one[:, :half], other[:, :half], (one.shape[0], one.shape[1])


def _same_shape(fixed: NDArray[Any], moving: NDArray[Any]) -> None:
    if fixed.ndim != 2 or fixed.shape != moving.shape:
        raise InputError(
            f"images to correlate must have one shape (height, width), not {fixed.shape} and "
            f"{moving.shape}"
        )
