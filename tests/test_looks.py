"""What people see in a notebook: reprs, plots, thumbnails, and layers for napari."""

from __future__ import annotations

import sys
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import pyplot

import mosaicreg
from mosaicreg import Mosaic, assemble, register, solve_layout, stage_layout, write_ome_zarr
from mosaicreg.errors import InputError, MissingExtraError
from mosaicreg.layers import outlines


@pytest.fixture(scope="module")
def solved(acquisition):
    """(mosaic, pairs, layout) of the small acquisition."""
    mosaic = acquisition.mosaic
    pairs = register(mosaic)
    return mosaic, pairs, solve_layout(mosaic, pairs)


@pytest.fixture(autouse=True)
def _no_window():
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


def test_reprs_are_well_formed_and_show_names(solved) -> None:
    for thing in solved:
        html = thing._repr_html_()
        ElementTree.fromstring(html)
        assert "<svg" in html
        assert len(html) < 100_000
    assert "tile_r00_c00" in solved[0]._repr_html_()
    assert "measured" in solved[2]._repr_html_()


def test_a_layout_lists_the_least_sure_first(solved) -> None:
    from dataclasses import replace

    codes = solved[2].verdict_codes.copy()
    codes[7], codes[3] = 2, 0
    html = replace(solved[2], verdict_codes=codes)._repr_html_()
    rows = html[html.index("<table") :]
    names = [str(n) for n in solved[2].names]
    assert rows.index(names[7]) < rows.index(names[3]) < rows.index(names[0])


def test_reprs_of_odd_mosaics() -> None:
    one = Mosaic.from_arrays([np.ones((5, 4), np.uint8)], [(0, 0)], names=["<&>"])
    for thing in (one, register(one), stage_layout(one)):
        ElementTree.fromstring(thing._repr_html_())


def test_plots_draw_tiles_where_they_lie(solved) -> None:
    mosaic, pairs, layout = solved
    for thing in (mosaic, layout):
        ax = thing.plot()
        (tiles,) = [c for c in ax.collections if len(c.get_paths()) == len(mosaic)][:1]
        found = np.array([p.vertices[:4].min(axis=0)[::-1] for p in tiles.get_paths()])
        np.testing.assert_allclose(found, thing.positions, atol=0.51)
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # y runs down
        ax.figure.canvas.draw()
    ax = pyplot.figure().subplots()
    assert pairs.plot(ax) is ax
    heights = sum(bar.get_height() for bar in ax.patches)
    assert heights == len(pairs)


def test_many_tiles_are_plotted_too() -> None:
    n = 3000
    y, x = np.divmod(np.arange(n), 50)
    tile = np.zeros((10, 10), np.uint8)
    mosaic = Mosaic.from_arrays([tile] * n, np.stack([y, x], axis=1) * 9.0)
    assert len(mosaic._repr_html_()) < 600_000
    stage_layout(mosaic).plot().figure.canvas.draw()


def test_without_matplotlib_plots_say_what_to_install(solved, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for thing in solved:
        with pytest.raises(MissingExtraError, match=r"mosaicreg\[plot\]"):
            thing.plot()


@pytest.mark.parametrize("side", [10_000, 64, 33])
def test_a_thumbnail_is_every_so_many_th_pixel(acquisition, side) -> None:
    mosaic = acquisition.mosaic
    layout = stage_layout(mosaic)
    whole = assemble(mosaic, layout, blend="first", interpolation="nearest").compute()
    small = mosaic.thumbnail(side)
    step = -(-max(whole.shape) // min(side, max(whole.shape)))
    assert small.dtype == mosaic.dtype
    assert small.shape == whole[::step, ::step].shape
    # Overlaps show the last tile, not the first: compare where tiles do not overlap.
    alone = np.zeros(whole.shape, np.uint8)
    for y0, x0, y1, x1 in layout.boxes:
        alone[y0:y1, x0:x1] += 1
    alone = alone[::step, ::step] == 1
    np.testing.assert_array_equal(small[alone], whole[::step, ::step][alone])


def test_napari_gets_a_lazy_pyramid_and_outlines(solved, tmp_path) -> None:
    mosaic, _, layout = solved
    image = assemble(mosaic, layout)
    path = write_ome_zarr(
        image, tmp_path / "a.ome.zarr", mosaic=mosaic, layout=layout,
        chunk=128, shard=256, pixel_size=(0.5, 0.25),
    )  # fmt: skip
    (levels, facts, kind), (shapes, marks, other) = mosaicreg.napari_layers(path)
    assert (kind, other) == ("image", "shapes")
    assert facts["multiscale"]
    assert facts["scale"] == [0.5, 0.25]
    np.testing.assert_array_equal(levels[0].compute(), image.compute())
    assert all(a.shape[0] > b.shape[0] for a, b in pairwise(levels))
    assert len(shapes) == len(mosaic) == len(marks["edge_color"])
    assert marks["features"]["tile"] == [str(n) for n in mosaic.names]
    first = np.array(shapes[0]) / (0.5, 0.25)
    np.testing.assert_allclose(first[2] - first[0], layout.shapes[0])
    np.testing.assert_allclose(first[0], layout.positions[0] - 0.5, atol=0.5)


def test_napari_gets_a_layout_that_is_not_assembled(solved) -> None:
    mosaic, _, layout = solved
    (image, facts, _), _ = mosaicreg.napari_layers(mosaic, layout)
    assert not facts["multiscale"]
    np.testing.assert_array_equal(image.compute(), assemble(mosaic, layout).compute())
    with pytest.raises(InputError, match="needs its layout"):
        mosaicreg.napari_layers(mosaic)


def test_channels_become_layers() -> None:
    tiles = [np.stack([np.zeros((8, 8)), np.ones((8, 8))]).astype(np.uint8)] * 2
    mosaic = Mosaic.from_arrays(tiles, [(0, 0), (0, 6)], channels=("DAPI", "GFP"))
    *images, _ = mosaicreg.napari_layers(mosaic, stage_layout(mosaic))
    assert [facts["name"] for _, facts, _ in images] == ["DAPI", "GFP"]
    for k, (image, facts, _) in enumerate(images):
        assert facts["scale"] == [1.0, 1.0]
        assert (image.compute() == k).all()


def test_outlines_turn_with_their_tiles(solved) -> None:
    from dataclasses import replace

    layout = replace(solved[2], angles=np.full(len(solved[2]), 90.0))
    straight, turned = outlines(solved[2]), outlines(layout)
    # The tiles are square: a right angle takes each corner to another one.
    np.testing.assert_allclose(np.sort(turned, axis=1), np.sort(straight, axis=1), atol=1e-9)
    np.testing.assert_allclose(turned[:, 0], straight[:, 3], atol=1e-9)
