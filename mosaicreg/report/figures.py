"""The figures of a report, as SVG: one function each, from an archive or its layout."""

from __future__ import annotations

import re
from os.path import commonprefix

import numpy as np

from mosaicreg.drawing import (
    CONFLICT_COLOUR,
    LINK_COLOURS,
    MANY,
    RESIDUAL_COLOURS,
    RESIDUAL_STEPS,
    STAGE_COLOUR,
    Cells,
    Frame,
    arrow_gain,
    arrow_marks,
    bars,
    cell_marks,
    link_marks,
    name_marks,
    picture,
    scale_bar,
    tile_colours,
    tile_marks,
)
from mosaicreg.geometry import FloatArray
from mosaicreg.layout import CONFLICT, STAGE, Layout, misfits
from mosaicreg.report.numbers import (
    LINKS,
    chance_histogram,
    correlation_histogram,
    link_kinds,
    residual_histogram,
    stage_moves,
)

DIM = 0.6
"""How strong the mosaic shows behind marks."""
NAMES = 400
"""Up to so many tiles have their names written into them."""


def overview_figure(frame: Frame, address: str, pixel: float | None) -> str:
    """The mosaic itself, with a scale bar. Other figures show it again by its id."""
    image = picture(frame, address).replace("<image", '<image id="overview"')
    return frame.svg(image, scale_bar(frame, pixel))


def tiles_figure(frame: Frame, layout: Layout) -> str:
    """Tiles where they lie, coloured by verdict and residual."""
    if len(layout) <= MANY:
        boxes = layout.boxes
        colours = tile_colours(layout.verdicts.tolist(), layout.residuals)
        parts = [tile_marks(frame, boxes, colours, _tile_titles(layout))]
        if len(layout) <= NAMES:
            room = float(np.median(layout.shapes[:, 1]))
            names = _told_apart([str(n) for n in layout.names])
            parts.append(name_marks(frame, _centres(layout), names, 0.85 * room))
        return frame.svg(_again(), *parts)
    cells = Cells.of(frame, _centres(layout))
    residual = cells.mean(layout.residuals)
    colours = tile_colours(["measured"] * len(residual), residual)
    # A cell without any residual holds nothing but tiles placed by the stage.
    colours = [STAGE_COLOUR if np.isnan(r) else c for c, r in zip(colours, residual, strict=True)]
    shares = {
        STAGE_COLOUR: cells.mean(layout.verdict_codes == STAGE),
        CONFLICT_COLOUR: cells.mean(layout.verdict_codes == CONFLICT),
    }
    titles = [
        f"{n} tiles, mean residual {r:.2f} px, {s:.0%} by stage, {c:.0%} in conflict"
        for n, r, s, c in zip(cells.counts, residual, *shares.values(), strict=True)
    ]
    return frame.svg(_again(), cell_marks(frame, cells, colours, shares, titles))


def arrows_figure(frame: Frame, layout: Layout) -> tuple[str, float] | None:
    """Arrows from the stage's to the measured places, and how many times too long they are drawn.

    None where the stage's word is not known.
    """
    moves = stage_moves(layout)
    if moves is None:
        return None
    starts, room = _centres(layout) - moves, float(np.median(layout.shapes))
    if len(layout) > MANY:
        cells = Cells.of(frame, _centres(layout))
        starts, room, moves = cells.corners + cells.side / 2, cells.side, cells.mean(moves)
        outlines = ""
    else:
        boxes = layout.boxes
        grey = [STAGE_COLOUR] * len(layout)
        outlines = tile_marks(frame, boxes, grey, _tile_titles(layout), fill=0.0)
    gain = arrow_gain(moves, room)
    return frame.svg(_again(), outlines, arrow_marks(frame, starts, moves, gain)), gain


def pairs_figure(frame: Frame, layout: Layout) -> str | None:
    """Pairs as lines between the centres of their tiles; None where nothing was measured."""
    pairs = layout.pairs
    if pairs is None:
        return None
    kinds, centres = link_kinds(layout), _centres(layout)
    starts, ends = centres[pairs.fixed], centres[pairs.moving]
    if len(layout) <= MANY:
        lines = link_marks(frame, starts, ends, kinds.tolist(), pairs.score, _pair_titles(layout))
        return frame.svg(_again(), lines)
    cells = Cells.of(frame, (starts + ends) / 2)
    shares = {LINK_COLOURS[kind]: cells.mean(kinds == kind) for kind in LINKS[::-1][:3]}
    titles = [
        f"{n} pairs: {a:.0%} without signal, {b:.0%} rejected, {c:.0%} disagree"
        for n, a, b, c in zip(cells.counts, *shares.values(), strict=True)
    ]
    good = [LINK_COLOURS["used"]] * len(cells.counts)
    return frame.svg(_again(), cell_marks(frame, cells, good, shares, titles))


def residual_bars(layout: Layout) -> str:
    """Tiles by residual."""
    found = residual_histogram(layout)
    edges = found["from_px"]
    labels = [f"{edge:g}" for edge in edges]
    steps = np.searchsorted(RESIDUAL_STEPS, np.array(edges), side="right")
    stacks = []
    for k, count in enumerate(found["tiles"]):
        own = [0] * len(labels)
        own[k] = count
        stacks.append(("tiles", RESIDUAL_COLOURS[int(steps[k])], own))
    return bars(labels, stacks, "residual of a tile, px (from)")


def chance_bars(layout: Layout) -> str:
    """Pairs by how likely they are wrong."""
    found = chance_histogram(layout)
    last = len(found["decade"]) - 1
    labels = ["1", *(f"10{_raised(-k)}" for k in range(1, last)), "less"]
    stacks = [(kind, LINK_COLOURS[kind], found[kind]) for kind in LINKS[:3]]
    return bars(labels, stacks, "probability that an offset is wrong, 1 - score")


def correlation_bars(layout: Layout) -> str:
    """Accepted pairs by how well they correlate over their overlap."""
    found = correlation_histogram(layout)
    labels = [f"{v:.2f}".removesuffix("0") for v in found["from"]]
    stacks = [(kind, LINK_COLOURS[kind], found[kind]) for kind in LINKS[:2]]
    return bars(labels, stacks, "correlation over the overlap (from)", every=4)


def _again() -> str:
    """The overview once more; its bytes are in the page only once."""
    return f'<use href="#overview" opacity="{DIM}"/>'


def _centres(layout: Layout) -> FloatArray:
    centres: FloatArray = layout.positions + layout.shapes / 2
    return centres


def _raised(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _told_apart(names: list[str]) -> list[str]:
    """Names without what all of them begin and end with."""
    if len(names) < 2:
        return names
    start = len(commonprefix(names))  # noqa: RUF071  names, not folders
    end = len(commonprefix([n[::-1] for n in names]))  # noqa: RUF071
    cut = [n[start : len(n) - end] for n in names]
    # Digits belong together: r00_c01 and r00_c02 shall not become 1 and 2.
    head = re.search(r"[a-zA-Z]*\d*$", names[0][:start])
    tail = re.match(r"\d*", names[0][len(names[0]) - end :])
    return [f"{head[0] if head else ''}{c}{tail[0] if tail else ''}" for c in cut]


def _tile_titles(layout: Layout) -> list[str]:
    moves = stage_moves(layout)
    titles = []
    for k in range(len(layout)):
        y, x = layout.positions[k]
        words = [f"{layout.names[k]}: {layout.verdicts[k]}", f"at y {y:.2f}, x {x:.2f} px"]
        if np.isfinite(layout.residuals[k]):
            words.append(f"residual {layout.residuals[k]:.3f} px, sigma {layout.sigmas[k]:.3f} px")
        if moves is not None:
            words.append(f"moved by y {moves[k, 0]:+.2f}, x {moves[k, 1]:+.2f} px")
        if layout.parts[k]:
            words.append(f"part {layout.parts[k]}")
        titles.append("\n".join(words))
    return titles


def _pair_titles(layout: Layout) -> list[str]:
    pairs = layout.pairs
    assert pairs is not None
    off, kinds = misfits(layout), link_kinds(layout)
    titles = []
    for k in range(len(pairs)):
        words = [f"{layout.names[pairs.fixed[k]]} and {layout.names[pairs.moving[k]]}: {kinds[k]}"]
        if np.isfinite(pairs.score[k]):
            words.append(f"score {pairs.score[k]:.6g}, correlation {pairs.correlation[k]:.3f}")
            words.append(f"misfit {off[k]:.3f} px")
        titles.append("\n".join(words))
    return titles
