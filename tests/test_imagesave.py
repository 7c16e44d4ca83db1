"""Images into files and back: values survive, or nothing is written and the reason is said."""

from __future__ import annotations

import dask.array as da
import imagecodecs
import numpy as np
import pytest
from PIL import Image
from strategies import random_pixels

from mosaicreg.errors import ImageError, InputError
from mosaicreg.imagefile import read_header, read_image, write_tiff
from mosaicreg.imagesave import SUFFIXES, load_grey, save_grey, write_zarr

LOSSLESS = [s for s in SUFFIXES if s not in (".jpg", ".jpeg")]
RNG = np.random.default_rng(0)


def grey(dtype: str, shape: tuple[int, int] = (50, 61)) -> np.ndarray:
    return RNG.random(shape) < 0.5 if dtype == "bool" else random_pixels(RNG, shape, dtype)


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", ">u2"])
def test_whole_numbers_and_masks_come_back(suffix, dtype, tmp_path) -> None:
    image = grey("uint16").astype(dtype) if dtype == ">u2" else grey(dtype)
    path = tmp_path / "ä folder" / f"a{suffix}"
    save_grey(path, image)
    found = load_grey(path)
    assert found.dtype.isnative
    if (dtype, suffix) != ("bool", ".jp2"):
        assert found.dtype == image.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, image)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    if dtype != "bool":
        assert read_header(path).plane == (50, 61)


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".zarr"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "int32", "uint32"])
def test_other_types_come_back_where_the_format_has_them(suffix, dtype, tmp_path) -> None:
    image = (RNG.normal(size=(20, 30)) * 1000).astype(dtype)
    save_grey(tmp_path / f"a{suffix}", image)
    found = load_grey(tmp_path / f"a{suffix}")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, image)


@pytest.mark.row("A8")
@pytest.mark.parametrize(("bits", "top"), [(8, 255), (16, 65535)])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".jp2", ".npy"])
def test_floats_come_back_within_half_a_level(bits, top, suffix, tmp_path) -> None:
    image = RNG.random((40, 40)).astype(np.float32)
    save_grey(tmp_path / f"a{suffix}", image, bits)
    found = load_grey(tmp_path / f"a{suffix}")
    assert found.dtype == f"uint{bits}"
    assert np.abs(found / top - image).max() <= 0.5 / top + 1e-7


def test_bits_that_are_not_given_are_those_of_the_pixels(tmp_path) -> None:
    save_grey(tmp_path / "a.png", RNG.random((5, 5)))
    assert load_grey(tmp_path / "a.png").dtype == np.uint16
    save_grey(tmp_path / "a.png", np.array([[3, 70]], np.int64))
    np.testing.assert_array_equal(load_grey(tmp_path / "a.png"), [[3, 70]])
    save_grey(tmp_path / "a.tif", grey("uint8"), 16)
    assert load_grey(tmp_path / "a.tif").dtype == np.uint8


def test_a_mask_takes_one_bit_per_pixel(tmp_path) -> None:
    mask = grey("bool", (64, 1000))
    save_grey(tmp_path / "a.png", mask)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "1"
    save_grey(tmp_path / "a.tif", mask)
    assert (tmp_path / "a.tif").stat().st_size < 64 * 1000 / 8 + 1000
    save_grey(tmp_path / "b.png", mask.astype(np.uint8), 1)
    np.testing.assert_array_equal(load_grey(tmp_path / "b.png"), mask)


def test_jpeg_comes_near_and_holds_8_bits(tmp_path) -> None:
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    save_grey(tmp_path / "a.jpg", ramp, quality=98)
    assert np.abs(load_grey(tmp_path / "a.jpg").astype(int) - ramp).max() <= 4
    with pytest.raises(InputError, match="at most 8 bits"):
        save_grey(tmp_path / "b.jpg", ramp, 16)
    with pytest.raises(InputError, match="mask does not survive"):
        save_grey(tmp_path / "b.jpg", ramp > 5)
    assert not (tmp_path / "b.jpg").exists()


@pytest.mark.parametrize(
    ("name", "image", "bits", "reason"),
    [
        ("a.png", np.array([[0, 300]], np.uint16), 8, "from 0 to 300 do not fit"),
        ("a.png", np.array([[-4, 3]], np.int16), None, "from -4 to 3"),
        ("a.png", np.array([[0.0, 200.0]]), None, "only 0 to 1 can"),
        ("a.tif", np.array([[0.0, np.nan]]), 8, "only 0 to 1 can"),
        ("a.jpg", np.array([[0, 300]], np.uint16), None, "do not fit into 8 bits"),
        ("a.bmp", np.zeros((2, 2), np.uint8), None, "images are written as"),
        ("a.png", np.zeros((2, 2, 2, 2), np.uint8), None, "not \\(height"),
    ],
)
def test_what_cannot_be_saved_leaves_the_old_file(name, image, bits, reason, tmp_path) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with pytest.raises(InputError, match=reason):
        save_grey(path, image, bits)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_rescaling_has_to_be_asked_for(tmp_path) -> None:
    save_grey(tmp_path / "a.png", np.array([[0, 257, 65535]], np.uint16), 8, rescale=True)
    np.testing.assert_array_equal(load_grey(tmp_path / "a.png"), [[0, 1, 255]])


def test_jpeg_2000_headers(tmp_path) -> None:
    colour = random_pixels(RNG, (40, 30, 3), "uint8")
    (tmp_path / "c.jp2").write_bytes(imagecodecs.jpeg2k_encode(colour, level=0, codecformat="jp2"))
    assert read_header(tmp_path / "c.jp2").shape == (3, 40, 30)
    np.testing.assert_array_equal(read_image(tmp_path / "c.jp2"), np.moveaxis(colour, 2, 0))
    for dtype in ("uint8", "uint16"):
        big = random_pixels(RNG, (700, 600), dtype)
        save_grey(tmp_path / "big.jp2", big, tile=(256, 128))
        np.testing.assert_array_equal(load_grey(tmp_path / "big.jp2"), big)
    (tmp_path / "x.jp2").write_bytes(b"not an image" * 99)
    with pytest.raises(ImageError, match=r"x\.jp2: not a JPEG 2000 file"):
        read_header(tmp_path / "x.jp2")


def test_only_the_first_sample_or_plane_is_grey(tmp_path) -> None:
    colour = random_pixels(RNG, (40, 30, 3), "uint8")
    save_grey(tmp_path / "a.png", colour)
    np.testing.assert_array_equal(load_grey(tmp_path / "a.png"), colour[:, :, 0])
    write_tiff(tmp_path / "c.tif", colour, photometric="rgb")
    np.testing.assert_array_equal(load_grey(tmp_path / "c.tif"), colour[:, :, 0])


def test_chunked_images_go_to_zarr_chunk_by_chunk(tmp_path) -> None:
    image = grey("uint16", (70, 50))
    write_zarr(tmp_path / "a.zarr", da.from_array(image, chunks=17), chunks=(32, 32))
    np.testing.assert_array_equal(load_grey(tmp_path / "a.zarr"), image)
    save_grey(tmp_path / "a.zarr", image[:9])
    assert load_grey(tmp_path / "a.zarr").shape == (9, 50)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
