"""Plots from bare columns with matplotlib, which is loaded when a plot is asked for.

Axes are (y down, x right) in px, as images are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.drawing import CELLS, LINK_COLOURS, MANY, arrow_gain, colour_key, tile_colours
from mosaicreg.errors import missing_extra
from mosaicreg.geometry import FloatArray, IntArray


def axes_for(ax: Any | None) -> Any:
    """The axes given, or those of a new figure.

    Raises:
        MissingExtraError: where matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise missing_extra("matplotlib", "plot", "plotting") from None
    return ax if ax is not None else pyplot.subplots(layout="constrained")[1]


def draw_tiles(
    ax: Any,
    boxes: FloatArray | IntArray,
    colours: Sequence[str],
    key: Mapping[str, str] | None = None,
    moves: FloatArray | None = None,
    gain: float = 1.0,
) -> None:
    """Tiles as rectangles, and arrows of what they were moved by.

    Args:
        ax: matplotlib axes.
        boxes: (n, 4) y0, x0, y1, x1 px.
        colours: one per tile.
        key: what the colours mean, for a legend of those that occur.
        moves: (n, 2) px; arrows end at the tiles' centres.
        gain: how many times as long arrows are drawn.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch

    y0, x0, y1, x1 = boxes.T
    corners = np.stack([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]).transpose(2, 0, 1)
    edge = 1.0 if len(boxes) <= MANY else 0.0
    ax.add_collection(
        PolyCollection(
            list(corners),
            facecolors=list(colours),
            edgecolors=list(colours),
            linewidths=edge,
            alpha=0.45,
        )
    )
    if moves is not None:
        # Arrows beyond a few thousand are ink, not information.
        some = slice(None, None, -(-len(boxes) // (CELLS * CELLS)))
        starts = np.stack([(x0 + x1) / 2, (y0 + y1) / 2], axis=1) - moves[:, ::-1]
        ax.quiver(
            *starts[some].T, moves[some, 1], moves[some, 0],
            angles="xy", scale_units="xy", scale=1 / gain, width=0.004, color="#d08700",
        )  # fmt: skip
    seen = set(colours)
    handles = [Patch(color=c, label=words) for words, c in (key or {}).items() if c in seen]
    if handles:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    ax.set(xlim=(x0.min(), x1.max()), ylim=(y1.max(), y0.min()), aspect="equal")
    ax.set(xlabel="x (px)", ylabel="y (px)")


def draw_layout(
    ax: Any,
    boxes: IntArray,
    verdicts: Sequence[str],
    residuals: FloatArray,
    moves: FloatArray | None,
) -> None:
    """Tiles by verdict and residual, with arrows, lengthened, of what they were moved by."""
    gain = 1.0
    if moves is not None:
        gain = arrow_gain(moves, float(np.median(boxes[:, 2:] - boxes[:, :2])))
        ax.set_title(f"arrows {gain:g} times as long;")
    draw_tiles(ax, boxes, tile_colours(verdicts, residuals), colour_key(), moves, gain)


def draw_counts(
    ax: Any, values: Mapping[str, NDArray[Any]], limits: tuple[float, float], label: str
) -> None:
    """A stacked histogram of values from 0 up, by kind (`LINK_COLOURS`)."""
    kinds = [kind for kind, column in values.items() if len(column)]
    ax.hist(
        [np.clip(values[kind], *limits) for kind in kinds],
        bins=np.linspace(*limits, 41),
        stacked=True,
        color=[LINK_COLOURS[kind] for kind in kinds],
        label=[f"{kind} ({len(values[kind])})" for kind in kinds],
    )
    ax.set(xlabel=label, ylabel="pairs")
    if kinds:
        ax.legend(frameon=False)
