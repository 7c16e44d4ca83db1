"""Cutting and converting one image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import boxes, random_pixels

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box
from mosaicreg.pixels import (
    checked_fill,
    crop,
    normalise_range,
    quantile,
    resize,
    resize_window,
    resized_shape,
    source_span,
    to_bits,
    to_grey,
    to_unit,
)


@given(boxes(-30, 60), st.sampled_from(["uint8", "uint16", "float32", "bool"]), st.integers(0, 99))
def test_a_crop_holds_the_image_and_the_fill(box, dtype, seed) -> None:
    rng = np.random.default_rng(seed)
    image = rng.random((23, 31)) < 0.5 if dtype == "bool" else random_pixels(rng, (23, 31), dtype)
    out = crop(image, box, 1)
    assert out.dtype == image.dtype
    assert out.shape == box.shape
    assert not np.shares_memory(out, image)
    for y, x in np.ndindex(*out.shape):
        inside = 0 <= y + box.y0 < 23 and 0 <= x + box.x0 < 31
        assert out[y, x] == (image[y + box.y0, x + box.x0] if inside else 1)


@pytest.mark.parametrize(
    ("dtype", "fill"), [("u1", 300), ("u1", -1), ("u1", 0.5), ("i2", np.nan), ("?", 2), ("u1", "x")]
)
def test_fill_values_that_do_not_fit_are_refused(dtype, fill) -> None:
    with pytest.raises(InputError, match="fill value"):
        checked_fill(np.dtype(dtype), fill)


def test_fill_values_that_fit() -> None:
    assert checked_fill(np.dtype("u1"), 255.0) == 255
    assert checked_fill(np.dtype("?"), 1).dtype == bool
    assert np.isnan(checked_fill(np.dtype("f4"), np.nan))


def test_grey() -> None:
    colour = random_pixels(np.random.default_rng(0), (5, 6, 3), "uint8")
    np.testing.assert_array_equal(to_grey(colour), colour[:, :, 0])
    grey = to_grey(colour, (0.299, 0.587, 0.114))
    assert grey.dtype == np.uint8
    np.testing.assert_allclose(grey, colour @ [0.299, 0.587, 0.114], atol=0.5)
    assert to_grey(colour[:, :, 0]).shape == (5, 6)
    with pytest.raises(InputError, match="2 weights for an image of 3 samples"):
        to_grey(colour, (0.5, 0.5))
    with pytest.raises(InputError, match="not \\(height, width"):
        to_grey(colour[None])


@pytest.mark.parametrize(
    ("dtype", "result"),
    [("uint8", "f4"), ("uint16", "f4"), ("float32", "f4"), ("float64", "f8"), ("int32", "f8")],
)
def test_normalised_range(dtype, result) -> None:
    image = np.array([[10, 20], [30, 50]], dtype=dtype)
    out = normalise_range(image, 10, 50)
    assert out.dtype == result
    np.testing.assert_allclose(out, [[0, 0.25], [0.5, 1]], rtol=1e-7)
    assert not normalise_range(image, 7, 7).any()


# --- size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "scale", "expected"),
    [
        ((7, 10), 0.5, (4, 5)),
        ((10, 20), 0.33, (3, 7)),
        ((5, 5), 1e-9, (1, 1)),
        ((4, 6), (2, 0.5), (8, 3)),
    ],
)
def test_sizes_round_halves_to_even(shape, scale, expected) -> None:
    assert resized_shape(shape, scale) == expected
    assert resize(np.zeros(shape, np.uint8), scale).shape == expected


@pytest.mark.parametrize("scale", [0, -1, np.nan, np.inf])
def test_scales_that_make_no_sense(scale) -> None:
    with pytest.raises(InputError, match="scale"):
        resized_shape((4, 4), scale)


def test_shrinking_is_the_mean_of_the_area() -> None:
    image = np.random.default_rng(0).random((12, 15))
    np.testing.assert_allclose(
        resize(image, 1 / 3), image.reshape(4, 3, 5, 3).mean((1, 3)), rtol=1e-12
    )
    uneven = resize(image, 0.7)
    assert uneven.mean() == pytest.approx(image.mean(), rel=0.05)
    np.testing.assert_allclose(resize(np.full((13, 9), 7.0), 0.4), 7, rtol=1e-12)


def test_enlarging_interpolates_between_pixel_centres() -> None:
    ramp = np.add.outer(2.0 * np.arange(6), np.arange(5))
    big = resize(ramp, 3)
    y, x = ((np.arange(3 * n) + 0.5) / 3 - 0.5 for n in ramp.shape)
    expected = np.add.outer(2 * np.clip(y, 0, 5), np.clip(x, 0, 4))
    np.testing.assert_allclose(big, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32", "int16"])
def test_resizing_keeps_the_type_and_the_image_at_scale_one(dtype) -> None:
    rng = np.random.default_rng(1)
    image = rng.random((20, 21)) < 0.5 if dtype == "bool" else random_pixels(rng, (20, 21), dtype)
    np.testing.assert_array_equal(resize(image, 1), image)
    assert resize(image, 0.3).dtype == image.dtype


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0.05, 3),
    st.floats(0.05, 3),
    st.integers(0, 1000),
)
def test_a_window_gives_the_same_bits_as_the_whole(shape, sy, sx, seed) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape).astype(np.float32)
    new = resized_shape(shape, (sy, sx))
    whole = resize(image, (sy, sx))
    y0, x0 = (int(rng.integers(0, n)) for n in new)
    y1, x1 = (int(rng.integers(k + 1, n + 1)) for k, n in zip((y0, x0), new, strict=True))
    spans = [
        source_span(a, b, n, m) for a, b, n, m in zip((y0, x0), (y1, x1), shape, new, strict=True)
    ]
    window = image[slice(*spans[0]), slice(*spans[1])]
    part = resize_window(window, Box(y0, x0, y1, x1), shape, new)
    np.testing.assert_array_equal(part, whole[y0:y1, x0:x1])


# --- bit depth -----------------------------------------------------------------------------------


def test_whole_numbers_keep_their_values_or_are_refused() -> None:
    small = np.array([[0, 255]], np.uint16)
    np.testing.assert_array_equal(to_bits(small, 8), small)
    assert to_bits(small.astype(np.uint8), 16).dtype == np.uint8
    with pytest.raises(InputError, match="from 0 to 256 do not fit into 8 bits"):
        to_bits(np.array([[0, 256]], np.uint16), 8)
    with pytest.raises(InputError, match="from -1 to 5"):
        to_bits(np.array([[-1, 5]], np.int16), 8)
    with pytest.raises(InputError, match="1, 8 or 16"):
        to_bits(small, 12)
    np.testing.assert_array_equal(
        to_bits(np.array([[0, 257, 65535]], np.uint16), 8, rescale=True), [[0, 1, 255]]
    )


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (16, 65535)])
def test_floats_come_within_half_a_level(bits, top) -> None:
    image = np.random.default_rng(0).random((50, 50)).astype(np.float32)
    assert np.abs(to_bits(image, bits) / top - image).max() <= 0.5 / top + 1e-7
    for bad in ([[0, 1.1]], [[-0.2, 1]], [[0, np.nan]]):
        with pytest.raises(InputError, match="only 0 to 1"):
            to_bits(np.array(bad), bits)


def test_masks() -> None:
    mask = np.array([[True, False]])
    assert to_bits(mask, 1) is mask
    np.testing.assert_array_equal(to_bits(mask, 8), [[1, 0]])
    np.testing.assert_array_equal(to_bits(np.array([[0, 1]], np.uint8), 1), [[False, True]])


def test_unit_range_goes_by_the_type_not_by_the_image() -> None:
    tiles = [np.array([[50, top]], np.uint8) for top in (100, 200)]
    units = [to_unit(t, np.dtype("f4")) for t in tiles]
    assert units[0][0, 0] == units[1][0, 0] == np.float32(50 / 255)
    floats = np.array([[0.25, 3.0]])
    np.testing.assert_array_equal(to_unit(floats, np.dtype("f4")), floats)


def test_quantiles() -> None:
    assert quantile(np.arange(1000), 0.995) == pytest.approx(994.005)
    assert quantile(np.array([np.nan, 1.0, 3.0]), 0.5) == 2
    with pytest.raises(InputError, match="from 0 to 1"):
        quantile(np.arange(3), 1.5)
    with pytest.raises(InputError, match="no finite"):
        quantile(np.full(3, np.nan), 0.5)
