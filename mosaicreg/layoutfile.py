"""Layouts in files: `Layout` to any position format and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mosaicreg.errors import InputError
from mosaicreg.layout import Layout, layout_from_columns
from mosaicreg.mosaic import Mosaic, as_names
from mosaicreg.mosaicfile import PositionTable, plain, read_positions, write_positions
from mosaicreg.objects import AnyPath, seen_from
from mosaicreg.opening import PATH_COLUMN, open_mosaic
from mosaicreg.pairs import Pairs
from mosaicreg.source import FileSource


def save_layout(
    path: AnyPath, mosaic: Mosaic, layout: Layout, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write a layout as ``.csv``, TileConfiguration ``.txt``, ``.mosaic`` or ``.json``.

    All hold positions at full precision and where the tiles' files are, relative to the layout;
    ``.csv`` adds verdicts and residuals, ``.json`` everything: pairs, scores, provenance.
    """
    suffix = path.suffix.lower()
    files = _files_from(path.parent, mosaic)
    names = [str(n) for n in mosaic.names]
    facts: dict[str, Any] = {}
    if layout.angles is not None:
        check_turned(path)
    if suffix in (".txt", ".mosaic"):
        table = PositionTable(files or names, layout.positions)
    else:
        columns: dict[str, Any] = dict(layout.columns())
        if files:
            columns[PATH_COLUMN] = files
        if suffix == ".json":
            columns |= {"height": layout.shapes[:, 0], "width": layout.shapes[:, 1]}
            facts = {"pixel_size": mosaic.pixel_size, **_facts(layout, provenance)}
        table = PositionTable(names, layout.positions, columns, facts)
    write_positions(path, table, layout.shapes)


def check_turned(path: AnyPath) -> None:
    """Raise InputError where a layout file of this name cannot say how tiles are turned."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise InputError(f"{path}: only .csv and .json layouts say how tiles are turned")


def load_layout(
    path: AnyPath,
    need_tiles: bool = True,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Mosaic, Layout]:
    """The tiles that a layout file names, at its positions, and the layout itself.

    Args:
        path: any format that `save_layout` writes.
        need_tiles: whether the tiles' files must be there; without them only a ``.json`` layout
            knows enough, and the mosaic cannot be read from.
        progress: called with (stage, done, total) as headers are read.

    Raises:
        InputError: where the file, or the tiles that it names and that are needed, cannot be read.
    """
    table = read_positions(path)
    mosaic = open_mosaic(path, progress=progress) if need_tiles else _without_tiles(path, table)
    if mosaic.pixel_size is None and table.facts.get("pixel_size"):
        y, x = table.facts["pixel_size"]
        mosaic = replace(mosaic, pixel_size=(float(y), float(x)))
    layout = layout_from_columns(mosaic, table.columns)
    if "pairs" in table.facts:
        pairs = Pairs.from_columns(table.facts["pairs"], table.facts.get("null_z", ()))
        layout = replace(
            layout,
            pairs=pairs,
            used=np.array(table.facts["pairs"]["used"], dtype=bool),
            stage_matrix=np.array(table.facts["stage_matrix"], dtype=np.float64),
            rms=float(table.facts["rms"] if table.facts["rms"] is not None else "nan"),
        )
    return mosaic, layout


def _without_tiles(path: AnyPath, table: PositionTable) -> Mosaic:
    """The mosaic of a layout that holds all about its tiles but their pixels."""
    if not {"height", "width"} <= set(table.columns):
        raise InputError(f"{path} does not say how large tiles are; a .json layout does")
    files = [str(p) for p in table.columns.get(PATH_COLUMN, table.names)]
    shapes = np.stack([np.array(table.columns[key]) for key in ("height", "width")], axis=1)
    return Mosaic(
        names=as_names(table.names),
        positions=table.positions,
        shapes=shapes,
        source=FileSource(path.parent, as_names(files), np.dtype(np.uint8), ()),
        origin=f"from {path.name}",
    )


def _files_from(folder: AnyPath, mosaic: Mosaic) -> list[str]:
    """Paths of the tiles' files as seen from ``folder``, with forward slashes; [] for no files."""
    source = mosaic.source
    if not isinstance(source, FileSource):
        return []
    base = seen_from(folder, source.folder) or str(source.folder.absolute())
    prefix = "" if base == "." else base + "/"
    return [prefix + str(p) for p in source.paths]


def _facts(layout: Layout, provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "provenance": dict(provenance or {}),
        "transform": "translation" if layout.angles is None else "rigid",
        "units": "px, (y, x) of each tile's first pixel"
        + ("" if layout.angles is None else ", were it not turned about its centre by angle (deg)"),
        "rms": None if np.isnan(layout.rms) else layout.rms,
        "stage_matrix": layout.stage_matrix.tolist(),
    }
    if layout.pairs is not None:
        used = layout.pairs.accepted if layout.used is None else layout.used
        columns = {**layout.pairs.columns(), "used": used}
        facts["pairs"] = {name: [plain(v) for v in column] for name, column in columns.items()}
        facts["null_z"] = layout.pairs.null_z.tolist()
    return facts
