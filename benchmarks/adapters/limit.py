"""The least that any program must do: read every tile once, one FFT correlation per pair, and copy
the output once, from zarr to zarr. Run with this project's Python:

    python limit.py register|stitch TILES OUT ARCHIVE

The copy reads all levels of ARCHIVE and writes them again, shard by shard, as the archive has them
but compressed by zarr's own zstd. Prints the CPU seconds of each part, the start of Python and
imports left out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import common
import numpy as np
import tifffile
from scipy.fft import irfft2, rfft2

STRIP = 112
"""px: the overlap of 102 px, and a bit more."""


def read(tiles: Path, names: list[str]) -> None:
    """Every pixel of every tile, once."""
    for name in names:
        tifffile.imread(tiles / name)


def correlate(pairs: int) -> None:
    """One correlation of two strips per pair."""
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 1024, STRIP), dtype=np.float32)
    for _ in range(pairs):
        product_ = rfft2(one)
        product_ *= np.conj(rfft2(other))
        irfft2(product_, one.shape)


def copy(source: Path, target: Path) -> None:
    """Each shard of each level, read and written whole."""
    import zarr

    old = zarr.open_group(source, mode="r")
    new = zarr.open_group(target, mode="w")
    for path in sorted(name for name in old.array_keys() if name.isdigit()):
        level = old[path]
        shard = level.shards or level.chunks
        array = new.create_array(
            path,
            shape=level.shape,
            dtype=level.dtype,
            chunks=level.chunks,
            shards=level.shards,
            compressors=zarr.codecs.ZstdCodec(level=1),
        )
        starts = (range(0, n, s) for n, s in zip(level.shape, shard, strict=True))
        for corner in product(*starts):
            box = tuple(
                slice(a, min(a + s, n)) for a, s, n in zip(corner, shard, level.shape, strict=True)
            )
            array[box] = level[box]


def main() -> None:
    """Do it, and print what each part cost."""
    step, tiles, out = common.arguments()
    names, cells, _ = common.stage(tiles)
    rows, columns = (int(n) + 1 for n in cells.max(axis=0))
    parts = {"read": lambda: read(tiles, names)}
    parts["correlate"] = lambda: correlate(rows * (columns - 1) + columns * (rows - 1))
    if step == "stitch":
        parts["copy"] = lambda: copy(Path(sys.argv[4]), out / "copy.zarr")
    spent = {}
    for name, part in parts.items():
        start = time.process_time()
        part()
        spent[name] = time.process_time() - start
    print(json.dumps(spent))


if __name__ == "__main__":
    main()
