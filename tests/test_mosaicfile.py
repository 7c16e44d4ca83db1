"""Position files: every format read and written, every bad line named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicreg import InputError
from mosaicreg.mosaicfile import PositionTable, read_positions, write_positions

numbers = st.floats(-1e9, 1e9, allow_nan=False).map(float)
names = st.text(
    st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"], blacklist_characters=";\\"),
    min_size=1,
).filter(lambda s: s == s.strip() and not s.startswith("#") and "_double_2_2" not in s)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("positions")


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".mosaic", ".json"])
@given(rows=st.lists(st.tuples(names, numbers, numbers), min_size=1, max_size=5))
def test_written_positions_come_back_exactly(suffix, rows, folder) -> None:
    table = PositionTable([r[0] for r in rows], np.array([r[1:] for r in rows]))
    path = folder / f"a{suffix}"
    write_positions(path, table, np.full((len(rows), 2), 101))
    again = read_positions(path)
    assert again.names == table.names
    assert (again.positions == table.positions).all()


def read(tmp_path, suffix: str, text: str) -> PositionTable:
    path = tmp_path / f"p{suffix}"
    path.write_bytes(text.encode())
    return read_positions(path)


def test_csv_columns_may_come_in_any_order_and_more_of_them(tmp_path) -> None:
    table = read(tmp_path, ".csv", 'x,note,tile,y\r\n1.5,"a, b",t0.tif,-2\r\n\r\n3,,t1.tif,4e2\r\n')
    assert table.names == ["t0.tif", "t1.tif"]
    assert table.positions.tolist() == [[-2, 1.5], [400, 3]]
    assert list(table.columns["note"]) == ["a, b", ""]


def test_nominal_columns_stand_in_for_y_and_x(tmp_path) -> None:
    table = read(tmp_path, ".csv", "tile,nominal_y,nominal_x\na.png,1,2\n")
    assert table.positions.tolist() == [[1, 2]]


FIJI = """# Define the number of dimensions we are working on
dim = {dim}
multiseries = false

# Define the image coordinates
tile 1.tif; ; (0.0, 10.5{z})
tile;2.tif ; ; (1e2, -20{z})
"""


def test_fiji_in_two_and_three_dimensions_is_x_then_y(tmp_path) -> None:
    for dim, z in ((2, ""), (3, ", 7.0")):
        text = FIJI.format(dim=dim, z=z).replace("tile;2", "tile2")
        table = read(tmp_path, ".txt", text.replace("\n", "\r\n"))
        assert table.names == ["tile 1.tif", "tile2.tif"]
        assert table.positions.tolist() == [[10.5, 0], [-20, 100]]


def test_fiji_tiles_at_several_depths_are_not_one_mosaic(tmp_path) -> None:
    with pytest.raises(InputError, match=r"2 different z \(0.0 to 5.0\)"):
        read(tmp_path, ".txt", "dim = 3\na; ; (0, 0, 0)\nb; ; (0, 9, 5)\n")


MOSAIC_1 = """format_version_number: 1
number_of_images: 2
pixel_spacing: 1
use_std_mask: 0
image:
001.png
LegendrePolynomialTransform_double_2_2_1 vp 6 1 0 1 1 1 0 fp 4 0 0 50 40
image:
002 b.png
LegendrePolynomialTransform_double_2_2_1 vp 6 1 0 1 1 1 0 fp 4 90 5.25 50 40
"""
MOSAIC_0 = """number_of_images: 2
pixel_spacing: 1
use_std_mask: 0
image: 001.png LegendrePolynomialTransform_double_2_2_1 vp 6 1 0 1 1 1 0 fp 4 0 0 50 40
image: 002 b.png\tLegendrePolynomialTransform_double_2_2_1 vp 6 1 0 1 1 1 0 fp 4 9e1 5.25 50 40
"""


@pytest.mark.parametrize("text", [MOSAIC_1, MOSAIC_0, MOSAIC_1.replace("\n", "\r\n")])
def test_mosaic_files_of_both_versions(text, tmp_path) -> None:
    table = read(tmp_path, ".mosaic", text)
    assert table.names == ["001.png", "002 b.png"]
    assert table.positions.tolist() == [[0, 0], [5.25, 90]]


BAD = [
    (".csv", "tile,y\na,1\n", "header must name the columns tile, y and x"),
    (".csv", "", "header must name"),
    (".csv", "tile,y,x\na,1,oops\nb,nan,2\n", "line 2 (a): 'oops' is not a number"),
    (".csv", "tile,y,x\na,1,2\nb,nan,2\n", "line 3 (b): the position is nan"),
    (".csv", "tile,y,x\na,1\n", "line 2: 2 columns where the header has 3"),
    (".csv", "tile,y,x\n", "names no tile"),
    (".txt", "dim = 4\na; ; (1, 2)\n", "dim = 4 is neither 2 nor 3"),
    (".txt", "a; ; (1, 2\n", "line 1: 'a; ; (1, 2' is not 'file; ; (x, y)'"),
    (".txt", "a; ; (nan, 2)\n", "is not 'file; ; (x, y)'"),
    (".txt", "a; ; (1e999, 2)\n", "the position is 1e999"),
    (".mosaic", "hello\n", "'hello' is not part of a .mosaic file"),
    (".mosaic", "image:\na.png\n", "an image without path or transform"),
    (".mosaic", MOSAIC_1.replace("1 0 1 1 1 0 fp 4 90", "1 0 2 1 1 0 fp 4 90"), "002 b.png): Leg"),
    (".mosaic", MOSAIC_1.replace("fp 4 90", "fp 4 x"), "line 8 (002 b.png): 'x' is not a number"),
    (".mosaic", MOSAIC_1.replace(" 50 40", ""), "is not a plain shift"),
    (".json", "{", "not JSON"),
    (".json", "[]", 'lacks "format"'),
    (".json", '{"format": "mosaicreg-layout", "tiles": {"tile": ["a"], "y": [1]}}', "1 y and 0 x"),
    (
        ".json",
        '{"format": "mosaicreg-layout", "tiles": {"tile": ["a"], "y": [null], "x": [1]}}',
        "tile a: its position (None, 1)",
    ),
]


@pytest.mark.parametrize(("suffix", "text", "message"), BAD)
def test_bad_text_is_refused_with_the_line(suffix, text, message, tmp_path) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path, suffix, text)
    assert message in str(error.value)
    assert f"p{suffix}" in str(error.value)


def test_all_bad_lines_are_listed_together(tmp_path) -> None:
    lines = [f"t{k},x,{k}" for k in range(25)]
    with pytest.raises(InputError) as error:
        read(tmp_path, ".csv", "tile,y,x\n" + "\n".join(lines))
    assert len(error.value.problems) == 25
    assert str(error.value).endswith("... and 5 more")


def test_wrong_endings_and_missing_files(tmp_path) -> None:
    with pytest.raises(InputError, match="positions come from files ending in"):
        read_positions(tmp_path / "p.xlsx")
    with pytest.raises(InputError, match="no such position file"):
        read_positions(tmp_path / "p.csv")
    (tmp_path / "p.csv").write_bytes(b"tile,y,x\n\xff\xfe,1,2")
    with pytest.raises(InputError, match="not UTF-8"):
        read_positions(tmp_path / "p.csv")
    table = PositionTable(["a"], np.zeros((1, 2)))
    with pytest.raises(InputError, match="a layout file ends in one of"):
        write_positions(tmp_path / "p.xlsx", table, np.ones((1, 2)))
