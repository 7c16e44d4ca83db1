"""CPU of each hot function, in milliseconds, the least of several runs.

    python benchmarks/hot.py [--side 1024] [NAME ...]

The cases have the form that asv takes (`setup`, `time_...`); `tests/test_benchmarks.py` runs each
of them small, so that they cannot rot.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2
from threadpoolctl import threadpool_limits

from mosaicreg import Mosaic, assemble, find_offset, stage_layout
from mosaicreg.correlate import match_strips
from mosaicreg.geometry import Box, TileGrid
from mosaicreg.render import Placed, place, render_block
from mosaicreg.shards import halve
from mosaicreg.strips import flatten, plan_search, stabilise
from mosaicreg.subpixel import fit_near
from mosaicreg.surface import correlation_surface
from mosaicreg.synthetic import Acquisition, Specimen


class Pair:
    """Two neighbours with a tenth of overlap, as registration compares them."""

    def setup(self, side: int) -> None:
        acquisition = Acquisition(
            grid=(1, 2), tile=(side, side), stage_error=side / 90, specimen=Specimen(2, 0.1)
        )
        self.tiles = [acquisition.tile_image(k) for k in (0, 1)]
        expected = acquisition.stage[1] - acquisition.stage[0]
        reach = max(16, side // 20)
        search = plan_search((side, side), (side, side), tuple(expected), (reach, reach))
        assert search is not None
        self.search = search
        self.strips = [
            image[box.slices]
            for image, box in zip(self.tiles, (search.fixed, search.moving), strict=True)
        ]
        stable = [stabilise(strip) for strip in self.strips]
        assert stable[0] is not None
        assert stable[1] is not None
        self.stable = (stable[0], stable[1])
        self.flat = tuple(flatten(strip) for strip in self.stable)
        self.shift = acquisition.truth[1] - acquisition.truth[0] - search.origin

    def time_match(self) -> None:
        assert match_strips(*self.strips, self.search) is not None

    def time_stabilise(self) -> None:
        stabilise(self.strips[0])

    def time_flatten(self) -> None:
        flatten(self.stable[0])

    def time_surface(self) -> None:
        correlation_surface(*self.flat, np.array(self.search.first), np.array(self.search.last))

    def time_fit(self) -> None:
        assert fit_near(*self.stable, self.shift + 0.3, 3.0, 2, fine=True) is not None

    def time_bare_fft_correlation(self) -> None:
        """The least: one real transform each way of the two strips, at a fast length."""
        size = [next_fast_len(n, real=True) for n in self.flat[0].shape]
        product = rfft2(self.flat[0], size)
        product *= np.conj(rfft2(self.flat[1], size))
        irfft2(product, size)


class WholePair:
    """`find_offset` of two whole images (find_offset.py puts the documented procedure beside)."""

    def setup(self, side: int) -> None:
        specimen = Specimen(3, 0.0)
        rng = np.random.default_rng(0)
        self.shift = (side * 0.07 + 0.3, side * 0.8 + 0.6)
        self.images = [
            specimen.render(corner, (side, side)) + rng.normal(0, 30, (side, side))
            for corner in ((0.0, 0.0), self.shift)
        ]

    def time_find_offset(self) -> None:
        peak = find_offset(*self.images).peak
        assert np.abs(np.subtract(peak, self.shift)).max() < 0.1, peak


class Block:
    """One output block of four tiles, linear interpolation and blending."""

    def setup(self, side: int) -> None:
        rng = np.random.default_rng(0)
        self.placed = []
        for y, x in ((0.3, 0.4), (0.2, 0.9 * side), (0.9 * side, 0.1), (0.9 * side, 0.9 * side)):
            owned, offset = place(np.array([y, x]), (side, side), "linear")
            pixels = rng.integers(0, 60000, (side, side), dtype=np.uint16)
            self.placed.append(Placed(owned, offset, Box(0, 0, side, side), pixels))
        self.box = Box(0, 0, int(1.9 * side), int(1.9 * side))
        self.image = self.placed[0].pixels

    def time_render(self) -> None:
        render_block(self.box, self.placed, (), np.dtype(np.uint16))

    def time_halve(self) -> None:
        halve(self.image)


class Window:
    """The first window of a mosaic of 100 x 100 tiles: a graph, and the tiles that it touches."""

    def setup(self, side: int) -> None:
        tile = np.full((side, side), 7, dtype=np.uint16)
        grid = np.stack(np.divmod(np.arange(10_000), 100), axis=1) * (0.9 * side)
        self.side = side
        self.mosaic = Mosaic.from_arrays([tile] * len(grid), grid)

    def time_first_window(self) -> None:
        image = assemble(self.mosaic, stage_layout(self.mosaic), block=self.side)
        window = image[: self.side, : self.side].compute(scheduler="sync")
        assert (window == 7).all()


class Archive:
    """One shard of 4 x 4 chunks compressed."""

    def setup(self, side: int) -> None:
        self.pixels = Specimen(2, 0.0).render((0.0, 0.0), (side, side)).astype(np.uint16)

    def time_encode(self) -> None:
        from mosaicreg.chunks import compress, join

        chunk = (len(self.pixels) // 4,) * 2
        grid = TileGrid(self.pixels.shape, chunk)
        parts = {at: compress(self.pixels[grid.box(*at).slices], chunk) for at in np.ndindex(4, 4)}
        assert join(parts, (4, 4))


CASES = (Pair, WholePair, Block, Window, Archive)


def measure(side: int, times: int, wanted: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """Name and least CPU milliseconds of each case."""
    for case in CASES:
        instance = case()
        ready = False
        for method in (m for m in dir(case) if m.startswith("time_")):
            name = f"{case.__name__}.{method.removeprefix('time_')}"
            if wanted and not any(w in name for w in wanted):
                continue
            if not ready:
                instance.setup(side)
                ready = True
            spent = []
            for _ in range(times):
                with threadpool_limits(1):
                    start = time.process_time()
                    getattr(instance, method)()
                    spent.append(time.process_time() - start)
            yield name, min(spent) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=1024, help="of the tiles, px")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("names", nargs="*", help="parts of the names of cases; all if none")
    options = parser.parse_args()
    for name, spent in measure(options.side, options.times, tuple(options.names)):
        print(f"{name:<28} {spent:10.2f} ms", flush=True)


if __name__ == "__main__":
    main()
