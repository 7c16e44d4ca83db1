"""Files of ir-tools and nornir: .stos and .mosaic, read, written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import transforms

from mosaicreg import AlignmentRecord
from mosaicreg.errors import InputError
from mosaicreg.irtools import (
    MosaicText,
    Stos,
    StosImage,
    StosName,
    parse_stos_name,
    read_mosaic,
    read_stos,
    stos_of,
    write_mosaic,
    write_stos,
)
from mosaicreg.mosaicfile import read_positions
from mosaicreg.transforms import Mesh, Rigid, Transform

STOS = """C:/vol/0002.png
C:/vol/0001.png
0
0
1.0 1.0 200 100
1.0 1.0 60 40
GridTransform_double_2_2 vp 8 87 84 87 25 126 84 126 25 fp 7 0 1 1 0 0 59 39
two_user_supplied_masks:
C:/vol/0002_mask.png
C:/vol/0001_mask.png
"""
V1 = """format_version_number: 1
number_of_images: 2
pixel_spacing: 1
use_std_mask: 0
image:
001.png
LegendrePolynomialTransform_double_2_2_1 vp 6 1 0 1 1 1 0 fp 4 0 0 50 40
image:
002.png
LegendrePolynomialTransform_double_2_2_1 vp 6 1 0 1 1 1 0 fp 4 90 0 50 40
"""
LEGENDRE = "LegendrePolynomialTransform_double_2_2_1 vp 6 1 0 1 1 1 0 fp 4"
V0 = f"""number_of_images: 2
pixel_spacing: 2.5
use_std_mask: 1
image: my tile 1.png {LEGENDRE} 0 0 50 40
image: 002.png {LEGENDRE} 90 0 50 40
"""


class TestStos:
    @pytest.mark.row("H1")
    def test_the_documented_sample_byte_for_byte(self, tmp_path: Path) -> None:
        path = tmp_path / "a.stos"
        path.write_bytes(STOS.encode())
        stos = read_stos(path)
        assert stos.fixed == StosImage("C:/vol/0002.png", (100, 200), mask="C:/vol/0002_mask.png")
        assert stos.moving.shape == (40, 60)
        np.testing.assert_allclose(stos.transform.transform((0, 0)), [(84, 87)], atol=1e-6)
        write_stos(tmp_path / "b.stos", stos)
        assert (tmp_path / "b.stos").read_bytes() == STOS.encode()

    @pytest.mark.row("H1")
    def test_as_other_tools_write_it(self, tmp_path: Path) -> None:
        text = STOS.replace("1.0 1.0 200 100", "2\t2\t100 50").replace(" ", "\t", 3)
        text = text.replace("vp 8 87 84", "vp\t8\t8.7e1 84.0").replace("0002.png", "fixed one.png")
        text = "\ufeff" + text.replace("C:/vol/", "").replace("\n", "  \r\n")
        path = tmp_path / "sub folder" / "a.stos"
        path.parent.mkdir()
        path.write_bytes(text.encode())
        stos = read_stos(path)
        assert stos.fixed.spacing == (2, 2)
        assert stos.fixed.shape == (50, 100)
        assert stos.resolved(stos.fixed.path) == path.parent / "fixed one.png"
        np.testing.assert_allclose(stos.transform.transform((0, 0)), [(84, 87)])
        write_stos(path, stos)
        assert "2.0 2.0 100 50" in path.read_text()
        assert read_stos(path) == stos

    def test_backslashes_of_another_system(self, tmp_path: Path) -> None:
        stos = Stos(StosImage("a\\b.png", (2, 2)), StosImage("c", (2, 2)), Rigid((0, 0)), tmp_path)
        assert stos.resolved(stos.fixed.path) == tmp_path / "a" / "b.png"

    def test_flips_and_pixel_sizes_are_in_the_pixel_transform(self) -> None:
        fixed = StosImage("f", (50, 80), spacing=(2, 4), flipped=True)
        moving = StosImage("m", (30, 40), spacing=(0.5, 1), flipped=True)
        stos = Stos(fixed, moving, Rigid((10, 20)))
        # Pixel (3, 7): row 26 of the flipped image; units (13, 7), moved to (23, 27), which are
        # pixel (11.5, 6.75) of the flipped fixed image, row 37.5 as it is stored.
        np.testing.assert_allclose(stos.pixel_transform.transform((3, 7)), [(37.5, 6.75)])
        plain = Stos(StosImage("f", (5, 8)), StosImage("m", (3, 4)), Rigid((10, 20)))
        assert plain.pixel_transform is plain.transform

    def test_of_a_record(self, tmp_path: Path) -> None:
        record = AlignmentRecord((5, 7), 1, 90)
        stos = stos_of(record, StosImage("f", (100, 200)), StosImage("m", (40, 60)))
        write_stos(tmp_path / "a.stos", stos)
        assert STOS.splitlines()[6] in (tmp_path / "a.stos").read_text().splitlines()
        again = read_stos(tmp_path / "a.stos").transform
        np.testing.assert_allclose(again.transform((0, 0)), [(84, 87)], atol=1e-6)

    @given(transforms(composed=False), st.integers(1, 9999), st.booleans(),
           st.floats(0.01, 100), st.sampled_from([None, "m ä.png"]))  # fmt: skip
    def test_round_trip(
        self, t: Transform, side: int, flipped: bool, spacing: float, mask: str | None
    ) -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.stos"
            stos = Stos(StosImage("a b/f.png", (side, 7), (spacing, 1.0), False, mask),
                        StosImage("m.png", (3, side), (1.0, spacing), flipped, mask),
                        t, Path(folder))  # fmt: skip
            write_stos(path, stos)
            first = path.read_bytes()
            again = read_stos(path)
            assert (again.fixed, again.moving) == (stos.fixed, stos.moving)
            write_stos(path, again)
            assert path.read_bytes() == first

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            (STOS[STOS.index("1.0 1.0 60") :], "", "5 lines where a .stos has 7"),
            ("\n0\n0\n", "\n0\n2\n", "line 4: a flip is 0 or 1"),
            ("1.0 1.0 200 100", "1.0 1.0 200", "line 5: "),
            ("1.0 1.0 200 100", "0 1.0 200 100", "line 5: "),
            ("1.0 1.0 200 100", "1.0 nan 200 100", "line 5: "),
            ("60 40", "60 40.5", "line 6: "),
            ("vp 8", "vp 9", "line 7: GridTransform"),
            ("two_user", "one_user", "line 8: after the transform"),
            ("C:/vol/0001_mask.png\n", "", "line 8: after the transform"),
        ],
    )
    def test_what_is_refused(self, old: str, new: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "a.stos"
        path.write_text(STOS.replace(old, new))
        with pytest.raises(InputError, match=message):
            read_stos(path)

    def test_all_problems_at_once_and_missing_files(self, tmp_path: Path) -> None:
        path = tmp_path / "a.stos"
        path.write_text(STOS.replace("\n0\n", "\nx\n").replace("vp 8", "vp"))
        with pytest.raises(InputError) as error:
            read_stos(path)
        assert len(error.value.problems) == 2 + (STOS.count("\n0\n0\n") == 0)
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_stos(tmp_path / "b.stos")
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InputError, match="not UTF-8"):
            read_stos(path)

    def test_what_is_not_written(self, tmp_path: Path) -> None:
        one = StosImage("f", (5, 5), mask="m")
        with pytest.raises(InputError, match="masks for both"):
            write_stos(tmp_path / "a.stos", Stos(one, StosImage("g", (5, 5)), Rigid((0, 0))))
        two = StosImage("a\nb", (5, 5))
        with pytest.raises(InputError, match="cannot name the path"):
            write_stos(tmp_path / "a.stos", Stos(two, two, Rigid((0, 0))))
        assert list(tmp_path.iterdir()) == []

    def test_names(self) -> None:
        name = parse_stos_name("x/0003-0002_TEM_Leveled_grid_16.stos")
        assert name == StosName(3, 2, "TEM", "Leveled", "grid", 16)
        assert parse_stos_name("3-2.stos") == StosName(3, 2, None, None, None, None)
        assert parse_stos_name("3-2_TEM.stos").channel == "TEM"
        assert parse_stos_name("notes.stos") == StosName(None, None, None, None, None, None)


class TestMosaic:
    @pytest.mark.row("H1")
    def test_version_1_byte_for_byte(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mosaic"
        path.write_bytes(V1.encode())
        mosaic = read_mosaic(path)
        assert mosaic.names == ("001.png", "002.png")
        np.testing.assert_allclose(mosaic.transforms[1].transform((0, 0)), [(0, 90)])
        write_mosaic(tmp_path / "b.mosaic", mosaic)
        assert (tmp_path / "b.mosaic").read_bytes() == V1.encode()
        np.testing.assert_array_equal(read_positions(path).positions, [(0, 0), (0, 90)])

    @pytest.mark.row("H1")
    def test_version_0_with_spaces_blank_lines_and_crlf(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mosaic"
        path.write_bytes(V0.replace("\n", "\r\n\r\n").replace(" vp", "\tvp").encode())
        mosaic = read_mosaic(path)
        assert mosaic.names == ("my tile 1.png", "002.png")
        assert mosaic.pixel_spacing == 2.5
        assert mosaic.use_std_mask
        assert read_positions(path).names == list(mosaic.names)
        write_mosaic(path, mosaic)
        assert read_mosaic(path) == mosaic

    def test_any_transform_and_its_shift(self, tmp_path: Path) -> None:
        square = [(0, 0), (0, 50), (40, 0), (40, 50)]
        moved = Mesh(square, np.array(square) + np.array([3, -7]))
        path = tmp_path / "a.mosaic"
        write_mosaic(path, MosaicText(("a", "b"), (moved, Rigid((5, 6)))))
        np.testing.assert_allclose(read_positions(path).positions, [(3, -7), (5, 6)], atol=1e-9)
        write_mosaic(path, MosaicText(("a", "b"), (moved, Rigid((5, 6), 0.1))))
        with pytest.raises(InputError, match=r"line 8 \(b\): Rigid2D.* is not a plain shift"):
            read_positions(path)
        assert read_mosaic(path).transforms == (moved, Rigid((5, 6), 0.1))

    def test_a_wrong_count_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.mosaic"
        path.write_text(V1.replace("images: 2", "images: 3"))
        for read in (read_mosaic, read_positions):
            with pytest.warns(UserWarning, match="is 3, and 2 are there"):
                read(path)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("vp 6", "vp 7", r"line 5 \(001.png\)"),
            ("Legendre", "Foo", "none of the transforms"),
            ("image:\n002", "picture:\n002", "line 8: 'picture:'"),
            ("pixel_spacing: 1", "pixel_spacing: one", "pixel_spacing is 'one'"),
            (V1[V1.index("002.png") :], "", "line 8: an image without"),
        ],
    )
    def test_what_is_refused(self, old: str, new: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "a.mosaic"
        path.write_text(V1.replace(old, new))
        with pytest.raises(InputError, match=message):
            read_mosaic(path)
