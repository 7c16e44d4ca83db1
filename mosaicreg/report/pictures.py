"""Pictures for people: overviews, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.geometry import Box
from mosaicreg.imagefile import write_png
from mosaicreg.omezarr import ome_of
from mosaicreg.store import Place, open_store

PREVIEW_SIDE = 1600
"""A preview is at most this many px high and wide."""


def write_preview(archive: Place, path: Path) -> None:
    """A PNG of the whole mosaic, from the finest level that fits into `PREVIEW_SIDE` px."""
    import zarr

    root = zarr.open_group(open_store(archive).zarr(read_only=True), mode="r")
    levels: list[Any] = [root[key] for key in sorted(root.array_keys(), key=int)]
    write_png(path, overview(levels, ome_of(root)))


def overview(levels: Sequence[Any], ome: Any) -> NDArray[np.uint8]:
    """The whole mosaic in 8 bit, at most `PREVIEW_SIDE` px high and wide.

    The first time, the middle plane, all channels in their colours.

    Args:
        levels: zarr arrays (leading..., y, x), the finest first.
        ome: the archive's metadata.

    Returns:
        (y, x), or (y, x, 3) where there are channels.
    """
    level = next((a for a in levels if max(a.shape[-2:]) <= PREVIEW_SIDE), levels[-1])
    step = -(-max(level.shape[-2:]) // PREVIEW_SIDE)
    axes = [axis["name"] for axis in ome["multiscales"][0]["axes"]]
    fixed = {"t": 0, "z": level.shape[axes.index("z")] // 2 if "z" in axes else 0}
    channels = ome.get("omero", {}).get("channels", ())
    if not channels:
        return to_display(level[tuple(fixed[a] for a in axes[:-2])][::step, ::step])
    mixed: NDArray[Any] = np.zeros(1, dtype=np.float32)
    for k, channel in enumerate(channels):
        index = tuple(k if a == "c" else fixed[a] for a in axes[:-2])
        grey = to_display(level[index][::step, ::step]).astype(np.float32)
        colour = [int(channel["color"][i : i + 2], 16) / 255 for i in (0, 2, 4)]
        mixed = mixed + grey[:, :, None] * np.array(colour, dtype=np.float32)
    shown: NDArray[np.uint8] = np.clip(mixed, 0, 255).astype(np.uint8)
    return shown


def to_display(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values as 8 bit, from the 0.5 to the 99.8 percentile of what is not the fill value."""
    values = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    inside = values[values != 0]
    low, high = np.percentile(inside, (0.5, 99.8)) if inside.size else (0.0, 1.0)
    scaled = (image.astype(np.float64) - low) * (255 / max(high - low, 1e-9))
    return np.clip(np.nan_to_num(scaled), 0, 255).astype(np.uint8)


def write_side_by_side(path: Path, panels: Mapping[str, NDArray[Any]], zoom: int = 2) -> None:
    """One PNG of images of one shape (y, x) next to each other, each with its caption above."""
    from PIL import Image, ImageDraw, ImageFont

    shared = to_display(np.concatenate([p.ravel() for p in panels.values()]))
    height, width = next(iter(panels.values())).shape
    font = ImageFont.load_default(size=22)
    gap, top = 16, 40
    total = (len(panels) * (width * zoom + gap) - gap, height * zoom + top)
    sheet = Image.new("L", total, 255)
    draw = ImageDraw.Draw(sheet)
    for k, caption in enumerate(panels):
        grey = shared[k * height * width : (k + 1) * height * width].reshape(height, width)
        x = k * (width * zoom + gap)
        draw.text((x, 8), caption, fill=0, font=font)
        sheet.paste(
            Image.fromarray(grey).resize((width * zoom, height * zoom), Image.Resampling.BICUBIC),
            (x, top),
        )
    write_png(path, np.asarray(sheet))


def write_overlays(path: Path, fixed: NDArray[Any], panels: Mapping[str, NDArray[Any]]) -> None:
    """One PNG of a fixed image in magenta under others of its shape in green, captions above.

    Where they agree it is grey. NaN is black.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = fixed.shape
    gap, top = 16, 40
    sheet = Image.new("RGB", (len(panels) * (width + gap) - gap, height + top), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=22)
    below = to_display(fixed)
    for k, (caption, image) in enumerate(panels.items()):
        colours = np.stack([below, to_display(image), below], axis=-1)
        draw.text((k * (width + gap), 8), caption, fill="black", font=font)
        sheet.paste(Image.fromarray(colours), (k * (width + gap), top))
    write_png(path, np.asarray(sheet))


def centred(box_centre: tuple[float, float], side: int, shape: tuple[int, int]) -> Box:
    """A square of ``side`` px around a point, moved and cut to lie inside ``shape``."""
    corner = [
        int(np.clip(round(c - side / 2), 0, max(0, n - side)))
        for c, n in zip(box_centre, shape, strict=True)
    ]
    size = (min(side, shape[0]), min(side, shape[1]))
    return Box.at((corner[0], corner[1]), size)
