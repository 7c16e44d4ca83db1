"""Statistics and noise: exact counts, and pixels that do not depend on how they were asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, boxes, random_pixels

from mosaicreg.geometry import Box
from mosaicreg.noise import (
    BLOCK,
    Limits,
    Statistics,
    Tally,
    as_seed,
    between,
    fill_masked,
    large_regions,
    noise_pixels,
    standard_noise,
)


@given(st.integers(0, 2**32), st.sampled_from((*DTYPES, "bool", "int32")), st.booleans())
def test_statistics_are_those_of_numpy(seed, dtype, masked) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    image = rng.random(shape) < 0.3 if dtype == "bool" else random_pixels(rng, shape, dtype)
    mask = rng.random(shape) < 0.7 if masked else None
    stats = Statistics.of(image, mask)
    values = image.ravel() if mask is None else image[mask]
    assert stats.count == values.size
    if values.size == 0:
        assert np.isnan(stats.numbers).all()
        return
    step = (float(values.max()) - float(values.min())) / 65535
    tolerance = step if dtype in ("float32", "float64", "int32") else 1e-9 * max(1, step * 65535)
    assert stats.median == pytest.approx(np.median(values.astype(float)), abs=tolerance)
    assert stats.std == pytest.approx(values.astype(float).std(), abs=tolerance)
    limits = values.astype(float)
    assert stats.numbers[2:] == pytest.approx((limits.min(), limits.max()), abs=tolerance)


@given(st.integers(0, 2**32), st.sampled_from((*DTYPES, "int32")), st.integers(1, 30))
def test_tallies_of_parts_add_up_to_the_same_numbers(seed, dtype, cut) -> None:
    rng = np.random.default_rng(seed)
    image = random_pixels(rng, (31, 17), dtype)
    limits = Limits.of(image[:cut]) | Limits.of(image[cut:])
    assert limits == Limits.of(image)
    parts = Tally.of(image[:cut], limits=limits), Tally.of(image[cut:], None, limits, (cut, 0))
    whole = Tally.of(image, limits=limits).statistics()
    assert (parts[0] + parts[1]).statistics() == whole
    assert (parts[1] + parts[0]).statistics().seed == whole.seed


def test_pixels_that_are_not_numbers_do_not_count() -> None:
    image = np.array([[1.0, np.nan], [np.inf, 3.0]], dtype=np.float32)
    stats = Statistics.of(image)
    assert stats.count == 2
    assert stats.numbers == pytest.approx((2, 1, 1, 3), abs=1e-4)
    assert Statistics.of(np.full((3, 3), np.nan)).count == 0


def test_an_image_and_its_mirror_get_different_noise() -> None:
    image = random_pixels(np.random.default_rng(0), (40, 40), "uint8")
    seeds = {Statistics.of(v).seed for v in (image, image[::-1], image[:, ::-1], image.T)}
    assert len(seeds) == 4
    assert Statistics.of(image.copy()).seed in seeds


@given(boxes(-300, 300), boxes(-300, 300), st.integers(0, 2**64))
def test_a_pixel_has_the_same_noise_in_every_box(one, other, seed) -> None:
    common = one.intersection(other)
    noise = [standard_noise(box, seed) for box in (one, other)]
    assert noise[0].shape == one.shape
    if common is not None:
        a, b = (
            n[common.shifted(-box.y0, -box.x0).slices]
            for n, box in zip(noise, (one, other), strict=True)
        )
        np.testing.assert_array_equal(a, b)


def test_noise_is_normal_and_blocks_differ() -> None:
    noise = standard_noise(Box(-BLOCK, -BLOCK, 3 * BLOCK, 3 * BLOCK), 5)
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
    blocks = noise.reshape(4, BLOCK, 4, BLOCK).swapaxes(1, 2).reshape(16, -1)
    assert np.abs(np.corrcoef(blocks) - np.eye(16)).max() < 0.05
    assert not (noise == standard_noise(Box(-BLOCK, -BLOCK, 3 * BLOCK, 3 * BLOCK), 6)).any()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_noise_has_the_statistics_and_stays_within_the_limits(dtype) -> None:
    stats = Statistics(100.0, 20.0, 60.0, 130.0, 1)
    box = Box(0, 0, 200, 200)
    noise = noise_pixels(box, np.dtype(dtype), stats, 1)
    assert noise.dtype == dtype
    assert (noise.min(), noise.max()) == (60, 130)
    assert np.median(noise) == pytest.approx(100, abs=0.5)
    inside = noise_pixels(box, np.dtype(dtype), stats, 1, inside=True)
    assert inside.min() > 60
    assert inside.max() < 130


def test_noise_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="give the median"):
        noise_pixels(Box(0, 0, 2, 2), np.dtype("u1"), Statistics.of(np.zeros((0, 0), "u1")))


def test_filling_changes_only_what_is_masked_out() -> None:
    image = random_pixels(np.random.default_rng(3), (60, 50), "uint16")
    before = image.copy()
    mask = np.random.default_rng(4).random(image.shape) < 0.5
    stats = Statistics.of(image, mask)
    filled = fill_masked(image, mask, stats, 9)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(filled[mask], image[mask])
    assert (filled[~mask] != image[~mask]).mean() > 0.9
    part = fill_masked(image[20:, 10:], mask[20:, 10:], stats, 9, corner=(20, 10))
    np.testing.assert_array_equal(part, filled[20:, 10:])


def test_extremes_and_their_regions() -> None:
    image = np.full((20, 20), 5, np.uint8)
    assert between(image, Limits.of(image)).all()
    image[:4, :4] = 0
    image[10, 10] = 0
    image[0, 19] = 9
    extreme = ~between(image, Limits.of(image))
    assert extreme.sum() == 16 + 1 + 1
    assert large_regions(extreme, 16 / 400).sum() == 16
    assert not large_regions(extreme, 17 / 400).any()


def test_seeds() -> None:
    assert as_seed(None) is None
    assert as_seed(7) == 7
    assert as_seed(np.random.default_rng(1)) == as_seed(np.random.default_rng(1))
