"""`mosaicreg align` and `mosaicreg refine`: from two image files to a .stos that can be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from test_aligning import sections

from mosaicreg import AlignmentRecord
from mosaicreg.cli import main
from mosaicreg.imagefile import read_image
from mosaicreg.irtools import read_stos
from mosaicreg.synthetic import Specimen

TRUTH = AlignmentRecord((14.0, -9.5), 0, 33.0)
SHAPES = ((300, 320), (280, 300))


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("Schnitte ä")
    for name, image in zip(("0002.tif", "0001.tif"), sections(TRUTH, *SHAPES), strict=True):
        tifffile.imwrite(folder / name, image, tile=(64, 64))
    other = Specimen(seed=50, empty=0.0).render((0, 0), (200, 200))
    tifffile.imwrite(folder / "other.tif", other.astype(np.uint16))
    return folder


def misplaced(stos: Path) -> float:
    points = np.array([(60, 60), (60, 220), (200, 70), (140, 150), (220, 220)])
    found = read_stos(stos).pixel_transform.transform(points)
    return float(np.linalg.norm(found - TRUTH.transform(points, *SHAPES), axis=1).max())


def colours(picture: Path) -> float:
    """How much of a panel is magenta or green."""
    panel = picture.astype(float)
    return float(np.abs(panel[..., 0] - panel[..., 1]).mean())


def test_align_then_refine_then_transform(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    code, text = run("align", "0002.tif", "0001.tif", "-o", "rigid.stos", "--angles", "0,60",
                     "--picture", "proof.png")  # fmt: skip
    assert code == 0, text
    assert "turned by 33.0" in text
    assert "angles" in text  # progress
    assert misplaced(folder / "rigid.stos") < 0.5
    picture = read_image(folder / "proof.png")
    picture = picture if picture.shape[-1] == 3 else np.moveaxis(picture, 0, -1)
    before, after = picture[40:, :320], picture[40:, -320:]
    inner = (slice(80, 220), slice(90, 230))
    assert colours(after[inner]) < 0.5 * colours(before[inner])

    code, text = run("refine", "rigid.stos", "-o", "grid.stos", "--cell", 64, "--spacing", 64,
                     "--quiet")  # fmt: skip
    assert code == 0, text
    assert "cells used" in text
    assert misplaced(folder / "grid.stos") < 0.5
    assert read_stos(folder / "grid.stos").fixed.path == "0002.tif"
    code, text = run("transform", "grid.stos", "-o", "warped.zarr", "--quiet")
    assert code == 0, text


def test_what_could_be_chance_is_written_and_told(folder) -> None:
    output = folder / "chance.stos"
    code, text = run("align", folder / "0002.tif", folder / "other.tif", "-o", output,
                     "--angles", "0,40", "--refine", "--cell", 64, "--passes", 1)  # fmt: skip
    assert code == 3, text
    assert "could be chance" in text
    assert output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["align", "0002.tif", "none.tif", "-o", "x.stos"], "no such image"),
        (["align", "0002.tif", "0001.tif", "-o", "0001.tif"], "exists"),
        (["align", "0002.tif", "0001.tif", "-o", "no/x.stos"], "no folder"),
        (["align", "0002.tif", "0001.tif", "-o", "x.stos", "--angles", "9,1"], "FROM,TO"),
        (["align", "0002.tif", "0001.tif", "-o", "x.stos", "--fixed-mask", "0002.tif"], "masks"),
        (["refine", "none.stos", "-o", "x.stos"], "no such .stos"),
    ],
)
def test_nothing_is_written_where_the_input_is_wrong(folder, monkeypatch, words, message) -> None:
    monkeypatch.chdir(folder)
    code, text = run(*words)
    assert code == 2
    assert message in text
    assert not (folder / "x.stos").exists()
