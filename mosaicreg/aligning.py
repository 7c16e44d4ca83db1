"""`find_rigid`: one section on another, turned by any angle, found by trying all of them.

1. Both images are seen small (`mosaicreg.reducing`), block by block: no image need fit in memory.
2. Every angle is tried on the small images, flipped and at other scales where asked for
   (`mosaicreg.rigid`), some angles to a dask task. The angles that are wrong tell how high chance
   reaches in these very images.
3. The best few are refined, on images four times as large, by Brent's search over the angle
   (golden section and parabolas: Brent 1973, Algorithms for minimization without derivatives,
   chapter 5).
4. Cells all over the images are compared at full resolution (`mosaicreg.displacements`), and the
   rigid transform nearest to what they say is the answer (Kabsch 1976, robust against cells that
   lie).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.alignment import RigidMatch
from mosaicreg.cluster import Progress, delayed_call, one_blas_thread, run_tasks
from mosaicreg.displacements import Cells, measure_cells
from mosaicreg.divisions import Division
from mosaicreg.errors import InputError
from mosaicreg.geometry import FloatArray
from mosaicreg.pairs import gumbel_of
from mosaicreg.reducing import Plane, Reduced, open_plane, reduce_plane, reduction
from mosaicreg.rigid import Peak, Pose, Texture, near_pose, search_poses
from mosaicreg.transforms import Rigid, Transform

SMALL, LARGER = 192, 768
"""Longest side in px of the images that all angles and only few are tried on."""
SLIP = 2.5
"""px by which the ends of the small image may be off between two angles that are tried."""
BATCH = 12
"""Angles that a task tries."""
CANDIDATES = 4
"""How many angles are looked at again in the larger images."""
NULL_ANGLES = 60
"""At least so many angles that are wrong are tried, to learn how high chance reaches."""
APART = 3.0
"""Steps between angles that have nothing to do with each other."""
MATCHED = 1e-3
"""A match is believed that chance makes with less than this probability."""
ANGLE_TOLERANCE = 0.02
"""Degrees to which the angle is searched before cells are compared."""
OFF = 1.5
"""Pixels of the larger images by which a cell may still be off."""
CELL, LEAST_REACH, MOST_REACH = 256, 12, 256
"""Side of a cell that is compared at full resolution, and how far it may be off, px."""
LATTICE = 5
"""Cells are compared on two lattices of so many, and one more, rows and columns."""
GROUND = 0.2
"""px; no cell says where it lies better than this, whatever its standard error: tissue is soft."""
AGREED = 1e-2
"""Cells whose agreement chance makes more often than this are not listened to."""
LEAST_CELLS, ROUNDS = 4, 5
"""Fewer cells are not fitted; how often cells that lie are left out."""


def find_rigid(
    fixed: Any,
    moving: Any,
    *,
    angles: Sequence[float] | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    fixed_mask: Any = None,
    moving_mask: Any = None,
    min_overlap: float = 0.5,
    progress: Progress | None = None,
) -> RigidMatch:
    """How ``moving`` lies on ``fixed``: peak, angle, and whether it is flipped, at any angle.

    Args:
        fixed, moving: (height, width) numpy, dask or zarr arrays, or paths of image files. They may
            be larger than memory: what is looked at as a whole is reduced, the rest are windows.
        angles: degrees to try; all around where None. What is found may lie half way to the next.
        flip: whether to try the moving image flipped up-down, too.
        scales: sizes of a moving pixel in fixed pixels to try.
        fixed_mask, moving_mask: as the images, True where pixels count. Pixels that are NaN, and
            large regions of the least or the greatest value, do not count anyway.
        min_overlap: share of the smaller image that must lie on the other.
        progress: called with (stage, done, total).

    Returns:
        The placement; its ``chance`` tells how far to trust it: the probability that images which
        have nothing in common match as well somewhere in this search. `MATCHED` is a good limit.
        Weight 0, chance 1 and centre on centre where there is no signal.

    Raises:
        InputError: for images, masks or options that cannot be.
    """
    if not 0 < min_overlap <= 1:
        raise InputError(f"the least overlap is a share above 0 and up to 1, not {min_overlap}")
    if not scales or not all(np.isfinite(s) and s > 0 for s in scales):
        raise InputError(f"scales are numbers above 0, not {list(scales)}")
    planes = (
        open_plane(fixed, fixed_mask, name="fixed image"),
        open_plane(moving, moving_mask, name="moving image"),
    )
    return match_planes(*planes, angles, flip, scales, min_overlap, progress)


def match_planes(
    fixed: Plane,
    moving: Plane,
    angles: Sequence[float] | None,
    flip: bool,
    scales: Sequence[float],
    min_overlap: float,
    progress: Progress | None = None,
) -> RigidMatch:
    """`find_rigid` of planes that are open already."""
    small = _Level.of(fixed, moving, SMALL, scales, progress)
    if small is None:
        return RigidMatch((0.0, 0.0), 0.0)
    search = _Search(small, angles, flip, tuple(scales), min_overlap)
    peaks, chance = search.run(progress)
    if not peaks:
        return RigidMatch((0.0, 0.0), 0.0)
    larger = _Level.of(fixed, moving, LARGER, scales, progress) or small
    tasks = [delayed_call(_look_closer, small, larger, p, search.gap) for p in peaks]
    closer = run_tasks(tasks, "candidates", progress)
    best = max(closer, key=lambda c: c.height)
    (best,) = run_tasks([delayed_call(_turned, larger, best, search.gap / 4)], "angle", progress)
    winner = peaks[closer.index(max(closer, key=lambda c: c.height))]
    record = larger.record(best, winner.height / search.spread, chance(winner))
    return _polished(fixed, moving, record, larger, progress)


@dataclass(frozen=True, eq=False)
class _Level:
    """Both images, seen small.

    Args:
        fixed, moving: their textures; a moving one for each scale.
        by: px of the fixed image to a pixel of the level.
        ratio: what a pixel of the moving texture measures in pixels of the level, per scale.
        lost: (y, x) px that fill no square, of the fixed image and of the moving one per scale.
    """

    fixed: Texture
    moving: dict[float, Texture]
    by: int
    ratio: dict[float, float]
    lost: tuple[FloatArray, dict[float, FloatArray]]
    empty: tuple[tuple[float, ...], tuple[float, ...]]

    @classmethod
    def of(
        cls,
        fixed: Plane,
        moving: Plane,
        side: int,
        scales: Sequence[float],
        progress: Progress | None,
    ) -> _Level | None:
        """Both images reduced to at most ``side`` px; None where one of them shows nothing."""
        largest = max(*fixed.shape, *(n * s for s in scales for n in moving.shape))
        by = reduction((int(np.ceil(largest)), 1), side)
        small = reduce_plane(fixed, min(by, min(fixed.shape)), progress)
        seen: dict[int, Reduced] = {}
        textures, ratio, lost = {}, {}, {}
        for scale in scales:
            own = min(max(1, round(by / scale)), min(moving.shape))
            if own not in seen:
                seen[own] = reduce_plane(moving, own, progress)
            texture = Texture.of(seen[own].image, seen[own].known)
            if texture is None:
                return None
            textures[scale], ratio[scale] = texture, scale * own / small.by
            lost[scale] = np.array(moving.shape) % own
        texture = Texture.of(small.image, small.known)
        if texture is None:
            return None
        empty = small.empty, next(iter(seen.values())).empty
        rest = np.array(fixed.shape) % small.by
        return cls(texture, textures, small.by, ratio, (rest, lost), empty)

    def pose(self, pose: Pose) -> Pose:
        """A pose of the images as one of the textures."""
        return Pose(pose.angle, pose.flipped, self.ratio[pose.scale])

    def _middles(self, pose: Pose) -> FloatArray:
        """How far the textures' middles are from those of the images, px of the fixed image."""
        fixed, moving = self.lost[0] / 2, self.lost[1][pose.scale] / 2
        away: FloatArray = np.linalg.inv(pose.back) @ moving - fixed
        return away

    def peak(self, pose: Pose, shift: tuple[float, float]) -> FloatArray:
        """The peak in px of the fixed image for a shift of the textures."""
        peak: FloatArray = np.array(shift) * self.by + self._middles(pose)
        return peak

    def shift(self, pose: Pose, peak: FloatArray) -> tuple[float, float]:
        """The reverse of `peak`."""
        y, x = (peak - self._middles(pose)) / self.by
        return float(y), float(x)

    def near(self, pose: Pose, peak: FloatArray, reach: int) -> Placed | None:
        """The best peak of a pose near a given one."""
        shift = self.shift(pose, peak)
        found = near_pose(self.fixed, self.moving[pose.scale], self.pose(pose), shift, reach)
        return None if found is None else Placed(pose, found.height, self.peak(pose, found.shift))

    def record(self, placed: Placed, weight: float, chance: float) -> RigidMatch:
        """What was placed, as a record."""
        y, x = (float(v) for v in placed.peak)
        pose = placed.pose
        return RigidMatch((y, x), weight, pose.angle, pose.flipped, pose.scale, chance)


@dataclass(frozen=True, eq=False)
class Placed:
    """A pose, its height, and its peak (y, x) in px of the fixed image."""

    pose: Pose
    height: float
    peak: FloatArray


class _Search:
    """All angles on the small images, and what chance reaches among them."""

    def __init__(
        self,
        level: _Level,
        angles: Sequence[float] | None,
        flip: bool,
        scales: tuple[float, ...],
        min_overlap: float,
    ) -> None:
        self.level, self.min_overlap = level, min_overlap
        self.step = float(np.rad2deg(4 * SLIP / np.hypot(*level.fixed.values.shape)))
        around = np.linspace(-180, 180, int(np.ceil(360 / self.step)), endpoint=False)
        tried = around if angles is None else np.unique(np.asarray(angles, dtype=np.float64))
        if tried.size == 0 or not np.isfinite(tried).all():
            raise InputError(f"angles are one or more numbers of degrees, not {angles!r:.80}")
        several = angles is not None and len(tried) > 1
        self.gap = float(np.diff(tried).max()) if several else self.step
        self.poses = [
            Pose(float(a), f, s) for s in scales for f in (False, *([True] * flip)) for a in tried
        ]
        spread = np.linspace(-180, 180, NULL_ANGLES, endpoint=False)
        far = [a for a in spread if (_apart(a, tried) > APART * self.step).all()]
        few = len(self.poses) < 2 * NULL_ANGLES
        self.others = [Pose(float(a), False, scales[0]) for a in far] if few else []
        self.spread = 1.0

    def run(self, progress: Progress | None) -> tuple[list[Placed], Any]:
        """The best few poses, and what tells the chance of one of them."""
        found = self._tried([*self.poses, *self.others], progress)
        spreads = [p.spread for p in found if p is not None and p.spread > 0]
        self.spread = float(np.median(spreads)) if spreads else 1.0
        pairs = zip([*self.poses, *self.others], found, strict=True)
        placed = [Placed(pose, p.height, self.level.peak(pose, p.shift)) for pose, p in pairs if p]
        ours = [p for p in placed if p.pose not in self.others]

        def chance(winner: Placed) -> float:
            null = np.array([p.height for p in placed if not self._alike(p.pose, winner.pose)])
            if len(null) < NULL_ANGLES // 4:
                return 1.0
            location, scale = gumbel_of(null)
            rate = np.exp(-(winner.height - location) / max(scale, 1e-9))
            return float(-np.expm1(-len(self.poses) * rate))

        return self._distinct(ours), chance

    def _tried(self, poses: list[Pose], progress: Progress | None) -> list[Peak | None]:
        groups: list[tuple[list[int], float]] = []
        for scale in dict.fromkeys(p.scale for p in poses):
            rows = [k for k, p in enumerate(poses) if p.scale == scale]
            groups += [(rows[k : k + BATCH], scale) for k in range(0, len(rows), BATCH)]
        tasks = [
            delayed_call(
                _try_poses, self.level.fixed, self.level.moving[scale],
                [self.level.pose(poses[k]) for k in rows], self.min_overlap,
            )
            for rows, scale in groups
        ]  # fmt: skip
        peaks: list[Peak | None] = [None] * len(poses)
        for (rows, _), part in zip(groups, run_tasks(tasks, "angles", progress), strict=True):
            for k, peak in zip(rows, part, strict=True):
                peaks[k] = peak
        return peaks

    def _alike(self, one: Pose, other: Pose) -> bool:
        near = float(_apart(one.angle, np.array(other.angle))) <= APART * self.step
        return near and one.flipped == other.flipped

    def _distinct(self, placed: list[Placed]) -> list[Placed]:
        """The highest few that have nothing to do with each other."""
        kept: list[Placed] = []
        for one in sorted(placed, key=lambda p: -p.height):
            same = any(
                self._alike(one.pose, k.pose) and one.pose.scale == k.pose.scale for k in kept
            )
            if not same and len(kept) < CANDIDATES:
                kept.append(one)
        return kept


def _apart(angle: float, others: FloatArray) -> FloatArray:
    """Degrees between angles, the short way round."""
    away: FloatArray = np.abs((angle - others + 180) % 360 - 180)
    return away


def _try_poses(
    fixed: Texture, moving: Texture, poses: list[Pose], min_overlap: float
) -> list[Peak | None]:
    one_blas_thread()
    return search_poses(fixed, moving, poses, min_overlap)


def _look_closer(small: _Level, larger: _Level, placed: Placed, gap: float) -> Placed:
    """A candidate, its angle refined in the small images, its height in the larger ones."""
    one_blas_thread()
    better = _turned(small, placed, gap)
    found = larger.near(better.pose, better.peak, 2 + -(-2 * small.by // larger.by))
    return found or Placed(better.pose, 0.0, better.peak)


def _turned(level: _Level, placed: Placed, gap: float) -> Placed:
    """The angle within ``gap`` degrees at which the images agree best, and the peak there."""
    from scipy.optimize import minimize_scalar

    pose = placed.pose
    reach = 4

    def at(angle: float) -> Placed | None:
        return level.near(replace(pose, angle=float(angle)), placed.peak, reach)

    def cost(angle: float) -> float:
        found = at(angle)
        return 0.0 if found is None else -found.height

    limits = (pose.angle - gap, pose.angle + gap)
    best = minimize_scalar(
        cost, bounds=limits, method="bounded", options={"xatol": ANGLE_TOLERANCE}
    )
    return at(best.x) or placed


def _polished(
    fixed: Plane, moving: Plane, record: RigidMatch, level: _Level, progress: Progress | None
) -> RigidMatch:
    """The record, moved to where cells at full resolution agree that it should lie."""
    fixed = replace(fixed, empty=level.empty[0])
    moving = replace(moving, empty=level.empty[1])
    reach = int(np.clip(np.ceil(OFF * level.by), LEAST_REACH, MOST_REACH))
    cell = max(CELL, 4 * reach)
    transform = record.to_transform(fixed.shape, moving.shape)
    points = _lattice(transform, fixed.shape, moving.shape, cell)
    cells = measure_cells(fixed, moving, transform, points, cell, reach, progress)
    found = fit_rigid(cells)
    if found is None:
        return record
    turn, agree = found
    by_chance = _agreement(cells, agree, turn, reach)
    if by_chance > AGREED:
        return record
    angle = record.angle + float(np.rad2deg(turn.angle))
    middle = (np.array(fixed.shape) - 1) / 2
    y, x = (turn.transform(middle + record.peak)[0] - middle).tolist()
    chance = min(record.chance, CANDIDATES * by_chance)
    return replace(record, peak=(y, x), angle=(angle + 180) % 360 - 180, chance=chance)


def _agreement(cells: Cells, agree: NDArray[np.bool_], turn: Rigid, reach: int) -> float:
    """Probability that so many cells agree which point anywhere within their reach."""
    from scipy.stats import binom

    count = int(np.isfinite(cells.offsets[:, 0]).sum())
    here = cells.points[agree]
    away = np.linalg.norm(turn.transform(here) - here - cells.offsets[agree], axis=1)
    radius = max(1.0, float(away.max()))
    share = min(1.0, np.pi * radius**2 / (2 * reach + 1) ** 2)
    # A rigid transform has three parameters: it meets one cell and a half wherever they point.
    return float(binom.sf(int(agree.sum()) - 3, max(0, count - 2), share))


def _lattice(
    transform: Transform, fixed: tuple[int, int], moving: tuple[int, int], cell: int
) -> FloatArray:
    """(n, 2) middles of cells that lie in both images, spread over what they share."""
    points = np.concatenate(
        [Division.edge_to_edge(fixed, dims=(n, n)).points for n in (LATTICE, LATTICE + 1)]
    )
    there = transform.inverse_transform(points)
    margin = min(cell / 2, min(fixed) / 4, min(moving) / 4)
    inside = ((there >= margin) & (there <= np.array(moving) - 1 - margin)).all(axis=1)
    inside &= ((points >= margin) & (points <= np.array(fixed) - 1 - margin)).all(axis=1)
    return points[inside]


def fit_rigid(cells: Cells) -> tuple[Rigid, NDArray[np.bool_]] | None:
    """The rigid transform of the fixed image's space that moves cells by their offsets.

    Robust: cells further off than others are are left out, again and again.

    Returns:
        The transform and which cells agree with it; None where fewer than `LEAST_CELLS` do.
    """
    use = (cells.confidence > 0.5) & np.isfinite(cells.offsets).all(axis=1)
    here, there = cells.points, cells.points + cells.offsets
    weight = np.where(use, 1 / (cells.sigma**2 + GROUND**2), 0.0)
    turn = Rigid((0, 0))
    for _ in range(ROUNDS):
        if np.count_nonzero(weight) < LEAST_CELLS:
            return None
        share = (weight / weight.sum())[:, None]
        a, b = (np.where(use[:, None], p, 0.0) for p in (here, there))
        middle, goal = (share * a).sum(axis=0), (share * b).sum(axis=0)
        u, v = a - middle, b - goal
        cross = float((share[:, 0] * (u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])).sum())
        along = float((share * u * v).sum())
        turn = Rigid(goal - middle, float(np.arctan2(cross, along)), middle)
        misfit = np.linalg.norm(turn.transform(a) - b, axis=1)
        spread = max(1.5 * float(np.median(misfit[weight > 0])), GROUND)
        agree = use & (misfit < 3 * spread)
        weight = np.where(agree, 1 / (cells.sigma**2 + GROUND**2), 0.0)
    return turn, agree
