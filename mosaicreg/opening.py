"""`open_mosaic`: from files to a `Mosaic`. Headers are read, pixels are not."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mosaicreg.errors import ImageError, InputError, gathered_into
from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.header import Header
from mosaicreg.imagefile import FILE_SUFFIXES, is_image, read_header
from mosaicreg.machine import promptly
from mosaicreg.mosaic import Mosaic, as_names
from mosaicreg.mosaicfile import SUFFIXES as POSITION_SUFFIXES
from mosaicreg.mosaicfile import PositionTable, read_positions
from mosaicreg.objects import AnyPath, ObjectPath, as_path, parents_of
from mosaicreg.source import FileSource
from mosaicreg.tifffiles import Known

HEADER_THREADS, OBJECT_THREADS = 8, 32
"""Headers are tiny reads that mostly wait: on a network disk, and for an object store above all."""
AT_ONCE, SLACK = 3e-4, 3e-2
"""Seconds for a header that waits for nothing, and for all beyond that: the first loads readers."""
HEADERS_TOGETHER = 16
"""So many files are one piece of work for a thread: handing out each alone takes longer than it."""
FOUND_FILES = ("positions.csv", "TileConfiguration.txt", "layout.csv", "layout.json")
"""Position files that are taken from a folder of tiles, the first of these; else a ``.mosaic``."""
PATH_COLUMN = "path"
"""Column of a layout file that says where each tile's image is, relative to the layout file."""
NAME_PATTERNS = (
    r"(?:^|[^a-z])r(?:ow)?[_-]?(?P<row>\d+).*?(?:^|[^a-z])c(?:ol(?:umn)?)?[_-]?(?P<col>\d+)",
    r"(?:^|[^a-z])c(?:ol(?:umn)?)?[_-]?(?P<col>\d+).*?(?:^|[^a-z])r(?:ow)?[_-]?(?P<row>\d+)",
    r"(?:^|[^a-z])y[_-]?(?P<row>\d+).*?(?:^|[^a-z])x[_-]?(?P<col>\d+)",
    r"(?:^|[^a-z])x[_-]?(?P<col>\d+).*?(?:^|[^a-z])y[_-]?(?P<row>\d+)",
)
"""Row and column numbers as microscopes write them into file names."""


class _Found(NamedTuple):
    """Image files and, where a position file names them, their positions, row by row."""

    folder: AnyPath
    files: list[str]
    table: PositionTable | None = None
    origin: str = ""


def open_mosaic(
    path: str | AnyPath,
    *,
    positions: str | AnyPath | None = None,
    pattern: str | None = None,
    overlap: float | tuple[float, float] | None = None,
    pixel_size: float | None = None,
    skip_bad_tiles: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Mosaic:
    """Open tiles without reading a pixel.

    Args:
        path: a folder or glob of images, one image, or a position file that names images.
        positions: a position file (``.csv`` with tile,y,x, TileConfiguration ``.txt``, ``.mosaic``,
            ``.json``). Without it: one found in the folder, else the images' own metadata, else row
            and column numbers in their names.
        pattern: how names carry row and column, e.g. ``"r{row}_c{col}.png"``; ``*`` stands for any
            text. Guessed for common names. Goes before files found and metadata.
        overlap: of neighbours, a fraction of the tile, one number or (y, x); with names only.
        pixel_size: micrometre, of square pixels; goes before what the images say.
        skip_bad_tiles: leave out tiles whose files are unreadable or cut short;
            `Mosaic.skipped` says which and why.
        progress: called with (stage, done, total) as headers are read.

    Raises:
        InputError: all problems found, together: unreadable or truncated files, mixed types or
            channels, duplicate names, tiles without a position and positions without a tile.
    """
    path = as_path(path)
    errors: list[InputError] = []
    if positions is not None and pattern is not None:
        raise InputError("positions come from a file or from a pattern, not from both")
    if path.suffix.lower() in POSITION_SUFFIXES and not path.is_dir():
        if positions is not None or pattern is not None:
            raise InputError(f"{path} already says where tiles lie; leave out the other source")
        found = _named_by(path)
    else:
        found = _listed(path)
        if pattern is None:
            with gathered_into(errors):
                found = _matched(found, as_path(positions) if positions else _position_file(found))
    found, headers, skipped = _read_headers(found, skip_bad_tiles, errors, progress)
    with gathered_into(errors):
        _check_alike(found.files, headers)
    if errors:
        raise InputError.together(errors)
    first = headers[0]
    size = (pixel_size, pixel_size) if pixel_size else first.pixel_size
    shapes = np.array([h.plane for h in headers], dtype=np.int64)
    if found.table is not None:
        places, origin = found.table.positions, found.origin
    elif pattern is None and len(headers) == 1:
        places, origin = np.zeros((1, 2)), "of a single tile"
    elif pattern is None and all(h.position is not None for h in headers):
        places, origin = _from_metadata(headers, size), "from the images' metadata"
    else:
        places, origin = _from_names(found.files, shapes, pattern, overlap)
    return Mosaic(
        names=as_names(_short_names(found.files)),
        positions=places,
        shapes=shapes,
        source=FileSource(
            # Workers may stand in another folder than this process.
            folder=found.folder.absolute(),
            paths=as_names(found.files),
            dtype=first.dtype,
            leading=first.shape[:-2],
            interleaved=first.interleaved,
        ),
        axes=first.axes,
        pixel_size=size,
        channels=first.channels,
        origin=origin,
        skipped=skipped,
    )


# --- which files ---------------------------------------------------------------------------------


def _listed(path: AnyPath) -> _Found:
    """The images that a folder, a glob or one image's path stands for."""
    if path.is_dir() and not (is_image(path) and _is_one_image(path)):
        files = sorted(_images_in(path))
        if not files:
            raise InputError(f"{path}: no image in this folder")
        return _Found(path, files)
    if path.exists():
        return _Found(path.parent, [path.name])
    if not glob.has_magic(str(path)):
        raise InputError(f"{path}: there is no such file or folder")
    images = [p for p in _matches(path) if is_image(p) and not _is_our_archive(p)]
    if not images:
        raise InputError(f"{path}: no image matches")
    folder: Any = images[0].parent
    while not all(folder in p.parents for p in images):
        folder = folder.parent
    return _Found(folder, [str(p.relative_to(folder)) for p in images])


def _images_in(folder: AnyPath) -> Iterator[str]:
    """Names of the images of a folder, in any order."""
    if not isinstance(folder, Path):
        yield from (p.name for p in folder.iterdir() if _is_tile(p))
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            # A file's name tells all: ten thousand looks at the disk take a tenth of a second.
            if entry.name.lower().endswith(FILE_SUFFIXES) and entry.is_file():
                if not entry.name.startswith("."):
                    yield entry.name
            elif _is_tile(folder / entry.name):
                yield entry.name


def _is_tile(path: AnyPath) -> bool:
    return not path.name.startswith(".") and is_image(path) and not _is_our_archive(path)


def _matches(path: AnyPath) -> Sequence[Any]:
    """Everything that a glob matches, sorted."""
    if isinstance(path, Path):
        found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207
        return [Path(p) for p in found]
    parts = path.key.split("/")
    first = next(k for k, part in enumerate(parts) if glob.has_magic(part))
    folder = ObjectPath(path.bucket, "/".join(parts[:first]))
    return sorted(folder.glob("/".join(parts[first:])), key=str)


def _is_one_image(path: AnyPath) -> bool:
    """Whether a zarr folder is an image itself, not a group whose members are."""
    try:
        read_header(path)
    except ImageError:
        return False
    return True


def _is_our_archive(path: AnyPath) -> bool:
    """A mosaic that was written among its own tiles is not a tile."""
    return path.is_dir() and (path / "mosaicreg").is_dir()


def _named_by(path: AnyPath) -> _Found:
    """The images that a position file names, looked for beside it and in ``tiles`` beside it."""
    table = read_positions(path)
    entries = [str(e) for e in table.columns.get(PATH_COLUMN, table.names)]
    home, entries = _home(path, entries)
    places = [home, home / "tiles"]
    missing = [_missing(place, entries) for place in places]
    folder, missing_there = min(zip(places, missing, strict=True), key=lambda pair: len(pair[1]))
    if missing_there:
        raise InputError(
            f"{path} names {len(missing_there)} of {len(entries)} tiles that are not in {folder}",
            (f"{e}: there is no such file" for e in missing_there),
        )
    _check_unique(entries, path)
    return _Found(folder, entries, table, f"from {path.name}")


def _home(path: AnyPath, entries: list[str]) -> tuple[AnyPath, list[str]]:
    """The folder that the entries of a position file start from, and the entries from there.

    A file and its tiles may lie on different disks or stores: its entries are whole paths then.
    """
    if entries and all("://" in e for e in entries):
        whole = [ObjectPath.parse(e) for e in entries]
        if len({w.bucket for w in whole}) > 1:
            raise InputError(f"{path}: its tiles lie in several buckets; they must share one")
        return ObjectPath(whole[0].bucket), [w.key for w in whole]
    if isinstance(path, ObjectPath) and entries and all(e.startswith("/") for e in entries):
        return Path("/"), [e[1:] for e in entries]
    return path.parent, entries


def _missing(folder: AnyPath, entries: list[str]) -> list[str]:
    """The entries that are not there; of an object store by one listing, not one look at each."""
    if isinstance(folder, Path):
        return [e for e in entries if not (folder / e).exists()]
    wanted = {e: (folder / e).key for e in entries}
    top = posixpath.commonpath([f"/{key}" for key in wanted.values()])[1:]
    parent = ObjectPath(folder.bucket, top if len(wanted) > 1 else posixpath.dirname(top))
    prefix = f"{parent.key}/" if parent.key else ""
    there: set[str] = set()
    for key in parent.walk_keys():
        there.add(prefix + key)
        there |= parents_of(prefix + key)
    return [e for e, key in wanted.items() if key not in there]


def _position_file(found: _Found) -> AnyPath | None:
    """The position file that lies with the tiles, if any."""
    for name in FOUND_FILES:
        if (found.folder / name).is_file() and len(found.files) > 1:
            return found.folder / name
    mosaics: list[Any] = sorted(found.folder.glob("*.mosaic"), key=str)
    if len(mosaics) > 1:
        raise InputError(
            f"{found.folder} holds several .mosaic files; say which with --positions",
            (m.name for m in mosaics),
        )
    return mosaics[0] if mosaics and len(found.files) > 1 else None


def _matched(found: _Found, path: AnyPath | None) -> _Found:
    """Files with the positions that the file at ``path`` gives them; both must name the same."""
    if path is None:
        return found
    table = read_positions(path)
    _check_unique(table.names, path)
    by_name = {f: k for k, f in enumerate(found.files)}
    bare = [_bare(f) for f in found.files]
    count = Counter(bare)
    by_name |= {name: k for k, name in enumerate(bare) if count[name] == 1}
    rows: dict[int, int] = {}
    problems = []
    for row, name in enumerate(table.names):
        tile = by_name.get(name)
        if tile is None:
            tile = by_name.get(_bare(name.replace("\\", "/")))
        if tile is None:
            problems.append(f"{name}: has a position, but there is no such tile")
        elif tile in rows:
            problems.append(f"{name}: a second position for {found.files[tile]}")
        else:
            rows[tile] = row
    problems += [
        f"{f}: a tile without a position" for k, f in enumerate(found.files) if k not in rows
    ]
    if problems:
        raise InputError(f"{path} does not fit the tiles in {found.folder}", problems)
    order = np.array([rows[k] for k in range(len(found.files))])
    matched = PositionTable([table.names[k] for k in order], table.positions[order])
    return found._replace(table=matched, origin=f"from {path.name}")


def _check_unique(names: Sequence[str], path: AnyPath) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path} names tiles twice", twice)


def _bare(file: str) -> str:
    """A path's last part. As text: ten thousand times as a `Path` takes half a second."""
    return os.path.basename(file)  # noqa: PTH119


def _short_names(files: list[str]) -> list[str]:
    """File names without folders, where that keeps them apart."""
    short = [_bare(f) for f in files]
    return short if len(set(short)) == len(short) else files


# --- headers -------------------------------------------------------------------------------------


def _read_headers(
    found: _Found,
    skip_bad: bool,
    errors: list[InputError],
    progress: Callable[[str, int, int], None] | None,
) -> tuple[_Found, list[Header], tuple[str, ...]]:
    """The files that can be read, their headers, and why others are left out.

    Headers that wait for a disk are read in parallel; where none may be left out, all failures are
    one of ``errors``.
    """
    known: Known = {}

    def attempt(name: str) -> Header | ImageError:
        try:
            return read_header(found.folder / name, known=known)
        except ImageError as error:
            return error

    def attempts(names: list[str]) -> list[Header | ImageError]:
        return [attempt(name) for name in names]

    def read() -> Iterator[Header | ImageError]:
        if isinstance(found.folder, ObjectPath):
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(OBJECT_THREADS) as pool:
                yield from pool.map(attempt, found.files)
            return
        files = range(0, len(found.files), HEADERS_TOGETHER)
        parts = [found.files[k : k + HEADERS_TOGETHER] for k in files]
        yield from chain.from_iterable(promptly(attempts, parts, AT_ONCE, SLACK, HEADER_THREADS))

    results = list(_told(read(), len(found.files), progress))
    headers = [r for r in results if isinstance(r, Header)]
    problems = tuple(str(r) for r in results if isinstance(r, ImageError))
    if problems and not (skip_bad and headers):
        errors.append(
            InputError(f"{len(problems)} of {len(results)} tiles cannot be used", problems)
        )
    kept = [k for k, r in enumerate(results) if isinstance(r, Header)]
    table = found.table
    if table is not None:
        table = PositionTable([table.names[k] for k in kept], table.positions[kept])
    return found._replace(files=[found.files[k] for k in kept], table=table), headers, problems


def _told(
    items: Iterable[Header | ImageError],
    total: int,
    progress: Callable[[str, int, int], None] | None,
) -> Iterator[Header | ImageError]:
    """The items as they come; progress is told of some of them."""
    every = max(1, total // 500)
    if progress is not None:
        progress("headers", 0, total)
    for count, item in enumerate(items, 1):
        yield item
        if progress is not None and (count % every == 0 or count == total):
            progress("headers", count, total)


def _check_alike(files: list[str], headers: list[Header]) -> None:
    """All tiles must share pixel type and leading axes: the most common kind sets the rule."""
    kinds = Counter((h.dtype, h.axes, h.shape[:-2]) for h in headers)
    if len(kinds) <= 1:
        return
    usual = kinds.most_common(1)[0][0]

    def words(kind: tuple[object, str, tuple[int, ...]]) -> str:
        dtype, axes, leading = kind
        lengths = ", ".join(f"{n} {a}" for a, n in zip(axes, leading, strict=False))
        return f"{dtype} pixels with {lengths or 'one channel'}"

    problems = [
        f"{f}: {words((h.dtype, h.axes, h.shape[:-2]))}"
        for f, h in zip(files, headers, strict=True)
        if (h.dtype, h.axes, h.shape[:-2]) != usual
    ]
    raise InputError(f"tiles differ; most have {words(usual)}", problems)


# --- where ---------------------------------------------------------------------------------------


def _from_metadata(headers: list[Header], size: tuple[float, float] | None) -> FloatArray:
    if size is None:
        raise InputError(
            "the images' metadata gives positions but no pixel size; give --pixel-size (in µm)"
        )
    return np.array([h.position for h in headers], dtype=np.float64) / size


def _from_names(
    files: list[str],
    shapes: IntArray,
    pattern: str | None,
    overlap: float | tuple[float, float] | None,
) -> tuple[FloatArray, str]:
    """Positions on a grid from row and column numbers in the names, and the words for it."""
    cells = _cells(files, pattern)
    if overlap is None:
        raise InputError(
            "row and column numbers in the names need the overlap of neighbours too: "
            "give --overlap, e.g. 0.1"
        )
    fractions = np.broadcast_to(np.asarray(overlap, dtype=np.float64), 2)
    if not ((fractions >= 0) & (fractions < 1)).all():
        raise InputError(f"the overlap is a fraction of the tile, 0 to below 1, not {overlap}")
    twice = [c for c, count in Counter(map(tuple, cells.tolist())).items() if count > 1]
    if twice:
        problems = [
            f"row {r}, column {c}: "
            + ", ".join(files[k] for k in np.flatnonzero((cells == (r, c)).all(axis=1))[:5])
            for r, c in twice
        ]
        raise InputError("several tiles have the same row and column", problems)
    step = shapes.max(axis=0) * (1 - fractions)
    return (cells - cells.min(axis=0)) * step, "from row and column in the names"


def _cells(files: list[str], pattern: str | None) -> IntArray:
    """(n, 2) row and column numbers."""
    if pattern is not None:
        expression = re.escape(pattern).replace(r"\*", ".*")
        for key in ("row", "col"):
            if pattern.count(f"{{{key}}}") != 1:
                raise InputError(f"the pattern {pattern!r} must hold {{row}} and {{col}} once each")
            expression = expression.replace(rf"\{{{key}\}}", rf"(?P<{key}>\d+)")
        expressions: tuple[str, ...] = (rf"^{expression}$",)
    else:
        expressions = NAME_PATTERNS
    unmatched: list[str] = []
    for expression in expressions:
        matches = [re.search(expression, Path(f).name, re.IGNORECASE) for f in files]
        if all(matches):
            return np.array([(int(m["row"]), int(m["col"])) for m in matches if m], dtype=np.int64)
        unmatched = [f for f, m in zip(files, matches, strict=True) if not m]
    if pattern is not None:
        raise InputError(
            f"{len(unmatched)} tiles have no position: their names do not match {pattern!r}",
            unmatched,
        )
    raise InputError(
        f"nothing says where the {len(files)} tiles lie: give --positions FILE, or --pattern and "
        f'--overlap (e.g. --pattern "tile_r{{row}}_c{{col}}.tif" --overlap 0.1); '
        f"the first name is {files[0]}"
    )
