"""`write_ome_zarr`: a dask array into an OME-Zarr archive, shard by shard, then level by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from mosaicreg import omezarr
from mosaicreg.cluster import Progress, delayed_call, run_tasks
from mosaicreg.geometry import as_pair
from mosaicreg.layout import Layout
from mosaicreg.mosaic import AXES, Mosaic
from mosaicreg.omezarr import CHUNK, SHARD, Pyramid
from mosaicreg.source import FileSource
from mosaicreg.store import Place, Store, open_store


def write_ome_zarr(
    image: da.Array,
    path: Place,
    *,
    mosaic: Mosaic | None = None,
    layout: Layout | None = None,
    axes: str | None = None,
    pixel_size: tuple[float, float] | None = None,
    channels: Sequence[str] = (),
    chunk: int | tuple[int, int] = CHUNK,
    shard: int | tuple[int, int] = SHARD,
    pyramid: bool = True,
    overwrite: bool = False,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Place:
    """Compute an image and write it as an OME-Zarr 0.5 pyramid (zarr v3, sharded).

    One task computes and writes one whole shard, so no two tasks touch the same object. Level n + 1
    is made from level n on disk. Runs on the dask scheduler in effect.

    Args:
        image: (leading..., y, x); rechunked to whole shards where it is not.
        path: of the archive to make.
        mosaic: gives axes, pixel size and channel names where they are not given.
        layout: stored in the archive, with its pairs.
        axes: one letter per axis out of t, c, z, y, x.
        pixel_size: (y, x) in micrometre.
        channels: names.
        chunk, shard: (y, x) or one number, px.
        pyramid: False for level 0 alone.
        overwrite: replace an archive that exists.
        provenance: plain values to store (command, options, digests).
        progress: called with (stage, done, total).

    Returns:
        The path.

    Raises:
        InputError: where the archive exists, or shapes do not fit.
    """
    store = open_store(path)
    plan = Pyramid.plan(
        image.shape,
        image.dtype,
        axes or (mosaic.axes if mosaic else AXES.get(image.ndim, "")),
        chunk=as_pair(chunk, "chunk"),
        shard=as_pair(shard, "shard"),
        pyramid=pyramid,
        pixel_size=pixel_size or (mosaic.pixel_size if mosaic else None),
        channels=tuple(channels) or (mosaic.channels if mosaic else ()),
        name=store.name.removesuffix(".zarr").removesuffix(".ome"),
    )
    omezarr.clear_for(store, overwrite)
    omezarr.create(store, plan)
    if layout is not None:
        store_layout(store, layout, mosaic)
    if provenance is not None:
        omezarr.write_facts(store, provenance)
    run_tasks(_shard_tasks(image, store, plan), "write", progress)
    for level in range(1, plan.levels):
        tasks = [
            delayed_call(omezarr.reduce_shard, store, level, plane, box)
            for plane in plan.planes
            for _, _, box in plan.grid(level).boxes()
        ]
        run_tasks(tasks, f"level {level}", progress)
    omezarr.finish(store, plan)
    return path


def _shard_tasks(image: da.Array, store: Store, plan: Pyramid) -> list[Any]:
    """One delayed task per shard of level 0: compute it and write it, fused."""
    leading = len(plan.shape) - 2
    chunks = (*image.chunks[:leading], *plan.grid(0).chunks)
    if image.chunks != chunks:
        image = image.rechunk(chunks)
    starts = [tuple(np.concatenate([[0], np.cumsum(c)]).tolist()) for c in chunks]
    receipts = da.map_blocks(
        _write_block,
        image,
        store=store,
        starts=starts,
        dtype=np.uint8,
        chunks=tuple((1,) * len(c) for c in chunks),
        meta=np.empty((0,) * image.ndim, dtype=np.uint8),
    )
    return list(receipts.to_delayed(optimize_graph=True).ravel())


def _write_block(
    block: NDArray[Any],
    store: Store,
    starts: list[tuple[int, ...]],
    block_id: tuple[int, ...],
) -> NDArray[np.uint8]:
    """Write one block, plane by plane of its leading axes; the result is only a receipt."""
    corner = [s[k] for s, k in zip(starts, block_id, strict=True)]
    for plane in np.ndindex(*block.shape[:-2]):
        cut: tuple[Any, ...] = (*(slice(k, k + 1) for k in plane), ...)
        pixels = block[cut]
        index = tuple(
            slice(c + k, c + k + n)
            for c, k, n in zip(corner, (*plane, 0, 0), pixels.shape, strict=True)
        )
        omezarr.write_shard(store, 0, index, pixels)
    return np.ones((1,) * block.ndim, dtype=np.uint8)


def store_layout(store: Store, layout: Layout, mosaic: Mosaic | None) -> None:
    """Write a layout, its pairs and the tiles' paths, where known, into an archive that exists."""
    place = {"tile": layout.names, "y": layout.positions[:, 0], "x": layout.positions[:, 1]}
    shape = {"height": layout.shapes[:, 0], "width": layout.shapes[:, 1]}
    source = mosaic.source if mosaic else None
    files = {"path": source.paths} if isinstance(source, FileSource) else {}
    omezarr.write_table(store, "tiles", {**place, **layout.columns(), **shape, **files})
    if layout.pairs is not None:
        used = {} if layout.used is None else {"used": layout.used}
        omezarr.write_table(store, "pairs", {**layout.pairs.columns(), **used})
