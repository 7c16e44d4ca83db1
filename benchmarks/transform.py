"""CPU of warping an image, as multiples of a bare copy and of scipy's affine_transform.

    python benchmarks/transform.py [--side 4096]

Prints one line per transform: CPU seconds, the ratio, and the bound that the project keeps to.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from mosaicreg.transforms import Mesh, Rigid, Translation
from mosaicreg.warping import warp


def cpu(work: Callable[[], object], times: int) -> float:
    """The least CPU seconds of several runs."""
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4096)
    side = parser.parse_args().side
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (side, side), dtype=np.uint8)
    middle = (side / 2, side / 2)
    rigid = Rigid((3.3, 5.1), np.deg2rad(10), middle)
    back = rigid.inverse()
    matrix, offset = back.parts[0], back.transform((0, 0))[0]
    lattice = np.linspace(0, side - 1, 10)
    points = np.stack(np.meshgrid(lattice, lattice, indexing="ij"), axis=-1).reshape(-1, 2)
    mesh = Mesh(points, points + rng.normal(0, side / 200, points.shape))
    shape = (side, side)
    copy = cpu(image.copy, 20)
    affine = cpu(lambda: ndimage.affine_transform(image, matrix, offset, order=1), 3)
    print(f"{side} x {side} px uint8, order 1; copy {copy:.4f} s, affine_transform {affine:.3f} s")
    for name, transform, base, times, bound in (
        ("translation by whole px / copy", Translation((10, -20)), copy, 20, 2.0),
        (
            "fractional translation / affine_transform",
            Translation((9.5, 3.2)),
            affine,
            3,
            1.2,
        ),
        ("rigid / affine_transform", rigid, affine, 3, 1.2),
        ("mesh of 100 points / affine_transform", mesh, affine, 3, 2.0),
    ):
        spent = cpu(lambda t=transform: warp(image, t, shape), times)  # type: ignore[misc]
        print(f"{name:50s} {spent:8.4f} s  {spent / base:5.2f}  (at most {bound})")


if __name__ == "__main__":
    main()
