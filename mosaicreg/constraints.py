"""What people know better: tiles pinned to a place, pairs forbidden, matches added.

A constraint file is CSV with the header ``kind,tile,other,y,x`` (and ``sigma`` where wanted):

    kind,tile,other,y,x
    pin,a.tif,,120.5,33
    forbid,a.tif,b.tif,,
    match,a.tif,b.tif,-2.5,921.25

A pin says where a tile's first pixel lies, in the coordinates of the positions that the solve
starts from; a match says where the first pixel of ``other`` lies in ``tile``; sigma is how well
that is known, px. Solving again takes seconds and reads no pixel.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mosaicreg.errors import InputError
from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.source import Names

KINDS = ("pin", "forbid", "match")
USUAL_SIGMA = 0.05
"""px; how well people know what they say, where they do not say how well."""


@dataclass(frozen=True)
class Constraints:
    """Columns of what people said.

    Args:
        pinned: (p,) tile numbers. places: (p, 2) where they lie. pin_sigma: (p,) px.
        forbidden: (f, 2) tile numbers, the lower first.
        matched: (q, 2) tile and other. offsets: (q, 2) dy, dx. match_sigma: (q,) px.
    """

    pinned: IntArray
    places: FloatArray
    pin_sigma: FloatArray
    forbidden: IntArray
    matched: IntArray
    offsets: FloatArray
    match_sigma: FloatArray

    def __len__(self) -> int:
        return len(self.pinned) + len(self.forbidden) + len(self.matched)


def read_constraints(path: Path, names: Names) -> Constraints:
    """Read a constraint file about tiles of these names.

    Raises:
        InputError: all lines that cannot be understood, with their numbers.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such constraint file")
    rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    header = [h.strip() for h in next(rows, [])]
    if not {"kind", "tile", "other", "y", "x"} <= set(header):
        raise InputError(f"{path}: the header must be kind,tile,other,y,x, not {','.join(header)}")
    numbers = {str(name): k for k, name in enumerate(names)}
    problems: list[str] = []
    found: dict[str, list[tuple[list[int], list[float], float]]] = {kind: [] for kind in KINDS}
    for cells in rows:
        row = dict(zip(header, (c.strip() for c in cells), strict=False))
        if not any(row.values()):
            continue
        where = f"line {rows.line_num}"
        kind = row.get("kind", "")
        if kind not in KINDS:
            problems.append(f"{where}: {kind!r} is not one of {', '.join(KINDS)}")
            continue
        wanted = ("tile",) if kind == "pin" else ("tile", "other")
        tiles = [numbers.get(row.get(key, ""), -1) for key in wanted]
        problems += [
            f"{where}: there is no tile {row.get(key, '')!r}"
            for key, number in zip(wanted, tiles, strict=True)
            if number < 0
        ]
        if len(set(tiles)) < len(tiles) and min(tiles) >= 0:
            problems.append(f"{where}: {row['tile']} cannot be paired with itself")
        values = [] if kind == "forbid" else [_number(row, a, where, problems) for a in "yx"]
        sigma = _number(row, "sigma", where, problems) if row.get("sigma") else USUAL_SIGMA
        if not sigma > 0:
            problems.append(f"{where}: sigma must be above 0, not {sigma}")
        found[kind].append((tiles, values, sigma))
    if problems:
        raise InputError(f"{path}: cannot be read as constraints", problems)
    forbidden = [sorted(t) for t, _, _ in found["forbid"]]
    return Constraints(
        pinned=np.array([t[0] for t, _, _ in found["pin"]], dtype=np.int64),
        places=np.array([v for _, v, _ in found["pin"]], dtype=np.float64).reshape(-1, 2),
        pin_sigma=np.array([s for _, _, s in found["pin"]], dtype=np.float64),
        forbidden=np.array(forbidden, dtype=np.int64).reshape(-1, 2),
        matched=np.array([t for t, _, _ in found["match"]], dtype=np.int64).reshape(-1, 2),
        offsets=np.array([v for _, v, _ in found["match"]], dtype=np.float64).reshape(-1, 2),
        match_sigma=np.array([s for _, _, s in found["match"]], dtype=np.float64),
    )


def _number(row: dict[str, str], key: str, where: str, problems: list[str]) -> float:
    try:
        value = float(row.get(key, ""))
    except ValueError:
        problems.append(f"{where}: {key} is {row.get(key, '')!r}, not a number")
        return np.nan
    if not np.isfinite(value):
        problems.append(f"{where}: {key} is {value}, not a finite number")
    return value
