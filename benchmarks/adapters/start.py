"""Import what a run of ``mosaicreg stitch`` imports, as it does, and do nothing."""

from __future__ import annotations

from importlib import import_module

from mosaicreg.cli import main

LOADED = (("chunks", "codec"), ("fourier", "transforms"), ("leastsquares", "factorise"))

main.callback()  # what comes before any command
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
    "tifffile",
    "cloudpickle",
):
    import_module(name)
for module, function in LOADED:
    getattr(import_module(f"mosaicreg.{module}"), function)()
