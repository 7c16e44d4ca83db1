"""`Pairs`: what registration found for each pair of neighbours, and how far to trust it.

Trust is measured against chance. Pairs of strips that cannot overlap show how high a correlation
peak rises by accident in this very data: their heights follow a Gumbel law (the maximum of many
values; Gumbel 1958, Statistics of Extremes, chapter 5), fitted here by L-moments (Hosking 1990,
section 3). Where the mosaic is too small to give many such pairs, thirty values typical of many
data sets are mixed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mosaicreg.geometry import FloatArray, IntArray
from mosaicreg.tables import columns_html

NO_SIGNAL, REJECTED, ACCEPTED = 0, 1, 2
STATUS_NAMES = np.array(["no signal", "rejected", "accepted"])

CHANCE = 1e-3
"""A peak that chance reaches more often than this is not accepted."""
FAINT = 0.2
"""A peak that chance reaches more often than this is no signal at all."""
LEAD = 1.25
"""An accepted peak is this many times higher than the next: a lattice has many alike."""
MAX_SIGMA = 0.5
"""px; an offset known worse than this is not accepted."""
PRIOR_LOCATION, PRIOR_SCALE, PRIOR_COUNT = 3.3, 0.40, 30
"""Gumbel law of the peak heights of unrelated strips, as seen over light and electron microscopy
and simulations (eight data sets, 890 pairs), and how many values it counts for."""


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
        ratio: (m,) that height over the next peak's.
        score: (m,) probability, 0 to 1, that chance alone would not reach this height.
        status: (m,) ``NO_SIGNAL``, ``REJECTED`` or ``ACCEPTED``.
        null_z: (k,) heights found for strips that cannot overlap.
    """

    fixed: IntArray
    moving: IntArray
    dy: FloatArray
    dx: FloatArray
    sigma: FloatArray
    correlation: FloatArray
    z: FloatArray
    ratio: FloatArray
    score: FloatArray
    status: NDArray[np.uint8]
    null_z: FloatArray

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
        names = ("fixed", "moving", "dy", "dx", "sigma", "correlation", "z", "ratio", "score")
        table: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in names}
        return {**table, "status": STATUS_NAMES[self.status]}

    @classmethod
    def from_columns(cls, table: dict[str, Any], null_z: ArrayLike = ()) -> Pairs:
        """The reverse of `columns`."""
        code = {name: k for k, name in enumerate(STATUS_NAMES.tolist())}
        numbers = {
            name: np.array([np.nan if v is None else v for v in table[name]], dtype=np.float64)
            for name in ("dy", "dx", "sigma", "correlation", "z", "ratio", "score")
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
        return columns_html(repr(self), self.columns())


def judge(
    fixed: IntArray,
    moving: IntArray,
    measured: dict[str, FloatArray],
    null_z: FloatArray,
) -> Pairs:
    """Decide which measured pairs to trust.

    Args:
        fixed, moving: (m,) tile numbers.
        measured: (m,) columns dy, dx, sigma, correlation, z, ratio; NaN where nothing was found.
        null_z: heights found for strips that cannot overlap.
    """
    z = measured["z"]
    found = np.isfinite(z)
    score = np.full(len(z), np.nan)
    score[found] = 1 - chance_of(z[found], null_z)
    status = np.full(len(z), REJECTED, dtype=np.uint8)
    status[~(score > 1 - FAINT)] = NO_SIGNAL
    status[
        (score > 1 - CHANCE) & (measured["ratio"] >= LEAD) & (measured["sigma"] <= MAX_SIGMA)
    ] = ACCEPTED
    blank = status == NO_SIGNAL
    known = {k: np.where(blank, np.nan, v) for k, v in measured.items() if k != "z"}
    score[blank] = np.nan
    return Pairs(fixed, moving, z=z, score=score, status=status, null_z=null_z, **known)


def chance_of(z: FloatArray, null_z: FloatArray) -> FloatArray:
    """Probability that unrelated strips reach a peak of height ``z``."""
    location, scale = fit_gumbel(null_z)
    return -np.expm1(-np.exp(-(z - location) / scale))


def fit_gumbel(null_z: FloatArray) -> tuple[float, float]:
    """Location and scale of the null's law, by L-moments, with the prior mixed in."""
    ranks = (np.arange(PRIOR_COUNT) + 0.5) / PRIOR_COUNT
    prior = PRIOR_LOCATION - PRIOR_SCALE * np.log(-np.log(ranks))
    values = np.sort(np.concatenate([null_z[np.isfinite(null_z)], prior]))
    n = len(values)
    first = values.mean()
    second = 2 * float(np.dot(np.arange(n), values)) / (n * (n - 1)) - first
    scale = second / np.log(2)
    return float(first - np.euler_gamma * scale), float(scale)
