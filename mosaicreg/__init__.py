"""mosaicreg: overlapping image tiles to one zarr mosaic, larger than memory, on dask."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaicreg import synthetic
    from mosaicreg.aligning import find_rigid
    from mosaicreg.alignment import AlignmentRecord
    from mosaicreg.archive import write_ome_zarr
    from mosaicreg.assembly import assemble
    from mosaicreg.correlate import find_offset
    from mosaicreg.errors import ImageError, InputError
    from mosaicreg.flatfield import (
        correct_illumination,
        corrected_mosaic,
        estimate_dark_field,
        estimate_flat_field,
    )
    from mosaicreg.layers import napari_layers
    from mosaicreg.layout import Layout, solve_layout, stage_layout
    from mosaicreg.lazy import open_lazy
    from mosaicreg.mosaic import Mosaic
    from mosaicreg.opening import open_mosaic
    from mosaicreg.overlaps import tile_overlaps
    from mosaicreg.pairs import Pairs
    from mosaicreg.progress import show_progress
    from mosaicreg.refining import Refinement, refine
    from mosaicreg.registration import find_offsets, register
    from mosaicreg.sections import registration_tree
    from mosaicreg.warping import warp, warp_tiles

_HOME = {
    "AlignmentRecord": "alignment",
    "ImageError": "errors",
    "InputError": "errors",
    "Layout": "layout",
    "Mosaic": "mosaic",
    "Pairs": "pairs",
    "Refinement": "refining",
    "assemble": "assembly",
    "correct_illumination": "flatfield",
    "corrected_mosaic": "flatfield",
    "estimate_dark_field": "flatfield",
    "estimate_flat_field": "flatfield",
    "find_offset": "correlate",
    "find_offsets": "registration",
    "find_rigid": "aligning",
    "napari_layers": "layers",
    "open_lazy": "lazy",
    "open_mosaic": "opening",
    "refine": "refining",
    "register": "registration",
    "registration_tree": "sections",
    "show_progress": "progress",
    "solve_layout": "layout",
    "stage_layout": "layout",
    "tile_overlaps": "overlaps",
    "warp": "warping",
    "warp_tiles": "warping",
    "write_ome_zarr": "archive",
}
__all__ = [
    "AlignmentRecord",
    "ImageError",
    "InputError",
    "Layout",
    "Mosaic",
    "Pairs",
    "Refinement",
    "assemble",
    "correct_illumination",
    "corrected_mosaic",
    "estimate_dark_field",
    "estimate_flat_field",
    "find_offset",
    "find_offsets",
    "find_rigid",
    "napari_layers",
    "open_lazy",
    "open_mosaic",
    "refine",
    "register",
    "registration_tree",
    "show_progress",
    "solve_layout",
    "stage_layout",
    "synthetic",
    "tile_overlaps",
    "warp",
    "warp_tiles",
    "write_ome_zarr",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Names are loaded on first use: the command line's --help must not wait for numpy."""
    if name in _HOME:
        return getattr(import_module(f"mosaicreg.{_HOME[name]}"), name)
    if name == "synthetic":
        return import_module("mosaicreg.synthetic")
    raise AttributeError(f"module 'mosaicreg' has no attribute {name!r}")
