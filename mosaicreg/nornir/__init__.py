"""The documented names of nornir_imageregistration, module for module.

``import mosaicreg.nornir as nornir_imageregistration``. Thin functions over the rooms of mosaicreg,
for paths, numpy, dask and zarr arrays; docs/nornir.md lists what each stands for, and every
deliberate difference.
"""

from mosaicreg.nornir import alignment_record, assemble, assemble_tiles, core
from mosaicreg.nornir.alignment_record import *  # noqa: F403  # its __all__ is the documented list
from mosaicreg.nornir.assemble import *  # noqa: F403
from mosaicreg.nornir.assemble_tiles import *  # noqa: F403
from mosaicreg.nornir.core import *  # noqa: F403

__all__ = ["alignment_record", "assemble", "assemble_tiles", "core"]
__all__ += alignment_record.__all__
__all__ += assemble.__all__
__all__ += assemble_tiles.__all__
__all__ += core.__all__
