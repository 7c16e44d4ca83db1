"""The documented name of ``nornir_imageregistration.alignment_record``."""

from mosaicreg.alignment import AlignmentRecord

__all__ = ["AlignmentRecord"]
