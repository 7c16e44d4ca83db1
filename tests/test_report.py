"""Pictures and tables."""

from __future__ import annotations

import numpy as np

from mosaicreg import Mosaic, assemble, stage_layout, write_ome_zarr
from mosaicreg.imagefile import read_image
from mosaicreg.report import centred, to_display, write_preview, write_side_by_side
from mosaicreg.tables import table_html


def test_a_preview_shows_the_mosaic(acquisition, tmp_path) -> None:
    mosaic = acquisition.mosaic
    image = assemble(mosaic, stage_layout(mosaic))
    path = write_ome_zarr(image, tmp_path / "a.ome.zarr", chunk=64, shard=512)
    write_preview(path, tmp_path / "p.png")
    preview = read_image(tmp_path / "p.png")
    assert preview.shape == image.shape
    assert preview.dtype == np.uint8
    assert np.corrcoef(preview.ravel(), image.compute().ravel())[0, 1] > 0.9


def test_a_preview_of_colour_is_in_colour(tmp_path) -> None:
    tile = np.zeros((3, 40, 50), np.uint8)
    tile[0] = np.arange(50)
    mosaic = Mosaic.from_arrays([tile], [(0, 0)], channels=("red", "green", "blue"))
    path = write_ome_zarr(
        assemble(mosaic, stage_layout(mosaic)), tmp_path / "a.ome.zarr", mosaic=mosaic
    )
    write_preview(path, tmp_path / "p.png")
    preview = read_image(tmp_path / "p.png")
    assert preview.shape == (3, 40, 50)
    assert preview[0].any()
    assert not preview[1:].any()


def test_display_stretches_what_is_there_and_survives_nothing() -> None:
    ramp = np.arange(1, 1001, dtype=np.uint16).reshape(20, 50)
    shown = to_display(ramp)
    assert (shown.min(), shown.max()) == (0, 255)
    assert to_display(np.zeros((4, 4), np.uint8)).tolist() == [[0] * 4] * 4
    assert not to_display(np.full((4, 4), np.nan)).any()


def test_panels_stand_side_by_side(tmp_path) -> None:
    rng = np.random.default_rng(0)
    panels = {k: rng.integers(1, 255, (30, 40)).astype(np.uint8) for k in ("before", "after")}
    write_side_by_side(tmp_path / "p.png", panels, zoom=2)
    assert read_image(tmp_path / "p.png").shape == (40 + 60, 80 + 16 + 80)


def test_a_square_around_a_point_stays_inside() -> None:
    assert centred((50, 50), 20, (100, 100)).slices == (slice(40, 60), slice(40, 60))
    assert centred((0, 99), 20, (100, 100)).slices == (slice(0, 20), slice(80, 100))
    assert centred((5, 5), 20, (10, 100)).shape == (10, 20)


def test_html_shows_text_as_text() -> None:
    assert "&lt;b&gt;" in table_html("t", {"name": "<b>"})
