"""Which shards are made, and when: each once, and none before those that it is made from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicreg import levels, shards, write_ome_zarr
from mosaicreg.errors import StorageError
from mosaicreg.geometry import Box
from mosaicreg.journal import Journal
from mosaicreg.omezarr import Pyramid
from mosaicreg.store import Folder

CUT = {"chunk": 16, "shard": 32}


def picture(shape: tuple[int, ...], dtype: str = "uint16") -> da.Array:
    pixels = np.random.default_rng(0).integers(1, 999, shape).astype(dtype)
    return da.from_array(pixels, chunks=(*(1,) * (len(shape) - 2), 50, 60), name="fixed")


def plan_of(shape: tuple[int, ...]) -> Pyramid:
    return Pyramid.plan(
        shape, np.dtype("uint16"), "cyx"[-len(shape) :], chunk=(16, 16), shard=(32, 32)
    )


class Said:
    """Reports in their order; the run may be stopped at any of them."""

    def __init__(self, stop: int | None = None) -> None:
        self.reports: list[tuple[str, int, int]] = []
        self.stop = stop

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.reports.append((stage, done, total))
        if len(self.reports) == self.stop:
            raise InterruptedError

    @property
    def did(self) -> Counter[str]:
        return Counter(stage for stage, done, _ in self.reports if done)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 3), st.integers(1, 4))
def test_a_shard_is_made_from_those_whose_pixels_lie_under_it(height, width, planes, level) -> None:
    plan = plan_of((planes, height, width))
    level = min(level, plan.levels - 1)
    if level == 0:
        return
    seen = []
    for number in range(plan.shards(level)):
        plane, row, column = plan.shard_at(level, number)
        box = plan.grid(level).box(row, column)
        twice = Box(*(2 * edge for edge in (box.y0, box.x0, box.y1, box.x1)))
        expected = [
            k
            for k in range(plan.shards(level - 1))
            for p, r, c in [plan.shard_at(level - 1, k)]
            if p == plane and plan.grid(level - 1).box(r, c).intersection(twice)
        ]
        found = levels._under(plan, level, number)
        assert found.ravel().tolist() == expected
        seen += expected
    assert sorted(seen) == list(range(plan.shards(level - 1)))


def test_a_coarse_shard_is_made_as_soon_as_those_under_it_are_there(tmp_path, monkeypatch) -> None:
    """And before others of the finer level: it reads what was written a moment ago."""
    shape, path = (200, 170), tmp_path / "x.ome.zarr"
    made: list[tuple[int, ...]] = []
    write, reduce = shards.write_shards, shards.reduce_shard

    def writing(place, level, places, bands):
        made.extend((level, *at) for at in places)
        return write(place, level, places, bands)

    def reducing(place, level, plane, box, *more):
        plan = plan_of(shape)
        at = (box.y0 // plan.shard[0], box.x0 // plan.shard[1])
        under = levels._under(plan, level, plan.shard_number(level, at)).ravel()
        assert {(level - 1, *plan.shard_at(level - 1, int(k))) for k in under} <= set(made)
        made.append((level, *at))
        return reduce(place, level, plane, box, *more)

    monkeypatch.setattr(shards, "write_shards", writing)
    monkeypatch.setattr(shards, "reduce_shard", reducing)
    monkeypatch.setattr("mosaicreg.cluster.WAVE", 1)
    with dask.config.set(scheduler="synchronous"):
        write_ome_zarr(picture(shape), path, **CUT)
    plan = plan_of(shape)
    assert len(made) == len(set(made)) == sum(plan.shards(k) for k in range(plan.levels))
    # Two rows of whole shards, then the first coarse one of both.
    assert made.index((1, 0, 0)) == plan.grid(0).grid_shape[1] - 1 + 2
    assert made[-1] == (plan.levels - 1, 0, 0)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_stopped_anywhere_it_makes_the_rest_and_nothing_else(tmp_path_factory, data) -> None:
    """Any number of stops, whatever the order in which shards of several levels were made."""
    shape = data.draw(st.sampled_from([(200, 170), (2, 100, 90), (64, 64), (33, 129)]))
    folder = tmp_path_factory.mktemp("stopped")
    plan, image = plan_of(shape), picture(shape)
    path, whole = folder / "x.ome.zarr", folder / "whole.ome.zarr"
    due = {levels._stage(k): plan.shards(k) for k in range(plan.levels)}
    total = sum(due.values())
    with pytest.MonkeyPatch.context() as patch, dask.config.set(scheduler="synchronous"):
        patch.setattr("mosaicreg.cluster.WAVE", data.draw(st.sampled_from([1, 2, 5, 512])))
        for stop in data.draw(st.lists(st.integers(1, total + 3), max_size=3)):
            with suppress(InterruptedError):
                write_ome_zarr(image, path, **CUT, progress=Said(stop))
        journal = Journal(Folder(path))
        held = {
            levels._stage(k): int((journal.receipts(k, plan.shards(k)).sizes >= 0).sum())
            for k in range(plan.levels)
        }
        said = Said()
        write_ome_zarr(image, path, **CUT, progress=said)
        write_ome_zarr(image, whole, **CUT)
    for stage, count in due.items():
        assert said.did[stage] == count - held[stage], stage
        numbers = [done for s, done, _ in said.reports if s == stage]
        assert numbers == list(range(len(numbers)))
        assert {total for s, _, total in said.reports if s == stage} <= {count - held[stage]}
    for level in range(plan.levels):
        for file in (whole / str(level)).rglob("*"):
            if file.is_file():
                assert (path / file.relative_to(whole)).read_bytes() == file.read_bytes()


def test_what_comes_out_the_same_is_the_end_of_it(tmp_path) -> None:
    """A shard that is damaged is made again; those above it are made of the same bytes."""
    path, image = tmp_path / "x.ome.zarr", picture((200, 170))
    write_ome_zarr(image, path, **CUT)
    (path / "0" / "c" / "1" / "1").write_bytes(b"")
    (path / "2" / "c" / "0" / "0").unlink()
    said = Said()
    write_ome_zarr(image, path, **CUT, repair=True, progress=said)
    made = {s: n for s, n in said.did.items() if not s.startswith("check")}
    assert made == {"write": 1, "level 2": 1}


@pytest.mark.parametrize("damage", [Path.unlink, lambda p: p.write_bytes(p.read_bytes()[:-1])])
def test_a_shard_that_is_lost_before_it_is_read_is_not_taken_for_empty(damage, tmp_path) -> None:
    path, image = tmp_path / "x.ome.zarr", picture((200, 170))
    lost = path / "0" / "c" / "2" / "3"

    def losing(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("write", total):
            damage(lost)

    with pytest.raises(StorageError, match=r"shard 0/c/2/3 has \d+ bytes, \d+ were written"):
        write_ome_zarr(image, path, **CUT, progress=losing)
    said = Said()
    write_ome_zarr(image, path, **CUT, progress=said)
    assert said.did["write"] == 1
    assert (np.asarray(zarr.open_array(path / "0", mode="r")[:]) == image.compute()).all()


def test_one_shard_that_is_most_of_the_rest_is_shared(tmp_path, monkeypatch) -> None:
    """By threads, where other workers would have nothing to do."""
    told: dict[tuple[int, int, int], int] = {}

    def task(function, store, level, plane, box, threads, written):
        told[(level, box.y0 // 32, box.x0 // 32)] = threads
        return kept(function, store, level, plane, box, threads, written)

    kept = levels.delayed_call
    monkeypatch.setattr(levels, "delayed_call", task)
    monkeypatch.setattr("mosaicreg.cluster.WAVE", 1)
    for cores, most in ((1, 1), (2, 2)):
        path = tmp_path / f"{cores}.ome.zarr"
        with dask.config.set(scheduler="synchronous", num_workers=cores):
            write_ome_zarr(picture((250, 250)), path, **CUT)
        # Of 4 x 4, and of 2 x 2 shards of one size none is; at the end there is only one.
        assert told[1, 0, 0] == told[2, 0, 0] == 1
        assert told[3, 0, 0] == most


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_all_levels_together(workers, tmp_path) -> None:
    """In a process of its own: others have threads, beside which none is forked."""
    code = f"""
import json
from mosaicreg import assemble, stage_layout, write_ome_zarr
from mosaicreg.clusters import computing
from mosaicreg.synthetic import Acquisition
mosaic = Acquisition(grid=(2, 2), tile=(96, 96)).mosaic
image = assemble(mosaic, stage_layout(mosaic))
stages = []
with computing(workers={workers}) as place:
    write_ome_zarr(
        image, {str(tmp_path / "x.ome.zarr")!r}, chunk=16, shard=32,
        progress=lambda stage, done, total: stages.append(stage),
    )
print(json.dumps([place, stages]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    place, stages = json.loads(done.stdout)
    assert place.startswith("on 2 processes" if workers == 2 else "on 1 thread")
    last = len(stages) - 1 - stages[::-1].index("write")
    assert "level 1" in stages[:last]
    assert "level 2" in stages[:last]


def test_graphs_of_dask_stay_here_and_coarser_levels_go_to_workers(tmp_path) -> None:
    """Stopped when coarser shards could be made, too: no array is sent, not even one that can."""
    code = f"""
import threading
import dask.array as da, numpy as np
from mosaicreg import shards, write_ome_zarr
from mosaicreg.clusters import computing
lock, here, kept = threading.Lock(), [], shards.reduce_shard
def drawn(block):
    with lock:  # cannot be sent
        return block + 1
image = da.zeros((256, 256), chunks=64, dtype="uint16").map_blocks(drawn, dtype="uint16", name="i")
def reducing(*arguments):
    here.append(arguments)
    return kept(*arguments)
shards.reduce_shard = reducing
class Stop(Exception): pass
def stop(stage, done, total):
    if (stage, done) == ("write", 30):
        raise Stop
did = {{}}
path, cut = {str(tmp_path / "x.ome.zarr")!r}, dict(chunk=16, shard=32)
with computing(workers=2) as place:
    assert place.startswith("on 2 processes"), place
    try:
        write_ome_zarr(image, path, **cut, progress=stop)
    except Stop:
        write_ome_zarr(image, path, **cut, progress=lambda stage, *n: did.update({{stage: n}}))
assert did["write"][1] <= 64 - 30 and did["level 1"] == (16, 16), did
assert not here
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
