"""The documented names: signatures, golden numbers, lazy arrays, bad input."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from strategies import random_pixels

import mosaicreg.nornir as nornir_imageregistration
from mosaicreg.errors import InputError
from mosaicreg.imagesave import load_grey, save_grey, write_zarr
from mosaicreg.nornir import core

NORNIR = nornir_imageregistration
DOCUMENTED = """
AlignmentRecord(peak, weight, angle=0.0, flipped_ud=False, scale=1.0)
ConstrainedRange(start, count, maxVal, minVal=0)
ConvertImagesInDict(ImagesToConvertDict, Flip=False, Flop=False, InputBpp=None, OutputBpp=None,\
 Invert=False, bDeleteOriginal=False, RightLeftShift=None, AndValue=None, MinMax=None, Gamma=None)
CropImage(imageparam, Xo, Yo, Width, Height, cval=None)
DimensionWithOverlap(val, overlap=1.0)
ExtractROI(image, center, area)
FFTPhaseCorrelation(FFTFixed, FFTMoving, delete_input=False)
FindOffset(FixedImage, MovingImage, MinOverlap=0.0, MaxOverlap=1.0, FFT_Required=True,\
 FixedImageShape=None, MovingImageShape=None)
FindPeak(image, OverlapMask=None, Cutoff=None)
ForceGrayscale(image)
GenRandomData(height, width, mean, standardDev, min_val, max_val)
GetImageSize(image_param)
ImageIntensityAtPercent(image, Percent=0.995)
ImagePhaseCorrelation(FixedImage, MovingImage)
ImageToTiles(source_image, tile_size, grid_shape=None, cval=0)
ImageToTilesGenerator(source_image, tile_size, grid_shape=None, coord_offset=None, cval=0)
LoadImage(ImageFullPath, ImageMaskFullPath=None, MaxDimension=None, dtype=None)
NearestPowerOfTwoWithOverlap(val, overlap=1.0)
NormalizeImage(image)
OneBit_img_from_bool_array(data)
PadImageForPhaseCorrelation(image, MinOverlap=0.05, ImageMedian=None, ImageStdDev=None,\
 NewWidth=None, NewHeight=None, PowerOfTwo=True)
RandomNoiseMask(image, Mask, ImageMedian=None, ImageStdDev=None, Copy=False)
ReplaceImageExtramaWithNoise(image, ImageMedian=None, ImageStdDev=None)
ResizeImage(image, scalar)
SafeROIRange(start, count, maxVal, minVal=0)
SaveImage(ImageFullPath, image, bpp=None, **kwargs)
SaveImage_JPeg2000(ImageFullPath, image, tile_dim=None)
ScalarForMaxDimension(max_dim, shapes)
Shrink(InFile, OutFile, Scalar, **kwargs)
TileGridShape(source_image_shape, tile_size)
array_distance(array)
index_with_array(image, indicies)
memmap_metadata(path, shape, dtype, mode=None)
npArrayToReadOnlySharedArray(npArray)
ravel_index(idx, shp)
uint16_img_from_float_array(image)
uint16_img_from_uint16_array(data)
""".strip().splitlines()
RNG = np.random.default_rng(0)


def texture(seed: int = 0, side: int = 320) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 1.2)
    return np.clip(120 + 120 * noise / noise.std() / 3, 0, 255).astype(np.uint8)


def same(lazily: Any, eagerly: np.ndarray) -> None:
    assert isinstance(lazily, da.Array)
    assert (lazily.shape, lazily.dtype) == (eagerly.shape, eagerly.dtype)
    np.testing.assert_array_equal(lazily.compute(scheduler="synchronous"), eagerly)


@pytest.mark.parametrize("line", DOCUMENTED, ids=lambda line: line.partition("(")[0])
def test_signatures_are_the_documented_ones(line) -> None:
    name = line.partition("(")[0]
    module = NORNIR.alignment_record if name == "AlignmentRecord" else core
    assert getattr(NORNIR, name) is getattr(module, name)
    found = inspect.signature(getattr(core if module is core else module, name))
    documented = [
        p for p in found.parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in documented]
    signature = found.replace(parameters=plain, return_annotation=inspect.Signature.empty)
    assert f"{name}{signature}" == line
    for extra in set(found.parameters.values()) - set(documented):
        assert extra.default is not inspect.Parameter.empty


# --- A1 to A4, A10: ranges and sizes -------------------------------------------------------------


@pytest.mark.row("A1")
def test_ranges() -> None:
    assert list(NORNIR.ConstrainedRange(-3, 16, 32)) == list(range(13))
    assert list(NORNIR.ConstrainedRange(24, 16, 32)) == list(range(24, 32))
    assert list(NORNIR.SafeROIRange(24, 16, 32)) == list(range(16, 32))
    assert list(NORNIR.SafeROIRange(3, 5, 9, 2)) == list(range(3, 8))
    for bad in ((24, 16, 5), (0, 1, 0, 0), (0, 1, 3, 5)):
        with pytest.raises(ValueError, match=r"range|room"):
            NORNIR.SafeROIRange(*bad)


@pytest.mark.row("A4")
def test_lengths() -> None:
    overlaps = (0, 0.05, 0.1, 0.25, 0.5)
    assert [NORNIR.DimensionWithOverlap(100, o) for o in overlaps] == [200, 190, 180, 150, 100]
    nearest = NORNIR.NearestPowerOfTwoWithOverlap
    assert [nearest(100, o) for o in overlaps] == [256, 256, 256, 256, 128]
    assert (nearest(512, 0), nearest(512, 1)) == (1024, 512)
    assert (nearest(1000, 0), nearest(1000)) == (2048, 1024)
    assert (nearest(256, None), nearest(256, 7)) == (512, 256)
    assert isinstance(nearest(100, 0.1), int)
    assert NORNIR.ScalarForMaxDimension(512, [(1024, 800), (300, 2048)]) == 0.25
    assert NORNIR.ScalarForMaxDimension(2048, (1024, 800)) == 2


@pytest.mark.row("A10")
def test_indices() -> None:
    np.testing.assert_array_equal(NORNIR.ravel_index([[1, 2], [2, 3]], (3, 4)), [6, 11])
    np.testing.assert_array_equal(NORNIR.array_distance([[3, 4], [0, 0]]), [5, 0])
    assert NORNIR.array_distance([3, 4]) == 5
    image = random_pixels(RNG, (9, 7), "uint8")
    where = np.array([[0, 6], [8, 0], [4, 3]])
    picked = NORNIR.index_with_array(image, where)
    np.testing.assert_array_equal(picked, image[where[:, 0], where[:, 1]])
    same(NORNIR.index_with_array(da.from_array(image, chunks=4), where), picked)
    with pytest.raises(ValueError, match="whole numbers"):
        NORNIR.index_with_array(image, where * 1.0)
    for bad in ([[9, 0]], [[0, -1]]):
        with pytest.raises(IndexError, match="1 indices lie outside"):
            NORNIR.ravel_index(bad, (9, 7))
    assert NORNIR.ravel_index([], (3, 4)).shape == (0,)


ROW = np.tile(np.arange(1, 17), (16, 1)).astype(np.uint8)


@pytest.mark.row("A2")
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "crop",
    [
        (0, 0, 4, 4),
        (-1, -1, 4, 4),
        (0, 0, 20, 20),
        (-1, -1, 20, 20),
        (1, 1, 17, 17),
        (1, 0, 8, 16),
        (30, 30, 5, 5),
        (0, 0, 0, 3),
    ],
)
def test_crops(crop, dtype) -> None:
    image = ROW.astype(dtype)
    x, y, width, height = crop
    out = NORNIR.CropImage(image, *crop, cval=3)
    expected = np.full((60, 60), 3, dtype)
    expected[20:36, 20:36] = image
    expected = expected[20 + y : 20 + y + height, 20 + x : 20 + x + width]
    np.testing.assert_array_equal(out, expected)
    assert out.dtype == dtype
    same(NORNIR.CropImage(da.from_array(image, chunks=5), *crop, cval=3), expected)


@pytest.mark.row("A2")
def test_crops_of_masks_and_files_and_bad_ones(tmp_path) -> None:
    mask = ROW > 8
    assert NORNIR.CropImage(mask, -1, 0, 3, 2).dtype == bool
    save_grey(tmp_path / "a.png", ROW)
    np.testing.assert_array_equal(
        NORNIR.CropImage(str(tmp_path / "a.png"), np.int64(2), 3.0, 4, 5), ROW[3:8, 2:6]
    )
    for bad, reason in [
        ((0, 0, -1, 4), "cannot be"),
        ((0.5, 0, 4, 4), "whole number"),
        ((0, 0, 4, 4, 300), "does not fit"),
        ((0, 0, 4, 4, "blue"), "must be a number"),
    ]:
        with pytest.raises(ValueError, match=reason):
            NORNIR.CropImage(ROW, *bad)
    with pytest.raises(FileNotFoundError, match="no such image"):
        NORNIR.CropImage(tmp_path / "b.png", 0, 0, 1, 1)


def test_crops_with_noise() -> None:
    image = texture()[:64, :64]
    crop = NORNIR.CropImage(image, -8, -8, 16, 16, cval="random")
    inside = image[:8, :8]
    np.testing.assert_array_equal(crop[8:, 8:], inside)
    assert inside.min() <= crop.min() <= crop.max() <= inside.max()
    assert len(np.unique(crop[:8])) > 5
    same(NORNIR.CropImage(da.from_array(image, chunks=9), -8, -8, 16, 16, cval="random"), crop)
    outside = NORNIR.CropImage(image, 100, 100, 8, 8, cval="random", rng=1)
    assert image.min() <= outside.min() <= outside.max() <= image.max()
    assert (outside != NORNIR.CropImage(image, 100, 100, 8, 8, cval="random", rng=2)).any()


@pytest.mark.row("A3")
def test_regions() -> None:
    image = np.arange(256).reshape(16, 16)
    for centre, area, rows in [
        ((8, 8), (4, 4), (6, 10)),
        ((8, 8), (5, 5), (6, 11)),
        ((0, 0), (4, 4), (0, 4)),
        ((15, 15), (4, 4), (12, 16)),
    ]:
        roi = NORNIR.ExtractROI(image, centre, area)
        np.testing.assert_array_equal(roi, image[slice(*rows), slice(*rows)])
        assert not np.shares_memory(roi, image)
    with pytest.raises(ValueError, match="no room"):
        NORNIR.ExtractROI(image, (8, 8), (17, 4))


# --- A5 to A7: noise -----------------------------------------------------------------------------


@pytest.mark.row("A5")
def test_padding() -> None:
    image = texture()[:100, :130]
    out = NORNIR.PadImageForPhaseCorrelation(image, 0.05, PowerOfTwo=False)
    assert out.shape == (190, 247)
    np.testing.assert_array_equal(out[45:145, 58:188], image)
    again = NORNIR.PadImageForPhaseCorrelation(image, 0.05, PowerOfTwo=False)
    np.testing.assert_array_equal(out, again)
    assert NORNIR.PadImageForPhaseCorrelation(image).shape == (256, 256)
    wide = NORNIR.PadImageForPhaseCorrelation(image, NewWidth=300, NewHeight=101, rng=3)
    assert wide.shape == (101, 300)
    same(NORNIR.PadImageForPhaseCorrelation(da.from_array(image, chunks=33), PowerOfTwo=False), out)
    flat = NORNIR.PadImageForPhaseCorrelation(image, ImageMedian=100, ImageStdDev=0)
    assert (flat[0] == 100).all()
    with pytest.raises(ValueError, match="cannot be padded"):
        NORNIR.PadImageForPhaseCorrelation(image, NewWidth=10, NewHeight=10)


@pytest.mark.row("A6")
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_masked_noise(dtype) -> None:
    image = texture()[:80, :90].astype(dtype)
    mask = np.zeros(image.shape, np.uint8)
    mask[20:60, 30:] = 1
    image[0, 0] = 255  # masked out: not a limit of the noise
    before = image.copy()
    out = NORNIR.RandomNoiseMask(image, mask)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(out[mask == 1], image[mask == 1])
    kept = image[mask == 1]
    assert kept.min() <= out.min() <= out.max() <= kept.max()
    chunked = da.from_array(image, chunks=37)
    same(NORNIR.RandomNoiseMask(chunked, mask), out)
    same(NORNIR.RandomNoiseMask(chunked, da.from_array(mask, chunks=11)), out)
    assert NORNIR.RandomNoiseMask(image, mask, out=image) is image
    np.testing.assert_array_equal(image, out)
    assert (NORNIR.RandomNoiseMask(before, mask, rng=5) != out).any()


def test_masks_that_leave_nothing() -> None:
    image, nothing = texture()[:9, :9], np.zeros((9, 9))
    with pytest.raises(ValueError, match="give the median"):
        NORNIR.RandomNoiseMask(image, nothing)
    assert (NORNIR.RandomNoiseMask(image, nothing, 7, 0) == 7).all()
    with pytest.raises(ValueError, match="mask of shape"):
        NORNIR.RandomNoiseMask(image, nothing[:5])


@pytest.mark.row("A7")
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_extrema(dtype) -> None:
    image = np.clip(texture()[:70, :70].astype(float), 60, 180).astype(dtype)
    assert (image == 60).any()
    out = NORNIR.ReplaceImageExtramaWithNoise(image)
    assert 60 < out.min() <= out.max() < 180
    inside = (image > 60) & (image < 180)
    np.testing.assert_array_equal(out[inside], image[inside])
    same(NORNIR.ReplaceImageExtramaWithNoise(da.from_array(image, chunks=19)), out)
    flat = np.full((5, 5), 3, dtype)
    np.testing.assert_array_equal(NORNIR.ReplaceImageExtramaWithNoise(flat), flat)
    large = NORNIR.ReplaceImageExtramaWithNoise(image, size_cutoff=0.5)
    np.testing.assert_array_equal(large, image)


def test_generated_noise() -> None:
    data = NORNIR.GenRandomData(60, 70, 10, 3, 5, 12)
    assert (data.shape, data.dtype) == ((60, 70), np.float32)
    assert data.min() >= 5
    assert data.max() <= 12
    assert (NORNIR.GenRandomData(4, 4, 10, 0, 5, 12) == 10).all()
    assert (data != NORNIR.GenRandomData(60, 70, 10, 3, 5, 12, rng=8)).any()
    with pytest.raises(ValueError, match="from 9 to 3"):
        NORNIR.GenRandomData(4, 4, 5, 1, 9, 3)


# --- pixels --------------------------------------------------------------------------------------


def test_range_size_and_grey() -> None:
    image = texture()[:30, :41]
    normal = NORNIR.NormalizeImage(image)
    assert (normal.min(), normal.max(), normal.dtype) == (0, 1, np.float32)
    chunked = da.from_array(image, chunks=13)
    same(NORNIR.NormalizeImage(chunked), normal)
    assert not NORNIR.NormalizeImage(np.full((3, 3), 5.0)).any()
    half = NORNIR.ResizeImage(image, 0.5)
    assert (half.shape, half.dtype) == ((15, 20), np.uint8)
    same(NORNIR.ResizeImage(chunked, 0.5), half)
    assert NORNIR.ResizeImage(image, (2, 0.5)).shape == (60, 20)
    assert NORNIR.ResizeImage(np.zeros((7, 10)), 0.5).shape == (4, 5)
    colour = np.stack([image] * 3, axis=-1)
    np.testing.assert_array_equal(NORNIR.ForceGrayscale(colour), image)
    same(NORNIR.ForceGrayscale(da.from_array(colour, chunks=(9, 9, 2))), image)
    assert NORNIR.ImageIntensityAtPercent(np.arange(1000)) == pytest.approx(995.098, abs=1.1)
    assert NORNIR.ImageIntensityAtPercent(np.arange(1000), 0.5) == pytest.approx(500.476, abs=1.1)


# --- C: offsets ----------------------------------------------------------------------------------


@pytest.mark.row("C1")
@pytest.mark.parametrize("shift", [(10, 0), (0, -17), (20, 33), (-41, 12), (0, 0)])
def test_offsets(shift) -> None:
    big = texture()
    fixed = big[80:208, 80:208]
    moving = big[80 + shift[0] :, 80 + shift[1] :][:128, :128]
    padded = [NORNIR.PadImageForPhaseCorrelation(v, 0.3) for v in (fixed, moving)]
    given = {"FixedImageShape": fixed.shape, "MovingImageShape": moving.shape}
    record = NORNIR.FindOffset(*padded, 0.3, **given)
    np.testing.assert_allclose(record.peak, shift, atol=0.1)
    assert isinstance(record, NORNIR.AlignmentRecord)
    assert (record.angle, record.flipped_ud) == (0, False)
    spectra = [np.fft.fft2(p.astype(float) - p.mean(dtype=float)) for p in padded]
    ready = NORNIR.FindOffset(*spectra, 0.3, FFT_Required=False, **given)
    np.testing.assert_allclose(ready.peak, record.peak, atol=1e-3)


@pytest.mark.row("C3")
def test_surfaces_and_peaks_are_those_of_the_documents() -> None:
    big = texture()
    fixed, moving = big[50:178, 60:188], big[53:181, 50:178]
    for whitening in (0.65, 1.0):
        own = NORNIR.ImagePhaseCorrelation(fixed, fixed, whitening=whitening)
        assert own.argmax() == 0
        assert own[0, 0] == pytest.approx(1, abs=1e-5)
    surface = NORNIR.ImagePhaseCorrelation(fixed, moving)
    assert np.unravel_index(surface.argmax(), surface.shape) == (128 - 3, 10)
    full = [np.fft.fft2(v - v.mean()) for v in (fixed, moving)]
    np.testing.assert_allclose(NORNIR.FFTPhaseCorrelation(*full, True), surface, atol=2e-4)
    offset, weight = NORNIR.FindPeak(np.fft.fftshift(surface))
    np.testing.assert_allclose(offset, (3, -10), atol=0.1)
    assert isinstance(weight, float)
    assert NORNIR.FindPeak(surface, np.zeros(surface.shape), 0.99)[1] == 0


@pytest.mark.row("C2")
def test_images_of_two_shapes() -> None:
    big = texture()
    record = NORNIR.FindOffset(big[20:220, 30:210], big[50:170, 40:190])
    exact = np.array((30, 10)) - (np.array((200, 180)) - (120, 150)) / 2
    np.testing.assert_allclose(record.peak, exact, atol=0.25)


@pytest.mark.row("C3")
def test_what_cannot_be_correlated() -> None:
    image = texture()[:64, :64]
    flat = np.full((64, 64), 4, np.uint8)
    for a, b in ((flat, flat), (flat, image)):
        assert NORNIR.FindOffset(a, b).weight == 0
    nan = image.astype(float)
    nan[3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        NORNIR.FindOffset(image, nan)
    with pytest.raises(InputError, match="NaN"):
        NORNIR.FFTPhaseCorrelation(nan, nan)
    with pytest.raises(InputError, match="overlap"):
        NORNIR.FindOffset(image, image, 0.5, 0.5)
    with pytest.raises(InputError, match="one shape"):
        NORNIR.ImagePhaseCorrelation(image, image[:5])
    with pytest.raises(InputError, match="cannot have been padded"):
        NORNIR.FindOffset(image, image, 0.1, FixedImageShape=(99, 9))


# --- D1: tiles -----------------------------------------------------------------------------------


@pytest.mark.row("D1")
def test_the_grid_and_the_tiles_of_the_documents(tmp_path) -> None:
    image = np.arange(70, dtype=np.uint8).reshape(7, 10)
    chunked = da.from_array(image, chunks=3)
    stored = zarr.create_array(str(tmp_path / "a.zarr"), data=image, chunks=(3, 3))
    for source in (image, chunked, stored, (7, 10), np.array((7, 10))):
        grid = NORNIR.TileGridShape(source, (4, 4))
        assert (grid.tolist(), grid.dtype) == ([2, 3], np.int32)
    tiles = NORNIR.ImageToTiles(image, (4, 4))
    assert list(tiles) == [(r, c) for r in range(2) for c in range(3)]
    np.testing.assert_array_equal(tiles[1, 2][:3, :2], image[4:7, 8:10])
    assert not tiles[1, 2][3:].any()
    for source in (chunked, stored, tmp_path / "a.zarr"):
        lazily = NORNIR.ImageToTiles(source, np.array((4, 4)), cval=7)
        for key, tile in NORNIR.ImageToTiles(image, 4, cval=7).items():
            same(lazily[key], tile)
    assert (NORNIR.ImageToTiles(image, 4, cval=7)[1, 2][3] == 7).all()
    more = NORNIR.ImageToTiles(image, 4, (3, 3), cval=7)
    assert (more[2, 0] == 7).all()
    assert list(NORNIR.ImageToTiles(image, 4, (1, 2))) == [(0, 0), (0, 1)]
    noisy = NORNIR.ImageToTiles(image, 4, cval="random")[1, 2]
    assert set(np.unique(noisy)) <= set(range(48, 70))
    row, col, _ = next(NORNIR.ImageToTilesGenerator(image, 4, coord_offset=(3, 5)))
    assert (row, col) == (3, 5)
    with pytest.raises(ValueError, match="tiles of"):
        NORNIR.TileGridShape((7, 10), 0)


# --- A8, A9: files -------------------------------------------------------------------------------


@pytest.mark.row("A8")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".zarr"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "bool"])
def test_files(suffix, dtype, tmp_path) -> None:
    image = RNG.random((20, 30)) < 0.5 if dtype == "bool" else random_pixels(RNG, (20, 30), dtype)
    path = str(tmp_path / f"new ö/a{suffix}")
    NORNIR.SaveImage(path, image)
    found = NORNIR.LoadImage(path)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, image)
    assert NORNIR.GetImageSize(path) == (20, 30)
    top = {"bool": 1, "uint8": 255, "uint16": 65535}[dtype]
    np.testing.assert_allclose(NORNIR.LoadImage(path, dtype=np.float32), image / top, rtol=1e-6)


@pytest.mark.row("A9")
def test_loading() -> None:
    tiles = [np.array([[50, top]], np.uint8) for top in (100, 200)]
    ratio = np.divide(*(NORNIR.LoadImage(t, dtype=np.float32)[0, 0] for t in tiles))
    assert ratio == 1
    image = texture()
    small = NORNIR.LoadImage(image, MaxDimension=64)
    assert small.shape == (64, 64)
    assert NORNIR.LoadImage(image, MaxDimension=999).shape == image.shape
    mask = np.zeros(image.shape, bool)
    mask[50:] = True
    masked = NORNIR.LoadImage(image, mask)
    np.testing.assert_array_equal(masked[50:], image[50:])
    assert (masked[:50] != image[:50]).any()
    assert NORNIR.LoadImage(image, remove_extrema=True).max() < image.max()
    assert NORNIR.LoadImage(image, dtype=np.uint16).dtype == np.uint16
    with pytest.raises(InputError, match="do not fit into uint8"):
        NORNIR.LoadImage(np.array([[300]], np.uint16), dtype=np.uint8)
    for missing in (("no.png",), (image, "no.png")):
        with pytest.raises(FileNotFoundError):
            NORNIR.LoadImage(*missing)
    with pytest.raises(ValueError, match="mask of shape"):
        NORNIR.LoadImage(image, mask[:5])


def test_saving(tmp_path) -> None:
    with pytest.raises(InputError, match="do not fit"):
        NORNIR.SaveImage(tmp_path / "a.png", np.array([[300]], np.uint16), bpp=8)
    NORNIR.SaveImage(tmp_path / "a.png", np.array([[65535]], np.uint16), bpp=8, rescale=True)
    assert load_grey(tmp_path / "a.png")[0, 0] == 255
    image = texture()
    NORNIR.SaveImage_JPeg2000(tmp_path / "a.jp2", image, (100, 90))
    np.testing.assert_array_equal(NORNIR.LoadImage(tmp_path / "a.jp2"), image)
    NORNIR.SaveImage_JPeg2000(tmp_path / "b.jp2", image.astype(np.uint16) * 200)
    np.testing.assert_array_equal(NORNIR.LoadImage(tmp_path / "b.jp2"), image.astype(int) * 200)
    chunked = da.from_array(image, chunks=77)
    NORNIR.SaveImage(tmp_path / "a.zarr", chunked)
    NORNIR.SaveImage(tmp_path / "c.png", chunked)
    for name in ("a.zarr", "c.png"):
        np.testing.assert_array_equal(NORNIR.LoadImage(tmp_path / name), image)


def test_shrinking(tmp_path) -> None:
    image = random_pixels(RNG, (10, 20), "uint16")
    source = tmp_path / "a.tif"
    NORNIR.SaveImage(source, image)
    NORNIR.Shrink(source, tmp_path / "b.png", 0.33)
    small = NORNIR.LoadImage(tmp_path / "b.png")
    np.testing.assert_array_equal(small, NORNIR.ResizeImage(image, 0.33))
    assert (small.shape, small.dtype) == ((3, 7), np.uint16)
    NORNIR.Shrink(source, tmp_path / "c.tif", 1)
    assert (tmp_path / "c.tif").read_bytes() == source.read_bytes()
    NORNIR.SaveImage(tmp_path / "m.png", image > 30000)
    NORNIR.Shrink(tmp_path / "m.png", tmp_path / "n.png", 0.5)
    assert NORNIR.LoadImage(tmp_path / "n.png").dtype == bool
    with pytest.raises(FileNotFoundError):
        NORNIR.Shrink(tmp_path / "no.png", tmp_path / "o.png", 0.5)


@pytest.mark.row("A8")
def test_converting(tmp_path) -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    a, b, c = (tmp_path / f"{n}.png" for n in "abc")

    def convert(**options: Any) -> np.ndarray:
        NORNIR.SaveImage(a, image)
        assert NORNIR.ConvertImagesInDict({str(a): str(b)}, **options) is True
        return NORNIR.LoadImage(b)

    np.testing.assert_array_equal(convert(Invert=True), 255 - image)
    assert NORNIR.ConvertImagesInDict({b: c}, Invert=True)
    np.testing.assert_array_equal(NORNIR.LoadImage(c), image)
    np.testing.assert_array_equal(convert(Flip=True), image[::-1])
    np.testing.assert_array_equal(convert(Flop=True), image[:, ::-1])
    np.testing.assert_array_equal(convert(OutputBpp=16), image.astype(int) * 257)
    np.testing.assert_array_equal(convert(RightLeftShift=(2, 1)), image >> 2 << 1)
    np.testing.assert_array_equal(convert(AndValue=0xF0), image & 0xF0)
    np.testing.assert_array_equal(
        convert(MinMax=(50, None)), np.rint(np.clip((image - 50.0) / 205, 0, 1) * 255)
    )
    np.testing.assert_array_equal(convert(Gamma=2), np.rint((image / 255) ** 0.5 * 255))
    assert a.exists()
    convert(bDeleteOriginal=True)
    assert not a.exists()
    assert NORNIR.ConvertImagesInDict({}) is False


def test_conversions_that_fail_are_all_named_and_the_others_done(tmp_path) -> None:
    NORNIR.SaveImage(tmp_path / "a.png", texture())
    NORNIR.SaveImage(tmp_path / "f.npy", np.array([[0, 1 << 20]], np.uint32))
    with pytest.raises(InputError, match="2 of 3") as caught:
        NORNIR.ConvertImagesInDict(
            {
                tmp_path / "no.png": tmp_path / "x.png",
                tmp_path / "a.png": tmp_path / "b.png",
                tmp_path / "f.npy": tmp_path / "y.png",
            }
        )
    assert "no.png" in str(caught.value)
    assert "f.npy" in str(caught.value)
    assert (tmp_path / "b.png").exists()
    with pytest.raises(InputError, match="MinMax"):
        NORNIR.ConvertImagesInDict({"a": "b"}, MinMax=(9, 3))
    with pytest.raises(InputError, match="Gamma"):
        NORNIR.ConvertImagesInDict({"a": "b"}, Gamma=0)


def test_pillow_images() -> None:
    mask = RNG.random((5, 9)) < 0.5
    picture = NORNIR.OneBit_img_from_bool_array(mask)
    assert (picture.mode, picture.size) == ("1", (9, 5))
    np.testing.assert_array_equal(np.asarray(picture), mask)
    values = random_pixels(RNG, (5, 9), "uint16")
    picture = NORNIR.uint16_img_from_uint16_array(values)
    assert isinstance(picture, Image.Image)
    assert picture.mode == "I"
    np.testing.assert_array_equal(np.asarray(picture), values)
    floats = np.array([[0, 0.5, 1, -3, 7]])
    picture = NORNIR.uint16_img_from_float_array(floats)
    np.testing.assert_array_equal(np.asarray(picture), [[0, 32768, 65535, 0, 65535]])
    with pytest.raises(InputError, match="uint16, not"):
        NORNIR.uint16_img_from_uint16_array(floats)
    with pytest.raises(InputError, match="NaN"):
        NORNIR.uint16_img_from_float_array(floats * np.nan)


# --- sharing -------------------------------------------------------------------------------------


def test_where_an_image_lies_is_cheap_to_pass_on(tmp_path) -> None:
    image = texture()
    write_zarr(tmp_path / "a.zarr", image)
    note = NORNIR.memmap_metadata(str(tmp_path / "a.zarr"), image.shape, image.dtype)
    assert (note.path, note.shape, note.dtype, note.mode) == (
        str(tmp_path / "a.zarr"), image.shape, np.uint8, "c",
    )  # fmt: skip
    assert len(pickle.dumps(note)) < 400
    opened = pickle.loads(pickle.dumps(note)).open()
    np.testing.assert_array_equal(opened[10:20], image[10:20])
    with pytest.raises(ValueError, match="read-only"):
        opened[0, 0] = 1
    assert NORNIR.GetImageSize(note) == image.shape
    same(NORNIR.CropImage(note, 0, 0, 9, 9), image[:9, :9])
    made = NORNIR.memmap_metadata(str(tmp_path / "b.zarr"), (5, 5), "u2", "w+").open()
    made[...] = 7
    assert NORNIR.LoadImage(tmp_path / "b.zarr").max() == 7
    with pytest.raises(ValueError, match="mode"):
        NORNIR.memmap_metadata("x", (1, 1), "u1", 3)
    with pytest.raises(InputError, match="were promised"):
        NORNIR.memmap_metadata(str(tmp_path / "b.zarr"), (5, 6), "u2").open()


@pytest.mark.parametrize("shape", [(7,), (200, 300), (3, 4, 5)])
def test_shared_arrays_are_read_only_and_cheap_to_pass_on(shape) -> None:
    image = random_pixels(RNG, shape, "uint16")
    shared = NORNIR.npArrayToReadOnlySharedArray(image)
    assert isinstance(shared, np.ndarray)
    np.testing.assert_array_equal(shared, image)
    with pytest.raises(ValueError, match="read-only"):
        shared[(0,) * len(shape)] = 1
    content = pickle.dumps(shared)
    assert len(content) < 400
    other = pickle.loads(content)
    np.testing.assert_array_equal(other, image)
    assert not other.flags.writeable
    assert len(pickle.dumps(other)) < 400
    part = pickle.loads(pickle.dumps(shared[1:]))
    np.testing.assert_array_equal(part, image[1:])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(shared + 1)), image + 1)


@settings(max_examples=20)
@given(st.binary(max_size=200))
def test_rubbish_files_are_named(content) -> None:
    import tempfile
    from pathlib import Path

    from mosaicreg.errors import ImageError

    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".png", ".jp2", ".npy", ".tif"):
            path = Path(folder) / f"a{suffix}"
            path.write_bytes(content)
            with pytest.raises(ImageError, match=f"a{suffix}"):
                NORNIR.LoadImage(path)


@pytest.mark.row("B3")
def test_a_record_as_stos(tmp_path) -> None:
    from mosaicreg.transforms import format_transform

    save_grey(tmp_path / "fixed.png", np.zeros((100, 200), np.uint8))
    save_grey(tmp_path / "warped.png", np.zeros((40, 60), np.uint8))
    record = NORNIR.AlignmentRecord((5, 7), 1, 90)
    stos = NORNIR.ToStos(record, tmp_path / "fixed.png", tmp_path / "warped.png")
    name, *words = format_transform(stos.transform).split()
    assert name == "GridTransform_double_2_2"
    assert (words[0], words[10]) == ("vp", "fp")
    vertices, grid = ([float(w) for w in part] for part in (words[1:10], words[11:]))
    np.testing.assert_allclose(vertices, [8, 87, 84, 87, 25, 126, 84, 126, 25], atol=1e-9)
    assert grid == [7, 0, 1, 1, 0, 0, 59, 39]
    np.testing.assert_allclose(stos.pixel_transform.transform([(0, 0)]), [(84, 87)], atol=1e-6)
