"""Simulated specimens and acquisitions with known truth.

A `Specimen` is an endless plane of tissue that can be looked at anywhere, at any sub-pixel offset:
it is a sum of cubic B-spline noise fields whose coefficients are hashed from a seed and the lattice
position, so a tile is computed alone, from nothing else, and always the same. An `Acquisition` puts
tiles on a grid with stage error, shading and camera noise, and remembers the true positions. Its
mosaic computes tiles when they are read: a million of them need no disk.

Demo, README, tests and benchmarks draw their images from here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array
from scipy.special import ndtri

from mosaicreg.geometry import Box, FloatArray, IntArray
from mosaicreg.imagefile import write_tiff
from mosaicreg.journal import short_digest
from mosaicreg.mosaic import Mosaic, as_names
from mosaicreg.mosaicfile import PositionTable, write_positions
from mosaicreg.source import Lead

Image = NDArray[np.float32]

_OCTAVES = ((2.6, 0.30), (5.5, 0.32), (12.0, 0.36), (29.0, 0.42), (70.0, 0.5))
"""Spacing in px and relative amplitude of the tissue's texture, fine to coarse."""

_FIELD_SD = 0.46
"""Standard deviation of a B-spline field of unit-variance coefficients, averaged over the plane:
the sum over a lattice cell of the squared cubic basis, per axis 151/315, for two axes."""


@dataclass(frozen=True)
class Specimen:
    """Tissue of textured cytoplasm and nuclei on an empty slide.

    Args:
        seed: another seed, another specimen.
        empty: share of the plane without tissue, 0 to 1.
        background: counts of the empty slide.
        signal: counts of typical tissue above the background.
        residue: texture left on the empty slide, relative to tissue.
        lattice: how much of the tissue is a regular array of dots, 0 to 1.
        period: distance of the dots, px.
    """

    seed: int = 0
    empty: float = 0.25
    background: float = 280.0
    signal: float = 1400.0
    residue: float = 0.015
    lattice: float = 0.0
    period: float = 23.0

    def render(self, corner: tuple[float, float], shape: tuple[int, int]) -> Image:
        """Expected counts at pixel centres ``corner + (i, j)``: float32 of ``shape``.

        ``corner`` (y, x) may be any real numbers: shifts are exact, nothing is resampled.
        """
        tissue = self.tissue(corner, shape)
        texture = np.zeros(shape, dtype=np.float32)
        for octave, (spacing, amplitude) in enumerate(_OCTAVES):
            texture += amplitude / _FIELD_SD * self._field(octave + 10, spacing, corner, shape)
        texture = np.exp(np.float32(0.6) * texture)
        presence = np.float32(self.residue) + np.float32(1 - self.residue) * tissue
        image = texture * np.float32(0.45) + self._nuclei(corner, shape)
        if self.lattice:
            image *= np.float32(1 - self.lattice)
            image += np.float32(2 * self.lattice) * self._dots(corner, shape)
        counts: Image = np.float32(self.background) + np.float32(self.signal) * presence * image
        return counts

    def tissue(self, corner: tuple[float, float], shape: tuple[int, int]) -> Image:
        """How much tissue lies at each pixel, 0 (empty slide) to 1: float32 of ``shape``."""
        if self.empty <= 0:
            return np.ones(shape, dtype=np.float32)
        coarse = self._field(1, 420.0, corner, shape) + 0.5 * self._field(2, 160.0, corner, shape)
        level = ndtri(min(self.empty, 1 - 1e-9)) * _FIELD_SD * np.hypot(1.0, 0.5)
        edge = (coarse - np.float32(level)) * np.float32(14.0)
        tissue: Image = (1 / (1 + np.exp(-np.clip(edge, -30, 30)))).astype(np.float32)
        return tissue

    def _field(
        self, stream: int, spacing: float, corner: tuple[float, float], shape: tuple[int, int]
    ) -> Image:
        """Cubic B-spline noise of unit-variance coefficients, one every ``spacing`` pixels."""
        rows, y_first, y_count = _spline_basis(corner[0] / spacing, 1 / spacing, shape[0])
        cols, x_first, x_count = _spline_basis(corner[1] / spacing, 1 / spacing, shape[1])
        lattice = _hash(
            self.seed,
            stream,
            y_first + np.arange(y_count)[:, None],
            x_first + np.arange(x_count)[None, :],
        )
        coefficients = (np.sqrt(12.0) * (_uniform(lattice) - 0.5)).astype(np.float32)
        values: Image = (cols @ (rows @ coefficients).T).T
        return values

    def _dots(self, corner: tuple[float, float], shape: tuple[int, int]) -> Image:
        """A square lattice of soft dots, 0 to 1."""
        axes = []
        for start, count in zip(corner, shape, strict=True):
            phase = 2 * np.pi * (start + np.arange(count)) / self.period
            axes.append(((0.5 + 0.5 * np.cos(phase)) ** 4).astype(np.float32))
        dots: Image = np.multiply.outer(*axes)
        return dots

    def _nuclei(self, corner: tuple[float, float], shape: tuple[int, int]) -> Image:
        """Soft bright ellipses, at most one per lattice cell of 44 px, jittered."""
        cell, reach = 44.0, 16
        out = np.zeros(shape, dtype=np.float32)
        first = np.floor((np.array(corner) - reach) / cell).astype(np.int64)
        last = np.floor((np.array(corner) + shape + reach) / cell).astype(np.int64)
        i, j = np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(first, last, strict=True)))
        i, j = i.ravel(), j.ravel()
        draws = [_uniform(_hash(self.seed, 3 + k, i, j)) for k in range(6)]
        here = draws[0] < 0.55
        i, j = i[here], j[here]
        _, jy, jx, size, turn, glow = (d[here] for d in draws)
        y, x = (i + 0.2 + 0.6 * jy) * cell - corner[0], (j + 0.2 + 0.6 * jx) * cell - corner[1]
        for k in range(len(i)):
            self._add_nucleus(out, (y[k], x[k]), 4 + 5 * size[k], np.pi * turn[k], 0.5 + glow[k])
        return out

    @staticmethod
    def _add_nucleus(
        out: Image, centre: tuple[float, float], radius: float, angle: float, glow: float
    ) -> None:
        y0, x0 = (max(0, int(c) - 15) for c in centre)
        y1, x1 = (min(n, int(c) + 17) for c, n in zip(centre, out.shape, strict=True))
        if y1 <= y0 or x1 <= x0:
            return
        dy = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(centre[0])
        dx = np.arange(x0, x1, dtype=np.float32)[None, :] - np.float32(centre[1])
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        r = np.sqrt((c * dy - s * dx) ** 2 + np.float32(1.9) * (s * dy + c * dx) ** 2)
        out[y0:y1, x0:x1] += np.float32(glow) / (1 + np.exp((r - np.float32(radius)) * 2))


def _spline_basis(start: float, step: float, count: int) -> tuple[csr_array, int, int]:
    """Cubic B-spline weights of samples ``start + step * i`` as a (count, knots) matrix.

    Returns the matrix, the lattice index of its first column, and the number of columns.
    """
    t = start + step * np.arange(count)
    base = np.floor(t).astype(np.int64)
    f = t - base
    weights = np.stack(
        [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3], axis=1
    )
    first = int(base[0]) - 1
    columns = base[:, None] + np.arange(-1, 3) - first
    knots = int(columns.max()) + 1
    pointers = np.arange(0, 4 * count + 1, 4)
    data = (weights / 6).astype(np.float32).ravel()
    return csr_array((data, columns.ravel(), pointers), shape=(count, knots)), first, knots


def _hash(seed: int, stream: int, i: IntArray, j: IntArray) -> NDArray[np.uint64]:
    """64 well-mixed bits for each lattice point (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        start = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream)
        z = np.array(start)
        for part in (i, j):
            z = z + part.astype(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
    return np.asarray(z)


def _uniform(bits: NDArray[np.uint64]) -> FloatArray:
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Camera:
    """How a tile is recorded.

    Args:
        read_noise: counts rms added to every pixel.
        shot_noise: add noise of variance equal to the counts (the normal limit of Poisson).
        vignetting: loss of light in the corners relative to the centre, 0 to 1.
        blur: standard deviation in px of a Gaussian point spread.
        gain: spread of each tile's gain around 1, standard deviation.
        hot_pixels: share of the pixels that always read the maximum, at the same places.
        dead_columns: how many columns always read 0.
        fixed_pattern: counts rms of a pattern that is the same in all tiles.
        full_well: counts above which pixels saturate.
        dtype: integer type of the pixels; values are rounded and clipped to its range.
    """

    read_noise: float = 30.0
    shot_noise: bool = True
    vignetting: float = 0.12
    blur: float = 0.0
    gain: float = 0.0
    hot_pixels: float = 0.0
    dead_columns: int = 0
    fixed_pattern: float = 0.0
    full_well: float = np.inf
    dtype: str = "uint16"

    def record(self, scene: Image, rng: np.random.Generator) -> NDArray[Any]:
        """One exposure of ``scene`` (expected counts, float32) as an array of ``dtype``."""
        height, width = scene.shape
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        gain = np.float32(1 + self.gain * rng.standard_normal())
        light = scene * (gain * (1 - np.float32(self.vignetting / 2) * (y * y + x * x)))
        variance = np.float32(self.read_noise**2) + (np.maximum(light, 0) if self.shot_noise else 0)
        light = light + np.sqrt(variance) * rng.standard_normal(scene.shape, dtype=np.float32)
        self._add_defects(light)
        info = np.iinfo(self.dtype)
        top = min(float(info.max), self.full_well)
        pixels: NDArray[Any] = np.clip(np.rint(light), info.min, top).astype(self.dtype)
        return pixels

    def _add_defects(self, light: Image) -> None:
        """What is wrong with this camera, the same in every exposure."""
        rng = np.random.default_rng(7)
        if self.fixed_pattern:
            light += np.float32(self.fixed_pattern) * rng.standard_normal(light.shape, np.float32)
        if self.hot_pixels:
            light[rng.random(light.shape, np.float32) < self.hot_pixels] = np.inf
        light[:, rng.choice(light.shape[1], self.dead_columns, replace=False)] = 0


CLEAN = Camera(read_noise=0.0, shot_noise=False, vignetting=0.0)
"""A perfect camera: tiles differ from the specimen by rounding only."""


@dataclass(frozen=True)
class Acquisition:
    """A grid of tiles taken by an inaccurate stage.

    Args:
        grid: (rows, columns).
        tile: (height, width) in px.
        overlap: nominal overlap of neighbours, a fraction of the tile.
        stage_error: each true position differs from the stage's word by up to this many px per
            axis, uniformly.
        subpixel: whole-pixel true positions where False.
        backlash: every second row lies this many px further right than the stage says.
        drift: px per axis that the stage slips from tile to tile, in the order of acquisition.
        camera_angle: degrees by which the camera is turned against the stage.
        pixel_error: by which share pixels are smaller than the stage believes.
        blank: share of the tiles without any specimen.
        missing: share of the tiles that were not taken.
        specimen, camera: what is seen and how.
        seed: of stage errors and noise.
    """

    grid: tuple[int, int] = (4, 5)
    tile: tuple[int, int] = (512, 512)
    overlap: float = 0.1
    stage_error: float = 12.0
    subpixel: bool = True
    backlash: float = 0.0
    drift: float = 0.0
    camera_angle: float = 0.0
    pixel_error: float = 0.0
    blank: float = 0.0
    missing: float = 0.0
    specimen: Specimen = Specimen()
    camera: Camera = Camera()
    seed: int = 0

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def cells(self) -> IntArray:
        """(n, 2) row and column of each tile, row by row."""
        count = self.grid[0] * self.grid[1]
        taken = self._draw(3, count) >= self.missing
        return np.stack(np.divmod(np.flatnonzero(taken), self.grid[1]), axis=1)

    @cached_property
    def blanks(self) -> NDArray[np.bool_]:
        """(n,) which tiles show nothing."""
        blank: NDArray[np.bool_] = self._draw(4, len(self)) < self.blank
        return blank

    def _draw(self, stream: int, count: int) -> FloatArray:
        drawn: FloatArray = np.random.default_rng([self.seed, stream]).random(count)
        return drawn

    @cached_property
    def stage(self) -> FloatArray:
        """(n, 2) positions (y, x) in px that the stage reports, row by row."""
        positions: FloatArray = self.cells * (np.array(self.tile) * (1 - self.overlap))
        return positions

    @cached_property
    def truth(self) -> FloatArray:
        """(n, 2) true positions (y, x) in px."""
        angle = np.deg2rad(self.camera_angle)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        rng = np.random.default_rng([self.seed, 1])
        true = self.stage @ turn.T * (1 + self.pixel_error)
        true += rng.uniform(-self.stage_error, self.stage_error, (len(self), 2))
        true += self.drift * np.arange(len(self))[:, None]
        true[:, 1] += self.backlash * (self.cells[:, 0] % 2)
        truth: FloatArray = true if self.subpixel else np.rint(true)
        return truth

    def tile_image(self, index: int) -> NDArray[Any]:
        """The recorded pixels of one tile."""
        if self.blanks[index]:
            scene = np.full(self.tile, self.specimen.background, dtype=np.float32)
            return self.camera.record(scene, np.random.default_rng([self.seed, 2, index]))
        margin = int(np.ceil(4 * self.camera.blur))
        y, x = self.truth[index]
        height, width = self.tile
        scene = self.specimen.render(
            (y - margin, x - margin), (height + 2 * margin, width + 2 * margin)
        )
        if margin:
            scene = gaussian_filter(scene, self.camera.blur, truncate=4.0)
            scene = scene[margin:-margin, margin:-margin]
        return self.camera.record(scene, np.random.default_rng([self.seed, 2, index]))

    @cached_property
    def names(self) -> list[str]:
        """File names of the tiles, row by row."""
        width = max(2, len(str(max(self.grid) - 1)))
        return [f"tile_r{r:0{width}d}_c{c:0{width}d}.tif" for r, c in self.cells.tolist()]

    @property
    def mosaic(self) -> Mosaic:
        """The tiles at the stage's positions; each is computed when it is read."""
        return Mosaic(
            names=as_names(self.names),
            positions=self.stage,
            shapes=np.broadcast_to(np.array(self.tile), (len(self), 2)),
            source=SimulatedSource(self, np.arange(len(self))),
            pixel_size=(0.5, 0.5),
            origin="of a simulated stage",
        )

    def write(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Write the tiles as TIFF, ``positions.csv`` (the stage's word) and ``truth.csv``.

        ``progress`` is called with (done, total).
        """

        def write_tile(index: int) -> None:
            write_tiff(folder / self.names[index], self.tile_image(index))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done, _ in enumerate(pool.map(write_tile, range(len(self))), start=1):
                if progress:
                    progress(done, len(self))
        shapes = np.broadcast_to(np.array(self.tile), (len(self), 2))
        for name, positions in (("positions.csv", self.stage), ("truth.csv", self.truth)):
            write_positions(folder / name, PositionTable(self.names, positions), shapes)


@dataclass(frozen=True)
class SimulatedSource:
    """Tiles of an acquisition, computed when they are read."""

    acquisition: Acquisition
    tiles: IntArray

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the camera's pixels."""
        return np.dtype(self.acquisition.camera.dtype)

    @property
    def leading(self) -> tuple[int, ...]:
        """Simulated tiles are (y, x)."""
        return ()

    @property
    def interleaved(self) -> bool:
        """There is one plane."""
        return False

    def __len__(self) -> int:
        return len(self.tiles)

    def read(self, tile: int, box: Box, lead: Lead) -> NDArray[Any]:
        """The pixels of ``box``."""
        return self.acquisition.tile_image(int(self.tiles[tile]))[box.slices]

    def stamps(self) -> NDArray[np.uint64]:
        """Digests of how each tile is made."""
        told = repr(self.acquisition)
        return np.array([short_digest(told, int(k)) for k in self.tiles], dtype=np.uint64)

    def select(self, tiles: IntArray) -> SimulatedSource:
        """These tiles only."""
        return replace(self, tiles=self.tiles[tiles])
