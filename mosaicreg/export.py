"""Other doors out: an archive as a pyramidal OME-TIFF, a PNG, an OME-Zarr 0.4.

All read the archive piece by piece, so memory stays at a few chunks whatever its size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mosaicreg import omezarr, zarrfiles
from mosaicreg.cluster import Progress, delayed_call, run_tasks
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, TileGrid
from mosaicreg.imagefile import write_png
from mosaicreg.report import to_display
from mosaicreg.store import Place, open_store
from mosaicreg.zarrfiles import Array

TIFF_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
"""Pixel types that OME-TIFF knows (OME model 2016-06, PixelType)."""
TIFF_TILE = 512
READ_WIDTH = 4096
"""px of a row of tiles read from the archive at a time."""
COMPRESS_BYTES = 32 << 20
"""Pixels that wait for compression at a time."""
PNG_SIDE = 4096
PNG_PIXELS = 200_000_000
"""Larger PNG files open in hardly any program."""
Compression = Literal["zlib", "lzw", "zstd", "none"]
VERSION_04_CHUNK = 1024


@dataclass(frozen=True)
class Archive:
    """An OME-Zarr image opened for reading; made by `open_archive`.

    Args:
        levels: zarr arrays, finest first.
        axes: e.g. ``"cyx"``.
        ome: the metadata, as version 0.5 has it.
    """

    path: str
    levels: tuple[Any, ...]
    axes: str
    ome: dict[str, Any]

    @property
    def pixel_size(self) -> tuple[float, float] | None:
        """(y, x) of the finest level in micrometre, where known."""
        image = self.ome["multiscales"][0]
        factor = _MICROMETRES.get(image["axes"][-1].get("unit", ""))
        if factor is None:
            return None
        moves = image["datasets"][0]["coordinateTransformations"]
        y, x = next(m["scale"] for m in moves if m["type"] == "scale")[-2:]
        return float(y) * factor, float(x) * factor

    @property
    def channels(self) -> list[dict[str, Any]]:
        """The channels as the ``omero`` metadata has them."""
        return list(self.ome.get("omero", {}).get("channels", ()))

    @property
    def planes(self) -> list[tuple[int, ...]]:
        """Indices of the leading axes."""
        return list(np.ndindex(*self.levels[0].shape[:-2]))


_MICROMETRES = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}


def open_archive(place: Place) -> Archive:
    """An OME-Zarr image, 0.4 or 0.5.

    Raises:
        InputError: where there is none.
    """
    import zarr

    store = open_store(place)
    try:
        root = zarr.open_group(store.zarr(read_only=True), mode="r")
    except (FileNotFoundError, ValueError, KeyError):
        raise InputError(f"{store}: there is no OME-Zarr archive") from None
    attributes: dict[str, Any] = dict(root.attrs)
    ome = attributes.get("ome", attributes)
    if not isinstance(ome, dict) or not ome.get("multiscales"):
        raise InputError(f"{store}: a zarr group without an OME-Zarr image")
    image = ome["multiscales"][0]
    levels = tuple(root[d["path"]] for d in image["datasets"])
    return Archive(str(store), levels, "".join(a["name"] for a in image["axes"]), ome)


def write_ome_tiff(
    source: Place,
    path: str | Path,
    *,
    compression: Compression = "zlib",
    progress: Progress | None = None,
) -> Path:
    """Write an archive as one pyramidal, tiled OME-TIFF (BigTIFF), as Bio-Formats reads it.

    Level 0 is one image per plane; coarser levels are in its SubIFDs (OME-TIFF specification,
    "Sub-resolutions"). Pixel size, channel names and colours go into the OME-XML.

    Args:
        source: of the archive.
        path: of the file to make; it appears when it is whole.
        compression: of the tiles; ``"zlib"`` is what every reader knows.
        progress: called with (stage, done, total).

    Raises:
        InputError: where there is no archive, or pixels are of a type that OME-TIFF does not know.
    """
    import tifffile

    archive, path = open_archive(source), Path(path)
    dtype = archive.levels[0].dtype
    if dtype.name not in TIFF_TYPES:
        raise InputError(f"OME-TIFF knows no pixels of type {dtype}, only {', '.join(TIFF_TYPES)}")
    tiles = [TileGrid(a.shape[-2:], (TIFF_TILE, TIFF_TILE)) for a in archive.levels]
    total = len(archive.planes) * sum(int(np.prod(grid.grid_shape)) for grid in tiles)
    count = _Count(total, progress)
    packed = compression != "none"
    options: dict[str, Any] = {
        "tile": (TIFF_TILE, TIFF_TILE),
        "photometric": "minisblack",
        "compression": compression if packed else None,
        "predictor": packed and dtype.kind in "iu",
        "buffersize": COMPRESS_BYTES,
        "software": "mosaicreg",
    }
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tifffile.TiffWriter(partial, bigtiff=True, ome=True) as file:
            for level, array in enumerate(archive.levels):
                first = level == 0
                file.write(
                    _tiles(array, archive.planes, count),
                    shape=array.shape,
                    dtype=array.dtype,
                    metadata=_tiff_metadata(archive) if first else None,
                    subifds=len(archive.levels) - 1 if first else None,
                    subfiletype=0 if first else 1,
                    **_resolution(archive.pixel_size, 2**level),
                    **options,
                )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _tiles(array: Any, planes: list[tuple[int, ...]], count: _Count) -> Iterator[NDArray[Any]]:
    """The tiles of all planes of a level, row by row, whole ones: padded with the edge's pixels."""
    height, width = array.shape[-2:]
    for plane in planes:
        for y in range(0, height, TIFF_TILE):
            for x in range(0, width, READ_WIDTH):
                strip = array[(*plane, slice(y, y + TIFF_TILE), slice(x, x + READ_WIDTH))]
                for start in range(0, strip.shape[1], TIFF_TILE):
                    tile = strip[:, start : start + TIFF_TILE]
                    missing = [(0, TIFF_TILE - n) for n in tile.shape]
                    yield np.pad(tile, missing, mode="edge") if tile.size < TIFF_TILE**2 else tile
                    count.one()


class _Count:
    """Progress of one stage, told at most a hundred times."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.done, self.progress = total, 0, progress

    def one(self) -> None:
        self.done += 1
        every = max(1, self.total // 100)
        if self.progress and (self.done % every == 0 or self.done == self.total):
            self.progress("export", self.done, self.total)


def _tiff_metadata(archive: Archive) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "axes": archive.axes.upper(),
        "Name": archive.ome["multiscales"][0].get("name", ""),
    }
    if archive.pixel_size is not None:
        y, x = archive.pixel_size
        metadata |= {"PhysicalSizeY": y, "PhysicalSizeYUnit": "µm"}
        metadata |= {"PhysicalSizeX": x, "PhysicalSizeXUnit": "µm"}
    if "c" in archive.axes and archive.channels:
        labels = [c.get("label", "") for c in archive.channels]
        colours = [_signed(int(c.get("color", "FFFFFF") + "FF", 16)) for c in archive.channels]
        metadata["Channel"] = {"Name": labels, "Color": colours}
    return metadata


def _signed(rgba: int) -> int:
    """OME-XML writes a colour as a signed 32-bit number."""
    return rgba - (1 << 32) if rgba >= 1 << 31 else rgba


def _resolution(pixel_size: tuple[float, float] | None, factor: int) -> dict[str, Any]:
    if pixel_size is None:
        return {}
    y, x = (1e4 / (size * factor) for size in pixel_size)
    return {"resolution": (x, y), "resolutionunit": "CENTIMETER"}


def write_picture(
    source: Place,
    path: str | Path,
    *,
    region: tuple[int, int, int, int] | None = None,
    level: int | None = None,
    channel: int = 0,
    plane: int = 0,
    raw: bool = False,
) -> tuple[int, int]:
    """Write a region of an archive as a PNG.

    Args:
        source: of the archive.
        path: of the PNG.
        region: y, x, height, width in px of the finest level; the whole mosaic where None.
        level: of the pyramid; the finest one that is at most `PNG_SIDE` px long where None.
        channel: which to show; colour images are shown in colour.
        plane: which z plane to show; time point 0 is shown.
        raw: keep the pixels' values (uint8 and uint16), instead of stretching them to 8 bit.

    Returns:
        (height, width) of the picture in px.

    Raises:
        InputError: where there is no archive, level, channel or region of this kind.
    """
    archive = open_archive(source)
    height, width = archive.levels[0].shape[-2:]
    y, x, rows, cols = region or (0, 0, height, width)
    if y < 0 or x < 0 or rows < 1 or cols < 1 or y + rows > height or x + cols > width:
        raise InputError(
            f"the region {y},{x},{rows},{cols} (y,x,height,width) is not inside the mosaic of "
            f"{height} x {width} px"
        )
    if level is None:
        fits = [k for k in range(len(archive.levels)) if max(rows, cols) <= PNG_SIDE << k]
        level = fits[0] if fits else len(archive.levels) - 1
    if not 0 <= level < len(archive.levels):
        raise InputError(f"there is no level {level}, only 0 to {len(archive.levels) - 1}")
    array = archive.levels[level]
    box = Box(
        y >> level,
        x >> level,
        min(-(-(y + rows) >> level), array.shape[-2]),
        min(-(-(x + cols) >> level), array.shape[-1]),
    )
    if box.area > PNG_PIXELS:
        raise InputError(
            f"a PNG of {box.shape[0]} x {box.shape[1]} px would open in hardly any program; "
            "take a coarser --level, a --region, or an .ome.tif"
        )
    colour = [c.get("label") for c in archive.channels][:3] == ["red", "green", "blue"]
    chosen = {"c": slice(0, 3) if colour else channel, "z": plane}
    for axis, n in zip(archive.axes, array.shape[:-2], strict=False):
        index = chosen.get(axis, 0)
        if not isinstance(index, slice) and index >= n:
            raise InputError(f"there is no {axis} {index}, only 0 to {n - 1}")
    image = array[(*(chosen.get(a, 0) for a in archive.axes[:-2]), *box.slices)]
    image = np.moveaxis(image, 0, -1) if colour else image
    if raw and image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"a PNG holds values of uint8 or uint16, not {image.dtype}")
    keep = raw or (colour and image.dtype == np.uint8)
    write_png(Path(path), np.ascontiguousarray(image) if keep else to_display(image))
    return box.shape


def write_version_04(
    source: Place,
    path: Place,
    *,
    chunk: int = VERSION_04_CHUNK,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Place:
    """Write an archive as OME-Zarr 0.4 (zarr v2, no shards), for viewers that know no newer one.

    The same levels, metadata, tiles and pairs; one file per chunk and plane. Runs on the dask
    scheduler in effect, one task per few chunks.

    Args:
        source: of the archive.
        path: of the archive to make.
        chunk: side in px.
        overwrite: replace an archive that exists.
        progress: called with (stage, done, total).

    Raises:
        InputError: where there is no archive at ``source``, or one at ``path``.
    """
    archive, target = open_archive(source), open_store(path)
    if target.exists():
        if not overwrite:
            raise InputError(
                f"{target} exists; choose another name, or replace it with --overwrite"
            )
        omezarr.check_archive(target)
        target.clear()
    zarrfiles.ensure_group(target, "", 2)
    for level, array in enumerate(archive.levels):
        sides = (min(chunk, array.shape[-2]), min(chunk, array.shape[-1]))
        sides = (*(1,) * (len(array.shape) - 2), *sides)
        dtype = array.dtype.newbyteorder("=")
        made = Array(array.shape, dtype, sides, names=tuple(archive.axes), zarr_format=2)
        zarrfiles.write_array(target, str(level), made)
    zarrfiles.write_attributes(target, "", _metadata_04(archive), 2)
    for name in ("tiles", "pairs", "null", "stage_matrix"):
        table = omezarr.read_table(source, name)
        if table:
            omezarr.write_table(target, name, table)
    omezarr.write_facts(target, omezarr.read_facts(source))
    tasks = []
    for level, array in enumerate(archive.levels):
        block = -(-READ_WIDTH // chunk) * chunk
        for _, _, box in TileGrid(array.shape[-2:], (block, block)).boxes():
            for plane in archive.planes:
                number = archive.ome["multiscales"][0]["datasets"][level]["path"]
                place = (source, number), (target, str(level))
                tasks.append(delayed_call(_copy, *place, (*plane, *box.slices)))
    run_tasks(tasks, "export", progress)
    return path


def _copy(source: tuple[Place, str], target: tuple[Place, str], index: tuple[Any, ...]) -> None:
    """Copy a block of whole chunks from one array to another."""
    import zarr

    read, write = (
        zarr.open_array(open_store(place).zarr(read_only=only), path=name, mode=mode)
        for (place, name), only, mode in ((source, True, "r"), (target, False, "r+"))
    )
    write[index] = read[index]


def _metadata_04(archive: Archive) -> dict[str, Any]:
    """The attributes of version 0.4, checked."""
    from yaozarrs import v04

    images = [{**image, "version": "0.4"} for image in archive.ome["multiscales"][:1]]
    image = images[0]
    image["datasets"] = [{**dataset, "path": str(k)} for k, dataset in enumerate(image["datasets"])]
    attributes: dict[str, Any] = {"multiscales": images}
    if archive.channels:
        attributes["omero"] = {**archive.ome["omero"], "version": "0.4"}
    checked = v04.Image.model_validate(attributes)
    dumped: dict[str, Any] = checked.model_dump(mode="json", exclude_none=True)
    return dumped
