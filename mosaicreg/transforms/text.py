"""Transforms as text, the way ITK and the SCI ir-tools write them.

``NAME vp n <n numbers> fp m <m numbers>`` on one line, coordinates x before y. Text is data:
nothing is evaluated, counts are checked before anything is built, and sizes are limited.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal

import numpy as np

from mosaicreg.errors import InputError
from mosaicreg.transforms.base import Bounds, FloatArray, Transform
from mosaicreg.transforms.linear import Affine, Rigid, Similarity, Translation
from mosaicreg.transforms.mesh import MAX_POINTS, Grid, Mesh
from mosaicreg.transforms.polynomial import MAX_DEGREE, Origin, Polynomial

MAX_TEXT = 256 << 20
"""Longer texts are refused; a mesh of two million points is about half of it."""
LARGEST = 1e300
"""Larger numbers are the uninitialised output of old tools."""
_SUFFIX = "_double_2_2"
EXACT = Context(prec=1200)
"""Sums and products of float64 are exact in it."""
DIGITS = (15, 16, 17, 18, 20, 24, 40, 80, 700)
"""Of a mesh's shares; more where fewer do not give the point back."""
ACCELERATION = (16, 16)
"""Cells of the lookup grid that readers of mesh text are told to build."""

Numbers = list[float]


@dataclass(frozen=True)
class _Words:
    """The numbers of one transform text, and what it calls itself.

    ``as_written`` are the variable ones, with all their digits.
    """

    name: str
    variable: Numbers
    fixed: Numbers
    as_written: list[str]

    def expect(self, variable: int, fixed: int) -> None:
        have = len(self.variable), len(self.fixed)
        if have != (variable, fixed):
            raise InputError(
                f"{self.name} has {variable} variable and {fixed} fixed parameters here, not "
                f"{have[0]} and {have[1]}"
            )


def parse_transform(
    text: str,
    *,
    spacing: float = 1.0,
    legendre_origin: Origin = "corner",
    clockwise: bool = False,
) -> Transform:
    """The transform that a text describes.

    Args:
        text: one transform.
        spacing: coordinates on both sides are multiplied by it.
        legendre_origin: what the fixed parameters of a Legendre polynomial name, see `Polynomial`.
        clockwise: for files of nornir before 2023-11-28, whose rigid transforms have the angle of
            the other sign.

    Raises:
        InputError: for an unknown name, counts that do not fit, numbers that are missing, not
            finite or of 1e300 and more, and for transforms that have no inverse.
    """
    words = _split(text)
    base, found, degree = words.name.partition(_SUFFIX)
    if base == "LegendrePolynomialTransform" and found:
        transform: Transform = _legendre(words, degree, legendre_origin)
    elif base in _READERS and found and not degree:
        transform = _READERS[base](words)
    else:
        known = ", ".join([*_READERS, "LegendrePolynomialTransform"])
        raise InputError(f"{words.name[:60]!r} is none of the transforms {known} ({_SUFFIX})")
    if clockwise and isinstance(transform, Rigid | Similarity):
        transform = _turned_round(transform)
    return transform if spacing == 1 else transform.scaled(spacing)


def format_transform(
    transform: Transform, *, extent: Bounds | None = None, decimals: int | None = None
) -> str:
    """The text of a transform; `parse_transform` gives the same transform back.

    Args:
        transform: what to write. A composed transform has no text: follow it with a grid first
            (`Grid.sampled`).
        extent: (y0, x0, y1, x1) of the source that a mesh's text is normalised by.
        decimals: of each number; None for as many as give the same float64 back.

    Raises:
        InputError: for a transform without a text form, or a mesh of no height or width.
    """

    def join(name: str, variable: Sequence[float | Decimal], fixed: Sequence[float]) -> str:
        v = [_word(n, decimals) for n in variable]
        f = [_word(n, decimals) for n in fixed]
        return " ".join([name, "vp", str(len(v)), *v, "fp", str(len(f)), *f])

    match transform:
        case Translation():
            return join("TranslationTransform" + _SUFFIX, _xy(transform.offset), [])
        case Rigid():
            angle = [_itk(transform.angle), *_xy(transform.offset)]
            return join("Rigid2DTransform" + _SUFFIX, angle, _xy(transform.center))
        case Similarity(free_center=True):
            center, offset = _xy(transform.center), _xy(transform.offset)
            values = [transform.scale, _itk(transform.angle), *center, *offset]
            return join("CenteredSimilarity2DTransform" + _SUFFIX, values, [])
        case Similarity():
            values = [transform.scale, _itk(transform.angle), *_xy(transform.offset)]
            return join("Similarity2DTransform" + _SUFFIX, values, _xy(transform.center))
        case Affine():
            (yy, yx), (xy, xx) = transform.matrix.tolist()
            values = [xx, xy, yx, yy, *_xy(transform.offset), 0, 0]
            return join(
                "FixedCenterOfRotationAffineTransform" + _SUFFIX, values, _xy(transform.center)
            )
        case Polynomial():
            name = f"LegendrePolynomialTransform{_SUFFIX}_{transform.degree}"
            fixed = [*_xy(transform.anchor), *_xy(transform.half_size)]
            return join(name, [*transform.a, *transform.b], fixed)
        case Grid():
            rows, columns = transform.vertices.shape[:2]
            box = [*_xy(transform.origin), *_xy(transform.size)]
            values = transform.vertices[..., ::-1].ravel().tolist()
            return join("GridTransform" + _SUFFIX, values, [0, rows - 1, columns - 1, *box])
        case Mesh():
            rows_of_four, box = _mesh_numbers(transform, extent)
            fixed = [0, *ACCELERATION, *box, len(transform.source_points)]
            return join("MeshTransform" + _SUFFIX, rows_of_four, fixed)
        case _:
            raise InputError(
                f"a {type(transform).__name__} has no text form; follow it with a grid of control "
                "points first (Grid.sampled)"
            )


# --- reading -------------------------------------------------------------------------------------


def _split(text: str) -> _Words:
    if len(text) > MAX_TEXT:
        raise InputError(f"a transform of {len(text)} characters; at most {MAX_TEXT} are read")
    words = text.split()
    if not words:
        raise InputError("an empty text is no transform")
    variable, rest = _section(words[0], "vp", words[1:])
    fixed, rest = _section(words[0], "fp", rest)
    if rest:
        raise InputError(f"{words[0][:60]}: {len(rest)} words too many, from {rest[0][:40]!r}")
    return _Words(words[0], variable, fixed, words[3 : 3 + len(variable)])


def _section(name: str, key: str, words: list[str]) -> tuple[Numbers, list[str]]:
    where = f"{name[:60]}: "
    if len(words) < 2 or words[0] != key:
        found = words[0][:40] if words else "the end"
        raise InputError(f"{where}{key!r} and a count are expected where {found!r} stands")
    if not (words[1].isascii() and words[1].isdigit() and len(words[1]) < 10):
        raise InputError(f"{where}{key} is followed by {words[1][:40]!r}, not by a count")
    count = int(words[1])
    if count > 4 * MAX_POINTS:
        raise InputError(f"{where}{key} announces {count} numbers; at most {4 * MAX_POINTS}")
    found_words = words[2 : 2 + count]
    if len(found_words) < count:
        raise InputError(f"{where}{key} announces {count} numbers and has {len(found_words)}")
    numbers: Numbers = []
    for k, word in enumerate(found_words):
        try:
            value = float(word) if word.isascii() and "_" not in word else np.nan
        except ValueError:
            value = np.nan
        if not abs(value) < LARGEST:
            raise InputError(
                f"{where}number {k + 1} of {count} after {key} is {word[:40]!r}, not a finite "
                "number"
            )
        numbers.append(value)
    return numbers, words[2 + count :]


def _yx(values: Sequence[float]) -> tuple[float, float]:
    return values[1], values[0]


def _whole(words: _Words, value: float, what: str) -> int:
    if value != int(value) or not 0 < value <= MAX_POINTS:
        raise InputError(f"{words.name}: {what} is {value}, not a whole number above 0")
    return int(value)


def _rigid(words: _Words) -> Rigid:
    words.expect(3, 2)
    angle, *offset = words.variable
    return Rigid(_yx(offset), _itk(angle), _yx(words.fixed))


def _centered_similarity(words: _Words) -> Similarity:
    words.expect(6, 0)
    scale, angle, *rest = words.variable
    return Similarity(_yx(rest[2:]), _itk(angle), _yx(rest[:2]), scale)


def _similarity(words: _Words) -> Similarity:
    words.expect(4, 2)
    scale, angle, *offset = words.variable
    return Similarity(_yx(offset), _itk(angle), _yx(words.fixed), scale, free_center=False)


def _fixed_center_affine(words: _Words) -> Affine:
    words.expect(8, 2)
    xx, xy, yx, yy, *offset = words.variable[:6]
    return Affine([[yy, yx], [xy, xx]], _yx(offset), _yx(words.fixed))


def _plain_affine(words: _Words) -> Affine:
    words.expect(6, 2)
    xx, xy, yx, yy, *offset = words.variable
    return Affine([[yy, yx], [xy, xx]], _yx(offset), _yx(words.fixed))


def _translation(words: _Words) -> Translation:
    words.expect(2, 0)
    return Translation(_yx(words.variable))


def _grid(words: _Words) -> Grid:
    words.expect(len(words.variable), 7)
    _, rows, columns, *box = words.fixed
    shape = _whole(words, rows, "the number of rows") + 1, _whole(words, columns, "columns") + 1
    words.expect(2 * shape[0] * shape[1], 7)
    vertices = np.array(words.variable).reshape(*shape, 2)[..., ::-1]
    return Grid(vertices, _yx(box[:2]), _yx(box[2:]))


def _mesh(words: _Words) -> Mesh:
    words.expect(len(words.variable), 8)
    x0, y0, width, height = words.fixed[3:7]
    words.expect(4 * _whole(words, words.fixed[7], "the number of vertices"), 8)
    if width <= 0 or height <= 0:
        raise InputError(f"{words.name}: its box is {height} x {width}, without area")
    shares = [EXACT.create_decimal(word) for word in words.as_written]
    source = [
        (_placed(v, y0, height), _placed(u, x0, width))
        for u, v in zip(shares[::4], shares[1::4], strict=True)
    ]
    target = np.array(words.variable).reshape(-1, 4)[:, :1:-1]
    return Mesh(source, target, box=(y0, x0, height, width))


def _legendre(words: _Words, degree: str, origin: Origin) -> Polynomial:
    digits = degree.removeprefix("_")
    if not (digits.isascii() and digits.isdigit() and 1 <= int(digits[:4]) <= MAX_DEGREE):
        raise InputError(f"{words.name[:60]}: the degree is not a number from 1 to {MAX_DEGREE}")
    count = (int(digits) + 1) * (int(digits) + 2)
    words.expect(count, 4)
    a, b = words.variable[: count // 2], words.variable[count // 2 :]
    return Polynomial(a, b, _yx(words.fixed[:2]), _yx(words.fixed[2:]), origin)


_READERS: dict[str, Callable[[_Words], Transform]] = {
    "GridTransform": _grid,
    "MeshTransform": _mesh,
    "Rigid2DTransform": _rigid,
    "CenteredSimilarity2DTransform": _centered_similarity,
    "Similarity2DTransform": _similarity,
    "FixedCenterOfRotationAffineTransform": _fixed_center_affine,
    "AffineTransform": _plain_affine,
    "TranslationTransform": _translation,
}


def _turned_round(transform: Rigid | Similarity) -> Transform:
    if isinstance(transform, Rigid):
        return Rigid(transform.offset, 0 - transform.angle, transform.center)
    t = transform
    return Similarity(t.offset, 0 - t.angle, t.center, t.scale, t.free_center)


# --- writing -------------------------------------------------------------------------------------


def _itk(angle: float) -> float:
    """The angle with the other sign, without a negative zero."""
    return 0.0 - angle


def _xy(pair: FloatArray) -> list[float]:
    return [float(pair[1]), float(pair[0])]


def _word(value: float | Decimal, decimals: int | None) -> str:
    """A number as short as its value allows: 100, 0.1, 1e-07."""
    if decimals is not None:
        text = f"{value:.{decimals}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return "0" if text in ("-0", "") else text
    if isinstance(value, Decimal):
        value = value.normalize(EXACT) if value else Decimal(0)  # without a negative zero
        return f"{value:f}" if -7 < value.adjusted() < 17 else str(value)
    return repr(float(value) + 0.0).removesuffix(".0")


def _mesh_numbers(mesh: Mesh, extent: Bounds | None) -> tuple[list[float | Decimal], list[float]]:
    """(u v x y for each vertex, x0 y0 width height)."""
    bounds = extent or mesh.bounds
    assert bounds is not None  # a mesh has points
    y0, x0, y1, x1 = bounds
    own = mesh.box if mesh.box and extent is None else (y0, x0, y1 - y0, x1 - x0)
    box = [float(v) for v in own]
    if min(box[2:]) <= 0:
        raise InputError(f"a mesh text needs a source box with area, not {bounds}")
    low, size = box[:2], box[2:]
    rows: list[list[float | Decimal]] = [
        [_share(x, low[1], size[1]), _share(y, low[0], size[0]), *target]
        for (y, x), target in zip(
            mesh.source_points.tolist(), mesh.target_points[:, ::-1].tolist(), strict=True
        )
    ]
    fixed = [box[1], box[0], box[3], box[2]]
    return [number for row in rows for number in row], fixed


def _share(value: float, low: float, size: float) -> Decimal:
    """The share u for which low + u size, calculated exactly and then rounded, is the value.

    Float64 has no such u for many values: between 0.5 and 1 its numbers stand further apart than
    those of values just below ``size``. A decimal has as many digits as it takes: 15 to 18 mostly.
    """
    distance = EXACT.subtract(_decimal(value), _decimal(low))
    for digits in DIGITS:
        share = Context(prec=digits).divide(distance, _decimal(size))
        if _placed(share, low, size) == value:
            break
    return share


def _placed(share: Decimal, low: float, size: float) -> float:
    """What a share stands for: low + share size, rounded once."""
    return float(EXACT.add(_decimal(low), EXACT.multiply(share, _decimal(size))))


def _decimal(value: float) -> Decimal:
    """The shortest decimal that is read as this float64."""
    return Decimal(repr(float(value)))
