"""Drawings are well-formed, true to scale, and light for any number of tiles."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from mosaicreg import drawing
from mosaicreg.drawing import Cells, Frame

SVG = "{http://www.w3.org/2000/svg}"
FRAME = Frame(100, 200, 500, 2000)


def grid(rows: int, cols: int, side: int = 100) -> np.ndarray:
    y, x = np.mgrid[:rows, :cols].reshape(2, -1) * (side - 10)
    return np.stack([y, x, y + side, x + side], axis=1)


def test_a_tile_is_drawn_where_it_lies() -> None:
    marks = drawing.tile_marks(FRAME, np.array([[150, 300, 250, 700]]), ["#fff"], ["<a> & b"])
    rect = ElementTree.fromstring(FRAME.svg(marks)).find(f".//{SVG}rect")
    assert rect is not None
    # 2000 px become 1000 drawing units.
    found = [float(rect.attrib[k]) for k in ("x", "y", "width", "height")]
    assert found == [50, 25, 200, 50]
    assert rect[0].text == "<a> & b"


def test_arrows_point_where_tiles_went() -> None:
    text = drawing.arrow_marks(FRAME, np.array([[100.0, 200.0]]), np.array([[10.0, 0.0]]), 4)
    assert 'd="M0 0L0 20M' in text


@pytest.mark.parametrize(("large", "gain"), [(1.0, 20), (9.0, 2), (450.0, 1), (0.0, 20000)])
def test_arrows_are_lengthened_by_a_round_number(large, gain) -> None:
    moves = np.full((20, 2), large / np.sqrt(2))
    assert drawing.arrow_gain(moves, 50.0) == gain


def test_links_are_marked_by_what_became_of_them() -> None:
    ends = np.array([[100.0, 200.0]])
    for kind in drawing.LINK_COLOURS:
        text = drawing.link_marks(FRAME, ends, ends + 100, [kind], np.array([0.9995]), ["t"])
        group = ElementTree.fromstring(text)
        crosses = len(group.findall(".//path")) - 1
        assert crosses == (kind in ("rejected", "disagrees"))
        assert ("stroke-dasharray" in text) == (kind != "used")


def test_colours_follow_residual_and_verdict() -> None:
    verdicts = ["measured", "measured", "measured", "stage", "conflict"]
    colours = drawing.tile_colours(verdicts, np.array([0.01, 0.3, 9, np.nan, 0.01]))
    first, *_, last = drawing.RESIDUAL_COLOURS
    assert colours == [first, drawing.RESIDUAL_COLOURS[2], last, "#9b93a8", "#e5383b"]
    assert set(colours) <= set(drawing.colour_key().values())


def test_cells_average_what_lies_in_them() -> None:
    rng = np.random.default_rng(3)
    centres = rng.uniform((100, 200), (600, 2200), (500, 2))
    values = rng.normal(size=(500, 2))
    values[::7, 0] = np.nan
    cells = Cells.of(FRAME, centres)
    assert cells.counts.sum() == 500
    means = cells.mean(values)
    for k, (y, x) in enumerate(cells.corners):
        inside = ((centres >= (y, x)) & (centres < (y + cells.side, x + cells.side))).all(axis=1)
        np.testing.assert_array_equal(np.flatnonzero(inside), np.flatnonzero(cells.members == k))
        known = values[inside, 0][np.isfinite(values[inside, 0])]
        expected = known.mean() if len(known) else np.nan
        np.testing.assert_allclose(means[k, 0], expected)


@pytest.mark.parametrize("side", [5, 100, 320])
def test_a_map_stays_light_for_many_tiles(side) -> None:
    boxes = grid(side, side)
    text = drawing.tile_map(boxes, ["#123456"] * len(boxes), lambda k: f"tile {k}", "width:9em")
    ElementTree.fromstring(text)
    assert len(text) < 500_000


@pytest.mark.parametrize(
    ("width", "pixel", "words"),
    [(1000, None, "200 px"), (1000, 0.5, "100 µm"), (100_000, 0.5, "10 mm"), (10, 0.1, "0.2 µm")],
)
def test_the_scale_bar_is_round_and_right(width, pixel, words) -> None:
    frame = Frame(0, 0, 100, width)
    text = drawing.scale_bar(frame, pixel)
    bar = ElementTree.fromstring(text).find("rect")
    assert words in text
    assert bar is not None
    number, unit = words.split()
    px = float(number) * (1000 if unit == "mm" else 1) / (pixel or 1)
    assert float(bar.attrib["width"]) == pytest.approx(px * frame.scale, abs=0.06)


def test_bars_are_as_tall_as_their_counts() -> None:
    text = drawing.bars(["a", "b"], [("one", "#111", [2, 0]), ("two", "#222", [2, 1])], "axis")
    tall = [float(r.attrib["height"]) for r in ElementTree.fromstring(text).iter(f"{SVG}rect")]
    assert tall == pytest.approx([82.5, 82.5, 41.25], abs=0.06)
    ElementTree.fromstring(drawing.bars(["a"], [("one", "#111", [0])], "nothing"))
    ElementTree.fromstring(drawing.legend({"<odd>": "#111"}))
