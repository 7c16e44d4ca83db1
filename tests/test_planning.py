"""What a job will take, told before: counts that are right, memory that holds."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from mosaicreg import InputError, Mosaic, assemble, register, stage_layout, write_ome_zarr
from mosaicreg.assembly import recipe_of
from mosaicreg.cli import main
from mosaicreg.cluster import peak_memory
from mosaicreg.mosaic import as_names
from mosaicreg.omezarr import Pyramid
from mosaicreg.planning import PROGRAM, JobPlan, check_fits, plan_job
from mosaicreg.source import FileSource


def mosaic_of(folder, side: int, tile: int = 128) -> Mosaic:
    """side x side tiles that are all the same file."""
    folder.mkdir(exist_ok=True)
    names = [f"{k}.npy" for k in range(side * side)]
    for name in names:
        if name == names[0] and not (folder / name).exists():
            noise = np.random.default_rng(0).integers(90, 999, (tile, tile)).astype(np.uint16)
            np.save(folder / name, noise)
        elif not (folder / name).exists():
            os.link(folder / names[0], folder / name)
    places = np.stack(np.divmod(np.arange(side * side), side), axis=1) * (0.9 * tile)
    source = FileSource(folder, as_names(names), np.dtype(np.uint16), ())
    return Mosaic(as_names(names), places, np.full((len(names), 2), tile), source)


def plan_of(
    mosaic: Mosaic, shard: int = 4096, chunk: int = 512, version: str = "0.5", **options
) -> JobPlan:
    image = assemble(mosaic, stage_layout(mosaic))
    pyramid = Pyramid.plan(
        image.shape, image.dtype, "yx", shard=(shard, shard), chunk=(chunk, chunk), version=version
    )
    return plan_job(mosaic, recipe_of(image), pyramid, mosaic.neighbours(), **options)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_counts_are_those_of_the_run(version, tmp_path) -> None:
    mosaic = mosaic_of(tmp_path / "tiles", 6)
    plan = plan_of(mosaic, 256, 64, version=version)
    said: dict[str, int] = {}

    def report(stage: str, done: int, total: int) -> None:
        said[stage] = total

    pairs = register(mosaic, progress=report)
    image = assemble(mosaic, stage_layout(mosaic))
    path = tmp_path / "out.ome.zarr"
    write_ome_zarr(image, path, shard=256, chunk=64, progress=report, ome_version=version)
    assert dict(plan.tasks) == said
    assert (plan.tiles, plan.pairs) == (36, len(pairs))
    every = [p for p in path.glob("[0-9]*/**/*") if p.is_file()]
    pixels = [p for p in every if p.name.isdigit()]
    assert plan.pixel_files == len(pixels)
    assert (plan.shards == len(pixels)) == (version == "0.5")
    assert len([p for p in path.rglob("*") if p.is_file()]) <= plan.files
    assert plan.pyramid.shape == image.shape


def test_no_task_grows_with_the_number_of_tiles(tmp_path) -> None:
    plans = [plan_of(mosaic_of(tmp_path / "tiles", n), 512, 64) for n in (50, 70, 100)]
    memory = [p.worker_memory for p in plans]
    assert max(memory) <= 1.1 * min(memory)
    assert max(p.task_bytes for p in plans) <= 1.5 * min(p.task_bytes for p in plans)


def test_batches_are_large_enough_for_a_hundred_thousand_tiles() -> None:
    n = 100_000
    names = as_names([str(k) for k in range(n)])
    source = FileSource(os.curdir, names, np.dtype(np.uint16), ())
    places = np.stack(np.divmod(np.arange(n), 400), axis=1) * 900.0
    mosaic = Mosaic(names, places, np.full((n, 2), 1000), source)
    plan = plan_of(mosaic)
    assert 200 < plan.tasks["register"] <= 5000
    assert plan.tasks["write"] < n / 10


def test_a_worker_that_is_too_small_is_refused_with_the_terms(tmp_path) -> None:
    mosaic = mosaic_of(tmp_path / "tiles", 30)
    with pytest.raises(InputError) as caught:
        check_fits(plan_of(mosaic, 2048, limit=PROGRAM + 20_000_000))
    message = str(caught.value)
    assert "may use 140 MB: use --shard " in message
    assert "program itself: 120 MB" in message
    told = int(message.split("--shard ")[1].split(",")[0])
    assert told % 512 == 0
    check_fits(plan_of(mosaic, told, limit=PROGRAM + 20_000_000))
    check_fits(plan_of(mosaic, 2048))  # of unknown workers nothing is asked
    with pytest.raises(InputError, match="give workers more memory, or fewer threads"):
        check_fits(plan_of(mosaic, 2048, limit=1000))


def test_the_command_says_it_and_stitch_checks_it(tmp_path) -> None:
    mosaic_of(tmp_path / "tiles", 4)
    grid = "\n".join(f"{k}.npy,{k // 4 * 115},{k % 4 * 115}" for k in range(16))
    (tmp_path / "tiles" / "positions.csv").write_text(f"tile,y,x\n{grid}\n")
    run = CliRunner().invoke
    said = run(main, ["plan", str(tmp_path / "tiles"), "--memory-limit", "2GB"])
    assert said.exit_code == 0, said.output
    for part in ("16, 24 pairs", "1 register, 1 write", "Limit    2.0 GB: fits"):
        assert part in said.stdout
    facts = json.loads(run(main, ["plan", str(tmp_path / "tiles"), "--json"]).stdout)
    assert facts["fits"]
    assert facts["worker_memory"] == PROGRAM + facts["threads_per_worker"] * max(
        sum(terms.values()) for terms in facts["memory_per_task"].values()
    )
    small = run(main, ["plan", str(tmp_path / "tiles"), "--memory-limit", "100MB"])
    assert small.exit_code == 2
    assert "may use 100 MB" in small.stderr
    assert not list(tmp_path.glob("*.zarr"))
    output = tmp_path / "out.ome.zarr"
    done = run(main, ["stitch", str(tmp_path / "tiles"), "-o", str(output), "--no-register"])
    assert done.exit_code == 0, done.output
    assert "Memory of a worker: " in done.stderr
    info = json.loads(run(main, ["info", str(output), "--json"]).stdout)
    assert set(info["provenance"]["worker_memory"]) == {"predicted", "measured"}


def test_measured_memory_is_what_was_predicted_and_does_not_grow(tmp_path) -> None:
    """Real worker processes; shards of 1024 px, tiles of 128 px."""
    from distributed import Client, LocalCluster

    peaks = []
    for side in (6, 12):
        mosaic = mosaic_of(tmp_path / "tiles", side)
        plan = plan_of(mosaic, 1024, 256)
        with (
            LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster),
        ):
            register(mosaic)
            image = assemble(mosaic, stage_layout(mosaic))
            write_ome_zarr(image, tmp_path / f"{side}.ome.zarr", shard=1024, chunk=256)
            peaks.append(peak_memory())
        assert 0.6 * plan.worker_memory < peaks[-1] < 1.25 * plan.worker_memory
    assert max(peaks) < 1.1 * min(peaks)
