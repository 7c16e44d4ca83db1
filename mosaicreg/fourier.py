"""The transforms along one axis that registration is made of, as `scipy.fft` has them.

They are the compiled routines of scipy themselves, without the package around them (see
`mosaicreg.compiled`). Where a release of scipy has them no more, or elsewhere, the public functions
of `scipy.fft` are used, with the same results.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicreg.compiled import compiled_module

COMPILED = "scipy.fft._pocketfft.pypocketfft"

Transform = Callable[[NDArray[Any], int, int], NDArray[Any]]
"""(array, length, axis): padded with zeros or cut to the length along the axis, and transformed."""


class Transforms(NamedTuple):
    """Of float32 and complex64 arrays (or 64 and 128 bit), in their own precision; one core each.

    Args:
        rfft, fft, ifft, irfft: as the functions of `scipy.fft` of that name. The inverse ones may
            use their argument as they like.
        fast_length: the smallest length of real data, not below the given one, that is fast.
    """

    rfft: Transform
    fft: Transform
    ifft: Transform
    irfft: Transform
    fast_length: Callable[[int], int]


@cache
def transforms() -> Transforms:
    """Those of this process."""
    compiled = _compiled()
    return public() if compiled is None else direct(compiled)


def public() -> Transforms:
    """By the functions that scipy documents."""
    from scipy import fft

    return Transforms(
        rfft=fft.rfft,
        fft=fft.fft,
        ifft=lambda image, length, axis: fft.ifft(image, length, axis, overwrite_x=True),
        irfft=lambda image, length, axis: fft.irfft(image, length, axis, overwrite_x=True),
        fast_length=lambda least: fft.next_fast_len(least, real=True),
    )


def direct(compiled: Any) -> Transforms:
    """By the routines beneath these: (array, axes, [length,] forward, divisor, out, threads)."""
    no_division, by_length = 0, 2

    def fft(image: NDArray[Any], length: int, axis: int) -> Any:
        padded = _of_length(image, length, axis)
        made = None if np.may_share_memory(padded, image) else padded
        return compiled.c2c(padded, (axis,), True, no_division, made, 1)

    def ifft(image: NDArray[Any], length: int, axis: int) -> Any:
        image = _of_length(image, length, axis)
        return compiled.c2c(image, (axis,), False, by_length, image, 1)

    def rfft(image: NDArray[Any], length: int, axis: int) -> Any:
        return compiled.r2c(_of_length(image, length, axis), (axis,), True, no_division, None, 1)

    def irfft(image: NDArray[Any], length: int, axis: int) -> Any:
        image = _of_length(image, length // 2 + 1, axis)
        return compiled.c2r(image, (axis,), length, False, by_length, None, 1)

    return Transforms(rfft, fft, ifft, irfft, lambda least: compiled.good_size(least, True))


def _of_length(image: NDArray[Any], length: int, axis: int) -> NDArray[Any]:
    """Cut, or continued by zeros."""
    have, before = image.shape[axis], (slice(None),) * axis
    if have >= length:
        return image[*before, :length]
    padded = np.empty((*image.shape[:axis], length, *image.shape[axis + 1 :]), dtype=image.dtype)
    padded[*before, :have] = image
    padded[*before, have:] = 0
    return padded


def _compiled() -> Any | None:
    """The module of the compiled routines; None where there is none as it is known."""
    module = compiled_module(COMPILED)
    return module if module is not None and _is_as_known(module) else None


def _is_as_known(compiled: Any) -> bool:
    """Whether the routines are there, and take their arguments in the order that is known."""
    values = np.array([1, 0, -2, 0], dtype=np.float32)
    try:
        ours = direct(compiled)
        half = ours.rfft(values, 4, 0)
        turned = ours.fft(half, 4, 0)
        return bool(
            np.array_equal(half, [-1, 3, -1])
            and np.array_equal(ours.irfft(half.copy(), 4, 0), values)
            and np.allclose(turned, [1, -3j, -5, 3j], rtol=0, atol=1e-5)
            and np.allclose(ours.ifft(turned, 4, 0), [-1, 3, -1, 0], rtol=0, atol=1e-5)
            and ours.fast_length(7) == 8
        )
    except Exception:  # whatever a release to come may raise
        return False
