"""`verify`: whole archives pass, and every kind of damage is found and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from test_cli import run

from mosaicreg import InputError, Mosaic, assemble, stage_layout, write_ome_zarr
from mosaicreg.cli import main
from mosaicreg.omezarr import read_table, write_table
from mosaicreg.verification import Verification, image_again, verify


def written(path: Path, count: int, cols: int, side: int = 8, **options) -> tuple[Mosaic, Path]:
    """An archive of ``count`` small tiles in rows of ``cols``, each of its own grey value."""
    rng = np.random.default_rng(count)
    cells = np.stack(np.divmod(np.arange(count), cols), axis=1)
    tiles = [rng.integers(1, 60_000, (side, side)).astype(np.uint16) for _ in cells]
    mosaic = Mosaic.from_arrays(tiles, cells * (side - 1.0))
    layout = stage_layout(mosaic)
    image = assemble(mosaic, layout, block=64)
    style = {"chunk": 32, "shard": 64, "provenance": {"tiles": count}, **options}
    return mosaic, write_ome_zarr(image, path, mosaic=mosaic, layout=layout, **style)


def verdicts(found: Verification) -> dict[str, str]:
    return {c.name: c.result for c in found.checks}


def problems(found: Verification) -> str:
    return "\n".join(p for c in found.checks for p in c.problems)


# --- what is whole passes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "cols"), [(255, 16), (256, 16), (257, 16), (300, 100), (303, 101), (1, 1)]
)
def test_no_tile_is_lost_at_any_number_of_tiles_and_columns(count, cols, tmp_path) -> None:
    mosaic, path = written(tmp_path / "a.ome.zarr", count, cols)
    image = assemble(mosaic, stage_layout(mosaic), block=64)
    found = verify(path, image, mosaic=mosaic)
    assert found.passed, str(found)
    assert verdicts(found)["pixels"] == "ok"
    assert f"compared with {count} tiles" in str(found)
    alone = verify(path)
    assert alone.passed
    assert verdicts(alone)["pixels"] == "not checked"
    assert f"{count} of {count} tiles" in str(alone)
    # counted here from nothing but the tiles' own places
    covered = np.zeros(image.shape, dtype=bool)
    for y, x in mosaic.positions.astype(int):
        covered[y : y + 8, x : x + 8] = True
    assert f"{covered.sum()} px owned by tiles, 0 px elsewhere" in str(alone)


@pytest.mark.parametrize("number", [0, 254, 255, 256])
def test_a_single_lost_tile_is_named(number, tmp_path) -> None:
    mosaic, path = written(tmp_path / "a.ome.zarr", 257, 16)
    y, x = mosaic.positions[number].astype(int)
    level = zarr.open_array(str(path / "0"), mode="r+")
    level[y : y + 8, x : x + 8] = 0
    found = verify(path)
    assert not found.passed
    assert f"tile tile {number}: nothing but the fill value" in problems(found)
    assert verdicts(found)["pyramid"] == "FAILED"  # coarser levels still show it


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_tiles_that_are_black_themselves_are_no_fault(dtype, tmp_path) -> None:
    """All of a tile is the fill value, and in the second archive all of every tile."""
    corners = np.array([[0.0, 0.0], [0.0, 64.0], [0.0, 128.0]])
    for name, values in (("one", (7, 0, 9)), ("all", (0, 0, 0))):
        tiles = [np.full((64, 64), v, dtype=dtype) for v in values]
        mosaic = Mosaic.from_arrays(tiles, corners)
        layout = stage_layout(mosaic)
        image = assemble(mosaic, layout, block=64)
        path = write_ome_zarr(
            image, tmp_path / f"{name}.ome.zarr", mosaic=mosaic, layout=layout, chunk=32, shard=64
        )
        alone = verify(path)
        assert alone.passed, str(alone)
        assert verdicts(alone)["tiles shown"] == "not checked"
        assert f"{np.count_nonzero(values)} of 3 tiles; tile tile" in str(alone)
        assert verify(path, image, mosaic=mosaic).passed


def test_the_same_tile_is_found_by_comparison(tmp_path) -> None:
    mosaic, path = written(tmp_path / "a.ome.zarr", 30, 6)
    level = zarr.open_array(str(path / "0"), mode="r+")
    level[3, 3] += 1
    found = verify(path, assemble(mosaic, stage_layout(mosaic)), mosaic=mosaic)
    assert "1 px unlike the tiles" in problems(found)
    assert "tile tile 0 does not own all of its pixels" in problems(found)
    assert "tile tile 1 does" not in problems(found)
    assert verdicts(found)["checksums"] == "FAILED"
    assert "level 0, shard (0, 0): its bytes are not those that were written" in problems(found)


def test_channels_depth_and_floats_are_looked_at_plane_by_plane(tmp_path) -> None:
    rng = np.random.default_rng(0)
    tiles = [rng.normal(size=(2, 3, 20, 30)).astype(np.float32) for _ in range(3)]
    tiles[1][0, 0, 4:9] = np.nan
    mosaic = Mosaic.from_arrays(tiles, [(0, 0), (0.4, 25.3), (40, 3)], channels=("a", "b"))
    layout = stage_layout(mosaic)
    image = assemble(mosaic, layout, fill=np.nan)
    facts = {"options": {"fill": np.nan}}
    path = write_ome_zarr(image, tmp_path / "a.ome.zarr", mosaic=mosaic, layout=layout, chunk=16,
                          shard=32, provenance=facts)  # fmt: skip
    found = verify(path, image, mosaic=mosaic)
    assert found.passed, str(found)
    zarr.open_array(str(path / "0"), mode="r+")[1, 2, 25, 1] = 3.0  # between the tiles
    found = verify(path)
    assert "1 px where no tile lies" in problems(found)
    assert "plane (1, 2)" in problems(found)


# --- what is not, does not -----------------------------------------------------------------------


def shards(path: Path, level: int) -> list[Path]:
    return sorted(p for p in (path / str(level) / "c").rglob("*") if p.is_file())


def test_a_shard_with_one_flipped_bit_does_not_decode(tmp_path) -> None:
    _, path = written(tmp_path / "a.ome.zarr", 150, 15)
    target = shards(path, 0)[1]
    content = bytearray(target.read_bytes())
    content[-3] ^= 1  # in the index, which has a checksum
    target.write_bytes(content)
    found = verify(path)
    assert verdicts(found)["shards"] == "FAILED"
    assert "level 0, y 0-64, x 64-106 cannot be decoded" in problems(found)


def test_version_04_is_checked_chunk_by_chunk(tmp_path) -> None:
    mosaic, path = written(tmp_path / "a.ome.zarr", 300, 20, ome_version="0.4")
    image = assemble(mosaic, stage_layout(mosaic), block=64)
    found = verify(path, image, mosaic=mosaic)
    assert found.passed, str(found)
    assert "OME-Zarr 0.4" in str(found)
    (path / "0" / "1" / "2").unlink()
    lost = verify(path, image, mosaic=mosaic)
    assert verdicts(lost)["checksums"] == verdicts(lost)["pixels"] == "FAILED"


def test_a_shard_cut_short_does_not_decode(tmp_path) -> None:
    _, path = written(tmp_path / "a.ome.zarr", 150, 15)
    target = shards(path, 1)[0]
    target.write_bytes(target.read_bytes()[:-40])
    found = verify(path)
    assert "level 1, y 0-36, x 0-53 cannot be decoded" in problems(found)


def test_a_lost_shard_is_told(tmp_path) -> None:
    _, path = written(tmp_path / "a.ome.zarr", 150, 15)
    shards(path, 0)[0].unlink()
    found = verify(path)
    assert "level 0, y 0-64, x 0-64: nothing but the fill value" in problems(found)


def test_a_level_that_was_not_made_from_the_finer_one_is_told(tmp_path) -> None:
    _, path = written(tmp_path / "a.ome.zarr", 150, 15)
    zarr.open_array(str(path / "1"), mode="r+")[5, 5] += 7
    found = verify(path)
    assert "level 1, y 0-36, x 0-53: 1 px are not the mean of the finer level" in problems(found)


def test_metadata_that_does_not_hold_is_told(tmp_path) -> None:
    mosaic, path = written(tmp_path / "a.ome.zarr", 150, 15, pixel_size=(0.5, 0.5))
    root = zarr.open_group(str(path), mode="r+")
    ome = json.loads(json.dumps(root.attrs["ome"]))
    ome["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"] = [0.5, 1.0]
    root.attrs["ome"] = ome
    other = Mosaic.from_arrays(
        [t.astype(np.uint8) for t in mosaic.source.tiles], mosaic.positions, pixel_size=(1, 1)
    )
    text = problems(verify(path, mosaic=other))
    assert "level 1 has scale [0.5 1. ]" in text
    assert "tiles are uint8 yx (), the archive uint16 yx ()" in text
    assert "pixels are (0.5, 0.5) µm, in the tiles (1, 1)" in text


def test_a_level_of_another_shape_is_told(tmp_path) -> None:
    _, path = written(tmp_path / "a.ome.zarr", 150, 15)
    shutil.rmtree(path / "1")
    zarr.create_array(str(path / "1"), shape=(36, 50), dtype="uint16", chunks=(32, 32),
                      shards=(64, 64), dimension_names=["y", "x"])  # fmt: skip
    assert "level 1 has shape (36, 50) where (36, 53) is due" in problems(verify(path))


def test_a_layout_of_other_tiles_is_told(tmp_path) -> None:
    _, path = written(tmp_path / "a.ome.zarr", 30, 6)
    table = read_table(path, "tiles")
    write_table(path, "tiles", {k: v[:-1] for k, v in table.items()})
    assert "30 tiles went in, the layout holds 29" in problems(verify(path))
    table["x"][7] += 100
    write_table(path, "tiles", table)
    assert "tiles span (36, 115) px, the image is (36, 43) px" in problems(verify(path))


def test_another_image_is_not_compared(tmp_path) -> None:
    mosaic, path = written(tmp_path / "a.ome.zarr", 30, 6)
    image = assemble(mosaic, stage_layout(mosaic))[:-1]
    assert "it is uint16 (35, 43), the archive uint16 (36, 43)" in problems(verify(path, image))


def test_an_archive_without_a_layout_is_checked_as_far_as_it_goes(tmp_path) -> None:
    mosaic, _ = written(tmp_path / "a.ome.zarr", 30, 6)
    image = assemble(mosaic, stage_layout(mosaic))
    found = verify(write_ome_zarr(image, tmp_path / "b.ome.zarr", chunk=16, shard=32), image)
    assert found.passed
    assert verdicts(found)["tiles"] == "not checked"
    assert verdicts(found)["checksums"] == "ok"
    assert verdicts(found)["pixels"] == "ok"


# --- the command ---------------------------------------------------------------------------------


def here(*arguments: object) -> Result:
    """``mosaicreg ...`` in this process."""
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_the_command_compares_with_the_tiles_wherever_they_are(tiles, tmp_path) -> None:
    path = tmp_path / "a.ome.zarr"
    made = here("stitch", tiles, "-o", path, "--chunk", 64, "--shard", 256, "--blend", "mean",
                "--fill", 7)  # fmt: skip
    assert made.exit_code == 0, made.output
    result = run("verify", path)
    assert result.returncode == 0, result.stderr
    assert "compared with 12 tiles, bit by bit" in result.stdout
    assert "verify pyramid: " in result.stderr

    elsewhere = tiles.rename(tmp_path / "elsewhere")
    alone = here("verify", path, "--quiet")
    assert alone.exit_code == 0
    assert "Tiles cannot be compared: 12 of 12 tiles are not in" in alone.output
    assert "not compared: the tiles are not at hand" in alone.output
    assert "12 of 12 tiles" in alone.output
    again = here("verify", path, "--tiles", elsewhere, "--json", "--quiet")
    facts = json.loads(again.stdout)
    assert facts["passed"]
    assert {c["check"]: c["result"] for c in facts["checks"]}["pixels"] == "ok"
    assert here("verify", path, "--tiles", tmp_path).exit_code == 2

    zarr.open_array(str(path / "0"), mode="r+")[100:140, 100:140] = 1
    bad = here("verify", path, "--tiles", elsewhere)
    assert bad.exit_code == 3
    assert "does not hold what it promises" in bad.output
    assert "tile tile_r00_c00.tif does not own all of its pixels" in bad.output
    assert here("verify", path, "--no-tiles", "--quiet").exit_code == 3  # the pyramid differs


def test_what_is_no_archive_is_said(tiles, tmp_path) -> None:
    for path, message in (
        (tmp_path / "none.ome.zarr", "there is no such archive"),
        (tiles, "not a zarr archive"),
    ):
        with pytest.raises(InputError, match=message):
            verify(path)
    zarr.create_group(str(tmp_path / "other.zarr"))
    with pytest.raises(InputError, match="not an archive of mosaicreg"):
        verify(tmp_path / "other.zarr")
    _, path = written(tmp_path / "a.ome.zarr", 4, 2)
    with pytest.raises(InputError, match="does not say which files and options"):
        image_again(path)
