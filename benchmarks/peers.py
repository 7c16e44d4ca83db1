"""What a mosaic costs here, with other programs, and at the least: CPU, wall time, memory.

    python benchmarks/peers.py                 # 4 x 4 and 10 x 10 tiles, three rounds, all peers
    python benchmarks/peers.py --sides 4 10 20 30 40 --plot docs/images/cost.png

All run in turn, round by round, so that a busy machine disturbs all alike: trust the ratios, and
CPU more than wall time. The first run makes tiles and environments (some GB) in the cache folder
that `harness` names.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median

import harness
import numpy as np

import mosaicreg

OURS, LIMIT = "mosaicreg", "limit"
CUT_OFF = "cut off"
OUR_PACKAGES = ("mosaicreg", "numpy", "scipy", "dask", "zarr", "tifffile", "numba")


@dataclass(frozen=True)
class Run:
    """One command of one program.

    Args:
        program: its name.
        step: ``register``, ``stitch``, or what else is measured.
        command: without the place of the output, which is added.
    """

    program: str
    step: str
    command: tuple[str | Path, ...]


def our_runs(tiles: Path, workers: int) -> list[Run]:
    """Our command line, and the start of Python with all that it imports."""
    here = Path(sys.executable).parent / "mosaicreg"
    flags = ("--positions", tiles / "positions.csv", "--overwrite", "--quiet", "--workers")
    return [
        Run(OURS, "start", (sys.executable, harness.ADAPTERS / "start.py")),
        Run(OURS, "register, 1 worker", (here, "register", tiles, *flags, "1")),
        Run(OURS, "register", (here, "register", tiles, *flags, str(workers))),
        Run(OURS, "stitch, 1 worker", (here, "stitch", tiles, *flags, "1")),
        Run(OURS, "stitch", (here, "stitch", tiles, *flags, str(workers))),
    ]


def peer_runs(tiles: Path, names: list[str]) -> Iterator[Run]:
    """All steps of the peers that can be installed; says which cannot."""
    for peer in harness.PEERS:
        if names and peer.name not in names:
            continue
        try:
            python = harness.environment(peer)
        except RuntimeError as error:
            print(f"{peer.name} is left out, it does not install: {error}")
            continue
        for step in peer.steps:
            yield Run(peer.name, step, (python, harness.ADAPTERS / peer.script, step, tiles))


def measure(run: Run, tiles: Path, out: Path, budget: float) -> dict[str, object]:
    """Cost and accuracy of one run; the reason where it failed."""
    harness.put_away(out)
    out.mkdir(parents=True)
    command = [*run.command]
    if run.program == OURS and run.step != "start":
        register = run.step.startswith("register")
        command += ["-o", out / ("positions.csv" if register else "out.ome.zarr")]
        if not register:
            command += ["--layout-out", out / "positions.csv"]
    else:
        command += [out]
    if run.program == LIMIT:
        command += [out.parent / f"{OURS} stitch" / "out.ome.zarr"]
    threads = 1 if run.program in (OURS, LIMIT) else None
    cost = harness.run(command, threads, budget)
    row: dict[str, object] = {
        "program": run.program,
        "step": run.step,
        "cpu": cost.cpu,
        "wall": cost.wall,
        "peak": cost.peak,
    }
    if cost.code == harness.CUT_OFF:
        row["failed"] = f"{CUT_OFF} after {cost.cpu:.0f} CPU s, {cost.wall:.0f} s"
    elif cost.code:
        row["failed"] = " ".join(cost.output.strip().splitlines()[-1:]) or f"exit {cost.code}"
    elif run.program == LIMIT:
        row |= {"parts": json.loads(cost.output.strip().splitlines()[-1])}
    elif run.step != "start":
        error = harness.position_errors(out / "positions.csv", tiles / "truth.csv")
        row["rms"] = float(np.sqrt(np.mean(error**2)))
    return row


def rounds(side: int, options: argparse.Namespace, known: list[dict[str, object]]) -> Iterator:
    """Rows of all runs on side x side tiles, round by round."""
    tiles = harness.tiles(side, side)
    work = harness.CACHE / "work" / f"peers-{os.getpid()}"
    runs = our_runs(tiles, options.workers)
    limit = (sys.executable, harness.ADAPTERS / "limit.py")
    runs += [Run(LIMIT, step, (*limit, step, tiles)) for step in ("register", "stitch")]
    runs += list(peer_runs(tiles, options.only))
    for number in range(options.rounds):
        for run in runs:
            expected = _expected(run, side, known)
            if expected > options.budget:
                if number == 0:
                    print(
                        f"{run.program} {run.step} on {side} x {side} is left out: about "
                        f"{expected:.0f} CPU s by its cost at fewer tiles, more than --budget",
                        flush=True,
                    )
                continue
            if run.program not in (OURS, LIMIT) and number >= max(1, options.peer_rounds):
                continue
            here = (side, number, run.program, run.step)
            if here in {(r["side"], r["round"], r["program"], r["step"]) for r in known}:
                continue
            row = measure(run, tiles, work / f"{run.program} {run.step}", options.budget)
            row |= {"side": side, "round": number}
            print(
                f"{side:>3} x {side:<3} round {number + 1}  {run.program:<20} {run.step:<17} "
                + str(row.get("failed") or f"{row['cpu']:8.2f} CPU s"),
                flush=True,
            )
            yield row
    shutil.rmtree(work, ignore_errors=True)


def _expected(run: Run, side: int, known: list[dict[str, object]]) -> float:
    """CPU seconds by the cost at the largest smaller grid, growing with the number of tiles."""
    same = [r for r in known if (r["program"], r["step"]) == (run.program, run.step)]
    if any(str(r.get("failed", "")).startswith(CUT_OFF) and r["side"] <= side for r in same):
        return float("inf")
    smaller = [r for r in same if r["side"] < side and "failed" not in r]
    if not smaller:
        return 0.0
    last = max(smaller, key=lambda r: r["side"])
    return float(last["cpu"]) * (side / float(last["side"])) ** 2


class Results:
    """Rows, and medians of them."""

    def __init__(self, rows: list[dict[str, object]]) -> None:
        self.rows = rows

    def values(self, side: int, program: str, step: str, what: str) -> list[float]:
        """Of all rounds."""
        return [
            float(r[what])
            for r in self.rows
            if (r["side"], r["program"], r["step"]) == (side, program, step) and what in r
            and "failed" not in r
        ]  # fmt: skip

    def middle(self, side: int, program: str, step: str, what: str = "cpu") -> float:
        """The median, NaN where there is none."""
        values = self.values(side, program, step, what)
        return median(values) if values else float("nan")

    def limit(self, side: int, step: str) -> float:
        """CPU s of the parts of the limit, the start of Python left out."""
        rows = [
            r for r in self.rows
            if (r["side"], r["program"], r["step"]) == (side, LIMIT, step) and "parts" in r
        ]  # fmt: skip
        return median([sum(r["parts"].values()) for r in rows]) if rows else float("nan")

    def by_rounds(self, side: int) -> float:
        """Wall time of workers over that of one: the middle one of all rounds' ratios.

        A machine that is now slow, now fast disturbs both of one round more alike than all rounds.
        """
        walls = [self.values(side, OURS, step, "wall") for step in ("stitch", "stitch, 1 worker")]
        ratios = [workers / one for workers, one in zip(*walls, strict=False)]
        return median(ratios) if ratios else float("nan")

    @property
    def sides(self) -> list[int]:
        """Grids measured."""
        return sorted({int(r["side"]) for r in self.rows})

    def table(self, side: int) -> str:
        """Markdown: one line per program and step."""
        lines = [
            "| program | step | CPU s, median (lowest to highest) | CPU / ours | wall s | peak MB "
            "| rms error px |",
            "|---|---|---|---|---|---|---|",
        ]
        for program, step in dict.fromkeys((r["program"], r["step"]) for r in self.rows):
            cpu = self.values(side, program, step, "cpu")
            if not cpu:
                failed = [
                    r["failed"] for r in self.rows
                    if (r["side"], r["program"], r["step"]) == (side, program, step)
                    and "failed" in r
                ]  # fmt: skip
                if failed:
                    lines.append(f"| {program} | {step} | failed: {failed[0]} | | | | |")
                continue
            ours = self.middle(side, OURS, "register" if "register" in step else "stitch")
            rms = self.middle(side, program, step, "rms")
            lines.append(
                f"| {program} | {step} | {median(cpu):.2f} ({min(cpu):.2f} to {max(cpu):.2f}) "
                f"| {median(cpu) / ours:.2f} | {self.middle(side, program, step, 'wall'):.1f} "
                f"| {self.middle(side, program, step, 'peak'):.0f} "
                f"| {'' if np.isnan(rms) else f'{rms:.3f}'} |"
            )
        return "\n".join(lines)

    def ratios(self, side: int) -> str:
        """Markdown: what the house wants to know of one grid."""
        ours = self.middle(side, OURS, "stitch")
        start = self.middle(side, OURS, "start")
        register, alone = (
            self.middle(side, OURS, step) for step in ("register", "register, 1 worker")
        )
        pairs = 2 * side * (side - 1)
        bare = [
            r["parts"]["correlate"] / pairs
            for r in self.rows
            if r["side"] == side and r["program"] == LIMIT and "parts" in r
        ]
        bare = median(bare) if bare else float("nan")
        wall = (self.middle(side, OURS, s, "wall") for s in ("stitch", "stitch, 1 worker"))
        rows = {
            "whole job less start / limit": (ours - start) / self.limit(side, "stitch"),
            "ASHLAR / ours": self.middle(side, "ASHLAR", "stitch") / ours,
            "multiview-stitcher / ours": self.middle(side, "multiview-stitcher", "stitch") / ours,
            f"register, per pair / one FFT correlation ({bare * 1e3:.2f} ms)": register
            / pairs
            / bare,
            "the same, 1 worker, on one core as the FFT is": alone / pairs / bare,
            "the same, less start": (register - start) / pairs / bare,
            "wall, workers / 1 worker": float(np.divide(*wall)),
            "the same, median of the rounds": self.by_rounds(side),
            "peak memory of ours, MB": self.middle(side, OURS, "stitch", "peak"),
            "peak memory, ASHLAR / ours": self.middle(side, "ASHLAR", "stitch", "peak")
            / self.middle(side, OURS, "stitch", "peak"),
            "CPU ms per tile": ours / side**2 * 1e3,
        }
        lines = ["| ratio | |", "|---|---|"]
        lines += [f"| {k} | {v:.2f} |" for k, v in rows.items() if not np.isnan(v)]
        return "\n".join(lines)


def plot(results: Results, path: Path) -> None:
    """CPU seconds against the number of tiles, each program one line."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", sharey=True)
    names = list(dict.fromkeys(str(r["program"]) for r in results.rows))
    colours = {name: f"C{k}" for k, name in enumerate(names)}
    for ax, step, title in zip(
        axes, ("register", "stitch"), ("register", "register, fuse, pyramid"), strict=True
    ):
        for name in names:
            value = results.limit if name == LIMIT else None
            points = [
                (n**2, value(n, step) if value else results.middle(n, name, step))
                for n in results.sides
            ]
            points = [(n, cpu) for n, cpu in points if not np.isnan(cpu)]
            if points:
                style = "k--" if name == LIMIT else "o-"
                ax.loglog(*zip(*points, strict=True), style, label=name, lw=1.6, ms=4,
                          **({} if name == LIMIT else {"color": colours[name]}))  # fmt: skip
        ax.set_xlabel("tiles of 1024 x 1024")
        ax.set_title(title)
        ax.set_xticks(
            [n**2 for n in results.sides], [f"{n} x {n}" for n in results.sides], fontsize=8
        )
        ax.set_xticks([], minor=True)
        ax.grid(alpha=0.3)
    axes[0].legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="upper left", ncols=2)
    axes[0].set_ylim(top=10 * max(float(r["cpu"]) for r in results.rows))
    axes[0].set_ylabel("CPU seconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def report(results: Results, options: argparse.Namespace) -> str:
    """All tables, with what was measured on what."""
    head = [
        f"{date.today():%d %B %Y}, {harness.machine()}. "
        + harness.versions(Path(sys.executable), OUR_PACKAGES)
        + "; "
        + ", ".join(p.package.replace("==", " ") for p in harness.PEERS)
        + f". {options.rounds} rounds, {options.peer_rounds} of the peers; {options.workers} "
        "workers. Median, and lowest to highest."
    ]
    parts = [
        f"### {n} x {n} tiles\n\n{results.table(n)}\n\n{results.ratios(n)}" for n in results.sides
    ]
    return "\n\n".join(head + parts)


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sides",
        type=int,
        nargs="*",
        default=[4, 10],
        help="grids, n x n tiles; none: tables and plot of --results as they are",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-rounds", type=int, default=None, help="of the peers; as --rounds")
    parser.add_argument(
        "--budget",
        type=float,
        default=600,
        help="CPU s that one run may take, or half of its s; it is ended then",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], metavar="PEER", help="peers; all if none")
    parser.add_argument("--no-peers", action="store_true", help="ours and the limit alone")
    parser.add_argument(
        "--results",
        type=Path,
        help="JSON of all rows, written after each run; what it holds already is not run again",
    )
    parser.add_argument(
        "--also",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE",
        help="JSON of rows that were measured apart; they count as if measured here",
    )
    parser.add_argument("--plot", type=Path, help="PNG of cost against the number of tiles")
    options = parser.parse_args()
    options.peer_rounds = options.rounds if options.peer_rounds is None else options.peer_rounds
    if options.no_peers:
        options.only = ["none"]
    print(f"mosaicreg {mosaicreg.__version__}; tiles and environments in {harness.CACHE}")
    rows: list[dict[str, object]] = []
    if options.results and options.results.exists():
        rows = json.loads(options.results.read_text())
    known = [row for path in options.also for row in json.loads(path.read_text())] + rows
    try:
        for side in options.sides:
            for row in rounds(side, options, known):
                rows.append(row)
                known.append(row)
                if options.results:
                    options.results.write_text(json.dumps(rows, indent=1))
    except KeyboardInterrupt:
        print("\nstopped; what was measured so far:")
    results = Results(known)
    print("\n" + report(results, options))
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
