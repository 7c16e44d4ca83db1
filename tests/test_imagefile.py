"""Image files: headers without pixels, pixels without surprises, errors that name the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from strategies import DTYPES, random_pixels

from mosaicreg.errors import ImageError
from mosaicreg.geometry import Box
from mosaicreg.imagefile import (
    is_image,
    read_header,
    read_image,
    write_atomically,
    write_png,
    write_tiff,
)

RNG = np.random.default_rng(0)


def pixels(dtype: str = "uint16", shape: tuple[int, ...] = (37, 50)) -> np.ndarray:
    return random_pixels(RNG, shape, dtype)


def save(path: Path, image: np.ndarray, **options: Any) -> Path:
    """Write with the format's own library, not with ours."""
    suffix = path.suffix
    if suffix == ".tif":
        tifffile.imwrite(path, image, **options)
    elif suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(image))
    elif suffix == ".jpg":
        path.write_bytes(imagecodecs.jpeg_encode(image, lossless=image.ndim == 2))
    elif suffix == ".npy":
        np.save(path, image)
    else:
        zarr.create_array(str(path), data=image, chunks=image.shape)
    return path


@pytest.mark.parametrize("dtype", [*DTYPES, ">u2", ">i2", ">f4"])
@pytest.mark.parametrize("suffix", [".tif", ".npy", ".zarr"])
def test_every_pixel_type_and_byte_order(dtype, suffix, tmp_path) -> None:
    image = pixels(dtype.replace(">u2", "uint16").replace(">i2", "int16").replace(">f4", "float32"))
    options = {"byteorder": ">"} if dtype.startswith(">") and suffix == ".tif" else {}
    path = save(tmp_path / f"ä tile{suffix}", image.astype(dtype), **options)
    header = read_header(path)
    found = read_image(path)
    assert header.axes == "yx"
    assert header.plane == (37, 50)
    assert header.dtype == found.dtype == image.dtype
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("samples", [1, 3, 4])
def test_png_keeps_its_bit_depth_and_samples_become_channels(dtype, samples, tmp_path) -> None:
    image = pixels(dtype, (20, 30) if samples == 1 else (20, 30, samples))
    path = save(tmp_path / "t.png", image)
    header = read_header(path)
    expected = image if samples == 1 else np.moveaxis(image, 2, 0)
    assert header.axes == ("yx" if samples == 1 else "cyx")
    assert header.shape == expected.shape
    assert header.dtype == dtype
    assert header.interleaved == (samples > 1)
    if samples > 1:
        assert header.channels[:3] == ("red", "green", "blue")
    np.testing.assert_array_equal(read_image(path), expected)


def test_jpeg(tmp_path) -> None:
    grey = save(tmp_path / "g.jpg", pixels("uint8"))
    assert read_header(grey).shape == read_image(grey).shape == (37, 50)
    colour = save(tmp_path / "c.jpg", pixels("uint8", (16, 24, 3)))
    assert read_header(colour).shape == read_image(colour).shape == (3, 16, 24)


@pytest.mark.parametrize(
    ("axes", "shape", "ours"),
    [
        ("CYX", (2, 20, 30), "cyx"),
        ("ZYX", (5, 20, 30), "zyx"),
        ("TZCYX", (2, 3, 4, 20, 30), "tczyx"),
        ("TYX", (3, 20, 30), "tyx"),
        ("CZYX", (2, 3, 20, 30), "czyx"),
    ],
)
def test_tiff_axes_come_in_one_order(axes, shape, ours, tmp_path) -> None:
    image = pixels("uint16", shape)
    path = tmp_path / "t.ome.tif"
    tifffile.imwrite(path, image, metadata={"axes": axes}, photometric="minisblack")
    expected = image.transpose([axes.lower().index(a) for a in ours])
    header = read_header(path)
    assert header.axes == ours
    assert header.shape == expected.shape
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw"}])
@pytest.mark.parametrize("layout", ["strips", "tiles"])
def test_tiff_windows_and_planes(options, layout, tmp_path) -> None:
    image = pixels("uint16", (3, 70, 90))
    if layout == "tiles":
        options = {**options, "tile": (32, 32)}
    path = save(tmp_path / "t.tif", image, photometric="minisblack", **options)
    box, lead = Box(10, 20, 33, 71), (slice(1, 3),)
    np.testing.assert_array_equal(read_image(path, box, lead), image[1:3, 10:33, 20:71])
    np.testing.assert_array_equal(read_image(path, box), image[:, 10:33, 20:71])


def test_rgb_tiff_samples_are_channels(tmp_path) -> None:
    image = pixels("uint8", (20, 30, 3))
    path = save(tmp_path / "t.tif", image, photometric="rgb")
    header = read_header(path)
    assert (header.axes, header.shape, header.interleaved) == ("cyx", (3, 20, 30), True)
    assert header.channels == ("red", "green", "blue")
    np.testing.assert_array_equal(read_image(path), np.moveaxis(image, 2, 0))


def test_ome_tiff_tells_position_pixel_size_and_channels(tmp_path) -> None:
    path = tmp_path / "t.ome.tif"
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 250.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.5,
        "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": ["DAPI", "GFP"]},
        "Plane": {
            "PositionX": [1.5, 1.5],
            "PositionXUnit": ["mm", "mm"],
            "PositionY": [20.0, 20.0],
            "PositionYUnit": ["µm", "µm"],
        },
    }
    tifffile.imwrite(path, pixels("uint16", (2, 20, 30)), metadata=metadata)
    header = read_header(path)
    assert header.pixel_size == (0.5, 0.25)
    assert header.position == (20.0, 1500.0)
    assert header.channels == ("DAPI", "GFP")


def test_stage_positions_in_unknown_units_are_not_guessed(tmp_path) -> None:
    path = tmp_path / "t.ome.tif"
    plane = {"PositionX": [1.0], "PositionY": [2.0]}
    plane |= {f"Position{a}Unit": ["reference frame"] for a in "XY"}
    tifffile.imwrite(path, pixels(), metadata={"axes": "YX", "Plane": plane})
    assert read_header(path).position is None


def test_ome_zarr_tells_position_pixel_size_and_channels(tmp_path) -> None:
    path = tmp_path / "t.ome.zarr"
    image = pixels("uint16", (2, 20, 30))
    group = zarr.create_group(str(path))
    group.create_array("0", data=image)
    axes = [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "nanometer"},
    ]
    moves = [
        {"type": "scale", "scale": [1, 0.5, 250]},
        {"type": "translation", "translation": [0, 10, 2000]},
    ]
    datasets = [{"path": "0", "coordinateTransformations": moves}]
    channels = [{"label": "DAPI"}, {"label": "GFP"}]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"axes": axes, "datasets": datasets}],
        "omero": {"channels": channels},
    }
    header = read_header(path)
    assert (header.axes, header.shape) == ("cyx", (2, 20, 30))
    assert header.pixel_size == (0.5, 0.25)
    assert header.position == (10.0, 2.0)
    assert header.channels == ("DAPI", "GFP")
    cut = read_image(path, Box(1, 2, 11, 22), (slice(1, 2),))
    np.testing.assert_array_equal(cut, image[1:2, 1:11, 2:22])


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".npy"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.97])
def test_files_cut_short_are_noticed_from_the_header_alone(suffix, share, tmp_path) -> None:
    path = save(tmp_path / f"t{suffix}", pixels("uint8", (200, 200)))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError, match=r"t\.\w+: "):
        read_header(path)


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".npy", ".zarr"])
def test_rubbish_and_missing_files_are_named(suffix, tmp_path) -> None:
    path = tmp_path / f"t{suffix}"
    with pytest.raises(ImageError, match=f"t{suffix}: "):
        read_header(path)
    path.write_bytes(b"this is not an image, whatever its name says" * 9)
    with pytest.raises(ImageError, match=f"t{suffix}: "):
        read_header(path)


def test_a_png_damaged_inside_is_named_when_it_is_read(tmp_path) -> None:
    path = save(tmp_path / "t.png", pixels())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    read_header(path)
    with pytest.raises(ImageError, match=r"t\.png: unreadable"):
        read_image(path)


@pytest.mark.parametrize("dtype", ["uint32", "complex64", "bool", "float16"])
def test_pixel_types_that_cannot_be_stitched_are_refused(dtype, tmp_path) -> None:
    path = save(tmp_path / "t.npy", np.ones((5, 5), dtype))
    with pytest.raises(ImageError, match=f"{dtype} are not supported"):
        read_header(path)


def test_a_npy_file_is_data_not_code(tmp_path) -> None:
    path = tmp_path / "t.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageError, match="unreadable"):
        read_header(path)


def test_what_counts_as_an_image(tmp_path) -> None:
    assert is_image(tmp_path / "a.TIF")
    assert not is_image(tmp_path / "notes.docx")
    zarr.create_array(str(tmp_path / "plain"), shape=(3, 3), dtype="u1")
    assert is_image(tmp_path / "plain")


def test_our_own_files_come_back_as_they_were(tmp_path) -> None:
    for dtype in ("uint8", "uint16"):
        image = pixels(dtype)
        write_png(tmp_path / "a.png", image)
        np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image)
        write_tiff(tmp_path / "new" / "a.tif", image)
        np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.tif"), image)
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["a.png", "a.tif"]


def test_a_file_is_the_old_one_or_the_whole_new_one(tmp_path) -> None:
    path = tmp_path / "new" / "ä.csv"
    write_atomically(path, b"old")

    def pieces() -> Iterator[bytes]:
        yield b"half"
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, pieces())
    assert path.read_bytes() == b"old"
    write_atomically(path, [b"ne", memoryview(b"w")])
    assert path.read_bytes() == b"new"
    with pytest.raises(OSError, match="irectory"):
        write_atomically(path.parent, b"a folder is in the way")
    assert [p.name for p in tmp_path.rglob("*")] == ["new", path.name]


@pytest.mark.skipif(os.name != "posix", reason="Windows knows no umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_who_may_read_a_file_is_what_the_umask_says(mask, mode, tmp_path) -> None:
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode
