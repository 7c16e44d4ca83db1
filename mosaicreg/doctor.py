"""The geometry doctor: do the tiles lie to each other as their positions say?

From a few dozen neighbours it finds in seconds what most often goes wrong: an axis that runs the
other way, axes swapped, every second row taken backwards, a wrong overlap or pixel size, a camera
turned against the stage, backlash. It never changes anything; it says what it found, and what to
type.

Each sampled pair is compared on all four sides, with overlaps from 2 to 60 %: the side where the
neighbour really lies stands out, and the other three show how high chance reaches in these data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.assembly import assemble
from mosaicreg.cluster import Progress, delayed_call, one_blas_thread, run_tasks
from mosaicreg.correlate import rough_match
from mosaicreg.errors import InputError
from mosaicreg.geometry import Box, FloatArray, IntArray
from mosaicreg.layout import stage_layout
from mosaicreg.mosaic import Mosaic
from mosaicreg.pairs import chance_of
from mosaicreg.registration import registration_lead
from mosaicreg.report import centred
from mosaicreg.source import Lead, TileSource
from mosaicreg.stage import mirrored_rows, rearranged, row_numbers
from mosaicreg.strips import bin_mean, plan_search

SAMPLE = 24
"""Pairs looked at along each axis."""
OVERLAPS = ((0.02, 0.18), (0.15, 0.60))
"""Overlaps looked for, as shares of the tile, in two searches: one search cannot weigh a narrow
overlap against one thirty times its size."""
SIDEWAYS = 0.12
"""How far a neighbour may be off across the axis, as a share of the tile."""
PROOF_SIDE = 300
"""Side of the proof pictures, px."""
SIDES = {"right": (0, 1), "left": (0, -1), "below": (1, 0), "above": (-1, 0)}
CHANCE = 1e-4
"""A side counts as seen where chance shows it less often than this."""
AGREE = 0.6
"""So large a share of the sides seen must agree."""
FINE_ENOUGH = 700
"""Tiles are binned until no side is longer than this, px: here a pixel more or less is nothing."""
TURN_TELLING, SCALE_TELLING, BACKLASH_TELLING = 0.004, 0.01, 0.005
"""Turns (radian), errors of scale and backlash (share of a tile) below these are not worth a word:
the search window takes them in."""


@dataclass(frozen=True)
class Sighting:
    """One pair of neighbours: where the positions put the second tile, and where it was seen.

    Args:
        fixed, moving: tile numbers.
        told: (dy, dx) by the positions, px.
        side: the side of the fixed tile on which the moving one was seen, ``""`` for none.
        found: (dy, dx) as seen, px.
        z: height of its correlation peak.
        row: number of the row that both lie in, or of the upper one, by the positions.
    """

    fixed: int
    moving: int
    told: tuple[float, float]
    side: str
    found: tuple[float, float]
    z: float
    row: int

    @property
    def along(self) -> int:
        """0 where the positions put the tiles above each other, 1 where beside."""
        return int(abs(self.told[1]) > abs(self.told[0]))


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Args:
        matrix: (2, 2), takes told offsets to seen ones; the identity where positions are right.
        serpentine: whether every second row has to be mirrored.
        backlash: px by which every second row is shifted along x.
        overlap: (y, x) true overlap of neighbours, a share of the tile; NaN where not seen.
        sightings: the evidence.
        findings: what is wrong, a sentence each; empty where all is well.
        options: for the command line, that put it right.
    """

    matrix: FloatArray
    serpentine: bool
    backlash: float
    overlap: tuple[float, float]
    sightings: tuple[Sighting, ...] = field(repr=False)
    findings: tuple[str, ...]
    options: str

    @property
    def sure(self) -> bool:
        """Whether enough was seen along both axes to say anything."""
        return bool(np.isfinite(self.matrix).all())

    def apply(self, mosaic: Mosaic) -> Mosaic:
        """The mosaic with its positions put right."""
        return rearranged(mosaic, self.matrix, self.serpentine)

    def facts(self) -> dict[str, Any]:
        """What was found, as JSON knows it."""
        return {
            "sure": self.sure,
            "matrix": self.matrix.tolist() if self.sure else None,
            "serpentine": self.serpentine,
            "backlash": self.backlash,
            "overlap": [None if np.isnan(v) else v for v in self.overlap],
            "findings": list(self.findings),
            "options": self.options,
            "pairs": len(self.sightings),
            "seen": sum(bool(s.side) for s in self.sightings),
        }

    def __str__(self) -> str:
        seen = sum(bool(s.side) for s in self.sightings)
        lines = [
            f"Compared {len(self.sightings)} pairs of neighbours on all sides; {seen} were seen."
        ]
        if not self.sure:
            lines.append("Too little was seen to judge: overlaps may be blank, or below 2 %.")
        elif not self.findings:
            lines.append("Positions and images agree.")
        lines += [f"- {finding}" for finding in self.findings]
        if self.options:
            lines.append(f"Put it right with: {self.options}")
        return "\n".join(lines)


def examine(
    mosaic: Mosaic,
    *,
    channel: int = 0,
    plane: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """Look at a sample of neighbours from all sides.

    Args:
        mosaic: the tiles, with the positions to be checked.
        channel, plane: which image to look at.
        progress: called with (stage, done, total).

    Raises:
        InputError: where there are no neighbours to compare.
    """
    lead = registration_lead(mosaic, channel, plane)
    serpentine = False
    sightings = _look(mosaic, lead, progress)
    if _rows_alternate(sightings):
        serpentine = True
        sightings = _look(mosaic.moved(mirrored_rows(mosaic.positions), "mirrored"), lead, progress)
    matrix = _matrix(sightings)
    backlash = _backlash(sightings, matrix)
    overlap = _overlap(mosaic, sightings)
    findings: list[str] = []
    options = ""
    if np.isfinite(matrix).all():
        findings, options = _words(mosaic, matrix, serpentine, backlash, overlap)
    return Diagnosis(
        matrix=matrix,
        serpentine=serpentine,
        backlash=backlash,
        overlap=overlap,
        sightings=tuple(sightings),
        findings=tuple(findings),
        options=options,
    )


def _look(mosaic: Mosaic, lead: Lead, progress: Progress | None) -> list[Sighting]:
    """Compare a sample of neighbours on all four sides, and tell what was seen from chance."""
    pairs = _sample(mosaic)
    rows = row_numbers(mosaic.positions)
    tasks = [
        delayed_call(_four_sides, mosaic.source.select(pair), mosaic.shapes[pair], lead)
        for pair in pairs
    ]
    results = run_tasks(tasks, "look around", progress)
    # Each pair lies on one side at most: the other three are the null.
    heights = [sorted((z for z, _, _ in r.values()), reverse=True) for r in results]
    null = np.array([z for h in heights for z in h[1:]])
    sightings = []
    for pair, result in zip(pairs.tolist(), results, strict=True):
        side = max(result, key=lambda s: result[s][0], default="")
        z, *found = result[side] if side else (0.0, np.nan, np.nan)
        if not side or chance_of(np.array([z]), null)[0] * 8 > CHANCE:
            side = ""
        told = mosaic.positions[pair[1]] - mosaic.positions[pair[0]]
        sightings.append(
            Sighting(
                fixed=pair[0],
                moving=pair[1],
                told=(float(told[0]), float(told[1])),
                side=side,
                found=(found[0], found[1]),
                z=z,
                row=int(min(rows[pair[0]], rows[pair[1]])),
            )
        )
    return sightings


def _sample(mosaic: Mosaic) -> IntArray:
    """(k, 2) neighbours along each axis, spread evenly, however far the positions have them."""
    positions, n = mosaic.positions, len(mosaic)
    rows, cols = row_numbers(positions), row_numbers(positions[:, ::-1])
    chosen = []
    for line, order in ((rows, cols), (cols, rows)):
        sequence = np.lexsort((order, line))
        a, b = sequence[:-1], sequence[1:]
        beside = (line[a] == line[b]) & (order[b] - order[a] == 1)
        found = np.stack([a[beside], b[beside]], axis=1)
        found = found[np.argsort(found[:, 0], kind="stable")]
        keep = np.unique(np.linspace(0, len(found) - 1, SAMPLE).round().astype(int))
        chosen.append(found[keep] if len(found) else np.empty((0, 2), dtype=np.int64))
    pairs = np.concatenate(chosen).astype(np.int64)
    if len(pairs) == 0:
        raise InputError(f"the positions of these {n} tiles put no two of them next to each other")
    return pairs


def _four_sides(
    source: TileSource, shapes: IntArray, lead: Lead
) -> dict[str, tuple[float, float, float]]:
    """(z, dy, dx) of the best match of two tiles on each side where there is any."""
    one_blas_thread()
    by = 1
    while shapes.max() > by * FINE_ENOUGH:
        by *= 2
    fixed, moving = (
        bin_mean(
            source.read(k, Box.at((0, 0), (int(h), int(w))), lead)
            .reshape(int(h), int(w))
            .astype(np.float32),
            by,
        )
        for k, (h, w) in enumerate(shapes)
    )
    found = {}
    for side, direction in SIDES.items():
        z, dy, dx = max(
            (_match(fixed, moving, direction, bounds) for bounds in OVERLAPS), key=lambda m: m[0]
        )
        if z > 0:
            found[side] = (z, dy * by, dx * by)
    return found


def _match(
    fixed: NDArray[Any],
    moving: NDArray[Any],
    direction: tuple[int, int],
    overlaps: tuple[float, float],
) -> tuple[float, float, float]:
    """(z, dy, dx) of the best match with ``overlaps`` on one side; z is 0 for none."""
    expected, reach = [0.0, 0.0], [0, 0]
    for axis in (0, 1):
        side = min(fixed.shape[axis], moving.shape[axis])
        if direction[axis]:
            expected[axis] = direction[axis] * side * (1 - sum(overlaps) / 2)
            reach[axis] = int(side * (overlaps[1] - overlaps[0]) / 2)
        else:
            reach[axis] = int(side * SIDEWAYS)
    search = plan_search(
        fixed.shape, moving.shape, (expected[0], expected[1]), (reach[0], reach[1])
    )
    if search is None:
        return 0.0, np.nan, np.nan
    match = rough_match(fixed[search.fixed.slices], moving[search.moving.slices], search)
    return match or (0.0, np.nan, np.nan)


def _rows_alternate(sightings: Iterable[Sighting]) -> bool:
    """Whether neighbours beside each other are seen on opposite sides in even and odd rows."""
    votes = {(parity, sign): 0 for parity in (0, 1) for sign in (-1, 1)}
    for s in sightings:
        if s.side and s.along == 1:
            told, found = s.told[1], s.found[1] if s.side in ("left", "right") else s.found[0]
            votes[(s.row % 2, int(np.sign(told * found)))] += 1
    return all(max(votes[(p, 1)], votes[(p, -1)]) > 0 for p in (0, 1)) and (
        votes[(0, 1)] > votes[(0, -1)]
    ) != (votes[(1, 1)] > votes[(1, -1)])


def _matrix(sightings: Iterable[Sighting]) -> FloatArray:
    """(2, 2) from told to seen offsets; NaN where an axis was not seen clearly."""
    columns = []
    for along in (0, 1):
        seen = [s for s in sightings if s.side and s.along == along]
        sides = [s.side for s in seen]
        # On which side depends on the sign of the told offset, which is positive in a sample.
        usual = max(set(sides), key=sides.count, default="")
        agreeing = [s for s in seen if s.side == usual]
        if not agreeing or len(agreeing) < AGREE * len(seen):
            return np.full((2, 2), np.nan)
        ratio = np.median([np.array(s.found) / s.told[along] for s in agreeing], axis=0)
        columns.append(ratio)
    return np.stack(columns, axis=1)


def _backlash(sightings: Iterable[Sighting], matrix: FloatArray) -> float:
    """How far odd rows are shifted along x, px, from tiles above each other; 0 where unseen."""
    if not np.isfinite(matrix).all():
        return 0.0
    shifts: dict[int, list[float]] = {0: [], 1: []}
    for s in sightings:
        if s.side and s.along == 0:
            shifts[s.row % 2].append(float((np.array(s.found) - matrix @ s.told)[1]))
    if not all(shifts.values()):
        return 0.0
    shift = (np.median(shifts[0]) - np.median(shifts[1])) / 2
    spread = np.median([abs(v - np.median(shifts[p])) for p in (0, 1) for v in shifts[p]])
    return float(shift) if abs(shift) > 3 * spread else 0.0


def _overlap(mosaic: Mosaic, sightings: Iterable[Sighting]) -> tuple[float, float]:
    """(y, x) share of the tile that neighbours really share; NaN where not seen."""
    shares: list[list[float]] = [[], []]
    for s in sightings:
        if s.side:
            axis = 1 if s.side in ("left", "right") else 0
            shares[axis].append(1 - abs(s.found[axis]) / float(mosaic.shapes[s.fixed, axis]))
    y, x = (float(np.median(v)) if v else float("nan") for v in shares)
    return y, x


def _words(
    mosaic: Mosaic,
    matrix: FloatArray,
    serpentine: bool,
    backlash: float,
    overlap: tuple[float, float],
) -> tuple[list[str], str]:
    """What is wrong, in sentences, and the options that put it right."""
    findings, options = [], []
    if serpentine:
        findings.append("every second row was taken in the other direction (serpentine)")
        options.append("--serpentine")
    turn, rest = _nearest_turn(matrix)
    findings += _turn_words(turn)
    angle = (rest[1, 0] - rest[0, 1]) / 2
    if abs(angle) > TURN_TELLING:
        findings.append(f"the camera is turned by {np.rad2deg(angle):.2f} degrees")
    scales = rest.diagonal()
    off = np.abs(scales - 1).max() > SCALE_TELLING
    if off:
        findings.append(
            f"steps are {scales[0]:.3f} (y) and {scales[1]:.3f} (x) times as long as told; "
            f"the true overlap is {overlap[0]:.3f} (y) and {overlap[1]:.3f} (x) of a tile"
        )
    by_names = "in the names" in mosaic.origin
    if off and by_names and abs(angle) <= TURN_TELLING:
        options.append(f"--overlap {overlap[0]:.3f},{overlap[1]:.3f}")
        rest = np.eye(2)
    shown = turn @ rest if off or abs(angle) > TURN_TELLING else turn
    if not np.allclose(shown, np.eye(2)):
        numbers = ",".join(f"{v:.4f}".rstrip("0").rstrip(".") for v in shown.ravel())
        options.append(f'--stage-matrix="{numbers}"')
    if abs(backlash) > BACKLASH_TELLING * mosaic.shapes[:, 1].max():
        findings.append(f"every second row is shifted by {backlash:.1f} px along x (backlash)")
    return findings, " ".join(options)


def _nearest_turn(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The flip, swap or quarter turn nearest to a matrix, and the rest: matrix = turn @ rest."""
    swapped = abs(matrix[0, 1] * matrix[1, 0]) > abs(matrix[0, 0] * matrix[1, 1])
    turn = np.array([[0.0, 1.0], [1.0, 0.0]]) if swapped else np.eye(2)
    turn = np.where(turn != 0, np.sign(matrix), 0.0)
    return turn, turn.T @ matrix


def _turn_words(turn: FloatArray) -> list[str]:
    if np.array_equal(turn, np.eye(2)):
        return []
    if turn[0, 0] != 0:
        axes = [name for name, sign in zip("yx", turn.diagonal(), strict=True) if sign < 0]
        return [f"{axis} runs the other way than the positions say" for axis in axes]
    words = ["y and x are swapped"]
    words += [
        f"and {a} runs the other way" for a, s in zip("yx", turn.sum(axis=0), strict=True) if s < 0
    ]
    return [", ".join(words)]


def proof(mosaic: Mosaic, diagnosis: Diagnosis) -> dict[str, NDArray[Any]]:
    """Two tiles around their seam, as the positions have them and as they were seen.

    Returns:
        Captions and (y, x) images of one shape, both tiles averaged where they overlap; {} where
        nothing was seen.
    """
    seen = [s for s in diagnosis.sightings if s.side]
    if not seen:
        return {}
    best = max(seen, key=lambda s: s.z)
    pair = np.array([best.fixed, best.moving])
    shapes = mosaic.shapes[pair]
    views = {}
    for caption, offset in (("as the positions say", best.told), ("as seen", best.found)):
        two = Mosaic(
            names=mosaic.names[pair],
            positions=np.array([(0.0, 0.0), offset]),
            shapes=shapes,
            source=mosaic.source.select(pair),
            axes=mosaic.axes,
        )
        image = assemble(two, stage_layout(two), blend="mean", interpolation="nearest")
        image = image[(0,) * (image.ndim - 2)]
        middle = (np.array(offset) + shapes.sum(axis=0) / 2) / 2 - np.minimum(offset, 0)
        box = centred((float(middle[0]), float(middle[1])), PROOF_SIDE, image.shape)
        view = np.zeros((PROOF_SIDE, PROOF_SIDE), dtype=mosaic.dtype)
        view[: box.shape[0], : box.shape[1]] = image[box.slices].compute(scheduler="threads")
        views[caption] = view
    return views
