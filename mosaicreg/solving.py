"""The sparse robust solve behind `mosaicreg.layout.solve_layout`.

Every pair says that one tile lies at an offset from another. One sparse least-squares problem, made
robust by reweighting (Cauchy weights with a shrinking scale, Holland & Welsch 1977), gives how far
each tile moves from where a model has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.leastsquares import LeastSquares
from mosaicreg.robust import median

SIGMA_FLOOR = 0.003
"""px; no offset is believed better than this: detail finer than the pixels biases it."""
DISTORTION = 1e-3
"""How far tiles may be bent against each other, as a share of their longest side, at least 1 px.

Offsets that are right differ from the best rigid layout by about this much; a wrong peak lies
anywhere in the window. The bound is not estimated from the misfits: in a small mosaic a few wrong
pairs would raise it until they pass, or the fit would please most pairs exactly and blame the
bending on the rest."""
OUTLIER = 3.0
"""A pair further off than this many times the distortion disagrees with the solution."""
REDUNDANT, REDUNDANT_PAIRS, CLEARLY_OFF = 0.25, 40, 8.0
"""With so large a share of spare pairs, among so many, the misfits themselves show how much tiles
are bent; then a pair also disagrees that is so many standard deviations off."""
EXACT_PAIRS, PROJECTIONS = 1500, 32
"""Up to so many pairs the covariance is exact; with more, it is taken from so many mixtures."""
SETTLED = 0.01
"""px; trust in pairs is settled when hardly a tile moves further from one step to the next."""
OUTVOTED = 2
"""A tile's only pair that fits is not believed against so many of its pairs that do not."""
REACH, MOST_NEAR = 24, 0.5
"""Where tiles left their window, those at most so many pairs away are solved anew; all tiles where
that is a larger share than this. What a wrong tile does to others falls off with the square of the
distance."""
STEPS = 30
"""Most reweighting steps; the usual number is ten."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Accepted pairs as columns: moving lies at ``offset`` from fixed, known to ``sigma`` px.

    Pairs that are ``certain`` (people said so) are never doubted; none where not given.
    """

    fixed: IntArray
    moving: IntArray
    offset: FloatArray
    sigma: FloatArray
    tiles: int
    certain: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        if len(self.certain) == 0:
            object.__setattr__(self, "certain", np.zeros(len(self.fixed), dtype=bool))

    def __len__(self) -> int:
        return len(self.fixed)

    def misfit(self, positions: FloatArray) -> FloatArray:
        """(m,) px, how far each pair is from ``positions``."""
        found: FloatArray = np.linalg.norm(
            positions[self.moving] - positions[self.fixed] - self.offset, axis=1
        )
        return found

    def wanted(self, model: FloatArray) -> FloatArray:
        """(m, 2) px, what is left of each offset for the tiles to move from ``model``.

        Solving for the move, not the position, keeps full precision in mosaics of a million pixels.
        """
        return self.offset - (model[self.moving] - model[self.fixed])

    def per_tile(self, values: NDArray[Any]) -> NDArray[Any]:
        """(n,) sums of one value per pair over the pairs of each tile."""
        return np.bincount(self.fixed, values, self.tiles) + np.bincount(
            self.moving, values, self.tiles
        )

    def squares(self) -> LeastSquares:
        """The least squares over all pairs."""
        return LeastSquares(self.fixed, self.moving, self.tiles)


class Solution(NamedTuple):
    """What `solve_within` found.

    Args:
        moved: (n, 2) px, how far each tile moves from where the model has it.
        agree: (m,) which pairs agree with that.
        parts: (n,) which tiles the pairs that agree link; part 0 is the largest.
        strays: (n,) which tiles would have left their window.
        sigmas: (n,) px, standard errors; NaN for tiles without a pair that agrees.
    """

    moved: FloatArray
    agree: NDArray[np.bool_]
    parts: IntArray
    strays: NDArray[np.bool_]
    sigmas: FloatArray


def solve_within(edges: Edges, model: FloatArray, bend: float, window: float) -> Solution:
    """All moves from ``model`` such that no tile leaves its window.

    Args:
        edges: all pairs.
        model: (n, 2) where the stage has the tiles.
        bend: px, by about which right pairs may misfit.
        window: px per axis, how far a tile may be moved against its part.
    """
    squares = edges.squares()
    kept = np.ones(len(edges), dtype=bool)
    free = edges.per_tile(edges.certain.astype(np.float64)) == 0
    strays = np.zeros(edges.tiles, dtype=bool)
    moved, agree, weight = solve_robustly(edges, squares, model, kept, bend)
    while True:
        agree &= ~_outvoted(edges, kept, agree)
        parts = parts_of(edges, agree)
        moved[np.bincount(parts)[parts] == 1] = 0
        away = np.abs(moved - part_medians(moved, parts)) > window
        out = away.any(axis=1) & free & ~strays
        if not out.any():
            break
        # A tile outside its window cannot be right: none of its pairs is believed.
        near = _within_reach(edges, kept, out)
        strays |= out
        kept &= edges.certain | ~(strays[edges.fixed] | strays[edges.moving])
        if np.count_nonzero(near) > MOST_NEAR * edges.tiles:
            moved, agree, weight = solve_robustly(edges, squares, model, kept, bend)
        else:
            moved[near] = _solve_near(edges, near, model, moved, kept, bend)
            moved, agree, weight = _settle(edges, squares, model, moved, kept, bend)
    sigmas = sigma_per_tile(edges, squares, np.where(agree, weight, 0.0), parts)
    return Solution(moved, agree, parts, strays, sigmas)


def solve_robustly(
    edges: Edges,
    squares: LeastSquares,
    model: FloatArray,
    kept: NDArray[np.bool_],
    bend: float,
) -> tuple[FloatArray, NDArray[np.bool_], FloatArray]:
    """Reweighted least squares over the pairs ``kept``, which may misfit by about ``bend`` px.

    Args:
        edges: all pairs.
        squares: `Edges.squares` of them.
        model: (n, 2) where tiles lie but for their moves.
        kept: (m,) which pairs have a say.
        bend: px.

    Returns:
        ``(moved, agree, weight)``: (n, 2) how far each tile moves from ``model``, (m,) which pairs
        agree with that, and (m,) their final weights in 1 / px^2.
    """
    moved = np.zeros_like(model)
    if not kept.any():
        return moved, kept.copy(), np.zeros(len(edges))
    wanted = edges.wanted(model)
    variance = edges.sigma**2 + SIGMA_FLOOR**2
    trust, scale = np.ones(len(edges)), np.inf
    for _ in range(STEPS):
        before = moved
        squares.weigh(np.where(kept, trust / variance, 0.0))
        moved = squares.solve(wanted)
        misfit = squares.misfit(moved, wanted)
        resting = np.count_nonzero(np.abs(moved - before) < SETTLED)
        if scale == bend and resting >= 0.999 * moved.size:
            break
        # The scale shrinks step by step: early solutions are still bent by wrong pairs.
        scale = max(bend, min(scale, 2 * float(misfit[kept].max())) / 2)
        trust = np.where(edges.certain, 1.0, 1 / (1 + (misfit / scale) ** 2))
        believed = np.where(kept & (misfit <= OUTLIER * scale), trust, 0.0)
        variance = edges.sigma**2 + SIGMA_FLOOR**2 + _bending(edges, misfit, believed)[0]
    return _settle(edges, squares, model, moved, kept, bend)


def _settle(
    edges: Edges,
    squares: LeastSquares,
    model: FloatArray,
    moved: FloatArray,
    kept: NDArray[np.bool_],
    bend: float,
) -> tuple[FloatArray, NDArray[np.bool_], FloatArray]:
    """The last steps of `solve_robustly`, from ``moved`` on: pairs that disagree have no say."""
    wanted = edges.wanted(model)
    misfit = squares.misfit(moved, wanted)
    agree, weight = kept & (edges.certain | (misfit <= OUTLIER * bend)), np.zeros(len(edges))
    for _ in range(STEPS):
        bending, spare = _bending(edges, misfit, agree.astype(np.float64))
        variance = edges.sigma**2 + SIGMA_FLOOR**2 + bending
        limit = np.full(len(edges), OUTLIER * bend)
        if spare > REDUNDANT and np.count_nonzero(agree) > REDUNDANT_PAIRS:
            limit = np.clip(CLEARLY_OFF * np.sqrt(2 * variance), 0.3, limit)
        trust = np.where(edges.certain, 1.0, 1 / (1 + (misfit / bend) ** 2))
        weight = np.where(agree, trust / variance, 0.0)
        squares.weigh(weight)
        moved = squares.solve(wanted)
        misfit = squares.misfit(moved, wanted)
        before, agree = agree, kept & (edges.certain | (misfit <= limit))
        if (agree == before).all():
            break
    return moved, agree, np.where(agree, weight, 0.0)


def _within_reach(
    edges: Edges, kept: NDArray[np.bool_], tiles: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(n,) which tiles are at most ``REACH`` pairs away from some of ``tiles``."""
    fixed, moving, near = edges.fixed[kept], edges.moving[kept], tiles.copy()
    for _ in range(REACH):
        linked = near[fixed] | near[moving]
        near[fixed[linked]] = True
        near[moving[linked]] = True
    return near


def _solve_near(
    edges: Edges,
    near: NDArray[np.bool_],
    model: FloatArray,
    moved: FloatArray,
    kept: NDArray[np.bool_],
    bend: float,
) -> FloatArray:
    """`solve_robustly` for the tiles ``near`` alone; all others stay where they are, as one."""
    number = np.cumsum(near) - 1
    ground = int(np.count_nonzero(near))
    use = kept & (near[edges.fixed] | near[edges.moving])
    fixed, moving = edges.fixed[use], edges.moving[use]
    lies = np.where(near[:, None], 0.0, model + moved)
    local = Edges(
        fixed=np.where(near[fixed], number[fixed], ground),
        moving=np.where(near[moving], number[moving], ground),
        offset=edges.offset[use] + lies[fixed] - lies[moving],
        sigma=edges.sigma[use],
        tiles=ground + 1,
        certain=edges.certain[use],
    )
    there = np.vstack([model[near], np.zeros(2)])
    found, agree, _ = solve_robustly(local, local.squares(), there, use[use], bend)
    parts = parts_of(local, agree)
    found[parts == parts[ground]] -= found[ground]
    return found[:ground]


def _bending(edges: Edges, misfit: FloatArray, trust: FloatArray) -> tuple[float, float]:
    """px^2 per axis by which pairs misfit beyond their standard errors: tiles are bent.

    Also the share of the pairs that the positions do not use up. Pairs that are known best tell
    most, as far as the bending leaves them known.
    """
    pairs = int(np.count_nonzero(trust))
    linked = int(np.count_nonzero(edges.per_tile((trust > 0).astype(np.float64))))
    spare = (pairs - linked + 1) / max(1, pairs)
    if spare <= 0:
        return 0.0, 0.0
    own = edges.sigma**2 + SIGMA_FLOOR**2
    # The positions have taken up a share of the misfit, as large as their share of the numbers.
    excess = misfit**2 / (2 * spare) - own
    bending = 0.0
    for _ in range(10):
        weight = trust / (own + bending) ** 2
        bending = max(0.0, float(np.average(excess, weights=weight)))
    return bending, spare


def _outvoted(edges: Edges, kept: NDArray[np.bool_], agree: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pairs that hold a tile alone against several others of its own: each says something else.

    Nothing tells which of them is right. The tile hangs on that one pair, so without it no other
    tile moves.
    """
    good = edges.per_tile(agree.astype(np.float64))
    bad = edges.per_tile((kept & ~agree).astype(np.float64))
    alone = (good == 1) & (bad >= OUTVOTED)
    found: NDArray[np.bool_] = (alone[edges.fixed] | alone[edges.moving]) & agree & ~edges.certain
    return found


def parts_of(edges: Edges, agree: NDArray[np.bool_]) -> IntArray:
    """(n,) number of the part of each tile, the largest part first, then by lowest tile."""
    lowest = _lowest_linked(edges.fixed[agree], edges.moving[agree], edges.tiles)
    first, label, size = np.unique(lowest, return_inverse=True, return_counts=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.lexsort((first, -size))] = np.arange(len(first))
    parts: IntArray = rank[label]
    return parts


def _lowest_linked(fixed: IntArray, moving: IntArray, tiles: int) -> IntArray:
    """(n,) the lowest tile that pairs link each tile to, over any number of others.

    Each group of tiles is hung on the lowest one next to it, all at once, until none has a lower
    one next to it (Shiloach & Vishkin 1982).
    """
    lowest = np.arange(tiles)
    while True:
        a, b = lowest[fixed], lowest[moving]
        if (a == b).all():
            return lowest
        np.minimum.at(lowest, np.maximum(a, b), np.minimum(a, b))
        while (further := lowest[lowest]).tobytes() != lowest.tobytes():
            lowest = further


def renumbered(parts: IntArray) -> IntArray:
    """Part numbers without gaps, in the same order."""
    return np.unique(parts, return_inverse=True)[1].astype(np.int64)


def part_medians(values: FloatArray, parts: IntArray) -> FloatArray:
    """(n, 2) median over each tile's part, for every tile."""
    order = np.argsort(parts, kind="stable")
    size = np.bincount(parts)
    ends = np.cumsum(size)
    result = values.copy()
    for part in np.flatnonzero(size > 1):
        members = order[ends[part] - size[part] : ends[part]]
        result[members] = median(values[members])
    return result


def rms_per_tile(edges: Edges, misfit: FloatArray, agree: NDArray[np.bool_]) -> FloatArray:
    """Root mean square misfit (px) of each tile's pairs that agree; NaN without any."""
    count = edges.per_tile(agree.astype(np.float64))
    total = edges.per_tile(np.where(agree, misfit**2, 0.0))
    mean: FloatArray = np.divide(total, count, out=np.full(edges.tiles, np.nan), where=count > 0)
    return np.sqrt(mean)


def sigma_per_tile(
    edges: Edges, squares: LeastSquares, weight: FloatArray, parts: IntArray
) -> FloatArray:
    """Standard error of each position against the mean of its part, from the solver's covariance.

    The solve is linear in the offsets, so what it makes of one standard error in each pair, summed
    in squares, is the variance. For many pairs a few random mixtures of their errors stand for all
    (a random projection keeps the length of every row: Johnson & Lindenstrauss 1984; with 32 of
    them sigma is right to about an eighth).
    """
    used = np.flatnonzero(weight > 0)
    exact = len(used) <= EXACT_PAIRS
    rng = None if exact else np.random.default_rng(0)  # not loaded for small mosaics
    columns = len(used) if exact else PROJECTIONS
    scale = 1 / np.sqrt(weight[used])
    squares.weigh(weight)
    size = np.bincount(parts)
    variance = np.zeros(edges.tiles)
    for first in range(0, columns, 8):
        errors = np.zeros((len(edges), min(8, columns - first)))
        for k in range(errors.shape[1]):
            if rng is None:
                errors[used[first + k], k] = scale[first + k]
            else:
                errors[used, k] = scale * (rng.integers(0, 2, len(used)) * 2.0 - 1)
        moved = squares.solve(errors)
        for k in range(errors.shape[1]):
            mean = np.bincount(parts, moved[:, k]) / size
            variance += (moved[:, k] - mean[parts]) ** 2
    sigma = np.sqrt(variance if exact else variance / columns)
    return np.where(edges.per_tile((weight > 0).astype(np.float64)) > 0, sigma, np.nan)
