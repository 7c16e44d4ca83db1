"""What a mosaic looks like and how far to trust it: previews, and one page of HTML."""

from __future__ import annotations

from mosaicreg.report.page import check_page, default_page, read_numbers, write_report
from mosaicreg.report.pictures import centred, to_display, write_preview, write_side_by_side

__all__ = [
    "centred",
    "check_page",
    "default_page",
    "read_numbers",
    "to_display",
    "write_preview",
    "write_report",
    "write_side_by_side",
]
