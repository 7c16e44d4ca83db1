"""Is the score what it says? Over ten thousand pairs with known truth.

    python benchmarks/trust.py [--report docs/trust.md --plot docs/images/trust.png]

Simulated mosaics of 512 x 512 px tiles, 12 x 12 each, a tenth of a tile overlapping: tissue under
many conditions (empty areas, noise, blur, shading), tiles that do not belong next to each other,
and pure noise; and small mosaics of noise, 3 x 3 tiles of 256 x 256 px, in which angles are looked
for too. A pair is right when its offset is within 1 px of the truth (2 px where the specimen is
blurred); it is textured where over 5 % of its overlap is tissue.

What each mosaic gives is kept in the cache folder of `harness` under a digest of the code, so a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import cache
from inspect import getsource
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import harness
import numpy as np
from accuracy import texture

import mosaicreg
from mosaicreg import synthetic
from mosaicreg.pairs import CHANCE, MAX_SIGMA
from mosaicreg.registration import Model
from mosaicreg.synthetic import Acquisition, Camera, Specimen

GRID = {"grid": (12, 12), "tile": (512, 512), "overlap": 0.1, "stage_error": 8.0}
SMALL = {"grid": (3, 3), "tile": (256, 256), "overlap": 0.1, "stage_error": 8.0}
SHUFFLES = 4
"""How often the tiles of one specimen are shuffled."""
MOSAICS = {"strangers": 8, "noise": 8, "noise, nine tiles, angles too": 85}
TEXTURED = 0.05
NOISE, BLUR = (30.0, 100.0, 300.0), (0.0, 2.0)
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)


def conditions() -> list[Acquisition]:
    """What the tissue mosaics look like."""
    return [
        Acquisition(
            **GRID,
            specimen=Specimen(seed=seed, empty=empty),
            camera=Camera(read_noise=noise, blur=blur),
            seed=seed,
        )
        for seed, (empty, noise, blur) in enumerate(product((0.0, 0.3, 0.6, 0.8), NOISE, BLUR))
    ]


def measure(acquisition: Acquisition) -> dict[str, np.ndarray]:
    """Score, verdict, truth and texture of each pair."""
    with ThreadPoolExecutor() as pool:
        tiles = list(pool.map(acquisition.tile_image, range(len(acquisition))))
    mosaic = mosaicreg.Mosaic.from_arrays(tiles, acquisition.stage)
    pairs = mosaicreg.register(mosaic)
    truth = acquisition.truth[pairs.moving] - acquisition.truth[pairs.fixed]
    bound = 1.0 + acquisition.camera.blur / 2
    share = texture(acquisition, np.stack([pairs.fixed, pairs.moving], axis=1))
    return {
        "score": pairs.score,
        "accepted": pairs.accepted,
        "right": np.abs(pairs.offsets - truth).max(axis=1) < bound,
        "sigma": pairs.sigma,
        "texture": share,
        "noise": np.full(len(pairs), acquisition.camera.read_noise),
        "blur": np.full(len(pairs), acquisition.camera.blur),
    }


@cache
def scattered(specimen: int) -> tuple[Acquisition, list[np.ndarray]]:
    """Tiles to shuffle."""
    acquisition = Acquisition(**GRID, specimen=Specimen(specimen, 0.2), seed=specimen)
    with ThreadPoolExecutor() as pool:
        return acquisition, list(pool.map(acquisition.tile_image, range(len(acquisition))))


def strangers(seed: int) -> np.ndarray:
    """Which pairs are accepted among tiles that do not belong next to each other."""
    acquisition, tiles = scattered(seed // SHUFFLES)
    order = np.random.default_rng(seed).permutation(len(acquisition))
    mosaic = mosaicreg.Mosaic.from_arrays([tiles[k] for k in order], acquisition.stage)
    pairs = mosaicreg.register(mosaic)
    place = acquisition.cells[order]
    near = np.abs(place[pairs.fixed] - place[pairs.moving]).max(axis=1) <= 1
    return pairs.accepted[~near]


def pure_noise(seed: int) -> np.ndarray:
    """Which pairs are accepted among tiles of pure noise."""
    return noise_of(Acquisition(**GRID), seed, "translation")


def few_turned(seed: int) -> np.ndarray:
    """Which pairs are accepted among nine tiles of noise that may be turned."""
    return noise_of(Acquisition(**SMALL), seed, "rigid")


def noise_of(acquisition: Acquisition, seed: int, model: Model) -> np.ndarray:
    """Which pairs are accepted where an acquisition shows nothing."""
    rng = np.random.default_rng(seed)
    tiles = [rng.poisson(300, acquisition.tile).astype(np.uint16) for _ in acquisition.stage]
    mosaic = mosaicreg.Mosaic.from_arrays(tiles, acquisition.stage)
    return mosaicreg.register(mosaic, model=model).accepted


def plot(path: str, score: np.ndarray, right: np.ndarray) -> None:
    """The reliability curve as a picture."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    edges = np.array(BINS)
    middle, share, error = [], [], []
    for low, high in pairwise(edges):
        inside = (score >= low) & ((score < high) | (high == 1.0))
        if inside.sum() >= 10:
            middle.append(score[inside].mean())
            share.append(right[inside].mean())
            error.append(np.sqrt(share[-1] * (1 - share[-1]) / inside.sum()))
    axes.plot([0.5, 1], [0.5, 1], color="0.6", linewidth=1)
    axes.errorbar(middle, share, yerr=error, fmt="o-", markersize=4)
    axes.set(xlabel="score", ylabel="share of pairs that are right", title="Is the score true?")
    figure.savefig(path, dpi=110)


def table(
    code: str, kind: str, number: int, function: Callable[..., Any], *given: Any
) -> dict[str, Any]:
    """What ``function`` finds for one mosaic; kept, so that a run that was stopped goes on."""
    key = harness.digest(code, kind, repr(given), getsource(function))
    path = harness.CACHE / "trust" / f"{key}.npz"
    if path.exists():
        with np.load(path) as kept:
            return dict(kept)
    found = function(*given)
    found = found if isinstance(found, dict) else {"accepted": found}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **found)
    print(f"{kind} {number}: {len(found['accepted'])} pairs", file=sys.stderr, flush=True)
    return found


def joined(tables: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns of all mosaics."""
    return {key: np.concatenate([t[key] for t in tables]) for key in tables[0]}


def page(tissue: dict[str, Any], others: dict[str, Any]) -> str:
    """The figures as Markdown."""
    wrong = tissue["accepted"] & ~tissue["right"]
    lines = [
        "# Is the score true?",
        "",
        f"Measured by `python benchmarks/trust.py` on {date.today().isoformat()} with mosaicreg "
        f"{mosaicreg.__version__}, NumPy {np.__version__}, Python {platform.python_version()}; "
        f"{harness.machine()}. {__doc__.split(chr(10) * 2)[2]}",
        "",
        "![Share of right pairs by score](images/trust.png)",
        "",
        "## Accepted, and wrong",
        "",
        "| pairs of | pairs | accepted | wrong among them |",
        "|---|---|---|---|",
        f"| tissue | {len(wrong)} | {tissue['accepted'].sum()} | {wrong.sum()} |",
    ]
    for name, accepted in others.items():
        lines.append(f"| {name} | {len(accepted)} | {accepted.sum()} | {accepted.sum()} |")
    lines += [
        "",
        "At most one of a thousand pairs of noise or strangers may be accepted. Strangers are",
        "tiles of tissue, shuffled: a pair counts where the two are not neighbours in truth.",
        "",
        "## Textured pairs that are not accepted",
        "",
        "At most one in a hundred may be lost at the usual noise: 30 counts of read noise, 34 rms",
        "on a background of 280 counts. At three and ten times that noise more are lost; they",
        "are rejected or called `no signal`, never guessed. *Vague*: right, but known worse than",
        f"{MAX_SIGMA:.2f} px, and held back for that alone.",
        "",
        "| read noise, counts | blur, px | textured pairs | not accepted | share | of them vague |",
        "|---|---|---|---|---|---|",
    ]
    rich = tissue["texture"] > TEXTURED
    vague = tissue["right"] & (tissue["score"] > 1 - CHANCE) & (tissue["sigma"] > MAX_SIGMA)
    groups = [((noise,), BLUR) for noise in NOISE[:1]]
    groups += [((noise,), (blur,)) for noise in NOISE for blur in BLUR]
    for noises, blurs in groups:
        here = rich & np.isin(tissue["noise"], noises) & np.isin(tissue["blur"], blurs)
        gone = here & ~tissue["accepted"]
        lost, held = int(gone.sum()), int((gone & vague).sum())
        lines.append(
            f"| {noises[0]:.0f} | {' or '.join(f'{b:.0f}' for b in blurs)} | {here.sum()} | {lost} "
            f"| {lost / here.sum():.2%} | {held} |"
        )
    lines += [
        "",
        "## Reliability",
        "",
        "Pairs of tissue that have a score. Below the line in the picture it promises too much. No",
        f"pair of a score up to {1 - CHANCE:g} is accepted, so that bears on no layout, only on",
        "which pairs are called rejected and which `no signal`.",
        "",
    ]
    lines += ["| score | pairs | mean score | share right |", "|---|---|---|---|"]
    known = np.isfinite(tissue["score"])
    score, right = tissue["score"][known], tissue["right"][known]
    for low, high in pairwise(BINS):
        inside = (score >= low) & ((score < high) | (high == 1.0))
        if inside.any():
            lines.append(
                f"| {low} to {high} | {inside.sum()} | {score[inside].mean():.4f} | "
                f"{right[inside].mean():.4f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="PNG")
    parser.add_argument("--report", type=Path, metavar="MD", help="write the page instead")
    options = parser.parse_args()
    code = harness.digest(Path(synthetic.__file__), *harness.own_code())
    tissue = joined([table(code, "tissue", k, measure, a) for k, a in enumerate(conditions())])
    others = {
        name: joined([table(code, name, k, function, k) for k in range(count)])["accepted"]
        for (name, count), function in zip(
            MOSAICS.items(), (strangers, pure_noise, few_turned), strict=True
        )
    }
    text = page(tissue, others)
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    else:
        print(text)
    if options.plot:
        known = np.isfinite(tissue["score"])
        plot(options.plot, tissue["score"][known], tissue["right"][known])


if __name__ == "__main__":
    main()
