"""`write_report`: one HTML file that says how far to trust a mosaic; and its numbers as JSON."""

from __future__ import annotations

import json
from base64 import b64encode
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.cluster import Progress
from mosaicreg.drawing import MANY, Frame, colour_key, legend, link_key
from mosaicreg.errors import InputError
from mosaicreg.imagefile import write_atomically
from mosaicreg.objects import AnyPath
from mosaicreg.registration import registration_lead
from mosaicreg.reopening import Archive, read_archive
from mosaicreg.report import figures
from mosaicreg.report.numbers import report_numbers
from mosaicreg.report.pictures import overview
from mosaicreg.report.seams import Seam, View, look_at, seams_in_doubt, worst
from mosaicreg.store import Place

SHOWN_ELSEWHERE = ("command", "worker_memory", "seconds", "predicted_seconds")
"""Provenance that the page shows in a place of its own."""
SEAMS = 10
"""So many seams are shown."""
LINK_WORDS = {
    "used": "used",
    "disagrees": "accepted, but against the layout",
    "rejected": "rejected",
    "no signal": "no signal",
}


def write_report(archive: Place, path: str | Path, progress: Progress | None = None) -> Path:
    """Write the report of an archive as one HTML file that needs nothing else.

    It shows the mosaic, its tiles by verdict and residual, what the layout moved, the pairs, the
    seams that deserve a look as the stage and as the layout have them (from the tiles' files, while
    they can be read), histograms, and what made the archive.

    Args:
        archive: that mosaicreg wrote, with its layout.
        path: of the file to write.
        progress: called with (stage, done, total).

    Returns:
        The path.

    Raises:
        InputError: where the archive cannot be read, or holds no layout.
    """
    path = Path(path)
    check_page(path)
    opened = read_archive(archive)
    seams = look_at_worst(opened, progress)
    write_atomically(path, page(opened, seams).encode())
    return path


def check_page(path: Path) -> None:
    """Raise InputError where a report cannot be written to ``path``."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; the report needs the name of a file, .html")


def default_page(archive: AnyPath) -> Path:
    """Where a report goes when nobody says: beside the archive, under its name.

    Of an archive in an object store: into the working folder.
    """
    folder = archive.parent if isinstance(archive, Path) else Path()
    return folder / f"{archive.name.removesuffix('.zarr').removesuffix('.ome')}.html"


def read_numbers(archive: Place, progress: Progress | None = None) -> dict[str, Any]:
    """The numbers of a report, the seams' included, as JSON knows them."""
    opened = read_archive(archive)
    return all_numbers(opened, look_at_worst(opened, progress))


def look_at_worst(archive: Archive, progress: Progress | None = None) -> list[Seam]:
    """The seams to show, with what their tiles show where they can be read."""
    options = archive.facts.get("options") or {}
    lead = registration_lead(
        archive.mosaic, int(options.get("channel") or 0), int(options.get("plane") or 0)
    )
    seams = seams_in_doubt(archive.layout)
    return worst(look_at(seams, archive.mosaic, archive.layout, lead, progress), SEAMS)


def all_numbers(archive: Archive, seams: list[Seam]) -> dict[str, Any]:
    """What `read_numbers` gives."""
    return {
        **report_numbers(archive),
        "seams": [seam.facts() for seam in seams],
        "provenance": archive.facts,
    }


def page(archive: Archive, seams: list[Seam]) -> str:
    """The report as HTML."""
    from jinja2 import Environment

    numbers = all_numbers(archive, seams)
    text = files("mosaicreg.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = _short
    return environment.from_string(text).render(
        numbers=numbers,
        numbers_json=json.dumps(numbers, ensure_ascii=False).replace("<", "\\u003c"),
        facts=archive.facts,
        resources=resources(numbers),
        provenance={k: v for k, v in archive.facts.items() if k not in SHOWN_ELSEWHERE},
        drawings=_drawings(archive),
        seams=[_card(seam, archive) for seam in seams],
        problem=next((seam.problem for seam in seams if seam.problem), ""),
        gathered=len(archive.layout) > MANY,
        link_words=LINK_WORDS,
    )


def resources(numbers: dict[str, Any]) -> dict[str, str]:
    """Memory, predicted and measured, and time, in words; {} where the archive does not say."""
    memory, seconds = numbers["worker_memory_bytes"], numbers["seconds"]
    words = {}
    if memory:
        found = (f"{int(memory[key]) / 1e9:.2f} GB {key}" for key in ("predicted", "measured"))
        words["memory of a worker"] = ", ".join(found)
    if seconds:
        due = numbers["predicted_seconds"] or {}
        stages = (
            f"{stage} {took:.1f} s" + (f" (predicted {due[stage]:.1f})" if stage in due else "")
            for stage, took in seconds.items()
        )
        known = f" ({sum(due.values()):.1f} s predicted)" if due else ""
        words["time"] = f"{sum(seconds.values()):.1f} s{known}: {', '.join(stages)}"
    return words


def _drawings(archive: Archive) -> dict[str, Any]:
    layout = archive.layout
    box = archive.canvas
    frame = Frame(box.y0, box.x0, *box.shape)
    pixel = archive.mosaic.pixel_size[1] if archive.mosaic.pixel_size else None
    drawn: dict[str, Any] = {
        "overview": figures.overview_figure(
            frame, address(overview(archive.levels, archive.ome)), pixel
        ),
        "tiles": figures.tiles_figure(frame, layout),
        "tiles_key": legend(colour_key()),
        "residuals": figures.residual_bars(layout),
    }
    arrows = figures.arrows_figure(frame, layout)
    if arrows is not None:
        drawn["arrows"], drawn["gain"] = arrows
    if layout.pairs is not None:
        drawn["pairs"] = figures.pairs_figure(frame, layout)
        drawn["pairs_key"] = legend(link_key())
        drawn["chances"] = figures.chance_bars(layout)
        drawn["correlations"] = figures.correlation_bars(layout)
    return drawn


def _card(seam: Seam, archive: Archive) -> dict[str, Any]:
    """What the page shows of one seam."""
    card: dict[str, Any] = {"seam": seam, "moved": float(np.hypot(*seam.shift))}
    if seam.before is None or seam.after is None:
        return card
    low, high = display_range(seam.after)
    for name, view in (("before", seam.before), ("after", seam.after)):
        card[name] = address(_scaled(view.mean, low, high))
        card[f"{name}_colours"] = address(two_colours(view))
    return card


def display_range(view: View) -> tuple[float, float]:
    """Grey values that show a view well."""
    known = view.mean[np.isfinite(view.mean)]
    if not known.size:
        return 0.0, 1.0
    low, high = np.percentile(known, (0.5, 99.8)).tolist()
    return low, max(high, low + 1e-6)


def two_colours(view: View) -> NDArray[np.uint8]:
    """(y, x, 3): one tile in magenta, the other in green: grey where they agree.

    Each is stretched by itself over what both show, so that shading leaves no tint; where only one
    tile is, it is grey.
    """
    both = np.isfinite(view.fixed) & np.isfinite(view.moving)
    layers = []
    for own in (view.fixed, view.moving):
        part = own[both] if both.any() else own[np.isfinite(own)]
        low, high = np.percentile(part, (1, 99.5)).tolist() if part.size else (0.0, 1.0)
        layers.append(_scaled(own, low, max(high, low + 1e-6)))
    magenta = np.where(np.isnan(view.fixed), layers[1], layers[0])
    green = np.where(np.isnan(view.moving), layers[0], layers[1])
    return np.stack([magenta, green, magenta], axis=-1)


def _scaled(image: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    values = (np.nan_to_num(image, nan=low) - low) * (255 / (high - low))
    scaled: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return scaled


def address(image: NDArray[np.uint8]) -> str:
    """A picture as a data: address, JPEG: small, and looked at rather than measured."""
    from PIL import Image

    content = BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=85)
    return "data:image/jpeg;base64," + b64encode(content.getvalue()).decode()


def _short(value: Any, digits: int = 3) -> str:
    """A number for people; a dash where there is none."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:,.0f}"
    return str(value)
