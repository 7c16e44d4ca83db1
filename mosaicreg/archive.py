"""`write_ome_zarr`: an image into an OME-Zarr archive, shard by shard.

What is done is entered in the archive's journal; run again after any stop, only what is missing,
changed or damaged is made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg import __version__, omezarr, shards
from mosaicreg.cluster import Progress, current_client, delayed_call
from mosaicreg.errors import InputError
from mosaicreg.geometry import as_pair
from mosaicreg.journal import Journal, digest, short_digest
from mosaicreg.layout import Layout
from mosaicreg.levels import Finest, bring_up_to_date
from mosaicreg.mosaic import AXES, Mosaic
from mosaicreg.objects import AnyPath, seen_from
from mosaicreg.omezarr import CHUNK, SHARD, Pyramid, Version
from mosaicreg.processes import Later, meanwhile
from mosaicreg.recipe import BlockPlan, Recipe, render_bands
from mosaicreg.shards import Receipt
from mosaicreg.source import FileSource, stamps_of
from mosaicreg.store import Folder, Objects, Place, Store, open_store

if TYPE_CHECKING:
    import dask.array as da


def write_ome_zarr(
    image: da.Array | Recipe,
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
    ome_version: Version = "0.5",
    overwrite: bool = False,
    repair: bool = False,
    provenance: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> Place:
    """Compute an image and write it as an OME-Zarr pyramid: 0.5 (zarr v3, sharded), or 0.4.

    One task computes and writes one whole shard, in version 0.4 the chunks of one. Level n + 1 is
    made from level n on disk. Runs on the workers or the dask scheduler in effect. An archive of
    the same image that an earlier call left unfinished goes on: shards already there are kept once
    their bytes have been found to be those written.

    Args:
        image: (leading..., y, x), of any chunks. As `mosaicreg.assemble` returns it, a shard
            depends on the tiles that touch it; of other arrays, on their dask name. Or the recipe
            alone, which needs no dask array.
        path: of the archive to make, or a store.
        mosaic: gives axes, pixel size and channel names where they are not given.
        layout: stored in the archive, with its pairs.
        axes: one letter per axis out of t, c, z, y, x.
        pixel_size: (y, x) in micrometre.
        channels: names.
        chunk, shard: (y, x) or one number, px.
        pyramid: False for level 0 alone.
        ome_version: ``"0.4"`` is zarr v2, a file per chunk, for viewers that know no newer one.
        overwrite: turn an archive of something else into this one. Its shards that would be the
            same are kept.
        repair: check and mend an archive that is finished, too.
        provenance: plain values to store (command, options, digests).
        progress: called with (stage, done, total).
        journal: of this archive (`open_journal`), where it is open already.

    Returns:
        The path.

    Raises:
        InputError: where something else is at ``path``, or shapes do not fit.
        StoppedError: where the archive cannot be written now, or the cluster is lost.
    """
    store = open_store(path)
    plan = Pyramid.plan(
        image.shape,
        image.dtype,
        axes or (mosaic.axes if mosaic else AXES.get(len(image.shape), "")),
        chunk=as_pair(chunk, "chunk"),
        shard=as_pair(shard, "shard"),
        pyramid=pyramid,
        pixel_size=pixel_size or (mosaic.pixel_size if mosaic else None),
        channels=tuple(channels) or (mosaic.channels if mosaic else ()),
        name=store.name.removesuffix(".zarr").removesuffix(".ome"),
        version=ome_version,
    )
    finest = _finest(image, plan)
    if journal is None:
        journal = open_journal(store, digest(repr(plan), finest.keys), overwrite)
    if journal.is_finished and not repair:
        return path
    described = _prepare(store, plan, journal)
    told = meanwhile(_tell, store, layout, mosaic, provenance)
    bring_up_to_date(store, plan, finest, journal, progress)
    described.result()
    told.result()
    if current_client() is not None:  # a worker that died left behind what it was writing
        for level in range(plan.levels):
            store.tidy(str(level))
    omezarr.finish(store, plan)
    journal.finish()
    return path


def _tell(
    store: Store,
    layout: Layout | None,
    mosaic: Mosaic | None,
    provenance: Mapping[str, Any] | None,
) -> None:
    """Store what is known beside the pixels."""
    if layout is not None:
        store_layout(store, layout, mosaic)
    if provenance is not None:
        omezarr.write_facts(store, provenance)


def open_journal(place: Place, job: str, overwrite: bool = False) -> Journal:
    """The journal of an archive that ``job`` (a digest) may make or go on with. Writes nothing.

    Raises:
        InputError: where something else is at ``place`` and may not or must not be replaced.
    """
    store = open_store(place)
    journal = Journal(store, job)
    if journal.is_same_job or not store.exists():
        return journal
    if not overwrite:
        if journal.recorded_job is not None and not journal.finished:
            raise InputError(
                f"{store} is the unfinished mosaic of other tiles, other options or another "
                "version; choose another name, or turn it into this one with --overwrite"
            )
        raise InputError(f"{store} exists; choose another name, or replace it with --overwrite")
    if journal.recorded_job is None:
        omezarr.check_archive(store)
    return journal


def begin(journal: Journal) -> None:
    """From now on the archive is that of the journal's job; one that was never ours is deleted."""
    if journal.recorded_job is None:
        journal.store.clear()
    journal.begin()


def _prepare(store: Store, plan: Pyramid, journal: Journal) -> Later:
    """Levels of the right shapes, empty where they were of others.

    All other metadata are written while the first shards are made, or when the result is asked for.
    """
    begin(journal)
    geometry = digest(__version__, plan.geometry)
    if journal.geometry == geometry:
        omezarr.mend(store, plan)
        for level in range(plan.levels):
            store.tidy(str(level))
    else:
        journal.forget_shards()
        omezarr.create_levels(store, plan)
        journal.enter_geometry(geometry)
    return meanwhile(omezarr.describe, store, plan)


def _finest(image: da.Array | Recipe, plan: Pyramid) -> Finest:
    if isinstance(image, Recipe):
        return _drawn(image.with_blocks(plan.shard), plan)
    from mosaicreg.assembly import recipe_of

    recipe = recipe_of(image)
    return _given(image, plan) if recipe is None else _finest(recipe, plan)


def _drawn(recipe: Recipe, plan: Pyramid) -> Finest:
    """Level 0 of an assembled mosaic: a task for each block, without a graph of all."""
    stamps = stamps_of(recipe.source)
    together = math.prod(plan.shape[:-2]) if recipe.source.interleaved else 1
    # Planes come first in the numbering: those drawn together lie a whole plane apart.
    parts = np.arange(plan.shards(0)).reshape(together, -1).T
    keys = np.zeros(plan.shards(0), dtype=np.uint64)
    for number, part in enumerate(parts):
        keys[part] = recipe.key(_index(number, recipe.numblocks), stamps)

    def task(store: Store, part: int) -> Any:
        places = [plan.shard_at(0, int(k)) for k in parts[part]]
        block = recipe.plan(_index(part, recipe.numblocks))
        return delayed_call(_draw, block, store, places, plan.chunk[0])

    return Finest(keys, parts, task)


def _draw(plan: BlockPlan, store: Store, places: list[tuple[int, ...]], rows: int) -> list[Receipt]:
    """Make one block, some rows at a time, and write a shard for each of its planes."""
    bands = (band.reshape(-1, *band.shape[-2:]) for band in render_bands(plan, rows))
    return shards.write_shards(store, 0, places, bands)


def _given(image: da.Array, plan: Pyramid) -> Finest:
    """Level 0 of any dask array, cut into whole shards; a block may hold several planes."""
    import dask.array as da

    leading = image.ndim - 2
    chunks = (*image.chunks[:leading], *plan.grid(0).chunks)
    if image.chunks != chunks:
        image = image.rechunk(chunks)
    starts = [np.concatenate([[0], np.cumsum(c)]).astype(int).tolist() for c in chunks]
    keys = np.zeros(plan.shards(0), dtype=np.uint64)
    parts = []
    for block in np.ndindex(*image.numblocks):
        lengths = [range(s[k], s[k + 1]) for s, k in zip(starts, block[:leading], strict=False)]
        places = [(*plane, *block[leading:]) for plane in itertools.product(*lengths)]
        part = np.array([plan.shard_number(0, place) for place in places])
        keys[part] = short_digest(image.name, block)
        parts.append(part)
    # Made together, at the first call: the array's graph is optimised once.
    tasks: list[Any] = []

    def task(store: Store, part: int) -> Any:
        if not tasks:
            receipts = da.map_blocks(
                _write_block,
                image,
                store=store,
                starts=starts,
                dtype=object,
                chunks=tuple((1,) * len(c) for c in chunks),
                meta=np.empty((0,) * image.ndim, dtype=object),
            )
            tasks.extend(receipts.to_delayed(optimize_graph=True).ravel())
        return tasks[part]

    return Finest(keys, parts, task, graphs=True)


def _write_block(
    block: NDArray[Any], store: Store, starts: list[list[int]], block_id: tuple[int, ...]
) -> NDArray[Any]:
    """Write one block, plane by plane of its leading axes; the result is only the receipts."""
    first = [s[k] for s, k in zip(starts, block_id[:-2], strict=False)]
    receipts = np.empty((1,) * block.ndim, dtype=object)
    done = []
    for plane in np.ndindex(*block.shape[:-2]):
        at = (*(f + k for f, k in zip(first, plane, strict=True)), *block_id[-2:])
        done.append(shards.write_shard(store, 0, at, block[plane]))
    receipts.flat[0] = done
    return receipts


def _index(number: int, counts: tuple[int, ...]) -> tuple[int, ...]:
    """The place of a number in a grid, as plain numbers."""
    return tuple(int(k) for k in np.unravel_index(number, counts))


def store_layout(store: Store, layout: Layout, mosaic: Mosaic | None) -> None:
    """Write a layout, its pairs and the tiles' paths, where known, into an archive that exists."""
    place = {"tile": layout.names, "y": layout.positions[:, 0], "x": layout.positions[:, 1]}
    shape = {"height": layout.shapes[:, 0], "width": layout.shapes[:, 1]}
    source = mosaic.source if mosaic else None
    files: dict[str, Any] = {}
    if isinstance(source, FileSource):
        files["path"] = source.paths
        omezarr.write_facts(store, _whereabouts(store, source.folder.resolve()))
    omezarr.write_table(store, "tiles", {**place, **layout.columns(), **shape, **files})
    if layout.pairs is not None:
        used = {} if layout.used is None else {"used": layout.used}
        omezarr.write_table(store, "pairs", {**layout.pairs.columns(), **used})
        omezarr.write_table(store, "null", {"z": layout.pairs.null_z})
        matrix = layout.stage_matrix
        omezarr.write_table(store, "stage_matrix", {"y": matrix[:, 0], "x": matrix[:, 1]})


def _whereabouts(store: Store, folder: AnyPath) -> dict[str, str]:
    """Where the paths of tiles start; also as seen from the archive, for both may move together."""
    facts = {"tiles_in": str(folder)}
    if isinstance(store, Folder | Objects):
        beside = seen_from(store.path.absolute().parent, folder)
        if beside is not None:
            facts["tiles_beside"] = beside
    return facts
