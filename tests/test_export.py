"""Other doors out: what other programs read is what the archive holds."""

from __future__ import annotations

import tracemalloc
import xml.etree.ElementTree as ET
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner, Result

from mosaicreg import InputError, assemble, open_mosaic, write_ome_zarr
from mosaicreg.cli import main
from mosaicreg.export import open_archive, write_ome_tiff, write_picture, write_version_04
from mosaicreg.imagefile import read_image
from mosaicreg.layout import stage_layout
from mosaicreg.layoutfile import load_layout, save_layout
from mosaicreg.omezarr import read_table


def archive_of(path: Path, shape=(700, 1300), dtype="uint16", chunk=128, **options) -> Path:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 99, shape).astype(dtype)
    image = da.from_array(pixels, chunks=(*(1,) * (len(shape) - 2), 512, 512))
    return write_ome_zarr(image, path, chunk=chunk, shard=256, **options)


def pixels_of(path: Path) -> list[np.ndarray]:
    root = zarr.open_group(str(path), mode="r")
    return [root[key][:] for key in sorted(root.array_keys(), key=int)]


# --- OME-TIFF ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "compression"),
    [
        ((700, 1300), "uint16", "zlib"),
        ((2, 300, 600), "uint8", "lzw"),
        ((2, 2, 2, 130, 520), "float32", "none"),
    ],
)
def test_every_level_of_the_tiff_is_that_of_the_archive(shape, dtype, compression, tmp_path):
    source = archive_of(tmp_path / "a.ome.zarr", shape, dtype)
    path = write_ome_tiff(source, tmp_path / "deep" / "ä.ome.tif", compression=compression)
    expected = pixels_of(source)
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
        assert file.is_ome
        assert len(file.series) == 1
        levels = file.series[0].levels
        assert len(levels) == len(expected) > 2
        assert levels[0].axes == {2: "YX", 3: "CYX", 5: "TCZYX"}[len(shape)]
        for level, pixels in zip(levels, expected, strict=True):
            assert level.dtype == dtype
            assert level.keyframe.is_tiled
            np.testing.assert_array_equal(level.asarray(), pixels)
        # Bio-Formats and OME: coarser levels are in the SubIFDs of each plane.
        assert len(file.pages[0].subifds) == len(expected) - 1
    assert list((tmp_path / "deep").iterdir()) == [path], "nothing half written is left"


def test_the_ome_xml_says_size_channels_and_colours(tmp_path) -> None:
    source = archive_of(
        tmp_path / "a.ome.zarr", (2, 200, 300), pixel_size=(0.5, 0.25), channels=("DAPI", "GFP")
    )
    path = write_ome_tiff(source, tmp_path / "a.ome.tif")
    with tifffile.TiffFile(path) as file:
        root = ET.fromstring(file.ome_metadata)
        tags = file.pages[0].tags
        assert tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
        x = tags["XResolution"].value
        assert x[0] / x[1] == pytest.approx(1e4 / 0.25)
    (pixels,) = root.findall(".//{*}Pixels")
    size = {key: pixels.get(key) for key in ("SizeX", "SizeY", "SizeC", "SizeZ", "SizeT", "Type")}
    assert size == {"SizeX": "300", "SizeY": "200", "SizeC": "2", "SizeZ": "1", "SizeT": "1",
                    "Type": "uint16"}  # fmt: skip
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY")) == ("0.25", "0.5")
    assert pixels.get("PhysicalSizeXUnit") == "\u00b5m"
    channels = list(root.findall(".//{*}Channel"))
    assert [c.get("Name") for c in channels] == ["DAPI", "GFP"]
    # Cyan and magenta, RGBA as a signed number.
    assert [int(c.get("Color")) for c in channels] == [0x00FFFFFF, 0xFF00FFFF - (1 << 32)]
    # We read our own file back with all of it.
    np.testing.assert_array_equal(read_image(path), pixels_of(source)[0])


def test_memory_does_not_grow_with_the_mosaic(tmp_path) -> None:
    image = da.zeros((4000, 9000), dtype=np.uint16, chunks=2048) + np.uint16(7)
    source = write_ome_zarr(image, tmp_path / "a.ome.zarr", chunk=512, shard=2048)
    # What is imported at the first export is memory too, but not the mosaic's.
    small = archive_of(tmp_path / "small.ome.zarr", (60, 60))
    write_ome_tiff(small, tmp_path / "small.ome.tif", compression="none")
    tracemalloc.start()
    write_ome_tiff(source, tmp_path / "a.ome.tif", compression="none")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6 < 4000 * 9000 * 2 / 1.5


def test_pixels_that_ome_tiff_does_not_know_are_said(tmp_path) -> None:
    source = archive_of(tmp_path / "a.ome.zarr", (60, 60), "uint64", chunk=32, pyramid=False)
    with pytest.raises(InputError, match="knows no pixels of type uint64"):
        write_ome_tiff(source, tmp_path / "a.ome.tif")
    assert not (tmp_path / "a.ome.tif").exists()


def test_a_tiff_appears_only_when_it_is_whole(tmp_path) -> None:
    source = archive_of(tmp_path / "a.ome.zarr", (600, 600))
    # A broken chunk: the file ends in the middle of the image.
    shard = source / "0" / "c" / "1" / "1"
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever zarr raises
        write_ome_tiff(source, tmp_path / "out" / "a.ome.tif")
    assert list((tmp_path / "out").iterdir()) == []


# --- PNG -----------------------------------------------------------------------------------------


def test_a_region_at_every_level(tmp_path) -> None:
    source = archive_of(tmp_path / "a.ome.zarr")
    levels = pixels_of(source)
    for level in range(3):
        shape = write_picture(source, tmp_path / "a.png", region=(101, 202, 300, 400), level=level,
                              raw=True)  # fmt: skip
        # The coarse pixels that any fine pixel of the region went into.
        rows = slice(101 >> level, -(-401 >> level))
        cols = slice(202 >> level, -(-602 >> level))
        found = read_image(tmp_path / "a.png")
        np.testing.assert_array_equal(found, levels[level][rows, cols])
        assert found.shape == shape


def test_the_whole_mosaic_is_shown_at_a_level_that_screens_can_show(tmp_path) -> None:
    source = archive_of(tmp_path / "a.ome.zarr", (300, 9000), "uint8", chunk=256)
    assert write_picture(source, tmp_path / "a.png") == (75, 2250)


def test_channels_planes_and_colour(tmp_path) -> None:
    source = archive_of(tmp_path / "a.ome.zarr", (2, 3, 90, 80), chunk=64)
    write_picture(source, tmp_path / "a.png", channel=1, plane=2, raw=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels_of(source)[0][1, 2])
    rgb = archive_of(
        tmp_path / "b.ome.zarr", (3, 90, 80), "uint8", channels=("red", "green", "blue")
    )
    write_picture(rgb, tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), pixels_of(rgb)[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"region": (0, 0, 701, 10)}, "not inside the mosaic of 700 x 1300 px"),
        ({"region": (0, 0, 0, 10)}, "not inside the mosaic"),
        ({"level": 9}, "no level 9, only 0 to"),
        ({"channel": 0, "plane": 0}, None),
    ],
)
def test_what_is_not_there_is_said(options, said, tmp_path) -> None:
    source = archive_of(tmp_path / "a.ome.zarr")
    if said is None:
        write_picture(source, tmp_path / "a.png", **options)
        return
    with pytest.raises(InputError, match=said):
        write_picture(source, tmp_path / "a.png", **options)
    assert not (tmp_path / "a.png").exists()


def test_no_archive_is_said(tmp_path) -> None:
    with pytest.raises(InputError, match="there is no OME-Zarr archive"):
        open_archive(tmp_path / "nothing")
    zarr.create_group(str(tmp_path / "group.zarr"))
    with pytest.raises(InputError, match="without an OME-Zarr image"):
        open_archive(tmp_path / "group.zarr")


# --- OME-Zarr 0.4 --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def older(tmp_path_factory) -> tuple[Path, Path]:
    """An archive, and the same as version 0.4."""
    folder = tmp_path_factory.mktemp("older")
    source = archive_of(
        folder / "new.ome.zarr", (2, 700, 1300), pixel_size=(0.5, 0.5), channels=("DAPI", "GFP")
    )
    path = folder / "older.ome.zarr"
    write_version_04(source, path, chunk=200)
    return source, path


def test_version_04_is_zarr_2_with_the_same_pixels(older) -> None:
    source, path = older
    root = zarr.open_group(str(path), mode="r")
    assert root.metadata.zarr_format == 2
    assert not list(path.rglob("zarr.json"))
    for k, pixels in enumerate(pixels_of(source)):
        np.testing.assert_array_equal(root[str(k)][:], pixels)
    assert (path / "0" / "1" / "3" / "6").is_file(), "chunks lie in nested folders"


def test_version_04_is_valid(older) -> None:
    import yaozarrs

    _, path = older
    yaozarrs.validate_zarr_store(str(path))
    attributes = zarr.open_group(str(path), mode="r").attrs
    image = attributes["multiscales"][0]
    assert [a.get("unit") for a in image["axes"]] == [None, "micrometer", "micrometer"]
    assert [c["label"] for c in attributes["omero"]["channels"]] == ["DAPI", "GFP"]


def test_version_04_can_be_exported_again(older, tmp_path) -> None:
    source, path = older
    write_ome_tiff(path, tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.ome.tif"), pixels_of(source)[0])
    assert open_archive(path).pixel_size == (0.5, 0.5)


def test_version_04_replaces_only_when_told_to(older, tmp_path) -> None:
    source, _ = older
    path = tmp_path / "a.ome.zarr"
    write_version_04(source, path)
    with pytest.raises(InputError, match="exists"):
        write_version_04(source, path)
    write_version_04(source, path, overwrite=True)


# --- as a user types it --------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_command_writes_all_forms(acquisition, tmp_path) -> None:
    archive, mosaic = tmp_path / "out.ome.zarr", acquisition.mosaic
    layout = stage_layout(mosaic)
    write_ome_zarr(assemble(mosaic, layout), archive, mosaic=mosaic, layout=layout)
    for name in ("a.ome.tif", "a.png", "old.ome.zarr"):
        result = run("export", archive, "-o", tmp_path / name, "--quiet")
        assert result.output == f"Wrote {tmp_path / name}\n"
        assert result.exit_code == 0
    level = zarr.open_array(str(archive / "0"), mode="r")[:]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.ome.tif"), level)
    older = zarr.open_array(str(tmp_path / "old.ome.zarr" / "0"), mode="r")[:]
    np.testing.assert_array_equal(older, level)
    assert read_table(tmp_path / "old.ome.zarr", "tiles")["verdict"].tolist() == ["stage"] * 12
    assert read_image(tmp_path / "a.png").shape == level.shape
    again = run("export", archive, "-o", tmp_path / "a.png")
    assert again.exit_code == 2
    assert "exists; choose another name" in again.output
    assert run("export", archive, "-o", tmp_path / "a.png", "--overwrite").exit_code == 0
    assert "not four whole numbers" in run(
        "export", archive, "-o", tmp_path / "b.png", "--region", "1,2,3"
    ).output  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".mosaic", ".json"])
@pytest.mark.parametrize("source", ["l.json", "l.csv", "out.ome.zarr"])
def test_layouts_in_other_forms(source, suffix, tiles, tmp_path) -> None:
    mosaic = open_mosaic(tiles)
    layout = stage_layout(mosaic)
    if source == "out.ome.zarr":
        image = assemble(mosaic, layout)
        write_ome_zarr(image, tmp_path / source, mosaic=mosaic, layout=layout)
    else:
        save_layout(tmp_path / source, mosaic, layout)
    path = tmp_path / "elsewhere" / f"new{suffix}"
    result = run("export", tmp_path / source, "-o", path)
    assert result.exit_code == 0, result.output
    found, placed = load_layout(path)
    np.testing.assert_array_equal(placed.positions, layout.positions)
    assert [n.rpartition("/")[2] for n in found.names] == mosaic.names.tolist()


def test_an_unknown_ending_is_said(tmp_path) -> None:
    result = run("export", tmp_path / "a.ome.zarr", "-o", tmp_path / "a.docx")
    assert result.exit_code == 2
    assert "no form is known for this ending" in result.output


@pytest.mark.parametrize("name", ["a.ome.tif", "a.png"])
def test_files_go_to_a_disk(name, tmp_path) -> None:
    result = run("export", tmp_path / "a.ome.zarr", "-o", f"s3://bucket/{name}")
    assert result.exit_code == 2
    assert "this must be on a disk, not in an object store" in result.output
