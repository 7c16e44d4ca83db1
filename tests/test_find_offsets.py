"""`find_offsets`: pairs of images of every kind, lazily opened ones read as little as needed."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr

from mosaicreg import InputError, find_offset, find_offsets, synthetic
from mosaicreg.imagefile import write_tiff


def overlapping_images() -> list[np.ndarray]:
    specimen = synthetic.Specimen(seed=4, empty=0.0)
    corners = [(0.0, 0.0), (3.25, 150.5), (-2.5, 301.0)]
    return [
        synthetic.CLEAN.record(specimen.render(c, (200, 200)), np.random.default_rng(0))
        for c in corners
    ]


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "path", "text"])
def test_find_offsets_takes_images_of_every_kind(kind, tmp_path) -> None:
    images = overlapping_images()
    places = [(0.0, 150.0), (-5.0, 150.0)]
    alone = [
        find_offset(f, m, place, 12)
        for f, m, place in zip(images[:-1], images[1:], places, strict=True)
    ]
    given: list[Any] = images
    if kind == "dask":
        given = [da.from_array(i, chunks=64) for i in images]
    elif kind == "zarr":
        given = [zarr.create_array({}, data=i, chunks=(64, 64)) for i in images]
    elif kind in ("path", "text"):
        given = [tmp_path / f"{k}.tif" for k in range(len(images))]
        for path, image in zip(given, images, strict=True):
            write_tiff(path, image, tile=(64, 64), compression="zlib")
        given = [str(p) for p in given] if kind == "text" else given
    assert find_offsets(given[:-1], given[1:], places, 12) == alone
    np.testing.assert_allclose(alone[0].peak, (3.25, 150.5), atol=0.05)


READ: list[tuple[slice, ...]] = []


class Watched:
    """An array that remembers what was asked for; of the module, so that dask can pickle it."""

    def __init__(self, image: np.ndarray) -> None:
        self.image, self.shape, self.dtype = image, image.shape, image.dtype
        self.chunks, self.store, self.ndim = (50, 50), None, 2

    def __getitem__(self, index: Any) -> np.ndarray:
        READ.append(index)
        return self.image[index]


def test_find_offsets_reads_only_the_strips_that_can_overlap() -> None:
    READ.clear()
    first, second, _ = overlapping_images()
    one, other = Watched(first), Watched(second)
    records = find_offsets([one], [other], (0, 150), 6)
    np.testing.assert_allclose(records[0].peak, (3.25, 150.5), atol=0.05)
    assert sorted((cut[1].start, cut[1].stop) for cut in READ) == [(0, 56), (144, 200)]

    chunked = [da.from_array(w, chunks=50, asarray=False, name=False) for w in (one, other)]
    READ.clear()
    assert find_offsets([chunked[0]], [chunked[1]], (0, 150), 6) == records
    of_fixed = [cut for cut in READ if cut[1].start >= 100]  # the strip's blocks and no others
    of_moving = [cut for cut in READ if cut[1].stop <= 100]
    assert (len(of_fixed), len(of_moving), len(READ)) == (8, 8, 16)


def test_find_offsets_refuses_what_does_not_pair_up() -> None:
    image = np.zeros((8, 8), np.uint8)
    assert find_offsets([], []) == []
    assert find_offsets([image], [image], (50, 0), 3)[0].weight == 0
    with pytest.raises(InputError, match="1 fixed images for 2"):
        find_offsets([image], [image, image])
    with pytest.raises(InputError, match="1 expected offsets for 2"):
        find_offsets([image] * 2, [image] * 2, [(0.0, 1.0)])
    with pytest.raises(InputError, match="fixed image must be"):
        find_offsets([image[None]], [image])
