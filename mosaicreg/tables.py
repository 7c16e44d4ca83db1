"""HTML tables for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.drawing import MAP_STYLE, colour_key, legend, tile_colours, tile_map
from mosaicreg.geometry import IntArray

ROWS_SHOWN = 10


def beside(*parts: str) -> str:
    """Pieces of HTML next to each other, where there is room."""
    cells = "".join(f"<div>{part}</div>" for part in parts)
    return (
        f"<div style='display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start'>{cells}</div>"
    )


def table_html(title: str, facts: Mapping[str, Any]) -> str:
    """A titled two-column table."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>"
        for k, v in facts.items()
    )
    return f"<div><b>{escape(title)}</b><table>{rows}</table></div>"


def tiles_html(title: str, boxes: IntArray, columns: Mapping[str, NDArray[Any]]) -> str:
    """A map of tiles by verdict and residual beside their table, the least sure first.

    Args:
        title: of the table.
        boxes: (n, 4) y0, x0, y1, x1 px.
        columns: among them ``tile``, ``verdict`` and ``residual``.
    """
    names, verdicts, residuals = (columns[key] for key in ("tile", "verdict", "residual"))
    rank = [("conflict", "stage").index(v) if v != "measured" else 2 for v in verdicts.tolist()]
    order = np.lexsort((-np.nan_to_num(residuals), rank))
    colours = tile_colours(verdicts.tolist(), residuals)

    def words(tile: int) -> str:
        return f"{names[tile]}: {verdicts[tile]}, residual {residuals[tile]:.3f} px"

    seen = {key: colour for key, colour in colour_key().items() if colour in set(colours)}
    return beside(
        tile_map(boxes, colours, words, MAP_STYLE) + legend(seen),
        columns_html(title, {name: column[order] for name, column in columns.items()}),
    )


def columns_html(title: str, columns: Mapping[str, NDArray[Any]]) -> str:
    """The first rows of a table of columns."""
    names = list(columns)
    count = len(columns[names[0]])
    head = "".join(f"<th>{escape(n)}</th>" for n in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_short(columns[n][k]))}</td>" for n in names) + "</tr>"
        for k in range(min(count, ROWS_SHOWN))
    )
    more = f"<i>{count - ROWS_SHOWN} more rows</i>" if count > ROWS_SHOWN else ""
    return f"<div><b>{escape(title)}</b><table><tr>{head}</tr>{body}</table>{more}</div>"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
