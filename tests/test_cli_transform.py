"""`mosaicreg transform`: an image warped out of core, from a .stos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from click.testing import CliRunner

from mosaicreg.cli import main
from mosaicreg.imagesave import save_grey
from mosaicreg.irtools import Stos, StosImage, write_stos
from mosaicreg.transforms import Grid, Rigid
from mosaicreg.warping import warp

IMAGE = np.random.default_rng(0).integers(0, 60000, (300, 260), dtype=np.uint16)
CORNERS = np.array([[(5, 9), (-3, 255)], [(296, -2), (310, 262)]])
BEND = Grid(CORNERS, (0, 0), (299, 259))


@pytest.fixture
def stos(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "moving ä.tif", IMAGE, tile=(64, 64))
    images = StosImage("gone.png", (320, 280)), StosImage("moving ä.tif", (300, 260))
    write_stos(tmp_path / "a.stos", Stos(*images, BEND))
    return tmp_path / "a.stos"


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["transform", *map(str, words), "--quiet"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_archive_is_the_warped_image(stos: Path) -> None:
    output = stos.parent / "out.ome.zarr"
    code, text = run(stos, "-o", output, "--chunk", 64, "--shard", 128, "--pixel-size", 0.5)
    assert code == 0, text
    assert "Wrote" in text
    written = zarr.open_array(str(output / "0"), mode="r")[:]
    np.testing.assert_array_equal(written, warp(IMAGE, BEND, (320, 280)))
    code, text = run(stos, "-o", output, "--chunk", 64, "--shard", 128, "--pixel-size", 0.5)
    assert code == 0, text
    code, text = run(stos, "-o", output, "--crop")
    assert code == 2
    assert "exists" in text or "--overwrite" in text


def test_options_of_drawing_and_planes(stos: Path) -> None:
    both = np.stack([IMAGE, IMAGE[::-1]])
    tifffile.imwrite(stos.parent / "two.ome.tif", both, metadata={"axes": "CYX"})
    output = stos.parent / "out.zarr"
    code, text = run(stos, "-o", output, "--image", stos.parent / "two.ome.tif", "--order", 0,
                     "--crop", "--fill", 9, "--no-pyramid")  # fmt: skip
    assert code == 0, text
    expected = warp(both, BEND, (320, 280), order=0, extrapolate=False, fill=9)
    np.testing.assert_array_equal(zarr.open_array(str(output / "0"), mode="r")[:], expected)


def test_another_scale(stos: Path) -> None:
    large = np.kron(IMAGE, np.ones((2, 2), np.uint16))
    save_grey(stos.parent / "large.png", large)
    output = stos.parent / "out.zarr"
    code, text = run(stos, "-o", output, "--image", stos.parent / "large.png", "--scale", 2)
    assert code == 0, text
    written = zarr.open_array(str(output / "0"), mode="r")[:]
    np.testing.assert_array_equal(written, warp(large, BEND.scaled(2), (640, 560)))


def test_a_rigid_transform_turns(stos: Path) -> None:
    file = Stos(StosImage("f", (260, 300)), StosImage("moving ä.tif", (300, 260)),
                Rigid((-20, 20), np.pi / 2, (149.5, 129.5)))  # fmt: skip
    write_stos(stos, file)
    code, text = run(stos, "-o", stos.parent / "out.zarr")
    assert code == 0, text
    written = zarr.open_array(str(stos.parent / "out.zarr" / "0"), mode="r")[:]
    np.testing.assert_array_equal(written, np.rot90(IMAGE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.unlink(), "no such .stos"),
        (lambda p: (p.parent / "moving ä.tif").unlink(), "no such image"),
        (lambda p: p.write_text(p.read_text().replace("vp 8", "vp 9")), "line 7"),
        (lambda p: p.write_text(p.read_text().replace("260 300", "130 150")), "--scale 2"),
        (lambda p: (p.parent / "moving ä.tif").write_bytes(b"II*\0"), "moving ä.tif"),
    ],
)
def test_nothing_is_written_where_the_input_is_wrong(
    stos: Path, change: object, message: str
) -> None:
    change(stos)  # type: ignore[operator]
    output = stos.parent / "out.ome.zarr"
    code, text = run(stos, "-o", output)
    assert code == 2
    assert message in text
    assert not output.exists()


def test_the_output_is_not_the_image(stos: Path) -> None:
    code, text = run(stos, "-o", stos.parent / "moving ä.tif", "--overwrite")
    assert code == 2
    assert "another place" in text
