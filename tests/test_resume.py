"""Stopped at any moment by anything, and run again: the same bytes, and nothing done twice."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicreg import (
    InputError,
    Mosaic,
    assemble,
    open_mosaic,
    register,
    stage_layout,
    write_ome_zarr,
)
from mosaicreg.cli import main
from mosaicreg.errors import StorageError
from mosaicreg.imagefile import read_image, write_tiff
from mosaicreg.journal import LOG, MERGE, Journal, digest, pack, unpack
from mosaicreg.layout import Layout, solve_layout
from mosaicreg.omezarr import read_table
from mosaicreg.pairs import Pairs
from mosaicreg.registration import batches_of
from mosaicreg.store import Folder
from mosaicreg.synthetic import Acquisition

KILLS = int(os.environ.get("MOSAICREG_KILLS", "2"))
"""Kills of each kind of process; 7 makes more than 20 in all."""
OPTIONS = ("--chunk", "32", "--shard", "128")
SHARDS, LEVEL_1, LEVEL_2 = 6 * 7, 3 * 4, 2 * 2
"""Shards of the levels with these options."""


def stitch(tiles: Path, output: Path, *more: object) -> Result:
    """``mosaicreg stitch`` in this process."""
    return CliRunner().invoke(
        main, ["stitch", str(tiles), "-o", str(output), *OPTIONS, *map(str, more)]
    )


def pixels(path: Path) -> dict[str, str]:
    """Digest of every file of every level."""
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest()
        for level in sorted(path.glob("[0-9]*"))
        for p in sorted(level.rglob("*"))
        if p.is_file()
    }


def did(result: Result | str) -> dict[str, int]:
    """How many tasks each stage of a run had."""
    said = result if isinstance(result, str) else result.stderr
    return {s: int(n) for s, n in re.findall(r"^([a-z0-9 ]+): \d+/(\d+) ", said, re.MULTILINE)}


def entered(path: Path, level: int = 0) -> int:
    """How many shards of a level the journal knows to be done."""
    return int((Journal(Folder(path)).receipts(level, 0).sizes >= 0).sum())


@pytest.fixture(scope="module")
def tiles(acquisition, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "tiles"
    acquisition.write(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tiles, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "out.ome.zarr"
    result = stitch(tiles, path)
    assert result.exit_code == 0, result.output
    assert did(result)["write"] == SHARDS
    return path


# --- the journal ---------------------------------------------------------------------------------


def test_what_is_entered_is_there_for_the_next_process(tmp_path) -> None:
    store = Folder(tmp_path)
    journal = Journal(store, "job")
    journal.begin()
    measured = np.array([[1.5, np.nan], [np.inf, -0.0]])
    journal.remember("pairs", "a", [measured, np.empty(0)])
    journal.enter(0, [(3, 2**64 - 1, 10, 2**32 - 1), (1, 5, 0, 0)])
    again = Journal(store, "job")
    assert again.is_same_job
    assert not again.is_finished
    found, empty = again.recall("pairs", "a")
    np.testing.assert_array_equal(found, measured)
    assert empty.size == 0
    assert again.recall("pairs", "b") is None
    receipts = again.receipts(0, 6)
    assert receipts.sizes.tolist() == [-1, 0, -1, 10, -1, -1]
    assert receipts.keys.tolist() == [0, 5, 0, 2**64 - 1, 0, 0]
    assert receipts.crcs.tolist() == [0, 0, 0, 2**32 - 1, 0, 0]


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), max_size=30), st.booleans())
def test_later_entries_win_merged_or_not(tmp_path_factory, entries, finish) -> None:
    store = Folder(tmp_path_factory.mktemp("journal"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mosaicreg.journal.MERGE", 7)
        expected = {}
        journal = Journal(store, "job")
        for number, size in entries:
            if size % 3 == 0:  # another process goes on
                journal = Journal(store, "job")
            journal.enter(2, [(number, 1, size, 0)])
            expected[number] = size
        if finish and expected:
            journal.begin()
            journal.finish()
            assert len(list(store.keys(LOG))) == 1
    found = Journal(store, "job").receipts(2, 10).sizes
    assert {k: int(n) for k, n in enumerate(found) if n >= 0} == expected


def test_many_small_objects_become_few(tmp_path) -> None:
    store = Folder(tmp_path)
    journal = Journal(store, "job")
    for number in range(2 * MERGE + 3):
        journal.enter(0, [(number, 1, 2, 3)])
    assert len(list(store.keys(LOG))) == 2 + 3
    assert (Journal(store, "job").receipts(0, 0).sizes == 2).all()


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:9] + b"x" + b[10:], lambda b: b""]
)
def test_a_damaged_entry_counts_as_not_made(damage, tmp_path) -> None:
    store = Folder(tmp_path)
    journal = Journal(store, "job")
    journal.enter(0, [(0, 1, 2, 3)])
    journal.enter(0, [(1, 1, 2, 3)])
    last = tmp_path / sorted(store.keys(LOG))[-1]
    last.write_bytes(damage(last.read_bytes()))
    again = Journal(store, "job")
    assert again.damaged == 1
    assert again.receipts(0, 2).sizes.tolist() == [2, -1]


def test_a_layout_comes_back_to_the_last_bit(acquisition) -> None:
    mosaic = acquisition.mosaic
    for layout in (stage_layout(mosaic), solve_layout(mosaic, register(mosaic))):
        again = unpack(Layout, pack(layout), {"pairs": Pairs}, names=mosaic.names)
        assert digest(*pack(again)) == digest(*pack(layout))
        assert repr(again) == repr(layout)
        assert (again.pairs is None) == (layout.pairs is None)


# --- only what is missing ------------------------------------------------------------------------


class StopError(Exception):
    """Raised by a progress report: the process ends here."""


def stop_at(stage: str, count: int):
    def report(name: str, done: int, total: int) -> None:
        if name == stage and done == count:
            raise StopError

    return report


def counting(stages: dict[str, int]):
    def report(name: str, done: int, total: int) -> None:
        stages[name] = done

    return report


@pytest.mark.parametrize("stage", ["write", "level 1", "level 2"])
def test_a_stopped_write_goes_on_where_it_stopped(stage, acquisition, tmp_path) -> None:
    mosaic = acquisition.mosaic
    image = assemble(mosaic, stage_layout(mosaic))
    options = {"chunk": 32, "shard": 128}
    whole = write_ome_zarr(image, tmp_path / "a" / "x.ome.zarr", **options)
    path = tmp_path / "b" / "x.ome.zarr"
    with dask.config.set(scheduler="synchronous"), pytest.raises(StopError):
        write_ome_zarr(image, path, **options, progress=stop_at(stage, 3))
    stages: dict[str, int] = {}
    # Other blocks, another process's array: the shards depend on neither.
    again = assemble(replace(mosaic), stage_layout(mosaic), block=100)
    write_ome_zarr(again, path, **options, progress=counting(stages))
    expected = {"write": SHARDS, "level 1": LEVEL_1, "level 2": LEVEL_2}
    for name, n in expected.items():
        if name == stage:
            assert stages[name] == n - 3
            break
        assert name not in stages
    assert pixels(path) == pixels(whole)
    stages.clear()
    write_ome_zarr(again, path, **options, progress=counting(stages))
    assert stages == {}


def test_any_dask_array_can_go_on(tmp_path) -> None:
    import dask.array as da

    numbers = np.random.default_rng(0).integers(0, 999, (3, 200, 300)).astype(np.uint16)
    image = da.from_array(numbers, chunks=(2, 70, 90))
    path = tmp_path / "x.ome.zarr"
    with dask.config.set(scheduler="synchronous"), pytest.raises(StopError):
        write_ome_zarr(image, path, chunk=32, shard=64, progress=stop_at("write", 5))
    stages: dict[str, int] = {}
    write_ome_zarr(image, path, chunk=32, shard=64, progress=counting(stages))
    assert stages["write"] == 2 * 4 * 5 - 5  # two blocks of planes, 4 x 5 shards each
    np.testing.assert_array_equal(zarr.open_array(str(path / "0"), mode="r")[:], numbers)


def test_colour_planes_drawn_together_are_shards_of_their_own(tmp_path) -> None:
    rng = np.random.default_rng(0)
    tiles = [rng.integers(0, 255, (3, 90, 90)).astype(np.uint8) for _ in range(2)]
    mosaic = Mosaic.from_arrays(tiles, [(0, 0), (0, 80)])
    mosaic = replace(mosaic, source=replace(mosaic.source, interleaved=True))
    image = assemble(mosaic, stage_layout(mosaic))
    path = tmp_path / "x.ome.zarr"
    with dask.config.set(scheduler="synchronous"), pytest.raises(StopError):
        write_ome_zarr(image, path, chunk=32, shard=64, progress=stop_at("write", 2))
    assert entered(path) == 3 * 2
    write_ome_zarr(image, path, chunk=32, shard=64)
    np.testing.assert_array_equal(zarr.open_array(str(path / "0"), mode="r")[:], image.compute())


def test_registration_goes_on_batch_by_batch(tmp_path) -> None:
    from mosaicreg import synthetic

    acquisition = synthetic.Acquisition(grid=(9, 9), tile=(48, 48), overlap=0.3, stage_error=2)
    journal = Journal(Folder(tmp_path / "x"), "job")
    expected = register(acquisition.mosaic)
    with dask.config.set(scheduler="synchronous"), pytest.raises(StopError):
        register(acquisition.mosaic, progress=stop_at("register", 3), journal=journal)
    stages: dict[str, int] = {}
    again = Journal(Folder(tmp_path / "x"), "job")
    pairs = register(acquisition.mosaic, progress=counting(stages), journal=again)
    everything: dict[str, int] = {}
    register(acquisition.mosaic, progress=counting(everything))
    assert stages["register"] == everything["register"] - 3
    for a, b in zip(pairs.columns().values(), expected.columns().values(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(pairs.null_z, expected.null_z)


def test_a_finished_mosaic_is_recognised(tiles, undisturbed) -> None:
    before = pixels(undisturbed)
    again = stitch(tiles, undisturbed)
    assert again.exit_code == 0
    assert f"Nothing to do: {undisturbed} is finished" in again.stdout
    assert "12 measured" in again.stdout
    assert did(again) == {}
    assert pixels(undisturbed) == before


def test_another_job_is_refused_unless_told_otherwise(tiles, undisturbed, tmp_path) -> None:
    path = tmp_path / "out.ome.zarr"
    assert stitch(tiles, path).exit_code == 0
    refused = stitch(tiles, path, "--blend", "max")
    assert refused.exit_code == 2
    assert "exists; choose another name, or replace it with --overwrite" in refused.stderr
    assert pixels(path) == pixels(undisturbed)

    told = stitch(tiles, path, "--blend", "max", "--overwrite")
    assert told.exit_code == 0
    # Neither registered nor solved again; and where a single tile lies under a shard, it stays.
    assert "register" not in did(told)
    assert 0 < did(told)["write"] <= SHARDS
    fresh = tmp_path / "fresh.ome.zarr"
    assert stitch(tiles, fresh, "--blend", "max").exit_code == 0
    assert pixels(path) == pixels(fresh)


def test_other_shards_are_another_archive_of_the_same_layout(tiles, tmp_path) -> None:
    path, fresh = tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr"
    assert stitch(tiles, path).exit_code == 0
    told = stitch(tiles, path, "--shard", "128", "--no-pyramid", "--overwrite")
    assert "register" not in did(told)
    assert stitch(tiles, fresh, "--shard", "128", "--no-pyramid").exit_code == 0
    assert pixels(path) == pixels(fresh)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """7 x 7 small tiles: several batches of pairs."""
    folder = tmp_path_factory.mktemp("many") / "tiles"
    Acquisition(grid=(7, 7), tile=(48, 48), overlap=0.3, stage_error=2).write(folder)
    return folder


def run(command: str, tiles: Path, output: Path, *more: object) -> Result:
    """A command of ``mosaicreg`` in this process."""
    return CliRunner().invoke(main, [command, str(tiles), "-o", str(output), *map(str, more)])


def test_a_layout_goes_on_batch_by_batch(many, tmp_path, monkeypatch) -> None:
    undisturbed, path = tmp_path / "a" / "l.json", tmp_path / "b" / "l.json"
    for folder in (undisturbed.parent, path.parent):
        folder.mkdir()
    first = run("register", many, undisturbed)
    assert first.exit_code == 0, first.output
    batches = did(first)["register"]
    assert batches > 2
    kept = path.with_name("l.json.partial")
    with monkeypatch.context() as patch:
        patch.setattr("mosaicreg.layout.solve_layout", lambda *_: (_ for _ in ()).throw(StopError))
        assert isinstance(run("register", many, path).exception, StopError)
    assert len(list((kept / LOG).iterdir())) == batches
    for entry in sorted((kept / LOG).iterdir())[1:]:
        entry.unlink()
    assert not path.exists()
    again = run("register", many, path)
    assert again.exit_code == 0, again.output
    assert did(again)["register"] == batches - 1
    assert not kept.exists()
    assert json.loads(path.read_text())["tiles"] == json.loads(undisturbed.read_text())["tiles"]


def test_a_finished_layout_is_recognised(many, tmp_path) -> None:
    path, table = tmp_path / "l.json", tmp_path / "l.csv"
    first = run("register", many, path)
    again = run("register", many, path)
    assert again.exit_code == 0, again.output
    assert f"Nothing to do: {path} is finished" in again.stdout
    assert did(again) == {}
    assert again.stdout.splitlines()[1:] == first.stdout.splitlines()[2:]
    other = run("register", many, path, "--max-shift", "9")
    assert other.exit_code == 2
    assert "exists; choose another name, or replace it with --overwrite" in other.stderr
    assert run("register", many, path, "--overwrite").exit_code == 0
    # Killed after the layout was written, before its batches were put away.
    Journal(Folder(tmp_path / "l.json.partial")).remember("pairs", "k", [np.ones(1)])
    assert run("register", many, path).exit_code == 0
    assert not (tmp_path / "l.json.partial").exists()
    # What people may have edited is never taken for finished.
    assert run("register", many, table).exit_code == 0
    assert run("register", many, table).exit_code == 2


def test_what_lies_beside_a_layout_stays(many, tmp_path) -> None:
    own = tmp_path / "l.csv.partial" / "notes.txt"
    own.parent.mkdir()
    own.write_text("mine")
    assert run("register", many, tmp_path / "l.csv").exit_code == 0
    assert [p.name for p in own.parent.iterdir()] == ["notes.txt"]


def test_a_touched_tile_redoes_the_batches_of_its_pairs(many, tmp_path) -> None:
    """The pairs say the same again, so nothing moves, and only the tile's own shards are made."""
    path = tmp_path / "out.ome.zarr"
    folder = shutil.copytree(many, tmp_path / "tiles")
    options = ("--chunk", "16", "--shard", "32")
    assert run("stitch", folder, path, *options).exit_code == 0
    before = pixels(path)
    mosaic = open_mosaic(folder)
    pairs = mosaic.neighbours()
    tile = 24
    os.utime(folder / str(mosaic.names[tile]), (1, 1))
    again = run("stitch", folder, path, *options, "--overwrite")
    assert again.exit_code == 0, again.output
    batches = batches_of(mosaic, pairs)
    touched = sum((pairs[rows] == tile).any() for rows in batches)
    assert did(again)["register"] == touched < len(batches)
    table = read_table(path, "tiles")
    corner = np.floor([table["y"].min() + 0.5, table["x"].min() + 0.5])
    start = np.floor([table["y"][tile] + 0.5, table["x"][tile] + 0.5]) - corner
    rows, cols = (start + 47) // 32 - start // 32 + 1
    assert did(again)["write"] == rows * cols
    assert not any(stage.startswith("level") for stage in did(again))  # the bytes are as before
    assert pixels(path) == before


def test_a_tile_that_moves_redoes_its_part(many, tmp_path) -> None:
    path, fresh = tmp_path / "a" / "x.ome.zarr", tmp_path / "b" / "x.ome.zarr"
    folder = shutil.copytree(many, tmp_path / "tiles")
    options = ("--chunk", "16", "--shard", "32")
    first = run("stitch", folder, path, *options)
    name = folder / str(open_mosaic(folder).names[24])
    write_tiff(name, np.roll(read_image(name), 2, axis=0))
    again = run("stitch", folder, path, *options, "--overwrite")
    assert again.exit_code == 0, again.output
    assert did(again)["register"] < did(first)["register"]
    assert run("stitch", folder, fresh, *options).exit_code == 0
    assert pixels(path) == pixels(fresh)


def test_a_tile_that_changes_where_no_pair_looks_moves_nothing(acquisition, tmp_path) -> None:
    folder = tmp_path / "tiles"
    acquisition.write(folder)
    path, fresh = tmp_path / "a" / "x.ome.zarr", tmp_path / "b" / "x.ome.zarr"
    assert stitch(folder, path).exit_code == 0
    before = read_table(path, "tiles")
    name = acquisition.names[0]
    changed = read_image(folder / name).copy()
    changed[110:140, 110:140] += 100  # overlaps, with the window, reach 67 px into a tile
    write_tiff(folder / name, changed)
    again = stitch(folder, path, "--overwrite")
    assert again.exit_code == 0, again.output
    assert did(again)["register"] == 1  # so few tiles are one batch
    after = read_table(path, "tiles")
    assert all((before[k] == after[k]).all() for k in ("y", "x"))
    assert 2 * 2 <= did(again)["write"] <= 3 * 3  # 256 px are 2 or 3 shards of 128 px
    assert stitch(folder, fresh).exit_code == 0
    assert pixels(path) == pixels(fresh)


def test_a_changed_tile_redoes_the_shards_that_it_touches(tiles, acquisition, tmp_path) -> None:
    folder = tmp_path / "tiles"
    acquisition.write(folder)
    path, fresh = tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr"
    stage = ("--no-register",)
    assert stitch(folder, path, *stage).exit_code == 0
    name = acquisition.names[0]
    changed = read_image(folder / name).copy()
    changed[:8, :8] += 100
    write_tiff(folder / name, changed)
    assert stitch(folder, path, *stage).exit_code == 2
    again = stitch(folder, path, *stage, "--overwrite")
    assert again.exit_code == 0
    assert did(again)["write"] == 2 * 2  # 256 px are 2 shards of 128 px
    assert did(again)["level 1"] == 1  # only one of them looks different now
    assert stitch(folder, fresh, *stage).exit_code == 0
    assert pixels(path) == pixels(fresh)


def test_what_was_never_ours_is_replaced_only_when_told_to(tiles, tmp_path) -> None:
    path = tmp_path / "out.ome.zarr"
    zarr.create_array(str(path), shape=(8,), chunks=(8,), dtype="u1")[:] = 1
    before = (path / "c" / "0").read_bytes()
    assert "exists; choose another name" in stitch(tiles, path).stderr
    assert (path / "c" / "0").read_bytes() == before
    assert stitch(tiles, path, "--overwrite").exit_code == 0
    assert not (path / "c").exists()


# --- damage --------------------------------------------------------------------------------------


def damage(path: Path) -> int:
    """Cut one shard, flip a bit of another, delete a third, and leave half a file behind."""
    shards = sorted(p for p in (path / "0" / "c").rglob("*") if p.is_file())
    one, two, three = shards[3], shards[7], shards[11]
    one.write_bytes(one.read_bytes()[:-100])
    content = bytearray(two.read_bytes())
    content[len(content) // 2] ^= 4
    two.write_bytes(content)
    three.unlink()
    (one.parent / f".{one.name}.abc123").write_bytes(b"half")
    (one.parent / f"{one.name}.0123.partial").write_bytes(b"half")
    return 3


def test_damaged_shards_of_an_unfinished_mosaic_are_made_again(
    tiles, undisturbed, tmp_path, monkeypatch
) -> None:
    path = tmp_path / "out.ome.zarr"
    with monkeypatch.context() as patch:
        patch.setattr("mosaicreg.omezarr.finish", lambda *_: (_ for _ in ()).throw(StopError))
        assert isinstance(stitch(tiles, path).exception, StopError)
    count = damage(path)
    again = stitch(tiles, path)
    assert again.exit_code == 0
    assert did(again)["write"] == count
    assert not any(stage.startswith("level") for stage in did(again))  # their bytes are as before
    assert pixels(path) == pixels(undisturbed)


def test_a_finished_mosaic_is_mended_when_asked(tiles, undisturbed, tmp_path) -> None:
    path = tmp_path / "out.ome.zarr"
    assert stitch(tiles, path).exit_code == 0
    count = damage(path)
    assert "Nothing to do" in stitch(tiles, path).stdout
    mended = stitch(tiles, path, "--repair")
    assert mended.exit_code == 0
    assert did(mended)["write"] == count
    assert pixels(path) == pixels(undisturbed)


def test_version_04_is_resumed_mended_and_turned_into_05(tiles, undisturbed, tmp_path) -> None:
    """A task and its entry are as many chunks as a shard has; each is a file of its own."""
    path, options = tmp_path / "out.ome.zarr", ("--ome-version", "0.4")
    assert stitch(tiles, path, *options).exit_code == 0
    before = pixels(path)
    assert len(before) > 4 * SHARDS
    assert "Nothing to do" in stitch(tiles, path, *options).stdout
    assert entered(path) == SHARDS
    chunks = [path / "0" / name for name in ("0/0", "5/6", "5/7")]  # of two shards
    chunks[0].write_bytes(chunks[0].read_bytes()[:-1])
    chunks[1].unlink()
    chunks[2].write_bytes(b"other")
    (path / "0" / "0" / ".7.abc123").write_bytes(b"half")
    mended = stitch(tiles, path, *options, "--repair")
    assert mended.exit_code == 0, mended.output
    assert did(mended)["write"] == 2
    assert pixels(path) == before
    assert not (path / "0" / "0" / ".7.abc123").exists()
    newer = stitch(tiles, path, "--overwrite")
    assert newer.exit_code == 0
    assert "register" not in did(newer)
    assert pixels(path) == pixels(undisturbed)


def test_readers_of_zarr_see_a_clean_archive(undisturbed) -> None:
    root = zarr.open_group(str(undisturbed), mode="r")
    # Warnings are errors here: zarr warns of whatever it does not know.
    names = {name for name, _ in root.members(max_depth=None)}
    assert {"0", "mosaicreg", "mosaicreg/journal", "mosaicreg/tiles/y"} <= names
    assert len(list((undisturbed / "mosaicreg" / "journal" / "log").iterdir())) == 1


# --- faults, with real processes -----------------------------------------------------------------


@contextmanager
def process(*command: object, **options):
    """A process, killed at the end if need be."""
    child = subprocess.Popen([sys.executable, *map(str, command)], **options)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def running(tiles: Path, output: Path, *more: object):
    return process(
        "-m", "mosaicreg", "stitch", tiles, "-o", output, *OPTIONS, *more,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition, child, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def log_entries(path: Path) -> int:
    """How far a run has come: objects in the log."""
    try:
        return len(list((path / LOG).iterdir()))
    except FileNotFoundError:
        return 0


def goes_on(path: Path, before: tuple[int, int], after: dict[str, int]) -> None:
    """A run left out exactly what the journal held when it started."""
    shards, coarser = before
    assert after.get("write", 0) == SHARDS - shards
    assert after.get("level 1", 0) == LEVEL_1 - coarser
    assert pixels(path)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_killed_clients(version, tiles, undisturbed, tmp_path) -> None:
    path, options = tmp_path / "out.ome.zarr", ("--ome-version", version)
    if version == "0.4":
        undisturbed = tmp_path / "undisturbed.ome.zarr"
        assert stitch(tiles, undisturbed, *options).exit_code == 0
    rng = random.Random(1)
    for _ in range(KILLS):
        start = log_entries(path)
        with running(tiles, path, *options) as child:
            moment = start + rng.randrange(1, (SHARDS + LEVEL_1) // KILLS)
            wait_for(lambda m=moment: log_entries(path) >= m, child)
    held = entered(path), entered(path, 1)
    last = stitch(tiles, path, *options)
    assert last.exit_code == 0
    goes_on(path, held, did(last))
    assert pixels(path) == pixels(undisturbed)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_says_how_to_go_on(sent, code, tiles, undisturbed, tmp_path) -> None:
    path = tmp_path / "out.ome.zarr"
    with running(tiles, path) as child:
        wait_for(lambda: log_entries(path) > 9, child)
        child.send_signal(sent)
        _, said = child.communicate(timeout=60)
    assert child.returncode == code
    assert "stopped. What is finished is kept; run the same command again to go on." in said
    assert "Traceback" not in said
    held = entered(path), entered(path, 1)
    assert 0 < held[0] < SHARDS
    last = stitch(tiles, path)
    goes_on(path, held, did(last))
    assert pixels(path) == pixels(undisturbed)


@contextmanager
def scheduler(folder: Path):
    """A dask scheduler as a process of its own, and its address."""
    file = folder / f"scheduler{time.monotonic_ns()}.json"
    with process(
        "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0,
        "--no-dashboard", "--scheduler-file", file, cwd=folder, stderr=subprocess.DEVNULL,
    ) as child:  # fmt: skip
        wait_for(lambda: file.exists() and file.read_text().endswith("}"), child)
        yield child, json.loads(file.read_text())["address"]


def worker(address: str):
    return process(
        "-m", "distributed.cli.dask_worker", address, "--nthreads", 1, "--no-nanny",
        "--no-dashboard", stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_killed_workers(tiles, undisturbed, tmp_path) -> None:
    """The run does not even fail: another worker takes over."""
    path = tmp_path / "out.ome.zarr"
    rng = random.Random(2)
    with (
        scheduler(tmp_path) as (_, address),
        running(tiles, path, "--scheduler", address) as child,
    ):
        for _ in range(KILLS):
            with worker(address) as first:
                moment = log_entries(path) + rng.randrange(2, SHARDS // KILLS)
                wait_for(lambda m=moment: log_entries(path) >= m, child)
                first.kill()
        with worker(address):
            _, said = child.communicate(timeout=120)
    assert child.returncode == 0, said
    assert pixels(path) == pixels(undisturbed)


def test_killed_schedulers(tiles, undisturbed, tmp_path) -> None:
    path = tmp_path / "out.ome.zarr"
    rng = random.Random(3)
    for _ in range(KILLS):
        with (
            scheduler(tmp_path) as (leader, address),
            worker(address),
            running(tiles, path, "--scheduler", address) as child,
        ):
            moment = log_entries(path) + rng.randrange(1, (SHARDS + LEVEL_1) // KILLS)
            wait_for(lambda m=moment: log_entries(path) >= m, child)
            leader.kill()
            _, said = child.communicate(timeout=120)
        assert child.returncode == 4, said
        assert "the dask scheduler was lost" in said
        assert "run the same command again to go on" in said
        assert "Traceback" not in said
    held = entered(path), entered(path, 1)
    last = stitch(tiles, path)
    goes_on(path, held, did(last))
    assert pixels(path) == pixels(undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    gc.collect()  # what a traceback still holds may have a file open
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(tiles, undisturbed, small_disk) -> None:
    path = small_disk / "out.ome.zarr"
    full = stitch(tiles, path)
    assert full.exit_code == 4
    assert full.stderr.count("No space left on device") == 1
    assert str(small_disk) in full.stderr
    assert "run the same command again to go on" in full.stderr
    held = entered(path), entered(path, 1)
    assert 0 < held[0] < SHARDS
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    last = stitch(tiles, path)
    assert last.exit_code == 0, last.output
    goes_on(path, held, did(last))
    assert pixels(path) == pixels(undisturbed)


def test_killed_while_registering_to_a_layout(many, tmp_path) -> None:
    expected, path = tmp_path / "a.json", tmp_path / "b.json"
    assert run("register", many, expected).exit_code == 0
    kept = tmp_path / "b.json.partial"
    rng = random.Random(4)
    for _ in range(KILLS):
        start = log_entries(kept)
        command = ("-m", "mosaicreg", "register", many, "-o", path, "--workers", 1)
        with process(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            moment = start + rng.randrange(1, 3)
            wait_for(lambda m=moment: log_entries(kept) >= m or path.exists(), child)
        if path.exists():
            break
    last = run("register", many, path)
    assert last.exit_code == 0, last.output
    assert not kept.exists()
    assert json.loads(path.read_text())["tiles"] == json.loads(expected.read_text())["tiles"]


def test_a_store_that_cannot_be_written_says_so(tmp_path) -> None:
    (tmp_path / "a").write_text("a file, not a folder")
    with pytest.raises(StorageError, match="a/b cannot be written: File exists"):
        Folder(tmp_path / "a").write("b", b"content")
    with pytest.raises(InputError, match="not a zarr archive"):
        write_ome_zarr(dask.array.zeros((8, 8)), tmp_path / "a", overwrite=True)
