"""Where tiles overlap, as rectangles: in the mosaic, and in each tile's own coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from mosaicreg.errors import InputError
from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.mosaic import SEAM_SHARE, overlapping_pairs, seam_shares


@dataclass(frozen=True, eq=False)
class TileOverlaps:
    """Columns, one row per pair of overlapping tiles. Immutable.

    Rectangles are rows y0, x0, y1, x1, half-open, in px, with fractions.

    Args:
        first, second: (m,) tile numbers, the lower first.
        offsets: (m, 2) from the centre of the first tile to that of the second.
        target: (m, 4) where the two overlap in the mosaic.
        first_source, second_source: (m, 4) the same rectangle in the coordinates of each tile.
        share: (m,) of the first tile's area that it is.
    """

    first: IntArray
    second: IntArray
    offsets: FloatArray
    target: FloatArray
    first_source: FloatArray
    second_source: FloatArray
    share: FloatArray

    def __len__(self) -> int:
        return len(self.first)

    def scaled(self, factor: float) -> TileOverlaps:
        """The same in px of images that are ``factor`` times as large: 0.25 for a quarter.

        Raises:
            InputError: for a factor that is not above 0.
        """
        if not (np.isfinite(factor) and factor > 0):
            raise InputError(f"the scale of an image is a number above 0, not {factor}")
        return replace(
            self,
            offsets=self.offsets * factor,
            target=self.target * factor,
            first_source=self.first_source * factor,
            second_source=self.second_source * factor,
        )


def tile_overlaps(
    positions: ArrayLike,
    shapes: ArrayLike,
    *,
    origins: ArrayLike = (0.0, 0.0),
    min_overlap: float = 0.0,
    distance_scale: float = 1.0,
    diagonal: bool = True,
) -> TileOverlaps:
    """All pairs of tiles that overlap, and where: of a million tiles in seconds.

    Args:
        positions: (n, 2), (y, x) of each tile's first corner in the mosaic, as `Mosaic.positions`.
        shapes: (n, 2), (height, width) of each tile, as `Mosaic.shapes`.
        origins: (2,) or (n, 2), what (y, x) the first corner has in the tile's own coordinates.
        min_overlap: pairs that share less of the first tile's area are left out.
        distance_scale: above 0, at most 1: second tiles are moved towards their first ones until
            their centres are so many times as far apart. Rectangles and shares are then those of
            the moved tiles: a smaller number gives room to look for tiles that the stage has put
            too far away. Which tiles are pairs, and their ``offsets``, do not change.
        diagonal: whether pairs count that only share a corner: their overlap is shorter than
            `mosaicreg.mosaic.SEAM_SHARE` of a side both ways.

    Raises:
        InputError: for numbers outside what is said above, or tiles in heaps.
    """
    corners = np.asarray(positions, dtype=np.float64).reshape(-1, 2)
    sizes = np.asarray(shapes, dtype=np.int64).reshape(-1, 2)
    own = np.broadcast_to(np.asarray(origins, dtype=np.float64), corners.shape)
    if sizes.shape != corners.shape or not np.isfinite(corners).all():
        raise InputError(f"{len(corners)} finite positions are needed for {len(sizes)} tiles")
    if not 0 < distance_scale <= 1:
        raise InputError(f"distances are scaled by above 0 to 1, not by {distance_scale}")
    if not 0 <= min_overlap <= 1:
        raise InputError(f"an overlap is a share from 0 to 1, not {min_overlap}")
    pairs, overlap = overlapping_pairs(corners, sizes)
    if not diagonal:
        pairs = pairs[seam_shares(pairs, overlap, sizes) >= SEAM_SHARE]
    first, second = pairs[:, 0], pairs[:, 1]
    centres = corners + sizes / 2
    offsets = centres[second] - centres[first]
    moved = corners[second] - (1 - distance_scale) * offsets
    start = np.maximum(corners[first], moved)
    end = np.minimum(corners[first] + sizes[first], moved + sizes[second])
    share = (end - start).prod(axis=1) / sizes[first].prod(axis=1)
    kept = share >= min_overlap

    def rectangles(shift: FloatArray) -> FloatArray:
        found: FloatArray = np.concatenate([start + shift, end + shift], axis=1)[kept]
        return found

    return TileOverlaps(
        first=first[kept],
        second=second[kept],
        offsets=offsets[kept],
        target=rectangles(np.zeros_like(start)),
        first_source=rectangles(own[first] - corners[first]),
        second_source=rectangles(own[second] - moved),
        share=share[kept],
    )
