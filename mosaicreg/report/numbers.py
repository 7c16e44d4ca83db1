"""The numbers of a report: how far to trust a mosaic, as plain values that JSON knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.drawing import RESIDUAL_STEPS
from mosaicreg.geometry import FloatArray
from mosaicreg.layout import CONFLICT, MEASURED, Layout
from mosaicreg.layout import STAGE as BY_STAGE
from mosaicreg.pairs import ACCEPTED, NO_SIGNAL
from mosaicreg.reopening import Archive

MAX_DOUBTFUL = 0.25
"""Where provenance does not say which share of tiles may be doubtful."""
LINKS = ("used", "disagrees", "rejected", "no signal")
"""What became of a pair: in the layout; accepted but against it; not believed; nothing found."""
RESIDUAL_EDGES = (0.0, 0.05, *RESIDUAL_STEPS, 2.0, 5.0)
CHANCE_DECADES = 10
NAMED = 100
"""At most so many tiles are named in a list."""


@dataclass(frozen=True)
class Judgement:
    """How far to trust a mosaic, in one word and one sentence."""

    word: str
    sentence: str


def judgement(layout: Layout, max_doubtful: float = MAX_DOUBTFUL) -> Judgement:
    """``good``, ``look`` (some tiles are not certain), ``doubtful`` or ``unmeasured``."""
    n, counts = len(layout), layout.counts
    if layout.pairs is None and n > 1:
        return Judgement("unmeasured", "Nothing was measured: all tiles lie where they were put.")
    if layout.doubtful > max_doubtful:
        return Judgement(
            "doubtful",
            f"{layout.doubtful:.0%} of the {n} tiles could not be measured against the largest "
            "part: they lie where the stage puts them. Look before you use this mosaic.",
        )
    problems = []
    if counts["stage"] and n > 1:
        problems.append(f"{_tiles(counts['stage'])} placed by the stage")
    if counts["conflict"]:
        problems.append(f"{_tiles(counts['conflict'])} in conflict")
    apart = int(((layout.parts > 0) & (layout.verdict_codes == MEASURED)).sum())
    if apart:
        problems.append(f"{_tiles(apart)} measured, but not linked to the largest part")
    if problems:
        return Judgement("look", f"Of {n} tiles: {', '.join(problems)}. All others are measured.")
    return Judgement("good", "Every tile was measured." if n > 1 else "A single tile.")


def _tiles(count: int) -> str:
    return f"{count} tile{'s' if count != 1 else ''}"


def link_kinds(layout: Layout) -> NDArray[np.str_]:
    """(m,) one of `LINKS` per pair."""
    pairs = layout.pairs
    if pairs is None:
        return np.empty(0, dtype="U9")
    used = pairs.accepted if layout.used is None else layout.used
    return np.select(
        [used, pairs.status == ACCEPTED, pairs.status == NO_SIGNAL],
        [LINKS[0], LINKS[1], LINKS[3]],
        LINKS[2],
    )


def stage_moves(layout: Layout) -> FloatArray | None:
    """(n, 2) px, from where the stage put each tile to where it lies; None where not known."""
    return None if layout.stage is None else layout.positions - layout.stage


def report_numbers(archive: Archive) -> dict[str, Any]:
    """All numbers of a report but those that need the tiles' pixels."""
    layout, mosaic = archive.layout, archive.mosaic
    options = archive.facts.get("options") or {}
    verdict = judgement(layout, float(options.get("max_doubtful") or MAX_DOUBTFUL))
    finest = archive.levels[0]
    moves = stage_moves(layout)
    return {
        "archive": archive.store.name,
        "verdict": verdict.word,
        "sentence": verdict.sentence,
        "image": {
            "shape": list(finest.shape),
            "axes": mosaic.axes,
            "dtype": str(finest.dtype),
            "levels": len(archive.levels),
            "pixel_size_um": list(mosaic.pixel_size) if mosaic.pixel_size else None,
            "channels": list(mosaic.channels),
        },
        "tiles": {
            "count": len(layout),
            **layout.counts,
            "parts": int(layout.parts.max()) + 1,
            "doubtful_share": round(layout.doubtful, 6),
            "by_stage": _names(layout, BY_STAGE),
            "in_conflict": _names(layout, CONFLICT),
        },
        "residual_px": {"rms": _plain(layout.rms), **_spread(layout.residuals)},
        "residual_histogram": residual_histogram(layout),
        "sigma_px": _spread(layout.sigmas),
        "stage_error_px": None if moves is None else _spread(np.linalg.norm(moves, axis=1)),
        "pairs": _pair_numbers(layout),
        "worker_memory_bytes": archive.facts.get("worker_memory"),
        "seconds": archive.facts.get("seconds"),
        "predicted_seconds": archive.facts.get("predicted_seconds"),
    }


def _pair_numbers(layout: Layout) -> dict[str, Any] | None:
    pairs = layout.pairs
    if pairs is None:
        return None
    kinds = link_kinds(layout)
    used = kinds == "used"
    return {
        "count": len(pairs),
        **{kind.replace(" ", "_"): int((kinds == kind).sum()) for kind in LINKS},
        "seam_correlation": _spread(pairs.correlation[used]),
        "seam_correlation_histogram": correlation_histogram(layout),
        "chance_histogram": chance_histogram(layout),
    }


def residual_histogram(layout: Layout) -> dict[str, list[Any]]:
    """How many tiles have which residual: lower edges in px, and the counts from each edge on."""
    known = layout.residuals[np.isfinite(layout.residuals)]
    counts, _ = np.histogram(known, (*RESIDUAL_EDGES, np.inf))
    return {"from_px": list(RESIDUAL_EDGES), "tiles": counts.tolist()}


def correlation_histogram(layout: Layout) -> dict[str, list[Any]]:
    """How well accepted pairs correlate over their overlap: lower edges and counts by kind."""
    assert layout.pairs is not None
    kinds = link_kinds(layout)
    edges = np.round(np.linspace(0, 1, 21), 2)
    found: dict[str, list[Any]] = {"from": edges[:-1].tolist()}
    for kind in LINKS[:2]:
        values = np.clip(layout.pairs.correlation[kinds == kind], 0, 1)
        found[kind] = np.histogram(values, edges)[0].tolist()
    return found


def chance_histogram(layout: Layout) -> dict[str, list[Any]]:
    """Scores as powers of ten: column k counts pairs that are wrong with 10^-(k+1) to 10^-k.

    The last column holds all that are surer. Pairs without signal have no score.
    """
    assert layout.pairs is not None
    kinds = link_kinds(layout)
    wrong = np.clip(1 - layout.pairs.score, 10.0**-CHANCE_DECADES, 1)
    decade = np.minimum(-np.log10(wrong), CHANCE_DECADES - 1)
    found: dict[str, list[Any]] = {"decade": list(range(CHANCE_DECADES))}
    for kind in LINKS[:3]:
        values = decade[(kinds == kind) & np.isfinite(decade)].astype(np.int64)
        found[kind] = np.bincount(values, minlength=CHANCE_DECADES).tolist()
    return found


def _names(layout: Layout, code: int) -> list[str]:
    """Names of the first tiles with a verdict."""
    return [str(layout.names[k]) for k in np.flatnonzero(layout.verdict_codes == code)[:NAMED]]


def _spread(values: NDArray[Any]) -> dict[str, float | None]:
    """Least, median, 95th percentile and largest of what is known."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return dict.fromkeys(("min", "median", "p95", "max"))
    low, median, p95, high = np.percentile(known, (0, 50, 95, 100)).tolist()
    return {"min": _plain(low), "median": _plain(median), "p95": _plain(p95), "max": _plain(high)}


def _plain(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
