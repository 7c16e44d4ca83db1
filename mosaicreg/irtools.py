"""Files of the SCI ir-tools and of nornir that hold transforms: ``.stos`` and ``.mosaic``.

A ``.stos`` says how one section (moving, "mapped") lies on another (fixed, "control"); a
``.mosaic`` where each tile of one section lies. Text from elsewhere is data: nothing is evaluated,
sizes are limited, and every error names the file and the line. Relative paths start from the
folder of the file.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mosaicreg.alignment import AlignmentRecord
from mosaicreg.errors import InputError
from mosaicreg.imagefile import write_atomically
from mosaicreg.transforms import (
    Affine,
    Polynomial,
    Transform,
    format_transform,
    parse_transform,
)
from mosaicreg.transforms.polynomial import Origin

MAX_BYTES = 1 << 30
"""Larger files are refused."""
MASKS = "two_user_supplied_masks:"

Pair = tuple[float, float]


@dataclass(frozen=True)
class StosImage:
    """One of the two images of a ``.stos``.

    Args:
        path: as the file writes it.
        shape: (height, width) in px.
        spacing: (y, x) size of a pixel in the units of the transform.
        flipped: whether the image is flipped up-down before the transform.
        mask: path of its mask, as the file writes it, or None.
    """

    path: str
    shape: tuple[int, int]
    spacing: Pair = (1.0, 1.0)
    flipped: bool = False
    mask: str | None = None

    def to_units(self) -> Affine | None:
        """From the pixels of the stored image to the units of the transform; None where alike."""
        if self.spacing == (1, 1) and not self.flipped:
            return None
        y, x = self.spacing
        if not self.flipped:
            return Affine.scaling((y, x))
        return Affine([[-y, 0], [0, x]], ((self.shape[0] - 1) * y, 0))


@dataclass(frozen=True)
class Stos:
    """A ``.stos``: how a moving image lies on a fixed one.

    Args:
        fixed, moving: the images.
        transform: as the file has it, from moving to fixed, in its units.
        folder: what relative paths start from.
    """

    fixed: StosImage
    moving: StosImage
    transform: Transform
    folder: Path = Path()

    @property
    def pixel_transform(self) -> Transform:
        """From pixels of the stored moving image to pixels of the stored fixed image.

        The flips and pixel sizes that the file states are in it.
        """
        transform = self.transform
        first, last = self.moving.to_units(), self.fixed.to_units()
        if first is not None:
            transform = transform.compose(first)
        return transform if last is None else transform.followed_by(last.inverse())

    def resolved(self, path: str) -> Path:
        """A path of this file as one that can be opened."""
        there = self.folder / path
        if "\\" in path and not there.exists():
            return self.folder / PurePosixPath(path.replace("\\", "/"))
        return there


def read_stos(
    path: str | Path, *, legendre_origin: Origin = "corner", clockwise: bool = False
) -> Stos:
    """Read a ``.stos``; options as in `parse_transform`.

    Raises:
        InputError: for text that is no ``.stos``; all problems at once, with their lines.
        FileNotFoundError: where there is no such file.
    """
    path = Path(path)
    lines = [(n, s) for n, s in enumerate(_text_of(path).split("\n"), 1) if s]
    problems: list[str] = []
    if len(lines) < 7:
        raise InputError(f"{path}: {len(lines)} lines where a .stos has 7, or 10 with masks")
    masks: list[str | None] = [None, None]
    if len(lines) > 7:
        if lines[7][1] == MASKS and len(lines) == 10:
            masks = [lines[8][1], lines[9][1]]
        else:
            problems.append(
                f"line {lines[7][0]}: after the transform come {MASKS!r} and two paths, not "
                f"{lines[7][1][:60]!r} and {len(lines) - 8} lines"
            )
    flags = [_flag(*lines[k], problems) for k in (2, 3)]
    sizes = [_size(*lines[k], problems) for k in (4, 5)]
    transform = None
    number, text = lines[6]
    try:
        transform = parse_transform(text, legendre_origin=legendre_origin, clockwise=clockwise)
    except InputError as error:
        problems.append(f"line {number}: {error}")
    if problems or transform is None:
        raise InputError(f"{path}: cannot be read as .stos", problems)
    images = [
        StosImage(lines[k][1], sizes[k][1], sizes[k][0], flags[k], masks[k]) for k in range(2)
    ]
    return Stos(images[0], images[1], transform, path.parent)


def write_stos(path: str | Path, stos: Stos) -> None:
    """Write a ``.stos``; what `read_stos` gives back is equal, and writes the same bytes.

    Raises:
        InputError: for one mask without the other, a path with a line break, or a transform
            without a text form.
    """
    fixed, moving = stos.fixed, stos.moving
    if (fixed.mask is None) != (moving.mask is None):
        raise InputError(f"{path}: a .stos has masks for both images or for none")
    paths = [fixed.path, moving.path, *([fixed.mask, moving.mask] if fixed.mask else [])]
    bad = [p for p in paths if not p or p != p.strip() or "\n" in p or "\r" in p]
    if bad:
        raise InputError(f"{path}: a .stos cannot name the path {bad[0]!r}")
    lines = [fixed.path, moving.path, *(str(int(i.flipped)) for i in (fixed, moving))]
    for image in (fixed, moving):
        (y, x), (height, width) = image.spacing, image.shape
        lines.append(f"{float(x)!r} {float(y)!r} {width} {height}")
    lines.append(format_transform(stos.transform))
    if fixed.mask and moving.mask:
        lines += [MASKS, fixed.mask, moving.mask]
    write_atomically(Path(path), ("\n".join(lines) + "\n").encode())


def stos_of(record: AlignmentRecord, fixed: StosImage, moving: StosImage) -> Stos:
    """The ``.stos`` of an alignment record: a grid of the moving image's corner pixels."""
    return Stos(fixed, moving, record.to_grid(fixed.shape, moving.shape))


@dataclass(frozen=True)
class StosName:
    """What the name of a ``.stos`` says by nornir's convention; None for what it does not."""

    moving: int | None
    fixed: int | None
    channel: str | None
    filter: str | None
    source: str | None
    downsample: int | None


def parse_stos_name(path: str | Path) -> StosName:
    """Read ``<moving>-<fixed>_<channel>_<filter>_<source>_<downsample>.stos``."""
    stem = Path(path).stem
    found = re.match(r"^(\d+)-(\d+)(?:_(.*))?$", stem, re.ASCII)
    if not found:
        return StosName(None, None, None, None, None, None)
    words: list[str | None] = list((found[3] or "").split("_")) if found[3] else []
    last = words[-1] if words else None
    downsample = int(words.pop() or 0) if last and last.isascii() and last.isdigit() else None
    words += [None] * (3 - len(words))
    return StosName(int(found[1]), int(found[2]), words[0], words[1], words[2], downsample)


def _text_of(path: Path) -> str:
    """The text of a file, its lines stripped and ending in a line feed."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES >> 30} GiB")
    try:
        text = path.read_text(encoding="utf-8-sig")  # CRLF and CR become line feeds
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    return "\n".join(line.strip() for line in text.split("\n"))


def _flag(number: int, text: str, problems: list[str]) -> bool:
    if text not in ("0", "1"):
        problems.append(f"line {number}: a flip is 0 or 1, not {text[:40]!r}")
    return text == "1"


def _size(number: int, text: str, problems: list[str]) -> tuple[Pair, tuple[int, int]]:
    """((spacing y, x), (height, width)) of ``spacing_x spacing_y width height``."""
    try:
        x, y, width, height = (float(word) for word in text.split())
    except ValueError:
        x = y = width = height = np.nan
    whole = np.isfinite([x, y, width, height]).all()
    if not (whole and min(x, y) > 0 and min(width, height) >= 1 and width % 1 == height % 1 == 0):
        problems.append(
            f"line {number}: {text[:60]!r} is not 'spacing_x spacing_y width height' with numbers "
            "above 0"
        )
        return (1, 1), (1, 1)
    return (y, x), (int(height), int(width))


# --- .mosaic -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MosaicText:
    """A ``.mosaic``: tiles and their transforms.

    Args:
        names: how the file writes each tile.
        transforms: from each tile's pixels to the mosaic.
        pixel_spacing: as the file states it; nothing is multiplied by it.
        use_std_mask: as the file states it.
    """

    names: tuple[str, ...]
    transforms: tuple[Transform, ...]
    pixel_spacing: float = 1.0
    use_std_mask: bool = False


HEADER = ("format_version_number", "number_of_images", "pixel_spacing", "use_std_mask")


def read_mosaic(
    path: str | Path, *, legendre_origin: Origin = "corner", clockwise: bool = False
) -> MosaicText:
    """Read a ``.mosaic`` of version 0 or 1, transforms of any kind.

    Raises:
        InputError: for lines that cannot be read; all of them at once, with their numbers.
        FileNotFoundError: where there is no such file.
    """
    path = Path(path)
    problems: list[str] = []
    header: dict[str, str] = {}
    names, transforms = [], []
    for number, name, text in mosaic_tiles(_text_of(path), problems, header):
        try:
            transforms.append(
                parse_transform(text, legendre_origin=legendre_origin, clockwise=clockwise)
            )
            names.append(name)
        except InputError as error:
            problems.append(f"line {number} ({name}): {error}")
    spacing = header.get("pixel_spacing", "1")
    if not re.fullmatch(r"\d*\.?\d+([eE][-+]?\d+)?|\d+\.", spacing):
        problems.append(f"pixel_spacing is {spacing[:40]!r}, not a number")
    if problems:
        raise InputError(f"{path}: cannot be read as .mosaic", problems)
    check_count(header, len(names), str(path))
    mask = header.get("use_std_mask", "0") not in ("0", "")
    return MosaicText(tuple(names), tuple(transforms), float(spacing), mask)


def write_mosaic(path: str | Path, mosaic: MosaicText) -> None:
    """Write a ``.mosaic`` of version 1, tiles in the order given."""
    lines = mosaic_header(len(mosaic.names), mosaic.pixel_spacing, mosaic.use_std_mask)
    for name, transform in zip(mosaic.names, mosaic.transforms, strict=True):
        lines += ["image:", name, format_transform(transform)]
    write_atomically(Path(path), ("\n".join(lines) + "\n").encode())


def mosaic_header(count: int, spacing: float = 1.0, use_std_mask: bool = False) -> list[str]:
    """The first lines of a ``.mosaic`` of version 1."""
    return [
        "format_version_number: 1",
        f"number_of_images: {count}",
        f"pixel_spacing: {repr(float(spacing)).removesuffix('.0')}",
        f"use_std_mask: {int(use_std_mask)}",
    ]


def mosaic_tiles(
    text: str, problems: list[str], header: dict[str, str]
) -> Iterator[tuple[int, str, str]]:
    """(line, name, transform text) of each tile of a ``.mosaic``, either version.

    Fills ``header`` with what the other lines say, and ``problems`` with what cannot be read.
    """
    lines = [(n, s.strip()) for n, s in enumerate(text.split("\n"), 1) if s.strip()]
    at = 0
    while at < len(lines):
        number, line = lines[at]
        at += 1
        key, _, rest = (part.strip() for part in line.partition(":"))
        if key != "image":
            if rest and key in HEADER:
                header[key] = rest
            else:
                problems.append(f"line {number}: {line[:80]!r} is not part of a .mosaic file")
            continue
        found = re.match(r"^(.*?)\s+(\w+_double_2_2\w*\s.*)$", rest)
        if found:
            yield number, found[1], found[2]
        elif not rest and at + 1 < len(lines):
            yield number, lines[at][1], lines[at + 1][1]
            at += 2
        else:
            problems.append(f"line {number}: an image without path or transform")


def check_count(header: dict[str, str], count: int, where: str) -> None:
    """Warn where a ``.mosaic`` announces another number of images than it has."""
    told = header.get("number_of_images", str(count))
    if told != str(count):
        warnings.warn(
            f"{where}: number_of_images is {told}, and {count} are there; were lines lost?",
            stacklevel=3,
        )


def shift_of(text: str) -> Pair:
    """(y, x) by which a transform moves a tile, where that is all that it does.

    Raises:
        InputError: for text that is no transform, or one that does more.
    """
    transform = parse_transform(text)
    if isinstance(transform, Polynomial) and transform.shift is not None:
        y, x = transform.shift.offset.tolist()
        return y, x
    own = transform.source_points
    points = own if len(own) else np.array([(0, 0), (0, 1000), (1000, 0)])
    moves = transform.transform(points) - points
    if np.ptp(moves, axis=0).max() > SAME:
        raise InputError(
            "it does more than shift the tile; warp_tiles (mosaicreg.warping) draws such mosaics"
        )
    y, x = moves.mean(axis=0).tolist()
    return y, x


SAME = 1e-3
"""Control points moved alike within this many px are one shift: text has three decimals."""
