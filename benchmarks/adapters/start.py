"""Import what a run of ``mosaicreg stitch`` imports, and do nothing."""

from __future__ import annotations

from importlib import import_module

from mosaicreg.fourier import transforms
from mosaicreg.leastsquares import factorise

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
    "threadpoolctl",
    "tifffile",
    "cloudpickle",
):
    import_module(name)
transforms()
factorise()
