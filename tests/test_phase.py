"""Phase correlation: known shifts, limits on the overlap, what chance reaches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import fftshift
from scipy.ndimage import fourier_shift, gaussian_filter

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box
from mosaicreg.noise import Statistics
from mosaicreg.phase import (
    correlate_images,
    correlate_spectra,
    find_peak,
    overlap_mask,
    pad,
    padded_length,
    phase_surface,
    spectrum,
)


def texture(seed: int, sigma: float = 1.0, side: int = 400) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(side, side))
    return gaussian_filter(noise, sigma, mode="wrap")


def views(seed, shift, shapes=((128, 128), (128, 128)), sigma=1.0) -> list[np.ndarray]:
    """A fixed and a moving view whose first pixels lie ``shift`` (dy, dx) apart."""
    image = texture(seed, sigma)
    moved = np.fft.ifft2(fourier_shift(np.fft.fft2(image), [-s for s in shift])).real
    return [
        (200 + 1000 * v[90 : 90 + h, 90 : 90 + w]).astype(np.float32)
        for v, (h, w) in zip((image, moved), shapes, strict=True)
    ]


def padded_offset(fixed, moving, overlap=(0.05, 1.0), whitening=0.65):
    largest = max(*fixed.shape, *moving.shape)
    side = padded_length(largest, overlap[0])
    spectra = [spectrum(pad(v, (side, side))) for v in (fixed, moving)]
    shapes = fixed.shape, moving.shape
    return correlate_spectra(*spectra, (side, side), shapes, overlap, whitening)


# --- padding -------------------------------------------------------------------------------------


def test_padded_lengths() -> None:
    assert [padded_length(n, 0.05, "exact") for n in (100, 130)] == [190, 247]
    assert padded_length(100, 0.05) == 192
    assert padded_length(100, 0.05, "power of two") == 256
    assert padded_length(128, 1.0, "power of two") == 128


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
def test_padding_keeps_the_image_in_the_middle_of_its_own_noise(dtype) -> None:
    image = (np.random.default_rng(0).random((100, 131)) * 200).astype(dtype)
    out = pad(image, (190, 247))
    assert out.dtype == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_array_equal(out[45:145, 58:189], image)
    border = np.ones(out.shape, bool)
    border[45:145, 58:189] = False
    noise = out[border]
    assert image.min() <= noise.min() <= noise.max() <= image.max()
    assert np.median(noise) == pytest.approx(np.median(image), abs=3)
    np.testing.assert_array_equal(pad(image, (190, 247)), out)
    assert (pad(image, (190, 247), seed=5)[border] != noise).mean() > 0.5
    stats = Statistics(7.0, 0.0, 7.0, 7.0, 1)
    assert (pad(image, (190, 247), stats)[border] == 7).all()


def test_padding_to_the_same_shape_copies_and_to_a_smaller_one_fails() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    out = pad(image, (2, 3))
    assert out.dtype == np.uint8
    assert not np.shares_memory(out, image)
    with pytest.raises(InputError, match="cannot be padded"):
        pad(image, (1, 9))


# --- surface -------------------------------------------------------------------------------------


@pytest.mark.parametrize("whitening", [0.0, 0.65, 1.0])
@pytest.mark.parametrize("shape", [(64, 64), (63, 50), (1, 9)])
def test_a_perfect_match_reaches_one_at_no_shift(whitening, shape) -> None:
    image = np.random.default_rng(0).normal(size=shape)
    s = spectrum(image)
    surface = phase_surface(s, s, shape, whitening)
    assert surface.argmax() == 0
    assert surface[0, 0] == pytest.approx(1, abs=1e-5)


def test_the_surface_is_the_definition() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 15, 22))
    surface = phase_surface(spectrum(a), spectrum(b), a.shape, 1.0)
    product = np.conj(np.fft.fft2(a - a.mean())) * np.fft.fft2(b - b.mean())
    product[0, 0] = 0
    product[product != 0] /= np.abs(product[product != 0])
    plain = np.fft.ifft2(product).real * a.size / (a.size - 1)
    np.testing.assert_allclose(surface, plain, atol=1e-3)


def test_the_precision_follows_the_pixels() -> None:
    image = np.random.default_rng(0).integers(0, 255, (16, 16))
    for dtype, expected in (("u1", "f4"), ("u2", "f4"), ("f4", "f4"), ("f8", "f8")):
        s = spectrum(image.astype(dtype))
        assert phase_surface(s, s, (16, 16)).dtype == expected


def test_a_whitening_that_is_no_exponent_is_refused() -> None:
    s = spectrum(np.eye(4))
    with pytest.raises(InputError, match="whitening"):
        phase_surface(s, s, (4, 4), 1.5)


# --- overlap -------------------------------------------------------------------------------------


@pytest.mark.row("C4")
def test_the_golden_mask() -> None:
    mask = overlap_mask((128, 128), (128, 128), (256, 256), 0.25, 0.75)
    assert mask.shape == (256, 256)
    assert mask.sum() == 24168
    np.testing.assert_array_equal(np.flatnonzero(mask[128]), [*range(32, 97), *range(160, 225)])
    assert not mask[128, 128]
    np.testing.assert_array_equal(mask[1:, 1:], mask[1:, 1:][::-1, ::-1])


sides = st.integers(1, 9)
pairs = st.tuples(sides, sides)


@pytest.mark.row("C4")
@given(pairs, pairs, pairs, st.floats(0, 0.6), st.floats(0.61, 1))
def test_the_mask_is_what_counting_pixels_says(fixed, moving, surface, low, high) -> None:
    # Twice the size: the middles of images of odd and even size then lie on whole pixels.
    mask = overlap_mask(fixed, moving, surface, low, high)
    for y, x in np.ndindex(*surface):
        dy, dx = y - surface[0] // 2, x - surface[1] // 2
        a = Box.at((-fixed[0], -fixed[1]), (2 * fixed[0], 2 * fixed[1]))
        b = Box.at((2 * dy - moving[0], 2 * dx - moving[1]), (2 * moving[0], 2 * moving[1]))
        common = a.intersection(b)
        area = common.area if common else 0
        share = area / (4 * min(fixed[0], moving[0]) * min(fixed[1], moving[1]))
        if min(abs(share - low), abs(share - high)) > 1e-6:
            assert (True if mask is None else mask[y, x]) == (low <= share <= high)


def test_limits_that_leave_nothing_are_refused() -> None:
    shape = (8, 8)
    assert overlap_mask(shape, shape, shape) is None
    for limits in ((0.5, 0.5), (0.7, 0.2), (-0.1, 1), (0, 1.2)):
        with pytest.raises(InputError, match="overlap"):
            overlap_mask(shape, shape, shape, *limits)


# --- peaks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (63, 65), (16, 101)])
@pytest.mark.parametrize("shift", [(0, 0), (3, -5), (-7, 20), (-8, 8)])
def test_a_single_point_is_where_it_is(shape, shift) -> None:
    surface = np.zeros(shape)
    place = [(n // 2 - s) % n for n, s in zip(shape, shift, strict=True)]
    surface[tuple(place)] = 1
    peak = find_peak(surface)
    expected = [n // 2 - p for n, p in zip(shape, place, strict=True)]
    np.testing.assert_allclose(peak.offset, expected, atol=0.01)
    assert peak.weight > 10


def test_the_mask_and_the_order_of_equals() -> None:
    surface = np.zeros((40, 40))
    surface[10, 10] = surface[30, 30] = 1
    assert find_peak(surface).offset == (10, 10)
    mask = np.ones(surface.shape, bool)
    mask[:20] = False
    np.testing.assert_allclose(find_peak(surface, mask).offset, (-10, -10), atol=1e-6)
    assert find_peak(surface, np.zeros_like(mask)).weight == 0
    assert find_peak(np.full((5, 5), 3.0)).weight == 0


def test_peaks_of_nonsense() -> None:
    with pytest.raises(InputError, match="mask of"):
        find_peak(np.zeros((4, 4)), np.ones((3, 4), bool))
    with pytest.raises(InputError, match="NaN"):
        find_peak(np.array([[1.0, np.nan]]))
    with pytest.raises(InputError, match="cutoff"):
        find_peak(np.eye(4), cutoff=99.5)


# --- whole images --------------------------------------------------------------------------------


@pytest.mark.row("C1")
@pytest.mark.parametrize("whitening", [0.65, 1.0])
@pytest.mark.parametrize("shift", [(10, 0), (0, -17), (20, 33), (-41, 12), (0, 0)])
def test_whole_shifts_come_back(shift, whitening) -> None:
    peak = padded_offset(*views(1, shift), whitening=whitening)
    np.testing.assert_allclose(peak.offset, shift, atol=0.1)
    assert peak.weight > 10


@pytest.mark.row("C1")
@pytest.mark.parametrize("part", [0.25, 0.5, 0.75])
def test_fractions_come_back(part) -> None:
    for seed in range(4):
        peak = padded_offset(*views(seed, (part, -part)))
        np.testing.assert_allclose(peak.offset, (part, -part), atol=0.2)


@pytest.mark.row("C1")
def test_an_image_matches_itself_best_of_all() -> None:
    image = views(1, (0, 0))[0]
    own = padded_offset(image, image)
    np.testing.assert_allclose(own.offset, (0, 0), atol=0.01)
    others = [padded_offset(image, views(1, (k, 3))[1]).weight for k in (0, 1, 20)]
    assert own.weight > max(others)


@pytest.mark.row("C2")
@pytest.mark.parametrize(
    "shapes",
    [
        ((120, 150), (200, 180)),
        ((121, 150), (200, 180)),
        ((120, 151), (201, 180)),
        ((200, 180), (121, 151)),
    ],
)
def test_images_of_different_shape_in_all_parities(shapes) -> None:
    fixed, moving = views(2, (20, 31), shapes)
    exact = np.array((20, 31)) - (np.array(fixed.shape) - moving.shape) / 2
    for peak in (correlate_images(fixed, moving), padded_offset(fixed, moving)):
        np.testing.assert_allclose(peak.offset, exact, atol=0.25)


def test_the_noise_around_mirrored_images_does_not_match() -> None:
    image = views(3, (0, 0))[0]
    for mirror in (image[::-1], image[:, ::-1], image[::-1, ::-1]):
        assert padded_offset(image, mirror.copy()).weight < 8


@pytest.mark.row("C3")
def test_nothing_to_match_has_no_weight() -> None:
    flat = np.full((32, 32), 7, np.uint8)
    image = views(1, (0, 0))[0][:32, :32]
    for a, b in ((flat, flat), (flat, image), (image, flat), (flat[:1, :1], flat[:1, :1])):
        assert correlate_images(a, b).weight == 0
    assert correlate_images(flat, image[:20]).weight == 0


@pytest.mark.row("C3")
def test_images_that_cannot_be_correlated_say_why() -> None:
    image = views(1, (0, 0))[0]
    bad = image.copy()
    bad[3, 4] = np.nan
    for other in (image, image[:50]):
        with pytest.raises(InputError, match="1 of the image's"):
            correlate_images(other, bad)
    with pytest.raises(InputError, match="must be"):
        correlate_images(image, image[None])


@pytest.mark.row("C5")
def test_chance_stays_below_a_true_match_of_a_quarter() -> None:
    noise = [(1000 * texture(k, 1.0, 128)).astype(np.float32) for k in range(101)]
    chance = [padded_offset(noise[k], noise[k + 1], (0.2, 1.0)).weight for k in range(100)]
    true = [padded_offset(*views(k, (64, 64)), (0.2, 1.0)).weight for k in range(10)]
    assert sum(c >= min(true) for c in chance) <= 1


def test_surfaces_are_circular() -> None:
    image = texture(0, 1.0, 64)
    moved = np.roll(image, (-5, 9), (0, 1))  # moved[p] = image[p + (5, -9)]
    surface = phase_surface(spectrum(image), spectrum(moved), image.shape)
    assert np.unravel_index(surface.argmax(), surface.shape) == (64 - 5, 9)
    np.testing.assert_allclose(find_peak(fftshift(surface)).offset, (5, -9), atol=1e-3)
