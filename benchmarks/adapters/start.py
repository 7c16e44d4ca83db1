"""Import what a run of ``mosaicreg stitch`` imports, and do nothing."""

from __future__ import annotations

from importlib import import_module

for name in (
    "mosaicreg.cli.stitching",
    "mosaicreg.cli.running",
    "mosaicreg.opening",
    "mosaicreg.registration",
    "mosaicreg.layoutfile",
    "mosaicreg.archive",
    "mosaicreg.planning",
    "mosaicreg.clusters",
    "mosaicreg.progress",
    "dask.threaded",
    "threadpoolctl",
    "tifffile",
    "scipy.sparse.linalg",
    "scipy.spatial",
):
    import_module(name)
