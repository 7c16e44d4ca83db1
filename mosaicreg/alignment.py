"""How one image lies on another: `AlignmentRecord`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mosaicreg.errors import InputError
from mosaicreg.transforms import Affine, Grid, Rigid, Similarity
from mosaicreg.transforms.linear import rotation

FloatArray = NDArray[np.float64]
Pair = tuple[float, float]


@dataclass(frozen=True)
class AlignmentRecord:
    """Placement of a moving image in the space of a fixed image.

    A point p (y, x) of a moving image of shape ``Nm`` goes to the space of a fixed image of shape
    ``Nf`` in this order: flip up-down where ``flipped_ud``; subtract the centre ``(Nm - 1) / 2``;
    multiply by ``scale``; rotate by ``angle``; add the centre ``(Nf - 1) / 2``; add ``peak``. So a
    peak of (0, 0) puts centre on centre, and for images of one shape the peak is where the moving
    image's first pixel lies in the fixed image.

    Args:
        peak: (y, x) in px, added to moving coordinates.
        weight: how far the match stands out; larger is better, 0 is no match at all.
        angle: degrees; the direction in which ``scipy.ndimage.rotate(moving, angle)`` turns.
        flipped_ud: whether the moving image is flipped up-down first.
        scale: size of a moving pixel in fixed pixels: one number, or (y, x) along the moving
            image's axes. Two equal numbers become one.

    Raises:
        ValueError: when a number is not finite or the scale is not positive.
    """

    peak: Pair
    weight: float
    angle: float = 0.0
    flipped_ud: bool = False
    scale: float | Pair = 1.0

    def __post_init__(self) -> None:
        peak = tuple(float(v) for v in np.asarray(self.peak, dtype=np.float64).ravel())
        if len(peak) != 2:
            raise ValueError(f"a peak is (y, x), not {self.peak!r}")
        scale = [float(v) for v in np.asarray(self.scale, dtype=np.float64).ravel()]
        if len(scale) not in (1, 2):
            raise ValueError(f"a scale is one number or (y, x), not {self.scale!r}")
        object.__setattr__(self, "peak", peak)
        object.__setattr__(self, "scale", scale[0] if len(set(scale)) == 1 else tuple(scale))
        for name in ("weight", "angle"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "flipped_ud", bool(self.flipped_ud))
        if not np.isfinite([*peak, self.weight, self.angle, *scale]).all() or min(scale) <= 0:
            raise ValueError(f"an alignment needs finite numbers and a positive scale: {self}")

    def __lt__(self, other: AlignmentRecord) -> bool:
        """Order by weight, so that ``max(records)`` is the best match."""
        return self.weight < other.weight

    def transform(
        self, points: ArrayLike, fixed_shape: tuple[int, int], moving_shape: tuple[int, int]
    ) -> FloatArray:
        """(n, 2) points (y, x) of the moving image in the fixed image, float64."""
        p = np.atleast_2d(np.asarray(points, dtype=np.float64))
        if self.flipped_ud:
            p = np.stack([moving_shape[0] - 1 - p[:, 0], p[:, 1]], axis=1)
        p = (p - (np.array(moving_shape) - 1) / 2) * self.scale @ rotation(self.rangle).T
        return p + (np.array(fixed_shape) - 1) / 2 + self.peak

    def corners(
        self, moving_shape: tuple[int, int], fixed_shape: tuple[int, int] | None = None
    ) -> FloatArray:
        """(4, 2) where the moving image's corner pixels lie: (0, 0), (0, W), (H, 0), (H, W)."""
        bottom, right = moving_shape[0] - 1, moving_shape[1] - 1
        points = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
        return self.transform(points, fixed_shape or moving_shape, moving_shape)

    def to_transform(
        self, fixed_shape: tuple[int, int], moving_shape: tuple[int, int] | None = None
    ) -> Rigid | Similarity | Affine:
        """The same map as a transform, exact everywhere: moving points to fixed points.

        Rigid where nothing is scaled or flipped, a similarity where it is scaled alike along both
        axes, else affine. ``moving_shape`` is ``fixed_shape`` where not given.
        """
        center = (np.array(moving_shape or fixed_shape) - 1) / 2
        offset = (np.array(fixed_shape) - 1) / 2 - center + self.peak
        angle = self.rangle
        if self.flipped_ud or isinstance(self.scale, tuple):
            flip = np.array([-1 if self.flipped_ud else 1, 1])
            return Affine(rotation(angle) @ np.diag(flip * self.scale), offset, center)
        if self.scale != 1:
            return Similarity(offset, angle, center, self.scale)
        return Rigid(offset, angle, center)

    def to_grid(
        self, fixed_shape: tuple[int, int], moving_shape: tuple[int, int] | None = None
    ) -> Grid:
        """The same map as a grid of the moving image's four corner pixels."""
        height, width = moving_shape or fixed_shape
        exact = self.to_transform(fixed_shape, moving_shape)
        return Grid.sampled(exact, (0, 0, height - 1, width - 1), (1, 1))

    def offset(
        self, fixed_shape: tuple[int, int], moving_shape: tuple[int, int]
    ) -> tuple[float, float]:
        """(dy, dx) from the fixed image's first pixel to the moving image's, without rotation."""
        dy, dx = np.asarray(self.peak) + (np.array(fixed_shape) - np.array(moving_shape)) / 2
        return float(dy), float(dx)

    def inverse(self) -> AlignmentRecord:
        """How the fixed image lies on the moving image: exactly undoes this record.

        Raises:
            InputError: where two different scales come with an angle that is no quarter turn: what
                undoes that is sheared, and no record. ``to_transform(...).inverse()`` is it.
        """
        y, x = rotation(self.rangle).T @ (-np.asarray(self.peak)) / self.scale
        if self.flipped_ud:
            y = -y
        scale: float | Pair
        if isinstance(self.scale, tuple):
            quarters = self.angle / 90
            if quarters != round(quarters):
                raise InputError(
                    f"a record of scales {self.scale} turned by {self.angle:g} degrees has no "
                    "record as its inverse; to_transform(...).inverse() is the transform"
                )
            # Undone after the turn, the scales stand along the fixed image's axes.
            sy, sx = self.scale if round(quarters) % 2 == 0 else self.scale[::-1]
            scale = (1 / sy, 1 / sx)
        else:
            scale = 1 / self.scale
        return replace(
            self,
            peak=(float(y), float(x)),
            angle=self.angle if self.flipped_ud else -self.angle,
            scale=scale,
        )

    def translated(self, vector: ArrayLike) -> AlignmentRecord:
        """With ``vector`` (y, x) added to the peak."""
        y, x = np.asarray(self.peak) + np.asarray(vector, dtype=np.float64)
        return replace(self, peak=(float(y), float(x)))

    def scaled(self, factor: float) -> AlignmentRecord:
        """For images whose pixels are ``factor`` times as many: the peak multiplied, no more."""
        return replace(self, peak=(self.peak[0] * factor, self.peak[1] * factor))

    @property
    def rangle(self) -> float:
        """The angle in radians."""
        return float(np.deg2rad(self.angle))

    @property
    def flippedud(self) -> bool:
        """``flipped_ud``, as nornir_imageregistration spells the attribute."""
        return self.flipped_ud

    # Methods that scripts written for nornir_imageregistration call on records. They stand here and
    # not in `mosaicreg.nornir` because there is one class of records: what every function returns.

    def WeightKey(self) -> float:  # noqa: N802
        """The weight, to sort by."""
        return self.weight

    def Invert(self) -> AlignmentRecord:  # noqa: N802
        """`inverse`."""
        return self.inverse()

    def translate(self, value: ArrayLike) -> AlignmentRecord:
        """`translated`; returns the new record, for records do not change."""
        return self.translated(value)

    def Corners(  # noqa: N802
        self, warpedSize: tuple[int, int], fixedSize: tuple[int, int] | None = None
    ) -> FloatArray:
        """`corners`."""
        return self.corners(warpedSize, fixedSize)

    def GetTransformedCornerPoints(  # noqa: N802
        self, warpedImageSize: tuple[int, int], fixedImageSize: tuple[int, int] | None = None
    ) -> FloatArray:
        """`corners`."""
        return self.corners(warpedImageSize, fixedImageSize)

    def ToTransform(  # noqa: N802
        self, fixedImageSize: tuple[int, int], warpedImageSize: tuple[int, int] | None = None
    ) -> Rigid | Similarity | Affine:
        """`to_transform`."""
        return self.to_transform(fixedImageSize, warpedImageSize)

    def CorrectPeakForOriginalImageSize(  # noqa: N802
        self, FixedImageShape: tuple[int, int], MovingImageShape: tuple[int, int]
    ) -> AlignmentRecord:
        """With the vector from first pixel to first pixel, `offset`, for a peak."""
        return replace(self, peak=self.offset(FixedImageShape, MovingImageShape))


@dataclass(frozen=True)
class RigidMatch(AlignmentRecord):
    """A placement that was looked for among all angles, and how far to trust it.

    Args:
        chance: probability, 0 to 1, that images which have nothing in common match as well
            somewhere among all that was tried.
    """

    chance: float = 1.0
