"""`mosaicreg tiles`: an image into tile files, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from strategies import random_pixels
from test_cli import run

from mosaicreg import cutting
from mosaicreg.cutting import cut_image
from mosaicreg.errors import ImageError, InputError
from mosaicreg.imagefile import read_image, write_png, write_tiff
from mosaicreg.imagesave import load_grey

RNG = np.random.default_rng(0)


def put_together(folder: Path, suffix: str, rows: int, cols: int) -> np.ndarray:
    return np.block(
        [
            [load_grey(folder / f"r{r:03d}_c{c:03d}{suffix}") for c in range(cols)]
            for r in range(rows)
        ]
    )


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy", ".zarr", ".jp2"])
@pytest.mark.parametrize("kind", ["tiled.tif", "strips.tif", "a.png", "a.zarr"])
def test_tiles_make_up_the_image(kind, suffix, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cutting, "BLOCK", 64)
    image = random_pixels(RNG, (150, 210), "uint16")
    source = tmp_path / kind
    if kind == "tiled.tif":
        write_tiff(source, image, tile=(32, 32), compression="zlib")
    elif kind == "strips.tif":
        write_tiff(source, image, rowsperstrip=10, compression="zlib")
    elif kind == "a.png":
        write_png(source, image)
    else:
        zarr.create_array(str(source), data=image, chunks=(50, 60))
    seen: list[tuple[str, int, int]] = []
    cut = cut_image(
        source, tmp_path / "out ö", tile=(40, 50), suffix=suffix, fill=9,
        progress=lambda *told: seen.append(told),
    )  # fmt: skip
    assert cut.grid.grid_shape == (4, 5)
    assert seen[-1][1] == seen[-1][2] == len(list(cut.blocks()))
    assert sum(map(len, cut.blocks())) == 20
    whole = put_together(tmp_path / "out ö", suffix, 4, 5)
    np.testing.assert_array_equal(whole[:150, :210], image)
    assert (whole[150:] == 9).all()
    assert (whole[:, 210:] == 9).all()


def test_last_tiles_may_stay_smaller_and_stacks_keep_their_planes(tmp_path) -> None:
    stack = random_pixels(RNG, (3, 70, 90), "uint8")
    write_tiff(tmp_path / "a.tif", stack, metadata={"axes": "CYX"}, photometric="minisblack")
    cut_image(tmp_path / "a.tif", tmp_path / "t", tile=64, fill=None)
    last = read_image(tmp_path / "t" / "r001_c001.tif")
    np.testing.assert_array_equal(last, stack[:, 64:, 64:])
    with pytest.raises(InputError, match="one grey plane"):
        cut_image(tmp_path / "a.tif", tmp_path / "u", tile=64, suffix=".png")
    assert not (tmp_path / "u").exists()


def test_a_run_goes_on_where_it_stopped_and_spares_what_is_there(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cutting, "BLOCK", 32)
    image = random_pixels(RNG, (96, 96), "uint8")
    write_tiff(tmp_path / "a.tif", image)
    folder = tmp_path / "t"
    cut_image(tmp_path / "a.tif", folder, tile=32)
    kept = (folder / "r000_c000.tif").stat().st_mtime_ns
    (folder / "r001_c002.tif").unlink()
    (folder / "positions.csv").unlink()
    told: list[tuple[str, int, int]] = []
    cut_image(tmp_path / "a.tif", folder, tile=32, progress=lambda *t: told.append(t))
    assert told[-1] == ("cut", 1, 1)
    assert (folder / "r000_c000.tif").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(put_together(folder, ".tif", 3, 3), image)
    assert (folder / "positions.csv").is_file()


def test_other_tiles_are_replaced_only_when_asked(tmp_path) -> None:
    write_tiff(tmp_path / "a.tif", random_pixels(RNG, (64, 64), "uint8"))
    folder = tmp_path / "t"
    cut_image(tmp_path / "a.tif", folder, tile=16)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        cut_image(tmp_path / "a.tif", folder, tile=32)
    cut_image(tmp_path / "a.tif", folder, tile=32, overwrite=True)
    names = sorted(p.name for p in folder.iterdir())
    tiles = [f"r00{r}_c00{c}.tif" for r in range(2) for c in range(2)]
    assert names == sorted(["cut.json", "notes.txt", "positions.csv", *tiles])


def test_what_cannot_be_cut_writes_nothing(tmp_path) -> None:
    source = tmp_path / "a.tif"
    write_tiff(source, random_pixels(RNG, (20, 20), "float32"))
    for options, reason in [
        ({"suffix": ".png"}, "float32"),
        ({"suffix": ".bmp"}, "written as"),
        ({"tile": 0}, "into tiles of"),
    ]:
        with pytest.raises(ValueError, match=reason):
            cut_image(source, tmp_path / "t", **options)
    write_png(tmp_path / "b.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="fill value 300"):
        cut_image(tmp_path / "b.png", tmp_path / "t", fill=300)
    with pytest.raises(ImageError, match="no such file"):
        cut_image(tmp_path / "no.tif", tmp_path / "t")
    zarr.create_array(str(tmp_path / "z.zarr"), data=np.zeros((4, 4), np.uint8), chunks=(4, 4))
    with pytest.raises(InputError, match="part of the image"):
        cut_image(tmp_path / "z.zarr", tmp_path / "z.zarr" / "tiles")
    assert not (tmp_path / "t").exists()


def test_the_command_and_back_again(tmp_path) -> None:
    image = random_pixels(RNG, (300, 250), "uint16")
    zarr.create_array(str(tmp_path / "a.zarr"), data=image, chunks=(64, 64))
    result = run("tiles", "a.zarr", "-o", "tiles", "--tile", "128", "--no-fill", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "3 x 2 tiles of 128 x 128 px in tiles" in result.stdout
    assert "cut: 1/1" in result.stderr
    again = run("stitch", "tiles", "-o", "b.ome.zarr", "--no-register", cwd=tmp_path)
    assert again.returncode in (0, 3), again.stderr
    np.testing.assert_array_equal(read_image(tmp_path / "b.ome.zarr"), image)
    refused = run("tiles", "a.zarr", "-o", "tiles", "--tile", "64", cwd=tmp_path)
    assert refused.returncode == 2
    assert "mosaicreg: tiles is not empty" in refused.stderr
