"""`napari_layers`: a mosaic as layer data for napari, without napari being needed to make it."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np

from mosaicreg.assembly import assemble
from mosaicreg.drawing import tile_colours
from mosaicreg.errors import InputError
from mosaicreg.geometry import FloatArray, bounding_box
from mosaicreg.layout import Layout
from mosaicreg.mosaic import Mosaic
from mosaicreg.reopening import read_archive
from mosaicreg.store import Place

LayerData = tuple[Any, dict[str, Any], str]
BLOCK = 1024
"""Side of what is computed at a time of a layout that is not assembled, px."""


def napari_layers(source: Place | Mosaic, layout: Layout | None = None) -> list[LayerData]:
    """The lazy image and the tiles' outlines, as napari's layer data tuples.

    Show them with ``for data in mosaicreg.napari_layers("out.ome.zarr"):
    viewer.add_layer(napari.layers.Layer.create(*data))``.

    Args:
        source: an archive that mosaicreg wrote; or a mosaic, then pixels are computed from the
            tiles as they are looked at, at full resolution only.
        layout: where a mosaic's tiles lie.

    Returns:
        ``(data, arguments, "image")``: dask arrays, the finest first, one layer per channel;
        ``(data, arguments, "shapes")``: one rectangle per tile, with its name, verdict and residual
        as features, coloured as in reports. Both in micrometre where the pixel size is known.

    Raises:
        InputError: where the archive cannot be read or holds no layout, or a mosaic comes without.
    """
    if isinstance(source, Mosaic):
        if layout is None:
            raise InputError("a mosaic needs its layout: napari_layers(mosaic, layout)")
        mosaic, levels = source, [assemble(source, layout, block=BLOCK)]
    else:
        archive = read_archive(source)
        mosaic, layout = archive.mosaic, archive.layout
        levels = [da.from_zarr(level) for level in archive.levels]
    scale = mosaic.pixel_size or (1.0, 1.0)
    return [*_images(levels, mosaic, scale), _outlines(layout, scale)]


def _images(levels: list[da.Array], mosaic: Mosaic, scale: tuple[float, float]) -> list[LayerData]:
    """One layer per channel."""
    at = mosaic.axes.find("c")
    if at < 0:
        return [_image(levels, "mosaic", scale)]
    images = []
    for k in range(mosaic.leading[at]):
        name = mosaic.channels[k] if k < len(mosaic.channels) else f"channel {k}"
        data, facts, kind = _image(
            [level[(slice(None),) * at + (k,)] for level in levels], name, scale
        )
        images.append((data, {**facts, "blending": "additive"}, kind))
    return images


def _image(levels: list[da.Array], name: str, scale: tuple[float, float]) -> LayerData:
    facts = {
        "name": name,
        "multiscale": len(levels) > 1,
        "scale": [1.0] * (levels[0].ndim - 2) + list(scale),
    }
    return (levels if len(levels) > 1 else levels[0]), facts, "image"


def _outlines(layout: Layout, scale: tuple[float, float]) -> LayerData:
    canvas = bounding_box(layout.boxes)
    facts = {
        "name": "tiles",
        "shape_type": "polygon",
        "edge_color": tile_colours(layout.verdicts.tolist(), layout.residuals),
        "face_color": "transparent",
        "edge_width": max(1.0, 0.004 * float(np.median(layout.shapes))) * scale[0],
        "features": {
            "tile": [str(n) for n in layout.names],
            "verdict": layout.verdicts.tolist(),
            "residual": layout.residuals.tolist(),
        },
    }
    # Scaled here, not by the layer: its edges would be scaled too.
    corners = (outlines(layout) - (canvas.y0, canvas.x0)) * scale
    return list(corners), facts, "shapes"


def outlines(layout: Layout) -> FloatArray:
    """(n, 4, 2) corners (y, x) of the tiles, px: from half a pixel before the first pixel's centre.

    Turned tiles are turned about their middle, as `mosaicreg.turning` has it.
    """
    half = layout.shapes[:, None, :] / 2
    corners = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * half
    if layout.angles is not None:
        turn = np.deg2rad(layout.angles)[:, None]
        y, x = corners[..., 0], corners[..., 1]
        corners = np.stack(
            [np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x], axis=-1
        )
    found: FloatArray = corners + (layout.positions + (layout.shapes - 1) / 2)[:, None, :]
    return found
