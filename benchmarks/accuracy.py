"""How far positions are from the known truth, on simulated acquisitions; ours and other programs'.

    python benchmarks/accuracy.py [NAME ...]            # ours, tiles in memory
    python benchmarks/accuracy.py --peers               # and all peers, the same tiles from disk
    python benchmarks/accuracy.py --report docs/accuracy.md

10 x 10 tiles of 1024 x 1024 px, 10 % overlap, stage errors up to 12 px per axis. Errors are
distances to the true position after the median offset is removed. Ours are told over the measured
tiles, the median removed for each part, and over all tiles as the others' are. A tile is textured
where over 5 % of one of its overlaps is tissue. Each peer runs in an environment of its own, see
`harness`; what was measured is kept there until the code or the adapter changes, and ``--report``
writes it as a page.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import harness
import numpy as np

import mosaicreg
from mosaicreg import synthetic
from mosaicreg.demo import position_errors
from mosaicreg.synthetic import CLEAN, Acquisition, Camera, Specimen

GRID = {"grid": (10, 10), "tile": (1024, 1024), "overlap": 0.1, "stage_error": 12.0}
SPARSE = Acquisition(**GRID, specimen=Specimen(4, 0.6))
CASES = {
    "clean, whole pixels": Acquisition(
        **GRID, subpixel=False, camera=CLEAN, specimen=Specimen(1, 0.1)
    ),
    "clean, sub-pixel": Acquisition(**GRID, camera=CLEAN, specimen=Specimen(1, 0.1)),
    "noisy, vignetted": Acquisition(**GRID, specimen=Specimen(2, 0.1)),
    "noisy, blurred by 4 px": Acquisition(**GRID, specimen=Specimen(3, 0.1), camera=Camera(blur=4)),
    "noisy, 60 % empty": SPARSE,
    "noisy, 60 % bare glass": replace(SPARSE, specimen=Specimen(4, 0.6, residue=0.0)),
}
BOUNDS = {
    "clean, whole pixels": 0.005,
    "clean, sub-pixel": 0.01,
    "noisy, vignetted": 0.02,
    "noisy, blurred by 4 px": 0.1,
    "noisy, 60 % empty": 0.03,
    "noisy, 60 % bare glass": 0.03,
}
"""px rms that we hold ourselves to."""
TEXTURED, EMPTY = 0.05, 1e-3
"""Shares of tissue in an overlap from which it is textured, and below which it is empty."""
PACKAGES = ("mosaicreg", "ashlar", "multiview-stitcher", "itk-montage", "sofima", "m2stitch",
            "numpy", "scipy", "scikit-image", "dask", "jax", "itk")  # fmt: skip


def tissue_in_overlap(acquisition: Acquisition, fixed: int, moving: int) -> float:
    """Mean share of tissue where two tiles truly overlap."""
    low = np.maximum(acquisition.truth[fixed], acquisition.truth[moving])
    high = np.minimum(acquisition.truth[fixed], acquisition.truth[moving]) + acquisition.tile
    shape = np.maximum(np.ceil((high - low) / 8), 1).astype(int)
    # every eighth pixel is enough for something as smooth
    coarse = acquisition.specimen.tissue(tuple(low), tuple((shape * 8).tolist()))[::8, ::8]
    return float(coarse.mean())


def texture(acquisition: Acquisition, pairs: np.ndarray) -> np.ndarray:
    """(m,) share of tissue in the overlap of each pair."""
    return np.array([tissue_in_overlap(acquisition, i, j) for i, j in pairs])


def textured_tiles(acquisition: Acquisition) -> np.ndarray:
    """(n,) which tiles have an overlap with over 5 % tissue."""
    pairs = acquisition.mosaic.neighbours()
    rich = np.zeros(len(acquisition), dtype=bool)
    rich[pairs[texture(acquisition, pairs) > TEXTURED].ravel()] = True
    return rich


def summary(error: np.ndarray, name: str = "") -> dict[str, float]:
    """rms and largest of some errors; how many there are none of."""
    known = error[np.isfinite(error)]
    rms = float(np.sqrt(np.mean(known**2))) if len(known) else float("nan")
    row = {f"{name}rms": rms, f"{name}max": float(known.max()) if len(known) else float("nan")}
    return row | ({f"{name}lost": len(error) - len(known)} if len(known) < len(error) else {})


def ours(acquisition: Acquisition, folder: Path | None = None) -> dict[str, object]:
    """Register and solve one acquisition, held in memory or from its files."""
    if folder is None:
        with ThreadPoolExecutor() as pool:
            tiles = list(pool.map(acquisition.tile_image, range(len(acquisition))))
        mosaic = mosaicreg.Mosaic.from_arrays(tiles, acquisition.stage)
    else:
        mosaic = mosaicreg.open_mosaic(folder, positions=folder / "positions.csv")
    start = time.process_time()
    pairs = mosaicreg.register(mosaic)
    layout = mosaicreg.solve_layout(mosaic, pairs)
    spent = time.process_time() - start
    measured = layout.verdicts == "measured"
    table = np.stack([pairs.fixed, pairs.moving], axis=1)
    share = texture(acquisition, table)
    rich = textured_tiles(acquisition)
    error = position_errors(layout, acquisition.truth)
    whole = errors(layout.positions, acquisition.truth)
    away = pairs.offsets - (acquisition.truth[pairs.moving] - acquisition.truth[pairs.fixed])
    wrong = pairs.accepted & (np.abs(away).max(axis=1) > 1)
    return {
        "program": "mosaicreg",
        **summary(error[measured]),
        "measured": int(measured.sum()),
        **summary(whole, "all "),
        **summary(whole[rich], "textured "),
        "pairs": len(pairs),
        "accepted": int(pairs.accepted.sum()),
        "wrong": int(wrong.sum()),
        "textured pairs": int((share > TEXTURED).sum()),
        "textured accepted": int((pairs.accepted & (share > TEXTURED)).sum()),
        "empty pairs": int((share < EMPTY).sum()),
        "empty accepted": int((pairs.accepted & (share < EMPTY)).sum()),
        "CPU s": spent,
    }


def errors(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(n,) distance to the truth, the median offset removed; NaN where there is no position."""
    away = found - truth
    known = np.isfinite(away).all(axis=1)
    if known.any():
        away = away - np.median(away[known], axis=0)
    return np.hypot(*away.T)


def peer_row(peer: harness.Peer, extra: tuple[str, ...], case: str) -> dict[str, object]:
    """Positions of one peer against the truth."""
    name = " ".join((peer.name, *extra))
    folder, truth, rich = tiles_of(case), CASES[case].truth, textured_tiles(CASES[case])
    out = harness.CACHE / "accuracy" / name
    shutil.rmtree(out, ignore_errors=True)
    try:
        python = harness.environment(peer)
    except RuntimeError as error:
        return {"program": name, "failed": f"does not install: {error}"[:200]}
    script = harness.ADAPTERS / peer.script
    cost = harness.run([python, script, "register", folder, out, *(e[-1:] for e in extra)])
    row: dict[str, object] = {"program": name, "exit code": cost.code, "CPU s": cost.cpu}
    row["version"] = harness.versions(python, PACKAGES)
    if cost.code or not (out / "positions.csv").exists():
        return row | {"failed": (cost.output.strip().splitlines() or ["no output"])[-1][:200]}
    seen = harness.read_positions(out / "positions.csv")
    found = np.array([seen.get(n, (np.nan, np.nan)) for n in CASES[case].names])
    error = errors(found, truth)
    return row | summary(error, "all ") | summary(error[rich], "textured ")


def tiles_of(case: str) -> Path:
    """The folder of a case's tiles, written once."""
    acquisition = CASES[case]
    key = harness.digest(repr(acquisition), Path(synthetic.__file__))
    folder = harness.CACHE / "tiles" / f"accuracy-{key}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        acquisition.write(folder)
        (folder / "complete").touch()
    return folder


def compare(wanted: list[str], peers: list[str], results: Path) -> None:
    """Ours and all peers on the same tiles; a row is kept until what it depends on changes."""

    def kept() -> list[dict]:
        return json.loads(results.read_text()) if results.exists() else []

    def keep(case: str, program: str, key: str, measure: Callable[[], dict[str, object]]) -> None:
        own = [r for r in kept() if (r["case"], r["program"]) == (case, program)]
        if not (own and own[0].get("key") == key):
            row = {"case": case, "date": date.today().isoformat(), "key": key, **measure()}
            # Another run may have written since.
            rows = [r for r in kept() if (r["case"], r["program"]) != (case, program)] + [row]
            results.parent.mkdir(parents=True, exist_ok=True)
            results.write_text(json.dumps(rows, indent=1))
            own = [row]
        show(case, own[0])

    def mine(case: str) -> dict[str, object]:
        version = harness.versions(Path(sys.executable), PACKAGES)
        return ours(CASES[case], tiles_of(case)) | {"version": version}

    code = harness.own_code()  # before measuring loads more
    for case in wanted:
        acquired = (repr(CASES[case]), Path(synthetic.__file__))
        keep(case, "mosaicreg", harness.digest(*acquired, *code), partial(mine, case))
        for peer in harness.PEERS:
            if peers and peer.name not in peers:
                continue
            adapter = (harness.ADAPTERS / peer.script, harness.ADAPTERS / "common.py")
            key = harness.digest(*acquired, repr(peer), *adapter)
            for extra in ((), ("blur 2",)) if peer.name == "ASHLAR" else ((),):
                program = " ".join((peer.name, *extra))
                keep(case, program, key, partial(peer_row, peer, extra, case))


def show(case: str, row: dict[str, object]) -> None:
    """One line."""
    cells = [
        f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}"
        for k, v in row.items()
        if k not in ("case", "date", "version", "key")
    ]
    print(f"{case:<24} {', '.join(cells)}", flush=True)


def report(rows: list[dict]) -> str:
    """The page: one table per case, versions, and what of ours failed."""
    dates = sorted({r["date"] for r in rows})
    peers = any(r["program"] != "mosaicreg" for r in rows)
    order = ["mosaicreg", *(p.name for p in harness.PEERS)]
    lines = [
        "# Accuracy, ours and others'" if peers else "# Accuracy",
        "",
        f"Measured by `python benchmarks/accuracy.py{' --peers' if peers else ''}` on "
        f"{' and '.join(dates)}; "
        f"{harness.machine()}.",
        "",
        "Simulated acquisitions with known truth: 10 x 10 tiles of 1024 x 1024 px, 10 % overlap,",
        "stage errors up to 12 px per axis; the same files for all. Errors are px from the true",
        "position after the median offset is removed, as rms / largest. *All*: all 100 tiles.",
        "*Textured*: tiles of which one overlap at least holds over 5 % tissue. *Measured*: the",
        "tiles that the program itself says it measured, against their part; only mosaicreg says.",
    ]
    if peers:
        lines += [
            "Peers were told the stage's positions or the overlap and ran with their own defaults,",
            "but ASHLAR and ITKMontage may move tiles by 30 px, SOFIMA tries two overlaps, and",
            "m2stitch's threshold of correlation is 0.1. All that left positions behind ended with",
            "exit code 0. CPU seconds are of a busy machine; of peers they include the start and",
            "reading files.",
        ]
    else:
        lines.append("`--peers` adds other programs; none is in this table.")
    for case in CASES:
        here = [r for r in rows if r["case"] == case]
        here.sort(key=lambda r: (order.index(r["program"].split(" blur")[0]), r["program"]))
        if not here:
            continue
        lines += ["", f"## {case[0].upper()}{case[1:]}", ""]
        lines += [
            "| program | measured | all | textured | CPU s | on |",
            "|---|---|---|---|---|---|",
        ]
        for r in here:
            if "failed" in r:
                lines.append(f"| {r['program']} | failed: {r['failed']} | | | | {r['date']} |")
                continue
            measured = (
                f"{_pair(r, '')} ({r['measured']} tiles)" if "measured" in r else "does not say"
            )
            lines.append(
                f"| {r['program']} | {measured} | {_pair(r, 'all ')} | {_pair(r, 'textured ')} | "
                f"{r['CPU s']:.0f} | {r['date']} |"
            )
        seen_here = {str(r["program"]).split(" blur")[0] for r in here}
        missing = [p.name for p in harness.PEERS if p.name not in seen_here]
        if missing and peers:
            lines.append(f"| {', '.join(missing)} | not measured in this run | | | | |")
        own = next((r for r in here if r["program"] == "mosaicreg"), None)
        if own:
            lines += ["", _verdict(case, own)]
    lines += ["", "## Versions", ""]
    seen = {r["program"].split(" blur")[0]: r["version"] for r in rows if "version" in r}
    return "\n".join([*lines, *(f"- {p}: {v}" for p, v in seen.items())]) + "\n"


def _pair(row: dict, name: str) -> str:
    if f"{name}rms" not in row:
        return ""
    if np.isnan(row[f"{name}rms"]):
        return "no position"
    lost = f", {row[f'{name}lost']} tiles lost" if f"{name}lost" in row else ""
    return f"{row[f'{name}rms']:.3f} / {row[f'{name}max']:.3f}{lost}"


def _verdict(case: str, row: dict) -> str:
    """Our figures against our bounds, in words."""
    met = "within" if row["rms"] <= BOUNDS[case] else "MISSES"
    wrong = f", {row['wrong']} of them wrong" if "wrong" in row else ""
    words = (
        f"mosaicreg {met} its bound of {BOUNDS[case]} px rms; {row['accepted']} of "
        f"{row['pairs']} pairs accepted{wrong}."
    )
    if row.get("textured pairs", row["pairs"]) < row["pairs"]:
        words += (
            f" Of {row['textured pairs']} textured pairs {row['textured accepted']} were accepted, "
            f"of {row['empty pairs']} without any tissue {row['empty accepted']} (wanted: none)."
        )
    if case == "noisy, 60 % empty":
        words += (
            " Outside the tissue 1.5 % of its texture is left here, as on a real slide: what was "
            "accepted there was found by that, and is right."
        )
    return words


def main() -> None:
    """Print one row per case and program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="NAME")
    parser.add_argument(
        "--peers", nargs="*", metavar="PEER", help="all where none is named; `none`: ours"
    )
    parser.add_argument("--report", type=Path, metavar="MD", help="write what is known as a page")
    options = parser.parse_args()
    unknown = set(options.cases) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    wanted = options.cases or list(CASES)
    results = harness.CACHE / "accuracy.json"
    if options.peers is not None:
        compare(wanted, options.peers, results)
    elif options.report is None:
        print(
            f"mosaicreg {mosaicreg.__version__}, numpy {np.__version__}, "
            f"Python {platform.python_version()}, {platform.machine()}"
        )
        for name in wanted:
            show(name, ours(CASES[name]))
    if options.report is not None:
        options.report.write_text(report(json.loads(results.read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
