"""An archive read back gives the tiles and the layout that were written."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mosaicreg import (
    InputError,
    assemble,
    open_mosaic,
    register,
    solve_layout,
    stage_layout,
    write_ome_zarr,
)
from mosaicreg.geometry import Box
from mosaicreg.reopening import read_archive


@pytest.fixture
def written(tiles, tmp_path):
    """(mosaic, layout, archive) of the small acquisition."""
    mosaic = open_mosaic(tiles, pixel_size=0.5)
    layout = solve_layout(mosaic, register(mosaic))
    path = write_ome_zarr(
        assemble(mosaic, layout), tmp_path / "ä b.ome.zarr", mosaic=mosaic, layout=layout,
        chunk=64, shard=512, provenance={"version": "x"},
    )  # fmt: skip
    return mosaic, layout, path


def test_an_archive_gives_back_its_layout(written) -> None:
    mosaic, layout, path = written
    archive = read_archive(path)
    again = archive.layout
    for name in ("names", "positions", "shapes", "verdict_codes", "parts", "stage_matrix", "used"):
        np.testing.assert_array_equal(getattr(again, name), getattr(layout, name))
    for name in ("residuals", "sigmas", "stage"):
        np.testing.assert_array_equal(getattr(again, name), getattr(layout, name))
    assert again.rms == pytest.approx(layout.rms)
    assert again.pairs is not None
    for name, column in layout.pairs.columns().items():
        np.testing.assert_array_equal(again.pairs.columns()[name], column)
    np.testing.assert_array_equal(again.pairs.null_z, layout.pairs.null_z)
    assert archive.facts == {"version": "x", "tiles_in": str(mosaic.source.folder)}
    assert archive.mosaic.pixel_size == mosaic.pixel_size
    assert archive.mosaic.axes == "yx"
    assert archive.levels[0].shape == archive.canvas.shape


def test_its_tiles_can_be_read_also_after_both_moved(written, tiles, tmp_path) -> None:
    mosaic, _, path = written
    box = Box(3, 5, 40, 50)
    expected = mosaic.source.read(2, box, ())
    np.testing.assert_array_equal(read_archive(path).mosaic.source.read(2, box, ()), expected)
    shutil.copytree(tmp_path, tmp_path.parent / "elsewhere")
    shutil.rmtree(tmp_path)
    moved = read_archive(tmp_path.parent / "elsewhere" / path.name)
    np.testing.assert_array_equal(moved.mosaic.source.read(2, box, ()), expected)


def test_a_layout_by_the_stage_has_no_pairs(acquisition, tmp_path) -> None:
    mosaic = acquisition.mosaic
    layout = stage_layout(mosaic)
    path = write_ome_zarr(
        assemble(mosaic, layout), tmp_path / "a.ome.zarr", mosaic=mosaic, layout=layout
    )
    again = read_archive(path).layout
    assert again.pairs is None
    assert again.counts == layout.counts


def test_what_is_no_archive_of_ours_is_named(acquisition, tmp_path) -> None:
    with pytest.raises(InputError, match="not an OME-Zarr archive"):
        read_archive(tmp_path)
    mosaic = acquisition.mosaic
    path = write_ome_zarr(assemble(mosaic, stage_layout(mosaic)), tmp_path / "a.ome.zarr")
    with pytest.raises(InputError, match="holds no layout"):
        read_archive(path)
