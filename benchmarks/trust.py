"""Is the score what it says? Over ten thousand pairs of each kind, with known truth.

    python benchmarks/trust.py [--plot docs/images/trust.png]

Three kinds of simulated mosaics of 512 x 512 px tiles, 16 x 16 each, a tenth of a tile overlapping:
tissue under many conditions (empty areas, noise, blur, shading), tiles that do not belong next to
each other, and pure noise. A pair is right when its offset is within 1 px of the truth (2 px where
the specimen is blurred); it is textured where over 5 % of its overlap is tissue.
"""

from __future__ import annotations

import argparse
import platform
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product

import numpy as np

import mosaicreg
from mosaicreg.synthetic import Acquisition, Camera, Specimen

GRID = {"grid": (16, 16), "tile": (512, 512), "overlap": 0.1, "stage_error": 8.0}
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


def tissue_in_overlap(acquisition: Acquisition, fixed: int, moving: int) -> float:
    """Mean share of tissue where two tiles overlap."""
    low = np.maximum(acquisition.truth[fixed], acquisition.truth[moving])
    high = np.minimum(acquisition.truth[fixed], acquisition.truth[moving]) + acquisition.tile
    shape = np.maximum(np.ceil((high - low) / 8), 1).astype(int)
    # every eighth pixel is enough for something as smooth
    coarse = acquisition.specimen.tissue(tuple(low), tuple((shape * 8).tolist()))[::8, ::8]
    return float(coarse.mean())


def measure(acquisition: Acquisition) -> dict[str, np.ndarray]:
    """Score, verdict, truth and texture of each pair."""
    with ThreadPoolExecutor() as pool:
        tiles = list(pool.map(acquisition.tile_image, range(len(acquisition))))
    mosaic = mosaicreg.Mosaic.from_arrays(tiles, acquisition.stage)
    pairs = mosaicreg.register(mosaic)
    truth = acquisition.truth[pairs.moving] - acquisition.truth[pairs.fixed]
    bound = 1.0 + acquisition.camera.blur / 2
    texture = [
        tissue_in_overlap(acquisition, i, j) for i, j in zip(pairs.fixed, pairs.moving, strict=True)
    ]
    return {
        "score": pairs.score,
        "accepted": pairs.accepted,
        "right": np.abs(pairs.offsets - truth).max(axis=1) < bound,
        "texture": np.array(texture),
        "noise": np.full(len(pairs), acquisition.camera.read_noise),
        "blur": np.full(len(pairs), acquisition.camera.blur),
    }


def strangers(seed: int) -> np.ndarray:
    """Which pairs are accepted among tiles that do not belong next to each other."""
    acquisition = Acquisition(**GRID, specimen=Specimen(seed, 0.2), seed=seed)
    order = np.random.default_rng(seed).permutation(len(acquisition))
    with ThreadPoolExecutor() as pool:
        tiles = list(pool.map(acquisition.tile_image, order))
    pairs = mosaicreg.register(mosaicreg.Mosaic.from_arrays(tiles, acquisition.stage))
    place = acquisition.cells[order]
    near = np.abs(place[pairs.fixed] - place[pairs.moving]).max(axis=1) <= 1
    return pairs.accepted[~near]


def pure_noise(seed: int) -> np.ndarray:
    """Which pairs are accepted among tiles of pure noise."""
    rng = np.random.default_rng(seed)
    stage = Acquisition(**GRID).stage
    tiles = [rng.poisson(300, GRID["tile"]).astype(np.uint16) for _ in stage]
    return mosaicreg.register(mosaicreg.Mosaic.from_arrays(tiles, stage)).accepted


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


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot")
    options = parser.parse_args()
    print(
        f"mosaicreg {mosaicreg.__version__}, numpy {np.__version__}, "
        f"Python {platform.python_version()}, {platform.machine()}"
    )
    tables = [measure(a) for a in conditions()]
    pairs = {key: np.concatenate([t[key] for t in tables]) for key in tables[0]}
    wrong = pairs["accepted"] & ~pairs["right"]
    print(f"{len(wrong)} pairs of tissue: {pairs['accepted'].sum()} accepted, {wrong.sum()} wrong")
    print("read noise, blur: textured pairs, not accepted")
    for noise, blur in product(NOISE, BLUR):
        here = (pairs["noise"] == noise) & (pairs["blur"] == blur) & (pairs["texture"] > TEXTURED)
        lost = int((here & ~pairs["accepted"]).sum())
        count = int(here.sum())
        print(f"{noise:10.0f} {blur:5.0f} {count:15d} {lost:8d} ({lost / count:.2%})")
    for name, function, count in (("strangers", strangers, 24), ("pure noise", pure_noise, 22)):
        accepted = np.concatenate([function(seed) for seed in range(count)])
        print(f"of {len(accepted)} pairs of {name} {accepted.sum()} accepted")
    print("score from   to   pairs   right")
    known = np.isfinite(pairs["score"])
    score, right = pairs["score"][known], pairs["right"][known]
    for low, high in pairwise(BINS):
        inside = (score >= low) & ((score < high) | (high == 1.0))
        if inside.any():
            print(f"{low:10.3f} {high:6.3f} {inside.sum():6d}  {right[inside].mean():.4f}")
    if options.plot:
        plot(options.plot, score, right)


if __name__ == "__main__":
    main()
