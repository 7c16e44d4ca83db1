"""Phase correlation of whole images, the documented way: pad, whiten, mask, find the peak.

The classical method (Kuglin & Hines 1975) with partial whitening. `mosaicreg.correlate` compares
the strips that can overlap and is faster and finer; this room is for a whole surface over all
circular shifts, with limits on the overlap. Real transforms throughout, float32 where the pixels
have no more than that.

A surface is circular with shift (0, 0) at index [0, 0], and its signs are those of
``conj(F_fixed) * F_moving``: a moving image whose pixel p lies at p + d in the fixed image peaks at
``-d``. A *centred* surface has shift (0, 0) at index ``N // 2`` of each axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.fft import fftshift, irfft2, next_fast_len, rfft2
from scipy.ndimage import gaussian_filter, label

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, power_of_two, size_for_overlap
from mosaicreg.noise import Statistics, noise_pixels
from mosaicreg.pixels import crop, working_type

Shape = tuple[int, int]
Surface = NDArray[np.floating[Any]]
Lengthen = Literal["fast", "power of two", "exact"]

WHITENING = 0.65
"""Exponent of the amplitude that spectra are divided by: 1 keeps the phase alone, 0 nothing less.

Below 1 the peak is broader and frequencies that hold only noise weigh less."""
CUTOFF = 0.995
"""Share of a surface that does not belong to its peaks."""
SMOOTH = 1.0
"""Gaussian in px that a surface is smoothed with before its peak is looked for.

A peak between pixels is spread over several; single pixels that stick out are chance. Measured on
simulated textures, it takes the error of the offset from 0.5 to 0.15 px at most."""


def padded_length(length: int, min_overlap: float, lengthen: Lengthen = "fast") -> int:
    """The length of one axis at which all shifts with this overlap are told apart.

    See `mosaicreg.geometry.size_for_overlap`. ``lengthen``: to the next length that transforms fast
    (some percent more), to the next power of two (up to twice the length), or not.
    """
    size = int(np.ceil(size_for_overlap(length, min_overlap) - 1e-9))
    if lengthen == "power of two":
        return power_of_two(size)
    return next_fast_len(size, real=True) if lengthen == "fast" else size


def pad_corner(shape: Shape, new_shape: Shape) -> Shape:
    """Where the first pixel of a padded image lies: centred, half pixels downwards."""
    return (new_shape[0] - shape[0]) // 2, (new_shape[1] - shape[1]) // 2


def pad_box(shape: Shape, new_shape: Shape) -> Box:
    """The padded image in the coordinates of the image.

    Raises:
        InputError: where the new shape is smaller than the image.
    """
    if new_shape[0] < shape[0] or new_shape[1] < shape[1]:
        raise InputError(f"an image of {shape} px cannot be padded to {new_shape} px")
    top, left = pad_corner(shape, new_shape)
    return Box.at((-top, -left), new_shape)


def padded_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of a padded image: floats as they are, whole numbers as floats that hold them."""
    return dtype if dtype.kind == "f" else working_type(dtype)


def pad(
    image: NDArray[Any],
    new_shape: Shape,
    stats: Statistics | None = None,
    seed: int | None = None,
) -> NDArray[Any]:
    """The image in the middle of noise of its own statistics.

    Args:
        image: (y, x).
        new_shape: of the result.
        stats: of the noise; those of the image where None.
        seed: of the noise; follows from the pixels where None, so that two padded images do not
            share their border, which would match perfectly.

    Returns:
        A copy as it is where the image has that shape already; else float32 (float64 where the
        image's type needs it), the image's own pixels unchanged in its middle.
    """
    shape = (image.shape[0], image.shape[1])
    box = pad_box(shape, new_shape)
    if new_shape == shape:
        return image.copy()
    dtype = padded_type(image.dtype)
    noise = noise_pixels(box, dtype, stats or Statistics.of(image), seed)
    return crop(image.astype(dtype), box, noise)


# --- correlation ---------------------------------------------------------------------------------


def spectrum(image: NDArray[Any]) -> NDArray[Any]:
    """Real transform of an image without its mean, (height, width // 2 + 1), complex.

    Raises:
        InputError: for NaN or infinite pixels, or an image that is not (y, x).
    """
    if image.ndim != 2 or image.size == 0:
        raise InputError(f"an image to correlate must be (height, width), not {image.shape}")
    values = image.astype(working_type(image.dtype))
    if not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise InputError(
            f"{bad} of the image's {image.size} pixels are NaN or infinite; fill them first"
        )
    values -= values.mean(dtype=np.float64).astype(values.dtype)
    transformed: NDArray[Any] = rfft2(values)
    return transformed


def phase_surface(
    fixed: NDArray[Any], moving: NDArray[Any], shape: Shape, whitening: float = WHITENING
) -> Surface:
    """Correlation of two images from their real transforms, for every circular shift.

    Each frequency of ``conj(fixed) * moving`` is divided by its amplitude to the power of
    ``whitening``, and the sum of all amplitudes that are left is made 1: a perfect match reaches 1
    exactly. All zeros where the images have no frequency in common (flat ones).

    Args:
        fixed, moving: as `spectrum` makes them.
        shape: of the images.
        whitening: 0 (cross-correlation) to 1 (phase alone).
    """
    if not 0 <= whitening <= 1:
        raise InputError(f"whitening is an exponent from 0 to 1, not {whitening}")
    product = np.conj(fixed) * moving
    size = np.abs(product)
    floor = (4 * np.finfo(size.dtype).eps) ** 2 * size.max(initial=0)
    weight = np.zeros_like(size)
    np.power(size, -whitening, where=size > floor, out=weight)
    product *= weight
    size *= weight
    # Columns of a real transform stand for two frequencies each, but the first and an even last.
    total = 2 * size.sum(dtype=np.float64) - size[:, 0].sum(dtype=np.float64)
    if shape[1] % 2 == 0:
        total -= size[:, -1].sum(dtype=np.float64)
    if total > 0:
        product *= product.real.dtype.type(shape[0] * shape[1] / total)
    surface: Surface = irfft2(product, s=shape)
    return surface


def overlap_mask(
    fixed: Shape, moving: Shape, surface: Shape, min_overlap: float = 0.0, max_overlap: float = 1.0
) -> NDArray[np.bool_] | None:
    """Which shifts of a centred surface make the images overlap by a share within limits.

    The share is the common area over the largest that the two sizes allow. Both images lie centre
    on centre at the surface's middle.

    Returns:
        None where every shift is allowed.

    Raises:
        InputError: where the limits leave nothing, or are not within 0 to 1.
    """
    if not 0 <= min_overlap < max_overlap <= 1:
        raise InputError(
            f"the overlap must be from a smaller to a larger share within 0 to 1, not "
            f"{min_overlap} to {max_overlap}"
        )
    if min_overlap == 0 and max_overlap == 1:
        return None
    shares = []
    for n_fixed, n_moving, length in zip(fixed, moving, surface, strict=True):
        shift = np.arange(length) - length // 2
        high = np.minimum(n_fixed / 2, shift + n_moving / 2)
        low = np.maximum(-n_fixed / 2, shift - n_moving / 2)
        shares.append(np.maximum(high - low, 0) / min(n_fixed, n_moving))
    share = np.multiply.outer(*shares)
    slack = 1e-9
    mask: NDArray[np.bool_] = (share >= min_overlap - slack) & (share <= max_overlap + slack)
    return mask


# --- peak ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peak:
    """The strongest response of a centred surface.

    Args:
        offset: (y, x) that the moving image is to be moved by, px, to a fraction of one.
        weight: height above the mean of the rest, in standard deviations of the rest; 0 for none.
    """

    offset: tuple[float, float]
    weight: float


def find_peak(
    surface: Surface, mask: NDArray[np.bool_] | None = None, cutoff: float = CUTOFF
) -> Peak:
    """The highest allowed point of a centred surface, after smoothing it by `SMOOTH`.

    Its place is refined by a parabola through the neighbours of each axis. Its component is what is
    connected with it (8 neighbours, the surface being a torus) above the ``cutoff`` quantile; the
    weight compares the peak with everything allowed outside that. Of equal peaks the first, row by
    row, is taken.

    Raises:
        InputError: for values that are not finite, shapes that differ, or a cutoff outside 0 to 1.
    """
    if mask is not None and mask.shape != surface.shape:
        raise InputError(f"a mask of {mask.shape} for a surface of {surface.shape}")
    if not 0 <= cutoff <= 1:
        raise InputError(f"the cutoff is a quantile from 0 to 1, not {cutoff}")
    if not np.isfinite(surface).all():
        raise InputError("the correlation holds values that are NaN or infinite")
    allowed = surface.ravel() if mask is None else surface[mask]
    if allowed.size == 0 or allowed.min() == allowed.max():
        return Peak((0.0, 0.0), 0.0)
    surface = gaussian_filter(surface, SMOOTH, mode="wrap", truncate=3)
    allowed = surface.ravel() if mask is None else surface[mask]
    candidates = surface if mask is None else np.where(mask, surface, -np.inf)
    y, x = (int(k) for k in np.unravel_index(int(candidates.argmax()), surface.shape))
    top = float(surface[y, x])
    rank = int(cutoff * (allowed.size - 1))
    threshold = np.partition(allowed, rank)[rank]
    rest = ~_component(candidates >= threshold, (y, x))
    if mask is not None:
        rest &= mask
    others = surface[rest]
    spread = float(others.std(dtype=np.float64)) if others.size else 0.0
    weight = (top - float(others.mean(dtype=np.float64))) / spread if spread > 0 else 0.0
    place = _vertex(surface, (y, x))
    offset = tuple(n // 2 - p for n, p in zip(surface.shape, place, strict=True))
    return Peak((offset[0], offset[1]), weight)


def _component(above: NDArray[np.bool_], seed: tuple[int, int]) -> NDArray[np.bool_]:
    """The connected part of ``above`` that holds ``seed``, on a torus."""
    middle = (above.shape[0] // 2, above.shape[1] // 2)
    move = (middle[0] - seed[0], middle[1] - seed[1])
    # With the peak in the middle its component does not cross the edge, however near it was.
    labels, _ = label(np.roll(above, move, (0, 1)), np.ones((3, 3)))
    own = labels == labels[middle]
    return np.roll(own, (-move[0], -move[1]), (0, 1))


def _vertex(surface: Surface, top: tuple[int, int]) -> tuple[float, float]:
    """``top`` with the vertex of the parabola through it and its neighbours, axis by axis."""
    place = []
    for axis, k in enumerate(top):
        line = surface[:, top[1]] if axis == 0 else surface[top[0]]
        low, middle, high = (float(line[(k + step) % len(line)]) for step in (-1, 0, 1))
        curve = low - 2 * middle + high
        place.append(k + (0.5 * (low - high) / curve if curve < 0 else 0.0))
    return place[0], place[1]


def correlate_images(
    fixed: NDArray[Any],
    moving: NDArray[Any],
    min_overlap: float = 0.0,
    max_overlap: float = 1.0,
    whitening: float = WHITENING,
    seed: int | None = None,
) -> Peak:
    """The offset, centre to centre, of two images of any shape.

    Images of one shape are correlated as they are, circularly; others are padded with noise to one
    shape at which every shift with at least ``min_overlap`` is told apart.
    """
    fixed_shape, moving_shape = fixed.shape[:2], moving.shape[:2]
    shape = fixed.shape
    if fixed_shape != moving_shape:
        largest = [max(a, b) for a, b in zip(fixed_shape, moving_shape, strict=True)]
        shape = (padded_length(largest[0], min_overlap), padded_length(largest[1], min_overlap))
        fixed, moving = (_standardised(image, shape, seed) for image in (fixed, moving))
    return correlate_spectra(
        spectrum(fixed),
        spectrum(moving),
        (shape[0], shape[1]),
        (fixed_shape, moving_shape),
        (min_overlap, max_overlap),
        whitening,
    )


def _standardised(image: NDArray[Any], shape: Shape, seed: int | None) -> NDArray[Any]:
    """Padded, after the pixels that cannot be padded with are named."""
    if image.ndim != 2 or not np.isfinite(image).all():
        spectrum(image)
    return pad(image, shape, None, seed)


def correlate_spectra(
    fixed: NDArray[Any],
    moving: NDArray[Any],
    shape: Shape,
    image_shapes: tuple[Shape, Shape],
    overlap: tuple[float, float] = (0.0, 1.0),
    whitening: float = WHITENING,
) -> Peak:
    """The offset, centre to centre, of two images that were padded to one ``shape``.

    Args:
        fixed, moving: as `spectrum` makes them.
        shape: of the padded images.
        image_shapes: of the fixed and the moving image before they were padded by `pad`.
        overlap: least and largest share.
        whitening: as in `phase_surface`.
    """
    mask = overlap_mask(*image_shapes, shape, *overlap)
    surface = phase_surface(fixed, moving, shape, whitening)
    peak = find_peak(fftshift(surface), mask)
    if peak.weight == 0:
        return peak
    # Padding centres images to whole pixels only; what is measured are the padded arrays.
    n_fixed, n_moving = (np.array(s) for s in image_shapes)
    to_fixed, to_moving = (np.array(pad_corner(s, shape)) for s in image_shapes)
    exact = np.array(peak.offset) + to_moving + (n_moving - 1) / 2 - to_fixed - (n_fixed - 1) / 2
    return Peak((float(exact[0]), float(exact[1])), peak.weight)
