"""`Pairs`: what registration found for each pair of neighbours, and how far to trust it.

Trust is a probability, measured against chance. Pairs of strips that cannot overlap show how high a
correlation peak rises by accident in this very data: their heights follow a Gumbel law (the maximum
of many values; Gumbel 1958, Statistics of Extremes, chapter 5), fitted here by L-moments (Hosking
1990, section 3). Where the mosaic is too small to give many such pairs, thirty values typical of
many data sets are mixed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.loops import loop_evidence
from mosaicreg.robust import median
from mosaicreg.stage import stage_matrix

NO_SIGNAL, REJECTED, ACCEPTED = 0, 1, 2
STATUS_NAMES = np.array(["no signal", "rejected", "accepted"])

MEASURED = ("dy", "dx", "sigma", "correlation", "z", "ratio", "lead")
"""Columns of what a comparison measures."""
TURN = ("angle", "angle_sigma")
"""And those of one that looks for angles too."""
CHANCE = 1e-3
"""An accepted pair is wrong with at most this probability."""
RIGHT_HEIGHTS = (2.5, 150.0)
"""Peaks of overlapping strips are from this to that many robust standard deviations high."""
SURE_ENOUGH = 10
"""So many pairs beyond doubt are needed before others are held against the stage's errors."""
LATTICE_CORRELATION, LEAD_OFFSET = 0.5, 3.0
"""Where several peaks are alike, the winner's lead speaks, if it correlates at least this well. Of
560 pairs of strips that cannot overlap, chance led by more than l standard deviations about exp(-l)
times; against leads of right peaks spread over some 20 that is a log odds of l - 3."""
RATIO, LEAD = 1.25, 4.0
"""An accepted peak is this many times higher than the next, or its correlation after refinement is
this many standard deviations better: a lattice has many peaks alike."""
MAX_SIGMA = 1 / 3
"""px; an offset known worse than this is not accepted: three of it are the pixel within which an
accepted offset is promised to be right."""
CONFIRMED = 3.0
"""Log odds gained from loops (they close within some two standard deviations) from which a pair
need not be alone: the loops tell which of its peaks is meant."""
LOOP_ROUNDS = 5
"""How often pairs that loops made acceptable may close further loops."""
PRIOR_LOCATION, PRIOR_SCALE, PRIOR_COUNT = 3.4, 0.42, 30
"""Gumbel law of the peak heights of unrelated strips, as seen over light and electron microscopy
and simulations (eight data sets, 890 pairs; the choice of coarser strips adds 0.1 and 0.02), and
how many values it counts for."""
TURNED_PRIOR = 0.5
"""By how much more the location is where the highest of some nine angles was taken, as seen over
noise of two sizes and tissue."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Columns, one row per pair of neighbouring tiles.

    Args:
        fixed, moving: (m,) tile numbers.
        dy, dx: (m,) where the moving tile's first pixel lies in the fixed tile, px; NaN where there
            is no signal.
        sigma: (m,) standard error of dy and dx, px.
        correlation: (m,) normalised cross-correlation over the overlap after alignment.
        z: (m,) height of the correlation peak in robust standard deviations.
        ratio: (m,) the highest peak over the next.
        lead: (m,) by how many standard deviations the refined correlation beats that of the next
            candidate; infinite where only one was in question.
        score: (m,) probability, 0 to 1, that the offset is right; NaN where there is no signal.
        status: (m,) ``NO_SIGNAL``, ``REJECTED`` or ``ACCEPTED``.
        null_z: (k,) heights found for strips that cannot overlap.
        angle: (m,) degrees by which the moving tile is turned in the fixed one about its centre;
            None where angles were not looked for. dy, dx are then where its first pixel would lie,
            were it not turned.
        angle_sigma: (m,) standard error of the angle, degrees.
    """

    fixed: IntArray
    moving: IntArray
    dy: FloatArray
    dx: FloatArray
    sigma: FloatArray
    correlation: FloatArray
    z: FloatArray
    ratio: FloatArray
    lead: FloatArray
    score: FloatArray
    status: NDArray[np.uint8]
    null_z: FloatArray
    angle: FloatArray | None = None
    angle_sigma: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.fixed)

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """(m,) which pairs the layout may use."""
        accepted: NDArray[np.bool_] = self.status == ACCEPTED
        return accepted

    @property
    def offsets(self) -> FloatArray:
        """(m, 2) dy, dx."""
        return np.stack([self.dy, self.dx], axis=1)

    def columns(self) -> dict[str, NDArray[Any]]:
        """All columns of one row per pair, by name; ``status`` in words."""
        turn = () if self.angle is None else TURN
        names = ("fixed", "moving", *MEASURED, *turn, "score")
        table: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in names}
        return {**table, "status": STATUS_NAMES[self.status]}

    @classmethod
    def from_columns(cls, table: dict[str, Any], null_z: ArrayLike = ()) -> Pairs:
        """The reverse of `columns`."""
        code = {name: k for k, name in enumerate(STATUS_NAMES.tolist())}
        numbers = {
            name: np.array([np.nan if v is None else v for v in table[name]], dtype=np.float64)
            for name in (*MEASURED, *(TURN if "angle" in table else ()), "score")
        }
        return cls(
            fixed=np.array(table["fixed"], dtype=np.int64),
            moving=np.array(table["moving"], dtype=np.int64),
            status=np.array([code[s] for s in table["status"]], dtype=np.uint8),
            null_z=np.asarray(null_z, dtype=np.float64),
            **numbers,
        )

    def __repr__(self) -> str:
        counts = np.bincount(self.status, minlength=3)
        return (
            f"Pairs: {len(self)} neighbours, {counts[ACCEPTED]} accepted, "
            f"{counts[REJECTED]} rejected, {counts[NO_SIGNAL]} without signal"
        )

    def _repr_html_(self) -> str:
        """Counts and the pairs least sure first, beside how well they correlate."""
        from mosaicreg.drawing import LINK_COLOURS, bars, legend
        from mosaicreg.tables import beside, columns_html

        order = np.argsort(np.nan_to_num(self.score, nan=-1.0), kind="stable")
        rows = {name: column[order] for name, column in self.columns().items()}
        edges = np.round(np.linspace(0, 1, 21), 2)
        counts = [
            (words, LINK_COLOURS[words], np.histogram(self._correlations(code), edges)[0].tolist())
            for words, code in (("used", ACCEPTED), ("rejected", REJECTED))
        ]
        labels = [f"{edge:g}" for edge in edges[:-1]]
        chart = bars(labels, counts, "correlation over the overlap (from)", every=4)
        key = legend({"accepted": LINK_COLOURS["used"], "rejected": LINK_COLOURS["rejected"]})
        chart = f"<div style='width:20em;max-width:100%'>{chart}{key}</div>"
        return beside(chart, columns_html(repr(self), rows))

    def plot(self, ax: Any | None = None) -> Any:
        """Draw how well pairs correlate over their overlap; gives back the matplotlib axes.

        Raises:
            MissingExtraError: where matplotlib is not installed.
        """
        from mosaicreg.plots import axes_for, draw_counts

        ax = axes_for(ax)
        kinds = {"used": ACCEPTED, "rejected": REJECTED}
        values = {kind: self._correlations(code) for kind, code in kinds.items()}
        draw_counts(ax, values, (0.0, 1.0), "correlation over the overlap")
        ax.set_title(repr(self).partition(": ")[2])
        return ax

    def _correlations(self, code: int) -> FloatArray:
        """Known correlations, from 0 on, of the pairs of one status."""
        values = self.correlation[(self.status == code) & np.isfinite(self.correlation)]
        known: FloatArray = np.clip(values, 0, 1)
        return known


def judge(
    fixed: IntArray,
    moving: IntArray,
    measured: Mapping[str, FloatArray],
    null_z: FloatArray,
    told: FloatArray,
    window: float,
) -> Pairs:
    """Decide which measured pairs to trust.

    Args:
        fixed, moving: (m,) tile numbers.
        measured: (m,) columns ``MEASURED``, and ``TURN`` where angles were looked for; NaN where
            nothing was found.
        null_z: heights found for strips that cannot overlap.
        told: (m, 2) offsets that the stage tells, px.
        window: how far around them the search went, px.
    """
    z, lead = measured["z"], measured["lead"]
    found = np.isfinite(z)
    # A lattice correlates everywhere, so z cannot tell; how clearly one place wins can.
    by_lead = np.isfinite(lead) & (measured["correlation"] > LATTICE_CORRELATION)
    by_height = np.full(len(z), -np.inf)
    raised = TURNED_PRIOR if "angle" in measured else 0.0
    by_height[found] = evidence_of(z[found], null_z, raised)
    offsets = np.stack([measured["dy"], measured["dx"]], axis=1)
    sure = by_height > np.log(1 / CHANCE)
    by_place = _stage_evidence(offsets, told, sure, window)
    alone = (measured["ratio"] >= RATIO) | (lead >= LEAD)
    precise = measured["sigma"] <= MAX_SIGMA

    score = _score(by_height + by_place, lead, by_lead)
    accepted = (score > 1 - CHANCE) & alone & precise
    for _ in range(LOOP_ROUNDS):
        # The loops of accepted pairs know better than the stage where another pair lies.
        by_loops = loop_evidence(fixed, moving, offsets, accepted, window)
        asked = ~accepted & np.isfinite(by_loops)
        score[asked] = _score(by_height + by_loops, lead, by_lead)[asked]
        confirmed = np.nan_to_num(by_loops) > CONFIRMED
        new = asked & (score > 1 - CHANCE) & (alone | confirmed) & precise
        if not new.any():
            break
        accepted |= new
    status = np.full(len(z), REJECTED, dtype=np.uint8)
    status[score < 0.5] = NO_SIGNAL
    status[accepted] = ACCEPTED
    blank = status == NO_SIGNAL
    known = {k: np.where(blank, np.nan, v) for k, v in measured.items() if k != "z"}
    score[blank] = np.nan
    return Pairs(fixed, moving, z=z, score=score, status=status, null_z=null_z, **known)


def _score(evidence: FloatArray, lead: FloatArray, by_lead: NDArray[np.bool_]) -> FloatArray:
    """Probability from log odds, or from the lead where that says more."""
    odds = np.maximum(evidence, lead - LEAD_OFFSET, out=evidence.copy(), where=by_lead)
    probability: FloatArray = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
    return probability


def evidence_of(z: FloatArray, null_z: FloatArray, raised: float = 0.0) -> FloatArray:
    """Log odds that a peak of height ``z`` is right.

    Two laws share the pairs: that of chance, and one for right peaks, which are of any size between
    faint and perfect (uniform in the logarithm). What share each has is estimated from the pairs
    themselves (expectation-maximisation, Dempster et al. 1977), so a slide of pure noise believes
    nothing and a well textured one believes faint peaks too.
    ``raised`` is for `fit_gumbel`.
    """
    location, scale = fit_gumbel(null_z, raised)
    # Chance hardly ever stays far below its usual height, but a low peak is no evidence for that.
    # Odds are lowest where both laws fall alike, just above the location.
    z = np.maximum(z, location - scale * np.log1p(-min(scale / location, 0.5)))
    depth = (z - location) / scale
    by_chance = -depth - np.exp(np.minimum(-depth, 500)) - np.log(scale)
    low, high = RIGHT_HEIGHTS
    height = np.clip(z, low, high)
    by_match = -np.log(height) - np.log(np.log(high / low))
    odds = by_match - by_chance
    right = 0.5
    for _ in range(100):
        share = 1 / (1 + (1 - right) / right * np.exp(-np.clip(odds, -500, 500)))
        right = (float(share.sum()) + 1) / (len(z) + 2)
    weighted: FloatArray = odds + np.log(right / (1 - right))
    return weighted


def _stage_evidence(
    offsets: FloatArray, told: FloatArray, sure: NDArray[np.bool_], window: float
) -> FloatArray:
    """Log odds gained or lost by how far each offset is from where the stage, corrected, has it.

    Right offsets scatter as those of the sure pairs do; chance peaks lie anywhere in the window.
    Nothing is said where too few pairs are sure.
    """
    if np.count_nonzero(sure) < SURE_ENOUGH:
        return np.zeros(len(offsets))
    matrix = stage_matrix(told[sure], offsets[sure])
    away = offsets - told @ matrix.T
    spread = np.maximum(1.4826 * median(np.abs(away[sure])), 1.0)
    normal = np.exp(-0.5 * ((away / spread) ** 2).sum(axis=1)) / (2 * np.pi * spread.prod())
    # One right offset in ten is granted to lie anywhere: stages slip.
    gained: FloatArray = np.log(0.9 * normal * (2 * window + 1) ** 2 + 0.1)
    return np.nan_to_num(gained)


def chance_of(z: FloatArray, null_z: FloatArray) -> FloatArray:
    """Probability that unrelated strips reach a peak of height ``z``."""
    location, scale = fit_gumbel(null_z)
    return -np.expm1(-np.exp(-(z - location) / scale))


def fit_gumbel(null_z: FloatArray, raised: float = 0.0) -> tuple[float, float]:
    """Location and scale of the null's law, by L-moments, with the prior mixed in.

    Args:
        null_z: heights found for strips that cannot overlap.
        raised: by how much the prior's location is higher: more was tried.
    """
    ranks = (np.arange(PRIOR_COUNT) + 0.5) / PRIOR_COUNT
    prior = PRIOR_LOCATION + raised - PRIOR_SCALE * np.log(-np.log(ranks))
    return gumbel_of(np.concatenate([null_z[np.isfinite(null_z)], prior]))


def gumbel_of(values: FloatArray) -> tuple[float, float]:
    """Location and scale of a Gumbel law, from two or more values of it, by L-moments."""
    values = np.sort(values)
    n = len(values)
    first = values.mean()
    second = 2 * float(np.dot(np.arange(n), values)) / (n * (n - 1)) - first
    scale = second / np.log(2)
    return float(first - np.euler_gamma * scale), float(scale)
