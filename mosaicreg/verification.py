"""`verify`: does an archive hold what its layout, its metadata and its tiles promise?

Everything is checked again from the archive itself: metadata, the shape of every level, that every
shard decodes, that no pixel lies where no tile does, that every tile shows, and that each level is
the mean of the one before. With the image at hand that the archive was made from (a lazy array; the
command line builds it again from the tiles), every pixel is compared, bit for bit.

One task looks at one shard and gets the boxes of its own few tiles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from mosaicreg.assembly import assemble
from mosaicreg.audit import Report, TilesDue, look, look_at_coarser
from mosaicreg.cluster import Progress, delayed_call, run_tasks
from mosaicreg.errors import ImageError, InputError
from mosaicreg.geometry import TileGrid, bounding_box, group_by_block
from mosaicreg.header import Header
from mosaicreg.imagefile import read_header
from mosaicreg.journal import Journal
from mosaicreg.layout import Layout, layout_from_columns
from mosaicreg.mosaic import Mosaic
from mosaicreg.objects import AnyPath, as_path
from mosaicreg.omezarr import Pyramid, Version, ome_of, read_facts, read_table
from mosaicreg.shards import Receipt, check_shards, shard_shape
from mosaicreg.source import FileSource
from mosaicreg.store import Folder, Place, Store, open_store

TOGETHER = 16
"""Shards whose checksums one task looks at."""
LISTED = 1000
"""How many problems a check keeps; it counts the others."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        name: what.
        finding: what was found, a few words.
        problems: what is wrong, a sentence each; empty where all is well.
        done: False where it could not be looked at; ``finding`` says why.
    """

    name: str
    finding: str
    problems: tuple[str, ...] = ()
    done: bool = True

    @property
    def result(self) -> str:
        """``"ok"``, ``"FAILED"`` or ``"not checked"``."""
        return "FAILED" if self.problems else "ok" if self.done else "not checked"


@dataclass(frozen=True)
class Verification:
    """All that was looked at in an archive."""

    path: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing that was looked at is wrong."""
        return not any(c.problems for c in self.checks)

    def facts(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        checks = [
            {"check": c.name, "result": c.result, "finding": c.finding, "problems": c.problems}
            for c in self.checks
        ]
        return {"path": self.path, "passed": self.passed, "checks": checks}

    def __str__(self) -> str:
        wide = max(len(c.name) for c in self.checks)
        lines = [f"{c.name:<{wide}}  {c.result:<11}  {c.finding}" for c in self.checks]
        for check in self.checks:
            lines += [f"{check.name}: {p}" for p in check.problems[:20]]
            if len(check.problems) > 20:
                lines.append(f"{check.name}: and {len(check.problems) - 20} more")
        return "\n".join(lines)


def verify(
    path: Place,
    image: da.Array | None = None,
    *,
    mosaic: Mosaic | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check an archive that `mosaicreg.write_ome_zarr` wrote.

    Args:
        path: of the archive.
        image: what it should hold; every pixel is compared. See `image_again`.
        mosaic: the tiles; type, axes, channels and pixel size must still be theirs.
        progress: called with (stage, done, total).

    Raises:
        InputError: where there is no archive of mosaicreg.
    """
    store = open_store(path)
    root = _open(store)
    facts, table = read_facts(store), read_table(store, "tiles")
    levels = [root[key] for key in sorted(root.array_keys(), key=int)]
    checks = [_metadata_check(store, root, levels, mosaic, facts)]
    if checks[0].problems and not levels:
        return Verification(str(store), tuple(checks))
    plan = _plan_of(root, levels)
    tiles, table_check = _tiles_check(table, plan, facts)
    checks.append(table_check)
    names = table.get("tile", np.empty(0, dtype=np.dtypes.StringDType()))
    fill = float(facts.get("options", {}).get("fill", 0.0))
    if image is not None and (
        image.shape != plan.shape or image.dtype.newbyteorder("=") != plan.dtype
    ):
        wrong = f"it is {image.dtype} {image.shape}, the archive {plan.dtype} {plan.shape}"
        checks.append(Check("pixels", "another image", (wrong,)))
        image = None
    reports = _look_at_finest(store, plan, tiles, fill, image, progress)
    later = [_coarser_check(store, plan, progress), _receipts_check(store, plan, progress)]
    changed = any(c.problems for c in later)
    checks += _finest_checks(reports, names, image is not None, changed)
    if image is None and checks[-1].name != "pixels":
        checks.append(Check("pixels", "not compared: the tiles are not at hand", done=False))
    checks += later
    return Verification(str(store), tuple(checks))


def image_again(
    path: Place, folder: str | AnyPath | None = None
) -> tuple[Mosaic, Layout, da.Array]:
    """The tiles, layout and lazy image that an archive was made from, as it remembers them.

    Args:
        path: of the archive.
        folder: where the tiles lie now; where they lay then if None.

    Raises:
        InputError: where the archive does not remember, or tiles are missing or have changed.
    """
    store = open_store(path)
    root = _open(store)
    facts, table = read_facts(store), read_table(store, "tiles")
    options = facts.get("options", {})
    if "path" not in table or not {"blend", "interpolation", "fill"} <= set(options):
        raise InputError(f"{path} does not say which files and options it was made from")
    where = as_path(folder or str(facts.get("tiles_in", ".")))
    files, names = table["path"], table["tile"]
    missing = [str(f) for f in files if not (where / str(f)).exists()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(files)} tiles are not in {where}",
            (f"{f}: there is no such file" for f in missing),
        )
    header = _header(where / str(files[0]))
    size = options.get("pixel_size")
    mosaic = Mosaic(
        names=names,
        positions=np.stack([table["y"], table["x"]], axis=1),
        shapes=np.stack([table["height"], table["width"]], axis=1),
        source=FileSource(where, files, header.dtype, header.shape[:-2], header.interleaved),
        axes=header.axes,
        pixel_size=(size, size) if size else header.pixel_size,
        channels=header.channels,
        origin=f"from {path}",
    )
    layout = layout_from_columns(mosaic, table)
    image = assemble(
        mosaic,
        layout,
        blend=options["blend"],
        interpolation=options["interpolation"],
        fill=options["fill"],
        block=_plan_of(root).shard,
    )
    return mosaic, layout, image


def _header(path: AnyPath) -> Header:
    try:
        return read_header(path)
    except ImageError as error:
        raise InputError(str(error)) from None


def _open(store: Store) -> Any:
    import zarr

    if not store.exists():
        raise InputError(f"{store}: there is no such archive")
    try:
        root = zarr.open_group(store.zarr(read_only=True), mode="r")
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{store}: not a zarr archive that can be opened ({error})") from None
    if not {"ome", "multiscales"} & root.attrs.keys() or "mosaicreg" not in root:
        raise InputError(f"{store}: not an archive of mosaicreg")
    return root


# --- metadata ------------------------------------------------------------------------------------


def _plan_of(root: Any, levels: list[Any] | None = None) -> Pyramid:
    """What the archive should be, told by its finest level and its first words."""
    levels = levels or [root[key] for key in sorted(root.array_keys(), key=int)]
    finest = levels[0]
    names = getattr(finest.metadata, "dimension_names", None)
    return Pyramid(
        shape=tuple(finest.shape),
        dtype=finest.dtype,
        axes="".join(names or finest.attrs.get("_ARRAY_DIMENSIONS", ())),
        chunk=tuple(finest.chunks[-2:]),
        shard=shard_shape(finest),
        levels=len(levels),
        version=_version(root),
    )


def _version(root: Any) -> Version:
    return "0.4" if root.metadata.zarr_format == 2 else "0.5"


def _metadata_check(
    store: Store,
    root: Any,
    levels: list[Any],
    mosaic: Mosaic | None,
    facts: Mapping[str, Any],
) -> Check:
    import yaozarrs
    import yaozarrs.v04
    import yaozarrs.v05

    problems: list[str] = []
    if not levels:
        return Check("metadata", "no image", ("the archive holds no level",))
    try:
        if isinstance(store, Folder):
            yaozarrs.validate_zarr_store(str(store.path))
        else:
            kind = yaozarrs.v05.Image if _version(root) == "0.5" else yaozarrs.v04.Image
            kind.model_validate(ome_of(root))
    except Exception as error:  # whatever the validator raises is its verdict
        problems.append(f"not valid OME-Zarr: {str(error).strip().splitlines()[0]}")
    plan = _plan_of(root, levels)
    try:
        problems += _level_problems(root, levels, plan)
        if mosaic is not None:
            problems += _carried_problems(root, plan, mosaic)
    except (KeyError, IndexError, TypeError) as error:
        problems.append(f"OME metadata is incomplete: {type(error).__name__} {error}")
    shape = " x ".join(map(str, plan.shape))
    finding = f"OME-Zarr {plan.version} {plan.dtype} {plan.axes} {shape}, {len(levels)} levels"
    if "version" in facts:
        finding += f", by mosaicreg {facts['version']}"
    return Check("metadata", finding, tuple(problems))


def _level_problems(root: Any, levels: list[Any], plan: Pyramid) -> Iterable[str]:
    """What is wrong with the levels' shapes, types, cuts, scales and translations."""
    scales = ome_of(root)["multiscales"][0]
    sets = scales["datasets"]
    if [d["path"] for d in sets] != [str(k) for k in range(len(levels))]:
        yield f"the metadata names levels {[d['path'] for d in sets]}, there are {len(levels)}"
        return
    if "".join(a["name"] for a in scales["axes"]) != plan.axes:
        yield f"axes of the metadata are {[a['name'] for a in scales['axes']]}, not {plan.axes}"
    size = np.array(sets[0]["coordinateTransformations"][0]["scale"])
    for k, (level, told) in enumerate(zip(levels, sets, strict=True)):
        shape = (*plan.shape[:-2], *plan.plane(k))
        if tuple(level.shape) != shape:
            yield f"level {k} has shape {tuple(level.shape)} where {shape} is due"
        if level.dtype != plan.dtype:
            yield f"level {k} holds {level.dtype}, level 0 {plan.dtype}"
        cut = (tuple(level.chunks[-2:]), shard_shape(level))
        if cut != (plan.chunk, plan.shard):
            yield f"level {k} has chunks and shards of {cut}, level 0 {plan.chunk, plan.shard}"
        moves = {t["type"]: np.array(t[t["type"]]) for t in told["coordinateTransformations"]}
        scale = size * ([1] * (len(size) - 2) + [2**k, 2**k])
        shift = size * ([0] * (len(size) - 2) + [(2**k - 1) / 2] * 2)
        found = moves.get("translation", np.zeros(len(size)))
        if not (np.allclose(moves["scale"], scale) and np.allclose(found, shift)):
            yield f"level {k} has scale {moves['scale']} and translation {found}, not " + (
                f"{scale} and {shift}"
            )


def _carried_problems(root: Any, plan: Pyramid, mosaic: Mosaic) -> Iterable[str]:
    """What the archive says otherwise than the tiles."""
    told = (mosaic.dtype.newbyteorder("="), mosaic.axes, mosaic.leading)
    if (plan.dtype, plan.axes, plan.shape[:-2]) != told:
        yield (
            f"tiles are {mosaic.dtype} {mosaic.axes} {mosaic.leading}, the archive "
            f"{plan.dtype} {plan.axes} {plan.shape[:-2]}"
        )
    ome = ome_of(root)
    sets = ome["multiscales"][0]["datasets"]
    size = tuple(sets[0]["coordinateTransformations"][0]["scale"][-2:])
    if mosaic.pixel_size is not None and not np.allclose(size, mosaic.pixel_size):
        yield f"pixels are {size} µm, in the tiles {mosaic.pixel_size}"
    labels = tuple(c.get("label") for c in ome.get("omero", {}).get("channels", ()))
    if mosaic.channels and labels[: len(mosaic.channels)] != mosaic.channels:
        yield f"channels are {labels}, in the tiles {mosaic.channels}"


def _tiles_check(
    table: Mapping[str, NDArray[Any]], plan: Pyramid, facts: Mapping[str, Any]
) -> tuple[TilesDue | None, Check]:
    """Where the tiles lie on the canvas, and whether the table of tiles makes sense."""
    if not {"tile", "y", "x", "height", "width"} <= set(table):
        return None, Check("tiles", "not checked: the archive holds no layout", done=False)
    problems = []
    lengths = {name: len(column) for name, column in table.items()}
    count = lengths["tile"]
    if len(set(lengths.values())) > 1:
        return None, Check("tiles", "torn table", (f"columns differ in length: {lengths}",))
    if len(set(table["tile"].tolist())) != count:
        problems.append("tiles have the same name")
    if count != facts.get("tiles", count):
        problems.append(f"{facts['tiles']} tiles went in, the layout holds {count}")
    tiles = TilesDue(
        positions=np.stack([table["y"], table["x"]], axis=1),
        shapes=np.stack([table["height"], table["width"]], axis=1),
        angles=table.get("angle"),
    )
    if not np.isfinite(tiles.positions).all():
        problems.append("positions are not finite")
        return None, Check("tiles", f"{count} tiles", tuple(problems))
    canvas = bounding_box(tiles.boxes)
    if canvas.shape != plan.shape[-2:]:
        problems.append(f"tiles span {canvas.shape} px, the image is {plan.shape[-2:]} px")
        return None, Check("tiles", f"{count} tiles", tuple(problems))
    found = Check("tiles", f"{count} tiles on {canvas.shape} px", tuple(problems))
    return tiles.moved(-canvas.y0, -canvas.x0), found


# --- pixels --------------------------------------------------------------------------------------


def _look_at_finest(
    store: Store,
    plan: Pyramid,
    tiles: TilesDue | None,
    fill: float,
    image: da.Array | None,
    progress: Progress | None,
) -> list[Report]:
    grid = plan.grid(0)
    boxes = np.empty((0, 4), dtype=np.int64) if tiles is None else tiles.boxes
    starts, members = group_by_block(boxes, grid)
    expected: Any = None
    if image is not None:
        chunks = (*((1,) * n for n in plan.shape[:-2]), *grid.chunks)
        expected = image.rechunk(chunks).to_delayed()
    tasks = []
    for number, (row, col, box) in enumerate(grid.boxes()):
        own = members[starts[number] : starts[number + 1]]
        there = None if tiles is None else tiles.select(own)
        for plane in plan.planes:
            due = None if expected is None else expected[(*plane, row, col)]
            tasks.append(delayed_call(look, store, plane, box, own, there, fill, due))
    return run_tasks(tasks, "verify", progress)


def _finest_checks(
    reports: list[Report], names: NDArray[Any], compared: bool, changed: bool
) -> list[Check]:
    """Which shards decode, where pixels stray, which tiles show, which pixels are others.

    ``changed``: whether checksums or coarser levels show that pixels were lost since writing.
    """
    broken = [f"{r.name} cannot be decoded ({r.broken})" for r in reports if r.broken]
    checks = [Check("shards", f"{len(reports)} of the finest level", _some(broken))]
    owned, stray = sum(r.owned for r in reports), sum(r.stray for r in reports)
    if owned:
        problems = [f"{r.name}: {r.stray} px where no tile lies" for r in reports if r.stray]
        finding = f"{owned} px owned by tiles, {stray} px elsewhere that are not fill"
        checks.append(Check("coverage", finding, _some(problems)))
        if not compared:
            # A comparison says more: what is blank by right, and what is not.
            checks.append(_shown_check(reports, names, changed))
    if compared:
        unlike = [f"{r.name}: {r.wrong} px unlike the tiles" for r in reports if r.wrong]
        tiles = sorted({t for r in reports for t in r.wrong_tiles})
        unlike += [f"tile {names[t]} does not own all of its pixels" for t in tiles]
        drawn = len({t for r in reports for t in r.tiles})
        checks.append(Check("pixels", f"compared with {drawn} tiles, bit by bit", _some(unlike)))
    return checks


def _shown_check(reports: list[Report], names: NDArray[Any], changed: bool) -> Check:
    """Whether every tile shows. Black tiles do not, so that alone is no fault: see ``changed``."""
    shown = np.zeros(len(names), dtype=bool)
    broken = np.zeros(len(names), dtype=bool)
    for r in reports:
        if r.broken:
            broken[list(r.tiles)] = True
        else:
            shown[list(r.tiles)] |= np.array(r.shown, dtype=bool)
    found = f"{int(shown.sum())} of {len(names)} tiles"
    blank = [f"tile {names[t]}" for t in np.flatnonzero(~shown & ~broken)]
    places = blank + [r.name for r in reports if r.blank]
    if changed:
        why = "nothing but the fill value: lost, or black itself (--tiles tells)"
        return Check("tiles shown", found, _some([f"{place}: {why}" for place in places]))
    if not blank:
        return Check("tiles shown", found)
    some = ", ".join(blank[:3]) + (", ..." if len(blank) > 3 else "")
    why = f"{some}: nothing but the fill value; --tiles tells whether they are black themselves"
    return Check("tiles shown", f"{found}; {why}", done=False)


def _coarser_check(store: Store, plan: Pyramid, progress: Progress | None) -> Check:
    tasks = [
        delayed_call(look_at_coarser, store, level, plane, box)
        for level in range(1, plan.levels)
        for plane in plan.planes
        for _, _, box in TileGrid(plan.plane(level), plan.shard).boxes()
    ]
    problems = [p for p in run_tasks(tasks, "verify pyramid", progress) if p]
    return Check("pyramid", f"{len(tasks)} shards of coarser levels", _some(problems))


def _receipts_check(store: Store, plan: Pyramid, progress: Progress | None) -> Check:
    """Whether every shard is, byte for byte, the one that was written."""
    journal = Journal(store)
    if journal.recorded_job is None:
        return Check("checksums", "not checked: the archive keeps none", done=False)
    problems, tasks, at = [], [], []
    if not journal.finished:
        problems.append("the archive is not finished: the command that makes it, again, goes on")
    for level in range(plan.levels):
        due = journal.receipts(level, plan.shards(level))
        every = [plan.shard_at(level, k) for k in range(plan.shards(level))]
        told = [Receipt(*r) for r in zip(due.sizes.tolist(), due.crcs.tolist(), strict=True)]
        for k in range(0, len(every), TOGETHER):
            part = slice(k, k + TOGETHER)
            at.append([(level, place) for place in every[part]])
            tasks.append(delayed_call(check_shards, store, level, every[part], told[part]))
    for places, intact in zip(at, run_tasks(tasks, "verify checksums", progress), strict=True):
        problems += [
            f"level {level}, shard {place}: its bytes are not those that were written"
            for (level, place), good in zip(places, intact, strict=True)
            if not good
        ]
    return Check("checksums", f"{sum(map(len, at))} shards of all levels", _some(problems))


def _some(problems: list[str]) -> tuple[str, ...]:
    more = len(problems) - LISTED
    return (*problems[:LISTED], f"and {more} more") if more > 0 else tuple(problems)
