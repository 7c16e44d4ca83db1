"""Drawings as SVG text, from bare columns: tiles, arrows, lines between tiles, bars.

Colours are middle tones that show on light and dark grounds; what is written takes the colour of
the text around it. More than `MANY` tiles are not drawn one by one but gathered into cells, so a
drawing stays light for any number of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import FloatArray, IntArray

SIDE = 1000.0
"""Drawing units along the longer side of a mosaic."""
MANY = 2000
"""Up to so many tiles are drawn one by one."""
CELLS = 48
"""Cells along the longer side where there are more."""
MAP_STYLE = "width:20em;max-width:100%;height:auto"
"""Of small maps in notebooks."""
RESIDUAL_STEPS = (0.1, 0.25, 0.5, 1.0)
"""px, where one colour for residuals ends and the next begins."""
RESIDUAL_COLOURS = ("#3f6fd9", "#2f9fc4", "#35b58a", "#9cc23a", "#f0b429")
STAGE_COLOUR, CONFLICT_COLOUR, PLAIN_COLOUR = "#9b93a8", "#e5383b", "#7f93a8"
LINK_COLOURS = {
    "used": "#35a979",
    "disagrees": "#e5383b",
    "rejected": "#f08c2e",
    "no signal": "#9b93a8",
}
"""Of pairs: accepted and in the layout, accepted but against it, not believed, nothing found."""
SURE_COLOURS = {3: "#b5d957", 6: "#62c16b", 9: "#1f9e89"}
"""Of used pairs that are wrong with at most 10 to the minus this."""


def tile_colours(verdicts: Sequence[str], residuals: FloatArray) -> list[str]:
    """One colour per tile: by residual where it was measured, else by its verdict."""
    steps = np.searchsorted(RESIDUAL_STEPS, np.nan_to_num(residuals), side="right")
    fixed = {"stage": STAGE_COLOUR, "conflict": CONFLICT_COLOUR}
    return [fixed.get(str(v)) or RESIDUAL_COLOURS[k] for v, k in zip(verdicts, steps, strict=True)]


def colour_key() -> dict[str, str]:
    """What the colours of `tile_colours` mean."""
    low = (0.0, *RESIDUAL_STEPS)
    words = [f"{a:g} to {b:g} px" for a, b in zip(low, RESIDUAL_STEPS, strict=False)]
    words = [*words, f"over {RESIDUAL_STEPS[-1]:g} px"]
    return {
        **dict(zip(words, RESIDUAL_COLOURS, strict=True)),
        "by stage": STAGE_COLOUR,
        "conflict": CONFLICT_COLOUR,
    }


@dataclass(frozen=True)
class Frame:
    """The part of a plane that is drawn, in px; the longer side becomes `SIDE` drawing units."""

    y: float
    x: float
    height: float
    width: float

    @classmethod
    def around(cls, boxes: FloatArray | IntArray) -> Frame:
        """The frame of (n, 4) boxes y0, x0, y1, x1."""
        (y, x), (y1, x1) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        return cls(float(y), float(x), float(y1 - y), float(x1 - x))

    @property
    def scale(self) -> float:
        """Drawing units per px."""
        return SIDE / max(self.height, self.width, 1e-9)

    def points(self, places: FloatArray) -> FloatArray:
        """(n, 2) places (y, x) px as (n, 2) drawing units, still (y, x)."""
        found: FloatArray = (places - (self.y, self.x)) * self.scale
        return found

    def svg(self, *parts: str, style: str = "width:100%;height:auto") -> str:
        """The drawing, a little larger than the frame so that lines on its rim are whole."""
        h, w = self.height * self.scale, self.width * self.scale
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 {_n(w + 8)} {_n(h + 8)}" '
            f'style="{style}" font-family="inherit">{"".join(parts)}</svg>'
        )


def picture(frame: Frame, address: str, dim: float = 1.0) -> str:
    """An image, e.g. a data: address, that fills the frame."""
    return (
        f'<image href="{escape(address)}" width="{_n(frame.width * frame.scale)}" '
        f'height="{_n(frame.height * frame.scale)}" preserveAspectRatio="none" opacity="{dim:g}"/>'
    )


def tile_marks(
    frame: Frame,
    boxes: FloatArray | IntArray,
    colours: Sequence[str],
    titles: Sequence[str],
    fill: float = 0.35,
) -> str:
    """A rectangle per tile, with a title that shows when pointed at.

    Args:
        frame: what is drawn.
        boxes: (n, 4) y0, x0, y1, x1 px.
        colours, titles: one per tile.
        fill: opacity of the inside.
    """
    edges = boxes.astype(np.float64)
    corners = np.hstack([frame.points(edges[:, :2]), frame.points(edges[:, 2:])])
    marks = [
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(x1 - x)}" height="{_n(y1 - y)}" '
        f'fill="{c}" stroke="{c}"><title>{escape(t)}</title></rect>'
        for (y, x, y1, x1), c, t in zip(corners.tolist(), colours, titles, strict=True)
    ]
    return f'<g stroke-width="2" fill-opacity="{fill:g}">{"".join(marks)}</g>'


def name_marks(frame: Frame, centres: FloatArray, names: Sequence[str], room: float) -> str:
    """Names at (n, 2) centres, written so small that the longest fits into ``room`` px."""
    longest = max((len(n) for n in names), default=1)
    size = min(22.0, max(4.0, 1.5 * room * frame.scale / longest))
    texts = [
        f'<text x="{_n(x)}" y="{_n(y)}">{escape(n)}</text>'
        for (y, x), n in zip(frame.points(centres).tolist(), names, strict=True)
    ]
    return (
        f'<g font-size="{_n(size)}" text-anchor="middle" fill="#fff" stroke="#000" '
        f'stroke-width="{_n(size / 6)}" paint-order="stroke">{"".join(texts)}</g>'
    )


def arrow_marks(frame: Frame, starts: FloatArray, moves: FloatArray, gain: float) -> str:
    """Arrows from (n, 2) places along (n, 2) moves, both px, drawn ``gain`` times as long."""
    a = frame.points(starts)
    b = a + moves * gain * frame.scale
    along = b - a
    length = np.linalg.norm(along, axis=1, keepdims=True)
    head = np.clip(length * 0.3, 3, 9) * along / np.maximum(length, 1e-9)
    side = head[:, ::-1] * (-0.5, 0.5)
    marks = [
        f"M{_n(x0)} {_n(y0)}L{_n(x1)} {_n(y1)}"
        f"M{_n(x1 - hx + sx)} {_n(y1 - hy + sy)}L{_n(x1)} {_n(y1)}"
        f"L{_n(x1 - hx - sx)} {_n(y1 - hy - sy)}"
        for (y0, x0), (y1, x1), (hy, hx), (sy, sx) in zip(
            a.tolist(), b.tolist(), head.tolist(), side.tolist(), strict=True
        )
    ]
    path = "".join(marks)
    return (
        f'<path d="{path}" fill="none" stroke="#000" stroke-opacity="0.55" stroke-width="5"/>'
        f'<path d="{path}" fill="none" stroke="#ffd23f" stroke-width="2.2"/>'
    )


def arrow_gain(moves: FloatArray, room: float) -> float:
    """A round number by which moves are lengthened so that large ones fill half of ``room`` px."""
    lengths = np.linalg.norm(moves, axis=1)
    large = float(np.percentile(lengths, 90)) if len(lengths) else 0.0
    wanted = 0.45 * room / max(large, 1e-3)
    steps = [m * 10.0**k for k in range(5) for m in (1, 2, 5)]
    return max([s for s in steps if s <= wanted], default=1.0)


def link_marks(
    frame: Frame,
    starts: FloatArray,
    ends: FloatArray,
    kinds: Sequence[str],
    scores: FloatArray,
    titles: Sequence[str],
) -> str:
    """A line per pair of tiles, coloured by its kind and score, a cross on those not used.

    Args:
        frame: what is drawn.
        starts, ends: (m, 2) centres of the tiles, px.
        kinds: one of `LINK_COLOURS` per pair.
        scores: (m,) probability that a pair is right.
        titles: one per pair.
    """
    a, b = frame.points(starts).tolist(), frame.points(ends).tolist()
    marks = []
    for (y0, x0), (y1, x1), kind, score, title in zip(
        a, b, kinds, scores.tolist(), titles, strict=True
    ):
        colour = LINK_COLOURS[kind]
        if kind == "used":
            sure = [c for k, c in SURE_COLOURS.items() if 1 - score <= 10.0**-k]
            colour = sure[-1] if sure else SURE_COLOURS[3]
        dash = "" if kind == "used" else ' stroke-dasharray="7 5"'
        cross = ""
        if kind in ("disagrees", "rejected"):
            y, x = (y0 + y1) / 2, (x0 + x1) / 2
            cross = (
                f"M{_n(x - 6)} {_n(y - 6)}L{_n(x + 6)} {_n(y + 6)}"
                f"M{_n(x - 6)} {_n(y + 6)}L{_n(x + 6)} {_n(y - 6)}"
            )
        line = f"M{_n(x0)} {_n(y0)}L{_n(x1)} {_n(y1)}"
        marks.append(
            f'<g stroke="{colour}"><title>{escape(title)}</title>'
            f'<path d="{line}"{dash}/>' + (f'<path d="{cross}"/>' if cross else "") + "</g>"
        )
    return f'<g fill="none" stroke-width="4" stroke-linecap="round">{"".join(marks)}</g>'


# --- many tiles ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cells:
    """A coarse grid over a frame, and which things lie in which cell.

    Args:
        side: of a cell, px.
        members: (n,) number of the cell of each thing.
        corners: (c, 2) first point (y, x) px of each cell that holds something.
        counts: (c,) how many things each holds.
    """

    side: float
    members: IntArray
    corners: FloatArray
    counts: IntArray

    @classmethod
    def of(cls, frame: Frame, centres: FloatArray) -> Cells:
        """The cells that hold (n, 2) centres, px."""
        side = max(frame.height, frame.width) / CELLS
        at = np.floor((centres - (frame.y, frame.x)) / side).astype(np.int64)
        found, members, counts = np.unique(at, axis=0, return_inverse=True, return_counts=True)
        corners = np.asarray(found * side + (frame.y, frame.x), dtype=np.float64)
        return cls(side, members.ravel(), corners, counts)

    def mean(self, values: NDArray[Any]) -> FloatArray:
        """(c,) or (c, k) means of one value, or k, per thing; those that are NaN are left out."""
        values = np.asarray(values, dtype=np.float64)
        known = np.isfinite(values)
        shape = (len(self.counts), *values.shape[1:])
        total, count = np.zeros(shape), np.zeros(shape)
        np.add.at(total, self.members, np.where(known, values, 0))
        np.add.at(count, self.members, known)
        with np.errstate(invalid="ignore"):  # 0 / 0: nothing is known of this cell
            found: FloatArray = total / count
        return found


def cell_marks(
    frame: Frame,
    cells: Cells,
    colours: Sequence[str],
    shares: Mapping[str, FloatArray],
    titles: Sequence[str],
    fill: float = 0.45,
) -> str:
    """A square per cell, and in it smaller ones whose areas are shares of its things.

    Args:
        frame: what is drawn.
        cells: the grid.
        colours, titles: one per cell.
        shares: (c,) from 0 to 1 by the colour to draw them in.
        fill: opacity of the squares.
    """
    side = cells.side * frame.scale
    corners = frame.points(cells.corners).tolist()
    marks = [
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(side)}" height="{_n(side)}" fill="{c}">'
        f"<title>{escape(t)}</title></rect>"
        for (y, x), c, t in zip(corners, colours, titles, strict=True)
    ]
    inner = []
    for colour, share in shares.items():
        for (y, x), s in zip(corners, share.tolist(), strict=True):
            if s > 0:
                # What is there must be seen: never smaller than a third of the side.
                length = side * max(s**0.5, 0.33)
                gap = (side - length) / 2
                inner.append(
                    f'<rect x="{_n(x + gap)}" y="{_n(y + gap)}" width="{_n(length)}" '
                    f'height="{_n(length)}" fill="{colour}"/>'
                )
    return (
        f'<g fill-opacity="{fill:g}" stroke="none">{"".join(marks)}</g>'
        f'<g fill-opacity="0.9" pointer-events="none">{"".join(inner)}</g>'
    )


# --- small things --------------------------------------------------------------------------------


def scale_bar(frame: Frame, pixel: float | None) -> str:
    """A bar of a round length in the lower left corner: micrometre, or px where not known."""
    unit = "px" if pixel is None else "µm"
    long = 0.3 * frame.width * (pixel or 1.0)
    step = 10.0 ** np.floor(np.log10(max(long, 1e-9)))
    length = max(m * step for m in (1, 2, 5) if m * step <= long)
    if unit == "µm" and length >= 1000:
        words = f"{length / 1000:g} mm"
    else:
        words = f"{length:g} {unit}"
    end = length / (pixel or 1.0) * frame.scale
    y = frame.height * frame.scale - 22
    return (
        f'<g stroke="#000" stroke-width="3" paint-order="stroke" fill="#fff">'
        f'<rect x="20" y="{_n(y)}" width="{_n(end)}" height="7" stroke-width="2"/>'
        f'<text x="20" y="{_n(y - 9)}" font-size="26">{words}</text></g>'
    )


def bars(
    labels: Sequence[str],
    stacks: Sequence[tuple[str, str, Sequence[int]]],
    axis: str,
    every: int = 1,
) -> str:
    """A histogram of stacked bars.

    Args:
        labels: what stands below each bar.
        stacks: (name, colour, count per bar) from below to above.
        axis: what the labels are.
        every: only each such label is written.
    """
    height, width, base = 165.0, 365.0, 180.0
    step = width / max(1, len(labels))
    top = max(1, int(np.sum([counts for _, _, counts in stacks], axis=0).max(initial=0)))
    marks = []
    for k, label in enumerate(labels):
        y = base
        for name, colour, counts in stacks:
            if not counts[k]:
                continue
            tall = max(1.5, height * counts[k] / top)
            y -= tall
            marks.append(
                f'<rect x="{_n(40 + k * step + 1)}" y="{_n(y)}" width="{_n(step - 2)}" '
                f'height="{_n(tall)}" fill="{colour}"><title>{escape(label)}: '
                f"{counts[k]} {escape(name)}</title></rect>"
            )
        if k % every == 0:
            marks.append(f'<text x="{_n(40 + (k + 0.5) * step)}" y="200">{escape(label)}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 410 235" '
        'style="width:100%;height:auto" font-family="inherit">'
        f'<g font-size="13" fill="currentColor" text-anchor="middle">{"".join(marks)}'
        f'<path d="M40 {_n(base)}h{_n(width)}" stroke="currentColor"/>'
        f'<text x="34" y="20" text-anchor="end">{top}</text>'
        f'<text x="34" y="{_n(base)}" text-anchor="end">0</text>'
        f'<text x="222" y="226" font-size="14">{escape(axis)}</text></g></svg>'
    )


def link_key() -> dict[str, str]:
    """What the colours of `link_marks` mean."""
    used = {f"used, wrong by 10^-{k} at most": c for k, c in SURE_COLOURS.items()}
    others = {
        "accepted, but against the layout": LINK_COLOURS["disagrees"],
        "rejected": LINK_COLOURS["rejected"],
        "no signal": LINK_COLOURS["no signal"],
    }
    return {**used, **others}


def legend(key: Mapping[str, str]) -> str:
    """Small coloured squares with their meaning, as HTML."""
    items = "".join(
        f'<span style="white-space:nowrap;margin-right:1em"><span style="display:inline-block;'
        f"width:.8em;height:.8em;border-radius:2px;margin-right:.35em;background:{colour};"
        f'print-color-adjust:exact"></span>{escape(words)}</span>'
        for words, colour in key.items()
    )
    return f'<div style="font-size:.85em;line-height:1.7">{items}</div>'


def tile_map(
    boxes: FloatArray | IntArray,
    colours: Sequence[str],
    title: Callable[[int], str],
    style: str,
) -> str:
    """A small map of tiles for notebooks; of many tiles, where they lie and how many."""
    frame = Frame.around(boxes)
    if len(boxes) <= MANY:
        titles = [title(k) for k in range(len(boxes))]
        return frame.svg(tile_marks(frame, boxes, colours, titles), style=style)
    cells = Cells.of(frame, (boxes[:, :2] + boxes[:, 2:]) / 2)
    # A cell shows the colour that most of its tiles have.
    kinds, codes = np.unique(np.array(colours), return_inverse=True)
    votes = np.zeros((len(cells.counts), len(kinds)), dtype=np.int64)
    np.add.at(votes, (cells.members, codes), 1)
    chosen = [str(kinds[k]) for k in votes.argmax(axis=1)]
    titles = [f"{count} tiles" for count in cells.counts]
    return frame.svg(cell_marks(frame, cells, chosen, {}, titles), style=style)


def _n(value: float) -> str:
    """A number as short as it can be at a tenth of a drawing unit."""
    return f"{value:.1f}".removesuffix(".0")
