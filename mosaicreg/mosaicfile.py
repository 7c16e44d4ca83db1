"""Files that say where tiles lie: CSV, Fiji TileConfiguration, ``.mosaic``, JSON.

Text from elsewhere is data: nothing is evaluated, sizes are limited, and every error names the file
and the line. Positions are (y, x) of each tile's first pixel, in px.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.errors import InputError
from mosaicreg.geometry import FloatArray
from mosaicreg.imagefile import write_atomically
from mosaicreg.objects import AnyPath

SUFFIXES = (".csv", ".txt", ".mosaic", ".json")
MAX_BYTES = 2 << 30
"""Larger position files are refused: ten million tiles need about a quarter of it."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TILE_LINE = re.compile(
    rf"^\s*(?P<name>[^;]+?)\s*;[^;]*;\s*\(\s*(?P<x>{_NUMBER})\s*,\s*(?P<y>{_NUMBER})"
    rf"(?:\s*,\s*(?P<z>{_NUMBER}))?\s*\)\s*$"
)
_LEGENDRE = "LegendrePolynomialTransform_double_2_2_1"


@dataclass(frozen=True)
class PositionTable:
    """Rows of a position file.

    Args:
        names: how the file writes each tile, often a path relative to the file.
        positions: (n, 2) float64 (y, x) in px.
        columns: further columns by name, each of n values.
        facts: what else the file says about the whole (JSON only).
    """

    names: list[str]
    positions: FloatArray
    columns: dict[str, Sequence[Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def read_positions(path: AnyPath) -> PositionTable:
    """Read a position file, its format told by its ending.

    Raises:
        InputError: for a missing file, an unknown ending, or lines that cannot be read; all of them
            at once, with their numbers.
    """
    readers = {
        ".csv": _read_csv,
        ".txt": _read_tile_configuration,
        ".mosaic": _read_mosaic,
        ".json": _read_json,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: positions come from files ending in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: there is no such position file")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES >> 30} GiB, not a position file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    problems: list[str] = []
    table = reader(text, problems)
    if problems:
        raise InputError(f"{path}: cannot be read as positions", problems)
    if not table.names:
        raise InputError(f"{path}: names no tile")
    return table


def write_positions(path: AnyPath, table: PositionTable, shapes: NDArray[Any]) -> None:
    """Write a position file, its format told by its ending; floats keep their full precision.

    Args:
        shapes: (n, 2) tile (height, width) in px, which ``.mosaic`` needs.

    Raises:
        InputError: for an unknown ending.
    """
    writers: dict[str, Callable[[], str]] = {
        ".csv": lambda: _format_csv(table),
        ".txt": lambda: _format_tile_configuration(table),
        ".mosaic": lambda: _format_mosaic(table, shapes),
        ".json": lambda: _format_json(table),
    }
    check_suffix(path)
    write_atomically(path, writers[path.suffix.lower()]().encode())


def check_suffix(path: AnyPath) -> None:
    """Raise InputError where `write_positions` could not write a file of this name."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: a layout file ends in one of {', '.join(SUFFIXES)}")


def _number(text: str, where: str, problems: list[str]) -> float:
    try:
        value = float(text)
    except ValueError:
        problems.append(f"{where}: {text!r} is not a number")
        return np.nan
    if not np.isfinite(value):
        problems.append(f"{where}: the position is {text}, not a finite number")
    return value


def _pairs(values: list[tuple[float, float]]) -> FloatArray:
    return np.array(values, dtype=np.float64).reshape(-1, 2)


# --- CSV -----------------------------------------------------------------------------------------


def _read_csv(text: str, problems: list[str]) -> PositionTable:
    rows = csv.reader(io.StringIO(text, newline=""))
    header = [h.strip() for h in next(rows, [])]
    y, x = ("y", "x") if {"y", "x"} <= set(header) else ("nominal_y", "nominal_x")
    if not {"tile", y, x} <= set(header):
        problems.append(f"line 1: the header must name the columns tile, y and x, not {header}")
        return PositionTable([], _pairs([]))
    at = {name: header.index(name) for name in header}
    names: list[str] = []
    values: list[tuple[float, float]] = []
    others = [name for name in header if name not in ("tile", y, x)]
    columns: dict[str, list[Any]] = {name: [] for name in others}
    for row in rows:
        number = rows.line_num
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            problems.append(f"line {number}: {len(row)} columns where the header has {len(header)}")
            continue
        names.append(row[at["tile"]].strip())
        where = f"line {number} ({names[-1]})"
        values.append((_number(row[at[y]], where, problems), _number(row[at[x]], where, problems)))
        for name in others:
            columns[name].append(row[at[name]])
    return PositionTable(names, _pairs(values), dict(columns))


def _format_csv(table: PositionTable) -> str:
    lines = [",".join(["tile", "y", "x", *table.columns])]
    columns = list(table.columns.values())
    for k, (name, (y, x)) in enumerate(zip(table.names, table.positions.tolist(), strict=True)):
        cells = [name, repr(y), repr(x), *(_cell(c[k]) for c in columns)]
        lines.append(",".join(_quoted(c) for c in cells))
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else repr(float(value))
    return str(value)


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if re.search(r'[",\r\n]', cell) else cell


# --- Fiji TileConfiguration ----------------------------------------------------------------------


def _read_tile_configuration(text: str, problems: list[str]) -> PositionTable:
    """``dim = 2`` or 3, then ``file; series; (x, y[, z])``; z must be the same for all."""
    names: list[str] = []
    values: list[tuple[float, float]] = []
    depths: set[float] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        setting = re.match(r"^(\w+)\s*=\s*(\S+)$", content)
        if setting:
            if setting[1] == "dim" and setting[2] not in ("2", "3"):
                problems.append(f"line {number}: dim = {setting[2]} is neither 2 nor 3")
            continue
        match = _TILE_LINE.match(content)
        if not match:
            problems.append(f"line {number}: {content[:80]!r} is not 'file; ; (x, y)'")
            continue
        names.append(match["name"])
        where = f"line {number} ({names[-1]})"
        y, x = (_number(match[axis], where, problems) for axis in "yx")
        values.append((y, x))
        depths.add(float(match["z"] or 0))
    if len(depths) > 1:
        problems.append(
            f"tiles lie at {len(depths)} different z ({min(depths)} to {max(depths)}); a mosaic is "
            "one plane, so give each z a file of its own"
        )
    return PositionTable(names, _pairs(values))


def _format_tile_configuration(table: PositionTable) -> str:
    lines = [
        "# Define the number of dimensions we are working on",
        "dim = 2",
        "",
        "# Define the image coordinates",
    ]
    for name, (y, x) in zip(table.names, table.positions.tolist(), strict=True):
        lines.append(f"{name}; ; ({x!r}, {y!r})")
    return "\n".join(lines) + "\n"


# --- .mosaic -------------------------------------------------------------------------------------


def _read_mosaic(text: str, problems: list[str]) -> PositionTable:
    """Versions 0 (one line a tile) and 1 (``image:``, path, transform on three lines)."""
    # Loaded with these files only: it knows all transforms, and most positions are tables.
    from mosaicreg.irtools import check_count, mosaic_tiles

    names: list[str] = []
    values: list[tuple[float, float]] = []
    header: dict[str, str] = {}
    for number, name, transform in mosaic_tiles(text, problems, header):
        names.append(name)
        values.append(_shift_of(transform, f"line {number} ({name})", problems))
    check_count(header, len(names), ".mosaic")
    return PositionTable(names, _pairs(values))


def _shift_of(transform: str, where: str, problems: list[str]) -> tuple[float, float]:
    """(y, x) of a transform that is a plain shift; the usual form is not parsed in full."""
    words = transform.split(maxsplit=15)
    usual = words[:11] == [_LEGENDRE, "vp", *"6101110", "fp", "4"]
    if usual and len(words) == 15:
        x, y = (_number(w, where, problems) for w in words[11:13])
        return y, x
    from mosaicreg.irtools import shift_of

    try:
        return shift_of(transform)
    except InputError as error:
        problems.append(f"{where}: {words[0][:60]} is not a plain shift: {error}")
        return np.nan, np.nan


def _format_mosaic(table: PositionTable, shapes: NDArray[Any]) -> str:
    from mosaicreg.irtools import mosaic_header

    lines = mosaic_header(len(table.names))
    for name, (y, x), (height, width) in zip(
        table.names, table.positions.tolist(), shapes.tolist(), strict=True
    ):
        half = f"{width / 2!r} {height / 2!r}"
        lines += ["image:", name, f"{_LEGENDRE} vp 6 1 0 1 1 1 0 fp 4 {x!r} {y!r} {half}"]
    return "\n".join(lines) + "\n"


# --- JSON ----------------------------------------------------------------------------------------

_JSON_FORMAT = "mosaicreg-layout"


def _read_json(text: str, problems: list[str]) -> PositionTable:
    try:
        content = json.loads(text)
    except ValueError as error:
        problems.append(f"not JSON: {error}")
        return PositionTable([], _pairs([]))
    if not isinstance(content, dict) or content.get("format") != _JSON_FORMAT:
        problems.append(f'not a layout of mosaicreg: it lacks "format": "{_JSON_FORMAT}"')
        return PositionTable([], _pairs([]))
    tiles = dict(content.get("tiles", {}))
    names, ys, xs = (tiles.pop(key, []) for key in ("tile", "y", "x"))
    if not len(names) == len(ys) == len(xs):
        problems.append(f"{len(names)} tiles with {len(ys)} y and {len(xs)} x")
        return PositionTable([], _pairs([]))
    for name, y, x in zip(names, ys, xs, strict=True):
        if not all(isinstance(v, int | float) and np.isfinite(v) for v in (y, x)):
            problems.append(f"tile {name}: its position ({y}, {x}) is not two finite numbers")
    if problems:
        return PositionTable([], _pairs([]))
    facts = {k: v for k, v in content.items() if k not in ("format", "tiles")}
    columns: dict[str, Sequence[Any]] = {
        k: v for k, v in tiles.items() if isinstance(v, list) and len(v) == len(names)
    }
    return PositionTable(
        [str(n) for n in names], _pairs(list(zip(ys, xs, strict=True))), columns, facts
    )


def _format_json(table: PositionTable) -> str:
    tiles = {
        "tile": list(table.names),
        "y": table.positions[:, 0].tolist(),
        "x": table.positions[:, 1].tolist(),
        **{name: [plain(v) for v in column] for name, column in table.columns.items()},
    }
    content = {"format": _JSON_FORMAT, **table.facts, "tiles": tiles}
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def plain(value: Any) -> Any:
    """A value as JSON knows it; NaN becomes null."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
