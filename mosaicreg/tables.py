"""HTML tables for notebooks."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_SHOWN = 10


def table_html(title: str, facts: Mapping[str, Any]) -> str:
    """A titled two-column table."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>"
        for k, v in facts.items()
    )
    return f"<div><b>{escape(title)}</b><table>{rows}</table></div>"


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
