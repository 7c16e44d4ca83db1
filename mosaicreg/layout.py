"""`Layout`: where all tiles lie, solved from the accepted pairs at once.

Every accepted pair says that one tile lies at an offset from another; the stage says weakly where
each tile is. One sparse least-squares problem, made robust by reweighting (Cauchy weights with a
shrinking scale, Holland & Welsch 1977), gives all positions. Tiles that accepted pairs link form a
part; inside a part the stage has no say but for the part's place as a whole, so parts lie to each
other as the stage says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from mosaicreg.geometry import FloatArray, IntArray, bounding_box, owned_boxes
from mosaicreg.mosaic import Mosaic
from mosaicreg.mosaicfile import PositionTable, plain, read_positions, write_positions
from mosaicreg.opening import PATH_COLUMN, open_mosaic
from mosaicreg.pairs import Pairs
from mosaicreg.source import FileSource, Names
from mosaicreg.stage import stage_matrix
from mosaicreg.tables import columns_html

STAGE, MEASURED, CONFLICT = 0, 1, 2
VERDICT_NAMES = np.array(["stage", "measured", "conflict"])

SIGMA_FLOOR = 0.003
"""px; no offset is believed better than this: detail finer than the pixels biases it."""
DISTORTION = 1e-3
"""How far tiles may be bent against each other, as a share of their longest side, at least 1 px.

Offsets that are right differ from the best rigid layout by about this much; a wrong peak lies
anywhere in the window. The bound is not estimated from the misfits: in a small mosaic a few wrong
pairs would raise it until they pass, or the fit would please most pairs exactly and blame the
bending on the rest."""
OUTLIER = 3.0
"""A pair further off than this many times the distortion disagrees with the solution."""
REDUNDANT, REDUNDANT_PAIRS, CLEARLY_OFF = 0.25, 40, 8.0
"""With so large a share of spare pairs, among so many, the misfits themselves show how much tiles
are bent; then a pair also disagrees that is so many standard deviations off."""
EXACT_PAIRS, PROJECTIONS = 1500, 32
"""Up to so many pairs the covariance is exact; with more, it is taken from so many mixtures."""
SETTLED = 0.01
"""px; trust in pairs is settled when hardly a tile moves further from one step to the next."""
STEPS = 30
"""Most reweighting steps; the usual number is ten."""


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
    def doubtful(self) -> float:
        """Share of the tiles that are not measured; 0 for a single tile."""
        return 0.0 if len(self) == 1 else 1 - self.counts["measured"] / len(self)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Further columns of a layout file, by name."""
        table: dict[str, NDArray[Any]] = {
            "verdict": self.verdicts,
            "residual": self.residuals,
            "part": self.parts,
            "sigma": self.sigmas,
        }
        if self.stage is not None:
            table |= {"stage_y": self.stage[:, 0], "stage_x": self.stage[:, 1]}
        return table

    def __repr__(self) -> str:
        height, width = bounding_box(owned_boxes(self.positions, self.shapes)).shape
        c = self.counts
        parts = int(self.parts.max()) + 1
        return (
            f"Layout: {len(self)} tiles on {height} x {width} px: {c['measured']} measured, "
            f"{c['stage']} by stage, {c['conflict']} in conflict; {parts} part"
            f"{'s' if parts > 1 else ''}; rms {self.rms:.3f} px"
        )

    def _repr_html_(self) -> str:
        place = {"tile": self.names, "y": self.positions[:, 0], "x": self.positions[:, 1]}
        return columns_html(repr(self), {**place, **self.columns()})


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
    )


def solve_layout(mosaic: Mosaic, pairs: Pairs, max_shift: float | None = None) -> Layout:
    """All positions at once from the accepted pairs.

    Args:
        mosaic: the tiles; its positions are the stage's word.
        pairs: as `mosaicreg.register` gives them; rejected ones have no influence.
        max_shift: px per axis; within its part no tile leaves this window around where the stage,
            its matrix fitted, puts it. `Mosaic.max_shift` where None.

    Returns:
        The layout, its smallest y and x at 0.
    """
    window = mosaic.max_shift if max_shift is None else float(max_shift)
    use = np.flatnonzero(pairs.accepted)
    edges = _Edges(
        pairs.fixed[use], pairs.moving[use], pairs.offsets[use], pairs.sigma[use], len(mosaic)
    )
    told = mosaic.positions[edges.moving] - mosaic.positions[edges.fixed]
    matrix = stage_matrix(told, edges.offset)
    model = mosaic.positions @ matrix.T
    scale = max(1.0, DISTORTION * float(mosaic.shapes.max()))
    kept = np.ones(len(use), dtype=bool)
    strays = np.zeros(len(mosaic), dtype=bool)
    while True:
        moved, agree, weight = _solve_robustly(edges, model, kept, scale)
        parts = _parts(edges, agree)
        moved[np.bincount(parts)[parts] == 1] = 0
        out = (np.abs(moved - _part_medians(moved, parts)) > window).any(axis=1) & ~strays
        if not out.any():
            break
        # A tile outside its window cannot be right: none of its pairs is believed.
        strays |= out
        kept &= ~(strays[edges.fixed] | strays[edges.moving])
    positions = model + moved
    misfit = edges.misfit(positions)
    shift = positions.min(axis=0)
    stage = mosaic.positions + np.median(positions - mosaic.positions, axis=0)
    used = np.zeros(len(pairs), dtype=bool)
    used[use] = agree
    return Layout(
        names=mosaic.names,
        positions=positions - shift,
        shapes=mosaic.shapes,
        verdict_codes=_verdicts(edges, agree, strays),
        residuals=_rms_per_tile(edges, misfit, agree),
        sigmas=_sigma_per_tile(edges, weight, parts),
        parts=parts,
        rms=float(np.sqrt(np.mean(misfit[agree] ** 2))) if agree.any() else float("nan"),
        stage=stage - shift,
        stage_matrix=matrix,
        pairs=pairs,
        used=used,
    )


@dataclass(frozen=True, slots=True)
class _Edges:
    """Accepted pairs as columns: moving lies at ``offset`` from fixed, known to ``sigma`` px."""

    fixed: IntArray
    moving: IntArray
    offset: FloatArray
    sigma: FloatArray
    tiles: int

    def __len__(self) -> int:
        return len(self.fixed)

    def misfit(self, positions: FloatArray) -> FloatArray:
        """(m,) px, how far each pair is from ``positions``."""
        found: FloatArray = np.linalg.norm(
            positions[self.moving] - positions[self.fixed] - self.offset, axis=1
        )
        return found

    def per_tile(self, values: NDArray[Any]) -> NDArray[Any]:
        """(n,) sums of one value per pair over the pairs of each tile."""
        return np.bincount(self.fixed, values, self.tiles) + np.bincount(
            self.moving, values, self.tiles
        )

    def incidence(self) -> csr_array:
        """(m, n) matrix that takes positions to offsets."""
        m = len(self)
        rows = np.tile(np.arange(m), 2)
        signs = np.repeat([-1.0, 1.0], m)
        columns = np.concatenate([self.fixed, self.moving])
        return coo_array((signs, (rows, columns)), shape=(m, self.tiles)).tocsr()


def _solve_robustly(
    edges: _Edges, model: FloatArray, kept: NDArray[np.bool_], bend: float
) -> tuple[FloatArray, NDArray[np.bool_], FloatArray]:
    """Reweighted least squares over the pairs ``kept``, which may misfit by about ``bend`` px.

    Returns:
        ``(moved, agree, weight)``: (n, 2) how far each tile moves from ``model``, (m,) which pairs
        agree with that, and (m,) their final weights in 1 / px^2.
    """
    moved = np.zeros_like(model)
    agree, weight = kept.copy(), np.zeros(len(edges))
    if not kept.any():
        return moved, agree, weight
    incidence = edges.incidence()
    # Solving for the move, not the position, keeps full precision in mosaics of a million pixels.
    wanted = edges.offset - (model[edges.moving] - model[edges.fixed])
    variance = edges.sigma**2 + SIGMA_FLOOR**2
    trust, scale = np.ones(len(edges)), np.inf
    for _ in range(STEPS):
        before = moved
        weight = np.where(kept, trust / variance, 0.0)
        moved = _least_squares(incidence, weight)(wanted)
        misfit = np.linalg.norm(incidence @ moved - wanted, axis=1)
        if scale == bend and np.quantile(np.abs(moved - before), 0.999) < SETTLED:
            break
        # The scale shrinks step by step: early solutions are still bent by wrong pairs.
        scale = max(bend, min(scale, 2 * float(misfit[kept].max())) / 2)
        trust = 1 / (1 + (misfit / scale) ** 2)
        believed = np.where(kept & (misfit <= OUTLIER * scale), trust, 0.0)
        variance = edges.sigma**2 + SIGMA_FLOOR**2 + _bending(edges, misfit, believed)[0]
    agree = kept & (misfit <= OUTLIER * bend)
    for _ in range(STEPS):
        bending, spare = _bending(edges, misfit, agree.astype(np.float64))
        variance = edges.sigma**2 + SIGMA_FLOOR**2 + bending
        limit = np.full(len(edges), OUTLIER * bend)
        if spare > REDUNDANT and np.count_nonzero(agree) > REDUNDANT_PAIRS:
            limit = np.clip(CLEARLY_OFF * np.sqrt(2 * variance), 0.3, limit)
        trust = 1 / (1 + (misfit / bend) ** 2)
        weight = np.where(agree, trust / variance, 0.0)
        moved = _least_squares(incidence, weight)(wanted)
        misfit = np.linalg.norm(incidence @ moved - wanted, axis=1)
        before, agree = agree, kept & (misfit <= limit)
        if (agree == before).all():
            break
    return moved, agree, np.where(agree, weight, 0.0)


def _bending(edges: _Edges, misfit: FloatArray, trust: FloatArray) -> tuple[float, float]:
    """px^2 per axis by which pairs misfit beyond their standard errors: tiles are bent.

    Also the share of the pairs that the positions do not use up. Pairs that are known best tell
    most, as far as the bending leaves them known.
    """
    pairs = int(np.count_nonzero(trust))
    linked = int(np.count_nonzero(edges.per_tile((trust > 0).astype(np.float64))))
    spare = (pairs - linked + 1) / max(1, pairs)
    if spare <= 0:
        return 0.0, 0.0
    own = edges.sigma**2 + SIGMA_FLOOR**2
    # The positions have taken up a share of the misfit, as large as their share of the numbers.
    excess = misfit**2 / (2 * spare) - own
    bending = 0.0
    for _ in range(10):
        weight = trust / (own + bending) ** 2
        bending = max(0.0, float(np.average(excess, weights=weight)))
    return bending, spare


def _least_squares(incidence: csr_array, weight: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """The function that minimises ``sum weight |incidence @ moved - wanted|^2`` over ``moved``.

    Very weakly it minimises ``|moved|^2`` too, which puts the mean move of each part at 0: the part
    stays where the stage has it. It takes ``wanted`` (m, k), k problems at once, to (n, k).
    """
    weak = 1e-9 * float(np.median(weight[weight > 0])) if weight.any() else 1.0
    normal = incidence.T @ diags_array(weight) @ incidence
    normal = csc_array(normal + weak * diags_array(np.ones(normal.shape[0])))
    factor = splu(
        normal,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )

    def solve(wanted: FloatArray) -> FloatArray:
        moved: FloatArray = factor.solve(incidence.T @ (weight[:, None] * wanted))
        return moved

    return solve


def _parts(edges: _Edges, agree: NDArray[np.bool_]) -> IntArray:
    """(n,) number of the part of each tile, the largest part first, then by lowest tile."""
    fixed, moving = edges.fixed[agree], edges.moving[agree]
    links = coo_array((np.ones(len(fixed)), (fixed, moving)), shape=(edges.tiles, edges.tiles))
    count, label = connected_components(links, directed=False)
    size = np.bincount(label, minlength=count)
    first = np.full(count, edges.tiles)
    np.minimum.at(first, label, np.arange(edges.tiles))
    rank = np.empty(count, dtype=np.int64)
    rank[np.lexsort((first, -size))] = np.arange(count)
    parts: IntArray = rank[label]
    return parts


def _part_medians(values: FloatArray, parts: IntArray) -> FloatArray:
    """(n, 2) median over each tile's part, for every tile."""
    order = np.argsort(parts, kind="stable")
    size = np.bincount(parts)
    ends = np.cumsum(size)
    result = values.copy()
    for part in np.flatnonzero(size > 1):
        members = order[ends[part] - size[part] : ends[part]]
        result[members] = np.median(values[members], axis=0)
    return result


def _verdicts(
    edges: _Edges, agree: NDArray[np.bool_], strays: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    good = edges.per_tile(agree.astype(np.float64))
    bad = edges.per_tile((~agree).astype(np.float64))
    verdicts = np.where(good > 0, MEASURED, STAGE)
    verdicts[((bad >= good) & (bad > 0)) | strays] = CONFLICT
    return verdicts.astype(np.uint8)


def _rms_per_tile(edges: _Edges, misfit: FloatArray, agree: NDArray[np.bool_]) -> FloatArray:
    count = edges.per_tile(agree.astype(np.float64))
    total = edges.per_tile(np.where(agree, misfit**2, 0.0))
    mean: FloatArray = np.divide(total, count, out=np.full(edges.tiles, np.nan), where=count > 0)
    return np.sqrt(mean)


def _sigma_per_tile(edges: _Edges, weight: FloatArray, parts: IntArray) -> FloatArray:
    """Standard error of each position against the mean of its part, from the solver's covariance.

    The solve is linear in the offsets, so what it makes of one standard error in each pair, summed
    in squares, is the variance. For many pairs a few random mixtures of their errors stand for all
    (a random projection keeps the length of every row: Johnson & Lindenstrauss 1984; with 32 of
    them sigma is right to about an eighth).
    """
    used = np.flatnonzero(weight > 0)
    exact = len(used) <= EXACT_PAIRS
    columns = len(used) if exact else PROJECTIONS
    scale = 1 / np.sqrt(weight[used])
    signs = np.random.default_rng(0).integers(0, 2, (columns, len(used))) * 2.0 - 1
    solve = _least_squares(edges.incidence(), weight)
    size = np.bincount(parts)
    variance = np.zeros(edges.tiles)
    for first in range(0, columns, 8):
        errors = np.zeros((len(edges), min(8, columns - first)))
        for k in range(errors.shape[1]):
            chosen = slice(first + k, first + k + 1) if exact else slice(None)
            errors[used[chosen], k] = scale[chosen] if exact else scale * signs[first + k]
        moved = solve(errors)
        for k in range(errors.shape[1]):
            mean = np.bincount(parts, moved[:, k]) / size
            variance += (moved[:, k] - mean[parts]) ** 2
    sigma = np.sqrt(variance if exact else variance / columns)
    return np.where(edges.per_tile((weight > 0).astype(np.float64)) > 0, sigma, np.nan)


def save_layout(
    path: Path, mosaic: Mosaic, layout: Layout, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write a layout as ``.csv``, TileConfiguration ``.txt``, ``.mosaic`` or ``.json``.

    All hold positions at full precision and where the tiles' files are, relative to the layout;
    ``.csv`` adds verdicts and residuals, ``.json`` everything: pairs, scores, provenance.
    """
    suffix = path.suffix.lower()
    files = _files_from(path.parent, mosaic)
    names = [str(n) for n in mosaic.names]
    facts: dict[str, Any] = {}
    if suffix in (".txt", ".mosaic"):
        table = PositionTable(files or names, layout.positions)
    else:
        columns: dict[str, Any] = dict(layout.columns())
        if files:
            columns[PATH_COLUMN] = files
        if suffix == ".json":
            columns |= {"height": layout.shapes[:, 0], "width": layout.shapes[:, 1]}
            facts = _facts(layout, provenance)
        table = PositionTable(names, layout.positions, columns, facts)
    write_positions(path, table, layout.shapes)


def load_layout(path: Path) -> tuple[Mosaic, Layout]:
    """The tiles that a layout file names, at its positions, and the layout itself.

    Raises:
        InputError: where the file or the tiles that it names cannot be read.
    """
    mosaic = open_mosaic(path)
    table = read_positions(path)
    layout = layout_from_columns(mosaic, table.columns)
    if "pairs" in table.facts:
        pairs = Pairs.from_columns(table.facts["pairs"], table.facts.get("null_z", ()))
        layout = replace(
            layout,
            pairs=pairs,
            used=np.array(table.facts["pairs"]["used"], dtype=bool),
            stage_matrix=np.array(table.facts["stage_matrix"], dtype=np.float64),
            rms=float(table.facts["rms"] if table.facts["rms"] is not None else "nan"),
        )
    return mosaic, layout


def _files_from(folder: Path, mosaic: Mosaic) -> list[str]:
    """Paths of the tiles' files as seen from ``folder``, with forward slashes; [] for no files."""
    source = mosaic.source
    if not isinstance(source, FileSource):
        return []
    base = os.path.relpath(source.folder.resolve(), folder.resolve()).replace(os.sep, "/")
    prefix = "" if base == "." else base + "/"
    return [prefix + str(p) for p in source.paths]


def _facts(layout: Layout, provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "provenance": dict(provenance or {}),
        "transform": "translation",
        "units": "px, (y, x) of each tile's first pixel",
        "rms": None if np.isnan(layout.rms) else layout.rms,
        "stage_matrix": layout.stage_matrix.tolist(),
    }
    if layout.pairs is not None:
        used = layout.pairs.accepted if layout.used is None else layout.used
        columns = {**layout.pairs.columns(), "used": used}
        facts["pairs"] = {name: [plain(v) for v in column] for name, column in columns.items()}
        facts["null_z"] = layout.pairs.null_z.tolist()
    return facts
