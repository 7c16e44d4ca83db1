"""What a path is: tiles, a position file, or an archive; as plain facts."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mosaicreg.errors import InputError
from mosaicreg.layoutfile import load_layout
from mosaicreg.mosaic import Mosaic
from mosaicreg.mosaicfile import SUFFIXES, read_positions
from mosaicreg.objects import AnyPath
from mosaicreg.omezarr import axes_of, is_zarr, ome_of, read_facts, read_table
from mosaicreg.opening import open_mosaic
from mosaicreg.shards import shard_shape
from mosaicreg.store import open_store


def describe(path: AnyPath) -> dict[str, Any]:
    """Facts about a path, as JSON knows them.

    Raises:
        InputError: where there is nothing, or nothing that mosaicreg understands.
    """
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return _layout_facts(path)
    if (path / "mosaicreg").is_dir() and is_zarr(open_store(path)):
        return _archive_facts(path)
    try:
        return {"what": "tiles", **_mosaic_facts(open_mosaic(path))}
    except InputError as error:
        if "nothing says where" in str(error) or "--overlap" in str(error):
            # Without positions there is still something to say about the tiles themselves.
            raise InputError(f"{path}: images, but {error}") from None
        raise


def _mosaic_facts(mosaic: Mosaic) -> dict[str, Any]:
    low, high = mosaic.shapes.min(axis=0).tolist(), mosaic.shapes.max(axis=0).tolist()
    return {
        "tiles": len(mosaic),
        "tile shape (y, x)": low if low == high else f"{low} to {high}",
        "axes": mosaic.axes,
        **{f"length of {a}": n for a, n in zip(mosaic.axes, mosaic.leading, strict=False)},
        "type": str(mosaic.dtype),
        "channels": ", ".join(mosaic.channels) or None,
        "pixel size (y, x) in um": list(mosaic.pixel_size) if mosaic.pixel_size else None,
        "extent (y, x) in px": list(mosaic.extent),
        "overlapping neighbours": len(mosaic.neighbours()),
        "positions": mosaic.origin,
    }


def _layout_facts(path: AnyPath) -> dict[str, Any]:
    table = read_positions(path)
    facts: dict[str, Any] = {
        "what": "layout" if "verdict" in table.columns else "positions",
        "format": path.suffix.lower().lstrip("."),
    }
    try:
        mosaic, layout = load_layout(path)
    except InputError as error:
        low, high = table.positions.min(axis=0), table.positions.max(axis=0)
        facts |= {
            "tiles": len(table.names),
            "first pixels from (y, x)": np.round(low, 3).tolist(),
            "to (y, x)": np.round(high, 3).tolist(),
            "images": f"not found: {error.headline}",
        }
        return facts
    facts |= _mosaic_facts(mosaic)
    if "verdict" in table.columns:
        facts |= {"verdicts": layout.counts, "parts": int(layout.parts.max()) + 1}
    if layout.pairs is not None:
        facts["pairs"] = dict(Counter(layout.pairs.columns()["status"].tolist()))
    return facts


def _archive_facts(path: AnyPath) -> dict[str, Any]:
    import zarr

    root = zarr.open_group(open_store(path).zarr(read_only=True), mode="r")
    levels: list[Any] = [root[key] for key in sorted(root.array_keys(), key=int)]
    finest = levels[0]
    ome = ome_of(root)
    scale = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
    tiles = read_table(path, "tiles")
    pairs = read_table(path, "pairs")
    known = "unit" in ome["multiscales"][0]["axes"][-1]
    return {
        "what": "OME-Zarr archive of mosaicreg",
        "OME-Zarr": ome.get("version") or ome["multiscales"][0].get("version"),
        "axes": axes_of(root),
        "shape": list(finest.shape),
        "type": str(finest.dtype),
        "levels": len(levels),
        "chunk (y, x)": list(finest.chunks[-2:]),
        "shard (y, x)": list(shard_shape(finest)),
        "pixel size (y, x) in um": list(scale[-2:]) if known else None,
        "tiles": len(tiles["tile"]) if tiles else None,
        "verdicts": dict(Counter(map(str, tiles["verdict"]))) if tiles else None,
        "pairs": dict(Counter(map(str, pairs["status"]))) if pairs else None,
        "provenance": read_facts(path),
    }
