"""Headers of TIFF files that are alike: whatever a file is, comparing finds what tifffile finds."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mosaicreg import tifffiles
from mosaicreg.errors import ImageError
from mosaicreg.geometry import Box
from mosaicreg.header import Header
from mosaicreg.imagefile import DTYPES, read_header, read_image
from mosaicreg.tiffscan import HEAD, grey_image, scan

WRITERS: dict[str, dict[str, Any]] = {
    "shaped": {},
    "bare": {"metadata": None},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
    "strips": {"rowsperstrip": 7},
    "zlib": {"compression": "zlib", "rowsperstrip": 16},
    "tiled": {"tile": (16, 32), "compression": "zlib"},
    "imagej": {"imagej": True},
    "told": {"metadata": None, "description": "stage 1", "software": "scope", "datetime": True},
}
"""Plain files of one page, as `tifffile.imwrite` is asked for them."""
UNUSUAL: dict[str, dict[str, Any]] = {
    "ome": {"ome": True, "metadata": {"axes": "YX"}},
    "private tag": {"extratags": [(65001, 2, 0, "what nobody knows", True)]},
}
SHAPE = (50, 40)


DAMAGE = st.lists(
    st.tuples(st.integers(0, 450), st.integers(0, 255) | st.sampled_from([0, 1, 255])),
    min_size=1,
    max_size=3,
)
"""Places in a header, and what is written there."""
LENGTH = st.none() | st.integers(0, 5000)
"""To which a file is cut short."""
MANY = settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def write(path: Path, seed: int = 0, shape: tuple[int, ...] = SHAPE, **options: Any) -> Path:
    image = np.random.default_rng(seed).integers(0, 60000, shape, dtype=np.uint16)
    tifffile.imwrite(path, image, **options)
    return path


def outcome(path: Path, known: dict[Any, Header] | None = None) -> Header | str:
    """The header, or why there is none."""
    try:
        return read_header(path, known=known)
    except ImageError as error:
        return str(error)


@pytest.fixture(autouse=True)
def _tifffile_is_quiet(caplog) -> None:
    """It logs what it finds wrong with damaged files."""
    caplog.set_level(logging.CRITICAL, logger="tifffile")


@pytest.mark.parametrize("kind", WRITERS)
def test_of_files_that_are_alike_one_is_looked_into(kind, tmp_path, monkeypatch) -> None:
    paths = [write(tmp_path / f"{k}.tif", k, **WRITERS[kind]) for k in range(3)]
    known: dict[Any, Header] = {}
    first = read_header(paths[0], known=known)
    assert first == read_header(paths[0])
    monkeypatch.setattr(tifffile, "TiffFile", None)
    assert [read_header(p, known=known) for p in paths] == [first] * 3


GREY = ["shaped", "bare", "big-endian", "bigtiff", "strips"]
"""Kinds that are known without looking into any of them."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", GREY)
def test_of_the_commonest_files_tifffile_need_not_know(dtype, kind, tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.tif"
    image = np.random.default_rng(0).integers(0, 100, SHAPE).astype(dtype)
    tifffile.imwrite(path, image, **WRITERS[kind])
    due = read_header(path)
    monkeypatch.setattr(tifffile, "TiffFile", None)
    assert read_header(path, known={}) == due == Header("yx", SHAPE, image.dtype)
    found = read_image(path)
    assert found.dtype.newbyteorder("=") == image.dtype
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize("kind", sorted({*WRITERS} - {*GREY}))
def test_compressed_and_other_writers_files_are_left_to_tifffile(kind, tmp_path) -> None:
    found = scan(str(write(tmp_path / "a.tif", **WRITERS[kind])))
    assert found is not None
    assert grey_image(found) is None


@pytest.mark.parametrize(
    "options",
    [
        {"photometric": "miniswhite"},
        {"subfiletype": 1},
        {"description": '{"shape": [50, 40], "axes": "YX"}', "metadata": None},
        {"description": '{"shape": [40, 50]}', "metadata": None},
        {"description": "ImageJ=1.11a", "metadata": None},
        {"software": "MetaMorph"},
        {"extratags": [(315, 2, 0, "somebody", True)]},
        {"extratags": [(274, 3, 1, 3, True)]},
        {"predictor": True, "compression": "zlib"},
    ],
)
def test_a_tag_that_might_say_more_is_left_to_tifffile(options, tmp_path) -> None:
    path = write(tmp_path / "a.tif", **options)
    found = scan(str(path))
    assert found is None or grey_image(found) is None
    assert outcome(path, {}) == outcome(path)


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (1, 1)])
def test_images_of_one_row_or_column_are_left_to_tifffile(shape, tmp_path) -> None:
    found = scan(str(path := write(tmp_path / "a.tif", shape=shape)))
    assert found is not None
    assert grey_image(found) is None
    assert outcome(path, {}) == outcome(path)


@pytest.mark.parametrize("kind", UNUSUAL)
def test_what_is_unusual_is_left_to_tifffile(kind, tmp_path) -> None:
    path = write(tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif"), **UNUSUAL[kind])
    known: dict[Any, Header] = {}
    assert read_header(path, known=known) == read_header(path)
    assert not known


def test_pages_that_follow_are_left_to_tifffile(tmp_path) -> None:
    stack = write(tmp_path / "stack.tif", shape=(3, *SHAPE), photometric="minisblack")
    assert scan(str(stack)) is None
    known: dict[Any, Header] = {}
    assert read_header(stack, known=known).shape == (3, *SHAPE)
    assert not known


def test_images_inside_images_are_left_to_tifffile(tmp_path) -> None:
    path = tmp_path / "pyramid.tif"
    image = np.zeros((64, 64), dtype=np.uint16)
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, subifds=1)
        writer.write(image[::2, ::2], subfiletype=1)
    assert scan(str(path)) is None
    assert read_header(path, known={}).shape == (64, 64)


def test_other_sizes_types_and_samples_are_not_alike(tmp_path) -> None:
    known: dict[Any, Header] = {}
    images = [
        np.zeros((50, 40), np.uint16),
        np.zeros((50, 41), np.uint16),
        np.zeros((50, 40), np.int16),
        np.zeros((50, 40), np.uint8),
        np.zeros((50, 40, 3), np.uint16),
        np.zeros((50, 40, 4), np.uint16),
    ]
    for k, image in enumerate(images):
        path = tmp_path / f"{k}.tif"
        tifffile.imwrite(path, image, photometric="rgb" if image.ndim == 3 else "minisblack")
        header = read_header(path, known=known)
        assert header == read_header(path)
        assert header.plane == image.shape[:2]
        assert header.dtype == image.dtype
    assert len(known) == len(images)


def test_a_directory_at_the_end_of_the_file_is_found(tmp_path) -> None:
    """libtiff writes pixels first."""
    paths = []
    for k in range(2):
        plain = write(tmp_path / f"plain{k}.tif", k, metadata=None).read_bytes()
        with tifffile.TiffFile(tmp_path / f"plain{k}.tif") as tiff:
            start, pixels = tiff.pages.first.dataoffsets[0], 8
        body = bytearray(plain[start:] + bytes(3 * HEAD))
        directory = bytearray(plain[8:start])
        count = struct.unpack_from("<H", directory)[0]
        moved = len(body)
        for n in range(count):
            at = 2 + 12 * n
            code, kind, length, value = struct.unpack_from("<HHII", directory, at)
            if code == 273:
                struct.pack_into("<I", directory, at + 8, pixels)
            elif length * {2: 1, 3: 2, 4: 4, 5: 8}[kind] > 4:
                struct.pack_into("<I", directory, at + 8, value + moved)
        path = tmp_path / f"end{k}.tif"
        path.write_bytes(plain[:4] + struct.pack("<I", 8 + len(body)) + bytes(body + directory))
        paths.append(path)
    known: dict[Any, Header] = {}
    first = read_header(paths[0], known=known)
    assert first == read_header(paths[0])
    assert len(known) == 1
    found = scan(str(paths[1]))
    assert found is not None
    assert known[found.key] == read_header(paths[1])


@pytest.mark.parametrize("kind", WRITERS)
def test_files_cut_short_are_noticed(kind, tmp_path) -> None:
    whole = write(tmp_path / "whole.tif", **WRITERS[kind])
    known: dict[Any, Header] = {}
    read_header(whole, known=known)
    content = whole.read_bytes()
    short = tmp_path / "short.tif"
    for length in (0, 3, 8, 20, 150, len(content) // 2, len(content) - 1):
        short.write_bytes(content[:length])
        told = outcome(short, known)
        assert told == outcome(short)
        assert isinstance(told, str)
        assert str(short) in told


@given(
    kind=st.sampled_from(sorted(WRITERS)),
    damage=DAMAGE,
    length=LENGTH,
)
@MANY
@pytest.mark.filterwarnings("ignore")
def test_damaged_headers_are_judged_as_if_they_were_read_alone(
    kind, damage, length, tmp_path_factory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    whole = folder / f"{kind}.tif"
    if not whole.exists():
        write(whole, **WRITERS[kind])
    known: dict[Any, Header] = {}
    read_header(whole, known=known)
    assert len(known) == 1
    content = bytearray(whole.read_bytes())
    for at, value in damage:
        content[at] = value
    path = folder / "tile.tif"
    path.write_bytes(content[:length])
    assert outcome(path, known) == outcome(path)


# --- pixels --------------------------------------------------------------------------------------

BOXES = [None, Box(0, 0, 50, 40), Box(3, 0, 9, 40), Box(7, 30, 50, 38), Box(0, 39, 50, 40)]
AS_THEY_ARE = ["shaped", "bare", "big-endian", "bigtiff", "strips", "imagej", "told"]
"""Kinds whose pixels lie in the file one after the other."""


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch) -> None:
    monkeypatch.setattr(tifffiles, "_stored", {})


def pixels(path: Path, box: Box | None = None, lead: Any = None) -> np.ndarray | str:
    """The pixels, or why there are none."""
    try:
        return read_image(path, box, lead)
    except ImageError as error:
        return str(error)


def pixels_by_tifffile(path: Path, box: Box | None = None, lead: Any = None) -> np.ndarray | str:
    """The same where no other file is known, nor any kind of file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tifffiles, "_stored", {})
        patch.setattr(tifffiles, "grey_image", lambda found: None)
        return pixels(path, box, lead)


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("kind", WRITERS)
def test_pixels_of_files_that_are_alike_are_those_that_were_written(kind, box, tmp_path) -> None:
    paths = [write(tmp_path / f"{k}.tif", k, **WRITERS[kind]) for k in range(3)]
    for path in paths:
        due = tifffile.imread(path)
        found = read_image(path, box)
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, due if box is None else due[box.slices])
    assert len(tifffiles._stored) == (kind in AS_THEY_ARE)


@pytest.mark.parametrize("box", BOXES)
def test_samples_and_planes_of_files_that_are_alike(box, tmp_path) -> None:
    rng = np.random.default_rng(0)
    for name, shape, options in (
        ("rgb", (50, 40, 3), {"photometric": "rgb"}),
        ("planes", (3, 50, 40), {"photometric": "rgb", "planarconfig": "separate"}),
    ):
        for k in range(2):
            image = rng.integers(0, 255, shape, dtype=np.uint8)
            tifffile.imwrite(tmp_path / f"{name}{k}.tif", image, **options)
            due = image if name == "planes" else np.moveaxis(image, 2, 0)
            lead = (slice(1, 2),)
            cut = due if box is None else due[:, *box.slices]
            np.testing.assert_array_equal(read_image(tmp_path / f"{name}{k}.tif", box), cut)
            np.testing.assert_array_equal(
                read_image(tmp_path / f"{name}{k}.tif", box, lead), cut[lead]
            )


@pytest.mark.parametrize("kind", AS_THEY_ARE)
def test_files_like_one_known_from_its_header_or_its_pixels_are_not_opened_by_tifffile(
    kind, tmp_path, monkeypatch
) -> None:
    paths = [write(tmp_path / f"{k}.tif", k, **WRITERS[kind]) for k in range(3)]
    due = tifffile.imread(paths[2])
    read_header(paths[0], known={})
    known_by_header = dict(tifffiles._stored)
    assert len(known_by_header) == (kind not in GREY)
    tifffiles._stored.clear()
    read_image(paths[1])
    assert len(tifffiles._stored) == 1
    assert kind in GREY or tifffiles._stored == known_by_header
    monkeypatch.setattr(tifffile, "TiffFile", None)
    np.testing.assert_array_equal(read_image(paths[2]), due)


def test_what_is_known_of_files_stays_little(tmp_path) -> None:
    for width in range(1, tifffiles.MOST_KNOWN + 10):
        read_image(write(tmp_path / "a.tif", shape=(2, width)))
    assert 0 < len(tifffiles._stored) <= tifffiles.MOST_KNOWN


def test_strips_that_do_not_follow_each_other_are_left_to_tifffile(tmp_path) -> None:
    """Two files that differ in nothing but the order of their strips."""
    plain = write(tmp_path / "plain.tif", 0, rowsperstrip=25)
    read_image(plain)
    content = bytearray(plain.read_bytes())
    with tifffile.TiffFile(plain) as tiff:
        tag = tiff.pages.first.tags["StripOffsets"]
        first, second = tiff.pages.first.dataoffsets
        struct.pack_into("<II", content, tag.valueoffset, second, first)
    swapped = tmp_path / "swapped.tif"
    swapped.write_bytes(content)
    before, after = scan(str(plain)), scan(str(swapped))
    assert before is not None
    assert after is not None
    assert before.key == after.key
    assert (before.unbroken, after.unbroken) == (50 * 40 * 2, 0)
    image = tifffile.imread(plain)
    due = np.concatenate([image[25:], image[:25]])
    for box in BOXES:
        np.testing.assert_array_equal(
            read_image(swapped, box), due if box is None else due[box.slices]
        )


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("kind", AS_THEY_ARE)
def test_pixels_cut_short_are_told_as_by_tifffile(kind, box, tmp_path) -> None:
    whole = write(tmp_path / "whole.tif", **WRITERS[kind])
    read_image(whole)
    content = whole.read_bytes()
    short = tmp_path / "short.tif"
    for length in (0, 8, 150, len(content) // 2, len(content) - 1):
        short.write_bytes(content[:length])
        told = pixels(short, box)
        assert same(told, pixels_by_tifffile(short, box))


def same(one: np.ndarray | str, other: np.ndarray | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and one == other
    return one.dtype == other.dtype and np.array_equal(one, other)


@given(
    kind=st.sampled_from(AS_THEY_ARE),
    damage=DAMAGE,
    length=LENGTH,
    box=st.sampled_from(BOXES),
)
@MANY
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_as_if_no_other_were_known(
    kind, damage, length, box, tmp_path_factory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    whole = folder / f"{kind}.tif"
    if not whole.exists():
        write(whole, **WRITERS[kind])
    read_image(whole)
    content = bytearray(whole.read_bytes())
    for at, value in damage:
        content[at] = value
    path = folder / "tile.tif"
    path.write_bytes(content[:length])
    assert same(pixels(path, box), pixels_by_tifffile(path, box))
