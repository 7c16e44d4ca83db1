"""`find_offset` beside the documented procedure done plainly: CPU time and error.

    python benchmarks/find_offset.py

Pairs of 1024 x 1024 px cut from a simulated specimen at known offsets, with photon and read noise.
The documented procedure: each image in the middle of 2048 x 2048 px of Gaussian noise of its own
median and deviation, two complex transforms, partial whitening (exponent 0.65), one transform back,
range to 0 to 1, everything below the 0.995 quantile to 0, connected components labelled, the one of
the largest sum, its centre of mass. Both run in turn, pair by pair, in one process; CPU
seconds are the medians. ``FindOffset`` is the documented name as mosaicreg has it.
"""

from __future__ import annotations

import platform
import time

import numpy as np
from scipy.ndimage import center_of_mass, label
from scipy.ndimage import sum as label_sum

import mosaicreg
import mosaicreg.nornir as nornir_imageregistration
from mosaicreg.synthetic import Camera, Specimen

SIDE, PADDED = 1024, 2048
SHIFTS = (
    (10.0, -17.0),
    (120.25, 44.5),
    (-380.75, 12.3),
    (512.0, 256.6),
    (0.4, 0.7),
    (-90.1, -600.2),
    (300.5, 300.5),
)
MIN_OVERLAP = 0.05


def plain(fixed: np.ndarray, moving: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """The documented procedure, as its documents tell it."""
    spectra = []
    for image in (fixed, moving):
        values = image.astype(np.float64)
        noise = rng.normal(np.median(values), values.std(), (PADDED, PADDED))
        padded = np.clip(noise, values.min(), values.max())
        start = (PADDED - SIDE) // 2
        padded[start : start + SIDE, start : start + SIDE] = values
        spectra.append(np.fft.fft2(padded - padded.mean()))
    product = np.conj(spectra[0]) * spectra[1]
    size = np.abs(product)
    product[size > 1e-5] /= size[size > 1e-5] ** 0.65
    surface = np.fft.fftshift(np.fft.ifft2(product).real)
    surface = (surface - surface.min()) / (surface.max() - surface.min())
    shift = np.abs(np.arange(PADDED) - PADDED // 2)
    share = np.clip(SIDE - shift, 0, None) / SIDE
    mask = np.multiply.outer(share, share) >= MIN_OVERLAP
    surface[~mask] = 0
    surface[surface < np.quantile(surface[mask], 0.995)] = 0
    labels, count = label(surface)
    sums = label_sum(surface, labels, np.arange(1, count + 1))
    y, x = center_of_mass(surface, labels, int(np.argmax(sums)) + 1)
    return PADDED / 2 - y, PADDED / 2 - x


def native(fixed: np.ndarray, moving: np.ndarray, _: np.random.Generator) -> tuple[float, float]:
    """What mosaicreg does."""
    return mosaicreg.find_offset(fixed, moving).peak


def documented(
    fixed: np.ndarray, moving: np.ndarray, _: np.random.Generator
) -> tuple[float, float]:
    """The documented names, as mosaicreg has them."""
    padded = [
        nornir_imageregistration.PadImageForPhaseCorrelation(v, MIN_OVERLAP)
        for v in (fixed, moving)
    ]
    record = nornir_imageregistration.FindOffset(
        *padded, MIN_OVERLAP, FixedImageShape=fixed.shape, MovingImageShape=moving.shape
    )
    return record.peak


METHODS = {"plain": plain, "find_offset": native, "FindOffset": documented}


def measure(shifts=SHIFTS) -> dict[str, tuple[float, np.ndarray]]:
    """CPU seconds (median) and errors in px of each method over the same pairs."""
    specimen, camera, rng = Specimen(seed=7, empty=0.0), Camera(), np.random.default_rng(0)
    fixed = camera.record(specimen.render((0.0, 0.0), (SIDE, SIDE)), rng)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    errors: dict[str, list[float]] = {name: [] for name in METHODS}
    for method in METHODS.values():
        method(fixed, fixed[::-1], rng)  # plans and pages that every later call finds ready
    for shift in shifts:
        moving = camera.record(specimen.render(shift, (SIDE, SIDE)), rng)
        for name, method in METHODS.items():
            start = time.process_time()
            found = method(fixed, moving, rng)
            seconds[name].append(time.process_time() - start)
            errors[name].append(float(np.hypot(*np.subtract(found, shift))))
    return {name: (float(np.median(seconds[name])), np.array(errors[name])) for name in METHODS}


def main() -> None:
    """Print one row per method."""
    print(
        f"mosaicreg {mosaicreg.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}"
    )
    results = measure()
    base = results["plain"][0]
    for name, (seconds, error) in results.items():
        print(
            f"{name:<12} CPU {seconds:.3f} s, {base / seconds:5.1f} times as fast, error median "
            f"{np.median(error):.3f} px, largest {error.max():.3f} px"
        )


if __name__ == "__main__":
    main()
