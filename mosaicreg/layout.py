"""`Layout`: where all tiles lie, solved from the accepted pairs at once.

Every accepted pair says that one tile lies at an offset from another; the stage says weakly where
each tile is. Tiles that accepted pairs link form a part; inside a part the stage has no say but for
the part's place as a whole, so parts lie to each other as the stage says. How it is solved is in
`mosaicreg.solving`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicreg.constraints import Constraints
from mosaicreg.errors import InputError
from mosaicreg.geometry import FloatArray, IntArray, bounding_box, owned_boxes
from mosaicreg.journal import Journal, pack, unpack
from mosaicreg.mosaic import Mosaic
from mosaicreg.pairs import Pairs
from mosaicreg.robust import median
from mosaicreg.solving import (
    DISTORTION,
    Edges,
    renumbered,
    rms_per_tile,
    solve_within,
)
from mosaicreg.source import Names
from mosaicreg.stage import stage_matrix
from mosaicreg.turns import solve_turns, turned_offsets

STAGE, MEASURED, CONFLICT = 0, 1, 2
VERDICT_NAMES = np.array(["stage", "measured", "conflict"])


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each tile lies, and how that is known. Columns, one row per tile.

    Args:
        names: (n,) tile names.
        positions: (n, 2) float64, (y, x) of each tile's first pixel in mosaic pixels.
        shapes: (n, 2) tile (height, width), px.
        verdict_codes: (n,) ``MEASURED`` (linked to its part by accepted pairs), ``STAGE`` (no
            accepted pair: placed by the stage) or ``CONFLICT`` (its accepted pairs disagree).
        residuals: (n,) px, rms misfit of the tile's pairs; NaN without any.
        sigmas: (n,) px, standard error of the position, per axis, against the mean of its part;
            NaN where placed by stage.
        parts: (n,) which tiles are linked; part 0 is the largest.
        rms: px, over all accepted pairs in use; NaN without any.
        stage: (n, 2) where the stage put the tiles, in the same frame.
        stage_matrix: (2, 2), takes stage offsets to pixel offsets (camera rotation, pixel size).
        pairs: what the layout was solved from, or None.
        used: (m,) which of the pairs agree with the layout.
        angles: (n,) degrees by which each tile is turned about its centre, as `mosaicreg.turning`
            has it; None where tiles are only shifted. A position is then where the first pixel
            would lie, were the tile not turned.
    """

    names: Names
    positions: FloatArray
    shapes: IntArray
    verdict_codes: NDArray[np.uint8]
    residuals: FloatArray
    sigmas: FloatArray
    parts: IntArray
    rms: float = float("nan")
    stage: FloatArray | None = None
    stage_matrix: FloatArray = field(default_factory=lambda: np.eye(2))
    pairs: Pairs | None = None
    used: NDArray[np.bool_] | None = None
    angles: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def verdicts(self) -> NDArray[np.str_]:
        """(n,) ``"measured"``, ``"stage"`` or ``"conflict"``."""
        return VERDICT_NAMES[self.verdict_codes]

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many tiles have each verdict."""
        counts = np.bincount(self.verdict_codes, minlength=3).tolist()
        return dict(zip(VERDICT_NAMES.tolist(), counts, strict=True))

    @property
    def boxes(self) -> IntArray:
        """(n, 4) y0, x0, y1, x1 of the pixels that each tile owns; around them where turned."""
        if self.angles is None:
            return owned_boxes(self.positions, self.shapes)
        from mosaicreg.turned import turned_boxes

        return turned_boxes(self.positions, self.shapes, self.angles)

    @property
    def doubtful(self) -> float:
        """Share of the tiles not measured against the largest part; 0 for a single tile.

        Other parts lie to it only as the stage says, however well their tiles fit each other.
        """
        trusted = (self.verdict_codes == MEASURED) & (self.parts == 0)
        return 0.0 if len(self) == 1 else 1 - float(trusted.mean())

    def columns(self) -> dict[str, NDArray[Any]]:
        """Further columns of a layout file, by name."""
        table: dict[str, NDArray[Any]] = {
            "verdict": self.verdicts,
            "residual": self.residuals,
            "part": self.parts,
            "sigma": self.sigmas,
        }
        if self.angles is not None:
            table["angle"] = self.angles
        if self.stage is not None:
            table |= {"stage_y": self.stage[:, 0], "stage_x": self.stage[:, 1]}
        return table

    def __repr__(self) -> str:
        height, width = bounding_box(self.boxes).shape
        sigmas = self.sigmas[np.isfinite(self.sigmas)]
        known = f", positions known to {median(sigmas):.3f} px" if len(sigmas) else ""
        turned = ""
        if self.angles is not None:
            turned = f", turned by up to {np.abs(self.angles).max():.3f} degrees"
        c = self.counts
        parts = int(self.parts.max()) + 1
        return (
            f"Layout: {len(self)} tiles on {height} x {width} px: {c['measured']} measured, "
            f"{c['stage']} by stage, {c['conflict']} in conflict; {parts} part"
            f"{'s' if parts > 1 else ''}; rms {self.rms:.3f} px{known}{turned}"
        )

    def _repr_html_(self) -> str:
        from mosaicreg.tables import tiles_html

        place = {"tile": self.names, "y": self.positions[:, 0], "x": self.positions[:, 1]}
        return tiles_html(repr(self), self.boxes, {**place, **self.columns()})

    def plot(self, ax: Any | None = None) -> Any:
        """Draw the tiles by verdict and residual, and what the stage's word was off by.

        Gives back the matplotlib axes; those given, or new ones.

        Raises:
            MissingExtraError: where matplotlib is not installed.
        """
        from mosaicreg.plots import axes_for, draw_layout

        ax = axes_for(ax)
        moves = None if self.stage is None else self.positions - self.stage
        draw_layout(ax, self.boxes, self.verdicts.tolist(), self.residuals, moves)
        ax.set_title(f"{ax.get_title()} rms {self.rms:.3f} px".strip())
        return ax


def misfits(layout: Layout) -> FloatArray:
    """(m,) px, how far each pair's offset is from the layout; NaN where nothing was found."""
    pairs = layout.pairs
    if pairs is None:
        return np.empty(0)
    offsets = pairs.offsets
    if pairs.angle is not None and layout.angles is not None:
        offsets = turned_offsets(pairs, np.arange(len(pairs)), layout.shapes, layout.angles)
    there = layout.positions[pairs.moving] - layout.positions[pairs.fixed]
    found: FloatArray = np.linalg.norm(offsets - there, axis=1)
    return found


def stage_layout(mosaic: Mosaic) -> Layout:
    """The layout that takes the stage's word for every tile. It always exists."""
    n = len(mosaic)
    positions = mosaic.positions - mosaic.positions.min(axis=0)
    return Layout(
        names=mosaic.names,
        positions=positions,
        shapes=mosaic.shapes,
        verdict_codes=np.full(n, STAGE, dtype=np.uint8),
        residuals=np.full(n, np.nan),
        sigmas=np.full(n, np.nan),
        parts=np.arange(n),
        stage=positions,
    )


def layout_from_columns(mosaic: Mosaic, columns: Mapping[str, Any]) -> Layout:
    """A layout at the mosaic's own positions, with what a layout file says about each tile."""
    n = len(mosaic)
    plain = stage_layout(mosaic)
    code = {name: k for k, name in enumerate(VERDICT_NAMES.tolist())}

    def numbers(name: str) -> FloatArray:
        cells = columns.get(name, [""] * n)
        return np.array([np.nan if c in ("", None) else float(c) for c in cells])

    verdicts = [code.get(str(v), STAGE) for v in columns.get("verdict", ["stage"] * n)]
    parts = numbers("part")
    stage = np.stack([numbers("stage_y"), numbers("stage_x")], axis=1)
    return Layout(
        names=mosaic.names,
        positions=mosaic.positions,
        shapes=mosaic.shapes,
        verdict_codes=np.array(verdicts, dtype=np.uint8),
        residuals=numbers("residual"),
        sigmas=numbers("sigma"),
        parts=np.arange(n) if np.isnan(parts).any() else parts.astype(np.int64),
        rms=plain.rms,
        stage=None if np.isnan(stage).any() else stage,
        angles=np.nan_to_num(numbers("angle")) if "angle" in columns else None,
    )


def solve_layout(
    mosaic: Mosaic,
    pairs: Pairs,
    max_shift: float | None = None,
    constraints: Constraints | None = None,
) -> Layout:
    """All positions at once from the accepted pairs.

    Args:
        mosaic: the tiles; its positions are the stage's word.
        pairs: as `mosaicreg.register` gives them; rejected ones have no influence. Where they
            hold angles, tiles are turned too.
        max_shift: px per axis; within its part no tile leaves this window around where the stage,
            its matrix fitted, puts it. `Mosaic.max_shift` where None.
        constraints: what people know better; it goes before everything else.

    Returns:
        The layout, its smallest y and x at 0, or, with pinned tiles, where they hold it.
    """
    n = len(mosaic)
    window = mosaic.max_shift if max_shift is None else float(max_shift)
    use, offsets, angles = _believed(mosaic, pairs, constraints)
    edges = Edges(pairs.fixed[use], pairs.moving[use], offsets, pairs.sigma[use], n)
    told = mosaic.positions[edges.moving] - mosaic.positions[edges.fixed]
    matrix = stage_matrix(told, edges.offset)
    centre = mosaic.positions.mean(axis=0)
    model = centre + (mosaic.positions - centre) @ matrix.T
    pinned = constraints is not None and len(constraints.pinned) > 0
    if constraints is not None:
        edges = _with_constraints(edges, constraints, pinned)
    if pinned:
        model = np.vstack([model, np.zeros(2)])  # the ground that pins stand on
    bend = max(1.0, DISTORTION * float(mosaic.shapes.max()))
    found = solve_within(edges, model, bend, window)
    moved, agree, parts = found.moved, found.agree, found.parts
    if pinned:
        moved[parts == parts[n]] -= moved[n]
    misfit = edges.misfit(model + moved)
    positions = (model + moved)[:n]
    shift = np.zeros(2) if pinned else positions.min(axis=0)
    stage = mosaic.positions + median(positions - mosaic.positions)
    used = np.zeros(len(pairs), dtype=bool)
    used[use] = agree[: len(use)]
    return Layout(
        names=mosaic.names,
        positions=positions - shift,
        shapes=mosaic.shapes,
        verdict_codes=_verdicts(edges, agree, found.strays)[:n],
        residuals=rms_per_tile(edges, misfit, agree)[:n],
        sigmas=found.sigmas[:n],
        parts=renumbered(parts[:n]),
        rms=float(np.sqrt(np.mean(misfit[agree] ** 2))) if agree.any() else float("nan"),
        stage=stage - shift,
        stage_matrix=matrix,
        pairs=pairs,
        used=used,
        angles=angles,
    )


def _believed(
    mosaic: Mosaic, pairs: Pairs, constraints: Constraints | None
) -> tuple[IntArray, FloatArray, FloatArray | None]:
    """Which pairs may speak, (m, 2) the offsets that they tell, and the angles of all tiles."""
    allowed = pairs.accepted
    if constraints is not None:
        allowed &= ~_forbidden(pairs, constraints)
    use = np.flatnonzero(allowed)
    if pairs.angle is None:
        return use, pairs.offsets[use], None
    angles, agree = solve_turns(pairs, use, mosaic.shapes)
    use = use[agree]
    return use, turned_offsets(pairs, use, mosaic.shapes, angles), angles


def keep_layout(journal: Journal, key: str, layout: Layout) -> None:
    """Enter a layout into a journal."""
    journal.remember("layout", key, pack(layout))


def kept_layout(journal: Journal, key: str, mosaic: Mosaic) -> Layout | None:
    """The layout that `keep_layout` entered, or None; it is of these very tiles."""
    arrays = journal.recall("layout", key)
    if arrays is None:
        return None
    layout: Layout = unpack(Layout, arrays, {"pairs": Pairs}, names=mosaic.names)
    return layout


def solve_again(
    mosaic: Mosaic,
    layout: Layout,
    max_shift: float | None = None,
    constraints: Constraints | None = None,
) -> Layout:
    """Solve a layout's own pairs once more, from the stage positions it remembers.

    Raises:
        InputError: where the layout does not hold its pairs.
    """
    if layout.pairs is None or layout.stage is None:
        raise InputError("this layout does not hold the pairs it was solved from; a .json one does")
    return solve_layout(
        mosaic.moved(layout.stage, mosaic.origin), layout.pairs, max_shift, constraints
    )


def _forbidden(pairs: Pairs, constraints: Constraints) -> NDArray[np.bool_]:
    """(m,) which pairs people forbade."""
    low, high = np.minimum(pairs.fixed, pairs.moving), np.maximum(pairs.fixed, pairs.moving)
    top = int(max(high.max(initial=0), constraints.forbidden.max(initial=0))) + 1
    keys = constraints.forbidden[:, 0] * top + constraints.forbidden[:, 1]
    return np.isin(low * top + high, keys)


def _with_constraints(edges: Edges, constraints: Constraints, pinned: bool) -> Edges:
    """The pairs, and matches and pins as pairs beyond doubt; pins are pairs with the ground."""
    ground = np.full(len(constraints.pinned), edges.tiles)
    added = len(constraints.matched) + len(constraints.pinned)
    return Edges(
        fixed=np.concatenate([edges.fixed, constraints.matched[:, 0], ground]),
        moving=np.concatenate([edges.moving, constraints.matched[:, 1], constraints.pinned]),
        offset=np.concatenate([edges.offset, constraints.offsets, constraints.places]),
        sigma=np.concatenate([edges.sigma, constraints.match_sigma, constraints.pin_sigma]),
        tiles=edges.tiles + pinned,
        certain=np.concatenate([edges.certain, np.ones(added, dtype=bool)]),
    )


def _verdicts(
    edges: Edges, agree: NDArray[np.bool_], strays: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    good = edges.per_tile(agree.astype(np.float64))
    bad = edges.per_tile((~agree).astype(np.float64))
    verdicts = np.where(good > 0, MEASURED, STAGE)
    verdicts[((bad >= good) & (bad > 0)) | strays] = CONFLICT
    return verdicts.astype(np.uint8)
