"""Maps between the space of a moving image (source) and that of a fixed one (target).

See `Transform` for what all of them promise. Text forms: `parse_transform`, `format_transform`.
"""

from mosaicreg.transforms.base import Bounds, Composed, Transform
from mosaicreg.transforms.linear import Affine, Linear, Rigid, Similarity, Translation
from mosaicreg.transforms.local import rigid_at
from mosaicreg.transforms.mesh import Grid, Mesh
from mosaicreg.transforms.polynomial import Polynomial
from mosaicreg.transforms.text import format_transform, parse_transform

__all__ = [
    "Affine",
    "Bounds",
    "Composed",
    "Grid",
    "Linear",
    "Mesh",
    "Polynomial",
    "Rigid",
    "Similarity",
    "Transform",
    "Translation",
    "format_transform",
    "parse_transform",
    "rigid_at",
]
