"""Opening tiles: where positions come from, and every kind of bad input in one clear error."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from mosaicreg import InputError, open_mosaic, source
from mosaicreg import opening as room
from mosaicreg.errors import ImageError
from mosaicreg.imagefile import write_png, write_tiff
from mosaicreg.mosaic import as_names
from mosaicreg.source import FileSource


def image(value: int = 1, shape: tuple[int, ...] = (20, 30), dtype: str = "uint16") -> np.ndarray:
    return np.full(shape, value, dtype)


def fill(folder: Path, names: list[str], **options) -> Path:
    """TIFF or PNG files of 20 x 30 px."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(names):
        write = write_png if name.endswith(".png") else write_tiff
        write(folder / name, image(k + 1, **options))
    return folder


def positions(path: Path, rows: dict[str, tuple[float, float]]) -> Path:
    path.write_text("tile,y,x\n" + "".join(f"{n},{y},{x}\n" for n, (y, x) in rows.items()))
    return path


# --- where positions come from -------------------------------------------------------------------


def test_a_folder_with_its_position_file(tmp_path) -> None:
    fill(tmp_path, ["b.tif", "a.tif"])
    positions(tmp_path / "positions.csv", {"b.tif": (0, 25), "a.tif": (1, 2)})
    mosaic = open_mosaic(tmp_path)
    assert mosaic.names.tolist() == ["a.tif", "b.tif"]
    assert mosaic.positions.tolist() == [[1, 2], [0, 25]]
    assert mosaic.shapes.tolist() == [[20, 30]] * 2
    assert mosaic.dtype == np.uint16
    assert mosaic.origin == "from positions.csv"
    assert len(mosaic) == 2


def test_a_position_file_given_goes_before_one_found(tmp_path) -> None:
    fill(tmp_path / "t", ["a.tif", "b.tif"])
    positions(tmp_path / "t" / "positions.csv", {"a.tif": (0, 0), "b.tif": (0, 1)})
    given = positions(tmp_path / "mine.csv", {"a.tif": (0, 0), "b.tif": (0, 9)})
    assert open_mosaic(tmp_path / "t", positions=given).positions.tolist() == [[0, 0], [0, 9]]


def test_positions_match_by_name_whatever_folder_they_were_written_with(tmp_path) -> None:
    fill(tmp_path / "t", ["a.tif", "b.tif"])
    given = positions(tmp_path / "p.csv", {"old/place/a.tif": (0, 0), "C:\\x\\b.tif": (0, 9)})
    assert open_mosaic(tmp_path / "t", positions=given).positions.tolist() == [[0, 0], [0, 9]]


@pytest.mark.parametrize("inside", [".", "tiles"])
def test_a_position_file_names_its_tiles_itself(inside, tmp_path) -> None:
    fill(tmp_path / inside, ["a.tif", "b.tif", "another.tif"])
    path = positions(tmp_path / "p.csv", {"b.tif": (3, 4), "a.tif": (5, 6)})
    mosaic = open_mosaic(path)
    assert mosaic.names.tolist() == ["b.tif", "a.tif"]
    assert mosaic.positions.tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("names", "cells"),
    [
        (["t_r001_c002.tif", "t_r002_c001.tif"], [(0, 1), (1, 0)]),
        (["p01_r1_c1.tif", "p02_r1_c3.tif"], [(0, 0), (0, 2)]),
        (["c0_r0.png", "c1_r0.png"], [(0, 0), (0, 1)]),
        (["x3_y1.tif", "x4_y2.tif"], [(0, 0), (1, 1)]),
        (["scan_row2-col10.tif", "scan_row3-col9.tif"], [(0, 1), (1, 0)]),
    ],
)
def test_rows_and_columns_are_guessed_from_common_names(names, cells, tmp_path) -> None:
    fill(tmp_path, names)
    mosaic = open_mosaic(tmp_path, overlap=(0.1, 0.2))
    assert mosaic.positions.tolist() == [[18 * r, 24 * c] for r, c in cells]


def test_a_pattern_says_where_row_and_column_stand(tmp_path) -> None:
    fill(tmp_path, ["a(1)_07_003.tif", "a(1)_07_004.tif", "b(1)_08_003.tif"])
    mosaic = open_mosaic(tmp_path, pattern="*(1)_{row}_{col}.tif", overlap=0.5)
    assert mosaic.positions.tolist() == [[0, 0], [0, 15], [10, 0]]


def test_metadata_in_micrometres_becomes_pixels(tmp_path) -> None:
    for k in range(2):
        plane = {"PositionX": [100.0 + 10 * k], "PositionY": [50.0]}
        plane |= {f"Position{a}Unit": ["µm"] for a in "XY"}
        metadata = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Plane": plane}
        tifffile.imwrite(tmp_path / f"{k}.ome.tif", image(), metadata=metadata)
    mosaic = open_mosaic(tmp_path)
    assert mosaic.positions.tolist() == [[100, 200], [100, 220]]
    assert mosaic.pixel_size == (0.5, 0.5)
    assert open_mosaic(tmp_path, pixel_size=0.25).positions.tolist() == [[200, 400], [200, 440]]


def test_a_glob_and_a_zarr_group_of_arrays(tmp_path) -> None:
    fill(tmp_path / "u", ["r0_c0.tif", "r0_c1.tif"])
    fill(tmp_path / "v", ["r1_c0.tif"])
    mosaic = open_mosaic(tmp_path / "*" / "r*.tif", overlap=0)
    assert mosaic.names.tolist() == ["r0_c0.tif", "r0_c1.tif", "r1_c0.tif"]
    group = zarr.create_group(str(tmp_path / "g.zarr"))
    for c in range(2):
        group.create_array(f"r0_c{c}", data=image())
    assert open_mosaic(tmp_path / "g.zarr", overlap=0).positions.tolist() == [[0, 0], [0, 30]]


def test_one_image_is_a_mosaic(tmp_path) -> None:
    fill(tmp_path, ["a.tif"])
    for path in (tmp_path, tmp_path / "a.tif"):
        mosaic = open_mosaic(path)
        assert (len(mosaic), mosaic.positions.tolist()) == (1, [[0, 0]])


def test_a_mosaic_written_among_its_tiles_is_not_a_tile(tmp_path) -> None:
    fill(tmp_path, ["r0_c0.tif", "r0_c1.tif"])
    (tmp_path / "out.ome.zarr" / "mosaicreg").mkdir(parents=True)
    assert len(open_mosaic(tmp_path, overlap=0)) == 2


def test_tiles_of_unequal_size_and_missing_tiles(tmp_path) -> None:
    fill(tmp_path, ["r0_c0.tif", "r5_c5.tif"])
    write_tiff(tmp_path / "r0_c1.tif", image(3, (11, 13)))
    mosaic = open_mosaic(tmp_path, overlap=0)
    assert mosaic.shapes.tolist() == [[20, 30], [11, 13], [20, 30]]
    assert mosaic.positions.tolist() == [[0, 0], [0, 30], [100, 150]]


def test_opening_reads_no_pixel(tmp_path, monkeypatch) -> None:
    fill(tmp_path, ["r0_c0.tif", "r0_c1.tif", "r0_c2.png"])

    def never(*_: object) -> None:
        raise AssertionError("a pixel was read")

    monkeypatch.setattr("mosaicreg.imagefile.read_image", never)
    monkeypatch.setattr("mosaicreg.source.read_image", never)
    monkeypatch.setattr("tifffile.TiffPage.asarray", never)
    monkeypatch.setattr("imagecodecs.png_decode", never)
    mosaic = open_mosaic(tmp_path, overlap=0.1)
    mosaic.neighbours()
    assert "3 tiles" in repr(mosaic) + mosaic._repr_html_()


def test_unicode_and_spaces_in_paths(tmp_path) -> None:
    folder = fill(tmp_path / "Übersicht 1 µm", ["käse r0_c0.tif", "käse r0_c1.tif"])
    mosaic = open_mosaic(folder, overlap=0)
    assert mosaic.names.tolist() == ["käse r0_c0.tif", "käse r0_c1.tif"]


# --- bad input -----------------------------------------------------------------------------------


def test_unreadable_and_truncated_files_are_all_listed(tmp_path) -> None:
    fill(tmp_path, [f"r0_c{k}.tif" for k in range(5)])
    (tmp_path / "r0_c1.tif").write_bytes(b"rubbish")
    content = (tmp_path / "r0_c3.tif").read_bytes()
    (tmp_path / "r0_c3.tif").write_bytes(content[:-100])
    with pytest.raises(InputError) as error:
        open_mosaic(tmp_path, overlap=0)
    text = str(error.value)
    assert "2 of 5 tiles cannot be used" in text
    assert "r0_c1.tif: unreadable" in text
    assert "r0_c3.tif: cut short" in text


def test_problems_of_positions_and_of_files_come_in_one_error(tmp_path) -> None:
    for k in range(4):
        tifffile.imwrite(tmp_path / f"{k}.tif", np.zeros((8, 8), np.uint8 if k == 2 else np.uint16))
    (tmp_path / "0.tif").write_bytes((tmp_path / "0.tif").read_bytes()[:-20])
    (tmp_path / "positions.csv").write_text("tile,y,x\n0.tif,0,0\n1.tif,0,nan\n2.tif,0,9\n")
    with pytest.raises(InputError) as error:
        open_mosaic(tmp_path)
    for words in ("line 3 (1.tif)", "0.tif: cut short", "2.tif: uint8"):
        assert words in str(error.value)


def test_bad_tiles_can_be_left_out_but_not_silently(tmp_path) -> None:
    fill(tmp_path, [f"r0_c{k}.tif" for k in range(4)])
    content = (tmp_path / "r0_c2.tif").read_bytes()
    (tmp_path / "r0_c2.tif").write_bytes(content[:-100])
    mosaic = open_mosaic(tmp_path, overlap=0, skip_bad_tiles=True)
    assert mosaic.names.tolist() == ["r0_c0.tif", "r0_c1.tif", "r0_c3.tif"]
    assert mosaic.positions[:, 1].tolist() == [0, 30, 90]
    assert len(mosaic.skipped) == 1
    assert "r0_c2.tif: cut short" in mosaic.skipped[0]
    rows = {f"r0_c{k}.tif": (0, 25 * k) for k in range(4)}
    given = open_mosaic(
        tmp_path, positions=positions(tmp_path / "p.csv", rows), skip_bad_tiles=True
    )
    assert given.positions[:, 1].tolist() == [0, 25, 75]


def test_a_long_list_of_problems_is_cut_and_counted(tmp_path) -> None:
    fill(tmp_path, ["r0_c0.tif"])
    for k in range(1, 31):
        (tmp_path / f"r0_c{k}.tif").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="30 of 31 tiles") as error:
        open_mosaic(tmp_path, overlap=0)
    assert str(error.value).count("unreadable") == 20
    assert str(error.value).endswith("... and 10 more")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"dtype": "uint8"}, "uint8 pixels"), ({"shape": (3, 20, 30)}, "with 3 c")],
)
def test_mixed_types_and_channel_counts(options, words, tmp_path) -> None:
    fill(tmp_path, ["r0_c0.tif", "r0_c1.tif", "r0_c2.tif"])
    tifffile.imwrite(tmp_path / "r0_c1.tif", image(1, **options), photometric="minisblack")
    with pytest.raises(InputError, match="tiles differ; most have uint16") as error:
        open_mosaic(tmp_path, overlap=0)
    assert error.value.problems == (f"r0_c1.tif: {error.value.problems[0].split(': ')[1]}",)
    assert words in error.value.problems[0]


def test_positions_without_tiles_and_tiles_without_positions(tmp_path) -> None:
    fill(tmp_path, ["a.tif", "b.tif", "c.tif"])
    path = positions(tmp_path / "p.csv", {"a.tif": (0, 0), "b.tif": (0, 9), "z.tif": (1, 1)})
    with pytest.raises(InputError) as error:
        open_mosaic(tmp_path, positions=path)
    assert error.value.problems == (
        "z.tif: has a position, but there is no such tile",
        "c.tif: a tile without a position",
    )


def test_duplicate_names(tmp_path) -> None:
    fill(tmp_path, ["a.tif", "b.tif"])
    path = tmp_path / "p.csv"
    path.write_text("tile,y,x\na.tif,0,0\na.tif,5,5\nb.tif,1,1\n")
    with pytest.raises(InputError, match="names tiles twice"):
        open_mosaic(tmp_path, positions=path)
    with pytest.raises(InputError, match="names tiles twice"):
        open_mosaic(path)


def test_two_tiles_in_one_cell_of_the_grid(tmp_path) -> None:
    fill(tmp_path, ["a_r0_c0.tif", "b_r0_c0.tif"])
    with pytest.raises(InputError, match=r"row 0, column 0: a_r0_c0\.tif, b_r0_c0\.tif"):
        open_mosaic(tmp_path, overlap=0)


def test_nan_positions_name_the_line(tmp_path) -> None:
    fill(tmp_path, ["a.tif"])
    path = positions(tmp_path / "p.csv", {"a.tif": (float("nan"), 0)})
    with pytest.raises(InputError, match=r"line 2 \(a\.tif\): the position is nan"):
        open_mosaic(tmp_path, positions=path)


def test_tiles_that_a_position_file_names_must_exist(tmp_path) -> None:
    path = positions(tmp_path / "p.csv", {"a.tif": (0, 0)})
    with pytest.raises(InputError, match="names 1 of 1 tiles that are not in"):
        open_mosaic(path)


def test_nothing_says_where_the_tiles_lie(tmp_path) -> None:
    fill(tmp_path, ["one.tif", "two.tif"])
    with pytest.raises(InputError, match="nothing says where the 2 tiles lie: give --positions"):
        open_mosaic(tmp_path)


def test_names_need_an_overlap(tmp_path) -> None:
    fill(tmp_path, ["r0_c0.tif", "r0_c1.tif"])
    with pytest.raises(InputError, match="give --overlap"):
        open_mosaic(tmp_path)
    with pytest.raises(InputError, match="fraction of the tile"):
        open_mosaic(tmp_path, overlap=1.0)


def test_patterns_that_do_not_fit(tmp_path) -> None:
    fill(tmp_path, ["r0_c0.tif", "other.tif"])
    with pytest.raises(InputError, match=r"1 tiles have no position.*\n  - other\.tif"):
        open_mosaic(tmp_path, pattern="r{row}_c{col}.tif", overlap=0)
    with pytest.raises(InputError, match=r"must hold \{row\} and \{col\} once each"):
        open_mosaic(tmp_path, pattern="r{row}.tif", overlap=0)


def test_paths_that_lead_nowhere(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        open_mosaic(tmp_path / "nothing")
    with pytest.raises(InputError, match="no image in this folder"):
        open_mosaic(tmp_path)
    with pytest.raises(InputError, match="no image matches"):
        open_mosaic(tmp_path / "*.tif")
    fill(tmp_path, ["a.tif", "b.tif"])
    with pytest.raises(InputError, match="no such position file"):
        open_mosaic(tmp_path, positions=tmp_path / "p.csv")


def test_two_sources_of_positions_contradict_each_other(tmp_path) -> None:
    fill(tmp_path, ["a.tif"])
    path = positions(tmp_path / "p.csv", {"a.tif": (0, 0)})
    with pytest.raises(InputError, match="not from both"):
        open_mosaic(tmp_path, positions=path, pattern="r{row}_c{col}")
    with pytest.raises(InputError, match="already says where tiles lie"):
        open_mosaic(path, positions=path)


def test_several_mosaic_files_need_a_choice(tmp_path) -> None:
    fill(tmp_path, ["a.tif", "b.tif"])
    for name in ("one.mosaic", "two.mosaic"):
        (tmp_path / name).write_text("")
    with pytest.raises(InputError, match=r"several \.mosaic files"):
        open_mosaic(tmp_path)


def test_a_file_changed_after_opening_is_noticed(tmp_path) -> None:
    from mosaicreg import ImageError, assemble, stage_layout

    fill(tmp_path, ["r0_c0.tif", "r0_c1.tif"])
    mosaic = open_mosaic(tmp_path, overlap=0)
    write_tiff(tmp_path / "r0_c1.tif", image(1, dtype="float32"))
    with pytest.raises(ImageError, match=r"r0_c1\.tif.*was it changed"):
        assemble(mosaic, stage_layout(mosaic)).compute()
    shutil.rmtree(tmp_path)
    with pytest.raises(ImageError, match="there is no such file"):
        assemble(mosaic, stage_layout(mosaic)).compute()


def test_the_patterns_for_names_are_tried_in_order() -> None:
    assert all("(?P<row>" in p and "(?P<col>" in p for p in room.NAME_PATTERNS)


# --- stamps --------------------------------------------------------------------------------------


def many_files(folder: Path, count: int = 200) -> FileSource:
    for k in range(count):
        (folder / f"t{k}").write_bytes(b"x" * k)
    names = as_names([f"t{k}" for k in range(count)])
    return FileSource(folder, names, np.dtype("u2"), ())


@pytest.mark.parametrize("quick", [0, 8, 100])
def test_stamps_of_a_slow_disk_are_the_same_and_waited_for_together(
    quick, tmp_path, monkeypatch
) -> None:
    """Also where it turns out to be slow late: the first ones were looked at not long ago."""
    files = many_files(tmp_path)
    assert files.select(np.arange(1)).stamps()[0] == files.stamps()[0]
    told = files.stamps()
    assert len(set(told.tolist())) == len(files)
    look, looked = source._looks, []

    def slowly(path: Path) -> object:
        looked.append(threading.current_thread())
        if len(looked) > quick:
            time.sleep(0.002)
        return look(path)

    monkeypatch.setattr(source, "_looks", slowly)
    np.testing.assert_array_equal(files.stamps(), told)
    assert len(looked) == len(files)
    here = looked.count(threading.main_thread())
    assert quick <= here <= quick + 2 * source.LOOKS
    assert len(set(looked)) > 2


def test_a_slow_disk_delays_no_stop(tmp_path, monkeypatch) -> None:
    files = many_files(tmp_path, 2000)
    look, looked = source._looks, []

    def slowly(path: Path) -> object:
        looked.append(path)
        time.sleep(0.002)
        if path.name == "t30":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return look(path)

    monkeypatch.setattr(source, "_looks", slowly)
    with pytest.raises(ImageError, match=r"t30: unreadable \(No such file or directory\)"):
        files.stamps()
    assert len(looked) < 300


def test_stamps_of_tiles_elsewhere(tmp_path) -> None:
    """A name may be a whole path; then the folder is not looked into."""
    files = many_files(tmp_path, 3)
    whole = as_names([str(tmp_path / str(name)) for name in files.paths])
    moved = FileSource(tmp_path / "none", whole, np.dtype("u2"), ())
    before = moved.stamps()
    (tmp_path / "t1").write_bytes(b"changed")
    assert (moved.stamps() != before).tolist() == [False, True, False]
