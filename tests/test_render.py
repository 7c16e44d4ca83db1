"""Blocks against a brute-force reference, pixel by pixel, for any cut into blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import mosaics

from mosaicreg import Mosaic, assemble, stage_layout
from mosaicreg.geometry import Box, bounding_box, nearest_pixel, owned_boxes
from mosaicreg.render import BLENDS, INTERPOLATIONS


def reference(mosaic: Mosaic, positions: np.ndarray, blend: str, interpolation: str, fill: float):
    """The mosaic in plain loops over pixels, float64 arithmetic, straight from the definitions."""
    owned = owned_boxes(positions, mosaic.shapes)
    canvas = bounding_box(owned)
    out = np.full((*mosaic.leading, *canvas.shape), fill, dtype=np.float64)
    lead = tuple(slice(0, n) for n in mosaic.leading)
    tiles = [
        mosaic.source.read(k, Box.at((0, 0), tuple(s)), lead).astype(np.float64)
        for k, s in enumerate(mosaic.shapes.tolist())
    ]
    for y in range(canvas.y0, canvas.y1):
        for x in range(canvas.x0, canvas.x1):
            values, weights, ranks = [], [], []
            for k, (y0, x0, y1, x1) in enumerate(owned.tolist()):
                if not (y0 <= y < y1 and x0 <= x < x1):
                    continue
                corner = positions[k] if interpolation == "linear" else (y0, x0)
                values.append(sample(tiles[k], y - corner[0], x - corner[1]))
                weights.append(min(y - y0 + 1, y1 - y) * min(x - x0 + 1, x1 - x))
                centre = ((y0 + y1 - 1) / 2, (x0 + x1 - 1) / 2)
                ranks.append(((y - centre[0]) ** 2 + (x - centre[1]) ** 2, k))
            if values:
                where = (..., y - canvas.y0, x - canvas.x0)
                out[where] = combine(np.array(values), weights, ranks, blend)
    if mosaic.dtype.kind == "f":
        return out
    info = np.iinfo(mosaic.dtype)
    return np.clip(np.rint(out), info.min, info.max)


def sample(tile: np.ndarray, y: float, x: float) -> np.ndarray:
    """Linear interpolation with continued edges."""
    i, j = int(np.floor(y)), int(np.floor(x))
    fy, fx = y - i, x - j
    value = 0.0
    for a, wy in ((i, 1 - fy), (i + 1, fy)):
        for b, wx in ((j, 1 - fx), (j + 1, fx)):
            if wy * wx:
                h, w = tile.shape[-2:]
                value = value + wy * wx * tile[..., min(max(a, 0), h - 1), min(max(b, 0), w - 1)]
    return np.asarray(value)


def combine(values, weights, ranks, blend):
    if len(values) == 1:
        return values[0]
    if blend == "max":
        return values.max(axis=0)
    if blend == "first":
        return values[0]
    if blend == "nearest":
        return values[min(range(len(ranks)), key=lambda k: ranks[k])]
    w = np.array(weights if blend == "linear" else np.ones(len(values)))
    return np.tensordot(w, values, axes=1) / w.sum()


@pytest.mark.row("J1 pixels")
@given(
    mosaics(),
    st.sampled_from(BLENDS),
    st.sampled_from(INTERPOLATIONS),
    st.integers(3, 60),
    st.integers(0, 100),
)
def test_a_mosaic_is_what_its_definition_says(mosaic, blend, interpolation, block, fill) -> None:
    layout = stage_layout(mosaic)
    image = assemble(
        mosaic, layout, blend=blend, interpolation=interpolation, fill=fill, block=block
    )
    expected = reference(mosaic, layout.positions, blend, interpolation, fill)
    found = image.compute(scheduler="synchronous")
    assert found.dtype == mosaic.dtype
    assert found.shape == expected.shape
    if mosaic.dtype.kind == "f":
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    else:
        # float32 and float64 may fall to different sides of an exact half
        assert np.abs(found.astype(np.float64) - expected).max() <= 1
        assert (found != expected).mean() < 0.02


@pytest.mark.row("J1 determinism")
@given(mosaics(), st.sampled_from(BLENDS), st.sampled_from(INTERPOLATIONS), st.data())
def test_any_cut_into_blocks_gives_the_same_bits(mosaic, blend, interpolation, data) -> None:
    layout = stage_layout(mosaic)
    style = {"blend": blend, "interpolation": interpolation}
    whole = assemble(mosaic, layout, **style).compute(scheduler="synchronous")
    sides = data.draw(st.tuples(st.integers(2, 50), st.integers(2, 50)))
    cut = assemble(mosaic, layout, block=sides, **style).compute(scheduler="synchronous")
    assert whole.tobytes() == cut.tobytes()


@given(mosaics(most=1))
def test_nearest_copies_every_pixel_as_it_is(mosaic) -> None:
    image = assemble(mosaic, stage_layout(mosaic), interpolation="nearest").compute()
    assert image.tobytes() == np.ascontiguousarray(mosaic.source.tiles[0]).tobytes()


@given(mosaics(most=4, whole=True), st.sampled_from(BLENDS))
def test_whole_pixel_positions_need_no_interpolation(mosaic, blend) -> None:
    layout = stage_layout(mosaic)
    exact, copied = (
        assemble(mosaic, layout, blend=blend, interpolation=i).compute() for i in INTERPOLATIONS
    )
    assert exact.tobytes() == copied.tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("blend", BLENDS)
def test_extreme_values_never_wrap(dtype, blend) -> None:
    info = np.iinfo(dtype)
    for value in (info.min, info.max):
        tiles = [np.full((20, 20), value, dtype)] * 3
        mosaic = Mosaic.from_arrays(tiles, [(0, 0), (10.3, 5.7), (4.5, 12.25)])
        image = assemble(mosaic, stage_layout(mosaic), blend=blend, fill=value).compute()
        assert (image == value).all()


def test_seams_fade_linearly_between_two_tiles() -> None:
    dark, bright = np.zeros((30, 40), np.float32), np.ones((30, 40), np.float32)
    mosaic = Mosaic.from_arrays([dark, bright], [(0, 0), (0, 31)])
    row = assemble(mosaic, stage_layout(mosaic)).compute()[15]
    np.testing.assert_allclose(row[31:40], np.arange(1, 10) / 10, rtol=1e-5)


def test_the_nearest_tile_changes_halfway_and_the_lower_number_keeps_ties() -> None:
    tiles = [np.full((9, 21), k + 1, np.uint8) for k in range(2)]
    mosaic = Mosaic.from_arrays(tiles, [(0, 0), (0, 10)])
    row = assemble(mosaic, stage_layout(mosaic), blend="nearest").compute()[4]
    assert row.tolist() == [1] * 16 + [2] * 15


@pytest.mark.parametrize("blend", BLENDS)
def test_nan_gives_way_to_other_tiles(blend) -> None:
    holed = np.full((10, 10), 5.0, np.float32)
    holed[:, 5:] = np.nan
    whole = np.full((10, 10), 5.0, np.float32)
    for tiles in ([holed, whole], [whole, holed]):
        mosaic = Mosaic.from_arrays(tiles, [(0, 0), (0, 0)])
        image = assemble(mosaic, stage_layout(mosaic), blend=blend).compute()
        np.testing.assert_allclose(image, 5.0)
    alone = Mosaic.from_arrays([holed], [(0, 0)])
    image = assemble(alone, stage_layout(alone), blend=blend, fill=-1).compute()
    assert np.isnan(image[:, 5:]).all()


def test_a_tile_owns_its_own_number_of_pixels_wherever_it_lies() -> None:
    for offset in np.linspace(-1, 1, 41):
        start = nearest_pixel(np.array([offset, -offset]))
        mosaic = Mosaic.from_arrays([np.ones((7, 5), np.uint8)], [(offset, -offset)])
        image = assemble(mosaic, stage_layout(mosaic)).compute()
        assert image.shape == (7, 5)
        assert np.abs(start - (offset, -offset)).max() <= 0.5
