"""The seams that deserve a look, and what they look like before and after.

A seam is the overlap of two neighbours. Which ones may be off, and by how much, the layout knows;
how well they fit, the tiles' own pixels tell, where their files can still be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mosaicreg.cluster import Progress, delayed_call, run_tasks
from mosaicreg.errors import ImageError
from mosaicreg.geometry import Box, FloatArray, IntArray
from mosaicreg.layout import Layout, misfits
from mosaicreg.mosaic import Mosaic
from mosaicreg.render import Placed, place, render_block, window_for
from mosaicreg.report.numbers import link_kinds
from mosaicreg.source import Lead, TileSource
from mosaicreg.turned import Pose, Turned, render_turned, window_of

SIDE = 240
"""Side in px of a crop."""
LOOKED_AT = 20
"""So many accepted pairs and so many others are read, those that may be furthest off first."""
PLACES = 5
"""Places along a seam where a crop may be taken: the liveliest one is."""
FLAT = 0.1
"""Structures of a few px vary less than this, as a share of what single pixels do: nothing to see.
White noise alone has 0.02."""


@dataclass(frozen=True, eq=False)
class Seam:
    """Two tiles that overlap.

    Args:
        fixed, moving: tile numbers.
        names: of both.
        kind: what became of the pair, see `mosaicreg.report.numbers.LINKS`.
        doubt: px, how far the seam may be off: the misfit of an accepted pair; else what is known
            of both tiles' places.
        shift: (y, x) px, what the layout changed against the stage.
        score: probability that the measured offset is right; NaN without one.
        before, after: `View` at the stage's word and at the layout's; None where tiles could not
            be read.
        problem: why they could not.
    """

    fixed: int
    moving: int
    names: tuple[str, str]
    kind: str
    doubt: float
    shift: tuple[float, float]
    score: float
    before: View | None = None
    after: View | None = None
    problem: str = ""

    def facts(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {
            "tiles": list(self.names),
            "kind": self.kind,
            "doubt_px": _plain(self.doubt, 4),
            "shift_px": [_plain(v, 4) for v in self.shift],
            "score": _plain(self.score, 6),
            "correlation_before": _plain(self.before.correlation, 4) if self.before else None,
            "correlation_after": _plain(self.after.correlation, 4) if self.after else None,
        }


@dataclass(frozen=True, eq=False)
class View:
    """What two tiles show of one square, each for itself.

    Args:
        box: the square, in layout coordinates.
        fixed, moving: (y, x) float32; NaN where the tile does not reach.
        correlation: normalised, over the whole overlap of the two tiles; NaN for too small a one.
    """

    box: Box
    fixed: NDArray[np.float32]
    moving: NDArray[np.float32]
    correlation: float

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """Both, averaged without feathering: what does not fit shows double."""
        both = np.where(np.isnan(self.moving), self.fixed, (self.fixed + self.moving) / 2)
        return np.where(np.isnan(self.fixed), self.moving, both)


def seams_in_doubt(layout: Layout, count: int = LOOKED_AT) -> list[Seam]:
    """Up to twice ``count`` seams that may be furthest off, the worst first.

    Half of them are accepted pairs, half others, so that neither kind hides the other.
    """
    pairs = layout.pairs
    if pairs is None or len(pairs) == 0:
        return []
    doubt = _doubt(layout)
    kinds = link_kinds(layout)
    # Of others alike, a peak that stands out tells of structures that could be misplaced.
    order = np.lexsort((-np.nan_to_num(pairs.z), -doubt))
    accepted = pairs.accepted[order]
    order = np.concatenate([order[accepted][:count], order[~accepted][:count]])
    order = order[np.argsort(-doubt[order], kind="stable")]
    stage = layout.positions if layout.stage is None else layout.stage
    moves = layout.positions - stage
    return [
        Seam(
            fixed=int(pairs.fixed[k]),
            moving=int(pairs.moving[k]),
            names=(str(layout.names[pairs.fixed[k]]), str(layout.names[pairs.moving[k]])),
            kind=str(kinds[k]),
            doubt=float(doubt[k]),
            shift=tuple((moves[pairs.moving[k]] - moves[pairs.fixed[k]]).tolist()),
            score=float(pairs.score[k]),
        )
        for k in order
    ]


def _doubt(layout: Layout) -> FloatArray:
    """(m,) px, how far each seam may be off."""
    pairs = layout.pairs
    assert pairs is not None
    fixed, moving = pairs.fixed, pairs.moving
    own = np.hypot(layout.sigmas[fixed], layout.sigmas[moving])
    spread = 0.0
    if layout.stage is not None:
        moves = layout.positions - layout.stage
        measured = np.isfinite(layout.sigmas)
        if measured.any():
            spread = float(np.sqrt(np.mean(np.sum(moves[measured] ** 2, axis=1))))
    linked = (layout.parts[fixed] == layout.parts[moving]) & np.isfinite(own)
    guess = np.where(linked, own, spread)
    return np.where(pairs.accepted, misfits(layout), guess)


def look_at(
    seams: Sequence[Seam], mosaic: Mosaic, layout: Layout, lead: Lead, progress: Progress | None
) -> list[Seam]:
    """The same seams with what their tiles show, at the stage's word and at the layout's."""
    stage = layout.positions if layout.stage is None else layout.stage
    tasks = []
    for seam in seams:
        tiles = np.array([seam.fixed, seam.moving])
        source = mosaic.source.select(tiles)
        places = np.stack([stage[tiles], layout.positions[tiles]])
        angles = np.zeros(2) if layout.angles is None else layout.angles[tiles]
        tasks.append(delayed_call(_views, source, lead, places, layout.shapes[tiles], angles))
    found = run_tasks(tasks, "seams", progress)
    return [
        replace(seam, before=views[0], after=views[1], problem=problem)
        for seam, (views, problem) in zip(seams, found, strict=True)
    ]


def worst(seams: Sequence[Seam], count: int) -> list[Seam]:
    """The first seams that show anything; flat ones only where there are no others."""
    return sorted(seams, key=lambda s: s.after is not None and is_flat(s.after))[:count]


def is_flat(view: View) -> bool:
    """Whether both tiles show nothing that could be out of place."""
    return max(_structure(view.fixed), _structure(view.moving)) < FLAT


def _structure(image: NDArray[Any]) -> float:
    """Variance of structures of a few px over that from one pixel to the next."""
    part = _known_part(image)
    if not part.size:
        return 0.0
    fine = gaussian_filter(part, 2.0)
    noise = float(np.var(part - fine))
    return float(np.var(fine - gaussian_filter(part, 16.0))) / noise if noise > 0 else 0.0


def _known_part(image: NDArray[Any]) -> NDArray[Any]:
    """An image, which is known in one rectangle, without its NaN margins."""
    known = np.isfinite(image)
    rows, cols = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
    return image[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] if len(rows) else image[:0, :0]


def _liveliness(view: View) -> float:
    """Variance of what both tiles show, noise smoothed away."""
    part = _known_part(np.where(np.isnan(view.fixed), np.nan, view.moving))
    return float(np.var(gaussian_filter(part, 2.0))) if part.size else 0.0


def _views(
    source: TileSource, lead: Lead, places: FloatArray, shapes: IntArray, angles: FloatArray
) -> tuple[tuple[View | None, View | None], str]:
    """Both tiles around the liveliest place of their overlap, for each of two pairs of places."""
    try:
        images = [
            source.read(k, Box(0, 0, *(int(n) for n in shapes[k])), lead)
            .reshape(shapes[k])
            .astype(np.float32)
            for k in (0, 1)
        ]
    except (ImageError, OSError) as error:
        return (None, None), str(error)
    overlap = _overlap(places[1], shapes)
    if overlap is None:
        return (None, None), "these tiles do not overlap in the layout"
    after = _liveliest(images, places[1], angles, overlap)
    # The same place of the fixed tile, where the stage has it.
    move = np.rint(places[0][0] - places[1][0]).astype(np.int64).tolist()
    before = _view(images, places[0], np.zeros(2), after.box.shifted(*move))
    return (before, after), ""


def _liveliest(
    images: list[NDArray[Any]], places: FloatArray, angles: FloatArray, overlap: Box
) -> View:
    """The view with most structure along an overlap."""
    rows, cols = overlap.shape
    side = min(SIDE, max(rows, cols))
    tall = rows >= cols
    starts = np.linspace(0, max(rows, cols) - side, PLACES if max(rows, cols) > side else 1)
    middle = (overlap.y0 + rows // 2 - SIDE // 2, overlap.x0 + cols // 2 - SIDE // 2)
    views = []
    for start in np.rint(starts).astype(np.int64).tolist():
        shift = (start + side // 2 - max(rows, cols) // 2) * np.array([tall, not tall])
        corner = (middle[0] + int(shift[0]), middle[1] + int(shift[1]))
        views.append(_view(images, places, angles, Box.at(corner, (SIDE, SIDE))))
    return max(views, key=_liveliness)


def _view(images: list[NDArray[Any]], places: FloatArray, angles: FloatArray, box: Box) -> View:
    tiles = list(zip(images, places, angles.tolist(), strict=True))
    fixed, moving = (_placed(*tile, box) for tile in tiles)
    shapes = np.array([image.shape for image in images])
    overlap = _overlap(places, shapes)
    correlation = float("nan")
    if overlap is not None:
        correlation = _correlation(*(_placed(*tile, overlap) for tile in tiles))
    return View(box, fixed, moving, correlation)


def _placed(
    image: NDArray[Any], position: FloatArray, angle: float, box: Box
) -> NDArray[np.float32]:
    """One tile as the mosaic has it in a box; NaN elsewhere."""
    if angle:
        y, x = position.tolist()
        pose = Pose((y, x), (image.shape[0], image.shape[1]), angle)
        needed = window_of(pose, box)
        turned = [] if needed is None else [Turned(pose, needed, image[needed.slices])]
        return render_turned(box, turned, (), np.dtype(np.float32), fill=np.nan)
    owned, offset = place(position, (image.shape[0], image.shape[1]), "linear")
    window = window_for(owned, offset, box)
    if window is None:
        return np.full(box.shape, np.nan, dtype=np.float32)
    part = Placed(owned, offset, window, image[window.slices])
    return render_block(box, [part], (), np.dtype(np.float32), fill=np.nan)


def _overlap(places: FloatArray, shapes: IntArray) -> Box | None:
    start = np.ceil(places.max(axis=0)).astype(np.int64).tolist()
    end = np.floor((places + shapes).min(axis=0)).astype(np.int64).tolist()
    return Box(*start, *end) if end[0] > start[0] and end[1] > start[1] else None


def _correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Normalised cross-correlation of what both show; NaN where that is flat or tiny."""
    both = np.isfinite(one) & np.isfinite(other)
    a, b = one[both].astype(np.float64), other[both].astype(np.float64)
    if len(a) < 16 or a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _plain(value: float, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None
