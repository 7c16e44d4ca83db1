"""Images continued beyond their edges, and sums over neighbouring pixels that reach there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Line = NDArray[Any]


def framed(image: NDArray[Any], margin: int, mirrored: bool = False) -> NDArray[Any]:
    """The (y, x) image with ``margin`` more rows and columns at all four edges.

    They repeat the last row or column, or are the last ones mirrored. `numpy.pad` does the same, in
    eight times the time for strips.
    """
    if margin == 0 or min(image.shape) < margin:
        return np.pad(image, margin, mode="symmetric" if mirrored else "edge")
    height, width = image.shape
    made = np.empty((height + 2 * margin, width + 2 * margin), dtype=image.dtype)
    made[margin:-margin, margin:-margin] = image
    for frame in (made[:, margin:-margin], made.T):
        inside = frame[margin:-margin]
        frame[:margin] = inside[margin - 1 :: -1] if mirrored else inside[:1]
        frame[-margin:] = inside[: -margin - 1 : -1] if mirrored else inside[-1:]
    return made


def neighbour_sums(
    image: NDArray[Any], margin: int, sums: Callable[[Line, int], Line], mirrored: bool = False
) -> NDArray[Any]:
    """The same sums along y, then x, about every pixel of an image that goes on at its edges.

    Pixels are taken as one long line, which is three times as fast as row by row. What then runs
    over the end of a row and into the next one lies outside the image.

    Args:
        image: (y, x).
        margin: how far sums reach to either side.
        sums: (line, step): sums of elements so far apart, beginning at each; ``2 * margin * step``
            fewer than the line has.
        mirrored: as in `framed`.

    Returns:
        (y, x) of the image's shape; its rows do not follow each other in memory.
    """
    frame = framed(image, margin, mirrored)
    wide = frame.shape[1]
    line = sums(sums(frame.ravel(), wide), 1)
    return rows_of(line, (image.shape[0], image.shape[1]), wide)


def rows_of(line: Line, shape: tuple[int, int], wide: int) -> NDArray[Any]:
    """A line as rows that begin ``wide`` elements apart; a view."""
    size = line.itemsize
    assert (shape[0] - 1) * wide + shape[1] <= line.size
    return np.ndarray(shape, line.dtype, line, strides=(wide * size, size))
