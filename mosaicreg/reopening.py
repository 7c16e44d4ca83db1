"""`read_archive`: from an OME-Zarr archive of ours back to its tiles and layout.

Reads tables and metadata, no pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, bounding_box
from mosaicreg.layout import Layout, layout_from_columns, misfits
from mosaicreg.mosaic import Mosaic, as_names
from mosaicreg.objects import AnyPath, as_path
from mosaicreg.omezarr import is_zarr, ome_of, read_facts, read_table
from mosaicreg.opening import PATH_COLUMN
from mosaicreg.pairs import Pairs
from mosaicreg.source import FileSource
from mosaicreg.store import Folder, Objects, Place, Store, open_store


@dataclass(frozen=True, eq=False)
class Archive:
    """What an archive holds.

    Args:
        store: where it lies.
        levels: zarr arrays (leading..., y, x), the finest first.
        mosaic: the tiles, where the layout puts them; reads pixels where their files still are.
        layout: as stored.
        facts: provenance.
        ome: OME-Zarr metadata.
    """

    store: Store
    levels: list[Any]
    mosaic: Mosaic
    layout: Layout
    facts: dict[str, Any]
    ome: Any

    @property
    def canvas(self) -> Box:
        """The pixels of the archive, in the layout's coordinates."""
        return bounding_box(self.layout.boxes)


def read_archive(place: Place) -> Archive:
    """Open an archive that mosaicreg wrote.

    Raises:
        InputError: where there is none, or it was written without its layout.
    """
    import zarr

    store = open_store(place)
    if not is_zarr(store):
        raise InputError(f"{store} is not an OME-Zarr archive of mosaicreg")
    root = zarr.open_group(store.zarr(read_only=True), mode="r")
    tiles = read_table(store, "tiles")
    if not tiles:
        raise InputError(
            f"{store} holds no layout: write it with mosaicreg stitch or assemble, or with "
            "write_ome_zarr(..., layout=layout)"
        )
    levels: list[Any] = [root[key] for key in sorted(root.array_keys(), key=int)]
    ome = ome_of(root)
    facts = read_facts(store)
    mosaic = _tiles(store, levels[0], ome, tiles, facts)
    layout = layout_from_columns(mosaic, {k: v.tolist() for k, v in tiles.items()})
    pairs = read_table(store, "pairs")
    if pairs:
        solved = Pairs.from_columns(pairs, read_table(store, "null").get("z", ()))
        used = pairs.get("used", solved.accepted).astype(bool)
        matrix = read_table(store, "stage_matrix")
        layout = replace(
            layout,
            pairs=solved,
            used=used,
            stage_matrix=np.stack([matrix["y"], matrix["x"]], axis=1) if matrix else np.eye(2),
        )
        if used.any():
            layout = replace(layout, rms=float(np.sqrt(np.mean(misfits(layout)[used] ** 2))))
    return Archive(store, levels, mosaic, layout, facts, ome)


def _tiles_folder(store: Store, facts: dict[str, Any], first: str) -> AnyPath:
    """Where the tiles lie: where they lay, or still beside the archive if both have moved."""
    places = [as_path(facts.get("tiles_in") or ".")]
    beside = facts.pop("tiles_beside", None)
    if beside is not None and isinstance(store, Folder | Objects):
        places.insert(0, store.path.resolve().parent / beside)
    return next((p for p in places if (p / first).exists()), places[-1])


def _tiles(
    store: Store, finest: Any, ome: Any, tiles: dict[str, Any], facts: dict[str, Any]
) -> Mosaic:
    image = ome["multiscales"][0]
    scale = image["datasets"][0]["coordinateTransformations"][0]["scale"]
    channels = ome.get("omero", {}).get("channels", ())
    files = tiles.get(PATH_COLUMN, tiles["tile"])
    n = len(files)
    source = FileSource(
        folder=_tiles_folder(store, facts, str(files[0])),
        paths=as_names(files),
        dtype=finest.dtype,
        leading=tuple(finest.shape[:-2]),
    )
    return Mosaic(
        names=tiles["tile"],
        positions=np.stack([tiles["y"], tiles["x"]], axis=1),
        shapes=np.stack([tiles.get(key, np.ones(n)) for key in ("height", "width")], axis=1),
        source=source,
        axes="".join(axis["name"] for axis in image["axes"]),
        pixel_size=(scale[-2], scale[-1]) if "unit" in image["axes"][-1] else None,
        channels=tuple(str(c.get("label", "")) for c in channels),
        origin=f"from {store.name}",
    )
