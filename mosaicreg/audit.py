"""One shard of an archive looked at: the tasks of `mosaicreg.verification`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import Box, FloatArray, IntArray, owned_boxes
from mosaicreg.shards import halve
from mosaicreg.store import Store
from mosaicreg.turned import Pose, turned_boxes


@dataclass(frozen=True, eq=False)
class TilesDue:
    """Where an archive's tiles ought to lie on its canvas, as columns.

    Args:
        positions: (n, 2) px. shapes: (n, 2) px. angles: (n,) degrees, or None where none is turned.
    """

    positions: FloatArray
    shapes: IntArray
    angles: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def boxes(self) -> IntArray:
        """(n, 4) around the pixels that each tile owns."""
        if self.angles is None:
            return owned_boxes(self.positions, self.shapes)
        return turned_boxes(self.positions, self.shapes, self.angles)

    def moved(self, dy: int, dx: int) -> TilesDue:
        """The same, moved by whole pixels."""
        return replace(self, positions=self.positions + np.array([dy, dx]))

    def select(self, tiles: IntArray) -> TilesDue:
        """These tiles only."""
        angles = None if self.angles is None else self.angles[tiles]
        return TilesDue(self.positions[tiles], self.shapes[tiles], angles)

    def masks(self, box: Box) -> Iterator[tuple[tuple[slice, slice], NDArray[np.bool_]]]:
        """For each tile, slices into ``box`` and which pixels of them it owns."""
        for k, b in enumerate(self.boxes.tolist()):
            part = Box(*b).intersection(box) or Box(box.y0, box.x0, box.y0, box.x0)
            own = np.ones(part.shape, dtype=bool)
            if self.angles is not None:
                (y, x), (height, width) = self.positions[k].tolist(), self.shapes[k].tolist()
                pose = Pose((y, x), (height, width), float(self.angles[k]))
                own = pose.owns(*pose.source(part))
            yield part.shifted(-box.y0, -box.x0).slices, own


@dataclass(frozen=True)
class Report:
    """What one shard of level 0 holds.

    Args:
        name: of the shard.
        broken: why it cannot be decoded; "" where it can.
        owned, stray: pixels that tiles own; pixels that none owns and that are not fill.
        blank: whether tiles own pixels and all of them are fill.
        tiles: numbers of the tiles that touch it. shown: which of them show something.
        wrong: pixels unlike those expected. wrong_tiles: (k,) numbers of tiles that own such.
    """

    name: str
    broken: str = ""
    owned: int = 0
    stray: int = 0
    blank: bool = False
    tiles: tuple[int, ...] = ()
    shown: tuple[bool, ...] = ()
    wrong: int = 0
    wrong_tiles: tuple[int, ...] = ()


def look(
    store: Store,
    plane: tuple[int, ...],
    box: Box,
    numbers: IntArray,
    tiles: TilesDue | None,
    fill: float,
    due: NDArray[Any] | None,
) -> Report:
    """Decode one shard of level 0 and hold it against the tiles and the pixels that are due.

    Args:
        numbers: of ``tiles``, those that touch the shard; None where no layout is known.
        fill: value of pixels that no tile owns.
        due: the pixels as they should be, if that is known.
    """
    name = shard_name(0, plane, box)
    pixels, broken = _decoded(store, 0, plane, box)
    if pixels is None:
        return Report(name, broken=broken, tiles=tuple(numbers.tolist()))
    report = Report(name, tiles=tuple(numbers.tolist()))
    owners = [] if tiles is None else list(tiles.masks(box))
    if tiles is not None:
        bare = np.isnan(pixels) if np.isnan(fill) else pixels == pixels.dtype.type(fill)
        owned = np.zeros(box.shape, dtype=bool)
        for part, own in owners:
            owned[part] |= own
        report = replace(
            report,
            owned=int(owned.sum()),
            stray=int((~bare & ~owned).sum()),
            blank=bool(owned.any() and bare.all()),
            shown=tuple(bool((own & ~bare[part]).any()) for part, own in owners),
        )
    if due is not None:
        wrong = ~_same(pixels, due.reshape(box.shape))
        touched = [
            t
            for t, (part, own) in zip(report.tiles, owners, strict=False)
            if (own & wrong[part]).any()
        ]
        report = replace(report, wrong=int(wrong.sum()), wrong_tiles=tuple(touched))
    return report


def _decoded(
    store: Store, level: int, plane: tuple[int, ...], box: Box
) -> tuple[NDArray[Any] | None, str]:
    """Pixels (y, x) of a box of one plane, or None and why not."""
    import zarr

    try:
        array: Any = zarr.open_array(store.zarr(read_only=True), path=str(level), mode="r")
        with zarr.config.set({"async.concurrency": 4}):
            return np.asarray(array[(*plane, *box.slices)]), ""
    except Exception as error:  # damaged bytes raise whatever their codec raises
        return None, f"{type(error).__name__}: {str(error).strip()[:200]}"


def _same(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = a == b
    if a.dtype.kind == "f":
        same |= np.isnan(a) & np.isnan(b)
    return same


def shard_name(level: int, plane: tuple[int, ...], box: Box) -> str:
    """What to call a shard in words."""
    where = f"level {level}, y {box.y0}-{box.y1}, x {box.x0}-{box.x1}"
    return where + (f", plane {plane}" if plane else "")


def look_at_coarser(store: Store, level: int, plane: tuple[int, ...], box: Box) -> str:
    """What is wrong with one shard of a coarser level; "" for nothing."""
    name = shard_name(level, plane, box)
    pixels, broken = _decoded(store, level, plane, box)
    if pixels is None:
        return f"{name} cannot be decoded ({broken})"
    finer, broken = _decoded(
        store, level - 1, plane, Box(2 * box.y0, 2 * box.x0, 2 * box.y1, 2 * box.x1)
    )
    if finer is None:
        return f"{name}: the level below it cannot be decoded"
    due = halve(finer)
    if due.shape != pixels.shape:
        return f"{name} holds {pixels.shape} px where {due.shape} are due"
    wrong = int((~_same(pixels, due)).sum())
    return f"{name}: {wrong} px are not the mean of the finer level" if wrong else ""
