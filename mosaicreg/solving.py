"""The sparse robust solve behind `mosaicreg.layout.solve_layout`.

Every pair says that one tile lies at an offset from another. One sparse least-squares problem, made
robust by reweighting (Cauchy weights with a shrinking scale, Holland & Welsch 1977), gives how far
each tile moves from where a model has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from mosaicreg.geometry import FloatArray, IntArray

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

    def per_tile(self, values: NDArray[Any]) -> NDArray[Any]:
        """(n,) sums of one value per pair over the pairs of each tile."""
        return np.bincount(self.fixed, values, self.tiles) + np.bincount(
            self.moving, values, self.tiles
        )

    def incidence(self) -> csr_array:
        """(m, n) matrix that takes positions to offsets."""
        m = len(self)
        rows = np.tile(np.arange(m), 2)
        signs = np.repeat([-1.0, 1.0], m)
        columns = np.concatenate([self.fixed, self.moving])
        return coo_array((signs, (rows, columns)), shape=(m, self.tiles)).tocsr()


def solve_robustly(
    edges: Edges, model: FloatArray, kept: NDArray[np.bool_], bend: float
) -> tuple[FloatArray, NDArray[np.bool_], FloatArray]:
    """Reweighted least squares over the pairs ``kept``, which may misfit by about ``bend`` px.

    Returns:
        ``(moved, agree, weight)``: (n, 2) how far each tile moves from ``model``, (m,) which pairs
        agree with that, and (m,) their final weights in 1 / px^2.
    """
    moved = np.zeros_like(model)
    agree, weight = kept.copy(), np.zeros(len(edges))
    if not kept.any():
        return moved, agree, weight
    incidence = edges.incidence()
    # Solving for the move, not the position, keeps full precision in mosaics of a million pixels.
    wanted = edges.offset - (model[edges.moving] - model[edges.fixed])
    variance = edges.sigma**2 + SIGMA_FLOOR**2
    trust, scale = np.ones(len(edges)), np.inf
    for _ in range(STEPS):
        before = moved
        weight = np.where(kept, trust / variance, 0.0)
        moved = _least_squares(incidence, weight)(wanted)
        misfit = np.linalg.norm(incidence @ moved - wanted, axis=1)
        if scale == bend and np.quantile(np.abs(moved - before), 0.999) < SETTLED:
            break
        # The scale shrinks step by step: early solutions are still bent by wrong pairs.
        scale = max(bend, min(scale, 2 * float(misfit[kept].max())) / 2)
        trust = np.where(edges.certain, 1.0, 1 / (1 + (misfit / scale) ** 2))
        believed = np.where(kept & (misfit <= OUTLIER * scale), trust, 0.0)
        variance = edges.sigma**2 + SIGMA_FLOOR**2 + _bending(edges, misfit, believed)[0]
    agree = kept & (edges.certain | (misfit <= OUTLIER * bend))
    for _ in range(STEPS):
        bending, spare = _bending(edges, misfit, agree.astype(np.float64))
        variance = edges.sigma**2 + SIGMA_FLOOR**2 + bending
        limit = np.full(len(edges), OUTLIER * bend)
        if spare > REDUNDANT and np.count_nonzero(agree) > REDUNDANT_PAIRS:
            limit = np.clip(CLEARLY_OFF * np.sqrt(2 * variance), 0.3, limit)
        trust = np.where(edges.certain, 1.0, 1 / (1 + (misfit / bend) ** 2))
        weight = np.where(agree, trust / variance, 0.0)
        moved = _least_squares(incidence, weight)(wanted)
        misfit = np.linalg.norm(incidence @ moved - wanted, axis=1)
        before, agree = agree, kept & (edges.certain | (misfit <= limit))
        if (agree == before).all():
            break
    return moved, agree, np.where(agree, weight, 0.0)


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


def _least_squares(incidence: csr_array, weight: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """The function that minimises ``sum weight |incidence @ moved - wanted|^2`` over ``moved``.

    Very weakly it minimises ``|moved|^2`` too, which puts the mean move of each part at 0: the part
    stays where the stage has it. It takes ``wanted`` (m, k), k problems at once, to (n, k).
    """
    weak = 1e-9 * float(np.median(weight[weight > 0])) if weight.any() else 1.0
    normal = incidence.T @ diags_array(weight) @ incidence
    factor = factored(csc_array(normal + weak * diags_array(np.ones(normal.shape[0]))))

    def solve(wanted: FloatArray) -> FloatArray:
        moved: FloatArray = factor.solve(incidence.T @ (weight[:, None] * wanted))
        return moved

    return solve


def factored(normal: csc_array) -> Any:
    """The factors of a symmetric positive definite matrix; ``.solve`` takes right-hand sides."""
    return splu(
        normal,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )


def parts_of(edges: Edges, agree: NDArray[np.bool_]) -> IntArray:
    """(n,) number of the part of each tile, the largest part first, then by lowest tile."""
    fixed, moving = edges.fixed[agree], edges.moving[agree]
    links = coo_array((np.ones(len(fixed)), (fixed, moving)), shape=(edges.tiles, edges.tiles))
    count, label = connected_components(links, directed=False)
    size = np.bincount(label, minlength=count)
    first = np.full(count, edges.tiles)
    np.minimum.at(first, label, np.arange(edges.tiles))
    rank = np.empty(count, dtype=np.int64)
    rank[np.lexsort((first, -size))] = np.arange(count)
    parts: IntArray = rank[label]
    return parts


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
        result[members] = np.median(values[members], axis=0)
    return result


def rms_per_tile(edges: Edges, misfit: FloatArray, agree: NDArray[np.bool_]) -> FloatArray:
    """Root mean square misfit (px) of each tile's pairs that agree; NaN without any."""
    count = edges.per_tile(agree.astype(np.float64))
    total = edges.per_tile(np.where(agree, misfit**2, 0.0))
    mean: FloatArray = np.divide(total, count, out=np.full(edges.tiles, np.nan), where=count > 0)
    return np.sqrt(mean)


def sigma_per_tile(edges: Edges, weight: FloatArray, parts: IntArray) -> FloatArray:
    """Standard error of each position against the mean of its part, from the solver's covariance.

    The solve is linear in the offsets, so what it makes of one standard error in each pair, summed
    in squares, is the variance. For many pairs a few random mixtures of their errors stand for all
    (a random projection keeps the length of every row: Johnson & Lindenstrauss 1984; with 32 of
    them sigma is right to about an eighth).
    """
    used = np.flatnonzero(weight > 0)
    exact = len(used) <= EXACT_PAIRS
    columns = len(used) if exact else PROJECTIONS
    scale = 1 / np.sqrt(weight[used])
    signs = np.random.default_rng(0).integers(0, 2, (columns, len(used))) * 2.0 - 1
    solve = _least_squares(edges.incidence(), weight)
    size = np.bincount(parts)
    variance = np.zeros(edges.tiles)
    for first in range(0, columns, 8):
        errors = np.zeros((len(edges), min(8, columns - first)))
        for k in range(errors.shape[1]):
            chosen = slice(first + k, first + k + 1) if exact else slice(None)
            errors[used[chosen], k] = scale[chosen] if exact else scale * signs[first + k]
        moved = solve(errors)
        for k in range(errors.shape[1]):
            mean = np.bincount(parts, moved[:, k]) / size
            variance += (moved[:, k] - mean[parts]) ** 2
    sigma = np.sqrt(variance if exact else variance / columns)
    return np.where(edges.per_tile((weight > 0).astype(np.float64)) > 0, sigma, np.nan)
